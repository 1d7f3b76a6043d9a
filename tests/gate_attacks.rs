//! What was done to rumqttd's own listener and broke it, done to the gate - each time another car's session must keep
//! working. Each test says which effect the attack had there.

mod gate_harness;

use std::time::Duration;

use cardea::domain::command::Order;
use cardea::mqtt::Reason;
use gate_harness::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A gate with a witness, and an enrolled car that will misbehave.
async fn scene(adjust: impl FnOnce(&mut cardea::config::Mqtt)) -> (Gate, Witness, Enrolled) {
    let gate = start_gate(adjust);
    let witness = Witness::new(&gate).await;
    let evil = gate.enroll("EVIL-1");
    (gate, witness, evil)
}

/// Connects, sends, and returns what was answered up to the end of the connection.
async fn provoke(gate: &Gate, evil: &Enrolled, bytes: &[u8]) -> Vec<Packet> {
    let mut raw = Raw::connect(gate, evil).await;
    raw.send(bytes).await;
    raw.ended().await
}

/// Sends a first packet and returns the answer up to the end of the connection.
async fn knock(gate: &Gate, evil: &Enrolled, bytes: &[u8]) -> Vec<Packet> {
    let mut raw = Raw::tls(gate, evil).await.expect("the certificate is good");
    raw.send(bytes).await;
    raw.ended().await
}

fn refused(code: u8) -> [Packet; 1] {
    [Packet { first: 0x20, body: vec![0, code] }]
}

/// There: the router thread panics, and the broker is dead.
#[tokio::test]
async fn a_topic_that_is_not_ascii_ends_its_own_session_only() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    for (count, topic) in ["é/x", "ü", "v1/ÉVIL-1/telemetry", "日本"].iter().enumerate() {
        assert!(provoke(&gate, &evil, &publish_packet(topic.as_bytes(), Some(1), b"{}")).await.is_empty());
        gate.counted(Reason::ForeignTopic, count as u64 + 1).await;
    }
    assert!(provoke(&gate, &evil, &publish_packet(&[0xff, 0xfe], None, b"{}")).await.is_empty());
    witness.works(&gate).await;
}

/// There: wills reach the router unchecked, and are wrong on a takeover.
#[tokio::test]
async fn a_will_is_refused_at_connect() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    for topic in ["é", "v1/EVIL-1/event", "v1/WITNESS-1/command"] {
        let payload = [text(b"EVIL-1"), text(topic.as_bytes()), text(b"boo")].concat();
        assert_eq!(knock(&gate, &evil, &connect_with(b"MQTT", 4, 0b0010_0110, 60, &payload)).await, refused(5));
    }
    gate.counted(Reason::Will, 3).await;
    assert!(gate.told.of(&evil.vehicle, epoch_up).is_empty());
    witness.works(&gate).await;
}

/// There: a client id with / + # $, sent twice, poisons a lock; nobody can connect again.
#[tokio::test]
async fn a_client_id_must_be_the_certificates_vehicle() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    for id in ["a/b", "a/b", "+", "#", "$SYS", "", "EVIL-2", "WITNESS-1", "EVIL-1/2", "evil-1", "É"] {
        assert_eq!(knock(&gate, &evil, &connect_packet(id, 60)).await, refused(2), "{id}");
    }
    gate.counted(Reason::ForeignClientId, 11).await;
    witness.works(&gate).await;
    Raw::connect(&gate, &evil).await;
}

/// There: one client too many poisons a lock; nobody can connect again.
#[tokio::test]
async fn a_session_too_many_is_told_to_come_back_later() {
    let (gate, mut witness, evil) = scene(|config| config.max_sessions = 2).await;
    let second = Raw::connect(&gate, &evil).await;
    let third = gate.enroll("EVIL-3");
    assert_eq!(knock(&gate, &third, &connect_packet("EVIL-3", 60)).await, refused(3));
    gate.counted(Reason::SessionsFull, 1).await;
    // A takeover is no session more.
    let mut again = Raw::connect(&gate, &evil).await;
    drop(second);
    again.send(&[0xe0, 0]).await;
    again.ended().await;
    gate.link_down(&evil.vehicle).await;
    Raw::connect(&gate, &third).await;
    witness.works(&gate).await;
}

/// There: a persistent `$share` subscription and a disconnect with one unacknowledged message panic the router.
#[tokio::test]
async fn shared_wildcard_and_foreign_filters_are_refused_each_for_itself() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let mut raw = Raw::tls(&gate, &evil).await.unwrap();
    // Not a clean session: accepted, but nothing is kept.
    raw.send(&connect_with(b"MQTT", 4, 0, 60, &text(b"EVIL-1"))).await;
    assert_eq!(raw.packet().await, Some(Packet { first: 0x20, body: vec![0, 0] }));
    let filters = [
        ("$share/g/v1/EVIL-1/command", 1),
        ("v1/+/command", 1),
        ("#", 0),
        ("v1/WITNESS-1/command", 1),
        ("v1/EVIL-1/command", 2),
        ("v1/EVIL-1/telemetry", 1),
        ("$SYS/#", 0),
        ("é", 0),
    ];
    raw.send(&subscribe_packet(7, &filters)).await;
    let codes = vec![0, 7, 0x80, 0x80, 0x80, 0x80, 1, 0x80, 0x80, 0x80];
    assert_eq!(raw.packet().await, Some(Packet { first: 0x90, body: codes }));
    gate.counted(Reason::ForeignFilter, 7).await;
    // It leaves with its own command unacknowledged.
    gate.send(&evil.vehicle, Order::Lock);
    assert_eq!(raw.packet().await.unwrap().first, 0x32);
    drop(raw);
    gate.link_down(&evil.vehicle).await;
    witness.works(&gate).await;
    let many: Vec<_> = std::iter::repeat_n(("v1/EVIL-1/command", 1), 9).collect();
    assert!(provoke(&gate, &evil, &subscribe_packet(8, &many)).await.is_empty());
    witness.works(&gate).await;
}

/// There: any MQTT 5 publish with properties, and malformed v5 packets, panic tasks and codec.
#[tokio::test]
async fn only_mqtt_3_1_1_is_spoken() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let v5 = [&[0][..], &text(b"EVIL-1")].concat();
    for (protocol, level, payload) in
        [("MQTT", 5, &v5), ("MQIsdp", 3, &text(b"EVIL-1")), ("MQTT", 0, &v5), ("HTTP", 4, &v5)]
    {
        assert_eq!(knock(&gate, &evil, &connect_with(protocol.as_bytes(), level, 2, 60, payload)).await, refused(1));
    }
    gate.counted(Reason::ProtocolVersion, 4).await;
    // Properties mean nothing here: they are payload, which then is no JSON of ours.
    let mut raw = Raw::connect(&gate, &evil).await;
    raw.send(&publish_packet(b"v1/EVIL-1/telemetry", Some(3), b"\x05\x26\x00\x01a\x00\x00{}")).await;
    assert_eq!(raw.packet().await, Some(puback(3)));
    gate.counted(Reason::BadTelemetry, 1).await;
    witness.works(&gate).await;
}

#[tokio::test]
async fn packets_that_break_the_grammar_end_their_session_only() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let cases: [(&[u8], Reason); 13] = [
        (&[0x30, 0], Reason::Malformed),
        (&[0x32, 5, 0, 1, b'a', 0, 0], Reason::Malformed),
        (&[0x36, 5, 0, 1, b'a', 0, 1], Reason::Malformed),
        (&[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f], Reason::Malformed),
        (&[0x30, 4, 0xff, 0xff, b'a', b'b'], Reason::Malformed),
        (&[0x82, 3, 0, 1, 0], Reason::Malformed),
        (&[0x80, 6, 0, 1, 0, 1, b'a', 0], Reason::Malformed),
        (&[0xc0, 1, 0], Reason::Malformed),
        (&[0x00, 0], Reason::Malformed),
        (&[0xf0, 0], Reason::Malformed),
        (&[0x20, 2, 0, 0], Reason::UnexpectedPacket),
        (&[0xd0, 0], Reason::UnexpectedPacket),
        (&[0x62, 2, 0, 1], Reason::UnexpectedPacket),
    ];
    for (bytes, reason) in cases {
        let before = gate.metrics.counted(reason);
        assert!(provoke(&gate, &evil, bytes).await.is_empty(), "{bytes:x?}");
        gate.counted(reason, before + 1).await;
    }
    assert!(provoke(&gate, &evil, &connect_packet("EVIL-1", 60)).await.is_empty(), "a second CONNECT");
    witness.works(&gate).await;
}

#[tokio::test]
async fn a_first_packet_that_is_no_proper_connect_ends_the_connection() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let publish = publish_packet(b"v1/EVIL-1/telemetry", None, b"{}");
    let reserved = connect_with(b"MQTT", 4, 3, 60, &text(b"EVIL-1"));
    let huge = connect_with(b"MQTT", 4, 2, 60, &vec![0; 100_000]);
    let short: &[u8] = &[0x10, 4, 0, 4, b'M', b'Q'];
    for bytes in [
        &publish[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xc0, 0],
        &reserved,
        &huge,
        short,
        &[0x10, 0],
        &[0x10, 0xff, 0xff, 0xff, 0xff],
    ] {
        assert!(knock(&gate, &evil, bytes).await.is_empty(), "{:x?}", &bytes[..bytes.len().min(20)]);
    }
    gate.counted(Reason::NotConnect, 3).await;
    gate.counted(Reason::TooLong, 1).await;
    gate.counted(Reason::Malformed, 4).await;
    assert!(gate.told.of(&evil.vehicle, epoch_up).is_empty());
    witness.works(&gate).await;
}

/// There: one idle socket before the handshake blocks every new connection.
#[tokio::test]
async fn sockets_that_say_nothing_block_nobody() {
    let (gate, mut witness, evil) = scene(|config| {
        config.tls_timeout_ms = 1_000;
        config.connect_timeout_ms = 1_000;
        config.max_handshakes = 4;
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(gate.addr).await.unwrap());
    }
    // As many as there are places stop in the middle of the handshake.
    for _ in 0..4 {
        let mut half = TcpStream::connect(gate.addr).await.unwrap();
        half.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        idle.push(half);
    }
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(Raw::tls(&gate, &evil).await.unwrap());
    }
    witness.works(&gate).await;
    Raw::connect(&gate, &gate.enroll("HONEST-1")).await;
    gate.counted(Reason::TlsTimeout, 104).await;
    gate.counted(Reason::ConnectTimeout, 4).await;
    for mut socket in idle {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    }
    for mut raw in silent {
        assert!(raw.ended().await.is_empty());
    }
    witness.works(&gate).await;
}

#[tokio::test]
async fn a_connect_in_drops_does_not_outlive_its_deadline() {
    let (gate, mut witness, evil) = scene(|config| config.connect_timeout_ms = 500).await;
    let mut raw = Raw::tls(&gate, &evil).await.unwrap();
    let packet = connect_packet("EVIL-1", 60);
    let mut drops = tokio::time::interval(Duration::from_millis(40));
    for byte in &packet[..packet.len() - 1] {
        drops.tick().await;
        raw.send(&[*byte]).await;
    }
    assert!(raw.ended().await.is_empty());
    gate.counted(Reason::ConnectTimeout, 1).await;
    witness.works(&gate).await;
}

#[tokio::test]
async fn sockets_beyond_the_limit_are_closed_at_once() {
    let (gate, mut witness, _) = scene(|config| {
        config.max_sessions = 4;
        config.max_handshakes = 4;
    })
    .await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(TcpStream::connect(gate.addr).await.unwrap());
    }
    gate.counted(Reason::SocketsFull, 13).await;
    witness.works(&gate).await;
}

#[tokio::test]
async fn what_is_not_tls_or_not_trusted_gets_nowhere() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let mut plain = TcpStream::connect(gate.addr).await.unwrap();
    plain.write_all(&connect_packet("EVIL-1", 60)).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert_ne!(answer.first(), Some(&0x20), "no CONNACK without TLS");
    gate.counted(Reason::TlsFailed, 1).await;

    let (cert, key) = Ca::new("fleet").issue("EVIL-1", 9, ExtendedKeyUsagePurpose::ClientAuth);
    let foreign = Enrolled { cert, key, ..evil.clone() };
    let (cert, key) = gate.ca.issue("EVIL-1", 10, ExtendedKeyUsagePurpose::ServerAuth);
    let wrong_use = Enrolled { cert, key, ..evil.clone() };
    for (count, enrolled) in [foreign, wrong_use].iter().enumerate() {
        if let Ok(mut raw) = Raw::tls(&gate, enrolled).await {
            raw.send(&connect_packet("EVIL-1", 60)).await;
            assert!(raw.ended().await.is_empty());
        }
        // The foreign CA has our name, so that its signature is what is wrong.
        gate.counted(Reason::BadCertificate, count as u64 + 1).await;
    }
    for (count, name) in ["not a vehicle", "../EVIL", "é"].iter().enumerate() {
        let nobody = gate.enroll_as(name, 20);
        assert!(knock(&gate, &nobody, &connect_packet(name, 60)).await.is_empty());
        gate.counted(Reason::BadIdentity, count as u64 + 1).await;
    }
    witness.works(&gate).await;
}

/// There: no topic ACL at all.
#[tokio::test]
async fn a_car_speaks_on_its_own_topics_only() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let topics = [
        "v1/WITNESS-1/telemetry",
        "v1/WITNESS-1/command",
        "v1/EVIL-1/command",
        "v1/EVIL-1/other",
        "v1/EVIL-1/telemetry/",
        "v1/EVIL-1/telemetry/x",
        "from/v1/WITNESS-1/telemetry",
        "from/beat",
        "v1/_/command",
        "$SYS/broker",
        "v1/+/telemetry",
        "#",
        "",
    ];
    for (count, topic) in topics.iter().enumerate() {
        let good = publish_packet(b"v1/EVIL-1/telemetry", Some(1), &telemetry(count as u64));
        let bad = publish_packet(topic.as_bytes(), Some(2), &telemetry(999));
        // What came before the bad packet still counts, and is acknowledged.
        assert_eq!(provoke(&gate, &evil, &[good, bad].concat()).await, [puback(1)], "{topic}");
        gate.counted(Reason::ForeignTopic, count as u64 + 1).await;
    }
    let is_stolen = |message: &cardea::actors::vehicle::FromCar| match message {
        cardea::actors::vehicle::FromCar::Reports(reports) => {
            reports.iter().any(|report| report.seq == 999).then_some(())
        }
        _ => None,
    };
    witness.works(&gate).await;
    assert!(gate.told.of(&"WITNESS-1".parse().unwrap(), is_stolen).is_empty());
}

/// There: retained messages without a bound, deleted by anybody's empty publish; QoS 2 without PUBREL grows for ever.
#[tokio::test]
async fn retain_qos_2_and_empty_or_huge_payloads_are_refused() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let topic = b"v1/EVIL-1/telemetry";
    let mut retained = publish_packet(topic, None, &telemetry(1));
    retained[0] |= 1;
    let mut exactly_once = publish_packet(topic, Some(1), &telemetry(1));
    exactly_once[0] = 0x34;
    let empty = publish_packet(topic, Some(1), b"");
    let long = publish_packet(topic, Some(1), &vec![b' '; 16 * 1024 + 1]);
    // Refused by its header alone: nobody waits for 256 MiB.
    let endless = [&[0x32, 0xff, 0xff, 0xff, 0x7f][..], &text(topic)].concat();
    let cases = [
        (retained, Reason::Retain),
        (exactly_once, Reason::Qos2),
        (empty, Reason::EmptyPayload),
        (long, Reason::TooLong),
        (endless, Reason::TooLong),
    ];
    for (bytes, reason) in cases {
        let before = gate.metrics.counted(reason);
        assert!(provoke(&gate, &evil, &bytes).await.is_empty());
        gate.counted(reason, before + 1).await;
        witness.works(&gate).await;
    }
    let mut raw = Raw::connect(&gate, &evil).await;
    raw.send(&publish_packet(topic, Some(1), &vec![b' '; 16 * 1024])).await;
    assert_eq!(raw.packet().await, Some(puback(1)), "the limit itself is fine");
}

/// There: a writer that is stuck never times out.
#[tokio::test]
async fn a_car_that_does_not_read_is_given_up() {
    let (gate, mut witness, evil) = scene(|config| {
        config.write_timeout_ms = 500;
        config.rate_per_s = 1_000_000;
        config.rate_burst = 1_000_000;
    })
    .await;
    let raw = Raw::connect(&gate, &evil).await;
    let (_unread, mut write) = tokio::io::split(raw.io);
    // Every ping wants an answer; none is read.
    let pings = [0xc0, 0].repeat(8_000);
    let pinging = async { while write.write_all(&pings).await.is_ok() {} };
    tokio::select! {
        () = pinging => {}
        () = gate.counted(Reason::SlowReader, 1) => {}
    }
    gate.link_down(&evil.vehicle).await;
    witness.works(&gate).await;
}

#[tokio::test]
async fn a_flood_is_slowed_down_and_then_ended() {
    let (gate, mut witness, evil) = scene(|config| {
        config.rate_per_s = 20;
        config.rate_burst = 20;
    })
    .await;
    let raw = Raw::connect(&gate, &evil).await;
    let (mut read, mut write) = tokio::io::split(raw.io);
    let packets: Vec<u8> =
        (0..100).flat_map(|seq| publish_packet(b"v1/EVIL-1/telemetry", None, &telemetry(seq))).collect();
    let flood = async {
        let mut answer = [0; 1024];
        let reading = async { while read.read(&mut answer).await.is_ok_and(|count| count > 0) {} };
        let writing = async { while write.write_all(&packets).await.is_ok() {} };
        tokio::join!(reading, writing)
    };
    let watching = async {
        until("it is slowed down", || gate.metrics.throttled.get() > 3).await;
        witness.works(&gate).await;
        let told = gate.told.of(&evil.vehicle, |message| match message {
            cardea::actors::vehicle::FromCar::Reports(reports) => Some(reports.len()),
            _ => None,
        });
        // A read may hold a few packets more than the burst allows, which are then paid for.
        assert!(told.iter().sum::<usize>() < 400, "{told:?}");
        let mut looks = tokio::time::interval(Duration::from_millis(400));
        for _ in 0..200 {
            looks.tick().await;
            witness.works(&gate).await;
            if gate.metrics.counted(Reason::Flood) > 0 {
                return;
            }
        }
        panic!("the flood goes on");
    };
    tokio::select! {
        _ = flood => {}
        () = watching => {}
    }
    gate.counted(Reason::Flood, 1).await;
    gate.link_down(&evil.vehicle).await;
    witness.works(&gate).await;
}

#[tokio::test]
async fn pubacks_nobody_asked_for_are_nothing() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let mut raw = Raw::subscribed(&gate, &evil).await;
    for pkid in [0_u16, 1, 77, 65_535] {
        raw.send(&framed(0x40, &pkid.to_be_bytes())).await;
    }
    let sent = gate.send(&evil.vehicle, Order::Lock);
    let (pkid, id) = command(&raw.packet().await.unwrap());
    assert_eq!(id, Some(sent));
    // Twice, and the second time it is somebody else's.
    raw.send(&framed(0x40, &pkid.to_be_bytes())).await;
    raw.send(&framed(0x40, &pkid.to_be_bytes())).await;
    until("delivered once", || gate.metrics.commands_delivered.get() >= 2).await;
    witness.works(&gate).await;
}

/// Seeded noise, before and after CONNECT, whole and damaged packets: nothing but the session's end may follow.
#[tokio::test]
async fn noise_harms_nobody() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let seed = [7; 32];
    println!("seed {seed:?}");
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut random = |bound: usize| {
        use proptest::prelude::Rng;
        rng.next_u32() as usize % bound
    };
    let good = [
        publish_packet(b"v1/EVIL-1/telemetry", Some(1), &telemetry(1)),
        subscribe_packet(1, &[("v1/EVIL-1/command", 1)]),
        connect_packet("EVIL-1", 60),
        vec![0xc0, 0],
    ];
    for round in 0..150 {
        let mut bytes: Vec<u8> = match round % 3 {
            0 => (0..random(200)).map(|_| random(256) as u8).collect(),
            _ => good[random(good.len())].clone(),
        };
        for _ in 0..random(4) {
            if !bytes.is_empty() {
                let place = random(bytes.len());
                bytes[place] = random(256) as u8;
            }
        }
        let mut raw =
            if round % 2 == 0 { Raw::tls(&gate, &evil).await.unwrap() } else { Raw::connect(&gate, &evil).await };
        raw.send(&bytes).await;
        let _ = raw.io.shutdown().await;
        raw.ended().await;
    }
    until("all are gone", || gate.metrics.sessions.get() == 1 && gate.metrics.handshakes.get() == 0).await;
    witness.works(&gate).await;
    assert_eq!((gate.metrics.shards_replaced.get(), gate.metrics.log_gaps.get()), (0, 0));
}

#[tokio::test]
async fn two_sessions_that_fight_for_one_identity_disturb_nobody_else() {
    let (gate, mut witness, evil) = scene(|_| {}).await;
    let fight = |_| async {
        for _ in 0..20 {
            drop(Raw::subscribed(&gate, &evil).await);
        }
    };
    // Either may be thrown out before its SUBACK, so only the gate's own state is judged.
    let brawl = async { tokio::join!(tokio::time::timeout(PATIENCE, fight(1)), async { witness.works(&gate).await }) };
    let _ = brawl.await.0;
    until("the fighters are gone", || gate.metrics.sessions.get() == 1).await;
    let (ups, downs) = (gate.told.of(&evil.vehicle, epoch_up), gate.told.of(&evil.vehicle, epoch_down));
    assert!(ups.is_sorted() && downs.iter().all(|epoch| ups.contains(epoch)));
    assert_eq!(ups.last(), downs.last());
    witness.works(&gate).await;
}
