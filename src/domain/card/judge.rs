//! From verdicts to an answer.

use serde::{Deserialize, Serialize};

use super::super::Timestamp;
use super::checks::{self, Case};
use super::facts::{gap_ms, moment};
use super::{Check, CheckMode, CheckName, FailPolicy, Inputs, Purchase, Rules, Settlement, UnknownPolicy, Verdict};

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
    /// What the whole authorisation may come to by what is known (the tank's room, the maximum), whether or not this
    /// question reaches it: increments count into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_minor: Option<i64>,
    /// What led to anything but a plain approval: check names, with `_unknown` behind where not knowing did;
    /// `vehicle_not_answering` for the fallback policy, `amount_above_cap` where a cap could not be imposed,
    /// `confirmed_by_holder` where that lifted a step-up.
    pub reasons: Vec<String>,
    /// Checks that failed and only warn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<CheckName>,
    pub checks: Vec<Check>,
    pub rule_version: String,
    /// The vehicle class whose rules it was judged by; absent = the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_class: Option<String>,
}

impl Ruling {
    /// For an increment: what was approved before counts into the caps, that of the first approval included.
    pub fn count_in(&mut self, already_minor: i64, first_cap_minor: Option<i64>, asked: &Purchase) {
        if self.settlement == Settlement::Disabled {
            return;
        }
        let amount = asked.amount.amount_minor;
        let left = |cap: Option<i64>| cap.map(|cap| cap.saturating_sub(already_minor));
        // By policy, and by what is known.
        let left_of_cap = left([self.cap_minor, first_cap_minor].into_iter().flatten().min());
        let left_of_limit = left(self.limit_minor);
        let Some(least) = left_of_cap.into_iter().chain(left_of_limit).min() else { return };
        let refused = match asked.partial_allowed {
            _ if least <= 0 => Some(Outcome::Decline),
            false if left_of_limit.is_some_and(|left| left < amount) => Some(Outcome::Decline),
            // Not knowing enough is no reason to refuse what the holder can confirm.
            false if least < amount => Some(Outcome::StepUp),
            _ => None,
        };
        if let Some(outcome) = refused {
            (self.outcome, self.settlement, self.cap_minor) = (outcome, Settlement::Disabled, None);
            note(&mut self.reasons, "amount_above_cap".into());
        } else if left_of_cap.is_some() || least < amount {
            (self.outcome, self.cap_minor) = (Outcome::ApproveCapped, Some(least));
        }
    }

    /// What is on record where a question was answered without one.
    pub fn without_judgement(outcome: Outcome, cap_minor: Option<i64>, why: &str) -> Self {
        Self {
            outcome,
            settlement: outcome.settlement(),
            cap_minor,
            reasons: vec!["fallback".into(), why.into()],
            limit_minor: None,
            warnings: Vec::new(),
            checks: Vec::new(),
            rule_version: "none".into(),
            rule_class: None,
        }
    }

    /// Did a check that declines fail? A decline without one rests on not knowing alone.
    pub fn has_failed_check(&self) -> bool {
        self.failed_checks().next().is_some()
    }

    pub fn failed_checks(&self) -> impl Iterator<Item = &Check> {
        let declines = |check: &&Check| check.mode == CheckMode::On && check.fail == FailPolicy::Decline;
        self.checks.iter().filter(declines).filter(|check| check.verdict == Verdict::Fail)
    }
}

/// Judges a purchase: the same four always come to the same ruling.
pub fn judge(now: Timestamp, purchase: &Purchase, inputs: &Inputs, rules: &Rules) -> Ruling {
    let case = Case { now, purchase, inputs, rules };
    let mut tally = Tally::default();
    let mut records = Vec::new();
    for name in CheckName::ALL {
        let switch = rules.switch(name);
        if switch.mode == CheckMode::Off {
            continue;
        }
        let Some(found) = checks::run(name, &case) else { continue };
        if switch.mode == CheckMode::On {
            tally.bound(name, found.cap_minor.filter(|_| switch.fail != FailPolicy::Warn));
            match found.verdict {
                Verdict::Pass => {}
                Verdict::Fail => tally.fail(name, switch.fail),
                Verdict::Unknown if found.lacks_vehicle => {
                    tally.follow(rules.fallback, "vehicle_not_answering".into());
                }
                Verdict::Unknown => tally.follow(switch.unknown, format!("{}_unknown", name.name())),
            }
        }
        records.push(found.record(name, rules));
    }
    let (limit_minor, warnings) = (tally.limit_minor(), std::mem::take(&mut tally.warnings));
    let (outcome, cap_minor, reasons) = tally.outcome(purchase, is_confirmed(&case));
    Ruling {
        outcome,
        settlement: outcome.settlement(),
        cap_minor,
        limit_minor,
        reasons,
        warnings,
        checks: records,
        rule_version: rules.version.clone(),
        rule_class: rules.vehicle_class.clone(),
    }
}

/// The holder said so, near enough to the purchase.
fn is_confirmed(case: &Case<'_>) -> bool {
    let within_ms = i64::from(case.rules.step_up.confirm_within_s) * 1000;
    let at = moment(case.now, case.purchase.at);
    case.inputs.confirmed_at.is_some_and(|confirmed| gap_ms(confirmed, at) <= within_ms)
}

/// Collects what the checks ask for; the strictest counts, and only its reasons are told.
#[derive(Default)]
struct Tally {
    declines: Vec<String>,
    steps_up: Vec<String>,
    warnings: Vec<CheckName>,
    /// Caps of policies, for not knowing.
    caps: Vec<String>,
    cap_minor: Option<i64>,
    /// Caps of checks, by what is known.
    limits: Vec<(CheckName, i64)>,
}

impl Tally {
    fn fail(&mut self, check: CheckName, policy: FailPolicy) {
        match policy {
            FailPolicy::Decline => note(&mut self.declines, check.name().into()),
            FailPolicy::StepUp => note(&mut self.steps_up, check.name().into()),
            FailPolicy::Warn => self.warnings.push(check),
        }
    }

    fn bound(&mut self, check: CheckName, cap_minor: Option<i64>) {
        self.limits.extend(cap_minor.map(|cap| (check, cap)));
    }

    fn follow(&mut self, policy: UnknownPolicy, reason: String) {
        match policy {
            UnknownPolicy::Approve => {}
            UnknownPolicy::ApproveCapped { cap_minor } => {
                self.cap_minor = Some(self.cap_minor.map_or(cap_minor, |cap| cap.min(cap_minor)));
                note(&mut self.caps, reason);
            }
            UnknownPolicy::StepUp => note(&mut self.steps_up, reason),
            UnknownPolicy::Decline => note(&mut self.declines, reason),
        }
    }

    fn limit_minor(&self) -> Option<i64> {
        self.limits.iter().map(|(_, cap)| *cap).min()
    }

    fn outcome(self, purchase: &Purchase, is_confirmed: bool) -> (Outcome, Option<i64>, Vec<String>) {
        let (amount, may_cut) = (purchase.amount.amount_minor, purchase.partial_allowed);
        if !self.declines.is_empty() {
            return (Outcome::Decline, None, self.declines);
        }
        let cap_is_moot = !may_cut && self.cap_minor.is_some_and(|cap| amount > cap);
        let needs_proof = !self.steps_up.is_empty() || cap_is_moot;
        if needs_proof && !is_confirmed {
            let mut reasons = self.steps_up;
            if cap_is_moot {
                self.caps.into_iter().for_each(|reason| note(&mut reasons, reason));
                note(&mut reasons, "amount_above_cap".into());
            }
            return (Outcome::StepUp, None, reasons);
        }
        // The holder's word takes the place of what is not known, where that cannot be capped.
        let mut cap_minor = self.cap_minor.filter(|_| !cap_is_moot);
        let mut reasons = if cap_is_moot { Vec::new() } else { self.caps };
        if may_cut {
            // Only what bites: a limit above what is asked for restricts nothing here.
            for (check, limit) in self.limits.into_iter().filter(|(_, limit)| *limit < amount) {
                cap_minor = Some(cap_minor.map_or(limit, |cap| cap.min(limit)));
                note(&mut reasons, check.name().into());
            }
        }
        if needs_proof {
            note(&mut reasons, "confirmed_by_holder".into());
        }
        let outcome = if cap_minor.is_some() { Outcome::ApproveCapped } else { Outcome::Approve };
        (outcome, cap_minor, reasons)
    }
}

fn note(reasons: &mut Vec<String>, reason: String) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}
