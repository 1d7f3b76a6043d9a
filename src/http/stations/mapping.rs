//! Which column of a published directory is which of our fields, and what else is to be known of its form.
//!
//! A caller says it in `columns=`, or an operator keeps it in a file of the folder `card_guard.station_mappings`: in
//! files, because they belong to the directory's publisher and outlive any one store, and can be reviewed and shared.
//! They are read at each import.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::domain::card::Station;
use crate::http::error::{Problem, shown};

/// Our names, and what a column may be called when nobody says.
const FIELDS: [(&str, &[&str]); Field::COUNT] = [
    ("station_id", &["station_id"]),
    ("name", &["name", "brand"]),
    ("brand", &["brand"]),
    ("latitude", &["latitude", "lat"]),
    ("longitude", &["longitude", "lon", "lng"]),
    ("network_id", &["network_id"]),
    ("terminal_id", &["terminal_id"]),
    ("postal_code", &["postal_code", "addr:postcode"]),
    ("city", &["city", "addr:city"]),
    ("country", &["country", "addr:country"]),
    ("time_zone", &["time_zone"]),
    ("is_offline_batch", &["is_offline_batch"]),
];

/// A column of ours; the number is its place in [`FIELDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    StationId,
    Name,
    Brand,
    Latitude,
    Longitude,
    NetworkId,
    TerminalId,
    PostalCode,
    City,
    Country,
    TimeZone,
    IsOfflineBatch,
}

impl Field {
    pub const COUNT: usize = 12;
    pub const ALL: [Self; Self::COUNT] = [
        Self::StationId,
        Self::Name,
        Self::Brand,
        Self::Latitude,
        Self::Longitude,
        Self::NetworkId,
        Self::TerminalId,
        Self::PostalCode,
        Self::City,
        Self::Country,
        Self::TimeZone,
        Self::IsOfflineBatch,
    ];

    pub fn name(self) -> &'static str {
        FIELDS[self as usize].0
    }

    fn usual_names(self) -> &'static [&'static str] {
        FIELDS[self as usize].1
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    Geojson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Encoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "latin-1")]
    Latin1,
}

/// One directory's form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// Needed here or in the query.
    pub format: Option<Format>,
    /// `None` = the likeliest of comma, semicolon, bar and tab.
    pub delimiter: Option<char>,
    pub encoding: Encoding,
    /// Lines before the header.
    pub skip_lines: usize,
    /// Comes before each station's id, so that two countries' numbers do not meet.
    pub id_prefix: String,
    /// The postal code is the last number of exactly so many digits in its column; `None` = the whole column.
    pub postal_code_digits: Option<usize>,
    /// The file tells of known stations only, without coordinates: their terminals, for example.
    pub without_positions: bool,
    /// Our names to the file's.
    columns: BTreeMap<String, String>,
    /// Our names to what every station has where its line says nothing.
    defaults: BTreeMap<String, String>,
}

impl Mapping {
    const MAX_BYTES: u64 = 64 * 1024;
    const MAX_NAME_LEN: usize = 64;

    /// Reads `<name>.toml` from the folder (blocks).
    pub fn read(folder: Option<&Path>, name: &str) -> Result<Self, Problem> {
        let is_name = (1..=Self::MAX_NAME_LEN).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !is_name {
            return Err(Problem::invalid("mapping", "1 to 64 of A-Z a-z 0-9 _ -"));
        }
        let folder = folder.ok_or_else(|| Problem::invalid("mapping", "card_guard.station_mappings is not set"))?;
        let file = std::fs::File::open(folder.join(format!("{name}.toml"))).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Problem::invalid("mapping", format!("there is no mapping {name}")),
            _ => Problem::internal("mapping", &error),
        })?;
        let mut text = String::new();
        file.take(Self::MAX_BYTES).read_to_string(&mut text).map_err(|error| Problem::internal("mapping", &error))?;
        Self::parse(&text).map_err(|reason| Problem::invalid("mapping", format!("{name}.toml: {reason}")))
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let mapping: Self = toml::from_str(text).map_err(|error| shown(error.message()))?;
        let names = mapping.columns.keys().chain(mapping.defaults.keys());
        if let Some(name) = names.into_iter().find(|name| field_of(name).is_none()) {
            return Err(format!("{} is none of our names, which are {}", shown(name), our_names()));
        }
        if mapping.delimiter.is_some_and(|delimiter| !delimiter.is_ascii() || "\"\r\n".contains(delimiter)) {
            return Err("delimiter: one ASCII character".into());
        }
        if mapping.postal_code_digits.is_some_and(|digits| !(1..=Station::MAX_POSTAL_CODE_CHARS).contains(&digits)) {
            return Err(format!("postal_code_digits: 1 to {}", Station::MAX_POSTAL_CODE_CHARS));
        }
        Ok(mapping)
    }

    /// Adds what the query says; its columns count before the file's.
    pub fn refine(&mut self, format: Option<&str>, columns: Option<&str>) -> Result<(), Problem> {
        self.format = match (format, self.format) {
            (None, Some(known)) => Some(known),
            (Some("csv"), None | Some(Format::Csv)) => Some(Format::Csv),
            (Some("geojson"), None | Some(Format::Geojson)) => Some(Format::Geojson),
            (Some("csv" | "geojson"), Some(_)) => return Err(Problem::invalid("format", "the mapping has another")),
            (Some(_) | None, _) => return Err(Problem::invalid("format", "csv or geojson")),
        };
        let mut seen = Vec::new();
        for part in columns.unwrap_or("").split(',').filter(|part| !part.trim().is_empty()) {
            let bad = |detail: &str| Problem::invalid("columns", format!("{}: {detail}", shown(part)));
            let (ours, theirs) = part.split_once(':').ok_or_else(|| bad("ours:theirs"))?;
            let (ours, theirs) = (ours.trim(), theirs.trim());
            let field = field_of(ours).ok_or_else(|| bad(&format!("the names are {}", our_names())))?;
            if theirs.is_empty() || seen.contains(&field) {
                return Err(bad("each once, with a name"));
            }
            seen.push(field);
            self.columns.insert(ours.to_owned(), theirs.to_owned());
        }
        Ok(())
    }

    /// What the file is said to call one of our fields.
    pub fn said(&self, field: Field) -> Option<&str> {
        self.columns.get(field.name()).map(String::as_str)
    }

    /// What the file may call it.
    pub fn names(&self, field: Field) -> Vec<&str> {
        self.said(field).map_or_else(|| field.usual_names().to_vec(), |name| vec![name])
    }

    pub fn default_of(&self, field: Field) -> Option<&str> {
        self.defaults.get(field.name()).map(String::as_str)
    }
}

fn field_of(name: &str) -> Option<Field> {
    Field::ALL.into_iter().find(|field| field.name() == name)
}

fn our_names() -> String {
    Field::ALL.map(Field::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_field_has_its_own_name() {
        assert!(Field::ALL.iter().enumerate().all(|(at, field)| *field as usize == at));
        assert_eq!((Field::TimeZone.name(), Field::IsOfflineBatch.name()), ("time_zone", "is_offline_batch"));
    }

    #[test]
    fn the_mappings_we_ship_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/station-mappings");
        for file in std::fs::read_dir(&folder).unwrap() {
            let name = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
            let mut mapping = Mapping::read(Some(&folder), &name).map_err(|problem| problem.detail).unwrap();
            mapping.refine(None, None).map_err(|problem| problem.detail).unwrap();
        }
    }

    #[test]
    fn a_mapping_is_named_and_nothing_else_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/station-mappings");
        for name in ["", "..", "../cardea", "a/b", "a.toml", "nobody", "\0"] {
            assert_eq!(Mapping::read(Some(&folder), name).unwrap_err().field.as_deref(), Some("mapping"), "{name:?}");
        }
        assert!(Mapping::read(None, "it-mimit").is_err());
    }

    #[test]
    fn a_mistake_in_a_mapping_is_named() {
        for (text, word) in [
            ("colour = 1", "colour"),
            ("[columns]\ncolour = \"x\"", "colour"),
            ("delimiter = \"||\"", "char"),
            ("delimiter = \"é\"", "delimiter"),
            ("encoding = \"ebcdic\"", "ebcdic"),
            ("postal_code_digits = 0", "postal_code_digits"),
        ] {
            let reason = Mapping::parse(text).unwrap_err();
            assert!(reason.contains(word), "{text}: {reason}");
        }
    }

    #[test]
    fn the_query_counts_before_the_file_and_may_not_contradict_its_format() {
        let mut mapping = Mapping::parse("format = \"csv\"\n[columns]\nname = \"a\"\ncity = \"b\"").unwrap();
        mapping.refine(None, Some("name:c")).unwrap();
        assert_eq!((mapping.said(Field::Name), mapping.said(Field::City)), (Some("c"), Some("b")));
        assert_eq!(mapping.refine(Some("geojson"), None).unwrap_err().field.as_deref(), Some("format"));
        assert_eq!(Mapping::default().refine(None, None).unwrap_err().field.as_deref(), Some("format"));
        for bad in ["colour:x", "name:a,name:b", "name", "name:"] {
            let refused = Mapping::default().refine(Some("csv"), Some(bad)).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("columns"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_columns_text_is_answered(text in ".{0,80}") {
            let _ = Mapping::default().refine(Some("csv"), Some(&text));
            let _ = Mapping::parse(&text);
        }
    }
}
