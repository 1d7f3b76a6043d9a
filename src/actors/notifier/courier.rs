//! The notifier's loop: follows the journal, hands out what is due, takes what became of it, keeps checkpoints.
//!
//! It runs on an arbiter of its own. Nothing here waits for a target: each delivery is a task, and the loop only hears of
//! its end. Reading the journal is done off this thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::escalation::Escalation;
use super::journal::{self, Wanted};
use super::ledger;
use super::notification::{
    ALERT_CONFIRMED, ALERT_ESCALATED, ALERT_OPENED, ALERT_RESOLVED, ALERT_WITHDRAWN, Notification, Place, TEST,
};
use super::outbox::{Became, DeadLetter, Failure, FailureKind, Outbox};
use super::transport::Transport;
use super::{Counters, Making, NotifierError, TargetState, Tested};
use crate::actors::follower::IsMine;
use crate::clock::{Clock, Stopwatch};
use crate::config;
use crate::domain::Timestamp;
use crate::store::{AppendError, ReadError, Store, StorePosition};

/// How late a notification may begin at most, while nothing is behind.
const TICK: Duration = Duration::from_millis(100);
/// Between two checkpoints: what a crash may tell twice.
const CHECKPOINT_MS: i64 = 2_000;
/// Records without anything to tell after which the cursor is kept all the same, so that a restart reads few of them.
const RECORDS_BEHIND: u64 = 20_000;
const RECORDS_A_READ: usize = 200;
/// Reads in a row before deliveries are looked at again.
const READS_A_TICK: usize = 10;
/// With so much to be stored and a store that refuses, the journal is read no further: it has little to tell then.
const MAX_UNSTORED: usize = 20_000;
/// After the journal could not be read.
const READ_BACKOFF_MS: i64 = 5_000;
/// Between two looks for what has waited too long.
const EXPIRE_MS: i64 = 1_000;
const TESTS_AT_ONCE: usize = 4;
/// Larger than the deliveries that can be in flight, so that none waits to tell of its end.
pub(super) const FINISHED_MAX: usize = 1_024;

/// What the handle asks of the loop.
pub(super) enum Ask {
    Targets(oneshot::Sender<Vec<TargetState>>),
    Dead { after: Option<Uuid>, limit: usize, reply: oneshot::Sender<Vec<DeadLetter>> },
    Retry { id: Uuid, reply: oneshot::Sender<Result<(), NotifierError>> },
    Test { target: String, reply: oneshot::Sender<Result<Tested, NotifierError>> },
    Stop(oneshot::Sender<()>),
}

struct Finished {
    id: Uuid,
    target: String,
    outcome: Result<(), Failure>,
}

pub(super) struct Courier {
    store: Arc<dyn Store>,
    clock: Clock,
    transports: BTreeMap<String, Arc<Transport>>,
    wanted: Wanted,
    outbox: Outbox,
    escalation: Escalation,
    counters: Arc<Counters>,
    /// The journal is read up to here.
    position: StorePosition,
    /// The newest cursor that is durable.
    kept: StorePosition,
    /// The newest record of what was kept.
    version: StorePosition,
    renewal: Renewal,
    is_mine: IsMine,
    /// What is in memory is as the store has it and may be worked on.
    is_ours: bool,
    /// Something was told since.
    has_told: bool,
    next_checkpoint_at: Timestamp,
    next_read_at: Timestamp,
    next_expiry_at: Timestamp,
    tests: Arc<Semaphore>,
    to_finish: mpsc::Sender<Finished>,
    finished: mpsc::Receiver<Finished>,
}

/// What a state that is read from the store is made by.
struct Renewal {
    retry_for_ms: i64,
    escalate_after_ms: i64,
    escalate_severity: config::Level,
}

impl Renewal {
    fn of(
        &self,
        transports: &BTreeMap<String, Arc<Transport>>,
        kept: ledger::Kept,
        now: Timestamp,
    ) -> (Outbox, Escalation) {
        let mut outbox = Outbox::new(transports.keys().cloned(), self.retry_for_ms);
        outbox.restore(kept.waiting, kept.dead, now);
        let mut escalation = Escalation::new(self.escalate_after_ms, self.escalate_severity);
        escalation.restore(kept.watched);
        (outbox, escalation)
    }
}

impl Courier {
    /// From what an earlier run left. `position` is where the journal is followed from.
    pub fn new(making: &Making, kept: ledger::Kept, position: StorePosition) -> Self {
        let Making { config, store, clock, transports, counters, is_mine } = making;
        let now = clock.now();
        let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let renewal = Renewal {
            retry_for_ms: ms(config.retry_for_s),
            escalate_after_ms: ms(config.escalate_after_s),
            escalate_severity: config.escalate_severity,
        };
        let version = kept.version;
        let (outbox, escalation) = renewal.of(transports, kept, now);
        let is_ours = is_mine();
        let wanted = Wanted {
            alerts: transports.values().any(|transport| transport.may_want("cardea.alert.")),
            declined: transports.values().any(|transport| transport.may_want("cardea.card.")),
            commands: transports.values().any(|transport| transport.may_want("cardea.command.")),
            rentals: transports.values().any(|transport| transport.may_want("cardea.rental.")),
        };
        let (to_finish, finished) = mpsc::channel(FINISHED_MAX);
        Self {
            store: Arc::clone(store),
            clock: clock.clone(),
            transports: transports.clone(),
            wanted,
            outbox,
            escalation,
            counters: Arc::clone(counters),
            position,
            kept: position,
            version,
            renewal,
            is_mine: Arc::clone(is_mine),
            is_ours,
            has_told: false,
            next_checkpoint_at: now,
            next_read_at: now,
            next_expiry_at: now,
            tests: Arc::new(Semaphore::new(TESTS_AT_ONCE)),
            to_finish,
            finished,
        }
    }

    /// Makes the place to follow from durable. Called before anything that shall be told can happen.
    pub async fn keep(&mut self) -> bool {
        let now = self.clock.now();
        self.next_checkpoint_at = now.plus_ms(CHECKPOINT_MS);
        let Self { store, outbox, escalation, position, version, .. } = self;
        match ledger::checkpoint(&**store, now, version, *position, outbox, escalation).await {
            Ok(()) => {
                self.counters.checkpoints.inc();
                self.kept = self.position;
                self.has_told = false;
                true
            }
            Err(AppendError::Conflict { .. }) => {
                // What both have told meanwhile was told twice; from here on only one goes on.
                tracing::warn!("another gateway tells people as well; this one begins anew from what that one kept");
                self.is_ours = false;
                false
            }
            Err(error) => {
                self.counters.checkpoints_failed.inc();
                tracing::warn!(%error, "what is still to be told could not be kept; it is tried again");
                false
            }
        }
    }

    /// Until it is stopped, or nobody holds a handle any more.
    pub async fn run(mut self, asks: Arc<Mutex<mpsc::Receiver<Ask>>>) {
        let mut asks = asks.lock().await;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(finished) = self.finished.recv() => self.finish(finished),
                ask = asks.recv() => match ask {
                    Some(Ask::Stop(reply)) => {
                        if self.may_work().await {
                            self.keep_if_needed().await;
                        }
                        let _ = reply.send(());
                        return;
                    }
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                _ = ticks.tick() => if self.may_work().await {
                    self.follow().await;
                },
            }
            if !self.may_work().await {
                continue;
            }
            self.send_due();
            if self.clock.now() >= self.next_checkpoint_at {
                self.keep_if_needed().await;
            }
        }
    }

    /// Is it this gateway's turn to tell people? Where it was not before, what was told meanwhile is read first. A delivery
    /// that is under way when the turn goes to another gateway is told again there.
    async fn may_work(&mut self) -> bool {
        if !(self.is_mine)() {
            self.is_ours = false;
            return false;
        }
        if self.is_ours {
            return true;
        }
        let now = self.clock.now();
        if now < self.next_read_at {
            return false;
        }
        match ledger::load_off_thread(&self.store).await {
            Ok(kept) => {
                self.version = kept.version;
                let newest = self.store.health().durable;
                // Without a cursor nobody was told of anything since this gateway started.
                self.position = kept.cursor.unwrap_or(self.position).min(newest);
                self.kept = self.position;
                (self.outbox, self.escalation) = self.renewal.of(&self.transports, kept, now);
                (self.is_ours, self.has_told) = (true, false);
                tracing::info!(position = self.position.0, "this gateway tells people from here on");
                true
            }
            Err(error) => {
                self.counters.reads_failed.inc();
                tracing::error!(%error, "what other gateways told cannot be read yet");
                self.next_read_at = now.plus_ms(READ_BACKOFF_MS);
                false
            }
        }
    }

    async fn keep_if_needed(&mut self) {
        let is_far = self.position.0.saturating_sub(self.kept.0) > RECORDS_BEHIND;
        if self.has_told || is_far || self.outbox.is_dirty() || self.escalation.is_dirty() {
            self.keep().await;
        }
    }

    /// Reads on in the journal, and tells what has become due meanwhile.
    async fn follow(&mut self) {
        self.show_levels();
        let now = self.clock.now();
        for notification in self.escalation.due(now, self.position.0) {
            self.counters.escalated.inc();
            self.route(Arc::new(notification), 0, now);
        }
        if now >= self.next_expiry_at {
            self.next_expiry_at = now.plus_ms(EXPIRE_MS);
            for target in self.outbox.expire(now) {
                self.counters.target(&target).dead.inc();
            }
        }
        if self.transports.is_empty() || now < self.next_read_at {
            return;
        }
        for _ in 0..READS_A_TICK {
            let health = self.store.health();
            let is_held = health.refusing.is_some() && self.outbox.waiting_in_all() > MAX_UNSTORED;
            if health.durable <= self.position || is_held {
                return;
            }
            match self.read().await {
                Ok((notifications, position)) => {
                    self.position = position;
                    for notification in notifications {
                        self.take(notification);
                    }
                }
                Err(error) => {
                    self.counters.reads_failed.inc();
                    tracing::error!(%error, "the journal could not be read on; what it tells comes later");
                    self.next_read_at = self.clock.now().plus_ms(READ_BACKOFF_MS);
                    return;
                }
            }
        }
    }

    async fn read(&self) -> Result<(Vec<Notification>, StorePosition), ReadError> {
        let (store, after, wanted) = (Arc::clone(&self.store), self.position, self.wanted);
        let reading = tokio::task::spawn_blocking(move || {
            let records = store.tail(after, RECORDS_A_READ)?;
            let position = records.last().map_or(after, |record| record.position);
            let others = records.iter().filter(|record| record.stream != ledger::STREAM);
            let told = others.flat_map(|record| journal::notifications(record, wanted, &*store)).collect();
            Ok((told, position))
        });
        reading.await.unwrap_or_else(|error| Err(ReadError::Unavailable(format!("the reading task died: {error}"))))
    }

    fn take(&mut self, notification: Notification) {
        let now = self.clock.now();
        let notification = Arc::new(notification);
        let told_steps = match &notification.alert {
            Some(alert) => self.escalation.note(alert, &notification),
            None => 0,
        };
        self.route(notification, told_steps, now);
    }

    /// To every target that wants it. `told_steps`: the steps of an escalation that this ends.
    fn route(&mut self, notification: Arc<Notification>, told_steps: u8, now: Timestamp) {
        self.counters.made.inc();
        for (name, transport) in &self.transports {
            if !is_for(transport, &notification, told_steps) {
                continue;
            }
            self.has_told = true;
            if self.outbox.take(name, Arc::clone(&notification), now) == Became::Dead {
                self.counters.overflowed.inc();
            }
        }
    }

    fn send_due(&mut self) {
        for delivery in self.outbox.due(self.clock.now()) {
            let Some(transport) = self.transports.get(&delivery.target).cloned() else { continue };
            let (clock, finished) = (self.clock.clone(), self.to_finish.clone());
            let (id, target) = (delivery.id, delivery.target);
            let trying = tokio::spawn(async move { transport.deliver(&delivery.notification, clock.now()).await });
            tokio::spawn(async move {
                // A panic in a library must not leave the subject waiting for ever.
                let outcome = trying.await.unwrap_or_else(|error| {
                    Err(Failure {
                        error: format!("the delivery broke: {error}"),
                        kind: FailureKind::Passing,
                        retry_after_ms: None,
                    })
                });
                // The loop that listens ends only with the program.
                let _ = finished.send(Finished { id, target, outcome }).await;
            });
        }
    }

    fn finish(&mut self, finished: Finished) {
        let now = self.clock.now();
        let Finished { id, target, outcome } = finished;
        let counted = self.counters.target(&target);
        match outcome {
            Ok(()) => {
                self.outbox.succeeded(id, now);
                counted.delivered.inc();
            }
            Err(failure) => {
                tracing::warn!(target, error = failure.error, "a notification was not delivered");
                counted.failed.inc();
                if self.outbox.failed(id, &failure, now, self.chance()) == Became::Dead {
                    counted.dead.inc();
                }
            }
        }
    }

    /// 0 to 1, to spread retries.
    fn chance(&self) -> f64 {
        let random = self.clock.new_id().as_u128() as u32;
        f64::from(random) / f64::from(u32::MAX)
    }

    async fn answer(&mut self, ask: Ask) {
        if !self.is_ours
            && matches!(ask, Ask::Dead { .. } | Ask::Targets(_))
            && let Ok(kept) = ledger::load_off_thread(&self.store).await
        {
            // As the gateway that tells people kept them.
            (self.outbox, self.escalation) = self.renewal.of(&self.transports, kept, self.clock.now());
        }
        match ask {
            Ask::Retry { reply, .. } if !self.is_ours => {
                let _ = reply.send(Err(NotifierError::Elsewhere));
            }
            Ask::Targets(reply) => {
                let _ = reply.send(self.targets());
            }
            Ask::Dead { after, limit, reply } => {
                let _ = reply.send(self.outbox.dead_letters(after, limit));
            }
            Ask::Retry { id, reply } => {
                let outcome = match self.outbox.revive(id, self.clock.now()) {
                    Some(true) => Ok(()),
                    Some(false) => Err(NotifierError::NoTarget),
                    None => Err(NotifierError::NoSuchLetter),
                };
                let _ = reply.send(outcome);
            }
            Ask::Test { target, reply } => self.test(&target, reply),
            Ask::Stop(_) => {}
        }
    }

    fn targets(&self) -> Vec<TargetState> {
        let now = self.clock.now();
        let states = self.transports.iter().map(|(name, transport)| {
            let health = self.outbox.health(name);
            let (waiting, oldest) = self.outbox.waiting(name);
            TargetState {
                name: name.clone(),
                kind: transport.kind(),
                waiting,
                oldest_since: oldest,
                oldest_age_s: oldest.map(|since| now.since_ms(since).max(0) / 1_000),
                health,
            }
        });
        states.collect()
    }

    fn test(&self, target: &str, reply: oneshot::Sender<Result<Tested, NotifierError>>) {
        let Some(transport) = self.transports.get(target).cloned() else {
            let _ = reply.send(Err(NotifierError::NoTarget));
            return;
        };
        let Ok(turn) = Arc::clone(&self.tests).try_acquire_owned() else {
            let _ = reply.send(Err(NotifierError::Busy));
            return;
        };
        let now = self.clock.now();
        let data = serde_json::value::to_raw_value(&serde_json::json!({"target": target})).unwrap_or_default();
        let notification = Notification {
            id: self.clock.new_id(),
            kind: TEST.into(),
            subject: format!("target/{target}"),
            at: now,
            place: Place { position: self.position.0, index: 0 },
            data,
            alert: None,
        };
        tokio::spawn(async move {
            let watch = Stopwatch::start();
            let outcome = transport.deliver(&notification, now).await;
            let took_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
            let _ = reply.send(Ok(Tested { error: outcome.err().map(|failure| failure.error), took_ms }));
            drop(turn);
        });
    }

    fn show_levels(&self) {
        let counters = &self.counters;
        counters.behind.set(self.store.health().durable.0.saturating_sub(self.position.0).cast_signed());
        counters.dead_held.set(self.outbox.dead_in_all() as i64);
        counters.watched.set(self.escalation.watched() as i64);
        counters.dead_dropped.set(self.outbox.dead_dropped.cast_signed());
        counters.not_watched.set(self.escalation.beyond.cast_signed());
        for name in self.transports.keys() {
            counters.target(name).waiting.set(self.outbox.waiting_len(name) as i64);
        }
    }
}

/// E-mails are for people: what changes an alert, from the severity they want, at the step of the escalation they are
/// on. Who was told of an alert is told of its end.
fn is_for(transport: &Transport, notification: &Notification, told_steps: u8) -> bool {
    let email = match transport {
        Transport::Webhook(webhook) => return webhook.wants(&notification.kind),
        Transport::Email(email) => email,
    };
    let Some(alert) = &notification.alert else { return false };
    if alert.severity < email.min_severity {
        return false;
    }
    match notification.kind.as_str() {
        ALERT_ESCALATED => email.escalation == alert.step,
        ALERT_OPENED | ALERT_CONFIRMED | ALERT_WITHDRAWN | ALERT_RESOLVED if email.escalation == 0 => true,
        _ => email.escalation > 0 && email.escalation <= told_steps,
    }
}
