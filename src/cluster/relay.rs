//! What changed, to the consoles at other gateways. As the feed it comes from, it promises nothing: what it says is on record
//! elsewhere, and it never makes a vehicle wait. Alerts and decisions do not come this way; each gateway reads them from the
//! store.
//!
//! A gateway with consoles asks the others for the states of the vehicles they have, and hears what changes from then on.
//! Vehicles that no living gateway has it reads from its own copy of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;
use async_nats::Message;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Inner, subscribe};
use crate::actors::feed::{CommandChanged, VehicleChanged};
use crate::actors::peers::SnapshotForm;
use crate::actors::vehicle::Snapshot;
use crate::domain::VehicleId;
use crate::domain::command::Command;

/// Changes that may wait to be written; vehicles tell their newest state again.
const WAITING_MAX: usize = 16_384;

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
    out: Sender<Change>,
}

#[derive(Debug)]
enum Change {
    Vehicle(Arc<Snapshot>),
    Command(Box<CommandChanged>),
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
        let (out, waiting) = channel(WAITING_MAX);
        runtime.spawn(write(Arc::clone(inner), waiting));
        runtime.spawn(hear(Arc::clone(inner), local.clone()));
        let inner = Arc::clone(inner);
        Self::start_in_arbiter(thread, move |ctx| {
            ctx.set_mailbox_capacity(WAITING_MAX);
            Relay { local, inner, out }
        })
    }

    fn elsewhere(&self, change: Change) {
        if self.inner.members().consoles() > 0 && self.out.try_send(change).is_err() {
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
        self.elsewhere(Change::Vehicle(Arc::clone(&change.0)));
        if self.local.consoles.load(Ordering::Relaxed) > 0 && self.local.vehicles.try_send(change).is_err() {
            self.inner.counters.changes_dropped.inc();
        }
    }
}

impl Handler<CommandChanged> for Relay {
    type Result = ();

    fn handle(&mut self, change: CommandChanged, _: &mut Self::Context) {
        self.elsewhere(Change::Command(Box::new(change.clone())));
        if self.local.consoles.load(Ordering::Relaxed) > 0 && self.local.commands.try_send(change).is_err() {
            self.inner.counters.changes_dropped.inc();
        }
    }
}

/// Writes what waits; alone does the work that the actors are spared.
async fn write(inner: Arc<Inner>, mut waiting: Receiver<Change>) {
    while let Some(change) = waiting.recv().await {
        let form = match change {
            Change::Vehicle(snapshot) => ChangeForm::Vehicle(Box::new(SnapshotForm::of(&snapshot))),
            Change::Command(change) => {
                let CommandChanged { vehicle, command } = *change;
                ChangeForm::Command { vehicle, command: Box::new(command) }
            }
        };
        let Ok(text) = serde_json::to_vec(&form) else { continue };
        let subject = format!("{}.feed.{}", inner.prefix, inner.node);
        if !inner.is_connected() || inner.client.publish(subject, text.into()).await.is_err() {
            inner.counters.changes_dropped.inc();
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
