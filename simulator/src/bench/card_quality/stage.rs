//! What must exist before a story begins: stations, the car with its card, and who has it.

use cardea::domain::{RentalId, Timestamp, VehicleId};
use serde_json::json;

use super::directory::Directory;
use super::story::{Story, UseOfCar};
use crate::failure::Failure;
use crate::http_client::{Answer, HttpClient, HttpError};
use crate::phone::{Phone, Requested};

/// Has every car that anybody has.
pub const RENTER: &str = "story";
const RENTAL_MS: i64 = 2 * 3_600_000;

/// A story's names at the gateway.
#[derive(Debug, Clone)]
pub struct Cast {
    pub vehicle_id: VehicleId,
    pub card_id: String,
    pub card_ref: String,
    /// As it stands on the car; the card expects it at pumps that ask.
    pub plate: String,
    pub rental_id: Option<RentalId>,
}

pub async fn register_stations(http: &HttpClient, town: &Directory) -> Result<usize, Failure> {
    let mut listed = 0;
    for entry in town.all().filter_map(super::directory::Pump::entry) {
        made(http.post("/v1/stations", &entry).await?)?;
        listed += 1;
    }
    Ok(listed)
}

pub async fn register(http: &HttpClient, story: &Story, tag: &str, now: Timestamp) -> Result<Cast, Failure> {
    let vehicle_id = vehicle(http, story, &format!("Q{tag}-{:04}", story.number)).await?;
    let cast = Cast {
        card_id: format!("card-{vehicle_id}"),
        card_ref: format!("ref-{vehicle_id}"),
        plate: plate(story.number),
        rental_id: rent(http, story, &vehicle_id, now).await?,
        vehicle_id,
    };
    let card = json!({
        "card_id": cast.card_id,
        "network_ref": cast.card_ref,
        "vehicle_id": cast.vehicle_id,
        "status": if story.card_is_suspended { "suspended" } else { "active" },
        "prompts": {"vehicle_number": cast.plate},
    });
    made(http.post("/v1/cards", &card).await?)?;
    Ok(cast)
}

/// `GX 042 QA`: the digits are not another car's.
fn plate(number: usize) -> String {
    format!("GX {:03} Q{}", number % 1000, char::from(b'A' + (number / 1000 % 26) as u8))
}

async fn vehicle(http: &HttpClient, story: &Story, name: &str) -> Result<VehicleId, Failure> {
    let vehicle_id: VehicleId = name.parse()?;
    let mut body = json!({
        "vehicle_id": vehicle_id,
        "fuel_type": story.car.fuel,
        "class": story.car.class,
        "lending": {"profiles": ["drive", "service"], "windows": [], "max_minutes": 1440, "approval": "auto"},
    });
    if !story.car.hides_tank {
        body["tank_litres"] = story.car.tank_litres.into();
    }
    made(http.post("/v1/vehicles", &body).await?)?;
    Ok(vehicle_id)
}

async fn rent(
    http: &HttpClient,
    story: &Story,
    vehicle_id: &VehicleId,
    now: Timestamp,
) -> Result<Option<RentalId>, Failure> {
    let UseOfCar::Running(profile) = story.use_of_car else { return Ok(None) };
    let phone = Phone::new(http.clone());
    match phone.request(vehicle_id, profile, now, now.plus_ms(RENTAL_MS), Some(RENTER)).await? {
        Requested::Granted(key) => Ok(Some(key.rental_id)),
        Requested::Waiting { state, .. } => Err(Failure::failed(format!("{vehicle_id}: the request is {state}"))),
        Requested::Refused { problem, .. } => Err(Failure::failed(format!("{vehicle_id}: not rented: {problem}"))),
    }
}

pub async fn end_rental(http: &HttpClient, rental_id: RentalId) -> Result<(), HttpError> {
    http.post(&format!("/v1/rentals/{rental_id}/end"), &json!({})).await?.must_be(&[200, 202]).map(drop)
}

/// Binds the story's card to another car, which has a rental of its own.
pub async fn move_card(http: &HttpClient, story: &Story, cast: &Cast, now: Timestamp) -> Result<(), Failure> {
    let other = vehicle(http, story, &format!("{}-b", cast.vehicle_id)).await?;
    rent(http, story, &other, now).await?;
    let change = json!({"vehicle_id": other});
    http.patch(&format!("/v1/cards/{}", cast.card_id), &change).await?.must_be(&[200])?;
    Ok(())
}

fn made(answer: Answer) -> Result<(), HttpError> {
    answer.must_be(&[200, 201]).map(drop)
}
