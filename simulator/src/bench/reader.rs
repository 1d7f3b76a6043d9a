//! The receiving end of the gateway's telemetry as anybody has it: a reader of the HTTP API. A probe car among the others
//! publishes a number, and the reader asks again and again until the gateway shows it: an upper bound of the way from
//! the car to the vehicle's actor, since it includes an HTTP request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cardea::clock::Clock;
use serde_json::json;

use super::fleet::FleetArgs;
use super::latencies::Latencies;
use crate::dice::Dice;
use crate::failure::Failure;
use crate::http_client::HttpClient;
use crate::stopwatch::Stopwatch;
use crate::wire::Packet;

/// A path no car reports, so that its value is the probe's alone.
const SIGNAL: &str = "Vehicle.Cardea.BenchProbe";
const PERIOD: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes and reads until `ends`; times what begins while `measures`.
pub async fn probe(
    fleet: FleetArgs,
    http: HttpClient,
    measures: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
) -> Result<Latencies, Failure> {
    let client = FleetArgs { prefix: format!("{}-probe", fleet.prefix), ..fleet }.clients(1, false)?.remove(0);
    let mut session = client.connect().await.map_err(Failure::failed)?;
    let topic = format!("v1/{}/telemetry", client.name);
    let page = format!("/v1/vehicles/{}", client.name);
    let (clock, mut dice) = (Clock::start(), Dice::new(11));
    let mut latencies = Latencies::default();
    let mut seq = 0u64;
    while !ends.load(Ordering::Relaxed) {
        // Not in step with anybody's clock.
        tokio::time::sleep(PERIOD.mul_f64(0.5 + dice.unit())).await;
        seq += 1;
        let message = json!({"seq": seq, "at": clock.now(), "signals": {SIGNAL: seq}}).to_string();
        let is_measured = measures.load(Ordering::Relaxed);
        let watch = Stopwatch::start();
        let id = session.publish(&topic, message.as_bytes());
        session.flush().await.map_err(Failure::failed)?;
        await_shown(&http, &page, seq, watch).await?;
        if is_measured {
            latencies.add_ns(watch.elapsed_ns());
        }
        while session.next().await.map_err(Failure::failed)? != (Packet::PubAck { id }) {}
    }
    session.close().await;
    Ok(latencies)
}

async fn await_shown(http: &HttpClient, page: &str, seq: u64, watch: Stopwatch) -> Result<(), Failure> {
    while watch.elapsed() < PATIENCE {
        let answer = http.get(page).await?;
        let shown = answer.body.pointer(&format!("/signals/{SIGNAL}/value")).and_then(serde_json::Value::as_f64);
        if answer.status == 200 && shown == Some(seq as f64) {
            return Ok(());
        }
    }
    Err(Failure::failed(format!("the gateway did not show the probe's report within {PATIENCE:?}")))
}
