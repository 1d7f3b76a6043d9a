//! Random histories of one car's keys, over the gateway's own decisions and the unit's own state machine, with whatever
//! can happen between the two: messages late, twice, in another order or lost with the link, clocks that jump, a gateway
//! that is killed. No use outside of a key's time, scope or life is ever permitted by car or gateway, no two rentals
//! overlap, and every permitted use is in the record under its key.

use std::collections::{BTreeMap, BTreeSet};

use cardea::domain::command::{AckStatus, Fact, FactKind, KeyOutcome, Order, ToCar};
use cardea::domain::key::{Delegation, HolderKey, KeyGrant, Profile, RevocationEffect};
use cardea::domain::rental::Lending;
use cardea::domain::twin::Twin;
use cardea::domain::vehicle::{Context, Details, Event, Request, Rules, Vehicle};
use cardea::domain::{CommandId, Function, Functions, KeyId, Position, Principal, Refusal, RequestId, Role, Timestamp};
use cardea_simulator::proof::{DelegatedKey, Proven};
use cardea_simulator::unit::{Act, Input, Output, Unit, UnitSpec};
use cardea_simulator::world::World;
use proptest::prelude::*;
use uuid::Uuid;

const START: Timestamp = Timestamp(1_700_000_000_000);
const MINUTE_MS: i64 = 60_000;
const HOLDER: HolderKey = HolderKey::Ed25519 { x: [7; 32] };
const PLACE: Position = Position { latitude: 45.07, longitude: 7.68 };
/// What a car forgives its clock.
const CLOCK_SLACK_MS: i64 = 60_000;

#[derive(Debug, Clone)]
enum Move {
    Rent {
        profile: usize,
        from_min: i64,
        minutes: i64,
    },
    Extend {
        nth: usize,
        minutes: i64,
    },
    End(usize),
    Revoke {
        nth: usize,
        immediate: bool,
    },
    Delegate {
        nth: usize,
        permits: u64,
        minutes: i64,
    },
    RevokeDelegation(usize),
    ActRemotely {
        nth: usize,
        function: usize,
    },
    /// At the car; `delegated` = with what was made of the key.
    UseAtCar {
        nth: usize,
        function: usize,
        delegated: bool,
    },
    /// With a key the car was never told of, or another generation or holder.
    UseForged {
        nth: usize,
        kind: u8,
        function: usize,
    },
    LinkUp,
    /// What was under way is lost.
    LinkDown,
    /// Everything arrives, in order.
    Arrive,
    ToCar {
        nth: usize,
        twice: bool,
    },
    ToGateway {
        nth: usize,
        twice: bool,
    },
    Drive(bool),
    Pass(i64),
    CarClock(i64),
    /// The gateway is killed and comes back from its record.
    Crash,
}

fn moves() -> impl Strategy<Value = Move> {
    let nth = 0usize..4;
    // Mostly what is asked for at a door: entry and driving.
    let function = prop_oneof![4 => 0usize..5, 1 => 5..Function::ALL.len()];
    // Mostly `drive`, which is handed on and outlives a revocation until the car stands.
    let profile = prop_oneof![3 => Just(2usize), 1 => 0usize..5];
    prop_oneof![
        2 => (profile, -5i64..60, 10i64..120)
            .prop_map(|(profile, from_min, minutes)| Move::Rent { profile, from_min, minutes }),
        1 => (nth.clone(), 1i64..90).prop_map(|(nth, minutes)| Move::Extend { nth, minutes }),
        1 => nth.clone().prop_map(Move::End),
        1 => (nth.clone(), any::<bool>()).prop_map(|(nth, immediate)| Move::Revoke { nth, immediate }),
        1 => (nth.clone(), 0u64..8192, 1i64..90).prop_map(|(nth, permits, minutes)| Move::Delegate { nth, permits, minutes }),
        3 => nth.clone().prop_map(Move::RevokeDelegation),
        1 => (nth.clone(), function.clone()).prop_map(|(nth, function)| Move::ActRemotely { nth, function }),
        8 => (nth.clone(), function.clone(), any::<bool>())
            .prop_map(|(nth, function, delegated)| Move::UseAtCar { nth, function, delegated }),
        1 => (nth.clone(), 0u8..3, function).prop_map(|(nth, kind, function)| Move::UseForged { nth, kind, function }),
        3 => Just(Move::LinkUp),
        3 => Just(Move::Arrive),
        1 => Just(Move::LinkDown),
        5 => (nth.clone(), prop::bool::weighted(0.2)).prop_map(|(nth, twice)| Move::ToCar { nth, twice }),
        5 => (nth, prop::bool::weighted(0.2)).prop_map(|(nth, twice)| Move::ToGateway { nth, twice }),
        1 => any::<bool>().prop_map(Move::Drive),
        2 => (0i64..40 * MINUTE_MS).prop_map(Move::Pass),
        1 => (-90 * MINUTE_MS..90 * MINUTE_MS).prop_map(Move::CarClock),
        1 => Just(Move::Crash),
    ]
}

struct Scene {
    vehicle: Vehicle,
    twin: Twin,
    rules: Rules,
    now: Timestamp,
    /// Car's clock minus the true one.
    skew_ms: i64,
    unit: Unit,
    epoch: u64,
    ids: u128,
    lease_ms: Option<i64>,
    to_car: Vec<ToCar>,
    to_gateway: Vec<Output>,
    /// Everything the gateway ever recorded.
    record: Vec<Event>,
    /// What the car has really been told.
    told: Told,
    /// Uses the car permitted: `(key, function)` in order.
    permitted: Vec<(KeyId, Function)>,
}

#[derive(Default)]
struct Told {
    grants: BTreeMap<KeyId, Vec<KeyGrant>>,
    /// Ended for good, driving included.
    ended: BTreeSet<KeyId>,
    /// Entry has ended; driving may go on.
    no_entry: BTreeSet<KeyId>,
    latest: i64,
}

impl Scene {
    fn new(lease_minutes: Option<u64>) -> Self {
        let spec = UnitSpec {
            vehicle_id: "CAR-1".parse().expect("an id"),
            capabilities: Functions::ALL,
            firmware: "walk".into(),
            tank_litres: 50.0,
            telemetry_interval_ms: 1_000,
            execution_ms: 0,
        };
        let mut scene = Self {
            vehicle: Vehicle::new(spec.vehicle_id.clone()),
            twin: Twin::new(START),
            rules: Rules {
                profiles: Profile::built_in(),
                max_key_ms: 48 * 60 * MINUTE_MS,
                lock_ttl_ms: 300_000,
                command_ttl_ms: 60 * MINUTE_MS,
                max_ttl_ms: 24 * 60 * MINUTE_MS,
            },
            now: START,
            skew_ms: 0,
            unit: Unit::boot(START, spec, World::parked_at(START, PLACE, 50.0, 7)),
            epoch: 0,
            ids: 0,
            lease_ms: lease_minutes.map(|minutes| minutes as i64 * MINUTE_MS),
            to_car: Vec::new(),
            to_gateway: Vec::new(),
            record: Vec::new(),
            told: Told::default(),
            permitted: Vec::new(),
        };
        let details = Details { lending: Some(Lending { lease_minutes, ..Lending::default() }), ..Details::default() };
        scene.ask(Request::Register { details, by: operator() }).expect("registered");
        scene
    }

    fn new_id(&mut self) -> Uuid {
        self.ids += 1_000;
        Uuid::from_u128(self.ids)
    }

    fn ask(&mut self, request: Request) -> Result<Vec<Event>, Refusal> {
        let next = std::cell::Cell::new(self.ids);
        let new_id = || {
            next.set(next.get() + 1);
            Uuid::from_u128(next.get())
        };
        let context = Context { now: self.now, twin: &self.twin, rules: &self.rules, new_id: &new_id };
        let events = self.vehicle.decide(&context, request)?;
        self.ids = next.get();
        for event in &events {
            self.vehicle.apply(event);
        }
        self.record.extend(events.iter().cloned());
        // As the actor does after each step.
        self.flush();
        Ok(events)
    }

    fn flush(&mut self) {
        let waiting: Vec<CommandId> = self.vehicle.outbox(&self.twin).iter().map(|known| known.command_id).collect();
        if waiting.is_empty() {
            return;
        }
        for id in &waiting {
            let known = self.vehicle.command(*id).expect("in the outbox").clone();
            let (order, issued_at, expires_at) = (known.order, known.issued_at, known.expires_at);
            if let (Order::GrantKey { key }, Some(lease)) = (&order, self.lease_ms) {
                let most = issued_at.max(key.not_before).plus_ms(lease);
                assert!(key.not_after <= most, "the car is told of more than a lease: {key:?}");
            }
            self.to_car.push(ToCar::Command { command_id: *id, order, issued_at, expires_at });
        }
        let _ = self.ask(Request::Sent { command_ids: waiting });
    }

    fn car_now(&self) -> Timestamp {
        self.now.plus_ms(self.skew_ms)
    }

    fn car(&mut self, input: Input) {
        let at = self.car_now();
        self.told.latest = self.told.latest.max(at.0);
        let outputs = self.unit.handle(at, input);
        self.to_gateway.extend(outputs);
    }

    fn deliver_to_car(&mut self, message: ToCar) {
        if let ToCar::Command { order, issued_at, expires_at, .. } = &message {
            // The unit answers an expired one, and does nothing.
            let is_expired = self.car_now() >= *expires_at;
            match order {
                Order::GrantKey { key } if !is_expired => {
                    self.told.grants.entry(key.key_id).or_default().push(key.clone());
                }
                Order::RevokeKey { key_id, effect, .. } if !is_expired => {
                    self.told.no_entry.insert(*key_id);
                    if *effect == RevocationEffect::Immediate {
                        self.told.ended.insert(*key_id);
                    }
                }
                _ => {}
            }
            self.told.latest = self.told.latest.max(issued_at.0);
        }
        if let ToCar::EventAck { at: Some(written), .. } = &message {
            // Only what the gateway has just said may forgive a clock that had leapt ahead.
            let agree = (self.car_now().0 - written.0).abs() <= CLOCK_SLACK_MS;
            let latest = self.car_now().0.max(written.0);
            self.told.latest = if agree { latest } else { self.told.latest.max(latest) };
        }
        self.told.latest = self.told.latest.max(self.car_now().0);
        let at = self.car_now();
        let outputs = self.unit.handle(at, Input::FromGateway(message));
        self.to_gateway.extend(outputs);
    }

    fn deliver_to_gateway(&mut self, output: Output) {
        match output {
            Output::Telemetry(report) => {
                self.twin.observe(self.now, report);
                let _ = self.ask(Request::Review);
            }
            Output::Event(fact) => {
                let (boot, seq) = (fact.boot, fact.seq);
                if self.ask(Request::Fact(fact)).is_ok() && self.twin.is_online() {
                    self.to_car.push(ToCar::EventAck { boot, seq, at: Some(self.now) });
                }
            }
            Output::Ack(ack) => {
                let _ = self.ask(Request::Ack(ack));
            }
        }
    }

    fn link_up(&mut self) {
        if self.twin.is_online() {
            return;
        }
        self.epoch += 1;
        self.twin.connected(self.now, self.epoch);
        let _ = self.ask(Request::LinkUp);
        let _ = self.ask(Request::Review);
        self.car(Input::LinkUp);
    }

    fn link_down(&mut self) {
        self.to_car.clear();
        self.to_gateway.clear();
        self.twin.disconnected(self.now, self.epoch);
        let _ = self.ask(Request::LinkDown);
        self.car(Input::LinkDown);
    }

    fn key(&self, nth: usize) -> Option<cardea::domain::key::Key> {
        self.vehicle.keys.iter().rev().nth(nth).cloned()
    }

    fn use_at_car(&mut self, nth: usize, function: Function, delegated: bool) {
        let Some(key) = self.key(nth) else { return };
        let made = key.delegations.last().cloned().filter(|_| delegated);
        let proven = Proven {
            key_id: key.grant.key_id,
            holder_key: HOLDER,
            generation: key.grant.generation,
            delegated: made.as_ref().map(|made| DelegatedKey {
                key_id: made.key_id,
                permits: made.permits,
                not_before: made.not_before,
                not_after: made.not_after,
                geofence: None,
                max_speed_kmh: None,
            }),
        };
        let at = self.car_now();
        let latest = self.told.latest;
        let was_safe_since = self.unit.keyring().grant(key.grant.key_id).is_none();
        let (verdict, outputs) = self.unit.act(at, Act::UseProven(proven, function));
        self.to_gateway.extend(outputs);
        self.told.latest = latest.max(at.0);
        if verdict.is_err() {
            return;
        }
        self.permitted.push((key.grant.key_id, function));
        let grants = self.told.grants.get(&key.grant.key_id).cloned().unwrap_or_default();
        assert!(!was_safe_since, "the car has no such key: {key:?}");
        let grant = grants.iter().rev().find(|grant| grant.not_before <= at && at <= grant.not_after);
        let grant = grant.unwrap_or_else(|| panic!("permitted outside of its time: {grants:?} at {at}"));
        assert!(grant.permits.contains(function), "permitted outside of its scope: {function:?} {grant:?}");
        assert!(!self.told.ended.contains(&grant.key_id), "permitted after it was taken back");
        assert!(function == Function::Drive || !self.told.no_entry.contains(&grant.key_id), "entry after its end");
        assert!(at.0 >= latest - CLOCK_SLACK_MS, "permitted by a clock that was set back");
        if let Some(made) = made {
            assert!(made.permits.contains(function) && grant.max_delegation > 0, "more than was handed on: {made:?}");
            assert!(made.not_before <= at && at <= made.not_after, "outside of what was handed on: {made:?}");
            assert!(!self.told.no_entry.contains(&made.key_id), "the one that was handed on was taken back");
        }
    }

    fn use_forged(&mut self, nth: usize, kind: u8, function: Function) {
        let Some(key) = self.key(nth) else { return };
        let true_one =
            Proven { key_id: key.grant.key_id, holder_key: HOLDER, generation: key.grant.generation, delegated: None };
        let forged = match kind {
            0 => Proven { key_id: KeyId(Uuid::from_u128(u128::MAX)), ..true_one },
            1 => Proven { generation: key.grant.generation + 1, ..true_one },
            _ => Proven { holder_key: HolderKey::Ed25519 { x: [8; 32] }, ..true_one },
        };
        self.told.latest = self.told.latest.max(self.car_now().0);
        let (verdict, outputs) = self.unit.act(self.car_now(), Act::UseProven(forged, function));
        self.to_gateway.extend(outputs);
        assert!(verdict.is_err(), "a key of nobody's opened {function:?}");
    }

    fn act_remotely(&mut self, nth: usize, function: Function) {
        let Some(key) = self.key(nth) else { return };
        let command_id = CommandId(self.new_id());
        let by = Principal::new(Role::Renter, key.holder.clone());
        let key_id = key.grant.key_id;
        if self.ask(Request::Act { command_id, key_id, function, by }).is_ok() {
            assert!(key.grant.permits.contains(function), "the gateway let through what the key prohibits");
            assert!(key.revoked_at.is_none(), "the gateway let a revoked key through");
            assert!(key.grant.not_before <= self.now && self.now <= key.grant.not_after, "outside of its time");
        }
    }

    fn delegate(&mut self, nth: usize, permits: u64, minutes: i64) {
        let Some(key) = self.key(nth) else { return };
        let delegation = Delegation {
            key_id: KeyId(self.new_id()),
            holder: "bob".into(),
            permits: Functions::from_bits(permits).expect("thirteen bits").intersect(key.grant.permits),
            not_before: key.grant.not_before,
            not_after: key.grant.not_before.plus_ms(minutes * MINUTE_MS).min(key.grant.not_after),
            told_at: self.now,
            revoked_at: None,
        };
        let _ = self.ask(Request::Delegate { key_id: key.grant.key_id, delegation });
    }

    fn revoke_delegation(&mut self, nth: usize) {
        if let Some((key, made)) = self.key(nth).and_then(|key| Some((key.clone(), key.delegations.last()?.clone()))) {
            let (key_id, delegated_key_id) = (key.grant.key_id, made.key_id);
            let effect = RevocationEffect::Immediate;
            let _ = self.ask(Request::RevokeDelegation { key_id, delegated_key_id, effect });
        }
    }

    fn crash(&mut self) {
        // What is durable is the record; the link is known again by its next session.
        let mut again = Vehicle::new(self.vehicle.vehicle_id.clone());
        self.record.iter().for_each(|event| again.apply(event));
        assert_eq!(again, self.vehicle, "the record does not give back what was promised");
        self.to_car.clear();
        self.to_gateway.clear();
        let epoch = self.epoch;
        self.twin = Twin::new(self.now);
        self.twin.connected(self.now, epoch + 1);
        self.twin.disconnected(self.now, epoch + 1);
        self.epoch = epoch + 1;
        let _ = self.ask(Request::LinkDown);
        self.car(Input::LinkDown);
    }

    fn step(&mut self, step: Move) {
        // A refusal is a fine outcome of any step.
        match step {
            Move::Rent { profile, from_min, minutes } => {
                let request_id = RequestId(self.new_id());
                let from = self.now.plus_ms(from_min * MINUTE_MS);
                let (until, profile) = (from.plus_ms(minutes * MINUTE_MS), Profile::built_in()[profile].name.clone());
                let wish = Request::Use { request_id, renter: "ann".into(), profile, from, until, holder_key: HOLDER };
                let _ = self.ask(wish);
            }
            Move::Extend { nth, minutes } => {
                if let Some(rental) = self.vehicle.rentals.iter().rev().nth(nth).cloned() {
                    let (rental_id, until) = (rental.rental_id, rental.until.plus_ms(minutes * MINUTE_MS));
                    let _ = self.ask(Request::Extend { rental_id, until, by: operator() });
                }
            }
            Move::End(nth) => {
                if let Some(rental_id) = self.vehicle.rentals.iter().rev().nth(nth).map(|rental| rental.rental_id) {
                    let _ = self.ask(Request::EndRental { rental_id, by: operator() });
                }
            }
            Move::Revoke { nth, immediate } => {
                let effect = if immediate { RevocationEffect::Immediate } else { RevocationEffect::AtSafeState };
                if let Some(key) = self.key(nth) {
                    let _ = self.ask(Request::Revoke { key_id: key.grant.key_id, effect });
                }
            }
            Move::Delegate { nth, permits, minutes } => self.delegate(nth, permits, minutes),
            Move::RevokeDelegation(nth) => self.revoke_delegation(nth),
            Move::ActRemotely { nth, function } => self.act_remotely(nth, Function::ALL[function]),
            Move::UseAtCar { nth, function, delegated } => self.use_at_car(nth, Function::ALL[function], delegated),
            Move::UseForged { nth, kind, function } => self.use_forged(nth, kind, Function::ALL[function]),
            Move::LinkUp => self.link_up(),
            Move::LinkDown => self.link_down(),
            Move::Arrive => self.arrive(),
            Move::ToCar { nth, twice } => {
                if !self.to_car.is_empty() {
                    let message = self.to_car.remove(nth % self.to_car.len());
                    if twice {
                        self.deliver_to_car(message.clone());
                    }
                    self.deliver_to_car(message);
                }
            }
            Move::ToGateway { nth, twice } => {
                if !self.to_gateway.is_empty() {
                    let message = self.to_gateway.remove(nth % self.to_gateway.len());
                    if twice {
                        self.deliver_to_gateway(message.clone());
                    }
                    self.deliver_to_gateway(message);
                }
            }
            Move::Drive(is_driving) => {
                self.told.latest = self.told.latest.max(self.car_now().0);
                let (_, outputs) = self.unit.act(self.car_now(), Act::Drive(is_driving));
                self.to_gateway.extend(outputs);
                if !is_driving {
                    let (_, outputs) = self.unit.act(self.car_now(), Act::Ignition(false));
                    self.to_gateway.extend(outputs);
                }
            }
            Move::Pass(ms) => {
                self.now = self.now.plus_ms(ms);
                self.car(Input::Tick);
                let _ = self.ask(Request::Review);
            }
            Move::CarClock(ms) => self.skew_ms += ms,
            Move::Crash => self.crash(),
        }
        let open: Vec<_> = self.vehicle.rentals.iter().filter(|rental| rental.state.is_open()).collect();
        for (index, rental) in open.iter().enumerate() {
            let is_alone = open[index + 1..].iter().all(|other| !rental.overlaps(other.from, other.until));
            assert!(is_alone, "two rentals overlap: {open:?}");
        }
    }

    /// Lets both sides say what they have to say.
    fn settle(&mut self) {
        self.link_down();
        self.link_up();
        for _ in 0..200 {
            if self.to_gateway.is_empty() && self.to_car.is_empty() {
                return;
            }
            self.arrive();
        }
    }

    fn arrive(&mut self) {
        for message in std::mem::take(&mut self.to_gateway) {
            self.deliver_to_gateway(message);
        }
        for message in std::mem::take(&mut self.to_car) {
            self.deliver_to_car(message);
        }
    }

    fn recorded_uses(&self) -> Vec<(KeyId, Function)> {
        let mut facts: Vec<&Fact> = Vec::new();
        for event in &self.record {
            if let Event::FactTaken { fact } = event {
                facts.push(fact);
            }
        }
        facts.sort_by_key(|fact| (fact.boot, fact.seq));
        let uses = facts.iter().filter_map(|fact| match fact.kind {
            FactKind::KeyUsed { key_id, function, outcome: KeyOutcome::Permitted, .. } => Some((key_id, function?)),
            _ => None,
        });
        uses.collect()
    }
}

fn operator() -> Principal {
    Principal::new(Role::Operator, "ops")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_history_permits_a_use_that_no_key_covers_or_forgets_one_that_was_permitted(
        walk in prop::collection::vec(moves(), 1..160),
        lease in prop::option::of(2u64..60),
    ) {
        let mut scene = Scene::new(lease);
        scene.link_up();
        for step in walk {
            scene.step(step);
        }
        scene.settle();
        prop_assert_eq!(scene.recorded_uses(), scene.permitted.clone());
    }
}

/// The walk would hold for a car that permits nothing: here is one that does.
#[test]
fn the_walk_can_see_a_permitted_use() {
    let mut scene = Scene::new(None);
    scene.link_up();
    scene.step(Move::Rent { profile: 2, from_min: 0, minutes: 60 });
    while !scene.to_car.is_empty() {
        scene.step(Move::ToCar { nth: 0, twice: true });
    }
    scene.step(Move::Delegate { nth: 0, permits: 1, minutes: 30 });
    scene.step(Move::UseAtCar { nth: 0, function: 0, delegated: true });
    scene.step(Move::UseAtCar { nth: 0, function: 1, delegated: true });
    scene.step(Move::UseAtCar { nth: 0, function: 4, delegated: false });
    scene.settle();
    let uses: Vec<Function> = scene.recorded_uses().into_iter().map(|(_, function)| function).collect();
    assert_eq!(uses, [Function::UnlockDoors, Function::Drive]);
    let answered = scene.vehicle.commands.iter().filter(|known| known.state.name() == "succeeded").count();
    assert!(answered > 0, "{:?}", AckStatus::Succeeded);
}
