//! The card guard: judges purchases, keeps the cards, the station directory and the alerts.
//!
//! The payment edge asks [`GuardHandle::authorise`]; operators edit through [`GuardHandle::edit`]. Every answer is
//! durable before anybody hears it: without a record there is no approval and no decline either, only "not now".
//! It answers from memory and never waits for a car or the network beyond its deadline.

mod authorise;
mod book;
mod desk;
mod directory;
mod recent;
mod station_desk;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use authorise::CardGuard;
use authorise::Question;
pub use book::{Book, MAX_CARDS};
pub use desk::{AlertStep, CardChange, Edit, Edited, NewCard};
pub use directory::MAX_STATIONS;
use recent::Recent;
pub use station_desk::{NewStation, StationChange, StationImport, StationLesson};

use crate::actors::feed::{AlertChanged, DecisionMade};
use crate::actors::vehicle::{AskError, IdempotencyKey, Snapshot};
use crate::clock::Clock;
use crate::domain::card::{
    Alert, AuthorizationId, Card, CardId, Decision, Outcome, Purchase, Rules, Settlement, Station, StationId,
};
use crate::domain::{DecisionId, Position, Principal, Refusal, Timestamp, VehicleId};
use crate::metrics::{Count, Metrics, Reading};
use crate::store::{AppendError, ReadError, Store};

/// `config/card-rules.toml`: the rules where the operator names no other file.
const BUILT_IN_RULES: &str = include_str!("../../../config/card-rules.toml");

/// The rules as built in.
pub fn built_in_rules() -> Result<Rules, String> {
    parse_rules(BUILT_IN_RULES)
}

/// Reads a rules file; the error names the key and the line.
pub fn parse_rules(text: &str) -> Result<Rules, String> {
    let rules: Rules = toml::from_str(text).map_err(|error| error.to_string())?;
    rules.check().map_err(|malformed| malformed.to_string())?;
    Ok(rules)
}

/// One question of a payment network. Asked again, in flight or later, it gets the same answer.
#[derive(Debug, Clone)]
pub struct Authorise {
    pub purchase: Purchase,
    /// The network's id of its message.
    pub source_event: String,
    /// Hex SHA-256 of the raw body.
    pub body_sha256: String,
    /// What was approved before under the same authorisation, in minor units; above 0 more is asked for.
    pub already_minor: i64,
}

/// The part of a decision that answers the network: kept in memory for repeats, and as the store's recorded answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    pub decision_id: DecisionId,
    pub authorization_id: AuthorizationId,
    pub outcome: Outcome,
    pub settlement: Settlement,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_minor: Option<i64>,
    pub reasons: Vec<String>,
    pub rule_version: String,
    #[serde(default)]
    pub source_event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<DecisionId>,
}

impl Decided {
    /// Does the question ask for more than what was approved? That is a new purchase to judge. A decline stays one, and
    /// the same message, or the same question in another one, gets the same answer.
    pub(in crate::actors) fn is_exceeded_by(&self, ask: &Authorise) -> bool {
        self.settlement == Settlement::Enabled && ask.already_minor > 0 && ask.source_event != self.source_event
    }
}

impl From<&Decision> for Decided {
    fn from(decision: &Decision) -> Self {
        let ruling = &decision.ruling;
        Self {
            decision_id: decision.decision_id,
            authorization_id: decision.purchase.authorization_id.clone(),
            outcome: ruling.outcome,
            settlement: ruling.settlement,
            cap_minor: ruling.cap_minor,
            reasons: ruling.reasons.clone(),
            rule_version: ruling.rule_version.clone(),
            source_event: decision.source_event.clone(),
            follows: decision.follows,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GuardError {
    /// Surely nothing happened; asking again brings the same.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Surely nothing happened: the idempotency key came before with another body.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    /// Surely nothing happened: too much is in flight; worth a retry in a moment.
    #[error("too many questions are in flight")]
    Busy,
    /// Surely nothing happened; worth a retry later.
    #[error("storage is full or busy: {0}")]
    Storage(&'static str),
    /// An import was cut short: so many stations are stored; the whole import can be repeated.
    #[error("storage is full or busy after {stored} stations: {why}")]
    Partly { stored: usize, why: &'static str },
    /// It may have happened; asking the same again is safe and brings the recorded answer.
    #[error("the outcome is unknown")]
    Unknown,
    /// Nothing happened; stored data could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<AppendError> for GuardError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full(why) => Self::Storage(why),
            AppendError::KeyReused => Self::KeyReused,
            AppendError::TooLarge { .. } => Self::Storage("the record is too large"),
            // Nobody else writes these streams, and repeats are taken out before: both are bugs, and neither is stored.
            AppendError::Conflict { .. } | AppendError::Fenced | AppendError::Duplicate { .. } => {
                Self::Storage("somebody else wrote the record")
            }
            AppendError::Unknown(_) => Self::Unknown,
        }
    }
}

type AskingVehicle = Pin<Box<dyn Future<Output = Result<Snapshot, AskError>>>>;

/// How the guard learns of a vehicle: from its actor's memory, never from the car.
pub type AskVehicle = Arc<dyn Fn(VehicleId) -> AskingVehicle + Send + Sync>;

/// What the guard is made of.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub rules: Rules,
    pub ask_vehicle: AskVehicle,
    /// Whoever waits for an answer hears within this, whatever happens.
    pub deadline: Duration,
    pub decisions_feed: Recipient<DecisionMade>,
    pub alerts_feed: Recipient<AlertChanged>,
}

/// What the guard's parts share.
struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    book: RwLock<Book>,
    counters: GuardCounters,
    decisions_feed: Recipient<DecisionMade>,
    alerts_feed: Recipient<AlertChanged>,
    /// Edits go one at a time, each from its check to its record.
    desk: tokio::sync::Mutex<()>,
    /// Imports whose bodies may be in memory at once.
    imports: Arc<Semaphore>,
    /// Messages of the payment network seen lately, with when.
    messages: Mutex<Recent<String, Timestamp>>,
}

/// Imports at once.
const MAX_IMPORTS: usize = 2;
/// Message ids remembered: five minutes at 300 a second.
const MAX_MESSAGES: usize = 100_000;

impl Shared {
    fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        book: Book,
        decisions_feed: Recipient<DecisionMade>,
        alerts_feed: Recipient<AlertChanged>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            book: RwLock::new(book),
            counters: GuardCounters::default(),
            decisions_feed,
            alerts_feed,
            desk: tokio::sync::Mutex::new(()),
            imports: Arc::new(Semaphore::new(MAX_IMPORTS)),
            messages: Mutex::new(Recent::new(MAX_MESSAGES)),
        })
    }
}

/// What the guard counts; each limit shows when it bites.
#[derive(Debug, Default)]
pub struct GuardCounters {
    pub approved: Count,
    pub approved_capped: Count,
    pub stepped_up: Count,
    pub declined: Count,
    /// Questions answered from the record.
    pub repeats: Count,
    /// Questions refused because too many were in flight.
    pub busy: Count,
    /// Vehicles whose record could not be asked in time.
    pub late_vehicles: Count,
    /// Questions whose answer was not recorded within the deadline.
    pub late: Count,
    /// Questions and edits that could not be recorded.
    pub unrecorded: Count,
    /// Remembered answers that left memory; a repeat is answered from the store.
    pub forgotten: Count,
    pub alerts_opened: Count,
    /// Cards and stations refused for lack of room.
    pub book_full: Count,
    /// Payment messages with a signature that is malformed, wrong or out of time.
    pub bad_signatures: Count,
    /// Payment messages that are signed well and cannot be understood.
    pub bad_messages: Count,
    /// Payment messages of other types, acknowledged.
    pub other_messages: Count,
    /// Payment messages that came again within the window.
    pub repeated_messages: Count,
}

impl GuardCounters {
    fn decided(&self, outcome: Outcome) {
        match outcome {
            Outcome::Approve => self.approved.inc(),
            Outcome::ApproveCapped => self.approved_capped.inc(),
            Outcome::StepUp => self.stepped_up.inc(),
            Outcome::Decline => self.declined.inc(),
        }
    }

    fn readings(&self) -> Vec<Reading> {
        let outcomes = [
            (Outcome::Approve, &self.approved),
            (Outcome::ApproveCapped, &self.approved_capped),
            (Outcome::StepUp, &self.stepped_up),
            (Outcome::Decline, &self.declined),
        ];
        let outcomes = outcomes.map(|(outcome, count)| (outcome.name().to_owned(), count.get()));
        let counter = |name, help, count: &Count| Reading::counter(name, help, count.get());
        vec![
            Reading::counters("card_decisions", "Decisions recorded", "outcome", outcomes),
            counter("card_repeats", "Questions answered from the record", &self.repeats),
            counter("card_busy", "Questions refused because too many were in flight", &self.busy),
            counter("card_late_vehicles", "Vehicles not asked in time", &self.late_vehicles),
            counter("card_late", "Answers not recorded within the deadline", &self.late),
            counter("card_unrecorded", "Questions and edits that could not be recorded", &self.unrecorded),
            counter("card_forgotten", "Remembered answers that left memory", &self.forgotten),
            counter("card_alerts_opened", "Alerts opened", &self.alerts_opened),
            counter("card_book_full", "Cards and stations refused for lack of room", &self.book_full),
            counter("payment_bad_signatures", "Payment messages with a bad signature", &self.bad_signatures),
            counter("payment_bad_messages", "Payment messages that cannot be understood", &self.bad_messages),
            counter("payment_other_messages", "Payment messages of other types", &self.other_messages),
            counter("payment_repeated_messages", "Payment messages that came again", &self.repeated_messages),
        ]
    }
}

/// The way to the card guard; cheap to clone. Edges hold one.
#[derive(Clone)]
pub struct GuardHandle {
    actor: Addr<CardGuard>,
    deadline: Duration,
    shared: Arc<Shared>,
}

impl GuardHandle {
    /// Reads cards, stations and the newest decisions from the store (blocks) and starts the actor on `arbiter`.
    pub fn start(parts: Parts, arbiter: &ArbiterHandle) -> Result<Self, ReadError> {
        let book = Book::load(&*parts.store)?;
        let decided = authorise::load_decided(&*parts.store)?;
        let Parts { store, clock, rules, ask_vehicle, deadline, decisions_feed, alerts_feed } = parts;
        // Consoles that come after a restart find what is still open.
        for (alert, body) in book::open_alerts(&*store)? {
            alerts_feed.do_send(AlertChanged { id: alert.alert_id, open: true, body: body.into() });
        }
        let shared = Shared::new(store, clock, book, decisions_feed, alerts_feed);
        let (guard, rules) = (shared.clone(), Arc::new(rules));
        let actor = CardGuard::start_in_arbiter(arbiter, move |context| {
            context.set_mailbox_capacity(authorise::MAX_IN_FLIGHT);
            CardGuard::new(guard, rules, ask_vehicle, deadline / 2, decided)
        });
        Ok(Self { actor, deadline, shared })
    }

    /// A guard over `store` that knows nothing and whose actor does not run.
    #[cfg(test)]
    pub fn detached(store: Arc<dyn Store>, clock: Clock) -> Self {
        struct Nobody;
        impl Actor for Nobody {
            type Context = Context<Self>;
        }
        impl Handler<DecisionMade> for Nobody {
            type Result = ();
            fn handle(&mut self, _: DecisionMade, _: &mut Self::Context) {}
        }
        impl Handler<AlertChanged> for Nobody {
            type Result = ();
            fn handle(&mut self, _: AlertChanged, _: &mut Self::Context) {}
        }
        let nobody = Context::<Nobody>::new().address();
        let shared = Shared::new(store, clock, Book::default(), nobody.clone().recipient(), nobody.recipient());
        Self { actor: Context::new().address(), deadline: Duration::from_millis(300), shared }
    }

    /// The recorded answer to a purchase, new or repeated. It is durable when this returns.
    pub async fn authorise(&self, ask: Authorise) -> Result<Arc<Decided>, GuardError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        match self.actor.try_send(Question { ask, reply }) {
            Ok(()) => {}
            Err(SendError::Full(_)) => {
                self.shared.counters.busy.inc();
                return Err(GuardError::Busy);
            }
            Err(SendError::Closed(_)) => return Err(GuardError::Storage("the card guard is not running")),
        }
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(answer) => answer.unwrap_or(Err(GuardError::Unknown)),
            Err(_) => {
                self.shared.counters.late.inc();
                Err(GuardError::Unknown)
            }
        }
    }

    /// Changes a card, a station or an alert. It is durable when this returns, and goes on if the caller goes away.
    pub async fn edit(
        &self,
        edit: Edit,
        by: Principal,
        idempotency: Option<IdempotencyKey>,
    ) -> Result<Edited, GuardError> {
        let work = desk::edit(self.shared.clone(), edit, by, idempotency);
        let done = tokio::spawn(work).await;
        let result = done.unwrap_or(Err(GuardError::Unknown));
        if matches!(result, Err(GuardError::Storage(_) | GuardError::Partly { .. } | GuardError::Unknown)) {
            self.shared.counters.unrecorded.inc();
        }
        result
    }

    pub fn card(&self, id: &CardId) -> Option<Arc<Card>> {
        self.shared.book().card(id)
    }

    /// Cards in the order of their ids after `after`, at most `limit`.
    pub fn cards(&self, after: Option<&CardId>, limit: usize) -> Vec<Arc<Card>> {
        self.shared.book().cards(after, limit)
    }

    pub fn station(&self, id: &StationId) -> Option<Arc<Station>> {
        self.shared.book().directory.get(id)
    }

    /// Stations in the order of their ids after `after`, at most `limit`.
    pub fn stations(&self, after: Option<&StationId>, limit: usize) -> Vec<Arc<Station>> {
        self.shared.book().directory.page(after, limit)
    }

    /// Stations within `radius_m` with their distance in metres, nearest first, at most `limit`.
    pub fn stations_near(&self, position: Position, radius_m: f64, limit: usize) -> Vec<(Arc<Station>, f64)> {
        self.shared.book().directory.near(position, radius_m, limit)
    }

    /// Notes a payment network's message; true when it came before within `window_ms`.
    pub fn is_repeat(&self, message_id: &str, window_ms: i64) -> bool {
        let now = self.shared.clock.now();
        let mut messages = self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let key = message_id.to_owned();
        let is_repeat = messages.get(&key).is_some_and(|seen| now.since_ms(*seen) <= window_ms);
        messages.insert(key, now);
        is_repeat
    }

    /// The right to hold one import in memory; `None` when as many as may are under way.
    pub fn import_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.shared.imports.clone().try_acquire_owned().ok()
    }

    pub fn counters(&self) -> &GuardCounters {
        &self.shared.counters
    }

    /// Shows the guard's counters at `/metrics`.
    pub fn register(&self, metrics: &Metrics) {
        let shared = self.shared.clone();
        metrics.register(move || {
            let (cards, stations) = shared.book().sizes();
            let mut readings = shared.counters.readings();
            readings.push(Reading::gauge("cards", "Cards in the book", cards as f64));
            readings.push(Reading::gauge("stations", "Stations in the directory", stations as f64));
            readings
        });
    }
}

impl Shared {
    fn book(&self) -> RwLockReadGuard<'_, Book> {
        // A writer that panicked left either the old or the new entry: both are whole.
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn book_mut(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_alert(&self, alert: &Alert, body: Box<RawValue>) {
        self.alerts_feed.do_send(AlertChanged { id: alert.alert_id, open: alert.is_open(), body: body.into() });
    }
}

/// One JSON document for the store. Our own records always have a JSON form: string keys, finite numbers.
fn raw<T: Serialize>(value: &T) -> Result<Box<RawValue>, GuardError> {
    serde_json::value::to_raw_value(value).map_err(|error| {
        tracing::error!(%error, "a record has no JSON form");
        GuardError::Storage("the record has no JSON form")
    })
}
