//! One process per data directory: an advisory lock on `LOCK`, held as long as the store is open.
//!
//! The kernel frees it when the process ends, however it ends, so a stale file never blocks a start.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::open_error::OpenError;

pub const FILE: &str = "LOCK";

#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "holding it is its use")] File);

impl Lock {
    pub fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| OpenError::io("cannot open", &path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { dir: dir.to_owned() }),
            Err(errno) => Err(OpenError::io("cannot lock", &path, &errno.into())),
        }
    }
}

/// Does another process have the data directory open now?
pub fn is_taken(dir: &Path) -> bool {
    File::open(dir.join(FILE)).is_ok_and(|file| {
        matches!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
    })
}
