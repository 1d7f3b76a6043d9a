//! How the forms read the fields of their bodies: what is kept of a text, amounts, quantities, times, and which field is
//! wrong. No value of a body leaves this in an error.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::form::Unfit;
use crate::domain::card::{Product, keepable, looks_like_card_number};
use crate::domain::{Malformed, Money, Timestamp};
use crate::http::access::sha256;

const MAX_TEXT_CHARS: usize = 64;
const MAX_ID_LEN: usize = 255;
/// A question about a purchase is asked while the card is in the pump: a time further back is not the purchase's, and
/// the time of the signature counts instead.
const MAX_DELAY_S: i64 = 3_600;
/// And one ahead of the signature is a wrong clock's.
const MAX_AHEAD_S: i64 = 300;
/// More than any tank of a road vehicle; beyond it a quantity is a mistake.
const MAX_LITRES: f64 = 100_000.0;

/// One JSON document; the error names the field and nothing of its value.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unfit> {
    // Keeping the path for an error costs as much as the parsing, so that it is done only where there is one.
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => return Err(Unfit::new("", "more than one JSON document")),
        Err(error) => error,
    };
    let (path, text) = (error.path().to_string(), error.inner().to_string());
    let named = |prefix: &str| text.strip_prefix(prefix)?.split('`').next().map(str::to_owned);
    let (name, detail) = match (named("missing field `"), named("unknown field `")) {
        (Some(name), _) => (name, "is missing"),
        (None, Some(name)) => (name, "is not known"),
        (None, None) if path == "." || path == "?" => (String::new(), "not the JSON that is expected"),
        (None, None) => (String::new(), "not of the kind that is expected"),
    };
    let field = match path.as_str() {
        "." | "?" => name,
        path if name.is_empty() || path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    };
    Err(Unfit::new(keepable(&field, 128), detail))
}

/// A text or a number, as some networks send either.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Loose {
    Text(String),
    Number(serde_json::Number),
    Flag(bool),
    Other(serde::de::IgnoredAny),
}

impl Loose {
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.trim().to_owned()),
            Self::Number(number) => Some(number.to_string()),
            Self::Flag(_) | Self::Other(_) => None,
        }
    }

    /// `true`, `"true"`, `1` and `"1"`.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Flag(flag) => *flag,
            Self::Text(text) => matches!(text.trim(), "1" | "true" | "TRUE" | "True"),
            Self::Number(number) => number.as_i64() == Some(1),
            Self::Other(_) => false,
        }
    }
}

/// A text as it is kept; empty = none.
pub fn kept(text: Option<String>) -> Option<String> {
    text.map(|text| keepable(text.trim(), MAX_TEXT_CHARS)).filter(|text| !text.is_empty())
}

/// An id that things are found by: one that looks like a card number is none, so that it finds nothing.
pub fn kept_id(text: Option<String>) -> Option<String> {
    kept(text.filter(|text| !looks_like_card_number(text)))
}

/// A message's id.
pub fn message_id(field: &'static str, id: &str) -> Result<String, Unfit> {
    if !(1..=MAX_ID_LEN).contains(&id.len()) || id.chars().any(char::is_control) {
        return Err(Unfit::new(field, "1 to 255 bytes without control characters"));
    }
    match looks_like_card_number(id) {
        // Different ids stay different without being kept.
        true => Ok(format!("sha256:{}", hex::encode(sha256(id.as_bytes())))),
        false => Ok(keepable(id, MAX_ID_LEN)),
    }
}

pub fn id<T: std::str::FromStr<Err = Malformed>>(field: &'static str, text: &str) -> Result<T, Unfit> {
    text.parse().map_err(|malformed: Malformed| Unfit {
        is_card_number: looks_like_card_number(text),
        ..Unfit::new(field, malformed.0)
    })
}

pub fn currency(field: &'static str, code: Option<&str>) -> Result<String, Unfit> {
    code.filter(|code| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_alphabetic()))
        .map(str::to_ascii_uppercase)
        .ok_or_else(|| Unfit::new(field, "three letters of ISO 4217"))
}

pub fn money(fields: [&'static str; 2], minor: Option<i64>, code: Option<&str>) -> Result<Money, Unfit> {
    let amount_minor =
        minor.filter(|minor| *minor >= 0).ok_or_else(|| Unfit::new(fields[0], "an amount of 0 or more minor units"))?;
    Ok(Money { amount_minor, currency: currency(fields[1], code)? })
}

/// Unix seconds.
pub fn unix(field: &'static str, seconds: i64) -> Result<Timestamp, Unfit> {
    let at = seconds.checked_mul(1_000).map(Timestamp::from_millis);
    at.and_then(Result::ok).ok_or_else(|| Unfit::new(field, "a time in Unix seconds"))
}

pub fn rfc3339(field: &'static str, text: &str) -> Result<Timestamp, Unfit> {
    text.parse().map_err(|malformed: Malformed| Unfit::new(field, malformed.0))
}

/// When a question's purchase happened: as it says, unless that is not the purchase's time.
pub fn asked_at(told: Option<Timestamp>, signed_s: i64) -> Result<Timestamp, Unfit> {
    let is_believed =
        |told: &Timestamp| (-MAX_AHEAD_S..=MAX_DELAY_S).contains(&signed_s.saturating_sub(told.as_secs()));
    told.filter(is_believed).map_or_else(|| unix("created", signed_s), Ok)
}

/// A quantity that can be one.
pub fn litres(quantity: f64) -> Option<f64> {
    (quantity.is_finite() && (0.0..=MAX_LITRES).contains(&quantity)).then_some(quantity)
}

/// In litres; `None` for what is not measured by volume.
pub fn in_litres(quantity: Option<&str>, unit: Option<&str>) -> Option<f64> {
    let litres_a_unit = match unit? {
        "liter" | "litre" | "LITER" | "LITERS" => 1.0,
        "us_gallon" => 3.785_411_784,
        "imperial_gallon" => 4.546_09,
        _ => return None,
    };
    // Zero is how pumps say that they do not know yet.
    litres(quantity?.parse::<f64>().ok()? * litres_a_unit).filter(|litres| *litres > 0.0)
}

pub fn km(odometer: f64) -> Option<f64> {
    (odometer.is_finite() && (0.0..=10_000_000.0).contains(&odometer)).then_some(odometer)
}

pub fn product(name: &str) -> Product {
    match name.to_ascii_lowercase().as_str() {
        "petrol" | "gasoline" | "unleaded" | "unleaded_regular" | "unleaded_plus" | "unleaded_super" => Product::Petrol,
        "diesel" => Product::Diesel,
        "lpg" => Product::Lpg,
        "cng" => Product::Cng,
        "hydrogen" => Product::Hydrogen,
        "electricity" => Product::Electricity,
        "adblue" | "def" => Product::Adblue,
        _ => Product::Other,
    }
}

/// The path of the first field, at any depth, that holds something like a card number.
pub fn card_number_in(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => looks_like_card_number(text).then(String::new),
        Value::Number(number) => looks_like_card_number(&number.to_string()).then(String::new),
        Value::Null | Value::Bool(_) => None,
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| card_number_in(item).map(|rest| joined(&format!("[{index}]"), &rest)))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            if looks_like_card_number(name) {
                return Some("(card number removed)".to_owned());
            }
            card_number_in(field).map(|rest| joined(name, &rest))
        }),
    }
}

fn joined(head: &str, rest: &str) -> String {
    match rest {
        "" => head.to_owned(),
        rest if rest.starts_with('[') => format!("{head}{rest}"),
        rest => format!("{head}.{rest}"),
    }
}

/// A text at a JSON pointer, fit to be repeated in an answer.
pub fn text_at(body: &Value, pointer: &str) -> Option<String> {
    let text = body.pointer(pointer)?.as_str()?;
    kept_id(Some(text.to_owned()))
}
