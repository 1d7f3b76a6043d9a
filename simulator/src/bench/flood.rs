//! `telemetry-flood`: as many QoS 1 reports as the broker takes, and how many reach the receiving end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cardea::clock::Clock;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::fleet::{Client, FleetArgs};
use super::metrics::Counter;
use super::report::ReportTemplate;
use super::subscriber::Subscriber;
use crate::failure::Failure;
use crate::process::Watched;
use crate::stopwatch::Stopwatch;
use crate::wire::{Packet, Session, WireError};

/// Everything that was acknowledged should have arrived by then.
const DRAIN: Duration = Duration::from_secs(10);
const DRAIN_STEP: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub struct FloodArgs {
    #[command(flatten)]
    pub fleet: FleetArgs,
    #[arg(long, default_value_t = 200)]
    pub connections: usize,
    /// Unacknowledged reports on each connection
    #[arg(long, default_value_t = 100)]
    pub window: usize,
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    #[arg(long, default_value_t = 2)]
    pub warm_up_seconds: u64,
    #[command(flatten)]
    pub receiver: ReceiverArgs,
    /// Whose processor time is counted
    #[arg(long)]
    pub pid: Option<u32>,
}

/// Who counts what arrives.
#[derive(Debug, Clone, Args)]
pub struct ReceiverArgs {
    /// A TLS subscriber to `v1/+/telemetry` counts
    #[arg(long, conflicts_with = "metrics")]
    pub subscriber: bool,
    #[arg(long, default_value_t = 1)]
    pub subscriber_qos: u8,
    /// The gateway's own counter counts: address of its metrics, like http://127.0.0.1:9464
    #[arg(long)]
    pub metrics: Option<String>,
    #[arg(long, default_value = "cardea_reports_applied_total")]
    pub metric: String,
}

/// The receiving end of a run.
pub enum Receiver {
    Nobody,
    Subscriber(Subscriber),
    Counter(Counter),
}

impl Receiver {
    pub async fn start(args: &ReceiverArgs, fleet: &FleetArgs, watch: Stopwatch) -> Result<Self, Failure> {
        if args.subscriber_qos > 1 {
            return Err(Failure::usage("--subscriber-qos is 0 or 1"));
        }
        Ok(match (&args.metrics, args.subscriber) {
            (Some(base), _) => Self::Counter(Counter::new(base, &args.metric)?),
            (None, true) => {
                let observer = fleet.observer()?;
                Self::Subscriber(Subscriber::start(&observer, "v1/+/telemetry", args.subscriber_qos, watch).await?)
            }
            (None, false) => Self::Nobody,
        })
    }

    pub async fn count(&self) -> Result<Option<u64>, Failure> {
        match self {
            Self::Nobody => Ok(None),
            Self::Subscriber(subscriber) => Ok(Some(subscriber.count())),
            Self::Counter(counter) => counter.read().await.map(Some),
        }
    }

    /// Waits until the count stands still.
    pub async fn drained(&self) -> Result<Option<u64>, Failure> {
        let watch = Stopwatch::start();
        let mut before = self.count().await?;
        let mut still = 0;
        while before.is_some() && watch.elapsed() < DRAIN && still < 10 {
            tokio::time::sleep(DRAIN_STEP).await;
            let now = self.count().await?;
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        Ok(before)
    }
}

pub async fn run(args: &FloodArgs) -> Result<Value, Failure> {
    if args.window == 0 || args.window > 60_000 {
        return Err(Failure::usage("--window lies between 1 and 60000"));
    }
    let watch = Stopwatch::start();
    let clients = args.fleet.clients(args.connections, false)?;
    let receiver = Receiver::start(&args.receiver, &args.fleet, watch).await?;
    let before_all = receiver.count().await?;
    let connected = args.fleet.connect_all(&clients).await?;
    let (acked, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut senders = JoinSet::new();
    for (client, session) in connected {
        senders.spawn(send(client, session, args.window, acked.clone(), ends.clone(), watch));
    }
    tokio::time::sleep(Duration::from_secs(args.warm_up_seconds)).await;
    let usage_before = args.pid.map(|pid| Watched(pid).usage()).transpose()?;
    let (acked_before, arrived_before) = (acked.load(Ordering::Relaxed), receiver.count().await?);
    let measured = Stopwatch::start();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let (acked_after, arrived_after) = (acked.load(Ordering::Relaxed), receiver.count().await?);
    let seconds = measured.elapsed().as_secs_f64();
    let usage_after = args.pid.map(|pid| Watched(pid).usage()).transpose()?;
    ends.store(true, Ordering::Relaxed);
    let mut failures = Vec::new();
    while let Some(ended) = senders.join_next().await {
        if let Err(error) = ended.map_err(Failure::failed)? {
            failures.push(error.to_string());
        }
    }
    let arrived_all = receiver.drained().await?.zip(before_all).map(|(after, before)| after - before);
    if let Receiver::Subscriber(subscriber) = receiver {
        subscriber.end().await?;
    }
    let acked_all = acked.load(Ordering::Relaxed);
    let acked_in = acked_after - acked_before;
    let arrived_in = arrived_after.zip(arrived_before).map(|(after, before)| after - before);
    let processor_s = usage_after.zip(usage_before).map(|(after, before)| after.processor_s - before.processor_s);
    Ok(json!({
        "connections": args.connections,
        "seconds": seconds,
        "acked_per_s": (acked_in as f64 / seconds).round(),
        "arrived_per_s": arrived_in.map(|count| (count as f64 / seconds).round()),
        "acked": acked_all,
        "arrived": arrived_all,
        "not_arrived": arrived_all.map(|arrived| acked_all.saturating_sub(arrived)),
        "processor_us_per_message": processor_s.map(|s| s * 1e6 / acked_in.max(1) as f64),
        "broken_connections": failures.len(),
        "first_failure": failures.first(),
    }))
}

/// Keeps the window full until told to end, then waits for the rest to be acknowledged.
async fn send(
    client: Client,
    mut session: Session,
    window: usize,
    acked: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    watch: Stopwatch,
) -> Result<(), WireError> {
    let mut template = ReportTemplate::new(&client.name, Clock::start());
    let mut payload = Vec::new();
    let mut under_way = 0;
    loop {
        if !ends.load(Ordering::Relaxed) {
            let sent_ns = watch.elapsed_ns();
            while under_way < window {
                template.next(sent_ns, &mut payload);
                session.publish(template.topic(), &payload);
                under_way += 1;
            }
            session.flush().await?;
        } else if under_way == 0 {
            session.close().await;
            return Ok(());
        }
        let mut next = Some(session.next().await?);
        let mut count = 0;
        while let Some(packet) = next {
            if let Packet::PubAck { .. } = packet {
                count += 1;
            }
            next = session.try_next()?;
        }
        under_way = under_way.saturating_sub(count);
        acked.fetch_add(count as u64, Ordering::Relaxed);
    }
}
