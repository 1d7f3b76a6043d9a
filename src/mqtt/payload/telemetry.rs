//! `v1/{vehicle}/telemetry`: `{"seq":1042,"at":"2026-11-21T22:36:46.000Z","signals":{"Vehicle.Speed":0}}`.
//!
//! The hot path of the gateway: one pass over the text, known paths without an allocation.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::{PayloadError, as_text, time, without_place};
use crate::domain::Timestamp;
use crate::domain::twin::{Report, SignalPath, SignalValue, Twin};

/// Reads a report. One value that is neither bool, number nor text refuses the whole, as the error says where.
pub fn decode_report(bytes: &[u8]) -> Result<Report, PayloadError> {
    let place = Place::default();
    let mut json = serde_json::Deserializer::from_str(as_text(bytes)?);
    ReportSeed(&place).deserialize(&mut json).and_then(|report| json.end().map(|()| report)).map_err(|error| {
        let field = match (place.field.get(), place.path.take()) {
            ("signals", Some(path)) => format!("signals.{}", path.as_str()).into(),
            (field, _) => Cow::Borrowed(field),
        };
        // The column counts from the payload's start only where no field is named.
        let what = if field == "payload" { error.to_string() } else { without_place(&error) };
        PayloadError { field, what: what.into() }
    })
}

/// Where the reader is, for the error.
struct Place {
    field: Cell<&'static str>,
    path: Cell<Option<SignalPath>>,
}

impl Default for Place {
    fn default() -> Self {
        Self { field: Cell::new("payload"), path: Cell::new(None) }
    }
}

struct ReportSeed<'p>(&'p Place);

impl<'de> DeserializeSeed<'de> for ReportSeed<'_> {
    type Value = Report;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Report, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReportSeed<'_> {
    type Value = Report;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a telemetry object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Report, A::Error> {
        let (mut boot, mut seq, mut at, mut signals) = (None, None, None, None);
        while let Some(field) = map.next_key::<Field>()? {
            self.0.field.set(field.name());
            match field {
                Field::Boot => put(&mut boot, map.next_value::<Option<u64>>()?.unwrap_or(0))?,
                Field::Seq => put(&mut seq, map.next_value::<u64>()?)?,
                Field::At => put(&mut at, map.next_value_seed(TimeSeed)?)?,
                Field::Signals => put(&mut signals, map.next_value_seed(SignalsSeed(self.0))?)?,
                Field::Unknown => drop(map.next_value::<IgnoredAny>()?),
            }
            self.0.field.set("payload");
        }
        let missing = |field: &'static str| {
            self.0.field.set(field);
            A::Error::custom("missing")
        };
        Ok(Report {
            boot: boot.unwrap_or(0),
            seq: seq.ok_or_else(|| missing("seq"))?,
            at: at.ok_or_else(|| missing("at"))?,
            signals: signals.ok_or_else(|| missing("signals"))?,
        })
    }
}

fn put<T, E: Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    if slot.replace(value).is_some() {
        return Err(E::custom("given twice"));
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Field {
    Boot,
    Seq,
    At,
    Signals,
    Unknown,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Seq => "seq",
            Self::At => "at",
            Self::Signals => "signals",
            Self::Unknown => "payload",
        }
    }
}

impl<'de> serde::Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Field, E> {
                Ok(match name {
                    "boot" => Field::Boot,
                    "seq" => Field::Seq,
                    "at" => Field::At,
                    "signals" => Field::Signals,
                    _ => Field::Unknown,
                })
            }
        }
        deserializer.deserialize_identifier(Name)
    }
}

struct TimeSeed;

impl<'de> DeserializeSeed<'de> for TimeSeed {
    type Value = Timestamp;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Timestamp, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TimeSeed {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 time")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Timestamp, E> {
        time::parse(text).map_err(E::custom)
    }
}

struct SignalsSeed<'p>(&'p Place);

impl<'de> DeserializeSeed<'de> for SignalsSeed<'_> {
    type Value = Vec<(SignalPath, SignalValue)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for SignalsSeed<'_> {
    type Value = Vec<(SignalPath, SignalValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of signals")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut signals = Vec::with_capacity(8);
        while let Some(path) = map.next_key_seed(PathSeed)? {
            if signals.len() == Twin::MAX_SIGNALS {
                return Err(A::Error::custom("more than 128 signals"));
            }
            match map.next_value_seed(ValueSeed) {
                Ok(value) => signals.push((path, value)),
                Err(error) => {
                    self.0.path.set(Some(path));
                    return Err(error);
                }
            }
        }
        Ok(signals)
    }
}

struct PathSeed;

impl<'de> DeserializeSeed<'de> for PathSeed {
    type Value = SignalPath;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SignalPath, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for PathSeed {
    type Value = SignalPath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a signal's path")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<SignalPath, E> {
        if !(1..=SignalPath::MAX_LEN).contains(&name.len()) {
            return Err(E::custom("a signal's path has 1 to 128 bytes"));
        }
        Ok(name.into())
    }
}

struct ValueSeed;

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = SignalValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SignalValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for ValueSeed {
    type Value = SignalValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bool, a number or a text")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<SignalValue, E> {
        Ok(SignalValue::Bool(flag))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<SignalValue, E> {
        if number.is_finite() { Ok(SignalValue::Number(number)) } else { Err(E::custom("not a finite number")) }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<SignalValue, E> {
        Ok(SignalValue::Number(number as f64))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<SignalValue, E> {
        Ok(SignalValue::Number(number as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SignalValue, E> {
        if text.len() > SignalValue::MAX_TEXT_LEN {
            return Err(E::custom("longer than 256 bytes"));
        }
        Ok(SignalValue::Text(text.into()))
    }
}

/// A number JSON cannot write (NaN, infinity) is left out.
pub fn encode_report(report: &Report) -> Vec<u8> {
    use std::io::Write;

    let mut out = Vec::with_capacity(64 + 48 * report.signals.len());
    // Writing to a Vec cannot fail, and bools, numbers and texts always encode.
    let _ = match report.boot {
        0 => write!(out, r#"{{"seq":{},"at":"{}","signals":{{"#, report.seq, report.at),
        boot => write!(out, r#"{{"boot":{boot},"seq":{},"at":"{}","signals":{{"#, report.seq, report.at),
    };
    let mut comma = "";
    for (path, value) in &report.signals {
        if value.as_number().is_some_and(|number| !number.is_finite()) {
            continue;
        }
        out.extend_from_slice(comma.as_bytes());
        let _ = serde_json::to_writer(&mut out, path.as_str());
        out.push(b':');
        let _ = match value {
            SignalValue::Number(number) if is_whole(*number) => serde_json::to_writer(&mut out, &(*number as i64)),
            SignalValue::Number(number) => serde_json::to_writer(&mut out, number),
            SignalValue::Bool(flag) => serde_json::to_writer(&mut out, flag),
            SignalValue::Text(text) => serde_json::to_writer(&mut out, text),
        };
        comma = ",";
    }
    out.extend_from_slice(b"}}");
    out
}

/// Whole and exact in both forms, so that 62 is written `62` and not `62.0`; -0.0 keeps its sign.
fn is_whole(number: f64) -> bool {
    number.fract() == 0.0 && number.abs() < 1e15 && !(number == 0.0 && number.is_sign_negative())
}
