//! What a virtual key permits and prohibits, for whom, from when to when.
//!
//! A key is an allow-list: every function it does not list is prohibited. Revocation raises the car's key generation
//! and lists the key until it would have expired anyway.

use serde::{Deserialize, Serialize};

use super::{Function, Functions, KeyId, Malformed, RentalId, Timestamp};

/// The public key of whoever may use a virtual key: the token and the grant are worth nothing without its secret half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "curve")]
pub enum HolderKey {
    P256 {
        #[serde(with = "bytes32")]
        x: [u8; 32],
        #[serde(with = "bytes32")]
        y: [u8; 32],
    },
    Ed25519 {
        #[serde(with = "bytes32")]
        x: [u8; 32],
    },
}

/// 32 bytes as lower-case hex in the journal.
mod bytes32 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(D::Error::custom("64 hex digits expected"));
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(D::Error::custom)?;
        }
        Ok(bytes)
    }
}

/// A circle a key is good in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geofence {
    pub latitude: f64,
    pub longitude: f64,
    pub radius_m: f64,
}

/// What the car is told: the grant half of a key (the token half goes to the holder).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyGrant {
    pub key_id: KeyId,
    pub holder_key: HolderKey,
    pub permits: Functions,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub generation: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geofence: Option<Geofence>,
    pub max_delegation: u8,
    /// The car keeps to it while it is driven with this key; `None` = no limit of the key's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_speed_kmh: Option<u16>,
}

impl KeyGrant {
    /// Is `function` covered at `now`? Both ends of the validity count as inside.
    pub fn permits_at(&self, now: Timestamp, function: Function) -> Result<(), KeyRefusal> {
        if now < self.not_before {
            return Err(KeyRefusal::NotYetValid);
        }
        if now > self.not_after {
            return Err(KeyRefusal::Expired);
        }
        if !self.permits.contains(function) {
            return Err(KeyRefusal::Prohibited);
        }
        Ok(())
    }

    pub fn prohibits(&self) -> Functions {
        self.permits.complement()
    }
}

/// Why a key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRefusal {
    NotYetValid,
    Expired,
    Prohibited,
    Revoked,
    WrongGeneration,
}

impl KeyRefusal {
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::Prohibited => "not_permitted",
            Self::Revoked => "revoked",
            Self::WrongGeneration => "wrong_generation",
        }
    }
}

/// When a revocation bites for what would stop a car; entry ends at once in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationEffect {
    Immediate,
    AtSafeState,
}

/// A key as the vehicle's record keeps it until it would have expired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub grant: KeyGrant,
    pub rental_id: RentalId,
    pub holder: String,
    pub profile: String,
    pub issued_at: Timestamp,
    /// The car acknowledged the grant.
    pub delivered_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// Until when the car opens for it unless it is told again; `None` = to the key's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased_until: Option<Timestamp>,
    /// What its holder made of it for others and told the gateway of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegations: Vec<Delegation>,
}

/// A key that was handed on. It permits nothing that the key it was made of does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delegation {
    pub key_id: KeyId,
    /// The name its maker gave whoever holds it.
    pub holder: String,
    pub permits: Functions,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub told_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    Pending,
    Delivered,
    Revoked,
    Expired,
}

impl Key {
    /// Of one key, at the gateway. The car holds none of them: they are shown to it with the key.
    pub const MAX_DELEGATIONS: usize = 16;

    /// What the car is told: the grant, for as long as it may be without hearing of it again.
    pub fn leased(&self) -> KeyGrant {
        let not_after = self.leased_until.map_or(self.grant.not_after, |until| until.min(self.grant.not_after));
        KeyGrant { not_after, ..self.grant.clone() }
    }

    pub fn delegation(&self, id: KeyId) -> Option<&Delegation> {
        self.delegations.iter().find(|delegation| delegation.key_id == id)
    }

    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if now > self.grant.not_after {
            KeyState::Expired
        } else if self.delivered_at.is_some() {
            KeyState::Delivered
        } else {
            KeyState::Pending
        }
    }

    /// A delegated key ends with the one it was made of.
    pub fn delegation_state(&self, delegation: &Delegation, now: Timestamp) -> KeyState {
        match self.state(now) {
            KeyState::Revoked | KeyState::Expired => self.state(now),
            _ if delegation.revoked_at.is_some() => KeyState::Revoked,
            _ if now > delegation.not_after => KeyState::Expired,
            known @ (KeyState::Pending | KeyState::Delivered) => known,
        }
    }

    pub fn permits_at(&self, now: Timestamp, function: Function) -> Result<(), KeyRefusal> {
        if self.revoked_at.is_some() {
            return Err(KeyRefusal::Revoked);
        }
        self.grant.permits_at(now, function)
    }
}

/// A named set of permissions an operator lends under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    pub permits: Functions,
    pub max_delegation: u8,
    pub max_speed_kmh: Option<u16>,
}

impl Profile {
    pub const MAX_SPEED_KMH: std::ops::RangeInclusive<u16> = 5..=300;

    /// A renter's profile that prohibits nothing is a mistake: the key would be the owner's.
    pub fn new(
        name: impl Into<String>,
        permits: Functions,
        max_delegation: u8,
        max_speed_kmh: Option<u16>,
    ) -> Result<Self, Malformed> {
        if permits.is_empty() {
            return Err(Malformed("a profile permits at least one function"));
        }
        if permits == Functions::ALL {
            return Err(Malformed("a profile prohibits at least one function"));
        }
        if max_delegation > 1 {
            return Err(Malformed("a key is delegated at most once"));
        }
        if max_speed_kmh.is_some_and(|kmh| !Self::MAX_SPEED_KMH.contains(&kmh) || !permits.contains(Function::Drive)) {
            return Err(Malformed("a speed limit is 5 to 300 km/h, on a profile that permits driving"));
        }
        Ok(Self { name: name.into(), permits, max_delegation, max_speed_kmh })
    }

    /// `cabin`: open, enter and wait in comfort, no driving. `delivery`: the boot only, for a parcel. `drive`: the whole
    /// car but what is the owner's. `valet`: to park it slowly, with nothing opened but the doors. `service`: to clean and charge
    /// it where it stands.
    pub fn built_in() -> Vec<Self> {
        use Function as F;
        let permits = |list: &[Function]| list.iter().copied().fold(Functions::NONE, Functions::with);
        let profile = |name: &str, permits: Functions, max_delegation: u8| Self {
            name: name.into(),
            permits,
            max_delegation,
            max_speed_kmh: None,
        };
        let cabin = [F::UnlockDoors, F::LockDoors, F::EnterCabin, F::AccessoryPower, F::Climate, F::Locate];
        let delivery = [F::OpenTrunk, F::LockDoors, F::Locate];
        let valet = [F::UnlockDoors, F::LockDoors, F::EnterCabin, F::Drive, F::Climate, F::Locate];
        let service = [
            F::UnlockDoors,
            F::LockDoors,
            F::EnterCabin,
            F::OpenTrunk,
            F::AccessoryPower,
            F::Windows,
            F::OpenChargePort,
            F::Locate,
        ];
        vec![
            profile("cabin", permits(&cabin), 0),
            profile("delivery", permits(&delivery), 0),
            profile("drive", permits(&[F::OpenGlovebox]).complement(), 1),
            Self { max_speed_kmh: Some(30), ..profile("valet", permits(&valet), 0) },
            profile("service", permits(&service), 0),
        ]
    }
}
