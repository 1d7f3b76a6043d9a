//! No body of any form makes a route panic, answer 5xx or answer with anything but JSON and problems.

use actix_web::http::Method;
use actix_web::test::{TestRequest, call_service, read_body};
use serde_json::{Value, json};

use super::table;
use super::testing::{app_with, bearer, service};
use crate::config::Config;
use crate::domain::Role;

/// xorshift64*: the same bodies each time, from a seed that a failure prints.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides.max(1)
    }

    /// Any JSON, not deep.
    fn value(&mut self, depth: usize) -> Value {
        match self.roll(if depth == 0 { 7 } else { 9 }) {
            0 => Value::Null,
            1 => json!(self.roll(2) == 0),
            2 => json!(-1e308),
            3 => json!(u64::MAX),
            4 => json!(self.roll(100)),
            5 => json!("\u{0}\u{202e}ä".repeat(self.roll(40))),
            6 => json!(["lock", "2026-11-21T22:00:00Z", "cabin", "WVW-1", "9999-99-99T99:99:99Z"][self.roll(5)]),
            7 => (0..self.roll(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let names = ["type", "vehicle_id", "lending", "x", "holder_key", "from", "card_id", "position"];
                (0..self.roll(4)).map(|_| (names[self.roll(8)].to_owned(), self.value(depth - 1))).collect()
            }
        }
    }

    /// The example with one field changed, dropped or added at some depth, or its text damaged.
    fn body(&mut self, example: &Value) -> Vec<u8> {
        let mut changed = example.clone();
        self.change(&mut changed);
        let mut text = changed.to_string().into_bytes();
        for _ in 0..self.roll(4) {
            let at = self.roll(text.len());
            match self.roll(4) {
                0 => text.truncate(at),
                1 => text.insert(at, self.roll(256) as u8),
                2 if !text.is_empty() => text[at] = self.roll(256) as u8,
                _ => {}
            }
        }
        text
    }

    fn change(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() && self.roll(4) > 0 => {
                let name = fields.keys().nth(self.roll(fields.len())).cloned().unwrap_or_default();
                match self.roll(5) {
                    0 => {
                        fields.remove(&name);
                    }
                    1 => {
                        let added = self.value(2);
                        fields.insert("unknown".into(), added);
                    }
                    _ => self.change(&mut fields[&name]),
                }
            }
            Value::Array(items) if !items.is_empty() && self.roll(4) > 0 => {
                let at = self.roll(items.len());
                self.change(&mut items[at]);
            }
            _ => *value = self.value(3),
        }
    }
}

/// A body that would do, by route.
fn example(path: &str) -> Value {
    let key = json!({"kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)});
    match path {
        "/v1/vehicles" | "/v1/vehicles/{id}" => json!({"vehicle_id": "WVW-2", "name": "x", "tank_litres": 50,
            "capabilities": ["drive"], "lending": {"profiles": ["cabin"], "windows": [{"days": ["mon"],
            "from": "08:00", "until": "20:00", "time_zone": "UTC"}], "max_minutes": 60, "approval": "owner",
            "return_area": {"latitude": 45.0, "longitude": 7.0, "radius_m": 500}}}),
        "/v1/vehicles/{id}/commands" => json!({"type": "disable_function", "function": "drive", "ttl_s": 60}),
        "/v1/commands" => json!({"vehicle_ids": ["WVW-1"], "type": "lock", "ttl_s": 60}),
        "/v1/usage-requests" => json!({"vehicle_id": "WVW-1", "profile": "cabin", "from": "2026-11-21T22:00:00Z",
            "until": "2026-11-21T23:00:00Z", "holder_key": key, "renter": "anna"}),
        "/v1/keys/{id}/actions" => json!({"function": "unlock_doors"}),
        "/v1/api-keys" => json!({"name": "x", "role": "renter", "subject": "anna"}),
        "/v1/cards" | "/v1/cards/{id}" => json!({"card_id": "c1", "network_ref": "ic_1", "vehicle_id": "WVW-1",
            "status": "active"}),
        "/v1/stations" | "/v1/stations/{id}" => json!({"station_id": "s1", "name": "x",
            "position": {"latitude": 45.0, "longitude": 7.0}, "terminals": [{"network_id": "n", "terminal_id": "t"}]}),
        _ => json!({"type": "issuing_authorization.request", "id": "evt_1", "data": {"object": {"id": "iauth_1"}}}),
    }
}

#[actix_web::test]
async fn no_body_breaks_a_route() {
    const SEED: u64 = 0x0C0F_FEE0_0C0F_FEE1;
    let mut config = Config::default();
    (config.http.rate_per_s, config.http.rate_burst) = (1_000_000, 1_000_000);
    let (app, _) = app_with(config);
    let service = service!(app);
    let mut dice = Dice(SEED);
    for entry in table() {
        for method in entry.methods().into_iter().filter(|method| [Method::POST, Method::PATCH].contains(method)) {
            let path = entry.path.replace("{id}", "0197a1b2-0000-7000-8000-000000000001");
            for round in 0..60 {
                let body = dice.body(&example(entry.path));
                let request =
                    TestRequest::default().method(method.clone()).uri(&path).insert_header(bearer(Role::Admin));
                let request = request.insert_header(("Content-Type", "application/json")).set_payload(body.clone());
                let answer = call_service(&service, request.to_request()).await;
                let status = answer.status();
                let kind = answer.headers().get("Content-Type").map(|kind| kind.to_str().unwrap().to_owned());
                let text = read_body(answer).await;
                let what = format!(
                    "seed {SEED:#x}, {method} {path}, round {round}: {} -> {status} {}",
                    String::from_utf8_lossy(&body),
                    String::from_utf8_lossy(&text)
                );
                assert!(!status.is_server_error() || is_unanswered(&path, status), "{what}");
                if status.is_client_error() {
                    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{what}");
                }
            }
        }
    }
}

/// No notifier runs here, and that is said.
fn is_unanswered(path: &str, status: actix_web::http::StatusCode) -> bool {
    path.starts_with("/v1/notifications") && status == actix_web::http::StatusCode::SERVICE_UNAVAILABLE
}

#[actix_web::test]
async fn no_query_or_path_breaks_a_route() {
    let (app, _) = app_with(Config::default());
    let service = service!(app);
    let segments = ["%00", "%ff%fe", "..%2f..", "a%20b", "%F0%9F%9A%97", "-", "%7Bid%7D", "%25"];
    let queries =
        ["", "?limit=-1", "?limit=1&limit=2", "?after=%00", "?from=x&until=x", "?%ff=%ff", "?=&&=", "?near=NaN,NaN"];
    for entry in table() {
        for segment in segments {
            for query in queries {
                let uri = format!("{}{query}", entry.path.replace("{id}", segment).replace("{file}", segment));
                let request = TestRequest::get().uri(&uri).insert_header(bearer(Role::Admin));
                let answer = call_service(&service, request.to_request()).await;
                let is_fault = answer.status().is_server_error() && !is_unanswered(&uri, answer.status());
                assert!(!is_fault, "{uri}: {}", answer.status());
            }
        }
    }
}
