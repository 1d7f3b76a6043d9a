//! `/v1/stations`: the directory that gives a purchase its place, by hand or imported whole.

mod import;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::auth::Caller;
use super::cards::{PageQuery, READERS, WRITERS, field, present};
use super::error::{Problem, ProblemBody, Slug};
use super::wire::{Items, Json, PageOf, Query, announced_length, idempotency, off_thread, path_id, read_body, reply};
use crate::actors::card_guard::{Edit, Edited, NewStation, StationChange};
use crate::domain::Position;
use crate::domain::card::{Station, StationId, Terminal};
use import::Columns;
pub use import::Rejected;

/// `{"station_id":"it-4711","name":"Agip Eni","position":{"latitude":45.07,"longitude":7.68},
/// "terminals":[{"network_id":"1234567890","terminal_id":"99"}]}`
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StationBody {
    pub station_id: String,
    pub name: String,
    /// null = not known: the location check is unknown then.
    pub position: Option<PositionBody>,
    pub terminals: Vec<TerminalBody>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PositionBody {
    pub latitude: f64,
    pub longitude: f64,
}

/// What the payment network calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalBody {
    pub network_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStationBody {
    /// Made if absent.
    pub station_id: Option<String>,
    pub name: String,
    pub position: Option<PositionBody>,
    #[serde(default)]
    pub terminals: Vec<TerminalBody>,
}

/// What is absent stays as it is; `"position":null` forgets the position.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StationChangeBody {
    pub name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<PositionBody>)]
    pub position: Option<Option<PositionBody>>,
    pub terminals: Option<Vec<TerminalBody>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct StationPage {
    pub items: Vec<StationBody>,
    pub next: Option<String>,
}

/// `{"imported":23966,"updated":0,"rejected":[{"line":17,"reason":"9 fields, the header has 8"}]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct Imported {
    /// New in the directory.
    pub imported: usize,
    /// In the directory before, and now as in the file.
    pub updated: usize,
    pub rejected: Vec<Rejected>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    format: Option<String>,
    columns: Option<String>,
}

/// The directory of a large country with long names.
const MAX_IMPORT_BYTES: usize = 32 * 1024 * 1024;

#[utoipa::path(get, path = "/v1/stations", tag = "stations",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = StationPage)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<PageQuery>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let PageOf { limit, after } = query.0.page()?;
    let after = after.map(|after| field::<StationId>("after", &after)).transpose()?;
    let mut stations = app.guard.stations(after.as_ref(), limit + 1);
    let is_more = stations.len() > limit;
    stations.truncate(limit);
    let next = stations.last().filter(|_| is_more).map(|station| station.station_id.to_string());
    let items = stations.iter().map(|station| StationBody::from(&**station)).collect();
    Ok(reply(StatusCode::OK, &Items::<StationBody> { items, next }))
}

#[utoipa::path(post, path = "/v1/stations", tag = "stations", request_body = NewStationBody, responses(
    (status = 201, body = StationBody),
    (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    (status = 409, body = ProblemBody, content_type = "application/problem+json"),
    (status = 422, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn add(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    body: Json<NewStationBody>,
) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let key = idempotency(&request, &caller, "stations", &body.hash)?;
    let NewStationBody { station_id, name, position, terminals } = body.value;
    let station = NewStation {
        station_id: station_id.map(|id| field("station_id", &id)).transpose()?,
        name,
        position: position.map(Into::into),
        terminals: terminals.into_iter().map(Into::into).collect(),
    };
    let edited = app.guard.edit(Edit::AddStation(station), caller.principal, key).await?;
    Ok(reply(StatusCode::CREATED, &station_of(edited)?))
}

#[utoipa::path(get, path = "/v1/stations/{id}", tag = "stations", params(("id" = String, Path)), responses(
    (status = 200, body = StationBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn get(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let id: StationId = path_id(&request, "id", "station")?;
    let station = app.guard.station(&id).ok_or_else(|| Problem::not_found("station"))?;
    Ok(reply(StatusCode::OK, &StationBody::from(&*station)))
}

#[utoipa::path(patch, path = "/v1/stations/{id}", tag = "stations", params(("id" = String, Path)),
    request_body = StationChangeBody, responses(
    (status = 200, body = StationBody),
    (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn change(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    body: Json<StationChangeBody>,
) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let id = path_id(&request, "id", "station")?;
    let StationChangeBody { name, position, terminals } = body.value;
    let change = StationChange {
        name,
        position: position.map(|position| position.map(Into::into)),
        terminals: terminals.map(|terminals| terminals.into_iter().map(Into::into).collect()),
    };
    let edited = app.guard.edit(Edit::ChangeStation(id, change), caller.principal, None).await?;
    Ok(reply(StatusCode::OK, &station_of(edited)?))
}

#[utoipa::path(delete, path = "/v1/stations/{id}", tag = "stations", params(("id" = String, Path)), responses(
    (status = 204, description = "Gone"),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn remove(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let id = path_id(&request, "id", "station")?;
    app.guard.edit(Edit::RemoveStation(id), caller.principal, None).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[utoipa::path(post, path = "/v1/stations/import", tag = "stations",
    description = "Adds or updates every station of a file; what cannot be taken is answered line by line. The same \
        file again changes nothing. `columns` maps our names to the file's, like `station_id:id,name:brand,\
        latitude:lat,longitude:lon`; also `network_id` and `terminal_id`. In GeoJSON a line is a feature's number, and \
        the names are properties.",
    params(("format" = String, Query, description = "csv or geojson"), ("columns" = Option<String>, Query)),
    request_body(content = String, content_type = "text/csv"),
    responses(
        (status = 200, body = Imported),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn import(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    query: Query<ImportQuery>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let ImportQuery { format, columns } = query.0;
    let columns = Columns::parse(columns.as_deref().unwrap_or(""))?;
    let parse = match format.as_deref() {
        Some("csv") => import::csv,
        Some("geojson") => import::geojson,
        Some(_) | None => return Err(Problem::invalid("format", "csv or geojson")),
    };
    // Held until the answer: it bounds the bodies in memory.
    let _turn = app.guard.import_turn().ok_or_else(|| {
        Problem::new(Slug::TooManyRequests, "other imports are under way; nothing happened").retry_after(5)
    })?;
    let body = read_body(payload, announced_length(&request), MAX_IMPORT_BYTES).await?;
    let import::Parsed { stations, rejected } = off_thread(move || parse(&body, &columns)).await??;
    match app.guard.edit(Edit::ImportStations(stations), caller.principal, None).await? {
        Edited::Imported { imported, updated } => Ok(reply(StatusCode::OK, &Imported { imported, updated, rejected })),
        other => station_of(other).and(Err(Problem::internal("edit", &"an import led to something else"))),
    }
}

fn station_of(edited: Edited) -> Result<StationBody, Problem> {
    let Edited::Station(station) = edited else {
        return Err(Problem::internal("edit", &"an edit of a station led to something else"));
    };
    Ok(StationBody::from(&station))
}

impl From<&Station> for StationBody {
    fn from(station: &Station) -> Self {
        let terminal = |terminal: &Terminal| TerminalBody {
            network_id: terminal.network_id.clone(),
            terminal_id: terminal.terminal_id.clone(),
        };
        Self {
            station_id: station.station_id.to_string(),
            name: station.name.clone(),
            position: station.position.map(|Position { latitude, longitude }| PositionBody { latitude, longitude }),
            terminals: station.terminals.iter().map(terminal).collect(),
        }
    }
}

impl From<PositionBody> for Position {
    fn from(PositionBody { latitude, longitude }: PositionBody) -> Self {
        Self { latitude, longitude }
    }
}

impl From<TerminalBody> for Terminal {
    fn from(TerminalBody { network_id, terminal_id }: TerminalBody) -> Self {
        Self { network_id, terminal_id }
    }
}
