//! No body of a proved sender breaks a form: it is answered as the network expects, never by a 5xx, and no card number
//! gets anywhere.

use std::cell::RefCell;

use actix_web::test::{TestRequest, call_service, read_body};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use serde_json::Value;

use super::golden_tests::{config, golden};
use super::standard;
use super::stripe::signature;
use super::tests::{furnish, with_guard};
use crate::domain::Role;
use crate::http::testing::{NOW_MS, app_with, bearer, service};

const NOW_S: i64 = NOW_MS / 1_000;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ROUTES: [(&str, &str); 6] = [
    ("/v1/payments/stripe", "stripe_authorization_approved"),
    ("/v1/payments/authorizations", "own_authorization_approved"),
    ("/v1/payments/captures", "own_capture_without_question"),
    ("/v1/payments/reversals", "own_reversal"),
    ("/v1/payments/marqeta", "marqeta_authorization_approved"),
    ("/v1/payments/lithic", "lithic_authorization_approved"),
];

fn signed(path: &str, body: &[u8]) -> TestRequest {
    let request = TestRequest::post().uri(path).insert_header(("Content-Type", "application/json"));
    let request = match path {
        "/v1/payments/stripe" => request.insert_header(("Stripe-Signature", signature::sign(body, "whsec_one", NOW_S))),
        "/v1/payments/marqeta" => request.insert_header(("Authorization", "Basic Y2FyZGVhOmNvcnJlY3QtaG9yc2U=")),
        _ => standard::sign("msg_fuzz", body, SECRET, NOW_S).into_iter().fold(request, TestRequest::insert_header),
    };
    request.set_payload(body.to_vec())
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "4242424242424242",
            "4242 4242 4242 4242",
            "2026-11-21T22:00:00Z",
            "9999-99-99T99:99:99Z",
            "EUR",
            "-0.001",
            "pgfs.authorization",
            "pgfs.authorization.reversal",
            "issuing_transaction.created",
            "1e400",
            "NaN",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,10}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Puts `value` in place of the `nth` value of the body, counted in depth.
fn put(body: &mut Value, nth: &mut usize, value: &Value) {
    if *nth == 0 {
        *body = value.clone();
    }
    *nth = nth.wrapping_sub(1);
    match body {
        Value::Object(fields) => fields.values_mut().for_each(|field| put(field, nth, value)),
        Value::Array(items) => items.iter_mut().for_each(|item| put(item, nth, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A golden body with a value changed, or its text damaged, or no such body at all.
fn bodies() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let example =
        |route: usize| -> Value { serde_json::from_str(golden(ROUTES[route].1)["body"].as_str().unwrap()).unwrap() };
    let changed = (0..ROUTES.len(), 0..60_usize, any_value()).prop_map(move |(route, nth, value)| {
        let (mut body, mut nth) = (example(route), nth);
        put(&mut body, &mut nth, &value);
        (route, body.to_string().into_bytes())
    });
    let damaged = (0..ROUTES.len(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(
        move |(route, at, byte, cuts)| {
            let mut text = example(route).to_string().into_bytes();
            let at = at.index(text.len());
            if cuts {
                text.truncate(at)
            } else {
                text[at] = byte
            }
            (route, text)
        },
    );
    let noise = (0..ROUTES.len(), prop::collection::vec(any::<u8>(), 0..200));
    prop_oneof![4 => changed, 2 => damaged, 1 => noise]
}

#[actix_web::test]
async fn no_body_of_a_proved_sender_breaks_a_form() {
    let (app, store) = app_with(config());
    let bench = with_guard(app, store);
    let service = service!(bench.app);
    furnish!(&service);
    let cases = RefCell::new(Vec::new());
    let mut runner = TestRunner::new_with_rng(
        Runs { cases: 1_500, failure_persistence: None, ..Runs::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let gathered = runner.run(&bodies(), |case| {
        cases.borrow_mut().push(case);
        Ok(())
    });
    gathered.unwrap();
    for (route, body) in cases.into_inner() {
        let path = ROUTES[route].0;
        let answer = call_service(&service, signed(path, &body).to_request()).await;
        let status = answer.status().as_u16();
        let text = String::from_utf8(read_body(answer).await.to_vec()).unwrap();
        let what = || format!("{path}: {} -> {status} {text}", String::from_utf8_lossy(&body));
        let expected: &[u16] = match path {
            "/v1/payments/stripe" | "/v1/payments/lithic" => &[200],
            "/v1/payments/marqeta" => &[200, 402],
            "/v1/payments/authorizations" => &[200, 400],
            _ => &[202, 400],
        };
        assert!(expected.contains(&status), "{}", what());
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{}", what());
        assert!(!text.contains("42424242") && !text.contains("4242 4242"), "{}", what());
    }
    assert!(!bench.store.everything().contains("4242424242"), "a card number was kept");
}
