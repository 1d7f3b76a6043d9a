//! `hold`: what a connected, subscribed, idle car costs the broker in memory.

use std::time::Duration;

use cardea::clock::Clock;
use clap::Args;
use serde_json::{Value, json};

use super::fleet::FleetArgs;
use super::report::ReportTemplate;
use crate::failure::Failure;
use crate::process::Watched;
use crate::wire::Packet;

#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    #[arg(long, default_value_t = 5_000)]
    connections: usize,
    /// The broker's process
    #[arg(long)]
    pid: u32,
    /// How long the broker may settle before it is looked at
    #[arg(long, default_value_t = 5)]
    settle_seconds: u64,
    /// Reports each car sends first, so that its state exists
    #[arg(long, default_value_t = 1)]
    reports: usize,
}

pub async fn run(args: &HoldArgs) -> Result<Value, Failure> {
    let broker = Watched(args.pid);
    let clients = args.fleet.clients(args.connections, false)?;
    let settle = || tokio::time::sleep(Duration::from_secs(args.settle_seconds));
    let before = broker.usage()?;
    let mut connected = args.fleet.connect_all(&clients).await?;
    let mut payload = Vec::new();
    for (client, session) in &mut connected {
        let failed = |error| Failure::failed(format!("{}: {error}", client.name));
        session.subscribe(&format!("v1/{}/command", client.name), 1).await.map_err(failed)?;
        let mut template = ReportTemplate::new(&client.name, Clock::start());
        for _ in 0..args.reports {
            template.next(0, &mut payload);
            let id = session.publish(template.topic(), &payload);
            session.flush().await.map_err(failed)?;
            while session.next().await.map_err(failed)? != (Packet::PubAck { id }) {}
        }
    }
    settle().await;
    let held = broker.usage()?;
    for (_, session) in connected {
        session.close().await;
    }
    settle().await;
    let after = broker.usage()?;
    let grown_kib = held.resident_kib as f64 - before.resident_kib as f64;
    Ok(json!({
        "connections": args.connections,
        "before_kib": before.resident_kib,
        "held_kib": held.resident_kib,
        "after_kib": after.resident_kib,
        "kb_per_connection": grown_kib * 1024.0 / 1000.0 / args.connections.max(1) as f64,
    }))
}
