//! What the store's threads share. Each part has its own lock, and no lock is held across disk work but the head's.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::ReadError;
use super::feed::Feed;
use super::head::{Head, HeadFile};
use super::ledger::{Claims, Ledger, Namer};
use super::metrics::{StoreMetrics, count};
use super::reader::Reader;
use super::view::{View, ViewCell};
use crate::clock::Clock;

/// Why appends are refused, as callers and /readyz see it.
pub const QUEUE: &str = "queue";
pub const DISK: &str = "disk";
pub const POISONED: &str = "poisoned";
pub const CLOSED: &str = "closed";

#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub metrics: StoreMetrics,
    pub reader: Reader,
    pub feed: Feed,
    pub view: ViewCell,
    pub namer: Namer,
    pub queued: AtomicUsize,
    pub queued_bytes: AtomicUsize,
    pub stop_reason: OnceLock<&'static str>,
    pub min_free_bytes: u64,
    ledger: Mutex<Ledger>,
    claims: Mutex<Claims>,
    head: Mutex<Head>,
    head_file: Mutex<(HeadFile, Head)>,
    is_poisoned: AtomicBool,
    is_disk_low: AtomicBool,
}

/// What [`Shared::new`] is made of.
#[derive(Debug)]
pub struct Parts {
    pub clock: Clock,
    pub reader: Reader,
    pub namer: Namer,
    pub ledger: Ledger,
    pub head: Head,
    pub head_file: HeadFile,
    pub min_free_bytes: u64,
}

impl Shared {
    pub fn new(parts: Parts) -> Self {
        Self {
            clock: parts.clock,
            metrics: StoreMetrics::default(),
            reader: parts.reader,
            feed: Feed::default(),
            view: ViewCell::default(),
            namer: parts.namer,
            queued: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            stop_reason: OnceLock::new(),
            min_free_bytes: parts.min_free_bytes,
            ledger: Mutex::new(parts.ledger),
            claims: Mutex::default(),
            head: Mutex::new(parts.head),
            head_file: Mutex::new((parts.head_file, parts.head)),
            is_poisoned: AtomicBool::new(false),
            is_disk_low: AtomicBool::new(false),
        }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_head(&self, head: Head) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = head;
    }

    /// Writes the head file if it is behind. A failure is counted and told, but touches no promise: the journal
    /// itself is synced.
    pub fn write_head(&self) {
        let mut file = self.head_file.lock().unwrap_or_else(PoisonError::into_inner);
        let head = *self.head.lock().unwrap_or_else(PoisonError::into_inner);
        if file.1 == head || self.is_poisoned() {
            return;
        }
        match file.0.write(&head) {
            Ok(()) => file.1 = head,
            Err(error) => {
                count(&self.metrics.head_errors);
                tracing::error!(%error, "the head file could not be written");
            }
        }
    }

    pub fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::SeqCst)
    }

    pub fn poison(&self) {
        self.is_poisoned.store(true, Ordering::SeqCst);
    }

    pub fn is_disk_low(&self) -> bool {
        self.is_disk_low.load(Ordering::Relaxed)
    }

    pub fn set_disk_low(&self, is_low: bool) {
        let was_low = self.is_disk_low.swap(is_low, Ordering::Relaxed);
        if is_low != was_low {
            tracing::warn!(is_low, min_free_bytes = self.min_free_bytes, "disk space");
        }
    }

    /// Looks at the free space; true when it is too low to promise anything.
    pub fn check_disk(&self, dir: &Path) -> bool {
        let is_low = free_bytes(dir).is_some_and(|free| free < self.min_free_bytes);
        self.set_disk_low(is_low);
        is_low
    }

    /// Asks the view. When it fails it is taken out of use, and the applier makes a new one.
    pub fn with_view<T>(&self, ask: impl FnOnce(&View) -> Result<T, String>) -> Result<T, ReadError> {
        let Some(view) = self.view.get() else {
            let problem = self.feed.view_problem().unwrap_or_else(|| "it is being made".to_owned());
            return Err(ReadError::Unavailable(problem));
        };
        ask(&view).map_err(|problem| {
            self.view_failed(&view, &problem);
            ReadError::Unavailable(problem)
        })
    }

    pub fn view_failed(&self, view: &Arc<View>, problem: &str) {
        count(&self.metrics.view_errors);
        if self.view.retire(view) {
            tracing::error!(problem, "the view failed; it is made again from the journal");
            self.feed.set_view_problem(problem.to_owned());
        }
    }

    /// Why appends are refused now.
    pub fn refusing(&self) -> Option<&'static str> {
        if self.is_poisoned() {
            return Some(POISONED);
        }
        self.stop_reason.get().copied().or(self.is_disk_low().then_some(DISK))
    }
}

/// Free bytes for us on the directory's file system; `None` when it does not say.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
