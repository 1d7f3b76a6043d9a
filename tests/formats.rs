//! Data that an earlier release wrote opens in this one, with everything that was promised in it.
//!
//! `tests/data/format-N` holds a data folder that a release wrote with on-disk format N, and what was answered about it
//! then. One is added whenever the format changes, and none is ever taken away.

mod kit;

use std::path::Path;
use std::process::Command;

use kit::{Gateway, answer, fixture};
use reqwest::Method;
use serde_json::{Value, json};

/// A gateway that was started once, with the old data folder put in the place of its own.
async fn with_data_of(format: &str) -> (Gateway, Value) {
    let expected = serde_json::from_str(&fixture(&format!("data/{format}/expected.json"))).expect("JSON");
    let mut gateway = Gateway::start().await;
    assert!(gateway.stop().success());
    std::fs::remove_dir_all(gateway.data()).expect("its own data goes");
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format).join("data.tar.gz");
    let unpacked = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(gateway.fleet_dir()).status();
    assert!(unpacked.expect("tar runs").success());
    (gateway, expected)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

async fn assert_all_is_there(gateway: &Gateway, expected: &Value) {
    let get = async |path: String| {
        let (status, body) = gateway.get(&path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let rental = get(format!("/v1/rentals/{}", text(expected, "rental"))).await;
    assert_eq!((text(&rental, "vehicle_id"), text(&rental, "renter")), ("CAR-0", "anna"));
    assert_eq!(text(&rental, "key_id"), text(expected, "key"));
    let cancelled = get(format!("/v1/rentals/{}", text(expected, "cancelled_rental"))).await;
    assert_eq!(text(&cancelled, "state"), "cancelled");
    let key = get(format!("/v1/keys/{}", text(expected, "key"))).await;
    assert!(key["permits"].as_array().is_some_and(|permits| permits.contains(&json!("drive"))), "{key}");
    let open = get(format!("/v1/commands/{}", text(expected, "open_command"))).await;
    // Whether it waits yet is a matter of today's date.
    assert_eq!((text(&open, "vehicle_id"), text(&open, "function")), ("CAR-2", "open_trunk"));
    assert_eq!(text(&get(format!("/v1/commands/{}", text(expected, "command"))).await, "type"), "lock");
    let car = get("/v1/vehicles/CAR-2".to_owned()).await;
    assert_eq!(text(&car, "name"), "Car 2, named 11 times");
    let decision = get(format!("/v1/decisions/{}", text(expected, "decision"))).await;
    assert_eq!(text(&decision, "outcome"), text(expected, "outcome"));
    assert!(decision["checks"].as_array().is_some_and(|checks| checks.len() > 5), "{decision}");
    assert_eq!(text(&get("/v1/cards/card-1".to_owned()).await, "network_ref"), "ic_1");
    assert_eq!(text(&get("/v1/stations/st-1".to_owned()).await, "name"), "Testa");

    let own = format!("{}/v1/rentals/{}", gateway.http, text(expected, "rental"));
    let (status, own) = answer(gateway.client.get(own).bearer_auth(text(expected, "api_key"))).await;
    assert_eq!((status, text(&own, "renter")), (200, "anna"), "anna's API key opens what is hers");
    let log_in = json!({"user": "olga", "password": "a long enough pass phrase"});
    let log_in = gateway.client.request(Method::POST, format!("{}/v1/session", gateway.http)).json(&log_in);
    let (status, session) = answer(log_in.header("Origin", gateway.http.clone())).await;
    assert_eq!((status, text(&session, "role")), (201, "operator"), "{session}");
}

#[tokio::test]
async fn data_of_the_first_format_opens_whole_and_is_carried_on() {
    let (mut gateway, expected) = with_data_of("format-1").await;
    let verified: Value = serde_json::from_str(&verify(&gateway)).expect("JSON");
    assert_eq!(verified["last_hash"], expected["verified"]["last_hash"]);
    gateway.launch().expect("it starts with the old data");
    assert_all_is_there(&gateway, &expected).await;

    let patched = gateway.request(Method::PATCH, "/v1/vehicles/CAR-1").json(&json!({"name": "renamed"}));
    assert_eq!(answer(patched).await.0, 200);
    let (_, page) = gateway.get("/v1/audit?limit=1000").await;
    let records = page["items"].as_array().expect("records");
    let old = expected["verified"]["records"].as_u64().expect("a number") as usize;
    assert!(records[..old].iter().all(|record| record.get("from").is_none()), "nobody noted addresses then");
    let renamed =
        records[old..].iter().find(|record| record["stream"] == "vehicle/CAR-1" && record["by"]["role"] == "admin");
    assert_eq!(renamed.expect("the change")["from"], "127.0.0.1");
    assert!(renamed.is_some_and(|record| !record["events"].to_string().contains("127.0.0.1")), "nowhere else");
    assert!(gateway.stop().success());
    verify(&gateway);
}

#[tokio::test]
async fn its_view_and_snapshots_are_not_needed() {
    let (mut gateway, expected) = with_data_of("format-1").await;
    for index in ["view", "snapshots"] {
        std::fs::remove_dir_all(gateway.data().join(index)).expect("it was there");
    }
    gateway.launch().expect("it starts from the old journal alone");
    assert_all_is_there(&gateway, &expected).await;
}

#[tokio::test]
async fn data_of_a_format_to_come_is_refused_and_left_as_it_is() {
    let (mut gateway, _) = with_data_of("format-1").await;
    let segment = gateway.data().join("journal/00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).expect("a segment");
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&segment, &bytes).expect("written");
    let (log, status) = gateway.launch().expect_err("it must not start");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("00000000000000000001.seg") && log.contains("a newer one may"), "{log}");
    assert!(std::fs::read(&segment).expect("still there") == bytes, "and nothing was changed");
}

fn verify(gateway: &Gateway) -> String {
    kit::run(&["journal", "verify", "--config", &gateway.config().to_string_lossy()])
}
