//! Claims about a fleet that is one of several: what it takes, keeps and lets go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, oneshot};

use super::FleetHandle;
use crate::actors::peers::{Call, CallError, Calling, Keeper, Node, Peers};
use crate::actors::testing::{fleet, fleet_among};
use crate::actors::vehicle::{Ask, AskError, FromCar, Letter};
use crate::clock::Clock;
use crate::config;
use crate::domain::command::Order;
use crate::domain::vehicle::{Details, Request};
use crate::domain::{CommandId, Principal, Role, VehicleId};
use crate::http::testing::{MemoryStore, NOW_MS};
use crate::store::Store;

/// Every vehicle is with whom this says, and falls to the gateway that is tested.
struct Others<K>(K);

impl<K: Fn() -> Keeper + Send + Sync> Peers for Others<K> {
    fn keeper(&self, _: &VehicleId) -> Keeper {
        (self.0)()
    }

    fn is_ours(&self, _: &VehicleId) -> bool {
        true
    }

    fn let_go(&self, _: &VehicleId) {}

    fn call(&self, _: &Node, _: Call, _: Duration) -> Calling {
        Box::pin(std::future::ready(Err(CallError::Unreached)))
    }
}

fn among(keeper: Keeper, store: &Arc<MemoryStore>) -> FleetHandle {
    among_moving(move || keeper.clone(), store)
}

fn among_moving(keeper: impl Fn() -> Keeper + Send + Sync + 'static, store: &Arc<MemoryStore>) -> FleetHandle {
    let clock = Clock::starting_at(NOW_MS);
    let mint = Arc::new(|_: &_, _: &_, _: &_, _| String::new());
    fleet_among(Some(Arc::new(Others(keeper))), &config::Fleet::default(), store.clone(), clock, mint).0
}

fn car() -> VehicleId {
    "CAR-1".parse().unwrap()
}

async fn ask(fleet: &FleetHandle, request: Request) {
    let by = Principal::new(Role::Operator, "ops");
    fleet.ask(&car(), Ask { request, by, idempotency: None }).await.unwrap();
}

async fn register(fleet: &FleetHandle) {
    let by = Principal::new(Role::Operator, "ops");
    ask(fleet, Request::Register { details: Details::default(), by }).await;
}

fn claims(store: &MemoryStore) -> u64 {
    store.claim(&car()).now_or_never().unwrap().unwrap().0
}

fn resident(fleet: &FleetHandle) -> i64 {
    fleet.metrics().resident.load(Ordering::Relaxed) as i64
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while !is_so().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it came to be so");
}

#[actix::test]
async fn a_claim_that_went_through_serves_for_all_attempts_to_load_the_vehicle() {
    let store = Arc::new(MemoryStore::default());
    let fleet = among(Keeper::Here, &store);
    register(&fleet).await;
    fleet.release(&HashMap::from([(car(), u64::MAX)]));
    until(async || resident(&fleet) == 0).await;
    let before = claims(&store);
    store.hide(true);
    fleet.tell(&car(), FromCar::LinkUp { epoch: 1, address: None }).unwrap();
    until(async || fleet.metrics().failed_starts.load(Ordering::Relaxed) >= 2).await;
    store.hide(false);
    until(async || resident(&fleet) == 1).await;
    assert_eq!(claims(&store) - before - 1, 1, "one claim for three attempts");
    assert!(fleet.snapshot(&car()).await.unwrap().twin.is_online());
}

#[actix::test]
async fn what_is_due_is_looked_for_until_it_can_be_read_and_noted_once() {
    let store = Arc::new(MemoryStore::default());
    let (dead, _) = fleet(store.clone(), Clock::starting_at(NOW_MS));
    register(&dead).await;
    let fleet = among(Keeper::Gone, &store);
    let by = Principal::new(Role::Operator, "ops");
    let command_id = CommandId(Clock::starting_at(NOW_MS).new_id());
    ask(&dead, Request::Order { command_id, order: Order::Lock, ttl_ms: Some(60_000), by }).await;
    assert_eq!(fleet.scheduled(), 0);
    let changed = Notify::new();
    store.hide(true);
    let mut adopting = std::pin::pin!(fleet.adopt(changed.notified()));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut adopting).await.is_err(), "it is not given up");
    assert_eq!(fleet.scheduled(), 0);
    store.hide(false);
    assert!(!adopting.await, "nobody said that who lives has changed");
    assert_eq!(fleet.scheduled(), 1);
    fleet.adopt(changed.notified()).await;
    assert_eq!(fleet.scheduled(), 1, "the same again");
    store.hide(true);
    changed.notify_one();
    assert!(fleet.adopt(changed.notified()).await, "who lives has changed: all is looked at anew");
}

#[actix::test]
async fn a_look_for_what_is_due_that_panics_is_done_again() {
    let store = Arc::new(MemoryStore::default());
    let (dead, _) = fleet(store.clone(), Clock::starting_at(NOW_MS));
    register(&dead).await;
    let by = Principal::new(Role::Operator, "ops");
    let command_id = CommandId(Clock::starting_at(NOW_MS).new_id());
    let panics = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&panics);
    let keeper = move || {
        let is_first = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        assert!(!is_first, "as a fault would");
        Keeper::Gone
    };
    let fleet = among_moving(keeper, &store);
    ask(&dead, Request::Order { command_id, order: Order::Lock, ttl_ms: Some(60_000), by }).await;
    panics.store(1, Ordering::SeqCst);
    assert!(!fleet.adopt(std::future::pending()).await);
    assert_eq!((panics.load(Ordering::SeqCst), fleet.scheduled()), (0, 1));
}

#[actix::test]
async fn a_claim_elsewhere_takes_nothing_that_was_claimed_after_it() {
    let store = Arc::new(MemoryStore::default());
    let elsewhere = claims(&store);
    let fleet = among(Keeper::Here, &store);
    register(&fleet).await;
    fleet.release(&HashMap::from([(car(), elsewhere)]));
    // In the vehicle's mailbox this comes after a word to end.
    fleet.snapshot(&car()).await.unwrap();
    assert_eq!((resident(&fleet), claims(&store)), (1, elsewhere + 2));
    fleet.release(&HashMap::from([(car(), elsewhere + 3)]));
    until(async || resident(&fleet) == 0).await;
}

/// What somebody hears whose question arrives here although the vehicle is not, or is no more.
async fn answer_here(fleet: &FleetHandle) -> AskError {
    let (reply, answer) = oneshot::channel();
    let by = Principal::new(Role::Operator, "ops");
    let request = Request::Register { details: Details::default(), by: by.clone() };
    fleet.post(&car(), Letter::Ask(Box::new(Ask { request, by, idempotency: None }), reply, None)).unwrap();
    answer.await.expect("it is not dropped").unwrap_err()
}

#[actix::test]
async fn who_asks_for_a_vehicle_that_moved_hears_that_surely_nothing_happened() {
    let there = || Keeper::There("other".into());
    let elsewhere = among(there(), &Arc::default());
    assert!(matches!(answer_here(&elsewhere).await, AskError::Busy));

    let store = Arc::new(MemoryStore::default());
    store.fence_claims();
    let too_late = among(Keeper::Gone, &store);
    assert!(matches!(answer_here(&too_late).await, AskError::Busy));

    // Overtaken after the claim, before it is loaded.
    let store = Arc::new(MemoryStore::default());
    let claimed = Arc::clone(&store);
    let overtaken = among_moving(move || if claimed.claims() == 0 { Keeper::Gone } else { there() }, &store);
    assert!(matches!(answer_here(&overtaken).await, AskError::Busy));
    assert_eq!((store.claims(), resident(&overtaken)), (1, 0));
}
