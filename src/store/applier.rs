//! The applier: brings the view up to the journal, and makes a new view when the old one is lost, wrong or broken.
//!
//! One thread. It trusts a view only as far as it can check it, and never touches the journal but to read it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::feed::{Mode, Rest};
use super::frame::Hash;
use super::journal::Place;
use super::metrics::count;
use super::shared::Shared;
use super::snapshot;
use super::view::{Changes, Problem, Stamp, View};
use super::view_mark::{self, Mark};
use super::{record, segment};

pub const DIR: &str = "view";
/// The one old view that is kept, for people to look at.
const ASIDE: &str = "view.old";
const IDLE: Duration = Duration::from_millis(500);
/// How long records are gathered when no reader waits: sled's cost is by the batch much more than by the record. A
/// command to the whole fleet, or its reconnecting, is over in less than a second; the view took a fifth of the
/// processor's time meanwhile.
const REST: Rest =
    Rest { usual: Duration::from_millis(100), burst_records: 300, at_most: Duration::from_millis(1_000) };
/// Waits between attempts to make a view that cannot be made (a full disk, say).
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Bytes of records that go into the view together. Larger batches make it no faster and its garbage larger.
const BATCH_BYTES: usize = 256 * 1024;
/// Records between two flushes of the view; losing what is not flushed costs only time.
const FLUSH_RECORDS: u64 = 20_000;

#[derive(Clone)]
pub struct Applier {
    pub shared: Arc<Shared>,
    pub dir: PathBuf,
    pub journal: [u8; 16],
}

impl Applier {
    /// Opens the view that is there and brings it up to date, or makes a new one.
    pub fn prepare(&self) -> Result<(), Problem> {
        match self.reopen().and_then(|view| view.map_or(Ok(false), |view| self.take_over(view).map(|()| true))) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(problem) => tracing::warn!(problem, "the view cannot be used; it is made again from the journal"),
        }
        self.remake()
    }

    /// Makes a new view and takes it into use.
    fn remake(&self) -> Result<(), Problem> {
        self.rebuild().and_then(|view| self.take_over(view)).inspect_err(|problem| {
            count(&self.shared.metrics.view_errors);
            self.shared.feed.set_view_problem(problem.clone());
        })
    }

    fn take_over(&self, view: View) -> Result<(), Problem> {
        let applied = self.catch_up(&view)?;
        self.shared.view.set(Arc::new(view));
        self.shared.feed.set_applied(applied);
        Ok(())
    }

    pub fn run(self) {
        let (mut retry, mut unflushed, mut durable) = (RETRY_FIRST, 0, 0);
        loop {
            let Some(view) = self.shared.view.get() else {
                if self.shared.feed.rest(retry) != Mode::Running {
                    return;
                }
                // Not opened again: it failed, whatever its stamp says.
                retry = match self.remake() {
                    Ok(()) => RETRY_FIRST,
                    Err(problem) => {
                        tracing::error!(problem, "the view cannot be made; queries are unavailable");
                        (retry * 2).min(RETRY_MOST)
                    }
                };
                continue;
            };
            let applied = self.shared.feed.applied();
            // What was there at the last look is applied without another rest.
            if durable <= applied {
                durable = self.shared.feed.wait_durable(applied, IDLE, REST);
            }
            self.shared.metrics.applied_lag.store(durable.saturating_sub(applied), Ordering::Relaxed);
            let mode = self.shared.feed.mode();
            if mode == Mode::Abandoned || (mode == Mode::Closing && durable <= applied) {
                return;
            }
            let is_idle = durable <= applied;
            let worked = if is_idle { Ok(applied) } else { self.apply_next(&view, applied, durable) };
            let flushed = worked.and_then(|now| {
                unflushed += now - applied;
                let is_due = unflushed >= FLUSH_RECORDS || (is_idle && unflushed > 0);
                // A flush that finds no space ends the view, and queries with it; what it has in memory can be asked.
                if is_due && !self.shared.is_disk_low() {
                    unflushed = 0;
                    view.flush()?;
                }
                self.shared.metrics.view_unflushed.store(unflushed, Ordering::Relaxed);
                Ok(now)
            });
            match flushed {
                Ok(now) if now > applied => self.shared.feed.set_applied(now),
                Ok(_) => {}
                Err(problem) => self.shared.view_failed(&view, &problem),
            }
        }
    }

    /// Applies some of what is durable; returns how far the view is then.
    fn apply_next(&self, view: &View, applied: u64, durable: u64) -> Result<u64, Problem> {
        let taken = self.shared.feed.take_after(applied, BATCH_BYTES);
        let mut batch = Batch::new(self.journal);
        for committed in &taken {
            batch.add(committed.number, committed.place, committed.hash, &committed.body)?;
        }
        if taken.is_empty() {
            for raw in self.shared.reader.walk(applied, durable) {
                let raw = raw.map_err(|error| error.to_string())?;
                batch.add(raw.frame.number, raw.place, raw.frame.hash, &raw.body)?;
                if batch.bytes >= BATCH_BYTES {
                    break;
                }
            }
        }
        batch.apply(view)
    }

    /// Applies everything durable, before the view is in use.
    fn catch_up(&self, view: &View) -> Result<u64, Problem> {
        let mut applied = view.stamp()?.map_or(0, |stamp| stamp.position);
        loop {
            let durable = self.shared.feed.durable();
            if applied >= durable {
                return Ok(applied);
            }
            let mut batch = Batch::new(self.journal);
            for raw in self.shared.reader.walk(applied, durable) {
                let raw = raw.map_err(|error| error.to_string())?;
                batch.add(raw.frame.number, raw.place, raw.frame.hash, &raw.body)?;
                if batch.bytes >= BATCH_BYTES {
                    applied = std::mem::replace(&mut batch, Batch::new(self.journal)).apply(view)?;
                    self.refuse_if_ending()?;
                }
            }
            if batch.bytes > 0 {
                applied = batch.apply(view)?;
            }
        }
    }

    /// The view on disk, if it can be trusted. `None`: there is none, or it is not to be believed.
    fn reopen(&self) -> Result<Option<View>, Problem> {
        let path = self.dir.join(DIR);
        if !path.exists() {
            return Ok(None);
        }
        view_mark::check(&self.dir, &path, self.journal)?;
        let view = View::open(&path)?;
        let stamp = view.stamp()?.ok_or("it is empty")?;
        if stamp.journal != self.journal {
            return Err("it was made from another journal".to_owned());
        }
        let durable = self.shared.feed.durable();
        if stamp.position > durable {
            return Err(format!("it is ahead of the journal: {} of {durable}", stamp.position));
        }
        if stamp.position > 0 {
            let raw = self.shared.reader.numbered(stamp.position).map_err(|error| error.to_string())?;
            if raw.frame.hash != stamp.hash {
                return Err(format!("its record {} is not the journal's", stamp.position));
            }
        }
        self.mark_in_use()?;
        Ok(Some(view))
    }

    fn mark_in_use(&self) -> Result<(), Problem> {
        view_mark::write(&self.dir, &Mark::in_use(self.journal))
            .map_err(|error| format!("cannot mark the view: {error}"))
    }

    /// Makes a new view: tables from the newest snapshot, the index and the rest from the journal.
    fn rebuild(&self) -> Result<View, Problem> {
        let path = self.dir.join(DIR);
        move_aside(&self.dir, &path).map_err(|error| format!("cannot move the old view aside: {error}"))?;
        if self.shared.feed.durable() > 0 {
            count(&self.shared.metrics.view_rebuilds);
        }
        self.mark_in_use()?;
        let view = View::open(&path)?;
        let found = snapshot::newest(&self.dir, self.journal, &self.shared.reader, self.shared.feed.durable());
        let start = match found {
            Some(found) => {
                tracing::info!(position = found.position, "the view is made from a snapshot and the journal");
                self.load(&view, &found)?;
                Stamp { journal: self.journal, position: found.position, hash: found.hash }
            }
            None => Stamp { journal: self.journal, position: 0, hash: [0; 32] },
        };
        let mut changes = Changes::default();
        changes.stamp(&start);
        view.apply(changes)?;
        Ok(view)
    }

    fn load(&self, view: &View, found: &snapshot::Found) -> Result<(), Problem> {
        let (mut changes, mut bytes) = (Changes::default(), 0);
        let mut rows = found.rows().map_err(|error| format!("cannot read the snapshot: {error}"))?;
        while let Some((key, value)) = rows.next_row().map_err(|error| format!("cannot read the snapshot: {error}"))? {
            bytes += key.len() + value.len();
            changes.set(key, Some(value));
            if bytes >= BATCH_BYTES {
                view.apply(std::mem::take(&mut changes))?;
                bytes = 0;
                self.refuse_if_ending()?;
            }
        }
        // The index of streams is not in the snapshot: it grows with the journal and is read from it.
        for raw in self.shared.reader.walk(0, found.position) {
            let raw = raw.map_err(|error| error.to_string())?;
            let body = record::parse(raw.frame.number, &raw.body).map_err(|error| error.to_string())?;
            changes.index(body.stream, raw.frame.number, raw.place);
            bytes += body.stream.len() + 64;
            if bytes >= BATCH_BYTES {
                view.apply(std::mem::take(&mut changes))?;
                bytes = 0;
                self.refuse_if_ending()?;
            }
        }
        view.apply(changes)
    }

    fn refuse_if_ending(&self) -> Result<(), Problem> {
        if self.shared.feed.mode() == Mode::Running { Ok(()) } else { Err("the store is closing".to_owned()) }
    }
}

/// Closes the view for good and marks it clean, so that the next start can tell whether it is still the same.
pub fn close(shared: &Shared, dir: &Path, journal: [u8; 16]) {
    let Some(view) = shared.view.take() else { return };
    let stamped = view.flush().and_then(|()| view.stamp());
    // Readers hold the view only for the length of a call; one that still runs leaves the mark unclean.
    let Some(view) = Arc::into_inner(view) else { return };
    drop(view);
    match stamped {
        Ok(Some(_)) => {
            let marked = Mark::clean(journal, &dir.join(DIR)).and_then(|mark| view_mark::write(dir, &mark));
            if let Err(error) = marked {
                tracing::warn!(%error, "the view could not be marked clean");
            }
        }
        Ok(None) => {}
        Err(problem) => tracing::warn!(problem, "the view could not be flushed at the end"),
    }
}

fn move_aside(dir: &Path, path: &Path) -> std::io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let aside = dir.join(ASIDE);
    if aside.exists() {
        std::fs::remove_dir_all(&aside)?;
    }
    std::fs::rename(path, aside)?;
    segment::sync_dir(dir)
}

/// Records on their way into the view, with the stamp of the last.
struct Batch {
    changes: Changes,
    stamp: Stamp,
    bytes: usize,
}

impl Batch {
    fn new(journal: [u8; 16]) -> Self {
        Self { changes: Changes::default(), stamp: Stamp { journal, position: 0, hash: [0; 32] }, bytes: 0 }
    }

    fn add(&mut self, number: u64, place: Place, hash: Hash, body: &[u8]) -> Result<(), Problem> {
        let (stream, changes) = record::view_changes(number, place, body).map_err(|error| error.to_string())?;
        for change in changes {
            self.changes.set(change.key, change.value);
        }
        self.changes.index(stream, number, place);
        self.stamp.position = number;
        self.stamp.hash = hash;
        self.bytes += body.len();
        Ok(())
    }

    fn apply(mut self, view: &View) -> Result<u64, Problem> {
        self.changes.stamp(&self.stamp);
        view.apply(self.changes)?;
        Ok(self.stamp.position)
    }
}
