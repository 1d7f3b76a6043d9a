//! Where a simulated car drives: a closed line on the map, measured in metres from its start.
//!
//! Pure geometry on a local plane, good to a few metres over the few kilometres a route spans.

use cardea::domain::Position;

use crate::dice::Dice;

const METRES_PER_DEGREE: f64 = 111_195.08;

/// The place `north_m` and `east_m` away from `from`.
pub fn offset(from: Position, north_m: f64, east_m: f64) -> Position {
    // Near a pole a degree of longitude has no length; no route goes there, and the result stays finite.
    let metres_per_degree_east = METRES_PER_DEGREE * from.latitude.to_radians().cos().max(1e-6);
    Position {
        latitude: from.latitude + north_m / METRES_PER_DEGREE,
        longitude: from.longitude + east_m / metres_per_degree_east,
    }
}

/// A loop of straight pieces. Never empty.
#[derive(Debug, Clone)]
pub struct Route {
    corners: Vec<Position>,
    /// Distance from the start to each corner, then to the start again.
    marks_m: Vec<f64>,
}

impl Route {
    /// A loop through `first` and then the others in turn. With one place only, the car stays there.
    pub fn through(first: Position, others: &[Position]) -> Self {
        let corners: Vec<Position> = std::iter::once(first).chain(others.iter().copied()).collect();
        let mut marks_m = vec![0.0];
        let mut total_m = 0.0;
        for (index, corner) in corners.iter().enumerate() {
            total_m += corner.distance_m(corners[(index + 1) % corners.len()]);
            marks_m.push(total_m);
        }
        Self { corners, marks_m }
    }

    /// A loop of 8 to 12 corners that begins at `start` and leads about one to two kilometres around.
    pub fn around(start: Position, dice: &mut Dice) -> Self {
        let corners = 8 + dice.below(5);
        let radius_m = dice.between(500.0, 1200.0);
        let bearing = dice.between(0.0, std::f64::consts::TAU);
        let centre = offset(start, radius_m * bearing.cos(), radius_m * bearing.sin());
        let others: Vec<Position> = (1..corners)
            .map(|corner| {
                let angle = bearing + std::f64::consts::PI + std::f64::consts::TAU * corner as f64 / corners as f64;
                let reach_m = radius_m * dice.between(0.8, 1.2);
                offset(centre, reach_m * angle.cos(), reach_m * angle.sin())
            })
            .collect();
        Self::through(start, &others)
    }

    pub fn length_m(&self) -> f64 {
        self.marks_m.last().copied().unwrap_or(0.0)
    }

    /// The place `distance_m` along the loop, counted round and round.
    pub fn position_at(&self, distance_m: f64) -> Position {
        let length_m = self.length_m();
        if length_m <= 0.0 || !distance_m.is_finite() {
            return self.corners[0];
        }
        let along_m = distance_m.rem_euclid(length_m);
        let piece = self.marks_m.partition_point(|mark| *mark <= along_m).clamp(1, self.corners.len()) - 1;
        let (from, to) = (self.corners[piece], self.corners[(piece + 1) % self.corners.len()]);
        let piece_m = self.marks_m[piece + 1] - self.marks_m[piece];
        let share = if piece_m > 0.0 { (along_m - self.marks_m[piece]) / piece_m } else { 0.0 };
        Position {
            latitude: from.latitude + share * (to.latitude - from.latitude),
            longitude: from.longitude + share * (to.longitude - from.longitude),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURIN: Position = Position { latitude: 45.07, longitude: 7.68 };

    #[test]
    fn offset_goes_as_far_as_asked() {
        let there = offset(TURIN, 300.0, -400.0);
        assert!((TURIN.distance_m(there) - 500.0).abs() < 1.0);
    }

    #[test]
    fn a_route_begins_and_ends_at_its_start_and_never_jumps() {
        for seed in 0..50 {
            let route = Route::around(TURIN, &mut Dice::new(seed));
            assert_eq!(route.position_at(0.0), TURIN);
            assert!(route.position_at(route.length_m() - 0.01).distance_m(TURIN) < 1.0, "seed {seed}");
            let steps = route.length_m() as usize;
            for step in 0..steps {
                let (a, b) = (route.position_at(step as f64), route.position_at(step as f64 + 1.0));
                assert!(a.distance_m(b) < 1.1, "seed {seed} at {step} m");
            }
        }
    }

    #[test]
    fn a_route_of_one_place_stays_there() {
        assert_eq!(Route::through(TURIN, &[]).position_at(1234.5), TURIN);
    }
}
