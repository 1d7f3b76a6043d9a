//! `/v1/confirmations`: purchases that wait for a word of whoever has the car, and that word.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::error::{Problem, ProblemBody};
use super::wire::{Items, Json, idempotency, path_id, reply};
use crate::actors::card_guard::{Edit, Edited};
use crate::domain::card::StepUp;
use crate::domain::{DecisionId, Role};

const READERS: &[Role] = &[Role::Admin, Role::Operator, Role::Auditor, Role::Renter];

/// `{"decision_id":"…","vehicle_id":"WVW-1","rental_id":"…","amount_minor":5000,"currency":"EUR","merchant":"Q8 Corso
/// Francia","asked_at":"…","expires_at":"…"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ConfirmationBody {
    pub decision_id: String,
    pub vehicle_id: String,
    pub rental_id: String,
    /// In minor units.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// As the payment network names it, else the directory's id of the station.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merchant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[schema(format = DateTime)]
    pub asked_at: String,
    /// Nobody waits for an answer after this.
    #[schema(format = DateTime)]
    pub expires_at: String,
    /// Absent until it is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_confirmed: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ConfirmationPage {
    pub items: Vec<ConfirmationBody>,
    pub next: Option<String>,
}

/// `{"is_confirmed":true}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// True: it is mine, and goes through when it is tried again within two minutes. False: it is not, and people are told.
    pub is_confirmed: bool,
}

#[utoipa::path(get, path = "/v1/confirmations", tag = "confirmations",
    description = "Those that wait for a word, oldest first. A renter sees their own.",
    responses((status = 200, body = ConfirmationPage)))]
pub async fn list(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let renter = (caller.principal.role == Role::Renter).then_some(caller.principal.subject.as_str());
    let items = app.guard.step_ups(renter).iter().map(ConfirmationBody::from).collect();
    Ok(reply(StatusCode::OK, &Items::<ConfirmationBody> { items, next: None }))
}

#[utoipa::path(post, path = "/v1/confirmations/{id}", tag = "confirmations", params(("id" = String, Path)),
    request_body = Confirm, responses(
    (status = 200, body = ConfirmationBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    (status = 409, description = "It was answered already", body = ProblemBody, content_type = "application/problem+json"),
    (status = 503, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn answer(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    word: Json<Confirm>,
) -> Result<HttpResponse, Problem> {
    // Staff do not stand at the pump: the word is the renter's alone.
    caller.require(&[Role::Renter])?;
    let decision_id: DecisionId = path_id(&request, "id", "confirmation")?;
    let asked = app.guard.step_up(decision_id).filter(|asked| asked.renter == caller.principal.subject);
    if asked.is_none() {
        return Err(Problem::not_found("confirmation"));
    }
    let key = idempotency(&request, &caller, "confirmations", &word.hash)?;
    let edit = Edit::AnswerStepUp { decision_id, is_confirmed: word.value.is_confirmed };
    let Edited::StepUp(answered) = app.guard.edit(edit, caller.principal, key).await? else {
        return Err(Problem::internal("edit", &"a renter's word led to something else"));
    };
    Ok(reply(StatusCode::OK, &ConfirmationBody::from(&answered)))
}

impl From<&StepUp> for ConfirmationBody {
    fn from(asked: &StepUp) -> Self {
        Self {
            decision_id: asked.decision_id.to_string(),
            vehicle_id: asked.vehicle_id.to_string(),
            rental_id: asked.rental_id.to_string(),
            amount_minor: asked.amount.amount_minor,
            currency: asked.amount.currency.clone(),
            merchant: asked.merchant.name.clone().or_else(|| asked.station_id.as_ref().map(ToString::to_string)),
            city: asked.merchant.city.clone(),
            asked_at: asked.asked_at.to_string(),
            expires_at: asked.asked_at.plus_ms(StepUp::OPEN_MS).to_string(),
            is_confirmed: asked.answer.map(|answer| answer.is_confirmed),
        }
    }
}
