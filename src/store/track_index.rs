//! Where a segment of the track holds which vehicle's observations: in memory while it is written, a file beside it
//! afterwards. It can be made again from the segment at any time.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::frame::{array, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"CARDEA\0X";
/// Magic, earliest and latest time, number of vehicles.
const HEAD_LEN: usize = 8 + 8 + 8 + 4;

/// One observation's time (ms) and its frame's offset in the segment.
pub type Entry = (i64, u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackIndex {
    pub earliest: i64,
    pub latest: i64,
    entries: HashMap<String, Vec<Entry>>,
}

impl Default for TrackIndex {
    fn default() -> Self {
        Self { earliest: i64::MAX, latest: i64::MIN, entries: HashMap::new() }
    }
}

impl TrackIndex {
    pub fn add(&mut self, vehicle: &str, at: i64, offset: u32) {
        self.earliest = self.earliest.min(at);
        self.latest = self.latest.max(at);
        match self.entries.get_mut(vehicle) {
            Some(entries) => entries.push((at, offset)),
            None => {
                self.entries.insert(vehicle.to_owned(), vec![(at, offset)]);
            }
        }
    }

    /// How many observations it knows.
    pub fn count(&self) -> u64 {
        self.entries.values().map(|entries| entries.len() as u64).sum()
    }

    pub fn of(&self, vehicle: &str) -> &[Entry] {
        self.entries.get(vehicle).map_or(&[], Vec::as_slice)
    }

    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.earliest.to_le_bytes());
        out.extend_from_slice(&self.latest.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for (vehicle, entries) in &self.entries {
            // A vehicle id has at most 64 bytes.
            out.push(vehicle.len() as u8);
            out.extend_from_slice(vehicle.as_bytes());
            out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for (at, offset) in entries {
                out.extend_from_slice(&at.to_le_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        let fresh = path.with_extension("tmp");
        std::fs::write(&fresh, out)?;
        std::fs::rename(fresh, path)
    }

    /// `None` when there is no whole index in the file.
    pub fn load(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let mut index = Self::default();
        (index.earliest, index.latest) = each(&bytes, |vehicle, places| {
            index.entries.insert(vehicle.to_owned(), entries(places));
        })?;
        Some(index)
    }

    /// One vehicle's entries, without making the whole index.
    pub fn find(path: &Path, vehicle: &str) -> Option<Vec<Entry>> {
        let bytes = std::fs::read(path).ok()?;
        let mut found = Vec::new();
        each(&bytes, |name, places| {
            if name == vehicle {
                found = entries(places);
            }
        })?;
        Some(found)
    }
}

/// Goes through the vehicles of a saved index; returns its earliest and latest time.
fn each<'a>(bytes: &'a [u8], mut visit: impl FnMut(&'a str, &'a [u8])) -> Option<(i64, i64)> {
    let end = bytes.len().checked_sub(4)?;
    if end < HEAD_LEN || bytes[..8] != MAGIC || u32_at(bytes, end) != crc32c::crc32c(&bytes[..end]) {
        return None;
    }
    let (mut rest, vehicles) = (&bytes[HEAD_LEN..end], u32_at(bytes, 24));
    for _ in 0..vehicles {
        let len = usize::from(take(&mut rest, 1)?[0]);
        let name = std::str::from_utf8(take(&mut rest, len)?).ok()?;
        let count = u32_at(take(&mut rest, 4)?, 0) as usize;
        visit(name, take(&mut rest, count.checked_mul(12)?)?);
    }
    Some((u64_at(bytes, 8) as i64, u64_at(bytes, 16) as i64))
}

fn entries(places: &[u8]) -> Vec<Entry> {
    places.chunks_exact(12).map(|place| (i64::from_le_bytes(array(&place[..8])), u32_at(place, 8))).collect()
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_reads_back_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.idx");
        let mut index = TrackIndex::default();
        index.add("V-1", 50, 128);
        index.add("V-2", 40, 300);
        index.add("V-1", 60, 500);
        index.save(&path).unwrap();
        let loaded = TrackIndex::load(&path).unwrap();
        assert_eq!(loaded, index);
        assert_eq!(loaded.of("V-1"), [(50, 128), (60, 500)]);
        assert_eq!(TrackIndex::find(&path, "V-2").unwrap(), [(40, 300)]);
        assert!(TrackIndex::find(&path, "V-3").unwrap().is_empty());
        assert_eq!((loaded.earliest, loaded.latest), (40, 60));
        let whole = std::fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut bad = whole.clone();
            bad[byte] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            assert!(TrackIndex::load(&path).is_none(), "byte {byte}");
        }
        assert!(TrackIndex::load(&dir.path().join("none")).is_none());
    }
}
