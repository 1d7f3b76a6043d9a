//! The console's WebSocket over a real socket: what the contract says of each frame, and what an unfriendly console gets.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::{HttpServer, web};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::App;
use super::access::api_keys::ApiKey;
use super::access::sha256;
use super::testing::{NOW_MS, app_with, bearer};
use crate::actors::feed::{AlertChanged, Attach, DecisionMade, Poke, VehicleChanged};
use crate::actors::vehicle::{Ask, Snapshot};
use crate::config::Config;
use crate::domain::twin::{SignalValue, Twin, path};
use crate::domain::vehicle::{Details, Request, Vehicle};
use crate::domain::{AlertId, ApiKeyId, Principal, Role, Timestamp, VehicleId};

const LIMIT: Duration = Duration::from_secs(10);

struct Gateway {
    app: App,
    address: String,
    /// Watches throughout, so that the feed keeps what the tests tell it.
    _audience: Addr<Deaf>,
}

/// A console of the feed that never asks.
struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<Poke> for Deaf {
    type Result = ();

    fn handle(&mut self, _: Poke, _: &mut Self::Context) {}
}

async fn serve(config: Config) -> Gateway {
    let (app, _) = app_with(config);
    let data = web::Data::new(app.clone());
    let server = HttpServer::new(move || actix_web::App::new().app_data(data.clone()).configure(super::routes))
        .workers(1)
        .bind(("127.0.0.1", 0))
        .unwrap();
    let address = server.addrs()[0].to_string();
    actix_web::rt::spawn(server.run());
    let audience = Deaf.start();
    app.feed.send(Attach(audience.clone().recipient())).await.unwrap();
    Gateway { app, address, _audience: audience }
}

struct Console(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Gateway {
    async fn connect(&self, query: &str, headers: &[(&'static str, String)]) -> Result<Console, u16> {
        let mut request = format!("ws://{}/v1/console{query}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Console(socket)),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn watch(&self, role: Role) -> Console {
        self.connect("", &[bearer(role)]).await.unwrap_or_else(|status| panic!("{status}"))
    }

    async fn vehicle(&self, id: &str, speed: f64) {
        self.app.feed.send(VehicleChanged(state(id, 45.0, speed))).await.unwrap();
    }
}

fn state(id: &str, latitude: f64, speed: f64) -> Arc<Snapshot> {
    let now = Timestamp(NOW_MS);
    let mut twin = Twin::new(now);
    for (path, value) in [(path::LATITUDE, latitude), (path::LONGITUDE, 7.0), (path::SPEED_KMH, speed)] {
        twin.note(path, SignalValue::Number(value), now);
    }
    Arc::new(Snapshot::new(now, Vehicle::new(id.parse().unwrap()), twin))
}

impl Console {
    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next frame; pings are answered by the library meanwhile.
    async fn hear(&mut self) -> Value {
        loop {
            match tokio::time::timeout(LIMIT, self.0.next()).await.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn hear_and_ack(&mut self) -> Value {
        let frame = self.hear().await;
        self.say(json!({"type": "ack", "seq": frame["seq"]})).await;
        frame
    }

    async fn hear_close(&mut self) -> CloseCode {
        loop {
            match tokio::time::timeout(LIMIT, self.0.next()).await.expect("a close in time") {
                Some(Ok(Message::Close(reason))) => return reason.unwrap().code,
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(400), self.0.next()).await.is_err()
    }
}

fn ids(frame: &Value) -> Vec<&str> {
    frame["vehicles"].as_array().unwrap().iter().map(|vehicle| vehicle["vehicle_id"].as_str().unwrap()).collect()
}

#[actix_web::test]
async fn a_console_gets_a_snapshot_and_then_each_newest_state_once_it_acknowledged() {
    let gateway = serve(Config::default()).await;
    gateway.vehicle("A", 1.0).await;
    let mut console = gateway.watch(Role::Auditor).await;
    let snapshot = console.hear().await;
    assert_eq!((&snapshot["type"], ids(&snapshot)), (&json!("snapshot"), vec!["A"]));
    assert_eq!(snapshot["alerts"], json!([]));
    assert_eq!(snapshot["vehicles"][0]["signals"][path::SPEED_KMH]["value"], 1.0);

    for speed in [2.0, 3.0, 4.0] {
        gateway.vehicle("A", speed).await;
    }
    assert!(console.is_quiet().await, "nothing before the acknowledgement");
    console.say(json!({"type": "ack", "seq": snapshot["seq"]})).await;
    let changes = console.hear_and_ack().await;
    assert_eq!(changes["type"], "changes");
    assert_eq!(changes["vehicles"].as_array().unwrap().len(), 1);
    assert_eq!(changes["vehicles"][0]["signals"][path::SPEED_KMH]["value"], 4.0, "the newest state only");
    assert!(changes["seq"].as_u64() > snapshot["seq"].as_u64());

    let body = |text: &str| Arc::from(serde_json::value::to_raw_value(&json!({ "text": text })).unwrap());
    let alert = AlertChanged { id: AlertId(uuid::Uuid::nil()), open: true, body: body("alert") };
    gateway.app.feed.send(alert).await.unwrap();
    gateway.app.feed.send(DecisionMade(body("one"))).await.unwrap();
    gateway.app.feed.send(DecisionMade(body("two"))).await.unwrap();
    let (mut alerts, mut decisions) = (Vec::new(), Vec::new());
    while decisions.len() < 2 {
        let frame = console.hear_and_ack().await;
        alerts.extend(frame["alerts"].as_array().unwrap().clone());
        decisions.extend(frame["decisions"].as_array().unwrap().clone());
    }
    assert_eq!(alerts, [json!({"text": "alert"})]);
    assert_eq!(decisions, [json!({"text": "one"}), json!({"text": "two"})]);
}

#[actix_web::test]
async fn a_lost_connection_is_resumed_without_a_gap_or_started_over() {
    let gateway = serve(Config::default()).await;
    gateway.vehicle("A", 1.0).await;
    gateway.vehicle("B", 1.0).await;
    let mut first = gateway.watch(Role::Operator).await;
    let snapshot = first.hear_and_ack().await;
    drop(first);
    gateway.vehicle("B", 2.0).await;
    for (resume, kind, expected) in [
        (json!({"type": "resume", "after": snapshot["seq"], "stream": snapshot["stream"]}), "changes", vec!["B"]),
        (json!({"type": "resume", "after": snapshot["seq"]}), "changes", vec!["B"]),
        (json!({"type": "resume", "after": 7}), "snapshot", vec!["A", "B"]),
        (json!({"type": "resume", "after": snapshot["seq"], "stream": uuid::Uuid::nil()}), "snapshot", vec!["A", "B"]),
    ] {
        let mut again = gateway.watch(Role::Operator).await;
        again.say(resume.clone()).await;
        let frame = again.hear_and_ack().await;
        assert_eq!((frame["type"].as_str().unwrap(), ids(&frame)), (kind, expected), "{resume}");
    }
}

#[actix_web::test]
async fn a_subscription_starts_over_with_what_it_asks_for() {
    let gateway = serve(Config::default()).await;
    gateway.vehicle("A", 1.0).await;
    gateway.app.feed.send(VehicleChanged(state("FAR", 10.0, 1.0))).await.unwrap();
    let mut console = gateway.watch(Role::Operator).await;
    assert_eq!(ids(&console.hear_and_ack().await).len(), 2);
    console.say(json!({"type": "subscribe", "area": [44.0, 6.0, 46.0, 8.0], "id": 1})).await;
    assert_eq!(console.hear().await, json!({"type": "reply", "id": 1, "ok": true}));
    let frame = console.hear_and_ack().await;
    assert_eq!((frame["type"].as_str().unwrap(), ids(&frame)), ("snapshot", vec!["A"]));
    console.say(json!({"type": "subscribe", "vehicles": ["FAR"]})).await;
    assert_eq!(ids(&console.hear_and_ack().await), ["FAR"]);
    console.say(json!({"type": "subscribe", "area": [1, 2, 0, 3], "id": "x"})).await;
    let reply = console.hear().await;
    assert_eq!((&reply["id"], &reply["ok"], &reply["problem"]["field"]), (&json!("x"), &json!(false), &json!("area")));
}

#[actix_web::test]
async fn vehicles_come_in_short_where_that_is_asked_for_and_whole_where_a_console_looks_closer() {
    let gateway = serve(Config::default()).await;
    gateway.vehicle("A", 1.0).await;
    gateway.vehicle("B", 1.0).await;
    let mut console = gateway.watch(Role::Operator).await;
    console.say(json!({"type": "subscribe", "form": "summary"})).await;
    let snapshot = console.hear_and_ack().await;
    assert_eq!(ids(&snapshot), ["A", "B"]);
    let short = &snapshot["vehicles"][0];
    assert_eq!(
        (&short["summary"], &short["speed"]["kmh"], &short["signals"]),
        (&json!(true), &json!(1.0), &Value::Null)
    );

    console.say(json!({"type": "detail", "vehicles": ["B"], "id": 7})).await;
    let reply = console.hear().await;
    assert_eq!((&reply["type"], &reply["id"], &reply["ok"]), (&json!("reply"), &json!(7), &json!(true)));
    gateway.vehicle("A", 2.0).await;
    gateway.vehicle("B", 2.0).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(console.hear_and_ack().await["vehicles"].as_array().unwrap().clone());
    }
    assert_eq!(seen.iter().map(|vehicle| vehicle["summary"] == true).collect::<Vec<_>>(), [true, false], "{seen:?}");
    assert_eq!(seen[1]["signals"][path::SPEED_KMH]["value"], 2.0);

    let many: Vec<String> = (0..51).map(|number| format!("V-{number}")).collect();
    console.say(json!({"type": "detail", "vehicles": many, "id": 8})).await;
    assert_eq!(console.hear().await["problem"]["type"], "urn:cardea:problem:invalid");

    // One that comes back goes on in short, and one that says nothing gets them whole as ever.
    gateway.vehicle("A", 3.0).await;
    let resume = json!({"type": "resume", "after": snapshot["seq"], "stream": snapshot["stream"], "form": "summary"});
    let mut again = gateway.watch(Role::Operator).await;
    again.say(resume).await;
    let frame = again.hear_and_ack().await;
    assert_eq!((&frame["type"], &frame["vehicles"][0]["summary"]), (&json!("changes"), &json!(true)), "{frame}");
    let whole = gateway.watch(Role::Operator).await.hear().await;
    assert!(whole["vehicles"][0]["signals"].is_object());
}

#[actix_web::test]
async fn a_console_whose_operator_has_another_role_by_now_orders_nothing() {
    let gateway = serve(Config::default()).await;
    gateway.vehicle("A", 1.0).await;
    let mut console = gateway.watch(Role::Operator).await;
    console.hear_and_ack().await;
    let key = |role| ApiKey {
        api_key_id: ApiKeyId(uuid::Uuid::from_u128(77)),
        name: "olga".into(),
        role,
        subject: "operator".into(),
        sha256: hex::encode(sha256(b"ck_test-Operator")),
        created_at: Timestamp(NOW_MS),
        scopes: None,
        expires_at: None,
        last_used_at: None,
    };
    gateway.app.access.api_keys.insert(&key(Role::Auditor));
    console.say(json!({"type": "command", "id": 1, "vehicle_id": "A", "command": {"type": "unlock"}})).await;
    assert_eq!(console.hear_close().await, CloseCode::Policy);
}

#[actix_web::test]
async fn a_console_commands_in_its_operators_name_and_an_auditor_does_not() {
    let gateway = serve(Config::default()).await;
    let by = Principal::new(Role::Admin, "admin");
    let request = Request::Register { details: Details::default(), by: by.clone() };
    let vehicle: VehicleId = "CAR-1".parse().unwrap();
    gateway.app.fleet.ask(&vehicle, Ask { request, by, idempotency: None }).await.unwrap();
    let lock = |id: Value, vehicle: &str| json!({"type": "command", "id": id, "vehicle_id": vehicle, "command": {"type": "lock", "ttl_s": 60}});

    let mut operator = gateway.watch(Role::Operator).await;
    operator.hear_and_ack().await;
    operator.say(lock(json!(7), "CAR-1")).await;
    let reply = operator.hear().await;
    assert_eq!((&reply["type"], &reply["id"], &reply["ok"]), (&json!("reply"), &json!(7), &json!(true)), "{reply}");
    let command = &reply["command"];
    assert_eq!((&command["type"], &command["vehicle_id"]), (&json!("lock"), &json!("CAR-1")));
    assert_eq!(command["state"], "queued", "the car is offline and nobody claims otherwise");

    operator.say(lock(json!("b"), "NOBODY")).await;
    let reply = operator.hear().await;
    assert_eq!((&reply["id"], &reply["ok"]), (&json!("b"), &json!(false)));
    assert_eq!(reply["problem"]["type"], "urn:cardea:problem:not-found");

    let mut auditor = gateway.watch(Role::Auditor).await;
    auditor.hear_and_ack().await;
    auditor.say(lock(json!(8), "CAR-1")).await;
    assert_eq!(auditor.hear().await["problem"]["type"], "urn:cardea:problem:forbidden");
}

#[actix_web::test]
async fn only_a_watcher_from_our_own_page_gets_in() {
    let mut config = Config::default();
    config.http.max_consoles = 1;
    let gateway = serve(config).await;
    let refused = |answer: Result<Console, u16>| answer.err();
    assert_eq!(refused(gateway.connect("", &[]).await), Some(401));
    assert_eq!(refused(gateway.connect("", &[bearer(Role::Renter)]).await), Some(403));
    assert_eq!(refused(gateway.connect("?ticket=ct_no", &[]).await), Some(401));
    let foreign = ("Origin", "https://evil.example".to_owned());
    assert_eq!(refused(gateway.connect("", &[bearer(Role::Admin), foreign]).await), Some(403));

    let issued = post(&gateway, "/v1/console/tickets").await;
    let ticket = format!("?ticket={}", issued["ticket"].as_str().unwrap());
    let mut console = gateway.connect(&ticket, &[]).await.unwrap_or_else(|status| panic!("{status}"));
    assert_eq!(console.hear().await["type"], "snapshot");
    assert_eq!(refused(gateway.connect(&ticket, &[]).await), Some(401), "a ticket serves once");
    assert_eq!(refused(gateway.connect("", &[bearer(Role::Admin)]).await), Some(429), "one seat, one console");
    assert_eq!(gateway.app.consoles.counters.refused.get(), 1);
    drop(console);
    let given_back = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while gateway.app.consoles.count() > 0 {
            looks.tick().await;
        }
    };
    tokio::time::timeout(LIMIT, given_back).await.expect("the seat is given back");
}

/// A POST as the admin, by hand.
async fn post(gateway: &Gateway, path: &str) -> Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(&gateway.address).await.unwrap();
    let (name, value) = bearer(Role::Admin);
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

#[actix_web::test]
async fn nonsense_is_answered_and_too_much_of_it_ends_the_session() {
    let gateway = serve(Config::default()).await;
    let mut console = gateway.watch(Role::Operator).await;
    console.hear_and_ack().await;
    let mut expected = vec![
        (json!({"type": "ack", "seq": u64::MAX}), json!(null)),
        (json!({"type": "dance", "id": 3}), json!(3)),
        (json!({"type": "command", "id": 4, "vehicle_id": "../x", "command": {"type": "lock"}}), json!(4)),
        (json!({"type": "command", "id": 5, "vehicle_id": "X", "command": {"type": "lock", "colour": 1}}), json!(5)),
        (json!({"type": "ping", "id": "x".repeat(200)}), json!(null)),
        (json!([1, 2]), json!(null)),
    ];
    expected.extend((6..16).map(|id| (json!({"id": id}), json!(id))));
    for (frame, id) in expected {
        console.say(frame.clone()).await;
        let reply = console.hear().await;
        assert_eq!((&reply["type"], &reply["id"], &reply["ok"]), (&json!("reply"), &id, &json!(false)), "{frame}");
        assert_eq!(reply["problem"]["type"], "urn:cardea:problem:invalid", "{frame}");
    }
    assert_eq!(console.hear_close().await, CloseCode::Policy);
    assert_eq!(gateway.app.consoles.counters.malformed.get(), 16);
}

#[actix_web::test]
async fn what_is_not_one_text_frame_of_bounded_size_ends_the_session() {
    let gateway = serve(Config::default()).await;
    let long = format!("{{\"type\":\"ack\",\"seq\":{}1}}", " ".repeat(60_000));
    for (message, code) in
        [(Message::binary(vec![1, 2, 3]), CloseCode::Unsupported), (Message::text(long), CloseCode::Size)]
    {
        let mut console = gateway.watch(Role::Operator).await;
        console.0.send(message).await.unwrap();
        assert_eq!(console.hear_close().await, code);
    }
}

#[actix_web::test]
async fn a_flood_of_frames_ends_the_session_and_only_that() {
    let gateway = serve(Config::default()).await;
    let mut calm = gateway.watch(Role::Operator).await;
    calm.hear_and_ack().await;
    let mut wild = gateway.watch(Role::Operator).await;
    for id in 0..400 {
        if wild.0.send(Message::text(json!({"type": "ping", "id": id}).to_string())).await.is_err() {
            break;
        }
    }
    assert_eq!(wild.hear_close().await, CloseCode::Policy);
    calm.say(json!({"type": "ping", "id": "still"})).await;
    let reply = calm.hear().await;
    assert_eq!((&reply["id"], &reply["ok"], reply["at"].is_string()), (&json!("still"), &json!(true), true));
}
