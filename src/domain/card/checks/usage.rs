//! Checks of what the car is used for and does: its rental, the hours, its motion, its odometer, its silence.

use super::{Case, Evidence, Finding, Verdict, any_vehicle, round, seconds, span};
use crate::domain::card::facts::{VehicleFacts, gap_ms, reach_m};
use crate::domain::card::{FixDoubt, StationLookup};

pub(super) fn rental_state(case: &Case<'_>) -> Finding {
    any_vehicle(case, Verdict::Fail, |facts| {
        let rule = &case.rules.rental_state;
        let at = case.moment();
        let mut evidence = Evidence {
            vehicle_id: Some(facts.vehicle_id.clone()),
            grace_min: Some(rule.grace_min),
            ..Evidence::default()
        };
        let used = facts.in_use_at(at, rule);
        if let Some(used) = used.or_else(|| facts.last_use_before(at)) {
            evidence.rental_id = Some(used.rental_id);
            evidence.rental_ended_at = used.until.filter(|until| *until <= at);
        }
        let vehicle = &facts.vehicle_id;
        let finding = match (used, evidence.rental_ended_at) {
            (Some(_), None) => Finding::pass(format!("{vehicle} was in a rental")),
            (Some(_), Some(ended)) => Finding::pass(format!(
                "{vehicle}'s rental ended at {ended}, within the grace of {} min",
                rule.grace_min
            )),
            (None, Some(ended)) => Finding::fail(format!(
                "{vehicle} was in no rental; its last one ended at {ended}, {} before",
                span(at.since_ms(ended))
            )),
            (None, None) => Finding::fail(format!("{vehicle} was in no rental")),
        };
        finding.with(evidence)
    })
}

pub(super) fn telematics_fresh(case: &Case<'_>) -> Finding {
    any_vehicle(case, Verdict::Unknown, |facts| {
        let rule = &case.rules.telematics_fresh;
        let vehicle = &facts.vehicle_id;
        let evidence = Evidence {
            vehicle_id: Some(vehicle.clone()),
            max_silence_s: Some(rule.max_silence_s),
            ..Evidence::default()
        };
        let Some(last) = facts.last_report else {
            return Finding::unknown(format!("{vehicle} was never heard of")).with(evidence);
        };
        let silence_ms = case.moment().since_ms(last).max(0);
        let is_fresh = silence_ms <= i64::from(rule.max_silence_s) * 1000;
        let verdict = if is_fresh { Verdict::Pass } else { Verdict::Unknown };
        let text = format!("{vehicle} was last heard of {} before the purchase", span(silence_ms));
        Finding::new(verdict, text)
            .with(Evidence { silence_s: Some(seconds(silence_ms)), ..evidence })
            .aged(case.age_s(last))
    })
}

/// By the station's own clock, else by the fleet's.
pub(super) fn hours(case: &Case<'_>) -> Finding {
    let windows = &case.rules.hours.windows;
    if windows.is_empty() {
        return Finding::pass("the fleet has no hours");
    }
    let at = case.moment();
    let of_station = match &case.inputs.station {
        StationLookup::Known { time_zone, .. } => time_zone.as_deref(),
        StationLookup::Unknown | StationLookup::Ambiguous { .. } => None,
    };
    let local = |zone: &str| {
        let zone = jiff::tz::TimeZone::get(zone).ok()?;
        Some(jiff::Timestamp::from_millisecond(at.0).ok()?.to_zoned(zone))
    };
    // A zone that the directory misspells is as good as none.
    let zones = [of_station, Some(case.rules.time_zone.as_str())];
    let known = zones.into_iter().flatten().find_map(|zone| Some((zone, local(zone)?)));
    let Some((zone, local)) = known else {
        return Finding::unknown("the station's local time is not known");
    };
    let is_within = windows.iter().any(|window| window.in_zone(zone).covers(at, at));
    let local_time = local.strftime("%a %Y-%m-%d %H:%M").to_string();
    let text =
        format!("it was {local_time} in {zone}, {} the fleet's hours", if is_within { "within" } else { "outside of" });
    Finding::holds(is_within, text).with(Evidence {
        local_time: Some(local_time),
        time_zone: Some(zone.to_owned()),
        ..Evidence::default()
    })
}

pub(super) fn ignition_and_motion(case: &Case<'_>) -> Finding {
    any_vehicle(case, Verdict::Unknown, |facts| {
        let rule = &case.rules.ignition_and_motion;
        let vehicle = &facts.vehicle_id;
        let mut evidence = Evidence {
            vehicle_id: Some(vehicle.clone()),
            max_speed_kmh: Some(rule.max_speed_kmh),
            is_ignition_on: facts.ignition.map(|ignition| ignition.value),
            ..Evidence::default()
        };
        let Some(speed) = facts.speed else {
            return Finding::unknown(format!("{vehicle}'s speed is not known")).with(evidence);
        };
        let gap_ms = gap_ms(case.moment(), speed.at);
        evidence.speed_kmh = Some(speed.value);
        evidence.speed_to_purchase_s = Some(seconds(gap_ms));
        let (kmh, is_moving) = (speed.value.abs(), speed.value.abs() > rule.max_speed_kmh);
        let finding = if gap_ms > i64::from(rule.max_gap_s) * 1000 {
            Finding::unknown(format!("{vehicle}'s speed is {} from the purchase in time", span(gap_ms)))
        } else if let Some(doubt) = speed_doubt(facts).filter(|_| is_moving) {
            Finding::unknown(format!("{vehicle}'s speed is suspect: {}", doubt.text()))
        } else {
            let text = format!("{vehicle} drove {kmh:.0} km/h, {} from the purchase in time", span(gap_ms));
            Finding::holds(!is_moving, text)
        };
        finding.with(evidence).aged(case.age_s(speed.at))
    })
}

/// Why a speed is not believed: the ignition says otherwise, or no car drives so fast.
fn speed_doubt(facts: &VehicleFacts) -> Option<FixDoubt> {
    let speed = facts.speed?;
    if !speed.value.is_finite() || speed.value.abs() > VehicleFacts::IMPOSSIBLE_KMH {
        return Some(FixDoubt::ImpossibleSpeed);
    }
    facts.ignition.filter(|ignition| !ignition.value && ignition.at <= speed.at).map(|_| FixDoubt::MovingWhileOff)
}

pub(super) fn odometer(case: &Case<'_>) -> Finding {
    let keyed_km = case.purchase.prompts.odometer_km.filter(|km| km.is_finite() && *km >= 0.0);
    let Some(keyed_km) = keyed_km else {
        return Finding::unknown("no odometer was keyed in");
    };
    any_vehicle(case, Verdict::Unknown, |facts| {
        let rule = &case.rules.odometer;
        let vehicle = &facts.vehicle_id;
        let mut evidence =
            Evidence { vehicle_id: Some(vehicle.clone()), keyed_km: Some(keyed_km), ..Evidence::default() };
        // 0 is what units show that do not know it.
        let Some(car) = facts.odometer.filter(|car| car.value.is_finite() && car.value > 0.0) else {
            return Finding::unknown(format!("{vehicle}'s odometer is not known")).with(evidence);
        };
        let gap_ms = gap_ms(case.moment(), car.at);
        evidence.vehicle_km = Some(round(car.value));
        let finding = if gap_ms > i64::from(rule.max_age_s) * 1000 {
            Finding::unknown(format!("{vehicle}'s odometer is {} from the purchase in time", span(gap_ms)))
        } else {
            let reach_km = reach_m(case.rules.location.speed_cap_kmh, gap_ms) / 1000.0;
            // It can only have gone up since, or have been lower before.
            let (less_km, more_km) = match car.at <= case.moment() {
                true => (rule.max_difference_km, rule.max_difference_km + reach_km),
                false => (rule.max_difference_km + reach_km, rule.max_difference_km),
            };
            let difference_km = keyed_km - car.value;
            evidence.allowed_km = Some(round(if difference_km < 0.0 { less_km } else { more_km }));
            let text = format!("{keyed_km:.0} km were keyed in, and {vehicle} shows {:.0} km", car.value);
            Finding::holds((-less_km..=more_km).contains(&difference_km), text)
        };
        finding.with(evidence).aged(case.age_s(car.at))
    })
}
