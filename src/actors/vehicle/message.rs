//! The messages of a vehicle's actor: what cars, people and the fleet say to it, and what it answers.

use std::net::IpAddr;
use std::sync::OnceLock;

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::actors::fleet::Budget;
use crate::domain::command::{Ack, Command, Fact, ToCar};
use crate::domain::key::Key;
use crate::domain::rental::{Rental, UsageRequest};
use crate::domain::twin::{Report, Twin};
use crate::domain::vehicle::{Request, Vehicle};
use crate::domain::{CommandId, Principal, Refusal, Timestamp, VehicleId};
use crate::telemetry::SpanContext;

/// What reaches a vehicle's actor from its car, in the order the car's session had it.
#[derive(Debug)]
pub enum FromCar {
    /// Telemetry, oldest first; may be dropped under load (the gaps show in `seq`).
    Reports(Vec<Report>),
    /// Answered with `ToCar::EventAck` once durable; a fact that could not be taken is simply not answered, and the
    /// car sends it again.
    Fact(Fact),
    Ack(Ack),
    /// The gate admitted a session. `epoch` rises with every session of the gateway's life; a takeover is one
    /// `LinkUp` with a higher epoch.
    LinkUp {
        epoch: u64,
        /// Where the car connects from.
        address: Option<IpAddr>,
    },
    LinkDown {
        epoch: u64,
    },
    /// The car's PUBACK for a command.
    Delivered {
        command_id: CommandId,
    },
}

/// The message could not be handed over now; nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TellError {
    /// A mailbox or the observation budget is full; a retry in a moment is worth it.
    Full,
    /// No such vehicle and no room for one more, or the fleet is stopping.
    Unavailable,
}

/// Sends something to a car through whatever edge holds its session. Delivery is not promised: `Delivered` and the
/// car's ack tell, and the outbox sends again on the next `LinkUp`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SendToCar {
    pub vehicle: VehicleId,
    pub message: ToCar,
}

/// A person's (or their program's) request to a vehicle; answered once what it promises is durable.
#[derive(Debug, Clone)]
pub struct Ask {
    pub request: Request,
    pub by: Principal,
    pub idempotency: Option<IdempotencyKey>,
}

/// `key` is scoped by the caller (`<subject>/<route>/<key>`); `body` = hex SHA-256 of what was asked.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    pub key: String,
    pub body: String,
}

/// What a request led to. Serialised as the recorded answer of an idempotency key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one a request, moved a few times")]
pub enum Answer {
    /// Register, Change.
    Vehicle,
    /// Order, Act, Cancel.
    Command(Command),
    /// Use, Approve, Decline.
    Usage { request: UsageRequest, rental: Option<Rental>, key: Option<IssuedKey> },
    /// EndRental, CancelRental.
    Rental(Rental),
    /// Revoke.
    Key(Key),
}

/// A key with its token for the holder (CWT, base64url without padding).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssuedKey {
    pub key: Key,
    pub token: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// Surely nothing happened; asking again brings the same.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Surely nothing happened: the idempotency key came before with another body.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    /// Surely nothing happened; worth a retry later.
    #[error("storage is full or busy: {0}")]
    Storage(&'static str),
    /// Surely nothing happened: a mailbox is full; worth a retry later.
    #[error("the vehicle is busy")]
    Busy,
    /// It may have happened; a retry with the same idempotency key is safe.
    #[error("the outcome is unknown")]
    Unknown,
}

/// The vehicle as it is now.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub now: Timestamp,
    pub vehicle: Vehicle,
    pub twin: Twin,
    pub written: Written,
}

impl Snapshot {
    pub fn new(now: Timestamp, vehicle: Vehicle, twin: Twin) -> Self {
        Self { now, vehicle, twin, written: Written::default() }
    }
}

/// What an edge wrote of a snapshot, in full and in short: made once, for all who watch.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub full: OnceLock<Box<str>>,
    pub summary: OnceLock<Box<str>>,
}

/// The mailbox's messages. Each reply goes by a oneshot, so that a full mailbox can refuse at once and a dead actor
/// shows as a dropped sender.
#[derive(Message)]
#[rtype(result = "()")]
pub(in crate::actors) enum Letter {
    /// The second field gives the observation budget back when the letter is done with or lost.
    FromCar(FromCar, Option<Budget>),
    /// With the span of the request, if it is traced.
    Ask(Box<Ask>, Reply, Option<SpanContext>),
    Snapshot(oneshot::Sender<Snapshot>),
    /// Replies with the command once it is final, or as it is when the asker has gone.
    Await(CommandId, oneshot::Sender<Option<Command>>),
    /// Something is due.
    Sweep,
    /// Send your state to the feed.
    Publish,
    /// Save everything and reply.
    Drain(oneshot::Sender<()>),
    /// Leave memory if nothing is pending.
    Retire,
    /// Another gateway has taken the vehicle: leave at once, and save nothing.
    Overtaken,
}

/// Where the answer to an `Ask` goes.
pub(in crate::actors) type Reply = oneshot::Sender<Result<Answer, AskError>>;
