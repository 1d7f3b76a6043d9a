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
        /// Over the bridge it is not known.
        address: Option<IpAddr>,
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
    /// Somebody who could not prove it claimed to be this car: its certificate was not trusted. So many times in a row,
    /// last at the entry's time.
    Unproved {
        address: IpAddr,
        reason: Reason,
        times: u32,
    },
}

#[derive(Debug)]
pub struct LinkLog {
    /// Nothing is known of before.
    since: Timestamp,
    /// By the car's name, so that a storm of connections does not queue at one lock.
    parts: [Mutex<HashMap<VehicleId, VecDeque<LinkEntry>>>; PARTS],
    /// Of all cars together and apart from the rest, since anybody can fill it.
    unproved: Mutex<VecDeque<(VehicleId, LinkEntry)>>,
}

const PARTS: usize = 16;

impl LinkLog {
    /// Of one car; more push out the oldest.
    pub const MAX_ENTRIES: usize = 32;
    /// Cars; those that come when it is full are not logged.
    const MAX_VEHICLES: usize = 200_000;
    /// Claims that could not be proved, of all cars together.
    const MAX_UNPROVED: usize = 1_024;

    pub fn new(since: Timestamp) -> Self {
        Self { since, parts: Default::default(), unproved: Mutex::default() }
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

    /// Notes that a refused certificate had this name on it.
    pub fn note_unproved(&self, claimed: &VehicleId, at: Timestamp, address: IpAddr, reason: Reason) {
        let mut unproved = self.unproved.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(vehicle, entry): &(VehicleId, LinkEntry)| match entry.change {
            LinkChange::Unproved { address: from, reason: why, .. } => {
                vehicle == claimed && from == address && why == reason
            }
            _ => false,
        };
        let before = unproved.iter().position(same).and_then(|index| unproved.remove(index));
        let times = match before {
            Some((_, LinkEntry { change: LinkChange::Unproved { times, .. }, .. })) => times.saturating_add(1),
            _ => 1,
        };
        if unproved.len() >= Self::MAX_UNPROVED {
            unproved.pop_front();
        }
        unproved
            .push_back((claimed.clone(), LinkEntry { at, change: LinkChange::Unproved { address, reason, times } }));
    }

    /// Newest first.
    pub fn of(&self, vehicle: &VehicleId) -> Vec<LinkEntry> {
        let proved = self.part(vehicle).get(vehicle).map(|entries| entries.iter().copied().collect::<Vec<_>>());
        let mut entries = proved.unwrap_or_default();
        let unproved = self.unproved.lock().unwrap_or_else(PoisonError::into_inner);
        entries.extend(unproved.iter().filter(|(claimed, _)| claimed == vehicle).map(|(_, entry)| *entry));
        drop(unproved);
        // Stable, so that what happened within one millisecond keeps its order.
        entries.sort_by_key(|entry| entry.at);
        entries.reverse();
        entries
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
            log.note(&car, Timestamp(epoch), LinkChange::Connected { epoch: epoch as u64, address: Some(address) });
        }
        let entries = log.of(&car);
        assert_eq!((entries.len(), entries[0].at, entries[31].at), (32, Timestamp(39), Timestamp(8)));
        assert_eq!(log.of(&other).len(), 1);
        assert!(log.of(&"WVW-3".parse().expect("an id")).is_empty());
    }

    #[test]
    fn a_flood_of_claims_pushes_out_nothing_that_was_proved() {
        let log = LinkLog::new(Timestamp(1));
        let car: VehicleId = "WVW-1".parse().expect("an id");
        let address = IpAddr::from([192, 0, 2, 1]);
        log.note(&car, Timestamp(1), LinkChange::Connected { epoch: 1, address: Some(address) });
        for at in 2..5 {
            log.note_unproved(&car, Timestamp(at), address, Reason::CertificateExpired);
        }
        let entries = log.of(&car);
        let told = LinkChange::Unproved { address, reason: Reason::CertificateExpired, times: 3 };
        assert_eq!((entries.len(), entries[0].at, entries[0].change), (2, Timestamp(4), told));
        for stranger in 0..5_000 {
            let claimed = format!("X-{stranger}").parse().expect("an id");
            log.note_unproved(&claimed, Timestamp(9), address, Reason::UnknownCa);
        }
        assert_eq!(log.of(&car).len(), 1, "what was proved stays; older claims made room");
        assert_eq!(log.unproved.lock().expect("whole").len(), LinkLog::MAX_UNPROVED);
    }
}
