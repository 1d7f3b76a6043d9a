//! Follows the tail of the store, so that memory which was read from it at start learns what other gateways recorded since.
//!
//! In a cluster the follower alone writes such memory, record by record in the journal's order: whoever appended waits until
//! the follower has passed their record ([`Followed::has`]), so that no older row comes over a newer one, whoever wrote
//! which. A machine that is alone has no follower: it is the only writer, and puts into memory what it appended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::metrics::{Count, Metrics, Reading};
use crate::store::{ChangedRow, Expected, ReadError, Store, StorePosition, Table};

/// Records read at once.
const PAGE: usize = 1_000;
/// After the store could not be read, or a part broke.
const AGAIN: Duration = Duration::from_millis(500);
/// Whoever appended waits so long for memory to have it; it comes there all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a part does with a row that somebody recorded, itself included; called in the journal's order, off the actors'
/// threads, and never for two rows at once. A row that cannot be read is an error; nothing waits for it.
pub type Take = Box<dyn Fn(&ChangedRow) -> Result<(), ReadError> + Send + Sync>;

/// Is something that only one gateway of a cluster does this one's to do now? Always yes on a machine that is alone. It keeps
/// work from being done twice; that nothing breaks where two think so is up to whoever does it.
pub type IsMine = Arc<dyn Fn() -> bool + Send + Sync>;

/// The follower before it runs: parts are added as they load their memory.
pub struct Follower {
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    after: StorePosition,
    tables: Vec<Table>,
    parts: Vec<(&'static [Table], Take)>,
}

struct Progress {
    store: Arc<dyn Store>,
    passed: watch::Sender<StorePosition>,
    rows: Count,
    unreadable: Count,
    failed: Count,
}

/// How far memory follows; cheap to clone. The default is that of a machine that is alone.
#[derive(Clone, Default)]
pub struct Followed(Option<Arc<Progress>>);

impl Follower {
    /// From what is durable now. To be made before any part reads its memory.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let after = store.health().durable;
        let passed = watch::Sender::new(after);
        let (rows, unreadable, failed) = Default::default();
        let progress = Arc::new(Progress { store: Arc::clone(&store), passed, rows, unreadable, failed });
        Self { store, progress, after, tables: Vec::new(), parts: Vec::new() }
    }

    pub fn followed(&self) -> Followed {
        Followed(Some(Arc::clone(&self.progress)))
    }

    /// Hands these tables' rows to a part.
    pub fn add(&mut self, tables: &'static [Table], take: Take) {
        self.tables.extend(tables.iter().filter(|table| !self.tables.contains(table)).collect::<Vec<_>>());
        self.parts.push((tables, take));
    }

    /// For as long as the store lives. A page that could not be read, or that broke a part, is taken again: every row is
    /// handed on at least once.
    pub async fn run(self) {
        let Self { store, progress, mut after, tables, parts } = self;
        let mut news = store.news();
        let work = Arc::new((tables, parts));
        loop {
            news.borrow_and_update();
            let (store, at, of) = (Arc::clone(&store), Arc::clone(&progress), Arc::clone(&work));
            let page = tokio::task::spawn_blocking(move || take_page(&*store, &at, after, &of.0, &of.1)).await;
            match page.unwrap_or_else(|error| Err(ReadError::Unavailable(format!("a part broke: {error}")))) {
                Ok(position) if position > after => {
                    after = position;
                    progress.passed.send_replace(position);
                }
                Ok(_) if news.changed().await.is_ok() => {}
                Ok(_) => return,
                Err(error) => {
                    progress.failed.inc();
                    tracing::error!(%error, after = after.0, "memory does not follow the store; it is tried again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// Blocks. Returns how far it came.
fn take_page(
    store: &dyn Store,
    progress: &Progress,
    after: StorePosition,
    tables: &[Table],
    parts: &[(&'static [Table], Take)],
) -> Result<StorePosition, ReadError> {
    let page = store.changes(after, PAGE, tables)?;
    for changes in &page {
        for row in &changes.rows {
            progress.rows.inc();
            for (_, take) in parts.iter().filter(|(tables, _)| tables.contains(&row.table)) {
                if let Err(error) = take(row) {
                    // As at a start it would be a row that keeps the gateway from starting; here it must not stop the others.
                    progress.unreadable.inc();
                    tracing::error!(table = ?row.table, key = row.key, %error, "a row is not in memory");
                }
            }
        }
        progress.passed.send_replace(changes.position);
    }
    Ok(page.last().map_or(after, |changes| changes.position))
}

impl Followed {
    /// Is there nobody else who writes?
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// False on a machine that is alone: whoever appended puts it into memory. True when the follower has done so, or will.
    pub async fn has(&self, position: StorePosition) -> bool {
        let Some(progress) = &self.0 else { return false };
        let mut passed = progress.passed.subscribe();
        let reached = passed.wait_for(|passed| *passed >= position);
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            tracing::warn!(position = position.0, "memory does not have yet what was recorded");
        }
        true
    }

    /// What an append that changes what memory shows now must expect of its stream, so that it changes nothing that it has
    /// not seen. To be asked before memory is.
    pub async fn expected(&self, stream: &str) -> Result<Expected, ReadError> {
        let Some(progress) = &self.0 else { return Ok(Expected::Any) };
        let (store, stream) = (Arc::clone(&progress.store), stream.to_owned());
        let newest = tokio::task::spawn_blocking(move || store.newest(&stream)).await;
        let newest = newest.unwrap_or_else(|_| Err(ReadError::Unavailable("a reading task died".into())))?;
        self.has(newest).await;
        Ok(Expected::Last(newest))
    }

    /// After an append found that somebody else wrote the stream: false where that cannot be, else when memory knows it.
    pub async fn caught_up(&self, actual: StorePosition) -> bool {
        let Some(progress) = &self.0 else { return false };
        // An engine may not say which record it was.
        let actual = if actual.0 == u64::MAX { progress.store.health().durable } else { actual };
        self.has(actual).await
    }

    /// Shows how far memory follows at `/metrics`; nothing on a machine that is alone.
    pub fn register(&self, metrics: &Metrics) {
        let Some(progress) = self.0.clone() else { return };
        metrics.register(move || {
            let behind = progress.store.health().durable.0.saturating_sub(progress.passed.borrow().0);
            vec![
                Reading::gauge("follower_behind", "Records that memory does not know yet", behind as f64),
                Reading::counter("follower_rows", "Rows handed to memory", progress.rows.get()),
                Reading::counter("follower_unreadable", "Rows that memory could not take", progress.unreadable.get()),
                Reading::counter("follower_failed", "Times the store could not be followed", progress.failed.get()),
            ]
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::value::to_raw_value;

    use super::*;
    use crate::clock::Clock;
    use crate::config::Data;
    use crate::domain::{Principal, Timestamp};
    use crate::store::{Append, LocalStore, NewRow, ViewChange};

    fn step(rows: &[(Table, &str, Option<u32>)]) -> Append {
        let change = |(table, key, value): &(Table, &str, Option<u32>)| ViewChange {
            table: *table,
            key: (*key).into(),
            row: value.map(|value| to_raw_value(&value).unwrap()).into(),
        };
        let member = ViewChange {
            table: Table::Decisions,
            key: "d".into(),
            row: NewRow::OfEvent { event: 0, member: "decision" },
        };
        Append {
            stream: "s".into(),
            expected: Expected::Any,
            fence: None,
            at: Timestamp(1),
            by: Principal::gateway(),
            idempotency: None,
            events: vec![to_raw_value(&serde_json::json!({"decision": 7})).unwrap()],
            view: rows.iter().map(change).chain([member]).collect(),
        }
    }

    type Seen = (Table, String, Option<String>);

    /// Its part breaks once in the middle of a page, and what is recorded while it rests is not lost either.
    #[tokio::test]
    async fn every_row_since_the_start_comes_in_order_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(&Data { dir: dir.path().to_owned(), ..Data::default() }, Clock::start()).unwrap();
        store.append(step(&[(Table::Cards, "before", Some(0))])).await.unwrap();
        let mut follower = Follower::new(store.clone());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (heard, breaks) = (Arc::clone(&seen), AtomicBool::new(true));
        follower.add(
            &[Table::Cards, Table::Decisions],
            Box::new(move |row| {
                assert!(row.key != "c5" || !breaks.swap(false, Ordering::Relaxed), "breaks once");
                let json = row.row.as_ref().map(|row| row.get().to_owned());
                heard.lock().unwrap().push((row.table, row.key.clone(), json));
                Ok(())
            }),
        );
        let followed = follower.followed();
        // Between the start of the memory and that of the follower.
        store.append(step(&[(Table::Cards, "early", Some(1)), (Table::Users, "u", Some(1))])).await.unwrap();
        tokio::spawn(follower.run());
        let mut last = StorePosition(0);
        for number in 0..10 {
            let key = format!("c{number}");
            last = store.append(step(&[(Table::Cards, &key, Some(number))])).await.unwrap();
        }
        assert!(followed.has(last).await);
        let removed = store.append(step(&[(Table::Cards, "c9", None)])).await.unwrap();
        assert!(followed.has(removed).await);
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let mut cards: Vec<_> = seen.iter().filter(|row| row.0 == Table::Cards).collect();
        cards.dedup();
        assert_eq!(
            cards.first().map(|row| row.1.as_str()),
            Some("early"),
            "what was there before was read by the part"
        );
        let mut expected: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
        expected.push("c9".into());
        // What was handed on before the break comes again, so that only the last of each counts.
        for key in &expected {
            assert!(cards.iter().any(|row| row.1 == *key), "{key}");
        }
        assert_eq!(cards.last().map(|row| (row.1.as_str(), &row.2)), Some(("c9", &None)));
        let decision = seen.iter().find(|row| row.0 == Table::Decisions).expect("its row stands in an event");
        assert_eq!(decision.2.as_deref(), Some("7"));
        assert!(seen.iter().all(|row| row.0 != Table::Users));
        assert_eq!(followed.expected("s").await.unwrap(), Expected::Last(removed));
        assert_eq!(followed.expected("nobody wrote it").await.unwrap(), Expected::Last(StorePosition(0)));
        store.close();
    }

    #[tokio::test]
    async fn a_machine_that_is_alone_waits_for_nothing_and_expects_nothing() {
        let alone = Followed::default();
        assert!(alone.is_alone() && !alone.has(StorePosition(9)).await && !alone.caught_up(StorePosition(9)).await);
        assert_eq!(alone.expected("s").await.unwrap(), Expected::Any);
    }
}
