//! Cars behind an outside MQTT broker: the gateway is its client and hands what they publish to the fleet like the gate.
//!
//! Weaker than the gate, and docs/bridge.md says in what: the topic names the car and the broker vouches for it, there is no
//! session, no `delivered`, no kick. `link` lives for one connection, `presence` knows who is online, `window` keeps
//! PUBACKs in order, `dial` connects. A car that has a session at the gate is never spoken for from here.

mod dial;
mod link;
mod metrics;
mod presence;
mod window;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::Publish;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

pub use metrics::{BridgeMetrics, Ignored};

use super::StartError;
use super::gate::Shared;
use super::link_log::LinkChange;
use super::metrics::Reason;
use super::payload;
use super::topics::{self, Channel};
use crate::actors::vehicle::{FromCar, TellError};
use crate::config;
use crate::domain::VehicleId;
use crate::domain::twin::Report;
use dial::Backoff;
use presence::{Limits, Presence};
use window::Lasting;

/// How often it is looked who was silent.
const LOOK: Duration = Duration::from_millis(500);
/// After the bridge's task broke.
const START_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Bridge {
    config: config::Bridge,
    listed: config::VehicleList,
    max_payload_bytes: usize,
    presence: Mutex<Presence>,
    /// To the broker.
    queue: mpsc::Sender<ToBroker>,
    queued: tokio::sync::Mutex<mpsc::Receiver<ToBroker>>,
    stop: watch::Sender<bool>,
    pub(super) metrics: Arc<BridgeMetrics>,
}

/// A message for a car.
struct ToBroker {
    topic: String,
    payload: Bytes,
}

/// What a car's message was decoded to.
enum Message {
    /// Newest state: what finds no room is dropped, since the next one says it better.
    Report(Report),
    Lasting(Lasting),
}

enum Told {
    Taken,
    NoRoom,
    Ignored(Ignored),
}

/// The presence while a car is being seated at the gate: until it is dropped the bridge hands over nothing.
pub(super) struct Turn<'a>(&'a Bridge, MutexGuard<'a, Presence>);

impl Turn<'_> {
    /// The car is at the gate, and the fleet knows.
    pub(super) fn displace(mut self, vehicle: &VehicleId, shared: &Shared) {
        if let Some(epoch) = self.1.displace(vehicle) {
            self.0.note_end(vehicle, epoch, Reason::Takeover, shared);
        }
        self.0.metrics.vehicles.set(self.1.up() as u64);
    }
}

impl Bridge {
    /// Checks that the files can be read; connects to nobody yet.
    pub(super) fn new(config: &config::Bridge, gate: &config::Mqtt) -> Result<Self, StartError> {
        dial::options(config)?;
        let limits = Limits {
            max_vehicles: config.max_vehicles,
            patience: Duration::from_secs(config.offline_after_s),
            rate_per_s: gate.rate_per_s,
            rate_burst: gate.rate_burst,
        };
        let (queue, queued) = mpsc::channel(config.queue_max.max(1));
        Ok(Self {
            listed: config::VehicleList::new(&config.vehicles),
            max_payload_bytes: gate.max_payload_bytes,
            presence: Mutex::new(Presence::new(limits)),
            queue,
            queued: tokio::sync::Mutex::new(queued),
            stop: watch::Sender::new(false),
            metrics: Arc::default(),
            config: config.clone(),
        })
    }

    /// Runs until [`Bridge::stop`]. To be called within the gate's runtime.
    pub(super) fn start(self: &Arc<Self>, shared: &Arc<Shared>) -> JoinHandle<()> {
        let (bridge, shared) = (Arc::clone(self), Arc::clone(shared));
        tokio::spawn(async move {
            loop {
                let (inner, of) = (Arc::clone(&bridge), Arc::clone(&shared));
                // A task of its own: what the broker sends is read by a library that may panic.
                match tokio::spawn(async move { inner.run(&of).await }).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(%error, "the bridge broke and starts again");
                        bridge.metrics.restarts.add(1);
                        bridge.metrics.connected.set(0);
                        bridge.all_leave(Reason::BridgeLost, &shared);
                        tokio::time::sleep(START_AGAIN).await;
                    }
                }
            }
        })
    }

    /// Takes leave of the broker; the task ends soon after.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    async fn run(&self, shared: &Shared) {
        tokio::select! {
            () = self.keep_connected(shared) => {}
            () = self.look(shared) => {}
        }
        self.all_leave(Reason::Shutdown, shared);
    }

    /// Until it is to stop.
    async fn keep_connected(&self, shared: &Shared) {
        let mut backoff = Backoff::new(Duration::from_secs(self.config.retry_max_s));
        let mut stop = self.stop.subscribe();
        let mut is_told = false;
        let broker = self.config.broker.as_deref().unwrap_or_default();
        while !*stop.borrow() {
            let outcome = link::live(self, shared).await;
            let was_up = self.metrics.connected.get() > 0;
            self.metrics.connected.set(0);
            let Err(link::Lost { why, lived }) = outcome else { return };
            self.all_leave(Reason::BridgeLost, shared);
            self.drop_queued().await;
            if was_up { &self.metrics.losses } else { &self.metrics.failed_attempts }.add(1);
            // Once for each time that it is away.
            if was_up || !is_told {
                tracing::warn!(broker, error = %why, "no bridge to the broker; it is tried again");
            } else {
                tracing::debug!(broker, error = %why, "still no bridge to the broker");
            }
            is_told = true;
            backoff.lived(lived);
            // Waited for also when it is to stop meanwhile, but not longer.
            let _ = tokio::time::timeout(backoff.next(), stop.wait_for(|stops| *stops)).await;
        }
    }

    /// What waited for the broker goes back to the outbox, since its cars are told as gone.
    async fn drop_queued(&self) {
        let mut queued = self.queued.lock().await;
        while queued.try_recv().is_ok() {
            self.metrics.commands_dropped.add(1);
        }
    }

    /// Looks who was silent for too long, and tells again what the fleet had no room to hear.
    async fn look(&self, shared: &Shared) {
        let mut interval = tokio::time::interval(LOOK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let mut presence = self.presence();
            self.metrics.link_downs_retried.add(presence.leaving().len() as u64);
            for vehicle in presence.silent(shared.clock.elapsed()) {
                self.leave(&mut presence, &vehicle, Reason::Silent, shared);
            }
            self.tell_leaving(&mut presence, shared);
        }
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the gate that is about to seat a car: while it holds this, the car is not spoken for from here, so that epochs
    /// are told in their order. `None` for the cars that no bridge carries.
    pub(super) fn turn(&self, vehicle: &VehicleId) -> Option<Turn<'_>> {
        self.listed.contains(vehicle).then(|| Turn(self, self.presence()))
    }

    /// Sends to a car that is online here; false = it is not.
    pub(super) fn send(&self, vehicle: &VehicleId, payload: Bytes, shared: &Shared) -> bool {
        let mut presence = self.presence();
        if !presence.is_up(vehicle) {
            return false;
        }
        let topic = format!("{}{}", self.config.topic_prefix, Channel::Command.topic(vehicle));
        if self.queue.try_send(ToBroker { topic, payload }).is_err() {
            self.metrics.commands_dropped.add(1);
            // As a full mailbox at the gate ends the session: the outbox sends everything again.
            self.leave(&mut presence, vehicle, Reason::MailboxFull, shared);
            self.tell_leaving(&mut presence, shared);
        }
        true
    }

    fn all_leave(&self, reason: Reason, shared: &Shared) {
        let mut presence = self.presence();
        for vehicle in presence.all_up() {
            self.leave(&mut presence, &vehicle, reason, shared);
        }
        self.tell_leaving(&mut presence, shared);
    }

    fn leave(&self, presence: &mut Presence, vehicle: &VehicleId, reason: Reason, shared: &Shared) {
        if let Some(epoch) = presence.leave(vehicle) {
            self.note_end(vehicle, epoch, reason, shared);
        }
        self.metrics.vehicles.set(presence.up() as u64);
    }

    fn note_end(&self, vehicle: &VehicleId, epoch: u64, reason: Reason, shared: &Shared) {
        shared.metrics.count(reason);
        shared.links.note(vehicle, shared.clock.now(), LinkChange::Disconnected { epoch, reason });
        tracing::debug!(%vehicle, epoch, reason = reason.name(), "no longer online over the bridge");
    }

    /// Must arrive, or the car would look online for ever: whom there is no room for now is told at the next look.
    fn tell_leaving(&self, presence: &mut Presence, shared: &Shared) {
        for (vehicle, epoch) in presence.leaving() {
            if (shared.tell)(&vehicle, FromCar::LinkDown { epoch }).is_ok() {
                presence.left(&vehicle, epoch);
            }
        }
    }

    /// Whose message it is and what it says, or why it leads to nothing.
    fn read(&self, publish: &Publish, shared: &Shared) -> Result<(VehicleId, Message), Ignored> {
        let topic = publish.topic.as_bytes().strip_prefix(self.config.topic_prefix.as_bytes());
        let (vehicle, channel) = topic.and_then(topics::parse).ok_or(Ignored::ForeignTopic)?;
        let vehicle: VehicleId = vehicle.parse().map_err(|_| Ignored::ForeignTopic)?;
        if publish.retain {
            return Err(Ignored::Retained);
        }
        if !self.listed.contains(&vehicle) {
            return Err(Ignored::NotListed);
        }
        if is_at_gate(&vehicle, shared) {
            return Err(Ignored::AtGate);
        }
        let payload = &publish.payload[..];
        if payload.is_empty() {
            return Err(Ignored::EmptyPayload);
        }
        if payload.len() > self.max_payload_bytes {
            return Err(Ignored::TooLong);
        }
        self.presence().admit(&vehicle, shared.clock.elapsed())?;
        let refused = |why, error: payload::PayloadError| {
            tracing::debug!(%vehicle, %error, "payload from the broker refused");
            why
        };
        let message = match channel {
            Channel::Telemetry => {
                let report = payload::decode_report(payload);
                Message::Report(report.map_err(|error| refused(Ignored::BadTelemetry, error))?)
            }
            Channel::Event => {
                let fact = payload::decode_fact(payload).map_err(|error| refused(Ignored::BadEvent, error))?;
                Message::Lasting(Lasting::Fact(fact))
            }
            Channel::Ack => {
                let ack = payload::decode_ack(payload).map_err(|error| refused(Ignored::BadAck, error))?;
                Message::Lasting(Lasting::Ack(ack))
            }
            Channel::Command => return Err(Ignored::ForeignTopic),
        };
        Ok((vehicle, message))
    }

    /// Hands a message to the fleet, after word that the car is here if that is new. The presence stays locked meanwhile,
    /// so that nothing is told of a car that the gate seats in between.
    fn hand_over(&self, vehicle: &VehicleId, message: FromCar, shared: &Shared) -> Told {
        let mut presence = self.presence();
        if is_at_gate(vehicle, shared) {
            return Told::Ignored(Ignored::AtGate);
        }
        if !presence.is_up(vehicle) {
            let epoch = shared.next_epoch();
            match (shared.tell)(vehicle, FromCar::LinkUp { epoch, address: None }) {
                Ok(()) => {}
                Err(TellError::Full) => return Told::NoRoom,
                Err(TellError::Unavailable) => return Told::Ignored(Ignored::FleetFull),
            }
            presence.came(vehicle, epoch);
            self.metrics.vehicles.set(presence.up() as u64);
            let change = LinkChange::Connected { epoch, address: None };
            shared.links.note(vehicle, shared.clock.now(), change);
        }
        presence.heard(vehicle, shared.clock.elapsed());
        match (shared.tell)(vehicle, message) {
            Ok(()) => Told::Taken,
            Err(TellError::Full) => Told::NoRoom,
            Err(TellError::Unavailable) => Told::Ignored(Ignored::FleetFull),
        }
    }
}

fn is_at_gate(vehicle: &VehicleId, shared: &Shared) -> bool {
    shared.slot(vehicle).seats.find(vehicle.as_str()).is_some()
}
