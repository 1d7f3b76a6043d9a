//! The local engine: a [`Store`] on this machine's disk. Journal for the truth, sled for queries, a track beside them.
//!
//! Opened once at start by `run`; everybody else knows only the [`Store`] port. Dropping it without [`LocalStore::close`]
//! ends its threads like a crash would, and loses nothing that was answered.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{oneshot, watch};

use super::applier::{self, Applier};
use super::committer::{Answer, Committer, Request};
use super::feed::{Mode, Patience};
use super::frame::Body;
use super::journal::{self, Journal};
use super::ledger::{End, Ledger, Namer};
use super::lock::Lock;
use super::metrics::count;
use super::open_error::OpenError;
use super::reader::Reader;
use super::replica::{Arrived, COPIES_MAX, Observer, Replica};
use super::row::Row;
use super::shared::{CLOSED, DISK, Parts, QUEUE, Shared};
use super::track::{Track, TrackWriter};
use super::{
    Append, AppendError, Appending, Changes, Claiming, Observation, Order, Page, ReadError, Recorded, Store,
    StoreHealth, StoreMetrics, StorePosition, Table, record, segment, snapshot,
};
use crate::clock::{Clock, Stopwatch};
use crate::config;
use crate::domain::{Timestamp, VehicleId};

/// The most records or rows one read gives.
pub const READ_MAX: usize = 10_000;
/// Bytes of records after which a read of their changes ends.
const CHANGES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a read waits for the view to have what was acknowledged: a view that has an import of a whole country before
/// it gets there, one that stands still does not.
const READ_WAIT: Patience = Patience { turn: Duration::from_secs(2), turns: 5 };
/// Appends in the queue may hold this much together.
const QUEUE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The head file is at most this late.
const KEEPER_EVERY: Duration = Duration::from_millis(150);
const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);
/// Ticks to wait after a snapshot that failed.
const SNAPSHOT_PAUSE: u32 = 60;
/// What the end may spend on a snapshot, out of the 10 s that a stop of the gateway may take as a whole: with 200 000
/// records since the last one it took more than all of them.
const LAST_SNAPSHOT: Duration = Duration::from_millis(750);

pub struct LocalStore {
    pub(super) shared: Arc<Shared>,
    queue: Queue,
    track: Track,
    dir: PathBuf,
    journal_id: [u8; 16],
    snapshot_every: u64,
    threads: Mutex<Threads>,
    _lock: Lock,
}

/// Who writes the journal: our own promises, or a copy of those an engine elsewhere keeps.
enum Queue {
    Promises(SyncSender<Option<Box<Request>>>),
    Copies(SyncSender<Option<Arrived>>),
}

impl Queue {
    /// Wakes the writer, unless it has work anyway.
    fn wake(&self) {
        match self {
            Self::Promises(queue) => drop(queue.try_send(None)),
            Self::Copies(queue) => drop(queue.try_send(None)),
        }
    }
}

#[derive(Default)]
struct Threads {
    committer: Option<JoinHandle<Journal>>,
    others: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl LocalStore {
    /// Opens the data directory, verifying the whole journal; makes a new one where none ever was.
    pub fn open(config: &config::Data, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let (queue, taken) = sync_channel(config.queue_max.max(1));
        let id = *clock.new_id().as_bytes();
        Self::open_as(config, clock, id, Queue::Promises(queue), |shared, journal, dir| {
            let committer = Committer::new(shared, journal, taken, dir);
            Box::new(move || committer.run())
        })
    }

    /// Opens the data directory for a copy of a journal that is kept elsewhere: nothing is promised here, and what is to be
    /// copied goes into the queue. A directory with another journal is refused.
    pub(super) fn open_replica(
        config: &config::Data,
        clock: Clock,
        id: [u8; 16],
        observer: Box<dyn Observer>,
    ) -> Result<(Arc<Self>, SyncSender<Option<Arrived>>), OpenError> {
        let (queue, taken) = sync_channel(COPIES_MAX);
        let copies = Queue::Copies(queue.clone());
        let store = Self::open_as(config, clock, id, copies, |shared, journal, dir| {
            let replica = Replica::new(shared, journal, taken, dir, observer);
            Box::new(move || replica.run())
        })?;
        if store.journal_id != id {
            let why = "it holds another journal than the cluster. `cardea migrate` moves a single machine's journal into a \
                       new cluster; a gateway that joins one begins with an empty data directory";
            return Err(OpenError::missing(&config.dir, why));
        }
        Ok((store, queue))
    }

    /// `writer` makes the work of the one thread that writes the journal.
    fn open_as(
        config: &config::Data,
        clock: Clock,
        new_id: [u8; 16],
        queue: Queue,
        writer: impl FnOnce(Arc<Shared>, Journal, PathBuf) -> Box<dyn FnOnce() -> Journal + Send>,
    ) -> Result<Arc<Self>, OpenError> {
        let dir = config.dir.clone();
        create_durably(&dir).map_err(|error| OpenError::io("cannot create", &dir, &error))?;
        let lock = Lock::take(&dir)?;
        let (shared, journal) = open_journal(config, clock, new_id)?;
        let journal_id = journal.id();
        let applier = Applier { shared: Arc::clone(&shared), dir: dir.clone(), journal: journal_id };
        // In a thread like the one that goes on with it: the engine's own threads inherit what it is.
        let prepared = spawn("store-view", {
            let applier = applier.clone();
            move || in_background(|| applier.prepare())
        });
        let prepared = prepared.map_err(|error| OpenError::io("cannot start a thread for", &dir, &error))?.join();
        match prepared {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => {
                tracing::error!(problem, "the view cannot be made; queries are unavailable until it can");
            }
            Err(_) => tracing::error!("the view could not be made: its engine panicked"),
        }
        let (track, track_writer) = Track::open(config, journal_id, &shared.clock)
            .map_err(|error| OpenError::io("cannot use the track in", &dir, &error))?;
        let writer = writer(Arc::clone(&shared), journal, dir.clone());
        let store = Self {
            shared,
            queue,
            track,
            dir,
            journal_id,
            snapshot_every: config.snapshot_every_records.max(1),
            threads: Mutex::default(),
            _lock: lock,
        };
        store.start(writer, applier, track_writer)?;
        Ok(Arc::new(store))
    }

    fn start(
        &self,
        writer: Box<dyn FnOnce() -> Journal + Send>,
        applier: Applier,
        track: TrackWriter,
    ) -> Result<(), OpenError> {
        let failed = |error| OpenError::io("cannot start a thread for", &self.dir, &error);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.committer = Some(spawn("store-commit", writer).map_err(failed)?);
        threads.others.push(spawn("store-view", move || in_background(|| applier.run())).map_err(failed)?);
        let shared = Arc::clone(&self.shared);
        threads.others.push(spawn("store-track", move || in_background(|| track.run(&shared))).map_err(failed)?);
        let (shared, dir) = (Arc::clone(&self.shared), self.dir.clone());
        threads.others.push(spawn("store-keeper", move || keep(&shared, &dir)).map_err(failed)?);
        let (shared, dir, id, every) =
            (Arc::clone(&self.shared), self.dir.clone(), self.journal_id, self.snapshot_every);
        threads.others.push(
            spawn("store-snapshot", move || in_background(|| snapshots(&shared, &dir, id, every))).map_err(failed)?,
        );
        Ok(())
    }

    /// Hex.
    pub fn journal_id(&self) -> String {
        hex::encode(self.journal_id)
    }

    pub fn metrics(&self) -> &StoreMetrics {
        &self.shared.metrics
    }

    /// The row itself, wherever it stands.
    fn json(&self, row: Row) -> Result<Box<RawValue>, ReadError> {
        let at = match row {
            Row::Json(json) => return Ok(json),
            Row::InJournal(at) => at,
        };
        let reader = &self.shared.reader;
        let read = reader.at(at.place).and_then(|raw| match raw.frame.number == at.number {
            true => record::row(&raw, &at),
            false => Err(ReadError::Damaged(format!("record {} is not where it should be", at.number))),
        });
        if read.is_err() && reader.numbered(at.number).is_ok_and(|raw| raw.place != at.place) {
            // The view is wrong, not the journal: a new view will be right.
            return self.shared.with_view(|_| Err(format!("the view is wrong about record {}", at.number)));
        }
        read
    }

    /// Takes no more appends, finishes those in the queue, and leaves everything in order on disk. Blocks; may be
    /// called again.
    pub fn close(&self) {
        self.shared.stop_reason.get_or_init(|| CLOSED);
        self.stop(Mode::Closing);
    }

    fn stop(&self, mode: Mode) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(committer) = threads.committer.take() else { return };
        if mode == Mode::Abandoned {
            self.shared.feed.set_mode(mode);
        }
        // One with a full queue is awake.
        self.queue.wake();
        if committer.join().is_err() {
            tracing::error!("the committer had panicked");
        }
        // Only now: the others end when they have what the committer brought.
        self.shared.feed.set_mode(mode);
        self.track.wake();
        for thread in threads.others.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had panicked");
            }
        }
        if mode == Mode::Abandoned || self.shared.is_poisoned() {
            self.shared.view.take();
            return;
        }
        self.shared.write_head();
        applier::close(&self.shared, &self.dir, self.journal_id);
        self.last_snapshot();
    }

    /// Saves a later start some work, and is given up when it would make this end late.
    fn last_snapshot(&self) {
        let (durable, watch) = (self.shared.feed.durable(), Stopwatch::start());
        if !self.shared.check_disk(&self.dir) {
            let go_on = || watch.elapsed() < LAST_SNAPSHOT;
            snapshot_now(&self.shared, &self.dir, self.journal_id, durable, &go_on);
        }
    }

    /// Waits for the view to have everything acknowledged so far.
    pub(super) fn caught_up(&self) -> Result<u64, ReadError> {
        self.shared.feed.wait_applied(READ_WAIT).map_err(|not| {
            count(&self.shared.metrics.reads_unavailable);
            ReadError::Unavailable(not.0)
        })
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        self.shared.stop_reason.get_or_init(|| CLOSED);
        self.stop(Mode::Abandoned);
    }
}

/// Creates the folder and makes its name durable, and those of the folders above that were missing too.
fn create_durably(dir: &Path) -> std::io::Result<()> {
    let missing = dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).count();
    std::fs::create_dir_all(dir)?;
    for made in dir.ancestors().take(missing) {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        segment::sync_dir(above)?;
    }
    Ok(())
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// How much the threads of view, track and snapshots step back for those that make promises.
const BACKGROUND_NICE: i32 = 5;

/// Works with less right to the processor. On Linux that is the calling thread's alone, and of threads it starts.
fn in_background<T>(work: impl FnOnce() -> T) -> T {
    if let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE) {
        tracing::debug!(%error, "a thread in the background keeps its priority");
    }
    work()
}

/// Verifies the journal and learns from it what admission and reading need.
fn open_journal(config: &config::Data, clock: Clock, new_id: [u8; 16]) -> Result<(Arc<Shared>, Journal), OpenError> {
    let dir = &config.dir;
    let (namer, mut ledger) = (Namer::default(), Ledger::default());
    let reader = Reader::new(dir.join(journal::DIR));
    let metrics = StoreMetrics::default();
    let (now, watch) = (clock.now(), Stopwatch::start());
    let traces = match () {
        () if snapshot::any(dir) => Some("a snapshot"),
        () if dir.join(applier::DIR).exists() => Some("a view"),
        () => None,
    };
    let opened = Journal::open(
        dir,
        config.segment_mib.saturating_mul(1024 * 1024),
        new_id,
        traces,
        &mut |place, frame, bytes| {
            reader.note(frame.number, place);
            // Its checksum was right; were a body odd all the same, reading it will say so.
            if let Ok(body) = Body::parse(bytes) {
                // Everything may be forgotten here: the view is brought up to date before anything is admitted.
                ledger.streams.note(namer.name(body.stream), frame.number, frame.number, &metrics);
                if !body.key.is_empty() {
                    ledger.answers.note(namer.name(body.key), frame.number, body.at);
                    ledger.answers.sweep(now, &metrics);
                }
            }
        },
    );
    let (journal, head_file, walked) = opened?;
    let took = watch.elapsed();
    let mib_per_s = walked.bytes as f64 / (1024.0 * 1024.0) / took.as_secs_f64().max(1e-6);
    tracing::info!(
        records = walked.last,
        segments = walked.segments,
        bytes = walked.bytes,
        took_ms = took.as_millis() as u64,
        mib_per_s = mib_per_s as u64,
        "the journal is verified"
    );
    if walked.torn > 0 {
        tracing::warn!(bytes = walked.torn, "a torn end, never acknowledged, was cut off the journal");
    }
    if walked.head_was_lost && walked.last > 0 {
        tracing::warn!("the head file was lost or damaged; the whole journal verifies and a new one was written");
    }
    let min_free_bytes = config.min_free_mib.saturating_mul(1024 * 1024);
    let head = journal.head();
    let shared = Shared::new(Parts { clock, reader, namer, ledger, head, head_file, min_free_bytes });
    shared.feed.set_durable(journal.last());
    shared.check_disk(dir);
    Ok((Arc::new(shared), journal))
}

/// Keeps the head file close behind and watches the disk's free space, so that refusing ends by itself.
fn keep(shared: &Shared, dir: &Path) {
    while shared.feed.rest(KEEPER_EVERY) == Mode::Running {
        shared.check_disk(dir);
        shared.write_head();
    }
}

fn snapshots(shared: &Shared, dir: &Path, journal: [u8; 16], every: u64) {
    let durable = shared.feed.durable();
    let mut newest = snapshot::newest(dir, journal, &shared.reader, durable).map_or(0, |found| found.position);
    let mut pause = 0;
    while shared.feed.rest(SNAPSHOT_EVERY) == Mode::Running {
        let durable = shared.feed.durable();
        if pause > 0 {
            pause -= 1;
        } else if durable - newest >= every && !shared.is_disk_low() {
            let go_on = || shared.feed.mode() == Mode::Running;
            match snapshot_now(shared, dir, journal, durable, &go_on) {
                Some(position) => newest = position,
                None => pause = SNAPSHOT_PAUSE,
            }
        }
    }
}

fn snapshot_now(shared: &Shared, dir: &Path, journal: [u8; 16], until: u64, go_on: &dyn Fn() -> bool) -> Option<u64> {
    let watch = Stopwatch::start();
    match snapshot::make(dir, journal, &shared.reader, until, go_on) {
        Ok(position) => {
            count(&shared.metrics.snapshots);
            tracing::info!(position, took_ms = watch.elapsed().as_millis() as u64, "snapshot");
            Some(position)
        }
        Err(error) => {
            count(&shared.metrics.snapshot_errors);
            tracing::error!(%error, "no snapshot could be made");
            None
        }
    }
}

fn refused(error: AppendError) -> Appending {
    Box::pin(std::future::ready(Err(error)))
}

async fn outcome(answer: oneshot::Receiver<Answer>) -> Answer {
    answer.await.unwrap_or(Err(AppendError::Unknown("the store stopped before it answered")))
}

impl Store for LocalStore {
    fn append(&self, step: Append) -> Appending {
        let metrics = &self.shared.metrics;
        if let Some(reason) = self.shared.refusing() {
            if reason == DISK {
                count(&metrics.disk_refused);
            }
            return refused(AppendError::Full(reason));
        }
        let body = match record::body(&step) {
            Ok(body) => body,
            Err(error) => return refused(error),
        };
        let bytes = body.len();
        if self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            count(&metrics.queue_refused);
            return refused(AppendError::Full(QUEUE));
        }
        let (reply, answer) = oneshot::channel();
        let namer = &self.shared.namer;
        let request = Request {
            stream_name: namer.name(&step.stream),
            stream: step.stream,
            expected: step.expected,
            fence: step.fence,
            at: step.at,
            idempotency: step.idempotency.map(|idempotency| (namer.name(&idempotency.key), idempotency)),
            body,
            reply,
            waits: Stopwatch::start(),
        };
        // Counted first: the committer takes it off again as soon as it has the request.
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        let Queue::Promises(queue) = &self.queue else { return refused(AppendError::Full(CLOSED)) };
        match queue.try_send(Some(Box::new(request))) {
            Ok(()) => Box::pin(outcome(answer)),
            Err(error) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                count(&metrics.queue_refused);
                refused(AppendError::Full(match error {
                    TrySendError::Full(_) => QUEUE,
                    TrySendError::Disconnected(_) => CLOSED,
                }))
            }
        }
    }

    fn read(&self, stream: &str, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.caught_up()?;
        let places = self.shared.with_view(|view| view.places(stream, after.0, limit.min(READ_MAX)))?;
        let mut records = Vec::with_capacity(places.len());
        for (number, place) in places {
            let recorded = record::recorded(&self.shared.reader.at(place)?)?;
            if recorded.stream != stream || recorded.position.0 != number {
                // The index is wrong, not the journal: a new view will be right.
                return self.shared.with_view(|_| Err(format!("the stream index is wrong at record {number}")));
            }
            records.push(recorded);
        }
        Ok(records)
    }

    fn tail(&self, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let until = self.shared.feed.durable().min(after.0.saturating_add(limit.min(READ_MAX) as u64));
        self.shared.reader.walk(after.0, until).map(|raw| record::recorded(&raw?)).collect()
    }

    fn changes(&self, after: StorePosition, limit: usize, of: &[Table]) -> Result<Vec<Changes>, ReadError> {
        let until = self.shared.feed.durable().min(after.0.saturating_add(limit.min(READ_MAX) as u64));
        let (mut all, mut bytes) = (Vec::new(), 0);
        for raw in self.shared.reader.walk(after.0, until) {
            let raw = raw?;
            bytes += raw.body.len();
            all.push(record::changes(&raw, of)?);
            if bytes >= CHANGES_BYTES_MAX {
                break;
            }
        }
        Ok(all)
    }

    fn news(&self) -> watch::Receiver<StorePosition> {
        self.shared.feed.news()
    }

    fn newest(&self, stream: &str) -> Result<StorePosition, ReadError> {
        let end = self.shared.ledger().streams.end(self.shared.namer.name(stream));
        match end {
            End::At(position) => Ok(StorePosition(position)),
            End::AskView => {
                self.caught_up()?;
                self.shared.with_view(|view| view.stream_end(stream)).map(StorePosition)
            }
        }
    }

    fn get(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError> {
        self.caught_up()?;
        self.shared.with_view(|view| view.get(table, key))?.map(|row| self.json(row)).transpose()
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        order: Order,
    ) -> Result<Page, ReadError> {
        self.caught_up()?;
        let found = self.shared.with_view(|view| view.scan(table, prefix, after, limit.min(READ_MAX), order))?;
        let rows = found.rows.into_iter().map(|(key, row)| Ok((key, self.json(row)?))).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: found.next })
    }

    fn answered(&self, key: &str) -> Result<Option<(String, Box<RawValue>)>, ReadError> {
        let position = self.shared.ledger().answers.position(self.shared.namer.name(key));
        position.map_or(Ok(None), |position| record::answer(&self.shared.reader.numbered(position)?, key))
    }

    fn claim(&self, vehicle: &VehicleId) -> Claiming {
        Box::pin(std::future::ready(Ok(self.shared.claims().claim(vehicle))))
    }

    fn observe(&self, observation: Observation) {
        if self.shared.is_disk_low() || !self.track.observe(observation) {
            count(&self.shared.metrics.track_dropped);
        }
    }

    fn observations(
        &self,
        vehicle: &VehicleId,
        from: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Observation>, ReadError> {
        self.track.observations(vehicle, from, until, limit)
    }

    fn health(&self) -> StoreHealth {
        StoreHealth {
            durable: StorePosition(self.shared.feed.durable()),
            applied: StorePosition(self.shared.feed.applied()),
            refusing: self.shared.refusing(),
            is_poisoned: self.shared.is_poisoned(),
            queue_len: self.shared.queued.load(Ordering::Relaxed),
            view_problem: self.shared.feed.view_problem(),
        }
    }
}
