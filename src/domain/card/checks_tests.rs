//! Each check as a table of situations: when it passes, fails, and does not know.

use super::super::gauge::Level;
use super::super::{Money, Timestamp};
use super::test_cases::{MIN, NOW, SEC, STATION, Story, ago, north, station_at};
use super::*;

use CheckName::{
    CardInCar, DriverPrompt, DuplicateOrImpossibleTravel, FuelLevel, Hours, IgnitionAndMotion, Location,
    MerchantCategory, Odometer, TankSpace,
};
use Verdict::{Fail, Pass, Unknown};

pub type Change = Box<dyn FnOnce(&mut Story)>;

pub fn change(change: impl FnOnce(&mut Story) + 'static) -> Change {
    Box::new(change)
}

pub fn table(check: CheckName, cases: Vec<(&str, Change, Verdict)>) {
    for (name, change, expected) in cases {
        let found = Story::but(change).check(check);
        assert_eq!(found.verdict, expected, "{name}: {}", found.detail);
        assert!(!found.detail.is_empty());
    }
}

fn level(percent: f64, ago_ms: i64) -> Option<Level> {
    Some(Level { percent, at: ago(ago_ms) })
}

pub fn last(ago_ms: i64) -> LastPurchase {
    LastPurchase {
        authorization_id: "iauth_0".parse().expect("id"),
        at: ago(ago_ms),
        amount: Money { amount_minor: 4_000, currency: "eur".into() },
        station_id: Some("s0".parse().expect("id")),
        position: Some(north(0.0)),
        network_id: Some("N".into()),
        terminal_id: Some("1".into()),
    }
}

#[test]
fn fuel_level() {
    let at = |percent, ago_ms| change(move |s: &mut Story| s.facts().rest_level = level(percent, ago_ms));
    table(
        FuelLevel,
        vec![
            ("a quarter", at(25.0, 0), Pass),
            ("just below full", at(94.9, 0), Pass),
            ("full", at(95.0, 0), Fail),
            ("full since yesterday, and heard of since", at(99.0, 86_400 * SEC), Fail),
            ("no level", change(|s| s.facts().rest_level = None), Unknown),
            ("no percentage", at(140.0, 0), Unknown),
            (
                "from before the last drive",
                change(|s| {
                    s.facts().rest_level = level(99.0, MIN);
                    s.facts().has_driven_since_rest = true;
                }),
                Unknown,
            ),
            (
                "silent since",
                change(|s| {
                    s.facts().rest_level = level(99.0, 31 * MIN);
                    s.facts().last_report = Some(ago(30 * MIN + 1));
                }),
                Unknown,
            ),
            (
                "measured after the purchase",
                change(|s| {
                    s.purchase.at = ago(10 * MIN);
                    s.facts().rest_level = level(99.0, 5 * MIN);
                }),
                Unknown,
            ),
            (
                "paid inside, after the fill",
                change(|s| {
                    s.facts().rest_level = level(99.0, MIN);
                    s.facts().filled_at = Some(ago(MIN));
                }),
                Unknown,
            ),
            (
                "filled and paid for, and bought again",
                change(|s| {
                    s.facts().rest_level = level(99.0, MIN);
                    s.facts().filled_at = Some(ago(4 * MIN));
                    s.inputs.spending.last = Some(last(6 * MIN));
                }),
                Fail,
            ),
            (
                "a wash",
                change(|s| {
                    s.facts().rest_level = level(99.0, 0);
                    s.purchase.fill.product = Some(Product::Other);
                }),
                Unknown,
            ),
        ],
    );
}

#[test]
fn tank_space_by_litres() {
    // 37.5 l free x 1.1 + 2 = 43.25 l.
    let litres = |litres| change(move |s: &mut Story| s.purchase.fill.litres = Some(litres));
    table(
        TankSpace,
        vec![
            ("fits", litres(43.2), Pass),
            ("does not", litres(43.3), Fail),
            (
                "no level: the whole tank",
                change(|s| {
                    s.facts().rest_level = None;
                    s.purchase.fill.litres = Some(56.9);
                }),
                Pass,
            ),
            (
                "more than the whole tank",
                change(|s| {
                    s.facts().rest_level = None;
                    s.purchase.fill.litres = Some(57.1);
                }),
                Fail,
            ),
            ("no size", change(|s| s.facts().tank_litres = None), Unknown),
            ("no size that can be", change(|s| s.facts().tank_litres = Some(0.0)), Unknown),
            ("a charge", change(|s| s.purchase.fill.product = Some(Product::Electricity)), Unknown),
            ("a currency without a ceiling", change(|s| s.purchase.amount.currency = "XAF".into()), Unknown),
        ],
    );
}

#[test]
fn tank_space_bounds_an_amount_that_can_be_cut_and_no_other() {
    // 43.25 l x 3.20 EUR.
    let story = |amount, partial_allowed| {
        Story::but(|s| {
            s.purchase.amount = Money { amount_minor: amount, currency: "EUR".into() };
            s.purchase.partial_allowed = partial_allowed;
        })
        .ruling()
    };
    let small = story(13_840, true);
    assert_eq!((small.outcome, small.cap_minor, small.limit_minor), (Outcome::Approve, None, Some(13_840)));
    let cut = story(15_000, true);
    assert_eq!((cut.outcome, cut.cap_minor), (Outcome::ApproveCapped, Some(13_840)));
    assert_eq!(cut.reasons, ["tank_space"]);
    let fixed = story(15_000, false);
    assert_eq!((fixed.outcome, fixed.cap_minor), (Outcome::Approve, None));
    let check = fixed.checks.into_iter().find(|check| check.check == TankSpace).expect("it ran");
    assert_eq!(check.verdict, Pass);
    assert!(check.detail.contains("cannot be cut"), "{}", check.detail);
}

#[test]
fn product() {
    let of = |fuel_type: &'static str, product| {
        change(move |s: &mut Story| {
            s.facts().fuel_type = Some(fuel_type.into());
            s.purchase.fill.product = Some(product);
        })
    };
    table(
        CheckName::Product,
        vec![
            ("fits", of("petrol", Product::Petrol), Pass),
            ("does not", of("petrol", Product::Diesel), Fail),
            ("fluid", of("Diesel", Product::Adblue), Pass),
            ("fluid for petrol", of("Benzin", Product::Adblue), Fail),
            ("a charge for a car that does not", of("gasoline", Product::Electricity), Fail),
            ("either of a hybrid", of("PHEV", Product::Petrol), Pass),
            ("other", of("petrol", Product::Other), Unknown),
            ("a word we do not know", of("steam", Product::Petrol), Unknown),
            ("none", change(|_| ()), Unknown),
            (
                "no fuel type",
                change(|s| {
                    s.facts().fuel_type = None;
                    s.purchase.fill.product = Some(Product::Diesel);
                }),
                Unknown,
            ),
        ],
    );
}

#[test]
fn odometer_only_warns() {
    let keyed = |km| change(move |s: &mut Story| s.purchase.prompts.odometer_km = Some(km));
    // Ten seconds at 130 km/h are 0.36 km.
    table(
        Odometer,
        vec![
            ("the same", keyed(48_211.0), Pass),
            ("ten more, and what it can have driven", keyed(48_221.6), Pass),
            ("too many", keyed(48_221.8), Fail),
            ("ten fewer", keyed(48_201.4), Pass),
            ("too few", keyed(48_201.2), Fail),
            ("no prompt", change(|_| ()), Unknown),
            ("no number", keyed(f64::NAN), Unknown),
            (
                "a car that says 0",
                change(|s| {
                    s.facts().odometer = Some(Seen { value: 0.0, at: NOW });
                    s.purchase.prompts.odometer_km = Some(48_211.0);
                }),
                Unknown,
            ),
            (
                "half an hour old: 65 km more",
                change(|s| {
                    s.facts().odometer = Some(Seen { value: 48_211.0, at: ago(30 * MIN) });
                    s.purchase.prompts.odometer_km = Some(48_285.0);
                }),
                Pass,
            ),
            (
                "too old",
                change(|s| {
                    s.facts().odometer = Some(Seen { value: 48_211.0, at: ago(60 * MIN + 1) });
                    s.purchase.prompts.odometer_km = Some(1.0);
                }),
                Unknown,
            ),
        ],
    );
    let ruling = Story::but(|s| s.purchase.prompts.odometer_km = Some(1.0)).ruling();
    assert_eq!((ruling.outcome, ruling.warnings.as_slice()), (Outcome::Approve, [Odometer].as_slice()));
    assert!(!ruling.has_failed_check(), "people mistype");
}

#[test]
fn driver_prompt() {
    let prompts = |number: Option<&'static str>, driver: Option<&'static str>| {
        change(move |s: &mut Story| {
            s.card().prompts = CardPrompts { vehicle_number: Some("TO-123 AB".into()), driver_id: Some("0042".into()) };
            s.purchase.prompts.vehicle_number = number.map(Into::into);
            s.purchase.prompts.driver_id = driver.map(Into::into);
        })
    };
    table(
        DriverPrompt,
        vec![
            ("both", prompts(Some("to123ab"), Some("42")), Pass),
            ("digits only", prompts(Some("123"), None), Pass),
            ("another number", prompts(Some("TO-124 AB"), None), Fail),
            ("another driver", prompts(Some("TO-123 AB"), Some("43")), Fail),
            ("nothing keyed in", prompts(None, None), Unknown),
            ("nothing expected", change(|s| s.purchase.prompts.driver_id = Some("1".into())), Unknown),
            ("no card", change(|s| s.inputs.card = None), Unknown),
        ],
    );
}

#[test]
fn duplicate_or_impossible_travel() {
    // 150 km/h for an hour, and 5 km.
    let from = |distance_m, ago_ms| {
        change(move |s: &mut Story| {
            s.inputs.spending.last = Some(LastPurchase { position: Some(north(distance_m)), ..last(ago_ms) });
        })
    };
    table(
        DuplicateOrImpossibleTravel,
        vec![
            ("nothing before", change(|_| ()), Pass),
            ("near", from(4_900.0, 0), Pass),
            ("too far at once", from(5_200.0, 0), Fail),
            ("an hour's way", from(154_000.0, 60 * MIN), Pass),
            ("more than that", from(156_000.0, 60 * MIN), Fail),
            (
                "unknown before",
                change(|s| s.inputs.spending.last = Some(LastPurchase { position: None, ..last(0) })),
                Unknown,
            ),
            (
                "unknown now",
                change(|s| {
                    s.inputs.spending.last = Some(last(0));
                    s.inputs.station = StationLookup::Unknown;
                }),
                Unknown,
            ),
            (
                "a placeholder",
                change(|s| {
                    s.inputs.spending.last = Some(last(0));
                    s.inputs.station = station_at(Some(north(90_000.0)), 2);
                }),
                Unknown,
            ),
            (
                "posted later",
                change(|s| {
                    s.inputs.spending.last = Some(last(0));
                    s.inputs.station = station_at(Some(north(90_000.0)), 1);
                    if let StationLookup::Known { is_offline_batch, .. } = &mut s.inputs.station {
                        *is_offline_batch = true;
                    }
                }),
                Unknown,
            ),
            (
                "more of the same authorisation",
                change(|s| {
                    let authorization_id = s.purchase.authorization_id.clone();
                    let position = Some(north(90_000.0));
                    s.inputs.spending.last = Some(LastPurchase { authorization_id, position, ..last(0) });
                }),
                Pass,
            ),
        ],
    );
}

#[test]
fn the_same_sum_at_the_same_terminal_is_a_repeat_for_five_minutes() {
    let tried = |ago_ms, terminal: &str, amount_minor| {
        Story::but(|s| {
            let position = Some(north(90_000.0));
            s.inputs.spending.last = Some(LastPurchase { position, ..last(ago_ms) });
            s.purchase.amount.amount_minor = amount_minor;
            s.purchase.merchant.network_id = Some("N".into());
            s.purchase.merchant.terminal_id = Some(terminal.into());
        })
        .verdict(DuplicateOrImpossibleTravel)
    };
    assert_eq!(tried(5 * MIN, "1", 4_000), Pass);
    assert_eq!(tried(5 * MIN + 1, "1", 4_000), Fail);
    assert_eq!(tried(MIN, "2", 4_000), Fail);
    assert_eq!(tried(MIN, "1", 4_001), Fail);
}

#[test]
fn merchant_category() {
    let code = |code: &'static str| change(move |s: &mut Story| s.purchase.merchant.category_code = Some(code.into()));
    let charging = |fuel_type: Option<&'static str>| {
        change(move |s: &mut Story| {
            s.purchase.merchant.category_code = Some("5552".into());
            s.facts().fuel_type = fuel_type.map(Into::into);
        })
    };
    table(
        MerchantCategory,
        vec![
            ("a station", code("5541"), Pass),
            ("a dispenser", code("5542"), Pass),
            ("a restaurant", code("5812"), Fail),
            ("none", change(|_| ()), Unknown),
            ("blank", code(" "), Unknown),
            ("a charger", charging(Some("electric")), Pass),
            ("a charger for a car that does not", charging(Some("diesel")), Fail),
            ("a charger for who knows", charging(None), Unknown),
            (
                "blocked",
                change(|s| {
                    s.purchase.merchant.category_code = Some("5541".into());
                    s.rules.merchant_category.blocked_stations = vec!["s1".parse().expect("id")];
                }),
                Fail,
            ),
        ],
    );
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn at_hours(days: &[&str], from: &str, until: &str, station_zone: Option<&str>, time: &str) -> Verdict {
    Story::but(|s| {
        s.now = at(time);
        s.purchase.at = at(time);
        s.rules.time_zone = "Europe/Berlin".into();
        let days = days.iter().map(|day| (*day).to_owned()).collect();
        s.rules.hours.windows = vec![HoursWindow { days, from: from.into(), until: until.into() }];
        if let StationLookup::Known { time_zone, .. } = &mut s.inputs.station {
            *time_zone = station_zone.map(Into::into);
        }
    })
    .verdict(Hours)
}

#[test]
fn hours_are_those_of_the_station() {
    let work = ["mon", "tue", "wed", "thu", "fri"];
    let workday = |zone, time| at_hours(&work, "06:00", "22:00", zone, time);
    // 2026-11-23 is a Monday. In Berlin it is an hour later than UTC, in Tokyo nine.
    assert_eq!(workday(None, "2026-11-23T05:00:00Z"), Pass);
    assert_eq!(workday(None, "2026-11-23T04:59:59Z"), Fail);
    assert_eq!(workday(Some("Asia/Tokyo"), "2026-11-22T21:00:00Z"), Pass);
    assert_eq!(workday(Some("Asia/Tokyo"), "2026-11-23T14:00:00Z"), Fail);
    assert_eq!(workday(Some("Mars/Base"), "2026-11-23T05:00:00Z"), Pass, "a zone nobody knows is none");
    assert_eq!(workday(None, "2026-11-22T12:00:00Z"), Fail, "a Sunday");
    assert_eq!(Story::honest().verdict(Hours), Pass, "no hours are always");
}

#[test]
fn hours_hold_over_midnight_and_a_change_of_clocks() {
    let night = |time| at_hours(&["sat"], "22:00", "06:00", None, time);
    assert_eq!(night("2026-11-22T04:59:00Z"), Pass);
    assert_eq!(night("2026-11-22T05:01:00Z"), Fail);
    // Clocks go forward at 01:00Z on 2026-03-29, from 02:00 to 03:00, and back at 01:00Z on 2026-10-25.
    let morning = |time| at_hours(&["sun"], "03:00", "04:00", None, time);
    assert_eq!(morning("2026-03-29T00:59:59Z"), Fail, "01:59:59 local");
    assert_eq!(morning("2026-03-29T01:00:00Z"), Pass, "03:00 local");
    assert_eq!(morning("2026-10-25T01:59:59Z"), Fail, "02:59:59 local, for the second time");
    assert_eq!(morning("2026-10-25T02:00:00Z"), Pass, "03:00 local");
    // A window that begins in the hour that is skipped begins when the clocks have.
    assert_eq!(at_hours(&["sun"], "02:30", "05:00", None, "2026-03-29T01:30:00Z"), Pass);
    // In the hour that comes twice, both count.
    for time in ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"] {
        assert_eq!(at_hours(&["sun"], "02:00", "03:00", None, time), Pass, "{time}");
    }
}

#[test]
fn ignition_and_motion() {
    let speed = |kmh, ago_ms, ignition: Option<(bool, i64)>| {
        change(move |s: &mut Story| {
            s.facts().speed = Some(Seen { value: kmh, at: ago(ago_ms) });
            s.facts().ignition = ignition.map(|(value, ago_ms)| Seen { value, at: ago(ago_ms) });
        })
    };
    table(
        IgnitionAndMotion,
        vec![
            ("stands", speed(0.0, 5_000, Some((false, 5_000))), Pass),
            ("rolls", speed(10.0, 5_000, Some((true, 5_000))), Pass),
            ("drives", speed(10.1, 5_000, Some((true, 5_000))), Fail),
            ("drives backwards", speed(-20.0, 5_000, None), Fail),
            ("drove a while ago", speed(80.0, 20_001, Some((true, 20_001))), Unknown),
            ("drives while off", speed(44.0, 5_000, Some((false, 6_000))), Unknown),
            ("drove, then turned off", speed(44.0, 6_000, Some((false, 5_000))), Fail),
            ("faster than cars are", speed(900.0, 5_000, None), Unknown),
            ("not known", change(|s| s.facts().speed = None), Unknown),
            (
                "a late message about a time it stood",
                change(|s| {
                    s.purchase.at = ago(5 * MIN);
                    s.facts().speed = Some(Seen { value: 80.0, at: NOW });
                }),
                Unknown,
            ),
        ],
    );
}

#[test]
fn card_in_car() {
    let missing = |is_rented: bool, seen_ago_ms| {
        change(move |s: &mut Story| {
            s.facts().card_present = Some(Seen { value: false, at: ago(seen_ago_ms) });
            if !is_rented {
                s.facts().uses.clear();
            }
        })
    };
    table(
        CardInCar,
        vec![
            ("in its holder", change(|s| s.facts().uses.clear()), Pass),
            ("missing in a rental", missing(true, MIN), Pass),
            ("missing in none", missing(false, MIN), Fail),
            ("no sensor", change(|s| s.facts().card_present = None), Unknown),
            (
                "missed after the purchase",
                change(|s| {
                    s.purchase.at = ago(10 * MIN);
                    s.facts().card_present = Some(Seen { value: false, at: ago(MIN) });
                    s.facts().uses.clear();
                }),
                Unknown,
            ),
            (
                "in the grace after a rental",
                change(|s| {
                    s.facts().card_present = Some(Seen { value: false, at: ago(MIN) });
                    s.facts().uses[0].until = Some(ago(5 * MIN));
                }),
                Pass,
            ),
        ],
    );
}

#[test]
fn a_learnt_position_allows_more() {
    let away = |learnt_from_purchases: bool| {
        Story::but(|s| {
            if let Some(fix) = &mut s.facts().fix {
                (fix.position, fix.at) = (north(500.0), NOW);
            }
            if let StationLookup::Known { learnt, .. } = &mut s.inputs.station {
                *learnt = learnt_from_purchases;
            }
        })
        .check(Location)
    };
    assert_eq!(away(false).verdict, Fail);
    let learnt = away(true);
    assert_eq!((learnt.verdict, learnt.evidence.is_learnt_position), (Pass, Some(true)));
    assert_eq!(
        (learnt.evidence.station_position, learnt.evidence.vehicle_position),
        (Some(STATION), Some(north(500.0)))
    );
}

#[test]
fn a_place_the_network_names_stands_in_for_the_directory() {
    let found = |position| {
        Story::but(|s| {
            s.inputs.station = StationLookup::Unknown;
            s.purchase.merchant.position = position;
        })
        .verdict(Location)
    };
    assert_eq!(found(None), Unknown);
    assert_eq!(found(Some(north(10.0))), Pass);
    assert_eq!(found(Some(north(9_000.0))), Fail);
}

#[test]
fn facts_recorded_before_a_field_was_kept_are_still_read() {
    let old = r#"{"vehicle_id":"V1","uses":[],"fix":null,"doubt":null,"last_report":null}"#;
    let facts: VehicleFacts = serde_json::from_str(old).expect("an old record");
    assert_eq!((facts.rest_level, facts.tank_litres, facts.has_driven_since_rest), (None, None, false));
    let now = Story::honest().facts().clone();
    let again: VehicleFacts = serde_json::from_str(&serde_json::to_string(&now).expect("JSON")).expect("read back");
    assert_eq!(again, now);
}
