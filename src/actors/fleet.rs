//! Fleet: VehicleId -> actor. Starts actors from the store on first need, restarts them after a panic, forwards.
//!
//! [`FleetHandle`] is what edges hold. Messages to a resident vehicle go straight to its mailbox; only a vehicle
//! that is not in memory, or whose actor died, takes the way through the `Fleet` actor.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use actix::prelude::*;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::feed::{AlertChanged, CommandChanged, VehicleChanged};
pub use super::fleet_metrics::FleetMetrics;
use super::follower::Follower;
use super::loading::{load, load_registered};
use super::peers::{Keeper, Peers};
use super::schedule::{Schedule, TICK};
use super::vehicle::{AskError, FromCar, Letter, SendToCar, Start, TellError, VehicleActor};
use crate::clock::Clock;
use crate::domain::key::KeyGrant;
use crate::domain::vehicle::{Rules, Vehicle};
use crate::domain::{Refusal, RefusalKind, Timestamp, VehicleId};
use crate::metrics::Count;
use crate::store::{Epoch, ReadError, Store, Table};
use crate::telemetry::Telemetry;

mod adopting;
mod publishing;
mod resident;
mod routing;
mod starting;
#[cfg(test)]
mod tests;

pub(super) use resident::LinkKnown;
use resident::Resident;
pub use starting::Fleet;
use starting::Wake;

/// Mints the holder's token for a grant: (grant, vehicle, holder, issued at) -> CWT in base64url.
pub type Mint = Arc<dyn Fn(&KeyGrant, &VehicleId, &str, Timestamp) -> String + Send + Sync>;

/// What every vehicle's actor has at hand.
pub struct Shared {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub rules: Rules,
    pub mint: Mint,
    pub outbound: Recipient<SendToCar>,
    pub vehicles_feed: Recipient<VehicleChanged>,
    pub commands_feed: Recipient<CommandChanged>,
    pub alerts_feed: Recipient<AlertChanged>,
    /// Consoles attached; with none, telemetry is not sent to the feed.
    pub audience: Arc<AtomicUsize>,
    pub mailbox: usize,
    pub max_in_flight: usize,
    pub max_resident: usize,
    pub max_vehicles: usize,
    pub metrics: FleetMetrics,
    pub telemetry: Telemetry,
    pub in_flight: Arc<AtomicUsize>,
    /// None where the machine is alone.
    pub peers: Option<Arc<dyn Peers>>,
    registered: RwLock<BTreeSet<VehicleId>>,
}

/// Where the edges and limits of the shared parts come from.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub rules: Rules,
    pub mint: Mint,
    pub outbound: Recipient<SendToCar>,
    pub vehicles_feed: Recipient<VehicleChanged>,
    pub commands_feed: Recipient<CommandChanged>,
    pub alerts_feed: Recipient<AlertChanged>,
    pub audience: Arc<AtomicUsize>,
    pub telemetry: Telemetry,
    pub peers: Option<Arc<dyn Peers>>,
}

impl Shared {
    pub(super) fn known_if_registered(&self, vehicle: &Vehicle) {
        if vehicle.registered.is_none() {
            return;
        }
        self.know(&vehicle.vehicle_id);
    }

    fn know(&self, vehicle: &VehicleId) {
        let is_known = self.registered.read().unwrap_or_else(PoisonError::into_inner).contains(vehicle);
        if !is_known {
            let mut registered = self.registered.write().unwrap_or_else(PoisonError::into_inner);
            registered.insert(vehicle.clone());
        }
    }

    /// May the vehicle be taken for this? A car that connects has it wherever it was; nothing else takes it from a gateway
    /// that lives.
    fn may_take(&self, vehicle: &VehicleId, letter: Option<&Letter>) -> bool {
        let Some(peers) = &self.peers else { return true };
        match letter {
            Some(Letter::FromCar(FromCar::LinkUp { .. }, _)) => true,
            Some(Letter::FromCar(..) | Letter::Ask(..) | Letter::Snapshot(_) | Letter::Await(..)) | None => {
                !matches!(peers.keeper(vehicle), Keeper::There(_))
            }
            Some(Letter::Sweep | Letter::Publish | Letter::Drain(_) | Letter::Retire | Letter::Overtaken) => {
                routing::is_on_us(&**peers, vehicle)
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.registered.read().unwrap_or_else(PoisonError::into_inner).len() >= self.max_vehicles
    }
}

/// A share of the observation budget; given back when dropped, so that a dead actor's mailbox costs nothing.
pub(super) struct Budget {
    in_flight: Arc<AtomicUsize>,
    reports: usize,
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.reports, Ordering::Relaxed);
    }
}

/// One thread of actors.
struct Shard {
    arbiter: ArbiterHandle,
    schedule: Arc<Schedule>,
    vehicles: RwLock<HashMap<VehicleId, Resident>>,
    /// Sweeps so far: the thread turns.
    sweeps: Count,
}

/// The way to every vehicle; cheap to clone. Edges hold one.
#[derive(Clone)]
pub struct FleetHandle(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    shards: Vec<Shard>,
    fleet: Addr<Fleet>,
}

impl Inner {
    fn shard(&self, vehicle: &VehicleId) -> &Shard {
        let hash = crc32c::crc32c(vehicle.as_str().as_bytes()) as usize;
        &self.shards[hash % self.shards.len()]
    }

    fn resident(&self, vehicle: &VehicleId) -> Option<Resident> {
        let vehicles = self.shard(vehicle).vehicles.read().unwrap_or_else(PoisonError::into_inner);
        vehicles.get(vehicle.as_str()).cloned()
    }

    fn resident_count(&self) -> usize {
        self.shards.iter().map(|shard| shard.vehicles.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// How long an edge waits for an actor that is being started or is committing.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

impl FleetHandle {
    /// Starts the fleet: its threads, the sweep of each, and every registered vehicle that fits into memory.
    /// Call on an actix system.
    pub fn start(config: &crate::config::Fleet, parts: Parts) -> Result<Self, ReadError> {
        let registered = load_registered(&*parts.store, config.max_vehicles)?;
        let shared = Arc::new(Shared {
            store: parts.store,
            clock: parts.clock,
            rules: parts.rules,
            mint: parts.mint,
            outbound: parts.outbound,
            vehicles_feed: parts.vehicles_feed,
            commands_feed: parts.commands_feed,
            alerts_feed: parts.alerts_feed,
            audience: parts.audience,
            mailbox: config.mailbox,
            max_in_flight: config.max_observations_in_flight,
            max_resident: config.max_resident,
            max_vehicles: config.max_vehicles,
            metrics: FleetMetrics::default(),
            telemetry: parts.telemetry,
            in_flight: Arc::default(),
            peers: parts.peers,
            registered: RwLock::new(registered.clone()),
        });
        let shards = (0..config.arbiters.max(1))
            .map(|_| Shard {
                arbiter: Arbiter::new().handle(),
                schedule: Arc::default(),
                vehicles: RwLock::default(),
                sweeps: Count::default(),
            })
            .collect();
        let mut made = None;
        Fleet::create(|ctx| {
            ctx.set_mailbox_capacity(WAKE_QUEUE);
            let inner = Arc::new(Inner { shared, shards, fleet: ctx.address() });
            made = Some(Arc::clone(&inner));
            Fleet::new(inner)
        });
        // `create` runs its closure before it returns.
        let inner = made.expect("the closure ran");
        for (number, vehicle) in registered.into_iter().enumerate() {
            // Where others may have it, a vehicle is taken when it is needed.
            let claim = match inner.shared.peers {
                None if number < config.max_resident => inner.shared.store.claim(&vehicle).now_or_never(),
                _ => None,
            };
            let epoch = claim.and_then(Result::ok);
            let start = load(&inner.shared, &vehicle, epoch.unwrap_or(Epoch(0)), LinkKnown::default())?;
            if epoch.is_some() {
                inner.house(start, LinkKnown::default());
            } else if let Some(due) = start.vehicle.next_due(&start.twin) {
                inner.shard(&vehicle).schedule.at(due, vehicle);
            }
        }
        for index in 0..inner.shards.len() {
            inner.shards[index].arbiter.spawn(sweep(Arc::clone(&inner), index));
        }
        Ok(Self(inner))
    }

    /// From the gate; never blocks.
    pub fn tell(&self, vehicle: &VehicleId, message: FromCar) -> Result<(), TellError> {
        let budget = match &message {
            FromCar::Reports(reports) => Some(self.take_budget(reports.len())?),
            FromCar::Fact(_)
            | FromCar::Ack(_)
            | FromCar::LinkUp { .. }
            | FromCar::LinkDown { .. }
            | FromCar::Delivered { .. } => None,
        };
        self.0.post(vehicle, Letter::FromCar(message, budget))
    }

    fn take_budget(&self, reports: usize) -> Result<Budget, TellError> {
        let shared = &self.0.shared;
        let before = shared.in_flight.fetch_add(reports, Ordering::Relaxed);
        let budget = Budget { in_flight: Arc::clone(&shared.in_flight), reports };
        if before >= shared.max_in_flight {
            shared.metrics.budget_full.fetch_add(1, Ordering::Relaxed);
            return Err(TellError::Full);
        }
        Ok(budget)
    }

    /// Every registered vehicle's id in order after `after`, at most `limit`; from memory.
    pub fn vehicles(&self, after: Option<&VehicleId>, limit: usize) -> Vec<VehicleId> {
        let registered = self.0.shared.registered.read().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        registered.range((from, Bound::Unbounded)).take(limit).cloned().collect()
    }

    /// How many vehicles are registered.
    pub fn registered(&self) -> usize {
        self.0.shared.registered.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_registered(&self, vehicle: &VehicleId) -> bool {
        self.0.shared.registered.read().unwrap_or_else(PoisonError::into_inner).contains(vehicle)
    }

    /// Keeps the list of registered vehicles as every gateway's records say. What else is known of a vehicle is known where
    /// it is.
    pub fn follow(&self, follower: &mut Follower) {
        let shared = Arc::clone(&self.0.shared);
        follower.add(
            &[Table::Vehicles],
            Box::new(move |changed| {
                let unfit = |_| ReadError::Damaged(format!("vehicle row {}", changed.key));
                let vehicle: VehicleId = changed.key.parse().map_err(unfit)?;
                let mut registered = shared.registered.write().unwrap_or_else(PoisonError::into_inner);
                match changed.row {
                    Some(_) => registered.insert(vehicle),
                    None => registered.remove(&vehicle),
                };
                Ok(())
            }),
        );
    }

    /// Saves what every vehicle has not saved yet; for the end of the process. Ends after `limit` at the latest.
    pub async fn drain(&self, limit: Duration) {
        let mut drained = Vec::new();
        for shard in &self.0.shards {
            for resident in shard.vehicles.read().unwrap_or_else(PoisonError::into_inner).values() {
                let (reply, done) = oneshot::channel();
                resident.addr.do_send(Letter::Drain(reply));
                drained.push(done);
            }
        }
        let all = async {
            for done in drained {
                // A dead actor has nothing to save.
                let _ = done.await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("not every vehicle could save its last second");
        }
    }

    pub fn metrics(&self) -> &FleetMetrics {
        &self.0.shared.metrics
    }

    pub fn observations_in_flight(&self) -> usize {
        self.0.shared.in_flight.load(Ordering::Relaxed)
    }

    pub fn scheduled(&self) -> usize {
        self.0.shards.iter().map(|shard| shard.schedule.pending()).sum()
    }

    /// For each thread of vehicle actors, how often it looked who is due.
    pub fn sweeps(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.shards.iter().map(|shard| shard.sweeps.get())
    }

    fn must_exist(&self, vehicle: &VehicleId) -> Result<(), AskError> {
        if self.is_registered(vehicle) {
            Ok(())
        } else {
            Err(Refusal::new(RefusalKind::NotFound, format!("there is no vehicle {vehicle}")).into())
        }
    }

    fn post(&self, vehicle: &VehicleId, letter: Letter) -> Result<(), AskError> {
        self.0.post(vehicle, letter).map_err(|_| AskError::Busy)
    }
}

/// Vehicles that may wait to be started.
const WAKE_QUEUE: usize = 4_096;
/// Vehicles swept in one tick of one thread.
const SWEEP_MAX: usize = 1_024;
/// Idle vehicles asked to leave when memory is full.
const RETIRE_MAX: usize = 256;

impl Inner {
    /// To the vehicle's mailbox, or to the fleet when it has none that works.
    fn post(&self, vehicle: &VehicleId, letter: Letter) -> Result<(), TellError> {
        let letter = {
            let vehicles = self.shard(vehicle).vehicles.read().unwrap_or_else(PoisonError::into_inner);
            match vehicles.get(vehicle.as_str()) {
                Some(resident) => {
                    resident.note_link(&letter);
                    match resident.addr.try_send(letter) {
                        Ok(()) => return Ok(()),
                        Err(SendError::Full(letter)) => return self.refuse_full(vehicle, letter),
                        Err(SendError::Closed(letter)) => letter,
                    }
                }
                None => letter,
            }
        };
        let wake = Wake { vehicle: vehicle.clone(), letter: Some(letter) };
        self.fleet.try_send(wake).map_err(|error| match error {
            SendError::Full(_) => {
                self.shared.metrics.fleet_full.fetch_add(1, Ordering::Relaxed);
                TellError::Full
            }
            SendError::Closed(_) => TellError::Unavailable,
        })
    }

    fn refuse_full(&self, vehicle: &VehicleId, letter: Letter) -> Result<(), TellError> {
        self.shared.metrics.mailbox_full.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%vehicle, "mailbox is full");
        drop(letter);
        Err(TellError::Full)
    }

    /// Gives a loaded vehicle its actor, on the thread its id hashes to.
    fn house(&self, start: Start, link: LinkKnown) -> Resident {
        let (vehicle, epoch) = (start.vehicle.vehicle_id.clone(), start.epoch);
        let shard = self.shard(&vehicle);
        let (shared, schedule) = (Arc::clone(&self.shared), Arc::clone(&shard.schedule));
        let addr = VehicleActor::start_in_arbiter(&shard.arbiter, move |_| VehicleActor::new(shared, schedule, start));
        let resident = Resident { addr, epoch, link: Arc::new(Mutex::new(link)) };
        let mut vehicles = shard.vehicles.write().unwrap_or_else(PoisonError::into_inner);
        vehicles.insert(vehicle, resident.clone());
        resident
    }

    /// Forgets a vehicle that another gateway has taken; its actor ends without a word. One that was taken back by a claim
    /// newer than `taken` stays.
    fn release(&self, vehicle: &VehicleId, taken: Option<Epoch>) {
        let mut vehicles = self.shard(vehicle).vehicles.write().unwrap_or_else(PoisonError::into_inner);
        let is_older = |resident: &Resident| taken.is_none_or(|taken| resident.epoch < taken);
        if !vehicles.get(vehicle.as_str()).is_some_and(is_older) {
            return;
        }
        let resident = vehicles.remove(vehicle.as_str());
        drop(vehicles);
        if let Some(resident) = resident {
            // One that is dead has ended already.
            resident.addr.do_send(Letter::Overtaken);
        }
    }

    /// Asks idle vehicles of a full thread to leave, and forgets those that did.
    fn make_room(&self, shard: &Shard) {
        let mut vehicles = shard.vehicles.write().unwrap_or_else(PoisonError::into_inner);
        vehicles.retain(|_, resident| resident.addr.connected() || resident.link().is_online);
        for resident in vehicles.values().filter(|resident| !resident.link().is_online).take(RETIRE_MAX) {
            // A full mailbox means it is not idle.
            let _ = resident.addr.try_send(Letter::Retire);
        }
    }
}

/// Looks every tick at who is due on one thread of actors.
async fn sweep(inner: Arc<Inner>, index: usize) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        inner.shards[index].sweeps.inc();
        let now = inner.shared.clock.now();
        for vehicle in inner.shards[index].schedule.due(now, SWEEP_MAX) {
            if !routing::is_to_sweep(&inner, &vehicle) {
                continue;
            }
            // One that is not in memory is woken for it.
            if inner.post(&vehicle, Letter::Sweep) == Err(TellError::Full) {
                inner.shards[index].schedule.at(now.plus_ms(1_000), vehicle);
            }
        }
    }
}
