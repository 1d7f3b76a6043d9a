//! The head file: how far the journal surely reached, kept apart from the journal itself.
//!
//! Two slots are written in turn, each its own disk sector, so a torn write leaves the other. It is written after the
//! journal's own sync and lags it a little; it must never name a record that is not durable.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::frame::{Hash, array, u32_at, u64_at};

pub const FILE: &str = "journal.head";
const SLOT_LEN: usize = 512;
const MAGIC: [u8; 8] = *b"CARDEA\0H";
/// Bytes in use: magic, id, sequence, position, segment, offset, hash; then the checksum.
const USED: usize = 8 + 16 + 8 * 4 + 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub id: [u8; 16],
    /// The newest record known durable, 0 for none.
    pub position: u64,
    /// The segment being written, by its first record, and where in it the record's frame ends.
    pub segment: u64,
    pub end: u64,
    pub hash: Hash,
}

/// What the head file holds.
#[derive(Debug)]
pub enum Stored {
    Absent,
    /// The file is there, but neither slot is whole.
    Unreadable,
    Known(Head),
}

pub fn read(dir: &Path) -> io::Result<Stored> {
    let mut bytes = Vec::new();
    match File::open(dir.join(FILE)) {
        Ok(file) => file.take(2 * SLOT_LEN as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stored::Absent),
        Err(error) => return Err(error),
    };
    Ok(newest(&bytes).map_or(Stored::Unreadable, Stored::Known))
}

/// The newest whole slot in the file's bytes.
pub fn newest(bytes: &[u8]) -> Option<Head> {
    bytes.chunks(SLOT_LEN).filter_map(decode).max_by_key(|(sequence, _)| *sequence).map(|(_, head)| head)
}

/// Writes heads; one owner at a time.
#[derive(Debug)]
pub struct HeadFile {
    file: File,
    sequence: u64,
}

impl HeadFile {
    /// Opens the file for writing, creating it whole (and durably) when it is absent.
    pub fn open(dir: &Path, head: &Head) -> io::Result<Self> {
        let path = dir.join(FILE);
        if !path.exists() {
            let fresh = dir.join(format!("{FILE}.tmp"));
            let file = File::create(&fresh)?;
            file.write_all_at(&[0; 2 * SLOT_LEN], 0)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            File::open(dir)?.sync_all()?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut bytes = [0; 2 * SLOT_LEN];
        let sequence = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => bytes.chunks(SLOT_LEN).filter_map(decode).map(|(sequence, _)| sequence).max().unwrap_or(0),
            Err(_) => 0,
        };
        let mut this = Self { file, sequence };
        // Both slots, so that an older one never speaks for a journal that was restored since.
        this.write(head)?;
        this.write(head)?;
        Ok(this)
    }

    /// Writes the next slot and syncs it.
    pub fn write(&mut self, head: &Head) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let slot = sequence % 2;
        self.file.write_all_at(&encode(sequence, head), slot * SLOT_LEN as u64)?;
        self.sequence = sequence;
        self.file.sync_data()
    }
}

fn encode(sequence: u64, head: &Head) -> [u8; SLOT_LEN] {
    let mut out = [0; SLOT_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..24].copy_from_slice(&head.id);
    for (index, number) in [sequence, head.position, head.segment, head.end].into_iter().enumerate() {
        out[24 + index * 8..32 + index * 8].copy_from_slice(&number.to_le_bytes());
    }
    out[56..USED].copy_from_slice(&head.hash);
    let crc = crc32c::crc32c(&out[..USED]);
    out[USED..USED + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(slot: &[u8]) -> Option<(u64, Head)> {
    if slot.len() < USED + 4 || slot[..8] != MAGIC || u32_at(slot, USED) != crc32c::crc32c(&slot[..USED]) {
        return None;
    }
    let head = Head {
        id: array(&slot[8..24]),
        position: u64_at(slot, 32),
        segment: u64_at(slot, 40),
        end: u64_at(slot, 48),
        hash: array(&slot[56..USED]),
    };
    Some((u64_at(slot, 24), head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(position: u64) -> Head {
        Head { id: [7; 16], position, segment: 1, end: 128 + position, hash: [position as u8; 32] }
    }

    #[test]
    fn torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = HeadFile::open(dir.path(), &head(1)).unwrap();
        file.write(&head(2)).unwrap();
        file.write(&head(3)).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Stored::Known(known) if known == head(3)));
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut torn = whole.clone();
            torn[byte] ^= 0x10;
            std::fs::write(&path, &torn).unwrap();
            assert!(matches!(read(dir.path()).unwrap(), Stored::Known(known) if known.position >= 2), "byte {byte}");
        }
        std::fs::write(&path, vec![0; 100]).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Stored::Unreadable));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Stored::Absent));
    }
}
