//! Station directories as they are published: CSV with any separator, and GeoJSON.
//!
//! Such files are dirty. Every line is taken or rejected by itself, with its number and the reason: an unclosed quote
//! or a separator inside a field costs its own line and no other.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::Position;
use crate::domain::card::{Station, StationId, Terminal, keepable};
use crate::http::error::{Problem, shown};

/// A line that could not be taken.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Rejected {
    /// Counted from 1, the header included; in GeoJSON the feature's number.
    pub line: u64,
    pub reason: String,
}

#[derive(Debug, Default)]
pub struct Parsed {
    pub stations: Vec<Station>,
    pub rejected: Vec<Rejected>,
}

const MAX_LINES: usize = 200_000;
const MAX_LINE_LEN: usize = 16 * 1024;

/// What we call a column, what else it may be called when the caller does not say.
const FIELDS: [(&str, &[&str]); 6] = [
    ("station_id", &["station_id"]),
    ("name", &["name", "brand"]),
    ("latitude", &["latitude", "lat"]),
    ("longitude", &["longitude", "lon", "lng"]),
    ("network_id", &["network_id"]),
    ("terminal_id", &["terminal_id"]),
];

/// Our names to the file's: `station_id:id,name:brand,latitude:lat,longitude:lon`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns(HashMap<&'static str, String>);

impl Columns {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut columns = HashMap::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let bad = |detail: &str| Problem::invalid("columns", format!("{}: {detail}", shown(part)));
            let (ours, theirs) = part.split_once(':').ok_or_else(|| bad("ours:theirs"))?;
            let (ours, theirs) = (ours.trim(), theirs.trim());
            let (ours, _) = FIELDS.iter().find(|(name, _)| *name == ours).ok_or_else(|| {
                bad("the names are station_id, name, latitude, longitude, network_id and terminal_id")
            })?;
            if theirs.is_empty() || columns.insert(*ours, theirs.to_owned()).is_some() {
                return Err(bad("each once, with a name"));
            }
        }
        Ok(Self(columns))
    }

    /// What the file may call one of our fields.
    fn names<'a>(&'a self, field: &str) -> Vec<&'a str> {
        match self.0.get(field) {
            Some(name) => vec![name],
            None => FIELDS.iter().find(|(name, _)| *name == field).map_or(Vec::new(), |(_, names)| names.to_vec()),
        }
    }
}

/// One line's values, not yet looked at.
#[derive(Debug, Default)]
struct Row {
    station_id: Option<String>,
    name: Option<String>,
    latitude: Option<String>,
    longitude: Option<String>,
    network_id: Option<String>,
    terminal_id: Option<String>,
}

pub fn csv(body: &[u8], columns: &Columns) -> Result<Parsed, Problem> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut lines = (1u64..).zip(body.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
    let (_, header) = lines.next().ok_or_else(|| Problem::invalid("body", "a header line is needed"))?;
    if header.len() > MAX_LINE_LEN {
        return Err(Problem::invalid("body", "the header line is too long"));
    }
    let separator = separator(header);
    let names = split(header, separator).map_err(|reason| Problem::invalid("body", format!("the header: {reason}")))?;
    let place = |field: &str| {
        let found = columns.names(field).into_iter().find_map(|name| names.iter().position(|known| known == name));
        match (found, columns.0.get(field)) {
            (None, Some(name)) => Err(Problem::invalid("columns", format!("the file has no column {}", shown(name)))),
            (None, None) if field == "latitude" || field == "longitude" => {
                Err(Problem::invalid("columns", format!("which column is the {field}?")))
            }
            (found, _) => Ok(found),
        }
    };
    let places = [
        place("station_id")?,
        place("name")?,
        place("latitude")?,
        place("longitude")?,
        place("network_id")?,
        place("terminal_id")?,
    ];
    let mut collected = Collected::default();
    for (number, line) in lines {
        let row = split_row(line, separator, names.len(), &places);
        collected.take(number, row)?;
    }
    Ok(collected.parsed)
}

/// The likeliest separator: the one the header has most of.
fn separator(header: &[u8]) -> u8 {
    let count = |byte: &u8| header.iter().filter(|other| *other == byte).count();
    [b',', b';', b'|', b'\t'].into_iter().rev().max_by_key(count).unwrap_or(b',')
}

fn split(line: &[u8], separator: u8) -> Result<Vec<String>, String> {
    let text = |field: &[u8]| std::str::from_utf8(field).map(|text| text.trim().to_owned());
    let not_utf8 = |_| "not UTF-8".to_owned();
    if !line.contains(&b'"') {
        // Nearly every line; a reader a line would cost more than all else.
        return line.split(|byte| *byte == separator).map(|field| text(field).map_err(not_utf8)).collect();
    }
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(line.len().clamp(16, MAX_LINE_LEN))
        .from_reader(line);
    let mut record = csv::ByteRecord::new();
    match reader.read_byte_record(&mut record) {
        Ok(true) => {}
        Ok(false) => return Err("empty".into()),
        Err(_) => return Err("not readable".into()),
    }
    record.iter().map(|field| text(field).map_err(not_utf8)).collect()
}

fn split_row(line: &[u8], separator: u8, width: usize, places: &[Option<usize>; 6]) -> Result<Row, String> {
    if line.len() > MAX_LINE_LEN {
        return Err(format!("longer than {MAX_LINE_LEN} bytes"));
    }
    let fields = split(line, separator)?;
    if fields.len() != width {
        return Err(format!("{} fields, the header has {width}", fields.len()));
    }
    let value = |place: usize| {
        let text = places[place].map(|index| fields[index].as_str()).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    Ok(Row {
        station_id: value(0),
        name: value(1),
        latitude: value(2),
        longitude: value(3),
        network_id: value(4),
        terminal_id: value(5),
    })
}

#[derive(Deserialize)]
struct FeatureCollection<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    features: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Feature {
    id: Option<serde_json::Value>,
    #[serde(default)]
    properties: Option<HashMap<String, serde_json::Value>>,
    geometry: Option<Geometry>,
}

#[derive(Deserialize)]
struct Geometry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    coordinates: serde_json::Value,
}

pub fn geojson(body: &[u8], columns: &Columns) -> Result<Parsed, Problem> {
    let collection: FeatureCollection<'_> = serde_json::from_slice(body).map_err(|error| {
        Problem::invalid("body", format!("not a GeoJSON feature collection (line {})", error.line()))
    })?;
    if collection.kind != "FeatureCollection" {
        return Err(Problem::invalid("type", "FeatureCollection"));
    }
    let mut collected = Collected::default();
    for (number, feature) in (1u64..).zip(collection.features) {
        collected.take(number, feature_row(feature, columns))?;
    }
    Ok(collected.parsed)
}

fn feature_row(feature: &RawValue, columns: &Columns) -> Result<Row, String> {
    let Feature { id, properties, geometry } =
        serde_json::from_str(feature.get()).map_err(|_| "not a GeoJSON feature".to_owned())?;
    let properties = properties.unwrap_or_default();
    let geometry = geometry.filter(|geometry| geometry.kind == "Point").ok_or("its geometry is not a point")?;
    let coordinate = |index: usize| geometry.coordinates.get(index).and_then(text_of);
    let property =
        |field: &str| columns.names(field).into_iter().find_map(|name| properties.get(name)).and_then(text_of);
    Ok(Row {
        station_id: property("station_id").or_else(|| id.as_ref().and_then(text_of)),
        name: property("name"),
        latitude: coordinate(1),
        longitude: coordinate(0),
        network_id: property("network_id"),
        terminal_id: property("terminal_id"),
    })
}

fn text_of(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    }
}

/// Takes or rejects line by line; a station that came before in the file is rejected, its first line counts.
#[derive(Default)]
struct Collected {
    parsed: Parsed,
    line_of: HashMap<StationId, u64>,
}

impl Collected {
    fn take(&mut self, line: u64, row: Result<Row, String>) -> Result<(), Problem> {
        if self.parsed.stations.len() + self.parsed.rejected.len() >= MAX_LINES {
            return Err(Problem::invalid("body", format!("at most {MAX_LINES} stations at once; nothing happened")));
        }
        let station = row.and_then(station).and_then(|station| match self.line_of.get(&station.station_id) {
            Some(first) => Err(format!("station_id {} is in line {first} already", station.station_id)),
            None => Ok(station),
        });
        match station {
            Ok(station) => {
                self.line_of.insert(station.station_id.clone(), line);
                self.parsed.stations.push(station);
            }
            Err(reason) => self.parsed.rejected.push(Rejected { line, reason }),
        }
        Ok(())
    }
}

fn station(row: Row) -> Result<Station, String> {
    let position = Position {
        latitude: degrees("latitude", row.latitude.as_deref())?,
        longitude: degrees("longitude", row.longitude.as_deref())?,
    };
    if !position.is_valid() {
        return Err("the position is not on the globe".into());
    }
    if position.latitude == 0.0 && position.longitude == 0.0 {
        return Err("latitude 0, longitude 0 is no position".into());
    }
    // A directory without ids is keyed by place, so that the same file again finds the same stations. Ids like
    // OpenStreetMap's `node/123` become `node-123`: a slash would not pass in a path.
    let id = match row.station_id {
        Some(id) => id.replace('/', "-"),
        None => format!("at:{:.6}:{:.6}", position.latitude, position.longitude),
    };
    let station_id: StationId = id.parse().map_err(|error| format!("station_id {}: {error}", shown(&id)))?;
    let name = row.name.map(|name| keepable(&name, Station::MAX_NAME_CHARS)).filter(|name| !name.is_empty());
    let terminals = match (row.network_id, row.terminal_id) {
        (Some(network_id), terminal_id) => vec![Terminal { network_id, terminal_id }],
        (None, Some(_)) => return Err("a terminal_id without a network_id".into()),
        (None, None) => Vec::new(),
    };
    let name = name.unwrap_or_else(|| station_id.to_string());
    let station = Station { station_id, name, position: Some(position), terminals };
    station.check().map_err(|malformed| malformed.0.to_owned())?;
    Ok(station)
}

/// A decimal comma is understood.
fn degrees(field: &str, text: Option<&str>) -> Result<f64, String> {
    let text = text.ok_or_else(|| format!("{field} is missing"))?;
    let number = text.parse::<f64>().or_else(|_| text.replacen(',', ".", 1).parse());
    number.map_err(|_| format!("{field} {} is not a number", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn csv_of(text: &str, columns: &str) -> Parsed {
        csv(text.as_bytes(), &Columns::parse(columns).unwrap()).unwrap()
    }

    #[test]
    fn each_dirty_line_is_rejected_by_itself() {
        let text = "\u{feff}id,brand,lat,lon\n\
            1,Agip,45.1,7.1\r\n\
            2,Esso, Nord,45.2,7.2\n\
            3,Q8,,7.3\n\
            4,IP,95,7.4\n\
            5,\"Tamoil, Sud\",45.5,7.5\n\
            \n\
            6,\"Api,45.6,7.6\n\
            7,Erg,x,7.7\n\
            1,Again,45.8,7.8\n\
            9,,0,0\n\
            4242424242424242,Pan,45.9,7.9\n\
            11,,\"45,95\",7.95\n";
        let parsed = csv_of(text, "station_id:id,name:brand,latitude:lat,longitude:lon");
        let names: Vec<_> = parsed.stations.iter().map(|s| (s.station_id.as_str(), s.name.as_str())).collect();
        assert_eq!(names, [("1", "Agip"), ("5", "Tamoil, Sud"), ("11", "11")]);
        assert_eq!(parsed.stations[2].position.unwrap().latitude, 45.95);
        let lines: Vec<_> = parsed.rejected.iter().map(|rejected| rejected.line).collect();
        assert_eq!(lines, [3, 4, 5, 8, 9, 10, 11, 12]);
        assert_eq!(parsed.rejected[0].reason, "5 fields, the header has 4");
        assert_eq!(parsed.rejected[1].reason, "latitude is missing");
        assert_eq!(parsed.rejected[5].reason, "station_id 1 is in line 2 already");
    }

    #[test]
    fn the_separator_is_found_and_ids_come_from_the_place_when_there_are_none() {
        let parsed = csv_of("name;lat;lon\nShell;43,8339891;142,4707015\n", "");
        assert_eq!(parsed.stations[0].station_id.as_str(), "at:43.833989:142.470701");
        assert_eq!(parsed.stations[0].name, "Shell");
    }

    #[test]
    fn terminals_come_along() {
        let parsed =
            csv_of("station_id|latitude|longitude|mid|tid\na|1|2|N1|T1\nb|1|3||T1\n", "network_id:mid,terminal_id:tid");
        let terminal = Terminal { network_id: "N1".into(), terminal_id: Some("T1".into()) };
        assert_eq!(parsed.stations[0].terminals, [terminal]);
        assert_eq!(parsed.rejected[0].line, 3);
    }

    #[test]
    fn geojson_features_are_taken_one_by_one() {
        let text = r#"{"type":"FeatureCollection","features":[
            {"type":"Feature","id":"node/7","geometry":{"type":"Point","coordinates":[142.4,43.7]},"properties":{"name":"Eneos"}},
            {"type":"Feature","geometry":{"type":"Polygon","coordinates":[]},"properties":{}},
            {"type":"Feature","geometry":{"type":"Point","coordinates":["x",1]},"properties":null},
            17,
            {"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]},"properties":{"ref":5,"name":null}}]}"#;
        let parsed = geojson(text.as_bytes(), &Columns::parse("station_id:ref").unwrap()).unwrap();
        let ids: Vec<_> = parsed.stations.iter().map(|station| station.station_id.as_str()).collect();
        assert_eq!(ids, ["node-7", "5"]);
        assert_eq!(parsed.rejected.iter().map(|rejected| rejected.line).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn what_concerns_the_whole_file_names_the_parameter() {
        let field = |outcome: Result<Parsed, Problem>| outcome.unwrap_err().field;
        assert_eq!(Columns::parse("colour:x").unwrap_err().field.as_deref(), Some("columns"));
        assert_eq!(Columns::parse("name:a,name:b").unwrap_err().field.as_deref(), Some("columns"));
        let none = Columns::default();
        assert_eq!(field(csv(b"", &none)).as_deref(), Some("body"));
        assert_eq!(field(csv(b"a,b\n1,2\n", &none)).as_deref(), Some("columns"));
        assert_eq!(field(geojson(br#"{"type":"Feature","features":[]}"#, &none)).as_deref(), Some("type"));
    }

    proptest! {
        #[test]
        fn every_line_of_any_file_is_taken_or_rejected(
            lines in proptest::collection::vec("[a-z0-9,;\"'|. é\u{1}-]{0,40}", 0..40),
        ) {
            let body = format!("station_id,name,latitude,longitude\n{}", lines.join("\n"));
            let parsed = csv(body.as_bytes(), &Columns::default()).unwrap();
            let data_lines = lines.iter().filter(|line| !line.as_bytes().trim_ascii().is_empty()).count();
            prop_assert_eq!(parsed.stations.len() + parsed.rejected.len(), data_lines);
            prop_assert!(parsed.stations.iter().all(|station| station.check().is_ok()));
        }

        #[test]
        fn any_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = csv(&body, &Columns::default());
            let _ = geojson(&body, &Columns::default());
        }

        #[test]
        fn any_feature_is_taken_or_rejected(feature in "[{}\\[\\]\":,a-z0-9 ]{0,60}") {
            let body = format!(r#"{{"type":"FeatureCollection","features":[{feature}]}}"#);
            let _ = geojson(body.as_bytes(), &Columns::default());
        }

        #[test]
        fn any_columns_text_is_answered(text in ".{0,80}") {
            let _ = Columns::parse(&text);
        }
    }
}
