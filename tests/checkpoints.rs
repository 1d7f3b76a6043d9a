//! Signed checkpoints: they agree with the journal they witnessed, and find out one that was cut or put back.

mod kit;

use std::path::Path;
use std::process::Command;

use kit::{Gateway, run, until};
use reqwest::Method;
use serde_json::{Value, json};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn verify(gateway: &Gateway, file: &Path) -> (Option<i32>, String) {
    let config = gateway.config();
    let output = Command::new(env!("CARGO_BIN_EXE_cardea"))
        .args(["journal", "verify", "--config", text(&config), "--checkpoints", text(file)])
        .output()
        .expect("the program runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

async fn verified_by_http(gateway: &Gateway) -> Value {
    let started = gateway.request(Method::POST, "/v1/audit/verification").send().await.expect("an answer");
    assert_eq!(started.status(), 202);
    until("the walk is over", async || gateway.get("/v1/audit/verification").await.1["state"] != "running").await;
    gateway.get("/v1/audit/verification").await.1
}

#[tokio::test]
async fn a_journal_that_was_put_back_is_not_the_one_that_was_witnessed() {
    let mut gateway = Gateway::start_with(&["audit.checkpoints=witness.ndjson", "audit.checkpoint_every_s=1"]).await;
    let file = gateway.fleet_dir().join("witness.ndjson");
    gateway.register("WVW-1").await;
    until("it is witnessed", async || lines(&file).iter().any(|line| line["records"].as_u64() >= Some(2))).await;
    let first = verified_by_http(&gateway).await;
    assert_eq!(first["state"], "intact", "{first}");
    assert!(first["checkpoints"].as_u64() >= Some(1), "{first}");
    let copy = gateway.fleet_dir().join("copy");
    let config = gateway.config();
    run(&["backup", "--config", text(&config), "--out", text(&copy)]);

    gateway.register("WVW-2").await;
    assert!(gateway.stop().success());
    let (code, said) = verify(&gateway, &file);
    assert_eq!(code, Some(0), "{said}");
    let found: Value = serde_json::from_str(&said).expect("one JSON line");
    assert_eq!(found["checkpoints"].as_u64(), Some(lines(&file).len() as u64));
    assert_eq!(lines(&file).last().expect("one at the stop")["records"], found["records"]);

    run(&["restore", "--config", text(&config), "--from", text(&copy), "--replace"]);
    let (code, said) = verify(&gateway, &file);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the journal is not what was witnessed: it had"), "{said}");

    // It grows beyond what was witnessed with other records: still found out, and by the running gateway as well.
    gateway.launch().expect("it starts");
    gateway.register("WVW-3").await;
    gateway.register("WVW-4").await;
    let second = verified_by_http(&gateway).await;
    assert_eq!(second["state"], "damaged", "{second}");
    let problem = second["problem"].as_str().expect("a sentence");
    // Which of the two is a matter of how far the head file is.
    let is_told = problem.contains("is another one") || problem.contains("it had 4 records then");
    assert!(is_told && !problem.contains('/'), "and names no path: {problem}");
    assert!(gateway.stop().success());

    let forged = std::fs::read_to_string(&file).expect("text").replacen("\"records\":", "\"records\":1", 1);
    std::fs::write(&file, forged).expect("written");
    let (code, said) = verify(&gateway, &file);
    assert!(code == Some(1) && said.contains("line 1") && said.contains("signature does not fit"), "{said}");
    assert_eq!(json!(verify(&gateway, Path::new("/nowhere")).0), json!(1), "one that is named must be there");
}
