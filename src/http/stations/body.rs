//! What a station looks like over HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::import::Rejected;
use crate::actors::card_guard::{NewStation, StationChange};
use crate::domain::Position;
use crate::domain::card::{PositionSource, Station, Terminal};
use crate::http::cards::{field, present};
use crate::http::error::Problem;

/// `{"station_id":"it-4711","name":"Agip Eni","position":{"latitude":45.07,"longitude":7.68},
/// "position_source":"directory","terminals":[{"network_id":"1234567890","terminal_id":"99"}],"postal_code":"10121",
/// "city":"TORINO","country":"IT","time_zone":"Europe/Rome","is_offline_batch":false}`
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StationBody {
    pub station_id: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    /// null = not known: the location check is unknown then.
    pub position: Option<PositionBody>,
    /// Who says so; absent without a position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position_source: Option<PositionSourceBody>,
    /// For a learnt position, how many purchases agree on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learnt_from: Option<u32>,
    pub terminals: Vec<TerminalBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// ISO 3166-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// An IANA name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// It posts its purchases in batches, so that their times are not those of the purchases.
    #[serde(default)]
    pub is_offline_batch: bool,
    /// From the position asked for; only in a list by `near`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PositionBody {
    pub latitude: f64,
    pub longitude: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionSourceBody {
    /// An imported directory.
    Directory,
    /// A person; later imports leave it alone.
    Manual,
    /// Where cars stood at rest when their cards were read here.
    Learnt,
}

/// What the payment network calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalBody {
    pub network_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_id: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStationBody {
    /// Made if absent.
    pub station_id: Option<String>,
    pub name: String,
    pub brand: Option<String>,
    pub position: Option<PositionBody>,
    #[serde(default)]
    pub terminals: Vec<TerminalBody>,
    pub postal_code: Option<String>,
    pub city: Option<String>,
    /// ISO 3166-1, two or three capital letters.
    pub country: Option<String>,
    /// An IANA name like `Europe/Rome`.
    pub time_zone: Option<String>,
    #[serde(default)]
    pub is_offline_batch: bool,
}

/// What is absent stays as it is, null forgets. A position given here is `manual`; `"position":null` leaves it to the
/// next import, or to purchases.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StationChangeBody {
    pub name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub brand: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<PositionBody>)]
    pub position: Option<Option<PositionBody>>,
    pub terminals: Option<Vec<TerminalBody>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub postal_code: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub city: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub country: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub time_zone: Option<Option<String>>,
    pub is_offline_batch: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct StationPage {
    pub items: Vec<StationBody>,
    pub next: Option<String>,
}

/// `{"imported":23966,"updated":0,"rejected":[{"line":17,"reason":"9 fields, the header has 8"}],"rejected_total":1,
/// "without_position":3,"shared_positions":196,"kept_manual":0}`
#[derive(Debug, Serialize, ToSchema)]
pub struct Imported {
    /// New in the directory.
    pub imported: usize,
    /// In the directory before, and now as in the file.
    pub updated: usize,
    /// The first 1000 lines that could not be taken.
    pub rejected: Vec<Rejected>,
    pub rejected_total: usize,
    /// Taken from the file without coordinates.
    pub without_position: usize,
    /// Coordinates that several stations have: placeholders, at which the location check is unknown.
    pub shared_positions: usize,
    /// Stations whose position was set by hand and stayed; `force=true` would replace it.
    pub kept_manual: usize,
}

impl From<&Station> for StationBody {
    fn from(station: &Station) -> Self {
        let terminal = |terminal: &Terminal| TerminalBody {
            network_id: terminal.network_id.clone(),
            terminal_id: terminal.terminal_id.clone(),
        };
        let source = match station.position_source {
            PositionSource::Directory => PositionSourceBody::Directory,
            PositionSource::Manual => PositionSourceBody::Manual,
            PositionSource::Learnt => PositionSourceBody::Learnt,
        };
        Self {
            station_id: station.station_id.to_string(),
            name: station.name.clone(),
            brand: station.brand.clone(),
            position: station.position.map(|Position { latitude, longitude }| PositionBody { latitude, longitude }),
            position_source: station.position.map(|_| source),
            learnt_from: Some(station.learnt_from).filter(|count| *count > 0),
            terminals: station.terminals.iter().map(terminal).collect(),
            postal_code: station.postal_code.clone(),
            city: station.city.clone(),
            country: station.country.clone(),
            time_zone: station.time_zone.clone(),
            is_offline_batch: station.is_offline_batch,
            distance_m: None,
        }
    }
}

impl TryFrom<NewStationBody> for NewStation {
    type Error = Problem;

    fn try_from(body: NewStationBody) -> Result<Self, Problem> {
        Ok(Self {
            station_id: body.station_id.map(|id| field("station_id", &id)).transpose()?,
            name: body.name,
            brand: body.brand,
            position: body.position.map(Into::into),
            terminals: body.terminals.into_iter().map(Into::into).collect(),
            postal_code: body.postal_code,
            city: body.city,
            country: body.country,
            time_zone: body.time_zone,
            is_offline_batch: body.is_offline_batch,
        })
    }
}

impl From<StationChangeBody> for StationChange {
    fn from(body: StationChangeBody) -> Self {
        Self {
            name: body.name,
            brand: body.brand,
            position: body.position.map(|position| position.map(Into::into)),
            terminals: body.terminals.map(|terminals| terminals.into_iter().map(Into::into).collect()),
            postal_code: body.postal_code,
            city: body.city,
            country: body.country,
            time_zone: body.time_zone,
            is_offline_batch: body.is_offline_batch,
        }
    }
}

impl From<PositionBody> for Position {
    fn from(PositionBody { latitude, longitude }: PositionBody) -> Self {
        Self { latitude, longitude }
    }
}

impl From<TerminalBody> for Terminal {
    fn from(TerminalBody { network_id, terminal_id }: TerminalBody) -> Self {
        Self { network_id, terminal_id }
    }
}
