//! From a single machine's journal into the cluster's stream: every record under its own number and with its own hash, so that
//! the chain, and what was signed of it, stays as it was.
//!
//! It goes on where the stream ends, so that it may be interrupted, and serves servers that lost what a copy still has.

use std::path::Path;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;

use super::super::frame::Body;
use super::super::head;
use super::super::lock::Lock;
use super::super::recovery::{self, Extent};
use super::super::{OpenError, journal};
use super::engine::{Engine, Published, StreamState};
use super::safety;
use crate::clock::Stopwatch;
use crate::config::Config;

/// Records on their way at once, and their bytes.
const AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;
/// How long servers that elect a leader are waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
const AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Hex id of the journal.
    pub journal: String,
    pub records: u64,
    /// Of them, those that the stream did not have yet.
    pub sent: u64,
    /// Hex SHA-256 of the newest record.
    pub last_hash: String,
}

struct Record {
    number: u64,
    durable: u64,
    stream: String,
    body: Bytes,
}

/// Copies what the stream lacks. No gateway may use the data directory meanwhile, and none may write to the stream: one that
/// does is noticed, and ends this. Blocks, and must not be called on a runtime's thread. `told` hears how many are done.
pub fn migrate(config: &Config, told: &mut dyn FnMut(u64)) -> Result<Migrated, OpenError> {
    let dir = &config.data.dir;
    let _lock = Lock::take(dir)?;
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| OpenError::io("cannot start threads for", dir, &error))?;
    let journals = dir.join(journal::DIR);
    let stored = head::read(dir).map_err(|error| OpenError::io("cannot read", dir, &error))?;
    if !recovery::exists(&journals)? {
        return Err(OpenError::missing(&journals, "there is nothing to migrate"));
    }
    // Looked through whole before anything is sent.
    let walked = recovery::walk(&journals, &stored, Extent::All, &mut |_, _, _| {})?;
    let (engine, stream) = runtime.block_on(async {
        let engine = Engine::connect(&config.cluster).await?;
        safety::check(&config.cluster).await?;
        let stream = engine.open_stream(&config.cluster, walked.id, walked.last).await?;
        Ok::<_, OpenError>((engine, stream))
    })?;
    check_journal(dir, walked.id, &stream)?;
    let mut sending = Sending { engine: &engine, runtime: &runtime, window: Vec::new(), bytes: 0, failed: None };
    recovery::walk(&journals, &stored, Extent::All, &mut |_, frame, body| {
        if sending.failed.is_some() {
            return;
        }
        if frame.number == stream.last.min(walked.last) {
            sending.compare(frame.number, body);
        } else if frame.number > stream.last {
            sending.add(frame.number, frame.durable, body);
            told(frame.number);
        }
    })?;
    sending.flush();
    if let Some(error) = sending.failed {
        return Err(error);
    }
    Ok(Migrated {
        journal: hex::encode(walked.id),
        records: walked.last,
        sent: walked.last.saturating_sub(stream.last),
        last_hash: hex::encode(walked.hash),
    })
}

fn check_journal(dir: &Path, id: [u8; 16], stream: &StreamState) -> Result<(), OpenError> {
    if stream.journal == id {
        return Ok(());
    }
    let why = format!(
        "it is the journal {}, and the stream was made for {}: a cluster is begun by the journal of one machine only",
        hex::encode(id),
        hex::encode(stream.journal)
    );
    Err(OpenError::missing(dir, why))
}

struct Sending<'a> {
    engine: &'a Engine,
    runtime: &'a tokio::runtime::Runtime,
    window: Vec<Record>,
    bytes: usize,
    failed: Option<OpenError>,
}

impl Sending<'_> {
    /// Where the stream ends, it must say what the journal says.
    fn compare(&mut self, number: u64, body: &[u8]) {
        match self.runtime.block_on(self.engine.record(number)) {
            Ok(theirs) if theirs == body => {}
            Ok(_) => {
                let why = format!(
                    "record {number} of its stream is another than in the journal here: either is another \
                           fleet's, or somebody else writes to the stream"
                );
                self.failed = Some(OpenError::Engine(why));
            }
            Err(why) => self.failed = Some(OpenError::Engine(format!("record {number} cannot be compared: {why}"))),
        }
    }

    fn add(&mut self, number: u64, durable: u64, body: &[u8]) {
        let stream = match Body::parse(body) {
            Ok(parsed) => parsed.stream.to_owned(),
            Err(why) => {
                self.failed = Some(OpenError::Engine(format!("record {number} cannot be sent: {why}")));
                return;
            }
        };
        self.bytes += body.len();
        self.window.push(Record { number, durable, stream, body: Bytes::copy_from_slice(body) });
        if self.window.len() >= AT_ONCE || self.bytes >= BYTES_AT_ONCE {
            self.flush();
        }
    }

    /// Sends the window in its order; what did not get through goes again, from where the stream ends then.
    fn flush(&mut self) {
        let (mut window, watch) = (std::mem::take(&mut self.window), Stopwatch::start());
        self.bytes = 0;
        while !window.is_empty() && self.failed.is_none() {
            let sends = window
                .iter()
                .map(|record| self.engine.copy(&record.stream, record.number, record.durable, record.body.clone()));
            let published = self.runtime.block_on(join_all(sends));
            if let Some(refusal) = published.iter().find_map(refusal) {
                self.failed = Some(refusal);
                return;
            }
            match self.runtime.block_on(self.engine.state()) {
                Ok(state) => {
                    // What stands there without our having heard so may be somebody else's.
                    let answers = window.iter().zip(&published);
                    let unsure = answers.filter(|(record, answer)| {
                        record.number <= state.last && **answer != Published::Stored(record.number)
                    });
                    for (record, _) in unsure.collect::<Vec<_>>() {
                        self.compare(record.number, &record.body);
                    }
                    window.retain(|record| record.number > state.last);
                }
                Err(why) => tracing::warn!(why, "the stream does not say how far it is"),
            }
            if watch.elapsed() > PATIENCE {
                self.failed = Some(OpenError::Engine("its servers take no records".into()));
            } else if !window.is_empty() {
                self.runtime.block_on(tokio::time::sleep(AGAIN));
            }
        }
    }
}

/// What no repeat mends.
fn refusal(published: &Published) -> Option<OpenError> {
    match published {
        Published::NoRoom => Some(OpenError::Engine("its servers have no room".into())),
        Published::TooLarge => Some(OpenError::Engine("a record is larger than its servers take".into())),
        Published::Stored(_)
        | Published::Duplicate(_)
        | Published::WrongLast(_)
        | Published::Away
        | Published::Unsure => None,
    }
}
