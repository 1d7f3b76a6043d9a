//! Checks of how much and how often a card pays. The fleet's and the card's limits both count, the strictest first.

use super::{Case, Evidence, Finding};
use crate::domain::card::facts::is_same_try;
use crate::domain::card::{ByCurrency, CardLimits};

/// The strictest limit for the purchase's currency, and whether the card has one that cannot be compared.
struct Limit {
    minor: Option<i64>,
    is_in_other_currency: bool,
}

fn limit(case: &Case<'_>, of_fleet: &ByCurrency, of_card: impl Fn(&CardLimits) -> Option<i64>) -> Limit {
    let currency = case.purchase.amount.currency.to_ascii_lowercase();
    let fleet = of_fleet.get(&currency).copied();
    let limits = case.inputs.card.as_ref().map(|card| &card.limits);
    let card = limits.and_then(|limits| Some((of_card(limits)?, limits.currency.eq_ignore_ascii_case(&currency))));
    let comparable = card.and_then(|(minor, is_same)| is_same.then_some(minor));
    Limit {
        minor: fleet.into_iter().chain(comparable).min(),
        is_in_other_currency: card.is_some_and(|(_, is_same)| !is_same),
    }
}

/// One window of the velocity check: so many, so much, and how many and how much are allowed.
struct Window {
    name: &'static str,
    count: u32,
    max_count: u32,
    minor: i64,
    max: Limit,
}

impl Window {
    fn is_count_above(&self) -> bool {
        self.max_count > 0 && self.count > self.max_count
    }

    /// What this purchase may still come to.
    fn left(&self, amount: i64) -> Option<i64> {
        self.max.minor.map(|max| max.saturating_sub(self.minor.saturating_sub(amount)))
    }
}

pub(super) fn velocity(case: &Case<'_>) -> Finding {
    let (rule, spending) = (&case.rules.velocity, &case.inputs.spending);
    let asked = case.purchase.amount.amount_minor.max(0);
    // A repeat is in the counts already; an increment is more of a purchase that is.
    let last = spending.last.as_ref().filter(|last| is_same_try(case.purchase, last));
    let is_repeat = last.is_some_and(|last| last.authorization_id != case.purchase.authorization_id);
    let (more, amount) = (u32::from(last.is_none()), if is_repeat { 0 } else { asked });
    // A cap is for the whole authorisation, what was approved of it before included.
    let before = last.filter(|_| !is_repeat).map_or(0, |last| last.amount.amount_minor.max(0));
    let windows = [
        Window {
            name: "24 hours",
            count: spending.day_count.saturating_add(more),
            max_count: rule.per_day,
            minor: spending.day_minor.saturating_add(amount),
            max: limit(case, &rule.per_day_minor, |limits| limits.per_day_minor),
        },
        Window {
            name: "7 days",
            count: spending.week_count.saturating_add(more),
            max_count: rule.per_week,
            minor: spending.week_minor.saturating_add(amount),
            max: limit(case, &rule.per_week_minor, |limits| limits.per_week_minor),
        },
    ];
    let max_count = |window: &Window| (window.max_count > 0).then_some(window.max_count);
    let [day, week] = &windows;
    let evidence = Evidence {
        day_count: Some(day.count),
        max_day_count: max_count(day),
        week_count: Some(week.count),
        max_week_count: max_count(week),
        day_minor: Some(day.minor),
        max_day_minor: day.max.minor,
        week_minor: Some(week.minor),
        max_week_minor: week.max.minor,
        currency: Some(case.purchase.amount.currency.clone()),
        ..Evidence::default()
    };
    judge_windows(case, &windows, amount, before).with(evidence)
}

fn judge_windows(case: &Case<'_>, windows: &[Window; 2], amount: i64, before: i64) -> Finding {
    if let Some(above) = windows.iter().find(|window| window.is_count_above()) {
        let Window { count, max_count, name, .. } = above;
        return Finding::fail(format!("it is purchase {count} in {name}; {max_count} are allowed"));
    }
    let tightest =
        windows.iter().filter_map(|window| Some((window.left(amount)?, window))).min_by_key(|(left, _)| *left);
    if let Some((left, window)) = tightest
        && amount > left
    {
        let text = format!("{} minor units in {} are above the limit", window.minor, window.name);
        return match case.may_cut(case.rules.velocity.fail) && left > 0 {
            true => Finding::pass(format!("{text}; {left} are left")).capped(left.saturating_add(before)),
            false => Finding::fail(text),
        };
    }
    if windows.iter().any(|window| window.max.is_in_other_currency) {
        return Finding::unknown("the card's limits are in another currency");
    }
    let [day, week] = windows;
    Finding::pass(format!("it is purchase {} in 24 hours and {} in 7 days", day.count, week.count))
}

pub(super) fn amount(case: &Case<'_>) -> Finding {
    let asked = case.purchase.amount.amount_minor;
    let currency = &case.purchase.amount.currency;
    let max = limit(case, &case.rules.amount.max_minor, |limits| limits.per_purchase_minor);
    let evidence = Evidence {
        amount_minor: Some(asked),
        max_amount_minor: max.minor,
        currency: Some(currency.clone()),
        ..Evidence::default()
    };
    let finding = match max.minor {
        Some(most) if asked <= most && max.is_in_other_currency => {
            Finding::unknown("the card's limit is in another currency").capped(most)
        }
        Some(most) if asked <= most => Finding::pass(format!("{asked} of at most {most} minor units")).capped(most),
        Some(most) if case.may_cut(case.rules.amount.fail) => {
            Finding::pass(format!("{asked} minor units are above {most}, and are cut to that")).capped(most)
        }
        Some(most) => Finding::fail(format!("{asked} minor units are above {most}, and cannot be cut")),
        None if max.is_in_other_currency => Finding::unknown("the card's limit is in another currency"),
        None => Finding::pass(format!("there is no maximum in {currency}")),
    };
    finding.with(evidence)
}
