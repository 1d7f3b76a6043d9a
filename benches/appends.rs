//! Appends a second, by how many are on their way at once: what a store takes, whichever engine is behind it.
//!
//! `cargo bench --bench appends -- --seconds 5 [--set cluster.servers=... ...]`; run side by side by `scripts/bench cluster`.
//! Each writer has a stream of its own and waits for its answer, as a vehicle's actor does. Prints one JSON line.

#![allow(clippy::unwrap_used, reason = "a bench that fails shall say where")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cardea::clock::{Clock, Stopwatch};
use cardea::config::{Config, parse};
use cardea::domain::{Principal, Timestamp};
use cardea::store::{Append, ClusterStore, Expected, LocalStore, Store, StorePosition, Table, ViewChange};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// About what a command's step takes: one event and three rows.
const FILL: usize = 900;
const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

fn main() {
    let (mut seconds, mut sets) = (5, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => seconds = arguments.next().and_then(|text| text.parse().ok()).expect("a number"),
            "--set" => sets.push(arguments.next().expect("KEY=VALUE")),
            // What `cargo bench` adds.
            "--bench" => {}
            other => panic!("no such option: {other}"),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = parse("", Path::new("cardea.toml"), &sets).unwrap_or_else(|error| panic!("{error}"));
    config.data.dir = dir.path().join("data");
    let store = open(&config);
    let rows: Vec<_> =
        IN_FLIGHT.iter().map(|writers| measure(&store, *writers, Duration::from_secs(seconds))).collect();
    println!("{}", json!({ "bytes": FILL, "rows": rows }));
}

fn open(config: &Config) -> Arc<dyn Store> {
    let failed = |error| -> ! { panic!("{error}") };
    if config.cluster.is_on() {
        return ClusterStore::open(config, Clock::start()).unwrap_or_else(|error| failed(error));
    }
    LocalStore::open(&config.data, Clock::start()).unwrap_or_else(|error| failed(error))
}

fn raw(value: &serde_json::Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

fn step(writer: usize, number: u64, last: u64) -> Append {
    let fill = "x".repeat(FILL);
    Append {
        stream: format!("bench/{writer}"),
        expected: Expected::Last(StorePosition(last)),
        fence: None,
        at: Timestamp(1_800_000_000_000),
        by: Principal::gateway(),
        idempotency: None,
        events: vec![raw(&json!({ "n": number, "fill": fill }))],
        view: vec![ViewChange {
            table: Table::Commands,
            key: format!("{writer}-{}", number % 32),
            row: raw(&json!({ "n": number })).into(),
        }],
    }
}

fn measure(store: &Arc<dyn Store>, writers: usize, time: Duration) -> serde_json::Value {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let begun = Stopwatch::start();
    let mut took: Vec<u64> = runtime.block_on(async {
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (store, is_over) = (Arc::clone(store), Arc::clone(&is_over));
                let writer = writers * 1_000 + writer;
                tokio::spawn(async move {
                    let (mut last, mut took) = (0, Vec::new());
                    for number in 0.. {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        let since = Stopwatch::start();
                        last = store.append(step(writer, number, last)).await.unwrap().0;
                        took.push(u64::try_from(since.elapsed().as_micros()).unwrap());
                    }
                    took
                })
            })
            .collect();
        tokio::time::sleep(time).await;
        is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    let elapsed = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let quantile = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    json!({
        "in_flight": writers,
        "appends_per_s": took.len() as f64 / elapsed,
        "p50_us": quantile(0.50),
        "p99_us": quantile(0.99),
    })
}
