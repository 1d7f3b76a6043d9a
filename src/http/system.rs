//! `/v1/system`: how the gateway does, in one answer: what is wrong, how full each queue is, what will expire.
//!
//! The levels are those of `/metrics`, read at the same place; only what a person acts on is here.

use std::collections::HashMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::vehicles::READERS;
use super::wire::{off_thread, reply};
use crate::config::Config;
use crate::domain::Timestamp;
use crate::metrics::{Reading, Value};
use crate::pki;
use crate::store::{StoreHealth, free_bytes, journal_bytes};

/// A certificate that ends within this is told of.
const SOON_MS: i64 = 30 * 86_400_000;

/// `{"version":"0.1.0","started_at":"…","at":"…","ready":true,"problems":[],"journal":{…},…}`
#[derive(Debug, Serialize, ToSchema)]
pub struct SystemBody {
    version: &'static str,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Promises are taken and queries answered.
    ready: bool,
    /// What somebody should look at, in sentences.
    problems: Vec<String>,
    journal: JournalBody,
    disk: DiskBody,
    vehicles: VehiclesBody,
    /// Each with the bound beyond which it refuses or waits.
    queues: Vec<QueueBody>,
    notifier: NotifierBody,
    consoles: ConsolesBody,
    certificates: Vec<CertificateBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct JournalBody {
    /// The newest durable record's number.
    records: u64,
    /// Records that queries do not show yet.
    behind: u64,
    bytes: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DiskBody {
    /// Absent where the file system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    /// Less than `data.min_free_mib` is free: promises are refused.
    low: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct VehiclesBody {
    registered: u64,
    online: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct QueueBody {
    /// The name of its gauge at `/metrics`.
    name: &'static str,
    depth: u64,
    bound: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct NotifierBody {
    /// Notifications still to be delivered.
    pending: u64,
    /// Dead letters.
    dead: u64,
    targets: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ConsolesBody {
    open: u64,
    most: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CertificateBody {
    /// The configuration's key, with the certificate's name.
    pub(super) name: String,
    #[schema(value_type = String, format = DateTime)]
    pub(super) expires_at: Timestamp,
}

/// The level of each gauge, summed over its labels.
struct Levels(HashMap<&'static str, u64>);

impl Levels {
    fn of(readings: &[Reading]) -> Self {
        let level = |reading: &Reading| {
            let gauges = reading.values.iter().filter_map(|(_, value)| match value {
                Value::Gauge(level) => Some(level.max(0.0) as u64),
                _ => None,
            });
            gauges.sum()
        };
        Self(readings.iter().map(|reading| (reading.name, level(reading))).collect())
    }

    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Gauges that have a bound, with it.
pub(super) fn bounds(config: &Config) -> [(&'static str, usize); 6] {
    let Config { data, mqtt, http, fleet, .. } = config;
    [
        ("store_queue", data.queue_max),
        ("observations_in_flight", fleet.max_observations_in_flight),
        ("vehicles_resident", fleet.max_resident),
        ("mqtt_sessions", mqtt.max_sessions),
        ("mqtt_handshakes", mqtt.max_handshakes),
        ("consoles", http.max_consoles),
    ]
}

#[utoipa::path(get, path = "/v1/system", tag = "system", responses((status = 200, body = SystemBody)))]
pub async fn get(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let config = app.config.clone();
    let (free, bytes, certificates) = off_thread(move || {
        let dir = &config.data.dir;
        (free_bytes(dir), journal_bytes(dir).unwrap_or(0), certificates(&config))
    })
    .await?;
    let (health, now) = (app.store.health(), app.clock.now());
    let levels = Levels::of(&app.metrics.read());
    let (certificates, unread) = certificates;
    let mut problems = ailments(&health, &levels);
    problems.extend(unread);
    problems.extend(expiring(&certificates, now));
    let body = SystemBody {
        version: env!("CARGO_PKG_VERSION"),
        started_at: app.started_at,
        at: now,
        ready: is_ready(&health),
        problems,
        journal: JournalBody {
            records: health.durable.0,
            behind: health.durable.0.saturating_sub(health.applied.0),
            bytes,
        },
        disk: DiskBody {
            free_bytes: free,
            low: free.is_some_and(|free| free < app.config.data.min_free_mib * 1024 * 1024),
        },
        vehicles: VehiclesBody { registered: app.fleet.registered() as u64, online: levels.get("mqtt_sessions") },
        queues: bounds(&app.config)
            .map(|(name, bound)| QueueBody { name, depth: levels.get(name), bound: bound as u64 })
            .into(),
        notifier: NotifierBody {
            pending: levels.get("notifications_waiting"),
            dead: levels.get("notifications_dead"),
            targets: (app.config.notifier.webhooks.len() + app.config.notifier.emails.len()) as u64,
        },
        consoles: ConsolesBody { open: app.consoles.count() as u64, most: app.config.http.max_consoles as u64 },
        certificates,
    };
    Ok(reply(StatusCode::OK, &body))
}

fn is_ready(health: &StoreHealth) -> bool {
    !health.is_poisoned && health.refusing.is_none() && health.view_problem.is_none()
}

fn ailments(health: &StoreHealth, levels: &Levels) -> Vec<String> {
    let mut found = Vec::new();
    if health.is_poisoned {
        found.push("A write to the journal failed; the gateway must be started again.".to_owned());
    } else if let Some(why) = health.refusing {
        found.push(format!("Promises are refused: {why}."));
    }
    if health.view_problem.is_some() {
        found.push("Queries are not answered while the view is made anew.".into());
    }
    if levels.get("notifications_dead") > 0 {
        found.push(format!("{} notifications could not be delivered.", levels.get("notifications_dead")));
    }
    if levels.get("card_fallbacks_waiting") > 0 {
        let waiting = levels.get("card_fallbacks_waiting");
        found.push(format!("{waiting} card answers wait to be written down."));
    }
    found
}

/// Every certificate of the gateway's own files, and what could not be read.
pub(super) fn certificates(config: &Config) -> (Vec<CertificateBody>, Vec<String>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (key, path) in [("certs.server", &config.certs.server), ("certs.ca", &config.certs.ca)] {
        match std::fs::read_to_string(path).map_err(|error| error.to_string()).and_then(|pem| pki::ends(&pem)) {
            Ok(ends) => found.extend(
                ends.into_iter()
                    .map(|(name, expires_at)| CertificateBody { name: format!("{key}: {name}"), expires_at }),
            ),
            Err(error) => {
                tracing::warn!(key, error, "certificates cannot be read");
                problems.push(format!("The file of {key} cannot be read."));
            }
        }
    }
    (found, problems)
}

fn expiring(certificates: &[CertificateBody], now: Timestamp) -> Vec<String> {
    let soon = certificates.iter().filter(|certificate| certificate.expires_at < now.plus_ms(SOON_MS));
    soon.map(|CertificateBody { name, expires_at }| {
        let verb = if *expires_at <= now { "expired" } else { "expires" };
        format!("The certificate {name} {verb} at {expires_at}.")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{app, ask, service};
    use super::*;
    use crate::domain::Role;

    #[actix_web::test]
    async fn it_says_what_is_wrong_and_to_whom_it_may() {
        let (app, store) = app();
        let service = service!(app);
        let (status, body) = ask!(service, Role::Operator, GET "/v1/system");
        assert_eq!((status, body["ready"].as_bool()), (200, Some(true)), "{body}");
        // The test's files do not exist, which is told and hides nothing else.
        assert_eq!(body["problems"].as_array().unwrap().len(), 2, "{body}");
        assert_eq!(body["queues"].as_array().unwrap().len(), 6);
        store.refuse(Some("disk"));
        let (_, body) = ask!(service, Role::Auditor, GET "/v1/system");
        assert_eq!(
            (body["ready"].as_bool(), body["problems"][0].as_str()),
            (Some(false), Some("Promises are refused: disk."))
        );
        assert_eq!(ask!(service, Role::Renter, GET "/v1/system").0, 403);
    }

    #[test]
    fn what_expires_soon_is_told() {
        let now = Timestamp(1_000_000_000_000);
        let certificate = |days: i64| CertificateBody {
            name: "certs.server: gateway".into(),
            expires_at: now.plus_ms(days * 86_400_000),
        };
        let told = expiring(&[certificate(31), certificate(29), certificate(0)], now);
        assert!(told.len() == 2 && told[0].contains("expires at") && told[1].contains("expired at"), "{told:?}");
    }
}
