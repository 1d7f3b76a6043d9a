//! Where a station is, learnt from where cars stood when their cards were read there.
//!
//! Purchases have to agree: several, by more than one car, close together. One that does not takes the position back,
//! because a terminal that moves (a tank truck's, a stolen one) has none. What was learnt is always shown as learnt.

use serde::{Deserialize, Serialize};

use super::super::{DecisionId, Position, Timestamp, VehicleId};
use super::{StationId, Terminal};

/// A car at rest, with a fresh position, when its card was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    pub decision_id: DecisionId,
    pub vehicle_id: VehicleId,
    pub position: Position,
    pub at: Timestamp,
}

/// The newest sightings at one station or at a terminal that no station has yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sightings {
    /// The station they are about, or the id it gets when they agree.
    pub station_id: StationId,
    /// What the network calls it; `None` for a station known by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Oldest first; at most [`Self::MAX_SEEN`].
    pub seen: Vec<Sighting>,
}

/// Where the sightings put a station.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreed {
    pub position: Position,
    pub purchases: u32,
}

/// What one more sighting led to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heard {
    /// This purchase was counted before.
    Repeat,
    /// Too few yet.
    Noted,
    Agreed(Agreed),
    /// It lies elsewhere than those before: they are forgotten, and so is what was learnt from them.
    Disagreed,
}

impl Sightings {
    /// Enough for a median that one more cannot move far.
    pub const MAX_SEEN: usize = 16;
    const PURCHASES: usize = 3;
    const VEHICLES: usize = 2;
    /// The size of a large forecourt and a fix at its worst.
    const TOGETHER_M: f64 = 150.0;

    pub fn new(station_id: StationId, terminal: Option<Terminal>) -> Self {
        Self { station_id, terminal, seen: Vec::new() }
    }

    pub fn hear(&mut self, sighting: Sighting) -> Heard {
        if self.seen.iter().any(|known| known.decision_id == sighting.decision_id) {
            return Heard::Repeat;
        }
        self.seen.push(sighting);
        if self.seen.len() > Self::MAX_SEEN {
            self.seen.remove(0);
        }
        let Some(median) = median(&self.seen) else { return Heard::Noted };
        if self.seen.iter().any(|seen| seen.position.distance_m(median) > Self::TOGETHER_M) {
            // The newest begins anew: old sightings must not veto a station that moved.
            self.seen.drain(..self.seen.len() - 1);
            return Heard::Disagreed;
        }
        let first = &self.seen[0].vehicle_id;
        let vehicles = if self.seen.iter().any(|seen| seen.vehicle_id != *first) { 2 } else { 1 };
        if self.seen.len() < Self::PURCHASES || vehicles < Self::VEHICLES {
            return Heard::Noted;
        }
        Heard::Agreed(Agreed { position: median, purchases: self.seen.len() as u32 })
    }
}

/// The middle latitude and the middle longitude, also across the date line; `None` of nothing.
fn median(seen: &[Sighting]) -> Option<Position> {
    let first = seen.first()?.position.longitude;
    let mut latitudes: Vec<f64> = seen.iter().map(|seen| seen.position.latitude).collect();
    // As degrees east of the first, -180 to 180.
    let east = |longitude: f64| (longitude - first + 540.0).rem_euclid(360.0) - 180.0;
    let mut longitudes: Vec<f64> = seen.iter().map(|seen| east(seen.position.longitude)).collect();
    let longitude = (middle(&mut longitudes) + first + 540.0).rem_euclid(360.0) - 180.0;
    // To a centimetre: the arithmetic above leaves noise behind.
    let rounded = |degrees: f64| (degrees * 1e7).round() / 1e7;
    Some(Position { latitude: rounded(middle(&mut latitudes)), longitude: rounded(longitude) })
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: Position = Position { latitude: 45.0, longitude: 7.0 };

    fn sightings() -> Sightings {
        Sightings::new("s".parse().unwrap(), None)
    }

    /// A purchase so many metres north of [`HERE`].
    fn seen(number: u128, vehicle: &str, north_m: f64) -> Sighting {
        Sighting {
            decision_id: DecisionId(uuid::Uuid::from_u128(number)),
            vehicle_id: vehicle.parse().unwrap(),
            position: Position { latitude: HERE.latitude + north_m / 111_195.0, ..HERE },
            at: Timestamp(number as i64),
        }
    }

    #[test]
    fn three_purchases_by_two_cars_close_together_agree() {
        let mut sightings = sightings();
        assert_eq!(sightings.hear(seen(1, "A", 0.0)), Heard::Noted);
        assert_eq!(sightings.hear(seen(2, "B", 40.0)), Heard::Noted);
        let Heard::Agreed(agreed) = sightings.hear(seen(3, "A", 20.0)) else { panic!("{sightings:?}") };
        assert_eq!(agreed.purchases, 3);
        assert!((agreed.position.distance_m(HERE) - 20.0).abs() < 0.1, "{agreed:?}");
    }

    #[test]
    fn one_car_alone_does_not_make_a_station() {
        let mut sightings = sightings();
        for number in 1..30 {
            assert_eq!(sightings.hear(seen(number, "A", 0.0)), Heard::Noted);
        }
        assert_eq!(sightings.seen.len(), Sightings::MAX_SEEN);
        assert!(matches!(sightings.hear(seen(99, "B", 0.0)), Heard::Agreed(_)));
    }

    #[test]
    fn the_same_purchase_counts_once() {
        let mut sightings = sightings();
        sightings.hear(seen(1, "A", 0.0));
        assert_eq!(sightings.hear(seen(1, "B", 0.0)), Heard::Repeat);
        assert_eq!(sightings.seen.len(), 1);
    }

    #[test]
    fn a_purchase_elsewhere_takes_it_back_and_a_moved_station_is_learnt_again() {
        let mut sightings = sightings();
        for (number, vehicle) in [(1, "A"), (2, "B"), (3, "C")] {
            sightings.hear(seen(number, vehicle, 0.0));
        }
        assert_eq!(sightings.hear(seen(4, "A", 5_000.0)), Heard::Disagreed);
        assert_eq!(sightings.hear(seen(5, "B", 5_010.0)), Heard::Noted);
        assert!(matches!(sightings.hear(seen(6, "C", 5_020.0)), Heard::Agreed(Agreed { purchases: 3, .. })));
    }

    #[test]
    fn the_date_line_parts_nobody() {
        let mut sightings = sightings();
        for (number, vehicle, longitude) in [(1, "A", 179.9999), (2, "B", -179.9999), (3, "C", 180.0)] {
            let sighting = Sighting { position: Position { latitude: 0.0, longitude }, ..seen(number, vehicle, 0.0) };
            if let Heard::Agreed(agreed) = sightings.hear(sighting) {
                assert!(agreed.position.longitude.abs() > 179.999 && agreed.position.is_valid());
                return;
            }
        }
        panic!("{sightings:?}");
    }

    proptest! {
        #[test]
        fn what_is_agreed_is_near_every_sighting_it_counts(
            walk in proptest::collection::vec((0u8..3, -400.0f64..400.0), 1..60),
        ) {
            let mut sightings = sightings();
            for (number, (vehicle, north_m)) in walk.into_iter().enumerate() {
                let heard = sightings.hear(seen(number as u128, &format!("V{vehicle}"), north_m));
                prop_assert!(sightings.seen.len() <= Sightings::MAX_SEEN);
                if let Heard::Agreed(Agreed { position, purchases }) = heard {
                    prop_assert_eq!(purchases as usize, sightings.seen.len());
                    prop_assert!(purchases >= 3);
                    prop_assert!(sightings.seen.iter().all(|seen| seen.position.distance_m(position) <= 150.1));
                }
            }
        }
    }
}
