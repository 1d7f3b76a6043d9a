//! One line of a trace as a JSON object, read field by field so that an error names line and field.

use std::fmt;

use cardea::domain::twin::{SignalPath, SignalValue};
use serde_json::{Map, Value};

/// Longer lines are refused unread.
pub const MAX_LINE: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceError {
    /// Counted from 1.
    pub line: usize,
    /// Empty when it is the line as a whole.
    pub field: String,
    pub what: String,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, field, what } = self;
        if field.is_empty() { write!(f, "line {line}: {what}") } else { write!(f, "line {line}: {field}: {what}") }
    }
}

impl std::error::Error for TraceError {}

pub struct Row {
    pub line: usize,
    fields: Map<String, Value>,
}

impl Row {
    pub fn parse(line: usize, text: &str) -> Result<Self, TraceError> {
        let failed = |what: String| TraceError { line, field: String::new(), what };
        if text.len() > MAX_LINE {
            return Err(failed("longer than 64 KiB".into()));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self { line, fields }),
            Ok(_) => Err(failed("not a JSON object".into())),
            // Its own place counts from this line's start.
            Err(error) => Err(failed(error.to_string())),
        }
    }

    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    pub fn wrong(&self, field: &str, what: impl Into<String>) -> TraceError {
        TraceError { line: self.line, field: field.into(), what: what.into() }
    }

    /// `null` counts as absent.
    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub fn number(&self, field: &str) -> Result<Option<f64>, TraceError> {
        self.get(field).map(|value| value.as_f64().ok_or_else(|| self.wrong(field, "not a number"))).transpose()
    }

    pub fn integer(&self, field: &str) -> Result<Option<i64>, TraceError> {
        self.get(field).map(|value| value.as_i64().ok_or_else(|| self.wrong(field, "not a whole number"))).transpose()
    }

    pub fn text(&self, field: &str) -> Result<Option<&str>, TraceError> {
        self.get(field).map(|value| value.as_str().ok_or_else(|| self.wrong(field, "not a text"))).transpose()
    }

    pub fn flag(&self, field: &str) -> Result<Option<bool>, TraceError> {
        self.get(field).map(|value| value.as_bool().ok_or_else(|| self.wrong(field, "not true or false"))).transpose()
    }

    pub fn required<T>(&self, field: &str, value: Result<Option<T>, TraceError>) -> Result<T, TraceError> {
        value?.ok_or_else(|| self.wrong(field, "missing"))
    }

    /// Every field with its value, in the order of their names.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
    }

    /// A signal's name, within what a car may report.
    pub fn path(&self, field: &str, name: &str) -> Result<SignalPath, TraceError> {
        if !(1..=SignalPath::MAX_LEN).contains(&name.len()) {
            return Err(self.wrong(field, "a signal's name has 1 to 128 bytes"));
        }
        Ok(name.into())
    }

    /// A value as it stands, when a car could report it.
    pub fn value(&self, field: &str, value: &Value) -> Result<SignalValue, TraceError> {
        match value {
            Value::Bool(flag) => Ok(SignalValue::Bool(*flag)),
            Value::Number(number) => {
                number.as_f64().map(SignalValue::Number).ok_or_else(|| self.wrong(field, "not a number"))
            }
            Value::String(text) if text.len() <= SignalValue::MAX_TEXT_LEN => {
                Ok(SignalValue::Text(text.as_str().into()))
            }
            Value::String(_) => Err(self.wrong(field, "longer than 256 bytes")),
            Value::Null | Value::Array(_) | Value::Object(_) => Err(self.wrong(field, "not a bool, number or text")),
        }
    }
}

/// Seconds to whole milliseconds; only times RFC 3339 can write.
pub fn to_ms(row: &Row, field: &str, seconds: f64) -> Result<i64, TraceError> {
    in_range(row, field, (seconds * 1000.0).round())
}

fn in_range(row: &Row, field: &str, ms: f64) -> Result<i64, TraceError> {
    const YEARS_0_TO_9999: std::ops::RangeInclusive<f64> = -62_167_219_200_000.0..=253_402_300_799_999.0;
    if YEARS_0_TO_9999.contains(&ms) {
        Ok(ms as i64)
    } else {
        Err(row.wrong(field, "not a time in the years 0 to 9999"))
    }
}

pub fn checked_ms(row: &Row, field: &str, ms: i64) -> Result<i64, TraceError> {
    in_range(row, field, ms as f64)
}
