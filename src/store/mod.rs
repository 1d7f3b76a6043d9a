//! The store: what was promised, on disk before anyone hears of it.
//!
//! [`Store`] is the port the actors use; it knows nothing of the engine behind it. The local engine is a journal
//! (the truth) and a sled view (an index that can be rebuilt from the journal at any time).
//! The store never decides anything about the business and never reads a wire.

mod applier;
pub mod audit;
pub mod backup;
pub mod cluster;
mod committer;
mod feed;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod head;
mod journal;
mod ledger;
pub mod local;
mod lock;
pub mod metrics;
mod open_error;
mod reader;
mod record;
mod recovery;
mod replica;
mod row;
mod segment;
mod shared;
mod snapshot;
mod spool;
mod track;
mod track_index;
mod view;
mod view_mark;

pub use audit::{Passed, Verified, export, journal_bytes, newest, verify, verify_watched};
pub use cluster::ClusterStore;
pub use local::LocalStore;
pub use lock::is_taken as is_in_use;
pub use metrics::{SYNC_BUCKETS_US, StoreMetrics};
pub use open_error::OpenError;
#[cfg(test)]
pub(crate) use record::check_size;
pub use shared::free_bytes;
pub use spool::{Kept, Spool};

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::domain::{Principal, Timestamp, VehicleId};

/// The number of a record in the journal, counted from 1; 0 stands for "no record yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StorePosition(pub u64);

/// The name of one ordered history, like `vehicle/WVW-1` or `card/ic_1`; at most 160 bytes, no control characters.
pub type Stream = String;

/// What must be the newest record of the stream for an append to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Any,
    /// The stream's last record; `StorePosition(0)` = the stream is empty.
    Last(StorePosition),
}

/// The right to write a vehicle's stream; a newer claim fences every older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// A caller's idempotency key with the answer that a repeat shall get.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Idempotency {
    /// Scoped by the caller already: `<subject>/<route>/<key>`.
    pub key: String,
    /// Hex SHA-256 of the request body: the same key with another body is a mistake of the caller.
    pub body: String,
    /// What the first call was answered; opaque to the store.
    pub answer: Box<RawValue>,
}

/// One change of the view.
#[derive(Debug, Clone)]
pub struct ViewChange {
    pub table: Table,
    pub key: String,
    pub row: NewRow,
}

/// What a row becomes.
#[derive(Debug, Clone)]
pub enum NewRow {
    Removed,
    Json(Box<RawValue>),
    /// The value of this member of the step's event with this index. For what is written once and large: the row is then
    /// no second copy but the place of the first, and each read of it is a read of the journal.
    OfEvent {
        event: u32,
        member: &'static str,
    },
}

impl From<Box<RawValue>> for NewRow {
    fn from(json: Box<RawValue>) -> Self {
        Self::Json(json)
    }
}

impl From<Option<Box<RawValue>>> for NewRow {
    fn from(json: Option<Box<RawValue>>) -> Self {
        json.map_or(Self::Removed, Self::Json)
    }
}

/// The tables of the view. Keys are UTF-8 and sort bytewise; values are JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    Vehicles,
    /// Folded vehicle aggregates, so that an actor need not read its whole stream.
    VehicleStates,
    Commands,
    UsageRequests,
    Rentals,
    Keys,
    Cards,
    Stations,
    Decisions,
    Alerts,
    ApiKeys,
    Certificates,
    /// People who log in with a password.
    Users,
    /// Open sessions of browsers, by the SHA-256 of their cookie.
    Sessions,
    /// What became of authorisations after their answer, by `{source}/{authorization id}`.
    Reconciliations,
    /// Purchases whose holder is asked to confirm them, by decision id.
    StepUps,
    /// Versions of the card guard's rules, by the time of their activation.
    CardRules,
    /// Where cars stood when their cards were read at stations whose place is not known.
    StationSightings,
    /// The notifier's cursor, what it has still to deliver, dead letters, and alerts that may be escalated.
    Notifications,
    /// In a cluster, the gateway that took each vehicle last.
    Claims,
    /// When API keys and users were last used, by `api-key/{id}` and `user/{id}`: rows of their own, so that whoever notes a
    /// use writes nothing else over what somebody changes meanwhile.
    LastUses,
}

/// One durable step: all of it is stored, or none.
#[derive(Debug, Clone)]
pub struct Append {
    pub stream: Stream,
    pub expected: Expected,
    /// For vehicle streams: the claim under which the writer acts.
    pub fence: Option<(VehicleId, Epoch)>,
    pub at: Timestamp,
    pub by: Principal,
    pub idempotency: Option<Idempotency>,
    /// Each one JSON document; at most 2 MiB together with the view changes.
    pub events: Vec<Box<RawValue>>,
    pub view: Vec<ViewChange>,
}

/// Why an append did not go through.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Surely not stored: somebody else wrote the stream; read it again.
    #[error("the stream's last record is {actual:?}")]
    Conflict { actual: StorePosition },
    /// Surely not stored: a newer claim exists; the writer must stop.
    #[error("a newer claim on the vehicle exists")]
    Fenced,
    /// Not stored again: this key was answered before, with this.
    #[error("answered before")]
    Duplicate { answer: Box<RawValue> },
    /// Surely not stored: the key came before with another body.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    /// Surely not stored: queue or disk is full, or the store is read-only; worth a retry later.
    #[error("storage is full or busy: {0}")]
    Full(&'static str),
    /// Surely not stored: larger than a record may be.
    #[error("the record is larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// May have been stored. The writer must forget its state and read the stream again.
    #[error("the outcome is unknown: {0}")]
    Unknown(&'static str),
}

/// A stored step as it is read back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recorded {
    pub position: StorePosition,
    pub stream: Stream,
    pub at: Timestamp,
    pub by: Principal,
    pub events: Vec<Box<RawValue>>,
    /// Hex SHA-256 of this record, chained to the one before it.
    pub hash: String,
}

/// What one stored step changed of the view.
#[derive(Debug, Clone)]
pub struct Changes {
    pub position: StorePosition,
    /// In the order of the step; only those of the tables that were asked for.
    pub rows: Vec<ChangedRow>,
}

/// A row as a step left it.
#[derive(Debug, Clone)]
pub struct ChangedRow {
    pub table: Table,
    pub key: String,
    /// `None` = removed.
    pub row: Option<Box<RawValue>>,
}

/// A read that could not be answered. Nothing changed; a retry is worth it unless `Damaged`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("the view is not available: {0}")]
    Unavailable(String),
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

pub type Appending = Pin<Box<dyn Future<Output = Result<StorePosition, AppendError>> + Send>>;
/// The errors are those of an append; after `Unknown` nobody was given the epoch, so that asking again is safe.
pub type Claiming = Pin<Box<dyn Future<Output = Result<Epoch, AppendError>> + Send>>;
/// Whether a record is still its stream's newest.
pub type Confirming = Pin<Box<dyn Future<Output = Result<bool, ReadError>> + Send>>;

/// One page of a table in key order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub rows: Vec<(String, Box<RawValue>)>,
    /// Pass as `after` to read on; `None` at the end.
    pub next: Option<String>,
}

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

/// Where promises are kept. `append` never blocks; the reads do (disk), so call them off the actors' threads
/// (`actix_web::web::block` / `tokio::task::spawn_blocking`), except at start. A read sees every append that was acknowledged before it began.
pub trait Store: Send + Sync + 'static {
    /// Queues the step; the future ends when it is durable, or surely not, or nobody can know.
    fn append(&self, step: Append) -> Appending;
    /// The stream's records after `after`, oldest first, at most `limit`.
    fn read(&self, stream: &str, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError>;
    /// All records after `after`, oldest first, at most `limit`.
    fn tail(&self, after: StorePosition, limit: usize) -> Result<Vec<Recorded>, ReadError>;
    /// What each record after `after` changed of these tables, oldest first; at most `limit` records, and fewer where they
    /// are large. Empty = there are no more records.
    fn changes(&self, after: StorePosition, limit: usize, of: &[Table]) -> Result<Vec<Changes>, ReadError>;
    /// Wakes when there are more records to read; the value is the newest position.
    fn news(&self) -> watch::Receiver<StorePosition>;
    /// Is this still the stream's newest record, whoever writes it and wherever? Asked before something is refused by what
    /// it says. Where nobody else can write, it is.
    fn is_newest(&self, stream: &str, position: StorePosition) -> Confirming {
        let _ = (stream, position);
        Box::pin(std::future::ready(Ok(true)))
    }
    /// The newest record of a stream; 0 = it has none.
    fn newest(&self, stream: &str) -> Result<StorePosition, ReadError>;
    /// In a cluster a row that is missing here is asked for: whoever was told of a thing finds it at every gateway.
    fn get(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError>;
    /// [`Self::get`] for who knows that all that matters is here, after a claim, or wants no more than that.
    fn get_here(&self, table: Table, key: &str) -> Result<Option<Box<RawValue>>, ReadError> {
        self.get(table, key)
    }
    /// Rows whose key starts with `prefix`, after the key `after` in the given order, at most `limit`.
    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        order: Order,
    ) -> Result<Page, ReadError>;
    /// What a repeat of this idempotency key was answered: `(body hash, answer)`.
    fn answered(&self, key: &str) -> Result<Option<(String, Box<RawValue>)>, ReadError>;
    /// Takes the right to write the vehicle's stream, fencing whoever had it. Once it is given, a read sees everything
    /// that was stored under older ones.
    fn claim(&self, vehicle: &VehicleId) -> Claiming;
    /// Saves an observation (a track point, a signal) at most a second late; it may be lost in a crash and is dropped, counted, when the queue or disk is full.
    fn observe(&self, observation: Observation);
    /// Track points of a vehicle in a time span, oldest first, at most `limit`.
    fn observations(
        &self,
        vehicle: &VehicleId,
        from: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Observation>, ReadError>;
    fn health(&self) -> StoreHealth;
}

/// A vehicle's observed state at one moment: what the track keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Observation {
    pub vehicle: VehicleId,
    pub at: Timestamp,
    /// A JSON object of signal path to `{value, at}` with only what changed since the observation before.
    pub signals: Box<RawValue>,
}

/// Can the store promise, and can it answer queries?
#[derive(Debug, Clone, Default)]
pub struct StoreHealth {
    pub durable: StorePosition,
    pub applied: StorePosition,
    /// `None` = promises are accepted; else the reason they are not.
    pub refusing: Option<&'static str>,
    /// The journal is poisoned: the process must end and be started again.
    pub is_poisoned: bool,
    pub queue_len: usize,
    pub view_problem: Option<String>,
}

impl fmt::Display for StorePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
