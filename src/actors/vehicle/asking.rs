//! What people ask of a vehicle: decide, store, answer; and what is answered without an append.

use std::sync::Arc;

use actix::prelude::*;

use super::message::{Answer, Ask, AskError, IdempotencyKey, Reply};
use super::{VehicleActor, Wanted, stream};
use crate::actors::rows::Touched;
use crate::domain::{Refusal, RefusalKind};
use crate::store::AppendError;
use crate::telemetry::{Open, SpanContext};

impl VehicleActor {
    pub(super) fn on_ask(&mut self, ask: Ask, reply: Reply, of: Option<SpanContext>, ctx: &mut Context<Self>) {
        let Ask { request, by, idempotency } = ask;
        let traced = self.shared.telemetry.child(of);
        let wanted = Wanted::of(&request);
        let events = match self.decide(request) {
            Ok(events) => events,
            Err(refusal) => {
                return self
                    .unless_overtaken(reply, ctx, |actor, reply, ctx| actor.refuse(refusal, idempotency, reply, ctx));
            }
        };
        if events.is_empty() && idempotency.is_none() {
            return self.unless_overtaken(reply, ctx, move |actor, reply, _| answer(reply, actor.answer_now(wanted)));
        }
        let within = traced.as_ref().map(Open::context);
        let commands = within.map_or_else(Vec::new, |_| Touched::by(&events).commands().collect());
        let append = self.shared.telemetry.child(within);
        let step = self.stage(events, by, idempotency.map(|key| (key, wanted)));
        self.commit(step, ctx, move |actor, ctx, outcome| {
            actor.trace_step(append, traced, &outcome);
            if let (Some(of), true) = (of, outcome.is_ok()) {
                actor.trace(commands, of);
            }
            let result = match outcome {
                Ok(()) => {
                    actor.shared.known_if_registered(&actor.vehicle);
                    let result = actor.answer_now(wanted);
                    actor.flush_outbox(ctx);
                    result
                }
                Err(error) => refused_append(error),
            };
            answer(reply, result);
        });
    }

    /// What is answered without an append is answered by what we know, which another gateway may have made old. An append
    /// would have been refused.
    fn unless_overtaken(
        &mut self,
        reply: Reply,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, Reply, &mut Context<Self>) + 'static,
    ) {
        if self.shared.peers.is_none() {
            return then(self, reply, ctx);
        }
        let confirming = self.shared.store.is_newest(&stream(&self.id), self.last);
        ctx.wait(confirming.into_actor(self).map(move |confirmed, actor, ctx| match confirmed {
            Ok(true) => then(actor, reply, ctx),
            Ok(false) => {
                tracing::info!(vehicle = %actor.id, "vehicle starts over from the store: it was written elsewhere");
                answer(reply, Err(AskError::Busy));
                ctx.stop();
            }
            Err(error) => {
                tracing::warn!(vehicle = %actor.id, %error, "nobody says whether the vehicle is as it is known here");
                answer(reply, Err(AskError::Storage("the cluster's engine")));
            }
        }));
    }

    /// The same idempotency key may have been granted what is refused now (the car is taken - by that very request).
    fn refuse(&self, refusal: Refusal, key: Option<IdempotencyKey>, reply: Reply, ctx: &mut Context<Self>) {
        let Some(key) = key else { return answer(reply, Err(refusal.into())) };
        let store = Arc::clone(&self.shared.store);
        let body = key.body;
        let looking = tokio::task::spawn_blocking(move || store.answered(&key.key));
        ctx.wait(looking.into_actor(self).map(move |looked, _, _| {
            let result = match looked {
                Ok(Ok(Some((known, recorded)))) if known == body => decode(&recorded),
                Ok(Ok(Some(_))) => Err(AskError::KeyReused),
                Ok(Ok(None)) => Err(refusal.into()),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot look up an idempotency key");
                    Err(AskError::Storage("the view is not available"))
                }
                Err(_) => Err(AskError::Storage("the process is stopping")),
            };
            answer(reply, result);
        }));
    }

    fn answer_now(&self, wanted: Wanted) -> Result<Answer, AskError> {
        self.answer(&self.vehicle, wanted)
            .ok_or_else(|| Refusal::new(RefusalKind::NotFound, "the vehicle keeps no such thing any more").into())
    }
}

/// The asker may have gone; then nobody needs the answer.
fn answer(reply: Reply, result: Result<Answer, AskError>) {
    let _ = reply.send(result);
}

fn refused_append(error: AppendError) -> Result<Answer, AskError> {
    match error {
        AppendError::Duplicate { answer } => decode(&answer),
        AppendError::KeyReused => Err(AskError::KeyReused),
        AppendError::Full(why) => Err(AskError::Storage(why)),
        AppendError::TooLarge { .. } => Err(AskError::Storage("the vehicle's record is too large")),
        // Surely not stored, and the actor starts over: a retry will find it in order.
        AppendError::Conflict { .. } | AppendError::Fenced => Err(AskError::Busy),
        AppendError::Unknown(_) => Err(AskError::Unknown),
    }
}

fn decode(recorded: &serde_json::value::RawValue) -> Result<Answer, AskError> {
    serde_json::from_str(recorded.get()).map_err(|error| {
        tracing::error!(%error, "a recorded answer cannot be read");
        AskError::Unknown
    })
}
