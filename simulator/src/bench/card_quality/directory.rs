//! The stations the stories happen at: a small seeded network with the defects real directories have, at made-up places
//! or at those of a real directory.

use std::path::Path;

use cardea::domain::Position;
use serde_json::{Value, json};

use super::story::Merchant;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::route::offset;

/// Between Turin and Bologna.
const MIDDLE: Position = Position { latitude: 44.9, longitude: 9.4 };
const ORDINARY: usize = 80;
const PLACES: usize = ORDINARY + 20;
/// Stories of one station shall not pass another by.
const APART_M: f64 = 5_000.0;

/// One station: where it really is, and what the fleet's directory says.
#[derive(Debug, Clone)]
pub struct Pump {
    pub name: String,
    pub place: Position,
    pub listed: Listed,
    pub network_id: String,
    pub postal_code: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Listed {
    At(Position),
    /// The directory does not have it.
    Not,
}

impl Pump {
    /// As the network names it, read at one of its terminals.
    pub fn merchant(&self, dice: &mut Dice) -> Merchant {
        Merchant {
            network_id: self.network_id.clone(),
            terminal_id: format!("P{}", 1 + dice.below(4)),
            name: self.name.clone(),
            mcc: if dice.chance(0.7) { "5542" } else { "5541" },
            postal_code: Some(self.postal_code.clone()),
        }
    }

    /// The body of `POST /v1/stations`.
    pub fn entry(&self) -> Option<Value> {
        let Listed::At(position) = self.listed else { return None };
        Some(json!({
            "station_id": self.network_id.to_lowercase(),
            "name": self.name,
            "position": {"latitude": position.latitude, "longitude": position.longitude},
            "terminals": [{"network_id": self.network_id}],
        }))
    }
}

#[derive(Debug, Clone)]
pub struct Directory {
    pub ordinary: Vec<Pump>,
    pub motorway: Vec<Pump>,
    pub placeholders: Vec<Pump>,
    pub unlisted: Vec<Pump>,
    pub depot: Pump,
}

impl Directory {
    /// `tag` keeps the names of one run apart from those of another at the same gateway.
    pub fn new(seed: u64, tag: &str) -> Self {
        let mut dice = Dice::fork(seed, 0xD1);
        // A grid with a little freedom, so that no two come near each other.
        let mut somewhere = |number: usize| {
            let (row, column) = ((number / 10) as f64, (number % 10) as f64);
            let spread = |dice: &mut Dice| dice.between(-3e3, 3e3);
            offset(MIDDLE, (row - 4.0) * 18e3 + spread(&mut dice), (column - 5.0) * 26e3 + spread(&mut dice))
        };
        Self::at(&(0..PLACES).map(&mut somewhere).collect::<Vec<_>>(), tag)
    }

    /// At places of a CSV file whose last two fields are latitude and longitude; other lines are passed over.
    pub fn from_file(file: &Path, seed: u64, tag: &str) -> Result<Self, Failure> {
        let mut all: Vec<Position> = std::fs::read_to_string(file)?.lines().filter_map(coordinates).collect();
        let (mut dice, mut places) = (Dice::fork(seed, 0xD2), Vec::<Position>::new());
        while places.len() < PLACES && !all.is_empty() {
            let place = all.swap_remove(dice.below(all.len()));
            if places.iter().all(|other| other.distance_m(place) > APART_M) {
                places.push(place);
            }
        }
        match places.len() {
            PLACES => Ok(Self::at(&places, tag)),
            found => Err(Failure::usage(format!("{}: {found} places far enough apart, not {PLACES}", file.display()))),
        }
    }

    fn at(places: &[Position], tag: &str) -> Self {
        let mut number = 0;
        let mut pump = |place: Position, listed: Listed, what: &str| {
            number += 1;
            Pump {
                name: format!("{what} {number}"),
                place,
                listed,
                network_id: format!("NET-{tag}-{number:03}"),
                postal_code: format!("{:05}", 10_000 + number * 37),
            }
        };
        let shared = places[ORDINARY];
        Self {
            ordinary: places[..ORDINARY].iter().map(|place| pump(*place, Listed::At(*place), "Station")).collect(),
            motorway: (1..6)
                .map(|step| {
                    let place = places[ORDINARY + step];
                    pump(place, Listed::At(offset(place, 180.0, -174.0)), "Autostrada")
                })
                .collect(),
            placeholders: (0..3)
                .map(|step| {
                    let place = offset(shared, 900.0 + 1_100.0 * f64::from(step), 1_500.0);
                    pump(place, Listed::At(shared), "Centro")
                })
                .collect(),
            unlisted: (6..11).map(|step| pump(places[ORDINARY + step], Listed::Not, "Bianca")).collect(),
            depot: pump(places[ORDINARY + 12], Listed::At(places[ORDINARY + 12]), "Depot"),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Pump> {
        let groups = [&self.ordinary, &self.motorway, &self.placeholders, &self.unlisted];
        groups.into_iter().flatten().chain([&self.depot])
    }

    /// An ordinary station between `near_m` and `far_m` from there.
    pub fn away_from(&self, place: Position, near_m: f64, far_m: f64, dice: &mut Dice) -> &Pump {
        let fit: Vec<&Pump> =
            self.ordinary.iter().filter(|pump| (near_m..=far_m).contains(&pump.place.distance_m(place))).collect();
        match fit.is_empty() {
            true => &self.ordinary[dice.below(self.ordinary.len())],
            false => fit[dice.below(fit.len())],
        }
    }
}

fn coordinates(line: &str) -> Option<Position> {
    let mut fields = line.rsplit(',').map(|field| field.trim().parse::<f64>());
    let (longitude, latitude) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(Position { latitude, longitude }).filter(|place| place.is_valid() && latitude != 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stations_keep_their_distance_but_for_the_placeholders() {
        let town = Directory::new(1, "a");
        let far: Vec<_> = town.ordinary.iter().chain(&town.motorway).chain(&town.unlisted).collect();
        for (index, one) in far.iter().enumerate() {
            for other in &far[index + 1..] {
                assert!(one.place.distance_m(other.place) > APART_M, "{} and {}", one.name, other.name);
            }
        }
        let listed: Vec<_> = town.placeholders.iter().map(|pump| pump.listed).collect();
        assert!(listed.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
