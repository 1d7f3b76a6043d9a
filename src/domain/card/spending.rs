//! What was bought with each card in the last seven days: the memory behind limits and impossible journeys.
//!
//! A question counts from the moment it is asked, so that two at once see each other; a decline takes it out again.

use std::collections::{HashMap, VecDeque};

use super::super::{Money, Position, Timestamp};
use super::{AuthorizationId, Fuelled, LastPurchase, NetworkRef, Purchase, Spending, StationLookup};

const DAY_MS: i64 = 86_400_000;
const WEEK_MS: i64 = 7 * DAY_MS;
/// The same amount at the same terminal within this time is one purchase tried again.
pub const RETRY_MS: i64 = 300_000;

#[derive(Debug, Clone)]
struct Bought {
    source: String,
    authorization_id: AuthorizationId,
    at: Timestamp,
    amount: Money,
    station: Option<(super::StationId, Option<Position>)>,
    network_id: Option<String>,
    terminal_id: Option<String>,
    /// Known once it is captured.
    fuelled: Option<Fuelled>,
}

impl Bought {
    fn of(purchase: &Purchase, station: &StationLookup) -> Self {
        let station = match station {
            // A position that several stations share is a placeholder and says nothing of the way between two.
            StationLookup::Known { station_id, position, at_position, .. } => {
                Some((station_id.clone(), position.filter(|_| *at_position <= 1)))
            }
            StationLookup::Unknown | StationLookup::Ambiguous { .. } => None,
        };
        Self {
            source: purchase.source.clone(),
            authorization_id: purchase.authorization_id.clone(),
            at: purchase.at,
            amount: purchase.amount.clone(),
            station,
            network_id: purchase.merchant.network_id.clone(),
            terminal_id: purchase.merchant.terminal_id.clone(),
            fuelled: None,
        }
    }

    fn is_same(&self, source: &str, id: &AuthorizationId) -> bool {
        self.source == source && self.authorization_id == *id
    }

    /// One try of the same purchase: what a terminal does when it heard no answer.
    fn is_retry_of(&self, other: &Self) -> bool {
        self.network_id.is_some()
            && (&self.network_id, &self.terminal_id) == (&other.network_id, &other.terminal_id)
            && self.amount == other.amount
            && self.at.since_ms(other.at).abs() <= RETRY_MS
    }

    fn to_last(&self) -> LastPurchase {
        LastPurchase {
            authorization_id: self.authorization_id.clone(),
            at: self.at,
            amount: self.amount.clone(),
            station_id: self.station.as_ref().map(|(id, _)| id.clone()),
            position: self.station.as_ref().and_then(|(_, position)| *position),
            network_id: self.network_id.clone(),
            terminal_id: self.terminal_id.clone(),
        }
    }
}

/// Everything bought with every card, as far back as a check looks.
#[derive(Debug, Default)]
pub struct SpendingLedger {
    cards: HashMap<NetworkRef, VecDeque<Bought>>,
    /// Purchases that were forgotten for lack of room.
    pub forgotten: u64,
}

impl SpendingLedger {
    /// A card buys twice a day at most as a rule; more than this a week is a misuse long seen by then.
    const MAX_A_CARD: usize = 128;
    /// As many as there may be cards of the fleet; foreign cards are not kept.
    pub const MAX_CARDS: usize = 200_000;

    /// Notes the purchase as asked for, and tells what was bought before it.
    pub fn ask(&mut self, purchase: &Purchase, station: &StationLookup) -> Spending {
        let asked = Bought::of(purchase, station);
        if !self.cards.contains_key(&purchase.card_ref) && self.cards.len() >= Self::MAX_CARDS {
            self.forgotten += 1;
            return Spending::default();
        }
        let bought = self.cards.entry(purchase.card_ref.clone()).or_default();
        bought.retain(|earlier| purchase.at.since_ms(earlier.at) <= WEEK_MS);
        let before: Vec<&Bought> =
            bought.iter().filter(|earlier| !earlier.is_same(&purchase.source, &purchase.authorization_id)).collect();
        let spending = sum(&before, &asked);
        if !bought.iter().any(|earlier| earlier.is_same(&purchase.source, &purchase.authorization_id)) {
            if bought.len() >= Self::MAX_A_CARD {
                bought.pop_front();
                self.forgotten += 1;
            }
            bought.push_back(asked);
        }
        spending
    }

    /// Nothing is bought under this authorisation (any more): it was declined, given back, or could not be recorded.
    pub fn forget(&mut self, card: &NetworkRef, source: &str, id: &AuthorizationId) {
        if let Some(bought) = self.cards.get_mut(card) {
            bought.retain(|earlier| !earlier.is_same(source, id));
            if bought.is_empty() {
                self.cards.remove(card);
            }
        }
    }

    /// More is bought under it.
    pub fn add(&mut self, card: &NetworkRef, source: &str, id: &AuthorizationId, amount_minor: i64) {
        let bought = self.cards.get_mut(card).into_iter().flatten();
        for earlier in bought.filter(|earlier| earlier.is_same(source, id)) {
            earlier.amount.amount_minor = earlier.amount.amount_minor.saturating_add(amount_minor);
        }
    }

    /// What is really bought under it: less than was asked, or more.
    pub fn correct(&mut self, card: &NetworkRef, source: &str, id: &AuthorizationId, amount_minor: i64) {
        let bought = self.cards.get_mut(card).into_iter().flatten();
        for earlier in bought.filter(|earlier| earlier.is_same(source, id)) {
            earlier.amount.amount_minor = amount_minor;
        }
    }

    /// Litres for the tank were captured under it.
    pub fn note_fuelled(&mut self, card: &NetworkRef, source: &str, id: &AuthorizationId, fuelled: &Option<Fuelled>) {
        let bought = self.cards.get_mut(card).into_iter().flatten();
        for earlier in bought.filter(|earlier| earlier.is_same(source, id)) {
            earlier.fuelled.clone_from(fuelled);
        }
    }

    /// What was fuelled with the card under other authorisations.
    pub fn fuelled_beside(&self, card: &NetworkRef, source: &str, id: &AuthorizationId) -> Vec<Fuelled> {
        let bought = self.cards.get(card).into_iter().flatten();
        bought.filter(|one| !one.is_same(source, id)).filter_map(|one| one.fuelled.clone()).collect()
    }

    pub fn cards(&self) -> usize {
        self.cards.len()
    }
}

/// Tries of one purchase count as one, measured from the first: a chain of equal purchases is none.
fn sum(before: &[&Bought], asked: &Bought) -> Spending {
    let mut spending = Spending::default();
    let mut in_order = before.to_vec();
    in_order.sort_by_key(|earlier| earlier.at);
    let mut firsts: Vec<&Bought> = Vec::new();
    for earlier in in_order {
        if !firsts.iter().any(|first| earlier.is_retry_of(first)) {
            firsts.push(earlier);
        }
    }
    for earlier in firsts {
        let age_ms = asked.at.since_ms(earlier.at);
        if asked.is_retry_of(earlier) || !(-RETRY_MS..=WEEK_MS).contains(&age_ms) {
            continue;
        }
        let amount_minor =
            if earlier.amount.currency == asked.amount.currency { earlier.amount.amount_minor } else { 0 };
        spending.week_count += 1;
        spending.week_minor = spending.week_minor.saturating_add(amount_minor);
        if age_ms <= DAY_MS {
            spending.day_count += 1;
            spending.day_minor = spending.day_minor.saturating_add(amount_minor);
        }
    }
    spending.last = before.iter().max_by_key(|earlier| earlier.at).map(|last| last.to_last());
    spending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::card::{Fill, Merchant, Prompts};

    fn purchase(id: &str, at_min: i64, amount_minor: i64, terminal: &str) -> Purchase {
        Purchase {
            authorization_id: id.parse().unwrap(),
            source: "stripe".into(),
            card_ref: "ic_1".parse().unwrap(),
            at: Timestamp(1_800_000_000_000 + at_min * 60_000),
            amount: Money { amount_minor, currency: "EUR".into() },
            partial_allowed: false,
            merchant: Merchant {
                network_id: Some("N".into()),
                terminal_id: Some(terminal.into()),
                ..Merchant::default()
            },
            fill: Fill::default(),
            prompts: Prompts::default(),
        }
    }

    fn asked(ledger: &mut SpendingLedger, id: &str, at_min: i64, amount: i64, terminal: &str) -> (u32, i64, u32, i64) {
        let spending = ledger.ask(&purchase(id, at_min, amount, terminal), &StationLookup::Unknown);
        (spending.day_count, spending.day_minor, spending.week_count, spending.week_minor)
    }

    const HOUR: i64 = 60;

    #[test]
    fn a_day_and_a_week_are_counted_back_from_the_purchase() {
        let mut ledger = SpendingLedger::default();
        assert_eq!(asked(&mut ledger, "a1", 0, 10, "1"), (0, 0, 0, 0));
        assert_eq!(asked(&mut ledger, "a2", 24 * HOUR, 20, "2"), (1, 10, 1, 10));
        assert_eq!(asked(&mut ledger, "a3", 24 * HOUR + 1, 30, "3"), (1, 20, 2, 30));
        assert_eq!(asked(&mut ledger, "a4", 7 * 24 * HOUR + 1, 1, "4"), (0, 0, 2, 50), "the first is a week ago");
    }

    #[test]
    fn a_try_again_is_one_purchase_and_a_given_back_one_is_none() {
        let mut ledger = SpendingLedger::default();
        asked(&mut ledger, "a1", 0, 50, "1");
        assert_eq!(asked(&mut ledger, "a2", 4, 50, "1"), (0, 0, 0, 0), "the terminal asks again");
        assert_eq!(asked(&mut ledger, "a3", 60, 70, "1"), (1, 50, 1, 50), "the two count as one");
        ledger.forget(&"ic_1".parse().unwrap(), "stripe", &"a3".parse().unwrap());
        ledger.correct(&"ic_1".parse().unwrap(), "stripe", &"a2".parse().unwrap(), 40);
        assert_eq!(asked(&mut ledger, "a4", 90, 5, "9"), (2, 90, 2, 90), "no longer the same amount: two");
        assert_eq!(asked(&mut ledger, "a4", 90, 5, "9"), (2, 90, 2, 90), "asked twice is one");
    }

    /// A fixed sum every four minutes at an unattended pump was counted as one try without end.
    #[test]
    fn a_chain_of_equal_purchases_is_no_single_try() {
        let mut ledger = SpendingLedger::default();
        for number in 0..6 {
            asked(&mut ledger, &format!("a{number}"), number * 4, 100, "1");
        }
        assert_eq!(asked(&mut ledger, "z", 60, 100, "1").0, 3);
    }

    #[test]
    fn two_at_once_see_each_other_and_foreign_money_only_counts_as_a_purchase() {
        let mut ledger = SpendingLedger::default();
        asked(&mut ledger, "a1", 0, 50, "1");
        assert_eq!(asked(&mut ledger, "a2", 0, 60, "2"), (1, 50, 1, 50));
        let mut foreign = purchase("a3", 1, 70, "3");
        foreign.amount.currency = "CHF".into();
        let spending = ledger.ask(&foreign, &StationLookup::Unknown);
        assert_eq!((spending.day_count, spending.day_minor), (2, 0));
        assert_eq!(spending.last.map(|last| last.at), Some(Timestamp(1_800_000_000_000)));
    }

    #[test]
    fn a_card_that_buys_without_end_is_remembered_as_far_as_there_is_room() {
        let mut ledger = SpendingLedger::default();
        for number in 0..500 {
            asked(&mut ledger, &format!("a{number}"), number, number, "1");
        }
        assert_eq!(asked(&mut ledger, "z", 501, 1, "1").0, 128);
        assert_eq!(ledger.forgotten, 373);
    }
}
