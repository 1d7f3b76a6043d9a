//! The judgement, as a table of situations and as properties that hold for all of them.

use proptest::prelude::*;

use super::super::twin::{Fix, Report, SignalValue, Twin, path};
use super::super::{RentalId, Timestamp};
use super::test_cases::*;
use super::*;

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
    assert_eq!(ruling.checks.len(), 16, "all but the one of after the fill");
    let asks_more = |check: &Check| check.verdict == Verdict::Unknown && check.check > CheckName::TelematicsFresh;
    assert!(ruling.checks.iter().all(|check| check.verdict == Verdict::Pass || asks_more(check)));
    assert!(ruling.checks.iter().all(|check| !check.detail.is_empty()));
    assert_eq!((ruling.rule_version.as_str(), ruling.rule_class), ("2026-11-2", None));
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
    for name in CheckName::ALL.into_iter().filter(|name| *name != CheckName::RentalState) {
        *mode(&mut only, name) = CheckMode::Off;
    }
    let judged = |facts| judge(NOW, &purchase(NOW), Some(&card()), &[VehicleLookup::Known(facts)], &station(), &only);
    assert_eq!(judged(ended(60 * MIN)).settlement, Settlement::Disabled);
    assert_eq!(judged(ended(60 * MIN)).reasons, ["rental_state"]);
    assert_eq!(judged(facts()).settlement, Settlement::Enabled);
    assert_eq!(judged(facts()).checks.len(), 1);
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
    let known = station_at;
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
fn a_cap_that_cannot_be_imposed_asks_the_holder_and_accuses_nobody() {
    let asked = |amount, confirmed_ago_ms: Option<i64>| {
        Story::but(|s| {
            s.inputs.station = StationLookup::Unknown;
            s.inputs.confirmed_at = confirmed_ago_ms.map(ago);
            s.purchase.partial_allowed = false;
            s.purchase.amount.amount_minor = amount;
        })
        .ruling()
    };
    assert_eq!(asked(10_000, None).outcome, Outcome::ApproveCapped);
    let above = asked(10_001, None);
    assert_eq!((above.outcome, above.settlement), (Outcome::StepUp, Settlement::Disabled));
    assert_eq!(above.reasons, ["location_unknown", "amount_above_cap"]);
    let confirmed = asked(10_001, Some(120 * SEC));
    assert_eq!((confirmed.outcome, confirmed.cap_minor), (Outcome::Approve, None));
    assert_eq!(confirmed.reasons, ["confirmed_by_holder"]);
    assert_eq!(asked(10_001, Some(120 * SEC + 1)).outcome, Outcome::StepUp);
    assert_eq!(asked(10_001, Some(-120 * SEC)).outcome, Outcome::Approve, "said a moment after it was asked");
}

#[test]
fn a_confirmation_lifts_a_step_up_and_never_a_failed_check() {
    let story = |fail: FailPolicy, is_capped: bool| {
        Story::but(|s| {
            s.rules.fuel_level.fail = fail;
            s.facts().rest_level = Some(super::super::gauge::Level { percent: 99.0, at: NOW });
            s.inputs.confirmed_at = Some(NOW);
            if is_capped {
                s.inputs.station = StationLookup::Unknown;
            }
        })
        .ruling()
    };
    let declined = story(FailPolicy::Decline, false);
    assert_eq!((declined.outcome, declined.reasons.as_slice()), (Outcome::Decline, ["fuel_level".into()].as_slice()));
    assert_eq!(story(FailPolicy::StepUp, false).reasons, ["tank_space", "confirmed_by_holder"]);
    let capped = story(FailPolicy::StepUp, true);
    assert_eq!(capped.outcome, Outcome::ApproveCapped);
    assert_eq!(capped.reasons, ["location_unknown", "tank_space", "confirmed_by_holder"]);
    let warned = story(FailPolicy::Warn, false);
    assert_eq!(warned.warnings, [CheckName::FuelLevel]);
    assert_ne!(warned.outcome, Outcome::Decline);
}

#[test]
fn an_increment_counts_into_what_the_tank_holds() {
    // 43.25 l x 3.20 EUR are 138.40 EUR.
    let counted = |already, partial_allowed| {
        let story = Story::but(|s| s.purchase.partial_allowed = partial_allowed);
        let mut ruling = story.ruling();
        ruling.count_in(already, None, &story.purchase);
        (ruling.outcome, ruling.cap_minor)
    };
    assert_eq!(counted(8_840, true), (Outcome::Approve, None));
    assert_eq!(counted(8_841, true), (Outcome::ApproveCapped, Some(4_999)));
    assert_eq!(counted(13_840, true), (Outcome::Decline, None));
    // What cannot be cut is bounded by the maximum alone.
    assert_eq!(counted(13_840, false), (Outcome::Approve, None));
    assert_eq!(counted(35_001, false), (Outcome::Decline, None));
}

#[test]
fn an_increment_above_a_cap_for_not_knowing_asks_the_holder() {
    let story = Story::but(|s| {
        s.inputs.station = StationLookup::Unknown;
        s.purchase.partial_allowed = false;
    });
    let mut ruling = story.ruling();
    ruling.count_in(7_000, Some(10_000), &story.purchase);
    assert_eq!((ruling.outcome, ruling.settlement), (Outcome::StepUp, Settlement::Disabled));
    assert!(ruling.reasons.contains(&"amount_above_cap".to_owned()));
}

#[test]
fn a_ruling_names_the_class_whose_rules_it_followed() {
    let mut rules = rules();
    rules.vehicle_class = Some("van".into());
    let book = RuleBook::new(test_cases::rules(), [("van".to_owned(), rules)].into());
    let mut story = Story::honest();
    story.facts().class = Some("van".into());
    let followed = book.for_class(story.inputs.vehicle_class());
    let ruling = super::judge(NOW, &story.purchase, &story.inputs, followed);
    assert_eq!(ruling.rule_class.as_deref(), Some("van"));
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

fn any_fail() -> impl Strategy<Value = FailPolicy> {
    prop_oneof![Just(FailPolicy::Decline), Just(FailPolicy::StepUp), Just(FailPolicy::Warn)]
}

prop_compose! {
    fn any_rules()(
        modes in proptest::collection::vec(any_mode(), CheckName::ALL.len()),
        unknowns in proptest::collection::vec(any_policy(), CheckName::ALL.len()),
        fails in proptest::collection::vec(any_fail(), CheckName::ALL.len()),
        fallback in any_policy(),
    ) -> Rules {
        let mut rules = rules();
        rules.fallback = fallback;
        for (index, name) in CheckName::ALL.into_iter().enumerate() {
            *mode(&mut rules, name) = modes[index];
            if let Some((unknown, fail)) = policies(&mut rules, name) {
                (*unknown, *fail) = (unknowns[index], fails[index]);
            }
        }
        rules.telematics_fresh.unknown = unknowns[3];
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
        level in proptest::option::of((0f64..110.0, -60 * MIN..MIN)),
        speed in proptest::option::of((0f64..200.0, -MIN..MIN)),
        flags in any::<[bool; 5]>(),
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
                rest_level: level.map(|(percent, ms)| super::super::gauge::Level { percent, at: NOW.plus_ms(ms) }),
                has_driven_since_rest: flags[0],
                tank_litres: flags[1].then_some(50.0),
                fuel_type: flags[2].then(|| "diesel".to_owned()),
                speed: speed.map(|(value, ms)| Seen { value, at: NOW.plus_ms(ms) }),
                ignition: Some(Seen { value: flags[3], at: ago(30 * SEC) }),
                card_present: Some(Seen { value: flags[4], at: ago(30 * SEC) }),
                ..facts()
            }),
        }
    }
}

prop_compose! {
    fn any_purchase()(
        amount in 0i64..60_000, partial_allowed in any::<bool>(), litres in proptest::option::of(0f64..90.0),
        code in proptest::option::of(prop_oneof![Just("5541"), Just("5552"), Just("5812")]),
        keyed_km in proptest::option::of(0f64..1e6), delay_ms in 0..20 * MIN,
    ) -> Purchase {
        let mut asked = purchase(ago(delay_ms));
        (asked.amount.amount_minor, asked.partial_allowed) = (amount, partial_allowed);
        (asked.fill.litres, asked.prompts.odometer_km) = (litres, keyed_km);
        asked.merchant.category_code = code.map(Into::into);
        asked
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
        for name in CheckName::ALL {
            let mode = mode(&mut other, name);
            if *mode != CheckMode::On {
                *mode = if *mode == CheckMode::Off { CheckMode::Shadow } else { CheckMode::Off };
                if let Some((unknown, fail)) = policies(&mut other, name) {
                    (*unknown, *fail) = (UnknownPolicy::Decline, FailPolicy::Decline);
                }
            }
        }
        let one = judge(NOW, &asked, card, &lookups, &station(), &rules);
        let two = judge(NOW, &asked, card, &lookups, &station(), &other);
        prop_assert_eq!((one.outcome, one.cap_minor, &one.reasons), (two.outcome, two.cap_minor, &two.reasons));
    }

    #[test]
    fn not_knowing_is_never_answered_more_strictly_than_its_policies(
        (lookup, rules, mut asked) in (any_lookup(), any_rules(), any_purchase()), knows_station in any::<bool>(),
    ) {
        let station = if knows_station { station() } else { StationLookup::Unknown };
        asked.amount.amount_minor = asked.amount.amount_minor.min(20_000);
        let judged = judge(NOW, &asked, Some(&card()), std::slice::from_ref(&lookup), &station, &rules);
        let on = || judged.checks.iter().filter(|check| check.mode == CheckMode::On);
        let fails = |policy| on().any(|check| check.verdict == Verdict::Fail && check.fail == policy);
        let unknown: Vec<_> = on().filter(|check| check.verdict == Verdict::Unknown).collect();
        let is_late = matches!(lookup, VehicleLookup::Late(_));
        let allows = |policy: fn(&UnknownPolicy) -> bool| {
            unknown.iter().any(|check| policy(&rules.switch(check.check).unknown)) || (is_late && policy(&rules.fallback))
        };
        match judged.outcome {
            Outcome::Decline => {
                prop_assert!(fails(FailPolicy::Decline) || allows(|policy| *policy == UnknownPolicy::Decline));
            }
            Outcome::StepUp => {
                let asks = |policy: &UnknownPolicy| {
                    matches!(policy, UnknownPolicy::StepUp | UnknownPolicy::ApproveCapped { .. })
                };
                let is_allowed = fails(FailPolicy::StepUp) || allows(asks);
                prop_assert!(is_allowed);
            }
            Outcome::ApproveCapped => prop_assert!(judged.cap_minor.is_some_and(|cap| cap > 0)),
            Outcome::Approve => prop_assert!(judged.cap_minor.is_none()),
        }
        // And a failed check that declines always does.
        prop_assert_eq!(judged.has_failed_check(), fails(FailPolicy::Decline));
        prop_assert!(!judged.has_failed_check() || judged.outcome == Outcome::Decline);
    }

    #[test]
    fn silencing_a_check_makes_no_answer_stricter_and_changes_no_other_check(
        (lookup, rules, asked) in (any_lookup(), any_rules(), any_purchase()),
        which in 0..CheckName::ALL.len(), is_shadow in any::<bool>(),
    ) {
        let name = CheckName::ALL[which];
        let mut silenced = rules.clone();
        *mode(&mut silenced, name) = if is_shadow { CheckMode::Shadow } else { CheckMode::Off };
        let lookups = [lookup];
        let before = judge(NOW, &asked, Some(&card()), &lookups, &station(), &rules);
        let after = judge(NOW, &asked, Some(&card()), &lookups, &station(), &silenced);
        let strictness = |ruling: &Ruling| match ruling.outcome {
            Outcome::Approve => (0, 0),
            Outcome::ApproveCapped => (1, -ruling.cap_minor.unwrap_or(i64::MAX)),
            Outcome::StepUp => (2, 0),
            Outcome::Decline => (3, 0),
        };
        prop_assert!(strictness(&after) <= strictness(&before), "{:?} {:?}", before.reasons, after.reasons);
        let others = |ruling: &Ruling| -> Vec<Check> {
            ruling.checks.iter().filter(|check| check.check != name).cloned().collect()
        };
        prop_assert_eq!(others(&before), others(&after));
    }

    #[test]
    fn recorded_inputs_lead_to_the_recorded_ruling((lookup, rules, asked) in (any_lookup(), any_rules(), any_purchase())) {
        let mut inputs = inputs(facts());
        inputs.vehicles = vec![lookup];
        let ruling = super::judge(NOW, &asked, &inputs, &rules);
        let again = |text: String| -> Inputs { serde_json::from_str(&text).expect("read back") };
        let recorded = again(serde_json::to_string(&inputs).expect("JSON"));
        // A record's numbers may differ in the last bit; its ruling does not.
        let judged = super::judge(NOW, &asked, &again(serde_json::to_string(&recorded).expect("JSON")), &rules);
        prop_assert_eq!((judged.outcome, judged.cap_minor, judged.reasons), (ruling.outcome, ruling.cap_minor, ruling.reasons));
    }

    #[test]
    fn any_text_can_be_looked_at_for_card_numbers(text in ".{0,200}") {
        let kept = keepable(&text, 64);
        prop_assert!(!looks_like_card_number(&kept) && kept.chars().count() <= 64);
    }
}
