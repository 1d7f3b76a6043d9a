//! What people and their programs are told: one CloudEvent, made from one event of the journal.
//!
//! A notification made again from the same record is the same to the byte, id included: so a gateway that was killed may
//! tell it twice, and a receiver knows it by its id.

use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::config::Level;
use crate::domain::{Money, Timestamp};

pub const ALERT_OPENED: &str = "cardea.alert.opened.v1";
pub const ALERT_CONFIRMED: &str = "cardea.alert.confirmed.v1";
pub const ALERT_ACKNOWLEDGED: &str = "cardea.alert.acknowledged.v1";
pub const ALERT_ESCALATED: &str = "cardea.alert.escalated.v1";
pub const ALERT_WITHDRAWN: &str = "cardea.alert.withdrawn.v1";
pub const ALERT_RESOLVED: &str = "cardea.alert.resolved.v1";
pub const CARD_DECLINED: &str = "cardea.card.declined.v1";
pub const COMMAND_FINISHED: &str = "cardea.command.finished.v1";
pub const RENTAL_CHANGED: &str = "cardea.rental.changed.v1";
pub const TEST: &str = "cardea.notification.test.v1";

/// Kept as it is stored, so that a field, once released, keeps its name and meaning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Notification {
    pub id: Uuid,
    pub kind: String,
    /// `vehicle/WVW-1` or `card/ic_1`: notifications of one subject are told in order.
    pub subject: String,
    pub at: Timestamp,
    pub place: Place,
    pub data: Box<RawValue>,
    /// What e-mails are written from; alerts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertFacts>,
}

/// Where in the journal it comes from; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub position: u64,
    pub index: u32,
}

/// An alert as far as people are told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertFacts {
    pub alert_id: String,
    pub kind: String,
    pub severity: Level,
    /// Nobody has acknowledged it and it is not over.
    pub is_waiting: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rental_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    pub opened_at: Timestamp,
    /// The gateway's own words, in English.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purchase: Option<PurchaseFacts>,
    /// Which step of the escalation this is; 0 = none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub step: u8,
}

/// The purchase an alert is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PurchaseFacts {
    pub amount: Money,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station: Option<String>,
    /// The checks that failed.
    pub failed: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(step: &u8) -> bool {
    *step == 0
}

/// `{"specversion":"1.0","id":"…","source":"urn:cardea:gateway","type":"cardea.alert.opened.v1","subject":"vehicle/WVW-1",…}`
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: Uuid,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    time: Timestamp,
    datacontenttype: &'static str,
    /// CloudEvents' own extension: greater is later.
    sequence: String,
    data: &'a RawValue,
}

impl Notification {
    /// The CloudEvent in JSON; the same bytes each time.
    pub fn body(&self, source: &str) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&CloudEvent {
            specversion: "1.0",
            id: self.id,
            source,
            kind: &self.kind,
            subject: &self.subject,
            time: self.at,
            datacontenttype: "application/json",
            sequence: format!("{:020}.{:05}", self.place.position, self.place.index),
            data: &self.data,
        })
    }

    /// The next step of an escalation of what this tells; the same id each time it is made.
    pub fn escalated(&self, step: u8, at: Timestamp, position: u64) -> Option<Self> {
        let mut alert = self.alert.clone()?;
        alert.step = step;
        Some(Self {
            id: derived_id(alert.opened_at, &[alert.alert_id.as_bytes(), b"escalation", &[step]]),
            kind: ALERT_ESCALATED.into(),
            subject: self.subject.clone(),
            at,
            // After everything that the journal has told so far.
            place: Place { position, index: 90_000 + u32::from(step) },
            data: self.data.clone(),
            alert: Some(alert),
        })
    }
}

/// A UUIDv7 that is always the same for the same time and parts.
pub fn derived_id(at: Timestamp, parts: &[&[u8]]) -> Uuid {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash = hash.finish();
    let mut bits = [0; 10];
    bits.copy_from_slice(&hash.as_ref()[..10]);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(at.0).unwrap_or(0), &bits).into_uuid()
}
