//! Which cars are online over the bridge: there are no sessions, so a car is online from the first message that makes sense
//! until it was silent for too long, the broker is gone, or it comes to the gate.
//!
//! Pure: time is an argument (since the gateway's start), and telling the fleet is the caller's. Each time online has an
//! epoch like a session's. One that ended stays in mind as leaving until the fleet has taken it.

use std::collections::HashMap;
use std::time::Duration;

use super::metrics::Ignored;
use crate::domain::VehicleId;

pub(super) struct Presence {
    cars: HashMap<VehicleId, Car>,
    limits: Limits,
    up: usize,
}

pub(super) struct Limits {
    pub(super) max_vehicles: usize,
    /// Silence after which a car is offline.
    pub(super) patience: Duration,
    /// Messages of one car.
    pub(super) rate_per_s: u32,
    pub(super) rate_burst: u32,
}

struct Car {
    rate: Rate,
    heard: Duration,
    link: Link,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Up {
        epoch: u64,
    },
    /// Over, and the fleet has not heard of it yet.
    Leaving {
        epoch: u64,
    },
}

/// A token bucket, in thousandths of a message.
struct Rate {
    tokens: u64,
    at: Duration,
}

impl Rate {
    fn takes(&mut self, now: Duration, limits: &Limits) -> bool {
        let (per_s, burst) = (u64::from(limits.rate_per_s.max(1)), u64::from(limits.rate_burst.max(1)) * 1000);
        // A message a second is a thousandth of one a millisecond.
        let passed_ms = u64::try_from(now.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        self.tokens = self.tokens.saturating_add(passed_ms.saturating_mul(per_s)).min(burst);
        self.at = now;
        let has_one = self.tokens >= 1000;
        if has_one {
            self.tokens -= 1000;
        }
        has_one
    }
}

impl Presence {
    pub(super) fn new(limits: Limits) -> Self {
        Self { cars: HashMap::new(), limits, up: 0 }
    }

    /// May a message of this car be looked at? Counts it.
    pub(super) fn admit(&mut self, vehicle: &VehicleId, now: Duration) -> Result<(), Ignored> {
        if !self.cars.contains_key(vehicle) {
            if self.cars.len() >= self.limits.max_vehicles {
                return Err(Ignored::VehiclesFull);
            }
            let tokens = u64::from(self.limits.rate_burst.max(1)) * 1000;
            let car = Car { rate: Rate { tokens, at: now }, heard: now, link: Link::Down };
            self.cars.insert(vehicle.clone(), car);
        }
        let car = self.cars.get_mut(vehicle).ok_or(Ignored::VehiclesFull)?;
        if car.rate.takes(now, &self.limits) { Ok(()) } else { Err(Ignored::Rate) }
    }

    pub(super) fn is_up(&self, vehicle: &VehicleId) -> bool {
        self.cars.get(vehicle).is_some_and(|car| matches!(car.link, Link::Up { .. }))
    }

    /// How many cars are online.
    pub(super) fn up(&self) -> usize {
        self.up
    }

    /// It said something that made sense.
    pub(super) fn heard(&mut self, vehicle: &VehicleId, now: Duration) {
        if let Some(car) = self.cars.get_mut(vehicle) {
            car.heard = now;
        }
    }

    /// The fleet was told of it. What ended before needs no word any more: the epoch says that it did.
    pub(super) fn came(&mut self, vehicle: &VehicleId, epoch: u64) {
        if let Some(car) = self.cars.get_mut(vehicle) {
            if !matches!(car.link, Link::Up { .. }) {
                self.up += 1;
            }
            car.link = Link::Up { epoch };
        }
    }

    /// It is at the gate now, which has told the fleet with a later epoch; returns the one that this ended.
    pub(super) fn displace(&mut self, vehicle: &VehicleId) -> Option<u64> {
        match self.cars.remove(vehicle)?.link {
            Link::Up { epoch } => {
                self.up -= 1;
                Some(epoch)
            }
            Link::Leaving { .. } | Link::Down => None,
        }
    }

    /// Its time online is over; returns its epoch.
    pub(super) fn leave(&mut self, vehicle: &VehicleId) -> Option<u64> {
        let car = self.cars.get_mut(vehicle)?;
        let Link::Up { epoch } = car.link else { return None };
        car.link = Link::Leaving { epoch };
        self.up -= 1;
        Some(epoch)
    }

    /// Those that are online and were silent for too long. Forgets those that are not, too.
    pub(super) fn silent(&mut self, now: Duration) -> Vec<VehicleId> {
        let patience = self.limits.patience;
        let is_silent = |car: &Car| now.saturating_sub(car.heard) > patience;
        self.cars.retain(|_, car| car.link != Link::Down || !is_silent(car));
        let up = self.cars.iter().filter(|(_, car)| matches!(car.link, Link::Up { .. }));
        up.filter(|(_, car)| is_silent(car)).map(|(vehicle, _)| vehicle.clone()).collect()
    }

    pub(super) fn all_up(&self) -> Vec<VehicleId> {
        let up = self.cars.iter().filter(|(_, car)| matches!(car.link, Link::Up { .. }));
        up.map(|(vehicle, _)| vehicle.clone()).collect()
    }

    /// Whose end is to be told.
    pub(super) fn leaving(&self) -> Vec<(VehicleId, u64)> {
        let leaving = self.cars.iter().filter_map(|(vehicle, car)| match car.link {
            Link::Leaving { epoch } => Some((vehicle.clone(), epoch)),
            Link::Up { .. } | Link::Down => None,
        });
        leaving.collect()
    }

    /// The fleet has taken that it left.
    pub(super) fn left(&mut self, vehicle: &VehicleId, epoch: u64) {
        if let Some(car) = self.cars.get_mut(vehicle)
            && car.link == (Link::Leaving { epoch })
        {
            car.link = Link::Down;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn presence(max_vehicles: usize) -> Presence {
        Presence::new(Limits { max_vehicles, patience: S * 10, rate_per_s: 2, rate_burst: 4 })
    }

    fn car(id: &str) -> VehicleId {
        id.parse().expect("an id")
    }

    #[test]
    fn a_car_is_online_from_its_first_message_until_it_was_silent_for_too_long() {
        let (mut presence, a) = (presence(9), car("A"));
        assert_eq!(presence.admit(&a, S), Ok(()));
        assert!(!presence.is_up(&a), "nobody was told yet");
        presence.came(&a, 7);
        presence.heard(&a, S);
        assert!(presence.is_up(&a));
        presence.heard(&a, S * 5);
        assert_eq!(presence.silent(S * 15), []);
        assert_eq!(presence.silent(S * 16), vec![a.clone()]);
        assert_eq!(presence.leave(&a), Some(7));
        assert!(!presence.is_up(&a));
        assert_eq!((presence.leaving(), presence.up()), (vec![(a.clone(), 7)], 0));
        presence.left(&a, 7);
        assert!(presence.leaving().is_empty());
    }

    #[test]
    fn an_end_that_nobody_took_is_told_again_unless_the_car_is_back() {
        let (mut presence, a) = (presence(9), car("A"));
        assert_eq!(presence.admit(&a, S), Ok(()));
        presence.came(&a, 1);
        presence.leave(&a);
        assert_eq!(presence.silent(S * 1_000), [], "it is not forgotten meanwhile either");
        assert_eq!(presence.leaving().len(), 1);
        presence.came(&a, 2);
        assert!(presence.leaving().is_empty() && presence.is_up(&a));
        presence.left(&a, 1);
        assert!(presence.is_up(&a), "a word on the time before says nothing of this one");
        assert_eq!(presence.up(), 1);
    }

    #[test]
    fn a_car_at_the_gate_is_not_online_here_and_begins_anew() {
        let (mut presence, a) = (presence(9), car("A"));
        assert_eq!(presence.displace(&a), None);
        assert_eq!(presence.admit(&a, S), Ok(()));
        presence.came(&a, 1);
        assert_eq!(presence.displace(&a), Some(1));
        assert!(!presence.is_up(&a) && presence.leaving().is_empty());
        assert_eq!((presence.up(), presence.all_up()), (0, vec![]));
    }

    #[test]
    fn a_car_over_its_rate_is_refused_and_no_other_is() {
        let (mut presence, a, b) = (presence(9), car("A"), car("B"));
        let taken = (0..10).filter(|_| presence.admit(&a, S).is_ok()).count();
        assert_eq!(taken, 4);
        assert_eq!(presence.admit(&a, S), Err(Ignored::Rate));
        assert_eq!(presence.admit(&b, S), Ok(()));
        let taken = (0..10).filter(|_| presence.admit(&a, S * 2).is_ok()).count();
        assert_eq!(taken, 2);
    }

    #[test]
    fn more_cars_than_allowed_are_refused_until_others_were_silent() {
        let (mut presence, a, b, c) = (presence(2), car("A"), car("B"), car("C"));
        assert_eq!((presence.admit(&a, S), presence.admit(&b, S)), (Ok(()), Ok(())));
        presence.came(&a, 1);
        assert_eq!(presence.admit(&c, S), Err(Ignored::VehiclesFull));
        // B never made sense and is forgotten; A is online until its silence was dealt with.
        assert_eq!(presence.silent(S * 12), [a]);
        assert_eq!(presence.admit(&c, S * 12), Ok(()));
        assert_eq!(presence.admit(&b, S * 12), Err(Ignored::VehiclesFull));
    }
}
