//! Checks of the card itself: its state, what is keyed in with it, and where it is kept.

use super::{Case, Evidence, Finding, Verdict, any_vehicle};
use crate::domain::card::{CardStatus, VehicleLookup};

pub(super) fn card_active(case: &Case<'_>) -> Finding {
    let Some(card) = &case.inputs.card else {
        return Finding::fail("the card is not one of the fleet's");
    };
    let evidence = Evidence { vehicle_id: card.vehicle_id.clone(), ..Evidence::default() };
    let finding = match (card.status, &card.vehicle_id) {
        (CardStatus::Suspended, _) => Finding::fail("the card is suspended"),
        (CardStatus::Active, None) => Finding::fail("the card is bound to no vehicle"),
        (CardStatus::Active, Some(vehicle)) => {
            let is_registered = |lookup: &VehicleLookup| !matches!(lookup, VehicleLookup::NotRegistered(_));
            if case.inputs.vehicles.iter().any(is_registered) {
                Finding::pass(format!("the card is active and bound to {vehicle}"))
            } else {
                Finding::fail(format!("the card is bound to {vehicle}, which nobody registered"))
            }
        }
    };
    finding.with(evidence)
}

/// What was keyed in is what the card expects. What it was is in the purchase, not in the detail.
pub(super) fn driver_prompt(case: &Case<'_>) -> Finding {
    let Some(card) = &case.inputs.card else { return Finding::unknown("the card is not known") };
    let (expected, keyed) = (&card.prompts, &case.purchase.prompts);
    if expected.vehicle_number.is_none() && expected.driver_id.is_none() {
        return Finding::unknown("the card expects no vehicle number and no driver id");
    }
    let number = matches(expected.vehicle_number.as_deref(), keyed.vehicle_number.as_deref());
    let driver = matches(expected.driver_id.as_deref(), keyed.driver_id.as_deref());
    let finding = match (number, driver) {
        (None, None) => Finding::unknown("nothing was keyed in that the card expects"),
        (Some(false), Some(false)) => Finding::fail("neither vehicle number nor driver id is the card's"),
        (Some(false), _) => Finding::fail("the vehicle number keyed in is not the card's"),
        (_, Some(false)) => Finding::fail("the driver id keyed in is not the card's"),
        (Some(true), Some(true)) => Finding::pass("vehicle number and driver id are the card's"),
        (Some(true), None) => Finding::pass("the vehicle number keyed in is the card's"),
        (None, Some(true)) => Finding::pass("the driver id keyed in is the card's"),
    };
    finding.with(Evidence { vehicle_number_matches: number, driver_id_matches: driver, ..Evidence::default() })
}

/// `None` = nothing to compare. A pump that takes digits only is compared by digits.
fn matches(expected: Option<&str>, keyed: Option<&str>) -> Option<bool> {
    let (expected, keyed) = (plain(expected?), plain(keyed?));
    if expected.is_empty() || keyed.is_empty() {
        return None;
    }
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let is_numeric = keyed.chars().all(|c| c.is_ascii_digit());
    if !is_numeric {
        return Some(bare(&expected) == bare(&keyed));
    }
    let expected = digits(&expected);
    // A name of letters only cannot be keyed in there.
    (!expected.is_empty()).then(|| bare(&expected) == bare(&keyed))
}

/// Letters and digits alone, in capitals, digits of every width as ASCII.
fn plain(text: &str) -> String {
    let ascii = |c: char| match c {
        '０'..='９' => char::from_u32(u32::from(c) - u32::from('０') + u32::from('0')).unwrap_or(c),
        other => other,
    };
    text.chars().map(ascii).filter(|c| c.is_alphanumeric()).flat_map(char::to_uppercase).collect()
}

/// Without leading zeros; all zeros are one.
fn bare(text: &str) -> &str {
    match text.trim_start_matches('0') {
        "" => "0",
        rest => rest,
    }
}

pub(super) fn card_in_car(case: &Case<'_>) -> Finding {
    any_vehicle(case, Verdict::Unknown, |facts| {
        let vehicle = &facts.vehicle_id;
        let evidence = Evidence { vehicle_id: Some(vehicle.clone()), ..Evidence::default() };
        let Some(present) = facts.card_present else {
            return Finding::unknown(format!("{vehicle} has no sensor for its card")).with(evidence);
        };
        let used = facts.in_use_at(case.moment(), &case.rules.rental_state);
        let evidence =
            Evidence { is_card_present: Some(present.value), rental_id: used.map(|used| used.rental_id), ..evidence };
        let finding = match (present.value, used) {
            // Measured after the purchase it says nothing of the time before.
            (false, None) if present.at > case.moment() => {
                Finding::unknown(format!("{vehicle}'s card was missed only after the purchase"))
            }
            (false, None) => Finding::fail(format!("{vehicle}'s card is missing while the car is in no rental")),
            (false, Some(_)) => Finding::pass(format!("{vehicle}'s card is out of the car in a rental")),
            (true, _) => Finding::pass(format!("{vehicle} says that its card is in its holder")),
        };
        finding.with(evidence).aged(case.age_s(present.at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_keyed_in_matches_however_it_is_written() {
        let cases = [
            (Some("B-AB 1234"), Some("b ab1234"), Some(true)),
            (Some("B-AB 1234"), Some("1234"), Some(true)),
            (Some("B-AB 1234"), Some("01234"), Some(true)),
            (Some("B-AB 1234"), Some("1235"), Some(false)),
            (Some("B-AB 1234"), Some("B-AC 1234"), Some(false)),
            (Some("0042"), Some("42"), Some(true)),
            (Some("品川 300 あ 12-34"), Some("３００１２３４"), Some(true)),
            (Some("anna"), Some("1234"), None),
            (Some("anna"), Some("ANNA"), Some(true)),
            (Some("anna"), Some(" - "), None),
            (Some("000"), Some("0"), Some(true)),
            (Some("000"), Some("1"), Some(false)),
            (Some("42"), None, None),
            (None, Some("42"), None),
        ];
        for (expected, keyed, matching) in cases {
            assert_eq!(matches(expected, keyed), matching, "{expected:?} {keyed:?}");
        }
    }
}
