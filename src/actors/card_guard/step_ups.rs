//! Purchases whose holder is being asked, in memory as long as somebody may stand at the pump.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::card::{Purchase, StepUp};
use crate::domain::{DecisionId, Timestamp};
use crate::store::{Order, ReadError, Store, Table};

/// Asked and not yet forgotten at once: 10 minutes at 16 a second.
const MAX: usize = 10_000;
/// A word and the purchase tried again fit into this after the question.
const KEPT_MS: i64 = 2 * StepUp::OPEN_MS;

#[derive(Default)]
pub struct StepUps(Mutex<HashMap<DecisionId, StepUp>>);

impl StepUps {
    /// Reads those that still matter (blocks).
    pub fn load(store: &dyn Store, now: Timestamp) -> Result<Self, ReadError> {
        let mut kept = HashMap::new();
        let page = store.scan(Table::StepUps, "", None, MAX.min(1_000), Order::Descending)?;
        for (key, row) in &page.rows {
            let asked: StepUp = serde_json::from_str(row.get())
                .map_err(|error| ReadError::Damaged(format!("step-up {key}: {error}")))?;
            if now.since_ms(asked.asked_at) > KEPT_MS {
                break;
            }
            kept.insert(asked.decision_id, asked);
        }
        Ok(Self(Mutex::new(kept)))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<DecisionId, StepUp>> {
        // Each change is one insertion: whole, whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: there is no room, and nobody is asked.
    pub fn put(&self, asked: StepUp, now: Timestamp) -> bool {
        let mut kept = self.kept();
        if kept.len() >= MAX {
            kept.retain(|_, earlier| now.since_ms(earlier.asked_at) <= KEPT_MS);
        }
        let has_room = kept.len() < MAX || kept.contains_key(&asked.decision_id);
        if has_room {
            kept.insert(asked.decision_id, asked);
        }
        has_room
    }

    pub fn get(&self, id: DecisionId) -> Option<StepUp> {
        self.kept().get(&id).cloned()
    }

    /// The confirmed one that this purchase is tried again of, and when it was confirmed.
    pub fn confirmation(&self, purchase: &Purchase) -> Option<(StepUp, Timestamp)> {
        let kept = self.kept();
        let confirmed = kept.values().filter_map(|asked| asked.confirms(purchase).map(|at| (asked, at)));
        confirmed.max_by_key(|(_, at)| *at).map(|(asked, at)| (asked.clone(), at))
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
