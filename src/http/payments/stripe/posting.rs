//! What Stripe tells after its question: `issuing_authorization.created` and `.updated`, `issuing_transaction.created`
//! and `.updated`.

use serde::Deserialize;

use super::objects::{Fleet, Fuel, MerchantData};
use crate::domain::card::{Fill, Posting, PostingKind, Prompts};
use crate::domain::{Money, Timestamp};
use crate::http::payments::fields;
use crate::http::payments::form::{PaymentForm, Received, Unfit};

#[derive(Deserialize)]
struct Event<T> {
    id: String,
    created: Option<i64>,
    data: Data<T>,
}

#[derive(Deserialize)]
struct Data<T> {
    object: T,
    #[serde(default)]
    previous_attributes: Option<Previous>,
}

/// What an update changed; only the amount matters.
#[derive(Deserialize, Default)]
struct Previous {
    amount: Option<i64>,
}

#[derive(Deserialize)]
struct Authorization {
    id: String,
    amount: i64,
    currency: String,
    status: String,
    #[serde(default)]
    approved: bool,
    card: Named,
    merchant_data: Option<MerchantData>,
    fleet: Option<Fleet>,
    fuel: Option<Fuel>,
    #[serde(default)]
    request_history: Option<Vec<Earlier>>,
    #[serde(default)]
    transactions: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

/// One question of the network and how it ended.
#[derive(Deserialize)]
struct Earlier {
    #[serde(default)]
    approved: bool,
    #[serde(default)]
    reason: Option<String>,
}

/// What we answered, which the network keeps with the authorisation.
#[derive(Deserialize)]
struct Metadata {
    outcome: Option<String>,
    fallback: Option<String>,
}

#[derive(Deserialize)]
struct Transaction {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    amount: i64,
    currency: String,
    created: Option<i64>,
    authorization: Option<Named>,
    card: Option<Named>,
    merchant_data: Option<MerchantData>,
    purchase_details: Option<PurchaseDetails>,
}

#[derive(Deserialize, Default)]
struct PurchaseDetails {
    fleet: Option<Fleet>,
    fuel: Option<Fuel>,
}

/// Another object: its id, or all of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Id(String),
    Whole { id: String },
}

impl Named {
    fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Whole { id } => id,
        }
    }
}

/// Approved by the network itself: it heard nothing from us in time, or nothing that it could use.
const WITHOUT_US: [&str; 5] =
    ["webhook_timeout", "webhook_error", "network_fallback", "stripe_internal_error", "card_active"];

/// `None` = the authorisation stands as it was answered.
pub fn of_authorization(received: &Received<'_>) -> Result<Option<Posting>, Unfit> {
    let Event { id, created, data } = fields::parse::<Event<Authorization>>(received.body).map_err(Unfit::telling)?;
    let Data { object, previous_attributes } = data;
    let Some(kind) = kind_of(&object) else { return Ok(None) };
    let held_before = previous_attributes.and_then(|previous| previous.amount);
    let amount_minor = match kind {
        PostingKind::Reversal | PostingKind::Expiry => held_before
            .filter(|before| *before > object.amount)
            .map_or(object.amount, |before| before.saturating_sub(object.amount)),
        PostingKind::Capture | PostingKind::Refund | PostingKind::ApprovedWithoutUs => object.amount,
    };
    let about = About { event_id: &id, created, card: Some(&object.card), authorization: Some(&object.id) };
    let amount = amount(amount_minor, &object.currency)?;
    let posting_id = format!("{}:{}", object.id, kind.name());
    let mut posting = posting(received, about, posting_id, kind, amount)?;
    posting.merchant = object.merchant_data.unwrap_or_default().merchant();
    posting.prompts = object.fleet.unwrap_or_default().prompts();
    posting.fill = object.fuel.unwrap_or_default().fill();
    Ok(Some(posting))
}

/// `closed` also follows a capture and a decline: only an approval that nothing was ever captured of is given back.
fn kind_of(object: &Authorization) -> Option<PostingKind> {
    let is_captured = object.transactions.as_ref().is_some_and(|all| !all.is_empty());
    match object.status.as_str() {
        "reversed" => Some(PostingKind::Reversal),
        "expired" => Some(PostingKind::Expiry),
        "closed" if object.approved && !is_captured => Some(PostingKind::Reversal),
        "closed" => None,
        _ if object.approved && is_without_us(object) => Some(PostingKind::ApprovedWithoutUs),
        _ => None,
    }
}

fn is_without_us(object: &Authorization) -> bool {
    let last = object.request_history.as_ref().and_then(|earlier| earlier.last());
    let by_network = last
        .is_some_and(|last| last.approved && last.reason.as_deref().is_some_and(|reason| WITHOUT_US.contains(&reason)));
    let said_no = object.metadata.as_ref().is_some_and(|metadata| match metadata.outcome.as_deref() {
        Some("decline" | "step_up") => true,
        Some("fallback") => metadata.fallback.as_deref() == Some("decline"),
        Some(_) | None => false,
    });
    by_network || said_no
}

/// `None` for kinds of transactions that move no money of a purchase.
pub fn of_transaction(received: &Received<'_>) -> Result<Option<Posting>, Unfit> {
    let Event { id, created, data } = fields::parse::<Event<Transaction>>(received.body).map_err(Unfit::telling)?;
    let object = data.object;
    let kind = match object.kind.as_str() {
        "capture" => PostingKind::Capture,
        "refund" => PostingKind::Refund,
        _ => return Ok(None),
    };
    let about = About {
        event_id: &id,
        created: object.created.or(created),
        card: object.card.as_ref(),
        authorization: object.authorization.as_ref().map(Named::id),
    };
    let posting_id = fields::message_id("data.object.id", &object.id).map_err(Unfit::telling)?;
    let amount = amount(object.amount, &object.currency)?;
    let mut posting = posting(received, about, posting_id, kind, amount)?;
    let details = object.purchase_details.unwrap_or_default();
    posting.merchant = object.merchant_data.unwrap_or_default().merchant();
    posting.fill = details.fuel.map_or_else(Fill::default, Fuel::fill);
    posting.prompts = details.fleet.map_or_else(Prompts::default, Fleet::prompts);
    Ok(Some(posting))
}

struct About<'a> {
    event_id: &'a str,
    created: Option<i64>,
    card: Option<&'a Named>,
    authorization: Option<&'a str>,
}

fn posting(
    received: &Received<'_>,
    about: About<'_>,
    posting_id: String,
    kind: PostingKind,
    amount: Money,
) -> Result<Posting, Unfit> {
    let card_ref = about.card.map(|card| fields::id("data.object.card", card.id())).transpose();
    let authorization_id = about.authorization.map(|id| fields::id("data.object.authorization", id)).transpose();
    let at: Timestamp =
        fields::unix("created", about.created.unwrap_or(received.signed.at_s)).map_err(Unfit::telling)?;
    Ok(Posting {
        source: super::Stripe::SOURCE.to_owned(),
        posting_id,
        source_event: fields::message_id("id", about.event_id).map_err(Unfit::telling)?,
        body_sha256: received.body_sha256.to_owned(),
        kind,
        authorization_id: authorization_id.map_err(Unfit::telling)?,
        card_ref: card_ref.map_err(Unfit::telling)?,
        at,
        amount,
        merchant: Default::default(),
        fill: Fill::default(),
        prompts: Prompts::default(),
    })
}

/// The network writes captures as negative amounts; the kind says which way the money goes.
fn amount(minor: i64, currency: &str) -> Result<Money, Unfit> {
    fields::money(["data.object.amount", "data.object.currency"], minor.checked_abs(), Some(currency))
        .map_err(Unfit::telling)
}
