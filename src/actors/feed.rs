//! Feed: what changed, to the consoles that watch. Newest state per vehicle, every alert and every decision, all bounded.
//!
//! Consoles pull: each has at most one batch in hand and asks for the next when it is done with it, so a slow console
//! costs no memory here and still ends at the newest state. The feed only pokes those that have read everything.
//! It promises nothing: what it says is on record elsewhere already, and it must never make a vehicle wait.

mod board;
mod log;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use actix::prelude::*;
use serde_json::value::RawValue;

pub use board::{Area, Batch, Board, Cursor, Filter, From, Held, Limits, View};
pub use log::Seq;

use crate::actors::vehicle::Snapshot;
use crate::clock::Clock;
use crate::domain::command::Command;
use crate::domain::{AlertId, Timestamp, VehicleId};

/// A vehicle's state changed; sent at most once a second for telemetry, at once for links, rentals and keys.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct VehicleChanged(pub Arc<Snapshot>);

/// The gateways that had these vehicles live no more: their links are gone, and nobody else says so.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LinksLost(pub Vec<VehicleId>);

/// A command came into a new state.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct CommandChanged {
    pub vehicle: VehicleId,
    pub command: Command,
}

/// An alert was opened or came into a new state.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct AlertChanged {
    pub id: AlertId,
    pub open: bool,
    pub body: Arc<RawValue>,
}

impl AlertChanged {
    fn alert_id(&self) -> AlertId {
        self.id
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

/// The card guard decided about a purchase, or reconciled what it had decided.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct DecisionMade(pub Arc<RawValue>);

/// Something new is there for a console that had read everything.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Poke;

/// A console comes; it is poked once there is something to read.
#[derive(Debug, Message)]
#[rtype(result = "ConsoleId")]
pub struct Attach(pub Recipient<Poke>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, MessageResponse)]
pub struct ConsoleId(u64);

/// A console goes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Detach(pub ConsoleId);

/// What a console wants to see from now on; it reads from the start next.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe {
    pub console: ConsoleId,
    pub filter: Filter,
}

/// A console is ready for more. `None` = not yet: a poke will come. An empty batch = nothing for it up to the batch's
/// cursor: a poke will come, unless the batch says that more is there.
#[derive(Debug, Message)]
#[rtype(result = "Option<Batch>")]
pub struct Pull {
    pub console: ConsoleId,
    pub from: From,
}

/// Whom to ask for every vehicle's state when a first console comes.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OnFirstConsole(pub Box<dyn Fn() + Send>);

/// What the metrics show of the feed.
#[derive(Debug, Default)]
pub struct FeedCounters {
    pub vehicles_held: AtomicUsize,
    pub events_held: AtomicUsize,
    pub batches: AtomicU64,
    pub snapshots: AtomicU64,
    /// Snapshots to consoles that had fallen behind what is kept.
    pub gaps: AtomicU64,
    /// Changes no longer kept because a list was at its limit.
    pub dropped: AtomicU64,
}

pub struct Feed {
    clock: Clock,
    board: Board,
    audience: Arc<AtomicUsize>,
    counters: Arc<FeedCounters>,
    on_first_console: Box<dyn Fn() + Send>,
    consoles: HashMap<ConsoleId, Console>,
    next_console: u64,
    /// Set while the vehicles' states come in for a first console.
    warming: Option<Warming>,
    /// When the last console went; the feed goes on for [`Feed::LINGER`] so that a lost connection can be resumed.
    deserted_at: Option<Timestamp>,
    /// By the clock that never steps.
    poked_at: Duration,
    /// Rises with every round of pokes. A console that read everything in this round waits for the next one, so that
    /// changes are gathered and not sent one by one.
    round: u64,
    /// When the next round is due, if one is.
    poke_due_at: Option<Duration>,
}

struct Console {
    poke: Recipient<Poke>,
    view: View,
    /// It has read everything and waits to be poked.
    waits: bool,
    /// The round in which it got its last batch, when that batch held all there was.
    served_in: Option<u64>,
}

struct Warming {
    since: Timestamp,
    newest_at: Timestamp,
}

impl Feed {
    /// A round of pokes comes at most this often,
    const POKE: Duration = Duration::from_millis(100);
    /// and this often when only vehicles have changed: nobody sees a car move more than four times a second, and a
    /// hundred consoles cost by the round.
    const VEHICLES_POKE: Duration = Duration::from_millis(250);
    /// A first console's snapshot waits until no further vehicle has come for this long ...
    const SETTLED_MS: i64 = 100;
    /// ... but no longer than this; what comes later comes as changes.
    const WARMING_MS: i64 = 2_000;
    const LINGER: Duration = Duration::from_secs(60);
    /// Seqs start at the wall clock: a restarted gateway's are above all it gave before (unless it gave more than a
    /// million a second throughout), and stay exact in a JSON number until the year 2255.
    const SEQS_PER_MS: u64 = 1_000;

    pub fn new(clock: Clock, limits: Limits) -> Self {
        let now = clock.now();
        let start = u64::try_from(now.0).unwrap_or(0).saturating_mul(Self::SEQS_PER_MS);
        Self {
            board: Board::new(limits, clock.new_id(), start),
            audience: Arc::default(),
            counters: Arc::default(),
            on_first_console: Box::new(|| {}),
            consoles: HashMap::new(),
            next_console: 0,
            warming: None,
            deserted_at: None,
            poked_at: Duration::ZERO,
            round: 0,
            poke_due_at: None,
            clock,
        }
    }

    /// Above 0 while anybody watches (or has a moment ago); at 0 vehicles need not send their changes. Read it with
    /// any ordering: a late look costs one message.
    pub fn audience(&self) -> Arc<AtomicUsize> {
        self.audience.clone()
    }

    pub fn counters(&self) -> Arc<FeedCounters> {
        self.counters.clone()
    }

    fn is_watched(&self) -> bool {
        !self.consoles.is_empty() || self.deserted_at.is_some()
    }

    fn attach(&mut self, poke: Recipient<Poke>, ctx: &mut Context<Self>) -> ConsoleId {
        self.next_console += 1;
        let id = ConsoleId(self.next_console);
        let was_watched = self.is_watched();
        self.deserted_at = None;
        self.consoles.insert(id, Console { poke, view: View::default(), waits: false, served_in: None });
        self.audience.store(self.consoles.len(), Ordering::Relaxed);
        if !was_watched {
            let now = self.clock.now();
            self.warming = Some(Warming { since: now, newest_at: now });
            (self.on_first_console)();
            self.look_again_while_warming(ctx);
        }
        id
    }

    fn look_again_while_warming(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(Duration::from_millis(Self::SETTLED_MS as u64), |feed, ctx| {
            let now = feed.clock.now();
            match &feed.warming {
                Some(warming)
                    if now.since_ms(warming.newest_at) < Self::SETTLED_MS
                        && now.since_ms(warming.since) < Self::WARMING_MS =>
                {
                    feed.look_again_while_warming(ctx);
                }
                Some(_) => {
                    feed.warming = None;
                    feed.poke_all(ctx);
                }
                None => {}
            }
        });
    }

    fn detach(&mut self, id: ConsoleId, ctx: &mut Context<Self>) {
        if self.consoles.remove(&id).is_none() {
            return;
        }
        if !self.consoles.is_empty() {
            self.audience.store(self.consoles.len(), Ordering::Relaxed);
            return;
        }
        let now = self.clock.now();
        self.deserted_at = Some(now);
        ctx.run_later(Self::LINGER, move |feed, _| {
            if feed.deserted_at == Some(now) {
                feed.rest();
            }
        });
    }

    /// Nobody watches: what the vehicles will tell again is forgotten.
    fn rest(&mut self) {
        self.deserted_at = None;
        self.warming = None;
        self.audience.store(0, Ordering::Relaxed);
        self.board.forget_vehicles();
        self.count_held();
    }

    /// Something new is on the board: pokes at once, or when the last poke is `pace` ago.
    fn announce(&mut self, pace: Duration, ctx: &mut Context<Self>) {
        if self.consoles.is_empty() || self.warming.is_some() {
            return;
        }
        let (now, due_at) = (self.clock.elapsed(), self.poked_at + pace);
        // Looked at here and not only by a timer: timers run late behind a full mailbox.
        if due_at <= now {
            self.poke_all(ctx);
        } else if self.poke_due_at.is_none_or(|known| due_at < known) {
            self.poke_due_at = Some(due_at);
            ctx.run_later(due_at - now, move |feed, ctx| {
                // Unless a sooner one was armed, or did it.
                if feed.poke_due_at == Some(due_at) {
                    feed.poke_all(ctx);
                }
            });
        }
    }

    fn poke_all(&mut self, ctx: &mut Context<Self>) {
        // One that could not say farewell, because this mailbox was full, shows by its own being closed.
        let gone: Vec<_> =
            self.consoles.iter().filter(|(_, console)| !console.poke.connected()).map(|(id, _)| *id).collect();
        for id in gone {
            self.detach(id, ctx);
        }
        self.poked_at = self.clock.elapsed();
        self.round += 1;
        self.poke_due_at = None;
        for console in self.consoles.values_mut().filter(|console| console.waits) {
            // One that could not be poked now is poked next time.
            console.waits = console.poke.try_send(Poke).is_err();
        }
        self.count_held();
    }

    fn count_held(&self) {
        let held = self.board.held();
        self.counters.vehicles_held.store(held.vehicles, Ordering::Relaxed);
        let events = held.commands + held.alerts + held.open_alerts + held.decisions;
        self.counters.events_held.store(events, Ordering::Relaxed);
        self.counters.dropped.store(held.dropped, Ordering::Relaxed);
    }

    fn pull(&mut self, id: ConsoleId, from: From, ctx: &mut Context<Self>) -> Option<Batch> {
        let console = self.consoles.get_mut(&id)?;
        let must_wait = match from {
            From::Cursor(_) => console.served_in == Some(self.round),
            From::Start | From::Resume { .. } => self.warming.is_some(),
        };
        if must_wait {
            console.waits = true;
            if let From::Cursor(cursor) = from
                && cursor.seq() < self.board.head()
            {
                let is_urgent = self.board.has_more_than_vehicles(cursor);
                self.announce(if is_urgent { Self::POKE } else { Self::VEHICLES_POKE }, ctx);
            }
            return None;
        }
        let batch = self.board.read(from, &mut console.view);
        console.waits = batch.is_empty() && !batch.has_more();
        console.served_in = (!batch.is_empty() && !batch.has_more()).then_some(self.round);
        self.counters.batches.fetch_add(u64::from(!batch.is_empty()), Ordering::Relaxed);
        if batch.is_snapshot {
            self.counters.snapshots.fetch_add(1, Ordering::Relaxed);
            self.counters.gaps.fetch_add(u64::from(from != From::Start), Ordering::Relaxed);
        }
        Some(batch)
    }
}

impl Actor for Feed {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Senders are bounded themselves (a vehicle's telemetry comes once a second); this is for their bursts.
        ctx.set_mailbox_capacity(16_384);
    }
}

impl Handler<OnFirstConsole> for Feed {
    type Result = ();

    fn handle(&mut self, OnFirstConsole(call): OnFirstConsole, _: &mut Self::Context) {
        self.on_first_console = call;
    }
}

impl Handler<VehicleChanged> for Feed {
    type Result = ();

    fn handle(&mut self, VehicleChanged(snapshot): VehicleChanged, ctx: &mut Self::Context) {
        if !self.is_watched() {
            return;
        }
        let is_new = self.board.put_vehicle(snapshot);
        if let Some(warming) = self.warming.as_mut().filter(|_| is_new) {
            warming.newest_at = self.clock.now();
        }
        self.announce(Self::VEHICLES_POKE, ctx);
    }
}

impl Handler<LinksLost> for Feed {
    type Result = ();

    fn handle(&mut self, LinksLost(vehicles): LinksLost, ctx: &mut Self::Context) {
        let now = self.clock.now();
        for vehicle in vehicles {
            let Some(known) = self.board.vehicle(&vehicle) else { continue };
            let mut twin = known.twin.clone();
            if twin.disconnected(now, known.twin.link.epoch) {
                self.board.put_vehicle(Arc::new(Snapshot::new(now, known.vehicle.clone(), twin)));
            }
        }
        self.announce(Self::VEHICLES_POKE, ctx);
    }
}

impl Handler<CommandChanged> for Feed {
    type Result = ();

    fn handle(&mut self, change: CommandChanged, ctx: &mut Self::Context) {
        if self.is_watched() {
            self.board.put_command(change);
            self.announce(Self::POKE, ctx);
        }
    }
}

impl Handler<AlertChanged> for Feed {
    type Result = ();

    fn handle(&mut self, change: AlertChanged, ctx: &mut Self::Context) {
        self.board.put_alert(change);
        self.announce(Self::POKE, ctx);
    }
}

impl Handler<DecisionMade> for Feed {
    type Result = ();

    fn handle(&mut self, decision: DecisionMade, ctx: &mut Self::Context) {
        self.board.put_decision(decision);
        self.announce(Self::POKE, ctx);
    }
}

impl Handler<Attach> for Feed {
    type Result = ConsoleId;

    fn handle(&mut self, Attach(poke): Attach, ctx: &mut Self::Context) -> ConsoleId {
        self.attach(poke, ctx)
    }
}

impl Handler<Detach> for Feed {
    type Result = ();

    fn handle(&mut self, Detach(id): Detach, ctx: &mut Self::Context) {
        self.detach(id, ctx);
    }
}

impl Handler<Subscribe> for Feed {
    type Result = ();

    fn handle(&mut self, Subscribe { console, filter }: Subscribe, _: &mut Self::Context) {
        if let Some(console) = self.consoles.get_mut(&console) {
            console.view = View::of(filter);
        }
    }
}

impl Handler<Pull> for Feed {
    type Result = Option<Batch>;

    fn handle(&mut self, Pull { console, from }: Pull, ctx: &mut Self::Context) -> Option<Batch> {
        self.pull(console, from, ctx)
    }
}
