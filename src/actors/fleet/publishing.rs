//! Every vehicle's state to the feed, when somebody begins to watch.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::FleetHandle;
use crate::actors::feed::VehicleChanged;
use crate::actors::peers::Keeper;
use crate::actors::vehicle::{Letter, Snapshot};
use crate::domain::VehicleId;

const PAGE: usize = 256;
/// While the feed has more than it can take.
const FEED_FULL: Duration = Duration::from_millis(5);

impl FleetHandle {
    /// Asks every vehicle to send its state to the feed (a first console has come). Vehicles that another gateway has are
    /// that one's to tell.
    pub fn publish_all(&self) {
        self.publish_resident();
        let fleet = self.clone();
        actix::spawn(async move { fleet.publish_absent(true).await });
    }

    /// The same of the vehicles that this gateway has, for consoles elsewhere.
    pub async fn publish_kept(&self) {
        self.publish_resident();
        self.publish_absent(false).await;
    }

    fn publish_resident(&self) {
        for shard in &self.0.shards {
            for resident in shard.vehicles.read().unwrap_or_else(PoisonError::into_inner).values() {
                // One message a vehicle, so bounded; a dead actor publishes when it is started again.
                resident.addr.do_send(Letter::Publish);
            }
        }
    }

    /// Those not in memory, one after another, as long as anybody watches. `orphans`: also those that nobody has.
    async fn publish_absent(&self, orphans: bool) {
        let mut after = None;
        loop {
            let ids = self.vehicles(after.as_ref(), PAGE);
            for id in ids.iter().filter(|id| self.0.resident(id).is_none()) {
                if self.0.shared.audience.load(Ordering::Relaxed) == 0 {
                    return;
                }
                self.publish_one(id, orphans).await;
            }
            match ids.last() {
                Some(last) if ids.len() == PAGE => after = Some(last.clone()),
                Some(_) | None => return,
            }
        }
    }

    /// One that cannot be read now is shown when it next changes.
    async fn publish_one(&self, id: &VehicleId, orphans: bool) {
        let is_told = match self.0.shared.peers.as_ref().map(|peers| peers.keeper(id)) {
            // On a machine that is alone it is woken for it.
            None => {
                if self.snapshot(id).await.is_ok() {
                    let _ = self.post(id, Letter::Publish);
                }
                false
            }
            Some(Keeper::Here) => true,
            Some(Keeper::There(_)) => false,
            Some(Keeper::Gone | Keeper::Nobody) => orphans,
        };
        if !is_told {
            return;
        }
        if let Ok(Snapshot { now, vehicle, twin, .. }) = self.stored(id).await {
            let change = VehicleChanged(Arc::new(Snapshot::new(now, vehicle.without_the_past(), twin)));
            while self.0.shared.vehicles_feed.try_send(change.clone()).is_err() {
                if !self.0.shared.vehicles_feed.connected() {
                    return;
                }
                tokio::time::sleep(FEED_FULL).await;
            }
        }
    }

    /// Vehicles whose gateway lives no more.
    pub fn orphans(&self) -> Vec<VehicleId> {
        let Some(peers) = &self.0.shared.peers else { return Vec::new() };
        let registered = self.0.shared.registered.read().unwrap_or_else(PoisonError::into_inner);
        registered.iter().filter(|id| peers.keeper(id) == Keeper::Gone).cloned().collect()
    }
}
