//! A damaged data folder under the real program: a view is made anew and answers the same; a damaged journal is refused
//! by name and place; never does it start empty.

mod kit;

use std::path::{Path, PathBuf};

use kit::{Gateway, car, until};
use serde_json::{Value, json};

/// A gateway with something worth keeping, and what it answers about it.
async fn with_history() -> (Gateway, Vec<(String, Value)>) {
    let gateway = Gateway::start().await;
    gateway.register("OLD-1").await;
    let car = car::connect(&gateway, "OLD-1").await;
    let mut paths = vec!["/v1/cards".to_owned(), "/v1/stations".to_owned()];
    for kind in ["lock", "unlock", "locate"] {
        let (status, command) = gateway.post("/v1/vehicles/OLD-1/commands", json!({"type": kind})).await;
        assert_eq!(status, 202, "{command}");
        let id = command["command_id"].as_str().expect("an id").to_owned();
        until("it is done", async || gateway.command_state(&id).await == "succeeded").await;
        paths.push(format!("/v1/commands/{id}"));
    }
    let card = json!({"network_ref": "ic_old", "vehicle_id": "OLD-1", "status": "active"});
    assert_eq!(gateway.post("/v1/cards", card).await.0, 201);
    let station = json!({"station_id": "old", "name": "Old", "position": {"latitude": 45.0, "longitude": 7.0},
        "terminals": [{"network_id": "n1"}]});
    assert_eq!(gateway.post("/v1/stations", station).await.0, 201);
    car.stop().await.expect("the car leaves");
    let mut answers = Vec::new();
    for path in paths {
        let (status, answer) = gateway.get(&path).await;
        assert_eq!(status, 200, "{answer}");
        answers.push((path, answer));
    }
    (gateway, answers)
}

async fn assert_same(gateway: &Gateway, answers: &[(String, Value)]) {
    for (path, before) in answers {
        assert_eq!(gateway.get(path).await, (200, before.clone()), "{path}");
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map_while(Result::ok) {
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

fn largest(folder: &Path) -> PathBuf {
    let size = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
    files_below(folder).into_iter().max_by_key(size).expect("a file")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("readable");
    let place = at % bytes.len();
    bytes[place] ^= 0x10;
    std::fs::write(path, bytes).expect("writable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_lost_cut_or_flipped_is_made_anew_and_answers_the_same() {
    let (mut gateway, answers) = with_history().await;
    let view = gateway.data().join("view");
    let truncate = |path: &Path, to: u64| {
        std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(to)).expect("it can be cut");
    };
    type Damage<'a> = Box<dyn Fn() + 'a>;
    let damages: [(&str, Damage<'_>); 4] = [
        ("emptied", Box::new(|| std::fs::remove_dir_all(&view).expect("it goes"))),
        (
            "cut in half",
            Box::new(|| {
                let file = largest(&view);
                truncate(&file, file.metadata().expect("there").len() / 2);
            }),
        ),
        ("cut to nothing", Box::new(|| truncate(&largest(&view), 0))),
        (
            "flipped",
            Box::new(|| {
                for at in [100, 5_000, 50_000] {
                    flip(&largest(&view), at);
                }
            }),
        ),
    ];
    for (what, damage) in damages {
        gateway.kill();
        damage();
        gateway.launch().unwrap_or_else(|(log, _)| panic!("{what}: {log}"));
        assert_same(&gateway, &answers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_refused_by_segment_and_offset_and_never_starts_empty() {
    let (mut gateway, answers) = with_history().await;
    assert!(gateway.stop().success());
    let journal = gateway.data().join("journal");
    let segment = files_below(&journal).into_iter().filter(|path| path.extension().is_some()).min().expect("a segment");
    let whole = std::fs::read(&segment).expect("readable");

    flip(&segment, 700);
    let (log, status) = gateway.launch().expect_err("a flipped bit is refused");
    assert_eq!(status.code(), Some(1));
    assert_names(&log, &segment);
    std::fs::write(&segment, &whole).expect("writable");

    std::fs::write(&segment, &whole[..900]).expect("writable");
    let (log, status) = gateway.launch().expect_err("a journal that ends before its head is refused");
    assert_eq!(status.code(), Some(1));
    assert_names(&log, &segment);

    std::fs::remove_file(&segment).expect("it goes");
    gateway.launch().expect_err("a lost segment is refused");

    std::fs::write(&segment, &whole).expect("writable");
    gateway.launch().unwrap_or_else(|(log, _)| panic!("whole again: {log}"));
    assert_same(&gateway, &answers).await;
}

/// The message says which segment, where, and what to do.
fn assert_names(log: &str, segment: &Path) {
    let line = log.lines().rev().find(|line| line.starts_with("cardea: ")).expect("a message");
    let name = segment.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(line.contains(name), "names the segment: {line}");
    assert!(line.chars().any(|c| c.is_ascii_digit()) && line.contains("byte"), "names the place: {line}");
    assert!(log.contains("backup") || log.contains("journal verify"), "says what to do: {log}");
}
