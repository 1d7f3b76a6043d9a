//! The console's WebSocket at the real program, with the simulator's cars: it follows, it commands, it resumes, and a
//! console that never reads costs a bounded amount of memory and still ends at the newest state.

mod kit;

use std::time::Duration;

use futures_util::StreamExt;
use kit::console::Console;
use kit::{Gateway, PATIENCE, car, until};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const SPEED: &str = "Vehicle.Speed";

#[tokio::test]
async fn a_console_follows_a_car_and_its_command_to_the_end() {
    let gateway = Gateway::start().await;
    gateway.register("LIVE-1").await;
    gateway.register("PARKED-1").await;
    let mut console = Console::open(&gateway).await;
    let snapshot = console.hear().await;
    assert_eq!(snapshot["type"], "snapshot");
    assert_eq!(console.vehicles.len(), 2, "one that never connected is shown too");
    let (_, shown) = gateway.get("/v1/vehicles/PARKED-1").await;
    assert_eq!(console.vehicles["PARKED-1"], shown, "the same as by GET");

    let _car = car::connect(&gateway, "LIVE-1").await;
    console.hear_until("the car is online", |console| console.is_online("LIVE-1")).await;
    console.hear_until("its signals", |console| console.vehicles["LIVE-1"]["signals"][SPEED].is_object()).await;

    let command = json!({"type": "command", "id": "c1", "vehicle_id": "LIVE-1", "command": {"type": "lock"}});
    console.say(command).await;
    let reply = loop {
        let frame = console.hear().await;
        if frame["type"] == "reply" {
            break frame;
        }
    };
    assert_eq!((&reply["id"], &reply["ok"]), (&json!("c1"), &json!(true)), "{reply}");
    let id = reply["command"]["command_id"].as_str().expect("an id").to_owned();
    let is_done = |console: &Console| {
        console.commands.get(&id).is_some_and(|states| states.last().map(String::as_str) == Some("succeeded"))
    };
    console.hear_until("the lock succeeded", is_done).await;
    assert_eq!(gateway.command_state(&id).await, "succeeded");
}

#[tokio::test]
async fn a_declined_purchase_is_heard_at_once_with_its_checks_and_its_alert() {
    let gateway = Gateway::start().await;
    gateway.register("FUEL-1").await;
    let card = json!({"card_id": "c-1", "network_ref": "ic_console", "vehicle_id": "FUEL-1", "status": "active"});
    assert_eq!(gateway.post("/v1/cards", card).await.0, 201);
    let mut console = Console::open(&gateway).await;
    console.hear().await;
    let event = json!({
        "id": "evt_console", "type": "issuing_authorization.request", "created": kit::unix_now(),
        "data": {"object": {
            "id": "iauth_console", "amount": 6240, "currency": "eur", "created": kit::unix_now(),
            "card": {"id": "ic_console", "last4": "4242", "status": "active"},
            "merchant_data": {"category_code": "5542", "name": "Pump", "network_id": "net", "terminal_id": "t1"},
            "pending_request": {"amount": 6240, "currency": "eur", "is_amount_controllable": true},
        }}
    });
    let (status, answer) = gateway.stripe(&event).await;
    assert_eq!((status, &answer["approved"]), (200, &json!(false)), "{answer}");
    console
        .hear_until("decision and alert", |console| !console.decisions.is_empty() && !console.alerts.is_empty())
        .await;
    let decision = &console.decisions[0];
    let by_get = gateway.get(&format!("/v1/decisions/{}", decision["decision_id"].as_str().expect("an id"))).await;
    assert_eq!(by_get, (200, decision.clone()));
    assert!(decision["checks"].as_array().expect("checks").iter().any(|check| check["verdict"] == "fail"));
    assert_eq!(console.alerts[0]["vehicle_id"], "FUEL-1");

    let mut late = Console::open(&gateway).await;
    late.hear().await;
    assert_eq!(late.alerts.len(), 1, "who comes later finds the open alert in the snapshot");
}

#[tokio::test]
async fn a_console_resumes_after_a_loss_and_starts_over_after_a_restart() {
    let mut gateway = Gateway::start().await;
    for vehicle in ["A-1", "B-1"] {
        gateway.register(vehicle).await;
    }
    let mut console = Console::open(&gateway).await;
    console.hear().await;
    let (seq, stream) = (console.seq, console.stream.clone());
    drop(console);

    let _car = car::connect(&gateway, "B-1").await;
    let mut console = Console::open(&gateway).await;
    console.say(json!({"type": "resume", "after": seq, "stream": stream})).await;
    let frame = console.hear().await;
    assert_eq!(frame["type"], "changes");
    assert_eq!(console.vehicles.keys().collect::<Vec<_>>(), ["B-1"], "only what changed");
    drop(console);

    gateway.kill();
    gateway.launch().expect("it starts again");
    let mut console = Console::open(&gateway).await;
    console.say(json!({"type": "resume", "after": seq})).await;
    let frame = console.hear().await;
    assert_eq!(frame["type"], "snapshot", "numbers of an earlier life are recognised without the stream's name too");
    assert_ne!(console.stream, stream);
    console.hear_until("both vehicles", |console| console.vehicles.len() == 2).await;
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// With every change queued for every console, 100 consoles x 20 vehicles x about 2 kB would be 4 MB a second, and
/// 32 MB after the 8 s watched here.
#[tokio::test]
async fn consoles_that_never_read_cost_bounded_memory_and_then_converge() {
    let gateway = Gateway::start().await;
    let ids: Vec<String> = (1..=20).map(|number| format!("BUSY-{number}")).collect();
    let mut cars = Vec::new();
    for id in &ids {
        gateway.register(id).await;
        cars.push(car::connect(&gateway, id).await);
    }
    let mut reader = Console::open(&gateway).await;
    reader.hear().await;
    let mut deaf = Vec::new();
    for _ in 0..100 {
        deaf.push(Console::open(&gateway).await);
    }
    let frames_out = "cardea_console_frames_out_total";
    until("all consoles have their first batch", async || gateway.metric(frames_out).await >= 101.0).await;

    let before = resident_kib(gateway.pid());
    let mut frames = 0;
    let reading = async {
        loop {
            reader.hear().await;
            frames += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(8), reading).await.is_err());
    let grown = resident_kib(gateway.pid()).saturating_sub(before);
    println!("a console that reads got {frames} frames meanwhile; memory grew by {grown} KiB");
    assert!(frames >= 4, "the one that reads is not held up by those that do not: {frames}");
    assert!(grown < 12 * 1024, "memory grew by {grown} KiB");

    drop(cars);
    let mut console = deaf.pop().expect("a console");
    for id in &ids {
        until("the car is offline", async || !gateway.is_online(id).await).await;
    }
    console
        .hear_until("every car is offline", |console| {
            ids.iter().all(|id| console.vehicles.contains_key(id) && !console.is_online(id))
        })
        .await;
    // What the cars said last may still be on its way through the gateway when their links are down already.
    let converging = async {
        for id in &ids {
            while console.vehicles[id.as_str()]["signals"]
                != gateway.get(&format!("/v1/vehicles/{id}")).await.1["signals"]
            {
                console.hear().await;
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, converging).await.is_ok(), "the console never came to the newest state");
}

/// A stop used to wait three seconds for every console, and then cut it off without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_consoles_to_come_back() {
    let mut gateway = Gateway::start().await;
    let mut console = Console::open(&gateway).await;
    console.hear().await;
    assert!(gateway.stop().success());
    let farewell = async {
        loop {
            match console.socket.next().await {
                Some(Ok(Message::Close(Some(why)))) => return u16::from(why.code),
                Some(Ok(_)) => {}
                other => panic!("it ended without a word: {other:?}"),
            }
        }
    };
    // Service restart.
    assert_eq!(tokio::time::timeout(PATIENCE, farewell).await.expect("in time"), 1012);
}
