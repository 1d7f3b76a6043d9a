//! What the committer must know of the past to admit an append: stream ends, answered idempotency keys, claims.
//!
//! All in memory and rebuilt from the journal at start, so that admission never depends on the view. Each part is
//! bounded; names are kept as 128-bit keyed hashes.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;

use super::Epoch;
use super::metrics::StoreMetrics;
use crate::domain::{Timestamp, VehicleId};

/// An answer is repeated for this long, unless [`ANSWERS_MAX`] newer ones came since.
pub const ANSWER_WINDOW_MS: i64 = 24 * 3_600_000;
pub const ANSWERS_MAX: usize = 200_000;
/// Streams whose ends are kept, in each of two generations (about 40 bytes each).
const STREAMS_MAX: usize = 1_000_000;
/// Vehicles whose claims are kept; when there are more, the older half must claim again.
const CLAIMS_MAX: usize = 1_000_000;

/// The keyed hash of a name. Two 64-bit hashes with independent secret keys: nobody can make two names meet.
pub type Name = u128;

#[derive(Debug, Default)]
pub struct Namer(RandomState, RandomState);

impl Namer {
    pub fn name(&self, text: &str) -> Name {
        u128::from(self.0.hash_one(text)) << 64 | u128::from(self.1.hash_one(text))
    }
}

/// The newest record of each stream. Two generations: when the young one is full and the old one is in the view, the
/// old one goes; from then on the view knows what this does not.
#[derive(Debug)]
pub struct StreamEnds {
    /// Streams in a generation.
    max: usize,
    young: HashMap<Name, u64>,
    old: HashMap<Name, u64>,
    /// The highest position in `old`.
    old_until: u64,
    /// Some stream was forgotten: a stream unknown here need not be empty.
    is_partial: bool,
}

/// What is known of a stream's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    At(u64),
    AskView,
}

impl Default for StreamEnds {
    fn default() -> Self {
        Self::with_max(STREAMS_MAX)
    }
}

impl StreamEnds {
    fn with_max(max: usize) -> Self {
        Self { max, young: HashMap::new(), old: HashMap::new(), old_until: 0, is_partial: false }
    }

    pub fn end(&self, stream: Name) -> End {
        match self.young.get(&stream).or_else(|| self.old.get(&stream)) {
            Some(position) => End::At(*position),
            None if self.is_partial => End::AskView,
            None => End::At(0),
        }
    }

    /// Notes a durable record. `applied`: how far the view is.
    pub fn note(&mut self, stream: Name, position: u64, applied: u64, metrics: &StoreMetrics) {
        self.young.insert(stream, position);
        if self.young.len() < self.max {
            return;
        }
        if !self.old.is_empty() {
            if self.old_until > applied {
                // The view cannot answer for the old ones yet, so they stay; `is_full` stops the growth.
                return;
            }
            self.is_partial = true;
            metrics.streams_forgotten.fetch_add(self.old.len() as u64, Ordering::Relaxed);
        }
        self.old = std::mem::take(&mut self.young);
        self.old_until = position;
    }

    /// So many streams since the view stopped that no new one may come.
    pub fn is_full(&self, applied: u64) -> bool {
        self.young.len() >= 2 * self.max && self.old_until > applied
    }
}

/// Where the answers of the newest idempotency keys are; the answers themselves are in the journal.
#[derive(Debug, Default)]
pub struct Answers {
    places: HashMap<Name, u64>,
    order: VecDeque<(Name, u64, Timestamp)>,
}

impl Answers {
    /// The record that holds the key's answer.
    pub fn position(&self, key: Name) -> Option<u64> {
        self.places.get(&key).copied()
    }

    pub fn note(&mut self, key: Name, position: u64, at: Timestamp) {
        self.places.insert(key, position);
        self.order.push_back((key, position, at));
    }

    /// Forgets what is too old or too much.
    pub fn sweep(&mut self, now: Timestamp, metrics: &StoreMetrics) {
        while let Some((key, position, at)) = self.order.front().copied() {
            if self.order.len() <= ANSWERS_MAX && now.since_ms(at) <= ANSWER_WINDOW_MS {
                return;
            }
            self.order.pop_front();
            if self.places.get(&key) == Some(&position) {
                self.places.remove(&key);
            }
            metrics.answers_forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Who may write each vehicle's stream. Claims do not outlive the process, and neither do the writers they fence.
#[derive(Debug, Default)]
pub struct Claims {
    newest: u64,
    held: HashMap<VehicleId, u64>,
    /// Claims up to this one that are not in `held` were forgotten: their holders must claim again.
    forgotten_until: u64,
}

impl Claims {
    pub fn claim(&mut self, vehicle: &VehicleId) -> Epoch {
        self.newest += 1;
        self.held.insert(vehicle.clone(), self.newest);
        self.make_room();
        Epoch(self.newest)
    }

    /// A claim that an engine gave, here or elsewhere; an older one than is known changes nothing.
    pub fn note(&mut self, vehicle: &VehicleId, epoch: Epoch) {
        self.newest = self.newest.max(epoch.0);
        let held = self.held.entry(vehicle.clone()).or_default();
        *held = epoch.0.max(*held);
        self.make_room();
    }

    fn make_room(&mut self) {
        if self.held.len() > CLAIMS_MAX {
            let mut epochs: Vec<u64> = self.held.values().copied().collect();
            let (_, middle, _) = epochs.select_nth_unstable(CLAIMS_MAX / 2);
            self.forgotten_until = *middle;
            self.held.retain(|_, epoch| *epoch > self.forgotten_until);
        }
    }

    pub fn permits(&self, vehicle: &VehicleId, epoch: Epoch) -> bool {
        self.held.get(vehicle) == Some(&epoch.0)
    }
}

/// All that admission needs, behind one lock that the committer takes once a batch.
#[derive(Debug, Default)]
pub struct Ledger {
    pub streams: StreamEnds,
    pub answers: Answers,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_claim_fences_the_older() {
        let mut claims = Claims::default();
        let (one, two): (VehicleId, VehicleId) = ("V-1".parse().unwrap(), "V-2".parse().unwrap());
        let first = claims.claim(&one);
        let other = claims.claim(&two);
        assert!(claims.permits(&one, first) && claims.permits(&two, other));
        let second = claims.claim(&one);
        assert!(second > first);
        assert!(!claims.permits(&one, first) && claims.permits(&one, second));
        assert!(!claims.permits(&one, Epoch(99)), "an epoch nobody was given");
        assert!(!claims.permits(&two, second), "the claim on another vehicle");
    }

    #[test]
    fn answers_are_forgotten_by_age_and_by_number() {
        let (mut answers, metrics) = (Answers::default(), StoreMetrics::default());
        answers.note(1, 10, Timestamp(0));
        answers.note(2, 11, Timestamp(1_000));
        answers.sweep(Timestamp(ANSWER_WINDOW_MS + 500), &metrics);
        assert_eq!((answers.position(1), answers.position(2)), (None, Some(11)));
        for n in 0..ANSWERS_MAX as u64 {
            answers.note(Name::from(100 + n), 100 + n, Timestamp(1_000));
        }
        answers.sweep(Timestamp(2_000), &metrics);
        assert_eq!(answers.position(2), None);
        assert_eq!(answers.position(100), Some(100));
        assert_eq!(metrics.answers_forgotten.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn reused_key_keeps_its_newest_answer() {
        let (mut answers, metrics) = (Answers::default(), StoreMetrics::default());
        answers.note(1, 10, Timestamp(0));
        answers.note(1, 20, Timestamp(ANSWER_WINDOW_MS));
        answers.sweep(Timestamp(ANSWER_WINDOW_MS + 1), &metrics);
        assert_eq!(answers.position(1), Some(20));
    }

    #[test]
    fn unknown_stream_is_empty_until_some_were_forgotten() {
        let (mut ends, metrics) = (StreamEnds::with_max(10), StoreMetrics::default());
        assert_eq!(ends.end(5), End::At(0));
        for n in 1..=20 {
            ends.note(n, n as u64, 20, &metrics);
        }
        // The first generation went out when the second was full.
        assert_eq!((ends.end(20), ends.end(5)), (End::At(20), End::AskView));
        assert_eq!(metrics.streams_forgotten.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn no_stream_is_forgotten_that_the_view_does_not_know() {
        let (mut ends, metrics) = (StreamEnds::with_max(10), StoreMetrics::default());
        for n in 1..=29 {
            ends.note(n, n as u64, 5, &metrics);
            assert!(!ends.is_full(5));
        }
        assert_eq!((ends.end(1), ends.end(29), ends.end(99)), (End::At(1), End::At(29), End::At(0)));
        ends.note(30, 30, 5, &metrics);
        assert!(ends.is_full(5), "new ones are refused rather than old ones forgotten");
        // The view came back.
        assert!(!ends.is_full(30));
        ends.note(30, 31, 30, &metrics);
        assert!(!ends.is_full(30));
        assert_eq!((ends.end(1), ends.end(29)), (End::AskView, End::At(29)));
    }
}
