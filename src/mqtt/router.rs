//! The routers behind the gate: one in-process rumqttd router a shard, with three links to it however many cars there
//! are - one shared by all sessions for what cars publish, one that takes it in, one that hands out commands.
//!
//! Never publishes what was not checked: one bad packet on the shared link would drop the whole shard, and the sending
//! side would not notice. Hence life is watched on the receiving sides, and a stall by heartbeats (FACTS in short: a
//! dropped link keeps answering Ok to `publish`; a full log drops its oldest in silence; a router thread never ends).

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{Packet, Publish};
use rumqttd::{Notification, Router, RouterConfig};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::StartError;
use super::inbound::Inbound;
use super::metrics::{MqttMetrics, Reason};
use super::seats::Seats;
use super::topics::{self, Channel};
use crate::config;

/// What cars publish goes by one filter, apart from commands: so a car's messages stay in the order it sent them, and
/// a flood of telemetry cannot delay a command.
pub(super) const FROM: &str = "from/";
const FROM_FILTER: &str = "from/#";
/// Heartbeats go the way of everything else. No vehicle is named `_` or has a topic without a slash.
const FROM_BEAT: &str = "from/beat";
const COMMAND_BEAT: &str = "v1/_/command";
/// A router hands over about this many messages a turn.
const BATCH: usize = 1_000;

/// The shard is dead or has stalled. What was published last may be lost; the car comes back and sends again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// How much of a log is on its way: counted in when published, out when taken. Past half of what the log surely keeps
/// the publishing side must wait, since the log itself would drop its oldest in silence.
pub(super) struct Credit {
    published: AtomicU64,
    taken: AtomicU64,
    half: u64,
    /// The newest heartbeat that came through.
    beat: AtomicU64,
    /// The reader is at work on what it took: what does not come through meanwhile is not the router's doing.
    is_reader_busy: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    /// Rises with every release; starts at 1.
    round: AtomicU64,
    has_room: Condvar,
}

/// A router's log in memory: segments, of which the oldest goes as a whole when the newest is full.
struct Log {
    segment: usize,
    segments: usize,
}

impl Log {
    /// What each of the gate's threads may publish after it last looked at the credit: a read and the packet it completes.
    const READ: usize = 64 * 1024;

    fn of(config: &config::Mqtt) -> Self {
        let least = Self::READ * config.threads.max(1);
        Self { segment: (config.ingest_segment_kib * 1024).max(least), segments: config.ingest_segments.max(2) }
    }

    /// Right after the oldest segment went, the newest is empty.
    fn surely_kept(&self) -> u64 {
        (self.segment * (self.segments - 1)) as u64
    }
}

impl Credit {
    fn new(log: &Log) -> Self {
        Self {
            published: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            half: log.surely_kept() / 2,
            beat: AtomicU64::new(0),
            is_reader_busy: AtomicBool::new(false),
            waiting: Mutex::default(),
            round: AtomicU64::new(1),
            has_room: Condvar::new(),
        }
    }

    fn on_its_way(&self) -> u64 {
        self.published.load(Ordering::SeqCst).saturating_sub(self.taken.load(Ordering::SeqCst))
    }

    pub(super) fn is_open(&self) -> bool {
        self.on_its_way() <= self.half
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open, or the task is woken when it is. `round` is the task's own, to leave one waker a round of waiting.
    pub(super) fn poll_open(&self, context: &Context<'_>, round: &mut u64) -> bool {
        if self.is_open() {
            return true;
        }
        let mut waiting = self.waiting();
        let current = self.round.load(Ordering::SeqCst);
        if std::mem::replace(round, current) != current {
            waiting.push(context.waker().clone());
        }
        drop(waiting);
        // It may have opened before the waker was there to see.
        self.is_open()
    }

    /// For a thread of its own; false when it stayed closed.
    pub(super) fn wait_open(&self, at_most: Duration) -> bool {
        if self.is_open() {
            return true;
        }
        let closed = |_: &mut Vec<Waker>| !self.is_open();
        drop(self.has_room.wait_timeout_while(self.waiting(), at_most, closed));
        self.is_open()
    }

    /// Counts out what was taken: `bytes` since the heartbeat, if there was one. A heartbeat carries what had been
    /// published up to it, and so mends the count after a gap.
    fn took(&self, bytes: u64, beat: Option<Beat>) {
        match beat {
            Some(beat) => {
                self.taken.store(beat.published + bytes, Ordering::SeqCst);
                self.beat.store(beat.number, Ordering::SeqCst);
            }
            None => drop(self.taken.fetch_add(bytes, Ordering::SeqCst)),
        }
        // Not at the very edge, so that sessions are not woken for a packet each.
        if self.on_its_way() <= self.half / 4 * 3 {
            self.release();
        }
    }

    fn release(&self) {
        let mut waiting = self.waiting();
        self.round.fetch_add(1, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *waiting);
        self.has_room.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    number: u64,
    /// Of the same log, this heartbeat included.
    published: u64,
}

impl Beat {
    const LEN: usize = 16;

    fn write(self) -> Bytes {
        Bytes::from([self.number.to_be_bytes(), self.published.to_be_bytes()].concat())
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let (number, published) = payload.split_first_chunk::<8>()?;
        let published = published.try_into().ok()?;
        Some(Self { number: u64::from_be_bytes(*number), published: u64::from_be_bytes(published) })
    }
}

/// One router with its shared link.
pub(super) struct Shard {
    publisher: Mutex<LinkTx>,
    /// From cars.
    pub(super) up: Credit,
    /// To cars.
    pub(super) down: Credit,
    beats: AtomicU64,
    is_lost: AtomicBool,
    lost: Notify,
}

impl Shard {
    /// Starts a router with its links and threads; blocks until it answers. The second part is the shared link's
    /// receiving side, to be watched with [`Shard::watch_publisher`].
    fn start(index: usize, parts: &Parts, seats: Arc<Seats>) -> Result<(Arc<Self>, LinkRx), StartError> {
        let config = &parts.config;
        let log = Log::of(config);
        let sender = Router::new(
            index,
            RouterConfig {
                max_connections: 4,
                max_outgoing_packet_count: BATCH as u64,
                max_segment_size: log.segment,
                max_segment_count: log.segments,
                ..RouterConfig::default()
            },
        )
        .spawn();
        let link = |name: &str, filter: Option<&str>| {
            let fault = |error: rumqttd::local::LinkError| StartError::Router(error.to_string());
            let (mut tx, mut rx, _) = LinkBuilder::new(name, sender.clone()).build().map_err(fault)?;
            if let Some(filter) = filter {
                tx.subscribe(filter).map_err(fault)?;
                // Only then is everything that is published seen.
                while !matches!(rx.recv().map_err(fault)?, Some(Notification::DeviceAck(_))) {}
            }
            Ok::<_, StartError>((tx, rx))
        };
        let (_, ingest) = link("ingest", Some(FROM_FILTER))?;
        let (_, dispatch) = link("dispatch", Some(Channel::Command.filter()))?;
        let (publisher, publisher_rx) = link("gate", None)?;
        let shard = Arc::new(Self {
            publisher: Mutex::new(publisher),
            up: Credit::new(&log),
            down: Credit::new(&log),
            beats: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
            lost: Notify::new(),
        });
        let mut inbound = Inbound::new(Arc::clone(&parts.tell), Arc::clone(&parts.metrics));
        let pump = |name: &str, rx, way: Way, take: TakeBatch| {
            let pump = Pump { rx, shard: Arc::clone(&shard), way, metrics: Arc::clone(&parts.metrics), next: 0, take };
            let thread = std::thread::Builder::new().name(format!("{name}-{index}"));
            thread.spawn(|| pump.run()).map(drop).map_err(|error| StartError::Router(error.to_string()))
        };
        pump("ingest", ingest, Way::Up, Box::new(move |batch| inbound.take(batch)))?;
        let dispatcher = Dispatcher { seats, metrics: Arc::clone(&parts.metrics), mailbox_max: config.mailbox_max };
        pump("dispatch", dispatch, Way::Down, Box::new(move |batch| dispatcher.take(batch)))?;
        Ok((shard, publisher_rx))
    }

    /// Ends when the shared link is dropped by the router; its sending side would never say.
    async fn watch_publisher(self: Arc<Self>, mut rx: LinkRx) {
        while !self.is_lost() && rx.next().await.is_ok() {}
        self.lose();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    fn lose(&self) {
        if !self.is_lost.swap(true, Ordering::SeqCst) {
            self.lost.notify_one();
        }
        // Whoever waits for room shall see it.
        self.up.release();
        self.down.release();
    }

    fn link(&self) -> MutexGuard<'_, LinkTx> {
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands messages from one car to the router in order; never waits. The caller has looked at `up` before it read.
    pub(super) fn publish_up(&self, messages: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Lost> {
        self.publish(&self.up, messages)
    }

    /// Hands a message to a car to the router; never waits.
    pub(super) fn publish_down(&self, topic: Bytes, payload: Bytes) -> Result<(), Lost> {
        self.publish(&self.down, &mut std::iter::once((topic, payload)))
    }

    fn publish(&self, credit: &Credit, messages: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Lost> {
        if self.is_lost() {
            return Err(Lost);
        }
        let Some(mut last) = messages.next() else { return Ok(()) };
        let mut link = self.link();
        let mut bytes = size(&last.0, &last.1);
        for next in messages {
            bytes += size(&next.0, &next.1);
            let (topic, payload) = std::mem::replace(&mut last, next);
            link.buffer().push_back(Packet::Publish(Publish::new(topic, payload, false), None));
        }
        credit.published.fetch_add(bytes, Ordering::SeqCst);
        send(&mut link, last.0, last.1);
        Ok(())
    }

    /// Sends a heartbeat through both logs.
    fn beat(&self) {
        let mut link = self.link();
        let number = self.beats.fetch_add(1, Ordering::SeqCst) + 1;
        for (topic, credit) in [(FROM_BEAT, &self.up), (COMMAND_BEAT, &self.down)] {
            let bytes = size(topic.as_bytes(), &[0; Beat::LEN]);
            let published = credit.published.fetch_add(bytes, Ordering::SeqCst) + bytes;
            send(&mut link, Bytes::from_static(topic.as_bytes()), Beat { number, published }.write());
        }
    }
}

/// As the router counts it.
fn size(topic: &[u8], payload: &[u8]) -> u64 {
    (topic.len() + payload.len() + 4) as u64
}

/// Queues a packet and nudges the router. "Full" is no failure: the packet is in the link's buffer, and among the
/// events that fill the channel is one of this link that will take it along.
fn send(link: &mut LinkTx, topic: Bytes, payload: Bytes) {
    let _ = link.try_publish(topic, payload);
}

/// The log a pump empties.
#[derive(Debug, Clone, Copy)]
enum Way {
    Up,
    Down,
}

type TakeBatch = Box<dyn FnMut(&[Publish]) + Send>;

/// Takes messages off a receiving link, a batch at a time, on a thread of its own.
struct Pump {
    rx: LinkRx,
    shard: Arc<Shard>,
    way: Way,
    metrics: Arc<MqttMetrics>,
    /// The running number expected next; a jump is a loss.
    next: u64,
    take: TakeBatch,
}

#[derive(Default)]
struct Batch {
    messages: Vec<Publish>,
    bytes: u64,
    beat: Option<Beat>,
    must_say_ready: bool,
}

/// A reader that panics takes its shard with it: nobody would read the log any more, and it looks busy for ever.
struct LoseInPanic(Arc<Shard>);

impl Drop for LoseInPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lose();
        }
    }
}

impl Pump {
    fn run(mut self) {
        let _guard = LoseInPanic(Arc::clone(&self.shard));
        let mut batch = Batch::default();
        while !self.shard.is_lost() {
            if self.collect(&mut batch).is_err() {
                tracing::error!(way = ?self.way, "router is gone");
                self.shard.lose();
                return;
            }
            let credit = match self.way {
                Way::Up => &self.shard.up,
                Way::Down => &self.shard.down,
            };
            credit.is_reader_busy.store(true, Ordering::SeqCst);
            (self.take)(&batch.messages);
            credit.took(batch.bytes, batch.beat);
            credit.is_reader_busy.store(false, Ordering::SeqCst);
            if batch.must_say_ready && self.rx.ready().is_err() {
                self.shard.lose();
            }
            batch.messages.clear();
            (batch.bytes, batch.beat, batch.must_say_ready) = (0, None, false);
        }
    }

    /// Waits for a message and takes what else is there.
    fn collect(&mut self, batch: &mut Batch) -> Result<(), Lost> {
        let first = self.rx.recv().map_err(|_| Lost)?;
        self.note(first, batch);
        while batch.messages.len() < BATCH {
            match poll_once(self.rx.next()) {
                Some(Ok(next)) => self.note(next, batch),
                Some(Err(_)) => return Err(Lost),
                None => break,
            }
        }
        Ok(())
    }

    fn note(&mut self, notification: Option<Notification>, batch: &mut Batch) {
        match notification {
            Some(Notification::Forward(forward)) => {
                if let Some((_, number)) = forward.cursor {
                    self.metrics.log_gaps.add(number.saturating_sub(self.next));
                    self.next = number + 1;
                }
                batch.bytes += size(&forward.publish.topic, &forward.publish.payload);
                match &forward.publish.topic[..] {
                    topic if topic == FROM_BEAT.as_bytes() || topic == COMMAND_BEAT.as_bytes() => {
                        batch.beat = Beat::read(&forward.publish.payload);
                        batch.bytes = 0;
                    }
                    _ => batch.messages.push(forward.publish),
                }
            }
            // The router has paused this link until it hears that there is room.
            Some(Notification::Unschedule) => batch.must_say_ready = true,
            Some(_) | None => {}
        }
    }
}

/// What a future has now, without waiting.
fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Hands commands to the mailboxes of the cars.
struct Dispatcher {
    seats: Arc<Seats>,
    metrics: Arc<MqttMetrics>,
    mailbox_max: usize,
}

impl Dispatcher {
    fn take(&self, batch: &[Publish]) {
        for message in batch {
            let seat = topics::parse(&message.topic).and_then(|(vehicle, _)| self.seats.find(vehicle));
            match seat {
                Some(seat) => seat.put(message.payload.clone(), self.mailbox_max),
                // The car has left; the outbox sends again when it is back.
                None => self.metrics.commands_without_session.add(1),
            }
        }
    }
}

/// What every shard is built from.
pub(super) struct Parts {
    pub(super) config: config::Mqtt,
    pub(super) tell: super::Tell,
    pub(super) metrics: Arc<MqttMetrics>,
}

/// A place for one shard: the shard in it may be replaced, the cars' seats stay.
pub(super) struct Slot {
    pub(super) index: usize,
    shard: ArcSwap<Shard>,
    pub(super) seats: Arc<Seats>,
    parts: Arc<Parts>,
    is_stopping: AtomicBool,
}

impl Slot {
    /// Blocks until the router answers. To be called within the gate's runtime.
    pub(super) fn start(index: usize, parts: Arc<Parts>) -> Result<Arc<Self>, StartError> {
        let seats = Arc::new(Seats::default());
        let (shard, rx) = Shard::start(index, &parts, Arc::clone(&seats))?;
        tokio::spawn(Arc::clone(&shard).watch_publisher(rx));
        Ok(Arc::new(Self { index, shard: ArcSwap::new(shard), seats, parts, is_stopping: AtomicBool::new(false) }))
    }

    pub(super) fn shard(&self) -> Arc<Shard> {
        self.shard.load_full()
    }

    /// The newest heartbeat that came through, from cars and to them; another one behind a new router.
    pub(super) fn beats(&self) -> [(&'static str, u64); 2] {
        let shard = self.shard();
        [("up", &shard.up), ("down", &shard.down)].map(|(way, credit)| (way, credit.beat.load(Ordering::SeqCst)))
    }

    /// Ends the shard's threads; for the end of the gateway.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let shard = self.shard();
        shard.lose();
        // Wakes the pumps, which then see it.
        shard.beat();
    }

    /// Sends heartbeats and replaces the shard when it dies or stalls, until the task is dropped.
    pub(super) async fn watch(self: Arc<Self>) {
        let config = &self.parts.config;
        let mut interval = tokio::time::interval(Duration::from_millis(config.heartbeat_ms.max(1)));
        // A machine that slept must not look like a stalled router: missed beats are not made up for.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stall_beats = config.stall_ms.div_ceil(config.heartbeat_ms.max(1)).max(2);
        let (mut up, mut down) = (Progress::default(), Progress::default());
        loop {
            let shard = self.shard();
            let late = tokio::select! {
                due = interval.tick() => due.elapsed(),
                () = shard.lost.notified() => Duration::ZERO,
            };
            if self.is_stopping.load(Ordering::SeqCst) {
                return;
            }
            let sent = shard.beats.load(Ordering::SeqCst);
            // On a machine where this task waits for the processor, so does the router.
            let is_starved = late > interval.period();
            let is_stalled = up.lacks(&shard.up, sent, stall_beats) | down.lacks(&shard.down, sent, stall_beats);
            if is_starved {
                (up.beats_without, down.beats_without) = (0, 0);
            } else if is_stalled && !shard.is_lost() {
                tracing::error!(shard = self.index, "router has stalled");
                shard.lose();
            }
            if shard.is_lost() {
                self.replace().await;
                (up, down) = Default::default();
            } else {
                shard.beat();
            }
        }
    }

    async fn replace(&self) {
        self.parts.metrics.shards_replaced.add(1);
        // An idle car would not notice by itself, and its commands would go nowhere.
        self.seats.kick_all(Reason::ShardLost);
        loop {
            let (index, parts, seats) = (self.index, Arc::clone(&self.parts), Arc::clone(&self.seats));
            match tokio::task::spawn_blocking(move || Shard::start(index, &parts, seats)).await {
                Ok(Ok((shard, rx))) => {
                    tokio::spawn(Arc::clone(&shard).watch_publisher(rx));
                    self.shard.store(shard);
                    tracing::warn!(shard = self.index, "router replaced");
                    return;
                }
                Ok(Err(error)) => tracing::error!(shard = self.index, %error, "router does not start"),
                Err(error) => tracing::error!(shard = self.index, %error, "router does not start"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// What the watchdog saw of one log at its last look.
#[derive(Default)]
struct Progress {
    seen: (u64, u64),
    beats_without: u64,
}

impl Progress {
    /// True when nothing at all came through for `limit` beats although something is under way and the reader waits for
    /// it. A reader that is slow, or stuck in an actor, would be no faster behind a new router, and what the old one
    /// still held would be lost.
    fn lacks(&mut self, credit: &Credit, sent: u64, limit: u64) -> bool {
        let seen = (credit.beat.load(Ordering::SeqCst), credit.taken.load(Ordering::SeqCst));
        if seen != self.seen || seen.0 == sent || credit.is_reader_busy.load(Ordering::SeqCst) {
            *self = Self { seen, beats_without: 0 };
            return false;
        }
        self.beats_without += 1;
        self.beats_without >= limit
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
