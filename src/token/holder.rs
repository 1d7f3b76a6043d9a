//! A holder's public key in its three forms: JWK (HTTP), COSE_Key (token and car), [`HolderKey`] (domain).
//!
//! A point that is not on its curve, or of small order, is refused wherever a key comes in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::cbor::value::Value;
use coset::{CoseKey, CoseKeyBuilder, KeyType, Label, iana};
use ed25519_dalek::VerifyingKey;
use p256::EncodedPoint;
use p256::ecdsa::signature::Verifier;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::Malformed;
use crate::domain::key::HolderKey;

/// A public key as RFC 7517 writes it, e.g. `{"kty":"EC","crv":"P-256","x":"…","y":"…"}` or
/// `{"kty":"OKP","crv":"Ed25519","x":"…"}`. What a browser's `exportKey("jwk")` adds is taken and not used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwk {
    /// `EC` or `OKP`.
    pub kty: String,
    /// `P-256` or `Ed25519`.
    pub crv: String,
    /// 32 bytes, base64url without padding.
    pub x: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_ops: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext: Option<bool>,
}

impl Jwk {
    pub fn of(key: &HolderKey) -> Self {
        let (kty, crv, x, y) = match key {
            HolderKey::P256 { x, y } => ("EC", "P-256", x, Some(y)),
            HolderKey::Ed25519 { x } => ("OKP", "Ed25519", x, None),
        };
        Self {
            kty: kty.into(),
            crv: crv.into(),
            x: URL_SAFE_NO_PAD.encode(x),
            y: y.map(|y| URL_SAFE_NO_PAD.encode(y)),
            alg: None,
            usage: None,
            kid: None,
            key_ops: None,
            ext: None,
        }
    }

    /// The key, if it is one a token can be bound to.
    pub fn holder_key(&self) -> Result<HolderKey, Malformed> {
        let x = coordinate(&self.x)?;
        match (self.kty.as_str(), self.crv.as_str(), &self.y) {
            ("EC", "P-256", Some(y)) => check(HolderKey::P256 { x, y: coordinate(y)? }),
            ("OKP", "Ed25519", None) => check(HolderKey::Ed25519 { x }),
            _ => Err(Malformed("a JWK is EC with crv P-256, x and y, or OKP with crv Ed25519 and x")),
        }
    }
}

fn coordinate(text: &str) -> Result<[u8; 32], Malformed> {
    const BAD: Malformed = Malformed("x and y are 32 bytes in base64url without padding");
    if text.len() != 43 {
        return Err(BAD);
    }
    URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(BAD)
}

/// The key, if its point is good.
fn check(key: HolderKey) -> Result<HolderKey, Malformed> {
    let is_good = match &key {
        HolderKey::P256 { .. } => p256_key(&key).is_some(),
        HolderKey::Ed25519 { x } => VerifyingKey::from_bytes(x).is_ok_and(|key| !key.is_weak()),
    };
    if is_good { Ok(key) } else { Err(Malformed("the point is not on the curve or of small order")) }
}

fn p256_key(key: &HolderKey) -> Option<p256::ecdsa::VerifyingKey> {
    match key {
        HolderKey::P256 { x, y } => {
            let point = EncodedPoint::from_affine_coordinates(x.into(), y.into(), false);
            p256::ecdsa::VerifyingKey::from_encoded_point(&point).ok()
        }
        HolderKey::Ed25519 { .. } => None,
    }
}

pub fn signed(holder: &HolderKey, message: &[u8], signature: &[u8]) -> bool {
    match holder {
        HolderKey::P256 { .. } => {
            let signature = p256::ecdsa::Signature::from_slice(signature).ok();
            p256_key(holder).zip(signature).is_some_and(|(key, signature)| key.verify(message, &signature).is_ok())
        }
        HolderKey::Ed25519 { x } => {
            let signature = ed25519_dalek::Signature::from_slice(signature).ok();
            let key = VerifyingKey::from_bytes(x).ok();
            key.zip(signature).is_some_and(|(key, signature)| key.verify_strict(message, &signature).is_ok())
        }
    }
}

/// The COSE_Key with nothing but the public point (RFC 9053): the same key always gives the same bytes.
pub fn cose_key(key: &HolderKey) -> CoseKey {
    match key {
        HolderKey::P256 { x, y } => {
            CoseKeyBuilder::new_ec2_pub_key(iana::EllipticCurve::P_256, x.to_vec(), y.to_vec()).build()
        }
        HolderKey::Ed25519 { x } => CoseKeyBuilder::new_okp_key()
            .param(iana::OkpKeyParameter::Crv as i64, Value::from(iana::EllipticCurve::Ed25519 as i64))
            .param(iana::OkpKeyParameter::X as i64, Value::Bytes(x.to_vec()))
            .build(),
    }
}

/// The key in a COSE_Key that holds nothing but the public point.
pub fn holder_key_from_cose(key: &CoseKey) -> Result<HolderKey, Malformed> {
    const BAD: Malformed = Malformed("not a COSE_Key with a P-256 or Ed25519 public key");
    let param = |label: i64| key.params.iter().find(|(known, _)| *known == Label::Int(label)).map(|(_, value)| value);
    let bytes = |label: i64| -> Result<[u8; 32], Malformed> {
        param(label).and_then(Value::as_bytes).and_then(|bytes| bytes.as_slice().try_into().ok()).ok_or(BAD)
    };
    // The labels of curve, x and y are the same for both kinds of key.
    let (crv, x, y) =
        (iana::Ec2KeyParameter::Crv as i64, iana::Ec2KeyParameter::X as i64, iana::Ec2KeyParameter::Y as i64);
    let is_on = |curve: iana::EllipticCurve| param(crv) == Some(&Value::from(curve as i64));
    let holder = match key.kty {
        KeyType::Assigned(iana::KeyType::EC2) if is_on(iana::EllipticCurve::P_256) => {
            HolderKey::P256 { x: bytes(x)?, y: bytes(y)? }
        }
        KeyType::Assigned(iana::KeyType::OKP) if is_on(iana::EllipticCurve::Ed25519) => {
            HolderKey::Ed25519 { x: bytes(x)? }
        }
        _ => return Err(BAD),
    };
    if cose_key(&holder) != *key {
        return Err(BAD);
    }
    check(holder)
}
