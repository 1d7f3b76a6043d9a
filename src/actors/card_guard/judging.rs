//! One question from its facts to its record: look up, judge, append, tell. Run as a task of its own by the guard.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::desk;
use super::settle::{self, Settler};
use super::{AskVehicle, Authorise, Decided, GuardError, Shared, raw};
use crate::actors::feed::DecisionMade;
use crate::actors::vehicle::AskError;
use crate::clock::Clock;
use crate::config::WhileStoreIsAway;
use crate::domain::card::{
    Alert, Card, Decision, Inputs, Outcome, Purchase, Reconciliation, RuleBook, Settlement, Spending, StepUp,
    VehicleFacts, VehicleLookup, judge,
};
use crate::domain::rental::RentalState;
use crate::domain::vehicle::Vehicle;
use crate::domain::{AlertId, DecisionId, Principal, RefusalKind, RentalId, Role, Timestamp, VehicleId};
use crate::store::{Append, AppendError, Expected, Idempotency, NewRow, Table, ViewChange};

/// The reason of a ruling that a renter's word brought about.
const CONFIRMED: &str = "confirmed_by_holder";

/// What a question's task needs.
pub(super) struct Judge {
    pub(super) shared: Arc<Shared>,
    ask_vehicle: AskVehicle,
    /// For the vehicles' answers; the rest of the deadline is for the record.
    vehicles_within: Duration,
    /// The last part of that rest, for the spool, where the store does not answer.
    spool_within: Duration,
    settler: Arc<Settler>,
}

/// Who has the car now: the one to be asked for a word.
#[derive(Clone)]
struct InUseBy {
    vehicle_id: VehicleId,
    rental_id: RentalId,
    renter: String,
}

impl InUseBy {
    fn now(vehicle: &Vehicle) -> Option<Self> {
        let running = vehicle.rentals.iter().find(|rental| rental.state == RentalState::Active)?;
        let (vehicle_id, renter) = (vehicle.vehicle_id.clone(), running.renter.clone());
        Some(Self { vehicle_id, rental_id: running.rental_id, renter })
    }
}

impl Judge {
    pub fn new(settler: Arc<Settler>, deadline: Duration) -> Self {
        let (shared, ask_vehicle) = (settler.shared.clone(), settler.ask_vehicle.clone());
        Self { shared, ask_vehicle, vehicles_within: deadline / 2, spool_within: deadline / 3, settler }
    }

    /// `first` is the approval that an increment adds to, as far as it is remembered.
    /// `answer_by`: by the clock's elapsed time.
    pub async fn answer(
        self: &Arc<Self>,
        ask: Authorise,
        first: Option<Arc<Decided>>,
        answer_by: Duration,
    ) -> Result<Arc<Decided>, GuardError> {
        let is_first = first.is_none();
        let answered = self.answer_once(ask.clone(), first, answer_by).await?;
        match is_first && answered.is_exceeded_by(&ask) {
            // The store remembers an approval that nobody here does.
            true => self.answer_once(ask, Some(answered), answer_by).await,
            false => Ok(answered),
        }
    }

    /// Looks up, judges, records. The record carries the authorisation's id as its idempotency key, so that even a
    /// repeat that nobody here remembers gets the first answer.
    async fn answer_once(
        self: &Arc<Self>,
        ask: Authorise,
        first: Option<Arc<Decided>>,
        answer_by: Duration,
    ) -> Result<Arc<Decided>, GuardError> {
        let now = self.shared.clock.now();
        let rules = self.shared.rules();
        let (card, station) = {
            let book = self.shared.book();
            (book.card_by_ref(&ask.purchase.card_ref), book.look_up(&ask.purchase.merchant))
        };
        // Before anything is waited for: two purchases at once see each other.
        let spending = match &card {
            Some(_) => self.shared.spending().ask(&ask.purchase, &station),
            None => Spending::default(),
        };
        let both_count_ms = rules.fleet.binding.both_count_ms();
        let ids = card.as_ref().map_or_else(Vec::new, |card| card.vehicles(ask.purchase.at.min(now), both_count_ms));
        let found = self.look_up(ids).await;
        let renter = found.iter().find_map(|(_, renter)| renter.clone());
        let confirmed = self.shared.step_ups.claim(&ask.purchase);
        let inputs = Inputs {
            card: card.map(|card| Card::clone(&card)),
            vehicles: found.into_iter().map(|(lookup, _)| lookup).collect(),
            station,
            spending,
            confirmed_at: confirmed.as_ref().map(|(_, at)| *at),
        };
        let already_minor = ask.already_minor;
        let decision = self.decide(ask, first.as_deref(), inputs, &rules);
        let word = confirmed.map(|(asked, _)| asked);
        let is_needed = decision.ruling.reasons.iter().any(|reason| reason == CONFIRMED);
        let used = word.clone().filter(|_| is_needed);
        let step_up = step_up(&decision, renter, used);
        let judged = self.judged(decision, step_up, already_minor);
        let recorded = self.record(judged, answer_by).await;
        if let Some(word) = word.filter(|_| !is_needed || recorded.is_err()) {
            self.shared.step_ups.release(word.decision_id);
        }
        recorded.map(Arc::new)
    }

    fn decide(&self, ask: Authorise, first: Option<&Decided>, inputs: Inputs, rules: &RuleBook) -> Decision {
        let clock = &self.shared.clock;
        let now = clock.now();
        let mut ruling = judge(now, &ask.purchase, &inputs, rules.for_class(inputs.vehicle_class()));
        // Also when nobody here approved what the network holds: it may have done so by itself.
        if ask.already_minor > 0 {
            ruling.count_in(ask.already_minor, first.and_then(|first| first.cap_minor), &ask.purchase);
        }
        let (asked, follows) = (ask.purchase.at, first.map(|first| first.decision_id));
        let mut decision = Decision {
            decision_id: DecisionId(self.shared.id_of(
                now,
                asked,
                &question(&ask.purchase, follows.as_ref(), &ask.source_event),
            )),
            at: now,
            purchase: ask.purchase,
            card_id: inputs.card.as_ref().map(|card| card.card_id.clone()),
            vehicle_id: inputs.card.as_ref().and_then(|card| card.vehicle_id.clone()),
            station_id: inputs.station.station_id().cloned(),
            ruling,
            alert_id: None,
            source_event: ask.source_event,
            body_sha256: ask.body_sha256,
            follows,
            answered_before_durable_at: None,
            inputs: Some(Box::new(inputs)),
        };
        let alert_id = AlertId(self.shared.id_of(now, asked, &format!("alert/{}", decision.decision_id)));
        decision.alert_id = Alert::for_decision(alert_id, &decision).map(|alert| alert.alert_id);
        decision
    }

    /// Asks for each vehicle; those that do not answer in time are `Late`.
    async fn look_up(&self, ids: Vec<VehicleId>) -> Vec<(VehicleLookup, Option<InUseBy>)> {
        let mut found = Vec::with_capacity(ids.len());
        let all = async {
            for id in &ids {
                found.push(self.look_up_one(id).await);
            }
        };
        // The time-out is the fallback policy's case, and shows as `Late` below.
        let _ = tokio::time::timeout(self.vehicles_within, all).await;
        let unanswered: Vec<_> = ids.into_iter().skip(found.len()).map(|id| (VehicleLookup::Late(id), None)).collect();
        found.extend(unanswered);
        let late = found.iter().filter(|(lookup, _)| matches!(lookup, VehicleLookup::Late(_))).count();
        self.shared.counters.late_vehicles.add(late as u64);
        found
    }

    async fn look_up_one(&self, id: &VehicleId) -> (VehicleLookup, Option<InUseBy>) {
        match (self.ask_vehicle)(id.clone()).await {
            Ok(snapshot) if snapshot.vehicle.registered.is_none() => (VehicleLookup::NotRegistered(id.clone()), None),
            Ok(snapshot) => {
                let facts = VehicleFacts::of(&snapshot.vehicle, &snapshot.twin);
                (VehicleLookup::Known(facts), InUseBy::now(&snapshot.vehicle))
            }
            Err(AskError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {
                (VehicleLookup::NotRegistered(id.clone()), None)
            }
            Err(error) => {
                tracing::warn!(vehicle = %id, %error, "a vehicle could not be asked about a purchase");
                (VehicleLookup::Late(id.clone()), None)
            }
        }
    }

    fn judged(&self, decision: Decision, step_up: Option<StepUp>, already_minor: i64) -> Judged {
        let alert = decision.alert_id.and_then(|id| Alert::for_decision(id, &decision));
        let decided = Decided::from(&decision);
        // One that a posting overtook is linked to its decision when it is looked at.
        let is_open = |watched: &Reconciliation| self.shared.settling.is_open(&watched.key);
        let watched = Reconciliation::watching(&decision).filter(|watched| !is_open(watched));
        Judged { decision, decided, alert, watched, step_up, already_minor }
    }

    /// Makes the decision durable with all that begins with it, then tells. Returns what is on record, which may be an
    /// earlier answer; or, where the store is away, what will be.
    async fn record(self: &Arc<Self>, mut judged: Judged, answer_by: Duration) -> Result<Decided, GuardError> {
        let shared = &self.shared;
        let (step, told) = judged.to_append()?;
        shared.counted().insert(judged.decision.decision_id, ());
        let mut appending = shared.store.append(step);
        let outcome = match shared.while_store_is_away {
            WhileStoreIsAway::Fallback => appending.await,
            WhileStoreIsAway::Decide => {
                let left = || answer_by.saturating_sub(shared.clock.elapsed());
                match tokio::time::timeout(left().saturating_sub(self.spool_within), &mut appending).await {
                    Ok(outcome) => outcome,
                    Err(_) => match shared.promise(&mut judged, left()).await {
                        Some(kept) => match (&mut appending).now_or_never() {
                            // The store was just in time, perhaps with another gateway's answer.
                            Some(outcome) => {
                                kept.settle();
                                outcome
                            }
                            None => return Ok(self.answer_early(judged, appending, kept)),
                        },
                        None => appending.await,
                    },
                }
            }
        };
        match outcome {
            Ok(_) => {}
            Err(AppendError::Duplicate { answer }) => {
                shared.counters.repeats.inc();
                let recorded: Decided = desk::parse(&answer)?;
                self.settle_spending(&judged.decision.purchase, &recorded, judged.already_minor);
                return Ok(recorded);
            }
            Err(error) => {
                let Purchase { card_ref, source, authorization_id, .. } = &judged.decision.purchase;
                tracing::warn!(authorization = %authorization_id, %error, "a decision was not recorded");
                // Whether it was recorded or not, nobody hears "yes" to it; what was approved before stays bought.
                if judged.decision.follows.is_none() {
                    shared.spending().forget(card_ref, source, authorization_id);
                }
                return Err(error.into());
            }
        }
        self.settle_spending(&judged.decision.purchase, &judged.decided, judged.already_minor);
        let decided = judged.decided.clone();
        self.recorded(judged, told);
        Ok(decided)
    }

    /// What follows once it is durable.
    pub(super) fn recorded(&self, judged: Judged, told: Told) {
        let shared = &self.shared;
        let Judged { decision, decided, alert, watched, step_up, .. } = judged;
        shared.counters.decided(decided.outcome);
        self.allow_more(&decision);
        shared.decisions_feed.do_send(DecisionMade(told.decision.into()));
        if let (Some(alert), Some(body)) = (alert, told.alert) {
            shared.counters.alerts_opened.inc();
            shared.tell_alert(&alert, body);
        }
        if let Some(watched) = watched {
            shared.watch(&watched);
        }
        if let Some(step_up) = step_up
            && !shared.step_ups.merge(step_up, decision.at)
        {
            shared.counters.step_ups_full.inc();
        }
        shared.count_decline(&decision);
    }

    /// What was asked counts as bought from now on, or not.
    pub(super) fn settle_spending(&self, purchase: &Purchase, decided: &Decided, already_minor: i64) {
        let Purchase { card_ref, source, authorization_id, amount, .. } = purchase;
        let mut spending = self.shared.spending();
        match decided.settlement {
            Settlement::Disabled if decided.follows.is_none() => spending.forget(card_ref, source, authorization_id),
            Settlement::Disabled => {}
            Settlement::Enabled => {
                // A repeat may name more than was judged; no more than that was approved.
                let bounds = [decided.cap_minor, decided.asked_minor].into_iter().flatten();
                let granted = bounds.fold(amount.amount_minor, i64::min);
                spending.correct(card_ref, source, authorization_id, already_minor.saturating_add(granted));
            }
        }
    }

    /// What may be captured grows with each increment.
    pub(super) fn allow_more(&self, decision: &Decision) {
        let ruling = &decision.ruling;
        if decision.follows.is_none() || ruling.settlement == Settlement::Disabled {
            return;
        }
        let asked = decision.purchase.amount.amount_minor;
        let granted = ruling.cap_minor.map_or(asked, |cap| cap.min(asked));
        let key = format!("{}/{}", decision.purchase.source, decision.purchase.authorization_id);
        let (settler, decision_id) = (self.settler.clone(), decision.decision_id);
        // After the answer, which it must not hold up.
        actix::spawn(async move {
            if let Err(error) = settler.allow_more(&key, decision_id, granted).await {
                tracing::warn!(authorisation = key, %error, "an increment is not in what may be captured");
            }
        });
    }
}

/// Who is asked for a word, or whose word is used up by this.
fn step_up(decision: &Decision, renter: Option<InUseBy>, used: Option<StepUp>) -> Option<StepUp> {
    match (decision.ruling.outcome, used, renter) {
        (Outcome::Approve | Outcome::ApproveCapped, Some(used), _) => Some(StepUp { is_used: true, ..used }),
        (Outcome::StepUp, _, Some(InUseBy { vehicle_id, rental_id, renter })) => Some(StepUp {
            decision_id: decision.decision_id,
            authorization_id: decision.purchase.authorization_id.clone(),
            card_ref: decision.purchase.card_ref.clone(),
            vehicle_id,
            rental_id,
            renter,
            amount: decision.purchase.amount.clone(),
            merchant: decision.purchase.merchant.clone(),
            station_id: decision.station_id.clone(),
            asked_at: decision.at,
            answer: None,
            is_used: false,
        }),
        (Outcome::Approve | Outcome::ApproveCapped | Outcome::StepUp | Outcome::Decline, _, _) => None,
    }
}

/// What is asked, as one name at every gateway: repeats get one answer by it.
fn question(purchase: &Purchase, follows: Option<&DecisionId>, source_event: &str) -> String {
    match follows {
        None => format!("{}/authorization/{}", purchase.source, purchase.authorization_id),
        Some(_) => format!("{}/increment/{source_event}", purchase.source),
    }
}

/// A network's time that is further off is not taken for an id's.
const ID_OFF_MS: i64 = 60_000;

impl Shared {
    /// Two gateways that cannot hear of each other may judge one question: then at least it has one id.
    fn id_of(&self, now: Timestamp, asked: Timestamp, name: &str) -> uuid::Uuid {
        match self.followed.is_alone() {
            true => self.clock.new_id(),
            false if now.since_ms(asked).abs() <= ID_OFF_MS => Clock::id_of(asked, name),
            false => Clock::id_of(now, name),
        }
    }
}

/// The history of the card.
pub(super) fn stream(decision: &Decision) -> String {
    match &decision.card_id {
        Some(card) => format!("card/{card}"),
        None => format!("card/unknown/{}", decision.purchase.card_ref),
    }
}

/// Rows of what begins with a decision.
fn begun(watched: Option<&Reconciliation>, step_up: Option<&StepUp>) -> Result<Vec<ViewChange>, GuardError> {
    let mut rows = Vec::new();
    if let Some(watched) = watched {
        rows.extend(settle::rows(watched, raw(watched)?.into())?);
    }
    if let Some(step_up) = step_up {
        rows.push(ViewChange {
            table: Table::StepUps,
            key: step_up.decision_id.to_string(),
            row: raw(step_up)?.into(),
        });
    }
    Ok(rows)
}

/// A decision that was made, with all that begins with it. Its JSON form stands in the spool, and may be read by another version
/// of the program after a crash: a field keeps its name and meaning.
#[derive(Serialize, Deserialize)]
pub(super) struct Judged {
    pub decision: Decision,
    pub decided: Decided,
    pub alert: Option<Alert>,
    pub watched: Option<Reconciliation>,
    pub step_up: Option<StepUp>,
    pub already_minor: i64,
}

impl Judged {
    pub fn to_append(&self) -> Result<(Append, Told), GuardError> {
        let record = Record::of(&self.decision, self.alert.as_ref(), &self.decided)?;
        let begun = begun(self.watched.as_ref(), self.step_up.as_ref())?;
        Ok(record.into_append(&self.decision, self.alert.as_ref(), begun))
    }
}

/// A decision's JSON forms, made before the store is asked.
pub(super) struct Record {
    events: Vec<Box<RawValue>>,
    told: Told,
    answer: Box<RawValue>,
}

/// What consoles are told once it is durable.
pub(super) struct Told {
    pub decision: Box<RawValue>,
    pub alert: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum DecisionEvent<'a> {
    PurchaseDecided { decision: &'a RawValue },
    AlertOpened { alert: &'a RawValue },
}

impl Record {
    pub fn of(decision: &Decision, alert: Option<&Alert>, decided: &Decided) -> Result<Self, GuardError> {
        let decision = raw(decision)?;
        let alert = alert.map(raw).transpose()?;
        let mut events = vec![raw(&DecisionEvent::PurchaseDecided { decision: &decision })?];
        if let Some(alert) = &alert {
            events.push(raw(&DecisionEvent::AlertOpened { alert })?);
        }
        Ok(Self { events, told: Told { decision, alert }, answer: raw(decided)? })
    }

    /// `begun`: rows of what begins with the decision.
    pub fn into_append(self, decision: &Decision, alert: Option<&Alert>, begun: Vec<ViewChange>) -> (Append, Told) {
        let purchase = &decision.purchase;
        let put = |table, key: String, row| ViewChange { table, key, row };
        // The first of the events, and by far the largest part of the record.
        let itself = NewRow::OfEvent { event: 0, member: "decision" };
        let mut view = vec![put(Table::Decisions, decision.decision_id.to_string(), itself)];
        if let (Some(alert), Some(body)) = (alert, &self.told.alert) {
            view.push(put(Table::Alerts, alert.alert_id.to_string(), body.clone().into()));
        }
        view.extend(begun);
        let step = Append {
            stream: stream(decision),
            expected: Expected::Any,
            fence: None,
            at: decision.at,
            by: Principal::new(Role::Payment, purchase.source.clone()),
            idempotency: Some(Idempotency {
                key: question(purchase, decision.follows.as_ref(), &decision.source_event),
                // One authorisation has one answer, whatever its repeats say: their bodies are not compared.
                body: "authorization".into(),
                answer: self.answer,
            }),
            events: self.events,
            view,
        };
        (step, self.told)
    }
}
