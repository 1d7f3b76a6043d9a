//! The claims of a key: grant -> CWT claims and back.

use coset::cbor::value::Value;
use coset::cwt::{ClaimName, ClaimsSet, ClaimsSetBuilder, Timestamp as CwtTime};
use coset::{AsCborValue, CborSerializable, CoseKey, iana};
use uuid::Uuid;

use super::{TokenError, cose_key, holder_key_from_cose, to_cbor};
use crate::domain::key::{Geofence, HolderKey, KeyGrant};
use crate::domain::{Functions, KeyId, Position, Timestamp, VehicleId};

const PERMISSIONS: i64 = -70_001;
const GENERATION: i64 = -70_002;
const GEOFENCE: i64 = -70_003;
const MAX_DELEGATION: i64 = -70_004;
/// SHA-256 of the parent's bytes; in delegated tokens only.
const PARENT: i64 = -70_005;
/// km/h; absent = no limit.
const MAX_SPEED: i64 = -70_006;

/// A token that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedToken {
    pub issuer: String,
    /// The holder's name for the fleet.
    pub holder: String,
    pub vehicle: VehicleId,
    pub issued_at: Timestamp,
    pub grant: KeyGrant,
    /// SHA-256 of the token's bytes: what a phone signs over, and what a delegated token names its parent by.
    pub hash: [u8; 32],
    /// The hash of the token it was delegated from; `None` = the fleet's own.
    pub parent: Option<[u8; 32]>,
}

/// What stands in a token beside the grant.
pub struct Frame<'a> {
    pub issuer: &'a str,
    pub vehicle: &'a VehicleId,
    pub holder: &'a str,
    pub issued_at: Timestamp,
    pub parent: Option<&'a [u8; 32]>,
}

pub fn encode(grant: &KeyGrant, frame: &Frame<'_>) -> Vec<u8> {
    let Frame { issuer, vehicle, holder, issued_at, parent } = *frame;
    let seconds = |at: Timestamp| CwtTime::WholeSeconds(at.as_secs());
    let confirmation = cose_key(&grant.holder_key).to_cbor_value().unwrap_or(Value::Null);
    let mut claims = ClaimsSetBuilder::new()
        .issuer(issuer.to_owned())
        .subject(holder.to_owned())
        .audience(vehicle.to_string())
        .expiration_time(seconds(grant.not_after))
        .not_before(seconds(grant.not_before))
        .issued_at(seconds(issued_at))
        .cwt_id(grant.key_id.0.as_bytes().to_vec())
        .claim(iana::CwtClaimName::Cnf, Value::Map(vec![(Value::from(1), confirmation)]))
        .private_claim(PERMISSIONS, Value::from(grant.permits.bits()))
        .private_claim(GENERATION, Value::from(grant.generation));
    if let Some(fence) = grant.geofence {
        let numbers = [fence.latitude, fence.longitude, fence.radius_m];
        claims = claims.private_claim(GEOFENCE, Value::Array(numbers.map(Value::Float).into()));
    }
    claims = claims.private_claim(MAX_DELEGATION, Value::from(grant.max_delegation));
    if let Some(max_speed_kmh) = grant.max_speed_kmh {
        claims = claims.private_claim(MAX_SPEED, Value::from(max_speed_kmh));
    }
    if let Some(parent) = parent {
        claims = claims.private_claim(PARENT, Value::Bytes(parent.to_vec()));
    }
    to_cbor(claims.build())
}

/// coset refuses duplicate claims and trailing bytes; everything else is refused here. A claim that is not known may be
/// a restriction, so it refuses the token.
pub fn decode(payload: &[u8], hash: [u8; 32]) -> Result<VerifiedToken, TokenError> {
    let bad = TokenError::Malformed;
    let set = ClaimsSet::from_slice(payload).map_err(|_| bad("the claims are not a CWT claims set"))?;
    let cti: [u8; 16] = set.cwt_id.as_deref().and_then(|id| id.try_into().ok()).ok_or(bad("cti is not 16 bytes"))?;
    let rest = Rest::read(set.rest)?;
    let grant = KeyGrant {
        key_id: KeyId(Uuid::from_bytes(cti)),
        holder_key: rest.holder_key.ok_or(bad("cnf is missing"))?,
        permits: rest.permits.ok_or(bad("permissions are missing"))?,
        not_before: time(set.not_before, "nbf")?,
        not_after: time(set.expiration_time, "exp")?,
        generation: rest.generation.ok_or(bad("generation is missing"))?,
        geofence: rest.geofence,
        max_delegation: rest.max_delegation.ok_or(bad("max_delegation is missing"))?,
        max_speed_kmh: rest.max_speed_kmh,
    };
    Ok(VerifiedToken {
        issuer: set.issuer.ok_or(bad("iss is missing"))?,
        holder: set.subject.ok_or(bad("sub is missing"))?,
        vehicle: set.audience.and_then(|id| id.parse().ok()).ok_or(bad("aud is not a vehicle id"))?,
        issued_at: time(set.issued_at, "iat")?,
        grant,
        hash,
        parent: rest.parent,
    })
}

/// Which key a token claims to be, whether or not any of it is true: for telling of a refusal.
pub fn claimed_key_id(payload: &[u8]) -> Option<KeyId> {
    let set = ClaimsSet::from_slice(payload).ok()?;
    Some(KeyId(Uuid::from_bytes(set.cwt_id?.try_into().ok()?)))
}

fn time(claim: Option<CwtTime>, name: &'static str) -> Result<Timestamp, TokenError> {
    match claim {
        Some(CwtTime::WholeSeconds(seconds)) => {
            seconds.checked_mul(1000).and_then(|ms| Timestamp::from_millis(ms).ok()).ok_or(TokenError::Malformed(name))
        }
        Some(CwtTime::FractionalSeconds(_)) | None => Err(TokenError::Malformed(name)),
    }
}

/// The claims coset has no field for.
#[derive(Default)]
struct Rest {
    holder_key: Option<HolderKey>,
    permits: Option<Functions>,
    generation: Option<u32>,
    geofence: Option<Geofence>,
    max_delegation: Option<u8>,
    max_speed_kmh: Option<u16>,
    parent: Option<[u8; 32]>,
}

impl Rest {
    fn read(claims: Vec<(ClaimName, Value)>) -> Result<Self, TokenError> {
        let mut rest = Self::default();
        for (name, value) in claims {
            match name {
                ClaimName::Assigned(iana::CwtClaimName::Cnf) => rest.holder_key = Some(confirmation(value)?),
                ClaimName::PrivateUse(PERMISSIONS) => {
                    let bits: u64 = integer(&value, "permissions")?;
                    rest.permits = Some(Functions::from_bits(bits).map_err(|_| TokenError::UnknownPermission)?);
                }
                ClaimName::PrivateUse(GENERATION) => rest.generation = Some(integer(&value, "generation")?),
                ClaimName::PrivateUse(GEOFENCE) => rest.geofence = Some(geofence(&value)?),
                ClaimName::PrivateUse(MAX_DELEGATION) => rest.max_delegation = Some(depth(&value)?),
                ClaimName::PrivateUse(MAX_SPEED) => rest.max_speed_kmh = Some(integer(&value, "max_speed")?),
                ClaimName::PrivateUse(PARENT) => {
                    let hash = value.as_bytes().and_then(|bytes| bytes.as_slice().try_into().ok());
                    rest.parent = Some(hash.ok_or(TokenError::Malformed("the parent is not a SHA-256"))?);
                }
                ClaimName::Assigned(_) | ClaimName::PrivateUse(_) | ClaimName::Text(_) => {
                    return Err(TokenError::Malformed("a claim that is not known"));
                }
            }
        }
        Ok(rest)
    }
}

fn integer<T: TryFrom<i128>>(value: &Value, name: &'static str) -> Result<T, TokenError> {
    let number = value.as_integer().map(i128::from);
    number.and_then(|number| T::try_from(number).ok()).ok_or(TokenError::Malformed(name))
}

fn confirmation(value: Value) -> Result<HolderKey, TokenError> {
    let bad = TokenError::Malformed("cnf is not {1: COSE_Key}");
    let Value::Map(mut entries) = value else { return Err(bad) };
    match (entries.pop(), entries.is_empty()) {
        (Some((name, key)), true) if name == Value::from(1) => {
            let key = CoseKey::from_cbor_value(key).map_err(|_| bad)?;
            holder_key_from_cose(&key).map_err(|_| bad)
        }
        _ => Err(bad),
    }
}

fn depth(value: &Value) -> Result<u8, TokenError> {
    match integer(value, "max_delegation")? {
        depth @ (0 | 1) => Ok(depth),
        _ => Err(TokenError::Malformed("max_delegation")),
    }
}

fn geofence(value: &Value) -> Result<Geofence, TokenError> {
    const BAD: TokenError = TokenError::Malformed("geofence is not [latitude, longitude, radius_m]");
    let Some([latitude, longitude, radius_m]) = value.as_array().map(Vec::as_slice) else { return Err(BAD) };
    let number = |value: &Value| value.as_float().ok_or(BAD);
    let position = Position { latitude: number(latitude)?, longitude: number(longitude)? };
    let radius_m = number(radius_m)?;
    if !position.is_valid() || !radius_m.is_finite() || radius_m <= 0.0 {
        return Err(BAD);
    }
    Ok(Geofence { latitude: position.latitude, longitude: position.longitude, radius_m })
}
