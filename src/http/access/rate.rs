//! Token buckets: how often somebody may do something. They bound, they do not authenticate.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::Timestamp;

/// So many a second on average, and so many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    per_s: f64,
    burst: f64,
}

impl Rate {
    /// At least one of each.
    pub fn new(per_s: u32, burst: u32) -> Self {
        Self { per_s: f64::from(per_s.max(1)), burst: f64::from(burst.max(1)) }
    }

    /// One in so many seconds, and `burst` at once.
    pub const fn one_in(seconds: u32, burst: u32) -> Self {
        Self { per_s: 1.0 / seconds as f64, burst: burst as f64 }
    }
}

/// `level` may come at once, and the rate's more each second.
#[derive(Debug, Clone)]
pub struct Bucket {
    level: f64,
    at: Option<Timestamp>,
}

impl Bucket {
    pub fn full(rate: Rate) -> Self {
        Self { level: rate.burst, at: None }
    }

    fn refill(&mut self, rate: Rate, now: Timestamp) {
        let elapsed_ms = self.at.map_or(0, |at| now.since_ms(at).max(0));
        self.at = Some(now);
        self.level = (self.level + rate.per_s * elapsed_ms as f64 / 1000.0).min(rate.burst);
    }

    /// Takes one; else the seconds after which there is one again.
    pub fn take(&mut self, rate: Rate, now: Timestamp) -> Result<(), u32> {
        self.refill(rate, now);
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        Err(((1.0 - self.level) / rate.per_s).ceil().max(1.0) as u32)
    }

    /// Gives back what was taken for nothing.
    pub fn give_back(&mut self, rate: Rate) {
        self.level = (self.level + 1.0).min(rate.burst);
    }

    /// Somebody else took `n` on its account; below 0 = gave back. What is owed is no more than the burst.
    pub fn spend(&mut self, rate: Rate, n: f64, now: Timestamp) {
        self.refill(rate, now);
        self.level = (self.level - n).clamp(-rate.burst, rate.burst);
    }

    /// 1 = whole, so that it may be forgotten; 0 = nothing left.
    pub fn left(&mut self, rate: Rate, now: Timestamp) -> f64 {
        self.refill(rate, now);
        self.level / rate.burst
    }
}

/// A bucket for each of many.
pub struct Buckets<K> {
    rate: Rate,
    max: usize,
    spent: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Remembers at most `max` of those who spent something.
    pub fn new(rate: Rate, max: usize) -> Self {
        Self { rate, max, spent: Mutex::default() }
    }

    /// Takes one from the key's bucket; else the seconds after which there is one again.
    pub fn take(&self, key: K, now: Timestamp) -> Result<(), u32> {
        self.with(key, now, |bucket| bucket.take(self.rate, now))
    }

    /// Somebody else took `n` on the key's account.
    pub fn spend(&self, key: K, n: f64, now: Timestamp) {
        self.with(key, now, |bucket| bucket.spend(self.rate, n, now));
    }

    fn with<T>(&self, key: K, now: Timestamp, change: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut spent = lock(&self.spent);
        if spent.len() >= self.max && !spent.contains_key(&key) {
            make_room(&mut spent, self.max, |_, bucket| bucket.left(self.rate, now));
        }
        change(spent.entry(key).or_insert_with(|| Bucket::full(self.rate)))
    }
}

/// Forgets what is whole again (`left` says 1); where that does not make room below `max`, also the half from which the
/// least was spent. Who fills the table with new keys so brings nobody's spent share back.
pub fn make_room<K: Eq + Hash, V>(spent: &mut HashMap<K, V>, max: usize, mut left: impl FnMut(&K, &mut V) -> f64) {
    spent.retain(|key, entry| left(key, entry) < 1.0);
    if spent.len() < max {
        return;
    }
    let mut all: Vec<f64> = spent.iter_mut().map(|(key, entry)| left(key, entry)).collect();
    all.sort_by(f64::total_cmp);
    let median = all[all.len() / 2];
    let mut to_go = max / 2;
    spent.retain(|key, entry| {
        let goes = to_go > 0 && left(key, entry) >= median;
        to_go -= usize::from(goes);
        !goes
    });
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section of these modules leaves the data whole, so a poisoned lock still holds good data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills_with_time_and_never_beyond_its_burst() {
        let rate = Rate::new(10, 2);
        let mut bucket = Bucket::full(rate);
        let at = |ms: i64| Timestamp(1_000_000 + ms);
        assert_eq!(
            [bucket.take(rate, at(0)), bucket.take(rate, at(0)), bucket.take(rate, at(0))],
            [Ok(()), Ok(()), Err(1)]
        );
        assert_eq!(bucket.take(rate, at(100)), Ok(()));
        assert_eq!(bucket.take(rate, at(100)), Err(1));
        // A clock that steps back gives nothing and takes nothing.
        assert_eq!(bucket.take(rate, at(50)), Err(1));
        assert_eq!((0..5).filter(|_| bucket.take(rate, at(60_000)).is_ok()).count(), 2);
        bucket.give_back(rate);
        assert_eq!(bucket.take(rate, at(60_000)), Ok(()));
        assert!(bucket.left(rate, at(60_100)) < 1.0 && bucket.left(rate, at(60_300)) >= 1.0);
    }

    #[test]
    fn who_spent_most_is_remembered_when_there_is_no_room() {
        let buckets = Buckets::new(Rate::one_in(1_000, 2), 4);
        let now = Timestamp(0);
        assert_eq!([buckets.take(0, now), buckets.take(0, now), buckets.take(0, now)], [Ok(()), Ok(()), Err(1_000)]);
        for key in 1..100 {
            assert_eq!(buckets.take(key, now), Ok(()));
            assert!(lock(&buckets.spent).len() <= 4);
        }
        assert_eq!(buckets.take(0, now), Err(1_000), "nobody gets back what they spent by filling the table");
    }

    #[test]
    fn a_slow_rate_says_how_long_it_takes() {
        let rate = Rate::one_in(30, 1);
        let mut bucket = Bucket::full(rate);
        assert_eq!(bucket.take(rate, Timestamp(0)), Ok(()));
        assert_eq!(bucket.take(rate, Timestamp(15_000)), Err(15));
        assert_eq!(bucket.take(rate, Timestamp(30_000)), Ok(()));
    }
}
