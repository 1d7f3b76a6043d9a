//! Edits of the station directory: by hand, imported whole, and learnt from purchases.
//!
//! Like every edit of the desk: one at a time, durable before anybody hears of it, then in memory.

use std::collections::HashSet;
use std::sync::Arc;

use rstar::RTree;
use serde::Serialize;
use serde_json::value::RawValue;

use super::desk::{Desk, Edited, Row, made_id, off_thread, refused};
use super::directory::{MAX_STATIONS, Place, Pupil, place};
use super::{GuardError, Shared, raw};
use crate::domain::card::{
    Agreed, Heard, ImportPolicy, Merchant, PositionSource, Sighting, Sightings, Station, StationId, Terminal, keepable,
};
use crate::domain::{DecisionId, Position, RefusalKind, VehicleId};
use crate::store::Table;

/// Stations in one record, and bytes: far below the 2 MiB a record may have.
const STATIONS_A_RECORD: usize = 2_000;
const BYTES_A_RECORD: usize = 512 * 1024;
/// Put into memory at once; questions wait for it.
const STATIONS_A_TURN: usize = 64;

#[derive(Debug, Clone)]
pub struct NewStation {
    /// `None` = one is made.
    pub station_id: Option<StationId>,
    pub name: String,
    pub brand: Option<String>,
    pub position: Option<Position>,
    pub terminals: Vec<Terminal>,
    pub postal_code: Option<String>,
    pub city: Option<String>,
    pub country: Option<String>,
    pub time_zone: Option<String>,
    pub is_offline_batch: bool,
}

/// What is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct StationChange {
    pub name: Option<String>,
    pub brand: Option<Option<String>>,
    pub position: Option<Option<Position>>,
    pub terminals: Option<Vec<Terminal>>,
    pub postal_code: Option<Option<String>>,
    pub city: Option<Option<String>>,
    pub country: Option<Option<String>>,
    pub time_zone: Option<Option<String>>,
    pub is_offline_batch: Option<bool>,
}

/// Adds or updates each station, as [`Station::imported_over`] says. Their form is checked already.
#[derive(Debug, Clone)]
pub struct StationImport {
    pub stations: Vec<Station>,
    /// Positions set by hand give way too.
    pub force: bool,
}

/// A purchase that teaches where a station is: the car was at rest, its fix fresh, when its card was read. The same
/// purchase again changes nothing.
#[derive(Debug, Clone)]
pub struct StationLesson {
    pub merchant: Merchant,
    /// Where the car stood.
    pub position: Position,
    pub vehicle_id: VehicleId,
    pub decision_id: DecisionId,
}

/// The journal's content: a variant or field, once released, keeps its name and meaning.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum StationEvent<'a> {
    StationAdded {
        station: &'a RawValue,
    },
    StationChanged {
        station: &'a RawValue,
    },
    StationRemoved {
        station_id: &'a StationId,
    },
    /// The stations themselves are in the record's view changes.
    StationsImported {
        count: usize,
    },
    StationSighted {
        station_id: &'a StationId,
        decision_id: DecisionId,
    },
    StationLearnt {
        station: &'a RawValue,
        decision_id: DecisionId,
    },
    /// A purchase elsewhere took the learnt position back.
    StationUnlearnt {
        station: &'a RawValue,
        decision_id: DecisionId,
    },
}

impl Desk<'_> {
    pub(super) async fn add_station(&self, new: NewStation) -> Result<Edited, GuardError> {
        let station_id = match new.station_id {
            Some(id) => id,
            None => made_id(self.shared)?,
        };
        if self.shared.book().directory.get(&station_id).is_some() {
            return Err(refused(RefusalKind::Conflict, format!("station {station_id} exists already")));
        }
        self.shared.check_room(1)?;
        let mut station = Station {
            brand: new.brand,
            terminals: new.terminals,
            postal_code: new.postal_code,
            city: new.city,
            country: new.country,
            time_zone: new.time_zone,
            is_offline_batch: new.is_offline_batch,
            ..Station::new(station_id, new.name)
        };
        station.place_by_hand(new.position);
        station.check().map_err(|malformed| refused(RefusalKind::Invalid, malformed.0))?;
        let body = raw(&station)?;
        self.put_station(station, &body, &StationEvent::StationAdded { station: &body }).await
    }

    pub(super) async fn change_station(&self, id: StationId, change: StationChange) -> Result<Edited, GuardError> {
        fn set<T>(field: &mut T, change: Option<T>) {
            if let Some(value) = change {
                *field = value;
            }
        }
        let before = self.station(&id)?;
        let mut station = Station::clone(&before);
        set(&mut station.name, change.name);
        set(&mut station.brand, change.brand);
        set(&mut station.terminals, change.terminals);
        set(&mut station.postal_code, change.postal_code);
        set(&mut station.city, change.city);
        set(&mut station.country, change.country);
        set(&mut station.time_zone, change.time_zone);
        set(&mut station.is_offline_batch, change.is_offline_batch);
        if let Some(position) = change.position {
            station.place_by_hand(position);
        }
        if station == *before {
            return Ok(Edited::Station(station));
        }
        station.check().map_err(|malformed| refused(RefusalKind::Invalid, malformed.0))?;
        let body = raw(&station)?;
        self.put_station(station, &body, &StationEvent::StationChanged { station: &body }).await
    }

    async fn put_station(
        &self,
        station: Station,
        body: &RawValue,
        event: &StationEvent<'_>,
    ) -> Result<Edited, GuardError> {
        let row = (Table::Stations, station.station_id.to_string(), Some(body.to_owned()));
        let edited = Edited::Station(station.clone());
        let at = self.record(format!("station/{}", station.station_id), event, vec![row], &edited).await?;
        if !self.shared.followed.has(at).await {
            self.shared.book_mut().directory.put(station);
        }
        Ok(edited)
    }

    pub(super) async fn remove_station(&self, id: StationId) -> Result<Edited, GuardError> {
        self.station(&id)?;
        let mut rows = vec![(Table::Stations, id.to_string(), None)];
        if self.shared.book().directory.sightings(&id).is_some() {
            rows.push((Table::StationSightings, id.to_string(), None));
        }
        let event = StationEvent::StationRemoved { station_id: &id };
        let at = self.record(format!("station/{id}"), &event, rows, &Edited::Removed).await?;
        if self.shared.followed.has(at).await {
            return Ok(Edited::Removed);
        }
        let mut book = self.shared.book_mut();
        book.directory.remove(&id);
        book.directory.remove_sightings(&id);
        Ok(Edited::Removed)
    }

    fn station(&self, id: &StationId) -> Result<Arc<Station>, GuardError> {
        let found = self.shared.book().directory.get(id);
        found.ok_or_else(|| refused(RefusalKind::NotFound, "there is no such station"))
    }

    /// In records of many stations, each durable before the next: a failure leaves whole stations behind, and the same
    /// import again completes it.
    pub(super) async fn import(&self, import: StationImport) -> Result<Edited, GuardError> {
        let shared = self.shared.clone();
        let importing = off_thread(move || Importing::begin(shared, import)).await??;
        let imported = self.import_all(importing).await;
        // Also after a failure: some are in the directory then. The follower places each by itself.
        if self.shared.followed.is_alone() {
            let shared = self.shared.clone();
            off_thread(move || shared.place_stations()).await?;
        }
        imported
    }

    async fn import_all(&self, mut importing: Importing) -> Result<Edited, GuardError> {
        loop {
            let (back, chunk) = off_thread(move || {
                let chunk = importing.next_chunk();
                (importing, chunk)
            })
            .await?;
            importing = back;
            let Chunk { rows, changed, is_last } = chunk?;
            if !rows.is_empty() {
                let event = StationEvent::StationsImported { count: changed.len() };
                let step = self.step("stations".into(), vec![raw(&event)?], rows, None);
                let at = self.shared.store.append(step).await.map_err(|error| match GuardError::from(error) {
                    GuardError::Storage(why) => GuardError::Partly { stored: importing.stored, why },
                    other => other,
                })?;
                importing.stored += changed.len();
                if !self.shared.followed.has(at).await {
                    let shared = self.shared.clone();
                    off_thread(move || shared.put_stations(changed)).await?;
                }
            }
            if is_last {
                let Importing { imported, updated, kept_manual, placeholders, .. } = importing;
                let shared_positions = placeholders.len();
                return Ok(Edited::Imported { imported, updated, kept_manual, shared_positions });
            }
        }
    }

    /// Notes where a car stood; what enough purchases agree on becomes the station's place, as a learnt one.
    pub(super) async fn learn(&self, lesson: StationLesson) -> Result<Edited, GuardError> {
        let StationLesson { merchant, position, vehicle_id, decision_id } = lesson;
        if !position.is_valid() || (position.latitude == 0.0 && position.longitude == 0.0) {
            return Err(refused(RefusalKind::Invalid, "the car's position is none"));
        }
        let pupil = self.shared.book().directory.pupil(&merchant);
        let station = match pupil {
            Pupil::Station(station) => Station::clone(&station),
            Pupil::Terminal => new_station(&merchant)?,
            Pupil::Nobody => return Ok(Edited::Learnt(None)),
        };
        let id = station.station_id.clone();
        let (known, forget) = {
            let directory = &self.shared.book().directory;
            (directory.sightings(&id), directory.sightings_to_forget(&id))
        };
        let terminal = station.terminals.first().cloned();
        let mut sightings = known.map_or_else(|| Sightings::new(id, terminal), |known| Sightings::clone(&known));
        let at = self.shared.clock.now();
        let station = match sightings.hear(Sighting { decision_id, vehicle_id, position, at }) {
            Heard::Repeat => return Ok(Edited::Learnt(None)),
            Heard::Noted => None,
            Heard::Agreed(Agreed { position, purchases }) => Some(Station {
                position: Some(position),
                position_source: PositionSource::Learnt,
                learnt_from: purchases,
                ..station
            }),
            Heard::Disagreed if station.position_source == PositionSource::Learnt => {
                let position_source = PositionSource::Directory;
                Some(Station { position: None, position_source, learnt_from: 0, ..station })
            }
            Heard::Disagreed => None,
        };
        self.put_lesson(sightings, station, forget, decision_id).await
    }

    async fn put_lesson(
        &self,
        sightings: Sightings,
        station: Option<Station>,
        forget: Option<StationId>,
        decision_id: DecisionId,
    ) -> Result<Edited, GuardError> {
        let id = &sightings.station_id;
        let mut rows = vec![(Table::StationSightings, id.to_string(), Some(raw(&sightings)?))];
        rows.extend(forget.iter().map(|old| (Table::StationSightings, old.to_string(), None)));
        let body = station.as_ref().map(raw).transpose()?;
        let event = match (&station, &body) {
            (Some(station), Some(body)) => {
                if self.shared.book().directory.get(id).is_none() {
                    self.shared.check_room(1)?;
                }
                rows.push((Table::Stations, id.to_string(), Some(body.clone())));
                match station.position {
                    Some(_) => StationEvent::StationLearnt { station: body, decision_id },
                    None => StationEvent::StationUnlearnt { station: body, decision_id },
                }
            }
            (None, _) | (_, None) => StationEvent::StationSighted { station_id: id, decision_id },
        };
        let edited = Edited::Learnt(station.clone());
        let at = self.record(format!("station/{id}"), &event, rows, &edited).await?;
        if self.shared.followed.has(at).await {
            return Ok(edited);
        }
        let mut book = self.shared.book_mut();
        if let Some(old) = forget {
            book.directory.remove_sightings(&old);
        }
        book.directory.put_sightings(sightings);
        if let Some(station) = station {
            book.directory.put(station);
        }
        Ok(edited)
    }
}

impl Shared {
    fn check_room(&self, coming: usize) -> Result<(), GuardError> {
        if self.book().directory.len() + coming > MAX_STATIONS {
            self.counters.book_full.inc();
            return Err(refused(RefusalKind::Conflict, format!("the directory may have {MAX_STATIONS} stations")));
        }
        Ok(())
    }

    /// In small turns: whoever asks meanwhile waits for one only.
    fn put_stations(&self, stations: Vec<Station>) {
        let mut stations = stations.into_iter().peekable();
        while stations.peek().is_some() {
            let mut book = self.book_mut();
            stations.by_ref().take(STATIONS_A_TURN).for_each(|station| book.directory.put_unplaced(station));
        }
    }

    /// Nobody else edits meanwhile, so the tree is made aside.
    fn place_stations(&self) {
        let spots = self.book().directory.spots();
        let spots = RTree::bulk_load(spots);
        self.book_mut().directory.place_all(spots);
    }
}

/// An import on its way. Nobody else edits meanwhile.
struct Importing {
    shared: Arc<Shared>,
    rest: std::vec::IntoIter<Station>,
    /// Coordinates that several stations have.
    placeholders: HashSet<Place>,
    force: bool,
    imported: usize,
    updated: usize,
    kept_manual: usize,
    /// Stations that are durable.
    stored: usize,
}

struct Chunk {
    rows: Vec<Row>,
    changed: Vec<Station>,
    is_last: bool,
}

impl Importing {
    /// Checks that there is room for all of them.
    fn begin(shared: Arc<Shared>, import: StationImport) -> Result<Self, GuardError> {
        let StationImport { stations, force } = import;
        let (placeholders, news) = {
            let directory = &shared.book().directory;
            let ids: HashSet<&StationId> = stations.iter().map(|station| &station.station_id).collect();
            let news = ids.into_iter().filter(|id| directory.get(id).is_none()).count();
            (directory.shared_places(&stations), news)
        };
        shared.check_room(news)?;
        let rest = stations.into_iter();
        Ok(Self { shared, rest, placeholders, force, imported: 0, updated: 0, kept_manual: 0, stored: 0 })
    }

    /// The next rows to write and the stations they hold; unchanged ones are not written.
    fn next_chunk(&mut self) -> Result<Chunk, GuardError> {
        let (mut rows, mut changed, mut bytes) = (Vec::new(), Vec::new(), 0);
        while rows.len() < STATIONS_A_RECORD && bytes < BYTES_A_RECORD {
            let Some(station) = self.rest.next() else { break };
            let Some(station) = self.merged(station) else { continue };
            let row = raw(&station)?;
            bytes += row.get().len();
            rows.push((Table::Stations, station.station_id.to_string(), Some(row)));
            changed.push(station);
        }
        Ok(Chunk { rows, changed, is_last: self.rest.as_slice().is_empty() })
    }

    /// The station as it is to be; `None` = it is so already.
    fn merged(&mut self, station: Station) -> Option<Station> {
        let Some(known) = self.shared.book().directory.get(&station.station_id) else {
            self.imported += 1;
            return Some(station);
        };
        self.updated += 1;
        let is_placeholder = station.position.is_some_and(|at| self.placeholders.contains(&place(at)));
        let policy = ImportPolicy { is_placeholder, force: self.force };
        let (station, kept_manual) = known.imported_over(station, policy);
        self.kept_manual += usize::from(kept_manual);
        (station != *known).then_some(station)
    }
}

/// A station made of what the network says, for a terminal that no other has.
fn new_station(merchant: &Merchant) -> Result<Station, GuardError> {
    let network_id = merchant.network_id.clone();
    let network_id = network_id.ok_or_else(|| refused(RefusalKind::Invalid, "the network names no station"))?;
    let terminal = Terminal { network_id, terminal_id: merchant.terminal_id.clone() };
    let station_id = learnt_id(&terminal)?;
    let kept = |text: &Option<String>, max| {
        text.as_ref().map(|text| keepable(text.trim(), max)).filter(|text| !text.is_empty())
    };
    let name = kept(&merchant.name, Station::MAX_NAME_CHARS).unwrap_or_else(|| "a station without a name".into());
    let mut station = Station {
        terminals: vec![terminal],
        postal_code: kept(&merchant.postal_code, Station::MAX_POSTAL_CODE_CHARS),
        city: kept(&merchant.city, Station::MAX_NAME_CHARS),
        ..Station::new(station_id, name)
    };
    station.check().map_err(|malformed| refused(RefusalKind::Invalid, malformed.0))?;
    station.country = merchant.country.as_ref().map(|country| country.to_ascii_uppercase());
    if station.check().is_err() {
        station.country = None;
    }
    Ok(station)
}

/// The same terminal, the same id. In letters only: digits might look like a card number.
fn learnt_id(terminal: &Terminal) -> Result<StationId, GuardError> {
    let name = raw(terminal)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, name.get().as_bytes());
    let nibbles = digest.as_ref().iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]);
    let letters: String = nibbles.map(|nibble| char::from(b'a' + nibble)).collect();
    format!("learnt:{letters}").parse().map_err(|_| GuardError::Storage("no id could be made"))
}
