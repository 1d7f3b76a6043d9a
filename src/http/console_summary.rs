//! A vehicle in short: what a map and a list of ten thousand need, a tenth of its twin, for consoles that ask for it.
//!
//! `{"vehicle_id":"WVW-1","summary":true,"online":true,"usage":"free","drive_enabled":true,"pending_commands":0,
//! "at":"…","place":{"latitude":45.07,"longitude":7.68},"speed":{"kmh":50},"fuel":{"percent":62},
//! "doors":{"locked":true}}`. What is not known is absent. A part that is older than `at` has an `at` of its own.

use serde::Serialize;

use crate::actors::vehicle::Snapshot;
use crate::domain::rental::Usage;
use crate::domain::twin::path;
use crate::domain::{Timestamp, VehicleId};

#[derive(Debug, Serialize)]
struct Summary<'a> {
    vehicle_id: &'a VehicleId,
    summary: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'a str>,
    online: bool,
    usage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    renter: Option<String>,
    drive_enabled: bool,
    pending_commands: usize,
    /// Of the newest signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Part<Place>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<Part<Speed>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel: Option<Part<Fuel>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doors: Option<Part<Doors>>,
}

#[derive(Debug, Serialize)]
struct Part<T> {
    #[serde(flatten)]
    value: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Place {
    latitude: f64,
    longitude: f64,
}

#[derive(Debug, Serialize)]
struct Speed {
    kmh: f64,
}

#[derive(Debug, Serialize)]
struct Fuel {
    percent: f64,
}

#[derive(Debug, Serialize)]
struct Doors {
    locked: bool,
}

/// To 0.1 m on the ground, and to a tenth of the others' units: more digits would only be sent.
fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

pub fn write(snapshot: &Snapshot) -> Result<String, serde_json::Error> {
    let Snapshot { now, vehicle, twin, .. } = snapshot;
    let newest = twin.signals().map(|(_, signal)| signal.at).max();
    let own = |at: Timestamp| Some(at).filter(|at| Some(*at) != newest);
    let (usage, renter) = match vehicle.usage(*now) {
        Usage::Free => ("free", None),
        Usage::Reserved { renter, .. } => ("reserved", Some(renter)),
        Usage::Rented { renter, .. } => ("rented", Some(renter)),
        Usage::Ending { renter, .. } => ("ending", Some(renter)),
    };
    let place = twin.fix().map(|fix| Part {
        value: Place { latitude: rounded(fix.position.latitude, 6), longitude: rounded(fix.position.longitude, 6) },
        at: own(fix.at),
    });
    let speed = twin.speed_kmh().map(|(kmh, at)| Part { value: Speed { kmh: rounded(kmh, 1) }, at: own(at) });
    let fuel = twin.number(path::FUEL_PERCENT);
    let fuel = fuel.map(|(percent, at)| Part { value: Fuel { percent: rounded(percent, 1) }, at: own(at) });
    let doors = twin
        .signal(path::DRIVER_DOOR_LOCKED)
        .and_then(|signal| signal.value.as_bool().map(|locked| Part { value: Doors { locked }, at: own(signal.at) }));
    serde_json::to_string(&Summary {
        vehicle_id: &vehicle.vehicle_id,
        summary: true,
        name: vehicle.details.name.as_deref(),
        class: vehicle.details.class.as_deref(),
        online: twin.is_online(),
        usage,
        renter,
        drive_enabled: vehicle.is_drive_enabled(twin),
        pending_commands: vehicle.open_commands().count(),
        at: newest,
        place,
        speed,
        fuel,
        doors,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::twin::{SignalValue, Twin};
    use crate::domain::vehicle::Vehicle;

    #[test]
    fn what_is_old_says_so_and_what_is_not_known_is_absent() {
        let now = Timestamp(1_795_298_400_000);
        let mut twin = Twin::new(now);
        twin.note(path::FUEL_PERCENT, SignalValue::Number(61.96), now.plus_ms(-60_000));
        for (name, value) in
            [(path::LATITUDE, 45.071_234_567), (path::LONGITUDE, 7.680_000_04), (path::SPEED_KMH, 50.0)]
        {
            twin.note(name, SignalValue::Number(value), now);
        }
        let snapshot = Snapshot::new(now, Vehicle::new("WVW-1".parse().unwrap()), twin);
        let written: Value = serde_json::from_str(&write(&snapshot).unwrap()).unwrap();
        let expected = json!({
            "vehicle_id": "WVW-1", "summary": true, "online": false, "usage": "free", "drive_enabled": true,
            "pending_commands": 0, "at": now.to_string(),
            "place": {"latitude": 45.071_235, "longitude": 7.68}, "speed": {"kmh": 50.0},
            "fuel": {"percent": 62.0, "at": now.plus_ms(-60_000).to_string()},
        });
        assert_eq!(written, expected);
    }
}
