//! The key as a signed CWT: mint and verify. Used by the vehicle actors, by HTTP (`/v1/keyset`) and by the simulator's car.
//!
//! coset only encodes; time, audience, `cnf`, duplicate map keys, unknown permissions and the size cap are checked here.
//! It never logs or shows key material, and reads no clock: time is an argument.

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;

/// The fleet's signing key with its name.
pub struct Signer {
    key: SigningKey,
    issuer: String,
}

/// A signing key that cannot be used; the text is fit for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signing key is not usable: {0}")]
pub struct BadSigningKey(&'static str);

impl Signer {
    /// From PKCS#8 PEM.
    pub fn from_pem(pem: &str, issuer: &str) -> Result<Self, BadSigningKey> {
        let key = SigningKey::from_pkcs8_pem(pem).map_err(|_| BadSigningKey("not an Ed25519 PKCS#8 PEM"))?;
        Ok(Self { key, issuer: issuer.to_owned() })
    }

    /// From the 32 bytes of an Ed25519 secret key.
    pub fn from_seed(seed: &[u8; 32], issuer: &str) -> Self {
        Self { key: SigningKey::from_bytes(seed), issuer: issuer.to_owned() }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }
}
