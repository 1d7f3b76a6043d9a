//! Crashes at random moments, with ends torn as a power cut tears them, against a model of what was promised.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod store_kit;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cardea::clock::Clock;
use cardea::config::Data;
use cardea::store::{
    Append, AppendError, Expected, LocalStore, NewRow, Order, Store, StorePosition, Table, ViewChange, verify,
};
use store_kit::*;

/// What was promised so far.
#[derive(Debug, Default, Clone)]
struct Model {
    /// Stream and number of each record, by position.
    records: Vec<(String, u64)>,
    ends: HashMap<String, u64>,
    rows: BTreeMap<String, u64>,
    answers: BTreeMap<String, u64>,
}

impl Model {
    fn note(&mut self, step: &Sent) {
        self.records.push((step.stream.clone(), step.n));
        self.ends.insert(step.stream.clone(), self.records.len() as u64);
        match step.row.1 {
            Some(value) => self.rows.insert(step.row.0.clone(), value),
            None => self.rows.remove(&step.row.0),
        };
        if let Some(key) = &step.key {
            self.answers.insert(key.clone(), step.n);
        }
    }

    fn assert_same(&self, store: &LocalStore) {
        assert_eq!(everything(store), self.records);
        for stream in self.ends.keys() {
            let expected: Vec<_> = self.records.iter().filter(|(of, _)| of == stream).map(|(_, n)| *n).collect();
            assert_eq!(numbers(store, stream), expected);
        }
        let page = store.scan(Table::Rentals, "", None, 10_000, Order::Ascending).unwrap();
        let rows: BTreeMap<_, u64> =
            page.rows.into_iter().map(|(key, value)| (key, value.get().parse().unwrap())).collect();
        assert_eq!(rows, self.rows);
        for (key, n) in &self.answers {
            assert_eq!(store.answered(key).unwrap().unwrap().1.get(), format!("{{\"a\":{n}}}"));
        }
    }
}

/// Stream and number of every record, in order.
fn everything(store: &LocalStore) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    loop {
        let page = store.tail(StorePosition(all.len() as u64), 500).unwrap();
        if page.is_empty() {
            return all;
        }
        for record in page {
            let event: serde_json::Value = serde_json::from_str(record.events[0].get()).unwrap();
            all.push((record.stream, event["n"].as_u64().unwrap()));
        }
    }
}

/// What one append asked for, to be noted when it was promised.
#[derive(Debug, Clone)]
struct Sent {
    stream: String,
    n: u64,
    row: (String, Option<u64>),
    key: Option<String>,
}

struct Run {
    seed: u64,
    n: u64,
}

impl Run {
    fn below(&mut self, bound: u64) -> u64 {
        random(&mut self.seed) % bound
    }

    fn step(&mut self, model: &Model) -> (Append, Sent) {
        self.n += 1;
        let n = self.n;
        let stream = format!("s/{}", self.below(5));
        let row = (format!("r{}", self.below(20)), (self.below(4) > 0).then_some(n));
        // Mostly fresh keys, now and then one that was answered.
        let key = match self.below(6) {
            0 => Some(format!("k{}", self.below(n))),
            1 => Some(format!("k{n}")),
            _ => None,
        };
        let mut step = match self.below(10) {
            0 => big_step(&stream, n, self.below(150_000) as usize),
            _ => big_step(&stream, n, self.below(2_000) as usize),
        };
        let new_row = match row.1 {
            Some(_) if self.below(2) == 0 => NewRow::OfEvent { event: 0, member: "n" },
            value => value.map(|value| raw(&value.to_string())).into(),
        };
        step.view = vec![ViewChange { table: Table::Rentals, key: row.0.clone(), row: new_row }];
        if let Some(key) = &key {
            step.idempotency = keyed(&stream, n, key, "body").idempotency;
        }
        if self.below(3) == 0 {
            let end = model.ends.get(&stream).copied().unwrap_or(0);
            let wrong = if self.below(3) == 0 { 1 } else { 0 };
            step.expected = Expected::Last(StorePosition(end + wrong));
        }
        (step, Sent { stream, n, row, key })
    }

    /// Sends a batch and checks each answer against the model, which gets what was promised.
    fn batch(&mut self, store: &LocalStore, model: &mut Model) {
        let steps: Vec<_> = (0..=self.below(20)).map(|_| self.step(model)).collect();
        let appending: Vec<_> =
            steps.into_iter().map(|(step, sent)| (step.expected, store.append(step), sent)).collect();
        for (expected, appending, sent) in appending {
            // The queue keeps the order, so the model knows each answer before it comes.
            let answered = sent.key.as_ref().and_then(|key| model.answers.get(key)).copied();
            let end = model.ends.get(&sent.stream).copied().unwrap_or(0);
            match (wait(appending), answered, expected) {
                (Err(AppendError::Duplicate { answer }), Some(first), _) => {
                    assert_eq!(answer.get(), format!("{{\"a\":{first}}}"));
                }
                (Err(AppendError::Conflict { actual }), None, Expected::Last(expected)) => {
                    assert!(expected.0 != end && actual.0 == end, "{actual:?} {expected:?} {end}");
                }
                (Ok(position), None, expected) => {
                    assert!(expected == Expected::Any || expected == Expected::Last(StorePosition(end)));
                    model.note(&sent);
                    assert_eq!(position.0, model.records.len() as u64);
                }
                (outcome, answered, expected) => panic!("{outcome:?} for {sent:?}, {answered:?}, {expected:?}"),
            }
        }
    }
}

fn newest_segment(dir: &Path) -> PathBuf {
    let paths = std::fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).max().unwrap()
}

/// Where the last byte that is not zero ends; a record ends with a brace.
fn written_end(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Where the records begin that were written after the last sync: each names the newest durable record at its writing.
fn last_batch(bytes: &[u8], from: usize, until: usize) -> usize {
    let number = |at: usize, len: usize| {
        let mut number = [0; 8];
        number[..len].copy_from_slice(&bytes[at..at + len]);
        u64::from_le_bytes(number)
    };
    let (mut at, mut start, mut newest) = (from, from, 0);
    while at < until {
        let durable = number(at + 24, 8);
        if durable > newest {
            (start, newest) = (at, durable);
        }
        at += 64 + number(at + 4, 4) as usize;
    }
    start
}

/// Leaves a random part of one more batch after what was promised: some of its sectors reached the disk, some did not.
/// `later` is the same directory after that batch. Returns false when the batch went to another segment.
fn tear(dir: &Path, later: &Path, run: &mut Run) -> bool {
    let (path, later) = (newest_segment(dir), newest_segment(later));
    if path.file_name() != later.file_name() {
        return false;
    }
    let (synced, bytes) = (written_end(&path), std::fs::read(&later).unwrap());
    let until = written_end(&later);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // The steps may have shared more than one sync; only the records of the last can be torn.
    let from = last_batch(&bytes, synced, until);
    file.write_all_at(&bytes[synced..from], synced as u64).unwrap();
    let chance = run.below(4);
    let mut at = from;
    while at < until {
        let next = ((at / 512 + 1) * 512).min(until);
        if run.below(4) <= chance {
            file.write_all_at(&bytes[at..next], at as u64).unwrap();
        }
        at = next;
    }
    if run.below(4) == 0 {
        let junk: Vec<u8> = (0..run.below(600)).map(|_| run.below(256) as u8).collect();
        file.write_all_at(&junk, until as u64).unwrap();
    }
    true
}

fn walk(seed: u64) {
    println!("seed {seed:#x}");
    let mut run = Run { seed, n: 0 };
    let mut dir = scratch();
    let mut model = Model::default();
    let mut torn = 0;
    for _ in 0..12 {
        if run.below(3) == 0 {
            // The view is lost and made again from snapshots and the journal.
            let _ = std::fs::remove_dir_all(dir.path().join("view"));
        }
        let store = LocalStore::open(&Data { snapshot_every_records: 50, ..data(dir.path()) }, Clock::start()).unwrap();
        model.assert_same(&store);
        for _ in 0..run.below(6) {
            run.batch(&store, &mut model);
        }
        match run.below(4) {
            0 => store.close(),
            1 => model.assert_same(&store),
            2 => {}
            _ => {
                // A power cut in the next batch: what is on disk now is promised, of the batch some sectors are there.
                let cut = scratch();
                copy_dir(dir.path(), cut.path());
                let mut after = model.clone();
                run.batch(&store, &mut after);
                if tear(cut.path(), dir.path(), &mut run) {
                    drop(store);
                    let store = open(cut.path());
                    let kept = store.health().durable.0 as usize;
                    assert!(kept >= model.records.len(), "kept {kept} of {} promised", model.records.len());
                    assert_eq!(everything(&store), after.records[..kept]);
                    torn += 1;
                    // Go on from the torn state only where the model is known exactly.
                    if kept == model.records.len() {
                        model.assert_same(&store);
                        drop(store);
                        dir = cut;
                        continue;
                    }
                    drop(store);
                }
                model = after;
            }
        }
    }
    drop(open(dir.path()));
    assert_eq!(verify(dir.path()).unwrap().records, model.records.len() as u64);
    println!("{} records, {torn} torn ends", model.records.len());
}

#[test]
fn promises_survive_random_crashes_and_torn_ends() {
    let first = std::env::var("CARDEA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    for seed in first..first + 6 {
        walk(seed);
    }
}
