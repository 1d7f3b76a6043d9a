//! A token is what was granted, for one car, for its time, or it is nothing.

use coset::cbor::value::Value;
use coset::{AsCborValue, CoseSign1Builder, TaggedCborSerializable};
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use p256::ecdsa::signature::Signer as _;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::key::Geofence;
use crate::domain::{Functions, KeyId};

pub const NOW: Timestamp = Timestamp(1_795_298_400_000);

pub fn signer() -> Signer {
    Signer::from_seed(&[7; 32], "cardea")
}

pub fn car() -> VehicleId {
    "WVW-1".parse().unwrap()
}

pub fn phone() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap()
}

pub fn p256_holder() -> HolderKey {
    let point = phone().verifying_key().to_encoded_point(false);
    let coordinate = |bytes: Option<&p256::FieldBytes>| (*bytes.unwrap()).into();
    HolderKey::P256 { x: coordinate(point.x()), y: coordinate(point.y()) }
}

pub fn ed25519_holder() -> HolderKey {
    HolderKey::Ed25519 { x: Signer::from_seed(&[3; 32], "phone").public_key() }
}

pub fn grant() -> KeyGrant {
    KeyGrant {
        key_id: KeyId(Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001)),
        holder_key: p256_holder(),
        permits: Functions::NONE.with(Function::UnlockDoors).with(Function::EnterCabin),
        not_before: NOW,
        not_after: NOW.plus_ms(3_600_000),
        generation: 4,
        geofence: Some(Geofence { latitude: 45.07, longitude: 7.68, radius_m: 5_000.0 }),
        max_delegation: 1,
        max_speed_kmh: None,
    }
}

pub fn mint(grant: &KeyGrant) -> String {
    signer().mint(grant, &car(), "anna", NOW)
}

fn check(text: &str) -> Result<VerifiedToken, TokenError> {
    verify_text(text, &signer().keyset(), &car(), NOW)
}

#[test]
fn what_was_granted_is_what_is_read() {
    for holder_key in [p256_holder(), ed25519_holder()] {
        let granted = KeyGrant { holder_key, ..grant() };
        let text = mint(&granted);
        let verified = check(&text).unwrap();
        assert_eq!(verified.grant, granted);
        assert_eq!((verified.holder.as_str(), verified.issuer.as_str()), ("anna", "cardea"));
        assert_eq!(verified.vehicle, car());
        assert_eq!(verified.issued_at, NOW);
        assert_eq!(verified.hash, sha256(&decode(&text).unwrap()));
        assert_eq!(text, mint(&granted), "the same inputs give the same token");
    }
    let size = |grant: &KeyGrant| decode(&mint(grant)).unwrap().len();
    assert!(size(&grant()) <= 300, "{}", size(&grant()));
}

#[test]
fn the_form_on_the_wire_does_not_change() {
    let text = mint(&KeyGrant { holder_key: ed25519_holder(), geofence: None, max_delegation: 0, ..grant() });
    assert_eq!(hex::encode(decode(&text).unwrap()), include_str!("../../tests/wire/key_token.hex").trim());
}

#[test]
fn a_token_is_good_for_its_car_and_its_time_only() {
    let text = mint(&grant());
    let keyset = signer().keyset();
    let other: VehicleId = "WVW-2".parse().unwrap();
    assert_eq!(verify_text(&text, &keyset, &other, NOW), Err(TokenError::WrongAudience));
    let at = |ms: i64| verify_text(&text, &keyset, &car(), NOW.plus_ms(ms)).err();
    assert_eq!(at(-1), Some(TokenError::NotYetValid));
    assert_eq!(at(3_599_999), None);
    assert_eq!(at(3_600_000), Some(TokenError::Expired));
    let stranger = Signer::from_seed(&[8; 32], "cardea").mint(&grant(), &car(), "anna", NOW);
    assert_eq!(check(&stranger), Err(TokenError::UnknownSigner));
}

/// A bit of each byte, another one in each run of eight, since a check takes 10 ms unoptimised; the property below
/// tries the rest at random.
#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let bytes = decode(&mint(&grant())).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(verify(&changed, &signer().keyset(), &car(), NOW).is_err(), "byte {at}");
    }
}

#[test]
fn nothing_may_follow_a_token_and_no_other_encoding_passes() {
    let bytes = decode(&mint(&grant())).unwrap();
    let verify = |bytes: &[u8]| verify(bytes, &signer().keyset(), &car(), NOW);
    assert!(verify(&[&bytes[..], &[0]].concat()).is_err());
    assert!(verify(&bytes[1..]).is_err(), "without its tag");
    // The array of four with its length in two bytes.
    assert_eq!(bytes[..2], [0xd2, 0x84]);
    assert!(verify(&[&[0xd2, 0x98, 0x04], &bytes[2..]].concat()).is_err());
    assert_eq!(verify(&[0; MAX_TOKEN_LEN + 1]), Err(TokenError::TooLong));
    assert_eq!(check(&"A".repeat(1_400)), Err(TokenError::TooLong));
    assert_eq!(check("=="), Err(TokenError::NotBase64));
}

type Claims = Vec<(Value, Value)>;

/// A token over other claims, as only somebody with the signing key could make it.
fn signed_over(edit: impl FnOnce(&mut Claims)) -> Result<VerifiedToken, TokenError> {
    let good = CoseSign1::from_tagged_slice(&decode(&mint(&grant())).unwrap()).unwrap();
    let payload = good.payload.unwrap();
    let Value::Map(mut claims) = coset::cbor::de::from_reader(payload.as_slice()).unwrap() else { panic!() };
    edit(&mut claims);
    let mut payload = Vec::new();
    coset::cbor::ser::into_writer(&Value::Map(claims), &mut payload).unwrap();
    sign(payload, EXTERNAL_AAD)
}

fn sign(payload: Vec<u8>, aad: &[u8]) -> Result<VerifiedToken, TokenError> {
    let key = SigningKey::from_bytes(&[7; 32]);
    let sign1 = CoseSign1Builder::new()
        .protected(protected_header(iana::Algorithm::EdDSA, &kid(&key.verifying_key())))
        .payload(payload)
        .create_signature(aad, |message| key.sign(message).to_bytes().to_vec())
        .build();
    verify(&sign1.to_tagged_vec().unwrap(), &signer().keyset(), &car(), NOW)
}

fn set(claims: &mut [(Value, Value)], name: i64, value: Value) {
    claims.iter_mut().find(|(known, _)| *known == Value::from(name)).unwrap().1 = value;
}

#[test]
fn claims_that_are_not_understood_refuse_the_token() {
    assert!(signed_over(|_| {}).is_ok());
    let unknown_bit = signed_over(|claims| set(claims, -70_001, Value::from(1 << 13)));
    assert_eq!(unknown_bit, Err(TokenError::UnknownPermission));
    let malformed = |edit: &dyn Fn(&mut Claims)| {
        let outcome = signed_over(edit);
        assert!(matches!(outcome, Err(TokenError::Malformed(_))), "{outcome:?}");
    };
    malformed(&|claims| claims.push((Value::from(-70_005), Value::Bytes(vec![0; 32]))));
    malformed(&|claims| claims.push((Value::from(-70_007), Value::from(1))));
    malformed(&|claims| claims.push((Value::from(-70_001), Value::from(0))));
    malformed(&|claims| claims.push((Value::from("x"), Value::from(0))));
    malformed(&|claims| set(claims, 4, Value::Float(1e300)));
    malformed(&|claims| set(claims, 4, Value::from(i64::MAX)));
    malformed(&|claims| set(claims, 7, Value::Bytes(vec![1; 15])));
    malformed(&|claims| set(claims, -70_002, Value::from(-1)));
    malformed(&|claims| set(claims, -70_003, Value::Array(vec![Value::Float(91.0); 3])));
    malformed(&|claims| set(claims, -70_003, Value::Array(vec![Value::Float(f64::NAN); 3])));
    malformed(&|claims| set(claims, -70_004, Value::from(2)));
    for name in [1, 2, 3, 4, 5, 6, 7, 8, -70_001, -70_002, -70_004] {
        malformed(&|claims| claims.retain(|(known, _)| *known != Value::from(name)));
    }
    // Only the fence may be absent.
    assert!(signed_over(|claims| claims.retain(|(known, _)| *known != Value::from(-70_003))).is_ok());
}

#[test]
fn a_duplicate_claim_or_a_foreign_context_is_refused() {
    let twice = signed_over(|claims| {
        let first = claims[0].clone();
        claims.push(first);
    });
    assert!(matches!(twice, Err(TokenError::Malformed(_))), "{twice:?}");
    let payload = claims::encode(
        &grant(),
        &claims::Frame { issuer: "cardea", vehicle: &car(), holder: "anna", issued_at: NOW, parent: None },
    );
    assert!(sign(payload.clone(), EXTERNAL_AAD).is_ok());
    assert_eq!(sign(payload.clone(), b""), Err(TokenError::BadSignature));
    assert!(matches!(sign([payload, vec![0]].concat(), EXTERNAL_AAD), Err(TokenError::Malformed(_))));
}

#[test]
fn a_holder_key_off_its_curve_or_of_small_order_is_refused() {
    let jwk = Jwk::of(&p256_holder());
    assert_eq!(jwk.holder_key().unwrap(), p256_holder());
    let off_curve = Jwk { y: Some(jwk.x.clone()), ..jwk.clone() };
    assert!(off_curve.holder_key().is_err());
    assert!(Jwk { y: None, ..jwk.clone() }.holder_key().is_err());
    assert!(Jwk { crv: "P-384".into(), ..jwk.clone() }.holder_key().is_err());
    assert!(Jwk { x: format!("{}=", jwk.x), ..jwk }.holder_key().is_err());
    let ed = Jwk::of(&ed25519_holder());
    assert_eq!(ed.holder_key().unwrap(), ed25519_holder());
    let mut identity = [0; 32];
    identity[0] = 1;
    assert!(Jwk::of(&HolderKey::Ed25519 { x: identity }).holder_key().is_err());
    let private = r#"{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}"#;
    assert!(serde_json::from_str::<Jwk>(private).is_err(), "a private key is not taken");
}

#[test]
fn a_cose_key_says_the_point_and_nothing_else() {
    for holder in [p256_holder(), ed25519_holder()] {
        let key = cose_key(&holder);
        assert_eq!(holder_key_from_cose(&key).unwrap(), holder);
        let mut private = key.clone();
        private.params.push((coset::Label::Int(-4), Value::Bytes(vec![1; 32])));
        assert!(holder_key_from_cose(&private).is_err());
        let again = coset::CoseKey::from_cbor_value(key.to_cbor_value().unwrap()).unwrap();
        assert_eq!(holder_key_from_cose(&again).unwrap(), holder);
    }
}

#[test]
fn the_keyset_is_read_back_from_its_own_jwks() {
    let keyset = signer().keyset();
    assert_eq!(Keyset::from_jwks(&keyset.to_jwks().to_string()).unwrap(), keyset);
    assert!(Keyset::from_jwks(r#"{"keys":[]}"#).is_err());
    assert!(Keyset::from_jwks(r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#).is_err());
    let set: Value = coset::cbor::de::from_reader(keyset.to_cose_key_set().as_slice()).unwrap();
    let key = coset::CoseKey::from_cbor_value(set.into_array().unwrap().remove(0)).unwrap();
    assert_eq!(key.key_id, kid(keyset.get(&key.key_id).unwrap()));
}

#[test]
fn signing_keys_are_read_as_dalek_and_as_ring_write_them() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
    assert_eq!(Signer::from_pem(&pem, "cardea").unwrap().public_key(), signer().public_key());
    let ring = ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let body = base64::engine::general_purpose::STANDARD.encode(ring.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    let pair = ring::signature::Ed25519KeyPair::from_pkcs8(ring.as_ref()).unwrap();
    let read = Signer::from_pem(&pem, "cardea").unwrap().public_key();
    assert_eq!(read, ring::signature::KeyPair::public_key(&pair).as_ref());
    assert!(Signer::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cardea").is_err());
    assert!(Signer::from_pem(&pem, "").is_err());
}

#[test]
fn a_phone_proves_it_holds_the_key() {
    let token = decode(&mint(&grant())).unwrap();
    let message = use_message(&[5; 32], &sha256(&token), Function::UnlockDoors);
    let signature: p256::ecdsa::Signature = phone().sign(&message);
    assert!(holder_signed(&p256_holder(), &message, &signature.to_bytes()));
    let other = use_message(&[5; 32], &sha256(&token), Function::Drive);
    assert!(!holder_signed(&p256_holder(), &other, &signature.to_bytes()));
    assert!(!holder_signed(&ed25519_holder(), &message, &signature.to_bytes()));
    let ed = SigningKey::from_bytes(&[3; 32]);
    assert!(holder_signed(&ed25519_holder(), &message, &ed.sign(&message).to_bytes()));
    assert!(!holder_signed(&ed25519_holder(), &message, &[]));
}

/// RFC 8392 appendix A.3: somebody else's CWT, so that the signed structure is not only what we believe it is.
#[test]
fn the_signed_structure_is_that_of_rfc_8392() {
    let token = hex::decode(concat!(
        "d28443a10126a104524173796d6d657472696345434453413235365850a70175636f61703a2f2f61732e6578616d706c652e636f6d02",
        "656572696b77037818636f61703a2f2f6c696768742e6578616d706c652e636f6d041a5612aeb0051a5610d9f0061a5610d9f007420b",
        "7158405427c1ff28d23fbad1f29c4c7c6a555e601d6fa29f9179bc3d7438bacaca5acd08c8d4d4f96131680c429a01f85951ecee743a",
        "52b9b63632c57209120e1c9e30"
    ))
    .unwrap();
    let mut x = [0; 32];
    let mut y = [0; 32];
    hex::decode_to_slice("143329cce7868e416927599cf65a34f3ce2ffda55a7eca69ed8919a394d42f0f", &mut x).unwrap();
    hex::decode_to_slice("60f7f1a780d8a783bfb7a2dd6b2796e8128dbbcef9d3d168db9529971a36e7b9", &mut y).unwrap();
    let sign1 = CoseSign1::from_tagged_slice(&token).unwrap();
    let checked = sign1.verify_signature(b"", |signature, message| {
        holder_signed(&HolderKey::P256 { x, y }, message, signature).then_some(()).ok_or(())
    });
    assert_eq!(checked, Ok(()));
}

#[test]
fn a_derived_secret_is_stable_and_separate_by_purpose() {
    assert_eq!(signer().derive("a", b"1"), signer().derive("a", b"1"));
    assert_ne!(signer().derive("a", b"1"), signer().derive("a", b"2"));
    assert_ne!(signer().derive("a", b"1"), signer().derive("b", b"1"));
    assert_ne!(signer().derive("a", b"1"), Signer::from_seed(&[8; 32], "cardea").derive("a", b"1"));
}

fn any_grant() -> impl Strategy<Value = KeyGrant> {
    let geofence = proptest::option::of(
        (-90.0..=90.0_f64, -180.0..=180.0_f64, 0.1..1e6_f64).prop_map(|(latitude, longitude, radius_m)| Geofence {
            latitude,
            longitude,
            radius_m,
        }),
    );
    let seconds = 0..4_000_000_000_i64;
    (
        any::<u128>(),
        any::<bool>(),
        0..=u64::from(Functions::ALL.bits()),
        seconds,
        1..1_000_000_i64,
        any::<u32>(),
        geofence,
        0..=1_u8,
    )
        .prop_map(|(id, is_p256, bits, from, life, generation, geofence, max_delegation)| KeyGrant {
            key_id: KeyId(Uuid::from_u128(id)),
            holder_key: if is_p256 { p256_holder() } else { ed25519_holder() },
            permits: Functions::from_bits(bits).unwrap(),
            not_before: Timestamp(from * 1000),
            not_after: Timestamp((from + life) * 1000),
            generation,
            geofence,
            max_delegation,
            max_speed_kmh: generation.is_multiple_of(2).then_some(generation as u16),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_grant_comes_back_whole(granted in any_grant(), holder in "[a-z]{1,64}", vehicle in "[A-Za-z0-9-]{1,64}") {
        let vehicle: VehicleId = vehicle.parse().unwrap();
        let text = signer().mint(&granted, &vehicle, &holder, granted.not_before);
        let verified = verify_text(&text, &signer().keyset(), &vehicle, granted.not_before).unwrap();
        prop_assert_eq!(verified.grant, granted);
        prop_assert_eq!(verified.holder, holder);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1_100), text in ".{0,200}") {
        prop_assert!(verify(&bytes, &signer().keyset(), &car(), NOW).is_err());
        prop_assert!(check(&text).is_err());
        prop_assert!(claims::decode(&bytes, [0; 32]).is_err());
    }

    #[test]
    fn damaged_tokens_never_panic_nor_pass(cuts in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8)) {
        let good = decode(&mint(&grant())).unwrap();
        let mut bytes = good.clone();
        for (at, value) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        prop_assert!(bytes == good || verify(&bytes, &signer().keyset(), &car(), NOW).is_err());
        let _ = claims::decode(&bytes[20..], [0; 32]);
    }

    #[test]
    fn any_flipped_bit_is_refused(bit in any::<proptest::sample::Index>()) {
        let mut bytes = decode(&mint(&grant())).unwrap();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(verify(&bytes, &signer().keyset(), &car(), NOW).is_err());
    }
}
