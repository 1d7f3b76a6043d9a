//! What people are told about, and what they did about it.
//!
//! An alert is evidence to look into, never proof, and concerns a vehicle and a card: it names no person as suspect.

use serde::{Deserialize, Serialize};

use super::super::{AlertId, DecisionId, Money, Principal, Refusal, RefusalKind, RentalId, Timestamp, VehicleId};
use super::{CardId, Decision, Outcome};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A purchase was declined because a check failed.
    CardDeclined,
    /// A purchase was declined because too little was known; no sign of misuse.
    CardUnverified,
    /// A rental is over and its car has not come back to rest.
    LateReturn,
    /// A rental has ended with its car outside of where it is to be returned.
    OutsideReturnArea,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    Open,
    Acknowledged,
    Resolved,
    /// The gateway itself found that there was nothing.
    Withdrawn,
}

impl AlertState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
            Self::Withdrawn => "withdrawn",
        }
    }

    fn is_closed(self) -> bool {
        match self {
            Self::Open | Self::Acknowledged => false,
            Self::Resolved | Self::Withdrawn => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub alert_id: AlertId,
    pub kind: AlertKind,
    pub severity: Severity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<VehicleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_id: Option<CardId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<DecisionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rental_id: Option<RentalId>,
    pub state: AlertState,
    pub text: String,
    pub opened_at: Timestamp,
    /// Oldest first; a state is entered at most once.
    pub history: Vec<AlertPassage>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertPassage {
    pub state: AlertState,
    pub at: Timestamp,
    /// The operator who did it; absent = the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Principal>,
}

impl Alert {
    /// The alert a declined purchase opens; `None` unless it was declined.
    pub fn for_decision(alert_id: AlertId, decision: &Decision) -> Option<Self> {
        if decision.ruling.outcome != Outcome::Decline {
            return None;
        }
        let (kind, severity) = if decision.ruling.has_failed_check() {
            (AlertKind::CardDeclined, Severity::Warning)
        } else {
            (AlertKind::CardUnverified, Severity::Info)
        };
        Some(Self {
            alert_id,
            kind,
            severity,
            vehicle_id: decision.vehicle_id.clone(),
            card_id: decision.card_id.clone(),
            decision_id: Some(decision.decision_id),
            rental_id: None,
            state: AlertState::Open,
            text: text(decision, kind),
            opened_at: decision.at,
            history: vec![AlertPassage { state: AlertState::Open, at: decision.at, by: None }],
        })
    }

    /// What is wrong with the end of a rental. No person is named.
    pub fn for_return(
        alert_id: AlertId,
        kind: AlertKind,
        vehicle_id: VehicleId,
        rental_id: RentalId,
        text: String,
        at: Timestamp,
    ) -> Self {
        Self {
            alert_id,
            kind,
            severity: Severity::Warning,
            vehicle_id: Some(vehicle_id),
            card_id: None,
            decision_id: None,
            rental_id: Some(rental_id),
            state: AlertState::Open,
            text,
            opened_at: at,
            history: vec![AlertPassage { state: AlertState::Open, at, by: None }],
        }
    }

    /// Somebody still has to look at it.
    pub fn is_open(&self) -> bool {
        !self.state.is_closed()
    }

    /// Somebody has seen it. Again is no mistake and changes nothing.
    pub fn acknowledge(&self, now: Timestamp, by: &Principal) -> Result<Self, Refusal> {
        self.enter(AlertState::Acknowledged, now, by)
    }

    /// Somebody settled it, seen before or not. Again is no mistake and changes nothing.
    pub fn resolve(&self, now: Timestamp, by: &Principal) -> Result<Self, Refusal> {
        self.enter(AlertState::Resolved, now, by)
    }

    fn enter(&self, state: AlertState, now: Timestamp, by: &Principal) -> Result<Self, Refusal> {
        if self.state == state {
            return Ok(self.clone());
        }
        if self.state.is_closed() {
            return Err(Refusal::new(RefusalKind::Conflict, format!("the alert is {} already", self.state.name())));
        }
        let mut changed = self.clone();
        changed.state = state;
        changed.history.push(AlertPassage { state, at: now, by: Some(by.clone()) });
        Ok(changed)
    }
}

fn text(decision: &Decision, kind: AlertKind) -> String {
    let card = match &decision.card_id {
        Some(card) => format!("Card {card}"),
        None => "A card that is not the fleet's".to_owned(),
    };
    let vehicle = decision.vehicle_id.as_ref().map(|vehicle| format!(" of vehicle {vehicle}")).unwrap_or_default();
    let amount = in_words(&decision.purchase.amount);
    let place = match (&decision.station_id, &decision.purchase.merchant.name) {
        (Some(station), _) => format!(" at station {station}"),
        (None, Some(name)) => format!(" at {name}"),
        (None, None) => String::new(),
    };
    let head = format!("{card}{vehicle}: a purchase of {amount}{place} was declined.");
    match kind {
        AlertKind::CardDeclined => {
            let found: Vec<&str> = decision.ruling.failed_checks().map(|check| check.detail.as_str()).collect();
            format!("{head} Found: {}. This is evidence to look into, not proof of misuse.", found.join("; "))
        }
        AlertKind::CardUnverified | AlertKind::LateReturn | AlertKind::OutsideReturnArea => {
            format!("{head} Too little was known to check it; there is no sign of misuse.")
        }
    }
}

/// `50.00 EUR`: with as many decimals as ISO 4217 gives the currency.
fn in_words(amount: &Money) -> String {
    format!("{} {}", amount.to_major(), amount.currency.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_their_currency_is() {
        let text = |amount_minor, currency: &str| in_words(&Money { amount_minor, currency: currency.into() });
        assert_eq!(text(5_000, "EUR"), "50.00 EUR");
        assert_eq!(text(5, "usd"), "0.05 USD");
        assert_eq!(text(5_000, "JPY"), "5000 JPY");
        assert_eq!(text(5_007, "KWD"), "5.007 KWD");
    }
}
