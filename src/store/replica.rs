//! The copier: the one thread that writes the journal of a gateway in a cluster. The engine keeps the promises; what comes
//! from it, in its order, is written here under the same numbers, with the same hash chain at every gateway.
//!
//! It never answers anyone. A copy that a disk failed to take comes again from the engine after a restart.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::feed::{Committed, Mode};
use super::frame::{Body, FRAME_LEN};
use super::journal::{CommitError, Journal};
use super::metrics::count;
use super::shared::{CLOSED, Shared};
use crate::clock::Stopwatch;

/// Records on their way from the engine to the disk.
pub const COPIES_MAX: usize = 4_096;
/// The most that share one sync.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How often an idle copier looks whether it shall end.
const IDLE: Duration = Duration::from_millis(200);
/// Between attempts on a full disk.
const DISK_AGAIN: Duration = Duration::from_millis(500);

/// A record as the engine has it.
#[derive(Debug)]
pub struct Arrived {
    pub number: u64,
    /// The mark of the journal it was copied into the engine from, else 0: it goes into the record's hash.
    pub durable: u64,
    pub body: Vec<u8>,
}

/// Who wants to know of each record that is copied, in order, just before it can be read. Called by the thread that writes:
/// be quick.
pub trait Observer: Send {
    fn copied(&self, number: u64, body: &Body<'_>);
}

pub struct Replica {
    shared: Arc<Shared>,
    journal: Journal,
    /// `None` only wakes.
    queue: Receiver<Option<Arrived>>,
    dir: PathBuf,
    observer: Box<dyn Observer>,
}

impl Replica {
    pub fn new(
        shared: Arc<Shared>,
        journal: Journal,
        queue: Receiver<Option<Arrived>>,
        dir: PathBuf,
        observer: Box<dyn Observer>,
    ) -> Self {
        Self { shared, journal, queue, dir, observer }
    }

    /// Runs until the store closes; returns the journal's final state.
    pub fn run(mut self) -> Journal {
        let _guard = PoisonOnPanic(Arc::clone(&self.shared));
        loop {
            count(&self.shared.metrics.committer_turns);
            // What has not been copied at the end comes again at the next start.
            if self.shared.stop_reason.get().is_some() || self.shared.feed.mode() == Mode::Abandoned {
                return self.journal;
            }
            if let Ok(Some(first)) = self.queue.recv_timeout(IDLE) {
                let batch = self.gather(first);
                if !self.shared.is_poisoned() {
                    self.copy(batch);
                }
            }
        }
    }

    fn gather(&self, first: Arrived) -> VecDeque<Arrived> {
        let (mut bytes, mut batch) = (first.body.len(), VecDeque::from([first]));
        while bytes < BATCH_BYTES_MAX
            && let Ok(next) = self.queue.try_recv()
        {
            bytes += next.as_ref().map_or(0, |next| next.body.len());
            batch.extend(next);
        }
        batch
    }

    /// As many of the batch as a segment has room for share a sync.
    fn copy(&mut self, mut batch: VecDeque<Arrived>) {
        // Sent again after a reconnect.
        while batch.front().is_some_and(|first| first.number <= self.journal.last()) {
            batch.pop_front();
        }
        while let Some(first) = batch.pop_front() {
            if !self.journal.has_room(first.body.len()) && !self.rotate() {
                return;
            }
            let (mut bytes, mut taken) = (FRAME_LEN + first.body.len(), vec![first]);
            while let Some(next) = batch.front()
                && self.journal.has_room(bytes + next.body.len())
            {
                bytes += FRAME_LEN + next.body.len();
                taken.extend(batch.pop_front());
            }
            if !self.copy_together(taken) {
                return;
            }
        }
    }

    /// Writes the records, again and again while the disk is full; false when the store is at its end.
    fn copy_together(&mut self, records: Vec<Arrived>) -> bool {
        loop {
            let places: Vec<_> = records.iter().map(|copy| self.journal.stage_as(&copy.body, copy.durable)).collect();
            let bytes = self.journal.staged_bytes() as u64;
            let metrics = &self.shared.metrics;
            let outcome = self.journal.commit(|file| {
                let watch = Stopwatch::start();
                let synced = file.sync_data();
                metrics.synced(watch.elapsed());
                synced
            });
            match outcome {
                Ok(()) => {
                    metrics.journal_bytes.fetch_add(bytes, Ordering::Relaxed);
                    let copied = records.into_iter().zip(places);
                    let copied = copied.map(|(Arrived { body, .. }, (number, place, hash))| Committed {
                        number,
                        place,
                        hash,
                        body,
                    });
                    self.announce(copied.collect());
                    return true;
                }
                Err(CommitError::NotStored(error)) => {
                    tracing::warn!(%error, "the disk is full; the copy of the journal waits");
                    if !self.wait_for_disk() {
                        return false;
                    }
                }
                Err(CommitError::Unknown(error)) => {
                    tracing::error!(%error, "the copy of the journal could not be written or synced");
                    self.shared.poison();
                    return false;
                }
            }
        }
    }

    fn rotate(&mut self) -> bool {
        loop {
            match self.journal.rotate() {
                Ok(()) => {
                    self.shared.set_head(self.journal.head());
                    self.shared.write_head();
                    return true;
                }
                Err(CommitError::NotStored(error)) => {
                    tracing::warn!(%error, "no space for a new segment; the copy of the journal waits");
                    if !self.wait_for_disk() {
                        return false;
                    }
                }
                Err(CommitError::Unknown(error)) => {
                    tracing::error!(%error, "no new segment could be made");
                    self.shared.poison();
                    return false;
                }
            }
        }
    }

    /// False when the store ends meanwhile.
    fn wait_for_disk(&self) -> bool {
        self.shared.set_disk_low(true);
        let is_running = self.shared.feed.rest(DISK_AGAIN) == Mode::Running;
        self.shared.check_disk(&self.dir);
        count(&self.shared.metrics.committer_turns);
        is_running && self.shared.stop_reason.get().is_none()
    }

    fn announce(&self, staged: Vec<Committed>) {
        let metrics = &self.shared.metrics;
        count(&metrics.batches);
        metrics.appends.fetch_add(staged.len() as u64, Ordering::Relaxed);
        metrics.batch_max.fetch_max(staged.len() as u64, Ordering::Relaxed);
        self.shared.set_head(self.journal.head());
        let (applied, now) = (self.shared.feed.applied(), self.shared.clock.now());
        let mut ledger = self.shared.ledger();
        ledger.answers.sweep(now, metrics);
        for committed in &staged {
            self.shared.reader.note(committed.number, committed.place);
            let Ok(body) = Body::parse(&committed.body) else { continue };
            ledger.streams.note(self.shared.namer.name(body.stream), committed.number, applied, metrics);
            self.observer.copied(committed.number, &body);
            let key = self.shared.namer.name(body.key);
            // The first is the answer; should a repeat have got past the engine all the same, it changes nothing.
            if !body.key.is_empty() && ledger.answers.position(key).is_none() {
                ledger.answers.note(key, committed.number, body.at);
            }
        }
        drop(ledger);
        self.shared.feed.publish(staged);
    }
}

/// A copier that panicked leaves a journal whose state nobody knows.
struct PoisonOnPanic(Arc<Shared>);

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison();
        }
        self.0.stop_reason.get_or_init(|| CLOSED);
    }
}
