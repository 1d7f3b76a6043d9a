//! The notifier: alerts and events out to people and their programs, by webhook and by e-mail.
//!
//! It follows the journal from a durable cursor of its own, so that what is on record is told at least once, whatever
//! happens to the gateway or to a target; in order per subject, retried for a day, then a dead letter that people see.
//! Nobody waits for it: it runs on its own arbiter and only reads what others made durable.

mod courier;
mod email;
mod escalation;
mod journal;
mod ledger;
mod notification;
mod outbox;
mod templates;
mod transport;
mod webhook;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use tokio::sync::{Mutex, mpsc, oneshot};
use uuid::Uuid;

use self::courier::{Ask, Courier};
use self::transport::Transport;
use crate::actors::follower::IsMine;
use crate::clock::Clock;
use crate::config;
use crate::domain::Timestamp;
use crate::https_client;
use crate::metrics::{Count, Level, Metrics, Reading, Value};
use crate::store::{ReadError, Store};

pub use self::notification::Notification;
pub use self::outbox::{DeadLetter, Delivery, Health};

/// Questions of people to the loop at once; each takes it microseconds.
const MAX_ASKS: usize = 64;
/// For what the loop answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// For the last checkpoint of a stop.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Before a loop that died starts again.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// Why the notifier does not start. The key is in `[notifier]`.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{key}: {problem}")]
    Config { key: &'static str, problem: String },
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a question has no answer. Nothing happened, except where a test was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotifierError {
    /// Worth a retry in a moment.
    #[error("the notifier is busy")]
    Busy,
    #[error("there is no such dead letter")]
    NoSuchLetter,
    #[error("there is no such target, or too many wait for it")]
    NoTarget,
    /// Worth a retry there.
    #[error("another gateway of the cluster tells people; ask that one")]
    Elsewhere,
}

/// How a target does, since the gateway started.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetState {
    pub name: String,
    /// `webhook` or `email`.
    pub kind: &'static str,
    pub waiting: usize,
    pub oldest_since: Option<Timestamp>,
    pub oldest_age_s: Option<i64>,
    pub health: Health,
}

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// `None` = the target took it.
    pub error: Option<String>,
    pub took_ms: u64,
}

/// The way to the notifier; cheap to clone.
#[derive(Clone)]
pub struct NotifierHandle {
    asks: mpsc::Sender<Ask>,
    counters: Arc<Counters>,
    test_within: Duration,
}

impl NotifierHandle {
    /// Reads what an earlier run left and follows the journal from there; without one, from now on. It is durable where
    /// from before this returns, so that nothing that happens afterwards is missed.
    /// `is_mine`: of several gateways one tells people; asked before each turn.
    pub async fn start(
        config: &config::Notifier,
        store: Arc<dyn Store>,
        clock: Clock,
        is_mine: IsMine,
    ) -> Result<Self, StartError> {
        let transports = transports(config)?;
        let counters = Arc::new(Counters::new(transports.keys().cloned()));
        let counted = Arc::clone(&counters);
        let making = Making { config: config.clone(), store, clock, transports, counters: counted, is_mine };
        let courier = making.courier().await?;
        let (asks, asked) = mpsc::channel(MAX_ASKS);
        Arbiter::new().spawn(making.supervise(courier, asked));
        Ok(Self { asks, counters, test_within: Duration::from_millis(config.timeout_ms) + ANSWER_WITHIN })
    }

    /// One that nobody answers.
    #[cfg(test)]
    pub fn detached() -> Self {
        let (asks, _) = mpsc::channel(1);
        Self { asks, counters: Arc::new(Counters::new([])), test_within: ANSWER_WITHIN }
    }

    async fn ask<T>(&self, within: Duration, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, NotifierError> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(ask(reply)).map_err(|_| NotifierError::Busy)?;
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(NotifierError::Busy),
        }
    }

    pub async fn targets(&self) -> Result<Vec<TargetState>, NotifierError> {
        self.ask(ANSWER_WITHIN, Ask::Targets).await
    }

    /// Dead letters, newest first.
    pub async fn dead(&self, after: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>, NotifierError> {
        self.ask(ANSWER_WITHIN, |reply| Ask::Dead { after, limit, reply }).await
    }

    /// A dead letter is tried anew. A restart within the next seconds may find it dead again.
    pub async fn retry(&self, id: Uuid) -> Result<(), NotifierError> {
        self.ask(ANSWER_WITHIN, |reply| Ask::Retry { id, reply }).await?
    }

    /// Tells the target that this is a test, past its queue; hears what became of it within `notifier.timeout_ms`.
    pub async fn test(&self, target: &str) -> Result<Tested, NotifierError> {
        self.ask(self.test_within, |reply| Ask::Test { target: target.to_owned(), reply }).await?
    }

    /// Keeps a last checkpoint. What is under way is told again after the next start.
    pub async fn stop(&self) {
        if self.ask(STOP_WITHIN, Ask::Stop).await.is_err() {
            tracing::warn!("what was told lately may be told again");
        }
    }

    pub fn register(&self, metrics: &Metrics) {
        let counters = Arc::clone(&self.counters);
        metrics.register(move || counters.readings());
    }
}

/// What the loop is made of, at the start and again.
struct Making {
    config: config::Notifier,
    store: Arc<dyn Store>,
    clock: Clock,
    transports: BTreeMap<String, Arc<Transport>>,
    counters: Arc<Counters>,
    is_mine: IsMine,
}

impl Making {
    async fn courier(&self) -> Result<Courier, ReadError> {
        let kept = ledger::load_off_thread(&self.store).await?;
        let newest = self.store.health().durable;
        // A cursor beyond the journal is of a journal that was put back since.
        let position = kept.cursor.map_or(newest, |cursor| cursor.min(newest));
        let (is_new, is_unused) = (kept.cursor.is_none(), self.transports.is_empty());
        let mut courier = Courier::new(self, kept, position);
        if !(self.is_mine)() {
            return Ok(courier);
        }
        if is_unused && !is_new {
            if let Err(error) = ledger::forget_cursor(&*self.store, self.clock.now()).await {
                tracing::warn!(%error, "the notifier's cursor stays, though nobody is told of anything");
            }
        } else if is_new && !is_unused {
            // Failing, it is tried again with the next checkpoint.
            courier.keep().await;
        }
        Ok(courier)
    }

    /// Runs the loop, and makes it anew from the store should it die of a bug.
    async fn supervise(self, first: Courier, asked: mpsc::Receiver<Ask>) {
        let asked = Arc::new(Mutex::new(asked));
        let mut next = Ok(first);
        loop {
            match next {
                Ok(courier) => match tokio::spawn(courier.run(Arc::clone(&asked))).await {
                    Ok(()) => return,
                    Err(error) => tracing::error!(%error, "the notifier died; it starts again from the store"),
                },
                Err(error) => tracing::error!(%error, "the notifier cannot start again yet"),
            }
            self.counters.restarts.inc();
            tokio::time::sleep(RESTART_AFTER).await;
            next = self.courier().await;
        }
    }
}

fn transports(config: &config::Notifier) -> Result<BTreeMap<String, Arc<Transport>>, StartError> {
    let mut all = BTreeMap::new();
    if !config.webhooks.is_empty() {
        let unfit = |problem| StartError::Config { key: "notifier.ca", problem };
        let timeout = Duration::from_millis(config.timeout_ms);
        let client = https_client::build(config.ca.as_deref(), timeout).map_err(unfit)?;
        for webhook in &config.webhooks {
            let made = webhook::Webhook::new(webhook, &config.source, client.clone())
                .map_err(|problem| StartError::Config { key: "notifier.webhooks", problem })?;
            all.insert(webhook.name.clone(), Arc::new(Transport::Webhook(made)));
        }
    }
    if !config.emails.is_empty() {
        let timeout = Duration::from_millis(config.timeout_ms);
        let server = email::server(&config.smtp, timeout)
            .map_err(|problem| StartError::Config { key: "notifier.smtp.ca", problem })?;
        for email in &config.emails {
            let made = email::Email::new(config, email, server.clone())
                .map_err(|problem| StartError::Config { key: "notifier.emails", problem })?;
            all.insert(email.name.clone(), Arc::new(Transport::Email(made)));
        }
    }
    Ok(all)
}

/// What the notifier counts.
#[derive(Debug)]
pub(super) struct Counters {
    made: Count,
    escalated: Count,
    overflowed: Count,
    checkpoints: Count,
    checkpoints_failed: Count,
    reads_failed: Count,
    restarts: Count,
    behind: Level,
    dead_held: Level,
    dead_dropped: Level,
    watched: Level,
    not_watched: Level,
    targets: BTreeMap<String, TargetCounters>,
    /// For what is not configured; stays 0.
    other: TargetCounters,
}

#[derive(Debug, Default)]
struct TargetCounters {
    delivered: Count,
    failed: Count,
    dead: Count,
    waiting: Level,
}

impl Counters {
    fn new(targets: impl IntoIterator<Item = String>) -> Self {
        Self {
            made: Count::default(),
            escalated: Count::default(),
            overflowed: Count::default(),
            checkpoints: Count::default(),
            checkpoints_failed: Count::default(),
            reads_failed: Count::default(),
            restarts: Count::default(),
            behind: Level::default(),
            dead_held: Level::default(),
            dead_dropped: Level::default(),
            watched: Level::default(),
            not_watched: Level::default(),
            targets: targets.into_iter().map(|name| (name, TargetCounters::default())).collect(),
            other: TargetCounters::default(),
        }
    }

    fn target(&self, name: &str) -> &TargetCounters {
        self.targets.get(name).unwrap_or(&self.other)
    }

    fn readings(&self) -> Vec<Reading> {
        let counter = |name, help, count: &Count| Reading::counter(name, help, count.get());
        let gauge = |name, help, level: &Level| Reading::gauge(name, help, level.get() as f64);
        let dropped = |name, help, level: &Level| Reading::counter(name, help, level.get().unsigned_abs());
        let each = |name, help, count: fn(&TargetCounters) -> &Count| {
            let values = self.targets.iter().map(|(target, counted)| (target.clone(), count(counted).get()));
            Reading::counters(name, help, "target", values)
        };
        let waiting = self
            .targets
            .iter()
            .map(|(target, counted)| (vec![("target", target.clone())], Value::Gauge(counted.waiting.get() as f64)));
        vec![
            counter("notifications_made", "Notifications made of the journal", &self.made),
            counter("notifications_escalated", "Steps of escalations taken", &self.escalated),
            each("notifications_delivered", "Notifications that a target took", |counted| &counted.delivered),
            each("notifications_failed", "Tries that a target did not take", |counted| &counted.failed),
            each("notifications_died", "Notifications given up after their time", |counted| &counted.dead),
            Reading {
                name: "notifications_waiting",
                help: "Notifications still to be delivered",
                values: waiting.collect(),
            },
            counter("notifications_overflowed", "Notifications given up: too many waited", &self.overflowed),
            gauge("notifications_dead", "Dead letters held", &self.dead_held),
            dropped("notifications_dead_dropped", "Dead letters beyond their bound", &self.dead_dropped),
            gauge("notifications_behind", "Journal records not looked at yet", &self.behind),
            gauge("alerts_watched", "Alerts that may be escalated", &self.watched),
            dropped("alerts_not_watched", "Alerts not escalated: too many watched", &self.not_watched),
            counter("notifier_checkpoints", "Checkpoints kept", &self.checkpoints),
            counter("notifier_checkpoints_failed", "Checkpoints that could not be stored", &self.checkpoints_failed),
            counter("notifier_reads_failed", "Times the journal could not be read", &self.reads_failed),
            counter("notifier_restarts", "Times the notifier died and was started again", &self.restarts),
        ]
    }
}
