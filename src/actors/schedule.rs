//! When a vehicle's actor is looked at again: lazy saves a second after a change, expiries, starts and ends of rentals.
//!
//! One list a thread of actors, swept by one task: timers inside ten thousand busy actors would fire late and cost more.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::{Timestamp, VehicleId};

/// How often the list is looked at: what a deadline can be late by.
pub const TICK: Duration = Duration::from_millis(50);

/// Who is due when. Entries are hints: an actor that finds nothing to do schedules nothing. What is said twice counts once.
#[derive(Debug, Default)]
pub struct Schedule(Mutex<BTreeSet<(Timestamp, VehicleId)>>);

impl Schedule {
    pub fn at(&self, due: Timestamp, vehicle: VehicleId) {
        self.entries().insert((due, vehicle));
    }

    /// Takes out those that are due, at most `limit`, so that a burst does not hold the thread.
    pub fn due(&self, now: Timestamp, limit: usize) -> Vec<VehicleId> {
        let mut entries = self.entries();
        let mut due = Vec::new();
        while due.len() < limit && entries.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(entries.pop_first().map(|(_, vehicle)| vehicle));
        }
        due
    }

    pub fn pending(&self) -> usize {
        self.entries().len()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeSet<(Timestamp, VehicleId)>> {
        // The list is whole after every operation, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_due_first_and_never_before_its_time() {
        let schedule = Schedule::default();
        let id = |text: &str| text.parse::<VehicleId>().expect("id");
        schedule.at(Timestamp(30), id("C"));
        schedule.at(Timestamp(10), id("A"));
        schedule.at(Timestamp(20), id("B"));
        schedule.at(Timestamp(20), id("B"));
        assert_eq!(schedule.pending(), 3, "what is said twice counts once");
        assert_eq!(schedule.due(Timestamp(20), 10), [id("A"), id("B")]);
        assert_eq!(schedule.due(Timestamp(29), 10), []);
        assert_eq!(schedule.due(Timestamp(30), 10), [id("C")]);
    }
}
