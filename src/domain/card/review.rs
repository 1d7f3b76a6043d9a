//! The second look, after the fill: what was captured against what the car itself shows.
//!
//! Nothing is stopped by it any more. It confirms a purchase, doubts it, or says honestly that it cannot know.

use serde::{Deserialize, Serialize};

use super::checks::{
    Finding, allowed_litres, compare_places, compare_products, fills_the_tank, free_litres, place_of, round, span,
};
use super::facts::moment;
use super::{
    CarAround, Check, CheckMode, CheckName, Evidence, FailPolicy, Product, Purchase, Rules, StationLookup, Verdict,
};
use crate::domain::gauge::Level;
use crate::domain::{Money, Timestamp, VehicleId};

/// Merchant category codes (ISO 18245) of who sells fuel: dealers, service stations, dispensers, heating fuel. A toll or a
/// parking space may be paid with the card too, where the fleet's rules allow it.
const FUEL_CATEGORIES: [&str; 4] = ["5172", "5541", "5542", "5983"];

/// What the network says was really bought, all captures of one authorisation together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    pub amount: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub litres: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Product>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odometer_km: Option<f64>,
    pub captures: u32,
    /// What we approved at most, in minor units of the same currency; `None` = it had no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_minor: Option<i64>,
    /// What the same card fuelled under other authorisations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Fuelled>,
}

/// Litres that were bought for a tank, and when they were asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fuelled {
    pub at: Timestamp,
    pub litres: f64,
    /// Whose card it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<VehicleId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Review {
    pub checks: Vec<Check>,
    pub verdict: ReviewVerdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReviewVerdict {
    /// The level after the fill is waited for.
    Pending,
    /// The car bears it out: its level rose by what was sold, or, where that is not looked at, it was there.
    Confirmed,
    /// A check that counts failed: evidence to look into.
    Doubted,
    /// Nothing speaks against it, and too little for it.
    Unverifiable,
}

impl ReviewVerdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Doubted => "doubted",
            Self::Unverifiable => "unverifiable",
        }
    }
}

/// What a review looks at.
struct Fill<'a> {
    now: Timestamp,
    purchase: &'a Purchase,
    captured: &'a Captured,
    car: Option<&'a CarAround>,
    station: &'a StationLookup,
    rules: &'a Rules,
}

/// Looks again at a purchase with what was captured and what the car showed around it: the same always come to the same
/// review. `station` is where it was captured, as the directory knows it.
pub fn review(
    now: Timestamp,
    purchase: &Purchase,
    captured: &Captured,
    car: Option<&CarAround>,
    station: &StationLookup,
    rules: &Rules,
) -> Review {
    let fill = Fill { now, purchase, captured, car, station, rules };
    let mut checks = Vec::new();
    let mut is_pending = false;
    for name in CheckName::ALL {
        if rules.switch(name).mode == CheckMode::Off {
            continue;
        }
        let found = match name {
            CheckName::Location => fill.location(),
            CheckName::TankSpace => fill.tank_space(),
            CheckName::LevelRise => fill.level_rise(),
            CheckName::Product => fill.product(),
            CheckName::Odometer => fill.odometer(),
            CheckName::Amount => fill.amount(),
            CheckName::CardActive
            | CheckName::RentalState
            | CheckName::TelematicsFresh
            | CheckName::FuelLevel
            | CheckName::DriverPrompt
            | CheckName::Velocity
            | CheckName::DuplicateOrImpossibleTravel
            | CheckName::MerchantCategory
            | CheckName::Hours
            | CheckName::IgnitionAndMotion
            | CheckName::CardInCar => continue,
        };
        let waits = name == CheckName::LevelRise && rules.level_rise.mode == CheckMode::On && fill.waits_for_level();
        is_pending |= waits && found.verdict == Verdict::Unknown;
        checks.push(found.record(name, rules));
    }
    let verdict = sum_up(&checks, is_pending, rules);
    Review { checks, verdict }
}

fn sum_up(checks: &[Check], is_pending: bool, rules: &Rules) -> ReviewVerdict {
    let counts = |check: &&Check| check.mode == CheckMode::On;
    let failed = |check: &Check| check.verdict == Verdict::Fail && check.fail != FailPolicy::Warn;
    let passed = |name| checks.iter().filter(counts).any(|check| check.check == name && check.verdict == Verdict::Pass);
    let looks_at_rise = rules.level_rise.mode == CheckMode::On;
    if checks.iter().filter(counts).any(failed) {
        ReviewVerdict::Doubted
    } else if is_pending {
        ReviewVerdict::Pending
    } else if passed(CheckName::LevelRise) || (!looks_at_rise && passed(CheckName::Location)) {
        ReviewVerdict::Confirmed
    } else {
        ReviewVerdict::Unverifiable
    }
}

impl Fill<'_> {
    fn moment(&self) -> Timestamp {
        moment(self.now, self.purchase.at)
    }

    fn product_sold(&self) -> Option<Product> {
        self.captured.product.or(self.purchase.fill.product)
    }

    fn litres(&self) -> Option<f64> {
        self.captured.litres.or(self.purchase.fill.litres).filter(|litres| litres.is_finite() && *litres >= 0.0)
    }

    /// What the amount buys at the highest price a litre has, where nothing else is said of it.
    fn least_litres(&self) -> Option<f64> {
        let is_unnamed = self.litres().is_none() && self.product_sold().is_none();
        let amount = &self.captured.amount;
        let category = self.purchase.merchant.category_code.as_deref().map(str::trim);
        let sells_fuel = category.is_some_and(|code| FUEL_CATEGORIES.contains(&code));
        let is_paid = self.rules.level_rise.unnamed_is_fuel && is_unnamed && sells_fuel && amount.amount_minor > 0;
        let ceiling = self.price_ceiling().filter(|_| is_paid)?;
        Some(amount.amount_minor as f64 / ceiling as f64)
    }

    /// Of a litre, in minor units.
    fn price_ceiling(&self) -> Option<i64> {
        let currency = self.captured.amount.currency.to_ascii_lowercase();
        self.rules.tank_space.price_ceiling_minor.get(&currency).copied().filter(|ceiling| *ceiling > 0)
    }

    fn car(&self) -> Result<&CarAround, String> {
        self.car.ok_or_else(|| "the car is not known".to_owned())
    }

    /// The car, what its tank holds, and what was filled into it, at least; the text says why that is not known.
    fn tank(&self) -> Result<(&CarAround, f64, f64), String> {
        let car = self.car()?;
        let least = self.least_litres();
        if least.is_none() && !fills_the_tank(self.product_sold()) {
            return Err("what was bought does not go into the tank".to_owned());
        }
        let tank_litres = car.tank_litres.filter(|litres| litres.is_finite() && *litres > 0.0);
        let tank_litres = tank_litres.ok_or_else(|| format!("the size of {}'s tank is not known", car.vehicle_id))?;
        let litres = self.litres().or(least).ok_or_else(|| "the network names no litres".to_owned())?;
        Ok((car, tank_litres, litres))
    }

    /// No level after the fill is known, and one may still come.
    fn waits_for_level(&self) -> bool {
        let until = self.moment().plus_ms(i64::from(self.rules.level_rise.wait_h) * 3_600_000);
        let is_awaited = |car: &CarAround| car.level_before.is_some() && car.level_after.is_none() && !car.is_final;
        self.now < until && self.tank().is_ok_and(|(car, ..)| is_awaited(car))
    }

    fn location(&self) -> Finding {
        let car = match self.car() {
            Ok(car) => car,
            Err(why) => return Finding::unknown(why),
        };
        match place_of(self.station, &self.purchase.merchant) {
            Err(finding) => *finding,
            Ok(place) => compare_places(self.rules, self.moment(), &car.vehicle_id, car.fix, None, &place),
        }
    }

    fn tank_space(&self) -> Finding {
        let (car, tank_litres, litres) = match self.tank() {
            Ok(_) if self.least_litres().is_some() => return Finding::unknown("the network names no litres"),
            Ok(tank) => tank,
            Err(why) => return Finding::unknown(why),
        };
        let free = free_litres(tank_litres, car.level_before);
        let allowed = allowed_litres(&self.rules.tank_space, free);
        let text = format!("{}'s tank had room for {allowed:.0} l; {litres:.1} l were bought", car.vehicle_id);
        Finding::holds(litres <= allowed, text).with(Evidence {
            free_litres: Some(round(free)),
            allowed_litres: Some(round(allowed)),
            ..evidence_of(car, tank_litres, litres)
        })
    }

    fn level_rise(&self) -> Finding {
        let (car, tank_litres, litres) = match self.tank() {
            Ok(tank) => tank,
            Err(why) => return Finding::unknown(why),
        };
        let evidence = evidence_of(car, tank_litres, litres);
        match (car.level_before, car.level_after) {
            (None, _) => Finding::unknown("no level at rest is known from before the fill").with(evidence),
            (Some(_), None) if self.waits_for_level() => {
                Finding::unknown("the level after the fill is not known yet").with(evidence)
            }
            (Some(_), None) => Finding::unknown("no level at rest is known from after the fill").with(evidence),
            (Some(before), Some(after)) => self.compare_rise(car, tank_litres, litres, before, after, evidence),
        }
    }

    fn compare_rise(
        &self,
        car: &CarAround,
        tank_litres: f64,
        litres: f64,
        before: Level,
        after: Level,
        evidence: Evidence,
    ) -> Finding {
        let (rule, vehicle, captures) = (&self.rules.level_rise, &car.vehicle_id, self.captured.captures);
        let rise = (after.percent - before.percent) / 100.0 * tank_litres;
        let tolerance = rule.tolerance_percent / 100.0 * tank_litres;
        // What the level cannot show: what was used on the way, and what lies above where the sensor sticks.
        let used = car.driven_km.unwrap_or(0.0) * rule.use_l_per_100km / 100.0;
        let hidden =
            if after.percent >= rule.top_out_percent { (100.0 - after.percent) / 100.0 * tank_litres } else { 0.0 };
        let lacks = litres - rise - used - hidden;
        // Each of several purchases would be borne out by the one rise that all of them share.
        let shares = |other: &&Fuelled| {
            other.vehicle_id.as_ref() == Some(vehicle) && other.at >= before.at && other.at <= after.at
        };
        let beside: f64 = self.captured.beside.iter().filter(shares).map(|other| other.litres).sum();
        let evidence = Evidence {
            rise_litres: Some(round(rise)),
            tolerance_litres: Some(round(tolerance + used + hidden)),
            captures: Some(captures),
            beside_litres: (beside > 0.0).then(|| round(beside)),
            ..evidence
        };
        // One of several captures explains the rise far better than all of them do.
        let share = litres / f64::from(captures.max(1));
        let is_one_rise = captures > 1
            && (rise - share).abs() <= tolerance / 2.0
            && (rise - share).abs() < (rise + used + hidden - litres).abs();
        let over = span(after.at.since_ms(before.at));
        if self.least_litres().is_some() {
            let evidence = Evidence { is_least_litres: Some(true), ..evidence };
            let text = format!(
                "{vehicle}'s level rose by {rise:.1} l in {over}; {} minor units buy at least {litres:.1} l of any fuel",
                self.captured.amount.amount_minor
            );
            let finding = match lacks <= tolerance {
                // Too little to show, or nothing that was fuel.
                true if rise <= tolerance => Finding::unknown(text),
                holds => Finding::holds(holds, text),
            };
            return finding.with(evidence);
        }
        let text = format!("{vehicle}'s level rose by {rise:.1} l in {over}; {litres:.1} l were bought");
        let finding = if is_one_rise {
            Finding::fail(format!("{text} in {captures} captures, of which one would do"))
        } else if lacks <= tolerance && beside > 0.0 {
            let text = format!("{text}, and {beside:.1} l with the same card over the same time");
            Finding::holds(lacks + beside <= tolerance && rise - litres - beside <= tolerance, text)
        } else {
            Finding::holds(lacks <= tolerance && rise - litres <= tolerance, text)
        };
        finding.with(evidence)
    }

    fn product(&self) -> Finding {
        let Some(product) = self.product_sold() else {
            return Finding::unknown("the network names no product");
        };
        let car = match self.car() {
            Ok(car) => car,
            Err(why) => return Finding::unknown(why),
        };
        compare_products(product, car.fuel_type.as_deref()).with(Evidence {
            vehicle_id: Some(car.vehicle_id.clone()),
            product: Some(product),
            fuel_type: car.fuel_type.clone(),
            ..Evidence::default()
        })
    }

    fn odometer(&self) -> Finding {
        let keyed_km = self.captured.odometer_km.or(self.purchase.prompts.odometer_km);
        let Some(keyed_km) = keyed_km.filter(|km| km.is_finite() && *km >= 0.0) else {
            return Finding::unknown("no odometer was keyed in");
        };
        let car = match self.car() {
            Ok(car) => car,
            Err(why) => return Finding::unknown(why),
        };
        let evidence = Evidence {
            vehicle_id: Some(car.vehicle_id.clone()),
            keyed_km: Some(keyed_km),
            vehicle_km: car.odometer_km.map(round),
            ..Evidence::default()
        };
        let Some(car_km) = car.odometer_km else {
            return Finding::unknown(format!("{}'s odometer is not known", car.vehicle_id)).with(evidence);
        };
        let allowed_km = self.rules.odometer.max_difference_km;
        let text = format!("{keyed_km:.0} km were keyed in, and {} showed {car_km:.0} km", car.vehicle_id);
        Finding::holds((keyed_km - car_km).abs() <= allowed_km, text)
            .with(Evidence { allowed_km: Some(allowed_km), ..evidence })
    }

    /// More was taken than the litres can have cost.
    fn is_overpriced(&self) -> bool {
        let amount = &self.captured.amount;
        let (Some(ceiling), Some(litres)) = (self.price_ceiling(), self.litres()) else { return false };
        fills_the_tank(self.product_sold()) && amount.amount_minor as f64 > litres * ceiling as f64
    }

    fn amount(&self) -> Finding {
        let Captured { amount, allowed_minor, .. } = self.captured;
        let evidence = Evidence {
            amount_minor: Some(amount.amount_minor),
            max_amount_minor: *allowed_minor,
            currency: Some(amount.currency.clone()),
            ..Evidence::default()
        };
        let finding = match allowed_minor {
            _ if self.is_overpriced() => Finding::fail(format!(
                "{} minor units were captured for {:.1} l, which no litre costs",
                amount.amount_minor,
                self.litres().unwrap_or_default()
            )),
            None => Finding::unknown("what was approved had no bound"),
            Some(_) if !amount.currency.eq_ignore_ascii_case(&self.purchase.amount.currency) => {
                Finding::unknown("the capture is in another currency than what was approved")
            }
            Some(allowed) => {
                let text = format!("{} minor units were captured; {allowed} were approved", amount.amount_minor);
                Finding::holds(amount.amount_minor <= *allowed, text)
            }
        };
        finding.with(evidence)
    }
}

fn evidence_of(car: &CarAround, tank_litres: f64, litres: f64) -> Evidence {
    Evidence {
        vehicle_id: Some(car.vehicle_id.clone()),
        tank_litres: Some(tank_litres),
        litres: Some(litres),
        level_percent: car.level_before.map(|level| level.percent),
        level_at: car.level_before.map(|level| level.at),
        level_after_percent: car.level_after.map(|level| level.percent),
        level_after_at: car.level_after.map(|level| level.at),
        ..Evidence::default()
    }
}
