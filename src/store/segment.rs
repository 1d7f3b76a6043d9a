//! Segment files: their names, how one comes into being, and the walk through its records.
//!
//! Used by the journal and the track. A segment appears under its name only when its header is on disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::frame::{self, Found, Frame, HEADER_LEN, Hash, Header};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// The number of its first record, also its name.
    pub first: u64,
    pub path: PathBuf,
}

pub fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

/// The directory's segments in order; an absent directory has none.
pub fn list(dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg")
            && let Some(first) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
        {
            segments.push(SegmentFile { first, path });
        }
    }
    segments.sort_by_key(|segment| segment.first);
    Ok(segments)
}

/// Removes what an interrupted creation left.
pub fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Why a segment could not be created.
#[derive(Debug)]
pub enum CreateError {
    /// The directory is as it was.
    NotCreated(io::Error),
    /// The segment may or may not be there after a power cut.
    Unknown(io::Error),
}

/// Creates a preallocated segment and makes its name durable.
pub fn create(dir: &Path, header: &Header, bytes: u64) -> Result<File, CreateError> {
    let unfinished = dir.join(format!("{:020}.tmp", header.first));
    let made = write_new(&unfinished, header, bytes);
    let file = made.map_err(|error| {
        // Best effort: what is left is removed at the next start.
        let _ = std::fs::remove_file(&unfinished);
        // A disk that fails for another reason than want of space is not to be trusted with anything.
        if is_full(&error) { CreateError::NotCreated(error) } else { CreateError::Unknown(error) }
    })?;
    if let Err(error) = std::fs::rename(&unfinished, path(dir, header.first)) {
        let _ = std::fs::remove_file(&unfinished);
        return Err(CreateError::NotCreated(error));
    }
    sync_dir(dir).map_err(CreateError::Unknown)?;
    Ok(file)
}

fn write_new(path: &Path, header: &Header, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    preallocate(&file, bytes)?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Reserves the space, so that a record is never half written for lack of it.
pub fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // Not every file system can; then space is only checked before each batch.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let len = file.metadata()?.len();
            if len < bytes { file.set_len(bytes) } else { Ok(()) }
        }
        Err(errno) => Err(errno.into()),
    }
}

pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Is this failure for want of space, and nothing else?
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// How far a segment's records are whole and in a row.
#[derive(Debug)]
pub struct Scanned {
    /// Where the last whole record ends.
    pub end: usize,
    pub last: u64,
    pub hash: Hash,
    pub stop: Stop,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Only zeros, or nothing, after the last record.
    Clean,
    /// Something unreadable follows. `was_promised`: a later record proves that what stood here was durable.
    Broken { why: String, was_promised: bool },
    /// A whole record that does not belong here: never the work of a power cut.
    Foreign { why: String },
}

/// Walks the records of a segment held in memory, checking each checksum, number and link of the chain.
pub fn scan(bytes: &[u8], header: &Header, visit: &mut dyn FnMut(&Frame, u64, &[u8])) -> Scanned {
    let mut scanned =
        Scanned { end: HEADER_LEN, last: header.first.saturating_sub(1), hash: header.previous, stop: Stop::Clean };
    loop {
        let rest = bytes.get(scanned.end..).unwrap_or(&[]);
        let frame = match frame::decode(rest) {
            Found::Empty => return scanned,
            Found::Broken(why) => {
                let was_promised = proves_promise(rest, scanned.last + 1);
                scanned.stop = Stop::Broken { why: why.to_owned(), was_promised };
                return scanned;
            }
            Found::Whole(frame) => frame,
        };
        let body = &rest[frame::FRAME_LEN..frame.total_len()];
        if frame.number != scanned.last + 1 {
            let why = format!("record {} stands where {} belongs", frame.number, scanned.last + 1);
            scanned.stop = Stop::Foreign { why };
            return scanned;
        }
        if frame.hash != frame::chain(&scanned.hash, frame.number, frame.durable, body) {
            let why = format!("record {} is not chained to the one before it", frame.number);
            scanned.stop = Stop::Foreign { why };
            return scanned;
        }
        visit(&frame, scanned.end as u64, body);
        scanned.last = frame.number;
        scanned.hash = frame.hash;
        scanned.end += frame.total_len();
    }
}

/// Is there a whole record further on that was written when `number` was durable already? The pages of one batch may
/// reach the disk in any order, so a whole record alone proves nothing; one of a later batch does.
fn proves_promise(bytes: &[u8], number: u64) -> bool {
    let mut from = 1;
    while let Some(found) = find_marker(bytes, from) {
        if frame::decode_written(&bytes[found..]).is_ok_and(|frame| frame.durable >= number) {
            return true;
        }
        from = found + 1;
    }
    false
}

fn find_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(frame::MARKER.len()).position(|window| window == frame::MARKER).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::frame::Kind;

    const HEADER: Header = Header { kind: Kind::Journal, id: [1; 16], first: 1, previous: [0; 32] };

    /// Records 1..=n, the batches ending after each of `ends`.
    fn written(n: u64, ends: &[u64]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut hash, mut places) = (HEADER.encode().to_vec(), HEADER.previous, Vec::new());
        for number in 1..=n {
            places.push(bytes.len());
            let durable = ends.iter().copied().filter(|end| *end < number).max().unwrap_or(0);
            hash = frame::encode(&mut bytes, number, durable, &hash, format!("record {number}").as_bytes());
        }
        bytes.resize(bytes.len() + 500, 0);
        (bytes, places)
    }

    fn stop_of(bytes: &[u8]) -> (u64, Stop) {
        let scanned = scan(bytes, &HEADER, &mut |_, _, _| {});
        (scanned.last, scanned.stop)
    }

    #[test]
    fn whole_segment_is_clean() {
        assert_eq!(stop_of(&written(5, &[2]).0), (5, Stop::Clean));
    }

    #[test]
    fn hole_in_the_last_batch_is_no_proof_of_loss() {
        let (mut bytes, places) = written(6, &[3]);
        bytes[places[4] + 5] ^= 1;
        let (last, stop) = stop_of(&bytes);
        assert_eq!(last, 4);
        assert!(matches!(stop, Stop::Broken { was_promised: false, .. }), "{stop:?}");
    }

    #[test]
    fn hole_before_a_later_batch_is_a_loss() {
        let (mut bytes, places) = written(6, &[3]);
        bytes[places[2] + 70] ^= 1;
        let (last, stop) = stop_of(&bytes);
        assert_eq!(last, 2);
        assert!(matches!(stop, Stop::Broken { was_promised: true, .. }), "{stop:?}");
    }

    #[test]
    fn moved_record_is_foreign() {
        let (bytes, places) = written(4, &[]);
        let mut moved = bytes[..places[1]].to_vec();
        moved.extend_from_slice(&bytes[places[2]..]);
        assert!(matches!(stop_of(&moved).1, Stop::Foreign { .. }));
    }
}
