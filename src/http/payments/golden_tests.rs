//! The golden requests and answers of each form (`tests/wire/payments/`), and what the guard is told by them.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::test::{TestRequest, call_service, read_body};
use serde_json::{Value, json};

use super::form::{Message, NotSigned, PaymentForm, Question, Received};
use super::lithic::Lithic;
use super::marqeta::Marqeta;
use super::own::Own;
use super::stripe::Stripe;
use super::tests::{Bench, furnish, with_guard};
use crate::config::Config;
use crate::domain::card::{Posting, PostingKind, Product};
use crate::domain::{Money, Role, Timestamp};
use crate::http::testing::{NOW_MS, app_with, bearer, service};

const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LOGIN: &str = "cardea:correct-horse";

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/payments")
}

pub fn golden(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Every file's name, in order: approvals come before what follows them.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.map(|name| name.trim_end_matches(".json").to_owned()).collect();
    names.sort();
    names
}

pub fn config() -> Config {
    let mut config = Config::default();
    config.payments.stripe.secrets = vec!["whsec_one".into()];
    // The older secret of a rotation stands first.
    let older = "whsec_b2xkIHNlY3JldCBvZiBsYXN0IHllYXI=";
    config.payments.own.secrets = vec![older.into(), STANDARD_SECRET.into()];
    config.payments.lithic.secrets = vec![older.into(), STANDARD_SECRET.into()];
    config.payments.marqeta.secrets = vec!["cardea:last-years-word".into(), LOGIN.into()];
    config
}

fn bench() -> Bench {
    let (app, store) = app_with(config());
    with_guard(app, store)
}

fn request(golden: &Value) -> TestRequest {
    let mut request = TestRequest::post().uri(golden["path"].as_str().unwrap());
    for (name, value) in golden["headers"].as_object().unwrap() {
        request = request.insert_header((name.as_str(), value.as_str().unwrap()));
    }
    request.insert_header(("Content-Type", "application/json")).set_payload(golden["body"].as_str().unwrap().to_owned())
}

/// The answer has ids that differ each time; the golden files name them.
fn named(mut answer: Value) -> Value {
    for pointer in ["/decision_id", "/metadata/decision_id"] {
        if let Some(id) = answer.pointer_mut(pointer) {
            assert!(id.as_str().is_some_and(|id| uuid::Uuid::try_parse(id).is_ok()), "{id}");
            *id = "<decision>".into();
        }
    }
    if let Some(version) = answer.pointer_mut("/metadata/rule_version") {
        *version = "<rules>".into();
    }
    answer
}

#[actix_web::test]
async fn every_golden_request_gets_its_golden_answer() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    assert_eq!(golden("own_capture")["now"], Timestamp(NOW_MS).to_string(), "they are signed for this time");
    let names = names();
    assert!(names.len() >= 30, "{names:?}");
    for name in &names {
        let golden = golden(name);
        let answer = call_service(&service, request(&golden).to_request()).await;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = read_body(answer).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        let expected = &golden["answer"];
        assert_eq!((json!(status), named(body)), (expected["status"].clone(), expected["body"].clone()), "{name}");
        for (header, value) in expected["headers"].as_object().into_iter().flatten() {
            assert_eq!(headers.get(header).unwrap(), value.as_str().unwrap(), "{name}: {header}");
        }
    }
    // What is asked again is answered as before, and what is told again is taken once.
    for name in &names {
        let golden = golden(name);
        let answer = call_service(&service, request(&golden).to_request()).await;
        assert_eq!(answer.status().as_u16(), golden["answer"]["status"], "{name}");
        let body: Value = serde_json::from_slice(&read_body(answer).await).unwrap();
        let mut expected = golden["answer"]["body"].clone();
        if expected.get("is_repeat").is_some() {
            expected["is_repeat"] = true.into();
        }
        assert_eq!(named(body), expected, "{name} again");
    }
    let records = bench.store.everything();
    for number in ["4242424242424242", "4242 4242"] {
        assert!(!records.contains(number), "a card number was kept");
    }
}

/// The time of its messages shows whether they are old or from the future.
#[actix_web::test]
async fn replays_from_outside_the_tolerance_are_refused_in_both_directions() {
    let headers = |golden: &Value| {
        let mut headers = HeaderMap::new();
        for (name, value) in golden["headers"].as_object().unwrap() {
            let name = HeaderName::try_from(name.to_lowercase()).unwrap();
            headers.insert(name, HeaderValue::from_str(value.as_str().unwrap()).unwrap());
        }
        headers
    };
    fn verdict<F: PaymentForm>(form: &F, golden: &Value, headers: &HeaderMap, shift_s: i64) -> Option<NotSigned> {
        let config = config();
        let body = golden["body"].as_str().unwrap().as_bytes();
        let now = Timestamp(NOW_MS + shift_s * 1_000);
        form.verify(headers, body, F::settings(&config.payments), now).err()
    }
    for (shift_s, expected) in
        [(0, None), (300, None), (-300, None), (301, Some(NotSigned::OutOfTime)), (-301, Some(NotSigned::OutOfTime))]
    {
        let stripe = golden("stripe_authorization_approved");
        assert_eq!(verdict(&Stripe, &stripe, &headers(&stripe), shift_s), expected, "stripe {shift_s}");
        let own = golden("own_authorization_approved");
        assert_eq!(verdict(&Own::Authorization, &own, &headers(&own), shift_s), expected, "own {shift_s}");
        let lithic = golden("lithic_authorization_approved");
        assert_eq!(verdict(&Lithic, &lithic, &headers(&lithic), shift_s), expected, "lithic {shift_s}");
    }
    let marqeta = golden("marqeta_authorization_approved");
    for (shift_s, is_taken) in [(0, true), (3_600, true), (-3_600, true), (3_601, false), (-3_601, false)] {
        let read = read(&Marqeta, &marqeta, NOW_MS + shift_s * 1_000);
        assert_eq!(read.is_ok(), is_taken, "marqeta {shift_s}: {read:?}");
    }
    let late = read(&Marqeta, &golden("marqeta_clearing"), NOW_MS + 6 * 86_400_000);
    assert!(late.is_ok(), "a clearing may be days late: {late:?}");
}

#[actix_web::test]
async fn a_wrong_password_or_signature_is_refused_by_every_form() {
    let bench = bench();
    let service = service!(bench.app);
    for name in ["stripe_other_event", "own_capture", "marqeta_clearing", "lithic_other_event"] {
        let mut golden = golden(name);
        golden["body"] = format!("{} ", golden["body"].as_str().unwrap()).into();
        if name.starts_with("marqeta") {
            golden["headers"]["Authorization"] = "Basic Y2FyZGVhOmd1ZXNz".into();
        }
        assert_eq!(call_service(&service, request(&golden).to_request()).await.status(), 401, "{name}");
        golden["headers"] = json!({});
        assert_eq!(call_service(&service, request(&golden).to_request()).await.status(), 401, "{name} without");
    }
    assert_eq!(bench.app.guard.counters().bad_signatures.get(), 8);
}

fn read<F: PaymentForm>(form: &F, golden: &Value, now_ms: i64) -> Result<Message, super::form::Unfit> {
    let body = golden["body"].as_str().unwrap().as_bytes();
    let message_id = golden["headers"]["webhook-id"].as_str().map(str::to_owned);
    let signed = super::form::Signed { at_s: now_ms / 1_000, message_id };
    let received = Received {
        body,
        body_sha256: "00",
        signed: &signed,
        now: Timestamp(now_ms),
        tolerance_s: if F::SOURCE == "marqeta" { 3_600 } else { 300 },
    };
    form.read(&received)
}

fn question<F: PaymentForm>(form: &F, name: &str) -> Question {
    match read(form, &golden(name), NOW_MS) {
        Ok(Message::Question(question)) => *question,
        other => panic!("{name}: {other:?}"),
    }
}

fn posting<F: PaymentForm>(form: &F, name: &str) -> Posting {
    match read(form, &golden(name), NOW_MS) {
        Ok(Message::Postings(mut postings)) if postings.len() == 1 => postings.remove(0),
        other => panic!("{name}: {other:?}"),
    }
}

fn eur(amount_minor: i64) -> Money {
    Money { amount_minor, currency: "EUR".into() }
}

#[test]
fn a_question_says_the_same_in_every_form() {
    for question in [
        question(&Stripe, "stripe_authorization_approved"),
        question(&Own::Authorization, "own_authorization_approved"),
        question(&Marqeta, "marqeta_authorization_approved"),
        question(&Lithic, "lithic_authorization_approved"),
    ] {
        let purchase = &question.purchase;
        assert_eq!((purchase.card_ref.as_str(), &purchase.amount), ("ic_1", &eur(5_000)), "{question:?}");
        assert_eq!((purchase.at, purchase.partial_allowed), (Timestamp(NOW_MS), true), "{question:?}");
        assert_eq!(question.already_minor, 0);
        let merchant = &purchase.merchant;
        assert_eq!(merchant.network_id.as_deref(), Some("9876543210"), "{question:?}");
        assert_eq!(merchant.terminal_id.as_deref(), Some("77"), "{question:?}");
        assert_eq!(merchant.category_code.as_deref(), Some("5542"));
        assert_eq!((merchant.name.as_deref(), merchant.postal_code.as_deref()), (Some("AGIP ENI"), Some("10121")));
    }
}

#[test]
fn prompts_and_fuel_are_read_with_their_units() {
    let stripe = question(&Stripe, "stripe_authorization_approved").purchase;
    assert_eq!(stripe.prompts.odometer_km, Some(48_211.0));
    assert_eq!(stripe.prompts.driver_id.as_deref(), Some("017"));
    assert_eq!(stripe.fill.product, Some(Product::Diesel));
    let litres = stripe.fill.litres.unwrap();
    assert!((litres - 39.746_823_732).abs() < 1e-9, "10.5 US gallons: {litres}");
    let own = question(&Own::Authorization, "own_authorization_approved").purchase;
    assert_eq!((own.prompts.odometer_km, own.prompts.vehicle_number.as_deref()), (Some(48_211.3), Some("WVW-1")));
    let lithic = question(&Lithic, "lithic_authorization_approved").purchase;
    assert_eq!(lithic.prompts.vehicle_number.as_deref(), Some("WVW1"));
}

#[test]
fn postings_are_read_with_their_sign_kind_and_name() {
    let of = |posting: &Posting| {
        (
            posting.kind,
            posting.posting_id.clone(),
            posting.authorization_id.clone().map(String::from),
            posting.amount.clone(),
        )
    };
    let expected = |kind, id: &str, authorization: Option<&str>, minor| {
        (kind, id.to_owned(), authorization.map(str::to_owned), eur(minor))
    };
    let capture = posting(&Stripe, "stripe_transaction_capture");
    assert_eq!(of(&capture), expected(PostingKind::Capture, "ipi_1", Some("iauth_1"), 4_870));
    assert_eq!((capture.fill.product, capture.fill.litres), (Some(Product::Diesel), Some(28.91)));
    assert_eq!(capture.prompts.odometer_km, Some(48_211.0));
    assert_eq!(
        of(&posting(&Stripe, "stripe_transaction_updated")),
        of(&capture),
        "an update is the same posting, with more in it"
    );
    for (posting, expected) in [
        (posting(&Stripe, "stripe_transaction_refund"), expected(PostingKind::Refund, "ipi_2", Some("iauth_1"), 4_870)),
        (
            posting(&Stripe, "stripe_authorization_reversed"),
            expected(PostingKind::Reversal, "iauth_1:reversal", Some("iauth_1"), 5_000),
        ),
        (
            posting(&Stripe, "stripe_authorization_without_us"),
            expected(PostingKind::ApprovedWithoutUs, "iauth_6:approved_without_us", Some("iauth_6"), 7_000),
        ),
        (posting(&Own::Capture, "own_capture_without_question"), expected(PostingKind::Capture, "c-7", None, 2_000)),
        (posting(&Own::Reversal, "own_reversal"), expected(PostingKind::Reversal, "msg_8", Some("a-2"), 10_000)),
        (posting(&Marqeta, "marqeta_clearing"), expected(PostingKind::Capture, "jit-8", Some("jit-1"), 4_870)),
        (posting(&Marqeta, "marqeta_reversal"), expected(PostingKind::Reversal, "jit-9", Some("jit-2"), 5_000)),
        (posting(&Marqeta, "marqeta_advice"), expected(PostingKind::ApprovedWithoutUs, "jit-7", Some("jit-1"), 4_200)),
        (
            posting(&Lithic, "lithic_transaction_updated"),
            expected(
                PostingKind::Capture,
                "0197a1b2-0000-7000-8000-000000000008",
                Some("0197a1b2-0000-7000-8000-000000000001"),
                4_870,
            ),
        ),
    ] {
        assert_eq!(of(&posting), expected, "{posting:?}");
    }
    let own = posting(&Own::Capture, "own_capture");
    assert_eq!((own.amount.currency.as_str(), own.fill.litres), ("XXX", Some(28.91)), "that of the authorisation");
    let more = question(&Marqeta, "marqeta_authorization_incremental");
    assert_eq!((more.purchase.authorization_id.as_str(), more.source_event.as_str()), ("jit-1", "jit-4"));
    assert!(more.already_minor > 0);
}

#[test]
fn a_clerk_can_tell_a_card_number_by_its_path_alone() {
    let body = json!({"a": [{"b": 1}, {"note": "4242 4242 4242 4242"}], "c": 4_242_424_242_424_242_u64});
    assert_eq!(super::fields::card_number_in(&body).as_deref(), Some("a[1].note"));
    assert_eq!(super::fields::card_number_in(&json!({"c": 4_242_424_242_424_242_u64})).as_deref(), Some("c"));
    assert_eq!(super::fields::card_number_in(&json!({"authorization_id": "a-1", "amount_minor": 5000})), None);
}
