//! What the notifier keeps over a restart: rows of [`Table::Notifications`], all written in checkpoints.
//!
//! A checkpoint says «everything up to here in the journal was delivered, is dead, or is in these rows», in one record.
//! So the common case (everything is delivered at once) costs one small record every few seconds, and a crash at worst
//! tells a few seconds of notifications twice.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::escalation::{Escalation, Watched};
use super::outbox::{DeadLetter, Delivery, Outbox, Row, Stored};
use crate::domain::{Principal, Timestamp};
use crate::store::{Append, AppendError, Expected, NewRow, Order, ReadError, Store, StorePosition, Table, ViewChange};

pub const STREAM: &str = "notifier";
const CURSOR: &str = "cursor";
const WAITING: &str = "waiting/";
const DEAD: &str = "dead/";
const WATCHED: &str = "watched/";
/// Of the 2 MiB that a record may have.
const MAX_RECORD_BYTES: usize = 1024 * 1024;
const PAGE: usize = 500;

#[derive(Serialize, Deserialize)]
struct Cursor {
    position: StorePosition,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Kept {
    /// The newest record of what was kept, or older; whoever keeps on from it finds out if it is.
    pub version: StorePosition,
    /// `None` = there was no earlier run.
    pub cursor: Option<StorePosition>,
    pub waiting: Vec<Delivery>,
    pub dead: Vec<DeadLetter>,
    pub watched: Vec<Watched>,
}

/// Reads what an earlier run left; blocks.
pub fn load(store: &dyn Store) -> Result<Kept, ReadError> {
    // Before the rows: what comes between is found out by the next append.
    let version = store.newest(STREAM)?;
    let cursor = store.get_here(Table::Notifications, CURSOR)?.and_then(|row| parse::<Cursor>(CURSOR, &row));
    Ok(Kept {
        version,
        cursor: cursor.map(|cursor| cursor.position),
        waiting: rows(store, WAITING)?,
        dead: rows(store, DEAD)?,
        watched: rows(store, WATCHED)?,
    })
}

pub async fn load_off_thread(store: &Arc<dyn Store>) -> Result<Kept, ReadError> {
    let reading = Arc::clone(store);
    let loading = tokio::task::spawn_blocking(move || load(&*reading)).await;
    loading.unwrap_or_else(|error| Err(ReadError::Unavailable(format!("the reading task died: {error}"))))
}

fn rows<T: DeserializeOwned>(store: &dyn Store, prefix: &str) -> Result<Vec<T>, ReadError> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = store.scan(Table::Notifications, prefix, after.as_deref(), PAGE, Order::Ascending)?;
        all.extend(page.rows.iter().filter_map(|(key, row)| parse::<T>(key, row)));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

/// One row that cannot be read is told of and left: it must not keep the others from being delivered.
fn parse<T: DeserializeOwned>(key: &str, row: &RawValue) -> Option<T> {
    serde_json::from_str(row.get())
        .inspect_err(|error| tracing::error!(key, %error, "a row of the notifier cannot be read"))
        .ok()
}

/// Makes everything durable that changed, the cursor last. What was stored before an error stays stored; the rest is
/// still to be stored. `version` is the newest record of this kind, and stays so: another gateway that kept something since
/// makes it a conflict.
pub async fn checkpoint(
    store: &dyn Store,
    now: Timestamp,
    version: &mut StorePosition,
    cursor: StorePosition,
    outbox: &mut Outbox,
    escalation: &mut Escalation,
) -> Result<(), AppendError> {
    let mut rows: Vec<(Change, ViewChange)> = Vec::new();
    for (row, content) in outbox.changes() {
        let value = content.and_then(|content| match content {
            Stored::Waiting(delivery) => raw(delivery),
            Stored::Dead(letter) => raw(letter),
        });
        let key = match row {
            Row::Waiting(id) => format!("{WAITING}{id}"),
            Row::Dead(id) => format!("{DEAD}{id}"),
        };
        rows.push((Change::Outbox(row), change(key, value)));
    }
    for (id, watched) in escalation.changes() {
        let value = watched.and_then(raw);
        rows.push((Change::Watched(id.to_owned()), change(format!("{WATCHED}{id}"), value)));
    }
    let mut rows = rows.into_iter().peekable();
    loop {
        let (mut view, mut changes, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((what, row)) = rows.next_if(|_| bytes < MAX_RECORD_BYTES) {
            let json = if let NewRow::Json(json) = &row.row { Some(json) } else { None };
            bytes += row.key.len() + json.map_or(0, |json| json.get().len());
            changes.push((what, json.is_some()));
            view.push(row);
        }
        let is_last = rows.peek().is_none();
        if is_last {
            view.push(change(CURSOR.to_owned(), raw(&Cursor { position: cursor })));
        }
        let event = json!({"event": "notifications_kept", "position": cursor, "rows": changes.len()});
        *version = append(store, now, Expected::Last(*version), &event, view).await?;
        settle(outbox, escalation, changes);
        if is_last {
            return Ok(());
        }
    }
}

/// Which part a row is of.
enum Change {
    Outbox(Row),
    Watched(String),
}

fn settle(outbox: &mut Outbox, escalation: &mut Escalation, changes: Vec<(Change, bool)>) {
    for (change, is_there) in changes {
        match change {
            Change::Outbox(row) => outbox.stored(&[(row, is_there)]),
            Change::Watched(id) => escalation.stored(&[(id, is_there)]),
        }
    }
}

/// Nobody is told any more: the next time somebody is, it begins anew and does not tell of all the time between.
pub async fn forget_cursor(store: &dyn Store, now: Timestamp) -> Result<(), AppendError> {
    let event = json!({"event": "notifications_stopped"});
    append(store, now, Expected::Any, &event, vec![change(CURSOR.to_owned(), None)]).await.map(drop)
}

async fn append(
    store: &dyn Store,
    now: Timestamp,
    expected: Expected,
    event: &serde_json::Value,
    view: Vec<ViewChange>,
) -> Result<StorePosition, AppendError> {
    let event = raw(event).into_iter().collect();
    let step = Append {
        stream: STREAM.into(),
        expected,
        fence: None,
        at: now,
        by: Principal::gateway(),
        idempotency: None,
        events: event,
        view,
    };
    store.append(step).await
}

fn change(key: String, value: Option<Box<RawValue>>) -> ViewChange {
    ViewChange { table: Table::Notifications, key, row: value.into() }
}

fn raw<T: Serialize>(value: &T) -> Option<Box<RawValue>> {
    to_raw_value(value).inspect_err(|error| tracing::error!(%error, "a row of the notifier has no JSON form")).ok()
}
