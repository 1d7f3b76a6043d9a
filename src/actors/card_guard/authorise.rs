//! The guard's actor: one question, one judgement, one record, one answer, however often it is asked.
//!
//! The mailbox never waits: looking up vehicles and recording happen in tasks of their own, and whoever asks the same
//! meanwhile is answered with the first one's record.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::recent::Recent;
use super::{AskVehicle, Authorise, Decided, GuardError, Shared, raw};
use crate::actors::feed::DecisionMade;
use crate::actors::vehicle::AskError;
use crate::domain::card::{
    Alert, AuthorizationId, Card, Decision, Inputs, RuleBook, Spending, VehicleFacts, VehicleLookup, judge,
};
use crate::domain::{AlertId, DecisionId, Principal, RefusalKind, Role, VehicleId};
use crate::store::{Append, AppendError, Expected, Idempotency, Order, ReadError, Store, Table, ViewChange};

/// Questions being answered at once; at 1 000 a second and the full deadline of 300 ms they are 300.
pub(super) const MAX_IN_FLIGHT: usize = 1_024;
/// Askers of one and the same question.
const MAX_WAITING: usize = 32;
/// Answers kept in memory for repeats, some 400 bytes each; older ones are found by the store.
const MAX_DECIDED: usize = 50_000;
/// Read back at start.
const LOAD_DECIDED: usize = 5_000;

type Reply = oneshot::Sender<Result<Arc<Decided>, GuardError>>;

/// A question with the way back to whoever asked.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Question {
    pub(super) ask: Authorise,
    pub(super) reply: Reply,
}

/// A question's task has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct Finished {
    subject: Subject,
    result: Result<Arc<Decided>, GuardError>,
}

/// What is answered once: an authorisation, or an increment of it by its message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subject {
    authorization_id: AuthorizationId,
    increment: Option<String>,
}

impl Subject {
    fn of(decided: &Decided) -> Self {
        let increment = decided.follows.map(|_| decided.source_event.clone());
        Self { authorization_id: decided.authorization_id.clone(), increment }
    }
}

pub struct CardGuard {
    shared: Arc<Shared>,
    desk: Arc<Judge>,
    decided: Recent<Subject, Arc<Decided>>,
    in_flight: HashMap<Subject, InFlight>,
}

/// A question that is being answered, and who waits for it.
struct InFlight {
    source_event: String,
    replies: Vec<Reply>,
}

/// What a question's task needs.
struct Judge {
    shared: Arc<Shared>,
    rules: Arc<RuleBook>,
    ask_vehicle: AskVehicle,
    /// For the vehicles' answers; the rest of the deadline is for the record.
    vehicles_within: Duration,
}

impl CardGuard {
    pub(super) fn new(
        shared: Arc<Shared>,
        rules: Arc<RuleBook>,
        ask_vehicle: AskVehicle,
        vehicles_within: Duration,
        decided: Vec<Decided>,
    ) -> Self {
        let desk = Arc::new(Judge { shared: shared.clone(), rules, ask_vehicle, vehicles_within });
        let mut recent = Recent::new(MAX_DECIDED);
        for known in decided {
            recent.insert(Subject::of(&known), Arc::new(known));
        }
        Self { shared, desk, decided: recent, in_flight: HashMap::new() }
    }
}

impl InFlight {
    /// An increment of what is not approved yet is no repeat of it: it is to be asked again.
    fn may_answer(&self, ask: &Authorise) -> bool {
        self.replies.len() < MAX_WAITING && (ask.already_minor == 0 || ask.source_event == self.source_event)
    }
}

impl Actor for CardGuard {
    type Context = Context<Self>;
}

impl Handler<Question> for CardGuard {
    type Result = ();

    fn handle(&mut self, question: Question, context: &mut Self::Context) {
        let Question { ask, reply } = question;
        let mut subject = Subject { authorization_id: ask.purchase.authorization_id.clone(), increment: None };
        let exceeded = self.decided.get(&subject).filter(|first| first.is_exceeded_by(&ask)).cloned();
        if exceeded.is_some() {
            subject.increment = Some(ask.source_event.clone());
        }
        if let Some(known) = self.decided.get(&subject) {
            self.shared.counters.repeats.inc();
            let _ = reply.send(Ok(known.clone()));
            return;
        }
        let is_full = self.in_flight.len() >= MAX_IN_FLIGHT;
        match self.in_flight.entry(subject.clone()) {
            Entry::Occupied(mut waiting) if waiting.get().may_answer(&ask) => {
                self.shared.counters.repeats.inc();
                waiting.get_mut().replies.push(reply);
            }
            Entry::Vacant(first) if !is_full => {
                first.insert(InFlight { source_event: ask.source_event.clone(), replies: vec![reply] });
                let (judge, guard) = (self.desk.clone(), context.address());
                // A task of its own, not a future of this context: that would poll all of them at each step.
                actix::spawn(async move {
                    let result = judge.answer(ask, exceeded).await;
                    // Bounded by MAX_IN_FLIGHT, so it need not respect the mailbox.
                    guard.do_send(Finished { subject, result });
                });
            }
            Entry::Occupied(_) | Entry::Vacant(_) => {
                self.shared.counters.busy.inc();
                let _ = reply.send(Err(GuardError::Busy));
            }
        }
    }
}

impl Handler<Finished> for CardGuard {
    type Result = ();

    fn handle(&mut self, finished: Finished, _: &mut Self::Context) {
        let Finished { subject, result } = finished;
        match &result {
            Ok(decided) => {
                // Under its own name: a first question may have turned out to be an increment.
                if self.decided.insert(Subject::of(decided), decided.clone()) {
                    self.shared.counters.forgotten.inc();
                }
            }
            Err(_) => self.shared.counters.unrecorded.inc(),
        }
        for reply in self.in_flight.remove(&subject).into_iter().flat_map(|done| done.replies) {
            // Whoever gave up waiting gets the same when they ask again.
            let _ = reply.send(result.clone());
        }
    }
}

impl Judge {
    /// `first` is the approval that an increment adds to, as far as it is remembered.
    async fn answer(&self, ask: Authorise, first: Option<Arc<Decided>>) -> Result<Arc<Decided>, GuardError> {
        let is_first = first.is_none();
        let answered = self.answer_once(ask.clone(), first).await?;
        match is_first && answered.is_exceeded_by(&ask) {
            // The store remembers an approval that nobody here does.
            true => self.answer_once(ask, Some(answered)).await,
            false => Ok(answered),
        }
    }

    /// Looks up, judges, records. The record carries the authorisation's id as its idempotency key, so that even a
    /// repeat that nobody here remembers gets the first answer.
    async fn answer_once(&self, ask: Authorise, first: Option<Arc<Decided>>) -> Result<Arc<Decided>, GuardError> {
        let now = self.shared.clock.now();
        let (card, station) = {
            let book = self.shared.book();
            (book.card_by_ref(&ask.purchase.card_ref), book.look_up(&ask.purchase.merchant))
        };
        let both_count_ms = self.rules.fleet.binding.both_count_ms();
        let ids = card.as_ref().map_or_else(Vec::new, |card| card.vehicles(ask.purchase.at.min(now), both_count_ms));
        let vehicles = self.look_up(ids).await;
        let card = card.map(|card| Card::clone(&card));
        let inputs = Inputs { card, vehicles, station, spending: Spending::default(), confirmed_at: None };
        let decision = self.decide(ask, first.as_deref(), inputs);
        let alert = decision.alert_id.and_then(|id| Alert::for_decision(id, &decision));
        let decided = Decided::from(&decision);
        let record = Record::of(&decision, alert.as_ref(), &decided)?;
        let (decision_body, alert_body) = (record.decision.clone(), record.alert.clone());
        match self.shared.store.append(record.into_append(&decision, alert.as_ref())).await {
            Ok(_) => {}
            Err(AppendError::Duplicate { answer }) => {
                self.shared.counters.repeats.inc();
                return serde_json::from_str(answer.get()).map(Arc::new).map_err(|error| {
                    GuardError::Read(ReadError::Damaged(format!("the recorded answer cannot be read: {error}")))
                });
            }
            Err(error) => {
                tracing::warn!(authorization = %decided.authorization_id, %error, "a decision was not recorded");
                return Err(error.into());
            }
        }
        self.shared.counters.decided(decided.outcome);
        self.shared.decisions_feed.do_send(DecisionMade(decision_body.into()));
        if let (Some(alert), Some(body)) = (alert, alert_body) {
            self.shared.counters.alerts_opened.inc();
            self.shared.tell_alert(&alert, body);
        }
        Ok(Arc::new(decided))
    }

    fn decide(&self, ask: Authorise, first: Option<&Decided>, inputs: Inputs) -> Decision {
        let clock = &self.shared.clock;
        let now = clock.now();
        let mut ruling = judge(now, &ask.purchase, &inputs, self.rules.for_class(inputs.vehicle_class()));
        // Also when nobody here approved what the network holds: it may have done so by itself.
        if ask.already_minor > 0 {
            ruling.count_in(ask.already_minor, first.and_then(|first| first.cap_minor), &ask.purchase);
        }
        let mut decision = Decision {
            decision_id: DecisionId(clock.new_id()),
            at: now,
            purchase: ask.purchase,
            card_id: inputs.card.as_ref().map(|card| card.card_id.clone()),
            vehicle_id: inputs.card.as_ref().and_then(|card| card.vehicle_id.clone()),
            station_id: inputs.station.station_id().cloned(),
            ruling,
            alert_id: None,
            source_event: ask.source_event,
            body_sha256: ask.body_sha256,
            follows: first.map(|first| first.decision_id),
            inputs: Some(Box::new(inputs)),
        };
        let alert_id = AlertId(clock.new_id());
        decision.alert_id = Alert::for_decision(alert_id, &decision).map(|alert| alert.alert_id);
        decision
    }

    /// Asks for each vehicle; those that do not answer in time are `Late`.
    async fn look_up(&self, ids: Vec<VehicleId>) -> Vec<VehicleLookup> {
        let mut found = Vec::with_capacity(ids.len());
        let all = async {
            for id in &ids {
                found.push(self.look_up_one(id).await);
            }
        };
        // The time-out is the fallback policy's case, and shows as `Late` below.
        let _ = tokio::time::timeout(self.vehicles_within, all).await;
        let unanswered: Vec<_> = ids.into_iter().skip(found.len()).map(VehicleLookup::Late).collect();
        found.extend(unanswered);
        let late = found.iter().filter(|lookup| matches!(lookup, VehicleLookup::Late(_))).count();
        self.shared.counters.late_vehicles.add(late as u64);
        found
    }

    async fn look_up_one(&self, id: &VehicleId) -> VehicleLookup {
        match (self.ask_vehicle)(id.clone()).await {
            Ok(snapshot) if snapshot.vehicle.registered.is_none() => VehicleLookup::NotRegistered(id.clone()),
            Ok(snapshot) => VehicleLookup::Known(VehicleFacts::of(&snapshot.vehicle, &snapshot.twin)),
            Err(AskError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {
                VehicleLookup::NotRegistered(id.clone())
            }
            Err(error) => {
                tracing::warn!(vehicle = %id, %error, "a vehicle could not be asked about a purchase");
                VehicleLookup::Late(id.clone())
            }
        }
    }
}

/// A decision's JSON forms, made before the store is asked.
struct Record {
    events: Vec<Box<RawValue>>,
    decision: Box<RawValue>,
    alert: Option<Box<RawValue>>,
    answer: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum DecisionEvent<'a> {
    PurchaseDecided { decision: &'a RawValue },
    AlertOpened { alert: &'a RawValue },
}

impl Record {
    fn of(decision: &Decision, alert: Option<&Alert>, decided: &Decided) -> Result<Self, GuardError> {
        let decision = raw(decision)?;
        let alert = alert.map(raw).transpose()?;
        let mut events = vec![raw(&DecisionEvent::PurchaseDecided { decision: &decision })?];
        if let Some(alert) = &alert {
            events.push(raw(&DecisionEvent::AlertOpened { alert })?);
        }
        Ok(Self { events, decision, alert, answer: raw(decided)? })
    }

    fn into_append(self, decision: &Decision, alert: Option<&Alert>) -> Append {
        let purchase = &decision.purchase;
        let put = |table, key: String, value| ViewChange { table, key, value: Some(value) };
        let mut view = vec![put(Table::Decisions, decision.decision_id.to_string(), self.decision)];
        if let (Some(alert), Some(body)) = (alert, self.alert) {
            view.push(put(Table::Alerts, alert.alert_id.to_string(), body));
        }
        Append {
            stream: match &decision.card_id {
                Some(card) => format!("card/{card}"),
                None => format!("card/unknown/{}", purchase.card_ref),
            },
            expected: Expected::Any,
            fence: None,
            at: decision.at,
            by: Principal { role: Role::Payment, subject: purchase.source.clone() },
            idempotency: Some(Idempotency {
                key: match &decision.follows {
                    None => format!("{}/authorization/{}", purchase.source, purchase.authorization_id),
                    Some(_) => format!("{}/increment/{}", purchase.source, decision.source_event),
                },
                // One authorisation has one answer, whatever its repeats say: their bodies are not compared.
                body: "authorization".into(),
                answer: self.answer,
            }),
            events: self.events,
            view,
        }
    }
}

/// The newest answers, oldest first, so that repeats after a restart are answered without a new judgement. Blocks.
pub(super) fn load_decided(store: &dyn Store) -> Result<Vec<Decided>, ReadError> {
    let mut decided = Vec::new();
    let mut after: Option<String> = None;
    while decided.len() < LOAD_DECIDED {
        let page = store.scan(Table::Decisions, "", after.as_deref(), 500, Order::Descending)?;
        for (key, row) in &page.rows {
            let decision: Decision = serde_json::from_str(row.get())
                .map_err(|error| ReadError::Damaged(format!("decision {key}: {error}")))?;
            decided.push(Decided::from(&decision));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    decided.reverse();
    Ok(decided)
}
