//! One connection to the broker, from its first byte to its loss: one half reads and hands over, the other writes PUBACKs
//! and messages for cars. rumqttc's loop is never dropped half-way through a poll, which could lose what it was writing.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, Incoming, Outgoing, Publish, QoS,
    SubscribeFilter, SubscribeReasonCode,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, timeout};

use super::super::gate::Shared;
use super::super::topics::Channel;
use super::dial::{self, MAX_IN_FLIGHT};
use super::window::{Lasting, Window};
use super::{Bridge, Message, ToBroker, Told};
use crate::actors::vehicle::FromCar;
use crate::domain::VehicleId;

/// From the first byte to the broker's answer to our subscription.
const SETUP: Duration = Duration::from_secs(10);
/// Between two tries to hand over what waits.
const RETRY: Duration = Duration::from_millis(20);
/// For the DISCONNECT to leave.
const LEAVE: Duration = Duration::from_millis(300);
/// Requests on their way into rumqttc.
const REQUESTS: usize = 16;

/// Why there is no connection, for the operator, and how long there was one.
pub(super) struct Lost {
    pub(super) why: String,
    pub(super) lived: Duration,
}

#[derive(Default)]
struct State {
    window: Mutex<Window>,
    /// The writing half has something to do.
    work: Notify,
    /// The window has room again.
    room: Notify,
    is_up: AtomicBool,
    /// Messages for cars that the broker has not acknowledged.
    in_flight: AtomicU16,
}

impl State {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects and stays; Ok when the bridge is to stop.
pub(super) async fn live(bridge: &Bridge, shared: &Shared) -> Result<(), Lost> {
    let began = shared.clock.elapsed();
    let lost = |why| Lost { why, lived: shared.clock.elapsed().saturating_sub(began) };
    let of = bridge.config.clone();
    let options = match tokio::task::spawn_blocking(move || dial::options(&of)).await {
        Ok(Ok(options)) => options,
        Ok(Err(error)) => return Err(lost(error.to_string())),
        Err(error) => return Err(lost(error.to_string())),
    };
    // Anew each time: what an older loop still held belongs to a session that the broker has forgotten.
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let state = State::default();
    let mut queued = bridge.queued.lock().await;
    let link = Link { bridge, shared, state: &state, client: &client };
    let mut stop = bridge.stop.subscribe();
    let ended = tokio::select! {
        why = link.read(&mut events) => Err(why),
        why = link.write(&mut queued) => Err(why),
        why = link.give_up() => Err(why),
        _ = stop.wait_for(|stops| *stops) => Ok(()),
    };
    link.count_unfinished();
    match ended {
        Err(why) => Err(lost(why)),
        Ok(()) => {
            take_leave(&client, &mut events).await;
            Ok(())
        }
    }
}

/// Says DISCONNECT, if the broker takes it at once.
async fn take_leave(client: &AsyncClient, events: &mut EventLoop) {
    if client.try_disconnect().is_err() {
        return;
    }
    let gone = async { while !matches!(events.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)) {} };
    // Late, the broker notices the socket's end.
    let _ = timeout(LEAVE, gone).await;
}

struct Link<'a> {
    bridge: &'a Bridge,
    shared: &'a Shared,
    state: &'a State,
    client: &'a AsyncClient,
}

impl Link<'_> {
    /// Ends when the broker has not taken our subscription in time.
    async fn give_up(&self) -> String {
        tokio::time::sleep(SETUP).await;
        if self.state.is_up.load(Ordering::Relaxed) {
            return pending().await;
        }
        format!("no answer to the subscription within {} s", SETUP.as_secs())
    }

    /// Takes what the broker sends, until it is lost.
    async fn read(&self, events: &mut EventLoop) -> String {
        loop {
            while self.state.window().is_full() {
                // Within a moment: nothing waits longer than its patience.
                self.state.room.notified().await;
            }
            match events.poll().await {
                Ok(Event::Incoming(packet)) => {
                    if let Err(why) = self.obey(packet) {
                        return why;
                    }
                }
                Ok(Event::Outgoing(_)) => {}
                Err(error) => return explain(&error),
            }
        }
    }

    fn obey(&self, packet: Incoming) -> Result<(), String> {
        match packet {
            Incoming::ConnAck(_) => {
                let filter = |channel: Channel| {
                    let path = format!("{}{}", self.bridge.config.topic_prefix, channel.filter());
                    SubscribeFilter { path, qos: QoS::AtLeastOnce }
                };
                let from_cars = Channel::ALL.into_iter().filter(|channel| channel.is_from_car()).map(filter);
                self.client.try_subscribe_many(from_cars).map_err(|error| error.to_string())
            }
            Incoming::SubAck(answer) => {
                if answer.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return Err("the broker refuses our subscription; its access list must let us read".into());
                }
                self.state.is_up.store(true, Ordering::Relaxed);
                self.bridge.metrics.connected.set(1);
                self.bridge.metrics.connects.add(1);
                let broker = self.bridge.config.broker.as_deref().unwrap_or_default();
                tracing::info!(broker, "the bridge to the broker is up");
                Ok(())
            }
            Incoming::PubAck(_) => {
                self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
                self.state.work.notify_one();
                Ok(())
            }
            Incoming::Publish(publish) => {
                self.take(&publish);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take(&self, publish: &Publish) {
        let metrics = &self.bridge.metrics;
        metrics.received.add(1);
        metrics.received_bytes.add(publish.payload.len() as u64);
        match self.bridge.read(publish, self.shared) {
            Err(why) => {
                metrics.ignore(why);
                self.state.window().settled(publish);
            }
            Ok((vehicle, Message::Report(report))) => {
                // What waits must not be overtaken, and there is no room anyway.
                let has_before = self.state.window().holds(&vehicle);
                let told = match has_before {
                    true => Told::NoRoom,
                    false => self.bridge.hand_over(&vehicle, FromCar::Reports(vec![report]), self.shared),
                };
                match told {
                    Told::Taken => metrics.reports.add(1),
                    Told::NoRoom => metrics.reports_dropped.add(1),
                    Told::Ignored(why) => metrics.ignore(why),
                }
                self.state.window().settled(publish);
            }
            Ok((vehicle, Message::Lasting(message))) => {
                let mut window = self.state.window();
                if !window.holds(&vehicle) && self.is_done(&vehicle, &message) {
                    window.flows(&vehicle);
                    window.settled(publish);
                } else if window.wait(publish, vehicle, message.clone(), self.shared.clock.elapsed()) {
                    metrics.held_back.add(1);
                } else {
                    self.count_in_vain(&message);
                }
            }
        }
        self.state.work.notify_one();
    }

    /// Tries to hand over; false = there is no room now.
    fn is_done(&self, vehicle: &VehicleId, message: &Lasting) -> bool {
        let metrics = &self.bridge.metrics;
        let (letter, taken) = match message {
            Lasting::Fact(fact) => (FromCar::Fact(fact.clone()), &metrics.facts),
            Lasting::Ack(ack) => (FromCar::Ack(ack.clone()), &metrics.acks),
        };
        match self.bridge.hand_over(vehicle, letter, self.shared) {
            Told::Taken => taken.add(1),
            Told::NoRoom => return false,
            Told::Ignored(why) => metrics.ignore(why),
        }
        true
    }

    fn count_in_vain(&self, message: &Lasting) {
        match message {
            Lasting::Fact(_) => self.bridge.metrics.facts_not_taken.add(1),
            Lasting::Ack(_) => self.bridge.metrics.acks_not_taken.add(1),
        }
    }

    fn count_unfinished(&self) {
        self.state.window().unfinished().for_each(|message| self.count_in_vain(message));
    }

    /// Writes PUBACKs and messages for cars, until rumqttc takes none.
    async fn write(&self, queued: &mut mpsc::Receiver<ToBroker>) -> String {
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Err(error) = self.acknowledge().await {
                return error.to_string();
            }
            let has_window = self.state.in_flight.load(Ordering::Relaxed) < MAX_IN_FLIGHT;
            let (is_up, is_waiting) = (self.state.is_up.load(Ordering::Relaxed), self.state.window().is_waiting());
            tokio::select! {
                () = self.state.work.notified() => {}
                _ = retry.tick(), if is_waiting => self.retry(),
                Some(ToBroker { topic, payload }) = queued.recv(), if is_up && has_window => {
                    self.state.in_flight.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = self.client.publish_bytes(topic, QoS::AtLeastOnce, false, payload).await {
                        return error.to_string();
                    }
                    self.bridge.metrics.commands.add(1);
                }
            }
        }
    }

    async fn acknowledge(&self) -> Result<(), rumqttc::ClientError> {
        loop {
            let next = self.state.window().next_puback();
            let Some(publish) = next else { break };
            self.client.ack(&publish).await?;
        }
        self.state.room.notify_one();
        Ok(())
    }

    fn retry(&self) {
        let now = self.shared.clock.elapsed();
        let mut window = self.state.window();
        let in_vain = window.retry(now, |vehicle, message| self.is_done(vehicle, message));
        in_vain.iter().for_each(|message| self.count_in_vain(message));
    }
}

/// In words that help an operator; rumqttc's own say "Tls" and the like.
fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "the broker refuses our log-in (bridge.user, bridge.password, bridge.client_cert)".into(),
        ConnectionError::ConnectionRefused(code) => format!("the broker refuses us: {code:?}"),
        ConnectionError::NetworkTimeout => "no connection in time".into(),
        other => other.to_string(),
    }
}
