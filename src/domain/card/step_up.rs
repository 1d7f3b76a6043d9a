//! A purchase that is not approved without a word of whoever has the car: it is asked for in the renter's terminal, and
//! the purchase goes through when it is tried again.

use serde::{Deserialize, Serialize};

use super::super::{DecisionId, Money, Refusal, RefusalKind, RentalId, Timestamp, VehicleId};
use super::{AuthorizationId, Merchant, NetworkRef, Purchase, StationId};

/// `{"decision_id":"…","vehicle_id":"WVW-1","amount":{"amount_minor":5000,"currency":"EUR"},…}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepUp {
    pub decision_id: DecisionId,
    pub authorization_id: AuthorizationId,
    pub card_ref: NetworkRef,
    pub vehicle_id: VehicleId,
    pub rental_id: RentalId,
    /// Who is asked.
    pub renter: String,
    pub amount: Money,
    pub merchant: Merchant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station_id: Option<StationId>,
    pub asked_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<StepUpAnswer>,
    /// It was tried again and approved.
    #[serde(default)]
    pub is_used: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepUpAnswer {
    /// False: the renter says that it is not theirs.
    pub is_confirmed: bool,
    pub at: Timestamp,
}

impl StepUp {
    /// Somebody at a pump waits no longer than this.
    pub const OPEN_MS: i64 = 600_000;

    pub fn is_open(&self, now: Timestamp) -> bool {
        self.answer.is_none() && now.since_ms(self.asked_at) < Self::OPEN_MS
    }

    /// Takes the renter's word. The same again is no mistake; another word is one.
    pub fn answered(&self, is_confirmed: bool, now: Timestamp) -> Result<Self, Refusal> {
        match self.answer {
            Some(answer) if answer.is_confirmed == is_confirmed => return Ok(self.clone()),
            Some(_) => return Err(Refusal::new(RefusalKind::Conflict, "this was answered already")),
            None => {}
        }
        if !self.is_open(now) {
            return Err(Refusal::new(RefusalKind::Expired, "nobody waits for this answer any more"));
        }
        let answer = Some(StepUpAnswer { is_confirmed, at: now });
        Ok(Self { answer, ..self.clone() })
    }

    /// When it was confirmed, if `purchase` is the same tried again: card and place, and no more money.
    pub fn confirms(&self, purchase: &Purchase) -> Option<Timestamp> {
        let answer = self.answer.filter(|answer| answer.is_confirmed && !self.is_used)?;
        let is_same_place = match (&self.merchant.network_id, &purchase.merchant.network_id) {
            (None, None) => self.merchant.name == purchase.merchant.name,
            (asked, tried) => asked == tried && self.merchant.terminal_id == purchase.merchant.terminal_id,
        };
        let is_same = self.card_ref == purchase.card_ref
            && is_same_place
            && self.amount.currency == purchase.amount.currency
            && purchase.amount.amount_minor <= self.amount.amount_minor;
        is_same.then_some(answer.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::card::{Fill, Prompts};

    fn asked() -> StepUp {
        StepUp {
            decision_id: DecisionId(uuid::Uuid::nil()),
            authorization_id: "a1".parse().unwrap(),
            card_ref: "ic_1".parse().unwrap(),
            vehicle_id: "V1".parse().unwrap(),
            rental_id: RentalId(uuid::Uuid::nil()),
            renter: "ann".into(),
            amount: Money { amount_minor: 5_000, currency: "EUR".into() },
            merchant: place("N", "1"),
            station_id: None,
            asked_at: Timestamp(0),
            answer: None,
            is_used: false,
        }
    }

    fn place(network: &str, terminal: &str) -> Merchant {
        Merchant { network_id: Some(network.into()), terminal_id: Some(terminal.into()), ..Merchant::default() }
    }

    fn tried(amount_minor: i64, merchant: Merchant) -> Purchase {
        Purchase {
            authorization_id: "a2".parse().unwrap(),
            source: "stripe".into(),
            card_ref: "ic_1".parse().unwrap(),
            at: Timestamp(0),
            amount: Money { amount_minor, currency: "EUR".into() },
            partial_allowed: false,
            merchant,
            fill: Fill::default(),
            prompts: Prompts::default(),
        }
    }

    #[test]
    fn a_word_is_good_for_the_same_purchase_once_and_for_no_other() {
        let mut asked = asked().answered(true, Timestamp(5)).unwrap();
        assert_eq!(asked.confirms(&tried(5_000, place("N", "1"))), Some(Timestamp(5)));
        assert_eq!(asked.confirms(&tried(4_000, place("N", "1"))), Some(Timestamp(5)));
        assert_eq!(asked.confirms(&tried(5_001, place("N", "1"))), None, "more money");
        assert_eq!(asked.confirms(&tried(5_000, place("N", "2"))), None, "another pump");
        let other_card = Purchase { card_ref: "ic_2".parse().unwrap(), ..tried(5_000, place("N", "1")) };
        assert_eq!(asked.confirms(&other_card), None);
        asked.is_used = true;
        assert_eq!(asked.confirms(&tried(5_000, place("N", "1"))), None, "once");
    }

    #[test]
    fn a_no_confirms_nothing_and_a_word_is_not_taken_back() {
        let denied = asked().answered(false, Timestamp(5)).unwrap();
        assert_eq!(denied.confirms(&tried(5_000, place("N", "1"))), None);
        assert_eq!(denied.answered(false, Timestamp(6)), Ok(denied.clone()));
        assert_eq!(denied.answered(true, Timestamp(6)).unwrap_err().kind, RefusalKind::Conflict);
        let late = asked().answered(true, Timestamp(StepUp::OPEN_MS));
        assert_eq!(late.unwrap_err().kind, RefusalKind::Expired);
    }
}
