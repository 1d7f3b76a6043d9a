//! The card guard's rules: which checks run, their thresholds, and what to do when a check cannot know.

use serde::{Deserialize, Serialize};

use super::super::Malformed;

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
    /// Approve up to `cap_minor` (minor units of the purchase's currency); more is declined where the network does not let us approve a part.
    ApproveCapped {
        cap_minor: i64,
    },
    /// Not without a further proof; a network that knows no such thing hears "declined".
    StepUp,
    Decline,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Kept with every decision.
    pub version: String,
    /// In place of the checks' own policies when a vehicle's record could not be asked in time.
    pub fallback: UnknownPolicy,
    pub binding: BindingRule,
    pub card_active: CardRule,
    pub rental_state: RentalRule,
    pub location: LocationRule,
    pub telematics_fresh: TelematicsRule,
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
pub struct CardRule {
    pub mode: CheckMode,
    pub unknown: UnknownPolicy,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RentalRule {
    pub mode: CheckMode,
    pub unknown: UnknownPolicy,
    /// A purchase so long after a rental's end still belongs to it.
    pub grace_min: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocationRule {
    pub mode: CheckMode,
    pub unknown: UnknownPolicy,
    /// Car and station may always be this far apart: forecourts are large and directories imprecise.
    pub base_m: f64,
    /// A fix further than this from the purchase in time proves nothing.
    pub max_fix_age_s: u32,
    /// How fast the car may have gone between fix and purchase.
    pub speed_cap_kmh: f64,
    /// Assumed for a fix without an accuracy.
    pub assumed_accuracy_m: f64,
    /// A fix less exact than this proves nothing.
    pub max_accuracy_m: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelematicsRule {
    pub mode: CheckMode,
    pub unknown: UnknownPolicy,
    /// A car silent for longer than this before the purchase is not known well enough.
    pub max_silence_s: u32,
}

impl Rules {
    const MAX_VERSION_LEN: usize = 64;

    /// Checks what the types cannot; the text names the key.
    pub fn check(&self) -> Result<(), Malformed> {
        if !(1..=Self::MAX_VERSION_LEN).contains(&self.version.len()) {
            return Err(Malformed("version: 1 to 64 bytes"));
        }
        let is_fit = |policy: &UnknownPolicy| match policy {
            UnknownPolicy::ApproveCapped { cap_minor } => *cap_minor > 0,
            UnknownPolicy::Approve | UnknownPolicy::StepUp | UnknownPolicy::Decline => true,
        };
        let policies = [
            self.fallback,
            self.card_active.unknown,
            self.rental_state.unknown,
            self.location.unknown,
            self.telematics_fresh.unknown,
        ];
        if !policies.iter().all(is_fit) {
            return Err(Malformed("cap_minor: above 0"));
        }
        let location = &self.location;
        let lengths = [location.base_m, location.speed_cap_kmh, location.assumed_accuracy_m, location.max_accuracy_m];
        if lengths.iter().any(|length| !length.is_finite() || *length < 0.0) {
            return Err(Malformed("location: distances and speeds are 0 or above"));
        }
        Ok(())
    }
}
