//! The telematics unit: what a car does with commands, keys and time. A state machine of (now, input) -> outputs.
//!
//! Used by `car`, which carries its outputs over MQTT, and by tests that need no network. It holds no socket, reads no
//! clock and never blocks; everything it knows is lost when it is dropped, as when the unit loses power.

use std::collections::VecDeque;

use cardea::domain::command::{Ack, AckReason, AckStatus, Fact, FactKind, KeyOutcome, Order, ToCar};
use cardea::domain::twin::{Report, SignalPath, SignalValue, path};
use cardea::domain::{CommandId, Function, Functions, KeyId, Position, Timestamp, VehicleId};

use crate::command_memory::{CommandMemory, is_final};
use crate::fact_queue::{FactQueue, REFUSED_PHONE};
use crate::keyring::{KeyDenial, Keyring, NotTaken};
use crate::proof::Proven;
use crate::world::{Change, Door, Driver, Habits, World};

/// Orders that wait for a safe state or for the actuator; one more is answered `failed`.
const MAX_DEFERRED: usize = 64;
/// Refused uses that are told, in so much time.
const MAX_REFUSALS: usize = 30;
const REFUSALS_MS: i64 = 60_000;
/// And so many that wait for a link.
const MAX_REFUSALS_WAITING: usize = 64;
/// Kept for whoever looks at the car, newest last.
const MAX_LOG: usize = 512;
/// After a reconnect the newest outcomes are told again, since a lost link may have swallowed them.
const RETOLD_OUTCOMES: usize = 32;
const RETELL_WITHIN_MS: i64 = 15 * 60_000;

#[derive(Debug, Clone)]
pub struct UnitSpec {
    pub vehicle_id: VehicleId,
    pub capabilities: Functions,
    pub firmware: String,
    pub tank_litres: f64,
    pub telemetry_interval_ms: i64,
    /// How long an actuator takes; 0 = the answer is `succeeded` at once, else `executing` first.
    pub execution_ms: i64,
}

/// What happens to a unit.
#[derive(Debug, Clone)]
pub enum Input {
    LinkUp,
    LinkDown,
    FromGateway(ToCar),
    /// A payload the unit does not understand; the command it names, when that much could be read.
    Unreadable(Option<CommandId>),
    Tick,
    Act(Act),
}

/// What people do with the car.
#[derive(Debug, Clone)]
pub enum Act {
    /// Ignition on and off along the route; false stops it at once, with ignition on.
    Drive(bool),
    /// False parks the car at once: standing, ignition off.
    Ignition(bool),
    MoveTo(Position),
    Refuel {
        litres: f64,
    },
    SetFuelPercent(f64),
    Door(Door, bool),
    FuelCard(bool),
    Habits(Option<Habits>),
    UseKey(KeyId, Function),
    /// A phone at the car has proven that the key is its own.
    UseProven(Proven, Function),
    /// A phone at the car was not believed; what it claimed to be, as far as it said.
    PhoneRefused {
        key_id: Option<KeyId>,
        function: Option<Function>,
        reason: &'static str,
    },
    Tamper(String),
    ReportNow,
}

/// Why an act had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActDenial {
    Key(KeyDenial),
    /// The immobiliser is set.
    DriveDisabled,
}

impl std::fmt::Display for ActDenial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(denial) => f.write_str(denial.reason()),
            Self::DriveDisabled => f.write_str("drive is disabled"),
        }
    }
}

/// What a unit has to say to the gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Telemetry(Report),
    Event(Fact),
    Ack(Ack),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnitCounters {
    pub received: u64,
    pub repeated: u64,
    pub unreadable: u64,
    pub telemetry: u64,
    pub acks: u64,
    /// Refusals at the door beyond what is told.
    pub refusals_untold: u64,
}

#[derive(Debug, Clone)]
struct Deferred {
    command_id: CommandId,
    order: Order,
    until: Until,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Until {
    Safe,
    At(Timestamp),
}

#[derive(Debug, Clone)]
pub struct Unit {
    spec: UnitSpec,
    world: World,
    keyring: Keyring,
    commands: CommandMemory,
    facts: FactQueue,
    deferred: Vec<Deferred>,
    disabled: Functions,
    is_linked: bool,
    telemetry_seq: u64,
    next_report_at: Timestamp,
    locates: u32,
    /// When somebody was refused, of the last minute.
    refusals: Vec<Timestamp>,
    acks: VecDeque<Ack>,
    events: VecDeque<FactKind>,
    counters: UnitCounters,
    outbox: Vec<Output>,
}

impl Unit {
    /// A unit that was just powered: its first fact is `boot`. `now` also numbers the start.
    pub fn boot(now: Timestamp, spec: UnitSpec, world: World) -> Self {
        let boot = u64::try_from(now.0).unwrap_or(0);
        let mut unit = Self {
            facts: FactQueue::new(boot),
            world,
            keyring: Keyring::default(),
            commands: CommandMemory::default(),
            deferred: Vec::new(),
            disabled: Functions::NONE,
            is_linked: false,
            telemetry_seq: 0,
            next_report_at: now,
            locates: 0,
            refusals: Vec::new(),
            acks: VecDeque::new(),
            events: VecDeque::new(),
            counters: UnitCounters::default(),
            outbox: Vec::new(),
            spec,
        };
        let kind = FactKind::Boot {
            firmware: unit.spec.firmware.clone(),
            capabilities: unit.spec.capabilities.iter().collect(),
            tank_litres: Some(unit.spec.tank_litres),
        };
        unit.note(now, kind);
        unit
    }

    /// Takes one input and returns what is to be sent, in order. Nothing is to be sent while the link is down.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Vec<Output> {
        self.keyring.note_time(now);
        match input {
            Input::LinkUp => self.link_up(now),
            Input::LinkDown => self.is_linked = false,
            Input::FromGateway(ToCar::EventAck { boot, seq, at }) => {
                if let Some(at) = at {
                    self.keyring.note_gateway_time(now, at);
                }
                self.facts.acknowledge(boot, seq);
            }
            Input::FromGateway(ToCar::Command { command_id, order, issued_at, expires_at }) => {
                // It may have waited: it is that late at least, and proves no more.
                self.keyring.note_time(issued_at);
                self.receive(now, command_id, &order, expires_at);
            }
            Input::Unreadable(command_id) => self.refuse_unreadable(now, command_id),
            Input::Tick => self.tick(now),
            Input::Act(act) => drop(self.act_inner(now, act)),
        }
        self.flush(now)
    }

    /// Like `handle` for an act, and says whether it had an effect.
    pub fn act(&mut self, now: Timestamp, act: Act) -> (Result<(), ActDenial>, Vec<Output>) {
        self.keyring.note_time(now);
        let result = self.act_inner(now, act);
        (result, self.flush(now))
    }

    fn link_up(&mut self, now: Timestamp) {
        self.is_linked = true;
        self.facts.forget_sending();
        self.next_report_at = now;
        for ack in self.commands.outcomes_since(now.plus_ms(-RETELL_WITHIN_MS), RETOLD_OUTCOMES) {
            self.outbox.push(Output::Ack(ack));
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let may_drive = self.may_drive();
        for change in self.world.step(now, may_drive) {
            self.note_change(now, change);
        }
    }

    fn may_drive(&self) -> bool {
        !self.disabled.contains(Function::Drive)
    }

    fn act_inner(&mut self, now: Timestamp, act: Act) -> Result<(), ActDenial> {
        self.tick(now);
        let change = match act {
            Act::Drive(true) if !self.may_drive() && !self.world.is_ignition_on() => {
                return Err(ActDenial::DriveDisabled);
            }
            Act::Drive(true) => self.world.drive(),
            Act::Drive(false) => self.world.stop(),
            Act::Ignition(true) => self.world.wait(),
            Act::Ignition(false) => self.world.park(),
            Act::MoveTo(position) => {
                self.world.move_to(position);
                None
            }
            Act::Refuel { litres } => Some(self.world.refuel(litres)),
            Act::SetFuelPercent(percent) => {
                self.world.set_fuel_percent(percent);
                None
            }
            Act::Door(door, open) => self.world.set_door(door, open),
            Act::FuelCard(present) => self.world.set_fuel_card(present),
            Act::Habits(habits) => {
                self.world.set_habits(now, habits);
                return Ok(());
            }
            Act::UseKey(key_id, function) => return self.use_key(now, key_id, function).map_err(ActDenial::Key),
            Act::UseProven(proven, function) => {
                return self.use_proven(now, &proven, function).map_err(ActDenial::Key);
            }
            Act::PhoneRefused { key_id, function, reason } => {
                self.note_refusal(now, key_id, function, None, reason);
                // Nothing about the car has changed, and nobody at the door shall make it talk.
                return Ok(());
            }
            Act::Tamper(what) => {
                self.note(now, FactKind::Tamper { what });
                None
            }
            Act::ReportNow => None,
        };
        if let Some(change) = change {
            self.note_change(now, change);
        }
        // What people did is told at once, not at the next interval.
        self.next_report_at = now;
        Ok(())
    }

    fn use_key(&mut self, now: Timestamp, key_id: KeyId, function: Function) -> Result<(), KeyDenial> {
        let verdict = self.keyring.permits(now, key_id, function, self.world.position());
        let limit = self.keyring.grant(key_id).and_then(|grant| grant.max_speed_kmh);
        self.use_if(now, key_id, None, function, verdict)?;
        self.limit_speed(function, limit);
        Ok(())
    }

    /// Whoever releases the immobiliser drives under their key's limit.
    fn limit_speed(&mut self, function: Function, max_speed_kmh: Option<u16>) {
        if function == Function::Drive {
            self.world.max_speed_kmh = max_speed_kmh.map(f64::from);
        }
    }

    fn use_proven(&mut self, now: Timestamp, proven: &Proven, function: Function) -> Result<(), KeyDenial> {
        let verdict = self.keyring.permits_proven(now, proven, function, self.world.position());
        let delegated_key_id = proven.delegated.as_ref().map(|delegated| delegated.key_id);
        let own = self.keyring.grant(proven.key_id).and_then(|grant| grant.max_speed_kmh);
        let limit = match &proven.delegated {
            Some(delegated) => [delegated.max_speed_kmh, own].into_iter().flatten().min(),
            None => own,
        };
        self.use_if(now, proven.key_id, delegated_key_id, function, verdict)?;
        self.limit_speed(function, limit);
        Ok(())
    }

    /// Whatever comes of it is a fact for the gateway, also when it could not be told at once.
    fn use_if(
        &mut self,
        now: Timestamp,
        key_id: KeyId,
        delegated_key_id: Option<KeyId>,
        function: Function,
        verdict: Result<(), KeyDenial>,
    ) -> Result<(), KeyDenial> {
        let verdict = verdict.and_then(|()| {
            if !self.spec.capabilities.contains(function) {
                Err(KeyDenial::Unsupported)
            } else if self.disabled.contains(function) {
                Err(KeyDenial::Disabled)
            } else {
                Ok(())
            }
        });
        match verdict {
            Ok(()) => {
                let (outcome, reason) = (KeyOutcome::Permitted, None);
                let function = Some(function);
                self.note(now, FactKind::KeyUsed { key_id, function, outcome, delegated_key_id, reason });
            }
            Err(denial) => self.note_refusal(now, Some(key_id), Some(function), delegated_key_id, denial.reason()),
        }
        if verdict.is_ok() {
            self.carry_out(now, function);
        }
        verdict
    }

    /// Somebody at the door can cause as many refusals as they like, and facts are kept until they are told: beyond
    /// [`MAX_REFUSALS`] a minute they are only counted.
    fn note_refusal(
        &mut self,
        now: Timestamp,
        key_id: Option<KeyId>,
        function: Option<Function>,
        delegated_key_id: Option<KeyId>,
        reason: &str,
    ) {
        self.refusals.retain(|at| (0..REFUSALS_MS).contains(&now.since_ms(*at)));
        if self.refusals.len() >= MAX_REFUSALS || self.facts.refusals() >= MAX_REFUSALS_WAITING {
            self.counters.refusals_untold += 1;
            return;
        }
        self.refusals.push(now);
        let kind = match key_id {
            Some(key_id) => FactKind::KeyUsed {
                key_id,
                function,
                outcome: KeyOutcome::Refused,
                delegated_key_id,
                reason: Some(reason.to_owned()),
            },
            // Not even a key was named.
            None => FactKind::Tamper { what: format!("{REFUSED_PHONE}: {reason}") },
        };
        self.note(now, kind);
    }

    /// What the car does when a key opens a function.
    fn carry_out(&mut self, now: Timestamp, function: Function) {
        let change = match function {
            Function::UnlockDoors => {
                self.world.is_locked = false;
                None
            }
            Function::LockDoors => {
                self.world.is_locked = true;
                None
            }
            Function::Drive => self.world.wait(),
            Function::OpenTrunk => self.world.set_door(Door::Trunk, true),
            Function::Locate => {
                self.locates += 1;
                None
            }
            Function::EnterCabin
            | Function::AccessoryPower
            | Function::Climate
            | Function::Infotainment
            | Function::Windows
            | Function::OpenGlovebox
            | Function::OpenFuelFlap
            | Function::OpenChargePort => None,
        };
        if let Some(change) = change {
            self.note_change(now, change);
        }
        self.next_report_at = now;
    }

    fn receive(&mut self, now: Timestamp, command_id: CommandId, order: &Order, expires_at: Timestamp) {
        self.counters.received += 1;
        if let Some(known) = self.commands.receive(command_id) {
            let first = known.outcome.clone();
            self.counters.repeated += 1;
            self.outbox.extend(first.map(Output::Ack));
            return;
        }
        if now > expires_at {
            return self.answer(now, command_id, AckStatus::Rejected, Some(AckReason::Expired));
        }
        if order.needs().is_some_and(|function| !self.spec.capabilities.contains(function)) {
            return self.answer(now, command_id, AckStatus::Rejected, Some(AckReason::Unsupported));
        }
        if self.deferred.len() >= MAX_DEFERRED {
            return self.answer(now, command_id, AckStatus::Failed, Some(AckReason::Hardware));
        }
        if self.spec.execution_ms > 0 && !self.must_wait_for(order) {
            self.answer(now, command_id, AckStatus::Executing, None);
            let until = Until::At(now.plus_ms(self.spec.execution_ms));
            self.deferred.push(Deferred { command_id, order: order.clone(), until });
        } else {
            self.execute(now, command_id, order);
        }
    }

    /// The car's own check of what the gateway checks too: nothing that would stop a car is done to one in use.
    fn must_wait_for(&self, order: &Order) -> bool {
        order.endangers_a_moving_car() && !self.world.is_safe_to_stop()
    }

    fn wait_for_safety(&mut self, now: Timestamp, command_id: CommandId, order: &Order) {
        let reason = if self.world.is_moving() { AckReason::Moving } else { AckReason::IgnitionOn };
        self.answer(now, command_id, AckStatus::PendingSafe, Some(reason));
        self.deferred.push(Deferred { command_id, order: order.clone(), until: Until::Safe });
    }

    fn refuse_unreadable(&mut self, now: Timestamp, command_id: Option<CommandId>) {
        self.counters.unreadable += 1;
        let Some(command_id) = command_id else { return };
        match self.commands.receive(command_id).map(|known| known.outcome.clone()) {
            Some(first) => self.outbox.extend(first.map(Output::Ack)),
            None => self.answer(now, command_id, AckStatus::Rejected, Some(AckReason::Unsupported)),
        }
    }

    fn execute(&mut self, now: Timestamp, command_id: CommandId, order: &Order) {
        if self.must_wait_for(order) {
            return self.wait_for_safety(now, command_id, order);
        }
        self.commands.count_execution(command_id);
        let outcome = match order {
            Order::Lock if self.world.has_open_door() => Err(AckReason::Hardware),
            Order::Lock => {
                self.world.is_locked = true;
                Ok(())
            }
            Order::Unlock => {
                self.world.is_locked = false;
                Ok(())
            }
            Order::Locate => {
                self.locates += 1;
                Ok(())
            }
            Order::EnableFunction { function } => {
                self.disabled = self.disabled.without(*function);
                // What waits to disable it is older than this order and must not undo it.
                self.withdraw_disabling(now, *function);
                Ok(())
            }
            Order::DisableFunction { function } => {
                self.disabled = self.disabled.with(*function);
                Ok(())
            }
            Order::GrantKey { key } => self.keyring.take(now, key.clone()).map_err(|why| match why {
                NotTaken::Revoked => AckReason::NotPermitted,
                NotTaken::Expired => AckReason::Expired,
                NotTaken::Full => AckReason::Hardware,
            }),
            Order::RevokeKey { key_id, generation, effect } => {
                let is_safe = self.world.is_safe_to_stop();
                if !self.keyring.revoke(now, *key_id, *generation, *effect, is_safe) {
                    return self.wait_for_safety(now, command_id, order);
                }
                Ok(())
            }
            Order::ReportState => Ok(()),
        };
        self.next_report_at = now;
        match outcome {
            Ok(()) => self.answer(now, command_id, AckStatus::Succeeded, None),
            Err(reason) => self.answer(now, command_id, AckStatus::Failed, Some(reason)),
        }
    }

    fn withdraw_disabling(&mut self, now: Timestamp, function: Function) {
        let is_moot = |deferred: &Deferred| deferred.order == Order::DisableFunction { function };
        let moot: Vec<CommandId> = self.deferred.iter().filter(|d| is_moot(d)).map(|d| d.command_id).collect();
        self.deferred.retain(|deferred| !is_moot(deferred));
        for command_id in moot {
            self.answer(now, command_id, AckStatus::Failed, Some(AckReason::NotPermitted));
        }
    }

    /// Performs what waited, once its moment has come.
    fn perform_deferred(&mut self, now: Timestamp) {
        let is_safe = self.world.is_safe_to_stop();
        if is_safe {
            self.keyring.settle_at_safe_state();
        }
        let is_due = |deferred: &Deferred| match deferred.until {
            Until::Safe => is_safe,
            Until::At(at) => now >= at,
        };
        while let Some(next) = self.deferred.iter().position(is_due) {
            let deferred = self.deferred.remove(next);
            match deferred.order {
                // Its entry half was executed when it came; the driving half ended just now.
                Order::RevokeKey { .. } if deferred.until == Until::Safe => {
                    self.answer(now, deferred.command_id, AckStatus::Succeeded, None);
                }
                order => self.execute(now, deferred.command_id, &order),
            }
        }
    }

    fn answer(&mut self, now: Timestamp, command_id: CommandId, status: AckStatus, reason: Option<AckReason>) {
        let ack = self.commands.settle(command_id, now, status, reason);
        push_bounded(&mut self.acks, ack.clone());
        self.outbox.push(Output::Ack(ack));
    }

    fn note_change(&mut self, now: Timestamp, change: Change) {
        let kind = match change {
            Change::Ignition(on) => {
                if !on {
                    // The next one to drive shows a key of their own.
                    self.world.max_speed_kmh = None;
                }
                FactKind::Ignition { on }
            }
            Change::Refuelled { before_percent, after_percent } => FactKind::Refuelled {
                level_before_percent: round(before_percent, 1),
                level_after_percent: round(after_percent, 1),
            },
            Change::Door(door, open) => FactKind::Door { name: door.name().into(), open },
            Change::FuelCard(present) => FactKind::FuelCard { present },
        };
        self.note(now, kind);
        self.next_report_at = now;
    }

    fn note(&mut self, now: Timestamp, kind: FactKind) {
        push_bounded(&mut self.events, kind.clone());
        self.facts.push(now, kind);
    }

    /// Facts first, since `boot` opens every session; then answers; then the newest state.
    fn flush(&mut self, now: Timestamp) -> Vec<Output> {
        self.perform_deferred(now);
        let said = std::mem::take(&mut self.outbox);
        if !self.is_linked {
            // Outcomes are remembered and told again when the link is back.
            return Vec::new();
        }
        let mut outputs: Vec<Output> = self.facts.due(now).into_iter().map(Output::Event).collect();
        self.counters.acks += said.len() as u64;
        outputs.extend(said);
        if now >= self.next_report_at {
            outputs.push(Output::Telemetry(self.report(now)));
            self.next_report_at = now.plus_ms(self.spec.telemetry_interval_ms);
        }
        outputs
    }

    fn report(&mut self, now: Timestamp) -> Report {
        self.telemetry_seq += 1;
        self.counters.telemetry += 1;
        let position = self.world.position();
        let number = |name: &str, value: f64| (SignalPath::from(name), SignalValue::Number(value));
        let flag = |name: &str, value: bool| (SignalPath::from(name), SignalValue::Bool(value));
        let ignition = if self.world.is_ignition_on() { "ON" } else { "OFF" };
        let signals = vec![
            number(path::LATITUDE, round(position.latitude, 6)),
            number(path::LONGITUDE, round(position.longitude, 6)),
            number(path::ACCURACY_M, 4.0),
            number(path::SPEED_KMH, round(self.world.speed_kmh(), 1)),
            (path::LOW_VOLTAGE.into(), SignalValue::Text(ignition.into())),
            number(path::FUEL_PERCENT, round(self.world.fuel_percent(), 1)),
            number(path::ODOMETER_KM, round(self.world.odometer_km(), 1)),
            flag(path::DRIVER_DOOR_LOCKED, self.world.is_locked),
            flag(path::DRIVE_ENABLED, self.may_drive()),
            number(path::KEY_GENERATION, f64::from(self.keyring.generation())),
            flag(path::FUEL_CARD_PRESENT, self.world.is_fuel_card_present),
        ];
        Report { boot: self.facts.boot(), seq: self.telemetry_seq, at: now, signals }
    }

    pub fn spec(&self) -> &UnitSpec {
        &self.spec
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub fn commands(&self) -> &CommandMemory {
        &self.commands
    }

    pub fn facts(&self) -> &FactQueue {
        &self.facts
    }

    pub fn counters(&self) -> UnitCounters {
        self.counters
    }

    pub fn is_linked(&self) -> bool {
        self.is_linked
    }

    pub fn is_drive_enabled(&self) -> bool {
        self.may_drive()
    }

    pub fn disabled(&self) -> Functions {
        self.disabled
    }

    pub fn locates(&self) -> u32 {
        self.locates
    }

    pub fn has_pending_work(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// The newest answers, oldest first.
    pub fn acks(&self) -> impl DoubleEndedIterator<Item = &Ack> {
        self.acks.iter()
    }

    /// The newest facts, oldest first, told or not.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &FactKind> {
        self.events.iter()
    }

    /// What the car last said of a command.
    pub fn outcome(&self, command_id: CommandId) -> Option<&Ack> {
        self.commands.get(command_id)?.outcome.as_ref()
    }

    pub fn has_finished(&self, command_id: CommandId) -> bool {
        self.outcome(command_id).is_some_and(|ack| is_final(ack.status))
    }

    /// Commands carried out more than once: must stay empty whatever the link does.
    pub fn executed_twice(&self) -> Vec<CommandId> {
        self.commands.iter().filter(|(_, known)| known.executions > 1).map(|(id, _)| id).collect()
    }

    pub fn is_driving(&self) -> bool {
        self.world.driver() == Driver::Driving
    }
}

fn push_bounded<T>(log: &mut VecDeque<T>, item: T) {
    if log.len() >= MAX_LOG {
        log.pop_front();
    }
    log.push_back(item);
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
