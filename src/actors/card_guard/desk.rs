//! What operators change: cards, stations, alerts. One edit at a time, from its check to its record.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::book::{Book, MAX_CARDS};
use super::rule_versions::{RuleOrigin, RuleVersion};
use super::station_desk::{NewStation, StationChange, StationImport, StationLesson};
use super::{GuardError, Shared, raw};
use crate::actors::vehicle::IdempotencyKey;
use crate::domain::card::{
    Alert, Card, CardId, CardLimits, CardPrompts, CardStatus, NetworkRef, Station, StationId, StepUp,
};
use crate::domain::{AlertId, DecisionId, Principal, Refusal, RefusalKind, VehicleId};
use crate::store::{Append, AppendError, Expected, Idempotency, StorePosition, Table, ViewChange};

#[derive(Debug, Clone)]
pub enum Edit {
    AddCard(NewCard),
    ChangeCard(CardId, CardChange),
    RemoveCard(CardId),
    AddStation(NewStation),
    ChangeStation(StationId, StationChange),
    RemoveStation(StationId),
    ImportStations(StationImport),
    LearnStation(StationLesson),
    Alert(AlertId, AlertStep),
    /// By the gateway, after declines for hard reasons.
    SuspendCard {
        card_id: CardId,
        because: DecisionId,
    },
    /// A renter's word on a purchase.
    AnswerStepUp {
        decision_id: DecisionId,
        is_confirmed: bool,
    },
    /// A new version of the card rules comes into force.
    SetRules {
        text: String,
        origin: RuleOrigin,
    },
}

#[derive(Debug, Clone)]
pub struct NewCard {
    /// `None` = one is made.
    pub card_id: Option<CardId>,
    pub network_ref: NetworkRef,
    pub vehicle_id: Option<VehicleId>,
    pub status: CardStatus,
    pub limits: CardLimits,
    pub prompts: CardPrompts,
}

/// What is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct CardChange {
    pub network_ref: Option<NetworkRef>,
    pub vehicle_id: Option<Option<VehicleId>>,
    pub status: Option<CardStatus>,
    pub limits: Option<CardLimits>,
    pub prompts: Option<CardPrompts>,
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
    Imported {
        imported: usize,
        updated: usize,
        #[serde(default)]
        kept_manual: usize,
        #[serde(default)]
        shared_positions: usize,
    },
    /// The station whose learnt position changed, if one did.
    Learnt(Option<Station>),
    Alert(Alert),
    StepUp(StepUp),
    Rules(RuleVersion),
}

/// The journal's content: a variant or field, once released, keeps its name and meaning.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum BookEvent<'a> {
    CardAdded { card: &'a RawValue },
    CardChanged { card: &'a RawValue },
    CardRemoved { card_id: &'a CardId },
    AlertAcknowledged { alert: &'a RawValue },
    AlertResolved { alert: &'a RawValue },
    CardSuspended { card: &'a RawValue, because: DecisionId },
}

/// One edit, whole: it is not to be dropped half-way, so the caller runs it as a task.
pub(super) async fn edit(
    shared: Arc<Shared>,
    edit: Edit,
    by: Principal,
    idempotency: Option<IdempotencyKey>,
) -> Result<Edited, GuardError> {
    // Held to the end: the next edit sees this one's outcome.
    let _turn = shared.desk.lock().await;
    let mut desk = Desk { shared: &shared, by, idempotency, expected: None, raced: Mutex::new(None) };
    let mut tries = 0;
    loop {
        tries += 1;
        desk.expect_of(&edit).await?;
        if let Some(answer) = desk.answered().await? {
            return Ok(answer);
        }
        let outcome = desk.make(edit.clone()).await;
        let raced = desk.raced().take();
        match raced {
            // The same question was taken by another gateway.
            Some(Raced::Answered(answer)) => return parse(&answer),
            // Another gateway changed it meanwhile: what is so now decides.
            Some(Raced::Changed(actual)) if tries < MAX_TRIES && shared.followed.caught_up(actual).await => {}
            Some(Raced::Changed(_)) | None => return outcome,
        }
    }
}

/// How often an edit begins anew because other gateways write the same at the same time.
const MAX_TRIES: u32 = 8;

/// What came before an edit's record.
enum Raced {
    Answered(Box<RawValue>),
    Changed(StorePosition),
}

/// One row to write; without a value it is removed.
pub(super) type Row = (Table, String, Option<Box<RawValue>>);

pub(super) struct Desk<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) by: Principal,
    idempotency: Option<IdempotencyKey>,
    /// The stream that the edit is about, and what must be its last record: what memory shows is of then.
    expected: Option<(String, Expected)>,
    raced: Mutex<Option<Raced>>,
}

pub(super) fn refused(kind: RefusalKind, detail: impl Into<String>) -> GuardError {
    GuardError::Refused(Refusal::new(kind, detail))
}

impl Desk<'_> {
    async fn make(&self, edit: Edit) -> Result<Edited, GuardError> {
        match edit {
            Edit::AddCard(card) => self.add_card(card).await,
            Edit::ChangeCard(id, change) => self.change_card(id, change).await,
            Edit::RemoveCard(id) => self.remove_card(id).await,
            Edit::AddStation(station) => self.add_station(station).await,
            Edit::ChangeStation(id, change) => self.change_station(id, change).await,
            Edit::RemoveStation(id) => self.remove_station(id).await,
            Edit::ImportStations(import) => self.import(import).await,
            Edit::LearnStation(lesson) => self.learn(lesson).await,
            Edit::Alert(id, step) => self.step_alert(id, step).await,
            Edit::SuspendCard { card_id, because } => self.suspend_card(card_id, because).await,
            Edit::AnswerStepUp { decision_id, is_confirmed } => self.answer_step_up(decision_id, is_confirmed).await,
            Edit::SetRules { text, origin } => self.set_rules(text, origin).await,
        }
    }

    /// Notes what the edit's stream must end with, so that what another gateway changes meanwhile is not written over. An
    /// import and a lesson are of many stations or of one not known yet: there the later record holds.
    async fn expect_of(&mut self, edit: &Edit) -> Result<(), GuardError> {
        let stream = match edit {
            Edit::AddCard(NewCard { card_id: Some(id), .. })
            | Edit::ChangeCard(id, _)
            | Edit::RemoveCard(id)
            | Edit::SuspendCard { card_id: id, .. } => format!("card/{id}"),
            Edit::AddStation(NewStation { station_id: Some(id), .. })
            | Edit::ChangeStation(id, _)
            | Edit::RemoveStation(id) => format!("station/{id}"),
            Edit::Alert(id, _) => format!("alert/{id}"),
            Edit::SetRules { .. } => super::rule_versions::STREAM.to_owned(),
            Edit::AnswerStepUp { decision_id, .. } => match self.shared.step_ups.get(*decision_id) {
                Some(asked) => self.card_stream(&asked),
                None => return Ok(()),
            },
            Edit::AddCard(_) | Edit::AddStation(_) | Edit::ImportStations(_) | Edit::LearnStation(_) => return Ok(()),
        };
        let expected = self.shared.followed.expected(&stream).await?;
        self.expected = Some((stream, expected));
        Ok(())
    }

    fn raced(&self) -> MutexGuard<'_, Option<Raced>> {
        self.raced.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        let NewCard { network_ref, vehicle_id, status, limits, prompts, .. } = new;
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
        if let Some(limits) = change.limits {
            card.limits = limits;
        }
        if let Some(prompts) = change.prompts {
            card.prompts = prompts;
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
        let at = self.record(format!("card/{}", card.card_id), event, vec![row], &edited).await?;
        if !self.shared.followed.has(at).await {
            self.shared.book_mut().put_card(card);
        }
        Ok(edited)
    }

    async fn remove_card(&self, id: CardId) -> Result<Edited, GuardError> {
        if self.shared.book().card(&id).is_none() {
            return Err(refused(RefusalKind::NotFound, "there is no such card"));
        }
        let row = (Table::Cards, id.to_string(), None);
        let event = BookEvent::CardRemoved { card_id: &id };
        let at = self.record(format!("card/{id}"), &event, vec![row], &Edited::Removed).await?;
        if !self.shared.followed.has(at).await {
            self.shared.book_mut().remove_card(&id);
        }
        Ok(Edited::Removed)
    }

    async fn suspend_card(&self, id: CardId, because: DecisionId) -> Result<Edited, GuardError> {
        let found = self.shared.book().card(&id);
        let mut card = Card::clone(&*found.ok_or_else(|| refused(RefusalKind::NotFound, "there is no such card"))?);
        if card.status == CardStatus::Suspended {
            return Ok(Edited::Card(card));
        }
        card.status = CardStatus::Suspended;
        card.changed_at = self.shared.clock.now();
        self.shared.counters.cards_suspended.inc();
        let body = raw(&card)?;
        self.put_card(card, &body, &BookEvent::CardSuspended { card: &body, because }).await
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
        let at = self.record(format!("alert/{id}"), &event, vec![row], &edited).await?;
        self.shared.followed.has(at).await;
        self.shared.tell_alert(&alert, body);
        Ok(edited)
    }

    /// Makes one edit durable, with the answer its idempotency key shall get again.
    pub(super) async fn record(
        &self,
        stream: String,
        event: &impl Serialize,
        rows: Vec<Row>,
        edited: &Edited,
    ) -> Result<StorePosition, GuardError> {
        self.record_all(stream, vec![raw(event)?], rows, edited).await
    }

    pub(super) async fn record_all(
        &self,
        stream: String,
        events: Vec<Box<RawValue>>,
        rows: Vec<Row>,
        edited: &Edited,
    ) -> Result<StorePosition, GuardError> {
        let idempotency = match self.idempotency.clone() {
            Some(IdempotencyKey { key, body }) => Some(Idempotency { key, body, answer: raw(edited)? }),
            None => None,
        };
        let step = self.step(stream, events, rows, idempotency);
        self.shared.store.append(step).await.map_err(|error| {
            match &error {
                // It was looked up under the same lock: another gateway took it since.
                AppendError::Duplicate { answer } => *self.raced() = Some(Raced::Answered(answer.clone())),
                AppendError::Conflict { actual } => *self.raced() = Some(Raced::Changed(*actual)),
                AppendError::Fenced
                | AppendError::KeyReused
                | AppendError::Full(_)
                | AppendError::TooLarge { .. }
                | AppendError::Unknown(_) => {}
            }
            error.into()
        })
    }

    pub(super) fn step(
        &self,
        stream: String,
        events: Vec<Box<RawValue>>,
        rows: Vec<Row>,
        idempotency: Option<Idempotency>,
    ) -> Append {
        let view = rows.into_iter().map(|(table, key, json)| ViewChange { table, key, row: json.into() }).collect();
        let expected = self.expected.as_ref().filter(|(of, _)| *of == stream).map_or(Expected::Any, |(_, last)| *last);
        Append {
            stream,
            expected,
            fence: None,
            at: self.shared.clock.now(),
            by: self.by.clone(),
            idempotency,
            events,
            view,
        }
    }

    /// The history of the card that a word is asked about.
    pub(super) fn card_stream(&self, asked: &StepUp) -> String {
        match self.shared.book().card_by_ref(&asked.card_ref) {
            Some(card) => format!("card/{}", card.card_id),
            None => format!("card/unknown/{}", asked.card_ref),
        }
    }
}

/// A fresh UUIDv7 as a card's or station's name; again in the rare case that it looks like a card number.
pub(super) fn made_id<T: std::str::FromStr>(shared: &Shared) -> Result<T, GuardError> {
    (0..8)
        .find_map(|_| shared.clock.new_id().to_string().parse().ok())
        .ok_or(GuardError::Storage("no id could be made"))
}

pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, GuardError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| GuardError::Storage("a reading task died"))
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(row: &RawValue) -> Result<T, GuardError> {
    serde_json::from_str(row.get()).map_err(|error| {
        GuardError::Read(crate::store::ReadError::Damaged(format!("a stored record cannot be read: {error}")))
    })
}
