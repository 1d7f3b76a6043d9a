//! Who may do what, told once: every operation of the OpenAPI document, asked of the real program as nobody, as the renter
//! whose thing it is, as another renter, as operator, auditor and admin. An operation without a line here fails, and so
//! does a document that names other roles.

mod kit;

use std::collections::{BTreeMap, BTreeSet};

use cardea::domain::key::{HolderKey, KeyGrant};
use cardea::domain::{Function, Functions, KeyId, Timestamp};
use cardea::token;
use ed25519_dalek::{Signer, SigningKey};
use kit::{Gateway, until};
use reqwest::Method;
use serde_json::{Value, json};

/// The status each of them gets. A thing in the path is always ann's; 404 is how another renter learns nothing of it.
/// Enrolment asks for a token or a certificate of the car, which no key stands for.
/// The payment networks' messages come without a signature here, which is 400 or 401 for everybody, whatever key they show.
/// 409 are a target that is not configured and the password of an API key, which has none.
const TABLE: &str = "
# operation                                         nobody   ann   bob operator auditor admin
GET /v1/vehicles                                       401   403   403      200     200   200
POST /v1/vehicles                                      401   403   403      201     403   201
GET /v1/vehicles/available                             401   200   200      200     200   200
GET /v1/vehicles/{id}                                  401   403   403      200     200   200
PATCH /v1/vehicles/{id}                                401   403   403      200     403   200
GET /v1/vehicles/{id}/history                          401   403   403      200     200   200
GET /v1/vehicles/{id}/link-log                         401   403   403      200     200   200
POST /v1/vehicles/{id}/certificate                     401   403   403      201     403   201
DELETE /v1/vehicles/{id}/certificate                   401   403   403      200     403   200
POST /v1/vehicles/{id}/enrolment-tokens                401   403   403      201     403   201
DELETE /v1/vehicles/{id}/enrolment-tokens              401   403   403      204     403   204
GET /.well-known/est/cacerts                           200   200   200      200     200   200
POST /.well-known/est/simpleenroll                     401   401   401      401     401   401
POST /.well-known/est/simplereenroll                   401   401   401      401     401   401
POST /v1/vehicles/{id}/commands                        401   403   403      202     403   202
GET /v1/commands                                       401   200   200      200     200   200
POST /v1/commands                                      401   403   403      202     403   202
GET /v1/commands/{id}                                  401   200   404      200     200   200
DELETE /v1/commands/{id}                               401   200   404      200     403   200
GET /v1/usage-requests                                 401   200   200      200     200   200
POST /v1/usage-requests                                401   201   403      201     403   201
GET /v1/usage-requests/{id}                            401   200   404      200     200   200
POST /v1/usage-requests/{id}/approve                   401   403   403      200     403   200
POST /v1/usage-requests/{id}/decline                   401   403   403      200     403   200
GET /v1/rentals                                        401   200   200      200     200   200
GET /v1/rentals/{id}                                   401   200   404      200     200   200
POST /v1/rentals/{id}/end                              401   200   404      200     403   200
POST /v1/rentals/{id}/cancel                           401   200   404      200     403   200
POST /v1/rentals/{id}/extend                           401   200   404      200     403   200
GET /v1/keys                                           401   200   200      200     200   200
GET /v1/keys/{id}                                      401   200   404      200     200   200
DELETE /v1/keys/{id}                                   401   403   403      200     403   200
POST /v1/keys/{id}/actions                             401   202   404      202     403   202
POST /v1/keys/{id}/delegations                         401   201   404      201     403   201
DELETE /v1/keys/{id}/delegations/{delegated}           401   200   404      200     403   200
GET /v1/confirmations                                  401   200   200      200     200   200
POST /v1/confirmations/{id}                            401   200   404      403     403   403
GET /v1/export/mds/vehicles                            401   403   403      200     200   200
GET /v1/api-keys                                       401   403   403      403     200   200
POST /v1/api-keys                                      401   403   403      403     403   201
DELETE /v1/api-keys/{id}                               401   403   403      403     403   204
GET /v1/users                                          401   403   403      403     200   200
POST /v1/users                                         401   403   403      403     403   201
PATCH /v1/users/{id}                                   401   403   403      403     403   200
DELETE /v1/users/{id}                                  401   403   403      403     403   204
GET /v1/audit                                          401   403   403      403     200   200
GET /v1/audit/verification                             401   403   403      403     200   200
POST /v1/audit/verification                            401   403   403      403     202   202
GET /v1/system                                         401   403   403      200     200   200
POST /v1/certificates/reload                           401   403   403      403     403   200
GET /v1/cards                                          401   403   403      200     200   200
POST /v1/cards                                         401   403   403      201     403   201
GET /v1/cards/{id}                                     401   403   403      200     200   200
PATCH /v1/cards/{id}                                   401   403   403      200     403   200
DELETE /v1/cards/{id}                                  401   403   403      204     403   204
GET /v1/stations                                       401   403   403      200     200   200
POST /v1/stations                                      401   403   403      201     403   201
POST /v1/stations/import                               401   403   403      200     403   200
GET /v1/stations/{id}                                  401   403   403      200     200   200
PATCH /v1/stations/{id}                                401   403   403      200     403   200
DELETE /v1/stations/{id}                               401   403   403      204     403   204
GET /v1/card-rules                                     401   403   403      200     200   200
POST /v1/card-rules                                    401   403   403      201     403   201
POST /v1/card-rules/try                                401   403   403      200     200   200
GET /v1/card-rules/{version}                           401   403   403      200     200   200
GET /v1/decisions                                      401   403   403      200     200   200
GET /v1/decisions/export                               401   403   403      200     200   200
GET /v1/decisions/{id}                                 401   403   403      200     200   200
GET /v1/alerts                                         401   403   403      200     200   200
GET /v1/alerts/{id}                                    401   403   403      200     200   200
POST /v1/alerts/{id}/acknowledge                       401   403   403      200     403   200
POST /v1/alerts/{id}/resolve                           401   403   403      200     403   200
GET /v1/notifications/targets                          401   403   403      200     200   200
POST /v1/notifications/test                            401   403   403      409     403   409
GET /v1/notifications/dead                             401   403   403      200     200   200
POST /v1/notifications/dead/{id}/retry                 401   403   403      404     403   404
POST /v1/console/tickets                               401   403   403      201     201   201
GET /v1/console                                        401   403   403      101     101   101
GET /v1/console/map                                    401   403   403      200     200   200
GET /v1/session                                        401   404   404      404     404   404
POST /v1/session                                       201   201   201      201     201   201
DELETE /v1/session                                     401   204   204      204     204   204
DELETE /v1/sessions                                    401   403   403      403     403   200
PUT /v1/session/password                               401   409   409      409     409   409
GET /v1/session/methods                                200   200   200      200     200   200
GET /v1/session/oidc                                   404   404   404      404     404   404
GET /v1/session/oidc/callback                          404   404   404      404     404   404
GET /v1/keyset                                         200   200   200      200     200   200
GET /openapi.json                                      200   200   200      200     200   200
GET /                                                  200   200   200      200     200   200
GET /terminal                                          200   200   200      200     200   200
GET /terminal/{file}                                   200   200   200      200     200   200
GET /console/{file}                                    404   404   404      404     404   404
GET /console/assets/{file}                             404   404   404      404     404   404
GET /console/map.pmtiles                               404   404   404      404     404   404
POST /v1/payments/stripe                               401   401   401      401     401   401
POST /v1/payments/authorizations                       401   401   401      401     401   401
POST /v1/payments/captures                             401   401   401      401     401   401
POST /v1/payments/reversals                            401   401   401      401     401   401
POST /v1/payments/marqeta                              401   400   400      400     400   400
POST /v1/payments/lithic                               401   401   401      401     401   401
";

/// The table's columns.
const CALLERS: [&str; 6] = ["nobody", "ann", "bob", "operator", "auditor", "admin"];
/// The caller who shows what a role may.
const ROLES: [(&str, &str); 4] =
    [("admin", "admin"), ("operator", "operator"), ("renter", "ann"), ("auditor", "auditor")];

fn rows() -> BTreeMap<String, Vec<u16>> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let statuses = words[2..].iter().map(|word| word.parse().expect("a status")).collect::<Vec<_>>();
        assert_eq!(statuses.len(), CALLERS.len(), "{line}");
        (words[..2].join(" "), statuses)
    };
    lines.map(row).collect()
}

/// The fleet that is asked, with a key for each caller.
struct World {
    gateway: Gateway,
    keys: BTreeMap<&'static str, String>,
    made: std::cell::Cell<u32>,
}

fn phone() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn holder(key: &SigningKey) -> HolderKey {
    HolderKey::Ed25519 { x: key.verifying_key().to_bytes() }
}

/// What `body` names, as text.
fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}")).to_owned()
}

impl World {
    async fn new() -> Self {
        let signing = "[\"whsec_YWNjZXNzLXRhYmxlLXNlY3JldC0wMTIzNDU2Nzg5\"]";
        let sets = [
            format!("payments.own.secrets={signing}"),
            format!("payments.lithic.secrets={signing}"),
            "payments.marqeta.secrets=[\"user:a-long-password\"]".to_owned(),
        ];
        let gateway = Gateway::start_with(&sets.each_ref().map(String::as_str)).await;
        let mut keys = BTreeMap::from([("admin", gateway.admin_key.clone())]);
        for (name, role) in [("ann", "renter"), ("bob", "renter"), ("operator", "operator"), ("auditor", "auditor")] {
            let (status, key) = gateway.post("/v1/api-keys", json!({"name": name, "role": role})).await;
            assert_eq!(status, 201, "{key}");
            keys.insert(name, text(&key, "api_key"));
        }
        let world = Self { gateway, keys, made: 0.into() };
        world.must("POST", "/v1/card-rules", json!({"text": rules("start")})).await;
        world
    }

    /// A name that nothing else has.
    fn fresh(&self, what: &str) -> String {
        self.made.set(self.made.get() + 1);
        format!("{what}-{}", self.made.get())
    }

    async fn ask(&self, caller: &str, method: &str, path: &str, body: Sent) -> (u16, Value) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.gateway.client.request(method, format!("{}{path}", self.gateway.http));
        if let Some(key) = self.keys.get(caller) {
            request = request.bearer_auth(key);
        }
        request = match body {
            Sent::Nothing => request,
            Sent::Json(body) => request.json(&body),
            Sent::Text(kind, text) => request.header("Content-Type", kind).body(text),
            Sent::Upgrade => request
                .header("Connection", "Upgrade")
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
                .header("Origin", &self.gateway.http),
        };
        if path == "/v1/console" {
            // The answer has no end: the connection is a WebSocket from then on.
            return (request.send().await.expect("an answer").status().as_u16(), Value::Null);
        }
        kit::answer(request).await
    }

    async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        self.must_as("admin", method, path, body).await
    }

    async fn must_as(&self, caller: &str, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(caller, method, path, Sent::Json(body)).await;
        assert!((200..300).contains(&status), "{method} {path} as {caller}: {status} {answer}");
        answer
    }

    async fn vehicle(&self, approval: &str) -> String {
        let id = self.fresh("CAR");
        self.must("POST", "/v1/vehicles", json!({"vehicle_id": id, "lending": {"approval": approval}})).await;
        id
    }

    /// ann's usage request; `from` in minutes from now.
    async fn request(&self, vehicle: &str, from: i64) -> Value {
        self.must_as("ann", "POST", "/v1/usage-requests", wish(vehicle, from)).await
    }

    /// ann's rental and key of a new vehicle: `(vehicle, rental, key)`.
    async fn rental(&self, from: i64) -> (String, String, Value) {
        let vehicle = self.vehicle("auto").await;
        let request = self.request(&vehicle, from).await;
        (vehicle, text(&request, "rental_id"), request["key"].clone())
    }

    async fn card(&self, vehicle: Option<&str>) -> String {
        let id = self.fresh("card");
        self.must(
            "POST",
            "/v1/cards",
            json!({"card_id": id, "network_ref": format!("ic_{id}"), "vehicle_id": vehicle}),
        )
        .await;
        id
    }

    /// A purchase with a new card of the vehicle; its decision.
    async fn decision(&self, vehicle: &str) -> Value {
        let card = self.card(Some(vehicle)).await;
        let id = self.fresh("iauth");
        let now = kit::unix_now();
        let (status, answer) = self.gateway.stripe(&json!({
            "id": format!("evt_{id}"), "type": "issuing_authorization.request", "created": now,
            "data": {"object": {"id": id, "amount": 0, "currency": "eur", "created": now,
                "card": {"id": format!("ic_{card}"), "last4": "4242", "status": "active"},
                "merchant_data": {"category_code": "5542", "name": "pump", "network_id": "net", "terminal_id": "t1"},
                "pending_request": {"amount": 5_000, "currency": "eur", "is_amount_controllable": false}}}
        })).await;
        assert_eq!(status, 200, "{answer}");
        let found = async || {
            let (_, list) = self.gateway.get(&format!("/v1/decisions?card_id={card}")).await;
            list["items"].as_array().and_then(|items| items.first()).cloned()
        };
        until("the decision is listed", async || found().await.is_some()).await;
        found().await.expect("it was there")
    }

    /// A key that ann made of hers for a friend, as the gateway is told of it.
    fn delegation(&self, vehicle: &str, key: &Value) -> Value {
        let parent = token::decode(key["token"].as_str().expect("ann's token")).expect("a token");
        let now = Timestamp(i64::try_from(kit::unix_now()).expect("small") * 1_000);
        let grant = KeyGrant {
            key_id: KeyId(uuid::Uuid::now_v7()),
            holder_key: holder(&SigningKey::from_bytes(&[8; 32])),
            permits: Functions::NONE.with(Function::UnlockDoors),
            not_before: now,
            not_after: now.plus_ms(600_000),
            generation: 0,
            geofence: None,
            max_delegation: 0,
            max_speed_kmh: None,
        };
        let delegation = token::Delegation {
            parent: &parent,
            parent_key: &holder(&phone()),
            issuer: "ann",
            holder: "friend",
            vehicle: &vehicle.parse().expect("an id"),
            issued_at: now,
            grant: &grant,
        };
        json!({"token": token::delegate(&delegation, |message| phone().sign(message).to_bytes().to_vec())})
    }
}

/// What goes with a request.
enum Sent {
    Nothing,
    Json(Value),
    Text(&'static str, String),
    Upgrade,
}

fn wish(vehicle: &str, from: i64) -> Value {
    let HolderKey::Ed25519 { x } = holder(&phone()) else { unreachable!("it is one") };
    let x = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, x);
    json!({"vehicle_id": vehicle, "profile": "drive", "from": kit::rfc3339_in(60 * from), "renter": "ann",
        "until": kit::rfc3339_in(60 * from + 3_600), "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": x}})
}

/// Where the car is is never known here, and then the renter is asked.
fn rules(version: &str) -> String {
    let mut rules = kit::fixture("../config/card-rules.toml").parse::<toml::Table>().expect("TOML");
    rules.insert("version".into(), version.into());
    let location = rules["location"].as_table_mut().expect("a table");
    location.insert("unknown".into(), toml::Table::from_iter([("policy".to_owned(), "step_up".into())]).into());
    rules.to_string()
}

/// A certificate request for a car with a key of its own.
fn csr(vehicle: &str) -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, vehicle);
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

impl World {
    /// A thing of ann's that nobody asked for before, for one request to the operation: its path and what is sent.
    async fn thing(&self, operation: &str) -> (String, Sent) {
        let (method, path) = operation.split_once(' ').expect("a method and a path");
        let collection = path.split('/').nth(2).unwrap_or("");
        let is_one = path.contains('{');
        match collection {
            "vehicles" | "commands" if is_one => self.vehicle_thing(method, path).await,
            "usage-requests" | "rentals" | "keys" if is_one => self.lending_thing(operation, path).await,
            "api-keys" | "users" | "cards" | "stations" if is_one => self.row_thing(method, path, collection).await,
            "confirmations" | "decisions" | "alerts" if is_one => self.purchase_thing(method, path, collection).await,
            _ => self.new_thing(operation, path).await,
        }
    }

    async fn vehicle_thing(&self, method: &str, path: &str) -> (String, Sent) {
        if path == "/v1/commands/{id}" {
            let (_, _, key) = self.rental(-1).await;
            let action = format!("/v1/keys/{}/actions", text(&key, "key_id"));
            let command = self.must_as("ann", "POST", &action, json!({"function": "unlock_doors"})).await;
            return (path.replace("{id}", &text(&command, "command_id")), Sent::Nothing);
        }
        // ann has it: that alone shows her nothing of it.
        let (vehicle, _, _) = self.rental(-1).await;
        let sent = match (method, path) {
            ("POST", "/v1/vehicles/{id}/certificate") => Sent::Text("application/pkcs10", csr(&vehicle)),
            ("POST", "/v1/vehicles/{id}/enrolment-tokens") => Sent::Json(json!({})),
            ("POST", _) => Sent::Json(json!({"type": "lock"})),
            ("PATCH", _) => Sent::Json(json!({"name": "new"})),
            _ => Sent::Nothing,
        };
        (path.replace("{id}", &vehicle), sent)
    }

    async fn lending_thing(&self, operation: &str, path: &str) -> (String, Sent) {
        let at = |id: &str| path.replace("{id}", id);
        if path.starts_with("/v1/usage-requests") {
            let vehicle = self.vehicle("owner").await;
            return (at(&text(&self.request(&vehicle, 5).await, "request_id")), Sent::Nothing);
        }
        if path.starts_with("/v1/rentals") {
            // What has begun is ended, what has not is cancelled.
            let (_, rental, _) = self.rental(if path.ends_with("/cancel") { 30 } else { -1 }).await;
            let is_extended = path.ends_with("/extend");
            let sent = if is_extended { Sent::Json(json!({"until": kit::rfc3339_in(7_200)})) } else { Sent::Nothing };
            return (at(&rental), sent);
        }
        let (vehicle, _, key) = self.rental(-1).await;
        let id = text(&key, "key_id");
        match operation {
            "POST /v1/keys/{id}/actions" => (at(&id), Sent::Json(json!({"function": "unlock_doors"}))),
            "POST /v1/keys/{id}/delegations" => (at(&id), Sent::Json(self.delegation(&vehicle, &key))),
            "DELETE /v1/keys/{id}/delegations/{delegated}" => {
                let told = format!("/v1/keys/{id}/delegations");
                let delegated = self.must_as("ann", "POST", &told, self.delegation(&vehicle, &key)).await;
                (at(&id).replace("{delegated}", &text(&delegated, "key_id")), Sent::Nothing)
            }
            _ => (at(&id), Sent::Nothing),
        }
    }

    async fn row_thing(&self, method: &str, path: &str, collection: &str) -> (String, Sent) {
        let name = self.fresh("name");
        let (id, change) = match collection {
            "api-keys" => {
                let key = self.must("POST", "/v1/api-keys", json!({"name": name, "role": "auditor"})).await;
                (text(&key, "api_key_id"), Value::Null)
            }
            "users" => {
                let new = json!({"name": name, "role": "operator", "password": "correct horse battery"});
                (text(&self.must("POST", "/v1/users", new).await, "user_id"), json!({"role": "auditor"}))
            }
            "cards" => (self.card(None).await, json!({"status": "suspended"})),
            _ => {
                let station = self.must("POST", "/v1/stations", json!({"name": name})).await;
                (text(&station, "station_id"), json!({"brand": "Q8"}))
            }
        };
        (path.replace("{id}", &id), if method == "PATCH" { Sent::Json(change) } else { Sent::Nothing })
    }

    async fn purchase_thing(&self, method: &str, path: &str, collection: &str) -> (String, Sent) {
        let at = |id: &str| path.replace("{id}", id);
        if collection == "alerts" {
            // Nobody has this car: a purchase for it is declined, and people are told.
            let decision = self.decision(&self.vehicle("auto").await).await;
            return (at(&text(&decision, "alert_id")), Sent::Nothing);
        }
        let (vehicle, _, _) = self.rental(-1).await;
        let decision = self.decision(&vehicle).await;
        assert_eq!(decision["outcome"], "step_up", "{decision}");
        let is_word = method == "POST";
        (
            at(&text(&decision, "decision_id")),
            if is_word { Sent::Json(json!({"is_confirmed": true})) } else { Sent::Nothing },
        )
    }

    /// What needs no thing of ann's: lists, and what is made.
    async fn new_thing(&self, operation: &str, path: &str) -> (String, Sent) {
        let name = self.fresh("new");
        let body = match operation {
            "POST /v1/vehicles" => json!({"vehicle_id": name}),
            "POST /v1/commands" => json!({"vehicle_ids": [self.vehicle("auto").await], "type": "report_state"}),
            "POST /v1/usage-requests" => wish(&self.vehicle("auto").await, -1),
            "POST /v1/api-keys" => json!({"name": name, "role": "auditor"}),
            "POST /v1/users" => json!({"name": name, "role": "auditor", "password": "correct horse battery"}),
            "POST /v1/cards" => json!({"network_ref": name}),
            "POST /v1/stations" => json!({"name": name}),
            "POST /v1/card-rules" | "POST /v1/card-rules/try" => json!({"text": rules(&name)}),
            "POST /v1/notifications/test" => json!({"target": "nobody"}),
            "POST /v1/session" => json!({"api_key": self.keys["auditor"]}),
            "PUT /v1/session/password" => json!({"old": "wrong horse battery", "new": "correct horse battery"}),
            "POST /v1/stations/import" => {
                let columns = "?format=csv&columns=station_id:id,name:name,latitude:lat,longitude:lon";
                let file = format!("id;name;lat;lon\n{name};A;45.0;7.6\n");
                return (format!("{path}{columns}"), Sent::Text("text/csv", file));
            }
            "GET /v1/console" => return (path.into(), Sent::Upgrade),
            "GET /v1/decisions/export" => {
                return (format!("{path}?card_id={}", self.card(None).await), Sent::Nothing);
            }
            "DELETE /v1/sessions" => return (format!("{path}?subject=nobody"), Sent::Nothing),
            "POST /v1/audit/verification" => {
                let idle = async || self.gateway.get(path).await.1["state"] != "running";
                until("the verification before is over", idle).await;
                return (path.into(), Sent::Nothing);
            }
            "GET /v1/card-rules/{version}" => return ("/v1/card-rules/active".into(), Sent::Nothing),
            "GET /terminal/{file}" => return ("/terminal/terminal.js".into(), Sent::Nothing),
            "GET /console/{file}" | "GET /console/assets/{file}" => {
                return (path.replace("{file}", "nothing.js"), Sent::Nothing);
            }
            "POST /v1/notifications/dead/{id}/retry" => {
                return (path.replace("{id}", &uuid::Uuid::now_v7().to_string()), Sent::Nothing);
            }
            _ if operation.starts_with("POST /v1/payments/") => json!({}),
            _ => return (path.into(), Sent::Nothing),
        };
        (path.into(), Sent::Json(body))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_serves_whom_the_table_names_and_nobody_else() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for (operation, expected) in rows() {
        for (caller, expected) in CALLERS.into_iter().zip(expected) {
            let (path, sent) = world.thing(&operation).await;
            let method = operation.split(' ').next().expect("a method");
            let (status, answer) = world.ask(caller, method, &path, sent).await;
            if status != expected {
                wrong.push(format!("{operation} as {caller}: {status} instead of {expected}: {answer:.300}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_the_tables_operations_and_roles() {
    let gateway = Gateway::start().await;
    let (_, document) = gateway.get("/openapi.json").await;
    let mut rows = rows();
    let mut wrong = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let name = format!("{} {path}", method.to_uppercase());
            let Some(statuses) = rows.remove(&name) else {
                wrong.push(format!("{name} has no line in the table"));
                continue;
            };
            let status = |caller: &str| statuses[CALLERS.iter().position(|known| *known == caller).expect("a column")];
            let may = |caller: &str| ![401, 403].contains(&status(caller));
            let is_proved_otherwise = path.starts_with("/v1/payments/") || path.starts_with("/.well-known/est/");
            let told: BTreeSet<&str> =
                operation["x-roles"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let served: BTreeSet<&str> =
                ROLES.into_iter().filter(|(_, caller)| may(caller)).map(|(role, _)| role).collect();
            // Only what asks who calls has roles.
            let asks = status("nobody") == 401 && !is_proved_otherwise;
            if asks && told != served {
                wrong.push(format!("{name}: the document names {told:?}, the table {served:?}"));
            }
            if asks == told.is_empty() {
                wrong.push(format!("{name}: nobody gets {}, and the document names {told:?}", status("nobody")));
            }
        }
    }
    wrong.extend(rows.into_keys().map(|name| format!("{name} is in the table only")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table asks for one thing at a time; what a list holds is asked here.
#[tokio::test(flavor = "multi_thread")]
async fn a_renters_lists_hold_their_own_things_only() {
    let world = World::new().await;
    let (vehicle, _, key) = world.rental(-1).await;
    world.decision(&vehicle).await;
    let action = format!("/v1/keys/{}/actions", text(&key, "key_id"));
    world.must_as("ann", "POST", &action, json!({"function": "lock_doors"})).await;
    world.must("POST", &format!("/v1/vehicles/{vehicle}/commands"), json!({"type": "locate"})).await;
    let lists = [
        ("usage-requests", "renter"),
        ("rentals", "renter"),
        ("keys", "holder"),
        ("commands", ""),
        ("confirmations", ""),
    ];
    for (list, owner) in lists {
        let path = format!("/v1/{list}");
        let seen = async |caller: &str| {
            let (status, body) = world.ask(caller, "GET", &path, Sent::Nothing).await;
            assert_eq!(status, 200, "{body}");
            body["items"].as_array().expect("items").clone()
        };
        until("ann's thing is listed", async || !seen("ann").await.is_empty()).await;
        let items = seen("ann").await;
        assert!(owner.is_empty() || items.iter().all(|item| item[owner] == "ann"), "{list}: {items:?}");
        assert_eq!(seen("bob").await, [Value::Null; 0], "{list}");
        assert!(seen("admin").await.len() >= items.len(), "{list}");
        if list == "commands" {
            assert!(items.iter().all(|item| item["type"] != "locate"), "the operator's is not hers: {items:?}");
        }
    }
}
