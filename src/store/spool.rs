//! Promises that the journal does not have yet: a small file of this machine's own, synced before anybody hears of an entry.
//!
//! An entry waits here from its promise until it is on record; what a crash finds in the file is handed out at the next start.
//! One that came too late for whoever wanted to promise it is taken back: nobody heard it. Entries stand each for itself: a
//! damaged one takes no other with it. What is settled is not synced, so that a power cut may hand it out once more, and whoever
//! takes it must find that it is on record already.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::frame::{self, MARKER};
use super::open_error::OpenError;

pub const FILE: &str = "answers.spool";

/// The file's size beyond which nothing is taken until all of it is settled: some 6 000 purchases.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Entries written with one sync.
const MAX_BATCH: usize = 256;

/// The way to the file. One process has it, by the data directory's lock.
pub struct Spool {
    /// `None`: nothing is ever taken.
    jobs: Option<Sender<Job>>,
    left: Mutex<Vec<(Vec<u8>, Kept)>>,
}

/// An entry that is on disk. Dropped without [`Kept::settle`] it stays, for the next start.
pub struct Kept {
    id: u64,
    jobs: Sender<Job>,
    /// Given back with it.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Kept {
    /// It is on record, or can never be, or nobody heard of it.
    pub fn settle(self) {
        let _ = self.jobs.send(Job::Settled(self.id));
    }
}

/// On its way to who asked: if they are gone, they have promised nothing.
struct Unclaimed(Option<Kept>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(kept) = self.0.take() {
            kept.settle();
        }
    }
}

enum Job {
    Put(Wanted),
    Settled(u64),
}

struct Wanted {
    entry: Vec<u8>,
    turn: OwnedSemaphorePermit,
    jobs: Sender<Job>,
    reply: oneshot::Sender<Unclaimed>,
}

impl Spool {
    /// Takes no entry, where there is no data directory.
    pub fn none() -> Self {
        Self { jobs: None, left: Mutex::new(Vec::new()) }
    }

    /// Opens or creates the file in the data directory and starts its thread, which ends with the last of its handles.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let failed = |doing: &'static str| {
            let path = path.clone();
            move |error: io::Error| OpenError::io(doing, &path, &error)
        };
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(failed("cannot open"))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("cannot sync the folder of"))?;
        let bytes = std::fs::read(&path).map_err(failed("cannot read"))?;
        let Found { entries, last_id, unread } = find(&bytes);
        if unread > 0 {
            tracing::warn!(path = %path.display(), bytes = unread,
                "a part cannot be read; an entry whose write was cut by a crash was never promised");
        }
        let (jobs, todo) = channel();
        let waiting = entries.len();
        let left =
            entries.into_iter().map(|(id, entry)| (entry, Kept { id, jobs: jobs.clone(), _turn: None })).collect();
        let mut writer = Writer { file, path: path.clone(), len: bytes.len() as u64, last_id, waiting, torn: false };
        if waiting == 0 {
            writer.begin_anew();
        }
        let run = move || writer.run(&todo);
        std::thread::Builder::new().name("spool".into()).spawn(run).map_err(failed("cannot start the thread of"))?;
        Ok(Self { jobs: Some(jobs), left: Mutex::new(left) })
    }

    /// What was promised and not settled when the process before this one ended, oldest first. Once.
    pub fn take_left(&self) -> Vec<(Vec<u8>, Kept)> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Durable when it returns; dropped before, nothing is kept. `None`: it is not, and nothing may be promised; why is in the
    /// log. The turn bounds how many there are, those that wait for a disk that hangs too.
    pub async fn put(&self, entry: Vec<u8>, turn: OwnedSemaphorePermit) -> Option<Kept> {
        let jobs = self.jobs.as_ref()?;
        let (reply, kept) = oneshot::channel();
        jobs.send(Job::Put(Wanted { entry, turn, jobs: jobs.clone(), reply })).ok()?;
        kept.await.ok()?.0.take()
    }
}

/// What a file holds.
struct Found {
    /// By the order in which they were promised.
    entries: BTreeMap<u64, Vec<u8>>,
    last_id: u64,
    /// Bytes that belong to nothing.
    unread: usize,
}

/// An entry's frame has its id as number; one without a body takes back the entry of that id.
fn find(bytes: &[u8]) -> Found {
    let (mut found, mut at) = (Found { entries: BTreeMap::new(), last_id: 0, unread: 0 }, 0);
    while at < bytes.len() {
        match frame::decode_written(&bytes[at..]) {
            Ok(whole) => {
                let end = at + whole.total_len();
                match whole.body_len {
                    0 => drop(found.entries.remove(&whole.number)),
                    _ => drop(found.entries.insert(whole.number, bytes[at + frame::FRAME_LEN..end].to_vec())),
                }
                found.last_id = found.last_id.max(whole.number);
                at = end;
            }
            Err(_) => {
                let next = bytes[at + 1..].windows(MARKER.len()).position(|window| window == MARKER);
                let end = next.map_or(bytes.len(), |next| at + 1 + next);
                found.unread += end - at;
                at = end;
            }
        }
    }
    found
}

struct Writer {
    file: File,
    path: PathBuf,
    /// Up to here stands what was written as a whole.
    len: u64,
    last_id: u64,
    /// Entries that are not settled.
    waiting: usize,
    /// Something stands behind `len` that was never promised, and could not be cut off.
    torn: bool,
}

impl Writer {
    fn run(&mut self, todo: &Receiver<Job>) {
        while let Ok(first) = todo.recv() {
            let (mut bytes, mut wanted, mut settled) = (Vec::new(), Vec::new(), Vec::new());
            for job in std::iter::once(first).chain(todo.try_iter()).take(MAX_BATCH) {
                match job {
                    Job::Settled(id) => settled.push(id),
                    // Whoever asked has waited as long as they could.
                    Job::Put(late) if late.reply.is_closed() => {}
                    Job::Put(one) if one.entry.len() <= frame::MAX_BODY && !one.entry.is_empty() => {
                        self.last_id += 1;
                        frame::encode(&mut bytes, self.last_id, 0, &[0; 32], &one.entry);
                        wanted.push((self.last_id, one));
                    }
                    Job::Put(_) => tracing::error!(path = %self.path.display(), "an entry is empty or too large"),
                }
            }
            self.settle(&settled);
            if wanted.is_empty() {
                continue;
            }
            match self.write(&bytes, true) {
                Ok(()) => {
                    self.waiting += wanted.len();
                    for (id, Wanted { turn, jobs, reply, .. }) in wanted {
                        let _ = reply.send(Unclaimed(Some(Kept { id, jobs, _turn: Some(turn) })));
                    }
                }
                Err(error) => tracing::error!(path = %self.path.display(), %error, "nothing can be promised"),
            }
        }
    }

    fn settle(&mut self, ids: &[u64]) {
        self.waiting = self.waiting.saturating_sub(ids.len());
        if ids.is_empty() || self.waiting == 0 {
            if self.len > 0 && self.waiting == 0 {
                self.begin_anew();
            }
            return;
        }
        let mut bytes = Vec::new();
        for id in ids {
            frame::encode(&mut bytes, *id, 0, &[0; 32], &[]);
        }
        // It is on record: a power cut that takes this along has it looked at once more.
        if let Err(error) = self.write(&bytes, false) {
            tracing::warn!(path = %self.path.display(), %error, "cannot be told what is on record");
        }
    }

    fn write(&mut self, bytes: &[u8], is_promise: bool) -> io::Result<()> {
        if is_promise && self.len + bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::other("too much waits for its record"));
        }
        if self.torn {
            self.file.set_len(self.len)?;
            self.torn = false;
        }
        let written = self.file.write_all_at(bytes, self.len).and_then(|()| match is_promise {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        match written {
            Ok(()) => self.len += bytes.len() as u64,
            // Nobody hears of it: it must not come out of the file as promised.
            Err(_) => self.torn = self.file.set_len(self.len).is_err(),
        }
        written
    }

    /// Everything in it is settled. Not synced: what comes back after a power cut is found on record.
    fn begin_anew(&mut self) {
        match self.file.set_len(0) {
            Ok(()) => (self.len, self.torn) = (0, false),
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot be emptied"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn bytes_of(left: &[(Vec<u8>, Kept)]) -> Vec<&[u8]> {
        left.iter().map(|(entry, _)| entry.as_slice()).collect()
    }

    fn turn() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    async fn put(spool: &Spool, entry: &[u8]) -> Kept {
        spool.put(entry.to_vec(), turn()).await.expect("it is kept")
    }

    /// What the process after this one finds.
    fn left(dir: &Path) -> Vec<Vec<u8>> {
        Spool::open(dir).unwrap().take_left().into_iter().map(|(entry, _)| entry).collect()
    }

    #[tokio::test]
    async fn what_was_not_settled_is_handed_out_at_the_next_start_and_then_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        assert!(spool.take_left().is_empty());
        put(&spool, b"one").await.settle();
        let two = put(&spool, b"two").await;
        let _unsettled = put(&spool, &[7; 100_000]).await;
        // The process is gone: nothing is told to the thread any more, and its file is read by another.
        let next = Spool::open(dir.path()).unwrap();
        assert_eq!(bytes_of(&next.take_left()), [b"two".as_slice(), &[7; 100_000]]);
        assert!(next.take_left().is_empty());
        two.settle();
        // The thread has taken the one before when it answers this one.
        put(&spool, b"three").await.settle();
        let _unsettled_either = put(&spool, b"four").await;
        let next = Spool::open(dir.path()).unwrap();
        let found = next.take_left();
        assert_eq!(
            bytes_of(&found),
            [[7; 100_000].as_slice(), b"four"],
            "what is settled is not handed out beside others"
        );
        found.into_iter().for_each(|(_, kept)| kept.settle());
        put(&next, b"last").await.settle();
        let _unsettled = put(&next, b"newest").await;
        assert_eq!(left(dir.path()), [b"newest".as_slice()]);
    }

    /// The network was told the fallback meanwhile, or nothing.
    #[tokio::test]
    async fn what_nobody_waited_for_any_more_is_not_handed_out_as_promised() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let _unsettled = put(&spool, b"heard").await;
        // Given up in the moment when it was written, and before.
        let jobs = spool.jobs.clone().unwrap();
        let (reply, kept) = oneshot::channel();
        jobs.send(Job::Put(Wanted { entry: b"too late".to_vec(), turn: turn(), jobs: jobs.clone(), reply })).unwrap();
        let unclaimed = kept.await.unwrap();
        drop(unclaimed);
        let (reply, gone) = oneshot::channel();
        drop(gone);
        jobs.send(Job::Put(Wanted { entry: b"much too late".to_vec(), turn: turn(), jobs: jobs.clone(), reply }))
            .unwrap();
        let _unsettled_either = put(&spool, b"heard, too").await;
        assert_eq!(left(dir.path()), [b"heard".as_slice(), b"heard, too"]);
    }

    #[tokio::test]
    async fn a_torn_or_damaged_entry_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let _unsettled = (put(&spool, b"one").await, put(&spool, b"two").await, put(&spool, b"three").await);
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let of_two = bytes.windows(3).position(|window| window == b"two").unwrap();
        bytes[of_two] ^= 1;
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&path, &bytes).unwrap();
        let next = Spool::open(dir.path()).unwrap();
        assert_eq!(bytes_of(&next.take_left()), [b"one".as_slice()]);
        let _unsettled = put(&next, b"four").await;
        assert_eq!(left(dir.path()), [b"one".as_slice(), b"four"]);
    }

    #[tokio::test]
    async fn nothing_is_promised_that_the_disk_does_not_take() {
        let (jobs, todo) = channel();
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut writer = Writer { file, path: "/dev/full".into(), len: 0, last_id: 0, waiting: 0, torn: false };
        std::thread::spawn(move || writer.run(&todo));
        let full = Spool { jobs: Some(jobs), left: Mutex::new(Vec::new()) };
        let turns = Arc::new(Semaphore::new(1));
        for _ in 0..2 {
            let turn = turns.clone().try_acquire_owned().expect("it is given back");
            assert!(full.put(b"one".to_vec(), turn).await.is_none());
        }
        assert!(Spool::none().put(b"one".to_vec(), turn()).await.is_none());
    }

    #[tokio::test]
    async fn a_full_file_takes_nothing_until_all_of_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let entry = vec![0; frame::MAX_BODY];
        let mut kept = Vec::new();
        while let Some(one) = spool.put(entry.clone(), turn()).await {
            kept.push(one);
            assert!(kept.len() < 100, "it has no end");
        }
        assert!(!kept.is_empty());
        assert!(spool.put(vec![0; frame::MAX_BODY + 1], turn()).await.is_none());
        kept.into_iter().for_each(Kept::settle);
        let _unsettled = put(&spool, b"again").await;
        assert!(std::fs::metadata(dir.path().join(FILE)).unwrap().len() < 1_000);
    }
}
