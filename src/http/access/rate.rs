//! Token buckets: how often somebody may do something. They bound, they do not authenticate.

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

    /// Nothing is missing any more: it may be forgotten.
    pub fn is_full(&mut self, rate: Rate, now: Timestamp) -> bool {
        self.left(rate, now) >= 1.0
    }

    /// 1 = whole, 0 = nothing left.
    pub fn left(&mut self, rate: Rate, now: Timestamp) -> f64 {
        self.refill(rate, now);
        self.level / rate.burst
    }
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
        assert!(!bucket.is_full(rate, at(60_100)) && bucket.is_full(rate, at(60_300)));
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
