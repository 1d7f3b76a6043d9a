//! JSON of the wire, both ways: telemetry <-> [`Report`], event <-> [`Fact`], ack <-> [`Ack`], command <-> [`ToCar`].
//!
//! Used by the gate's inbound and outbound side and by the simulator's cars. Fields nobody knows are ignored, every size
//! has a limit, an error names the field, and no input makes a decoder panic, recurse deeply or allocate more than a
//! small multiple of its size.
//!
//! [`Report`]: crate::domain::twin::Report
//! [`Fact`]: crate::domain::command::Fact
//! [`Ack`]: crate::domain::command::Ack
//! [`ToCar`]: crate::domain::command::ToCar

mod ack;
mod command;
mod event;
mod telemetry;
mod time;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::Timestamp;
use crate::domain::twin::SignalValue;

pub use ack::{decode_ack, encode_ack};
pub use command::{command_id_of, decode_to_car, encode_to_car};
pub use event::{decode_fact, encode_fact};
pub use telemetry::{decode_report, encode_report};

/// The largest payload in either direction.
pub const MAX_BYTES: usize = 16 * 1024;
/// The longest text in an event, in bytes.
pub const MAX_TEXT_LEN: usize = SignalValue::MAX_TEXT_LEN;
/// Entries of a list (capabilities, permits) before it is refused.
const MAX_LIST: usize = 64;

/// A payload that is not what the contract says. Surely nothing was taken from it; sending it again will not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadError {
    /// The field at fault, like `signals.Vehicle.Speed`; `payload` when it is the whole.
    pub field: Cow<'static, str>,
    pub what: Cow<'static, str>,
}

impl PayloadError {
    fn new(field: impl Into<Cow<'static, str>>, what: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), what: what.into() }
    }

    fn missing(field: &'static str) -> Self {
        Self::new(field, "missing")
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

impl std::error::Error for PayloadError {}

/// Checks the size, then that it is UTF-8 as a whole, so that no text in it needs a second look.
fn as_text(bytes: &[u8]) -> Result<&str, PayloadError> {
    if bytes.len() > MAX_BYTES {
        return Err(PayloadError::new("payload", "larger than 16 KiB"));
    }
    std::str::from_utf8(bytes).map_err(|_| PayloadError::new("payload", "not UTF-8"))
}

/// Splits an object into its fields without reading them: each is then read by name, so that an error can name it.
fn split<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, PayloadError> {
    serde_json::from_str(as_text(bytes)?).map_err(|error| PayloadError::new("payload", error.to_string()))
}

/// A field as it stands in the text.
type Raw<'a> = Option<&'a RawValue>;

fn required<'a, T: Deserialize<'a>>(field: &'static str, raw: Raw<'a>) -> Result<T, PayloadError> {
    optional(field, raw)?.ok_or_else(|| PayloadError::missing(field))
}

/// `null` counts as absent.
fn optional<'a, T: Deserialize<'a>>(field: &'static str, raw: Raw<'a>) -> Result<Option<T>, PayloadError> {
    raw.map(|raw| serde_json::from_str(raw.get()))
        .transpose()
        .map_err(|error| PayloadError::new(field, without_place(&error)))
}

fn required_time(field: &'static str, raw: Raw<'_>) -> Result<Timestamp, PayloadError> {
    optional_time(field, raw)?.ok_or_else(|| PayloadError::missing(field))
}

fn optional_time(field: &'static str, raw: Raw<'_>) -> Result<Option<Timestamp>, PayloadError> {
    let text: Option<Cow<'_, str>> = optional(field, raw)?;
    text.map(|text| time::parse(&text)).transpose().map_err(|malformed| PayloadError::new(field, malformed.0))
}

fn required_text<'a>(field: &'static str, raw: Raw<'a>) -> Result<Cow<'a, str>, PayloadError> {
    checked_text(field, required(field, raw)?)
}

fn optional_text<'a>(field: &'static str, raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, PayloadError> {
    optional(field, raw)?.map(|text| checked_text(field, text)).transpose()
}

fn checked_text<'a>(field: &'static str, text: Cow<'a, str>) -> Result<Cow<'a, str>, PayloadError> {
    if text.len() > MAX_TEXT_LEN {
        return Err(PayloadError::new(field, "longer than 256 bytes"));
    }
    Ok(text)
}

/// serde_json says "at line 1 column 9" of the field's own text, which would mislead.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.clone(), |place| text[..place].to_owned())
}

/// Our own types always encode; were one not to, an empty payload is what every receiver refuses.
fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
