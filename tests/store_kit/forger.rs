//! A journal as its files say it is, read and written without the product's code: what a forger with an editor and the
//! format's description can do.
//!
//! Segment: 128 bytes of header (magic, format, kind, id, number of the first record, hash before it, spare, CRC32C), then
//! records of 64 bytes of frame (marker, length, CRC32C, spare, number, durable, hash) and a body each, then zeros.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ring::digest;

pub const HEADER: usize = 128;
pub const FRAME: usize = 64;
const HEAD_SLOT: usize = 512;
const HEAD_USED: usize = 88;

#[derive(Debug, Clone)]
pub struct Segment {
    /// Relative to the data directory.
    pub name: PathBuf,
    pub bytes: Vec<u8>,
    pub records: Vec<Range<usize>>,
}

impl Segment {
    /// Where the last record ends.
    pub fn end(&self) -> usize {
        self.records.last().map_or(HEADER, |record| record.end)
    }
}

/// The files that make a journal; record by record, in order.
#[derive(Debug, Clone)]
pub struct Files {
    pub segments: Vec<Segment>,
    pub head: Vec<u8>,
}

impl Files {
    pub fn read(dir: &Path) -> Self {
        let mut names: Vec<_> = std::fs::read_dir(dir.join("journal"))
            .unwrap()
            .map(|entry| Path::new("journal").join(entry.unwrap().file_name()))
            .collect();
        names.sort();
        let segments = names
            .into_iter()
            .map(|name| {
                let bytes = std::fs::read(dir.join(&name)).unwrap();
                let records = records(&bytes);
                Segment { name, bytes, records }
            })
            .collect();
        Self { segments, head: std::fs::read(dir.join("journal.head")).unwrap() }
    }

    /// Segment and range of each record; the first has index 0.
    pub fn places(&self) -> Vec<(usize, Range<usize>)> {
        let of = |(index, segment): (usize, &Segment)| {
            segment.records.iter().map(|record| (index, record.clone())).collect::<Vec<_>>()
        };
        self.segments.iter().enumerate().flat_map(of).collect()
    }

    pub fn record(&self, (segment, place): &(usize, Range<usize>)) -> &[u8] {
        &self.segments[*segment].bytes[place.clone()]
    }

    /// The hash before this record, which its own is made from.
    pub fn hash_before(&self, (segment, place): &(usize, Range<usize>)) -> [u8; 32] {
        let segment = &self.segments[*segment];
        let before = segment.records.iter().find(|record| record.end == place.start);
        let hash = before.map_or(40..72, |record| record.start + 32..record.start + 64);
        segment.bytes[hash].try_into().unwrap()
    }

    /// Makes every hash and checksum from this record on right again, over the headers of later segments: a forgery
    /// that only an outside witness can tell.
    pub fn rechain_from(&mut self, first: usize) {
        let places = self.places();
        let mut hash = self.hash_before(&places[first]);
        for (index, place) in places.iter().enumerate().skip(first) {
            if index > first && places[index - 1].0 != place.0 {
                let header = &mut self.segments[place.0].bytes;
                header[40..72].copy_from_slice(&hash);
                seal_header(header);
            }
            let record = &mut self.segments[place.0].bytes[place.1.clone()];
            rehash(record, &hash);
            reseal(record);
            hash.copy_from_slice(&record[32..64]);
        }
    }

    /// Cuts the journal after so many records.
    pub fn keep(&mut self, count: usize) {
        let places = self.places();
        let (last, place) = &places[count - 1];
        self.segments.truncate(last + 1);
        let segment = &mut self.segments[*last];
        segment.bytes[place.end..].fill(0);
        segment.records.retain(|record| record.end <= place.end);
    }

    /// Writes the head file anew for the journal as it now stands.
    pub fn forge_head(&mut self) {
        let places = self.places();
        let (segment, place) = places.last().unwrap();
        let segment = &self.segments[*segment];
        let mut slot = [0; HEAD_SLOT];
        slot[..32].copy_from_slice(&self.head[..32]);
        slot[32..40].copy_from_slice(&segment.bytes[place.start + 16..place.start + 24]);
        slot[40..48].copy_from_slice(&segment.bytes[32..40]);
        slot[48..56].copy_from_slice(&(place.end as u64).to_le_bytes());
        slot[56..HEAD_USED].copy_from_slice(&segment.bytes[place.start + 32..place.start + 64]);
        let crc = crc32c::crc32c(&slot[..HEAD_USED]);
        slot[HEAD_USED..HEAD_USED + 4].copy_from_slice(&crc.to_le_bytes());
        self.head = [slot, slot].concat();
    }
}

/// The records in a whole segment.
fn records(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut records, mut at) = (Vec::new(), HEADER);
    while bytes.get(at..at + 4) == Some(&[0xFF, 0xC4, 0xED, 0xFA]) {
        let body = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        records.push(at..at + FRAME + body);
        at += FRAME + body;
    }
    records
}

/// Makes a record's checksum right.
pub fn reseal(record: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[4..8]), &record[12..]);
    record[8..12].copy_from_slice(&crc.to_le_bytes());
}

/// Gives a record the hash it has after `before`.
pub fn rehash(record: &mut [u8], before: &[u8; 32]) {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    context.update(&record[4..8]);
    context.update(&record[16..32]);
    context.update(&record[FRAME..]);
    record[32..64].copy_from_slice(context.finish().as_ref());
}

/// Makes a segment header's checksum right.
pub fn seal_header(segment: &mut [u8]) {
    let crc = crc32c::crc32c(&segment[..HEADER - 4]);
    segment[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
}
