//! The committer: the one thread that writes the journal. It drains the queue, admits or refuses each append, writes
//! what it admitted with one sync, and only then answers.
//!
//! Nobody else writes the journal. It must never answer success before the sync, nor sync again after a failed one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::feed::{Committed, Mode};
use super::frame::Hash;
use super::journal::{CommitError, Journal, Place};
use super::ledger::{End, Name};
use super::metrics::count;
use super::record;
use super::shared::{CLOSED, DISK, POISONED, Shared};
use super::{AppendError, Epoch, Expected, Idempotency, StorePosition};
use crate::clock::Stopwatch;
use crate::domain::{Timestamp, VehicleId};

/// The most records and bytes that share one sync.
const BATCH_RECORDS_MAX: usize = 16_384;
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records that the view may be behind before writers wait for it, and how long a batch waits at most.
const LAG_MAX: u64 = 30_000;
const LAG_WAIT: Duration = Duration::from_millis(100);
/// How old the knowledge of the disk's free space may be; far less is written meanwhile than is kept free.
const DISK_KNOWN_FOR: Duration = Duration::from_millis(20);
/// How often an idle committer looks whether it shall end.
const IDLE: Duration = Duration::from_millis(200);

pub type Answer = Result<StorePosition, AppendError>;

/// One append on its way, its body already written out by the caller's thread.
#[derive(Debug)]
pub struct Request {
    pub stream: String,
    pub stream_name: Name,
    pub expected: Expected,
    pub fence: Option<(VehicleId, Epoch)>,
    pub at: Timestamp,
    pub idempotency: Option<(Name, Idempotency)>,
    pub body: Vec<u8>,
    pub reply: oneshot::Sender<Answer>,
    /// Since it was queued.
    pub waits: Stopwatch,
}

/// An admitted request with its place in the batch.
#[derive(Debug)]
struct Staged {
    request: Box<Request>,
    number: u64,
    place: Place,
    hash: Hash,
}

pub struct Committer {
    pub shared: Arc<Shared>,
    pub journal: Journal,
    /// `None` only wakes the committer.
    pub queue: Receiver<Option<Box<Request>>>,
    pub dir: PathBuf,
    disk_checked: Option<Stopwatch>,
    staged: Vec<Staged>,
    /// Ends and keys as they will be when the batch is durable.
    staged_ends: HashMap<Name, u64>,
    staged_keys: HashMap<Name, usize>,
    /// Refusals wait for the batch too: they may speak of records in it.
    refused: Vec<(oneshot::Sender<Answer>, AppendError)>,
}

impl Committer {
    pub fn new(shared: Arc<Shared>, journal: Journal, queue: Receiver<Option<Box<Request>>>, dir: PathBuf) -> Self {
        Self {
            shared,
            journal,
            queue,
            dir,
            disk_checked: None,
            staged: Vec::new(),
            staged_ends: HashMap::new(),
            staged_keys: HashMap::new(),
            refused: Vec::new(),
        }
    }

    /// Runs until the store closes; returns the journal's final state.
    pub fn run(mut self) -> Journal {
        let _guard = PoisonOnPanic(Arc::clone(&self.shared));
        loop {
            count(&self.shared.metrics.committer_turns);
            let is_stopping = self.shared.stop_reason.get().is_some();
            // What is in the queue when the store stops is finished; then nothing is waited for any more.
            let next = if is_stopping { self.queue.try_recv().ok() } else { self.queue.recv_timeout(IDLE).ok() };
            match next {
                Some(Some(first)) => self.work(first),
                Some(None) => {}
                None if is_stopping => return self.journal,
                None => {}
            }
            if self.shared.feed.mode() == Mode::Abandoned {
                return self.journal;
            }
        }
    }

    fn work(&mut self, first: Box<Request>) {
        let (mut batch, mut bytes) = (vec![first], 0);
        while batch.len() < BATCH_RECORDS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Ok(next) = self.queue.try_recv()
        {
            bytes += next.as_ref().map_or(0, |next| next.body.len());
            batch.extend(next);
        }
        let taken: usize = batch.iter().map(|request| request.body.len()).sum();
        self.shared.queued_bytes.fetch_sub(taken, Ordering::Relaxed);
        self.shared.queued.fetch_sub(batch.len(), Ordering::Relaxed);
        if self.shared.is_poisoned() {
            return refuse_all(batch, POISONED);
        }
        if self.is_disk_low() {
            self.shared.metrics.disk_refused.fetch_add(batch.len() as u64, Ordering::Relaxed);
            return refuse_all(batch, DISK);
        }
        // Writers that outrun the view for long would make every read late; they are slowed instead, up to a limit.
        if !self.shared.feed.wait_lag(LAG_MAX, LAG_WAIT) {
            count(&self.shared.metrics.view_waits);
        }
        let now = self.shared.clock.now();
        self.shared.ledger().answers.sweep(now, &self.shared.metrics);
        for request in batch {
            self.take(request);
        }
        self.flush();
    }

    fn is_disk_low(&mut self) -> bool {
        if self.disk_checked.as_ref().is_some_and(|checked| checked.elapsed() < DISK_KNOWN_FOR) {
            return self.shared.is_disk_low();
        }
        self.disk_checked = Some(Stopwatch::start());
        self.shared.check_disk(&self.dir)
    }

    fn take(&mut self, request: Box<Request>) {
        if self.shared.is_poisoned() {
            return refuse_all([request], POISONED);
        }
        if !self.journal.has_room(request.body.len()) || self.journal.staged_bytes() >= BATCH_BYTES_MAX {
            self.flush();
        }
        if !self.journal.has_room(request.body.len()) && !self.rotate() {
            let reason = if self.shared.is_poisoned() { POISONED } else { DISK };
            return refuse_all([request], reason);
        }
        match self.admit(&request) {
            Ok(()) => self.stage(request),
            Err(error) => self.refused.push((request.reply, error)),
        }
    }

    fn stage(&mut self, request: Box<Request>) {
        let (number, place, hash) = self.journal.stage(&request.body);
        self.staged_ends.insert(request.stream_name, number);
        if let Some((key, _)) = &request.idempotency {
            self.staged_keys.insert(*key, self.staged.len());
        }
        self.staged.push(Staged { request, number, place, hash });
    }

    /// A repeat gets its answer whatever happened since; then the claim, then the stream's end.
    fn admit(&self, request: &Request) -> Result<(), AppendError> {
        if let Some((name, idempotency)) = &request.idempotency
            && let Some((body, answer)) = self.answered(*name, &idempotency.key)?
        {
            if body != idempotency.body {
                return Err(AppendError::KeyReused);
            }
            count(&self.shared.metrics.duplicates);
            return Err(AppendError::Duplicate { answer });
        }
        if let Some((vehicle, epoch)) = &request.fence
            && !self.shared.claims().permits(vehicle, *epoch)
        {
            count(&self.shared.metrics.fenced);
            return Err(AppendError::Fenced);
        }
        if self.shared.ledger().streams.is_full(self.shared.feed.applied()) {
            return Err(AppendError::Full("the view is being rebuilt"));
        }
        match request.expected {
            Expected::Any => Ok(()),
            Expected::Last(expected) => {
                let actual = StorePosition(self.end(request)?);
                if actual == expected {
                    return Ok(());
                }
                count(&self.shared.metrics.conflicts);
                Err(AppendError::Conflict { actual })
            }
        }
    }

    fn answered(&self, name: Name, key: &str) -> Result<Option<(String, Box<RawValue>)>, AppendError> {
        if let Some(index) = self.staged_keys.get(&name) {
            let first = &self.staged[*index].request.idempotency;
            return Ok(first.as_ref().map(|(_, first)| (first.body.clone(), first.answer.clone())));
        }
        let Some(position) = self.shared.ledger().answers.position(name) else { return Ok(None) };
        let raw = self.shared.reader.numbered(position);
        raw.and_then(|raw| record::answer(&raw, key)).map_err(|error| {
            tracing::error!(position, %error, "an earlier answer cannot be read");
            AppendError::Full("an earlier answer cannot be read")
        })
    }

    fn end(&self, request: &Request) -> Result<u64, AppendError> {
        if let Some(number) = self.staged_ends.get(&request.stream_name) {
            return Ok(*number);
        }
        let end = self.shared.ledger().streams.end(request.stream_name);
        match end {
            End::At(position) => Ok(position),
            End::AskView => self.shared.with_view(|view| view.stream_end(&request.stream)).map_err(|error| {
                tracing::warn!(stream = request.stream, %error, "the stream's end is not known without the view");
                AppendError::Full("the view is being rebuilt")
            }),
        }
    }

    /// Makes the batch durable, tells everybody, and starts a new one.
    fn flush(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        let refused = std::mem::take(&mut self.refused);
        self.staged_ends.clear();
        self.staged_keys.clear();
        let bytes = self.journal.staged_bytes() as u64;
        let metrics = &self.shared.metrics;
        let outcome = if staged.is_empty() {
            Ok(())
        } else {
            self.journal.commit(|file| {
                let watch = Stopwatch::start();
                let synced = file.sync_data();
                metrics.synced(watch.elapsed());
                synced
            })
        };
        match outcome {
            Ok(()) => {
                metrics.journal_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.announce(staged);
                for (reply, error) in refused {
                    // The caller may have gone; nothing depends on it.
                    let _ = reply.send(Err(error));
                }
            }
            Err(error) => self.fail(staged, refused, error),
        }
    }

    fn announce(&self, staged: Vec<Staged>) {
        if staged.is_empty() {
            return;
        }
        let metrics = &self.shared.metrics;
        count(&metrics.batches);
        metrics.appends.fetch_add(staged.len() as u64, Ordering::Relaxed);
        metrics.batch_max.fetch_max(staged.len() as u64, Ordering::Relaxed);
        self.shared.set_head(self.journal.head());
        let applied = self.shared.feed.applied();
        let (mut committed, mut replies) = (Vec::with_capacity(staged.len()), Vec::with_capacity(staged.len()));
        let mut ledger = self.shared.ledger();
        for Staged { request, number, place, hash } in staged {
            let request = *request;
            metrics.promised.record(request.waits.elapsed());
            self.shared.reader.note(number, place);
            ledger.streams.note(request.stream_name, number, applied, metrics);
            if let Some((key, _)) = request.idempotency {
                ledger.answers.note(key, number, request.at);
            }
            committed.push(Committed { number, place, hash, body: request.body });
            replies.push((request.reply, number));
        }
        drop(ledger);
        self.shared.feed.publish(committed);
        for (reply, number) in replies {
            let _ = reply.send(Ok(StorePosition(number)));
        }
    }

    fn fail(&self, staged: Vec<Staged>, refused: Vec<(oneshot::Sender<Answer>, AppendError)>, error: CommitError) {
        let answer = match error {
            CommitError::NotStored(error) => {
                tracing::warn!(%error, records = staged.len(), "the disk is full; the batch was taken back");
                self.shared.set_disk_low(true);
                let refused = (staged.len() + refused.len()) as u64;
                self.shared.metrics.disk_refused.fetch_add(refused, Ordering::Relaxed);
                AppendError::Full(DISK)
            }
            CommitError::Unknown(error) => {
                self.poison(&error);
                AppendError::Unknown("the disk failed while the step was being saved")
            }
        };
        for reply in
            staged.into_iter().map(|staged| staged.request.reply).chain(refused.into_iter().map(|(reply, _)| reply))
        {
            let _ = reply.send(Err(answer.clone()));
        }
    }

    fn poison(&self, error: &std::io::Error) {
        tracing::error!(%error, "the journal could not be written or synced; no promise is taken until a restart");
        self.shared.poison();
    }

    /// Starts a new segment; false when that did not work.
    fn rotate(&mut self) -> bool {
        match self.journal.rotate() {
            Ok(()) => {
                self.shared.set_head(self.journal.head());
                // Without this the loss of the newest segment could go unnoticed at the next start.
                self.shared.write_head();
                true
            }
            Err(CommitError::NotStored(error)) => {
                tracing::warn!(%error, "no space for a new segment");
                count(&self.shared.metrics.disk_refused);
                false
            }
            Err(CommitError::Unknown(error)) => {
                self.poison(&error);
                false
            }
        }
    }
}

/// Refuses appends of which nothing was written.
fn refuse_all(batch: impl IntoIterator<Item = Box<Request>>, reason: &'static str) {
    for request in batch {
        let _ = request.reply.send(Err(AppendError::Full(reason)));
    }
}

/// A committer that panicked leaves a journal whose state nobody knows.
struct PoisonOnPanic(Arc<Shared>);

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison();
        }
        // Whoever is still in the queue is answered by the dropped channel; new ones by this.
        self.0.stop_reason.get_or_init(|| CLOSED);
    }
}
