//! `v1/{vehicle}/event`: `{"seq":17,"at":"2026-11-21T22:36:46.000Z","type":"ignition","on":true}`.

use serde::{Deserialize, Serialize};

use super::{
    MAX_LIST, PayloadError, Raw, optional, optional_text, required, required_text, required_time, split, to_json,
};
use crate::domain::command::{Fact, FactKind, KeyOutcome};
use crate::domain::{Function, Timestamp};

/// Every field any type of event has; which are read depends on the type.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    boot: Raw<'a>,
    #[serde(borrow)]
    seq: Raw<'a>,
    #[serde(borrow)]
    at: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    key_id: Raw<'a>,
    #[serde(borrow)]
    function: Raw<'a>,
    #[serde(borrow)]
    outcome: Raw<'a>,
    #[serde(borrow)]
    delegated_key_id: Raw<'a>,
    #[serde(borrow)]
    reason: Raw<'a>,
    #[serde(borrow)]
    level_before_percent: Raw<'a>,
    #[serde(borrow)]
    level_after_percent: Raw<'a>,
    #[serde(borrow)]
    on: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    open: Raw<'a>,
    #[serde(borrow)]
    what: Raw<'a>,
    #[serde(borrow)]
    present: Raw<'a>,
    #[serde(borrow)]
    firmware: Raw<'a>,
    #[serde(borrow)]
    capabilities: Raw<'a>,
    #[serde(borrow)]
    tank_litres: Raw<'a>,
}

pub fn decode_fact(bytes: &[u8]) -> Result<Fact, PayloadError> {
    let fields: Fields<'_> = split(bytes)?;
    Ok(Fact {
        boot: optional("boot", fields.boot)?.unwrap_or(0),
        seq: required("seq", fields.seq)?,
        at: required_time("at", fields.at)?,
        kind: decode_kind(&fields)?,
    })
}

fn decode_kind(fields: &Fields<'_>) -> Result<FactKind, PayloadError> {
    Ok(match &*required_text("type", fields.kind)? {
        "key_used" => decode_key_used(fields)?,
        "refuelled" => FactKind::Refuelled {
            level_before_percent: required("level_before_percent", fields.level_before_percent)?,
            level_after_percent: required("level_after_percent", fields.level_after_percent)?,
        },
        "ignition" => FactKind::Ignition { on: required("on", fields.on)? },
        "door" => {
            FactKind::Door { name: required_text("name", fields.name)?.into(), open: required("open", fields.open)? }
        }
        "tamper" => FactKind::Tamper { what: required_text("what", fields.what)?.into() },
        "fuel_card" => FactKind::FuelCard { present: required("present", fields.present)? },
        "boot" => FactKind::Boot {
            firmware: required_text("firmware", fields.firmware)?.into(),
            capabilities: decode_capabilities(fields.capabilities)?,
            tank_litres: optional("tank_litres", fields.tank_litres)?,
        },
        _ => return Err(PayloadError::new("type", "not a type of event")),
    })
}

fn decode_key_used(fields: &Fields<'_>) -> Result<FactKind, PayloadError> {
    let outcome = required::<KeyOutcome>("outcome", fields.outcome)?;
    let function = match outcome {
        KeyOutcome::Permitted => Some(required("function", fields.function)?),
        KeyOutcome::Refused => optional("function", fields.function)?,
    };
    Ok(FactKind::KeyUsed {
        key_id: required("key_id", fields.key_id)?,
        function,
        outcome,
        delegated_key_id: optional("delegated_key_id", fields.delegated_key_id)?,
        reason: optional_text("reason", fields.reason)?.map(Into::into),
    })
}

/// A capability we do not know is left out: nobody can ask for it, and the rest of the boot report still counts.
fn decode_capabilities(raw: Raw<'_>) -> Result<Vec<Function>, PayloadError> {
    let names: Vec<std::borrow::Cow<'_, str>> = required("capabilities", raw)?;
    if names.len() > MAX_LIST {
        return Err(PayloadError::new("capabilities", "more than 64 entries"));
    }
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

pub fn encode_fact(fact: &Fact) -> Vec<u8> {
    #[derive(Serialize)]
    struct Wire<'a> {
        #[serde(skip_serializing_if = "is_zero")]
        boot: u64,
        seq: u64,
        at: Timestamp,
        #[serde(flatten)]
        kind: &'a FactKind,
    }
    to_json(&Wire { boot: fact.boot, seq: fact.seq, at: fact.at, kind: &fact.kind })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_zero(boot: &u64) -> bool {
    *boot == 0
}
