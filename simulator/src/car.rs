//! A car on the network: its unit, and the MQTT link that carries what the unit says.
//!
//! Tests and stories start one, act on it and wait for what it comes to know:
//! `Car::start(CarOptions::new(credentials, mqtt, vehicle_id))?.wait_connected(deadline).await?`.
//! All that is decided is decided in `unit`; here is only the carrying.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::command::Ack;
use cardea::domain::{CommandId, Function, Functions, KeyId, Position, Timestamp, VehicleId};
use cardea::token::Keyset;
use rumqttc::QoS;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::car_link::CarLink;
use crate::est::Renewal;
use crate::identity::{Credentials, IdentityError};
use crate::local_link::LocalLink;
use crate::unit::{Act, ActDenial, Unit, UnitSpec};
use crate::world::{Door, Habits, World};

/// Where the gateway listens for cars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttAddress {
    pub host: String,
    pub port: u16,
}

impl FromStr for MqttAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("an address is HOST:PORT")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
        if host.is_empty() {
            return Err("an address is HOST:PORT".into());
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for MqttAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How a car is and where it calls. The public fields have defaults fit for tests.
#[derive(Debug, Clone)]
pub struct CarOptions {
    pub vehicle_id: VehicleId,
    pub credentials: Credentials,
    pub mqtt: MqttAddress,
    pub telemetry_interval: Duration,
    pub telemetry_qos: QoS,
    pub capabilities: Functions,
    pub firmware: String,
    pub tank_litres: f64,
    pub position: Position,
    /// Of the world: traffic, fuel at the start, jitter.
    pub seed: u64,
    /// How long an actuator takes; zero answers `succeeded` at once.
    pub execution_time: Duration,
    pub keep_alive: Duration,
    pub first_retry: Duration,
    pub longest_retry: Duration,
    pub connect_timeout: Duration,
    pub habits: Option<Habits>,
    /// Renews its certificate by itself; none = never.
    pub renewal: Option<Renewal>,
}

impl CarOptions {
    pub fn new(credentials: Credentials, mqtt: MqttAddress, vehicle_id: VehicleId) -> Self {
        Self {
            vehicle_id,
            credentials,
            mqtt,
            telemetry_interval: Duration::from_secs(1),
            telemetry_qos: QoS::AtLeastOnce,
            capabilities: Functions::ALL,
            firmware: concat!("cardea-simulator ", env!("CARGO_PKG_VERSION")).into(),
            tank_litres: 50.0,
            position: Position { latitude: 45.07, longitude: 7.68 },
            seed: 1,
            execution_time: Duration::ZERO,
            keep_alive: Duration::from_secs(30),
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            habits: None,
            renewal: None,
        }
    }

    fn unit(&self, now: Timestamp) -> Unit {
        let spec = UnitSpec {
            vehicle_id: self.vehicle_id.clone(),
            capabilities: self.capabilities,
            firmware: self.firmware.clone(),
            tank_litres: self.tank_litres,
            telemetry_interval_ms: as_ms(self.telemetry_interval),
            execution_ms: as_ms(self.execution_time),
        };
        let mut world = World::parked_at(now, self.position, self.tank_litres, self.seed);
        world.set_habits(now, self.habits);
        Unit::boot(now, spec, world)
    }
}

fn as_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What can be seen of a car from outside while it runs.
#[derive(Debug)]
pub struct CarState {
    pub link: LinkView,
    pub unit: Unit,
}

#[derive(Debug, Clone, Default)]
pub struct LinkView {
    /// Connected and subscribed to its commands.
    pub is_connected: bool,
    pub connections: u64,
    pub failures: u64,
    /// Messages that did not fit into the link's queue.
    pub dropped: u64,
    pub last_error: Option<String>,
    /// Certificates it got by itself.
    pub renewals: u64,
}

pub(crate) enum Control {
    Act(Act, oneshot::Sender<Result<(), ActDenial>>),
    /// Drops the TCP connection without a word, and stays away until restored.
    CutLink(oneshot::Sender<()>),
    RestoreLink(oneshot::Sender<()>),
    /// Says DISCONNECT and ends.
    Stop(oneshot::Sender<()>),
}

#[derive(Debug, thiserror::Error)]
pub enum CarError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{0} has ended")]
    Ended(VehicleId),
    #[error("{vehicle_id}: not {what} within {within:?}; {seen}")]
    TimedOut { vehicle_id: VehicleId, what: String, within: Duration, seen: String },
    #[error("{vehicle_id} refuses: {denial}")]
    Denied { vehicle_id: VehicleId, denial: ActDenial },
}

pub struct Car;

impl Car {
    /// Powers a car; it connects by itself and keeps trying. Call [`crate::identity::install_crypto`] before.
    pub fn start(options: CarOptions) -> Result<CarHandle, CarError> {
        let tls = options.credentials.tls_client(true)?;
        let clock = Clock::start();
        let unit = options.unit(clock.now());
        let (state, seen) = watch::channel(CarState { link: LinkView::default(), unit });
        let (controls, inbox) = mpsc::channel(16);
        let vehicle_id = options.vehicle_id.clone();
        let task = tokio::spawn(CarLink::new(options, tls, clock, state, inbox).run());
        Ok(CarHandle { vehicle_id, controls, state: seen, task })
    }
}

/// A running car. Dropping it is pulling the plug: no DISCONNECT, everything in the unit is lost.
pub struct CarHandle {
    vehicle_id: VehicleId,
    controls: mpsc::Sender<Control>,
    state: watch::Receiver<CarState>,
    task: JoinHandle<()>,
}

impl CarHandle {
    pub fn vehicle_id(&self) -> &VehicleId {
        &self.vehicle_id
    }

    /// The car as it is now. Hold the guard briefly: the car waits for it.
    pub fn state(&self) -> watch::Ref<'_, CarState> {
        self.state.borrow()
    }

    /// Waits until the car is as `what` says; the error tells how it was instead.
    pub async fn wait_for(
        &self,
        what: &str,
        within: Duration,
        is_so: impl FnMut(&CarState) -> bool,
    ) -> Result<(), CarError> {
        let mut state = self.state.clone();
        let waited = tokio::time::timeout(within, state.wait_for(is_so)).await.map(|ended| ended.map(drop));
        match waited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(CarError::Ended(self.vehicle_id.clone())),
            Err(_) => Err(CarError::TimedOut {
                vehicle_id: self.vehicle_id.clone(),
                what: what.into(),
                within,
                seen: self.summary(),
            }),
        }
    }

    fn summary(&self) -> String {
        let state = self.state();
        let unit = &state.unit;
        format!(
            "connected {}, last error {:?}, {} commands, last ack {:?}, {} facts waiting, ignition {}, {:.0} km/h",
            state.link.is_connected,
            state.link.last_error,
            unit.counters().received,
            unit.acks().next_back().map(|ack| ack.status),
            unit.facts().len(),
            unit.world().is_ignition_on(),
            unit.world().speed_kmh(),
        )
    }

    pub async fn wait_connected(&self, within: Duration) -> Result<(), CarError> {
        self.wait_for("connected", within, |state| state.link.is_connected).await
    }

    pub async fn wait_disconnected(&self, within: Duration) -> Result<(), CarError> {
        self.wait_for("disconnected", within, |state| !state.link.is_connected).await
    }

    /// Waits for the final outcome of a command in the car.
    pub async fn wait_finished(&self, command_id: CommandId, within: Duration) -> Result<Ack, CarError> {
        let what = format!("done with command {command_id}");
        self.wait_for(&what, within, |state| state.unit.has_finished(command_id)).await?;
        self.state().unit.outcome(command_id).cloned().ok_or_else(|| CarError::Ended(self.vehicle_id.clone()))
    }

    pub async fn wait_granted(&self, key_id: KeyId, within: Duration) -> Result<(), CarError> {
        let what = format!("holding key {key_id}");
        self.wait_for(&what, within, |state| state.unit.keyring().grant(key_id).is_some()).await
    }

    /// Waits until the gateway has taken every fact (`event_ack`).
    pub async fn wait_facts_taken(&self, within: Duration) -> Result<(), CarError> {
        self.wait_for("rid of its facts", within, |state| state.unit.facts().is_empty()).await
    }

    pub async fn act(&self, act: Act) -> Result<(), CarError> {
        let (reply, answer) = oneshot::channel();
        let ended = || CarError::Ended(self.vehicle_id.clone());
        self.controls.send(Control::Act(act, reply)).await.map_err(|_| ended())?;
        answer
            .await
            .map_err(|_| ended())?
            .map_err(|denial| CarError::Denied { vehicle_id: self.vehicle_id.clone(), denial })
    }

    /// True drives along the route, moving at once; false stops at once with the ignition on.
    pub async fn set_driving(&self, drives: bool) -> Result<(), CarError> {
        self.act(Act::Drive(drives)).await
    }

    /// False parks at once: standing, ignition off.
    pub async fn ignition(&self, on: bool) -> Result<(), CarError> {
        self.act(Act::Ignition(on)).await
    }

    pub async fn move_to(&self, position: Position) -> Result<(), CarError> {
        self.act(Act::MoveTo(position)).await
    }

    pub async fn refuel(&self, litres: f64) -> Result<(), CarError> {
        self.act(Act::Refuel { litres }).await
    }

    pub async fn set_fuel_percent(&self, percent: f64) -> Result<(), CarError> {
        self.act(Act::SetFuelPercent(percent)).await
    }

    pub async fn door(&self, door: Door, open: bool) -> Result<(), CarError> {
        self.act(Act::Door(door, open)).await
    }

    pub async fn fuel_card(&self, present: bool) -> Result<(), CarError> {
        self.act(Act::FuelCard(present)).await
    }

    /// What happens when somebody holds this key to the car and asks for a function.
    pub async fn use_key(&self, key_id: KeyId, function: Function) -> Result<(), CarError> {
        self.act(Act::UseKey(key_id, function)).await
    }

    /// Opens the local link for phones at the car; `keyset` is the fleet's, as the unit was provisioned with it.
    pub async fn listen_locally(&self, address: SocketAddr, keyset: Option<Keyset>) -> std::io::Result<LocalLink> {
        LocalLink::listen(address, self.vehicle_id.clone(), keyset, self.controls.clone()).await
    }

    async fn control(&self, control: impl FnOnce(oneshot::Sender<()>) -> Control) -> Result<(), CarError> {
        let (done, is_done) = oneshot::channel();
        let ended = || CarError::Ended(self.vehicle_id.clone());
        self.controls.send(control(done)).await.map_err(|_| ended())?;
        is_done.await.map_err(|_| ended())
    }

    /// Drops the TCP connection without DISCONNECT and stays offline until [`Self::restore_link`].
    pub async fn cut_link(&self) -> Result<(), CarError> {
        self.control(Control::CutLink).await
    }

    pub async fn restore_link(&self) -> Result<(), CarError> {
        self.control(Control::RestoreLink).await
    }

    /// Says DISCONNECT and powers off.
    pub async fn stop(self) -> Result<(), CarError> {
        self.control(Control::Stop).await?;
        self.task.await.map_err(|_| CarError::Ended(self.vehicle_id.clone()))
    }

    pub fn executions(&self, command_id: CommandId) -> u32 {
        self.state().unit.commands().executions(command_id)
    }

    pub fn acks(&self) -> Vec<Ack> {
        self.state().unit.acks().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_with_names_and_both_kinds_of_numbers() {
        for (text, host, port) in
            [("127.0.0.1:8883", "127.0.0.1", 8883), ("[::1]:1", "::1", 1), ("localhost:80", "localhost", 80)]
        {
            assert_eq!(text.parse(), Ok(MqttAddress { host: host.into(), port }));
        }
        for text in ["", ":1", "host", "host:", "host:99999"] {
            assert!(text.parse::<MqttAddress>().is_err(), "{text}");
        }
    }
}
