//! What a car asks of a phone before it believes that a key is the phone's: the token, and a signature over a nonce that
//! the car has just made. A state machine without network, clock or randomness, as a unit maker would port it.
//!
//! The token says which key it is and is checked in full; whether that key still opens anything is the keyring's
//! business, so that a token of a revoked key, or of a key the car was never told of, opens nothing.

use cardea::domain::key::{Geofence, HolderKey};
use cardea::domain::{Function, Functions, KeyId, Timestamp, VehicleId};
use cardea::token::{self, Keyset, TokenError, VerifiedToken};

/// How long a nonce may be answered.
pub const NONCE_LIFE_MS: i64 = 10_000;

/// Why a phone is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofDenial {
    Token(TokenError),
    /// The car was not given the fleet's public keys.
    NoKeyset,
    /// A use without a hello before it, or a second one on the same nonce.
    NoNonce,
    NonceTooOld,
    /// Not signed by the key that the token names.
    NotTheHolder,
    /// Not a message of this protocol.
    Malformed,
}

impl ProofDenial {
    /// The word the car answers with.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Token(error) => error.reason(),
            Self::NoKeyset => "no_keyset",
            Self::NoNonce => "no_nonce",
            Self::NonceTooOld => "nonce_too_old",
            Self::NotTheHolder => "bad_proof",
            Self::Malformed => "malformed",
        }
    }
}

/// A key that was proven to be the phone's.
#[derive(Debug, Clone, PartialEq)]
pub struct Proven {
    pub key_id: KeyId,
    /// The keyring compares it with the grant's.
    pub holder_key: HolderKey,
    /// Generation the token was minted at.
    pub generation: u32,
    /// What its holder made of it for the phone that is here, narrowed to what the key itself permits.
    pub delegated: Option<DelegatedKey>,
}

/// A key that was handed on. The gateway may not know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DelegatedKey {
    pub key_id: KeyId,
    pub permits: Functions,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub geofence: Option<Geofence>,
    pub max_speed_kmh: Option<u16>,
}

/// A token that was presented and refused, as far as it says which key it is.
pub fn claimed(token: &[u8]) -> Option<KeyId> {
    token::claimed_key_id(token)
}

/// One phone's conversation with a car.
#[derive(Debug)]
pub struct Dialogue {
    vehicle_id: VehicleId,
    keyset: Option<Keyset>,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    nonce: [u8; 32],
    at: Timestamp,
    token_hash: [u8; 32],
    /// Of the phone that is here: the last token's holder.
    phone_key: HolderKey,
    proven: Proven,
}

impl Dialogue {
    pub fn new(vehicle_id: VehicleId, keyset: Option<Keyset>) -> Self {
        Self { vehicle_id, keyset, asked: None }
    }

    /// A token is presented, or one with what was delegated from it; `nonce` is fresh and goes to the phone when they
    /// are good. Replaces an earlier hello.
    pub fn hello(
        &mut self,
        now: Timestamp,
        token: &[u8],
        delegated: Option<&[u8]>,
        nonce: [u8; 32],
    ) -> Result<[u8; 32], ProofDenial> {
        self.asked = None;
        let keyset = self.keyset.as_ref().ok_or(ProofDenial::NoKeyset)?;
        let own = token::verify(token, keyset, &self.vehicle_id, now).map_err(ProofDenial::Token)?;
        let handed_on = delegated.map(|delegated| token::verify_delegated(delegated, &own, now)).transpose();
        let handed_on = handed_on.map_err(ProofDenial::Token)?;
        let last = handed_on.as_ref().unwrap_or(&own);
        let (token_hash, phone_key) = (last.hash, last.grant.holder_key.clone());
        let delegated = handed_on.map(|VerifiedToken { grant, .. }| DelegatedKey {
            key_id: grant.key_id,
            permits: grant.permits,
            not_before: grant.not_before,
            not_after: grant.not_after,
            geofence: grant.geofence,
            max_speed_kmh: grant.max_speed_kmh,
        });
        let proven = Proven {
            key_id: own.grant.key_id,
            holder_key: own.grant.holder_key,
            generation: own.grant.generation,
            delegated,
        };
        self.asked = Some(Asked { nonce, at: now, token_hash, phone_key, proven });
        Ok(nonce)
    }

    /// Which key the phone has shown, until it has used it.
    pub fn shown(&self) -> Option<KeyId> {
        self.asked.as_ref().map(|asked| asked.proven.key_id)
    }

    /// The phone asks for a function and signs. A nonce serves once, whatever comes of it.
    pub fn prove(&mut self, now: Timestamp, function: Function, signature: &[u8]) -> Result<Proven, ProofDenial> {
        let asked = self.asked.take().ok_or(ProofDenial::NoNonce)?;
        // A clock that was set back makes a nonce from the future, which is as little to be trusted as an old one.
        if !(0..=NONCE_LIFE_MS).contains(&(now.0 - asked.at.0)) {
            return Err(ProofDenial::NonceTooOld);
        }
        let message = token::use_message(&asked.nonce, &asked.token_hash, function);
        if !token::holder_signed(&asked.phone_key, &message, signature) {
            return Err(ProofDenial::NotTheHolder);
        }
        Ok(asked.proven)
    }
}

#[cfg(test)]
mod tests {
    use cardea::domain::key::KeyGrant;
    use cardea::token::Signer;
    use p256::ecdsa::signature::Signer as _;
    use p256::ecdsa::{Signature, SigningKey};
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const NONCE: [u8; 32] = [9; 32];

    struct Scene {
        phone: SigningKey,
        fleet: Signer,
        car: VehicleId,
        dialogue: Dialogue,
        token: Vec<u8>,
    }

    fn scene() -> Scene {
        let phone = SigningKey::from_slice(&[5; 32]).unwrap();
        let fleet = Signer::from_seed(&[1; 32], "fleet");
        let car: VehicleId = "CAR-1".parse().unwrap();
        let point = phone.verifying_key().to_encoded_point(false);
        let half = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
        let grant = KeyGrant {
            key_id: KeyId(Uuid::from_u128(7)),
            holder_key: HolderKey::P256 { x: half(point.x().unwrap()), y: half(point.y().unwrap()) },
            permits: vec![Function::UnlockDoors].into(),
            not_before: NOW,
            not_after: NOW.plus_ms(3_600_000),
            generation: 2,
            geofence: None,
            max_delegation: 0,
            max_speed_kmh: None,
        };
        let token = token::decode(&fleet.mint(&grant, &car, "renter", NOW)).unwrap();
        let dialogue = Dialogue::new(car.clone(), Some(fleet.keyset()));
        Scene { phone, fleet, car, dialogue, token }
    }

    impl Scene {
        fn signed(&self, function: Function) -> Vec<u8> {
            let message = token::use_message(&NONCE, &token::sha256(&self.token), function);
            let signature: Signature = self.phone.sign(&message);
            signature.to_bytes().to_vec()
        }
    }

    #[test]
    fn the_holder_is_believed_once_a_nonce() {
        let mut scene = scene();
        let signature = scene.signed(Function::UnlockDoors);
        assert_eq!(scene.dialogue.hello(NOW, &scene.token, None, NONCE), Ok(NONCE));
        let proven = scene.dialogue.prove(NOW.plus_ms(NONCE_LIFE_MS), Function::UnlockDoors, &signature).unwrap();
        assert_eq!((proven.key_id, proven.generation), (KeyId(Uuid::from_u128(7)), 2));
        // A replay of the very same message.
        assert_eq!(scene.dialogue.prove(NOW, Function::UnlockDoors, &signature), Err(ProofDenial::NoNonce));
    }

    #[test]
    fn a_signature_for_one_function_does_not_ask_for_another() {
        let mut scene = scene();
        let signature = scene.signed(Function::UnlockDoors);
        scene.dialogue.hello(NOW, &scene.token, None, NONCE).unwrap();
        assert_eq!(scene.dialogue.prove(NOW, Function::Drive, &signature), Err(ProofDenial::NotTheHolder));
    }

    #[test]
    fn a_nonce_is_good_for_ten_seconds_and_not_before_it_was_made() {
        for late_ms in [NONCE_LIFE_MS + 1, -1] {
            let mut scene = scene();
            let signature = scene.signed(Function::UnlockDoors);
            scene.dialogue.hello(NOW.plus_ms(1), &scene.token, None, NONCE).unwrap();
            let answered = scene.dialogue.prove(NOW.plus_ms(1 + late_ms), Function::UnlockDoors, &signature);
            assert_eq!(answered, Err(ProofDenial::NonceTooOld), "{late_ms}");
        }
    }

    #[test]
    fn a_thief_with_the_token_and_another_nonces_signature_is_not_believed() {
        let mut scene = scene();
        let recorded = scene.signed(Function::UnlockDoors);
        scene.dialogue.hello(NOW, &scene.token, None, [8; 32]).unwrap();
        assert_eq!(scene.dialogue.prove(NOW, Function::UnlockDoors, &recorded), Err(ProofDenial::NotTheHolder));
    }

    #[test]
    fn a_bad_hello_ends_what_an_earlier_one_began() {
        let mut scene = scene();
        let signature = scene.signed(Function::UnlockDoors);
        scene.dialogue.hello(NOW, &scene.token, None, NONCE).unwrap();
        assert!(scene.dialogue.hello(NOW, b"x", None, NONCE).is_err());
        assert_eq!(scene.dialogue.prove(NOW, Function::UnlockDoors, &signature), Err(ProofDenial::NoNonce));
    }

    #[test]
    fn tokens_that_are_not_for_here_and_now_get_no_nonce() {
        let mut scene = scene();
        let mut other = Dialogue::new("CAR-2".parse().unwrap(), Some(scene.fleet.keyset()));
        let wrong_car = other.hello(NOW, &scene.token, None, NONCE);
        assert_eq!(wrong_car, Err(ProofDenial::Token(TokenError::WrongAudience)));
        let early = scene.dialogue.hello(NOW.plus_ms(-1), &scene.token, None, NONCE);
        assert_eq!(early, Err(ProofDenial::Token(TokenError::NotYetValid)));
        let late = scene.dialogue.hello(NOW.plus_ms(3_600_000), &scene.token, None, NONCE);
        assert_eq!(late, Err(ProofDenial::Token(TokenError::Expired)));
        let mut foreign = Dialogue::new(scene.car.clone(), Some(Signer::from_seed(&[2; 32], "fleet").keyset()));
        let unknown = foreign.hello(NOW, &scene.token, None, NONCE);
        assert_eq!(unknown, Err(ProofDenial::Token(TokenError::UnknownSigner)));
        assert_eq!(Dialogue::new(scene.car, None).hello(NOW, &scene.token, None, NONCE), Err(ProofDenial::NoKeyset));
    }
}
