//! The fleet's signing key is changed: tokens of before stay good for their time, new ones are signed by the new key, and
//! a car that knows the published set tells them apart from all others.

mod kit;

use std::net::SocketAddr;

use cardea::domain::Function;
use cardea::pki;
use cardea::token::Keyset;
use cardea_simulator::http_client::HttpClient;
use cardea_simulator::phone::{Phone, Requested, VirtualKey};
use kit::{Gateway, PATIENCE, car};

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn jwks(gateway: &Gateway) -> String {
    let answer = gateway.client.get(format!("{}/v1/keyset", gateway.http)).send().await.expect("the key set");
    answer.text().await.expect("text")
}

fn phone(gateway: &Gateway) -> Phone {
    Phone::new(HttpClient::new(&gateway.http, &gateway.ca(), Some(gateway.admin_key.clone())).expect("a client"))
}

async fn rent(phone: &Phone, vehicle: &str) -> VirtualKey {
    let now = cardea::clock::Clock::start().now();
    let until = now.plus_ms(3_600_000);
    match phone.request(&vehicle.parse().expect("an id"), "cabin", now, until, Some("ann")).await.expect("an answer") {
        Requested::Granted(key) => key,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tokens_of_before_stay_good_and_new_ones_are_signed_by_the_new_key() {
    let mut gateway = Gateway::start_with(&[r#"keys.retired_signing_keys=[]"#]).await;
    let old_car = car::connect(&gateway, "CAR-1").await;
    let renter = phone(&gateway);
    let old_key = rent(&renter, "CAR-1").await;
    old_car.wait_granted(old_key.key_id, PATIENCE).await.expect("the car has the key");
    let before = jwks(&gateway).await;

    let certs = gateway.fleet_dir().join("certs");
    gateway.stop();
    std::fs::rename(certs.join("signing.key.pem"), certs.join("old.key.pem")).expect("renamed");
    let fresh = pki::new_signing_key().and_then(|key| pki::signing_key_pem(&key)).expect("a key");
    std::fs::write(certs.join("signing.key.pem"), fresh).expect("written");
    gateway.set(r#"keys.retired_signing_keys=["certs/old.key.pem"]"#);
    gateway.launch().expect("it starts with both");
    let after = jwks(&gateway).await;
    let both = Keyset::from_jwks(&after).expect("keys");
    let kids = |text: &str| -> Vec<String> {
        let set: serde_json::Value = serde_json::from_str(text).expect("JSON");
        set["keys"].as_array().expect("keys").iter().map(|key| key["kid"].to_string()).collect()
    };
    assert_eq!((kids(&before).len(), kids(&after).len()), (1, 2));
    assert_eq!(kids(&after)[1], kids(&before)[0], "the one that signs comes first");

    // The old car is without a network now: it has its grant, and the set as it was published last.
    let link = old_car.listen_locally(ANYWHERE, Some(both.clone())).await.expect("a port");
    let used = renter.use_at_car(link.address, &old_key, Function::UnlockDoors).await.expect("they talk");
    assert_eq!(used, Ok(()));
    drop(link);
    let only_new = Keyset::from_jwks(&format!(r#"{{"keys":[{}]}}"#, first_key(&after))).expect("a key");
    let link = old_car.listen_locally(ANYWHERE, Some(only_new)).await.expect("a port");
    let used = renter.use_at_car(link.address, &old_key, Function::UnlockDoors).await.expect("they talk");
    assert_eq!(used, Err("bad_signature".into()), "once the old key is taken out, so are its tokens");

    let new_car = car::connect(&gateway, "CAR-2").await;
    let renter = phone(&gateway);
    let new_key = rent(&renter, "CAR-2").await;
    new_car.wait_granted(new_key.key_id, PATIENCE).await.expect("the car has the key");
    let link = new_car.listen_locally(ANYWHERE, Some(both)).await.expect("a port");
    let used = renter.use_at_car(link.address, &new_key, Function::UnlockDoors).await.expect("they talk");
    assert_eq!(used, Ok(()));
}

fn first_key(jwks: &str) -> String {
    let set: serde_json::Value = serde_json::from_str(jwks).expect("JSON");
    set["keys"][0].to_string()
}

#[tokio::test]
async fn a_retired_key_that_cannot_be_read_is_named_at_the_start() {
    let mut gateway = Gateway::start().await;
    gateway.stop();
    gateway.set(r#"keys.retired_signing_keys=["certs/ca.pem"]"#);
    let (log, status) = gateway.launch().expect_err("refused");
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("keys.retired_signing_keys") && log.contains("ca.pem"), "{log}");
}
