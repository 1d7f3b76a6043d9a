//! `/v1/cards`: which fuel card belongs to which vehicle. A card's number is never seen here, only the network's id.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::error::{Problem, ProblemBody};
use super::wire::{Items, Json, PageOf, Query, RawBody, body_hash, idempotency, path_id, reply};
use crate::actors::card_guard::{CardChange, Edit, Edited, NewCard};
use crate::domain::card::{Card, CardId, CardLimits, CardPrompts, CardStatus, looks_like_card_number};
use crate::domain::{Malformed, Role, VehicleId};

pub(super) const READERS: &[Role] = &[Role::Admin, Role::Operator, Role::Auditor];
pub(super) const WRITERS: &[Role] = &[Role::Admin, Role::Operator];

/// `{"card_id":"shell-17","network_ref":"ic_1Mt3…","vehicle_id":"WVW-1","status":"active","changed_at":"…"}`
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CardBody {
    pub card_id: String,
    /// The payment network's id of the card, never its number.
    pub network_ref: String,
    /// null = bound to no vehicle: every purchase is declined.
    pub vehicle_id: Option<String>,
    pub status: StatusBody,
    #[schema(format = DateTime)]
    pub changed_at: String,
    /// The vehicle it was bound to before, and until when a purchase may still be that one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_vehicle_id: Option<String>,
    /// What it may pay; absent = as the rules say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<CardLimitsBody>,
    /// What is expected to be keyed in at the pump; absent = anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<CardPromptsBody>,
}

/// `{"per_purchase_minor":15000,"per_day_minor":20000,"currency":"EUR"}`, in minor units; absent = no limit of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardLimitsBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_purchase_minor: Option<i64>,
    /// In 24 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_day_minor: Option<i64>,
    /// In seven days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_week_minor: Option<i64>,
    /// ISO 4217.
    pub currency: String,
}

/// `{"vehicle_number":"17","driver_id":"4711"}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardPromptsBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_number: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusBody {
    Active,
    /// Every purchase is declined.
    Suspended,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCardBody {
    /// Made if absent.
    pub card_id: Option<String>,
    pub network_ref: String,
    pub vehicle_id: Option<String>,
    /// `active` if absent.
    pub status: Option<StatusBody>,
    pub limits: Option<CardLimitsBody>,
    pub prompts: Option<CardPromptsBody>,
}

/// What is absent stays as it is; `"vehicle_id":null` unbinds the card.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CardChangeBody {
    pub network_ref: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub vehicle_id: Option<Option<String>>,
    pub status: Option<StatusBody>,
    /// null = no limits of its own.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<CardLimitsBody>)]
    pub limits: Option<Option<CardLimitsBody>>,
    /// null = anything may be keyed in.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<CardPromptsBody>)]
    pub prompts: Option<Option<CardPromptsBody>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CardPage {
    pub items: Vec<CardBody>,
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    limit: Option<String>,
    after: Option<String>,
}

impl PageQuery {
    pub(super) fn page(&self) -> Result<PageOf, Problem> {
        PageOf::parse(self.limit.as_deref(), self.after.as_deref())
    }
}

#[utoipa::path(get, path = "/v1/cards", tag = "cards",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = CardPage)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<PageQuery>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let PageOf { limit, after } = query.0.page()?;
    let after = after.map(|after| field::<CardId>("after", &after)).transpose()?;
    let mut cards = app.guard.cards(after.as_ref(), limit + 1);
    let is_more = cards.len() > limit;
    cards.truncate(limit);
    let next = cards.last().filter(|_| is_more).map(|card| card.card_id.to_string());
    let items = cards.iter().map(|card| CardBody::from(&**card)).collect();
    Ok(reply(StatusCode::OK, &Items::<CardBody> { items, next }))
}

#[utoipa::path(post, path = "/v1/cards", tag = "cards", request_body = NewCardBody, responses(
    (status = 201, body = CardBody),
    (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    (status = 409, body = ProblemBody, content_type = "application/problem+json"),
    (status = 422, body = ProblemBody, content_type = "application/problem+json"),
    (status = 503, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn add(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    body: Json<NewCardBody>,
) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let key = idempotency(&request, &caller, "cards", &body.hash)?;
    let NewCardBody { card_id, network_ref, vehicle_id, status, limits, prompts } = body.value;
    let card = NewCard {
        card_id: card_id.map(|id| field("card_id", &id)).transpose()?,
        network_ref: field("network_ref", &network_ref)?,
        vehicle_id: vehicle_id.map(|id| field("vehicle_id", &id)).transpose()?,
        status: status.unwrap_or(StatusBody::Active).into(),
        limits: limits_of(limits)?,
        prompts: prompts_of(prompts)?,
    };
    let edited = app.guard.edit(Edit::AddCard(card), caller.principal, key).await?;
    Ok(reply(StatusCode::CREATED, &card_of(edited)?))
}

#[utoipa::path(get, path = "/v1/cards/{id}", tag = "cards", params(("id" = String, Path)), responses(
    (status = 200, body = CardBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn get(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let id: CardId = path_id(&request, "id", "card")?;
    let card = app.guard.card(&id).ok_or_else(|| Problem::not_found("card"))?;
    Ok(reply(StatusCode::OK, &CardBody::from(&*card)))
}

#[utoipa::path(patch, path = "/v1/cards/{id}", tag = "cards", params(("id" = String, Path)),
    request_body = CardChangeBody, responses(
    (status = 200, body = CardBody),
    (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
    (status = 409, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn change(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    body: Json<CardChangeBody>,
) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let id = path_id(&request, "id", "card")?;
    let CardChangeBody { network_ref, vehicle_id, status, limits, prompts } = body.value;
    let change = CardChange {
        network_ref: network_ref.map(|text| field("network_ref", &text)).transpose()?,
        vehicle_id: match vehicle_id {
            None => None,
            Some(None) => Some(None),
            Some(Some(id)) => Some(Some(field::<VehicleId>("vehicle_id", &id)?)),
        },
        status: status.map(Into::into),
        limits: limits.map(limits_of).transpose()?,
        prompts: prompts.map(prompts_of).transpose()?,
    };
    let edited = app.guard.edit(Edit::ChangeCard(id, change), caller.principal, None).await?;
    Ok(reply(StatusCode::OK, &card_of(edited)?))
}

#[utoipa::path(delete, path = "/v1/cards/{id}", tag = "cards", params(("id" = String, Path)), responses(
    (status = 204, description = "Gone; its decisions stay"),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn remove(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let id = path_id(&request, "id", "card")?;
    app.guard.edit(Edit::RemoveCard(id), caller.principal, None).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn limits_of(body: Option<CardLimitsBody>) -> Result<CardLimits, Problem> {
    let Some(CardLimitsBody { per_purchase_minor, per_day_minor, per_week_minor, currency }) = body else {
        return Ok(CardLimits::default());
    };
    if [per_purchase_minor, per_day_minor, per_week_minor].into_iter().flatten().any(|minor| minor <= 0) {
        return Err(Problem::invalid("limits", "amounts above 0, in minor units"));
    }
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(Problem::invalid("limits.currency", "three letters of ISO 4217"));
    }
    Ok(CardLimits { per_purchase_minor, per_day_minor, per_week_minor, currency: currency.to_ascii_uppercase() })
}

fn prompts_of(body: Option<CardPromptsBody>) -> Result<CardPrompts, Problem> {
    let Some(CardPromptsBody { vehicle_number, driver_id }) = body else { return Ok(CardPrompts::default()) };
    let is_fit = |text: &String| {
        (1..=CardPrompts::MAX_CHARS).contains(&text.chars().count())
            && !text.chars().any(char::is_control)
            && !looks_like_card_number(text)
    };
    if ![&vehicle_number, &driver_id].into_iter().flatten().all(is_fit) {
        return Err(Problem::invalid("prompts", "1 to 64 characters each, no control characters and no card number"));
    }
    Ok(CardPrompts { vehicle_number, driver_id })
}

/// Parses one field; the problem names it.
pub(super) fn field<T: std::str::FromStr<Err = Malformed>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|malformed: Malformed| Problem::invalid(name, malformed.0))
}

/// Tells an absent field from one that is null.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(reader: D) -> Result<Option<T>, D::Error> {
    T::deserialize(reader).map(Some)
}

/// The idempotency key of a POST without a body that matters.
pub(super) fn bodiless_key(
    request: &HttpRequest,
    caller: &Caller,
    route: &str,
    body: &RawBody,
) -> Result<Option<crate::actors::vehicle::IdempotencyKey>, Problem> {
    idempotency(request, caller, route, &body_hash(request.path(), &body.0))
}

fn card_of(edited: Edited) -> Result<CardBody, Problem> {
    let Edited::Card(card) = edited else {
        return Err(Problem::internal("edit", &"an edit of a card led to something else"));
    };
    Ok(CardBody::from(&card))
}

impl From<&Card> for CardBody {
    fn from(card: &Card) -> Self {
        Self {
            card_id: card.card_id.to_string(),
            network_ref: card.network_ref.to_string(),
            vehicle_id: card.vehicle_id.as_ref().map(ToString::to_string),
            status: card.status.into(),
            changed_at: card.changed_at.to_string(),
            previous_vehicle_id: card.previous.as_ref().map(|previous| previous.vehicle_id.to_string()),
            limits: (!card.limits.is_empty()).then(|| CardLimitsBody {
                per_purchase_minor: card.limits.per_purchase_minor,
                per_day_minor: card.limits.per_day_minor,
                per_week_minor: card.limits.per_week_minor,
                currency: card.limits.currency.clone(),
            }),
            prompts: (!card.prompts.is_empty()).then(|| CardPromptsBody {
                vehicle_number: card.prompts.vehicle_number.clone(),
                driver_id: card.prompts.driver_id.clone(),
            }),
        }
    }
}

impl From<CardStatus> for StatusBody {
    fn from(status: CardStatus) -> Self {
        match status {
            CardStatus::Active => Self::Active,
            CardStatus::Suspended => Self::Suspended,
        }
    }
}

impl From<StatusBody> for CardStatus {
    fn from(status: StatusBody) -> Self {
        match status {
            StatusBody::Active => Self::Active,
            StatusBody::Suspended => Self::Suspended,
        }
    }
}
