//! What is due for vehicles whose gateway lives no more: looked for by those that live, each its share.

use std::future::Future;
use std::time::Duration;

use super::{FleetHandle, LinkKnown};
use crate::actors::fleet::routing::is_on_us;
use crate::actors::loading::load;
use crate::domain::VehicleId;
use crate::store::Epoch;

/// Vehicles that are looked at in one go,
const PAGE: usize = 256;
/// by so many threads: each mostly waits for the view.
const THREADS: usize = 4;
/// Before those that could not be read are looked at again; twice as long each time, until it is
const AGAIN: Duration = Duration::from_secs(1);
/// this long.
const AGAIN_MAX: Duration = Duration::from_secs(30);

impl FleetHandle {
    /// Looks through every vehicle that no living gateway has and that fell to this one, for what is due, until all could be
    /// read. Called whenever the living gateways have changed; true = `changed` came first, and all is to be looked at anew.
    pub async fn adopt(&self, changed: impl Future<Output = ()>) -> bool {
        tokio::pin!(changed);
        let mut pause = AGAIN;
        let mut unread = self.look(None).await;
        while unread.as_ref().is_none_or(|unread| !unread.is_empty()) {
            tracing::warn!(vehicles = unread.as_ref().map(Vec::len), "what is due for them is not known yet");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut changed => return true,
            }
            pause = (2 * pause).min(AGAIN_MAX);
            unread = self.look(unread).await;
        }
        false
    }

    /// At these, or `None` = at all; returns likewise those that could not be read. Off the threads that must not wait for a
    /// disk.
    async fn look(&self, at: Option<Vec<VehicleId>>) -> Option<Vec<VehicleId>> {
        let (fleet, again) = (self.clone(), at.clone());
        let looking = tokio::task::spawn_blocking(move || match at {
            Some(ids) => fleet.note_due(&ids),
            None => fleet.note_all_due(),
        });
        match looking.await {
            Ok(unread) => Some(unread),
            Err(_) => {
                tracing::error!("looking for what is due panicked");
                again
            }
        }
    }

    fn note_all_due(&self) -> Vec<VehicleId> {
        let (mut after, mut unread) = (None, Vec::new());
        loop {
            let ids = self.vehicles(after.as_ref(), PAGE);
            unread.extend(self.note_due(&ids));
            match ids.last() {
                Some(last) if ids.len() == PAGE => after = Some(last.clone()),
                Some(_) | None => return unread,
            }
        }
    }

    /// Puts them into the schedule, where an entry that is there already counts once; returns those that cannot be read.
    fn note_due(&self, ids: &[VehicleId]) -> Vec<VehicleId> {
        std::thread::scope(|scope| {
            let parts = ids.chunks(ids.len().div_ceil(THREADS).max(1));
            let threads: Vec<_> = parts
                .map(|part| {
                    let look = || part.iter().filter(|id| !self.note_one(id)).cloned().collect();
                    (part, scope.spawn(look))
                })
                .collect();
            let unread = threads.into_iter().map(|(part, thread)| {
                // One that panics leaves the others of its part unread: fewer at each further look.
                thread.join().unwrap_or_else(|_| {
                    tracing::error!(vehicles = part.len(), "looking for what is due for one of them panicked");
                    part.to_vec()
                })
            });
            unread.collect::<Vec<Vec<VehicleId>>>().concat()
        })
    }

    /// False = it cannot be read.
    fn note_one(&self, id: &VehicleId) -> bool {
        let is_for_us = self.0.shared.peers.as_ref().is_some_and(|peers| is_on_us(&**peers, id));
        if !is_for_us || self.0.resident(id).is_some() {
            return true;
        }
        match load(&self.0.shared, id, Epoch(0), LinkKnown::default()) {
            Ok(start) => {
                if let Some(due) = start.vehicle.next_due(&start.twin) {
                    self.0.shard(id).schedule.at(due, id.clone());
                }
                true
            }
            Err(error) => {
                tracing::debug!(vehicle = %id, %error, "what is due for it is not known");
                false
            }
        }
    }
}
