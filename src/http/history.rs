//! `/v1/vehicles/{id}/history`: where a car was, as JSON, GeoJSON or CSV.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::vehicles::READERS;
use super::wire::{Query, off_thread, param, path_vehicle, time_param};
use crate::domain::twin::path;
use crate::domain::{Timestamp, VehicleId};
use crate::store::Observation;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryParams {
    /// RFC 3339; a day before `until` if absent.
    from: Option<String>,
    /// RFC 3339; now if absent.
    until: Option<String>,
    /// `json` (if absent), `geojson` or `csv`.
    format: Option<String>,
    /// 1 to 20000 points; 5000 if absent.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
}

const MAX_POINTS: usize = 20_000;
const DEFAULT_POINTS: usize = 5_000;
const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Json,
    GeoJson,
    Csv,
}

/// One point of the track: what changed since the one before.
#[derive(Debug, Serialize, ToSchema)]
pub struct PointBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// By COVESA VSS path: `{"value":…,"at":"…"}`.
    #[schema(value_type = Object)]
    signals: Box<serde_json::value::RawValue>,
}

/// `{"items":[{"at":"…","signals":{"Vehicle.Speed":{"value":50,"at":"…"}}}],"next":null}`; `next` is the `from` of the
/// next page.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryBody {
    items: Vec<PointBody>,
    #[schema(value_type = Option<String>, format = DateTime)]
    next: Option<Timestamp>,
}

#[utoipa::path(get, path = "/v1/vehicles/{id}/history", tag = "vehicles", params(("id" = String, Path), HistoryParams),
    responses((status = 200, body = HistoryBody, description = "Oldest first. A `Link: …; rel=\"next\"` header leads on",
        content((HistoryBody = "application/json"), (Value = "application/geo+json"), (String = "text/csv")))))]
pub async fn get(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    query: Query<HistoryParams>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let vehicle = path_vehicle(&app, &request)?;
    let until = time_param("until", query.0.until.as_deref())?.unwrap_or_else(|| app.clock.now());
    let from = time_param("from", query.0.from.as_deref())?.unwrap_or_else(|| until.plus_ms(-DAY_MS));
    let limit = param::<usize>("limit", query.0.limit.as_deref())?.unwrap_or(DEFAULT_POINTS);
    if !(1..=MAX_POINTS).contains(&limit) {
        return Err(Problem::invalid("limit", format!("1 to {MAX_POINTS}")));
    }
    let format = match query.0.format.as_deref() {
        None | Some("json") => Format::Json,
        Some("geojson") => Format::GeoJson,
        Some("csv") => Format::Csv,
        Some(_) => return Err(Problem::invalid("format", "json, geojson or csv")),
    };
    let (store, id) = (app.store.clone(), vehicle.clone());
    let mut points = off_thread(move || store.observations(&id, from, until, limit + 1)).await??;
    let next = if points.len() > limit { points.pop().map(|point| point.at) } else { None };
    Ok(answer(&vehicle, format, points, next, until, limit))
}

fn answer(
    vehicle: &VehicleId,
    format: Format,
    points: Vec<Observation>,
    next: Option<Timestamp>,
    until: Timestamp,
    limit: usize,
) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    if let Some(next) = next {
        let name = match format {
            Format::Json => "json",
            Format::GeoJson => "geojson",
            Format::Csv => "csv",
        };
        let link = format!(
            "</v1/vehicles/{vehicle}/history?from={next}&until={until}&format={name}&limit={limit}>; rel=\"next\""
        );
        answer.insert_header(("Link", link));
    }
    match format {
        Format::Json => {
            let items = points.into_iter().map(|point| PointBody { at: point.at, signals: point.signals }).collect();
            answer.json(HistoryBody { items, next })
        }
        Format::GeoJson => {
            answer.content_type("application/geo+json").body(geojson(vehicle, &Track::of(&points)).to_string())
        }
        Format::Csv => answer
            .content_type("text/csv; charset=utf-8")
            .insert_header(("Content-Disposition", format!("attachment; filename=\"{vehicle}.csv\"")))
            .body(csv(&Track::of(&points))),
    }
}

/// The newest value of what a track shows, carried from point to point.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct TrackPoint {
    latitude: Option<f64>,
    longitude: Option<f64>,
    accuracy_m: Option<f64>,
    speed_kmh: Option<f64>,
    odometer_km: Option<f64>,
    fuel_percent: Option<f64>,
}

struct Track(Vec<(Timestamp, TrackPoint)>);

#[derive(Deserialize)]
struct StoredSignal {
    value: Value,
}

impl Track {
    fn of(points: &[Observation]) -> Self {
        let mut newest = TrackPoint::default();
        let mut track = Vec::with_capacity(points.len());
        for point in points {
            // A point of ours always parses; one that does not changes nothing.
            let signals: BTreeMap<String, StoredSignal> = serde_json::from_str(point.signals.get()).unwrap_or_default();
            let number = |name: &str| signals.get(name).and_then(|signal| signal.value.as_f64());
            let carried = |name: &str, known: Option<f64>| number(name).or(known);
            newest = TrackPoint {
                latitude: carried(path::LATITUDE, newest.latitude),
                longitude: carried(path::LONGITUDE, newest.longitude),
                accuracy_m: carried(path::ACCURACY_M, newest.accuracy_m),
                speed_kmh: carried(path::SPEED_KMH, newest.speed_kmh),
                odometer_km: carried(path::ODOMETER_KM, newest.odometer_km),
                fuel_percent: carried(path::FUEL_PERCENT, newest.fuel_percent),
            };
            track.push((point.at, newest));
        }
        Self(track)
    }
}

/// RFC 7946: one LineString with the time of each position beside it (a Point or nothing where there are fewer).
fn geojson(vehicle: &VehicleId, track: &Track) -> Value {
    let placed = track.0.iter().filter_map(|(at, point)| Some((at, [point.longitude?, point.latitude?])));
    let (mut times, mut coordinates) = (Vec::new(), Vec::<[f64; 2]>::new());
    for (at, position) in placed {
        if coordinates.last() != Some(&position) {
            coordinates.push(position);
            times.push(at.to_string());
        }
    }
    let geometry = match coordinates.as_slice() {
        [] => Value::Null,
        [only] => json!({"type": "Point", "coordinates": only}),
        _ => json!({"type": "LineString", "coordinates": coordinates}),
    };
    let properties = json!({"vehicle_id": vehicle, "coordTimes": times});
    json!({"type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": geometry, "properties": properties}]})
}

fn csv(track: &Track) -> String {
    let mut text = String::from("at,latitude,longitude,accuracy_m,speed_kmh,odometer_km,fuel_percent\r\n");
    let cell = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for (at, point) in &track.0 {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "{at},{},{},{},{},{},{}\r\n",
            cell(point.latitude),
            cell(point.longitude),
            cell(point.accuracy_m),
            cell(point.speed_kmh),
            cell(point.odometer_km),
            cell(point.fuel_percent)
        );
    }
    text
}
