//! What is still to be delivered, to whom, in which order and when next; and what could not be. Plain data, no I/O.
//!
//! Each target has a lane a subject: within a lane the first goes before the others, lanes do not wait for each other,
//! and targets never do. Nothing leaves but as delivered or as a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::notification::{Notification, derived_id};
use crate::domain::Timestamp;

/// Waiting for one target; at some 2 kB each. More become dead letters at once.
pub const MAX_WAITING: usize = 10_000;
/// Dead letters kept; the oldest go first.
pub const MAX_DEAD: usize = 5_000;
/// Deliveries to one target at once.
const MAX_IN_FLIGHT: usize = 4;
const FIRST_BACKOFF_MS: i64 = 1_000;
const MAX_BACKOFF_MS: i64 = 10 * 60_000;
/// For what was refused for a reason that time alone does not mend.
const FIRST_SLOW_BACKOFF_MS: i64 = 60_000;
const MAX_SLOW_BACKOFF_MS: i64 = 60 * 60_000;
/// A target that failed for different subjects in a row is tried at most this seldom, and at least.
const MAX_GATE_MS: i64 = 60_000;
/// What a target may ask for with `Retry-After`.
const MAX_RETRY_AFTER_MS: i64 = 60 * 60_000;

/// One notification on its way to one target; stored as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    pub id: Uuid,
    pub target: String,
    /// Since when it is tried.
    pub since: Timestamp,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub notification: Arc<Notification>,
}

/// A delivery that was given up; stored as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    pub died_at: Timestamp,
    pub reason: String,
    pub delivery: Delivery,
}

/// Why a try failed. It may have arrived all the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub error: String,
    pub kind: FailureKind,
    pub retry_after_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The target did not answer or is in trouble: it may take the same later.
    Passing,
    /// The target refuses this very notification: it is tried again, more seldom.
    Refused,
    /// The target asks never to be told again.
    Gone,
}

/// How a target does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    pub last_success_at: Option<Timestamp>,
    pub last_failure_at: Option<Timestamp>,
    pub last_error: Option<String>,
    /// Failures since the last success.
    pub streak: u32,
}

/// What waits of one subject, the first first.
#[derive(Debug, Default)]
struct Lane {
    ids: VecDeque<Uuid>,
    /// Its entry in the queue's `due`; `None` while it is in flight.
    due_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Queue {
    lanes: HashMap<String, Lane>,
    /// When each lane that is not in flight is due.
    due: BTreeSet<(Timestamp, String)>,
    in_flight: HashSet<String>,
    waiting: usize,
    health: Health,
    /// The subject that failed first since the last success, and whether others did too.
    failing: Option<(String, bool)>,
    /// While others did too: nothing is tried before this, and then one at a time.
    gate_at: Option<Timestamp>,
    /// How often in a row the gate opened for nothing.
    gate_step: u32,
}

/// What changed since it was last stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    Waiting(Uuid),
    Dead(Uuid),
}

/// What the counters show of each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    Delivered,
    Waiting,
    Dead,
}

#[derive(Debug)]
pub struct Outbox {
    retry_for_ms: i64,
    queues: BTreeMap<String, Queue>,
    deliveries: HashMap<Uuid, Delivery>,
    dead: BTreeMap<Uuid, DeadLetter>,
    dirty: BTreeSet<Row>,
    stored: HashSet<Row>,
    pub dead_dropped: u64,
}

impl Outbox {
    pub fn new(targets: impl IntoIterator<Item = String>, retry_for_ms: i64) -> Self {
        Self {
            retry_for_ms,
            queues: targets.into_iter().map(|name| (name, Queue::default())).collect(),
            deliveries: HashMap::new(),
            dead: BTreeMap::new(),
            dirty: BTreeSet::new(),
            stored: HashSet::new(),
            dead_dropped: 0,
        }
    }

    /// What an earlier run left; in any order. What has no target any more becomes a dead letter.
    pub fn restore(&mut self, mut waiting: Vec<Delivery>, dead: Vec<DeadLetter>, now: Timestamp) {
        self.stored.extend(waiting.iter().map(|delivery| Row::Waiting(delivery.id)));
        self.stored.extend(dead.iter().map(|letter| Row::Dead(letter.delivery.id)));
        self.dead.extend(dead.into_iter().map(|letter| (letter.delivery.id, letter)));
        waiting.sort_by_key(|delivery| delivery.notification.place);
        for delivery in waiting {
            self.enqueue(delivery, now);
        }
        self.bound_dead();
    }

    /// Takes a notification for a target. The same again is one.
    pub fn take(&mut self, target: &str, notification: Arc<Notification>, now: Timestamp) -> Became {
        let id = derived_id(notification.at, &[notification.id.as_bytes(), target.as_bytes()]);
        if self.deliveries.contains_key(&id) || self.dead.contains_key(&id) {
            return Became::Waiting;
        }
        let delivery =
            Delivery { id, target: target.to_owned(), since: now, attempts: 0, last_error: None, notification };
        self.enqueue(delivery, now)
    }

    fn enqueue(&mut self, delivery: Delivery, now: Timestamp) -> Became {
        let Some(queue) = self.queues.get_mut(&delivery.target) else {
            self.bury(delivery, "the target is not configured any more", now);
            return Became::Dead;
        };
        if queue.waiting >= MAX_WAITING {
            self.bury(delivery, "too many were waiting for this target", now);
            return Became::Dead;
        }
        let subject = delivery.notification.subject.clone();
        let lane = queue.lanes.entry(subject.clone()).or_default();
        lane.ids.push_back(delivery.id);
        let is_first = lane.ids.len() == 1;
        queue.waiting += 1;
        if is_first {
            queue.schedule(&subject, now);
        }
        let row = Row::Waiting(delivery.id);
        // Restored ones are stored already.
        if !self.stored.contains(&row) {
            self.dirty.insert(row);
        }
        self.deliveries.insert(delivery.id, delivery);
        Became::Waiting
    }

    /// What is to be tried now; each stays in flight until [`Outbox::succeeded`] or [`Outbox::failed`].
    pub fn due(&mut self, now: Timestamp) -> Vec<Delivery> {
        let mut all = Vec::new();
        for queue in self.queues.values_mut() {
            let at_once = match queue.gate_at {
                None => MAX_IN_FLIGHT,
                Some(gate) if gate <= now => 1,
                Some(_) => 0,
            };
            while queue.in_flight.len() < at_once {
                let Some((at, subject)) = queue.due.pop_first() else { break };
                if at > now {
                    queue.due.insert((at, subject));
                    break;
                }
                let Some(lane) = queue.lanes.get_mut(&subject) else { continue };
                lane.due_at = None;
                if let Some(delivery) = lane.ids.front().and_then(|id| self.deliveries.get(id)) {
                    all.push(delivery.clone());
                    queue.in_flight.insert(subject);
                }
            }
        }
        all
    }

    /// The target took it.
    pub fn succeeded(&mut self, id: Uuid, now: Timestamp) {
        let Some(delivery) = self.leave(id, now) else { return };
        let Some(queue) = self.queues.get_mut(&delivery.target) else { return };
        queue.health.last_success_at = Some(now);
        queue.health.streak = 0;
        if queue.failing.take().is_some_and(|(_, others_too)| others_too) {
            // The target is back: nobody waits out a backoff that was its fault.
            let late: Vec<String> =
                queue.due.iter().filter(|(at, _)| *at > now).map(|(_, name)| name.clone()).collect();
            late.iter().for_each(|subject| queue.schedule(subject, now));
        }
        (queue.gate_at, queue.gate_step) = (None, 0);
    }

    /// Gives up what has waited too long for targets that fail whatever they are sent: they are tried too seldom to find
    /// each by a try of its own.
    pub fn expire(&mut self, now: Timestamp) -> Vec<String> {
        let mut over = Vec::new();
        for queue in self.queues.values().filter(|queue| queue.gate_at.is_some()) {
            for (subject, lane) in &queue.lanes {
                if queue.in_flight.contains(subject) {
                    continue;
                }
                let waiting = lane.ids.iter().filter_map(|id| self.deliveries.get(id));
                let old = waiting.take_while(|delivery| now >= delivery.since.plus_ms(self.retry_for_ms));
                over.extend(old.map(|delivery| (delivery.id, queue.health.last_error.clone())));
            }
        }
        let mut targets = Vec::new();
        for (id, last_error) in over {
            if let Some(delivery) = self.leave(id, now) {
                targets.push(delivery.target.clone());
                let reason = delivery.last_error.clone().or(last_error).unwrap_or_default();
                self.bury(delivery, &reason, now);
            }
        }
        targets
    }

    /// The target did not. `chance` (0 to 1) spreads retries.
    pub fn failed(&mut self, id: Uuid, failure: &Failure, now: Timestamp, chance: f64) -> Became {
        let Some(delivery) = self.deliveries.get_mut(&id) else { return Became::Delivered };
        delivery.attempts = delivery.attempts.saturating_add(1);
        delivery.last_error = Some(failure.error.clone());
        // Each doubling is stored, so that a long outage does not fill the journal.
        if delivery.attempts.is_power_of_two() {
            self.dirty.insert(Row::Waiting(id));
        }
        let (attempts, over_at) = (delivery.attempts, delivery.since.plus_ms(self.retry_for_ms));
        let subject = delivery.notification.subject.clone();
        if let Some(queue) = self.queues.get_mut(&delivery.target) {
            queue.note_failure(&subject, failure, now);
        }
        let is_over = now >= over_at || failure.kind == FailureKind::Gone;
        if is_over {
            if let Some(delivery) = self.leave(id, now) {
                self.bury(delivery, &failure.error, now);
            }
            return Became::Dead;
        }
        let asked = failure.retry_after_ms.map_or(0, |ms| ms.clamp(0, MAX_RETRY_AFTER_MS));
        let wait_ms = backoff_ms(attempts, failure.kind, chance).max(asked);
        let target = self.deliveries.get(&id).map(|delivery| delivery.target.clone()).unwrap_or_default();
        if let Some(queue) = self.queues.get_mut(&target) {
            queue.in_flight.remove(&subject);
            // The last try is at the end of the time, not after it.
            queue.schedule(&subject, now.plus_ms(wait_ms).min(over_at));
        }
        Became::Waiting
    }

    /// Takes a delivery out; its lane goes on.
    fn leave(&mut self, id: Uuid, now: Timestamp) -> Option<Delivery> {
        let delivery = self.deliveries.remove(&id)?;
        self.forget(Row::Waiting(id));
        let queue = self.queues.get_mut(&delivery.target)?;
        let subject = &delivery.notification.subject;
        queue.in_flight.remove(subject);
        queue.waiting = queue.waiting.saturating_sub(1);
        if let Some(lane) = queue.lanes.get_mut(subject) {
            match lane.ids.front() {
                Some(first) if *first == id => drop(lane.ids.pop_front()),
                Some(_) | None => lane.ids.retain(|other| *other != id),
            }
            let is_over = lane.ids.is_empty();
            queue.schedule(subject, now);
            if is_over {
                queue.due.remove(&(now, subject.clone()));
                queue.lanes.remove(subject);
            }
        }
        Some(delivery)
    }

    fn bury(&mut self, delivery: Delivery, reason: &str, now: Timestamp) {
        tracing::warn!(
            target = delivery.target,
            kind = delivery.notification.kind,
            subject = delivery.notification.subject,
            reason,
            "a notification became a dead letter"
        );
        self.forget(Row::Waiting(delivery.id));
        self.dirty.insert(Row::Dead(delivery.id));
        self.dead.insert(delivery.id, DeadLetter { died_at: now, reason: reason.to_owned(), delivery });
        self.bound_dead();
    }

    fn bound_dead(&mut self) {
        while self.dead.len() > MAX_DEAD {
            let Some((id, _)) = self.dead.pop_first() else { return };
            self.forget(Row::Dead(id));
            self.dead_dropped += 1;
        }
    }

    /// What was stored is to be removed; what was not need not be.
    fn forget(&mut self, row: Row) {
        if self.stored.contains(&row) {
            self.dirty.insert(row);
        } else {
            self.dirty.remove(&row);
        }
    }

    /// Tries a dead letter anew, after what waits already. `None` = there is no such letter, `Some(false)` = its target
    /// is not configured or has too many waiting.
    pub fn revive(&mut self, id: Uuid, now: Timestamp) -> Option<bool> {
        let target = &self.dead.get(&id)?.delivery.target;
        if self.queues.get(target).is_none_or(|queue| queue.waiting >= MAX_WAITING) {
            return Some(false);
        }
        let letter = self.dead.remove(&id)?;
        self.forget(Row::Dead(id));
        let delivery = Delivery { since: now, attempts: 0, ..letter.delivery };
        Some(self.enqueue(delivery, now) == Became::Waiting)
    }

    /// Newest first.
    pub fn dead_letters(&self, after: Option<Uuid>, limit: usize) -> Vec<DeadLetter> {
        let letters = self.dead.iter().rev().filter(|(id, _)| after.is_none_or(|after| **id < after));
        letters.take(limit).map(|(_, letter)| letter.clone()).collect()
    }

    pub fn health(&self, target: &str) -> Health {
        self.queues.get(target).map(|queue| queue.health.clone()).unwrap_or_default()
    }

    /// How many wait for the target, and since when the oldest does.
    pub fn waiting(&self, target: &str) -> (usize, Option<Timestamp>) {
        let Some(queue) = self.queues.get(target) else { return (0, None) };
        let heads = queue.lanes.values().filter_map(|lane| lane.ids.front()).filter_map(|id| self.deliveries.get(id));
        (queue.waiting, heads.map(|delivery| delivery.since).min())
    }

    pub fn waiting_len(&self, target: &str) -> usize {
        self.queues.get(target).map_or(0, |queue| queue.waiting)
    }

    pub fn waiting_in_all(&self) -> usize {
        self.deliveries.len()
    }

    pub fn dead_in_all(&self) -> usize {
        self.dead.len()
    }

    /// What has to be stored, and what of it now holds; nothing is forgotten before [`Outbox::stored`].
    pub fn changes(&self) -> Vec<(Row, Option<Stored<'_>>)> {
        let content = |row: &Row| match row {
            Row::Waiting(id) => self.deliveries.get(id).map(Stored::Waiting),
            Row::Dead(id) => self.dead.get(id).map(Stored::Dead),
        };
        self.dirty.iter().map(|row| (*row, content(row))).collect()
    }

    /// These are durable as [`Outbox::changes`] gave them.
    pub fn stored(&mut self, rows: &[(Row, bool)]) {
        for (row, is_there) in rows {
            self.dirty.remove(row);
            if *is_there {
                self.stored.insert(*row);
            } else {
                self.stored.remove(row);
            }
        }
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

/// A row's content.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    Waiting(&'a Delivery),
    Dead(&'a DeadLetter),
}

impl Queue {
    /// The lane is due then, and no other time.
    fn schedule(&mut self, subject: &str, at: Timestamp) {
        let Some(lane) = self.lanes.get_mut(subject) else { return };
        if let Some(before) = lane.due_at.replace(at) {
            self.due.remove(&(before, subject.to_owned()));
        }
        self.due.insert((at, subject.to_owned()));
    }

    fn note_failure(&mut self, subject: &str, failure: &Failure, now: Timestamp) {
        self.health.last_failure_at = Some(now);
        self.health.last_error = Some(failure.error.clone());
        self.health.streak = self.health.streak.saturating_add(1);
        if failure.kind != FailureKind::Passing {
            return;
        }
        let others_too = match &mut self.failing {
            Some((first, others_too)) => {
                *others_too |= first != subject;
                *others_too
            }
            None => {
                self.failing = Some((subject.to_owned(), false));
                false
            }
        };
        // What was under way when the gate closed says nothing new.
        if others_too && self.gate_at.is_none_or(|gate| gate <= now) {
            let wait_ms = (FIRST_BACKOFF_MS << self.gate_step.min(16)).min(MAX_GATE_MS);
            self.gate_at = Some(now.plus_ms(wait_ms));
            self.gate_step += 1;
        }
    }
}

fn backoff_ms(attempts: u32, kind: FailureKind, chance: f64) -> i64 {
    let (first, most) = match kind {
        FailureKind::Passing | FailureKind::Gone => (FIRST_BACKOFF_MS, MAX_BACKOFF_MS),
        FailureKind::Refused => (FIRST_SLOW_BACKOFF_MS, MAX_SLOW_BACKOFF_MS),
    };
    let full = (first << attempts.saturating_sub(1).min(20)).min(most);
    // Between half of it and all of it, so that many do not come at once.
    full / 2 + (full as f64 / 2.0 * chance.clamp(0.0, 1.0)) as i64
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
