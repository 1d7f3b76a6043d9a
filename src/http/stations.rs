//! `/v1/stations`: the directory that gives a purchase its place, by hand or imported whole.

mod body;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod import;
mod mapping;

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::App;
use super::access::Caller;
use super::cards::{READERS, WRITERS, field};
use super::error::{Problem, ProblemBody, Slug};
use super::wire::{
    Items, Json, PageOf, Query, announced_length, idempotency, off_thread, param, path_id, read_body, reply,
};
use crate::actors::card_guard::{Edit, Edited, NewStation, StationImport};
use crate::domain::Position;
use crate::domain::card::{Station, StationId, normal_name};
pub use body::{Imported, NewStationBody, StationBody, StationChangeBody, StationPage};
use import::Parsed;
use mapping::Mapping;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    limit: Option<String>,
    after: Option<String>,
    near: Option<String>,
    radius_m: Option<String>,
    q: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    format: Option<String>,
    columns: Option<String>,
    mapping: Option<String>,
    force: Option<String>,
}

/// The directory of a large country with long names.
const MAX_IMPORT_BYTES: usize = 32 * 1024 * 1024;
const DEFAULT_RADIUS_M: f64 = 5_000.0;
const MAX_RADIUS_M: f64 = 100_000.0;
const MAX_SEARCH_CHARS: usize = 128;
/// Stations looked at in one go; the directory is free for others in between.
const SEARCHED_AT_ONCE: usize = 2_000;

#[utoipa::path(get, path = "/v1/stations", tag = "stations",
    description = "In the order of their ids; with `near=latitude,longitude` those within `radius_m` (5000 if absent, \
        at most 100000), nearest first and each with its `distance_m`; with `q` those whose name, brand, city or id \
        has that in it, whatever its case and accents.",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query), ("near" = Option<String>, Query),
        ("radius_m" = Option<f64>, Query), ("q" = Option<String>, Query)),
    responses((status = 200, body = StationPage)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<ListQuery>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let ListQuery { limit, after, near, radius_m, q } = query.0;
    let PageOf { limit, after } = PageOf::parse(limit.as_deref(), after.as_deref())?;
    if near.is_some() && (after.is_some() || q.is_some()) {
        return Err(Problem::invalid("near", "neither after nor q go with it"));
    }
    if let Some(near) = near {
        return list_near(&app, &near, radius_m.as_deref(), limit);
    }
    if radius_m.is_some() {
        return Err(Problem::invalid("radius_m", "it goes with near"));
    }
    let after = after.map(|after| field::<StationId>("after", &after)).transpose()?;
    let mut stations = match q {
        None => app.guard.stations(after.as_ref(), limit + 1),
        Some(text) => search(&app, &text, after, limit + 1).await?,
    };
    let is_more = stations.len() > limit;
    stations.truncate(limit);
    let next = stations.last().filter(|_| is_more).map(|station| station.station_id.to_string());
    let items = stations.iter().map(|station| StationBody::from(&**station)).collect();
    Ok(reply(StatusCode::OK, &Items::<StationBody> { items, next }))
}

fn list_near(app: &App, near: &str, radius_m: Option<&str>, limit: usize) -> Result<HttpResponse, Problem> {
    let degrees = |text: &str| text.trim().parse::<f64>().ok();
    let position = near.split_once(',').and_then(|(latitude, longitude)| {
        Some(Position { latitude: degrees(latitude)?, longitude: degrees(longitude)? })
    });
    let position = position.filter(|position| position.is_valid());
    let position = position.ok_or_else(|| Problem::invalid("near", "latitude,longitude in degrees"))?;
    let radius_m = param::<f64>("radius_m", radius_m)?.unwrap_or(DEFAULT_RADIUS_M);
    if !(0.0..=MAX_RADIUS_M).contains(&radius_m) {
        return Err(Problem::invalid("radius_m", format!("0 to {MAX_RADIUS_M}")));
    }
    let found = app.guard.stations_near(position, radius_m, limit);
    // To the decimetre: more would claim what nobody measured.
    let body = |(station, distance_m): &(Arc<Station>, f64)| StationBody {
        distance_m: Some((distance_m * 10.0).round() / 10.0),
        ..StationBody::from(&**station)
    };
    Ok(reply(StatusCode::OK, &Items::<StationBody> { items: found.iter().map(body).collect(), next: None }))
}

/// Looks at every station, so off the server's threads.
async fn search(
    app: &App,
    text: &str,
    mut after: Option<StationId>,
    limit: usize,
) -> Result<Vec<Arc<Station>>, Problem> {
    let (wanted, id_part) = (normal_name(text), text.to_ascii_lowercase());
    if wanted.is_empty() || text.chars().count() > MAX_SEARCH_CHARS {
        return Err(Problem::invalid("q", format!("1 to {MAX_SEARCH_CHARS} characters, a letter or digit among them")));
    }
    let guard = app.guard.clone();
    off_thread(move || {
        let is_wanted = |station: &Station| {
            let texts = [Some(&station.name), station.brand.as_ref(), station.city.as_ref()];
            texts.into_iter().flatten().any(|text| normal_name(text).contains(&wanted))
                || station.station_id.as_str().to_ascii_lowercase().contains(&id_part)
        };
        let mut found = Vec::new();
        while found.len() < limit {
            let some = guard.stations(after.as_ref(), SEARCHED_AT_ONCE);
            let Some(last) = some.last() else { break };
            after = Some(last.station_id.clone());
            found.extend(some.into_iter().filter(|station| is_wanted(station)));
        }
        found.truncate(limit);
        found
    })
    .await
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
    let station = NewStation::try_from(body.value)?;
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
    let edited = app.guard.edit(Edit::ChangeStation(id, body.value.into()), caller.principal, None).await?;
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
        file again changes nothing, what a file does not say stays as it was, and a position set by hand stays unless \
        `force=true`. `columns` maps our names to the file's, like `station_id:id,name:brand,latitude:lat,\
        longitude:lon`; also `brand`, `network_id`, `terminal_id`, `postal_code`, `city`, `country`, `time_zone` and \
        `is_offline_batch`. `mapping` names a file of the folder `card_guard.station_mappings`, which says the same \
        and more. In GeoJSON a line is a feature's number, and the names are properties. Prices and all other columns \
        are ignored.",
    params(("format" = Option<String>, Query, description = "csv or geojson; not needed where the mapping says it"),
        ("columns" = Option<String>, Query), ("mapping" = Option<String>, Query), ("force" = Option<bool>, Query)),
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
    let ImportQuery { format, columns, mapping, force } = query.0;
    let force = param::<bool>("force", force.as_deref())?.unwrap_or(false);
    let mut mapping = match mapping {
        Some(name) => {
            let folder = app.config.card_guard.station_mappings.clone();
            off_thread(move || Mapping::read(folder.as_deref(), &name)).await??
        }
        None => Mapping::default(),
    };
    mapping.refine(format.as_deref(), columns.as_deref())?;
    // Held until the answer: it bounds the bodies in memory.
    let _turn = app.guard.import_turn().ok_or_else(|| {
        Problem::new(Slug::TooManyRequests, "other imports are under way; nothing happened").retry_after(5)
    })?;
    let body = read_body(payload, announced_length(&request), MAX_IMPORT_BYTES).await?;
    let Parsed { stations, rejected, rejected_total } = off_thread(move || import::parse(&body, &mapping)).await??;
    let without_position = stations.iter().filter(|station| station.position.is_none()).count();
    let import = StationImport { stations, force };
    match app.guard.edit(Edit::ImportStations(import), caller.principal, None).await? {
        Edited::Imported { imported, updated, kept_manual, shared_positions } => {
            let answer = Imported {
                imported,
                updated,
                rejected,
                rejected_total,
                without_position,
                shared_positions,
                kept_manual,
            };
            Ok(reply(StatusCode::OK, &answer))
        }
        other => station_of(other).and(Err(Problem::internal("edit", &"an import led to something else"))),
    }
}

fn station_of(edited: Edited) -> Result<StationBody, Problem> {
    let Edited::Station(station) = edited else {
        return Err(Problem::internal("edit", &"an edit of a station led to something else"));
    };
    Ok(StationBody::from(&station))
}
