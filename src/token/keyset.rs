//! The fleet's public signing keys, as cars and anybody else may fetch them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::cbor::value::Value;
use coset::{AsCborValue, iana};
use ed25519_dalek::VerifyingKey;
use serde::Deserialize;
use serde_json::json;

use super::holder::cose_key;
use super::kid;
use crate::domain::Malformed;
use crate::domain::key::HolderKey;

/// Keys that a token may be signed by; at most [`Keyset::MAX`], so that a rotation has room.
#[derive(Debug, Clone, PartialEq)]
pub struct Keyset(Vec<([u8; 8], VerifyingKey)>);

impl Keyset {
    pub const MAX: usize = 16;

    pub fn of(key: VerifyingKey) -> Self {
        Self(vec![(kid(&key), key)])
    }

    /// Another key that tokens may be signed by; the first one stays first. Again is no mistake.
    pub fn with(mut self, other: Self) -> Self {
        for (kid, key) in other.0 {
            if self.get(&kid).is_none() {
                self.0.push((kid, key));
            }
        }
        self
    }

    pub fn get(&self, name: &[u8]) -> Option<&VerifyingKey> {
        self.0.iter().find(|(kid, _)| kid == name).map(|(_, key)| key)
    }

    /// Reads `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"…"},…]}`; keys of other kinds are passed over.
    pub fn from_jwks(text: &str) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            kty: String,
            crv: Option<String>,
            x: Option<String>,
        }
        let set: Set = serde_json::from_str(text).map_err(|_| Malformed("not a JWKS"))?;
        let mut keys = Vec::new();
        for entry in set.keys.iter().filter(|entry| entry.kty == "OKP" && entry.crv.as_deref() == Some("Ed25519")) {
            let bytes = entry.x.as_deref().and_then(|x| URL_SAFE_NO_PAD.decode(x).ok());
            let key = bytes
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
                .filter(|key| !key.is_weak())
                .ok_or(Malformed("a key of the JWKS is not an Ed25519 public key"))?;
            keys.push((kid(&key), key));
        }
        if keys.is_empty() || keys.len() > Self::MAX {
            return Err(Malformed("a JWKS holds 1 to 16 Ed25519 keys"));
        }
        Ok(Self(keys))
    }

    /// RFC 7517 and 8037. `kid` is the token's kid in base64url.
    pub fn to_jwks(&self) -> serde_json::Value {
        let key = |(kid, key): &([u8; 8], VerifyingKey)| {
            json!({
                "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
                "kid": URL_SAFE_NO_PAD.encode(kid), "x": URL_SAFE_NO_PAD.encode(key.as_bytes()),
            })
        };
        json!({ "keys": self.0.iter().map(key).collect::<Vec<_>>() })
    }

    /// COSE_KeySet of RFC 9052: a CBOR array of COSE_Keys.
    pub fn to_cose_key_set(&self) -> Vec<u8> {
        let key = |(kid, key): &([u8; 8], VerifyingKey)| {
            let mut cose = cose_key(&HolderKey::Ed25519 { x: key.to_bytes() });
            cose.key_id = kid.to_vec();
            cose.alg = Some(coset::Algorithm::Assigned(iana::Algorithm::EdDSA));
            cose.to_cbor_value().unwrap_or(Value::Null)
        };
        let mut bytes = Vec::new();
        let set = Value::Array(self.0.iter().map(key).collect());
        // Writing to memory does not fail, and every value above can be encoded.
        let _ = coset::cbor::ser::into_writer(&set, &mut bytes);
        bytes
    }
}
