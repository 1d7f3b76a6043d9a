//! What comes after the answer: postings of the network, late reports of the car, and what they mean for the alert.
//!
//! One look at one authorisation at a time, from what is known to its record; different ones go side by side. Nothing
//! here is on the way of an answer to a network's question.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::desk::{self, Edit, off_thread, parse};
use super::station_desk::StationLesson;
use super::{AskVehicle, Decided, GuardError, Shared, raw};
use crate::actors::rows::SignalRow;
use crate::actors::vehicle::AskError;
use crate::domain::card::{
    AboutCar, AboutPayment, Alert, AlertKind, AuthorizationId, Captured, CarAround, Card, Decision, Fill, Finding,
    NetworkRef, Posting, PostingKind, Prompts, Purchase, Reconciliation, ReconciliationState, ReviewVerdict, Taken,
    review,
};
use crate::domain::twin::SignalValue;
use crate::domain::{AlertId, DecisionId, Principal, RefusalKind, Role, Timestamp};
use crate::store::{
    Append, AppendError, Expected, Idempotency, NewRow, Observation, Order, ReadError, Store, Table, ViewChange,
};

/// Authorisations that wait for another look at once, some 2 kB each.
const MAX_OPEN: usize = 100_000;
/// Looks in one sweep; the rest has its turn in the next.
const MAX_A_SWEEP: usize = 256;
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// For the vehicle's own record.
const VEHICLE_WITHIN: Duration = Duration::from_secs(2);
/// How far around a purchase the car's track is looked at.
const TRACK_BEFORE_MS: i64 = 12 * 3_600_000;
const TRACK_AFTER_MS: i64 = 36 * 3_600_000;
const TRACK_POINTS: usize = 20_000;
/// When a car that cannot be asked now is asked again.
const ASK_AGAIN_MS: i64 = 60_000;
/// A fix this near the purchase in time, and this exact, says where the station is.
const LEARN_WITHIN_MS: i64 = 120_000;
const LEARN_WITHIN_M: f64 = 100.0;
/// Locks for authorisations; two that share one only wait for each other.
const TURNS: usize = 64;
/// How often a change begins anew because other gateways write the same card's history.
const MAX_TRIES: u32 = 8;

/// A row by its authorisation, and a row that says that it is to be looked at again.
fn row_key(key: &str) -> String {
    format!("at/{key}")
}

/// The row of an authorisation's reconciliation.
pub fn reconciliation_row(source: &str, authorization_id: &str) -> String {
    row_key(&format!("{source}/{authorization_id}"))
}

pub(super) const OPEN: &str = "open/";

/// What became of a posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    /// It was taken before; nothing changed.
    pub is_repeat: bool,
}

/// What waits for another look, and whose turn it is.
pub struct Settling {
    open: Mutex<HashMap<String, Timestamp>>,
    turns: Vec<tokio::sync::Mutex<()>>,
    hash: RandomState,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum SettlingEvent<'a> {
    PaymentPosted { posting: &'a Posting },
    PaymentReviewed { reconciliation: &'a RawValue },
    AlertOpened { alert: &'a RawValue },
    AlertConfirmed { alert: &'a RawValue },
    AlertWithdrawn { alert: &'a RawValue },
}

impl Default for Settling {
    fn default() -> Self {
        let turns = (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect();
        Self { open: Mutex::default(), turns, hash: RandomState::new() }
    }
}

impl Settling {
    /// Reads what is still open (blocks).
    pub fn load(store: &dyn Store) -> Result<Self, ReadError> {
        let mut open = HashMap::new();
        let mut after: Option<String> = None;
        while open.len() < MAX_OPEN {
            let page = store.scan(Table::Reconciliations, OPEN, after.as_deref(), 1_000, Order::Ascending)?;
            for (key, row) in &page.rows {
                let at: Timestamp = serde_json::from_str(row.get())
                    .map_err(|error| ReadError::Damaged(format!("reconciliation {key}: {error}")))?;
                open.insert(key[OPEN.len()..].to_owned(), at);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(Self { open: Mutex::new(open), ..Self::default() })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        // Each change is one insertion or removal: whole, whatever panicked.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.open().len()
    }

    fn turn(&self, key: &str) -> &tokio::sync::Mutex<()> {
        &self.turns[(self.hash.hash_one(key) % TURNS as u64) as usize]
    }

    /// False: there was no room, and it is looked at again only after the next start.
    pub fn note(&self, key: &str, review_at: Option<Timestamp>) -> bool {
        let mut open = self.open();
        match review_at {
            Some(at) if open.len() < MAX_OPEN || open.contains_key(key) => {
                open.insert(key.to_owned(), at);
                true
            }
            Some(_) => false,
            None => {
                open.remove(key);
                true
            }
        }
    }

    pub fn is_open(&self, key: &str) -> bool {
        self.open().contains_key(key)
    }

    /// Those that wait longest first, so that none is passed over.
    fn due(&self, now: Timestamp) -> Vec<String> {
        let mut due: Vec<(Timestamp, String)> = {
            let open = self.open();
            open.iter().filter(|(_, at)| **at <= now).map(|(key, at)| (*at, key.clone())).collect()
        };
        due.sort_unstable();
        due.into_iter().take(MAX_A_SWEEP).map(|(_, key)| key).collect()
    }
}

/// The rows of a reconciliation: itself, and whether it is to be looked at again.
pub(super) fn rows(of: &Reconciliation, itself: NewRow) -> Result<Vec<ViewChange>, GuardError> {
    let put = |key: String, row| ViewChange { table: Table::Reconciliations, key, row };
    let again = of.review_at.map(|at| raw(&at)).transpose()?;
    Ok(vec![put(row_key(&of.key), itself), put(format!("{OPEN}{}", of.key), again.into())])
}

/// What became of an authorisation (blocks); `None` = nothing yet.
pub fn stored(store: &dyn Store, key: &str) -> Result<Option<Reconciliation>, ReadError> {
    reconciliation(key, store.get(Table::Reconciliations, &row_key(key))?)
}

/// The same as far as it is known here, for a start, which nobody was told anything by.
pub(super) fn stored_here(store: &dyn Store, key: &str) -> Result<Option<Reconciliation>, ReadError> {
    reconciliation(key, store.get_here(Table::Reconciliations, &row_key(key))?)
}

fn reconciliation(key: &str, row: Option<Box<RawValue>>) -> Result<Option<Reconciliation>, ReadError> {
    let damaged = |error| ReadError::Damaged(format!("reconciliation {key}: {error}"));
    row.map(|row| serde_json::from_str(row.get()).map_err(damaged)).transpose()
}

/// Looks after authorisations once they are answered.
pub(super) struct Settler {
    pub shared: Arc<Shared>,
    pub ask_vehicle: AskVehicle,
}

impl Settler {
    /// Takes a posting. Durable when this returns; the same again changes nothing.
    pub async fn post(&self, posting: Posting) -> Result<Posted, GuardError> {
        let key = match &posting.authorization_id {
            Some(id) => format!("{}/{id}", posting.source),
            None => format!("{}/posting/{}", posting.source, posting.posting_id),
        };
        let _turn = self.shared.settling.turn(&key).lock().await;
        for _ in 0..MAX_TRIES {
            if let Some(posted) = self.post_once(&key, &posting).await? {
                return Ok(posted);
            }
        }
        Err(GuardError::Storage("other gateways write the same record"))
    }

    /// `None` = another gateway wrote the card's history meanwhile.
    async fn post_once(&self, key: &str, posting: &Posting) -> Result<Option<Posted>, GuardError> {
        let now = self.shared.clock.now();
        let unasked = || self.unasked(key.to_owned(), posting, now);
        let (mut found, expected) = match self.find_to_change(key).await? {
            Some(found) => found,
            None => {
                let unasked = unasked();
                let expected = self.shared.followed.expected(&stream(&unasked)).await?;
                // It may have been put there before that.
                let found = if self.shared.followed.is_alone() { None } else { self.find(key).await? };
                (found.unwrap_or(unasked), expected)
            }
        };
        let mut posting_key = format!("{}/posting/{}", posting.source, posting.posting_id);
        match found.take(posting, now) {
            Taken::New => {}
            Taken::Completed => posting_key.push_str("/fill"),
            Taken::Repeat => {
                // It may be that nobody here knows how the first time ended.
                self.shared.watch(&found);
                self.shared.counters.repeated_postings.inc();
                return Ok(Some(Posted { is_repeat: true }));
            }
            Taken::TooMany => self.shared.counters.postings_not_kept.inc(),
        }
        let finding = self.look(&mut found, now).await;
        let is_recorded = self.record(found, finding, Cause::Posting(posting, posting_key), now, expected).await?;
        Ok(is_recorded.then_some(Posted { is_repeat: false }))
    }

    /// More was approved by this decision: so much more may be captured. Once, however often it is told.
    pub async fn allow_more(&self, key: &str, by: DecisionId, granted_minor: i64) -> Result<(), GuardError> {
        let _turn = self.shared.settling.turn(key).lock().await;
        let once = format!("{key}/allowed/{by}");
        for _ in 0..MAX_TRIES {
            let Some((mut found, expected)) = self.find_to_change(key).await? else { return Ok(()) };
            found.allow_more(granted_minor);
            let now = self.shared.clock.now();
            if self.record(found, Finding::Nothing, Cause::Once(once.clone()), now, expected).await? {
                return Ok(());
            }
        }
        Err(GuardError::Storage("other gateways write the same record"))
    }

    /// Looks again at what is due.
    pub async fn sweep(&self) {
        let now = self.shared.clock.now();
        for key in self.shared.settling.due(now) {
            let _turn = self.shared.settling.turn(&key).lock().await;
            if let Err(error) = self.look_again(&key, now).await {
                tracing::warn!(authorisation = key, %error, "a purchase could not be looked at again; it will be");
                // Not at each sweep while the store or the vehicle does not answer.
                self.shared.settling.note(&key, Some(now.plus_ms(60_000)));
            }
        }
    }

    async fn look_again(&self, key: &str, now: Timestamp) -> Result<(), GuardError> {
        let Some((mut found, expected)) = self.find_to_change(key).await? else {
            self.shared.settling.note(key, None);
            return Ok(());
        };
        if found.review_at.is_none_or(|at| at > now) {
            self.shared.settling.note(key, found.review_at);
            return Ok(());
        }
        if found.decision_id.is_none()
            && let Some(decision) = self.decision(key).await?
        {
            found.link(&decision);
        }
        let before = found.clone();
        let finding = self.look(&mut found, now).await;
        let is_news = finding != Finding::Nothing || found.state != before.state || found.review_at.is_none();
        if is_news {
            // Where another gateway was first, its record says when to look again.
            return self.record(found, finding, Cause::Review, now, expected).await.map(drop);
        }
        // Nothing new: not worth a record, and after a restart it is simply looked at once more.
        self.shared.settling.note(key, found.review_at);
        Ok(())
    }

    /// What is known of the authorisation: its record, or the decision that begins one.
    async fn find(&self, key: &str) -> Result<Option<Reconciliation>, GuardError> {
        let (store, of) = (self.shared.store.clone(), key.to_owned());
        match off_thread(move || stored(&*store, &of)).await?? {
            Some(known) => Ok(Some(known)),
            None => Ok(self.decision(key).await?.as_ref().and_then(Reconciliation::of_decision)),
        }
    }

    /// The same, with what the card's history must end with for a record that changes it: what another gateway records of
    /// it meanwhile is not written over.
    async fn find_to_change(&self, key: &str) -> Result<Option<(Reconciliation, Expected)>, GuardError> {
        let Some(found) = self.find(key).await? else { return Ok(None) };
        let expected = self.shared.followed.expected(&stream(&found)).await?;
        if self.shared.followed.is_alone() {
            return Ok(Some((found, expected)));
        }
        Ok(self.find(key).await?.map(|found| (found, expected)))
    }

    async fn decision(&self, key: &str) -> Result<Option<Decision>, GuardError> {
        let Some((source, id)) = key.split_once('/') else { return Ok(None) };
        let (store, asked) = (self.shared.store.clone(), format!("{source}/authorization/{id}"));
        let answered = off_thread(move || store.answered(&asked)).await??;
        let Some((_, answer)) = answered else { return Ok(None) };
        let decided: Decided = parse(&answer)?;
        let store = self.shared.store.clone();
        let row = off_thread(move || store.get(Table::Decisions, &decided.decision_id.to_string())).await??;
        row.map(|row| parse(&row)).transpose()
    }

    fn unasked(&self, key: String, posting: &Posting, now: Timestamp) -> Reconciliation {
        let book = self.shared.book();
        let station = book.look_up(&posting.merchant);
        let card = posting.card_ref.as_ref().and_then(|card| book.card_by_ref(card));
        let id = posting.authorization_id.clone().map(Ok).unwrap_or_else(|| posting.posting_id.parse());
        let purchase = Purchase {
            // The network named none, and its own name of the posting may have a form that is none of ours.
            authorization_id: id.unwrap_or_else(|_| unnamed()),
            source: posting.source.clone(),
            card_ref: posting.card_ref.clone().unwrap_or_else(unknown_card),
            // A network's clock ahead of ours proves nothing.
            at: posting.at.min(now),
            amount: posting.amount.clone(),
            partial_allowed: false,
            merchant: posting.merchant.clone(),
            fill: Fill::default(),
            prompts: Prompts::default(),
        };
        let mut unasked = Reconciliation::unasked(key, posting, purchase, station, now);
        unasked.card_id = card.as_ref().map(|card| card.card_id.clone());
        unasked.vehicle_id = card.as_deref().and_then(|card: &Card| card.vehicle_id.clone());
        unasked
    }

    /// Compares what was taken with what the car shows. One that waits for its question is left alone until then, and so
    /// is one whose car cannot be asked now.
    async fn look(&self, found: &mut Reconciliation, now: Timestamp) -> Finding {
        if found.review_at.is_none_or(|at| at > now) {
            return Finding::Nothing;
        }
        let (car, class) = match self.car_around(found, now).await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(authorisation = found.key, %error, "the car around a purchase cannot be read now");
                found.review_at = Some(now.plus_ms(ASK_AGAIN_MS));
                return Finding::Nothing;
            }
        };
        let rules = self.shared.rules();
        let rules = rules.for_class(class.as_deref());
        let Purchase { card_ref, source, authorization_id, .. } = &found.purchase;
        let beside = self.shared.spending().fuelled_beside(card_ref, source, authorization_id);
        let captured = Captured { beside, ..found.captured() };
        let compared = review(now, &found.purchase, &captured, car.as_ref(), &found.station, rules);
        let is_borne_out =
            compared.verdict == ReviewVerdict::Confirmed && found.state != ReconciliationState::Confirmed;
        let finding = found.reviewed(now, compared);
        if is_borne_out && let Some(car) = &car {
            self.learn(found, car);
        }
        finding
    }

    /// A fill that the car bears out teaches where the station is, as far as the directory does not know.
    fn learn(&self, found: &Reconciliation, car: &CarAround) {
        let (Some(fix), Some(decision_id)) = (car.fix, found.decision_id) else { return };
        let is_near = fix.at.since_ms(found.purchase.at).abs() <= LEARN_WITHIN_MS;
        if !is_near || fix.accuracy_m.is_some_and(|metres| metres > LEARN_WITHIN_M) {
            return;
        }
        let lesson = StationLesson {
            merchant: found.purchase.merchant.clone(),
            position: fix.position,
            vehicle_id: car.vehicle_id.clone(),
            decision_id,
        };
        let shared = self.shared.clone();
        // In its own time: an import may hold the desk.
        actix::spawn(async move {
            if let Err(error) = desk::edit(shared, Edit::LearnStation(lesson), Principal::gateway(), None).await {
                tracing::debug!(%error, "a purchase taught no place");
            }
        });
    }

    /// The car around the purchase, from its own record and its track, and its class; `None` when there is no such car.
    async fn car_around(
        &self,
        found: &Reconciliation,
        now: Timestamp,
    ) -> Result<(Option<CarAround>, Option<String>), GuardError> {
        let Some(vehicle) = found.vehicle_id.clone() else { return Ok((None, None)) };
        let asked = tokio::time::timeout(VEHICLE_WITHIN, (self.ask_vehicle)(vehicle.clone())).await;
        let snapshot = match asked {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(AskError::Refused(refusal))) if refusal.kind == RefusalKind::NotFound => return Ok((None, None)),
            Ok(Err(_)) | Err(_) => return Err(GuardError::Storage("the vehicle does not answer")),
        };
        let details = &snapshot.vehicle.details;
        let about = AboutCar {
            vehicle_id: snapshot.vehicle.vehicle_id.clone(),
            tank_litres: snapshot.vehicle.tank_litres(),
            fuel_type: details.fuel_type.clone(),
            previous_at: found.previous_at,
            is_final: found.is_final_at(now),
        };
        let (store, at) = (self.shared.store.clone(), found.purchase.at);
        let (from, until) = (at.plus_ms(-TRACK_BEFORE_MS), now.min(at.plus_ms(TRACK_AFTER_MS)));
        // Reading a day of reports takes longer than an answer may: not on the guard's thread.
        let car = off_thread(move || {
            let points = store.observations(&vehicle, from, until, TRACK_POINTS)?;
            Ok::<_, ReadError>(CarAround::from_track(about, at, points.iter().flat_map(track_points)))
        });
        Ok((Some(car.await??), details.class.clone()))
    }

    /// Makes it durable, with what it means for the alert, and then tells. False: nothing happened, since another gateway
    /// wrote the card's history meanwhile; memory knows it now.
    async fn record(
        &self,
        mut found: Reconciliation,
        finding: Finding,
        cause: Cause<'_>,
        now: Timestamp,
        expected: Expected,
    ) -> Result<bool, GuardError> {
        let shared = &self.shared;
        let (posting, once) = match cause {
            Cause::Posting(posting, key) => (Some(posting), Some(key)),
            Cause::Once(key) => (None, Some(key)),
            Cause::Review => (None, None),
        };
        // An operator may be changing the same alert: one after the other.
        let _desk = match finding {
            Finding::Confirm(_) | Finding::Withdraw(_) => Some(shared.desk.lock().await),
            Finding::Nothing | Finding::Raise(..) => None,
        };
        let alert = self.alert(&mut found, finding, now).await?;
        let (body, mut events, mut view) = (raw(&found)?, Vec::new(), Vec::new());
        if let Some(posting) = posting {
            events.push(raw(&SettlingEvent::PaymentPosted { posting })?);
        }
        let itself = NewRow::OfEvent { event: events.len() as u32, member: "reconciliation" };
        events.push(raw(&SettlingEvent::PaymentReviewed { reconciliation: &body })?);
        view.extend(rows(&found, itself)?);
        let mut told = None;
        if let Some((alert, is_new)) = alert {
            let body = raw(&alert)?;
            events.push(match (is_new, alert.is_open()) {
                (true, _) => raw(&SettlingEvent::AlertOpened { alert: &body })?,
                (false, true) => raw(&SettlingEvent::AlertConfirmed { alert: &body })?,
                (false, false) => raw(&SettlingEvent::AlertWithdrawn { alert: &body })?,
            });
            let row = body.clone().into();
            view.push(ViewChange { table: Table::Alerts, key: alert.alert_id.to_string(), row });
            told = Some((alert, body, is_new));
        }
        let step = Append {
            stream: stream(&found),
            expected,
            fence: None,
            at: now,
            by: match posting {
                Some(posting) => Principal::new(Role::Payment, posting.source.clone()),
                None => Principal::gateway(),
            },
            idempotency: once.map(idempotency).transpose()?,
            events,
            view,
        };
        let at = match shared.store.append(step).await {
            Ok(at) => at,
            // Kept no more in its list, but taken before.
            Err(AppendError::Duplicate { .. }) => return Ok(true),
            Err(AppendError::Conflict { actual }) if shared.followed.caught_up(actual).await => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !shared.followed.has(at).await {
            shared.watch(&found);
            self.count(&found, posting);
        }
        if let Some((alert, body, is_new)) = told {
            if is_new {
                shared.counters.alerts_opened.inc();
            }
            shared.tell_alert(&alert, body);
        }
        Ok(true)
    }

    /// The alert as it is to be stored, and whether it is a new one.
    async fn alert(
        &self,
        found: &mut Reconciliation,
        finding: Finding,
        now: Timestamp,
    ) -> Result<Option<(Alert, bool)>, GuardError> {
        let changed = match finding {
            Finding::Nothing => return Ok(None),
            Finding::Raise(kind, text) => return Ok(Some((self.raise(found, kind, &text, now), true))),
            Finding::Confirm(note) => self.known_alert(found).await?.and_then(|alert| alert.confirm(now, note)),
            Finding::Withdraw(note) => self.known_alert(found).await?.and_then(|alert| alert.withdraw(now, note)),
        };
        Ok(changed.map(|alert| (alert, false)))
    }

    async fn known_alert(&self, found: &Reconciliation) -> Result<Option<Alert>, GuardError> {
        let Some(id) = found.alert_id else { return Ok(None) };
        let store = self.shared.store.clone();
        let row = off_thread(move || store.get(Table::Alerts, &id.to_string())).await??;
        row.map(|row| parse(&row)).transpose()
    }

    fn raise(&self, found: &mut Reconciliation, kind: AlertKind, text: &str, now: Timestamp) -> Alert {
        let id = AlertId(self.shared.clock.new_id());
        found.alert_id = Some(id);
        let about = AboutPayment {
            vehicle_id: found.vehicle_id.clone(),
            card_id: found.card_id.clone(),
            decision_id: found.decision_id,
        };
        let text = Alert::text_of_payment(&about, &found.purchase, found.station.station_id(), text);
        Alert::for_payment(id, kind, about, text, now)
    }

    /// What was really bought counts from now on.
    fn count(&self, found: &Reconciliation, posting: Option<&Posting>) {
        let Some(posting) = posting else { return };
        let (card, source, id) = (&found.purchase.card_ref, &found.purchase.source, &found.purchase.authorization_id);
        let mut spending = self.shared.spending();
        if found.is_given_back() {
            spending.forget(card, source, id);
        } else if posting.kind == PostingKind::Capture && found.card_id.is_some() {
            // It is not there when a reversal came first, or when we were not asked.
            spending.ask(&found.purchase, &found.station);
            if found.taken_currency().eq_ignore_ascii_case(&found.purchase.amount.currency) {
                spending.correct(card, source, id, found.taken_minor());
            }
            spending.note_fuelled(card, source, id, &found.fuelled());
        }
    }
}

/// Each signal of an observation, at its own time.
fn track_points(point: &Observation) -> Vec<(Timestamp, Vec<(String, SignalValue)>)> {
    let signals: BTreeMap<String, SignalRow> = serde_json::from_str(point.signals.get()).unwrap_or_default();
    signals.into_iter().map(|(path, SignalRow { value, at })| (at, vec![(path, value)])).collect()
}

/// What leads to a record, with the key by which it leads to one only.
enum Cause<'a> {
    Posting(&'a Posting, String),
    Once(String),
    Review,
}

fn idempotency(key: String) -> Result<Idempotency, GuardError> {
    Ok(Idempotency { key, body: "posting".into(), answer: raw(&())? })
}

/// With the card's other records, so that one history tells all of it.
fn stream(found: &Reconciliation) -> String {
    match &found.card_id {
        Some(card) => format!("card/{card}"),
        None => format!("card/unknown/{}", found.purchase.card_ref),
    }
}

/// For what the network names nothing; only shown.
fn unnamed() -> AuthorizationId {
    // Letters only, and shorter than an id may be.
    "unnamed".parse().expect("is an id")
}

fn unknown_card() -> NetworkRef {
    // Letters only, and shorter than a reference may be.
    "unknown".parse().expect("is a reference")
}
