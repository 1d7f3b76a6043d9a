//! What changed, to the consoles at other gateways. As the feed it comes from, it promises nothing: what it says is on record
//! elsewhere, and it never makes a vehicle wait. Alerts and decisions do not come this way; each gateway reads them from the
//! store.
//!
//! A gateway with consoles asks the others for the states of the vehicles they have, and hears what changes from then on.
//! Vehicles that no living gateway has it reads from its own copy of the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use async_nats::Message;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Inner, subscribe};
use crate::actors::feed::{CommandChanged, VehicleChanged};
use crate::actors::peers::SnapshotForm;
use crate::actors::vehicle::Snapshot;
use crate::domain::VehicleId;
use crate::domain::command::Command;

/// Commands that may wait to be written.
const COMMANDS_MAX: usize = 16_384;
/// Letters of vehicles that may wait; they tell their newest state again.
const MAILBOX: usize = 16_384;
/// While there is no connection.
const CONNECTED_AGAIN: Duration = Duration::from_millis(100);
/// How often it is looked whether something was missed.
const MISSED: Duration = Duration::from_secs(3);

/// Where the feed of this gateway takes what vehicles tell.
#[derive(Clone)]
pub struct Local {
    pub vehicles: Recipient<VehicleChanged>,
    pub commands: Recipient<CommandChanged>,
    /// Consoles that watch here.
    pub consoles: Arc<AtomicUsize>,
}

/// Stands before the feed: what vehicles here tell goes to the consoles here and to those elsewhere.
pub struct Relay {
    local: Local,
    inner: Arc<Inner>,
    out: Arc<Waiting>,
}

/// What is to be written.
#[derive(Default)]
struct Waiting {
    changes: Mutex<Changes>,
    news: Notify,
}

/// Of each vehicle only the newest state: there are never more than there are vehicles, and none is lost that nothing follows.
#[derive(Default)]
struct Changes {
    vehicles: HashMap<VehicleId, Arc<Snapshot>>,
    commands: Vec<CommandChanged>,
}

impl Waiting {
    /// False = there is no room.
    fn put(&self, put: impl FnOnce(&mut Changes) -> bool) -> bool {
        let is_in = put(&mut self.changes.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_one();
        is_in
    }

    fn take(&self) -> Changes {
        std::mem::take(&mut self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A change on its way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeForm {
    Vehicle(Box<SnapshotForm>),
    Command { vehicle: VehicleId, command: Box<Command> },
}

impl Relay {
    pub(super) fn start(
        inner: &Arc<Inner>,
        local: Local,
        runtime: &tokio::runtime::Runtime,
        thread: &ArbiterHandle,
    ) -> Addr<Self> {
        let out = Arc::new(Waiting::default());
        runtime.spawn(write(Arc::clone(inner), Arc::clone(&out)));
        runtime.spawn(hear(Arc::clone(inner), local.clone()));
        let inner = Arc::clone(inner);
        Self::start_in_arbiter(thread, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Relay { local, inner, out }
        })
    }

    fn elsewhere(&self, put: impl FnOnce(&mut Changes) -> bool) {
        if self.inner.members().consoles() > 0 && !self.out.put(put) {
            self.inner.counters.changes_dropped.inc();
        }
    }
}

impl Actor for Relay {
    type Context = Context<Self>;
}

impl Handler<VehicleChanged> for Relay {
    type Result = ();

    fn handle(&mut self, change: VehicleChanged, _: &mut Self::Context) {
        self.elsewhere(|changes| {
            changes.vehicles.insert(change.0.vehicle.vehicle_id.clone(), Arc::clone(&change.0));
            true
        });
        if self.local.consoles.load(Ordering::Relaxed) > 0 && self.local.vehicles.try_send(change).is_err() {
            self.inner.counters.changes_dropped.inc();
        }
    }
}

impl Handler<CommandChanged> for Relay {
    type Result = ();

    fn handle(&mut self, change: CommandChanged, _: &mut Self::Context) {
        self.elsewhere(|changes| {
            let has_room = changes.commands.len() < COMMANDS_MAX;
            if has_room {
                changes.commands.push(change.clone());
            }
            has_room
        });
        if self.local.consoles.load(Ordering::Relaxed) > 0 && self.local.commands.try_send(change).is_err() {
            self.inner.counters.changes_dropped.inc();
        }
    }
}

/// Writes what waits; alone does the work that the actors are spared.
async fn write(inner: Arc<Inner>, waiting: Arc<Waiting>) {
    loop {
        waiting.news.notified().await;
        let Changes { vehicles, commands } = waiting.take();
        for CommandChanged { vehicle, command } in commands {
            write_one(&inner, ChangeForm::Command { vehicle, command: Box::new(command) }).await;
        }
        for snapshot in vehicles.into_values() {
            write_one(&inner, ChangeForm::Vehicle(Box::new(SnapshotForm::of(&snapshot)))).await;
        }
    }
}

async fn write_one(inner: &Inner, form: ChangeForm) {
    // Meanwhile only the newest is kept.
    while !inner.is_connected() {
        tokio::time::sleep(CONNECTED_AGAIN).await;
    }
    let Ok(text) = serde_json::to_vec(&form) else { return };
    let subject = format!("{}.feed.{}", inner.prefix, inner.node);
    if inner.client.publish(subject, text.into()).await.is_err() {
        inner.counters.changes_dropped.inc();
    }
}

/// What was on the wire when a connection broke is lost, and what found no room: all is asked for and told once more.
pub(super) async fn make_good(inner: Arc<Inner>) {
    let connects = || inner.client.statistics().connects.load(Ordering::Relaxed);
    let mut known = connects();
    let mut look = tokio::time::interval(MISSED);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let is_new = inner.is_connected() && std::mem::replace(&mut known, connects()) != known;
        if inner.missed.swap(false, Ordering::Relaxed) || is_new {
            inner.watched.notify_one();
        }
        if is_new
            && inner.members().consoles() > 0
            && let Some(fleet) = inner.fleet.get().cloned()
        {
            fleet.publish_kept().await;
        }
    }
}

/// Hears what vehicles elsewhere tell, for as long as there are consoles here.
async fn hear(inner: Arc<Inner>, local: Local) {
    let own = format!("{}.feed.{}", inner.prefix, inner.node);
    loop {
        inner.watched.notified().await;
        if local.consoles.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let mut changes = subscribe(&inner, format!("{}.feed.*", inner.prefix)).await;
        ask(&inner).await;
        let mut look = tokio::time::interval(super::HELLO_EVERY);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) if change.subject.as_str() != own => take(&inner, &local, &change),
                    Some(_) => {}
                    None => break,
                },
                () = inner.watched.notified() => ask(&inner).await,
                _ = look.tick() => if local.consoles.load(Ordering::Relaxed) == 0 { break },
            }
        }
    }
}

/// Asks every other gateway to tell what it has.
async fn ask(inner: &Inner) {
    if inner.client.publish(format!("{}.watch", inner.prefix), inner.node.clone().into()).await.is_err() {
        tracing::debug!("the other gateways could not be asked for their vehicles");
    }
}

fn take(inner: &Inner, local: &Local, message: &Message) {
    let is_taken = match serde_json::from_slice(&message.payload) {
        Ok(ChangeForm::Vehicle(form)) => local.vehicles.try_send(VehicleChanged(Arc::new((*form).into()))).is_ok(),
        Ok(ChangeForm::Command { vehicle, command }) => {
            local.commands.try_send(CommandChanged { vehicle, command: *command }).is_ok()
        }
        Err(error) => {
            tracing::error!(%error, "another gateway's change cannot be read; are all of one version?");
            true
        }
    };
    if is_taken {
        inner.counters.changes_heard.inc();
    } else {
        inner.missed.store(true, Ordering::Relaxed);
        inner.counters.changes_dropped.inc();
    }
}

/// Tells consoles elsewhere what is here, when they come.
pub(super) async fn tell(inner: Arc<Inner>) {
    loop {
        let mut asked = subscribe(&inner, format!("{}.watch", inner.prefix)).await;
        while let Some(message) = asked.next().await {
            if *message.payload == *inner.node.as_bytes() {
                continue;
            }
            // Its hello may come later than its question.
            inner.expect_consoles(&message.payload);
            if let Some(fleet) = inner.fleet.get().cloned() {
                fleet.publish_kept().await;
            }
        }
    }
}
