//! A key used at the car itself, over the local link that stands in for BLE or NFC: the real gateway grants it, then car
//! and phone are both without a network, and what happened is told when the link is back.

mod kit;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use cardea::domain::{Function, KeyId, Timestamp};
use cardea::token::Keyset;
use cardea_simulator::car::CarHandle;
use cardea_simulator::http_client::HttpClient;
use cardea_simulator::local_link::LocalLink;
use cardea_simulator::phone::{HandedOn, Phone, Requested, Terms, VirtualKey};
use kit::{Gateway, PATIENCE, car, until};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Scene {
    gateway: Gateway,
    car: CarHandle,
    link: LocalLink,
    phone: Phone,
    key: VirtualKey,
}

async fn keyset(gateway: &Gateway) -> Keyset {
    let answer = gateway.client.get(format!("{}/v1/keyset", gateway.http)).send().await.expect("the key set");
    Keyset::from_jwks(&answer.text().await.expect("text")).expect("keys")
}

fn now() -> Timestamp {
    Timestamp(i64::try_from(kit::unix_now()).expect("small") * 1_000)
}

async fn rent(gateway: &Gateway, phone: &Phone, vehicle: &str, profile: &str) -> VirtualKey {
    let vehicle = vehicle.parse().expect("an id");
    let requested = phone.request(&vehicle, profile, now(), now().plus_ms(3_600_000), Some("ann")).await;
    let Requested::Granted(key) = requested.expect("an answer") else { panic!("not granted: {}", gateway.log()) };
    key
}

/// A car with an open local link, rented under `cabin`; the grant has arrived.
async fn scene() -> Scene {
    scene_under("cabin").await
}

async fn scene_under(profile: &str) -> Scene {
    let gateway = Gateway::start().await;
    let car = car::connect(&gateway, "CAR-1").await;
    let link = car.listen_locally(ANYWHERE, Some(keyset(&gateway).await)).await.expect("a port");
    let http = HttpClient::new(&gateway.http, &gateway.ca(), Some(gateway.admin_key.clone())).expect("a client");
    let phone = Phone::new(http);
    let key = rent(&gateway, &phone, "CAR-1", profile).await;
    car.wait_granted(key.key_id, PATIENCE).await.expect("the car has the key");
    Scene { gateway, car, link, phone, key }
}

impl Scene {
    async fn present(&self, key: &VirtualKey, function: Function) -> Result<(), String> {
        self.phone.use_at_car(self.link.address, key, function).await.expect("they talk")
    }

    fn is_locked(&self) -> bool {
        self.car.state().unit.world().is_locked
    }

    /// `outcome reason` of each use the journal knows, oldest first.
    async fn journalled_uses(&self, key_id: KeyId) -> Vec<String> {
        let (status, page) = self.gateway.get("/v1/audit?limit=500").await;
        assert_eq!(status, 200, "{page}");
        let mut uses: Vec<(u64, String)> = Vec::new();
        for record in page["items"].as_array().expect("items") {
            for event in record["events"].as_array().into_iter().flatten() {
                let fact = &event["fact"];
                if fact["type"] == "key_used" && fact["key_id"] == key_id.to_string() {
                    let word = |name: &str| fact[name].as_str().unwrap_or("").to_owned();
                    let number = fact["seq"].as_u64().expect("a number");
                    uses.push((number, format!("{} {} {}", word("function"), word("outcome"), word("reason"))));
                }
            }
        }
        uses.sort();
        uses.into_iter().map(|(_, said)| said.trim_end().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_key_opens_the_car_with_car_and_phone_offline_and_the_journal_learns_of_every_use() {
    let scene = scene().await;
    scene.car.cut_link().await.expect("cut");
    until("the gateway sees it gone", async || !scene.gateway.is_online("CAR-1").await).await;
    assert!(scene.is_locked());
    assert_eq!(scene.present(&scene.key, Function::UnlockDoors).await, Ok(()));
    assert!(!scene.is_locked());
    assert_eq!(scene.present(&scene.key, Function::Drive).await, Err("not_permitted".into()));
    assert!(!scene.car.state().unit.world().is_ignition_on());
    assert_eq!(scene.present(&scene.key, Function::LockDoors).await, Ok(()));
    assert!(scene.is_locked());
    assert!(scene.journalled_uses(scene.key.key_id).await.is_empty(), "nobody could have told it");
    scene.car.restore_link().await.expect("restored");
    scene.car.wait_facts_taken(PATIENCE).await.expect("everything is told");
    let uses = scene.journalled_uses(scene.key.key_id).await;
    assert_eq!(uses, ["unlock_doors permitted", "drive refused not_permitted", "lock_doors permitted"]);
}

#[tokio::test]
async fn a_key_of_another_car_a_stolen_token_and_a_revoked_key_open_nothing() {
    let scene = scene().await;
    // Another car of the same fleet.
    let other = car::connect(&scene.gateway, "CAR-2").await;
    let foreign = rent(&scene.gateway, &scene.phone, "CAR-2", "cabin").await;
    other.wait_granted(foreign.key_id, PATIENCE).await.expect("the other car has its key");
    assert_eq!(scene.present(&foreign, Function::UnlockDoors).await, Err("wrong_vehicle".into()));
    // Whoever copied the token has not the key that it is bound to.
    let http = HttpClient::new(&scene.gateway.http, &scene.gateway.ca(), None).expect("a client");
    let thief = Phone::new(http);
    let stolen = thief.use_at_car(scene.link.address, &scene.key, Function::UnlockDoors).await.expect("they talk");
    assert_eq!(stolen, Err("bad_proof".into()));
    // Revoked while the car is away: it refuses as soon as it hears, and only then can it.
    scene.car.cut_link().await.expect("cut");
    let (status, _) = scene.gateway.delete(&format!("/v1/keys/{}?effect=immediate", scene.key.key_id)).await;
    assert!(status == 200 || status == 202, "{status}");
    assert_eq!(scene.present(&scene.key, Function::UnlockDoors).await, Ok(()), "it cannot know yet");
    scene.car.restore_link().await.expect("restored");
    scene.car.wait_for("without the key", PATIENCE, |state| state.unit.keyring().is_empty()).await.expect("revoked");
    assert_eq!(scene.present(&scene.key, Function::UnlockDoors).await, Err("revoked".into()));
    let (status, refused) = scene
        .gateway
        .post(&format!("/v1/keys/{}/actions", scene.key.key_id), json!({"function": "unlock_doors"}))
        .await;
    assert_eq!(status, 410, "nor over the network: {refused}");
}

/// The gateway hears of attempts too, under the key they were made with.
#[tokio::test]
async fn every_refusal_at_the_car_is_told_when_there_is_a_link_again() {
    let scene = scene().await;
    scene.car.cut_link().await.expect("cut");
    let http = HttpClient::new(&scene.gateway.http, &scene.gateway.ca(), None).expect("a client");
    let thief = Phone::new(http);
    let stolen = thief.use_at_car(scene.link.address, &scene.key, Function::UnlockDoors).await.expect("they talk");
    assert_eq!(stolen, Err("bad_proof".into()));
    let mut forged = scene.key.clone();
    // A letter of the signature, so that it still says which key it is.
    let at = forged.token.len() - 20;
    let other = if forged.token.as_bytes()[at] == b'A' { "B" } else { "A" };
    forged.token.replace_range(at..=at, other);
    assert_eq!(scene.present(&forged, Function::UnlockDoors).await, Err("bad_signature".into()));
    assert_eq!(scene.present(&scene.key, Function::OpenTrunk).await, Err("not_permitted".into()));
    scene.car.restore_link().await.expect("restored");
    scene.car.wait_facts_taken(PATIENCE).await.expect("everything is told");
    let uses = scene.journalled_uses(scene.key.key_id).await;
    assert_eq!(
        uses,
        ["unlock_doors refused bad_proof", " refused bad_signature", "open_trunk refused not_permitted"],
        "one without a function was refused before it was asked for"
    );
}

/// Car and both phones offline; the gateway is told afterwards, and takes the one key back without the other.
#[tokio::test]
async fn a_key_handed_on_opens_what_it_says_once_deep_and_is_taken_back_alone() {
    let scene = scene_under("drive").await;
    let vehicle = "CAR-1".parse().expect("an id");
    let friend = Phone::new(HttpClient::new(&scene.gateway.http, &scene.gateway.ca(), None).expect("a client"));
    let terms = Terms {
        key_id: KeyId(uuid::Uuid::now_v7()),
        permits: vec![Function::UnlockDoors, Function::OpenGlovebox].into(),
        not_before: now(),
        not_after: now().plus_ms(600_000),
        max_delegation: 0,
    };
    let hand_on = |terms| scene.phone.hand_on(&scene.key, &vehicle, &friend, terms).expect("a token");
    let key = hand_on(terms);
    scene.car.cut_link().await.expect("cut");
    let car = scene.link.address;
    let ask =
        async |phone: &Phone, key: &HandedOn, function| phone.use_handed_on(car, key, function).await.expect("talk");
    assert_eq!(ask(&friend, &key, Function::UnlockDoors).await, Ok(()));
    assert!(!scene.is_locked());
    assert_eq!(ask(&friend, &key, Function::LockDoors).await, Err("not_permitted".into()), "not handed on");
    assert_eq!(ask(&friend, &key, Function::OpenGlovebox).await, Err("not_permitted".into()), "never had");
    assert_eq!(ask(&scene.phone, &key, Function::UnlockDoors).await, Err("bad_proof".into()), "it is the friend's");
    let deeper = hand_on(Terms { max_delegation: 1, ..terms });
    assert_eq!(ask(&friend, &deeper, Function::UnlockDoors).await, Err("delegation_not_allowed".into()));
    let over = hand_on(Terms { not_after: now().plus_ms(-500), ..terms });
    assert_eq!(ask(&friend, &over, Function::UnlockDoors).await, Err("expired".into()));
    scene.car.restore_link().await.expect("restored");
    scene.car.wait_facts_taken(PATIENCE).await.expect("everything is told");
    let uses = scene.journalled_uses(scene.key.key_id).await;
    assert_eq!(uses[0], "unlock_doors permitted", "under the key that was granted");

    let path = format!("/v1/keys/{}/delegations", scene.key.key_id);
    let (status, told) = scene.gateway.post(&path, json!({"token": key.token})).await;
    assert_eq!(status, 403, "it claims a function that the key prohibits: {told}");
    let modest = hand_on(Terms { permits: vec![Function::UnlockDoors].into(), ..terms });
    let (status, told) = scene.gateway.post(&path, json!({"token": modest.token})).await;
    assert_eq!(
        (status, &told["state"], &told["permits"]),
        (201, &json!("delivered"), &json!(["unlock_doors"])),
        "{told}"
    );
    let (status, bad) = scene.gateway.post(&path, json!({"token": scene.key.token})).await;
    assert_eq!(status, 400, "a key of the fleet's is none: {bad}");
    assert_eq!(ask(&friend, &modest, Function::UnlockDoors).await, Ok(()));
    let (status, revoked) = scene.gateway.delete(&format!("{path}/{}?effect=immediate", terms.key_id)).await;
    assert_eq!((status, &revoked["state"]), (200, &json!("revoked")), "{revoked}");
    until("the car has heard", async || ask(&friend, &modest, Function::UnlockDoors).await == Err("revoked".into()))
        .await;
    assert_eq!(scene.present(&scene.key, Function::LockDoors).await, Ok(()), "the renter's own stays");
}

/// Bytes a phone would never send; the next phone is served all the same.
#[tokio::test]
async fn nonsense_on_the_local_link_ends_that_conversation_only() {
    let scene = scene().await;
    let oversized = [&[0xFF, 0xFF][..], &[0; 64]].concat();
    let deep = [&[0, 40][..], &[0x81; 40]].concat();
    let not_cbor = vec![0, 3, 0xFF, 0xFF, 0xFF];
    let other_words = vec![0, 4, 0x81, 0x62, b'h', b'i'];
    let empty = vec![0, 0];
    for bytes in [oversized, deep, not_cbor, other_words, empty] {
        let mut stranger = TcpStream::connect(scene.link.address).await.expect("it listens");
        stranger.write_all(&bytes).await.expect("sent");
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "it was not sent away: {bytes:?}");
        assert!(!String::from_utf8_lossy(&said).contains("permitted"));
    }
    assert_eq!(scene.present(&scene.key, Function::UnlockDoors).await, Ok(()));
}

fn python_parts() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("tools/python")
}

/// Python's `cwt` reads what we mint; what it forges, the car refuses.
#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_verifies_our_token_and_its_forgeries_open_nothing() {
    if !python_parts().join("cwt").exists() {
        println!("SKIPPED: Python's cwt is not installed (./scripts/test installs it)");
        return;
    }
    let scene = scene().await;
    // A holder key whose secret half the Python client has too: the seed is 32 times 7.
    let signing = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let x =
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signing.verifying_key().as_bytes());
    let wish = json!({"vehicle_id": "CAR-3", "profile": "cabin", "renter": "ann", "from": now(),
        "until": now().plus_ms(3_600_000), "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": x}});
    let car = car::connect(&scene.gateway, "CAR-3").await;
    let link = car.listen_locally(ANYWHERE, Some(keyset(&scene.gateway).await)).await.expect("a port");
    let (status, usage) = scene.gateway.post("/v1/usage-requests", wish).await;
    assert_eq!(status, 201, "{usage}");
    let key_id: KeyId = usage["key"]["key_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    car.wait_granted(key_id, PATIENCE).await.expect("the car has the key");
    let jwks = answer_text(&scene.gateway, "/v1/keyset").await;
    let input = json!({"token": usage["key"]["token"], "other_car": scene.key.token, "jwks": jwks,
        "car": link.address.to_string(), "vehicle_id": "CAR-3", "key_id": key_id.to_string(), "seed": "07".repeat(32)});
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("input.json");
    std::fs::write(&file, input.to_string()).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent/forge.py");
    let run = tokio::task::spawn_blocking(move || {
        Command::new("python3").env("PYTHONPATH", python_parts()).arg(script).arg(file).output().expect("it runs")
    });
    let output = run.await.expect("it ended");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_str(told.lines().last().expect("a line")).expect("JSON");
    assert_eq!(result["permitted"], json!(["unlock_doors", "unlock_doors"]), "the true token before and after");
    let refused = result["refused"].as_object().expect("forgeries");
    assert!(refused.len() >= 10, "{result}");
    println!("{result}");
}

async fn answer_text(gateway: &Gateway, path: &str) -> String {
    gateway.request(Method::GET, path).send().await.expect("an answer").text().await.expect("text")
}
