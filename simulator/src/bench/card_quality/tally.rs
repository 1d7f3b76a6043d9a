//! What the stories say about the guard: who was stopped, who was told about, and whether that was right.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::kinds::{KINDS, Kind, Phase};
use super::play::{Played, Record};

/// Alerts after the answer that say a fill was not right; all others tell of an answer, or only inform.
const DOUBTS: [&str; 3] = ["fill_doubted", "purchase_disowned", "fuel_fell"];
/// What a run must reach of the misuses that can be seen.
const RECALL_BAR: f64 = 0.95;

/// One story's outcome. Of a misuse only the questions count that are the misuse.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub number: usize,
    pub kind: Kind,
    pub is_honest: bool,
    pub was_declined: bool,
    /// The renter was asked, and it went on after their word or not at all.
    pub was_stepped_up: bool,
    /// No money moved.
    pub was_stopped: bool,
    pub was_capped: bool,
    /// An alert after the answer doubts it and stands.
    pub was_doubted: bool,
    /// Such an alert was raised and taken back.
    pub was_withdrawn: bool,
    /// Alerts that only inform.
    pub notices: BTreeSet<String>,
    /// Checks that failed, at either time, and what not knowing led to.
    pub told_by: BTreeSet<String>,
    /// States of the comparison with the car, by question.
    pub reconciled: Vec<String>,
    /// For people: why, in the gateway's words.
    pub why: Vec<String>,
}

impl Outcome {
    fn of(played: &Played, record: &Record) -> Self {
        let is_honest = played.story.kind.misuse().is_none();
        let mut outcome = Self {
            number: played.story.number,
            kind: played.story.kind,
            is_honest,
            was_declined: false,
            was_stepped_up: false,
            was_stopped: false,
            was_capped: false,
            was_doubted: false,
            was_withdrawn: false,
            notices: BTreeSet::new(),
            told_by: BTreeSet::new(),
            reconciled: Vec::new(),
            why: Vec::new(),
        };
        for asked in &played.asked {
            let decision = record.decisions.get(&asked.answer.decision_id).unwrap_or(&Value::Null);
            let state = decision.pointer("/reconciliation/state").and_then(Value::as_str).unwrap_or("none");
            outcome.reconciled.push(state.to_owned());
            if !is_honest && !asked.ask.is_misuse {
                continue;
            }
            outcome.note_failures(decision.pointer("/reconciliation/checks"));
            outcome.was_stepped_up |= asked.was_stepped_up;
            match asked.answer.outcome.as_str() {
                "approve" => continue,
                "approve_capped" => outcome.was_capped = true,
                "decline" => outcome.was_declined = true,
                _ => {}
            }
            if !asked.answer.is_yes() {
                outcome.was_stopped = true;
                outcome.told_by.extend(asked.answer.reasons.iter().cloned());
                outcome.note_failures(decision.get("checks"));
            }
        }
        for alert in record.alerts.get(played.cast.vehicle_id.as_str()).into_iter().flatten() {
            outcome.note_alert(alert);
        }
        outcome
    }

    fn note_failures(&mut self, checks: Option<&Value>) {
        let checks = checks.and_then(Value::as_array).into_iter().flatten();
        for check in checks.filter(|check| check["verdict"] == "fail" && check["mode"] == "on") {
            self.told_by.extend(check["check"].as_str().map(str::to_owned));
            self.why.extend(check["detail"].as_str().map(str::to_owned));
        }
    }

    fn note_alert(&mut self, alert: &Value) {
        let kind = alert["kind"].as_str().unwrap_or("unknown");
        match (DOUBTS.contains(&kind), alert["state"] == "withdrawn") {
            (true, true) => self.was_withdrawn = true,
            (true, false) => {
                self.was_doubted = true;
                // The others are told of with the checks that found them.
                if kind == "fuel_fell" {
                    self.told_by.insert(kind.to_owned());
                }
            }
            (false, _) => {
                self.notices.insert(kind.to_owned());
            }
        }
    }

    pub fn is_flagged(&self) -> bool {
        self.was_stopped || self.was_doubted
    }

    /// The phase that showed it.
    pub fn shown_in(&self) -> Phase {
        match (self.was_stopped, self.was_doubted) {
            (true, _) => Phase::Authorisation,
            (false, true) => Phase::Reconciliation,
            (false, false) => Phase::Neither,
        }
    }

    fn is_told_by(&self, checks: &[&str]) -> bool {
        self.is_flagged() && checks.iter().any(|check| self.told_by.iter().any(|told| told.starts_with(check)))
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub kind: Kind,
    pub name: &'static str,
    /// `None` = honest.
    pub seen: Option<Phase>,
    pub why: &'static str,
    pub stories: usize,
    pub declined: usize,
    pub stepped_up: usize,
    pub capped: usize,
    pub approved: usize,
    /// After a yes.
    pub doubted: usize,
    pub missed: usize,
    pub recall: Option<f64>,
    /// Of all that its checks flag, honest stories included.
    pub precision: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seed: u64,
    pub stories: usize,
    /// A question was answered by the fallback, for lack of time: these count for nothing.
    pub unjudged: usize,
    pub honest: usize,
    #[serde(rename = "honest_declined")]
    pub honest_declines: usize,
    pub honest_stepped_up: usize,
    pub honest_capped: usize,
    #[serde(rename = "honest_doubted")]
    pub honest_doubts: usize,
    pub honest_withdrawn: usize,
    pub false_decline_rate: f64,
    pub frauds: usize,
    pub frauds_stopped: usize,
    pub frauds_doubted: usize,
    pub recall: f64,
    /// Without the kinds that the table says cannot be seen.
    pub recall_of_visible: f64,
    pub precision: f64,
    pub pending: usize,
    pub holds: bool,
    pub lines: Vec<Line>,
    /// Honest stories that were stopped or doubted, and visible misuses that were not.
    pub wrong: Vec<Outcome>,
}

impl Report {
    pub fn of(seed: u64, played: &[Played], record: &Record) -> Self {
        let (unjudged, judged): (Vec<&Played>, Vec<&Played>) = played.iter().partition(|played| played.is_unjudged());
        let outcomes: Vec<Outcome> = judged.iter().map(|played| Outcome::of(played, record)).collect();
        let count = |is_one: &dyn Fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is_one(outcome)).count();
        let honest = count(&|one| one.is_honest);
        let honest_declined = count(&|one| one.is_honest && one.was_declined);
        let frauds = count(&|one| !one.is_honest);
        let caught = count(&|one| !one.is_honest && one.is_flagged());
        let is_visible = |one: &Outcome| one.kind.misuse().is_some_and(|misuse| misuse.seen != Phase::Neither);
        let recall = share(caught, frauds).unwrap_or(1.0);
        let visible_caught = count(&|one| is_visible(one) && one.is_flagged());
        let recall_of_visible = share(visible_caught, count(&is_visible)).unwrap_or(1.0);
        Self {
            seed,
            stories: played.len(),
            unjudged: unjudged.len(),
            honest,
            honest_declines: honest_declined,
            honest_stepped_up: count(&|one| one.is_honest && one.was_stepped_up),
            honest_capped: count(&|one| one.is_honest && one.was_capped),
            honest_doubts: count(&|one| one.is_honest && one.was_doubted),
            honest_withdrawn: count(&|one| one.is_honest && one.was_withdrawn),
            false_decline_rate: share(honest_declined, honest).unwrap_or(0.0),
            frauds,
            frauds_stopped: count(&|one| !one.is_honest && one.was_stopped),
            frauds_doubted: count(&|one| !one.is_honest && !one.was_stopped && one.was_doubted),
            recall,
            recall_of_visible,
            precision: share(caught, count(&|one| one.is_flagged())).unwrap_or(1.0),
            pending: record.pending(),
            holds: unjudged.is_empty() && honest_declined == 0 && recall_of_visible >= RECALL_BAR,
            lines: KINDS.iter().filter_map(|about| line(about.kind, &outcomes)).collect(),
            wrong: outcomes.iter().filter(|one| is_wrong(one)).cloned().collect(),
        }
    }

    /// Misuses that did not show in the phase the table says, or earlier.
    pub fn shown_too_late(&self) -> Vec<&Outcome> {
        self.wrong.iter().filter(|outcome| !outcome.is_honest).collect()
    }

    pub fn honest_doubted(&self) -> Vec<&Outcome> {
        self.wrong.iter().filter(|outcome| outcome.is_honest && outcome.was_doubted).collect()
    }

    pub fn honest_declined(&self) -> Vec<&Outcome> {
        self.wrong.iter().filter(|outcome| outcome.is_honest && outcome.was_declined).collect()
    }
}

fn is_wrong(outcome: &Outcome) -> bool {
    match outcome.kind.misuse().map(|misuse| misuse.seen) {
        None => outcome.is_flagged(),
        Some(Phase::Authorisation) => !outcome.was_stopped,
        Some(Phase::Reconciliation) => !outcome.is_flagged(),
        Some(Phase::Neither) => false,
    }
}

fn line(kind: Kind, outcomes: &[Outcome]) -> Option<Line> {
    let mine: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.kind == kind).collect();
    if mine.is_empty() {
        return None;
    }
    let count = |is_one: &dyn Fn(&Outcome) -> bool| mine.iter().filter(|outcome| is_one(outcome)).count();
    let misuse = kind.misuse();
    let caught = count(&Outcome::is_flagged);
    let precision = misuse.and_then(|misuse| {
        let right = count(&|one| one.is_told_by(misuse.told_by));
        let wrong = outcomes.iter().filter(|one| one.is_honest && one.is_told_by(misuse.told_by)).count();
        share(right, right + wrong)
    });
    Some(Line {
        kind,
        name: kind.about().name,
        seen: misuse.map(|misuse| misuse.seen),
        why: misuse.map_or("", |misuse| misuse.why),
        stories: mine.len(),
        declined: count(&|one| one.was_declined),
        stepped_up: count(&|one| !one.was_declined && one.was_stepped_up),
        capped: count(&|one| !one.was_stopped && !one.was_stepped_up && one.was_capped),
        approved: count(&|one| !one.was_stopped && !one.was_stepped_up && !one.was_capped),
        doubted: count(&|one| !one.was_stopped && one.was_doubted),
        missed: if misuse.is_some() { mine.len() - caught } else { 0 },
        recall: misuse.and_then(|_| share(caught, mine.len())),
        precision,
    })
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
