use cardea::domain::key::{HolderKey, KeyGrant, RevocationEffect};
use uuid::Uuid;

use super::*;
use crate::dice::Dice;

const TURIN: Position = Position { latitude: 45.07, longitude: 7.68 };
const START: Timestamp = Timestamp(1_700_000_000_000);

struct Bench {
    unit: Unit,
    now: Timestamp,
    next_id: u128,
}

impl Bench {
    fn linked() -> Self {
        let mut bench = Self::unlinked(UnitSpec {
            vehicle_id: "CAR-1".parse().unwrap(),
            capabilities: Functions::ALL.without(Function::OpenChargePort),
            firmware: "test".into(),
            tank_litres: 50.0,
            telemetry_interval_ms: 1_000,
            execution_ms: 0,
        });
        bench.input(Input::LinkUp);
        bench
    }

    fn unlinked(spec: UnitSpec) -> Self {
        let world = World::parked_at(START, TURIN, spec.tank_litres, 7);
        Self { unit: Unit::boot(START, spec, world), now: START, next_id: 0 }
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.unit.handle(self.now, input)
    }

    fn act(&mut self, act: Act) -> (Result<(), ActDenial>, Vec<Output>) {
        self.unit.act(self.now, act)
    }

    fn after_s(&mut self, seconds: i64) -> Vec<Output> {
        let mut outputs = Vec::new();
        for _ in 0..seconds {
            self.now = self.now.plus_ms(1000);
            outputs.extend(self.input(Input::Tick));
        }
        outputs
    }

    fn order(&mut self, order: Order) -> (CommandId, Vec<Output>) {
        self.next_id += 1;
        let id = CommandId(Uuid::from_u128(self.next_id));
        let outputs = self.send(id, order);
        (id, outputs)
    }

    fn send(&mut self, command_id: CommandId, order: Order) -> Vec<Output> {
        let expires_at = self.now.plus_ms(60_000);
        self.input(Input::FromGateway(ToCar::Command { command_id, order, issued_at: self.now, expires_at }))
    }
}

fn acks(outputs: &[Output]) -> Vec<(AckStatus, Option<AckReason>)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Ack(ack) => Some((ack.status, ack.reason)),
            Output::Telemetry(_) | Output::Event(_) => None,
        })
        .collect()
}

fn grant(permits: &[Function]) -> KeyGrant {
    KeyGrant {
        key_id: KeyId(Uuid::from_u128(77)),
        holder_key: HolderKey::Ed25519 { x: [1; 32] },
        permits: permits.to_vec().into(),
        not_before: START,
        not_after: START.plus_ms(3_600_000),
        generation: 1,
        geofence: None,
        max_delegation: 0,
        max_speed_kmh: None,
    }
}

const SUCCEEDED: (AckStatus, Option<AckReason>) = (AckStatus::Succeeded, None);

#[test]
fn boot_is_the_first_thing_said_after_a_start() {
    let mut bench = Bench::linked();
    bench.unit.facts.forget_sending();
    let outputs = bench.input(Input::LinkUp);
    let Some(Output::Event(first)) = outputs.first() else { panic!("{outputs:?}") };
    assert_eq!((first.seq, first.boot), (1, START.0 as u64));
    assert!(matches!(first.kind, FactKind::Boot { tank_litres: Some(50.0), .. }));
    assert!(matches!(outputs.last(), Some(Output::Telemetry(_))));
}

#[test]
fn a_repeated_command_is_answered_but_not_executed_again() {
    let mut bench = Bench::linked();
    let (id, first) = bench.order(Order::Locate);
    assert_eq!(acks(&first), [SUCCEEDED]);
    let again = bench.send(id, Order::Locate);
    assert_eq!(acks(&again), [SUCCEEDED]);
    assert_eq!((bench.unit.locates(), bench.unit.commands().executions(id)), (1, 1));
}

#[test]
fn an_expired_command_is_rejected_and_stays_so() {
    let mut bench = Bench::linked();
    let late = ToCar::Command {
        command_id: CommandId(Uuid::from_u128(9)),
        order: Order::Unlock,
        issued_at: START.plus_ms(-2),
        expires_at: START.plus_ms(-1),
    };
    let outputs = bench.input(Input::FromGateway(late));
    assert_eq!(acks(&outputs), [(AckStatus::Rejected, Some(AckReason::Expired))]);
    assert!(bench.unit.world().is_locked);
}

#[test]
fn a_function_the_car_lacks_is_rejected() {
    let mut bench = Bench::linked();
    let (_, outputs) = bench.order(Order::DisableFunction { function: Function::OpenChargePort });
    assert_eq!(acks(&outputs), [(AckStatus::Rejected, Some(AckReason::Unsupported))]);
}

#[test]
fn disabling_drive_waits_until_the_car_stands_still_with_ignition_off() {
    let mut bench = Bench::linked();
    bench.act(Act::Drive(true)).0.unwrap();
    let (id, outputs) = bench.order(Order::DisableFunction { function: Function::Drive });
    assert_eq!(acks(&outputs), [(AckStatus::PendingSafe, Some(AckReason::Moving))]);
    assert_eq!(acks(&bench.after_s(30)), []);
    assert!(bench.unit.is_drive_enabled() && bench.unit.world().is_moving(), "a moving car is never stopped");
    let (_, standing) = bench.act(Act::Drive(false));
    assert_eq!(acks(&standing), [], "standing with ignition on is not safe yet");
    let (_, parked) = bench.act(Act::Ignition(false));
    assert_eq!(acks(&parked), [SUCCEEDED]);
    assert!(!bench.unit.is_drive_enabled());
    assert_eq!(bench.act(Act::Drive(true)).0, Err(ActDenial::DriveDisabled));
    assert_eq!(bench.unit.commands().executions(id), 1);
}

#[test]
fn a_repeat_while_waiting_for_safety_is_told_that_it_waits() {
    let mut bench = Bench::linked();
    bench.act(Act::Drive(true)).0.unwrap();
    let order = Order::DisableFunction { function: Function::Drive };
    let (id, _) = bench.order(order.clone());
    let again = bench.send(id, order);
    assert_eq!(acks(&again), [(AckStatus::PendingSafe, Some(AckReason::Moving))]);
    let (_, parked) = bench.act(Act::Ignition(false));
    assert_eq!(acks(&parked), [SUCCEEDED]);
    assert_eq!(bench.unit.commands().executions(id), 1);
}

#[test]
fn enabling_takes_back_a_disabling_that_still_waits() {
    let mut bench = Bench::linked();
    bench.act(Act::Drive(true)).0.unwrap();
    bench.order(Order::DisableFunction { function: Function::Drive });
    let (_, outputs) = bench.order(Order::EnableFunction { function: Function::Drive });
    assert_eq!(acks(&outputs), [(AckStatus::Failed, Some(AckReason::NotPermitted)), SUCCEEDED]);
    bench.act(Act::Ignition(false)).0.unwrap();
    assert!(bench.unit.is_drive_enabled());
}

#[test]
fn a_lock_fails_while_a_door_is_open() {
    let mut bench = Bench::linked();
    bench.act(Act::Door(Door::RearLeft, true)).0.unwrap();
    let (_, outputs) = bench.order(Order::Lock);
    assert_eq!(acks(&outputs), [(AckStatus::Failed, Some(AckReason::Hardware))]);
}

#[test]
fn a_key_opens_what_it_lists_and_each_use_is_a_fact() {
    let mut bench = Bench::linked();
    let key = grant(&[Function::UnlockDoors]);
    assert_eq!(acks(&bench.order(Order::GrantKey { key: key.clone() }).1), [SUCCEEDED]);
    assert_eq!(bench.act(Act::UseKey(key.key_id, Function::UnlockDoors)).0, Ok(()));
    assert!(!bench.unit.world().is_locked);
    let refused = bench.act(Act::UseKey(key.key_id, Function::Drive)).0;
    assert!(matches!(refused, Err(ActDenial::Key(denial)) if denial.reason() == "not_permitted"));
    let uses: Vec<_> = bench.unit.events().filter(|kind| matches!(kind, FactKind::KeyUsed { .. })).collect();
    assert!(matches!(uses[0], FactKind::KeyUsed { outcome: KeyOutcome::Permitted, reason: None, .. }));
    assert!(matches!(uses[1], FactKind::KeyUsed { outcome: KeyOutcome::Refused, reason: Some(_), .. }));
}

#[test]
fn a_key_works_without_a_link_and_its_use_is_told_later() {
    let mut bench = Bench::linked();
    let key = grant(&[Function::UnlockDoors]);
    bench.order(Order::GrantKey { key: key.clone() });
    bench.input(Input::LinkDown);
    let (verdict, outputs) = bench.act(Act::UseKey(key.key_id, Function::UnlockDoors));
    assert_eq!((verdict, outputs), (Ok(()), Vec::new()));
    bench.after_s(120);
    let back = bench.input(Input::LinkUp);
    let told = back.iter().any(|output| match output {
        Output::Event(fact) => matches!(fact.kind, FactKind::KeyUsed { .. }) && fact.at == START,
        Output::Telemetry(_) | Output::Ack(_) => false,
    });
    assert!(told, "{back:?}");
}

#[test]
fn revoking_at_safe_state_lets_the_drive_end_first() {
    let mut bench = Bench::linked();
    let key = grant(&[Function::UnlockDoors, Function::Drive]);
    bench.order(Order::GrantKey { key: key.clone() });
    bench.act(Act::Drive(true)).0.unwrap();
    let revoke = Order::RevokeKey { key_id: key.key_id, generation: 2, effect: RevocationEffect::AtSafeState };
    let (id, outputs) = bench.order(revoke);
    assert_eq!(acks(&outputs), [(AckStatus::PendingSafe, Some(AckReason::Moving))]);
    assert!(bench.act(Act::UseKey(key.key_id, Function::UnlockDoors)).0.is_err(), "entry ends at once");
    assert_eq!(bench.act(Act::UseKey(key.key_id, Function::Drive)).0, Ok(()));
    assert_eq!(acks(&bench.act(Act::Ignition(false)).1), [SUCCEEDED]);
    assert!(bench.act(Act::UseKey(key.key_id, Function::Drive)).0.is_err());
    assert_eq!(bench.unit.commands().executions(id), 1);
}

#[test]
fn an_outcome_reached_while_offline_is_told_after_the_reconnect() {
    let mut bench = Bench::linked();
    bench.act(Act::Drive(true)).0.unwrap();
    let (id, _) = bench.order(Order::DisableFunction { function: Function::Drive });
    bench.input(Input::LinkDown);
    assert!(bench.act(Act::Ignition(false)).1.is_empty());
    let back = bench.input(Input::LinkUp);
    assert!(back.iter().any(|output| matches!(output, Output::Ack(ack)
        if ack.command_id == id && ack.status == AckStatus::Succeeded)));
}

#[test]
fn an_actuator_that_takes_time_says_executing_first() {
    let mut bench = Bench::linked();
    bench.unit.spec.execution_ms = 2_000;
    let (id, outputs) = bench.order(Order::Unlock);
    assert_eq!(acks(&outputs), [(AckStatus::Executing, None)]);
    assert_eq!(acks(&bench.after_s(1)), []);
    assert_eq!(acks(&bench.after_s(1)), [SUCCEEDED]);
    assert_eq!(bench.unit.commands().executions(id), 1);
}

#[test]
fn an_unreadable_command_with_an_id_is_rejected() {
    let mut bench = Bench::linked();
    let id = CommandId(Uuid::from_u128(5));
    assert_eq!(acks(&bench.input(Input::Unreadable(Some(id)))), [(AckStatus::Rejected, Some(AckReason::Unsupported))]);
    assert_eq!(acks(&bench.input(Input::Unreadable(None))), []);
    assert_eq!(bench.unit.counters().unreadable, 2);
}

#[test]
fn facts_are_sent_again_until_event_ack() {
    let mut bench = Bench::linked();
    let resent = bench.after_s(11);
    assert!(resent.iter().any(|output| matches!(output, Output::Event(fact) if fact.seq == 1)));
    let boot = bench.unit.facts().boot();
    bench.input(Input::FromGateway(ToCar::EventAck { boot, seq: 1, at: None }));
    assert!(bench.unit.facts().is_empty());
    assert!(!bench.after_s(30).iter().any(|output| matches!(output, Output::Event(_))));
}

#[test]
fn telemetry_numbers_rise_by_one_and_only_while_linked() {
    let mut bench = Bench::linked();
    let mut seqs: Vec<u64> = Vec::new();
    let collect = |outputs: Vec<Output>, seqs: &mut Vec<u64>| {
        seqs.extend(outputs.iter().filter_map(|output| match output {
            Output::Telemetry(report) => Some(report.seq),
            Output::Event(_) | Output::Ack(_) => None,
        }));
    };
    collect(bench.after_s(5), &mut seqs);
    bench.input(Input::LinkDown);
    assert!(bench.after_s(5).is_empty());
    collect(bench.input(Input::LinkUp), &mut seqs);
    collect(bench.after_s(5), &mut seqs);
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
}

/// A seeded walk of commands, repeats, link losses and drives: no command is carried out twice, nothing grows, and
/// drive is never taken from a car that is not safe.
#[test]
fn whatever_happens_commands_run_once_and_a_moving_car_is_not_stopped() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut bench = Bench::linked();
        let mut sent: Vec<(CommandId, Order)> = Vec::new();
        for step in 0..600 {
            let was_enabled = bench.unit.is_drive_enabled();
            match dice.below(9) {
                0 => drop(bench.input(Input::LinkDown)),
                1 => drop(bench.input(Input::LinkUp)),
                2 => drop(bench.act(Act::Drive(true))),
                3 => drop(bench.act(Act::Ignition(dice.chance(0.5)))),
                4 if !sent.is_empty() => {
                    let (id, order) = sent[dice.below(sent.len())].clone();
                    bench.send(id, order);
                }
                5 => {
                    let key_id = grant(&[]).key_id;
                    bench.act(Act::UseKey(key_id, Function::ALL[dice.below(13)])).1.clear();
                }
                _ => {
                    let function = Function::ALL[dice.below(13)];
                    let order = match dice.below(6) {
                        0 => Order::Lock,
                        1 => Order::DisableFunction { function: Function::Drive },
                        2 => Order::EnableFunction { function },
                        3 => Order::GrantKey { key: grant(&[function, Function::Drive]) },
                        4 => Order::RevokeKey {
                            key_id: grant(&[]).key_id,
                            generation: 2,
                            effect: RevocationEffect::AtSafeState,
                        },
                        _ => Order::Locate,
                    };
                    sent.push((bench.order(order.clone()).0, order));
                }
            }
            if dice.chance(0.5) {
                bench.after_s(1);
            }
            assert_eq!(bench.unit.executed_twice(), [], "seed {seed} step {step}");
            if was_enabled && !bench.unit.is_drive_enabled() {
                assert!(bench.unit.world().is_safe_to_stop(), "seed {seed} step {step}");
            }
            assert!(bench.unit.deferred.len() <= MAX_DEFERRED);
        }
    }
}

#[test]
fn a_car_driven_with_a_slow_key_stays_slow_until_somebody_else_takes_over() {
    let mut bench = Bench::linked();
    let limited = KeyGrant { max_speed_kmh: Some(20), ..grant(&[Function::Drive]) };
    let free = KeyGrant { key_id: KeyId(Uuid::from_u128(78)), ..grant(&[Function::Drive]) };
    bench.order(Order::GrantKey { key: limited.clone() });
    bench.order(Order::GrantKey { key: free.clone() });
    let fastest = |bench: &mut Bench| {
        let mut fastest = 0.0_f64;
        for _ in 0..60 {
            bench.after_s(1);
            fastest = fastest.max(bench.unit.world().speed_kmh());
        }
        fastest
    };
    bench.act(Act::UseKey(limited.key_id, Function::Drive)).0.expect("permitted");
    bench.act(Act::Drive(true)).0.expect("drives");
    let slow = fastest(&mut bench);
    assert!(slow > 15.0 && slow <= 20.0, "{slow}");
    bench.act(Act::UseKey(free.key_id, Function::Drive)).0.expect("permitted");
    bench.act(Act::Drive(true)).0.expect("drives");
    let fast = fastest(&mut bench);
    assert!(fast > 24.0, "{fast}");
}

#[test]
fn nobody_at_the_door_pushes_out_what_happened_or_makes_the_car_talk() {
    let mut bench = Bench::linked();
    let key = grant(&[Function::UnlockDoors]);
    bench.order(Order::GrantKey { key: key.clone() });
    bench.input(Input::LinkDown);
    bench.act(Act::UseKey(key.key_id, Function::UnlockDoors)).0.expect("permitted");
    for _ in 0..30 {
        for _ in 0..100 {
            let refused = Act::PhoneRefused { key_id: None, function: None, reason: "malformed" };
            assert!(bench.act(refused).1.is_empty());
        }
        bench.after_s(61);
    }
    assert!(bench.unit.counters().refusals_untold > 2_000);
    let outputs = bench.input(Input::LinkUp);
    let is_use = |output: &Output| {
        matches!(output, Output::Event(fact)
            if matches!(fact.kind, FactKind::KeyUsed { outcome: KeyOutcome::Permitted, .. }))
    };
    assert!(outputs.iter().any(is_use), "the use is still told: {outputs:?}");
    let refused = Act::PhoneRefused { key_id: None, function: None, reason: "malformed" };
    let said = bench.act(refused).1;
    assert!(!said.iter().any(|output| matches!(output, Output::Telemetry(_))), "{said:?}");
}
