//! The fleet's operator: what is registered, asked and looked up with an admin's or operator's API key.

use std::time::Duration;

use cardea::domain::{CommandId, Position, VehicleId};
use serde_json::{Value, json};

use crate::http_client::{HttpClient, HttpError};
use crate::station::Station;
use crate::stopwatch::Stopwatch;

/// How often a state is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Operator {
    pub http: HttpClient,
}

/// A command as the gateway tells it.
#[derive(Debug, Clone)]
pub struct CommandView {
    pub command_id: CommandId,
    pub state: String,
    pub reason: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("command {command_id} is {seen:?}, not {wanted:?}, after {within:?}")]
    NotReached { command_id: CommandId, wanted: String, seen: String, within: Duration },
    #[error("{vehicle_id}: not {what} after {within:?}; the gateway says {seen}")]
    NotSeen { vehicle_id: VehicleId, what: String, within: Duration, seen: Value },
}

impl Operator {
    /// True when it is new, false when it was known.
    pub async fn register_vehicle(&self, vehicle_id: &VehicleId, tank_litres: f64) -> Result<bool, HttpError> {
        let body = json!({
            "vehicle_id": vehicle_id,
            "name": format!("Car {vehicle_id}"),
            "fuel_type": "petrol",
            "tank_litres": tank_litres,
            "lending": {"profiles": ["cabin", "drive"], "windows": [], "max_minutes": 1440, "approval": "auto"},
        });
        self.make("/v1/vehicles", &body).await
    }

    pub async fn register_card(&self, vehicle_id: &VehicleId, network_ref: &str) -> Result<bool, HttpError> {
        let body = json!({
            "card_id": format!("card-{vehicle_id}"),
            "network_ref": network_ref,
            "vehicle_id": vehicle_id,
            "status": "active",
        });
        self.make("/v1/cards", &body).await
    }

    pub async fn register_station(&self, station: &Station) -> Result<bool, HttpError> {
        self.make("/v1/stations", &station.directory_entry()).await
    }

    async fn make(&self, path: &str, body: &Value) -> Result<bool, HttpError> {
        let answer = self.http.post(path, body).await?.must_be(&[201, 409])?;
        Ok(answer.status == 201)
    }

    /// An API key for a renter, under the name the rentals will carry.
    pub async fn new_renter_key(&self, subject: &str) -> Result<String, HttpError> {
        let body = json!({"name": format!("phone of {subject}"), "role": "renter", "subject": subject});
        let answer = self.http.post("/v1/api-keys", &body).await?.must_be(&[201])?;
        answer.text("/api_key").map(str::to_owned)
    }

    /// Orders and, when `wait` is given, waits for the outcome so long.
    pub async fn order(
        &self,
        vehicle_id: &VehicleId,
        order: &Value,
        wait: Option<Duration>,
    ) -> Result<CommandView, HttpError> {
        let mut path = format!("/v1/vehicles/{vehicle_id}/commands");
        if let Some(wait) = wait {
            path.push_str(&format!("?wait_ms={}", wait.as_millis().min(30_000)));
        }
        let answer = self.http.post(&path, order).await?.must_be(&[200, 202])?;
        read_command(&answer)
    }

    pub async fn command(&self, command_id: CommandId) -> Result<CommandView, HttpError> {
        read_command(&self.http.get(&format!("/v1/commands/{command_id}")).await?.must_be(&[200])?)
    }

    /// Looks until the command is in a state.
    pub async fn wait_state(
        &self,
        command_id: CommandId,
        wanted: &str,
        within: Duration,
    ) -> Result<CommandView, OperatorError> {
        let watch = Stopwatch::start();
        loop {
            let seen = self.command(command_id).await?;
            if seen.state == wanted {
                return Ok(seen);
            }
            if watch.elapsed() > within {
                return Err(OperatorError::NotReached { command_id, wanted: wanted.into(), seen: seen.state, within });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub async fn twin(&self, vehicle_id: &VehicleId) -> Result<Value, HttpError> {
        Ok(self.http.get(&format!("/v1/vehicles/{vehicle_id}")).await?.must_be(&[200])?.body)
    }

    /// Looks until the gateway's picture of the car is as `what` says.
    pub async fn wait_twin(
        &self,
        vehicle_id: &VehicleId,
        what: &str,
        within: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<(), OperatorError> {
        let watch = Stopwatch::start();
        loop {
            let seen = self.twin(vehicle_id).await?;
            if is_so(&seen) {
                return Ok(());
            }
            if watch.elapsed() > within {
                let (vehicle_id, what) = (vehicle_id.clone(), what.to_owned());
                return Err(OperatorError::NotSeen { vehicle_id, what, within, seen });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The record of one decision.
    pub async fn decision(&self, decision_id: &str) -> Result<Value, HttpError> {
        Ok(self.http.get(&format!("/v1/decisions/{decision_id}")).await?.must_be(&[200])?.body)
    }

    pub async fn alerts(&self) -> Result<Vec<Value>, HttpError> {
        let answer = self.http.get("/v1/alerts?limit=100").await?.must_be(&[200])?;
        answer.list("/items").map(<[Value]>::to_vec)
    }
}

/// The place in a twin, when it has one.
pub fn place(twin: &Value) -> Option<Position> {
    let signal = |name: &str| twin["signals"][name]["value"].as_f64();
    Some(Position {
        latitude: signal("Vehicle.CurrentLocation.Latitude")?,
        longitude: signal("Vehicle.CurrentLocation.Longitude")?,
    })
}

fn read_command(answer: &crate::http_client::Answer) -> Result<CommandView, HttpError> {
    Ok(CommandView {
        command_id: answer.parsed("/command_id")?,
        state: answer.text("/state")?.to_owned(),
        reason: answer.body["reason"].as_str().map(str::to_owned),
    })
}
