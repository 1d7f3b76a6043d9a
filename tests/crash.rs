//! `kill -9` at 50 seeded moments under load: what a client was told is there afterwards, no car does anything twice,
//! and no refused purchase becomes an approved one.

mod kit;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use cardea::domain::CommandId;
use cardea_simulator::car::CarHandle;
use kit::{Gateway, PATIENCE, car, rfc3339_in, until};
use reqwest::Method;
use serde_json::{Value, json};

const ROUNDS: u64 = 50;
const CARS: [&str; 4] = ["CRASH-1", "CRASH-2", "CRASH-3", "CRASH-4"];

/// A seeded walk (xorshift64*): the moments of the kills, printed with the seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// Everything a client was told, by what it would ask again.
#[derive(Default)]
struct Told {
    /// Idempotency key -> (path, body, command id).
    commands: Mutex<BTreeMap<String, (String, Value, String)>>,
    /// Idempotency key -> (body, request, rental and key ids).
    rentals: Mutex<BTreeMap<String, (Value, [String; 3])>>,
    /// Authorization id -> (event, approved).
    purchases: Mutex<BTreeMap<String, (Value, bool)>>,
}

/// The answer, or `None` when the gateway died before it came.
async fn attempt(request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.ok()?))
}

async fn order(gateway: &Gateway, told: &Told, round: u64, nth: u64) {
    let (vehicle, kind) = (CARS[(nth % 4) as usize], if nth.is_multiple_of(2) { "lock" } else { "unlock" });
    let key = format!("order-{round}-{nth}");
    let path = format!("/v1/vehicles/{vehicle}/commands");
    let body = json!({"type": kind, "ttl_s": 3600});
    let request = gateway.request(Method::POST, &path).header("Idempotency-Key", &key).json(&body);
    if let Some((202, command)) = attempt(request).await {
        let id = command["command_id"].as_str().expect("an id").to_owned();
        told.commands.lock().expect("ours").insert(key, (path, body, id));
    }
}

/// Each rental has an hour of its own, so none is refused for another's sake.
async fn rent(gateway: &Gateway, told: &Told, round: u64, nth: u64) {
    let hour = i64::try_from(round * 8 + nth / 4).expect("small");
    let body = json!({
        "vehicle_id": CARS[(nth % 4) as usize], "profile": "cabin", "renter": "ann",
        "from": rfc3339_in(7_200 + hour * 3_600), "until": rfc3339_in(7_200 + hour * 3_600 + 1_800),
        "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    });
    let key = format!("rent-{round}-{nth}");
    let request = gateway.request(Method::POST, "/v1/usage-requests").header("Idempotency-Key", &key).json(&body);
    if let Some((201, usage)) = attempt(request).await {
        let ids = [&usage["request_id"], &usage["rental_id"], &usage["key"]["key_id"]];
        let ids = ids.map(|id| id.as_str().expect("an id").to_owned());
        told.rentals.lock().expect("ours").insert(key, (body, ids));
    }
}

/// CRASH-1 is rented by nobody, so its purchases are declined; the station stands beside CRASH-2, which is rented.
async fn buy(gateway: &Gateway, told: &Told, round: u64, nth: u64) {
    let card = if nth.is_multiple_of(2) { "ic_crash_1" } else { "ic_crash_2" };
    let id = format!("iauth_{round}_{nth}");
    let event = purchase(&id, card);
    if let Some((200, answer)) = attempt(stripe(gateway, &event)).await {
        // On two busy cores a record may come late. What the network hears then is not from the record, and the record
        // may say otherwise after a crash; this ledger is of what was recorded.
        if answer["metadata"]["outcome"] == "fallback" {
            assert_eq!(answer["approved"], false, "the configured fallback: {answer}");
            return;
        }
        let approved = answer["approved"].as_bool().expect("a verdict");
        assert_eq!(approved, card == "ic_crash_2", "{answer}");
        told.purchases.lock().expect("ours").insert(id, (event, approved));
    }
}

fn purchase(id: &str, card: &str) -> Value {
    json!({
        "id": format!("evt_{id}"), "type": "issuing_authorization.request", "created": kit::unix_now(),
        "data": {"object": {
            "id": id, "amount": 5000, "currency": "eur", "created": kit::unix_now(),
            "card": {"id": card, "last4": "4242", "status": "active"},
            "merchant_data": {"category": "automated_fuel_dispensers", "category_code": "5542", "name": "Pump",
                "network_id": "net-crash", "terminal_id": "t1", "country": "IT"},
            "pending_request": {"amount": 5000, "currency": "eur", "is_amount_controllable": true,
                "merchant_amount": 5000},
        }}
    })
}

fn stripe(gateway: &Gateway, event: &Value) -> reqwest::RequestBuilder {
    let body = event.to_string();
    let signature = kit::stripe_signature(kit::STRIPE_SECRET, kit::unix_now(), &body);
    let request = gateway.client.post(format!("{}/v1/payments/stripe", gateway.http));
    request.header("Stripe-Signature", signature).header("Content-Type", "application/json").body(body)
}

/// Everything told so far is still so, and asking again brings the same.
async fn check(gateway: &Gateway, told: &Told) {
    let commands = told.commands.lock().expect("ours").clone();
    for (key, (path, body, id)) in &commands {
        let (status, command) = gateway.get(&format!("/v1/commands/{id}")).await;
        assert_eq!(status, 200, "a promised command is gone: {command}");
        let (status, again) = gateway.post_with_key(path, key, body.clone()).await;
        assert_eq!((status, again["command_id"].as_str()), (202, Some(id.as_str())), "{again}");
    }
    let rentals = told.rentals.lock().expect("ours").clone();
    for (key, (body, [request, rental, key_id])) in &rentals {
        let (status, kept) = gateway.get(&format!("/v1/rentals/{rental}")).await;
        assert_eq!((status, kept["key_id"].as_str()), (200, Some(key_id.as_str())), "a promised rental: {kept}");
        let (status, kept) = gateway.get(&format!("/v1/keys/{key_id}")).await;
        assert_eq!(status, 200, "a promised key is gone: {kept}");
        let (status, again) = gateway.post_with_key("/v1/usage-requests", key, body.clone()).await;
        assert_eq!((status, again["request_id"].as_str()), (201, Some(request.as_str())), "{again}");
        // Room for the next rounds: a car has so many rentals open and no more.
        let (status, over) = gateway.post(&format!("/v1/rentals/{rental}/cancel"), json!({})).await;
        assert_eq!((status, over["state"].as_str()), (200, Some("cancelled")), "{over}");
    }
    let purchases = told.purchases.lock().expect("ours").clone();
    for (id, (event, approved)) in &purchases {
        let (status, again) = attempt(stripe(gateway, event)).await.expect("it runs");
        assert_eq!((status, again["approved"].as_bool()), (200, Some(*approved)), "{id}: {again}");
    }
}

async fn prepare(gateway: &Gateway) -> Vec<CarHandle> {
    let mut cars = Vec::new();
    for vehicle in CARS {
        gateway.register(vehicle).await;
        cars.push(car::connect(gateway, vehicle).await);
    }
    let position = json!({"latitude": 45.07, "longitude": 7.68});
    let station = json!({"station_id": "crash", "name": "Pump", "position": position,
        "terminals": [{"network_id": "net-crash", "terminal_id": "t1"}]});
    assert_eq!(gateway.post("/v1/stations", station).await.0, 201);
    for (card, vehicle) in [("ic_crash_1", "CRASH-1"), ("ic_crash_2", "CRASH-2")] {
        let body = json!({"network_ref": card, "vehicle_id": vehicle, "status": "active"});
        assert_eq!(gateway.post("/v1/cards", body).await.0, 201);
    }
    // The honest purchase: CRASH-2 is rented and stands at the station.
    let wish = json!({"vehicle_id": "CRASH-2", "profile": "drive", "renter": "bob",
        "from": rfc3339_in(0), "until": rfc3339_in(5_400),
        "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}});
    let (status, usage) = gateway.post("/v1/usage-requests", wish).await;
    assert_eq!(status, 201, "{usage}");
    until("the car's place is known", async || {
        gateway.get("/v1/vehicles/CRASH-2").await.1["signals"]["Vehicle.CurrentLocation.Latitude"].is_object()
    })
    .await;
    cars
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_promised_is_lost_doubled_or_turned_by_fifty_kills() {
    let seed = u64::from(std::process::id()) | 1;
    println!("seed {seed}");
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    // What is heard before it is on record is lost with a crash, and that is no part of this ledger.
    let listen = format!("mqtt.listen={port}");
    let sets = [listen.as_str(), "card_guard.while_store_is_away=fallback"];
    let mut gateway = Gateway::start_with(&sets).await;
    let cars = prepare(&gateway).await;
    let told = Told::default();
    let (mut all, mut purchases, mut rentals) = (Vec::new(), BTreeMap::new(), 0);
    for round in 0..ROUNDS {
        let moment = Duration::from_millis(20 + dice.below(300));
        let load = async {
            let orders = async {
                for nth in 0.. {
                    order(&gateway, &told, round, nth).await;
                }
            };
            let rentals = async {
                for nth in 0..8 {
                    rent(&gateway, &told, round, nth).await;
                }
            };
            let purchases = async {
                for nth in 0.. {
                    buy(&gateway, &told, round, nth).await;
                }
            };
            tokio::join!(orders, rentals, purchases);
        };
        // The kill falls into whatever is under way at that moment.
        let pid = gateway.pid();
        let killed = async {
            tokio::time::timeout(moment, std::future::pending::<()>()).await.expect_err("the moment comes");
            kit::signal(pid, "KILL");
        };
        tokio::select! {
            () = load => panic!("the load ends only with the gateway"),
            () = killed => {}
        }
        gateway.kill();
        gateway.launch().expect("it starts again");
        check(&gateway, &told).await;
        all.extend(std::mem::take(&mut *told.commands.lock().expect("ours")).into_values().map(|(_, _, id)| id));
        rentals += std::mem::take(&mut *told.rentals.lock().expect("ours")).len();
        purchases.append(&mut told.purchases.lock().expect("ours"));
    }
    // What was told in the first rounds has survived every later kill too.
    for id in &all {
        assert_eq!(gateway.get(&format!("/v1/commands/{id}")).await.0, 200, "a promised command is gone");
    }
    *told.purchases.lock().expect("ours") = purchases;
    check(&gateway, &told).await;
    let purchases = told.purchases.lock().expect("ours").len();
    println!("{} commands, {rentals} rentals and {purchases} purchases were promised", all.len());
    // Otherwise the rounds above have shown nothing.
    assert!(all.len() >= 100 && rentals >= 50 && purchases >= 100, "too little was promised");
    finish(&gateway, &cars, &all).await;
}

async fn finish(gateway: &Gateway, cars: &[CarHandle], promised: &[String]) {
    for (car, vehicle) in cars.iter().zip(CARS) {
        car.wait_connected(PATIENCE).await.expect("the car comes back");
        until("nothing is pending", async || {
            gateway.get(&format!("/v1/vehicles/{vehicle}")).await.1["pending_commands"] == 0
        })
        .await;
        let received: Vec<CommandId> = car.acks().iter().map(|ack| ack.command_id).collect();
        assert!(!received.is_empty(), "{vehicle} was asked to do something");
        for id in received {
            assert!(car.executions(id) <= 1, "{vehicle} did {id} {} times", car.executions(id));
        }
    }
    // The console tells the truth: what it calls done was done, and what it says never left was not.
    for id in promised {
        let state = gateway.command_state(id).await;
        let id: CommandId = id.parse().expect("an id");
        let executions: u32 = cars.iter().map(|car| car.executions(id)).sum();
        match state.as_str() {
            "succeeded" => assert_eq!(executions, 1, "{id} is called succeeded"),
            "superseded" | "expired" | "cancelled" => assert_eq!(executions, 0, "{id} is called {state}"),
            state => panic!("{id} is {state}, though nothing is pending and nothing failed"),
        }
    }
}
