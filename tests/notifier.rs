//! The notifier of the real program against a webhook receiver that fails, hangs and lies, and a real mail server: each
//! alert arrives at least once, in order per subject, signed; and nobody waits for anybody else.

mod kit;

use std::collections::{BTreeMap, BTreeSet};

use kit::receiver::{MAIL_PASSWORD, Receiver, SECRETS};
use kit::{Gateway, until};
use reqwest::Method;
use serde_json::{Value, json};

const ALERT: &str = "cardea.alert.";

async fn start(sets: Vec<String>) -> Gateway {
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let gateway = Gateway::start_with(&sets).await;
    for number in 0..3 {
        gateway.register(&format!("CAR-{number}")).await;
        let card = json!({"card_id": format!("card-{number}"), "network_ref": format!("ic_{number}"),
            "vehicle_id": format!("CAR-{number}"), "status": "suspended"});
        assert_eq!(gateway.post("/v1/cards", card).await.0, 201);
    }
    gateway
}

/// A purchase with a suspended card: declined, and an alert of its car is opened. `None` when nobody answered.
async fn decline(gateway: &Gateway, car: usize, number: usize) -> Value {
    let event = json!({
        "id": format!("evt_{number}"), "type": "issuing_authorization.request", "created": kit::unix_now(),
        "data": {"object": {
            "id": format!("iauth_{number}"), "amount": 0, "currency": "eur", "created": kit::unix_now(),
            "card": {"id": format!("ic_{car}"), "last4": "4242", "status": "active"},
            "merchant_data": {"category_code": "5542", "name": "Pump & Söhne", "network_id": "net", "terminal_id": "t1"},
            "pending_request": {"amount": 123_450, "currency": "eur", "is_amount_controllable": true},
        }}
    });
    let (status, answer) = gateway.stripe(&event).await;
    assert_eq!((status, &answer["approved"]), (200, &json!(false)), "{answer}");
    answer
}

async fn alerts(gateway: &Gateway) -> Vec<Value> {
    let (status, page) = gateway.get("/v1/alerts?limit=1000").await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().expect("a list").clone()
}

fn ids(alerts: &[Value]) -> BTreeSet<String> {
    alerts.iter().map(|alert| alert["alert_id"].as_str().expect("an id").to_owned()).collect()
}

/// The alerts that arrived, of which the receiver said that it took them.
fn arrived(items: &[Value], kind: &str) -> BTreeSet<String> {
    let taken = items.iter().filter(|item| item["event"]["type"] == kind && is_taken(item));
    taken.map(|item| item["event"]["data"]["alert_id"].as_str().expect("an id").to_owned()).collect()
}

fn is_taken(item: &Value) -> bool {
    ["well", "wrong_length", "slow_garbage"].contains(&item["mode"].as_str().unwrap_or(""))
}

#[track_caller]
fn assert_signed_and_whole(items: &[Value]) {
    for item in items {
        assert_eq!(item["verified"], json!([true, true]), "{item}");
        assert_eq!(item["type"], "application/cloudevents+json");
        let event = &item["event"];
        assert_eq!(event["id"], item["id"]);
        assert_eq!((&event["specversion"], &event["source"]), (&json!("1.0"), &json!("urn:cardea:gateway")));
        assert!(event["subject"].as_str().is_some_and(|subject| subject.contains('/')), "{event}");
    }
}

/// The first time each event was taken, it came after every earlier one of its subject.
#[track_caller]
fn assert_in_order(items: &[Value]) {
    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    for item in items.iter().filter(|item| is_taken(item)) {
        let event = &item["event"];
        if !seen.insert(item["id"].as_str().expect("an id").to_owned()) {
            continue;
        }
        let sequence = event["sequence"].as_str().expect("a sequence").to_owned();
        let before = last.insert(event["subject"].to_string(), sequence.clone());
        assert!(before.as_ref().is_none_or(|before| *before < sequence), "{before:?} then {sequence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alert_arrives_signed_and_in_order_over_kill_9() {
    let Some(receiver) = Receiver::start() else { return };
    let mut gateway = start(receiver.sets(&[receiver.webhook("desk", ALERT)])).await;
    for round in 0..4 {
        receiver.set_mode("desk", if round % 2 == 0 { "well" } else { "status:503" });
        for number in 0..10 {
            decline(&gateway, number % 3, round * 100 + number).await;
        }
        // At once: the last of them are not told yet.
        gateway.kill();
        gateway.launch().expect("it starts again");
    }
    receiver.set_mode("desk", "well");
    let opened = ids(&alerts(&gateway).await);
    assert_eq!(opened.len(), 40);
    until("every alert has arrived", async || arrived(&receiver.webhooks("desk"), "cardea.alert.opened.v1") == opened)
        .await;
    let items = receiver.webhooks("desk");
    assert_signed_and_whole(&items);
    assert_in_order(&items);
    let bodies: BTreeSet<String> = items.iter().map(|item| item["event"].to_string()).collect();
    assert_eq!(bodies.len(), 40, "what is told twice is the same to the byte");
    assert!(!gateway.log().contains(SECRETS[0]) && !gateway.log().contains("/desk"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_or_lies_delays_no_other_and_gets_all_later() {
    let Some(receiver) = Receiver::start() else { return };
    let names = ["hang", "garbage", "close_early", "redirect", "wrong_length", "slow_garbage", "well"];
    let webhooks: Vec<String> = names.iter().map(|name| receiver.webhook(name, ALERT)).collect();
    let mut sets = receiver.sets(&webhooks);
    sets.push("notifier.timeout_ms=2000".into());
    let gateway = start(sets).await;
    for name in names {
        receiver.set_mode(name, name);
    }
    for number in 0..12 {
        decline(&gateway, number % 3, number).await;
    }
    let opened = ids(&alerts(&gateway).await);
    // Those that say 2xx have taken it, whatever they say behind it.
    for name in ["well", "wrong_length", "slow_garbage"] {
        until(name, async || arrived(&receiver.webhooks(name), "cardea.alert.opened.v1") == opened).await;
    }
    let (_, targets) = gateway.get("/v1/notifications/targets").await;
    let target = |name: &str| {
        let items = targets["items"].as_array().expect("a list");
        items.iter().find(|item| item["name"] == name).expect("the target").clone()
    };
    assert_eq!((target("well")["waiting"].clone(), target("well")["state"].clone()), (json!(0), json!("ok")));
    assert!(target("hang")["waiting"].as_u64() >= Some(12), "{targets}");
    for name in ["hang", "garbage", "close_early"] {
        until("it is seen to fail", async || {
            let (_, targets) = gateway.get("/v1/notifications/targets").await;
            let items = targets["items"].as_array().expect("a list").clone();
            items
                .iter()
                .any(|item| item["name"] == name && item["state"] == "failing" && item["last_error"].is_string())
        })
        .await;
        receiver.set_mode(name, "well");
    }
    for name in ["hang", "garbage", "close_early"] {
        until(name, async || arrived(&receiver.webhooks(name), "cardea.alert.opened.v1") == opened).await;
        assert_in_order(&receiver.webhooks(name));
    }
    assert!(receiver.webhooks("elsewhere").is_empty(), "a redirect was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_is_a_dead_letter_that_can_be_tried_again() {
    let Some(receiver) = Receiver::start() else { return };
    let mut sets = receiver.sets(&[receiver.webhook("desk", ALERT), receiver.webhook("gone", ALERT)]);
    sets.push("notifier.retry_for_s=2".into());
    let mut gateway = start(sets).await;
    receiver.set_mode("desk", "status:500");
    receiver.set_mode("gone", "status:410");
    decline(&gateway, 0, 1).await;
    let dead = async |gateway: &Gateway| {
        let (status, page) = gateway.get("/v1/notifications/dead?limit=10").await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().expect("a list").clone()
    };
    until("both are dead letters", async || dead(&gateway).await.len() == 2).await;
    let letters = dead(&gateway).await;
    let of = |target: &str| letters.iter().find(|letter| letter["target"] == target).expect("a letter").clone();
    assert_eq!(of("gone")["attempts"], 1);
    assert!(of("desk")["attempts"].as_u64() >= Some(2), "{letters:?}");
    assert!(of("desk")["reason"].as_str().is_some_and(|reason| reason.contains("500")), "{letters:?}");
    until("it is counted", async || gateway.metric("cardea_notifications_dead").await == 2.0).await;

    // They are kept.
    until("they are stored", async || gateway.metric("cardea_notifier_checkpoints_total").await >= 2.0).await;
    assert!(gateway.stop().success());
    gateway.launch().expect("it starts again");
    assert_eq!(dead(&gateway).await.len(), 2);

    receiver.set_mode("desk", "well");
    let path = format!("/v1/notifications/dead/{}/retry", of("desk")["id"].as_str().expect("an id"));
    assert_eq!(gateway.post(&path, json!({})).await.0, 202);
    assert_eq!(gateway.post(&path, json!({})).await.0, 404);
    let opened = ids(&alerts(&gateway).await);
    until("it has arrived", async || arrived(&receiver.webhooks("desk"), "cardea.alert.opened.v1") == opened).await;
    assert_eq!(dead(&gateway).await.len(), 1);
}

const PEOPLE: &str = r#"{name = "hans", to = "hans@fleet.example", language = "de"},
    {name = "yuki", to = "Yuki <yuki@fleet.example>", language = "ja"},
    {name = "boss", to = "boss@fleet.example", escalation = 1},
    {name = "calm", to = "calm@fleet.example", min_severity = "critical"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn people_get_mail_in_their_language_over_tls() {
    let Some(receiver) = Receiver::start() else { return };
    for tls in ["starttls", "implicit"] {
        let mut sets = receiver.mail_sets(tls, &PEOPLE.replace('\n', " "));
        sets.push("notifier.time_zone=Europe/Berlin".into());
        let gateway = start(sets).await;
        let before = receiver.mails("yuki@fleet.example").len();
        decline(&gateway, 1, 1).await;
        let alert = alerts(&gateway).await[0].clone();
        let id = alert["alert_id"].as_str().expect("an id");
        until("both have mail", async || {
            ["hans@fleet.example", "yuki@fleet.example"].iter().all(|to| receiver.mails(to).len() == before + 1)
        })
        .await;
        let hans = receiver.mails("hans@fleet.example").remove(before);
        assert_eq!(hans["subject"], "[Cardea] Warnung: Tankkarte abgelehnt (CAR-1)");
        let text = hans["text"].as_str().expect("text");
        for part in ["1.234,50 EUR", "Pump & Söhne", "kein Beweis", "card-1", "Karte aktiv", "UTC (", id] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let yuki = receiver.mails("yuki@fleet.example").remove(before);
        assert_eq!(yuki["subject"], "[Cardea] 警告:給油カードの利用を拒否(CAR-1)");
        assert!(yuki["text"].as_str().expect("text").contains("不正利用の証拠ではありません"), "{yuki}");
        for mail in [&hans, &yuki] {
            assert_eq!((&mail["raw_subject_is_ascii"], &mail["auto"]), (&json!(true), &json!("auto-generated")));
            assert_eq!((&mail["from"], &mail["user"]), (&json!("cardea@fleet.example"), &json!("cardea")));
            if tls == "starttls" {
                assert_eq!(mail["tls"], true);
            }
        }
        assert_eq!(gateway.post(&format!("/v1/alerts/{id}/resolve"), json!({})).await.0, 200);
        until("the end is told", async || receiver.mails("hans@fleet.example").len() == before + 2).await;
        let ended = receiver.mails("hans@fleet.example").remove(before + 1);
        assert_eq!(ended["subject"], "[Cardea] Warnung erledigt: Tankkarte abgelehnt (CAR-1)");
        for other in ["boss@fleet.example", "calm@fleet.example"] {
            assert!(receiver.mails(other).is_empty(), "{other}");
        }
        assert!(!gateway.log().contains(MAIL_PASSWORD));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_nobody_acknowledges_is_escalated_and_another_is_not() {
    let Some(receiver) = Receiver::start() else { return };
    let mut sets = receiver.mail_sets("starttls", &PEOPLE.replace('\n', " "));
    sets.extend(receiver.sets(&[receiver.webhook("desk", ALERT)]));
    sets.push("notifier.escalate_after_s=6".into());
    let mut gateway = start(sets).await;
    decline(&gateway, 0, 1).await;
    let seen = alerts(&gateway).await[0].clone();
    let path = format!("/v1/alerts/{}/acknowledge", seen["alert_id"].as_str().expect("an id"));
    assert_eq!(gateway.post(&path, json!({})).await.0, 200);
    decline(&gateway, 1, 2).await;
    let opened = ids(&alerts(&gateway).await);
    until("both are told", async || arrived(&receiver.webhooks("desk"), "cardea.alert.opened.v1") == opened).await;
    // It is still due after a crash.
    gateway.kill();
    gateway.launch().expect("it starts again");
    until("somebody else is told", async || !receiver.mails("boss@fleet.example").is_empty()).await;
    let mail = receiver.mails("boss@fleet.example").remove(0);
    assert_eq!(mail["subject"], "[Cardea] Alert not acknowledged: fuel card declined (CAR-1)");
    until("and the desk", async || !arrived(&receiver.webhooks("desk"), "cardea.alert.escalated.v1").is_empty()).await;
    let unseen = alerts(&gateway).await.into_iter().find(|alert| alert["alert_id"] != seen["alert_id"]);
    let unseen = unseen.expect("the other")["alert_id"].as_str().expect("an id").to_owned();
    assert_eq!(gateway.post(&format!("/v1/alerts/{unseen}/acknowledge"), json!({})).await.0, 200);
    until("who was told hears of its end", async || {
        receiver
            .mails("boss@fleet.example")
            .iter()
            .any(|mail| mail["subject"] == "[Cardea] Alert acknowledged: fuel card declined (CAR-1)")
    })
    .await;
    let escalated = arrived(&receiver.webhooks("desk"), "cardea.alert.escalated.v1");
    assert_eq!(escalated, BTreeSet::from([unseen]), "only what nobody acknowledged is escalated");
    until("nothing is watched any more", async || gateway.metric("cardea_alerts_watched").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_store_that_is_full_what_waits_is_delivered_and_nothing_is_lost() {
    let Some(receiver) = Receiver::start() else { return };
    let mut gateway = start(receiver.sets(&[receiver.webhook("desk", ALERT)])).await;
    receiver.set_mode("desk", "status:503");
    for number in 0..6 {
        decline(&gateway, number % 3, number).await;
    }
    let opened = ids(&alerts(&gateway).await);
    gateway.kill();
    // No disk is so large: from now on nothing can be stored.
    gateway.set("data.min_free_mib=1048576");
    gateway.launch().expect("it starts");
    until("checkpoints fail", async || gateway.metric("cardea_notifier_checkpoints_failed_total").await > 0.0).await;
    gateway.kill();
    gateway.launch().expect("it starts");
    receiver.set_mode("desk", "well");
    until("all have arrived", async || arrived(&receiver.webhooks("desk"), "cardea.alert.opened.v1") == opened).await;
    gateway.kill();
    gateway.set("data.min_free_mib=1");
    gateway.launch().expect("it starts");
    decline(&gateway, 0, 100).await;
    let opened = ids(&alerts(&gateway).await);
    until("it goes on", async || arrived(&receiver.webhooks("desk"), "cardea.alert.opened.v1") == opened).await;
    assert_signed_and_whole(&receiver.webhooks("desk"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_button_says_what_happened_and_other_events_are_told() {
    let Some(receiver) = Receiver::start() else { return };
    let webhooks = [receiver.webhook("desk", "cardea."), receiver.webhook("broken", ALERT)];
    let mut sets = receiver.sets(&webhooks);
    sets.push("notifier.timeout_ms=1000".into());
    let gateway = start(sets).await;
    receiver.set_mode("broken", "hang");
    let press = async |target: &str| gateway.post("/v1/notifications/test", json!({"target": target})).await;
    let (status, told) = press("desk").await;
    assert_eq!((status, &told["is_delivered"], &told["error"]), (200, &json!(true), &json!(null)), "{told}");
    let (status, told) = press("broken").await;
    assert_eq!((status, &told["is_delivered"]), (200, &json!(false)), "{told}");
    assert!(told["error"].as_str().is_some_and(|error| error.contains("in time")), "{told}");
    assert_eq!(press("nobody").await.0, 409);
    let (status, key) = gateway.post("/v1/api-keys", json!({"name": "ann", "role": "renter", "subject": "ann"})).await;
    assert_eq!(status, 201);
    let as_renter = gateway.client.request(Method::GET, format!("{}/v1/notifications/dead", gateway.http));
    let refused = as_renter.bearer_auth(key["api_key"].as_str().expect("a key")).send().await.expect("an answer");
    assert_eq!(refused.status(), 403);

    decline(&gateway, 2, 1).await;
    let (status, command) = gateway.post("/v1/vehicles/CAR-0/commands", json!({"type": "locate"})).await;
    assert_eq!(status, 202);
    let id = command["command_id"].as_str().expect("an id");
    assert_eq!(gateway.delete(&format!("/v1/commands/{id}")).await.0, 200);
    let wish = json!({"vehicle_id": "CAR-1", "profile": "cabin", "renter": "ann", "from": kit::rfc3339_in(0),
        "until": kit::rfc3339_in(3600),
        "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}});
    let (status, body) = gateway.post("/v1/usage-requests", wish).await;
    assert_eq!(status, 201, "{body}");
    let first = |kind: &str| {
        let items = receiver.webhooks("desk");
        items.into_iter().find(|item| item["event"]["type"] == kind).map(|item| item["event"].clone())
    };
    let kinds = ["cardea.card.declined.v1", "cardea.command.finished.v1", "cardea.rental.changed.v1"];
    until("all are told", async || kinds.iter().all(|kind| first(kind).is_some())).await;
    let declined = first(kinds[0]).expect("told");
    assert_eq!((&declined["subject"], &declined["data"]["amount_minor"]), (&json!("vehicle/CAR-2"), &json!(123_450)));
    let finished = first(kinds[1]).expect("told");
    assert_eq!(finished["data"]["command_id"], id);
    assert_eq!((&finished["data"]["state"], &finished["data"]["type"]), (&json!("cancelled"), &json!("locate")));
    let changed = first(kinds[2]).expect("told");
    assert_eq!((&changed["subject"], &changed["data"]["vehicle_id"]), (&json!("vehicle/CAR-1"), &json!("CAR-1")));
    assert!(!changed.to_string().contains("ann"), "who rents is not told: {changed}");
    assert_signed_and_whole(&receiver.webhooks("desk"));
}
