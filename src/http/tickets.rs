//! `POST /v1/console/tickets`: a browser trades its API key for a ticket that opens one WebSocket.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::auth::{Caller, KeyHash, Tickets};
use super::error::{Problem, ProblemBody, Slug};
use super::wire::reply;
use crate::domain::Role;

/// `{"ticket":"ct_…","expires_at":"2026-11-21T22:36:46.000Z"}`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct IssuedTicket {
    /// Serves once, within 30 s.
    pub ticket: String,
    #[schema(format = DateTime)]
    pub expires_at: String,
}

#[utoipa::path(post, path = "/v1/console/tickets", tag = "console", responses(
    (status = 201, body = IssuedTicket),
    (status = 403, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn issue(request: HttpRequest, app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin, Role::Operator, Role::Auditor])?;
    let key = KeyHash::of(&request)?;
    let Some((ticket, expires_at)) = app.tickets.issue(caller.principal, key, app.clock.now()) else {
        let detail = format!("{} console tickets are open already", Tickets::MAX);
        return Err(Problem::new(Slug::TooManyRequests, detail).retry_after(30));
    };
    Ok(reply(StatusCode::CREATED, &IssuedTicket { ticket, expires_at: expires_at.to_string() }))
}
