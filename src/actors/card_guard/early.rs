//! Answers that are given before they are durable: the store does not answer within the guard's deadline, and the
//! configuration says to answer what the checks say.
//!
//! The record follows as soon as the store takes it, and says when the network heard the answer. What a crash takes with it
//! in between is in the log alone; a capture that comes for it later is one without a question, and raises its alert.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::judging::{Judge, Judged, stream};
use super::{Decided, GuardError, GuardHandle, MAX_EARLY, Shared, desk, raw};
use crate::domain::Principal;
use crate::domain::card::Decision;
use crate::store::{Append, AppendError, Appending, Expected, NewRow, Table, ViewChange};

/// Between two tries to record an answer that was given.
const AGAIN: Duration = Duration::from_secs(1);

/// The journal's content: a variant or field, once released, keeps its name and meaning.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum EarlyEvent<'a> {
    /// The network had heard this decision before it was on record, which the record could not say itself.
    PurchaseAnsweredEarly { decision: &'a RawValue },
}

impl GuardHandle {
    /// Waits until every answer that was given is on record, for the end of the process.
    pub async fn recorded(&self, limit: Duration) {
        let all = u32::try_from(MAX_EARLY).unwrap_or(u32::MAX);
        if tokio::time::timeout(limit, self.shared.early.acquire_many(all)).await.is_err() {
            let waiting = MAX_EARLY - self.shared.early.available_permits();
            tracing::error!(waiting, "answers to purchases that were given are only in the log");
        }
    }
}

impl Judge {
    /// The network hears it now; the record follows.
    pub(super) fn answer_early(
        self: &Arc<Self>,
        mut judged: Judged,
        first: Appending,
        turn: OwnedSemaphorePermit,
    ) -> Decided {
        let shared = &self.shared;
        judged.decision.answered_before_durable_at = Some(shared.clock.now());
        shared.counters.early.inc();
        let Decided { decision_id, authorization_id, outcome, .. } = &judged.decided;
        tracing::warn!(decision = %decision_id, authorisation = %authorization_id, outcome = outcome.name(),
            "a purchase is answered before its record is durable; the store does not answer");
        self.settle_spending(&judged.decision.purchase, &judged.decided, judged.already_minor);
        let decided = judged.decided.clone();
        (shared.tell_early)(&decided);
        let judge = Arc::clone(self);
        actix::spawn(async move {
            judge.record_early(judged, first).await;
            drop(turn);
        });
        decided
    }

    /// Until the store takes it.
    async fn record_early(&self, judged: Judged, first: Appending) {
        let shared = &self.shared;
        let (mut outcome, mut says_so, mut told) = (first.await, false, None);
        loop {
            match outcome {
                Ok(_) => break,
                Err(AppendError::Duplicate { answer }) => match desk::parse::<Decided>(&answer) {
                    // An earlier try got through after all.
                    Ok(known) if known.decision_id == judged.decided.decision_id => {
                        says_so = false;
                        break;
                    }
                    // Another gateway was asked the same and recorded its answer first.
                    Ok(_) => return shared.contradict(&judged.decision, &answer).await,
                    Err(error) => return shared.lose(&judged.decision, &error),
                },
                Err(error @ (AppendError::KeyReused | AppendError::TooLarge { .. })) => {
                    return shared.lose(&judged.decision, &error.into());
                }
                Err(
                    AppendError::Full(_) | AppendError::Unknown(_) | AppendError::Conflict { .. } | AppendError::Fenced,
                ) => tokio::time::sleep(AGAIN).await,
            }
            let (step, as_told) = match judged.to_append() {
                Ok(made) => made,
                Err(error) => return shared.lose(&judged.decision, &error),
            };
            (says_so, told) = (true, Some(as_told));
            outcome = shared.store.append(step).await;
        }
        if !says_so {
            shared.say_early(&judged.decision).await;
        }
        let told = told.map_or_else(|| judged.to_append().map(|(_, told)| told), Ok);
        match told {
            Ok(told) => self.recorded(judged, told),
            Err(error) => tracing::error!(%error, "a decision that is on record is not told"),
        }
    }
}

impl Shared {
    fn lose(&self, decision: &Decision, error: &GuardError) {
        self.counters.early_lost.inc();
        tracing::error!(decision = %decision.decision_id, authorisation = %decision.purchase.authorization_id,
            outcome = decision.ruling.outcome.name(), %error, "an answer to a purchase is only in this log");
    }

    /// What the network heard here is not what is on record: both are, from now on.
    async fn contradict(&self, decision: &Decision, recorded: &RawValue) {
        loop {
            match self.record_contradiction(decision, recorded, None).await {
                Ok(()) => return,
                Err(GuardError::Storage(_) | GuardError::Unknown) => tokio::time::sleep(AGAIN).await,
                Err(error) => return self.lose(decision, &error),
            }
        }
    }

    /// Adds to a record that was made before the answer was late.
    async fn say_early(&self, decision: &Decision) {
        let Ok(body) = raw(decision) else { return };
        let Ok(event) = raw(&EarlyEvent::PurchaseAnsweredEarly { decision: &body }) else { return };
        loop {
            let step = Append {
                stream: stream(decision),
                expected: Expected::Any,
                fence: None,
                at: self.clock.now(),
                by: Principal::gateway(),
                idempotency: None,
                events: vec![event.clone()],
                view: vec![ViewChange {
                    table: Table::Decisions,
                    key: decision.decision_id.to_string(),
                    row: NewRow::OfEvent { event: 0, member: "decision" },
                }],
            };
            match self.store.append(step).await {
                Ok(_) => return,
                Err(AppendError::TooLarge { .. }) => return,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}
