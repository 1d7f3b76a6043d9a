//! The edge to the cars: MQTT 3.1.1 over mutual TLS.
//!
//! `gate` lets cars in, `session` speaks with one of them, `router` carries messages between sessions and the two ends
//! `inbound` and `outbound`; `bridge` speaks with cars behind somebody else's broker; `topics` and `payload` are what goes
//! over the wire (the simulator uses them too). Everything a car sends is checked here before anybody else sees it; nothing
//! here decides about the business, and nothing here touches the store or HTTP.

mod bridge;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gate;
mod inbound;
pub mod link_log;
pub mod metrics;
mod outbound;
pub mod payload;
mod router;
mod seats;
mod session;
pub mod topics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

pub use bridge::{BridgeMetrics, Ignored};
pub use link_log::{LinkChange, LinkEntry, LinkLog};
pub use metrics::{MqttMetrics, Reason};

use crate::actors::vehicle::{FromCar, SendToCar, TellError};
use crate::certs::Certs;
use crate::clock::Clock;
use crate::config;
use crate::domain::VehicleId;
use crate::metrics::{Pulses, Turns};
use bridge::Bridge;
use gate::Shared;
use outbound::Outbound;
use router::{Parts, Slot};

/// How the edge tells a vehicle's actor something. Called from the gate's threads, so it must not wait.
pub type Tell = Arc<dyn Fn(&VehicleId, FromCar) -> Result<(), TellError> + Send + Sync>;

/// The edge to the cars did not come up; nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the gate's threads do not start: {0}")]
    Runtime(std::io::Error),
    #[error("a router does not start: {0}")]
    Router(String),
    #[error("cannot listen for cars on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{key}: {problem}")]
    Bridge { key: &'static str, problem: String },
}

/// The running edge. Dropping it ends it at once; [`MqttHandle::shutdown`] does so in good order.
pub struct MqttHandle {
    shared: Arc<Shared>,
    /// `None` only while dropping.
    runtime: Option<Runtime>,
    outbound: Addr<Outbound>,
    arbiter: Arbiter,
    listener: Option<(SocketAddr, JoinHandle<()>)>,
    bridge: Option<JoinHandle<()>>,
}

/// Starts routers and the way out to the cars, within a running actix system; no car can connect before
/// [`MqttHandle::listen`]. `tell` may be called from then on.
pub fn start(
    config: &config::Mqtt,
    certs: Arc<Certs>,
    tell: Tell,
    clock: Clock,
    pulses: &Pulses,
) -> Result<MqttHandle, StartError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.threads.max(1))
        .thread_name("gate")
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let metrics = Arc::new(MqttMetrics::default());
    let parts = Parts { config: config.clone(), tell: Arc::clone(&tell), metrics: Arc::clone(&metrics) };
    let parts = Arc::new(parts);
    let inside = runtime.enter();
    let slots = (0..config.shards.max(1)).map(|index| Slot::start(index, Arc::clone(&parts))).collect();
    drop(inside);
    let slots: Vec<_> = match slots {
        Ok(slots) => slots,
        Err(error) => {
            runtime.shutdown_background();
            return Err(error);
        }
    };
    for slot in &slots {
        runtime.spawn(Arc::clone(slot).watch());
    }
    let shared = Arc::new(Shared::new(config.clone(), certs, tell, clock, metrics, slots));
    runtime.spawn(Arc::clone(&shared).tick());
    let arbiter = Arbiter::new();
    arbiter.spawn(pulses.beat("outbound"));
    let outbound = Outbound::start_on(&arbiter, Arc::clone(&shared));
    Ok(MqttHandle { shared, runtime: Some(runtime), outbound, arbiter, listener: None, bridge: None })
}

impl MqttHandle {
    /// Where messages for cars go. A full one answers Full; nothing happened then.
    pub fn outbound(&self) -> Recipient<SendToCar> {
        self.outbound.clone().recipient()
    }

    /// Cars of an outside broker, if one is named, come too, from [`MqttHandle::listen`] on. To be called once, before it.
    pub fn add_bridge(&mut self, config: &config::Bridge) -> Result<(), StartError> {
        if !config.is_on() {
            return Ok(());
        }
        let bridge = Arc::new(Bridge::new(config, &self.shared.config)?);
        // Set once, here.
        let _ = self.shared.bridge.set(bridge);
        Ok(())
    }

    /// Lets cars in; returns the address, whose port the system picked if the config says 0.
    pub fn listen(&mut self) -> Result<SocketAddr, StartError> {
        if let Some((address, _)) = self.listener {
            return Ok(address);
        }
        let address = self.shared.config.listen;
        let fault = |error| StartError::Listen { address, error };
        let Some(runtime) = &self.runtime else { return Err(fault(std::io::ErrorKind::NotConnected.into())) };
        let inside = runtime.enter();
        let listener = gate::bind(address).map_err(fault)?;
        drop(inside);
        let bound = listener.local_addr().map_err(fault)?;
        self.listener = Some((bound, runtime.spawn(gate::accept(listener, Arc::clone(&self.shared)))));
        if let Some(bridge) = self.shared.bridge.get() {
            let _inside = runtime.enter();
            self.bridge = Some(bridge.start(&self.shared));
        }
        Ok(bound)
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|(address, _)| *address)
    }

    pub fn metrics(&self) -> Arc<MqttMetrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// Absent without a bridge.
    pub fn bridge_metrics(&self) -> Option<Arc<BridgeMetrics>> {
        self.shared.bridge.get().map(|bridge| Arc::clone(&bridge.metrics))
    }

    /// What turns here: both ways through each router.
    pub fn turns(&self) -> impl Fn() -> Vec<Turns> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            let slots = shared.slots.iter();
            let beats = slots.flat_map(|slot| slot.beats().map(|(way, beat)| (slot.index, way, beat)));
            beats.map(|(index, way, beat)| (format!("router-{index}-{way}"), beat)).collect()
        }
    }

    /// What became of each car's connections.
    pub fn links(&self) -> Arc<LinkLog> {
        Arc::clone(&self.shared.links)
    }

    /// A handle to kick with, to be given to whoever revokes.
    pub fn kicker(&self) -> Kicker {
        Kicker(Arc::clone(&self.shared))
    }

    /// Lets nobody in any more, ends all sessions, and waits for them up to `deadline`; then ends the threads.
    pub async fn shutdown(mut self, deadline: Duration) {
        if let Some((_, task)) = self.listener.take() {
            task.abort();
        }
        let metrics = self.metrics();
        let bridge = self.bridge.take();
        self.shared.bridge.get().into_iter().for_each(|bridge| bridge.stop());
        let all_gone = async {
            if let Some(bridge) = bridge {
                // Broken or not, it is over.
                let _ = bridge.await;
            }
            while metrics.sessions.get() > 0 || metrics.handshakes.get() > 0 {
                // Again and again: a handshake may end in a session meanwhile.
                self.kicker().kick_all(Reason::Shutdown);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(deadline, all_gone).await.is_err() {
            tracing::warn!(sessions = metrics.sessions.get(), "sessions left at the deadline");
        }
    }
}

impl Drop for MqttHandle {
    fn drop(&mut self) {
        self.arbiter.stop();
        self.shared.slots.iter().for_each(|slot| slot.stop());
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: it may be dropped within another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Ends sessions that are up. Cheap to clone.
#[derive(Clone)]
pub struct Kicker(Arc<Shared>);

impl Kicker {
    /// Ends the car's session, if there is one.
    pub fn kick(&self, vehicle: &VehicleId, reason: Reason) -> bool {
        let seat = self.0.slot(vehicle).seats.find(vehicle.as_str());
        seat.inspect(|seat| seat.kick(reason)).is_some()
    }

    pub fn kick_all(&self, reason: Reason) {
        self.0.slots.iter().for_each(|slot| slot.seats.kick_all(reason));
    }

    /// After a reload: ends the sessions whose certificate a CRL lists now; returns how many.
    pub fn kick_listed(&self) -> usize {
        let is_listed = |issuer, serial| self.0.certs.is_listed(issuer, serial) || self.0.certs.is_orphaned(issuer);
        self.0.slots.iter().map(|slot| slot.seats.kick_listed(is_listed)).sum()
    }

    pub fn is_connected(&self, vehicle: &VehicleId) -> bool {
        self.0.slot(vehicle).seats.find(vehicle.as_str()).is_some()
    }
}
