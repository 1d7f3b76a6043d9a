//! The gateways of a cluster among themselves, over core NATS: who lives, and requests to who has a vehicle.
//!
//! Nothing here is stored and nothing is promised: what must be right is decided by the store. Without a cluster none of this
//! runs.

mod hearing;
mod members;
mod relay;
mod words;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use actix::prelude::{Addr, ArbiterHandle, Recipient};
use async_nats::{Client, Message, RequestErrorKind};
use futures_util::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore};

use crate::actors::feed::LinksLost;
use crate::actors::fleet::FleetHandle;
use crate::actors::peers::{Call, CallError, Calling, Keeper, Node, Peers, Reply};
use crate::clock::Clock;
use crate::domain::VehicleId;
use crate::metrics::Count;
use crate::store::cluster::owners::Owners;
use hearing::Hearing;
use members::{HELLO_EVERY, Hello, Members};
pub use relay::{Local, Relay};

/// Calls of others that are answered at once; more wait at the servers.
const CALLS_MAX: usize = 1_024;
/// How long a word may take to leave.
const SAY_WITHIN: Duration = Duration::from_millis(200);
/// How long a gateway that starts listens before it acts. The others answer its first word at once.
const SETTLE: Duration = Duration::from_millis(700);
/// After a change of who lives, others may change too: one look for all of them.
const ADOPT_AFTER: Duration = Duration::from_millis(300);

/// This gateway among the others. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    client: Client,
    clock: Clock,
    owners: Arc<Owners>,
    node: String,
    /// The first level of all subjects.
    prefix: String,
    members: Mutex<Members>,
    /// Who lives is not as it was.
    changed: Notify,
    /// Filled in once, when there is a fleet.
    fleet: OnceLock<FleetHandle>,
    /// Filled in with it.
    sessions: OnceLock<Sessions>,
    consoles: OnceLock<Arc<AtomicUsize>>,
    /// A process was heard for the first time: it shall not have to wait until it hears of us.
    is_new: Notify,
    /// A first console has come.
    watched: Notify,
    /// Consoles here and elsewhere: with none, vehicles tell nothing.
    audience: Arc<AtomicUsize>,
    /// When our own word came back last: the way to the servers is open.
    heard_self: AtomicU64,
    /// Something from elsewhere found no room here.
    missed: AtomicBool,
    runtimes: Mutex<Option<Runtimes>>,
    pub counters: Counters,
}

/// Who lives is told and heard on a thread of its own: what consoles elsewhere watch must not look like a death.
struct Runtimes {
    members: Runtime,
    rest: Runtime,
}

impl Runtimes {
    fn start() -> std::io::Result<Self> {
        let one =
            |name| tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        Ok(Self { members: one("cluster-members")?, rest: one("cluster")? })
    }

    /// Does not wait: it may be called within another runtime.
    fn stop(self) {
        self.members.shutdown_background();
        self.rest.shutdown_background();
    }
}

#[derive(Debug, Default)]
pub struct Counters {
    pub calls_sent: Count,
    pub calls_failed: Count,
    pub calls_served: Count,
    pub vehicles_lost: Count,
    pub changes_heard: Count,
    /// For consoles elsewhere or from there: a queue was full, or there was no connection.
    pub changes_dropped: Count,
    /// Of what is said to all: a queue was full, or there was no connection.
    pub words_dropped: Count,
}

/// What the cluster needs of the rest.
pub struct Parts {
    pub client: Client,
    pub owners: Arc<Owners>,
    pub clock: Clock,
    pub node: String,
    pub stream: String,
}

/// What the cluster needs of the feed.
pub struct Watching {
    /// Consoles that watch here.
    pub consoles: Arc<AtomicUsize>,
    pub links_lost: Recipient<LinksLost>,
}

/// What the cluster may do to the cars' sessions.
pub struct Sessions {
    /// Ends the session of a car that another gateway has now.
    pub overtaken: Box<dyn Fn(&VehicleId) + Send + Sync>,
    /// Ends all sessions; called again and again while no server can be reached.
    pub alone: Box<dyn Fn() + Send + Sync>,
}

impl Cluster {
    /// Begins to say that this gateway lives, and to hear who else does.
    pub fn join(parts: Parts) -> std::io::Result<Self> {
        let runtimes = Runtimes::start()?;
        let Parts { client, owners, clock, node, stream } = parts;
        let inner = Arc::new(Inner {
            client,
            clock,
            owners,
            node,
            prefix: stream.to_lowercase(),
            members: Mutex::default(),
            changed: Notify::new(),
            fleet: OnceLock::new(),
            sessions: OnceLock::new(),
            consoles: OnceLock::new(),
            is_new: Notify::new(),
            watched: Notify::new(),
            audience: Arc::default(),
            heard_self: AtomicU64::new(0),
            missed: AtomicBool::new(false),
            runtimes: Mutex::default(),
            counters: Counters::default(),
        });
        runtimes.members.spawn(listen(Arc::clone(&inner)));
        runtimes.members.spawn(say_hello(Arc::clone(&inner)));
        *inner.runtimes() = Some(runtimes);
        Ok(Self(inner))
    }

    /// Waits until those who live have been heard: whoever does not know them would take their cars away.
    pub async fn settle(&self) {
        tokio::time::sleep(SETTLE).await;
    }

    /// Stands before the feed, for whoever tells what changed.
    pub fn relay(&self, local: Local, thread: &ArbiterHandle) -> Option<Addr<Relay>> {
        self.0.runtimes().as_ref().map(|runtimes| Relay::start(&self.0, local, &runtimes.rest, thread))
    }

    /// Above 0 while anybody watches at any gateway.
    pub fn audience(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0.audience)
    }

    /// A first console has come here: the others are asked for their vehicles.
    pub fn watch(&self) {
        self.0.audience.fetch_max(1, Ordering::Relaxed);
        self.0.watched.notify_one();
    }

    /// Begins to answer calls.
    pub fn start(&self, fleet: FleetHandle, sessions: Sessions, feed: Watching) {
        // Set once, here.
        let _ = self.0.fleet.set(fleet);
        let _ = self.0.sessions.set(sessions);
        let _ = self.0.consoles.set(feed.consoles);
        let runtimes = self.0.runtimes();
        let Some(Runtimes { rest: runtime, .. }) = runtimes.as_ref() else { return };
        runtime.spawn(serve(Arc::clone(&self.0)));
        runtime.spawn(adopt(Arc::clone(&self.0), feed.links_lost));
        runtime.spawn(relay::tell(Arc::clone(&self.0)));
        runtime.spawn(relay::make_good(Arc::clone(&self.0)));
        runtime.spawn(let_go(Arc::clone(&self.0)));
    }

    /// Says good-bye, so that the others need not wait for the silence.
    pub fn leave(&self) {
        let Some(runtimes) = self.0.runtimes().take() else { return };
        let inner = Arc::clone(&self.0);
        std::thread::spawn(move || {
            runtimes.members.block_on(async move {
                inner.say(0, true).await;
                // Not to be held up by servers that are away.
                let _ = tokio::time::timeout(SAY_WITHIN, inner.client.flush()).await;
            });
            runtimes.stop();
        });
    }

    /// Of the living gateways, is it this one that does what one alone shall do?
    pub fn falls_to_us(&self, what: &str) -> bool {
        self.0.members().falls_to(&self.0.node, what)
    }

    /// Living gateways, this one included.
    pub fn living(&self) -> usize {
        self.0.members().len() + 1
    }

    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtimes) = self.runtimes().take() {
            runtimes.stop();
        }
    }
}

impl Inner {
    fn runtimes(&self) -> MutexGuard<'_, Option<Runtimes>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_consoles(&self, node: &[u8]) {
        if let Ok(node) = std::str::from_utf8(node) {
            self.members().expect_console(node);
            self.audience.fetch_max(1, Ordering::Relaxed);
        }
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    async fn say(&self, consoles: usize, is_leaving: bool) {
        let hello = Hello { node: self.node.clone(), process: self.owners.process(), consoles, is_leaving };
        let Ok(text) = serde_json::to_vec(&hello) else { return };
        // A connection that hangs must not hold up who notices that it does.
        let saying = self.client.publish(format!("{}.hello", self.prefix), text.into());
        if self.is_connected() && !matches!(tokio::time::timeout(SAY_WITHIN, saying).await, Ok(Ok(()))) {
            tracing::debug!("could not say that this gateway lives");
        }
    }

    fn hear(&self, message: &Message) {
        let Ok(hello) = serde_json::from_slice::<Hello>(&message.payload) else { return };
        if hello.node == self.node {
            if hello.process != self.owners.process() {
                tracing::error!(node = self.node, "another gateway has the same cluster.node: each needs its own");
            }
            let now = u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.heard_self.store(now, Ordering::Relaxed);
            return;
        }
        if self.members().heard(&hello, self.clock.elapsed()) {
            tracing::info!(node = hello.node, is_leaving = hello.is_leaving, "a gateway of the cluster");
            self.changed.notify_one();
            self.is_new.notify_one();
            // What it has to tell was missed, perhaps.
            if self.consoles.get().is_some_and(|consoles| consoles.load(Ordering::Relaxed) > 0) {
                self.watched.notify_one();
            }
        }
    }
}

impl Peers for Cluster {
    fn keeper(&self, vehicle: &VehicleId) -> Keeper {
        match self.0.owners.of(vehicle) {
            None => Keeper::Nobody,
            Some(owner) if owner.process == self.0.owners.process() => Keeper::Here,
            Some(owner) if self.0.members().lives(&owner.node, owner.process) => Keeper::There(owner.node),
            Some(_) => Keeper::Gone,
        }
    }

    fn is_ours(&self, vehicle: &VehicleId) -> bool {
        self.falls_to_us(vehicle.as_str())
    }

    fn let_go(&self, vehicle: &VehicleId) {
        if let Some(sessions) = self.0.sessions.get() {
            (sessions.overtaken)(vehicle);
        }
    }

    fn call(&self, node: &Node, call: Call, within: Duration) -> Calling {
        let inner = Arc::clone(&self.0);
        let subject = format!("{}.call.{node}", inner.prefix);
        Box::pin(async move {
            inner.counters.calls_sent.inc();
            let outcome = ask(&inner, subject, &call, within).await;
            if let Err(error) = &outcome {
                inner.counters.calls_failed.inc();
                tracing::warn!(%error, "a call to another gateway");
            }
            outcome
        })
    }
}

async fn ask(inner: &Inner, subject: String, call: &Call, within: Duration) -> Result<Reply, CallError> {
    // What is sent while there is no connection would go out at any later time.
    if !inner.is_connected() {
        return Err(CallError::Unreached);
    }
    let Ok(text) = serde_json::to_vec(call) else { return Err(CallError::Unreached) };
    let request = async_nats::Request::new().payload(text.into()).timeout(Some(within));
    // The limit of the request itself begins when it has left.
    let asked = tokio::time::timeout(within + SAY_WITHIN, inner.client.send_request(subject, request)).await;
    let Ok(answered) = asked else { return Err(CallError::Unanswered) };
    match answered {
        Ok(answer) => serde_json::from_slice(&answer.payload).map_err(|error| {
            tracing::error!(%error, "another gateway's answer cannot be read; are all of one version?");
            CallError::Unanswered
        }),
        Err(error) => Err(match error.kind() {
            RequestErrorKind::NoResponders
            | RequestErrorKind::InvalidSubject
            | RequestErrorKind::MaxPayloadExceeded => CallError::Unreached,
            RequestErrorKind::TimedOut | RequestErrorKind::Other => CallError::Unanswered,
        }),
    }
}

/// Subscribes, again if it has to.
async fn subscribe(inner: &Inner, subject: String) -> async_nats::Subscriber {
    loop {
        match inner.client.subscribe(subject.clone()).await {
            Ok(subscriber) => return subscriber,
            Err(error) => tracing::warn!(%error, subject, "cannot subscribe yet"),
        }
        tokio::time::sleep(HELLO_EVERY).await;
    }
}

async fn listen(inner: Arc<Inner>) {
    loop {
        let mut hellos = subscribe(&inner, format!("{}.hello", inner.prefix)).await;
        while let Some(message) = hellos.next().await {
            inner.hear(&message);
        }
    }
}

async fn say_hello(inner: Arc<Inner>) {
    let mut tick = tokio::time::interval(HELLO_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hearing = Hearing::new(inner.clock.elapsed());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = inner.is_new.notified() => {}
        }
        let here = inner.consoles.get().map_or(0, |consoles| consoles.load(Ordering::Relaxed));
        inner.say(here, false).await;
        let elsewhere = inner.members().consoles();
        inner.audience.store(here + elsewhere, Ordering::Relaxed);
        let now = inner.clock.elapsed();
        let heard = hearing.look(Duration::from_millis(inner.heard_self.load(Ordering::Relaxed)), now);
        if heard.is_alone
            && let Some(sessions) = inner.sessions.get()
        {
            (sessions.alone)();
        }
        // A server that hangs keeps its connections; another one may answer.
        if heard.turns && inner.is_connected() && inner.client.force_reconnect().await.is_err() {
            tracing::debug!("the connection is being made anew already");
        }
        if heard.tells_who_lives && inner.members().sweep(now) {
            tracing::warn!("a gateway of the cluster is silent");
            inner.changed.notify_one();
        }
    }
}

/// Answers calls of others, side by side.
async fn serve(inner: Arc<Inner>) {
    let at_once = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        let mut calls = subscribe(&inner, format!("{}.call.{}", inner.prefix, inner.node)).await;
        while let Some(message) = calls.next().await {
            // Never closed.
            let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return };
            let inner = Arc::clone(&inner);
            tokio::spawn(async move {
                answer(&inner, message).await;
                drop(permit);
            });
        }
    }
}

async fn answer(inner: &Inner, message: Message) {
    let (Some(reply), Some(fleet)) = (message.reply, inner.fleet.get()) else { return };
    let call: Call = match serde_json::from_slice(&message.payload) {
        Ok(call) => call,
        Err(error) => {
            tracing::error!(%error, "another gateway's call cannot be read; are all of one version?");
            return;
        }
    };
    inner.counters.calls_served.inc();
    let answer = fleet.serve(call).await;
    match serde_json::to_vec(&answer) {
        // Who asked hears nothing then, and knows that it may have happened.
        Ok(text) => {
            if let Err(error) = inner.client.publish(reply, text.into()).await {
                tracing::warn!(%error, "an answer to another gateway is lost");
            }
        }
        Err(error) => tracing::error!(%error, "an answer to another gateway cannot be written"),
    }
}

/// Looks what is due for vehicles that no living gateway has, whenever who lives has changed.
async fn adopt(inner: Arc<Inner>, links_lost: Recipient<LinksLost>) {
    let mut is_changed = false;
    loop {
        if !is_changed {
            inner.changed.notified().await;
        }
        tokio::time::sleep(ADOPT_AFTER).await;
        is_changed = match inner.fleet.get() {
            None => false,
            Some(fleet) => {
                // Consoles hear at least that nothing is known of them; a full feed is told again by the next change.
                let _ = links_lost.try_send(LinksLost(fleet.orphans()));
                fleet.adopt(inner.changed.notified()).await
            }
        };
    }
}

/// Stops what another gateway has taken over.
async fn let_go(inner: Arc<Inner>) {
    loop {
        let lost = inner.owners.lost().await;
        // Some may have been taken back meanwhile.
        let lost: std::collections::HashMap<_, _> =
            lost.into_iter().filter(|(vehicle, _)| !inner.owners.is_ours(vehicle)).collect();
        inner.counters.vehicles_lost.add(lost.len() as u64);
        if let Some(fleet) = inner.fleet.get() {
            fleet.release(&lost);
        }
        if let Some(sessions) = inner.sessions.get() {
            // The car may be back, with a session of now.
            lost.keys()
                .filter(|vehicle| !inner.owners.is_ours(vehicle))
                .for_each(|vehicle| (sessions.overtaken)(vehicle));
        }
    }
}
