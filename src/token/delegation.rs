//! A key handed on: a second token of the same form, signed by the first one's holder and presented together with it.
//!
//! It carries never more than its parent: what it claims beyond that does not count. One step only, and the gateway
//! need not be told. ES256 or EdDSA, as the holder's key is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::{CoseSign1Builder, TaggedCborSerializable, iana};

use super::claims::{self, Frame};
use super::{
    EXTERNAL_AAD, TokenError, VerifiedToken, cose_key, holder_signed, in_time, parse_sign1, protected_header, read,
    sha256, to_cbor,
};
use crate::domain::key::{HolderKey, KeyGrant};
use crate::domain::{Timestamp, VehicleId};

/// What a holder hands on.
pub struct Delegation<'a> {
    /// The parent as it was received.
    pub parent: &'a [u8],
    /// Its holder key, whose secret half signs.
    pub parent_key: &'a HolderKey,
    /// Issuer and holder are names the car does not interpret, at most 128 bytes each.
    pub issuer: &'a str,
    pub holder: &'a str,
    pub vehicle: &'a VehicleId,
    pub issued_at: Timestamp,
    /// With the other phone's key and an id of its own; `max_delegation` is 0.
    pub grant: &'a KeyGrant,
}

/// The delegated token, base64url. `sign` gives the 64 bytes of the parent's holder over a message.
pub fn delegate(delegation: &Delegation<'_>, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let Delegation { parent, parent_key, issuer, holder, vehicle, issued_at, grant } = *delegation;
    let hash = sha256(parent);
    let payload = claims::encode(grant, &Frame { issuer, vehicle, holder, issued_at, parent: Some(&hash) });
    let sign1 = CoseSign1Builder::new()
        .protected(protected_header(algorithm(parent_key), &kid(parent_key)))
        .payload(payload)
        .create_signature(EXTERNAL_AAD, sign)
        .build();
    URL_SAFE_NO_PAD.encode(sign1.to_tagged_vec().unwrap_or_default())
}

/// Checks a delegated token against its parent, which was verified before and at the same time. The grant that comes
/// back is what both permit; its fence is the token's own, the parent's stays to be looked at.
pub fn verify_delegated(token: &[u8], parent: &VerifiedToken, now: Timestamp) -> Result<VerifiedToken, TokenError> {
    let mut verified = read_delegated(token, parent)?;
    let (grant, limit) = (&mut verified.grant, &parent.grant);
    grant.permits = grant.permits.intersect(limit.permits);
    grant.not_before = grant.not_before.max(limit.not_before);
    grant.not_after = grant.not_after.min(limit.not_after);
    grant.max_speed_kmh = [grant.max_speed_kmh, limit.max_speed_kmh].into_iter().flatten().min();
    in_time(&verified, now)?;
    Ok(verified)
}

/// As [`verify_delegated`], at whatever time, with what the token claims.
pub fn read_delegated(token: &[u8], parent: &VerifiedToken) -> Result<VerifiedToken, TokenError> {
    if parent.parent.is_some() || parent.grant.max_delegation == 0 {
        return Err(TokenError::NotDelegable);
    }
    let holder = &parent.grant.holder_key;
    let sign1 = parse_sign1(token, algorithm(holder))?;
    if sign1.protected.header.key_id != kid(holder) {
        return Err(TokenError::UnknownSigner);
    }
    sign1.verify_signature(EXTERNAL_AAD, |signature, message| {
        if holder_signed(holder, message, signature) { Ok(()) } else { Err(TokenError::BadSignature) }
    })?;
    let mut verified = read(&sign1, token)?;
    if verified.parent != Some(parent.hash) {
        return Err(TokenError::OtherParent);
    }
    if verified.grant.max_delegation != 0 {
        return Err(TokenError::NotDelegable);
    }
    if verified.vehicle != parent.vehicle {
        return Err(TokenError::WrongAudience);
    }
    // The parent's is what counts.
    verified.grant.generation = parent.grant.generation;
    Ok(verified)
}

fn algorithm(key: &HolderKey) -> iana::Algorithm {
    match key {
        HolderKey::P256 { .. } => iana::Algorithm::ES256,
        HolderKey::Ed25519 { .. } => iana::Algorithm::EdDSA,
    }
}

/// The first 8 bytes of the SHA-256 of the COSE_Key.
fn kid(key: &HolderKey) -> [u8; 8] {
    let mut kid = [0; 8];
    kid.copy_from_slice(&sha256(&to_cbor(cose_key(key)))[..8]);
    kid
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::Signer as _;
    use uuid::Uuid;

    use super::super::tests::{NOW, car, ed25519_holder, grant, mint, p256_holder, phone, signer};
    use super::super::{decode, verify};
    use super::*;
    use crate::domain::{Function, Functions, KeyId};

    /// What anna's phone hands to bob's.
    fn handed_on() -> KeyGrant {
        KeyGrant {
            key_id: KeyId(Uuid::from_u128(2)),
            holder_key: ed25519_holder(),
            permits: Functions::NONE.with(Function::UnlockDoors),
            not_after: NOW.plus_ms(600_000),
            geofence: None,
            max_delegation: 0,
            max_speed_kmh: None,
            ..grant()
        }
    }

    fn parent(grant: &KeyGrant) -> (Vec<u8>, VerifiedToken) {
        let bytes = decode(&mint(grant)).unwrap();
        let verified = verify(&bytes, &signer().keyset(), &car(), NOW).unwrap();
        (bytes, verified)
    }

    fn hand_on(parent: &[u8], child: &KeyGrant, vehicle: &VehicleId) -> Vec<u8> {
        let (parent_key, issued_at) = (&p256_holder(), NOW);
        let delegation =
            Delegation { parent, parent_key, issuer: "anna", holder: "bob", vehicle, issued_at, grant: child };
        let sign = |message: &[u8]| -> Vec<u8> {
            let signature: p256::ecdsa::Signature = phone().sign(message);
            signature.to_bytes().to_vec()
        };
        decode(&delegate(&delegation, sign)).unwrap()
    }

    #[test]
    fn what_was_handed_on_is_what_is_read() {
        let (bytes, parent) = parent(&grant());
        let token = hand_on(&bytes, &handed_on(), &car());
        let verified = verify_delegated(&token, &parent, NOW).unwrap();
        assert_eq!(verified.grant, handed_on());
        assert_eq!((verified.holder.as_str(), verified.issuer.as_str()), ("bob", "anna"));
        assert_eq!(verified.parent, Some(parent.hash));
        assert!(verify(&token, &signer().keyset(), &car(), NOW).is_err(), "it stands for nothing without its parent");
    }

    #[test]
    fn what_is_claimed_beyond_the_parent_does_not_count() {
        let (bytes, parent) = parent(&grant());
        let greedy = KeyGrant {
            permits: Functions::ALL,
            not_before: NOW.plus_ms(-3_600_000),
            not_after: NOW.plus_ms(90_000_000),
            generation: 99,
            ..handed_on()
        };
        let verified = verify_delegated(&hand_on(&bytes, &greedy, &car()), &parent, NOW).unwrap();
        let limit = grant();
        assert_eq!(verified.grant.permits, limit.permits);
        assert_eq!((verified.grant.not_before, verified.grant.not_after), (limit.not_before, limit.not_after));
        assert_eq!(verified.grant.generation, limit.generation);
    }

    #[test]
    fn it_is_handed_on_once_and_only_where_the_fleet_allows_it() {
        let (bytes, first) = parent(&grant());
        let token = hand_on(&bytes, &handed_on(), &car());
        let second = verify_delegated(&token, &first, NOW).unwrap();
        let third = hand_on(&token, &handed_on(), &car());
        assert_eq!(verify_delegated(&third, &second, NOW), Err(TokenError::NotDelegable));
        let deeper = hand_on(&bytes, &KeyGrant { max_delegation: 1, ..handed_on() }, &car());
        assert_eq!(verify_delegated(&deeper, &first, NOW), Err(TokenError::NotDelegable));
        let (bytes, kept) = parent(&KeyGrant { max_delegation: 0, ..grant() });
        assert_eq!(verify_delegated(&hand_on(&bytes, &handed_on(), &car()), &kept, NOW), Err(TokenError::NotDelegable));
    }

    #[test]
    fn a_token_of_another_parent_signer_car_or_time_is_refused() {
        let (bytes, first) = parent(&grant());
        let (other_bytes, _) = parent(&KeyGrant { generation: 5, ..grant() });
        let stray = hand_on(&other_bytes, &handed_on(), &car());
        assert_eq!(verify_delegated(&stray, &first, NOW), Err(TokenError::OtherParent));
        let token = hand_on(&bytes, &handed_on(), &car());
        assert_eq!(verify_delegated(&token, &first, NOW.plus_ms(600_000)), Err(TokenError::Expired));
        let elsewhere = hand_on(&bytes, &handed_on(), &"WVW-2".parse().unwrap());
        assert_eq!(verify_delegated(&elsewhere, &first, NOW), Err(TokenError::WrongAudience));
        let (_, others) = parent(&KeyGrant { holder_key: ed25519_holder(), ..grant() });
        assert!(verify_delegated(&token, &others, NOW).is_err(), "signed by another phone");
        for at in (0..token.len()).step_by(7) {
            let mut changed = token.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(verify_delegated(&changed, &first, NOW).is_err(), "byte {at}");
        }
    }
}
