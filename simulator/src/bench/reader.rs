//! The receiving end where the gateway itself is the application: how long after a report was published does a reader
//! over HTTP see its value? One car more than the run has reports and is read, again and again, on a thread of its own:
//! it must not wait behind the load generator's cars.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cardea::clock::Clock;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::fleet::Client;
use super::http::HttpArgs;
use super::latencies::Latencies;
use super::lines::Lines;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;
use crate::wire::{Packet, WireError};

const PERIOD: Duration = Duration::from_millis(20);
/// A value that is not seen by then is an error, not a latency.
const TOO_LATE: Duration = Duration::from_secs(10);
const SIGNAL: &str = "Vehicle.TraveledDistance";

pub struct Reader {
    measures: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    result: oneshot::Receiver<Result<Latencies, Failure>>,
}

impl Reader {
    /// Registers the observer as a vehicle, connects as it, and begins.
    pub async fn start(client: Client, args: &HttpArgs) -> Result<Self, Failure> {
        let registered = args.client()?.post("/v1/vehicles", &json!({"vehicle_id": client.name})).await?;
        registered.must_be(&[201, 409])?;
        let (measures, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (reply, result) = oneshot::channel();
        let work = probe(client, args.clone(), measures.clone(), ends.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("reader".into()).spawn(move || {
            // The run may have failed for another reason; then nobody waits for this.
            let _ = reply.send(runtime.block_on(work));
        })?;
        Ok(Self { measures, ends, result })
    }

    pub fn measure(&self, on: bool) {
        self.measures.store(on, Ordering::Relaxed);
    }

    pub async fn end(self) -> Result<Latencies, Failure> {
        self.ends.store(true, Ordering::Relaxed);
        self.result.await.map_err(Failure::failed)?
    }
}

async fn probe(
    client: Client,
    http: HttpArgs,
    measures: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
) -> Result<Latencies, Failure> {
    let broken = |error: WireError| Failure::failed(format!("reader: {error}"));
    let name = &client.name;
    let lines = Lines::open(&http, 1).await?;
    let bearer = format!("Bearer {}", http.admin_key());
    let mut session = client.connect().await.map_err(broken)?;
    let clock = Clock::start();
    let boot = clock.now().0;
    let topic = format!("v1/{name}/telemetry");
    let mut latencies = Latencies::default();
    let mut moments = tokio::time::interval(PERIOD);
    moments.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut seq = 0u64;
    while !ends.load(Ordering::Relaxed) {
        moments.tick().await;
        seq += 1;
        let report = json!({"boot": boot, "seq": seq, "at": clock.now(), "signals": {SIGNAL: seq}});
        let is_measured = measures.load(Ordering::Relaxed);
        let watch = Stopwatch::start();
        let id = session.publish(&topic, report.to_string().as_bytes());
        session.flush().await.map_err(broken)?;
        let took_ns = seen(&lines, &bearer, name, seq, watch).await?;
        while session.next().await.map_err(broken)? != (Packet::PubAck { id }) {}
        if is_measured {
            latencies.add_ns(took_ns);
        }
    }
    session.close().await;
    Ok(latencies)
}

/// Reads until the value is there; the way of the last answer back is part of the figure.
async fn seen(lines: &Lines, bearer: &str, name: &str, seq: u64, watch: Stopwatch) -> Result<u64, Failure> {
    let path = format!("/v1/vehicles/{name}");
    let mut last = Value::Null;
    while watch.elapsed() < TOO_LATE {
        let (status, body) = lines.get(&path, &[("Authorization", bearer)]).await.map_err(Failure::failed)?;
        last = body["signals"][SIGNAL]["value"].clone();
        if status != 200 {
            return Err(Failure::failed(format!("reader: answered {status}: {body}")));
        }
        if last.as_f64().is_some_and(|value| value >= seq as f64) {
            return Ok(watch.elapsed_ns());
        }
    }
    Err(Failure::failed(format!("reader: value {seq} was not seen within {TOO_LATE:?}; last {last}")))
}
