//! What is different where a gateway is not alone: the engine that keeps its promises, and how its parts come to know the others.
//! On a machine that is alone each of these is nothing.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;

use crate::actors::card_guard::{self, GuardHandle};
use crate::actors::feed::Feed;
use crate::actors::fleet::FleetHandle;
use crate::actors::follower::{Followed, Follower, IsMine};
use crate::clock::Clock;
use crate::cluster::{self, Cluster, Sessions};
use crate::config::Config;
use crate::http::App;
use crate::http::access::shared_rates::Spent;
use crate::metrics::Metrics;
use crate::mqtt::{Kicker, Reason};
use crate::readings;
use crate::store::{ClusterStore, LocalStore, OpenError, ReadError, Store};

/// Where promises are kept: on this machine's disk, or in a cluster with a copy here.
#[derive(Clone)]
pub struct Engine {
    pub store: Arc<dyn Store>,
    pub local: Arc<LocalStore>,
    pub cluster: Option<Arc<ClusterStore>>,
}

impl Engine {
    pub fn open(config: &Config, clock: &Clock) -> Result<Self, OpenError> {
        if !config.cluster.is_on() {
            let local = LocalStore::open(&config.data, clock.clone())?;
            return Ok(Self { store: Arc::clone(&local) as Arc<dyn Store>, local, cluster: None });
        }
        let cluster = ClusterStore::open(config, clock.clone())?;
        let local = Arc::clone(cluster.local());
        Ok(Self { store: Arc::clone(&cluster) as Arc<dyn Store>, local, cluster: Some(cluster) })
    }

    /// Blocks until everything is in order on disk.
    pub fn close(&self) {
        match &self.cluster {
            Some(cluster) => cluster.close(),
            None => self.local.close(),
        }
    }
}

/// None on a machine that is alone.
pub fn follower(config: &Config, store: &Arc<dyn Store>) -> (Option<Follower>, Followed) {
    let follower = config.cluster.is_on().then(|| Follower::new(Arc::clone(store)));
    let followed = follower.as_ref().map(Follower::followed).unwrap_or_default();
    (follower, followed)
}

/// From here on every part's memory is as all gateways' records say.
pub fn follow(follower: Option<Follower>, fleet: &FleetHandle, app: &App) -> Result<(), ReadError> {
    let Some(mut follower) = follower else { return Ok(()) };
    app.guard.follow(&mut follower);
    fleet.follow(&mut follower);
    app.follow(&mut follower)?;
    actix::spawn(follower.run());
    Ok(())
}

/// This gateway among those of its cluster, if it has one.
pub fn join(config: &Config, clock: &Clock, engine: &Engine) -> std::io::Result<Option<Cluster>> {
    let parts = engine.cluster.as_ref().map(|store| cluster::Parts {
        client: store.client(),
        owners: store.owners(),
        clock: clock.clone(),
        node: config.cluster.node.clone(),
        stream: config.cluster.stream.clone(),
    });
    parts.map(Cluster::join).transpose()
}

/// What a part needs to know of the other gateways.
pub struct Among {
    pub followed: Followed,
    pub looks_again: IsMine,
    pub tell_early: card_guard::TellEarly,
}

impl Among {
    /// `guard`: filled in when there is one, to hear what the others answered.
    pub fn new(cluster: &Option<Cluster>, followed: Followed, guard: &Arc<OnceLock<GuardHandle>>) -> Self {
        let hearing = Arc::clone(guard);
        let speaker = cluster.as_ref().and_then(|cluster| {
            cluster.speak("early", move |word| match (hearing.get(), serde_json::from_slice(word)) {
                (Some(guard), Ok(decided)) => guard.heard(decided),
                (None, _) | (_, Err(_)) => tracing::warn!("another gateway's early answer cannot be taken"),
            })
        });
        let tell_early: card_guard::TellEarly = Arc::new(move |decided| {
            let word = speaker.as_ref().map(|speaker| (speaker, serde_json::to_vec(decided)));
            if let Some((speaker, Ok(word))) = word {
                speaker.say(word);
            }
        });
        Self { followed, looks_again: alone(cluster, "card-guard"), tell_early }
    }
}

/// How often the gateways tell each other what their callers have spent.
const SPENT_EVERY: Duration = Duration::from_millis(100);

pub fn share_rates(cluster: &Option<Cluster>, app: &App, clock: &Clock) {
    let Some(cluster) = cluster else { return };
    let (hearing, clock) = (app.clone(), clock.clone());
    let speaker = cluster.speak("spent", move |word| match serde_json::from_slice::<Vec<Spent>>(word) {
        Ok(batch) => batch.iter().for_each(|spent| hearing.access.spend_elsewhere(spent, clock.now())),
        Err(error) => tracing::warn!(%error, "what callers spent elsewhere cannot be read"),
    });
    let (Some(speaker), telling) = (speaker, app.clone()) else { return };
    actix::spawn(async move {
        let mut tick = tokio::time::interval(SPENT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let batch = telling.access.drain_spent();
            if let (false, Ok(word)) = (batch.is_empty(), serde_json::to_vec(&batch)) {
                speaker.say(word);
            }
        }
    });
}

/// Whether this gateway does what only one of a cluster does.
pub fn alone(cluster: &Option<Cluster>, what: &'static str) -> IsMine {
    match cluster.clone() {
        None => Arc::new(|| true),
        Some(cluster) => Arc::new(move || cluster.falls_to_us(what)),
    }
}

/// Where vehicles tell what changed: the feed, and in a cluster also the consoles elsewhere.
pub fn watched(
    cluster: &Option<Cluster>,
    feed: &Addr<Feed>,
    audience: &Arc<AtomicUsize>,
    thread: &ArbiterHandle,
) -> cluster::Local {
    let local = cluster::Local {
        vehicles: feed.clone().recipient(),
        commands: feed.clone().recipient(),
        consoles: Arc::clone(audience),
    };
    let relay = cluster.as_ref().and_then(|cluster| Some((cluster, cluster.relay(local.clone(), thread)?)));
    match relay {
        None => local,
        Some((cluster, relay)) => cluster::Local {
            vehicles: relay.clone().recipient(),
            commands: relay.recipient(),
            consoles: cluster.audience(),
        },
    }
}

pub fn sessions(kicker: &Kicker) -> Sessions {
    let (overtaken, alone) = (kicker.clone(), kicker.clone());
    Sessions {
        overtaken: Box::new(move |vehicle| {
            overtaken.kick(vehicle, Reason::TakenElsewhere);
        }),
        alone: Box::new(move || alone.kick_all(Reason::Isolated)),
    }
}

pub fn register(metrics: &Metrics, cluster: &Option<Cluster>) {
    if let Some(cluster) = cluster.clone() {
        metrics.register(move || readings::cluster(&cluster));
    }
}
