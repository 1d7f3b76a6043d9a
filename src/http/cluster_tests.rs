//! Several gateways over one store: whoever may call one may call each, and whoever may not any more is kept out by all.

use std::sync::{Arc, Mutex};

use actix_web::http::Method as Verb;
use actix_web::test::{TestRequest, call_service, read_body_json};
use serde_json::{Value, json};

use super::access::api_keys::save_uses;
use super::access::tickets::IssuedTicket;
use super::testing::{MemoryStore, app_over, ask, bearer, service};
use super::{App, Revocation};
use crate::actors::follower::Follower;
use crate::config::Config;
use crate::domain::Role;
use crate::store::{Store, Table};

const PASSWORD: &str = "correct horse battery";

/// A gateway of a cluster whose follower is not running yet.
fn behind(store: &Arc<MemoryStore>) -> (App, Follower) {
    let mut config = Config::default();
    config.cluster.servers = vec!["tls://nats.example.org:4222".into()];
    let follower = Follower::new(store.clone());
    (app_over(config, store.clone(), follower.followed()), follower)
}

fn follow(app: &App, mut follower: Follower) {
    app.follow(&mut follower).unwrap();
    app.fleet.follow(&mut follower);
    actix_web::rt::spawn(follower.run());
}

fn node(store: &Arc<MemoryStore>) -> App {
    let (app, follower) = behind(store);
    follow(&app, follower);
    app
}

/// Until this gateway knows everything that is recorded.
async fn caught_up(app: &App) {
    assert!(app.access.followed.has(app.store.health().durable).await);
}

fn log_in() -> TestRequest {
    let body = json!({"user": "olga", "password": PASSWORD});
    TestRequest::post().uri("/v1/session").insert_header(("Host", "gateway:8443")).set_json(body)
}

fn with(cookie: &str, verb: Verb) -> TestRequest {
    TestRequest::default()
        .method(verb)
        .uri("/v1/session")
        .insert_header(("Host", "gateway:8443"))
        .insert_header(("Origin", "https://gateway:8443"))
        .insert_header(("Cookie", cookie.to_owned()))
}

macro_rules! logged_in {
    ($service:expr) => {{
        let answer = call_service(&$service, log_in().to_request()).await;
        assert_eq!(answer.status(), 201);
        let cookie = answer.headers().get("Set-Cookie").unwrap().to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }};
}

macro_rules! olga {
    ($service:expr) => {{
        let new = json!({"name": "olga", "role": "operator", "password": PASSWORD});
        let (status, body) = ask!($service, Role::Admin, POST "/v1/users", new, "make-olga");
        assert_eq!(status, 201, "{body}");
        format!("/v1/users/{}", body["user_id"].as_str().unwrap())
    }};
}

macro_rules! status {
    ($service:expr, $request:expr) => {
        call_service(&$service, $request.to_request()).await.status().as_u16()
    };
}

#[actix_web::test]
async fn a_log_in_at_one_gateway_is_one_at_each_and_so_is_its_end() {
    let store = Arc::default();
    let [a, b] = [node(&store), node(&store)];
    let (at_a, at_b) = (service!(a), service!(b));
    let olga = olga!(at_a);
    caught_up(&b).await;
    assert_eq!(olga!(at_b), olga, "the repeat gets the recorded answer from the other");
    let cookie = logged_in!(at_b);
    caught_up(&a).await;
    assert_eq!([status!(at_a, with(&cookie, Verb::GET)), status!(at_b, with(&cookie, Verb::GET))], [200, 200]);
    assert_eq!(status!(at_a, with(&cookie, Verb::DELETE)), 204);
    assert_eq!(status!(at_a, with(&cookie, Verb::GET)), 401);
    caught_up(&b).await;
    assert_eq!(status!(at_b, with(&cookie, Verb::GET)), 401);
    // Over, whatever older record comes: the next node starts from the store.
    caught_up(&a).await;
    assert_eq!(status!(at_a, with(&cookie, Verb::GET)), 401);

    let cookie = logged_in!(at_a);
    caught_up(&b).await;
    assert_eq!(ask!(at_b, Role::Admin, PATCH & olga, json!({"disabled": true})).0, 200);
    caught_up(&a).await;
    assert_eq!(status!(at_a, with(&cookie, Verb::GET)), 401);
    assert_eq!(status!(at_a, log_in()), 401);
    assert_eq!(ask!(at_a, Role::Admin, DELETE & olga).0, 204);
    caught_up(&b).await;
    assert_eq!(ask!(at_b, Role::Admin, PATCH & olga, json!({"disabled": false})).0, 404);
}

/// A log-in wrote the whole user: one at a gateway that did not know it yet undid what another had changed.
#[actix_web::test]
async fn a_log_in_at_a_gateway_that_is_behind_undoes_nothing() {
    let store = Arc::default();
    let a = node(&store);
    let at_a = service!(a);
    let olga = olga!(at_a);
    let (b, follower) = behind(&store);
    b.access.load(&*store, b.clock.now()).unwrap();
    let at_b = service!(b);
    assert_eq!(ask!(at_a, Role::Admin, PATCH & olga, json!({"disabled": true, "role": "auditor"})).0, 200);
    let cookie = logged_in!(at_b);
    let row = |store: &MemoryStore| -> Value {
        let id = olga.strip_prefix("/v1/users/").unwrap();
        serde_json::from_str(store.get(Table::Users, id).unwrap().unwrap().get()).unwrap()
    };
    assert_eq!((&row(&store)["disabled"], &row(&store)["role"]), (&json!(true), &json!("auditor")));
    follow(&b, follower);
    caught_up(&b).await;
    assert_eq!(status!(at_b, with(&cookie, Verb::GET)), 401);
    caught_up(&a).await;
    // Two changes of different things at the same time: both count.
    let (one, other) = futures_util::future::join(
        async { ask!(at_a, Role::Admin, PATCH & olga, json!({"disabled": false})) },
        async { ask!(at_b, Role::Admin, PATCH & olga, json!({"role": "admin"})) },
    )
    .await;
    assert_eq!((one.0, other.0), (200, 200));
    assert_eq!((&row(&store)["disabled"], &row(&store)["role"]), (&json!(false), &json!("admin")));
    let list = ask!(at_a, Role::Admin, GET "/v1/users").1;
    assert!(list["items"][0]["last_log_in_at"].is_string(), "{list}");
}

#[actix_web::test]
async fn an_api_key_opens_every_gateway_until_it_is_deleted_at_one_and_its_use_brings_it_back_nowhere() {
    let store = Arc::default();
    let [a, b] = [node(&store), node(&store)];
    let (at_a, at_b) = (service!(a), service!(b));
    let new = json!({"name": "app", "role": "operator"});
    let (status, key) = ask!(at_a, Role::Admin, POST "/v1/api-keys", new);
    assert_eq!(status, 201, "{key}");
    caught_up(&b).await;
    let asks = |path: &str| {
        let header = ("Authorization", format!("Bearer {}", key["api_key"].as_str().unwrap()));
        TestRequest::get().uri(path).insert_header(header)
    };
    assert_eq!([status!(at_a, asks("/v1/vehicles")), status!(at_b, asks("/v1/vehicles"))], [200, 200]);
    let path = format!("/v1/api-keys/{}", key["api_key_id"].as_str().unwrap());
    save_uses(&b).await.unwrap();
    caught_up(&a).await;
    let list = ask!(at_a, Role::Admin, GET "/v1/api-keys").1;
    assert!(list["items"][0]["last_used_at"].is_string(), "{list}");

    // The other one still knows it, and has a use to tell of.
    let (late, follower) = behind(&store);
    late.access.load(&*store, late.clock.now()).unwrap();
    let at_late = service!(late);
    late.clock.now();
    assert_eq!(ask!(at_a, Role::Admin, DELETE & path).0, 204);
    assert_eq!(status!(at_a, asks("/v1/vehicles")), 401);
    assert_eq!(status!(at_late, asks("/v1/vehicles")), 200, "it is behind");
    save_uses(&late).await.unwrap();
    follow(&late, follower);
    for app in [&a, &b, &late] {
        caught_up(app).await;
    }
    let statuses =
        [status!(at_a, asks("/")), status!(at_b, asks("/v1/vehicles")), status!(at_late, asks("/v1/vehicles"))];
    assert_eq!(statuses[1..], [401, 401]);
    assert_eq!(ask!(at_b, Role::Admin, GET "/v1/api-keys").1["items"], json!([]));
}

/// Without a WebSocket's handshake a good ticket gets as far as to be told so.
#[actix_web::test]
async fn a_console_ticket_of_one_gateway_opens_one_console_at_any_of_them() {
    let store = Arc::default();
    let [a, b] = [node(&store), node(&store)];
    let (at_a, at_b) = (service!(a), service!(b));
    let request = TestRequest::post().uri("/v1/console/tickets").insert_header(bearer(Role::Operator));
    let issued: IssuedTicket = read_body_json(call_service(&at_a, request.to_request()).await).await;
    let opens = || TestRequest::get().uri(&format!("/v1/console?ticket={}", issued.ticket));
    assert_eq!(status!(at_b, opens()), 400);
    assert_eq!([status!(at_b, opens()), status!(at_a, opens())], [401, 401]);
    // A store that takes nothing keeps nobody from looking; then it serves once at each.
    let request = TestRequest::post().uri("/v1/console/tickets").insert_header(bearer(Role::Operator));
    let issued: IssuedTicket = read_body_json(call_service(&at_a, request.to_request()).await).await;
    let opens = || TestRequest::get().uri(&format!("/v1/console?ticket={}", issued.ticket));
    store.refuse(Some("full"));
    assert_eq!([status!(at_b, opens()), status!(at_b, opens())], [400, 401]);
}

#[actix_web::test]
async fn a_revocation_at_one_gateway_is_in_force_at_the_other_and_ends_a_session_once() {
    let store = Arc::default();
    let a = node(&store);
    let (mut b, follower) = behind(&store);
    let revoked: Arc<Mutex<Vec<Revocation>>> = Arc::default();
    let told = Arc::clone(&revoked);
    b.certificates.revoke = Arc::new(move |revocation| {
        told.lock().unwrap().push(revocation);
        Box::pin(std::future::ready(Ok(())))
    });
    follow(&b, follower);
    let at_a = service!(a);
    let (status, body) = ask!(at_a, Role::Admin, POST "/v1/vehicles", json!({"vehicle_id": "WVW-1"}));
    assert_eq!(status, 201, "{body}");
    caught_up(&b).await;
    assert!(b.fleet.is_registered(&"WVW-1".parse().unwrap()));
    assert_eq!(ask!(at_a, Role::Admin, DELETE "/v1/vehicles/WVW-1/certificate").0, 200);
    // Changes the same row, and revokes nothing.
    let (status, body) = ask!(at_a, Role::Admin, DELETE "/v1/vehicles/WVW-1/enrolment-tokens");
    assert_eq!(status, 204, "{body}");
    caught_up(&b).await;
    tokio::task::yield_now().await;
    let revoked = revoked.lock().unwrap();
    assert_eq!(revoked.iter().map(|revocation| revocation.vehicle.as_str()).collect::<Vec<_>>(), ["WVW-1"]);
}
