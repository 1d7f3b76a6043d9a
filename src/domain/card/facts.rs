//! What the card guard needs to know of a car: its rentals and the newest observations, each with its own time.

use serde::{Deserialize, Serialize};

use super::super::gauge::Level;
use super::super::rental::RentalState;
use super::super::twin::{Fix, Twin, path};
use super::super::vehicle::Vehicle;
use super::super::{RentalId, Timestamp, VehicleId};
use super::{LastPurchase, Purchase, RentalRule};

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

/// What was observed, with its own time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seen<T> {
    pub value: T,
    pub at: Timestamp,
}

impl<T> Seen<T> {
    fn of((value, at): (T, Timestamp)) -> Self {
        Self { value, at }
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
    /// The fleet's own word for its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tank_litres: Option<f64>,
    /// The tank's newest level at rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_level: Option<Level>,
    /// It was seen to drive after that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_driven_since_rest: bool,
    /// When its level was last seen to have risen as by a fill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled_at: Option<Timestamp>,
    /// In km.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odometer: Option<Seen<f64>>,
    /// In km/h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Seen<f64>>,
    /// Is it on?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignition: Option<Seen<bool>>,
    /// What the sensor of the fuel card's holder says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_present: Option<Seen<bool>>,
}

impl VehicleFacts {
    const MOVING_KMH: f64 = 5.0;
    pub(super) const IMPOSSIBLE_KMH: f64 = 300.0;
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
        let details = &vehicle.details;
        let by_unit = vehicle.reported.as_ref().and_then(|unit| unit.tank_litres);
        let card_present = twin.signal(path::FUEL_CARD_PRESENT);
        // What JSON cannot write is not known, and would not come back from the record.
        let number = |seen: Option<(f64, Timestamp)>| seen.filter(|(value, _)| value.is_finite()).map(Seen::of);
        Self {
            vehicle_id: vehicle.vehicle_id.clone(),
            uses: uses.collect(),
            fix,
            doubt: fix.and_then(|fix| Self::doubt(twin, fix)),
            last_report: twin.last_report,
            class: details.class.clone(),
            fuel_type: details.fuel_type.clone(),
            tank_litres: details.tank_litres.or(by_unit).filter(|litres| litres.is_finite()),
            rest_level: twin.gauge().rest(),
            has_driven_since_rest: twin.gauge().has_driven(),
            filled_at: twin.gauge().filled_at(),
            odometer: number(twin.number(path::ODOMETER_KM)),
            speed: number(twin.speed_kmh()),
            ignition: twin.is_ignition_on().map(Seen::of),
            card_present: card_present.and_then(|seen| Some(Seen { value: seen.value.as_bool()?, at: seen.at })),
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
#[allow(clippy::large_enum_variant, reason = "a purchase has one or two, and nearly all are known")]
pub enum VehicleLookup {
    Known(VehicleFacts),
    /// Nobody registered it.
    NotRegistered(VehicleId),
    /// Its record could not be asked in time; the fallback policy counts.
    Late(VehicleId),
}

impl VehicleLookup {
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

/// How far one gets in `gap_ms`.
pub(super) fn reach_m(speed_cap_kmh: f64, gap_ms: i64) -> f64 {
    speed_cap_kmh / 3.6 * (gap_ms as f64 / 1000.0)
}

/// Is a purchase the last one once more: the same authorisation, or the same sum at the same terminal a moment later?
pub(super) fn is_same_try(purchase: &Purchase, last: &LastPurchase) -> bool {
    const SAME_TRY_MS: i64 = 300_000;
    let merchant = &purchase.merchant;
    let is_same_terminal = merchant.network_id.is_some()
        && merchant.network_id == last.network_id
        && merchant.terminal_id == last.terminal_id;
    let is_same_sum = purchase.amount.amount_minor == last.amount.amount_minor
        && purchase.amount.currency.eq_ignore_ascii_case(&last.amount.currency);
    purchase.authorization_id == last.authorization_id
        || (is_same_terminal && is_same_sum && gap_ms(purchase.at, last.at) <= SAME_TRY_MS)
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
