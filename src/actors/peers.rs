//! The other gateways of a cluster, as the fleet needs them. The port; [`crate::cluster`] is behind it, and a machine that is
//! alone has none.
//!
//! A vehicle's actor lives at the gateway that took the vehicle last. Requests from elsewhere go there; a vehicle that no living
//! gateway has is taken by whoever needs it. Nothing here has to be right for promises to be kept: a gateway that wrongly
//! takes a vehicle fences the other, and one that was fenced is refused by the store.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::vehicle::{Answer, Ask, AskError, IdempotencyKey, Snapshot};
use crate::domain::command::Command;
use crate::domain::twin::Twin;
use crate::domain::vehicle::{Request, Vehicle};
use crate::domain::{CommandId, Principal, Refusal, Timestamp, VehicleId};

/// A gateway's name.
pub type Node = Arc<str>;
pub type Calling = Pin<Box<dyn Future<Output = Result<Reply, CallError>> + Send>>;

/// Who took a vehicle last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// This very process.
    Here,
    /// Another gateway, which lives.
    There(Node),
    /// A process that lives no more.
    Gone,
    Nobody,
}

pub trait Peers: Send + Sync {
    fn keeper(&self, vehicle: &VehicleId) -> Keeper;
    /// Of the living gateways, is it this one that acts for a vehicle which none has?
    fn is_ours(&self, vehicle: &VehicleId) -> bool;
    /// Ends the car's session here: another gateway has the car.
    fn let_go(&self, vehicle: &VehicleId);
    fn call(&self, node: &Node, call: Call, within: Duration) -> Calling;
}

/// Why another gateway did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Surely nothing happened: it is not there, or was not asked.
    #[error("the gateway is not there")]
    Unreached,
    /// It may have happened.
    #[error("the gateway did not answer")]
    Unanswered,
}

/// What one gateway asks of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    Ask { vehicle: VehicleId, ask: Box<AskForm> },
    Snapshot { vehicle: VehicleId },
    Command { vehicle: VehicleId, command_id: CommandId, wait_ms: u64 },
}

/// An [`Ask`] on its way. Where it came from goes beside the principal, which never writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskForm {
    request: Request,
    by: Principal,
    from: Option<IpAddr>,
    key: Option<(String, String)>,
}

impl From<Ask> for AskForm {
    fn from(Ask { request, by, idempotency }: Ask) -> Self {
        let from = by.from;
        Self { request, by, from, key: idempotency.map(|IdempotencyKey { key, body }| (key, body)) }
    }
}

impl From<AskForm> for Ask {
    fn from(AskForm { request, by, from, key }: AskForm) -> Self {
        let idempotency = key.map(|(key, body)| IdempotencyKey { key, body });
        Self { request, by: Principal { from, ..by }, idempotency }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one a call, moved a few times")]
pub enum Reply {
    Answer(Result<Answer, AskErrorForm>),
    Snapshot(Result<Box<SnapshotForm>, AskErrorForm>),
    Command(Result<Option<Command>, AskErrorForm>),
}

/// An [`AskError`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskErrorForm {
    Refused(Refusal),
    KeyReused,
    /// The reason is in the log there.
    Storage,
    Busy,
    Unknown,
}

impl From<AskError> for AskErrorForm {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(refusal) => Self::Refused(refusal),
            AskError::KeyReused => Self::KeyReused,
            AskError::Storage(_) => Self::Storage,
            AskError::Busy => Self::Busy,
            AskError::Unknown => Self::Unknown,
        }
    }
}

impl From<AskErrorForm> for AskError {
    fn from(form: AskErrorForm) -> Self {
        match form {
            AskErrorForm::Refused(refusal) => Self::Refused(refusal),
            AskErrorForm::KeyReused => Self::KeyReused,
            AskErrorForm::Storage => Self::Storage("at the gateway that has the vehicle"),
            AskErrorForm::Busy => Self::Busy,
            AskErrorForm::Unknown => Self::Unknown,
        }
    }
}

/// A [`Snapshot`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotForm {
    now: Timestamp,
    vehicle: Vehicle,
    twin: Twin,
}

impl From<Snapshot> for SnapshotForm {
    fn from(Snapshot { now, vehicle, twin, .. }: Snapshot) -> Self {
        Self { now, vehicle, twin }
    }
}

impl SnapshotForm {
    pub fn of(snapshot: &Snapshot) -> Self {
        Self { now: snapshot.now, vehicle: snapshot.vehicle.clone(), twin: snapshot.twin.clone() }
    }
}

impl From<SnapshotForm> for Snapshot {
    fn from(SnapshotForm { now, vehicle, twin }: SnapshotForm) -> Self {
        Self::new(now, vehicle, twin)
    }
}
