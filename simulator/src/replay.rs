//! `replay`: a recorded drive sent to the gateway as the car would have sent it, in its own pace or faster.
//!
//! Nothing is lost on purpose: it waits for acknowledgements, and ends with an error where the gateway did not take
//! a fact. Commands that come meanwhile are answered `rejected`, since a recording cannot carry them out.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::command::{Ack, AckReason, AckStatus, Fact, FactKind, ToCar};
use cardea::domain::twin::Report;
use cardea::domain::{Function, Position, Timestamp, VehicleId};
use cardea::mqtt::payload;
use cardea::mqtt::topics::Channel;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use crate::car::MqttAddress;
use crate::drive::parse_place;
use crate::failure::Failure;
use crate::identity::Credentials;
use crate::stopwatch::Stopwatch;
use crate::trace::{Format, FuelScale, Message, Shift, Trace, What};
use crate::wire::{Packet, Session, WireError, put_puback};

/// Unacknowledged messages on the way; the gate's own window.
const WINDOW: usize = 16;
const KEEP_ALIVE_S: u16 = 60;
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;
/// How long the gateway may take for the last acknowledgements.
const LAST_WORDS: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording
    file: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// As which vehicle
    #[arg(long)]
    vehicle: VehicleId,
    /// Where the gateway listens for cars, HOST:PORT
    #[arg(long)]
    mqtt: MqttAddress,
    /// The vehicle's folder, as `cardea enroll` writes it
    #[arg(long)]
    certs: PathBuf,
    /// So many times faster than it was driven; 0 = without pauses
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Which times the messages carry
    #[arg(long, value_enum, default_value_t = At::Now)]
    at: At,
    /// Lay the drive elsewhere: the chosen point falls on LAT,LON
    #[arg(long, value_parser = parse_place)]
    shift: Option<Position>,
    /// The chosen point of the recording, LAT,LON; default: where it ends
    #[arg(long, value_parser = parse_place, requires = "shift")]
    shift_from: Option<Position>,
    #[arg(long, value_enum, default_value_t = FuelScale::Auto)]
    fuel_scale: FuelScale,
    /// The vehicle's tank, told in its boot report
    #[arg(long)]
    tank_litres: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum At {
    /// The drive begins now; its pauses and delays stay, divided by the speed
    Now,
    /// As they were recorded
    Recorded,
}

/// What came of a replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    pub reports: u64,
    pub facts: u64,
    pub commands_rejected: u64,
}

pub async fn run(args: ReplayArgs) -> Result<(), Failure> {
    if !(args.speed >= 0.0 && args.speed.is_finite()) {
        return Err(Failure::usage("--speed is a number from 0 up"));
    }
    let mut trace = read(&args)?;
    if args.at == At::Recorded && !trace.has_wall_time {
        return Err(Failure::usage("the recording has no time of day: --at now is needed"));
    }
    if let Some(to) = args.shift {
        let from = args.shift_from.or_else(|| trace.positions().next_back());
        let from = from.ok_or_else(|| Failure::usage("--shift: the recording has no position"))?;
        let shift = Shift::new(from, to);
        trace.messages.iter_mut().for_each(|message| shift.apply(message));
        eprintln!(
            "shifted: {},{} of the recording falls on {},{}",
            from.latitude, from.longitude, to.latitude, to.longitude
        );
    }
    let tls = Credentials::load(&args.certs)?.tls_client(true)?;
    let began = Clock::start().now();
    retime(&mut trace, args.at, began, args.speed);
    let broken = |error: WireError| Failure::failed(format!("{}: {error}", args.mqtt));
    let session = Session::connect(&args.mqtt, tls, args.vehicle.as_str(), KEEP_ALIVE_S).await.map_err(broken)?;
    let mut player = Player::new(args.vehicle.clone(), session, began);
    let played = tokio::select! {
        played = player.play(&trace, args.speed, args.tank_litres) => played.map_err(broken)?,
        () = crate::process::interrupted() => return Err(Failure::failed("interrupted")),
    };
    println!(
        "replayed {} reports and {} facts of {} as {}; {} commands rejected",
        played.reports,
        played.facts,
        args.file.display(),
        args.vehicle,
        played.commands_rejected
    );
    match player.unacknowledged.len() {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} facts were not acknowledged (event_ack) by the gateway"))),
    }
}

fn read(args: &ReplayArgs) -> Result<Trace, Failure> {
    let file = args.file.display();
    let unreadable = |error: std::io::Error| Failure::usage(format!("{file}: {error}"));
    if std::fs::metadata(&args.file).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(Failure::usage(format!("{file}: larger than 512 MiB")));
    }
    let bytes = std::fs::read(&args.file).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        Failure::usage(format!("{file}: line {}: not UTF-8", line + 1))
    })?;
    Trace::parse(&text, args.format, args.fuel_scale).map_err(|error| Failure::usage(format!("{file}: {error}")))
}

/// Moves the recording's beginning to `began`; with a speed its pauses shrink, so that nothing lies in the future.
pub fn retime(trace: &mut Trace, at: At, began: Timestamp, speed: f64) {
    let Some(first) = trace.messages.first() else { return };
    let first_ms = first.sent_ms;
    let scale = if speed > 0.0 { speed } else { f64::INFINITY };
    let scaled = |ms: i64| began.plus_ms((ms.saturating_sub(first_ms) as f64 / scale) as i64).0;
    // Without pauses the drive ends now instead of beginning now.
    let last_ms = trace.messages.last().map_or(first_ms, |last| last.sent_ms);
    let ending_now = |ms: i64| began.plus_ms(ms.saturating_sub(last_ms)).0;
    for message in &mut trace.messages {
        if at == At::Now {
            message.at_ms = if speed > 0.0 { scaled(message.at_ms) } else { ending_now(message.at_ms) };
        }
        message.sent_ms = if speed > 0.0 { scaled(message.sent_ms) } else { began.0 };
    }
}

struct Player {
    vehicle: VehicleId,
    session: Session,
    boot: u64,
    began: Timestamp,
    telemetry_seq: u64,
    fact_seq: u64,
    under_way: usize,
    unacknowledged: Vec<u64>,
    clock: Clock,
    done: Replayed,
}

impl Player {
    fn new(vehicle: VehicleId, session: Session, began: Timestamp) -> Self {
        Self {
            vehicle,
            session,
            boot: u64::try_from(began.0).unwrap_or(0),
            began,
            telemetry_seq: 0,
            fact_seq: 0,
            under_way: 0,
            unacknowledged: Vec::new(),
            clock: Clock::start(),
            done: Replayed::default(),
        }
    }

    async fn play(&mut self, trace: &Trace, speed: f64, tank_litres: Option<f64>) -> Result<Replayed, WireError> {
        self.session.subscribe(&Channel::Command.topic(&self.vehicle), 1).await?;
        let watch = Stopwatch::start();
        let boot = FactKind::Boot {
            firmware: concat!("replay ", env!("CARGO_PKG_VERSION")).into(),
            capabilities: Function::ALL.to_vec(),
            tank_litres,
        };
        self.send_fact(self.began.0, &boot);
        let bar = progress(trace.messages.len());
        let mut pings = tokio::time::interval(Duration::from_secs(u64::from(KEEP_ALIVE_S) / 2));
        for message in &trace.messages {
            let due = watch.moment(Duration::from_millis(message.sent_ms.saturating_sub(self.began.0).max(0) as u64));
            self.session.flush().await?;
            loop {
                let is_due = speed == 0.0 || due <= watch.moment(watch.elapsed());
                if is_due && self.under_way < WINDOW {
                    break;
                }
                tokio::select! {
                    packet = self.session.next() => self.heard(packet?).await?,
                    () = tokio::time::sleep_until(due), if !is_due => {}
                    _ = pings.tick() => self.session.ping().await?,
                }
            }
            self.send(message);
            bar.inc(1);
        }
        self.session.flush().await?;
        bar.finish_and_clear();
        self.hear_last_words().await?;
        Ok(self.done)
    }

    fn send(&mut self, message: &Message) {
        match &message.what {
            What::Signals(signals) => {
                self.telemetry_seq += 1;
                self.done.reports += 1;
                let report = Report {
                    boot: self.boot,
                    seq: self.telemetry_seq,
                    at: Timestamp(message.at_ms),
                    signals: signals.clone(),
                };
                self.publish(Channel::Telemetry, &payload::encode_report(&report));
            }
            What::Fact(kind) => {
                self.done.facts += 1;
                self.send_fact(message.at_ms, kind);
            }
        }
    }

    fn send_fact(&mut self, at_ms: i64, kind: &FactKind) {
        self.fact_seq += 1;
        self.unacknowledged.push(self.fact_seq);
        let fact = Fact { boot: self.boot, seq: self.fact_seq, at: Timestamp(at_ms), kind: kind.clone() };
        self.publish(Channel::Event, &payload::encode_fact(&fact));
    }

    fn publish(&mut self, channel: Channel, payload: &[u8]) {
        self.under_way += 1;
        self.session.publish(&channel.topic(&self.vehicle), payload);
    }

    async fn heard(&mut self, packet: Packet) -> Result<(), WireError> {
        match packet {
            Packet::PubAck { .. } => self.under_way = self.under_way.saturating_sub(1),
            Packet::Publish { payload, id, .. } => {
                if let Some(id) = id {
                    put_puback(&mut self.session.out, id);
                }
                match payload::decode_to_car(&payload) {
                    Ok(ToCar::EventAck { boot, seq, .. }) if boot == self.boot => {
                        self.unacknowledged.retain(|waiting| *waiting != seq);
                    }
                    Ok(ToCar::EventAck { .. }) => {}
                    Ok(ToCar::Command { command_id, .. }) => {
                        self.done.commands_rejected += 1;
                        let (status, reason) = (AckStatus::Rejected, Some(AckReason::Unsupported));
                        let ack = Ack { command_id, at: self.clock.now(), status, reason };
                        self.publish(Channel::Ack, &payload::encode_ack(&ack));
                    }
                    Err(error) => tracing::warn!(%error, "unreadable command"),
                }
                self.session.flush().await?;
            }
            Packet::ConnAck { .. } | Packet::SubAck { .. } | Packet::PingResp => {}
        }
        Ok(())
    }

    /// Waits for what is still to be acknowledged, but not for ever: the caller reports the rest.
    async fn hear_last_words(&mut self) -> Result<(), WireError> {
        let deadline = Stopwatch::start().moment(LAST_WORDS);
        while self.under_way > 0 || !self.unacknowledged.is_empty() {
            match tokio::time::timeout_at(deadline, self.session.next()).await {
                Ok(packet) => self.heard(packet?).await?,
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

fn progress(messages: usize) -> ProgressBar {
    if std::io::stderr().is_terminal() { ProgressBar::new(messages as u64) } else { ProgressBar::hidden() }
}

/// Plays a recording from now on; for tests, which look at the gateway afterwards.
pub async fn play(
    trace: &Trace,
    mqtt: &MqttAddress,
    credentials: &Credentials,
    vehicle: &VehicleId,
    speed: f64,
) -> Result<Replayed, Failure> {
    let tls: Arc<_> = credentials.tls_client(true)?;
    let began = Clock::start().now();
    let mut trace = trace.clone();
    retime(&mut trace, At::Now, began, speed);
    let session = Session::connect(mqtt, tls, vehicle.as_str(), KEEP_ALIVE_S).await.map_err(Failure::failed)?;
    let mut player = Player::new(vehicle.clone(), session, began);
    player.play(&trace, speed, None).await.map_err(Failure::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUCK: &str = r#"{"ts_ms":100000,"received_ms":190000,"event":"position","lat":1.0,"lon":2.0,"pos_ts_ms":16112}
{"ts_ms":110000,"received_ms":120000,"event":"ign_off","lat":1.5,"lon":2.0,"pos_ts_ms":110000}"#;

    fn times(at: At, speed: f64) -> Vec<(i64, i64)> {
        let mut trace = Trace::parse(TRUCK, Format::Auto, FuelScale::Auto).unwrap();
        retime(&mut trace, at, Timestamp(1_000_000), speed);
        trace.messages.iter().map(|message| (message.sent_ms, message.at_ms)).collect()
    }

    #[test]
    fn the_drive_begins_now_and_its_delays_stay() {
        assert_eq!(
            times(At::Now, 1.0),
            [(1_000_000, 990_000), (1_000_000, 990_000), (1_070_000, 896_112), (1_070_000, 980_000)]
        );
        assert_eq!(times(At::Now, 10.0)[3], (1_007_000, 998_000));
    }

    #[test]
    fn recorded_times_stay_whatever_the_pace() {
        assert_eq!(times(At::Recorded, 2.0)[3], (1_035_000, 100_000));
    }

    #[test]
    fn without_pauses_nothing_lies_in_the_future() {
        assert!(times(At::Now, 0.0).iter().all(|(sent_ms, at_ms)| *sent_ms == 1_000_000 && *at_ms <= 1_000_000));
    }
}
