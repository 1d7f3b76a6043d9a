//! A renter's phone: makes a holder key, asks to use a car, unlocks it with the key it was sent, ends the rental.
//!
//! Used by stories, tests and the `phone` subcommand. The secret half of the holder key never leaves this struct.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cardea::domain::key::{HolderKey, KeyGrant};
use cardea::domain::{Function, Functions, KeyId, RentalId, Timestamp, VehicleId};
use cardea::token;
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::rand_core::OsRng;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use serde_json::{Value, json};

use crate::http_client::{Answer, HttpClient, HttpError};
use crate::local_link::{self, LocalError};

pub struct Phone {
    http: HttpClient,
    holder_key: SecretKey,
}

/// What the gateway sent for an approved request.
#[derive(Debug, Clone)]
pub struct VirtualKey {
    pub rental_id: RentalId,
    pub key_id: KeyId,
    /// CWT, base64url.
    pub token: String,
    pub permits: Vec<String>,
    pub prohibits: Vec<String>,
}

/// What one phone lets another do.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub key_id: KeyId,
    pub permits: Functions,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// 0, unless a car shall be shown to refuse what goes too deep.
    pub max_delegation: u8,
}

/// A key from another phone, with the one it was made of.
#[derive(Debug, Clone)]
pub struct HandedOn {
    pub parent: String,
    pub token: String,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub enum Requested {
    Granted(VirtualKey),
    /// Not approved at once: the owner has to, or said no.
    Waiting {
        request_id: String,
        state: String,
    },
    Refused {
        status: u16,
        problem: String,
    },
}

/// What became of an asked function.
#[derive(Debug, Clone)]
pub enum Done {
    /// The command's last known state, such as `succeeded`.
    Command { command_id: String, state: String },
    /// The key prohibits it.
    Forbidden,
}

impl Phone {
    /// `http` speaks for the renter (or for an operator who asks on a renter's behalf).
    pub fn new(http: HttpClient) -> Self {
        Self { http, holder_key: SecretKey::random(&mut OsRng) }
    }

    /// The holder's public key as it goes into a request.
    pub fn holder_jwk(&self) -> Value {
        // The curve's own form always parses; `null` would be refused by the gateway.
        serde_json::from_str(&self.holder_key.public_key().to_jwk_string()).unwrap_or(Value::Null)
    }

    /// Asks for a car; `renter` names whom an operator asks for.
    pub async fn request(
        &self,
        vehicle_id: &VehicleId,
        profile: &str,
        from: Timestamp,
        until: Timestamp,
        renter: Option<&str>,
    ) -> Result<Requested, HttpError> {
        let mut body = json!({
            "vehicle_id": vehicle_id,
            "profile": profile,
            "from": from,
            "until": until,
            "holder_key": self.holder_jwk(),
        });
        if let Some(renter) = renter {
            body["renter"] = renter.into();
        }
        let answer = self.http.post("/v1/usage-requests", &body).await?;
        if (400..500).contains(&answer.status) {
            let problem = answer.problem().unwrap_or("unknown").to_owned();
            return Ok(Requested::Refused { status: answer.status, problem });
        }
        let answer = answer.must_be(&[201])?;
        if answer.body.pointer("/key/key_id").is_none() {
            let (request_id, state) = (answer.text("/request_id")?.to_owned(), answer.text("/state")?.to_owned());
            return Ok(Requested::Waiting { request_id, state });
        }
        read_key(&answer).map(Requested::Granted)
    }

    /// Asks for a function over the network and waits for the car's answer.
    pub async fn ask(&self, key_id: KeyId, function: Function, within: Duration) -> Result<Done, HttpError> {
        let wait_ms = within.as_millis().min(30_000);
        let path = format!("/v1/keys/{key_id}/actions?wait_ms={wait_ms}");
        let answer = self.http.post(&path, &json!({"function": function})).await?;
        if answer.status == 403 {
            return Ok(Done::Forbidden);
        }
        let answer = answer.must_be(&[200, 202])?;
        Ok(Done::Command { command_id: answer.text("/command_id")?.into(), state: answer.text("/state")?.into() })
    }

    /// Uses the key at the car itself, with no network between; the car's word when it refuses.
    pub async fn use_at_car(
        &self,
        car: SocketAddr,
        key: &VirtualKey,
        function: Function,
    ) -> Result<Result<(), String>, LocalError> {
        let bytes = token::decode(&key.token).map_err(|_| LocalError::Malformed)?;
        let sign = |nonce: &[u8; 32]| self.sign(&token::use_message(nonce, &token::sha256(&bytes), function));
        local_link::present(car, &bytes, None, function, sign).await
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = SigningKey::from(&self.holder_key).sign(message);
        signature.to_bytes().to_vec()
    }

    fn public_key(&self) -> HolderKey {
        let point = self.holder_key.public_key().to_encoded_point(false);
        // An uncompressed point has both coordinates.
        let half = |bytes: Option<&p256::FieldBytes>| bytes.map_or([0; 32], |bytes| (*bytes).into());
        HolderKey::P256 { x: half(point.x()), y: half(point.y()) }
    }

    /// Makes a narrower key for another phone; nobody else is asked or told.
    pub fn hand_on(&self, key: &VirtualKey, vehicle: &VehicleId, to: &Self, terms: Terms) -> Option<HandedOn> {
        let parent = token::decode(&key.token).ok()?;
        let Terms { key_id, permits, not_before, not_after, max_delegation } = terms;
        let grant = KeyGrant {
            key_id,
            holder_key: to.public_key(),
            permits,
            not_before,
            not_after,
            generation: 0,
            geofence: None,
            max_delegation,
            max_speed_kmh: None,
        };
        let delegation = token::Delegation {
            parent: &parent,
            parent_key: &self.public_key(),
            issuer: "phone",
            holder: "friend",
            vehicle,
            issued_at: not_before,
            grant: &grant,
        };
        let delegated = token::delegate(&delegation, |message| self.sign(message));
        Some(HandedOn { parent: key.token.clone(), token: delegated })
    }

    /// As [`Self::use_at_car`], with a key that another phone made for this one.
    pub async fn use_handed_on(
        &self,
        car: SocketAddr,
        key: &HandedOn,
        function: Function,
    ) -> Result<Result<(), String>, LocalError> {
        let bytes = |text: &str| token::decode(text).map_err(|_| LocalError::Malformed);
        let (parent, last) = (bytes(&key.parent)?, bytes(&key.token)?);
        let sign = |nonce: &[u8; 32]| self.sign(&token::use_message(nonce, &token::sha256(&last), function));
        local_link::present(car, &parent, Some(&last), function, sign).await
    }

    /// The proof of possession that goes with an asked function, base64url.
    pub fn proof(&self, key: &VirtualKey, idempotency_key: &str, function: Function) -> Option<String> {
        let bytes = token::decode(&key.token).ok()?;
        let nonce = token::sha256(idempotency_key.as_bytes());
        Some(URL_SAFE_NO_PAD.encode(self.sign(&token::use_message(&nonce, &token::sha256(&bytes), function))))
    }

    /// Ends the rental; returns its state.
    pub async fn end(&self, rental_id: RentalId) -> Result<String, HttpError> {
        let answer = self.http.post(&format!("/v1/rentals/{rental_id}/end"), &json!({})).await?.must_be(&[200, 202])?;
        answer.text("/state").map(str::to_owned)
    }
}

fn read_key(answer: &Answer) -> Result<VirtualKey, HttpError> {
    let names = |pointer: &str| {
        let list = answer.list(pointer)?;
        Ok(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let rental_id = answer.parsed("/rental_id")?;
    let key_id = answer.parsed("/key/key_id")?;
    Ok(VirtualKey {
        rental_id,
        key_id,
        token: answer.text("/key/token")?.to_owned(),
        permits: names("/key/permits")?,
        prohibits: names("/key/prohibits")?,
    })
}
