//! Events to consoles: newest state per vehicle, alerts and decisions in full, all bounded.

use std::sync::Arc;

use actix::prelude::*;

use crate::actors::vehicle::Snapshot;
use crate::domain::VehicleId;
use crate::domain::command::Command;

/// A vehicle's state changed; sent at most once a second for telemetry, at once for links, rentals and keys.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct VehicleChanged(pub Arc<Snapshot>);

/// A command came into a new state.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct CommandChanged {
    pub vehicle: VehicleId,
    pub command: Command,
}
