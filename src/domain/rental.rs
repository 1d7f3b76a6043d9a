//! Who has which car from when to when, and on what terms an owner lends it.

use serde::{Deserialize, Serialize};

use super::key::{HolderKey, Profile};
use super::{KeyId, Position, Refusal, RefusalKind, RentalId, RequestId, Timestamp};

/// `requested -> approved | declined`; `expired` when nobody decided in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    Requested,
    Approved,
    Declined,
    Expired,
}

/// A renter's wish to use a car under a profile for a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageRequest {
    pub request_id: RequestId,
    pub state: RequestState,
    pub renter: String,
    pub profile: String,
    pub from: Timestamp,
    pub until: Timestamp,
    pub holder_key: HolderKey,
    pub requested_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rental_id: Option<RentalId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RentalState {
    Reserved,
    Active,
    /// Over for the renter; the car has not confirmed yet that it took the key back.
    Ending,
    Ended,
    Cancelled,
    /// Nobody came for the car in time.
    NoShow,
}

impl RentalState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Active => "active",
            Self::Ending => "ending",
            Self::Ended => "ended",
            Self::Cancelled => "cancelled",
            Self::NoShow => "no_show",
        }
    }

    /// Does it keep others from having the car?
    pub fn is_open(self) -> bool {
        match self {
            Self::Reserved | Self::Active => true,
            Self::Ending | Self::Ended | Self::Cancelled | Self::NoShow => false,
        }
    }

    /// Nothing is left to do about it.
    pub fn is_over(self) -> bool {
        match self {
            Self::Ended | Self::Cancelled | Self::NoShow => true,
            Self::Reserved | Self::Active | Self::Ending => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rental {
    pub rental_id: RentalId,
    pub request_id: RequestId,
    pub renter: String,
    pub profile: String,
    pub key_id: KeyId,
    pub from: Timestamp,
    pub until: Timestamp,
    pub state: RentalState,
    pub history: Vec<RentalPassage>,
    /// When its key was first used, or the car was first seen in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_used_at: Option<Timestamp>,
    /// Somebody was told that the car is not back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_late: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RentalPassage {
    pub state: RentalState,
    pub at: Timestamp,
}

impl Rental {
    /// How long after its end a car may be on its way to rest before anybody is told.
    pub const LATE_MS: i64 = 600_000;

    /// When somebody is told that the car is not back, if it is not by then. Counted from when the gateway ended the
    /// rental: after a time without a gateway, its cars have not had their time yet.
    pub fn late_at(&self) -> Option<Timestamp> {
        let is_awaited = self.state == RentalState::Ending && !self.is_late;
        self.closed_at().filter(|_| is_awaited).map(|at| at.plus_ms(Self::LATE_MS))
    }

    pub fn overlaps(&self, from: Timestamp, until: Timestamp) -> bool {
        self.from < until && from < self.until
    }

    /// When it ended or was cancelled.
    pub fn closed_at(&self) -> Option<Timestamp> {
        self.history.iter().find(|passage| !passage.state.is_open()).map(|passage| passage.at)
    }
}

/// The terms an owner lends a car on. The default lends under every profile, always, without asking.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lending {
    /// Empty = every profile of the fleet.
    pub profiles: Vec<String>,
    /// Empty = always.
    pub windows: Vec<Window>,
    /// `None` = as long as a key may be valid.
    pub max_minutes: Option<u64>,
    pub approval: Approval,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_area: Option<ReturnArea>,
    /// A rental that nobody has begun to use by so long after its start is over. `None` = it waits to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_show_minutes: Option<u64>,
    /// The car opens for a key only as long as the gateway has renewed it within so many minutes: what a revocation that
    /// cannot reach the car is bounded by. `None` = to the key's own end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_minutes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    #[default]
    Auto,
    Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReturnArea {
    pub latitude: f64,
    pub longitude: f64,
    pub radius_m: f64,
}

/// A weekly span in a time zone; `until` before `from` runs over midnight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `mon` … `sun`.
    pub days: Vec<String>,
    pub from: String,
    pub until: String,
    /// IANA name.
    pub time_zone: String,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Lending {
    pub const MAX_WINDOWS: usize = 32;
    pub const MAX_MINUTES: u64 = 7 * 24 * 60;
    /// Each renewal is a command to the car, at half of the lease.
    pub const MIN_LEASE_MINUTES: u64 = 2;

    pub fn lease_ms(&self) -> Option<i64> {
        minutes_ms(self.lease_minutes)
    }

    pub fn no_show_ms(&self) -> Option<i64> {
        minutes_ms(self.no_show_minutes)
    }

    /// Checks the form; the detail names the field.
    pub fn check(&self, profiles: &[Profile]) -> Result<(), Refusal> {
        let invalid = |detail: String| Err(Refusal::new(RefusalKind::Invalid, detail));
        if let Some(unknown) = self.profiles.iter().find(|name| !profiles.iter().any(|profile| profile.name == **name))
        {
            return invalid(format!("lending.profiles: no profile is called {unknown}"));
        }
        if self.windows.len() > Self::MAX_WINDOWS {
            return invalid(format!("lending.windows: at most {}", Self::MAX_WINDOWS));
        }
        if self.max_minutes == Some(0) {
            return invalid("lending.max_minutes: at least 1".into());
        }
        if self.no_show_minutes.is_some_and(|minutes| !(1..=Self::MAX_MINUTES).contains(&minutes)) {
            return invalid(format!("lending.no_show_minutes: 1 to {}", Self::MAX_MINUTES));
        }
        if self.lease_minutes.is_some_and(|minutes| !(Self::MIN_LEASE_MINUTES..=Self::MAX_MINUTES).contains(&minutes)) {
            let least = Self::MIN_LEASE_MINUTES;
            return invalid(format!("lending.lease_minutes: {least} to {}", Self::MAX_MINUTES));
        }
        if let Some(area) = self.return_area {
            let position = Position { latitude: area.latitude, longitude: area.longitude };
            if !position.is_valid() || area.radius_m.is_nan() || area.radius_m <= 0.0 {
                return invalid("lending.return_area: a place on the globe and a radius above 0".into());
            }
        }
        for window in &self.windows {
            window.check()?;
        }
        Ok(())
    }

    /// May the car be had from `from` to `until`? Every window is weekly; the whole span must lie in one occurrence.
    pub fn allows(&self, from: Timestamp, until: Timestamp) -> bool {
        self.windows.is_empty() || self.windows.iter().any(|window| window.covers(from, until))
    }
}

fn minutes_ms(minutes: Option<u64>) -> Option<i64> {
    minutes.and_then(|minutes| i64::try_from(minutes).ok()).map(|minutes| minutes.saturating_mul(60_000))
}

impl ReturnArea {
    /// From its middle.
    pub fn distance_m(self, position: Position) -> f64 {
        Position { latitude: self.latitude, longitude: self.longitude }.distance_m(position)
    }
}

impl Window {
    fn check(&self) -> Result<(), Refusal> {
        let invalid = |detail: String| Err(Refusal::new(RefusalKind::Invalid, detail));
        if self.days.is_empty() || self.days.iter().any(|day| !DAYS.contains(&day.as_str())) {
            return invalid("lending.windows.days: one or more of mon tue wed thu fri sat sun".into());
        }
        if self.times().is_none() {
            return invalid("lending.windows: from and until are times of day like 08:00".into());
        }
        if jiff::tz::TimeZone::get(&self.time_zone).is_err() {
            return invalid(format!("lending.windows.time_zone: {} is not an IANA time zone", self.time_zone));
        }
        Ok(())
    }

    fn times(&self) -> Option<(jiff::civil::Time, jiff::civil::Time)> {
        let parse = |text: &str| jiff::civil::Time::strptime("%H:%M", text).ok();
        Some((parse(&self.from)?, parse(&self.until)?))
    }

    /// Are the days, the times and the zone such as can be read?
    pub fn is_fit(&self) -> bool {
        self.check().is_ok()
    }

    /// Does the span lie in one occurrence? Looks at those that begin on the local day of `from` and on the day before.
    pub fn covers(&self, from: Timestamp, until: Timestamp) -> bool {
        let Some((opens, closes)) = self.times() else { return false };
        let Ok(zone) = jiff::tz::TimeZone::get(&self.time_zone) else { return false };
        let Ok(start) = jiff::Timestamp::from_millisecond(from.0) else { return false };
        let local = start.to_zoned(zone.clone()).date();
        let occurrence = |date: jiff::civil::Date| -> Option<(Timestamp, Timestamp)> {
            let day = DAYS[date.weekday().to_monday_zero_offset() as usize];
            if !self.days.iter().any(|named| named == day) {
                return None;
            }
            let end_date = if closes <= opens { date.tomorrow().ok()? } else { date };
            let open = date.to_datetime(opens).to_zoned(zone.clone()).ok()?.timestamp().as_millisecond();
            let close = end_date.to_datetime(closes).to_zoned(zone.clone()).ok()?.timestamp().as_millisecond();
            Some((Timestamp(open), Timestamp(close)))
        };
        [Some(local), local.yesterday().ok()]
            .into_iter()
            .flatten()
            .filter_map(occurrence)
            .any(|(open, close)| open <= from && until <= close)
    }
}

/// What the vehicle is used for at a moment, as the card guard and the console need it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Usage {
    Free,
    Reserved {
        rental_id: RentalId,
        renter: String,
        from: Timestamp,
        until: Timestamp,
    },
    Rented {
        rental_id: RentalId,
        renter: String,
        from: Timestamp,
        until: Timestamp,
    },
    /// Over for the renter, but the car has not confirmed yet.
    Ending {
        rental_id: RentalId,
        renter: String,
        since: Timestamp,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("time")
    }

    fn lending(days: &[&str], from: &str, until: &str, zone: &str) -> Lending {
        let window = Window {
            days: days.iter().map(|day| (*day).into()).collect(),
            from: from.into(),
            until: until.into(),
            time_zone: zone.into(),
        };
        Lending { windows: vec![window], ..Lending::default() }
    }

    #[test]
    fn a_window_is_read_in_its_own_time_zone() {
        let tokyo = lending(&["mon"], "08:00", "20:00", "Asia/Tokyo");
        // 2026-11-23 is a Monday; 08:00 in Tokyo is 23:00 UTC on Sunday.
        assert!(tokyo.allows(at("2026-11-22T23:00:00Z"), at("2026-11-23T11:00:00Z")));
        assert!(!tokyo.allows(at("2026-11-22T22:59:00Z"), at("2026-11-23T11:00:00Z")));
        assert!(!tokyo.allows(at("2026-11-23T10:00:00Z"), at("2026-11-23T11:01:00Z")));
    }

    #[test]
    fn a_window_over_midnight_covers_the_morning_after() {
        let night = lending(&["sat"], "22:00", "06:00", "Europe/Berlin");
        assert!(night.allows(at("2026-11-22T02:00:00Z"), at("2026-11-22T05:00:00Z")));
        assert!(!night.allows(at("2026-11-23T02:00:00Z"), at("2026-11-23T05:00:00Z")));
    }

    #[test]
    fn a_window_keeps_local_time_over_a_change_of_clocks() {
        let berlin = lending(&["sat", "sun"], "08:00", "20:00", "Europe/Berlin");
        // Clocks go back on 2026-10-25: 08:00 local is 06:00Z the day before and 07:00Z that day.
        assert!(berlin.allows(at("2026-10-24T06:00:00Z"), at("2026-10-24T18:00:00Z")));
        assert!(!berlin.allows(at("2026-10-25T06:30:00Z"), at("2026-10-25T08:00:00Z")));
        assert!(berlin.allows(at("2026-10-25T07:00:00Z"), at("2026-10-25T19:00:00Z")));
    }

    #[test]
    fn lending_names_the_field_that_is_wrong() {
        let profiles = Profile::built_in();
        let bad_zone = lending(&["mon"], "08:00", "20:00", "Mars/Base");
        assert!(bad_zone.check(&profiles).unwrap_err().detail.contains("time_zone"));
        let bad_day = lending(&["monday"], "08:00", "20:00", "UTC");
        assert!(bad_day.check(&profiles).unwrap_err().detail.contains("days"));
        let bad_profile = Lending { profiles: vec!["yacht".into()], ..Lending::default() };
        assert!(bad_profile.check(&profiles).unwrap_err().detail.contains("yacht"));
    }
}
