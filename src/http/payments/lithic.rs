//! Lithic authorization stream access, signed by Standard Webhooks; and the platform's `card_transaction.updated`, which
//! tells a transaction's whole story each time.

use actix_web::HttpResponse;
use actix_web::http::header::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::{self, Loose, kept, kept_id};
use super::form::{Acknowledged, Glance, Message, NotSigned, PaymentForm, Question, Received, Signed, Unfit, Verdict};
use super::standard;
use crate::config::{FormSettings, Payments};
use crate::domain::card::{
    AuthorizationId, Fill, Merchant, NetworkRef, Outcome, Posting, PostingKind, Prompts, Purchase,
};
use crate::domain::{Money, Timestamp};

pub struct Lithic;

const SOURCE: &str = "lithic";
const ASKS: &str = "card_authorization.approval_request";
const TELLS: &str = "card_transaction.updated";
/// Events of one transaction that are looked at, the newest last.
const MAX_EVENTS: usize = 64;

#[derive(Deserialize)]
struct Envelope {
    event_type: Option<String>,
}

/// Unknown fields are the platform's business and are ignored.
#[derive(Deserialize)]
struct Authorization {
    token: String,
    status: Option<String>,
    amount: Option<i64>,
    amounts: Option<Amounts>,
    cardholder_currency: Option<String>,
    card: Card,
    created: Option<String>,
    merchant: Option<Place>,
    pos: Option<Pos>,
    fleet_info: Option<FleetInfo>,
    /// For programs that get it: the token of this very request.
    event_token: Option<String>,
    settled_amount: Option<i64>,
}

#[derive(Deserialize)]
struct Amounts {
    cardholder: Option<Amount>,
}

#[derive(Deserialize)]
struct Amount {
    amount: i64,
    currency: String,
}

#[derive(Deserialize)]
struct Card {
    token: String,
}

#[derive(Deserialize, Default)]
struct Place {
    acceptor_id: Option<String>,
    mcc: Option<Loose>,
    descriptor: Option<String>,
    city: Option<String>,
    country: Option<String>,
    postal_code: Option<Loose>,
}

#[derive(Deserialize)]
struct Pos {
    terminal: Option<Terminal>,
}

#[derive(Deserialize)]
struct Terminal {
    acceptor_terminal_id: Option<String>,
    partial_approval_capable: Option<bool>,
}

#[derive(Deserialize, Default)]
struct FleetInfo {
    driver_number: Option<Loose>,
    vehicle_number: Option<Loose>,
}

#[derive(Deserialize)]
struct Transaction {
    token: String,
    card_token: Option<String>,
    cardholder_currency: Option<String>,
    merchant: Option<Place>,
    pos: Option<Pos>,
    events: Option<Vec<Event>>,
}

#[derive(Deserialize)]
struct Event {
    token: String,
    #[serde(rename = "type")]
    kind: String,
    result: Option<String>,
    amount: Option<i64>,
    amounts: Option<Amounts>,
    created: Option<String>,
}

/// E.g. `{"result":"APPROVED","token":"…","approved_amount":6000}`.
#[derive(Debug, Serialize, ToSchema)]
pub struct LithicAnswer {
    /// `APPROVED`, `UNAUTHORIZED_MERCHANT`, `VELOCITY_EXCEEDED`, `DRIVER_NUMBER_INVALID`, `VEHICLE_NUMBER_INVALID`,
    /// `SUSPECTED_FRAUD`, `CHALLENGE` or `CARD_PAUSED`.
    result: &'static str,
    /// Absent when the request's could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Less than was asked: a partial approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    approved_amount: Option<i64>,
}

impl PaymentForm for Lithic {
    const SOURCE: &'static str = SOURCE;
    const PLACE: usize = 3;

    fn settings(payments: &Payments) -> FormSettings<'_> {
        payments.lithic.settings()
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
        let Envelope { event_type } = fields::parse(received.body)?;
        match event_type.as_deref() {
            None | Some(ASKS) => authorization(received),
            Some(TELLS) => transaction(received).map(Message::Postings).map_err(Unfit::telling),
            Some(_) => Ok(Message::Nothing { id: None }),
        }
    }

    fn glance(&self, body: &[u8]) -> Glance {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Glance::default() };
        let event_type = body.get("event_type").and_then(Value::as_str);
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str);
        let minor = body.pointer("/amounts/cardholder/amount").or(body.get("amount")).and_then(Value::as_i64);
        let currency = text("/amounts/cardholder/currency").or(text("/cardholder_currency")).unwrap_or("USD");
        let initiator = text("/transaction_initiator");
        Glance {
            token: fields::text_at(&body, "/token"),
            method: event_type.filter(|kind| *kind != ASKS).and_then(|kind| kept_id(Some(kind.to_owned()))),
            card_ref: text("/card/token").and_then(|id| id.parse().ok()),
            amount: fields::money(["", ""], minor, Some(currency)).ok(),
            partial_allowed: body.pointer("/pos/terminal/partial_approval_capable").and_then(Value::as_bool)
                == Some(true),
            has_vehicle_number: body.pointer("/fleet_info/vehicle_number").is_some_and(|number| !number.is_null()),
            can_challenge: initiator.is_none_or(|initiator| initiator == "CARDHOLDER"),
            ..Glance::default()
        }
    }

    fn answer(&self, _: &Payments, verdict: &Verdict<'_>, glance: &Glance) -> HttpResponse {
        let result = if verdict.approved { "APPROVED" } else { declined(verdict, glance) };
        let token = glance.token.clone();
        HttpResponse::Ok().json(LithicAnswer { result, token, approved_amount: verdict.amount_minor })
    }

    fn acknowledge(&self, glance: &Glance, _: Option<&Acknowledged>) -> HttpResponse {
        match &glance.method {
            // A credit or a balance inquiry: nobody pays, and silence would decline it.
            None => {
                let token = glance.token.clone();
                HttpResponse::Ok().json(LithicAnswer { result: "APPROVED", token, approved_amount: None })
            }
            Some(_) => HttpResponse::Ok().json(serde_json::json!({})),
        }
    }
}

/// The platform's word for why; what rests on not knowing is never called fraud.
fn declined(verdict: &Verdict<'_>, glance: &Glance) -> &'static str {
    if glance.can_challenge && verdict.decided.is_some_and(|decided| decided.outcome == Outcome::StepUp) {
        return "CHALLENGE";
    }
    match verdict.main_reason() {
        "merchant_category" => "UNAUTHORIZED_MERCHANT",
        "velocity" | "amount" | "amount_above_cap" => "VELOCITY_EXCEEDED",
        "driver_prompt" if glance.has_vehicle_number => "VEHICLE_NUMBER_INVALID",
        "driver_prompt" => "DRIVER_NUMBER_INVALID",
        "location"
        | "fuel_level"
        | "tank_space"
        | "product"
        | "ignition_and_motion"
        | "card_in_car"
        | "duplicate_or_impossible_travel" => "SUSPECTED_FRAUD",
        _ => "CARD_PAUSED",
    }
}

fn authorization(received: &Received<'_>) -> Result<Message, Unfit> {
    let asked: Authorization = fields::parse(received.body)?;
    match asked.status.as_deref() {
        None | Some("AUTHORIZATION" | "FINANCIAL_AUTHORIZATION") => {}
        Some("CREDIT_AUTHORIZATION" | "FINANCIAL_CREDIT_AUTHORIZATION" | "BALANCE_INQUIRY") => {
            return Ok(Message::Nothing { id: None });
        }
        Some(_) => return Err(Unfit::new("status", "is not known")),
    }
    let told = asked.created.as_deref().map(|text| fields::rfc3339("created", text)).transpose()?;
    let message_id = received.signed.message_id.as_deref().unwrap_or_default();
    let purchase = Purchase {
        authorization_id: fields::id("token", &asked.token)?,
        source: SOURCE.to_owned(),
        card_ref: fields::id("card.token", &asked.card.token)?,
        at: fields::asked_at(told, received.signed.at_s)?,
        amount: amount(asked.amounts.as_ref(), asked.amount, asked.cardholder_currency.as_deref())?,
        partial_allowed: terminal(asked.pos.as_ref()).and_then(|pos| pos.partial_approval_capable) == Some(true),
        merchant: merchant(asked.merchant, asked.pos.as_ref()),
        fill: Fill::default(),
        prompts: asked.fleet_info.unwrap_or_default().prompts(),
    };
    // A first question has nothing settled; the platform sends increments as questions of their own.
    let already_minor = asked.settled_amount.filter(|settled| *settled > 0).unwrap_or(0);
    let source_event = fields::message_id("webhook-id", asked.event_token.as_deref().unwrap_or(message_id))?;
    Ok(Message::Question(Box::new(Question { purchase, source_event, already_minor })))
}

fn transaction(received: &Received<'_>) -> Result<Vec<Posting>, Unfit> {
    let told: Transaction = fields::parse(received.body)?;
    let authorization_id: AuthorizationId = fields::id("token", &told.token)?;
    let card_ref: Option<NetworkRef> = told.card_token.as_deref().map(|id| fields::id("card_token", id)).transpose()?;
    let source_event = fields::message_id("webhook-id", received.signed.message_id.as_deref().unwrap_or_default())?;
    let merchant = merchant(told.merchant, told.pos.as_ref());
    let events = told.events.unwrap_or_default();
    let newest = &events[events.len().saturating_sub(MAX_EVENTS)..];
    let mut postings = Vec::new();
    for event in newest {
        let Some(kind) = event.posting_kind() else { continue };
        let at = match event.created.as_deref() {
            Some(text) => fields::rfc3339("events.created", text)?,
            None => fields::unix("events.created", received.signed.at_s)?,
        };
        postings.push(Posting {
            source: SOURCE.to_owned(),
            posting_id: fields::message_id("events.token", &event.token)?,
            source_event: source_event.clone(),
            body_sha256: received.body_sha256.to_owned(),
            kind,
            authorization_id: Some(authorization_id.clone()),
            card_ref: card_ref.clone(),
            at,
            amount: amount(event.amounts.as_ref(), event.amount, told.cardholder_currency.as_deref())?,
            merchant: merchant.clone(),
            fill: Fill::default(),
            prompts: Prompts::default(),
        });
    }
    Ok(postings)
}

impl Event {
    /// `None` for what we were asked ourselves, for what was declined, and for what moves nothing.
    fn posting_kind(&self) -> Option<PostingKind> {
        if self.result.as_deref().is_some_and(|result| result != "APPROVED") {
            return None;
        }
        match self.kind.as_str() {
            "CLEARING" => Some(PostingKind::Capture),
            "AUTHORIZATION_REVERSAL" => Some(PostingKind::Reversal),
            "AUTHORIZATION_EXPIRY" => Some(PostingKind::Expiry),
            "RETURN" => Some(PostingKind::Refund),
            // The network stood in for the platform.
            "AUTHORIZATION_ADVICE" => Some(PostingKind::ApprovedWithoutUs),
            _ => None,
        }
    }
}

impl FleetInfo {
    fn prompts(self) -> Prompts {
        Prompts {
            odometer_km: None,
            driver_id: kept(self.driver_number.and_then(|loose| loose.text())),
            vehicle_number: kept(self.vehicle_number.and_then(|loose| loose.text())),
        }
    }
}

/// What the cardholder is to pay. Programs with one currency leave it out: US dollars, by the platform's default.
fn amount(amounts: Option<&Amounts>, flat: Option<i64>, currency: Option<&str>) -> Result<Money, Unfit> {
    let cardholder = amounts.and_then(|amounts| amounts.cardholder.as_ref());
    let minor = cardholder.map(|amount| amount.amount).or(flat).and_then(i64::checked_abs);
    let code = cardholder.map(|amount| amount.currency.as_str()).or(currency).unwrap_or("USD");
    fields::money(["amounts.cardholder.amount", "amounts.cardholder.currency"], minor, Some(code))
}

fn terminal(pos: Option<&Pos>) -> Option<&Terminal> {
    pos.and_then(|pos| pos.terminal.as_ref())
}

fn merchant(place: Option<Place>, pos: Option<&Pos>) -> Merchant {
    let place = place.unwrap_or_default();
    let text = |loose: Option<Loose>| loose.and_then(|loose| loose.text());
    Merchant {
        network_id: kept_id(place.acceptor_id),
        terminal_id: kept_id(terminal(pos).and_then(|terminal| terminal.acceptor_terminal_id.clone())),
        name: kept(place.descriptor),
        category_code: kept(text(place.mcc)),
        city: kept(place.city),
        postal_code: kept(text(place.postal_code)),
        country: kept(place.country),
        position: None,
    }
}
