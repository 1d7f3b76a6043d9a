//! `issuing_authorization.request`: the question, as far as the guard needs it.

use serde::Deserialize;

use super::objects::{Fleet, Fuel, MerchantData};
use crate::domain::Money;
use crate::domain::card::Purchase;
use crate::http::payments::fields;
use crate::http::payments::form::{PaymentForm, Question, Received, Unfit};

#[derive(Deserialize)]
struct Event {
    id: String,
    created: Option<i64>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Authorization,
}

/// Unknown fields are the network's business and are ignored.
#[derive(Deserialize)]
struct Authorization {
    id: String,
    amount: Option<i64>,
    currency: Option<String>,
    created: Option<i64>,
    card: CardObject,
    merchant_data: Option<MerchantData>,
    pending_request: Option<PendingRequest>,
    fleet: Option<Fleet>,
    fuel: Option<Fuel>,
    /// Earlier questions under the same authorisation; only whether there were any matters.
    request_history: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct CardObject {
    id: String,
}

#[derive(Deserialize)]
struct PendingRequest {
    amount: Option<i64>,
    currency: Option<String>,
    is_amount_controllable: Option<bool>,
}

pub fn read(received: &Received<'_>) -> Result<Question, Unfit> {
    let Event { id, created, data: Data { object } } = fields::parse(received.body)?;
    let already_minor = already_minor(&object);
    // The event's own time; the authorisation's is that of its first question, which an increment repeats.
    let told = created.or(object.created).map(|seconds| fields::unix("created", seconds)).transpose()?;
    let purchase = Purchase {
        authorization_id: fields::id("data.object.id", &object.id)?,
        source: super::Stripe::SOURCE.to_owned(),
        card_ref: fields::id("data.object.card.id", &object.card.id)?,
        at: fields::asked_at(told, received.signed.at_s)?,
        amount: amount(&object)?,
        partial_allowed: object.pending_request.as_ref().and_then(|asked| asked.is_amount_controllable) == Some(true),
        merchant: object.merchant_data.unwrap_or_default().merchant(),
        fill: object.fuel.unwrap_or_default().fill(),
        prompts: object.fleet.unwrap_or_default().prompts(),
    };
    Ok(Question { purchase, source_event: fields::message_id("id", &id)?, already_minor })
}

/// The authorisation's own amount is what was approved before; what is asked for now stands beside it, and an increment
/// has a history of earlier questions. Without one, two equal amounts are one purchase that was written down twice.
fn already_minor(object: &Authorization) -> i64 {
    let (Some(held), Some(asked)) = (object.amount, &object.pending_request) else { return 0 };
    let is_same = asked.amount.is_none_or(|asked| asked == held);
    let is_increment =
        held > 0 && (!is_same || object.request_history.as_ref().is_some_and(|earlier| !earlier.is_empty()));
    if is_increment { held } else { 0 }
}

/// What is asked for now, else the authorisation's own amount.
fn amount(object: &Authorization) -> Result<Money, Unfit> {
    let asked = object.pending_request.as_ref();
    let minor = asked.and_then(|asked| asked.amount).or(object.amount);
    let currency = asked.and_then(|asked| asked.currency.as_deref()).or(object.currency.as_deref());
    fields::money(["data.object.amount", "data.object.currency"], minor, currency)
}
