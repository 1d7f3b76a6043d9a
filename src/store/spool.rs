//! Promises that the journal does not have yet: a small file of this machine's own, synced before anybody hears of an entry.
//!
//! An entry waits here from its promise until it is on record; what a crash finds in the file is handed out at the next start.
//! Entries stand each for itself: a damaged one takes no other with it. The file begins anew whenever nothing waits, so an entry
//! that is settled may be handed out once more, and whoever takes it must find that it is on record already.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

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
pub struct Kept(Sender<Job>);

impl Kept {
    /// It is on record, or can never be.
    pub fn settle(self) {
        let _ = self.0.send(Job::Settled);
    }
}

enum Job {
    Put { entry: Vec<u8>, kept: oneshot::Sender<()> },
    Settled,
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
        let (entries, unread) = entries(&bytes);
        if unread > 0 {
            tracing::warn!(path = %path.display(), bytes = unread,
                "a part cannot be read; an entry whose write was cut by a crash was never promised");
        }
        let (jobs, todo) = channel();
        let left = entries.into_iter().map(|entry| (entry, Kept(jobs.clone()))).collect::<Vec<_>>();
        let mut writer = Writer { file, path: path.clone(), len: bytes.len() as u64, waiting: left.len(), torn: false };
        if writer.waiting == 0 {
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

    /// Durable when it returns. `None`: it is not, and nothing may be promised; why is in the log. To be bounded by the caller.
    pub async fn put(&self, entry: Vec<u8>) -> Option<Kept> {
        let jobs = self.jobs.as_ref()?;
        let (kept, is_kept) = oneshot::channel();
        jobs.send(Job::Put { entry, kept }).ok()?;
        is_kept.await.ok()?;
        Some(Kept(jobs.clone()))
    }
}

/// The whole entries, and how many bytes belong to none.
fn entries(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let (mut found, mut at, mut unread) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        match frame::decode_written(&bytes[at..]) {
            Ok(whole) => {
                let end = at + whole.total_len();
                found.push(bytes[at + frame::FRAME_LEN..end].to_vec());
                at = end;
            }
            Err(_) => {
                let next = bytes[at + 1..].windows(MARKER.len()).position(|window| window == MARKER);
                let end = next.map_or(bytes.len(), |next| at + 1 + next);
                unread += end - at;
                at = end;
            }
        }
    }
    (found, unread)
}

struct Writer {
    file: File,
    path: PathBuf,
    /// Up to here stands what is durable.
    len: u64,
    /// Entries that are not settled.
    waiting: usize,
    /// Something may stand behind `len` that was never promised.
    torn: bool,
}

impl Writer {
    fn run(&mut self, todo: &Receiver<Job>) {
        while let Ok(first) = todo.recv() {
            let (mut bytes, mut askers, mut settled) = (Vec::new(), Vec::new(), 0);
            for job in std::iter::once(first).chain(todo.try_iter()).take(MAX_BATCH) {
                match job {
                    Job::Settled => settled += 1,
                    Job::Put { entry, kept } if entry.len() <= frame::MAX_BODY => {
                        frame::encode(&mut bytes, 0, 0, &[0; 32], &entry);
                        askers.push(kept);
                    }
                    Job::Put { .. } => tracing::error!(path = %self.path.display(), "an entry is too large"),
                }
            }
            self.waiting = self.waiting.saturating_sub(settled);
            if self.waiting == 0 && self.len > 0 {
                self.begin_anew();
            }
            if askers.is_empty() {
                continue;
            }
            match self.write(&bytes) {
                // Who does not wait any more has promised nothing.
                Ok(()) => self.waiting += askers.into_iter().filter_map(|kept| kept.send(()).ok()).count(),
                Err(error) => tracing::error!(path = %self.path.display(), %error, "nothing can be promised"),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.len + bytes.len() as u64 > MAX_BYTES {
            return Err(io::Error::other("too much waits for its record"));
        }
        if self.torn {
            self.file.set_len(self.len)?;
        }
        self.torn = true;
        self.file.write_all_at(bytes, self.len)?;
        self.file.sync_data()?;
        self.torn = false;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Everything in it is settled. Not synced: what comes back after a crash is found on record.
    fn begin_anew(&mut self) {
        match self.file.set_len(0) {
            Ok(()) => self.len = 0,
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot be emptied"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(left: &[(Vec<u8>, Kept)]) -> Vec<&[u8]> {
        left.iter().map(|(entry, _)| entry.as_slice()).collect()
    }

    async fn put(spool: &Spool, entry: &[u8]) -> Kept {
        spool.put(entry.to_vec()).await.expect("it is kept")
    }

    #[tokio::test]
    async fn what_was_not_settled_is_handed_out_at_the_next_start_and_then_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        assert!(spool.take_left().is_empty());
        put(&spool, b"one").await.settle();
        let _unsettled = (put(&spool, b"two").await, put(&spool, &[7; 100_000]).await);
        // The process is gone: nothing is told to the thread any more, and its file is read by another.
        let next = Spool::open(dir.path()).unwrap();
        let left = next.take_left();
        assert_eq!(bytes_of(&left), [b"two".as_slice(), &[7; 100_000]]);
        assert!(next.take_left().is_empty());
        left.into_iter().for_each(|(_, kept)| kept.settle());
        put(&next, b"last").await.settle();
        // The thread has taken the one before when it answers this one.
        let _unsettled = put(&next, b"newest").await;
        let last = Spool::open(dir.path()).unwrap();
        assert_eq!(bytes_of(&last.take_left()), [b"newest".as_slice()]);
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
        let left = next.take_left();
        assert_eq!(bytes_of(&left), [b"one".as_slice()]);
        let _unsettled = put(&next, b"four").await;
        let last = Spool::open(dir.path()).unwrap();
        assert_eq!(bytes_of(&last.take_left()), [b"one".as_slice(), b"four"]);
    }

    #[tokio::test]
    async fn nothing_is_promised_that_the_disk_does_not_take() {
        let (jobs, todo) = channel();
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut writer = Writer { file, path: "/dev/full".into(), len: 0, waiting: 0, torn: false };
        std::thread::spawn(move || writer.run(&todo));
        let full = Spool { jobs: Some(jobs), left: Mutex::new(Vec::new()) };
        assert!(full.put(b"one".to_vec()).await.is_none());
        assert!(full.put(b"two".to_vec()).await.is_none());
        assert!(Spool::none().put(b"one".to_vec()).await.is_none());
    }

    #[tokio::test]
    async fn a_full_file_takes_nothing_until_all_of_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let entry = vec![0; frame::MAX_BODY];
        let mut kept = Vec::new();
        while let Some(one) = spool.put(entry.clone()).await {
            kept.push(one);
            assert!(kept.len() < 100, "it has no end");
        }
        assert!(!kept.is_empty());
        assert!(spool.put(vec![0; frame::MAX_BODY + 1]).await.is_none());
        kept.into_iter().for_each(Kept::settle);
        let _unsettled = put(&spool, b"again").await;
        assert!(std::fs::metadata(dir.path().join(FILE)).unwrap().len() < 1_000);
    }
}
