//! Answers that are given before the store has them: in time, by the checks, and never forgotten.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod guard_kit;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::Arbiter;
use cardea::actors::card_guard::{Decided, GuardError, GuardHandle, Parts};
use cardea::clock::Stopwatch;
use cardea::config::WhileStoreIsAway;
use cardea::domain::card::Outcome;
use cardea::store::{Order, Spool, Store, StorePosition, Table};
use guard_kit::door::{Door, Fate};
use guard_kit::{add_card, ask, capture, decisions, increment, parts, switched};

/// One that answers what the checks say while the store is away.
fn deciding(store: Arc<dyn Store>, is_rented: &Arc<Mutex<bool>>, spool: Spool) -> GuardHandle {
    GuardHandle::start(deciding_parts(store, is_rented, spool), &Arbiter::current()).unwrap()
}

fn deciding_parts(store: Arc<dyn Store>, is_rented: &Arc<Mutex<bool>>, spool: Spool) -> Parts {
    let parts = parts(store, switched(is_rented), 300);
    Parts { while_store_is_away: WhileStoreIsAway::Decide, spool, ..parts }
}

fn spool(dir: &Path) -> Spool {
    Spool::open(dir).unwrap_or_else(|error| panic!("{error}"))
}

fn stored(store: &dyn Store, id: &str) -> Option<serde_json::Value> {
    let rows = store.scan(Table::Decisions, "", None, 1_000, Order::Ascending).unwrap().rows;
    let mut rows = rows.into_iter().map(|(_, row)| serde_json::from_str::<serde_json::Value>(row.get()).unwrap());
    rows.find(|row| row["purchase"]["authorization_id"] == id)
}

/// Looks until it is so; nobody tells when a record that comes later is there.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..2_000 {
        looks.tick().await;
        if is_so() {
            return;
        }
    }
    panic!("{what} did not come");
}

/// As when the engine of a cluster elects: an append hangs for seconds, and then it was stored, or it was not.
#[actix::test]
async fn while_the_store_is_away_the_checks_answer_in_time_and_the_record_that_follows_says_so() {
    for away in [Fate::Held, Fate::Away] {
        let dir = tempfile::tempdir().unwrap();
        let store = Door::open(dir.path());
        let is_rented = Arc::new(Mutex::new(true));
        let guard = deciding(store.clone(), &is_rented, spool(dir.path()));
        add_card(&guard).await;
        let on_record = guard.authorise(ask("before")).await.unwrap();
        store.set(away);
        let begun = Stopwatch::start();
        let approved = guard.authorise(ask("a")).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(600), "the network waits 2 s: {:?}", begun.elapsed());
        assert_eq!(approved.outcome, Outcome::ApproveCapped);
        *is_rented.lock().unwrap() = false;
        assert_eq!(
            guard.authorise(ask("b")).await.unwrap().outcome,
            Outcome::Decline,
            "it judges, it does not fall back"
        );
        // Asked again while nothing is on record, and of what is: the same.
        assert_eq!(guard.authorise(ask("a")).await.unwrap(), approved);
        assert_eq!(guard.authorise(ask("before")).await.unwrap(), on_record);
        let more = guard.authorise(increment("a", "evt_2", 5_000)).await.unwrap();
        assert_eq!((more.outcome, more.follows), (Outcome::Decline, Some(approved.decision_id)));
        assert_eq!((guard.counters().early.get(), guard.counters().late.get()), (3, 0));
        store.set(Fate::Through);
        let is_marked = |id: &str| stored(&*store, id).is_some_and(|row| row["answered_before_durable_at"].is_string());
        until("the records", || is_marked("a") && is_marked("b")).await;
        guard.recorded(Duration::from_secs(5)).await;
        assert_eq!(stored(&*store, "a").unwrap()["decision_id"], approved.decision_id.to_string());
        assert!(!is_marked("before"));
        assert_eq!(decisions(&*store), 4, "one for each question");
        assert_eq!(guard.authorise(ask("a")).await.unwrap(), approved);
        // And so after a restart.
        let again = deciding(store.clone(), &is_rented, spool(dir.path()));
        assert_eq!(again.authorise(ask("a")).await.unwrap(), approved);
    }
}

/// Two gateways that cannot record and do not hear of each other may give two answers: both are on record then.
#[actix::test]
async fn what_two_gateways_answered_differently_while_the_store_was_away_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let one = deciding(store.clone(), &is_rented, spool(dir.path()));
    add_card(&one).await;
    let other = deciding(store.inner.clone(), &is_rented, Spool::none());
    store.set(Fate::Away);
    let heard = one.authorise(ask("a")).await.unwrap();
    *is_rented.lock().unwrap() = false;
    let recorded = other.authorise(ask("a")).await.unwrap();
    assert_eq!((heard.outcome, recorded.outcome), (Outcome::ApproveCapped, Outcome::Decline));
    store.set(Fate::Through);
    one.recorded(Duration::from_secs(5)).await;
    assert_eq!(one.counters().contradictions.get(), 1);
    let records = store.read("card/c1", StorePosition(0), 100).unwrap();
    let events: Vec<&str> = records.iter().flat_map(|record| &record.events).map(|event| event.get()).collect();
    let otherwise = events.iter().find(|event| event.contains("purchase_answered_otherwise")).unwrap();
    assert!(otherwise.contains(&heard.decision_id.to_string()) && otherwise.contains("answered_before_durable_at"));
    for told in [&heard, &recorded] {
        let row = store.get(Table::Decisions, &told.decision_id.to_string()).unwrap().unwrap();
        let row: serde_json::Value = serde_json::from_str(row.get()).unwrap();
        assert_eq!(row["outcome"], told.outcome.name(), "whoever heard an id finds what they heard");
    }
    assert_eq!(one.authorise(ask("a")).await.unwrap(), heard, "an answer that was heard is not turned");
}

#[actix::test]
async fn a_gateway_that_is_told_of_an_answer_gives_it_too_before_it_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let other = deciding(store.inner.clone(), &is_rented, Spool::none());
    let told = other.clone();
    let tell = Arc::new(move |decided: &Decided| {
        let wire = serde_json::to_vec(decided).unwrap();
        told.heard(serde_json::from_slice(&wire).unwrap());
    });
    let parts = deciding_parts(store.clone(), &is_rented, spool(dir.path()));
    let one = GuardHandle::start(Parts { tell_early: tell, ..parts }, &Arbiter::current()).unwrap();
    add_card(&one).await;
    store.set(Fate::Away);
    let heard = one.authorise(ask("a")).await.unwrap();
    *is_rented.lock().unwrap() = false;
    assert_eq!(other.authorise(ask("a")).await.unwrap(), heard);
    store.set(Fate::Through);
    one.recorded(Duration::from_secs(5)).await;
    assert_eq!((decisions(&*store), one.counters().contradictions.get()), (1, 0));
}

/// What a guard answered whose process is gone since, as after a kill: its tasks went with it.
async fn answered_by_one_that_is_gone(
    store: &Arc<Door>,
    dir: &Path,
    is_rented: &Arc<Mutex<bool>>,
    fate: Fate,
) -> Arc<Decided> {
    let thread = Arbiter::new();
    let guard = GuardHandle::start(deciding_parts(store.clone(), is_rented, spool(dir)), &thread.handle()).unwrap();
    add_card(&guard).await;
    store.set(fate);
    let heard = guard.authorise(ask("a")).await.unwrap();
    assert_eq!(heard.outcome, Outcome::ApproveCapped);
    thread.stop();
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
    store.set(Fate::Through);
    heard
}

fn is_marked(store: &dyn Store) -> bool {
    stored(store, "a").is_some_and(|row| row["answered_before_durable_at"].is_string())
}

#[actix::test]
async fn an_answer_that_was_given_before_a_crash_is_repeated_and_recorded_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let heard = answered_by_one_that_is_gone(&store, dir.path(), &is_rented, Fate::Away).await;
    assert_eq!(decisions(&*store), 0, "nothing is left of the first that could record it");
    *is_rented.lock().unwrap() = false;
    store.set(Fate::Away);
    let second = deciding(store.clone(), &is_rented, spool(dir.path()));
    assert_eq!(second.authorise(ask("a")).await.unwrap(), heard, "it is what the network heard, not a new judgement");
    store.set(Fate::Through);
    until("the record", || is_marked(&*store)).await;
    second.recorded(Duration::from_secs(5)).await;
    assert_eq!(stored(&*store, "a").unwrap()["decision_id"], heard.decision_id.to_string());
    assert_eq!((decisions(&*store), second.counters().contradictions.get()), (1, 0));
    until("an empty spool", || spool(dir.path()).take_left().is_empty()).await;
}

/// Its first try went through, and nobody knew.
#[actix::test]
async fn an_answer_that_was_on_record_before_the_crash_after_all_is_not_recorded_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let heard = answered_by_one_that_is_gone(&store, dir.path(), &is_rented, Fate::Held).await;
    assert!(decisions(&*store) == 1 && !is_marked(&*store));
    let second = deciding(store.clone(), &is_rented, spool(dir.path()));
    until("the mark", || is_marked(&*store)).await;
    second.recorded(Duration::from_secs(5)).await;
    assert_eq!(second.authorise(ask("a")).await.unwrap(), heard);
    assert_eq!((decisions(&*store), second.counters().contradictions.get()), (1, 0));
}

/// A power cut may take along that an answer was settled: it is handed out once more, and is on record already.
#[actix::test]
async fn what_is_handed_out_twice_changes_nothing_the_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let thread = Arbiter::new();
    let parts = deciding_parts(store.clone(), &is_rented, spool(dir.path()));
    let first = GuardHandle::start(parts, &thread.handle()).unwrap();
    add_card(&first).await;
    first.authorise(ask("a")).await.unwrap();
    first.post(capture("a", "p1", 1_000)).await.unwrap();
    store.set(Fate::Away);
    let more = first.authorise(increment("a", "evt_2", 7_000)).await.unwrap();
    assert_eq!((more.outcome, more.cap_minor), (Outcome::ApproveCapped, Some(3_000)));
    thread.stop();
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
    store.set(Fate::Through);
    let file = dir.path().join("answers.spool");
    let handed_out = std::fs::read(&file).unwrap();
    let allowed = || {
        let row = store.get(Table::Reconciliations, "at/stripe/a").unwrap().unwrap();
        serde_json::from_str::<serde_json::Value>(row.get()).unwrap()["allowed_minor"].as_i64().unwrap()
    };
    let before = allowed();
    let is_settled = || std::fs::metadata(&file).unwrap().len() == 0;
    let _second = deciding(store.clone(), &is_rented, spool(dir.path()));
    until("more is allowed", || allowed() == before + 3_000 && is_settled()).await;
    let records = || store.read("card/c1", StorePosition(0), 100).unwrap().len();
    let recorded = records();
    std::fs::write(&file, &handed_out).unwrap();
    let third = deciding(store.clone(), &is_rented, spool(dir.path()));
    until("it is settled again", is_settled).await;
    // Whatever it begins comes before this record.
    third.authorise(ask("b")).await.unwrap();
    assert_eq!(allowed(), before + 3_000);
    assert_eq!((decisions(&*store), records()), (3, recorded + 2), "that it was early, and the newest");
}

/// An answer that a crash could take with it is none.
#[actix::test]
async fn where_the_disk_does_not_take_the_answer_either_nobody_hears_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let guard = deciding(store.clone(), &Arc::new(Mutex::new(true)), Spool::none());
    add_card(&guard).await;
    store.set(Fate::Away);
    let answer = guard.authorise(ask("a")).await;
    assert!(matches!(answer, Err(GuardError::Unknown)), "{answer:?}");
    assert_eq!((guard.counters().early.get(), guard.counters().early_not_kept.get()), (0, 1));
}
