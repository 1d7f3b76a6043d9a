//! Claims about one vehicle's record.

use super::bench::*;
use super::*;
use crate::domain::RefusalKind;
use crate::domain::command::{AckStatus, Fact};
use crate::domain::key::RevocationEffect;
use crate::domain::rental::{Approval, Lending};
use crate::domain::twin::{SignalValue, path};

#[test]
fn a_command_to_an_offline_car_waits_and_is_sent_when_it_returns() {
    let mut bench = Bench::new();
    let lock = bench.order(Order::Lock).expect("accepted");
    assert_eq!(bench.state(lock), CommandState::Queued);
    assert!(bench.send_all().is_empty());
    bench.connect();
    assert_eq!(bench.send_all(), [lock]);
    bench.ask(Request::Delivered { command_id: lock }).expect("delivered");
    assert_eq!(bench.state(lock), CommandState::Delivered);
    bench.ack(lock, AckStatus::Succeeded);
    assert_eq!(bench.state(lock), CommandState::Succeeded);
}

#[test]
fn what_was_not_acknowledged_is_sent_again_in_order_after_a_reconnect() {
    let mut bench = Bench::new();
    bench.connect();
    let first = bench.order(Order::Locate).expect("accepted");
    let second = bench.order(Order::Lock).expect("accepted");
    assert_eq!(bench.send_all(), [first, second]);
    bench.disconnect();
    assert_eq!(bench.state(first), CommandState::Queued);
    bench.connect();
    assert_eq!(bench.send_all(), [first, second]);
}

#[test]
fn a_newer_order_takes_the_place_of_an_unsent_one_but_not_of_a_sent_one() {
    let mut bench = Bench::new();
    let lock = bench.order(Order::Lock).expect("accepted");
    let unlock = bench.order(Order::Unlock).expect("accepted");
    assert_eq!(bench.state(lock), CommandState::Superseded);
    bench.connect();
    bench.send_all();
    bench.order(Order::Lock).expect("accepted");
    assert_eq!(bench.state(unlock), CommandState::Sent);
}

#[test]
fn silence_is_expired_when_never_sent_and_unknown_when_sent() {
    let mut bench = Bench::new();
    let unsent = bench.order(Order::Lock).expect("accepted");
    bench.pass(300_001);
    bench.ask(Request::Review).expect("review");
    assert_eq!(bench.state(unsent), CommandState::Expired);
    bench.connect();
    let sent = bench.order(Order::Unlock).expect("accepted");
    bench.send_all();
    bench.pass(300_001);
    bench.ask(Request::Review).expect("review");
    assert_eq!(bench.state(sent), CommandState::Unknown);
}

#[test]
fn a_late_answer_settles_the_unknown_and_so_does_the_reported_state() {
    let mut bench = Bench::new();
    bench.connect();
    let answered = bench.order(Order::Unlock).expect("accepted");
    bench.send_all();
    bench.pass(300_001);
    bench.ask(Request::Review).expect("review");
    bench.ack(answered, AckStatus::Executing);
    assert_eq!(bench.state(answered), CommandState::Unknown, "progress does not settle it");
    bench.ack(answered, AckStatus::Failed);
    assert_eq!(bench.state(answered), CommandState::Failed);

    let seen = bench.order(Order::Lock).expect("accepted");
    bench.send_all();
    bench.pass(300_001);
    bench.ask(Request::Review).expect("review");
    bench.report(&[(path::DRIVER_DOOR_LOCKED, SignalValue::Bool(false))]);
    assert_eq!(bench.state(seen), CommandState::Unknown);
    bench.pass(1);
    bench.report(&[(path::DRIVER_DOOR_LOCKED, SignalValue::Bool(true))]);
    assert_eq!(bench.state(seen), CommandState::Succeeded);
}

#[test]
fn an_outcome_is_not_changed_by_a_repeated_or_contradicting_answer() {
    let mut bench = Bench::new();
    bench.connect();
    let lock = bench.order(Order::Lock).expect("accepted");
    bench.send_all();
    bench.ack(lock, AckStatus::Succeeded);
    bench.ack(lock, AckStatus::Failed);
    bench.ack(lock, AckStatus::Executing);
    assert_eq!(bench.state(lock), CommandState::Succeeded);
}

#[test]
fn a_driving_car_is_not_disabled_until_it_stands_with_ignition_off() {
    let mut bench = Bench::new();
    bench.connect();
    bench.drives(true);
    let stop = bench.order(Order::DisableFunction { function: Function::Drive }).expect("accepted");
    assert_eq!(bench.state(stop), CommandState::PendingSafe);
    assert!(bench.send_all().is_empty());
    bench.pass(1000);
    bench.report(&[(path::SPEED_KMH, SignalValue::Number(0.0))]);
    assert!(bench.send_all().is_empty(), "at a red light the ignition is on");
    bench.pass(1000);
    bench.drives(false);
    assert_eq!(bench.send_all(), [stop]);
    bench.ack(stop, AckStatus::Succeeded);
    assert!(!bench.vehicle.is_drive_enabled(&bench.twin));
}

#[test]
fn a_car_whose_state_is_not_known_is_not_disabled() {
    for away_ms in [1, 30_000, HOUR_MS] {
        let mut bench = Bench::new();
        bench.connect();
        bench.drives(false);
        bench.disconnect();
        bench.pass(away_ms);
        bench.connect();
        bench.order(Order::DisableFunction { function: Function::Drive }).expect("accepted");
        assert!(bench.send_all().is_empty(), "it may have driven off in the {away_ms} ms while it was away");
        bench.drives(false);
        assert_eq!(bench.send_all().len(), 1);
    }
}

fn rented(bench: &mut Bench) -> KeyId {
    bench.request("ann", "drive", 0, HOUR_MS).expect("granted");
    bench.vehicle.keys.last().expect("a key").grant.key_id
}

fn act(bench: &mut Bench, key_id: KeyId, function: Function) -> Result<Vec<Event>, Refusal> {
    let command_id = CommandId(bench.new_id());
    bench.ask(Request::Act { command_id, key_id, function, by: renter("ann") })
}

#[test]
fn a_renter_does_not_undo_what_the_fleet_has_ordered_and_the_car_has_not_done_yet() {
    let mut bench = Bench::new();
    bench.connect();
    let key = rented(&mut bench);
    bench.drives(true);
    let stop = bench.order(Order::DisableFunction { function: Function::Drive }).expect("accepted");
    assert_eq!(act(&mut bench, key, Function::Drive).expect_err("held back").kind, RefusalKind::Conflict);
    assert_eq!(bench.state(stop), CommandState::PendingSafe);
    bench.drives(false);
    bench.send_all();
    assert_eq!(act(&mut bench, key, Function::Drive).expect_err("on its way").kind, RefusalKind::Conflict);
    bench.pass(HOUR_MS + 1);
    bench.ask(Request::Review).expect("review");
    bench.disconnect();
    let key = rented(&mut bench);
    let lock = bench.order(Order::Lock).expect("accepted");
    assert_eq!(act(&mut bench, key, Function::UnlockDoors).expect_err("locked by staff").kind, RefusalKind::Conflict);
    assert_eq!(bench.state(lock), CommandState::Queued);
    act(&mut bench, key, Function::LockDoors).expect("the same as the fleet wants");
}

#[test]
fn what_may_have_left_before_a_crash_counts_as_sent() {
    let mut bench = Bench::new();
    bench.connect();
    let unlock = bench.order(Order::Unlock).expect("accepted");
    // It went out, the car did it, and the note of it was not saved yet: after the restart the car is offline.
    bench.twin = Twin::new(bench.now);
    bench.ask(Request::LinkDown).expect("started again");
    assert_eq!(bench.ask(Request::Cancel { command_id: unlock }).expect_err("done").kind, RefusalKind::Conflict);
    let lock = bench.order(Order::Lock).expect("accepted");
    assert_eq!(bench.state(unlock), CommandState::Queued, "not said to be superseded: it may have been carried out");
    bench.ack(unlock, AckStatus::Succeeded);
    assert_eq!(bench.state(unlock), CommandState::Succeeded);
    bench.ask(Request::Cancel { command_id: lock }).expect("this one surely did not leave");
}

#[test]
fn an_answer_proves_that_the_command_was_sent() {
    let mut bench = Bench::new();
    let lock = bench.order(Order::Lock).expect("accepted");
    bench.ack(lock, AckStatus::Succeeded);
    assert_eq!(bench.state(lock), CommandState::Succeeded);
    assert!(bench.vehicle.command(lock).expect("kept").was_sent);
}

#[test]
fn a_revocation_can_be_made_harder_once() {
    let mut bench = Bench::new();
    bench.connect();
    let key_id = rented(&mut bench);
    let revoke = |bench: &mut Bench, effect| bench.ask(Request::Revoke { key_id, effect }).expect("revoked").len();
    assert!(revoke(&mut bench, RevocationEffect::AtSafeState) > 0);
    assert_eq!(revoke(&mut bench, RevocationEffect::AtSafeState), 0);
    bench.send_all();
    let before = bench.vehicle.key_generation;
    assert!(revoke(&mut bench, RevocationEffect::Immediate) > 0);
    assert_eq!(bench.vehicle.key_generation, before + 1);
    assert_eq!(revoke(&mut bench, RevocationEffect::Immediate), 0, "and no softer, and not again");
    assert_eq!(revoke(&mut bench, RevocationEffect::AtSafeState), 0);
}

#[test]
fn what_a_car_is_told_of_its_keys_cannot_be_cancelled() {
    let mut bench = Bench::new();
    let key_id = rented(&mut bench);
    bench.ask(Request::Revoke { key_id, effect: RevocationEffect::Immediate }).expect("revoked");
    let about_keys: Vec<CommandId> = bench.vehicle.open_commands().map(|command| command.command_id).collect();
    assert!(!about_keys.is_empty());
    for command_id in about_keys {
        assert_eq!(bench.ask(Request::Cancel { command_id }).expect_err("kept").kind, RefusalKind::Conflict);
    }
}

#[test]
fn a_cabin_key_opens_the_door_and_does_not_drive() {
    let mut bench = Bench::new();
    bench.connect();
    let request = bench.request("ann", "cabin", 0, HOUR_MS).expect("granted");
    let key_id = bench.vehicle.usage_request(request).and_then(|request| request.key_id).expect("has a key");
    let act = |bench: &mut Bench, function, by| {
        let command_id = CommandId(bench.new_id());
        bench.ask(Request::Act { command_id, key_id, function, by }).map(|_| ())
    };
    assert_eq!(act(&mut bench, Function::UnlockDoors, renter("ann")), Ok(()));
    let refused = act(&mut bench, Function::Drive, renter("ann")).expect_err("prohibited");
    assert_eq!(refused.kind, RefusalKind::Forbidden);
    let refused = act(&mut bench, Function::UnlockDoors, renter("bob")).expect_err("not his");
    assert_eq!(refused.kind, RefusalKind::NotFound);
    bench.pass(HOUR_MS + 1);
    let refused = act(&mut bench, Function::UnlockDoors, renter("ann")).expect_err("over");
    assert_eq!(refused.kind, RefusalKind::Expired);
}

#[test]
fn a_rental_begins_and_ends_by_itself_and_takes_its_key_along() {
    let mut bench = Bench::new();
    bench.connect();
    let request = bench.request("ann", "drive", HOUR_MS, 2 * HOUR_MS).expect("granted");
    let rental_id = bench.vehicle.usage_request(request).and_then(|request| request.rental_id).expect("rental");
    for id in bench.send_all() {
        bench.ack(id, AckStatus::Succeeded);
    }
    assert_eq!(bench.vehicle.rental(rental_id).map(|rental| rental.state), Some(RentalState::Reserved));
    assert_eq!(bench.vehicle.next_due(&bench.twin), Some(START.plus_ms(HOUR_MS)));
    bench.pass(HOUR_MS);
    bench.ask(Request::Review).expect("review");
    assert!(matches!(bench.vehicle.usage(bench.now), Usage::Rented { .. }));
    bench.pass(HOUR_MS);
    bench.ask(Request::Review).expect("review");
    assert!(matches!(bench.vehicle.usage(bench.now), Usage::Ending { .. }));
    for id in bench.send_all() {
        bench.ack(id, AckStatus::Succeeded);
    }
    assert_eq!(bench.vehicle.rental(rental_id).map(|rental| rental.state), Some(RentalState::Ended));
    assert_eq!(bench.vehicle.usage(bench.now), Usage::Free);
    assert_eq!(bench.vehicle.key_generation, 1);
}

#[test]
fn a_car_is_not_lent_twice_for_the_same_time() {
    let mut bench = Bench::new();
    bench.request("ann", "cabin", HOUR_MS, 2 * HOUR_MS).expect("granted");
    let refused = bench.request("bob", "cabin", 90 * 60_000, 3 * HOUR_MS).expect_err("taken");
    assert_eq!(refused.kind, RefusalKind::NotAvailable);
    bench.request("bob", "cabin", 2 * HOUR_MS, 3 * HOUR_MS).expect("from the very end on it is free");
}

#[test]
fn an_owner_who_wants_to_be_asked_is_asked() {
    let mut bench = Bench::new();
    let lending = Lending { approval: Approval::Owner, profiles: vec!["cabin".into()], ..Lending::default() };
    bench.ask(Request::Change { details: Details { lending: Some(lending), ..Details::default() } }).expect("changed");
    let refused = bench.request("ann", "drive", 0, HOUR_MS).expect_err("not lent");
    assert_eq!(refused.kind, RefusalKind::ProfileNotAllowed);
    let request_id = bench.request("ann", "cabin", 0, HOUR_MS).expect("requested");
    assert!(bench.vehicle.keys.is_empty());
    bench.ask(Request::Approve { request_id }).expect("approved");
    assert_eq!(bench.vehicle.keys.len(), 1);
    let refused = bench.ask(Request::Decline { request_id }).expect_err("decided");
    assert_eq!(refused.kind, RefusalKind::Conflict);
}

#[test]
fn a_function_the_unit_lacks_is_refused_before_anything_is_sent() {
    let mut bench = Bench::new();
    let fact = |capabilities: Vec<Function>, seq| {
        let kind = FactKind::Boot { firmware: "1.0".into(), capabilities, tank_litres: Some(50.0) };
        Request::Fact(Fact { boot: 1, seq, at: START, kind })
    };
    bench.ask(fact(vec![Function::LockDoors, Function::UnlockDoors], 1)).expect("taken");
    let refused = bench.order(Order::Locate).expect_err("no horn");
    assert_eq!(refused.kind, RefusalKind::CapabilityMissing);
    let refused = bench.request("ann", "drive", 0, HOUR_MS).expect_err("cannot drive");
    assert_eq!(refused.kind, RefusalKind::CapabilityMissing);
    let mut petrol: Vec<Function> = Function::ALL.to_vec();
    petrol.retain(|function| *function != Function::OpenChargePort);
    bench.ask(fact(petrol, 2)).expect("taken");
    bench.request("ann", "drive", 0, HOUR_MS).expect("a petrol car has no charge port, and is lent all the same");
    assert!(!bench.vehicle.keys[0].grant.permits.contains(Function::OpenChargePort));
}

#[test]
fn a_fact_is_taken_once_however_often_and_in_whatever_order_it_comes() {
    let mut bench = Bench::new();
    let send = |bench: &mut Bench, seq| {
        let kind = FactKind::Door { name: "driver".into(), open: true };
        bench.ask(Request::Fact(Fact { boot: 9, seq, at: START, kind })).expect("taken").len()
    };
    assert_eq!(send(&mut bench, 5), 1);
    assert_eq!(send(&mut bench, 3), 1, "late but new");
    assert_eq!(send(&mut bench, 5), 0);
    assert_eq!(send(&mut bench, 3), 0);
    assert_eq!(send(&mut bench, 200), 1);
    assert_eq!(send(&mut bench, 4), 1, "further back than is remembered: better twice than lost");
    assert_eq!(send(&mut bench, 200), 0);
}
