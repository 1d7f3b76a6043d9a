//! `cardea backup` beside a running gateway and `cardea restore`: what was promised before the copy began is in it, a
//! copy that is not whole is refused, and nothing that is there is overwritten.

mod kit;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kit::{Gateway, car, run, until};
use serde_json::{Value, json};

fn try_run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cardea")).args(arguments).output().expect("the program runs")
}

fn refused(arguments: &[&str]) -> String {
    let output = try_run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Orders `count` commands to a car that is away; their ids.
async fn promises(gateway: &Gateway, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let body = json!({"type": "locate", "ttl_s": 86_400});
        let (status, command) = gateway.post("/v1/vehicles/AWAY-1/commands", body).await;
        assert_eq!(status, 202, "{command}");
        ids.push(command["command_id"].as_str().expect("an id").to_owned());
    }
    ids
}

fn back_up(gateway: &Gateway, out: &Path, more: &[&str]) -> Value {
    let config = gateway.config();
    let line = run(&[&["backup", "--config", text(&config), "--out", text(out)], more].concat());
    serde_json::from_str(&line).expect("one JSON line")
}

#[tokio::test]
async fn what_was_promised_before_a_copy_began_comes_back_with_it() {
    let mut gateway = Gateway::start_with(&["data.segment_mib=1"]).await;
    gateway.register("AWAY-1").await;
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("copy");
    let before = promises(&gateway, 40).await;
    // The copy is taken under load: more is promised all the while.
    let copying = {
        let (config, out) = (gateway.config(), out.clone());
        tokio::task::spawn_blocking(move || run(&["backup", "--config", text(&config), "--out", text(&out)]))
    };
    while !copying.is_finished() {
        promises(&gateway, 1).await;
    }
    let made: Value = serde_json::from_str(&copying.await.expect("it ran")).expect("one JSON line");
    let after = promises(&gateway, 1).await;
    assert!(gateway.stop().success());
    let config = gateway.config();

    // Data that is there is never overwritten.
    let said = refused(&["restore", "--config", text(&config), "--from", text(&out)]);
    assert!(said.contains("is not empty; nothing was changed"), "{said}");
    let restored = run(&["restore", "--config", text(&config), "--from", text(&out), "--replace"]);
    let restored: Value = serde_json::from_str(&restored).expect("one JSON line");
    assert_eq!((&restored["records"], &restored["last_hash"]), (&made["records"], &made["last_hash"]));
    let aside = PathBuf::from(restored["moved_aside"].as_str().expect("the data of before"));
    assert!(aside.join("journal").is_dir());

    gateway.launch().expect("it starts with what was put back");
    for id in &before {
        // The newest of them waits for the car, and took the place of the others.
        let state = gateway.command_state(id).await;
        assert!(state == "queued" || state == "superseded", "{state}");
    }
    let (status, _) = gateway.get(&format!("/v1/commands/{}", after[0])).await;
    assert_eq!(status, 404, "what came after the copy is not in it");
    promises(&gateway, 1).await;
    assert!(gateway.stop().success());
    run(&["journal", "verify", "--config", text(&config)]);
}

#[tokio::test]
async fn a_fleet_rises_again_elsewhere_from_a_copy_with_its_keys() {
    let mut gateway = Gateway::start().await;
    gateway.register("AWAY-1").await;
    let ids = promises(&gateway, 1).await;
    let car_identity = gateway.enroll("AWAY-1");
    let folder = tempfile::tempdir().expect("a folder");
    let (out, place) = (folder.path().join("copy"), folder.path().join("elsewhere/fleet"));
    let made = back_up(&gateway, &out, &["--with-keys"]);
    assert_eq!((&made["with_keys"], &made["left_out"]), (&json!(true), &json!([])));
    gateway.kill();
    std::fs::remove_dir_all(gateway.fleet_dir().join("data")).expect("the first machine is gone");

    run(&["restore", "--from", text(&out), "--dir", text(&place)]);
    for private in ["cardea.toml", "certs/ca.key.pem", "certs/signing.key.pem"] {
        let mode = std::os::unix::fs::MetadataExt::mode(&place.join(private).metadata().expect("it is there"));
        assert_eq!(mode & 0o777, 0o600, "{private}");
    }
    // The same fleet: its admin's key opens it, its cars come in, and what was promised is kept.
    std::fs::remove_dir_all(gateway.fleet_dir().join("certs")).expect("gone");
    std::fs::remove_file(gateway.config()).expect("gone");
    for (from, to) in [("cardea.toml", "cardea.toml"), ("certs", "certs"), ("data", "data")] {
        std::fs::rename(place.join(from), gateway.fleet_dir().join(to)).expect("moved where the test looks");
    }
    gateway.launch().expect("it starts");
    assert!(car_identity.join("cert.pem").exists());
    let car = car::connect(&gateway, "AWAY-1").await;
    until("the command reaches the car", async || gateway.command_state(&ids[0]).await == "succeeded").await;
    car.stop().await.expect("the car leaves");
}

#[tokio::test]
async fn a_copy_that_is_not_whole_is_refused_and_leaves_nothing_behind() {
    let mut gateway = Gateway::start().await;
    gateway.register("AWAY-1").await;
    promises(&gateway, 3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("copy");
    back_up(&gateway, &out, &[]);
    let config = gateway.config();
    let restore = ["restore", "--config", text(&config), "--from", text(&out), "--replace"];
    let said = refused(&restore);
    assert!(said.contains("a gateway is running") && said.contains("Nothing was changed"), "{said}");
    let said = refused(&["backup", "--config", text(&config), "--out", text(&out)]);
    assert!(said.contains("is not empty; nothing was changed"), "{said}");
    let said = refused(&["restore", "--from", text(&out), "--dir", text(&folder.path().join("new"))]);
    assert!(said.contains("has no config and keys") && !folder.path().join("new").exists(), "{said}");
    assert!(gateway.stop().success());

    let manifest: Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).expect("a manifest")).expect("JSON");
    let files = manifest["files"].as_array().expect("files");
    assert!(files.len() >= 2, "{manifest}");
    for file in files {
        let path = out.join(file["path"].as_str().expect("a path"));
        let whole = std::fs::read(&path).expect("a file");
        for place in [0, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            std::fs::write(&path, &changed).expect("written");
            let said = refused(&restore);
            assert!(said.contains("is not the file that was backed up"), "{} byte {place}: {said}", path.display());
        }
        std::fs::write(&path, &whole).expect("written");
    }
    let outside =
        std::fs::read_to_string(out.join("manifest.json")).expect("text").replace("data/journal.head", "../x");
    let honest = std::fs::read(out.join("manifest.json")).expect("a manifest");
    std::fs::write(out.join("manifest.json"), outside).expect("written");
    assert!(refused(&restore).contains("outside of it"));
    std::fs::write(out.join("manifest.json"), honest).expect("written");

    let beside: Vec<_> = std::fs::read_dir(gateway.fleet_dir())
        .expect("a folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("data"))
        .collect();
    assert_eq!(beside, ["data"], "no failed try left anything, and the data stays where it was");
    gateway.launch().expect("it starts as before");
}
