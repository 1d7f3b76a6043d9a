//! The car's body and the road under it: place, speed, odometer, fuel, ignition, locks and doors.
//!
//! Pure and seeded: time comes in as an argument, nothing here talks to anybody. What the telematics unit makes of it
//! is in `unit`.

use std::collections::BTreeSet;

use cardea::domain::{Position, Timestamp};

use crate::dice::Dice;
use crate::route::Route;

/// The pull of a calm driver, and of a calm brake.
const ACCELERATION_KMH_PER_S: f64 = 9.0;
const BRAKING_KMH_PER_S: f64 = 11.0;
/// Litres per 100 km while moving, and per hour with the engine idling.
const BURN_L_PER_100_KM: f64 = 7.0;
const IDLE_L_PER_H: f64 = 0.8;
/// A step longer than this (the process slept) moves the car by this much only.
const LONGEST_STEP_S: f64 = 10.0;
/// A car that was just told to drive rolls at once, so that whoever waits for a moving car need not wait for a tick.
const ROLLING_KMH: f64 = 8.0;

/// What whoever sits in the car is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Nobody at the wheel, ignition off.
    Parked,
    /// Ignition on, standing or braking to a stand.
    Waiting,
    Driving,
    /// Braking to a stand, then ignition off.
    Parking,
}

/// Trips and pauses a car makes on its own, without anybody telling it.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    pub trip_s: (f64, f64),
    pub pause_s: (f64, f64),
}

#[derive(Debug, Clone)]
pub struct World {
    route: Route,
    /// How far along the route; the car's place unless it was carried off it.
    along_m: f64,
    position: Position,
    speed_kmh: f64,
    /// Of the key it is driven with.
    pub max_speed_kmh: Option<f64>,
    cruise_kmh: f64,
    odometer_km: f64,
    fuel_l: f64,
    pub tank_l: f64,
    driver: Driver,
    is_ignition_on: bool,
    pub is_locked: bool,
    pub is_fuel_card_present: bool,
    open_doors: BTreeSet<Door>,
    habits: Option<Habits>,
    next_habit: Option<Timestamp>,
    stepped_at: Timestamp,
    dice: Dice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    Driver,
    Passenger,
    RearLeft,
    RearRight,
    Trunk,
}

impl Door {
    pub const ALL: [Self; 5] = [Self::Driver, Self::Passenger, Self::RearLeft, Self::RearRight, Self::Trunk];

    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Passenger => "passenger",
            Self::RearLeft => "rear_left",
            Self::RearRight => "rear_right",
            Self::Trunk => "trunk",
        }
    }
}

/// What a step or an act changed that people want to know of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    Ignition(bool),
    Refuelled { before_percent: f64, after_percent: f64 },
    Door(Door, bool),
    FuelCard(bool),
}

impl World {
    /// A parked, locked car with its fuel card, somewhat full and somewhat driven.
    pub fn parked_at(now: Timestamp, position: Position, tank_l: f64, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let route = Route::around(position, &mut dice);
        Self {
            route,
            along_m: 0.0,
            position,
            speed_kmh: 0.0,
            max_speed_kmh: None,
            cruise_kmh: dice.between(30.0, 60.0),
            odometer_km: dice.between(5_000.0, 90_000.0),
            fuel_l: tank_l * dice.between(0.3, 0.8),
            tank_l,
            driver: Driver::Parked,
            is_ignition_on: false,
            is_locked: true,
            is_fuel_card_present: true,
            open_doors: BTreeSet::new(),
            habits: None,
            next_habit: None,
            stepped_at: now,
            dice,
        }
    }

    pub fn position(&self) -> Position {
        self.position
    }

    pub fn speed_kmh(&self) -> f64 {
        self.speed_kmh
    }

    pub fn odometer_km(&self) -> f64 {
        self.odometer_km
    }

    pub fn fuel_percent(&self) -> f64 {
        if self.tank_l > 0.0 { 100.0 * self.fuel_l / self.tank_l } else { 0.0 }
    }

    pub fn free_litres(&self) -> f64 {
        (self.tank_l - self.fuel_l).max(0.0)
    }

    pub fn driver(&self) -> Driver {
        self.driver
    }

    pub fn is_ignition_on(&self) -> bool {
        self.is_ignition_on
    }

    pub fn is_moving(&self) -> bool {
        self.speed_kmh > 0.0
    }

    /// Stands still with ignition off: what must hold before anything may stop this car.
    pub fn is_safe_to_stop(&self) -> bool {
        !self.is_moving() && !self.is_ignition_on
    }

    pub fn is_open(&self, door: Door) -> bool {
        self.open_doors.contains(&door)
    }

    pub fn has_open_door(&self) -> bool {
        !self.open_doors.is_empty()
    }

    pub fn set_route(&mut self, route: Route) {
        self.route = route;
        self.along_m = 0.0;
        self.position = self.route.position_at(0.0);
    }

    /// From now on the car makes trips and pauses by itself.
    pub fn set_habits(&mut self, now: Timestamp, habits: Option<Habits>) {
        self.habits = habits;
        self.next_habit = habits.map(|habits| now.plus_ms(self.roll_ms(habits.pause_s) / 4));
    }

    fn roll_ms(&mut self, (low, high): (f64, f64)) -> i64 {
        (self.dice.between(low, high) * 1000.0) as i64
    }

    /// Drives off; the immobiliser's word is the caller's to ask.
    pub fn drive(&mut self) -> Option<Change> {
        self.driver = Driver::Driving;
        self.speed_kmh = self.speed_kmh.max(ROLLING_KMH);
        self.switch(true)
    }

    /// Brakes to a stand and stays with the ignition on.
    pub fn wait(&mut self) -> Option<Change> {
        self.driver = Driver::Waiting;
        self.switch(true)
    }

    /// Stands at once, ignition on.
    pub fn stop(&mut self) -> Option<Change> {
        self.speed_kmh = 0.0;
        self.wait()
    }

    /// Brakes to a stand within the next seconds, then switches off.
    pub fn begin_parking(&mut self) {
        if self.driver != Driver::Parked {
            self.driver = Driver::Parking;
        }
    }

    /// Stands still and off at once, as at the end of a story's paragraph.
    pub fn park(&mut self) -> Option<Change> {
        self.driver = Driver::Parked;
        self.speed_kmh = 0.0;
        self.switch(false)
    }

    fn switch(&mut self, on: bool) -> Option<Change> {
        (std::mem::replace(&mut self.is_ignition_on, on) != on).then_some(Change::Ignition(on))
    }

    /// Carries the car elsewhere; it goes on along its route from there as if it had always been laid so.
    pub fn move_to(&mut self, position: Position) {
        let mut dice = Dice::new(self.dice.next());
        self.route = Route::around(position, &mut dice);
        self.along_m = 0.0;
        self.position = position;
    }

    /// Fills in up to `litres`; what the tank does not hold is not taken.
    pub fn refuel(&mut self, litres: f64) -> Change {
        let before_percent = self.fuel_percent();
        self.fuel_l = (self.fuel_l + litres.max(0.0)).min(self.tank_l);
        Change::Refuelled { before_percent, after_percent: self.fuel_percent() }
    }

    pub fn set_fuel_percent(&mut self, percent: f64) {
        self.fuel_l = self.tank_l * percent.clamp(0.0, 100.0) / 100.0;
    }

    pub fn set_door(&mut self, door: Door, open: bool) -> Option<Change> {
        let changed = if open { self.open_doors.insert(door) } else { self.open_doors.remove(&door) };
        changed.then_some(Change::Door(door, open))
    }

    pub fn set_fuel_card(&mut self, present: bool) -> Option<Change> {
        (std::mem::replace(&mut self.is_fuel_card_present, present) != present).then_some(Change::FuelCard(present))
    }

    /// Lets the world go on until `now`. `may_drive` is the immobiliser: it keeps a parked car from starting and never
    /// stops one that runs.
    pub fn step(&mut self, now: Timestamp, may_drive: bool) -> Vec<Change> {
        let elapsed_s = (now.since_ms(self.stepped_at) as f64 / 1000.0).clamp(0.0, LONGEST_STEP_S);
        self.stepped_at = self.stepped_at.max(now);
        let mut changes: Vec<Change> = self.follow_habits(now, may_drive).into_iter().collect();
        self.change_speed(elapsed_s);
        self.roll(elapsed_s);
        if self.driver == Driver::Parking && !self.is_moving() {
            changes.extend(self.park());
        }
        changes
    }

    fn follow_habits(&mut self, now: Timestamp, may_drive: bool) -> Option<Change> {
        let habits = self.habits?;
        if self.next_habit.is_some_and(|at| now < at) {
            return None;
        }
        let is_off = self.driver == Driver::Parked;
        let span = if is_off { habits.trip_s } else { habits.pause_s };
        self.next_habit = Some(now.plus_ms(self.roll_ms(span)));
        if !is_off {
            self.begin_parking();
            None
        } else if may_drive {
            self.drive()
        } else {
            None
        }
    }

    fn change_speed(&mut self, elapsed_s: f64) {
        let target_kmh = match self.driver {
            Driver::Driving if self.fuel_l > 0.0 => {
                self.max_speed_kmh.map_or(self.cruise_kmh, |limit| self.cruise_kmh.min(limit))
            }
            Driver::Driving | Driver::Parked | Driver::Waiting | Driver::Parking => 0.0,
        };
        let (up, down) = (ACCELERATION_KMH_PER_S * elapsed_s, BRAKING_KMH_PER_S * elapsed_s);
        self.speed_kmh = target_kmh.clamp((self.speed_kmh - down).max(0.0), self.speed_kmh + up);
        if self.driver == Driver::Driving && self.dice.chance(0.1 * elapsed_s.min(1.0)) {
            self.cruise_kmh = self.dice.between(25.0, 65.0);
        }
    }

    fn roll(&mut self, elapsed_s: f64) {
        let moved_m = self.speed_kmh / 3.6 * elapsed_s;
        if moved_m > 0.0 {
            self.along_m += moved_m;
            self.position = self.route.position_at(self.along_m);
            self.odometer_km += moved_m / 1000.0;
        }
        let burnt_l = if moved_m > 0.0 {
            moved_m / 100_000.0 * BURN_L_PER_100_KM
        } else if self.is_ignition_on {
            IDLE_L_PER_H * elapsed_s / 3600.0
        } else {
            0.0
        };
        self.fuel_l = (self.fuel_l - burnt_l).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURIN: Position = Position { latitude: 45.07, longitude: 7.68 };

    fn car() -> World {
        World::parked_at(Timestamp(0), TURIN, 50.0, 42)
    }

    fn run(world: &mut World, from_s: i64, seconds: i64) -> Vec<Change> {
        (from_s + 1..=from_s + seconds).flat_map(|s| world.step(Timestamp(s * 1000), true)).collect()
    }

    #[test]
    fn a_driving_car_moves_burns_fuel_and_counts_its_way() {
        let mut world = car();
        let (odometer, fuel) = (world.odometer_km(), world.fuel_percent());
        assert_eq!(world.drive(), Some(Change::Ignition(true)));
        assert!(world.is_moving(), "a car told to drive moves at once");
        run(&mut world, 0, 60);
        let driven_km = world.odometer_km() - odometer;
        assert!((0.2..1.2).contains(&driven_km), "{driven_km}");
        assert!(world.position().distance_m(TURIN) > 100.0);
        let burnt_l = (fuel - world.fuel_percent()) / 100.0 * 50.0;
        assert!((burnt_l - driven_km * 0.07).abs() < 0.001, "{burnt_l} l over {driven_km} km");
    }

    #[test]
    fn parking_brakes_first_and_switches_off_at_a_stand() {
        let mut world = car();
        world.drive();
        run(&mut world, 0, 30);
        world.begin_parking();
        assert_eq!(run(&mut world, 30, 1), []);
        assert!(world.is_moving() && world.is_ignition_on());
        assert_eq!(run(&mut world, 31, 10), [Change::Ignition(false)]);
        assert!(world.is_safe_to_stop());
    }

    #[test]
    fn an_empty_tank_ends_the_drive() {
        let mut world = car();
        world.set_fuel_percent(0.01);
        world.drive();
        run(&mut world, 0, 120);
        assert!(!world.is_moving());
        assert_eq!(world.fuel_percent(), 0.0);
    }

    #[test]
    fn a_tank_takes_no_more_than_it_holds() {
        let mut world = car();
        world.set_fuel_percent(90.0);
        assert_eq!(world.refuel(40.0), Change::Refuelled { before_percent: 90.0, after_percent: 100.0 });
    }

    #[test]
    fn a_long_sleep_moves_the_car_a_short_way_only() {
        let mut world = car();
        world.drive();
        world.step(Timestamp(3_600_000), true);
        assert!(world.position().distance_m(TURIN) < 300.0);
    }

    #[test]
    fn habits_make_trips_and_pauses_and_respect_the_immobiliser() {
        let mut world = car();
        let habits = Habits { trip_s: (20.0, 40.0), pause_s: (10.0, 20.0) };
        world.set_habits(Timestamp(0), Some(habits));
        let switched = run(&mut world, 0, 300);
        assert!(switched.len() >= 4, "{switched:?}");
        world.park();
        for s in 301..600 {
            world.step(Timestamp(s * 1000), false);
            assert!(!world.is_ignition_on(), "started at {s} s though drive is disabled");
        }
    }

    #[test]
    fn time_that_goes_back_does_not_move_the_car_back() {
        let mut world = car();
        world.drive();
        world.step(Timestamp(5_000), true);
        let there = world.position();
        world.step(Timestamp(1_000), true);
        assert_eq!(world.position(), there);
    }
}
