//! Body for [`crate::fuzzing`]: tokens as anybody may send them, and claims as somebody with a key could sign them.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::{CoseSign1Builder, TaggedCborSerializable, iana};
use ed25519_dalek::Signer as _;

use super::{
    Delegation, EXTERNAL_AAD, Jwk, Signer, VerifiedToken, claimed_key_id, claims, decode, delegate,
    holder_key_from_cose, kid, protected_header, read_delegated, verify, verify_delegated, verify_text,
};
use crate::domain::key::{HolderKey, KeyGrant};
use crate::domain::{Function, Functions, KeyId, Timestamp, VehicleId};

const NOW: Timestamp = Timestamp(1_795_298_400_000);

/// A fleet, a phone, and a key that the phone may hand on.
struct Scene {
    fleet: Signer,
    phone: Signer,
    vehicle: VehicleId,
    parent: Option<(Vec<u8>, VerifiedToken)>,
}

impl Scene {
    fn the() -> &'static Self {
        static SCENE: OnceLock<Scene> = OnceLock::new();
        SCENE.get_or_init(|| {
            let (fleet, phone) = (Signer::from_seed(&[7; 32], "cardea"), Signer::from_seed(&[3; 32], "phone"));
            // Letters, digits and hyphens: a vehicle's name.
            let vehicle: VehicleId = "FUZZ-1".parse().unwrap_or_else(|_| unreachable!());
            let minted = fleet.mint(&grant(&phone), &vehicle, "anna", NOW);
            let verified = decode(&minted).ok().and_then(|token| {
                verify(&token, &fleet.keyset(), &vehicle, NOW).ok().map(|verified| (token, verified))
            });
            assert!(verified.is_some(), "a key of ours is one");
            Self { fleet, phone, vehicle, parent: verified }
        })
    }
}

fn grant(phone: &Signer) -> KeyGrant {
    KeyGrant {
        key_id: KeyId(uuid::Uuid::from_u128(1)),
        holder_key: HolderKey::Ed25519 { x: phone.public_key() },
        permits: Functions::NONE.with(Function::UnlockDoors),
        not_before: NOW,
        not_after: NOW.plus_ms(3_600_000),
        generation: 1,
        geofence: None,
        max_delegation: 1,
        max_speed_kmh: None,
    }
}

/// The first byte says what the rest is: a token's bytes, its text, a delegated token, claims under the fleet's signature,
/// bare claims, a phone's key.
pub fn token(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    let scene = Scene::the();
    match which % 6 {
        0 => {
            let _ = claimed_key_id(bytes);
            judge(bytes, verify(bytes, &scene.fleet.keyset(), &scene.vehicle, NOW).ok());
        }
        1 => {
            let text = String::from_utf8_lossy(bytes);
            let _ = verify_text(&text, &scene.fleet.keyset(), &scene.vehicle, NOW);
        }
        2 => {
            if let Some((_, parent)) = &scene.parent {
                let _ = read_delegated(bytes, parent);
                if let Ok(handed_on) = verify_delegated(bytes, parent, NOW) {
                    assert_eq!(handed_on.grant.permits.intersect(parent.grant.permits), handed_on.grant.permits);
                    assert!(handed_on.grant.not_after <= parent.grant.not_after);
                }
            }
        }
        3 => {
            let token = signed(scene, bytes);
            judge(&token, verify(&token, &scene.fleet.keyset(), &scene.vehicle, NOW).ok());
        }
        4 => {
            let _ = claims::decode(bytes, [0; 32]);
            let _ = claims::claimed_key_id(bytes);
        }
        _ => {
            if let Ok(jwk) = serde_json::from_slice::<Jwk>(bytes) {
                let _ = jwk.holder_key();
            }
            if let Ok(key) = coset::CborSerializable::from_slice(bytes)
                && let Ok(holder) = holder_key_from_cose(&key)
            {
                hand_on(scene, &holder);
            }
        }
    }
}

/// What passed is in its time, for its car, and short enough.
fn judge(token: &[u8], verified: Option<VerifiedToken>) {
    if let Some(verified) = verified {
        assert!(token.len() <= super::MAX_TOKEN_LEN);
        assert!(verified.grant.not_before <= NOW && NOW < verified.grant.not_after);
        assert_eq!(verified.vehicle, Scene::the().vehicle);
        assert_eq!(verified.parent, None);
    }
}

fn signed(scene: &Scene, payload: &[u8]) -> Vec<u8> {
    let sign1 = CoseSign1Builder::new()
        .protected(protected_header(iana::Algorithm::EdDSA, &kid(&scene.fleet.key.verifying_key())))
        .payload(payload.to_vec())
        .create_signature(EXTERNAL_AAD, |message| scene.fleet.key.sign(message).to_bytes().to_vec())
        .build();
    sign1.to_tagged_vec().unwrap_or_default()
}

/// A key handed on to whatever phone that is verifies, and carries its key.
fn hand_on(scene: &Scene, holder: &HolderKey) {
    let Some((parent, verified)) = &scene.parent else { return };
    let grant = KeyGrant { holder_key: holder.clone(), max_delegation: 0, ..grant(&scene.phone) };
    let delegation = Delegation {
        parent,
        parent_key: &verified.grant.holder_key,
        issuer: "phone",
        holder: "ben",
        vehicle: &scene.vehicle,
        issued_at: NOW,
        grant: &grant,
    };
    let text = delegate(&delegation, |message| scene.phone.key.sign(message).to_bytes().to_vec());
    let token = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let handed_on = verify_delegated(&token, verified, NOW);
    assert_eq!(handed_on.map(|token| token.grant.holder_key), Ok(holder.clone()));
}
