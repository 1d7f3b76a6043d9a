//! Fleet: VehicleId -> actor. Starts actors from the store on first need, restarts them after a panic, forwards.

use std::sync::Arc;
use std::time::Duration;

use crate::actors::vehicle::{Answer, Ask, AskError, FromCar, Snapshot, TellError};
use crate::domain::command::Command;
use crate::domain::{CommandId, VehicleId};

/// The way to every vehicle; cheap to clone. Edges hold one.
#[derive(Clone)]
pub struct FleetHandle(Arc<Inner>);

struct Inner {}

#[expect(clippy::unused_async, unused_variables, reason = "signatures first; the bodies come with the fleet")]
impl FleetHandle {
    /// A fleet that answers Busy, until the real one is there.
    #[cfg(test)]
    pub fn detached() -> Self {
        Self(Arc::new(Inner {}))
    }

    /// From the gate; never blocks.
    pub fn tell(&self, vehicle: &VehicleId, message: FromCar) -> Result<(), TellError> {
        Err(TellError::Unavailable)
    }

    /// From an edge to a vehicle; a vehicle nobody registered is `Refused(NotFound)` (but for `Register`).
    pub async fn ask(&self, vehicle: &VehicleId, ask: Ask) -> Result<Answer, AskError> {
        Err(AskError::Busy)
    }

    /// The vehicle as it is now; `Refused(NotFound)` when nobody registered it.
    pub async fn snapshot(&self, vehicle: &VehicleId) -> Result<Snapshot, AskError> {
        Err(AskError::Busy)
    }

    /// The command when it is final, or as it is after `wait`; `None` when the actor keeps it no longer (read the view).
    pub async fn command(
        &self,
        vehicle: &VehicleId,
        command: CommandId,
        wait: Duration,
    ) -> Result<Option<Command>, AskError> {
        Err(AskError::Busy)
    }

    /// Every registered vehicle's id in order after `after`, at most `limit`; from memory.
    pub fn vehicles(&self, after: Option<&VehicleId>, limit: usize) -> Vec<VehicleId> {
        Vec::new()
    }

    /// Asks every vehicle to send its state to the feed (a first console has come).
    pub fn publish_all(&self) {}
}
