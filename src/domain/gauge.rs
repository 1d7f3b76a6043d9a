//! The tank's level as it can be believed: measured while the car stood.
//!
//! A moving car's sensor swings by tens of points within seconds, a standing one's by less than half a point. So a
//! level counts only at rest, as the median of the last few, and only until the car drives again.

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::twin::{SignalValue, path};

/// How full a tank was, at rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// 0 to 100.
    pub percent: f64,
    /// When it was last measured to be so.
    pub at: Timestamp,
}

/// A level that fell while the car stood.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fall {
    pub from: Level,
    pub to: Level,
}

/// Follows one car's reports and knows its newest level at rest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Gauge {
    /// The newest levels of this rest, oldest first.
    samples: Vec<f64>,
    rest: Option<Level>,
    /// Since when the car is known to stand.
    standing_since: Option<Timestamp>,
    is_off: bool,
    /// Since when the ignition is known to be on.
    on_since: Option<Timestamp>,
    /// It was seen to drive after `rest`.
    has_driven: bool,
    odometer_km: Option<f64>,
    /// The lowest and the highest level since it last fell: a fill shows between them.
    low: f64,
    high: f64,
    filled_at: Option<Timestamp>,
    /// The highest level since the car last drove that more than one sample bears out.
    stood: Option<Level>,
    fell: Option<Fall>,
}

impl Gauge {
    const SAMPLES: usize = 3;
    /// Receivers show a little speed where there is none.
    const STANDING_KMH: f64 = 1.0;
    const DRIVING_KMH: f64 = 5.0;
    /// For so long after a stop the fuel still moves in the tank; not with the ignition off, which comes later.
    const SETTLING_MS: i64 = 10_000;
    /// At rest a level that differs by more was filled or drained: what was measured before no longer counts.
    const STEP_PERCENT: f64 = 3.0;
    /// An odometer that went on by more has been driven, whatever the speed says.
    const DRIVEN_KM: f64 = 0.3;
    /// Less is the slope of a street.
    const FILL_PERCENT: f64 = 5.0;
    /// An engine that idles for longer burns what a fall would otherwise show.
    const IDLING_MS: i64 = 1_800_000;
    /// Less is what sensors of parked cars show by themselves: temperature, a kerb, a poor sender.
    const FALL_PERCENT: f64 = 10.0;

    /// Takes one moment's signals, whatever of them there is. Moments come in the order of their times.
    pub fn take<'a>(&mut self, at: Timestamp, signals: impl IntoIterator<Item = (&'a str, &'a SignalValue)>) {
        let (mut speed, mut level) = (None, None);
        for (name, value) in signals {
            match (name, value) {
                (path::LOW_VOLTAGE, SignalValue::Text(state)) => self.take_ignition(at, state),
                (path::ODOMETER_KM, SignalValue::Number(km)) => self.take_odometer(*km),
                (path::SPEED_KMH, SignalValue::Number(kmh)) => speed = Some(kmh.abs()),
                (path::FUEL_PERCENT, SignalValue::Number(percent)) => level = Some(*percent),
                _ => {}
            }
        }
        // A speed says more of a drive than the ignition does, and the level is judged by both.
        if let Some(kmh) = speed {
            self.take_speed(at, kmh);
        }
        if let Some(percent) = level {
            self.take_level(at, percent);
        }
    }

    fn take_speed(&mut self, at: Timestamp, kmh: f64) {
        if kmh < Self::STANDING_KMH {
            self.standing_since.get_or_insert(at);
            return;
        }
        self.standing_since = None;
        // Whatever says "off" while the car moves is not believed.
        self.is_off = false;
        if kmh > Self::DRIVING_KMH || kmh.is_nan() {
            self.drive();
        }
    }

    fn take_ignition(&mut self, at: Timestamp, state: &str) {
        self.is_off = matches!(state, "OFF" | "LOCK");
        if self.is_off {
            self.on_since = None;
            self.standing_since.get_or_insert(at);
        } else {
            self.on_since.get_or_insert(at);
        }
    }

    fn take_odometer(&mut self, km: f64) {
        if self.odometer_km.is_some_and(|known| km - known > Self::DRIVEN_KM) {
            self.drive();
            self.standing_since = None;
        }
        // Kept from the rest on, so that a crawl adds up.
        if self.odometer_km.is_none() || self.has_driven {
            self.odometer_km = Some(km);
        }
    }

    fn drive(&mut self) {
        self.has_driven = true;
        self.samples.clear();
        self.stood = None;
    }

    fn take_level(&mut self, at: Timestamp, percent: f64) {
        // Also refuses what is not a number.
        if !(0.0..=100.0).contains(&percent) {
            return;
        }
        let is_settled = self.standing_since.is_some_and(|since| {
            let stood_ms = at.since_ms(since);
            stood_ms >= Self::SETTLING_MS || (self.is_off && stood_ms >= 0)
        });
        if !is_settled {
            return;
        }
        if !self.samples.is_empty() && (median(&self.samples) - percent).abs() > Self::STEP_PERCENT {
            self.samples.clear();
        }
        if self.samples.len() == Self::SAMPLES {
            self.samples.remove(0);
        }
        self.samples.push(percent);
        let level = Level { percent: median(&self.samples), at };
        self.note_fill(level);
        self.note_fall(level);
        self.rest = Some(level);
        self.has_driven = false;
    }

    fn note_fill(&mut self, level: Level) {
        let Level { percent, at } = level;
        if self.rest.is_none() || percent < self.low || percent < self.high - Self::FILL_PERCENT {
            (self.low, self.high) = (percent, percent);
        } else if percent > self.high {
            self.high = percent;
            if percent - self.low >= Self::FILL_PERCENT {
                self.filled_at = Some(at);
            }
        }
    }

    /// Only as many samples as the median takes speak of a fall: one wrong value is no theft.
    fn note_fall(&mut self, level: Level) {
        if self.samples.len() < 2 {
            return;
        }
        let may_burn = self.on_since.is_some_and(|since| level.at.since_ms(since) > Self::IDLING_MS);
        match self.stood {
            Some(from) if !may_burn && from.percent - level.percent >= Self::FALL_PERCENT => {
                if self.samples.len() == Self::SAMPLES {
                    self.fell = Some(Fall { from, to: level });
                    self.stood = Some(level);
                }
            }
            // Within the noise it is still there.
            Some(from) if !may_burn && level.percent < from.percent => {
                let is_there = from.percent - level.percent <= Self::STEP_PERCENT;
                let at = if is_there { level.at } else { from.at };
                self.stood = Some(Level { at, ..from });
            }
            Some(_) | None => self.stood = Some(level),
        }
    }

    /// The car was out of sight: without an odometer nobody knows whether it has driven meanwhile.
    pub fn lost_sight(&mut self) {
        if self.odometer_km.is_none() {
            self.stood = None;
        }
    }

    /// The newest fall, not taken back by a later rise.
    pub fn fell(&self) -> Option<Fall> {
        self.fell
    }

    /// The newest level at rest, be it from before the last drive.
    pub fn rest(&self) -> Option<Level> {
        self.rest
    }

    /// Was the car seen to drive since the level at rest was measured?
    pub fn has_driven(&self) -> bool {
        self.has_driven
    }

    /// When the level was last seen to have risen as by a fill.
    pub fn filled_at(&self) -> Option<Timestamp> {
        self.filled_at
    }

    /// Forgets what was measured, but not whether the car stands.
    pub fn restart(&mut self) {
        self.samples.clear();
        self.rest = None;
        self.has_driven = false;
    }
}

/// The lower one of two: in doubt there is more room in the tank. 0 of none.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One report: second, speed, ignition, level.
    type Row = (i64, Option<f64>, Option<&'static str>, Option<f64>);

    fn gauge(reports: &[Row]) -> Gauge {
        let mut gauge = Gauge::default();
        for (second, speed, ignition, level) in reports {
            let number = |value: Option<f64>| value.map(SignalValue::Number);
            let ignition = ignition.map(|state| SignalValue::Text(state.into()));
            let (speed, level) = (number(*speed), number(*level));
            let signals = [(path::FUEL_PERCENT, &level), (path::SPEED_KMH, &speed), (path::LOW_VOLTAGE, &ignition)];
            let signals = signals.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
            gauge.take(Timestamp(second * 1_000), signals);
        }
        gauge
    }

    fn percent(gauge: &Gauge) -> Option<f64> {
        gauge.rest().map(|level| level.percent)
    }

    #[test]
    fn a_level_counts_only_once_the_car_has_stood_for_a_while() {
        assert_eq!(percent(&gauge(&[(0, Some(40.0), None, Some(60.0))])), None, "it drives");
        assert_eq!(percent(&gauge(&[(0, None, None, Some(60.0))])), None, "nobody knows whether it drives");
        assert_eq!(percent(&gauge(&[(0, Some(0.0), None, Some(60.0))])), None, "it has only just stopped");
        let stood = [(0, Some(0.0), None, Some(75.0)), (10, Some(0.0), None, Some(60.0))];
        assert_eq!(percent(&gauge(&stood)), Some(60.0));
        assert_eq!(percent(&gauge(&[(0, Some(0.0), Some("OFF"), Some(60.0))])), Some(60.0), "it is parked");
        let parked_later = [(0, None, None, Some(60.0)), (5, None, Some("OFF"), None), (65, None, None, Some(58.0))];
        assert_eq!(gauge(&parked_later).rest(), Some(Level { percent: 58.0, at: Timestamp(65_000) }));
    }

    #[test]
    fn a_drive_makes_the_level_one_from_before_and_the_next_rest_renews_it() {
        let mut reports = vec![(0, Some(0.0), Some("OFF"), Some(60.0)), (60, Some(50.0), Some("ON"), Some(80.0))];
        let driving = gauge(&reports);
        assert_eq!((percent(&driving), driving.has_driven()), (Some(60.0), true));
        reports.extend([(300, Some(0.0), None, Some(30.0)), (320, Some(0.0), None, Some(55.0))]);
        let arrived = gauge(&reports);
        assert_eq!((percent(&arrived), arrived.has_driven()), (Some(55.0), false));
    }

    #[test]
    fn off_at_speed_is_no_rest() {
        let lying = gauge(&[(0, Some(44.0), Some("OFF"), Some(60.0)), (20, Some(44.0), None, Some(20.0))]);
        assert_eq!(percent(&lying), None);
    }

    #[test]
    fn a_fill_shows_at_once_and_noise_at_rest_does_not() {
        let off = |second, level| (second, Some(0.0), Some("OFF"), Some(level));
        assert_eq!(percent(&gauge(&[off(0, 20.0), off(60, 20.4), off(120, 19.8)])), Some(20.0));
        assert_eq!(percent(&gauge(&[off(0, 20.0), off(60, 20.4), off(120, 80.0)])), Some(80.0));
    }

    #[test]
    fn a_fill_is_noticed_while_the_car_stands_and_across_a_drive() {
        let off = |second, level| (second, Some(0.0), Some("OFF"), Some(level));
        let on = |second| (second, Some(50.0), Some("ON"), None);
        let filled_at = |reports: &[_]| gauge(reports).filled_at().map(Timestamp::as_secs);
        assert_eq!(filled_at(&[off(0, 20.0), off(9, 24.0), off(18, 31.0), off(27, 31.2), off(90, 31.0)]), Some(18));
        assert_eq!(filled_at(&[off(0, 20.0), on(60), off(600, 80.0), off(900, 80.4)]), Some(600));
        assert_eq!(filled_at(&[off(0, 80.0), on(60), off(600, 60.0), off(900, 62.0)]), None);
        let twice = [off(0, 80.0), off(9, 98.0), on(60), off(600, 60.0), on(700), off(900, 90.0)];
        assert_eq!(filled_at(&twice), Some(900));
    }

    #[test]
    fn a_level_that_falls_at_rest_is_noticed_and_one_that_was_driven_or_wavers_is_not() {
        let off = |second, level| (second, Some(0.0), Some("OFF"), Some(level));
        let on = |second| (second, Some(50.0), Some("ON"), None);
        let fell = |reports: &[_]| gauge(reports).fell().map(|fall| (fall.from.percent, fall.to.percent));
        let full = [off(0, 80.0), off(60, 80.4), off(120, 80.0)];
        let after = |reports: &[Row]| fell(&[&full, reports].concat());
        let drained = [off(180, 30.0), off(240, 30.2), off(300, 30.0)];
        assert_eq!(after(&drained), Some((80.0, 30.0)));
        assert_eq!(after(&drained[..2]), None, "not borne out yet");
        assert_eq!(after(&[off(180, 0.0), off(240, 80.0), off(300, 80.0)]), None, "a sensor that blinked");
        assert_eq!(after(&[&[on(200)], &drained[..]].concat()), None, "it drove");
        assert_eq!(after(&[off(180, 72.0), off(240, 72.0), off(300, 72.0)]), None, "a kerb");
        let slowly: Vec<Row> = (0..12).map(|step| off(180 + step * 60, 80.0 - 2.0 * step as f64)).collect();
        assert_eq!(after(&slowly), Some((80.0, 68.0)), "a trickle");
        assert_eq!(fell(&[&[off(0, 80.0)], &drained[..]].concat()), None, "one sample is no level to fall from");
        let idles = |second, level| (second, Some(0.0), Some("ON"), Some(level));
        let hours: Vec<Row> = (1..=12).map(|step| idles(step * 1_200, 80.0 - 2.0 * step as f64)).collect();
        assert_eq!(after(&hours), None, "it burns what it has");
        let mut unseen = gauge(&full);
        unseen.lost_sight();
        for (second, level) in [(180, 30.0), (240, 30.0), (300, 30.0)] {
            unseen.take(Timestamp(second * 1_000), [(path::FUEL_PERCENT, &SignalValue::Number(level))]);
        }
        assert_eq!((percent(&unseen), unseen.fell()), (Some(30.0), None), "it may have driven meanwhile");
    }

    #[test]
    fn a_value_that_is_no_percentage_is_not_known() {
        for level in [-1.0, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(percent(&gauge(&[(0, Some(0.0), Some("OFF"), Some(level))])), None, "{level}");
        }
    }

    #[test]
    fn an_odometer_that_went_on_shows_a_drive_nobody_saw() {
        let mut gauge = gauge(&[(0, Some(0.0), Some("OFF"), Some(60.0))]);
        let odometer = |gauge: &mut Gauge, second: i64, km| {
            gauge.take(Timestamp(second * 1_000), [(path::ODOMETER_KM, &SignalValue::Number(km))]);
            gauge.has_driven()
        };
        assert!(!odometer(&mut gauge, 10, 100.0));
        assert!(!odometer(&mut gauge, 20, 100.2), "moved on the forecourt");
        assert!(odometer(&mut gauge, 30, 100.4));
    }

    /// A drive of 20 minutes with a stop in it, then a rest: noise as measured on real cars.
    #[test]
    fn real_noise_of_a_drive_never_reaches_the_level() {
        let seed = 0x5eed_u64;
        println!("SEED={seed}");
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let mut gauge = Gauge::default();
        for second in (0..1_300).step_by(5) {
            let is_moving = second < 1_200 && !(600..660).contains(&second);
            let has_settled = second >= 1_210 || (610..660).contains(&second);
            let (kmh, swing) = match (is_moving, has_settled) {
                (true, _) => (50.0, 37.0),
                (false, false) => (0.0, 15.0),
                (false, true) => (0.0, 0.4),
            };
            let level = (55.0 + (next() - 0.5) * 2.0 * swing).clamp(0.0, 100.0);
            let signals =
                [(path::SPEED_KMH, SignalValue::Number(kmh)), (path::FUEL_PERCENT, SignalValue::Number(level))];
            gauge.take(Timestamp(second * 1_000), signals.iter().map(|(name, value)| (*name, value)));
            if let Some(rest) = gauge.rest() {
                assert!((rest.percent - 55.0).abs() <= 0.4, "second {second}: {rest:?}");
            }
        }
        assert!(gauge.rest().is_some() && !gauge.has_driven());
    }
}
