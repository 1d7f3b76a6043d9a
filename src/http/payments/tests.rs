//! The webhook and the card desk over HTTP, with a real guard, a store in memory and a vehicle that tests set.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Arbiter, Context, Handler};
use actix_web::test::{TestRequest, call_service, read_body_json};
use serde_json::{Value, json};

use super::form::{PaymentForm, Received, Signed};
use super::stripe::Stripe;
use super::stripe::signature::sign;
use crate::actors::card_guard::{BUILT_IN_RULES, GuardHandle, Parts};
use crate::actors::feed::{AlertChanged, DecisionMade};
use crate::actors::vehicle::Snapshot;
use crate::config::{Config, Fallback};
use crate::domain::key::Profile;
use crate::domain::rental::{Rental, RentalPassage, RentalState};
use crate::domain::twin::{SignalValue, Twin, path};
use crate::domain::vehicle::{Event, Vehicle};
use crate::domain::{KeyId, Principal, RentalId, RequestId, Role, Timestamp, VehicleId};
use crate::http::App;
use crate::http::testing::{MemoryStore, NOW_MS, app_with, bearer, service};

const SECRET: &str = "whsec_one";
const NOW: Timestamp = Timestamp(NOW_MS);

/// What the consoles heard.
#[derive(Clone, Default)]
struct Heard {
    decisions: Arc<Mutex<Vec<Value>>>,
    alerts: Arc<Mutex<Vec<Value>>>,
}

impl Actor for Heard {
    type Context = Context<Self>;
}

impl Handler<DecisionMade> for Heard {
    type Result = ();

    fn handle(&mut self, DecisionMade(body): DecisionMade, _: &mut Self::Context) {
        self.decisions.lock().unwrap().push(serde_json::from_str(body.get()).unwrap());
    }
}

impl Handler<AlertChanged> for Heard {
    type Result = ();

    fn handle(&mut self, change: AlertChanged, _: &mut Self::Context) {
        let body: Value = serde_json::from_str(change.body.get()).unwrap();
        assert_eq!(body["alert_id"], change.id.to_string());
        self.alerts.lock().unwrap().push(body);
    }
}

/// A registered vehicle, seen now at the station, in a rental that ends at `until`.
fn car(is_rented: bool) -> Snapshot {
    let id: VehicleId = "WVW-1".parse().unwrap();
    let mut vehicle = Vehicle::new(id);
    vehicle.apply(&Event::VehicleRegistered { details: Default::default(), by: Principal::gateway(), at: NOW });
    if is_rented {
        let began = NOW.plus_ms(-3_600_000);
        vehicle.rentals.push(Rental {
            rental_id: RentalId(uuid::Uuid::from_u128(1)),
            request_id: RequestId(uuid::Uuid::from_u128(2)),
            renter: "anna".into(),
            profile: Profile::built_in()[0].name.clone(),
            key_id: KeyId(uuid::Uuid::from_u128(3)),
            from: began,
            until: NOW.plus_ms(3_600_000),
            state: RentalState::Active,
            history: vec![RentalPassage { state: RentalState::Active, at: began }],
            first_used_at: None,
            is_late: false,
        });
    }
    let mut twin = Twin::new(NOW);
    for (name, value) in [(path::LATITUDE, 45.07), (path::LONGITUDE, 7.68), (path::ACCURACY_M, 5.0)] {
        twin.note(name, SignalValue::Number(value), NOW);
    }
    twin.last_report = Some(NOW);
    Snapshot::new(NOW, vehicle, twin)
}

pub struct Bench {
    pub app: App,
    pub store: Arc<MemoryStore>,
    heard: Heard,
    car: Arc<Mutex<Snapshot>>,
}

pub(super) fn bench() -> Bench {
    let mut config = Config::default();
    config.payments.stripe.secrets = vec!["whsec_old".into(), SECRET.into()];
    let (app, store) = app_with(config);
    with_guard(app, store)
}

/// As after a restart: a new guard over the same store.
pub fn with_guard(mut app: App, store: Arc<MemoryStore>) -> Bench {
    let heard = Heard::default();
    let feed = heard.clone().start();
    let car = Arc::new(Mutex::new(car(true)));
    let known = car.clone();
    let parts = Parts {
        store: store.clone(),
        clock: app.clock.clone(),
        rules: BUILT_IN_RULES.into(),
        suspend_after_declines: 0,
        ask_vehicle: Arc::new(move |_| Box::pin(std::future::ready(Ok(known.lock().unwrap().clone())))),
        deadline: Duration::from_millis(2_000),
        decisions_feed: feed.clone().recipient(),
        alerts_feed: feed.recipient(),
        followed: Default::default(),
        looks_again: Arc::new(|| true),
        while_store_is_away: Default::default(),
        tell_early: Arc::new(|_| ()),
        spool: crate::store::Spool::none(),
    };
    app.guard = GuardHandle::start(parts, &Arbiter::current()).unwrap();
    Bench { app, store, heard, car }
}

pub(super) fn authorization(id: &str) -> Value {
    json!({
        "id": format!("evt_{id}"), "type": "issuing_authorization.request", "created": NOW_MS / 1000,
        "livemode": false, "a_field_of_next_year": {"x": [1]},
        "data": {"object": {
            "id": id, "object": "issuing.authorization", "amount": 0, "currency": "eur", "created": NOW_MS / 1000,
            "card": {"id": "ic_1", "last4": "4242", "status": "active", "metadata": {}},
            "merchant_data": {"category": "automated_fuel_dispensers", "category_code": "5542", "name": "AGIP ENI",
                "city": "Torino", "country": "IT", "postal_code": null, "state": null, "network_id": "9876543210",
                "terminal_id": "77"},
            "pending_request": {"amount": 5000, "currency": "eur", "is_amount_controllable": true,
                "merchant_amount": 5000},
            "fleet": null, "fuel": null,
        }},
    })
}

fn post(body: &Value, header: &str) -> TestRequest {
    TestRequest::post()
        .uri("/v1/payments/stripe")
        .insert_header(("Stripe-Signature", header))
        .insert_header(("Content-Type", "application/json"))
        .set_payload(body.to_string())
}

pub(super) fn signed(body: &Value) -> TestRequest {
    post(body, &sign(body.to_string().as_bytes(), SECRET, NOW_MS / 1000))
}

pub(super) fn ask(method: TestRequest, uri: &str, role: Role, body: Option<&Value>) -> TestRequest {
    let request = method.uri(uri).insert_header(bearer(role));
    match body {
        Some(body) => request.set_json(body),
        None => request,
    }
}

macro_rules! furnish {
    ($service:expr) => {
        for (uri, body) in [
            ("/v1/cards", serde_json::json!({"card_id": "c1", "network_ref": "ic_1", "vehicle_id": "WVW-1"})),
            (
                "/v1/stations",
                serde_json::json!({"station_id": "s1", "name": "Agip", "position": {"latitude": 45.07, "longitude": 7.6801},
                    "terminals": [{"network_id": "9876543210", "terminal_id": "77"}]}),
            ),
        ] {
            let request = TestRequest::post().uri(uri).insert_header(bearer(Role::Operator)).set_json(&body);
            let answer = actix_web::test::call_service($service, request.to_request()).await;
            assert_eq!(answer.status(), 201, "{:?}", actix_web::test::read_body(answer).await);
        }
    };
}
pub(super) use furnish;

macro_rules! json_of {
    ($service:expr, $request:expr) => {{
        let answer = actix_web::test::call_service($service, $request.to_request()).await;
        let status = answer.status().as_u16();
        (status, actix_web::test::read_body_json::<serde_json::Value, _>(answer).await)
    }};
}
pub(super) use json_of;

#[actix_web::test]
async fn an_honest_purchase_is_approved_and_its_decision_can_be_read() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    let answer = call_service(&service, signed(&authorization("iauth_1")).to_request()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers().get("Stripe-Version").unwrap(), "2026-10-28");
    assert_eq!(answer.headers().get("Content-Type").unwrap(), "application/json");
    let answer: Value = read_body_json(answer).await;
    assert_eq!(answer["approved"], true, "{answer}");
    assert!(answer.get("amount").is_none());
    let uri = format!("/v1/decisions/{}", answer["metadata"]["decision_id"].as_str().unwrap());
    let (status, decision) = json_of!(&service, ask(TestRequest::get(), &uri, Role::Auditor, None));
    assert_eq!(status, 200, "{decision}");
    assert_eq!(decision["card_id"], "c1");
    assert_eq!(decision["vehicle_id"], "WVW-1");
    assert_eq!(decision["station_id"], "s1");
    assert_eq!(decision["purchase"]["amount"], json!({"amount_minor": 5000, "currency": "EUR"}));
    let checks: Vec<_> = decision["checks"].as_array().unwrap().iter().map(|check| &check["verdict"]).collect();
    assert_eq!(checks.len(), 16, "{decision}");
    assert!(checks[..4].iter().all(|verdict| *verdict == "pass"), "{decision}");
    assert!(checks.iter().all(|verdict| *verdict != "fail"), "{decision}");
    assert!(decision["checks"][2]["evidence"]["distance_m"].as_f64().unwrap() < 20.0);
    let without_inputs = |mut decision: Value| {
        decision.as_object_mut().unwrap().remove("inputs");
        decision
    };
    let heard: Vec<Value> = bench.heard.decisions.lock().unwrap().iter().cloned().map(without_inputs).collect();
    assert_eq!(heard, [without_inputs(decision)]);
    assert!(bench.heard.alerts.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn a_declined_purchase_opens_an_alert_and_stays_declined() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    *bench.car.lock().unwrap() = car(false);
    let (_, first) = json_of!(&service, signed(&authorization("iauth_1")));
    assert_eq!(first["approved"], false);
    assert_eq!(first["metadata"]["reason"], "rental_state");
    // The car is rented meanwhile, and the network asks again, with other bytes and a larger amount.
    *bench.car.lock().unwrap() = car(true);
    let mut again = authorization("iauth_1");
    again["id"] = "evt_other".into();
    again["data"]["object"]["pending_request"]["amount"] = 9_000.into();
    for request in [signed(&authorization("iauth_1")), signed(&again)] {
        assert_eq!(json_of!(&service, request).1, first);
    }
    // And so after a restart.
    let restarted = with_guard(bench.app.clone(), bench.store.clone());
    let service = service!(restarted.app);
    assert_eq!(json_of!(&service, signed(&again)).1, first);
    let (_, alerts) = json_of!(&service, ask(TestRequest::get(), "/v1/alerts?state=open", Role::Operator, None));
    let alert = &alerts["items"][0];
    assert_eq!(alerts["items"].as_array().unwrap().len(), 1);
    assert_eq!((&alert["kind"], &alert["severity"]), (&json!("card_declined"), &json!("warning")));
    assert_eq!((&alert["vehicle_id"], &alert["card_id"]), (&json!("WVW-1"), &json!("c1")));
    let text = alert["text"].as_str().unwrap();
    assert!(text.contains("not proof") && !text.contains("anna"), "{text}");
    assert_eq!(bench.heard.alerts.lock().unwrap().as_slice(), std::slice::from_ref(alert));
    assert_eq!(restarted.app.guard.counters().declined.get(), 0, "it was not judged again");
}

#[actix_web::test]
async fn an_alert_is_acknowledged_and_resolved_once() {
    let bench = bench();
    let service = service!(bench.app);
    json_of!(&service, signed(&authorization("iauth_1")));
    let (_, alerts) = json_of!(&service, ask(TestRequest::get(), "/v1/alerts", Role::Operator, None));
    let uri = format!("/v1/alerts/{}", alerts["items"][0]["alert_id"].as_str().unwrap());
    let step = |step: &str| format!("{uri}/{step}");
    let (status, _) = json_of!(&service, ask(TestRequest::post(), &step("acknowledge"), Role::Renter, None));
    assert_eq!(status, 403);
    for expected in ["acknowledge", "acknowledge", "resolve", "resolve"] {
        let (status, alert) = json_of!(&service, ask(TestRequest::post(), &step(expected), Role::Operator, None));
        assert_eq!(status, 200, "{alert}");
    }
    let (status, problem) = json_of!(&service, ask(TestRequest::post(), &step("acknowledge"), Role::Operator, None));
    assert_eq!((status, &problem["type"]), (409, &json!("urn:cardea:problem:conflict")));
    let (_, alert) = json_of!(&service, ask(TestRequest::get(), &uri, Role::Operator, None));
    let history: Vec<_> = alert["history"].as_array().unwrap().iter().map(|passage| &passage["state"]).collect();
    assert_eq!(history, ["open", "acknowledged", "resolved"]);
    assert_eq!(alert["history"][2]["by"]["subject"], "operator");
    assert_eq!(bench.heard.alerts.lock().unwrap().len(), 3);
    let gone = format!("/v1/alerts/{}/resolve", uuid::Uuid::nil());
    assert_eq!(json_of!(&service, ask(TestRequest::post(), &gone, Role::Operator, None)).0, 404);
}

#[actix_web::test]
async fn a_signature_that_is_not_right_is_told_why() {
    let bench = bench();
    let service = service!(bench.app);
    let body = authorization("iauth_1");
    let bytes = body.to_string().into_bytes();
    let now_s = NOW_MS / 1000;
    for (header, expected) in [
        (sign(&bytes, "whsec_other", now_s), 401),
        (sign(&bytes, SECRET, now_s - 301), 401),
        (sign(&bytes, SECRET, now_s + 301), 401),
        ("t=1".into(), 400),
        ("nonsense".into(), 400),
        (sign(&bytes, "whsec_old", now_s - 300), 200),
    ] {
        let (status, answer) = json_of!(&service, post(&body, &header));
        assert_eq!(status, expected, "{header}: {answer}");
    }
    let unsigned = TestRequest::post().uri("/v1/payments/stripe").set_payload(bytes);
    assert_eq!(json_of!(&service, unsigned).0, 401);
    assert_eq!(bench.app.guard.counters().bad_signatures.get(), 6, "one came without any");
    assert_eq!(bench.heard.decisions.lock().unwrap().len(), 1);
}

#[actix_web::test]
async fn without_a_secret_there_is_no_such_route() {
    let (app, _) = app_with(Config::default());
    let service = service!(app);
    let (status, problem) = json_of!(&service, signed(&authorization("iauth_1")));
    assert_eq!((status, &problem["type"]), (404, &json!("urn:cardea:problem:not-found")));
}

/// The field that a body is refused for, as the record and the alert name it.
fn field_of(body: &Value) -> String {
    let bytes = body.to_string().into_bytes();
    let signed = Signed { at_s: NOW_MS / 1000, message_id: None };
    let received = Received { body: &bytes, body_sha256: "00", signed: &signed, now: NOW, tolerance_s: 300 };
    Stripe.read(&received).unwrap_err().field
}

#[actix_web::test]
async fn what_cannot_be_read_is_declined_by_the_fallback_and_its_field_is_named() {
    let bench = bench();
    let service = service!(bench.app);
    let cases: [(&str, Value, &str); 9] = [
        ("/id", Value::Null, "id"),
        ("/type", Value::Null, "type"),
        ("/data/object/id", Value::Null, "data.object.id"),
        ("/data/object/card/id", Value::Null, "data.object.card.id"),
        ("/data/object/card/id", "4242424242424242".into(), "data.object.card.id"),
        ("/data/object/pending_request/amount", (-1).into(), "data.object.amount"),
        ("/data/object/pending_request/amount", "x".into(), "data.object.pending_request.amount"),
        ("/data/object/pending_request/currency", "euro".into(), "data.object.currency"),
        ("/created", i64::MAX.into(), "created"),
    ];
    let mut bodies: Vec<Value> = vec![json!({"id": "evt_test", "type": "issuing_authorization.request"})];
    assert_eq!(field_of(&bodies[0]), "data");
    for (pointer, value, field) in cases {
        let mut body = authorization("iauth_1");
        *body.pointer_mut(pointer).unwrap() = value;
        assert_eq!(field_of(&body), field, "{pointer}");
        bodies.push(body);
    }
    for body in &bodies {
        let (status, answer) = json_of!(&service, signed(body));
        assert_eq!((status, &answer["approved"]), (200, &json!(false)), "{body}: {answer}");
        assert_eq!(answer["metadata"]["outcome"], "fallback");
        assert!(!answer.to_string().contains("4242"), "{answer}");
    }
    assert_eq!(bench.app.guard.counters().bad_messages.get(), 10);
    assert!(bench.heard.decisions.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn events_that_ask_nothing_are_acknowledged() {
    let bench = bench();
    let service = service!(bench.app);
    let other = json!({"id": "evt_2", "type": "issuing_card.created", "data": {"object": {"id": "ic_1"}}});
    for _ in 0..2 {
        assert_eq!(json_of!(&service, signed(&other)), (200, json!({})));
    }
    let counters = bench.app.guard.counters();
    assert_eq!((counters.other_messages.get(), counters.repeated_messages.get()), (2, 1));
}

#[actix_web::test]
async fn not_knowing_caps_the_amount_where_the_network_allows_it() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    let mut body = authorization("iauth_1");
    body["data"]["object"]["merchant_data"]["network_id"] = "elsewhere".into();
    body["data"]["object"]["pending_request"]["amount"] = 25_000.into();
    let (_, answer) = json_of!(&service, signed(&body));
    assert_eq!((&answer["approved"], &answer["amount"]), (&json!(true), &json!(10_000)), "{answer}");
    assert_eq!(answer["metadata"]["outcome"], "approve_capped");
    let mut body = authorization("iauth_2");
    body["data"]["object"]["merchant_data"] = Value::Null;
    body["data"]["object"]["pending_request"]["amount"] = 25_000.into();
    body["data"]["object"]["pending_request"]["is_amount_controllable"] = false.into();
    let (_, answer) = json_of!(&service, signed(&body));
    assert_eq!((&answer["approved"], &answer["metadata"]["outcome"]), (&json!(false), &json!("step_up")));
    let (_, alerts) = json_of!(&service, ask(TestRequest::get(), "/v1/alerts", Role::Operator, None));
    assert_eq!(alerts["items"], json!([]), "not knowing accuses nobody");
}

/// The network's own form: what it holds, what it asks for beside it, and a history of what it asked before.
#[actix_web::test]
async fn an_increment_is_told_from_a_purchase_that_is_written_down_twice() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    let (_, first) = json_of!(&service, signed(&authorization("iauth_1")));
    let again = |event: &str, held: i64, history: Value| {
        let mut body = authorization("iauth_1");
        body["id"] = event.into();
        body["data"]["object"]["amount"] = held.into();
        body["data"]["object"]["request_history"] = history;
        body
    };
    for (event, history) in [("evt_2", Value::Null), ("evt_3", json!([]))] {
        assert_eq!(json_of!(&service, signed(&again(event, 5_000, history))).1, first, "{event}");
    }
    let earlier = json!([{"amount": 5_000, "approved": true, "reason": "webhook_approved"}]);
    for (event, held, history) in [("evt_4", 5_000, earlier), ("evt_5", 10_000, Value::Null)] {
        let (_, more) = json_of!(&service, signed(&again(event, held, history)));
        assert_ne!(more["metadata"]["decision_id"], first["metadata"]["decision_id"], "{event}");
        let path = format!("/v1/decisions/{}", more["metadata"]["decision_id"].as_str().unwrap());
        let (_, decision) = json_of!(&service, ask(TestRequest::get(), &path, Role::Operator, None));
        assert_eq!(decision["follows"], first["metadata"]["decision_id"]);
    }
}

/// The network heard "no": asking again later brings no "yes".
#[actix_web::test]
async fn without_storage_the_fallback_is_answered_and_stays_the_answer() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    bench.store.refuse(Some("disk full"));
    let (status, first) = json_of!(&service, signed(&authorization("iauth_1")));
    assert_eq!((status, &first["approved"]), (200, &json!(false)), "{first}");
    let metadata = json!({"outcome": "fallback", "reason": "storage", "fallback": "decline"});
    assert_eq!(first["metadata"], metadata);
    assert!(bench.heard.decisions.lock().unwrap().is_empty());
    let card = json!({"network_ref": "ic_2"});
    let (status, _) = json_of!(&service, ask(TestRequest::post(), "/v1/cards", Role::Admin, Some(&card)));
    assert_eq!(status, 503);
    bench.store.refuse(None);
    assert_eq!(json_of!(&service, signed(&authorization("iauth_1"))).1, first);
    assert_eq!(json_of!(&service, signed(&authorization("iauth_2"))).1["approved"], true);
    assert_eq!(bench.app.payments.counters.fallbacks[0].get(), 1);
}

/// A purchase that was approved is not declined because the store fails when the network asks again.
#[actix_web::test]
async fn a_recorded_answer_outlives_a_failing_store() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    let (_, first) = json_of!(&service, signed(&authorization("iauth_1")));
    assert_eq!(first["approved"], true);
    bench.store.refuse(Some("disk full"));
    assert_eq!(json_of!(&service, signed(&authorization("iauth_1"))).1, first);
}

#[actix_web::test]
async fn a_fallback_that_approves_goes_no_further_than_it_may() {
    let mut config = Config::default();
    config.payments.stripe.secrets = vec![SECRET.into()];
    config.payments.stripe.fallback = Fallback::Approve;
    config.payments.stripe.approve_up_to_minor = 6_000;
    let (app, store) = app_with(config);
    let bench = with_guard(app, store);
    let service = service!(bench.app);
    bench.store.refuse(Some("disk full"));
    let asked = |id: &str, minor: i64, can_part: bool| {
        let mut body = authorization(id);
        body["data"]["object"]["pending_request"]["amount"] = minor.into();
        body["data"]["object"]["pending_request"]["is_amount_controllable"] = can_part.into();
        signed(&body)
    };
    for (id, minor, can_part, expected) in [
        ("iauth_1", 6_000, false, (json!(true), json!(null))),
        ("iauth_2", 6_001, true, (json!(true), json!(6_000))),
        ("iauth_3", 6_001, false, (json!(false), json!(null))),
    ] {
        let (_, answer) = json_of!(&service, asked(id, minor, can_part));
        assert_eq!((answer["approved"].clone(), answer["amount"].clone()), expected, "{answer}");
    }
    let (_, answer) = json_of!(&service, signed(&json!({"id": "evt_1", "type": "issuing_authorization.request"})));
    assert_eq!(answer["approved"], false, "an amount that is not known may be beyond it: {answer}");
}

#[actix_web::test]
async fn a_source_that_sends_too_often_is_told_when_to_come_back() {
    let mut config = Config::default();
    config.payments.stripe.secrets = vec![SECRET.into()];
    (config.payments.stripe.rate_per_s, config.payments.stripe.rate_burst) = (1, 2);
    config.payments.stripe.max_body_bytes = 2_048;
    let (app, store) = app_with(config);
    let bench = with_guard(app, store);
    let service = service!(bench.app);
    let mut large = authorization("iauth_0");
    large["padding"] = "x".repeat(2_048).into();
    assert_eq!(json_of!(&service, signed(&large)).0, 413);
    assert_eq!(json_of!(&service, post(&authorization("iauth_0"), "t=1,v1=00")).0, 400, "strangers take nothing");
    let mut statuses = Vec::new();
    for number in 0..3 {
        let request = signed(&authorization(&format!("iauth_{number}")));
        let answer = call_service(&service, request.to_request()).await;
        statuses.push((answer.status().as_u16(), answer.headers().contains_key("Retry-After")));
    }
    assert_eq!(statuses, [(200, false), (200, false), (429, true)]);
    assert_eq!(bench.app.payments.counters.rate_limited[0].get(), 1);
}

#[actix_web::test]
async fn a_card_number_is_never_stored() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    let pan = "4242 4242 4242 4242";
    let mut body = authorization("iauth_1");
    for field in ["name", "city", "terminal_id", "network_id", "country"] {
        body["data"]["object"]["merchant_data"][field] = pan.into();
    }
    body["id"] = "evt 4242424242424242".into();
    assert_eq!(json_of!(&service, signed(&body)).0, 200);
    let bad = json!({"network_ref": "4242424242424242"});
    let (status, problem) = json_of!(&service, ask(TestRequest::post(), "/v1/cards", Role::Operator, Some(&bad)));
    assert_eq!((status, &problem["field"]), (400, &json!("network_ref")));
    let (_, decisions) = json_of!(&service, ask(TestRequest::get(), "/v1/decisions", Role::Operator, None));
    assert!(!decisions.to_string().contains("4242"), "{decisions}");
}

#[actix_web::test]
async fn decisions_are_listed_newest_first_and_filtered() {
    let bench = bench();
    let service = service!(bench.app);
    furnish!(&service);
    for number in 0..5 {
        let mut body = authorization(&format!("iauth_{number}"));
        if number % 2 == 1 {
            body["data"]["object"]["card"]["id"] = "ic_unknown".into();
        }
        assert_eq!(json_of!(&service, signed(&body)).0, 200);
    }
    let (mut uri, mut seen) = ("/v1/decisions?limit=2&outcome=decline".to_owned(), Vec::new());
    loop {
        let (_, page) = json_of!(&service, ask(TestRequest::get(), &uri, Role::Operator, None));
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["purchase"]["authorization_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => uri = format!("/v1/decisions?limit=2&outcome=decline&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["iauth_3", "iauth_1"]);
    let (_, page) = json_of!(&service, ask(TestRequest::get(), "/v1/decisions?card_id=c1", Role::Operator, None));
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    assert_eq!(json_of!(&service, ask(TestRequest::get(), "/v1/decisions", Role::Renter, None)).0, 403);
}
