//! `v1/{vehicle}/command`: `{"command_id":"0197…","type":"lock","issued_at":"…","expires_at":"…"}` and
//! `{"type":"event_ack","boot":3,"seq":17,"at":"…"}`.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::cbor::value::Value;
use coset::{CborSerializable, CoseKey, CoseKeyBuilder, Label, iana};
use serde::{Deserialize, Serialize};

use super::{
    MAX_LIST, PayloadError, Raw, optional, optional_time, required, required_text, required_time, split, to_json,
};
use crate::domain::command::{Order, ToCar};
use crate::domain::key::{Geofence, HolderKey, KeyGrant, RevocationEffect};
use crate::domain::{CommandId, Function, Functions, KeyId, Timestamp};

/// A COSE_Key of ours is 41 or 77 bytes; the text of a longer one is not looked at.
const MAX_HOLDER_KEY_LEN: usize = 256;

/// Every field any type of command has; which are read depends on the type.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    command_id: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    issued_at: Raw<'a>,
    #[serde(borrow)]
    expires_at: Raw<'a>,
    #[serde(borrow)]
    function: Raw<'a>,
    #[serde(borrow)]
    key: Raw<'a>,
    #[serde(borrow)]
    key_id: Raw<'a>,
    #[serde(borrow)]
    generation: Raw<'a>,
    #[serde(borrow)]
    effect: Raw<'a>,
    #[serde(borrow)]
    boot: Raw<'a>,
    #[serde(borrow)]
    seq: Raw<'a>,
    #[serde(borrow)]
    at: Raw<'a>,
}

#[derive(Deserialize)]
struct KeyFields<'a> {
    #[serde(borrow)]
    key_id: Raw<'a>,
    #[serde(borrow)]
    holder_key: Raw<'a>,
    #[serde(borrow)]
    permits: Raw<'a>,
    #[serde(borrow)]
    not_before: Raw<'a>,
    #[serde(borrow)]
    not_after: Raw<'a>,
    #[serde(borrow)]
    generation: Raw<'a>,
    #[serde(borrow)]
    geofence: Raw<'a>,
    #[serde(borrow)]
    max_delegation: Raw<'a>,
    #[serde(borrow)]
    max_speed_kmh: Raw<'a>,
}

/// What a car reads. An order it does not know is an error at `type`; [`command_id_of`] then says what to reject.
pub fn decode_to_car(bytes: &[u8]) -> Result<ToCar, PayloadError> {
    let fields: Fields<'_> = split(bytes)?;
    let kind = required_text("type", fields.kind)?;
    if kind == "event_ack" {
        return Ok(ToCar::EventAck {
            boot: optional("boot", fields.boot)?.unwrap_or(0),
            seq: required("seq", fields.seq)?,
            at: optional_time("at", fields.at)?,
        });
    }
    Ok(ToCar::Command {
        command_id: required("command_id", fields.command_id)?,
        order: decode_order(&kind, &fields)?,
        issued_at: required_time("issued_at", fields.issued_at)?,
        expires_at: required_time("expires_at", fields.expires_at)?,
    })
}

/// The id of a command whose other fields could not be read, so that the car can answer `rejected`, `unsupported`.
pub fn command_id_of(bytes: &[u8]) -> Option<CommandId> {
    let fields: Fields<'_> = split(bytes).ok()?;
    required("command_id", fields.command_id).ok()
}

fn decode_order(kind: &str, fields: &Fields<'_>) -> Result<Order, PayloadError> {
    Ok(match kind {
        "lock" => Order::Lock,
        "unlock" => Order::Unlock,
        "locate" => Order::Locate,
        "enable_function" => Order::EnableFunction { function: required("function", fields.function)? },
        "disable_function" => Order::DisableFunction { function: required("function", fields.function)? },
        "grant_key" => Order::GrantKey { key: decode_grant(fields.key)? },
        "revoke_key" => Order::RevokeKey {
            key_id: required("key_id", fields.key_id)?,
            generation: required("generation", fields.generation)?,
            effect: required::<RevocationEffect>("effect", fields.effect)?,
        },
        "report_state" => Order::ReportState,
        _ => return Err(PayloadError::new("type", "not a type of command")),
    })
}

fn decode_grant(raw: Raw<'_>) -> Result<KeyGrant, PayloadError> {
    let in_key = |error: PayloadError| PayloadError { field: format!("key.{}", error.field).into(), ..error };
    let fields: KeyFields<'_> = required("key", raw)?;
    let read = || {
        // Unlike a capability, a permission that is not understood makes the whole key unfit.
        let permits: Vec<Function> = required("permits", fields.permits)?;
        if permits.len() > MAX_LIST {
            return Err(PayloadError::new("permits", "more than 64 entries"));
        }
        Ok(KeyGrant {
            key_id: required("key_id", fields.key_id)?,
            holder_key: decode_holder_key(&required::<Cow<'_, str>>("holder_key", fields.holder_key)?)?,
            permits: permits.into(),
            not_before: required_time("not_before", fields.not_before)?,
            not_after: required_time("not_after", fields.not_after)?,
            generation: required("generation", fields.generation)?,
            geofence: optional("geofence", fields.geofence)?,
            max_delegation: required("max_delegation", fields.max_delegation)?,
            max_speed_kmh: optional("max_speed_kmh", fields.max_speed_kmh)?,
        })
    };
    read().map_err(in_key)
}

fn decode_holder_key(text: &str) -> Result<HolderKey, PayloadError> {
    let unfit = |what: &'static str| PayloadError::new("holder_key", what);
    if text.len() > MAX_HOLDER_KEY_LEN {
        return Err(unfit("longer than 256 characters"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| unfit("not base64url without padding"))?;
    let key = CoseKey::from_slice(&bytes).map_err(|_| unfit("not a COSE_Key"))?;
    let parameter = |label: i64| {
        let found = key.params.iter().find(|(name, _)| *name == Label::Int(label)).map(|(_, value)| value);
        found.ok_or_else(|| unfit("a parameter of the curve is missing"))
    };
    let coordinate = |label: i64| match parameter(label)? {
        Value::Bytes(bytes) => <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| unfit("a coordinate has 32 bytes")),
        _ => Err(unfit("a coordinate has 32 bytes")),
    };
    let is_on =
        |label: i64, curve: iana::EllipticCurve| Ok::<_, PayloadError>(*parameter(label)? == Value::from(curve as i64));
    match key.kty {
        coset::KeyType::Assigned(iana::KeyType::EC2)
            if is_on(iana::Ec2KeyParameter::Crv as i64, iana::EllipticCurve::P_256)? =>
        {
            Ok(HolderKey::P256 {
                x: coordinate(iana::Ec2KeyParameter::X as i64)?,
                y: coordinate(iana::Ec2KeyParameter::Y as i64)?,
            })
        }
        coset::KeyType::Assigned(iana::KeyType::OKP)
            if is_on(iana::OkpKeyParameter::Crv as i64, iana::EllipticCurve::Ed25519)? =>
        {
            Ok(HolderKey::Ed25519 { x: coordinate(iana::OkpKeyParameter::X as i64)? })
        }
        _ => Err(unfit("neither P-256 nor Ed25519")),
    }
}

fn encode_holder_key(key: &HolderKey) -> String {
    let key = match key {
        HolderKey::P256 { x, y } => {
            CoseKeyBuilder::new_ec2_pub_key(iana::EllipticCurve::P_256, x.to_vec(), y.to_vec()).build()
        }
        HolderKey::Ed25519 { x } => CoseKeyBuilder::new_okp_key()
            .param(iana::OkpKeyParameter::Crv as i64, Value::from(iana::EllipticCurve::Ed25519 as i64))
            .param(iana::OkpKeyParameter::X as i64, Value::Bytes(x.to_vec()))
            .build(),
    };
    // Encoding fails only for repeated labels, and the two builders above set each once.
    URL_SAFE_NO_PAD.encode(key.to_vec().unwrap_or_default())
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<CommandId>,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<Function>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<RevocationEffect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
}

impl<'a> Wire<'a> {
    fn of(kind: &'a str) -> Self {
        Self {
            command_id: None,
            kind,
            issued_at: None,
            expires_at: None,
            function: None,
            key: None,
            key_id: None,
            generation: None,
            effect: None,
            boot: None,
            seq: None,
            at: None,
        }
    }
}

#[derive(Serialize)]
struct KeyWire<'a> {
    key_id: KeyId,
    holder_key: String,
    permits: Functions,
    not_before: Timestamp,
    not_after: Timestamp,
    generation: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    geofence: Option<&'a Geofence>,
    max_delegation: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_speed_kmh: Option<u16>,
}

impl<'a> KeyWire<'a> {
    fn of(grant: &'a KeyGrant) -> Self {
        Self {
            key_id: grant.key_id,
            holder_key: encode_holder_key(&grant.holder_key),
            permits: grant.permits,
            not_before: grant.not_before,
            not_after: grant.not_after,
            generation: grant.generation,
            geofence: grant.geofence.as_ref(),
            max_delegation: grant.max_delegation,
            max_speed_kmh: grant.max_speed_kmh,
        }
    }
}

pub fn encode_to_car(message: &ToCar) -> Vec<u8> {
    match message {
        ToCar::EventAck { boot, seq, at } => {
            to_json(&Wire { boot: Some(*boot), seq: Some(*seq), at: *at, ..Wire::of("event_ack") })
        }
        ToCar::Command { command_id, order, issued_at, expires_at } => to_json(&Wire {
            command_id: Some(*command_id),
            issued_at: Some(*issued_at),
            expires_at: Some(*expires_at),
            ..encode_order(order)
        }),
    }
}

fn encode_order(order: &Order) -> Wire<'_> {
    let wire = Wire::of(order.name());
    match order {
        Order::Lock | Order::Unlock | Order::Locate | Order::ReportState => wire,
        Order::EnableFunction { function } | Order::DisableFunction { function } => {
            Wire { function: Some(*function), ..wire }
        }
        Order::GrantKey { key } => Wire { key: Some(KeyWire::of(key)), ..wire },
        Order::RevokeKey { key_id, generation, effect } => {
            Wire { key_id: Some(*key_id), generation: Some(*generation), effect: Some(*effect), ..wire }
        }
    }
}
