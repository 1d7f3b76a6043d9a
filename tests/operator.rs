//! What an operator leans on, at the real program: a log-in that outlives the gateway, why a car is not there, whether
//! the journal is whole, and how the gateway does.

mod kit;

use std::os::unix::fs::FileExt;

use kit::{Gateway, answer, car, until};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";

/// As a browser on the gateway's own page asks, by cookie.
fn by_browser(gateway: &Gateway, cookie: &str, method: Method, path: &str) -> RequestBuilder {
    let browser = gateway.client.request(method, format!("{}{path}", gateway.http));
    browser.header("Origin", gateway.http.as_str()).header("Cookie", cookie)
}

/// Logs olga in; her session's cookie.
async fn log_in(gateway: &Gateway) -> String {
    let body = json!({"user": "olga", "password": PASSWORD});
    let request = gateway.client.post(format!("{}/v1/session", gateway.http)).json(&body);
    let answer = request.send().await.expect("it answers");
    assert_eq!(answer.status(), 201);
    let cookies = answer.headers().get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    let session = cookies.filter_map(|cookie| cookie.split(';').next()).find(|pair| pair.contains("session"));
    session.expect("a session").to_owned()
}

#[tokio::test]
async fn a_killed_gateway_comes_back_with_its_users_and_their_sessions() {
    let mut gateway = Gateway::start().await;
    let new = json!({"name": "olga", "role": "operator", "password": PASSWORD});
    let (status, olga) = gateway.post("/v1/users", new).await;
    assert_eq!(status, 201, "{olga}");
    let (kept, closed) = (log_in(&gateway).await, log_in(&gateway).await);
    let out = answer(by_browser(&gateway, &closed, Method::DELETE, "/v1/session")).await;
    assert_eq!(out.0, 204);
    gateway.kill();
    gateway.launch().expect("it starts again");
    let (status, session) = answer(by_browser(&gateway, &kept, Method::GET, "/v1/session")).await;
    assert_eq!((status, session["subject"].as_str()), (200, Some("olga")), "{session}");
    let ticket = answer(by_browser(&gateway, &kept, Method::POST, "/v1/console/tickets")).await;
    assert_eq!(ticket.0, 201, "and it may do what it could");
    assert_eq!(answer(by_browser(&gateway, &closed, Method::GET, "/v1/session")).await.0, 401);
    log_in(&gateway).await;

    // What the journal says of it names who and from where, and no secret.
    let (_, trail) = gateway.get("/v1/audit?subject=session/olga").await;
    let events: Vec<&Value> = trail["items"].as_array().expect("items").iter().map(|item| &item["events"][0]).collect();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(names, ["logged_in", "logged_in", "logged_out", "logged_in"]);
    assert_eq!((&events[0]["method"], &events[0]["from"]), (&json!("password"), &json!("127.0.0.1")));
    let (_, all) = gateway.get("/v1/audit?limit=1000").await;
    let all = all.to_string() + &gateway.log();
    let secret = kept.split('=').nth(1).expect("its value");
    assert!(!all.contains(PASSWORD) && !all.contains("argon2") && !all.contains(secret), "{all}");
}

#[tokio::test]
async fn the_link_log_says_when_a_car_came_why_it_went_and_why_it_was_refused() {
    let gateway = Gateway::start().await;
    gateway.register("LINK-1").await;
    let log = async || gateway.get("/v1/vehicles/LINK-1/link-log").await.1;
    assert_eq!(log().await["items"], json!([]));
    let car = car::connect(&gateway, "LINK-1").await;
    let items = log().await["items"].clone();
    assert_eq!((&items[0]["event"], &items[0]["address"]), (&json!("connected"), &json!("127.0.0.1")), "{items}");
    assert_eq!(gateway.delete("/v1/vehicles/LINK-1/certificate").await.0, 200);
    until("it is kicked and refused", async || log().await["items"][0]["event"] == "refused").await;
    drop(car);
    let items = log().await["items"].clone();
    let told: Vec<(&str, &str)> = items
        .as_array()
        .expect("items")
        .iter()
        .rev()
        .take(3)
        .map(|item| (item["event"].as_str().unwrap_or(""), item["reason"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(told, [("connected", ""), ("disconnected", "revoked"), ("refused", "revoked")], "{items}");
    assert_eq!(gateway.get("/v1/vehicles/NOBODY/link-log").await.0, 404);
}

async fn verification(gateway: &Gateway) -> Value {
    let (status, body) = gateway.post("/v1/audit/verification", json!(null)).await;
    assert_eq!(status, 202, "{body}");
    until("the walk ends", async || gateway.get("/v1/audit/verification").await.1["state"] != "running").await;
    gateway.get("/v1/audit/verification").await.1
}

#[tokio::test]
async fn a_running_gateway_proves_its_journal_and_finds_one_changed_byte() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.get("/v1/audit/verification").await.1["state"], "none");
    for number in 0..20 {
        gateway.register(&format!("AUDIT-{number}")).await;
    }
    // The head file is a moment behind, and only what it knows is looked at.
    until("the head knows the last vehicle", async || {
        let body = verification(&gateway).await;
        assert_eq!(body["state"], "intact", "{body}");
        body["records"].as_u64() >= Some(21)
    })
    .await;
    until("the walk saw as many bytes as the journal has", async || {
        let (_, system) = gateway.get("/v1/system").await;
        verification(&gateway).await["bytes"] == system["journal"]["bytes"]
    })
    .await;
    let (_, trail) = gateway.get("/v1/audit?subject=journal").await;
    assert_eq!(trail["items"][0]["events"][0]["state"], "intact");

    let segment = std::fs::read_dir(gateway.data().join("journal")).expect("it").next().expect("one").expect("it");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(segment.path()).expect("it opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 400).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], 400).expect("it is changed");
    let body = verification(&gateway).await;
    assert_eq!(body["state"], "damaged", "{body}");
    let problem = body["problem"].as_str().expect("a problem");
    assert!(problem.contains("is damaged at byte") && !problem.contains('/'), "{problem}");
}

/// A journal that grows and begins new segments while it is walked is not taken for a damaged one.
#[tokio::test]
async fn a_journal_is_proved_while_it_is_written() {
    let gateway = Gateway::start_with(&["data.segment_mib=1"]).await;
    // Another name in each round: what is known already is not written again.
    let file = |round: usize| {
        let row = |number| format!("S-{number},Round {round} of a name that makes a record long enough,45.1,7.2\n");
        "id,brand,lat,lon\n".to_owned() + &(0..3_000).map(row).collect::<String>()
    };
    let path = "/v1/stations/import?format=csv&columns=station_id:id,name:brand,latitude:lat,longitude:lon";
    let writing = async {
        for round in 0..6 {
            let request = gateway.request(Method::POST, path).header("Content-Type", "text/csv").body(file(round));
            let (status, body) = answer(request).await;
            assert_eq!(status, 200, "{body}");
        }
    };
    let walking = async {
        let mut longest = 0;
        loop {
            let body = verification(&gateway).await;
            assert_eq!(body["state"], "intact", "{body}");
            longest = longest.max(body["bytes"].as_u64().unwrap_or(0));
            if longest > 2_500_000 {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), async { tokio::join!(writing, walking) })
        .await
        .expect("the journal grows into a third segment");
}

#[tokio::test]
async fn the_system_tells_how_it_does() {
    let gateway = Gateway::start().await;
    gateway.register("SYS-1").await;
    gateway.register("SYS-2").await;
    let _car = car::connect(&gateway, "SYS-1").await;
    until("the car counts", async || gateway.get("/v1/system").await.1["vehicles"]["online"] == 1).await;
    let (_, system) = gateway.get("/v1/system").await;
    assert_eq!((&system["ready"], &system["problems"]), (&json!(true), &json!([])), "{system}");
    assert_eq!(system["vehicles"]["registered"], 2);
    assert!(system["journal"]["records"].as_u64() >= Some(2), "{system}");
    let bytes = async || gateway.get("/v1/system").await.1["journal"]["bytes"].as_u64();
    until("the head file knows the journal's length", async || bytes().await > Some(500)).await;
    assert!(system["disk"]["free_bytes"].as_u64() > Some(0));
    assert_eq!(system["certificates"].as_array().map(Vec::len), Some(2));
    let queues = system["queues"].as_array().expect("queues");
    let names: Vec<&str> = queues.iter().filter_map(|queue| queue["name"].as_str()).collect();
    let (_, metrics) = gateway.probe("/metrics").await;
    for name in names {
        assert!(metrics.contains(&format!("\ncardea_{name} ")), "{name} is a gauge of /metrics");
    }
    let depth = |name: &str| queues.iter().find(|queue| queue["name"] == name).map(|queue| queue["depth"].clone());
    assert_eq!(depth("mqtt_sessions"), Some(json!(1)));
}
