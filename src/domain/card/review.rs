//! placeholder: types as agreed

use serde::{Deserialize, Serialize};

use super::super::twin::Fix;
use super::super::{Money, Timestamp, VehicleId};
use super::{Check, Product, Purchase, Rules, StationLookup};

pub struct Captured {
    pub amount: Money,
    pub litres: Option<f64>,
    pub product: Option<Product>,
    pub odometer_km: Option<f64>,
    pub captures: u32,
    pub allowed_minor: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub percent: f64,
    pub at: Timestamp,
}

pub struct CarAround {
    pub vehicle_id: VehicleId,
    pub tank_litres: Option<f64>,
    pub fuel_type: Option<String>,
    pub level_before: Option<Level>,
    pub level_after: Option<Level>,
    pub fix: Option<Fix>,
    pub odometer_km: Option<f64>,
    pub is_final: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReviewVerdict {
    Pending,
    Confirmed,
    Doubted,
    Unverifiable,
}

pub struct Review {
    pub checks: Vec<Check>,
    pub verdict: ReviewVerdict,
}

pub fn review(
    _now: Timestamp,
    _purchase: &Purchase,
    _captured: &Captured,
    _car: Option<&CarAround>,
    _station: &StationLookup,
    _rules: &Rules,
) -> Review {
    Review { checks: Vec::new(), verdict: ReviewVerdict::Unverifiable }
}

impl CarAround {
    pub fn from_track(
        _vehicle: &super::super::vehicle::Vehicle,
        _twin: &super::super::twin::Twin,
        _at: Timestamp,
        _points: &[super::TrackPoint],
        _is_final: bool,
    ) -> Self {
        unreachable!()
    }
}
pub struct TrackPoint;
pub struct RuleBook {
    pub fleet: Rules,
}
impl RuleBook {
    pub fn for_class(&self, _c: Option<&str>) -> &Rules {
        &self.fleet
    }
    pub fn renamed(mut self, v: String) -> Self {
        self.fleet.version = v;
        self
    }
    pub fn version(&self) -> &str {
        &self.fleet.version
    }
}
