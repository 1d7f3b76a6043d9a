//! Files and folders that are made together or not at all: dropping the list without [`NewFiles::keep`] removes them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cardea::pki::{self, PkiError};

use super::Failure;

/// What has been made so far, in order.
#[derive(Default)]
pub struct NewFiles {
    made: Vec<PathBuf>,
}

impl NewFiles {
    /// Makes `path` (owner only) and the folders above it that are missing; what exists already is left as it is.
    pub fn dir_all(&mut self, path: &Path) -> Result<(), Failure> {
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !exists(path)).collect();
        missing.into_iter().rev().try_for_each(|path| self.dir(path))
    }

    /// Makes a folder for its owner alone.
    pub fn dir(&mut self, path: &Path) -> Result<(), Failure> {
        self.note(path, pki::create_private_dir(path))
    }

    /// Writes a file for its owner alone.
    pub fn private(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        self.note(path, pki::write_private(path, text))
    }

    /// Writes a file for everyone.
    pub fn public(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        self.note(path, pki::write_public(path, text))
    }

    /// A file that `make` makes; it must not be there yet.
    pub fn made_by(&mut self, path: &Path, make: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        if exists(path) {
            return Err(Failure::failed(&format!("{} is there already", path.display())));
        }
        self.made.push(path.to_owned());
        make()
    }

    fn note(&mut self, path: &Path, result: Result<(), PkiError>) -> Result<(), Failure> {
        // A file that could not be written to its end was made all the same, unless it belongs to somebody else.
        match &result {
            Err(PkiError::Io { kind: io::ErrorKind::AlreadyExists, .. }) => {}
            _ => self.made.push(path.to_owned()),
        }
        result.map_err(|error| Failure::failed(&error))
    }

    /// Makes the names durable as well as the contents, and takes them out of danger.
    pub fn keep(mut self) -> Result<(), Failure> {
        for folder in self.made.iter().filter_map(|path| path.parent()) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| Failure::failed(&format!("cannot sync {}: {error}", folder.display())))?;
        }
        self.made.clear();
        Ok(())
    }
}

fn exists(path: &Path) -> bool {
    // The end of a relative path's ancestors is "", the working directory.
    path.as_os_str().is_empty() || path.symlink_metadata().is_ok()
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        // Newest first, so that folders are empty by then. There is nobody to tell what could not be removed.
        for path in self.made.iter().rev() {
            let _ = match path.symlink_metadata() {
                Ok(found) if found.is_dir() => fs::remove_dir(path),
                Ok(_) => fs::remove_file(path),
                Err(_) => Ok(()),
            };
        }
    }
}
