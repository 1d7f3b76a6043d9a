//! Fleet tracker events: the event's time, the time of the fix it carries, and when it reached the server are three
//! different things, and stay so.

use cardea::domain::command::FactKind;
use cardea::domain::twin::path;

use super::row::{Row, TraceError, checked_ms};
use super::{Message, What, number, text};

/// Read by name below; everything else is kept under its own name.
const KNOWN: [&str; 12] = [
    "ts_ms",
    "received_ms",
    "pos_ts_ms",
    "vehicle",
    "lat",
    "lon",
    "speed_kmh",
    "heading",
    "altitude_m",
    "fuel_level_pct",
    "total_distance",
    "engine_rpm",
];

pub(super) fn messages(rows: &[Row]) -> Result<Vec<Message>, TraceError> {
    let mut messages = Vec::new();
    let mut last_sent_ms = None;
    for row in rows {
        let at_ms = checked_ms(row, "ts_ms", row.required("ts_ms", row.integer("ts_ms"))?)?;
        let sent_ms = match row.integer("received_ms")? {
            Some(ms) => checked_ms(row, "received_ms", ms)?,
            // When it arrived was not recorded: with the row before it, but not before it happened.
            None => last_sent_ms.map_or(at_ms, |last: i64| last.max(at_ms)),
        };
        last_sent_ms = Some(sent_ms);
        let fix_ms = row.integer("pos_ts_ms")?.map_or(Ok(at_ms), |ms| checked_ms(row, "pos_ts_ms", ms))?;
        let (fix, rest) = (fix_signals(row)?, other_signals(row)?);
        if fix_ms == at_ms {
            let signals = fix.into_iter().chain(rest).collect();
            messages.push(Message { sent_ms, at_ms, what: What::Signals(signals) });
        } else {
            messages.push(Message { sent_ms, at_ms: fix_ms, what: What::Signals(fix) });
            messages.push(Message { sent_ms, at_ms, what: What::Signals(rest) });
        }
        if let Some(on) = ignition(row)? {
            messages.push(Message { sent_ms, at_ms, what: What::Fact(FactKind::Ignition { on }) });
        }
    }
    messages.retain(|message| message.what != What::Signals(Vec::new()));
    Ok(messages)
}

fn ignition(row: &Row) -> Result<Option<bool>, TraceError> {
    Ok(match row.text("event")? {
        Some("ign_on") => Some(true),
        Some("ign_off") => Some(false),
        Some(_) | None => None,
    })
}

type Signals = Vec<(cardea::domain::twin::SignalPath, cardea::domain::twin::SignalValue)>;

/// What the GPS receiver said.
fn fix_signals(row: &Row) -> Result<Signals, TraceError> {
    let names = [
        ("lat", path::LATITUDE),
        ("lon", path::LONGITUDE),
        ("speed_kmh", path::SPEED_KMH),
        ("heading", "Vehicle.CurrentLocation.Heading"),
        ("altitude_m", "Vehicle.CurrentLocation.Altitude"),
    ];
    let mut signals = Vec::new();
    for (field, name) in names {
        signals.extend(row.number(field)?.map(|value| number(name, value)));
    }
    Ok(signals)
}

/// What the truck said.
fn other_signals(row: &Row) -> Result<Signals, TraceError> {
    let mut signals = Vec::new();
    signals.extend(row.number("fuel_level_pct")?.map(|value| number(path::FUEL_PERCENT, value)));
    // Counted in 0.1 km.
    signals.extend(row.number("total_distance")?.map(|value| number(path::ODOMETER_KM, value / 10.0)));
    let rpm = row.number("engine_rpm")?;
    signals.extend(rpm.map(|value| number("Vehicle.Powertrain.CombustionEngine.Speed", value)));
    if let Some(on) = ignition(row)? {
        signals.push(text(path::LOW_VOLTAGE, if on { "ON" } else { "OFF" }));
    }
    for (field, value) in row.fields().filter(|(field, _)| !KNOWN.contains(field)) {
        signals.push((row.path(field, &format!("Tracker.{field}"))?, row.value(field, value)?));
    }
    Ok(signals)
}
