//! A full disk: nothing new is promised, everything else goes on, and all is well again when space returns.

mod kit;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kit::console::Console;
use kit::{Gateway, car, until};
use reqwest::Method;
use serde_json::{Value, json};

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=160m", "cardea-test"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Takes all the space there is.
    fn fill(&self) {
        let filler = format!("of={}", self.filler().display());
        let done = Command::new("dd").args(["if=/dev/zero", "bs=1M"]).arg(filler).output();
        assert!(done.is_ok_and(|output| !output.status.success()), "the disk was not filled");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the filler goes");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A gateway that still runs holds it; lazily it goes with the gateway.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn purchase(id: &str) -> Value {
    json!({
        "id": format!("evt_{id}"), "type": "issuing_authorization.request", "created": kit::unix_now(),
        "data": {"object": {
            "id": id, "amount": 0, "currency": "eur", "created": kit::unix_now(),
            "card": {"id": "ic_full", "last4": "4242", "status": "active"},
            "merchant_data": {"category_code": "5542", "name": "Pump", "network_id": "net", "terminal_id": "t1"},
            "pending_request": {"amount": 6240, "currency": "eur", "is_amount_controllable": true},
        }}
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_promises_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk")) else {
        println!("SKIPPED: file systems cannot be mounted here");
        return;
    };
    let dir = format!("data.dir={}", disk.0.join("data").display());
    let gateway = Gateway::start_with(&[&dir, "data.segment_mib=8", "data.min_free_mib=16"]).await;
    gateway.register("FULL-1").await;
    let car = car::connect(&gateway, "FULL-1").await;
    let card = json!({"card_id": "c-1", "network_ref": "ic_full", "vehicle_id": "FULL-1", "status": "active"});
    assert_eq!(gateway.post("/v1/cards", card).await.0, 201);
    let mut console = Console::open(&gateway).await;
    console.hear().await;
    let (status, before) = gateway.post("/v1/vehicles/FULL-1/commands", json!({"type": "locate"})).await;
    assert_eq!(status, 202);
    let id = before["command_id"].as_str().expect("an id");
    until("the command is done", async || gateway.get(&format!("/v1/commands/{id}")).await.1["state"] == "succeeded")
        .await;
    // Promises end before the disk is full, so that the view has had room for what it knows; here all space goes at once.
    until("the view is on disk", async || gateway.metric("cardea_store_view_unflushed").await == 0.0).await;

    disk.fill();
    until("promises are refused", async || {
        gateway.post("/v1/vehicles/FULL-1/commands", json!({"type": "locate"})).await.0 == 503
    })
    .await;
    let request = gateway.request(Method::POST, "/v1/vehicles/FULL-1/commands").json(&json!({"type": "lock"}));
    let refused = request.send().await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("Retry-After"));
    let problem: serde_json::Value = refused.json().await.expect("a problem");
    assert_eq!(problem["type"], "urn:cardea:problem:storage-unavailable");
    let question = purchase("iauth_full");
    let answer = tokio::time::timeout(Duration::from_secs(1), gateway.stripe(&question)).await;
    let (status, heard) = answer.expect("within a second");
    assert_eq!((status, &heard["approved"]), (200, &json!(false)), "{heard}");
    assert_eq!(heard["metadata"]["outcome"], "fallback", "no decision is claimed that is not on record: {heard}");
    let wish = json!({"vehicle_id": "FULL-1", "profile": "cabin", "renter": "ann", "from": kit::rfc3339_in(0),
        "until": kit::rfc3339_in(3_600), "holder_key": {"kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}});
    assert_eq!(gateway.post("/v1/usage-requests", wish.clone()).await.0, 503);
    let (status, _) = gateway.probe("/readyz").await;
    assert_eq!(status, 503, "a load balancer should know");
    assert!(gateway.metric("cardea_store_refused_total").await > 0.0);

    let applied = gateway.metric("cardea_reports_applied_total").await;
    until("telemetry goes on", async || gateway.metric("cardea_reports_applied_total").await > applied + 5.0).await;
    car.set_driving(true).await.expect("it drives");
    until("the twin goes on", async || {
        let (_, twin) = gateway.get("/v1/vehicles/FULL-1").await;
        twin["signals"]["Vehicle.Speed"]["value"].as_f64().is_some_and(|speed| speed > 0.0)
    })
    .await;
    console
        .hear_until("the car drives", |console| {
            console.vehicles["FULL-1"]["signals"]["Vehicle.Speed"]["value"].as_f64().is_some_and(|speed| speed > 0.0)
        })
        .await;
    assert_eq!(gateway.get(&format!("/v1/commands/{id}")).await.0, 200, "what was promised can be read");

    disk.free();
    until("promises are taken again", async || {
        gateway.post("/v1/vehicles/FULL-1/commands", json!({"type": "locate"})).await.0 == 202
    })
    .await;
    assert_eq!(gateway.stripe(&purchase("iauth_full")).await, (200, heard), "what was heard stays");
    let (status, decided) = gateway.stripe(&purchase("iauth_next")).await;
    assert_eq!(
        (status, &decided["metadata"]["outcome"]),
        (200, &json!("decline")),
        "judged: nobody has rented the car"
    );
    assert_eq!(gateway.post("/v1/usage-requests", wish).await.0, 201);
    until("ready again", async || gateway.probe("/readyz").await.0 == 200).await;
    let (_, lock) = gateway.post("/v1/vehicles/FULL-1/commands", json!({"type": "lock"})).await;
    let id = lock["command_id"].as_str().expect("an id").to_owned();
    until("the car obeys again", async || gateway.command_state(&id).await == "succeeded").await;
}
