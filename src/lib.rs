//! Cardea: a real-time gateway between a car-sharing fleet and everyone who acts on it.
//!
//! Modules in reading order: `domain` decides, `store` keeps, `actors` do, `mqtt` and `http` are the edges. This file
//! is the only one that knows everybody: [`run`] starts the store, then the actors, then HTTP, and the gate last, so
//! that no car comes in before everything that answers it is there; and it ends them in the opposite order.

// The gate's harness serves tests inside and outside this crate; inside, it names the crate as they do outside.
#[cfg(test)]
extern crate self as cardea;

pub mod domain;

pub mod clock;
pub mod config;
pub mod store;
pub mod token;

pub mod actors;

pub mod certs;
pub mod checkpoints;
mod cluster;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod http;
mod https_client;
pub mod metrics;
pub mod mqtt;
pub mod pki;
mod readings;
pub mod telemetry;
mod together;
mod watchdog;

use std::net::TcpListener;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::actors::card_guard::{self, GuardHandle};
use crate::actors::feed::{Feed, Limits, OnFirstConsole};
use crate::actors::fleet::{self, FleetHandle};
use crate::actors::follower::Followed;
use crate::actors::notifier::{self, NotifierHandle};
use crate::actors::peers::Peers;
use crate::certs::Certs;
use crate::checkpoints::Checkpoints;
use crate::clock::{Clock, Stopwatch};
use crate::cluster::{Cluster, Watching};
use crate::config::Config;
use crate::domain::vehicle::Rules;
use crate::http::{App, CertificatePort};
use crate::metrics::Pulses;
use crate::mqtt::{Kicker, MqttHandle, Reason};
use crate::store::{LocalStore, Spool, Store};
use crate::telemetry::Telemetry;
use crate::together::{Among, Engine};
use crate::token::{Keyset, Signer};
use crate::watchdog::Watchdog;

/// Why the gateway did not start, or ended otherwise than by a signal. The text names what to look at.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Store(#[from] store::OpenError),
    #[error("{0}")]
    Read(#[from] store::ReadError),
    #[error("{0}")]
    Certs(#[from] certs::CertsError),
    #[error("{0}")]
    Gate(#[from] mqtt::StartError),
    #[error("{key}: {problem}")]
    Config { key: &'static str, problem: String },
    /// Begins with the configuration's key.
    #[error("{0}")]
    Access(String),
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("a write to the journal failed; what was promised is safe, start the gateway again")]
    Poisoned,
}

impl From<notifier::StartError> for RunError {
    fn from(error: notifier::StartError) -> Self {
        match error {
            notifier::StartError::Config { key, problem } => Self::Config { key, problem },
            notifier::StartError::Read(error) => Self::Read(error),
        }
    }
}

/// Runs the gateway until SIGTERM or SIGINT ends it. Prints one JSON line when cars and callers may come.
pub fn run(config: Config) -> Result<(), RunError> {
    raise_file_limit();
    let clock = Clock::start();
    let engine = Engine::open(&config, &clock)?;
    let system = System::new();
    let outcome = system.block_on(gateway(Arc::new(config), clock, engine.clone()));
    engine.close();
    outcome
}

/// Sockets are files: as many as the system lets us have.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Everything that runs, in the order of its start.
struct Gateway {
    certs: Arc<Certs>,
    mqtt: MqttHandle,
    fleet: FleetHandle,
    notifier: NotifierHandle,
    app: App,
    https: http::Server,
    metrics: http::Server,
    checkpoints: Option<Arc<Checkpoints>>,
    life: readings::Life,
    telemetry: Telemetry,
    cluster: Option<Cluster>,
}

async fn gateway(config: Arc<Config>, clock: Clock, engine: Engine) -> Result<(), RunError> {
    let mut signals = Signals::new()?;
    let cluster = together::join(&config, &clock, &engine)
        .map_err(|error| RunError::Io { what: "threads of the cluster".into(), error })?;
    if let Some(cluster) = &cluster {
        cluster.settle().await;
    }
    // Before anything that it shall tell of can happen.
    let store = Arc::clone(&engine.store);
    let is_mine = together::alone(&cluster, "notifier");
    let notifier = NotifierHandle::start(&config.notifier, Arc::clone(&store), clock.clone(), is_mine).await?;
    let mut gateway = start(config, &clock, &engine, notifier, cluster)?;
    let mqtt = gateway.mqtt.listen()?;
    let (https, metrics) = (gateway.https.address, gateway.metrics.address);
    println!(
        "{}",
        json!({
            "ready": true,
            "http": format!("https://{https}"),
            "mqtt": mqtt.to_string(),
            "metrics": format!("http://{metrics}"),
        })
    );
    let mut watchdog = Watchdog::start();
    watchdog.ready(&how_it_does(&gateway, &*store));
    let outcome = serve(&gateway, &mut signals, &clock, &*store, &mut watchdog).await;
    watchdog.stopping();
    let checkpoints = gateway.checkpoints.take();
    drain(gateway).await;
    if let Some(checkpoints) = checkpoints {
        witness_the_end(checkpoints).await;
    }
    outcome
}

/// Draining takes no longer than this in all, so that with what follows it (the last checkpoint, the last snapshot) the
/// process is gone before 10 s are over, after which many supervisors kill.
const DRAIN: Duration = Duration::from_secs(8);
/// The limits of its steps: each may take so long while the others take less.
const HTTP_STOP: Duration = Duration::from_secs(3);
const LAST_USES: Duration = Duration::from_millis(500);
const GATE_STOP: Duration = Duration::from_secs(2);
const LAST_ANSWERS: Duration = Duration::from_secs(1);
const FLEET_DRAIN: Duration = Duration::from_secs(3);
const WITNESS: Duration = Duration::from_millis(500);
const WATCH: Duration = Duration::from_millis(500);
/// How often the file of the card rules is looked at.
const RULES_WATCH: Duration = Duration::from_secs(2);

fn start(
    config: Arc<Config>,
    clock: &Clock,
    engine: &Engine,
    notifier: NotifierHandle,
    cluster: Option<Cluster>,
) -> Result<Gateway, RunError> {
    let store = &engine.store;
    let certs = Arc::new(Certs::load(&config.certs)?);
    certs.restore(http::certificates::revocations(&**store)?.into_iter().map(trust_withdrawn));
    let signer = Arc::new(read_signer("keys.signing_key", &config.keys.signing_key, &config)?);
    let keyset = Arc::new(read_keyset(&signer, &config)?);
    let rules = Arc::new(rules(&config)?);
    // Before anything reads its memory. A machine that is alone is the only writer, and follows nobody.
    let (follower, followed) = together::follower(&config, store);

    let pulses = Pulses::default();
    let Feeding { feed, audience, counters: feed_counters, thread: feed_thread } = start_feed(&config, clock, &pulses);
    // The gate tells the fleet and the fleet sends through the gate: the one that comes later is filled in.
    let fleet_slot: Arc<OnceLock<FleetHandle>> = Arc::default();
    let mut mqtt = mqtt::start(&config.mqtt, Arc::clone(&certs), tell(&fleet_slot), clock.clone(), &pulses)?;
    mqtt.add_bridge(&config.bridge)?;
    let mint = Arc::clone(&signer);
    let telemetry = Telemetry::start(&config.telemetry, clock.clone())
        .map_err(|problem| RunError::Config { key: "telemetry.endpoint", problem })?;
    let watched = together::watched(&cluster, &feed, &audience, &feed_thread);
    let fleet = FleetHandle::start(
        &config.fleet,
        fleet::Parts {
            store: Arc::clone(store),
            clock: clock.clone(),
            rules: (*rules).clone(),
            mint: Arc::new(move |grant, vehicle, holder, at| mint.mint(grant, vehicle, holder, at)),
            outbound: mqtt.outbound(),
            vehicles_feed: watched.vehicles,
            commands_feed: watched.commands,
            alerts_feed: feed.clone().recipient(),
            audience: watched.consoles,
            telemetry: telemetry.clone(),
            peers: cluster.clone().map(|cluster| Arc::new(cluster) as Arc<dyn Peers>),
        },
    )?;
    // Set once, here.
    let _ = fleet_slot.set(fleet.clone());
    if let Some(cluster) = &cluster {
        let watching = Watching { consoles: audience, links_lost: feed.clone().recipient() };
        cluster.start(fleet.clone(), together::sessions(&mqtt.kicker()), watching);
    }
    greet_consoles(&feed, &fleet, &cluster);
    let checkpoints = start_checkpoints(&config, clock, &engine.local, &signer);
    let guard_thread = Arbiter::new();
    guard_thread.spawn(pulses.beat("card-guard"));
    let heard: Arc<OnceLock<GuardHandle>> = Arc::default();
    let among = Among::new(&cluster, followed.clone(), &heard);
    let guard = start_guard(&config, clock, store, &fleet, &feed, &guard_thread, among)?;
    // Set once, here.
    let _ = heard.set(guard.clone());
    actix::spawn(follow_card_rules(Arc::clone(&config), guard.clone()));
    let metrics = metrics::Metrics::new();
    register_readings(&metrics, engine, &fleet, &mqtt, feed_counters);
    let life = readings::life(&engine.local, &fleet, mqtt.turns(), pulses.clone());
    let shown = Arc::clone(&life);
    metrics.register(move || readings::turns(&shown));
    telemetry.register(&metrics);
    guard.register(&metrics);
    notifier.register(&metrics);
    followed.register(&metrics);
    together::register(&metrics, &cluster);
    let access = access(&config, followed)?;
    let app = App::new(http::Parts {
        store: Arc::clone(store),
        access,
        fleet: fleet.clone(),
        clock: clock.clone(),
        config: Arc::clone(&config),
        signer,
        keyset,
        rules,
        certificates: certificate_port(&config, &certs, mqtt.kicker()),
        guard,
        feed,
        notifier: notifier.clone(),
        links: link_port(mqtt.links()),
        metrics,
        telemetry: telemetry.clone(),
    })?;
    actix::spawn(http::access::api_keys::follow_uses(app.clone()));
    together::follow(follower, &fleet, &app)?;
    together::share_rates(&cluster, &app, clock);
    let (https, metrics) = serve_http(&config, &certs, &app, pulses)?;
    Ok(Gateway { certs, mqtt, fleet, notifier, app, https, metrics, checkpoints, life, telemetry, cluster })
}

/// The feed on a thread of its own.
struct Feeding {
    feed: Addr<Feed>,
    audience: Arc<AtomicUsize>,
    counters: Arc<actors::feed::FeedCounters>,
    thread: ArbiterHandle,
}

fn start_feed(config: &Config, clock: &Clock, pulses: &Pulses) -> Feeding {
    let feed = Feed::new(clock.clone(), Limits { vehicles: config.fleet.max_vehicles, ..Limits::default() });
    let (audience, counters) = (feed.audience(), feed.counters());
    let thread = Arbiter::new();
    thread.spawn(pulses.beat("feed"));
    let feed = Feed::start_in_arbiter(&thread.handle(), move |_| feed);
    Feeding { feed, audience, counters, thread: thread.handle() }
}

/// A first console finds the whole fleet.
fn greet_consoles(feed: &Addr<Feed>, fleet: &FleetHandle, cluster: &Option<Cluster>) {
    let (publish, watching) = (fleet.clone(), cluster.clone());
    let greet = OnFirstConsole(Box::new(move || {
        watching.iter().for_each(Cluster::watch);
        publish.publish_all();
    }));
    // The feed has just been started, so there is room.
    if feed.try_send(greet).is_err() {
        tracing::error!("consoles will start from what changes");
    }
}

fn serve_http(
    config: &Config,
    certs: &Certs,
    app: &App,
    pulses: Pulses,
) -> Result<(http::Server, http::Server), RunError> {
    let failed = |what: &str, error| RunError::Io { what: what.into(), error };
    let tls = certs.https().map_err(|error| RunError::Config { key: "certs.server", problem: error.to_string() })?;
    let listening = listen("http.listen", config.http.listen)?;
    let https = http::serve(app.clone(), listening, Arc::new(tls), pulses.clone());
    let https = https.map_err(|error| failed("http.listen", error))?;
    let listening = listen("metrics.listen", config.metrics.listen)?;
    let metrics = http::serve_metrics(app.clone(), listening, pulses);
    Ok((https, metrics.map_err(|error| failed("metrics.listen", error))?))
}

fn access(config: &Config, followed: Followed) -> Result<http::access::Access, RunError> {
    let mut access = http::access::Access::new(config).map_err(RunError::Access)?;
    access.followed = followed;
    if let Some(oidc) = &access.oidc {
        actix::spawn(Arc::clone(oidc).follow());
    }
    Ok(access)
}

/// One more checkpoint. Its file may lie on another machine that is gone, which must not hold up the stop: then the thread
/// ends with the process.
async fn witness_the_end(checkpoints: Arc<Checkpoints>) {
    let (done, is_done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        checkpoints.witness_all();
        let _ = done.send(());
    });
    if timeout(WITNESS, is_done).await.is_err() {
        tracing::warn!("the file of the checkpoints does not answer; the end is not witnessed");
    }
}

fn start_checkpoints(
    config: &Config,
    clock: &Clock,
    store: &Arc<LocalStore>,
    signer: &Arc<Signer>,
) -> Option<Arc<Checkpoints>> {
    let path = config.audit.checkpoints.clone()?;
    let (journal, signer) = (store.journal_id(), Arc::clone(signer));
    let checkpoints =
        Arc::new(Checkpoints::new(path, journal, Arc::clone(store) as Arc<dyn Store>, signer, clock.clone()));
    actix::spawn(Arc::clone(&checkpoints).follow(Duration::from_secs(config.audit.checkpoint_every_s)));
    Some(checkpoints)
}

/// What the gate tells before there is a fleet is told again.
fn tell(fleet: &Arc<OnceLock<FleetHandle>>) -> mqtt::Tell {
    let fleet = Arc::clone(fleet);
    Arc::new(move |vehicle, message| match fleet.get() {
        Some(fleet) => fleet.tell(vehicle, message),
        None => Err(actors::vehicle::TellError::Unavailable),
    })
}

/// HTTP does not know the gate.
fn link_port(links: Arc<mqtt::LinkLog>) -> http::LinkPort {
    let entry = |entry: mqtt::LinkEntry| {
        let mut times = None;
        let (event, epoch, address, reason) = match entry.change {
            mqtt::LinkChange::Connected { epoch, address } => (http::LinkEvent::Connected, Some(epoch), address, None),
            mqtt::LinkChange::Disconnected { epoch, reason } => {
                (http::LinkEvent::Disconnected, Some(epoch), None, Some(reason.name()))
            }
            mqtt::LinkChange::Refused { address, reason } => {
                (http::LinkEvent::Refused, None, Some(address), Some(reason.name()))
            }
            mqtt::LinkChange::Unproved { address, reason, times: count } => {
                times = Some(count);
                (http::LinkEvent::Unproved, None, Some(address), Some(reason.name()))
            }
        };
        http::LinkEntry { at: entry.at, event, epoch, address, reason, times }
    };
    Arc::new(move |vehicle| http::LinkLog {
        since: links.since(),
        entries: links.of(vehicle).into_iter().map(entry).collect(),
    })
}

fn start_guard(
    config: &Config,
    clock: &Clock,
    store: &Arc<dyn Store>,
    fleet: &FleetHandle,
    feed: &Addr<Feed>,
    thread: &Arbiter,
    among: Among,
) -> Result<GuardHandle, RunError> {
    let Among { followed, looks_again, tell_early } = among;
    let rules = card_rules(config).and_then(|text| card_guard::parse_rules(&text).map(|_| text));
    let rules = rules.map_err(|problem| RunError::Config { key: "card_guard.rules", problem })?;
    let asked = fleet.clone();
    let parts = card_guard::Parts {
        store: Arc::clone(store),
        clock: clock.clone(),
        rules,
        suspend_after_declines: config.card_guard.suspend_after_declines,
        ask_vehicle: Arc::new(move |vehicle| {
            let fleet = asked.clone();
            Box::pin(async move { fleet.snapshot(&vehicle).await })
        }),
        deadline: Duration::from_millis(config.payments.stripe.deadline_ms),
        decisions_feed: feed.clone().recipient(),
        alerts_feed: feed.clone().recipient(),
        followed,
        looks_again,
        while_store_is_away: config.card_guard.while_store_is_away,
        tell_early,
        spool: Spool::open(&config.data.dir)?,
    };
    Ok(GuardHandle::start(parts, &thread.handle())?)
}

/// What the operator's file says now, else what is built in.
fn card_rules(config: &Config) -> Result<String, String> {
    match &config.card_guard.rules {
        None => Ok(card_guard::BUILT_IN_RULES.to_owned()),
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display())),
    }
}

/// Reads the rules file again whenever it says another thing than before.
async fn follow_card_rules(config: Arc<Config>, guard: GuardHandle) {
    let mut known = None;
    let mut look = tokio::time::interval(RULES_WATCH);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let of = Arc::clone(&config);
        let Ok(text) = tokio::task::spawn_blocking(move || card_rules(&of)).await else { continue };
        if known.as_ref() != Some(&text) {
            let taken = guard.reload_rules(text.clone()).await;
            known = taken.then_some(text);
        }
    }
}

fn register_readings(
    metrics: &metrics::Metrics,
    engine: &Engine,
    fleet: &FleetHandle,
    mqtt: &MqttHandle,
    feed: Arc<actors::feed::FeedCounters>,
) {
    let engine = engine.clone();
    metrics.register(move || readings::store(&*engine.store, engine.local.metrics()));
    let fleet = fleet.clone();
    metrics.register(move || readings::fleet(&fleet));
    if let Some(bridge) = mqtt.bridge_metrics() {
        metrics.register(move || readings::bridge(&bridge));
    }
    let mqtt = mqtt.metrics();
    metrics.register(move || readings::mqtt(&mqtt));
    metrics.register(move || readings::feed(&feed));
}

fn rules(config: &Config) -> Result<Rules, RunError> {
    let profiles = config
        .keys
        .profiles()
        .map_err(|problem| RunError::Config { key: "keys.profiles", problem: problem.to_string() })?;
    let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
    Ok(Rules {
        profiles,
        max_key_ms: ms(config.keys.max_minutes.saturating_mul(60)),
        lock_ttl_ms: ms(config.fleet.lock_ttl_s),
        command_ttl_ms: ms(config.fleet.command_ttl_s),
        max_ttl_ms: ms(config.fleet.max_ttl_s),
    })
}

fn read_signer(key: &'static str, path: &std::path::Path, config: &Config) -> Result<Signer, RunError> {
    let unfit = |problem: String| RunError::Config { key, problem };
    let pem = std::fs::read_to_string(path).map_err(|error| unfit(format!("{}: {error}", path.display())))?;
    Signer::from_pem(&pem, &config.keys.issuer).map_err(|error| unfit(format!("{}: {error}", path.display())))
}

/// The public half of every key that tokens and checkpoints may be signed by, from the files that the config names.
pub fn keyset(config: &Config) -> Result<Keyset, RunError> {
    read_keyset(&read_signer("keys.signing_key", &config.keys.signing_key, config)?, config)
}

/// The signer's own key and those of before.
fn read_keyset(signer: &Signer, config: &Config) -> Result<Keyset, RunError> {
    let retired = config.keys.retired_signing_keys.iter();
    let read = |path: &std::path::PathBuf| {
        read_signer("keys.retired_signing_keys", path, config).map(|signer| signer.keyset())
    };
    retired.map(read).try_fold(signer.keyset(), |keyset, other| Ok(keyset.with(other?)))
}

fn listen(key: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address);
    listener.map_err(|error| RunError::Config { key, problem: format!("cannot listen on {address}: {error}") })
}

fn trust_withdrawn(revocation: http::Revocation) -> certs::Revocation {
    let except = revocation.except.iter().filter_map(|serial| serial.parse().ok()).collect();
    certs::Revocation::Vehicle { vehicle: revocation.vehicle, issued_until: revocation.issued_until, except }
}

/// What HTTP may do to certificates and sessions, since it knows neither the gate nor the files.
fn certificate_port(config: &Arc<Config>, certs: &Arc<Certs>, kicker: Kicker) -> CertificatePort {
    let config = Arc::clone(config);
    let (revoking, kicking) = (Arc::clone(certs), kicker.clone());
    let [allowing, asking, bundled] = std::array::from_fn(|_| Arc::clone(certs));
    let (reloading, listed) = (Arc::clone(certs), kicker);
    CertificatePort {
        ca: Arc::new(move || read_ca(&config)),
        revoke: Arc::new(move |revocation| {
            let vehicle = revocation.vehicle.clone();
            revoking.revoke(trust_withdrawn(revocation));
            kicking.kick(&vehicle, Reason::Revoked);
            Box::pin(std::future::ready(Ok(())))
        }),
        allow: Arc::new(move |vehicle, serial| {
            if let Ok(serial) = serial.parse() {
                allowing.except(vehicle, serial);
            }
        }),
        bundle: Arc::new(move || bundled.bundle()),
        is_trusted: Arc::new(move |chain, now| asking.trusts(chain, now)),
        reload: Arc::new(move || {
            let outcome = reload(&reloading, &listed);
            Box::pin(std::future::ready(outcome))
        }),
        lock: Arc::default(),
    }
}

/// `None` where an outside CA signs, or where its key cannot be read (which is logged). Read anew for each
/// certificate, so that a new CA is used without a restart.
fn read_ca(config: &Config) -> Option<Arc<pki::Ca>> {
    let key = config.certs.ca_key.as_ref()?;
    let read =
        |path: &std::path::Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let loaded = read(&config.certs.ca)
        .and_then(|ca| Ok((ca, read(key)?)))
        .and_then(|(ca, key)| pki::Ca::load(&ca, &key).map_err(|error| error.to_string()));
    match loaded {
        Ok(ca) => Some(Arc::new(ca)),
        Err(error) => {
            tracing::warn!(error, "certificates cannot be signed here");
            None
        }
    }
}

fn reload(certs: &Certs, kicker: &Kicker) -> Result<String, String> {
    certs.reload().map_err(|error| error.to_string())?;
    let kicked = kicker.kick_listed();
    Ok(format!("certificates, CA bundle and CRL are read again; {kicked} sessions ended"))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, RunError> {
        let on = |kind| signal(kind).map_err(|error| RunError::Io { what: "signals".into(), error });
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }
}

/// Until a signal ends it, or the journal can no longer promise.
async fn serve(
    gateway: &Gateway,
    signals: &mut Signals,
    clock: &Clock,
    store: &dyn Store,
    watchdog: &mut Watchdog,
) -> Result<(), RunError> {
    let kicker = gateway.mqtt.kicker();
    let mut watch = tokio::time::interval(watchdog.look_every().min(WATCH));
    watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hang_up.recv() => match reload(&gateway.certs, &kicker) {
                Ok(done) => tracing::info!("{done}"),
                Err(error) => tracing::error!(%error, "the old certificates stay in force"),
            },
            _ = watch.tick() => {
                if let Some(jump_ms) = clock.resync() {
                    tracing::warn!(jump_ms, "the wall clock jumped; deadlines follow it");
                }
                if store.health().is_poisoned {
                    return Err(RunError::Poisoned);
                }
                watchdog.look(clock.elapsed(), (gateway.life)(), &how_it_does(gateway, store));
            }
        }
    }
}

/// A sentence for `systemctl status`.
fn how_it_does(gateway: &Gateway, store: &dyn Store) -> String {
    let (cars, health) = (gateway.mqtt.metrics().sessions.get(), store.health());
    let ails = match (health.refusing, health.view_problem) {
        (Some(why), _) => format!("promises are refused: {why}; "),
        (None, Some(_)) => "queries wait for the view; ".to_owned(),
        (None, None) => String::new(),
    };
    format!("{ails}{cars} cars connected")
}

/// Stops accepting, finishes what is in flight, saves what is not saved yet.
async fn drain(gateway: Gateway) {
    tracing::info!("stopping");
    let watch = Stopwatch::start();
    let at_most = |limit: Duration| limit.min(DRAIN.saturating_sub(watch.elapsed()));
    let Gateway { mqtt, fleet, notifier, app, https, metrics, telemetry, cluster, .. } = gateway;
    if timeout(at_most(HTTP_STOP), https.stop()).await.is_err() {
        tracing::warn!("callers were still being answered at the deadline");
    }
    match timeout(at_most(LAST_USES), http::access::api_keys::save_uses(&app)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(?error, "when API keys were last used is lost for the last minute"),
        Err(_) => tracing::warn!("when API keys were last used may be lost for the last minute"),
    }
    app.guard.recorded(at_most(LAST_ANSWERS)).await;
    mqtt.shutdown(at_most(GATE_STOP)).await;
    fleet.drain(at_most(FLEET_DRAIN)).await;
    if let Some(cluster) = cluster {
        cluster.leave();
    }
    let the_rest = async { tokio::join!(notifier.stop(), telemetry.finish(), metrics.stop()) };
    if timeout(at_most(DRAIN), the_rest).await.is_err() {
        tracing::warn!("what was told lately may be told again, and the last spans may be lost");
    }
    tracing::info!(took_ms = watch.elapsed().as_millis() as u64, "drained");
}
