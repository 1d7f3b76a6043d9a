//! An honest purchase with everything known, for tests to change one thing of.

use super::super::gauge::Level;
use super::super::twin::Fix;
use super::super::{Money, Position, RentalId, Timestamp, VehicleId};
use super::*;

pub const NOW: Timestamp = Timestamp(1_800_000_000_000);
pub const STATION: Position = Position { latitude: 45.07, longitude: 7.68 };
pub const SEC: i64 = 1_000;
pub const MIN: i64 = 60_000;

pub fn rules() -> Rules {
    static RULES: std::sync::OnceLock<Rules> = std::sync::OnceLock::new();
    let read = || toml::from_str(include_str!("../../../config/card-rules.toml")).expect("the rules file");
    RULES.get_or_init(read).clone()
}

pub fn vehicle(name: &str) -> VehicleId {
    name.parse().expect("id")
}

pub fn ago(ms: i64) -> Timestamp {
    NOW.plus_ms(-ms)
}

pub fn card() -> Card {
    Card {
        card_id: "c1".parse().expect("id"),
        network_ref: "ic_1".parse().expect("id"),
        vehicle_id: Some(vehicle("V1")),
        status: CardStatus::Active,
        changed_at: Timestamp(0),
        previous: None,
        prompts: CardPrompts::default(),
        limits: CardLimits::default(),
    }
}

pub fn purchase(at: Timestamp) -> Purchase {
    Purchase {
        authorization_id: "iauth_1".parse().expect("id"),
        source: "stripe".into(),
        card_ref: "ic_1".parse().expect("id"),
        at,
        amount: Money { amount_minor: 5_000, currency: "eur".into() },
        partial_allowed: true,
        merchant: Merchant::default(),
        fill: Fill::default(),
        prompts: Prompts::default(),
    }
}

pub fn station() -> StationLookup {
    station_at(Some(STATION), 1)
}

pub fn station_at(position: Option<Position>, at_position: u32) -> StationLookup {
    StationLookup::Known {
        station_id: "s1".parse().expect("id"),
        name: "Station".into(),
        position,
        at_position,
        by: LookedUpBy::Terminal,
        time_zone: None,
        is_offline_batch: false,
        learnt: false,
    }
}

/// A place `north_m` metres north of the station.
pub fn north(north_m: f64) -> Position {
    Position { latitude: STATION.latitude + north_m / 111_195.0, ..STATION }
}

/// In a rental since an hour ago, seen at the station ten seconds before NOW.
pub fn facts() -> VehicleFacts {
    VehicleFacts {
        vehicle_id: vehicle("V1"),
        uses: vec![InUse { rental_id: RentalId(uuid::Uuid::nil()), from: ago(60 * MIN), until: None }],
        fix: Some(Fix { position: north(20.0), at: ago(10_000), accuracy_m: Some(5.0) }),
        doubt: None,
        last_report: Some(ago(10_000)),
        class: None,
        fuel_type: None,
        tank_litres: None,
        rest_level: None,
        has_driven_since_rest: false,
        filled_at: None,
        odometer: None,
        speed: None,
        ignition: None,
        card_present: None,
    }
}

/// A petrol car with a tank of 50 l, a quarter full.
pub fn full_facts() -> VehicleFacts {
    VehicleFacts {
        fuel_type: Some("petrol".into()),
        tank_litres: Some(50.0),
        rest_level: Some(Level { percent: 25.0, at: ago(10_000) }),
        odometer: Some(Seen { value: 48_211.3, at: ago(10_000) }),
        speed: Some(Seen { value: 0.0, at: ago(10_000) }),
        ignition: Some(Seen { value: false, at: ago(10_000) }),
        card_present: Some(Seen { value: true, at: ago(60 * MIN) }),
        ..facts()
    }
}

pub fn inputs(facts: VehicleFacts) -> Inputs {
    Inputs {
        card: Some(card()),
        vehicles: vec![VehicleLookup::Known(facts)],
        station: station(),
        spending: Spending::default(),
        confirmed_at: None,
    }
}

/// A whole situation, honest as it stands.
pub struct Story {
    pub now: Timestamp,
    pub purchase: Purchase,
    pub inputs: Inputs,
    pub rules: Rules,
}

impl Story {
    pub fn honest() -> Self {
        Self { now: NOW, purchase: purchase(NOW), inputs: inputs(full_facts()), rules: rules() }
    }

    /// With one thing changed.
    pub fn but(change: impl FnOnce(&mut Self)) -> Self {
        let mut story = Self::honest();
        change(&mut story);
        story
    }

    pub fn facts(&mut self) -> &mut VehicleFacts {
        match &mut self.inputs.vehicles[0] {
            VehicleLookup::Known(facts) => facts,
            other => panic!("{other:?}"),
        }
    }

    pub fn card(&mut self) -> &mut Card {
        self.inputs.card.as_mut().expect("a card")
    }

    pub fn ruling(&self) -> Ruling {
        judge(self.now, &self.purchase, &self.inputs, &self.rules)
    }

    pub fn check(&self, name: CheckName) -> Check {
        self.ruling().checks.into_iter().find(|check| check.check == name).expect("check ran")
    }

    pub fn verdict(&self, name: CheckName) -> Verdict {
        self.check(name).verdict
    }
}

pub fn verdict(ruling: &Ruling, name: CheckName) -> Verdict {
    ruling.checks.iter().find(|check| check.check == name).expect("check ran").verdict
}

pub fn mode(rules: &mut Rules, name: CheckName) -> &mut CheckMode {
    match name {
        CheckName::CardActive => &mut rules.card_active.mode,
        CheckName::RentalState => &mut rules.rental_state.mode,
        CheckName::Location => &mut rules.location.mode,
        CheckName::TelematicsFresh => &mut rules.telematics_fresh.mode,
        CheckName::FuelLevel => &mut rules.fuel_level.mode,
        CheckName::TankSpace => &mut rules.tank_space.mode,
        CheckName::LevelRise => &mut rules.level_rise.mode,
        CheckName::Product => &mut rules.product.mode,
        CheckName::Odometer => &mut rules.odometer.mode,
        CheckName::DriverPrompt => &mut rules.driver_prompt.mode,
        CheckName::Velocity => &mut rules.velocity.mode,
        CheckName::DuplicateOrImpossibleTravel => &mut rules.duplicate_or_impossible_travel.mode,
        CheckName::MerchantCategory => &mut rules.merchant_category.mode,
        CheckName::Hours => &mut rules.hours.mode,
        CheckName::IgnitionAndMotion => &mut rules.ignition_and_motion.mode,
        CheckName::Amount => &mut rules.amount.mode,
        CheckName::CardInCar => &mut rules.card_in_car.mode,
    }
}

/// What not knowing and failing lead to, of the checks that have both.
pub fn policies(rules: &mut Rules, name: CheckName) -> Option<(&mut UnknownPolicy, &mut FailPolicy)> {
    macro_rules! of {
        ($($rule:ident),*) => { ($(Some((&mut rules.$rule.unknown, &mut rules.$rule.fail)),)*) };
    }
    match name {
        CheckName::CardActive => of!(card_active).0,
        CheckName::RentalState => of!(rental_state).0,
        CheckName::Location => of!(location).0,
        CheckName::TelematicsFresh | CheckName::LevelRise => None,
        CheckName::FuelLevel => of!(fuel_level).0,
        CheckName::TankSpace => of!(tank_space).0,
        CheckName::Product => of!(product).0,
        CheckName::Odometer => of!(odometer).0,
        CheckName::DriverPrompt => of!(driver_prompt).0,
        CheckName::Velocity => of!(velocity).0,
        CheckName::DuplicateOrImpossibleTravel => of!(duplicate_or_impossible_travel).0,
        CheckName::MerchantCategory => of!(merchant_category).0,
        CheckName::Hours => of!(hours).0,
        CheckName::IgnitionAndMotion => of!(ignition_and_motion).0,
        CheckName::Amount => of!(amount).0,
        CheckName::CardInCar => of!(card_in_car).0,
    }
}
