//! What operators change: cards, stations, alerts. One edit at a time, from its check to its record.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::book::{Book, MAX_CARDS, MAX_STATIONS};
use super::{GuardError, Shared, raw};
use crate::actors::vehicle::IdempotencyKey;
use crate::domain::card::{Alert, Card, CardId, CardStatus, NetworkRef, Station, StationId, Terminal};
use crate::domain::{AlertId, Position, Principal, Refusal, RefusalKind, VehicleId};
use crate::store::{Append, AppendError, Expected, Idempotency, Table, ViewChange};

/// Stations in one record: with names and terminals far below the 256 KiB a record may have.
const STATIONS_A_RECORD: usize = 200;

#[derive(Debug, Clone)]
pub enum Edit {
    AddCard(NewCard),
    ChangeCard(CardId, CardChange),
    RemoveCard(CardId),
    AddStation(NewStation),
    ChangeStation(StationId, StationChange),
    RemoveStation(StationId),
    /// Adds or updates each; one without terminals keeps those it had. Their form is checked already.
    ImportStations(Vec<Station>),
    Alert(AlertId, AlertStep),
}

#[derive(Debug, Clone)]
pub struct NewCard {
    /// `None` = one is made.
    pub card_id: Option<CardId>,
    pub network_ref: NetworkRef,
    pub vehicle_id: Option<VehicleId>,
    pub status: CardStatus,
}

/// What is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct CardChange {
    pub network_ref: Option<NetworkRef>,
    pub vehicle_id: Option<Option<VehicleId>>,
    pub status: Option<CardStatus>,
}

#[derive(Debug, Clone)]
pub struct NewStation {
    /// `None` = one is made.
    pub station_id: Option<StationId>,
    pub name: String,
    pub position: Option<Position>,
    pub terminals: Vec<Terminal>,
}

/// What is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct StationChange {
    pub name: Option<String>,
    pub position: Option<Option<Position>>,
    pub terminals: Option<Vec<Terminal>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertStep {
    Acknowledge,
    Resolve,
}

/// What an edit led to; recorded as the answer of an idempotency key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edited {
    Card(Card),
    Station(Station),
    Removed,
    Imported { imported: usize, updated: usize },
    Alert(Alert),
}

/// The journal's content: a variant or field, once released, keeps its name and meaning.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum BookEvent<'a> {
    CardAdded {
        card: &'a RawValue,
    },
    CardChanged {
        card: &'a RawValue,
    },
    CardRemoved {
        card_id: &'a CardId,
    },
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
    AlertAcknowledged {
        alert: &'a RawValue,
    },
    AlertResolved {
        alert: &'a RawValue,
    },
}

/// One edit, whole: it is not to be dropped half-way, so the caller runs it as a task.
pub(super) async fn edit(
    shared: Arc<Shared>,
    edit: Edit,
    by: Principal,
    idempotency: Option<IdempotencyKey>,
) -> Result<Edited, GuardError> {
    let desk = Desk { shared: &shared, by, idempotency };
    // Held to the end: the next edit sees this one's outcome.
    let _turn = shared.desk.lock().await;
    if let Some(answer) = desk.answered().await? {
        return Ok(answer);
    }
    match edit {
        Edit::AddCard(card) => desk.add_card(card).await,
        Edit::ChangeCard(id, change) => desk.change_card(id, change).await,
        Edit::RemoveCard(id) => desk.remove_card(id).await,
        Edit::AddStation(station) => desk.add_station(station).await,
        Edit::ChangeStation(id, change) => desk.change_station(id, change).await,
        Edit::RemoveStation(id) => desk.remove_station(id).await,
        Edit::ImportStations(stations) => desk.import(stations).await,
        Edit::Alert(id, step) => desk.step_alert(id, step).await,
    }
}

struct Desk<'a> {
    shared: &'a Arc<Shared>,
    by: Principal,
    idempotency: Option<IdempotencyKey>,
}

fn refused(kind: RefusalKind, detail: impl Into<String>) -> GuardError {
    GuardError::Refused(Refusal::new(kind, detail))
}

impl Desk<'_> {
    /// The recorded answer, when this idempotency key came before.
    async fn answered(&self) -> Result<Option<Edited>, GuardError> {
        let Some(IdempotencyKey { key, body }) = self.idempotency.clone() else { return Ok(None) };
        let store = self.shared.store.clone();
        let found = off_thread(move || store.answered(&key)).await?;
        match found? {
            None => Ok(None),
            Some((known, _)) if known != body => Err(GuardError::KeyReused),
            Some((_, answer)) => parse(&answer).map(Some),
        }
    }

    async fn add_card(&self, new: NewCard) -> Result<Edited, GuardError> {
        let now = self.shared.clock.now();
        let card_id = match new.card_id {
            Some(id) => id,
            None => made_id(self.shared)?,
        };
        {
            let book = self.shared.book();
            if book.card(&card_id).is_some() {
                return Err(refused(RefusalKind::Conflict, format!("card {card_id} exists already")));
            }
            self.check_ref(&book, &card_id, &new.network_ref)?;
            if book.sizes().0 >= MAX_CARDS {
                self.shared.counters.book_full.inc();
                return Err(refused(RefusalKind::Conflict, format!("there are {MAX_CARDS} cards already")));
            }
        }
        let NewCard { network_ref, vehicle_id, status, .. } = new;
        let (prompts, limits) = Default::default();
        let card = Card { card_id, network_ref, vehicle_id, status, changed_at: now, previous: None, prompts, limits };
        let body = raw(&card)?;
        self.put_card(card, &body, &BookEvent::CardAdded { card: &body }).await
    }

    async fn change_card(&self, id: CardId, change: CardChange) -> Result<Edited, GuardError> {
        let now = self.shared.clock.now();
        let mut card = {
            let book = self.shared.book();
            let card = book.card(&id).ok_or_else(|| refused(RefusalKind::NotFound, "there is no such card"))?;
            if let Some(network_ref) = &change.network_ref {
                self.check_ref(&book, &id, network_ref)?;
            }
            Card::clone(&card)
        };
        let before = card.clone();
        if let Some(network_ref) = change.network_ref {
            card.network_ref = network_ref;
        }
        if let Some(vehicle) = change.vehicle_id {
            card.bind(now, vehicle);
        }
        if let Some(status) = change.status {
            card.status = status;
        }
        if card == before {
            return Ok(Edited::Card(card));
        }
        card.changed_at = now;
        let body = raw(&card)?;
        self.put_card(card, &body, &BookEvent::CardChanged { card: &body }).await
    }

    fn check_ref(&self, book: &Book, id: &CardId, network_ref: &NetworkRef) -> Result<(), GuardError> {
        match book.card_by_ref(network_ref) {
            Some(other) if other.card_id != *id => {
                let detail = format!("network_ref {network_ref} belongs to card {} already", other.card_id);
                Err(refused(RefusalKind::Conflict, detail))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn put_card(&self, card: Card, body: &RawValue, event: &BookEvent<'_>) -> Result<Edited, GuardError> {
        let row = (Table::Cards, card.card_id.to_string(), Some(body.to_owned()));
        let edited = Edited::Card(card.clone());
        self.record(format!("card/{}", card.card_id), event, vec![row], &edited).await?;
        self.shared.book_mut().put_card(card);
        Ok(edited)
    }

    async fn remove_card(&self, id: CardId) -> Result<Edited, GuardError> {
        if self.shared.book().card(&id).is_none() {
            return Err(refused(RefusalKind::NotFound, "there is no such card"));
        }
        let row = (Table::Cards, id.to_string(), None);
        let event = BookEvent::CardRemoved { card_id: &id };
        self.record(format!("card/{id}"), &event, vec![row], &Edited::Removed).await?;
        self.shared.book_mut().remove_card(&id);
        Ok(Edited::Removed)
    }

    async fn add_station(&self, new: NewStation) -> Result<Edited, GuardError> {
        let station_id = match new.station_id {
            Some(id) => id,
            None => made_id(self.shared)?,
        };
        {
            let book = self.shared.book();
            if book.station(&station_id).is_some() {
                return Err(refused(RefusalKind::Conflict, format!("station {station_id} exists already")));
            }
            if book.sizes().1 >= MAX_STATIONS {
                self.shared.counters.book_full.inc();
                return Err(refused(RefusalKind::Conflict, format!("there are {MAX_STATIONS} stations already")));
            }
        }
        let NewStation { name, position, terminals, .. } = new;
        let station = Station { station_id, name, position, terminals };
        station.check().map_err(|malformed| refused(RefusalKind::Invalid, malformed.0))?;
        let body = raw(&station)?;
        self.put_station(station, &body, &BookEvent::StationAdded { station: &body }).await
    }

    async fn change_station(&self, id: StationId, change: StationChange) -> Result<Edited, GuardError> {
        let found = self.shared.book().station(&id);
        let before = found.ok_or_else(|| refused(RefusalKind::NotFound, "there is no such station"))?;
        let mut station = Station::clone(&before);
        if let Some(name) = change.name {
            station.name = name;
        }
        if let Some(position) = change.position {
            station.position = position;
        }
        if let Some(terminals) = change.terminals {
            station.terminals = terminals;
        }
        if station == *before {
            return Ok(Edited::Station(station));
        }
        station.check().map_err(|malformed| refused(RefusalKind::Invalid, malformed.0))?;
        let body = raw(&station)?;
        self.put_station(station, &body, &BookEvent::StationChanged { station: &body }).await
    }

    async fn put_station(
        &self,
        station: Station,
        body: &RawValue,
        event: &BookEvent<'_>,
    ) -> Result<Edited, GuardError> {
        let row = (Table::Stations, station.station_id.to_string(), Some(body.to_owned()));
        let edited = Edited::Station(station.clone());
        self.record(format!("station/{}", station.station_id), event, vec![row], &edited).await?;
        self.shared.book_mut().put_station(station);
        Ok(edited)
    }

    async fn remove_station(&self, id: StationId) -> Result<Edited, GuardError> {
        if self.shared.book().station(&id).is_none() {
            return Err(refused(RefusalKind::NotFound, "there is no such station"));
        }
        let row = (Table::Stations, id.to_string(), None);
        let event = BookEvent::StationRemoved { station_id: &id };
        self.record(format!("station/{id}"), &event, vec![row], &Edited::Removed).await?;
        self.shared.book_mut().remove_station(&id);
        Ok(Edited::Removed)
    }

    /// In records of some hundred stations, each durable before the next: a failure leaves whole stations behind, and
    /// the same import again completes it.
    async fn import(&self, stations: Vec<Station>) -> Result<Edited, GuardError> {
        let (mut imported, mut updated) = (0, 0);
        for chunk in stations.chunks(STATIONS_A_RECORD) {
            let (rows, changed, news) = self.import_rows(chunk)?;
            if !rows.is_empty() {
                let event = BookEvent::StationsImported { count: changed.len() };
                let step = self.step("stations".into(), &event, rows, None)?;
                self.shared.store.append(step).await.map_err(|error| match GuardError::from(error) {
                    GuardError::Storage(why) => GuardError::Partly { stored: imported + updated, why },
                    other => other,
                })?;
                let mut book = self.shared.book_mut();
                changed.into_iter().for_each(|station| book.put_station(station));
            }
            imported += news;
            updated += chunk.len() - news;
        }
        Ok(Edited::Imported { imported, updated })
    }

    /// The rows to write, the stations they hold, and how many of the chunk are new; unchanged ones are not written.
    #[expect(clippy::type_complexity, reason = "three lists for one caller")]
    fn import_rows(
        &self,
        chunk: &[Station],
    ) -> Result<(Vec<(Table, String, Option<Box<RawValue>>)>, Vec<Station>, usize), GuardError> {
        let book = self.shared.book();
        let (mut rows, mut changed, mut news) = (Vec::new(), Vec::new(), 0);
        for station in chunk {
            let mut station = station.clone();
            match book.station(&station.station_id) {
                Some(known) => {
                    if station.terminals.is_empty() {
                        station.terminals.clone_from(&known.terminals);
                    }
                    if station == *known {
                        continue;
                    }
                }
                None => news += 1,
            }
            rows.push((Table::Stations, station.station_id.to_string(), Some(raw(&station)?)));
            changed.push(station);
        }
        if book.sizes().1 + news > MAX_STATIONS {
            self.shared.counters.book_full.inc();
            return Err(refused(RefusalKind::Conflict, format!("the directory may have {MAX_STATIONS} stations")));
        }
        Ok((rows, changed, news))
    }

    async fn step_alert(&self, id: AlertId, step: AlertStep) -> Result<Edited, GuardError> {
        let (store, key) = (self.shared.store.clone(), id.to_string());
        let row = off_thread(move || store.get(Table::Alerts, &key)).await??;
        let row = row.ok_or_else(|| refused(RefusalKind::NotFound, "there is no such alert"))?;
        let before: Alert = parse(&row)?;
        let now = self.shared.clock.now();
        let alert = match step {
            AlertStep::Acknowledge => before.acknowledge(now, &self.by),
            AlertStep::Resolve => before.resolve(now, &self.by),
        }?;
        if alert == before {
            return Ok(Edited::Alert(alert));
        }
        let body = raw(&alert)?;
        let event = match step {
            AlertStep::Acknowledge => BookEvent::AlertAcknowledged { alert: &body },
            AlertStep::Resolve => BookEvent::AlertResolved { alert: &body },
        };
        let edited = Edited::Alert(alert.clone());
        let row = (Table::Alerts, id.to_string(), Some(body.clone()));
        self.record(format!("alert/{id}"), &event, vec![row], &edited).await?;
        self.shared.tell_alert(&alert, body);
        Ok(edited)
    }

    /// Makes one edit durable, with the answer its idempotency key shall get again.
    async fn record(
        &self,
        stream: String,
        event: &BookEvent<'_>,
        rows: Vec<(Table, String, Option<Box<RawValue>>)>,
        edited: &Edited,
    ) -> Result<(), GuardError> {
        let idempotency = match self.idempotency.clone() {
            Some(IdempotencyKey { key, body }) => Some(Idempotency { key, body, answer: raw(edited)? }),
            None => None,
        };
        let step = self.step(stream, event, rows, idempotency)?;
        match self.shared.store.append(step).await {
            Ok(_) => Ok(()),
            // It was looked up under the same lock, so only a store that lost sight of it can answer this.
            Err(AppendError::Duplicate { .. }) => Err(GuardError::Unknown),
            Err(error) => Err(error.into()),
        }
    }

    fn step(
        &self,
        stream: String,
        event: &BookEvent<'_>,
        rows: Vec<(Table, String, Option<Box<RawValue>>)>,
        idempotency: Option<Idempotency>,
    ) -> Result<Append, GuardError> {
        let view = rows.into_iter().map(|(table, key, value)| ViewChange { table, key, value }).collect();
        Ok(Append {
            stream,
            expected: Expected::Any,
            fence: None,
            at: self.shared.clock.now(),
            by: self.by.clone(),
            idempotency,
            events: vec![raw(event)?],
            view,
        })
    }
}

/// A fresh UUIDv7 as a card's or station's name; again in the rare case that it looks like a card number.
fn made_id<T: std::str::FromStr>(shared: &Shared) -> Result<T, GuardError> {
    (0..8)
        .find_map(|_| shared.clock.new_id().to_string().parse().ok())
        .ok_or(GuardError::Storage("no id could be made"))
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, GuardError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| GuardError::Storage("a reading task died"))
}

fn parse<T: serde::de::DeserializeOwned>(row: &RawValue) -> Result<T, GuardError> {
    serde_json::from_str(row.get()).map_err(|error| {
        GuardError::Read(crate::store::ReadError::Damaged(format!("a stored record cannot be read: {error}")))
    })
}
