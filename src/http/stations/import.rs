//! Station directories as they are published: CSV with any separator, and GeoJSON.
//!
//! Such files are dirty. Every line is taken or rejected by itself, with its number and the reason: an unclosed quote
//! or a separator inside a field costs its own line and no other.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::mapping::{Encoding, Field, Format, Mapping};
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
    /// The first [`MAX_REJECTED`], by line.
    pub rejected: Vec<Rejected>,
    pub rejected_total: usize,
}

const MAX_LINES: usize = 200_000;
const MAX_LINE_LEN: usize = 16 * 1024;
/// Rejected lines shown, some 100 bytes each: nobody reads more, and the mapping is wrong then.
const MAX_REJECTED: usize = 1_000;

/// One line's values by [`Field`], not yet looked at.
#[derive(Debug, Default)]
struct Row([Option<String>; Field::COUNT]);

impl Row {
    /// A value of the line, else of the mapping's defaults.
    fn take(&mut self, field: Field, mapping: &Mapping) -> Option<String> {
        self.0[field as usize].take().or_else(|| mapping.default_of(field).map(str::to_owned))
    }
}

pub fn parse(body: &[u8], mapping: &Mapping) -> Result<Parsed, Problem> {
    let body = match mapping.encoding {
        Encoding::Utf8 => Cow::Borrowed(body),
        // Every byte is the character of its number.
        Encoding::Latin1 => Cow::Owned(body.iter().copied().map(char::from).collect::<String>().into_bytes()),
    };
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body);
    match mapping.format {
        Some(Format::Csv) => csv(body, mapping),
        Some(Format::Geojson) => geojson(body, mapping),
        None => Err(Problem::invalid("format", "csv or geojson")),
    }
}

fn csv(body: &[u8], mapping: &Mapping) -> Result<Parsed, Problem> {
    let lines = (1u64..).zip(body.split(|byte| *byte == b'\n')).skip(mapping.skip_lines);
    let mut lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let (_, header) = lines.next().ok_or_else(|| Problem::invalid("body", "a header line is needed"))?;
    if header.len() > MAX_LINE_LEN {
        return Err(Problem::invalid("body", "the header line is too long"));
    }
    // The mapping's was checked to be ASCII.
    let separator = mapping.delimiter.map_or_else(|| separator(header), |delimiter| delimiter as u8);
    let names = split(header, separator).map_err(|reason| Problem::invalid("body", format!("the header: {reason}")))?;
    let mut places = [None; Field::COUNT];
    for field in Field::ALL {
        let found = mapping.names(field).into_iter().find_map(|name| names.iter().position(|known| known == name));
        let is_position = matches!(field, Field::Latitude | Field::Longitude);
        match (found, mapping.said(field)) {
            (None, Some(name)) => {
                return Err(Problem::invalid("columns", format!("the file has no column {}", shown(name))));
            }
            (None, None) if is_position && !mapping.without_positions => {
                return Err(Problem::invalid("columns", format!("which column is the {}?", field.name())));
            }
            (found, _) => places[field as usize] = found,
        }
    }
    let mut collected = Collected::default();
    for (number, line) in lines {
        let row = split_row(line, separator, names.len(), &places);
        collected.take(number, row, mapping)?;
    }
    Ok(collected.finish())
}

/// The likeliest separator: the one the header has most of.
fn separator(header: &[u8]) -> u8 {
    let count = |byte: &u8| header.iter().filter(|other| *other == byte).count();
    [b',', b';', b'|', b'\t'].into_iter().rev().max_by_key(count).unwrap_or(b',')
}

/// One line's fields. By hand, because a line is to stand for itself: a reader of the `csv` crate begins anew with each
/// line only by building its tables again, which costs more than all else.
fn split(line: &[u8], separator: u8) -> Result<Vec<String>, String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = |field: &[u8]| match std::str::from_utf8(field) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err("not UTF-8".to_owned()),
    };
    let (mut fields, mut rest) = (Vec::new(), Some(line));
    while let Some(from) = rest {
        let (unquoted, after) = match from.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            None => (Vec::new(), from),
        };
        let end = after.iter().position(|byte| *byte == separator);
        let tail = &after[..end.unwrap_or(after.len())];
        fields.push(if unquoted.is_empty() { text(tail)? } else { text(&[&unquoted, tail].concat())? });
        rest = end.map(|end| &after[end + 1..]);
    }
    Ok(fields)
}

/// What stands before the closing quote, where two quotes are one, and what comes after it.
fn unquote(quoted: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let (mut content, mut rest) = (Vec::new(), quoted);
    loop {
        let quote = rest.iter().position(|byte| *byte == b'"').ok_or("a quote is not closed")?;
        content.extend_from_slice(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix(b"\"") {
            Some(more) => {
                content.push(b'"');
                rest = more;
            }
            None => return Ok((content, rest)),
        }
    }
}

fn split_row(line: &[u8], separator: u8, width: usize, places: &[Option<usize>; Field::COUNT]) -> Result<Row, String> {
    if line.len() > MAX_LINE_LEN {
        return Err(format!("longer than {MAX_LINE_LEN} bytes"));
    }
    let fields = split(line, separator)?;
    if fields.len() != width {
        return Err(format!("{} fields, the header has {width}", fields.len()));
    }
    let value = |place: Option<usize>| place.map(|index| fields[index].clone()).filter(|text| !text.is_empty());
    Ok(Row(places.map(value)))
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

fn geojson(body: &[u8], mapping: &Mapping) -> Result<Parsed, Problem> {
    let collection: FeatureCollection<'_> = serde_json::from_slice(body).map_err(|error| {
        Problem::invalid("body", format!("not a GeoJSON feature collection (line {})", error.line()))
    })?;
    if collection.kind != "FeatureCollection" {
        return Err(Problem::invalid("type", "FeatureCollection"));
    }
    let mut collected = Collected::default();
    for (number, feature) in (1u64..).zip(collection.features) {
        collected.take(number, feature_row(feature, mapping), mapping)?;
    }
    Ok(collected.finish())
}

fn feature_row(feature: &RawValue, mapping: &Mapping) -> Result<Row, String> {
    let Feature { id, properties, geometry } =
        serde_json::from_str(feature.get()).map_err(|_| "not a GeoJSON feature".to_owned())?;
    let properties = properties.unwrap_or_default();
    // A feature may have no place, in words: `"geometry":null`.
    if geometry.as_ref().is_some_and(|geometry| geometry.kind != "Point") {
        return Err("its geometry is not a point".into());
    }
    let coordinate =
        |index: usize| geometry.as_ref().and_then(|geometry| geometry.coordinates.get(index)).and_then(text_of);
    let property =
        |field: Field| mapping.names(field).into_iter().find_map(|name| properties.get(name)).and_then(text_of);
    Ok(Row(Field::ALL.map(|field| match field {
        Field::StationId => property(field).or_else(|| id.as_ref().and_then(text_of)),
        Field::Latitude => coordinate(1),
        Field::Longitude => coordinate(0),
        _ => property(field),
    })))
}

fn text_of(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(is_so) => Some(is_so.to_string()),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    }
}

/// Takes or rejects line by line; a station that came before in the file is rejected, its first line counts.
#[derive(Default)]
struct Collected {
    stations: Vec<(u64, Station)>,
    rejected: Vec<Rejected>,
    rejected_total: usize,
    line_of: HashMap<StationId, u64>,
}

impl Collected {
    fn take(&mut self, line: u64, row: Result<Row, String>, mapping: &Mapping) -> Result<(), Problem> {
        if self.stations.len() + self.rejected_total >= MAX_LINES {
            return Err(Problem::invalid("body", format!("at most {MAX_LINES} stations at once; nothing happened")));
        }
        let station = row.and_then(|row| station(row, mapping));
        let station = station.and_then(|station| match self.line_of.get(&station.station_id) {
            Some(first) => Err(format!("station_id {} is in line {first} already", station.station_id)),
            None => Ok(station),
        });
        match station {
            Ok(station) => {
                self.line_of.insert(station.station_id.clone(), line);
                self.stations.push((line, station));
            }
            Err(reason) => self.reject(line, reason),
        }
        Ok(())
    }

    fn reject(&mut self, line: u64, reason: String) {
        self.rejected_total += 1;
        // In order but for swapped coordinates, which show at the end only.
        self.rejected.push(Rejected { line, reason });
        if self.rejected.len() > 2 * MAX_REJECTED {
            self.rejected.truncate(MAX_REJECTED);
        }
    }

    fn finish(mut self) -> Parsed {
        let area = Area::of(self.stations.iter().filter_map(|(_, station)| station.position));
        let is_swapped = |station: &Station| {
            area.as_ref().zip(station.position).is_some_and(|(area, position)| area.is_swapped(position))
        };
        let (swapped, stations): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stations).into_iter().partition(|(_, station)| is_swapped(station));
        for (line, _) in swapped {
            self.reject(line, "latitude and longitude look swapped: all others are elsewhere".into());
        }
        self.rejected.sort_by_key(|rejected| rejected.line);
        self.rejected.truncate(MAX_REJECTED);
        Parsed {
            stations: stations.into_iter().map(|(_, station)| station).collect(),
            rejected: self.rejected,
            rejected_total: self.rejected_total,
        }
    }
}

/// Where nearly all stations of a file are.
struct Area {
    latitudes: (f64, f64),
    longitudes: (f64, f64),
}

impl Area {
    /// Of fewer, nobody can say what is usual.
    const MIN_STATIONS: usize = 20;
    const MARGIN_DEG: f64 = 2.0;

    fn of(positions: impl Iterator<Item = Position>) -> Option<Self> {
        let (mut latitudes, mut longitudes): (Vec<f64>, Vec<f64>) =
            positions.map(|position| (position.latitude, position.longitude)).unzip();
        if latitudes.len() < Self::MIN_STATIONS {
            return None;
        }
        // All but the outer twentieth on each side: more lines than that are not swapped by mistake.
        let bounds = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let outer = values.len() / 20;
            (values[outer] - Self::MARGIN_DEG, values[values.len() - 1 - outer] + Self::MARGIN_DEG)
        };
        Some(Self { latitudes: bounds(&mut latitudes), longitudes: bounds(&mut longitudes) })
    }

    fn has(&self, latitude: f64, longitude: f64) -> bool {
        let is_in = |(from, to): (f64, f64), value: f64| (from..=to).contains(&value);
        is_in(self.latitudes, latitude) && is_in(self.longitudes, longitude)
    }

    fn is_swapped(&self, Position { latitude, longitude }: Position) -> bool {
        !self.has(latitude, longitude) && self.has(longitude, latitude)
    }
}

fn station(mut row: Row, mapping: &Mapping) -> Result<Station, String> {
    let mut value = |field| row.take(field, mapping);
    let position = position(value(Field::Latitude), value(Field::Longitude))?;
    let text = |text: Option<String>, max| text.map(|text| keepable(&text, max)).filter(|text| !text.is_empty());
    // A directory without ids is keyed by place, so that the same file again finds the same stations. Ids like
    // OpenStreetMap's `node/123` become `node-123`: a slash would not pass in a path.
    let station_id: StationId = match (value(Field::StationId), position) {
        (Some(id), _) => {
            let id = format!("{}{}", mapping.id_prefix, id.replace('/', "-"));
            id.parse().map_err(|error| format!("station_id {}: {error}", shown(&id)))?
        }
        (None, Some(position)) => StationId::of_place(position).map_err(|malformed| malformed.0.to_owned())?,
        (None, None) => return Err("neither a station_id nor a position".into()),
    };
    let name = text(value(Field::Name), Station::MAX_NAME_CHARS).unwrap_or_else(|| station_id.to_string());
    let terminals = match (value(Field::NetworkId), value(Field::TerminalId)) {
        (Some(network_id), terminal_id) => vec![Terminal { network_id, terminal_id }],
        (None, Some(_)) => return Err("a terminal_id without a network_id".into()),
        (None, None) => Vec::new(),
    };
    let postal_code = value(Field::PostalCode).and_then(|code| postal_code(&code, mapping.postal_code_digits));
    let country = value(Field::Country).map(|country| country.to_uppercase());
    // What nobody said is the country's column is not read as one where it has no code.
    let is_guess = mapping.said(Field::Country).is_none();
    let station = Station {
        brand: text(value(Field::Brand), Station::MAX_NAME_CHARS),
        position,
        terminals,
        postal_code: text(postal_code, Station::MAX_POSTAL_CODE_CHARS),
        city: text(value(Field::City), Station::MAX_NAME_CHARS),
        country: country.filter(|country| !is_guess || (2..=3).contains(&country.len())),
        time_zone: value(Field::TimeZone),
        is_offline_batch: value(Field::IsOfflineBatch).map_or(Ok(false), |text| yes_or_no(&text))?,
        ..Station::new(station_id, name)
    };
    station.check().map_err(|malformed| malformed.0.to_owned())?;
    Ok(station)
}

/// Both or none.
fn position(latitude: Option<String>, longitude: Option<String>) -> Result<Option<Position>, String> {
    if latitude.is_none() && longitude.is_none() {
        return Ok(None);
    }
    let position = Position {
        latitude: degrees("latitude", latitude.as_deref())?,
        longitude: degrees("longitude", longitude.as_deref())?,
    };
    if !position.is_valid() {
        let swapped = Position { latitude: position.longitude, longitude: position.latitude };
        let hint = if swapped.is_valid() { "; latitude and longitude look swapped" } else { "" };
        return Err(format!("the position is not on the globe{hint}"));
    }
    if position.latitude == 0.0 && position.longitude == 0.0 {
        return Err("latitude 0, longitude 0 is no position".into());
    }
    Ok(Some(position))
}

/// The whole text, or its last number of exactly so many digits: many addresses end in the code.
fn postal_code(text: &str, digits: Option<usize>) -> Option<String> {
    let Some(digits) = digits else { return Some(text.to_owned()) };
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    numbers.rev().find(|number| number.len() == digits).map(str::to_owned)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("is_offline_batch {} is neither yes nor no", shown(text))),
    }
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

    fn mapping(format: &str, columns: &str) -> Mapping {
        let mut mapping = Mapping::default();
        mapping.refine(Some(format), Some(columns)).map_err(|problem| problem.detail).unwrap();
        mapping
    }

    fn csv_of(text: &str, columns: &str) -> Parsed {
        parse(text.as_bytes(), &mapping("csv", columns)).map_err(|problem| problem.detail).unwrap()
    }

    fn mapped(text: &[u8], mapping: &str) -> Parsed {
        parse(text, &Mapping::parse(mapping).unwrap()).map_err(|problem| problem.detail).unwrap()
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
    fn quoted_fields_are_split_as_the_csv_form_says() {
        let fields = |line: &str| split(line.as_bytes(), b',');
        assert_eq!(fields(r#"a,"b, c","d ""e""",,"",f"#).unwrap(), ["a", "b, c", r#"d "e""#, "", "", "f"]);
        assert_eq!(fields("\"\",x\r").unwrap(), ["", "x"]);
        assert_eq!(fields(r#"a "b" c,"d"e"#).unwrap(), [r#"a "b" c"#, "de"]);
        assert_eq!(fields(r#"a,"b"#).unwrap_err(), "a quote is not closed");
        assert_eq!(split(b"\xff,\xfe", b',').unwrap_err(), "not UTF-8");
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
            {"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]},"properties":{"ref":5,"name":null}},
            {"type":"Feature","id":9,"geometry":null,"properties":{}}]}"#;
        let parsed = parse(text.as_bytes(), &mapping("geojson", "station_id:ref")).map_err(|p| p.detail).unwrap();
        let ids: Vec<_> = parsed.stations.iter().map(|station| station.station_id.as_str()).collect();
        assert_eq!(ids, ["node-7", "5", "9"]);
        assert_eq!(parsed.stations[2].position, None);
        assert_eq!(parsed.rejected.iter().map(|rejected| rejected.line).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn what_concerns_the_whole_file_names_the_parameter() {
        let field = |body: &[u8], format: &str| parse(body, &mapping(format, "")).unwrap_err().field;
        assert_eq!(field(b"", "csv").as_deref(), Some("body"));
        assert_eq!(field(b"a,b\n1,2\n", "csv").as_deref(), Some("columns"));
        assert_eq!(field(br#"{"type":"Feature","features":[]}"#, "geojson").as_deref(), Some("type"));
    }

    #[test]
    fn a_mapping_tells_of_preamble_encoding_prefix_and_defaults() {
        let text = b"Estrazione del 2026-08-21\n\
            id|marca|via|lat|lon|benzina\n\
            1|Citt\xe0|Via Roma 12345 1, 10121 TORINO|45,1|7,1|1.000\n\
            2|Q8|Via Po|45.2|7.2|8.888\n";
        let form = "format = \"csv\"\nencoding = \"latin-1\"\nskip_lines = 1\nid_prefix = \"it-\"\npostal_code_digits = 5\n\
            [columns]\nstation_id = \"id\"\nname = \"marca\"\npostal_code = \"via\"\n\
            [defaults]\ncountry = \"IT\"\ntime_zone = \"Europe/Rome\"\ncity = \"Torino\"";
        let parsed = mapped(text, form);
        assert_eq!(parsed.rejected, []);
        let first = &parsed.stations[0];
        assert_eq!((first.station_id.as_str(), first.name.as_str()), ("it-1", "Città"));
        assert_eq!(first.postal_code.as_deref(), Some("10121"));
        assert_eq!((first.country.as_deref(), first.time_zone.as_deref()), (Some("IT"), Some("Europe/Rome")));
        assert_eq!((first.city.as_deref(), parsed.stations[1].postal_code.as_deref()), (Some("Torino"), None));
    }

    #[test]
    fn a_list_of_terminals_without_coordinates_is_taken_when_its_mapping_says_so() {
        let form = "format = \"csv\"\nwithout_positions = true\ndelimiter = \";\"";
        let parsed = mapped(b"station_id;network_id;terminal_id\n1;N;T1\n;N;T2\n", form);
        assert_eq!((parsed.stations.len(), parsed.stations[0].position), (1, None));
        assert_eq!(parsed.rejected[0].reason, "neither a station_id nor a position");
    }

    #[test]
    fn swapped_coordinates_are_told_by_the_globe_or_by_all_others() {
        let mut text = String::from("station_id,latitude,longitude\nx,142.4,43.8\ny,7.5,45.5\n");
        for number in 0..40 {
            text += &format!("{number},45.{number:02},7.{number:02}\n");
        }
        let parsed = csv_of(&text, "");
        let rejected: Vec<_> = parsed.rejected.iter().map(|rejected| (rejected.line, &*rejected.reason)).collect();
        assert_eq!(rejected.len(), 2, "{rejected:?}");
        assert!(rejected.iter().all(|(_, reason)| reason.contains("swapped")), "{rejected:?}");
        assert_eq!((rejected[0].0, rejected[1].0, parsed.stations.len()), (2, 3, 40));
        // Two stations far apart say nothing about each other.
        assert_eq!(csv_of("station_id,latitude,longitude\na,45,7\nb,7,45\n", "").stations.len(), 2);
    }

    #[test]
    fn a_country_in_words_is_left_out_unless_that_column_was_named() {
        let text = "station_id,latitude,longitude,country\na,1,2,Italia\nb,1,3,it\n";
        let parsed = csv_of(text, "");
        assert_eq!((parsed.stations[0].country.as_deref(), parsed.stations[1].country.as_deref()), (None, Some("IT")));
        assert_eq!(csv_of(text, "country:country").rejected[0].line, 2);
    }

    #[test]
    fn many_bad_lines_are_counted_and_the_first_are_shown() {
        let text = format!("station_id,latitude,longitude\n{}", "a,b,c\n".repeat(5_000));
        let parsed = csv_of(&text, "");
        assert_eq!((parsed.rejected_total, parsed.rejected.len()), (5_000, MAX_REJECTED));
        assert_eq!((parsed.rejected[0].line, parsed.rejected[MAX_REJECTED - 1].line), (2, 1_001));
    }

    proptest! {
        #[test]
        fn every_line_of_any_file_is_taken_or_rejected(
            lines in proptest::collection::vec("[a-z0-9,;\"'|. é\u{1}-]{0,40}", 0..40),
        ) {
            let body = format!("station_id,name,latitude,longitude\n{}", lines.join("\n"));
            let parsed = csv_of(&body, "");
            let data_lines = lines.iter().filter(|line| !line.as_bytes().trim_ascii().is_empty()).count();
            prop_assert_eq!(parsed.stations.len() + parsed.rejected_total, data_lines);
            prop_assert!(parsed.stations.iter().all(|station| station.check().is_ok()));
        }

        #[test]
        fn any_bytes_are_answered(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&body, &mapping("csv", ""));
            let _ = parse(&body, &mapping("geojson", ""));
        }

        #[test]
        fn any_feature_is_taken_or_rejected(feature in "[{}\\[\\]\":,a-z0-9 ]{0,60}") {
            let body = format!(r#"{{"type":"FeatureCollection","features":[{feature}]}}"#);
            let _ = parse(body.as_bytes(), &mapping("geojson", ""));
        }
    }
}
