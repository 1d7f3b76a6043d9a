//! Marqeta gateway JIT funding: the platform asks whether to fund a purchase, HTTP Basic, 200 approves and 402 denies.
//!
//! Amounts are decimals of the major unit. There is no signature: the time is that of the transaction in the body, and
//! the JIT funding token tells a repeat.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subtle::{Choice, ConstantTimeEq};
use utoipa::ToSchema;

use super::fields::{self, Loose, kept, kept_id};
use super::form::{Acknowledged, Glance, Message, NotSigned, PaymentForm, Question, Received, Signed, Unfit, Verdict};
use super::standard::header;
use crate::config::{FormSettings, Payments};
use crate::domain::card::{Fill, Merchant, Posting, PostingKind, Prompts, Purchase};
use crate::domain::{Money, Timestamp};
use crate::http::access::sha256;

pub struct Marqeta;

const SOURCE: &str = "marqeta";

/// Unknown fields are the platform's business and are ignored.
#[derive(Deserialize)]
struct Transaction {
    card_token: Option<String>,
    currency_code: Option<String>,
    created_time: Option<String>,
    user_transaction_time: Option<String>,
    card_acceptor: Option<CardAcceptor>,
    pos: Option<Pos>,
    jit_funding: Option<JitFunding>,
    /// Funds are loaded: somebody pays.
    gpa_order: Option<Order>,
    /// Funds are given back.
    gpa_order_unload: Option<Order>,
}

#[derive(Deserialize)]
struct Order {
    jit_funding: Option<JitFunding>,
    currency_code: Option<String>,
}

#[derive(Deserialize)]
struct JitFunding {
    token: String,
    method: String,
    amount: Loose,
    original_jit_funding_token: Option<String>,
}

#[derive(Deserialize, Default)]
struct CardAcceptor {
    mid: Option<Loose>,
    network_mid: Option<Loose>,
    mcc: Option<Loose>,
    name: Option<String>,
    city: Option<String>,
    postal_code: Option<Loose>,
    zip: Option<Loose>,
    country_code: Option<Loose>,
    country: Option<Loose>,
    poi: Option<Poi>,
}

#[derive(Deserialize, Default)]
struct Poi {
    tid: Option<Loose>,
    partial_approval_capable: Option<Loose>,
}

#[derive(Deserialize, Default)]
struct Pos {
    terminal_id: Option<Loose>,
    partial_approval_capable: Option<Loose>,
}

/// Status 200 approves, 402 denies, e.g. `{"jit_funding":{"token":"…","method":"pgfs.authorization","amount":50.00,
/// "decline_reason":"SUSPECTED_FRAUD"}}`.
#[derive(Debug, Serialize, ToSchema)]
pub struct MarqetaAnswer {
    jit_funding: MarqetaFunding,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct MarqetaFunding {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_token: Option<String>,
    /// In major units; less than was asked is a partial approval.
    #[schema(value_type = Option<f64>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<serde_json::Number>,
    /// `SUSPECTED_FRAUD`, `TRANSACTION_NOT_PERMITTED`, `INVALID_MERCHANT`, `AMOUNT_LIMIT_EXCEEDED` or
    /// `DUPLICATE_TRANSACTION`.
    #[serde(skip_serializing_if = "Option::is_none")]
    decline_reason: Option<&'static str>,
}

/// What a method asks or tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Asks { is_increment: bool },
    Tells(PostingKind),
    Nothing,
}

fn kind(method: &str, gives_back: bool) -> Option<Kind> {
    let tells = |kind| Some(Kind::Tells(kind));
    match method {
        "pgfs.authorization"
        | "pgfs.auth_plus_capture"
        | "pgfs.pindebit"
        | "pgfs.pindebit.authorization"
        | "pgfs.authorization.account_verification" => Some(Kind::Asks { is_increment: false }),
        "pgfs.authorization.incremental" => Some(Kind::Asks { is_increment: true }),
        // The amount was corrected on the way: downwards is told again, whole, by the clearing.
        "pgfs.authorization.advice" if gives_back => Some(Kind::Nothing),
        "pgfs.authorization.advice" | "pgfs.authorization.standin" | "pgfs.auth_plus_capture.standin" => {
            tells(PostingKind::ApprovedWithoutUs)
        }
        "pgfs.authorization.clearing"
        | "pgfs.authorization.capture"
        | "pgfs.pindebit.authorization.clearing"
        | "pgfs.force_capture" => tells(PostingKind::Capture),
        "pgfs.authorization.reversal" | "pgfs.pindebit.authorization.reversal" => tells(PostingKind::Reversal),
        "pgfs.refund" | "pgfs.refund.authorization.clearing" | "pgfs.pindebit.refund" => tells(PostingKind::Refund),
        "pgfs.refund.authorization"
        | "pgfs.refund.authorization.reversal"
        | "pgfs.balanceinquiry"
        | "pgfs.pindebit.balanceinquiry" => Some(Kind::Nothing),
        // To acknowledge what is not known would be to approve it.
        _ => None,
    }
}

impl PaymentForm for Marqeta {
    const SOURCE: &'static str = SOURCE;
    const PLACE: usize = 2;
    const SAYS_WHAT_IS_HELD: bool = false;

    fn settings(payments: &Payments) -> FormSettings<'_> {
        payments.marqeta.settings()
    }

    /// The time is looked at when the body is read.
    fn verify(
        &self,
        headers: &HeaderMap,
        _: &[u8],
        settings: FormSettings<'_>,
        now: Timestamp,
    ) -> Result<Signed, NotSigned> {
        const NAME: &str = "authorization";
        let (scheme, login) = header(headers, NAME)?.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(NotSigned::Malformed(NAME, "expected Basic"));
        }
        let login = STANDARD.decode(login.trim()).map_err(|_| NotSigned::Malformed(NAME, "not base64"))?;
        let presented = sha256(&login);
        // Hashes have one length, and every secret is compared: the time taken says nothing of them.
        let fits = settings
            .secrets
            .iter()
            .fold(Choice::from(0), |fits, secret| fits | sha256(secret.as_bytes()).ct_eq(&presented));
        if !bool::from(fits) {
            return Err(NotSigned::Wrong);
        }
        Ok(Signed { at_s: now.as_secs(), message_id: None })
    }

    fn read(&self, received: &Received<'_>) -> Result<Message, Unfit> {
        let transaction: Transaction = fields::parse(received.body)?;
        let gives_back = transaction.gpa_order_unload.as_ref().is_some_and(|order| order.jit_funding.is_some());
        let funding = transaction.funding().ok_or_else(|| Unfit::new("gpa_order.jit_funding", "is missing"))?;
        let kind = kind(&funding.method, gives_back)
            .ok_or_else(|| Unfit::new("gpa_order.jit_funding.method", "is not known"))?;
        let asks = matches!(kind, Kind::Asks { .. });
        let read = match kind {
            Kind::Nothing => Ok(Message::Nothing { id: kept_id(Some(funding.token.clone())) }),
            Kind::Asks { is_increment } => transaction.question(funding, received, is_increment),
            Kind::Tells(kind) => transaction.posting(funding, received, kind),
        };
        read.map_err(|unfit| Unfit { asks, ..unfit })
    }

    fn glance(&self, body: &[u8]) -> Glance {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Glance::default() };
        let order = ["/gpa_order", "/gpa_order_unload", ""].into_iter();
        let found = order.map(|order| format!("{order}/jit_funding")).find(|path| body.pointer(path).is_some());
        let path = found.unwrap_or_default();
        let text = |name: &str| fields::text_at(&body, &format!("{path}/{name}"));
        let currency = body.get("currency_code").or(body.pointer("/gpa_order/currency_code")).and_then(Value::as_str);
        let amount = body.pointer(&format!("{path}/amount")).and_then(|amount| match amount {
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) => Some(text.clone()),
            _ => None,
        });
        let can_part = ["/card_acceptor/poi/partial_approval_capable", "/pos/partial_approval_capable"];
        let is_true = |path: &&str| {
            let value = body.pointer(path).cloned();
            value.and_then(|value| serde_json::from_value::<Loose>(value).ok()).is_some_and(|flag| flag.is_true())
        };
        Glance {
            token: text("token"),
            method: text("method"),
            user_token: text("user_token"),
            card_ref: body.get("card_token").and_then(Value::as_str).and_then(|id| id.parse().ok()),
            amount: amount
                .zip(fields::currency("", currency).ok())
                .and_then(|(amount, currency)| Money::from_major(&amount, &currency)),
            partial_allowed: can_part.iter().any(is_true),
            ..Glance::default()
        }
    }

    fn answer(&self, _: &Payments, verdict: &Verdict<'_>, glance: &Glance) -> HttpResponse {
        let (status, decline_reason) = match verdict.approved {
            true => (StatusCode::OK, None),
            false => (StatusCode::PAYMENT_REQUIRED, Some(decline_reason(verdict.main_reason()))),
        };
        let amount = glance.amount.as_ref().map(|asked| Money {
            amount_minor: verdict.amount_minor.unwrap_or(asked.amount_minor),
            currency: asked.currency.clone(),
        });
        HttpResponse::build(status).json(funding(glance, amount.as_ref(), decline_reason))
    }

    fn acknowledge(&self, glance: &Glance, _: Option<&Acknowledged>) -> HttpResponse {
        HttpResponse::Ok().json(funding(glance, glance.amount.as_ref(), None))
    }
}

fn funding(glance: &Glance, amount: Option<&Money>, decline_reason: Option<&'static str>) -> MarqetaAnswer {
    MarqetaAnswer {
        jit_funding: MarqetaFunding {
            token: glance.token.clone(),
            method: glance.method.clone(),
            user_token: glance.user_token.clone(),
            amount: amount.and_then(|amount| amount.to_major().parse().ok()),
            decline_reason,
        },
    }
}

/// The platform's word for why; what rests on not knowing is never called fraud.
fn decline_reason(reason: &str) -> &'static str {
    match reason {
        "location" | "fuel_level" | "tank_space" | "product" | "ignition_and_motion" | "card_in_car" => {
            "SUSPECTED_FRAUD"
        }
        "merchant_category" => "INVALID_MERCHANT",
        "amount" | "amount_above_cap" | "velocity" => "AMOUNT_LIMIT_EXCEEDED",
        "duplicate_or_impossible_travel" => "DUPLICATE_TRANSACTION",
        _ => "TRANSACTION_NOT_PERMITTED",
    }
}

fn tolerance_ms(received: &Received<'_>) -> i64 {
    i64::try_from(received.tolerance_s).unwrap_or(i64::MAX).saturating_mul(1_000)
}

impl Transaction {
    fn funding(&self) -> Option<&JitFunding> {
        let of = |order: &'_ Option<Order>| order.as_ref().is_some_and(|order| order.jit_funding.is_some());
        match (of(&self.gpa_order), of(&self.gpa_order_unload)) {
            (true, _) => self.gpa_order.as_ref()?.jit_funding.as_ref(),
            (false, true) => self.gpa_order_unload.as_ref()?.jit_funding.as_ref(),
            (false, false) => self.jit_funding.as_ref(),
        }
    }

    fn question(&self, funding: &JitFunding, received: &Received<'_>, is_increment: bool) -> Result<Message, Unfit> {
        let at = self.at(received)?;
        if received.now.since_ms(at) > tolerance_ms(received) {
            return Err(Unfit::new("created_time", "too far in the past"));
        }
        let first = funding.original_jit_funding_token.as_deref().filter(|_| is_increment);
        let purchase = Purchase {
            authorization_id: fields::id("gpa_order.jit_funding.token", first.unwrap_or(&funding.token))?,
            source: SOURCE.to_owned(),
            card_ref: fields::id("card_token", self.card_token.as_deref().unwrap_or_default())?,
            at,
            amount: self.amount(funding)?,
            partial_allowed: self.can_part(),
            merchant: self.merchant(),
            fill: Fill::default(),
            prompts: Prompts::default(),
        };
        let source_event = fields::message_id("gpa_order.jit_funding.token", &funding.token)?;
        // How much is held already is not said; that there is something is.
        let already_minor = i64::from(is_increment && first.is_some());
        Ok(Message::Question(Box::new(Question { purchase, source_event, already_minor })))
    }

    fn posting(&self, funding: &JitFunding, received: &Received<'_>, kind: PostingKind) -> Result<Message, Unfit> {
        let posting_id = fields::message_id("jit_funding.token", &funding.token)?;
        let authorization = match (funding.original_jit_funding_token.as_deref(), kind) {
            (Some(first), _) => Some(first),
            (None, PostingKind::ApprovedWithoutUs) => Some(funding.token.as_str()),
            (None, _) => None,
        };
        let authorization_id = authorization.map(|id| fields::id("original_jit_funding_token", id)).transpose()?;
        Ok(Message::Postings(vec![Posting {
            source: SOURCE.to_owned(),
            source_event: posting_id.clone(),
            posting_id,
            body_sha256: received.body_sha256.to_owned(),
            kind,
            authorization_id,
            card_ref: self.card_token.as_deref().map(|id| fields::id("card_token", id)).transpose()?,
            at: self.at(received)?,
            amount: self.amount(funding)?,
            merchant: self.merchant(),
            fill: Fill::default(),
            prompts: Prompts::default(),
        }]))
    }

    fn amount(&self, funding: &JitFunding) -> Result<Money, Unfit> {
        let unfit = || Unfit::new("gpa_order.jit_funding.amount", "a decimal of the currency's major unit");
        let of = |order: &Option<Order>| order.as_ref().and_then(|order| order.currency_code.clone());
        let code = self.currency_code.clone().or_else(|| of(&self.gpa_order)).or_else(|| of(&self.gpa_order_unload));
        let currency = fields::currency("currency_code", code.as_deref())?;
        let text = funding.amount.text().ok_or_else(unfit)?;
        let mut amount = Money::from_major(&text, &currency).ok_or_else(unfit)?;
        // The direction is the method's.
        amount.amount_minor = amount.amount_minor.checked_abs().ok_or_else(unfit)?;
        Ok(amount)
    }

    /// The transaction's own time. A question of long ago is an old message; a posting may be days late, and is taken
    /// once however often it comes.
    fn at(&self, received: &Received<'_>) -> Result<Timestamp, Unfit> {
        let told = self.created_time.as_deref().or(self.user_transaction_time.as_deref());
        let told = told.ok_or_else(|| Unfit::new("created_time", "is missing"))?;
        let at = fields::rfc3339("created_time", told)?;
        if at.since_ms(received.now) > tolerance_ms(received) {
            return Err(Unfit::new("created_time", "too far in the future"));
        }
        Ok(at)
    }

    fn can_part(&self) -> bool {
        let of_poi =
            self.card_acceptor.as_ref().and_then(|place| place.poi.as_ref()?.partial_approval_capable.as_ref());
        let of_pos = self.pos.as_ref().and_then(|pos| pos.partial_approval_capable.as_ref());
        of_poi.is_some_and(Loose::is_true) || of_pos.is_some_and(Loose::is_true)
    }

    fn merchant(&self) -> Merchant {
        let nowhere = CardAcceptor::default();
        let place = self.card_acceptor.as_ref().unwrap_or(&nowhere);
        let text = |loose: &Option<Loose>| loose.as_ref().and_then(Loose::text).filter(|text| !text.is_empty());
        let poi_tid = place.poi.as_ref().and_then(|poi| text(&poi.tid));
        let pos_tid = self.pos.as_ref().and_then(|pos| text(&pos.terminal_id));
        Merchant {
            network_id: kept_id(text(&place.network_mid).or_else(|| text(&place.mid))),
            terminal_id: kept_id(poi_tid.or(pos_tid)),
            name: kept(place.name.clone()),
            category_code: kept(text(&place.mcc)),
            city: kept(place.city.clone()),
            postal_code: kept(text(&place.postal_code).or_else(|| text(&place.zip))),
            country: kept(text(&place.country_code).or_else(|| text(&place.country))),
            position: None,
        }
    }
}
