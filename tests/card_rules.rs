//! What an operator does with the card guard, against the real binary: brings rules into force, tries a draft, has a
//! card suspended and reinstates it, and takes everything on record about it to a dispute. All of it outlives a kill.

mod kit;

use kit::Gateway;
use reqwest::Method;
use serde_json::{Value, json};

const RULES: &str = include_str!("../config/card-rules.toml");

fn purchase(id: &str, amount_minor: i64) -> Value {
    json!({
        "id": format!("evt_{id}"), "type": "issuing_authorization.request", "created": kit::unix_now(),
        "data": {"object": {
            "id": id, "amount": 0, "currency": "eur", "created": kit::unix_now(),
            "card": {"id": "ic_rules", "last4": "4242", "status": "active"},
            "merchant_data": {"category_code": "5542", "name": "=cmd|pump", "network_id": "net", "terminal_id": "t1"},
            "pending_request": {"amount": amount_minor, "currency": "eur", "is_amount_controllable": true},
        }}
    })
}

fn capture(id: &str, transaction: &str, amount_minor: i64) -> Value {
    json!({
        "id": format!("evt_{transaction}"), "type": "issuing_transaction.created", "created": kit::unix_now(),
        "data": {"object": {
            "id": transaction, "type": "capture", "amount": -amount_minor, "currency": "eur",
            "created": kit::unix_now(), "authorization": id, "card": "ic_rules",
        }}
    })
}

/// The fleet's rules with hardly more than the question whether the car is in a rental, or not even that.
fn rules(version: &str, asks_rental: bool) -> String {
    let mut text = RULES.parse::<toml::Table>().expect("TOML");
    text.insert("version".into(), version.into());
    for (name, check) in text.iter_mut() {
        if let Some(table) = check.as_table_mut().filter(|table| table.contains_key("mode")) {
            let is_on = name == "card_active" || name == "amount" || (name == "rental_state" && asks_rental);
            table.insert("mode".into(), if is_on { "on" } else { "off" }.into());
        }
    }
    text.to_string()
}

async fn with_card(sets: &[&str]) -> Gateway {
    let gateway = Gateway::start_with(sets).await;
    gateway.register("RULE-1").await;
    let card = json!({"card_id": "c-1", "network_ref": "ic_rules", "vehicle_id": "RULE-1"});
    assert_eq!(gateway.post("/v1/cards", card).await.0, 201);
    gateway
}

async fn asked(gateway: &Gateway, id: &str) -> (bool, Value) {
    let (status, answer) = gateway.stripe(&purchase(id, 5_000)).await;
    assert_eq!(status, 200, "{answer}");
    (answer["approved"].as_bool().expect("an answer"), answer["metadata"].clone())
}

#[tokio::test]
async fn rules_come_into_force_at_once_are_tried_out_first_and_outlive_a_kill() {
    let mut gateway = with_card(&[]).await;
    let (status, strict) = gateway.post("/v1/card-rules", json!({"text": rules("strict", true)})).await;
    assert_eq!((status, &strict["version"]), (201, &json!("strict")), "{strict}");
    let (approved, metadata) = asked(&gateway, "iauth_1").await;
    assert_eq!((approved, &metadata["rule_version"]), (false, &json!("strict")), "no rental");

    let draft = json!({"text": rules("lenient", false)});
    let (status, tried) = gateway.post("/v1/card-rules/try", draft.clone()).await;
    assert_eq!(status, 200, "{tried}");
    assert_eq!((&tried["judged"], &tried["changed_total"]), (&json!(1), &json!(1)), "{tried}");
    assert_eq!(tried["changed"][0]["before"]["outcome"], "decline");
    assert_eq!(tried["changed"][0]["after"]["outcome"], "approve");
    assert!(!asked(&gateway, "iauth_2").await.0, "a draft changes nothing");

    assert_eq!(gateway.post("/v1/card-rules", draft).await.0, 201);
    assert!(asked(&gateway, "iauth_3").await.0);
    assert!(!asked(&gateway, "iauth_1").await.0, "an answer that was given stays");
    let again = json!({"text": rules("strict", false)});
    let marked = gateway.post("/v1/card-rules", again).await.1["version"].as_str().expect("a version").to_owned();
    assert!(marked.starts_with("strict+"), "{marked}: a version's text never changes");

    // Named like the store's own row: the gateway did not start again.
    for odd in ["(active)", "file", "version/x"] {
        assert_eq!(gateway.post("/v1/card-rules", json!({"text": rules(odd, true)})).await.0, 201, "{odd}");
    }
    assert_eq!(gateway.post("/v1/card-rules", json!({"text": rules("strict", false)})).await.0, 201);

    gateway.kill();
    gateway.launch().expect("it starts");
    assert_eq!(gateway.get("/v1/card-rules/active").await.1["version"], json!(marked));
    let (_, page) = gateway.get("/v1/card-rules?limit=1000").await;
    let names: Vec<&str> =
        page["items"].as_array().expect("a list").iter().filter_map(|one| one["version"].as_str()).collect();
    assert!(
        ["(active)", "file", "version/x", "strict", "lenient"].iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    assert_eq!(asked(&gateway, "iauth_4").await.1["rule_version"], json!(marked));
    for wrong in ["version = 1".to_owned(), rules("active", true)] {
        let (status, problem) = gateway.post("/v1/card-rules", json!({"text": wrong})).await;
        assert_eq!(status, 400, "{problem}");
    }
    assert_eq!(gateway.get("/v1/card-rules/active").await.1["version"], json!(marked));
}

#[tokio::test]
async fn a_rules_file_that_changes_is_taken_and_one_that_is_wrong_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.toml");
    std::fs::write(&file, rules("one", true)).expect("written");
    let gateway = with_card(&[&format!("card_guard.rules={:?}", file.to_string_lossy())]).await;
    let is_active = async |version: &str| gateway.get("/v1/card-rules/active").await.1["version"] == version;
    kit::until("the first file", async || is_active("one").await).await;
    assert!(!asked(&gateway, "iauth_1").await.0);
    std::fs::write(&file, rules("two", false)).expect("written");
    kit::until("the second file", async || is_active("two").await).await;
    assert!(asked(&gateway, "iauth_2").await.0);
    std::fs::write(&file, "version = \"three\"\n[location]\nbase_m = \"far\"\n").expect("written");
    let is_shown = async || {
        let (_, active) = gateway.get("/v1/card-rules/active").await;
        active["file_problem"].as_str().is_some_and(|problem| problem.contains("base_m"))
    };
    kit::until("what is wrong", is_shown).await;
    assert!(is_active("two").await);
}

#[tokio::test]
async fn a_card_is_suspended_after_its_declines_reinstated_and_taken_to_a_dispute() {
    let gateway = with_card(&["card_guard.suspend_after_declines=2"]).await;
    let status_of_card = async || gateway.get("/v1/cards/c-1").await.1["status"].clone();
    assert!(!asked(&gateway, "iauth_1").await.0);
    assert_eq!(status_of_card().await, "active");
    assert!(!asked(&gateway, "iauth_2").await.0);
    kit::until("the card is suspended", async || status_of_card().await == "suspended").await;
    let reinstated = gateway.request(Method::PATCH, "/v1/cards/c-1").json(&json!({"status": "active"}));
    assert_eq!(kit::answer(reinstated).await.0, 200);
    gateway.post("/v1/card-rules", json!({"text": rules("lenient", false)})).await;
    assert!(asked(&gateway, "iauth_3").await.0, "and its count begins anew");

    let taken = capture("iauth_3", "ipi_1", 9_000);
    assert_eq!(gateway.stripe(&taken).await.0, 200);
    assert_eq!(gateway.stripe(&taken).await.0, 200, "again is no mistake");
    let answer = gateway.request(Method::GET, "/v1/decisions/export?card_id=c-1").send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8");
    let text = answer.text().await.expect("text");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().expect("a head").clone();
    let column = |name: &str| head.iter().position(|known| known == name).expect("a column");
    let (event, hash, merchant) = (column("event"), column("journal_sha256"), column("merchant"));
    let all: Vec<csv::StringRecord> = reader.records().map(|row| row.expect("a row")).collect();
    let count = |name: &str| all.iter().filter(|row| &row[event] == name).count();
    assert_eq!((count("purchase_decided"), count("card_suspended"), count("payment_posted")), (3, 1, 1), "{text}");
    assert!(all.iter().all(|row| row[hash].len() == 64 && row[hash].bytes().all(|byte| byte.is_ascii_hexdigit())));
    assert!(all.iter().any(|row| &row[merchant] == "'=cmd|pump"), "no formula: {text}");

    let decision = &gateway.get("/v1/decisions?authorization_id=iauth_3").await.1["items"][0]["decision_id"];
    let (_, decision) = gateway.get(&format!("/v1/decisions/{}", decision.as_str().expect("an id"))).await;
    assert_eq!(decision["reconciliation"]["postings"].as_array().map(Vec::len), Some(1), "{decision}");
    assert_eq!(decision["reconciliation"]["state"], "doubted", "90 were taken for 50");
    let alerts = gateway.get("/v1/alerts?vehicle_id=RULE-1").await.1;
    assert!(
        alerts["items"].as_array().expect("alerts").iter().any(|alert| alert["kind"] == "fill_doubted"),
        "{alerts}"
    );
}
