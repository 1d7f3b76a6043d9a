//! A realistic telemetry message of about 330 bytes, made cheaply many times.

use std::io::Write;

use cardea::clock::Clock;

use crate::dice::Dice;

/// One car's message, of which only numbers and the time change.
pub struct ReportTemplate {
    topic: String,
    signals: String,
    seq: u64,
    boot: u64,
    clock: Clock,
}

impl ReportTemplate {
    pub fn new(vehicle: &str, clock: Clock) -> Self {
        let mut dice = Dice::new(vehicle.bytes().map(u64::from).sum());
        let (latitude, longitude) = (45.07 + dice.between(-0.05, 0.05), 7.68 + dice.between(-0.05, 0.05));
        let signals = format!(
            "\"signals\":{{\"Vehicle.CurrentLocation.Latitude\":{latitude:.6},\
             \"Vehicle.CurrentLocation.Longitude\":{longitude:.6},\
             \"Vehicle.CurrentLocation.HorizontalAccuracy\":4,\"Vehicle.Speed\":{:.1},\
             \"Vehicle.LowVoltageSystemState\":\"ON\",\"Vehicle.Powertrain.FuelSystem.RelativeLevel\":{:.1},\
             \"Vehicle.TraveledDistance\":{:.1}}}}}",
            dice.between(10.0, 90.0),
            dice.between(20.0, 80.0),
            dice.between(5e3, 9e4),
        );
        let boot = u64::try_from(clock.now().0).unwrap_or(0);
        Self { topic: format!("v1/{vehicle}/telemetry"), signals, seq: 0, boot, clock }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Writes the next message; `sent_ns` is a field that receivers of a bench read and all others ignore.
    pub fn next(&mut self, sent_ns: u64, payload: &mut Vec<u8>) {
        self.seq += 1;
        payload.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(
            payload,
            "{{\"boot\":{},\"seq\":{},\"sent_ns\":{sent_ns},\"at\":\"{}\",{}",
            self.boot,
            self.seq,
            self.clock.now(),
            self.signals
        );
    }
}

/// The `sent_ns` of a message that [`ReportTemplate`] wrote.
pub fn sent_ns(payload: &[u8]) -> Option<u64> {
    const FIELD: &[u8] = b"\"sent_ns\":";
    let start = payload.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let digits = payload[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&payload[start..start + digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use cardea::mqtt::payload;

    use super::*;

    #[test]
    fn the_message_is_one_the_gateway_takes() {
        let mut template = ReportTemplate::new("BENCH-00001", Clock::start());
        let mut message = Vec::new();
        template.next(123_456_789, &mut message);
        let report = payload::decode_report(&message).unwrap();
        assert_eq!((report.seq, report.signals.len()), (1, 7));
        assert_eq!(sent_ns(&message), Some(123_456_789));
        assert!((280..420).contains(&message.len()), "{} bytes", message.len());
    }
}
