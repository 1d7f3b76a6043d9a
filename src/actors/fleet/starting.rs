//! From a vehicle that is needed to an actor that works: one at a time each, so that a vehicle never has two; and again when
//! it cannot be started now.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;

use super::resident::LinkKnown;
use super::{Inner, Shared};
use crate::actors::loading::load;
use crate::actors::peers::Keeper;
use crate::actors::vehicle::{AskError, FromCar, Letter, Start};
use crate::domain::VehicleId;
use crate::store::{AppendError, Epoch, ReadError};

/// Letters that may wait for a vehicle.
const MAX_WAITING_LETTERS: usize = 64;

/// The actor that starts vehicles.
pub struct Fleet {
    inner: Arc<Inner>,
    /// Vehicles being loaded, with what waits for them.
    waking: HashMap<VehicleId, Waking>,
    /// Vehicles that are online and could not be started: tried again, for the gate says it only once. No more than
    /// the gate has sessions.
    absent: HashMap<VehicleId, LinkKnown>,
    /// Vehicles that could not be started when that was tried last.
    failed: HashMap<VehicleId, Failed>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Failed {
    times: u32,
    /// The claim went through. Each claim is a record that all gateways copy, so one serves for all attempts.
    epoch: Option<Epoch>,
}

/// What waits for a vehicle that is being loaded.
#[derive(Default)]
struct Waking {
    letters: Vec<Letter>,
    /// The gate's last word on the link among what there was no room for: it says it only once.
    link: Option<Letter>,
}

impl Waking {
    /// False = dropped, so that whoever asked hears `Unknown`, and a car sends its fact again.
    fn take(&mut self, letter: Option<Letter>) -> bool {
        match letter {
            None => true,
            Some(letter) if self.letters.len() < MAX_WAITING_LETTERS && self.link.is_none() => {
                self.letters.push(letter);
                true
            }
            Some(link @ Letter::FromCar(FromCar::LinkUp { .. } | FromCar::LinkDown { .. }, _)) => {
                self.link = Some(link);
                true
            }
            Some(_) => false,
        }
    }

    fn into_letters(self) -> Vec<Letter> {
        self.letters.into_iter().chain(self.link).collect()
    }
}

/// After a vehicle could not be started for the first time; twice as long each time, until it is
const START_AGAIN: Duration = Duration::from_secs(1);
/// this long.
const START_AGAIN_MAX: Duration = Duration::from_secs(8);
/// More failures are not remembered one by one.
const FAILED_MAX: usize = 65_536;

/// A vehicle is needed and has no actor that works.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Wake {
    pub vehicle: VehicleId,
    pub letter: Option<Letter>,
}

impl Actor for Fleet {
    type Context = Context<Self>;
}

impl Handler<Wake> for Fleet {
    type Result = ();

    fn handle(&mut self, Wake { vehicle, letter }: Wake, ctx: &mut Self::Context) {
        if let Some(waking) = self.waking.get_mut(&vehicle) {
            if !waking.take(letter) {
                self.inner.shared.metrics.mailbox_full.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let known = self.inner.resident(&vehicle);
        if known.as_ref().is_none_or(|known| !known.addr.connected())
            && !self.inner.shared.may_take(&vehicle, letter.as_ref())
        {
            // What an old session of the car still brings changes nothing.
            return self.leave_it(&vehicle, letter);
        }
        let link = match known {
            Some(resident) if resident.addr.connected() => {
                if let Some(letter) = letter {
                    // Full = dropped, as above.
                    let _ = resident.addr.try_send(letter);
                }
                return;
            }
            Some(resident) => {
                self.inner.shared.metrics.restarts.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%vehicle, "vehicle is started again from the store");
                resident.link()
            }
            None => self.absent.get(&vehicle).copied().unwrap_or_default(),
        };
        if self.inner.resident_count() >= self.inner.shared.max_resident {
            self.inner.shared.metrics.fleet_full.fetch_add(1, Ordering::Relaxed);
            self.inner.make_room(self.inner.shard(&vehicle));
            if self.inner.resident_count() >= 2 * self.inner.shared.max_resident {
                tracing::warn!(%vehicle, "no room in memory for another vehicle");
                return self.try_again(vehicle, link, letter.into_iter().collect(), ctx);
            }
        }
        self.waking.insert(vehicle.clone(), Waking { letters: letter.into_iter().collect(), ..Waking::default() });
        let loading = take(Arc::clone(&self.inner.shared), vehicle.clone(), link, self.claimed(&vehicle));
        ctx.spawn(loading.into_actor(self).map(move |(epoch, loaded), fleet, ctx| {
            if let (Some(epoch), Err(_)) = (epoch, &loaded) {
                fleet.note_failed(&vehicle).epoch = Some(epoch);
            }
            fleet.on_loaded(vehicle, loaded, link, ctx);
        }));
    }
}

impl Fleet {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, waking: HashMap::new(), absent: HashMap::new(), failed: HashMap::new() }
    }

    fn on_loaded(
        &mut self,
        vehicle: VehicleId,
        loaded: Result<Start, NotTaken>,
        link: LinkKnown,
        ctx: &mut Context<Self>,
    ) {
        let letters = self.waking.remove(&vehicle).unwrap_or_default().into_letters();
        let start = match loaded {
            Ok(start) => start,
            Err(NotTaken::Claim(AppendError::Fenced)) => return self.leave_it(&vehicle, letters),
            Err(error) => {
                self.inner.shared.metrics.failed_starts.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%vehicle, %error, "vehicle cannot be started");
                return self.try_again(vehicle, link, letters, ctx);
            }
        };
        // Overtaken while it was being loaded.
        if self.inner.shared.peers.as_ref().is_some_and(|peers| peers.keeper(&vehicle) != Keeper::Here) {
            return self.leave_it(&vehicle, letters);
        }
        self.absent.remove(&vehicle);
        self.failed.remove(&vehicle);
        let resident = self.inner.house(start, link);
        for letter in letters {
            resident.note_link(&letter);
            // The new mailbox holds at least as many as could wait.
            resident.addr.do_send(letter);
        }
    }

    /// Another gateway has the vehicle: nothing of it stays here, not even the car's old session. Whoever asked shall ask
    /// there.
    fn leave_it(&mut self, vehicle: &VehicleId, letters: impl IntoIterator<Item = Letter>) {
        refuse(letters, || AskError::Busy);
        self.absent.remove(vehicle);
        self.failed.remove(vehicle);
        self.inner.release(vehicle, None);
        if let Some(peers) = &self.inner.shared.peers
            && matches!(peers.keeper(vehicle), Keeper::There(_))
        {
            peers.let_go(vehicle);
        }
    }

    /// Whoever asked hears that nothing happened, and a car sends its facts again; but a car that is online has to be
    /// known as such.
    fn try_again(&mut self, vehicle: VehicleId, mut link: LinkKnown, letters: Vec<Letter>, ctx: &mut Context<Self>) {
        letters.iter().for_each(|letter| link.note(letter));
        let is_due = letters.iter().any(|letter| matches!(letter, Letter::Sweep));
        refuse(letters, || AskError::Storage("the vehicle cannot be started now"));
        self.note_failed(&vehicle).times += 1;
        let pause = self.pause(&vehicle);
        if link.is_online {
            if self.absent.insert(vehicle.clone(), link).is_none() {
                ctx.run_later(pause, move |fleet, ctx| fleet.start_absent(vehicle, ctx));
            }
            return;
        }
        self.absent.remove(&vehicle);
        // What is due for it stays due. In a cluster the claim may have gone through: then it is nobody else's to look.
        if is_due || self.inner.shared.peers.is_some() {
            let soon = self.inner.shared.clock.now().plus_ms(pause.as_millis() as i64);
            self.inner.shard(&vehicle).schedule.at(soon, vehicle);
        } else {
            self.failed.remove(&vehicle);
        }
    }

    fn note_failed(&mut self, vehicle: &VehicleId) -> &mut Failed {
        if self.failed.len() >= FAILED_MAX && !self.failed.contains_key(vehicle) {
            self.failed.clear();
        }
        self.failed.entry(vehicle.clone()).or_default()
    }

    fn pause(&self, vehicle: &VehicleId) -> Duration {
        let times = self.failed.get(vehicle).map_or(1, |failed| failed.times);
        (START_AGAIN * 2_u32.pow(times.saturating_sub(1).min(8))).min(START_AGAIN_MAX)
    }

    /// What an attempt of before claimed, as long as nobody else has claimed it since.
    fn claimed(&self, vehicle: &VehicleId) -> Option<Epoch> {
        let is_ours = self.inner.shared.peers.as_ref().is_none_or(|peers| peers.keeper(vehicle) == Keeper::Here);
        self.failed.get(vehicle).and_then(|failed| failed.epoch).filter(|_| is_ours)
    }

    fn start_absent(&mut self, vehicle: VehicleId, ctx: &mut Context<Self>) {
        let is_awaited = self.absent.contains_key(&vehicle);
        if is_awaited && !self.waking.contains_key(&vehicle) {
            self.handle(Wake { vehicle: vehicle.clone(), letter: None }, ctx);
        }
        if self.absent.contains_key(&vehicle) {
            ctx.run_later(self.pause(&vehicle), move |fleet, ctx| fleet.start_absent(vehicle, ctx));
        }
    }
}

/// For letters that no actor has seen: whoever asked hears that surely nothing happened.
fn refuse(letters: impl IntoIterator<Item = Letter>, why: impl Fn() -> AskError) {
    for letter in letters {
        if let Letter::Ask(_, reply, _) = letter {
            // The asker may have gone.
            let _ = reply.send(Err(why()));
        }
    }
}

/// Why a vehicle could not be started.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("the right to write it was not given: {0}")]
    Claim(#[from] AppendError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("loading it panicked")]
    Panicked,
}

/// Takes the right to write the vehicle's stream, if it is not `claimed`, then folds what is stored. Also tells what is claimed
/// now.
async fn take(
    shared: Arc<Shared>,
    vehicle: VehicleId,
    link: LinkKnown,
    claimed: Option<Epoch>,
) -> (Option<Epoch>, Result<Start, NotTaken>) {
    let epoch = match claimed {
        Some(epoch) => epoch,
        None => match shared.store.claim(&vehicle).await {
            Ok(epoch) => epoch,
            Err(error) => return (None, Err(error.into())),
        },
    };
    let loaded = tokio::task::spawn_blocking(move || load(&shared, &vehicle, epoch, link)).await;
    (Some(epoch), loaded.map_err(|_| NotTaken::Panicked).and_then(|loaded| Ok(loaded?)))
}
