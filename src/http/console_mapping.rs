//! Stand-in for the mappers of vehicles and commands.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::actors::vehicle::Snapshot;
use crate::domain::command::{Command, Order};
use crate::domain::{Function, Refusal, RefusalKind, VehicleId};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandBody {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub function: Option<Function>,
    #[serde(default)]
    pub ttl_s: Option<u64>,
}

impl CommandBody {
    pub fn order(&self) -> Result<Order, Refusal> {
        match (self.kind.as_str(), self.function) {
            ("lock", None) => Ok(Order::Lock),
            ("unlock", None) => Ok(Order::Unlock),
            ("locate", None) => Ok(Order::Locate),
            ("report_state", None) => Ok(Order::ReportState),
            ("enable_function", Some(function)) => Ok(Order::EnableFunction { function }),
            ("disable_function", Some(function)) => Ok(Order::DisableFunction { function }),
            _ => Err(Refusal::new(RefusalKind::Invalid, "type: not a command")),
        }
    }
}

pub fn vehicle_json(snapshot: &Snapshot) -> Value {
    let Snapshot { now, vehicle, twin } = snapshot;
    let signals: serde_json::Map<String, Value> = twin
        .signals()
        .map(|(path, signal)| (path.as_str().to_owned(), json!({"value": signal.value, "at": signal.at})))
        .collect();
    json!({"vehicle_id": vehicle.vehicle_id, "link": twin.link, "signals": signals, "usage": vehicle.usage(*now),
        "drive_enabled": vehicle.is_drive_enabled(twin), "keys": [], "pending_commands": []})
}

pub fn command_json(vehicle: &VehicleId, command: &Command) -> Value {
    json!({"command_id": command.command_id, "vehicle_id": vehicle, "type": command.order.name(), "state": command.state,
        "created_at": command.issued_at, "expires_at": command.expires_at, "history": command.history})
}
