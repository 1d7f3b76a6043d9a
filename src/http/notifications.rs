//! `/v1/notifications`: how the targets do, what could not be delivered, and the test button.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::access::Caller;
use super::cards::{PageQuery, READERS, WRITERS};
use super::error::{Problem, ProblemBody, Slug};
use super::wire::{Items, Json, PageOf, Query, reply};
use crate::actors::notifier::{DeadLetter, NotifierError, TargetState, Tested};
use crate::domain::Timestamp;

/// A target of `[notifier]`. Times and errors are of this run of the gateway; what waits is kept over a restart.
#[derive(Debug, Serialize, ToSchema)]
pub struct TargetBody {
    pub name: String,
    /// `webhook` or `email`.
    pub kind: String,
    /// `ok`, `failing` (the last try failed) or `untried`.
    pub state: String,
    /// Notifications still to be delivered.
    pub waiting: usize,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest_waiting_since: Option<Timestamp>,
    pub oldest_waiting_age_s: Option<i64>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_success_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_failure_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub failures_in_a_row: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TargetPage {
    pub items: Vec<TargetBody>,
    pub next: Option<String>,
}

/// A notification that was given up.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterBody {
    pub id: String,
    pub target: String,
    /// The CloudEvent's id and type.
    pub notification_id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Tried from then until `died_at`.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub died_at: Timestamp,
    pub attempts: u32,
    pub reason: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterPage {
    pub items: Vec<DeadLetterBody>,
    pub next: Option<String>,
}

/// `{"target":"fleet-desk"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestBody {
    pub target: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TestedBody {
    pub target: String,
    /// The target took it.
    pub is_delivered: bool,
    pub error: Option<String>,
    pub took_ms: u64,
}

#[utoipa::path(get, path = "/v1/notifications/targets", tag = "notifications",
    responses((status = 200, body = TargetPage)))]
pub async fn targets(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let items = app.notifier.targets().await?.into_iter().map(TargetBody::from).collect();
    Ok(reply(StatusCode::OK, &TargetPage { items, next: None }))
}

#[utoipa::path(get, path = "/v1/notifications/dead", tag = "notifications", description = "Newest first",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = DeadLetterPage)))]
pub async fn dead(app: web::Data<App>, caller: Caller, query: Query<PageQuery>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let PageOf { limit, after } = query.0.page()?;
    let after = after.map(|after| after.parse::<Uuid>()).transpose();
    let after = after.map_err(|_| Problem::invalid("after", "what the list before gave as next"))?;
    let mut letters = app.notifier.dead(after, limit + 1).await?;
    let is_more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| is_more).map(|letter| letter.delivery.id.to_string());
    let items = letters.into_iter().map(DeadLetterBody::from).collect();
    Ok(reply(StatusCode::OK, &Items::<DeadLetterBody> { items, next }))
}

#[utoipa::path(post, path = "/v1/notifications/dead/{id}/retry", tag = "notifications", params(("id" = String, Path)),
    responses(
        (status = 202, description = "It waits for its target again, behind what waits already"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json",
            description = "Its target is not configured any more, or too many wait for it"),
    ))]
pub async fn retry(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let id = request.match_info().get("id").and_then(|id| id.parse().ok());
    app.notifier.retry(id.ok_or_else(|| Problem::not_found("dead letter"))?).await?;
    Ok(HttpResponse::Accepted().finish())
}

#[utoipa::path(post, path = "/v1/notifications/test", tag = "notifications", request_body = TestBody,
    description = "Sends `cardea.notification.test.v1` to one target, past its queue, and waits for what becomes of it",
    responses(
        (status = 200, description = "What became of it", body = TestedBody),
        (status = 409, body = ProblemBody, content_type = "application/problem+json",
            description = "There is no such target"),
    ))]
pub async fn test(app: web::Data<App>, caller: Caller, body: Json<TestBody>) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let TestBody { target } = body.value;
    let Tested { error, took_ms } = app.notifier.test(&target).await?;
    Ok(reply(StatusCode::OK, &TestedBody { target, is_delivered: error.is_none(), error, took_ms }))
}

impl From<TargetState> for TargetBody {
    fn from(state: TargetState) -> Self {
        let TargetState { name, kind, waiting, oldest_since, oldest_age_s, health } = state;
        let now_is = match (health.streak, health.last_success_at) {
            (1.., _) => "failing",
            (0, Some(_)) => "ok",
            (0, None) => "untried",
        };
        Self {
            name,
            kind: kind.into(),
            state: now_is.into(),
            waiting,
            oldest_waiting_since: oldest_since,
            oldest_waiting_age_s: oldest_age_s,
            last_success_at: health.last_success_at,
            last_failure_at: health.last_failure_at,
            last_error: health.last_error,
            failures_in_a_row: health.streak,
        }
    }
}

impl From<DeadLetter> for DeadLetterBody {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter { died_at, reason, delivery } = letter;
        Self {
            id: delivery.id.to_string(),
            target: delivery.target,
            notification_id: delivery.notification.id.to_string(),
            kind: delivery.notification.kind.clone(),
            subject: delivery.notification.subject.clone(),
            at: delivery.notification.at,
            since: delivery.since,
            died_at,
            attempts: delivery.attempts,
            reason,
        }
    }
}

impl From<NotifierError> for Problem {
    fn from(error: NotifierError) -> Self {
        match error {
            NotifierError::Busy => Self::new(Slug::NotReady, "the notifier is busy; nothing happened").retry_after(1),
            NotifierError::NoSuchLetter => Self::not_found("dead letter"),
            NotifierError::NoTarget => Self::new(Slug::Conflict, error.to_string()),
            NotifierError::Elsewhere => Self::new(Slug::NotReady, error.to_string()).retry_after(1),
        }
    }
}
