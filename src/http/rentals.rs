//! `/v1/rentals`: who has which car, and giving it back.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::model::{RentalBody, Row};
use super::vehicles::{ACTORS, OfVehicle};
use super::wire::{Items, Json, Query, body_hash, idempotency, list_rows, path_id, reply, row};
use crate::actors::vehicle::{Answer, Ask};
use crate::domain::rental::Rental;
use crate::domain::vehicle::Request;
use crate::domain::{RentalId, Timestamp};
use crate::store::Table;

async fn stored(app: &App, caller: &Caller, id: RentalId) -> Result<Row<Rental>, Problem> {
    let row: Option<Row<Rental>> = row(app, Table::Rentals, id.to_string()).await?;
    row.filter(|row| caller.sees(&row.item.renter)).ok_or_else(|| Problem::not_found("rental"))
}

#[utoipa::path(get, path = "/v1/rentals", tag = "rentals", params(OfVehicle),
    responses((status = 200, description = "Newest first", body = Items<RentalBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<OfVehicle>) -> Result<HttpResponse, Problem> {
    let (page, wish) = (query.0.page(), query.0);
    let items = list_rows(&app, Table::Rentals, &page, move |row: Row<Rental>| {
        let is_shown = wish.wants(&row.vehicle_id) && caller.sees(&row.item.renter);
        is_shown.then(|| RentalBody::of(&row.vehicle_id, &row.item))
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(get, path = "/v1/rentals/{id}", tag = "rentals", params(("id" = String, Path)),
    responses((status = 200, body = RentalBody)))]
pub async fn get(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id: RentalId = path_id(&request, "id", "rental")?;
    let Row { vehicle_id, item } = stored(&app, &caller, id).await?;
    // The actor's word is up to a second newer than the row.
    let newest = app.fleet.snapshot(&vehicle_id).await.ok().and_then(|snapshot| snapshot.vehicle.rental(id).cloned());
    Ok(reply(StatusCode::OK, &RentalBody::of(&vehicle_id, &newest.unwrap_or(item))))
}

#[utoipa::path(post, path = "/v1/rentals/{id}/end", tag = "rentals", params(("id" = String, Path)),
    responses((status = 200, description = "`ending` until the car has confirmed", body = RentalBody)))]
pub async fn end(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let by = caller.principal.clone();
    close(&app, caller, &request, "end", |rental_id| Request::EndRental { rental_id, by: by.clone() }).await
}

#[utoipa::path(post, path = "/v1/rentals/{id}/cancel", tag = "rentals", params(("id" = String, Path)),
    responses((status = 200, body = RentalBody)))]
pub async fn cancel(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    close(&app, caller, &request, "cancel", |rental_id| Request::CancelRental { rental_id }).await
}

/// `{"until":"2026-11-21T23:30:00Z"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
}

#[utoipa::path(post, path = "/v1/rentals/{id}/extend", tag = "rentals", params(("id" = String, Path)),
    request_body = Extension,
    responses((status = 200, description = "The holder fetches the longer token from the key", body = RentalBody)))]
pub async fn extend(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<Extension>,
) -> Result<HttpResponse, Problem> {
    caller.require(&ACTORS)?;
    let rental_id: RentalId = path_id(&request, "id", "rental")?;
    let idempotency = idempotency(&request, &caller, "extend", &body.hash)?;
    let Row { vehicle_id, .. } = stored(&app, &caller, rental_id).await?;
    let by = caller.principal;
    let wish = Request::Extend { rental_id, until: body.value.until, by: by.clone() };
    let rental = rental_of(app.fleet.ask(&vehicle_id, Ask { request: wish, by, idempotency }).await?)?;
    Ok(reply(StatusCode::OK, &RentalBody::of(&vehicle_id, &rental)))
}

async fn close(
    app: &App,
    caller: Caller,
    request: &HttpRequest,
    verb: &str,
    make: impl Fn(RentalId) -> Request,
) -> Result<HttpResponse, Problem> {
    caller.require(&ACTORS)?;
    let id: RentalId = path_id(request, "id", "rental")?;
    let idempotency = idempotency(request, &caller, verb, &body_hash(request.path(), b""))?;
    let Row { vehicle_id, .. } = stored(app, &caller, id).await?;
    let ask = Ask { request: make(id), by: caller.principal, idempotency };
    let rental = rental_of(app.fleet.ask(&vehicle_id, ask).await?)?;
    Ok(reply(StatusCode::OK, &RentalBody::of(&vehicle_id, &rental)))
}

fn rental_of(answer: Answer) -> Result<Rental, Problem> {
    match answer {
        Answer::Rental(rental) => Ok(rental),
        Answer::Vehicle | Answer::Command(_) | Answer::Usage { .. } | Answer::Key(_) => {
            Err(Problem::internal("rental", &"the actor answered with something else"))
        }
    }
}
