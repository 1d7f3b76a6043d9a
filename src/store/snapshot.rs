//! Snapshots: the tables of the view at a position, so that a new view need not read all of the journal's JSON.
//!
//! Made from the snapshot before and the journal since, never from the view: a sick view cannot spoil them, and
//! neither promises nor queries wait for them. Two are kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::frame::{Hash, array, u32_at, u64_at};
use super::reader::{Raw, Reader};
use super::{ReadError, record, segment};

pub const DIR: &str = "snapshots";
const MAGIC: [u8; 8] = *b"CARDEA\0S";
const FORMAT: u32 = 1;
const HEAD_LEN: usize = 8 + 4 + 16 + 8 + 32;
/// Instead of a key's length: the rows are over; their number and the checksum follow.
const END: u32 = u32::MAX;
const KEEP: usize = 2;
/// Changes merged in one pass; more make further passes.
const PASS_BYTES: usize = 64 * 1024 * 1024;
/// A row is a key of at most 1 KiB and a value that fits a record.
const ROW_MAX: usize = 1024 * 1024;

type Row = (Vec<u8>, Vec<u8>);

/// A snapshot whose checksum was right and whose record is the journal's.
#[derive(Debug, Clone)]
pub struct Found {
    pub path: PathBuf,
    pub position: u64,
    pub hash: Hash,
}

impl Found {
    pub fn rows(&self) -> io::Result<Rows> {
        let mut file = BufReader::with_capacity(256 * 1024, File::open(&self.path)?);
        let mut head = [0; HEAD_LEN];
        file.read_exact(&mut head)?;
        Ok(Rows { file, crc: crc32c::crc32c(&head), count: 0, is_over: false })
    }
}

/// Reads the rows in key order.
#[derive(Debug)]
pub struct Rows<R = BufReader<File>> {
    file: R,
    crc: u32,
    count: u64,
    is_over: bool,
}

impl<R: Read> Rows<R> {
    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    pub fn next_row(&mut self) -> io::Result<Option<Row>> {
        if self.is_over {
            return Ok(None);
        }
        let key_len = u32_at(&self.take(4)?, 0);
        if key_len == END {
            self.is_over = true;
            return Ok(None);
        }
        let value_len = u32_at(&self.take(4)?, 0) as usize;
        if key_len as usize > ROW_MAX || value_len > ROW_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a row is too long"));
        }
        self.count += 1;
        Ok(Some((self.take(key_len as usize)?, self.take(value_len)?)))
    }
}

/// For [`crate::fuzzing`]: rows as a start reads them, from whatever bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub fn read_anything(bytes: &[u8]) {
    let mut rows = Rows { file: bytes, crc: 0, count: 0, is_over: false };
    while let Ok(Some((_, value))) = rows.next_row() {
        let _ = super::row::Row::parse(&value);
    }
}

/// The newest snapshot that is whole and belongs to this journal.
pub fn newest(dir: &Path, journal: [u8; 16], reader: &Reader, durable: u64) -> Option<Found> {
    for path in list(dir).into_iter().rev() {
        match check(&path, journal, reader, durable) {
            Ok(found) => return Some(found),
            Err(why) => tracing::warn!(snapshot = %path.display(), why, "the snapshot is not used"),
        }
    }
    None
}

/// Is there any, of whatever kind? It speaks of a journal that was there.
pub fn any(dir: &Path) -> bool {
    !list(dir).is_empty()
}

/// Those made at a position up to `last`, by their names.
pub fn up_to(dir: &Path, last: u64) -> Vec<PathBuf> {
    let position = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    list(dir).into_iter().filter(|path| position(path).is_some_and(|position| position <= last)).collect()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir.join(DIR)) else { return Vec::new() };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .collect();
    paths.sort();
    paths
}

fn check(path: &Path, journal: [u8; 16], reader: &Reader, durable: u64) -> Result<Found, String> {
    let io = |error: io::Error| error.to_string();
    let mut head = [0; HEAD_LEN];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).map_err(io)?;
    if head[..8] != MAGIC || u32_at(&head, 8) != FORMAT {
        return Err("it is no snapshot of this format".to_owned());
    }
    if head[12..28] != journal {
        return Err("it belongs to another journal".to_owned());
    }
    let found = Found { path: path.to_owned(), position: u64_at(&head, 28), hash: array(&head[36..]) };
    if found.position == 0 || found.position > durable {
        return Err("it is ahead of the journal".to_owned());
    }
    let raw = reader.numbered(found.position).map_err(|error| error.to_string())?;
    if raw.frame.hash != found.hash {
        return Err("its record is not the journal's".to_owned());
    }
    let mut rows = found.rows().map_err(io)?;
    while rows.next_row().map_err(io)?.is_some() {}
    let mut tail = [0; 12];
    rows.file.read_exact(&mut tail).map_err(io)?;
    if u64_at(&tail, 0) != rows.count || u32_at(&tail, 8) != rows.crc {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(found)
}

/// Makes a snapshot at `until`, from the newest one and the journal since. `go_on` is asked now and then.
/// Returns its position, which is smaller when it was told to stop.
pub fn make(
    dir: &Path,
    journal: [u8; 16],
    reader: &Reader,
    until: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<u64, ReadError> {
    let failed = |error: io::Error| ReadError::Unavailable(format!("cannot write a snapshot: {error}"));
    let mut base = newest(dir, journal, reader, until);
    loop {
        let from = base.as_ref().map_or(0, |base| base.position);
        if from >= until {
            return Ok(from);
        }
        let mut pass = Pass { changes: BTreeMap::new(), bytes: 0, position: from, hash: [0; 32] };
        for raw in reader.walk(from, until) {
            let raw = raw?;
            if !go_on() {
                return Ok(from);
            }
            pass.add(&raw)?;
            if pass.bytes >= PASS_BYTES {
                break;
            }
        }
        let Some(found) = write(dir, journal, base.as_ref(), pass, go_on).map_err(failed)? else { return Ok(from) };
        prune(dir);
        base = Some(found);
    }
}

/// Changes of some records, newest per key.
struct Pass {
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    position: u64,
    hash: Hash,
}

impl Pass {
    fn add(&mut self, raw: &Raw) -> Result<(), ReadError> {
        let (_, changes) = record::view_changes(raw.frame.number, raw.place, &raw.body)?;
        for change in changes {
            self.bytes += change.key.len() + change.value.as_ref().map_or(0, Vec::len) + 64;
            self.changes.insert(change.key, change.value);
        }
        self.position = raw.frame.number;
        self.hash = raw.frame.hash;
        Ok(())
    }
}

/// `None`: it was told to stop, and left things as they were.
fn write(
    dir: &Path,
    journal: [u8; 16],
    base: Option<&Found>,
    pass: Pass,
    go_on: &dyn Fn() -> bool,
) -> io::Result<Option<Found>> {
    let folder = dir.join(DIR);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{:020}.snap", pass.position));
    let fresh = folder.join("unfinished.tmp");
    let mut out = Out { file: BufWriter::with_capacity(256 * 1024, File::create(&fresh)?), crc: 0, count: 0 };
    out.put(&MAGIC)?;
    out.put(&FORMAT.to_le_bytes())?;
    out.put(&journal)?;
    out.put(&pass.position.to_le_bytes())?;
    out.put(&pass.hash)?;
    let found = Found { path: path.clone(), position: pass.position, hash: pass.hash };
    if !merge(&mut out, base, pass, go_on)? {
        drop(out);
        std::fs::remove_file(&fresh)?;
        return Ok(None);
    }
    out.finish()?;
    std::fs::rename(&fresh, &path)?;
    segment::sync_dir(&folder)?;
    Ok(Some(found))
}

/// Writes the base's rows with the changes laid over them, both in key order.
/// False: it was told to stop before it was through.
fn merge(out: &mut Out, base: Option<&Found>, pass: Pass, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut rows = base.map(Found::rows).transpose()?;
    let mut next_old = || rows.as_mut().map_or(Ok(None), Rows::next_row);
    let mut old = next_old()?;
    for (key, value) in pass.changes {
        if !go_on() {
            return Ok(false);
        }
        while let Some((old_key, old_value)) = old.take_if(|(old_key, _)| *old_key < key) {
            if !go_on() {
                return Ok(false);
            }
            out.row(&old_key, &old_value)?;
            old = next_old()?;
        }
        if old.as_ref().is_some_and(|(old_key, _)| *old_key == key) {
            old = next_old()?;
        }
        if let Some(value) = value {
            out.row(&key, &value)?;
        }
    }
    while let Some((key, value)) = old {
        if !go_on() {
            return Ok(false);
        }
        out.row(&key, &value)?;
        old = next_old()?;
    }
    Ok(true)
}

struct Out {
    file: BufWriter<File>,
    crc: u32,
    count: u64,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.file.write_all(bytes)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.put(&(key.len() as u32).to_le_bytes())?;
        self.put(&(value.len() as u32).to_le_bytes())?;
        self.put(key)?;
        self.count += 1;
        self.put(value)
    }

    fn finish(mut self) -> io::Result<()> {
        self.put(&END.to_le_bytes())?;
        let (count, crc) = (self.count, self.crc);
        self.file.write_all(&count.to_le_bytes())?;
        self.file.write_all(&crc.to_le_bytes())?;
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

/// Removes all but the newest two.
fn prune(dir: &Path) {
    let paths = list(dir);
    for path in paths.iter().take(paths.len().saturating_sub(KEEP)) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(snapshot = %path.display(), %error, "an old snapshot cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::value::RawValue;

    use super::super::head::Stored;
    use super::super::{Append, Expected, LocalStore, Store, Table, ViewChange, head, journal};
    use super::*;
    use crate::clock::Clock;
    use crate::config::Data;
    use crate::domain::{Principal, Timestamp};

    fn step(n: usize) -> Append {
        let row = RawValue::from_string(format!("{{\"n\":{n}}}")).unwrap();
        Append {
            stream: "s".into(),
            expected: Expected::Any,
            fence: None,
            at: Timestamp(1),
            by: Principal::gateway(),
            idempotency: None,
            events: Vec::new(),
            view: vec![ViewChange { table: Table::Commands, key: n.to_string(), row: row.into() }],
        }
    }

    /// A stop of the gateway gives the last snapshot up when there is too much to do; it used to wait for however long
    /// that took.
    #[tokio::test]
    async fn a_snapshot_that_is_told_to_stop_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let data = Data { dir: dir.path().to_owned(), min_free_mib: 1, segment_mib: 1, ..Data::default() };
        let store = LocalStore::open(&data, Clock::start()).unwrap();
        for n in 0..5 {
            store.append(step(n)).await.unwrap();
        }
        store.close();
        let Ok(Stored::Known(head)) = head::read(dir.path()) else { panic!("a head") };
        let reader = Reader::new(dir.path().join(journal::DIR));
        let files = || std::fs::read_dir(dir.path().join(DIR)).map_or(0, Iterator::count);
        std::fs::remove_dir_all(dir.path().join(DIR)).unwrap();
        let make = |until: u64, steps: usize| {
            let left = Cell::new(steps);
            let go_on = || left.replace(left.get().saturating_sub(1)) > 0;
            make(dir.path(), head.id, &reader, until, &go_on).unwrap()
        };
        // While it reads the journal, and while it writes.
        for steps in 0..6 {
            assert_eq!((make(3, steps), files()), (0, 0), "{steps} steps");
        }
        assert_eq!((make(3, 6), files()), (3, 1));
        // The rows of the one before, which nothing changes, are steps as well.
        for steps in 0..7 {
            assert_eq!((make(5, steps), files()), (3, 1), "{steps} steps");
        }
        assert_eq!((make(5, 100), files()), (5, 2));
    }
}
