//! Stripe Issuing events (schema of API 2026-10-28), as far as the guard needs them.

use serde::Deserialize;

use crate::domain::card::{AuthorizationId, Fill, Merchant, NetworkRef, Prompts, Purchase, keepable};
use crate::domain::{Malformed, Money, Timestamp};
use crate::http::error::Problem;
use crate::http::wire::parse_json;

#[derive(Debug, PartialEq)]
pub enum Message {
    /// The network asks whether a purchase may go on.
    Authorisation {
        id: String,
        purchase: Box<Purchase>,
        /// What the network holds for this authorisation already: above 0 an increment is asked for.
        already_minor: i64,
    },
    /// Anything else: nothing to answer.
    Other { id: String },
}

impl Message {
    pub fn id(&self) -> &str {
        match self {
            Self::Authorisation { id, .. } | Self::Other { id } => id,
        }
    }
}

const ASKS: &str = "issuing_authorization.request";
const MAX_EVENT_ID_LEN: usize = 255;
const MAX_TEXT_CHARS: usize = 64;
/// A question about a purchase is asked while the card is in the pump: a time further back is not the purchase's, and
/// the time of the signature counts instead.
const MAX_DELAY_S: i64 = 3_600;

/// Unknown fields are the network's business and are ignored.
#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Question {
    created: Option<i64>,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Authorization,
}

#[derive(Deserialize)]
struct Authorization {
    id: String,
    amount: Option<i64>,
    currency: Option<String>,
    created: Option<i64>,
    card: CardObject,
    merchant_data: Option<MerchantData>,
    pending_request: Option<PendingRequest>,
    /// Earlier questions under the same authorisation; only whether there were any matters.
    request_history: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct CardObject {
    id: String,
}

#[derive(Deserialize, Default)]
struct MerchantData {
    category_code: Option<String>,
    name: Option<String>,
    city: Option<String>,
    postal_code: Option<String>,
    country: Option<String>,
    network_id: Option<String>,
    terminal_id: Option<String>,
}

#[derive(Deserialize)]
struct PendingRequest {
    amount: Option<i64>,
    currency: Option<String>,
    is_amount_controllable: Option<bool>,
}

/// `signed_at` = the signature's time in Unix seconds. The problem names the field.
pub fn parse(body: &[u8], signed_at: i64) -> Result<Message, Problem> {
    let Envelope { id, kind } = parse_json(body)?;
    if !(1..=MAX_EVENT_ID_LEN).contains(&id.len()) || id.chars().any(char::is_control) {
        return Err(Problem::invalid("id", "1 to 255 bytes without control characters"));
    }
    if kind != ASKS {
        return Ok(Message::Other { id });
    }
    let Question { created, data: Data { object } } = parse_json(body)?;
    let already_minor = already_minor(&object);
    let purchase = Purchase {
        authorization_id: parsed::<AuthorizationId>("data.object.id", &object.id)?,
        source: "stripe".into(),
        card_ref: parsed::<NetworkRef>("data.object.card.id", &object.card.id)?,
        at: at(created.or(object.created), signed_at)?,
        amount: amount(&object)?,
        partial_allowed: object.pending_request.as_ref().and_then(|asked| asked.is_amount_controllable) == Some(true),
        merchant: merchant(object.merchant_data.unwrap_or_default()),
        fill: Fill::default(),
        prompts: Prompts::default(),
    };
    Ok(Message::Authorisation { id: keepable(&id, MAX_EVENT_ID_LEN), purchase: Box::new(purchase), already_minor })
}

fn parsed<T: std::str::FromStr<Err = Malformed>>(field: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|malformed: Malformed| Problem::invalid(field, malformed.0))
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
fn amount(object: &Authorization) -> Result<Money, Problem> {
    let asked = object.pending_request.as_ref();
    let amount_minor = asked.and_then(|asked| asked.amount).or(object.amount);
    let amount_minor = amount_minor
        .filter(|amount| *amount >= 0)
        .ok_or_else(|| Problem::invalid("data.object.amount", "an amount of 0 or more minor units"))?;
    let currency = asked.and_then(|asked| asked.currency.as_deref()).or(object.currency.as_deref());
    let currency = currency
        .filter(|code| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_alphabetic()))
        .ok_or_else(|| Problem::invalid("data.object.currency", "three letters of ISO 4217"))?;
    Ok(Money { amount_minor, currency: currency.to_ascii_uppercase() })
}

/// The event's own time; the authorisation's is that of its first question, which an increment repeats.
fn at(created: Option<i64>, signed_at: i64) -> Result<Timestamp, Problem> {
    let believed = created.filter(|created| signed_at.saturating_sub(*created) <= MAX_DELAY_S).unwrap_or(signed_at);
    let ms = believed.checked_mul(1_000).map(Timestamp::from_millis);
    match ms {
        Some(Ok(at)) => Ok(at),
        Some(Err(_)) | None => Err(Problem::invalid("created", "a time in Unix seconds")),
    }
}

/// The network's ids are kept as they are unless they look like a card number; then the station stays unknown.
fn merchant(data: MerchantData) -> Merchant {
    let text =
        |text: Option<String>| text.map(|text| keepable(text.trim(), MAX_TEXT_CHARS)).filter(|text| !text.is_empty());
    Merchant {
        network_id: text(data.network_id),
        terminal_id: text(data.terminal_id),
        name: text(data.name),
        category_code: text(data.category_code),
        city: text(data.city),
        postal_code: text(data.postal_code),
        country: text(data.country),
        position: None,
    }
}
