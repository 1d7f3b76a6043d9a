//! A car that is not ours: `mosquitto_sub` and `mosquitto_pub` with an enrolled certificate, both under the car's one
//! client id. Skipped with a line where they are not installed.

mod gate_harness;

use std::path::Path;
use std::process::Stdio;

use cardea::actors::vehicle::FromCar;
use cardea::domain::command::{AckStatus, Order};
use gate_harness::*;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// The options that both tools need.
fn mosquitto(tool: &str, gate: &Gate, dir: &Path, car: &Enrolled) -> Command {
    let mut command = Command::new(tool);
    command.args(["-h", "localhost", "-p", &gate.addr.port().to_string(), "-q", "1", "-i", car.vehicle.as_str()]);
    for (option, name) in [("--cafile", "ca.pem"), ("--cert", "cert.pem"), ("--key", "key.pem")] {
        command.arg(option).arg(dir.join(name));
    }
    command.kill_on_drop(true);
    command
}

async fn is_installed() -> bool {
    let found = Command::new("mosquitto_sub").arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    if found.is_err() {
        println!("skipped: mosquitto_sub is not installed");
    }
    found.is_ok()
}

struct Subscriber {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Subscriber {
    fn start(gate: &Gate, dir: &Path, car: &Enrolled) -> Self {
        let topic = format!("v1/{}/command", car.vehicle);
        let mut command = mosquitto("mosquitto_sub", gate, dir, car);
        let mut child = command.args(["-t", &topic]).stdout(Stdio::piped()).spawn().expect("it starts");
        Self { lines: BufReader::new(child.stdout.take().expect("piped")).lines(), _child: child }
    }

    async fn line(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.lines.next_line())
            .await
            .expect("nothing came")
            .expect("readable")
            .expect("a line")
    }
}

#[tokio::test]
async fn mosquitto_clients_get_a_command_and_acknowledge_it() {
    if !is_installed().await {
        return;
    }
    let gate = start_gate(|_| {});
    let car = gate.enroll("MOSQUITTO-1");
    let dir = tempfile::tempdir().unwrap();
    for (name, pem) in [("ca.pem", &car.ca), ("cert.pem", &car.cert), ("key.pem", &car.key)] {
        std::fs::write(dir.path().join(name), pem).unwrap();
    }
    let mut subscriber = Subscriber::start(&gate, dir.path(), &car);
    let first = gate.link_up(&car.vehicle).await;
    let sent = gate.send(&car.vehicle, Order::Lock);
    let line: serde_json::Value = serde_json::from_str(&subscriber.line().await).unwrap();
    assert_eq!(line["command_id"], sent.to_string());

    // The publisher takes over the identity for a moment, which throws the subscriber out.
    let ack = format!(r#"{{"command_id":"{sent}","at":"2026-11-21T22:36:46.000Z","status":"succeeded"}}"#);
    let mut publisher = mosquitto("mosquitto_pub", &gate, dir.path(), &car);
    let status = publisher.args(["-t", "v1/MOSQUITTO-1/ack", "-m", &ack]).status().await.unwrap();
    assert!(status.success());
    let is_it = |message: &FromCar| match message {
        FromCar::Ack(ack) => (ack.command_id == sent && ack.status == AckStatus::Succeeded).then_some(()),
        _ => None,
    };
    gate.told.until("the ack", &car.vehicle, is_it).await;

    // It comes back by itself, and gets what is sent then.
    let resumed = |message: &FromCar| epoch_up(message).filter(|epoch| *epoch > first + 1);
    gate.told.until("the subscriber's return", &car.vehicle, resumed).await;
    let sent = gate.send(&car.vehicle, Order::Unlock);
    let line: serde_json::Value = serde_json::from_str(&subscriber.line().await).unwrap();
    assert_eq!((&line["command_id"], &line["type"]), (&sent.to_string().into(), &"unlock".into()));
}
