//! The store's promises as a caller sees them: order, conflicts, claims, repeats, reads, restarts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod store_kit;

use cardea::domain::{Timestamp, VehicleId};
use cardea::store::{
    Append, AppendError, Expected, OpenError, Order, Store, StorePosition, Table, ViewChange, export, verify,
};
use store_kit::*;

#[test]
fn appends_are_numbered_and_read_back() {
    let dir = scratch();
    let store = open(dir.path());
    let third = Append { at: Timestamp(1_700_000_000_003), ..step("vehicle/A", 3) };
    let done = append_all(&store, vec![step("vehicle/A", 1), step("vehicle/B", 2), third]);
    let positions: Vec<_> = done.into_iter().map(Result::unwrap).collect();
    assert_eq!(positions, [StorePosition(1), StorePosition(2), StorePosition(3)]);
    assert_eq!(numbers(&store, "vehicle/A"), [1, 3]);
    let read = store.read("vehicle/A", StorePosition(1), 10).unwrap();
    assert_eq!((read.len(), read[0].position, read[0].stream.as_str()), (1, StorePosition(3), "vehicle/A"));
    assert_eq!(read[0].at, Timestamp(1_700_000_000_003));
    let tail = store.tail(StorePosition(1), 10).unwrap();
    assert_eq!(tail.iter().map(|record| record.position.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(store.tail(StorePosition(0), 2).unwrap().len(), 2);
    assert!(store.read("vehicle/", StorePosition(0), 10).unwrap().is_empty(), "a prefix is not a stream");
    assert_eq!(store.get(Table::Commands, "00000002").unwrap().unwrap().get(), r#"{"stream":"vehicle/B"}"#);
    assert!(store.get(Table::Rentals, "00000002").unwrap().is_none());
}

#[test]
fn expected_end_is_checked_within_one_batch_and_after_a_restart() {
    let dir = scratch();
    let last = |position| Expected::Last(StorePosition(position));
    let expecting = |stream: &str, n, expected| Append { expected, ..step(stream, n) };
    let store = open(dir.path());
    let done = append_all(
        &store,
        vec![expecting("s/1", 1, last(0)), expecting("s/1", 2, last(0)), expecting("s/1", 3, last(1)), step("s/2", 4)],
    );
    assert_eq!(done[0].as_ref().unwrap().0, 1);
    assert!(matches!(done[1], Err(AppendError::Conflict { actual: StorePosition(1) })), "{done:?}");
    assert_eq!(done[2].as_ref().unwrap().0, 2);
    store.close();
    drop(store);
    let store = open(dir.path());
    let stale = wait(store.append(expecting("s/1", 5, last(1))));
    assert!(matches!(stale, Err(AppendError::Conflict { actual: StorePosition(2) })), "{stale:?}");
    assert_eq!(wait(store.append(expecting("s/1", 5, last(2)))).unwrap().0, 4);
    assert_eq!(wait(store.append(expecting("s/3", 6, last(0)))).unwrap().0, 5);
    assert_eq!(numbers(&store, "s/1"), [1, 3, 5]);
}

#[test]
fn older_claim_is_fenced() {
    let dir = scratch();
    let store = open(dir.path());
    let vehicle: VehicleId = "V-1".parse().unwrap();
    let under = |epoch, n| Append { fence: Some((vehicle.clone(), epoch)), ..step("vehicle/V-1", n) };
    let first = store.claim(&vehicle);
    assert!(wait(store.append(under(first, 1))).is_ok());
    let second = store.claim(&vehicle);
    assert!(matches!(wait(store.append(under(first, 2))), Err(AppendError::Fenced)));
    assert!(wait(store.append(under(second, 3))).is_ok());
    assert_eq!(numbers(&store, "vehicle/V-1"), [1, 3]);
}

#[test]
fn repeat_gets_the_first_answer_in_the_same_batch_and_after_a_restart() {
    let dir = scratch();
    let store = open(dir.path());
    let done = append_all(&store, vec![keyed("s", 1, "k", "b"), keyed("s", 2, "k", "b"), keyed("s", 3, "k", "other")]);
    assert!(done[0].is_ok());
    assert!(matches!(&done[1], Err(AppendError::Duplicate { answer }) if answer.get() == r#"{"a":1}"#), "{done:?}");
    assert!(matches!(done[2], Err(AppendError::KeyReused)), "{done:?}");
    drop(store);
    let store = open(dir.path());
    let (body, answer) = store.answered("k").unwrap().unwrap();
    assert_eq!((body.as_str(), answer.get()), ("b", r#"{"a":1}"#));
    assert!(store.answered("none").unwrap().is_none());
    let again = wait(store.append(keyed("s", 4, "k", "b")));
    assert!(matches!(&again, Err(AppendError::Duplicate { answer }) if answer.get() == r#"{"a":1}"#), "{again:?}");
    assert_eq!(numbers(&store, "s"), [1]);
}

#[test]
fn scan_pages_through_a_prefix_in_both_orders() {
    let dir = scratch();
    let store = open(dir.path());
    let row = |key: &str, json: Option<_>| ViewChange { table: Table::Cards, key: key.to_owned(), row: json.into() };
    let keys = ["a/1", "a/2", "a/3", "a/4", "ab", "b/1"];
    let view = keys.iter().map(|key| row(key, Some(raw("1")))).collect();
    wait(store.append(Append { view, ..step("s", 1) })).unwrap();
    wait(store.append(Append { view: vec![row("a/3", None)], ..step("s", 2) })).unwrap();
    let page = |after: Option<&str>, limit, order| {
        let page = store.scan(Table::Cards, "a/", after, limit, order).unwrap();
        (page.rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), page.next)
    };
    let texts = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    assert_eq!(page(None, 2, Order::Ascending), (texts(&["a/1", "a/2"]), Some("a/2".to_owned())));
    assert_eq!(page(Some("a/2"), 2, Order::Ascending), (texts(&["a/4"]), None));
    assert_eq!(page(None, 2, Order::Descending), (texts(&["a/4", "a/2"]), Some("a/2".to_owned())));
    assert_eq!(page(Some("a/2"), 2, Order::Descending), (texts(&["a/1"]), None));
    assert_eq!(page(Some("a/1"), 2, Order::Descending), (texts(&[]), None));
    assert_eq!(page(Some("a/9"), 2, Order::Ascending), (texts(&[]), None));
    assert_eq!(page(Some("A"), 9, Order::Ascending).0.len(), 3);
    assert_eq!(page(Some("b"), 9, Order::Descending).0.len(), 3);
    assert_eq!(store.scan(Table::Cards, "", None, 100, Order::Ascending).unwrap().rows.len(), 5);
}

#[test]
fn too_large_and_ill_named_steps_are_refused() {
    let dir = scratch();
    let store = open(dir.path());
    const MOST: usize = 2 * 1024 * 1024;
    let refused = wait(store.append(big_step("s", 1, MOST)));
    assert!(matches!(refused, Err(AppendError::TooLarge { limit: MOST })), "{refused:?}");
    assert!(wait(store.append(big_step("s", 2, MOST - 10_000))).is_ok());
    for name in ["", "a\nb", "a\0b", &"x".repeat(161)] {
        assert!(matches!(wait(store.append(step(name, 3))), Err(AppendError::TooLarge { limit: 160 })));
    }
    assert_eq!(numbers(&store, "s"), [2]);
    // The largest record is read back like any other, after a crash and without the view too.
    drop(store);
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let store = open(dir.path());
    assert_eq!(numbers(&store, "s"), [2]);
    assert_eq!(store.tail(StorePosition(0), 10).unwrap().len(), 1);
    store.close();
    assert_eq!(verify(dir.path()).unwrap().records, 1);
}

#[test]
fn everything_survives_a_crash_and_many_segments() {
    let dir = scratch();
    let store = open(dir.path());
    let all: Vec<u64> = (1..=200).collect();
    for chunk in all.chunks(40) {
        let steps = chunk.iter().map(|n| big_step("s", *n, 20_000)).collect();
        assert!(append_all(&store, steps).iter().all(Result::is_ok));
    }
    assert!(std::fs::read_dir(dir.path().join("journal")).unwrap().count() >= 4);
    assert_eq!(numbers(&store, "s"), all);
    drop(store);
    let store = open(dir.path());
    assert_eq!(numbers(&store, "s"), all);
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
    assert_eq!(numbers(&store, "s"), [1]);
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
        for (n, outcome) in append_all(&store, steps).into_iter().enumerate() {
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
    assert_eq!(numbers(&store, "s"), taken);
}
