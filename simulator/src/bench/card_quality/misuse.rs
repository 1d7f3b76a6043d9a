//! Writes the stories of misuse. Each is as near to an honest purchase as its kind allows.

use super::author::{HOUR_S, class};
use super::kinds::Kind;
use super::scene::{FILL_S, Scene, Wish};
use super::story::{Prompts, UseOfCar, VehicleNumber};
use crate::route::offset;

pub fn tell(kind: Kind, scene: &mut Scene<'_>) {
    match kind {
        Kind::SkimmedElsewhere => skimmed_elsewhere(scene),
        Kind::SkimmedCarSilent => skimmed_car_silent(scene),
        Kind::AfterRental => after_rental(scene),
        Kind::NoRental => no_rental(scene),
        Kind::SplitPurchase => split_purchase(scene, 3),
        Kind::ManyPurchases => split_purchase(scene, 8),
        Kind::CarMoving => car_moving(scene),
        Kind::ImpossibleTravel => impossible_travel(scene),
        Kind::WrongPrompt => wrong_prompt(scene),
        Kind::CardTaken => card_taken(scene),
        Kind::OtherMerchant => other_merchant(scene),
        Kind::ShopGoodsUnnamed => shop_goods_unnamed(scene),
        Kind::SiphonedMuch | Kind::SiphonedLittle => siphoned(kind, scene),
        Kind::DoubleCapture | Kind::InflatedAmount | Kind::InflatedPrice | Kind::WrongFuel => {
            falsely_captured(kind, scene)
        }
        _ => falsely_filled(kind, scene),
    }
}

/// The car does something else, far away, while the card buys.
fn elsewhere(scene: &mut Scene<'_>, metres: f64, due_s: f64, from_s: f64, until_s: f64) {
    let bearing = scene.dice.between(0.0, std::f64::consts::TAU);
    let place = offset(scene.pump.place, bearing.cos() * metres, bearing.sin() * metres);
    scene.drive(due_s, place, 2_500.0, from_s - 2.0);
    scene.stand(due_s, place, from_s, until_s, true);
}

fn skimmed_elsewhere(scene: &mut Scene<'_>) {
    let metres = scene.dice.between(20e3, 300e3);
    elsewhere(scene, metres, 0.0, -30.0, 0.0);
    let litres = scene.usual_litres();
    let by = scene.ask(2.0, 2.0, litres);
    scene.mark_misuse();
    let litres = scene.affordable(litres);
    scene.capture(20.0, 15.0, by, litres);
}

/// Last heard of hours ago; when it comes back its level has not risen, and it was never there.
fn skimmed_car_silent(scene: &mut Scene<'_>) {
    let (metres, ago_s) = (scene.dice.between(30e3, 200e3), scene.dice.between(1.0, 5.0) * HOUR_S);
    let place = offset(scene.pump.place, metres, 0.0);
    scene.drive(0.0, place, 2_500.0, -ago_s - 10.0);
    scene.stand(0.0, place, -ago_s, -ago_s + 20.0, true);
    scene.ignition(0.0, -ago_s + 25.0, false);
    let litres = scene.usual_litres().clamp(20.0, 45.0);
    let by = scene.ask(2.0, 2.0, litres);
    scene.mark_misuse();
    let litres = scene.affordable(litres);
    scene.ignition(20.0, 18.0, true);
    scene.stand(20.0, place, 18.5, 23.0, true);
    scene.capture(27.0, 14.0, by, litres);
}

/// The rental is over and the car stands at home; to these rules every second counts for a minute.
fn after_rental(scene: &mut Scene<'_>) {
    scene.car.class = class::HURRIED;
    let metres = scene.dice.between(3e3, 30e3);
    let home = offset(scene.pump.place, metres, 0.0);
    scene.drive(0.0, home, 2_500.0, -32.0);
    scene.stand(0.0, home, -30.0, -8.0, true);
    scene.ignition(0.0, -6.0, false);
    scene.report(0.0, -5.0, home, 0.0, false);
    scene.end_rental(1.0);
    let litres = scene.usual_litres();
    let by = scene.ask(7.0, 7.0, litres);
    scene.mark_misuse();
    let litres = scene.affordable(litres);
    scene.capture(24.0, 20.0, by, litres);
}

/// Nobody has rented it; half of them take the car along.
fn no_rental(scene: &mut Scene<'_>) {
    scene.use_of_car = UseOfCar::None;
    if scene.dice.chance(0.5) {
        scene.arrive();
    } else {
        let metres = scene.dice.between(1e3, 6e3);
        elsewhere(scene, metres, 0.0, -30.0, 0.0);
    }
    let litres = scene.usual_litres();
    scene.buy(Wish { litres, into_tank: litres });
    scene.mark_misuse();
}

/// The first one goes into the car; the others, each small, do not.
fn split_purchase(scene: &mut Scene<'_>, purchases: i32) {
    scene.arrive();
    let first = scene.dice.between(14.0, 18.0);
    let by = scene.ask_for(2.0, 2.0, 4_000, true, (first * scene.price) as i64, Prompts::default());
    scene.fill(first, by);
    let mut bought = vec![(by, first)];
    for more in 1..purchases {
        let at_s = 3.0 + 1.5 * f64::from(more);
        let litres = scene.dice.between(14.0, 18.0);
        let amount = 4_000 - i64::from(more) * 100;
        scene.merchant.terminal_id = format!("P{}", 4 + more);
        let by =
            scene.ask_for(at_s, at_s, amount, true, ((litres * scene.price) as i64).min(amount), Prompts::default());
        scene.mark_misuse();
        bought.push((by, litres));
    }
    let end_s = 14.0 + FILL_S;
    scene.set_off(end_s + 2.0, end_s - 6.0);
    for (by, litres) in bought {
        scene.capture(end_s + 8.0, end_s - 8.0, by, litres);
    }
}

/// It passes the station at 60 km/h, and another car is filled.
fn car_moving(scene: &mut Scene<'_>) {
    let place = scene.pump.place;
    scene.drive(0.0, offset(place, 150.0, 0.0), 3_000.0, -3.0);
    for step in 0..5_i32 {
        let at_s = f64::from(step) - 2.0;
        scene.report(at_s.max(0.0), at_s, offset(place, 120.0 - f64::from(step) * 16.0, 10.0), 60.0, true);
    }
    let litres = scene.usual_litres().clamp(20.0, 50.0);
    let by = scene.ask(2.5, 2.0, litres);
    scene.mark_misuse();
    let litres = scene.affordable(litres);
    for step in 0..5_i32 {
        let at_s = 3.0 + f64::from(step);
        scene.report(8.0, at_s, offset(place, -f64::from(step) * 16.0, 10.0), 60.0, true);
    }
    scene.stand(20.0, offset(place, -400.0, 0.0), 12.0, 19.0, true);
    scene.capture(26.0, 18.0, by, litres);
}

/// An honest purchase, and half an hour later one 300 km away while the car says nothing.
fn impossible_travel(scene: &mut Scene<'_>) {
    scene.car.class = class::POOL;
    let (first, began_s) = (scene.pump.place, -1_800.0);
    scene.drive(0.0, first, 3_000.0, began_s - 25.0);
    scene.stand(0.0, first, began_s - 22.0, began_s - 8.0, true);
    scene.ignition(0.0, began_s - 5.0, false);
    let litres = scene.dice.between(15.0, 22.0);
    let by = scene.ask(2.0, began_s, litres);
    scene.fill(litres, by);
    scene.set_off(5.0, began_s + 200.0);
    scene.capture(8.0, began_s + 190.0, by, litres);
    let far = scene.town.away_from(first, 150e3, 320e3, &mut scene.dice).clone();
    scene.move_to(&far);
    let litres = scene.dice.between(20.0, 40.0);
    let by = scene.ask(11.0, 11.0, litres);
    scene.mark_misuse();
    let litres = scene.affordable(litres);
    scene.capture(24.0, 20.0, by, litres);
}

fn wrong_prompt(scene: &mut Scene<'_>) {
    scene.arrive();
    let prompts = Prompts {
        odometer_km: Some(scene.odometer_km()),
        driver_id: None,
        vehicle_number: Some(VehicleNumber::OfAnother),
    };
    let litres = scene.usual_litres();
    let by = scene.ask_for(2.0, 2.0, 12_500, true, ((litres * scene.price) as i64).min(12_500), prompts);
    scene.mark_misuse();
    let litres = scene.affordable(litres);
    scene.after_answer(by, litres, 0.0);
}

/// A car with a driver of its own, parked near by; its holder says that the card is gone.
fn card_taken(scene: &mut Scene<'_>) {
    scene.car.class = class::POOL;
    scene.use_of_car = UseOfCar::None;
    scene.is_card_present = Some(false);
    let place = offset(scene.pump.place, 120.0, 60.0);
    scene.drive(0.0, place, 2_500.0, -1_205.0);
    scene.stand(0.0, place, -1_200.0, -1_190.0, true);
    scene.ignition(0.0, -1_185.0, false);
    scene.stand(0.0, place, -60.0, -5.0, false);
    let litres = scene.usual_litres();
    scene.buy(Wish { litres, into_tank: 0.0 });
    scene.mark_misuse();
}

fn other_merchant(scene: &mut Scene<'_>) {
    scene.arrive();
    scene.merchant.mcc = ["5411", "5999", "5812", "7538"][scene.dice.below(4)];
    scene.merchant.network_id = format!("SHOP-{}", scene.dice.below(900) + 100);
    scene.merchant.name = "Emporio".into();
    let amount = 1_500 + scene.dice.below(7_000) as i64;
    let by = scene.ask_for(2.0, 2.0, amount, false, amount, Prompts::default());
    scene.mark_misuse();
    scene.set_off(12.0, 8.0);
    scene.post(24.0, 15.0, Some(by), None, Some("other")).amount_minor = amount;
}

/// One amount at a station, without litres and without a product.
fn shop_goods_unnamed(scene: &mut Scene<'_>) {
    scene.arrive();
    let amount = 2_500 + scene.dice.below(5_000) as i64;
    let by = scene.ask_for(2.0, 2.0, amount, false, amount, Prompts::default());
    scene.mark_misuse();
    scene.set_off(12.0, 8.0);
    scene.post(24.0, 15.0, Some(by), None, None).amount_minor = amount;
}

/// The level falls at rest with ignition off, after all was right.
fn siphoned(kind: Kind, scene: &mut Scene<'_>) {
    scene.arrive();
    let litres = scene.usual_litres().max(0.4 * scene.car.tank_litres);
    scene.buy(Wish { litres, into_tank: litres });
    scene.mark_misuse();
    let home = offset(scene.pump.place, 250.0, 0.0);
    let from_s = 3.0 + FILL_S + 17.0;
    scene.ignition(from_s + 1.0, from_s, false);
    scene.stand(from_s + 2.0, home, from_s, from_s + 1.0, false);
    scene.lose(if kind == Kind::SiphonedMuch { 28.0 } else { 3.0 });
    scene.stand(from_s + 10.0, home, from_s + 6.0, from_s + 9.0, false);
    scene.ignition(from_s + 12.0, from_s + 11.0, true);
    scene.stand(from_s + 14.0, home, from_s + 11.5, from_s + 14.0, true);
}

/// A right purchase that is wrongly booked.
fn falsely_captured(kind: Kind, scene: &mut Scene<'_>) {
    scene.arrive();
    let litres = match kind {
        Kind::InflatedPrice => scene.dice.between(14.0, 22.0).min(scene.free_litres()),
        _ => scene.usual_litres().max(0.35 * scene.car.tank_litres),
    };
    let by = scene.ask(2.0, 2.0, litres);
    scene.mark_misuse();
    let litres = scene.affordable(litres);
    let end_s = 3.0 + FILL_S;
    scene.fill(litres, by);
    scene.set_off(end_s + 8.0, end_s + 1.0);
    scene.drive_on(end_s + 13.0, end_s + 9.0);
    let wrong = if scene.car.fuel == "diesel" { "petrol" } else { "diesel" };
    let post = scene.capture(end_s + 16.0, end_s, by, litres);
    match kind {
        Kind::WrongFuel => post.product = Some(wrong),
        Kind::InflatedPrice => {
            // Few enough litres that the sum stays within what was allowed.
            post.scales = false;
            post.amount_minor = 9_900;
        }
        Kind::InflatedAmount => {
            post.scales = false;
            post.amount_minor = 15_000 + post.amount_minor / 2;
        }
        _ => {
            scene.capture(end_s + 17.0, end_s, by, litres);
        }
    }
}

/// What is paid for does not all go into this car; or should not be bought at all.
fn falsely_filled(kind: Kind, scene: &mut Scene<'_>) {
    match kind {
        Kind::SuspendedCard => scene.card_is_suspended = true,
        Kind::OutsideHours => scene.car.class = class::CLOSED,
        Kind::TankFull => scene.level = scene.dice.between(97.0, 100.0),
        _ => {}
    }
    scene.arrive();
    let tank = scene.car.tank_litres;
    let wish = match kind {
        Kind::JerrycanLarge => {
            let into_tank = tank * scene.dice.between(0.15, 0.3);
            Wish { litres: into_tank + tank * scene.dice.between(0.22, 0.35), into_tank }
        }
        Kind::JerrycanSmall => {
            let into_tank = tank * scene.dice.between(0.25, 0.4);
            Wish { litres: into_tank + tank * scene.dice.between(0.05, 0.07), into_tank }
        }
        Kind::SecondCar => Wish { litres: tank * scene.dice.between(0.3, 0.8), into_tank: 0.0 },
        Kind::ShopGoodsAsFuel => Wish { litres: tank * scene.dice.between(0.18, 0.4), into_tank: 0.0 },
        Kind::TankFull => Wish { litres: tank * scene.dice.between(0.3, 0.8), into_tank: 0.0 },
        _ => {
            let litres = scene.usual_litres();
            Wish { litres, into_tank: litres }
        }
    };
    scene.buy(wish);
    scene.mark_misuse();
}
