//! The key as a signed CWT: mint and verify. Used by the vehicle actors, by HTTP (`/v1/keyset`) and by the simulator's car.
//!
//! coset only encodes; time, audience, `cnf`, unknown claims and permissions, one encoding only and the size cap are
//! checked here. Nothing here logs or shows key material, and it reads no clock: time is an argument.

mod claims;
mod delegation;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod holder;
mod keyset;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use ring::digest::{SHA256, digest};

use crate::domain::key::{HolderKey, KeyGrant};
use crate::domain::{Function, KeyId, Timestamp, VehicleId};

pub use claims::VerifiedToken;
pub use delegation::{Delegation, delegate, read_delegated, verify_delegated};
pub use holder::{Jwk, cose_key, holder_key_from_cose};
pub use keyset::Keyset;

/// The largest token in bytes before base64; looked at before anything is parsed.
pub const MAX_TOKEN_LEN: usize = 1024;

/// Signed with every token, so that no other COSE message of ours can stand for a key.
const EXTERNAL_AAD: &[u8] = b"cardea-key-v1";

/// Why a token is not a key. Nothing of the token's content is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than 1024 bytes")]
    TooLong,
    #[error("the token is not base64url without padding")]
    NotBase64,
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    #[error("the token is signed by a key that is not in the key set")]
    UnknownSigner,
    #[error("the signature is wrong")]
    BadSignature,
    #[error("the token is for another vehicle")]
    WrongAudience,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is expired")]
    Expired,
    #[error("the token grants a permission that is not known")]
    UnknownPermission,
    #[error("the key may not be handed on, or not a second time")]
    NotDelegable,
    #[error("the token was delegated from another one")]
    OtherParent,
}

impl TokenError {
    /// The word a car answers a phone with.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong | Self::NotBase64 | Self::Malformed(_) => "malformed",
            Self::UnknownSigner | Self::BadSignature => "bad_signature",
            Self::WrongAudience => "wrong_vehicle",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::UnknownPermission => "unknown_permission",
            Self::NotDelegable => "delegation_not_allowed",
            Self::OtherParent => "wrong_parent",
        }
    }
}

/// What every signed checkpoint begins with.
pub const CHECKPOINT_PREFIX: &str = "cardea-checkpoint-v1\n";

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
    /// What leaves room in a token for everything else.
    const MAX_ISSUER_LEN: usize = 128;

    /// From PKCS#8 PEM, as `cardea init`, OpenSSL and ring write it.
    pub fn from_pem(pem: &str, issuer: &str) -> Result<Self, BadSigningKey> {
        if !(1..=Self::MAX_ISSUER_LEN).contains(&issuer.len()) {
            return Err(BadSigningKey("the issuer has 1 to 128 bytes"));
        }
        let key = SigningKey::from_pkcs8_pem(pem)
            .ok()
            .or_else(|| seed_of_ring_pem(pem).map(|seed| SigningKey::from_bytes(&seed)))
            .ok_or(BadSigningKey("not an Ed25519 PKCS#8 PEM"))?;
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

    /// The set with this one key.
    pub fn keyset(&self) -> Keyset {
        Keyset::of(self.key.verifying_key())
    }

    /// The token for a grant, base64url without padding; the same inputs give the same token.
    ///
    /// Times are cut to seconds. `holder` is the holder's name for the fleet, at most 128 bytes (the edge checks it:
    /// a longer one could make a token that no car accepts).
    pub fn mint(&self, grant: &KeyGrant, vehicle: &VehicleId, holder: &str, issued_at: Timestamp) -> String {
        let frame = claims::Frame { issuer: &self.issuer, vehicle, holder, issued_at, parent: None };
        let payload = claims::encode(grant, &frame);
        let protected = protected_header(iana::Algorithm::EdDSA, &kid(&self.key.verifying_key()));
        let sign1 = CoseSign1Builder::new()
            .protected(protected)
            .payload(payload)
            .create_signature(EXTERNAL_AAD, |message| self.key.sign(message).to_bytes().to_vec())
            .build();
        URL_SAFE_NO_PAD.encode(sign1.to_tagged_vec().unwrap_or_default())
    }

    /// This key's name in tokens and checkpoints.
    pub fn kid(&self) -> [u8; 8] {
        kid(&self.key.verifying_key())
    }

    /// Signs a witness of the journal; see `checkpoints`. Its text can begin no COSE structure.
    pub fn sign_checkpoint(&self, text: &str) -> [u8; 64] {
        debug_assert!(
            text.starts_with(CHECKPOINT_PREFIX),
            "a key signs nothing that could be taken for something else"
        );
        self.key.sign(text.as_bytes()).to_bytes()
    }

    /// 32 bytes that only the holder of this key can compute, always the same for one purpose and input.
    ///
    /// For what must be given again on a repeat, yet may not be stored. Ed25519 signatures are deterministic, and the
    /// prefix can begin no COSE structure.
    pub fn derive(&self, purpose: &str, input: &[u8]) -> [u8; 32] {
        let message = [b"cardea-derive-v1\0", purpose.as_bytes(), b"\0", input].concat();
        sha256(&self.key.sign(&message).to_bytes())
    }
}

/// ring writes the public key into PKCS#8 v2 in a form that strict parsers refuse; the seed stands at a fixed place.
fn seed_of_ring_pem(pem: &str) -> Option<[u8; 32]> {
    // After the outer length: version 1, Ed25519, an octet string in an octet string.
    const HEAD: [u8; 14] = *b"\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).ok()?;
    der.get(2..)?.strip_prefix(&HEAD)?.get(..32)?.try_into().ok()
}

/// A signing key's name in tokens: the first 8 bytes of the SHA-256 of the public key.
pub fn kid(key: &VerifyingKey) -> [u8; 8] {
    let mut kid = [0; 8];
    kid.copy_from_slice(&sha256(key.as_bytes())[..8]);
    kid
}

fn protected_header(algorithm: iana::Algorithm, kid: &[u8]) -> coset::Header {
    HeaderBuilder::new().algorithm(algorithm).key_id(kid.to_vec()).build()
}

/// Which key a token claims to be, unverified; `None` when it cannot be read at all.
pub fn claimed_key_id(token: &[u8]) -> Option<KeyId> {
    if token.len() > MAX_TOKEN_LEN {
        return None;
    }
    claims::claimed_key_id(CoseSign1::from_tagged_slice(token).ok()?.payload.as_deref()?)
}

/// Checks a token in its text form; see [`verify`].
pub fn verify_text(
    text: &str,
    keyset: &Keyset,
    audience: &VehicleId,
    now: Timestamp,
) -> Result<VerifiedToken, TokenError> {
    verify(&decode(text)?, keyset, audience, now)
}

/// The bytes of a token's text form.
pub fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    if text.len() > MAX_TOKEN_LEN.div_ceil(3) * 4 {
        return Err(TokenError::TooLong);
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::NotBase64)
}

/// Checks everything about a token that does not need the vehicle's own memory (revocation and generation do).
pub fn verify(
    token: &[u8],
    keyset: &Keyset,
    audience: &VehicleId,
    now: Timestamp,
) -> Result<VerifiedToken, TokenError> {
    let sign1 = parse_sign1(token, iana::Algorithm::EdDSA)?;
    let key = keyset.get(&sign1.protected.header.key_id).ok_or(TokenError::UnknownSigner)?;
    sign1.verify_signature(EXTERNAL_AAD, |signature, message| {
        let signature = Signature::from_slice(signature).map_err(|_| TokenError::BadSignature)?;
        key.verify_strict(message, &signature).map_err(|_| TokenError::BadSignature)
    })?;
    let verified = read(&sign1, token)?;
    if verified.parent.is_some() {
        return Err(TokenError::Malformed("the fleet delegates from nothing"));
    }
    if verified.vehicle != *audience {
        return Err(TokenError::WrongAudience);
    }
    in_time(&verified, now)?;
    Ok(verified)
}

fn read(sign1: &CoseSign1, token: &[u8]) -> Result<VerifiedToken, TokenError> {
    let payload = sign1.payload.as_deref().ok_or(TokenError::Malformed("no payload"))?;
    claims::decode(payload, sha256(token))
}

fn in_time(verified: &VerifiedToken, now: Timestamp) -> Result<(), TokenError> {
    if now < verified.grant.not_before {
        return Err(TokenError::NotYetValid);
    }
    // RFC 8392: not to be accepted on or after `exp`.
    if now >= verified.grant.not_after {
        return Err(TokenError::Expired);
    }
    Ok(())
}

/// The envelope, in the one encoding that [`Signer::mint`] writes: what the signature does not cover may not vary.
fn parse_sign1(token: &[u8], algorithm: iana::Algorithm) -> Result<CoseSign1, TokenError> {
    if token.len() > MAX_TOKEN_LEN {
        return Err(TokenError::TooLong);
    }
    let sign1 = CoseSign1::from_tagged_slice(token).map_err(|_| TokenError::Malformed("not a COSE_Sign1"))?;
    let expected = protected_header(algorithm, &sign1.protected.header.key_id);
    if sign1.protected.header != expected {
        return Err(TokenError::Malformed("the protected header is not the signing key's algorithm and kid"));
    }
    if sign1.unprotected != coset::Header::default() {
        return Err(TokenError::Malformed("the unprotected header is not empty"));
    }
    // A copy, because encoding consumes.
    if sign1.clone().to_tagged_vec().ok().as_deref() != Some(token) {
        return Err(TokenError::Malformed("not the shortest encoding"));
    }
    Ok(sign1)
}

/// What a phone signs to use a key at the car: the car's nonce, the last token's hash and the function's number.
pub fn use_message(nonce: &[u8; 32], token_hash: &[u8; 32], function: Function) -> [u8; 65] {
    let mut message = [0; 65];
    message[..32].copy_from_slice(nonce);
    message[32..64].copy_from_slice(token_hash);
    message[64] = function as u8;
    message
}

/// Did the holder sign this? ES256 as `r || s`, or EdDSA; 64 bytes either way.
pub fn holder_signed(holder: &HolderKey, message: &[u8], signature: &[u8]) -> bool {
    holder::signed(holder, message, signature)
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// The CBOR of something that cannot fail to encode; coset's `to_vec` fails only for duplicate labels.
fn to_cbor<T: CborSerializable>(item: T) -> Vec<u8> {
    item.to_vec().unwrap_or_default()
}
