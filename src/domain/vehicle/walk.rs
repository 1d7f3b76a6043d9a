//! Claims about one vehicle's record, and a seeded walk through everything that can be asked of it.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::command::{Ack, AckStatus, Fact};
use crate::domain::key::{HolderKey, RevocationEffect};
use crate::domain::rental::{Approval, Lending};
use crate::domain::twin::{Report, SignalValue, path};
use crate::domain::{RefusalKind, Role};

const START: Timestamp = Timestamp(1_700_000_000_000);
const HOUR_MS: i64 = 3_600_000;

/// A record with its twin and its time, as an actor would hold them.
struct Bench {
    vehicle: Vehicle,
    twin: Twin,
    now: Timestamp,
    rules: Rules,
    ids: std::cell::Cell<u128>,
    epoch: u64,
    seq: u64,
}

fn operator() -> Principal {
    Principal { role: Role::Operator, subject: "ops".into() }
}

fn renter(name: &str) -> Principal {
    Principal { role: Role::Renter, subject: name.into() }
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            vehicle: Vehicle::new("CAR-1".parse().expect("id")),
            twin: Twin::new(START),
            now: START,
            rules: Rules {
                profiles: Profile::built_in(),
                max_key_ms: 48 * HOUR_MS,
                lock_ttl_ms: 300_000,
                command_ttl_ms: HOUR_MS,
                max_ttl_ms: 24 * HOUR_MS,
            },
            ids: std::cell::Cell::new(0),
            epoch: 0,
            seq: 0,
        };
        bench.ask(Request::Register { details: Details::default(), by: operator() }).expect("registers");
        bench
    }

    fn new_id(&self) -> Uuid {
        self.ids.set(self.ids.get() + 1);
        Uuid::from_u128(self.ids.get())
    }

    /// Decides, applies, and checks that the events alone rebuild the record, also after a trip through JSON.
    fn ask(&mut self, request: Request) -> Result<Vec<Event>, Refusal> {
        let new_id = || self.new_id();
        let context = Context { now: self.now, twin: &self.twin, rules: &self.rules, new_id: &new_id };
        let events = self.vehicle.decide(&context, request)?;
        let text = serde_json::to_string(&events).expect("events serialise");
        let read: Vec<Event> = serde_json::from_str(&text).expect("events are read back");
        assert_eq!(read, events, "an event changed on its way through the journal");
        for event in &events {
            self.vehicle.apply(event);
        }
        Ok(events)
    }

    fn connect(&mut self) {
        self.epoch += 1;
        self.twin.connected(self.now, self.epoch);
        self.ask(Request::LinkUp).expect("link up");
    }

    fn disconnect(&mut self) {
        self.twin.disconnected(self.now, self.epoch);
        self.ask(Request::LinkDown).expect("link down");
    }

    fn report(&mut self, signals: &[(&str, SignalValue)]) {
        self.seq += 1;
        let signals = signals.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        self.twin.observe(self.now, Report { boot: 1, seq: self.seq, at: self.now, signals });
        self.ask(Request::Review).expect("review");
    }

    fn drives(&mut self, is_driving: bool) {
        let (speed, state) = if is_driving { (50.0, "ON") } else { (0.0, "OFF") };
        self.report(&[
            (path::SPEED_KMH, SignalValue::Number(speed)),
            (path::LOW_VOLTAGE, SignalValue::Text(state.into())),
        ]);
    }

    fn order(&mut self, order: Order) -> Result<CommandId, Refusal> {
        let command_id = CommandId(self.new_id());
        self.ask(Request::Order { command_id, order, ttl_ms: None, by: operator() })?;
        Ok(command_id)
    }

    /// What an actor does: everything in the outbox goes to the car.
    fn send_all(&mut self) -> Vec<CommandId> {
        let ids: Vec<CommandId> = self.vehicle.outbox(&self.twin).iter().map(|command| command.command_id).collect();
        for command_id in ids.clone() {
            self.ask(Request::Sent { command_ids: vec![command_id] }).expect("sent");
        }
        ids
    }

    fn ack(&mut self, command_id: CommandId, status: AckStatus) {
        self.ask(Request::Ack(Ack { command_id, at: self.now, status, reason: None })).expect("ack");
    }

    fn state(&self, id: CommandId) -> CommandState {
        self.vehicle.command(id).expect("is kept").state
    }

    fn pass(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
    }

    fn request(&mut self, who: &str, profile: &str, from_ms: i64, until_ms: i64) -> Result<RequestId, Refusal> {
        let request_id = RequestId(self.new_id());
        self.ask(Request::Use {
            request_id,
            renter: who.into(),
            profile: profile.into(),
            from: self.now.plus_ms(from_ms),
            until: self.now.plus_ms(until_ms),
            holder_key: HolderKey::Ed25519 { x: [7; 32] },
        })?;
        Ok(request_id)
    }
}

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
    assert_eq!(bench.vehicle.next_due(), Some(START.plus_ms(HOUR_MS)));
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

/// One step of the walk.
#[derive(Debug, Clone)]
enum Move {
    Order(u8),
    Use {
        who: u8,
        profile: bool,
        from_min: i64,
        minutes: i64,
    },
    Connect,
    Disconnect,
    Drive(bool),
    Pass(i64),
    SendAll,
    Ack {
        nth: usize,
        status: u8,
    },
    EndRental(usize),
    CancelRental(usize),
    Revoke(usize),
    Act {
        nth: usize,
        function: u8,
    },
    Cancel(usize),
    /// The process dies: only the record survives, and the link is gone.
    Crash,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        (0u8..6).prop_map(Move::Order),
        (0u8..3, any::<bool>(), 0i64..600, 1i64..600).prop_map(|(who, profile, from_min, minutes)| Move::Use {
            who,
            profile,
            from_min,
            minutes
        }),
        Just(Move::Connect),
        Just(Move::Disconnect),
        any::<bool>().prop_map(Move::Drive),
        (0i64..7_200_000).prop_map(Move::Pass),
        Just(Move::SendAll),
        Just(Move::SendAll),
        (0usize..8, 0u8..5).prop_map(|(nth, status)| Move::Ack { nth, status }),
        (0usize..4).prop_map(Move::EndRental),
        (0usize..4).prop_map(Move::CancelRental),
        (0usize..4).prop_map(Move::Revoke),
        (0usize..4, 0u8..13).prop_map(|(nth, function)| Move::Act { nth, function }),
        (0usize..8).prop_map(Move::Cancel),
        Just(Move::Crash),
    ]
}

fn step(bench: &mut Bench, step: &Move) {
    // A refusal is a fine outcome of any step; what must hold is checked afterwards.
    match *step {
        Move::Order(kind) => {
            let order = match kind {
                0 => Order::Lock,
                1 => Order::Unlock,
                2 => Order::Locate,
                3 => Order::DisableFunction { function: Function::Drive },
                4 => Order::EnableFunction { function: Function::Drive },
                _ => Order::ReportState,
            };
            let _ = bench.order(order);
        }
        Move::Use { who, profile, from_min, minutes } => {
            let (profile, from) = (if profile { "drive" } else { "cabin" }, from_min * 60_000);
            let _ = bench.request(&format!("renter-{who}"), profile, from, from + minutes * 60_000);
        }
        Move::Connect => bench.connect(),
        Move::Disconnect => bench.disconnect(),
        Move::Drive(is_driving) => bench.drives(is_driving),
        Move::Pass(ms) => {
            bench.pass(ms);
            let _ = bench.ask(Request::Review);
        }
        Move::SendAll => {
            bench.send_all();
        }
        Move::Ack { nth, status } => {
            let statuses = [
                AckStatus::Executing,
                AckStatus::PendingSafe,
                AckStatus::Succeeded,
                AckStatus::Failed,
                AckStatus::Rejected,
            ];
            if let Some(id) = bench.vehicle.commands.iter().rev().nth(nth).map(|command| command.command_id) {
                bench.ack(id, statuses[status as usize]);
            }
        }
        Move::EndRental(nth) => {
            if let Some(rental_id) = bench.vehicle.rentals.iter().rev().nth(nth).map(|rental| rental.rental_id) {
                let _ = bench.ask(Request::EndRental { rental_id });
            }
        }
        Move::CancelRental(nth) => {
            if let Some(rental_id) = bench.vehicle.rentals.iter().rev().nth(nth).map(|rental| rental.rental_id) {
                let _ = bench.ask(Request::CancelRental { rental_id });
            }
        }
        Move::Revoke(nth) => {
            if let Some(key_id) = bench.vehicle.keys.iter().rev().nth(nth).map(|key| key.grant.key_id) {
                let _ = bench.ask(Request::Revoke { key_id, effect: RevocationEffect::Immediate });
            }
        }
        Move::Act { nth, function } => act_and_check(bench, nth, Function::ALL[function as usize]),
        Move::Cancel(nth) => {
            if let Some(command_id) = bench.vehicle.commands.iter().rev().nth(nth).map(|command| command.command_id) {
                let _ = bench.ask(Request::Cancel { command_id });
            }
        }
        Move::Crash => {
            let text = serde_json::to_string(&bench.vehicle).expect("the record serialises");
            bench.vehicle = serde_json::from_str(&text).expect("the record is read back");
            bench.twin = Twin::new(bench.now);
            bench.epoch = 0;
            let _ = bench.ask(Request::LinkDown);
        }
    }
}

fn act_and_check(bench: &mut Bench, nth: usize, function: Function) {
    let Some(key) = bench.vehicle.keys.iter().rev().nth(nth).cloned() else { return };
    let command_id = CommandId(bench.new_id());
    let by = renter(&key.holder);
    if bench.ask(Request::Act { command_id, key_id: key.grant.key_id, function, by }).is_ok() {
        assert!(key.grant.permits.contains(function), "a prohibited function was let through");
        assert!(key.revoked_at.is_none(), "a revoked key was let through");
        assert!(bench.now >= key.grant.not_before && bench.now <= key.grant.not_after, "outside its validity");
    }
}

fn check_invariants(before: &Vehicle, bench: &Bench) {
    let vehicle = &bench.vehicle;
    let open: Vec<&Rental> = vehicle.rentals.iter().filter(|rental| rental.state.is_open()).collect();
    for (index, rental) in open.iter().enumerate() {
        for other in &open[index + 1..] {
            assert!(!rental.overlaps(other.from, other.until), "two rentals overlap: {rental:?} {other:?}");
        }
    }
    for command in vehicle.outbox(&bench.twin) {
        let is_safe = !command.order.endangers_a_moving_car() || command.was_sent || bench.twin.is_safe_to_stop();
        assert!(is_safe, "would stop a moving car: {command:?}");
    }
    for command in &vehicle.commands {
        assert!(command.history.len() <= Command::MAX_HISTORY);
        if !command.was_sent {
            let impossible = [CommandState::Succeeded, CommandState::Failed, CommandState::Unknown];
            assert!(!impossible.contains(&command.state), "the car never had it: {command:?}");
        }
        let was = before.command(command.command_id).map(|command| command.state);
        if let Some(was) = was.filter(|was| was.is_final() && *was != CommandState::Unknown) {
            assert_eq!(was, command.state, "an outcome changed");
        }
    }
    for rental in vehicle.rentals.iter().filter(|rental| rental.state == RentalState::Ended) {
        let key = vehicle.key(rental.key_id);
        assert!(key.is_none_or(|key| key.revoked_at.is_some()), "an ended rental left its key");
    }
    assert!(vehicle.commands.len() <= 3 * Vehicle::MAX_OPEN_COMMANDS + Vehicle::MAX_CLOSED_COMMANDS);
    assert!(vehicle.keys.len() <= Vehicle::MAX_KEYS + Vehicle::MAX_CLOSED_RENTALS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_history_of_requests_answers_and_crashes_breaks_a_promise(walk in prop::collection::vec(moves(), 1..120)) {
        let mut bench = Bench::new();
        for next in &walk {
            let before = bench.vehicle.clone();
            step(&mut bench, next);
            check_invariants(&before, &bench);
        }
    }
}
