//! What went wrong with a payment message itself: it could not be read, or it was answered without a judgement.
//!
//! Both are recorded and tell people, but not once a message: a network that changes its form sends thousands.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::value::RawValue;

use super::judging::Record;
use super::{Decided, GuardError, Shared, raw};
use crate::domain::card::{AboutPayment, Alert, AlertKind, Decision, Outcome, Purchase, Ruling, Unreadable};
use crate::domain::{AlertId, DecisionId, Principal, Role, Timestamp};
use crate::store::{Append, AppendError, Expected, Idempotency, Table, ViewChange};

/// Answers without a judgement that wait for their record; more are counted and only in the log.
const MAX_WAITING: usize = 10_000;
/// One alert a source and kind in this time.
const ALERT_EVERY_MS: i64 = 3_600_000;

/// A question that was answered as the configuration says, because no judgement was on record in time.
#[derive(Debug, Clone)]
pub struct FellBack {
    pub purchase: Purchase,
    /// The network's id of its message, and the hex SHA-256 of the raw body.
    pub source_event: String,
    pub body_sha256: String,
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
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.to_owned(), kind);
        let is_news = told.get(&key).is_none_or(|last| now.since_ms(*last) >= ALERT_EVERY_MS);
        if is_news {
            told.insert(key, now);
        }
        is_news
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
            if let Err(error) = self.record_fallback(&next).await {
                tracing::warn!(%error, "an answer without a judgement waits for its record");
                return;
            }
            self.incidents.waiting().pop_front();
        }
    }

    async fn record_fallback(&self, fallback: &FellBack) -> Result<(), GuardError> {
        let now = self.clock.now();
        let decision = self.decision_of(fallback);
        let is_news = self.incidents.is_news(&fallback.purchase.source, "fallback", now);
        let alert = is_news.then(|| {
            let text = format!(
                "{}: purchases are answered without a judgement ({}); see the decisions with the reason fallback.",
                fallback.purchase.source, fallback.why
            );
            let id = AlertId(self.clock.new_id());
            Alert::for_payment(id, AlertKind::PaymentFallback, AboutPayment::default(), text, now)
        });
        let record = Record::of(&decision, alert.as_ref(), &Decided::from(&decision))?;
        let bodies = (record.decision.clone(), record.alert.clone());
        match self.store.append(record.into_append(&decision, alert.as_ref(), Vec::new())).await {
            Ok(_) => {}
            Err(AppendError::Duplicate { answer }) => return self.record_contradiction(&decision, &answer).await,
            Err(error) => return Err(error.into()),
        }
        self.decisions_feed.do_send(crate::actors::feed::DecisionMade(bodies.0.into()));
        if let (Some(alert), Some(body)) = (alert, bodies.1) {
            self.counters.alerts_opened.inc();
            self.tell_alert(&alert, body);
        }
        Ok(())
    }

    /// The judgement was recorded after all, just too late to be heard. Where it says another thing, both are on record.
    async fn record_contradiction(&self, decision: &Decision, recorded: &RawValue) -> Result<(), GuardError> {
        let recorded: Decided = super::desk::parse(recorded)?;
        if recorded.settlement == decision.ruling.settlement {
            return Ok(());
        }
        self.counters.contradictions.inc();
        let body = raw(decision)?;
        let event = raw(&IncidentEvent::PurchaseAnsweredOtherwise { decision: &body })?;
        let mut step = Record::of(decision, None, &recorded)?.into_append(decision, None, Vec::new());
        (step.events, step.view, step.idempotency) = (vec![event], Vec::new(), None);
        self.store.append(step).await.map(|_| ()).map_err(Into::into)
    }

    fn decision_of(&self, fallback: &FellBack) -> Decision {
        let book = self.book();
        let card = book.card_by_ref(&fallback.purchase.card_ref);
        let outcome = match (fallback.is_approved, fallback.cap_minor) {
            (true, Some(_)) => Outcome::ApproveCapped,
            (true, None) => Outcome::Approve,
            (false, _) => Outcome::Decline,
        };
        Decision {
            decision_id: DecisionId(self.clock.new_id()),
            at: fallback.at,
            purchase: fallback.purchase.clone(),
            card_id: card.as_ref().map(|card| card.card_id.clone()),
            vehicle_id: card.as_ref().and_then(|card| card.vehicle_id.clone()),
            station_id: book.look_up(&fallback.purchase.merchant).station_id().cloned(),
            ruling: Ruling::without_judgement(outcome, fallback.cap_minor, fallback.why),
            alert_id: None,
            source_event: fallback.source_event.clone(),
            body_sha256: fallback.body_sha256.clone(),
            follows: None,
            inputs: None,
        }
    }

    /// Records a message that cannot be read. The same body again is one.
    pub(super) async fn unreadable(&self, message: Unreadable) -> Result<(), GuardError> {
        let now = self.clock.now();
        let mut events = vec![raw(&IncidentEvent::PaymentUnreadable { message: &message })?];
        let mut view = Vec::new();
        let mut told = None;
        if self.incidents.is_news(&message.source, "unreadable", now) {
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
            view.push(ViewChange { table: Table::Alerts, key: alert.alert_id.to_string(), value: Some(body.clone()) });
            told = Some((alert, body));
        }
        let step = Append {
            stream: format!("payments/{}", message.source),
            expected: Expected::Any,
            fence: None,
            at: now,
            by: Principal { role: Role::Payment, subject: message.source.clone() },
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
            self.counters.alerts_opened.inc();
            self.tell_alert(&alert, body);
        }
        Ok(())
    }
}
