//! From verdicts to an answer.

use serde::{Deserialize, Serialize};

use super::super::Timestamp;
use super::checks::{self, Case};
use super::{Check, CheckMode, Inputs, Purchase, Rules, Settlement, UnknownPolicy, VehicleLookup, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Approve,
    /// Up to `cap_minor`.
    ApproveCapped,
    /// Only with a further proof; until then no money moves.
    StepUp,
    Decline,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::ApproveCapped => "approve_capped",
            Self::StepUp => "step_up",
            Self::Decline => "decline",
        }
    }

    pub fn settlement(self) -> Settlement {
        match self {
            Self::Approve | Self::ApproveCapped => Settlement::Enabled,
            Self::StepUp | Self::Decline => Settlement::Disabled,
        }
    }
}

/// What [`judge`] came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ruling {
    pub outcome: Outcome,
    pub settlement: Settlement,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_minor: Option<i64>,
    /// What led to anything but a plain approval: check names, with `_unknown` behind where not knowing did;
    /// `vehicle_not_answering` for the fallback policy, `amount_above_cap` where a cap could not be imposed.
    pub reasons: Vec<String>,
    pub checks: Vec<Check>,
    pub rule_version: String,
}

impl Ruling {
    /// For an increment: what was approved before counts into the cap, that of the first approval included.
    pub fn count_in(&mut self, already_minor: i64, first_cap_minor: Option<i64>, asked: &Purchase) {
        let caps = [self.cap_minor, first_cap_minor];
        let Some(cap) = caps.into_iter().flatten().min() else { return };
        if self.settlement == Settlement::Disabled {
            return;
        }
        let left = cap - already_minor;
        if left <= 0 || (left < asked.amount.amount_minor && !asked.partial_allowed) {
            (self.outcome, self.settlement, self.cap_minor) = (Outcome::Decline, Settlement::Disabled, None);
            self.reasons.push("amount_above_cap".into());
        } else {
            (self.outcome, self.cap_minor) = (Outcome::ApproveCapped, Some(left));
        }
    }

    /// What is on record where a question was answered without one.
    pub fn without_judgement(outcome: Outcome, cap_minor: Option<i64>, why: &str) -> Self {
        Self {
            outcome,
            settlement: outcome.settlement(),
            cap_minor,
            reasons: vec!["fallback".into(), why.into()],
            checks: Vec::new(),
            rule_version: "none".into(),
        }
    }

    /// Did a check that counts fail? A decline without one rests on not knowing alone.
    pub fn has_failed_check(&self) -> bool {
        self.failed_checks().next().is_some()
    }

    pub fn failed_checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.mode == CheckMode::On && check.verdict == Verdict::Fail)
    }
}

/// Judges a purchase: the same four always come to the same ruling.
pub fn judge(now: Timestamp, purchase: &Purchase, inputs: &Inputs, rules: &Rules) -> Ruling {
    let is_late = inputs.vehicles.iter().any(|lookup| matches!(lookup, VehicleLookup::Late(_)));
    let mut tally = Tally::default();
    let mut records = Vec::new();
    for check in checks::all(rules) {
        if check.mode == CheckMode::Off {
            continue;
        }
        let found = (check.run)(&Case { now, purchase, inputs, rules });
        if check.mode == CheckMode::On {
            match found.verdict {
                Verdict::Pass => {}
                Verdict::Fail => tally.decline(check.name.name().into()),
                Verdict::Unknown if is_late && check.asks_vehicle => {
                    tally.follow(rules.fallback, "vehicle_not_answering".into());
                }
                Verdict::Unknown => tally.follow(check.unknown, format!("{}_unknown", check.name.name())),
            }
        }
        records.push(Check {
            check: check.name,
            mode: check.mode,
            verdict: found.verdict,
            detail: found.detail,
            evidence: found.evidence,
            age_s: found.age_s,
        });
    }
    let (outcome, cap_minor, reasons) = tally.outcome(purchase);
    let settlement = outcome.settlement();
    Ruling { outcome, settlement, cap_minor, reasons, checks: records, rule_version: rules.version.clone() }
}

/// Collects what the checks ask for; the strictest counts, and only its reasons are told.
#[derive(Default)]
struct Tally {
    declines: Vec<String>,
    steps_up: Vec<String>,
    caps: Vec<String>,
    cap_minor: Option<i64>,
}

impl Tally {
    fn decline(&mut self, reason: String) {
        note(&mut self.declines, reason);
    }

    fn follow(&mut self, policy: UnknownPolicy, reason: String) {
        match policy {
            UnknownPolicy::Approve => {}
            UnknownPolicy::ApproveCapped { cap_minor } => {
                self.cap_minor = Some(self.cap_minor.map_or(cap_minor, |cap| cap.min(cap_minor)));
                note(&mut self.caps, reason);
            }
            UnknownPolicy::StepUp => note(&mut self.steps_up, reason),
            UnknownPolicy::Decline => self.decline(reason),
        }
    }

    fn outcome(mut self, purchase: &Purchase) -> (Outcome, Option<i64>, Vec<String>) {
        if !self.declines.is_empty() {
            return (Outcome::Decline, None, self.declines);
        }
        if !self.steps_up.is_empty() {
            return (Outcome::StepUp, None, self.steps_up);
        }
        match self.cap_minor {
            None => (Outcome::Approve, None, Vec::new()),
            // An amount that cannot be cut may not pass a cap.
            Some(cap) if !purchase.partial_allowed && purchase.amount.amount_minor > cap => {
                note(&mut self.caps, "amount_above_cap".into());
                (Outcome::Decline, None, self.caps)
            }
            Some(cap) => (Outcome::ApproveCapped, Some(cap), self.caps),
        }
    }
}

fn note(reasons: &mut Vec<String>, reason: String) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}
