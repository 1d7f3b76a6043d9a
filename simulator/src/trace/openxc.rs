//! Ford's OpenXC: single named values, timed or numbered, and states of one second.

use cardea::domain::command::FactKind;
use cardea::domain::twin::{SignalPath, SignalValue, path};
use serde_json::Value;

use super::row::{Row, TraceError, checked_ms, to_ms};
use super::{Format, Message, flag, number, text};

/// A numbered recording has no times; its later publication spaces the messages so.
const MS_A_MESSAGE: i64 = 5;
/// Latitude and longitude of one fix are two messages, a few milliseconds apart.
const ONE_FIX_MS: i64 = 1_000;

const DOORS: [(&str, &str); 4] = [
    ("driver", "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen"),
    ("passenger", "Vehicle.Cabin.Door.Row1.PassengerSide.IsOpen"),
    ("rear_left", "Vehicle.Cabin.Door.Row2.DriverSide.IsOpen"),
    ("rear_right", "Vehicle.Cabin.Door.Row2.PassengerSide.IsOpen"),
];

pub(super) fn messages(rows: &[Row], format: Format) -> Result<Vec<Message>, TraceError> {
    let is_timed = format == Format::OpenxcTimed;
    let mut reader = Reader { keeps_other_coordinate: !is_timed, ..Reader::default() };
    for row in rows {
        let at_ms = if is_timed {
            to_ms(row, "timestamp", row.required("timestamp", row.number("timestamp"))?)?
        } else {
            let seq = row.required("seq", row.integer("seq"))?;
            checked_ms(row, "seq", seq.saturating_mul(MS_A_MESSAGE))?
        };
        let name = row.required("name", row.text("name"))?;
        let Some((_, value)) = row.fields().find(|(field, _)| *field == "value") else {
            return Err(row.wrong("value", "missing"));
        };
        if name == "door_status" {
            let door = row.required("value", row.text("value"))?;
            let is_open = row.required("event", row.flag("event"))?;
            reader.door(row, "value", at_ms, door, is_open)?;
        } else {
            reader.take(row, "value", at_ms, name, value)?;
        }
    }
    Ok(reader.finish())
}

pub(super) fn states(rows: &[Row]) -> Result<Vec<Message>, TraceError> {
    let mut reader = Reader::default();
    let mut messages = Vec::new();
    for row in rows {
        let at_ms = to_ms(row, "t", row.required("t", row.number("t"))?)?;
        let mut signals = Vec::new();
        for (name, value) in row.fields() {
            match (name, value) {
                ("t", _) => {}
                ("door_open", Value::Object(doors)) => {
                    for (door, is_open) in doors {
                        let is_open = is_open.as_bool().ok_or_else(|| row.wrong(name, "not true or false"))?;
                        signals.push(reader.door_signal(row, name, at_ms, door, is_open)?);
                    }
                }
                _ => signals.push(signal(row, name, name, value)?),
            }
        }
        reader.note_ignition(at_ms, &signals);
        messages.push(Message::signals(at_ms, signals));
    }
    messages.extend(reader.finish());
    Ok(messages)
}

#[derive(Default)]
struct Reader {
    messages: Vec<Message>,
    /// Unpaired, with its time.
    latitude: Option<(i64, f64)>,
    last_latitude: Option<f64>,
    last_longitude: Option<f64>,
    /// The recording holds changes only: the other coordinate is as before.
    keeps_other_coordinate: bool,
    is_ignition_on: Option<bool>,
    open: [Option<bool>; DOORS.len()],
}

impl Reader {
    fn take(&mut self, row: &Row, field: &str, at_ms: i64, name: &str, value: &Value) -> Result<(), TraceError> {
        let signal = signal(row, field, name, value)?;
        match (signal.0.as_str(), &signal.1) {
            (path::LATITUDE, SignalValue::Number(latitude)) => {
                self.flush_latitude();
                self.latitude = Some((at_ms, *latitude));
                self.last_latitude = Some(*latitude);
            }
            (path::LONGITUDE, SignalValue::Number(longitude)) => self.longitude(at_ms, *longitude),
            _ => {
                let signals = vec![signal];
                self.note_ignition(at_ms, &signals);
                self.messages.push(Message::signals(at_ms, signals));
            }
        }
        Ok(())
    }

    fn longitude(&mut self, at_ms: i64, longitude: f64) {
        self.last_longitude = Some(longitude);
        let pair = match self.latitude.take() {
            Some((latitude_ms, latitude)) if at_ms.abs_diff(latitude_ms) <= ONE_FIX_MS as u64 => {
                Some((latitude_ms, latitude))
            }
            late => {
                self.latitude = late;
                self.flush_latitude();
                self.last_latitude.filter(|_| self.keeps_other_coordinate).map(|latitude| (at_ms, latitude))
            }
        };
        let (at_ms, mut signals) = match pair {
            Some((at_ms, latitude)) => (at_ms, vec![number(path::LATITUDE, latitude)]),
            None => (at_ms, Vec::new()),
        };
        signals.push(number(path::LONGITUDE, longitude));
        self.messages.push(Message::signals(at_ms, signals));
    }

    /// A latitude whose longitude did not come.
    fn flush_latitude(&mut self) {
        let Some((at_ms, latitude)) = self.latitude.take() else { return };
        let mut signals = vec![number(path::LATITUDE, latitude)];
        if self.keeps_other_coordinate
            && let Some(longitude) = self.last_longitude
        {
            signals.push(number(path::LONGITUDE, longitude));
        }
        self.messages.push(Message::signals(at_ms, signals));
    }

    /// The fact behind a change of the ignition.
    fn note_ignition(&mut self, at_ms: i64, signals: &[(SignalPath, SignalValue)]) {
        let state = signals.iter().find(|(name, _)| name.as_str() == path::LOW_VOLTAGE);
        let Some(on) = state.and_then(|(_, value)| value.as_text()).map(|state| matches!(state, "ON" | "START")) else {
            return;
        };
        if self.is_ignition_on.replace(on).is_some_and(|before| before != on) {
            self.messages.push(Message::fact(at_ms, FactKind::Ignition { on }));
        }
    }

    fn door(&mut self, row: &Row, field: &str, at_ms: i64, door: &str, is_open: bool) -> Result<(), TraceError> {
        let signal = self.door_signal(row, field, at_ms, door, is_open)?;
        self.messages.push(Message::signals(at_ms, vec![signal]));
        Ok(())
    }

    fn door_signal(
        &mut self,
        row: &Row,
        field: &str,
        at_ms: i64,
        door: &str,
        is_open: bool,
    ) -> Result<(SignalPath, SignalValue), TraceError> {
        let Some(index) = DOORS.iter().position(|(name, _)| *name == door) else {
            return Err(row.wrong(field, format!("{door:?} is not a door")));
        };
        if self.open[index].replace(is_open).is_some_and(|before| before != is_open) {
            self.messages.push(Message::fact(at_ms, FactKind::Door { name: door.into(), open: is_open }));
        }
        Ok(flag(DOORS[index].1, is_open))
    }

    fn finish(mut self) -> Vec<Message> {
        self.flush_latitude();
        self.messages
    }
}

/// A value under its VSS name and unit; one VSS lacks keeps its own name.
fn signal(row: &Row, field: &str, name: &str, value: &Value) -> Result<(SignalPath, SignalValue), TraceError> {
    let as_number = || value.as_f64().ok_or_else(|| row.wrong(field, "not a number"));
    let as_flag = || value.as_bool().ok_or_else(|| row.wrong(field, "not true or false"));
    let as_text = || value.as_str().ok_or_else(|| row.wrong(field, "not a text"));
    let numbered = |path: &str| as_number().map(|value| number(path, value));
    let flagged = |path: &str| as_flag().map(|value| flag(path, value));
    match name {
        "latitude" => numbered(path::LATITUDE),
        "longitude" => numbered(path::LONGITUDE),
        // km/h: its integral over the timed recording is the length of the GPS path.
        "vehicle_speed" => numbered(path::SPEED_KMH),
        // Brought to percent for the recording as a whole, see `FuelScale`.
        "fuel_level" => numbered(path::FUEL_PERCENT),
        "odometer" => numbered(path::ODOMETER_KM),
        "fine_odometer_since_restart" => numbered("Vehicle.TripMeterReading"),
        "fuel_consumed_since_restart" => numbered("Vehicle.Powertrain.FuelSystem.ConsumptionSinceStart"),
        "engine_speed" => numbered("Vehicle.Powertrain.CombustionEngine.Speed"),
        "powertrain_torque" => numbered("Vehicle.Powertrain.CombustionEngine.Torque"),
        "steering_wheel_angle" => numbered("Vehicle.Chassis.SteeringWheel.Angle"),
        "accelerator_pedal_position" => numbered("Vehicle.Chassis.Accelerator.PedalPosition"),
        "parking_brake_status" => flagged("Vehicle.Chassis.ParkingBrake.IsEngaged"),
        "headlamp_status" => flagged("Vehicle.Body.Lights.Beam.Low.IsOn"),
        "high_beam_status" => flagged("Vehicle.Body.Lights.Beam.High.IsOn"),
        "ignition_status" => match as_text()? {
            "off" => Ok(text(path::LOW_VOLTAGE, "OFF")),
            "accessory" => Ok(text(path::LOW_VOLTAGE, "ACC")),
            "run" => Ok(text(path::LOW_VOLTAGE, "ON")),
            "start" => Ok(text(path::LOW_VOLTAGE, "START")),
            other => Err(row.wrong(field, format!("{other:?} is not a state of the ignition"))),
        },
        "transmission_gear_position" => match gear(as_text()?) {
            Some(gear) => Ok(number("Vehicle.Powertrain.Transmission.CurrentGear", gear)),
            None => Err(row.wrong(field, "not a gear")),
        },
        other => Ok((row.path("name", &format!("OpenXC.{other}"))?, row.value(field, value)?)),
    }
}

/// VSS counts gears: 0 neutral, -1 reverse.
fn gear(name: &str) -> Option<f64> {
    const GEARS: [&str; 10] =
        ["reverse", "neutral", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];
    GEARS.iter().position(|gear| *gear == name).map(|index| index as f64 - 1.0)
}
