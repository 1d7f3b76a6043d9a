//! The store's promises as a caller sees them, the same of both engines: order, conflicts, claims, repeats, reads, restarts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod kit;
mod store_kit;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::config::Config;
use cardea::domain::{Timestamp, VehicleId};
use cardea::store::{
    Append, AppendError, ClusterStore, Epoch, Expected, LocalStore, OpenError, Order, Store, StorePosition, Table,
    ViewChange, verify,
};
use kit::nats::NatsCluster;
use store_kit::*;
use tempfile::TempDir;

/// Where a store of one engine lives, to be opened again and again.
trait Place {
    fn open(&self) -> Arc<dyn Store>;
    /// Ends it in order.
    fn close(&self, store: Arc<dyn Store>);
    /// Where its journal is on this disk.
    fn dir(&self) -> &Path;
}

struct Local(TempDir);

impl Place for Local {
    fn open(&self) -> Arc<dyn Store> {
        LocalStore::open(&data(self.0.path()), Clock::start()).unwrap_or_else(|error| panic!("{error}"))
    }

    // Each append was answered, so that nothing is left to be done.
    fn close(&self, store: Arc<dyn Store>) {
        drop(store);
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }
}

struct Cluster {
    nats: NatsCluster,
    dir: TempDir,
}

impl Cluster {
    fn new() -> Option<Self> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let nats = runtime.block_on(NatsCluster::start(3))?;
        Some(Self { nats, dir: scratch() })
    }

    fn config(&self, dir: &Path, node: &str) -> Config {
        let sets = [self.nats.sets(), vec![format!("cluster.node={node}")]].concat();
        let config =
            cardea::config::parse("", Path::new("cardea.toml"), &sets).unwrap_or_else(|error| panic!("{error}"));
        Config { data: data(dir), ..config }
    }
}

impl Place for Cluster {
    fn open(&self) -> Arc<dyn Store> {
        let config = self.config(self.dir.path(), "a");
        // Threads of a store that was dropped may take a moment to let go of the directory.
        for _ in 0..500 {
            match ClusterStore::open(&config, Clock::start()) {
                Ok(store) => return store,
                Err(OpenError::Locked { .. }) => pause(Duration::from_millis(10)),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the directory stays locked")
    }

    fn close(&self, store: Arc<dyn Store>) {
        drop(store);
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn claim(store: &dyn Store, vehicle: &VehicleId) -> Epoch {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.claim(vehicle)).unwrap()
}

fn appends_are_numbered_and_read_back(place: &dyn Place) {
    let store = place.open();
    let third = Append { at: Timestamp(1_700_000_000_003), ..step("vehicle/A", 3) };
    for (position, step) in [step("vehicle/A", 1), step("vehicle/B", 2), third].into_iter().enumerate() {
        assert_eq!(wait(store.append(step)).unwrap(), StorePosition(position as u64 + 1));
    }
    assert_eq!(numbers(&*store, "vehicle/A"), [1, 3]);
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

fn many_at_once_are_all_kept_and_each_once(place: &dyn Place) {
    let store = place.open();
    let steps = (0..400).map(|n| step(&format!("s/{}", n % 7), n)).collect();
    let mut positions: Vec<u64> = append_all(&*store, steps).into_iter().map(|outcome| outcome.unwrap().0).collect();
    positions.sort_unstable();
    assert_eq!(positions, (1..=400).collect::<Vec<u64>>());
    let mut kept: Vec<u64> = (0..7).flat_map(|stream| numbers(&*store, &format!("s/{stream}"))).collect();
    kept.sort_unstable();
    assert_eq!(kept, (0..400).collect::<Vec<u64>>());
}

fn expected_end_is_checked_also_after_a_restart(place: &dyn Place) {
    let last = |position| Expected::Last(StorePosition(position));
    let expecting = |stream: &str, n, expected| Append { expected, ..step(stream, n) };
    let store = place.open();
    let append = |store: &Arc<dyn Store>, step| wait(store.append(step));
    assert_eq!(append(&store, expecting("s/1", 1, last(0))).unwrap().0, 1);
    let early = append(&store, expecting("s/1", 2, last(0)));
    assert!(matches!(early, Err(AppendError::Conflict { actual: StorePosition(1) })), "{early:?}");
    assert_eq!(append(&store, expecting("s/1", 3, last(1))).unwrap().0, 2);
    assert_eq!(append(&store, step("s/2", 4)).unwrap().0, 3);
    place.close(store);
    let store = place.open();
    let stale = append(&store, expecting("s/1", 5, last(1)));
    assert!(matches!(stale, Err(AppendError::Conflict { actual: StorePosition(2) })), "{stale:?}");
    assert_eq!(append(&store, expecting("s/1", 5, last(2))).unwrap().0, 4);
    assert_eq!(append(&store, expecting("s/3", 6, last(0))).unwrap().0, 5);
    assert_eq!(numbers(&*store, "s/1"), [1, 3, 5]);
}

fn of_many_who_expect_the_same_end_one_goes_through(place: &dyn Place) {
    let store = place.open();
    let steps = (0..50).map(|n| Append { expected: Expected::Last(StorePosition(0)), ..step("s", n) }).collect();
    let outcomes = append_all(&*store, steps);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(
        outcome,
        Ok(StorePosition(1)) | Err(AppendError::Conflict { actual: StorePosition(1) })
    )));
    assert_eq!(numbers(&*store, "s").len(), 1);
}

fn older_claim_is_fenced(place: &dyn Place) {
    let store = place.open();
    let vehicle: VehicleId = "V-1".parse().unwrap();
    let under = |epoch, n| Append { fence: Some((vehicle.clone(), epoch)), ..step("vehicle/V-1", n) };
    let first = claim(&*store, &vehicle);
    assert!(wait(store.append(under(first, 1))).is_ok());
    let second = claim(&*store, &vehicle);
    assert!(second > first);
    assert!(matches!(wait(store.append(under(first, 2))), Err(AppendError::Fenced)));
    assert!(wait(store.append(under(second, 3))).is_ok());
    assert_eq!(numbers(&*store, "vehicle/V-1"), [1, 3]);
}

fn repeat_gets_the_first_answer_also_after_a_restart(place: &dyn Place) {
    let store = place.open();
    let at_once = append_all(&*store, vec![keyed("s", 1, "k", "b"), keyed("s", 1, "k", "b"), keyed("s", 1, "k", "b")]);
    assert_eq!(at_once.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{at_once:?}");
    let is_answer = |answer: &serde_json::value::RawValue| answer.get() == r#"{"a":1}"#;
    let repeats =
        at_once.iter().filter(|one| matches!(one, Err(AppendError::Duplicate { answer }) if is_answer(answer)));
    assert_eq!(repeats.count(), 2, "{at_once:?}");
    let reused = wait(store.append(keyed("s", 3, "k", "other")));
    assert!(matches!(reused, Err(AppendError::KeyReused)), "{reused:?}");
    // The key holds whatever stream it comes with.
    let elsewhere = wait(store.append(keyed("t", 4, "k", "b")));
    assert!(matches!(&elsewhere, Err(AppendError::Duplicate { answer }) if is_answer(answer)), "{elsewhere:?}");
    place.close(store);
    let store = place.open();
    let (body, answer) = store.answered("k").unwrap().unwrap();
    assert_eq!((body.as_str(), answer.get()), ("b", r#"{"a":1}"#));
    assert!(store.answered("none").unwrap().is_none());
    let again = wait(store.append(keyed("s", 4, "k", "b")));
    assert!(matches!(&again, Err(AppendError::Duplicate { answer }) if is_answer(answer)), "{again:?}");
    assert_eq!((numbers(&*store, "s"), numbers(&*store, "t")), (vec![1], vec![]));
}

fn scan_pages_through_a_prefix_in_both_orders(place: &dyn Place) {
    let store = place.open();
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

fn too_large_and_ill_named_steps_are_refused(place: &dyn Place) {
    let store = place.open();
    const MOST: usize = 2 * 1024 * 1024;
    let refused = wait(store.append(big_step("s", 1, MOST)));
    assert!(matches!(refused, Err(AppendError::TooLarge { limit: MOST })), "{refused:?}");
    assert!(wait(store.append(big_step("s", 2, MOST - 10_000))).is_ok());
    for name in ["", "a\nb", "a\0b", &"x".repeat(161)] {
        assert!(matches!(wait(store.append(step(name, 3))), Err(AppendError::TooLarge { limit: 160 })));
    }
    // Names that mean something to an engine are names like any other.
    for (n, name) in ["a.b", "a/*", "a/>", "a b", "ä", "a//b", "a%2Eb", &"ä".repeat(80)].into_iter().enumerate() {
        assert!(wait(store.append(step(name, 10 + n as u64))).is_ok(), "{name}");
        assert_eq!(numbers(&*store, name), [10 + n as u64]);
    }
    assert_eq!(numbers(&*store, "s"), [2]);
    // The largest record is read back like any other, after a crash and without the view too.
    place.close(store);
    std::fs::remove_dir_all(place.dir().join("view")).unwrap();
    let store = place.open();
    assert_eq!(numbers(&*store, "s"), [2]);
    assert_eq!(store.tail(StorePosition(0), 10).unwrap().len(), 9);
    place.close(store);
    assert_eq!(verify(place.dir()).unwrap().records, 9);
}

macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod local {
            $(#[test]
            fn $promise() {
                super::$promise(&super::Local(super::scratch()));
            })*
        }

        mod cluster {
            $(#[test]
            fn $promise() {
                if let Some(place) = super::Cluster::new() {
                    super::$promise(&place);
                }
            })*
        }
    };
}

promises! {
    appends_are_numbered_and_read_back,
    many_at_once_are_all_kept_and_each_once,
    expected_end_is_checked_also_after_a_restart,
    of_many_who_expect_the_same_end_one_goes_through,
    older_claim_is_fenced,
    repeat_gets_the_first_answer_also_after_a_restart,
    scan_pages_through_a_prefix_in_both_orders,
    too_large_and_ill_named_steps_are_refused,
}
