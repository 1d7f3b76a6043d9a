//! Our own form, signed by Standard Webhooks: for networks and card programs that speak to us through a program of the
//! fleet's. Unknown fields are refused: whoever writes such a program wants to hear of a misspelt name.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::fields;
use super::form::{Acknowledged, Glance, Message, NotSigned, PaymentForm, Question, Received, Signed, Unfit, Verdict};
use super::standard;
use crate::config::{FormSettings, Payments};
use crate::domain::card::{Fill, Merchant, Posting, PostingKind, Prompts, Purchase, Settlement};
use crate::domain::{Money, Position, Timestamp};
use crate::http::error::Problem;
use crate::http::wire::reply;

/// One of the form's three routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    Authorization,
    Capture,
    Reversal,
}

/// May this card pay for this, here, now? E.g. `{"authorization_id":"a-1","card_ref":"card-7",
/// "at":"2026-11-21T22:36:46.000Z","amount_minor":5000,"currency":"EUR","merchant":{"network_id":"9876543210",
/// "terminal_id":"77","name":"AGIP ENI","mcc":"5542","postal_code":"10121","country":"IT"},"partial_allowed":true}`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnAuthorization {
    authorization_id: String,
    card_ref: String,
    /// RFC 3339, by the network's clock.
    at: String,
    amount_minor: i64,
    /// ISO 4217.
    currency: String,
    merchant: Option<OwnMerchant>,
    fleet: Option<OwnFleet>,
    /// The network lets us approve less than was asked.
    partial_allowed: Option<bool>,
    /// What is held under the same authorisation already; above 0 more is asked for.
    already_minor: Option<i64>,
    product: Option<String>,
    litres: Option<f64>,
}

/// What was filled, after the fill. The posting's own time is that of the signature where `at` is absent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnCapture {
    /// Absent = a purchase that nobody asked about, e.g. taken offline; then `card_ref` is needed.
    authorization_id: Option<String>,
    /// The network's name of this posting; absent = the `webhook-id`.
    capture_id: Option<String>,
    card_ref: Option<String>,
    at: Option<String>,
    litres: Option<f64>,
    /// `petrol`, `diesel`, `lpg`, `cng`, `hydrogen`, `electricity`, `adblue`; anything else is `other`.
    product: Option<String>,
    amount_minor: i64,
    /// Absent = that of the authorisation, written `XXX` (ISO 4217: no currency).
    currency: Option<String>,
    merchant: Option<OwnMerchant>,
    fleet: Option<OwnFleet>,
}

/// What was held or taken and is given back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnReversal {
    authorization_id: String,
    /// The network's name of this posting; absent = the `webhook-id`.
    reversal_id: Option<String>,
    card_ref: Option<String>,
    at: Option<String>,
    amount_minor: i64,
    currency: Option<String>,
    /// `reversal` (as when absent), `expiry` or `refund`.
    kind: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnMerchant {
    network_id: Option<String>,
    terminal_id: Option<String>,
    name: Option<String>,
    mcc: Option<String>,
    city: Option<String>,
    postal_code: Option<String>,
    country: Option<String>,
    #[schema(value_type = Option<Object>)]
    position: Option<Position>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnFleet {
    odometer_km: Option<f64>,
    driver_id: Option<String>,
    vehicle_number: Option<String>,
}

/// The recorded answer, e.g. `{"decision_id":"…","outcome":"approve_capped","settlement":"enabled","cap_minor":10000,
/// "reasons":["location_unknown"]}`.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct OwnAnswer {
    /// Absent when no decision was recorded in time; the reasons say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<String>,
    /// `approve`, `approve_capped`, `step_up` or `decline`.
    outcome: &'static str,
    /// `enabled` or `disabled`: does the money move?
    settlement: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cap_minor: Option<i64>,
    reasons: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OwnPosted {
    posting_id: String,
    /// It came before and was taken then.
    is_repeat: bool,
}

const SOURCE: &str = "own";

impl PaymentForm for Own {
    const SOURCE: &'static str = SOURCE;
    const PLACE: usize = 1;
    const REPEATS: bool = false;

    fn settings(payments: &Payments) -> FormSettings<'_> {
        payments.own.settings()
    }

    fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        settings: FormSettings<'_>,
        now: Timestamp,
    ) -> Result<Signed, NotSigned> {
        standard::verify(headers, body, settings.secrets, now.as_secs(), settings.tolerance_s)
    }

    fn read(&self, received: &Received<'_>) -> Result<Message, Unfit> {
        let asks = *self == Self::Authorization;
        let read = match no_card_number(received.body) {
            Err(unfit) => Err(unfit),
            Ok(()) => match self {
                Self::Authorization => authorization(received).map(|asked| Message::Question(Box::new(asked))),
                Self::Capture => capture(received).map(|posting| Message::Postings(vec![posting])),
                Self::Reversal => reversal(received).map(|posting| Message::Postings(vec![posting])),
            },
        };
        read.map_err(|unfit| Unfit { asks, ..unfit })
    }

    fn glance(&self, body: &[u8]) -> Glance {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Glance::default() };
        let currency = body.get("currency").and_then(Value::as_str);
        Glance {
            card_ref: body.get("card_ref").and_then(Value::as_str).and_then(|id| id.parse().ok()),
            amount: fields::money(["", ""], body.get("amount_minor").and_then(Value::as_i64), currency).ok(),
            partial_allowed: body.get("partial_allowed").and_then(Value::as_bool) == Some(true),
            ..Glance::default()
        }
    }

    fn answer(&self, _: &Payments, verdict: &Verdict<'_>, _: &Glance) -> HttpResponse {
        let answer = match verdict.decided {
            Some(decided) => OwnAnswer {
                decision_id: Some(decided.decision_id.to_string()),
                outcome: decided.outcome.name(),
                settlement: settlement(decided.settlement),
                cap_minor: decided.cap_minor,
                reasons: decided.reasons.clone(),
            },
            None => {
                let (outcome, moves) = match (verdict.approved, verdict.amount_minor) {
                    (true, None) => ("approve", Settlement::Enabled),
                    (true, Some(_)) => ("approve_capped", Settlement::Enabled),
                    (false, _) => ("decline", Settlement::Disabled),
                };
                let reasons = vec!["fallback".to_owned(), verdict.fallback_reason.to_owned()];
                let cap_minor = verdict.amount_minor;
                OwnAnswer { decision_id: None, outcome, settlement: settlement(moves), cap_minor, reasons }
            }
        };
        reply(StatusCode::OK, &answer)
    }

    fn acknowledge(&self, _: &Glance, posted: Option<&Acknowledged>) -> HttpResponse {
        match posted {
            Some(Acknowledged { posting_id, is_repeat }) => {
                let posted = OwnPosted { posting_id: posting_id.clone(), is_repeat: *is_repeat };
                reply(StatusCode::ACCEPTED, &posted)
            }
            None => HttpResponse::Accepted().json(serde_json::json!({})),
        }
    }

    /// A card number, and a posting that cannot be read, are mistakes of a program that can be mended.
    fn refuse(&self, unfit: &Unfit) -> Option<Problem> {
        let is_told = unfit.is_card_number || *self != Self::Authorization;
        is_told.then(|| Problem::invalid(unfit.field.clone(), unfit.detail))
    }
}

fn settlement(settlement: Settlement) -> &'static str {
    match settlement {
        Settlement::Enabled => "enabled",
        Settlement::Disabled => "disabled",
    }
}

fn no_card_number(body: &[u8]) -> Result<(), Unfit> {
    let whole: Value = fields::parse(body)?;
    match fields::card_number_in(&whole) {
        None => Ok(()),
        Some(field) => Err(Unfit {
            is_card_number: true,
            ..Unfit::new(field, "it looks like a card number; no card number is taken")
        }),
    }
}

fn authorization(received: &Received<'_>) -> Result<Question, Unfit> {
    let asked: OwnAuthorization = fields::parse(received.body)?;
    let already_minor = asked.already_minor.unwrap_or(0);
    if already_minor < 0 {
        return Err(Unfit::new("already_minor", "an amount of 0 or more minor units"));
    }
    let told = fields::rfc3339("at", &asked.at)?;
    let purchase = Purchase {
        authorization_id: fields::id("authorization_id", &asked.authorization_id)?,
        source: SOURCE.to_owned(),
        card_ref: fields::id("card_ref", &asked.card_ref)?,
        at: fields::asked_at(Some(told), received.signed.at_s)?,
        amount: fields::money(["amount_minor", "currency"], Some(asked.amount_minor), Some(&asked.currency))?,
        partial_allowed: asked.partial_allowed == Some(true),
        merchant: merchant(asked.merchant)?,
        fill: fill(asked.product.as_deref(), asked.litres)?,
        prompts: prompts(asked.fleet)?,
    };
    Ok(Question { purchase, source_event: event_id(received)?, already_minor })
}

fn capture(received: &Received<'_>) -> Result<Posting, Unfit> {
    let told: OwnCapture = fields::parse(received.body)?;
    if told.authorization_id.is_none() && told.card_ref.is_none() {
        return Err(Unfit::new("authorization_id", "is missing, and so is card_ref"));
    }
    let about = About {
        kind: PostingKind::Capture,
        id: ("capture_id", told.capture_id.as_deref()),
        authorization: told.authorization_id.as_deref(),
        card: told.card_ref.as_deref(),
        at: told.at.as_deref(),
        amount_minor: told.amount_minor,
        currency: told.currency.as_deref(),
    };
    let mut posting = posting(received, about)?;
    posting.merchant = merchant(told.merchant)?;
    posting.fill = fill(told.product.as_deref(), told.litres)?;
    posting.prompts = prompts(told.fleet)?;
    Ok(posting)
}

fn reversal(received: &Received<'_>) -> Result<Posting, Unfit> {
    let told: OwnReversal = fields::parse(received.body)?;
    let kind = match told.kind.as_deref() {
        None | Some("reversal") => PostingKind::Reversal,
        Some("expiry") => PostingKind::Expiry,
        Some("refund") => PostingKind::Refund,
        Some(_) => return Err(Unfit::new("kind", "reversal, expiry or refund")),
    };
    let about = About {
        kind,
        id: ("reversal_id", told.reversal_id.as_deref()),
        authorization: Some(&told.authorization_id),
        card: told.card_ref.as_deref(),
        at: told.at.as_deref(),
        amount_minor: told.amount_minor,
        currency: told.currency.as_deref(),
    };
    posting(received, about)
}

struct About<'a> {
    kind: PostingKind,
    id: (&'static str, Option<&'a str>),
    authorization: Option<&'a str>,
    card: Option<&'a str>,
    at: Option<&'a str>,
    amount_minor: i64,
    currency: Option<&'a str>,
}

fn posting(received: &Received<'_>, about: About<'_>) -> Result<Posting, Unfit> {
    let source_event = event_id(received)?;
    let at = match about.at {
        Some(text) => fields::rfc3339("at", text)?,
        None => fields::unix("at", received.signed.at_s)?,
    };
    let currency = about.currency.unwrap_or(Money::NO_CURRENCY);
    let amount: Money = fields::money(["amount_minor", "currency"], Some(about.amount_minor), Some(currency))?;
    Ok(Posting {
        source: SOURCE.to_owned(),
        posting_id: match about.id {
            (field, Some(id)) => fields::message_id(field, id)?,
            (_, None) => source_event.clone(),
        },
        source_event,
        body_sha256: received.body_sha256.to_owned(),
        kind: about.kind,
        authorization_id: about.authorization.map(|id| fields::id("authorization_id", id)).transpose()?,
        card_ref: about.card.map(|id| fields::id("card_ref", id)).transpose()?,
        at,
        amount,
        merchant: Merchant::default(),
        fill: Fill::default(),
        prompts: Prompts::default(),
    })
}

/// The `webhook-id`: every message of this form has one.
fn event_id(received: &Received<'_>) -> Result<String, Unfit> {
    fields::message_id("webhook-id", received.signed.message_id.as_deref().unwrap_or_default())
}

fn merchant(told: Option<OwnMerchant>) -> Result<Merchant, Unfit> {
    let told = told.unwrap_or_default();
    if told.position.is_some_and(|position| !position.is_valid()) {
        return Err(Unfit::new("merchant.position", "latitude -90 to 90 and longitude -180 to 180"));
    }
    Ok(Merchant {
        network_id: fields::kept_id(told.network_id),
        terminal_id: fields::kept_id(told.terminal_id),
        name: fields::kept(told.name),
        category_code: fields::kept(told.mcc),
        city: fields::kept(told.city),
        postal_code: fields::kept(told.postal_code),
        country: fields::kept(told.country),
        position: told.position,
    })
}

fn fill(product: Option<&str>, litres: Option<f64>) -> Result<Fill, Unfit> {
    let is_fit = litres.is_none_or(|litres| fields::litres(litres).is_some());
    if !is_fit {
        return Err(Unfit::new("litres", "0 to 100000"));
    }
    Ok(Fill { product: product.map(fields::product), litres })
}

fn prompts(told: Option<OwnFleet>) -> Result<Prompts, Unfit> {
    let told = told.unwrap_or_default();
    let is_fit = told.odometer_km.is_none_or(|km| fields::km(km).is_some());
    if !is_fit {
        return Err(Unfit::new("fleet.odometer_km", "0 to 10000000"));
    }
    Ok(Prompts {
        odometer_km: told.odometer_km,
        driver_id: fields::kept(told.driver_id),
        vehicle_number: fields::kept(told.vehicle_number),
    })
}
