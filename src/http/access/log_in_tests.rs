//! Logging in and out through the whole route table: by API key, by password, and what stays after a restart.

use actix_web::dev::ServiceResponse;
use actix_web::http::Method as Verb;
use actix_web::test::{TestRequest, call_service, read_body_json};
use serde_json::{Value, json};

use super::super::testing::{NOW_MS, app, ask, service, slug};
use super::log_in::LoggedIn;
use super::{Access, App};
use crate::domain::{Role, Timestamp};

const PASSWORD: &str = "correct horse battery";

fn log_in(body: &Value) -> TestRequest {
    TestRequest::post().uri("/v1/session").insert_header(("Host", "gateway:8443")).set_json(body)
}

fn with_key(key: &str) -> TestRequest {
    log_in(&json!({ "api_key": key }))
}

fn with_password(user: &str, password: &str, address: &str) -> TestRequest {
    log_in(&json!({"user": user, "password": password})).peer_addr(address.parse().unwrap())
}

/// From our own page, with the cookies' pairs.
fn by(cookies: &[String], verb: Verb, path: &str) -> TestRequest {
    let pairs: Vec<&str> = cookies.iter().map(|cookie| cookie.split(';').next().unwrap()).collect();
    TestRequest::default()
        .method(verb)
        .uri(path)
        .insert_header(("Host", "gateway:8443"))
        .insert_header(("Origin", "https://gateway:8443"))
        .insert_header(("Cookie", format!("other=1; {}", pairs.join("; "))))
}

fn cookies(answer: &ServiceResponse) -> Vec<String> {
    answer.headers().get_all("Set-Cookie").map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn reads(cookies: &[String]) -> TestRequest {
    by(cookies, Verb::GET, "/v1/session")
}

#[actix_web::test]
async fn a_session_stands_for_its_key_until_it_is_closed() {
    let (app, _) = app();
    let service = service!(app);
    let answer = call_service(&service, with_key("ck_test-Operator").to_request()).await;
    assert_eq!(answer.status(), 201);
    let cookie = cookies(&answer);
    let end = "; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict";
    assert!(cookie.len() == 1 && cookie[0].starts_with("__Host-") && cookie[0].ends_with(end), "{cookie:?}");
    assert_eq!(read_body_json::<LoggedIn, _>(answer).await.subject, "operator");
    let answer = call_service(&service, reads(&cookie).to_request()).await;
    assert_eq!(read_body_json::<LoggedIn, _>(answer).await.role, Role::Operator);
    let delete = by(&cookie, Verb::DELETE, "/v1/session");
    assert_eq!(call_service(&service, delete.to_request()).await.status(), 204);
    assert_eq!(call_service(&service, reads(&cookie).to_request()).await.status(), 401);
}

#[actix_web::test]
async fn a_session_changes_nothing_for_a_foreign_page() {
    let (app, _) = app();
    let service = service!(app);
    let cookie = cookies(&call_service(&service, with_key("ck_test-Admin").to_request()).await);
    let pair = cookie[0].split(';').next().unwrap();
    for origin in [None, Some("https://evil.example"), Some("http://gateway:8443"), Some("null")] {
        let mut request = TestRequest::post().uri("/v1/console/tickets").insert_header(("Host", "gateway:8443"));
        request = request.insert_header(("Cookie", pair));
        if let Some(origin) = origin {
            request = request.insert_header(("Origin", origin));
        }
        assert_eq!(call_service(&service, request.to_request()).await.status(), 403, "{origin:?}");
    }
    let own = by(&cookie, Verb::POST, "/v1/console/tickets");
    assert_eq!(call_service(&service, own.to_request()).await.status(), 201);
}

#[actix_web::test]
async fn an_unknown_key_or_a_foreign_page_does_not_log_in_and_a_renter_sees_only_their_own() {
    let (app, _) = app();
    let service = service!(app);
    assert_eq!(call_service(&service, with_key("ck_nobody").to_request()).await.status(), 401);
    for body in
        [json!({}), json!({"user": "olga"}), json!({"api_key": "ck_test-Admin", "user": "olga", "password": "x"})]
    {
        assert_eq!(call_service(&service, log_in(&body).to_request()).await.status(), 400, "{body}");
    }
    let renter = cookies(&call_service(&service, with_key("ck_test-Renter").to_request()).await);
    for (path, status) in [("/v1/rentals", 200), ("/v1/vehicles", 403), ("/v1/users", 403), ("/v1/console", 403)] {
        assert_eq!(call_service(&service, by(&renter, Verb::GET, path).to_request()).await.status(), status, "{path}");
    }
    let foreign = with_key("ck_test-Admin").insert_header(("Origin", "https://evil.example"));
    assert_eq!(call_service(&service, foreign.to_request()).await.status(), 403);
}

/// Makes olga, an operator; `(id, the list's view of her)`.
macro_rules! olga {
    ($service:expr) => {{
        let new = json!({"name": "olga", "role": "operator", "password": PASSWORD});
        let (status, body) = ask!($service, Role::Admin, POST "/v1/users", new, "make-olga");
        assert_eq!(status, 201, "{body}");
        (body["user_id"].as_str().unwrap().to_owned(), body)
    }};
}

#[actix_web::test]
async fn a_user_is_made_once_and_their_password_is_nowhere() {
    let (app, store) = app();
    let service = service!(app);
    let (id, first) = olga!(service);
    assert_eq!(olga!(service), (id.clone(), first.clone()), "the repeat has the same answer");
    let new = |name: &str, password: &str| json!({"name": name, "role": "auditor", "password": password});
    for (body, key, status, what) in [
        (new("OLGA", PASSWORD), "", 409, "conflict"),
        (new("olga", PASSWORD), "make-olga", 422, "duplicate-key-reuse"),
        (new("otto", "too short"), "", 400, "invalid"),
        (new("otto", "Otto's password"), "", 400, "invalid"),
        (new("", PASSWORD), "", 400, "invalid"),
    ] {
        let (got, problem) = ask!(service, Role::Admin, POST "/v1/users", body.clone(), key);
        assert_eq!((got, slug(&problem)), (status, what), "{body}");
    }
    let (_, list) = ask!(service, Role::Auditor, GET "/v1/users");
    assert_eq!(list["items"], json!([first]));
    for (role, status) in [(Role::Operator, 403), (Role::Renter, 403), (Role::Auditor, 403)] {
        assert_eq!(ask!(service, role, POST "/v1/users", new("otto", PASSWORD)).0, status, "{role:?}");
        assert_eq!(ask!(service, role, DELETE format!("/v1/users/{id}")).0, status, "{role:?}");
    }
    assert!(!store.everything().contains(PASSWORD));
}

#[actix_web::test]
async fn a_password_opens_a_session_and_its_change_ends_the_others() {
    let (app, _) = app();
    let service = service!(app);
    let (id, _) = olga!(service);
    let enter = |password: &'static str| with_password("Olga", password, "192.0.2.1:9").to_request();
    let first = call_service(&service, enter(PASSWORD)).await;
    assert_eq!(first.status(), 201);
    let first = cookies(&first);
    let second = cookies(&call_service(&service, enter(PASSWORD)).await);
    let (_, list) = ask!(service, Role::Admin, GET "/v1/users");
    assert!(list["items"][0]["last_log_in_at"].is_string());
    let change = |old: &str, new: &str| {
        let body = json!({"old": old, "new": new});
        by(&first, Verb::PUT, "/v1/session/password").set_json(body).to_request()
    };
    assert_eq!(call_service(&service, change("not my password", "another password")).await.status(), 400);
    assert_eq!(call_service(&service, change(PASSWORD, "short")).await.status(), 400);
    assert_eq!(call_service(&service, change(PASSWORD, "another password")).await.status(), 204);
    assert_eq!(call_service(&service, reads(&first).to_request()).await.status(), 200, "the one in hand stays");
    assert_eq!(call_service(&service, reads(&second).to_request()).await.status(), 401);
    assert_eq!(call_service(&service, enter(PASSWORD)).await.status(), 401);
    assert_eq!(call_service(&service, enter("another password")).await.status(), 201);

    let path = format!("/v1/users/{id}");
    let (status, body) = ask!(service, Role::Admin, PATCH path, json!({"role": "auditor"}));
    assert_eq!((status, body["role"].as_str()), (200, Some("auditor")));
    let answer = call_service(&service, reads(&first).to_request()).await;
    assert_eq!(read_body_json::<LoggedIn, _>(answer).await.role, Role::Auditor, "at once");
    assert_eq!(ask!(service, Role::Admin, PATCH path, json!({"disabled": true})).0, 200);
    assert_eq!(call_service(&service, reads(&first).to_request()).await.status(), 401);
    assert_eq!(call_service(&service, enter("another password")).await.status(), 401);
    assert_eq!(ask!(service, Role::Admin, PATCH path, json!({"disabled": false})).0, 200);
    let again = call_service(&service, enter("another password")).await;
    assert_eq!(again.status(), 201);
    assert_eq!(ask!(service, Role::Admin, DELETE path).0, 204);
    assert_eq!(call_service(&service, reads(&cookies(&again)).to_request()).await.status(), 401);
    assert_eq!(ask!(service, Role::Admin, DELETE path).0, 404);
    let key = cookies(&call_service(&service, with_key("ck_test-Admin").to_request()).await);
    let body = json!({"old": PASSWORD, "new": "another password"});
    let request = by(&key, Verb::PUT, "/v1/session/password").set_json(body).to_request();
    assert_eq!(call_service(&service, request).await.status(), 409, "a key has no password");
}

#[actix_web::test]
async fn an_admin_cannot_take_their_own_rights() {
    let (app, _) = app();
    let service = service!(app);
    let new = json!({"name": "ada", "role": "admin", "password": PASSWORD});
    let (_, ada) = ask!(service, Role::Admin, POST "/v1/users", new);
    let path = format!("/v1/users/{}", ada["user_id"].as_str().unwrap());
    let session = cookies(&call_service(&service, with_password("ada", PASSWORD, "192.0.2.1:9").to_request()).await);
    for (verb, body) in [
        (Verb::PATCH, json!({"disabled": true})),
        (Verb::PATCH, json!({"role": "operator"})),
        (Verb::PATCH, json!({"password": "without the old one"})),
        (Verb::DELETE, Value::Null),
    ] {
        let request = by(&session, verb, &path).set_json(&body).to_request();
        assert_eq!(call_service(&service, request).await.status(), 409, "{body}");
    }
    let renamed = by(&session, Verb::PATCH, &path).set_json(json!({"role": "admin"})).to_request();
    assert_eq!(call_service(&service, renamed).await.status(), 200);
}

#[actix_web::test]
async fn who_guesses_is_slowed_down_and_the_user_s_own_browser_is_not() {
    let (app, _) = app();
    let service = service!(app);
    olga!(service);
    let enter = |password: &'static str, address: &str| with_password("olga", password, address);
    let known = cookies(&call_service(&service, enter(PASSWORD, "192.0.2.1:9").to_request()).await);
    let mut statuses = Vec::new();
    for last in 1..=12 {
        let address = format!("198.51.100.{last}:9");
        statuses.push(call_service(&service, enter("wrong password", &address).to_request()).await.status().as_u16());
    }
    assert_eq!(statuses, [vec![401; 10], vec![429; 2]].concat());
    let right = call_service(&service, enter(PASSWORD, "203.0.113.1:9").to_request()).await;
    assert_eq!(right.status(), 429, "a stranger with the right password waits too");
    assert!(right.headers().contains_key("Retry-After"));
    let device = known.iter().find(|cookie| cookie.starts_with("__Host-cardea-device-")).expect("a device cookie");
    let pair = device.split(';').next().unwrap().to_owned();
    let own = enter(PASSWORD, "198.51.100.1:9").insert_header(("Cookie", pair.clone()));
    assert_eq!(call_service(&service, own.to_request()).await.status(), 201);
    let (head, tail) = pair.split_at(pair.len() - 20);
    let other = if tail.starts_with('A') { "B" } else { "A" };
    let forged = enter(PASSWORD, "198.51.100.1:9").insert_header(("Cookie", format!("{head}{other}{}", &tail[1..])));
    assert_eq!(call_service(&service, forged.to_request()).await.status(), 429);
    // It speaks of the password of its time.
    let (_, users) = ask!(service, Role::Admin, GET "/v1/users");
    let path = format!("/v1/users/{}", users["items"][0]["user_id"].as_str().unwrap());
    assert_eq!(ask!(service, Role::Admin, PATCH path, json!({"password": "another password"})).0, 200);
    let late = enter("another password", "198.51.100.1:9").insert_header(("Cookie", pair));
    assert_eq!(call_service(&service, late.to_request()).await.status(), 429);
    let unknown = with_password("nobody", PASSWORD, "203.0.113.7:9");
    assert_eq!(call_service(&service, unknown.to_request()).await.status(), 401);
}

/// The same gateway after a restart: what the store knows, and nothing else.
fn restarted(app: &App) -> App {
    let access = Access::new(&app.config).unwrap();
    access.load(&*app.store, Timestamp(NOW_MS)).unwrap();
    App { access: access.into(), ..app.clone() }
}

#[actix_web::test]
async fn a_restart_logs_nobody_out_and_lets_nobody_back_in() {
    let (app, store) = app();
    let service = service!(app);
    olga!(service);
    let enter = || with_password("olga", PASSWORD, "192.0.2.1:9").to_request();
    let [kept, closed] =
        [call_service(&service, enter()).await, call_service(&service, enter()).await].map(|a| cookies(&a));
    assert_eq!(call_service(&service, by(&closed, Verb::DELETE, "/v1/session").to_request()).await.status(), 204);
    let again = restarted(&app);
    let after = service!(again);
    assert_eq!(call_service(&after, reads(&kept).to_request()).await.status(), 200);
    assert_eq!(call_service(&after, reads(&closed).to_request()).await.status(), 401);
    assert_eq!(call_service(&after, enter()).await.status(), 201);

    // What the store does not take ends with the process, and keeps nobody out until then, nor in.
    store.refuse(Some("the disk is full"));
    let unwritten = cookies(&call_service(&service, enter()).await);
    assert_eq!(call_service(&service, reads(&unwritten).to_request()).await.status(), 200);
    assert_eq!(call_service(&service, by(&kept, Verb::DELETE, "/v1/session").to_request()).await.status(), 204);
    assert_eq!(call_service(&service, reads(&kept).to_request()).await.status(), 401);
    store.refuse(None);
    assert_eq!(call_service(&service, enter()).await.status(), 201, "the next step tells the store");
    let again = restarted(&app);
    let after = service!(again);
    for gone in [&kept, &unwritten] {
        assert_eq!(call_service(&after, reads(gone).to_request()).await.status(), 401);
    }
}

#[actix_web::test]
async fn a_password_that_could_not_be_written_at_once_still_ends_the_sessions_for_good() {
    let (app, store) = app();
    let service = service!(app);
    let (id, _) = olga!(service);
    let thief = cookies(&call_service(&service, with_password("olga", PASSWORD, "192.0.2.1:9").to_request()).await);
    let path = format!("/v1/users/{id}");
    store.refuse(Some("the disk is full"));
    assert_eq!(ask!(service, Role::Admin, PATCH path, json!({"password": "another password"})).0, 503);
    store.refuse(None);
    assert_eq!(ask!(service, Role::Admin, PATCH path, json!({"password": "another password"})).0, 200);
    let again = restarted(&app);
    let after = service!(again);
    assert_eq!(call_service(&after, reads(&thief).to_request()).await.status(), 401);
    let old = with_password("olga", PASSWORD, "192.0.2.1:9").to_request();
    assert_eq!(call_service(&after, old).await.status(), 401);
}

#[actix_web::test]
async fn an_admin_ends_whoever_acts_as_somebody() {
    let (app, _) = app();
    let service = service!(app);
    olga!(service);
    let olga = cookies(&call_service(&service, with_password("olga", PASSWORD, "192.0.2.1:9").to_request()).await);
    let renter = cookies(&call_service(&service, with_key("ck_test-Renter").to_request()).await);
    assert_eq!(ask!(service, Role::Operator, DELETE "/v1/sessions?subject=olga").0, 403);
    assert_eq!(ask!(service, Role::Admin, DELETE "/v1/sessions?subject=olga").1, json!({"ended": 1}));
    assert_eq!(call_service(&service, reads(&olga).to_request()).await.status(), 401);
    assert_eq!(call_service(&service, reads(&renter).to_request()).await.status(), 200);
}

#[actix_web::test]
async fn without_a_provider_nothing_is_offered() {
    let (app, _) = app();
    let service = service!(app);
    let methods = call_service(&service, TestRequest::get().uri("/v1/session/methods").to_request()).await;
    let methods: Value = read_body_json(methods).await;
    assert_eq!(methods, json!({"api_key": true, "password": true, "oidc": null}));
    for path in ["/v1/session/oidc", "/v1/session/oidc/callback?code=x&state=y"] {
        assert_eq!(call_service(&service, TestRequest::get().uri(path).to_request()).await.status(), 404, "{path}");
    }
}
