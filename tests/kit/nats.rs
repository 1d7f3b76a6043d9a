//! A cluster of NATS servers with JetStream, real ones, with TLS, on loopback or each in a network namespace of its own.
//! `scripts/kit/nats` gets and configures them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{install_tls, namespaces, signal, until};

/// As `scripts/kit/nats make` tells it.
#[derive(Debug, Deserialize)]
struct Made {
    servers: Vec<String>,
    clients: Vec<u16>,
    monitors: Vec<u16>,
    ca: PathBuf,
    user: String,
    password: String,
    system_user: String,
    system_password: String,
}

/// Running servers, counted from 0. All are killed when this is dropped.
pub struct NatsCluster {
    dir: TempDir,
    binary: PathBuf,
    made: Made,
    is_apart: bool,
    servers: Vec<Option<Child>>,
    monitor: reqwest::Client,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kit/nats")
}

/// The server's program; `None`, with a word why, where it is not installed and cannot be.
pub fn installed() -> Option<PathBuf> {
    let installed = Command::new(script()).arg("install").output().expect("bash runs");
    if !installed.status.success() {
        println!("SKIPPED: {}", String::from_utf8_lossy(&installed.stderr).trim_end());
        return None;
    }
    Some(PathBuf::from(String::from_utf8(installed.stdout).expect("a path").trim_end()))
}

impl NatsCluster {
    /// So many servers (1 or 3) that sync each write, with a leader elected. `None`, with a word why, where the server is
    /// not installed and cannot be.
    pub async fn start(servers: usize) -> Option<Self> {
        Self::start_with(servers, "always", false).await
    }

    /// Three such servers; for a test that runs inside namespaces, each in one of its own.
    pub async fn start_apart() -> Option<Self> {
        Self::start_with(3, "always", namespaces::is_inside()).await
    }

    /// As they are when nobody says how they shall sync: every two minutes.
    pub async fn start_unsynced(servers: usize) -> Option<Self> {
        Self::start_with(servers, "default", false).await
    }

    async fn start_with(servers: usize, sync: &str, is_apart: bool) -> Option<Self> {
        install_tls();
        let binary = installed()?;
        // Somebody may take a port between its choice and the server's start.
        for _ in 0..3 {
            let mut cluster = Self::make(binary.clone(), servers, sync, is_apart);
            for i in 0..servers {
                cluster.spawn(i);
            }
            if cluster.come_up().await {
                return Some(cluster);
            }
        }
        panic!("the servers ended three times at their start");
    }

    fn make(binary: PathBuf, servers: usize, sync: &str, is_apart: bool) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut making = Command::new(script());
        making.arg("make").arg(dir.path()).args(["--servers", &servers.to_string(), "--sync", sync]);
        if is_apart {
            making.arg("--hosts").arg((0..servers).map(namespaces::host).collect::<Vec<_>>().join(","));
        }
        let made = making.output().expect("bash runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let made = serde_json::from_slice(&made.stdout).expect("one JSON line");
        let monitor = reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(2)).build();
        let servers = std::iter::repeat_with(|| None).take(servers).collect();
        Self { dir, binary, made, is_apart, servers, monitor: monitor.expect("a client") }
    }

    fn spawn(&mut self, i: usize) {
        let config = self.dir.path().join(format!("nats-{}.conf", i + 1));
        let mut server = if self.is_apart { namespaces::beside(i, &self.binary) } else { Command::new(&self.binary) };
        let child = server.arg("-c").arg(config).stdin(Stdio::null()).spawn();
        self.servers[i] = Some(child.expect("the server starts"));
    }

    /// Waits until every living server follows a leader; false when one of them ended instead.
    async fn come_up(&mut self) -> bool {
        for i in 0..self.servers.len() {
            let mut looks = tokio::time::interval(Duration::from_millis(20));
            while self.servers[i].is_some() && !self.is_healthy(i).await {
                // Without one that ended, the others may never have a leader.
                if self.servers.iter_mut().flatten().any(|child| child.try_wait().expect("it can be asked").is_some()) {
                    return false;
                }
                looks.tick().await;
            }
        }
        true
    }

    async fn is_healthy(&self, i: usize) -> bool {
        let url = format!("http://{}:{}/healthz", self.address(i).ip(), self.made.monitors[i]);
        self.monitor.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn is_running(&self, i: usize) -> bool {
        self.servers[i].is_some()
    }

    /// Where clients connect to a server.
    pub fn address(&self, i: usize) -> SocketAddr {
        self.made.servers[i].trim_start_matches("tls://").parse().expect("an address")
    }

    pub fn urls(&self) -> &[String] {
        &self.made.servers
    }

    /// The `--set` overrides of a gateway that keeps its records here; its `cluster.node` is the caller's to set.
    pub fn sets(&self) -> Vec<String> {
        self.sets_through(&self.made.clients)
    }

    /// The same through other ports, those of proxies before the servers.
    pub fn sets_through(&self, ports: &[u16]) -> Vec<String> {
        let Made { ca, user, password, system_user, system_password, .. } = &self.made;
        let urls: Vec<String> = ports.iter().map(|port| format!("\"tls://127.0.0.1:{port}\"")).collect();
        vec![
            format!("cluster.servers=[{}]", urls.join(", ")),
            format!("cluster.ca={}", ca.display()),
            format!("cluster.user={user}"),
            format!("cluster.password={password}"),
            format!("cluster.system_user={system_user}"),
            format!("cluster.system_password={system_password}"),
        ]
    }

    /// A client in the account that has JetStream.
    pub async fn client(&self) -> async_nats::Client {
        self.connect(&self.made.user, &self.made.password).await
    }

    /// A client in the servers' system account.
    pub async fn system_client(&self) -> async_nats::Client {
        self.connect(&self.made.system_user, &self.made.system_password).await
    }

    async fn connect(&self, user: &str, password: &str) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            .add_root_certificates(self.made.ca.clone())
            .require_tls(true)
            // It shall notice when its server is isolated.
            .ping_interval(Duration::from_secs(1))
            .retry_on_initial_connect();
        options.connect(self.made.servers.clone()).await.expect("a client")
    }

    /// `kill -9`.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.servers[i].take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ended");
        }
    }

    /// Starts a killed server over what it left; it is not waited for.
    pub fn launch(&mut self, i: usize) {
        assert!(self.servers[i].is_none(), "it runs");
        self.spawn(i);
    }

    /// As [`Self::launch`], and waits until every living server follows a leader.
    pub async fn restart(&mut self, i: usize) {
        self.launch(i);
        assert!(self.come_up().await, "a server ended");
    }

    /// SIGSTOP: its connections stay, and nothing answers.
    pub fn stop(&self, i: usize) {
        signal(self.pid(i), "STOP");
    }

    /// SIGCONT.
    pub fn resume(&self, i: usize) {
        signal(self.pid(i), "CONT");
    }

    /// Can each be isolated?
    pub fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// Cuts a server from the others and from everybody else: nothing arrives any more, and nobody is told.
    pub async fn isolate(&self, i: usize) {
        namespaces::set_plugged(i, false);
        let connecting = tokio::net::TcpStream::connect(self.address(i));
        let connected = tokio::time::timeout(Duration::from_millis(200), connecting).await;
        assert!(!matches!(connected, Ok(Ok(_))), "nats-{} is not cut off", i + 1);
    }

    /// Ends [`Self::isolate`].
    pub fn rejoin(&self, i: usize) {
        namespaces::set_plugged(i, true);
    }

    fn pid(&self, i: usize) -> u32 {
        self.servers[i].as_ref().expect("it runs").id()
    }

    /// Waits until every living server follows a leader.
    pub async fn ready(&mut self) {
        assert!(self.come_up().await, "a server ended");
    }

    /// Which server leads the stream, if any does.
    pub async fn leader(&self, stream: &str) -> Option<usize> {
        for i in (0..self.len()).filter(|i| self.is_running(*i)) {
            let (ip, port) = (self.address(i).ip(), self.made.monitors[i]);
            let url = format!("http://{ip}:{port}/jsz?accounts=true&streams=true");
            let Ok(answer) = self.monitor.get(url).send().await else { continue };
            let told: Value = answer.json().await.unwrap_or_default();
            let accounts = told["account_details"].as_array().into_iter().flatten();
            let mut streams = accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
            let leader = streams.find(|detail| detail["name"] == stream).map(|detail| &detail["cluster"]["leader"]);
            let number = leader.and_then(|name| name.as_str()?.strip_prefix("nats-")?.parse::<usize>().ok());
            if let Some(leader) = number.map(|number| number - 1).filter(|leader| self.is_running(*leader)) {
                return Some(leader);
            }
        }
        None
    }

    pub async fn until_led(&self, stream: &str) -> usize {
        until("the stream has a leader", async || self.leader(stream).await.is_some()).await;
        self.leader(stream).await.expect("it had a leader")
    }

    /// What a server warned of, and who led; without the lines about our own questions.
    pub fn log(&self, i: usize) -> String {
        let text = std::fs::read_to_string(self.dir.path().join(format!("nats-{}.log", i + 1))).unwrap_or_default();
        let tells =
            |line: &&str| !line.contains("Healthcheck failed") && (!line.contains("[INF]") || line.contains("leader"));
        text.lines().filter(tells).fold(String::new(), |all, line| all + line + "\n")
    }
}

impl Drop for NatsCluster {
    fn drop(&mut self) {
        for i in 0..self.servers.len() {
            if let Some(mut child) = self.servers[i].take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                let log = self.log(i);
                let newest: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!("--- nats-{} ---", i + 1);
                newest.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
