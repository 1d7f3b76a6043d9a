//! Alerts that nobody has acknowledged: when each goes to whom next. Plain data, no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::notification::{AlertFacts, Notification};
use crate::config::{Email, Level};
use crate::domain::Timestamp;

/// Alerts watched at once; more are told and not escalated.
pub const MAX_WATCHED: usize = 10_000;

/// An alert that may be escalated; stored as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watched {
    pub alert_id: String,
    /// Steps that were told.
    pub step: u8,
    /// When the next one is; absent = it was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    pub notification: Arc<Notification>,
}

#[derive(Debug)]
pub struct Escalation {
    after_ms: i64,
    severity: Level,
    watched: BTreeMap<String, Watched>,
    dirty: BTreeSet<String>,
    stored: BTreeSet<String>,
    pub beyond: u64,
}

impl Escalation {
    pub fn new(after_ms: i64, severity: Level) -> Self {
        Self {
            after_ms,
            severity,
            watched: BTreeMap::new(),
            dirty: BTreeSet::new(),
            stored: BTreeSet::new(),
            beyond: 0,
        }
    }

    pub fn restore(&mut self, watched: Vec<Watched>) {
        for item in watched {
            self.stored.insert(item.alert_id.clone());
            self.watched.insert(item.alert_id.clone(), item);
        }
    }

    /// What the journal says of an alert. Returns the steps that were told, when this ends the watch: who was told of
    /// the alert is told of its end too.
    pub fn note(&mut self, alert: &AlertFacts, notification: &Arc<Notification>) -> u8 {
        if !alert.is_waiting {
            let Some(ended) = self.watched.remove(&alert.alert_id) else { return 0 };
            self.forget(&alert.alert_id);
            return ended.step;
        }
        if alert.severity < self.severity {
            return 0;
        }
        if let Some(known) = self.watched.get_mut(&alert.alert_id) {
            known.notification = Arc::clone(notification);
            self.dirty.insert(alert.alert_id.clone());
            return 0;
        }
        if self.watched.len() >= MAX_WATCHED {
            self.beyond += 1;
            return 0;
        }
        let watched = Watched {
            alert_id: alert.alert_id.clone(),
            step: 0,
            due_at: Some(alert.opened_at.plus_ms(self.after_ms)),
            notification: Arc::clone(notification),
        };
        self.dirty.insert(alert.alert_id.clone());
        self.watched.insert(alert.alert_id.clone(), watched);
        0
    }

    /// Steps that are due, each once.
    pub fn due(&mut self, now: Timestamp, position: u64) -> Vec<Notification> {
        let mut told = Vec::new();
        for (alert_id, item) in &mut self.watched {
            if item.due_at.is_none_or(|due| due > now) {
                continue;
            }
            item.step += 1;
            item.due_at = (item.step < Email::MAX_ESCALATION).then(|| now.plus_ms(self.after_ms));
            self.dirty.insert(alert_id.clone());
            told.extend(item.notification.escalated(item.step, now, position));
        }
        told
    }

    fn forget(&mut self, alert_id: &str) {
        if self.stored.contains(alert_id) {
            self.dirty.insert(alert_id.to_owned());
        } else {
            self.dirty.remove(alert_id);
        }
    }

    pub fn changes(&self) -> impl Iterator<Item = (&str, Option<&Watched>)> {
        self.dirty.iter().map(|id| (id.as_str(), self.watched.get(id)))
    }

    pub fn stored(&mut self, rows: &[(String, bool)]) {
        for (alert_id, is_there) in rows {
            self.dirty.remove(alert_id);
            if *is_there {
                self.stored.insert(alert_id.clone());
            } else {
                self.stored.remove(alert_id);
            }
        }
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub fn watched(&self) -> usize {
        self.watched.len()
    }
}
