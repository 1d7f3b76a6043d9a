//! Each violation, planted into a sound history, is found.

use serde_json::json;

use super::*;

const FROM: &str = "2026-11-21T10:00:00.000Z";
const UNTIL: &str = "2026-11-21T11:00:00.000Z";
const LATER: &str = "2026-11-21T12:00:00.000Z";

fn attempt(name: &str, node: &str, asked: Asked, heard: Heard) -> Attempt {
    Attempt { name: name.into(), asked, node: node.into(), from_ms: 0, until_ms: 1, heard }
}

fn order() -> Asked {
    Asked::Order { vehicle: "V-1".into(), ttl_ms: 3_600_000 }
}

fn command(id: &str, state: &str) -> Value {
    json!({"command_id": id, "vehicle_id": "V-1", "type": "lock", "created_at": FROM, "expires_at": UNTIL, "state": state})
}

fn node(name: &str, things: &[(&str, Value)]) -> NodeState {
    let things = things.iter().map(|(path, thing)| ((*path).to_owned(), thing.clone())).collect();
    NodeState { node: name.into(), things }
}

fn record(position: u64, events: Vec<Value>) -> Record {
    Record { position, stream: "vehicle/V-1".into(), claim: None, writer: Some("a".into()), events }
}

fn claim(position: u64, node: &str) -> Record {
    Record { claim: Some(node.into()), writer: Some(node.into()), ..record(position, Vec::new()) }
}

fn accepted(id: &str) -> Value {
    json!({"event": "command_accepted", "command": {"command_id": id, "issued_at": FROM, "expires_at": UNTIL}})
}

fn reserved(id: &str, from: &str, until: &str) -> Value {
    json!({"event": "rental_reserved", "rental": {"rental_id": id, "renter": id, "from": from, "until": until}})
}

fn executed(times: u32) -> Vec<Executed> {
    vec![Executed { vehicle: "V-1".into(), command: "c-1".into(), times }]
}

fn rules(found: &[Violation]) -> Vec<Rule> {
    let all: BTreeSet<Rule> = found.iter().map(|violation| violation.rule).collect();
    all.into_iter().collect()
}

/// One order, sent twice, done once; a purchase; a rental that made room for another.
fn sound() -> (Vec<Attempt>, Vec<NodeState>, Vec<Record>) {
    let done = Heard::Done(command("c-1", "sent"));
    let history = vec![
        attempt("k-1", "a", order(), Heard::Unknown),
        attempt("k-1", "b", order(), done.clone()),
        attempt("k-1", "a", order(), done),
    ];
    let things = [("/v1/commands/c-1", command("c-1", "succeeded"))];
    let moved = json!({"event": "rental_moved", "rental_id": "r-1", "state": "cancelled"});
    let mut records = vec![
        claim(1, "a"),
        record(2, vec![accepted("c-1")]),
        record(3, vec![reserved("r-1", FROM, UNTIL)]),
        record(4, vec![moved]),
        claim(5, "b"),
        record(6, vec![reserved("r-2", FROM, UNTIL)]),
        record(7, vec![reserved("r-3", UNTIL, LATER)]),
    ];
    records[5].writer = Some("b".into());
    records[6].writer = None;
    (history, vec![node("a", &things), node("b", &things)], records)
}

#[test]
fn a_sound_history_breaks_nothing() {
    let (history, nodes, records) = sound();
    let found = check(&history, &nodes, &records, &executed(1));
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(paths(&history).into_iter().collect::<Vec<_>>(), ["/v1/commands/c-1"]);
}

#[test]
fn a_promise_that_one_gateway_lost_is_found() {
    let (history, mut nodes, _) = sound();
    nodes[1].things.clear();
    assert_eq!(rules(&lost(&history, &nodes, &Early::default())), [Rule::Lost]);
    let (history, mut nodes, _) = sound();
    nodes[0].things.insert("/v1/commands/c-1".into(), json!({"command_id": "c-1", "vehicle_id": "V-2"}));
    assert_eq!(rules(&lost(&history, &nodes, &Early::default())), [Rule::Lost]);
    let (history, nodes, mut records) = sound();
    records.remove(1);
    assert_eq!(rules(&check(&history, &nodes, &records, &executed(1))), [Rule::Lost]);
}

#[test]
fn an_end_that_did_not_last_is_found() {
    let asked = [
        (Asked::End { rental: "r".into() }, "/v1/rentals/r", "ended"),
        (Asked::Cancel { rental: "r".into() }, "/v1/rentals/r", "cancelled"),
        (Asked::Revoke { key: "k".into() }, "/v1/keys/k", "revoked"),
    ];
    for (asked, path, state) in asked {
        let history = [attempt("n", "a", asked, Heard::Done(json!({})))];
        assert!(lost(&history, &[node("a", &[(path, json!({"state": state}))])], &Early::default()).is_empty());
        assert_eq!(
            rules(&lost(&history, &[node("a", &[(path, json!({"state": "active"}))])], &Early::default())),
            [Rule::Lost]
        );
    }
}

#[test]
fn a_lost_rental_key_or_decision_is_found() {
    let rent = Asked::Rent { vehicle: "V-1".into(), renter: "ann".into() };
    let answer = json!({"rental_id": "r", "key": {"key_id": "k", "permits": ["lock_doors"], "prohibits": ["drive"]}});
    let history = [attempt("n", "a", rent, Heard::Done(answer))];
    let rental = json!({"rental_id": "r", "vehicle_id": "V-1", "renter": "ann", "key_id": "k"});
    let key = json!({"key_id": "k", "permits": ["lock_doors"], "prohibits": ["drive"]});
    let whole = node("a", &[("/v1/rentals/r", rental.clone()), ("/v1/keys/k", key.clone())]);
    assert!(lost(&history, &[whole], &Early::default()).is_empty());
    assert_eq!(rules(&lost(&history, &[node("a", &[("/v1/rentals/r", rental)])], &Early::default())), [Rule::Lost]);
    assert_eq!(rules(&lost(&history, &[node("a", &[("/v1/keys/k", key)])], &Early::default())), [Rule::Lost]);
    let buy = Asked::Buy { authorization: "a-1".into() };
    let history = [attempt("a-1", "a", buy, Heard::Done(json!({"decision_id": "d", "outcome": "decline"})))];
    let turned = node("a", &[("/v1/decisions/d", json!({"decision_id": "d", "outcome": "approve"}))]);
    assert_eq!(rules(&lost(&history, &[turned], &Early::default())), [Rule::Lost]);
}

#[test]
fn gateways_that_say_different_things_are_found() {
    let (_, mut nodes, _) = sound();
    nodes[1].things.insert("/v1/commands/c-1".into(), command("c-1", "sent"));
    assert_eq!(rules(&diverged(&nodes)), [Rule::Diverged]);
}

#[test]
fn a_gateway_that_has_not_heard_of_a_promise_is_found() {
    let not_found = Heard::Refused("not-found".into());
    let asked = Asked::Cancel { rental: "r".into() };
    assert_eq!(rules(&stale(&[attempt("n", "a", asked, not_found)])), [Rule::Stale]);
}

#[test]
fn a_command_done_twice_is_found() {
    assert_eq!(rules(&done_twice(&executed(2))), [Rule::DoneTwice]);
}

#[test]
fn a_state_that_is_not_what_the_car_did_is_found() {
    let (_, nodes, _) = sound();
    assert_eq!(rules(&untrue(&nodes, &[])), [Rule::Untrue]);
    let expired = node("a", &[("/v1/commands/c-1", command("c-1", "expired"))]);
    assert_eq!(rules(&untrue(&[expired], &executed(1))), [Rule::Untrue]);
}

#[test]
fn a_writer_that_was_overtaken_is_found() {
    let (_, _, mut records) = sound();
    records[5].writer = Some("a".into());
    assert_eq!(rules(&two_owners(&records)), [Rule::TwoOwners]);
    let (_, _, mut records) = sound();
    records.swap(0, 1);
    assert_eq!(rules(&two_owners(&records)), [Rule::TwoOwners]);
}

#[test]
fn two_rentals_at_one_time_are_found() {
    let (_, _, mut records) = sound();
    records.remove(3);
    assert_eq!(rules(&overlaps(&records)), [Rule::Overlap]);
}

#[test]
fn unequal_answers_to_one_request_are_found() {
    let (mut history, _, _) = sound();
    history[2].heard = Heard::Done(command("c-2", "sent"));
    assert_eq!(rules(&unequal_repeats(&history, &Early::default())), [Rule::UnequalRepeat]);
    history[2] = Attempt { from_ms: 2, heard: Heard::Refused("conflict".into()), ..history[2].clone() };
    assert_eq!(rules(&unequal_repeats(&history, &Early::default())), [Rule::UnequalRepeat]);
    history[2].heard = Heard::Refused("storage-unavailable".into());
    assert!(unequal_repeats(&history, &Early::default()).is_empty());
    let buy = || Asked::Buy { authorization: "a-1".into() };
    let told = |outcome: &str| Heard::Done(json!({"decision_id": "d", "outcome": outcome}));
    let history = [attempt("a-1", "a", buy(), told("decline")), attempt("a-1", "b", buy(), told("approve"))];
    assert_eq!(rules(&unequal_repeats(&history, &Early::default())), [Rule::UnequalRepeat]);
}

/// An answer given while the store is away may differ from another gateway's where the journal says so, and is never lost.
#[test]
fn an_early_answer_may_differ_only_where_the_journal_tells() {
    let buy = || Asked::Buy { authorization: "a-1".into() };
    let answer =
        |reason: &str| json!({"decision_id": "d", "outcome": "decline", "settlement": "disabled", "reasons": [reason]});
    let heard = |node: &str, reason: &str| attempt("a-1", node, buy(), Heard::Done(answer(reason)));
    let history = [heard("a", "velocity"), heard("b", "amount")];
    let event = |kind: &str, reason: &str| {
        let mut decision = answer(reason);
        decision["purchase"] = json!({"authorization_id": "a-1"});
        decision["answered_before_durable_at"] = FROM.into();
        json!({"event": kind, "decision": decision})
    };
    let decided = record(1, vec![event("purchase_decided", "velocity")]);
    let early = Early::of(std::slice::from_ref(&decided));
    assert_eq!(early.len(), 1);
    let there = [node("a", &[("/v1/decisions/d", answer("velocity"))])];
    assert_eq!(rules(&unequal_repeats(&history, &early)), [Rule::UnequalRepeat]);
    assert_eq!(rules(&lost(&history, &there, &early)), [Rule::Lost], "nothing tells of the other answer");
    let both = [decided, record(2, vec![event("purchase_answered_otherwise", "amount")])];
    let early = Early::of(&both);
    assert!(unequal_repeats(&history, &early).is_empty() && lost(&history, &there, &early).is_empty());
    assert!(unheard(&history, &early).is_empty());
    assert_eq!(rules(&lost(&history, &[node("a", &[])], &early)), [Rule::Lost]);
    // An answer that nobody waited for any more is not on record as heard.
    assert_eq!(rules(&unheard(&history[..1], &early)), [Rule::Untrue]);
    let gone = attempt("a-1", "b", buy(), Heard::Unknown);
    assert!(unheard(&[history[0].clone(), gone], &early).is_empty(), "it may have been this one's");
}

#[test]
fn one_request_carried_out_twice_is_found() {
    let (history, nodes, mut records) = sound();
    records.insert(2, record(2, vec![accepted("c-2")]));
    assert_eq!(rules(&check(&history, &nodes, &records, &executed(1))), [Rule::UnequalRepeat]);
}

#[test]
fn a_refusal_of_what_was_done_is_found() {
    let (mut history, _, records) = sound();
    for attempt in &mut history {
        attempt.heard = Heard::Refused("conflict".into());
    }
    assert_eq!(rules(&miscounted(&history, &records)), [Rule::RefusedYetDone]);
    history[0].heard = Heard::Unknown;
    assert!(miscounted(&history, &records).is_empty(), "then nobody said that it surely was not done");
}
