//! What payment networks tell: the question before a purchase, and what is posted about it later.
//!
//! These are the guard's own words; each network's form is turned into them at the edge. No card number and no person's
//! name is in any of them.

use serde::{Deserialize, Serialize};

use super::super::{Money, Position, Timestamp};
use super::{AuthorizationId, NetworkRef};

/// What the payment network says of the place.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Merchant {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The merchant category code, like `5542`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Where the network itself puts it; only our own form has this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// What is filled in. A product no check can place is `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    Petrol,
    Diesel,
    Lpg,
    Cng,
    Hydrogen,
    Electricity,
    /// Diesel exhaust fluid.
    Adblue,
    Other,
}

/// As far as the network tells: the product, how much, and at what price. At a pump all of it comes after the fill.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Fill {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Product>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub litres: Option<f64>,
}

/// What the customer keyed in at the pump. People mistype, and some pumps take digits only.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Prompts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odometer_km: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_number: Option<String>,
}

/// One question of a payment network: may this card pay for this, here, now?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Purchase {
    pub authorization_id: AuthorizationId,
    /// Which network asked: `stripe`, `own`, `marqeta` or `lithic`.
    pub source: String,
    pub card_ref: NetworkRef,
    /// When it happened by the network's clock; a delayed message makes this older than our now.
    pub at: Timestamp,
    pub amount: Money,
    /// The network lets us approve less than was asked.
    pub partial_allowed: bool,
    pub merchant: Merchant,
    #[serde(default)]
    pub fill: Fill,
    #[serde(default)]
    pub prompts: Prompts,
}

/// What a network posts about an authorisation after its question: nothing is answered to it but that it arrived.
/// Postings come out of order, twice, days late, and without a question that we know of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Posting {
    pub source: String,
    /// What the network calls this very posting (Stripe's `ipi_…`, a transaction token): the same again is a repeat.
    pub posting_id: String,
    /// The network's id of its message, and the hex SHA-256 of its raw body.
    pub source_event: String,
    pub body_sha256: String,
    pub kind: PostingKind,
    /// `None` = the network names none, e.g. a purchase that a pump took offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_id: Option<AuthorizationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_ref: Option<NetworkRef>,
    /// When the money moved by the network's clock.
    pub at: Timestamp,
    /// Never negative; the kind says which way it goes.
    pub amount: Money,
    #[serde(default)]
    pub merchant: Merchant,
    #[serde(default)]
    pub fill: Fill,
    #[serde(default)]
    pub prompts: Prompts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostingKind {
    /// The money is taken, for what was filled.
    Capture,
    /// What was held is given back, whole or in part; nothing (more) will be taken.
    Reversal,
    /// The network let the authorisation lapse.
    Expiry,
    /// What was taken is given back.
    Refund,
    /// The network itself approved without asking us in time, or against our answer.
    ApprovedWithoutUs,
}

impl PostingKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Reversal => "reversal",
            Self::Expiry => "expiry",
            Self::Refund => "refund",
            Self::ApprovedWithoutUs => "approved_without_us",
        }
    }
}

/// A message of a known source (its signature was right) that cannot be understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unreadable {
    pub source: String,
    /// Hex SHA-256 of the raw body; the body itself may hold anything and is not kept.
    pub body_sha256: String,
    /// Which field was not as expected; no value of it.
    pub detail: String,
    /// The card, when that much could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_ref: Option<NetworkRef>,
}
