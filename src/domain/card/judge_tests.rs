//! The judgement, as a table of situations and as properties that hold for all of them.

use proptest::prelude::*;

use super::super::twin::{Fix, Report, SignalValue, Twin, path};
use super::super::{Money, Position, RentalId, Timestamp, VehicleId};
use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const STATION: Position = Position { latitude: 45.07, longitude: 7.68 };
const MIN: i64 = 60_000;

fn rules() -> Rules {
    toml::from_str(include_str!("../../../config/card-rules.toml")).expect("the rules file")
}

fn vehicle(name: &str) -> VehicleId {
    name.parse().expect("id")
}

fn card() -> Card {
    Card {
        card_id: "c1".parse().expect("id"),
        network_ref: "ic_1".parse().expect("id"),
        vehicle_id: Some(vehicle("V1")),
        status: CardStatus::Active,
        changed_at: Timestamp(0),
        previous: None,
    }
}

fn purchase(at: Timestamp) -> Purchase {
    Purchase {
        authorization_id: "iauth_1".parse().expect("id"),
        source: "stripe".into(),
        card_ref: "ic_1".parse().expect("id"),
        at,
        amount: Money { amount_minor: 5_000, currency: "eur".into() },
        partial_allowed: true,
        merchant: Merchant::default(),
        fill: Fill::default(),
        prompts: Prompts::default(),
    }
}

fn station() -> StationLookup {
    StationLookup::Known {
        station_id: "s1".parse().expect("id"),
        name: "Station".into(),
        position: Some(STATION),
        at_position: 1,
        by: LookedUpBy::Terminal,
        learnt: false,
        time_zone: None,
        is_offline_batch: false,
    }
}

/// A place `north_m` metres north of the station.
fn north(north_m: f64) -> Position {
    Position { latitude: STATION.latitude + north_m / 111_195.0, ..STATION }
}

/// In a rental since an hour ago, seen at the station ten seconds before NOW.
fn facts() -> VehicleFacts {
    VehicleFacts {
        vehicle_id: vehicle("V1"),
        uses: vec![InUse { rental_id: RentalId(uuid::Uuid::nil()), from: NOW.plus_ms(-60 * MIN), until: None }],
        fix: Some(Fix { position: north(20.0), at: NOW.plus_ms(-10_000), accuracy_m: Some(5.0) }),
        doubt: None,
        last_report: Some(NOW.plus_ms(-10_000)),
    }
}

fn ended(ago_ms: i64) -> VehicleFacts {
    let mut facts = facts();
    facts.uses[0].until = Some(NOW.plus_ms(-ago_ms));
    facts
}

/// With nothing bought before.
fn judge(
    now: Timestamp,
    purchase: &Purchase,
    card: Option<&Card>,
    vehicles: &[VehicleLookup],
    station: &StationLookup,
    rules: &Rules,
) -> Ruling {
    let inputs = Inputs {
        card: card.cloned(),
        vehicles: vehicles.to_vec(),
        station: station.clone(),
        spending: Spending::default(),
        confirmed_at: None,
    };
    super::judge(now, purchase, &inputs, rules)
}

fn rule_on(facts: VehicleFacts) -> Ruling {
    judge(NOW, &purchase(NOW), Some(&card()), &[VehicleLookup::Known(facts)], &station(), &rules())
}

fn verdict(ruling: &Ruling, name: CheckName) -> Verdict {
    ruling.checks.iter().find(|check| check.check == name).expect("check ran").verdict
}

#[test]
fn the_rules_file_is_well_formed() {
    rules().check().expect("fit");
}

#[test]
fn an_honest_purchase_is_approved_with_every_check_on_record() {
    let ruling = rule_on(facts());
    assert_eq!(ruling.outcome, Outcome::Approve);
    assert_eq!(ruling.settlement, Settlement::Enabled);
    assert!(ruling.reasons.is_empty());
    assert_eq!(ruling.checks.len(), 4);
    assert!(ruling.checks.iter().all(|check| check.verdict == Verdict::Pass && !check.detail.is_empty()));
    assert_eq!(ruling.rule_version, "2026-11-1");
}

#[test]
fn card_state_decides_first() {
    let mut suspended = card();
    suspended.status = CardStatus::Suspended;
    let mut unbound = card();
    unbound.vehicle_id = None;
    let known = [VehicleLookup::Known(facts())];
    let unregistered = [VehicleLookup::NotRegistered(vehicle("V1"))];
    let cases: [(&str, Option<&Card>, &[VehicleLookup]); 4] = [
        ("unknown card", None, &[]),
        ("suspended", Some(&suspended), &known),
        ("unbound", Some(&unbound), &[]),
        ("unregistered vehicle", Some(&card()), &unregistered),
    ];
    for (name, card, vehicles) in cases {
        let ruling = judge(NOW, &purchase(NOW), card, vehicles, &station(), &rules());
        assert_eq!(ruling.outcome, Outcome::Decline, "{name}");
        assert_eq!(ruling.settlement, Settlement::Disabled, "{name}");
        assert_eq!(verdict(&ruling, CheckName::CardActive), Verdict::Fail, "{name}");
    }
}

#[test]
fn rental_state_holds_with_a_grace_after_the_end() {
    let none = VehicleFacts { uses: Vec::new(), ..facts() };
    let cases = [
        ("running", facts(), Verdict::Pass),
        ("ended 15 min ago", ended(15 * MIN), Verdict::Pass),
        ("ended 15 min and 1 ms ago", ended(15 * MIN + 1), Verdict::Fail),
        ("never rented", none, Verdict::Fail),
    ];
    for (name, facts, expected) in cases {
        assert_eq!(verdict(&rule_on(facts), CheckName::RentalState), expected, "{name}");
    }
}

#[test]
fn rental_state_alone_disables_settlement() {
    let mut only = rules();
    only.card_active.mode = CheckMode::Off;
    only.location.mode = CheckMode::Off;
    only.telematics_fresh.mode = CheckMode::Off;
    let judged = |facts| judge(NOW, &purchase(NOW), Some(&card()), &[VehicleLookup::Known(facts)], &station(), &only);
    assert_eq!(judged(ended(60 * MIN)).settlement, Settlement::Disabled);
    assert_eq!(judged(ended(60 * MIN)).reasons, ["rental_state"]);
    assert_eq!(judged(facts()).settlement, Settlement::Enabled);
}

#[test]
fn a_delayed_event_is_judged_at_its_own_time() {
    // Bought 20 min ago while rented; the rental ended 18 min ago and the car has driven 40 km since.
    let mut facts = ended(18 * MIN);
    facts.fix = Some(Fix { position: north(40_000.0), at: NOW.plus_ms(-1_000), accuracy_m: Some(5.0) });
    let late = purchase(NOW.plus_ms(-20 * MIN));
    let ruling = judge(NOW, &late, Some(&card()), &[VehicleLookup::Known(facts)], &station(), &rules());
    assert_eq!(verdict(&ruling, CheckName::RentalState), Verdict::Pass);
    assert_eq!(verdict(&ruling, CheckName::Location), Verdict::Unknown);
    assert_eq!(verdict(&ruling, CheckName::TelematicsFresh), Verdict::Pass);
    // Bought 20 min ago, and the rental began only 10 min ago.
    let mut early = self::facts();
    early.uses[0].from = NOW.plus_ms(-10 * MIN);
    let ruling = judge(NOW, &late, Some(&card()), &[VehicleLookup::Known(early)], &station(), &rules());
    assert_eq!(verdict(&ruling, CheckName::RentalState), Verdict::Fail);
}

#[test]
fn a_network_clock_ahead_of_ours_changes_nothing() {
    let ahead = purchase(NOW.plus_ms(30 * MIN));
    let ruling = judge(NOW, &ahead, Some(&card()), &[VehicleLookup::Known(facts())], &station(), &rules());
    assert_eq!(ruling.outcome, Outcome::Approve);
}

#[test]
fn location_allows_for_accuracy_and_for_what_the_car_can_have_driven() {
    // 130 km/h for 60 s are 2166.7 m; + 300 m + 5 m.
    let at = |north_m: f64, age_ms: i64, accuracy_m: Option<f64>| VehicleFacts {
        fix: Some(Fix { position: north(north_m), at: NOW.plus_ms(-age_ms), accuracy_m }),
        ..facts()
    };
    let cases = [
        ("near", at(300.0, 0, Some(5.0)), Verdict::Pass),
        ("just too far", at(310.0, 0, Some(5.0)), Verdict::Fail),
        ("inexact fix", at(340.0, 0, None), Verdict::Pass),
        ("a minute old, in reach", at(2_400.0, MIN, Some(5.0)), Verdict::Pass),
        ("a minute old, out of reach", at(2_550.0, MIN, Some(5.0)), Verdict::Fail),
        ("just fresh enough", at(500_000.0, 10 * MIN, Some(5.0)), Verdict::Fail),
        ("too old", at(500_000.0, 10 * MIN + 1, Some(5.0)), Verdict::Unknown),
        ("useless accuracy", at(500_000.0, 0, Some(5_000.0)), Verdict::Unknown),
        ("no fix", VehicleFacts { fix: None, ..facts() }, Verdict::Unknown),
        ("suspect", VehicleFacts { doubt: Some(FixDoubt::MovingWhileOff), ..at(9e5, 0, None) }, Verdict::Unknown),
    ];
    for (name, facts, expected) in cases {
        assert_eq!(verdict(&rule_on(facts), CheckName::Location), expected, "{name}");
    }
}

#[test]
fn location_is_unknown_where_the_directory_is() {
    let known = |position, at_position| StationLookup::Known {
        station_id: "s1".parse().expect("id"),
        name: "S".into(),
        position,
        at_position,
        by: LookedUpBy::Terminal,
        learnt: false,
        time_zone: None,
        is_offline_batch: false,
    };
    for (name, lookup) in [
        ("unknown", StationLookup::Unknown),
        ("ambiguous", StationLookup::Ambiguous { stations: 3 }),
        ("no position", known(None, 0)),
        ("shared position", known(Some(STATION), 5)),
    ] {
        let facts = VehicleFacts { fix: Some(Fix { position: north(9e5), at: NOW, accuracy_m: None }), ..facts() };
        let ruling = judge(NOW, &purchase(NOW), Some(&card()), &[VehicleLookup::Known(facts)], &lookup, &rules());
        assert_eq!(verdict(&ruling, CheckName::Location), Verdict::Unknown, "{name}");
        assert_eq!(ruling.outcome, Outcome::ApproveCapped, "{name}");
        assert_eq!(ruling.cap_minor, Some(10_000), "{name}");
        assert_eq!(ruling.reasons, ["location_unknown"], "{name}");
    }
}

#[test]
fn a_silent_car_is_unknown_and_never_failed() {
    let silent = |ago_ms: i64| VehicleFacts { last_report: Some(NOW.plus_ms(-ago_ms)), ..facts() };
    for (name, facts, expected) in [
        ("5 min", silent(5 * MIN), Verdict::Pass),
        ("5 min and 1 ms", silent(5 * MIN + 1), Verdict::Unknown),
        ("never", VehicleFacts { last_report: None, ..facts() }, Verdict::Unknown),
    ] {
        assert_eq!(verdict(&rule_on(facts), CheckName::TelematicsFresh), expected, "{name}");
    }
}

#[test]
fn after_a_change_of_binding_either_vehicle_will_do() {
    let away = VehicleFacts {
        fix: Some(Fix { position: north(9_000.0), at: NOW, accuracy_m: None }),
        uses: Vec::new(),
        ..facts()
    };
    let before = VehicleFacts { vehicle_id: vehicle("V0"), ..facts() };
    let lookups = [VehicleLookup::Known(away.clone()), VehicleLookup::Known(before)];
    let ruling = judge(NOW, &purchase(NOW), Some(&card()), &lookups, &station(), &rules());
    assert_eq!(ruling.outcome, Outcome::Approve);
    let both_away = [VehicleLookup::Known(away.clone()), VehicleLookup::Known(away)];
    let ruling = judge(NOW, &purchase(NOW), Some(&card()), &both_away, &station(), &rules());
    assert_eq!(ruling.reasons, ["rental_state", "location"]);
}

#[test]
fn a_vehicle_that_does_not_answer_leads_to_the_fallback() {
    let late = [VehicleLookup::Late(vehicle("V1"))];
    let mut rules = rules();
    rules.fallback = UnknownPolicy::ApproveCapped { cap_minor: 700 };
    let ruling = judge(NOW, &purchase(NOW), Some(&card()), &late, &station(), &rules);
    assert_eq!((ruling.outcome, ruling.cap_minor), (Outcome::ApproveCapped, Some(700)));
    assert_eq!(ruling.reasons, ["vehicle_not_answering"]);
    rules.fallback = UnknownPolicy::Decline;
    let ruling = judge(NOW, &purchase(NOW), Some(&card()), &late, &station(), &rules);
    assert_eq!(ruling.outcome, Outcome::Decline);
    assert!(!ruling.has_failed_check());
}

#[test]
fn a_cap_that_cannot_be_imposed_declines_only_what_is_above_it() {
    let mut asked = purchase(NOW);
    asked.partial_allowed = false;
    for (amount, expected) in [(10_000, Outcome::ApproveCapped), (10_001, Outcome::Decline)] {
        asked.amount.amount_minor = amount;
        let known = [VehicleLookup::Known(facts())];
        let ruling = judge(NOW, &asked, Some(&card()), &known, &StationLookup::Unknown, &rules());
        assert_eq!(ruling.outcome, expected, "{amount}");
    }
}

#[test]
fn doubt_needs_a_real_contradiction() {
    let observed = |signals: &[(&str, SignalValue, i64)]| {
        let mut twin = Twin::new(NOW);
        for (seq, (name, value, at)) in signals.iter().enumerate() {
            let signals = vec![((*name).into(), value.clone())];
            twin.observe(NOW, Report { boot: 0, seq: seq as u64, at: NOW.plus_ms(*at), signals });
        }
        for (name, value) in [(path::LATITUDE, 45.0), (path::LONGITUDE, 7.0)] {
            twin.note(name, SignalValue::Number(value), NOW);
        }
        VehicleFacts::of(&super::super::vehicle::Vehicle::new(vehicle("V1")), &twin).doubt
    };
    let off = |at| (path::LOW_VOLTAGE, SignalValue::Text("OFF".into()), at);
    let speed = |kmh, at| (path::SPEED_KMH, SignalValue::Number(kmh), at);
    assert_eq!(observed(&[off(-5_000), speed(44.4, -4_000)]), Some(FixDoubt::MovingWhileOff));
    assert_eq!(observed(&[speed(44.4, -5_000), off(-4_000)]), None, "it parked");
    assert_eq!(observed(&[off(-5_000), speed(0.0, -4_000)]), None);
    assert_eq!(observed(&[speed(900.0, -4_000)]), Some(FixDoubt::ImpossibleSpeed));
}

fn any_policy() -> impl Strategy<Value = UnknownPolicy> {
    prop_oneof![
        Just(UnknownPolicy::Approve),
        (1i64..20_000).prop_map(|cap_minor| UnknownPolicy::ApproveCapped { cap_minor }),
        Just(UnknownPolicy::StepUp),
        Just(UnknownPolicy::Decline),
    ]
}

fn any_mode() -> impl Strategy<Value = CheckMode> {
    prop_oneof![Just(CheckMode::Off), Just(CheckMode::On), Just(CheckMode::Shadow)]
}

prop_compose! {
    fn any_rules()(
        modes in [any_mode(), any_mode(), any_mode(), any_mode()],
        policies in [any_policy(), any_policy(), any_policy(), any_policy(), any_policy()],
    ) -> Rules {
        let mut rules = rules();
        [rules.card_active.mode, rules.rental_state.mode, rules.location.mode, rules.telematics_fresh.mode] = modes;
        [
            rules.card_active.unknown,
            rules.rental_state.unknown,
            rules.location.unknown,
            rules.telematics_fresh.unknown,
            rules.fallback,
        ] = policies;
        rules
    }
}

prop_compose! {
    fn any_lookup()(
        kind in 0u8..8,
        distance_m in 0f64..60_000.0,
        fix_ms in -40 * MIN..MIN,
        accuracy_m in proptest::option::of(0f64..2_000.0),
        heard_ms in proptest::option::of(-40 * MIN..0),
        has_fix in any::<bool>(),
        use_from in -90 * MIN..0,
        use_ms in proptest::option::of(0..90 * MIN),
        doubt in any::<bool>(),
    ) -> VehicleLookup {
        match kind {
            0 => VehicleLookup::Late(vehicle("V1")),
            1 => VehicleLookup::NotRegistered(vehicle("V1")),
            _ => VehicleLookup::Known(VehicleFacts {
                vehicle_id: vehicle("V1"),
                uses: vec![InUse {
                    rental_id: RentalId(uuid::Uuid::nil()),
                    from: NOW.plus_ms(use_from),
                    until: use_ms.map(|ms| NOW.plus_ms((use_from + ms).min(0))),
                }],
                fix: has_fix.then(|| Fix { position: north(distance_m), at: NOW.plus_ms(fix_ms), accuracy_m }),
                doubt: (doubt && has_fix).then_some(FixDoubt::MovingWhileOff),
                last_report: heard_ms.map(|ms| NOW.plus_ms(ms)),
            }),
        }
    }
}

proptest! {
    #[test]
    fn a_larger_distance_never_turns_fail_to_pass(
        near in 0f64..400_000.0, further in 0f64..400_000.0, age_ms in 0..10 * MIN, accuracy in 0f64..900.0,
    ) {
        let at = |north_m: f64| {
            let fix = Fix { position: north(north_m), at: NOW.plus_ms(-age_ms), accuracy_m: Some(accuracy) };
            verdict(&rule_on(VehicleFacts { fix: Some(fix), ..facts() }), CheckName::Location)
        };
        if at(near) == Verdict::Fail {
            prop_assert_eq!(at(near + further), Verdict::Fail);
        }
    }

    #[test]
    fn stale_or_doubtful_data_never_fails_location_or_telematics(lookup in any_lookup(), delay_ms in 0..20 * MIN) {
        let at = NOW.plus_ms(-delay_ms);
        let rules = rules();
        let judged = judge(NOW, &purchase(at), Some(&card()), std::slice::from_ref(&lookup), &station(), &rules);
        prop_assert_ne!(verdict(&judged, CheckName::TelematicsFresh), Verdict::Fail);
        let VehicleLookup::Known(facts) = &lookup else {
            prop_assert_eq!(verdict(&judged, CheckName::Location), Verdict::Unknown);
            return Ok(());
        };
        let is_stale = facts.fix.is_none_or(|fix| fix.at.since_ms(at).abs() > 10 * MIN);
        if is_stale || facts.doubt.is_some() {
            prop_assert_eq!(verdict(&judged, CheckName::Location), Verdict::Unknown);
        }
    }

    #[test]
    fn checks_that_are_off_or_in_shadow_have_no_influence(
        lookup in any_lookup(), rules in any_rules(), has_card in any::<bool>(), amount in 0i64..30_000,
    ) {
        let mut asked = purchase(NOW);
        asked.amount.amount_minor = amount;
        let card = card();
        let card = has_card.then_some(&card);
        let lookups: Vec<_> = has_card.then_some(lookup).into_iter().collect();
        let mut other = rules.clone();
        // Whatever the policies of silent checks are, and whether they are off or in shadow, the answer is the same.
        let flip = |mode: &mut CheckMode, policy: &mut UnknownPolicy| {
            if *mode != CheckMode::On {
                *mode = if *mode == CheckMode::Off { CheckMode::Shadow } else { CheckMode::Off };
                *policy = UnknownPolicy::Decline;
            }
        };
        flip(&mut other.card_active.mode, &mut other.card_active.unknown);
        flip(&mut other.rental_state.mode, &mut other.rental_state.unknown);
        flip(&mut other.location.mode, &mut other.location.unknown);
        flip(&mut other.telematics_fresh.mode, &mut other.telematics_fresh.unknown);
        let one = judge(NOW, &asked, card, &lookups, &station(), &rules);
        let two = judge(NOW, &asked, card, &lookups, &station(), &other);
        prop_assert_eq!((one.outcome, one.cap_minor, &one.reasons), (two.outcome, two.cap_minor, &two.reasons));
    }

    #[test]
    fn unknown_declines_only_where_a_policy_says_so(lookup in any_lookup(), rules in any_rules()) {
        let judged = judge(NOW, &purchase(NOW), Some(&card()), &[lookup], &StationLookup::Unknown, &rules);
        let policies = [rules.rental_state.unknown, rules.location.unknown, rules.telematics_fresh.unknown, rules.fallback];
        if judged.outcome == Outcome::Decline && !judged.has_failed_check() {
            prop_assert!(policies.contains(&UnknownPolicy::Decline));
        }
        // And a failed check that counts always declines.
        prop_assert!(!judged.has_failed_check() || judged.outcome == Outcome::Decline);
        // A cap is never above what any policy that was followed allows.
        if let Some(cap) = judged.cap_minor {
            prop_assert!(cap > 0 && judged.settlement == Settlement::Enabled);
        }
    }

    #[test]
    fn any_text_can_be_looked_at_for_card_numbers(text in ".{0,200}") {
        let kept = keepable(&text, 64);
        prop_assert!(!looks_like_card_number(&kept) && kept.chars().count() <= 64);
    }
}
