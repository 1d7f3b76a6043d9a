//! One car's actor: decide -> commit -> apply -> send. It is the only writer of the car's record.
//!
//! Promises wait for the disk (the mailbox waits with them, so order is kept); observations and the progress of
//! commands are saved within a second. When an outcome cannot be known the actor stops, and Fleet starts it again
//! from the store.

mod asking;
mod message;
mod step;
#[cfg(test)]
mod tests;
mod traces;
mod track_pen;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::prelude::*;
use tokio::sync::oneshot;
use uuid::Uuid;

pub(in crate::actors) use message::Letter;
pub use message::{Answer, Ask, AskError, FromCar, IdempotencyKey, IssuedKey, SendToCar, Snapshot, TellError};
use traces::Traces;
use track_pen::{Point, TrackPen};

use super::feed::{AlertChanged, CommandChanged, VehicleChanged};
use super::fleet::Shared;
use super::rows::{self, Touched};
use super::schedule::Schedule;
use crate::domain::command::{Ack, Command, CommandState, Fact, FactKind, ToCar};
use crate::domain::key::Key;
use crate::domain::twin::{Report, SignalValue, Twin, path};
use crate::domain::vehicle::{Context as Deciding, Details, Event, Request, Vehicle};
use crate::domain::{CommandId, KeyId, Principal, Refusal, RentalId, RequestId, Role, Timestamp, VehicleId};
use crate::store::{AppendError, Epoch, Observation, StorePosition};

/// What an actor starts from.
pub(in crate::actors) struct Start {
    pub vehicle: Vehicle,
    pub twin: Twin,
    pub last: StorePosition,
    pub epoch: Epoch,
    /// Where the car connects from, when it is online.
    pub address: Option<IpAddr>,
}

pub struct VehicleActor {
    id: VehicleId,
    shared: Arc<Shared>,
    schedule: Arc<Schedule>,
    vehicle: Vehicle,
    twin: Twin,
    /// The stream's last record, and the claim under which we write it.
    last: StorePosition,
    epoch: Epoch,
    /// Where the car connected from last.
    address: Option<IpAddr>,
    /// What the car said of commands and the store refused; bounded by [`MAX_UNTOLD`].
    untold: Vec<Ack>,
    /// Applied but not yet stored; bounded by [`MAX_UNSAVED`].
    unsaved: Vec<Event>,
    waiters: Vec<(CommandId, oneshot::Sender<Option<Command>>)>,
    /// The earliest entries of ours in the schedule: for lazy saves, and for what is due by itself.
    lazy_at: Option<Timestamp>,
    due_at: Option<Timestamp>,
    track: TrackPen,
    traces: Traces,
    is_publish_due: bool,
    events_since_state: usize,
    is_state_due: bool,
    state_saved_at: Option<Timestamp>,
}

const MAX_WAITERS: usize = 64;
/// As many as a vehicle has open commands, and for each that it was begun and that it is done.
const MAX_UNTOLD: usize = 128;
/// Observations and progress are saved at most this late.
const LAZY_MS: i64 = 1_000;
/// The last known state of a car that lost its link is stored at most this often.
const STATE_INTERVAL_MS: i64 = 60_000;

/// Which thing the caller hears about.
#[derive(Clone, Copy)]
enum Wanted {
    Vehicle,
    Command(CommandId),
    Usage(RequestId),
    Rental(RentalId),
    Key(KeyId),
}

impl Wanted {
    fn of(request: &Request) -> Self {
        match request {
            Request::Order { command_id, .. } | Request::Cancel { command_id } | Request::Act { command_id, .. } => {
                Self::Command(*command_id)
            }
            Request::Use { request_id, .. } | Request::Approve { request_id } | Request::Decline { request_id } => {
                Self::Usage(*request_id)
            }
            Request::EndRental { rental_id, .. }
            | Request::CancelRental { rental_id }
            | Request::Extend { rental_id, .. } => Self::Rental(*rental_id),
            Request::Revoke { key_id, .. }
            | Request::Delegate { key_id, .. }
            | Request::RevokeDelegation { key_id, .. } => Self::Key(*key_id),
            Request::Register { .. }
            | Request::Change { .. }
            | Request::Ack(_)
            | Request::Fact(_)
            | Request::Sent { .. }
            | Request::NotSent { .. }
            | Request::Delivered { .. }
            | Request::LinkUp
            | Request::LinkDown
            | Request::Review => Self::Vehicle,
        }
    }
}

impl VehicleActor {
    pub(in crate::actors) fn new(shared: Arc<Shared>, schedule: Arc<Schedule>, start: Start) -> Self {
        Self {
            id: start.vehicle.vehicle_id.clone(),
            shared,
            schedule,
            vehicle: start.vehicle,
            twin: start.twin,
            last: start.last,
            epoch: start.epoch,
            address: start.address,
            untold: Vec::new(),
            unsaved: Vec::new(),
            waiters: Vec::new(),
            lazy_at: None,
            due_at: None,
            track: TrackPen::default(),
            traces: Traces::default(),
            is_publish_due: false,
            events_since_state: 0,
            is_state_due: false,
            state_saved_at: None,
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn decide(&self, request: Request) -> Result<Vec<Event>, Refusal> {
        let clock = &self.shared.clock;
        let new_id = || -> Uuid { clock.new_id() };
        let deciding = Deciding { now: clock.now(), twin: &self.twin, rules: &self.shared.rules, new_id: &new_id };
        self.vehicle.decide(&deciding, request)
    }

    fn token(&self, key: &Key) -> String {
        (self.shared.mint)(&key.grant, &self.id, &key.holder, key.issued_at)
    }

    fn answer(&self, vehicle: &Vehicle, wanted: Wanted) -> Option<Answer> {
        Some(match wanted {
            Wanted::Vehicle => Answer::Vehicle,
            Wanted::Command(id) => Answer::Command(vehicle.command(id)?.clone()),
            Wanted::Usage(id) => {
                let request = vehicle.usage_request(id)?.clone();
                let rental = request.rental_id.and_then(|id| vehicle.rental(id)).cloned();
                let key = request.key_id.and_then(|id| vehicle.key(id)).cloned();
                let key = key.map(|key| IssuedKey { token: self.token(&key), key });
                Answer::Usage { request, rental, key }
            }
            Wanted::Rental(id) => Answer::Rental(vehicle.rental(id)?.clone()),
            Wanted::Key(id) => Answer::Key(vehicle.key(id)?.clone()),
        })
    }

    /// Everybody who is concerned hears of what is now true.
    fn after_apply(&mut self, events: &[Event]) {
        let touched = Touched::by(events);
        let (mut has_moved, mut finished) = (false, Vec::new());
        for id in touched.commands() {
            has_moved = true;
            let Some(command) = self.vehicle.command(id) else { continue };
            if command.state.is_final() {
                self.shared.metrics.finished(command, self.now());
                finished.push(id);
            }
            if self.shared.audience.load(Ordering::Relaxed) > 0 {
                let changed = CommandChanged { vehicle: self.id.clone(), command: command.clone() };
                if self.shared.commands_feed.try_send(changed).is_err() {
                    self.shared.metrics.feed_full.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        finished.into_iter().for_each(|id| self.trace_finished(id));
        for alert in touched.alerts() {
            let changed =
                rows::json(alert).map(|body| AlertChanged { id: alert.alert_id, open: true, body: body.into() });
            // An alert a vehicle opens is rare, and must not be lost to a full mailbox.
            changed.into_iter().for_each(|changed| self.shared.alerts_feed.do_send(changed));
        }
        self.answer_waiters();
        if touched.is_vehicle() {
            self.publish();
        } else if has_moved && self.shared.audience.load(Ordering::Relaxed) > 0 {
            // The twin says how many are pending; consoles have heard of the command itself.
            self.is_publish_due = true;
            self.sweep_in(LAZY_MS);
        }
        self.schedule_due();
    }

    fn answer_waiters(&mut self) {
        let vehicle = &self.vehicle;
        let (done, waiting) = std::mem::take(&mut self.waiters).into_iter().partition(|(id, asker)| {
            asker.is_closed() || vehicle.command(*id).is_none_or(|command| command.state.is_final())
        });
        self.waiters = waiting;
        let done: Vec<(CommandId, oneshot::Sender<Option<Command>>)> = done;
        for (id, asker) in done {
            // The asker may have stopped waiting; then nobody needs the answer.
            let _ = asker.send(self.vehicle.command(id).cloned());
        }
    }

    fn publish(&mut self) {
        if self.shared.audience.load(Ordering::Relaxed) == 0 || self.vehicle.registered.is_none() {
            self.is_publish_due = false;
            return;
        }
        let snapshot = Arc::new(Snapshot::new(self.now(), self.vehicle.without_the_past(), self.twin.clone()));
        self.is_publish_due = self.shared.vehicles_feed.try_send(VehicleChanged(snapshot)).is_err();
        if self.is_publish_due {
            self.shared.metrics.feed_full.fetch_add(1, Ordering::Relaxed);
            self.sweep_in(LAZY_MS);
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.now(), self.vehicle.clone(), self.twin.clone())
    }

    fn sweep_in(&mut self, ms: i64) {
        let due = self.now().plus_ms(ms);
        if self.lazy_at.is_none_or(|at| due < at) {
            self.lazy_at = Some(due);
            self.schedule.at(due, self.id.clone());
        }
    }

    /// One entry at a time, so that the schedule does not grow with every change.
    fn schedule_due(&mut self) {
        let state_at = self.is_state_due.then(|| self.state_time());
        let Some(due) = self.next_due().into_iter().chain(state_at).min() else { return };
        if self.due_at.is_none_or(|at| due < at) {
            self.due_at = Some(due);
            self.schedule.at(due, self.id.clone());
        }
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.vehicle.next_due(&self.twin)
    }

    fn state_time(&self) -> Timestamp {
        self.state_saved_at.map_or(Timestamp(0), |saved| saved.plus_ms(STATE_INTERVAL_MS))
    }

    fn by_car(&self) -> Principal {
        Principal { from: self.address, ..Principal::new(Role::Vehicle, self.id.as_str()) }
    }

    /// Hands over what waits; the last thing of a turn, since it may begin a step. What does not fit stays queued for
    /// the next sweep.
    fn flush_outbox(&mut self, ctx: &mut Context<Self>) {
        self.begin_flush(ctx);
    }

    /// True = a step is under way, and takes along what is unsaved.
    ///
    /// A command that was only just accepted is noted as sent afterwards: its state alone says that it may have left.
    /// One that waited could be told from one that never left only by that note, so the note is made durable first:
    /// "was not sent" must be true also after a crash. Except that a lock or a revocation does not wait for a full
    /// disk: it goes, and if the gateway is killed before there is room, the car gets it twice and a cancellation may
    /// come too late unnoticed.
    fn begin_flush(&mut self, ctx: &mut Context<Self>) -> bool {
        let outbox = self.vehicle.outbox(&self.twin);
        let is_fresh = outbox.iter().all(|command| command.state == CommandState::Accepted);
        let waiting: Vec<CommandId> = outbox.iter().map(|command| command.command_id).collect();
        if waiting.is_empty() {
            return false;
        }
        if is_fresh {
            self.send_and_note(waiting, ctx);
            return false;
        }
        let request = Request::Sent { command_ids: waiting.clone() };
        self.try_durably(request, Principal::gateway(), ctx, move |actor, ctx, outcome| match outcome {
            Ok(()) => {
                let not_sent = actor.send_all(waiting).1;
                actor.lazily(Request::NotSent { command_ids: not_sent }, ctx);
            }
            Err(AppendError::Full(_)) => actor.send_and_note(waiting, ctx),
            Err(_) => {}
        })
    }

    fn send_and_note(&mut self, waiting: Vec<CommandId>, ctx: &mut Context<Self>) {
        let sent = self.send_all(waiting).0;
        self.lazily(Request::Sent { command_ids: sent }, ctx);
    }

    /// In order, as long as there is room on the way to the car; the second part is what did not fit, and is tried
    /// again in a moment.
    fn send_all(&mut self, waiting: Vec<CommandId>) -> (Vec<CommandId>, Vec<CommandId>) {
        let mut sent = waiting;
        let count = sent.iter().take_while(|id| self.send(**id)).count();
        let not_sent = sent.split_off(count);
        self.trace_sent(&sent);
        if !not_sent.is_empty() {
            self.sweep_in(LAZY_MS);
        }
        (sent, not_sent)
    }

    fn send(&self, id: CommandId) -> bool {
        let Some(command) = self.vehicle.command(id) else { return true };
        let Command { command_id, order, issued_at, expires_at, .. } = command.clone();
        self.send_to_car(ToCar::Command { command_id, order, issued_at, expires_at })
    }

    fn send_to_car(&self, message: ToCar) -> bool {
        let is_sent = self.shared.outbound.try_send(SendToCar { vehicle: self.id.clone(), message }).is_ok();
        if !is_sent {
            self.shared.metrics.outbound_full.fetch_add(1, Ordering::Relaxed);
        }
        is_sent
    }

    fn on_reports(&mut self, reports: Vec<Report>, ctx: &mut Context<Self>) {
        let now = self.now();
        let metrics = &self.shared.metrics;
        metrics.reports.fetch_add(reports.len() as u64, Ordering::Relaxed);
        let was_due = self.track.is_due();
        for report in reports {
            if let Some(point) = self.track.before(&report, &self.twin, now) {
                self.keep(point);
            }
            let observed = self.twin.observe(now, report);
            let metrics = &self.shared.metrics;
            metrics.stale_items.fetch_add(u64::from(observed.stale), Ordering::Relaxed);
            metrics.refused_paths.fetch_add(u64::from(observed.refused), Ordering::Relaxed);
        }
        // Not only with the first report of a track point: a change of the link may have published in between.
        self.is_publish_due = true;
        if !was_due {
            self.sweep_in(LAZY_MS);
        }
        self.review_if_seen_to_matter(ctx);
    }

    /// A state of the car may release what was held back, or settle what nobody answered for.
    fn review_if_seen_to_matter(&mut self, ctx: &mut Context<Self>) {
        let decides_a_command = self.vehicle.commands.iter().any(|command| match command.state {
            CommandState::Unknown => true,
            _ => !command.state.is_final() && !command.was_sent && command.order.endangers_a_moving_car(),
        });
        if decides_a_command || self.vehicle.untold_fall(&self.twin).is_some() {
            self.durably(Request::Review, Principal::gateway(), ctx, Self::flush_outbox);
        }
    }

    fn on_fact(&mut self, fact: Fact, ctx: &mut Context<Self>) {
        let (boot, seq) = (fact.boot, fact.seq);
        let news = fact.clone();
        self.durably(Request::Fact(fact), self.by_car(), ctx, move |actor, ctx| {
            actor.shared.metrics.facts.fetch_add(1, Ordering::Relaxed);
            actor.note_fact(&news);
            // Not sent = not acknowledged: the car repeats the fact and it is answered then.
            let at = Some(actor.now());
            actor.send_to_car(ToCar::EventAck { boot, seq, at });
            actor.is_publish_due = true;
            actor.sweep_in(LAZY_MS);
            actor.review_if_seen_to_matter(ctx);
        });
    }

    /// Facts that say something about the present also show as signals.
    fn note_fact(&mut self, fact: &Fact) {
        let at = fact.at.min(self.now().plus_ms(Twin::MAX_AHEAD_MS));
        match &fact.kind {
            FactKind::Ignition { on } => {
                let state = if *on { "ON" } else { "OFF" };
                self.twin.note(path::LOW_VOLTAGE, SignalValue::Text(state.into()), at);
            }
            FactKind::FuelCard { present } => self.twin.note(path::FUEL_CARD_PRESENT, SignalValue::Bool(*present), at),
            FactKind::Refuelled { level_after_percent, .. } => {
                self.twin.note(path::FUEL_PERCENT, SignalValue::Number(*level_after_percent), at);
            }
            FactKind::KeyUsed { .. } | FactKind::Door { .. } | FactKind::Tamper { .. } | FactKind::Boot { .. } => {}
        }
    }

    fn on_link_up(&mut self, epoch: u64, address: Option<IpAddr>, ctx: &mut Context<Self>) {
        if !self.twin.connected(self.now(), epoch) {
            return;
        }
        self.address = address;
        if self.vehicle.registered.is_none() {
            if self.shared.is_full() {
                tracing::warn!(vehicle = %self.id, "a new vehicle has come, and the fleet has as many as it may");
            }
            return self.register_itself(ctx);
        }
        self.lazily(Request::LinkUp, ctx);
        self.repeat_unanswered();
        self.schedule_due();
        self.publish();
        self.flush_outbox(ctx);
    }

    fn repeat_unanswered(&self) {
        let unanswered: Vec<CommandId> = self.vehicle.unanswered().map(|command| command.command_id).collect();
        for id in unanswered {
            self.send(id);
        }
    }

    /// The fleet's CA vouches for the car: it shows up by itself, and an operator may describe it later.
    fn register_itself(&mut self, ctx: &mut Context<Self>) {
        if self.shared.is_full() {
            self.shared.metrics.fleet_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let register = Request::Register { details: Details::default(), by: self.by_car() };
        let by = self.by_car();
        // On a full disk the next sweep tries again.
        self.durably(register, by, ctx, |actor, _| {
            actor.shared.known_if_registered(&actor.vehicle);
            actor.publish();
        });
    }

    fn on_link_down(&mut self, epoch: u64, ctx: &mut Context<Self>) {
        if !self.twin.disconnected(self.now(), epoch) {
            return;
        }
        self.lazily(Request::LinkDown, ctx);
        self.is_state_due = true;
        self.sweep_in(LAZY_MS);
        self.publish();
    }

    /// A car says once what became of a command: what the store refuses for now is kept and taken again.
    fn on_ack(&mut self, ack: Ack, ctx: &mut Context<Self>) {
        let (by, again) = (self.by_car(), ack.clone());
        self.try_durably(Request::Ack(ack), by, ctx, move |actor, ctx, outcome| match outcome {
            Ok(()) => actor.flush_outbox(ctx),
            Err(AppendError::Full(_)) if actor.untold.len() < MAX_UNTOLD => {
                actor.untold.push(again);
                actor.sweep_in(LAZY_MS);
            }
            // It stays `unknown`, or the actor starts over and asks the car again.
            Err(_) => actor.sweep_in(LAZY_MS),
        });
    }

    fn on_await(&mut self, id: CommandId, reply: oneshot::Sender<Option<Command>>) {
        let is_open = self.vehicle.command(id).is_some_and(|command| !command.state.is_final());
        self.waiters.retain(|(_, asker)| !asker.is_closed());
        if is_open && self.waiters.len() < MAX_WAITERS {
            self.waiters.push((id, reply));
        } else {
            // Final, unknown, or too many wait: the asker gets what is known now.
            let _ = reply.send(self.vehicle.command(id).cloned());
        }
    }

    fn on_sweep(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        self.lazy_at = self.lazy_at.filter(|at| *at > now);
        self.due_at = self.due_at.filter(|at| *at > now);
        if self.vehicle.registered.is_none() {
            self.track.forget();
            if self.twin.is_online() {
                self.register_itself(ctx);
            }
            return;
        }
        for ack in std::mem::take(&mut self.untold) {
            ctx.notify(Letter::FromCar(FromCar::Ack(ack), None));
        }
        self.save_track();
        if self.is_publish_due {
            self.publish();
        }
        if self.next_due().is_some_and(|due| due <= now) {
            return self.durably(Request::Review, Principal::gateway(), ctx, Self::flush_or_save);
        }
        self.flush_or_save(ctx);
    }

    fn flush_or_save(&mut self, ctx: &mut Context<Self>) {
        if !self.begin_flush(ctx) {
            self.save_lazily(ctx);
        }
    }

    fn save_track(&mut self) {
        if let Some(point) = self.track.point(&self.twin) {
            self.keep(point);
        }
    }

    fn keep(&self, (at, signals): Point) {
        self.shared.store.observe(Observation { vehicle: self.id.clone(), at, signals });
    }

    fn on_drain(&mut self, reply: oneshot::Sender<()>, ctx: &mut Context<Self>) {
        self.save_track();
        let has_news = !self.unsaved.is_empty() || self.twin.last_report.is_some();
        if self.vehicle.registered.is_none() || !has_news {
            let _ = reply.send(());
            return;
        }
        self.is_state_due = true;
        let step = self.stage(Vec::new(), self.by_car(), None);
        self.commit(step, ctx, |_, _, _| {
            let _ = reply.send(());
        });
    }
}

pub(in crate::actors) fn stream(id: &VehicleId) -> String {
    format!("vehicle/{id}")
}

impl Actor for VehicleActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.shared.mailbox);
        self.shared.metrics.resident.fetch_add(1, Ordering::Relaxed);
        if !self.twin.is_online() {
            // What was on its way to the car when the gateway stopped goes back to the outbox.
            self.lazily(Request::LinkDown, ctx);
        } else {
            self.lazily(Request::LinkUp, ctx);
            self.repeat_unanswered();
            self.sweep_in(0);
        }
        self.schedule_due();
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.shared.metrics.resident.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handler<Letter> for VehicleActor {
    type Result = ();

    fn handle(&mut self, letter: Letter, ctx: &mut Self::Context) {
        match letter {
            Letter::FromCar(message, _budget) => match message {
                FromCar::Reports(reports) => self.on_reports(reports, ctx),
                FromCar::Fact(fact) => self.on_fact(fact, ctx),
                FromCar::Ack(ack) => {
                    self.shared.metrics.acks.fetch_add(1, Ordering::Relaxed);
                    self.on_ack(ack, ctx);
                }
                FromCar::LinkUp { epoch, address } => self.on_link_up(epoch, address, ctx),
                FromCar::LinkDown { epoch } => self.on_link_down(epoch, ctx),
                FromCar::Delivered { command_id } => {
                    self.trace_delivered(command_id);
                    self.lazily(Request::Delivered { command_id }, ctx);
                }
            },
            Letter::Ask(ask, reply, of) => self.on_ask(*ask, reply, of, ctx),
            Letter::Snapshot(reply) => {
                // The asker may have gone.
                let _ = reply.send(self.snapshot());
            }
            Letter::Await(id, reply) => self.on_await(id, reply),
            Letter::Sweep => self.on_sweep(ctx),
            Letter::Publish => self.publish(),
            Letter::Drain(reply) => self.on_drain(reply, ctx),
            Letter::Overtaken => ctx.stop(),
            Letter::Retire => {
                if !self.twin.is_online() && self.unsaved.is_empty() && self.next_due().is_none() {
                    ctx.stop();
                }
            }
        }
    }
}
