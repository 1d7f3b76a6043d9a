//! From the journal's records to notifications. The journal is the source: what is in it is told, whatever happens.
//!
//! Tolerant: events that are not known here, and fields that are not as expected, tell nothing and break nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::notification::{
    ALERT_ACKNOWLEDGED, ALERT_CONFIRMED, ALERT_OPENED, ALERT_RESOLVED, ALERT_WITHDRAWN, AlertFacts, CARD_DECLINED,
    COMMAND_FINISHED, Notification, Place, PurchaseFacts, RENTAL_CHANGED, derived_id,
};
use crate::config::Level;
use crate::domain::command::CommandState;
use crate::domain::{Money, Timestamp};
use crate::store::{Recorded, Store, Table};

/// The most that a notification's data may have; what is larger is told without it.
pub const MAX_DATA: usize = 64 * 1024;
/// The most of an alert's words that e-mails carry.
const MAX_TEXT_CHARS: usize = 4_000;

/// What anybody is told of; the rest is not even looked at.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub alerts: bool,
    pub declined: bool,
    pub commands: bool,
    pub rentals: bool,
}

/// An event, as far as anything here needs it.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    alert: Option<&'a RawValue>,
    #[serde(borrow, default)]
    decision: Option<&'a RawValue>,
    #[serde(borrow, default)]
    rental: Option<&'a RawValue>,
    #[serde(borrow, default)]
    command_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    rental_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    state: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    until: Option<&'a RawValue>,
    #[serde(borrow, default)]
    at: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AlertDocument {
    alert_id: String,
    kind: String,
    severity: String,
    state: String,
    #[serde(default)]
    vehicle_id: Option<String>,
    #[serde(default)]
    card_id: Option<String>,
    #[serde(default)]
    rental_id: Option<String>,
    #[serde(default)]
    decision_id: Option<String>,
    #[serde(default)]
    text: String,
    opened_at: Timestamp,
}

#[derive(Deserialize)]
struct DecisionDocument {
    decision_id: String,
    at: Timestamp,
    purchase: PurchaseDocument,
    #[serde(default)]
    card_id: Option<String>,
    #[serde(default)]
    vehicle_id: Option<String>,
    #[serde(default)]
    station_id: Option<String>,
    outcome: String,
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    checks: Vec<CheckDocument>,
    #[serde(default)]
    alert_id: Option<String>,
}

#[derive(Deserialize)]
struct PurchaseDocument {
    authorization_id: String,
    at: Timestamp,
    amount: Money,
    #[serde(default)]
    merchant: MerchantDocument,
}

#[derive(Default, Deserialize)]
struct MerchantDocument {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct CheckDocument {
    check: String,
    mode: String,
    verdict: String,
}

#[derive(Serialize)]
struct Declined<'a> {
    decision_id: &'a str,
    authorization_id: &'a str,
    card_id: Option<&'a str>,
    vehicle_id: Option<&'a str>,
    station_id: Option<&'a str>,
    at: Timestamp,
    amount_minor: i64,
    currency: &'a str,
    reasons: &'a [String],
    alert_id: Option<&'a str>,
}

#[derive(Serialize)]
struct CommandFinished<'a> {
    command_id: &'a str,
    vehicle_id: &'a str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    at: Timestamp,
}

/// Who rents is not told: whoever may know asks `/v1/rentals/{id}`.
#[derive(Serialize)]
struct RentalChanged<'a> {
    rental_id: &'a str,
    vehicle_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    at: Timestamp,
}

fn read<'a, T: Deserialize<'a>>(json: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(json?.get()).ok()
}

/// What the record tells, in order. Looks things up in the store, so it blocks.
pub fn notifications(record: &Recorded, wanted: Wanted, store: &dyn Store) -> Vec<Notification> {
    let mut told = Vec::new();
    let mut alerts_told = BTreeSet::new();
    let is_followed = match record.stream.split('/').next() {
        Some("vehicle") => wanted.commands || wanted.rentals,
        Some("card") => wanted.declined,
        _ => false,
    };
    for (index, raw) in record.events.iter().enumerate() {
        // Most of the journal tells nobody anything: it is not parsed.
        let may_matter = (wanted.alerts && raw.get().contains("\"alert\"")) || is_followed;
        let Some(event) = Some(raw).filter(|_| may_matter).and_then(|raw| read::<Event<'_>>(Some(raw))) else {
            continue;
        };
        let teller = Teller { record, index: u32::try_from(index).unwrap_or(u32::MAX), store };
        if wanted.alerts
            && let Some((alert, notification)) = teller.alert(&event)
            && alerts_told.insert((alert, notification.kind.clone()))
        {
            told.push(notification);
        }
        let other = match event.event.as_ref() {
            "purchase_decided" if wanted.declined => teller.declined(&event),
            "command_moved" if wanted.commands => teller.command(&event),
            "rental_reserved" | "rental_moved" | "rental_extended" if wanted.rentals => teller.rental(&event),
            _ => None,
        };
        told.extend(other);
    }
    told
}

struct Teller<'a> {
    record: &'a Recorded,
    index: u32,
    store: &'a dyn Store,
}

impl Teller<'_> {
    fn make<T: Serialize>(&self, kind: &str, subject: String, at: Timestamp, data: &T) -> Option<Notification> {
        let record = self.record;
        let mut data = to_raw_value(data).ok()?;
        if data.get().len() > MAX_DATA {
            tracing::warn!(kind, subject, bytes = data.get().len(), "told without its data, which is too large");
            data = to_raw_value(&serde_json::json!({"omitted": "larger than 65536 bytes"})).ok()?;
        }
        Some(Notification {
            // An alert and a declined purchase may be told of one event, so that the kind is part of it.
            id: derived_id(record.at, &[record.hash.as_bytes(), &self.index.to_be_bytes(), kind.as_bytes()]),
            kind: kind.to_owned(),
            subject,
            at,
            place: Place { position: record.position.0, index: self.index },
            data,
            alert: None,
        })
    }

    fn vehicle_id(&self) -> Option<&str> {
        self.record.stream.strip_prefix("vehicle/")
    }

    fn alert(&self, event: &Event<'_>) -> Option<(String, Notification)> {
        let raw = event.alert?;
        let alert: AlertDocument = read(Some(raw))?;
        let kind = match (event.event.as_ref(), alert.state.as_str()) {
            ("alert_confirmed", _) | (_, "confirmed") => ALERT_CONFIRMED.into(),
            (_, "open") => ALERT_OPENED.into(),
            (_, "acknowledged") => ALERT_ACKNOWLEDGED.into(),
            (_, "resolved") => ALERT_RESOLVED.into(),
            (_, "withdrawn") => ALERT_WITHDRAWN.into(),
            (_, state) => format!("cardea.alert.{state}.v1"),
        };
        let subject = subject(alert.vehicle_id.as_deref(), alert.card_id.as_deref(), &alert.alert_id);
        let mut notification = self.make(&kind, subject, self.record.at, &raw)?;
        let alert_id = alert.alert_id.clone();
        let purchase = alert.decision_id.as_deref().and_then(|id| self.purchase(id));
        notification.alert = Some(AlertFacts {
            alert_id: alert.alert_id,
            kind: alert.kind,
            severity: match alert.severity.as_str() {
                "info" => Level::Info,
                "critical" => Level::Critical,
                _ => Level::Warning,
            },
            is_waiting: !matches!(alert.state.as_str(), "acknowledged" | "resolved" | "withdrawn"),
            vehicle_id: alert.vehicle_id,
            card_id: alert.card_id,
            rental_id: alert.rental_id,
            decision_id: alert.decision_id,
            opened_at: alert.opened_at,
            text: alert.text.chars().take(MAX_TEXT_CHARS).collect(),
            purchase,
            step: 0,
        });
        Some((alert_id, notification))
    }

    /// The purchase that was decided about: in this record, or in the view. Without it an alert is told all the same.
    fn purchase(&self, decision_id: &str) -> Option<PurchaseFacts> {
        let here = self.record.events.iter().find_map(|raw| {
            let decision: DecisionDocument = read(read::<Event<'_>>(Some(raw))?.decision)?;
            (decision.decision_id == decision_id).then_some(decision)
        });
        let decision = here.or_else(|| {
            let row = self.store.get(Table::Decisions, decision_id).ok()??;
            read(Some(&row))
        })?;
        let failed = decision
            .checks
            .into_iter()
            .filter(|check| check.mode == "on" && check.verdict == "fail")
            .map(|check| check.check);
        Some(PurchaseFacts {
            amount: decision.purchase.amount,
            at: decision.purchase.at,
            station: decision.purchase.merchant.name.or(decision.station_id),
            failed: failed.collect(),
        })
    }

    fn declined(&self, event: &Event<'_>) -> Option<Notification> {
        let decision: DecisionDocument = read(event.decision)?;
        if decision.outcome != "decline" {
            return None;
        }
        let (card, vehicle) = (decision.card_id.as_deref(), decision.vehicle_id.as_deref());
        let data = Declined {
            decision_id: &decision.decision_id,
            authorization_id: &decision.purchase.authorization_id,
            card_id: card,
            vehicle_id: vehicle,
            station_id: decision.station_id.as_deref(),
            at: decision.at,
            amount_minor: decision.purchase.amount.amount_minor,
            currency: &decision.purchase.amount.currency,
            reasons: &decision.reasons,
            alert_id: decision.alert_id.as_deref(),
        };
        // With a card that is not the fleet's, the alert that it opened is the subject.
        let other = decision.alert_id.as_deref().unwrap_or(&decision.decision_id);
        self.make(CARD_DECLINED, subject(vehicle, card, other), decision.at, &data)
    }

    fn command(&self, event: &Event<'_>) -> Option<Notification> {
        #[derive(Deserialize)]
        struct Row {
            order: Order,
        }
        #[derive(Deserialize)]
        struct Order {
            #[serde(rename = "type")]
            kind: String,
        }
        let state: CommandState = read(event.state)?;
        if !state.is_final() {
            return None;
        }
        let (command_id, vehicle_id): (String, _) = (read(event.command_id)?, self.vehicle_id()?);
        let row = self.store.get(Table::Commands, &command_id).ok().flatten();
        let at = read(event.at).unwrap_or(self.record.at);
        let data = CommandFinished {
            command_id: &command_id,
            vehicle_id,
            kind: row.and_then(|row| read::<Row>(Some(&row))).map(|row| row.order.kind),
            state: state.name(),
            reason: read(event.reason),
            at,
        };
        self.make(COMMAND_FINISHED, format!("vehicle/{vehicle_id}"), at, &data)
    }

    fn rental(&self, event: &Event<'_>) -> Option<Notification> {
        #[derive(Deserialize)]
        struct Reserved {
            rental_id: String,
            state: String,
            from: Timestamp,
            until: Timestamp,
        }
        let vehicle_id = self.vehicle_id()?;
        let at = read(event.at).unwrap_or(self.record.at);
        let reserved: Option<Reserved> = read(event.rental);
        let (rental_id, state): (String, Option<String>) = match &reserved {
            Some(rental) => (rental.rental_id.clone(), Some(rental.state.clone())),
            None => (read(event.rental_id)?, read(event.state)),
        };
        let data = RentalChanged {
            rental_id: &rental_id,
            vehicle_id,
            state: state.as_deref(),
            from: reserved.as_ref().map(|rental| rental.from),
            until: reserved.as_ref().map(|rental| rental.until).or_else(|| read(event.until)),
            at,
        };
        self.make(RENTAL_CHANGED, format!("vehicle/{vehicle_id}"), at, &data)
    }
}

/// The vehicle comes first: what happens to it is told in one order.
fn subject(vehicle: Option<&str>, card: Option<&str>, other: &str) -> String {
    match (vehicle, card) {
        (Some(vehicle), _) => format!("vehicle/{vehicle}"),
        (None, Some(card)) => format!("card/{card}"),
        (None, None) => format!("alert/{other}"),
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
