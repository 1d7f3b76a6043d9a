//! `/v1/alerts`: what people should look into, and what they did about it.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::cards::{READERS, WRITERS, bodiless_key};
use super::decisions::filtered;
use super::error::{Problem, ProblemBody};
use super::wire::{PageOf, Query, RawBody, path_id, reply, row};
use crate::actors::card_guard::{AlertStep, Edit, Edited};
use crate::domain::card::Alert;
use crate::domain::{AlertId, VehicleId};
use crate::store::Table;

/// One alert. It is evidence to look into, not proof, and concerns a vehicle, its card or its rental.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AlertBody {
    pub alert_id: String,
    /// `card_declined`, `card_unverified` (declined for lack of knowledge, without a sign of misuse), `fill_doubted` (what
    /// was taken does not fit what the car got), `unasked_capture`, `purchase_disowned`, `payment_unreadable`,
    /// `payment_fallback`, `late_return`, `outside_return_area`, `card_missing`, or `fuel_fell`.
    pub kind: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rental_id: Option<String>,
    /// `open`, `acknowledged`, `confirmed` (the gateway found more that speaks for it), `resolved` or `withdrawn`.
    pub state: String,
    pub text: String,
    #[schema(format = DateTime)]
    pub opened_at: String,
    pub history: Vec<AlertPassageBody>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AlertPassageBody {
    pub state: String,
    #[schema(format = DateTime)]
    pub at: String,
    /// Absent = the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<AlertActorBody>,
    /// What the gateway found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AlertActorBody {
    pub role: String,
    pub subject: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AlertPage {
    pub items: Vec<AlertBody>,
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertQuery {
    limit: Option<String>,
    after: Option<String>,
    state: Option<String>,
    vehicle_id: Option<VehicleId>,
}

#[utoipa::path(get, path = "/v1/alerts", tag = "alerts",
    description = "Newest first. A page may have fewer items than asked for and still a `next`.",
    params(
        ("limit" = Option<usize>, Query), ("after" = Option<String>, Query), ("state" = Option<String>, Query),
        ("vehicle_id" = Option<String>, Query),
    ),
    responses((status = 200, body = AlertPage)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<AlertQuery>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let AlertQuery { limit, after, state, vehicle_id } = query.0;
    let page = PageOf::parse(limit.as_deref(), after.as_deref())?;
    let items = filtered(&app, Table::Alerts, page, move |alert: &AlertBody| {
        state.as_ref().is_none_or(|state| *state == alert.state)
            && vehicle_id.as_ref().is_none_or(|wanted| Some(wanted.as_str()) == alert.vehicle_id.as_deref())
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(get, path = "/v1/alerts/{id}", tag = "alerts", params(("id" = String, Path)), responses(
    (status = 200, body = AlertBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn get(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let id: AlertId = path_id(&request, "id", "alert")?;
    let alert = row::<AlertBody>(&app, Table::Alerts, id.to_string()).await?;
    Ok(reply(StatusCode::OK, &alert.ok_or_else(|| Problem::not_found("alert"))?))
}

#[utoipa::path(post, path = "/v1/alerts/{id}/acknowledge", tag = "alerts", params(("id" = String, Path)), responses(
    (status = 200, body = AlertBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    (status = 409, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn acknowledge(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    body: RawBody,
) -> Result<HttpResponse, Problem> {
    step(&app, &request, caller, &body, AlertStep::Acknowledge).await
}

#[utoipa::path(post, path = "/v1/alerts/{id}/resolve", tag = "alerts", params(("id" = String, Path)), responses(
    (status = 200, body = AlertBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    (status = 409, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn resolve(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    body: RawBody,
) -> Result<HttpResponse, Problem> {
    step(&app, &request, caller, &body, AlertStep::Resolve).await
}

async fn step(
    app: &App,
    request: &HttpRequest,
    caller: Caller,
    body: &RawBody,
    step: AlertStep,
) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let id: AlertId = path_id(request, "id", "alert")?;
    let key = bodiless_key(request, &caller, "alerts", body)?;
    let Edited::Alert(alert) = app.guard.edit(Edit::Alert(id, step), caller.principal, key).await? else {
        return Err(Problem::internal("edit", &"a step of an alert led to something else"));
    };
    Ok(reply(StatusCode::OK, &AlertBody::try_from(&alert)?))
}

/// The stored form is the wire's form.
impl TryFrom<&Alert> for AlertBody {
    type Error = Problem;

    fn try_from(alert: &Alert) -> Result<Self, Problem> {
        let value = serde_json::to_value(alert).and_then(serde_json::from_value);
        value.map_err(|error| Problem::internal("alert", &error))
    }
}
