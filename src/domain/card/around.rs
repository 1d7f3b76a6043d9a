//! A car around the time of a fill, read from its track: what it was before, where it was, and what it was after.

use serde::{Deserialize, Serialize};

use super::checks::PAID_AFTER_MS;
use super::facts::gap_ms;
use crate::domain::gauge::{Gauge, Level};
use crate::domain::twin::{Fix, SignalValue, path};
use crate::domain::{Position, Timestamp, VehicleId};

/// What is known of a car beside its track.
#[derive(Debug, Clone, PartialEq)]
pub struct AboutCar {
    pub vehicle_id: VehicleId,
    pub tank_litres: Option<f64>,
    pub fuel_type: Option<String>,
    /// The card's purchase before this one: what rose after that may be its fill.
    pub previous_at: Option<Timestamp>,
    /// No later report will be waited for.
    pub is_final: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CarAround {
    pub vehicle_id: VehicleId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tank_litres: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel_type: Option<String>,
    /// At rest, before and after the fill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level_before: Option<Level>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level_after: Option<Level>,
    /// What the car drove between the two, beside the fill; absent = it stood all the time, as far as was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driven_km: Option<f64>,
    /// Nearest to the purchase in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odometer_km: Option<f64>,
    /// No later report will be waited for.
    pub is_final: bool,
}

/// All signals of one time.
struct Moment {
    at: Timestamp,
    signals: Vec<(&'static str, SignalValue)>,
}

/// What a track is read for.
const READ: [&str; 7] = [
    path::LATITUDE,
    path::LONGITUDE,
    path::ACCURACY_M,
    path::SPEED_KMH,
    path::LOW_VOLTAGE,
    path::FUEL_PERCENT,
    path::ODOMETER_KM,
];

impl CarAround {
    /// Reads a track around a purchase made at `at`. Each signal has its own time, in any order.
    pub fn from_track<S, P>(about: AboutCar, at: Timestamp, points: impl IntoIterator<Item = (Timestamp, P)>) -> Self
    where
        S: AsRef<str>,
        P: IntoIterator<Item = (S, SignalValue)>,
    {
        let moments = moments(points);
        let previous_ms = about.previous_at.map(|previous| at.since_ms(previous));
        let has_paid_before = previous_ms.is_some_and(|ms| (0..=PAID_AFTER_MS).contains(&ms));
        let before = Stretch::until(at, has_paid_before, &moments);
        let after = Stretch::from(at, before.gauge.clone(), &moments);
        let AboutCar { vehicle_id, tank_litres, fuel_type, is_final, .. } = about;
        let by_odometer = before.odometer_km.zip(after.odometer_km).map(|(from, to)| to - from);
        let stood = (!before.has_driven && !after.has_driven).then_some(0.0);
        let driven_km = by_odometer.filter(|km| *km >= 0.0).or(stood);
        Self {
            vehicle_id,
            tank_litres,
            fuel_type,
            // Across a drive of unknown length two levels say nothing of a fill.
            level_before: before.level,
            level_after: after.level.filter(|_| driven_km.is_some()),
            driven_km: driven_km.filter(|km| *km > 0.0),
            fix: nearest(at, believed(&moments), |fix| fix.at),
            odometer_km: nearest(at, moments.iter().filter_map(Moment::odometer), |(_, at)| *at).map(|(km, _)| km),
            is_final,
        }
    }
}

fn moments<S, P>(points: impl IntoIterator<Item = (Timestamp, P)>) -> Vec<Moment>
where
    S: AsRef<str>,
    P: IntoIterator<Item = (S, SignalValue)>,
{
    let mut signals = Vec::new();
    for (at, point) in points {
        for (name, value) in point {
            let known = READ.into_iter().find(|known| *known == name.as_ref());
            signals.extend(known.map(|known| (at, known, value)));
        }
    }
    signals.sort_by_key(|(at, ..)| *at);
    let mut moments: Vec<Moment> = Vec::new();
    for (at, name, value) in signals {
        match moments.last_mut().filter(|moment| moment.at == at) {
            Some(moment) => moment.signals.push((name, value)),
            None => moments.push(Moment { at, signals: vec![(name, value)] }),
        }
    }
    moments
}

impl Moment {
    fn signals(&self) -> impl Iterator<Item = (&str, &SignalValue)> {
        self.signals.iter().map(|(name, value)| (*name, value))
    }

    fn number(&self, name: &str) -> Option<f64> {
        let (_, value) = self.signals.iter().find(|(known, _)| *known == name)?;
        value.as_number().filter(|number| number.is_finite())
    }

    /// Known where both coordinates are of this time; latitude and longitude of exactly 0 are a receiver without a fix.
    fn fix(&self) -> Option<Fix> {
        let position = Position { latitude: self.number(path::LATITUDE)?, longitude: self.number(path::LONGITUDE)? };
        let is_none = position.latitude == 0.0 && position.longitude == 0.0;
        let accuracy_m = self.number(path::ACCURACY_M).filter(|metres| *metres >= 0.0);
        (position.is_valid() && !is_none).then_some(Fix { position, at: self.at, accuracy_m })
    }

    /// 0 is what units show that do not know it.
    fn odometer(&self) -> Option<(f64, Timestamp)> {
        self.number(path::ODOMETER_KM).filter(|km| *km > 0.0).map(|km| (km, self.at))
    }

    fn turns_on(&self) -> bool {
        self.signals.iter().any(|(name, value)| {
            *name == path::LOW_VOLTAGE && value.as_text().is_some_and(|state| matches!(state, "ON" | "START"))
        })
    }

    fn turns_off(&self) -> bool {
        self.signals.iter().any(|(name, value)| {
            *name == path::LOW_VOLTAGE && value.as_text().is_some_and(|state| matches!(state, "OFF" | "LOCK"))
        })
    }
}

/// The positions that a car can have driven to from the one believed before: a receiver that leaps into the ocean and
/// back says nothing of where the car was meanwhile.
fn believed(moments: &[Moment]) -> impl Iterator<Item = Fix> {
    let mut anchor: Option<Fix> = None;
    moments.iter().filter_map(Moment::fix).filter(move |fix| {
        let is_reached = anchor.is_none_or(|anchor| anchor.reaches(*fix));
        if is_reached {
            anchor = Some(*fix);
        }
        is_reached
    })
}

/// The first of equals.
fn nearest<T>(at: Timestamp, all: impl Iterator<Item = T>, time: impl Fn(&T) -> Timestamp) -> Option<T> {
    all.min_by_key(|one| gap_ms(time(one), at))
}

/// One side of the purchase.
struct Stretch {
    gauge: Gauge,
    level: Option<Level>,
    odometer_km: Option<f64>,
    /// Between the level and the purchase, whichever came first.
    has_driven: bool,
}

impl Stretch {
    fn new(gauge: Gauge) -> Self {
        Self { gauge, level: None, odometer_km: None, has_driven: false }
    }

    /// The newest level before the fill. Whoever pays inside has filled before, so unless the card paid for something
    /// else just before, the lowest level of the last while counts.
    fn until(at: Timestamp, has_paid_before: bool, moments: &[Moment]) -> Self {
        let mut this = Self::new(Gauge::default());
        let mut newest_km = None;
        for moment in moments.iter().take_while(|moment| moment.at <= at) {
            this.gauge.take(moment.at, moment.signals());
            newest_km = moment.odometer().map(|(km, _)| km).or(newest_km);
            let Some(level) = this.gauge.rest() else { continue };
            let is_recent = |known: &Level| !has_paid_before && at.since_ms(known.at) <= PAID_AFTER_MS;
            if this.level.filter(is_recent).is_none_or(|known| level.percent <= known.percent) {
                (this.level, this.odometer_km) = (Some(level), newest_km);
            }
        }
        this.has_driven = this.gauge.has_driven();
        this
    }

    /// The level when the fill was over, or that of the first rest after the next drive.
    fn from(at: Timestamp, gauge: Gauge, moments: &[Moment]) -> Self {
        let mut this = Self::new(gauge);
        this.gauge.restart();
        let (mut newest_km, mut was_off, mut on_at) = (None, false, None);
        for moment in moments {
            newest_km = moment.odometer().map(|(km, _)| km).or(newest_km);
            if was_off && moment.turns_on() && moment.at > at {
                on_at = on_at.or(Some(moment.at));
            }
            was_off = moment.turns_off() || (was_off && !moment.turns_on());
            if moment.at <= at {
                continue;
            }
            this.gauge.take(moment.at, moment.signals());
            if this.gauge.has_driven() {
                // What was measured at the pump counts if the fill was over by then.
                if this.level.is_some_and(|level| is_over(level, at, on_at, Some(moment.at))) {
                    return this;
                }
                (this.has_driven, this.level) = (true, None);
                this.gauge.restart();
            }
            if let Some(level) = this.gauge.rest() {
                (this.level, this.odometer_km) = (Some(level), newest_km);
                if this.has_driven {
                    return this;
                }
            }
        }
        this.level = this.level.filter(|level| is_over(*level, at, on_at, None));
        this
    }
}

/// Was the fill over when the level was measured? The ignition shows it, or time, or the car leaving right after.
fn is_over(level: Level, at: Timestamp, on_at: Option<Timestamp>, left_at: Option<Timestamp>) -> bool {
    const FILLED_MS: i64 = 900_000;
    const LEAVING_MS: i64 = 60_000;
    on_at.is_some_and(|on| on <= level.at)
        || level.at.since_ms(at) >= FILLED_MS
        || left_at.is_some_and(|left| left.since_ms(level.at) <= LEAVING_MS)
}
