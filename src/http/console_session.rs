//! One console's WebSocket: an actor that reads from the feed, one batch at a time, and orders for its operator.
//!
//! The library's outbound queue has no bound, so nothing is put into it that the console has not made room for: one
//! batch until it is acknowledged, and replies only while the console shows by its pongs that it reads.

use std::time::Duration;

use actix::prelude::*;
use actix_web_actors::ws::{CloseCode, CloseReason, Message, ProtocolError, WebsocketContext};

use super::App;
use super::access::{Caller, Standing};
use super::commands::{NewCommand, command_of};
use super::console::{ConsoleCounters, Seat};
use super::console_frames::{self, Form, FrameId, FromConsole, Reply, Wish};
use super::console_hand::Hand;
use super::error::{Problem, Slug};
use super::model::CommandBody;
use super::wire::parse_json;
use crate::actors::feed::{Area, Attach, Batch, ConsoleId, Detach, Filter, From, Poke, Pull, Seq, Subscribe};
use crate::actors::vehicle::Ask;
use crate::domain::vehicle::Request;
use crate::domain::{CommandId, Role, Timestamp, VehicleId};

/// A ping goes out this often; the second that was not answered when the next is due ends the session.
const PING_EVERY: Duration = Duration::from_secs(15);
const MISSES: u32 = 2;
/// A console that wants to resume says so first; the snapshot waits this long for it.
const GREETING: Duration = Duration::from_millis(200);
/// Commands of one console under way at once.
const MAX_COMMANDS: usize = 16;
/// After this many frames a ping asks whether they were read, and at so many unread ones the session ends.
const ASK_AFTER: u32 = 64;
const MAX_UNREAD: u32 = 512;
/// Frames a console may send on average a second, and at once.
const RATE_PER_S: f64 = 50.0;
const BURST: f64 = 250.0;
/// So many frames that make no sense end the session.
const MAX_MALFORMED: u32 = 16;

pub struct Session {
    app: App,
    caller: Caller,
    standing: Standing,
    _seat: Seat,
    console: Option<ConsoleId>,
    /// Where the next batch begins.
    from: From,
    hand: Hand,
    wish: Wish,
    newest_seq: Seq,
    /// A snapshot of a large fleet takes several frames: up to here vehicles are seen for the first time.
    first_sight_until: Seq,
    missed_pings: u32,
    unread: u32,
    commands: usize,
    malformed: u32,
    allowance: f64,
    allowance_at: Timestamp,
}

type Context = WebsocketContext<Session>;

impl Session {
    pub fn new(app: App, caller: Caller, standing: Standing, seat: Seat) -> Self {
        let now = app.clock.now();
        Self {
            app,
            caller,
            standing,
            _seat: seat,
            console: None,
            from: From::Start,
            hand: Hand::new(),
            wish: Wish::default(),
            newest_seq: 0,
            first_sight_until: 0,
            missed_pings: 0,
            unread: 0,
            commands: 0,
            malformed: 0,
            allowance: BURST,
            allowance_at: now,
        }
    }

    fn counters(&self) -> &ConsoleCounters {
        &self.app.consoles.counters
    }

    fn close(&mut self, code: CloseCode, why: &str, ctx: &mut Context) {
        tracing::info!(subject = %self.caller.principal.subject, why, "console closed");
        ctx.close(Some(CloseReason { code, description: Some(why.into()) }));
        ctx.stop();
    }

    /// The console does what a well-meant one does not.
    fn dismiss(&mut self, why: &str, ctx: &mut Context) {
        self.counters().abusive.inc();
        self.close(CloseCode::Policy, why, ctx);
    }

    fn send(&mut self, frame: String, ctx: &mut Context) {
        self.counters().frames_out.inc();
        ctx.text(frame);
        self.note_sent(ctx);
    }

    fn note_sent(&mut self, ctx: &mut Context) {
        self.unread += 1;
        if self.unread == MAX_UNREAD {
            self.dismiss("the console does not read", ctx);
        } else if self.unread.is_multiple_of(ASK_AFTER) {
            ctx.ping(b"read");
        }
    }

    fn reply(&mut self, reply: &Reply, ctx: &mut Context) {
        match serde_json::to_string(reply) {
            Ok(frame) => self.send(frame, ctx),
            Err(error) => tracing::error!(%error, "a reply has no JSON form"),
        }
    }

    fn refuse(&mut self, id: Option<FrameId>, problem: &Problem, ctx: &mut Context) {
        self.reply(&Reply::refused(id, problem.body()), ctx);
    }

    /// Asks the feed for the next batch, unless one is in hand.
    fn pull(&mut self, ctx: &mut Context) {
        let Some(console) = self.console else { return };
        let Some(question) = self.hand.ask() else { return };
        let (feed, from) = (self.app.feed.clone(), self.from);
        let asked = async move { feed.send(Pull { console, from }).await };
        ctx.spawn(asked.into_actor(self).map(move |answer, session, ctx| {
            if !session.hand.answered(question) {
                return;
            }
            match answer {
                Ok(Some(batch)) => session.deliver(&batch, ctx),
                // A poke will come.
                Ok(None) => {}
                Err(_) => session.close(CloseCode::Restart, "the feed restarts", ctx),
            }
            if session.hand.must_ask_again() {
                session.pull(ctx);
            }
        }));
    }

    fn deliver(&mut self, batch: &Batch, ctx: &mut Context) {
        if batch.is_empty() {
            self.from = From::Cursor(batch.cursor);
            if batch.has_more() {
                self.pull(ctx);
            }
            return;
        }
        if batch.is_snapshot {
            self.first_sight_until = batch.head;
        }
        let is_first_sight = match self.from {
            From::Cursor(cursor) => cursor.vehicles < self.first_sight_until,
            From::Start | From::Resume { .. } => batch.is_snapshot,
        };
        match console_frames::write(batch, is_first_sight, &self.wish) {
            Ok((frame, seq, cursor)) => {
                self.from = From::Cursor(cursor);
                self.hand.gave(seq);
                self.newest_seq = seq;
                self.send(frame, ctx);
            }
            Err(error) => {
                tracing::error!(%error, "a batch has no JSON form");
                self.close(CloseCode::Error, "internal error", ctx);
            }
        }
    }

    /// Reads from elsewhere next. What is in hand stays there until it is acknowledged.
    fn read_from(&mut self, from: From, ctx: &mut Context) {
        self.from = from;
        self.hand.read_elsewhere();
        self.pull(ctx);
    }

    fn take(&mut self, text: &str, ctx: &mut Context) {
        self.counters().frames_in.inc();
        if !self.spend() {
            return self.dismiss("too many frames", ctx);
        }
        match parse_json::<FromConsole>(text.as_bytes()) {
            Ok(FromConsole::Ack { seq }) => self.acknowledged(seq, ctx),
            Ok(FromConsole::Subscribe { area, vehicles, form, id }) => self.subscribe(area, vehicles, form, id, ctx),
            Ok(FromConsole::Detail { vehicles, id }) => self.detail(vehicles, id, ctx),
            Ok(FromConsole::Command { id, vehicle_id, command }) if id.is_fit() => {
                self.order(id, vehicle_id, &command, ctx);
            }
            Ok(FromConsole::Resume { after, stream, form }) => {
                self.wish.form = form;
                self.resume(From::Resume { after, stream }, ctx);
            }
            Ok(FromConsole::Ping { id }) if id.is_fit() => {
                let at = Some(self.app.clock.now().to_string());
                self.reply(&Reply { at, ..Reply::done(Some(id)) }, ctx);
            }
            Ok(FromConsole::Command { .. } | FromConsole::Ping { .. }) => {
                self.misunderstand(None, &Problem::invalid("id", "a number, or at most 128 bytes of text"), ctx);
            }
            Err(problem) => self.misunderstand(FrameId::of_malformed(text), &problem, ctx),
        }
    }

    fn misunderstand(&mut self, id: Option<FrameId>, problem: &Problem, ctx: &mut Context) {
        self.counters().malformed.inc();
        self.malformed += 1;
        self.refuse(id, problem, ctx);
        if self.malformed >= MAX_MALFORMED {
            self.dismiss("too many malformed frames", ctx);
        }
    }

    /// Takes one frame from the allowance; false = it is used up.
    fn spend(&mut self) -> bool {
        let now = self.app.clock.now();
        let elapsed_ms = now.since_ms(self.allowance_at).max(0);
        self.allowance_at = now;
        self.allowance = (self.allowance + elapsed_ms as f64 * RATE_PER_S / 1000.0).min(BURST) - 1.0;
        self.allowance >= 0.0
    }

    fn acknowledged(&mut self, seq: Seq, ctx: &mut Context) {
        if seq > self.newest_seq {
            return self.misunderstand(None, &Problem::invalid("seq", "this number was not sent"), ctx);
        }
        if self.hand.acknowledged(seq) {
            self.pull(ctx);
        }
    }

    fn resume(&mut self, from: From, ctx: &mut Context) {
        self.hand.drop_unwanted_snapshot();
        self.read_from(from, ctx);
    }

    fn subscribe(
        &mut self,
        area: Option<[f64; 4]>,
        vehicles: Option<Vec<VehicleId>>,
        form: Form,
        id: Option<FrameId>,
        ctx: &mut Context,
    ) {
        if vehicles.as_ref().is_some_and(|list| list.len() > Filter::MAX_VEHICLES) {
            let problem = Problem::invalid("vehicles", format!("at most {}", Filter::MAX_VEHICLES));
            return self.misunderstand(id, &problem, ctx);
        }
        let area = match area.map(|corners| Area::new(corners).ok_or(())) {
            None => None,
            Some(Ok(area)) => Some(area),
            Some(Err(())) => {
                let problem = Problem::invalid("area", "[south, west, north, east] in degrees, south below north");
                return self.misunderstand(id, &problem, ctx);
            }
        };
        self.wish.form = form;
        if let Some(id) = id {
            self.reply(&Reply::done(Some(id)), ctx);
        }
        let Some(console) = self.console else { return };
        let filter = Filter { area, vehicles: vehicles.map(|list| list.into_iter().collect()) };
        let feed = self.app.feed.clone();
        let told = async move { feed.send(Subscribe { console, filter }).await };
        // Waits for the feed, so that what is read next is read by the new wish.
        ctx.wait(told.into_actor(self).map(|told, session, ctx| match told {
            Ok(()) => session.read_from(From::Start, ctx),
            Err(_) => session.close(CloseCode::Restart, "the feed restarts", ctx),
        }));
    }

    /// What they are now a console asks by `GET`; from here on it hears every change of them in full.
    fn detail(&mut self, vehicles: Vec<VehicleId>, id: Option<FrameId>, ctx: &mut Context) {
        if vehicles.len() > Wish::MAX_DETAILED {
            let problem = Problem::invalid("vehicles", format!("at most {}", Wish::MAX_DETAILED));
            return self.misunderstand(id, &problem, ctx);
        }
        self.wish.detailed = vehicles.into_iter().collect();
        if let Some(id) = id {
            self.reply(&Reply::done(Some(id)), ctx);
        }
    }

    /// Ends when what admitted the console is over, or speaks for another role by now.
    fn must_end(&mut self, ctx: &mut Context) -> bool {
        if self.standing.still_is(&self.caller.principal, &self.app) {
            return false;
        }
        self.counters().ended.inc();
        self.close(CloseCode::Policy, "the log-in is over, or has another role", ctx);
        true
    }

    fn order(&mut self, id: FrameId, vehicle: VehicleId, command: &NewCommand, ctx: &mut Context) {
        if self.must_end(ctx) {
            return;
        }
        if let Err(problem) = self.caller.require(&[Role::Admin, Role::Operator]) {
            return self.refuse(Some(id), &problem, ctx);
        }
        if self.commands >= MAX_COMMANDS {
            self.counters().commands_refused.inc();
            let problem = Problem::new(Slug::TooManyRequests, "wait for the answers to your other commands");
            return self.refuse(Some(id), &problem, ctx);
        }
        let (order, ttl_ms) = match command.order() {
            Ok(order) => order,
            Err(problem) => return self.refuse(Some(id), &problem, ctx),
        };
        let command_id = CommandId(self.app.clock.new_id());
        let by = self.caller.principal.clone();
        let request = Request::Order { command_id, order, ttl_ms, by: by.clone() };
        self.commands += 1;
        self.counters().commands.inc();
        let fleet = self.app.fleet.clone();
        let asked = async move {
            let answer = fleet.ask(&vehicle, Ask { request, by, idempotency: None }).await;
            (vehicle, answer)
        };
        ctx.spawn(asked.into_actor(self).map(move |(vehicle, answer), session, ctx| {
            session.commands -= 1;
            match answer.map_err(Problem::from).and_then(command_of) {
                Ok(command) => {
                    let command = Some(CommandBody::of(&vehicle, &command));
                    session.reply(&Reply { command, ..Reply::done(Some(id)) }, ctx);
                }
                Err(problem) => session.refuse(Some(id), &problem, ctx),
            }
        }));
    }

    fn beat(&mut self, ctx: &mut Context) {
        if self.missed_pings >= MISSES {
            self.counters().silent.inc();
            return self.close(CloseCode::Away, "two pings were not answered", ctx);
        }
        if self.must_end(ctx) {
            return;
        }
        self.missed_pings += 1;
        ctx.ping(b"");
    }
}

impl Actor for Session {
    type Context = Context;

    fn started(&mut self, ctx: &mut Context) {
        tracing::info!(subject = %self.caller.principal.subject, "console opened");
        ctx.run_interval(PING_EVERY, Self::beat);
        let ended = self.app.consoles.ended().into_actor(self);
        ctx.spawn(ended.map(|(), session, ctx| session.close(CloseCode::Restart, "the gateway stops", ctx)));
        let (feed, poke) = (self.app.feed.clone(), ctx.address().recipient());
        let attached = async move { feed.send(Attach(poke)).await };
        ctx.wait(attached.into_actor(self).map(|attached, session, ctx| match attached {
            Ok(console) => session.console = Some(console),
            Err(_) => session.close(CloseCode::Restart, "the feed restarts", ctx),
        }));
        ctx.run_later(GREETING, |session, ctx| {
            session.hand.greeted();
            session.pull(ctx);
        });
    }

    fn stopped(&mut self, _: &mut Context) {
        if let Some(console) = self.console {
            // A full mailbox: the feed finds out when it pokes a console that is gone.
            let _ = self.app.feed.try_send(Detach(console));
        }
    }
}

impl Handler<Poke> for Session {
    type Result = ();

    fn handle(&mut self, _: Poke, ctx: &mut Context) {
        self.hand.poked();
        self.pull(ctx);
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Session {
    fn handle(&mut self, message: Result<Message, ProtocolError>, ctx: &mut Context) {
        match message {
            Ok(Message::Text(text)) => self.take(&text, ctx),
            Ok(Message::Ping(payload)) => {
                if !self.spend() {
                    return self.dismiss("too many frames", ctx);
                }
                ctx.pong(&payload);
                self.note_sent(ctx);
            }
            Ok(Message::Pong(_)) => {
                self.missed_pings = 0;
                self.unread = 0;
            }
            Ok(Message::Binary(_) | Message::Continuation(_)) => {
                self.counters().malformed.inc();
                self.close(CloseCode::Unsupported, "one JSON object in one text frame", ctx);
            }
            Ok(Message::Close(reason)) => {
                ctx.close(reason);
                ctx.stop();
            }
            Ok(Message::Nop) => {}
            Err(ProtocolError::Overflow) => {
                self.counters().malformed.inc();
                self.close(CloseCode::Size, "the frame is too long", ctx);
            }
            Err(_) => {
                self.counters().malformed.inc();
                self.close(CloseCode::Protocol, "not a WebSocket frame", ctx);
            }
        }
    }
}
