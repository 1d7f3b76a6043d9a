//! Looking at a journal from outside: `cardea journal verify` and `export`. Read only, also beside a running server.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;
use serde_json::value::RawValue;

use super::frame::FRAME_LEN;
use super::head::{self, Stored};
use super::open_error::OpenError;
use super::reader::{Raw, Reader};
use super::recovery::{self, Extent, Walked};
use super::{StorePosition, record, segment};
use super::{journal, lock};
use crate::domain::{Principal, Timestamp};

/// What [`verify`] found to be whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Hex id of the journal.
    pub journal: String,
    pub records: u64,
    pub segments: u64,
    pub bytes: u64,
    /// Hex SHA-256 of the newest record: whoever noted it earlier can tell that nothing before it was changed.
    pub last_hash: String,
    /// Bytes at the end that a power cut left of records never acknowledged.
    pub torn_bytes: u64,
    /// The head file is missing or unreadable.
    pub head_was_lost: bool,
}

/// Walks the whole chain of the journal in the data directory `dir`; beside a running server, as far as its head file
/// knows, which is at most a moment behind.
pub fn verify(dir: &Path) -> Result<Verified, OpenError> {
    verify_watched(dir, &mut |_| {})
}

/// A record that a verification has come past, and the bytes up to its end.
#[derive(Debug, Clone, Copy)]
pub struct Passed<'a> {
    pub record: u64,
    pub hash: &'a [u8; 32],
    pub bytes: u64,
}

/// [`verify`]; `watch` is told of every record.
pub fn verify_watched(dir: &Path, watch: &mut dyn FnMut(Passed<'_>)) -> Result<Verified, OpenError> {
    let walked = walk(dir, watch)?;
    Ok(Verified {
        journal: hex::encode(walked.id),
        records: walked.last,
        segments: walked.segments,
        bytes: walked.bytes,
        last_hash: hex::encode(walked.hash),
        torn_bytes: walked.torn,
        head_was_lost: walked.head_was_lost,
    })
}

/// The number and time of the newest record that the head file of the data directory `dir` knows; `None` where there is
/// no journal yet.
pub fn newest(dir: &Path) -> Result<Option<(u64, Timestamp)>, OpenError> {
    let stored = head::read(dir).map_err(|error| OpenError::io("cannot read the head in", dir, &error))?;
    let journal_dir = dir.join(journal::DIR);
    let head = match stored {
        Stored::Known(head) => head,
        Stored::Absent if !recovery::exists(&journal_dir)? => return Ok(None),
        Stored::Absent | Stored::Unreadable => {
            return Err(OpenError::missing(dir, "its head file is missing or unreadable"));
        }
    };
    if head.position == 0 {
        return Ok(None);
    }
    let raw = Reader::new(journal_dir.clone()).numbered(head.position);
    let at = raw.and_then(|raw| record::parse(head.position, &raw.body).map(|body| body.at));
    let at = at.map_err(|error| OpenError::missing(&journal_dir, error.to_string()))?;
    Ok(Some((head.position, at)))
}

/// How long the journal in the data directory `dir` is; a moment behind a running server.
pub fn journal_bytes(dir: &Path) -> std::io::Result<u64> {
    let Stored::Known(head) = head::read(dir)? else { return Ok(0) };
    let segments = segment::list(&dir.join(journal::DIR))?;
    let before = segments.iter().filter(|file| file.first < head.segment);
    before.map(|file| Ok(std::fs::metadata(&file.path)?.len())).sum::<std::io::Result<u64>>().map(|sum| sum + head.end)
}

fn walk(dir: &Path, watch: &mut dyn FnMut(Passed<'_>)) -> Result<Walked, OpenError> {
    let is_in_use = lock::is_taken(dir);
    let stored: Stored = head::read(dir).map_err(|error| OpenError::io("cannot read the head in", dir, &error))?;
    // Beside a running server only what the head knows stands still.
    let extent = if is_in_use { Extent::UpToHead } else { Extent::All };
    let mut bytes = 0;
    recovery::walk(&dir.join(journal::DIR), &stored, extent, &mut |_, frame, body| {
        bytes += (FRAME_LEN + body.len()) as u64;
        watch(Passed { record: frame.number, hash: &frame.hash, bytes });
    })
}

/// One line of an export.
#[derive(Serialize)]
struct Line<'a> {
    position: StorePosition,
    stream: &'a str,
    at: Timestamp,
    by: &'a Principal,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    events: &'a [Box<RawValue>],
    hash: &'a str,
}

/// Writes all records as NDJSON: position, stream, at, by, from (where it came
/// over a network), events, hash. Verifies first; returns the number of records.
pub fn export(dir: &Path, mut out: impl Write) -> Result<u64, OpenError> {
    let walked = walk(dir, &mut |_| {})?;
    let journal_dir = dir.join(journal::DIR);
    let reader = Reader::new(journal_dir.clone());
    let failed = |error: std::io::Error| OpenError::io("cannot write the export of", &journal_dir, &error);
    for raw in reader.walk(0, walked.last) {
        let line =
            raw.and_then(|raw: Raw| record::recorded(&raw)).map_err(|error| failed(std::io::Error::other(error)))?;
        let text = serde_json::to_string(&Line {
            position: line.position,
            stream: &line.stream,
            at: line.at,
            by: &line.by,
            from: line.by.from,
            events: &line.events,
            hash: &line.hash,
        })
        .map_err(|error| failed(error.into()))?;
        // Events are kept as they came. A line break can only stand between JSON tokens, where a space does as well.
        out.write_all(text.replace(['\n', '\r'], " ").as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    Ok(walked.last)
}
