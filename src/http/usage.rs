//! `/v1/usage-requests`: a renter asks to use a car; the answer to a good request holds the key.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::model::{KeyBody, RequestBody, Row};
use super::vehicles::{ACTORS, ListParams, STAFF};
use super::wire::{Items, Json, Query, idempotency, list_rows, path_id, reply, row};
use crate::actors::vehicle::{Answer, Ask};
use crate::domain::rental::UsageRequest;
use crate::domain::vehicle::Request;
use crate::domain::{RequestId, Timestamp, VehicleId};
use crate::store::Table;
use crate::token::Jwk;

/// `{"vehicle_id":"WVW-1","profile":"cabin","from":"2026-11-21T22:00:00Z","until":"2026-11-21T23:00:00Z","holder_key":{"kty":"EC","crv":"P-256","x":"…","y":"…"}}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRequest {
    #[schema(value_type = String)]
    vehicle_id: VehicleId,
    /// A profile of the fleet, like `cabin` or `drive`.
    profile: String,
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
    /// The public key of the phone that shall hold the key.
    holder_key: Jwk,
    /// For whom an operator asks; absent = for the caller.
    renter: Option<String>,
}

const MAX_NAME_LEN: usize = 64;

/// A name for a person or program: it stands in tokens, in records and in idempotency keys.
pub fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    let is_fit = (1..=MAX_NAME_LEN).contains(&name.len())
        && name.chars().all(|c| !c.is_control() && c != '/')
        && name.trim() == name;
    if is_fit {
        Ok(())
    } else {
        Err(Problem::invalid(field, format!("1 to {MAX_NAME_LEN} bytes without control characters or slashes")))
    }
}

impl NewRequest {
    fn renter(&self, caller: &Caller) -> Result<String, Problem> {
        let own = &caller.principal.subject;
        let Some(renter) = &self.renter else { return Ok(own.clone()) };
        check_name("renter", renter)?;
        if caller.is_renter() && renter != own {
            return Err(Problem::forbidden("a renter asks for themselves only"));
        }
        Ok(renter.clone())
    }
}

#[utoipa::path(post, path = "/v1/usage-requests", tag = "rentals", request_body = NewRequest,
    responses((status = 201, description = "With the key, unless the owner has to approve first", body = RequestBody)))]
pub async fn request(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<NewRequest>,
) -> Result<HttpResponse, Problem> {
    caller.require(&ACTORS)?;
    let wanted = &body.value;
    let renter = wanted.renter(&caller)?;
    if wanted.profile.len() > MAX_NAME_LEN {
        return Err(Problem::invalid("profile", "no profile has such a long name"));
    }
    let holder_key = wanted.holder_key.holder_key().map_err(|bad| Problem::invalid("holder_key", bad.0))?;
    let idempotency = idempotency(&request, &caller, "usage-requests", &body.hash)?;
    let NewRequest { vehicle_id, profile, from, until, .. } = body.value;
    let request_id = RequestId(app.clock.new_id());
    let ask = Ask {
        request: Request::Use { request_id, renter, profile, from, until, holder_key },
        by: caller.principal,
        idempotency,
    };
    // Whoever asks brought the holder's public key, so the token is theirs to hand over.
    let body = asked(&app, &vehicle_id, ask, true).await?;
    Ok(reply(StatusCode::CREATED, &body))
}

/// Asks, and makes the answer's body out of what the actor says.
async fn asked(app: &App, vehicle: &VehicleId, ask: Ask, shows_token: bool) -> Result<RequestBody, Problem> {
    let Answer::Usage { request, key, .. } = app.fleet.ask(vehicle, ask).await? else {
        return Err(Problem::internal("usage request", &"the actor answered with something else"));
    };
    let now = app.clock.now();
    let mut body = RequestBody::of(vehicle, &request);
    body.key = key
        .map(|issued| KeyBody { token: shows_token.then_some(issued.token), ..KeyBody::of(vehicle, &issued.key, now) });
    Ok(body)
}

async fn stored(app: &App, caller: &Caller, id: RequestId) -> Result<Row<UsageRequest>, Problem> {
    let row: Option<Row<UsageRequest>> = row(app, Table::UsageRequests, id.to_string()).await?;
    row.filter(|row| caller.sees(&row.item.renter)).ok_or_else(|| Problem::not_found("usage request"))
}

#[utoipa::path(get, path = "/v1/usage-requests", tag = "rentals", params(ListParams),
    responses((status = 200, description = "Newest first", body = Items<RequestBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<ListParams>) -> Result<HttpResponse, Problem> {
    let items = list_rows(&app, Table::UsageRequests, &query.0, move |row: Row<UsageRequest>| {
        caller.sees(&row.item.renter).then(|| RequestBody::of(&row.vehicle_id, &row.item))
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(get, path = "/v1/usage-requests/{id}", tag = "rentals", params(("id" = String, Path)),
    responses((status = 200, body = RequestBody)))]
pub async fn get(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id: RequestId = path_id(&request, "id", "usage request")?;
    let row = stored(&app, &caller, id).await?;
    Ok(reply(StatusCode::OK, &RequestBody::of(&row.vehicle_id, &row.item)))
}

#[utoipa::path(post, path = "/v1/usage-requests/{id}/approve", tag = "rentals", params(("id" = String, Path)),
    responses((status = 200, description = "The holder fetches the token from the key", body = RequestBody)))]
pub async fn approve(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    decide(&app, caller, &request, "approve", |request_id| Request::Approve { request_id }).await
}

#[utoipa::path(post, path = "/v1/usage-requests/{id}/decline", tag = "rentals", params(("id" = String, Path)),
    responses((status = 200, body = RequestBody)))]
pub async fn decline(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    decide(&app, caller, &request, "decline", |request_id| Request::Decline { request_id }).await
}

async fn decide(
    app: &App,
    caller: Caller,
    request: &HttpRequest,
    verb: &str,
    make: impl Fn(RequestId) -> Request,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let id: RequestId = path_id(request, "id", "usage request")?;
    let idempotency = idempotency(request, &caller, verb, &super::wire::body_hash(request.path(), b""))?;
    let row = stored(app, &caller, id).await?;
    let ask = Ask { request: make(id), by: caller.principal, idempotency };
    Ok(reply(StatusCode::OK, &asked(app, &row.vehicle_id, ask, false).await?))
}
