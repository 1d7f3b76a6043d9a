//! What the store's tests share: steps to append, and waiting for answers.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

pub mod forger;

use std::path::Path;
use std::sync::Arc;

use cardea::clock::Clock;
use cardea::config::Data;
use cardea::domain::{Principal, Timestamp};
use cardea::store::{
    Append, AppendError, Appending, Expected, Idempotency, LocalStore, OpenError, Store, StorePosition, Table,
    ViewChange,
};
use serde_json::value::RawValue;

pub fn data(dir: &Path) -> Data {
    Data { dir: dir.to_owned(), min_free_mib: 1, segment_mib: 1, ..Data::default() }
}

pub fn open(dir: &Path) -> Arc<LocalStore> {
    try_open(dir).unwrap_or_else(|error| panic!("{error}"))
}

pub fn try_open(dir: &Path) -> Result<Arc<LocalStore>, OpenError> {
    LocalStore::open(&data(dir), Clock::start())
}

pub fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// A new folder, in memory where there is such a place.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn now() -> Timestamp {
    Clock::start().now()
}

/// A step with one event and one row in `commands` under the same number.
pub fn step(stream: &str, n: u64) -> Append {
    Append {
        stream: stream.to_owned(),
        expected: Expected::Any,
        fence: None,
        at: Timestamp(now().0 + n as i64),
        by: Principal::gateway(),
        idempotency: None,
        events: vec![raw(&format!("{{\"n\":{n}}}"))],
        view: vec![ViewChange {
            table: Table::Commands,
            key: format!("{n:08}"),
            row: raw(&serde_json::json!({ "stream": stream }).to_string()).into(),
        }],
    }
}

/// A step of about so many bytes.
pub fn big_step(stream: &str, n: u64, bytes: usize) -> Append {
    Append { events: vec![raw(&format!("{{\"n\":{n},\"fill\":\"{}\"}}", "x".repeat(bytes)))], ..step(stream, n) }
}

pub fn keyed(stream: &str, n: u64, key: &str, body: &str) -> Append {
    let idempotency =
        Idempotency { key: key.to_owned(), body: body.to_owned(), answer: raw(&format!("{{\"a\":{n}}}")) };
    Append { idempotency: Some(idempotency), ..step(stream, n) }
}

pub fn wait(appending: Appending) -> Result<StorePosition, AppendError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(appending)
}

/// As long as a fault lasts, or between two looks.
pub fn pause(time: std::time::Duration) {
    let nothing = async { tokio::time::timeout(time, std::future::pending::<()>()).await };
    let over = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(nothing);
    assert!(over.is_err(), "nothing came of nothing");
}

/// Sends all before waiting for any, so that they share batches.
pub fn append_all(store: &dyn Store, steps: Vec<Append>) -> Vec<Result<StorePosition, AppendError>> {
    let appending: Vec<_> = steps.into_iter().map(|step| store.append(step)).collect();
    appending.into_iter().map(wait).collect()
}

/// The numbers in the stream's events, in order.
pub fn numbers(store: &dyn Store, stream: &str) -> Vec<u64> {
    let mut after = StorePosition(0);
    let mut numbers = Vec::new();
    loop {
        let records = store.read(stream, after, 500).unwrap();
        let Some(last) = records.last() else { return numbers };
        after = last.position;
        for record in &records {
            for event in &record.events {
                let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
                numbers.push(event["n"].as_u64().unwrap());
            }
        }
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy_dir(&path, &to.join(name));
        } else {
            std::fs::copy(path, to.join(name)).unwrap();
        }
    }
}

/// The next number of a seeded row (splitmix64).
pub fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
