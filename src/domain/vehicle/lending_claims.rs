//! Claims about rentals and keys after their begin: longer, unused, on lease, handed on.

use super::bench::*;
use super::*;
use crate::domain::RefusalKind;
use crate::domain::card::AlertKind;
use crate::domain::command::{Ack, AckStatus};
use crate::domain::key::{Delegation, KeyGrant, KeyState, RevocationEffect};
use crate::domain::rental::{Approval, Lending, ReturnArea};
use crate::domain::twin::{Report, SignalValue, path};

const MIN_MS: i64 = 60_000;

/// A car online with a running rental of ann's, whose key the car has.
fn rented(profile: &str, lending: Lending) -> (Bench, Rental) {
    let mut bench = Bench::new();
    bench.lend(lending);
    bench.connect();
    bench.request("ann", profile, 0, HOUR_MS).expect("granted");
    deliver(&mut bench);
    let rental = bench.vehicle.rentals[0].clone();
    (bench, rental)
}

fn deliver(bench: &mut Bench) {
    for id in bench.send_all() {
        bench.ack(id, AckStatus::Succeeded);
    }
}

fn review(bench: &mut Bench) {
    bench.ask(Request::Review).expect("review");
}

fn told_grants(bench: &Bench) -> Vec<&KeyGrant> {
    let grants = bench.vehicle.commands.iter().filter_map(|command| match &command.order {
        Order::GrantKey { key } => Some(key),
        _ => None,
    });
    grants.collect()
}

#[test]
fn what_was_asked_for_just_now_is_kept_also_when_the_clock_was_set_back() {
    let mut bench = Bench::new();
    bench.connect();
    bench.pass(HOUR_MS);
    let asked = |bench: &mut Bench| {
        let request_id = bench.request("ann", "cabin", HOUR_MS, 2 * HOUR_MS).expect("granted");
        let request = bench.vehicle.usage_request(request_id).expect("who asked finds it").clone();
        let rental_id = request.rental_id.expect("its rental");
        bench.ask(Request::CancelRental { rental_id }).expect("cancelled");
        bench.vehicle.rental(rental_id).expect("who cancelled finds it");
        deliver(bench);
    };
    for _ in 0..2 * Vehicle::MAX_CLOSED_RENTALS {
        asked(&mut bench);
        bench.pass(1_000);
    }
    bench.pass(-HOUR_MS / 2);
    for _ in 0..2 * Vehicle::MAX_CLOSED_RENTALS {
        asked(&mut bench);
    }
    assert_eq!(bench.vehicle.requests.len(), Vehicle::MAX_CLOSED_RENTALS);
}

#[test]
fn a_longer_rental_takes_its_key_along_and_the_car_is_told() {
    let (mut bench, rental) = rented("cabin", Lending::default());
    let until = START.plus_ms(2 * HOUR_MS);
    let extend = Request::Extend { rental_id: rental.rental_id, until, by: renter("ann") };
    assert!(!bench.ask(extend.clone()).expect("extended").is_empty());
    assert_eq!(bench.ask(extend).expect("again").len(), 0, "the same wish again changes nothing");
    let key = bench.vehicle.key(rental.key_id).expect("its key");
    assert_eq!((key.grant.not_after, bench.vehicle.rentals[0].until), (until, until));
    let newest = told_grants(&bench).last().copied().expect("told").clone();
    assert_eq!((newest.key_id, newest.not_after), (rental.key_id, until));
    bench.pass(90 * MIN_MS);
    review(&mut bench);
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::Active);
}

#[test]
fn a_rental_is_not_made_longer_into_the_next_one_nor_beyond_the_terms() {
    let (mut bench, rental) = rented("cabin", Lending { max_minutes: Some(180), ..Lending::default() });
    bench.request("bob", "cabin", 2 * HOUR_MS, 3 * HOUR_MS).expect("granted");
    let mut extend = |until_ms: i64, by: &str| {
        let until = START.plus_ms(until_ms);
        let wish = Request::Extend { rental_id: rental.rental_id, until, by: renter(by) };
        bench.ask(wish).err().map(|refusal| refusal.kind)
    };
    assert_eq!(extend(2 * HOUR_MS + 1, "ann"), Some(RefusalKind::NotAvailable), "bob has it then");
    assert_eq!(extend(4 * HOUR_MS, "ann"), Some(RefusalKind::NotAvailable), "longer than it is lent");
    assert_eq!(extend(30 * MIN_MS, "ann"), Some(RefusalKind::Invalid), "shorter");
    assert_eq!(extend(90 * MIN_MS, "bob"), Some(RefusalKind::NotFound), "not his");
    assert_eq!(extend(2 * HOUR_MS, "ann"), None, "up to the very begin of bob's");
    bench.ask(Request::Revoke { key_id: rental.key_id, effect: RevocationEffect::Immediate }).expect("revoked");
    let late =
        Request::Extend { rental_id: rental.rental_id, until: START.plus_ms(119 * MIN_MS + 59_000), by: operator() };
    assert!(bench.ask(late).is_err());
}

#[test]
fn where_the_owner_decides_a_renter_does_not_make_a_rental_longer_alone() {
    let (mut bench, rental) = rented("cabin", Lending::default());
    bench.lend(Lending { approval: Approval::Owner, ..Lending::default() });
    let until = START.plus_ms(2 * HOUR_MS);
    let mut extend = |by| bench.ask(Request::Extend { rental_id: rental.rental_id, until, by });
    assert_eq!(extend(renter("ann")).expect_err("asks").kind, RefusalKind::Forbidden);
    assert!(extend(operator()).is_ok());
}

#[test]
fn a_car_nobody_comes_for_is_free_again_and_one_that_is_used_is_not() {
    let terms = Lending { no_show_minutes: Some(15), ..Lending::default() };
    let (mut bench, rental) = rented("cabin", terms.clone());
    assert_eq!(bench.vehicle.next_due(&bench.twin), Some(START.plus_ms(15 * MIN_MS)));
    bench.pass(15 * MIN_MS);
    review(&mut bench);
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::NoShow);
    assert!(bench.vehicle.key(rental.key_id).is_some_and(|key| key.revoked_at.is_some()));
    assert_eq!(bench.vehicle.usage(bench.now), Usage::Free);
    bench.request("bob", "cabin", 0, HOUR_MS).expect("free for others");

    let uses: [fn(&mut Bench, &Rental); 3] = [
        |bench, rental| bench.key_used(rental.key_id),
        |bench, _| bench.drives(true),
        |bench, rental| {
            let (command_id, key_id) = (CommandId(bench.new_id()), rental.key_id);
            let function = Function::UnlockDoors;
            bench.ask(Request::Act { command_id, key_id, function, by: renter("ann") }).expect("asked");
            deliver(bench);
        },
    ];
    for use_it in uses {
        let (mut bench, rental) = rented("drive", terms.clone());
        bench.pass(MIN_MS);
        use_it(&mut bench, &rental);
        bench.pass(20 * MIN_MS);
        review(&mut bench);
        assert_eq!(bench.vehicle.rentals[0].state, RentalState::Active);
    }
}

/// Bad reception is no reason to lose a car: whoever opened it could not have said so.
#[test]
fn nobody_is_held_not_to_have_come_while_the_car_could_not_say_so() {
    let terms = Lending { no_show_minutes: Some(15), ..Lending::default() };
    let (mut bench, rental) = rented("cabin", terms.clone());
    bench.disconnect();
    bench.pass(30 * MIN_MS);
    review(&mut bench);
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::Active);
    assert_eq!(bench.vehicle.next_due(&bench.twin), Some(rental.until));
    bench.connect();
    review(&mut bench);
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::Active, "its facts come in a moment");
    bench.key_used(rental.key_id);
    bench.pass(10 * MIN_MS);
    review(&mut bench);
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::Active);

    let (mut bench, _) = rented("cabin", terms);
    bench.disconnect();
    bench.pass(30 * MIN_MS);
    bench.connect();
    bench.pass(2 * MIN_MS);
    review(&mut bench);
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::NoShow, "it had its time to say so");
}

#[test]
fn nobody_fills_a_car_with_commands_by_asking_again_and_again() {
    let (mut bench, rental) = rented("cabin", Lending::default());
    let mut refused = None;
    for number in 1..=2 * Vehicle::MAX_OPEN_COMMANDS as i64 {
        let wish =
            Request::Extend { rental_id: rental.rental_id, until: rental.until.plus_ms(number), by: renter("ann") };
        refused = bench.ask(wish).err().or(refused);
        bench.send_all();
    }
    assert_eq!(refused.expect("refused in the end").kind, RefusalKind::VehicleBusy);
    assert!(bench.vehicle.open_commands().count() <= Vehicle::MAX_OPEN_COMMANDS);
    let key_id = rental.key_id;
    bench.ask(Request::Revoke { key_id, effect: RevocationEffect::Immediate }).expect("a revocation is never refused");
}

#[test]
fn a_lease_holds_for_a_rental_that_was_made_longer_and_ends_with_the_terms() {
    let (mut bench, rental) = rented("cabin", Lending { lease_minutes: Some(90), ..Lending::default() });
    let until = START.plus_ms(10 * HOUR_MS);
    bench.ask(Request::Extend { rental_id: rental.rental_id, until, by: renter("ann") }).expect("longer");
    assert_eq!(told_grants(&bench).last().expect("told").not_after, START.plus_ms(HOUR_MS), "not by itself");
    review(&mut bench);
    deliver(&mut bench);
    bench.pass(30 * MIN_MS);
    review(&mut bench);
    assert_eq!(told_grants(&bench).last().expect("told").not_after, START.plus_ms(120 * MIN_MS));
    bench.lend(Lending::default());
    deliver(&mut bench);
    review(&mut bench);
    assert_eq!(told_grants(&bench).last().expect("told").not_after, until, "no renter is left without a renewal");
}

#[test]
fn a_key_with_a_speed_limit_releases_the_drive_at_the_car_only() {
    let (mut bench, rental) = rented("valet", Lending::default());
    let mut act = |function| {
        let (command_id, key_id) = (CommandId(bench.new_id()), rental.key_id);
        bench.ask(Request::Act { command_id, key_id, function, by: renter("ann") }).map(|_| ())
    };
    assert_eq!(act(Function::Drive).expect_err("refused").kind, RefusalKind::Forbidden);
    assert_eq!(act(Function::UnlockDoors), Ok(()));
}

#[test]
fn a_key_on_lease_is_renewed_while_the_car_is_there_and_runs_out_while_it_is_not() {
    let (mut bench, rental) = rented("cabin", Lending { lease_minutes: Some(10), ..Lending::default() });
    assert_eq!(told_grants(&bench)[0].not_after, START.plus_ms(10 * MIN_MS), "the car hears of ten minutes");
    let whole = bench.vehicle.key(rental.key_id).expect("key").grant.not_after;
    assert_eq!(whole, START.plus_ms(HOUR_MS), "the token is good to the end");
    assert_eq!(bench.vehicle.next_due(&bench.twin), Some(START.plus_ms(5 * MIN_MS)));
    bench.pass(5 * MIN_MS);
    review(&mut bench);
    deliver(&mut bench);
    assert_eq!(told_grants(&bench).last().expect("told").not_after, START.plus_ms(15 * MIN_MS));
    bench.disconnect();
    assert_eq!(bench.vehicle.next_due(&bench.twin), Some(whole), "nothing to do for a car that cannot hear");
    bench.pass(20 * MIN_MS);
    review(&mut bench);
    assert_eq!(told_grants(&bench).len(), 2);
    bench.connect();
    review(&mut bench);
    assert_eq!(told_grants(&bench).last().expect("told").not_after, START.plus_ms(35 * MIN_MS));
    for minutes in [5, 5, 5, 5, 5] {
        deliver(&mut bench);
        bench.pass(minutes * MIN_MS);
        review(&mut bench);
    }
    assert_eq!(told_grants(&bench).last().expect("told").not_after, whole, "never beyond the key's own end");
    let count = told_grants(&bench).len();
    bench.pass(MIN_MS);
    review(&mut bench);
    assert_eq!(told_grants(&bench).len(), count);
}

fn at_km(bench: &mut Bench, north_km: f64) {
    bench.report(&[
        (path::LATITUDE, SignalValue::Number(45.0 + north_km / 111.195)),
        (path::LONGITUDE, SignalValue::Number(7.0)),
    ]);
}

fn alerts(events: &[Event]) -> Vec<AlertKind> {
    let opened = events.iter().filter_map(|event| match event {
        Event::ReturnDoubted { alert, .. } | Event::FuelFell { alert, .. } => Some(alert.kind),
        _ => None,
    });
    opened.collect()
}

#[test]
fn a_car_is_given_back_where_it_belongs() {
    let return_area = Some(ReturnArea { latitude: 45.0, longitude: 7.0, radius_m: 1_000.0 });
    let (mut bench, rental) = rented("cabin", Lending { return_area, ..Lending::default() });
    let end = |by| Request::EndRental { rental_id: rental.rental_id, by };
    at_km(&mut bench, 3.0);
    let refused = bench.ask(end(renter("ann"))).expect_err("elsewhere");
    assert!(refused.kind == RefusalKind::Conflict && refused.detail.contains("2.0 km"), "{refused:?}");
    bench.ask(end(operator())).expect("the fleet may take it anywhere");
    let ids = bench.send_all();
    let mut events = Vec::new();
    for command_id in ids {
        let ack = Ack { command_id, at: bench.now, status: AckStatus::Succeeded, reason: None };
        events.extend(bench.ask(Request::Ack(ack)).expect("ack"));
    }
    assert_eq!(alerts(&events), [AlertKind::OutsideReturnArea]);

    let (mut bench, rental) = rented("cabin", Lending { return_area, ..Lending::default() });
    let end = Request::EndRental { rental_id: rental.rental_id, by: renter("ann") };
    at_km(&mut bench, 3.0);
    bench.pass(11 * MIN_MS);
    bench.ask(end).expect("a position that old keeps nobody");
    let (mut bench, rental) = rented("cabin", Lending { return_area, ..Lending::default() });
    at_km(&mut bench, 0.9);
    bench.ask(Request::EndRental { rental_id: rental.rental_id, by: renter("ann") }).expect("inside");
}

#[test]
fn a_car_that_drives_on_is_told_of_once_and_never_stopped() {
    let (mut bench, _) = rented("drive", Lending::default());
    bench.pass(HOUR_MS - MIN_MS);
    bench.drives(true);
    bench.pass(MIN_MS);
    review(&mut bench);
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::Ending);
    let told = bench.vehicle.commands.last().expect("told").order.clone();
    assert!(matches!(told, Order::RevokeKey { effect: RevocationEffect::AtSafeState, .. }));
    assert_eq!(bench.vehicle.next_due(&bench.twin), Some(START.plus_ms(HOUR_MS + Rental::LATE_MS)));
    bench.pass(Rental::LATE_MS);
    bench.drives(true);
    assert!(bench.vehicle.rentals[0].is_late);
    let events = bench.ask(Request::Review).expect("review");
    assert_eq!(alerts(&events), [], "once");
    assert!(bench.vehicle.outbox(&bench.twin).iter().all(|command| !command.order.endangers_a_moving_car()));
}

#[test]
fn a_card_that_is_not_back_in_its_holder_is_told_at_the_end_of_the_rental() {
    for (present, expected) in [(Some(false), vec![AlertKind::CardMissing]), (Some(true), vec![]), (None, vec![])] {
        let (mut bench, rental) = rented("cabin", Lending::default());
        if let Some(present) = present {
            bench.report(&[(path::FUEL_CARD_PRESENT, SignalValue::Bool(present))]);
        }
        bench.ask(Request::EndRental { rental_id: rental.rental_id, by: renter("ann") }).expect("ended");
        let ids = bench.send_all();
        let mut events = Vec::new();
        for command_id in ids {
            let ack = Ack { command_id, at: bench.now, status: AckStatus::Succeeded, reason: None };
            events.extend(bench.ask(Request::Ack(ack)).expect("ack"));
        }
        assert_eq!(alerts(&events), expected, "{present:?}");
    }
}

#[test]
fn fuel_that_leaves_a_standing_car_is_told_once_with_whoever_has_it() {
    let (mut bench, rental) = rented("cabin", Lending::default());
    let mut told = Vec::new();
    let levels = [80.0, 80.0, 30.0, 30.0, 30.0, 30.0, 55.0, 55.0, 55.0, 12.0, 12.0, 12.0];
    for (seq, percent) in (100..).zip(levels) {
        bench.now = bench.now.plus_ms(60_000);
        let off = (path::LOW_VOLTAGE.into(), SignalValue::Text("OFF".into()));
        let signals = vec![off, (path::FUEL_PERCENT.into(), SignalValue::Number(percent))];
        bench.twin.observe(bench.now, Report { boot: 1, seq, at: bench.now, signals });
        let events = bench.ask(Request::Review).expect("review");
        told.extend(events.iter().filter_map(|event| match event {
            Event::FuelFell { alert, .. } => Some((percent, alert.kind, alert.rental_id)),
            _ => None,
        }));
    }
    let with = Some(rental.rental_id);
    assert_eq!(told, [(30.0, AlertKind::FuelFell, with), (12.0, AlertKind::FuelFell, with)]);
}

/// At a gateway's start after hours without it, every rental that had ended meanwhile raised an alert at once.
#[test]
fn a_car_has_its_time_to_come_to_rest_also_when_its_rental_is_ended_late() {
    let (mut bench, _) = rented("drive", Lending::default());
    bench.pass(5 * HOUR_MS);
    let events = bench.ask(Request::Review).expect("review");
    assert_eq!(bench.vehicle.rentals[0].state, RentalState::Ending);
    assert_eq!(alerts(&events), []);
    let late_at = START.plus_ms(5 * HOUR_MS + Rental::LATE_MS);
    assert_eq!(bench.vehicle.next_due(&bench.twin), Some(late_at));
}

fn handed_on(rental: &Rental, number: u128) -> Delegation {
    Delegation {
        key_id: KeyId(Uuid::from_u128(1_000_000 + number)),
        holder: "bob".into(),
        permits: vec![Function::UnlockDoors].into(),
        not_before: rental.from,
        not_after: START.plus_ms(30 * MIN_MS),
        told_at: START,
        revoked_at: None,
    }
}

#[test]
fn a_key_is_handed_on_with_less_and_ends_with_the_one_it_was_made_of() {
    let (mut bench, rental) = rented("drive", Lending::default());
    let key_id = rental.key_id;
    let delegation = handed_on(&rental, 1);
    let tell = |delegation: &Delegation| Request::Delegate { key_id, delegation: delegation.clone() };
    assert_eq!(bench.ask(tell(&delegation)).expect("told").len(), 1);
    assert_eq!(bench.ask(tell(&delegation)).expect("told again").len(), 0);
    let kind = |outcome: Result<Vec<Event>, Refusal>| outcome.err().map(|refusal| refusal.kind);
    let other = Delegation { holder: "eve".into(), ..delegation.clone() };
    assert_eq!(kind(bench.ask(tell(&other))), Some(RefusalKind::Conflict), "the id is taken");
    let greedy = Delegation { permits: Functions::ALL, ..handed_on(&rental, 2) };
    assert_eq!(kind(bench.ask(tell(&greedy))), Some(RefusalKind::Forbidden));
    let longer = Delegation { not_after: START.plus_ms(2 * HOUR_MS), ..handed_on(&rental, 2) };
    assert_eq!(kind(bench.ask(tell(&longer))), Some(RefusalKind::Forbidden));
    let state = |bench: &Bench| {
        let key = bench.vehicle.key(key_id).expect("key");
        key.delegation_state(&key.delegations[0], bench.now)
    };
    assert_eq!(state(&bench), KeyState::Delivered);
    bench.ask(Request::Revoke { key_id, effect: RevocationEffect::Immediate }).expect("revoked");
    assert_eq!(state(&bench), KeyState::Revoked);
    assert_eq!(kind(bench.ask(tell(&handed_on(&rental, 3)))), Some(RefusalKind::Expired));
}

#[test]
fn a_key_that_was_handed_on_is_taken_back_alone() {
    let (mut bench, rental) = rented("drive", Lending::default());
    let (key_id, delegation) = (rental.key_id, handed_on(&rental, 1));
    let delegated_key_id = delegation.key_id;
    bench.ask(Request::Delegate { key_id, delegation }).expect("told");
    let wish = Request::RevokeDelegation { key_id, delegated_key_id, effect: RevocationEffect::Immediate };
    bench.ask(wish.clone()).expect("revoked");
    assert_eq!(bench.ask(wish).expect("again").len(), 0);
    let told = bench.vehicle.commands.last().expect("a command");
    assert!(matches!(told.order, Order::RevokeKey { key_id, .. } if key_id == delegated_key_id));
    let key = bench.vehicle.key(key_id).expect("key");
    assert_eq!(key.state(bench.now), KeyState::Delivered, "the one it was made of stays");
    assert_eq!(key.delegation_state(&key.delegations[0], bench.now), KeyState::Revoked);
}

#[test]
fn a_cabin_key_is_not_handed_on() {
    let (mut bench, rental) = rented("cabin", Lending::default());
    let wish = Request::Delegate { key_id: rental.key_id, delegation: handed_on(&rental, 1) };
    assert_eq!(bench.ask(wish).expect_err("kept").kind, RefusalKind::Forbidden);
}
