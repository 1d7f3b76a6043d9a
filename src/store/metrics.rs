//! What the store counts. Plain atomics: written by its threads, read by whoever exposes them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::Timing;

/// Upper bounds in us of the sync histogram's buckets; the last bucket has none.
pub const SYNC_BUCKETS_US: [u64; 11] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000];

#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// Turns of the committer's loop, which an idle one takes too.
    pub committer_turns: AtomicU64,
    /// Records made durable.
    pub appends: AtomicU64,
    pub batches: AtomicU64,
    /// Records in the largest batch so far.
    pub batch_max: AtomicU64,
    pub journal_bytes: AtomicU64,
    pub sync_us_total: AtomicU64,
    /// From an append until it is durable.
    pub promised: Timing,
    /// Not cumulative: each sync is counted in the first bucket of [`SYNC_BUCKETS_US`] that holds it.
    pub sync_buckets: [AtomicU64; SYNC_BUCKETS_US.len() + 1],
    /// Appends refused because the queue was full, and because the disk was.
    pub queue_refused: AtomicU64,
    pub disk_refused: AtomicU64,
    pub conflicts: AtomicU64,
    pub fenced: AtomicU64,
    pub duplicates: AtomicU64,
    /// Records that a cluster's engine acknowledged, and that are others.
    pub broken_promises: AtomicU64,
    /// The head file could not be written; promises are not touched by it.
    pub head_errors: AtomicU64,
    /// Idempotency answers forgotten: too old, or too many newer ones.
    pub answers_forgotten: AtomicU64,
    /// The table of stream positions was too full to hold every stream; the view is asked for the others.
    pub streams_forgotten: AtomicU64,
    pub view_rebuilds: AtomicU64,
    pub view_errors: AtomicU64,
    /// Records in the view that it has only in memory.
    pub view_unflushed: AtomicU64,
    /// Records durable but not in the view yet.
    pub applied_lag: AtomicU64,
    /// Batches that waited for the view in vain and went on.
    pub view_waits: AtomicU64,
    /// Reads that did not find the view up to date in time.
    pub reads_unavailable: AtomicU64,
    pub snapshots: AtomicU64,
    pub snapshot_errors: AtomicU64,
    pub observed: AtomicU64,
    /// Observations dropped: queue full, or disk low or failing.
    pub track_dropped: AtomicU64,
    pub track_segments_deleted: AtomicU64,
    pub track_errors: AtomicU64,
}

impl StoreMetrics {
    pub(super) fn synced(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sync_us_total.fetch_add(us, Ordering::Relaxed);
        let bucket = SYNC_BUCKETS_US.partition_point(|bound| *bound < us);
        self.sync_buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
