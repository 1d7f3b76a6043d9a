//! The one reader of time. Everybody else gets `now` as an argument or asks this clock.
//!
//! Wall time is read once at start and then follows tokio's monotonic clock, so that a wall clock that jumps does not
//! expire keys or revive commands, and so that tests can pause time. [`Clock::resync`] follows slow, real corrections.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::Timestamp;

#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// Wall time at `started`, in ms since the epoch.
    wall_ms: AtomicI64,
}

/// A wall clock that moved further than this against the monotonic one has jumped, not drifted.
const JUMP_MS: i64 = 2_000;

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn start() -> Self {
        Self::starting_at(wall_ms(SystemTime::now()))
    }

    /// A clock that reads `wall_ms` now and runs with tokio's time; for tests with a paused clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    pub fn starting_at(wall_ms: i64) -> Self {
        Self(Arc::new(Inner { started: Instant::now(), wall_ms: AtomicI64::new(wall_ms) }))
    }

    pub fn now(&self) -> Timestamp {
        let elapsed_ms = i64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.0.wall_ms.load(Ordering::Relaxed)).plus_ms(elapsed_ms)
    }

    /// [`Self::now`] in nanoseconds since the epoch, for spans that are shorter than a millisecond.
    pub fn unix_ns(&self) -> u64 {
        let wall_ns = self.0.wall_ms.load(Ordering::Relaxed).max(0).unsigned_abs().saturating_mul(1_000_000);
        wall_ns.saturating_add(u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Since this clock started, never backwards: for measuring.
    pub fn elapsed(&self) -> std::time::Duration {
        self.0.started.elapsed()
    }

    /// A fresh UUIDv7 stamped with this clock's time.
    pub fn new_id(&self) -> Uuid {
        let now = self.now();
        let seconds = u64::try_from(now.as_secs()).unwrap_or(0);
        let nanos = u32::try_from(now.0.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos))
    }

    /// The UUIDv7 of something that several may name at once, each by itself: the same name and time, the same id.
    pub fn id_of(at: Timestamp, name: &str) -> Uuid {
        let hash = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hash.as_ref()[..10]);
        uuid::Builder::from_unix_timestamp_millis(at.0.max(0).unsigned_abs(), &random).into_uuid()
    }

    /// Compares with the wall clock. Small drift is followed at once; returns the jump in ms when the wall clock leapt
    /// (it is then followed too, since keys are checked by cars against real time, and the caller logs it).
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn resync(&self) -> Option<i64> {
        let offset = wall_ms(SystemTime::now()) - self.now().0;
        self.0.wall_ms.fetch_add(offset, Ordering::Relaxed);
        (offset.abs() > JUMP_MS).then_some(offset)
    }
}

/// Measures how long something took, for metrics; it decides nothing.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "measures real work of the disk, also while a test's time stands still"
    )]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub fn elapsed(self) -> std::time::Duration {
        self.0.elapsed()
    }
}

fn wall_ms(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
