//! `/v1/export/mds/vehicles`: the fleet as a city reads it, in the terms of the Mobility Data Specification 2.0, mode
//! car-share. Vehicles and their status stand in one document; no person is in it.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::vehicles::{READERS, each_snapshot};
use super::wire::reply;
use crate::actors::vehicle::Snapshot;
use crate::domain::rental::Usage;
use crate::domain::{Timestamp, VehicleId};
use crate::token::sha256;

/// A reservation keeps a car from others on the street from so long before it begins.
const SOON_MS: i64 = 30 * 60_000;

/// How long a reader may keep the document.
const TTL_MS: u64 = 60_000;

/// Times are milliseconds since 1970, as the specification has them.
#[derive(Serialize, ToSchema)]
pub struct MdsVehicles {
    #[schema(example = "2.0.0")]
    version: &'static str,
    last_updated: i64,
    ttl: u64,
    vehicles: Vec<MdsVehicle>,
    vehicles_status: Vec<MdsStatus>,
}

#[derive(Serialize, ToSchema)]
pub struct MdsVehicle {
    #[schema(value_type = String, format = "uuid")]
    device_id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    provider_id: Uuid,
    vehicle_id: String,
    #[schema(example = "car")]
    vehicle_type: &'static str,
    propulsion_types: Vec<&'static str>,
    /// Litres.
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_capacity: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub struct MdsStatus {
    #[schema(value_type = String, format = "uuid")]
    device_id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    provider_id: Uuid,
    last_event: MdsEvent,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_telemetry: Option<MdsTelemetry>,
}

#[derive(Serialize, ToSchema)]
pub struct MdsEvent {
    #[schema(value_type = String, format = "uuid")]
    device_id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    provider_id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    event_id: Uuid,
    /// `available`, `reserved`, `on_trip`, `non_contactable`.
    vehicle_state: &'static str,
    event_types: Vec<&'static str>,
    timestamp: i64,
}

#[derive(Serialize, ToSchema)]
pub struct MdsTelemetry {
    #[schema(value_type = String, format = "uuid")]
    device_id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    provider_id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    telemetry_id: Uuid,
    timestamp: i64,
    #[schema(value_type = Vec<String>)]
    trip_ids: Vec<Uuid>,
    location: MdsLocation,
}

#[derive(Serialize, ToSchema)]
pub struct MdsLocation {
    lat: f64,
    lng: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    horizontal_accuracy: Option<f64>,
}

#[utoipa::path(get, path = "/v1/export/mds/vehicles", tag = "export",
    responses((status = 200, description = "Every vehicle that answers", body = MdsVehicles)))]
pub async fn vehicles(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let provider_id = app.config.fleet.mds_provider_id;
    let (mut vehicles, mut vehicles_status) = (Vec::new(), Vec::new());
    each_snapshot(&app, |snapshots| {
        vehicles.extend(snapshots.iter().map(|snapshot| MdsVehicle::of(provider_id, snapshot)));
        vehicles_status.extend(snapshots.iter().map(|snapshot| MdsStatus::of(provider_id, snapshot)));
    })
    .await?;
    let last_updated = app.clock.now().0;
    let body = MdsVehicles { version: "2.0.0", last_updated, ttl: TTL_MS, vehicles, vehicles_status };
    Ok(reply(StatusCode::OK, &body))
}

/// The specification wants UUIDs where the fleet has names; the same input always gives the same one.
fn derived(parts: &[&str]) -> Uuid {
    let hash = sha256(parts.join("\0").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn device_id(id: &VehicleId) -> Uuid {
    derived(&["device", id.as_str()])
}

impl MdsVehicle {
    fn of(provider_id: Uuid, snapshot: &Snapshot) -> Self {
        let vehicle = &snapshot.vehicle;
        let propulsion = match vehicle.details.fuel_type.as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("electric") => "electric",
            Some("hybrid") => "hybrid",
            Some("plug_in_hybrid") => "plug_in_hybrid",
            Some("hydrogen") => "hydrogen_fuel_cell",
            _ => "combustion",
        };
        Self {
            device_id: device_id(&vehicle.vehicle_id),
            provider_id,
            vehicle_id: vehicle.vehicle_id.to_string(),
            vehicle_type: "car",
            propulsion_types: vec![propulsion],
            fuel_capacity: vehicle.tank_litres().map(|litres| litres.round() as u64),
        }
    }
}

impl MdsStatus {
    fn of(provider_id: Uuid, snapshot: &Snapshot) -> Self {
        let Snapshot { now, vehicle, twin, .. } = snapshot;
        let device_id = device_id(&vehicle.vehicle_id);
        let (vehicle_state, event_type, since) = state(&vehicle.usage(*now), snapshot);
        let name = |kind: &str, at: Timestamp| derived(&[kind, vehicle.vehicle_id.as_str(), &at.0.to_string()]);
        let last_event = MdsEvent {
            device_id,
            provider_id,
            event_id: name(event_type, since),
            vehicle_state,
            event_types: vec![event_type],
            timestamp: since.0,
        };
        let trip_ids = match vehicle.usage(*now) {
            Usage::Rented { rental_id, .. } => vec![rental_id.0],
            Usage::Free | Usage::Reserved { .. } | Usage::Ending { .. } => Vec::new(),
        };
        let last_telemetry = twin.fix().map(|fix| MdsTelemetry {
            device_id,
            provider_id,
            telemetry_id: name("telemetry", fix.at),
            timestamp: fix.at.0,
            trip_ids,
            location: MdsLocation {
                lat: fix.position.latitude,
                lng: fix.position.longitude,
                horizontal_accuracy: fix.accuracy_m,
            },
        });
        Self { device_id, provider_id, last_event, last_telemetry }
    }
}

/// State, what brought it there, and when. A rented car without reception is on a trip: that is not lost.
fn state(usage: &Usage, snapshot: &Snapshot) -> (&'static str, &'static str, Timestamp) {
    let link = snapshot.twin.link;
    match usage {
        Usage::Rented { from, .. } => ("on_trip", "trip_start", *from),
        // Until the car has confirmed, it may still be driven.
        Usage::Ending { since, .. } => ("on_trip", "trip_start", *since),
        Usage::Reserved { rental_id, from, .. } if from.since_ms(snapshot.now) <= SOON_MS => {
            let reserved = snapshot.vehicle.rental(*rental_id).and_then(|rental| rental.history.first());
            ("reserved", "reservation_start", reserved.map_or(*from, |passage| passage.at))
        }
        Usage::Free | Usage::Reserved { .. } if !snapshot.twin.is_online() => {
            ("non_contactable", "comms_lost", link.since)
        }
        Usage::Free | Usage::Reserved { .. } => ("available", "comms_restored", link.since),
    }
}
