//! The outbox by itself: order, patience, dead letters, and that nothing is lost over any restart.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use serde_json::value::RawValue;

use super::super::notification::Place;
use super::*;

const HOUR_MS: i64 = 3_600_000;

fn at(ms: i64) -> Timestamp {
    Timestamp(1_795_298_400_000 + ms)
}

fn notification(subject: &str, position: u64) -> Arc<Notification> {
    let place = Place { position, index: 0 };
    Arc::new(Notification {
        id: derived_id(at(0), &[subject.as_bytes(), &position.to_be_bytes()]),
        kind: "cardea.alert.opened.v1".into(),
        subject: subject.into(),
        at: at(0),
        place,
        data: RawValue::from_string("{}".into()).unwrap(),
        alert: None,
    })
}

fn outbox() -> Outbox {
    Outbox::new(["a".to_owned(), "b".to_owned()], 24 * HOUR_MS)
}

fn trouble() -> Failure {
    Failure { error: "it answered 500".into(), kind: FailureKind::Passing, retry_after_ms: None }
}

/// `subject position` of what is due.
fn due(outbox: &mut Outbox, now: i64) -> Vec<(Uuid, String)> {
    let all = outbox.due(at(now)).into_iter();
    let mut all: Vec<_> = all
        .map(|delivery| {
            let Delivery { id, target, notification, .. } = delivery;
            (id, format!("{target} {} {}", notification.subject, notification.place.position))
        })
        .collect();
    all.sort_by(|one, other| one.1.cmp(&other.1));
    all
}

fn names(due: &[(Uuid, String)]) -> Vec<&str> {
    due.iter().map(|(_, name)| name.as_str()).collect()
}

/// Stores everything and starts anew from what is stored.
fn restarted(
    outbox: &mut Outbox,
    kept: &mut BTreeMap<Row, (Option<Delivery>, Option<DeadLetter>)>,
    now: i64,
) -> Outbox {
    let mut stored = Vec::new();
    for (row, content) in outbox.changes() {
        stored.push((row, content.is_some()));
        match content {
            Some(Stored::Waiting(delivery)) => kept.insert(row, (Some(delivery.clone()), None)),
            Some(Stored::Dead(letter)) => kept.insert(row, (None, Some(letter.clone()))),
            None => kept.remove(&row),
        };
    }
    outbox.stored(&stored);
    let mut new = super::tests::outbox();
    let waiting = kept.values().filter_map(|(delivery, _)| delivery.clone()).collect();
    let dead = kept.values().filter_map(|(_, letter)| letter.clone()).collect();
    new.restore(waiting, dead, at(now));
    new
}

#[test]
fn a_subject_waits_for_the_one_before_and_others_do_not() {
    let mut outbox = outbox();
    for (subject, position) in [("vehicle/1", 1), ("vehicle/1", 2), ("vehicle/2", 3)] {
        outbox.take("a", notification(subject, position), at(0));
    }
    let first = due(&mut outbox, 0);
    assert_eq!(names(&first), ["a vehicle/1 1", "a vehicle/2 3"]);
    assert_eq!(outbox.failed(first[0].0, &trouble(), at(10), 1.0), Became::Waiting);
    outbox.succeeded(first[1].0, at(10));
    assert!(due(&mut outbox, 20).is_empty(), "the second of vehicle/1 went before the first");
    let again = due(&mut outbox, 1_010);
    assert_eq!(names(&again), ["a vehicle/1 1"]);
    outbox.succeeded(again[0].0, at(1_020));
    assert_eq!(names(&due(&mut outbox, 1_020)), ["a vehicle/1 2"]);
}

#[test]
fn a_target_does_not_wait_for_another() {
    let mut outbox = outbox();
    outbox.take("a", notification("vehicle/1", 1), at(0));
    outbox.take("b", notification("vehicle/1", 1), at(0));
    let first = due(&mut outbox, 0);
    assert_eq!(names(&first), ["a vehicle/1 1", "b vehicle/1 1"]);
    outbox.succeeded(first[1].0, at(0));
    outbox.take("b", notification("vehicle/1", 2), at(1));
    assert_eq!(names(&due(&mut outbox, 1)), ["b vehicle/1 2"], "a hangs, and b goes on");
}

#[test]
fn retries_come_later_and_later_and_end_in_a_dead_letter() {
    let mut outbox = outbox();
    outbox.take("a", notification("vehicle/1", 1), at(0));
    outbox.take("a", notification("vehicle/1", 2), at(0));
    let (mut now, mut tries) = (0, Vec::new());
    let became = loop {
        let found = due(&mut outbox, now);
        if let Some((id, name)) = found.first() {
            assert_eq!(name, "a vehicle/1 1");
            tries.push(now);
            match outbox.failed(*id, &trouble(), at(now), 1.0) {
                Became::Waiting => {}
                other => break other,
            }
        }
        now += 500;
        assert!(now <= 25 * HOUR_MS);
    };
    assert_eq!(became, Became::Dead);
    assert_eq!(&tries[..4], [0, 1_000, 3_000, 7_000]);
    assert_eq!(*tries.last().unwrap(), 24 * HOUR_MS, "the last try is at the end of the time");
    assert!(tries.windows(2).all(|pair| pair[1] - pair[0] <= MAX_BACKOFF_MS));
    let letters = outbox.dead_letters(None, 10);
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, "it answered 500"));
    assert_eq!(letters[0].delivery.attempts as usize, tries.len());
    assert_eq!(names(&due(&mut outbox, now)), ["a vehicle/1 2"], "its subject goes on");
    assert_eq!(outbox.revive(letters[0].delivery.id, at(now)), Some(true));
    assert_eq!(outbox.revive(letters[0].delivery.id, at(now)), None);
    assert_eq!(outbox.waiting("a").0, 2);
}

#[test]
fn what_is_refused_is_tried_seldom_and_what_is_gone_never() {
    let mut outbox = outbox();
    outbox.take("a", notification("vehicle/1", 1), at(0));
    outbox.take("b", notification("vehicle/1", 1), at(0));
    let found = due(&mut outbox, 0);
    let refused = Failure { kind: FailureKind::Refused, ..trouble() };
    outbox.failed(found[0].0, &refused, at(0), 1.0);
    assert!(due(&mut outbox, 59_000).is_empty());
    assert_eq!(due(&mut outbox, 60_000).len(), 1);
    let gone = Failure { kind: FailureKind::Gone, ..trouble() };
    assert_eq!(outbox.failed(found[1].0, &gone, at(0), 1.0), Became::Dead);
}

#[test]
fn a_target_may_ask_for_time_but_not_for_ever() {
    let mut outbox = outbox();
    outbox.take("a", notification("vehicle/1", 1), at(0));
    let found = due(&mut outbox, 0);
    let later = Failure { retry_after_ms: Some(30_000), ..trouble() };
    outbox.failed(found[0].0, &later, at(0), 0.0);
    assert!(due(&mut outbox, 29_000).is_empty());
    let found = due(&mut outbox, 30_000);
    let never = Failure { retry_after_ms: Some(i64::MAX), ..trouble() };
    outbox.failed(found[0].0, &never, at(30_000), 0.0);
    assert_eq!(due(&mut outbox, 30_000 + MAX_RETRY_AFTER_MS).len(), 1);
}

#[test]
fn a_dead_target_is_asked_seldom_and_once_it_is_back_nobody_waits() {
    let mut outbox = outbox();
    for subject in 0..100 {
        outbox.take("a", notification(&format!("vehicle/{subject}"), subject), at(0));
    }
    let (mut now, mut tries) = (0, 0);
    while now < 10 * 60_000 {
        for (id, _) in due(&mut outbox, now) {
            tries += 1;
            outbox.failed(id, &trouble(), at(now), 0.5);
        }
        now += 100;
    }
    assert!(tries < 30, "{tries} tries in ten minutes");
    let found = loop {
        let found = due(&mut outbox, now);
        if !found.is_empty() {
            break found;
        }
        now += 100;
    };
    assert_eq!(found.len(), 1, "one is tried");
    outbox.succeeded(found[0].0, at(now));
    let mut left = 99;
    while left > 0 {
        let found = due(&mut outbox, now);
        assert!(!found.is_empty(), "{left} wait though the target is back");
        left -= found.len();
        found.into_iter().for_each(|(id, _)| outbox.succeeded(id, at(now)));
    }
}

#[test]
fn what_waits_too_long_for_a_dead_target_dies_though_it_was_not_tried() {
    let mut outbox = outbox();
    for position in 0..500 {
        outbox.take("a", notification(&format!("vehicle/{}", position % 250), position), at(0));
    }
    outbox.take("b", notification("vehicle/1", 1), at(0));
    for (id, name) in due(&mut outbox, 0) {
        if name.starts_with('a') {
            outbox.failed(id, &trouble(), at(0), 0.5);
        }
    }
    assert!(outbox.expire(at(24 * HOUR_MS - 1)).is_empty());
    assert_eq!(outbox.expire(at(24 * HOUR_MS)).len(), 500);
    assert_eq!((outbox.waiting("a").0, outbox.dead_in_all(), outbox.waiting("b").0), (0, 500, 1));
    outbox.take("a", notification("vehicle/1", 501), at(24 * HOUR_MS));
    assert_eq!(due(&mut outbox, 24 * HOUR_MS).len(), 1, "it goes on with what is new");
}

#[test]
fn what_is_old_is_tried_after_a_restart_before_it_dies() {
    let mut outbox = outbox();
    outbox.take("a", notification("vehicle/1", 1), at(0));
    let mut later = restarted(&mut outbox, &mut BTreeMap::new(), 48 * HOUR_MS);
    assert!(later.expire(at(48 * HOUR_MS)).is_empty());
    let found = due(&mut later, 48 * HOUR_MS);
    assert_eq!(found.len(), 1);
    assert_eq!(later.failed(found[0].0, &trouble(), at(48 * HOUR_MS), 0.5), Became::Dead);
}

#[test]
fn too_many_for_a_target_are_dead_letters_and_those_are_bounded() {
    let mut outbox = outbox();
    for position in 0..MAX_WAITING + MAX_DEAD + 10 {
        outbox.take("a", notification("vehicle/1", position as u64), at(0));
    }
    assert_eq!((outbox.waiting("a").0, outbox.dead_in_all()), (MAX_WAITING, MAX_DEAD));
    assert_eq!(outbox.dead_dropped, 10);
    assert_eq!(outbox.revive(outbox.dead_letters(None, 1)[0].delivery.id, at(0)), Some(false));
}

#[test]
fn a_target_that_is_configured_no_more_leaves_dead_letters() {
    let mut outbox = outbox();
    outbox.take("a", notification("vehicle/1", 1), at(0));
    let mut kept = BTreeMap::new();
    restarted(&mut outbox, &mut kept, 0);
    let mut fewer = Outbox::new(["b".to_owned()], HOUR_MS);
    fewer.restore(kept.values().filter_map(|(delivery, _)| delivery.clone()).collect(), Vec::new(), at(0));
    assert_eq!(fewer.dead_letters(None, 9)[0].reason, "the target is not configured any more");
    assert_eq!(fewer.changes().len(), 2, "the row of what waited goes, that of the dead letter comes");
}

#[test]
fn an_outage_does_not_store_every_try() {
    let mut outbox = outbox();
    outbox.take("a", notification("vehicle/1", 1), at(0));
    let (mut kept, mut now, mut tries, mut writes) = (BTreeMap::new(), 0, 0_u32, 0_u32);
    while now < 23 * HOUR_MS {
        for (id, _) in due(&mut outbox, now) {
            outbox.failed(id, &trouble(), at(now), 1.0);
            tries += 1;
        }
        writes += u32::from(outbox.is_dirty());
        restarted(&mut outbox, &mut kept, now);
        now += 1_000;
    }
    assert!(tries > 100 && writes < 12, "{tries} tries, {writes} writes");
}

/// A seeded walk: whatever fails and whenever it restarts, each is delivered or dead, once, and in order per subject.
#[test]
fn nothing_is_lost_or_out_of_order_over_restarts() {
    let mut seed = 0x5eed_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut outbox, mut kept) = (outbox(), BTreeMap::new());
    let (mut now, mut next) = (0, 0);
    let mut delivered: HashMap<(String, String), Vec<u64>> = HashMap::new();
    while next < 2_000 || outbox.waiting_in_all() > 0 {
        now += i64::try_from(random(2_000)).unwrap();
        if next < 2_000 {
            let subject = format!("vehicle/{}", random(10));
            for target in ["a", "b"] {
                outbox.take(target, notification(&subject, next), at(now));
            }
            next += 1;
        }
        for delivery in outbox.due(at(now)) {
            if random(3) == 0 {
                outbox.failed(delivery.id, &trouble(), at(now), random(100) as f64 / 100.0);
            } else {
                let key = (delivery.target.clone(), delivery.notification.subject.clone());
                delivered.entry(key).or_default().push(delivery.notification.place.position);
                outbox.succeeded(delivery.id, at(now));
            }
        }
        if random(50) == 0 {
            outbox = restarted(&mut outbox, &mut kept, now);
        }
    }
    assert_eq!(outbox.dead_in_all(), 0);
    assert_eq!(delivered.values().map(Vec::len).sum::<usize>(), 4_000);
    for (key, positions) in &delivered {
        assert!(positions.is_sorted(), "{key:?}: {positions:?}");
    }
    restarted(&mut outbox, &mut kept, now);
    assert!(kept.is_empty(), "rows of what was delivered stay: {}", kept.len());
}
