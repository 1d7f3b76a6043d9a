//! Payment networks: their questions before a purchase, and what they post after it.
//!
//! Each network has its form behind one trait (`form.rs`); the way of a message is the same for all (`receive.rs`). A
//! sender is proved over the raw bytes before anything is parsed, no card number is kept, and a question of a proved
//! sender is always answered.

#[cfg(test)]
mod desk_tests;
mod fields;
mod form;
#[cfg(test)]
mod fuzz_tests;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod given;
#[cfg(test)]
mod golden_tests;
mod lithic;
mod marqeta;
mod own;
mod receive;
mod standard;
mod stripe;
#[cfg(test)]
mod tests;

use actix_web::{HttpRequest, HttpResponse, web};

pub use receive::PaymentEdge;

use self::lithic::{Lithic, LithicAnswer};
use self::marqeta::{Marqeta, MarqetaAnswer};
use self::own::{Own, OwnAnswer, OwnAuthorization, OwnCapture, OwnPosted, OwnReversal};
use self::receive::receive;
use self::stripe::{Stripe, StripeAnswer};
use super::App;
use super::error::{Problem, ProblemBody, Slug};
use crate::actors::card_guard::GuardError;

type Answer = Result<HttpResponse, Problem>;

#[utoipa::path(post, path = "/v1/payments/stripe", tag = "payments",
    params(("Stripe-Signature" = String, Header, description = "t=<unix seconds>,v1=<hex HMAC-SHA256>[,v1=…]")),
    request_body(content = Object, description = "A Stripe Issuing event, as it came"),
    responses(
        (status = 200, body = StripeAnswer, description = "The recorded answer or the fallback; {} where nothing is asked"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No signing secret is configured", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "A posting could not be recorded; send it again", body = ProblemBody,
            content_type = "application/problem+json"),
    ))]
pub async fn stripe(app: web::Data<App>, request: HttpRequest, payload: web::Payload) -> Answer {
    receive(&app, &request, payload, Stripe).await
}

#[utoipa::path(post, path = "/v1/payments/authorizations", tag = "payments",
    params(
        ("webhook-id" = String, Header, description = "The message's id; the same again is a repeat"),
        ("webhook-timestamp" = String, Header, description = "Unix seconds"),
        ("webhook-signature" = String, Header, description = "v1,<base64 HMAC-SHA256 of {id}.{timestamp}.{body}>[ v1,…]"),
    ),
    request_body = OwnAuthorization,
    responses(
        (status = 200, body = OwnAnswer, description = "The recorded answer, or the fallback"),
        (status = 400, description = "A malformed header, or a card number in the body", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No signing secret is configured", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn authorizations(app: web::Data<App>, request: HttpRequest, payload: web::Payload) -> Answer {
    receive(&app, &request, payload, Own::Authorization).await
}

#[utoipa::path(post, path = "/v1/payments/captures", tag = "payments",
    params(
        ("webhook-id" = String, Header, description = "The message's id; the same again is a repeat"),
        ("webhook-timestamp" = String, Header, description = "Unix seconds"),
        ("webhook-signature" = String, Header, description = "v1,<base64 HMAC-SHA256 of {id}.{timestamp}.{body}>[ v1,…]"),
    ),
    request_body = OwnCapture,
    responses(
        (status = 202, body = OwnPosted, description = "Taken, and durable"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No signing secret is configured", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It could not be recorded; send it again", body = ProblemBody,
            content_type = "application/problem+json"),
    ))]
pub async fn captures(app: web::Data<App>, request: HttpRequest, payload: web::Payload) -> Answer {
    receive(&app, &request, payload, Own::Capture).await
}

#[utoipa::path(post, path = "/v1/payments/reversals", tag = "payments",
    params(
        ("webhook-id" = String, Header, description = "The message's id; the same again is a repeat"),
        ("webhook-timestamp" = String, Header, description = "Unix seconds"),
        ("webhook-signature" = String, Header, description = "v1,<base64 HMAC-SHA256 of {id}.{timestamp}.{body}>[ v1,…]"),
    ),
    request_body = OwnReversal,
    responses(
        (status = 202, body = OwnPosted, description = "Taken, and durable"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No signing secret is configured", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It could not be recorded; send it again", body = ProblemBody,
            content_type = "application/problem+json"),
    ))]
pub async fn reversals(app: web::Data<App>, request: HttpRequest, payload: web::Payload) -> Answer {
    receive(&app, &request, payload, Own::Reversal).await
}

#[utoipa::path(post, path = "/v1/payments/marqeta", tag = "payments",
    params(("Authorization" = String, Header, description = "Basic <base64 of user:password>")),
    request_body(content = Object, description = "A JIT funding request, as it came"),
    responses(
        (status = 200, body = MarqetaAnswer, description = "Approved, or taken"),
        (status = 402, body = MarqetaAnswer, description = "Denied"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No credentials are configured", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "A posting could not be recorded; send it again", body = ProblemBody,
            content_type = "application/problem+json"),
    ))]
pub async fn marqeta(app: web::Data<App>, request: HttpRequest, payload: web::Payload) -> Answer {
    receive(&app, &request, payload, Marqeta).await
}

#[utoipa::path(post, path = "/v1/payments/lithic", tag = "payments",
    params(
        ("webhook-id" = String, Header, description = "The message's id"),
        ("webhook-timestamp" = String, Header, description = "Unix seconds"),
        ("webhook-signature" = String, Header, description = "v1,<base64 HMAC-SHA256 of {id}.{timestamp}.{body}>[ v1,…]"),
    ),
    request_body(content = Object, description = "An authorization request or a transaction event, as it came"),
    responses(
        (status = 200, body = LithicAnswer, description = "The answer; {} where nothing is asked"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No signing secret is configured", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "A posting could not be recorded; send it again", body = ProblemBody,
            content_type = "application/problem+json"),
    ))]
pub async fn lithic(app: web::Data<App>, request: HttpRequest, payload: web::Payload) -> Answer {
    receive(&app, &request, payload, Lithic).await
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
