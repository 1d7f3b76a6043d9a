//! What of the journal is told, and what a receiver reads: the golden files in `tests/wire`.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use serde_json::{Value, json};

use super::super::escalation::Escalation;
use super::super::notification::ALERT_ESCALATED;
use super::*;
use crate::domain::Principal;
use crate::http::testing::MemoryStore;
use crate::store::StorePosition;

const ALL: Wanted = Wanted { alerts: true, declined: true, commands: true, rentals: true };
const AT: Timestamp = Timestamp(1_795_298_400_000);

fn record(stream: &str, events: &[Value]) -> Recorded {
    Recorded {
        position: StorePosition(42),
        stream: stream.into(),
        at: AT,
        by: Principal::gateway(),
        events: events.iter().map(|event| to_raw_value(event).unwrap()).collect(),
        hash: "ab".repeat(32),
    }
}

fn alert(state: &str) -> Value {
    json!({"alert_id": "019aa000-0000-7000-8000-000000000001", "kind": "card_declined", "severity": "warning",
        "vehicle_id": "WVW-1", "card_id": "shell-17", "decision_id": "019aa000-0000-7000-8000-000000000002",
        "state": state, "text": "Card shell-17 of vehicle WVW-1: a purchase of 62.40 EUR was declined.",
        "opened_at": AT, "history": [{"state": "open", "at": AT}]})
}

fn decision() -> Value {
    json!({"decision_id": "019aa000-0000-7000-8000-000000000002", "at": AT,
        "purchase": {"authorization_id": "iauth_1", "source": "stripe", "card_ref": "ic_1", "at": AT,
            "amount": {"amount_minor": 6240, "currency": "eur"}, "partial_allowed": false,
            "merchant": {"name": "Pump"}},
        "card_id": "shell-17", "vehicle_id": "WVW-1", "outcome": "decline", "settlement": "disabled",
        "reasons": ["location"], "rule_version": "1", "alert_id": "019aa000-0000-7000-8000-000000000001",
        "checks": [{"check": "location", "mode": "on", "verdict": "fail", "detail": "", "evidence": {}},
            {"check": "hours", "mode": "shadow", "verdict": "fail", "detail": "", "evidence": {}}]})
}

fn told(stream: &str, events: &[Value]) -> Vec<Notification> {
    notifications(&record(stream, events), ALL, &MemoryStore::default())
}

fn body(notification: &Notification) -> Value {
    serde_json::from_slice(&notification.body("urn:cardea:gateway").unwrap()).unwrap()
}

#[track_caller]
fn assert_golden(file: &str, found: &Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let golden: Value = serde_json::from_str(&text).unwrap_or_default();
    assert_eq!(*found, golden, "{file}: {found:#}");
}

#[test]
fn what_receivers_read_is_as_it_was_promised() {
    let events = [
        json!({"event": "purchase_decided", "decision": decision()}),
        json!({"event": "alert_opened", "alert": alert("open")}),
    ];
    let told = told("card/shell-17", &events);
    assert_eq!(told.len(), 2);
    assert_golden("notification_card_declined.json", &body(&told[0]));
    assert_golden("notification_alert_opened.json", &body(&told[1]));
    let facts = told[1].alert.as_ref().unwrap();
    let purchase = facts.purchase.as_ref().unwrap();
    assert_eq!((purchase.amount.amount_minor, purchase.station.as_deref()), (6240, Some("Pump")));
    assert_eq!(purchase.failed, ["location"], "a check in shadow has no say");
    let moved = json!({"event": "command_moved", "command_id": "019aa000-0000-7000-8000-000000000003",
        "state": "failed", "at": AT, "reason": "hardware"});
    assert_golden("notification_command_finished.json", &body(&super::tests::told("vehicle/WVW-1", &[moved])[0]));
    let moved = json!({"event": "rental_moved", "rental_id": "019aa000-0000-7000-8000-000000000004",
        "state": "active", "at": AT});
    assert_golden("notification_rental_changed.json", &body(&super::tests::told("vehicle/WVW-1", &[moved])[0]));
}

#[test]
fn the_same_record_tells_the_same_to_the_byte() {
    let events = [json!({"event": "alert_opened", "alert": alert("open")})];
    let [one, other] = [told("card/shell-17", &events), told("card/shell-17", &events)];
    assert_eq!(one[0].body("x").unwrap(), other[0].body("x").unwrap());
    let id = one[0].id;
    assert_eq!((id.get_version_num(), id.get_timestamp().unwrap().to_unix().0), (7, 1_795_298_400));
}

#[test]
fn an_alert_is_told_by_its_state_whatever_the_event_is_called() {
    let kind = |event: &str, state: &str| {
        let told = told("card/shell-17", &[json!({"event": event, "alert": alert(state)})]);
        told.first().map(|notification| notification.kind.clone()).unwrap_or_default()
    };
    assert_eq!(kind("return_doubted", "open"), ALERT_OPENED);
    assert_eq!(kind("brand_new", "open"), ALERT_OPENED);
    assert_eq!(kind("alert_confirmed", "open"), ALERT_CONFIRMED);
    assert_eq!(kind("alert_withdrawn", "withdrawn"), ALERT_WITHDRAWN);
    assert_eq!(kind("alert_acknowledged", "acknowledged"), ALERT_ACKNOWLEDGED);
    assert_eq!(kind("brand_new", "snoozed"), "cardea.alert.snoozed.v1");
    let twice = json!({"event": "card_suspended", "alert": alert("open")});
    let told = told("card/shell-17", &[json!({"event": "alert_opened", "alert": alert("open")}), twice]);
    assert_eq!(told.len(), 1, "one alert in one record is told once");
}

#[test]
fn what_is_not_known_tells_nothing_and_breaks_nothing() {
    for event in [
        json!({"event": "brand_new", "alert": 5}),
        json!({"event": "alert_opened", "alert": {"alert_id": 1}}),
        json!({"event": "purchase_decided", "decision": {"outcome": "decline"}}),
        json!({"event": "command_moved", "command_id": "x", "state": "dreaming"}),
        json!({"event": "rental_moved"}),
        json!({"event": 7}),
        json!([1, 2]),
        json!("alert"),
        json!(null),
    ] {
        assert!(told("vehicle/WVW-1", std::slice::from_ref(&event)).is_empty(), "{event}");
    }
}

#[test]
fn only_what_is_over_is_a_finished_command() {
    for (state, is_told) in
        [("sent", false), ("executing", false), ("pending_safe", false), ("succeeded", true), ("unknown", true)]
    {
        let moved = json!({"event": "command_moved", "command_id": "c", "state": state, "at": AT});
        assert_eq!(told("vehicle/WVW-1", &[moved]).len(), usize::from(is_told), "{state}");
    }
}

#[test]
fn data_that_is_too_large_is_left_out_and_the_rest_is_told() {
    let mut large = alert("open");
    large["text"] = json!("x".repeat(MAX_DATA));
    let told = told("card/shell-17", &[json!({"event": "alert_opened", "alert": large})]);
    assert!(told[0].data.get().contains("omitted"));
    assert_eq!(told[0].alert.as_ref().unwrap().text.len(), MAX_TEXT_CHARS);
}

fn watched(escalation: &mut Escalation, state: &str) -> u8 {
    let told = told("card/shell-17", &[json!({"event": "alert_changed", "alert": alert(state)})]).remove(0);
    let told = std::sync::Arc::new(told);
    escalation.note(told.alert.as_ref().unwrap(), &told)
}

#[test]
fn an_alert_is_escalated_step_by_step_until_somebody_sees_it() {
    let mut escalation = Escalation::new(60_000, Level::Warning);
    watched(&mut escalation, "open");
    assert!(escalation.due(AT.plus_ms(59_999), 50).is_empty());
    let due = escalation.due(AT.plus_ms(60_000), 50);
    assert_eq!((due.len(), due[0].kind.as_str(), due[0].alert.as_ref().unwrap().step), (1, ALERT_ESCALATED, 1));
    assert!(escalation.due(AT.plus_ms(60_001), 50).is_empty(), "a step is told once");
    let next = escalation.due(AT.plus_ms(120_001), 50);
    assert_eq!(next[0].alert.as_ref().unwrap().step, 2);
    assert_ne!(next[0].id, due[0].id);
    assert_eq!(watched(&mut escalation, "acknowledged"), 2, "who was told of it is told of its end");
    assert!(escalation.due(AT.plus_ms(1_000_000), 50).is_empty());
    assert_eq!(watched(&mut escalation, "resolved"), 0);
}

#[test]
fn an_alert_below_the_configured_severity_is_not_escalated() {
    let mut escalation = Escalation::new(60_000, Level::Critical);
    watched(&mut escalation, "open");
    assert!(escalation.due(AT.plus_ms(60_000), 50).is_empty());
}

#[test]
fn a_step_is_told_once_over_a_restart() {
    let mut escalation = Escalation::new(60_000, Level::Warning);
    watched(&mut escalation, "open");
    assert_eq!(escalation.due(AT.plus_ms(60_000), 50).len(), 1);
    let kept: Vec<_> = escalation.changes().filter_map(|(_, watched)| watched.cloned()).collect();
    let mut again = Escalation::new(60_000, Level::Warning);
    again.restore(kept);
    assert!(again.due(AT.plus_ms(119_999), 50).is_empty());
    assert_eq!(again.due(AT.plus_ms(120_000), 50)[0].alert.as_ref().unwrap().step, 2);
}
