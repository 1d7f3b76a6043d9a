//! Why the store does not open. Each message names the file and the place, and says what to do.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing was changed; worth a retry once the cause is gone.
    #[error("{action} {}: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: std::io::Error },
    #[error("another cardea uses {}: only one process may have a data directory open", dir.display())]
    Locked { dir: PathBuf },
    /// A record that was promised is damaged or gone. Never repaired by guessing.
    #[error(
        "the journal is damaged at {} byte {offset}: {why}. Nothing was changed. Restore the data directory from a \
         backup, or look with `cardea journal verify`",
        segment.display()
    )]
    Damaged { segment: PathBuf, offset: u64, why: String },
    /// Segments or the whole journal are missing, or belong to something else.
    #[error(
        "the journal in {} is not whole: {why}. Nothing was changed. Put the missing files back or restore the data \
         directory from a backup; `cardea journal verify` shows what is there",
        dir.display()
    )]
    Missing { dir: PathBuf, why: String },
    /// The engine of a cluster is not there, is not safe, or holds another fleet's records.
    #[error("the cluster's engine: {0}")]
    Engine(String),
}

impl OpenError {
    pub fn io(action: &'static str, path: &Path, error: &std::io::Error) -> Self {
        // io::Error is not Clone; the kind and text are what a reader needs.
        Self::Io { action, path: path.to_owned(), error: std::io::Error::new(error.kind(), error.to_string()) }
    }

    pub(super) fn damaged(segment: &Path, offset: u64, why: impl Into<String>) -> Self {
        Self::Damaged { segment: segment.to_owned(), offset, why: why.into() }
    }

    pub(super) fn missing(dir: &Path, why: impl Into<String>) -> Self {
        Self::Missing { dir: dir.to_owned(), why: why.into() }
    }
}
