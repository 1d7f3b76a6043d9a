//! One car's actor: decide -> commit -> apply -> send.

use actix::prelude::*;

use crate::domain::command::{Ack, Fact, ToCar};
use crate::domain::twin::Report;
use crate::domain::{CommandId, VehicleId};

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
