//! The JSON part of a journal record, written by the caller's thread and read back by queries and the applier.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::frame::Body;
use super::journal::Place;
use super::reader::Raw;
use super::row::InJournal;
use super::view::row_key;
use super::{
    Append, AppendError, ChangedRow, Changes, Idempotency, NewRow, ReadError, Recorded, StorePosition, Table,
    ViewChange,
};
use crate::domain::Principal;

/// The most that events and view changes may take together. A vehicle with every command open and every history full
/// takes a third of a megabyte, and twice that with its folded state.
pub const CONTENT_MAX: usize = 2 * 1024 * 1024;
/// The most that an idempotency key, its body hash and answer may take.
const IDEMPOTENCY_MAX: usize = 128 * 1024;
const STREAM_MAX: usize = 160;
const KEY_MAX: usize = 1024;

#[derive(Serialize)]
struct JsonOut<'a> {
    by: &'a Principal,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idem: Option<AnswerOut<'a>>,
    events: &'a [Box<RawValue>],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    view: Vec<ChangeOut<'a>>,
}

/// Neither a value nor a member: the row is removed.
#[derive(Serialize)]
struct ChangeOut<'a> {
    table: Table,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<(u32, &'a str)>,
}

impl<'a> From<&'a ViewChange> for ChangeOut<'a> {
    fn from(change: &'a ViewChange) -> Self {
        let (value, member) = match &change.row {
            NewRow::Removed => (None, None),
            NewRow::Json(json) => (Some(&**json), None),
            NewRow::OfEvent { event, member } => (None, Some((*event, *member))),
        };
        Self { table: change.table, key: &change.key, value, member }
    }
}

#[derive(Serialize)]
struct AnswerOut<'a> {
    body: &'a str,
    answer: &'a RawValue,
}

/// What queries need; the rest is skipped.
#[derive(Deserialize)]
struct JsonRecorded {
    by: Principal,
    /// Absent in format 1.
    from: Option<IpAddr>,
    events: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct JsonAnswer {
    idem: Option<AnswerIn>,
}

#[derive(Deserialize)]
struct AnswerIn {
    body: String,
    answer: Box<RawValue>,
}

#[derive(Deserialize)]
struct JsonView<'a> {
    #[serde(default, borrow)]
    view: Vec<ChangeIn<'a>>,
}

#[derive(Deserialize)]
struct ChangeIn<'a> {
    table: Table,
    key: String,
    #[serde(default, borrow)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    member: Option<(u32, String)>,
}

#[derive(Deserialize)]
struct JsonEvents<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

/// A change as the view and the snapshots keep it; no value removes the row.
#[derive(Debug)]
pub struct RowChange {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// Writes the body of a step, checking every limit.
pub fn body(step: &Append) -> Result<Vec<u8>, AppendError> {
    if step.stream.is_empty() || step.stream.len() > STREAM_MAX || step.stream.chars().any(char::is_control) {
        return Err(AppendError::TooLarge { limit: STREAM_MAX });
    }
    if step.view.iter().any(|change| change.key.len() > KEY_MAX) {
        return Err(AppendError::TooLarge { limit: KEY_MAX });
    }
    let events: usize = step.events.iter().map(|event| event.get().len()).sum();
    let view: usize = step
        .view
        .iter()
        .map(|change| {
            change.key.len()
                + match &change.row {
                    NewRow::Json(json) => json.get().len(),
                    NewRow::Removed | NewRow::OfEvent { .. } => 0,
                }
        })
        .sum();
    if events + view > CONTENT_MAX {
        return Err(AppendError::TooLarge { limit: CONTENT_MAX });
    }
    let key = step.idempotency.as_ref().map_or("", |idempotency| &idempotency.key);
    if let Some(Idempotency { key, body, answer }) = &step.idempotency {
        if key.is_empty() || key.len() > KEY_MAX {
            return Err(AppendError::TooLarge { limit: KEY_MAX });
        }
        if body.len() + answer.get().len() > IDEMPOTENCY_MAX {
            return Err(AppendError::TooLarge { limit: IDEMPOTENCY_MAX });
        }
    }
    let idem = step.idempotency.as_ref().map(|idem| AnswerOut { body: &idem.body, answer: &idem.answer });
    let json = JsonOut {
        by: &step.by,
        from: step.by.from,
        idem,
        events: &step.events,
        view: step.view.iter().map(Into::into).collect(),
    };
    let mut out = Body::begin(step.at, &step.stream, key, events + view + 256);
    // Writing plain strings, lists and raw values to memory cannot fail; were it to, nothing was stored.
    serde_json::to_writer(&mut out, &json).map_err(|_| AppendError::TooLarge { limit: CONTENT_MAX })?;
    if out.len() > super::frame::MAX_BODY {
        return Err(AppendError::TooLarge { limit: super::frame::MAX_BODY });
    }
    Ok(out)
}

/// Whether a step would fit into the journal, for stores that keep none.
#[cfg(test)]
pub(crate) fn check_size(step: &Append) -> Result<(), AppendError> {
    body(step).map(drop)
}

/// The record as queries give it out.
pub fn recorded(raw: &Raw) -> Result<Recorded, ReadError> {
    let body = parse(raw.frame.number, &raw.body)?;
    let json: JsonRecorded = json(raw.frame.number, body.json)?;
    Ok(Recorded {
        position: StorePosition(raw.frame.number),
        stream: body.stream.to_owned(),
        at: body.at,
        by: Principal { from: json.from, ..json.by },
        events: json.events,
        hash: hex::encode(raw.frame.hash),
    })
}

/// The answer that the record holds for this idempotency key.
pub fn answer(raw: &Raw, key: &str) -> Result<Option<(String, Box<RawValue>)>, ReadError> {
    let body = parse(raw.frame.number, &raw.body)?;
    if body.key != key {
        return Ok(None);
    }
    let json: JsonAnswer = json(raw.frame.number, body.json)?;
    Ok(json.idem.map(|idem| (idem.body, idem.answer)))
}

/// The stream and the view changes of the record at this place.
pub fn view_changes(number: u64, place: Place, bytes: &[u8]) -> Result<(&str, Vec<RowChange>), ReadError> {
    let body = parse(number, bytes)?;
    let json: JsonView<'_> = json(number, body.json)?;
    let change = |change: ChangeIn<'_>| RowChange {
        key: row_key(change.table, &change.key),
        value: match (change.value, change.member) {
            (Some(json), _) => Some(json.get().as_bytes().to_vec()),
            (None, Some((event, member))) => Some(InJournal { number, place, event, member }.to_bytes()),
            (None, None) => None,
        },
    };
    Ok((body.stream, json.view.into_iter().map(change).collect()))
}

/// What the record changed of these tables.
pub fn changes(raw: &Raw, of: &[Table]) -> Result<Changes, ReadError> {
    let number = raw.frame.number;
    let body = parse(number, &raw.body)?;
    let view = json::<JsonView<'_>>(number, body.json)?.view;
    let wanted = view.into_iter().filter(|change| of.contains(&change.table));
    let changed = |change: ChangeIn<'_>| {
        let row = match (change.value, change.member) {
            (Some(json), _) => Some(json.to_owned()),
            (None, Some((event, member))) => Some(row(raw, &InJournal { number, place: raw.place, event, member })?),
            (None, None) => None,
        };
        Ok(ChangedRow { table: change.table, key: change.key, row })
    };
    Ok(Changes { position: StorePosition(number), rows: wanted.map(changed).collect::<Result<_, _>>()? })
}

/// The row that stands in the journal.
pub fn row(raw: &Raw, at: &InJournal) -> Result<Box<RawValue>, ReadError> {
    let body = parse(raw.frame.number, &raw.body)?;
    let events = json::<JsonEvents<'_>>(raw.frame.number, body.json)?.events;
    let members = events
        .get(at.event as usize)
        .map(|event| json::<HashMap<Cow<'_, str>, &RawValue>>(raw.frame.number, event.get().as_bytes()));
    let found = members.transpose()?.and_then(|members| members.get(at.member.as_str()).map(|row| (*row).to_owned()));
    found.ok_or_else(|| {
        ReadError::Damaged(format!("record {}: event {} has no {}", raw.frame.number, at.event, at.member))
    })
}

pub fn parse(number: u64, bytes: &[u8]) -> Result<Body<'_>, ReadError> {
    Body::parse(bytes).map_err(|why| ReadError::Damaged(format!("record {number}: {why}")))
}

fn json<'a, T: Deserialize<'a>>(number: u64, bytes: &'a [u8]) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|error| ReadError::Damaged(format!("record {number}: {error}")))
}
