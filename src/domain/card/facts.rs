//! What the card guard needs to know of a car: its rentals and the newest observations, each with its own time.

use serde::{Deserialize, Serialize};

use super::super::rental::RentalState;
use super::super::twin::{Fix, Twin};
use super::super::vehicle::Vehicle;
use super::super::{RentalId, Timestamp, VehicleId};
use super::{RentalRule, Rules};

/// One rental as the guard sees it: from when to when the car was really in use. No person is named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    pub rental_id: RentalId,
    pub from: Timestamp,
    /// `None` = still.
    pub until: Option<Timestamp>,
}

/// Why a position is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FixDoubt {
    /// The car says it drives with its ignition off.
    MovingWhileOff,
    /// No car drives this fast.
    ImpossibleSpeed,
    /// No car can have driven there from where it was.
    ImpossibleJump,
    /// Latitude and longitude of exactly 0: a receiver without a fix.
    NoPosition,
}

impl FixDoubt {
    pub fn text(self) -> &'static str {
        match self {
            Self::MovingWhileOff => "the car reports driving with its ignition off",
            Self::ImpossibleSpeed => "the car reports a speed no car drives",
            Self::ImpossibleJump => "no car can have driven there from where it was",
            Self::NoPosition => "the position is latitude 0, longitude 0",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VehicleFacts {
    pub vehicle_id: VehicleId,
    /// Every rental still in the record that began or will, newest last.
    pub uses: Vec<InUse>,
    pub fix: Option<Fix>,
    pub doubt: Option<FixDoubt>,
    /// When the newest report arrived.
    pub last_report: Option<Timestamp>,
}

impl VehicleFacts {
    const MOVING_KMH: f64 = 5.0;
    const IMPOSSIBLE_KMH: f64 = 300.0;
    /// Networks date purchases in whole seconds, so one can seem to be that much before the rental it belongs to.
    const NETWORK_TICK_MS: i64 = 999;

    pub fn of(vehicle: &Vehicle, twin: &Twin) -> Self {
        let uses = vehicle.rentals.iter().filter_map(|rental| {
            let began = rental.history.iter().find(|passage| passage.state == RentalState::Active);
            let (from, until) = match (began, rental.state) {
                // Its begin may have been written down late, after a downtime; but not before somebody asked for it.
                (Some(began), _) => {
                    let asked_at = rental.history.first().map_or(began.at, |first| first.at);
                    (began.at.min(rental.from.max(asked_at)), rental.closed_at())
                }
                // Its start is due and only not written down yet, once `from` is reached.
                (None, RentalState::Reserved) => (rental.from, Some(rental.until)),
                (None, _) => return None,
            };
            Some(InUse { rental_id: rental.rental_id, from, until })
        });
        let fix = twin.fix();
        Self {
            vehicle_id: vehicle.vehicle_id.clone(),
            uses: uses.collect(),
            fix,
            doubt: fix.and_then(|fix| Self::doubt(twin, fix)),
            last_report: twin.last_report,
        }
    }

    /// A value that another one contradicts is not known. An old speed beside a newer "off" is no contradiction: it parked.
    fn doubt(twin: &Twin, fix: Fix) -> Option<FixDoubt> {
        if fix.position.latitude == 0.0 && fix.position.longitude == 0.0 {
            return Some(FixDoubt::NoPosition);
        }
        if twin.has_jumped() {
            return Some(FixDoubt::ImpossibleJump);
        }
        let (speed_kmh, speed_at) = twin.speed_kmh()?;
        if speed_kmh.abs() > Self::IMPOSSIBLE_KMH {
            return Some(FixDoubt::ImpossibleSpeed);
        }
        let (is_on, ignition_at) = twin.is_ignition_on()?;
        let contradicts = !is_on && speed_kmh.abs() > Self::MOVING_KMH && speed_at >= ignition_at;
        contradicts.then_some(FixDoubt::MovingWhileOff)
    }

    /// The rental a purchase at `at` belongs to: one that ran then, or ended at most the grace before.
    pub fn in_use_at(&self, at: Timestamp, rule: &RentalRule) -> Option<InUse> {
        let grace_ms = i64::from(rule.grace_min) * 60_000;
        let latest = at.plus_ms(Self::NETWORK_TICK_MS);
        self.uses
            .iter()
            .rev()
            .copied()
            .find(|used| used.from <= latest && used.until.is_none_or(|until| at.since_ms(until) <= grace_ms))
    }

    /// The rental that ended last before `at`.
    pub fn last_use_before(&self, at: Timestamp) -> Option<InUse> {
        self.uses
            .iter()
            .copied()
            .filter(|used| used.until.is_some_and(|until| until <= at))
            .max_by_key(|used| used.until)
    }
}

/// What came of asking for one vehicle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VehicleLookup {
    Known(VehicleFacts),
    /// Nobody registered it.
    NotRegistered(VehicleId),
    /// Its record could not be asked in time; the fallback policy counts.
    Late(VehicleId),
}

impl VehicleLookup {
    pub fn class(&self) -> Option<&str> {
        None
    }

    pub fn vehicle_id(&self) -> &VehicleId {
        match self {
            Self::Known(facts) => &facts.vehicle_id,
            Self::NotRegistered(id) | Self::Late(id) => id,
        }
    }
}

/// The latest moment a purchase can have happened, seen from here: a network's clock ahead of ours proves nothing.
pub(super) fn moment(now: Timestamp, at: Timestamp) -> Timestamp {
    at.min(now)
}

pub(super) fn gap_ms(one: Timestamp, other: Timestamp) -> i64 {
    one.since_ms(other).saturating_abs()
}

/// How far a car may be from where it was last seen, `gap_ms` away in time.
pub(super) fn reach_m(rules: &Rules, gap_ms: i64) -> f64 {
    rules.location.speed_cap_kmh / 3.6 * (gap_ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rental::{Rental, RentalPassage};
    use crate::domain::{KeyId, RequestId};

    #[test]
    fn a_begin_that_was_written_down_late_is_the_agreed_one_unless_it_was_asked_for_later() {
        let began = |reserved_at: i64, from: i64, active_at: i64| {
            let passage = |state, at| RentalPassage { state, at: Timestamp(at) };
            let mut vehicle = Vehicle::new("CAR-1".parse().expect("an id"));
            vehicle.rentals.push(Rental {
                rental_id: RentalId(uuid::Uuid::nil()),
                request_id: RequestId(uuid::Uuid::nil()),
                renter: "ann".into(),
                profile: "drive".into(),
                key_id: KeyId(uuid::Uuid::nil()),
                from: Timestamp(from),
                until: Timestamp(1_000),
                state: RentalState::Active,
                history: vec![passage(RentalState::Reserved, reserved_at), passage(RentalState::Active, active_at)],
                first_used_at: None,
                is_late: false,
            });
            VehicleFacts::of(&vehicle, &Twin::new(Timestamp(900))).uses[0].from
        };
        assert_eq!(began(10, 100, 500), Timestamp(100), "the gateway was down when it began");
        assert_eq!(began(300, 100, 300), Timestamp(300), "nobody had it before it was asked for");
        assert_eq!(began(10, 100, 90), Timestamp(90));
    }
}
