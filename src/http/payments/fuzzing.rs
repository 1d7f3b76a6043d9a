//! Body for [`crate::fuzzing`]: what a network, or whoever calls itself one, may send to a form.

use std::sync::OnceLock;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::form::{Message, PaymentForm, Received, Signed, Verdict};
use super::lithic::Lithic;
use super::marqeta::Marqeta;
use super::own::Own;
use super::stripe::Stripe;
use crate::config::Payments;
use crate::domain::Timestamp;
use crate::token::sha256;

const NOW: Timestamp = Timestamp(1_795_298_400_000);
/// What each form's proof stands in; the first line of the input goes into all of them.
const HEADERS: [&str; 4] = ["stripe-signature", "webhook-id", "webhook-timestamp", "webhook-signature"];

fn payments() -> &'static Payments {
    static PAYMENTS: OnceLock<Payments> = OnceLock::new();
    PAYMENTS.get_or_init(|| {
        let mut payments = Payments::default();
        payments.stripe.secrets = vec!["whsec_one".into()];
        payments.own.secrets = vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()];
        payments.lithic.secrets = payments.own.secrets.clone();
        payments.marqeta.secrets = vec!["cardea:correct-horse".into()];
        payments
    })
}

/// The first byte says which form and whether the proof is looked at; then a line of headers, tab between; then the body.
pub fn webhook(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let (line, body) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) if first & 0x80 != 0 => (&rest[..end], &rest[end + 1..]),
        _ => (&rest[..0], rest),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in HEADERS.into_iter().chain(["authorization"]).zip(line.split(|byte| *byte == b'\t')) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    match first & 0x07 {
        0 => form(&Stripe, &headers, body),
        1 => form(&Own::Authorization, &headers, body),
        2 => form(&Own::Capture, &headers, body),
        3 => form(&Own::Reversal, &headers, body),
        4 | 5 => form(&Marqeta, &headers, body),
        _ => form(&Lithic, &headers, body),
    }
}

/// All that happens to a message but the guard's judgement.
fn form<F: PaymentForm>(form: &F, headers: &HeaderMap, body: &[u8]) {
    let payments = payments();
    let settings = F::settings(payments);
    let _ = form.verify(headers, body, settings, NOW);
    let signed = Signed { at_s: NOW.as_secs(), message_id: Some("msg_fuzz".into()) };
    let body_sha256 = hex::encode(sha256(body));
    let received =
        Received { body, body_sha256: &body_sha256, signed: &signed, now: NOW, tolerance_s: settings.tolerance_s };
    let glance = form.glance(body);
    let verdict = Verdict { approved: false, amount_minor: None, decided: None, fallback_reason: "not_in_time" };
    let answer = form.answer(payments, &verdict, &glance);
    assert!(!answer.status().is_server_error(), "a question is answered, whatever it is");
    match form.read(&received) {
        Ok(Message::Postings(postings)) => assert!(postings.len() <= 64, "{} postings of one message", postings.len()),
        Ok(Message::Question(_) | Message::Nothing { .. }) => {}
        Err(unfit) => drop(form.refuse(&unfit)),
    }
    let acknowledged = form.acknowledge(&glance, None);
    assert!(!acknowledged.status().is_server_error());
}
