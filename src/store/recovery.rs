//! The walk through a whole journal at start and for `verify`: read only, and strict.
//!
//! Only the very end of the last segment may be torn, and only past what the head file knows. All else is damage and
//! is refused with the segment and offset; nothing is ever repaired by leaving a promise out.

use std::io::Read;
use std::path::Path;

use super::frame::{Frame, Hash, Header, Kind};
use super::head::{Head, Stored};
use super::journal::Place;
use super::open_error::OpenError;
use super::segment::{self, Scanned, SegmentFile, Stop};

/// What a walk found.
#[derive(Debug, Clone)]
pub struct Walked {
    pub id: [u8; 16],
    pub segments: u64,
    /// Bytes of whole records and headers.
    pub bytes: u64,
    /// The newest record and its hash.
    pub last: u64,
    pub hash: Hash,
    /// The last segment, by its first record, and where its last whole record ends.
    pub segment: u64,
    pub end: u64,
    /// Bytes after that which a power cut left of records nobody was promised.
    pub torn: u64,
    pub head_was_lost: bool,
}

/// How much of the journal to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    All,
    /// Nothing past the head: a server is writing there.
    UpToHead,
}

/// Does the directory hold any segment?
pub fn exists(dir: &Path) -> Result<bool, OpenError> {
    segment::list(dir).map(|segments| !segments.is_empty()).map_err(|error| OpenError::io("cannot list", dir, &error))
}

/// Verifies every record of the journal in `dir`, which has at least one segment.
pub fn walk(
    dir: &Path,
    stored: &Stored,
    extent: Extent,
    visit: &mut dyn FnMut(Place, &Frame, &[u8]),
) -> Result<Walked, OpenError> {
    let mut segments = segment::list(dir).map_err(|error| OpenError::io("cannot list", dir, &error))?;
    let head = match stored {
        Stored::Known(head) => Some(head),
        Stored::Absent | Stored::Unreadable => None,
    };
    check_first(dir, &segments, head)?;
    let end_at = head.filter(|_| extent == Extent::UpToHead);
    segments.retain(|file| end_at.is_none_or(|head| file.first <= head.segment));
    let mut state = Walked {
        id: [0; 16],
        segments: 0,
        bytes: 0,
        last: 0,
        hash: [0; 32],
        segment: 0,
        end: 0,
        torn: 0,
        head_was_lost: head.is_none(),
    };
    let mut bytes = Vec::new();
    let mut known = None;
    for (index, file) in segments.iter().enumerate() {
        let header = read_segment(file, &mut bytes)?;
        if let Some(head) = end_at.filter(|head| head.segment == file.first) {
            bytes.truncate(head.end as usize);
        }
        check_link(&segments, index, &header, &state)?;
        state.id = header.id;
        let scanned = segment::scan(&bytes, &header, &mut |frame, offset, body| {
            if head.is_some_and(|head| head.position == frame.number) {
                known = Some((offset, frame.hash));
            }
            visit(Place { segment: file.first, offset }, frame, body);
        });
        let is_last = index + 1 == segments.len();
        state.torn = judge_stop(file, &scanned, &bytes, is_last, head)?;
        check_head(file, &header, head, known.take())?;
        state.segments += 1;
        state.bytes += scanned.end as u64;
        state.last = scanned.last;
        state.hash = scanned.hash;
        state.segment = file.first;
        state.end = scanned.end as u64;
    }
    check_reach(dir, &state, head)?;
    Ok(state)
}

fn check_first(dir: &Path, segments: &[SegmentFile], head: Option<&Head>) -> Result<(), OpenError> {
    let Some(first) = segments.first() else {
        return Err(OpenError::missing(dir, "it has no segments"));
    };
    if first.first != 1 {
        let why = format!("its first segment begins with record {}, so what came before is missing", first.first);
        return Err(OpenError::missing(dir, why));
    }
    match head {
        Some(head) if !segments.iter().any(|segment| segment.first == head.segment) => {
            let name = segment::path(dir, head.segment);
            let why = format!("the head file names the segment {}, which is not there", name.display());
            Err(OpenError::missing(dir, why))
        }
        _ => Ok(()),
    }
}

/// Reads a segment whole and checks its header.
pub fn read_segment(file: &SegmentFile, bytes: &mut Vec<u8>) -> Result<Header, OpenError> {
    let read = |bytes: &mut Vec<u8>| -> std::io::Result<()> {
        bytes.clear();
        std::fs::File::open(&file.path)?.read_to_end(bytes).map(drop)
    };
    read(bytes).map_err(|error| OpenError::io("cannot read", &file.path, &error))?;
    let header = Header::decode(bytes, Kind::Journal).map_err(|why| OpenError::damaged(&file.path, 0, why))?;
    if header.first != file.first {
        let why = format!("the file is named for record {}, but its header says {}", file.first, header.first);
        return Err(OpenError::damaged(&file.path, 32, why));
    }
    Ok(header)
}

/// Does the segment follow the one before it?
fn check_link(segments: &[SegmentFile], index: usize, header: &Header, before: &Walked) -> Result<(), OpenError> {
    let path = &segments[index].path;
    if index > 0 && header.id != before.id {
        return Err(OpenError::damaged(path, 16, "the segment belongs to another journal"));
    }
    if header.first != before.last + 1 {
        // Where the hole is: at the end of the segment before. (The first segment begins with 1, checked already.)
        let cut = &segments[index.saturating_sub(1)].path;
        let why = format!(
            "it ends with record {}, but the next segment begins with {}: this file was cut, or a segment between is \
             missing",
            before.last, header.first
        );
        return Err(OpenError::damaged(cut, before.end, why));
    }
    if header.previous != before.hash {
        return Err(OpenError::damaged(path, 40, "the segment is not chained to the one before it"));
    }
    Ok(())
}

/// Says how many bytes after the last whole record are a torn tail; refuses what cannot be one.
fn judge_stop(
    file: &SegmentFile,
    scanned: &Scanned,
    bytes: &[u8],
    is_last: bool,
    head: Option<&Head>,
) -> Result<u64, OpenError> {
    let damaged = |why: String| Err(OpenError::damaged(&file.path, scanned.end as u64, why));
    let broken = scanned.last + 1;
    match &scanned.stop {
        Stop::Clean => Ok(0),
        Stop::Foreign { why } => damaged(why.clone()),
        Stop::Broken { why, .. } if !is_last => damaged(format!("record {broken}: {why}")),
        Stop::Broken { why, was_promised: true } => {
            damaged(format!("record {broken}: {why}, and later records show that it was whole once"))
        }
        Stop::Broken { why, was_promised: false } => match head {
            Some(head) if broken <= head.position => {
                damaged(format!("record {broken}: {why}, and the head file knows {} records", head.position))
            }
            Some(_) => Ok((bytes.len() - scanned.end) as u64),
            None => {
                damaged(format!("record {broken}: {why}, and there is no head file to tell a torn end from damage"))
            }
        },
    }
}

/// Is the record that the head file names the one that stands in this segment? `known`: that record, if it is here.
fn check_head(
    file: &SegmentFile,
    header: &Header,
    head: Option<&Head>,
    known: Option<(u64, Hash)>,
) -> Result<(), OpenError> {
    let Some(head) = head else { return Ok(()) };
    if head.id != header.id {
        return Err(OpenError::damaged(&file.path, 16, "the head file belongs to another journal"));
    }
    match known {
        Some((offset, hash)) if hash != head.hash => {
            let why = format!("record {} is not the one the head file knows", head.position);
            Err(OpenError::damaged(&file.path, offset, why))
        }
        _ => Ok(()),
    }
}

fn check_reach(dir: &Path, state: &Walked, head: Option<&Head>) -> Result<(), OpenError> {
    match head {
        Some(head) if state.last < head.position => {
            let why = format!(
                "the journal is shorter than its head: it ends with record {}, the head file knows {}",
                state.last, head.position
            );
            Err(OpenError::damaged(&segment::path(dir, state.segment), state.end, why))
        }
        _ => Ok(()),
    }
}
