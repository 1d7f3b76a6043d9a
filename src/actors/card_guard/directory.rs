//! Every fuel station in memory, found by what a payment network says of it, by name, and by place.
//!
//! The indexes follow the stations: a test compares them with a plain search. It reads no clock and decides nothing
//! about a purchase; where it cannot tell one station, it says so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use rstar::RTree;
use rstar::primitives::GeomWithData;
use smallvec::SmallVec;

use super::book::{bound, for_each_row};
use crate::domain::card::{
    LookedUpBy, Merchant, PositionSource, Sightings, Station, StationId, StationLookup, Terminal, normal_name,
    normal_postal_code,
};
use crate::domain::{Position, Timestamp};
use crate::store::{ReadError, Store, Table};

/// Eight times the directory of Italy; some 800 bytes each.
pub const MAX_STATIONS: usize = 200_000;
/// Stations and terminals whose place is being learnt; some 3 KiB each at most. The longest unheard of is forgotten.
pub const MAX_SIGHTED: usize = 10_000;
/// A network's own position is that of a forecourt, a terminal or an address on it.
const SAME_PLACE_M: f64 = 150.0;
const MEAN_RADIUS_M: f64 = 6_371_008.8;

/// Coordinates to a ten-millionth of a degree (a centimetre): equal ones are a placeholder, not neighbours.
pub type Place = (i64, i64);

pub fn place(position: Position) -> Place {
    let round = |degrees: f64| (degrees * 1e7).round() as i64;
    (round(position.latitude), round(position.longitude))
}

/// A point on the unit sphere: distances are right at the poles and across the date line.
pub(super) type Spot = GeomWithData<[f64; 3], StationId>;

fn on_sphere(position: Position) -> [f64; 3] {
    let (latitude, longitude) = (position.latitude.to_radians(), position.longitude.to_radians());
    [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()]
}

fn spot(station: &Station) -> Option<Spot> {
    station.position.map(|position| Spot::new(on_sphere(position), station.station_id.clone()))
}

/// Nearly always one; sorted.
type Ids = SmallVec<[StationId; 1]>;
/// Network id and terminal id; without the latter every station with that network id.
type TerminalKey = (String, Option<String>);
/// Normal name and normal postal code.
type NameKey = (String, String);

#[derive(Default)]
pub struct Directory {
    stations: BTreeMap<StationId, Arc<Station>>,
    by_terminal: HashMap<TerminalKey, Ids>,
    by_name: HashMap<NameKey, Ids>,
    by_place: HashMap<Place, u32>,
    spots: RTree<Spot>,
    sightings: HashMap<StationId, Arc<Sightings>>,
    /// By their newest sighting.
    sighted: BTreeSet<(Timestamp, StationId)>,
}

/// Whose place a purchase may teach.
#[derive(Debug, Clone, PartialEq)]
pub enum Pupil {
    Station(Arc<Station>),
    /// A terminal that no station has.
    Terminal,
    /// Its place is known, or which station it is is not.
    Nobody,
}

impl Directory {
    pub fn load(store: &dyn Store) -> Result<Self, ReadError> {
        let mut directory = Self::default();
        for_each_row(store, Table::Stations, |station: Station| {
            directory.put_unplaced(station);
        })?;
        directory.spots = RTree::bulk_load(directory.spots());
        for_each_row(store, Table::StationSightings, |sightings| directory.put_sightings(sightings))?;
        Ok(directory)
    }

    pub fn len(&self) -> usize {
        self.stations.len()
    }

    pub fn get(&self, id: &StationId) -> Option<Arc<Station>> {
        self.stations.get(id).cloned()
    }

    /// In the order of their ids after `after`, at most `limit`.
    pub fn page(&self, after: Option<&StationId>, limit: usize) -> Vec<Arc<Station>> {
        self.stations.range((bound(after), Bound::Unbounded)).take(limit).map(|(_, station)| station.clone()).collect()
    }

    pub fn put(&mut self, station: Station) {
        if let Some(known) = self.unindex(&station.station_id).as_deref().and_then(spot) {
            self.spots.remove(&known);
        }
        if let Some(spot) = spot(&station) {
            self.spots.insert(spot);
        }
        self.put_unplaced(station);
    }

    /// As [`Self::put`], but for the search by place, which is to follow with [`Self::place_all`]: a tree made at once
    /// is a better one and costs a fraction.
    pub fn put_unplaced(&mut self, station: Station) {
        self.unindex(&station.station_id);
        self.index(&station);
        self.stations.insert(station.station_id.clone(), Arc::new(station));
    }

    /// Where every station is, for [`bulk_load`](RTree::bulk_load).
    pub(super) fn spots(&self) -> Vec<Spot> {
        self.stations.values().filter_map(|station| spot(station)).collect()
    }

    pub(super) fn place_all(&mut self, spots: RTree<Spot>) {
        self.spots = spots;
    }

    pub fn remove(&mut self, id: &StationId) {
        if let Some(known) = self.unindex(id).as_deref().and_then(spot) {
            self.spots.remove(&known);
        }
    }

    /// Takes it out of all but the tree.
    fn unindex(&mut self, id: &StationId) -> Option<Arc<Station>> {
        let station = self.stations.remove(id)?;
        for key in terminal_keys(&station) {
            drop_id(&mut self.by_terminal, &key, id);
        }
        for key in name_keys(&station) {
            drop_id(&mut self.by_name, &key, id);
        }
        if let Some(position) = station.position
            && let Some(count) = self.by_place.get_mut(&place(position))
        {
            *count -= 1;
            if *count == 0 {
                self.by_place.remove(&place(position));
            }
        }
        Some(station)
    }

    /// All but the tree, which a load fills at once.
    fn index(&mut self, station: &Station) {
        for key in terminal_keys(station) {
            add_id(&mut self.by_terminal, key, &station.station_id);
        }
        for key in name_keys(station) {
            add_id(&mut self.by_name, key, &station.station_id);
        }
        if let Some(position) = station.position {
            *self.by_place.entry(place(position)).or_default() += 1;
        }
    }

    /// How many stations there are at these very coordinates.
    pub fn at_position(&self, position: Position) -> u32 {
        self.by_place.get(&place(position)).copied().unwrap_or(0)
    }

    /// The stations within `radius_m` with their distance, nearest first, at most `limit`.
    pub fn near(&self, position: Position, radius_m: f64, limit: usize) -> Vec<(Arc<Station>, f64)> {
        self.nearest(position, radius_m)
            .take(limit)
            .map(|(station, distance_m)| (station.clone(), distance_m))
            .collect()
    }

    fn nearest(&self, position: Position, radius_m: f64) -> impl Iterator<Item = (&Arc<Station>, f64)> {
        let near = self.spots.nearest_neighbor_iter_with_distance_2(&on_sphere(position));
        near.map(|(spot, chord_2)| (&spot.data, 2.0 * MEAN_RADIUS_M * (chord_2.sqrt() / 2.0).min(1.0).asin()))
            .take_while(move |(_, distance_m)| *distance_m <= radius_m)
            .filter_map(|(id, distance_m)| Some((self.stations.get(id)?, distance_m)))
    }

    /// The station a purchase was made at: by network and terminal id, else by network id alone, else by name and
    /// postal code, each if only one station has them; else what is at the position the network gave.
    pub fn look_up(&self, merchant: &Merchant) -> StationLookup {
        let (by, ids) = self.ids_named(merchant);
        if let [id] = ids
            && let Some(station) = self.stations.get(id)
        {
            return self.known(station, by, merchant);
        }
        // Several by id: the name may tell which; none: the name alone.
        let named = self.ids_by_name(merchant).filter(|id| ids.is_empty() || ids.contains(id));
        let named: SmallVec<[&StationId; 2]> = named.take(2).collect();
        if let [id] = named.as_slice()
            && let Some(station) = self.stations.get(*id)
        {
            return self.known(station, LookedUpBy::Name, merchant);
        }
        match believed_position(merchant) {
            Some(position) => self.known_by_position(position, ids, merchant),
            None if ids.is_empty() && named.is_empty() => StationLookup::Unknown,
            None => StationLookup::Ambiguous { stations: ids.len().max(self.ids_by_name(merchant).count()) },
        }
    }

    /// The stations that the network's ids name.
    fn ids_named(&self, merchant: &Merchant) -> (LookedUpBy, &[StationId]) {
        let Some(network_id) = merchant.network_id.clone() else { return (LookedUpBy::Network, &[]) };
        if let Some(terminal) = merchant.terminal_id.clone()
            && let Some(ids) = self.by_terminal.get(&(network_id.clone(), Some(terminal)))
        {
            return (LookedUpBy::Terminal, ids);
        }
        (LookedUpBy::Network, self.by_terminal.get(&(network_id, None)).map_or(&[], |ids| ids))
    }

    /// The stations with this name (or brand) and postal code, unless the countries contradict each other.
    fn ids_by_name(&self, merchant: &Merchant) -> impl Iterator<Item = &StationId> {
        let name = merchant.name.as_deref().map(normal_name).filter(|name| !name.is_empty());
        let code = merchant.postal_code.as_deref().map(normal_postal_code).filter(|code| !code.is_empty());
        let ids = name.zip(code).and_then(|key| self.by_name.get(&key));
        ids.into_iter().flatten().filter(|id| {
            self.stations.get(*id).is_some_and(|station| may_be_same_country(merchant, station.country.as_deref()))
        })
    }

    fn known(&self, station: &Station, by: LookedUpBy, merchant: &Merchant) -> StationLookup {
        let at_position = station.position.map_or(0, |position| self.at_position(position));
        // Where the directory has no place or a placeholder, what the network says is better.
        let (position, at_position) = match believed_position(merchant) {
            Some(position) if at_position != 1 => (Some(position), 1),
            Some(_) | None => (station.position, at_position),
        };
        StationLookup::Known {
            station_id: station.station_id.clone(),
            name: station.name.clone(),
            position,
            at_position,
            by,
            learnt: station.position_source == PositionSource::Learnt && station.position == position,
            time_zone: station.time_zone.clone(),
            is_offline_batch: station.is_offline_batch,
        }
    }

    /// The nearest station to where the network puts the purchase (of `among`, if there are any); else that place.
    fn known_by_position(&self, position: Position, among: &[StationId], merchant: &Merchant) -> StationLookup {
        let is_meant = |station: &Station| {
            // A placeholder is not where the station is.
            (among.is_empty() || among.contains(&station.station_id))
                && station.position.is_some_and(|position| self.at_position(position) == 1)
        };
        let nearest = self.nearest(position, SAME_PLACE_M).map(|(station, _)| station);
        if let Some(station) = nearest.into_iter().find(|station| is_meant(station)) {
            return self.known(station, LookedUpBy::Position, merchant);
        }
        // Numbers of six decimals are no card number; were they, the place would be unknown.
        let Ok(station_id) = StationId::of_place(position) else { return StationLookup::Unknown };
        if among.len() > 1 {
            return StationLookup::Ambiguous { stations: among.len() };
        }
        StationLookup::Known {
            station_id,
            name: merchant.name.clone().unwrap_or_else(|| "a place the directory does not have".into()),
            position: Some(position),
            at_position: 1,
            by: LookedUpBy::Position,
            learnt: false,
            time_zone: None,
            is_offline_batch: false,
        }
    }

    /// Whose place a purchase there may teach: a station without a place of its own, or an unknown terminal.
    pub fn pupil(&self, merchant: &Merchant) -> Pupil {
        let asked = Merchant { position: None, ..merchant.clone() };
        match self.look_up(&asked) {
            StationLookup::Known { station_id, .. } => match self.get(&station_id) {
                Some(station) if self.may_learn(&station) => Pupil::Station(station),
                Some(_) | None => Pupil::Nobody,
            },
            StationLookup::Unknown if merchant.network_id.is_some() => Pupil::Terminal,
            // One network id for a whole chain: its terminals are told apart, and this one is new.
            StationLookup::Ambiguous { .. } if self.is_new_terminal(merchant) => Pupil::Terminal,
            StationLookup::Unknown | StationLookup::Ambiguous { .. } => Pupil::Nobody,
        }
    }

    fn is_new_terminal(&self, merchant: &Merchant) -> bool {
        merchant.network_id.is_some()
            && merchant.terminal_id.is_some()
            && self.ids_named(merchant).0 == LookedUpBy::Network
    }

    fn may_learn(&self, station: &Station) -> bool {
        match (station.position, station.position_source) {
            (None, _) | (Some(_), PositionSource::Learnt) => true,
            (Some(_), PositionSource::Manual) => false,
            (Some(position), PositionSource::Directory) => self.at_position(position) > 1,
        }
    }

    pub fn sightings(&self, id: &StationId) -> Option<Arc<Sightings>> {
        self.sightings.get(id).cloned()
    }

    pub fn put_sightings(&mut self, sightings: Sightings) {
        self.remove_sightings(&sightings.station_id);
        self.sighted.insert((newest(&sightings), sightings.station_id.clone()));
        self.sightings.insert(sightings.station_id.clone(), Arc::new(sightings));
    }

    pub fn remove_sightings(&mut self, id: &StationId) {
        if let Some(known) = self.sightings.remove(id) {
            self.sighted.remove(&(newest(&known), id.clone()));
        }
    }

    /// What to forget when sightings of one more station come, in the order of their age.
    pub fn sightings_to_forget(&self, coming: &StationId) -> Option<StationId> {
        let is_full = self.sightings.len() >= MAX_SIGHTED && !self.sightings.contains_key(coming);
        self.sighted.first().filter(|_| is_full).map(|(_, id)| id.clone())
    }

    /// The coordinates that several of these stations, or one of these and one of the directory, have.
    pub fn shared_places(&self, stations: &[Station]) -> HashSet<Place> {
        let mut owners: HashMap<Place, &StationId> = HashMap::new();
        let mut shared = HashSet::new();
        for station in stations {
            let Some(at) = station.position.map(place) else { continue };
            if owners.insert(at, &station.station_id).is_some_and(|other| *other != station.station_id) {
                shared.insert(at);
            }
        }
        for (at, id) in owners {
            let own = self.stations.get(id).and_then(|known| known.position).is_some_and(|known| place(known) == at);
            if self.by_place.get(&at).copied().unwrap_or(0) > u32::from(own) {
                shared.insert(at);
            }
        }
        shared
    }
}

fn newest(sightings: &Sightings) -> Timestamp {
    sightings.seen.last().map_or(Timestamp(0), |seen| seen.at)
}

/// Latitude and longitude of exactly 0 is a terminal that was never set up.
fn believed_position(merchant: &Merchant) -> Option<Position> {
    let is_set = |position: &Position| position.latitude != 0.0 || position.longitude != 0.0;
    merchant.position.filter(|position| position.is_valid() && is_set(position))
}

/// Only codes of the same form can contradict each other.
fn may_be_same_country(merchant: &Merchant, of_station: Option<&str>) -> bool {
    match (merchant.country.as_deref(), of_station) {
        (Some(one), Some(other)) => one.len() != other.len() || one.eq_ignore_ascii_case(other),
        (None, _) | (_, None) => true,
    }
}

fn terminal_keys(station: &Station) -> BTreeSet<TerminalKey> {
    let of = |terminal: &Terminal| {
        let alone = (terminal.network_id.clone(), None);
        std::iter::once(alone).chain([(terminal.network_id.clone(), terminal.terminal_id.clone())])
    };
    station.terminals.iter().flat_map(of).collect()
}

fn name_keys(station: &Station) -> BTreeSet<NameKey> {
    let code = station.postal_code.as_deref().map(normal_postal_code).filter(|code| !code.is_empty());
    let names = [Some(station.name.as_str()), station.brand.as_deref()].into_iter().flatten().map(normal_name);
    let keys = names.filter(|name| !name.is_empty()).filter_map(|name| Some((name, code.clone()?)));
    keys.collect()
}

fn add_id<K: Hash + Eq>(index: &mut HashMap<K, Ids>, key: K, id: &StationId) {
    let ids = index.entry(key).or_default();
    if let Err(at) = ids.binary_search(id) {
        ids.insert(at, id.clone());
    }
}

fn drop_id<K: Hash + Eq>(index: &mut HashMap<K, Ids>, key: &K, id: &StationId) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|known| known != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
