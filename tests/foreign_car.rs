//! The whole flow with a car that is not ours: mosquitto's own clients with an enrolled certificate.

mod kit;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use kit::{Gateway, PATIENCE, has, until};
use serde_json::{Value, json};

/// `mosquitto_sub` on the car's command topic, and what it printed.
struct ForeignCar {
    id: String,
    port: String,
    folder: std::path::PathBuf,
    subscriber: Child,
    heard: Receiver<Value>,
}

fn tls(command: &mut Command, folder: &Path) {
    command.arg("--cafile").arg(folder.join("ca.pem"));
    command.arg("--cert").arg(folder.join("cert.pem")).arg("--key").arg(folder.join("key.pem"));
}

impl ForeignCar {
    fn connect(gateway: &Gateway, id: &str) -> Self {
        let folder = gateway.enroll(id);
        let port = gateway.mqtt.port().to_string();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-V", "mqttv311", "-h", "127.0.0.1", "-p", &port, "-i", id, "-q", "1"]);
        command.args(["-t", &format!("v1/{id}/command")]);
        tls(&mut command, &folder);
        let mut subscriber = command.stdout(Stdio::piped()).spawn().expect("mosquitto_sub starts");
        let output = BufReader::new(subscriber.stdout.take().expect("piped"));
        let (hear, heard) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let message = serde_json::from_str(&line).expect("one JSON object a message");
                if hear.send(message).is_err() {
                    return;
                }
            }
        });
        Self { id: id.into(), port, folder, subscriber, heard }
    }

    /// The next message of this type; others are passed over.
    fn hears(&self, kind: &str) -> Value {
        loop {
            let message = self.heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {kind} came"));
            if message["type"] == kind {
                return message;
            }
        }
    }

    fn publish(&self, topic: &str, message: &Value) {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-V", "mqttv311", "-h", "127.0.0.1", "-p", &self.port, "-i", &self.id, "-q", "1"]);
        command.args(["-t", &format!("v1/{}/{topic}", self.id), "-m", &message.to_string()]);
        tls(&mut command, &self.folder);
        assert!(command.status().expect("mosquitto_pub runs").success());
    }

    fn acknowledge(&self, command: &Value) {
        let at = command["issued_at"].clone();
        self.publish("ack", &json!({"command_id": command["command_id"], "at": at, "status": "succeeded"}));
    }
}

impl Drop for ForeignCar {
    fn drop(&mut self) {
        self.subscriber.kill().expect("it can be ended");
        self.subscriber.wait().expect("it ended");
    }
}

#[tokio::test]
async fn a_car_that_is_not_ours_gets_its_grant_and_its_lock_and_both_succeed() {
    if !has("mosquitto_sub") || !has("mosquitto_pub") {
        println!("SKIPPED: mosquitto's clients are not installed (./scripts/test installs them)");
        return;
    }
    let gateway = Gateway::start().await;
    gateway.register("FOREIGN-1").await;
    let car = ForeignCar::connect(&gateway, "FOREIGN-1");
    until("the car is online", async || gateway.is_online("FOREIGN-1").await).await;

    let holder = json!({
        "kty": "EC", "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
    });
    let (from, until_time) = (kit::rfc3339_in(0), kit::rfc3339_in(3600));
    let wish = json!({"vehicle_id": "FOREIGN-1", "profile": "cabin", "from": from, "until": until_time,
        "holder_key": holder, "renter": "ann"});
    let (status, usage) = gateway.post("/v1/usage-requests", wish).await;
    assert_eq!(status, 201, "{usage}");
    let key_id = usage["key"]["key_id"].as_str().expect("a key").to_owned();
    assert!(usage["key"]["prohibits"].as_array().expect("a list").contains(&json!("drive")));

    let grant = car.hears("grant_key");
    assert_eq!(grant["key"]["key_id"], key_id.as_str());
    assert!(grant["key"]["permits"].as_array().expect("a list").contains(&json!("unlock_doors")));
    assert!(!grant["key"]["permits"].as_array().expect("a list").contains(&json!("drive")));
    car.acknowledge(&grant);
    until("the key is delivered", async || gateway.get(&format!("/v1/keys/{key_id}")).await.1["state"] == "delivered")
        .await;

    let (status, lock) = gateway.post("/v1/vehicles/FOREIGN-1/commands", json!({"type": "lock"})).await;
    assert_eq!(status, 202, "{lock}");
    let command = car.hears("lock");
    assert_eq!(command["command_id"], lock["command_id"]);
    car.acknowledge(&command);
    let id = lock["command_id"].as_str().expect("an id");
    until("the lock succeeded", async || gateway.command_state(id).await == "succeeded").await;
}
