//! `Stripe-Signature: t=<unix>,v1=<hex>[,v1=…]` over `"{t}.{raw body}"`.

use ring::hmac;

use crate::http::payments::form::NotSigned;
use crate::http::payments::standard::unix_seconds;

pub const HEADER: &str = "stripe-signature";

/// A rotation has two or three at once.
const MAX_SIGNATURES: usize = 16;

/// The time the body was signed at (Unix seconds), when any signature fits under any of the secrets and that time is
/// within `tolerance_s` of `now_s`, before or after. Signatures are compared in constant time, and the time is looked
/// at last, so that a stranger learns nothing from it.
pub fn verify(header: &str, body: &[u8], secrets: &[String], now_s: i64, tolerance_s: u64) -> Result<i64, NotSigned> {
    let Parsed { time_text, time_s, signatures } = parse(header)?;
    let mut signed = Vec::with_capacity(time_text.len() + 1 + body.len());
    signed.extend_from_slice(time_text.as_bytes());
    signed.push(b'.');
    signed.extend_from_slice(body);
    let keys = secrets.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    let fits =
        keys.into_iter().any(|key| signatures.iter().any(|signature| hmac::verify(&key, &signed, signature).is_ok()));
    if !fits {
        return Err(NotSigned::Wrong);
    }
    if now_s.abs_diff(time_s) > tolerance_s {
        return Err(NotSigned::OutOfTime);
    }
    Ok(time_s)
}

/// The header for a body; what the network does.
#[cfg(test)]
pub fn sign(body: &[u8], secret: &str, time_s: i64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut signed = format!("{time_s}.").into_bytes();
    signed.extend_from_slice(body);
    format!("t={time_s},v1={}", hex::encode(hmac::sign(&key, &signed)))
}

#[derive(Debug)]
struct Parsed<'a> {
    /// As it was written: that is what was signed.
    time_text: &'a str,
    time_s: i64,
    signatures: Vec<[u8; 32]>,
}

fn parse(header: &str) -> Result<Parsed<'_>, NotSigned> {
    let malformed = |detail| NotSigned::Malformed(HEADER, detail);
    let mut time: Option<&str> = None;
    let mut signatures = Vec::new();
    for part in header.split(',') {
        let (name, value) = part.trim().split_once('=').ok_or(malformed("parts are name=value"))?;
        match name {
            "t" if time.is_some() => return Err(malformed("more than one t")),
            "t" => time = Some(value),
            "v1" if signatures.len() >= MAX_SIGNATURES => return Err(malformed("more than 16 signatures")),
            "v1" => {
                let mut signature = [0_u8; 32];
                hex::decode_to_slice(value, &mut signature).map_err(|_| malformed("v1 is 64 hex digits"))?;
                signatures.push(signature);
            }
            // Other schemes (v0 in the network's test mode) prove nothing here.
            _ => {}
        }
    }
    let time_text = time.ok_or(malformed("no t"))?;
    let time_s = unix_seconds(time_text);
    let time_s = time_s.ok_or(malformed("t is a time in Unix seconds"))?;
    if signatures.is_empty() {
        return Err(malformed("no v1"));
    }
    Ok(Parsed { time_text, time_s, signatures })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "whsec_test_secret";
    const TIME: i64 = 1_700_000_000;
    const BODY: &[u8] = br#"{"id":"evt_test","type":"issuing_authorization.request"}"#;
    const SIGNATURE: &str = "a46c36abd4564fc2c350b6c21e5a8a24cf049cb2b1fee0f2a734e386bb0ce5f1";

    fn secrets(list: &[&str]) -> Vec<String> {
        list.iter().map(|secret| (*secret).to_owned()).collect()
    }

    /// Two independent implementations made this signature.
    #[test]
    fn the_test_vector_is_verified_and_made() {
        let header = format!("t={TIME},v1={SIGNATURE}");
        assert_eq!(verify(&header, BODY, &secrets(&[SECRET]), TIME, 300), Ok(TIME));
        assert_eq!(sign(BODY, SECRET, TIME), header);
    }

    #[test]
    fn any_signature_under_any_secret_will_do() {
        let other = "00".repeat(32);
        let header = format!("t={TIME},v0=x,v1={other},v1={SIGNATURE}");
        assert_eq!(verify(&header, BODY, &secrets(&["whsec_old", SECRET]), TIME, 300), Ok(TIME));
        assert_eq!(verify(&header, BODY, &secrets(&["whsec_old"]), TIME, 300), Err(NotSigned::Wrong));
    }

    #[test]
    fn a_signature_is_good_for_the_tolerance_in_both_directions() {
        let header = format!("t={TIME},v1={SIGNATURE}");
        let at = |now_s| verify(&header, BODY, &secrets(&[SECRET]), now_s, 300);
        assert_eq!((at(TIME + 300), at(TIME - 300)), (Ok(TIME), Ok(TIME)));
        assert_eq!(at(TIME + 301), Err(NotSigned::OutOfTime));
        assert_eq!(at(TIME - 301), Err(NotSigned::OutOfTime));
    }

    #[test]
    fn malformed_headers_say_what_is_wrong() {
        for header in [
            "",
            "t",
            "t=1700000000",
            &format!("v1={SIGNATURE}"),
            &format!("t=,v1={SIGNATURE}"),
            &format!("t=17e8,v1={SIGNATURE}"),
            &format!("t=-1,v1={SIGNATURE}"),
            &format!("t=9999999999999,v1={SIGNATURE}"),
            &format!("t={TIME},t={TIME},v1={SIGNATURE}"),
            &format!("t={TIME},v1=abc"),
            &format!("t={TIME},v1={}", "zz".repeat(32)),
            &format!("t={TIME}{}", format!(",v1={SIGNATURE}").repeat(17)),
        ] {
            let outcome = verify(header, BODY, &secrets(&[SECRET]), TIME, 300);
            assert!(matches!(outcome, Err(NotSigned::Malformed(..))), "{header}: {outcome:?}");
        }
    }

    #[test]
    fn a_changed_body_or_time_does_not_fit() {
        let header = format!("t={TIME},v1={SIGNATURE}");
        assert_eq!(verify(&header, b"{}", &secrets(&[SECRET]), TIME, 300), Err(NotSigned::Wrong));
        let moved = format!("t={},v1={SIGNATURE}", TIME + 1);
        assert_eq!(verify(&moved, BODY, &secrets(&[SECRET]), TIME, 300), Err(NotSigned::Wrong));
        // The same number written otherwise was not signed.
        let padded = format!("t=0{TIME},v1={SIGNATURE}");
        assert_eq!(verify(&padded, BODY, &secrets(&[SECRET]), TIME, 300), Err(NotSigned::Wrong));
    }

    proptest! {
        #[test]
        fn any_header_is_answered_and_none_is_taken(header in ".{0,300}") {
            prop_assert!(verify(&header, BODY, &secrets(&[SECRET]), TIME, 300).is_err());
        }

        #[test]
        fn any_arrangement_of_parts_is_answered(
            parts in proptest::collection::vec("(t|v0|v1)=([0-9]{0,14}|[0-9a-f]{64}|[g-z]{2})", 0..20),
        ) {
            prop_assert!(verify(&parts.join(","), BODY, &secrets(&[SECRET]), TIME, 300).is_err());
        }

        #[test]
        fn what_is_signed_is_verified(body in proptest::collection::vec(any::<u8>(), 0..200), skew in -300i64..=300) {
            let header = sign(&body, SECRET, TIME);
            prop_assert_eq!(verify(&header, &body, &secrets(&["x", SECRET]), TIME + skew, 300), Ok(TIME));
        }
    }
}
