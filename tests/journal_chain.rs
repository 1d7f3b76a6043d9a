//! `journal verify` against one alteration of any kind anywhere: it is found and named by segment and byte, and nothing
//! whole is called damaged. What no journal can know of itself is stated by the last tests.
//!
//! The journals are written by the store; the alterations are made by `forger`, which shares no code with it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod store_kit;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cardea::store::{LocalStore, OpenError, Verified, verify};
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{FlockOperation, flock};
use store_kit::forger::{FRAME, Files, HEADER, rehash, reseal, seal_header};
use store_kit::*;

/// A journal that was written and closed.
struct Journal {
    dir: tempfile::TempDir,
    files: Files,
    verified: Verified,
}

/// Several streams, records of 200 bytes to 300 kB, single and in batches, some with an idempotency key, and between them
/// orderly ends and crashes of the store.
fn written(mut seed: u64) -> Journal {
    let dir = scratch();
    let mut store = open(dir.path());
    let mut n = 0;
    while std::fs::read_dir(dir.path().join("journal")).unwrap().count() < 4 || !random(&mut seed).is_multiple_of(8) {
        let batch = (0..1 + random(&mut seed) % 12).map(|_| {
            n += 1;
            let stream = ["vehicle/V-1", "vehicle/V-2", "card/ic_1", "rental/ä"][(random(&mut seed) % 4) as usize];
            match random(&mut seed) % 10 {
                0 => big_step(stream, n, (random(&mut seed) % 300_000) as usize),
                1..=3 => big_step(stream, n, (random(&mut seed) % 20_000) as usize),
                4 => keyed(stream, n, &format!("anna/POST/{n}"), "00"),
                _ => step(stream, n),
            }
        });
        assert!(append_all(&*store, batch.collect()).iter().all(Result::is_ok));
        store = match random(&mut seed) % 30 {
            0 => reopened(dir.path(), store, true),
            1 => reopened(dir.path(), store, false),
            _ => store,
        };
    }
    store.close();
    drop(store);
    let verified = verify(dir.path()).unwrap();
    let files = Files::read(dir.path());
    assert_eq!((verified.records, verified.segments), (n, files.segments.len() as u64));
    assert_eq!(files.places().len() as u64, n, "the forger reads the same records");
    Journal { dir, files, verified }
}

fn reopened(dir: &Path, store: std::sync::Arc<LocalStore>, in_order: bool) -> std::sync::Arc<LocalStore> {
    if in_order {
        store.close();
    }
    drop(store);
    open(dir)
}

static JOURNALS: LazyLock<Vec<Journal>> = LazyLock::new(|| (1..=4).map(written).collect());

/// What is done to one journal. Indices pick a record, a segment or a byte among those there are.
#[derive(Debug, Clone)]
enum Alteration {
    Flip {
        segment: Index,
        byte: Index,
        bit: u8,
    },
    FlipHead {
        byte: Index,
        bit: u8,
    },
    /// Cut out; what follows moves up.
    Drop(Index),
    /// Overwritten with zeros.
    Blank(Index),
    Swap(Index, Index),
    Repeat {
        record: Index,
        after: Index,
    },
    Cut {
        segment: Index,
        byte: Index,
    },
    CutAtRecord(Index),
    Forge {
        record: Index,
        how: Forgery,
        at: Index,
    },
    ForgeHeader {
        segment: Index,
        field: Index,
    },
    LoseSegment(Index),
    SwapSegments(Index, Index),
}

/// How a record is replaced by a well-formed one, its checksum right in each case.
#[derive(Debug, Clone, Copy)]
enum Forgery {
    /// Another body, the hash as it was.
    Body,
    /// Another body with the hash that belongs to it.
    BodyAndHash,
    /// A longer body with the hash that belongs to it.
    Longer,
    Number,
    Durable,
    Spare,
}

fn an_alteration() -> impl Strategy<Value = Alteration> {
    use Alteration::*;
    let index = any::<Index>;
    let how = prop::sample::select(vec![
        Forgery::Body,
        Forgery::BodyAndHash,
        Forgery::Longer,
        Forgery::Number,
        Forgery::Durable,
        Forgery::Spare,
    ]);
    prop_oneof![
        4 => (index(), index(), 0u8..8).prop_map(|(segment, byte, bit)| Flip { segment, byte, bit }),
        1 => (index(), 0u8..8).prop_map(|(byte, bit)| FlipHead { byte, bit }),
        2 => index().prop_map(Drop),
        1 => index().prop_map(Blank),
        2 => (index(), index()).prop_map(|(one, two)| Swap(one, two)),
        2 => (index(), index()).prop_map(|(record, after)| Repeat { record, after }),
        2 => (index(), index()).prop_map(|(segment, byte)| Cut { segment, byte }),
        1 => index().prop_map(CutAtRecord),
        4 => (index(), how, index()).prop_map(|(record, how, at)| Forge { record, how, at }),
        1 => (index(), index()).prop_map(|(segment, field)| ForgeHeader { segment, field }),
        1 => index().prop_map(LoseSegment),
        1 => (index(), index()).prop_map(|(one, two)| SwapSegments(one, two)),
    ]
}

/// What `verify` has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    /// All records are there.
    Whole,
    /// Damaged in this segment at this byte.
    At(PathBuf, usize),
    /// A file is gone.
    Missing,
}

impl Alteration {
    /// Alters the files and tells what has to be said. `None`: that would be no alteration.
    fn make(&self, files: &mut Files) -> Option<Said> {
        let places = files.places();
        let record = |index: &Index| index.index(places.len());
        let at = |files: &Files, segment: usize, byte: usize| Said::At(files.segments[segment].name.clone(), byte);
        match self {
            Self::Flip { segment, byte, bit } => {
                let segment = segment.index(files.segments.len());
                let is_last = segment + 1 == files.segments.len();
                let touched = &mut files.segments[segment];
                let byte = byte.index(touched.bytes.len());
                touched.bytes[byte] ^= 1 << bit;
                // After the journal's end it is a write that a power cut tore: nobody was promised anything there.
                Some(if is_last && byte >= touched.end() {
                    Said::Whole
                } else {
                    at(files, segment, unit_of(files, segment, byte))
                })
            }
            Self::FlipHead { byte, bit } => {
                let byte = byte.index(files.head.len());
                files.head[byte] ^= 1 << bit;
                Some(Said::Whole)
            }
            Self::Drop(index) => {
                let (segment, place) = places[record(index)].clone();
                files.segments[segment].bytes.drain(place.clone());
                Some(at(files, segment, place.start))
            }
            Self::Blank(index) => {
                let (segment, place) = places[record(index)].clone();
                files.segments[segment].bytes[place.clone()].fill(0);
                Some(at(files, segment, place.start))
            }
            Self::Swap(one, two) => {
                let (one, two) = (record(one).min(record(two)), record(one).max(record(two)));
                swap(files, &places[one], &places[two]);
                (one != two).then(|| at(files, places[one].0, places[one].1.start))
            }
            Self::Repeat { record: copied, after } => Some(repeat(files, &places, record(copied), record(after))),
            Self::Cut { segment, byte } => {
                let segment = segment.index(files.segments.len());
                let byte = byte.index(files.segments[segment].bytes.len());
                files.segments[segment].bytes.truncate(byte);
                let is_whole = byte >= files.segments[segment].end();
                Some(if is_whole { Said::Whole } else { at(files, segment, unit_of(files, segment, byte)) })
            }
            Self::CutAtRecord(index) => {
                let (segment, place) = places[record(index)].clone();
                files.segments[segment].bytes.truncate(place.start);
                Some(at(files, segment, place.start))
            }
            Self::Forge { record: index, how, at: byte } => Some(forge(files, &places, record(index), *how, byte)),
            Self::ForgeHeader { segment, field } => {
                let segment = segment.index(files.segments.len());
                // Format, kind, id, first record, hash before, spare: where each stands, and where its refusal points.
                let (field, named) = [(8, 0), (12, 0), (16, 16), (32, 32), (40, 40), (72, 0), (123, 0)][field.index(7)];
                files.segments[segment].bytes[field] ^= 1;
                seal_header(&mut files.segments[segment].bytes);
                Some(at(files, segment, named))
            }
            Self::LoseSegment(index) => {
                let lost = index.index(files.segments.len());
                let is_last = lost + 1 == files.segments.len();
                files.segments.remove(lost);
                // In the middle the one before is named, where it ends: the hole begins there.
                Some(if lost == 0 || is_last {
                    Said::Missing
                } else {
                    at(files, lost - 1, files.segments[lost - 1].end())
                })
            }
            Self::SwapSegments(one, two) => {
                let (one, two) = (one.index(files.segments.len()), two.index(files.segments.len()));
                let bytes = std::mem::take(&mut files.segments[one].bytes);
                let bytes = std::mem::replace(&mut files.segments[two].bytes, bytes);
                files.segments[one].bytes = bytes;
                (one != two).then(|| at(files, one.min(two), 32))
            }
        }
    }
}

/// Where the header or record begins that holds this byte: what a damage there is named by. After the last record that
/// is where it ends.
fn unit_of(files: &Files, segment: usize, byte: usize) -> usize {
    let segment = &files.segments[segment];
    if byte < HEADER {
        return 0;
    }
    segment.records.iter().find(|record| record.contains(&byte)).map_or(segment.end(), |record| record.start)
}

fn swap(files: &mut Files, one: &(usize, std::ops::Range<usize>), two: &(usize, std::ops::Range<usize>)) {
    let (first, second) = (files.record(one).to_vec(), files.record(two).to_vec());
    // The later one first, so that the earlier place is still right.
    files.segments[two.0].bytes.splice(two.1.clone(), first);
    files.segments[one.0].bytes.splice(one.1.clone(), second);
}

/// Puts a copy of one record behind another.
fn repeat(files: &mut Files, places: &[(usize, std::ops::Range<usize>)], copied: usize, after: usize) -> Said {
    let copy = files.record(&places[copied]).to_vec();
    let (segment, place) = places[after].clone();
    // Of a record and its copy right before it the second one is too many; of the first of the next segment and its copy
    // at the end of this one, it is that segment which does not follow.
    let fits = copied == after + 1;
    let too_many = place.end + if fits { copy.len() } else { 0 };
    files.segments[segment].bytes.splice(place.end..place.end, copy);
    Said::At(files.segments[segment].name.clone(), too_many)
}

fn forge(
    files: &mut Files,
    places: &[(usize, std::ops::Range<usize>)],
    index: usize,
    how: Forgery,
    byte: &Index,
) -> Said {
    let (segment, place) = places[index].clone();
    let before = files.hash_before(&places[index]);
    let mut forged = files.record(&places[index]).to_vec();
    let body = FRAME + byte.index(forged.len() - FRAME);
    match how {
        Forgery::Body | Forgery::BodyAndHash => forged[body] ^= 1,
        Forgery::Longer => {
            forged.insert(body, b' ');
            let len = (forged.len() - FRAME) as u32;
            forged[4..8].copy_from_slice(&len.to_le_bytes());
        }
        Forgery::Number => forged[16] ^= 1,
        Forgery::Durable => forged[24] ^= 1,
        Forgery::Spare => forged[12 + byte.index(4)] ^= 1,
    }
    let is_chained = !matches!(how, Forgery::Body | Forgery::Spare);
    if is_chained {
        rehash(&mut forged, &before);
    }
    reseal(&mut forged);
    let grown = forged.len() - place.len();
    files.segments[segment].bytes.splice(place.clone(), forged);
    let name = |segment: usize| files.segments[segment].name.clone();
    if !is_chained || matches!(how, Forgery::Number) {
        return Said::At(name(segment), place.start);
    }
    // It fits what came before it, so that it is the next one which does not follow from it: a record, a segment's link,
    // or what the head file knows.
    match places.get(index + 1) {
        Some((next, after)) if *next == segment => Said::At(name(segment), after.start + grown),
        Some((next, _)) => Said::At(name(*next), 40),
        None => Said::At(name(segment), place.start),
    }
}

/// A data directory with these files; unaltered ones are links to the journal's own.
fn laid_out(journal: &Journal, files: &Files) -> tempfile::TempDir {
    let dir = scratch();
    std::fs::create_dir(dir.path().join("journal")).unwrap();
    for segment in &files.segments {
        let to = dir.path().join(&segment.name);
        let is_same = journal.files.segments.iter().any(|old| old.name == segment.name && old.bytes == segment.bytes);
        if is_same {
            std::fs::hard_link(journal.dir.path().join(&segment.name), to).unwrap();
        } else {
            std::fs::write(to, &segment.bytes).unwrap();
        }
    }
    std::fs::write(dir.path().join("journal.head"), &files.head).unwrap();
    dir
}

fn said(dir: &Path, journal: &Journal) -> Said {
    match verify(dir) {
        Ok(found) => {
            assert_eq!((found.records, &found.last_hash), (journal.verified.records, &journal.verified.last_hash));
            Said::Whole
        }
        Err(OpenError::Damaged { segment, offset, .. }) => {
            Said::At(segment.strip_prefix(dir).unwrap().to_owned(), offset as usize)
        }
        Err(OpenError::Missing { .. }) => Said::Missing,
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn one_alteration_is_found_where_it_is_and_nothing_whole_is_called_damaged(
        journal in 0..4_usize,
        alteration in an_alteration(),
    ) {
        let journal = &JOURNALS[journal];
        let mut files = journal.files.clone();
        let Some(expected) = alteration.make(&mut files) else { return Ok(()) };
        let dir = laid_out(journal, &files);
        prop_assert_eq!(said(dir.path(), journal), expected);
    }

    /// A server holds the journal, so that only what its head file knows is looked at: of a journal at rest, all of it.
    #[test]
    fn one_alteration_is_found_beside_a_running_server_too(journal in 0..4_usize, alteration in an_alteration()) {
        // An older slot of the head knows less, and what is after it is not looked at: not wrong, and no claim either.
        prop_assume!(!matches!(alteration, Alteration::FlipHead { .. }));
        let journal = &JOURNALS[journal];
        let mut files = journal.files.clone();
        let Some(expected) = alteration.make(&mut files) else { return Ok(()) };
        let last = files.segments.last().map(|segment| Said::At(segment.name.clone(), journal.files.segments.last().unwrap().end()));
        let is_after_the_head = matches!(alteration, Alteration::Repeat { .. }) && last.as_ref() == Some(&expected);
        let dir = laid_out(journal, &files);
        let lock = File::create(dir.path().join("LOCK")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        prop_assert_eq!(said(dir.path(), journal), if is_after_the_head { Said::Whole } else { expected });
    }
}

#[test]
fn every_byte_of_a_record_and_of_a_header_counts() {
    let journal = &JOURNALS[0];
    let place =
        journal.files.places().into_iter().filter(|(segment, _)| *segment == 1).min_by_key(|(_, place)| place.len());
    let (segment, place) = place.unwrap();
    let name = &journal.files.segments[segment].name;
    let dir = laid_out(journal, &journal.files);
    let path = dir.path().join(name);
    std::fs::remove_file(&path).unwrap();
    for byte in (0..HEADER).chain(place) {
        let mut bytes = journal.files.segments[segment].bytes.clone();
        bytes[byte] ^= 1 << (byte % 8);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(said(dir.path(), journal), Said::At(name.clone(), unit_of(&journal.files, segment, byte)));
    }
}

/// Whoever writes all that follows anew is betrayed by the head file, which lies apart from the journal.
#[test]
fn a_chain_forged_to_its_end_is_betrayed_by_the_head_file() {
    for journal in &*JOURNALS {
        let mut files = journal.files.clone();
        let places = files.places();
        for forged in [0, places.len() / 2, places.len() - 1] {
            files.segments[places[forged].0].bytes[places[forged].1.start + FRAME] ^= 1;
            files.rechain_from(forged);
            let (segment, place) = places.last().unwrap();
            let expected = Said::At(files.segments[*segment].name.clone(), place.start);
            assert_eq!(said(laid_out(journal, &files).path(), journal), expected);
        }
    }
}

/// The limit of what a journal can know of itself: when the head file is changed along with it, nothing in the data
/// directory contradicts. Only what was noted elsewhere does: the hash of the newest record (`last_hash`), or a record
/// of its number.
#[test]
fn what_is_forged_together_with_the_head_file_needs_an_outside_witness() {
    for journal in &*JOURNALS {
        let noted = (journal.verified.records, journal.verified.last_hash.clone());
        let outside = |files: &Files| {
            let found = verify(laid_out(journal, files).path()).expect("nothing inside contradicts");
            (found.records, found.last_hash)
        };
        // The newest records cut off between two of them, and the head file set back, as an older backup of both is.
        for kept in [noted.0 - 1, noted.0 / 2, 1] {
            let mut files = journal.files.clone();
            files.keep(kept as usize);
            files.forge_head();
            let found = outside(&files);
            assert_eq!(found.0, kept);
            assert_ne!(found, noted);
        }
        // Everything from one record on written anew.
        let mut files = journal.files.clone();
        let (segment, place) = files.places().swap_remove(noted.0 as usize / 2);
        files.segments[segment].bytes[place.start + FRAME] ^= 1;
        files.rechain_from(noted.0 as usize / 2);
        files.forge_head();
        let found = outside(&files);
        assert_eq!(found.0, noted.0);
        assert_ne!(found.1, noted.1);
    }
}

/// Without a head file the end is not known; `verify` says that it is gone.
#[test]
fn a_tail_cut_with_the_head_file_removed_is_told_as_a_lost_head() {
    let journal = &JOURNALS[0];
    let mut files = journal.files.clone();
    files.keep(files.places().len() - 1);
    let dir = laid_out(journal, &files);
    std::fs::remove_file(dir.path().join("journal.head")).unwrap();
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.records, found.head_was_lost), (journal.verified.records - 1, true));
}

/// A record that follows from the newest one is what the next append looks like, or a crash before the head file was
/// written: nothing that was there is altered, and nothing tells who wrote it.
#[test]
fn a_record_added_at_the_end_is_no_alteration_of_what_was_there() {
    let journal = &JOURNALS[1];
    let mut files = journal.files.clone();
    let places = files.places();
    let last = places.last().unwrap();
    let mut added = files.record(last).to_vec();
    let number = u64::from_le_bytes(added[16..24].try_into().unwrap());
    added[16..24].copy_from_slice(&(number + 1).to_le_bytes());
    added[24..32].copy_from_slice(&number.to_le_bytes());
    let before: [u8; 32] = added[32..64].try_into().unwrap();
    rehash(&mut added, &before);
    reseal(&mut added);
    let segment = &mut files.segments[last.0].bytes;
    segment.splice(last.1.end..last.1.end, added);
    let found = verify(laid_out(journal, &files).path()).unwrap();
    assert_eq!(found.records, journal.verified.records + 1);
    assert_ne!(found.last_hash, journal.verified.last_hash);
}
