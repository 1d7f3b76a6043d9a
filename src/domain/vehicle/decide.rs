//! The decisions about one vehicle: what each request would change, or why it may not.

mod keys;
mod lending;

use super::{Context, Details, Event, Request, Vehicle};
use crate::domain::command::{Ack, Command, CommandState, Fact, FactKind, KeyOutcome, Order};
use crate::domain::key::Profile;
use crate::domain::rental::{RequestState, UsageRequest};
use crate::domain::twin::path;
use crate::domain::{CommandId, Function, Principal, Refusal, RefusalKind, Role, Timestamp};

/// The shortest useful time to live of a command.
const MIN_TTL_MS: i64 = 1_000;

pub(super) fn decide(vehicle: &Vehicle, context: &Context<'_>, request: Request) -> Result<Vec<Event>, Refusal> {
    let mut draft = Draft { vehicle: vehicle.clone(), events: Vec::new(), context };
    if vehicle.registered.is_none() && !matches!(request, Request::Register { .. }) {
        return refuse(RefusalKind::NotFound, format!("there is no vehicle {}", vehicle.vehicle_id));
    }
    match request {
        Request::Register { details, by } => draft.register(details, by)?,
        Request::Change { details } => draft.change(details)?,
        Request::Order { command_id, order, ttl_ms, by } => draft.order(command_id, order, ttl_ms, by)?,
        Request::Cancel { command_id } => draft.cancel(command_id)?,
        Request::Use { request_id, renter, profile, from, until, holder_key } => {
            let requested_at = context.now;
            draft.request_usage(UsageRequest {
                request_id,
                state: RequestState::Requested,
                renter,
                profile,
                from,
                until,
                holder_key,
                requested_at,
                decided_at: None,
                rental_id: None,
                key_id: None,
            })?;
        }
        Request::Approve { request_id } => {
            let request = draft.open_request(request_id)?;
            draft.approve(&request)?;
        }
        Request::Decline { request_id } => {
            draft.open_request(request_id)?;
            draft.push(Event::UsageDecided { request_id, state: RequestState::Declined, at: context.now });
        }
        Request::EndRental { rental_id, by } => draft.end_rental(rental_id, &by)?,
        Request::CancelRental { rental_id } => draft.cancel_rental(rental_id)?,
        Request::Extend { rental_id, until, by } => draft.extend(rental_id, until, &by)?,
        Request::Revoke { key_id, effect } => {
            let key = draft.vehicle.key(key_id).cloned().ok_or_else(|| missing("key"))?;
            draft.revoke(&key, effect);
        }
        Request::Delegate { key_id, delegation } => draft.delegate(key_id, delegation)?,
        Request::RevokeDelegation { key_id, delegated_key_id, effect } => {
            draft.revoke_delegation(key_id, delegated_key_id, effect)?;
        }
        Request::Act { command_id, key_id, function, by } => draft.act(command_id, key_id, function, by)?,
        Request::Ack(ack) => draft.acknowledge(&ack),
        Request::Fact(fact) => draft.take_fact(fact),
        Request::Sent { command_ids } => command_ids.into_iter().for_each(|id| draft.sent(id)),
        Request::NotSent { command_ids } => draft.take_back(&command_ids),
        Request::Delivered { command_id } => {
            if draft.vehicle.command(command_id).is_some_and(|command| command.state == CommandState::Sent) {
                draft.move_to(command_id, CommandState::Delivered, None);
            }
        }
        Request::LinkUp | Request::LinkDown => draft.requeue(),
        Request::Review => draft.review(),
    }
    Ok(draft.events)
}

fn refuse<T>(kind: RefusalKind, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(kind, detail))
}

fn missing(what: &str) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("the vehicle has no such {what}"))
}

/// The record as it would be after the events so far, so that each step sees the one before it.
struct Draft<'a> {
    vehicle: Vehicle,
    events: Vec<Event>,
    context: &'a Context<'a>,
}

impl Draft<'_> {
    fn push(&mut self, event: Event) {
        self.vehicle.apply(&event);
        self.events.push(event);
    }

    fn move_to(&mut self, command_id: CommandId, state: CommandState, reason: Option<&str>) {
        let (at, reason) = (self.context.now, reason.map(str::to_owned));
        self.push(Event::CommandMoved { command_id, state, at, reason });
    }

    fn register(&mut self, details: Details, by: Principal) -> Result<(), Refusal> {
        if self.vehicle.registered.as_ref().is_some_and(|registered| registered.by.role != Role::Vehicle) {
            return refuse(RefusalKind::Conflict, format!("vehicle {} exists", self.vehicle.vehicle_id));
        }
        details.check(&self.context.rules.profiles)?;
        self.push(Event::VehicleRegistered { details, by, at: self.context.now });
        Ok(())
    }

    fn change(&mut self, change: Details) -> Result<(), Refusal> {
        let known = self.vehicle.details.clone();
        let details = Details {
            name: change.name.or(known.name),
            fuel_type: change.fuel_type.or(known.fuel_type),
            tank_litres: change.tank_litres.or(known.tank_litres),
            class: change.class.or(known.class),
            capabilities: change.capabilities.or(known.capabilities),
            lending: change.lending.or(known.lending),
        };
        details.check(&self.context.rules.profiles)?;
        if details != self.vehicle.details {
            self.push(Event::VehicleChanged { details });
        }
        Ok(())
    }

    fn order(&mut self, id: CommandId, order: Order, ttl_ms: Option<i64>, by: Principal) -> Result<(), Refusal> {
        if let Some(function) = order.needs()
            && !self.vehicle.capabilities().contains(function)
        {
            return refuse(RefusalKind::CapabilityMissing, format!("the vehicle has no {}", function.name()));
        }
        let rules = self.context.rules;
        let ttl_ms = ttl_ms.unwrap_or(match order {
            Order::Lock | Order::Unlock | Order::Locate => rules.lock_ttl_ms,
            Order::EnableFunction { .. }
            | Order::DisableFunction { .. }
            | Order::GrantKey { .. }
            | Order::RevokeKey { .. }
            | Order::ReportState => rules.command_ttl_ms,
        });
        if !(MIN_TTL_MS..=rules.max_ttl_ms).contains(&ttl_ms) {
            return refuse(RefusalKind::Invalid, format!("ttl_s: 1 to {}", rules.max_ttl_ms / 1000));
        }
        self.has_room()?;
        self.issue(id, order, self.context.now.plus_ms(ttl_ms), by);
        Ok(())
    }

    /// Whatever somebody asks for is refused while so much is open; what takes something away from a key never is.
    fn has_room(&self) -> Result<(), Refusal> {
        if self.vehicle.open_commands().count() >= Vehicle::MAX_OPEN_COMMANDS {
            return refuse(RefusalKind::VehicleBusy, format!("{} commands are open", Vehicle::MAX_OPEN_COMMANDS));
        }
        Ok(())
    }

    /// Enters a command that is known to be fit; it takes the place of what waits unsent on the same subject.
    fn issue(&mut self, command_id: CommandId, order: Order, expires_at: Timestamp, by: Principal) {
        let now = self.context.now;
        let superseded: Vec<CommandId> = self
            .vehicle
            .open_commands()
            .filter(|command| !command.was_sent && command.order.subject() == order.subject())
            .map(|command| command.command_id)
            .collect();
        for older in superseded {
            self.move_to(older, CommandState::Superseded, Some(&format!("by {command_id}")));
        }
        let mut command = Command::new(command_id, order, by, now, expires_at);
        let twin = self.context.twin;
        if !twin.is_online() {
            command.enter(CommandState::Queued, now, None);
        } else if command.order.endangers_a_moving_car() && !twin.is_safe_to_stop() {
            command.enter(CommandState::PendingSafe, now, Some(HELD.into()));
        }
        self.push(Event::CommandAccepted { command });
    }

    fn cancel(&mut self, id: CommandId) -> Result<(), Refusal> {
        let command = self.vehicle.command(id).ok_or_else(|| missing("open command"))?;
        if command.state == CommandState::Cancelled {
            return Ok(());
        }
        if command.state.is_final() {
            return refuse(RefusalKind::Conflict, format!("the command is {} already", command.state.name()));
        }
        if command.was_sent {
            return refuse(RefusalKind::Conflict, "the command was sent: the car may carry it out");
        }
        if matches!(command.order, Order::GrantKey { .. } | Order::RevokeKey { .. }) {
            // The car would go on opening for a key that everybody here believes is gone, or the other way round.
            return refuse(
                RefusalKind::Conflict,
                "what a car is told of its keys follows from rentals and revocations",
            );
        }
        self.move_to(id, CommandState::Cancelled, None);
        Ok(())
    }

    fn acknowledge(&mut self, ack: &Ack) {
        // Whoever answers was told, also where a crash took the note of it.
        if self.vehicle.command(ack.command_id).is_some_and(|known| !known.was_sent && !known.state.is_final()) {
            self.move_to(ack.command_id, CommandState::Sent, None);
        }
        let Some(command) = self.vehicle.command(ack.command_id).cloned() else { return };
        let Some(state) = command.after_ack(ack.status) else { return };
        self.move_to(ack.command_id, state, ack.reason.map(|reason| reason.name()));
        if let (Order::GrantKey { key }, CommandState::Succeeded) = (&command.order, state) {
            self.push(Event::KeyDelivered { key_id: key.key_id, at: self.context.now });
        }
        self.finish_endings();
    }

    fn take_fact(&mut self, fact: Fact) {
        if !self.vehicle.has_seen(fact.boot, fact.seq) {
            let kind = fact.kind.clone();
            self.push(Event::FactTaken { fact });
            match kind {
                FactKind::KeyUsed { key_id, outcome: KeyOutcome::Permitted, .. } => self.note_key_used(key_id),
                FactKind::Ignition { on: true } => self.note_driven(),
                _ => {}
            }
        }
    }

    fn sent(&mut self, id: CommandId) {
        let is_first = self.vehicle.command(id).is_some_and(Command::waits_to_be_sent);
        if is_first {
            self.move_to(id, CommandState::Sent, None);
        }
    }

    /// Noted as sent, and then found no room on the way to the car.
    fn take_back(&mut self, ids: &[CommandId]) {
        for id in ids {
            if self.vehicle.command(*id).is_some_and(|command| command.state == CommandState::Sent) {
                self.move_to(*id, CommandState::Queued, None);
            }
        }
    }

    /// A session ended or began: what the car has not acknowledged goes back to the outbox.
    fn requeue(&mut self) {
        // Accepted with the car online: it may have left in the moment before a crash, which is noted only afterwards.
        let may_have_left: Vec<CommandId> = self
            .vehicle
            .open_commands()
            .filter(|command| command.state == CommandState::Accepted)
            .map(|command| command.command_id)
            .collect();
        for id in may_have_left {
            self.move_to(id, CommandState::Sent, None);
        }
        let unanswered: Vec<CommandId> = self
            .vehicle
            .open_commands()
            .filter(|command| {
                matches!(command.state, CommandState::Sent | CommandState::Delivered | CommandState::Accepted)
            })
            .map(|command| command.command_id)
            .collect();
        for id in unanswered {
            self.move_to(id, CommandState::Queued, None);
        }
    }

    fn review(&mut self) {
        self.expire_commands();
        self.settle_unknown();
        self.hold_what_endangers();
        self.expire_requests();
        self.note_use();
        self.start_and_end_rentals();
        self.renew_leases();
        self.tell_of_late_returns();
        self.tell_of_fuel_that_fell();
        self.finish_endings();
    }

    fn expire_commands(&mut self) {
        let now = self.context.now;
        let due: Vec<(CommandId, CommandState)> = self
            .vehicle
            .open_commands()
            .filter(|command| command.expires_at <= now)
            .map(|command| (command.command_id, command.at_expiry()))
            .collect();
        for (id, state) in due {
            let reason = match state {
                CommandState::Unknown => "no answer from the car before it expired",
                _ => "expired before it could be sent",
            };
            self.move_to(id, state, Some(reason));
        }
    }

    /// A later state of the car may show what became of a command nobody answered for.
    fn settle_unknown(&mut self) {
        let settled: Vec<CommandId> = self
            .vehicle
            .commands
            .iter()
            .filter(|command| command.state == CommandState::Unknown && self.is_seen_done(command))
            .map(|command| command.command_id)
            .collect();
        for id in settled {
            self.move_to(id, CommandState::Succeeded, Some("observed in the car's reported state"));
        }
    }

    fn is_seen_done(&self, command: &Command) -> bool {
        let (name, wanted) = match command.order {
            Order::Lock => (path::DRIVER_DOOR_LOCKED, true),
            Order::Unlock => (path::DRIVER_DOOR_LOCKED, false),
            Order::EnableFunction { function: Function::Drive } => (path::DRIVE_ENABLED, true),
            Order::DisableFunction { function: Function::Drive } => (path::DRIVE_ENABLED, false),
            Order::Locate
            | Order::EnableFunction { .. }
            | Order::DisableFunction { .. }
            | Order::GrantKey { .. }
            | Order::RevokeKey { .. }
            | Order::ReportState => return false,
        };
        // A newer order on the same subject owns the state that is seen now.
        let is_newest = self
            .vehicle
            .commands
            .iter()
            .rfind(|other| other.order.subject() == command.order.subject())
            .is_some_and(|newest| newest.command_id == command.command_id);
        let sent_at = command.history.iter().find(|passage| passage.state == CommandState::Sent).map(|sent| sent.at);
        let signal = self.context.twin.signal(name);
        is_newest
            && signal
                .zip(sent_at)
                .is_some_and(|(signal, sent_at)| signal.at > sent_at && signal.value.as_bool() == Some(wanted))
    }

    fn hold_what_endangers(&mut self) {
        let twin = self.context.twin;
        if !twin.is_online() || twin.is_safe_to_stop() {
            return;
        }
        let held: Vec<CommandId> = self
            .vehicle
            .open_commands()
            .filter(|command| command.order.endangers_a_moving_car() && !command.was_sent)
            .filter(|command| command.state != CommandState::PendingSafe)
            .map(|command| command.command_id)
            .collect();
        for id in held {
            self.move_to(id, CommandState::PendingSafe, Some(HELD));
        }
    }
}

/// Why a command is held back in the gateway.
const HELD: &str = "waits until the car stands still with ignition off";

impl Details {
    const MAX_TEXT_LEN: usize = 100;
    const TANK_LITRES: std::ops::RangeInclusive<f64> = 1.0..=2_000.0;

    fn check(&self, profiles: &[Profile]) -> Result<(), Refusal> {
        let invalid = |detail: &str| refuse(RefusalKind::Invalid, detail);
        let is_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > Self::MAX_TEXT_LEN);
        if is_long(&self.name) {
            return invalid("name: at most 100 bytes");
        }
        if is_long(&self.fuel_type) {
            return invalid("fuel_type: at most 100 bytes");
        }
        if is_long(&self.class) {
            return invalid("class: at most 100 bytes");
        }
        if self.tank_litres.is_some_and(|litres| !Self::TANK_LITRES.contains(&litres)) {
            return invalid("tank_litres: 1 to 2000");
        }
        match &self.lending {
            Some(lending) => lending.check(profiles),
            None => Ok(()),
        }
    }
}
