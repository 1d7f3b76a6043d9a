//! The limits of what may be sent, as JSON Schema: what a generated client can check before it asks.
//!
//! A name means one thing on this wire, so a limit is told once for a parameter's or field's name, and where a subject
//! has its own, with the operation or schema before it. The code checks all of it again and is what counts; tests with a
//! stranger's generator (`tests/schemathesis`) show that both say the same.

use serde_json::{Value, json};

use crate::domain::rental::Lending;
use crate::http::access::scopes::Scopes;
use crate::http::wire::MAX_PAGE;

const ID: &str = "^[A-Za-z0-9-]{1,64}$";
const REFERENCE: &str = "^[A-Za-z0-9_.:@-]{1,64}$";
/// As `HH:MM`.
const TIME_OF_DAY: &str = "^([01][0-9]|2[0-3]):[0-5][0-9]$";
/// 32 bytes in base64url: 43 characters, of which the last carries four bits.
const KEY_PART: &str = "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$";

/// Of query parameters, by name or by `operation name`.
fn parameters() -> Vec<(&'static str, Value)> {
    let time = || json!({"format": "date-time"});
    vec![
        ("limit", json!({"minimum": 1, "maximum": MAX_PAGE})),
        ("get_vehicles_id_history limit", json!({"minimum": 1, "maximum": 20_000})),
        ("after", json!({"minLength": 1, "maxLength": 256, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"})),
        // These lists go on after a vehicle, a position in the journal, a card.
        ("get_vehicles after", json!({"pattern": ID})),
        ("get_audit after", json!({"pattern": "^[0-9]{1,18}$"})),
        ("get_decisions_export after", json!({"pattern": "^[0-9]{1,18}$"})),
        ("get_notifications_dead after", json!({"format": "uuid"})),
        ("get_cards after", json!({"pattern": REFERENCE})),
        ("get_stations after", json!({"pattern": REFERENCE})),
        ("from", time()),
        ("until", time()),
        ("wait_ms", json!({"minimum": 0, "maximum": 30_000})),
        ("vehicle_id", json!({"pattern": ID})),
        ("card_id", json!({"pattern": REFERENCE})),
        ("effect", json!({"enum": ["at_safe_state", "immediate"]})),
        ("order", json!({"enum": ["oldest", "newest"]})),
        ("get_audit subject", json!({"minLength": 1, "maxLength": 160})),
        ("get_vehicles_id_history format", json!({"enum": ["json", "geojson", "csv"]})),
        ("post_stations_import format", json!({"enum": ["csv", "geojson"]})),
        ("mapping", json!({"pattern": "^[A-Za-z0-9_-]{1,64}$"})),
        ("near", json!({"pattern": "^-?[0-8]?[0-9](\\.[0-9]{1,9})?,-?(1[0-7][0-9]|[0-9]{1,2})(\\.[0-9]{1,9})?$"})),
        ("radius_m", json!({"minimum": 0, "maximum": 100_000})),
        ("q", json!({"pattern": "[A-Za-z0-9]", "maxLength": 128})),
    ]
}

/// Of fields, as `Schema field`.
fn fields() -> Vec<(&'static str, Value)> {
    [of_vehicles(), of_people(), of_cards(), of_stations()].concat()
}

fn text(longest: u32) -> Value {
    json!({"minLength": 1, "maxLength": longest})
}

fn latitude() -> Value {
    json!({"minimum": -90, "maximum": 90})
}

fn longitude() -> Value {
    json!({"minimum": -180, "maximum": 180})
}

fn of_vehicles() -> Vec<(&'static str, Value)> {
    let minutes = |least: u64| json!({"minimum": least, "maximum": Lending::MAX_MINUTES});
    let ttl = || json!({"minimum": 1, "maximum": 2_592_000});
    let tank = || json!({"minimum": 1, "maximum": 2000});
    vec![
        ("NewVehicle name", json!({"maxLength": 100})),
        ("NewVehicle fuel_type", json!({"maxLength": 100})),
        ("NewVehicle class", json!({"maxLength": 100})),
        ("NewVehicle tank_litres", tank()),
        ("VehicleChange name", json!({"maxLength": 100})),
        ("VehicleChange fuel_type", json!({"maxLength": 100})),
        ("VehicleChange class", json!({"maxLength": 100})),
        ("VehicleChange tank_litres", tank()),
        ("Lending max_minutes", json!({"minimum": 1})),
        ("Lending no_show_minutes", minutes(1)),
        ("Lending lease_minutes", minutes(Lending::MIN_LEASE_MINUTES)),
        ("Lending approval", json!({"enum": ["auto", "owner"]})),
        ("Lending windows", json!({"maxItems": Lending::MAX_WINDOWS})),
        ("Window days", json!({"minItems": 1, "items": {"enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}})),
        ("Window from", json!({"pattern": TIME_OF_DAY})),
        ("Window until", json!({"pattern": TIME_OF_DAY})),
        ("Area latitude", latitude()),
        ("Area longitude", longitude()),
        ("Area radius_m", json!({"exclusiveMinimum": 0})),
        ("NewCommand ttl_s", ttl()),
        ("BulkCommand ttl_s", ttl()),
        ("BulkCommand vehicle_ids", json!({"minItems": 1, "uniqueItems": true, "items": {"pattern": ID}})),
    ]
}

fn of_people() -> Vec<(&'static str, Value)> {
    // Names are counted in bytes, so that a long one in another script may be refused although it fits here.
    let name = || json!({"minLength": 1, "maxLength": 64, "pattern": "^[^\\s/\\u0000-\\u001f\\u007f-\\u009f]([^/\\u0000-\\u001f\\u007f-\\u009f]*[^\\s/\\u0000-\\u001f\\u007f-\\u009f])?$"});
    let password = || json!({"minLength": 12, "maxLength": 128});
    vec![
        ("NewRequest vehicle_id", json!({"pattern": ID})),
        ("NewRequest profile", text(64)),
        ("NewRequest renter", name()),
        ("Jwk kty", json!({"enum": ["EC", "OKP"]})),
        ("Jwk crv", json!({"enum": ["P-256", "Ed25519"]})),
        ("Jwk x", json!({"pattern": KEY_PART})),
        ("Jwk y", json!({"pattern": KEY_PART})),
        ("NewApiKey name", name()),
        ("NewApiKey subject", name()),
        ("NewApiKey scopes", json!({"minItems": 1, "items": {"enum": Vec::from_iter(Scopes::all())}})),
        ("NewUser name", name()),
        ("NewUser subject", name()),
        ("NewUser password", password()),
        ("UserChange password", password()),
        ("NewPassword new", password()),
    ]
}

fn of_cards() -> Vec<(&'static str, Value)> {
    let amount = || json!({"minimum": 1});
    vec![
        ("NewCardBody card_id", json!({"pattern": REFERENCE})),
        ("NewCardBody network_ref", json!({"pattern": REFERENCE})),
        ("NewCardBody vehicle_id", json!({"pattern": ID})),
        ("CardChangeBody network_ref", json!({"pattern": REFERENCE})),
        ("CardChangeBody vehicle_id", json!({"pattern": ID})),
        ("CardLimitsBody per_purchase_minor", amount()),
        ("CardLimitsBody per_day_minor", amount()),
        ("CardLimitsBody per_week_minor", amount()),
        ("CardLimitsBody currency", json!({"pattern": "^[A-Za-z]{3}$"})),
        ("CardPromptsBody vehicle_number", text(64)),
        ("CardPromptsBody driver_id", text(64)),
        ("NewRules text", json!({"maxLength": 65_536})),
        ("Try text", json!({"maxLength": 65_536})),
        ("Try limit", json!({"minimum": 1, "maximum": 10_000})),
        ("OwnAuthorization at", json!({"format": "date-time"})),
    ]
}

fn of_stations() -> Vec<(&'static str, Value)> {
    let country = || json!({"pattern": "^[A-Z]{2,3}$"});
    vec![
        ("PositionBody latitude", latitude()),
        ("PositionBody longitude", longitude()),
        ("NewStationBody station_id", json!({"pattern": REFERENCE})),
        ("NewStationBody name", text(128)),
        ("NewStationBody brand", text(128)),
        ("NewStationBody city", text(128)),
        ("NewStationBody postal_code", text(16)),
        ("NewStationBody country", country()),
        ("NewStationBody terminals", json!({"maxItems": 64})),
        ("StationChangeBody name", text(128)),
        ("StationChangeBody brand", text(128)),
        ("StationChangeBody city", text(128)),
        ("StationChangeBody postal_code", text(16)),
        ("StationChangeBody country", country()),
        ("StationChangeBody terminals", json!({"maxItems": 64})),
        ("TerminalBody network_id", text(64)),
        ("TerminalBody terminal_id", text(64)),
    ]
}

/// Writes the limits into the document.
pub fn add(document: &mut Value) {
    let parameters = parameters();
    for operation in super::operations_mut(document) {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(name) = parameter["name"].as_str().filter(|_| parameter["in"] == "query") else { continue };
            let own = format!("{id} {name}");
            let limits = |wanted: &str| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, limits)| limits);
            if let Some(limits) = limits(&own).or_else(|| limits(name)) {
                narrow(&mut parameter["schema"], limits);
            }
        }
    }
    for (path, limits) in fields() {
        let Some((schema, field)) = path.split_once(' ') else { continue };
        if let Some(property) = document.pointer_mut(&format!("/components/schemas/{schema}/properties/{field}")) {
            narrow(property, &limits);
        }
    }
}

/// Adds `limits` to a schema; where null is allowed it stays so.
fn narrow(schema: &mut Value, limits: &Value) {
    let may_be_null = schema["type"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "null"));
    let (Some(schema), Some(limits)) = (schema.as_object_mut(), limits.as_object()) else { return };
    for (name, limit) in limits {
        match (name.as_str(), limit) {
            ("enum", Value::Array(values)) if may_be_null => {
                let values = values.iter().cloned().chain([Value::Null]);
                schema.insert("enum".into(), Value::Array(values.collect()));
            }
            ("items", limit) => narrow(schema.entry("items").or_insert_with(|| json!({})), limit),
            _ => {
                schema.insert(name.clone(), limit.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_in_the_document() {
        let document = super::super::document();
        for (path, limits) in fields() {
            let (schema, field) = path.split_once(' ').unwrap();
            let property = &document["components"]["schemas"][schema]["properties"][field];
            for (name, limit) in
                limits.as_object().unwrap().iter().filter(|(name, _)| !["enum", "items"].contains(&name.as_str()))
            {
                assert_eq!(property[name], *limit, "{path}: {property}");
            }
        }
        let text = document["paths"].to_string();
        for (path, _) in parameters() {
            let name = path.rsplit(' ').next().unwrap();
            assert!(text.contains(&format!("\"name\":\"{name}\"")), "nothing takes {path}");
            if let Some((operation, _)) = path.split_once(' ') {
                assert!(text.contains(&format!("\"operationId\":\"{operation}\"")), "there is no {operation}");
            }
        }
        let at = |path: &str, name: &str| {
            let operation = &document["paths"][path]["get"];
            let all = operation["parameters"].as_array().unwrap();
            all.iter().find(|parameter| parameter["name"] == name).unwrap()["schema"].clone()
        };
        assert_eq!(at("/v1/vehicles", "limit")["maximum"], MAX_PAGE);
        assert_eq!(at("/v1/vehicles/{id}/history", "limit")["maximum"], 20_000);
    }
}
