//! What only the store of a single machine has: its files, its lock, its queue. What it shares with the cluster's is in
//! `store_promises.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod store_kit;

use cardea::store::{Append, AppendError, OpenError, Store, StorePosition, Table, export, verify};
use store_kit::*;

#[test]
fn everything_survives_a_crash_and_many_segments() {
    let dir = scratch();
    let store = open(dir.path());
    let all: Vec<u64> = (1..=200).collect();
    for chunk in all.chunks(40) {
        let steps = chunk.iter().map(|n| big_step("s", *n, 20_000)).collect();
        assert!(append_all(&*store, steps).iter().all(Result::is_ok));
    }
    assert!(std::fs::read_dir(dir.path().join("journal")).unwrap().count() >= 4);
    assert_eq!(numbers(&*store, "s"), all);
    drop(store);
    let store = open(dir.path());
    assert_eq!(numbers(&*store, "s"), all);
    assert_eq!(store.tail(StorePosition(0), 1_000).unwrap().len(), 200);
    assert_eq!(store.tail(StorePosition(150), 1_000).unwrap()[0].position.0, 151);
    assert_eq!(store.get(Table::Commands, "00000200").unwrap().unwrap().get(), r#"{"stream":"s"}"#);
    store.close();
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.records, verified.torn_bytes, verified.head_was_lost), (200, 0, false));
}

#[test]
fn second_process_is_refused_and_can_look_meanwhile() {
    let dir = scratch();
    let store = open(dir.path());
    wait(store.append(step("s", 1))).unwrap();
    let second = try_open(dir.path());
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    assert!(verify(dir.path()).unwrap().records <= 1);
    store.close();
    store.close();
    let late = wait(store.append(step("s", 2)));
    assert!(matches!(late, Err(AppendError::Full("closed"))), "{late:?}");
    assert_eq!(store.health().refusing, Some("closed"));
    drop(store);
    let store = open(dir.path());
    assert_eq!(numbers(&*store, "s"), [1]);
}

#[test]
fn export_gives_every_record_on_one_line() {
    let dir = scratch();
    let store = open(dir.path());
    wait(store.append(Append { events: vec![raw("{\n \"n\": 1 }")], ..step("s", 1) })).unwrap();
    wait(store.append(step("t", 2))).unwrap();
    store.close();
    let mut out = Vec::new();
    assert_eq!(export(dir.path(), &mut out).unwrap(), 2);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[0]["position"].as_u64(), lines[0]["events"][0]["n"].as_u64()), (Some(1), Some(1)));
    assert_eq!(lines[1]["hash"].as_str().unwrap(), verify(dir.path()).unwrap().last_hash);
    assert_eq!((lines[1]["stream"].as_str(), lines[1]["by"]["role"].as_str()), (Some("t"), Some("gateway")));
}

#[test]
fn full_queue_refuses_and_what_was_taken_is_there() {
    let dir = scratch();
    let config = cardea::config::Data { queue_max: 4, ..data(dir.path()) };
    let store = cardea::store::LocalStore::open(&config, cardea::clock::Clock::start()).unwrap();
    let mut taken = Vec::new();
    let mut refused = 0;
    for round in 0.. {
        let steps: Vec<_> = (0..500).map(|n| step("s", round * 500 + n)).collect();
        for (n, outcome) in append_all(&*store, steps).into_iter().enumerate() {
            match outcome {
                Ok(_) => taken.push(round * 500 + n as u64),
                Err(AppendError::Full("queue")) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        if refused > 0 {
            break;
        }
    }
    let counted = store.metrics().queue_refused.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(counted, refused);
    assert_eq!(numbers(&*store, "s"), taken);
}
