//! Requests to vehicles wherever they are: here, at another gateway, or nowhere yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{ASK_TIMEOUT, FleetHandle, Inner, LinkKnown, load};
use crate::actors::peers::{Call, CallError, Keeper, Node, Peers, Reply};
use crate::actors::vehicle::{Answer, Ask, AskError, Letter, Snapshot};
use crate::domain::command::Command;
use crate::domain::vehicle::Request;
use crate::domain::{CommandId, Refusal, RefusalKind, VehicleId};
use crate::store::{Epoch, Table};
use crate::telemetry;

/// How long to wait before a vehicle that moves is asked again.
const MOVING: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(400)];
/// Beyond what the other gateway may take itself.
const ON_THE_WAY: Duration = Duration::from_millis(500);
/// How long a state that the other gateway should tell is worth waiting for, before what is stored is told.
const STATE_WITHIN: Duration = Duration::from_secs(2);
/// One piece of a long wait for a command at another gateway, which may die meanwhile.
const WAIT_PIECE: Duration = Duration::from_secs(2);
/// Between two looks for a vehicle that is on its way to another gateway.
const MOVES_WITHIN: Duration = Duration::from_millis(250);

impl FleetHandle {
    /// From an edge to a vehicle; a vehicle nobody registered is `Refused(NotFound)` (but for `Register`).
    pub async fn ask(&self, vehicle: &VehicleId, ask: Ask) -> Result<Answer, AskError> {
        if self.0.shared.peers.is_none() {
            return self.ask_here(vehicle, ask).await;
        }
        // A vehicle on its way from one gateway to another refuses whoever comes too late; surely nothing happened.
        for pause in MOVING {
            match self.ask_once(vehicle, ask.clone()).await {
                Err(AskError::Busy) => tokio::time::sleep(pause).await,
                answered => return answered,
            }
        }
        self.ask_once(vehicle, ask).await
    }

    async fn ask_once(&self, vehicle: &VehicleId, ask: Ask) -> Result<Answer, AskError> {
        if let Some(node) = self.elsewhere(vehicle) {
            let call = Call::Ask { vehicle: vehicle.clone(), ask: Box::new(ask.clone().into()) };
            match self.call(&node, call, ASK_TIMEOUT + ON_THE_WAY).await {
                Ok(Reply::Answer(answer)) => return answer.map_err(Into::into),
                // It may have happened there.
                Ok(Reply::Snapshot(_) | Reply::Command(_)) | Err(CallError::Unanswered) => {
                    return Err(AskError::Unknown);
                }
                // It lives, so it can be reached in a moment, or has moved on.
                Err(CallError::Unreached) if self.elsewhere(vehicle).is_some() => return Err(AskError::Busy),
                Err(CallError::Unreached) => {}
            }
        }
        self.ask_here(vehicle, ask).await
    }

    async fn ask_here(&self, vehicle: &VehicleId, ask: Ask) -> Result<Answer, AskError> {
        if matches!(ask.request, Request::Register { .. }) {
            if !self.is_registered(vehicle) && self.0.shared.is_full() {
                self.0.shared.metrics.fleet_full.fetch_add(1, Ordering::Relaxed);
                return Err(Refusal::new(RefusalKind::NotAvailable, "the fleet has as many vehicles as it may").into());
            }
        } else {
            self.known(vehicle).await?;
        }
        let (reply, answer) = oneshot::channel();
        self.post(vehicle, Letter::Ask(Box::new(ask), reply, telemetry::current()))?;
        match tokio::time::timeout(ASK_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            // The actor died with the letter, or is slower than anyone should wait: it may or may not have happened.
            Ok(Err(_)) | Err(_) => Err(AskError::Unknown),
        }
    }

    /// The vehicle as it is now; `Refused(NotFound)` when nobody registered it.
    pub async fn snapshot(&self, vehicle: &VehicleId) -> Result<Snapshot, AskError> {
        if let Some(node) = self.elsewhere(vehicle) {
            let call = Call::Snapshot { vehicle: vehicle.clone() };
            if let Ok(Reply::Snapshot(snapshot)) = self.call(&node, call, STATE_WITHIN).await {
                return snapshot.map(|form| (*form).into()).map_err(Into::into);
            }
        }
        if self.0.shared.peers.is_some() && self.0.resident(vehicle).is_none() {
            return self.stored(vehicle).await;
        }
        self.snapshot_here(vehicle).await
    }

    /// [`Self::must_exist`], with a look at what another gateway may have recorded a moment ago.
    async fn known(&self, vehicle: &VehicleId) -> Result<(), AskError> {
        let refused = match self.must_exist(vehicle) {
            Err(refused) if self.0.shared.peers.is_some() => refused,
            known => return known,
        };
        let (shared, key) = (Arc::clone(&self.0.shared), vehicle.to_string());
        let looked = tokio::task::spawn_blocking(move || shared.store.get(Table::Vehicles, &key)).await;
        match looked {
            Ok(Ok(Some(_))) => {
                self.0.shared.know(vehicle);
                Ok(())
            }
            Ok(Ok(None)) => Err(refused),
            Ok(Err(_)) | Err(_) => Err(AskError::Storage("the view is not available")),
        }
    }

    /// As it was stored last, without taking the vehicle from anybody.
    pub(super) async fn stored(&self, vehicle: &VehicleId) -> Result<Snapshot, AskError> {
        self.known(vehicle).await?;
        let (shared, vehicle) = (Arc::clone(&self.0.shared), vehicle.clone());
        let now = shared.clock.now();
        let loading =
            tokio::task::spawn_blocking(move || load(&shared, &vehicle, Epoch(0), LinkKnown::default())).await;
        match loading {
            Ok(Ok(start)) => Ok(Snapshot::new(now, start.vehicle, start.twin)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a vehicle that is not here cannot be read");
                Err(AskError::Busy)
            }
            Err(_) => Err(AskError::Busy),
        }
    }

    async fn snapshot_here(&self, vehicle: &VehicleId) -> Result<Snapshot, AskError> {
        self.known(vehicle).await?;
        let (reply, answer) = oneshot::channel();
        self.post(vehicle, Letter::Snapshot(reply))?;
        match tokio::time::timeout(ASK_TIMEOUT, answer).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(_)) | Err(_) => Err(AskError::Busy),
        }
    }

    /// The command when it is final, or as it is after `wait`; `None` when the actor keeps it no longer (read the view).
    pub async fn command(
        &self,
        vehicle: &VehicleId,
        command: CommandId,
        wait: Duration,
    ) -> Result<Option<Command>, AskError> {
        let clock = &self.0.shared.clock;
        let until = clock.elapsed() + wait;
        loop {
            let left = until.saturating_sub(clock.elapsed());
            let known = self.command_now(vehicle, command, left).await;
            let is_settled = match &known {
                Ok(found) => found.as_ref().is_none_or(|command| command.state.is_final()),
                Err(error) => matches!(error, AskError::Refused(_)),
            };
            if is_settled || self.0.shared.peers.is_none() || clock.elapsed() + MOVES_WITHIN >= until {
                return known;
            }
            // The wait was cut short: the vehicle goes to another gateway, or nobody has it.
            tokio::time::sleep(MOVES_WITHIN).await;
        }
    }

    /// Like [`Self::command`], where the vehicle is now; may come back early.
    async fn command_now(
        &self,
        vehicle: &VehicleId,
        command: CommandId,
        wait: Duration,
    ) -> Result<Option<Command>, AskError> {
        if let Some(node) = self.elsewhere(vehicle) {
            let wait = wait.min(WAIT_PIECE);
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let call = Call::Command { vehicle: vehicle.clone(), command_id: command, wait_ms };
            if let Ok(Reply::Command(known)) = self.call(&node, call, wait + STATE_WITHIN).await {
                return known.map_err(Into::into);
            }
        }
        if self.0.shared.peers.is_some() && self.0.resident(vehicle).is_none() {
            return Ok(self.stored(vehicle).await?.vehicle.command(command).cloned());
        }
        self.command_here(vehicle, command, wait).await
    }

    async fn command_here(
        &self,
        vehicle: &VehicleId,
        command: CommandId,
        wait: Duration,
    ) -> Result<Option<Command>, AskError> {
        self.known(vehicle).await?;
        if !wait.is_zero() {
            let (reply, answer) = oneshot::channel();
            self.post(vehicle, Letter::Await(command, reply))?;
            if let Ok(Ok(known)) = tokio::time::timeout(wait, answer).await {
                return Ok(known);
            }
        }
        let snapshot = self.snapshot(vehicle).await?;
        Ok(snapshot.vehicle.command(command).cloned())
    }

    /// Answers what another gateway asks of a vehicle that it believes to be here.
    pub async fn serve(&self, call: Call) -> Reply {
        match call {
            // Whoever asks knows less than we do.
            Call::Ask { vehicle, .. } if self.elsewhere(&vehicle).is_some() => {
                Reply::Answer(Err(AskError::Busy.into()))
            }
            Call::Ask { vehicle, ask } => {
                Reply::Answer(self.ask_here(&vehicle, (*ask).into()).await.map_err(Into::into))
            }
            Call::Snapshot { vehicle } => {
                let snapshot = match self.0.resident(&vehicle) {
                    Some(_) => self.snapshot_here(&vehicle).await,
                    None => self.stored(&vehicle).await,
                };
                Reply::Snapshot(snapshot.map(|snapshot| Box::new(snapshot.into())).map_err(Into::into))
            }
            Call::Command { vehicle, command_id, .. } if self.0.resident(&vehicle).is_none() => {
                let stored = self.stored(&vehicle).await;
                let known = stored.map(|snapshot| snapshot.vehicle.command(command_id).cloned());
                Reply::Command(known.map_err(Into::into))
            }
            Call::Command { vehicle, command_id, wait_ms } => {
                let known = self.command_here(&vehicle, command_id, Duration::from_millis(wait_ms)).await;
                Reply::Command(known.map_err(Into::into))
            }
        }
    }

    /// Lets go of vehicles that another gateway has taken, by the claim of this number.
    pub fn release(&self, taken: &HashMap<VehicleId, u64>) {
        for (vehicle, epoch) in taken {
            self.0.release(vehicle, Some(Epoch(*epoch)));
        }
    }

    /// The other gateway that has the vehicle.
    fn elsewhere(&self, vehicle: &VehicleId) -> Option<Node> {
        match self.0.shared.peers.as_ref()?.keeper(vehicle) {
            Keeper::There(node) => Some(node),
            Keeper::Here | Keeper::Gone | Keeper::Nobody => None,
        }
    }

    async fn call(&self, node: &Node, call: Call, within: Duration) -> Result<Reply, CallError> {
        match &self.0.shared.peers {
            Some(peers) => peers.call(node, call, within).await,
            None => Err(CallError::Unreached),
        }
    }
}

/// Of what is due, what is for this gateway. A vehicle that a living gateway has is that one's; when it dies, what is due is
/// looked for anew.
pub(super) fn is_to_sweep(inner: &Inner, vehicle: &VehicleId) -> bool {
    let Some(peers) = &inner.shared.peers else { return true };
    if inner.resident(vehicle).is_some() {
        return true;
    }
    is_on_us(&**peers, vehicle)
}

/// Does this gateway act for the vehicle when neither its car nor anybody asks?
pub(super) fn is_on_us(peers: &dyn Peers, vehicle: &VehicleId) -> bool {
    match peers.keeper(vehicle) {
        Keeper::Here => true,
        Keeper::There(_) => false,
        Keeper::Gone | Keeper::Nobody => peers.is_ours(vehicle),
    }
}
