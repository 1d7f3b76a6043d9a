//! What every payment network's form has to do: prove who sent a message, read it in the guard's words, and answer in
//! the network's. Everything else about payments is the same for all of them and stands in `receive.rs`.

use std::fmt;

use actix_web::HttpResponse;
use actix_web::http::header::HeaderMap;

use crate::actors::card_guard::Decided;
use crate::config::{FormSettings, Payments};
use crate::domain::card::{NetworkRef, Outcome, Posting, Purchase, Settlement};
use crate::domain::{Money, Timestamp};
use crate::http::error::Problem;

pub trait PaymentForm {
    /// How records call it: `stripe`, `own`, `marqeta` or `lithic`.
    const SOURCE: &'static str;
    /// Where it stands in the counters and limits of all forms.
    const PLACE: usize;
    /// Its answers repeat parts of the message, so that a body is glanced at for every one.
    const REPEATS: bool = true;
    /// An increment says how much is held already.
    const SAYS_WHAT_IS_HELD: bool = true;

    fn settings(payments: &Payments) -> FormSettings<'_>;

    /// Proves over the raw bytes that the network sent them, and just now. Nothing is parsed before this.
    fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        settings: FormSettings<'_>,
        now: Timestamp,
    ) -> Result<Signed, NotSigned>;

    fn read(&self, received: &Received<'_>) -> Result<Message, Unfit>;

    /// What can be seen of a body even if it cannot be read as a whole: enough to answer in its form.
    fn glance(&self, body: &[u8]) -> Glance;

    /// The answer to a question, with whatever status and headers the network expects.
    fn answer(&self, payments: &Payments, verdict: &Verdict<'_>, glance: &Glance) -> HttpResponse;

    /// The answer to what asks nothing.
    fn acknowledge(&self, glance: &Glance, posted: Option<&Acknowledged>) -> HttpResponse;

    /// The answer where this form's callers rather hear what is wrong with their message; `None` = the fallback.
    fn refuse(&self, _: &Unfit) -> Option<Problem> {
        None
    }
}

/// A message whose sender is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// When it was signed, in Unix seconds; our own time where the form does not say.
    pub at_s: i64,
    /// The message's id, where it stands beside the body and not in it.
    pub message_id: Option<String>,
}

/// A message as it came, with its proof.
pub struct Received<'a> {
    pub body: &'a [u8],
    pub body_sha256: &'a str,
    pub signed: &'a Signed,
    pub now: Timestamp,
    pub tolerance_s: u64,
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSigned {
    /// The header of this name is missing.
    Missing(&'static str),
    /// The header has not the form it must have.
    Malformed(&'static str, &'static str),
    /// No signature fits under any secret.
    Wrong,
    /// Signed well, but too long ago or too far in the future.
    OutOfTime,
}

impl fmt::Display for NotSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(header) => write!(f, "no {header} header"),
            Self::Malformed(header, detail) => write!(f, "{header}: {detail}"),
            Self::Wrong => f.write_str("the signature does not fit the body"),
            Self::OutOfTime => f.write_str("the signature's time is too far from now"),
        }
    }
}

/// What a network's message is to the guard.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// May this purchase go on?
    Question(Box<Question>),
    /// What happened to purchases since. More than one where a network tells the whole story each time.
    Postings(Vec<Posting>),
    /// Nothing the guard has a use for; its id where it has one.
    Nothing { id: Option<String> },
}

#[derive(Debug, PartialEq)]
pub struct Question {
    pub purchase: Purchase,
    /// The network's id of its message.
    pub source_event: String,
    /// What the network holds for this authorisation already: above 0 an increment is asked for. 1 where the form does
    /// not say how much.
    pub already_minor: i64,
}

/// Why a body cannot be understood. No value of the body is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The field, as a path; empty = the body as a whole.
    pub field: String,
    pub detail: &'static str,
    /// The network waits for a yes or no.
    pub asks: bool,
    /// A card number stands in it.
    pub is_card_number: bool,
}

impl Unfit {
    pub fn new(field: impl Into<String>, detail: &'static str) -> Self {
        Self { field: field.into(), detail, asks: true, is_card_number: false }
    }

    /// Of a message that asks nothing.
    pub fn telling(self) -> Self {
        Self { asks: false, ..self }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(self.detail),
            field => write!(f, "{field}: {}", self.detail),
        }
    }
}

/// What can be seen of a body without understanding all of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Glance {
    /// The network's own name of the message, to be repeated in the answer.
    pub token: Option<String>,
    /// What kind of message it calls itself.
    pub method: Option<String>,
    /// Other fields that the answer repeats.
    pub user_token: Option<String>,
    pub card_ref: Option<NetworkRef>,
    pub amount: Option<Money>,
    pub partial_allowed: bool,
    pub has_vehicle_number: bool,
    /// The holder is there to answer a challenge.
    pub can_challenge: bool,
}

/// What became of a message's postings.
#[derive(Debug, Clone, PartialEq)]
pub struct Acknowledged {
    pub posting_id: String,
    pub is_repeat: bool,
}

/// What to answer, before it is put into a network's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict<'a> {
    pub approved: bool,
    /// Less than was asked: so much and no more.
    pub amount_minor: Option<i64>,
    /// `None` = the configured fallback, without a record.
    pub decided: Option<&'a Decided>,
    pub fallback_reason: &'static str,
}

/// The answer that stands in for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallbackAnswer {
    pub approved: bool,
    pub amount_minor: Option<i64>,
    /// Like `storage`, `busy`, `late` or `unreadable`.
    pub why: &'static str,
}

impl<'a> Verdict<'a> {
    /// Of a recorded decision, for what is asked now: a repeat may ask for more than the question that was judged, and
    /// the recorded cap holds for it too.
    pub fn recorded(decided: &'a Decided, asked_minor: i64, partial_allowed: bool) -> Self {
        let fits_cap = decided.cap_minor.is_none_or(|cap| asked_minor <= cap || partial_allowed);
        let amount = decided.cap_minor.filter(|_| partial_allowed && decided.outcome == Outcome::ApproveCapped);
        // An amount above what was judged was never judged.
        let fits_question =
            decided.asked_minor.is_none_or(|judged| asked_minor <= judged || decided.cap_minor.is_some());
        let approved = decided.settlement == Settlement::Enabled && fits_cap && fits_question;
        let amount_minor = amount.map(|cap| cap.min(asked_minor)).filter(|amount| approved && *amount > 0);
        Self { approved, amount_minor, decided: Some(decided), fallback_reason: "" }
    }

    pub fn fallback(answer: FallbackAnswer) -> Self {
        let FallbackAnswer { approved, amount_minor, why } = answer;
        Self { approved, amount_minor, decided: None, fallback_reason: why }
    }

    /// `approve`, `approve_capped`, `step_up`, `decline` or `fallback`.
    pub fn outcome(&self) -> &'static str {
        self.decided.map_or("fallback", |decided| decided.outcome.name())
    }

    /// What led to anything but a plain approval.
    pub fn reasons(&self) -> Vec<String> {
        match self.decided {
            Some(decided) => decided.reasons.clone(),
            None => vec![self.fallback_reason.to_owned()],
        }
    }

    /// The first reason that rests on a failed check, else the first of all.
    pub fn main_reason(&self) -> &str {
        match self.decided {
            None => self.fallback_reason,
            Some(decided) => {
                let is_failed = |reason: &&String| !reason.ends_with("_unknown") && *reason != "vehicle_not_answering";
                decided.reasons.iter().find(is_failed).or(decided.reasons.first()).map_or("", String::as_str)
            }
        }
    }
}
