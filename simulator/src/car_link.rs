//! The car's MQTT session over rumqttc: connect, subscribe, carry, and try again with patience.
//!
//! Used by `car` only. rumqttc's own reconnect is not used: a new session starts with a new event loop, since the
//! unit knows better than the client's queue what is to be said again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::mqtt::payload;
use cardea::mqtt::topics::Channel;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, SubscribeReasonCode,
    TlsConfiguration, Transport,
};
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::backoff::Backoff;
use crate::car::{CarOptions, CarState, Control};
use crate::dice::Dice;
use crate::identity::Credentials;
use crate::unit::{Input, Output};

/// A link that cannot take this many messages is stuck, and is dropped.
const LINK_QUEUE: usize = 256;
/// The gate's own window; more would only queue at its door.
const IN_FLIGHT: u16 = 16;
/// The contract's 16 KiB and the packet's own header.
const MAX_PACKET: usize = payload::MAX_BYTES + 256;
const LONGEST_TICK: Duration = Duration::from_secs(1);
const SHORTEST_TICK: Duration = Duration::from_millis(20);
const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) struct CarLink {
    options: CarOptions,
    tls: Arc<ClientConfig>,
    clock: Clock,
    state: watch::Sender<CarState>,
    controls: mpsc::Receiver<Control>,
    ticks: Interval,
    dice: Dice,
    is_cut: bool,
    /// A message did not fit into the link's queue.
    is_stuck: bool,
    /// The next certificate, on its way; pending for ever where none is wanted.
    renewing: Renewing,
    command_topic: String,
}

type Renewing = Pin<Box<dyn Future<Output = Credentials> + Send>>;

/// Why a session or a wait came to an end.
enum End {
    /// The link is lost or refused; try again later.
    Lost,
    /// Whoever holds the car cut the link or let it come back.
    Switched,
    Stop(Option<oneshot::Sender<()>>),
}

impl CarLink {
    pub fn new(
        options: CarOptions,
        tls: Arc<ClientConfig>,
        clock: Clock,
        state: watch::Sender<CarState>,
        controls: mpsc::Receiver<Control>,
    ) -> Self {
        let mut ticks = tokio::time::interval(options.telemetry_interval.clamp(SHORTEST_TICK, LONGEST_TICK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            command_topic: Channel::Command.topic(&options.vehicle_id),
            dice: Dice::fork(options.seed, 1),
            options,
            tls,
            clock,
            state,
            controls,
            ticks,
            is_cut: false,
            is_stuck: false,
            renewing: Box::pin(std::future::pending()),
        }
    }

    fn begin_renewing(&mut self) {
        let CarOptions { renewal, vehicle_id, credentials, .. } = &self.options;
        let Some(renewal) = renewal.clone() else { return };
        self.renewing = Box::pin(renewal.next(vehicle_id.clone(), credentials.clone(), self.clock.clone()));
    }

    /// From now on the car is known by these.
    fn renewed(&mut self, credentials: Credentials) {
        match credentials.tls_client(true) {
            Ok(tls) => {
                (self.tls, self.options.credentials) = (tls, credentials);
                self.state.send_modify(|state| state.link.renewals += 1);
            }
            Err(error) => self.failed(format!("the new certificate cannot be used: {error}")),
        }
        self.begin_renewing();
    }

    pub async fn run(mut self) {
        self.begin_renewing();
        let mut backoff = Backoff::new(self.options.first_retry, self.options.longest_retry);
        loop {
            let began = self.clock.now();
            let end = if self.is_cut { self.stay_offline(None).await } else { self.session().await };
            let done = match end {
                End::Stop(done) => done,
                End::Switched => continue,
                End::Lost => {
                    let lived_ms = u64::try_from(self.clock.now().since_ms(began)).unwrap_or(0);
                    backoff.link_lived(Duration::from_millis(lived_ms));
                    let wait = backoff.next(&mut self.dice);
                    match self.stay_offline(Some(wait)).await {
                        End::Stop(done) => done,
                        End::Switched | End::Lost => continue,
                    }
                }
            };
            if let Some(done) = done {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            return;
        }
    }

    /// The car lives on without a link, for `wait` or until it is switched.
    async fn stay_offline(&mut self, wait: Option<Duration>) -> End {
        let over = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return End::Lost,
                control = self.controls.recv() => if let Some(end) = self.control(control, None) { return end },
                credentials = &mut self.renewing => self.renewed(credentials),
                _ = self.ticks.tick() => self.input(Input::Tick, None),
            }
        }
    }

    async fn session(&mut self) -> End {
        self.is_stuck = false;
        let (client, mut link) = self.connect();
        let end = loop {
            let polled = {
                // Kept across the other branches: dropping it half-way would begin the handshake anew.
                let poll = link.poll();
                tokio::pin!(poll);
                loop {
                    tokio::select! {
                        polled = &mut poll => break Ok(polled),
                        control = self.controls.recv() => if let Some(end) = self.control(control, Some(&client)) {
                            break Err(end);
                        },
                        credentials = &mut self.renewing => {
                            self.renewed(credentials);
                            break Err(End::Switched);
                        }
                        _ = self.ticks.tick() => self.input(Input::Tick, Some(&client)),
                    }
                    if self.is_stuck {
                        // What did not fit is told again: facts are kept, outcomes remembered.
                        self.failed("the link takes no more".into());
                        break Err(End::Lost);
                    }
                }
            };
            match polled {
                Ok(Ok(event)) => {
                    if let Err(why) = self.heard(event, &client) {
                        self.failed(why);
                        break End::Lost;
                    }
                }
                Ok(Err(error)) => {
                    self.failed(describe(&error));
                    break End::Lost;
                }
                Err(end) => break end,
            }
        };
        if matches!(end, End::Stop(_)) && self.state.borrow().link.is_connected {
            say_goodbye(&client, &mut link).await;
        }
        self.link_down();
        end
    }

    fn connect(&self) -> (AsyncClient, EventLoop) {
        let address = &self.options.mqtt;
        let mut mqtt = MqttOptions::new(self.options.vehicle_id.as_str(), &address.host, address.port);
        mqtt.set_clean_session(true);
        mqtt.set_keep_alive(self.options.keep_alive);
        mqtt.set_inflight(IN_FLIGHT);
        mqtt.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        mqtt.set_transport(Transport::Tls(TlsConfiguration::Rustls(self.tls.clone())));
        let (client, mut link) = AsyncClient::new(mqtt, LINK_QUEUE);
        link.network_options.set_connection_timeout(self.options.connect_timeout.as_secs().max(1));
        (client, link)
    }

    fn heard(&mut self, event: Event, client: &AsyncClient) -> Result<(), String> {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => client
                .try_subscribe(&self.command_topic, QoS::AtLeastOnce)
                .map_err(|error| format!("subscribing: {error}")),
            Event::Incoming(Packet::SubAck(answer)) => {
                if answer.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return Err("the subscription to its commands was refused".into());
                }
                self.state.send_modify(|state| {
                    state.link.is_connected = true;
                    state.link.connections += 1;
                });
                self.input(Input::LinkUp, Some(client));
                Ok(())
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let input = match payload::decode_to_car(&publish.payload) {
                    Ok(message) => Input::FromGateway(message),
                    Err(error) => {
                        tracing::warn!(vehicle = %self.options.vehicle_id, %error, "unreadable command");
                        Input::Unreadable(payload::command_id_of(&publish.payload))
                    }
                };
                self.input(input, Some(client));
                Ok(())
            }
            Event::Incoming(Packet::Disconnect) => Err("the broker said DISCONNECT".into()),
            Event::Incoming(_) | Event::Outgoing(_) => Ok(()),
        }
    }

    fn input(&mut self, input: Input, client: Option<&AsyncClient>) {
        let now = self.clock.now();
        let mut outputs = Vec::new();
        self.state.send_modify(|state| outputs = state.unit.handle(now, input));
        self.say(outputs, client);
    }

    /// `Some` when the session or the wait is to end.
    fn control(&mut self, control: Option<Control>, client: Option<&AsyncClient>) -> Option<End> {
        match control {
            Some(Control::Act(act, reply)) => {
                let now = self.clock.now();
                let mut result = Ok(());
                let mut outputs = Vec::new();
                self.state.send_modify(|state| (result, outputs) = state.unit.act(now, act));
                self.say(outputs, client);
                // Whoever asked may have stopped waiting.
                let _ = reply.send(result);
                None
            }
            Some(Control::CutLink(done)) => {
                self.is_cut = true;
                self.link_down();
                let _ = done.send(());
                Some(End::Switched)
            }
            Some(Control::RestoreLink(done)) => {
                let was_cut = std::mem::take(&mut self.is_cut);
                let _ = done.send(());
                was_cut.then_some(End::Switched)
            }
            Some(Control::Stop(done)) => Some(End::Stop(Some(done))),
            None => Some(End::Stop(None)),
        }
    }

    fn say(&mut self, outputs: Vec<Output>, client: Option<&AsyncClient>) {
        let Some(client) = client else { return };
        let vehicle = &self.options.vehicle_id;
        for output in outputs {
            let (channel, qos, bytes) = match &output {
                Output::Telemetry(report) => {
                    (Channel::Telemetry, self.options.telemetry_qos, payload::encode_report(report))
                }
                Output::Event(fact) => (Channel::Event, QoS::AtLeastOnce, payload::encode_fact(fact)),
                Output::Ack(ack) => (Channel::Ack, QoS::AtLeastOnce, payload::encode_ack(ack)),
            };
            if client.try_publish(channel.topic(vehicle), qos, false, bytes).is_err() {
                self.is_stuck = true;
                self.state.send_modify(|state| state.link.dropped += 1);
            }
        }
    }

    fn failed(&self, why: String) {
        tracing::debug!(vehicle = %self.options.vehicle_id, why, "link lost");
        self.state.send_modify(|state| {
            state.link.failures += 1;
            state.link.last_error = Some(why);
        });
    }

    fn link_down(&mut self) {
        let now = self.clock.now();
        self.state.send_modify(|state| {
            state.link.is_connected = false;
            state.unit.handle(now, Input::LinkDown);
        });
    }
}

async fn say_goodbye(client: &AsyncClient, link: &mut EventLoop) {
    if client.try_disconnect().is_ok() {
        let said = async {
            while let Ok(event) = link.poll().await {
                if event == Event::Outgoing(Outgoing::Disconnect) {
                    break;
                }
            }
        };
        // A dead peer must not hold us.
        let _ = tokio::time::timeout(GOODBYE, said).await;
    }
}

fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => format!("refused: {code:?}"),
        other => other.to_string(),
    }
}
