//! Death and stall of a shard behind a real gate with real cars: what can really happen to a router is done to it
//! directly, since the gate lets no such thing through. The other shard must not notice.

#[path = "../../tests/gate_harness/mod.rs"]
mod gate_harness;

use std::sync::atomic::AtomicU32;

use gate_harness::{
    Enrolled, Gate, Packet, Raw, Witness, epoch_down, epoch_up, puback, publish_packet, start_gate, telemetry, until,
};

use super::*;
use crate::actors::vehicle::{FromCar, TellError};
use crate::domain::VehicleId;

/// A gate of two shards, a witness on one and a car on the other.
struct Scene {
    gate: Gate,
    witness: Witness,
    car: Enrolled,
    slot: Arc<Slot>,
}

fn name_on(gate: &Gate, index: usize, prefix: &str) -> String {
    let names = (0..).map(|n| format!("{prefix}-{n}"));
    let is_there = |name: &String| gate.kicker.0.slot(&name.parse().unwrap()).index == index;
    names.into_iter().find(is_there).unwrap()
}

async fn scene(adjust: impl FnOnce(&mut config::Mqtt)) -> Scene {
    let gate = start_gate(|config| {
        config.heartbeat_ms = 50;
        config.stall_ms = 1_000;
        adjust(config);
    });
    let witness = Witness::named(&gate, &name_on(&gate, 0, "WITNESS")).await;
    let car = gate.enroll(&name_on(&gate, 1, "CAR"));
    let slot = Arc::clone(gate.kicker.0.slot(&car.vehicle));
    Scene { gate, witness, car, slot }
}

impl Scene {
    /// The car was thrown out, comes back, and all is well with it; the witness never knew.
    async fn recovers(&mut self, mut raw: Raw) {
        assert!(raw.ended().await.is_empty());
        let lost = self.gate.link_down(&self.car.vehicle).await;
        until("the shard is replaced", || self.gate.metrics.shards_replaced.get() == 1 && !self.slot.shard().is_lost())
            .await;
        let mut raw = Raw::subscribed(&self.gate, &self.car).await;
        let is_newer = |_: &VehicleId, epoch: u64| epoch > lost;
        assert!(is_newer(&self.car.vehicle, self.gate.link_up(&self.car.vehicle).await));
        let sent = self.gate.send(&self.car.vehicle, crate::domain::command::Order::Lock);
        assert_eq!(gate_harness::command(&raw.packet().await.unwrap()).1, Some(sent));
        report(&self.gate, &self.car, &mut raw, 1_000).await;
        self.witness.works(&self.gate).await;
    }
}

/// Publishes one report and waits until it was told.
async fn report(gate: &Gate, car: &Enrolled, raw: &mut Raw, seq: u16) {
    raw.send(&publish(car, seq)).await;
    assert_eq!(raw.packet().await, Some(puback(seq)));
    gate.told.until("the report", &car.vehicle, |message| has(message, seq.into())).await;
}

fn publish(car: &Enrolled, seq: u16) -> Vec<u8> {
    publish_packet(format!("v1/{}/telemetry", car.vehicle).as_bytes(), Some(seq), &telemetry(seq.into()))
}

fn has(message: &FromCar, seq: u64) -> Option<()> {
    match message {
        FromCar::Reports(reports) => reports.iter().any(|report| report.seq == seq).then_some(()),
        _ => None,
    }
}

#[tokio::test]
async fn a_router_that_panics_is_replaced_and_its_cars_come_back() {
    let mut scene = scene(|_| {}).await;
    let mut raw = Raw::subscribed(&scene.gate, &scene.car).await;
    report(&scene.gate, &scene.car, &mut raw, 1).await;
    // The one packet that no car gets past the gate.
    send(&mut scene.slot.shard().link(), Bytes::from_static("é".as_bytes()), Bytes::from_static(b"x"));
    scene.recovers(raw).await;
}

#[tokio::test]
async fn a_shared_link_that_the_router_drops_is_noticed_though_sending_still_says_ok() {
    let mut scene = scene(|_| {}).await;
    let mut raw = Raw::subscribed(&scene.gate, &scene.car).await;
    report(&scene.gate, &scene.car, &mut raw, 1).await;
    send(&mut scene.slot.shard().link(), Bytes::from_static(b"\xff\xfe"), Bytes::from_static(b"x"));
    scene.recovers(raw).await;
}

/// A stalled router itself is shown against the real program, whose router thread can be stopped (`tests/stall.rs`).
#[tokio::test]
async fn a_reader_stuck_in_an_actor_is_not_taken_for_a_stalled_router() {
    static IS_STUCK: AtomicBool = AtomicBool::new(true);
    fn stick(vehicle: &VehicleId, message: &FromCar) -> Option<TellError> {
        while vehicle.as_str().starts_with("CAR") && has(message, 2).is_some() && IS_STUCK.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None
    }
    let mut scene = scene(|config| config.stall_ms = 200).await;
    let mut raw = Raw::subscribed(&scene.gate, &scene.car).await;
    report(&scene.gate, &scene.car, &mut raw, 1).await;
    scene.gate.told.refuse(Some(stick));
    raw.send(&publish(&scene.car, 2)).await;
    assert_eq!(raw.packet().await, Some(puback(2)));
    let mut interval = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..5 {
        interval.tick().await;
        scene.witness.works(&scene.gate).await;
    }
    assert_eq!(scene.gate.metrics.shards_replaced.get(), 0);
    IS_STUCK.store(false, Ordering::SeqCst);
    report(&scene.gate, &scene.car, &mut raw, 3).await;
}

#[tokio::test]
async fn a_reader_that_panics_takes_its_shard_along_which_is_replaced() {
    static HAS_PANICKED: AtomicBool = AtomicBool::new(false);
    fn panic_once(vehicle: &VehicleId, message: &FromCar) -> Option<TellError> {
        let is_first = vehicle.as_str().starts_with("CAR")
            && has(message, 2).is_some()
            && !HAS_PANICKED.swap(true, Ordering::SeqCst);
        assert!(!is_first, "a bug, for the test");
        None
    }
    let mut scene = scene(|_| {}).await;
    let mut raw = Raw::subscribed(&scene.gate, &scene.car).await;
    report(&scene.gate, &scene.car, &mut raw, 1).await;
    scene.gate.told.refuse(Some(panic_once));
    raw.send(&publish(&scene.car, 2)).await;
    assert_eq!(raw.packet().await, Some(puback(2)));
    scene.recovers(raw).await;
}

#[tokio::test]
async fn an_ingest_that_is_slow_but_moves_is_left_alone() {
    // Slower than a stall takes, altogether.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    fn slow(vehicle: &VehicleId, message: &FromCar) -> Option<TellError> {
        if vehicle.as_str().starts_with("CAR") && matches!(message, FromCar::Reports(_)) {
            COUNT.fetch_add(1, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(60));
        }
        None
    }
    let mut scene = scene(|_| {}).await;
    let mut raw = Raw::subscribed(&scene.gate, &scene.car).await;
    scene.gate.told.refuse(Some(slow));
    for seq in 1..=25 {
        report(&scene.gate, &scene.car, &mut raw, seq).await;
    }
    assert!(COUNT.load(Ordering::SeqCst) >= 25);
    assert_eq!(scene.gate.metrics.shards_replaced.get(), 0);
    scene.witness.works(&scene.gate).await;
}

/// There: a slow in-process consumer lost 35 k of 200 k messages in silence.
#[tokio::test]
async fn a_full_log_holds_the_cars_back_and_nothing_is_lost() {
    static IS_STUCK: AtomicBool = AtomicBool::new(true);
    fn wait(vehicle: &VehicleId, message: &FromCar) -> Option<TellError> {
        while vehicle.as_str().starts_with("CAR")
            && matches!(message, FromCar::Reports(_))
            && IS_STUCK.load(Ordering::SeqCst)
        {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None
    }
    let mut scene = scene(|config| {
        config.stall_ms = 60_000;
        config.ingest_segment_kib = 16;
        config.ingest_segments = 2;
        (config.rate_per_s, config.rate_burst) = (1_000_000, 1_000_000);
        // Being held back must not look like silence.
        config.max_keep_alive_s = 1;
    })
    .await;
    let gate = &scene.gate;
    let raw = Raw::connect(gate, &scene.car).await;
    gate.told.refuse(Some(wait));
    let (mut read, mut write) = tokio::io::split(raw.io);
    let (car, count) = (scene.car.clone(), 5_000_u16);
    let writing = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        for seq in 1..=count {
            write.write_all(&publish(&car, seq)).await.unwrap();
        }
        write.flush().await.unwrap();
        write
    });
    let reading = tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut acknowledged = vec![0; usize::from(count) * 4];
        read.read_exact(&mut acknowledged).await.unwrap();
        read
    });
    until("the cars are held back", || gate.metrics.held_back.get() >= 1).await;
    let taken = gate.metrics.published.get();
    assert!(taken < u64::from(count) / 2, "{taken} were taken though nobody takes them on");
    // Longer than the silence that is allowed.
    let mut interval = tokio::time::interval(Duration::from_millis(500));
    for _ in 0..5 {
        interval.tick().await;
        scene.witness.works(gate).await;
    }
    assert!(gate.kicker.is_connected(&scene.car.vehicle));
    assert!(!reading.is_finished());
    IS_STUCK.store(false, Ordering::SeqCst);
    drop((reading.await.unwrap(), writing.await.unwrap()));
    gate.told.until("the last", &scene.car.vehicle, |message| has(message, count.into())).await;
    let told = gate.told.of(&scene.car.vehicle, |message| match message {
        FromCar::Reports(reports) => Some(reports.iter().map(|report| report.seq).collect::<Vec<_>>()),
        _ => None,
    });
    assert!(told.concat().into_iter().eq(1..=u64::from(count)), "each once and in order");
    assert_eq!((gate.metrics.log_gaps.get(), gate.metrics.reports_dropped.get()), (0, 0));
}

#[tokio::test]
async fn what_a_log_loses_is_counted_and_the_credit_mends() {
    static IS_STUCK: AtomicBool = AtomicBool::new(true);
    fn wait(vehicle: &VehicleId, message: &FromCar) -> Option<TellError> {
        while vehicle.as_str() == "X" && matches!(message, FromCar::Reports(_)) && IS_STUCK.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None
    }
    let mut scene = scene(|config| {
        config.stall_ms = 60_000;
        config.ingest_segment_kib = 16;
        config.ingest_segments = 2;
    })
    .await;
    scene.gate.told.refuse(Some(wait));
    let shard = scene.slot.shard();
    let topic = Bytes::from_static(b"from/v1/X/telemetry");
    let count = 40_000;
    // As a publisher would that does not look at the credit.
    for seq in 0..count {
        shard.publish_up(&mut std::iter::once((topic.clone(), Bytes::from(telemetry(seq))))).unwrap();
    }
    assert!(!shard.up.is_open());
    until("the router has taken all", || shard.link().buffer().is_empty()).await;
    IS_STUCK.store(false, Ordering::SeqCst);
    until("the credit is there again", || shard.up.is_open() && shard.up.on_its_way() < 1_000).await;
    let vehicle = "X".parse().unwrap();
    scene.gate.told.until("the last", &vehicle, |message| has(message, count - 1)).await;
    let told = scene.gate.told.of(&vehicle, |message| match message {
        FromCar::Reports(reports) => Some(reports.len() as u64),
        _ => None,
    });
    let gaps = scene.gate.metrics.log_gaps.get();
    assert!(gaps > 0);
    // Heartbeats share the log, and a few of them may be among the lost.
    let missing = count - told.iter().sum::<u64>();
    assert!((missing..missing + 50).contains(&gaps), "{missing} are missing, {gaps} were counted");
    scene.witness.works(&scene.gate).await;
}

#[tokio::test]
async fn a_shard_lost_again_and_again_always_comes_back() {
    let mut scene = scene(|_| {}).await;
    for round in 1..=5 {
        let mut raw = Raw::subscribed(&scene.gate, &scene.car).await;
        send(&mut scene.slot.shard().link(), Bytes::from_static("é".as_bytes()), Bytes::from_static(b"x"));
        assert_eq!(raw.ended().await, Vec::<Packet>::new());
        until("it is replaced", || scene.gate.metrics.shards_replaced.get() == round && !scene.slot.shard().is_lost())
            .await;
    }
    scene.witness.works(&scene.gate).await;
    let mut raw = Raw::subscribed(&scene.gate, &scene.car).await;
    report(&scene.gate, &scene.car, &mut raw, 9).await;
    let (ups, downs) =
        (scene.gate.told.of(&scene.car.vehicle, epoch_up), scene.gate.told.of(&scene.car.vehicle, epoch_down));
    assert_eq!(ups[..5], downs[..]);
}
