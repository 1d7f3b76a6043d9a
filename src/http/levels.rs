//! What `/metrics` shows beside what the parts count: the bounds of queues, the disk, when certificates end, and the process.
//!
//! For alerts that need a level next to its bound. Read at a scrape; files are looked at once a minute at most.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::system::{self, CertificateBody};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::Timestamp;
use crate::metrics::{Metrics, Reading, Value};
use crate::store::free_bytes;

/// Certificates change by hand and tell of their end weeks before.
const CERTIFICATES_KNOWN_FOR: Duration = Duration::from_secs(60);

pub(super) fn register(metrics: &Metrics, config: Arc<Config>, clock: Clock, started_at: Timestamp) {
    let known: Mutex<Option<(Duration, Vec<CertificateBody>)>> = Mutex::default();
    metrics.register(move || {
        let now = clock.elapsed();
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = known.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < CERTIFICATES_KNOWN_FOR);
        if !is_fresh {
            *known = Some((now, system::certificates(&config).0));
        }
        let certificates = known.as_ref().map_or(&[][..], |(_, certificates)| certificates);
        readings(&config, started_at, certificates)
    });
}

fn readings(config: &Config, started_at: Timestamp, certificates: &[CertificateBody]) -> Vec<Reading> {
    let gauges = |name, help, label: &'static str, values: Vec<(String, f64)>| Reading {
        name,
        help,
        values: values.into_iter().map(|(key, value)| (vec![(label, key)], Value::Gauge(value))).collect(),
    };
    let bounds = system::bounds(config).map(|(gauge, bound)| (gauge.to_owned(), bound as f64));
    let ends = certificates.iter().map(|certificate| (certificate.name.clone(), certificate.expires_at.0 as f64 / 1e3));
    let version = vec![(env!("CARGO_PKG_VERSION").to_owned(), 1.0)];
    let min_free = config.data.min_free_mib.saturating_mul(1024 * 1024);
    let mut readings = vec![
        gauges("bound", "What a level refuses or waits beyond, by the level's name", "of", bounds.into()),
        gauges("certificate_ends_seconds", "When a certificate ends, Unix time", "name", ends.collect()),
        gauges("build_info", "The version that runs", "version", version),
        Reading::gauge("start_time_seconds", "When it was started, Unix time", started_at.0 as f64 / 1e3),
        Reading::gauge("disk_min_free_bytes", "Free space below which promises are refused", min_free as f64),
    ];
    if let Some(free) = free_bytes(&config.data.dir) {
        readings.push(Reading::gauge("disk_free_bytes", "Free space where the data is", free as f64));
    }
    if let Some(resident) = resident_bytes(Path::new("/proc/self/statm")) {
        readings.push(Reading::gauge("memory_resident_bytes", "Memory that the process has", resident as f64));
    }
    readings
}

/// The second number is the resident set, in pages.
fn resident_bytes(statm: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(statm).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
