//! The simulator's car at a test gateway.

use cardea_simulator::car::{Car, CarHandle, CarOptions};
use cardea_simulator::identity::Credentials;

use super::{Gateway, PATIENCE};

/// A car with a certificate of the gateway's fleet, connected and seen online.
pub async fn connect(gateway: &Gateway, vehicle: &str) -> CarHandle {
    connect_with(gateway, vehicle, |_| {}).await
}

pub async fn connect_with(gateway: &Gateway, vehicle: &str, adjust: impl FnOnce(&mut CarOptions)) -> CarHandle {
    let car = start(gateway, vehicle, adjust);
    car.wait_connected(PATIENCE).await.expect("the car connects");
    super::until("the gateway sees the car online", async || gateway.is_online(vehicle).await).await;
    car
}

/// A car that tries to connect; the gateway may not be there yet.
pub fn start(gateway: &Gateway, vehicle: &str, adjust: impl FnOnce(&mut CarOptions)) -> CarHandle {
    let credentials = Credentials::load(&gateway.enroll(vehicle)).expect("the car's certificate");
    let mqtt = gateway.mqtt.to_string().parse().expect("an address");
    let mut options = CarOptions::new(credentials, mqtt, vehicle.parse().expect("an id"));
    options.telemetry_interval = std::time::Duration::from_millis(100);
    adjust(&mut options);
    Car::start(options).expect("the car starts")
}
