//! Names of the wire: `v1/{vehicle}/telemetry|event|ack|command`, and who may say what on them.
//!
//! Used by the gate (access check on every packet, so nothing here allocates to read) and by the simulator's cars.

use std::fmt::Write;

use crate::domain::VehicleId;

/// The longest topic of ours: `v1/` + a vehicle id + `/telemetry`.
pub const MAX_LEN: usize = 3 + VehicleId::MAX_LEN + 10;

/// One of the four topics every car has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// From the car: newest signals; may be lost.
    Telemetry,
    /// From the car: facts, kept by it until `event_ack`.
    Event,
    /// From the car: what became of a command.
    Ack,
    /// To the car: everything the gateway sends.
    Command,
}

impl Channel {
    pub const ALL: [Self; 4] = [Self::Telemetry, Self::Event, Self::Ack, Self::Command];

    pub fn name(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Event => "event",
            Self::Ack => "ack",
            Self::Command => "command",
        }
    }

    pub fn is_from_car(self) -> bool {
        match self {
            Self::Telemetry | Self::Event | Self::Ack => true,
            Self::Command => false,
        }
    }

    /// The filter that catches this topic of every car.
    pub fn filter(self) -> &'static str {
        match self {
            Self::Telemetry => "v1/+/telemetry",
            Self::Event => "v1/+/event",
            Self::Ack => "v1/+/ack",
            Self::Command => "v1/+/command",
        }
    }

    /// `v1/{vehicle}/{name}`.
    pub fn topic(self, vehicle: &VehicleId) -> String {
        let mut topic = String::with_capacity(vehicle.as_str().len() + 13);
        // Writing to a String cannot fail.
        let _ = write!(topic, "v1/{vehicle}/{}", self.name());
        topic
    }
}

/// The vehicle and the channel that a topic names; `None` for every topic that is not exactly one of ours, wildcards
/// and non-ASCII ones included.
pub fn parse(topic: &[u8]) -> Option<(&str, Channel)> {
    let rest = topic.strip_prefix(b"v1/")?;
    let end = rest.iter().position(|byte| *byte == b'/')?;
    let (vehicle, channel) = (&rest[..end], &rest[end + 1..]);
    let is_fit = (1..=VehicleId::MAX_LEN).contains(&vehicle.len())
        && vehicle.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let channel = match channel {
        b"telemetry" => Channel::Telemetry,
        b"event" => Channel::Event,
        b"ack" => Channel::Ack,
        b"command" => Channel::Command,
        _ => return None,
    };
    if is_fit { Some((std::str::from_utf8(vehicle).ok()?, channel)) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_topic_reads_back_as_it_was_written() {
        let vehicle: VehicleId = "WVWZZZ-1".parse().unwrap();
        for channel in Channel::ALL {
            let topic = channel.topic(&vehicle);
            assert_eq!(parse(topic.as_bytes()), Some(("WVWZZZ-1", channel)), "{topic}");
            assert!(topic.len() <= MAX_LEN);
        }
    }

    #[test]
    fn a_topic_that_is_not_exactly_ours_is_none() {
        let long = format!("v1/{}/ack", "A".repeat(65));
        for topic in [
            "",
            "v1",
            "v1/",
            "v1//ack",
            "v1/A",
            "v1/A/",
            "v1/A/acks",
            "v1/A/ack/",
            "v1/A/b/ack",
            "/v1/A/ack",
            "v2/A/ack",
            "v1/+/ack",
            "v1/#",
            "v1/A/#",
            "$share/g/v1/A/ack",
            "$SYS/x",
            "v1/Ä/ack",
            "é",
            "v1/A/ack\0",
            "V1/A/ack",
            &long,
        ] {
            assert_eq!(parse(topic.as_bytes()), None, "{topic}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_it_takes_is_a_vehicle(topic in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some((vehicle, channel)) = parse(&topic) {
                let vehicle: VehicleId = vehicle.parse().unwrap();
                prop_assert_eq!(channel.topic(&vehicle).into_bytes(), topic);
            }
        }
    }
}
