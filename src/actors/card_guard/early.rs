//! Answers that are given before they are durable: the store does not answer within the guard's deadline, and the
//! configuration says to answer what the checks say.
//!
//! Such an answer is in this machine's spool before the network hears it. The record follows as soon as the store takes it, also
//! by the process after a crash, and says when the network heard the answer. Where the disk does not take it either, it is none.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::authorise::{Subject, count_bought};
use super::judging::{Judge, Judged, stream};
use super::{Decided, GuardError, GuardHandle, MAX_EARLY, Shared, desk, raw};
use crate::domain::Principal;
use crate::domain::card::Decision;
use crate::store::{Append, AppendError, Appending, Expected, Idempotency, Kept, NewRow, Table, ViewChange};

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
            tracing::warn!(waiting, "answers to purchases that were given are recorded by the next start");
        }
    }
}

/// An answer that the process before this one gave, and perhaps recorded.
pub(super) struct Left {
    judged: Judged,
    kept: Kept,
}

impl Shared {
    /// Puts the answer where a crash does not take it, within the time. `None`: nobody may hear it before it is on record.
    pub(super) async fn promise(&self, judged: &mut Judged, within: Duration) -> Option<Kept> {
        judged.decision.answered_before_durable_at = Some(self.clock.now());
        let kept = match (self.early.clone().try_acquire_owned(), serde_json::to_vec(judged)) {
            (Ok(turn), Ok(entry)) => tokio::time::timeout(within, self.spool.put(entry, turn)).await.ok().flatten(),
            (Err(_), _) | (_, Err(_)) => None,
        };
        if kept.is_none() {
            judged.decision.answered_before_durable_at = None;
            self.counters.early_not_kept.inc();
            tracing::warn!(authorisation = %judged.decision.purchase.authorization_id,
                "neither the store nor this machine's disk took a decision in time");
        }
        kept
    }

    /// What the process before this one answered and did not record: the same question hears it again, and it counts.
    pub(super) fn take_left(&self) -> Vec<Left> {
        let mut left = Vec::new();
        for (entry, kept) in self.spool.take_left() {
            let judged = match serde_json::from_slice::<Judged>(&entry) {
                Ok(judged) => judged,
                Err(error) => {
                    self.counters.early_lost.inc();
                    let entry = String::from_utf8_lossy(&entry);
                    tracing::error!(%error, %entry, "an answer to a purchase is only in this log");
                    kept.settle();
                    continue;
                }
            };
            let Judged { decision, decided, .. } = &judged;
            let is_news = {
                let (subject, mut known) = (Subject::of(decided), self.decided());
                let is_news = known.get(&subject).is_none();
                known.insert(subject, Arc::new(decided.clone()));
                is_news
            };
            if is_news {
                self.counted().insert(decision.decision_id, ());
                count_bought(&mut self.spending(), decision);
            }
            (self.tell_early)(decided);
            left.push(Left { judged, kept });
        }
        left
    }
}

impl Judge {
    /// The network hears it now; the record follows.
    pub(super) fn answer_early(self: &Arc<Self>, judged: Judged, first: Appending, kept: Kept) -> Decided {
        let shared = &self.shared;
        shared.counters.early.inc();
        let Decided { decision_id, authorization_id, outcome, .. } = &judged.decided;
        tracing::warn!(decision = %decision_id, authorisation = %authorization_id, outcome = outcome.name(),
            "a purchase is answered before its record is durable; the store does not answer");
        self.settle_spending(&judged.decision.purchase, &judged.decided, judged.already_minor);
        let decided = judged.decided.clone();
        (shared.tell_early)(&decided);
        let judge = Arc::clone(self);
        actix::spawn(async move {
            judge.record_early(judged, Begun::Trying(first)).await;
            kept.settle();
        });
        decided
    }

    /// Records what the process before this one answered, one after the other.
    pub(super) async fn record_left(self: Arc<Self>, left: Vec<Left>) {
        if !left.is_empty() {
            tracing::warn!(answers = left.len(), "answers that were given before the last end are recorded now");
        }
        let turns = u32::try_from(left.len().min(MAX_EARLY)).unwrap_or(u32::MAX);
        let turns = self.shared.early.clone().acquire_many_owned(turns).await;
        for Left { judged, kept } in left {
            self.record_early(judged, Begun::Before).await;
            kept.settle();
        }
        drop(turns);
    }

    /// Until the store takes it.
    async fn record_early(&self, judged: Judged, begun: Begun) {
        let shared = &self.shared;
        let (mut says_so, mut told) = (false, None);
        let (mut first, is_left) = match begun {
            Begun::Trying(first) => (Some(first), false),
            Begun::Before => (None, true),
        };
        loop {
            let outcome = match first.take() {
                Some(first) => first.await,
                None => match judged.to_append() {
                    Ok((step, as_told)) => {
                        (says_so, told) = (true, Some(as_told));
                        shared.store.append(step).await
                    }
                    Err(error) => return shared.lose(&judged.decision, &error),
                },
            };
            match outcome {
                Ok(_) => break,
                Err(AppendError::Duplicate { answer }) => match desk::parse::<Decided>(&answer) {
                    // An earlier try got through after all.
                    Ok(known) if known == judged.decided && is_left => {
                        shared.say_early(&judged.decision).await;
                        // Memory was read from the store with all else that followed.
                        return self.allow_more(&judged.decision);
                    }
                    Ok(known) if known == judged.decided => {
                        says_so = false;
                        break;
                    }
                    // Another gateway was asked the same and recorded its answer first; its id is the same if their clocks agree.
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

/// How far the record of an answer is that was given.
enum Begun {
    /// This try was under way when the answer was given.
    Trying(Appending),
    /// By the process before this one, nobody knows.
    Before,
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
        let Ok(answer) = raw(&()) else { return };
        loop {
            let step = Append {
                stream: stream(decision),
                expected: Expected::Any,
                fence: None,
                at: self.clock.now(),
                by: Principal::gateway(),
                idempotency: Some(Idempotency {
                    key: format!("{}/early/{}", decision.purchase.source, decision.decision_id),
                    body: "early".into(),
                    answer: answer.clone(),
                }),
                events: vec![event.clone()],
                view: vec![ViewChange {
                    table: Table::Decisions,
                    key: decision.decision_id.to_string(),
                    row: NewRow::OfEvent { event: 0, member: "decision" },
                }],
            };
            match self.store.append(step).await {
                // Said before the last end, or by another gateway that gave the same answer.
                Ok(_) | Err(AppendError::Duplicate { .. }) => return,
                Err(AppendError::TooLarge { .. } | AppendError::KeyReused) => return,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}
