//! A record with its twin and its time, for the tests of the decisions.

use uuid::Uuid;

use super::*;
use crate::domain::Role;
use crate::domain::command::{Ack, AckStatus, Fact, KeyOutcome};
use crate::domain::key::HolderKey;
use crate::domain::rental::Lending;
use crate::domain::twin::{Report, SignalValue, path};

pub const START: Timestamp = Timestamp(1_700_000_000_000);
pub const HOUR_MS: i64 = 3_600_000;

/// A record with its twin and its time, as an actor would hold them.
pub struct Bench {
    pub vehicle: Vehicle,
    pub twin: Twin,
    pub now: Timestamp,
    pub rules: Rules,
    pub ids: std::cell::Cell<u128>,
    pub epoch: u64,
    pub seq: u64,
}

pub fn operator() -> Principal {
    Principal::new(Role::Operator, "ops")
}

pub fn renter(name: &str) -> Principal {
    Principal::new(Role::Renter, name)
}

impl Bench {
    pub fn new() -> Self {
        let mut bench = Self {
            vehicle: Vehicle::new("CAR-1".parse().expect("id")),
            twin: Twin::new(START),
            now: START,
            rules: Rules {
                profiles: Profile::built_in(),
                max_key_ms: 48 * HOUR_MS,
                lock_ttl_ms: 300_000,
                command_ttl_ms: HOUR_MS,
                max_ttl_ms: 24 * HOUR_MS,
            },
            ids: std::cell::Cell::new(0),
            epoch: 0,
            seq: 0,
        };
        bench.ask(Request::Register { details: Details::default(), by: operator() }).expect("registers");
        bench
    }

    pub fn new_id(&self) -> Uuid {
        self.ids.set(self.ids.get() + 1);
        Uuid::from_u128(self.ids.get())
    }

    /// Decides, applies, and checks that the events alone rebuild the record, also after a trip through JSON.
    pub fn ask(&mut self, request: Request) -> Result<Vec<Event>, Refusal> {
        let new_id = || self.new_id();
        let context = Context { now: self.now, twin: &self.twin, rules: &self.rules, new_id: &new_id };
        let events = self.vehicle.decide(&context, request)?;
        let text = serde_json::to_string(&events).expect("events serialise");
        let read: Vec<Event> = serde_json::from_str(&text).expect("events are read back");
        assert_eq!(read, events, "an event changed on its way through the journal");
        for event in &events {
            self.vehicle.apply(event);
        }
        Ok(events)
    }

    pub fn connect(&mut self) {
        self.epoch += 1;
        self.twin.connected(self.now, self.epoch);
        self.ask(Request::LinkUp).expect("link up");
    }

    pub fn disconnect(&mut self) {
        self.twin.disconnected(self.now, self.epoch);
        self.ask(Request::LinkDown).expect("link down");
    }

    pub fn report(&mut self, signals: &[(&str, SignalValue)]) {
        self.seq += 1;
        let signals = signals.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        self.twin.observe(self.now, Report { boot: 1, seq: self.seq, at: self.now, signals });
        self.ask(Request::Review).expect("review");
    }

    pub fn drives(&mut self, is_driving: bool) {
        let (speed, state) = if is_driving { (50.0, "ON") } else { (0.0, "OFF") };
        self.report(&[
            (path::SPEED_KMH, SignalValue::Number(speed)),
            (path::LOW_VOLTAGE, SignalValue::Text(state.into())),
        ]);
    }

    pub fn order(&mut self, order: Order) -> Result<CommandId, Refusal> {
        let command_id = CommandId(self.new_id());
        self.ask(Request::Order { command_id, order, ttl_ms: None, by: operator() })?;
        Ok(command_id)
    }

    /// What an actor does: everything in the outbox goes to the car.
    pub fn send_all(&mut self) -> Vec<CommandId> {
        let ids: Vec<CommandId> = self.vehicle.outbox(&self.twin).iter().map(|command| command.command_id).collect();
        for command_id in ids.clone() {
            self.ask(Request::Sent { command_ids: vec![command_id] }).expect("sent");
        }
        ids
    }

    pub fn ack(&mut self, command_id: CommandId, status: AckStatus) {
        self.ask(Request::Ack(Ack { command_id, at: self.now, status, reason: None })).expect("ack");
    }

    pub fn state(&self, id: CommandId) -> CommandState {
        self.vehicle.command(id).expect("is kept").state
    }

    pub fn pass(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
    }

    pub fn request(&mut self, who: &str, profile: &str, from_ms: i64, until_ms: i64) -> Result<RequestId, Refusal> {
        let request_id = RequestId(self.new_id());
        self.ask(Request::Use {
            request_id,
            renter: who.into(),
            profile: profile.into(),
            from: self.now.plus_ms(from_ms),
            until: self.now.plus_ms(until_ms),
            holder_key: HolderKey::Ed25519 { x: [7; 32] },
        })?;
        Ok(request_id)
    }

    pub fn lend(&mut self, lending: Lending) {
        let details = Details { lending: Some(lending), ..Details::default() };
        self.ask(Request::Change { details }).expect("terms");
    }

    /// The car tells that the key opened something.
    pub fn key_used(&mut self, key_id: KeyId) {
        self.seq += 1;
        let kind = FactKind::KeyUsed {
            key_id,
            function: Some(Function::UnlockDoors),
            outcome: KeyOutcome::Permitted,
            delegated_key_id: None,
            reason: None,
        };
        self.ask(Request::Fact(Fact { boot: 2, seq: self.seq, at: self.now, kind })).expect("taken");
    }
}
