//! The fuel card: who carries it, where it was read, and whether that fits what the car is doing.
//!
//! [`judge`] compares one purchase with the card, its car and the station and says what to answer, with every check's
//! verdict and evidence. Unknown is a verdict of its own and never an accusation: each check has its own policy for it.
//! Nothing here waits, reads a clock or knows how a payment network writes its messages.

mod alert;
mod around;
mod checks;
#[cfg(test)]
mod checks_tests;
mod facts;
mod fuel;
mod inputs;
mod judge;
#[cfg(test)]
mod judge_tests;
mod learn;
mod purchase;
mod reconciliation;
mod review;
#[cfg(test)]
mod review_tests;
mod rules;
mod spending;
#[cfg(test)]
mod spending_tests;
mod station;
mod station_name;
mod step_up;
#[cfg(test)]
mod test_cases;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use alert::{AboutPayment, Alert, AlertKind, AlertPassage, AlertState, Severity};
pub use around::{AboutCar, CarAround};
pub use checks::{Check, CheckName, Evidence, Verdict};
pub use facts::{FixDoubt, InUse, Seen, VehicleFacts, VehicleLookup};
pub use inputs::{Inputs, LastPurchase, Spending};
pub use judge::{Outcome, Ruling, judge};
pub use learn::{Agreed, Heard, Sighting, Sightings};
pub use purchase::{Fill, Merchant, Posting, PostingKind, Product, Prompts, Purchase, Unreadable};
pub use reconciliation::{CaptureLine, Finding, Reconciliation, ReconciliationState, Taken};
pub use review::{Captured, Fuelled, Review, ReviewVerdict, review};
pub use rules::{
    AmountRule, BadRule, BindingRule, ByCurrency, CardInCarRule, CardRule, CheckMode, FailPolicy, FuelLevelRule,
    HoursRule, HoursWindow, LevelRiseRule, LocationRule, MerchantRule, MotionRule, OdometerRule, ProductRule,
    PromptRule, RentalRule, RuleBook, Rules, StepUpRule, Switch, TankSpaceRule, TelematicsRule, TravelRule,
    UnknownPolicy, VelocityRule,
};
pub use spending::SpendingLedger;
pub use station::{ImportPolicy, LookedUpBy, PositionSource, Station, StationLookup, Terminal};
pub use station_name::{normal_name, normal_postal_code};
pub use step_up::{StepUp, StepUpAnswer};

use super::{AlertId, DecisionId, Malformed, Timestamp, VehicleId};

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident, $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub const MAX_LEN: usize = 64;

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                if is_reference(text, Self::MAX_LEN) { Ok(Self(text.into())) } else { Err(Malformed($what)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Malformed;

            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_ids! {
    /// The fleet's name of a fuel card; never its number.
    CardId, "a card id is 1 to 64 of A-Z a-z 0-9 _ . : @ -, and no card number";
    /// The directory's name of a fuel station.
    StationId, "a station id is 1 to 64 of A-Z a-z 0-9 _ . : @ -, and no card number";
    /// The payment network's id of a card (Stripe's `ic_…`), never its number.
    NetworkRef, "a card reference is 1 to 64 of A-Z a-z 0-9 _ . : @ -, and no card number";
    /// The payment network's id of one authorisation (Stripe's `iauth_…`); the answer to it is given once.
    AuthorizationId, "an authorization id is 1 to 64 of A-Z a-z 0-9 _ . : @ -, and no card number";
}

fn is_reference(text: &str, max_len: usize) -> bool {
    (1..=max_len).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:@-".contains(&b))
        && !looks_like_card_number(text)
}

/// Does the text hold 13 to 19 digits (single spaces or hyphens between groups allowed) that a card network could have
/// issued: first digit 2 to 6 and a right Luhn digit? Such a text is never stored.
pub fn looks_like_card_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_start = |at: usize| bytes[at].is_ascii_digit() && (at == 0 || !bytes[at - 1].is_ascii_digit());
    (0..bytes.len()).filter(|at| is_start(*at)).any(|start| starts_with_card_number(&bytes[start..]))
}

fn starts_with_card_number(bytes: &[u8]) -> bool {
    let mut digits: Vec<u8> = Vec::with_capacity(20);
    for (at, byte) in bytes.iter().enumerate() {
        let ends_group = bytes.get(at + 1).is_none_or(|next| !next.is_ascii_digit());
        match byte {
            b'0'..=b'9' if digits.len() < 19 => digits.push(byte - b'0'),
            b' ' | b'-' if !ends_group => continue,
            _ => return false,
        }
        if ends_group && digits.len() >= 13 && (2..=6).contains(&digits[0]) && has_luhn_digit(&digits) {
            return true;
        }
    }
    false
}

fn has_luhn_digit(digits: &[u8]) -> bool {
    let weigh = |(place, digit): (usize, &u8)| match (place % 2, digit * 2) {
        (0, _) => u32::from(*digit),
        (_, twice) => u32::from(twice / 10 + twice % 10),
    };
    digits.iter().rev().enumerate().map(weigh).sum::<u32>().is_multiple_of(10)
}

/// Text from outside as it may be kept: at most `max_chars`, no control characters, no card number.
pub fn keepable(text: &str, max_chars: usize) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    let kept: String = plain.chars().take(max_chars).collect();
    if [text, &plain, &kept].into_iter().any(looks_like_card_number) {
        return "(card number removed)".into();
    }
    kept
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardStatus {
    Active,
    /// Every purchase is declined until an operator reinstates it.
    Suspended,
}

/// A fuel card as the fleet knows it: which car it belongs to, and what the payment network calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    pub card_id: CardId,
    pub network_ref: NetworkRef,
    /// `None` = bound to no vehicle: every purchase is declined.
    pub vehicle_id: Option<VehicleId>,
    pub status: CardStatus,
    pub changed_at: Timestamp,
    /// The vehicle it was bound to before, for as long as both count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousBinding>,
    /// What has to be keyed in with it at a pump.
    #[serde(default, skip_serializing_if = "CardPrompts::is_empty")]
    pub prompts: CardPrompts,
    /// What it may pay; the fleet's rules count too, the strictest first.
    #[serde(default, skip_serializing_if = "CardLimits::is_empty")]
    pub limits: CardLimits,
}

/// What a card expects to be keyed in; `None` = anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardPrompts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_number: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<String>,
}

impl CardPrompts {
    pub const MAX_CHARS: usize = 64;

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the form; the text names the field.
    pub fn check(&self) -> Result<(), Malformed> {
        let is_fit = |text: &Option<String>| {
            text.as_deref().is_none_or(|text| {
                (1..=Self::MAX_CHARS).contains(&text.chars().count())
                    && text.chars().any(char::is_alphanumeric)
                    && !text.chars().any(char::is_control)
                    && !looks_like_card_number(text)
            })
        };
        if !is_fit(&self.vehicle_number) {
            return Err(Malformed("prompts.vehicle_number: 1 to 64 characters, some letter or digit, no card number"));
        }
        if !is_fit(&self.driver_id) {
            return Err(Malformed("prompts.driver_id: 1 to 64 characters, some letter or digit, no card number"));
        }
        Ok(())
    }
}

/// What a card may pay, in minor units of one currency; `None` = no limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_purchase_minor: Option<i64>,
    /// In 24 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_day_minor: Option<i64>,
    /// In seven days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_week_minor: Option<i64>,
    /// ISO 4217.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub currency: String,
}

impl CardLimits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the form; the text names the field.
    pub fn check(&self) -> Result<(), Malformed> {
        let limits = [self.per_purchase_minor, self.per_day_minor, self.per_week_minor];
        if limits.iter().flatten().any(|limit| *limit <= 0) {
            return Err(Malformed("limits: above 0"));
        }
        let is_currency = self.currency.len() == 3 && self.currency.bytes().all(|b| b.is_ascii_alphabetic());
        if !is_currency && !self.is_empty() {
            return Err(Malformed("limits.currency: an ISO 4217 code"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreviousBinding {
    pub vehicle_id: VehicleId,
    pub until: Timestamp,
}

impl Card {
    /// Binds the card to another vehicle (or to none) and remembers the one before.
    pub fn bind(&mut self, now: Timestamp, vehicle: Option<VehicleId>) {
        if self.vehicle_id == vehicle {
            return;
        }
        if let Some(before) = self.vehicle_id.take() {
            self.previous = Some(PreviousBinding { vehicle_id: before, until: now });
        }
        self.vehicle_id = vehicle;
        self.changed_at = now;
    }

    /// The vehicles a purchase at `at` may belong to: the bound one first, then the one before if that was just now.
    pub fn vehicles(&self, at: Timestamp, both_count_ms: i64) -> Vec<VehicleId> {
        let Some(bound) = self.vehicle_id.clone() else { return Vec::new() };
        let before = self
            .previous
            .as_ref()
            .filter(|previous| at.since_ms(previous.until) <= both_count_ms && previous.vehicle_id != bound)
            .map(|previous| previous.vehicle_id.clone());
        std::iter::once(bound).chain(before).collect()
    }
}

/// Does the money move?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    Enabled,
    Disabled,
}

/// The recorded answer to one authorisation, with everything it was based on. It never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub decision_id: DecisionId,
    pub at: Timestamp,
    pub purchase: Purchase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_id: Option<CardId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<VehicleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station_id: Option<StationId>,
    #[serde(flatten)]
    pub ruling: Ruling,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<AlertId>,
    /// The network's id of the message, and the hex SHA-256 of its raw body: the link to what was really sent.
    pub source_event: String,
    pub body_sha256: String,
    /// The approval that this one was asked to add to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<DecisionId>,
    /// When the network heard it, where that was before it was on record: the store did not answer in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_before_durable_at: Option<Timestamp>,
    /// What it was judged by; absent in records from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Box<Inputs>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_number_is_recognised_however_it_is_spaced() {
        for number in [
            "4242424242424242",
            "4242 4242 4242 4242",
            "4242-4242-4242-4242",
            "x378282246310005y",
            "no 12 4242 4242 4242 4242 x",
        ] {
            assert!(looks_like_card_number(number), "{number}");
        }
        for other in ["ic_1Mt3o2", "4242424242424241", "9999999999999995", "123", "12345678901234567890123", ""] {
            assert!(!looks_like_card_number(other), "{other}");
        }
    }

    #[test]
    fn ids_refuse_card_numbers_and_control_characters() {
        assert!("ic_1".parse::<NetworkRef>().is_ok());
        for bad in ["", "4242424242424242", "a b", "a\nb", &"x".repeat(65)] {
            assert!(bad.parse::<NetworkRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_rebound_card_counts_for_both_vehicles_for_an_hour() {
        let mut card = Card {
            card_id: "c".parse().unwrap(),
            network_ref: "ic".parse().unwrap(),
            vehicle_id: Some("A".parse().unwrap()),
            status: CardStatus::Active,
            changed_at: Timestamp(0),
            previous: None,
            prompts: CardPrompts::default(),
            limits: CardLimits::default(),
        };
        card.bind(Timestamp(1_000), Some("B".parse().unwrap()));
        let names =
            |card: &Card, at| card.vehicles(Timestamp(at), 3_600_000).into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(names(&card, 3_601_000), ["B", "A"]);
        assert_eq!(names(&card, 3_601_001), ["B"]);
        card.bind(Timestamp(2_000), None);
        assert!(names(&card, 3_000).is_empty());
    }
}
