//! Cars behind an outside broker: the real gateway, Debian's mosquitto with TLS, passwords and the access list that
//! config/bridge/ ships, and cars that have nothing but an account there. Skipped with a line where it is not installed.

mod kit;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Recipient, System};
use cardea::actors::vehicle::{FromCar, SendToCar, TellError};
use cardea::certs::Certs;
use cardea::clock::{Clock, Stopwatch};
use cardea::config;
use cardea::domain::command::ToCar;
use cardea::metrics::Pulses;
use cardea::mqtt::{self, BridgeMetrics};
use kit::broker::{Broker, password};
use kit::{Gateway, has, until};
use reqwest::Method;
use serde_json::{Value, json};

fn is_installed() -> bool {
    let is_there =
        (has("mosquitto") || std::path::Path::new("/usr/sbin/mosquitto").exists()) && has("mosquitto_passwd");
    if !is_there {
        println!("SKIPPED: mosquitto is not installed (./scripts/test installs it)");
    }
    is_there
}

/// How many messages led to nothing for this reason.
async fn ignored(gateway: &Gateway, why: &str) -> f64 {
    let (_, text) = gateway.probe("/metrics").await;
    let start = format!("cardea_bridge_ignored_total{{reason=\"{why}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no reason {why}")).parse().expect("a number")
}

async fn speed(gateway: &Gateway, vehicle: &str) -> Value {
    gateway.get(&format!("/v1/vehicles/{vehicle}")).await.1["signals"]["Vehicle.Speed"]["value"].clone()
}

async fn is_offline(gateway: &Gateway, vehicle: &str) -> bool {
    gateway.get(&format!("/v1/vehicles/{vehicle}")).await.1["link"]["state"] == "offline"
}

/// Asks for a lock; the command's id.
async fn lock(gateway: &Gateway, vehicle: &str) -> String {
    let (status, command) = gateway.post(&format!("/v1/vehicles/{vehicle}/commands"), json!({"type": "lock"})).await;
    assert_eq!(status, 202, "{command}");
    command["command_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_car_behind_the_broker_is_seen_obeys_and_its_events_are_durable() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["WVW-1"]);
    let mut gateway = broker.gateway(&["WVW-1"], &[]).await;
    let car = broker.car("WVW-1").await;
    car.reports(17.0).await;
    until("the car is online", async || gateway.is_online("WVW-1").await).await;
    until("its speed is known", async || speed(&gateway, "WVW-1").await == 17.0).await;
    assert_eq!(gateway.metric("cardea_bridge_vehicles").await, 1.0);

    let id = lock(&gateway, "WVW-1").await;
    let command = car.hears("lock").await;
    assert_eq!(command["command_id"], id.as_str());
    car.acknowledges(&command).await;
    until("the lock succeeded", async || gateway.command_state(&id).await == "succeeded").await;
    let (_, told) = gateway.get(&format!("/v1/commands/{id}")).await;
    let states: Vec<_> = told["history"].as_array().expect("a list").iter().map(|step| &step["state"]).collect();
    assert!(states.contains(&&json!("sent")) && !states.contains(&&json!("delivered")), "{states:?}");

    let seq = car.tells(json!({"type": "door", "name": "left", "open": true})).await;
    let answer = car.hears("event_ack").await;
    assert_eq!(answer["seq"], seq);
    // What was acknowledged outlives everything.
    gateway.kill();
    gateway.launch().expect("it starts again");
    let (_, page) = gateway.get("/v1/audit?subject=vehicle/WVW-1&limit=1000").await;
    let text = page.to_string();
    assert!(text.contains(r#""name":"left""#), "{text}");

    let (_, links) = gateway.get("/v1/vehicles/WVW-1/link-log").await;
    assert!(links["items"].as_array().expect("a list").is_empty(), "the log begins with the process");
    until("the bridge is up again", async || gateway.metric("cardea_bridge_connected").await == 1.0).await;
    car.reports(18.0).await;
    until("the car is online again", async || gateway.is_online("WVW-1").await).await;
    let (_, links) = gateway.get("/v1/vehicles/WVW-1/link-log").await;
    assert_eq!((&links["items"][0]["event"], &links["items"][0]["address"]), (&json!("connected"), &Value::Null));
}

#[tokio::test]
async fn neither_a_neighbour_nor_a_stranger_speaks_for_a_car() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["TAXI-1", "TAXI-2", "WVW-1"]);
    let gateway = broker.gateway(&["TAXI-*"], &[]).await;
    let (taxi, stranger) = (broker.car("TAXI-1").await, broker.car("WVW-1").await);

    // The broker takes it and tells nobody: its access list. What comes behind it on the same connection comes through.
    taxi.publish_raw("v1/TAXI-2/telemetry", taxi.telemetry(99.0).to_string(), false).await;
    taxi.publish_raw("v1/TAXI-2/command", r#"{"command_id":"x","type":"unlock"}"#, false).await;
    taxi.reports(1.0).await;
    until("the taxi is online", async || gateway.is_online("TAXI-1").await).await;
    assert_eq!(gateway.metric("cardea_bridge_received_total").await, 1.0);
    assert_eq!(gateway.get("/v1/vehicles/TAXI-2").await.0, 404);

    // The broker lets it speak, and the gateway does not listen.
    stranger.reports(50.0).await;
    stranger.tells(json!({"type": "ignition", "on": true})).await;
    until("the stranger was heard", async || ignored(&gateway, "not_listed").await == 2.0).await;
    assert_eq!(gateway.get("/v1/vehicles/WVW-1").await.0, 404);
    assert!(!stranger.has_heard("event_ack"));
}

#[tokio::test]
async fn a_car_at_the_gate_is_not_overruled_by_the_broker() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["TAXI-3"]);
    let gateway = broker.gateway(&["TAXI-*"], &[]).await;
    let impostor = broker.car("TAXI-3").await;
    impostor.reports(40.0).await;
    until("it is online over the bridge", async || gateway.is_online("TAXI-3").await).await;
    let epoch = async || gateway.get("/v1/vehicles/TAXI-3").await.1["link"]["epoch"].as_u64().expect("an epoch");
    let over_bridge = epoch().await;

    let car = kit::car::connect(&gateway, "TAXI-3").await;
    until("the gate's session is the newer", async || epoch().await > over_bridge).await;
    let at_gate = epoch().await;
    assert_eq!(gateway.metric("cardea_bridge_vehicles").await, 0.0);
    impostor.reports(123.0).await;
    impostor.tells(json!({"type": "ignition", "on": true})).await;
    until("the impostor was heard", async || ignored(&gateway, "at_gate").await == 2.0).await;
    assert_ne!(speed(&gateway, "TAXI-3").await, 123.0);
    let id = lock(&gateway, "TAXI-3").await;
    until("the car at the gate locked", async || gateway.command_state(&id).await == "succeeded").await;
    assert!(!impostor.has_heard("lock") && !impostor.has_heard("event_ack"));
    assert_eq!(epoch().await, at_gate);

    // It may speak again when the car has left the gate, in a time online of its own.
    drop(car);
    until("the car has left the gate", async || is_offline(&gateway, "TAXI-3").await).await;
    impostor.reports(40.0).await;
    until("it is online over the bridge again", async || gateway.is_online("TAXI-3").await).await;
    assert!(epoch().await > at_gate);
}

#[tokio::test]
async fn a_broker_that_is_away_takes_its_cars_offline_and_what_waited_reaches_them_afterwards() {
    if !is_installed() {
        return;
    }
    let mut broker = Broker::start(&["WVW-1"]);
    let mut gateway = broker.gateway(&["WVW-1"], &[]).await;
    let car = broker.car("WVW-1").await;
    car.reports(0.0).await;
    until("the car is online", async || gateway.is_online("WVW-1").await).await;

    let killed = Stopwatch::start();
    broker.kill();
    until("the car is offline", async || is_offline(&gateway, "WVW-1").await).await;
    assert_eq!(gateway.metric("cardea_bridge_connected").await, 0.0);
    let id = lock(&gateway, "WVW-1").await;
    assert_eq!(gateway.command_state(&id).await, "queued");
    // It tries, and not in a loop: the waits before the third try are at least a quarter, half and a whole second long.
    until("it tries", async || gateway.metric("cardea_bridge_failed_attempts_total").await >= 3.0).await;
    assert!(killed.elapsed() >= Duration::from_millis(1_750), "{:?}", killed.elapsed());

    broker.launch();
    until("the bridge is up again", async || gateway.metric("cardea_bridge_connected").await == 1.0).await;
    car.has_connected(2).await;
    assert!(!car.has_heard("lock"), "nobody knows yet that it is there");
    car.reports(0.0).await;
    let command = car.hears("lock").await;
    assert_eq!(command["command_id"], id.as_str());
    car.acknowledges(&command).await;
    until("the lock succeeded", async || gateway.command_state(&id).await == "succeeded").await;
    assert_eq!(gateway.metric("cardea_bridge_losses_total").await, 1.0);
    assert_eq!(gateway.log().matches("no bridge to the broker").count(), 1, "one line for one loss");

    // A stop says goodbye to the broker.
    assert_eq!(gateway.stop().code(), Some(0));
    assert!(broker.log().contains("Client cardea disconnected."), "no DISCONNECT came");
}

#[tokio::test]
async fn what_is_too_long_or_makes_no_sense_hurts_nobody() {
    if !is_installed() {
        return;
    }
    // A broker that keeps no limit.
    let broker = Broker::start_with(&["WVW-1", "WVW-2"], &[("message_size_limit 16384", "message_size_limit 0")]);
    let gateway = broker.gateway(&["WVW-*"], &[]).await;
    let (wild, tame) = (broker.car("WVW-1").await, broker.car("WVW-2").await);
    tame.reports(0.0).await;
    until("the tame car is online", async || gateway.is_online("WVW-2").await).await;

    wild.publish_raw("v1/WVW-1/telemetry", vec![b'x'; 20 * 1024], false).await;
    wild.publish_raw("v1/WVW-1/telemetry", &b"{\"seq\":"[..], false).await;
    wild.publish_raw("v1/WVW-1/event", &b"\xff\xfe"[..], false).await;
    wild.publish_raw("v1/WVW-1/ack", "[]", false).await;
    wild.publish_raw("v1/WVW-1/ack", "", false).await;
    for why in ["too_long", "bad_telemetry", "bad_event", "bad_ack", "empty_payload"] {
        until(why, async || ignored(&gateway, why).await == 1.0).await;
    }
    assert_eq!(gateway.get("/v1/vehicles/WVW-1").await.0, 404, "nothing it said made sense");
    let seq = tame.tells(json!({"type": "ignition", "on": false})).await;
    assert_eq!(tame.hears("event_ack").await["seq"], seq);

    // So long that it is not read at all: the connection ends, and the bridge is back at once.
    wild.publish_raw("v1/WVW-1/telemetry", vec![b'x'; 2 * 1024 * 1024], false).await;
    until("the connection was lost", async || gateway.metric("cardea_bridge_losses_total").await == 1.0).await;
    until("the bridge is up again", async || gateway.metric("cardea_bridge_connects_total").await == 2.0).await;
    tame.reports(3.0).await;
    until("the tame car is online again", async || gateway.is_online("WVW-2").await).await;
    assert_eq!(gateway.metric("cardea_bridge_restarts_total").await, 0.0);
}

#[tokio::test]
async fn the_shipped_broker_passes_nothing_on_that_is_too_long() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["WVW-1"]);
    let gateway = broker.gateway(&["WVW-1"], &[]).await;
    let car = broker.car("WVW-1").await;
    car.publish_raw("v1/WVW-1/telemetry", vec![b'x'; 20 * 1024], false).await;
    car.reports(0.0).await;
    until("the car is online", async || gateway.is_online("WVW-1").await).await;
    assert_eq!(gateway.metric("cardea_bridge_received_total").await, 1.0);
}

#[tokio::test]
async fn a_silent_car_is_offline_and_gets_what_waited_with_its_next_message() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["WVW-1"]);
    let gateway = broker.gateway(&["WVW-1"], &["bridge.offline_after_s=2"]).await;
    let car = broker.car("WVW-1").await;
    car.reports(0.0).await;
    until("the car is online", async || gateway.is_online("WVW-1").await).await;
    until("the car is offline", async || is_offline(&gateway, "WVW-1").await).await;
    let (_, links) = gateway.get("/v1/vehicles/WVW-1/link-log").await;
    assert_eq!(links["items"][0]["reason"], "silent", "{links}");

    let id = lock(&gateway, "WVW-1").await;
    assert_eq!(gateway.command_state(&id).await, "queued");
    // An answer to nothing is a sign of life, too.
    car.tells(json!({"type": "ignition", "on": false})).await;
    let command = car.hears("lock").await;
    assert_eq!(command["command_id"], id.as_str());
    car.acknowledges(&command).await;
    until("the lock succeeded", async || gateway.command_state(&id).await == "succeeded").await;
}

#[tokio::test]
async fn what_the_broker_kept_is_no_news() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start_with(&["WVW-1"], &[("retain_available false", "retain_available true")]);
    let car = broker.car("WVW-1").await;
    car.publish_raw("v1/WVW-1/telemetry", car.telemetry(88.0).to_string(), true).await;
    let gateway = broker.gateway(&["WVW-1"], &[]).await;
    until("it came", async || ignored(&gateway, "retained").await == 1.0).await;
    assert_eq!(gateway.get("/v1/vehicles/WVW-1").await.0, 404);
    // Said now it is news, whether the broker shall keep it or not.
    car.publish_raw("v1/WVW-1/telemetry", car.telemetry(5.0).to_string(), true).await;
    until("the car is online", async || gateway.is_online("WVW-1").await).await;
    assert_eq!(ignored(&gateway, "retained").await, 1.0);
}

#[tokio::test]
async fn a_car_over_its_rate_loses_what_is_too_much_and_no_other_does() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["WVW-1", "WVW-2"]);
    let gateway = broker.gateway(&["WVW-*"], &["mqtt.rate_per_s=1", "mqtt.rate_burst=5"]).await;
    let (loud, calm) = (broker.car("WVW-1").await, broker.car("WVW-2").await);
    for _ in 0..30 {
        loud.reports(1.0).await;
    }
    until("it was cut", async || ignored(&gateway, "rate").await > 10.0).await;
    calm.reports(2.0).await;
    until("the calm car is online", async || gateway.is_online("WVW-2").await).await;
}

#[tokio::test]
async fn a_topic_prefix_stands_before_every_topic_in_both_directions() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start_under("fleet/", &["WVW-1"]);
    let gateway = broker.gateway(&["WVW-1"], &["bridge.topic_prefix=fleet/"]).await;
    let car = broker.car("WVW-1").await;
    car.reports(1.0).await;
    until("the car is online", async || gateway.is_online("WVW-1").await).await;
    let id = lock(&gateway, "WVW-1").await;
    assert_eq!(car.hears("lock").await["command_id"], id.as_str());
}

#[tokio::test]
async fn a_wrong_password_is_told_once_and_the_gateway_serves_on_without_a_bridge() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&[]);
    let sets = broker.sets(&["WVW-1"], &["bridge.password=wrong", "bridge.retry_max_s=1"]);
    let mut gateway = Gateway::start_with(&sets.iter().map(String::as_str).collect::<Vec<_>>()).await;
    until("it was tried again", async || gateway.metric("cardea_bridge_failed_attempts_total").await >= 3.0).await;
    let log = gateway.log();
    assert_eq!(log.matches("the broker refuses our log-in").count(), 1, "{log}");
    assert!(!log.contains("wrong\""), "{log}");
    let car = kit::car::connect(&gateway, "WVW-1").await;
    drop(car);
    assert_eq!(gateway.stop().code(), Some(0));
}

#[tokio::test]
async fn a_broker_may_know_the_gateway_by_its_certificate() {
    if !is_installed() {
        return;
    }
    let known_by = "allow_anonymous false\ncafile /etc/mosquitto/certs/ca.pem\nrequire_certificate true\n\
                    use_identity_as_username true";
    let broker = Broker::start_with(&[], &[("allow_anonymous false", known_by)]);
    let ours = ["cert=cardea.pem", "key=cardea.key.pem"].map(|file| {
        let (key, name) = file.split_once('=').expect("a pair");
        format!("bridge.client_{key}={}", broker.dir().join(name).display())
    });
    let more = ["bridge.user=", "bridge.password=", &ours[0], &ours[1]];
    // Up, which it would not be without.
    let mut gateway = broker.gateway(&["WVW-1"], &more).await;
    assert!(broker.log().contains("u'cardea'"), "not known by its name");
    gateway.kill();
    gateway.set("bridge.client_cert=");
    gateway.set("bridge.client_key=");
    gateway.launch().expect("it starts");
    until("it is refused", async || gateway.metric("cardea_bridge_failed_attempts_total").await >= 1.0).await;
    assert_eq!(gateway.metric("cardea_bridge_connects_total").await, 0.0);
}

#[tokio::test]
async fn a_broker_with_a_strangers_certificate_is_not_spoken_to() {
    if !is_installed() {
        return;
    }
    let (broker, other) = (Broker::start(&["WVW-1"]), Broker::start(&[]));
    let ca = format!("bridge.ca={}", other.ca().display());
    let sets = broker.sets(&["WVW-1"], &[&ca]);
    let gateway = Gateway::start_with(&sets.iter().map(String::as_str).collect::<Vec<_>>()).await;
    until("it was tried", async || gateway.metric("cardea_bridge_failed_attempts_total").await >= 1.0).await;
    assert!(gateway.log().contains("UnknownIssuer"), "{}", gateway.log());
    assert!(!broker.log().contains("as cardea"), "the password went to a stranger");
}

#[tokio::test]
async fn the_end_of_a_cars_certificates_does_not_end_it_at_the_broker() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["WVW-1"]);
    let gateway = broker.gateway(&["WVW-1"], &[]).await;
    let car = broker.car("WVW-1").await;
    car.reports(1.0).await;
    until("the car is online", async || gateway.is_online("WVW-1").await).await;
    let answer = gateway.request(Method::DELETE, "/v1/vehicles/WVW-1/certificate").send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    car.reports(7.0).await;
    until("it is heard still, as docs/bridge.md says", async || speed(&gateway, "WVW-1").await == 7.0).await;
}

#[test]
fn the_page_shows_the_access_list_that_is_tested() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect(path);
    let page = read("docs/bridge.md");
    let rules = read("config/bridge/acl");
    for rule in rules.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        assert!(page.lines().any(|line| line == rule), "docs/bridge.md lacks `{rule}`");
    }
}

/// The edge without a fleet behind it, so that one can be played that has no room.
struct Edge {
    has_room: Arc<AtomicBool>,
    /// Facts that found none.
    refused: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<String>>>,
    metrics: Arc<BridgeMetrics>,
    outbound: Recipient<SendToCar>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Edge {
    async fn start(broker: &Broker, queue_max: usize) -> Self {
        kit::install_tls();
        let at = |name: &str| broker.dir().join(name);
        let paths = config::Certs {
            ca: at("ca.pem"),
            server: at("broker.pem"),
            server_key: at("broker.key.pem"),
            ..config::Certs::default()
        };
        let certs = Arc::new(Certs::load(&paths).expect("certificates"));
        let bridge = config::Bridge {
            broker: Some(broker.url()),
            user: "cardea".into(),
            password: password("cardea"),
            ca: Some(broker.ca()),
            vehicles: vec!["WVW-*".into()],
            queue_max,
            ..config::Bridge::default()
        };
        let (has_room, refused) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
        let told = Arc::<Mutex<Vec<String>>>::default();
        let (room, counted, sink) = (Arc::clone(&has_room), Arc::clone(&refused), Arc::clone(&told));
        let tell: mqtt::Tell = Arc::new(move |vehicle, message| {
            let what = match message {
                FromCar::Fact(_) if !room.load(Ordering::SeqCst) => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    return Err(TellError::Full);
                }
                FromCar::Fact(fact) => format!("fact {}", fact.seq),
                FromCar::Reports(reports) => format!("report {}", reports[0].seq),
                FromCar::LinkUp { .. } => "up".to_owned(),
                FromCar::LinkDown { .. } => "down".to_owned(),
                other => format!("{other:?}"),
            };
            sink.lock().expect("whole").push(format!("{vehicle} {what}"));
            Ok(())
        });
        let (ready, started) = tokio::sync::oneshot::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            System::new().block_on(async move {
                let gate = config::Mqtt { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config::Mqtt::default() };
                let mut handle =
                    mqtt::start(&gate, certs, tell, Clock::start(), &Pulses::default()).expect("it starts");
                handle.add_bridge(&bridge).expect("it fits");
                handle.listen().expect("it listens");
                let metrics = handle.bridge_metrics().expect("it has a bridge");
                assert!(ready.send((metrics, handle.outbound())).is_ok());
                let _ = stopped.await;
                handle.shutdown(Duration::from_secs(5)).await;
            });
        });
        let (metrics, outbound) = started.await.expect("it started");
        let edge = Self { has_room, refused, told, metrics, outbound, stop: Some(stop), thread: Some(thread) };
        until("the bridge is up", async || edge.metrics.connected.get() == 1).await;
        edge
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("whole").clone()
    }

    async fn hears(&self, what: &str) {
        until(what, async || self.told().iter().any(|told| told == what)).await;
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking());
    }
}

#[tokio::test]
async fn an_event_is_acknowledged_to_the_broker_once_the_fleet_has_it_or_after_a_second() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["WVW-1", "WVW-2"]);
    let edge = Edge::start(&broker, 100).await;
    let (car, other) = (broker.car("WVW-1").await, broker.car("WVW-2").await);
    let pubacks = || broker.log().matches("Received PUBACK from cardea").count();
    let ignition = || json!({"type": "ignition", "on": true});

    edge.has_room.store(false, Ordering::SeqCst);
    let first = car.tells(ignition()).await;
    until("it is tried again", async || edge.refused.load(Ordering::SeqCst) >= 3).await;
    assert_eq!(pubacks(), 0);
    edge.has_room.store(true, Ordering::SeqCst);
    edge.hears(&format!("WVW-1 fact {first}")).await;
    until("the broker knows", async || pubacks() == 1).await;
    assert_eq!((edge.metrics.held_back.get(), edge.metrics.facts.get()), (1, 1));

    // Telemetry must not overtake it, and does not wait either; another car's goes on.
    edge.has_room.store(false, Ordering::SeqCst);
    car.tells(ignition()).await;
    car.reports(1.0).await;
    other.reports(1.0).await;
    edge.hears("WVW-2 report 1").await;
    until("it is given up", async || edge.metrics.facts_not_taken.get() == 1).await;
    until("the broker knows", async || pubacks() == 4).await;
    assert_eq!(edge.metrics.reports_dropped.get(), 1);
    edge.has_room.store(true, Ordering::SeqCst);
    let again = car.tells(ignition()).await;
    edge.hears(&format!("WVW-1 fact {again}")).await;
}

#[tokio::test]
async fn what_a_broker_does_not_take_fills_a_queue_with_an_end_and_the_car_is_told_offline() {
    if !is_installed() {
        return;
    }
    let broker = Broker::start(&["WVW-1"]);
    let edge = Edge::start(&broker, 10).await;
    let car = broker.car("WVW-1").await;
    car.reports(1.0).await;
    edge.hears("WVW-1 report 1").await;

    broker.signal("STOP");
    let vehicle: cardea::domain::VehicleId = "WVW-1".parse().expect("an id");
    for seq in 0..200 {
        let message = ToCar::EventAck { boot: 0, seq, at: None };
        edge.outbound.try_send(SendToCar { vehicle: vehicle.clone(), message }).expect("room");
    }
    edge.hears("WVW-1 down").await;
    assert_eq!(edge.metrics.commands_dropped.get(), 1, "the rest finds no car");
    broker.signal("CONT");
    // Its next sign of life is a new beginning.
    car.reports(1.0).await;
    until("it is back", async || edge.told().iter().filter(|told| *told == "WVW-1 up").count() == 2).await;
}
