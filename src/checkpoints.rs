//! Witnesses of the journal outside of it: from time to time a line with its length and newest hash, signed by the
//! fleet's signing key.
//!
//! The hash chain shows that nothing in a journal was changed on its own; who can write to the disk can make a whole new
//! chain, or cut the journal together with its head file. Neither agrees with a checkpoint that lies where they cannot
//! write. One line of the file is `{"at","journal","records","hash","kid","signature"}`; what is signed is
//! [`Checkpoint::text`]. It reads the store and decides nothing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signature;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::store::{self, OpenError, Passed, Store, StorePosition, Verified};
use crate::token::{CHECKPOINT_PREFIX, Keyset, Signer};

/// A line of the file, as it stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub at: Timestamp,
    /// Hex id of the journal.
    pub journal: String,
    pub records: u64,
    /// Hex SHA-256 of the record with that number.
    pub hash: String,
    /// Base64url of the signing key's name, as in `/v1/keyset`.
    pub kid: String,
    /// Base64url of Ed25519 over [`Checkpoint::text`].
    pub signature: String,
}

/// Why the journal and its checkpoints do not agree, or could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("the checkpoints {} cannot be read: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("line {line} of the checkpoints {} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, line: usize, why: String },
    #[error(
        "the journal is not what was witnessed: {why} (line {line} of {}, signed {at}). If an older backup was put back \
         on purpose, keep that file for the auditors and begin a new one",
        path.display()
    )]
    Disagrees { path: PathBuf, line: usize, at: Timestamp, why: String },
}

impl Checkpoint {
    /// What is signed.
    pub fn text(&self) -> String {
        let Self { at, journal, records, hash, .. } = self;
        format!("{CHECKPOINT_PREFIX}{journal}\n{records}\n{hash}\n{at}\n")
    }

    fn sign(at: Timestamp, journal: &str, records: u64, hash: String, signer: &Signer) -> Self {
        let kid = URL_SAFE_NO_PAD.encode(signer.kid());
        let unsigned = Self { at, journal: journal.to_owned(), records, hash, kid, signature: String::new() };
        let signature = URL_SAFE_NO_PAD.encode(signer.sign_checkpoint(&unsigned.text()));
        Self { signature, ..unsigned }
    }

    fn check(&self, keyset: &Keyset) -> Result<(), &'static str> {
        let kid = URL_SAFE_NO_PAD.decode(&self.kid).map_err(|_| "its kid is not base64url")?;
        let key = keyset.get(&kid).ok_or("it is signed by a key that is not the fleet's")?;
        let signature = URL_SAFE_NO_PAD.decode(&self.signature).map_err(|_| "its signature is not base64url")?;
        let signature = Signature::from_slice(&signature).map_err(|_| "its signature is no Ed25519 signature")?;
        key.verify_strict(self.text().as_bytes(), &signature).map_err(|_| "its signature does not fit")
    }
}

/// The checkpoints of one file, each checked for its signature, by the record they witness.
#[derive(Debug, Default)]
pub struct Witnesses {
    path: PathBuf,
    by_record: BTreeMap<u64, Vec<(usize, Checkpoint)>>,
    count: usize,
    /// The first that does not agree.
    disagrees: Option<CheckpointError>,
}

impl Witnesses {
    /// A line is some 300 bytes.
    const MAX_LINE: usize = 4096;

    /// Reads the file. A line that was begun only is the trace of a crash, and no witness.
    pub fn read(path: &Path, keyset: &Keyset) -> Result<Self, CheckpointError> {
        let failed = |error: io::Error| CheckpointError::Io { path: path.to_owned(), error };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut witnesses = Self { path: path.to_owned(), ..Self::default() };
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            io::Read::take(&mut file, Self::MAX_LINE as u64).read_until(b'\n', &mut text).map_err(failed)?;
            if text.last() != Some(&b'\n') && text.len() < Self::MAX_LINE {
                break;
            }
            let damaged =
                |why: &dyn ToString| CheckpointError::Damaged { path: path.to_owned(), line, why: why.to_string() };
            let checkpoint: Checkpoint = match serde_json::from_slice(text.trim_ascii_end()) {
                Ok(checkpoint) => checkpoint,
                // What a crash left of a line, closed by the next one that was written.
                Err(error) if error.is_eof() => continue,
                Err(error) => return Err(damaged(&error)),
            };
            checkpoint.check(keyset).map_err(|why| damaged(&why))?;
            witnesses.by_record.entry(checkpoint.records).or_default().push((line, checkpoint));
            witnesses.count += 1;
        }
        Ok(witnesses)
    }

    /// To be told of every record of the journal, in order.
    pub fn saw(&mut self, record: u64, hash: &[u8; 32]) {
        let Some(here) = self.by_record.remove(&record) else { return };
        let hash = hex::encode(hash);
        for (line, checkpoint) in here {
            if checkpoint.hash != hash {
                self.disagree(line, &checkpoint, format!("record {record} is another one"));
            }
        }
    }

    /// After the last record: how many checkpoints there are, if the journal is what all of them say.
    pub fn agree(mut self, journal: &str, records: u64) -> Result<usize, CheckpointError> {
        let beyond: Vec<_> = std::mem::take(&mut self.by_record).into_values().flatten().collect();
        for (line, checkpoint) in beyond {
            let why = match checkpoint.journal == journal {
                true => format!("it had {} records then and has {records} now", checkpoint.records),
                false => format!("it was the journal {} then and is {journal} now", checkpoint.journal),
            };
            self.disagree(line, &checkpoint, why);
        }
        match self.disagrees {
            Some(error) => Err(error),
            None => Ok(self.count),
        }
    }

    fn disagree(&mut self, line: usize, checkpoint: &Checkpoint, why: String) {
        let is_earlier = match &self.disagrees {
            Some(CheckpointError::Disagrees { line: known, .. }) => line < *known,
            _ => true,
        };
        if is_earlier {
            let (path, at) = (self.path.clone(), checkpoint.at);
            self.disagrees = Some(CheckpointError::Disagrees { path, line, at, why });
        }
    }
}

/// What is wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Journal(#[from] OpenError),
    #[error(transparent)]
    Witnesses(#[from] CheckpointError),
}

/// Walks the whole chain of the journal in the data directory `data` and compares it with `witnesses` (read before: what
/// is witnessed after the walk began may lie beyond its end); their number comes with what was found. `watch` is told of
/// every record. Blocks.
pub fn verify(
    data: &Path,
    mut witnesses: Option<Witnesses>,
    watch: &mut dyn FnMut(Passed<'_>),
) -> Result<(Verified, Option<usize>), Fault> {
    let verified = store::verify_watched(data, &mut |passed| {
        if let Some(witnesses) = &mut witnesses {
            witnesses.saw(passed.record, passed.hash);
        }
        watch(passed);
    })?;
    let agreed = witnesses.map(|witnesses| witnesses.agree(&verified.journal, verified.records)).transpose()?;
    Ok((verified, agreed))
}

/// How long after it became durable a record is witnessed: by then the head file knows it, and whoever verifies beside
/// the running gateway gets that far.
pub const SETTLED: Duration = Duration::from_secs(1);

/// Witnesses the journal of the running gateway.
pub struct Checkpoints {
    path: PathBuf,
    /// Hex id.
    journal: String,
    store: Arc<dyn Store>,
    signer: Arc<Signer>,
    clock: Clock,
    /// The record that the newest checkpoint of this process witnesses.
    last: Mutex<u64>,
}

impl Checkpoints {
    pub fn new(path: PathBuf, journal: String, store: Arc<dyn Store>, signer: Arc<Signer>, clock: Clock) -> Self {
        Self { path, journal, store, signer, clock, last: Mutex::default() }
    }

    /// Witnesses what is durable once every `every`, as long as the runtime lives.
    pub async fn follow(self: Arc<Self>, every: Duration) {
        let mut turns = tokio::time::interval(every);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let record = self.store.health().durable.0;
            tokio::time::sleep(SETTLED).await;
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.witness(record)).await {
                tracing::error!(%error, "the journal could not be witnessed");
            }
        }
    }

    /// Witnesses all that is durable; blocks. For the gateway's end.
    pub fn witness_all(&self) {
        self.witness(self.store.health().durable.0);
    }

    /// Nobody waits for it: what fails is logged, and the next turn tries again.
    fn witness(&self, record: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if record == 0 || record == *last {
            return;
        }
        match self.append(record) {
            Ok(()) => *last = record,
            Err(error) => tracing::error!(error, "the journal could not be witnessed"),
        }
    }

    fn append(&self, record: u64) -> Result<(), String> {
        let found = self.store.tail(StorePosition(record - 1), 1).map_err(|error| error.to_string())?;
        let found = found.first().ok_or("the record cannot be read")?;
        let checkpoint = Checkpoint::sign(self.clock.now(), &self.journal, record, found.hash.clone(), &self.signer);
        let line = serde_json::to_string(&checkpoint).map_err(|error| error.to_string())?;
        append_line(&self.path, &line).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path)?;
    // What a crash left of a line must not become the beginning of this one.
    let text = if ends_a_line(&file)? { format!("{line}\n") } else { format!("\n{line}\n") };
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn ends_a_line(file: &File) -> io::Result<bool> {
    let len = file.metadata()?.len();
    let Some(last) = len.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Signer;

    fn line(signer: &Signer, records: u64, hash: [u8; 32]) -> String {
        let checkpoint = Checkpoint::sign(Timestamp(1_000), "aa", records, hex::encode(hash), signer);
        serde_json::to_string(&checkpoint).expect("JSON")
    }

    fn read(lines: &str, signer: &Signer) -> Result<Witnesses, CheckpointError> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("checkpoints");
        std::fs::write(&path, lines).expect("written");
        Witnesses::read(&path, &signer.keyset())
    }

    fn disagreement(error: CheckpointError) -> (usize, String) {
        match error {
            CheckpointError::Disagrees { line, why, .. } => (line, why),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_journal_that_was_cut_or_written_anew_is_found_out() {
        let signer = Signer::from_seed(&[1; 32], "cardea");
        let lines = [line(&signer, 2, [2; 32]), line(&signer, 5, [5; 32])].join("\n") + "\n";
        let walk = |last: u64, forged: Option<u64>| {
            let mut witnesses = read(&lines, &signer).expect("good lines");
            for record in 1..=last {
                let hash = if forged.is_some_and(|from| record >= from) { [0; 32] } else { [record as u8; 32] };
                witnesses.saw(record, &hash);
            }
            witnesses.agree("aa", last)
        };
        assert_eq!(walk(9, None).expect("the same journal"), 2);
        assert_eq!(walk(9, Some(6)).expect("what nobody witnessed"), 2);
        assert_eq!(disagreement(walk(9, Some(4)).unwrap_err()), (2, "record 5 is another one".into()));
        assert_eq!(disagreement(walk(9, Some(1)).unwrap_err()).0, 1);
        assert_eq!(disagreement(walk(4, None).unwrap_err()), (2, "it had 5 records then and has 4 now".into()));
        let other = read(&lines, &signer).expect("good lines").agree("bb", 0);
        assert_eq!(disagreement(other.unwrap_err()).1, "it was the journal aa then and is bb now");
    }

    #[test]
    fn only_the_fleet_s_keys_witness_and_every_changed_character_is_noticed() {
        let signer = Signer::from_seed(&[1; 32], "cardea");
        let whole = line(&signer, 7, [7; 32]);
        assert!(read(&format!("{whole}\n"), &signer).is_ok());
        assert!(read(&format!("{whole}\n"), &Signer::from_seed(&[2; 32], "cardea")).is_err());
        let content = |text: &str| serde_json::from_str::<Checkpoint>(text).ok();
        for place in 0..whole.len() {
            let mut changed = whole.clone().into_bytes();
            changed[place] ^= 1;
            let Ok(changed) = String::from_utf8(changed) else { continue };
            // The last character of base64 has bits that say nothing; a decoder may or may not mind them.
            if content(&changed) != content(&whole) {
                // One that looks begun only is no witness; whoever can do that could take the line away as well.
                let witnesses = read(&format!("{changed}\n"), &signer).map_or(0, |witnesses| witnesses.count);
                assert_eq!(witnesses, 0, "byte {place}: {changed}");
            }
        }
    }

    #[test]
    fn a_line_that_was_only_begun_is_no_witness_and_spoils_no_other() {
        let signer = Signer::from_seed(&[1; 32], "cardea");
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("checkpoints");
        std::fs::write(&path, &line(&signer, 1, [1; 32])[..40]).expect("written");
        let torn = Witnesses::read(&path, &signer.keyset()).expect("a torn line is no fault");
        assert_eq!(torn.count, 0);
        append_line(&path, &line(&signer, 3, [3; 32])).expect("appended");
        append_line(&path, &line(&signer, 4, [4; 32])).expect("appended");
        let read = Witnesses::read(&path, &signer.keyset()).expect("the others are whole");
        assert_eq!((read.count, read.by_record.keys().copied().collect::<Vec<_>>()), (2, vec![3, 4]));
    }
}
