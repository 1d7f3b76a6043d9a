//! `/v1/vehicles`: register, list, read and change vehicles.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::model::{FunctionName, LendingBody, TwinBody};
use super::wire::{Items, Json, PageOf, Query, each, idempotency, param, path_id, reply};
use crate::actors::fleet::FleetHandle;
use crate::actors::vehicle::{Ask, AskError, Snapshot};
use crate::domain::rental::Lending;
use crate::domain::vehicle::{Details, Request};
use crate::domain::{Functions, Role, VehicleId};

pub const STAFF: [Role; 2] = [Role::Admin, Role::Operator];
/// Who may act on what is theirs; a renter's own is checked beside it.
pub const ACTORS: [Role; 3] = [Role::Admin, Role::Operator, Role::Renter];
pub const READERS: [Role; 3] = [Role::Admin, Role::Operator, Role::Auditor];

/// `{"vehicle_id":"WVW-1","name":"Blue van","tank_litres":60,"lending":{"profiles":["cabin"],"approval":"auto"}}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVehicle {
    /// A VIN or the fleet's own: `[A-Za-z0-9-]{1,64}`.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9-]{1,64}$")]
    pub vehicle_id: VehicleId,
    name: Option<String>,
    fuel_type: Option<String>,
    tank_litres: Option<f64>,
    class: Option<String>,
    #[schema(value_type = Option<Vec<FunctionName>>)]
    capabilities: Option<Functions>,
    #[schema(value_type = Option<LendingBody>)]
    lending: Option<Lending>,
}

/// `{"name":"Blue van"}`; what is absent stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VehicleChange {
    name: Option<String>,
    fuel_type: Option<String>,
    tank_litres: Option<f64>,
    class: Option<String>,
    #[schema(value_type = Option<Vec<FunctionName>>)]
    capabilities: Option<Functions>,
    #[schema(value_type = Option<LendingBody>)]
    lending: Option<Lending>,
}

#[utoipa::path(post, path = "/v1/vehicles", tag = "vehicles", request_body = NewVehicle,
    responses((status = 201, body = TwinBody)))]
pub async fn register(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<NewVehicle>,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let idempotency = idempotency(&request, &caller, "vehicles", &body.hash)?;
    let NewVehicle { vehicle_id, name, fuel_type, tank_litres, class, capabilities, lending } = body.value;
    let details = Details { name, fuel_type, tank_litres, class, capabilities, lending };
    let by = caller.principal;
    let ask = Ask { request: Request::Register { details, by: by.clone() }, by, idempotency };
    app.fleet.ask(&vehicle_id, ask).await?;
    let snapshot = app.fleet.snapshot(&vehicle_id).await?;
    let mut answer = HttpResponse::Created();
    answer.insert_header(("Location", format!("/v1/vehicles/{vehicle_id}")));
    Ok(answer.json(TwinBody::of(&snapshot)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// 1 to 1000; 100 if absent.
    #[param(value_type = Option<u32>)]
    pub limit: Option<String>,
    /// What the page before gave as `next`.
    pub after: Option<String>,
}

/// As [`ListParams`], of one vehicle if wished. A page may have fewer items than asked for and still a `next`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OfVehicle {
    /// 1 to 1000; 100 if absent.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// What the page before gave as `next`.
    after: Option<String>,
    /// Absent = of every vehicle.
    #[param(value_type = Option<String>)]
    vehicle_id: Option<VehicleId>,
}

impl OfVehicle {
    pub fn page(&self) -> ListParams {
        ListParams { limit: self.limit.clone(), after: self.after.clone() }
    }

    pub fn wants(&self, vehicle: &VehicleId) -> bool {
        self.vehicle_id.as_ref().is_none_or(|wanted| wanted == vehicle)
    }
}

#[utoipa::path(get, path = "/v1/vehicles", tag = "vehicles", params(ListParams),
    responses((status = 200, body = Items<TwinBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<ListParams>) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let page = PageOf::parse(query.0.limit.as_deref(), query.0.after.as_deref())?;
    let after: Option<VehicleId> = param("after", page.after.as_deref())?;
    // One more than asked for tells whether there is a next page.
    let mut ids = app.fleet.vehicles(after.as_ref(), page.limit + 1);
    let is_more = ids.len() > page.limit;
    ids.truncate(page.limit);
    let next = if is_more { ids.last().map(VehicleId::to_string) } else { None };
    let fleet = app.fleet.clone();
    let snapshots = each(ids, READS_IN_FLIGHT, move |id| {
        let fleet = fleet.clone();
        async move { patient_snapshot(&fleet, &id).await }
    });
    let items = snapshots.await?.into_iter().map(|snapshot| Ok(TwinBody::of(&snapshot?)));
    let items = items.collect::<Result<Vec<_>, Problem>>()?;
    Ok(reply(StatusCode::OK, &Items { items, next }))
}

/// One busy vehicle must not fail a list of a hundred: its mailbox is usually free a moment later.
async fn patient_snapshot(fleet: &FleetHandle, id: &VehicleId) -> Result<Snapshot, AskError> {
    const PAUSES_MS: [u64; 3] = [5, 20, 80];
    for pause_ms in PAUSES_MS {
        match fleet.snapshot(id).await {
            Err(AskError::Busy) => tokio::time::sleep(Duration::from_millis(pause_ms)).await,
            answer => return answer,
        }
    }
    fleet.snapshot(id).await
}

/// Vehicles that one list asks at once: more would only queue in front of the actors' threads.
const READS_IN_FLIGHT: usize = 256;

/// Vehicles asked in one go, so that memory holds few of their states at once.
const SNAPSHOT_BATCH: usize = 1_024;

/// Shows `take` every vehicle that answers, in the order of their ids, some at a time.
pub async fn each_snapshot(app: &App, mut take: impl FnMut(Vec<Snapshot>)) -> Result<(), Problem> {
    let mut after: Option<VehicleId> = None;
    loop {
        let ids = app.fleet.vehicles(after.as_ref(), SNAPSHOT_BATCH);
        let Some(last) = ids.last().cloned() else { return Ok(()) };
        let fleet = app.fleet.clone();
        let snapshots = each(ids, READS_IN_FLIGHT, move |id| {
            let fleet = fleet.clone();
            async move { fleet.snapshot(&id).await }
        });
        take(snapshots.await?.into_iter().flatten().collect());
        after = Some(last);
    }
}

#[utoipa::path(get, path = "/v1/vehicles/{id}", tag = "vehicles", params(("id" = String, Path)),
    responses((status = 200, body = TwinBody)))]
pub async fn get(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let id: VehicleId = path_id(&request, "id", "vehicle")?;
    let snapshot = app.fleet.snapshot(&id).await?;
    Ok(reply(StatusCode::OK, &TwinBody::of(&snapshot)))
}

#[utoipa::path(patch, path = "/v1/vehicles/{id}", tag = "vehicles", params(("id" = String, Path)),
    request_body = VehicleChange, responses((status = 200, body = TwinBody)))]
pub async fn change(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<VehicleChange>,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let id: VehicleId = path_id(&request, "id", "vehicle")?;
    let VehicleChange { name, fuel_type, tank_litres, class, capabilities, lending } = body.value;
    let details = Details { name, fuel_type, tank_litres, class, capabilities, lending };
    let ask = Ask { request: Request::Change { details }, by: caller.principal, idempotency: None };
    app.fleet.ask(&id, ask).await?;
    let snapshot = app.fleet.snapshot(&id).await?;
    Ok(reply(StatusCode::OK, &TwinBody::of(&snapshot)))
}
