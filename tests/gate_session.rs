//! What a car can rely on at the gate: presence, delivery, takeover, the window, deadlines.

mod gate_harness;

use std::time::Duration;

use cardea::actors::vehicle::{FromCar, TellError};
use cardea::domain::command::{FactKind, Order};
use cardea::domain::{CommandId, VehicleId};
use cardea::mqtt::Reason;
use gate_harness::*;
use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, QoS, Transport};

fn rumqttc_client(gate: &Gate, enrolled: &Enrolled) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(enrolled.vehicle.as_str(), "localhost", gate.addr.port());
    options.set_keep_alive(Duration::from_secs(30));
    options.set_transport(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(client_tls(enrolled))));
    AsyncClient::new(options, 100)
}

#[tokio::test]
async fn a_rumqttc_car_reports_and_obeys() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let (client, mut events) = rumqttc_client(&gate, &car);
    client.subscribe("v1/CAR-1/command", QoS::AtLeastOnce).await.unwrap();
    client.publish("v1/CAR-1/telemetry", QoS::AtLeastOnce, false, telemetry(1)).await.unwrap();
    let ignition = r#"{"seq":7,"at":"2026-11-21T22:36:46.000Z","type":"ignition","on":true}"#;
    client.publish("v1/CAR-1/event", QoS::AtLeastOnce, false, ignition).await.unwrap();
    let received = tokio::spawn(async move {
        loop {
            if let Event::Incoming(Incoming::Publish(publish)) = events.poll().await.unwrap() {
                // Its PUBACK goes out with the next poll.
                tokio::spawn(async move { while events.poll().await.is_ok() {} });
                return publish;
            }
        }
    });
    gate.link_up(&car.vehicle).await;
    let report = |message: &FromCar| matches!(message, FromCar::Reports(reports) if reports[0].seq == 1).then_some(());
    gate.told.until("the report", &car.vehicle, report).await;
    let fact = |message: &FromCar| match message {
        FromCar::Fact(fact) => (fact.kind == FactKind::Ignition { on: true }).then_some(()),
        _ => None,
    };
    gate.told.until("the fact", &car.vehicle, fact).await;
    let sent = gate.send(&car.vehicle, Order::Unlock);
    let publish = received.await.unwrap();
    assert_eq!(publish.topic, "v1/CAR-1/command");
    assert_eq!(cardea::mqtt::payload::command_id_of(&publish.payload), Some(sent));
    gate.told.until("Delivered", &car.vehicle, |message| delivered(message).filter(|id| *id == sent)).await;
}

fn delivered(message: &FromCar) -> Option<CommandId> {
    match message {
        FromCar::Delivered { command_id } => Some(*command_id),
        _ => None,
    }
}

fn reported(message: &FromCar) -> Option<Vec<u64>> {
    match message {
        FromCar::Reports(reports) => Some(reports.iter().map(|report| report.seq).collect()),
        _ => None,
    }
}

#[tokio::test]
async fn commands_wait_for_the_subscription_and_keep_their_order() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut raw = Raw::connect(&gate, &car).await;
    gate.link_up(&car.vehicle).await;
    let sent: Vec<_> = (0..5).map(|_| gate.send(&car.vehicle, Order::Lock)).collect();
    // The answer to a ping shows that no command was written before it.
    until("the commands are handed over", || gate.metrics.commands.get() == 5).await;
    raw.send(&[0xc0, 0]).await;
    assert_eq!(raw.packet().await.unwrap().first, 0xd0);
    raw.send(&subscribe_packet(1, &[("v1/CAR-1/command", 1)])).await;
    assert_eq!(raw.packet().await.unwrap().first, 0x90);
    for id in sent {
        assert_eq!(command(&raw.packet().await.unwrap()).1, Some(id));
    }
}

#[tokio::test]
async fn at_most_sixteen_commands_are_in_flight_and_a_full_window_can_be_kicked() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut raw = Raw::subscribed(&gate, &car).await;
    let sent: Vec<_> = (0..20).map(|_| gate.send(&car.vehicle, Order::Lock)).collect();
    let mut pkids = Vec::new();
    for id in &sent[..16] {
        let (pkid, got) = command(&raw.packet().await.unwrap());
        assert_eq!(got, Some(*id));
        pkids.push(pkid);
    }
    until("all are handed over", || gate.metrics.commands.get() == 20).await;
    raw.send(&[0xc0, 0]).await;
    assert_eq!(raw.packet().await.unwrap().first, 0xd0, "the window is full");
    // Out of order is fine.
    raw.send(&framed(0x40, &pkids[7].to_be_bytes())).await;
    assert_eq!(command(&raw.packet().await.unwrap()).1, Some(sent[16]));
    gate.told.until("Delivered", &car.vehicle, |message| delivered(message).filter(|id| *id == sent[7])).await;
    assert!(gate.kicker.kick(&car.vehicle, Reason::Kicked));
    assert!(raw.ended().await.is_empty());
    gate.link_down(&car.vehicle).await;
}

#[tokio::test]
async fn more_commands_than_the_mailbox_holds_end_the_session() {
    let gate = start_gate(|config| config.mailbox_max = 8);
    let car = gate.enroll("CAR-1");
    let mut raw = Raw::connect(&gate, &car).await;
    for _ in 0..9 {
        gate.send(&car.vehicle, Order::Lock);
    }
    assert!(raw.ended().await.is_empty());
    gate.counted(Reason::MailboxFull, 1).await;
    gate.link_down(&car.vehicle).await;
}

#[tokio::test]
async fn a_takeover_is_one_link_up_with_a_higher_epoch() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut old = Raw::subscribed(&gate, &car).await;
    let mut new = Raw::subscribed(&gate, &car).await;
    assert!(old.ended().await.is_empty());
    gate.counted(Reason::Takeover, 1).await;
    let sent = gate.send(&car.vehicle, Order::Lock);
    assert_eq!(command(&new.packet().await.unwrap()).1, Some(sent));
    let epochs = gate.told.of(&car.vehicle, epoch_up);
    assert!(epochs.len() == 2 && epochs[0] < epochs[1], "{epochs:?}");
    assert!(gate.told.of(&car.vehicle, epoch_down).is_empty());
    drop(new);
    assert_eq!(gate.link_down(&car.vehicle).await, epochs[1]);
    assert_eq!(gate.metrics.sessions.get(), 0);
}

/// As `mosquitto_pub -i CAR` does beside a `mosquitto_sub -i CAR`, which then comes back by itself.
#[tokio::test]
async fn a_short_publisher_takes_over_and_the_subscriber_resumes() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut subscriber = Raw::subscribed(&gate, &car).await;
    let mut publisher = Raw::connect(&gate, &car).await;
    publisher.send(&publish_packet(b"v1/CAR-1/telemetry", Some(1), &telemetry(1))).await;
    assert_eq!(publisher.packet().await, Some(puback(1)));
    publisher.send(&[0xe0, 0]).await;
    assert!(publisher.ended().await.is_empty());
    assert!(subscriber.ended().await.is_empty());
    gate.counted(Reason::Disconnect, 1).await;
    let mut subscriber = Raw::subscribed(&gate, &car).await;
    let sent = gate.send(&car.vehicle, Order::Lock);
    assert_eq!(command(&subscriber.packet().await.unwrap()).1, Some(sent));
    assert_eq!(gate.told.of(&car.vehicle, reported), [vec![1]]);
}

#[tokio::test]
async fn qos_0_subscribers_get_commands_without_an_id() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut raw = Raw::connect(&gate, &car).await;
    raw.send(&subscribe_packet(9, &[("v1/CAR-1/command", 0)])).await;
    assert_eq!(raw.packet().await, Some(Packet { first: 0x90, body: vec![0, 9, 0] }));
    for _ in 0..40 {
        gate.send(&car.vehicle, Order::Lock);
        assert_eq!(raw.packet().await.unwrap().first, 0x30);
    }
    raw.send(&framed(0xa2, &[&[0, 5][..], &text(b"v1/CAR-1/command")].concat())).await;
    assert_eq!(raw.packet().await, Some(Packet { first: 0xb0, body: vec![0, 5] }));
    gate.send(&car.vehicle, Order::Lock);
    until("it is handed over", || gate.metrics.commands.get() == 41).await;
    raw.send(&[0xc0, 0]).await;
    assert_eq!(raw.packet().await.unwrap().first, 0xd0, "unsubscribed");
}

#[tokio::test]
async fn what_comes_with_the_connect_is_taken() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut raw = Raw::tls(&gate, &car).await.unwrap();
    let publish = publish_packet(b"v1/CAR-1/telemetry", Some(5), &telemetry(3));
    raw.send(&[connect_packet("CAR-1", 60), publish].concat()).await;
    assert_eq!(raw.packet().await.unwrap().first, 0x20);
    assert_eq!(raw.packet().await, Some(puback(5)));
    gate.told.until("the report", &car.vehicle, reported).await;
}

#[tokio::test]
async fn packets_may_come_in_any_pieces() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut raw = Raw::connect(&gate, &car).await;
    let bytes: Vec<u8> =
        (1..=3).flat_map(|seq| publish_packet(b"v1/CAR-1/telemetry", Some(seq), &telemetry(seq.into()))).collect();
    for byte in bytes {
        raw.send(&[byte]).await;
    }
    for pkid in 1..=3 {
        assert_eq!(raw.packet().await, Some(puback(pkid)));
    }
    gate.told.until("the last", &car.vehicle, |message| reported(message).filter(|seqs| seqs.contains(&3))).await;
    assert_eq!(gate.told.of(&car.vehicle, reported).concat(), [1, 2, 3]);
}

#[tokio::test]
async fn silence_beyond_the_keep_alive_ends_a_session_even_while_it_is_written_to() {
    let gate = start_gate(|_| {});
    let (quiet, lively) = (gate.enroll("QUIET-1"), gate.enroll("LIVELY-1"));
    let mut sessions = Vec::new();
    for car in [&quiet, &lively] {
        let mut raw = Raw::tls(&gate, car).await.unwrap();
        raw.send(&connect_packet(car.vehicle.as_str(), 1)).await;
        raw.send(&subscribe_packet(1, &[(&format!("v1/{}/command", car.vehicle), 0)])).await;
        assert_eq!(raw.packet().await.unwrap().first, 0x20);
        assert_eq!(raw.packet().await.unwrap().first, 0x90);
        sessions.push(raw);
    }
    let mut lively_raw = sessions.pop().unwrap();
    let mut quiet_raw = sessions.pop().unwrap();
    // What the gate writes must not count as a sign of life of the car.
    let written = async {
        let mut turns = tokio::time::interval(Duration::from_millis(100));
        loop {
            turns.tick().await;
            gate.send(&quiet.vehicle, Order::Locate);
            lively_raw.send(&[0xc0, 0]).await;
            assert_eq!(lively_raw.packet().await.unwrap().first, 0xd0);
        }
    };
    tokio::select! {
        () = written => {}
        _ = quiet_raw.ended() => {}
    }
    gate.counted(Reason::Silent, 1).await;
    gate.link_down(&quiet.vehicle).await;
    assert!(gate.kicker.is_connected(&lively.vehicle));
}

#[tokio::test]
async fn a_session_the_fleet_has_no_room_for_is_refused_and_the_older_is_told_off() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let mut old = Raw::connect(&gate, &car).await;
    let epoch = gate.link_up(&car.vehicle).await;
    gate.told.refuse(Some(|_, message| epoch_up(message).map(|_| TellError::Full)));
    let mut raw = Raw::tls(&gate, &car).await.unwrap();
    raw.send(&connect_packet("CAR-1", 60)).await;
    assert_eq!(raw.ended().await, [Packet { first: 0x20, body: vec![0, 3] }]);
    old.ended().await;
    assert_eq!(gate.link_down(&car.vehicle).await, epoch);
    assert_eq!(gate.metrics.sessions.get(), 0);
}

#[tokio::test]
async fn a_link_down_that_found_no_room_is_told_again() {
    let gate = start_gate(|_| {});
    let car = gate.enroll("CAR-1");
    let raw = Raw::connect(&gate, &car).await;
    let epoch = gate.link_up(&car.vehicle).await;
    gate.told.refuse(Some(|_, message| epoch_down(message).map(|_| TellError::Full)));
    drop(raw);
    until("it is tried again", || gate.metrics.link_downs_retried.get() >= 2).await;
    gate.told.refuse(None);
    assert_eq!(gate.link_down(&car.vehicle).await, epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_every_session_and_says_so() {
    let mut gate = start_gate(|_| {});
    let cars: Vec<_> = (0..5).map(|n| gate.enroll(&format!("CAR-{n}"))).collect();
    let mut sessions = Vec::new();
    for car in &cars {
        sessions.push(Raw::connect(&gate, car).await);
    }
    tokio::task::block_in_place(|| gate.stop());
    for (raw, car) in sessions.iter_mut().zip(&cars) {
        assert!(raw.ended().await.is_empty());
        assert_eq!(gate.told.of(&car.vehicle, epoch_down).len(), 1);
    }
    assert_eq!(gate.metrics.counted(Reason::Shutdown), 5);
    let refused = tokio::net::TcpStream::connect(gate.addr).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn sessions_are_spread_over_the_shards_and_all_work() {
    let gate = start_gate(|config| config.shards = 3);
    let mut sessions = Vec::new();
    for n in 0..12 {
        let car = gate.enroll(&format!("CAR-{n}"));
        sessions.push((Raw::subscribed(&gate, &car).await, car));
    }
    for (raw, car) in &mut sessions {
        let vehicle: &VehicleId = &car.vehicle;
        let sent = gate.send(vehicle, Order::Lock);
        assert_eq!(command(&raw.packet().await.unwrap()).1, Some(sent));
        raw.send(&publish_packet(format!("v1/{vehicle}/telemetry").as_bytes(), None, &telemetry(1))).await;
        gate.told.until("the report", vehicle, reported).await;
    }
}
