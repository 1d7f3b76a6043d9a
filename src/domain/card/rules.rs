//! The card guard's rules: which checks run, their thresholds, and what to do when a check fails or cannot know.
//!
//! One book holds the fleet's rules and, for vehicle classes that differ, theirs. Its text form is read elsewhere.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CheckName, StationId};
use crate::domain::rental::Window;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckMode {
    /// Not run, not recorded.
    Off,
    /// Run, and its verdict counts.
    On,
    /// Run and recorded, but without any influence: for trying a rule out.
    Shadow,
}

/// What an `unknown` verdict leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "policy", deny_unknown_fields)]
pub enum UnknownPolicy {
    Approve,
    /// Approve up to `cap_minor` (minor units of the purchase's currency); where the network does not let us approve a
    /// part, more needs a further proof.
    ApproveCapped {
        cap_minor: i64,
    },
    /// Not without a further proof; a network that knows no such thing hears "declined".
    StepUp,
    Decline,
}

/// What a `fail` verdict leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailPolicy {
    #[default]
    Decline,
    /// Not without a further proof.
    StepUp,
    /// Recorded and told, without influence on the answer.
    Warn,
}

impl FailPolicy {
    pub fn is_decline(&self) -> bool {
        *self == Self::Decline
    }
}

/// A check's switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    pub mode: CheckMode,
    pub unknown: UnknownPolicy,
    pub fail: FailPolicy,
}

/// Money by currency: ISO 4217 in lower case, minor units.
pub type ByCurrency = BTreeMap<String, i64>;

macro_rules! check_rules {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            pub mode: CheckMode,
            pub unknown: UnknownPolicy,
            pub fail: FailPolicy,
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl $name {
            pub fn switch(&self) -> Switch {
                Switch { mode: self.mode, unknown: self.unknown, fail: self.fail }
            }
        }
    )*};
}

check_rules! {
    CardRule {}
    RentalRule {
        /// A purchase so long after a rental's end still belongs to it.
        grace_min: u32,
    }
    LocationRule {
        /// Car and station may always be this far apart: forecourts are large and directories imprecise.
        base_m: f64,
        /// Added where the station's position was only learnt from purchases.
        learnt_m: f64,
        /// A fix further than this from the purchase in time proves nothing.
        max_fix_age_s: u32,
        /// How fast the car may have gone between fix and purchase.
        speed_cap_kmh: f64,
        /// Assumed for a fix without an accuracy.
        assumed_accuracy_m: f64,
        /// A fix less exact than this proves nothing.
        max_accuracy_m: f64,
    }
    FuelLevelRule {
        /// A tank this full needs no fuel.
        full_percent: f64,
        /// A car silent for longer than this before the purchase may have driven since.
        max_silence_s: u32,
    }
    TankSpaceRule {
        /// What may be filled in is the free room times this,
        factor: f64,
        /// plus this: tanks hold more than they say, and gauges are imprecise.
        extra_litres: f64,
        /// What a litre costs at most.
        price_ceiling_minor: ByCurrency,
    }
    ProductRule {}
    OdometerRule {
        /// What was keyed in and what the car says may differ by so much,
        max_difference_km: f64,
        /// plus what the car can have driven between; a reading further than this from the purchase proves nothing.
        max_age_s: u32,
    }
    PromptRule {}
    VelocityRule {
        /// Purchases in 24 hours and in 7 days, this one included; 0 = as many as they like.
        per_day: u32,
        per_week: u32,
        /// Sums in 24 hours and in 7 days; a currency that is not named has none.
        per_day_minor: ByCurrency,
        per_week_minor: ByCurrency,
    }
    TravelRule {
        /// How fast the card may have gone between two purchases.
        speed_cap_kmh: f64,
        /// Two stations may always be this far apart.
        allowance_m: f64,
    }
    MerchantRule {
        /// Merchant category codes of fuel.
        allowed: Vec<String>,
        /// Those that count for a vehicle that charges.
        allowed_if_charging: Vec<String>,
        /// Stations at which no card may pay.
        blocked_stations: Vec<StationId>,
    }
    HoursRule {
        /// When a purchase may be made; empty = always.
        windows: Vec<HoursWindow>,
    }
    MotionRule {
        max_speed_kmh: f64,
        /// A speed further than this from the purchase in time proves nothing.
        max_gap_s: u32,
    }
    AmountRule {
        /// What one purchase may come to; a currency that is not named has no maximum.
        max_minor: ByCurrency,
    }
    CardInCarRule {}
}

/// Never fails, so there is nothing to say about that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelematicsRule {
    pub mode: CheckMode,
    pub unknown: UnknownPolicy,
    /// A car silent for longer than this before the purchase is not known well enough.
    pub max_silence_s: u32,
}

/// Looked at after the fill only: what it cannot know stays unverified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelRiseRule {
    pub mode: CheckMode,
    pub fail: FailPolicy,
    /// Rise and litres may differ by this part of the tank.
    pub tolerance_percent: f64,
    /// So long a level after the fill is waited for.
    pub wait_h: u32,
    /// A sensor may stick anywhere above this.
    pub top_out_percent: f64,
    /// What the car may use of the fill on the way to the next level, in litres for 100 km.
    pub use_l_per_100km: f64,
    /// Money that was taken at a fuel merchant without litres and without a product is taken for fuel: what it buys at the
    /// highest price must show. Off in texts from before there was this key.
    #[serde(default)]
    pub unnamed_is_fuel: bool,
}

/// A weekly span in the station's own time; `until` before `from` runs over midnight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoursWindow {
    /// `mon` … `sun`.
    pub days: Vec<String>,
    /// Like `08:00`.
    pub from: String,
    pub until: String,
}

impl HoursWindow {
    pub fn in_zone(&self, time_zone: &str) -> Window {
        let Self { days, from, until } = self.clone();
        Window { days, from, until, time_zone: time_zone.to_owned() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingRule {
    /// For so long after a card moved to another vehicle, a purchase may belong to either.
    pub both_count_min: u32,
}

impl BindingRule {
    pub fn both_count_ms(&self) -> i64 {
        i64::from(self.both_count_min) * 60_000
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepUpRule {
    /// The holder's confirmation counts for a purchase so long before or after it.
    pub confirm_within_s: u32,
}

/// What purchases of one vehicle class are judged by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Kept with every decision.
    pub version: String,
    /// The vehicle class these are for; `None` = the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_class: Option<String>,
    /// In place of the checks' own policies when a vehicle's record could not be asked in time.
    pub fallback: UnknownPolicy,
    /// IANA name: the local time of stations whose own is not known.
    pub time_zone: String,
    pub binding: BindingRule,
    pub step_up: StepUpRule,
    pub card_active: CardRule,
    pub rental_state: RentalRule,
    pub location: LocationRule,
    pub telematics_fresh: TelematicsRule,
    pub fuel_level: FuelLevelRule,
    pub tank_space: TankSpaceRule,
    pub level_rise: LevelRiseRule,
    pub product: ProductRule,
    pub odometer: OdometerRule,
    pub driver_prompt: PromptRule,
    pub velocity: VelocityRule,
    pub duplicate_or_impossible_travel: TravelRule,
    pub merchant_category: MerchantRule,
    pub hours: HoursRule,
    pub ignition_and_motion: MotionRule,
    pub amount: AmountRule,
    pub card_in_car: CardInCarRule,
}

/// The rules of the whole fleet under one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleBook {
    pub version: String,
    pub fleet: Rules,
    /// Whole rules each: the fleet's with the class's own in place.
    pub classes: BTreeMap<String, Rules>,
}

/// A value that no rule can have; the key is dotted, as in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRule {
    pub key: &'static str,
    pub problem: &'static str,
}

impl fmt::Display for BadRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

impl std::error::Error for BadRule {}

impl RuleBook {
    pub const MAX_CLASSES: usize = 64;
    pub const MAX_CLASS_LEN: usize = 64;

    pub fn new(fleet: Rules, classes: BTreeMap<String, Rules>) -> Self {
        Self { version: fleet.version.clone(), fleet, classes }
    }

    /// The same rules under another version.
    pub fn renamed(mut self, version: &str) -> Self {
        self.version = version.to_owned();
        for rules in std::iter::once(&mut self.fleet).chain(self.classes.values_mut()) {
            rules.version = version.to_owned();
        }
        self
    }

    /// The class's own rules, else the fleet's.
    pub fn for_class(&self, class: Option<&str>) -> &Rules {
        class.and_then(|class| self.classes.get(class)).unwrap_or(&self.fleet)
    }
}

fn bad<T>(key: &'static str, problem: &'static str) -> Result<T, BadRule> {
    Err(BadRule { key, problem })
}

impl Rules {
    const MAX_VERSION_LEN: usize = 64;
    const MAX_LIST: usize = 1_000;
    const MAX_WINDOWS: usize = 32;

    /// The switches of every check that an authorisation is judged by.
    pub fn switch(&self, check: CheckName) -> Switch {
        match check {
            CheckName::CardActive => self.card_active.switch(),
            CheckName::RentalState => self.rental_state.switch(),
            CheckName::Location => self.location.switch(),
            CheckName::TelematicsFresh => {
                let TelematicsRule { mode, unknown, .. } = self.telematics_fresh;
                Switch { mode, unknown, fail: FailPolicy::Warn }
            }
            CheckName::FuelLevel => self.fuel_level.switch(),
            CheckName::TankSpace => self.tank_space.switch(),
            CheckName::LevelRise => {
                let LevelRiseRule { mode, fail, .. } = self.level_rise;
                Switch { mode, unknown: UnknownPolicy::Approve, fail }
            }
            CheckName::Product => self.product.switch(),
            CheckName::Odometer => self.odometer.switch(),
            CheckName::DriverPrompt => self.driver_prompt.switch(),
            CheckName::Velocity => self.velocity.switch(),
            CheckName::DuplicateOrImpossibleTravel => self.duplicate_or_impossible_travel.switch(),
            CheckName::MerchantCategory => self.merchant_category.switch(),
            CheckName::Hours => self.hours.switch(),
            CheckName::IgnitionAndMotion => self.ignition_and_motion.switch(),
            CheckName::Amount => self.amount.switch(),
            CheckName::CardInCar => self.card_in_car.switch(),
        }
    }

    /// Checks what the types cannot.
    pub fn check(&self) -> Result<(), BadRule> {
        if !(1..=Self::MAX_VERSION_LEN).contains(&self.version.len()) || self.version.chars().any(char::is_control) {
            return bad("version", "1 to 64 bytes without control characters");
        }
        self.check_policies()?;
        self.check_numbers()?;
        self.check_money()?;
        self.check_lists()?;
        if jiff::tz::TimeZone::get(&self.time_zone).is_err() {
            return bad("time_zone", "an IANA time zone like Europe/Rome");
        }
        if self.hours.windows.iter().any(|window| !window.in_zone(&self.time_zone).is_fit()) {
            return bad("hours.windows", "days of mon tue wed thu fri sat sun, from and until like 08:00");
        }
        Ok(())
    }

    fn check_policies(&self) -> Result<(), BadRule> {
        let is_fit = |policy: UnknownPolicy| match policy {
            UnknownPolicy::ApproveCapped { cap_minor } => cap_minor > 0,
            UnknownPolicy::Approve | UnknownPolicy::StepUp | UnknownPolicy::Decline => true,
        };
        if !is_fit(self.fallback) {
            return bad("fallback", "cap_minor: above 0");
        }
        match CheckName::ALL.into_iter().find(|check| !is_fit(self.switch(*check).unknown)) {
            Some(check) => bad(check.name(), "unknown.cap_minor: above 0"),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), BadRule> {
        let Self { location, fuel_level, tank_space, level_rise, odometer, ignition_and_motion, .. } = self;
        let travel = &self.duplicate_or_impossible_travel;
        let numbers = [
            ("location.base_m", location.base_m),
            ("location.learnt_m", location.learnt_m),
            ("location.speed_cap_kmh", location.speed_cap_kmh),
            ("location.assumed_accuracy_m", location.assumed_accuracy_m),
            ("location.max_accuracy_m", location.max_accuracy_m),
            ("tank_space.factor", tank_space.factor),
            ("tank_space.extra_litres", tank_space.extra_litres),
            ("level_rise.use_l_per_100km", level_rise.use_l_per_100km),
            ("odometer.max_difference_km", odometer.max_difference_km),
            ("duplicate_or_impossible_travel.speed_cap_kmh", travel.speed_cap_kmh),
            ("duplicate_or_impossible_travel.allowance_m", travel.allowance_m),
            ("ignition_and_motion.max_speed_kmh", ignition_and_motion.max_speed_kmh),
        ];
        if let Some((key, _)) = numbers.into_iter().find(|(_, number)| !number.is_finite() || *number < 0.0) {
            return bad(key, "0 or above");
        }
        let percentages = [
            ("fuel_level.full_percent", fuel_level.full_percent),
            ("level_rise.tolerance_percent", level_rise.tolerance_percent),
            ("level_rise.top_out_percent", level_rise.top_out_percent),
        ];
        match percentages.into_iter().find(|(_, percent)| !(0.0..=100.0).contains(percent)) {
            Some((key, _)) => bad(key, "0 to 100"),
            None => Ok(()),
        }
    }

    fn check_money(&self) -> Result<(), BadRule> {
        let maps = [
            ("tank_space.price_ceiling_minor", &self.tank_space.price_ceiling_minor),
            ("velocity.per_day_minor", &self.velocity.per_day_minor),
            ("velocity.per_week_minor", &self.velocity.per_week_minor),
            ("amount.max_minor", &self.amount.max_minor),
        ];
        let is_fit = |(currency, minor): (&String, &i64)| {
            currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_lowercase()) && *minor > 0
        };
        match maps.into_iter().find(|(_, map)| !map.iter().all(is_fit)) {
            Some((key, _)) => bad(key, "currencies of three small letters, each with an amount above 0"),
            None => Ok(()),
        }
    }

    fn check_lists(&self) -> Result<(), BadRule> {
        let MerchantRule { allowed, allowed_if_charging, blocked_stations, .. } = &self.merchant_category;
        let is_code = |code: &String| code.len() == 4 && code.bytes().all(|b| b.is_ascii_digit());
        for (key, codes) in
            [("merchant_category.allowed", allowed), ("merchant_category.allowed_if_charging", allowed_if_charging)]
        {
            if codes.len() > Self::MAX_LIST || !codes.iter().all(is_code) {
                return bad(key, "at most 1000 codes of four digits");
            }
        }
        if blocked_stations.len() > Self::MAX_LIST {
            return bad("merchant_category.blocked_stations", "at most 1000");
        }
        if self.hours.windows.len() > Self::MAX_WINDOWS {
            return bad("hours.windows", "at most 32");
        }
        Ok(())
    }
}
