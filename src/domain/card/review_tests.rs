//! The look after the fill, and the car's track it rests on.

use super::super::gauge::Level;
use super::super::twin::{Fix, SignalValue, path};
use super::super::{Money, Timestamp};
use super::test_cases::{MIN, NOW, SEC, ago, north, purchase, rules, station, vehicle};
use super::*;

use CheckName::{Amount, LevelRise, Location, Odometer, TankSpace};
use Verdict::{Fail, Pass, Unknown};

const LATER: Timestamp = Timestamp(NOW.0 + 60 * MIN);

fn level(percent: f64, at: Timestamp) -> Option<Level> {
    Some(Level { percent, at })
}

/// A car with a tank of 50 l that was filled from a quarter to three quarters.
fn car() -> CarAround {
    CarAround {
        vehicle_id: vehicle("V1"),
        tank_litres: Some(50.0),
        fuel_type: Some("petrol".into()),
        level_before: level(25.0, ago(MIN)),
        level_after: level(75.0, NOW.plus_ms(5 * MIN)),
        driven_km: None,
        fix: Some(Fix { position: north(20.0), at: NOW, accuracy_m: Some(5.0) }),
        odometer_km: Some(48_211.0),
        is_final: false,
    }
}

fn captured(litres: f64) -> Captured {
    Captured {
        amount: Money { amount_minor: 5_000, currency: "EUR".into() },
        litres: Some(litres),
        product: Some(Product::Petrol),
        odometer_km: None,
        captures: 1,
        allowed_minor: Some(10_000),
        beside: Vec::new(),
    }
}

fn reviewed(captured: &Captured, car: Option<&CarAround>) -> Review {
    review(LATER, &purchase(NOW), captured, car, &station(), &rules())
}

fn found(review: &Review, name: CheckName) -> Verdict {
    review.checks.iter().find(|check| check.check == name).expect("it ran").verdict
}

#[test]
fn a_fill_that_the_car_shows_is_confirmed() {
    let review = reviewed(&captured(25.0), Some(&car()));
    assert_eq!(review.verdict, ReviewVerdict::Confirmed, "{:#?}", review.checks);
    for name in [Location, TankSpace, LevelRise, CheckName::Product, Amount] {
        assert_eq!(found(&review, name), Pass, "{name:?}");
    }
    assert_eq!(found(&review, Odometer), Unknown);
    assert_eq!(review.checks.len(), 6);
}

#[test]
fn litres_that_did_not_come_into_the_tank_are_doubted() {
    // 25 l rose, and a tenth of the tank is 5 l.
    for (litres, expected) in [(30.0, Pass), (30.1, Fail), (20.0, Pass), (19.9, Fail)] {
        assert_eq!(found(&reviewed(&captured(litres), Some(&car())), LevelRise), expected, "{litres}");
    }
    let another_car = CarAround { level_after: level(25.2, NOW.plus_ms(5 * MIN)), ..car() };
    let review = reviewed(&captured(30.0), Some(&another_car));
    assert_eq!((found(&review, LevelRise), review.verdict), (Fail, ReviewVerdict::Doubted));
    // More than fits in: 37.5 l x 1.1 + 2.
    assert_eq!(found(&reviewed(&captured(43.3), Some(&car())), TankSpace), Fail);
    assert_eq!(found(&reviewed(&captured(43.2), Some(&car())), TankSpace), Pass);
}

#[test]
fn two_captures_for_one_rise_are_doubted_and_two_for_their_sum_are_not() {
    let twice = |litres, percent_after| {
        let captured = Captured { captures: 2, ..captured(litres) };
        let car = CarAround { level_after: level(percent_after, NOW.plus_ms(5 * MIN)), ..car() };
        found(&reviewed(&captured, Some(&car)), LevelRise)
    };
    assert_eq!(twice(8.0, 33.0), Fail, "4 l rose");
    assert_eq!(twice(8.0, 40.0), Pass, "7.5 l rose");
    assert_eq!(twice(40.0, 97.0), Pass, "36 l rose");
    assert_eq!(twice(50.0, 75.0), Fail, "25 l rose");
}

fn fuelled(min: i64, litres: f64) -> Fuelled {
    Fuelled { at: NOW.plus_ms(min * MIN), litres, vehicle_id: Some(vehicle("V1")) }
}

/// Three fills of 16 l, of which one went into this car, were each borne out by its rise.
#[test]
fn purchases_that_share_one_rise_are_borne_out_together_or_not_at_all() {
    let found_beside = |beside: &[(i64, f64)]| {
        let beside = beside.iter().map(|(min, litres)| fuelled(*min, *litres)).collect();
        found(&reviewed(&Captured { beside, ..captured(16.0) }, Some(&car())), LevelRise)
    };
    // 25 l rose between a minute before and 5 after; 5 l may be missing.
    assert_eq!(found_beside(&[(2, 14.0)]), Pass);
    assert_eq!(found_beside(&[(2, 14.1)]), Fail);
    assert_eq!(found_beside(&[(-1, 8.0), (2, 8.0)]), Fail);
    assert_eq!(found_beside(&[(2, 3.9)]), Fail, "more rose than was bought");
    let other_rises = [-60, 6].map(|min| fuelled(min, 40.0)).to_vec();
    let other_car = Fuelled { vehicle_id: Some(vehicle("V2")), ..fuelled(2, 40.0) };
    let of_another = Captured { beside: vec![other_car], ..captured(25.0) };
    assert_eq!(found(&reviewed(&of_another, Some(&car())), LevelRise), Pass);
    let alone = Captured { beside: other_rises, ..captured(25.0) };
    assert_eq!(found(&reviewed(&alone, Some(&car())), LevelRise), Pass);
    let one_that_lacks = Captured { beside: vec![fuelled(0, 1.0)], ..captured(31.0) };
    assert_eq!(found(&reviewed(&one_that_lacks, Some(&car())), LevelRise), Fail);
}

#[test]
fn money_for_which_nothing_is_named_buys_fuel_that_shows_or_is_doubted() {
    let ceiling = rules().tank_space.price_ceiling_minor["eur"];
    let at = |category: &str| {
        let mut purchase = purchase(NOW);
        purchase.merchant.category_code = Some(category.into());
        purchase
    };
    let unnamed = |litres: i64, product, percent_after| {
        let amount = Money { amount_minor: litres * ceiling, currency: "EUR".into() };
        let captured = Captured { amount, litres: None, product, allowed_minor: None, ..captured(0.0) };
        let car = CarAround { level_after: level(percent_after, NOW.plus_ms(5 * MIN)), ..car() };
        found(&review(LATER, &at("5541"), &captured, Some(&car), &station(), &rules()), LevelRise)
    };
    assert_eq!(unnamed(10, None, 25.4), Fail, "nothing rose");
    assert_eq!(unnamed(10, Some(Product::Other), 25.4), Unknown, "it has a name that says nothing");
    assert_eq!(unnamed(10, Some(Product::Adblue), 25.4), Unknown, "that has a tank of its own");
    assert_eq!(unnamed(4, None, 25.4), Unknown, "a wash");
    assert_eq!(unnamed(10, None, 75.0), Pass, "cheaper than at most");
    assert_eq!(unnamed(40, None, 75.0), Fail, "25 l rose");
    let unnamed = Captured { litres: None, product: None, ..captured(0.0) };
    let unmoved = CarAround { level_after: level(25.4, NOW.plus_ms(5 * MIN)), ..car() };
    let looked = |purchase: &Purchase, rules: &Rules| {
        found(&review(LATER, purchase, &unnamed, Some(&unmoved), &station(), rules), LevelRise)
    };
    let mut other_rules = rules();
    assert_eq!(looked(&at("5542"), &other_rules), Fail);
    assert_eq!(looked(&at("4784"), &other_rules), Unknown, "a toll is no fuel");
    other_rules.level_rise.unnamed_is_fuel = false;
    assert_eq!(looked(&at("5542"), &other_rules), Unknown);
}

#[test]
fn a_sensor_that_sticks_near_the_top_accuses_nobody() {
    let topped = CarAround { level_after: level(91.0, NOW.plus_ms(5 * MIN)), ..car() };
    // 33 l rose as far as it shows, 4.5 l may be above.
    assert_eq!(found(&reviewed(&captured(42.4), Some(&topped)), LevelRise), Pass);
    assert_eq!(found(&reviewed(&captured(42.6), Some(&topped)), LevelRise), Fail);
}

#[test]
fn what_was_used_on_the_way_to_the_next_level_counts() {
    // 100 km use 15 l.
    let driven = CarAround { level_after: level(45.0, NOW.plus_ms(60 * MIN)), driven_km: Some(100.0), ..car() };
    assert_eq!(found(&reviewed(&captured(25.0), Some(&driven)), LevelRise), Pass);
    let stood = CarAround { driven_km: None, ..driven };
    assert_eq!(found(&reviewed(&captured(25.0), Some(&stood)), LevelRise), Fail);
}

#[test]
fn a_review_waits_for_the_level_after_and_for_nothing_else() {
    let waiting = CarAround { level_after: None, ..car() };
    let at = |now: Timestamp, car: &CarAround| {
        review(now, &purchase(NOW), &captured(25.0), Some(car), &station(), &rules()).verdict
    };
    let day = NOW.plus_ms(24 * 60 * MIN);
    assert_eq!(at(LATER, &waiting), ReviewVerdict::Pending);
    assert_eq!(at(day.plus_ms(-1), &waiting), ReviewVerdict::Pending);
    assert_eq!(at(day, &waiting), ReviewVerdict::Unverifiable);
    assert_eq!(at(LATER, &CarAround { is_final: true, ..waiting.clone() }), ReviewVerdict::Unverifiable);
    assert_eq!(at(LATER, &CarAround { level_before: None, ..waiting.clone() }), ReviewVerdict::Unverifiable);
    assert_eq!(at(LATER, &CarAround { tank_litres: None, ..waiting.clone() }), ReviewVerdict::Unverifiable);
    let elsewhere = Some(Fix { position: north(50_000.0), at: NOW, accuracy_m: None });
    assert_eq!(at(LATER, &CarAround { fix: elsewhere, ..waiting.clone() }), ReviewVerdict::Doubted, "at once");
    assert_eq!(reviewed(&captured(25.0), None).verdict, ReviewVerdict::Unverifiable);
    let mut without = rules();
    without.level_rise.mode = CheckMode::Off;
    let place_only = review(LATER, &purchase(NOW), &captured(25.0), Some(&waiting), &station(), &without);
    assert_eq!(place_only.verdict, ReviewVerdict::Confirmed);
}

#[test]
fn litres_that_cost_more_than_any_litre_does_are_doubted() {
    let of = |amount_minor, litres| {
        let amount = Money { amount_minor, currency: "EUR".into() };
        found(&reviewed(&Captured { amount, allowed_minor: Some(20_000), ..captured(litres) }, Some(&car())), Amount)
    };
    assert_eq!(of(6_400, 20.0), Verdict::Pass);
    assert_eq!(of(6_401, 20.0), Verdict::Fail);
}

#[test]
fn product_odometer_and_amount_are_looked_at_again() {
    let diesel = Captured { product: Some(Product::Diesel), ..captured(25.0) };
    assert_eq!(reviewed(&diesel, Some(&car())).verdict, ReviewVerdict::Doubted);
    let mistyped = Captured { odometer_km: Some(8_211.0), ..captured(25.0) };
    let review = reviewed(&mistyped, Some(&car()));
    assert_eq!((found(&review, Odometer), review.verdict), (Fail, ReviewVerdict::Confirmed), "people mistype");
    for (amount_minor, currency, allowed_minor, expected) in [
        (10_000, "EUR", Some(10_000), Pass),
        (10_001, "EUR", Some(10_000), Fail),
        (10_001, "EUR", None, Unknown),
        (10_001, "USD", Some(10_000), Unknown),
    ] {
        let amount = Money { amount_minor, currency: currency.into() };
        let captured = Captured { amount, allowed_minor, ..captured(50.0) };
        assert_eq!(found(&reviewed(&captured, Some(&car())), Amount), expected, "{amount_minor} {currency}");
    }
    let charge = Captured { product: Some(Product::Electricity), ..captured(25.0) };
    assert_eq!(found(&reviewed(&charge, Some(&car())), LevelRise), Unknown, "that is not in the tank");
}

#[test]
fn a_shadowed_or_warning_check_doubts_nothing() {
    let nothing_rose = CarAround { level_after: level(25.0, NOW.plus_ms(5 * MIN)), ..car() };
    let with = |change: fn(&mut Rules)| {
        let mut rules = rules();
        change(&mut rules);
        review(LATER, &purchase(NOW), &captured(25.0), Some(&nothing_rose), &station(), &rules).verdict
    };
    assert_eq!(with(|_| ()), ReviewVerdict::Doubted);
    assert_eq!(with(|rules| rules.level_rise.mode = CheckMode::Shadow), ReviewVerdict::Confirmed, "it was there");
    assert_eq!(with(|rules| rules.level_rise.fail = FailPolicy::Warn), ReviewVerdict::Unverifiable);
}

/// Seconds from the purchase, speed, ignition, level, odometer.
type Row = (i64, Option<f64>, Option<&'static str>, Option<f64>, Option<f64>);

fn around(rows: &[Row], previous: Option<i64>) -> CarAround {
    let points = rows.iter().map(|(second, speed, ignition, level, km)| {
        let number = |name, value: &Option<f64>| value.map(|value| (name, SignalValue::Number(value)));
        let signals = [
            number(path::SPEED_KMH, speed),
            number(path::FUEL_PERCENT, level),
            number(path::ODOMETER_KM, km),
            ignition.map(|state| (path::LOW_VOLTAGE, SignalValue::Text(state.into()))),
        ];
        (NOW.plus_ms(second * SEC), signals.into_iter().flatten().collect::<Vec<_>>())
    });
    let about = AboutCar {
        vehicle_id: vehicle("V1"),
        tank_litres: Some(50.0),
        fuel_type: None,
        previous_at: previous.map(|second| NOW.plus_ms(second * SEC)),
        is_final: false,
    };
    CarAround::from_track(about, NOW, points)
}

fn levels(rows: &[Row]) -> (Option<f64>, Option<f64>) {
    let car = around(rows, None);
    (car.level_before.map(|level| level.percent), car.level_after.map(|level| level.percent))
}

const DRIVES: (Option<f64>, Option<&str>) = (Some(50.0), Some("ON"));
const PARKED: (Option<f64>, Option<&str>) = (Some(0.0), Some("OFF"));
const READY: (Option<f64>, Option<&str>) = (Some(0.0), Some("ON"));

fn row(second: i64, (speed, ignition): (Option<f64>, Option<&'static str>), level: f64) -> Row {
    (second, speed, ignition, Some(level), None)
}

#[test]
fn a_track_gives_the_level_before_and_after_a_fill_with_the_engine_off() {
    let mut rows = vec![row(-600, DRIVES, 40.0), row(-60, PARKED, 25.2), row(-30, PARKED, 25.0)];
    assert_eq!(levels(&rows), (Some(25.0), None));
    rows.push(row(30, PARKED, 25.0));
    rows.push(row(90, PARKED, 50.0));
    assert_eq!(levels(&rows), (Some(25.0), None), "it may still be filling");
    rows.push(row(240, READY, 75.0));
    assert_eq!(levels(&rows), (Some(25.0), Some(75.0)));
    rows.push(row(300, DRIVES, 60.0));
    rows.push(row(900, PARKED, 70.0));
    assert_eq!(levels(&rows), (Some(25.0), Some(75.0)), "what comes later is another story");
}

#[test]
fn a_unit_that_sleeps_tells_the_level_at_the_next_rest() {
    let mut rows: Vec<Row> = vec![
        (-60, Some(0.0), Some("OFF"), Some(25.0), Some(100.0)),
        (5, None, None, Some(25.0), None),
        (300, Some(30.0), Some("ON"), Some(60.0), Some(100.1)),
    ];
    assert_eq!(levels(&rows), (Some(25.0), None), "a moving tank says nothing");
    rows.push((1_200, Some(0.0), Some("OFF"), Some(70.0), Some(120.0)));
    let car = around(&rows, None);
    assert_eq!(car.level_after.map(|level| level.percent), Some(70.0));
    assert_eq!((car.driven_km, car.odometer_km), (Some(20.0), Some(100.0)));
    // Without an odometer nobody knows what was used on the way.
    let blind: Vec<Row> =
        rows.into_iter().map(|(at, speed, ignition, level, _)| (at, speed, ignition, level, None)).collect();
    assert_eq!(levels(&blind), (Some(25.0), None));
}

#[test]
fn with_the_engine_running_the_level_just_before_leaving_counts() {
    let rows = [
        row(-30, READY, 25.0),
        row(-10, READY, 25.0),
        row(120, READY, 60.0),
        row(230, READY, 75.0),
        row(260, DRIVES, 50.0),
    ];
    assert_eq!(levels(&rows), (Some(25.0), Some(75.0)));
}

#[test]
fn after_a_quarter_of_an_hour_a_fill_is_over() {
    let rows = [row(-30, PARKED, 25.0), row(899, PARKED, 75.0)];
    assert_eq!(levels(&rows), (Some(25.0), None));
    assert_eq!(levels(&[rows[0], row(900, PARKED, 75.0)]), (Some(25.0), Some(75.0)));
}

#[test]
fn whoever_pays_inside_has_filled_before() {
    let rows = [row(-600, PARKED, 25.0), row(-200, PARKED, 75.0), row(-10, PARKED, 75.0), row(60, READY, 75.0)];
    assert_eq!(levels(&rows), (Some(25.0), Some(75.0)));
    let second = around(&rows, Some(-300));
    assert_eq!(second.level_before.map(|level| level.percent), Some(75.0), "that rise was paid for before");
}

#[test]
fn points_come_in_any_order_and_the_nearest_fix_counts() {
    let at = |second: i64, north_m: f64| {
        let place = north(north_m);
        let signals = vec![
            (path::LATITUDE.to_owned(), SignalValue::Number(place.latitude)),
            (path::LONGITUDE.to_owned(), SignalValue::Number(place.longitude)),
        ];
        (NOW.plus_ms(second * SEC), signals)
    };
    let about = || AboutCar {
        vehicle_id: vehicle("V1"),
        tank_litres: None,
        fuel_type: None,
        previous_at: None,
        is_final: true,
    };
    let car = CarAround::from_track(about(), NOW, [at(90, 900.0), at(-20, 10.0), at(-300, 5_000.0)]);
    let fix = car.fix.expect("a fix");
    assert_eq!((fix.at, fix.position), (ago(20 * SEC), north(10.0)));
    assert!(car.is_final);
    let empty: [(Timestamp, Vec<(String, SignalValue)>); 0] = [];
    assert_eq!(CarAround::from_track(about(), NOW, empty).fix, None);
}

/// A whole story with the noise of real sensors: drive, fill, drive.
#[test]
fn noise_as_measured_on_real_cars_leads_to_no_doubt() {
    let seed = 0x5eed_u64;
    println!("SEED={seed}");
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31) * 2.0 - 1.0
    };
    for story in 0..200 {
        let (from, to) = (20.0 + next() * 15.0, 70.0 + next() * 15.0);
        let mut rows = Vec::new();
        for second in (-900..1_500).step_by(15) {
            let is_moving = !(-60..=300).contains(&second);
            let true_level = if second < 60 {
                from
            } else if second < 180 {
                from + (to - from) * (second - 60) as f64 / 120.0
            } else {
                to
            };
            let swing = if is_moving { 37.0 } else { 0.4 };
            let level = (true_level + next() * swing).clamp(0.0, 91.0);
            let state = match (is_moving, (-40..240).contains(&second)) {
                (true, _) => DRIVES,
                (false, true) => PARKED,
                (false, false) => READY,
            };
            rows.push(row(second, state, level));
        }
        let car = CarAround { fix: None, ..around(&rows, None) };
        let litres = (to - from) / 100.0 * 50.0;
        let review = reviewed(&captured(litres), Some(&car));
        assert_eq!(found(&review, LevelRise), Pass, "story {story}: {car:?} {litres}");
    }
}
