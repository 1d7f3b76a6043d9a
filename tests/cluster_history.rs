//! Seeded rounds of faults under load, and a judge of what was promised: kills, halts, cut wires and leaping clocks, of
//! gateways and of the NATS servers behind them, while clients ask all gateways at once and cars come and go. Where network
//! namespaces are possible, servers are also cut from each other (kit/namespaces.rs).
//!
//! `CARDEA_HISTORY_SEED` and `CARDEA_HISTORY_ROUNDS` repeat a run or make it longer (`./scripts/cluster --rounds 100`).

#[path = "kit/history.rs"]
mod history;
mod kit;
#[path = "kit/workload.rs"]
mod workload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cardea_simulator::car::CarHandle;
use history::{Asked, Attempt, Executed, Heard, NodeState, Record, Violation};
use kit::forward::Forward;
use kit::nats::NatsCluster;
use kit::{Gateway, PATIENCE, car, namespaces, until};
use serde_json::{Value, json};
use workload::{Dice, OWN_SECRET, Workload, card_of};

const VEHICLES: [&str; 4] = ["HIST-1", "HIST-2", "HIST-3", "HIST-4"];
const NODES: [&str; 3] = ["gw-1", "gw-2", "gw-3"];
const CLIENTS: u64 = 6;
const STREAM: &str = "CARDEA";
/// Violations of a round that are printed; the others follow from them, mostly.
const SHOWN: usize = 20;
/// How long a gateway may take to say the same as the others.
const AGREED_WITHIN: Duration = Duration::from_secs(30);

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await; // poll
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Debian's libfaketime, for a gateway whose clock leaps.
fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64"];
    let paths = folders.map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"));
    paths.into_iter().find(|path| path.exists())
}

/// One gateway with what can be done to it.
struct Node {
    name: &'static str,
    gateway: Gateway,
    /// Its wires to the NATS servers.
    wires: Vec<Forward>,
    /// Says how far its clock is off.
    clock: Option<PathBuf>,
    restarts: u32,
}

impl Node {
    async fn launch(&mut self) {
        self.restarts += 1;
        // As systemd does, until it stays: servers may be away just now.
        for _ in 0..20 {
            match tokio::task::block_in_place(|| self.gateway.launch()) {
                Ok(()) => return,
                Err((log, status)) => {
                    let newest: Vec<&str> = log.lines().rev().take(3).collect();
                    println!("    {} ended at its start with {status}: {newest:?}", self.name);
                    pause(500).await;
                }
            }
        }
        panic!("{} does not start", self.name);
    }

    fn set_clock(&self, seconds: i64) {
        if let Some(file) = &self.clock {
            std::fs::write(file, format!("{seconds:+}")).expect("written");
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Halt,
    Cut,
    Clock,
}

/// Of a NATS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerFault {
    Kill,
    Halt,
    /// From the other servers and from the gateways.
    Isolate,
}

/// Everything that runs.
struct Fleet {
    nodes: Vec<Node>,
    nats: Option<NatsCluster>,
    /// Before the gateways, for the cars.
    _balancer: Forward,
    cars: Vec<CarHandle>,
    load: Arc<Workload>,
    /// The newest record that was judged.
    judged: u64,
    /// The newest claim on each vehicle up to there.
    claims: BTreeMap<String, Record>,
}

/// Settings of every gateway here; its ports are the same after a restart.
fn sets(name: &str) -> Vec<String> {
    let ports = [kit::steady_port(), kit::steady_port(), kit::steady_port()];
    vec![
        format!("http.listen=127.0.0.1:{}", ports[0]),
        format!("mqtt.listen=127.0.0.1:{}", ports[1]),
        format!("metrics.listen=127.0.0.1:{}", ports[2]),
        format!("payments.own.secrets=[\"{OWN_SECRET}\"]"),
        format!("cluster.node={name}"),
        "payments.stripe.deadline_ms=900".into(),
    ]
}

fn clock_envs(dir: &Path, name: &str, library: Option<&PathBuf>) -> (Option<PathBuf>, Vec<(String, String)>) {
    let Some(library) = library else { return (None, Vec::new()) };
    let file = dir.join(format!("{name}.clock"));
    std::fs::write(&file, "+0").expect("written");
    let envs = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    (Some(file), envs.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

impl Fleet {
    /// One gateway with a journal of its own.
    async fn alone() -> Self {
        let sets = sets(NODES[0]);
        let gateway = Gateway::start_with(&sets.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let node = Node { name: NODES[0], gateway, wires: Vec::new(), clock: None, restarts: 0 };
        Self::prepare(vec![node], None).await
    }

    async fn cluster(clocks: &Path) -> Option<Self> {
        let nats = NatsCluster::start_apart().await?;
        let library = faketime();
        if library.is_none() {
            println!("SKIPPED: no clock leaps, since libfaketime is not installed");
        }
        let mut nodes: Vec<Node> = Vec::new();
        for name in NODES {
            let mut wires = Vec::new();
            for server in 0..nats.len() {
                wires.push(Forward::to(vec![nats.address(server)]).await);
            }
            let ports: Vec<u16> = wires.iter().map(|wire| wire.address.port()).collect();
            let sets = [sets(name), nats.sets_through(&ports)].concat();
            let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
            let (clock, envs) = clock_envs(clocks, name, library.as_ref());
            let envs: Vec<(&str, &str)> = envs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let gateway = match nodes.first() {
                None => Gateway::start_in(&envs, &sets).await,
                Some(first) => first.gateway.start_beside(&envs, name, &sets).await,
            };
            nodes.push(Node { name, gateway, wires, clock, restarts: 0 });
        }
        Some(Self::prepare(nodes, Some(nats)).await)
    }

    async fn prepare(nodes: Vec<Node>, nats: Option<NatsCluster>) -> Self {
        let first = &nodes[0].gateway;
        for vehicle in VEHICLES {
            first.register(vehicle).await;
            let card = json!({"network_ref": card_of(vehicle), "vehicle_id": vehicle, "status": "active"});
            assert_eq!(first.post("/v1/cards", card).await.0, 201);
        }
        let balancer = Forward::to(nodes.iter().map(|node| node.gateway.mqtt).collect()).await;
        let mqtt: cardea_simulator::car::MqttAddress = balancer.address.to_string().parse().expect("an address");
        let cars = VEHICLES.map(|vehicle| {
            car::start(first, vehicle, |options| {
                options.mqtt = mqtt.clone();
                options.keep_alive = Duration::from_secs(3);
                options.connect_timeout = Duration::from_secs(2);
                options.longest_retry = Duration::from_secs(1);
                options.telemetry_interval = Duration::from_millis(500);
            })
        });
        let names: Vec<(&str, &Gateway)> = nodes.iter().map(|node| (node.name, &node.gateway)).collect();
        let load = Arc::new(Workload::new(&names, &VEHICLES));
        let fleet =
            Self { nodes, nats, _balancer: balancer, cars: cars.into(), load, judged: 0, claims: BTreeMap::new() };
        fleet.settled().await;
        fleet
    }

    /// Every gateway is ready, has every answer on record that it gave, and says of every car that it is there and has nothing
    /// to do.
    async fn settled(&self) {
        for node in &self.nodes {
            until(&format!("{} is ready", node.name), async || node.gateway.probe("/readyz").await.0 == 200).await;
            until("a record for every answer", async || node.gateway.metric("cardea_card_early_waiting").await == 0.0)
                .await;
        }
        for (car, vehicle) in self.cars.iter().zip(VEHICLES) {
            car.wait_connected(PATIENCE).await.expect("the car comes back");
            for node in &self.nodes {
                let (clock, path) = (cardea::clock::Clock::start(), format!("/v1/vehicles/{vehicle}"));
                loop {
                    let (status, twin) = node.gateway.get(&path).await;
                    if status == 200 && twin["link"]["state"] == "online" && twin["pending_commands"] == 0 {
                        break;
                    }
                    if clock.elapsed() > PATIENCE {
                        let path = format!("/v1/commands?vehicle_id={vehicle}&limit=5");
                        let (_, commands) = node.gateway.get(&path).await;
                        let said = json!([status, twin["link"], twin["pending_commands"], twin["detail"], commands]);
                        panic!("{} does not see {vehicle} idle: {said}", node.name);
                    }
                    pause(50).await;
                }
            }
        }
    }
}

/// What happens to the gateways, one fault after the other, each healed before the next.
async fn trouble_gateways(nodes: &mut [Node], faults: &[Fault], mut dice: Dice, times: u64) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..times {
        pause(dice.between(200, 1_200)).await;
        let which = dice.below(nodes.len() as u64) as usize;
        let (fault, lasts_ms) = (faults[dice.below(faults.len() as u64) as usize], dice.between(200, 3_000));
        let node = &mut nodes[which];
        told.push(format!("{fault:?} {} {lasts_ms} ms", node.name));
        match fault {
            Fault::Kill => {
                node.gateway.kill();
                pause(lasts_ms / 2).await;
                node.launch().await;
            }
            Fault::Halt => {
                node.gateway.signal("STOP");
                pause(lasts_ms).await;
                node.gateway.signal("CONT");
            }
            Fault::Cut => {
                node.wires.iter().for_each(Forward::cut);
                pause(lasts_ms).await;
                node.wires.iter().for_each(Forward::heal);
            }
            Fault::Clock => {
                node.set_clock(if dice.below(2) == 0 { 90 } else { -90 });
                pause(lasts_ms).await;
                node.set_clock(0);
            }
        }
    }
    told
}

/// And to the NATS servers: never to more than one at a time, so that the others are a majority.
async fn trouble_nats(nats: &mut NatsCluster, mut dice: Dice, times: u64) -> Vec<String> {
    let mut faults = vec![ServerFault::Kill, ServerFault::Halt];
    if nats.is_apart() {
        // As often as both others.
        faults.extend([ServerFault::Isolate; 2]);
    }
    let mut told = Vec::new();
    for _ in 0..times {
        pause(dice.between(500, 3_000)).await;
        let led = nats.leader(STREAM).await;
        let which = led.filter(|_| dice.below(2) == 0).unwrap_or(dice.below(nats.len() as u64) as usize);
        let fault = faults[dice.below(faults.len() as u64) as usize];
        let lasts_ms = match fault {
            ServerFault::Kill | ServerFault::Halt => dice.between(300, 3_000),
            // Often too short for the others to miss a leader, and at times long enough for them to elect another.
            ServerFault::Isolate if dice.below(3) > 0 => dice.between(500, 4_000),
            ServerFault::Isolate => dice.between(9_000, 12_000),
        };
        let leads = if led == Some(which) { " (leader)" } else { "" };
        told.push(format!("{fault:?} nats-{}{leads} {lasts_ms} ms", which + 1));
        match fault {
            ServerFault::Kill => {
                nats.kill(which);
                pause(lasts_ms).await;
                nats.restart(which).await;
            }
            ServerFault::Halt => {
                nats.stop(which);
                pause(lasts_ms).await;
                nats.resume(which);
                nats.ready().await;
            }
            ServerFault::Isolate => {
                nats.isolate(which).await;
                pause(lasts_ms).await;
                let leads_now = if led == Some(which) { nats.leader(STREAM).await } else { None };
                told.extend(leads_now.filter(|new| *new != which).map(|new| format!("nats-{} led instead", new + 1)));
                nats.rejoin(which);
                nats.ready().await;
            }
        }
    }
    told
}

/// What came of a round.
#[derive(Default)]
struct Figures {
    done: BTreeMap<&'static str, u32>,
    unknown: u32,
    refused: BTreeMap<String, u32>,
    records: usize,
    claims: usize,
    signed: usize,
    executed: u32,
    violations: usize,
    /// Purchases that were answered before they were on record.
    early: usize,
}

fn kind(asked: &Asked) -> &'static str {
    match asked {
        Asked::Order { .. } => "commands",
        Asked::Rent { .. } => "rentals",
        Asked::End { .. } | Asked::Cancel { .. } => "ends",
        Asked::Revoke { .. } => "revocations",
        Asked::Buy { .. } => "purchases",
    }
}

impl Figures {
    fn count(&mut self, history: &[Attempt], records: &[Record]) {
        for attempt in history {
            match &attempt.heard {
                Heard::Done(_) => *self.done.entry(kind(&attempt.asked)).or_default() += 1,
                Heard::Refused(why) => *self.refused.entry(why.clone()).or_default() += 1,
                Heard::Unknown => self.unknown += 1,
            }
        }
        self.records += records.len();
        self.claims += records.iter().filter(|record| record.claim.is_some()).count();
        self.signed += records.iter().filter(|record| record.writer.is_some()).count();
    }
}

impl Fleet {
    /// What one can do here.
    fn faults(&self) -> Vec<Fault> {
        let mut faults = vec![Fault::Kill];
        if self.nats.is_some() {
            faults.extend([Fault::Halt, Fault::Cut]);
        }
        if self.nodes.iter().all(|node| node.clock.is_some()) {
            faults.push(Fault::Clock);
        }
        faults
    }

    /// Load and faults side by side; what happened.
    async fn trouble(&mut self, dice: &mut Dice, times: u64) -> Vec<String> {
        self.load.set_over(false);
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            let (load, dice) = (Arc::clone(&self.load), dice.fork(number));
            clients.spawn(async move { load.run(dice).await });
        }
        let faults = self.faults();
        let behind = self.nats.take().map(|mut nats| {
            let dice = dice.fork(101);
            tokio::spawn(async move {
                let told = trouble_nats(&mut nats, dice, times.div_ceil(2)).await;
                (nats, told)
            })
        });
        let mut told = trouble_gateways(&mut self.nodes, &faults, dice.fork(100), times).await;
        if let Some(behind) = behind {
            let (nats, more) = behind.await.expect("the servers' faults");
            self.nats = Some(nats);
            told.extend(more);
        }
        pause(300).await;
        self.load.set_over(true);
        while let Some(client) = clients.join_next().await {
            client.expect("a client");
        }
        told
    }

    /// Who ended by itself is started again, as it would be anywhere.
    async fn revive(&mut self) {
        for node in &mut self.nodes {
            if let Some(status) = node.gateway.has_ended() {
                println!("    {} ended by itself with {status}", node.name);
                node.gateway.kill();
                node.launch().await;
            }
        }
    }

    /// The records after `after`, as a gateway tells them.
    async fn audit(&self, node: &Node, mut after: u64) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let (status, page) = node.gateway.get(&format!("/v1/audit?limit=1000&after={after}")).await;
            assert_eq!(status, 200, "{page}");
            all.extend(page["items"].as_array().expect("a list").iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = next.parse().expect("a number"),
                None => return all,
            }
        }
    }

    /// What every gateway says, when they say the same or have had their time. The chain up to the newest record that all
    /// have is a thing like others.
    async fn agreed(&self, history: &[Attempt]) -> (Vec<NodeState>, Vec<Value>) {
        let (paths, clock) = (history::paths(history), cardea::clock::Clock::start());
        loop {
            let (mut states, mut audits) = (Vec::new(), Vec::new());
            for node in &self.nodes {
                let mut things = BTreeMap::new();
                for path in &paths {
                    let (status, thing) = node.gateway.get(path).await;
                    things.insert(path.clone(), if status == 404 { Value::Null } else { thing });
                }
                states.push(NodeState { node: node.name.to_owned(), things });
                audits.push(self.audit(node, self.judged).await);
            }
            let shared = audits.iter().map(Vec::len).min().unwrap_or(0);
            for (state, audit) in states.iter_mut().zip(&audits) {
                let newest = shared.checked_sub(1).map(|place| audit[place].clone()).unwrap_or_default();
                state.things.insert("/v1/audit".into(), newest);
            }
            let is_whole = audits.iter().all(|audit| audit.len() <= shared + 2);
            if (is_whole && history::diverged(&states).is_empty()) || clock.elapsed() > AGREED_WITHIN {
                assert!(is_whole, "a gateway has {:?} records", audits.iter().map(Vec::len).collect::<Vec<_>>());
                audits[0].truncate(shared);
                return (states, audits.swap_remove(0));
            }
            pause(100).await;
        }
    }

    /// The audit trail with what only the servers' stream tells: which gateway a claim is by, and who wrote a record.
    async fn records(&self, audit: &[Value]) -> Vec<Record> {
        let stream = match &self.nats {
            Some(nats) => {
                let context = async_nats::jetstream::new(nats.client().await);
                Some(context.get_stream(STREAM).await.expect("the stream"))
            }
            None => None,
        };
        let mut records: Vec<Record> = self.claims.values().cloned().collect();
        for told in audit {
            let mut record = Record {
                position: told["position"].as_u64().expect("a number"),
                stream: told["stream"].as_str().expect("a name").to_owned(),
                events: told["events"].as_array().cloned().unwrap_or_default(),
                ..Record::default()
            };
            if let Some(stream) = stream.as_ref().filter(|_| record.stream.starts_with("vehicle/")) {
                let message = stream.get_raw_message(record.position).await.expect("the record");
                record.writer = message.headers.get("Cardea-Node").map(ToString::to_string);
                record.claim = claim(&message.payload);
            }
            records.push(record);
        }
        records
    }

    fn executed(&self) -> Vec<Executed> {
        let mut all = Vec::new();
        for (car, vehicle) in self.cars.iter().zip(VEHICLES) {
            let state = car.state();
            for (command, known) in state.unit.commands().iter().filter(|(_, known)| known.executions > 0) {
                let (vehicle, command) = (vehicle.to_owned(), command.to_string());
                all.push(Executed { vehicle, command, times: known.executions });
            }
        }
        all
    }

    /// Room for the next round: a car has so many rentals open and no more.
    async fn clear(&self, states: &[NodeState]) {
        for (path, thing) in states[0].things.iter().filter(|(path, _)| path.starts_with("/v1/rentals/")) {
            let verb = match thing["state"].as_str() {
                Some("reserved") => "cancel",
                Some("active") => "end",
                _ => continue,
            };
            let (status, body) = self.nodes[0].gateway.post(&format!("{path}/{verb}"), json!({})).await;
            assert_eq!(status, 200, "{body}");
        }
    }

    async fn round(&mut self, dice: &mut Dice, times: u64, figures: &mut Figures) -> Vec<Violation> {
        let told = self.trouble(dice, times).await;
        println!("  {}", told.join(", "));
        self.revive().await;
        self.settled().await;
        let history = self.load.take();
        let (states, audit) = self.agreed(&history).await;
        let records = self.records(&audit).await;
        let executed = self.executed();
        figures.count(&history, &records);
        figures.early += history::Early::of(&records).len();
        figures.executed = executed.iter().map(|executed| executed.times).sum();
        let found = history::check(&history, &states, &records, &executed);
        if !found.is_empty() {
            self.write_down(&history, &audit).await;
        } else {
            let claims = records.into_iter().filter(|record| record.claim.is_some());
            self.claims.extend(claims.map(|claim| (claim.stream.clone(), claim)));
            self.clear(&states).await;
            self.settled().await;
            // Rentals that were closed just now are of this round, too. Nobody takes a vehicle while all is quiet.
            self.judged = self
                .audit(&self.nodes[0], self.judged)
                .await
                .last()
                .map_or(self.judged, |newest| newest["position"].as_u64().expect("a number"));
        }
        found
    }

    /// Everything that tells how it came to a violation: the attempts, the records with what NATS has beside them, the logs.
    async fn write_down(&self, history: &[Attempt], audit: &[Value]) {
        let mut all: Vec<String> = history.iter().map(|attempt| format!("ATTEMPT {attempt:?}")).collect();
        all.extend(audit.iter().map(|record| format!("AUDIT {record}")));
        if let Some(nats) = &self.nats {
            let context = async_nats::jetstream::new(nats.client().await);
            let stream = context.get_stream(STREAM).await.expect("the stream");
            for position in audit.iter().filter_map(|record| record["position"].as_u64()) {
                let raw = stream.get_raw_message(position).await.expect("the record");
                all.push(format!("RAW {position} {} {} {:?}", raw.subject, raw.time, raw.headers));
            }
            all.extend((0..nats.len()).map(|i| format!("NATS {}\n{}", i + 1, nats.log(i))));
        }
        all.extend(self.nodes.iter().map(|node| format!("GATEWAY {}\n{}", node.name, node.gateway.log())));
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("history-{}.txt", setting("CARDEA_HISTORY_SEED", 1)));
        std::fs::write(&path, all.join("\n")).expect("written");
        println!("    written down in {}", path.display());
    }

    async fn rounds(&mut self, seed: u64, rounds: u64, times: u64) -> Figures {
        let mut figures = Figures::default();
        for round in 1..=rounds {
            let mut dice = Dice::new(seed.wrapping_add(round));
            println!("round {round} of {rounds}");
            let found = self.round(&mut dice, times, &mut figures).await;
            found.iter().take(SHOWN).for_each(|violation| println!("    VIOLATION {violation}"));
            figures.violations += found.len();
            if !found.is_empty() {
                break;
            }
        }
        let restarts: u32 = self.nodes.iter().map(|node| node.restarts).sum();
        println!(
            "seed {seed}: {rounds} rounds, {restarts} restarts of gateways; promised and kept: {:?}",
            figures.done
        );
        println!(
            "  unknown at first: {}; purchases that were answered before they were on record: {}; refused: {:?}",
            figures.unknown, figures.early, figures.refused
        );
        println!(
            "  {} records, {} claims, {} that tell who wrote them; {} commands in the cars' memories, each done once",
            figures.records, figures.claims, figures.signed, figures.executed
        );
        assert_eq!(figures.violations, 0, "violations of what was promised, see above; seed {seed}");
        figures
    }
}

/// The gateway that a record claims a vehicle for, if it is a claim.
fn claim(payload: &[u8]) -> Option<String> {
    let start = payload.windows(6).position(|window| window == br#"{"by":"#)?;
    let json: Value = serde_json::from_slice(&payload[start..]).ok()?;
    let change = json["view"].get(0)?;
    let is_claim = json["events"].as_array()?.is_empty() && change["table"] == "claims";
    is_claim.then(|| change["value"]["node"].as_str().unwrap_or_default().to_owned())
}

fn assert_much_was_promised(figures: &Figures, rounds: u32) {
    for (what, least) in [("commands", 30), ("rentals", 8), ("purchases", 15)] {
        let done = figures.done.get(what).copied().unwrap_or(0);
        assert!(done >= least * rounds, "{done} {what} in {rounds} rounds show nothing");
    }
    for slug in ["unauthenticated", "forbidden", "duplicate-key-reuse", "capability-missing"] {
        assert_eq!(figures.refused.get(slug), None, "the workload itself is wrong: {:?}", figures.refused);
    }
    // What is asked of a gateway whose clock is ahead, or long after its time while servers were away, may be past it.
    let invalid = figures.refused.get("invalid").copied().unwrap_or(0);
    let done: u32 = figures.done.values().sum();
    assert!(invalid * 20 <= done, "the workload itself is wrong: {:?}", figures.refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lone_gateway_that_is_killed_breaks_no_promise() {
    let mut fleet = Fleet::alone().await;
    let figures = fleet.rounds(setting("CARDEA_HISTORY_SEED", 1), 2, 3).await;
    assert_much_was_promised(&figures, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rounds_of_faults_break_no_promise_of_three_gateways() {
    // Nothing can be installed from inside.
    if kit::nats::installed().is_none()
        || namespaces::has_run_inside("rounds_of_faults_break_no_promise_of_three_gateways")
    {
        return;
    }
    let clocks = tempfile::tempdir().expect("a folder");
    let Some(mut fleet) = Fleet::cluster(clocks.path()).await else { return };
    let rounds = setting("CARDEA_HISTORY_ROUNDS", 1);
    let figures = fleet.rounds(setting("CARDEA_HISTORY_SEED", 1), rounds, 4).await;
    assert_much_was_promised(&figures, rounds as u32);
    assert!(figures.claims > 0, "no gateway took a vehicle from another");
}
