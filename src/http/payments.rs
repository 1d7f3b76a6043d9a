//! The payment network's questions: `POST /v1/payments/stripe`.
//!
//! The signature is checked over the raw bytes before anything is parsed. The schema is the network's: fields we do
//! not use are ignored, fields we need are named when they are missing. Without a durable record there is no answer
//! but 503, and the network then does what it was told to do when we are silent.

mod message;
pub mod signature;
#[cfg(test)]
mod tests;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::auth::sha256;
use super::error::{Problem, ProblemBody, Slug};
use super::wire::{RawBody, reply};
use crate::actors::card_guard::{Authorise, Decided, GuardError};
use crate::domain::card::{Outcome, Purchase, Settlement};
use message::Message;
use signature::SignatureError;

/// The answer to `issuing_authorization.request`, e.g. `{"approved":true,"amount":3000,"metadata":{"decision_id":"…",
/// "outcome":"approve_capped","reason":"location_unknown","rule_version":"2026-11-1"}}`; `{}` for every other type.
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StripeAnswer {
    pub approved: bool,
    /// At most so much, in minor units; only where the network lets us say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<i64>,
    pub metadata: StripeMetadata,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StripeMetadata {
    pub decision_id: String,
    pub outcome: String,
    /// What led to anything but a plain approval; empty otherwise.
    pub reason: String,
    pub rule_version: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Acknowledged {}

#[utoipa::path(post, path = "/v1/payments/stripe", tag = "payments",
    params(("Stripe-Signature" = String, Header, description = "t=<unix seconds>,v1=<hex HMAC-SHA256>[,v1=…]")),
    request_body(content = Object, description = "A Stripe Issuing event, as it came"),
    responses(
        (status = 200, body = StripeAnswer, description = "The recorded answer; {} for events that ask nothing"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No signing secret is configured", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "No answer could be recorded", body = ProblemBody,
            content_type = "application/problem+json"),
    ))]
pub async fn stripe(app: web::Data<App>, request: HttpRequest, body: RawBody) -> Result<HttpResponse, Problem> {
    let stripe = &app.config.payments.stripe;
    if stripe.secrets.is_empty() {
        return Err(Problem::new(Slug::NotFound, "payments by Stripe are not configured"));
    }
    let RawBody(body) = body;
    let now_s = app.clock.now().as_secs();
    let signed_at = signature::verify(header(&request)?, &body, &stripe.secrets, now_s, stripe.tolerance_s)
        .map_err(|error| refuse_signature(&app, error))?;
    let message = message::parse(&body, signed_at).inspect_err(|_| app.guard.counters().bad_messages.inc())?;
    // A signature is good for the tolerance before and after its time.
    let window_ms = i64::try_from(stripe.tolerance_s).unwrap_or(i64::MAX / 4000).saturating_mul(2_000);
    if app.guard.is_repeat(message.id(), window_ms) {
        app.guard.counters().repeated_messages.inc();
    }
    let answer = match message {
        Message::Other { .. } => {
            app.guard.counters().other_messages.inc();
            return Ok(reply(StatusCode::OK, &Acknowledged {}));
        }
        Message::Authorisation { id, purchase, already_minor } => {
            let body_sha256 = hex::encode(sha256(&body));
            let purchase_asked = Purchase::clone(&purchase);
            let ask = Authorise { purchase: purchase_asked, source_event: id, body_sha256, already_minor };
            let decided = app.guard.authorise(ask).await.map_err(no_record)?;
            answer(&decided, &purchase)
        }
    };
    Ok(HttpResponse::Ok().insert_header(("Stripe-Version", stripe.api_version.as_str())).json(answer))
}

fn header(request: &HttpRequest) -> Result<&str, Problem> {
    let mut values = request.headers().get_all("stripe-signature");
    let Some(value) = values.next() else {
        return Err(Problem::new(Slug::Unauthenticated, "a Stripe-Signature header is needed"));
    };
    let malformed = |detail: &str| Problem::invalid("Stripe-Signature", detail);
    if values.next().is_some() {
        return Err(malformed("more than one such header"));
    }
    value.to_str().map_err(|_| malformed("not ASCII"))
}

fn refuse_signature(app: &App, error: SignatureError) -> Problem {
    app.guard.counters().bad_signatures.inc();
    tracing::warn!(%error, "a payment message was refused");
    match error {
        SignatureError::Malformed(detail) => Problem::invalid("Stripe-Signature", detail),
        SignatureError::Wrong => Problem::new(Slug::Unauthenticated, "the signature does not fit the body"),
        SignatureError::OutOfTime => {
            Problem::new(Slug::Unauthenticated, "the signature's time is too far from now; check the clocks")
        }
    }
}

/// An approval that is not on record must not leave, and neither must a decline.
fn no_record(error: GuardError) -> Problem {
    match error {
        GuardError::Unknown => Problem::new(
            Slug::StorageUnavailable,
            "no answer was recorded in time; the same question again brings the recorded one",
        )
        .retry_after(1),
        other => other.into(),
    }
}

fn answer(decided: &Decided, purchase: &Purchase) -> StripeAnswer {
    let asked = purchase.amount.amount_minor;
    // A repeat may ask for more than the question that was judged: the recorded cap holds for it too.
    let fits_cap = decided.cap_minor.is_none_or(|cap| asked <= cap || purchase.partial_allowed);
    let amount = decided.cap_minor.filter(|_| purchase.partial_allowed && decided.outcome == Outcome::ApproveCapped);
    let approved = decided.settlement == Settlement::Enabled && fits_cap;
    StripeAnswer {
        approved,
        amount: amount.map(|cap| cap.min(asked)).filter(|amount| approved && *amount > 0),
        metadata: StripeMetadata {
            decision_id: decided.decision_id.to_string(),
            outcome: decided.outcome.name().into(),
            reason: decided.reasons.join(", "),
            rule_version: decided.rule_version.clone(),
        },
    }
}

impl From<GuardError> for Problem {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::Refused(refusal) => refusal.into(),
            GuardError::KeyReused => crate::actors::vehicle::AskError::KeyReused.into(),
            GuardError::Busy => {
                Self::new(Slug::TooManyRequests, "too many purchases are in flight; nothing happened").retry_after(1)
            }
            GuardError::Storage(why) => crate::actors::vehicle::AskError::Storage(why).into(),
            GuardError::Partly { stored, why } => {
                tracing::warn!(why, stored, "an import was cut short");
                let detail = format!("storage is full or busy; {stored} stations are stored, send the whole again");
                Self::new(Slug::StorageUnavailable, detail).retry_after(2)
            }
            GuardError::Unknown => crate::actors::vehicle::AskError::Unknown.into(),
            GuardError::Read(error) => error.into(),
        }
    }
}
