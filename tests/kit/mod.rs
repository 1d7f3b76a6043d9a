//! What tests of the whole program start from: the real binary on free ports with a fleet of its own, and its callers.
#![allow(dead_code, reason = "every test uses a part of it")]

pub mod broker;
pub mod car;
pub mod console;
pub mod forward;
pub mod halted;
pub mod namespaces;
pub mod nats;
pub mod receiver;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The payment network's secret in every test gateway.
pub const STRIPE_SECRET: &str = "whsec_test_secret";

/// Longer than anything should take on two busy cores; what is waited for usually comes in milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `is_so`, looking every few milliseconds; panics with `what` when it does not come to be so.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let waiting = async {
        while !is_so().await {
            looks.tick().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "it did not come to be so: {what}");
}

/// A port nobody listens on, below the range that the system gives to those who connect: it stays free while its owner is
/// down.
pub fn steady_port() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    for _ in 0..10_000 {
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let port = 20_000 + (random % 12_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free")
}

/// One TLS provider for the whole test process.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("no other provider");
    });
}

/// A running gateway. Killed when dropped.
pub struct Gateway {
    dir: Arc<TempDir>,
    child: Option<Child>,
    sets: Vec<String>,
    envs: Vec<(String, String)>,
    pub admin_key: String,
    pub http: String,
    pub mqtt: SocketAddr,
    pub metrics: String,
    pub client: reqwest::Client,
    log: Arc<Mutex<String>>,
    /// Where its records are, when the tests run on a cluster.
    nats: Option<nats::NatsCluster>,
}

/// Set, it makes every gateway of the tests keep its records in a NATS cluster of its own: the same promises, by the other
/// engine.
const ON_A_CLUSTER: &str = "CARDEA_TESTS_ON_A_CLUSTER";

/// Makes a fleet in a fresh folder; not started yet.
pub fn init() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let made = run(&["init", "--dir", &dir.path().join("fleet").to_string_lossy()]);
    let line: Value = serde_json::from_str(&made).expect("one JSON line");
    (dir, line["admin_key"].as_str().expect("an admin key").to_owned())
}

/// Runs the program to its end; its standard output.
pub fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_cardea")).args(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

impl Gateway {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With `--set` overrides; ports are free ones, and the payment network's secret is set.
    pub async fn start_with(sets: &[&str]) -> Self {
        Self::start_in(&[], sets).await
    }

    /// As [`Self::start_with`], and it logs all that it and its libraries have to say.
    pub async fn start_talkative(sets: &[&str]) -> Self {
        Self::start_in(&[("RUST_LOG", "trace")], sets).await
    }

    /// With variables of its environment, too.
    pub async fn start_in(envs: &[(&str, &str)], sets: &[&str]) -> Self {
        let (dir, admin_key) = init();
        let mut gateway = Self::of_fleet(Arc::new(dir), admin_key, envs, sets);
        if std::env::var_os(ON_A_CLUSTER).is_some() {
            let nats = nats::NatsCluster::start(3).await.expect("NATS servers");
            gateway.sets.extend(nats.sets());
            gateway.set("cluster.node=a");
            gateway.nats = Some(nats);
        }
        gateway.launch().expect("the gateway starts");
        gateway
    }

    /// Another gateway of the same fleet, with its own data folder.
    pub async fn start_beside(&self, envs: &[(&str, &str)], name: &str, sets: &[&str]) -> Self {
        let mut gateway = Self::of_fleet(Arc::clone(&self.dir), self.admin_key.clone(), envs, sets);
        gateway.set(&format!("data.dir={}", self.fleet_dir().join(name).display()));
        gateway.launch().expect("the gateway starts");
        gateway
    }

    fn of_fleet(dir: Arc<TempDir>, admin_key: String, envs: &[(&str, &str)], sets: &[&str]) -> Self {
        install_tls();
        let ca = std::fs::read(dir.path().join("fleet/certs/ca.pem")).expect("the CA");
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
            .timeout(Duration::from_secs(40))
            .build()
            .expect("a client");
        Self {
            dir,
            child: None,
            sets: sets.iter().map(|set| (*set).to_owned()).collect(),
            envs: envs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            admin_key,
            http: String::new(),
            mqtt: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics: String::new(),
            client,
            log: Arc::default(),
            nats: None,
        }
    }

    pub fn fleet_dir(&self) -> PathBuf {
        self.dir.path().join("fleet")
    }

    pub fn config(&self) -> PathBuf {
        self.fleet_dir().join("cardea.toml")
    }

    pub fn ca(&self) -> PathBuf {
        self.fleet_dir().join("certs/ca.pem")
    }

    pub fn data(&self) -> PathBuf {
        self.fleet_dir().join("data")
    }

    /// What the gateway wrote to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Starts the process (again) and waits for its `ready` line; the log and exit status if it ends instead.
    pub fn launch(&mut self) -> Result<(), (String, ExitStatus)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cardea"));
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        command.arg("serve").arg("--config").arg(self.config());
        for listen in ["http.listen", "mqtt.listen", "metrics.listen"] {
            command.arg("--set").arg(format!("{listen}=127.0.0.1:0"));
        }
        command.arg("--set").arg(format!("payments.stripe.secrets=[\"{STRIPE_SECRET}\"]"));
        for set in &self.sets {
            command.arg("--set").arg(set);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut errors = child.stderr.take().expect("piped");
        let log = Arc::clone(&self.log);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = errors.read(&mut chunk) {
                log.lock().expect("the log").push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("it writes");
        if line.is_empty() {
            let status = child.wait().expect("it ended");
            reader.join().expect("the reader ends");
            return Err((self.log(), status));
        }
        let ready: Value = serde_json::from_str(&line).expect("one JSON line");
        assert_eq!(ready["ready"], true);
        self.http = ready["http"].as_str().expect("http").to_owned();
        self.mqtt = ready["mqtt"].as_str().and_then(|mqtt| mqtt.parse().ok()).expect("mqtt");
        self.metrics = ready["metrics"].as_str().expect("metrics").to_owned();
        self.child = Some(child);
        Ok(())
    }

    /// A further `--set` override for the next launch.
    pub fn set(&mut self, key_value: &str) {
        self.sets.push(key_value.to_owned());
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ended");
        }
    }

    /// SIGTERM; the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        signal(child.id(), "TERM");
        child.wait().expect("it ended")
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Has the process ended by itself?
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("it can be asked"))
    }

    /// The folder with `ca.pem cert.pem key.pem` of a car.
    pub fn enroll(&self, vehicle: &str) -> PathBuf {
        let out = self.fleet_dir().join("cars").join(vehicle);
        if !out.exists() {
            let config = self.config();
            let (config, path) = (config.to_string_lossy(), out.to_string_lossy());
            run(&["enroll", "--config", &config, "--vehicle", vehicle, "--out", &path]);
        }
        out
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.http)).bearer_auth(&self.admin_key)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn post_with_key(&self, path: &str, key: &str, body: Value) -> (u16, Value) {
        answer(self.request(Method::POST, path).header("Idempotency-Key", key).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        answer(self.request(Method::DELETE, path)).await
    }

    pub async fn register(&self, vehicle: &str) {
        let (status, body) = self.post("/v1/vehicles", json!({"vehicle_id": vehicle})).await;
        assert_eq!(status, 201, "{body}");
    }

    /// The value of a metric without labels, or the sum over its labels; 0 when it is absent.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.client_for_metrics().get(format!("{}/metrics", self.metrics)).send().await.expect("metrics");
        let text = text.text().await.expect("text");
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// `(status, text)` of a page at the metrics address.
    pub async fn probe(&self, path: &str) -> (u16, String) {
        let answer = self.client_for_metrics().get(format!("{}{path}", self.metrics)).send().await.expect("it answers");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    fn client_for_metrics(&self) -> &reqwest::Client {
        &self.client
    }

    pub async fn is_online(&self, vehicle: &str) -> bool {
        let (status, twin) = self.get(&format!("/v1/vehicles/{vehicle}")).await;
        status == 200 && twin["link"]["state"] == "online"
    }

    pub async fn command_state(&self, id: &str) -> String {
        let (status, command) = self.get(&format!("/v1/commands/{id}")).await;
        assert_eq!(status, 200, "{command}");
        command["state"].as_str().expect("a state").to_owned()
    }

    /// A Stripe event signed with the test secret at the present; `(status, body)`.
    pub async fn stripe(&self, event: &Value) -> (u16, Value) {
        let body = event.to_string();
        let signature = stripe_signature(STRIPE_SECRET, unix_now(), &body);
        let request = self
            .client
            .post(format!("{}/v1/payments/stripe", self.http))
            .header("Stripe-Signature", signature)
            .header("Content-Type", "application/json")
            .body(body);
        answer(request).await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.log());
        }
        self.kill();
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("text");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill runs");
    assert!(sent.success());
}

pub fn unix_now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the payment network has a clock of its own")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

pub fn stripe_signature(secret: &str, at: u64, body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, format!("{at}.{body}").as_bytes());
    format!("t={at},v1={}", hex::encode(tag.as_ref()))
}

/// Is this program installed?
pub fn has(program: &str) -> bool {
    let found = Command::new("sh").arg("-c").arg(format!("command -v {program}")).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// The text of a file below `tests/`.
pub fn fixture(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The time in so many seconds, as wires have it.
pub fn rfc3339_in(seconds: i64) -> String {
    let now = i64::try_from(unix_now()).expect("before the end of time");
    cardea::domain::Timestamp((now + seconds) * 1000).to_string()
}
