//! The payment network of the stories: it asks, tells what was taken, and signs both.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cardea::domain::Timestamp;
use serde_json::{Value, json};

use super::story::{Ask, Merchant, Post, Posted};
use crate::http_client::{HttpClient, HttpError};
use crate::station;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The gateway's own form, by Standard Webhooks: everything a story needs.
    Own,
    /// Stripe Issuing's questions; nothing is told after them.
    Stripe,
}

impl FromStr for Form {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "own" => Ok(Self::Own),
            "stripe" => Ok(Self::Stripe),
            _ => Err("own or stripe".into()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Network {
    http: HttpClient,
    form: Form,
    secret: String,
}

/// What the gateway answered to a question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Empty: it was answered without a judgement, as the configuration says.
    pub decision_id: String,
    /// `approve`, `approve_capped`, `step_up` or `decline`.
    pub outcome: String,
    pub cap_minor: Option<i64>,
    pub reasons: Vec<String>,
}

impl Answer {
    pub fn is_yes(&self) -> bool {
        self.outcome.starts_with("approve")
    }
}

/// Who asks for what: the names that stay the same over a purchase.
pub struct Names<'a> {
    pub authorization_id: &'a str,
    pub card_ref: &'a str,
    pub vehicle_number: Option<String>,
}

impl Network {
    pub fn new(http: HttpClient, form: Form, secret: &str) -> Self {
        Self { http: http.with_key(None), form, secret: secret.into() }
    }

    pub fn tells_captures(&self) -> bool {
        self.form == Form::Own
    }

    pub async fn ask(&self, now: Timestamp, at: Timestamp, ask: &Ask, names: &Names<'_>) -> Result<Answer, HttpError> {
        match self.form {
            Form::Own => self.ask_own(now, at, ask, names).await,
            Form::Stripe => self.ask_stripe(now, at, ask, names).await,
        }
    }

    async fn ask_own(&self, now: Timestamp, at: Timestamp, ask: &Ask, names: &Names<'_>) -> Result<Answer, HttpError> {
        let mut body = json!({
            "authorization_id": names.authorization_id,
            "card_ref": names.card_ref,
            "at": at,
            "amount_minor": ask.amount_minor,
            "currency": "EUR",
            "merchant": merchant(&ask.merchant),
            "partial_allowed": ask.partial_allowed,
        });
        let mut fleet = serde_json::Map::new();
        let prompts = [
            ("odometer_km", ask.prompts.odometer_km.map(Value::from)),
            ("driver_id", ask.prompts.driver_id.clone().map(Value::from)),
            ("vehicle_number", names.vehicle_number.clone().map(Value::from)),
        ];
        fleet.extend(prompts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        if !fleet.is_empty() {
            body["fleet"] = fleet.into();
        }
        let answer = self.send(now, "/v1/payments/authorizations", names.authorization_id, &body).await?;
        let answer = answer.must_be(&[200, 201])?;
        let reasons = answer.body["reasons"].as_array().into_iter().flatten();
        Ok(Answer {
            decision_id: answer.body["decision_id"].as_str().unwrap_or_default().to_owned(),
            outcome: answer.text("/outcome")?.to_owned(),
            cap_minor: answer.body["cap_minor"].as_i64(),
            reasons: reasons.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    async fn ask_stripe(
        &self,
        now: Timestamp,
        at: Timestamp,
        ask: &Ask,
        names: &Names<'_>,
    ) -> Result<Answer, HttpError> {
        let purchase = station::Purchase {
            authorization_id: names.authorization_id.to_owned(),
            card_ref: names.card_ref.to_owned(),
            amount_minor: ask.amount_minor,
            currency: "eur".into(),
            network_id: ask.merchant.network_id.clone(),
            terminal_id: ask.merchant.terminal_id.clone(),
            station_name: ask.merchant.name.clone(),
        };
        let mut event = purchase.event(at.as_secs());
        let object = &mut event["data"]["object"];
        object["merchant_data"]["category_code"] = ask.merchant.mcc.into();
        object["pending_request"]["is_amount_controllable"] = ask.partial_allowed.into();
        let body = event.to_string().into_bytes();
        let signature = station::signature(&self.secret, now.as_secs(), &body);
        let answer = self.http.post_raw("/v1/payments/stripe", &[("Stripe-Signature", &signature)], body).await?;
        let answer = answer.must_be(&[200])?;
        let reasons = answer.text("/metadata/reason")?.split(", ").filter(|reason| !reason.is_empty());
        Ok(Answer {
            decision_id: answer.text("/metadata/decision_id")?.to_owned(),
            outcome: answer.text("/metadata/outcome")?.to_owned(),
            cap_minor: answer.body["amount"].as_i64(),
            reasons: reasons.map(str::to_owned).collect(),
        })
    }

    /// `of` names the authorisation; without one the pump was offline, and the card alone is told.
    pub async fn post(
        &self,
        now: Timestamp,
        at: Timestamp,
        post: &Post,
        of: Option<&str>,
        names: &Names<'_>,
        message_id: &str,
    ) -> Result<(), HttpError> {
        let mut body = json!({"at": at, "amount_minor": post.amount_minor, "currency": "EUR"});
        match of {
            Some(authorization_id) => body["authorization_id"] = authorization_id.into(),
            None => {
                body["card_ref"] = names.card_ref.into();
                body["merchant"] = merchant(&post.merchant);
            }
        }
        let path = match post.what {
            Posted::Reversal => "/v1/payments/reversals",
            Posted::Capture => {
                if let Some(litres) = post.litres {
                    body["litres"] = litres.into();
                }
                if let Some(product) = post.product {
                    body["product"] = product.into();
                }
                "/v1/payments/captures"
            }
        };
        self.send(now, path, message_id, &body).await?.must_be(&[200, 202]).map(drop)
    }

    async fn send(
        &self,
        now: Timestamp,
        path: &str,
        message_id: &str,
        body: &Value,
    ) -> Result<crate::http_client::Answer, HttpError> {
        let (body, time) = (body.to_string().into_bytes(), now.as_secs().to_string());
        let signature = sign(&self.secret, message_id, &time, &body);
        let headers =
            [("webhook-id", message_id), ("webhook-timestamp", time.as_str()), ("webhook-signature", &signature)];
        self.http.post_raw(path, &headers, body).await
    }
}

fn merchant(merchant: &Merchant) -> Value {
    json!({
        "network_id": merchant.network_id,
        "terminal_id": merchant.terminal_id,
        "name": merchant.name,
        "mcc": merchant.mcc,
        "postal_code": merchant.postal_code,
        "country": "IT",
    })
}

/// Standard Webhooks: `v1,` and the base64 HMAC-SHA256 of `{id}.{time}.{body}` under the secret's bytes.
fn sign(secret: &str, message_id: &str, time: &str, body: &[u8]) -> String {
    // A secret that is no base64 signs nothing right, and the gateway says so.
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).unwrap_or_default();
    let mut context = ring::hmac::Context::with_key(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key));
    context.update(message_id.as_bytes());
    context.update(b".");
    context.update(time.as_bytes());
    context.update(b".");
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_published_one() {
        let signature = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
