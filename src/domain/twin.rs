//! What a car was last seen to be: its signals, each with its own time, and its link.
//!
//! Observations only: nothing here was promised to anybody, and losing the last second of it is allowed.
//! An item older than what is known is history, not state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::gauge::Gauge;
use super::{Position, Timestamp};

/// COVESA VSS paths the gateway itself understands; every other path is kept as reported.
pub mod path {
    pub const LATITUDE: &str = "Vehicle.CurrentLocation.Latitude";
    pub const LONGITUDE: &str = "Vehicle.CurrentLocation.Longitude";
    pub const ACCURACY_M: &str = "Vehicle.CurrentLocation.HorizontalAccuracy";
    pub const SPEED_KMH: &str = "Vehicle.Speed";
    pub const LOW_VOLTAGE: &str = "Vehicle.LowVoltageSystemState";
    pub const FUEL_PERCENT: &str = "Vehicle.Powertrain.FuelSystem.RelativeLevel";
    pub const ODOMETER_KM: &str = "Vehicle.TraveledDistance";
    pub const DRIVER_DOOR_LOCKED: &str = "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked";
    pub const DRIVE_ENABLED: &str = "Vehicle.Cardea.IsDriveEnabled";
    pub const KEY_GENERATION: &str = "Vehicle.Cardea.KeyGeneration";
    pub const FUEL_CARD_PRESENT: &str = "Vehicle.Cardea.IsFuelCardPresent";
    pub const ALL: [&str; 11] = [
        LATITUDE,
        LONGITUDE,
        ACCURACY_M,
        SPEED_KMH,
        LOW_VOLTAGE,
        FUEL_PERCENT,
        ODOMETER_KM,
        DRIVER_DOOR_LOCKED,
        DRIVE_ENABLED,
        KEY_GENERATION,
        FUEL_CARD_PRESENT,
    ];
}

/// A signal's name: one of [`path::ALL`] without an allocation, or another as the car reported it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignalPath {
    Known(&'static str),
    Other(Arc<str>),
}

impl SignalPath {
    pub const MAX_LEN: usize = 128;

    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(name) => name,
            Self::Other(name) => name,
        }
    }
}

impl Serialize for SignalPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SignalPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| name.as_str().into())
    }
}

impl From<&str> for SignalPath {
    fn from(name: &str) -> Self {
        match path::ALL.iter().find(|known| **known == name) {
            Some(known) => Self::Known(known),
            None => Self::Other(name.into()),
        }
    }
}

/// A signal's value as JSON can carry it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SignalValue {
    Bool(bool),
    Number(f64),
    Text(Box<str>),
}

impl SignalValue {
    pub const MAX_TEXT_LEN: usize = 256;

    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            Self::Number(_) | Self::Text(_) => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bool(_) | Self::Number(_) => None,
        }
    }
}

/// One telemetry message of a car. `seq` counts within `boot`.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub boot: u64,
    pub seq: u64,
    pub at: Timestamp,
    pub signals: Vec<(SignalPath, SignalValue)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    pub value: SignalValue,
    /// When the car measured it (the report's own time), not when it arrived.
    pub at: Timestamp,
}

/// The car's connection as the gate sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub state: LinkState,
    pub since: Timestamp,
    /// Rises with every session, so that a late "disconnected" of an older one is recognised.
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    Online,
    Offline,
}

/// The newest known state of one car.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Twin {
    pub link: Link,
    /// Sorted by path; at most [`Twin::MAX_SIGNALS`].
    signals: Vec<(SignalPath, Signal)>,
    /// In which session of the link speed and ignition were last heard of.
    speed_epoch: u64,
    ignition_epoch: u64,
    /// The newest position the car can have driven to: what a new one is believed by.
    anchor: Option<Fix>,
    gauge: Gauge,
    pub last_report: Option<Timestamp>,
    /// `(boot, newest seq)` of telemetry.
    pub telemetry_seq: Option<(u64, u64)>,
    /// Telemetry messages that never came, as far as `seq` shows.
    pub missing_reports: u64,
    /// Items that were older than what was known.
    pub stale_items: u64,
    /// Paths refused because the twin was full.
    pub refused_paths: u64,
}

/// What became of one report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    pub newer: u32,
    pub stale: u32,
    pub refused: u32,
}

impl Twin {
    /// More paths than any unit seen so far reports; the rest is refused and counted.
    pub const MAX_SIGNALS: usize = 128;

    /// A report from further ahead than this is of a broken clock and is clamped by its arrival.
    pub const MAX_AHEAD_MS: i64 = 60_000;

    pub fn new(now: Timestamp) -> Self {
        Self {
            link: Link { state: LinkState::Offline, since: now, epoch: 0 },
            signals: Vec::new(),
            speed_epoch: 0,
            ignition_epoch: 0,
            anchor: None,
            gauge: Gauge::default(),
            last_report: None,
            telemetry_seq: None,
            missing_reports: 0,
            stale_items: 0,
            refused_paths: 0,
        }
    }

    /// Takes a report into the state; each path keeps the newest value by the car's own time.
    pub fn observe(&mut self, now: Timestamp, report: Report) -> Observed {
        self.count_gap(report.boot, report.seq);
        let at = report.at.min(now.plus_ms(Self::MAX_AHEAD_MS));
        self.last_report = Some(self.last_report.map_or(now, |last| last.max(now)));
        let mut observed = Observed::default();
        let mut is_news = [false; GAUGED.len()];
        for (path, value) in report.signals {
            let gauged = GAUGED.iter().position(|gauged| *gauged == path.as_str());
            match self.put(path, value, at) {
                Put::Newer => {
                    observed.newer += 1;
                    gauged.into_iter().for_each(|place| is_news[place] = true);
                }
                Put::Stale => observed.stale += 1,
                Put::Refused => observed.refused += 1,
            }
        }
        let news = GAUGED.iter().zip(is_news).filter(|(_, is_news)| *is_news);
        let signals = &self.signals;
        self.gauge.take(at, news.filter_map(|(name, _)| Some((*name, &find(signals, name)?.value))));
        self.move_anchor();
        self.stale_items += u64::from(observed.stale);
        self.refused_paths += u64::from(observed.refused);
        observed
    }

    fn count_gap(&mut self, boot: u64, seq: u64) {
        match self.telemetry_seq {
            Some((known_boot, known)) if known_boot == boot => {
                if seq > known {
                    self.missing_reports += seq - known - 1;
                    self.telemetry_seq = Some((boot, seq));
                }
            }
            Some(_) | None => self.telemetry_seq = Some((boot, seq)),
        }
    }

    fn put(&mut self, path: SignalPath, value: SignalValue, at: Timestamp) -> Put {
        match self.signals.binary_search_by(|(known, _)| known.as_str().cmp(path.as_str())) {
            Ok(found) => {
                if at < self.signals[found].1.at {
                    return Put::Stale;
                }
                self.signals[found].1 = Signal { value, at };
            }
            Err(_) if self.signals.len() >= Self::MAX_SIGNALS => return Put::Refused,
            Err(place) => self.signals.insert(place, (path.clone(), Signal { value, at })),
        }
        // Only what was taken was heard: an old report that arrives now says nothing of this session.
        match path.as_str() {
            path::SPEED_KMH => self.speed_epoch = self.link.epoch,
            path::LOW_VOLTAGE => self.ignition_epoch = self.link.epoch,
            _ => {}
        }
        Put::Newer
    }

    /// Puts one value by name, as when a fact from the car implies a signal.
    pub fn note(&mut self, name: &str, value: SignalValue, at: Timestamp) {
        if let Put::Newer = self.put(name.into(), value.clone(), at) {
            self.gauge.take(at, [(name, &value)]);
        }
        self.move_anchor();
    }

    fn move_anchor(&mut self) {
        let Some(fix) = self.fix() else { return };
        if self.anchor.is_none_or(|anchor| anchor.at < fix.at && anchor.reaches(fix)) {
            self.anchor = Some(fix);
        }
    }

    /// Is the newest position one that no car can have driven to from the last one that was believed? It is believed
    /// again once it lies in reach, which time brings about by itself.
    pub fn has_jumped(&self) -> bool {
        match (self.fix(), self.anchor) {
            (Some(fix), Some(anchor)) => anchor.at != fix.at && !anchor.reaches(fix),
            (None, _) | (_, None) => false,
        }
    }

    pub fn signal(&self, name: &str) -> Option<&Signal> {
        find(&self.signals, name)
    }

    pub fn signals(&self) -> impl ExactSizeIterator<Item = (&SignalPath, &Signal)> {
        self.signals.iter().map(|(path, signal)| (path, signal))
    }

    /// The newest position with its time and accuracy; `None` unless both coordinates are known, of one moment and on the globe.
    pub fn fix(&self) -> Option<Fix> {
        let latitude = self.signal(path::LATITUDE)?;
        let longitude = self.signal(path::LONGITUDE)?;
        if latitude.at != longitude.at {
            return None;
        }
        let position = Position { latitude: latitude.value.as_number()?, longitude: longitude.value.as_number()? };
        let accuracy_m =
            self.signal(path::ACCURACY_M).and_then(|signal| signal.value.as_number()).filter(|m| *m >= 0.0);
        position.is_valid().then_some(Fix { position, at: latitude.at, accuracy_m })
    }

    /// `None` = not known.
    pub fn is_ignition_on(&self) -> Option<(bool, Timestamp)> {
        let signal = self.signal(path::LOW_VOLTAGE)?;
        let is_on = match signal.value.as_text()? {
            "OFF" | "LOCK" => false,
            "ACC" | "ON" | "START" => true,
            _ => return None,
        };
        Some((is_on, signal.at))
    }

    pub fn speed_kmh(&self) -> Option<(f64, Timestamp)> {
        let signal = self.signal(path::SPEED_KMH)?;
        Some((signal.value.as_number()?, signal.at))
    }

    /// The tank's level as measured at rest.
    pub fn gauge(&self) -> &Gauge {
        &self.gauge
    }

    /// A number with its own time.
    pub fn number(&self, name: &str) -> Option<(f64, Timestamp)> {
        let signal = self.signal(name)?;
        Some((signal.value.as_number()?, signal.at))
    }

    pub fn is_online(&self) -> bool {
        self.link.state == LinkState::Online
    }

    /// Stands still with ignition off, by what was seen in this very session of the link; a parked car that is
    /// offline or has not reported since it came back may have driven off meanwhile, so that counts as not known.
    pub fn is_safe_to_stop(&self) -> bool {
        // Heard in this session, and not a memory that the unit only now got rid of; its clock may lag.
        let in_session = |epoch: u64, at: Timestamp| {
            self.is_online() && epoch == self.link.epoch && at >= self.link.since.plus_ms(-Self::MAX_AHEAD_MS)
        };
        let stands = self.speed_kmh().is_some_and(|(speed, at)| speed.abs() < 0.5 && in_session(self.speed_epoch, at));
        let is_off = self.is_ignition_on().is_some_and(|(is_on, at)| !is_on && in_session(self.ignition_epoch, at));
        stands && is_off
    }

    /// Returns false for a session older than the known one.
    pub fn connected(&mut self, now: Timestamp, epoch: u64) -> bool {
        if epoch <= self.link.epoch {
            return false;
        }
        self.link = Link { state: LinkState::Online, since: now, epoch };
        self.gauge.lost_sight();
        true
    }

    pub fn disconnected(&mut self, now: Timestamp, epoch: u64) -> bool {
        if epoch != self.link.epoch || !self.is_online() {
            return false;
        }
        self.link = Link { state: LinkState::Offline, since: now, epoch };
        true
    }

    /// All signals as a map, for pages and journals.
    pub fn to_map(&self) -> BTreeMap<&str, &Signal> {
        self.signals.iter().map(|(path, signal)| (path.as_str(), signal)).collect()
    }
}

/// What the gauge looks at.
const GAUGED: [&str; 4] = [path::LOW_VOLTAGE, path::FUEL_PERCENT, path::SPEED_KMH, path::ODOMETER_KM];

fn find<'a>(signals: &'a [(SignalPath, Signal)], name: &str) -> Option<&'a Signal> {
    signals.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok().map(|found| &signals[found].1)
}

enum Put {
    Newer,
    Stale,
    Refused,
}

/// Where a car was, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fix {
    pub position: Position,
    pub at: Timestamp,
    pub accuracy_m: Option<f64>,
}

impl Fix {
    /// Faster than any car of a fleet drives.
    const MAX_SPEED_KMH: f64 = 300.0;
    /// What receivers err by without knowing it, and clocks that differ.
    const SLACK_M: f64 = 10_000.0;

    /// Can a car have driven from here to there in the time between?
    pub fn reaches(self, later: Self) -> bool {
        let hours = later.at.since_ms(self.at).max(0) as f64 / 3_600_000.0;
        self.position.distance_m(later.position) <= Self::SLACK_M + Self::MAX_SPEED_KMH * 1000.0 * hours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_km(twin: &mut Twin, km: f64, minute: i64) -> bool {
        let signals = [(path::LATITUDE, 45.0 + km / 111.195), (path::LONGITUDE, 7.0)];
        let signals = signals.map(|(name, value)| (name.into(), SignalValue::Number(value))).to_vec();
        let at = Timestamp(minute * 60_000);
        twin.observe(at, Report { boot: 0, seq: u64::try_from(minute).unwrap(), at, signals });
        twin.has_jumped()
    }

    #[test]
    fn a_memory_older_than_what_is_known_does_not_make_a_car_parked() {
        let parked = |at| {
            let signals = vec![
                (path::SPEED_KMH.into(), SignalValue::Number(0.0)),
                (path::LOW_VOLTAGE.into(), SignalValue::Text("OFF".into())),
            ];
            Report { boot: 0, seq: at as u64, at: Timestamp(at), signals }
        };
        let mut twin = Twin::new(Timestamp(0));
        twin.connected(Timestamp(1_000), 1);
        twin.observe(Timestamp(2_000), parked(2_000));
        assert!(twin.is_safe_to_stop());
        twin.disconnected(Timestamp(2_500), 1);
        twin.connected(Timestamp(3_000), 2);
        twin.observe(Timestamp(3_100), parked(1_500));
        assert!(!twin.is_safe_to_stop(), "it may have driven off since");
        twin.observe(Timestamp(3_200), parked(3_200));
        assert!(twin.is_safe_to_stop());
    }

    #[test]
    fn a_position_no_car_can_have_reached_is_not_believed_until_it_can() {
        let mut twin = Twin::new(Timestamp(0));
        assert!(!at_km(&mut twin, 0.0, 1), "the first is believed");
        assert!(!at_km(&mut twin, 12.0, 2));
        assert!(at_km(&mut twin, 5_000.0, 3), "stuck in the ocean");
        assert!(at_km(&mut twin, 5_000.0, 4), "and staying there proves nothing");
        assert!(!at_km(&mut twin, 13.0, 5), "back where it was");
        assert!(at_km(&mut twin, 200.0, 6));
        assert!(!at_km(&mut twin, 200.0, 60), "a car gets there in the end");
    }
}
