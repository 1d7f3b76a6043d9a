//! Stripe Issuing (schema of API 2026-10-28).

mod objects;
mod posting;
mod question;
pub mod signature;

use actix_web::HttpResponse;
use actix_web::http::header::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::fields;
use super::form::{Acknowledged, Glance, Message, NotSigned, PaymentForm, Received, Signed, Unfit, Verdict};
use super::standard::header;
use crate::config::{FormSettings, Payments};
use crate::domain::Timestamp;

pub struct Stripe;

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
    /// Absent when no decision was recorded in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    /// `fallback` when no decision was recorded in time.
    pub outcome: String,
    /// What led to anything but a plain approval; empty otherwise.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_version: Option<String>,
    /// What the fallback was: `approve` or `decline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

/// The answer to messages that ask nothing: `{}`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Received200 {}

const ASKS: &str = "issuing_authorization.request";

#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

impl PaymentForm for Stripe {
    const SOURCE: &'static str = "stripe";
    const PLACE: usize = 0;
    const REPEATS: bool = false;

    fn settings(payments: &Payments) -> FormSettings<'_> {
        payments.stripe.settings()
    }

    fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        settings: FormSettings<'_>,
        now: Timestamp,
    ) -> Result<Signed, NotSigned> {
        let signature = header(headers, signature::HEADER)?;
        let at_s = signature::verify(signature, body, settings.secrets, now.as_secs(), settings.tolerance_s)?;
        Ok(Signed { at_s, message_id: None })
    }

    fn read(&self, received: &Received<'_>) -> Result<Message, Unfit> {
        let Envelope { id, kind } = fields::parse(received.body)?;
        let id = fields::message_id("id", &id).map_err(|unfit| Unfit { asks: kind == ASKS, ..unfit })?;
        let posting = match kind.as_str() {
            ASKS => return question::read(received).map(|question| Message::Question(Box::new(question))),
            "issuing_authorization.created" | "issuing_authorization.updated" => posting::of_authorization(received)?,
            "issuing_transaction.created" | "issuing_transaction.updated" => posting::of_transaction(received)?,
            _ => None,
        };
        Ok(posting.map_or(Message::Nothing { id: Some(id) }, |posting| Message::Postings(vec![posting])))
    }

    fn glance(&self, body: &[u8]) -> Glance {
        // Only a body that could not be read needs it, and only its amount.
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Glance::default() };
        let at = |name: &str| body.pointer(&format!("/data/object/{name}"));
        let minor = at("pending_request/amount").or(at("amount")).and_then(Value::as_i64);
        let currency = at("pending_request/currency").or(at("currency")).and_then(Value::as_str);
        Glance {
            card_ref: at("card/id").and_then(Value::as_str).and_then(|id| id.parse().ok()),
            amount: fields::money(["", ""], minor, currency).ok(),
            partial_allowed: at("pending_request/is_amount_controllable").and_then(Value::as_bool) == Some(true),
            ..Glance::default()
        }
    }

    fn answer(&self, payments: &Payments, verdict: &Verdict<'_>, _: &Glance) -> HttpResponse {
        let decided = verdict.decided;
        let fallback = if verdict.approved { "approve" } else { "decline" };
        let answer = StripeAnswer {
            approved: verdict.approved,
            amount: verdict.amount_minor,
            metadata: StripeMetadata {
                decision_id: decided.map(|decided| decided.decision_id.to_string()),
                outcome: verdict.outcome().to_owned(),
                reason: verdict.reasons().join(", "),
                rule_version: decided.map(|decided| decided.rule_version.clone()),
                fallback: decided.is_none().then(|| fallback.to_owned()),
            },
        };
        HttpResponse::Ok().insert_header(("Stripe-Version", payments.stripe.api_version.as_str())).json(answer)
    }

    fn acknowledge(&self, _: &Glance, _: Option<&Acknowledged>) -> HttpResponse {
        HttpResponse::Ok().json(Received200 {})
    }
}
