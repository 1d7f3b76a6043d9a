//! `[cluster]`: several gateways as one, their records in a NATS JetStream cluster.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::empty_is_none;

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Empty = this machine is alone and keeps its records itself.
    pub servers: Vec<String>,
    /// This gateway's name among the others.
    pub node: String,
    /// The JetStream stream with every record; in lower case the first level of every subject.
    pub stream: String,
    pub replicas: usize,
    pub user: String,
    pub password: String,
    /// PEM bundle that the servers' certificates must chain to; empty = the system's.
    #[serde(with = "empty_is_none")]
    pub ca: Option<PathBuf>,
    /// Ours, where the servers ask for one.
    #[serde(with = "empty_is_none")]
    pub client_cert: Option<PathBuf>,
    #[serde(with = "empty_is_none")]
    pub client_key: Option<PathBuf>,
    /// Of the servers' system account: the only one that may ask them how they sync.
    pub system_user: String,
    pub system_password: String,
    /// Start although a record may be lost with one machine.
    pub accept_unsafe: bool,
    /// How long an append tries to get through, an election of the servers included.
    pub append_timeout_ms: u64,
}

/// Without the passwords.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("servers", &self.servers).field("node", &self.node).finish_non_exhaustive()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            node: String::new(),
            stream: "CARDEA".into(),
            replicas: 3,
            user: String::new(),
            password: String::new(),
            ca: None,
            client_cert: None,
            client_key: None,
            system_user: String::new(),
            system_password: String::new(),
            accept_unsafe: false,
            append_timeout_ms: 8_000,
        }
    }
}

impl Cluster {
    pub fn is_on(&self) -> bool {
        !self.servers.is_empty()
    }
}

pub(super) fn check(checks: &mut Checks, cluster: &Cluster) {
    checks.range("cluster.append_timeout_ms", cluster.append_timeout_ms, 1_000..=60_000);
    checks.range("cluster.replicas", cluster.replicas, 1..=5);
    let is_word = |text: &str| {
        (1..=32).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    if !is_word(&cluster.stream) {
        checks.refuse("cluster.stream", "expected 1 to 32 letters, digits, - and _");
    }
    if !cluster.is_on() {
        return;
    }
    if !is_word(&cluster.node) {
        checks.refuse("cluster.node", "expected 1 to 32 letters, digits, - and _, another for each gateway");
    }
    let is_address = |server: &String| {
        let url = url::Url::parse(server);
        url.is_ok_and(|url| {
            matches!(url.scheme(), "tls" | "nats") && url.host_str().is_some() && url.username().is_empty()
        })
    };
    if cluster.servers.len() > 32 || !cluster.servers.iter().all(is_address) {
        checks.refuse("cluster.servers", "expected at most 32 addresses like \"tls://nats-1.example.org:4222\"");
    }
    if cluster.client_cert.is_some() != cluster.client_key.is_some() {
        checks.refuse("cluster.client_cert", "a certificate needs cluster.client_key, and a key needs this");
    }
    if cluster.replicas < 3 && !cluster.accept_unsafe {
        checks.refuse(
            "cluster.replicas",
            "fewer than 3 copies lose records with a machine; expected 3 or 5, or cluster.accept_unsafe",
        );
    }
    if cluster.system_user.is_empty() && !cluster.accept_unsafe {
        checks.refuse(
            "cluster.system_user",
            "without it nobody can ask the servers whether they sync each write; expected a user of their system \
             account, or cluster.accept_unsafe",
        );
    }
}
