//! What became of an authorisation after its answer: what was taken, given back, and whether the car got it.
//!
//! Postings come out of order, twice, days late, and without a question before; the car's reports come late too. Each
//! of them is a reason to look again, and what an alert said is confirmed or withdrawn by it. The decision itself
//! never changes.

use serde::{Deserialize, Serialize};

use super::super::{AlertId, DecisionId, Money, Timestamp, VehicleId};
use super::checks::fills_the_tank;
use super::{
    AlertKind, Captured, CardId, Check, CheckMode, CheckName, Decision, Fill, Fuelled, Posting, PostingKind, Product,
    Purchase, Review, ReviewVerdict, Settlement, StationLookup, Verdict,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReconciliationState {
    /// Nothing was taken; late reports of the car are waited for.
    Watching,
    /// Money was taken, and the car has not shown yet what it got.
    Pending,
    /// The car got what was paid for.
    Confirmed,
    /// It did not, as far as the reports say.
    Doubted,
    /// Nobody can say.
    Unverifiable,
    /// What was held is given back.
    Reversed,
    /// The network let it lapse.
    Expired,
}

impl ReconciliationState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Doubted => "doubted",
            Self::Unverifiable => "unverifiable",
            Self::Reversed => "reversed",
            Self::Expired => "expired",
        }
    }
}

/// One posting as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptureLine {
    pub posting_id: String,
    pub kind: PostingKind,
    pub at: Timestamp,
    pub received_at: Timestamp,
    pub amount: Money,
    pub fill: Fill,
    pub source_event: String,
    pub body_sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReconciliationPassage {
    pub state: ReconciliationState,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// `{source}/{authorization id}`, or `{source}/posting/{posting id}` where the network names none.
    pub key: String,
    /// `None` = we were not asked, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<DecisionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_id: Option<CardId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<VehicleId>,
    /// The purchase as it was asked, else as it was posted.
    pub purchase: Purchase,
    pub station: StationLookup,
    /// The most we allowed; `None` = we did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_minor: Option<i64>,
    /// We said yes, or were not asked.
    pub was_allowed: bool,
    /// When the card bought before: what the tank got since may be of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_at: Option<Timestamp>,
    pub state: ReconciliationState,
    /// Oldest first by arrival, at most [`Reconciliation::MAX_POSTINGS`].
    pub postings: Vec<CaptureLine>,
    /// What was compared last.
    pub checks: Vec<Check>,
    /// The checks that made us say no.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<CheckName>,
    /// The alert about it, raised with the decision or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<AlertId>,
    pub opened_at: Timestamp,
    /// When it is looked at again without a new posting; `None` = it is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_at: Option<Timestamp>,
    pub history: Vec<ReconciliationPassage>,
}

/// What a look at it leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    Nothing,
    Raise(AlertKind, String),
    Confirm(String),
    Withdraw(String),
}

/// What became of a posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    New,
    Repeat,
    /// It was taken before and says more now.
    Completed,
    /// There are as many as are kept; it is counted and not kept.
    TooMany,
}

impl Reconciliation {
    pub const MAX_POSTINGS: usize = 32;
    /// Some pumps ask for one unit of money and take what was filled: so little says nothing of what may be taken.
    const TOKEN_MINOR: i64 = 200;
    /// The first look at what was declined comes when late reports of the car have had time: some units report ten
    /// minutes late.
    const FIRST_LOOK_MS: i64 = 120_000;
    const LOOK_EVERY_MS: i64 = 300_000;
    /// So long a posting waits for the question that it may have overtaken.
    const OVERTAKEN_MS: i64 = 60_000;
    /// After an hour without a change it is looked at once an hour.
    const SELDOM_AFTER_MS: i64 = 3_600_000;
    /// Reports later than this are not waited for.
    pub const WAIT_MS: i64 = 86_400_000;

    /// For a decision that said no: late reports may bear it out or not. `None` where nothing can change it.
    pub fn watching(decision: &Decision) -> Option<Self> {
        let ruling = &decision.ruling;
        // Only a position can come late and say another thing; a step-up accuses nobody.
        let rests_on_place = ruling.failed_checks().all(|check| check.check == CheckName::Location);
        let is_told = ruling.settlement == Settlement::Disabled && decision.alert_id.is_some();
        // An increment is of an authorisation that has its own record.
        if !is_told || !rests_on_place || decision.vehicle_id.is_none() || decision.follows.is_some() {
            return None;
        }
        let mut watched = Self::of_decision(decision)?;
        watched.review_at = Some(decision.at.plus_ms(Self::FIRST_LOOK_MS));
        Some(watched)
    }

    /// What is posted belongs to this decision.
    pub fn of_decision(decision: &Decision) -> Option<Self> {
        let ruling = &decision.ruling;
        let asked = decision.purchase.amount.amount_minor;
        Some(Self {
            key: format!("{}/{}", decision.purchase.source, decision.purchase.authorization_id),
            decision_id: Some(decision.decision_id),
            card_id: decision.card_id.clone(),
            vehicle_id: decision.vehicle_id.clone(),
            purchase: decision.purchase.clone(),
            station: decision.inputs.as_ref()?.station.clone(),
            allowed_minor: match asked <= Self::TOKEN_MINOR {
                true => ruling.limit_minor,
                false => Some(ruling.cap_minor.map_or(asked, |cap| cap.min(asked))),
            },
            was_allowed: ruling.settlement == Settlement::Enabled,
            previous_at: decision.inputs.as_ref()?.spending.last.as_ref().map(|last| last.at),
            state: ReconciliationState::Watching,
            postings: Vec::new(),
            checks: Vec::new(),
            failed: ruling.failed_checks().map(|check| check.check).collect(),
            alert_id: decision.alert_id,
            opened_at: decision.at,
            review_at: None,
            history: vec![ReconciliationPassage { state: ReconciliationState::Watching, at: decision.at }],
        })
    }

    /// The decision it belongs to was found after all: a posting may overtake its question.
    pub fn link(&mut self, decision: &Decision) {
        let Some(asked) = Self::of_decision(decision) else { return };
        self.decision_id = asked.decision_id;
        self.card_id = asked.card_id;
        self.vehicle_id = asked.vehicle_id;
        self.purchase = asked.purchase;
        self.station = asked.station;
        self.allowed_minor = asked.allowed_minor;
        self.was_allowed = asked.was_allowed;
        self.failed = asked.failed;
        self.previous_at = asked.previous_at;
        self.alert_id = self.alert_id.or(asked.alert_id);
    }

    /// For a posting whose question we have not heard (yet).
    pub fn unasked(key: String, posting: &Posting, purchase: Purchase, station: StationLookup, now: Timestamp) -> Self {
        Self {
            key,
            decision_id: None,
            card_id: None,
            vehicle_id: None,
            purchase,
            station,
            allowed_minor: None,
            was_allowed: true,
            previous_at: None,
            state: ReconciliationState::Watching,
            postings: Vec::new(),
            checks: Vec::new(),
            failed: Vec::new(),
            alert_id: None,
            opened_at: now.min(posting.at),
            review_at: None,
            history: vec![ReconciliationPassage { state: ReconciliationState::Watching, at: now }],
        }
    }

    /// More was approved under the same authorisation.
    pub fn allow_more(&mut self, granted_minor: i64) {
        self.allowed_minor = self.allowed_minor.map(|allowed| allowed.saturating_add(granted_minor));
    }

    pub fn take(&mut self, posting: &Posting, now: Timestamp) -> Taken {
        if let Some(line) = self.postings.iter_mut().find(|line| line.posting_id == posting.posting_id) {
            let says_more = (line.fill.litres.is_none() && posting.fill.litres.is_some())
                || (line.fill.product.is_none() && posting.fill.product.is_some());
            if !says_more {
                return Taken::Repeat;
            }
            // Networks tell of the money first and of the fuel later.
            line.fill.litres = line.fill.litres.or(posting.fill.litres);
            line.fill.product = line.fill.product.or(posting.fill.product);
            self.enter(ReconciliationState::Pending, now);
            self.review_at = Some(now);
            return Taken::Completed;
        }
        if self.postings.len() >= Self::MAX_POSTINGS {
            return Taken::TooMany;
        }
        self.postings.push(CaptureLine {
            posting_id: posting.posting_id.clone(),
            kind: posting.kind,
            at: posting.at,
            received_at: now,
            amount: posting.amount.clone(),
            fill: posting.fill,
            source_event: posting.source_event.clone(),
            body_sha256: posting.body_sha256.clone(),
        });
        match (posting.kind, self.taken_minor() > 0) {
            (PostingKind::Capture | PostingKind::Refund, true) => {
                self.enter(ReconciliationState::Pending, now);
                self.review_at = Some(now);
            }
            (PostingKind::Refund | PostingKind::Reversal, false) => {
                self.enter(ReconciliationState::Reversed, now);
                self.review_at = Some(now);
            }
            (PostingKind::Expiry, false) => {
                self.enter(ReconciliationState::Expired, now);
                self.review_at = None;
            }
            (PostingKind::Capture | PostingKind::ApprovedWithoutUs, false) => self.review_at = Some(now),
            // What is left of the hold goes back after the capture: nothing to compare anew.
            (PostingKind::Reversal | PostingKind::Expiry | PostingKind::ApprovedWithoutUs, true) => {}
        }
        if self.decision_id.is_none() && self.review_at.is_some() {
            // The question may still come.
            self.review_at = Some(now.plus_ms(Self::OVERTAKEN_MS));
        }
        Taken::New
    }

    fn enter(&mut self, state: ReconciliationState, now: Timestamp) {
        if self.state == state {
            return;
        }
        self.state = state;
        if self.history.len() < Self::MAX_POSTINGS * 2 {
            self.history.push(ReconciliationPassage { state, at: now });
        }
    }

    fn sum(&self, kind: PostingKind) -> i64 {
        let same = self.postings.iter().filter(|line| line.kind == kind);
        same.fold(0, |sum, line| sum.saturating_add(line.amount.amount_minor))
    }

    /// Captured and not refunded, in minor units.
    pub fn taken_minor(&self) -> i64 {
        self.sum(PostingKind::Capture).saturating_sub(self.sum(PostingKind::Refund)).max(0)
    }

    /// Does what was asked no longer count as bought?
    pub fn is_given_back(&self) -> bool {
        matches!(self.state, ReconciliationState::Reversed | ReconciliationState::Expired)
    }

    /// The currency that was taken, where it is another than was asked for.
    pub fn taken_currency(&self) -> &str {
        let asked = self.purchase.amount.currency.as_str();
        let captures = self.postings.iter().filter(|line| line.kind == PostingKind::Capture);
        let named = captures.map(|line| line.amount.currency.as_str()).filter(|code| *code != Money::NO_CURRENCY);
        named.into_iter().find(|code| !code.eq_ignore_ascii_case(asked)).unwrap_or(asked)
    }

    /// All captures as one, for the comparison with the car.
    pub fn captured(&self) -> Captured {
        let captures: Vec<&CaptureLine> =
            self.postings.iter().filter(|line| line.kind == PostingKind::Capture).collect();
        // What does not go into the tank is bought beside the fuel and hides none of it.
        let is_fuel = |line: &&&CaptureLine| !matches!(line.fill.product, Some(Product::Adblue | Product::Other));
        let fuel: Vec<&&CaptureLine> = captures.iter().filter(is_fuel).collect();
        let counted = if fuel.is_empty() { captures.iter().collect() } else { fuel };
        let litres: Vec<f64> = counted.iter().filter_map(|line| line.fill.litres).collect();
        Captured {
            amount: Money { amount_minor: self.taken_minor(), currency: self.taken_currency().to_owned() },
            litres: (!litres.is_empty()).then(|| litres.iter().sum()),
            product: counted.iter().find_map(|line| line.fill.product),
            odometer_km: self.purchase.prompts.odometer_km,
            captures: counted.len() as u32,
            allowed_minor: self.allowed_minor,
            beside: Vec::new(),
        }
    }

    /// What was fuelled for the tank, once it is known.
    pub fn fuelled(&self) -> Option<Fuelled> {
        let Captured { litres, product, .. } = self.captured();
        let litres = litres.filter(|litres| fills_the_tank(product) && litres.is_finite() && *litres > 0.0)?;
        Some(Fuelled { at: self.purchase.at, litres, vehicle_id: self.vehicle_id.clone() })
    }

    /// Is this the last look: later reports are not waited for?
    pub fn is_final_at(&self, now: Timestamp) -> bool {
        let newest = self.postings.last().map_or(self.opened_at, |line| line.received_at);
        now.since_ms(newest) >= Self::WAIT_MS
    }

    fn look_again(&mut self, now: Timestamp) {
        let since = now.since_ms(self.postings.last().map_or(self.opened_at, |line| line.received_at));
        self.review_at = match since {
            ..Self::SELDOM_AFTER_MS => Some(now.plus_ms(Self::LOOK_EVERY_MS)),
            Self::SELDOM_AFTER_MS..Self::WAIT_MS => Some(now.plus_ms(Self::SELDOM_AFTER_MS)),
            _ => None,
        };
    }

    /// Takes the comparison of what was taken with what the car shows, and says what it means for the alert.
    pub fn reviewed(&mut self, now: Timestamp, review: Review) -> Finding {
        let known: Vec<CheckName> = self.failing().map(|check| check.check).collect();
        // Networks tell of the money first: what it was for may come later, and then the guess is over.
        let was_guessed = self.failing().all(|check| check.evidence.is_least_litres == Some(true)) && !known.is_empty();
        self.checks = review.checks;
        self.review_at = None;
        if self.is_given_back() {
            let has_doubt = self.alert_id.is_some() && self.was_allowed;
            return match has_doubt {
                true => Finding::Withdraw("the money was given back".into()),
                false => Finding::Nothing,
            };
        }
        if self.taken_minor() == 0 {
            return self.watched(now);
        }
        if !self.was_allowed {
            self.enter(ReconciliationState::Doubted, now);
            let text = "the network took the money although the answer was no";
            return self.doubt(text.into(), true);
        }
        match review.verdict {
            ReviewVerdict::Pending => {
                self.enter(ReconciliationState::Pending, now);
                self.look_again(now);
                self.raise_if_unasked()
            }
            ReviewVerdict::Confirmed => {
                self.enter(ReconciliationState::Confirmed, now);
                match self.alert_id {
                    Some(_) => Finding::Withdraw("the car got what was paid for".into()),
                    None => Finding::Nothing,
                }
            }
            ReviewVerdict::Doubted => {
                self.enter(ReconciliationState::Doubted, now);
                // Late reports may still show that all is well.
                self.look_again(now);
                let found: Vec<&str> = self.failing().map(|check| check.detail.as_str()).collect();
                let found = found.join("; ");
                let is_news = self.failing().any(|check| !known.contains(&check.check));
                self.doubt(found, is_news)
            }
            ReviewVerdict::Unverifiable => {
                self.enter(ReconciliationState::Unverifiable, now);
                // The car's late reports may still say something.
                self.look_again(now);
                match was_guessed && self.decision_id.is_some() && self.alert_id.is_some() {
                    true => Finding::Withdraw("what was bought was named later, and it does not fail".into()),
                    false => self.raise_if_unasked(),
                }
            }
        }
    }

    fn failing(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.mode == CheckMode::On && check.verdict == Verdict::Fail)
    }

    /// The same evidence again confirms nothing.
    fn doubt(&self, found: String, is_news: bool) -> Finding {
        match self.alert_id {
            Some(_) if is_news => Finding::Confirm(found),
            Some(_) => Finding::Nothing,
            None => Finding::Raise(AlertKind::FillDoubted, found),
        }
    }

    fn raise_if_unasked(&self) -> Finding {
        match (self.decision_id, self.alert_id) {
            (None, None) => {
                Finding::Raise(AlertKind::UnaskedCapture, "money was taken and we had not been asked before".into())
            }
            (Some(_), _) | (None, Some(_)) => Finding::Nothing,
        }
    }

    /// Nothing was taken: do the car's late reports bear out what was said at the pump?
    fn watched(&mut self, now: Timestamp) -> Finding {
        let is_told_otherwise = self.postings.iter().any(|line| line.kind == PostingKind::ApprovedWithoutUs);
        if is_told_otherwise && self.alert_id.is_none() {
            return Finding::Raise(AlertKind::UnaskedCapture, "the network approved it without our answer".into());
        }
        if self.was_allowed || self.alert_id.is_none() {
            return Finding::Nothing;
        }
        let counts = |check: &&Check| check.check == CheckName::Location && check.mode == CheckMode::On;
        let place = self.checks.iter().find(counts);
        let only_place = self.failed.iter().all(|name| *name == CheckName::Location);
        match place.map(|check| (check.verdict, check.detail.clone())) {
            Some((Verdict::Pass, detail)) if only_place => {
                self.enter(ReconciliationState::Confirmed, now);
                Finding::Withdraw(format!("later reports of the car: {detail}"))
            }
            Some((Verdict::Fail, detail)) => {
                self.enter(ReconciliationState::Doubted, now);
                Finding::Confirm(format!("later reports of the car: {detail}"))
            }
            Some((Verdict::Pass | Verdict::Unknown, _)) | None => {
                self.look_again(now);
                if self.review_at.is_none() {
                    self.enter(ReconciliationState::Unverifiable, now);
                }
                Finding::Nothing
            }
        }
    }
}
