//! One car's actor: decide -> commit -> apply -> send.

use actix::prelude::*;

use crate::domain::command::{Ack, Command, Fact, ToCar};
use crate::domain::key::Key;
use crate::domain::rental::{Rental, UsageRequest};
use crate::domain::twin::{Report, Twin};
use crate::domain::vehicle::{Request, Vehicle};
use crate::domain::{CommandId, Principal, Refusal, Timestamp, VehicleId};
use serde::{Deserialize, Serialize};

/// What reaches a vehicle's actor from its car, in the order the car's session had it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum FromCar {
    /// Telemetry, oldest first; may be dropped under load (the gaps show in `seq`).
    Reports(Vec<Report>),
    /// Answered with `ToCar::EventAck` once durable; a fact that could not be taken is simply not answered, and the car sends it again.
    Fact(Fact),
    Ack(Ack),
    /// The gate admitted a session. `epoch` rises with every session of the gateway's life; a takeover is one `LinkUp` with a higher epoch.
    LinkUp {
        epoch: u64,
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
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Answer, AskError>")]
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
#[derive(Debug, Clone, Message)]
#[rtype(result = "Snapshot")]
pub struct GetSnapshot;

/// `vehicle.registered` is `None` when there is no such vehicle.
#[derive(Debug, Clone, MessageResponse)]
pub struct Snapshot {
    pub now: Timestamp,
    pub vehicle: Vehicle,
    pub twin: Twin,
}

/// Answers when the command is final, or with its state when `wait_ms` is over; `None` when the actor does not keep it (read the view then).
#[derive(Debug, Clone, Message)]
#[rtype(result = "Option<Command>")]
pub struct AwaitCommand {
    pub command_id: CommandId,
    pub wait_ms: u64,
}
