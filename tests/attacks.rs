//! Every attack that broke rumqttd's own listener, done to the real program; after each, another car's session must
//! still work as it did: its telemetry arrives, a command reaches it, and it never had to connect again.
//! `gate_attacks` looks closer at each of them, with the gate's own counters.

mod gate_harness;
mod kit;

use cardea_simulator::car::CarHandle;
use gate_harness::{
    Enrolled, Packet, Raw, client_tls, connect_packet, connect_with, framed, publish_packet, subscribe_packet, text,
};
use kit::{Gateway, PATIENCE, car, until};
use serde_json::json;
use tokio::net::TcpStream;

/// The gateway, a car that minds its own business, and an enrolled one that will not.
struct Scene {
    gateway: Gateway,
    witness: CarHandle,
    evil: Enrolled,
}

const WITNESS: &str = "WITNESS-1";

impl Scene {
    async fn new(sets: &[&str]) -> Self {
        let gateway = Gateway::start_with(sets).await;
        let witness = car::connect(&gateway, WITNESS).await;
        let evil = enrolled(&gateway, "EVIL-1");
        Self { gateway, witness, evil }
    }

    async fn tls(&self) -> Raw {
        Raw::dial(self.gateway.mqtt, client_tls(&self.evil)).await.expect("the certificate is good")
    }

    async fn connected(&self) -> Raw {
        let mut raw = self.tls().await;
        raw.send(&connect_packet("EVIL-1", 60)).await;
        assert_eq!(raw.packet().await, Some(Packet { first: 0x20, body: vec![0, 0] }), "CONNACK");
        raw
    }

    /// What is answered to a first packet, up to the end of the connection.
    async fn knock(&self, bytes: &[u8]) -> Vec<Packet> {
        let mut raw = self.tls().await;
        raw.send(bytes).await;
        raw.ended().await
    }

    async fn provoke(&self, bytes: &[u8]) -> Vec<Packet> {
        let mut raw = self.connected().await;
        raw.send(bytes).await;
        raw.ended().await
    }

    /// The witness has its first session still, speaks, and obeys.
    async fn witness_works(&mut self) {
        let before = self.gateway.get(&format!("/v1/vehicles/{WITNESS}")).await.1["signals"].clone();
        until("the witness's telemetry arrives", async || {
            self.gateway.get(&format!("/v1/vehicles/{WITNESS}")).await.1["signals"] != before
        })
        .await;
        let path = format!("/v1/vehicles/{WITNESS}/commands?wait_ms=30000");
        let (status, command) = self.gateway.post(&path, json!({"type": "locate"})).await;
        assert_eq!((status, command["state"].as_str()), (200, Some("succeeded")), "{command}");
        assert_eq!(self.witness.state().link.connections, 1, "the witness was thrown out");
        assert!(self.gateway.has_ended().is_none(), "the gateway has ended");
        assert!(!self.gateway.log().contains("panic"), "something panicked");
    }
}

fn enrolled(gateway: &Gateway, vehicle: &str) -> Enrolled {
    let folder = gateway.enroll(vehicle);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("enrolled");
    let (ca, cert, key) = (read("ca.pem"), read("cert.pem"), read("key.pem"));
    Enrolled { vehicle: vehicle.parse().expect("an id"), ca, cert, key }
}

fn refused(code: u8) -> [Packet; 1] {
    [Packet { first: 0x20, body: vec![0, code] }]
}

/// There: the router thread panics, and the broker is dead.
#[tokio::test(flavor = "multi_thread")]
async fn topics_and_wills_that_are_not_ascii() {
    let mut scene = Scene::new(&[]).await;
    for topic in ["é/x", "日本", "v1/ÉVIL-1/telemetry"] {
        assert!(scene.provoke(&publish_packet(topic.as_bytes(), Some(1), b"{}")).await.is_empty());
        let will = [text(b"EVIL-1"), text(topic.as_bytes()), text(b"boo")].concat();
        assert_eq!(scene.knock(&connect_with(b"MQTT", 4, 0b0010_0110, 60, &will)).await, refused(5));
    }
    scene.witness_works().await;
}

/// There: a mutex is poisoned, and nobody can connect again.
#[tokio::test(flavor = "multi_thread")]
async fn client_ids_with_wildcards_twice_and_sessions_beyond_the_limit() {
    let mut scene = Scene::new(&["mqtt.max_sessions=2"]).await;
    for id in ["a/b", "a/b", "a+b", "a#b", "$a", "$a"] {
        assert_eq!(scene.knock(&connect_packet(id, 60)).await, refused(2), "{id}");
    }
    let _second = scene.connected().await;
    let third = enrolled(&scene.gateway, "EVIL-3");
    for _ in 0..5 {
        let mut raw = Raw::dial(scene.gateway.mqtt, client_tls(&third)).await.expect("TLS");
        raw.send(&connect_packet("EVIL-3", 60)).await;
        assert_eq!(raw.ended().await, refused(3));
    }
    scene.witness_works().await;
}

/// There: the router panics.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_subscription_left_with_a_message_unacknowledged() {
    let mut scene = Scene::new(&[]).await;
    for _ in 0..3 {
        let mut raw = scene.tls().await;
        raw.send(&connect_with(b"MQTT", 4, 0, 60, &text(b"EVIL-1"))).await;
        assert_eq!(raw.packet().await, Some(Packet { first: 0x20, body: vec![0, 0] }));
        raw.send(&subscribe_packet(1, &[("$share/g/v1/EVIL-1/command", 1), ("v1/EVIL-1/command", 1)])).await;
        assert_eq!(raw.packet().await, Some(Packet { first: 0x90, body: vec![0, 1, 0x80, 1] }));
        until("it is known", async || scene.gateway.is_online("EVIL-1").await).await;
        let (status, _) = scene.gateway.post("/v1/vehicles/EVIL-1/commands", json!({"type": "locate"})).await;
        assert_eq!(status, 202);
        assert!(raw.packet().await.is_some(), "the command came and is not acknowledged");
    }
    scene.witness_works().await;
}

/// There: codec and tasks panic.
#[tokio::test(flavor = "multi_thread")]
async fn mqtt_5_and_malformed_frames() {
    let mut scene = Scene::new(&[]).await;
    let v5 = [&[0u8][..], &text(b"EVIL-1")].concat();
    assert_eq!(scene.knock(&connect_with(b"MQTT", 5, 2, 60, &v5)).await, refused(1));
    let malformed = [
        vec![0x32, 0xff, 0xff, 0xff, 0xff, 0x7f],
        framed(0x32, &[0, 200, b'v']),
        framed(0x82, &[0, 1]),
        framed(0x00, b""),
        framed(0xf0, b"x"),
        framed(0x10, &[]),
    ];
    for bytes in &malformed {
        assert!(scene.provoke(bytes).await.is_empty(), "{bytes:?}");
        assert!(scene.knock(bytes).await.is_empty(), "{bytes:?}");
    }
    scene.witness_works().await;
}

/// There: one idle socket before the handshake blocks every new connection.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_say_nothing() {
    let mut scene = Scene::new(&[]).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(scene.gateway.mqtt).await.expect("TCP"));
    }
    let _half_open = scene.tls().await;
    drop(scene.connected().await);
    let newcomer = car::connect(&scene.gateway, "HONEST-2").await;
    newcomer.stop().await.expect("it leaves");
    scene.witness_works().await;
}

/// There: no access rules, so any car hears and speaks for any other.
#[tokio::test(flavor = "multi_thread")]
async fn other_cars_topics() {
    let mut scene = Scene::new(&[]).await;
    let mut raw = scene.connected().await;
    for filter in ["#", "v1/+/command", "v1/WITNESS-1/command", "$SYS/#", "v1/EVIL-1/telemetry"] {
        raw.send(&subscribe_packet(7, &[(filter, 1)])).await;
        assert_eq!(raw.packet().await, Some(Packet { first: 0x90, body: vec![0, 7, 0x80] }), "{filter}");
    }
    for topic in ["v1/WITNESS-1/telemetry", "v1/WITNESS-1/ack", "v1/EVIL-1/command", "v1/EVIL-1/telemetry/x"] {
        assert!(scene.provoke(&publish_packet(topic.as_bytes(), Some(1), b"{}")).await.is_empty(), "{topic}");
    }
    scene.witness_works().await;
}

/// There: retained messages without bound, empty ones delete them; QoS 2 without PUBREL grows for ever.
#[tokio::test(flavor = "multi_thread")]
async fn retain_qos_2_and_empty_or_huge_payloads() {
    let mut scene = Scene::new(&[]).await;
    let own = [text(b"v1/EVIL-1/telemetry"), vec![0, 1]].concat();
    let qos_2 = framed(0x34, &[&own[..], b"{}"].concat());
    let retained = framed(0x33, &[&own[..], b"{}"].concat());
    let empty = publish_packet(b"v1/EVIL-1/telemetry", Some(1), b"");
    let huge = publish_packet(b"v1/EVIL-1/telemetry", Some(1), &[b' '; 17_000]);
    for bytes in [qos_2, retained, empty, huge] {
        assert!(scene.provoke(&bytes).await.is_empty());
    }
    scene.witness_works().await;
}

/// There: a half-open car looks online for ever, since the keep-alive restarts on outbound packets.
#[tokio::test(flavor = "multi_thread")]
async fn a_car_that_fell_silent_goes_offline_though_it_is_sent_to() {
    let mut scene = Scene::new(&[]).await;
    let mut raw = scene.tls().await;
    raw.send(&connect_packet("EVIL-1", 1)).await;
    assert_eq!(raw.packet().await, Some(Packet { first: 0x20, body: vec![0, 0] }));
    raw.send(&subscribe_packet(1, &[("v1/EVIL-1/command", 1)])).await;
    until("it is online", async || scene.gateway.is_online("EVIL-1").await).await;
    until("it is offline", async || {
        scene.gateway.post("/v1/vehicles/EVIL-1/commands", json!({"type": "locate"})).await;
        !scene.gateway.is_online("EVIL-1").await
    })
    .await;
    scene.witness_works().await;
}

/// There: no way to end a session, and no list of revoked certificates.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_car_is_thrown_out_at_once_and_kept_out_also_after_a_restart() {
    let mut scene = Scene::new(&[]).await;
    let mut raw = scene.connected().await;
    until("it is known", async || scene.gateway.is_online("EVIL-1").await).await;
    let (status, body) = scene.gateway.delete("/v1/vehicles/EVIL-1/certificate").await;
    assert!((200..300).contains(&status), "{status} {body}");
    assert!(raw.ended().await.is_empty(), "thrown out");
    // Some stacks show the refusal in the handshake, some at the first read.
    let is_kept_out = async |scene: &Scene| {
        if let Ok(mut raw) = Raw::dial(scene.gateway.mqtt, client_tls(&scene.evil)).await {
            raw.send(&connect_packet("EVIL-1", 60)).await;
            assert_ne!(raw.packet().await, Some(Packet { first: 0x20, body: vec![0, 0] }), "a revoked car got in");
        }
    };
    is_kept_out(&scene).await;
    scene.witness_works().await;
    scene.gateway.kill();
    scene.gateway.launch().expect("it starts again");
    is_kept_out(&scene).await;
}

/// A car whose session is taken over again and again by its own twin disturbs nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn takeovers_without_end() {
    let mut scene = Scene::new(&[]).await;
    for _ in 0..100 {
        let mut older = scene.connected().await;
        let _newer = scene.connected().await;
        assert!(older.ended().await.is_empty());
    }
    until("it is offline at last", async || !scene.gateway.is_online("EVIL-1").await).await;
    scene.witness_works().await;
    scene.witness.wait_facts_taken(PATIENCE).await.expect("its facts were taken");
}
