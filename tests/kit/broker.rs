//! Debian's mosquitto as somebody else's broker, with the configuration and access list that config/bridge/ ships, and cars
//! that have an account there.

use std::collections::VecDeque;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cardea::domain::Timestamp;
use cardea::pki::Ca;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS, TlsConfiguration, Transport};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{Gateway, rfc3339_in, unix_now, until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A broker on a free port of the loopback, with a CA of its own. Killed when dropped.
pub struct Broker {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
    /// Before every topic.
    prefix: String,
}

/// Of everybody: nobody here guesses passwords.
pub fn password(user: &str) -> String {
    format!("secret-of-{user}")
}

impl Broker {
    /// With accounts for the gateway and for these cars.
    pub fn start(cars: &[&str]) -> Self {
        Self::start_with(cars, &[])
    }

    /// With the shipped access list for topics that begin so.
    pub fn start_under(prefix: &str, cars: &[&str]) -> Self {
        let mut broker = Self::start(cars);
        let path = broker.dir.path().join("cardea.acl");
        let list = fs::read_to_string(&path).expect("the list").replace(" v1/", &format!(" {prefix}v1/"));
        fs::write(&path, list).expect("written");
        broker.prefix = prefix.to_owned();
        broker.kill();
        broker.launch();
        broker
    }

    /// With lines of the shipped configuration put in other words.
    pub fn start_with(cars: &[&str], changes: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let at = |name: &str| dir.path().join(name);
        let now = Timestamp(i64::try_from(unix_now()).expect("a time") * 1_000);
        let identity = Ca::create(now).expect("a CA");
        let ca = Ca::load(&identity.cert_pem, &identity.key_pem).expect("the CA");
        let server = ca.issue_server(&["localhost".into()], now).expect("a certificate");
        fs::write(at("ca.pem"), &identity.cert_pem).expect("written");
        fs::write(at("broker.pem"), &server.cert_pem).expect("written");
        fs::write(at("broker.key.pem"), &server.key_pem).expect("written");
        let gateway = ca.issue_vehicle(&"cardea".parse().expect("an id"), 1, now).expect("a certificate");
        fs::write(at("cardea.pem"), &gateway.cert_pem).expect("written");
        fs::write(at("cardea.key.pem"), &gateway.key_pem).expect("written");
        fs::copy(shipped("acl"), at("cardea.acl")).expect("copied");
        fs::write(at("cardea.passwd"), "").expect("written");
        for user in cars.iter().chain(&["cardea"]) {
            let mut add = Command::new("mosquitto_passwd");
            add.arg("-b").arg(at("cardea.passwd")).args([*user, &password(user)]);
            assert!(add.stderr(Stdio::null()).status().expect("mosquitto_passwd runs").success());
        }
        let mut conf = fs::read_to_string(shipped("mosquitto.conf")).expect("the shipped configuration");
        let listener = format!("listener {port} 127.0.0.1");
        let folder = format!("{}/", dir.path().display());
        let own = [("listener 8883", &*listener), ("/etc/mosquitto/certs/", &*folder), ("/etc/mosquitto/", &*folder)];
        for (from, to) in changes.iter().chain(&own) {
            assert!(conf.contains(from), "{from} is not in the shipped configuration");
            conf = conf.replace(from, to);
        }
        // As root it would else become a user who may not read here.
        conf.push_str("\nuser root\nlog_type all\n");
        fs::write(at("mosquitto.conf"), conf).expect("written");
        let mut broker = Self { dir, port, child: None, prefix: String::new() };
        broker.launch();
        broker
    }

    /// Starts it, again at the same port.
    pub fn launch(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.dir.path().join("log")).expect("a log");
        let program =
            ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
        let mut command = Command::new(program.unwrap_or("mosquitto"));
        command.arg("-c").arg(self.dir.path().join("mosquitto.conf"));
        let mut child = command.stdout(Stdio::null()).stderr(log).spawn().expect("mosquitto starts");
        let mut looks = 0;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(child.try_wait().expect("it can be asked").is_none(), "mosquitto ended: {}", self.log());
            looks += 1;
            assert!(looks < 1_000, "mosquitto does not listen: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ended");
        }
    }

    pub fn signal(&self, name: &str) {
        super::signal(self.child.as_ref().expect("it runs").id(), name);
    }

    /// The folder with `ca.pem`, and `broker` and `cardea` as `.pem` and `.key.pem`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn url(&self) -> String {
        format!("mqtts://localhost:{}", self.port)
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What the shipped part of the gateway's configuration says, but for what differs here.
    pub fn sets(&self, vehicles: &[&str], more: &[&str]) -> Vec<String> {
        let text = fs::read_to_string(shipped("cardea.toml")).expect("the shipped part");
        let table: toml::Table = text.parse().expect("TOML");
        let mut bridge = table["bridge"].as_table().expect("a table").clone();
        for (key, value) in
            [("broker", self.url()), ("password", password("cardea")), ("ca", self.ca().display().to_string())]
        {
            assert!(bridge.insert(key.into(), value.into()).is_some(), "{key} is not in the shipped part");
        }
        let vehicles: Vec<toml::Value> = vehicles.iter().map(|vehicle| (*vehicle).into()).collect();
        bridge.insert("vehicles".into(), vehicles.into());
        let own = bridge.iter().map(|(key, value)| format!("bridge.{key}={value}"));
        own.chain(more.iter().map(|set| (*set).to_owned())).collect()
    }

    /// A gateway with a bridge to this broker, which is up.
    pub async fn gateway(&self, vehicles: &[&str], more: &[&str]) -> Gateway {
        let sets = self.sets(vehicles, more);
        let gateway = Gateway::start_with(&sets.iter().map(String::as_str).collect::<Vec<_>>()).await;
        until("the bridge is up", async || gateway.metric("cardea_bridge_connected").await == 1.0).await;
        gateway
    }

    pub async fn car(&self, id: &str) -> BrokerCar {
        BrokerCar::connect(self, id).await
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the broker's log ---\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        self.kill();
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(ROOT).join("config/bridge").join(name)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A car with an account at the broker, whose name is its id. Comes back by itself when the broker does.
pub struct BrokerCar {
    pub id: String,
    /// Its topics without their last level.
    topics: String,
    client: AsyncClient,
    heard: Arc<Mutex<VecDeque<Value>>>,
    pubacks: Arc<Mutex<u64>>,
    subscribed: Arc<Mutex<u64>>,
    task: JoinHandle<()>,
    seq: Mutex<u64>,
    published: Mutex<u64>,
}

impl BrokerCar {
    async fn connect(broker: &Broker, id: &str) -> Self {
        super::install_tls();
        let mut options = MqttOptions::new(id, "localhost", broker.port);
        options.set_credentials(id, password(id));
        options.set_max_packet_size(4 * 1024 * 1024, 4 * 1024 * 1024);
        let ca = fs::read(broker.ca()).expect("the CA");
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca,
            alpn: None,
            client_auth: None,
        }));
        let (client, mut events) = AsyncClient::new(options, 100);
        let heard = Arc::<Mutex<VecDeque<Value>>>::default();
        let [pubacks, subscribed]: [Arc<Mutex<u64>>; 2] = Default::default();
        let (commands, acknowledged, told) = (Arc::clone(&heard), Arc::clone(&pubacks), Arc::clone(&subscribed));
        let (own, topic) = (client.clone(), format!("{}v1/{id}/command", broker.prefix));
        let mut tries = tokio::time::interval(Duration::from_millis(50));
        tries.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                        own.try_subscribe(&topic, QoS::AtLeastOnce).expect("room");
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => *told.lock().expect("whole") += 1,
                    Ok(Event::Incoming(Incoming::PubAck(_))) => *acknowledged.lock().expect("whole") += 1,
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        assert_eq!((&publish.topic, publish.retain), (&topic, false));
                        let message = serde_json::from_slice(&publish.payload).expect("one JSON object a message");
                        commands.lock().expect("whole").push_back(message);
                    }
                    Ok(_) => {}
                    // The broker is away.
                    Err(_) => drop(tries.tick().await),
                }
            }
        });
        let car = Self {
            id: id.into(),
            topics: format!("{}v1/{id}", broker.prefix),
            client,
            heard,
            pubacks,
            subscribed,
            task,
            seq: Mutex::default(),
            published: Mutex::default(),
        };
        car.has_connected(1).await;
        car
    }

    /// For the so manyth time.
    pub async fn has_connected(&self, times: u64) {
        until("the car is at the broker", async || *self.subscribed.lock().expect("whole") >= times).await;
    }

    fn next_seq(&self) -> u64 {
        let mut seq = self.seq.lock().expect("whole");
        *seq += 1;
        *seq
    }

    /// To any topic and of any form; returns when the broker has taken it, which it does also with what it then drops.
    pub async fn publish_raw(&self, topic: &str, payload: impl Into<Vec<u8>>, retain: bool) {
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).await.expect("sent");
        let due = {
            let mut published = self.published.lock().expect("whole");
            *published += 1;
            *published
        };
        until("the broker's PUBACK", async || *self.pubacks.lock().expect("whole") >= due).await;
    }

    pub async fn publish(&self, channel: &str, message: Value) {
        self.publish_raw(&format!("{}/{channel}", self.topics), message.to_string(), false).await;
    }

    pub fn telemetry(&self, speed: f64) -> Value {
        let signals = json!({"Vehicle.Speed": speed, "Vehicle.Powertrain.FuelSystem.RelativeLevel": 62});
        json!({"seq": self.next_seq(), "at": rfc3339_in(0), "signals": signals})
    }

    /// Says where it stands.
    pub async fn reports(&self, speed: f64) {
        self.publish("telemetry", self.telemetry(speed)).await;
    }

    /// A fact; its number.
    pub async fn tells(&self, mut fact: Value) -> u64 {
        let seq = self.next_seq();
        fact["seq"] = seq.into();
        fact["at"] = rfc3339_in(0).into();
        self.publish("event", fact).await;
        seq
    }

    /// Takes the next message of this type out, waiting for it.
    pub async fn hears(&self, kind: &str) -> Value {
        until(&format!("{} hears of {kind}", self.id), async || self.has_heard(kind)).await;
        let mut heard = self.heard.lock().expect("whole");
        let place = heard.iter().position(|message| message["type"] == kind).expect("just heard");
        heard.remove(place).expect("it is there")
    }

    pub fn has_heard(&self, kind: &str) -> bool {
        self.heard.lock().expect("whole").iter().any(|message| message["type"] == kind)
    }

    pub async fn acknowledges(&self, command: &Value) {
        let ack = json!({"command_id": command["command_id"], "at": rfc3339_in(0), "status": "succeeded"});
        self.publish("ack", ack).await;
    }
}

impl Drop for BrokerCar {
    fn drop(&mut self) {
        self.task.abort();
    }
}
