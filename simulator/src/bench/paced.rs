//! `telemetry-paced`: many cars at a steady pace, and how long a report takes to its acknowledgement and to its receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cardea::clock::Clock;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::fleet::{Client, FleetArgs};
use super::flood::{Receiver, ReceiverArgs};
use super::http::HttpArgs;
use super::latencies::Latencies;
use super::reader::Reader;
use super::report::ReportTemplate;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::process::Watched;
use crate::stopwatch::Stopwatch;
use crate::wire::{Packet, Session, WireError};

#[derive(Debug, Args)]
pub struct PacedArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    #[arg(long, default_value_t = 1_000)]
    cars: usize,
    /// Reports per second and car
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    #[arg(long, default_value_t = 3)]
    warm_up_seconds: u64,
    #[command(flatten)]
    receiver: ReceiverArgs,
    /// A reader over HTTP receives: one car more reports, and is read until its value is seen
    #[arg(long, requires = "http", conflicts_with = "subscriber")]
    reader: bool,
    #[command(flatten)]
    http: Option<HttpArgs>,
    /// Whose processor time is counted
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Default)]
struct Sent {
    latencies: Latencies,
    /// Published in the measured time.
    published: u64,
    failure: Option<WireError>,
}

pub async fn run(args: &PacedArgs) -> Result<Value, Failure> {
    if !(args.rate > 0.0 && args.rate <= 1_000.0) {
        return Err(Failure::usage("--rate lies between 0 and 1000 reports per second"));
    }
    let watch = Stopwatch::start();
    let clients = args.fleet.clients(args.cars, false)?;
    let receiver = Receiver::start(&args.receiver, &args.fleet, watch).await?;
    let connected = args.fleet.connect_all(&clients).await?;
    let reader = match (&args.http, args.reader) {
        (Some(http), true) => Some(Reader::start(args.fleet.observer()?, http).await?),
        (Some(_) | None, _) => None,
    };
    let (measures, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut senders = JoinSet::new();
    for (client, session) in connected {
        senders.spawn(send(client, session, args.rate, measures.clone(), ends.clone(), watch));
    }
    tokio::time::sleep(Duration::from_secs(args.warm_up_seconds)).await;
    let usage_before = args.pid.map(|pid| Watched(pid).usage()).transpose()?;
    let arrived_before = receiver.count().await?;
    let measured = Stopwatch::start();
    measures.store(true, Ordering::Relaxed);
    time_arrivals(&receiver, reader.as_ref(), true);
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    measures.store(false, Ordering::Relaxed);
    time_arrivals(&receiver, reader.as_ref(), false);
    let seconds = measured.elapsed().as_secs_f64();
    let usage_after = args.pid.map(|pid| Watched(pid).usage()).transpose()?;
    let arrived_after = receiver.count().await?;
    ends.store(true, Ordering::Relaxed);
    let mut sum = Sent::default();
    let mut broken = 0;
    while let Some(sent) = senders.join_next().await {
        let sent = sent.map_err(Failure::failed)?;
        sum.latencies.merge(sent.latencies);
        sum.published += sent.published;
        broken += usize::from(sent.failure.is_some());
        sum.failure = sum.failure.or(sent.failure);
    }
    let to_receiver = match (receiver, reader) {
        (_, Some(reader)) => reader.end().await?.into_json(),
        (Receiver::Subscriber(subscriber), None) => subscriber.end().await?.into_json(),
        (Receiver::Nobody | Receiver::Counter(_), None) => Value::Null,
    };
    let processor_s = usage_after.zip(usage_before).map(|(after, before)| after.processor_s - before.processor_s);
    Ok(json!({
        "cars": args.cars,
        "rate": args.rate,
        "seconds": seconds,
        "published": sum.published,
        "arrived": arrived_after.zip(arrived_before).map(|(after, before)| after - before),
        "puback": sum.latencies.into_json(),
        "to_receiver": to_receiver,
        "processor_us_per_message": processor_s.map(|s| s * 1e6 / sum.published.max(1) as f64),
        "broken_connections": broken,
        "first_failure": sum.failure.map(|error| error.to_string()),
    }))
}

fn time_arrivals(receiver: &Receiver, reader: Option<&Reader>, on: bool) {
    if let Receiver::Subscriber(subscriber) = receiver {
        subscriber.measure(on);
    }
    if let Some(reader) = reader {
        reader.measure(on);
    }
}

async fn send(
    client: Client,
    session: Session,
    rate: f64,
    measures: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    watch: Stopwatch,
) -> Sent {
    let mut sent = Sent::default();
    if let Err(error) = pace(&client, session, rate, &measures, &ends, watch, &mut sent).await {
        sent.failure = Some(error);
    }
    sent
}

/// One report at a time: a car whose last one is not acknowledged waits, and its next moments are skipped.
async fn pace(
    client: &Client,
    mut session: Session,
    rate: f64,
    measures: &AtomicBool,
    ends: &AtomicBool,
    watch: Stopwatch,
    sent: &mut Sent,
) -> Result<(), WireError> {
    let mut template = ReportTemplate::new(&client.name, Clock::start());
    let mut payload = Vec::new();
    let period = Duration::from_secs_f64(1.0 / rate);
    tokio::time::sleep(period.mul_f64(Dice::fork(7, client.index as u64).unit())).await;
    let mut moments = tokio::time::interval(period);
    moments.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !ends.load(Ordering::Relaxed) {
        moments.tick().await;
        let sent_ns = watch.elapsed_ns();
        template.next(sent_ns, &mut payload);
        let id = session.publish(template.topic(), &payload);
        let is_measured = measures.load(Ordering::Relaxed);
        sent.published += u64::from(is_measured);
        session.flush().await?;
        while session.next().await? != (Packet::PubAck { id }) {}
        if is_measured {
            sent.latencies.add_ns(watch.elapsed_ns() - sent_ns);
        }
    }
    session.close().await;
    Ok(())
}
