//! `v1/{vehicle}/ack`: `{"command_id":"0197…","at":"2026-11-21T22:36:46.000Z","status":"failed","reason":"hardware"}`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{PayloadError, Raw, optional_text, required, required_time, split, to_json};
use crate::domain::command::{Ack, AckReason, AckStatus};
use crate::domain::{CommandId, Timestamp};

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    command_id: Raw<'a>,
    #[serde(borrow)]
    at: Raw<'a>,
    #[serde(borrow)]
    status: Raw<'a>,
    #[serde(borrow)]
    reason: Raw<'a>,
}

/// Reads an ack. A reason we do not know is dropped rather than the ack: the status is what settles the command.
pub fn decode_ack(bytes: &[u8]) -> Result<Ack, PayloadError> {
    let fields: Fields<'_> = split(bytes)?;
    let status: Cow<'_, str> = required("status", fields.status)?;
    let status = match &*status {
        "executing" => AckStatus::Executing,
        "pending_safe" => AckStatus::PendingSafe,
        "succeeded" => AckStatus::Succeeded,
        "failed" => AckStatus::Failed,
        "rejected" => AckStatus::Rejected,
        _ => return Err(PayloadError::new("status", "not executing, pending_safe, succeeded, failed or rejected")),
    };
    Ok(Ack {
        command_id: required("command_id", fields.command_id)?,
        at: required_time("at", fields.at)?,
        status,
        reason: optional_text("reason", fields.reason)?.and_then(|reason| reason.parse::<AckReason>().ok()),
    })
}

pub fn encode_ack(ack: &Ack) -> Vec<u8> {
    #[derive(Serialize)]
    struct Wire {
        command_id: CommandId,
        at: Timestamp,
        status: AckStatus,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<AckReason>,
    }
    to_json(&Wire { command_id: ack.command_id, at: ack.at, status: ack.status, reason: ack.reason })
}
