//! Facts a car must not lose: each is kept until the gateway says it is durable (`event_ack`).
//!
//! Sent in order with a small window; sent again when the link comes back and when no answer comes.

use std::collections::VecDeque;

use cardea::domain::Timestamp;
use cardea::domain::command::{Fact, FactKind, KeyOutcome};

/// Days of parking without a link fit; past it the oldest fact goes and is counted.
pub const MAX_FACTS: usize = 256;
/// At most so many sent and unanswered at once.
pub const WINDOW: usize = 16;
pub const RESEND_AFTER_MS: i64 = 10_000;
/// How a `tamper` begins that tells of a phone which named no key.
pub const REFUSED_PHONE: &str = "a phone was refused";

#[derive(Debug, Clone)]
pub struct FactQueue {
    boot: u64,
    next_seq: u64,
    waiting: VecDeque<Waiting>,
    /// Facts given up because the queue was full.
    pub lost: u64,
    pub resent: u64,
}

#[derive(Debug, Clone)]
struct Waiting {
    fact: Fact,
    sent_at: Option<Timestamp>,
}

impl FactQueue {
    pub fn new(boot: u64) -> Self {
        Self { boot, next_seq: 1, waiting: VecDeque::new(), lost: 0, resent: 0 }
    }

    pub fn boot(&self) -> u64 {
        self.boot
    }

    pub fn push(&mut self, at: Timestamp, kind: FactKind) {
        if self.waiting.len() >= MAX_FACTS {
            // Whoever is refused at the door shall not be able to push out what happened.
            let least = self.waiting.iter().position(|waiting| is_refusal(&waiting.fact.kind)).unwrap_or(0);
            self.waiting.remove(least);
            self.lost += 1;
        }
        let fact = Fact { boot: self.boot, seq: self.next_seq, at, kind };
        self.next_seq += 1;
        self.waiting.push_back(Waiting { fact, sent_at: None });
    }

    /// Facts that only say that somebody was refused.
    pub fn refusals(&self) -> usize {
        self.waiting.iter().filter(|waiting| is_refusal(&waiting.fact.kind)).count()
    }

    /// Forgets one fact; false when it was not waiting (an answer to a resend, or to an earlier start).
    pub fn acknowledge(&mut self, boot: u64, seq: u64) -> bool {
        let before = self.waiting.len();
        if boot == self.boot {
            self.waiting.retain(|waiting| waiting.fact.seq != seq);
        }
        self.waiting.len() < before
    }

    /// The link is new: nothing that was sent before counts.
    pub fn forget_sending(&mut self) {
        for waiting in &mut self.waiting {
            waiting.sent_at = None;
        }
    }

    /// What is to be sent now: the oldest facts inside the window that were not sent, or long ago.
    pub fn due(&mut self, now: Timestamp) -> Vec<Fact> {
        let mut due = Vec::new();
        for waiting in self.waiting.iter_mut().take(WINDOW) {
            match waiting.sent_at {
                Some(sent) if now.since_ms(sent) < RESEND_AFTER_MS => continue,
                Some(_) => self.resent += 1,
                None => {}
            }
            waiting.sent_at = Some(now);
            due.push(waiting.fact.clone());
        }
        due
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Said of a phone that was not even believed, too: see [`REFUSED_PHONE`].
fn is_refusal(kind: &FactKind) -> bool {
    match kind {
        FactKind::KeyUsed { outcome, .. } => *outcome == KeyOutcome::Refused,
        FactKind::Tamper { what } => what.starts_with(REFUSED_PHONE),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(count: u64) -> FactQueue {
        let mut queue = FactQueue::new(7);
        for _ in 0..count {
            queue.push(Timestamp(0), FactKind::Ignition { on: true });
        }
        queue
    }

    fn seqs(facts: &[Fact]) -> Vec<u64> {
        facts.iter().map(|fact| fact.seq).collect()
    }

    #[test]
    fn a_fact_is_sent_again_until_it_is_acknowledged() {
        let mut queue = queue_of(2);
        assert_eq!(seqs(&queue.due(Timestamp(0))), [1, 2]);
        assert_eq!(seqs(&queue.due(Timestamp(RESEND_AFTER_MS - 1))), [] as [u64; 0]);
        assert!(queue.acknowledge(7, 1));
        assert!(!queue.acknowledge(7, 1));
        assert!(!queue.acknowledge(6, 2), "an answer to an earlier start is not ours");
        assert_eq!(seqs(&queue.due(Timestamp(RESEND_AFTER_MS))), [2]);
        queue.forget_sending();
        assert_eq!(seqs(&queue.due(Timestamp(RESEND_AFTER_MS + 1))), [2]);
    }

    #[test]
    fn the_window_bounds_what_is_under_way() {
        let mut queue = queue_of(40);
        assert_eq!(queue.due(Timestamp(0)).len(), WINDOW);
        assert!(queue.due(Timestamp(1)).is_empty());
        queue.acknowledge(7, 1);
        assert_eq!(seqs(&queue.due(Timestamp(2))), [17]);
    }

    #[test]
    fn a_full_queue_gives_up_its_oldest_and_counts_it() {
        let mut queue = queue_of(MAX_FACTS as u64 + 3);
        assert_eq!((queue.len(), queue.lost), (MAX_FACTS, 3));
        assert_eq!(queue.due(Timestamp(0))[0].seq, 4);
    }
}
