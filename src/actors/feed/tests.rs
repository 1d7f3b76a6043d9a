use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::command::Order;
use crate::domain::twin::{SignalValue, Twin, path};
use crate::domain::vehicle::Vehicle;
use crate::domain::{CommandId, Principal};

const EPOCH: i64 = 1_795_300_000_000;

fn id(number: u8) -> VehicleId {
    format!("V{number}").parse().expect("id")
}

/// A vehicle's state whose link epoch tells versions apart.
fn snapshot(number: u8, version: u64) -> Arc<Snapshot> {
    let now = Timestamp(EPOCH);
    let mut twin = Twin::new(now);
    twin.connected(now, version);
    Arc::new(Snapshot::new(now, Vehicle::new(id(number)), twin))
}

fn located(number: u8, version: u64, latitude: f64) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::clone(&snapshot(number, version));
    snapshot.twin.note(path::LATITUDE, SignalValue::Number(latitude), snapshot.now);
    snapshot.twin.note(path::LONGITUDE, SignalValue::Number(7.0), snapshot.now);
    Arc::new(snapshot)
}

fn json(value: impl serde::Serialize) -> Arc<RawValue> {
    serde_json::value::to_raw_value(&value).expect("json").into()
}

fn alert(number: u8, open: bool, version: u64) -> AlertChanged {
    AlertChanged { id: AlertId(Uuid::from_u128(number.into())), open, body: json(version) }
}

fn command(number: u8, command_id: u128) -> CommandChanged {
    let now = Timestamp(EPOCH);
    let command = Command::new(CommandId(Uuid::from_u128(command_id)), Order::Lock, Principal::gateway(), now, now);
    CommandChanged { vehicle: id(number), command }
}

const SMALL: Limits = Limits {
    vehicles: 16,
    commands: 6,
    alerts: 5,
    open_alerts: 8,
    decisions: 5,
    batch_vehicles: 3,
    batch_events: 2,
    batch_scan: 7,
};

/// A console as the protocol asks for one: forgets on a snapshot, adds on changes, keeps what it was told.
#[derive(Default)]
struct Model {
    vehicles: BTreeMap<VehicleId, u64>,
    alerts: BTreeMap<AlertId, (bool, String)>,
    /// Every alert change and decision it heard since it last had to start over.
    heard: BTreeSet<String>,
    /// The number from which on it must have heard all.
    complete_from: Seq,
    next: Option<Cursor>,
    seq: Seq,
}

impl Model {
    fn take(&mut self, batch: &Batch) {
        if batch.is_snapshot {
            self.vehicles.clear();
            self.alerts.clear();
            self.complete_from = batch.cursor.decisions;
        }
        for (_, state) in &batch.vehicles {
            self.vehicles.insert(state.vehicle.vehicle_id.clone(), state.twin.link.epoch);
        }
        for change in &batch.alerts {
            self.alerts.insert(change.id, (change.open, change.body.get().into()));
            self.heard.insert(format!("alert {}", change.body.get()));
        }
        self.heard.extend(batch.decisions.iter().map(|made| format!("decision {}", made.0.get())));
        self.next = Some(batch.cursor);
        if !batch.is_empty() {
            assert!(batch.is_snapshot || batch.cursor.seq() > self.seq, "batches are told apart by their number");
            self.seq = batch.cursor.seq();
        }
    }

    fn from(&self) -> From {
        self.next.map_or(From::Start, From::Cursor)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Vehicle(u8),
    Command(u8),
    Alert(u8, bool),
    Decision,
    Read,
    /// The connection was lost, with a batch on the way.
    Resume,
    Reload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..12_u8).prop_map(Step::Vehicle),
        3 => (0..9_u8).prop_map(Step::Command),
        2 => (0..6_u8, any::<bool>()).prop_map(|(number, open)| Step::Alert(number, open)),
        2 => Just(Step::Decision),
        6 => Just(Step::Read),
        1 => Just(Step::Resume),
        1 => Just(Step::Reload),
    ];
    proptest::collection::vec(step, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// However changes, slow reading and lost connections interleave, a console ends at the newest state, has heard
    /// every alert and decision since it was last told to start over, and the feed holds no more than its limits.
    #[test]
    fn every_console_converges_and_misses_no_alert_or_decision_in_silence(steps in steps()) {
        let mut board = Board::new(SMALL, Uuid::nil(), 1_000);
        let mut view = View::default();
        let mut console = Model::default();
        let mut newest = BTreeMap::new();
        let mut alerts = BTreeMap::new();
        let mut happened: Vec<(Seq, String)> = Vec::new();
        for (version, step) in (1_u64..).zip(steps) {
            match step {
                Step::Vehicle(number) => {
                    newest.insert(id(number), version);
                    board.put_vehicle(snapshot(number, version));
                }
                Step::Command(number) => board.put_command(command(number, version.into())),
                Step::Alert(number, open) => {
                    let change = alert(number, open, version);
                    alerts.insert(change.id, (open, version.to_string()));
                    board.put_alert(change);
                    happened.push((board.head(), format!("alert {version}")));
                }
                Step::Decision => {
                    board.put_decision(DecisionMade(json(version)));
                    happened.push((board.head(), format!("decision {version}")));
                }
                Step::Read => console.take(&board.read(console.from(), &mut view)),
                Step::Resume if console.next.is_some() => {
                    let _lost_on_the_way = board.read(console.from(), &mut view);
                    view = View::default();
                    let from = From::Resume { after: console.seq, stream: Some(board.stream()) };
                    console.seq = 0;
                    console.take(&board.read(from, &mut view));
                }
                Step::Resume | Step::Reload => {
                    view = View::default();
                    console = Model::default();
                }
            }
            let held = board.held();
            prop_assert!(held.vehicles <= SMALL.vehicles && held.commands <= SMALL.commands);
            prop_assert!(held.alerts <= SMALL.alerts && held.decisions <= SMALL.decisions);
            prop_assert!(held.open_alerts <= SMALL.open_alerts);
        }
        for _ in 0..200 {
            console.take(&board.read(console.from(), &mut view));
        }
        prop_assert_eq!(console.next, Some(Cursor::at(board.head())));
        prop_assert_eq!(&console.vehicles, &newest);
        // An alert that was closed before a snapshot is simply not there.
        let open = |alerts: &BTreeMap<AlertId, (bool, String)>| {
            alerts.iter().filter(|(_, (open, _))| *open).map(|(id, (_, body))| (*id, body.clone())).collect::<Vec<_>>()
        };
        let (shown, mut expected) = (open(&console.alerts), open(&alerts));
        if console.complete_from > 0 {
            // A snapshot tells the newest of the open alerts only.
            expected.retain(|entry| shown.contains(entry) || alerts.len() <= SMALL.batch_events);
        }
        prop_assert_eq!(shown, expected);
        for (seq, what) in happened.iter().filter(|(seq, _)| *seq > console.complete_from) {
            prop_assert!(console.heard.contains(what), "{} of {} was never told", what, seq);
        }
    }
}

#[test]
fn a_number_of_an_earlier_life_leads_to_a_snapshot() {
    let mut board = Board::new(SMALL, Uuid::nil(), 1_000);
    board.put_vehicle(snapshot(1, 1));
    let read = |after, stream| board.read(From::Resume { after, stream }, &mut View::default()).is_snapshot;
    assert!(read(999, None), "before this life");
    assert!(read(1_002, None), "ahead of this life");
    assert!(read(1_000, Some(Uuid::max())), "another stream");
    assert!(!read(1_000, Some(Uuid::nil())));
    assert!(!read(1_001, None));
}

#[test]
fn a_narrow_console_sees_only_its_area_and_who_leaves_it() {
    let mut board = Board::new(SMALL, Uuid::nil(), 0);
    let area = Area::new([45.0, 6.0, 46.0, 8.0]);
    assert!(area.is_some());
    let mut view = View::of(Filter { area, vehicles: None });
    board.put_vehicle(located(1, 1, 45.5));
    board.put_vehicle(located(2, 1, 47.0));
    let first = board.read(From::Start, &mut view);
    assert_eq!(first.vehicles.len(), 1);
    board.put_vehicle(located(1, 2, 50.0));
    let second = board.read(From::Cursor(first.cursor), &mut view);
    assert_eq!(second.vehicles.len(), 1, "it is told once that the car left");
    board.put_vehicle(located(1, 3, 51.0));
    let third = board.read(From::Cursor(second.cursor), &mut view);
    assert!(third.is_empty() && third.cursor == Cursor::at(board.head()), "and reading goes on behind it");
}

#[test]
fn an_area_may_cross_the_180th_meridian_and_must_be_a_box() {
    let fiji = Area::new([-20.0, 175.0, -15.0, -175.0]).expect("area");
    assert!(fiji.contains(crate::domain::Position { latitude: -17.0, longitude: 179.0 }));
    assert!(fiji.contains(crate::domain::Position { latitude: -17.0, longitude: -179.0 }));
    assert!(!fiji.contains(crate::domain::Position { latitude: -17.0, longitude: 0.0 }));
    for wrong in [[1.0, 0.0, 0.0, 1.0], [f64::NAN, 0.0, 1.0, 1.0], [0.0, 0.0, 91.0, 1.0]] {
        assert_eq!(Area::new(wrong), None);
    }
}

#[derive(Default, Clone)]
struct Pokes(Arc<Mutex<Vec<Timestamp>>>);

struct Watcher {
    clock: Clock,
    pokes: Pokes,
}

impl Actor for Watcher {
    type Context = Context<Self>;
}

impl Handler<Poke> for Watcher {
    type Result = ();

    fn handle(&mut self, _: Poke, _: &mut Self::Context) {
        self.pokes.0.lock().expect("lock").push(self.clock.now());
    }
}

impl Pokes {
    fn count(&self) -> usize {
        self.0.lock().expect("lock").len()
    }
}

/// Virtual time: the clock is paused, and moves on while everybody waits.
async fn pass(ms: u64) {
    let nothing = std::future::pending::<()>();
    assert!(tokio::time::timeout(Duration::from_millis(ms), nothing).await.is_err());
}

struct Stage {
    feed: Addr<Feed>,
    audience: Arc<AtomicUsize>,
    first_calls: Arc<AtomicUsize>,
    clock: Clock,
}

async fn stage() -> Stage {
    tokio::time::pause();
    let clock = Clock::starting_at(EPOCH);
    let feed = Feed::new(clock.clone(), SMALL);
    let audience = feed.audience();
    let feed = feed.start();
    let first_calls = Arc::new(AtomicUsize::new(0));
    let calls = first_calls.clone();
    feed.send(OnFirstConsole(Box::new(move || {
        calls.fetch_add(1, Ordering::Relaxed);
    })))
    .await
    .expect("feed");
    Stage { feed, audience, first_calls, clock }
}

impl Stage {
    async fn watch(&self) -> (ConsoleId, Pokes) {
        let pokes = Pokes::default();
        let watcher = Watcher { clock: self.clock.clone(), pokes: pokes.clone() }.start();
        (self.feed.send(Attach(watcher.recipient())).await.expect("feed"), pokes)
    }

    async fn pull(&self, console: ConsoleId, from: From) -> Option<Batch> {
        self.feed.send(Pull { console, from }).await.expect("feed")
    }
}

#[actix::test]
async fn the_first_console_asks_for_all_states_and_its_snapshot_waits_for_them() {
    let stage = stage().await;
    let (console, pokes) = stage.watch().await;
    assert_eq!((stage.first_calls.load(Ordering::Relaxed), stage.audience.load(Ordering::Relaxed)), (1, 1));
    assert!(stage.pull(console, From::Start).await.is_none(), "the states are still on their way");
    for number in 0..3 {
        pass(80).await;
        stage.feed.do_send(VehicleChanged(snapshot(number, 1)));
    }
    assert_eq!(pokes.count(), 0);
    pass(300).await;
    assert_eq!(pokes.count(), 1);
    let batch = stage.pull(console, From::Start).await.expect("batch");
    assert_eq!((batch.is_snapshot, batch.vehicles.len()), (true, 3));
    let (_, _) = stage.watch().await;
    assert_eq!(stage.first_calls.load(Ordering::Relaxed), 1, "a second console asks nobody");
}

/// Changes come all the time; how far apart the pokes of a console that reads at once are, at least and on average.
async fn pace(change: impl Fn(&Stage, u32)) -> (i64, f64) {
    let stage = stage().await;
    let (console, pokes) = stage.watch().await;
    pass(300).await;
    let mut from = From::Cursor(stage.pull(console, From::Start).await.expect("batch").cursor);
    pokes.0.lock().expect("lock").clear();
    let began = stage.clock.now();
    let mut batches = 0;
    for version in 1..1_000 {
        change(&stage, version);
        if let Some(batch) = stage.pull(console, from).await {
            from = From::Cursor(batch.cursor);
            batches += usize::from(!batch.is_empty());
        }
        pass(1).await;
    }
    let times = pokes.0.lock().expect("lock").clone();
    assert!(batches <= times.len() + 1, "{batches} batches in {} rounds", times.len());
    let closest = times.windows(2).map(|pair| pair[1].since_ms(pair[0])).min();
    (closest.expect("some pokes"), stage.clock.now().since_ms(began) as f64 / times.len() as f64)
}

fn car_moves(stage: &Stage, version: u32) {
    stage.feed.do_send(VehicleChanged(snapshot(1, version.into())));
}

#[actix::test]
async fn a_console_that_read_everything_is_poked_four_times_a_second_for_moving_cars() {
    let (closest, average) = pace(car_moves).await;
    assert!(closest >= 249 && average < 300.0, "{closest} ms apart, {average} on average");
}

#[actix::test]
async fn a_console_that_read_everything_is_poked_ten_times_a_second_for_what_is_urgent() {
    let decision = |stage: &Stage, version: u32| {
        car_moves(stage, version);
        let body = serde_json::value::to_raw_value(&version).expect("JSON");
        stage.feed.do_send(DecisionMade(Arc::from(body)));
    };
    let (closest, average) = pace(decision).await;
    assert!(closest >= 99 && average < 150.0, "{closest} ms apart, {average} on average");
}

#[actix::test]
async fn one_that_does_not_read_is_not_poked_again() {
    let stage = stage().await;
    let (console, pokes) = stage.watch().await;
    pass(300).await;
    let before = pokes.count();
    stage.pull(console, From::Start).await.expect("batch");
    for round in 0..50 {
        stage.feed.do_send(VehicleChanged(snapshot(1, round + 1)));
        pass(100).await;
    }
    assert_eq!(pokes.count(), before, "it holds a batch and will ask by itself");
}

#[actix::test]
async fn a_lost_connection_resumes_within_the_linger_and_starts_over_after_it() {
    let stage = stage().await;
    let (console, _) = stage.watch().await;
    stage.feed.do_send(VehicleChanged(snapshot(1, 1)));
    pass(300).await;
    let seen = stage.pull(console, From::Start).await.expect("batch").cursor.seq();
    stage.feed.do_send(Detach(console));
    pass(30_000).await;
    assert_eq!(stage.audience.load(Ordering::Relaxed), 1, "the vehicles go on telling");
    stage.feed.do_send(VehicleChanged(snapshot(2, 1)));
    let (console, _) = stage.watch().await;
    let batch = stage.pull(console, From::Resume { after: seen, stream: None }).await.expect("batch");
    assert_eq!((batch.is_snapshot, batch.vehicles.len()), (false, 1));
    assert_eq!(stage.first_calls.load(Ordering::Relaxed), 1);

    stage.feed.do_send(Detach(console));
    pass(61_000).await;
    assert_eq!(stage.audience.load(Ordering::Relaxed), 0);
    stage.feed.do_send(VehicleChanged(snapshot(3, 1)));
    let (console, _) = stage.watch().await;
    assert_eq!(stage.first_calls.load(Ordering::Relaxed), 2);
    pass(300).await;
    let batch = stage.pull(console, From::Resume { after: seen, stream: None }).await.expect("batch");
    assert!(batch.is_snapshot && batch.vehicles.is_empty(), "what nobody watched was not kept");
}
