//! The step, written once: decide -> append -> apply -> send. Everything the actor promises takes it.

use std::sync::atomic::Ordering;

use actix::prelude::*;

use super::{IdempotencyKey, LAZY_MS, STATE_INTERVAL_MS, VehicleActor, Wanted, stream};
use crate::actors::rows::{self, StateRow, Touched};
use crate::domain::Principal;
use crate::domain::vehicle::{Event, Request, Vehicle};
use crate::store::{Append, AppendError, Expected, Idempotency, Table};

/// Lazily saved events that may pile up while the disk is full; beyond it the actor starts over from the store.
const MAX_UNSAVED: usize = 1_024;
/// A folded record is stored after this many events, and bounds what a restart must read.
const EVENTS_PER_STATE: usize = 64;

/// A step that is decided and on its way to the disk.
pub(super) struct Step {
    next: Vehicle,
    events: Vec<Event>,
    /// How many of `unsaved` the record includes.
    unsaved: usize,
    has_state: bool,
    appending: crate::store::Appending,
}

impl VehicleActor {
    /// Puts decided events (and what is unsaved) on their way to the disk. Nothing is applied yet.
    pub(super) fn stage(
        &mut self,
        events: Vec<Event>,
        by: Principal,
        idempotency: Option<(IdempotencyKey, Wanted)>,
    ) -> Step {
        let mut next = self.vehicle.clone();
        for event in &events {
            next.apply(event);
        }
        let idempotency = idempotency.and_then(|(key, wanted)| {
            let answer = rows::json(&self.answer(&next, wanted)?)?;
            Some(Idempotency { key: key.key, body: key.body, answer })
        });
        let all = || self.unsaved.iter().chain(&events);
        let mut view = Touched::by(all()).rows(&next, |key| self.token(key));
        let has_state = self.is_state_due || self.events_since_state + events.len() >= EVENTS_PER_STATE;
        if has_state {
            let signals = rows::signal_rows(&self.twin, None);
            let state = StateRow { after: self.last, vehicle: next.clone(), signals };
            view.extend(rows::row(Table::VehicleStates, self.id.to_string(), &state));
        }
        let append = Append {
            stream: stream(&self.id),
            expected: Expected::Last(self.last),
            fence: Some((self.id.clone(), self.epoch)),
            at: self.now(),
            by,
            idempotency,
            events: all().filter_map(rows::json).collect(),
            view,
        };
        let appending = self.shared.store.append(append);
        Step { next, events, unsaved: self.unsaved.len(), has_state, appending }
    }

    /// Runs a staged step with the mailbox at rest, then `then` with what came of it.
    pub(super) fn commit(
        &mut self,
        step: Step,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, &mut Context<Self>, Result<(), AppendError>) + 'static,
    ) {
        let Step { next, events, unsaved, has_state, appending } = step;
        let done = appending.into_actor(self).map(move |outcome, actor, ctx| {
            let outcome = outcome.map(|position| {
                actor.last = position;
                actor.vehicle = next;
                actor.unsaved.drain(..unsaved);
                actor.events_since_state += events.len();
                if has_state {
                    actor.events_since_state = 0;
                    actor.is_state_due = false;
                    actor.state_saved_at = Some(actor.now());
                }
                actor.after_apply(&events);
            });
            if let Err(error) = &outcome {
                actor.after_failure(error, ctx);
            }
            then(actor, ctx, outcome);
        });
        ctx.wait(done);
    }

    fn after_failure(&mut self, error: &AppendError, ctx: &mut Context<Self>) {
        self.shared.metrics.failed_appends.fetch_add(1, Ordering::Relaxed);
        match error {
            // Our picture of the stream is wrong or may be: start over from the store.
            AppendError::Conflict { .. } | AppendError::Fenced | AppendError::Unknown(_) => {
                tracing::warn!(vehicle = %self.id, %error, "vehicle starts over from the store");
                ctx.stop();
            }
            AppendError::Duplicate { .. }
            | AppendError::KeyReused
            | AppendError::Full(_)
            | AppendError::TooLarge { .. } => {}
        }
    }

    /// Decides and applies at once, stores within a second: for the progress of commands, which a resend repairs.
    pub(super) fn lazily(&mut self, request: Request, ctx: &mut Context<Self>) {
        match self.decide(request) {
            Ok(events) if events.is_empty() => {}
            Ok(events) => {
                for event in &events {
                    self.vehicle.apply(event);
                }
                self.after_apply(&events);
                self.events_since_state += events.len();
                self.unsaved.extend(events);
                if self.unsaved.len() > MAX_UNSAVED {
                    tracing::warn!(vehicle = %self.id, "too much is unsaved; vehicle starts over from the store");
                    ctx.stop();
                }
                self.sweep_in(LAZY_MS);
            }
            Err(refusal) => tracing::debug!(vehicle = %self.id, %refusal, "nothing to note"),
        }
    }

    /// Decides and stores before anybody hears of it, for what the car or time brings; `then` runs when it is durable
    /// or when there was nothing to store.
    pub(super) fn durably(
        &mut self,
        request: Request,
        by: Principal,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) {
        self.try_durably(request, by, ctx, |actor, ctx, outcome| match outcome {
            Ok(()) => then(actor, ctx),
            // Due again in a second: the disk may have room then.
            Err(_) => actor.sweep_in(LAZY_MS),
        });
    }

    /// As [`Self::durably`], for who goes on also when it was not stored. True = a step is under way.
    pub(super) fn try_durably(
        &mut self,
        request: Request,
        by: Principal,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, &mut Context<Self>, Result<(), AppendError>) + 'static,
    ) -> bool {
        match self.decide(request) {
            Ok(events) if events.is_empty() => then(self, ctx, Ok(())),
            Ok(events) => {
                let step = self.stage(events, by, None);
                self.commit(step, ctx, then);
                return true;
            }
            Err(refusal) => tracing::debug!(vehicle = %self.id, %refusal, "refused what the car or time brought"),
        }
        false
    }

    /// Stores what was applied already; the mailbox need not wait for it to be decided, only for its order.
    pub(super) fn save_lazily(&mut self, ctx: &mut Context<Self>) {
        let is_state_time =
            self.is_state_due && self.state_saved_at.is_none_or(|saved| self.now() >= saved.plus_ms(STATE_INTERVAL_MS));
        if self.unsaved.is_empty() && !is_state_time {
            self.schedule_due();
            return;
        }
        if self.vehicle.registered.is_none() {
            return;
        }
        let step = self.stage(Vec::new(), self.by_car(), None);
        self.commit(step, ctx, |actor, _, outcome| match outcome {
            Ok(()) => actor.schedule_due(),
            Err(_) => actor.sweep_in(LAZY_MS),
        });
    }
}
