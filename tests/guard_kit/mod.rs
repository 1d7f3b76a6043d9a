//! What the tests of the card guard share: a guard over any store, a car whose rental the test switches, questions; and a store
//! that can jam.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

pub mod door;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Arbiter, ArbiterHandle, Context, Handler};
use cardea::actors::card_guard::{AskVehicle, Authorise, BUILT_IN_RULES, Edit, GuardHandle, NewCard, Parts};
use cardea::actors::feed::{AlertChanged, DecisionMade};
use cardea::actors::vehicle::{AskError, Snapshot};
use cardea::clock::Clock;
use cardea::config::{Data, WhileStoreIsAway};
use cardea::domain::card::{CardStatus, Fill, Merchant, Posting, PostingKind, Prompts, Purchase};
use cardea::domain::rental::{Rental, RentalPassage, RentalState};
use cardea::domain::twin::Twin;
use cardea::domain::vehicle::{Event, Vehicle};
use cardea::domain::{KeyId, Money, Principal, RentalId, RequestId};
use cardea::store::{LocalStore, Order, Spool, Store, Table};

pub fn open(dir: &Path) -> Arc<LocalStore> {
    let data = Data { dir: dir.to_owned(), min_free_mib: 1, segment_mib: 1, ..Data::default() };
    LocalStore::open(&data, Clock::start()).unwrap_or_else(|error| panic!("{error}"))
}

/// Hears what consoles would.
pub struct Deaf;

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

/// A guard alone, that falls back while the store is away.
pub fn parts(store: Arc<dyn Store>, ask_vehicle: AskVehicle, deadline_ms: u64) -> Parts {
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
        spool: Spool::none(),
    }
}

pub fn guard(store: Arc<dyn Store>, ask_vehicle: AskVehicle, deadline_ms: u64) -> GuardHandle {
    guard_on(&Arbiter::current(), store, ask_vehicle, deadline_ms)
}

pub fn guard_on(
    thread: &ArbiterHandle,
    store: Arc<dyn Store>,
    ask_vehicle: AskVehicle,
    deadline_ms: u64,
) -> GuardHandle {
    let parts = parts(store, ask_vehicle, deadline_ms);
    GuardHandle::start(parts, thread).unwrap()
}

/// No vehicle answers.
pub fn nobody() -> AskVehicle {
    Arc::new(|_| Box::pin(std::future::ready(Err(AskError::Busy))))
}

pub fn car(is_rented: bool) -> Snapshot {
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
pub fn switched(is_rented: &Arc<Mutex<bool>>) -> AskVehicle {
    let is_rented = is_rented.clone();
    Arc::new(move |_| Box::pin(std::future::ready(Ok(car(*is_rented.lock().unwrap())))))
}

pub fn ask(id: &str) -> Authorise {
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

pub fn capture(of: &str, posting_id: &str, amount_minor: i64) -> Posting {
    Posting {
        posting_id: posting_id.into(),
        authorization_id: Some(of.parse().unwrap()),
        source: "stripe".into(),
        kind: PostingKind::Capture,
        card_ref: Some("ic_1".parse().unwrap()),
        at: Clock::start().now(),
        amount: Money { amount_minor, currency: "EUR".into() },
        merchant: Merchant::default(),
        fill: Fill::default(),
        prompts: Prompts::default(),
        source_event: format!("evt_{posting_id}"),
        body_sha256: "00".repeat(32),
    }
}

pub async fn add_card(guard: &GuardHandle) {
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

pub fn decisions(store: &dyn Store) -> usize {
    store.scan(Table::Decisions, "", None, 1_000, Order::Ascending).unwrap().rows.len()
}

pub fn increment(of: &str, event: &str, already_minor: i64) -> Authorise {
    Authorise { source_event: event.into(), already_minor, ..ask(of) }
}
