//! The checks of how much and how often, as tables of situations.

use super::checks_tests::{change, last, table};
use super::test_cases::{MIN, Story};
use super::*;

use CheckName::{Amount, Velocity};
use Verdict::{Fail, Pass, Unknown};

#[test]
fn velocity_by_count() {
    let counts = |day_count, week_count| {
        change(move |s: &mut Story| {
            s.inputs.spending = Spending { day_count, week_count, ..Spending::default() };
        })
    };
    table(
        Velocity,
        vec![
            ("the first", counts(0, 0), Pass),
            ("the fifth of the day", counts(4, 4), Pass),
            ("the sixth", counts(5, 5), Fail),
            ("the fifteenth of the week", counts(0, 14), Pass),
            ("the sixteenth", counts(0, 15), Fail),
            (
                "no limit",
                change(|s| {
                    s.inputs.spending.day_count = 1_000;
                    (s.rules.velocity.per_day, s.rules.velocity.per_week) = (0, 0);
                }),
                Pass,
            ),
            (
                "the fifth, tried again",
                change(|s| {
                    s.inputs.spending =
                        Spending { day_count: 5, week_count: 5, last: Some(last(MIN)), ..Spending::default() };
                    s.purchase.amount.amount_minor = 4_000;
                    s.purchase.merchant.network_id = Some("N".into());
                    s.purchase.merchant.terminal_id = Some("1".into());
                }),
                Pass,
            ),
        ],
    );
}

#[test]
fn velocity_by_amount_follows_the_strictest_limit() {
    // 50 EUR are asked for.
    let story = |of_fleet: Option<i64>, of_card: Option<i64>, currency: &str, spent: i64, partial: bool| {
        let limits = CardLimits { per_day_minor: of_card, currency: currency.into(), ..CardLimits::default() };
        Story::but(|s| {
            s.rules.velocity.per_day_minor = of_fleet.map(|limit| ("eur".to_owned(), limit)).into_iter().collect();
            s.card().limits = limits;
            s.inputs.spending.day_minor = spent;
            s.purchase.partial_allowed = partial;
        })
    };
    let found = |story: Story| {
        let check = story.check(Velocity);
        (check.verdict, check.cap_minor)
    };
    assert_eq!(found(story(None, None, "", 1_000_000, false)), (Pass, None));
    assert_eq!(found(story(Some(10_000), None, "", 5_000, false)), (Pass, None));
    assert_eq!(found(story(Some(10_000), None, "", 5_001, false)), (Fail, None));
    assert_eq!(found(story(Some(10_000), None, "", 5_001, true)), (Pass, Some(4_999)));
    assert_eq!(found(story(Some(10_000), None, "", 10_000, true)), (Fail, None));
    assert_eq!(found(story(Some(10_000), Some(6_000), "EUR", 2_000, false)), (Fail, None));
    assert_eq!(found(story(Some(4_000), Some(6_000), "EUR", 0, false)), (Fail, None));
    assert_eq!(found(story(None, Some(1), "usd", 0, false)), (Unknown, None));
}

#[test]
fn amount_is_cut_where_it_may_be() {
    let story = |asked, partial, of_card: Option<i64>| {
        Story::but(|s| {
            s.rules.tank_space.mode = CheckMode::Off;
            s.purchase.amount.amount_minor = asked;
            s.purchase.partial_allowed = partial;
            s.card().limits =
                CardLimits { per_purchase_minor: of_card, currency: "EUR".into(), ..CardLimits::default() };
        })
    };
    let found = |story: Story| {
        let ruling = story.ruling();
        (story.verdict(Amount), ruling.outcome, ruling.cap_minor, ruling.limit_minor)
    };
    assert_eq!(found(story(40_000, false, None)), (Pass, Outcome::Approve, None, Some(40_000)));
    assert_eq!(found(story(40_001, false, None)), (Fail, Outcome::Decline, None, None));
    assert_eq!(found(story(40_001, true, None)), (Pass, Outcome::ApproveCapped, Some(40_000), Some(40_000)));
    assert_eq!(found(story(8_000, true, Some(6_000))), (Pass, Outcome::ApproveCapped, Some(6_000), Some(6_000)));
    assert_eq!(found(story(8_000, false, Some(6_000))), (Fail, Outcome::Decline, None, None));
    let mut warns = story(40_001, true, None);
    warns.rules.amount.fail = FailPolicy::Warn;
    assert_eq!(found(warns), (Fail, Outcome::Approve, None, None));
    let mut foreign = story(1, true, Some(6_000));
    foreign.card().limits.currency = "usd".into();
    assert_eq!(foreign.verdict(Amount), Unknown);
}
