//! What became of each car's connections lately: for the operator who asks why a car is not there.
//!
//! In memory, bounded per car and in cars: it begins with the process, and says so. It decides nothing.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::metrics::Reason;
use crate::domain::{Timestamp, VehicleId};

/// One thing that happened to a car's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkEntry {
    pub at: Timestamp,
    pub change: LinkChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    Connected {
        epoch: u64,
        address: IpAddr,
    },
    Disconnected {
        epoch: u64,
        reason: Reason,
    },
    /// It had shown a certificate that is trusted, and was not let in.
    Refused {
        address: IpAddr,
        reason: Reason,
    },
}

#[derive(Debug)]
pub struct LinkLog {
    /// Nothing is known of before.
    since: Timestamp,
    /// By the car's name, so that a storm of connections does not queue at one lock.
    parts: [Mutex<HashMap<VehicleId, VecDeque<LinkEntry>>>; PARTS],
}

const PARTS: usize = 16;

impl LinkLog {
    /// Of one car; more push out the oldest.
    pub const MAX_ENTRIES: usize = 32;
    /// Cars; those that come when it is full are not logged.
    const MAX_VEHICLES: usize = 200_000;

    pub fn new(since: Timestamp) -> Self {
        Self { since, parts: Default::default() }
    }

    pub fn since(&self) -> Timestamp {
        self.since
    }

    fn part(&self, vehicle: &VehicleId) -> std::sync::MutexGuard<'_, HashMap<VehicleId, VecDeque<LinkEntry>>> {
        let index = crc32c::crc32c(vehicle.as_str().as_bytes()) as usize % PARTS;
        self.parts[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, vehicle: &VehicleId, at: Timestamp, change: LinkChange) {
        let mut part = self.part(vehicle);
        if part.len() >= Self::MAX_VEHICLES / PARTS && !part.contains_key(vehicle) {
            return;
        }
        let entries = part.entry(vehicle.clone()).or_default();
        if entries.len() >= Self::MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(LinkEntry { at, change });
    }

    /// Newest first.
    pub fn of(&self, vehicle: &VehicleId) -> Vec<LinkEntry> {
        self.part(vehicle).get(vehicle).map(|entries| entries.iter().rev().copied().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_of_a_car_are_kept_and_nobody_else_s_are_touched() {
        let log = LinkLog::new(Timestamp(1));
        let [car, other]: [VehicleId; 2] = ["WVW-1", "WVW-2"].map(|id| id.parse().expect("an id"));
        let address = IpAddr::from([192, 0, 2, 1]);
        log.note(&other, Timestamp(1), LinkChange::Refused { address, reason: Reason::Revoked });
        for epoch in 0..40 {
            log.note(&car, Timestamp(epoch), LinkChange::Connected { epoch: epoch as u64, address });
        }
        let entries = log.of(&car);
        assert_eq!((entries.len(), entries[0].at, entries[31].at), (32, Timestamp(39), Timestamp(8)));
        assert_eq!(log.of(&other).len(), 1);
        assert!(log.of(&"WVW-3".parse().expect("an id")).is_empty());
    }
}
