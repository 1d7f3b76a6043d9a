//! enviroCar: one row every few seconds from OBD-II and a phone's GPS.

use cardea::domain::Timestamp;
use cardea::domain::twin::path;

use super::row::{Row, TraceError};
use super::{Message, number};

const NAMES: [(&str, &str); 10] = [
    ("lat", path::LATITUDE),
    ("lon", path::LONGITUDE),
    ("gps_accuracy_m", path::ACCURACY_M),
    ("speed_kmh", path::SPEED_KMH),
    ("heading", "Vehicle.CurrentLocation.Heading"),
    ("altitude_m", "Vehicle.CurrentLocation.Altitude"),
    ("engine_rpm", "Vehicle.Powertrain.CombustionEngine.Speed"),
    ("engine_load_pct", "Vehicle.OBD.EngineLoad"),
    ("gps_speed_kmh", "EnviroCar.gps_speed_kmh"),
    ("consumption_l_per_h", "EnviroCar.consumption_l_per_h"),
];

pub(super) fn messages(rows: &[Row]) -> Result<Vec<Message>, TraceError> {
    rows.iter().map(message).collect()
}

fn message(row: &Row) -> Result<Message, TraceError> {
    let at: Timestamp = row
        .required("time", row.text("time"))?
        .parse()
        .map_err(|error: cardea::domain::Malformed| row.wrong("time", error.0))?;
    let mut signals = Vec::new();
    for (field, name) in NAMES {
        signals.extend(row.number(field)?.map(|value| number(name, value)));
    }
    Ok(Message::signals(at.0, signals))
}
