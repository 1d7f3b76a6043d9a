//! Body for [`crate::fuzzing`]: a journal's files with anything in them, with wrong checksums and with right ones.

use super::frame::{self, Body, FRAME_LEN, HEADER_LEN, Header, Kind};
use super::journal::Place;
use super::reader::Raw;
use super::row::Row;
use super::{head, record, segment, snapshot};

const ID: [u8; 16] = [7; 16];

/// The first byte says what the rest is: a segment as it is, one whose checksums are made right, bodies in right frames, a
/// head file, a snapshot.
pub fn journal(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    match which % 5 {
        0 => scan(bytes),
        1 => scan(&resealed(bytes)),
        2 => scan(&framed(bytes)),
        3 => {
            let _ = head::newest(bytes);
        }
        _ => snapshot::read_anything(bytes),
    }
}

/// Reads a segment as a start does, and every record as queries, the applier and the audit do.
fn scan(bytes: &[u8]) {
    let own = Header { kind: Kind::Journal, id: ID, first: 1, previous: [0; 32] };
    let header = Header::decode(bytes, Kind::Journal).unwrap_or(own);
    // Names of segments and what precedes them rule these out.
    if !(1..u64::MAX / 2).contains(&header.first) {
        return;
    }
    let mut expected = header.first;
    let scanned = segment::scan(bytes, &header, &mut |frame, offset, body| {
        assert_eq!(frame.number, expected, "records come in a row");
        expected += 1;
        read(frame, offset, body);
    });
    assert!(scanned.end >= HEADER_LEN && scanned.last + 1 == expected);
}

fn read(frame: &frame::Frame, offset: u64, body: &[u8]) {
    let place = Place { segment: 1, offset };
    let raw = Raw { frame: *frame, place, body: body.to_vec() };
    if record::recorded(&raw).is_ok() {
        assert!(Body::parse(body).is_ok(), "what is given out could be parsed");
    }
    let key = Body::parse(body).map(|body| body.key.to_owned()).unwrap_or_default();
    let _ = record::answer(&raw, &key);
    if let Ok((_, changes)) = record::view_changes(frame.number, place, body) {
        for change in changes {
            let _ = change.value.as_deref().map(Row::parse);
        }
    }
}

/// The same segment after somebody made every checksum and link right that can be.
fn resealed(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    if out.len() < HEADER_LEN {
        return out;
    }
    let crc = crc32c::crc32c(&out[..HEADER_LEN - 4]);
    out[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    let mut previous = frame::array(&out[40..72]);
    let mut at = HEADER_LEN;
    while let Some(len) = out.get(at..).and_then(frame::claimed_len).filter(|len| at + len <= out.len()) {
        let whole = out[at..at + len].to_vec();
        let (number, durable) = (frame::u64_at(&whole, 16), frame::u64_at(&whole, 24));
        let mut made = Vec::with_capacity(len);
        previous = frame::encode(&mut made, number, durable, &previous, &whole[FRAME_LEN..]);
        out[at..at + len].copy_from_slice(&made);
        at += len;
    }
    out
}

/// Bodies, cut where 0xFF 0xFF stands, in frames as the journal writes them: whatever is in them, the chain holds.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let header = Header { kind: Kind::Journal, id: ID, first: 1, previous: [0; 32] };
    let (mut out, mut previous, mut rest) = (header.encode().to_vec(), [0; 32], bytes);
    for number in 1.. {
        let end = rest.windows(2).position(|pair| pair == [0xFF, 0xFF]);
        previous = frame::encode(&mut out, number, number - 1, &previous, &rest[..end.unwrap_or(rest.len())]);
        match end {
            Some(end) => rest = &rest[end + 2..],
            None => break,
        }
    }
    let scanned = segment::scan(&out, &header, &mut |_, _, _| {});
    assert_eq!((scanned.end, scanned.stop), (out.len(), segment::Stop::Clean));
    out
}
