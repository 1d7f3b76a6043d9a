//! The guard's actor: one question, one judgement, one record, one answer, however often it is asked.
//!
//! The mailbox never waits: looking up vehicles and recording happen in tasks of their own, and whoever asks the same
//! meanwhile is answered with the first one's record.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::MissedTickBehavior;

use super::early::Left;
use super::judging::Judge;
use super::settle::{self, Posted, SWEEP_EVERY, Settler};
use super::{Authorise, Decided, GuardError, Shared};
use crate::domain::Timestamp;
use crate::domain::card::{AuthorizationId, Decision, Posting, Purchase, Reconciliation, Settlement, SpendingLedger};
use crate::store::{Order, ReadError, Store, Table};

/// Questions being answered at once; at 1 000 a second and the full deadline of 300 ms they are 300.
pub(super) const MAX_IN_FLIGHT: usize = 1_024;
/// Askers of one and the same question.
const MAX_WAITING: usize = 32;
/// Answers kept in memory for repeats, some 400 bytes each; older ones are found by the store.
pub(super) const MAX_DECIDED: usize = 50_000;
/// Read back at start.
const LOAD_DECIDED: usize = 5_000;
/// Read back at start for what was bought lately: a week of a fleet of ten thousand cars. Some 20 us each.
const LOAD_SPENT: usize = 50_000;
const SPENT_MS: i64 = 7 * 86_400_000;
const FALLBACKS_EVERY: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<Arc<Decided>, GuardError>>;

/// A question with the way back to whoever asked.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Question {
    pub(super) ask: Authorise,
    /// By the clock's elapsed time.
    pub(super) answer_by: Duration,
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
pub(super) struct Subject {
    authorization_id: AuthorizationId,
    increment: Option<String>,
}

impl Subject {
    pub fn of(decided: &Decided) -> Self {
        let increment = decided.follows.map(|_| decided.source_event.clone());
        Self { authorization_id: decided.authorization_id.clone(), increment }
    }
}

pub struct CardGuard {
    shared: Arc<Shared>,
    judge: Arc<Judge>,
    settler: Arc<Settler>,
    in_flight: HashMap<Subject, InFlight>,
    /// What is to be recorded first.
    left: Vec<Left>,
}

/// A question that is being answered, and who waits for it.
struct InFlight {
    source_event: String,
    replies: Vec<Reply>,
}

impl CardGuard {
    pub(super) fn new(shared: Arc<Shared>, judge: Judge, settler: Arc<Settler>, left: Vec<Left>) -> Self {
        Self { shared, judge: Arc::new(judge), settler, in_flight: HashMap::new(), left }
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

    fn started(&mut self, _: &mut Self::Context) {
        actix::spawn(Arc::clone(&self.judge).record_left(std::mem::take(&mut self.left)));
        let settler = self.settler.clone();
        every(SWEEP_EVERY, move || {
            let settler = settler.clone();
            async move {
                if (settler.shared.looks_again)() {
                    settler.sweep().await;
                }
            }
        });
        let shared = self.shared.clone();
        every(FALLBACKS_EVERY, move || {
            let shared = shared.clone();
            async move { shared.record_fallbacks().await }
        });
    }
}

/// Does it again and again, in a task of its own that the mailbox does not wait for.
fn every<F: Future<Output = ()>>(period: Duration, work: impl Fn() -> F + 'static) {
    actix::spawn(async move {
        let mut turn = tokio::time::interval(period);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            work().await;
        }
    });
}

/// A posting with the way back to whoever brought it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Settle {
    pub(super) posting: Posting,
    pub(super) reply: oneshot::Sender<Result<Posted, GuardError>>,
    /// Given back when it is done.
    pub(super) turn: OwnedSemaphorePermit,
}

impl Handler<Settle> for CardGuard {
    type Result = ();

    fn handle(&mut self, settle: Settle, _: &mut Self::Context) {
        let settler = self.settler.clone();
        // A task of its own: whoever brought it may go away, and a posting taken half is none.
        actix::spawn(async move {
            let Settle { posting, reply, turn } = settle;
            let _ = reply.send(settler.post(posting).await);
            drop(turn);
        });
    }
}

impl Handler<Question> for CardGuard {
    type Result = ();

    fn handle(&mut self, question: Question, context: &mut Self::Context) {
        let Question { ask, answer_by, reply } = question;
        let mut subject = Subject { authorization_id: ask.purchase.authorization_id.clone(), increment: None };
        let (exceeded, known) = {
            let decided = self.shared.decided();
            let exceeded = decided.get(&subject).filter(|first| first.is_exceeded_by(&ask)).cloned();
            if exceeded.is_some() {
                subject.increment = Some(ask.source_event.clone());
            }
            (exceeded, decided.get(&subject).cloned())
        };
        if let Some(known) = known {
            self.shared.counters.repeats.inc();
            let _ = reply.send(Ok(known));
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
                let (judge, guard) = (self.judge.clone(), context.address());
                // A task of its own, not a future of this context: that would poll all of them at each step.
                actix::spawn(async move {
                    let result = judge.answer(ask, exceeded, answer_by).await;
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
                if self.shared.decided().insert(Subject::of(decided), decided.clone()) {
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

/// The newest answers, oldest first, so that repeats after a restart are answered without a new judgement; and what was
/// bought in the week before. Blocks.
pub(super) fn load_decided(store: &dyn Store, now: Timestamp) -> Result<(Vec<Decided>, SpendingLedger), ReadError> {
    let (mut newest, mut after) = (Vec::new(), None::<String>);
    'pages: while newest.len() < LOAD_SPENT {
        let page = store.scan(Table::Decisions, "", after.as_deref(), 500, Order::Descending)?;
        for (key, row) in &page.rows {
            let decision: Decision = serde_json::from_str(row.get())
                .map_err(|error| ReadError::Damaged(format!("decision {key}: {error}")))?;
            if newest.len() >= LOAD_DECIDED && now.since_ms(decision.at) > SPENT_MS {
                break 'pages;
            }
            newest.push(decision);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut spending = SpendingLedger::default();
    for decision in newest.iter().rev() {
        if !count_bought(&mut spending, decision) || decision.follows.is_some() {
            continue;
        }
        let Purchase { source, authorization_id, .. } = &decision.purchase;
        if let Some(found) = settle::stored_here(store, &format!("{source}/{authorization_id}"))? {
            count_taken(&mut spending, &found);
        }
    }
    let decided = newest.iter().take(LOAD_DECIDED).rev().map(Decided::from).collect();
    Ok((decided, spending))
}

/// What is bought by a decision as it is recorded; false where nothing is. To be called once for each.
pub(super) fn count_bought(spending: &mut SpendingLedger, decision: &Decision) -> bool {
    let Some(inputs) = &decision.inputs else { return false };
    if decision.card_id.is_none() || decision.ruling.settlement != Settlement::Enabled {
        return false;
    }
    let Purchase { card_ref, source, authorization_id, amount, .. } = &decision.purchase;
    let allowed = decision.ruling.cap_minor.map_or(amount.amount_minor, |cap| cap.min(amount.amount_minor));
    if decision.follows.is_some() {
        spending.add(card_ref, source, authorization_id, allowed);
    } else {
        spending.ask(&decision.purchase, &inputs.station);
        spending.correct(card_ref, source, authorization_id, allowed);
    }
    true
}

/// What became of it: given back, or captured.
pub(super) fn count_taken(spending: &mut SpendingLedger, found: &Reconciliation) {
    let Purchase { card_ref, source, authorization_id, .. } = &found.purchase;
    if found.is_given_back() {
        spending.forget(card_ref, source, authorization_id);
    } else if found.taken_minor() > 0 {
        spending.correct(card_ref, source, authorization_id, found.taken_minor());
        spending.note_fuelled(card_ref, source, authorization_id, &found.fuelled());
    }
}
