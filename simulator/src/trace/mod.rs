//! Recorded drives as real input: each recording's own form, read into what a car would have sent and when.
//!
//! Nothing is cleaned: a stuck longitude, an odometer of 0 or a fix of yesterday goes to the gateway as it was
//! recorded. Only names and units are brought to VSS. Each signal keeps its own time.

mod envirocar;
mod openxc;
mod row;
mod shift;
#[cfg(test)]
mod tests;
mod truck;

use cardea::domain::Position;
use cardea::domain::command::FactKind;
use cardea::domain::twin::{SignalPath, SignalValue, path};
use clap::ValueEnum;

pub use row::{Row, TraceError};
pub use shift::Shift;

/// A recording larger than this is not a drive.
pub const MAX_LINES: usize = 5_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// By what the first line looks like
    Auto,
    /// OpenXC messages with `timestamp`, `name`, `value`
    OpenxcTimed,
    /// OpenXC messages with `seq` instead of a time (5 ms a message)
    OpenxcUntimed,
    /// OpenXC states, one row a second, with `t`
    OpenxcState,
    /// Fleet tracker events with `ts_ms`, `received_ms`, `pos_ts_ms`
    Truck,
    /// enviroCar rows with `time`, `lat`, `lon`
    Envirocar,
}

/// How a recording writes the tank's level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FuelScale {
    /// A recording that never exceeds 1 counts from 0 to 1
    Auto,
    /// 0 to 1
    Fraction,
    /// 0 to 100
    Percent,
}

/// What a car sent at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// When it reached the receiver of the time; recordings without that: when it was measured.
    pub sent_ms: i64,
    /// When it was measured.
    pub at_ms: i64,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Signals(Vec<(SignalPath, SignalValue)>),
    Fact(FactKind),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub format: Format,
    /// By the time they were sent.
    pub messages: Vec<Message>,
    /// Whether its times are of the calendar or count from an unknown start.
    pub has_wall_time: bool,
}

impl Message {
    fn signals(at_ms: i64, signals: Vec<(SignalPath, SignalValue)>) -> Self {
        Self { sent_ms: at_ms, at_ms, what: What::Signals(signals) }
    }

    fn fact(at_ms: i64, kind: FactKind) -> Self {
        Self { sent_ms: at_ms, at_ms, what: What::Fact(kind) }
    }

    pub fn position(&self) -> Option<Position> {
        let What::Signals(signals) = &self.what else { return None };
        let value = |name: &str| signals.iter().find(|(known, _)| known.as_str() == name)?.1.as_number();
        Some(Position { latitude: value(path::LATITUDE)?, longitude: value(path::LONGITUDE)? })
    }
}

impl Trace {
    /// Reads a recording; the first defect of form (not of content) ends it.
    pub fn parse(text: &str, format: Format, fuel: FuelScale) -> Result<Self, TraceError> {
        let mut rows = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if index >= MAX_LINES {
                return Err(TraceError { line: index + 1, field: String::new(), what: "too many lines".into() });
            }
            if !line.trim().is_empty() {
                rows.push(Row::parse(index + 1, line)?);
            }
        }
        let Some(first) = rows.first() else {
            return Err(TraceError { line: 1, field: String::new(), what: "the recording is empty".into() });
        };
        let format = if format == Format::Auto { recognise(first)? } else { format };
        let mut messages = match format {
            Format::OpenxcTimed | Format::OpenxcUntimed => openxc::messages(&rows, format)?,
            Format::OpenxcState => openxc::states(&rows)?,
            Format::Truck => truck::messages(&rows)?,
            Format::Auto | Format::Envirocar => envirocar::messages(&rows)?,
        };
        scale_fuel(&mut messages, fuel);
        // Stable: what was sent at the same moment stays in the recording's order.
        messages.sort_by_key(|message| message.sent_ms);
        let has_wall_time = !matches!(format, Format::OpenxcUntimed | Format::OpenxcState);
        Ok(Self { format, messages, has_wall_time })
    }

    /// The places of the drive, in order.
    pub fn positions(&self) -> impl DoubleEndedIterator<Item = Position> {
        self.messages.iter().filter_map(Message::position)
    }
}

fn recognise(row: &Row) -> Result<Format, TraceError> {
    let is = |fields: &[&str]| fields.iter().all(|field| row.has(field));
    if is(&["timestamp", "name"]) {
        Ok(Format::OpenxcTimed)
    } else if is(&["seq", "name"]) {
        Ok(Format::OpenxcUntimed)
    } else if is(&["ts_ms"]) {
        Ok(Format::Truck)
    } else if is(&["time", "lat", "lon"]) {
        Ok(Format::Envirocar)
    } else if is(&["t"]) {
        Ok(Format::OpenxcState)
    } else {
        Err(TraceError { line: row.line, field: String::new(), what: "not a form of recording we know".into() })
    }
}

fn scale_fuel(messages: &mut [Message], fuel: FuelScale) {
    let levels = || {
        messages.iter().filter_map(|message| match &message.what {
            What::Signals(signals) => {
                signals.iter().find(|(name, _)| name.as_str() == path::FUEL_PERCENT)?.1.as_number()
            }
            What::Fact(_) => None,
        })
    };
    let is_fraction = match fuel {
        FuelScale::Fraction => true,
        FuelScale::Percent => false,
        FuelScale::Auto => levels().all(|level| level <= 1.0),
    };
    if !is_fraction {
        return;
    }
    for message in messages {
        let What::Signals(signals) = &mut message.what else { continue };
        for (name, value) in signals {
            if let (path::FUEL_PERCENT, SignalValue::Number(level)) = (name.as_str(), value) {
                *level *= 100.0;
            }
        }
    }
}

fn number(name: &str, value: f64) -> (SignalPath, SignalValue) {
    (name.into(), SignalValue::Number(value))
}

fn flag(name: &str, value: bool) -> (SignalPath, SignalValue) {
    (name.into(), SignalValue::Bool(value))
}

fn text(name: &str, value: &str) -> (SignalPath, SignalValue) {
    (name.into(), SignalValue::Text(value.into()))
}
