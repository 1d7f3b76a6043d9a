//! The configuration: TOML -> checked [`Config`]. Unknown keys are refused, and every error names the key and the line.
//!
//! `config/cardea.toml` lists every key with its default and one sentence; a test holds the two together.
//! [`load`] is the only way from a file to a [`Config`]; nobody else reads the file, and nothing here starts anything.

mod bridge;
mod check;
mod check_notifier;
mod cluster;
mod load;
mod network;
mod notifier;
mod oidc;
mod payments;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{Functions, Malformed, key};

pub use bridge::{Bridge, VehicleList};
pub use cluster::Cluster;
pub use load::{ConfigError, Origin, Problem, load, parse};
pub use network::Network;
pub use notifier::{Email, Language, Level, Notifier, Smtp, SmtpTls, Webhook};
pub use oidc::{Oidc, OidcRole};
pub use payments::{Fallback, Form, FormSettings, Payments, Stripe};

/// Everything `cardea serve` needs to know. Relative paths are relative to the folder of the file.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub data: Data,
    pub certs: Certs,
    pub mqtt: Mqtt,
    pub http: Http,
    pub metrics: Metrics,
    pub telemetry: Telemetry,
    pub fleet: Fleet,
    pub keys: Keys,
    pub card_guard: CardGuard,
    pub payments: Payments,
    pub notifier: Notifier,
    pub oidc: Oidc,
    pub map: Map,
    pub audit: Audit,
    pub cluster: Cluster,
    pub bridge: Bridge,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    pub dir: PathBuf,
    /// Below this much free space the gateway stops promising, so that it never tears a write.
    pub min_free_mib: u64,
    pub segment_mib: u64,
    /// Appends that may wait for the disk; more are refused with 503.
    pub queue_max: usize,
    pub snapshot_every_records: u64,
    pub track_retention_hours: u64,
    pub track_max_mib: u64,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            dir: "data".into(),
            min_free_mib: 64,
            segment_mib: 32,
            queue_max: 65_536,
            snapshot_every_records: 200_000,
            track_retention_hours: 168,
            track_max_mib: 1024,
        }
    }
}

/// Witnesses of the journal outside of it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The file that signed checkpoints are appended to; empty = none.
    #[serde(with = "empty_is_none")]
    pub checkpoints: Option<PathBuf>,
    pub checkpoint_every_s: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { checkpoints: None, checkpoint_every_s: 3_600 }
    }
}

/// Where the PEM files are. All are read again on SIGHUP and by `POST /v1/certificates/reload`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certs {
    /// CA bundle that car certificates must chain to (one or more certificates).
    pub ca: PathBuf,
    /// The key of the first CA in the bundle; empty where an outside CA signs.
    #[serde(with = "empty_is_none")]
    pub ca_key: Option<PathBuf>,
    pub server: PathBuf,
    pub server_key: PathBuf,
    /// PEM CRLs; empty = none.
    #[serde(with = "empty_is_none")]
    pub crl: Option<PathBuf>,
    /// How long a car's certificate is good for.
    pub vehicle_days: u32,
}

impl Default for Certs {
    fn default() -> Self {
        Self {
            ca: "certs/ca.pem".into(),
            ca_key: Some("certs/ca.key.pem".into()),
            server: "certs/server.pem".into(),
            server_key: "certs/server.key.pem".into(),
            crl: None,
            vehicle_days: 825,
        }
    }
}

/// The gate to the cars and the routers behind it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    pub listen: SocketAddr,
    pub shards: usize,
    /// Worker threads of the gate's runtime.
    pub threads: usize,
    pub max_sessions: usize,
    pub max_handshakes: usize,
    pub tls_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub write_timeout_ms: u64,
    /// Silence allowed to a car that asked for no keep-alive, and the most it may ask for.
    pub max_keep_alive_s: u64,
    pub max_payload_bytes: usize,
    /// PUBLISHes a car may send per second on average, and at once.
    pub rate_per_s: u32,
    pub rate_burst: u32,
    /// Commands to one car waiting to be written; more kicks the session, and the outbox sends again.
    pub mailbox_max: usize,
    pub ingest_segment_kib: usize,
    pub ingest_segments: usize,
    pub heartbeat_ms: u64,
    /// A shard whose heartbeat is this late is replaced.
    pub stall_ms: u64,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8883)),
            shards: 2,
            threads: 2,
            max_sessions: 20_000,
            max_handshakes: 256,
            tls_timeout_ms: 5_000,
            connect_timeout_ms: 5_000,
            write_timeout_ms: 10_000,
            max_keep_alive_s: 1_200,
            max_payload_bytes: 16 * 1024,
            rate_per_s: 50,
            rate_burst: 200,
            mailbox_max: 128,
            ingest_segment_kib: 1024,
            ingest_segments: 4,
            heartbeat_ms: 250,
            stall_ms: 2_000,
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub listen: SocketAddr,
    pub workers: usize,
    pub max_body_bytes: usize,
    pub max_connections: usize,
    /// Console WebSocket sessions at once.
    pub max_consoles: usize,
    /// Requests per second and burst allowed to one API key.
    pub rate_per_s: u32,
    pub rate_burst: u32,
    /// Requests per second and burst allowed to one address, whoever asks; the payment networks' are not counted.
    pub address_rate_per_s: u32,
    pub address_rate_burst: u32,
    /// Of a request's head, all names and values together.
    pub max_header_bytes: usize,
    /// Whose word on where a request came from is taken, and in which header they write it.
    pub trusted_proxies: Vec<Network>,
    pub proxy_header: ProxyHeader,
    /// Lower-case hex SHA-256 of the first admin's API key, written by `cardea init`; empty = no such key.
    ///
    /// An API key is 256 random bits, so that a plain SHA-256 is a right hash for it: there is nothing to guess from,
    /// and a slow, salted hash (made for passwords people choose) would only slow every request.
    #[serde(with = "empty_is_none")]
    pub bootstrap_admin_sha256: Option<String>,
}

/// What proxies in front of the gateway write the caller's address into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            workers: 2,
            max_body_bytes: 256 * 1024,
            max_connections: 10_000,
            max_consoles: 200,
            rate_per_s: 2_000,
            rate_burst: 4_000,
            address_rate_per_s: 5_000,
            address_rate_burst: 10_000,
            max_header_bytes: 16 * 1024,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::XForwardedFor,
            bootstrap_admin_sha256: None,
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    pub listen: SocketAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

/// Traces by OTLP over HTTP.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Nothing is traced without it.
    #[serde(with = "empty_is_none")]
    pub endpoint: Option<String>,
    pub service_name: String,
    /// Of the requests that bring no decision of their own.
    pub sample_ratio: f64,
    /// PEM bundle that the collector's certificate must chain to; empty = the system's.
    #[serde(with = "empty_is_none")]
    pub ca: Option<PathBuf>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { endpoint: None, service_name: "cardea".into(), sample_ratio: 1.0, ca: None }
    }
}

/// What lies below the cars on the console's map: street tiles from a server, or from a file, or the built-in outlines.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Map {
    /// Of raster tiles, with {z}, {x} and {y}.
    #[serde(with = "empty_is_none")]
    pub tiles: Option<String>,
    /// A PMTiles archive, raster or vector, served by the gateway itself.
    #[serde(with = "empty_is_none")]
    pub pmtiles: Option<PathBuf>,
    /// Whom the map's licence wants to be named.
    pub attribution: String,
    /// The closest zoom that the tiles have.
    pub max_zoom: u8,
}

impl Map {
    /// Where the tiles come from, as a browser's policy names it: `https://tiles.example.org`.
    pub fn origin(&self) -> Option<String> {
        let url = reqwest::Url::parse(&self.tiles.as_ref()?.replace(['{', '}'], "")).ok()?;
        (url.scheme() == "https" && url.host_str().is_some()).then(|| url.origin().ascii_serialization())
    }
}

impl Default for Map {
    fn default() -> Self {
        Self { tiles: None, pmtiles: None, attribution: String::new(), max_zoom: 19 }
    }
}

/// The vehicle actors.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// Threads that run vehicle actors.
    pub arbiters: usize,
    pub max_vehicles: usize,
    /// Vehicle actors in memory; idle ones beyond it leave and come back on need.
    pub max_resident: usize,
    pub mailbox: usize,
    /// Observations on their way to the actors; more and the gate stops reading.
    pub max_observations_in_flight: usize,
    pub lock_ttl_s: u64,
    pub command_ttl_s: u64,
    pub max_ttl_s: u64,
    /// Who the fleet is to cities; nil until the Open Mobility Foundation has given one.
    pub mds_provider_id: Uuid,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            arbiters: 2,
            max_vehicles: 200_000,
            max_resident: 50_000,
            mailbox: 256,
            max_observations_in_flight: 20_000,
            lock_ttl_s: 300,
            command_ttl_s: 3_600,
            max_ttl_s: 30 * 86_400,
            mds_provider_id: Uuid::nil(),
        }
    }
}

/// Virtual keys.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// PKCS#8 PEM of the fleet's Ed25519 signing key.
    pub signing_key: PathBuf,
    /// Keys that tokens still in use were signed by: published with it, and signing nothing.
    pub retired_signing_keys: Vec<PathBuf>,
    /// The token's `iss`.
    pub issuer: String,
    /// The longest a key may be valid.
    pub max_minutes: u64,
    /// What keys are lent under, by name. The file's table, when it has one, stands in place of the built-in one.
    pub profiles: BTreeMap<String, KeyProfile>,
}

impl Default for Keys {
    fn default() -> Self {
        let built_in = key::Profile::built_in().into_iter();
        Self {
            signing_key: "certs/signing.key.pem".into(),
            retired_signing_keys: Vec::new(),
            issuer: "cardea".into(),
            max_minutes: 30 * 24 * 60,
            profiles: built_in
                .map(|profile| {
                    let key::Profile { name, permits, max_delegation, max_speed_kmh } = profile;
                    (name, KeyProfile { permits, max_delegation, max_speed_kmh })
                })
                .collect(),
        }
    }
}

impl Keys {
    /// With the one that signs, a set that a car holds in memory.
    pub const MAX_RETIRED: usize = 15;

    /// The profiles as the domain knows them. [`load`] has called this already, so that it does not fail afterwards.
    pub fn profiles(&self) -> Result<Vec<key::Profile>, Malformed> {
        let profiles = self.profiles.iter();
        profiles.map(|(name, table)| table.profile(name)).collect()
    }
}

/// One `[keys.profiles.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyProfile {
    /// The functions a key of this profile permits; every function not listed is prohibited.
    pub permits: Functions,
    /// 1 = the holder may pass a narrower key on, once.
    #[serde(default)]
    pub max_delegation: u8,
    /// The car keeps to it while it is driven with such a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_speed_kmh: Option<u16>,
}

impl KeyProfile {
    pub fn profile(&self, name: &str) -> Result<key::Profile, Malformed> {
        key::Profile::new(name, self.permits, self.max_delegation, self.max_speed_kmh)
    }
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CardGuard {
    /// `card-rules.toml`; empty = the built-in defaults, which that file lists.
    #[serde(with = "empty_is_none")]
    pub rules: Option<PathBuf>,
    /// Declines of a card for hard reasons within a day, after which it is suspended until an operator reinstates it;
    /// 0 = never.
    pub suspend_after_declines: u32,
    /// What is answered when the store does not take a decision in time.
    pub while_store_is_away: WhileStoreIsAway,
    /// Folder of the mapping files for station imports; empty = none.
    #[serde(with = "empty_is_none")]
    pub station_mappings: Option<PathBuf>,
}

/// What a purchase is answered while the store does not answer, as when the engine of a cluster elects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhileStoreIsAway {
    /// What the checks say; it is recorded afterwards.
    #[default]
    Decide,
    /// What `payments.*.fallback` says.
    Fallback,
}

impl Webhook {
    /// The keys that sign. [`load`] has checked them already, so that none is left out.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.secrets.iter().filter_map(|secret| check_notifier::webhook_key(secret)).collect()
    }
}

/// TOML has no null: an empty string says "none", so that a file can switch a default off.
mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, T: From<String>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok((!text.is_empty()).then(|| T::from(text)))
    }
}
