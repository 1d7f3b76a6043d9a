//! Writes the honest stories, and picks the hand for each kind. The same seed and number give the same story.

use super::directory::{Directory, Pump};
use super::kinds::Kind;
use super::misuse;
use super::scene::{FILL_S, Scene, Wish};
use super::story::{Posted, Prompts, Story, UseOfCar, VehicleNumber};
use crate::route::offset;

/// Classes of the stories' cars; the rules for them are in `rules`.
pub mod class {
    /// No rental is asked for: cars with a driver of their own. Their past can be told in any length.
    pub const POOL: &str = "pool";
    /// A minute of the rules' thresholds is a second, so that a silence of eight fits into a story.
    pub const HURRIED: &str = "hurried";
    /// The hours are open now by the station's local time, and closed by UTC.
    pub const EDGE: &str = "edge";
    /// The hours are closed now.
    pub const CLOSED: &str = "closed";
}

pub const HOUR_S: f64 = 3_600.0;

pub fn write(kind: Kind, number: usize, seed: u64, town: &Directory) -> Story {
    let mut scene = Scene::open(kind, number, seed, town);
    if kind.misuse().is_some() {
        misuse::tell(kind, &mut scene);
    } else {
        tell(kind, &mut scene);
    }
    scene.close(kind, number, seed)
}

fn tell(kind: Kind, scene: &mut Scene<'_>) {
    match kind {
        Kind::WithinGrace => return within_grace(scene),
        Kind::UnderCanopy => return under_canopy(scene),
        Kind::CarOffline => return car_offline(scene),
        Kind::AfterTunnel => return after_tunnel(scene),
        Kind::NetworkClockSkew => return network_clock_skew(scene),
        Kind::DoubleSwipe => return double_swipe(scene),
        Kind::LongTrip => return long_trip(scene),
        Kind::MistypedOdometer | Kind::NumericPump => return with_prompts(kind, scene),
        Kind::CardJustMoved => return card_just_moved(scene),
        Kind::AdblueWithDiesel => return adblue_with_diesel(scene),
        Kind::LateCapture => return late_capture(scene),
        Kind::CaptureFirst => return capture_first(scene),
        Kind::GivenBack => return given_back(scene),
        Kind::OfflineBatch => return offline_batch(scene),
        Kind::PaidAtDesk => return paid_at_desk(scene),
        Kind::BrokenReceiver => return broken_receiver(scene),
        _ => {}
    }
    // The others are plain fills of another car, or at another place.
    match kind {
        Kind::StaffUse => scene.use_of_car = UseOfCar::Running("service"),
        Kind::CarClockSkew => scene.clock_skew_s = if scene.dice.chance(0.5) { 30.0 } else { -30.0 },
        Kind::TopUp => scene.level = scene.dice.between(84.0, 92.0),
        Kind::MotorwayStation => pick(scene, &scene.town.motorway),
        Kind::PlaceholderPosition => pick(scene, &scene.town.placeholders),
        Kind::UnknownStation => pick(scene, &scene.town.unlisted),
        Kind::NoisyTankSensor => {
            scene.car.sensor.moving_sigma = scene.dice.between(5.4, 8.0);
            scene.car.sensor.step = 2.0;
        }
        Kind::SensorTopsOut => {
            scene.car.sensor.tops_out = 91.0;
            scene.car.sensor.step = 1.0;
        }
        Kind::TimeZoneEdge => scene.car.class = class::EDGE,
        Kind::DepotPump => {
            scene.use_of_car = UseOfCar::Running("service");
            scene.move_to(&scene.town.depot);
        }
        Kind::TankUnknown => scene.car.hides_tank = true,
        _ => {}
    }
    scene.arrive();
    let litres = match kind {
        Kind::TopUp => scene.free_litres() * scene.dice.between(0.6, 1.0),
        Kind::SensorTopsOut => scene.free_litres(),
        _ => scene.usual_litres(),
    };
    scene.buy(Wish { litres, into_tank: litres });
    if kind == Kind::RepeatedCapture {
        scene.repeat_last_post(3.0 + FILL_S + 18.0);
        scene.repeat_last_post(3.0 + FILL_S + 20.0);
    }
}

fn pick(scene: &mut Scene<'_>, pumps: &[Pump]) {
    let choice = scene.dice.below(pumps.len());
    scene.move_to(&pumps[choice]);
}

/// The rental is ended at the pump, then the renter pays for what they owe.
fn within_grace(scene: &mut Scene<'_>) {
    scene.arrive();
    scene.end_rental(1.0);
    let litres = scene.usual_litres();
    let by = scene.ask(5.0, 5.0, litres);
    let litres = scene.affordable(litres);
    scene.after_answer(by, litres, litres);
}

/// The last fix is of the way in, 40 m before.
fn under_canopy(scene: &mut Scene<'_>) {
    let (pump, before) = (scene.pump.place, scene.dice.between(30.0, 50.0));
    scene.drive(0.0, offset(pump, before, 0.0), 3_000.0, -70.0);
    scene.has_fix = false;
    scene.stand(0.0, pump, -60.0, -8.0, true);
    scene.ignition(0.0, -6.0, false);
    let litres = scene.usual_litres();
    scene.buy(Wish { litres, into_tank: litres });
}

/// Eight seconds of silence are eight minutes to these rules; the unit sends what it kept when it is back.
fn car_offline(scene: &mut Scene<'_>) {
    scene.car.class = class::HURRIED;
    scene.arrive();
    let litres = scene.usual_litres();
    let by = scene.ask(9.0, 9.0, litres);
    let litres = scene.affordable(litres);
    scene.fill(litres, by);
    let end_s = 10.0 + FILL_S;
    scene.set_off(end_s + 12.0, end_s + 1.0);
    scene.drive_on(end_s + 13.0, end_s + 9.0);
    scene.capture(end_s + 16.0, end_s, by, litres);
}

fn after_tunnel(scene: &mut Scene<'_>) {
    let (pump, metres) = (scene.pump.place, scene.dice.between(4_000.0, 5_500.0));
    scene.drive(0.0, offset(pump, metres, 0.0), 4_000.0, -240.0);
    let litres = scene.usual_litres();
    scene.buy(Wish { litres, into_tank: litres });
}

/// The question is two minutes late, and dated in whole seconds.
fn network_clock_skew(scene: &mut Scene<'_>) {
    scene.car.class = class::POOL;
    let (pump, late_s) = (scene.pump.place, scene.dice.between(60.0, 120.0));
    scene.drive(0.0, pump, 3_000.0, -late_s - 25.0);
    scene.stand(0.0, pump, -late_s - 22.0, -late_s - 8.0, true);
    scene.ignition(0.0, -late_s - 5.0, false);
    let litres = scene.usual_litres();
    let by = scene.ask(2.0, -late_s, litres);
    let litres = scene.affordable(litres);
    scene.fill(litres, by);
    scene.set_off(6.0, -late_s + 45.0);
    scene.drive_on(9.0, 6.0);
    scene.capture(14.0, -late_s + 40.0, by, litres);
}

/// The terminal heard no answer and asks again; one fill, one capture.
fn double_swipe(scene: &mut Scene<'_>) {
    scene.arrive();
    let (litres, amount) = (scene.usual_litres(), 10_000);
    let planned = ((litres * scene.price) as i64).min(amount);
    scene.ask_for(2.0, 2.0, amount, true, planned, Prompts::default());
    let by = scene.ask_for(6.0, 6.0, amount, true, planned, Prompts::default());
    let litres = scene.affordable(litres);
    scene.fill(litres, by);
    let end_s = 7.0 + FILL_S;
    scene.set_off(end_s + 8.0, end_s + 1.0);
    scene.drive_on(end_s + 13.0, end_s + 9.0);
    scene.capture(end_s + 16.0, end_s, by, litres);
}

fn long_trip(scene: &mut Scene<'_>) {
    scene.car.class = class::POOL;
    // A question more than an hour old is not believed.
    let began_s = -scene.dice.between(50.0, 57.0) * 60.0;
    let (first, first_litres) = (scene.pump.place, scene.dice.between(18.0, 24.0));
    scene.drive(0.0, first, 3_000.0, began_s - 25.0);
    scene.stand(0.0, first, began_s - 22.0, began_s - 8.0, true);
    scene.ignition(0.0, began_s - 5.0, false);
    let by = scene.ask(2.0, began_s, first_litres);
    scene.fill(first_litres, by);
    scene.set_off(6.0, began_s + 200.0);
    scene.capture(9.0, began_s + 190.0, by, first_litres);
    scene.lose((scene.level - 8.0).max(0.0) * 0.8);
    let next = scene.town.away_from(first, 30e3, 65e3, &mut scene.dice).clone();
    scene.move_to(&next);
    scene.drive(11.0, next.place, 30_000.0, -20.0);
    scene.stand(11.0, next.place, -18.0, -6.0, true);
    scene.ignition(11.0, -4.0, false);
    scene.report(11.0, -3.0, next.place, 0.0, false);
    let litres = scene.usual_litres();
    let by = scene.ask(14.0, 14.0, litres);
    let litres = scene.affordable(litres);
    scene.fill(litres, by);
    let end_s = 15.0 + FILL_S;
    scene.set_off(end_s + 8.0, end_s + 1.0);
    scene.drive_on(end_s + 13.0, end_s + 9.0);
    scene.capture(end_s + 16.0, end_s, by, litres);
}

fn with_prompts(kind: Kind, scene: &mut Scene<'_>) {
    scene.arrive();
    let odometer = scene.odometer_km();
    let typed = match (kind, scene.dice.below(3)) {
        (Kind::NumericPump, _) => odometer,
        (_, 0) => odometer - scene.dice.between(200.0, 3_000.0).round(),
        (_, 1) => odometer * 10.0,
        _ => odometer + 3_300.0,
    };
    let prompts = Prompts {
        odometer_km: Some(typed.max(0.0)),
        driver_id: None,
        vehicle_number: Some(if kind == Kind::NumericPump { VehicleNumber::Digits } else { VehicleNumber::Right }),
    };
    let litres = scene.usual_litres();
    let planned = ((litres * scene.price) as i64).min(12_500);
    let by = scene.ask_for(2.0, 2.0, 12_500, true, planned, prompts);
    let litres = scene.affordable(litres);
    scene.after_answer(by, litres, litres);
}

/// The operator bound the card to the next car too early.
fn card_just_moved(scene: &mut Scene<'_>) {
    scene.arrive();
    scene.move_card(1.0);
    let litres = scene.usual_litres();
    let by = scene.ask(5.0, 5.0, litres);
    let litres = scene.affordable(litres);
    scene.after_answer(by, litres, litres);
}

fn adblue_with_diesel(scene: &mut Scene<'_>) {
    scene.arrive();
    let adblue = scene.dice.between(6.0, 14.0);
    let end_s = 3.0 + FILL_S;
    if scene.dice.chance(0.5) {
        // Both within what was asked for.
        let litres = scene.usual_litres().min(15_000.0 / scene.price - adblue - 1.0);
        let planned = ((litres + adblue) * scene.price).ceil() as i64;
        let by = scene.ask_for(2.0, 2.0, 15_000, true, planned, Prompts::default());
        scene.after_answer(by, litres, litres);
        // Before the diesel, or after it.
        let due_s = end_s + if scene.dice.chance(0.5) { 15.5 } else { 16.5 };
        scene.post(due_s, end_s, Some(by), Some(adblue), Some("adblue"));
    } else {
        // Nothing goes into the fuel tank.
        let by = scene.ask(2.0, 2.0, adblue);
        scene.set_off(end_s + 8.0, end_s + 1.0);
        scene.drive_on(end_s + 13.0, end_s + 9.0);
        scene.post(end_s + 16.0, end_s, Some(by), Some(adblue), Some("adblue"));
    }
}

/// The capture comes when a good part of the fuel is burnt, dated as the fill.
fn late_capture(scene: &mut Scene<'_>) {
    scene.car.class = class::POOL;
    let (pump, began_s) = (scene.pump.place, -scene.dice.between(45.0, 57.0) * 60.0);
    scene.drive(0.0, pump, 3_000.0, began_s - 25.0);
    scene.stand(0.0, pump, began_s - 22.0, began_s - 8.0, true);
    scene.ignition(0.0, began_s - 5.0, false);
    let litres = scene.usual_litres();
    let by = scene.ask(2.0, began_s, litres);
    let litres = scene.affordable(litres);
    scene.fill(litres, by);
    scene.set_off(5.0, began_s + 240.0);
    scene.drive_on(6.0, began_s + 250.0);
    let home = offset(pump, 40e3, 10e3);
    scene.lose(30.0);
    scene.drive(8.0, home, 20_000.0, -60.0);
    scene.stand(8.0, home, -55.0, -5.0, true);
    scene.capture(14.0, began_s + 230.0, by, litres);
}

/// The network stood in for us; its question comes after the money was taken.
fn capture_first(scene: &mut Scene<'_>) {
    scene.arrive();
    let litres = scene.usual_litres().min(52.0);
    let end_s = 3.0 + FILL_S;
    scene.fill(litres, 0);
    scene.set_off(end_s + 8.0, end_s + 1.0);
    scene.capture(end_s + 12.0, end_s, 0, litres);
    let planned = (litres * scene.price) as i64;
    scene.ask_for(end_s + 15.0, 2.0, planned.max(10_000), true, planned, Prompts::default());
    scene.drive_on(end_s + 18.0, end_s + 9.0);
}

fn given_back(scene: &mut Scene<'_>) {
    scene.arrive();
    let by = scene.ask(2.0, 2.0, 40.0);
    scene.set_off(12.0, 10.0);
    scene.drive_on(18.0, 17.0);
    let post = scene.post(20.0, 12.0, Some(by), None, None);
    post.what = Posted::Reversal;
    post.amount_minor = 0;
}

fn offline_batch(scene: &mut Scene<'_>) {
    scene.arrive();
    let litres = scene.usual_litres();
    let end_s = 3.0 + FILL_S;
    scene.fill(litres, 0);
    scene.set_off(end_s + 8.0, end_s + 1.0);
    scene.drive_on(end_s + 13.0, end_s + 9.0);
    let product = scene.car.fuel;
    scene.post(end_s + 16.0, end_s, None, Some(litres), Some(product));
}

/// Filled first, paid inside: the exact amount, and the tank is full when the card is read.
fn paid_at_desk(scene: &mut Scene<'_>) {
    scene.arrive();
    let litres = scene.usual_litres().min(60.0);
    scene.fill(litres, 0);
    let place = scene.pump.place;
    if scene.dice.chance(0.5) {
        // Some units wake while filling and tell the new level at rest.
        scene.stand(FILL_S, place, 3.0, FILL_S - 1.0, false);
    }
    let amount = (litres * scene.price).round() as i64;
    // Planned 0: what is in the tank stays there, whatever the answer.
    let by = scene.ask_for(FILL_S + 4.0, FILL_S + 4.0, amount, false, 0, Prompts::default());
    scene.set_off(FILL_S + 12.0, FILL_S + 6.0);
    scene.drive_on(FILL_S + 16.0, FILL_S + 13.0);
    scene.capture(FILL_S + 20.0, FILL_S + 4.0, by, litres);
}

/// On its way the receiver jumps into the ocean and stays there.
fn broken_receiver(scene: &mut Scene<'_>) {
    let pump = scene.pump.place;
    scene.drive(0.0, offset(pump, 900.0, 0.0), 4_000.0, -80.0);
    scene.stuck_at = Some(cardea::domain::Position { latitude: pump.latitude, longitude: -31.5 });
    scene.drive(0.0, pump, 900.0, -22.0);
    scene.stand(0.0, pump, -20.0, -8.0, true);
    scene.ignition(0.0, -6.0, false);
    let litres = scene.usual_litres();
    scene.buy(Wish { litres, into_tank: litres });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::card_quality::kinds::KINDS;
    use crate::bench::card_quality::story::Act;

    #[test]
    fn the_same_seed_tells_the_same_story() {
        let town = Directory::new(5, "t");
        for about in &KINDS {
            let tell = |seed| format!("{:?}", write(about.kind, 3, seed, &town));
            assert_eq!(tell(5), tell(5), "{}", about.name);
            assert_ne!(tell(5), tell(6), "{}", about.name);
        }
    }

    #[test]
    fn every_story_ends_within_a_minute_and_holds_what_its_label_says() {
        for seed in 0..20 {
            let town = Directory::new(seed, "t");
            for about in &KINDS {
                let story = write(about.kind, 1, seed, &town);
                assert!(story.steps.iter().all(|step| step.due_s < 60.0), "{}", about.name);
                assert!(story.steps.is_sorted_by(|one, other| one.due_s <= other.due_s), "{}", about.name);
                let asks = || {
                    story.steps.iter().filter_map(|step| match &step.act {
                        Act::Ask(ask) => Some(ask),
                        _ => None,
                    })
                };
                let has_misuse = asks().any(|ask| ask.is_misuse);
                assert_eq!(has_misuse, about.misuse.is_some(), "{}", about.name);
                assert!(asks().all(|ask| ask.amount_minor > 0 && ask.at_s <= 60.0), "{}", about.name);
                let reports = story.steps.iter().filter(|step| matches!(step.act, Act::Report(_))).count();
                assert!(reports < 150, "{}: the gate lets no car say {reports} things at once", about.name);
            }
        }
    }
}
