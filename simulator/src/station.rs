//! A fuel station and the payment network behind it: signed `issuing_authorization.request` events in Stripe's form.
//!
//! Used by stories, tests, the bench and the `station` subcommand. It never decides anything: it asks, and shows the
//! gateway's answer.

use std::path::Path;
use std::time::Duration;

use cardea::clock::Clock;
use cardea::domain::Position;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http_client::{HttpClient, HttpError};

const API_VERSION: &str = "2026-10-28";

/// The `Stripe-Signature` header: `t=<unix>,v1=<hex HMAC-SHA256 of "{t}.{body}">`.
pub fn signature(secret: &str, unix_s: i64, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(unix_s.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    format!("t={unix_s},v1={}", hex::encode(context.sign()))
}

/// A pump's owner as the gateway's directory and the network's messages know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Station {
    pub station_id: String,
    pub name: String,
    pub position: Position,
    pub network_id: String,
    pub terminal_id: String,
}

impl Station {
    /// The body of `POST /v1/stations`.
    pub fn directory_entry(&self) -> Value {
        json!({
            "station_id": self.station_id,
            "name": self.name,
            "position": self.position,
            "terminals": [{"network_id": self.network_id, "terminal_id": self.terminal_id}],
        })
    }
}

/// One try to pay at a pump. The litres are not known yet; the amount is what the pump reserves.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// Unique per try; sent again it is the same try.
    pub authorization_id: String,
    pub card_ref: String,
    pub amount_minor: i64,
    pub currency: String,
    pub network_id: String,
    pub terminal_id: String,
    pub station_name: String,
}

impl Purchase {
    pub fn at(station: &Station, card_ref: &str, amount_minor: i64) -> Self {
        Self {
            authorization_id: format!("iauth_{}", letters(Uuid::now_v7())),
            card_ref: card_ref.into(),
            amount_minor,
            currency: "eur".into(),
            network_id: station.network_id.clone(),
            terminal_id: station.terminal_id.clone(),
            station_name: station.name.clone(),
        }
    }

    /// The event as the network posts it.
    pub fn event(&self, unix_s: i64) -> Value {
        json!({
            "id": format!("evt_{}", self.authorization_id.trim_start_matches("iauth_")),
            "object": "event",
            "api_version": API_VERSION,
            "created": unix_s,
            "livemode": false,
            "type": "issuing_authorization.request",
            "data": {"object": {
                "id": self.authorization_id,
                "object": "issuing.authorization",
                "amount": 0,
                "currency": self.currency,
                "approved": false,
                "status": "pending",
                "created": unix_s,
                "card": {"id": self.card_ref, "last4": "4242", "status": "active", "metadata": {}},
                "merchant_data": {
                    "category": "automated_fuel_dispensers",
                    "category_code": "5542",
                    "name": self.station_name,
                    "city": null,
                    "state": null,
                    "country": "IT",
                    "postal_code": null,
                    "network_id": self.network_id,
                    "terminal_id": self.terminal_id,
                },
                "pending_request": {
                    "amount": self.amount_minor,
                    "currency": self.currency,
                    "is_amount_controllable": true,
                    "merchant_amount": self.amount_minor,
                    "merchant_currency": self.currency,
                },
                "fleet": null,
                "fuel": null,
            }},
        })
    }
}

/// An id in letters only: the digits of a UUID now and then look like a card's number, which the gateway refuses.
fn letters(id: Uuid) -> String {
    id.as_bytes().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(b'a' + digit)).collect()
}

/// The gateway's answer to one try.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub approved: bool,
    pub metadata: Value,
    pub took: Duration,
}

/// Posts events with the shared secret, as the network would.
#[derive(Debug, Clone)]
pub struct PaymentNetwork {
    http: HttpClient,
    secret: String,
    clock: Clock,
}

impl PaymentNetwork {
    pub fn new(base: &str, ca: &Path, secret: &str) -> Result<Self, HttpError> {
        Ok(Self { http: HttpClient::new(base, ca, None)?, secret: secret.into(), clock: Clock::start() })
    }

    pub async fn authorize(&self, purchase: &Purchase) -> Result<Verdict, HttpError> {
        let unix_s = self.clock.now().as_secs();
        let body = purchase.event(unix_s).to_string().into_bytes();
        let header = signature(&self.secret, unix_s, &body);
        let watch = crate::stopwatch::Stopwatch::start();
        let answer = self.http.post_raw("/v1/payments/stripe", &[("Stripe-Signature", &header)], body).await?;
        let took = watch.elapsed();
        let answer = answer.must_be(&[200])?;
        Ok(Verdict { approved: answer.flag("/approved")?, metadata: answer.body["metadata"].clone(), took })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_agrees_with_independent_implementations() {
        let body = br#"{"id":"evt_test","type":"issuing_authorization.request"}"#;
        assert_eq!(
            signature("whsec_test_secret", 1_700_000_000, body),
            "t=1700000000,v1=a46c36abd4564fc2c350b6c21e5a8a24cf049cb2b1fee0f2a734e386bb0ce5f1"
        );
    }

    #[test]
    fn an_id_never_looks_like_a_cards_number() {
        let id = letters(Uuid::from_u128(0x4242_4242_4242_4242_4242_4242_4242_4242));
        assert_eq!(id, "ec".repeat(16));
    }

    #[test]
    fn the_event_carries_what_the_guard_reads() {
        let station = Station {
            station_id: "s".into(),
            name: "Pump".into(),
            position: Position { latitude: 45.0, longitude: 7.0 },
            network_id: "n1".into(),
            terminal_id: "t1".into(),
        };
        let event = Purchase::at(&station, "ic_1", 4_200).event(1_700_000_000);
        for (pointer, value) in [
            ("/type", json!("issuing_authorization.request")),
            ("/data/object/card/id", json!("ic_1")),
            ("/data/object/merchant_data/network_id", json!("n1")),
            ("/data/object/merchant_data/terminal_id", json!("t1")),
            ("/data/object/merchant_data/category_code", json!("5542")),
            ("/data/object/pending_request/amount", json!(4_200)),
        ] {
            assert_eq!(event.pointer(pointer), Some(&value), "{pointer}");
        }
    }
}
