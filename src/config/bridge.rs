//! `[bridge]`: cars that come over an outside MQTT broker instead of the gate.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::Checks;
use super::empty_is_none;
use crate::domain::VehicleId;

/// MQTT over TLS.
const DEFAULT_PORT: u16 = 8883;
const MAX_LISTED: usize = 10_000;
const MAX_PREFIX_BYTES: usize = 64;

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bridge {
    /// `mqtts://host:port`; without it there is no bridge.
    #[serde(with = "empty_is_none")]
    pub broker: Option<String>,
    pub client_id: String,
    pub user: String,
    pub password: String,
    /// PEM bundle that the broker's certificate must chain to; needed.
    #[serde(with = "empty_is_none")]
    pub ca: Option<PathBuf>,
    /// Ours, where the broker asks for one.
    #[serde(with = "empty_is_none")]
    pub client_cert: Option<PathBuf>,
    #[serde(with = "empty_is_none")]
    pub client_key: Option<PathBuf>,
    /// Stands before every topic.
    pub topic_prefix: String,
    /// Ids, and beginnings of ids with a star behind.
    pub vehicles: Vec<String>,
    pub offline_after_s: u64,
    /// Heard of lately, online or not.
    pub max_vehicles: usize,
    /// Messages for cars that wait for the broker.
    pub queue_max: usize,
    pub keep_alive_s: u64,
    /// The longest wait before the next try.
    pub retry_max_s: u64,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            broker: None,
            client_id: "cardea".into(),
            user: String::new(),
            password: String::new(),
            ca: None,
            client_cert: None,
            client_key: None,
            topic_prefix: String::new(),
            vehicles: Vec::new(),
            offline_after_s: 120,
            max_vehicles: 5_000,
            queue_max: 4_096,
            keep_alive_s: 30,
            retry_max_s: 30,
        }
    }
}

impl Bridge {
    pub fn is_on(&self) -> bool {
        self.broker.is_some()
    }

    /// The broker's host and port; [`super::load`] has checked that a broker that is named has them.
    pub fn address(&self) -> Option<(String, u16)> {
        let url = url::Url::parse(self.broker.as_ref()?).ok()?;
        let is_plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let has_log_in = !url.username().is_empty() || url.password().is_some();
        let host = url.host_str()?;
        // rumqttc takes no IPv6 address: it wants the brackets for the socket and none for the certificate.
        let is_host =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
        let is_fit = url.scheme() == "mqtts" && is_plain && !has_log_in && is_host;
        is_fit.then(|| (host.to_owned(), url.port().unwrap_or(DEFAULT_PORT)))
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").field("broker", &self.broker).field("user", &self.user).finish_non_exhaustive()
    }
}

/// The vehicles that may come over the bridge.
#[derive(Debug, Clone, Default)]
pub struct VehicleList {
    ids: HashSet<String>,
    beginnings: HashSet<String>,
}

impl VehicleList {
    pub fn new(entries: &[String]) -> Self {
        let mut list = Self::default();
        for entry in entries {
            match entry.strip_suffix('*') {
                Some(beginning) => list.beginnings.insert(beginning.to_owned()),
                None => list.ids.insert(entry.clone()),
            };
        }
        list
    }

    pub fn contains(&self, vehicle: &VehicleId) -> bool {
        let id = vehicle.as_str();
        // An id is ASCII, so that it can be cut anywhere.
        self.ids.contains(id) || (1..=id.len()).any(|end| self.beginnings.contains(&id[..end]))
    }
}

pub(super) fn check(checks: &mut Checks, bridge: &Bridge) {
    checks.range("bridge.offline_after_s", bridge.offline_after_s, 1..=86_400);
    checks.range("bridge.max_vehicles", bridge.max_vehicles, 1..=1_000_000);
    checks.range("bridge.queue_max", bridge.queue_max, 1..=65_536);
    // MQTT's keep-alive is 16 bits of seconds.
    checks.range("bridge.keep_alive_s", bridge.keep_alive_s, 5..=u64::from(u16::MAX));
    checks.range("bridge.retry_max_s", bridge.retry_max_s, 1..=3_600);
    let is_listable = |entry: &String| entry.strip_suffix('*').unwrap_or(entry).parse::<VehicleId>().is_ok();
    if bridge.vehicles.len() > MAX_LISTED || !bridge.vehicles.iter().all(is_listable) {
        checks.refuse(
            "bridge.vehicles",
            "expected at most 10000 vehicle ids, or beginnings of at least one character with a star behind: \"TAXI-*\"",
        );
    }
    let prefix = &bridge.topic_prefix;
    let is_level = |byte: u8| byte.is_ascii_graphic() && !b"+#".contains(&byte);
    let is_prefix = prefix.ends_with('/') && !prefix.starts_with(['$', '/']) && prefix.bytes().all(is_level);
    if !prefix.is_empty() && (prefix.len() > MAX_PREFIX_BYTES || !is_prefix) {
        checks.refuse("bridge.topic_prefix", "expected levels with a slash behind each, like \"fleet/\", or \"\"");
    }
    let is_text = |text: &str| text.len() <= 256 && !text.chars().any(char::is_control);
    if bridge.client_id.is_empty() || !is_text(&bridge.client_id) {
        checks.refuse("bridge.client_id", "expected 1 to 256 bytes");
    }
    if !is_text(&bridge.user) {
        checks.refuse("bridge.user", "expected at most 256 bytes");
    }
    if bridge.user.is_empty() && !bridge.password.is_empty() {
        checks.refuse("bridge.password", "a password needs bridge.user");
    }
    if bridge.client_cert.is_some() != bridge.client_key.is_some() {
        checks.refuse("bridge.client_cert", "a certificate needs bridge.client_key, and a key needs this");
    }
    if !bridge.is_on() {
        return;
    }
    if bridge.address().is_none() {
        checks.refuse(
            "bridge.broker",
            "expected an address like \"mqtts://broker.example.org:8883\" (TLS always; a name or an IPv4 address, \
             without a log-in)",
        );
    }
    if bridge.ca.is_none() {
        checks.refuse("bridge.ca", "a broker needs the CA that its certificate must chain to");
    }
    if bridge.vehicles.is_empty() {
        checks.refuse("bridge.vehicles", "without any, nobody could come over the bridge");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(entries: &[&str], vehicle: &str) -> bool {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        VehicleList::new(&entries).contains(&vehicle.parse().expect("an id"))
    }

    #[test]
    fn a_list_has_its_ids_and_what_begins_as_it_says() {
        assert!(lists(&["WVW-1"], "WVW-1"));
        assert!(!lists(&["WVW-1"], "WVW-10"), "an id is not a beginning");
        assert!(lists(&["WVW-1", "TAXI-*"], "TAXI-7"));
        assert!(lists(&["TAXI-*"], "TAXI-"));
        assert!(!lists(&["TAXI-*"], "TAXI"));
        assert!(!lists(&["TAXI-*"], "MYTAXI-7"));
        assert!(!lists(&["taxi-*"], "TAXI-7"));
        assert!(!lists(&[], "WVW-1"));
    }

    #[test]
    fn an_address_is_tls_with_a_host_and_nothing_else() {
        let address = |broker: &str| Bridge { broker: Some(broker.into()), ..Bridge::default() }.address();
        assert_eq!(address("mqtts://broker.example.org"), Some(("broker.example.org".into(), 8883)));
        assert_eq!(address("mqtts://192.0.2.1:1"), Some(("192.0.2.1".into(), 1)));
        for broker in [
            "broker.example.org:8883",
            "mqtt://broker.example.org",
            "mqtts://",
            "mqtts://me:secret@broker.example.org",
            "mqtts://broker.example.org/topic",
            "mqtts://broker.example.org?x=1",
            "mqtts://[::1]:8883",
        ] {
            assert_eq!(address(broker), None, "{broker}");
        }
    }
}
