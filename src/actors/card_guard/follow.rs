//! What the guard's memory does with rows that any gateway of a cluster recorded.
//!
//! Cards, stations, sightings and rules are put as they are: the follower is the only one who does. What answers a question
//! cannot wait for the follower, so a decision of this gateway is known by its id and is not counted twice, and a step-up
//! only ever moves on.

use std::sync::{Arc, PoisonError};

use super::authorise::{Subject, count_bought, count_taken};
use super::desk::{self, Edit};
use super::rule_versions::{ACTIVE_ROW, ActiveRules};
use super::{Decided, GuardHandle, Shared, settle};
use crate::actors::feed::{AlertChanged, DecisionMade};
use crate::actors::follower::Follower;
use crate::domain::card::{Alert, Decision, Outcome, Reconciliation, StepUp};
use crate::domain::{DecisionId, Principal, Timestamp};
use crate::store::{ChangedRow, ReadError, Table};

const DECLINES_WITHIN_MS: i64 = 86_400_000;

const TABLES: &[Table] = &[
    Table::Cards,
    Table::Stations,
    Table::StationSightings,
    Table::CardRules,
    Table::Decisions,
    Table::Reconciliations,
    Table::StepUps,
    Table::Alerts,
];

impl GuardHandle {
    /// Keeps the guard's memory as every gateway's records say.
    pub fn follow(&self, follower: &mut Follower) {
        let shared = self.shared.clone();
        follower.add(TABLES, Box::new(move |row| shared.take_row(row)));
    }
}

fn parse<T: serde::de::DeserializeOwned>(changed: &ChangedRow) -> Result<Option<T>, ReadError> {
    let read = changed.row.as_deref().map(|row| serde_json::from_str(row.get())).transpose();
    read.map_err(|error| ReadError::Damaged(error.to_string()))
}

fn id<T: std::str::FromStr>(key: &str) -> Result<T, ReadError> {
    key.parse().map_err(|_| ReadError::Damaged(format!("{key} is no id")))
}

impl Shared {
    fn take_row(self: &Arc<Self>, changed: &ChangedRow) -> Result<(), ReadError> {
        let key = changed.key.as_str();
        match changed.table {
            Table::Cards => match parse(changed)? {
                Some(card) => self.book_mut().put_card(card),
                None => self.book_mut().remove_card(&id(key)?),
            },
            Table::Stations => match parse(changed)? {
                Some(station) => self.book_mut().directory.put(station),
                None => self.book_mut().directory.remove(&id(key)?),
            },
            Table::StationSightings => match parse(changed)? {
                Some(sightings) => self.book_mut().directory.put_sightings(sightings),
                None => self.book_mut().directory.remove_sightings(&id(key)?),
            },
            Table::CardRules if key == ACTIVE_ROW => {
                // As they are now: a version that came since is put with its own record once more.
                if let Some((book, version)) = ActiveRules::stored(&*self.store)? {
                    self.rules.put(book, version);
                }
            }
            Table::Decisions => self.take_decision(changed)?,
            Table::Reconciliations => self.take_reconciliation(changed)?,
            Table::StepUps => {
                if let Some(step_up) = parse::<StepUp>(changed)?
                    && !self.step_ups.merge(step_up, self.clock.now())
                {
                    self.counters.step_ups_full.inc();
                }
            }
            Table::Alerts => {
                if let (Some(alert), Some(body)) = (parse::<Alert>(changed)?, &changed.row) {
                    let told = AlertChanged { id: alert.alert_id, open: alert.is_open(), body: body.clone().into() };
                    self.alerts_feed.do_send(told);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Another gateway's: the same question gets the same answer here, and what it bought counts.
    fn take_decision(self: &Arc<Self>, changed: &ChangedRow) -> Result<(), ReadError> {
        let is_counted = changed.key.parse().is_ok_and(|id: DecisionId| self.counted().get(&id).is_some());
        let Some(decision) = (if is_counted { None } else { parse::<Decision>(changed)? }) else { return Ok(()) };
        self.counted().insert(decision.decision_id, ());
        let decided = Decided::from(&decision);
        let (subject, mut known) = (Subject::of(&decided), self.decided());
        // What was answered here stays the answer here.
        if known.get(&subject).is_none_or(|known| known.decision_id == decided.decision_id) {
            if known.insert(subject, Arc::new(decided)) {
                self.counters.forgotten.inc();
            }
            count_bought(&mut self.spending(), &decision);
        }
        drop(known);
        self.count_decline(&decision);
        if let Some(body) = &changed.row {
            self.decisions_feed.do_send(DecisionMade(body.clone().into()));
        }
        Ok(())
    }

    fn take_reconciliation(&self, changed: &ChangedRow) -> Result<(), ReadError> {
        if let Some(key) = changed.key.strip_prefix(settle::OPEN) {
            if !self.settling.note(key, parse::<Timestamp>(changed)?) {
                self.counters.settling_full.inc();
            }
            return Ok(());
        }
        let Some(found) = parse::<Reconciliation>(changed)? else { return Ok(()) };
        let mut spending = self.spending();
        if found.card_id.is_some() && found.taken_minor() > 0 && !found.is_given_back() {
            // It is not there when a reversal came first, or when nobody was asked.
            spending.ask(&found.purchase, &found.station);
        }
        count_taken(&mut spending, &found);
        Ok(())
    }

    /// Suspends a card that is declined for hard reasons again and again, if the operator wants that.
    pub(super) fn count_decline(self: &Arc<Self>, decision: &Decision) {
        let Some(card_id) = decision.card_id.clone().filter(|_| self.suspend_after > 0) else { return };
        if decision.ruling.outcome != Outcome::Decline || !decision.ruling.has_failed_check() {
            return;
        }
        let count = {
            // Each change is one insertion: whole, whatever panicked.
            let mut declines = self.declines.lock().unwrap_or_else(PoisonError::into_inner);
            let earlier = declines.get(&card_id).filter(|(_, since)| decision.at.since_ms(*since) < DECLINES_WITHIN_MS);
            let (count, since) = earlier.map_or((1, decision.at), |(count, since)| (count + 1, *since));
            // Whoever reinstates the card begins anew.
            let kept = if count >= self.suspend_after { 0 } else { count };
            declines.insert(card_id.clone(), (kept, since));
            count
        };
        if count < self.suspend_after {
            return;
        }
        let (shared, because) = (self.clone(), decision.decision_id);
        // After the answer, which it must not hold up.
        tokio::spawn(async move {
            let edit = Edit::SuspendCard { card_id: card_id.clone(), because };
            if let Err(error) = desk::edit(shared, edit, Principal::gateway(), None).await {
                tracing::warn!(card = %card_id, %error, "a card could not be suspended");
            }
        });
    }
}
