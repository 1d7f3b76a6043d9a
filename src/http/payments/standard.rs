//! Standard Webhooks: `webhook-signature: v1,<base64 HMAC-SHA256 of "{id}.{timestamp}.{body}">`.

use actix_web::http::header::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::form::{NotSigned, Signed};

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

const MAX_SIGNATURES: usize = 16;
const MAX_HEADER_LEN: usize = 4_096;

/// Any signature under any secret will do, and the time is looked at last, so that a stranger learns nothing from it.
pub fn verify(
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[String],
    now_s: i64,
    tolerance_s: u64,
) -> Result<Signed, NotSigned> {
    let id = header(headers, ID)?;
    let time_text = header(headers, TIMESTAMP)?;
    let signatures = signatures(header(headers, SIGNATURE)?)?;
    if !(1..=255).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(NotSigned::Malformed(ID, "1 to 255 visible ASCII characters"));
    }
    let time_s = unix_seconds(time_text).ok_or(NotSigned::Malformed(TIMESTAMP, "a time in Unix seconds"))?;
    let signed = signed_bytes(id, time_text, body);
    let keys = secrets.iter().filter_map(|secret| key(secret));
    let fits =
        keys.into_iter().any(|key| signatures.iter().any(|signature| hmac::verify(&key, &signed, signature).is_ok()));
    if !fits {
        return Err(NotSigned::Wrong);
    }
    if now_s.abs_diff(time_s) > tolerance_s {
        return Err(NotSigned::OutOfTime);
    }
    Ok(Signed { at_s: time_s, message_id: Some(id.to_owned()) })
}

/// The value of a header that must come once.
pub fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, NotSigned> {
    let mut values = headers.get_all(name);
    let value = values.next().ok_or(NotSigned::Missing(name))?;
    if values.next().is_some() {
        return Err(NotSigned::Malformed(name, "more than one such header"));
    }
    if value.len() > MAX_HEADER_LEN {
        return Err(NotSigned::Malformed(name, "longer than 4096 bytes"));
    }
    value.to_str().map_err(|_| NotSigned::Malformed(name, "not ASCII"))
}

/// Digits only: what was signed is the text, and `+1` or ` 1` would be another text of the same number.
pub fn unix_seconds(text: &str) -> Option<i64> {
    let is_number = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    Some(text).filter(|_| is_number).and_then(|text| text.parse().ok())
}

fn signatures(header: &str) -> Result<Vec<Vec<u8>>, NotSigned> {
    let mut found = Vec::new();
    for part in header.split(' ').filter(|part| !part.is_empty()) {
        let (version, text) =
            part.split_once(',').ok_or(NotSigned::Malformed(SIGNATURE, "parts are version,signature"))?;
        // Other schemes (v1a is a public-key one) prove nothing here.
        if version != "v1" {
            continue;
        }
        if found.len() >= MAX_SIGNATURES {
            return Err(NotSigned::Malformed(SIGNATURE, "more than 16 signatures"));
        }
        found.push(STANDARD.decode(text).map_err(|_| NotSigned::Malformed(SIGNATURE, "v1 is base64"))?);
    }
    if found.is_empty() { Err(NotSigned::Malformed(SIGNATURE, "no v1")) } else { Ok(found) }
}

fn signed_bytes(id: &str, time_text: &str, body: &[u8]) -> Vec<u8> {
    let mut signed = Vec::with_capacity(id.len() + time_text.len() + 2 + body.len());
    signed.extend_from_slice(id.as_bytes());
    signed.push(b'.');
    signed.extend_from_slice(time_text.as_bytes());
    signed.push(b'.');
    signed.extend_from_slice(body);
    signed
}

/// `None` for a secret that is not base64; the configuration refuses those.
fn key(secret: &str) -> Option<hmac::Key> {
    let bytes = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// The three headers of a message; what the sender does.
#[cfg(test)]
pub fn sign(id: &str, body: &[u8], secret: &str, time_s: i64) -> [(&'static str, String); 3] {
    // Tests give secrets that are base64.
    let key = key(secret).unwrap();
    let tag = hmac::sign(&key, &signed_bytes(id, &time_s.to_string(), body));
    [(ID, id.to_owned()), (TIMESTAMP, time_s.to_string()), (SIGNATURE, format!("v1,{}", STANDARD.encode(tag)))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    /// The published vector of Standard Webhooks.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const VECTOR: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(id: &str, time: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(ID, id), (TIMESTAMP, time), (SIGNATURE, signature)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }

    fn check(headers: &HeaderMap, now_s: i64) -> Result<Signed, NotSigned> {
        verify(headers, BODY, &["whsec_b2xkIHNlY3JldCBvZiBsYXN0IHllYXI=".into(), SECRET.into()], now_s, 300)
    }

    #[test]
    fn the_published_vector_is_verified_and_made() {
        let signed = Signed { at_s: TIME, message_id: Some(MESSAGE.into()) };
        assert_eq!(check(&headers(MESSAGE, "1614265330", VECTOR), TIME), Ok(signed.clone()));
        let two = format!("v1a,xyz v1,AAAA {VECTOR}");
        assert_eq!(check(&headers(MESSAGE, "1614265330", &two), TIME), Ok(signed));
        assert_eq!(sign(MESSAGE, BODY, SECRET, TIME)[2].1, VECTOR);
    }

    #[test]
    fn a_signature_is_good_for_the_tolerance_in_both_directions() {
        let headers = headers(MESSAGE, "1614265330", VECTOR);
        assert!(check(&headers, TIME + 300).is_ok() && check(&headers, TIME - 300).is_ok());
        assert_eq!(check(&headers, TIME + 301), Err(NotSigned::OutOfTime));
        assert_eq!(check(&headers, TIME - 301), Err(NotSigned::OutOfTime));
    }

    #[test]
    fn what_is_not_signed_so_is_refused() {
        assert_eq!(check(&headers("msg_other", "1614265330", VECTOR), TIME), Err(NotSigned::Wrong));
        assert_eq!(check(&headers(MESSAGE, "1614265331", VECTOR), TIME), Err(NotSigned::Wrong));
        assert_eq!(check(&headers(MESSAGE, "01614265330", VECTOR), TIME), Err(NotSigned::Wrong));
        assert_eq!(check(&HeaderMap::new(), TIME), Err(NotSigned::Missing(ID)));
        for (id, time, signature) in [
            (MESSAGE, "x", VECTOR),
            (MESSAGE, "-1", VECTOR),
            ("", "1614265330", VECTOR),
            (MESSAGE, "1614265330", ""),
            (MESSAGE, "1614265330", "v1"),
            (MESSAGE, "1614265330", "v2,AAAA"),
            (MESSAGE, "1614265330", "v1,?"),
            (MESSAGE, "1614265330", &"v1,AAAA ".repeat(17)),
        ] {
            let outcome = check(&headers(id, time, signature), TIME);
            assert!(matches!(outcome, Err(NotSigned::Malformed(..))), "{id} {time} {signature}: {outcome:?}");
        }
    }

    proptest! {
        #[test]
        fn any_headers_are_answered_and_none_are_taken(id in ".{0,40}", time in ".{0,14}", signature in ".{0,90}") {
            prop_assert!(check(&headers(&id, &time, &signature), TIME).is_err());
        }
    }
}
