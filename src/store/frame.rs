//! The bytes of a segment: its header, and the frame around each record. Journal and track share them.
//!
//! Pure encoding and checking; it opens no file. It must never accept a byte that its checksum does not cover.

use ring::digest;

use crate::domain::Timestamp;

/// A segment's header: its own block at the file's start.
pub const HEADER_LEN: usize = 128;
/// The fixed part before each record's body.
pub const FRAME_LEN: usize = 64;
/// The most one body may hold: 2 MiB of events and view changes, and as much for names and an answer.
pub const MAX_BODY: usize = 4 * 1024 * 1024;

/// What follows up to the header's checksum is spare, and zero.
const HEADER_USED: usize = 72;

const MAGIC: [u8; 8] = *b"CARDEA\0J";
const FORMAT: u32 = 1;
/// Opens each frame. 0xFF never occurs in UTF-8, so no payload can hold something that looks like a frame.
pub const MARKER: [u8; 4] = [0xFF, 0xC4, 0xED, 0xFA];

pub type Hash = [u8; 32];

/// What the segment is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Journal = 1,
    Track = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// The journal's own id: a segment of another journal is never taken for ours.
    pub id: [u8; 16],
    /// The number of the segment's first record.
    pub first: u64,
    /// Hash of the record before it; zeros at the very start.
    pub previous: Hash,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&(self.kind as u32).to_le_bytes());
        out[16..32].copy_from_slice(&self.id);
        out[32..40].copy_from_slice(&self.first.to_le_bytes());
        out[40..72].copy_from_slice(&self.previous);
        let crc = crc32c::crc32c(&out[..HEADER_LEN - 4]);
        out[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8], kind: Kind) -> Result<Self, &'static str> {
        let bytes = bytes.get(..HEADER_LEN).ok_or("the segment header is cut")?;
        if bytes[..8] != MAGIC {
            return Err("the segment header has the wrong magic");
        }
        if u32_at(bytes, HEADER_LEN - 4) != crc32c::crc32c(&bytes[..HEADER_LEN - 4]) {
            return Err("the segment header fails its checksum");
        }
        if u32_at(bytes, 8) != FORMAT {
            return Err("the segment has a format that this version of the program does not know; a newer one may");
        }
        if u32_at(bytes, 12) != kind as u32 {
            return Err("the segment is of another kind");
        }
        if bytes[HEADER_USED..HEADER_LEN - 4].iter().any(|byte| *byte != 0) {
            return Err("the segment header holds something where nothing belongs");
        }
        Ok(Self { kind, id: array(&bytes[16..32]), first: u64_at(bytes, 32), previous: array(&bytes[40..72]) })
    }
}

/// One record's frame, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub number: u64,
    /// The last record known durable when this one was written: whoever is numbered up to it was promised.
    pub durable: u64,
    pub hash: Hash,
    pub body_len: usize,
}

impl Frame {
    pub fn total_len(&self) -> usize {
        FRAME_LEN + self.body_len
    }
}

/// Appends the framed record to `out` and returns its hash.
pub fn encode(out: &mut Vec<u8>, number: u64, durable: u64, previous: &Hash, body: &[u8]) -> Hash {
    let hash = chain(previous, number, durable, body);
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(&hash);
    out.extend_from_slice(body);
    let crc = checksum(&out[start..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
    hash
}

/// What stands at a place in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Whole(Frame),
    /// Only zeros from here on: nothing was written.
    Empty,
    Broken(&'static str),
}

/// Looks at the frame that `bytes` (which reach to the segment's end) begin with.
pub fn decode(bytes: &[u8]) -> Found {
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Empty;
    }
    match decode_written(bytes) {
        Ok(frame) => Found::Whole(frame),
        Err(why) => Found::Broken(why),
    }
}

/// Like [`decode`], where a record must stand.
pub fn decode_written(bytes: &[u8]) -> Result<Frame, &'static str> {
    let head = bytes.get(..FRAME_LEN).ok_or("the record's frame is cut")?;
    if head[..4] != MARKER {
        return Err("no record begins here");
    }
    let body_len = u32_at(head, 4) as usize;
    if body_len > MAX_BODY {
        return Err("the record's length is impossible");
    }
    let whole = bytes.get(..FRAME_LEN + body_len).ok_or("the record is cut")?;
    if u32_at(head, 8) != checksum(whole) {
        return Err("the record fails its checksum");
    }
    // The spare bytes are the only ones that the hash does not cover: a forger who makes the checksum right could write
    // there without a trace.
    if u32_at(head, 12) != 0 {
        return Err("the record's spare bytes are not zero");
    }
    Ok(Frame { number: u64_at(head, 16), durable: u64_at(head, 24), hash: array(&head[32..64]), body_len })
}

/// The body length a frame claims, before it was checked; to know how much to read.
pub fn claimed_len(head: &[u8]) -> Option<usize> {
    let head = head.get(..FRAME_LEN)?;
    let body_len = u32_at(head, 4) as usize;
    (head[..4] == MARKER && body_len <= MAX_BODY).then_some(FRAME_LEN + body_len)
}

/// Over everything but the marker and the checksum itself.
fn checksum(whole: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&whole[4..8]), &whole[12..])
}

/// The record's hash: SHA-256 over the hash before it, its frame's numbers and its body.
pub fn chain(previous: &Hash, number: u64, durable: u64, body: &[u8]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(previous);
    context.update(&(body.len() as u32).to_le_bytes());
    context.update(&number.to_le_bytes());
    context.update(&durable.to_le_bytes());
    context.update(body);
    array(context.finish().as_ref())
}

/// A journal record's body: what is needed without reading JSON first, then the JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body<'a> {
    pub at: Timestamp,
    /// The stream; in the track: the vehicle.
    pub stream: &'a str,
    /// The idempotency key, empty when there is none.
    pub key: &'a str,
    pub json: &'a [u8],
}

/// Bytes before the names in a body.
const BODY_HEAD: usize = 12;

impl<'a> Body<'a> {
    /// Starts a body; the JSON is to be appended. Names are at most 64 KiB (the store's limits are far below).
    pub fn begin(at: Timestamp, stream: &str, key: &str, capacity: usize) -> Vec<u8> {
        debug_assert!(stream.len() <= usize::from(u16::MAX) && key.len() <= usize::from(u16::MAX));
        let mut out = Vec::with_capacity(BODY_HEAD + stream.len() + key.len() + capacity);
        out.extend_from_slice(&at.0.to_le_bytes());
        out.extend_from_slice(&(stream.len() as u16).to_le_bytes());
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(stream.as_bytes());
        out.extend_from_slice(key.as_bytes());
        out
    }

    pub fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        const CUT: &str = "the record's body is cut";
        let head = bytes.get(..BODY_HEAD).ok_or(CUT)?;
        let names_end = BODY_HEAD + usize::from(u16_at(head, 8));
        let keys_end = names_end + usize::from(u16_at(head, 10));
        let text = |range| -> Result<&'a str, &'static str> {
            std::str::from_utf8(bytes.get(range).ok_or(CUT)?).map_err(|_| "the record's names are not text")
        };
        Ok(Self {
            at: Timestamp(u64_at(head, 0) as i64),
            stream: text(BODY_HEAD..names_end)?,
            key: text(names_end..keys_end)?,
            json: bytes.get(keys_end..).ok_or(CUT)?,
        })
    }
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(&bytes[at..at + 2]))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(&bytes[at..at + 4]))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(&bytes[at..at + 8]))
}

/// Copies a slice of exactly `N` bytes.
pub fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut body = Body::begin(Timestamp(1_700_000_000_000), "vehicle/V1", "key", 8);
        body.extend_from_slice(b"{\"a\":1}");
        let mut out = Vec::new();
        encode(&mut out, 7, 5, &[3; 32], &body);
        out
    }

    #[test]
    fn record_reads_back() {
        let bytes = sample();
        let frame = decode_written(&bytes).unwrap();
        assert_eq!((frame.number, frame.durable, frame.total_len()), (7, 5, bytes.len()));
        let body = Body::parse(&bytes[FRAME_LEN..]).unwrap();
        assert_eq!((body.stream, body.key, body.json), ("vehicle/V1", "key", &b"{\"a\":1}"[..]));
        assert_eq!(frame.hash, chain(&[3; 32], 7, 5, &bytes[FRAME_LEN..]));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The four bytes after the checksum are spare and inside it; nothing escapes.
            assert!(decode_written(&flipped).is_err(), "bit {bit} went unnoticed");
        }
        for len in 0..bytes.len() {
            assert!(decode_written(&bytes[..len]).is_err());
        }
        let header = Header { kind: Kind::Journal, id: [1; 16], first: 9, previous: [2; 32] };
        let encoded = header.encode();
        assert_eq!(Header::decode(&encoded, Kind::Journal), Ok(header));
        assert!(Header::decode(&encoded, Kind::Track).is_err());
        for bit in 0..encoded.len() * 8 {
            let mut flipped = encoded;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped, Kind::Journal).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn zeros_are_nothing_and_garbage_is_broken() {
        assert_eq!(decode(&[0; 200]), Found::Empty);
        assert_eq!(decode(&[]), Found::Empty);
        let mut bytes = vec![0; 200];
        bytes[150] = 1;
        assert!(matches!(decode(&bytes), Found::Broken(_)));
    }
}
