//! The view: sled holding the tables and the index of streams, for queries. Never the truth.
//!
//! It can be thrown away at any time and is made again from the journal. Every call is fenced: an error or a panic of
//! sled becomes "unavailable", and the applier makes a new view. Nothing here may hold up or answer a promise.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use super::frame::{Hash, array, u64_at};
use super::journal::Place;
use super::row::Row;
use super::{Order, Table};

/// sled takes this as a hint and may use some times more.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// After each batch, a round of garbage collection for so many changes. sled replaces a node for every change, and by itself collects only
/// now and then a little, by the number of calls and not of changes: batches alone left 1 GB behind in a rebuild of
/// 160 000 records, with this 150 MB.
const CHANGES_A_ROUND: usize = 16;

/// First bytes of the keys: what a row belongs to. Tables use 1 and up.
const STAMP: &[u8] = &[0];
const STREAMS: u8 = 0x40;

/// How far a view is, and of which journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub journal: [u8; 16],
    pub position: u64,
    pub hash: Hash,
}

/// Why the view cannot answer; for people.
pub type Problem = String;

pub fn table_byte(table: Table) -> u8 {
    match table {
        Table::Vehicles => 1,
        Table::VehicleStates => 2,
        Table::Commands => 3,
        Table::UsageRequests => 4,
        Table::Rentals => 5,
        Table::Keys => 6,
        Table::Cards => 7,
        Table::Stations => 8,
        Table::Decisions => 9,
        Table::Alerts => 10,
        Table::ApiKeys => 11,
        Table::Certificates => 12,
        Table::Reconciliations => 13,
        Table::StepUps => 14,
        Table::CardRules => 15,
        Table::Users => 16,
        Table::Sessions => 17,
        Table::Claims => 18,
        Table::StationSightings => 32,
        Table::Notifications => 30,
        Table::LastUses => 31,
    }
}

pub fn row_key(table: Table, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(table_byte(table));
    out.extend_from_slice(key.as_bytes());
    out
}

fn stream_prefix(stream: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(stream.len() + 10);
    out.push(STREAMS);
    out.extend_from_slice(stream.as_bytes());
    out.push(0);
    out
}

/// Runs sled code; its panics become problems too.
fn fenced<T>(run: impl FnOnce() -> sled::Result<T>) -> Result<T, Problem> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the view's engine panicked".to_owned()),
    }
}

/// Changes to be made together.
#[derive(Debug, Default)]
pub struct Changes {
    batch: sled::Batch,
    count: usize,
}

impl Changes {
    pub fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.count += 1;
        match value {
            Some(value) => self.batch.insert(key, value),
            None => self.batch.remove(key),
        }
    }

    pub fn index(&mut self, stream: &str, number: u64, place: Place) {
        let mut key = stream_prefix(stream);
        key.extend_from_slice(&number.to_be_bytes());
        let mut value = [0; 16];
        value[..8].copy_from_slice(&place.segment.to_le_bytes());
        value[8..].copy_from_slice(&place.offset.to_le_bytes());
        self.set(key, Some(value.to_vec()));
    }

    /// The stamp goes with the changes it speaks of: all of them are there, or none.
    pub fn stamp(&mut self, stamp: &Stamp) {
        let mut value = [0; 56];
        value[..16].copy_from_slice(&stamp.journal);
        value[16..24].copy_from_slice(&stamp.position.to_le_bytes());
        value[24..].copy_from_slice(&stamp.hash);
        self.set(STAMP.to_vec(), Some(value.to_vec()));
    }
}

/// Some rows of a table, and where to go on.
#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<(String, Row)>,
    pub next: Option<String>,
}

#[derive(Debug)]
pub struct View(Option<sled::Db>);

impl View {
    pub fn open(dir: &Path) -> Result<Self, Problem> {
        let config = sled::Config::default().path(dir).flush_every_ms(None).cache_capacity(CACHE_BYTES);
        fenced(|| config.open()).map(|db| Self(Some(db)))
    }

    fn run<T>(&self, run: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Problem> {
        let Some(db) = &self.0 else { return Err("the view is closed".to_owned()) };
        fenced(|| run(db))
    }

    pub fn stamp(&self) -> Result<Option<Stamp>, Problem> {
        let value = self.run(|db| db.get(STAMP))?;
        Ok(value.filter(|value| value.len() == 56).map(|value| Stamp {
            journal: array(&value[..16]),
            position: u64_at(&value, 16),
            hash: array(&value[24..]),
        }))
    }

    pub fn apply(&self, changes: Changes) -> Result<(), Problem> {
        self.run(|db| {
            db.apply_batch(changes.batch)?;
            for _ in 0..=changes.count / CHANGES_A_ROUND {
                sled::pin().flush();
            }
            Ok(())
        })
    }

    pub fn flush(&self) -> Result<(), Problem> {
        self.run(|db| db.flush()).map(drop)
    }

    pub fn get(&self, table: Table, key: &str) -> Result<Option<Row>, Problem> {
        let value = self.run(|db| db.get(row_key(table, key)))?;
        value.map(|value| Row::parse(&value)).transpose()
    }

    pub fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        order: Order,
    ) -> Result<Rows, Problem> {
        let prefix = row_key(table, prefix);
        let after = after.map(|after| row_key(table, after));
        // Table bytes and UTF-8 are below 0xFF, so this is past every key with the prefix.
        let past = [prefix.as_slice(), &[0xFF]].concat();
        let rows = match order {
            Order::Ascending => {
                // The key after which nothing fits between: itself and a zero byte.
                let from = after.map_or(prefix.clone(), |after| [after.as_slice(), &[0]].concat().max(prefix.clone()));
                if from >= past {
                    return Ok(Rows::default());
                }
                self.run(|db| db.range(from..past).take(limit + 1).collect::<sled::Result<Vec<_>>>())?
            }
            Order::Descending => {
                let until = after.map_or(past.clone(), |after| after.min(past));
                if until <= prefix {
                    return Ok(Rows::default());
                }
                self.run(|db| db.range(prefix..until).rev().take(limit + 1).collect::<sled::Result<Vec<_>>>())?
            }
        };
        let has_more = rows.len() > limit;
        let mut page = Rows::default();
        for (key, value) in rows.into_iter().take(limit) {
            let key = std::str::from_utf8(&key[1..]).map_err(|_| "a key in the view is not text")?;
            page.rows.push((key.to_owned(), Row::parse(&value)?));
        }
        page.next = page.rows.last().filter(|_| has_more).map(|(key, _)| key.clone());
        Ok(page)
    }

    /// Where the stream's records after `after` are, oldest first.
    pub fn places(&self, stream: &str, after: u64, limit: usize) -> Result<Vec<(u64, Place)>, Problem> {
        let prefix = stream_prefix(stream);
        let from = [prefix.as_slice(), &after.saturating_add(1).to_be_bytes()].concat();
        let until = [prefix.as_slice(), &u64::MAX.to_be_bytes()].concat();
        let rows = self.run(|db| db.range(from..until).take(limit).collect::<sled::Result<Vec<_>>>())?;
        rows.iter()
            .map(|(key, value)| {
                let number = key.len().checked_sub(8).map(|at| u64::from_be_bytes(array(&key[at..])));
                match number {
                    Some(number) if value.len() == 16 => {
                        Ok((number, Place { segment: u64_at(value, 0), offset: u64_at(value, 8) }))
                    }
                    _ => Err("an entry of the stream index has the wrong size".to_owned()),
                }
            })
            .collect()
    }

    /// The stream's last record, 0 for none.
    pub fn stream_end(&self, stream: &str) -> Result<u64, Problem> {
        let last = self.run(|db| db.scan_prefix(stream_prefix(stream)).keys().next_back().transpose())?;
        Ok(last.and_then(|key| key.len().checked_sub(8).map(|at| u64::from_be_bytes(array(&key[at..])))).unwrap_or(0))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let db = self.0.take();
        // Closing flushes, which on a damaged or full disk may panic.
        if fenced(|| {
            drop(db);
            Ok(())
        })
        .is_err()
        {
            tracing::warn!("the view's engine panicked while closing");
        }
    }
}

/// The view in use, if there is one.
#[derive(Debug, Default)]
pub struct ViewCell(RwLock<Option<Arc<View>>>);

impl ViewCell {
    pub fn get(&self) -> Option<Arc<View>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, view: Arc<View>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    pub fn take(&self) -> Option<Arc<View>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes this view out of use; false when another has taken its place already.
    pub fn retire(&self, view: &Arc<View>) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_current = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, view));
        if is_current {
            *current = None;
        }
        is_current
    }
}
