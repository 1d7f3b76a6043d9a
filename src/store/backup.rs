//! A copy of the data directory, taken beside a running gateway, and the way back.
//!
//! What is copied is the journal, the snapshots and the track. The view is left out: it is made anew. The journal only
//! grows, so that a copy of it, read from its beginning to its end, holds everything that was promised before, perhaps
//! records that are written and not promised yet, and at most one in the middle of being written; that one is cut off, as
//! after a power cut. A copy counts only once its whole chain was walked; until then it has another name. Nothing here opens the store or writes to the directory that is copied.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use ring::digest;
use serde::{Deserialize, Serialize};

use super::head::{self, Head, HeadFile, Stored};
use super::lock::Lock;
use super::open_error::OpenError;
use super::recovery::{self, Extent, Walked};
use super::segment::SegmentFile;
use super::{audit, journal, lock, segment, snapshot, track};
use crate::domain::Timestamp;

pub const MANIFEST: &str = "manifest.json";
/// The data directory's name within a backup.
pub const DATA: &str = "data";
const FORMAT: u32 = 1;
/// What is read while it is written may show a later part and not yet an earlier one: then the newest segment is read again.
const MORE_TRIES: usize = 2;
/// A journal of ten years has some thousand segments.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024 * 1024;

/// What a backup is and holds; the file [`MANIFEST`] in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub made_at: Timestamp,
    /// Hex id of the journal.
    pub journal: String,
    pub records: u64,
    /// Hex SHA-256 of the newest record.
    pub last_hash: String,
    pub files: Vec<Copied>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Below the backup's folder.
    pub path: PathBuf,
    pub bytes: u64,
    /// Hex.
    pub sha256: String,
}

/// Why there is no backup, or nothing was put back. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{action} {}: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The copy is not what its manifest says: worth another copy of it, not a retry.
    #[error("the backup {} cannot be used: {why}", dir.display())]
    Unfit { dir: PathBuf, why: String },
    #[error("{} is not empty; nothing was changed", .0.display())]
    NotEmpty(PathBuf),
    #[error("a gateway is running on {}; stop it first. Nothing was changed", .0.display())]
    InUse(PathBuf),
}

fn io_error(action: &'static str, path: &Path, error: io::Error) -> BackupError {
    BackupError::Io { action, path: path.to_owned(), error }
}

/// Copies the data directory `data` to the new folder `out`, with `extras` (from, to below `out`) beside it. The
/// gateway may be running: what it promised before this was called is in the copy.
pub fn back_up(
    data: &Path,
    out: &Path,
    extras: &[(PathBuf, PathBuf)],
    now: Timestamp,
) -> Result<Manifest, BackupError> {
    refuse_occupied(out)?;
    let unfinished = beside(out, "unfinished");
    make_dir(&unfinished)?;
    let made = fill(data, &unfinished, extras, now).and_then(|manifest| {
        std::fs::rename(&unfinished, out).map_err(|error| io_error("cannot name", out, error))?;
        sync_parent(out)?;
        Ok(manifest)
    });
    if made.is_err() {
        // Best effort: the error that counts is the one before.
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    made
}

fn fill(data: &Path, out: &Path, extras: &[(PathBuf, PathBuf)], now: Timestamp) -> Result<Manifest, BackupError> {
    // Read first: whatever it knows is in what is copied afterwards.
    let stored = head::read(data).map_err(|error| io_error("cannot read the head in", data, error))?;
    let mut copy = Copy { out, files: Vec::new() };
    let journal_dir = data.join(journal::DIR);
    let segments = segment::list(&journal_dir).map_err(|error| io_error("cannot list", &journal_dir, error))?;
    for file in &segments {
        copy.at_once(&file.path, &below(data, &file.path))?;
    }
    let walked = copy.walk_journal(data, &stored, segments.last())?;
    // What is reserved for records to come, and at most one that was just being written.
    copy.cut(&Path::new(DATA).join(segment::path(Path::new(journal::DIR), walked.segment)), walked.end)?;
    for path in snapshot::up_to(data, walked.last) {
        copy.file_if_there(&path, &below(data, &path))?;
    }
    for path in files_of(&data.join(track::DIR))? {
        copy.file_if_there(&path, &below(data, &path))?;
    }
    for (from, to) in extras {
        copy.file(from, to)?;
    }
    let copied = out.join(DATA);
    let head =
        Head { id: walked.id, position: walked.last, segment: walked.segment, end: walked.end, hash: walked.hash };
    drop(HeadFile::open(&copied, &head).map_err(|error| io_error("cannot write the head in", &copied, error))?);
    copy.note(&Path::new(DATA).join(head::FILE))?;
    copy.files.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest = Manifest {
        format: FORMAT,
        made_at: now,
        journal: hex::encode(walked.id),
        records: walked.last,
        last_hash: hex::encode(walked.hash),
        files: copy.files,
    };
    write_manifest(out, &manifest)?;
    // What could not be put back is no backup.
    read_manifest(out)?;
    sync_tree(out)?;
    Ok(manifest)
}

/// Puts the data of the backup `from` back as `data`, which must be missing or empty unless `replace`: then it is
/// moved aside, and the path it has now is returned with the manifest.
pub fn restore(
    from: &Path,
    data: &Path,
    replace: bool,
    now: Timestamp,
) -> Result<(Manifest, Option<PathBuf>), BackupError> {
    let manifest = read_manifest(from)?;
    let is_new = !data.exists();
    make_dir(data)?;
    // Until the end: a gateway that is started meanwhile must not promise into data that is being moved.
    let lock = Lock::take(data).map_err(|error| match error {
        OpenError::Locked { dir } => BackupError::InUse(dir),
        error => BackupError::Journal(error),
    })?;
    let fresh = beside(data, "restoring");
    let put = is_occupied(data).and_then(|is_occupied| {
        if is_occupied && !replace {
            return Err(BackupError::NotEmpty(data.to_owned()));
        }
        make_dir(&fresh)?;
        put_back(from, &manifest, &fresh)?;
        let aside = beside(data, &format!("before-{}", now.0));
        std::fs::rename(data, &aside).map_err(|error| io_error("cannot move aside", data, error))?;
        if let Err(error) = std::fs::rename(&fresh, data) {
            // Back to how it was; if that fails too, the message names where it is.
            let back = std::fs::rename(&aside, data);
            let path = if back.is_ok() { data } else { &aside };
            return Err(io_error("cannot put the copy in the place of", path, error));
        }
        sync_parent(data)?;
        if !is_occupied {
            // Nothing but the lock's file was there.
            let _ = std::fs::remove_dir_all(&aside);
        }
        Ok(is_occupied.then_some(aside))
    });
    if put.is_err() {
        let _ = std::fs::remove_dir_all(&fresh);
        if is_new {
            let _ = std::fs::remove_dir_all(data);
        }
    }
    drop(lock);
    Ok((manifest, put?))
}

fn put_back(from: &Path, manifest: &Manifest, fresh: &Path) -> Result<(), BackupError> {
    let unfit = |why: String| BackupError::Unfit { dir: from.to_owned(), why };
    let mut copy = Copy { out: fresh, files: Vec::new() };
    for file in &manifest.files {
        let Ok(within) = file.path.strip_prefix(DATA) else { continue };
        copy.file(&from.join(&file.path), within)?;
        let is_same =
            copy.files.last().is_some_and(|copied| (copied.bytes, &copied.sha256) == (file.bytes, &file.sha256));
        if !is_same {
            return Err(unfit(format!("{} is not the file that was backed up", file.path.display())));
        }
    }
    let walked = audit::verify(fresh)?;
    if (walked.records, &walked.last_hash) != (manifest.records, &manifest.last_hash) {
        return Err(unfit(format!(
            "its journal has {} records, its manifest says {}",
            walked.records, manifest.records
        )));
    }
    sync_tree(fresh)
}

/// The files of a backup that are not data (config, certificates, keys), below its folder.
pub fn extras(manifest: &Manifest) -> impl Iterator<Item = &Copied> {
    manifest.files.iter().filter(|file| !file.path.starts_with(DATA))
}

/// Reads and checks what a backup says of itself.
pub fn read_manifest(dir: &Path) -> Result<Manifest, BackupError> {
    let unfit = |why: String| BackupError::Unfit { dir: dir.to_owned(), why };
    let path = dir.join(MANIFEST);
    let file = File::open(&path).map_err(|error| io_error("cannot read", &path, error))?;
    let mut text = String::new();
    file.take(MAX_MANIFEST_BYTES).read_to_string(&mut text).map_err(|error| io_error("cannot read", &path, error))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| unfit(format!("{MANIFEST} cannot be read: {error}")))?;
    if manifest.format != FORMAT {
        return Err(unfit(format!("it has format {}, this program knows {FORMAT}", manifest.format)));
    }
    let is_within = |file: &Copied| {
        let mut parts = file.path.components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    match manifest.files.iter().find(|file| !is_within(file)) {
        Some(outside) => Err(unfit(format!("it names the file {}, outside of it", outside.path.display()))),
        None => Ok(manifest),
    }
}

/// Copies one file that is not data out of a backup to a new file for its owner alone, checked against the manifest.
pub fn copy_extra(from: &Path, file: &Copied, to: &Path) -> Result<(), BackupError> {
    let out = to.parent().unwrap_or(Path::new("."));
    let name = PathBuf::from(to.file_name().unwrap_or_default());
    let mut copy = Copy { out, files: Vec::new() };
    copy.file(&from.join(&file.path), &name)?;
    match copy.files.last().is_some_and(|copied| copied.sha256 == file.sha256) {
        true => Ok(()),
        false => {
            let why = format!("{} is not the file that was backed up", file.path.display());
            Err(BackupError::Unfit { dir: from.to_owned(), why })
        }
    }
}

/// Files on their way into `out`.
struct Copy<'a> {
    out: &'a Path,
    files: Vec<Copied>,
}

impl Copy<'_> {
    /// Copies a file and notes what it is.
    fn file(&mut self, from: &Path, to: &Path) -> Result<(), BackupError> {
        let target = self.out.join(to);
        if let Some(parent) = target.parent() {
            make_dir(parent)?;
        }
        let mut source = File::open(from).map_err(|error| io_error("cannot read", from, error))?;
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
        let mut new = new.map_err(|error| io_error("cannot make", &target, error))?;
        let (mut bytes, mut hash) = (0, digest::Context::new(&digest::SHA256));
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = source.read(&mut buffer).map_err(|error| io_error("cannot read", from, error))?;
            let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
            new.write_all(part).map_err(|error| io_error("cannot write", &target, error))?;
            hash.update(part);
            bytes += part.len() as u64;
        }
        new.sync_all().map_err(|error| io_error("cannot write", &target, error))?;
        self.files.push(Copied { path: to.to_owned(), bytes, sha256: hex::encode(hash.finish()) });
        Ok(())
    }

    /// As [`Self::file`], for what the gateway may delete meanwhile.
    fn file_if_there(&mut self, from: &Path, to: &Path) -> Result<(), BackupError> {
        match self.file(from, to) {
            Err(BackupError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            copied => copied,
        }
    }

    /// As [`Self::file`], for what may be written meanwhile: the shorter the reading, the less of that is seen.
    fn at_once(&mut self, from: &Path, to: &Path) -> Result<(), BackupError> {
        let target = self.out.join(to);
        let content = std::fs::read(from).map_err(|error| io_error("cannot read", from, error))?;
        let written = target.parent().map_or(Ok(()), make_dir).and_then(|()| {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&target);
            let written = file.and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()));
            written.map_err(|error| io_error("cannot write", &target, error))
        });
        written?;
        self.files.retain(|copied| copied.path != to);
        self.note_content(to, &content);
        Ok(())
    }

    /// Walks the copy of the journal of `data`; its newest segment is read again where need be.
    fn walk_journal(
        &mut self,
        data: &Path,
        stored: &Stored,
        newest: Option<&SegmentFile>,
    ) -> Result<Walked, BackupError> {
        let walk = |data: &Path| recovery::walk(&data.join(journal::DIR), stored, Extent::All, &mut |_, _, _| {});
        let mut more_tries = 0..MORE_TRIES;
        loop {
            match (walk(&self.out.join(DATA)), newest) {
                (Ok(walked), _) => return Ok(walked),
                (Err(_), Some(newest)) if more_tries.next().is_some() => {
                    self.at_once(&newest.path, &below(data, &newest.path))?;
                }
                (Err(error), _) => {
                    // Damage is named where it is.
                    walk(data)?;
                    let why = format!("the journal is whole and its copy is not; try again ({error})");
                    return Err(BackupError::Unfit { dir: self.out.to_owned(), why });
                }
            }
        }
    }

    /// Shortens a file that was copied.
    fn cut(&mut self, to: &Path, bytes: u64) -> Result<(), BackupError> {
        let path = self.out.join(to);
        let file = OpenOptions::new().write(true).open(&path);
        let cut = file.and_then(|file| file.set_len(bytes).and_then(|()| file.sync_all()));
        cut.map_err(|error| io_error("cannot cut", &path, error))?;
        self.files.retain(|copied| copied.path != to);
        self.note(to)
    }

    /// Notes a file that was made or changed in place.
    fn note(&mut self, to: &Path) -> Result<(), BackupError> {
        let path = self.out.join(to);
        let content = std::fs::read(&path).map_err(|error| io_error("cannot read", &path, error))?;
        self.note_content(to, &content);
        Ok(())
    }

    fn note_content(&mut self, to: &Path, content: &[u8]) {
        let sha256 = hex::encode(digest::digest(&digest::SHA256, content));
        self.files.push(Copied { path: to.to_owned(), bytes: content.len() as u64, sha256 });
    }
}

fn below(data: &Path, path: &Path) -> PathBuf {
    Path::new(DATA).join(path.strip_prefix(data).unwrap_or(path))
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("cannot list", dir, error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| io_error("cannot list", dir, error))?.path();
        // What is being made has no name yet that anybody would look for.
        if path.is_file() && path.extension().is_none_or(|extension| extension != "tmp") {
            files.push(path);
        }
    }
    Ok(files)
}

fn write_manifest(out: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let path = out.join(MANIFEST);
    let failed = |error: io::Error| io_error("cannot write", &path, error);
    let text = serde_json::to_string_pretty(manifest).map_err(|error| failed(error.into()))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn is_occupied(dir: &Path) -> Result<bool, BackupError> {
    match std::fs::read_dir(dir) {
        // The lock's file stays behind and says nothing.
        Ok(entries) => Ok(entries.into_iter().any(|entry| entry.map_or(true, |entry| entry.file_name() != lock::FILE))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("cannot use", dir, error)),
    }
}

fn refuse_occupied(dir: &Path) -> Result<(), BackupError> {
    if is_occupied(dir)? {
        return Err(BackupError::NotEmpty(dir.to_owned()));
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("cannot replace", dir, error)),
        _ => Ok(()),
    }
}

/// `dir` with a suffix: on the same file system, so that a rename is all it takes.
fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    dir.with_file_name(name)
}

fn make_dir(path: &Path) -> Result<(), BackupError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| io_error("cannot make", path, error))
}

fn sync_parent(path: &Path) -> Result<(), BackupError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    segment::sync_dir(parent).map_err(|error| io_error("cannot sync", parent, error))
}

/// Makes the names below a folder durable; the files are already.
fn sync_tree(dir: &Path) -> Result<(), BackupError> {
    let entries = std::fs::read_dir(dir).map_err(|error| io_error("cannot list", dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| io_error("cannot list", dir, error))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        }
    }
    segment::sync_dir(dir).map_err(|error| io_error("cannot sync", dir, error))
}
