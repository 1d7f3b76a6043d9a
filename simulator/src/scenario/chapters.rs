//! The chapters of the story, in order.

use std::time::Duration;

use cardea::domain::command::AckStatus;
use cardea::domain::{Function, KeyId, RentalId, VehicleId};
use serde_json::{Value, json};

use super::operator::place;
use super::{HOME, PATIENCE, Stage, card_of};
use crate::car::{CarError, CarHandle};
use crate::failure::Failure;
use crate::phone::{Done, Phone, Requested, VirtualKey};
use crate::route::offset;
use crate::station::{Purchase, Station, Verdict};
use crate::world::Habits;

const HOUR_MS: i64 = 3_600_000;
/// Between two acts of everyday life.
const LULL: Duration = Duration::from_secs(15);

/// A renter with a phone, a key and a car.
struct Renter {
    name: &'static str,
    phone: Phone,
    key: VirtualKey,
    car: usize,
}

pub(super) async fn tell(stage: &mut Stage) -> Result<(), Failure> {
    going_online(stage).await?;
    let anna = cabin_key(stage).await?;
    let ben = drive_key(stage).await?;
    lock_parked_car(stage).await?;
    disable_moving_car(stage).await?;
    if stage.network.is_some() {
        honest_purchase(stage, &ben).await?;
        fraud(stage, &ben).await?;
    } else {
        stage.tell.chapter("No --stripe-secret was given, so nobody buys fuel.");
    }
    works_offline(stage, &anna).await?;
    end_of_rental(stage, anna).await?;
    stage.tell.chapter("That was the story: every answer was as the contract says.");
    Ok(())
}

fn expect(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(Failure::failed(otherwise())) }
}

async fn going_online(stage: &Stage) -> Result<(), Failure> {
    let tell = stage.tell;
    tell.chapter("The cars come online, each with its own certificate.");
    for car in &stage.cars {
        car.wait_connected(PATIENCE).await?;
        car.wait_facts_taken(PATIENCE).await?;
    }
    tell.says(format!("{} cars connect over mutual TLS and report their start", stage.cars.len()));
    for car in &stage.cars {
        let is_online = |twin: &Value| twin["link"]["state"] == "online" && place(twin).is_some();
        stage.operator.wait_twin(car.vehicle_id(), "online with a place", PATIENCE, is_online).await?;
    }
    tell.answers("the gateway has stored every start report (event_ack) and shows all cars online");
    Ok(())
}

async fn rent(stage: &Stage, name: &'static str, car: usize, profile: &str) -> Result<Renter, Failure> {
    let api_key = stage.operator.new_renter_key(name).await?;
    let phone = Phone::new(stage.operator.http.with_key(Some(api_key)));
    let vehicle_id = stage.cars[car].vehicle_id();
    let now = cardea::clock::Clock::start().now();
    stage.tell.says(format!("{name}'s phone asks to use {vehicle_id} for an hour under the profile \"{profile}\""));
    match phone.request(vehicle_id, profile, now, now.plus_ms(HOUR_MS), None).await? {
        Requested::Granted(key) => {
            stage.tell.answers(format!("granted, key {}; it permits {}", key.key_id, key.permits.join(", ")));
            stage.tell.answers(format!("it prohibits {}", key.prohibits.join(", ")));
            expect(!key.prohibits.is_empty(), || format!("key {} prohibits nothing", key.key_id))?;
            stage.cars[car].wait_granted(key.key_id, PATIENCE).await?;
            stage.tell.answers("the car has the same grant and has acknowledged it");
            Ok(Renter { name, phone, key, car })
        }
        Requested::Waiting { request_id, state } => {
            Err(Failure::failed(format!("request {request_id} of {name} is {state}, not granted at once")))
        }
        Requested::Refused { status, problem } => {
            Err(Failure::failed(format!("{name} may not use {vehicle_id}: {status} {problem}")))
        }
    }
}

async fn unlock(stage: &Stage, renter: &Renter) -> Result<(), Failure> {
    let car = &stage.cars[renter.car];
    stage.tell.says(format!("{} taps \"unlock\" on the phone", renter.name));
    match renter.phone.ask(renter.key.key_id, Function::UnlockDoors, PATIENCE).await? {
        Done::Command { state, .. } => {
            stage.tell.answers(format!("the command {state}"));
            expect(state == "succeeded", || format!("unlocking {} ended as {state}", car.vehicle_id()))?;
        }
        Done::Forbidden => return Err(Failure::failed("unlocking was forbidden though the key permits it")),
    }
    car.wait_for("unlocked", PATIENCE, |state| !state.unit.world().is_locked).await?;
    stage.tell.answers("the car's doors are open");
    Ok(())
}

/// What the car itself says to whoever holds a key to it.
async fn at_the_car(car: &CarHandle, key_id: KeyId, function: Function) -> Result<Result<(), String>, Failure> {
    match car.use_key(key_id, function).await {
        Ok(()) => Ok(Ok(())),
        Err(CarError::Denied { denial, .. }) => Ok(Err(denial.to_string())),
        Err(other) => Err(other.into()),
    }
}

async fn cabin_key(stage: &Stage) -> Result<Renter, Failure> {
    stage.tell.chapter("Anna waits for a friend and wants to sit in a car, not drive it.");
    let anna = rent(stage, "anna", 0, "cabin").await?;
    unlock(stage, &anna).await?;
    stage.tell.says("anna's phone tries to start the engine with that key");
    let answer = anna.phone.ask(anna.key.key_id, Function::Drive, PATIENCE).await?;
    expect(matches!(answer, Done::Forbidden), || format!("driving was not forbidden: {answer:?}"))?;
    stage.tell.answers("403 forbidden: the key prohibits driving");
    let car = &stage.cars[anna.car];
    stage.tell.says("anna holds the phone to the car itself and asks it to drive");
    match at_the_car(car, anna.key.key_id, Function::Drive).await? {
        Err(reason) => stage.tell.answers(format!("the car refuses: {reason}")),
        Ok(()) => return Err(Failure::failed("the car let a cabin key drive")),
    }
    Ok(anna)
}

async fn drive_key(stage: &Stage) -> Result<Renter, Failure> {
    stage.tell.chapter("Ben rents a car to drive.");
    let ben = rent(stage, "ben", 1, "drive").await?;
    unlock(stage, &ben).await?;
    let car = &stage.cars[ben.car];
    stage.tell.says("ben starts the engine with the key and drives off");
    at_the_car(car, ben.key.key_id, Function::Drive)
        .await?
        .map_err(|reason| Failure::failed(format!("the car refuses ben: {reason}")))?;
    car.set_driving(true).await?;
    let moves = |twin: &Value| twin["signals"]["Vehicle.Speed"]["value"].as_f64().is_some_and(|kmh| kmh > 0.0);
    stage.operator.wait_twin(car.vehicle_id(), "moving", PATIENCE, moves).await?;
    stage.tell.answers(format!("{} moves, the gateway sees it", car.vehicle_id()));
    Ok(ben)
}

async fn lock_parked_car(stage: &Stage) -> Result<(), Failure> {
    let car = &stage.cars[2];
    stage.tell.chapter("The operator locks a parked car.");
    stage.tell.says(format!("orders {} to lock and waits for the outcome", car.vehicle_id()));
    let command = stage.operator.order(car.vehicle_id(), &json!({"type": "lock"}), Some(PATIENCE)).await?;
    expect(command.state == "succeeded", || format!("the lock ended as {} {:?}", command.state, command.reason))?;
    expect(car.executions(command.command_id) == 1, || "the car did not execute the lock exactly once".into())?;
    stage.tell.answers("succeeded: the car said so, and executed it once");
    Ok(())
}

async fn disable_moving_car(stage: &Stage) -> Result<(), Failure> {
    let car = &stage.cars[3];
    let vehicle_id = car.vehicle_id();
    stage.tell.chapter("A car must not be used any more, but it is moving.");
    car.set_driving(true).await?;
    let is_on = |twin: &Value| twin["signals"]["Vehicle.Speed"]["value"].as_f64().is_some_and(|kmh| kmh > 0.0);
    stage.operator.wait_twin(vehicle_id, "moving", PATIENCE, is_on).await?;
    stage.tell.says(format!("orders {vehicle_id}, at {:.0} km/h, to disable driving", speed_kmh(car)));
    let order = json!({"type": "disable_function", "function": "drive"});
    let command = stage.operator.order(vehicle_id, &order, None).await?;
    stage.operator.wait_state(command.command_id, "pending_safe", PATIENCE).await?;
    stage.tell.answers("pending_safe: nothing that stops a car is done to a moving one");
    expect(car.state().unit.is_drive_enabled(), || "the car was disabled while it moved".into())?;
    stage.tell.says("the driver parks and switches off");
    car.ignition(false).await?;
    stage.operator.wait_state(command.command_id, "succeeded", PATIENCE).await?;
    expect(!car.state().unit.is_drive_enabled(), || "the gateway says disabled, the car does not".into())?;
    stage.tell.answers("succeeded: now the car cannot be started");
    expect(car.set_driving(true).await.is_err(), || "a disabled car drove off".into())?;
    stage.tell.says("the operator enables it again");
    let order = json!({"type": "enable_function", "function": "drive"});
    let command = stage.operator.order(vehicle_id, &order, Some(PATIENCE)).await?;
    expect(command.state == "succeeded", || format!("enabling ended as {}", command.state))?;
    stage.tell.answers("succeeded");
    Ok(())
}

fn speed_kmh(car: &CarHandle) -> f64 {
    car.state().unit.world().speed_kmh()
}

/// Brings a car to a pump and waits until the gateway knows.
async fn pull_up(stage: &Stage, car: &CarHandle, station: &Station) -> Result<(), Failure> {
    car.ignition(false).await?;
    car.move_to(offset(station.position, 8.0, -5.0)).await?;
    let is_there = |twin: &Value| {
        let stands = twin["signals"]["Vehicle.Speed"]["value"].as_f64() == Some(0.0);
        stands && place(twin).is_some_and(|place| place.distance_m(station.position) < 50.0)
    };
    Ok(stage.operator.wait_twin(car.vehicle_id(), "at the station", PATIENCE, is_there).await?)
}

async fn pay(stage: &Stage, vehicle_id: &VehicleId, station: &Station, amount_minor: i64) -> Result<Verdict, Failure> {
    let network = stage.network.as_ref().ok_or_else(|| Failure::failed("no payment network"))?;
    Ok(network.authorize(&Purchase::at(station, &card_of(vehicle_id), amount_minor)).await?)
}

async fn honest_purchase(stage: &Stage, ben: &Renter) -> Result<(), Failure> {
    let (car, station) = (&stage.cars[ben.car], &stage.stations[0]);
    stage.tell.chapter("Ben buys fuel with the car's card.");
    // A network's times are whole seconds, so a purchase must not fall into the second the rental began in.
    let odometer_km = car.state().unit.world().odometer_km();
    let has_driven = |state: &crate::car::CarState| state.unit.world().odometer_km() > odometer_km + 0.02;
    car.wait_for("on its way", PATIENCE, has_driven).await?;
    car.set_fuel_percent(35.0).await?;
    pull_up(stage, car, station).await?;
    stage.tell.says(format!("the card of {} is read at {}, EUR 60.00 are reserved", car.vehicle_id(), station.name));
    let verdict = pay(stage, car.vehicle_id(), station, 6_000).await?;
    let decision = shown_decision(stage, &verdict).await?;
    expect(verdict.approved, || format!("an honest purchase was declined: {decision}"))?;
    stage.tell.answers(format!("approved in {:.1} ms: {decision}", verdict.took.as_secs_f64() * 1e3));
    car.refuel(30.0).await?;
    car.wait_facts_taken(PATIENCE).await?;
    stage.tell.says("30 litres go in; the car reports the rise of its own tank");
    Ok(())
}

async fn fraud(stage: &Stage, ben: &Renter) -> Result<(), Failure> {
    let (car, station) = (&stage.cars[ben.car], &stage.stations[3]);
    stage.tell.chapter("Somebody uses the same card 500 km away.");
    stage.tell.says(format!("the card of {} is read at {}", car.vehicle_id(), station.name));
    let verdict = pay(stage, car.vehicle_id(), station, 6_000).await?;
    let decision = shown_decision(stage, &verdict).await?;
    expect(!verdict.approved, || format!("a fraud was approved: {decision}"))?;
    stage.tell.answers(format!("declined in {:.1} ms: {decision}", verdict.took.as_secs_f64() * 1e3));
    let alerts = stage.operator.alerts().await?;
    let of_car = |alert: &&Value| alert["vehicle_id"] == car.vehicle_id().as_str();
    let alert = alerts.iter().find(of_car).ok_or_else(|| Failure::failed("the fraud opened no alert"))?;
    let said = alert["text"].as_str().or(alert["kind"].as_str()).unwrap_or("an alert");
    stage.tell.answers(format!("the operator is alerted: {said}"));
    Ok(())
}

/// The checks of a decision in one line, when the answer names the decision.
async fn shown_decision(stage: &Stage, verdict: &Verdict) -> Result<String, Failure> {
    let id = verdict.metadata.get("decision_id").or_else(|| verdict.metadata.get("cardea_decision_id"));
    let Some(id) = id.and_then(Value::as_str) else { return Ok("no decision id in the answer".into()) };
    let decision = stage.operator.decision(id).await?;
    let checks = decision["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = checks
        .iter()
        .map(|check| {
            let text = |field: &str| check[field].as_str().unwrap_or("?");
            let detail = if text("verdict") == "pass" { String::new() } else { format!(" ({})", text("detail")) };
            format!("{} {}{detail}", text("check"), text("verdict"))
        })
        .collect();
    Ok(shown.join(", "))
}

async fn works_offline(stage: &Stage, anna: &Renter) -> Result<(), Failure> {
    let car = &stage.cars[anna.car];
    stage.tell.chapter("Anna's car is in a garage without reception.");
    car.cut_link().await?;
    let is_offline = |twin: &Value| twin["link"]["state"] == "offline";
    stage.operator.wait_twin(car.vehicle_id(), "offline", PATIENCE, is_offline).await?;
    stage.tell.says("the gateway shows the car offline; anna locks it by holding the phone to it");
    at_the_car(car, anna.key.key_id, Function::LockDoors)
        .await?
        .map_err(|reason| Failure::failed(format!("the car refuses anna offline: {reason}")))?;
    stage.tell.answers("the car permits it by itself");
    let order = json!({"type": "locate", "ttl_s": 120});
    let command = stage.operator.order(car.vehicle_id(), &order, None).await?;
    stage.tell.says(format!("the operator orders it to blink meanwhile; the command is {}", command.state));
    car.restore_link().await?;
    stage.operator.wait_state(command.command_id, "succeeded", PATIENCE).await?;
    car.wait_facts_taken(PATIENCE).await?;
    let said = car.acks().iter().filter(|ack| ack.status == AckStatus::Succeeded).count();
    expect(car.executions(command.command_id) == 1, || format!("executed not once; {said} successes"))?;
    stage.tell.answers("back online: the command was delivered and done once, the use of the key is on record");
    Ok(())
}

async fn end_of_rental(stage: &Stage, anna: Renter) -> Result<(), Failure> {
    let car = &stage.cars[anna.car];
    stage.tell.chapter("Anna ends her rental.");
    let rental_id: RentalId = anna.key.rental_id;
    let state = anna.phone.end(rental_id).await?;
    stage.tell.says(format!("the rental is {state}"));
    let key_id = anna.key.key_id;
    car.wait_for("rid of the key", PATIENCE, |state| state.unit.keyring().grant(key_id).is_none()).await?;
    match at_the_car(car, key_id, Function::UnlockDoors).await? {
        Err(reason) => stage.tell.answers(format!("the key opens nothing any more: {reason}")),
        Ok(()) => return Err(Failure::failed("a key opened the car after its rental ended")),
    }
    Ok(())
}

/// Small things that happen in a fleet, for as long as somebody watches. Ends only with a failure.
pub(super) async fn everyday_life(stage: &mut Stage) -> Result<(), Failure> {
    for car in &stage.cars {
        let habits = Some(Habits { trip_s: (60.0, 300.0), pause_s: (10.0, 60.0) });
        car.act(crate::unit::Act::Habits(habits)).await?;
    }
    loop {
        tokio::time::sleep(LULL).await;
        let car = stage.dice.below(stage.cars.len());
        let vehicle_id = stage.cars[car].vehicle_id().clone();
        // Whatever the gateway answers now is shown, not judged: it may be stopped or changed while this runs.
        let outcome = match stage.dice.below(3) {
            0 if stage.network.is_some() => {
                let station = stage.stations[stage.dice.below(3)].clone();
                pay(stage, &vehicle_id, &station, 5_000).await.map(|verdict| {
                    let answer = if verdict.approved { "approved" } else { "declined" };
                    format!("the card of {vehicle_id} is read at {}: {answer}", station.name)
                })
            }
            _ => stage
                .operator
                .order(&vehicle_id, &json!({"type": "locate"}), Some(Duration::from_secs(5)))
                .await
                .map(|command| format!("{vehicle_id} is asked to blink: {}", command.state))
                .map_err(Failure::from),
        };
        let near = place_of(&stage.cars[car]);
        match outcome {
            Ok(sentence) => stage.tell.says(format!("{sentence} ({near:.1} km from home)")),
            Err(failure) => stage.tell.says(format!("no answer for {vehicle_id}: {failure}")),
        }
    }
}

fn place_of(car: &CarHandle) -> f64 {
    car.state().unit.world().position().distance_m(HOME) / 1000.0
}
