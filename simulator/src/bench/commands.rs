//! `bulk-command` and `command-latency`: from the HTTP request of a command to its arrival in the car.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::command::{Ack, AckStatus, ToCar};
use cardea::mqtt::payload;
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::fleet::{Client, FleetArgs};
use super::http::HttpArgs;
use super::latencies::Latencies;
use super::lines::Lines;
use super::report::ReportTemplate;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;
use crate::wire::{Packet, Session, WireError, put_puback, put_publish};

#[derive(Debug, Args)]
pub struct BulkArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[arg(long, default_value_t = 10_000)]
    cars: usize,
    /// How often the whole fleet is commanded
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 30)]
    deadline_seconds: u64,
}

#[derive(Debug, Args)]
pub struct LatencyArgs {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[arg(long, default_value_t = 1_000)]
    cars: usize,
    /// Commands per second, spread over the cars in turn
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Not commands but keys: each car is requested once, and what is timed is the way of its grant
    #[arg(long)]
    grants: bool,
}

impl LatencyArgs {
    fn timed(&self) -> usize {
        if self.grants { self.cars } else { (self.rate * self.seconds as f64) as usize }
    }

    /// What is asked of a car.
    fn request(&self, car: &str) -> (String, Vec<u8>) {
        if !self.grants {
            return (format!("/v1/vehicles/{car}/commands"), json!({"type": "report_state"}).to_string().into_bytes());
        }
        let now = Clock::start().now();
        // The curve's base point: a key whose secret half is 1.
        let holder_key = json!({"kty": "EC", "crv": "P-256", "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
            "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"});
        let wish = json!({"vehicle_id": car, "profile": "cabin", "renter": "bench", "from": now,
            "until": now.plus_ms(3_600_000), "holder_key": holder_key});
        ("/v1/usage-requests".into(), wish.to_string().into_bytes())
    }
}

/// A command that reached a car.
struct Arrival {
    car: usize,
    at_ns: u64,
}

/// Connected cars that acknowledge whatever they are told, and say when.
struct Listening {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    cars: JoinSet<Result<(), WireError>>,
}

impl Listening {
    async fn start(fleet: &FleetArgs, clients: &[Client], watch: Stopwatch) -> Result<Self, Failure> {
        let connected = fleet.connect_all(clients).await?;
        // Unbounded, but each car holds at most the gateway's window of unanswered commands.
        let (sender, arrivals) = mpsc::unbounded_channel();
        let (ready, mut is_ready) = mpsc::channel(1);
        let mut cars = JoinSet::new();
        for (client, session) in connected {
            cars.spawn(listen(client, session, sender.clone(), ready.clone(), watch));
        }
        drop(ready);
        for _ in clients {
            if is_ready.recv().await.is_none() {
                break;
            }
        }
        let mut listening = Self { arrivals, cars };
        match listening.failure() {
            Some(error) => Err(Failure::failed(format!("a car: {error}"))),
            None => Ok(listening),
        }
    }

    fn failure(&mut self) -> Option<WireError> {
        self.cars.try_join_next().and_then(|ended| ended.ok()?.err())
    }
}

/// Answers `succeeded` to each command, once; the contract's own memory of repeats is the simulated car's part.
async fn listen(
    client: Client,
    mut session: Session,
    arrivals: mpsc::UnboundedSender<Arrival>,
    ready: mpsc::Sender<()>,
    watch: Stopwatch,
) -> Result<(), WireError> {
    let clock = Clock::start();
    let ack_topic = format!("v1/{}/ack", client.name);
    let mut report = Vec::new();
    session.subscribe(&format!("v1/{}/command", client.name), 1).await?;
    let mut template = ReportTemplate::new(&client.name, clock.clone());
    template.next(0, &mut report);
    let first = session.publish(template.topic(), &report);
    session.flush().await?;
    let mut is_told = false;
    loop {
        let (payload, id) = match session.next().await? {
            Packet::Publish { payload, id, .. } => (payload, id),
            Packet::PubAck { id } if id == first && !is_told => {
                is_told = true;
                // Nobody waits any more when the run is over.
                let _ = ready.send(()).await;
                continue;
            }
            _ => continue,
        };
        let at_ns = watch.elapsed_ns();
        if let Some(id) = id {
            put_puback(&mut session.out, id);
        }
        if let Ok(ToCar::Command { command_id, .. }) = payload::decode_to_car(&payload) {
            let ack = Ack { command_id, at: clock.now(), status: AckStatus::Succeeded, reason: None };
            let ack_id = session.new_id();
            put_publish(&mut session.out, &ack_topic, Some(ack_id), &payload::encode_ack(&ack));
            if arrivals.send(Arrival { car: client.index, at_ns }).is_err() {
                return Ok(());
            }
        }
        session.flush().await?;
    }
}

const SETTLE: Duration = Duration::from_secs(3);

pub async fn run_bulk(args: &BulkArgs) -> Result<Value, Failure> {
    let watch = Stopwatch::start();
    let http = args.http.client()?;
    let clients = args.fleet.clients(args.cars, false)?;
    let mut listening = Listening::start(&args.fleet, &clients, watch).await?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds.max(1) {
        // What is measured is one bulk command, not also the connecting of the fleet or the answers to the one before.
        tokio::time::sleep(SETTLE).await;
        rounds.push(bulk_round(args, &http, &mut listening, watch).await?);
    }
    Ok(json!({ "cars": args.cars, "rounds": rounds }))
}

async fn bulk_round(
    args: &BulkArgs,
    http: &crate::http_client::HttpClient,
    listening: &mut Listening,
    watch: Stopwatch,
) -> Result<Value, Failure> {
    // What is left of an earlier round does not count.
    while listening.arrivals.try_recv().is_ok() {}
    let sent_ns = watch.elapsed_ns();
    let body = json!({"all": true, "type": "report_state"});
    let request = http.post("/v1/commands", &body);
    let collect = async {
        let mut latencies = Latencies::default();
        let mut seen = vec![false; args.cars];
        let mut last_ns = sent_ns;
        while latencies.len() < args.cars {
            let Some(arrival) = listening.arrivals.recv().await else { break };
            if !std::mem::replace(&mut seen[arrival.car], true) {
                latencies.add_ns(arrival.at_ns.saturating_sub(sent_ns));
                last_ns = last_ns.max(arrival.at_ns);
            }
            if watch.elapsed_ns() - sent_ns > args.deadline_seconds * 1_000_000_000 {
                break;
            }
        }
        latencies
    };
    let timed = async {
        let answer = request.await;
        (answer, watch.elapsed_ns() - sent_ns)
    };
    let bounded = tokio::time::timeout(Duration::from_secs(args.deadline_seconds), collect);
    let ((answer, answered_ns), arrived) = tokio::join!(timed, bounded);
    let answer = answer?.must_be(&[202])?;
    let accepted = answer.list("/items")?.iter().filter(|item| item.get("command_id").is_some()).count();
    let arrived = arrived
        .map_err(|_| Failure::failed(format!("not every car had its command within {} s", args.deadline_seconds)))?;
    Ok(json!({
        "accepted": accepted,
        "arrived": arrived.len(),
        "answered_ms": answered_ns as f64 / 1e6,
        "arrival": arrived.into_json(),
    }))
}

/// Commands of the first so many seconds are not timed.
const WARM_UP_S: u64 = 2;
/// Open from the start, as those of an operator's own servers are.
const CONNECTIONS: usize = 64;

pub async fn run_latency(args: &LatencyArgs) -> Result<Value, Failure> {
    if !(args.rate > 0.0 && args.rate <= 100_000.0) || args.cars == 0 {
        return Err(Failure::usage("--rate lies between 0 and 100000 per second, --cars is at least 1"));
    }
    let watch = Stopwatch::start();
    let clients = args.fleet.clients(args.cars, false)?;
    let mut listening = Listening::start(&args.fleet, &clients, watch).await?;
    let lines = Arc::new(Lines::open(&args.http, CONNECTIONS).await?);
    let bearer: Arc<str> = format!("Bearer {}", args.http.admin_key()).into();
    // When the last command to each car was asked for; 0 = none is under way.
    let asked: Arc<[AtomicU64]> = (0..args.cars).map(|_| AtomicU64::new(0)).collect();
    let mut requests: JoinSet<Result<u64, String>> = JoinSet::new();
    let mut moments = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    let (mut arrived, mut answered) = (Latencies::default(), Latencies::default());
    let (mut asked_count, mut busy, mut failures) = (0usize, 0u64, Vec::new());
    // A car is rented once.
    let warm_up = if args.grants { 0 } else { (args.rate * WARM_UP_S as f64) as usize };
    let total = warm_up + args.timed();
    let started = Stopwatch::start();
    let limit = Duration::from_secs_f64(total as f64 / args.rate + 20.0);
    let mut arrived_count = 0usize;
    while (asked_count < total || arrived_count + failures.len() < asked_count - busy as usize)
        && started.elapsed() < limit
    {
        tokio::select! {
            _ = moments.tick() => {
                if asked_count >= total {
                    continue;
                }
                let car = asked_count % args.cars;
                asked_count += 1;
                if asked[car].compare_exchange(0, watch.elapsed_ns(), Ordering::Relaxed, Ordering::Relaxed).is_err() {
                    busy += 1;
                    continue;
                }
                let (path, body) = args.request(&clients[car].name);
                requests.spawn(ask(lines.clone(), bearer.clone(), path, body, watch));
            }
            Some(arrival) = listening.arrivals.recv() => {
                let asked_ns = asked[arrival.car].swap(0, Ordering::Relaxed);
                if asked_ns > 0 {
                    arrived_count += 1;
                    if arrived_count > warm_up {
                        arrived.add_ns(arrival.at_ns.saturating_sub(asked_ns));
                    }
                }
            }
            Some(done) = requests.join_next() => match done.map_err(Failure::failed)? {
                Ok(took_ns) => answered.add_ns(took_ns),
                Err(error) => failures.push(error),
            },
        }
    }
    while let Some(done) = requests.join_next().await {
        match done.map_err(Failure::failed)? {
            Ok(took_ns) => answered.add_ns(took_ns),
            Err(error) => failures.push(error),
        }
    }
    let accepted = asked_count - busy as usize - failures.len();
    Ok(json!({
        "cars": args.cars,
        "rate": args.rate,
        "asked": asked_count - busy as usize,
        "skipped_since_car_was_busy": busy,
        "not_arrived": accepted.saturating_sub(arrived_count),
        "failures": failures.len(),
        "first_failure": failures.first(),
        "answer": answered.into_json(),
        "arrival": arrived.into_json(),
    }))
}

async fn ask(
    lines: Arc<Lines>,
    bearer: Arc<str>,
    path: String,
    body: Vec<u8>,
    watch: Stopwatch,
) -> Result<u64, String> {
    let sent_ns = watch.elapsed_ns();
    let key = Uuid::now_v7().to_string();
    let headers = [("Authorization", &*bearer), ("Idempotency-Key", &key)];
    match lines.post(&path, &headers, body).await? {
        (201 | 202, _) => Ok(watch.elapsed_ns() - sent_ns),
        (status, problem) => Err(format!("answered {status}: {problem}")),
    }
}
