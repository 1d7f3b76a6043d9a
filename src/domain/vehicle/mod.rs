//! One vehicle's record: registration, commands, keys, rentals. Everything promised about a car is in here.
//!
//! [`Vehicle::decide`] says what a request would change and changes nothing; [`Vehicle::apply`] changes and cannot
//! fail. The actor stores the events in between.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod claims;
mod decide;
mod event;
#[cfg(test)]
mod lending_claims;
#[cfg(test)]
mod walk;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use event::{Details, Event, Request};

use super::card::AlertKind;
use super::command::{Command, CommandState, FactKind, Order};
use super::gauge::Fall;
use super::key::{Key, Profile};
use super::rental::{Lending, Rental, RentalState, RequestState, Usage, UsageRequest};
use super::twin::Twin;
use super::{CommandId, Function, Functions, KeyId, Principal, Refusal, RentalId, RequestId, Timestamp, VehicleId};

/// What a decision may look at beside the record.
pub struct Context<'a> {
    pub now: Timestamp,
    pub twin: &'a Twin,
    pub rules: &'a Rules,
    /// A fresh UUIDv7 a call.
    pub new_id: &'a dyn Fn() -> Uuid,
}

/// What the fleet's configuration fixes for every vehicle.
#[derive(Debug, Clone)]
pub struct Rules {
    pub profiles: Vec<Profile>,
    pub max_key_ms: i64,
    pub lock_ttl_ms: i64,
    pub command_ttl_ms: i64,
    pub max_ttl_ms: i64,
}

/// The record. Plain data; everything in it comes from events alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vehicle {
    pub vehicle_id: VehicleId,
    /// `None` until somebody registered it, or it connected with a certificate of the fleet.
    pub registered: Option<Registered>,
    pub details: Details,
    /// What the unit said at its last boot.
    pub reported: Option<Unit>,
    /// Every open command, then the newest closed ones; oldest first.
    pub commands: Vec<Command>,
    pub keys: Vec<Key>,
    /// Raised by every revocation.
    pub key_generation: u32,
    /// Functions an operator took away and the car confirmed.
    pub disabled: Functions,
    pub requests: Vec<UsageRequest>,
    pub rentals: Vec<Rental>,
    /// The newest fall of the fuel level that people were told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fuel_fell_at: Option<Timestamp>,
    seen: Vec<SeenFacts>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    pub at: Timestamp,
    pub by: Principal,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    pub firmware: String,
    pub capabilities: Functions,
    pub tank_litres: Option<f64>,
}

/// Which facts of one start of the unit were taken: the newest and a window of 64 below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SeenFacts {
    boot: u64,
    newest: u64,
    /// Bit n = `newest - n` was taken.
    window: u64,
}

impl Vehicle {
    pub const MAX_OPEN_COMMANDS: usize = 64;
    pub const MAX_CLOSED_COMMANDS: usize = 32;
    pub const MAX_OPEN_REQUESTS: usize = 32;
    pub const MAX_CLOSED_RENTALS: usize = 16;
    pub const MAX_KEYS: usize = 64;
    /// What a car that is back tells first: what happened while it was away.
    const TELL_MS: i64 = 120_000;
    /// A unit that restarts more often than its facts arrive loses the oldest start's window.
    const MAX_BOOTS: usize = 4;

    pub fn new(vehicle_id: VehicleId) -> Self {
        Self {
            vehicle_id,
            registered: None,
            details: Details::default(),
            reported: None,
            commands: Vec::new(),
            keys: Vec::new(),
            key_generation: 0,
            disabled: Functions::NONE,
            requests: Vec::new(),
            rentals: Vec::new(),
            fuel_fell_at: None,
            seen: Vec::new(),
        }
    }

    /// What the events of a request would be; nothing is changed.
    pub fn decide(&self, context: &Context<'_>, request: Request) -> Result<Vec<Event>, Refusal> {
        decide::decide(self, context, request)
    }

    pub fn apply(&mut self, event: &Event) {
        let before = self.closed();
        match event {
            Event::VehicleRegistered { details, by, at } => {
                self.registered = Some(Registered { at: *at, by: by.clone() });
                self.details = details.clone();
            }
            Event::VehicleChanged { details } => self.details = details.clone(),
            Event::CommandAccepted { command } => self.commands.push(command.clone()),
            Event::CommandMoved { command_id, state, at, reason } => {
                self.move_command(*command_id, *state, *at, reason.clone());
            }
            Event::FactTaken { fact } => {
                self.mark_seen(fact.boot, fact.seq);
                if let FactKind::Boot { firmware, capabilities, tank_litres } = &fact.kind {
                    self.reported = Some(Unit {
                        firmware: firmware.clone(),
                        capabilities: capabilities.clone().into(),
                        tank_litres: *tank_litres,
                    });
                }
            }
            Event::UsageRequested { request } => self.requests.push(request.clone()),
            Event::UsageDecided { request_id, state, at } => {
                if let Some(request) = self.requests.iter_mut().find(|request| request.request_id == *request_id) {
                    request.state = *state;
                    request.decided_at = Some(*at);
                }
            }
            Event::RentalReserved { rental } => {
                if let Some(request) = self.requests.iter_mut().find(|request| request.request_id == rental.request_id)
                {
                    request.rental_id = Some(rental.rental_id);
                    request.key_id = Some(rental.key_id);
                }
                self.rentals.push(rental.clone());
            }
            Event::RentalMoved { rental_id, state, at } => self.edit_rental(*rental_id, |rental| {
                rental.state = *state;
                rental.history.push(super::rental::RentalPassage { state: *state, at: *at });
            }),
            Event::RentalExtended { rental_id, key_id, until, .. } => {
                self.edit_rental(*rental_id, |rental| rental.until = *until);
                self.edit_key(*key_id, |key| key.grant.not_after = *until);
            }
            Event::RentalUsed { rental_id, at } => self.edit_rental(*rental_id, |rental| {
                rental.first_used_at.get_or_insert(*at);
            }),
            Event::ReturnDoubted { rental_id, alert } => self.edit_rental(*rental_id, |rental| {
                rental.is_late |= alert.kind == AlertKind::LateReturn;
            }),
            Event::FuelFell { measured_at, .. } => self.fuel_fell_at = Some(*measured_at),
            Event::KeyGranted { key } => self.keys.push(key.clone()),
            Event::KeyLeased { key_id, until } => self.edit_key(*key_id, |key| key.leased_until = Some(*until)),
            Event::KeyDelegated { key_id, delegation } => {
                self.edit_key(*key_id, |key| key.delegations.push(delegation.clone()));
            }
            Event::DelegationRevoked { key_id, delegated_key_id, generation, at, .. } => {
                self.key_generation = self.key_generation.max(*generation);
                self.edit_key(*key_id, |key| {
                    let delegation = key.delegations.iter_mut().find(|known| known.key_id == *delegated_key_id);
                    if let Some(delegation) = delegation {
                        delegation.revoked_at.get_or_insert(*at);
                    }
                });
            }
            Event::KeyDelivered { key_id, at } => self.edit_key(*key_id, |key| {
                key.delivered_at.get_or_insert(*at);
            }),
            Event::KeyRevoked { key_id, generation, at, .. } => {
                self.key_generation = self.key_generation.max(*generation);
                self.edit_key(*key_id, |key| {
                    key.revoked_at.get_or_insert(*at);
                });
            }
        }
        self.forget_the_oldest(before);
    }

    fn edit_rental(&mut self, id: RentalId, edit: impl FnOnce(&mut Rental)) {
        if let Some(rental) = self.rentals.iter_mut().find(|rental| rental.rental_id == id) {
            edit(rental);
        }
    }

    fn edit_key(&mut self, id: KeyId, edit: impl FnOnce(&mut Key)) {
        if let Some(key) = self.keys.iter_mut().find(|key| key.grant.key_id == id) {
            edit(key);
        }
    }

    fn move_command(&mut self, id: CommandId, state: CommandState, at: Timestamp, reason: Option<String>) {
        let Some(command) = self.commands.iter_mut().find(|command| command.command_id == id) else { return };
        command.enter(state, at, reason);
        if state == CommandState::Succeeded {
            match command.order {
                Order::DisableFunction { function } => self.disabled = self.disabled.with(function),
                Order::EnableFunction { function } => self.disabled = self.disabled.without(function),
                Order::Lock
                | Order::Unlock
                | Order::Locate
                | Order::GrantKey { .. }
                | Order::RevokeKey { .. }
                | Order::ReportState => {}
            }
        }
    }

    fn mark_seen(&mut self, boot: u64, seq: u64) {
        let Some(seen) = self.seen.iter_mut().find(|seen| seen.boot == boot) else {
            self.seen.push(SeenFacts { boot, newest: seq, window: 1 });
            if self.seen.len() > Self::MAX_BOOTS {
                self.seen.remove(0);
            }
            return;
        };
        if seq > seen.newest {
            let shift = seq - seen.newest;
            seen.window = if shift < 64 { (seen.window << shift) | 1 } else { 1 };
            seen.newest = seq;
        } else if seen.newest - seq < 64 {
            seen.window |= 1 << (seen.newest - seq);
        }
    }

    /// Was this fact taken before? One further back than the window may or may not have been; it is taken, since twice
    /// told does less harm than lost.
    pub fn has_seen(&self, boot: u64, seq: u64) -> bool {
        self.seen.iter().find(|seen| seen.boot == boot).is_some_and(|seen| {
            seq <= seen.newest && seen.newest - seq < 64 && seen.window & (1 << (seen.newest - seq)) != 0
        })
    }

    /// When each thing of the four lists closed, in their order.
    fn closed(&self) -> Closed {
        Closed {
            commands: closed_of(&self.commands, Self::MAX_CLOSED_COMMANDS, closed_command),
            rentals: closed_of(&self.rentals, Self::MAX_CLOSED_RENTALS, closed_rental),
            requests: closed_of(&self.requests, Self::MAX_CLOSED_RENTALS, |request| request.decided_at),
            keys: closed_of(&self.keys, Self::MAX_CLOSED_RENTALS, |key| key.revoked_at),
        }
    }

    /// Bounds every list; what is dropped stays in the journal and in the view. `before`: what had closed before the newest
    /// event. What it closed stays, or whoever asked for it would not find it: a clock that was set back makes it look old.
    fn forget_the_oldest(&mut self, before: Closed) {
        drop_oldest(&mut self.commands, before.commands, Self::MAX_CLOSED_COMMANDS, closed_command);
        drop_oldest(&mut self.rentals, before.rentals, Self::MAX_CLOSED_RENTALS, closed_rental);
        drop_oldest(&mut self.requests, before.requests, Self::MAX_CLOSED_RENTALS, |request| request.decided_at);
        drop_oldest(&mut self.keys, before.keys, Self::MAX_CLOSED_RENTALS, |key| key.revoked_at);
    }

    /// A copy without what is over, for those who watch: a car that is long in use has ten times as much of that.
    pub fn without_the_past(&self) -> Self {
        Self {
            vehicle_id: self.vehicle_id.clone(),
            registered: self.registered.clone(),
            details: self.details.clone(),
            reported: self.reported.clone(),
            commands: self.open_commands().cloned().collect(),
            keys: self.keys.iter().filter(|key| key.revoked_at.is_none()).cloned().collect(),
            key_generation: self.key_generation,
            disabled: self.disabled,
            requests: self.requests.iter().filter(|request| request.decided_at.is_none()).cloned().collect(),
            rentals: self.rentals.iter().filter(|rental| !rental.state.is_over()).cloned().collect(),
            fuel_fell_at: self.fuel_fell_at,
            seen: Vec::new(),
        }
    }

    /// What the car can do: as its unit reported, else as the operator said, else everything.
    pub fn capabilities(&self) -> Functions {
        self.reported.as_ref().map(|unit| unit.capabilities).or(self.details.capabilities).unwrap_or(Functions::ALL)
    }

    /// A fall of the level at rest that nobody was told of yet.
    pub fn untold_fall(&self, twin: &Twin) -> Option<Fall> {
        let is_new = |fall: &Fall| self.fuel_fell_at.is_none_or(|told| told < fall.to.at);
        twin.gauge().fell().filter(is_new)
    }

    pub fn tank_litres(&self) -> Option<f64> {
        self.details.tank_litres.or_else(|| self.reported.as_ref().and_then(|unit| unit.tank_litres))
    }

    pub fn command(&self, id: CommandId) -> Option<&Command> {
        self.commands.iter().find(|command| command.command_id == id)
    }

    pub fn open_commands(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter().filter(|command| !command.state.is_final())
    }

    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.grant.key_id == id)
    }

    pub fn rental(&self, id: RentalId) -> Option<&Rental> {
        self.rentals.iter().find(|rental| rental.rental_id == id)
    }

    pub fn usage_request(&self, id: RequestId) -> Option<&UsageRequest> {
        self.requests.iter().find(|request| request.request_id == id)
    }

    /// What the vehicle is used for at `now`.
    pub fn usage(&self, now: Timestamp) -> Usage {
        let of = |state: RentalState| self.rentals.iter().find(|rental| rental.state == state);
        if let Some(rental) = of(RentalState::Active) {
            let Rental { rental_id, renter, from, until, .. } = rental.clone();
            return Usage::Rented { rental_id, renter, from, until };
        }
        if let Some(rental) = of(RentalState::Ending) {
            let since = rental.closed_at().unwrap_or(now);
            return Usage::Ending { rental_id: rental.rental_id, renter: rental.renter.clone(), since };
        }
        let next =
            self.rentals.iter().filter(|rental| rental.state == RentalState::Reserved).min_by_key(|rental| rental.from);
        match next {
            Some(rental) => {
                let Rental { rental_id, renter, from, until, .. } = rental.clone();
                Usage::Reserved { rental_id, renter, from, until }
            }
            None => Usage::Free,
        }
    }

    /// May the car be driven, as far as the gateway knows: its own word, else what was last confirmed.
    pub fn is_drive_enabled(&self, twin: &Twin) -> bool {
        twin.signal(super::twin::path::DRIVE_ENABLED)
            .and_then(|signal| signal.value.as_bool())
            .unwrap_or(!self.disabled.contains(Function::Drive))
    }

    /// What shall be handed to the car's session now, in order: what waits, unless it would endanger a moving car.
    pub fn outbox(&self, twin: &Twin) -> Vec<&Command> {
        if !twin.is_online() {
            return Vec::new();
        }
        let is_releasable = |command: &&Command| {
            command.waits_to_be_sent()
                && (!command.order.endangers_a_moving_car() || command.was_sent || twin.is_safe_to_stop())
        };
        self.commands.iter().filter(is_releasable).collect()
    }

    /// What the car has begun and not finished: repeated on a new session, since its answer may have been lost.
    pub fn unanswered(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter().filter(|command| {
            command.was_sent && matches!(command.state, CommandState::Executing | CommandState::PendingSafe)
        })
    }

    /// When something is due without anybody asking; the actor reviews the vehicle then. A lease is renewed only while
    /// the car is there to hear of it, and nobody is held not to have come while it could not say so.
    pub fn next_due(&self, twin: &Twin) -> Option<Timestamp> {
        let commands = self.open_commands().map(|command| command.expires_at);
        let rentals = self.rentals.iter().filter_map(|rental| match rental.state {
            RentalState::Reserved => Some(rental.from),
            RentalState::Active => Some(self.no_show_at(rental, twin).map_or(rental.until, |at| at.min(rental.until))),
            RentalState::Ending => rental.late_at(),
            RentalState::Ended | RentalState::Cancelled | RentalState::NoShow => None,
        });
        let leases = self.keys.iter().filter(|_| twin.is_online()).filter_map(|key| self.renew_at(key));
        let requests = self
            .requests
            .iter()
            .filter(|request| request.state == RequestState::Requested)
            .map(|request| request.until);
        commands.chain(rentals).chain(requests).chain(leases).min()
    }

    /// When an unused rental is over, where the car is lent on such terms.
    fn no_show_at(&self, rental: &Rental, twin: &Twin) -> Option<Timestamp> {
        let wait_ms = self.details.lending.as_ref()?.no_show_ms()?;
        let has_told_all = twin.is_online().then(|| twin.link.since.plus_ms(Self::TELL_MS))?;
        rental.first_used_at.is_none().then(|| rental.from.plus_ms(wait_ms).max(has_told_all))
    }

    /// When the car is to be told again of a key that it has on lease.
    fn renew_at(&self, key: &Key) -> Option<Timestamp> {
        // Terms without a lease: what was leased before is made whole at once.
        let lease_ms = self.details.lending.as_ref().and_then(Lending::lease_ms);
        let until = key.leased_until.filter(|until| *until < key.grant.not_after && key.revoked_at.is_none())?;
        let is_lent = self.rental(key.rental_id).is_some_and(|rental| rental.state.is_open());
        is_lent.then(|| lease_ms.map_or(Timestamp(0), |ms| until.plus_ms(-ms / 2)))
    }
}

/// When things closed; `None` = open.
struct Closed {
    commands: Vec<Option<Timestamp>>,
    rentals: Vec<Option<Timestamp>>,
    requests: Vec<Option<Timestamp>>,
    keys: Vec<Option<Timestamp>>,
}

fn closed_command(command: &Command) -> Option<Timestamp> {
    command.history.last().filter(|passage| passage.state.is_final()).map(|passage| passage.at)
}

fn closed_rental(rental: &Rental) -> Option<Timestamp> {
    rental.history.last().filter(|_| rental.state.is_over()).map(|passage| passage.at)
}

/// A list that one event cannot fill is not looked at: this is done for every event that is folded.
fn closed_of<T>(list: &[T], keep: usize, closed_at: impl Fn(&T) -> Option<Timestamp>) -> Vec<Option<Timestamp>> {
    match list.len() < keep {
        true => Vec::new(),
        false => list.iter().map(closed_at).collect(),
    }
}

/// Keeps all that are open and the `keep` that closed last: one event closes one thing of a list, and the oldest of those
/// that had closed before makes room for it.
fn drop_oldest<T>(
    list: &mut Vec<T>,
    mut before: Vec<Option<Timestamp>>,
    keep: usize,
    closed_at: impl Fn(&T) -> Option<Timestamp>,
) {
    while list.iter().filter_map(&closed_at).count() > keep {
        let times = before.iter().enumerate().filter_map(|(index, closed)| closed.map(|at| (at, index)));
        let Some((_, oldest)) = times.min() else { return };
        list.remove(oldest);
        before.remove(oldest);
    }
}
