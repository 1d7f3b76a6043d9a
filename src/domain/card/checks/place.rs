//! Checks of where: car and station, this purchase and the last, and what kind of place it is.

use super::{Case, Evidence, Finding, Verdict, any_vehicle, round, seconds, span};
use crate::domain::card::facts::{gap_ms, is_same_try, reach_m};
use crate::domain::card::fuel::Takes;
use crate::domain::card::{FixDoubt, LastPurchase, Merchant, Rules, StationId, StationLookup};
use crate::domain::twin::Fix;
use crate::domain::{Position, Timestamp, VehicleId};

/// Where a purchase was made, as far as that can be relied on.
pub(in crate::domain::card) struct Place {
    pub station_id: Option<StationId>,
    pub position: Position,
    pub is_learnt: bool,
}

impl Place {
    fn evidence(&self) -> Evidence {
        Evidence {
            station_id: self.station_id.clone(),
            station_position: Some(self.position),
            is_learnt_position: self.is_learnt.then_some(true),
            ..Evidence::default()
        }
    }
}

/// By the directory, else by what the network itself says; the finding says why it is not known.
pub(in crate::domain::card) fn place_of(station: &StationLookup, merchant: &Merchant) -> Result<Place, Box<Finding>> {
    let in_directory = match station {
        StationLookup::Unknown => Err(Finding::unknown("the station is not in the directory")),
        StationLookup::Ambiguous { stations } => {
            Err(Finding::unknown(format!("{stations} stations go by what the network sent")))
        }
        StationLookup::Known { station_id, position, at_position, learnt, .. } => {
            let evidence = Evidence { station_id: Some(station_id.clone()), ..Evidence::default() };
            match *position {
                None => Err(Finding::unknown(format!("the directory has no position for {station_id}")).with(evidence)),
                Some(_) if *at_position > 1 => {
                    let evidence = Evidence { stations_at_position: Some(*at_position), ..evidence };
                    let text = format!(
                        "the directory puts {at_position} stations at the position of {station_id}: a placeholder"
                    );
                    Err(Finding::unknown(text).with(evidence))
                }
                Some(position) => Ok((station_id, position, *learnt)),
            }
        }
    };
    let by_network = merchant.position.filter(|position| position.is_valid());
    match (in_directory, by_network) {
        (Ok((station_id, position, is_learnt)), _) => {
            Ok(Place { station_id: Some(station_id.clone()), position, is_learnt })
        }
        (Err(_), Some(position)) => Ok(Place { station_id: station.station_id().cloned(), position, is_learnt: false }),
        (Err(finding), None) => Err(Box::new(finding)),
    }
}

pub(super) fn location(case: &Case<'_>) -> Finding {
    let finding = match place_of(&case.inputs.station, &case.purchase.merchant) {
        Err(finding) => *finding,
        Ok(place) => any_vehicle(case, Verdict::Unknown, |facts| {
            let finding = compare_places(case.rules, case.moment(), &facts.vehicle_id, facts.fix, facts.doubt, &place);
            let age_s = facts.fix.map(|fix| case.age_s(fix.at));
            Finding { age_s, ..finding }
        }),
    };
    let lacks_vehicle = finding.verdict == Verdict::Unknown && case.lacks_vehicle();
    Finding { lacks_vehicle, ..finding }
}

/// Was the car at the place at the time? Both phases ask this.
pub(in crate::domain::card) fn compare_places(
    rules: &Rules,
    at: Timestamp,
    vehicle: &VehicleId,
    fix: Option<Fix>,
    doubt: Option<FixDoubt>,
    place: &Place,
) -> Finding {
    let rule = &rules.location;
    let mut evidence = Evidence { vehicle_id: Some(vehicle.clone()), ..place.evidence() };
    let Some(fix) = fix else {
        return Finding::unknown(format!("{vehicle}'s position is not known")).with(evidence);
    };
    let gap_ms = gap_ms(at, fix.at);
    let accuracy_m = fix.accuracy_m.unwrap_or(rule.assumed_accuracy_m);
    let distance_m = fix.position.distance_m(place.position);
    let base_m = rule.base_m + if place.is_learnt { rule.learnt_m } else { 0.0 };
    let allowed_m = base_m + accuracy_m + reach_m(rule.speed_cap_kmh, gap_ms);
    evidence.vehicle_position = Some(fix.position);
    evidence.vehicle_seen_at = Some(fix.at);
    evidence.distance_m = Some(round(distance_m));
    evidence.accuracy_m = Some(accuracy_m);
    evidence.fix_to_purchase_s = Some(seconds(gap_ms));
    evidence.max_fix_age_s = Some(rule.max_fix_age_s);
    let finding = if let Some(doubt) = doubt {
        Finding::unknown(format!("{vehicle}'s position is suspect: {}", doubt.text()))
    } else if gap_ms > i64::from(rule.max_fix_age_s) * 1000 {
        Finding::unknown(format!("{vehicle}'s position is {} from the purchase in time", span(gap_ms)))
    } else if accuracy_m > rule.max_accuracy_m {
        Finding::unknown(format!("{vehicle}'s position is exact to {accuracy_m:.0} m only"))
    } else {
        evidence.allowed_m = Some(round(allowed_m));
        let text = format!(
            "{vehicle} was {distance_m:.0} m from the station, {} from the purchase in time; {allowed_m:.0} m are allowed",
            span(gap_ms)
        );
        Finding::holds(distance_m <= allowed_m, text)
    };
    finding.with(evidence)
}

/// The card can have come here from its last purchase.
pub(super) fn travel(case: &Case<'_>) -> Finding {
    let Some(last) = &case.inputs.spending.last else {
        return Finding::pass("the card has bought nothing lately");
    };
    let evidence = Evidence {
        last_purchase_at: Some(last.at),
        last_station_id: last.station_id.clone(),
        last_position: last.position,
        ..Evidence::default()
    };
    if is_same_try(case.purchase, last) {
        return Finding::pass("it is the last purchase tried again, or more of it").with(evidence);
    }
    if let StationLookup::Known { station_id, is_offline_batch: true, .. } = &case.inputs.station {
        let text = format!("{station_id} posts its purchases later, so its times say nothing");
        return Finding::unknown(text).with(evidence);
    }
    match place_of(&case.inputs.station, &case.purchase.merchant) {
        Err(finding) => *finding,
        Ok(place) => compare_purchases(case, last, &place, evidence),
    }
}

fn compare_purchases(case: &Case<'_>, last: &LastPurchase, place: &Place, evidence: Evidence) -> Finding {
    let rule = &case.rules.duplicate_or_impossible_travel;
    let Some(from) = last.position else {
        return Finding::unknown("where the card was before is not known").with(evidence);
    };
    // Both by the network's clock.
    let gap_ms = gap_ms(case.purchase.at, last.at);
    let distance_m = from.distance_m(place.position);
    let allowed_m = rule.allowance_m + reach_m(rule.speed_cap_kmh, gap_ms);
    let here = place.evidence();
    let evidence = Evidence {
        station_id: here.station_id,
        station_position: here.station_position,
        is_learnt_position: here.is_learnt_position,
        distance_m: Some(round(distance_m)),
        allowed_m: Some(round(allowed_m)),
        ..evidence
    };
    let text = format!(
        "the card's last purchase was {distance_m:.0} m away and {} before; {allowed_m:.0} m are allowed",
        span(gap_ms)
    );
    Finding::holds(distance_m <= allowed_m, text).with(evidence)
}

pub(super) fn merchant_category(case: &Case<'_>) -> Finding {
    let rule = &case.rules.merchant_category;
    let station_id = case.inputs.station.station_id().cloned();
    let code = case.purchase.merchant.category_code.as_deref().map(str::trim).filter(|code| !code.is_empty());
    let evidence =
        Evidence { station_id: station_id.clone(), category_code: code.map(str::to_owned), ..Evidence::default() };
    if let Some(station) = station_id.filter(|station| rule.blocked_stations.contains(station)) {
        return Finding::fail(format!("the fleet has blocked station {station}")).with(evidence);
    }
    let Some(code) = code else {
        return Finding::unknown("the network names no merchant category").with(evidence);
    };
    if rule.allowed.iter().any(|allowed| allowed == code) {
        return Finding::pass(format!("merchant category {code} sells fuel")).with(evidence);
    }
    if !rule.allowed_if_charging.iter().any(|allowed| allowed == code) {
        return Finding::fail(format!("merchant category {code} is not one for fuel")).with(evidence);
    }
    any_vehicle(case, Verdict::Unknown, |facts| {
        let vehicle = &facts.vehicle_id;
        let charges = facts.fuel_type.as_deref().and_then(|text| Takes::of(text).charges());
        let finding = match charges {
            None => Finding::unknown(format!("whether {vehicle} charges is not known")),
            Some(true) => Finding::pass(format!("merchant category {code} is for charging, and {vehicle} charges")),
            Some(false) => Finding::fail(format!("merchant category {code} is for charging, and {vehicle} does not")),
        };
        let fuel_type = facts.fuel_type.clone();
        finding.with(Evidence { vehicle_id: Some(vehicle.clone()), fuel_type, ..evidence.clone() })
    })
}
