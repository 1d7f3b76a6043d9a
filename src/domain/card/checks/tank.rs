//! Checks of the tank: is there room for what is bought, and is it what the vehicle takes?

use super::{Case, Evidence, Finding, Verdict, any_vehicle, round, span};
use crate::domain::card::facts::{VehicleFacts, is_same_try};
use crate::domain::card::fuel::Takes;
use crate::domain::card::{Product, Purchase, TankSpaceRule};
use crate::domain::gauge::Level;

/// A level measured so long after the purchase may already be that of the fill.
const AFTER_MS: i64 = 60_000;

/// Whoever pays inside has filled before: a rise so long before the purchase is its own, unless the card paid for that.
pub(in crate::domain::card) const PAID_AFTER_MS: i64 = 1_800_000;

/// Is the level that of the very fill that is being paid?
fn is_filled_already(case: &Case<'_>, facts: &VehicleFacts) -> bool {
    let Some(filled_at) = facts.filled_at.filter(|filled| case.moment().since_ms(*filled) <= PAID_AFTER_MS) else {
        return false;
    };
    let last = case.inputs.spending.last.as_ref().filter(|last| !is_same_try(case.purchase, last));
    last.is_none_or(|last| filled_at.since_ms(last.at) > PAID_AFTER_MS)
}

/// The level the tank had when the purchase was made; the text says why it is not known.
fn level_of(case: &Case<'_>, facts: &VehicleFacts) -> Result<Level, String> {
    let vehicle = &facts.vehicle_id;
    let (at, max_silence_s) = (case.moment(), case.rules.fuel_level.max_silence_s);
    let Some(level) = facts.rest_level.filter(|level| (0.0..=100.0).contains(&level.percent)) else {
        return Err(format!("{vehicle}'s level at rest is not known"));
    };
    if facts.has_driven_since_rest {
        return Err(format!("{vehicle}'s level is known only from before its last drive"));
    }
    if level.at.since_ms(at) > AFTER_MS {
        return Err(format!("{vehicle}'s level was measured only after the purchase"));
    }
    if is_filled_already(case, facts) {
        return Err(format!("{vehicle} was filled just before the purchase, as when one pays inside"));
    }
    let heard_at = facts.last_report.map_or(level.at, |last| last.max(level.at));
    let silence_ms = at.since_ms(heard_at);
    if silence_ms > i64::from(max_silence_s) * 1000 {
        return Err(format!("{vehicle} was silent for {}, and may have driven since its level", span(silence_ms)));
    }
    Ok(level)
}

fn evidence_of(facts: &VehicleFacts, level: Option<Level>) -> Evidence {
    Evidence {
        vehicle_id: Some(facts.vehicle_id.clone()),
        level_percent: level.map(|level| level.percent),
        level_at: level.map(|level| level.at),
        ..Evidence::default()
    }
}

/// A wash, a charge or exhaust fluid says nothing of the tank.
fn is_for_the_tank(case: &Case<'_>) -> bool {
    let Purchase { merchant, fill, .. } = case.purchase;
    let charging = &case.rules.merchant_category.allowed_if_charging;
    let is_charger = merchant.category_code.as_ref().is_some_and(|code| charging.contains(code));
    fills_the_tank(fill.product) && !is_charger
}

pub(super) fn fuel_level(case: &Case<'_>) -> Finding {
    if !is_for_the_tank(case) {
        return Finding::unknown("what is bought does not go into the tank");
    }
    any_vehicle(case, Verdict::Unknown, |facts| {
        let full_percent = case.rules.fuel_level.full_percent;
        let evidence = Evidence { full_percent: Some(full_percent), ..evidence_of(facts, facts.rest_level) };
        match level_of(case, facts) {
            Err(why) => Finding::unknown(why).with(evidence),
            Ok(level) => {
                let text = format!("{}'s tank was {:.0} % full", facts.vehicle_id, level.percent);
                Finding::holds(level.percent < full_percent, text).with(evidence).aged(case.age_s(level.at))
            }
        }
    })
}

/// How much fits in, by the rule: the free room with what gauges and tanks err by.
pub(in crate::domain::card) fn allowed_litres(rule: &TankSpaceRule, free_litres: f64) -> f64 {
    free_litres * rule.factor + rule.extra_litres
}

pub(in crate::domain::card) fn free_litres(tank_litres: f64, level: Option<Level>) -> f64 {
    // Without a level the whole tank may be empty: that still bounds what can be filled.
    tank_litres * (1.0 - level.map_or(0.0, |level| level.percent) / 100.0)
}

/// What is sold in litres and goes into the tank.
pub(in crate::domain::card) fn fills_the_tank(product: Option<Product>) -> bool {
    match product {
        None | Some(Product::Petrol | Product::Diesel | Product::Lpg | Product::Cng | Product::Hydrogen) => true,
        Some(Product::Electricity | Product::Adblue | Product::Other) => false,
    }
}

pub(super) fn tank_space(case: &Case<'_>) -> Finding {
    let fill = &case.purchase.fill;
    if !is_for_the_tank(case) {
        return Finding::unknown("what is bought does not go into the tank");
    }
    any_vehicle(case, Verdict::Unknown, |facts| {
        let vehicle = &facts.vehicle_id;
        let Some(tank_litres) = facts.tank_litres.filter(|litres| litres.is_finite() && *litres > 0.0) else {
            return Finding::unknown(format!("the size of {vehicle}'s tank is not known"))
                .with(evidence_of(facts, None));
        };
        let level = level_of(case, facts).ok();
        let free = free_litres(tank_litres, level);
        let allowed = allowed_litres(&case.rules.tank_space, free);
        let evidence = Evidence {
            tank_litres: Some(tank_litres),
            free_litres: Some(round(free)),
            allowed_litres: Some(round(allowed)),
            litres: fill.litres,
            ..evidence_of(facts, level)
        };
        let room = match level {
            Some(_) => format!("{vehicle}'s tank had room for {allowed:.0} l"),
            None => format!("{vehicle}'s tank holds at most {allowed:.0} l"),
        };
        let finding = match fill.litres.filter(|litres| litres.is_finite()) {
            Some(litres) => {
                Finding::holds(litres <= allowed, format!("{room}; {litres:.1} l are bought")).with(evidence)
            }
            None => bound(case, allowed, room, evidence),
        };
        Finding { age_s: level.map(|level| case.age_s(level.at)), ..finding }
    })
}

/// What so many litres cost at most bounds the amount. Pumps ask for fixed sums: one that cannot be cut is no sign of
/// anything, and what was really filled is looked at afterwards.
fn bound(case: &Case<'_>, litres: f64, room: String, evidence: Evidence) -> Finding {
    let amount = &case.purchase.amount;
    let ceiling = case.rules.tank_space.price_ceiling_minor.get(&amount.currency.to_ascii_lowercase()).copied();
    let Some(ceiling) = ceiling else {
        return Finding::unknown(format!("{room}; what a litre costs in {} is not known", amount.currency))
            .with(evidence);
    };
    // Saturates, and an amount that large bounds nothing.
    let cap_minor = ((litres * ceiling as f64).ceil() as i64).max(1);
    let evidence = Evidence { price_ceiling_minor: Some(ceiling), max_amount_minor: Some(cap_minor), ..evidence };
    if case.purchase.partial_allowed {
        return Finding::pass(room).with(evidence).capped(cap_minor);
    }
    let text = match amount.amount_minor > cap_minor {
        true => format!("{room}; the amount is above what that costs, but cannot be cut: the fill will show"),
        false => room,
    };
    Finding::pass(text).with(evidence)
}

pub(super) fn product(case: &Case<'_>) -> Finding {
    let Some(product) = case.purchase.fill.product else {
        return Finding::unknown("the network names no product");
    };
    any_vehicle(case, Verdict::Unknown, |facts| {
        compare_products(product, facts.fuel_type.as_deref()).with(Evidence {
            vehicle_id: Some(facts.vehicle_id.clone()),
            product: Some(product),
            fuel_type: facts.fuel_type.clone(),
            ..Evidence::default()
        })
    })
}

/// Does the vehicle take it? Both phases ask this.
pub(in crate::domain::card) fn compare_products(product: Product, fuel_type: Option<&str>) -> Finding {
    if product == Product::Other {
        return Finding::unknown("the product is one that no check can place");
    }
    let Some(fuel_type) = fuel_type else {
        return Finding::unknown("the vehicle's fuel type is not known");
    };
    let takes = Takes::of(fuel_type);
    if !takes.is_known() {
        return Finding::unknown(format!("the vehicle's fuel type {fuel_type} says nothing of products"));
    }
    let fits = takes.includes(product);
    let text = format!(
        "{} is {}what a vehicle of fuel type {fuel_type} takes",
        product.name(),
        if fits { "" } else { "not " }
    );
    Finding::holds(fits, text)
}
