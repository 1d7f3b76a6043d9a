//! One car's day as it is told: where it drives, stands and fills, and what its unit makes of that.
//!
//! `author` calls these in the order of the story. True values are kept here; noise and the sensor's faults are put on
//! what the unit reports, and the car's clock on when it says so.

use cardea::domain::Position;
use serde_json::json;

use super::directory::{Directory, Pump};
use super::kinds::Kind;
use super::story::{
    Act, Ask, CarReport, CarSpec, Level, Merchant, Post, Posted, Prompts, Sensor, Step, Story, UseOfCar,
};
use crate::dice::Dice;
use crate::route::offset;

/// A fill that takes 3 min in life takes so long here; all else in a story is as long as it is told.
pub const FILL_S: f64 = 14.0;
/// Readings at rest.
const REST_NOISE: f64 = 0.2;

pub struct Scene<'a> {
    pub dice: Dice,
    pub town: &'a Directory,
    pub pump: Pump,
    pub merchant: Merchant,
    pub car: CarSpec,
    pub use_of_car: UseOfCar,
    pub card_is_suspended: bool,
    /// Points of the tank, the true one.
    pub level: f64,
    /// Minor units a litre.
    pub price: f64,
    /// The car's clock is so much ahead.
    pub clock_skew_s: f64,
    /// Where the unit believes to be, when its receiver is broken.
    pub stuck_at: Option<Position>,
    pub has_fix: bool,
    pub is_card_present: Option<bool>,
    /// Gained so far, by the answer to which question.
    filled: Option<(f64, f64, usize)>,
    odometer_km: f64,
    asks: usize,
    posts: usize,
    steps: Vec<Step>,
}

/// How a purchase is made.
pub struct Wish {
    pub litres: f64,
    /// Of these so much goes into the car.
    pub into_tank: f64,
}

impl<'a> Scene<'a> {
    pub fn open(kind: Kind, number: usize, seed: u64, town: &'a Directory) -> Self {
        let mut dice = Dice::fork(seed, number as u64 + 1);
        let pump = town.ordinary[dice.below(town.ordinary.len())].clone();
        let merchant = pump.merchant(&mut dice);
        let fuel = ["petrol", "diesel", "diesel"][dice.below(3)];
        let fuel = if kind == Kind::AdblueWithDiesel { "diesel" } else { fuel };
        let step = [0.4, 1.0, 2.0][dice.below(3)];
        Self {
            car: CarSpec {
                fuel,
                class: "car",
                tank_litres: [42.0, 50.0, 55.0, 70.0, 90.0][dice.below(5)],
                hides_tank: false,
                sensor: Sensor { tops_out: 100.0, step, moving_sigma: 3.0 },
            },
            use_of_car: UseOfCar::Running("drive"),
            card_is_suspended: false,
            level: dice.between(6.0, 45.0),
            price: dice.between(155.0, 195.0).round(),
            clock_skew_s: dice.between(-1.0, 1.0),
            stuck_at: None,
            has_fix: true,
            is_card_present: None,
            filled: None,
            odometer_km: dice.between(8_000.0, 140_000.0).round(),
            asks: 0,
            posts: 0,
            steps: Vec::new(),
            merchant,
            pump,
            town,
            dice,
        }
    }

    pub fn close(mut self, kind: Kind, number: usize, seed: u64) -> Story {
        self.steps.sort_by(|one, other| one.due_s.total_cmp(&other.due_s));
        Story {
            number,
            seed,
            kind,
            car: self.car,
            use_of_car: self.use_of_car,
            card_is_suspended: self.card_is_suspended,
            steps: self.steps,
        }
    }

    pub fn move_to(&mut self, pump: &Pump) {
        self.pump = pump.clone();
        self.merchant = pump.merchant(&mut self.dice);
    }

    fn push(&mut self, due_s: f64, act: Act) {
        self.steps.push(Step { due_s, act });
    }

    pub fn odometer_km(&self) -> f64 {
        self.odometer_km.round()
    }

    /// Points that so many litres are.
    pub fn points(&self, litres: f64) -> f64 {
        litres / self.car.tank_litres * 100.0
    }

    pub fn free_litres(&self) -> f64 {
        (100.0 - self.level) / 100.0 * self.car.tank_litres
    }

    fn level_now(&mut self, is_moving: bool) -> Level {
        let noise = match is_moving {
            // The sum of twelve is near enough to a normal spread, and never beyond six sigmas.
            true => ((0..12).map(|_| self.dice.unit()).sum::<f64>() - 6.0) * self.car.sensor.moving_sigma,
            false => self.dice.between(-REST_NOISE, REST_NOISE),
        };
        let noise = noise.clamp(-18.5, 18.5);
        match self.filled {
            Some((before, gained, by)) => Level { before, gained, by, noise },
            None => Level { before: self.level, gained: 0.0, by: 0, noise },
        }
    }

    pub fn report(&mut self, due_s: f64, at_s: f64, place: Position, speed_kmh: f64, is_ignition_on: bool) {
        let report = CarReport {
            at_s: at_s + self.clock_skew_s,
            place: self.has_fix.then_some(self.stuck_at.unwrap_or(place)),
            speed_kmh,
            is_ignition_on,
            odometer_km: (self.odometer_km * 10.0).round() / 10.0,
            level: Some(self.level_now(speed_kmh > 0.0)),
            is_card_present: self.is_card_present,
        };
        self.push(due_s, Act::Report(report));
    }

    /// Drives `from_m` metres to `place` at about 50 km/h and is there at `until_s`; reported every 10 s.
    pub fn drive(&mut self, due_s: f64, place: Position, from_m: f64, until_s: f64) {
        let bearing = self.dice.between(0.0, std::f64::consts::TAU);
        let speed_kmh: f64 = if from_m > 8_000.0 { 110.0 } else { 48.0 };
        let lasts_s = from_m / (speed_kmh / 3.6);
        let reports = (lasts_s / 10.0).ceil().clamp(2.0, 40.0) as usize;
        self.ignition(due_s, until_s - lasts_s - 5.0, true);
        for left in (1..=reports).rev() {
            let share = left as f64 / reports as f64;
            let (north, east) = (bearing.cos() * from_m * share, bearing.sin() * from_m * share);
            let speed = speed_kmh * self.dice.between(0.7, 1.1);
            self.report(due_s, until_s - lasts_s * share, offset(place, north, east), speed, true);
            self.odometer_km += from_m / 1000.0 / reports as f64;
        }
    }

    /// Stands there and says so every `every_s`.
    pub fn stand(&mut self, due_s: f64, place: Position, from_s: f64, until_s: f64, is_ignition_on: bool) {
        let times = ((until_s - from_s) / 4.0).floor().clamp(1.0, 12.0) as usize;
        for time in 0..=times {
            let at_s = from_s + (until_s - from_s) * time as f64 / times as f64;
            self.report(due_s, at_s, self.jitter(place, time), 0.0, is_ignition_on);
        }
    }

    /// A receiver at rest wanders a few metres.
    fn jitter(&self, place: Position, time: usize) -> Position {
        offset(place, (time % 3) as f64 * 1.5 - 1.5, (time % 2) as f64 * 2.0 - 1.0)
    }

    pub fn ignition(&mut self, due_s: f64, at_s: f64, on: bool) {
        let at_s = at_s + self.clock_skew_s;
        self.push(due_s, Act::Fact { at_s, fact: json!({"type": "ignition", "on": on}) });
    }

    /// Arrives at the pump and switches off: what nearly every purchase begins with. It stands there at 0.
    pub fn arrive(&mut self) {
        let (place, from_m) = (self.pump.place, self.dice.between(1_800.0, 4_500.0));
        self.drive(0.0, place, from_m, -22.0);
        self.stand(0.0, place, -20.0, -8.0, true);
        self.ignition(0.0, -6.0, false);
        self.report(0.0, -5.0, place, 0.0, false);
    }

    /// A pre-authorisation of a fixed sum as most pumps ask, or of the exact amount.
    pub fn ask(&mut self, due_s: f64, at_s: f64, planned_litres: f64) -> usize {
        let planned_minor = (planned_litres * self.price).round() as i64;
        let fixed = [10_000, 12_500, 15_000][self.dice.below(3)];
        let partial_allowed = self.dice.chance(0.85);
        self.ask_for(due_s, at_s, fixed, partial_allowed, planned_minor.min(fixed), Prompts::default())
    }

    pub fn ask_for(
        &mut self,
        due_s: f64,
        at_s: f64,
        amount_minor: i64,
        partial_allowed: bool,
        planned_minor: i64,
        prompts: Prompts,
    ) -> usize {
        let ask = Ask {
            at_s,
            amount_minor,
            partial_allowed,
            merchant: self.merchant.clone(),
            prompts,
            planned_minor,
            is_misuse: false,
        };
        self.push(due_s, Act::Ask(ask));
        self.asks += 1;
        self.asks - 1
    }

    /// The last question is what the label speaks of.
    pub fn mark_misuse(&mut self) {
        let asks = self.steps.iter_mut().rev().find_map(|step| match &mut step.act {
            Act::Ask(ask) => Some(ask),
            _ => None,
        });
        if let Some(ask) = asks {
            ask.is_misuse = true;
        }
    }

    /// What one planned to fill, cut to what a pre-authorisation pays for.
    pub fn affordable(&self, litres: f64) -> f64 {
        let asked = self.steps.iter().rev().find_map(|step| match &step.act {
            Act::Ask(ask) => Some(ask.amount_minor as f64 / self.price),
            _ => None,
        });
        // A pump stops short of what is allowed, never beyond.
        asked.map_or(litres, |most| litres.min((most * 100.0).floor() / 100.0))
    }

    /// The level rises by so many litres, paid by the answer to `by`.
    pub fn fill(&mut self, litres: f64, by: usize) {
        let gained = self.points(litres);
        self.filled = Some((self.level, gained, by));
        self.level = (self.level + gained).min(104.0);
    }

    /// The level falls by so many points: driven off, or taken.
    pub fn lose(&mut self, points: f64) {
        self.level = (self.level - points).max(0.0);
        if let Some((before, _, _)) = &mut self.filled {
            *before -= points;
        }
    }

    /// Ignition on again and a short way, as after every fill; the unit shows the new level.
    pub fn set_off(&mut self, due_s: f64, at_s: f64) {
        let place = self.pump.place;
        self.ignition(due_s, at_s, true);
        self.stand(due_s, place, at_s + 0.5, at_s + 6.0, true);
    }

    pub fn drive_on(&mut self, due_s: f64, at_s: f64) {
        let place = self.pump.place;
        for step in 1..=3 {
            let metres = f64::from(step) * 40.0;
            self.odometer_km += 0.04;
            self.report(due_s, at_s + f64::from(step), offset(place, metres, metres), 42.0, true);
        }
    }

    pub fn capture(&mut self, due_s: f64, at_s: f64, of: usize, litres: f64) -> &mut Post {
        let product = self.car.fuel;
        self.post(due_s, at_s, Some(of), Some(litres), Some(product))
    }

    pub fn post(
        &mut self,
        due_s: f64,
        at_s: f64,
        of: Option<usize>,
        litres: Option<f64>,
        product: Option<&'static str>,
    ) -> &mut Post {
        self.posts += 1;
        let litres = litres.map(|litres| (litres * 100.0).round() / 100.0);
        let post = Post {
            what: Posted::Capture,
            of,
            at_s,
            litres,
            product,
            amount_minor: (litres.unwrap_or(0.0) * self.price).floor() as i64,
            scales: true,
            merchant: self.merchant.clone(),
            number: self.posts,
        };
        self.push(due_s, Act::Post(post));
        match self.steps.last_mut().map(|step| &mut step.act) {
            Some(Act::Post(post)) => post,
            // The step just pushed is a post.
            _ => unreachable!("a post was pushed"),
        }
    }

    /// The same message once more.
    pub fn repeat_last_post(&mut self, due_s: f64) {
        let last = self.steps.iter().rev().find_map(|step| match &step.act {
            Act::Post(post) => Some(post.clone()),
            _ => None,
        });
        if let Some(post) = last {
            self.push(due_s, Act::Post(post));
        }
    }

    pub fn end_rental(&mut self, due_s: f64) {
        self.push(due_s, Act::EndRental);
    }

    pub fn move_card(&mut self, due_s: f64) {
        self.push(due_s, Act::MoveCard);
    }

    /// From the question to the capture, as most purchases go; `wish` litres are paid for.
    pub fn buy(&mut self, wish: Wish) -> usize {
        let by = self.ask(2.0, 2.0, wish.litres);
        let litres = self.affordable(wish.litres);
        self.after_answer(by, litres, wish.into_tank.min(litres));
        by
    }

    /// The fill, the way on and the capture.
    pub fn after_answer(&mut self, by: usize, litres: f64, into_tank: f64) {
        let end_s = 3.0 + FILL_S;
        self.fill(into_tank, by);
        self.set_off(end_s + 8.0, end_s + 1.0);
        self.drive_on(end_s + 13.0, end_s + 9.0);
        self.capture(end_s + 16.0, end_s, by, litres);
    }

    /// What an ordinary driver fills: up to the brim mostly.
    pub fn usual_litres(&mut self) -> f64 {
        let up_to = if self.dice.chance(0.6) { self.dice.between(95.0, 101.0) } else { self.dice.between(65.0, 92.0) };
        ((up_to - self.level).max(12.0) / 100.0 * self.car.tank_litres * 100.0).round() / 100.0
    }
}
