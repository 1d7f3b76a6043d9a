//! The card guard: judges purchases, keeps the cards, the station directory and the alerts.
//!
//! The payment edge asks [`GuardHandle::authorise`]; operators edit through [`GuardHandle::edit`]. Every answer is
//! durable before anybody hears it, in the journal or, while that does not answer, in the spool: otherwise there is no approval
//! and no decline either, only "not now".
//! It answers from memory and never waits for a car or the network beyond its deadline.

mod authorise;
mod book;
mod counters;
mod desk;
mod directory;
mod early;
mod follow;
mod incidents;
mod judging;
mod recent;
mod rule_text;
mod rule_versions;
mod settle;
mod station_desk;
mod step_up_desk;
mod step_ups;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use authorise::CardGuard;
use authorise::{Question, Settle, Subject};
pub use book::{Book, MAX_CARDS};
pub use counters::GuardCounters;
pub use desk::{AlertStep, CardChange, Edit, Edited, NewCard};
pub use directory::MAX_STATIONS;
pub use incidents::FellBack;
use incidents::Incidents;
use judging::Judge;
pub use recent::Recent;
pub use rule_text::{BUILT_IN_RULES, built_in_rules, parse_rules, rules_text};
use rule_versions::ActiveRules;
pub use rule_versions::{
    ACTIVE as ACTIVE_RULES, RuleOrigin, RuleVersion, VERSIONS as RULE_VERSIONS, version_row as rule_version_row,
};
pub use settle::{Posted, reconciliation_row};
use settle::{Settler, Settling};
pub use station_desk::{NewStation, StationChange, StationImport, StationLesson};
use step_ups::StepUps;

use crate::actors::feed::{AlertChanged, DecisionMade};
use crate::actors::follower::{Followed, IsMine};
use crate::actors::vehicle::{AskError, IdempotencyKey, Snapshot};
use crate::clock::Clock;
use crate::config::WhileStoreIsAway;
use crate::domain::card::{
    Alert, AuthorizationId, Card, CardId, Decision, Outcome, Posting, Purchase, Reconciliation, RuleBook, Settlement,
    SpendingLedger, Station, StationId, StepUp, Unreadable,
};
use crate::domain::{DecisionId, Position, Principal, Refusal, Timestamp, VehicleId};
use crate::metrics::{Metrics, Reading};
use crate::store::{AppendError, ReadError, Spool, Store};

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
    /// The amount that was judged; absent in records from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_minor: Option<i64>,
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
            asked_minor: Some(decision.purchase.amount.amount_minor),
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

/// Called with each answer that is given before it is durable; must not block.
pub type TellEarly = Arc<dyn Fn(&Decided) + Send + Sync>;

/// What the guard is made of.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    /// What the operator's file says, or what is built in.
    pub rules: String,
    /// Hard declines within a day after which a card is suspended; 0 = never.
    pub suspend_after_declines: u32,
    pub ask_vehicle: AskVehicle,
    /// Whoever waits for an answer hears within this, whatever happens.
    pub deadline: Duration,
    pub decisions_feed: Recipient<DecisionMade>,
    pub alerts_feed: Recipient<AlertChanged>,
    pub followed: Followed,
    pub while_store_is_away: WhileStoreIsAway,
    /// Tells the other gateways of an answer that is not on record yet; they are to call [`GuardHandle::heard`].
    pub tell_early: TellEarly,
    /// Where such answers wait for their record.
    pub spool: Spool,
    /// Does this gateway look again at authorisations that are due? One of a cluster does.
    pub looks_again: IsMine,
}

/// What the guard's parts share.
struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    book: RwLock<Book>,
    rules: ActiveRules,
    spending: Mutex<SpendingLedger>,
    settling: Settling,
    step_ups: StepUps,
    incidents: Incidents,
    /// Postings being taken at once.
    postings: Arc<Semaphore>,
    counters: GuardCounters,
    decisions_feed: Recipient<DecisionMade>,
    alerts_feed: Recipient<AlertChanged>,
    /// Edits go one at a time, each from its check to its record.
    desk: tokio::sync::Mutex<()>,
    /// Imports whose bodies may be in memory at once.
    imports: Arc<Semaphore>,
    /// Messages of the payment network seen lately, with when.
    messages: Mutex<Recent<String, Timestamp>>,
    followed: Followed,
    looks_again: IsMine,
    /// Answers kept for repeats, this gateway's and the others'.
    decided: Mutex<Recent<Subject, Arc<Decided>>>,
    /// Decisions that memory counts: those that this gateway recorded, or tried to, and those that it followed.
    counted: Mutex<Recent<DecisionId, ()>>,
    while_store_is_away: WhileStoreIsAway,
    tell_early: TellEarly,
    spool: Spool,
    /// Answers that were given and wait for their record.
    early: Arc<Semaphore>,
    /// Declines for hard reasons of each card, and since when.
    declines: Mutex<Recent<CardId, (u32, Timestamp)>>,
    /// Hard declines within a day after which a card is suspended; 0 = never.
    suspend_after: u32,
}

/// Imports at once.
const MAX_IMPORTS: usize = 2;
/// Postings being taken at once; a network sends a thousand captures in a row when its batch is due.
const MAX_POSTINGS: usize = 256;
/// Message ids remembered: five minutes at 300 a second.
const MAX_MESSAGES: usize = 100_000;
/// Far more than are recorded while the follower is behind.
const MAX_COUNTED: usize = 100_000;
/// Answers that may wait for their record at once, some 10 kB each: an election of 8 s at 500 a second.
const MAX_EARLY: usize = 4_096;
/// Cards whose declines are counted at once.
const MAX_DECLINING: usize = 10_000;

/// What is read from the store at start.
#[derive(Default)]
struct Known {
    book: Book,
    settling: Settling,
    step_ups: StepUps,
    spending: SpendingLedger,
    decided: Vec<Decided>,
}

impl Shared {
    fn new(parts: Parts, rules: ActiveRules, known: Known) -> Arc<Self> {
        let Parts { store, clock, decisions_feed, alerts_feed, followed, looks_again, .. } = parts;
        let Parts { suspend_after_declines, while_store_is_away, tell_early, spool, .. } = parts;
        let Known { book, settling, step_ups, spending, decided } = known;
        let mut recent = Recent::new(authorise::MAX_DECIDED);
        for known in decided {
            recent.insert(Subject::of(&known), Arc::new(known));
        }
        Arc::new(Self {
            store,
            clock,
            book: RwLock::new(book),
            rules,
            spending: Mutex::new(spending),
            settling,
            step_ups,
            incidents: Incidents::default(),
            postings: Arc::new(Semaphore::new(MAX_POSTINGS)),
            counters: GuardCounters::default(),
            decisions_feed,
            alerts_feed,
            desk: tokio::sync::Mutex::new(()),
            imports: Arc::new(Semaphore::new(MAX_IMPORTS)),
            messages: Mutex::new(Recent::new(MAX_MESSAGES)),
            followed,
            looks_again,
            decided: Mutex::new(recent),
            counted: Mutex::new(Recent::new(MAX_COUNTED)),
            while_store_is_away,
            tell_early,
            spool,
            early: Arc::new(Semaphore::new(MAX_EARLY)),
            declines: Mutex::new(Recent::new(MAX_DECLINING)),
            suspend_after: suspend_after_declines,
        })
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
        let Parts { store, clock, alerts_feed, .. } = &parts;
        let now = clock.now();
        let (decided, spending) = authorise::load_decided(&**store, now)?;
        let book = Book::load(&**store)?;
        let settling = Settling::load(&**store)?;
        let step_ups = StepUps::load(&**store, now)?;
        let rules = rules_in_force(&**store, parts.rules.clone(), now)?;
        // Consoles that come after a restart find what is still open.
        for (alert, body) in book::open_alerts(&**store)? {
            alerts_feed.do_send(AlertChanged { id: alert.alert_id, open: true, body: body.into() });
        }
        let known = Known { book, settling, step_ups, spending, decided };
        let (deadline, ask_vehicle) = (parts.deadline, parts.ask_vehicle.clone());
        let shared = Shared::new(parts, rules, known);
        let (guard, left) = (shared.clone(), shared.take_left());
        let actor = CardGuard::start_in_arbiter(arbiter, move |context| {
            context.set_mailbox_capacity(authorise::MAX_IN_FLIGHT);
            let settler = Arc::new(Settler { shared: guard.clone(), ask_vehicle });
            let judge = Judge::new(settler.clone(), deadline);
            CardGuard::new(guard, judge, settler, left)
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
        let (book, text) = (built_in_rules().expect("the built-in rules"), BUILT_IN_RULES.to_owned());
        let rules = ActiveRules::new(book, file_version(text, clock.now()));
        let deadline = Duration::from_millis(300);
        let parts = Parts {
            store,
            clock,
            rules: BUILT_IN_RULES.to_owned(),
            suspend_after_declines: 0,
            ask_vehicle: Arc::new(|_| Box::pin(std::future::pending())),
            deadline,
            decisions_feed: nobody.clone().recipient(),
            alerts_feed: nobody.recipient(),
            followed: Followed::default(),
            looks_again: Arc::new(|| true),
            while_store_is_away: WhileStoreIsAway::default(),
            tell_early: Arc::new(|_| ()),
            spool: Spool::none(),
        };
        let shared = Shared::new(parts, rules, Known::default());
        Self { actor: Context::new().address(), deadline, shared }
    }

    /// The answer to a purchase, new or repeated. It is durable when this returns, or the store is away and the
    /// configuration says to answer what the checks say; then it is recorded afterwards.
    pub async fn authorise(&self, ask: Authorise) -> Result<Arc<Decided>, GuardError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        // The rest is for the way back.
        let answer_by = self.shared.clock.elapsed() + self.deadline * 9 / 10;
        match self.actor.try_send(Question { ask, answer_by, reply }) {
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

    /// Another gateway answered this and has not recorded it yet: the same question gets the same answer here.
    pub fn heard(&self, decided: Decided) {
        let (subject, mut known) = (Subject::of(&decided), self.shared.decided());
        if known.get(&subject).is_none() {
            known.insert(subject, Arc::new(decided));
        }
    }

    /// Takes what a network posts later. It is durable when this returns, and goes on if the caller goes away; the same
    /// posting again changes nothing.
    pub async fn post(&self, posting: Posting) -> Result<Posted, GuardError> {
        let Ok(turn) = self.shared.postings.clone().try_acquire_owned() else {
            self.shared.counters.postings_busy.inc();
            return Err(GuardError::Busy);
        };
        let (reply, answer) = tokio::sync::oneshot::channel();
        // Bounded by the turns, so it need not respect the mailbox, which is for questions.
        self.actor.do_send(Settle { posting, reply, turn });
        let taken = answer.await.unwrap_or(Err(GuardError::Unknown));
        match &taken {
            Ok(_) => self.shared.counters.postings.inc(),
            Err(_) => self.shared.counters.unrecorded.inc(),
        }
        taken
    }

    /// Records a message that was signed well and cannot be read, and tells people, once an hour and source.
    pub async fn unreadable(&self, message: Unreadable) -> Result<(), GuardError> {
        let shared = self.shared.clone();
        let done = tokio::spawn(async move { shared.unreadable(message).await }).await;
        done.unwrap_or(Err(GuardError::Unknown))
    }

    /// Notes an answer that was given without a judgement. Never waits; it is recorded as soon as the store takes it.
    pub fn fell_back(&self, fallback: FellBack) {
        self.shared.fell_back(fallback);
    }

    /// Purchases that wait for a word of whoever has the car, oldest first; of one renter, or of all.
    pub fn step_ups(&self, renter: Option<&str>) -> Vec<StepUp> {
        self.shared.step_ups.open(renter, self.shared.clock.now())
    }

    /// One of them, answered or not, while it is remembered.
    pub fn step_up(&self, id: DecisionId) -> Option<StepUp> {
        self.shared.step_ups.get(id)
    }

    pub fn rules(&self) -> Arc<RuleBook> {
        self.shared.rules()
    }

    /// The version in force, and why the operator's file is not, if it is not.
    pub fn rule_version(&self) -> (Arc<RuleVersion>, Option<String>) {
        (self.shared.rules.version(), self.shared.rules.file_problem())
    }

    /// Takes the operator's file again. A file that cannot be read, or is refused, changes nothing and is shown.
    /// False: worth another try, since only the store did not take it.
    pub async fn reload_rules(&self, text: Result<String, String>) -> bool {
        let text = match text {
            Ok(text) => text,
            Err(problem) => {
                self.shared.rules.set_file_problem(Some(problem));
                return true;
            }
        };
        let store = self.shared.store.clone();
        let known = tokio::task::spawn_blocking(move || ActiveRules::stored_file(&*store)).await;
        if matches!(known, Ok(Ok(Some(known))) if known == text) {
            self.shared.rules.set_file_problem(None);
            return true;
        }
        let edit = Edit::SetRules { text, origin: RuleOrigin::File };
        let error = self.edit(edit, Principal::gateway(), None).await.err();
        let is_settled = error.as_ref().is_none_or(|error| matches!(error, GuardError::Refused(_)));
        let problem = error.map(|error| error.to_string());
        if let Some(problem) = &problem {
            tracing::error!(problem, "the card rules stay as they are");
        }
        self.shared.rules.set_file_problem(problem);
        is_settled
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
            let (waiting, kept) = (shared.settling.len(), shared.incidents.len());
            let early = MAX_EARLY - shared.early.available_permits();
            readings.push(Reading::gauge(
                "card_early_waiting",
                "Answers given that wait for their record",
                early as f64,
            ));
            readings.push(Reading::gauge("card_settling", "Authorisations to be looked at again", waiting as f64));
            readings.push(Reading::gauge("card_fallbacks_waiting", "Answers that wait for their record", kept as f64));
            readings.push(Reading::gauge("stations", "Stations in the directory", stations as f64));
            readings
        });
    }
}

fn file_version(text: String, at: Timestamp) -> RuleVersion {
    let version = parse_rules(&text).map(|book| book.version).unwrap_or_default();
    RuleVersion { version, text, activated_at: at, by: Principal::gateway(), origin: RuleOrigin::File }
}

/// What was in force when the gateway ended; the file's where that is news.
fn rules_in_force(store: &dyn Store, file: String, now: Timestamp) -> Result<ActiveRules, ReadError> {
    let stored = ActiveRules::stored(store)?;
    let is_news = ActiveRules::stored_file(store)?.is_none_or(|known| known != file);
    match stored {
        Some((book, version)) if !is_news => Ok(ActiveRules::new(book, version)),
        // Recorded as a version by `GuardHandle::reload_rules`, which follows.
        Some(_) | None => {
            let book = parse_rules(&file).map_err(ReadError::Damaged)?;
            Ok(ActiveRules::new(book, file_version(file, now)))
        }
    }
}

impl Shared {
    fn rules(&self) -> Arc<RuleBook> {
        self.rules.book()
    }

    fn decided(&self) -> MutexGuard<'_, Recent<Subject, Arc<Decided>>> {
        // Each change is one insertion: whole, whatever panicked.
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> MutexGuard<'_, Recent<DecisionId, ()>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spending(&self) -> MutexGuard<'_, SpendingLedger> {
        // A change that panicked half-way left one card's list, whole or without an entry: a purchase counted or not.
        self.spending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is looked at again when it says so.
    fn watch(&self, watched: &Reconciliation) {
        if !self.settling.note(&watched.key, watched.review_at) {
            self.counters.settling_full.inc();
        }
    }

    fn book(&self) -> RwLockReadGuard<'_, Book> {
        // A writer that panicked left either the old or the new entry: both are whole.
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn book_mut(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_alert(&self, alert: &Alert, body: Box<RawValue>) {
        // In a cluster consoles hear of every gateway's alerts from the follower, of this one's too.
        if !self.followed.is_alone() {
            return;
        }
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
