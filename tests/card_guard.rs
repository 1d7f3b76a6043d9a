//! The card guard over the real store: one answer an authorisation, durable before it is heard, whatever goes wrong.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod guard_kit;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Arbiter;
use cardea::actors::card_guard::{Decided, Edit, Edited, GuardError, GuardHandle, StationImport};
use cardea::domain::card::{Outcome, Station};
use cardea::domain::{Position, Principal};
use guard_kit::door::{Door, Fate};
use guard_kit::{add_card, ask, decisions, guard, guard_on, increment, switched};

#[actix::test]
async fn concurrent_deliveries_get_one_decision() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let guard = guard(store.clone(), switched(&Arc::new(Mutex::new(true))), 5_000);
    add_card(&guard).await;
    let asked: Vec<_> = (0..24)
        .map(|_| {
            actix::spawn({
                let guard = guard.clone();
                async move { guard.authorise(ask("a")).await }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in asked {
        answers.push(task.await.unwrap().unwrap());
    }
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    assert_eq!(decisions(&*store), 1);
    assert_eq!(guard.counters().repeats.get(), 23);
}

#[actix::test]
async fn a_decline_stays_declined_over_a_restart_even_when_only_the_store_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let is_rented = Arc::new(Mutex::new(false));
    let store = Door::open(dir.path());
    let first = guard(store.clone(), switched(&is_rented), 5_000);
    add_card(&first).await;
    let declined = first.authorise(ask("a")).await.unwrap();
    assert_eq!(declined.outcome, Outcome::Decline);
    *is_rented.lock().unwrap() = true;
    assert_eq!(first.authorise(ask("a")).await.unwrap(), declined);
    let second = guard(store.clone(), switched(&is_rented), 5_000);
    assert_eq!(second.authorise(ask("a")).await.unwrap(), declined);
    let forgetful = Door::before(store.inner.clone(), true);
    let third = guard(forgetful, switched(&is_rented), 5_000);
    assert_eq!(third.authorise(ask("a")).await.unwrap(), declined);
    assert_eq!(decisions(&*store), 1);
}

/// A network asks again under the same authorisation for more than what was approved: that is a purchase to judge.
#[actix::test]
async fn an_increment_is_judged_by_what_is_so_now_and_counts_into_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let is_rented = Arc::new(Mutex::new(true));
    let store = Door::open(dir.path());
    let first = guard(store.clone(), switched(&is_rented), 5_000);
    add_card(&first).await;
    let approved = first.authorise(ask("a")).await.unwrap();
    // Nobody knows where this car is, hence the cap.
    assert_eq!((approved.outcome, approved.cap_minor), (Outcome::ApproveCapped, Some(10_000)));
    let more = first.authorise(increment("a", "evt_2", 7_000)).await.unwrap();
    assert_eq!((more.outcome, more.cap_minor), (Outcome::ApproveCapped, Some(3_000)));
    assert_eq!(more.follows, Some(approved.decision_id));
    let above = first.authorise(increment("a", "evt_3", 10_000)).await.unwrap();
    assert_eq!(above.outcome, Outcome::Decline);
    assert!(above.reasons.contains(&"amount_above_cap".to_owned()), "{above:?}");
    *is_rented.lock().unwrap() = false;
    let after_the_rental = first.authorise(increment("a", "evt_4", 5_000)).await.unwrap();
    assert_eq!(after_the_rental.outcome, Outcome::Decline);
    assert!(after_the_rental.reasons.contains(&"rental_state".to_owned()), "{after_the_rental:?}");

    *is_rented.lock().unwrap() = true;
    let forgetful = Door::before(store.inner.clone(), true);
    for guard in
        [first, guard(store.clone(), switched(&is_rented), 5_000), guard(forgetful, switched(&is_rented), 5_000)]
    {
        assert_eq!(guard.authorise(increment("a", "evt_2", 7_000)).await.unwrap(), more);
        assert_eq!(guard.authorise(increment("a", "evt_4", 5_000)).await.unwrap(), after_the_rental);
        assert_eq!(guard.authorise(ask("a")).await.unwrap(), approved, "the first question keeps its answer");
    }
    assert_eq!(decisions(&*store), 4);
}

/// What the first question gets says nothing about more than it asked for.
#[actix::test]
async fn an_increment_of_what_is_still_being_judged_is_to_be_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let guard = guard(store.clone(), switched(&Arc::new(Mutex::new(true))), 60_000);
    add_card(&guard).await;
    store.set(Fate::Held);
    let asking = |ask| {
        let guard = guard.clone();
        actix::spawn(async move { guard.authorise(ask).await })
    };
    let first = asking(ask("a"));
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while decisions(&*store) == 0 {
        looks.tick().await;
    }
    let early = guard.authorise(increment("a", "evt_2", 7_000)).await;
    assert!(matches!(early, Err(GuardError::Busy)), "{early:?}");
    // The same message in another copy is a repeat, whatever it says of amounts.
    let copy = asking(increment("a", "evt_a", 7_000));
    while guard.counters().repeats.get() == 0 {
        looks.tick().await;
    }
    store.set(Fate::Through);
    let approved = first.await.unwrap().unwrap();
    assert_eq!(copy.await.unwrap().unwrap(), approved);
    let more = guard.authorise(increment("a", "evt_2", 7_000)).await.unwrap();
    assert_eq!((more.follows, more.cap_minor), (Some(approved.decision_id), Some(3_000)));
}

#[actix::test]
async fn what_the_network_approved_by_itself_counts_into_the_cap_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let guard = guard(store, switched(&Arc::new(Mutex::new(true))), 5_000);
    add_card(&guard).await;
    let more = guard.authorise(increment("a", "evt_2", 7_000)).await.unwrap();
    assert_eq!((more.outcome, more.cap_minor), (Outcome::ApproveCapped, Some(3_000)));
}

#[actix::test]
async fn a_declined_purchase_is_not_approved_as_an_increment() {
    let dir = tempfile::tempdir().unwrap();
    let is_rented = Arc::new(Mutex::new(false));
    let store = Door::open(dir.path());
    let guard = guard(store.clone(), switched(&is_rented), 5_000);
    add_card(&guard).await;
    let declined = guard.authorise(ask("a")).await.unwrap();
    *is_rented.lock().unwrap() = true;
    assert_eq!(guard.authorise(increment("a", "evt_2", 5_000)).await.unwrap(), declined);
    assert_eq!(decisions(&*store), 1);
}

#[actix::test]
async fn a_vehicle_that_never_answers_leads_to_the_fallback_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let guard = guard(store, Arc::new(|_| Box::pin(std::future::pending())), 1_000);
    add_card(&guard).await;
    let answer = guard.authorise(ask("a")).await.unwrap();
    assert_eq!((answer.outcome, answer.cap_minor), (Outcome::ApproveCapped, Some(10_000)));
    assert_eq!(answer.reasons, ["vehicle_not_answering"]);
    assert_eq!(guard.counters().late_vehicles.get(), 1);
}

#[actix::test]
async fn an_answer_that_is_not_recorded_in_time_is_none_and_the_repeat_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(false));
    let guard = guard(store.clone(), switched(&is_rented), 300);
    add_card(&guard).await;
    store.set(Fate::Held);
    assert!(matches!(guard.authorise(ask("a")).await, Err(GuardError::Unknown)));
    assert_eq!(guard.counters().late.get(), 1);
    *is_rented.lock().unwrap() = true;
    store.set(Fate::Through);
    assert_eq!(guard.authorise(ask("a")).await.unwrap().outcome, Outcome::Decline);
    assert_eq!(decisions(&*store), 1);
}

#[actix::test]
async fn a_guard_whose_thread_is_held_up_keeps_nobody_waiting_and_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let thread = Arbiter::new();
    let guard = guard_on(&thread.handle(), store.clone(), switched(&Arc::new(Mutex::new(true))), 100);
    add_card(&guard).await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    assert!(thread.spawn_fn(move || {
        let _ = held.recv();
    }));
    let unanswered = guard.authorise(ask("a1")).await;
    assert!(matches!(unanswered, Err(GuardError::Unknown)), "{unanswered:?}");
    drop(release);
    // The question still lay in the mailbox: its repeat finds it in flight or recorded.
    let decided = loop {
        match guard.authorise(ask("a1")).await {
            Ok(decided) => break decided,
            Err(GuardError::Unknown) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(decided.outcome, guard.authorise(ask("a1")).await.unwrap().outcome);
    assert_eq!(decisions(&*store), 1);
    thread.stop();
}

#[actix::test]
async fn more_than_can_be_in_flight_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let guard = guard(store.clone(), switched(&Arc::new(Mutex::new(true))), 2_000);
    add_card(&guard).await;
    store.set(Fate::Held);
    let tasks: Vec<_> = (0..1_200)
        .map(|number| {
            let guard = guard.clone();
            actix::spawn(async move { guard.authorise(ask(&format!("a{number}"))).await })
        })
        .collect();
    let (mut busy, mut unknown) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Err(GuardError::Busy) => busy += 1,
            Err(GuardError::Unknown) => unknown += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((busy, unknown), (176, 1_024));
    assert_eq!(guard.counters().busy.get(), 176);
    store.set(Fate::Through);
    assert_eq!(guard.authorise(ask("a0")).await.unwrap().settlement, cardea::domain::card::Settlement::Enabled);
}

/// Deliveries, lost answers, full disks, restarts and rentals in any order: what was heard once is heard ever after.
#[actix::test]
async fn an_answer_that_was_heard_never_changes() {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed_u64);
    println!("SEED={seed}");
    let mut state = seed;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let mut current = guard(store.clone(), switched(&is_rented), 5_000);
    add_card(&current).await;
    let mut heard: HashMap<u64, Arc<Decided>> = HashMap::new();
    for step in 0..400 {
        match next(10) {
            0 => *is_rented.lock().unwrap() ^= true,
            1 => {
                let hides_decisions = next(2) == 0;
                let door = Door::before(store.inner.clone(), hides_decisions);
                current = guard(door, switched(&is_rented), 5_000);
            }
            choice => {
                let id = next(40);
                store.set([Fate::Through, Fate::Unheard, Fate::Refused][(choice % 3) as usize]);
                let door = guard_over(&store, &current, choice, &is_rented);
                if let Ok(answer) = door.authorise(ask(&format!("a{id}"))).await {
                    let known = heard.entry(id).or_insert_with(|| answer.clone());
                    assert_eq!(*known, answer, "step {step}");
                }
            }
        }
    }
    assert!(heard.len() > 20);
    assert!(heard.values().any(|answer| answer.outcome == Outcome::Decline));
    assert!(decisions(&*store) <= 40);
}

/// Every other delivery goes to a guard behind the jamming door, as if it had been started anew.
fn guard_over(store: &Arc<Door>, current: &GuardHandle, choice: u64, is_rented: &Arc<Mutex<bool>>) -> GuardHandle {
    if choice.is_multiple_of(2) { current.clone() } else { guard(store.clone(), switched(is_rented), 5_000) }
}

#[actix::test]
async fn a_national_directory_is_imported_and_found_by_a_guard_that_starts_right_after() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let guard = guard(store.clone(), switched(&Arc::new(Mutex::new(true))), 300);
    let station = |number: u32| Station {
        position: Some(Position { latitude: 36.0 + f64::from(number) / 3_000.0, longitude: 7.0 }),
        ..Station::new(format!("it-{number}").parse().unwrap(), format!("Pompe Bianche {number}, Strada Statale 106"))
    };
    let import = StationImport { stations: (0..24_000).map(station).collect(), force: false };
    let edited = guard.edit(Edit::ImportStations(import), Principal::gateway(), None).await.unwrap();
    assert_eq!(edited, Edited::Imported { imported: 24_000, updated: 0, kept_manual: 0, shared_positions: 0 });
    let again = self::guard(store, switched(&Arc::new(Mutex::new(true))), 300);
    assert_eq!(again.stations(None, usize::MAX).len(), 24_000);
}
