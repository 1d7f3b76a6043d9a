//! `cardea doctor`: a healthy fleet passes, and each fault is named with what to do.

mod kit;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use kit::{Gateway, init};
use serde_json::Value;

/// Exit code and findings; `sets` are overrides.
fn doctor(config: &Path, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_cardea"))
        .args(["doctor", "--json", "--config"])
        .arg(config)
        .args(more)
        .output()
        .expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.code(), text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

/// Also a fleet small enough for whatever limit of open files the machine has.
const FREE_PORTS: [&str; 10] = [
    "--set",
    "http.listen=127.0.0.1:0",
    "--set",
    "mqtt.listen=127.0.0.1:0",
    "--set",
    "metrics.listen=127.0.0.1:0",
    "--set",
    "mqtt.max_sessions=100",
    "--set",
    "http.max_connections=100",
];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    [&FREE_PORTS, more].concat()
}

fn found(findings: &[Value], check: &str) -> (String, String) {
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("{check} was not looked at: {findings:?}"));
    let text = |key: &str| finding[key].as_str().expect("text").to_owned();
    (text("verdict"), text("detail"))
}

#[test]
fn a_fresh_fleet_is_well() {
    let (dir, _) = init();
    let (code, findings) = doctor(&dir.path().join("fleet/cardea.toml"), &FREE_PORTS);
    assert_eq!(code, Some(0), "{findings:?}");
    assert!(findings.iter().all(|finding| finding["verdict"] == "ok"), "{findings:?}");
    assert!(findings.len() >= 12, "{findings:?}");
}

#[test]
fn each_fault_is_named() {
    let (dir, _) = init();
    let fleet = dir.path().join("fleet");
    let config = fleet.join("cardea.toml");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http.listen={}", taken.local_addr().expect("an address"));
    let (code, findings) = doctor(&config, &["--set", &address]);
    let (verdict, detail) = found(&findings, "http.listen");
    assert!(code == Some(1) && verdict == "fail" && detail.contains("in use"), "{detail}");

    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(fleet.join(name), std::fs::Permissions::from_mode(mode)).expect("changed");
    };
    mode("certs/signing.key.pem", 0o644);
    let (code, findings) = doctor(&config, &FREE_PORTS);
    let (verdict, detail) = found(&findings, "secrets");
    assert!(code == Some(0) && verdict == "warn" && detail.contains("signing.key.pem"), "{detail}");
    mode("certs/signing.key.pem", 0o600);

    std::fs::rename(fleet.join("certs/ca.key.pem"), fleet.join("certs/ca.key.away")).expect("moved");
    std::fs::copy(fleet.join("certs/server.key.pem"), fleet.join("certs/ca.key.pem")).expect("copied");
    let (code, findings) = doctor(&config, &FREE_PORTS);
    let (verdict, detail) = found(&findings, "certs.ca_key");
    assert!(code == Some(1) && verdict == "fail" && detail.contains("is not the key"), "{detail}");
    std::fs::rename(fleet.join("certs/ca.key.away"), fleet.join("certs/ca.key.pem")).expect("moved back");

    std::fs::write(fleet.join("rules.toml"), "version = 7 7").expect("written");
    let (code, findings) = doctor(&config, &with(&["--set", "card_guard.rules=rules.toml"]));
    assert_eq!((code, found(&findings, "card rules").0.as_str()), (Some(1), "fail"));
    let (code, findings) = doctor(&config, &with(&["--set", "keys.signing_key=certs/server.key.pem"]));
    assert_eq!((code, found(&findings, "keys").0.as_str()), (Some(1), "fail"));
    let (code, findings) = doctor(&config, &with(&["--set", "certs.server_key=certs/ca.key.pem"]));
    assert_eq!((code, found(&findings, "certificates").0.as_str()), (Some(1), "fail"));

    let (code, _) = doctor(&config, &["--ready", "--set", &address.replace("http", "metrics")]);
    assert_eq!(code, Some(1), "somebody who accepts and says nothing is no ready gateway");
    let (code, _) = doctor(&config, &["--set", "http.listen=nowhere"]);
    assert_eq!(code, Some(2), "a config that cannot be understood is told as `serve` tells it");
}

#[tokio::test]
async fn beside_a_running_gateway_it_asks_whether_that_is_ready() {
    let mut gateway = Gateway::start().await;
    gateway.register("WVW-1").await;
    let metrics = format!("metrics.listen={}", gateway.metrics.trim_start_matches("http://"));
    let (code, findings) = doctor(&gateway.config(), &["--ready", "--set", &metrics]);
    assert_eq!((code, findings.len(), found(&findings, "ready").0.as_str()), (Some(0), 1, "ok"));
    // The head file follows the journal by a moment, and beside a running gateway nothing beyond it is looked at.
    kit::until("the head file knows the vehicle", async || {
        let (_, findings) = doctor(&gateway.config(), &["--set", &metrics]);
        found(&findings, "journal").1.contains("the newest of")
    })
    .await;
    let (code, findings) = doctor(&gateway.config(), &["--deep", "--set", &metrics]);
    assert_eq!(code, Some(0), "{findings:?}");
    assert!(found(&findings, "journal, whole").1.contains("whole and chained"));
    assert!(findings.iter().all(|finding| finding["check"] != "http.listen"), "its own ports are not in its way");
    gateway.kill();
    let (code, findings) = doctor(&gateway.config(), &["--ready", "--set", &metrics]);
    assert_eq!((code, found(&findings, "ready").0.as_str()), (Some(1), "fail"));

    let head = gateway.data().join("journal.head");
    std::fs::write(&head, b"nothing").expect("written");
    let (code, findings) = doctor(&gateway.config(), &FREE_PORTS);
    assert_eq!((code, found(&findings, "journal").0.as_str()), (Some(1), "fail"));
}
