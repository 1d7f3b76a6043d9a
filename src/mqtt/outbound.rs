//! From the actors to the routers: writes a message for a car and publishes it to the car's shard, or gives it to the bridge
//! that the car is online over.
//!
//! An actor on an arbiter of its own, so that waiting for a shard's log never holds up a vehicle. It promises nothing:
//! `Delivered` and the car's ack tell, and what is dropped here ends the car's session, so that the outbox sends again.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;

use super::gate::Shared;
use super::metrics::Reason;
use super::payload;
use super::topics::Channel;
use crate::actors::vehicle::SendToCar;

/// Messages waiting for the routers; a sender that finds more gets Full.
const MAILBOX: usize = 65_536;
/// How long a message waits for room in its shard's log.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) struct Outbound {
    shared: Arc<Shared>,
    /// By shard: its log stayed full. The next message does not wait for it, or it would hold up the other shards.
    is_stuck: Vec<bool>,
}

impl Outbound {
    pub(super) fn start_on(arbiter: &Arbiter, shared: Arc<Shared>) -> Addr<Self> {
        Self::start_in_arbiter(&arbiter.handle(), |context| {
            context.set_mailbox_capacity(MAILBOX);
            Self { is_stuck: vec![false; shared.slots.len()], shared }
        })
    }
}

impl Actor for Outbound {
    type Context = Context<Self>;
}

impl Handler<SendToCar> for Outbound {
    type Result = ();

    fn handle(&mut self, message: SendToCar, _: &mut Self::Context) {
        let SendToCar { vehicle, message } = message;
        let slot = Arc::clone(self.shared.slot(&vehicle));
        let payload = Bytes::from(payload::encode_to_car(&message));
        // The gate goes first: a car that has a session is reached by nothing else.
        if let Some(bridge) = self.shared.bridge.get()
            && slot.seats.find(vehicle.as_str()).is_none()
            && bridge.send(&vehicle, payload.clone(), &self.shared)
        {
            return;
        }
        let shard = slot.shard();
        let is_stuck = &mut self.is_stuck[slot.index];
        *is_stuck = !shard.down.wait_open(if *is_stuck { Duration::ZERO } else { PATIENCE });
        let topic = Bytes::from(Channel::Command.topic(&vehicle));
        if !*is_stuck && shard.publish_down(topic, payload).is_ok() {
            self.shared.metrics.commands.add(1);
            return;
        }
        self.shared.metrics.commands_dropped.add(1);
        if let Some(seat) = slot.seats.find(vehicle.as_str()) {
            seat.kick(Reason::ShardLost);
        }
    }
}
