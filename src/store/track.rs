//! The track: observations on disk, at most a second late, for as long as they are kept.
//!
//! Segments like the journal's, but lazily synced, deleted when old, and never refused at start: what is damaged is
//! left out. Used by `observe` and `observations`; it must never hold up a promise or a caller.

use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;

use super::feed::Mode;
use super::frame::{self, Body, HEADER_LEN, Hash, Header, Kind};
use super::journal::Place;
use super::metrics::count;
use super::reader::Reader;
use super::segment::{self, CreateError, SegmentFile, Stop};
use super::shared::Shared;
use super::track_index::{Entry, TrackIndex};
use super::{Observation, ReadError};
use crate::clock::{Clock, Stopwatch};
use crate::config;
use crate::domain::{Timestamp, VehicleId};

pub const DIR: &str = "track";
/// Observations on their way to the disk; more are dropped and counted.
const QUEUE_MAX: usize = 32_768;
/// The largest observation; a car's message is far smaller.
const SIGNALS_MAX: usize = 64 * 1024;
const BATCH_MAX: usize = 8_192;
const IDLE: Duration = Duration::from_millis(200);
const SYNC_AFTER: Duration = Duration::from_millis(500);
/// Segments the retention works with: it can only delete whole ones.
const SEGMENTS_WANTED: u64 = 16;
const ANSWER_MAX: usize = 100_000;

/// What readers see of a segment.
#[derive(Debug)]
struct Seen {
    first: u64,
    earliest: i64,
    latest: i64,
    /// Kept in memory for the segment being written; of the others it is in a file.
    index: Option<TrackIndex>,
    bytes: u64,
}

/// The reading and the queueing end.
#[derive(Debug)]
pub struct Track {
    dir: PathBuf,
    queue: SyncSender<Option<Observation>>,
    reader: Arc<Reader>,
    segments: Arc<Mutex<Vec<Seen>>>,
}

impl Track {
    /// Reads what is there. Fails only when the folder cannot be used at all.
    pub fn open(config: &config::Data, id: [u8; 16], clock: &Clock) -> io::Result<(Self, TrackWriter)> {
        let dir = config.dir.join(DIR);
        std::fs::create_dir_all(&dir)?;
        segment::remove_unfinished(&dir)?;
        let (mut seen, mut last) = (Vec::new(), 0);
        for file in segment::list(&dir)? {
            let (segment, reached) = look_at(&file, clock.now())?;
            last = last.max(reached);
            seen.push(segment);
        }
        let reader = Arc::new(Reader::new(dir.clone()));
        let segments = Arc::new(Mutex::new(seen));
        let (queue, taken) = sync_channel(QUEUE_MAX);
        let max_bytes = config.track_max_mib.max(1) * 1024 * 1024;
        let segment_bytes = (max_bytes / SEGMENTS_WANTED).clamp(1024 * 1024, 32 * 1024 * 1024);
        let writer = TrackWriter {
            dir: dir.clone(),
            id,
            clock: clock.clone(),
            queue: taken,
            reader: Arc::clone(&reader),
            segments: Arc::clone(&segments),
            open: None,
            last,
            hash: [0; 32],
            segment_bytes,
            max_bytes,
            keep_ms: i64::try_from(config.track_retention_hours.saturating_mul(3_600_000)).unwrap_or(i64::MAX),
        };
        Ok((Self { reader, dir, queue, segments }, writer))
    }

    /// Takes an observation, or drops it; the return value says which.
    pub fn observe(&self, observation: Observation) -> bool {
        observation.signals.get().len() <= SIGNALS_MAX && self.queue.try_send(Some(observation)).is_ok()
    }

    /// Lets the writer see that the store ends; one with a full queue is awake.
    pub fn wake(&self) {
        let _ = self.queue.try_send(None);
    }

    pub fn observations(
        &self,
        vehicle: &VehicleId,
        from: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Observation>, ReadError> {
        let limit = limit.min(ANSWER_MAX);
        // The `limit` earliest, with the latest of them on top to be pushed out.
        let mut earliest: BinaryHeap<(i64, u64, u32)> = BinaryHeap::new();
        let mut offer = |entries: &[Entry], segment: u64| {
            for (at, offset) in entries.iter().filter(|(at, _)| (from.0..=until.0).contains(at)) {
                earliest.push((*at, segment, *offset));
                if earliest.len() > limit {
                    earliest.pop();
                }
            }
        };
        let mut sealed = Vec::new();
        for segment in lock(&self.segments).iter().filter(|seen| seen.earliest <= until.0 && seen.latest >= from.0) {
            match &segment.index {
                Some(index) => offer(index.of(vehicle.as_str()), segment.first),
                None => sealed.push(segment.first),
            }
        }
        for first in sealed {
            // Deleted by the retention meanwhile, or damaged: then there is nothing to tell.
            if let Some(entries) = TrackIndex::find(&index_path(&self.dir, first), vehicle.as_str()) {
                offer(&entries, first);
            }
        }
        let mut found = Vec::new();
        for (_, segment, offset) in earliest.into_sorted_vec() {
            match self.reader.at(Place { segment, offset: u64::from(offset) }) {
                Ok(raw) => found.extend(observation(&raw.body)),
                Err(error) => tracing::debug!(%error, "an observation cannot be read"),
            }
        }
        Ok(found)
    }
}

fn observation(body: &[u8]) -> Option<Observation> {
    let body = Body::parse(body).ok()?;
    let signals: Box<RawValue> = serde_json::from_slice(body.json).ok()?;
    Some(Observation { vehicle: body.stream.parse().ok()?, at: body.at, signals })
}

fn lock(segments: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    segments.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index_path(dir: &Path, first: u64) -> PathBuf {
    segment::path(dir, first).with_extension("idx")
}

/// What a segment holds, by its index file or, when that is missing, by reading it. Returns its last record too.
/// A damaged one holds what is whole, and is deleted in its time like the others.
fn look_at(file: &SegmentFile, now: Timestamp) -> io::Result<(Seen, u64)> {
    let path = file.path.with_extension("idx");
    let bytes = file.path.metadata()?.len();
    let seen = |index: &TrackIndex| Seen {
        first: file.first,
        earliest: index.earliest,
        latest: index.latest,
        index: None,
        bytes,
    };
    if let Some(index) = TrackIndex::load(&path) {
        return Ok((seen(&index), file.first + index.count()));
    }
    let content = std::fs::read(&file.path)?;
    let mut index = TrackIndex::default();
    let reached = match Header::decode(&content, Kind::Track) {
        Ok(header) => {
            let scanned = segment::scan(&content, &header, &mut |_, offset, body| {
                if let Ok(body) = Body::parse(body) {
                    index.add(body.stream, body.at.0, offset as u32);
                }
            });
            if scanned.stop != Stop::Clean {
                tracing::warn!(segment = %file.path.display(), stop = ?scanned.stop, "the rest of a track segment is left out");
            }
            scanned.last
        }
        Err(why) => {
            tracing::warn!(segment = %file.path.display(), why, "a segment of the track is left out");
            // Kept for people to look at until it is as old as the others may become.
            index.latest = now.0;
            file.first
        }
    };
    match index.save(&path) {
        Ok(()) => Ok((seen(&index), reached)),
        Err(error) => {
            tracing::warn!(segment = %file.path.display(), %error, "an index of the track could not be saved");
            Ok((Seen { index: Some(index.clone()), ..seen(&index) }, reached))
        }
    }
}

/// The segment being written.
#[derive(Debug)]
struct Open {
    file: File,
    first: u64,
    end: u64,
}

/// The writing end, run by its own thread.
#[derive(Debug)]
pub struct TrackWriter {
    dir: PathBuf,
    id: [u8; 16],
    clock: Clock,
    /// `None` only wakes the writer.
    queue: Receiver<Option<Observation>>,
    reader: Arc<Reader>,
    segments: Arc<Mutex<Vec<Seen>>>,
    open: Option<Open>,
    last: u64,
    hash: Hash,
    segment_bytes: u64,
    max_bytes: u64,
    keep_ms: i64,
}

/// A record of the batch being written: vehicle, time, place.
type Placed = (VehicleId, Timestamp, u32);

impl TrackWriter {
    pub fn run(mut self, shared: &Shared) {
        let (mut since_sync, mut is_dirty) = (Stopwatch::start(), false);
        loop {
            let is_closing = shared.feed.mode() != Mode::Running;
            let next = if is_closing { self.queue.try_recv().ok() } else { self.queue.recv_timeout(IDLE).ok() };
            if is_closing && next.is_none() {
                break;
            }
            if shared.feed.mode() == Mode::Abandoned {
                return;
            }
            let mut batch: Vec<_> = next.flatten().into_iter().collect();
            while !batch.is_empty()
                && batch.len() < BATCH_MAX
                && let Ok(next) = self.queue.try_recv()
            {
                batch.extend(next);
            }
            if !batch.is_empty() {
                self.write(batch, shared);
                is_dirty = true;
            }
            if since_sync.elapsed() >= SYNC_AFTER {
                if std::mem::take(&mut is_dirty) {
                    self.sync(shared);
                }
                self.retain(shared);
                since_sync = Stopwatch::start();
            }
        }
        self.sync(shared);
        self.seal(shared);
    }

    fn write(&mut self, batch: Vec<Observation>, shared: &Shared) {
        if shared.is_disk_low() {
            shared.metrics.track_dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            return;
        }
        // A batch fits the smallest segment only in parts.
        let mut rest = batch.into_iter().peekable();
        while rest.peek().is_some() {
            let mut bytes = Vec::new();
            let mut placed: Vec<Placed> = Vec::new();
            let (file_end, room) = match self.room(shared) {
                Ok(room) => room,
                Err(error) => {
                    let dropped = rest.count() as u64;
                    tracing::warn!(%error, dropped, "the track cannot be written");
                    count(&shared.metrics.track_errors);
                    shared.metrics.track_dropped.fetch_add(dropped, Ordering::Relaxed);
                    return;
                }
            };
            let (mut last, mut hash) = (self.last, self.hash);
            while let Some(next) =
                rest.next_if(|next| bytes.len() + frame::FRAME_LEN + next.signals.get().len() + 128 <= room)
            {
                let mut body = Body::begin(next.at, next.vehicle.as_str(), "", next.signals.get().len());
                body.extend_from_slice(next.signals.get().as_bytes());
                placed.push((next.vehicle, next.at, (file_end + bytes.len() as u64) as u32));
                last += 1;
                hash = frame::encode(&mut bytes, last, 0, &hash, &body);
            }
            if placed.is_empty() {
                self.seal(shared);
                continue;
            }
            self.put(&bytes, placed, (last, hash), shared);
        }
    }

    /// Where the next record goes and how much room is left; opens a segment when there is none.
    fn room(&mut self, shared: &Shared) -> io::Result<(u64, usize)> {
        if self.open.is_none() {
            self.start_segment()?;
            self.retain(shared);
        }
        let end = self.open.as_ref().map_or(0, |open| open.end);
        Ok((end, self.segment_bytes.saturating_sub(end) as usize))
    }

    fn start_segment(&mut self) -> io::Result<()> {
        let header = Header { kind: Kind::Track, id: self.id, first: self.last + 1, previous: self.hash };
        let file = segment::create(&self.dir, &header, self.segment_bytes).map_err(|error| match error {
            CreateError::NotCreated(error) | CreateError::Unknown(error) => error,
        })?;
        self.open = Some(Open { file, first: header.first, end: HEADER_LEN as u64 });
        lock(&self.segments).push(Seen {
            first: header.first,
            earliest: i64::MAX,
            latest: i64::MIN,
            index: Some(TrackIndex::default()),
            bytes: self.segment_bytes,
        });
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], placed: Vec<Placed>, reached: (u64, Hash), shared: &Shared) {
        let Some(open) = &mut self.open else { return };
        let count = placed.len() as u64;
        if let Err(error) = open.file.write_all_at(bytes, open.end) {
            tracing::warn!(%error, dropped = count, "the track cannot be written; a new segment is begun");
            super::metrics::count(&shared.metrics.track_errors);
            shared.metrics.track_dropped.fetch_add(count, Ordering::Relaxed);
            self.seal(shared);
            return;
        }
        open.end += bytes.len() as u64;
        (self.last, self.hash) = reached;
        let first = open.first;
        let mut segments = lock(&self.segments);
        if let Some(seen) = segments.iter_mut().rev().find(|seen| seen.first == first)
            && let Some(index) = &mut seen.index
        {
            for (vehicle, at, offset) in placed {
                index.add(vehicle.as_str(), at.0, offset);
            }
            (seen.earliest, seen.latest) = (index.earliest, index.latest);
        }
        shared.metrics.observed.fetch_add(count, Ordering::Relaxed);
    }

    fn sync(&mut self, shared: &Shared) {
        let Some(open) = &self.open else { return };
        if let Err(error) = open.file.sync_data() {
            // These observations may be lost, as the port allows; the next ones go to a fresh file.
            tracing::warn!(%error, "the track could not be synced; a new segment is begun");
            count(&shared.metrics.track_errors);
            self.seal(shared);
        }
    }

    /// Ends the segment: its unused rest is given back and its index goes to a file.
    fn seal(&mut self, shared: &Shared) {
        let Some(open) = self.open.take() else { return };
        let mut bytes = self.segment_bytes;
        if open.file.set_len(open.end).is_ok() {
            bytes = open.end;
        }
        let mut segments = lock(&self.segments);
        let Some(seen) = segments.iter_mut().rev().find(|seen| seen.first == open.first) else { return };
        seen.bytes = bytes;
        let saved = seen.index.as_ref().map_or(Ok(()), |index| index.save(&index_path(&self.dir, open.first)));
        match saved {
            Ok(()) => seen.index = None,
            // It stays in memory, and the file is made at the next start.
            Err(error) => {
                tracing::warn!(%error, "the index of a segment of the track could not be saved");
                count(&shared.metrics.track_errors);
            }
        }
    }

    /// Deletes the oldest segments: past their time, or too many bytes.
    fn retain(&self, shared: &Shared) {
        let oldest_kept = self.clock.now().0.saturating_sub(self.keep_ms);
        let current = self.open.as_ref().map(|open| open.first);
        let mut segments = lock(&self.segments);
        let mut bytes: u64 = segments.iter().map(|seen| seen.bytes).sum();
        while let Some(oldest) = segments.first() {
            let is_over = bytes > self.max_bytes || oldest.latest < oldest_kept;
            if !is_over || Some(oldest.first) == current {
                return;
            }
            let path = segment::path(&self.dir, oldest.first);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(segment = %path.display(), %error, "an old segment of the track cannot be deleted");
                return;
            }
            self.reader.forget(oldest.first);
            // An index without its segment is harmless and is overwritten or ignored.
            let _ = std::fs::remove_file(index_path(&self.dir, oldest.first));
            bytes -= oldest.bytes;
            segments.remove(0);
            count(&shared.metrics.track_segments_deleted);
        }
    }
}
