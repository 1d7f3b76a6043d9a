//! `connect`: how many mutual TLS connections with CONNECT and CONNACK a broker takes in a second, with full
//! handshakes and with resumed ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::fleet::{Client, FleetArgs};
use super::latencies::Latencies;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;

#[derive(Debug, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Connections in each round
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
}

pub async fn run(args: &ConnectArgs) -> Result<Value, Failure> {
    let fresh = args.fleet.clients(args.connections, false)?;
    let full = round(&fresh, args.fleet.parallel).await?;
    let returning = args.fleet.clients(args.connections, true)?;
    // The first round fetches the tickets.
    round(&returning, args.fleet.parallel).await?;
    let resumed = round(&returning, args.fleet.parallel).await?;
    Ok(json!({ "full": full, "resumed": resumed }))
}

#[derive(Default)]
struct Tally {
    latencies: Latencies,
    resumed: usize,
    failures: usize,
    first_failure: Option<String>,
}

async fn round(clients: &[Client], parallel: usize) -> Result<Value, Failure> {
    let clients: Arc<[Client]> = clients.into();
    let next = Arc::new(AtomicUsize::new(0));
    let watch = Stopwatch::start();
    let mut workers = JoinSet::new();
    for _ in 0..parallel.max(1) {
        workers.spawn(connect_in_turn(clients.clone(), next.clone()));
    }
    let mut sum = Tally::default();
    while let Some(tally) = workers.join_next().await {
        let tally = tally.map_err(Failure::failed)?;
        sum.latencies.merge(tally.latencies);
        sum.resumed += tally.resumed;
        sum.failures += tally.failures;
        sum.first_failure = sum.first_failure.or(tally.first_failure);
    }
    let seconds = watch.elapsed().as_secs_f64();
    if sum.latencies.is_empty() {
        return Err(Failure::failed(sum.first_failure.unwrap_or_else(|| "nothing to connect".into())));
    }
    Ok(json!({
        "connections": sum.latencies.len(),
        "per_s": (sum.latencies.len() as f64 / seconds).round(),
        "resumed": sum.resumed,
        "failures": sum.failures,
        "first_failure": sum.first_failure,
        "latency": sum.latencies.into_json(),
    }))
}

async fn connect_in_turn(clients: Arc<[Client]>, next: Arc<AtomicUsize>) -> Tally {
    let mut tally = Tally::default();
    while let Some(client) = clients.get(next.fetch_add(1, Ordering::Relaxed)) {
        let watch = Stopwatch::start();
        match client.connect().await {
            Ok(session) => {
                tally.latencies.add_ns(watch.elapsed_ns());
                tally.resumed += usize::from(session.was_resumed);
                session.close().await;
            }
            Err(error) => {
                tally.failures += 1;
                tally.first_failure.get_or_insert(error.to_string());
            }
        }
    }
    tally
}
