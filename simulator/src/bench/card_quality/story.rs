//! A purchase story as plain data: a car, its card, and what happens when. Made by `author`, carried out by `play`.
//!
//! `due_s` is when a step is carried out, in seconds since the story began; `at_s` is when it happened by the clock of
//! whoever tells it, and may lie hours before.

use cardea::domain::Position;
use serde_json::Value;

use super::kinds::Kind;

#[derive(Debug, Clone)]
pub struct Story {
    pub number: usize,
    pub seed: u64,
    pub kind: Kind,
    pub car: CarSpec,
    pub use_of_car: UseOfCar,
    pub card_is_suspended: bool,
    /// In the order they are due.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseOfCar {
    /// Nobody has it.
    None,
    /// Rented from before the story begins, under this profile.
    Running(&'static str),
}

#[derive(Debug, Clone)]
pub struct CarSpec {
    pub fuel: &'static str,
    pub class: &'static str,
    pub tank_litres: f64,
    /// The gateway is not told how large the tank is.
    pub hides_tank: bool,
    pub sensor: Sensor,
}

/// What a tank's sensor makes of the true level.
#[derive(Debug, Clone, Copy)]
pub struct Sensor {
    /// It never shows more.
    pub tops_out: f64,
    /// It counts in steps of so many points.
    pub step: f64,
    /// Spread of its readings while the car moves: two of them differ by 15 points in 1 of 20.
    pub moving_sigma: f64,
}

impl Sensor {
    pub fn read(&self, level: f64, noise: f64) -> f64 {
        let seen = (level.clamp(0.0, 100.0) + noise).clamp(0.0, self.tops_out);
        ((seen / self.step).round() * self.step * 10.0).round() / 10.0
    }
}

#[derive(Debug, Clone)]
pub struct Step {
    pub due_s: f64,
    pub act: Act,
}

#[derive(Debug, Clone)]
pub enum Act {
    Report(CarReport),
    /// A fact of the car: `{"type":…}`.
    Fact {
        at_s: f64,
        fact: Value,
    },
    Ask(Ask),
    Post(Post),
    EndRental,
    /// The card is bound to another car, which is rented too.
    MoveCard,
}

#[derive(Debug, Clone)]
pub struct CarReport {
    pub at_s: f64,
    pub place: Option<Position>,
    pub speed_kmh: f64,
    pub is_ignition_on: bool,
    pub odometer_km: f64,
    pub level: Option<Level>,
    /// Only units with a holder sensor say so.
    pub is_card_present: Option<bool>,
}

/// The true level, as far as it is known before the pump's answer: a pump that may give less gives less.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    pub before: f64,
    /// Points gained when the whole was filled.
    pub gained: f64,
    /// By the answer to which question.
    pub by: usize,
    pub noise: f64,
}

/// A question of the payment network.
#[derive(Debug, Clone)]
pub struct Ask {
    pub at_s: f64,
    pub amount_minor: i64,
    pub partial_allowed: bool,
    pub merchant: Merchant,
    pub prompts: Prompts,
    /// What the fill will cost; the pump stops at what was approved.
    pub planned_minor: i64,
    /// What the label speaks of: a misuse may begin with an honest purchase.
    pub is_misuse: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Prompts {
    pub odometer_km: Option<f64>,
    pub driver_id: Option<String>,
    pub vehicle_number: Option<VehicleNumber>,
}

/// What is keyed in for the vehicle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VehicleNumber {
    Right,
    /// Only the digits of it, as a pump without letters takes them.
    Digits,
    OfAnother,
}

#[derive(Debug, Clone)]
pub struct Merchant {
    pub network_id: String,
    pub terminal_id: String,
    pub name: String,
    pub mcc: &'static str,
    pub postal_code: Option<String>,
}

/// What the network tells after the question.
#[derive(Debug, Clone)]
pub struct Post {
    pub what: Posted,
    /// The question it belongs to; `None` = the pump was offline.
    pub of: Option<usize>,
    pub at_s: f64,
    pub litres: Option<f64>,
    pub product: Option<&'static str>,
    pub amount_minor: i64,
    /// Follows what the pump really gave; false = booked as it stands here.
    pub scales: bool,
    pub merchant: Merchant,
    /// Two posts with one number are one message sent twice.
    pub number: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    Capture,
    Reversal,
}
