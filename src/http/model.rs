//! What HTTP shows of vehicles, commands, rentals and keys. One place knows this wire; the domain's own JSON is the
//! journal's and may differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::vehicle::Snapshot;
use crate::domain::command::{Command, CommandState, Order};
use crate::domain::key::{Delegation, Key, KeyState, RevocationEffect};
use crate::domain::rental::{Lending, Rental, RentalState, RequestState, Usage, UsageRequest};
use crate::domain::twin::{LinkState, SignalValue};
use crate::domain::{CommandId, Function, Functions, KeyId, RentalId, RequestId, Timestamp, VehicleId};

/// The closed set of functions, for the document.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Function)]
pub enum FunctionName {
    UnlockDoors,
    LockDoors,
    EnterCabin,
    OpenTrunk,
    Drive,
    AccessoryPower,
    Climate,
    Infotainment,
    Windows,
    OpenGlovebox,
    OpenFuelFlap,
    OpenChargePort,
    Locate,
}

/// `{"state":"online","since":"2026-11-21T22:00:00.000Z","epoch":7}`
#[derive(Debug, Serialize, ToSchema)]
pub struct LinkBody {
    #[schema(value_type = String, example = "online")]
    pub state: LinkState,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Rises with every session of the car.
    pub epoch: u64,
}

/// `{"value":62,"at":"2026-11-21T22:00:00.000Z"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct SignalBody {
    /// A boolean, a number or a text, as the car reported it.
    #[schema(value_type = Value)]
    pub value: serde_json::Value,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// The vehicle as it is now, e.g.
/// `{"vehicle_id":"WVW-1","link":{…},"signals":{"Vehicle.Speed":{"value":0,"at":"…"}},"usage":{"state":"free"},"drive_enabled":true,"keys":[],"pending_commands":0}`.
#[derive(Debug, Serialize, ToSchema)]
pub struct TwinBody {
    #[schema(value_type = String)]
    pub vehicle_id: VehicleId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tank_litres: Option<f64>,
    /// The fleet's own word for its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[schema(value_type = Vec<FunctionName>)]
    pub capabilities: Functions,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<LendingBody>)]
    pub lending: Option<Lending>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    pub link: LinkBody,
    /// By COVESA VSS path.
    pub signals: BTreeMap<String, SignalBody>,
    #[schema(value_type = UsageBody)]
    pub usage: Usage,
    pub drive_enabled: bool,
    /// Keys that are not over; without their tokens.
    pub keys: Vec<KeyBody>,
    /// Commands without an outcome yet.
    pub pending_commands: usize,
}

impl TwinBody {
    pub fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { now, vehicle, twin, .. } = snapshot;
        let open = |key: &&Key| matches!(key.state(*now), KeyState::Pending | KeyState::Delivered);
        let signals = twin.signals().map(|(path, signal)| {
            (path.as_str().to_owned(), SignalBody { value: signal_value(&signal.value), at: signal.at })
        });
        Self {
            vehicle_id: vehicle.vehicle_id.clone(),
            name: vehicle.details.name.clone(),
            fuel_type: vehicle.details.fuel_type.clone(),
            tank_litres: vehicle.tank_litres(),
            class: vehicle.details.class.clone(),
            capabilities: vehicle.capabilities(),
            lending: vehicle.details.lending.clone(),
            firmware: vehicle.reported.as_ref().map(|unit| unit.firmware.clone()),
            link: LinkBody { state: twin.link.state, since: twin.link.since, epoch: twin.link.epoch },
            signals: signals.collect(),
            usage: vehicle.usage(*now),
            drive_enabled: vehicle.is_drive_enabled(twin),
            keys: vehicle.keys.iter().filter(open).map(|key| KeyBody::of(&vehicle.vehicle_id, key, *now)).collect(),
            pending_commands: vehicle.open_commands().count(),
        }
    }
}

/// Whole numbers without a point, as the car wrote them.
pub fn signal_value(value: &SignalValue) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        SignalValue::Bool(flag) => (*flag).into(),
        SignalValue::Number(number) if number.fract() == 0.0 && number.abs() < EXACT => (*number as i64).into(),
        SignalValue::Number(number) => (*number).into(),
        SignalValue::Text(text) => text.as_ref().into(),
    }
}

/// The terms a vehicle is lent on; for the document (the domain's `Lending` is what is read and written).
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Lending)]
pub struct LendingBody {
    /// Empty or absent = every profile of the fleet.
    #[schema(required = false)]
    pub profiles: Vec<String>,
    /// Empty or absent = always.
    #[schema(required = false)]
    pub windows: Vec<WindowBody>,
    pub max_minutes: Option<u64>,
    /// `auto` or `owner`.
    pub approval: Option<String>,
    pub return_area: Option<AreaBody>,
    /// A rental that nobody has begun to use by so many minutes after its start is over.
    pub no_show_minutes: Option<u64>,
    /// The car opens for a key only while the gateway renewed it within so many minutes.
    pub lease_minutes: Option<u64>,
}

/// `{"days":["mon","tue"],"from":"08:00","until":"20:00","time_zone":"Europe/Berlin"}`
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Window)]
pub struct WindowBody {
    pub days: Vec<String>,
    pub from: String,
    pub until: String,
    pub time_zone: String,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Area)]
pub struct AreaBody {
    pub latitude: f64,
    pub longitude: f64,
    pub radius_m: f64,
}

/// `{"state":"rented","rental_id":"…","renter":"anna","from":"…","until":"…"}`; for the document.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage)]
pub struct UsageBody {
    /// `free`, `reserved`, `rented` or `ending`.
    pub state: String,
    pub rental_id: Option<String>,
    pub renter: Option<String>,
    pub from: Option<String>,
    pub until: Option<String>,
    pub since: Option<String>,
}

/// `{"command_id":"…","vehicle_id":"WVW-1","type":"lock","state":"succeeded","created_at":"…","expires_at":"…","history":[{"state":"accepted","at":"…"}]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct CommandBody {
    #[schema(value_type = String, format = "uuid")]
    pub command_id: CommandId,
    #[schema(value_type = String)]
    pub vehicle_id: VehicleId,
    #[serde(rename = "type")]
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<FunctionName>)]
    pub function: Option<Function>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub key_id: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub effect: Option<RevocationEffect>,
    #[schema(value_type = String, example = "accepted")]
    pub state: CommandState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    pub history: Vec<PassageBody>,
}

/// `{"state":"sent","at":"2026-11-21T22:00:00.000Z"}`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Passage)]
pub struct PassageBody {
    pub state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

impl CommandBody {
    pub fn of(vehicle_id: &VehicleId, command: &Command) -> Self {
        let (function, key_id, effect) = match &command.order {
            Order::EnableFunction { function } | Order::DisableFunction { function } => (Some(*function), None, None),
            Order::GrantKey { key } => (None, Some(key.key_id), None),
            Order::RevokeKey { key_id, effect, .. } => (None, Some(*key_id), Some(*effect)),
            Order::Lock | Order::Unlock | Order::Locate | Order::ReportState => (None, None, None),
        };
        Self {
            command_id: command.command_id,
            vehicle_id: vehicle_id.clone(),
            kind: command.order.name(),
            function,
            key_id,
            effect,
            state: command.state,
            reason: command.reason.clone(),
            created_at: command.issued_at,
            expires_at: command.expires_at,
            history: command
                .history
                .iter()
                .map(|passage| PassageBody { state: passage.state.name(), at: passage.at })
                .collect(),
        }
    }
}

/// `{"rental_id":"…","vehicle_id":"WVW-1","renter":"anna","state":"active","from":"…","until":"…","key_id":"…","history":[…]}`
#[derive(Debug, Serialize, ToSchema)]
pub struct RentalBody {
    #[schema(value_type = String, format = "uuid")]
    pub rental_id: RentalId,
    #[schema(value_type = String, format = "uuid")]
    pub request_id: RequestId,
    #[schema(value_type = String)]
    pub vehicle_id: VehicleId,
    pub renter: String,
    pub profile: String,
    #[schema(value_type = String, example = "active")]
    pub state: RentalState,
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    #[schema(value_type = String, format = "uuid")]
    pub key_id: KeyId,
    pub history: Vec<PassageBody>,
}

impl RentalBody {
    pub fn of(vehicle_id: &VehicleId, rental: &Rental) -> Self {
        let passages = rental.history.iter();
        Self {
            rental_id: rental.rental_id,
            request_id: rental.request_id,
            vehicle_id: vehicle_id.clone(),
            renter: rental.renter.clone(),
            profile: rental.profile.clone(),
            state: rental.state,
            from: rental.from,
            until: rental.until,
            key_id: rental.key_id,
            history: passages.map(|passage| PassageBody { state: passage.state.name(), at: passage.at }).collect(),
        }
    }
}

/// `{"key_id":"…","vehicle_id":"WVW-1","rental_id":"…","state":"delivered","token":"…","permits":["unlock_doors"],"prohibits":["drive"],"not_before":"…","not_after":"…"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyBody {
    #[schema(value_type = String, format = "uuid")]
    pub key_id: KeyId,
    #[schema(value_type = String)]
    pub vehicle_id: VehicleId,
    #[schema(value_type = String, format = "uuid")]
    pub rental_id: RentalId,
    /// The holder's name for the fleet.
    pub holder: String,
    pub profile: String,
    #[schema(value_type = String, example = "delivered")]
    pub state: KeyState,
    /// The key as a CWT, base64url; shown to its holder only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[schema(value_type = Vec<FunctionName>)]
    pub permits: Functions,
    #[schema(value_type = Vec<FunctionName>)]
    pub prohibits: Functions,
    #[schema(value_type = String, format = DateTime)]
    pub not_before: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub not_after: Timestamp,
    pub generation: u32,
    pub max_delegation: u8,
    /// The car keeps to it while it is driven with this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_speed_kmh: Option<u16>,
    /// Until when the car opens for it without hearing of it again; on a vehicle that is lent with short leases.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub leased_until: Option<Timestamp>,
    /// Keys its holder made of it and told the gateway of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delegations: Vec<DelegationBody>,
}

/// `{"key_id":"…","parent_key_id":"…","holder":"bob","state":"delivered","permits":["unlock_doors"],"prohibits":["drive"],"not_before":"…","not_after":"…"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct DelegationBody {
    #[schema(value_type = String, format = "uuid")]
    pub key_id: KeyId,
    #[schema(value_type = String, format = "uuid")]
    pub parent_key_id: KeyId,
    /// The name its maker gave whoever holds it.
    pub holder: String,
    #[schema(value_type = String, example = "delivered")]
    pub state: KeyState,
    #[schema(value_type = Vec<FunctionName>)]
    pub permits: Functions,
    #[schema(value_type = Vec<FunctionName>)]
    pub prohibits: Functions,
    #[schema(value_type = String, format = DateTime)]
    pub not_before: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub not_after: Timestamp,
}

impl DelegationBody {
    pub fn of(key: &Key, delegation: &Delegation, now: Timestamp) -> Self {
        Self {
            key_id: delegation.key_id,
            parent_key_id: key.grant.key_id,
            holder: delegation.holder.clone(),
            state: key.delegation_state(delegation, now),
            permits: delegation.permits,
            prohibits: delegation.permits.complement(),
            not_before: delegation.not_before,
            not_after: delegation.not_after,
        }
    }
}

impl KeyBody {
    /// Without the token.
    pub fn of(vehicle_id: &VehicleId, key: &Key, now: Timestamp) -> Self {
        Self {
            key_id: key.grant.key_id,
            vehicle_id: vehicle_id.clone(),
            rental_id: key.rental_id,
            holder: key.holder.clone(),
            profile: key.profile.clone(),
            state: key.state(now),
            token: None,
            permits: key.grant.permits,
            prohibits: key.grant.prohibits(),
            not_before: key.grant.not_before,
            not_after: key.grant.not_after,
            generation: key.grant.generation,
            max_delegation: key.grant.max_delegation,
            max_speed_kmh: key.grant.max_speed_kmh,
            leased_until: key.leased_until,
            delegations: key.delegations.iter().map(|delegation| DelegationBody::of(key, delegation, now)).collect(),
        }
    }
}

/// `{"request_id":"…","vehicle_id":"WVW-1","state":"approved","renter":"anna","profile":"cabin","from":"…","until":"…","rental_id":"…","key":{…}}`
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestBody {
    #[schema(value_type = String, format = "uuid")]
    pub request_id: RequestId,
    #[schema(value_type = String)]
    pub vehicle_id: VehicleId,
    #[schema(value_type = String, example = "approved")]
    pub state: RequestState,
    pub renter: String,
    pub profile: String,
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub rental_id: Option<RentalId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub key_id: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyBody>,
}

impl RequestBody {
    pub fn of(vehicle_id: &VehicleId, request: &UsageRequest) -> Self {
        Self {
            request_id: request.request_id,
            vehicle_id: vehicle_id.clone(),
            state: request.state,
            renter: request.renter.clone(),
            profile: request.profile.clone(),
            from: request.from,
            until: request.until,
            requested_at: request.requested_at,
            rental_id: request.rental_id,
            key_id: request.key_id,
            key: None,
        }
    }
}

/// A row of the view: the domain's own JSON with its vehicle.
#[derive(Debug, Deserialize)]
pub struct Row<T> {
    pub vehicle_id: VehicleId,
    #[serde(flatten)]
    pub item: T,
}

/// As [`Row`], with the holder's token.
#[derive(Debug, Deserialize)]
pub struct KeyRow {
    pub vehicle_id: VehicleId,
    pub token: String,
    #[serde(flatten)]
    pub item: Key,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_function_and_no_other() {
        use utoipa::PartialSchema;
        let schema = serde_json::to_value(FunctionName::schema()).unwrap();
        let named: Vec<&str> = schema["enum"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let real: Vec<&str> = Function::ALL.iter().map(|function| function.name()).collect();
        assert_eq!(named, real);
    }

    #[test]
    fn whole_numbers_are_written_without_a_point() {
        let text = |number: f64| signal_value(&SignalValue::Number(number)).to_string();
        assert_eq!([text(62.0), text(45.07), text(-0.5), text(1e300)], ["62", "45.07", "-0.5", "1e+300"]);
    }
}
