//! Lays a recorded drive elsewhere, so that a chosen point of it falls on a chosen place.

use cardea::domain::Position;
use cardea::domain::twin::{SignalValue, path};

use super::{Message, What};

/// Latitudes move by a constant; differences of longitude are stretched by the ratio of the cosines, so that the
/// drive keeps its distances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    from: Position,
    to: Position,
    stretch: f64,
}

impl Shift {
    pub fn new(from: Position, to: Position) -> Self {
        // At a pole a degree of longitude has no length, and no drive goes there.
        let cosine = |position: Position| position.latitude.to_radians().cos().max(1e-6);
        Self { from, to, stretch: cosine(from) / cosine(to) }
    }

    pub fn latitude(self, latitude: f64) -> f64 {
        latitude - self.from.latitude + self.to.latitude
    }

    pub fn longitude(self, longitude: f64) -> f64 {
        (longitude - self.from.longitude) * self.stretch + self.to.longitude
    }

    pub fn apply(self, message: &mut Message) {
        let What::Signals(signals) = &mut message.what else { return };
        for (name, value) in signals {
            match (name.as_str(), value) {
                (path::LATITUDE, SignalValue::Number(degrees)) => *degrees = self.latitude(*degrees),
                (path::LONGITUDE, SignalValue::Number(degrees)) => *degrees = self.longitude(*degrees),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_point_falls_on_the_place_and_distances_stay() {
        let dearborn = Position { latitude: 42.2925, longitude: -83.2380 };
        let milan = Position { latitude: 45.4642, longitude: 9.19 };
        let shift = Shift::new(dearborn, milan);
        let moved =
            |p: Position| Position { latitude: shift.latitude(p.latitude), longitude: shift.longitude(p.longitude) };
        assert!(moved(dearborn).distance_m(milan) < 0.01);
        let corner = Position { latitude: 42.2943, longitude: -83.2340 };
        let (before, after) = (dearborn.distance_m(corner), moved(dearborn).distance_m(moved(corner)));
        assert!((before - after).abs() / before < 0.001, "{before} m became {after} m");
    }
}
