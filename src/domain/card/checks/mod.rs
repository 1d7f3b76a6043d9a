//! The checks: each looks at one thing, says pass, fail or unknown, and shows what it looked at.
//!
//! A new check is a name, its rules, a function in the file of its subject and a line in [`run`].

mod card;
mod evidence;
mod place;
mod spending;
mod tank;
mod usage;

use serde::{Deserialize, Serialize};

pub use evidence::Evidence;
pub(super) use place::{compare_places, place_of};
pub(super) use tank::{PAID_AFTER_MS, allowed_litres, compare_products, fills_the_tank, free_litres};

use super::facts::moment;
use super::{CheckMode, FailPolicy, Inputs, Purchase, Rules, VehicleFacts, VehicleLookup};
use crate::domain::Timestamp;

macro_rules! check_names {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum CheckName { $($(#[$doc])* $variant,)* }

        impl CheckName {
            /// In the order they are recorded.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

check_names! {
    CardActive = "card_active",
    RentalState = "rental_state",
    Location = "location",
    TelematicsFresh = "telematics_fresh",
    FuelLevel = "fuel_level",
    TankSpace = "tank_space",
    /// After the fill only.
    LevelRise = "level_rise",
    Product = "product",
    Odometer = "odometer",
    DriverPrompt = "driver_prompt",
    Velocity = "velocity",
    DuplicateOrImpossibleTravel = "duplicate_or_impossible_travel",
    MerchantCategory = "merchant_category",
    Hours = "hours",
    IgnitionAndMotion = "ignition_and_motion",
    Amount = "amount",
    CardInCar = "card_in_car",
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    /// Not known, which is no accusation.
    Unknown,
}

/// One check's record in a decision or a review.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub check: CheckName,
    pub mode: CheckMode,
    pub verdict: Verdict,
    /// What a fail led to, or would have.
    #[serde(default, skip_serializing_if = "FailPolicy::is_decline")]
    pub fail: FailPolicy,
    /// For people.
    pub detail: String,
    pub evidence: Evidence,
    /// What the check bounds the amount to, in minor units, whether or not it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_minor: Option<i64>,
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
    /// The amount may not be above this.
    pub cap_minor: Option<i64>,
    /// Unknown for lack of the vehicle's record: the fallback policy counts.
    pub lacks_vehicle: bool,
}

/// What one check finds; `None` = it has no part in an authorisation.
pub(super) fn run(name: CheckName, case: &Case<'_>) -> Option<Finding> {
    Some(match name {
        CheckName::CardActive => card::card_active(case),
        CheckName::RentalState => usage::rental_state(case),
        CheckName::Location => place::location(case),
        CheckName::TelematicsFresh => usage::telematics_fresh(case),
        CheckName::FuelLevel => tank::fuel_level(case),
        CheckName::TankSpace => tank::tank_space(case),
        CheckName::LevelRise => return None,
        CheckName::Product => tank::product(case),
        CheckName::Odometer => usage::odometer(case),
        CheckName::DriverPrompt => card::driver_prompt(case),
        CheckName::Velocity => spending::velocity(case),
        CheckName::DuplicateOrImpossibleTravel => place::travel(case),
        CheckName::MerchantCategory => place::merchant_category(case),
        CheckName::Hours => usage::hours(case),
        CheckName::IgnitionAndMotion => usage::ignition_and_motion(case),
        CheckName::Amount => spending::amount(case),
        CheckName::CardInCar => card::card_in_car(case),
    })
}

impl Case<'_> {
    /// When the purchase happened, at the latest.
    fn moment(&self) -> Timestamp {
        moment(self.now, self.purchase.at)
    }

    fn age_s(&self, at: Timestamp) -> f64 {
        seconds(self.now.since_ms(at).max(0))
    }

    /// A check that only warns cuts nothing.
    fn may_cut(&self, fail: FailPolicy) -> bool {
        self.purchase.partial_allowed && fail != FailPolicy::Warn
    }

    fn lacks_vehicle(&self) -> bool {
        self.inputs.vehicles.iter().any(|lookup| matches!(lookup, VehicleLookup::Late(_)))
    }
}

impl Finding {
    pub fn new(verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            detail: detail.into(),
            evidence: Evidence::default(),
            age_s: None,
            cap_minor: None,
            lacks_vehicle: false,
        }
    }

    pub fn pass(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, detail)
    }

    pub fn fail(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, detail)
    }

    pub fn unknown(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, detail)
    }

    /// Pass or fail.
    pub fn holds(holds: bool, detail: impl Into<String>) -> Self {
        Self::new(if holds { Verdict::Pass } else { Verdict::Fail }, detail)
    }

    pub fn with(mut self, evidence: Evidence) -> Self {
        self.evidence = evidence;
        self
    }

    pub fn aged(mut self, age_s: f64) -> Self {
        self.age_s = Some(age_s);
        self
    }

    pub fn capped(mut self, cap_minor: i64) -> Self {
        self.cap_minor = Some(cap_minor);
        self
    }

    pub fn record(self, check: CheckName, rules: &Rules) -> Check {
        let switch = rules.switch(check);
        Check {
            check,
            mode: switch.mode,
            verdict: self.verdict,
            fail: switch.fail,
            detail: self.detail,
            evidence: self.evidence,
            cap_minor: self.cap_minor,
            age_s: self.age_s,
        }
    }
}

/// Runs a check on every vehicle the purchase may belong to: one that passes is enough, and only if all fail it fails.
/// A vehicle nobody registered has no rental, but may be anywhere.
fn any_vehicle(case: &Case<'_>, not_registered: Verdict, check: impl Fn(&VehicleFacts) -> Finding) -> Finding {
    let of = |lookup: &VehicleLookup| match lookup {
        VehicleLookup::Known(facts) => check(facts),
        VehicleLookup::NotRegistered(vehicle) => Finding::new(not_registered, format!("nobody registered {vehicle}"))
            .with(Evidence { vehicle_id: Some(vehicle.clone()), ..Evidence::default() }),
        VehicleLookup::Late(vehicle) => {
            let evidence = Evidence { vehicle_id: Some(vehicle.clone()), ..Evidence::default() };
            let finding = Finding::unknown(format!("{vehicle}'s record could not be asked in time")).with(evidence);
            Finding { lacks_vehicle: true, ..finding }
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
        .unwrap_or_else(|| Finding::unknown("the card belongs to no vehicle that could be asked"))
}

pub(super) fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// To a tenth.
pub(super) fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// A time span for people.
pub(super) fn span(ms: i64) -> String {
    let s = ms / 1000;
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}
