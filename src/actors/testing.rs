//! What unit tests of actors and edges start from: a fleet over a given store, with edges that only record.

use std::sync::{Arc, Mutex};

use actix::prelude::*;

use super::feed::{AlertChanged, CommandChanged, VehicleChanged};
use super::fleet::{FleetHandle, Mint, Parts};
use super::peers::Peers;
use super::vehicle::SendToCar;
use crate::clock::Clock;
use crate::config;
use crate::domain::key::Profile;
use crate::domain::vehicle::Rules;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// Takes what the fleet sends to cars and consoles.
#[derive(Clone, Default)]
pub struct Recorder {
    pub to_cars: Arc<Mutex<Vec<SendToCar>>>,
    pub commands: Arc<Mutex<Vec<CommandChanged>>>,
    pub vehicles: Arc<Mutex<Vec<VehicleChanged>>>,
    pub alerts: Arc<Mutex<Vec<AlertChanged>>>,
}

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<SendToCar> for Recorder {
    type Result = ();

    fn handle(&mut self, message: SendToCar, _: &mut Context<Self>) {
        self.to_cars.lock().unwrap().push(message);
    }
}

impl Handler<VehicleChanged> for Recorder {
    type Result = ();

    fn handle(&mut self, message: VehicleChanged, _: &mut Context<Self>) {
        self.vehicles.lock().unwrap().push(message);
    }
}

impl Handler<AlertChanged> for Recorder {
    type Result = ();

    fn handle(&mut self, message: AlertChanged, _: &mut Context<Self>) {
        self.alerts.lock().unwrap().push(message);
    }
}

impl Handler<CommandChanged> for Recorder {
    type Result = ();

    fn handle(&mut self, message: CommandChanged, _: &mut Context<Self>) {
        self.commands.lock().unwrap().push(message);
    }
}

/// The rules of [`fleet`].
pub fn rules() -> Rules {
    Rules {
        profiles: Profile::built_in(),
        max_key_ms: 48 * 3_600_000,
        lock_ttl_ms: 300_000,
        command_ttl_ms: 3_600_000,
        max_ttl_ms: 86_400_000,
    }
}

/// A fleet on the running actix system. Its one console is attached, so that changes are recorded.
pub fn fleet(store: Arc<dyn Store>, clock: Clock) -> (FleetHandle, Recorder) {
    fleet_of(&config::Fleet::default(), store, clock)
}

pub fn fleet_of(config: &config::Fleet, store: Arc<dyn Store>, clock: Clock) -> (FleetHandle, Recorder) {
    fleet_minting(
        config,
        store,
        clock,
        Arc::new(|grant, vehicle, holder, _| format!("token-{}-{vehicle}-{holder}", grant.key_id)),
    )
}

pub fn fleet_minting(
    config: &config::Fleet,
    store: Arc<dyn Store>,
    clock: Clock,
    mint: Mint,
) -> (FleetHandle, Recorder) {
    fleet_among(None, config, store, clock, mint)
}

/// One of several gateways.
pub fn fleet_among(
    peers: Option<Arc<dyn Peers>>,
    config: &config::Fleet,
    store: Arc<dyn Store>,
    clock: Clock,
    mint: Mint,
) -> (FleetHandle, Recorder) {
    let recorder = Recorder::default();
    let addr = recorder.clone().start();
    let parts = Parts {
        store,
        clock,
        rules: rules(),
        mint,
        outbound: addr.clone().recipient(),
        vehicles_feed: addr.clone().recipient(),
        commands_feed: addr.clone().recipient(),
        alerts_feed: addr.recipient(),
        audience: Arc::new(1.into()),
        telemetry: Telemetry::default(),
        peers,
    };
    let fleet = FleetHandle::start(config, parts).expect("the fleet starts");
    (fleet, recorder)
}
