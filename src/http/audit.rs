//! `/v1/audit`: the journal's records by subject and time, each with its hash, so that anybody can check the chain.

use std::net::IpAddr;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::wire::{Items, PageOf, Query, off_thread, param, reply, time_param};
use crate::domain::{Role, Timestamp};
use crate::store::{ReadError, Recorded, Store, StorePosition};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParams {
    /// A stream like `vehicle/WVW-1`, or with `/` at its end every stream that begins so; absent = all.
    subject: Option<String>,
    /// RFC 3339.
    from: Option<String>,
    /// RFC 3339.
    until: Option<String>,
    /// 1 to 1000; 100 if absent.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// What the page before gave as `next`: a position in the journal.
    after: Option<String>,
    /// `oldest` (if absent) or `newest` first.
    order: Option<String>,
}

/// `{"position":42,"stream":"vehicle/WVW-1","at":"…","by":{"role":"operator","subject":"olga"},"from":"192.0.2.7","events":[{"event":"command_accepted",…}],"hash":"…"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct RecordBody {
    position: u64,
    stream: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    #[schema(value_type = Object)]
    by: crate::domain::Principal,
    /// The address that the request came from, or the car connects from; absent for what the gateway did by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    from: Option<IpAddr>,
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
    /// Hex SHA-256, chained to the record before it.
    hash: String,
}

impl From<Recorded> for RecordBody {
    fn from(record: Recorded) -> Self {
        let Recorded { position, stream, at, by, events, hash } = record;
        Self { position: position.0, stream, at, from: by.from, by, events, hash }
    }
}

/// What of the journal is wanted.
struct Wanted {
    subject: Option<String>,
    from: Timestamp,
    until: Timestamp,
    limit: usize,
}

/// Records looked through for one page, so that a rare subject costs bounded time; the next page goes on from there.
const MAX_LOOKED_THROUGH: usize = 20_000;
const READ_PAGE: usize = 1_000;

impl Wanted {
    fn is(&self, record: &Recorded) -> bool {
        let is_subject = match &self.subject {
            None => true,
            Some(prefix) if prefix.ends_with('/') => record.stream.starts_with(prefix.as_str()),
            Some(stream) => record.stream == *stream,
        };
        is_subject && (self.from..=self.until).contains(&record.at)
    }

    fn page(&self, store: &dyn Store, mut after: StorePosition) -> Result<Items<RecordBody>, ReadError> {
        let mut items: Vec<RecordBody> = Vec::new();
        for _ in 0..MAX_LOOKED_THROUGH / READ_PAGE {
            let records = match &self.subject {
                Some(stream) if !stream.ends_with('/') => store.read(stream, after, READ_PAGE)?,
                Some(_) | None => store.tail(after, READ_PAGE)?,
            };
            let is_last = records.len() < READ_PAGE;
            for record in records {
                after = record.position;
                if self.is(&record) {
                    items.push(record.into());
                }
                if items.len() == self.limit {
                    return Ok(Items { items, next: Some(after.to_string()) });
                }
            }
            if is_last {
                return Ok(Items { items, next: None });
            }
        }
        Ok(Items { items, next: Some(after.to_string()) })
    }

    /// Newest first, those before the record `before`.
    fn page_back(&self, store: &dyn Store, before: Option<StorePosition>) -> Result<Items<RecordBody>, ReadError> {
        let mut before = before.map_or_else(|| store.health().durable.0.saturating_add(1), |before| before.0);
        let mut items: Vec<RecordBody> = Vec::new();
        for _ in 0..MAX_LOOKED_THROUGH / READ_PAGE {
            if before <= 1 {
                return Ok(Items { items, next: None });
            }
            let after = before.saturating_sub(READ_PAGE as u64 + 1);
            let records = store.tail(StorePosition(after), (before - 1 - after) as usize)?;
            let end = before;
            for record in records.into_iter().rev().filter(|record| record.position.0 < end) {
                before = record.position.0;
                if self.is(&record) {
                    items.push(record.into());
                }
                if items.len() == self.limit {
                    return Ok(Items { items, next: (before > 1).then(|| before.to_string()) });
                }
            }
            before = before.min(after + 1);
        }
        Ok(Items { items, next: Some(before.to_string()) })
    }
}

#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditParams),
    responses((status = 200, description = "Oldest first, or newest first where that is asked for", body = Items<RecordBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<AuditParams>) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin, Role::Auditor])?;
    let AuditParams { subject, from, until, limit, after, order } = query.0;
    let page = PageOf::parse(limit.as_deref(), after.as_deref())?;
    let after = param::<u64>("after", page.after.as_deref())?.map(StorePosition);
    let is_newest_first = match order.as_deref() {
        None | Some("oldest") => false,
        Some("newest") => true,
        Some(_) => return Err(Problem::invalid("order", "oldest or newest")),
    };
    if subject.as_ref().is_some_and(|subject| subject.is_empty() || subject.len() > 160) {
        return Err(Problem::invalid("subject", "1 to 160 bytes"));
    }
    let wanted = Wanted {
        subject,
        from: time_param("from", from.as_deref())?.unwrap_or(Timestamp(i64::MIN)),
        until: time_param("until", until.as_deref())?.unwrap_or(Timestamp(i64::MAX)),
        limit: page.limit,
    };
    let store = app.store.clone();
    let read = move || match is_newest_first {
        true => wanted.page_back(&*store, after),
        false => wanted.page(&*store, after.unwrap_or_default()),
    };
    let items = off_thread(read).await??;
    Ok(reply(StatusCode::OK, &items))
}
