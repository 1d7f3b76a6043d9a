//! Every card and station in memory, found by what the payment network calls them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::domain::Position;
use crate::domain::card::{Alert, Card, CardId, Merchant, NetworkRef, Station, StationId, StationLookup};
use crate::store::{Order, ReadError, Store, Table};

/// Some 400 bytes each.
pub const MAX_CARDS: usize = 200_000;
/// Eight times the directory of Italy; some 500 bytes each.
pub const MAX_STATIONS: usize = 200_000;

#[derive(Default)]
pub struct Book {
    cards: BTreeMap<CardId, Arc<Card>>,
    by_ref: HashMap<NetworkRef, CardId>,
    stations: BTreeMap<StationId, Arc<Station>>,
    /// (network id, terminal id) of a station, and (network id, none) for every station with that network id.
    by_terminal: HashMap<(String, Option<String>), BTreeSet<StationId>>,
    by_place: HashMap<Place, u32>,
}

/// Coordinates to a ten-millionth of a degree (a centimetre): equal ones are a placeholder, not neighbours.
type Place = (i64, i64);

fn place(position: Position) -> Place {
    let round = |degrees: f64| (degrees * 1e7).round() as i64;
    (round(position.latitude), round(position.longitude))
}

/// The newest open alerts, oldest first; at most [`MAX_OPEN_ALERTS`] among as many rows again.
pub(super) fn open_alerts(store: &dyn Store) -> Result<Vec<(Alert, Box<RawValue>)>, ReadError> {
    const PAGE: usize = 1_000;
    let (mut open, mut after, mut seen) = (Vec::new(), None::<String>, 0);
    while open.len() < MAX_OPEN_ALERTS && seen < 2 * MAX_OPEN_ALERTS {
        let page = store.scan(Table::Alerts, "", after.as_deref(), PAGE, Order::Descending)?;
        seen += page.rows.len();
        for (id, row) in page.rows {
            let alert: Alert =
                serde_json::from_str(row.get()).map_err(|error| ReadError::Damaged(format!("alert {id}: {error}")))?;
            if alert.is_open() {
                open.push((alert, row));
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    open.truncate(MAX_OPEN_ALERTS);
    open.reverse();
    Ok(open)
}

/// As many as the console's feed keeps.
const MAX_OPEN_ALERTS: usize = 4_096;

impl Book {
    pub fn load(store: &dyn Store) -> Result<Self, ReadError> {
        let mut book = Self::default();
        for_each_row(store, Table::Cards, |card: Card| book.put_card(card))?;
        for_each_row(store, Table::Stations, |station: Station| book.put_station(station))?;
        Ok(book)
    }

    /// `(cards, stations)`
    pub fn sizes(&self) -> (usize, usize) {
        (self.cards.len(), self.stations.len())
    }

    pub fn card(&self, id: &CardId) -> Option<Arc<Card>> {
        self.cards.get(id).cloned()
    }

    pub fn card_by_ref(&self, network_ref: &NetworkRef) -> Option<Arc<Card>> {
        self.by_ref.get(network_ref).and_then(|id| self.card(id))
    }

    pub fn cards(&self, after: Option<&CardId>, limit: usize) -> Vec<Arc<Card>> {
        self.cards.range((bound(after), Bound::Unbounded)).take(limit).map(|(_, card)| card.clone()).collect()
    }

    pub fn put_card(&mut self, card: Card) {
        self.remove_card(&card.card_id);
        self.by_ref.insert(card.network_ref.clone(), card.card_id.clone());
        self.cards.insert(card.card_id.clone(), Arc::new(card));
    }

    pub fn remove_card(&mut self, id: &CardId) {
        if let Some(card) = self.cards.remove(id) {
            self.by_ref.remove(&card.network_ref);
        }
    }

    pub fn station(&self, id: &StationId) -> Option<Arc<Station>> {
        self.stations.get(id).cloned()
    }

    pub fn stations(&self, after: Option<&StationId>, limit: usize) -> Vec<Arc<Station>> {
        self.stations.range((bound(after), Bound::Unbounded)).take(limit).map(|(_, station)| station.clone()).collect()
    }

    pub fn put_station(&mut self, station: Station) {
        self.remove_station(&station.station_id);
        let id = station.station_id.clone();
        for key in keys(&station) {
            self.by_terminal.entry(key).or_default().insert(id.clone());
        }
        if let Some(position) = station.position {
            *self.by_place.entry(place(position)).or_default() += 1;
        }
        self.stations.insert(id, Arc::new(station));
    }

    pub fn remove_station(&mut self, id: &StationId) {
        let Some(station) = self.stations.remove(id) else { return };
        for key in keys(&station) {
            if let Some(ids) = self.by_terminal.get_mut(&key) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_terminal.remove(&key);
                }
            }
        }
        if let Some(position) = station.position
            && let Some(count) = self.by_place.get_mut(&place(position))
        {
            *count -= 1;
            if *count == 0 {
                self.by_place.remove(&place(position));
            }
        }
    }

    /// The station a purchase was made at: by network and terminal id, else by network id alone.
    pub fn look_up(&self, merchant: &Merchant) -> StationLookup {
        let Some(network_id) = merchant.network_id.clone() else { return StationLookup::Unknown };
        let by = |terminal: Option<String>| self.by_terminal.get(&(network_id.clone(), terminal));
        let with_terminal = merchant.terminal_id.clone().and_then(|terminal| by(Some(terminal)));
        let Some(ids) = with_terminal.or_else(|| by(None)) else { return StationLookup::Unknown };
        if ids.len() > 1 {
            return StationLookup::Ambiguous { stations: ids.len() };
        }
        let Some(station) = ids.first().and_then(|id| self.stations.get(id)) else { return StationLookup::Unknown };
        StationLookup::Known {
            station_id: station.station_id.clone(),
            name: station.name.clone(),
            position: station.position,
            at_position: station.position.map_or(0, |at| self.by_place.get(&place(at)).copied().unwrap_or(0)),
            time_zone: None,
            is_offline_batch: false,
            learnt: false,
        }
    }
}

fn bound<T>(after: Option<&T>) -> Bound<&T> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}

/// What a station is found by.
fn keys(station: &Station) -> BTreeSet<(String, Option<String>)> {
    let of = |terminal: &crate::domain::card::Terminal| {
        let alone = (terminal.network_id.clone(), None);
        std::iter::once(alone).chain([(terminal.network_id.clone(), terminal.terminal_id.clone())])
    };
    station.terminals.iter().flat_map(of).collect()
}

/// Reads a whole table; blocks, so only at start.
fn for_each_row<T: DeserializeOwned>(
    store: &dyn Store,
    table: Table,
    mut take: impl FnMut(T),
) -> Result<(), ReadError> {
    let mut after: Option<String> = None;
    loop {
        let page = store.scan(table, "", after.as_deref(), 1_000, Order::Ascending)?;
        for (key, row) in &page.rows {
            let item = serde_json::from_str(row.get())
                .map_err(|error| ReadError::Damaged(format!("{table:?} row {key}: {error}")))?;
            take(item);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::card::Terminal;

    fn station(id: &str, latitude: f64, terminals: &[(&str, Option<&str>)]) -> Station {
        let terminal = |(network, terminal): &(&str, Option<&str>)| Terminal {
            network_id: (*network).into(),
            terminal_id: terminal.map(Into::into),
        };
        Station {
            station_id: id.parse().unwrap(),
            name: id.into(),
            position: Some(Position { latitude, longitude: 7.0 }),
            terminals: terminals.iter().map(terminal).collect(),
        }
    }

    fn found(book: &Book, network: &str, terminal: Option<&str>) -> String {
        let merchant =
            Merchant { network_id: Some(network.into()), terminal_id: terminal.map(Into::into), ..Merchant::default() };
        match book.look_up(&merchant) {
            StationLookup::Unknown => "unknown".into(),
            StationLookup::Ambiguous { stations } => format!("one of {stations}"),
            StationLookup::Known { station_id, at_position, .. } => format!("{station_id}/{at_position}"),
        }
    }

    #[test]
    fn a_station_is_found_by_terminal_first_and_by_network_id_if_that_is_unique() {
        let mut book = Book::default();
        book.put_station(station("a", 1.0, &[("N", Some("1"))]));
        book.put_station(station("b", 2.0, &[("N", Some("2"))]));
        book.put_station(station("c", 3.0, &[("M", None)]));
        assert_eq!(found(&book, "N", Some("2")), "b/1");
        assert_eq!(found(&book, "N", Some("9")), "one of 2");
        assert_eq!(found(&book, "N", None), "one of 2");
        assert_eq!(found(&book, "M", Some("7")), "c/1");
        assert_eq!(found(&book, "X", None), "unknown");
        book.remove_station(&"a".parse().unwrap());
        assert_eq!(found(&book, "N", None), "b/1");
    }

    #[test]
    fn a_shared_position_is_counted_and_uncounted() {
        let mut book = Book::default();
        book.put_station(station("a", 1.0, &[("A", None)]));
        book.put_station(station("b", 1.0, &[("B", None)]));
        assert_eq!(found(&book, "A", None), "a/2");
        book.put_station(station("b", 5.0, &[("B", None)]));
        assert_eq!(found(&book, "A", None), "a/1");
        assert_eq!(found(&book, "B", None), "b/1");
    }
}
