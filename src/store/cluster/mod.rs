//! The cluster's engine: a [`Store`] whose promises stand in a NATS JetStream cluster.
//!
//! One stream holds every record of the fleet, and its sequence numbers are the journal's. Each gateway follows it and
//! writes what comes into a journal of its own: a copy with the same numbers and the same hash chain, from which view,
//! snapshots, queries and the audit trail are made as on a single machine. An append goes to the engine and is promised with
//! its answer; a read waits until the copy here has what was promised here.
//!
//! A claim on a vehicle is a record of the vehicle's own stream. It moves the stream's end, so that every append of an older
//! owner is refused by the engine itself, whatever that owner still believes.

mod acknowledged;
mod append;
mod engine;
mod follow;
pub mod migrate;
pub mod owners;
mod safety;
mod subject;
mod track;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acknowledged::{Acknowledged, Broken};
use engine::Engine;
use owners::Owners;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot, watch};

use super::local::LocalStore;
use super::metrics::count;
use super::shared::{CLOSED, QUEUE, Shared};
use super::{
    Append, AppendError, Appending, Changes, Claiming, Confirming, Epoch, Expected, NewRow, Observation, OpenError,
    Order, Page, ReadError, Recorded, Store, StoreHealth, StorePosition, Table, ViewChange, record,
};
use crate::clock::{Clock, Stopwatch};
use crate::config::Config;
use crate::domain::{Principal, Timestamp, VehicleId};

/// Why promises are refused while no server can be reached, or no record arrives.
pub const ENGINE: &str = "engine";
/// Appends on their way may hold this much together.
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a read waits for what was promised to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(2);
/// How long the end waits for appends that are on their way.
const LAST_APPENDS: Duration = Duration::from_millis(500);

pub struct ClusterStore {
    inner: Arc<Inner>,
    local: Arc<LocalStore>,
    runtime: Mutex<Option<Runtime>>,
}

/// What the tasks of the store share.
struct Inner {
    engine: Engine,
    /// The id of the journal that the stream is.
    journal: [u8; 16],
    shared: Arc<Shared>,
    clock: Clock,
    owners: Arc<Owners>,
    node: String,
    timeout: Duration,
    in_flight: Arc<Semaphore>,
    queue_max: usize,
    bytes: AtomicUsize,
    is_closing: AtomicBool,
    acknowledged: Acknowledged,
    /// Where the stream ended when its leader was asked last.
    seen_last: AtomicU64,
    /// The copy has not got on for too long although there are records.
    is_behind: AtomicBool,
}

impl std::fmt::Debug for ClusterStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterStore").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

impl ClusterStore {
    /// Connects to the engine, refuses one that may lose records, and brings the copy here up to date. Blocks, and must not be
    /// called on a runtime's thread.
    pub fn open(config: &Config, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let io = |error: std::io::Error| OpenError::io("cannot start threads for", &config.data.dir, &error);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-engine")
            .enable_all()
            .build()
            .map_err(io)?;
        let opening = async {
            let engine = Engine::connect(&config.cluster).await?;
            safety::check(&config.cluster).await?;
            let stream = engine.open_stream(&config.cluster, *clock.new_id().as_bytes(), 0).await?;
            if stream.is_partial {
                let why =
                    "a migration into its stream is under way or was interrupted: `cardea migrate` goes on with it";
                return Err(OpenError::Engine(why.into()));
            }
            Ok::<_, OpenError>((engine, stream))
        };
        let (engine, stream) = runtime.block_on(opening)?;
        let process = clock.new_id();
        let owners = Arc::new(Owners::new(config.cluster.node.clone(), process));
        let observer = Box::new(owners::Observing(Arc::clone(&owners)));
        let (local, copies) = LocalStore::open_replica(&config.data, clock.clone(), stream.journal, observer)?;
        let inner = Arc::new(Inner {
            engine,
            journal: stream.journal,
            shared: Arc::clone(&local.shared),
            clock,
            owners,
            node: config.cluster.node.clone(),
            timeout: Duration::from_millis(config.cluster.append_timeout_ms),
            in_flight: Arc::new(Semaphore::new(config.data.queue_max)),
            queue_max: config.data.queue_max,
            bytes: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            acknowledged: Acknowledged::default(),
            seen_last: AtomicU64::new(stream.last),
            is_behind: AtomicBool::new(false),
        });
        runtime.block_on(follow::check_copy(&inner, &stream))?;
        runtime.spawn(follow::run(Arc::clone(&inner), copies));
        runtime.block_on(follow::catch_up(&inner, stream.last))?;
        runtime.spawn(follow::watch(Arc::clone(&inner)));
        let (client, subject) = (inner.engine.client().clone(), inner.engine.track());
        runtime.spawn(track::answer(client, subject, Arc::downgrade(&local), process));
        inner.owners.load(&*local).map_err(|error| OpenError::Engine(error.to_string()))?;
        Ok(Arc::new(Self { inner, local, runtime: Mutex::new(Some(runtime)) }))
    }

    /// The copy on this machine's disk.
    pub fn local(&self) -> &Arc<LocalStore> {
        &self.local
    }

    /// Which gateway took each vehicle last.
    pub fn owners(&self) -> Arc<Owners> {
        Arc::clone(&self.inner.owners)
    }

    /// The connection to the servers, for what the gateways tell each other.
    pub fn client(&self) -> async_nats::Client {
        self.inner.engine.client().clone()
    }

    /// Takes no more appends, waits for those on their way as long as it may, and leaves the copy in order. Blocks; may be
    /// called again. Not on a runtime's thread.
    pub fn close(&self) {
        self.inner.is_closing.store(true, Ordering::SeqCst);
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            let all = u32::try_from(self.inner.queue_max).unwrap_or(u32::MAX);
            let answered = async { tokio::time::timeout(LAST_APPENDS, self.inner.in_flight.acquire_many(all)).await };
            if runtime.block_on(answered).is_err() {
                tracing::warn!("appends were still on their way to the engine at the end");
            }
            runtime.shutdown_background();
        }
        self.local.close();
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.as_ref().map(|runtime| runtime.spawn(task)).is_some()
    }

    /// Waits until the copy has what was promised here. Blocks, for a moment.
    fn arrived(&self) -> Result<(), ReadError> {
        self.inner
            .shared
            .feed
            .wait_arrived(ARRIVES_WITHIN)
            .map_err(|missing| ReadError::Unavailable(format!("record {missing} of the cluster has not arrived here")))
    }

    /// Waits until the copy has all that anybody was promised before this call.
    fn catch_up(&self) -> Result<(), ReadError> {
        let engine = self.inner.engine.clone();
        let state = self.wait_for(async move { engine.state().await });
        let state = state.unwrap_or_else(|| Err("the store is closed".to_owned())).map_err(ReadError::Unavailable)?;
        self.arrived()?;
        // What a leader says of the end is no promise, and is waited for here alone.
        let missing = self.inner.shared.feed.wait_for(state.last, ARRIVES_WITHIN).is_err();
        match missing {
            true => Err(ReadError::Unavailable(format!("record {} of the cluster has not arrived here", state.last))),
            false => Ok(()),
        }
    }

    /// Blocks the calling thread, which may be any, while the store's own do the work. `None` once the store is closed.
    fn wait_for<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (done, result) = std::sync::mpsc::sync_channel(1);
        let is_running = self.spawn(async move {
            // Whoever asked waits below.
            let _ = done.send(work.await);
        });
        is_running.then(|| result.recv().ok()).flatten()
    }

    /// Puts a step on its way to the engine.
    fn send(&self, step: &Append) -> Result<oneshot::Receiver<Result<StorePosition, AppendError>>, AppendError> {
        if let Some(reason) = self.inner.refusing() {
            return Err(AppendError::Full(reason));
        }
        let body = record::body(step)?;
        let metrics = &self.inner.shared.metrics;
        let full = || {
            count(&metrics.queue_refused);
            AppendError::Full(QUEUE)
        };
        let permit = Arc::clone(&self.inner.in_flight).try_acquire_owned().map_err(|_| full())?;
        let bytes = body.len();
        if self.inner.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_MAX {
            self.inner.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(full());
        }
        let (reply, answer) = oneshot::channel();
        let request = append::Request::new(step, body, self.inner.clock.new_id());
        let inner = Arc::clone(&self.inner);
        let waits = Stopwatch::start();
        let is_running = self.spawn(async move {
            let outcome = append::append(&inner, &request).await;
            inner.bytes.fetch_sub(bytes, Ordering::Relaxed);
            if outcome.is_ok() {
                inner.shared.metrics.promised.record(waits.elapsed());
            }
            // The caller may have gone; what was stored is stored.
            let _ = reply.send(outcome);
            drop(permit);
        });
        if is_running { Ok(answer) } else { Err(AppendError::Full(CLOSED)) }
    }
}

impl Drop for ClusterStore {
    fn drop(&mut self) {
        self.inner.is_closing.store(true, Ordering::SeqCst);
        if let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    /// Tells of a promise that the engine broke: an answer that somebody heard is not true.
    fn tell_broken(&self, number: u64, found: Result<(), Broken>) {
        if found.is_err() {
            count(&self.shared.metrics.broken_promises);
            tracing::error!(number, "the engine acknowledged this record of ours, and another has its place");
        }
    }

    fn refusing(&self) -> Option<&'static str> {
        let is_away = self.is_closing.load(Ordering::SeqCst) || self.is_behind.load(Ordering::Relaxed);
        self.shared.refusing().or(is_away.then_some(ENGINE))
    }
}

async fn outcome(answer: oneshot::Receiver<Result<StorePosition, AppendError>>) -> Result<StorePosition, AppendError> {
    answer.await.unwrap_or(Err(AppendError::Unknown("the store stopped before it answered")))
}

impl Store for ClusterStore {
    fn append(&self, step: Append) -> Appending {
        match self.send(&step) {
            Ok(answer) => Box::pin(outcome(answer)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn read(&self, stream: &str, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.local.read(stream, after, limit)
    }

    fn tail(&self, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.arrived()?;
        self.local.tail(after, limit)
    }

    fn changes(&self, after: StorePosition, limit: usize, of: &[Table]) -> Result<Vec<Changes>, ReadError> {
        self.local.changes(after, limit, of)
    }

    fn news(&self) -> watch::Receiver<StorePosition> {
        self.local.news()
    }

    fn is_newest(&self, stream: &str, position: StorePosition) -> Confirming {
        let (engine, stream) = (self.inner.engine.clone(), stream.to_owned());
        Box::pin(async move {
            let last = engine.last_of(&stream).await.map_err(ReadError::Unavailable)?;
            Ok(last == position.0)
        })
    }

    /// As far as the copy here knows: the engine refuses who expects less than there is.
    fn newest(&self, stream: &str) -> Result<StorePosition, ReadError> {
        self.arrived()?;
        self.local.newest(stream)
    }

    fn get_here(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError> {
        self.local.get(table, key)
    }

    fn get(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError> {
        if let Some(row) = self.local.get(table, key)? {
            return Ok(Some(row));
        }
        // Another gateway may have promised it a moment ago: whoever was told of a thing finds it at each of them.
        self.catch_up()?;
        self.local.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        order: Order,
    ) -> Result<Page, ReadError> {
        self.local.scan(table, prefix, after, limit, order)
    }

    fn answered(&self, key: &str) -> Result<Option<(String, Box<RawValue>)>, ReadError> {
        self.arrived()?;
        self.local.answered(key)
    }

    fn claim(&self, vehicle: &VehicleId) -> Claiming {
        let claim = match self.inner.owners.claim(vehicle) {
            Some(row) => Append {
                stream: format!("vehicle/{vehicle}"),
                expected: Expected::Any,
                fence: None,
                at: self.inner.clock.now(),
                by: Principal::gateway(),
                idempotency: None,
                events: Vec::new(),
                view: vec![ViewChange { table: Table::Claims, key: vehicle.to_string(), row: NewRow::Json(row) }],
            },
            None => return Box::pin(std::future::ready(Err(AppendError::TooLarge { limit: 0 }))),
        };
        let (inner, vehicle) = (Arc::clone(&self.inner), vehicle.clone());
        match self.send(&claim) {
            Ok(answer) => Box::pin(async move {
                let StorePosition(position) = outcome(answer).await?;
                inner.shared.claims().note(&vehicle, Epoch(position));
                match inner.owners.taken(&vehicle, position) {
                    true => Ok(Epoch(position)),
                    false => Err(AppendError::Fenced),
                }
            }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn observe(&self, observation: Observation) {
        self.local.observe(observation);
    }

    fn observations(
        &self,
        vehicle: &VehicleId,
        from: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Observation>, ReadError> {
        let mut found = self.local.observations(vehicle, from, until, limit)?;
        let question =
            track::Question { vehicle: vehicle.clone(), from, until, limit, process: self.inner.owners.process() };
        let engine = self.inner.engine.clone();
        let elsewhere = self.wait_for(async move { track::ask(engine.client(), engine.track(), &question).await });
        let elsewhere = elsewhere.transpose()?.unwrap_or_default();
        if !elsewhere.is_empty() {
            found.extend(elsewhere);
            found.sort_by_key(|observation| observation.at);
            found.truncate(limit);
        }
        Ok(found)
    }

    fn health(&self) -> StoreHealth {
        let local = self.local.health();
        StoreHealth {
            refusing: local.refusing.or_else(|| self.inner.refusing()),
            queue_len: self.inner.queue_max - self.inner.in_flight.available_permits(),
            ..local
        }
    }
}
