//! The track: observations found by vehicle and time, bounded in space and age, and never in the way of a start.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod store_kit;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use cardea::clock::{Clock, Stopwatch};
use cardea::config::Data;
use cardea::domain::{Timestamp, VehicleId};
use cardea::store::{LocalStore, Observation, Store};
use store_kit::*;

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir.join("track"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    paths.sort();
    paths
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Stopwatch::start();
    while !is_so() {
        assert!(deadline.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

/// Observes about a KiB at this time, again if the queue is full.
fn observe(store: &LocalStore, vehicle: &VehicleId, at: i64) {
    let signals = raw(&format!("{{\"fill\":\"{}\"}}", "x".repeat(1_000)));
    store.observe(Observation { vehicle: vehicle.clone(), at: Timestamp(at), signals });
}

#[test]
fn oldest_segments_make_room_and_old_ones_go() {
    let dir = scratch();
    let config = Data { track_max_mib: 3, track_retention_hours: 1, ..data(dir.path()) };
    let (clock, vehicle) = (Clock::start(), "V-1".parse::<VehicleId>().unwrap());
    let now = clock.now().0;
    let store = LocalStore::open(&config, clock.clone()).unwrap();
    for n in 0..6_000 {
        observe(&store, &vehicle, now + n);
    }
    until("the observations do not arrive", || store.metrics().observed.load(Ordering::Relaxed) == 6_000);
    until("nothing is deleted", || store.metrics().track_segments_deleted.load(Ordering::Relaxed) >= 3);
    let bytes: u64 = files(dir.path(), "seg").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes <= 3 * 1024 * 1024, "{bytes}");
    let found = store.observations(&vehicle, Timestamp(0), Timestamp(i64::MAX), 10_000).unwrap();
    let times: Vec<_> = found.iter().map(|observation| observation.at.0 - now).collect();
    let first = 6_000 - times.len() as i64;
    assert!(first > 0);
    assert_eq!(times, (first..6_000).collect::<Vec<_>>());
    store.close();
    drop(store);
    // An hour and a bit later everything is too old.
    let store = LocalStore::open(&config, Clock::starting_at(now + 2 * 3_600_000)).unwrap();
    until("the old ones stay", || files(dir.path(), "seg").is_empty());
    assert!(store.observations(&vehicle, Timestamp(0), Timestamp(i64::MAX), 10).unwrap().is_empty());
}

#[test]
fn damaged_track_never_stops_a_start() {
    let dir = scratch();
    let (clock, vehicle) = (Clock::start(), "V-1".parse::<VehicleId>().unwrap());
    let now = clock.now().0;
    let found =
        |store: &LocalStore| store.observations(&vehicle, Timestamp(0), Timestamp(i64::MAX), 10_000).unwrap().len();
    let store = open(dir.path());
    for n in 0..100 {
        observe(&store, &vehicle, now + n);
    }
    until("the observations do not arrive", || found(&store) == 100);
    drop(store);
    let segment = files(dir.path(), "seg").remove(0);
    let whole = std::fs::read(&segment).unwrap();
    // A damaged record hides itself and what follows in its segment.
    let mut bytes = whole.clone();
    bytes[60_000] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let store = open(dir.path());
    let left = found(&store);
    assert!((40..70).contains(&left), "{left}");
    observe(&store, &vehicle, now + 500);
    until("nothing new is kept", || found(&store) == left + 1);
    store.close();
    drop(store);
    // A damaged header hides the segment; a damaged index is made again.
    std::fs::write(&segment, vec![7; 300]).unwrap();
    for index in files(dir.path(), "idx") {
        std::fs::write(index, b"garbage").unwrap();
    }
    let store = open(dir.path());
    assert_eq!(found(&store), 1);
    drop(store);
    std::fs::write(&segment, &whole).unwrap();
    for index in files(dir.path(), "idx") {
        std::fs::remove_file(index).unwrap();
    }
    assert_eq!(found(&open(dir.path())), 101);
}

#[test]
fn what_the_track_cannot_take_is_dropped_and_counted() {
    let dir = scratch();
    let store = open(dir.path());
    let (vehicle, metrics) = ("V-1".parse::<VehicleId>().unwrap(), store.metrics());
    let huge = raw(&format!("{{\"fill\":\"{}\"}}", "x".repeat(70_000)));
    store.observe(Observation { vehicle: vehicle.clone(), at: Timestamp(1), signals: huge });
    let now = Clock::start().now().0;
    for n in 0..100_000 {
        observe(&store, &vehicle, now + n);
    }
    let told = || metrics.observed.load(Ordering::Relaxed) + metrics.track_dropped.load(Ordering::Relaxed);
    until("some were neither kept nor counted", || told() == 100_001);
    assert!(metrics.track_dropped.load(Ordering::Relaxed) >= 1);
}

#[test]
fn observations_are_found_by_vehicle_and_time_also_after_a_restart() {
    let dir = scratch();
    let clock = cardea::clock::Clock::start();
    let now = clock.now().0;
    let store = open(dir.path());
    let (one, two): (VehicleId, VehicleId) = ("V-1".parse().unwrap(), "V-2".parse().unwrap());
    // Out of order, as cars send them after a gap.
    for n in [3, 1, 2, 5, 4] {
        for vehicle in [&one, &two] {
            let signals = raw(&format!("{{\"Vehicle.Speed\":{{\"value\":{n}}}}}"));
            store.observe(Observation { vehicle: vehicle.clone(), at: Timestamp(now + n), signals });
        }
    }
    let times = |store: &dyn Store, from, until, limit| -> Vec<i64> {
        let found = store.observations(&one, Timestamp(now + from), Timestamp(now + until), limit).unwrap();
        assert!(found.iter().all(|observation| observation.vehicle == one));
        found.iter().map(|observation| observation.at.0 - now).collect()
    };
    let deadline = cardea::clock::Stopwatch::start();
    while times(&*store, 0, 10, 10).len() < 5 {
        assert!(deadline.elapsed().as_secs() < 10, "the observations do not arrive");
        std::thread::yield_now();
    }
    assert_eq!(times(&*store, 0, 10, 10), [1, 2, 3, 4, 5]);
    assert_eq!(times(&*store, 2, 4, 10), [2, 3, 4]);
    assert_eq!(times(&*store, 0, 10, 2), [1, 2]);
    drop(store);
    let store = open(dir.path());
    assert_eq!(times(&*store, 2, 9, 10), [2, 3, 4, 5]);
    store.close();
    drop(store);
    let store = open(dir.path());
    assert_eq!(times(&*store, 0, 10, 10), [1, 2, 3, 4, 5]);
    assert_eq!(store.metrics().track_dropped.load(std::sync::atomic::Ordering::Relaxed), 0);
}
