//! What went wrong with a payment message itself: it could not be read, or it was answered without a judgement.
//!
//! Both are recorded and tell people, but not once a message: a network that changes its form sends thousands.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::value::RawValue;

use super::desk::{off_thread, parse};
use super::judging::Record;
use super::settle;
use super::{Decided, GuardError, Shared, raw};
use crate::domain::card::{
    AboutPayment, Alert, AlertKind, Card, Decision, Inputs, Outcome, Purchase, Reconciliation, Ruling, Settlement,
    Spending, Unreadable,
};
use crate::domain::{AlertId, DecisionId, Principal, Role, Timestamp};
use crate::store::{Append, AppendError, Expected, Idempotency, NewRow, Table, ViewChange};

/// Answers without a judgement that wait for their record; more are counted and only in the log.
const MAX_WAITING: usize = 10_000;
const FALLBACK: &str = "fallback";
const UNREADABLE: &str = "unreadable";
/// One alert a source and kind in this time.
const ALERT_EVERY_MS: i64 = 3_600_000;

/// A question that was answered as the configuration says, because no judgement was on record in time.
#[derive(Debug, Clone)]
pub struct FellBack {
    pub purchase: Purchase,
    /// The network's id of its message, and the hex SHA-256 of the raw body.
    pub source_event: String,
    pub body_sha256: String,
    /// What was approved before under the same authorisation, in minor units.
    pub already_minor: i64,
    pub at: Timestamp,
    pub is_approved: bool,
    pub cap_minor: Option<i64>,
    /// Like `the store does not answer`.
    pub why: &'static str,
}

#[derive(Default)]
pub struct Incidents {
    waiting: Mutex<VecDeque<FellBack>>,
    /// When people were told last, by source and kind.
    told: Mutex<HashMap<(String, &'static str), Timestamp>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum IncidentEvent<'a> {
    PaymentUnreadable {
        message: &'a Unreadable,
    },
    /// The network heard this, although another answer is on record.
    PurchaseAnsweredOtherwise {
        decision: &'a RawValue,
    },
    AlertOpened {
        alert: &'a RawValue,
    },
}

impl Incidents {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<FellBack>> {
        // Each change is one push or pop: whole, whatever panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Is it time to tell people of this kind of incident again?
    fn is_news(&self, source: &str, kind: &'static str, now: Timestamp) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(&(source.to_owned(), kind)).is_none_or(|last| now.since_ms(*last) >= ALERT_EVERY_MS)
    }

    /// People were told, durably.
    fn note_told(&self, source: &str, kind: &'static str, now: Timestamp) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert((source.to_owned(), kind), now);
    }
}

impl Shared {
    /// Notes an answer that was given without a judgement; recorded as soon as the store takes it.
    pub(super) fn fell_back(&self, fallback: FellBack) {
        self.counters.fallbacks.inc();
        let mut waiting = self.incidents.waiting();
        if waiting.len() >= MAX_WAITING {
            self.counters.fallbacks_not_kept.inc();
            tracing::error!(authorisation = %fallback.purchase.authorization_id, approved = fallback.is_approved,
                why = fallback.why, "an answer without a judgement is only in this log");
            return;
        }
        waiting.push_back(fallback);
    }

    /// Records what waits, oldest first, until the store refuses.
    pub(super) async fn record_fallbacks(&self) {
        loop {
            let Some(next) = self.incidents.waiting().front().cloned() else { return };
            match self.record_fallback(&next).await {
                Ok(()) => {}
                Err(error @ (GuardError::Refused(_) | GuardError::KeyReused)) => {
                    // It will never be taken, and those behind it may.
                    self.counters.fallbacks_not_kept.inc();
                    tracing::error!(authorisation = %next.purchase.authorization_id, approved = next.is_approved,
                        why = next.why, %error, "an answer without a judgement is only in this log");
                }
                Err(error) => {
                    tracing::warn!(%error, "an answer without a judgement waits for its record");
                    return;
                }
            }
            self.incidents.waiting().pop_front();
        }
    }

    async fn record_fallback(&self, fallback: &FellBack) -> Result<(), GuardError> {
        let decision = self.decision_of(fallback).await?;
        let alert = self.fallback_alert(fallback);
        let record = Record::of(&decision, alert.as_ref(), &Decided::from(&decision))?;
        let (step, told) = record.into_append(&decision, alert.as_ref(), Vec::new());
        self.counted().insert(decision.decision_id, ());
        match self.store.append(step).await {
            Ok(_) => {}
            Err(AppendError::Duplicate { answer }) => {
                return self.record_contradiction(&decision, &answer, alert).await;
            }
            Err(error) => return Err(error.into()),
        }
        self.count_as_heard(&decision);
        self.decisions_feed.do_send(crate::actors::feed::DecisionMade(told.decision.into()));
        self.tell_of_fallback(&decision.purchase.source, alert.zip(told.alert));
        Ok(())
    }

    fn fallback_alert(&self, fallback: &FellBack) -> Option<Alert> {
        let (source, now) = (&fallback.purchase.source, self.clock.now());
        if !self.incidents.is_news(source, FALLBACK, now) {
            return None;
        }
        let text = format!(
            "{source}: purchases are answered without a judgement ({}); see the decisions with the reason fallback.",
            fallback.why
        );
        let id = AlertId(self.clock.new_id());
        Some(Alert::for_payment(id, AlertKind::PaymentFallback, AboutPayment::default(), text, now))
    }

    fn tell_of_fallback(&self, source: &str, alert: Option<(Alert, Box<RawValue>)>) {
        if let Some((alert, body)) = alert {
            self.incidents.note_told(source, FALLBACK, self.clock.now());
            self.counters.alerts_opened.inc();
            self.tell_alert(&alert, body);
        }
    }

    /// What the network heard is what was bought.
    fn count_as_heard(&self, decision: &Decision) {
        let Purchase { card_ref, source, authorization_id, amount, .. } = &decision.purchase;
        let Some(inputs) = decision.inputs.as_ref().filter(|_| decision.follows.is_none()) else { return };
        let mut spending = self.spending();
        match decision.ruling.settlement {
            Settlement::Disabled => spending.forget(card_ref, source, authorization_id),
            Settlement::Enabled if inputs.card.is_some() => {
                spending.ask(&decision.purchase, &inputs.station);
                let granted = decision.ruling.cap_minor.map_or(amount.amount_minor, |cap| cap.min(amount.amount_minor));
                spending.correct(card_ref, source, authorization_id, granted);
            }
            Settlement::Enabled => {}
        }
    }

    /// The judgement was recorded after all, just too late to be heard. Where it says another thing, both are on record,
    /// and what is posted later is compared with what was heard.
    pub(super) async fn record_contradiction(
        &self,
        decision: &Decision,
        recorded: &RawValue,
        alert: Option<Alert>,
    ) -> Result<(), GuardError> {
        let recorded: Decided = super::desk::parse(recorded)?;
        let heard = Decided::from(decision);
        let answer = |decided: &Decided| (decided.outcome, decided.settlement, decided.cap_minor);
        let contradicts = answer(&recorded) != answer(&heard);
        // A fallback told neither an id nor reasons.
        let was_judged = decision.answered_before_durable_at.is_some();
        let differs = contradicts || (was_judged && recorded != heard);
        if !differs && alert.is_none() {
            return Ok(());
        }
        let (mut step, _) = Record::of(decision, None, &recorded)?.into_append(decision, None, Vec::new());
        // One try may have got through without a word. A fallback's alert is another one each time, and told once stored.
        let once = decision.answered_before_durable_at.map(|at| {
            let key = format!("{}/otherwise/{}/{at}", decision.purchase.source, decision.source_event);
            Ok::<_, GuardError>(Idempotency { key, body: "otherwise".into(), answer: raw(&())? })
        });
        (step.events, step.view, step.idempotency) = (Vec::new(), Vec::new(), once.transpose()?);
        if differs {
            let body = raw(decision)?;
            step.events.push(raw(&IncidentEvent::PurchaseAnsweredOtherwise { decision: &body })?);
            if was_judged && recorded.decision_id != heard.decision_id {
                let row = NewRow::OfEvent { event: 0, member: "decision" };
                step.view.push(ViewChange { table: Table::Decisions, key: heard.decision_id.to_string(), row });
            }
        }
        if contradicts {
            let heard = Reconciliation::of_decision(decision).filter(|_| decision.follows.is_none());
            if let Some(heard) = heard.filter(|heard| !self.settling.is_open(&heard.key)) {
                step.view.extend(settle::rows(&heard, raw(&heard)?.into())?);
            }
        }
        let alert_body = alert.as_ref().map(raw).transpose()?;
        if let (Some(alert), Some(body)) = (&alert, &alert_body) {
            step.events.push(raw(&IncidentEvent::AlertOpened { alert: body })?);
            let (key, row) = (alert.alert_id.to_string(), body.clone().into());
            step.view.push(ViewChange { table: Table::Alerts, key, row });
        }
        match self.store.append(step).await {
            Ok(_) | Err(AppendError::Duplicate { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if contradicts {
            self.counters.contradictions.inc();
            self.count_as_heard(decision);
        }
        self.tell_of_fallback(&decision.purchase.source, alert.zip(alert_body));
        Ok(())
    }

    async fn decision_of(&self, fallback: &FellBack) -> Result<Decision, GuardError> {
        let purchase = fallback.purchase.clone();
        let decision_id = DecisionId(self.clock.new_id());
        let follows = match fallback.already_minor {
            0 => None,
            _ => {
                // An increment's answer is none to the first question.
                let key = format!("{}/authorization/{}", purchase.source, purchase.authorization_id);
                let store = self.store.clone();
                let first = off_thread(move || store.answered(&key)).await??;
                let first: Option<Decided> = first.map(|(_, answer)| parse(&answer)).transpose()?;
                Some(first.map_or(decision_id, |first| first.decision_id))
            }
        };
        let (card, station) = {
            let book = self.book();
            (book.card_by_ref(&purchase.card_ref), book.look_up(&purchase.merchant))
        };
        let outcome = match (fallback.is_approved, fallback.cap_minor) {
            (true, Some(_)) => Outcome::ApproveCapped,
            (true, None) => Outcome::Approve,
            (false, _) => Outcome::Decline,
        };
        let card = card.map(|card| Card::clone(&card));
        Ok(Decision {
            decision_id,
            at: fallback.at,
            card_id: card.as_ref().map(|card| card.card_id.clone()),
            vehicle_id: card.as_ref().and_then(|card| card.vehicle_id.clone()),
            station_id: station.station_id().cloned(),
            ruling: Ruling::without_judgement(outcome, fallback.cap_minor, fallback.why),
            alert_id: None,
            source_event: fallback.source_event.clone(),
            body_sha256: fallback.body_sha256.clone(),
            follows,
            answered_before_durable_at: None,
            inputs: Some(Box::new(Inputs {
                card,
                vehicles: Vec::new(),
                station,
                spending: Spending::default(),
                confirmed_at: None,
            })),
            purchase,
        })
    }

    /// Records a message that cannot be read. The same body again is one.
    pub(super) async fn unreadable(&self, message: Unreadable) -> Result<(), GuardError> {
        let now = self.clock.now();
        let mut events = vec![raw(&IncidentEvent::PaymentUnreadable { message: &message })?];
        let mut view = Vec::new();
        let mut told = None;
        if self.incidents.is_news(&message.source, UNREADABLE, now) {
            let card = message.card_ref.as_ref().and_then(|card| self.book().card_by_ref(card));
            let about = AboutPayment {
                vehicle_id: card.as_ref().and_then(|card| card.vehicle_id.clone()),
                card_id: card.as_ref().map(|card| card.card_id.clone()),
                decision_id: None,
            };
            let text = format!(
                "{}: a signed message cannot be read ({}) and was answered as configured; has the network changed its form?",
                message.source, message.detail
            );
            let alert =
                Alert::for_payment(AlertId(self.clock.new_id()), AlertKind::PaymentUnreadable, about, text, now);
            let body = raw(&alert)?;
            events.push(raw(&IncidentEvent::AlertOpened { alert: &body })?);
            let row = body.clone().into();
            view.push(ViewChange { table: Table::Alerts, key: alert.alert_id.to_string(), row });
            told = Some((alert, body));
        }
        let step = Append {
            stream: format!("payments/{}", message.source),
            expected: Expected::Any,
            fence: None,
            at: now,
            by: Principal::new(Role::Payment, message.source.clone()),
            idempotency: Some(Idempotency {
                key: format!("{}/unreadable/{}", message.source, message.body_sha256),
                body: "unreadable".into(),
                answer: raw(&())?,
            }),
            events,
            view,
        };
        match self.store.append(step).await {
            Ok(_) => {}
            Err(AppendError::Duplicate { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Some((alert, body)) = told {
            self.incidents.note_told(&message.source, UNREADABLE, now);
            self.counters.alerts_opened.inc();
            self.tell_alert(&alert, body);
        }
        Ok(())
    }
}
