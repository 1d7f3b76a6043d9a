//! What every handler parses the same way: JSON bodies, path ids, query parameters, pages, idempotency keys.
//!
//! Used by all subjects. It knows no business; every mistake of a caller leaves as a [`Problem`] that names the field.

mod strict;

use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;

use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, dev, web};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::App;
use super::access::{Caller, sha256};
use super::error::{Problem, Slug, shown};
use super::vehicles::ListParams;
use crate::actors::vehicle::IdempotencyKey;
use crate::domain::{Malformed, Timestamp, VehicleId};
use crate::store::{Order, Page, Table};
use strict::Strict;

/// A body as it came, within `http.max_body_bytes`. Subjects that take other forms than JSON use this.
pub struct RawBody(pub web::Bytes);

impl FromRequest for RawBody {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let limit = request.app_data::<web::Data<App>>().map_or(DEFAULT_MAX_BODY, |app| app.config.http.max_body_bytes);
        let announced = announced_length(request);
        let payload = web::Payload::from_request(request, payload);
        Box::pin(async move {
            let payload = payload.await.map_err(|error| Problem::internal("payload", &error))?;
            read_body(payload, announced, limit).await.map(Self)
        })
    }
}

/// Reads a whole body of at most `limit` bytes. A slow sender is cut off after [`BODY_TIMEOUT`].
pub async fn read_body(payload: web::Payload, announced: Option<u64>, limit: usize) -> Result<web::Bytes, Problem> {
    let too_large = || Problem::new(Slug::TooLarge, format!("the body may have {limit} bytes"));
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, payload.to_bytes_limited(limit)).await {
        Err(_) => Err(Problem::new(Slug::RequestTimeout, "the body did not come in time")),
        Ok(Err(_)) => Err(too_large()),
        Ok(Ok(Err(_))) => Err(Problem::new(Slug::Invalid, "the body ended before it was whole")),
        Ok(Ok(Ok(bytes))) => Ok(bytes),
    }
}

const DEFAULT_MAX_BODY: usize = 256 * 1024;

const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);

/// `Content-Length`, when it says something.
pub fn announced_length(request: &HttpRequest) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A JSON body of one type, with the hash that an idempotency key is bound to.
pub struct Json<T> {
    pub value: T,
    /// Hex SHA-256 over the path, the query and the raw body.
    pub hash: String,
}

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        if !is_json(request) {
            return Box::pin(async {
                Err(Problem::new(Slug::UnsupportedMediaType, "Content-Type: application/json is needed"))
            });
        }
        let path = request.path().to_owned();
        let body = RawBody::from_request(request, payload);
        Box::pin(async move {
            let RawBody(bytes) = body.await?;
            Ok(Self { value: parse_json(&bytes)?, hash: body_hash(&path, &bytes) })
        })
    }
}

fn is_json(request: &HttpRequest) -> bool {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Parses one JSON document; the problem names the field.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Keeping the path for an error costs as much as the parsing, so that it is done only where there is one.
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    if let Ok(value) = T::deserialize(Strict(&mut reader))
        && reader.end().is_ok()
    {
        return Ok(value);
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Strict(&mut reader)).map_err(|error| {
        let path = error.path().to_string();
        invalid_field(&path, &error.into_inner().to_string())
    })?;
    reader.end().map_err(|_| Problem::new(Slug::Invalid, "more than one JSON document in the body"))?;
    Ok(value)
}

/// serde names unknown and missing fields in back-quotes, and the path where it stopped otherwise.
fn invalid_field(path: &str, text: &str) -> Problem {
    let quoted = text
        .strip_prefix("unknown field `")
        .or_else(|| text.strip_prefix("missing field `"))
        .and_then(|rest| rest.split('`').next());
    let field = match (path, quoted) {
        ("." | "?", Some(name)) => Some(name.to_owned()),
        ("." | "?", None) => None,
        (path, Some(name)) if path == name || path.ends_with(&format!(".{name}")) => Some(path.to_owned()),
        (path, Some(name)) => Some(format!("{path}.{name}")),
        (path, None) => Some(path.to_owned()),
    };
    let detail: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    Problem { field: field.map(|field| shown(&field)), ..Problem::new(Slug::Invalid, detail) }
}

pub fn body_hash(path: &str, body: &[u8]) -> String {
    let mut all = Vec::with_capacity(path.len() + 1 + body.len());
    all.extend_from_slice(path.as_bytes());
    all.push(b'\n');
    all.extend_from_slice(body);
    hex::encode(sha256(&all))
}

/// The idempotency key of a request, scoped by caller and route; `None` when the caller gave none.
///
/// `route` is the route's name, like `commands`; `hash` comes from [`Json::hash`] or [`body_hash`].
pub fn idempotency(
    request: &HttpRequest,
    caller: &Caller,
    route: &str,
    hash: &str,
) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = request.headers().get_all("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    let bad = || Problem::invalid("Idempotency-Key", "1 to 255 printable ASCII characters, once");
    let text = value.to_str().map_err(|_| bad())?;
    let is_fit = (1..=255).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !is_fit || values.next().is_some() {
        return Err(bad());
    }
    let subject = &caller.principal.subject;
    Ok(Some(IdempotencyKey { key: format!("{subject}/{route}/{text}"), body: hash.to_owned() }))
}

/// A path segment as an id; a malformed id cannot exist, so it is 404.
pub fn path_id<T: FromStr<Err = Malformed>>(request: &HttpRequest, name: &str, what: &str) -> Result<T, Problem> {
    request.match_info().get(name).and_then(|text| text.parse().ok()).ok_or_else(|| Problem::not_found(what))
}

/// The registered vehicle that the path names.
pub fn path_vehicle(app: &App, request: &HttpRequest) -> Result<VehicleId, Problem> {
    let vehicle: VehicleId = path_id(request, "id", "vehicle")?;
    if app.fleet.is_registered(&vehicle) { Ok(vehicle) } else { Err(Problem::not_found("vehicle")) }
}

/// A placeholder of the path as it was written; the caller looks it up among what it knows.
pub fn path_text(request: &HttpRequest, name: &str) -> String {
    request.match_info().get(name).unwrap_or_default().to_owned()
}

/// The query string as `T` (`deny_unknown_fields`, all fields `Option<String>`; read them with [`param`]).
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        let parsed = web::Query::<T>::from_query(request.query_string()).map(|query| Self(query.into_inner()));
        std::future::ready(parsed.map_err(|error| match error {
            actix_web::error::QueryPayloadError::Deserialize(inner) => invalid_field(".", &inner.to_string()),
            _ => Problem::new(Slug::Invalid, "the query string is not valid"),
        }))
    }
}

/// One optional query parameter.
pub fn param<T: FromStr>(name: &str, value: Option<&str>) -> Result<Option<T>, Problem>
where
    T::Err: std::fmt::Display,
{
    value.map(|text| text.parse().map_err(|error: T::Err| Problem::invalid(name, error.to_string()))).transpose()
}

/// `?limit=&after=`.
#[derive(Debug, Clone, PartialEq)]
pub struct PageOf {
    pub limit: usize,
    pub after: Option<String>,
}

pub const MAX_PAGE: usize = 1_000;
const DEFAULT_PAGE: usize = 100;

impl PageOf {
    pub fn parse(limit: Option<&str>, after: Option<&str>) -> Result<Self, Problem> {
        let limit = param::<usize>("limit", limit)?.unwrap_or(DEFAULT_PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::invalid("limit", format!("1 to {MAX_PAGE}")));
        }
        if after.is_some_and(|after| after.is_empty() || after.len() > 256 || after.chars().any(char::is_control)) {
            return Err(Problem::invalid("after", "what the list before gave as next"));
        }
        Ok(Self { limit, after: after.map(str::to_owned) })
    }
}

/// One page of a list, e.g. `{"items":[…],"next":"…"}`; `next` is null at the end.
#[derive(Debug, Serialize, ToSchema)]
pub struct Items<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// A page of a table of the view, read off the server's threads.
pub async fn scan(app: &App, table: Table, page: PageOf, order: Order) -> Result<Page, Problem> {
    let store = app.store.clone();
    off_thread(move || store.scan(table, "", page.after.as_deref(), page.limit, order)).await?.map_err(Into::into)
}

/// Pages read for one list whose rows are mostly not the caller's; the rest comes with the next page.
const MAX_SCANS: usize = 20;

/// A table's rows, newest first, as far as `show` shows them.
pub async fn list_rows<T: DeserializeOwned, B>(
    app: &App,
    table: Table,
    params: &ListParams,
    show: impl Fn(T) -> Option<B>,
) -> Result<Items<B>, Problem> {
    let PageOf { limit, mut after } = PageOf::parse(params.limit.as_deref(), params.after.as_deref())?;
    let mut items = Vec::new();
    // Most callers see every row: then the first read is enough, and its last row tells that there are more.
    let mut rows_to_read = limit + 1;
    for _ in 0..MAX_SCANS {
        let page = scan(app, table, PageOf { limit: rows_to_read, after: after.take() }, Order::Descending).await?;
        rows_to_read = MAX_PAGE;
        let mut rows = page.rows.into_iter().peekable();
        while let Some((key, row)) = rows.next() {
            items.extend(show(parse_row(&row)?));
            if items.len() == limit {
                let is_more = rows.peek().is_some() || page.next.is_some();
                return Ok(Items { items, next: is_more.then_some(key) });
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(Items { items, next: after })
}

/// Runs `work` for each item, at most `in_flight` at once; the results are in the items' order.
pub async fn each<T, R, F>(items: Vec<T>, in_flight: usize, work: impl Fn(T) -> F) -> Result<Vec<R>, Problem>
where
    F: Future<Output = R> + Send + 'static,
    R: Send + 'static,
{
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(items.len(), || None);
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = items.into_iter().enumerate();
    loop {
        while running.len() < in_flight.max(1) {
            let Some((index, item)) = waiting.next() else { break };
            let task = work(item);
            running.spawn(async move { (index, task.await) });
        }
        match running.join_next().await {
            Some(Ok((index, result))) => results[index] = Some(result),
            Some(Err(error)) => return Err(Problem::internal("one of many", &error)),
            None => break,
        }
    }
    Ok(results.into_iter().flatten().collect())
}

/// One row of the view, parsed.
pub async fn row<T: DeserializeOwned + Send + 'static>(
    app: &App,
    table: Table,
    key: String,
) -> Result<Option<T>, Problem> {
    let store = app.store.clone();
    let row = off_thread(move || store.get(table, &key)).await??;
    row.map(|row| parse_row(&row)).transpose()
}

pub fn parse_row<T: DeserializeOwned>(row: &serde_json::value::RawValue) -> Result<T, Problem> {
    serde_json::from_str(row.get()).map_err(|error| Problem::internal("view row", &error))
}

/// Runs what blocks away from the server's threads.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    web::block(work).await.map_err(|error| Problem::internal("blocking task", &error))
}

pub fn reply<T: Serialize>(status: StatusCode, body: &T) -> HttpResponse {
    HttpResponse::build(status).json(body)
}

/// The request's `Accept`, in lower case; absent = `*/*`.
pub fn accept(request: &HttpRequest) -> String {
    let value = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    value.unwrap_or("*/*").to_ascii_lowercase()
}

/// A time from a query parameter.
pub fn time_param(name: &str, value: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    param::<Timestamp>(name, value)
}
