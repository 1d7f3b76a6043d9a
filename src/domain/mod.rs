//! What the business means: identities, times, places, money and the functions of a car.
//!
//! Everything decided about a vehicle, a key, a rental or a purchase is decided in this module by plain
//! functions of (state, now, request). It reads no clock, does no I/O and never awaits; time is an argument.

pub mod card;
pub mod command;
pub mod gauge;
pub mod key;
pub mod rental;
pub mod twin;
pub mod vehicle;

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A value that does not have the form its type demands; the text is fit for a caller to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// The fleet's name of a car (a VIN or its own): `[A-Za-z0-9-]{1,64}`.
///
/// It is at once the certificate's common name, the MQTT client id and the second level of the car's topics.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VehicleId(Arc<str>);

impl VehicleId {
    pub const MAX_LEN: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VehicleId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let is_fit =
            (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if is_fit { Ok(Self(text.into())) } else { Err(Malformed("a vehicle id is 1 to 64 of A-Z a-z 0-9 -")) }
    }
}

impl TryFrom<String> for VehicleId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<VehicleId> for String {
    fn from(id: VehicleId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl Borrow<str> for VehicleId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VehicleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VehicleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                Uuid::try_parse(text).map(Self).map_err(|_| Malformed("an id is a UUID"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

uuid_ids! {
    /// One order to one car; the car remembers it and executes it once.
    CommandId,
    /// A virtual key; 16 bytes on the wire (`cti`).
    KeyId,
    /// Who has which car from when to when.
    RentalId,
    /// A renter's wish to use a car.
    RequestId,
    /// The recorded answer to one card authorisation.
    DecisionId,
    /// Something people are told about.
    AlertId,
    /// An API key (its name, never its secret).
    ApiKeyId,
    /// Somebody who logs in with a password.
    UserId,
}

/// Milliseconds since 1970-01-01T00:00:00Z; RFC 3339 UTC with milliseconds on every wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// 0000-01-01 to 9999-12-31: what RFC 3339 can write.
    const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

    pub fn from_millis(ms: i64) -> Result<Self, Malformed> {
        if Self::RANGE.contains(&ms) { Ok(Self(ms)) } else { Err(Malformed("a time lies in the years 0000 to 9999")) }
    }

    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms).clamp(*Self::RANGE.start(), *Self::RANGE.end()))
    }

    /// Milliseconds from `earlier` to self; negative when `earlier` is later.
    pub fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl FromStr for Timestamp {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let time: jiff::Timestamp =
            text.parse().map_err(|_| Malformed("a time is RFC 3339, like 2026-11-21T22:36:46.000Z"))?;
        Self::from_millis(time.as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => f.write_str("out of range"),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A place on the WGS 84 ellipsoid, in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    pub latitude: f64,
    pub longitude: f64,
}

impl Position {
    pub fn is_valid(self) -> bool {
        (-90.0..=90.0).contains(&self.latitude) && (-180.0..=180.0).contains(&self.longitude)
    }

    /// Great-circle distance in metres (haversine on the mean radius; within 0.6 % of the ellipsoid).
    pub fn distance_m(self, other: Self) -> f64 {
        const MEAN_RADIUS_M: f64 = 6_371_008.8;
        let (lat1, lat2) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_lat = (lat2 - lat1) / 2.0;
        let half_lon = (other.longitude - self.longitude).to_radians() / 2.0;
        let a = half_lat.sin().powi(2) + lat1.cos() * lat2.cos() * half_lon.sin().powi(2);
        2.0 * MEAN_RADIUS_M * a.sqrt().min(1.0).asin()
    }
}

/// An amount in the currency's minor unit (cents) with its ISO 4217 code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    pub amount_minor: i64,
    pub currency: String,
}

impl Money {
    /// ISO 4217's code for no currency: whoever posted the amount named none, and it is that of the authorisation.
    pub const NO_CURRENCY: &str = "XXX";

    /// How many decimals ISO 4217 gives the currency.
    pub fn decimals(&self) -> u32 {
        match self.currency.to_ascii_uppercase().as_str() {
            "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI" | "VND"
            | "VUV" | "XAF" | "XOF" | "XPF" => 0,
            "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
            "CLF" | "UYW" => 4,
            _ => 2,
        }
    }

    /// From major units as they are written, like `77.4` of EUR. `None` when it is no such number, does not fit, or has
    /// a part smaller than the minor unit.
    pub fn from_major(text: &str, currency: &str) -> Option<Self> {
        let mut money = Self { amount_minor: 0, currency: currency.to_ascii_uppercase() };
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let part = part.trim_end_matches('0');
        let decimals = money.decimals() as usize;
        let is_number = !whole.is_empty() && whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit());
        if !is_number || part.len() > decimals || whole.len() > 18 {
            return None;
        }
        money.amount_minor = format!("{whole}{part:0<decimals$}").parse::<i64>().ok()?.checked_mul(sign)?;
        Some(money)
    }

    /// In major units with the currency's decimals, like `77.40`.
    pub fn to_major(&self) -> String {
        let width = self.decimals();
        let unit = 10_u64.pow(width);
        let sign = if self.amount_minor < 0 { "-" } else { "" };
        let (whole, rest) = (self.amount_minor.unsigned_abs() / unit, self.amount_minor.unsigned_abs() % unit);
        match width as usize {
            0 => format!("{sign}{whole}"),
            width => format!("{sign}{whole}.{rest:0width$}"),
        }
    }
}

/// What a car can be asked to do. The number is the bit in a key's permission bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Function {
    UnlockDoors = 0,
    LockDoors = 1,
    EnterCabin = 2,
    OpenTrunk = 3,
    Drive = 4,
    AccessoryPower = 5,
    Climate = 6,
    Infotainment = 7,
    Windows = 8,
    OpenGlovebox = 9,
    OpenFuelFlap = 10,
    OpenChargePort = 11,
    Locate = 12,
}

impl Function {
    pub const ALL: [Self; 13] = [
        Self::UnlockDoors,
        Self::LockDoors,
        Self::EnterCabin,
        Self::OpenTrunk,
        Self::Drive,
        Self::AccessoryPower,
        Self::Climate,
        Self::Infotainment,
        Self::Windows,
        Self::OpenGlovebox,
        Self::OpenFuelFlap,
        Self::OpenChargePort,
        Self::Locate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::UnlockDoors => "unlock_doors",
            Self::LockDoors => "lock_doors",
            Self::EnterCabin => "enter_cabin",
            Self::OpenTrunk => "open_trunk",
            Self::Drive => "drive",
            Self::AccessoryPower => "accessory_power",
            Self::Climate => "climate",
            Self::Infotainment => "infotainment",
            Self::Windows => "windows",
            Self::OpenGlovebox => "open_glovebox",
            Self::OpenFuelFlap => "open_fuel_flap",
            Self::OpenChargePort => "open_charge_port",
            Self::Locate => "locate",
        }
    }
}

impl FromStr for Function {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|function| function.name() == text).ok_or(Malformed("not one of the 13 functions"))
    }
}

/// A set of functions: an allow-list. On wires a list of names; in a token a bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Function>", into = "Vec<Function>")]
pub struct Functions(u32);

impl Functions {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self((1 << Function::ALL.len()) - 1);

    /// Refuses a bitmap with a bit no function has: a permission that is not understood is no permission.
    pub fn from_bits(bits: u64) -> Result<Self, Malformed> {
        u32::try_from(bits)
            .ok()
            .filter(|bits| bits & !Self::ALL.0 == 0)
            .map(Self)
            .ok_or(Malformed("unknown permission bit"))
    }

    pub fn bits(self) -> u32 {
        self.0
    }

    pub fn contains(self, function: Function) -> bool {
        self.0 & (1 << function as u8) != 0
    }

    pub fn with(self, function: Function) -> Self {
        Self(self.0 | (1 << function as u8))
    }

    pub fn without(self, function: Function) -> Self {
        Self(self.0 & !(1 << function as u8))
    }

    pub fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Every function not in this set.
    pub fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub fn complement(self) -> Self {
        Self(Self::ALL.0 & !self.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Function> {
        Function::ALL.into_iter().filter(move |function| self.contains(*function))
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<Vec<Function>> for Functions {
    fn from(list: Vec<Function>) -> Self {
        list.into_iter().fold(Self::NONE, Self::with)
    }
}

impl From<Functions> for Vec<Function> {
    fn from(set: Functions) -> Self {
        set.iter().collect()
    }
}

/// Who asked for something; kept with every promise and shown in the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub role: Role,
    /// The API key's subject or name, the vehicle id, or the payment source.
    pub subject: String,
    /// Where the request came from. It stands in the journal's record of the step and nowhere else, so that nobody but
    /// readers of the audit trail learns it.
    #[serde(skip)]
    pub from: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Admin,
    Operator,
    Renter,
    Auditor,
    /// The car itself, by its certificate.
    Vehicle,
    /// A payment network, by its signature.
    Payment,
    /// The gateway: expiry, sweeps, settlements.
    Gateway,
}

impl Principal {
    pub fn new(role: Role, subject: impl Into<String>) -> Self {
        Self { role, subject: subject.into(), from: None }
    }

    pub fn gateway() -> Self {
        Self::new(Role::Gateway, "gateway")
    }

    /// The same one, wherever they are.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.role, &self.subject) == (other.role, &other.subject)
    }
}

/// The business says no. Surely nothing happened; the slug is stable, the detail is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub detail: String,
}

impl Refusal {
    pub fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.slug(), self.detail)
    }
}

impl std::error::Error for Refusal {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    NotFound,
    Forbidden,
    Invalid,
    /// The thing is not in a state that allows this.
    Conflict,
    CapabilityMissing,
    /// Too much is pending for this vehicle.
    VehicleBusy,
    /// The vehicle is not free for that time, or not lent at all.
    NotAvailable,
    ProfileNotAllowed,
    Expired,
}

impl RefusalKind {
    pub fn slug(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::CapabilityMissing => "capability-missing",
            Self::VehicleBusy => "vehicle-busy",
            Self::NotAvailable => "not-available",
            Self::ProfileNotAllowed => "profile-not-allowed",
            Self::Expired => "expired",
        }
    }
}
