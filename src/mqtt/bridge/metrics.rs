//! What the bridge counts, apart from the gate's numbers: plain atomics, read by `/metrics`.

use super::super::metrics::Counter;

macro_rules! ignored {
    ($($(#[$doc:meta])* $ignored:ident = $name:literal),* $(,)?) => {
        /// Why a message from the broker led to nothing. It is settled with the broker all the same: sent again it would
        /// fare no better.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Ignored {
            $($(#[$doc])* $ignored,)*
        }

        impl Ignored {
            pub const ALL: &'static [Self] = &[$(Self::$ignored,)*];

            /// The label in `/metrics`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$ignored => $name,)*
                }
            }
        }
    };
}

ignored! {
    /// Not exactly a topic that cars publish to.
    ForeignTopic = "foreign_topic",
    /// The broker kept it: it may be of any age.
    Retained = "retained",
    /// The vehicle is not in `bridge.vehicles`.
    NotListed = "not_listed",
    /// The vehicle has a session at the gate.
    AtGate = "at_gate",
    EmptyPayload = "empty_payload",
    /// Over `mqtt.max_payload_bytes`.
    TooLong = "too_long",
    /// The car is over `mqtt.rate_per_s` and `mqtt.rate_burst`.
    Rate = "rate",
    /// `bridge.max_vehicles` were heard of lately.
    VehiclesFull = "vehicles_full",
    /// JSON that is not what the contract says.
    BadTelemetry = "bad_telemetry",
    BadEvent = "bad_event",
    BadAck = "bad_ack",
    /// The fleet takes no more vehicles, or is stopping.
    FleetFull = "fleet_full",
}

/// All counters of the bridge. Totals since start unless a gauge.
#[derive(Debug, Default)]
pub struct BridgeMetrics {
    /// Gauge: 1 while the broker has taken our subscription.
    pub connected: Counter,
    /// Gauge: cars that are online over the bridge.
    pub vehicles: Counter,
    pub connects: Counter,
    /// Connections that were up and ended otherwise than by a stop.
    pub losses: Counter,
    /// Tries that came to nothing.
    pub failed_attempts: Counter,
    /// Messages from the broker, and their payload bytes.
    pub received: Counter,
    pub received_bytes: Counter,
    /// Handed to the vehicle's actor.
    pub reports: Counter,
    pub facts: Counter,
    pub acks: Counter,
    /// Telemetry that found no room.
    pub reports_dropped: Counter,
    /// Facts and answers that had to wait for room.
    pub held_back: Counter,
    /// Facts and answers that waited in vain, or whose connection ended meanwhile.
    pub facts_not_taken: Counter,
    pub acks_not_taken: Counter,
    /// Messages for cars given to the broker.
    pub commands: Counter,
    /// Messages for cars that found no room or whose connection ended first; sent again with the car's next sign of life.
    pub commands_dropped: Counter,
    /// Ends of a car's time online that had to wait to be told.
    pub link_downs_retried: Counter,
    /// Times the bridge's task broke and was started again; must stay 0.
    pub restarts: Counter,
    ignored: IgnoredCounts,
}

#[derive(Debug)]
struct IgnoredCounts([Counter; Ignored::ALL.len()]);

impl Default for IgnoredCounts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl BridgeMetrics {
    pub fn ignore(&self, why: Ignored) {
        self.ignored.0[why as usize].add(1);
    }

    pub fn ignored(&self, why: Ignored) -> u64 {
        self.ignored.0[why as usize].get()
    }
}
