//! The simulated car against a broker that is not ours.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod broker;

use std::time::Duration;

use broker::Broker;
use cardea::domain::command::{Ack, AckStatus, Fact, FactKind, Order, ToCar};
use cardea::domain::twin::Report;
use cardea::domain::{CommandId, Function, Timestamp, VehicleId};
use cardea::mqtt::payload;
use cardea::mqtt::topics::{self, Channel};
use cardea_simulator::car::{Car, CarHandle, CarOptions};
use cardea_simulator::replay;
use cardea_simulator::trace::{Format, FuelScale, Trace};
use cardea_simulator::unit::Act;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(20);

/// The gateway's side of the contract, as far as a test needs it.
struct Peer {
    client: AsyncClient,
    link: EventLoop,
    vehicle: VehicleId,
}

#[derive(Debug)]
enum Heard {
    Telemetry(Report),
    Event(Fact),
    Ack(Ack),
}

impl Peer {
    async fn listening(broker: &Broker, vehicle: &VehicleId) -> Self {
        let mut options = MqttOptions::new("gateway", &broker.address.host, broker.address.port);
        let tls = broker.credentials("gateway").tls_client(true).unwrap();
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls)));
        let (client, mut link) = AsyncClient::new(options, 64);
        for channel in [Channel::Telemetry, Channel::Event, Channel::Ack] {
            client.subscribe(channel.filter(), QoS::AtLeastOnce).await.unwrap();
        }
        let mut answered = 0;
        while answered < 3 {
            if let Event::Incoming(Packet::SubAck(_)) = link.poll().await.unwrap() {
                answered += 1;
            }
        }
        Self { client, link, vehicle: vehicle.clone() }
    }

    async fn send(&self, message: &ToCar) {
        let topic = Channel::Command.topic(&self.vehicle);
        self.client.publish(topic, QoS::AtLeastOnce, false, payload::encode_to_car(message)).await.unwrap();
    }

    async fn order(&self, number: u128, order: Order) -> CommandId {
        let command_id = CommandId(Uuid::from_u128(number));
        let now = cardea::clock::Clock::start().now();
        let expires_at = now.plus_ms(60_000);
        self.send(&ToCar::Command { command_id, order, issued_at: now, expires_at }).await;
        command_id
    }

    /// The next thing the car says for which `pick` has an answer.
    async fn hear<T>(&mut self, mut pick: impl FnMut(Heard) -> Option<T>) -> T {
        let heard = async {
            loop {
                let Event::Incoming(Packet::Publish(publish)) = self.link.poll().await.unwrap() else { continue };
                let (_, channel) = topics::parse(publish.topic.as_bytes()).expect("a topic of ours");
                let heard = match channel {
                    Channel::Telemetry => Heard::Telemetry(payload::decode_report(&publish.payload).unwrap()),
                    Channel::Event => Heard::Event(payload::decode_fact(&publish.payload).unwrap()),
                    Channel::Ack => Heard::Ack(payload::decode_ack(&publish.payload).unwrap()),
                    Channel::Command => continue,
                };
                if let Some(answer) = pick(heard) {
                    return answer;
                }
            }
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("the car says it in time")
    }

    async fn ack_of(&mut self, command_id: CommandId, status: AckStatus) -> Ack {
        self.hear(|heard| match heard {
            Heard::Ack(ack) if ack.command_id == command_id && ack.status == status => Some(ack),
            Heard::Ack(_) | Heard::Telemetry(_) | Heard::Event(_) => None,
        })
        .await
    }

    async fn fact(&mut self, mut is_it: impl FnMut(&Fact) -> bool) -> Fact {
        self.hear(|heard| match heard {
            Heard::Event(fact) if is_it(&fact) => Some(fact),
            Heard::Event(_) | Heard::Telemetry(_) | Heard::Ack(_) => None,
        })
        .await
    }
}

fn start_car(broker: &Broker, name: &str) -> CarHandle {
    let vehicle: VehicleId = name.parse().unwrap();
    let mut options = CarOptions::new(broker.credentials(name), broker.address.clone(), vehicle);
    options.telemetry_interval = Duration::from_millis(100);
    options.first_retry = Duration::from_millis(20);
    Car::start(options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_car_reports_boot_first_and_keeps_it_until_event_ack() {
    let Some(broker) = Broker::start().await else { return };
    let vehicle = "CAR-1".parse().unwrap();
    let mut peer = Peer::listening(&broker, &vehicle).await;
    let car = start_car(&broker, "CAR-1");
    let boot = peer.fact(|_| true).await;
    assert!(matches!(boot.kind, FactKind::Boot { .. }), "{boot:?}");
    let (first, second) = (
        peer.hear(|heard| if let Heard::Telemetry(report) = heard { Some(report) } else { None }).await,
        peer.hear(|heard| if let Heard::Telemetry(report) = heard { Some(report) } else { None }).await,
    );
    assert_eq!((first.boot, second.seq), (boot.boot, first.seq + 1));
    assert_eq!(car.state().unit.facts().len(), 1);
    peer.send(&ToCar::EventAck { boot: boot.boot, seq: boot.seq, at: None }).await;
    let facts = car.wait_facts_taken(DEADLINE);
    tokio::select! { taken = facts => taken.unwrap(), () = async { loop { peer.link.poll().await.unwrap(); } } => {} }
    car.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_delivered_twice_is_executed_once() {
    let Some(broker) = Broker::start().await else { return };
    let vehicle = "CAR-2".parse().unwrap();
    let mut peer = Peer::listening(&broker, &vehicle).await;
    let car = start_car(&broker, "CAR-2");
    car.wait_connected(DEADLINE).await.unwrap();
    let id = peer.order(1, Order::Unlock).await;
    peer.ack_of(id, AckStatus::Succeeded).await;
    peer.order(1, Order::Unlock).await;
    peer.ack_of(id, AckStatus::Succeeded).await;
    assert_eq!(car.executions(id), 1);
    assert!(!car.state().unit.world().is_locked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_without_a_link_is_told_when_it_is_back() {
    let Some(broker) = Broker::start().await else { return };
    let vehicle = "CAR-3".parse().unwrap();
    let mut peer = Peer::listening(&broker, &vehicle).await;
    let car = start_car(&broker, "CAR-3");
    car.wait_connected(DEADLINE).await.unwrap();
    car.set_driving(true).await.unwrap();
    let id = peer.order(1, Order::DisableFunction { function: Function::Drive }).await;
    peer.ack_of(id, AckStatus::PendingSafe).await;
    car.cut_link().await.unwrap();
    assert!(!car.state().link.is_connected);
    car.act(Act::Tamper("towed".into())).await.unwrap();
    car.ignition(false).await.unwrap();
    assert!(!car.state().unit.is_drive_enabled(), "the car performs it offline");
    car.restore_link().await.unwrap();
    peer.fact(|fact| fact.kind == FactKind::Tamper { what: "towed".into() }).await;
    let ack = peer.ack_of(id, AckStatus::Succeeded).await;
    assert!(ack.at > Timestamp(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_car_comes_back_after_its_broker_died() {
    let Some(mut broker) = Broker::start().await else { return };
    let car = start_car(&broker, "CAR-4");
    car.wait_connected(DEADLINE).await.unwrap();
    broker.kill();
    car.wait_disconnected(DEADLINE).await.unwrap();
    car.wait_for("refused", DEADLINE, |state| state.link.failures >= 3).await.unwrap();
    broker.restart().await;
    car.wait_connected(DEADLINE).await.unwrap();
    assert_eq!(car.state().link.connections, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_car_thrown_out_by_its_double_comes_back_with_patience() {
    let Some(broker) = Broker::start().await else { return };
    let car = start_car(&broker, "CAR-5");
    car.wait_connected(DEADLINE).await.unwrap();
    let double = start_car(&broker, "CAR-5");
    double.wait_connected(DEADLINE).await.unwrap();
    car.wait_for("thrown out", DEADLINE, |state| state.link.failures > 0).await.unwrap();
    double.stop().await.unwrap();
    car.wait_for("connected again", DEADLINE, |state| state.link.is_connected && state.link.connections > 1)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_drive_arrives_whole_and_its_facts_are_taken() {
    const RECORDING: &str = include_str!("../../tests/data/openxc-around-the-block-1hz.jsonl");
    let Some(broker) = Broker::start().await else { return };
    let vehicle: VehicleId = "CAR-6".parse().unwrap();
    let mut peer = Peer::listening(&broker, &vehicle).await;
    let trace = Trace::parse(RECORDING, Format::Auto, FuelScale::Auto).unwrap();
    let credentials = broker.credentials("CAR-6");
    let (address, car) = (broker.address.clone(), vehicle.clone());
    let player = tokio::spawn(async move { replay::play(&trace, &address, &credentials, &car, 0.0).await });
    let mut reports = 0;
    while reports < 98 {
        let acknowledge = peer
            .hear(|heard| match heard {
                Heard::Telemetry(report) => {
                    reports += 1;
                    assert_eq!(report.seq, reports);
                    Some(None)
                }
                Heard::Event(fact) => Some(Some(ToCar::EventAck { boot: fact.boot, seq: fact.seq, at: None })),
                Heard::Ack(_) => None,
            })
            .await;
        if let Some(message) = acknowledge {
            peer.send(&message).await;
        }
    }
    // The last answers go out while the player waits for them.
    let played = tokio::select! {
        played = player => played.unwrap().unwrap(),
        () = async { loop { peer.link.poll().await.unwrap(); } } => unreachable!("the link does not end"),
    };
    assert_eq!(played.reports, 98);
}
