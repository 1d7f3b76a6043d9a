//! What the gate counts: plain atomics, read by `/metrics`. Every limit has a counter that shows when it bites.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only rises, or a gauge where its field says so.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal),* $(,)?) => {
        /// Why the gate said no to a peer, to a packet, or to a session that was up.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$reason,)*];

            /// The label in `/metrics` and in logs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// More sockets than `max_sessions` + `max_handshakes`; closed unread.
    SocketsFull = "sockets_full",
    /// No TLS within `tls_timeout_ms`.
    TlsTimeout = "tls_timeout",
    /// Not TLS at all, or a handshake that ended for another reason than the ones below.
    TlsFailed = "tls_failed",
    /// The peer showed no certificate.
    NoCertificate = "no_certificate",
    /// No CA of ours signed its certificate.
    UnknownCa = "unknown_ca",
    CertificateExpired = "certificate_expired",
    CertificateNotYetValid = "certificate_not_yet_valid",
    /// A certificate that is damaged, of a wrong kind, or whose key its holder does not have.
    BadCertificate = "bad_certificate",
    /// The peer ended the handshake since it does not trust our certificate.
    GatewayNotTrusted = "gateway_not_trusted",
    /// The certificate names no vehicle.
    BadIdentity = "bad_identity",
    /// Revoked, or out of its time on a resumed session; at connect or while up.
    Revoked = "revoked",
    /// No CONNECT within `connect_timeout_ms`.
    ConnectTimeout = "connect_timeout",
    /// The first packet was no CONNECT of MQTT.
    NotConnect = "not_connect",
    /// Not MQTT 3.1.1.
    ProtocolVersion = "protocol_version",
    /// The client id is not the certificate's vehicle.
    ForeignClientId = "foreign_client_id",
    Will = "will",
    /// `max_sessions` are up.
    SessionsFull = "sessions_full",
    /// The fleet had no room to hear of the session.
    FleetFull = "fleet_full",
    /// The car's shard is being replaced.
    ShardDown = "shard_down",
    /// A PUBLISH to a topic that is not the car's own, or not from cars.
    ForeignTopic = "foreign_topic",
    /// A subscription to anything but the car's own command topic.
    ForeignFilter = "foreign_filter",
    Retain = "retain",
    Qos2 = "qos2",
    EmptyPayload = "empty_payload",
    /// Over `max_payload_bytes`, or a packet that could only be.
    TooLong = "too_long",
    /// Breaks the MQTT grammar.
    Malformed = "malformed",
    /// A packet that has no place here, like a second CONNECT.
    UnexpectedPacket = "unexpected_packet",
    /// JSON that is not what the contract says; the session stays.
    BadTelemetry = "bad_telemetry",
    BadEvent = "bad_event",
    BadAck = "bad_ack",
    /// The car left with DISCONNECT.
    Disconnect = "disconnect",
    /// The connection broke or ended without DISCONNECT.
    Gone = "gone",
    /// A newer session of the same car.
    Takeover = "takeover",
    /// Silent for longer than its keep-alive allows, or over the bridge than `bridge.offline_after_s`.
    Silent = "silent",
    /// Did not read for `write_timeout_ms`.
    SlowReader = "slow_reader",
    /// More than `mailbox_max` commands waited.
    MailboxFull = "mailbox_full",
    /// Over its rate for ten seconds on end.
    Flood = "flood",
    /// The session's shard died or stalled.
    ShardLost = "shard_lost",
    /// The connection to the broker ended that the car was heard over.
    BridgeLost = "bridge_lost",
    /// The gateway stops.
    Shutdown = "shutdown",
    /// Another gateway of the cluster has the car now.
    TakenElsewhere = "taken_elsewhere",
    /// The cluster's servers cannot be reached from here: another gateway can speak for the car.
    Isolated = "isolated",
    /// Somebody asked for it.
    Kicked = "kicked",
}

/// All counters of the edge to the cars. Totals since start unless a gauge.
#[derive(Debug, Default)]
pub struct MqttMetrics {
    /// Gauge: sessions up.
    pub sessions: Counter,
    /// Gauge: sockets that have no session yet.
    pub handshakes: Counter,
    pub connects: Counter,
    /// Connects that resumed TLS by a ticket.
    pub resumed: Counter,
    /// PUBLISHes taken from cars and handed to a router, and their payload bytes.
    pub published: Counter,
    pub published_bytes: Counter,
    /// Payloads that were decoded and handed to the vehicle's actor.
    pub reports: Counter,
    pub facts: Counter,
    pub acks: Counter,
    /// Dropped since the actor had no room for 100 ms, or the fleet none at all.
    pub reports_dropped: Counter,
    /// Not handed over; the car sends the fact again.
    pub facts_not_taken: Counter,
    /// Not handed over; the command is sent again.
    pub acks_not_taken: Counter,
    /// Times a session stopped reading since it was over its rate.
    pub throttled: Counter,
    /// Times a session stopped reading since its shard's log was half full.
    pub held_back: Counter,
    /// Messages for cars: handed to a router, found no session, written, acknowledged by PUBACK.
    pub commands: Counter,
    pub commands_without_session: Counter,
    pub commands_written: Counter,
    pub commands_delivered: Counter,
    /// Messages for cars dropped since the shard had no room or was down; the car's session is kicked, so that it is
    /// sent again.
    pub commands_dropped: Counter,
    /// Messages that a router's log lost, by its running numbers; must stay 0.
    pub log_gaps: Counter,
    /// Shards replaced after they died or stalled.
    pub shards_replaced: Counter,
    /// `accept` failed, mostly for lack of file descriptors.
    pub accept_failed: Counter,
    /// LinkDowns that had to wait for room.
    pub link_downs_retried: Counter,
    reasons: Reasons,
}

#[derive(Debug)]
struct Reasons([Counter; Reason::ALL.len()]);

impl Default for Reasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl MqttMetrics {
    pub fn count(&self, reason: Reason) {
        self.reasons.0[reason as usize].add(1);
    }

    pub fn counted(&self, reason: Reason) -> u64 {
        self.reasons.0[reason as usize].get()
    }
}
