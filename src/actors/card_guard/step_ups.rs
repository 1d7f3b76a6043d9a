//! Purchases whose holder is being asked, in memory as long as somebody may stand at the pump.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::recent::Recent;
use crate::domain::card::{Purchase, StepUp};
use crate::domain::{DecisionId, Timestamp};
use crate::store::{Order, ReadError, Store, Table};

/// Asked and not yet forgotten at once: 10 minutes at 16 a second.
const MAX: usize = 10_000;
/// A word and the purchase tried again fit into this after the question.
const KEPT_MS: i64 = 2 * StepUp::OPEN_MS;

pub struct StepUps {
    kept: Mutex<HashMap<DecisionId, StepUp>>,
    /// Those of which some gateway recorded that they are used.
    used: Mutex<Recent<DecisionId, ()>>,
}

impl Default for StepUps {
    fn default() -> Self {
        Self { kept: Mutex::default(), used: Mutex::new(Recent::new(MAX)) }
    }
}

impl StepUps {
    /// Reads those that still matter (blocks).
    pub fn load(store: &dyn Store, now: Timestamp) -> Result<Self, ReadError> {
        let mut kept = HashMap::new();
        let mut after: Option<String> = None;
        'pages: while kept.len() < MAX {
            let page = store.scan(Table::StepUps, "", after.as_deref(), 500, Order::Descending)?;
            for (key, row) in &page.rows {
                let asked: StepUp = serde_json::from_str(row.get())
                    .map_err(|error| ReadError::Damaged(format!("step-up {key}: {error}")))?;
                if now.since_ms(asked.asked_at) > KEPT_MS {
                    break 'pages;
                }
                kept.insert(asked.decision_id, asked);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(Self { kept: Mutex::new(kept), ..Self::default() })
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<DecisionId, StepUp>> {
        // Each change is one insertion: whole, whatever panicked.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: there is no room, and nobody is asked.
    pub fn put(&self, asked: StepUp, now: Timestamp) -> bool {
        let mut kept = self.kept();
        kept.retain(|_, earlier| now.since_ms(earlier.asked_at) <= KEPT_MS);
        let has_room = kept.len() < MAX || kept.contains_key(&asked.decision_id);
        if has_room {
            kept.insert(asked.decision_id, asked);
        }
        has_room
    }

    /// As some gateway recorded it. What is known here may be further on: a word that was given is not taken back, and one
    /// that is being used here stays so.
    pub fn merge(&self, recorded: StepUp, now: Timestamp) -> bool {
        if now.since_ms(recorded.asked_at) > KEPT_MS {
            return true;
        }
        if recorded.is_used {
            self.used().insert(recorded.decision_id, ());
        }
        let mut kept = self.kept();
        let has_room = kept.len() < MAX || kept.contains_key(&recorded.decision_id);
        if let Some(known) = kept.get_mut(&recorded.decision_id) {
            known.answer = known.answer.or(recorded.answer);
            known.is_used |= recorded.is_used;
        } else if has_room {
            kept.insert(recorded.decision_id, recorded);
        }
        has_room
    }

    fn used(&self) -> MutexGuard<'_, Recent<DecisionId, ()>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: DecisionId) -> Option<StepUp> {
        self.kept().get(&id).cloned()
    }

    /// Takes the word that this purchase is tried again on, and when it was given: two tries at once do not both get
    /// it. Give it back with [`StepUps::release`] where it was not needed.
    pub fn claim(&self, purchase: &Purchase) -> Option<(StepUp, Timestamp)> {
        let mut kept = self.kept();
        let confirmed = kept.values_mut().filter_map(|asked| asked.confirms(purchase).map(|at| (asked, at)));
        let (asked, at) = confirmed.max_by_key(|(_, at)| *at)?;
        asked.is_used = true;
        Some((asked.clone(), at))
    }

    pub fn release(&self, id: DecisionId) {
        // Another gateway may have recorded a purchase on it meanwhile.
        if self.used().get(&id).is_some() {
            return;
        }
        if let Some(asked) = self.kept().get_mut(&id) {
            asked.is_used = false;
        }
    }

    /// Those that wait for a word, oldest first; of one renter, or of all.
    pub fn open(&self, renter: Option<&str>, now: Timestamp) -> Vec<StepUp> {
        let kept = self.kept();
        let is_wanted = |asked: &&StepUp| asked.is_open(now) && renter.is_none_or(|renter| asked.renter == renter);
        let mut open: Vec<StepUp> = kept.values().filter(is_wanted).cloned().collect();
        open.sort_by_key(|asked| (asked.asked_at, asked.decision_id));
        open
    }
}
