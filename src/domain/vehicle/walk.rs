//! A seeded walk through everything that can be asked of a vehicle's record.

use proptest::prelude::*;

use super::bench::*;
use super::*;
use crate::domain::command::AckStatus;
use crate::domain::key::{Delegation, KeyState, RevocationEffect};
use crate::domain::rental::Lending;

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
    Extend {
        nth: usize,
        minutes: i64,
    },
    /// Hands a key on, with or without more than it has.
    Delegate {
        nth: usize,
        permits: u64,
        minutes: i64,
    },
    RevokeDelegation(usize),
    KeyUsed(usize),
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
        (0usize..4, -60i64..300).prop_map(|(nth, minutes)| Move::Extend { nth, minutes }),
        (0usize..4, 0u64..8192, 1i64..300).prop_map(|(nth, permits, minutes)| Move::Delegate { nth, permits, minutes }),
        (0usize..4).prop_map(Move::RevokeDelegation),
        (0usize..4).prop_map(Move::KeyUsed),
        Just(Move::Crash),
    ]
}

fn order(kind: u8) -> Order {
    match kind {
        0 => Order::Lock,
        1 => Order::Unlock,
        2 => Order::Locate,
        3 => Order::DisableFunction { function: Function::Drive },
        4 => Order::EnableFunction { function: Function::Drive },
        _ => Order::ReportState,
    }
}

fn crash(bench: &mut Bench) {
    let text = serde_json::to_string(&bench.vehicle).expect("the record serialises");
    bench.vehicle = serde_json::from_str(&text).expect("the record is read back");
    bench.twin = Twin::new(bench.now);
    bench.epoch = 0;
    let _ = bench.ask(Request::LinkDown);
}

fn step(bench: &mut Bench, step: &Move) {
    // A refusal is a fine outcome of any step; what must hold is checked afterwards.
    match *step {
        Move::Order(kind) => {
            let _ = bench.order(order(kind));
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
                let _ = bench.ask(Request::EndRental { rental_id, by: operator() });
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
        Move::Extend { nth, minutes } => {
            if let Some(rental) = bench.vehicle.rentals.iter().rev().nth(nth).cloned() {
                let (rental_id, until) = (rental.rental_id, rental.until.plus_ms(minutes * 60_000));
                let _ = bench.ask(Request::Extend { rental_id, until, by: renter(&rental.renter) });
            }
        }
        Move::Delegate { nth, permits, minutes } => delegate_and_check(bench, nth, permits, minutes),
        Move::RevokeDelegation(nth) => {
            let delegated = bench.vehicle.keys.iter().rev().find_map(|key| Some((key, key.delegations.get(nth)?)));
            if let Some((key_id, delegated_key_id)) = delegated.map(|(key, made)| (key.grant.key_id, made.key_id)) {
                let effect = RevocationEffect::Immediate;
                let _ = bench.ask(Request::RevokeDelegation { key_id, delegated_key_id, effect });
            }
        }
        Move::KeyUsed(nth) => {
            if let Some(key_id) = bench.vehicle.keys.iter().rev().nth(nth).map(|key| key.grant.key_id) {
                bench.key_used(key_id);
            }
        }
        Move::Crash => crash(bench),
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

fn delegate_and_check(bench: &mut Bench, nth: usize, permits: u64, minutes: i64) {
    let Some(key) = bench.vehicle.keys.iter().rev().nth(nth).cloned() else { return };
    let delegation = Delegation {
        key_id: KeyId(bench.new_id()),
        holder: "friend".into(),
        permits: Functions::from_bits(permits).expect("thirteen bits"),
        not_before: key.grant.not_before,
        not_after: key.grant.not_before.plus_ms(minutes * 60_000),
        told_at: bench.now,
        revoked_at: None,
    };
    let made = delegation.clone();
    if bench.ask(Request::Delegate { key_id: key.grant.key_id, delegation }).is_ok() {
        assert!(made.permits.is_subset_of(key.grant.permits) && made.not_after <= key.grant.not_after, "more than had");
        assert!(key.grant.max_delegation == 1 && key.revoked_at.is_none(), "not to be handed on: {key:?}");
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
    for key in &vehicle.keys {
        assert!(key.delegations.len() <= Key::MAX_DELEGATIONS);
        assert!(key.leased().not_after <= key.grant.not_after, "a lease outlives its key");
        for delegation in &key.delegations {
            let is_good =
                matches!(key.delegation_state(delegation, bench.now), KeyState::Pending | KeyState::Delivered);
            assert!(!is_good || key.revoked_at.is_none(), "a delegated key outlived the one it was made of");
        }
        let rental = vehicle.rental(key.rental_id);
        assert!(rental.is_none_or(|rental| rental.until == key.grant.not_after), "key and rental end together");
    }
    let now = vehicle.without_the_past();
    assert!(now.open_commands().eq(vehicle.open_commands()), "what is open is not over");
    assert_eq!(now.usage(bench.now), vehicle.usage(bench.now));
    assert_eq!(now.is_drive_enabled(&bench.twin), vehicle.is_drive_enabled(&bench.twin));
    let is_good = |key: &&Key| matches!(key.state(bench.now), KeyState::Pending | KeyState::Delivered);
    assert!(now.keys.iter().filter(is_good).eq(vehicle.keys.iter().filter(is_good)), "a key that opens is not over");
    assert!(vehicle.commands.len() <= 3 * Vehicle::MAX_OPEN_COMMANDS + Vehicle::MAX_CLOSED_COMMANDS);
    assert!(vehicle.keys.len() <= Vehicle::MAX_KEYS + Vehicle::MAX_CLOSED_RENTALS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_history_of_requests_answers_and_crashes_breaks_a_promise(walk in prop::collection::vec(moves(), 1..120)) {
        let mut bench = Bench::new();
        let lending = Lending { no_show_minutes: Some(120), lease_minutes: Some(30), ..Lending::default() };
        if walk.len() % 2 == 0 {
            bench.lend(lending);
        }
        for next in &walk {
            let before = bench.vehicle.clone();
            step(&mut bench, next);
            check_invariants(&before, &bench);
        }
    }
}
