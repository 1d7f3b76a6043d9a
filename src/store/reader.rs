//! Reading records back from the journal's segments, by place or by number, each checked again.
//!
//! Used by queries, the applier and snapshots, on their own threads. It never reads past what is durable and never
//! writes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::ReadError;
use super::frame::{self, FRAME_LEN, Frame, HEADER_LEN};
use super::journal::Place;
use super::segment;

/// Every how many records a place is kept (24 bytes each).
const MARK_EVERY: u64 = 64;
/// Segment files held open for reading.
const FILES_MAX: usize = 64;
const FIRST_READ: usize = 4 * 1024;
const CHUNK: usize = 256 * 1024;

/// A record as it stands in the journal.
#[derive(Debug, Clone)]
pub struct Raw {
    pub frame: Frame,
    pub place: Place,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    files: Mutex<HashMap<u64, Arc<File>>>,
    /// Number and place of each 64th record and of each segment's first.
    marks: RwLock<Vec<(u64, Place)>>,
}

impl Reader {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, files: Mutex::default(), marks: RwLock::default() }
    }

    /// Notes where a record is; called for each one in order.
    pub fn note(&self, number: u64, place: Place) {
        let is_mark = place.offset == HEADER_LEN as u64 || number % MARK_EVERY == 1;
        if is_mark {
            self.marks.write().unwrap_or_else(PoisonError::into_inner).push((number, place));
        }
    }

    /// The record at a place.
    pub fn at(&self, place: Place) -> Result<Raw, ReadError> {
        let file = self.file(place.segment)?;
        let mut bytes = vec![0; FIRST_READ];
        let got = self.fill(&file, &mut bytes, place)?;
        bytes.truncate(got);
        match frame::claimed_len(&bytes) {
            Some(len) if len > bytes.len() => {
                bytes.resize(len, 0);
                let got = self.fill(&file, &mut bytes, place)?;
                bytes.truncate(got);
            }
            _ => {}
        }
        let frame = frame::decode_written(&bytes).map_err(|why| self.damaged(place, why))?;
        bytes.truncate(frame.total_len());
        bytes.drain(..FRAME_LEN);
        Ok(Raw { frame, place, body: bytes })
    }

    /// The record with this number, which must be durable.
    pub fn numbered(&self, number: u64) -> Result<Raw, ReadError> {
        let mut walk = self.walk(number.saturating_sub(1), number);
        walk.next().unwrap_or_else(|| Err(ReadError::Damaged(format!("record {number} is not in the journal"))))
    }

    /// Records `after` (not included) to `until` (included), in order. `until` must be durable.
    pub fn walk(&self, after: u64, until: u64) -> Walk<'_> {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let index = marks.partition_point(|(number, _)| *number <= after + 1);
        let (next, place) = index
            .checked_sub(1)
            .and_then(|index| marks.get(index).copied())
            .unwrap_or((1, Place { segment: 1, offset: HEADER_LEN as u64 }));
        Walk { reader: self, next, after, until, place, chunk: Vec::new(), used: 0, has_failed: false }
    }

    /// Closes a segment that was deleted, so that its space is free.
    pub fn forget(&self, segment: u64) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    fn file(&self, segment: u64) -> Result<Arc<File>, ReadError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&segment) {
            return Ok(Arc::clone(file));
        }
        let path = segment::path(&self.dir, segment);
        let file = File::open(&path)
            .map_err(|error| ReadError::Damaged(format!("cannot open {}: {error}", path.display())))?;
        if files.len() >= FILES_MAX {
            files.clear();
        }
        let file = Arc::new(file);
        files.insert(segment, Arc::clone(&file));
        Ok(file)
    }

    /// Reads as much as there is, up to the buffer's length.
    fn fill(&self, file: &File, bytes: &mut [u8], place: Place) -> Result<usize, ReadError> {
        let mut got = 0;
        while got < bytes.len() {
            match file.read_at(&mut bytes[got..], place.offset + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.damaged(place, &error.to_string())),
            }
        }
        Ok(got)
    }

    fn damaged(&self, place: Place, why: &str) -> ReadError {
        let path = segment::path(&self.dir, place.segment);
        ReadError::Damaged(format!("{} byte {}: {why}", path.display(), place.offset))
    }
}

/// Goes through the journal record by record; ends after the first error.
#[derive(Debug)]
pub struct Walk<'a> {
    reader: &'a Reader,
    /// The number of the record at `place`.
    next: u64,
    after: u64,
    until: u64,
    place: Place,
    chunk: Vec<u8>,
    used: usize,
    has_failed: bool,
}

impl Walk<'_> {
    fn step(&mut self) -> Result<Raw, ReadError> {
        let mut want = CHUNK;
        loop {
            let rest = &self.chunk[self.used..];
            match frame::claimed_len(rest) {
                Some(len) if len <= rest.len() => break,
                Some(len) => want = len.max(CHUNK),
                None if rest.len() >= FRAME_LEN => {
                    // Nothing written here: the segment is at its end and the next begins with the next number.
                    let follows = Place { segment: self.next, offset: HEADER_LEN as u64 };
                    if self.place.segment == self.next || !segment::path(&self.reader.dir, self.next).exists() {
                        return Err(self.reader.damaged(self.place, "no record begins here"));
                    }
                    self.move_to(follows);
                }
                None => {}
            }
            if !self.refill(want)? {
                let follows = Place { segment: self.next, offset: HEADER_LEN as u64 };
                if self.place.segment == self.next || !segment::path(&self.reader.dir, self.next).exists() {
                    return Err(self.reader.damaged(self.place, "the journal ends here"));
                }
                self.move_to(follows);
            }
        }
        let rest = &self.chunk[self.used..];
        let frame = frame::decode_written(rest).map_err(|why| self.reader.damaged(self.place, why))?;
        if frame.number != self.next {
            return Err(self.reader.damaged(self.place, "another record than expected"));
        }
        let body = rest[FRAME_LEN..frame.total_len()].to_vec();
        let raw = Raw { frame, place: self.place, body };
        self.used += frame.total_len();
        self.place.offset += frame.total_len() as u64;
        self.next += 1;
        Ok(raw)
    }

    fn move_to(&mut self, place: Place) {
        self.place = place;
        self.chunk.clear();
        self.used = 0;
    }

    /// Reads from the current place on; false when there is nothing more than what is already here.
    fn refill(&mut self, want: usize) -> Result<bool, ReadError> {
        let had = self.chunk.len() - self.used;
        let file = self.reader.file(self.place.segment)?;
        self.chunk.resize(want, 0);
        let got = self.reader.fill(&file, &mut self.chunk, self.place)?;
        self.chunk.truncate(got);
        self.used = 0;
        Ok(got > had)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Raw, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.has_failed && self.next <= self.until {
            let step = self.step();
            self.has_failed = step.is_err();
            match step {
                Ok(raw) if raw.frame.number <= self.after => {}
                step => return Some(step),
            }
        }
        None
    }
}
