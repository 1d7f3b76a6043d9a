//! The checks: each looks at one thing, says pass, fail or unknown, and shows what it looked at.
//!
//! A new check is a name, a function and a line in [`all`].

use serde::{Deserialize, Serialize};

use super::super::{RentalId, Timestamp, VehicleId};
use super::facts::{gap_ms, moment, reach_m};
use super::{
    CardStatus, CheckMode, Inputs, Purchase, Rules, StationId, StationLookup, UnknownPolicy, VehicleFacts,
    VehicleLookup,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    CardActive,
    RentalState,
    Location,
    TelematicsFresh,
}

impl CheckName {
    pub fn name(self) -> &'static str {
        match self {
            Self::CardActive => "card_active",
            Self::RentalState => "rental_state",
            Self::Location => "location",
            Self::TelematicsFresh => "telematics_fresh",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    /// Not known, which is no accusation.
    Unknown,
}

/// What a check looked at: numbers with their thresholds, and ids. Absent = it did not come into it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<VehicleId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rental_id: Option<RentalId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rental_ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_min: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub station_id: Option<StationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stations_at_position: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<f64>,
    /// Base + accuracy + reach: what the distance was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_m: Option<f64>,
    /// Time between the fix and the purchase, whichever came first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix_to_purchase_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fix_age_s: Option<u32>,
    /// How long the car had been silent when the purchase was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_silence_s: Option<u32>,
}

/// One check's record in a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub check: CheckName,
    pub mode: CheckMode,
    pub verdict: Verdict,
    /// For people.
    pub detail: String,
    pub evidence: Evidence,
    /// How old what it relied on was when we judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<f64>,
}

/// One purchase under judgement.
pub(super) struct Case<'a> {
    pub now: Timestamp,
    pub purchase: &'a Purchase,
    pub inputs: &'a Inputs,
    pub rules: &'a Rules,
}

pub(super) struct Finding {
    pub verdict: Verdict,
    pub detail: String,
    pub evidence: Evidence,
    pub age_s: Option<f64>,
}

/// A check with its switches, ready to run.
pub(super) struct Runnable {
    pub name: CheckName,
    pub mode: CheckMode,
    pub unknown: UnknownPolicy,
    /// Its `unknown` may be for lack of the vehicle's record, and then the fallback policy counts.
    pub asks_vehicle: bool,
    pub run: fn(&Case<'_>) -> Finding,
}

/// Every check there is, in the order they are recorded.
pub(super) fn all(rules: &Rules) -> [Runnable; 4] {
    let Rules { card_active, rental_state, location, telematics_fresh, .. } = rules;
    let runnable = |name, mode, unknown, asks_vehicle, run| Runnable { name, mode, unknown, asks_vehicle, run };
    [
        runnable(CheckName::CardActive, card_active.mode, card_active.unknown, false, self::card_active),
        runnable(CheckName::RentalState, rental_state.mode, rental_state.unknown, true, self::rental_state),
        runnable(CheckName::Location, location.mode, location.unknown, true, self::location),
        runnable(
            CheckName::TelematicsFresh,
            telematics_fresh.mode,
            telematics_fresh.unknown,
            true,
            self::telematics_fresh,
        ),
    ]
}

impl Finding {
    fn new(verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { verdict, detail: detail.into(), evidence: Evidence::default(), age_s: None }
    }

    fn with(mut self, evidence: Evidence) -> Self {
        self.evidence = evidence;
        self
    }
}

fn card_active(case: &Case<'_>) -> Finding {
    let Some(card) = &case.inputs.card else {
        return Finding::new(Verdict::Fail, "the card is not one of the fleet's");
    };
    let evidence = Evidence { vehicle_id: card.vehicle_id.clone(), ..Evidence::default() };
    let finding = match (card.status, &card.vehicle_id) {
        (CardStatus::Suspended, _) => Finding::new(Verdict::Fail, "the card is suspended"),
        (CardStatus::Active, None) => Finding::new(Verdict::Fail, "the card is bound to no vehicle"),
        (CardStatus::Active, Some(vehicle)) => {
            let is_registered = |lookup: &VehicleLookup| !matches!(lookup, VehicleLookup::NotRegistered(_));
            if case.inputs.vehicles.iter().any(is_registered) {
                Finding::new(Verdict::Pass, format!("the card is active and bound to {vehicle}"))
            } else {
                Finding::new(Verdict::Fail, format!("the card is bound to {vehicle}, which nobody registered"))
            }
        }
    };
    finding.with(evidence)
}

fn rental_state(case: &Case<'_>) -> Finding {
    any_vehicle(case, Verdict::Fail, |facts| {
        let rule = &case.rules.rental_state;
        let at = moment(case.now, case.purchase.at);
        let mut evidence = Evidence {
            vehicle_id: Some(facts.vehicle_id.clone()),
            grace_min: Some(rule.grace_min),
            ..Evidence::default()
        };
        let used = facts.in_use_at(at, rule);
        if let Some(used) = used.or_else(|| facts.last_use_before(at)) {
            evidence.rental_id = Some(used.rental_id);
            evidence.rental_ended_at = used.until.filter(|until| *until <= at);
        }
        let vehicle = &facts.vehicle_id;
        let finding = match (used, evidence.rental_ended_at) {
            (Some(_), None) => Finding::new(Verdict::Pass, format!("{vehicle} was in a rental")),
            (Some(_), Some(ended)) => Finding::new(
                Verdict::Pass,
                format!("{vehicle}'s rental ended at {ended}, within the grace of {} min", rule.grace_min),
            ),
            (None, Some(ended)) => Finding::new(
                Verdict::Fail,
                format!(
                    "{vehicle} was in no rental; its last one ended at {ended}, {} before",
                    span(at.since_ms(ended))
                ),
            ),
            (None, None) => Finding::new(Verdict::Fail, format!("{vehicle} was in no rental")),
        };
        finding.with(evidence)
    })
}

fn location(case: &Case<'_>) -> Finding {
    let (station_id, position, at_position) = match &case.inputs.station {
        StationLookup::Unknown => {
            return Finding::new(Verdict::Unknown, "the station is not in the directory");
        }
        StationLookup::Ambiguous { stations } => {
            return Finding::new(Verdict::Unknown, format!("{stations} stations go by what the network sent"));
        }
        StationLookup::Known { station_id, position, at_position, .. } => (station_id, position, *at_position),
    };
    let evidence = Evidence { station_id: Some(station_id.clone()), ..Evidence::default() };
    let Some(position) = *position else {
        return Finding::new(Verdict::Unknown, format!("the directory has no position for {station_id}"))
            .with(evidence);
    };
    if at_position > 1 {
        let text = format!("the directory puts {at_position} stations at the position of {station_id}: a placeholder");
        return Finding::new(Verdict::Unknown, text)
            .with(Evidence { stations_at_position: Some(at_position), ..evidence });
    }
    any_vehicle(case, Verdict::Unknown, |facts| compare_places(case, facts, position, evidence.clone()))
}

fn compare_places(
    case: &Case<'_>,
    facts: &VehicleFacts,
    station: super::super::Position,
    evidence: Evidence,
) -> Finding {
    let rule = &case.rules.location;
    let vehicle = &facts.vehicle_id;
    let mut evidence = Evidence { vehicle_id: Some(vehicle.clone()), ..evidence };
    let Some(fix) = facts.fix else {
        return Finding::new(Verdict::Unknown, format!("{vehicle}'s position is not known")).with(evidence);
    };
    let gap_ms = gap_ms(moment(case.now, case.purchase.at), fix.at);
    let accuracy_m = fix.accuracy_m.unwrap_or(rule.assumed_accuracy_m);
    let distance_m = fix.position.distance_m(station);
    let allowed_m = rule.base_m + accuracy_m + reach_m(case.rules, gap_ms);
    evidence.distance_m = Some(round(distance_m));
    evidence.accuracy_m = Some(accuracy_m);
    evidence.fix_to_purchase_s = Some(seconds(gap_ms));
    evidence.max_fix_age_s = Some(rule.max_fix_age_s);
    let finding = if let Some(doubt) = facts.doubt {
        Finding::new(Verdict::Unknown, format!("{vehicle}'s position is suspect: {}", doubt.text()))
    } else if gap_ms > i64::from(rule.max_fix_age_s) * 1000 {
        Finding::new(Verdict::Unknown, format!("{vehicle}'s position is {} from the purchase in time", span(gap_ms)))
    } else if accuracy_m > rule.max_accuracy_m {
        Finding::new(Verdict::Unknown, format!("{vehicle}'s position is exact to {accuracy_m:.0} m only"))
    } else {
        evidence.allowed_m = Some(round(allowed_m));
        let text = format!(
            "{vehicle} was {distance_m:.0} m from the station, {} from the purchase in time; {allowed_m:.0} m are allowed",
            span(gap_ms)
        );
        Finding::new(if distance_m > allowed_m { Verdict::Fail } else { Verdict::Pass }, text)
    };
    let age_s = Some(seconds(case.now.since_ms(fix.at).max(0)));
    Finding { age_s, ..finding.with(evidence) }
}

fn telematics_fresh(case: &Case<'_>) -> Finding {
    any_vehicle(case, Verdict::Unknown, |facts| {
        let rule = &case.rules.telematics_fresh;
        let vehicle = &facts.vehicle_id;
        let evidence = Evidence {
            vehicle_id: Some(vehicle.clone()),
            max_silence_s: Some(rule.max_silence_s),
            ..Evidence::default()
        };
        let Some(last) = facts.last_report else {
            return Finding::new(Verdict::Unknown, format!("{vehicle} was never heard of")).with(evidence);
        };
        let silence_ms = moment(case.now, case.purchase.at).since_ms(last).max(0);
        let is_fresh = silence_ms <= i64::from(rule.max_silence_s) * 1000;
        let verdict = if is_fresh { Verdict::Pass } else { Verdict::Unknown };
        let text = format!("{vehicle} was last heard of {} before the purchase", span(silence_ms));
        let finding = Finding::new(verdict, text).with(Evidence { silence_s: Some(seconds(silence_ms)), ..evidence });
        Finding { age_s: Some(seconds(case.now.since_ms(last).max(0))), ..finding }
    })
}

/// Runs a check on every vehicle the purchase may belong to: one that passes is enough, and only if all fail it fails.
/// A vehicle nobody registered has no rental, but may be anywhere.
fn any_vehicle(case: &Case<'_>, not_registered: Verdict, check: impl Fn(&VehicleFacts) -> Finding) -> Finding {
    let of = |lookup: &VehicleLookup| match lookup {
        VehicleLookup::Known(facts) => check(facts),
        VehicleLookup::NotRegistered(vehicle) => Finding::new(not_registered, format!("nobody registered {vehicle}"))
            .with(Evidence { vehicle_id: Some(vehicle.clone()), ..Evidence::default() }),
        VehicleLookup::Late(vehicle) => {
            Finding::new(Verdict::Unknown, format!("{vehicle}'s record could not be asked in time"))
                .with(Evidence { vehicle_id: Some(vehicle.clone()), ..Evidence::default() })
        }
    };
    let rank = |finding: &Finding| match finding.verdict {
        Verdict::Pass => 0,
        Verdict::Unknown => 1,
        Verdict::Fail => 2,
    };
    // `min_by_key` keeps the first of equals: the bound vehicle before the one it was bound to earlier.
    case.inputs
        .vehicles
        .iter()
        .map(of)
        .min_by_key(rank)
        .unwrap_or_else(|| Finding::new(Verdict::Unknown, "the card belongs to no vehicle that could be asked"))
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn round(metres: f64) -> f64 {
    (metres * 10.0).round() / 10.0
}

/// A time span for people.
fn span(ms: i64) -> String {
    let s = ms / 1000;
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}
