//! `card-decisions`: signed payment events at a steady rate, honest ones and frauds mixed, and how fast each is judged.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::Position;
use cardea::domain::twin::path;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::fleet::FleetArgs;
use super::http::{HttpArgs, card_ref, stations};
use super::latencies::Latencies;
use super::lines::Lines;
use crate::car::MqttAddress;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::station::{Purchase, signature};
use crate::stopwatch::Stopwatch;
use crate::wire::{Packet, Session, WireError};

#[derive(Debug, Args)]
pub struct CardArgs {
    #[command(flatten)]
    http: HttpArgs,
    /// The secret the payment network signs with
    #[arg(long)]
    secret: String,
    #[arg(long, default_value = "BENCH")]
    prefix: String,
    /// Cards in use (see `bench register --cards`)
    #[arg(long, default_value_t = 100)]
    cards: usize,
    /// Events per second
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Share of events from a station where the car is not, or with a card nobody knows
    #[arg(long, default_value_t = 0.1)]
    fraud_share: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the gateway listens for cars: each car reports that it stands at the station, so that honest purchases
    /// can pass; without it no car was heard of
    #[arg(long, requires_all = ["ca", "ca_key"])]
    mqtt: Option<MqttAddress>,
    #[arg(long)]
    ca: Option<PathBuf>,
    #[arg(long)]
    ca_key: Option<PathBuf>,
}

/// Events of the first so many seconds are sent and not timed.
const WARM_UP_S: u64 = 2;
/// A payment network keeps its connections open.
const CONNECTIONS: usize = 128;
/// How often a standing car reports: often enough to be fresh.
const REPORT_EVERY: Duration = Duration::from_secs(10);

struct Judged {
    is_timed: bool,
    took_ns: u64,
    approved: bool,
}

pub async fn run(args: &CardArgs) -> Result<Value, Failure> {
    if !(args.rate > 0.0 && args.rate <= 100_000.0) || args.cards == 0 {
        return Err(Failure::usage("--rate lies between 0 and 100000 per second, --cards is at least 1"));
    }
    let lines = Arc::new(Lines::open(&args.http, CONNECTIONS).await?);
    let secret: Arc<str> = args.secret.as_str().into();
    let clock = Clock::start();
    let mut dice = Dice::new(args.seed);
    let places = stations();
    // Aborted when this run ends.
    let _standing = stand_at(args, places[0].position).await?;
    let mut requests: JoinSet<Result<Judged, String>> = JoinSet::new();
    let mut moments = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    let (mut latencies, mut approved, mut failures, mut frauds) = (Latencies::default(), 0u64, Vec::new(), 0u64);
    let warm_up = (args.rate * WARM_UP_S as f64) as usize;
    let total = warm_up + (args.rate * args.seconds as f64) as usize;
    let watch = Stopwatch::start();
    let (mut sent, mut decided) = (0, 0u64);
    while sent < total || !requests.is_empty() {
        tokio::select! {
            _ = moments.tick(), if sent < total => {
                sent += 1;
                let is_fraud = dice.chance(args.fraud_share);
                frauds += u64::from(is_fraud);
                let card = card_ref(&args.prefix, dice.below(args.cards));
                let purchase = match (is_fraud, dice.chance(0.5)) {
                    (true, true) => Purchase::at(&places[1], &card, 6_000),
                    (true, false) => Purchase::at(&places[0], "ic_unknown", 6_000),
                    (false, _) => Purchase::at(&places[0], &card, 6_000),
                };
                let judging = judge(lines.clone(), secret.clone(), purchase, clock.now().as_secs());
                let is_timed = sent > warm_up;
                requests.spawn(async move {
                    let judged = judging.await?;
                    Ok(Judged { is_timed, ..judged })
                });
            }
            Some(judged) = requests.join_next() => match judged.map_err(Failure::failed)? {
                Ok(judged) => {
                    decided += 1;
                    if judged.is_timed {
                        latencies.add_ns(judged.took_ns);
                    }
                    approved += u64::from(judged.approved);
                }
                Err(error) => failures.push(error),
            },
        }
    }
    let seconds = watch.elapsed().as_secs_f64();
    Ok(json!({
        "rate": args.rate,
        "reached_per_s": (decided as f64 / seconds).round(),
        "decisions": decided,
        "approved": approved,
        "frauds_sent": frauds,
        "errors": failures.len(),
        "first_error": failures.first(),
        "latency": latencies.into_json(),
    }))
}

/// The cars with a card, connected and at the station.
async fn stand_at(args: &CardArgs, place: Position) -> Result<JoinSet<()>, Failure> {
    let mut standing = JoinSet::new();
    let (Some(mqtt), Some(ca), Some(ca_key)) = (&args.mqtt, &args.ca, &args.ca_key) else { return Ok(standing) };
    let fleet = FleetArgs {
        mqtt: mqtt.clone(),
        ca: ca.clone(),
        ca_key: ca_key.clone(),
        prefix: args.prefix.clone(),
        parallel: 16,
    };
    let clients = fleet.clients(args.cards, false)?;
    let sessions = fleet.connect_all(&clients).await?;
    let count = sessions.len() as u32;
    // Each has its own moment in the period, as in a fleet.
    let mut place_in_turn = Duration::ZERO;
    for (client, mut session) in sessions {
        let failed = |error| Failure::failed(format!("{}: {error}", client.name));
        report_place(&client.name, &mut session, 1, place).await.map_err(failed)?;
        place_in_turn += REPORT_EVERY / count;
        let mut moments = tokio::time::interval(REPORT_EVERY);
        moments.reset_after(place_in_turn);
        standing.spawn(async move {
            for seq in 2.. {
                moments.tick().await;
                if let Err(error) = report_place(&client.name, &mut session, seq, place).await {
                    tracing::warn!(car = client.name, %error, "left the station");
                    return;
                }
            }
        });
    }
    Ok(standing)
}

async fn report_place(name: &str, session: &mut Session, seq: u64, place: Position) -> Result<(), WireError> {
    let report = json!({"seq": seq, "at": Clock::start().now(), "signals": {
        path::LATITUDE: place.latitude,
        path::LONGITUDE: place.longitude,
        path::ACCURACY_M: 4,
        path::SPEED_KMH: 0,
        path::LOW_VOLTAGE: "OFF",
        path::FUEL_PERCENT: 40,
    }});
    let id = session.publish(&format!("v1/{name}/telemetry"), report.to_string().as_bytes());
    session.flush().await?;
    while session.next().await? != (Packet::PubAck { id }) {}
    Ok(())
}

/// The network has no API key: its signature speaks for it.
async fn judge(lines: Arc<Lines>, secret: Arc<str>, purchase: Purchase, unix_s: i64) -> Result<Judged, String> {
    let body = purchase.event(unix_s).to_string().into_bytes();
    let header = signature(&secret, unix_s, &body);
    let watch = Stopwatch::start();
    let (status, answer) = lines.post("/v1/payments/stripe", &[("Stripe-Signature", &header)], body).await?;
    let took_ns = watch.elapsed_ns();
    match answer.get("approved").and_then(Value::as_bool) {
        // The fallback is an answer to the network, and a failure to us.
        Some(_) if answer["metadata"]["outcome"] == "fallback" => Err(format!("answered by the fallback: {answer}")),
        Some(approved) if status == 200 => Ok(Judged { is_timed: true, took_ns, approved }),
        _ => Err(format!("answered {status}: {answer}")),
    }
}
