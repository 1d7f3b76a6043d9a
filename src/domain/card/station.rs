//! A fuel station of the directory, and what a purchase's place was found to be.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::super::{Malformed, Position};
use super::{StationId, looks_like_card_number};

/// How the payment network names a station: its merchant id and, where it sends one, the terminal's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    pub network_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
}

/// Who says where a station is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionSource {
    /// An imported directory.
    #[default]
    Directory,
    /// A person. Later imports leave it alone.
    Manual,
    /// Where cars stood at rest when their cards were read here. It never stands in for the two above.
    Learnt,
}

impl PositionSource {
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Manual => "manual",
            Self::Learnt => "learnt",
        }
    }

    fn is_directory(&self) -> bool {
        *self == Self::Directory
    }
}

/// A fuel station. Networks send no coordinates, so this is where a purchase gets its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Station {
    pub station_id: StationId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    #[serde(default, skip_serializing_if = "PositionSource::is_directory")]
    pub position_source: PositionSource,
    /// For a learnt position, how many purchases agree on it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub learnt_from: u32,
    #[serde(default)]
    pub terminals: Vec<Terminal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// ISO 3166-1, two or three capital letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// An IANA name like `Europe/Rome`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// It posts its purchases in batches, so that their times are not those of the purchases.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_offline_batch: bool,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Station {
    pub const MAX_TERMINALS: usize = 64;
    pub const MAX_NAME_CHARS: usize = 128;
    pub const MAX_NETWORK_ID_LEN: usize = 64;
    pub const MAX_POSTAL_CODE_CHARS: usize = 16;

    /// A station of which no more is known.
    pub fn new(station_id: StationId, name: String) -> Self {
        Self {
            station_id,
            name,
            brand: None,
            position: None,
            position_source: PositionSource::Directory,
            learnt_from: 0,
            terminals: Vec::new(),
            postal_code: None,
            city: None,
            country: None,
            time_zone: None,
            is_offline_batch: false,
        }
    }

    /// Checks the form; the text names the field.
    pub fn check(&self) -> Result<(), Malformed> {
        if !is_fit_text(&self.name, Self::MAX_NAME_CHARS) {
            return Err(Malformed("name: 1 to 128 characters, no control characters and no card number"));
        }
        if self.position.is_some_and(|position| !position.is_valid()) {
            return Err(Malformed("position: latitude -90 to 90 and longitude -180 to 180"));
        }
        self.check_address()?;
        self.check_terminals()
    }

    fn check_address(&self) -> Result<(), Malformed> {
        let fits = |text: &Option<String>, max| text.as_ref().is_none_or(|text| is_fit_text(text, max));
        if !fits(&self.brand, Self::MAX_NAME_CHARS) {
            return Err(Malformed("brand: 1 to 128 characters, no control characters and no card number"));
        }
        if !fits(&self.city, Self::MAX_NAME_CHARS) {
            return Err(Malformed("city: 1 to 128 characters, no control characters and no card number"));
        }
        if !fits(&self.postal_code, Self::MAX_POSTAL_CODE_CHARS) {
            return Err(Malformed("postal_code: 1 to 16 characters, no control characters and no card number"));
        }
        let is_country = |text: &str| (2..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase());
        if self.country.as_deref().is_some_and(|country| !is_country(country)) {
            return Err(Malformed("country: two or three capital letters of ISO 3166-1, like IT"));
        }
        if self.time_zone.as_deref().is_some_and(|name| !is_time_zone(name)) {
            return Err(Malformed("time_zone: an IANA name, like Europe/Rome"));
        }
        Ok(())
    }

    fn check_terminals(&self) -> Result<(), Malformed> {
        if self.terminals.len() > Self::MAX_TERMINALS {
            return Err(Malformed("terminals: at most 64"));
        }
        let is_fit = |id: &str| {
            (1..=Self::MAX_NETWORK_ID_LEN).contains(&id.len())
                && !id.chars().any(char::is_control)
                && !looks_like_card_number(id)
        };
        for terminal in &self.terminals {
            if !is_fit(&terminal.network_id) {
                return Err(Malformed(
                    "terminals.network_id: 1 to 64 bytes without control characters, and no card number",
                ));
            }
            if terminal.terminal_id.as_deref().is_some_and(|id| !is_fit(id)) {
                return Err(Malformed(
                    "terminals.terminal_id: 1 to 64 bytes without control characters, and no card number",
                ));
            }
        }
        Ok(())
    }
}

/// What is to be kept of a station when a directory is imported over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportPolicy {
    /// Several stations have the position that the file gives: a placeholder.
    pub is_placeholder: bool,
    /// Positions set by hand give way too.
    pub force: bool,
}

impl Station {
    /// This station as it is after an import of `file`, and whether a position set by hand was kept. What the file does
    /// not say stays; a placeholder does not replace what was learnt.
    pub fn imported_over(&self, file: Station, policy: ImportPolicy) -> (Station, bool) {
        let mut next = Station {
            brand: file.brand.or_else(|| self.brand.clone()),
            terminals: if file.terminals.is_empty() { self.terminals.clone() } else { file.terminals },
            postal_code: file.postal_code.or_else(|| self.postal_code.clone()),
            city: file.city.or_else(|| self.city.clone()),
            country: file.country.or_else(|| self.country.clone()),
            time_zone: file.time_zone.or_else(|| self.time_zone.clone()),
            is_offline_batch: file.is_offline_batch || self.is_offline_batch,
            ..file
        };
        let stays = match (self.position_source, next.position) {
            (_, None) => true,
            (PositionSource::Manual, Some(_)) => !policy.force,
            (PositionSource::Learnt, Some(_)) => self.position.is_some() && policy.is_placeholder,
            (PositionSource::Directory, Some(_)) => false,
        };
        let kept_manual = stays && next.position.is_some() && self.position_source == PositionSource::Manual;
        if stays {
            next.position = self.position;
            (next.position_source, next.learnt_from) = (self.position_source, self.learnt_from);
        }
        (next, kept_manual)
    }

    /// Sets the position by hand; `None` leaves it to the next directory, or to purchases.
    pub fn place_by_hand(&mut self, position: Option<Position>) {
        self.position = position;
        self.learnt_from = 0;
        self.position_source = if position.is_some() { PositionSource::Manual } else { PositionSource::Directory };
    }
}

fn is_fit_text(text: &str, max_chars: usize) -> bool {
    !text.is_empty()
        && text.chars().count() <= max_chars
        && !text.chars().any(char::is_control)
        && !looks_like_card_number(text)
}

/// No name of IANA's is longer.
fn is_time_zone(name: &str) -> bool {
    name.len() <= 64 && TimeZone::get(name).is_ok()
}

impl StationId {
    /// What a place without a name of its own is called, to a tenth of a metre.
    pub fn of_place(Position { latitude, longitude }: Position) -> Result<Self, Malformed> {
        format!("at:{latitude:.6}:{longitude:.6}").parse()
    }
}

/// What a purchase's station was found by, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookedUpBy {
    /// Network id and terminal id; also where the record does not say.
    #[default]
    Terminal,
    /// The network id, which only one station has.
    Network,
    /// Name and postal code, which only one station has.
    Name,
    /// The position that the network itself gave.
    Position,
}

/// What the directory knows of the place a card was read at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StationLookup {
    /// The network named no station, or one the directory does not have.
    Unknown,
    /// Several stations go by that name.
    Ambiguous { stations: usize },
    Known {
        /// `at:<latitude>:<longitude>` for a place that the network gave and the directory does not have.
        station_id: StationId,
        name: String,
        position: Option<Position>,
        /// How many stations the directory puts at these very coordinates, this one included: more than one is a placeholder.
        at_position: u32,
        #[serde(default)]
        by: LookedUpBy,
        /// Its position was learnt from purchases.
        #[serde(default)]
        learnt: bool,
        #[serde(default)]
        time_zone: Option<String>,
        #[serde(default)]
        is_offline_batch: bool,
    },
}

impl StationLookup {
    pub fn station_id(&self) -> Option<&StationId> {
        match self {
            Self::Known { station_id, .. } => Some(station_id),
            Self::Unknown | Self::Ambiguous { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station() -> Station {
        Station::new("s".parse().unwrap(), "Agip".into())
    }

    #[test]
    fn a_stored_row_of_before_is_still_read_and_written_the_same() {
        let row = r#"{"station_id":"s","name":"Agip","position":{"latitude":45.0,"longitude":7.0},"terminals":[]}"#;
        let station: Station = serde_json::from_str(row).unwrap();
        assert_eq!((station.position_source, station.learnt_from), (PositionSource::Directory, 0));
        assert_eq!(serde_json::to_string(&station).unwrap(), row);
    }

    #[test]
    fn a_recorded_lookup_of_before_is_still_read() {
        let row = r#"{"known":{"station_id":"s","name":"Agip","position":null,"at_position":0}}"#;
        assert!(matches!(serde_json::from_str(row).unwrap(), StationLookup::Known { learnt: false, .. }));
    }

    #[test]
    fn each_field_of_a_station_is_checked_by_name() {
        assert_eq!(station().check(), Ok(()));
        let full = Station {
            brand: Some("Eni".into()),
            postal_code: Some("150-0002".into()),
            country: Some("IT".into()),
            time_zone: Some("Europe/Rome".into()),
            ..station()
        };
        assert_eq!(full.check(), Ok(()));
        let refused = |station: Station| station.check().unwrap_err().0.split(':').next().unwrap();
        assert_eq!(refused(Station { name: String::new(), ..station() }), "name");
        assert_eq!(refused(Station { brand: Some("4242424242424242".into()), ..station() }), "brand");
        assert_eq!(refused(Station { city: Some("a\nb".into()), ..station() }), "city");
        assert_eq!(refused(Station { postal_code: Some("1".repeat(17)), ..station() }), "postal_code");
        assert_eq!(refused(Station { country: Some("it".into()), ..station() }), "country");
        assert_eq!(refused(Station { time_zone: Some("Europe/Nowhere".into()), ..station() }), "time_zone");
        assert_eq!(refused(Station { time_zone: Some("../etc/passwd".into()), ..station() }), "time_zone");
        let nowhere = Some(Position { latitude: 91.0, longitude: 0.0 });
        assert_eq!(refused(Station { position: nowhere, ..station() }), "position");
    }

    #[test]
    fn an_import_keeps_what_the_file_does_not_say_and_what_was_set_by_hand() {
        let at = |latitude| Some(Position { latitude, longitude: 7.0 });
        let terminal = Terminal { network_id: "N".into(), terminal_id: None };
        let known = Station { city: Some("Torino".into()), terminals: vec![terminal], position: at(1.0), ..station() };
        let file = Station { name: "Eni".into(), position: at(2.0), ..station() };
        let policy = ImportPolicy { is_placeholder: false, force: false };
        let placeholder = ImportPolicy { is_placeholder: true, ..policy };
        let forced = ImportPolicy { force: true, ..policy };
        let (next, kept) = known.imported_over(file.clone(), policy);
        assert_eq!((next.position, kept), (at(2.0), false));
        assert_eq!((next.name.as_str(), next.city.as_deref(), next.terminals.len()), ("Eni", Some("Torino"), 1));
        assert_eq!(known.imported_over(Station { position: None, ..file.clone() }, policy).0.position, at(1.0));

        let mut manual = known.clone();
        manual.place_by_hand(at(3.0));
        let (next, kept) = manual.imported_over(file.clone(), policy);
        assert_eq!((next.position, next.position_source, kept), (at(3.0), PositionSource::Manual, true));
        let (next, kept) = manual.imported_over(file.clone(), forced);
        assert_eq!((next.position, next.position_source, kept), (at(2.0), PositionSource::Directory, false));

        let learnt = Station { position_source: PositionSource::Learnt, learnt_from: 4, ..known };
        assert_eq!(learnt.imported_over(file.clone(), placeholder).0.position_source, PositionSource::Learnt);
        let (next, _) = learnt.imported_over(file, policy);
        assert_eq!((next.position, next.learnt_from), (at(2.0), 0));
    }

    #[test]
    fn a_place_is_named_by_where_it_is() {
        let place = Position { latitude: -33.5, longitude: 151.25 };
        assert_eq!(StationId::of_place(place).unwrap().as_str(), "at:-33.500000:151.250000");
    }
}
