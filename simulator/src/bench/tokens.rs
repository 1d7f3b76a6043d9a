//! `tokens`: what a key's token costs one core, to mint at the gateway and to check at the car.

use cardea::clock::Clock;
use cardea::domain::key::{HolderKey, KeyGrant};
use cardea::domain::{Function, KeyId, VehicleId};
use cardea::token::{self, Delegation, Signer, TokenError};
use clap::Args;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::failure::Failure;
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub struct TokensArgs {
    /// Tokens of each kind
    #[arg(long, default_value_t = 5_000)]
    count: u32,
}

pub fn run(args: &TokensArgs) -> Result<Value, Failure> {
    let broken = |error: TokenError| Failure::failed(format!("a token of ours is refused: {error}"));
    let now = Clock::start().now();
    let fleet = Signer::from_seed(&[1; 32], "bench");
    let keyset = fleet.keyset();
    let vehicle: VehicleId = "BENCH-1".parse().map_err(|_| Failure::failed("an id"))?;
    let phone = SigningKey::from_slice(&[5; 32]).map_err(Failure::failed)?;
    let point = phone.verifying_key().as_affine().to_encoded_point(false);
    let half = |bytes: Option<&p256::FieldBytes>| bytes.map_or([0; 32], |bytes| (*bytes).into());
    let holder_key = HolderKey::P256 { x: half(point.x()), y: half(point.y()) };
    let grant = |number: u32| KeyGrant {
        key_id: KeyId(Uuid::from_u128(number.into())),
        holder_key: holder_key.clone(),
        permits: vec![Function::UnlockDoors, Function::LockDoors].into(),
        not_before: now,
        not_after: now.plus_ms(3_600_000),
        generation: 1,
        geofence: None,
        max_delegation: 1,
        max_speed_kmh: None,
    };
    let watch = Stopwatch::start();
    let minted: Vec<String> =
        (0..args.count).map(|number| fleet.mint(&grant(number), &vehicle, "renter", now)).collect();
    let minting_s = watch.elapsed().as_secs_f64();
    let watch = Stopwatch::start();
    for text in &minted {
        token::verify_text(text, &keyset, &vehicle, now).map_err(broken)?;
    }
    let verifying_s = watch.elapsed().as_secs_f64();
    // A whole use at the car, as the phone's signature is checked too.
    let watch = Stopwatch::start();
    let nonce = [7; 32];
    let signed: Vec<Vec<u8>> = minted
        .iter()
        .map(|text| {
            let hash = token::sha256(text.as_bytes());
            let signature: Signature = phone.sign(&token::use_message(&nonce, &hash, Function::UnlockDoors));
            signature.to_bytes().to_vec()
        })
        .collect();
    let signing_s = watch.elapsed().as_secs_f64();
    let watch = Stopwatch::start();
    for (text, signature) in minted.iter().zip(&signed) {
        let message = token::use_message(&nonce, &token::sha256(text.as_bytes()), Function::UnlockDoors);
        if !token::holder_signed(&holder_key, &message, signature) {
            return Err(Failure::failed("a phone's signature is refused"));
        }
    }
    let proving_s = watch.elapsed().as_secs_f64();
    let parent = minted.first().ok_or_else(|| Failure::usage("--count is at least 1"))?;
    let parent = token::decode(parent).map_err(broken)?;
    let verified = token::verify(&parent, &keyset, &vehicle, now).map_err(broken)?;
    let child = KeyGrant { max_delegation: 0, ..grant(args.count) };
    let delegation = Delegation {
        parent: &parent,
        parent_key: &holder_key,
        issuer: "phone",
        holder: "friend",
        vehicle: &vehicle,
        issued_at: now,
        grant: &child,
    };
    let delegated = token::delegate(&delegation, |message| {
        let signature: Signature = phone.sign(message);
        signature.to_bytes().to_vec()
    });
    let delegated = token::decode(&delegated).map_err(broken)?;
    let watch = Stopwatch::start();
    for _ in 0..args.count {
        token::verify_delegated(&delegated, &verified, now).map_err(broken)?;
    }
    let delegated_s = watch.elapsed().as_secs_f64();
    let rate = |seconds: f64| f64::from(args.count) / seconds;
    Ok(json!({
        "minted_per_s": rate(minting_s),
        "verified_per_s": rate(verifying_s),
        "signed_by_phone_per_s": rate(signing_s),
        "proofs_checked_per_s": rate(proving_s),
        "delegated_verified_per_s": rate(delegated_s),
    }))
}
