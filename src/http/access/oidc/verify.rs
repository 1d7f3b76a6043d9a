//! Is a token the provider's, for us, and in force? Signatures are `jsonwebtoken`'s; the times are judged by our clock.

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::domain::Timestamp;

/// What may sign. No HMAC: its key would be one that others know.
const SIGNED_BY: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// How far the provider's clock may be off ours.
const LEEWAY_MS: i64 = 60_000;

/// Of ID tokens (OpenID Connect Core, 2) and access tokens (RFC 9068); what is not named here is in `other`.
#[derive(Debug, Deserialize)]
pub struct Claims {
    pub sub: String,
    /// Seconds since 1970.
    exp: f64,
    nbf: Option<f64>,
    pub nonce: Option<String>,
    azp: Option<String>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Claims {
    pub fn expires_at(&self) -> Timestamp {
        Timestamp((self.exp * 1000.0) as i64)
    }

    /// The claim `path`, into objects by dots, unless a claim has that very name.
    pub fn get(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.other.get(path) {
            return Some(value);
        }
        let mut names = path.split('.');
        let first = self.other.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}

/// Why a token is refused; for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The provider may have new keys: worth another look at them.
    UnknownKey,
    Not(String),
}

/// Who must have made a token, and for whom.
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
}

pub fn verify(token: &str, keys: &[Jwk], expected: &Expected<'_>, now: Timestamp) -> Result<Claims, Refused> {
    let not = |error: &dyn std::fmt::Display| Refused::Not(error.to_string());
    let header = decode_header(token).map_err(|error| not(&error))?;
    if !SIGNED_BY.contains(&header.alg) {
        return Err(not(&format_args!("signed by {:?}", header.alg)));
    }
    let is_for_signatures =
        |key: &&Jwk| key.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    let mut fitting = keys.iter().filter(is_for_signatures);
    let key = match &header.kid {
        Some(kid) => fitting.find(|key| key.common.key_id.as_ref() == Some(kid)),
        // Without a name only where there is no choice.
        None => fitting.next().filter(|_| fitting.next().is_none()),
    };
    let key = DecodingKey::from_jwk(key.ok_or(Refused::UnknownKey)?).map_err(|error| not(&error))?;
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[expected.issuer]);
    validation.set_audience(&[expected.audience]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    // By our own clock, below.
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    let claims = decode::<Claims>(token, &key, &validation).map_err(|error| not(&error))?.claims;
    if claims.expires_at().plus_ms(LEEWAY_MS) <= now {
        return Err(not(&"it has expired"));
    }
    if claims.nbf.is_some_and(|from| Timestamp((from * 1000.0) as i64).plus_ms(-LEEWAY_MS) > now) {
        return Err(not(&"it is not in force yet"));
    }
    Ok(claims)
}

impl Claims {
    /// Was it given to `client` to log somebody in who asked with `nonce`?
    pub fn is_log_in_of(&self, client: &str, nonce: &str) -> bool {
        self.nonce.as_deref() == Some(nonce) && self.azp.as_deref().is_none_or(|party| party == client)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use ed25519_dalek::pkcs8::EncodePrivateKey;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_298_400_000);
    const EXPECTED: Expected<'_> = Expected { issuer: "https://id.example.org", audience: "cardea" };

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn jwk(seed: u8, kid: &str) -> Jwk {
        let x = base64::Engine::encode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            key(seed).verifying_key().as_bytes(),
        );
        serde_json::from_value(json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig"})).unwrap()
    }

    fn signed(seed: u8, kid: Option<&str>, claims: &Value) -> String {
        let der = key(seed).to_pkcs8_der().unwrap();
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
        encode(&header, claims, &EncodingKey::from_ed_der(der.as_bytes())).unwrap()
    }

    fn claims() -> Value {
        json!({"iss": "https://id.example.org", "aud": ["other", "cardea"], "sub": "u1", "nonce": "n",
            "exp": NOW.as_secs() + 300, "realm": {"roles": ["a", "b"]}})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut all = claims();
        all[name] = value;
        all
    }

    #[test]
    fn a_token_of_the_provider_for_us_is_taken() {
        let keys = [jwk(1, "a"), jwk(2, "b")];
        let taken = verify(&signed(2, Some("b"), &claims()), &keys, &EXPECTED, NOW).unwrap();
        assert_eq!((taken.sub.as_str(), taken.expires_at()), ("u1", NOW.plus_ms(300_000)));
        assert_eq!(taken.get("realm.roles"), Some(&json!(["a", "b"])));
        assert!(taken.is_log_in_of("cardea", "n") && !taken.is_log_in_of("cardea", "m"));
        assert!(verify(&signed(1, None, &claims()), &keys[..1], &EXPECTED, NOW).is_ok(), "one key needs no name");
        let party = verify(&signed(1, Some("a"), &with("azp", json!("other"))), &keys, &EXPECTED, NOW).unwrap();
        assert!(!party.is_log_in_of("cardea", "n"));
    }

    #[test]
    fn any_other_token_is_refused() {
        let keys = [jwk(1, "a"), jwk(2, "b")];
        let refused = |token: &str, now: Timestamp| verify(token, &keys, &EXPECTED, now).expect_err(token);
        for (claim, value) in [
            ("iss", json!("https://evil.example.org")),
            ("iss", Value::Null),
            ("aud", json!("other")),
            ("aud", Value::Null),
            ("exp", json!(NOW.as_secs() - 61)),
            ("exp", json!("4102444800")),
            ("exp", Value::Null),
            ("nbf", json!(NOW.as_secs() + 62)),
            ("nbf", json!("soon")),
            ("sub", json!(7)),
        ] {
            let token = signed(1, Some("a"), &with(claim, value.clone()));
            assert!(matches!(refused(&token, NOW), Refused::Not(_)), "{claim} {value}");
        }
        assert_eq!(refused(&signed(3, Some("c"), &claims()), NOW), Refused::UnknownKey);
        assert_eq!(refused(&signed(1, None, &claims()), NOW), Refused::UnknownKey, "which of the two?");
        assert!(matches!(refused(&signed(2, Some("a"), &claims()), NOW), Refused::Not(_)), "another's signature");
        let good = signed(1, Some("a"), &claims());
        let (head, _) = good.rsplit_once('.').unwrap();
        for token in [format!("{head}."), head.to_owned(), String::new(), "a.b.c".into(), format!("{good}x")] {
            assert!(matches!(refused(&token, NOW), Refused::Not(_)), "{token}");
        }
        // "none", and an HMAC keyed by what everybody may read.
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1MSJ9.";
        assert!(matches!(refused(none, NOW), Refused::Not(_)));
        let header = Header { kid: Some("a".into()), ..Header::new(Algorithm::HS256) };
        let known = EncodingKey::from_secret(key(1).verifying_key().as_bytes());
        assert!(matches!(refused(&encode(&header, &claims(), &known).unwrap(), NOW), Refused::Not(_)));
        assert!(verify(&good, &keys, &EXPECTED, NOW.plus_ms(300_000 + LEEWAY_MS - 1)).is_ok());
        assert!(matches!(refused(&good, NOW.plus_ms(300_000 + LEEWAY_MS)), Refused::Not(_)));
    }
}
