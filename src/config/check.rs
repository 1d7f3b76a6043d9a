//! What a value must be beyond its type: ranges, listen addresses, paths, profiles, and what goes together.
//!
//! Every limit must bite somewhere, so that zero is refused for all of them. No file is opened here.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use base64::Engine;

use super::check_notifier::{is_https, notifier};
use super::{Config, FormSettings, Keys, Map, Oidc, Payments, Telemetry};
use crate::domain::key::Profile;

/// Every problem as (dotted key, what was found and expected).
pub fn problems(config: &Config) -> Vec<(String, String)> {
    let mut checks = Checks::default();
    storage(&mut checks, config);
    checks.range("audit.checkpoint_every_s", config.audit.checkpoint_every_s, 1..=DAY_S);
    certificates(&mut checks, config);
    gate(&mut checks, config);
    http(&mut checks, config);
    listen_addresses(&mut checks, config);
    fleet(&mut checks, config);
    keys(&mut checks, &config.keys);
    payments(&mut checks, &config.payments);
    notifier(&mut checks, config);
    oidc(&mut checks, &config.oidc);
    map(&mut checks, &config.map);
    telemetry(&mut checks, &config.telemetry);
    super::cluster::check(&mut checks, &config.cluster);
    super::bridge::check(&mut checks, &config.bridge);
    checks.problems
}

const DAY_S: u64 = 86_400;
const MINUTE_MS: u64 = 60_000;

#[derive(Default)]
pub(super) struct Checks {
    problems: Vec<(String, String)>,
}

impl Checks {
    pub(super) fn refuse(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push((key.to_owned(), message.into()));
    }

    pub(super) fn range(&mut self, key: &str, value: impl TryInto<u64>, allowed: RangeInclusive<u64>) {
        let value = value.try_into().unwrap_or(u64::MAX);
        if !allowed.contains(&value) {
            self.refuse(key, format!("{value} is out of range; expected {} to {}", allowed.start(), allowed.end()));
        }
    }

    fn path(&mut self, key: &str, path: &Path) {
        if path.as_os_str().is_empty() {
            self.refuse(key, "\"\" is no path; expected the path of a file or folder");
        }
    }
}

fn map(checks: &mut Checks, map: &Map) {
    if let Some(tiles) = &map.tiles {
        let has_places = ["{z}", "{x}", "{y}"].iter().all(|place| tiles.contains(place));
        let is_plain = tiles.chars().all(|c| c.is_ascii_graphic() && !";,'\"".contains(c));
        if !has_places || !is_plain || tiles.len() > 1_024 || map.origin().is_none() {
            checks.refuse("map.tiles", "expected an address like \"https://tiles.example.org/{z}/{x}/{y}.png\"");
        }
        if map.pmtiles.is_some() {
            checks.refuse("map.pmtiles", "either this or map.tiles");
        }
    }
    if map.attribution.len() > 256 || map.attribution.chars().any(char::is_control) {
        checks.refuse("map.attribution", "expected at most 256 bytes");
    }
    checks.range("map.max_zoom", map.max_zoom, 1..=24);
}

fn telemetry(checks: &mut Checks, telemetry: &Telemetry) {
    let Telemetry { endpoint, service_name, sample_ratio, .. } = telemetry;
    if endpoint.as_ref().is_some_and(|url| !is_https(url) || url.len() > 2_048) {
        checks.refuse(
            "telemetry.endpoint",
            "expected an https address (http to a loopback address only), without a log-in, like \
             \"http://127.0.0.1:4318/v1/traces\"",
        );
    }
    if !(1..=256).contains(&service_name.len()) || service_name.chars().any(char::is_control) {
        checks.refuse("telemetry.service_name", "expected 1 to 256 bytes");
    }
    if !(0.0..=1.0).contains(sample_ratio) {
        checks.refuse("telemetry.sample_ratio", format!("{sample_ratio} is out of range; expected 0 to 1"));
    }
}

/// Nothing of it is looked at where there is no issuer.
fn oidc(checks: &mut Checks, oidc: &Oidc) {
    let Some(issuer) = &oidc.issuer else { return };
    if !is_https(issuer) || issuer.len() > 2_048 {
        checks.refuse("oidc.issuer", "expected an https address (http to a loopback address only), without a log-in");
    }
    if oidc.public_url.as_ref().is_some_and(|url| !url.starts_with("https://") || !is_https(url)) {
        checks.refuse("oidc.public_url", "expected an address like \"https://cardea.example.org\"");
    }
    let fit = |text: &str| (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
    for (key, text) in [
        ("oidc.client_id", &oidc.client_id),
        ("oidc.name", &oidc.name),
        ("oidc.subject_claim", &oidc.subject_claim),
        ("oidc.role_claim", &oidc.role_claim),
    ] {
        if !fit(text) {
            checks.refuse(key, "expected 1 to 256 bytes");
        }
    }
    if !oidc.scopes.iter().any(|scope| scope == "openid") {
        checks.refuse("oidc.scopes", "\"openid\" must be among them");
    }
    if oidc.roles.is_empty() {
        checks.refuse("oidc.roles", "without one nobody could log in");
    }
    if oidc.bearer_audience.as_ref() == Some(&oidc.client_id) {
        checks.refuse(
            "oidc.bearer_audience",
            "equal to client_id, so that what tells who logged in would pass for a permission",
        );
    }
}

fn storage(checks: &mut Checks, config: &Config) {
    let data = &config.data;
    checks.path("data.dir", &data.dir);
    checks.range("data.min_free_mib", data.min_free_mib, 1..=1_048_576);
    checks.range("data.segment_mib", data.segment_mib, 1..=1_024);
    checks.range("data.queue_max", data.queue_max, 1..=1_048_576);
    checks.range("data.snapshot_every_records", data.snapshot_every_records, 1..=1_000_000_000);
    checks.range("data.track_retention_hours", data.track_retention_hours, 1..=10 * 365 * 24);
    checks.range("data.track_max_mib", data.track_max_mib, 1..=16 * 1_048_576);
}

fn certificates(checks: &mut Checks, config: &Config) {
    let certs = &config.certs;
    checks.path("certs.ca", &certs.ca);
    checks.path("certs.server", &certs.server);
    checks.path("certs.server_key", &certs.server_key);
    checks.range("certs.vehicle_days", certs.vehicle_days, 1..=3_650);
}

fn gate(checks: &mut Checks, config: &Config) {
    let mqtt = &config.mqtt;
    checks.range("mqtt.shards", mqtt.shards, 1..=16);
    checks.range("mqtt.threads", mqtt.threads, 1..=64);
    checks.range("mqtt.max_sessions", mqtt.max_sessions, 1..=1_000_000);
    checks.range("mqtt.max_handshakes", mqtt.max_handshakes, 1..=65_536);
    checks.range("mqtt.tls_timeout_ms", mqtt.tls_timeout_ms, 1..=MINUTE_MS);
    checks.range("mqtt.connect_timeout_ms", mqtt.connect_timeout_ms, 1..=MINUTE_MS);
    checks.range("mqtt.write_timeout_ms", mqtt.write_timeout_ms, 1..=MINUTE_MS);
    // MQTT's keep-alive is 16 bits of seconds.
    checks.range("mqtt.max_keep_alive_s", mqtt.max_keep_alive_s, 1..=u64::from(u16::MAX));
    // The contract with the cars allows 16 KiB.
    checks.range("mqtt.max_payload_bytes", mqtt.max_payload_bytes, 64..=16 * 1024);
    checks.range("mqtt.rate_per_s", mqtt.rate_per_s, 1..=1_000_000);
    checks.range("mqtt.rate_burst", mqtt.rate_burst, 1..=1_000_000);
    checks.range("mqtt.mailbox_max", mqtt.mailbox_max, 1..=65_536);
    checks.range("mqtt.ingest_segment_kib", mqtt.ingest_segment_kib, 1..=1_048_576);
    checks.range("mqtt.ingest_segments", mqtt.ingest_segments, 1..=64);
    checks.range("mqtt.heartbeat_ms", mqtt.heartbeat_ms, 10..=MINUTE_MS);
    checks.range("mqtt.stall_ms", mqtt.stall_ms, 20..=10 * MINUTE_MS);
    if mqtt.stall_ms < mqtt.heartbeat_ms.saturating_mul(2) {
        let (stall, heartbeat) = (mqtt.stall_ms, mqtt.heartbeat_ms);
        checks.refuse(
            "mqtt.stall_ms",
            format!("{stall} would replace healthy shards; expected at least twice mqtt.heartbeat_ms ({heartbeat})"),
        );
    }
}

fn http(checks: &mut Checks, config: &Config) {
    let http = &config.http;
    checks.range("http.workers", http.workers, 1..=64);
    checks.range("http.max_body_bytes", http.max_body_bytes, 1_024..=64 * 1_048_576);
    checks.range("http.max_connections", http.max_connections, 1..=1_000_000);
    checks.range("http.max_consoles", http.max_consoles, 1..=100_000);
    checks.range("http.rate_per_s", http.rate_per_s, 1..=1_000_000);
    checks.range("http.rate_burst", http.rate_burst, 1..=1_000_000);
    checks.range("http.address_rate_per_s", http.address_rate_per_s, 1..=1_000_000);
    checks.range("http.address_rate_burst", http.address_rate_burst, 1..=1_000_000);
    // actix reads no longer heads.
    checks.range("http.max_header_bytes", http.max_header_bytes, 1_024..=128 * 1_024);
    let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if let Some(hash) = &http.bootstrap_admin_sha256
        && !(hash.len() == 64 && hash.bytes().all(is_lower_hex))
    {
        checks.refuse("http.bootstrap_admin_sha256", "not a SHA-256; expected 64 lower-case hex digits, or \"\"");
    }
}

/// Two listeners cannot share a port; port 0 picks a free one.
fn listen_addresses(checks: &mut Checks, config: &Config) {
    let listeners: [(&str, SocketAddr); 3] = [
        ("mqtt.listen", config.mqtt.listen),
        ("http.listen", config.http.listen),
        ("metrics.listen", config.metrics.listen),
    ];
    for (index, (key, address)) in listeners.iter().enumerate() {
        let clashes = |other: &SocketAddr| {
            let same_place = other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified();
            address.port() != 0 && other.port() == address.port() && same_place
        };
        if let Some((taken_by, _)) = listeners[..index].iter().find(|(_, other)| clashes(other)) {
            checks.refuse(key, format!("{address} is taken by {taken_by}; expected a port of its own, or port 0"));
        }
    }
}

fn fleet(checks: &mut Checks, config: &Config) {
    let fleet = &config.fleet;
    checks.range("fleet.arbiters", fleet.arbiters, 1..=64);
    checks.range("fleet.max_vehicles", fleet.max_vehicles, 1..=10_000_000);
    checks.range("fleet.max_resident", fleet.max_resident, 1..=10_000_000);
    checks.range("fleet.mailbox", fleet.mailbox, 1..=65_536);
    checks.range("fleet.max_observations_in_flight", fleet.max_observations_in_flight, 1..=10_000_000);
    checks.range("fleet.max_ttl_s", fleet.max_ttl_s, 1..=366 * DAY_S);
    checks.range("fleet.lock_ttl_s", fleet.lock_ttl_s, 1..=fleet.max_ttl_s.max(1));
    checks.range("fleet.command_ttl_s", fleet.command_ttl_s, 1..=fleet.max_ttl_s.max(1));
}

fn keys(checks: &mut Checks, keys: &Keys) {
    checks.path("keys.signing_key", &keys.signing_key);
    if keys.retired_signing_keys.len() > Keys::MAX_RETIRED {
        let count = keys.retired_signing_keys.len();
        checks.refuse("keys.retired_signing_keys", format!("{count} keys; expected at most {}", Keys::MAX_RETIRED));
    }
    // The issuer is part of every token, and a token is at most 1 KiB.
    if keys.issuer.is_empty() || keys.issuer.len() > 64 || keys.issuer.chars().any(char::is_control) {
        checks.refuse("keys.issuer", format!("{:?} is no issuer; expected 1 to 64 bytes of text", keys.issuer));
    }
    checks.range("keys.max_minutes", keys.max_minutes, 1..=366 * DAY_S / 60);
    if keys.profiles.is_empty() || keys.profiles.len() > 64 {
        let count = keys.profiles.len();
        checks.refuse("keys.profiles", format!("{count} profiles; expected 1 to 64 tables [keys.profiles.NAME]"));
    }
    for (name, profile) in &keys.profiles {
        let key = format!("keys.profiles.{name}");
        let is_name_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(is_name_byte) {
            checks.refuse("keys.profiles", format!("{name:?} is no profile name; expected 1 to 32 of a-z 0-9 _ -"));
        }
        if let Some(kmh) = profile.max_speed_kmh {
            let limits = u64::from(*Profile::MAX_SPEED_KMH.start())..=u64::from(*Profile::MAX_SPEED_KMH.end());
            checks.range(&format!("{key}.max_speed_kmh"), kmh, limits);
        }
        if let Err(error) = profile.profile(name) {
            checks.refuse(&key, format!("refused: {error}"));
        }
    }
}

/// Values of secrets are not repeated in messages.
fn payments(checks: &mut Checks, payments: &Payments) {
    form(checks, "stripe", payments.stripe.settings());
    form(checks, "own", payments.own.settings());
    form(checks, "marqeta", payments.marqeta.settings());
    form(checks, "lithic", payments.lithic.settings());
    let whsec = "a secret is not whsec_ and base64 of 16 to 64 bytes, as Standard Webhooks has it";
    for (name, secrets) in [("own", &payments.own.secrets), ("lithic", &payments.lithic.secrets)] {
        if !secrets.iter().all(|secret| is_whsec(secret)) {
            checks.refuse(&format!("payments.{name}.secrets"), whsec);
        }
    }
    let is_login =
        |secret: &String| secret.split_once(':').is_some_and(|(user, word)| !user.is_empty() && word.len() >= 8);
    if !payments.marqeta.secrets.iter().all(is_login) {
        checks.refuse("payments.marqeta.secrets", "a secret is not user:password with a password of 8 or more");
    }
    // It becomes a header's value.
    let version = &payments.stripe.api_version;
    if version.is_empty() || version.len() > 64 || !version.bytes().all(|b| b.is_ascii_graphic()) {
        checks.refuse("payments.stripe.api_version", format!("{version:?} is no version; expected like 2026-10-28"));
    }
    // The strictest network waits 2 s in all, and the fallback is to be heard within 1 s.
    checks.range("payments.stripe.deadline_ms", payments.stripe.deadline_ms, 1..=900);
}

fn form(checks: &mut Checks, name: &str, form: FormSettings<'_>) {
    let key = |key: &str| format!("payments.{name}.{key}");
    let secrets = form.secrets;
    if secrets.len() > 8 {
        checks.refuse(&key("secrets"), format!("{} secrets; expected at most 8", secrets.len()));
    }
    let is_fit = |secret: &String| (1..=256).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_graphic());
    if !secrets.iter().all(is_fit) {
        checks.refuse(
            &key("secrets"),
            "a secret has an unlikely form; expected 1 to 256 printable ASCII characters each",
        );
    }
    if secrets.iter().collect::<BTreeSet<_>>().len() < secrets.len() {
        checks.refuse(&key("secrets"), "the same secret twice; expected each once");
    }
    checks.range(&key("tolerance_s"), form.tolerance_s, 1..=3_600);
    checks.range(&key("max_body_bytes"), form.max_body_bytes, 1_024..=1_048_576);
    checks.range(&key("rate_per_s"), form.rate_per_s, 1..=1_000_000);
    checks.range(&key("rate_burst"), form.rate_burst, 1..=1_000_000);
    checks.range(&key("approve_up_to_minor"), form.approve_up_to_minor, 1..=100_000_000);
}

fn is_whsec(secret: &str) -> bool {
    let key = secret.strip_prefix("whsec_").unwrap_or(secret);
    base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|key| (16..=64).contains(&key.len()))
}
