//! `/v1/vehicles/available`: which cars could be had now or later, nearest first.
//!
//! Asks each vehicle's own decision with a request that is never made, so that the list promises what a request gets.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::vehicles::each_snapshot;
use super::wire::{Items, PageOf, Query, reply, time_param};
use crate::actors::vehicle::Snapshot;
use crate::domain::key::HolderKey;
use crate::domain::rental::Approval;
use crate::domain::twin::path;
use crate::domain::vehicle::{Context, Request, Rules};
use crate::domain::{Position, RequestId, Timestamp, VehicleId};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AvailableParams {
    /// `latitude,longitude`; the list is sorted by distance from there.
    near: Option<String>,
    /// Only vehicles that are lent under it.
    profile: Option<String>,
    /// RFC 3339; now if absent.
    from: Option<String>,
    /// RFC 3339; an hour after `from` if absent.
    until: Option<String>,
    /// 1 to 1000; 100 if absent.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
}

/// `{"vehicle_id":"WVW-1","profiles":["cabin"],"approval":"auto","position":{"latitude":45.07,"longitude":7.68},"position_at":"…","distance_m":312.5,"fuel_percent":62}`
#[derive(Debug, Serialize, ToSchema)]
pub struct AvailableVehicle {
    #[schema(value_type = String)]
    vehicle_id: VehicleId,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_type: Option<String>,
    /// Under which it could be had for the whole time.
    profiles: Vec<String>,
    #[schema(value_type = String, example = "auto")]
    approval: Approval,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PlaceBody>)]
    position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    position_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_percent: Option<f64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Position)]
pub struct PlaceBody {
    pub latitude: f64,
    pub longitude: f64,
}

/// What is looked for.
struct Wanted {
    near: Option<Position>,
    profile: Option<String>,
    from: Timestamp,
    until: Timestamp,
    limit: usize,
}

impl Wanted {
    fn parse(params: &AvailableParams, rules: &Rules, now: Timestamp) -> Result<Self, Problem> {
        let from = time_param("from", params.from.as_deref())?.unwrap_or(now);
        let until = time_param("until", params.until.as_deref())?.unwrap_or_else(|| from.plus_ms(3_600_000));
        if until <= from {
            return Err(Problem::invalid("until", "later than from"));
        }
        let profile = params.profile.clone();
        if profile.as_ref().is_some_and(|name| !rules.profiles.iter().any(|known| known.name == *name)) {
            return Err(Problem::invalid("profile", "no such profile"));
        }
        let near = params.near.as_deref().map(position).transpose()?;
        Ok(Self { near, profile, from, until, limit: PageOf::parse(params.limit.as_deref(), None)?.limit })
    }

    fn find(&self, rules: &Rules, snapshot: &Snapshot) -> Option<AvailableVehicle> {
        let Snapshot { vehicle, twin, .. } = snapshot;
        let profiles: Vec<String> = rules
            .profiles
            .iter()
            .map(|profile| &profile.name)
            .filter(|name| self.profile.as_ref().is_none_or(|wanted| wanted == *name))
            .filter(|name| self.is_free(rules, snapshot, name))
            .cloned()
            .collect();
        if profiles.is_empty() {
            return None;
        }
        let fix = twin.fix();
        Some(AvailableVehicle {
            vehicle_id: vehicle.vehicle_id.clone(),
            name: vehicle.details.name.clone(),
            fuel_type: vehicle.details.fuel_type.clone(),
            profiles,
            approval: vehicle.details.lending.as_ref().map(|lending| lending.approval).unwrap_or_default(),
            position: fix.map(|fix| fix.position),
            position_at: fix.map(|fix| fix.at),
            distance_m: fix.zip(self.near).map(|(fix, near)| (fix.position.distance_m(near) * 10.0).round() / 10.0),
            fuel_percent: twin.signal(path::FUEL_PERCENT).and_then(|signal| signal.value.as_number()),
        })
    }

    fn is_free(&self, rules: &Rules, snapshot: &Snapshot, profile: &str) -> bool {
        let request = Request::Use {
            request_id: RequestId(Uuid::nil()),
            renter: String::new(),
            profile: profile.to_owned(),
            from: self.from,
            until: self.until,
            holder_key: HolderKey::Ed25519 { x: [0; 32] },
        };
        let context = Context { now: snapshot.now, twin: &snapshot.twin, rules, new_id: &Uuid::nil };
        snapshot.vehicle.decide(&context, request).is_ok()
    }
}

fn position(text: &str) -> Result<Position, Problem> {
    let parsed = text.split_once(',').and_then(|(latitude, longitude)| {
        Some(Position { latitude: latitude.trim().parse().ok()?, longitude: longitude.trim().parse().ok()? })
    });
    parsed
        .filter(|position| position.is_valid())
        .ok_or_else(|| Problem::invalid("near", "latitude,longitude in degrees, like 45.07,7.68"))
}

#[utoipa::path(get, path = "/v1/vehicles/available", tag = "rentals", params(AvailableParams),
    responses((status = 200, description = "Nearest first; those of unknown position last",
        body = Items<AvailableVehicle>)))]
pub async fn list(
    app: web::Data<App>,
    _caller: Caller,
    query: Query<AvailableParams>,
) -> Result<HttpResponse, Problem> {
    let wanted = Wanted::parse(&query.0, &app.rules, app.clock.now())?;
    let mut items: Vec<AvailableVehicle> = Vec::new();
    // A vehicle that does not answer now cannot be had now.
    each_snapshot(&app, |snapshots| {
        items.extend(snapshots.iter().filter_map(|snapshot| wanted.find(&app.rules, snapshot)));
        nearest_first(&mut items);
        items.truncate(wanted.limit);
    })
    .await?;
    Ok(reply(StatusCode::OK, &Items { items, next: None }))
}

/// Stable, so that without `near` the order is that of the ids.
fn nearest_first(items: &mut [AvailableVehicle]) {
    let distance = |vehicle: &AvailableVehicle| vehicle.distance_m.unwrap_or(f64::INFINITY);
    items.sort_by(|one, other| distance(one).total_cmp(&distance(other)));
}
