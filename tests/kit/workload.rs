//! Clients that ask several gateways for promises, all at once, and write down what they asked and heard.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cardea::clock::Clock;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::history::{Asked, Attempt, FOR_NOW, Heard};
use crate::kit::{Gateway, rfc3339_in, unix_now};

/// Of the fleet's own payment form, 32 bytes in base64.
pub const OWN_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Longer than an append may take; who is not answered by then asks elsewhere.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 12;
const HOUR_S: i64 = 3_600;
/// Hours that can be booked, from two hours on.
const HOURS: u64 = 10;

/// A seeded walk (xorshift64*).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Another walk, its own for each `number`.
    pub fn fork(&mut self, number: u64) -> Self {
        Self::new(self.below(1 << 31) ^ (number << 32))
    }
}

/// One gateway as a client sees it.
#[derive(Debug, Clone)]
struct Door {
    node: String,
    http: String,
}

/// What all clients share.
pub struct Workload {
    doors: Vec<Door>,
    client: reqwest::Client,
    admin_key: String,
    clock: Clock,
    vehicles: Vec<String>,
    history: Mutex<Vec<Attempt>>,
    number: AtomicU64,
    is_over: AtomicBool,
}

/// The card of a vehicle, as the payment network calls it.
pub fn card_of(vehicle: &str) -> String {
    format!("ic_{}", vehicle.to_lowercase())
}

/// Standard Webhooks, signed now.
fn signed(request: RequestBuilder, id: &str, text: String) -> RequestBuilder {
    let key = STANDARD.decode(OWN_SECRET.trim_start_matches("whsec_")).expect("base64");
    let at = unix_now();
    let tag =
        ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), format!("{id}.{at}.{text}").as_bytes());
    let request = request.header("webhook-id", id).header("webhook-timestamp", at.to_string());
    let request = request.header("webhook-signature", format!("v1,{}", STANDARD.encode(tag)));
    request.header("Content-Type", "application/json").body(text)
}

impl Workload {
    /// `nodes`: the gateways with their names; their addresses must outlast a restart.
    pub fn new(nodes: &[(&str, &Gateway)], vehicles: &[&str]) -> Self {
        let door = |(name, gateway): &(&str, &Gateway)| Door { node: (*name).to_owned(), http: gateway.http.clone() };
        Self {
            doors: nodes.iter().map(door).collect(),
            client: nodes[0].1.client.clone(),
            admin_key: nodes[0].1.admin_key.clone(),
            clock: Clock::start(),
            vehicles: vehicles.iter().map(|vehicle| (*vehicle).to_owned()).collect(),
            history: Mutex::default(),
            number: AtomicU64::new(1),
            is_over: AtomicBool::new(false),
        }
    }

    /// What was asked and heard since the last call.
    pub fn take(&self) -> Vec<Attempt> {
        std::mem::take(&mut *self.history.lock().expect("ours"))
    }

    /// Lets the clients come to their end, or begins anew.
    pub fn set_over(&self, is_over: bool) {
        self.is_over.store(is_over, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// One client, until it is over.
    pub async fn run(&self, mut dice: Dice) {
        while !self.is_over() {
            match dice.below(10) {
                0..=4 => self.order(&mut dice).await,
                5..=6 => self.rent(&mut dice).await,
                _ => self.buy(&mut dice).await,
            }
            self.pause(dice.below(30)).await;
        }
    }

    async fn pause(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await; // poll
    }

    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    fn request(&self, door: &Door, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", door.http)).timeout(ANSWER_WITHIN)
    }

    fn promise(&self, door: &Door, method: Method, path: &str, name: &str, body: Option<&Value>) -> RequestBuilder {
        let request = self.request(door, method, path).bearer_auth(&self.admin_key).header("Idempotency-Key", name);
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    async fn attempt(&self, door: &Door, name: &str, asked: &Asked, request: RequestBuilder) -> Heard {
        let from_ms = self.now_ms();
        let heard = heard(asked, request).await;
        let attempt = Attempt {
            name: name.to_owned(),
            asked: asked.clone(),
            node: door.node.clone(),
            from_ms,
            until_ms: self.now_ms(),
            heard: heard.clone(),
        };
        self.history.lock().expect("ours").push(attempt);
        heard
    }

    fn now_ms(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64
    }

    /// Asks at one gateway after the other until it is told yes or no, and then often once more elsewhere.
    async fn insist(
        &self,
        dice: &mut Dice,
        name: &str,
        asked: Asked,
        build: impl Fn(&Door, u64) -> RequestBuilder,
    ) -> Option<Value> {
        let mut turn = dice.below(self.doors.len() as u64) as usize;
        for _ in 0..ATTEMPTS {
            let door = &self.doors[turn % self.doors.len()];
            turn += 1;
            match self.attempt(door, name, &asked, build(door, 0)).await {
                Heard::Done(answer) => {
                    if dice.below(2) == 0 {
                        let door = &self.doors[turn % self.doors.len()];
                        self.attempt(door, name, &asked, build(door, 1 + dice.below(2))).await;
                    }
                    return Some(answer);
                }
                Heard::Refused(why) if !FOR_NOW.contains(&why.as_str()) => return None,
                Heard::Refused(_) | Heard::Unknown if self.is_over() => return None,
                Heard::Refused(_) | Heard::Unknown => self.pause(dice.between(50, 400)).await,
            }
        }
        None
    }

    async fn order(&self, dice: &mut Dice) {
        let number = self.next();
        let vehicle = self.vehicles[dice.below(self.vehicles.len() as u64) as usize].clone();
        let kind = ["lock", "unlock", "locate"][dice.below(3) as usize];
        // No two have the same time to live, so that a command tells whose it is.
        let ttl_s = HOUR_S as u64 + number;
        let (name, path) = (format!("order-{number}"), format!("/v1/vehicles/{vehicle}/commands"));
        let body = json!({"type": kind, "ttl_s": ttl_s});
        let asked = Asked::Order { vehicle, ttl_ms: ttl_s as i64 * 1_000 };
        self.insist(dice, &name, asked, |door, _| self.promise(door, Method::POST, &path, &name, Some(&body))).await;
    }

    /// The first two cars are booked for later, in hours that many want; the third is rented now.
    async fn rent(&self, dice: &mut Dice) {
        let (number, is_now) = (self.next(), dice.below(4) == 0);
        let vehicle = self.vehicles[if is_now { 2 } else { dice.below(2) as usize }].clone();
        let hour = dice.below(HOURS) as i64;
        let (from, hours) = if is_now { (0, 1) } else { (2 * HOUR_S + hour * HOUR_S, dice.between(1, 2) as i64) };
        let name = format!("renter-{number}");
        let body = json!({
            "vehicle_id": vehicle, "profile": "cabin", "renter": name,
            "from": rfc3339_in(from), "until": rfc3339_in(from + hours * HOUR_S),
            "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        });
        let asked = Asked::Rent { vehicle, renter: name.clone() };
        let build = |door: &Door, _| self.promise(door, Method::POST, "/v1/usage-requests", &name, Some(&body));
        let Some(made) = self.insist(dice, &name, asked, build).await else { return };
        let id = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (rental, key) = (id(&made["rental_id"]), id(&made["key"]["key_id"]));
        self.pause(dice.below(200)).await;
        match (is_now, dice.below(10)) {
            (true, _) => self.close(dice, "end", Asked::End { rental: rental.clone() }, &rental).await,
            (false, 0..=5) => self.close(dice, "cancel", Asked::Cancel { rental: rental.clone() }, &rental).await,
            (false, 6..=7) => self.revoke(dice, key).await,
            (false, _) => {}
        }
    }

    async fn close(&self, dice: &mut Dice, verb: &str, asked: Asked, rental: &str) {
        let (name, path) = (format!("{verb}-{}", self.next()), format!("/v1/rentals/{rental}/{verb}"));
        self.insist(dice, &name, asked, |door, _| self.promise(door, Method::POST, &path, &name, None)).await;
    }

    async fn revoke(&self, dice: &mut Dice, key: String) {
        let (name, path) = (format!("revoke-{}", self.next()), format!("/v1/keys/{key}?effect=immediate"));
        let build = |door: &Door, _| self.promise(door, Method::DELETE, &path, &name, None);
        self.insist(dice, &name, Asked::Revoke { key }, build).await;
    }

    async fn buy(&self, dice: &mut Dice) {
        let name = format!("auth-{}-{}", self.next(), dice.below(1 << 30));
        let vehicle = &self.vehicles[2 + dice.below(2) as usize];
        let body = json!({
            "authorization_id": name, "card_ref": card_of(vehicle), "at": rfc3339_in(0),
            "amount_minor": dice.between(1_000, 9_000), "currency": "EUR", "partial_allowed": true,
            "merchant": {"network_id": "net-nowhere", "terminal_id": "1", "name": "Pump", "mcc": "5542"},
        });
        let asked = Asked::Buy { authorization: name.clone() };
        // The network's second message about it has the same id or another.
        let build = |door: &Door, message: u64| {
            let request = self.request(door, Method::POST, "/v1/payments/authorizations");
            signed(request, &format!("msg_{name}_{}", message / 2), body.to_string())
        };
        self.insist(dice, &name, asked, build).await;
    }
}

async fn heard(asked: &Asked, request: RequestBuilder) -> Heard {
    let Ok(answer) = request.send().await else { return Heard::Unknown };
    let status = answer.status().as_u16();
    let Ok(text) = answer.text().await else { return Heard::Unknown };
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    match status {
        // The configured fallback: nothing was recorded that the network could be held to, or nobody knows yet.
        200..=299 if matches!(asked, Asked::Buy { .. }) && body["decision_id"].is_null() => Heard::Unknown,
        200..=299 => Heard::Done(body),
        _ => {
            let kind = body["type"].as_str().unwrap_or_default().trim_start_matches("urn:cardea:problem:");
            match kind {
                "" | "outcome-unknown" | "internal" => Heard::Unknown,
                slug => Heard::Refused(slug.to_owned()),
            }
        }
    }
}
