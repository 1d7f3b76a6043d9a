//! The card guard over the real store: one answer an authorisation, durable before it is heard, whatever goes wrong.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Arbiter, ArbiterHandle, Context, Handler};
use cardea::actors::card_guard::{
    AskVehicle, Authorise, BUILT_IN_RULES, Decided, Edit, Edited, GuardError, GuardHandle, NewCard, Parts,
    StationImport, TellEarly,
};
use cardea::actors::feed::{AlertChanged, DecisionMade};
use cardea::actors::vehicle::Snapshot;
use cardea::clock::{Clock, Stopwatch};
use cardea::config::{Data, WhileStoreIsAway};
use cardea::domain::card::{CardStatus, Fill, Merchant, Outcome, Prompts, Purchase, Station};
use cardea::domain::rental::{Rental, RentalPassage, RentalState};
use cardea::domain::twin::Twin;
use cardea::domain::vehicle::{Event, Vehicle};
use cardea::domain::{KeyId, Money, Position, Principal, RentalId, RequestId, Timestamp, VehicleId};
use cardea::store::{
    Append, AppendError, Appending, Changes, Claiming, LocalStore, Observation, Order, Page, ReadError, Recorded,
    Store, StoreHealth, StorePosition, Table,
};
use serde_json::value::RawValue;
use tokio::sync::watch;

/// What happens to an append.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Through,
    /// It is stored, and nobody is told.
    Unheard,
    /// It is stored, and the answer waits until the fate changes.
    Held,
    /// It is not stored, and whoever asks hears so when the fate changes.
    Away,
    Refused,
}

/// The real store behind a door that can jam.
struct Door {
    inner: Arc<LocalStore>,
    fate: watch::Sender<Fate>,
    /// The guard shall not remember decisions, only the store.
    hides_decisions: bool,
}

impl Door {
    fn open(dir: &std::path::Path) -> Arc<Self> {
        let data = Data { dir: dir.to_owned(), min_free_mib: 1, segment_mib: 1, ..Data::default() };
        let inner = LocalStore::open(&data, Clock::start()).unwrap_or_else(|error| panic!("{error}"));
        Arc::new(Self { inner, fate: watch::channel(Fate::Through).0, hides_decisions: false })
    }

    fn set(&self, fate: Fate) {
        self.fate.send_replace(fate);
    }
}

impl Store for Door {
    fn append(&self, step: Append) -> Appending {
        let mut fate = self.fate.subscribe();
        let now = *fate.borrow();
        if now == Fate::Refused {
            return Box::pin(std::future::ready(Err(AppendError::Full("refused by the test"))));
        }
        if now == Fate::Away {
            return Box::pin(async move {
                let _ = fate.wait_for(|fate| *fate != Fate::Away).await;
                Err(AppendError::Unknown("the engine elected"))
            });
        }
        let appending = self.inner.append(step);
        Box::pin(async move {
            let outcome = appending.await;
            match now {
                Fate::Through | Fate::Refused | Fate::Away => outcome,
                Fate::Unheard => Err(AppendError::Unknown("lost by the test")),
                Fate::Held => {
                    let _ = fate.wait_for(|fate| *fate != Fate::Held).await;
                    outcome
                }
            }
        })
    }

    fn read(&self, stream: &str, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner.read(stream, after, limit)
    }

    fn tail(&self, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner.tail(after, limit)
    }

    fn changes(&self, after: StorePosition, limit: usize, of: &[Table]) -> Result<Vec<Changes>, ReadError> {
        self.inner.changes(after, limit, of)
    }

    fn news(&self) -> watch::Receiver<StorePosition> {
        self.inner.news()
    }

    fn newest(&self, stream: &str) -> Result<StorePosition, ReadError> {
        self.inner.newest(stream)
    }

    fn get(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError> {
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        order: Order,
    ) -> Result<Page, ReadError> {
        if self.hides_decisions && table == Table::Decisions {
            return Ok(Page::default());
        }
        self.inner.scan(table, prefix, after, limit, order)
    }

    fn answered(&self, key: &str) -> Result<Option<(String, Box<RawValue>)>, ReadError> {
        self.inner.answered(key)
    }

    fn claim(&self, vehicle: &VehicleId) -> Claiming {
        self.inner.claim(vehicle)
    }

    fn observe(&self, observation: Observation) {
        self.inner.observe(observation);
    }

    fn observations(
        &self,
        vehicle: &VehicleId,
        from: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Observation>, ReadError> {
        self.inner.observations(vehicle, from, until, limit)
    }

    fn health(&self) -> StoreHealth {
        self.inner.health()
    }
}

struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<DecisionMade> for Deaf {
    type Result = ();

    fn handle(&mut self, _: DecisionMade, _: &mut Self::Context) {}
}

impl Handler<AlertChanged> for Deaf {
    type Result = ();

    fn handle(&mut self, _: AlertChanged, _: &mut Self::Context) {}
}

fn guard(store: Arc<dyn Store>, ask_vehicle: AskVehicle, deadline_ms: u64) -> GuardHandle {
    guard_on(&Arbiter::current(), store, ask_vehicle, deadline_ms)
}

fn guard_on(thread: &ArbiterHandle, store: Arc<dyn Store>, ask_vehicle: AskVehicle, deadline_ms: u64) -> GuardHandle {
    let parts = parts(store, ask_vehicle, deadline_ms);
    GuardHandle::start(parts, thread).unwrap()
}

/// One that answers what the checks say while the store is away.
fn deciding(store: Arc<dyn Store>, is_rented: &Arc<Mutex<bool>>, tell_early: TellEarly) -> GuardHandle {
    let parts = parts(store, switched(is_rented), 300);
    let parts = Parts { while_store_is_away: WhileStoreIsAway::Decide, tell_early, ..parts };
    GuardHandle::start(parts, &Arbiter::current()).unwrap()
}

fn parts(store: Arc<dyn Store>, ask_vehicle: AskVehicle, deadline_ms: u64) -> Parts {
    let feed = Deaf.start();
    Parts {
        store,
        clock: Clock::start(),
        rules: BUILT_IN_RULES.into(),
        suspend_after_declines: 0,
        ask_vehicle,
        deadline: Duration::from_millis(deadline_ms),
        decisions_feed: feed.clone().recipient(),
        alerts_feed: feed.recipient(),
        followed: Default::default(),
        looks_again: Arc::new(|| true),
        while_store_is_away: WhileStoreIsAway::Fallback,
        tell_early: Arc::new(|_| ()),
    }
}

fn car(is_rented: bool) -> Snapshot {
    let now = Clock::start().now();
    let mut vehicle = Vehicle::new("WVW-1".parse().unwrap());
    vehicle.apply(&Event::VehicleRegistered { details: Default::default(), by: Principal::gateway(), at: now });
    if is_rented {
        let began = now.plus_ms(-3_600_000);
        vehicle.rentals.push(Rental {
            rental_id: RentalId(uuid::Uuid::from_u128(1)),
            request_id: RequestId(uuid::Uuid::from_u128(2)),
            renter: "anna".into(),
            profile: "drive".into(),
            key_id: KeyId(uuid::Uuid::from_u128(3)),
            from: began,
            until: now.plus_ms(3_600_000),
            state: RentalState::Active,
            history: vec![RentalPassage { state: RentalState::Active, at: began }],
            first_used_at: None,
            is_late: false,
        });
    }
    Snapshot::new(now, vehicle, Twin::new(now))
}

/// A vehicle whose rental the test switches.
fn switched(is_rented: &Arc<Mutex<bool>>) -> AskVehicle {
    let is_rented = is_rented.clone();
    Arc::new(move |_| Box::pin(std::future::ready(Ok(car(*is_rented.lock().unwrap())))))
}

fn ask(id: &str) -> Authorise {
    Authorise {
        purchase: Purchase {
            authorization_id: id.parse().unwrap(),
            source: "stripe".into(),
            card_ref: "ic_1".parse().unwrap(),
            at: Clock::start().now(),
            amount: Money { amount_minor: 5_000, currency: "EUR".into() },
            partial_allowed: true,
            merchant: Merchant::default(),
            fill: Fill::default(),
            prompts: Prompts::default(),
        },
        source_event: format!("evt_{id}"),
        body_sha256: "00".repeat(32),
        already_minor: 0,
    }
}

async fn add_card(guard: &GuardHandle) {
    let card = NewCard {
        card_id: Some("c1".parse().unwrap()),
        network_ref: "ic_1".parse().unwrap(),
        vehicle_id: Some("WVW-1".parse().unwrap()),
        status: CardStatus::Active,
        limits: Default::default(),
        prompts: Default::default(),
    };
    guard.edit(Edit::AddCard(card), Principal::gateway(), None).await.unwrap();
}

fn decisions(store: &dyn Store) -> usize {
    store.scan(Table::Decisions, "", None, 1_000, Order::Ascending).unwrap().rows.len()
}

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
    let forgetful =
        Arc::new(Door { inner: store.inner.clone(), fate: watch::channel(Fate::Through).0, hides_decisions: true });
    let third = guard(forgetful, switched(&is_rented), 5_000);
    assert_eq!(third.authorise(ask("a")).await.unwrap(), declined);
    assert_eq!(decisions(&*store), 1);
}

fn increment(of: &str, event: &str, already_minor: i64) -> Authorise {
    Authorise { source_event: event.into(), already_minor, ..ask(of) }
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
    let forgetful =
        Arc::new(Door { inner: store.inner.clone(), fate: watch::channel(Fate::Through).0, hides_decisions: true });
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
        let guard = deciding(store.clone(), &is_rented, Arc::new(|_| ()));
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
        let again = deciding(store.clone(), &is_rented, Arc::new(|_| ()));
        assert_eq!(again.authorise(ask("a")).await.unwrap(), approved);
    }
}

/// Two gateways that cannot record and do not hear of each other may give two answers: both are on record then.
#[actix::test]
async fn what_two_gateways_answered_differently_while_the_store_was_away_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let one = deciding(store.clone(), &is_rented, Arc::new(|_| ()));
    add_card(&one).await;
    let other = deciding(store.inner.clone(), &is_rented, Arc::new(|_| ()));
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
    assert_eq!(one.authorise(ask("a")).await.unwrap(), heard, "an answer that was heard is not turned");
}

#[actix::test]
async fn a_gateway_that_is_told_of_an_answer_gives_it_too_before_it_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = Door::open(dir.path());
    let is_rented = Arc::new(Mutex::new(true));
    let other = deciding(store.inner.clone(), &is_rented, Arc::new(|_| ()));
    let told = other.clone();
    let tell = Arc::new(move |decided: &Decided| {
        let wire = serde_json::to_vec(decided).unwrap();
        told.heard(serde_json::from_slice(&wire).unwrap());
    });
    let one = deciding(store.clone(), &is_rented, tell);
    add_card(&one).await;
    store.set(Fate::Away);
    let heard = one.authorise(ask("a")).await.unwrap();
    *is_rented.lock().unwrap() = false;
    assert_eq!(other.authorise(ask("a")).await.unwrap(), heard);
    store.set(Fate::Through);
    one.recorded(Duration::from_secs(5)).await;
    assert_eq!((decisions(&*store), one.counters().contradictions.get()), (1, 0));
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
                let door = Door { inner: store.inner.clone(), fate: watch::channel(Fate::Through).0, hides_decisions };
                current = guard(Arc::new(door), switched(&is_rented), 5_000);
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
