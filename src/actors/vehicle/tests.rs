//! Claims about the actor: order, durability, restarts. On the fleet's real threads, with recording edges and a store in memory.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::actors::fleet::FleetHandle;
use crate::actors::testing::{Recorder, fleet, fleet_of};
use crate::clock::Clock;
use crate::domain::RefusalKind;
use crate::domain::command::{Ack, AckStatus, Order};
use crate::domain::key::HolderKey;
use crate::domain::twin::Report;
use crate::http::testing::{MemoryStore, NOW_MS};
use crate::store::{Store, Table};

struct Yard {
    store: Arc<MemoryStore>,
    clock: Clock,
    fleet: FleetHandle,
    recorder: Recorder,
    car: VehicleId,
}

fn operator() -> Principal {
    Principal::new(Role::Operator, "ops")
}

impl Yard {
    async fn with_car() -> Self {
        let store = Arc::new(MemoryStore::default());
        let clock = Clock::starting_at(NOW_MS);
        let (fleet, recorder) = fleet(store.clone(), clock.clone());
        let yard = Self { store, clock, fleet, recorder, car: "CAR-1".parse().unwrap() };
        let register = Request::Register { details: Details::default(), by: operator() };
        yard.ask(register, None).await.unwrap();
        yard
    }

    async fn ask(&self, request: Request, key: Option<&str>) -> Result<Answer, AskError> {
        let idempotency = key.map(|key| IdempotencyKey { key: key.into(), body: "body".into() });
        self.fleet.ask(&self.car, Ask { request, by: operator(), idempotency }).await
    }

    async fn order(&self, order: Order) -> CommandId {
        let command_id = CommandId(self.clock.new_id());
        let request = Request::Order { command_id, order, ttl_ms: None, by: operator() };
        match self.ask(request, None).await.unwrap() {
            Answer::Command(command) => command.command_id,
            other => panic!("{other:?}"),
        }
    }

    fn tell(&self, message: FromCar) {
        self.fleet.tell(&self.car, message).unwrap();
    }

    fn ack(&self, command_id: CommandId, status: AckStatus) {
        self.tell(FromCar::Ack(Ack { command_id, at: self.clock.now(), status, reason: None }));
    }

    async fn state(&self, id: CommandId) -> CommandState {
        self.fleet.command(&self.car, id, Duration::ZERO).await.unwrap().unwrap().state
    }

    /// Waits until `is_so`, at most a minute.
    async fn until(&self, is_so: impl AsyncFn() -> bool) {
        let waiting = async {
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            while !is_so().await {
                looks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it came to be so");
    }

    fn sent(&self) -> Vec<CommandId> {
        let to_cars = self.recorder.to_cars.lock().unwrap();
        let ids = to_cars.iter().filter_map(|sent| match &sent.message {
            ToCar::Command { command_id, .. } => Some(*command_id),
            ToCar::EventAck { .. } => None,
        });
        ids.collect()
    }

    fn event_acks(&self) -> Vec<u64> {
        let to_cars = self.recorder.to_cars.lock().unwrap();
        let seqs = to_cars.iter().filter_map(|sent| match &sent.message {
            ToCar::EventAck { seq, .. } => Some(*seq),
            ToCar::Command { .. } => None,
        });
        seqs.collect()
    }

    /// The actor dies as after a panic: its address closes without a goodbye to the fleet.
    async fn kill_actor(&self) {
        let restarts = self.fleet.metrics().restarts.load(Ordering::Relaxed);
        self.store.conflict_once(&stream(&self.car));
        let refused =
            self.ask(Request::Change { details: Details { name: Some("x".into()), ..Details::default() } }, None);
        assert!(matches!(refused.await, Err(AskError::Busy)));
        self.until(async || {
            let _ = self.fleet.snapshot(&self.car).await;
            self.fleet.metrics().restarts.load(Ordering::Relaxed) > restarts
        })
        .await;
    }
}

fn door(seq: u64) -> Fact {
    Fact { boot: 1, seq, at: Timestamp(NOW_MS), kind: FactKind::Door { name: "driver".into(), open: true } }
}

#[actix::test]
async fn a_lock_goes_out_at_once_when_the_car_is_there_and_its_ack_ends_it() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    let lock = yard.order(Order::Lock).await;
    yard.until(async || yard.sent() == [lock]).await;
    let waiting = yard.fleet.command(&yard.car, lock, Duration::from_secs(30));
    yard.ack(lock, AckStatus::Succeeded);
    assert_eq!(waiting.await.unwrap().unwrap().state, CommandState::Succeeded);
}

#[actix::test]
async fn a_command_is_stored_before_it_is_sent() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    yard.store.refuse(Some("disk"));
    let command_id = CommandId(yard.clock.new_id());
    let request = Request::Order { command_id, order: Order::Lock, ttl_ms: None, by: operator() };
    let refused = yard.ask(request, None).await;
    assert!(matches!(refused, Err(AskError::Storage("disk"))), "{refused:?}");
    yard.store.refuse(None);
    let lock = yard.order(Order::Lock).await;
    yard.until(async || !yard.sent().is_empty()).await;
    assert_eq!(yard.sent(), [lock], "the refused one never left");
}

#[actix::test]
async fn what_a_car_said_while_nothing_could_be_stored_is_stored_later() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    let lock = yard.order(Order::Lock).await;
    yard.until(async || yard.sent() == [lock]).await;
    yard.store.refuse(Some("engine"));
    yard.ack(lock, AckStatus::Succeeded);
    yard.fleet.snapshot(&yard.car).await.unwrap();
    assert_ne!(yard.state(lock).await, CommandState::Succeeded);
    yard.store.refuse(None);
    yard.until(async || yard.state(lock).await == CommandState::Succeeded).await;
}

#[actix::test]
async fn a_lock_that_was_promised_reaches_a_returning_car_also_while_the_disk_is_full() {
    let yard = Yard::with_car().await;
    let lock = yard.order(Order::Lock).await;
    assert_eq!(yard.state(lock).await, CommandState::Queued);
    yard.store.refuse(Some("disk"));
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    yard.until(async || yard.sent() == [lock]).await;
    yard.until(async || yard.state(lock).await == CommandState::Sent).await;
    yard.store.refuse(None);
    yard.ack(lock, AckStatus::Succeeded);
    yard.until(async || yard.state(lock).await == CommandState::Succeeded).await;
    assert_eq!(yard.sent(), [lock], "once");
}

#[actix::test]
async fn a_car_that_comes_and_goes_with_all_its_commands_open_is_still_stored() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    let mut last = None;
    for _ in 0..Vehicle::MAX_OPEN_COMMANDS {
        last = Some(yard.order(Order::Locate).await);
    }
    let last = last.unwrap();
    // Each round enters two states into each command's history, until those are full.
    for epoch in 1..=Command::MAX_HISTORY as u64 {
        yard.tell(FromCar::LinkDown { epoch });
        yard.tell(FromCar::LinkUp { epoch: epoch + 1, address: None });
        yard.fleet.snapshot(&yard.car).await.unwrap();
    }
    yard.fleet.drain(Duration::from_secs(10)).await;
    let snapshot = yard.fleet.snapshot(&yard.car).await.unwrap();
    assert_eq!(snapshot.vehicle.command(last).unwrap().history.len(), Command::MAX_HISTORY);
    assert_eq!(yard.fleet.metrics().failed_appends.load(Ordering::Relaxed), 0);
}

#[actix::test]
async fn telemetry_goes_on_while_the_disk_is_full() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    yard.store.refuse(Some("disk"));
    let signals = vec![(path::SPEED_KMH.into(), SignalValue::Number(42.0))];
    yard.tell(FromCar::Reports(vec![Report { boot: 1, seq: 1, at: yard.clock.now(), signals }]));
    let snapshot = yard.fleet.snapshot(&yard.car).await.unwrap();
    assert_eq!(snapshot.twin.speed_kmh().map(|(speed, _)| speed), Some(42.0));
    assert_eq!(yard.fleet.observations_in_flight(), 0, "the budget was given back");
}

#[actix::test]
async fn a_fact_is_acknowledged_after_it_is_durable_and_not_before() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    yard.store.refuse(Some("disk"));
    yard.tell(FromCar::Fact(door(1)));
    yard.fleet.snapshot(&yard.car).await.unwrap();
    assert!(yard.event_acks().is_empty());
    yard.store.refuse(None);
    yard.tell(FromCar::Fact(door(1)));
    yard.until(async || yard.event_acks() == [1]).await;
    // The car did not hear: it is answered again, and the fact is stored once.
    yard.tell(FromCar::Fact(door(1)));
    yard.until(async || yard.event_acks() == [1, 1]).await;
    let records = yard.store.read(&stream(&yard.car), StorePosition(0), 100).unwrap();
    let facts = records.iter().flat_map(|record| &record.events).filter(|event| event.get().contains("fact_taken"));
    assert_eq!(facts.count(), 1);
}

#[actix::test]
async fn the_same_idempotency_key_is_answered_with_the_same_command() {
    let yard = Yard::with_car().await;
    let order = |yard: &Yard| Request::Order {
        command_id: CommandId(yard.clock.new_id()),
        order: Order::Lock,
        ttl_ms: None,
        by: operator(),
    };
    let first = yard.ask(order(&yard), Some("k1")).await.unwrap();
    let again = yard.ask(order(&yard), Some("k1")).await.unwrap();
    assert_eq!(first, again);
    let other = IdempotencyKey { key: "k1".into(), body: "another body".into() };
    let ask = Ask { request: order(&yard), by: operator(), idempotency: Some(other) };
    assert!(matches!(yard.fleet.ask(&yard.car, ask).await, Err(AskError::KeyReused)));
}

#[actix::test]
async fn a_repeated_request_for_the_car_it_already_got_is_not_told_that_the_car_is_taken() {
    let yard = Yard::with_car().await;
    let wish = |yard: &Yard| Request::Use {
        request_id: RequestId(yard.clock.new_id()),
        renter: "ann".into(),
        profile: "cabin".into(),
        from: Timestamp(NOW_MS),
        until: Timestamp(NOW_MS + 3_600_000),
        holder_key: HolderKey::Ed25519 { x: [1; 32] },
    };
    let first = yard.ask(wish(&yard), Some("k")).await.unwrap();
    assert_eq!(yard.ask(wish(&yard), Some("k")).await.unwrap(), first);
    assert!(matches!(yard.ask(wish(&yard), Some("other")).await, Err(AskError::Refused(_))));
}

#[actix::test]
async fn a_dead_actor_is_started_again_from_the_store_and_knows_the_link() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 7, address: None });
    let lock = yard.order(Order::Lock).await;
    yard.until(async || yard.sent() == [lock]).await;
    yard.kill_actor().await;
    let snapshot = yard.fleet.snapshot(&yard.car).await.unwrap();
    assert!(snapshot.twin.is_online(), "the gate will not repeat that the car is there");
    yard.until(async || yard.sent() == [lock, lock]).await;
    yard.ack(lock, AckStatus::Succeeded);
    yard.until(async || yard.state(lock).await == CommandState::Succeeded).await;
}

#[actix::test]
async fn a_restarted_actor_has_every_promise_also_across_folded_states() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    let mut commands = Vec::new();
    // Enough events for several folded states in between.
    for _ in 0..30 {
        let lock = yard.order(Order::Lock).await;
        yard.ack(lock, AckStatus::Succeeded);
        commands.push(lock);
    }
    yard.until(async || yard.state(commands[29]).await == CommandState::Succeeded).await;
    let before = yard.fleet.snapshot(&yard.car).await.unwrap().vehicle;
    assert!(yard.store.get(Table::VehicleStates, "CAR-1").unwrap().is_some(), "no folded state was stored");
    yard.fleet.drain(Duration::from_secs(5)).await;
    yard.kill_actor().await;
    assert_eq!(yard.fleet.snapshot(&yard.car).await.unwrap().vehicle, before);
}

#[actix::test]
async fn a_car_with_a_certificate_shows_up_by_itself() {
    let yard = Yard::with_car().await;
    let stranger: VehicleId = "NEW-1".parse().unwrap();
    let missing = yard.fleet.snapshot(&stranger).await;
    assert!(matches!(missing, Err(AskError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound));
    yard.fleet.tell(&stranger, FromCar::LinkUp { epoch: 1, address: None }).unwrap();
    yard.until(async || yard.fleet.is_registered(&stranger)).await;
    assert!(yard.fleet.snapshot(&stranger).await.unwrap().twin.is_online());
    let register =
        Request::Register { details: Details { name: Some("n".into()), ..Details::default() }, by: operator() };
    let ask = Ask { request: register, by: operator(), idempotency: None };
    yard.fleet.ask(&stranger, ask).await.expect("an operator may describe it later");
}

#[actix::test]
async fn a_command_expires_by_itself() {
    let yard = Yard::with_car().await;
    let lock = yard.order(Order::Lock).await;
    assert_eq!(yard.state(lock).await, CommandState::Queued);
    // The fleet's threads run on the real clock; the shortest life is a second.
    let command_id = CommandId(yard.clock.new_id());
    let request = Request::Order { command_id, order: Order::Locate, ttl_ms: Some(1_000), by: operator() };
    yard.ask(request, None).await.unwrap();
    yard.until(async || yard.state(command_id).await == CommandState::Expired).await;
}

#[actix::test]
async fn a_track_point_is_saved_within_a_second_or_so() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    let signals = vec![(path::LATITUDE.into(), SignalValue::Number(45.0))];
    yard.tell(FromCar::Reports(vec![Report { boot: 1, seq: 1, at: yard.clock.now(), signals }]));
    let all = |yard: &Yard| yard.store.observations(&yard.car, Timestamp(0), Timestamp(i64::MAX), 10).unwrap();
    yard.until(async || all(&yard).len() == 1).await;
}

/// A car that fills up where there is no reception tells of it an hour later, all at once.
#[actix::test]
async fn reports_of_an_hour_that_come_at_once_keep_their_times_in_the_track() {
    let yard = Yard::with_car().await;
    yard.tell(FromCar::LinkUp { epoch: 1, address: None });
    let now = yard.clock.now();
    let report = |seq: u64, at: Timestamp| {
        let signals = vec![(path::FUEL_PERCENT.into(), SignalValue::Number(seq as f64))];
        Report { boot: 1, seq, at, signals }
    };
    let minutes_ago = |minutes: i64| now.plus_ms(-minutes * 60_000);
    let mut reports: Vec<Report> = (0..60).map(|seq| report(seq, minutes_ago(60 - seq as i64))).collect();
    // One of them late: history, but no state.
    reports.push(report(99, minutes_ago(30).plus_ms(500)));
    yard.tell(FromCar::Reports(reports));
    let all = |yard: &Yard| yard.store.observations(&yard.car, Timestamp(0), Timestamp(i64::MAX), 100).unwrap();
    yard.until(async || all(&yard).len() == 61).await;
    let points = all(&yard);
    assert!(points.iter().any(|point| point.at == minutes_ago(30).plus_ms(500)));
    assert!(points.iter().any(|point| point.at == minutes_ago(45)));
    let snapshot = yard.fleet.snapshot(&yard.car).await.unwrap();
    assert_eq!(snapshot.twin.signal(path::FUEL_PERCENT).map(|level| level.at), Some(minutes_ago(1)));
}

/// The gate says only once that a car is there.
#[actix::test]
async fn a_car_that_comes_while_nothing_can_be_read_or_stored_is_known_as_soon_as_it_can() {
    let yard = Yard::with_car().await;
    let newcomer: VehicleId = "NEW-1".parse().unwrap();
    yard.store.hide(true);
    yard.fleet.tell(&newcomer, FromCar::LinkUp { epoch: 1, address: None }).unwrap();
    yard.until(async || yard.fleet.metrics().failed_starts.load(Ordering::Relaxed) > 0).await;
    yard.store.refuse(Some("disk"));
    yard.store.hide(false);
    yard.until(async || yard.fleet.metrics().failed_appends.load(Ordering::Relaxed) > 0).await;
    assert!(!yard.fleet.is_registered(&newcomer));
    yard.store.refuse(None);
    yard.until(async || yard.fleet.is_registered(&newcomer)).await;
    assert!(yard.fleet.snapshot(&newcomer).await.unwrap().twin.is_online());
}

#[actix::test]
async fn a_car_that_came_and_went_while_it_could_not_be_read_is_offline() {
    let yard = Yard::with_car().await;
    let newcomer: VehicleId = "NEW-1".parse().unwrap();
    yard.store.hide(true);
    yard.fleet.tell(&newcomer, FromCar::LinkUp { epoch: 1, address: None }).unwrap();
    yard.until(async || yard.fleet.metrics().failed_starts.load(Ordering::Relaxed) > 0).await;
    yard.fleet.tell(&newcomer, FromCar::LinkDown { epoch: 1 }).unwrap();
    yard.until(async || yard.fleet.metrics().failed_starts.load(Ordering::Relaxed) > 1).await;
    yard.store.hide(false);
    let register = Request::Register { details: Details::default(), by: operator() };
    yard.fleet.ask(&newcomer, Ask { request: register, by: operator(), idempotency: None }).await.unwrap();
    assert!(!yard.fleet.snapshot(&newcomer).await.unwrap().twin.is_online());
}

#[actix::test]
async fn a_fleet_takes_no_more_vehicles_than_it_may_also_of_those_that_come_by_themselves() {
    let config = crate::config::Fleet { max_vehicles: 1, ..Default::default() };
    let (fleet, _recorder) = fleet_of(&config, Arc::new(MemoryStore::default()), Clock::starting_at(NOW_MS));
    let [first, second] = ["CAR-1", "CAR-2"].map(|id| id.parse::<VehicleId>().unwrap());
    fleet.tell(&first, FromCar::LinkUp { epoch: 1, address: None }).unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while !fleet.is_registered(&first) {
        looks.tick().await;
    }
    fleet.tell(&second, FromCar::LinkUp { epoch: 1, address: None }).unwrap();
    while fleet.metrics().fleet_full.load(Ordering::Relaxed) == 0 {
        looks.tick().await;
    }
    assert!(!fleet.is_registered(&second));
}

#[actix::test]
async fn what_is_due_for_a_vehicle_that_has_no_place_in_memory_happens_too() {
    let yard = Yard::with_car().await;
    let (first, second): (VehicleId, VehicleId) = (yard.car.clone(), "CAR-2".parse().unwrap());
    let register = Request::Register { details: Details::default(), by: operator() };
    yard.fleet.ask(&second, Ask { request: register, by: operator(), idempotency: None }).await.unwrap();
    let command_id = CommandId(yard.clock.new_id());
    let request = Request::Order { command_id, order: Order::Locate, ttl_ms: Some(2_000), by: operator() };
    yard.fleet.ask(&second, Ask { request, by: operator(), idempotency: None }).await.unwrap();
    let config = crate::config::Fleet { max_resident: 1, ..Default::default() };
    let store = Arc::new(yard.store.copy());
    let (fleet, _recorder) = fleet_of(&config, store.clone(), yard.clock.clone());
    assert!(fleet.snapshot(&first).await.is_ok());
    yard.until(async || {
        let row = store.get(Table::Commands, &command_id.to_string()).unwrap().unwrap();
        row.get().contains("\"state\":\"expired\"")
    })
    .await;
}
