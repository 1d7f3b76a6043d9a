//! What people are told about, and what they did about it.
//!
//! An alert is evidence to look into, never proof, and concerns a vehicle and a card: it names no person as suspect.

use serde::{Deserialize, Serialize};

use super::super::{AlertId, DecisionId, Money, Principal, Refusal, RefusalKind, RentalId, Timestamp, VehicleId};
use super::{CardId, Decision, Merchant, Outcome, Purchase, StationId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A purchase was declined because a check failed.
    CardDeclined,
    /// A purchase was declined because too little was known; no sign of misuse.
    CardUnverified,
    /// What was taken from the card does not fit what the car got.
    FillDoubted,
    /// Money was taken without a question to us before.
    UnaskedCapture,
    /// The holder of the running rental says that a purchase is not theirs.
    PurchaseDisowned,
    /// A payment network sends what cannot be read; its purchases are answered without a judgement.
    PaymentUnreadable,
    /// Purchases were answered without a judgement: none could be made or recorded in time.
    PaymentFallback,
    /// A rental has ended and the fuel card is not in its holder.
    CardMissing,
    /// A car's fuel level fell while it stood: fuel was taken out, or it leaks.
    FuelFell,
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
    /// The gateway itself found more that speaks for it.
    Confirmed,
    Resolved,
    /// The gateway itself found that there was nothing.
    Withdrawn,
}

impl AlertState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Confirmed => "confirmed",
            Self::Resolved => "resolved",
            Self::Withdrawn => "withdrawn",
        }
    }

    fn is_closed(self) -> bool {
        match self {
            Self::Open | Self::Acknowledged | Self::Confirmed => false,
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
    /// What the gateway found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl AlertPassage {
    fn of_gateway(state: AlertState, at: Timestamp, note: Option<String>) -> Self {
        Self { state, at, by: None, note }
    }
}

/// What an alert about a payment concerns.
#[derive(Debug, Clone, Default)]
pub struct AboutPayment {
    pub vehicle_id: Option<VehicleId>,
    pub card_id: Option<CardId>,
    pub decision_id: Option<DecisionId>,
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
            history: vec![AlertPassage::of_gateway(AlertState::Open, decision.at, None)],
        })
    }

    /// What a payment turned out to be after it was answered. The text says what was found, as evidence and not as proof.
    pub fn for_payment(alert_id: AlertId, kind: AlertKind, about: AboutPayment, text: String, at: Timestamp) -> Self {
        let severity = match kind {
            AlertKind::PurchaseDisowned => Severity::Critical,
            AlertKind::UnaskedCapture => Severity::Info,
            AlertKind::CardDeclined
            | AlertKind::CardUnverified
            | AlertKind::FillDoubted
            | AlertKind::PaymentUnreadable
            | AlertKind::PaymentFallback
            | AlertKind::LateReturn
            | AlertKind::OutsideReturnArea
            | AlertKind::CardMissing
            | AlertKind::FuelFell => Severity::Warning,
        };
        Self {
            alert_id,
            kind,
            severity,
            vehicle_id: about.vehicle_id,
            card_id: about.card_id,
            decision_id: about.decision_id,
            rental_id: None,
            state: AlertState::Open,
            text,
            opened_at: at,
            history: vec![AlertPassage::of_gateway(AlertState::Open, at, None)],
        }
    }

    /// What people read of a payment that turned out to be odd.
    pub fn text_of_payment(
        about: &AboutPayment,
        purchase: &Purchase,
        station: Option<&StationId>,
        found: &str,
    ) -> String {
        Self::text_of(about, &purchase.amount, &purchase.merchant, station, found)
    }

    pub fn text_of(
        about: &AboutPayment,
        amount: &Money,
        merchant: &Merchant,
        station: Option<&StationId>,
        found: &str,
    ) -> String {
        let head = subject(about.card_id.as_ref(), about.vehicle_id.as_ref());
        let (place, amount) = (place(station, merchant.name.as_deref()), in_words(amount));
        format!("{head}: a purchase of {amount}{place}: {found}. This is evidence to look into, not proof of misuse.")
    }

    /// What is wrong with the end of a rental. No person is named.
    pub fn for_vehicle(
        alert_id: AlertId,
        kind: AlertKind,
        vehicle_id: VehicleId,
        rental_id: Option<RentalId>,
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
            rental_id,
            state: AlertState::Open,
            text,
            opened_at: at,
            history: vec![AlertPassage::of_gateway(AlertState::Open, at, None)],
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

    /// More was found that speaks for it. Whoever looks at it already goes on doing so; a closed one stays closed.
    pub fn confirm(&self, now: Timestamp, note: String) -> Option<Self> {
        let is_confirmed = self.history.iter().any(|passage| passage.state == AlertState::Confirmed);
        if is_confirmed || self.state.is_closed() {
            return None;
        }
        let mut changed = self.clone();
        if changed.state == AlertState::Open {
            changed.state = AlertState::Confirmed;
        }
        changed.history.push(AlertPassage::of_gateway(AlertState::Confirmed, now, Some(note)));
        Some(changed)
    }

    /// It turned out that there was nothing. What a person resolved stays resolved.
    pub fn withdraw(&self, now: Timestamp, note: String) -> Option<Self> {
        if self.state.is_closed() {
            return None;
        }
        let mut changed = self.clone();
        changed.state = AlertState::Withdrawn;
        changed.history.push(AlertPassage::of_gateway(AlertState::Withdrawn, now, Some(note)));
        Some(changed)
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
        changed.history.push(AlertPassage { state, at: now, by: Some(by.clone()), note: None });
        Ok(changed)
    }
}

fn text(decision: &Decision, kind: AlertKind) -> String {
    let subject = subject(decision.card_id.as_ref(), decision.vehicle_id.as_ref());
    let amount = in_words(&decision.purchase.amount);
    let place = place(decision.station_id.as_ref(), decision.purchase.merchant.name.as_deref());
    let head = format!("{subject}: a purchase of {amount}{place} was declined.");
    match kind == AlertKind::CardDeclined {
        true => {
            let found: Vec<&str> = decision.ruling.failed_checks().map(|check| check.detail.as_str()).collect();
            format!("{head} Found: {}. This is evidence to look into, not proof of misuse.", found.join("; "))
        }
        false => {
            format!("{head} Too little was known to check it; there is no sign of misuse.")
        }
    }
}

fn subject(card: Option<&CardId>, vehicle: Option<&VehicleId>) -> String {
    let card = match card {
        Some(card) => format!("Card {card}"),
        None => "A card that is not the fleet's".to_owned(),
    };
    let vehicle = vehicle.map(|vehicle| format!(" of vehicle {vehicle}")).unwrap_or_default();
    format!("{card}{vehicle}")
}

fn place(station: Option<&StationId>, merchant: Option<&str>) -> String {
    match (station, merchant) {
        (Some(station), _) => format!(" at station {station}"),
        (None, Some(name)) => format!(" at {name}"),
        (None, None) => String::new(),
    }
}

/// `50.00 EUR`: with as many decimals as ISO 4217 gives the currency.
pub(super) fn in_words(amount: &Money) -> String {
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
