//! Payments against the real program: every form's golden request signed for now, the flow from question to capture, and
//! what the network hears when nothing can be recorded.

mod kit;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kit::{Gateway, STRIPE_SECRET, answer, fixture, stripe_signature, unix_now};
use serde_json::{Value, json};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LOGIN: &str = "cardea:correct-horse";
const ALL_FORMS: [&str; 3] = [
    "payments.own.secrets=[\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]",
    "payments.lithic.secrets=[\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]",
    "payments.marqeta.secrets=[\"cardea:correct-horse\"]",
];

/// The body of a golden file with its times moved to now.
fn body(name: &str) -> (String, Value) {
    let golden: Value = serde_json::from_str(&fixture(&format!("wire/payments/{name}.json"))).expect("JSON");
    let text = golden["body"].as_str().expect("a body");
    let now = golden["now"].as_str().expect("a time");
    let then: cardea::domain::Timestamp = now.parse().expect("a time");
    let text = text.replace(now, &kit::rfc3339_in(0)).replace(&then.as_secs().to_string(), &unix_now().to_string());
    (golden["path"].as_str().expect("a path").to_owned(), serde_json::from_str(&text).expect("JSON"))
}

fn signed(gateway: &Gateway, path: &str, body: &Value, at: u64) -> reqwest::RequestBuilder {
    let text = body.to_string();
    let request = gateway.client.post(format!("{}{path}", gateway.http)).header("Content-Type", "application/json");
    let request = match path {
        "/v1/payments/stripe" => request.header("Stripe-Signature", stripe_signature(STRIPE_SECRET, at, &text)),
        "/v1/payments/marqeta" => request.header("Authorization", format!("Basic {}", STANDARD.encode(LOGIN))),
        _ => {
            let key = STANDARD.decode(&SECRET[6..]).expect("base64");
            let id = format!("msg_{}", hex::encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes())));
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
            let tag = STANDARD.encode(ring::hmac::sign(&key, format!("{id}.{at}.{text}").as_bytes()));
            let request = request.header("webhook-id", id).header("webhook-timestamp", at.to_string());
            request.header("webhook-signature", format!("v1,{tag}"))
        }
    };
    request.body(text)
}

async fn send(gateway: &Gateway, name: &str) -> (u16, Value) {
    let (path, body) = body(name);
    answer(signed(gateway, &path, &body, unix_now())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_is_answered_in_its_own_words() {
    let gateway = Gateway::start_with(&ALL_FORMS).await;
    // Nobody has rented the car, so that every purchase is declined for the same reason.
    gateway.register("PAY-1").await;
    let card = json!({"card_id": "c-1", "network_ref": "ic_1", "vehicle_id": "PAY-1", "status": "active"});
    assert_eq!(gateway.post("/v1/cards", card).await.0, 201);

    let (status, stripe) = send(&gateway, "stripe_authorization_approved").await;
    assert_eq!((status, &stripe["approved"]), (200, &json!(false)), "{stripe}");
    assert_eq!(stripe["metadata"]["reason"], "rental_state");
    let (status, own) = send(&gateway, "own_authorization_approved").await;
    assert_eq!((status, &own["outcome"], &own["settlement"]), (200, &json!("decline"), &json!("disabled")), "{own}");
    assert_eq!(own["reasons"], json!(["rental_state"]));
    let (status, marqeta) = send(&gateway, "marqeta_authorization_approved").await;
    assert_eq!((status, &marqeta["jit_funding"]["decline_reason"]), (402, &json!("TRANSACTION_NOT_PERMITTED")));
    let (status, lithic) = send(&gateway, "lithic_authorization_approved").await;
    assert_eq!((status, &lithic["result"]), (200, &json!("CARD_PAUSED")), "{lithic}");

    let (status, decision) =
        gateway.get(&format!("/v1/decisions/{}", own["decision_id"].as_str().expect("an id"))).await;
    assert_eq!((status, &decision["purchase"]["source"]), (200, &json!("own")));
    for (name, expected) in [
        ("stripe_transaction_capture", 200),
        ("own_capture", 202),
        ("own_reversal", 202),
        ("marqeta_clearing", 200),
        ("lithic_transaction_updated", 200),
    ] {
        for _ in 0..2 {
            let (status, body) = send(&gateway, name).await;
            assert_eq!(status, expected, "{name}: {body}");
        }
    }
    assert!(gateway.metric("cardea_payment_postings_total").await >= 10.0);
    for path in ["stripe", "authorizations", "captures", "reversals", "marqeta", "lithic"] {
        let path = format!("/v1/payments/{path}");
        let (status, body) = answer(signed(&gateway, &path, &json!({"x": [1]}), unix_now())).await;
        assert!(status < 500 && status != 404, "{path}: {status} {body}");
        let stranger = gateway.client.post(format!("{}{path}", gateway.http)).body("{}");
        assert_eq!(answer(stranger).await.0, 401, "{path}");
    }
    assert!(!gateway.log().contains("whsec_") && !gateway.log().contains("correct-horse"), "a secret was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_number_is_refused_and_reaches_neither_log_nor_journal() {
    let mut gateway = Gateway::start_with(&ALL_FORMS).await;
    let number = "4242 4242 4242 4242";
    let (path, mut asked) = body("own_authorization_approved");
    asked["fleet"]["driver_id"] = number.into();
    let (status, problem) = answer(signed(&gateway, &path, &asked, unix_now())).await;
    assert_eq!((status, &problem["field"]), (400, &json!("fleet.driver_id")), "{problem}");
    for name in ["stripe_authorization_approved", "marqeta_authorization_approved", "lithic_authorization_approved"] {
        let (path, asked) = body(name);
        let asked: Value = serde_json::from_str(&asked.to_string().replace("AGIP ENI", number)).expect("JSON");
        let (status, body) = answer(signed(&gateway, &path, &asked, unix_now())).await;
        assert!([200, 402].contains(&status), "{name}: {status} {body}");
        assert!(!body.to_string().contains("4242"), "{name}: {body}");
    }
    assert!(!gateway.log().contains("4242 4242"), "{}", gateway.log());
    assert!(gateway.stop().success(), "what it has in hand is on disk then");
    let config = gateway.config();
    let records = kit::run(&["journal", "export", "--config", &config.to_string_lossy()]);
    assert!(records.contains("lithic"), "they are on record: {records}");
    assert!(!records.contains("4242 4242"), "{records}");
}

/// The deadline is far below what the guard needs: it is the same as a guard that is paused.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_decision_in_time_the_fallback_is_heard_within_a_second_and_stays() {
    let mut sets = ALL_FORMS.to_vec();
    sets.extend(["payments.stripe.deadline_ms=1", "card_guard.while_store_is_away=fallback"]);
    let gateway = Gateway::start_with(&sets).await;
    gateway.register("PAY-1").await;
    let card = json!({"card_id": "c-1", "network_ref": "ic_1", "vehicle_id": "PAY-1", "status": "active"});
    assert_eq!(gateway.post("/v1/cards", card).await.0, 201);
    let mut heard = Vec::new();
    for number in 0..20 {
        let (path, mut asked) = body("stripe_authorization_approved");
        asked["id"] = format!("evt_{number}").into();
        asked["data"]["object"]["id"] = format!("iauth_{number}").into();
        let request = signed(&gateway, &path, &asked, unix_now());
        let reply = tokio::time::timeout(Duration::from_secs(1), answer(request)).await.expect("within a second");
        assert_eq!((reply.0, &reply.1["approved"]), (200, &json!(false)), "{reply:?}");
        heard.push((path, asked, reply.1));
    }
    for (path, asked, first) in heard {
        let (_, again) = answer(signed(&gateway, &path, &asked, unix_now())).await;
        assert_eq!(again, first);
    }
}
