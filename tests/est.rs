//! Enrolment over Secure Transport (RFC 7030) at the real program, by curl and OpenSSL and by the simulator's car: a token
//! is good for one certificate, a certificate for the next, and a car that is not let in is told apart by why.

mod kit;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cardea_simulator::car::{Car, CarHandle, CarOptions};
use cardea_simulator::est::{self, EstError, Renewal};
use cardea_simulator::identity::Credentials;
use kit::{Gateway, PATIENCE, answer, until};
use rcgen::{CertificateParams, DnType, KeyPair};
use reqwest::Method;
use serde_json::{Value, json};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A command's standard output; it must succeed.
fn shell(command: &str) -> String {
    let output =
        Command::new("bash").arg("-ec").arg(format!("set -o pipefail; {command}")).output().expect("bash runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn token(gateway: &Gateway, vehicle: &str) -> String {
    let path = format!("/v1/vehicles/{vehicle}/enrolment-tokens");
    let (status, body) = gateway.post(&path, json!({})).await;
    assert_eq!(status, 201, "{body}");
    body["token"].as_str().expect("a token").to_owned()
}

async fn enrolled(gateway: &Gateway, vehicle: &str) -> Credentials {
    let trusted = Credentials::only_trusting(&gateway.ca()).expect("the CA");
    let token = token(gateway, vehicle).await;
    est::enroll(&gateway.http, &trusted, &vehicle.parse().expect("an id"), &token).await.expect("a certificate")
}

fn drive(gateway: &Gateway, vehicle: &str, credentials: Credentials, renewal: Option<Renewal>) -> CarHandle {
    let mqtt = gateway.mqtt.to_string().parse().expect("an address");
    let mut options = CarOptions::new(credentials, mqtt, vehicle.parse().expect("an id"));
    options.renewal = renewal;
    options.longest_retry = Duration::from_millis(500);
    Car::start(options).expect("the car starts")
}

/// A key and a request by OpenSSL, the request as EST wants it.
fn openssl_request(dir: &Path, name: &str, common_name: &str) -> (PathBuf, PathBuf) {
    let (key, request) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.b64")));
    shell(&format!(
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {} -subj /CN={common_name} \
         -outform DER | openssl base64 > {}",
        text(&key),
        text(&request)
    ));
    (key, request)
}

/// Status and body of an enrolment by curl.
fn curl(gateway: &Gateway, path: &str, user: &str, request: &Path) -> (u16, String) {
    let said = shell(&format!(
        "curl -sS --cacert {} {user} -H 'Content-Type: application/pkcs10' --data-binary @{} -w '\\n%{{http_code}}' \
         {}/.well-known/est/{path}",
        text(&gateway.ca()),
        text(request),
        gateway.http
    ));
    let (body, status) = said.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

#[tokio::test]
async fn curl_and_openssl_enrol_a_car_with_a_token_that_is_good_once() {
    let gateway = Gateway::start().await;
    gateway.register("WVW-1").await;
    gateway.register("WVW-2").await;
    let path = "/v1/vehicles/WVW-1/enrolment-tokens";
    let (_, first) = gateway.post_with_key(path, "k1", json!({"ttl_s": 600})).await;
    let (status, again) = gateway.post_with_key(path, "k1", json!({"ttl_s": 600})).await;
    assert_eq!((status, &first), (201, &again), "a repeat is answered with the same token");
    let token = first["token"].as_str().expect("a token");
    let dir = tempfile::tempdir().expect("a folder");
    let (key, request) = openssl_request(dir.path(), "one", "WVW-1");
    let (_, other) = openssl_request(dir.path(), "two", "WVW-1");
    let (_, foreign) = openssl_request(dir.path(), "three", "WVW-2");

    // What is refused spends nothing.
    let as_car = format!("-u WVW-1:{token}");
    assert_eq!(curl(&gateway, "simpleenroll", "", &request).0, 401);
    assert_eq!(curl(&gateway, "simpleenroll", "-u WVW-1:et_guess", &request).0, 401);
    assert_eq!(curl(&gateway, "simpleenroll", &format!("-u WVW-2:{token}"), &foreign).0, 401);
    assert_eq!(curl(&gateway, "simpleenroll", &as_car, &foreign).0, 400, "another car's name");
    let (status, cms) = curl(&gateway, "simpleenroll", &as_car, &request);
    assert_eq!(status, 200, "{cms}");
    let repeat = curl(&gateway, "simpleenroll", &as_car, &request);
    assert_eq!(repeat, (200, cms.clone()), "a lost answer is given again");
    let (status, problem) = curl(&gateway, "simpleenroll", &as_car, &other);
    assert_eq!(status, 401, "the token is spent: {problem}");

    // OpenSSL reads the answer, trusts it, and it belongs to the key.
    let car = dir.path().join("car");
    std::fs::create_dir(&car).expect("a folder");
    let (body, cert) = (dir.path().join("cms"), car.join("cert.pem"));
    std::fs::write(&body, &cms).expect("written");
    shell(&format!(
        "openssl base64 -d -in {} | openssl pkcs7 -inform DER -print_certs | openssl x509 > {}",
        text(&body),
        text(&cert)
    ));
    shell(&format!("openssl verify -purpose sslclient -CAfile {} {}", text(&gateway.ca()), text(&cert)));
    let public = |command: String| shell(&format!("{command} | sha256sum"));
    assert_eq!(
        public(format!("openssl x509 -in {} -noout -pubkey", text(&cert))),
        public(format!("openssl pkey -in {} -pubout", text(&key)))
    );
    std::fs::copy(gateway.ca(), car.join("ca.pem")).expect("copied");
    std::fs::copy(&key, car.join("key.pem")).expect("copied");
    let handle = drive(&gateway, "WVW-1", Credentials::load(&car).expect("loads"), None);
    handle.wait_connected(PATIENCE).await.expect("the car comes in with it");

    // The next one by the certificate: no token, no name but its own, and no more than are sensible.
    let shows = format!("--cert {} --key {}", text(&cert), text(&key));
    assert_eq!(curl(&gateway, "simplereenroll", "", &other).0, 401);
    assert_eq!(curl(&gateway, "simplereenroll", &shows, &foreign).0, 400);
    for _ in 0..5 {
        assert_eq!(curl(&gateway, "simplereenroll", &shows, &other).0, 200);
    }
    let (status, problem) = curl(&gateway, "simplereenroll", &shows, &other);
    assert_eq!(status, 429, "{problem}");

    let cas = shell(&format!(
        "curl -sS --cacert {} {}/.well-known/est/cacerts | openssl base64 -d | openssl pkcs7 -inform DER -print_certs",
        text(&gateway.ca()),
        gateway.http
    ));
    assert!(cas.contains("Cardea fleet CA") && cas.matches("BEGIN CERTIFICATE").count() == 1, "{cas}");
    let (_, page) = gateway.get("/v1/audit?subject=certificate/WVW-1").await;
    let enrolled = page["items"]
        .as_array()
        .and_then(|items| items.iter().find(|item| item["events"][0]["event"] == "certificate_enrolled"));
    let enrolled = enrolled.unwrap_or_else(|| panic!("{page}"));
    assert_eq!((&enrolled["by"]["role"], &enrolled["from"]), (&json!("vehicle"), &json!("127.0.0.1")));
}

#[tokio::test]
async fn tokens_can_be_withdrawn_and_none_outlives_its_end_or_a_revocation() {
    let gateway = Gateway::start().await;
    gateway.register("WVW-1").await;
    let path = "/v1/vehicles/WVW-1/enrolment-tokens";
    let vehicle = "WVW-1".parse().expect("an id");
    let trusted = Credentials::only_trusting(&gateway.ca()).expect("the CA");
    let refused = async |token: &str| {
        let tried = est::enroll(&gateway.http, &trusted, &vehicle, token).await;
        matches!(tried, Err(EstError::Refused { status: 401, .. }))
    };
    let withdrawn = token(&gateway, "WVW-1").await;
    assert_eq!(gateway.delete(path).await.0, 204);
    assert!(refused(&withdrawn).await);
    let with_the_old_key = token(&gateway, "WVW-1").await;
    assert_eq!(gateway.delete("/v1/vehicles/WVW-1/certificate").await.0, 200);
    assert!(refused(&with_the_old_key).await);
    let (_, short) = gateway.post(path, json!({"ttl_s": 1})).await;
    let (_, past) = gateway.post(path, json!({"ttl_s": 1})).await;
    assert_ne!(short["token"], past["token"]);
    let expires_at = past["expires_at"].as_str().expect("a time").to_owned();
    until("its time is over", async || kit::rfc3339_in(0) > expires_at).await;
    assert!(refused(past["token"].as_str().expect("a token")).await);
    for ttl_s in [json!(0), json!(2_592_001), json!(-1)] {
        assert_eq!(gateway.post(path, json!({"ttl_s": ttl_s})).await.0, 400);
    }
    assert_eq!(gateway.post("/v1/vehicles/WVW-9/enrolment-tokens", json!({})).await.0, 404);
    for _ in 0..8 {
        token(&gateway, "WVW-1").await;
    }
    assert_eq!(gateway.post(path, json!({})).await.0, 409, "so many open tokens are a mistake");
}

#[tokio::test]
async fn a_car_renews_in_time_keeps_what_it_got_and_comes_back_with_it() {
    let mut gateway = Gateway::start_with(&["certs.vehicle_days=1"]).await;
    gateway.register("WVW-1").await;
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("car");
    let first = enrolled(&gateway, "WVW-1").await;
    first.save(&folder).expect("saved");
    assert!(gateway.stop().success());
    gateway.set("certs.vehicle_days=90");
    gateway.launch().expect("it starts");
    // A day is left, and it is to be renewed ten days before its end: now.
    let renewal =
        Renewal { http: gateway.http.clone(), before: Duration::from_secs(10 * 86_400), dir: Some(folder.clone()) };
    let car = drive(&gateway, "WVW-1", Credentials::load(&folder).expect("loads"), Some(renewal));
    car.wait_for("renewed and back", PATIENCE, |state| state.link.renewals == 1 && state.link.is_connected)
        .await
        .expect("it renews");
    let kept = Credentials::load(&folder).expect("loads");
    let days = |credentials: &Credentials| {
        let end = credentials.not_after().expect("an end").0;
        (end - i64::try_from(kit::unix_now()).expect("a time") * 1000) / 86_400_000
    };
    assert!(days(&first) <= 1 && days(&kept) >= 89, "{} and {} days", days(&first), days(&kept));
    let lock = json!({"type": "lock"});
    let (status, command) = gateway.post("/v1/vehicles/WVW-1/commands?wait_ms=20000", lock).await;
    assert_eq!((status, command["state"].as_str()), (200, Some("succeeded")), "{command}");
    assert_eq!(car.state().link.renewals, 1, "the new one is good for long");
    car.stop().await.expect("it leaves");

    // Withdrawn trust ends the session, is durable, and no certificate of before gets another.
    let car = drive(&gateway, "WVW-1", kept.clone(), None);
    car.wait_connected(PATIENCE).await.expect("it comes with what it kept");
    assert_eq!(gateway.delete("/v1/vehicles/WVW-1/certificate").await.0, 200);
    car.wait_disconnected(Duration::from_secs(1)).await.expect("kicked within a second");
    gateway.kill();
    gateway.launch().expect("it starts again");
    let vehicle = "WVW-1".parse().expect("an id");
    let refused = est::renew(&gateway.http, &kept, &vehicle).await;
    assert!(matches!(refused, Err(EstError::Refused { status: 403, .. })), "{refused:?}");
    let back = drive(&gateway, "WVW-1", kept, None);
    until("it is refused", async || link_log(&gateway, "WVW-1").await.contains(&("refused".into(), "revoked".into())))
        .await;
    assert!(!back.state().link.is_connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_outlives_a_revocation_that_its_renewal_raced() {
    let gateway = Gateway::start().await;
    let (mut before, mut after) = (0, 0);
    // Of five renewals under way so many are done when the revocation begins.
    for done in 0..5 {
        let name = format!("RACE-{done}");
        gateway.register(&name).await;
        let vehicle: cardea::domain::VehicleId = name.parse().expect("an id");
        let first = enrolled(&gateway, &name).await;
        let mut renewals = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let (http, old, vehicle) = (gateway.http.clone(), first.clone(), vehicle.clone());
            renewals.spawn(async move { est::renew(&http, &old, &vehicle).await });
        }
        let mut ended = Vec::new();
        for _ in 0..done {
            ended.push(renewals.join_next().await.expect("one of five"));
        }
        assert_eq!(gateway.delete(&format!("/v1/vehicles/{name}/certificate")).await.0, 200);
        while let Some(renewal) = renewals.join_next().await {
            ended.push(renewal);
        }
        for renewal in ended {
            match renewal.expect("it ran") {
                // Whatever was had before, or meanwhile, is worth nothing now.
                Ok(renewed) => {
                    before += 1;
                    let next = est::renew(&gateway.http, &renewed, &vehicle).await;
                    assert!(matches!(next, Err(EstError::Refused { status: 403, .. })), "{next:?}");
                }
                Err(EstError::Refused { status: 403, .. }) => after += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(before > 0 && after > 0, "there was a race: {before} before the revocation, {after} after it");
}

/// Events with their reasons, newest first.
async fn link_log(gateway: &Gateway, vehicle: &str) -> Vec<(String, String)> {
    let (status, log) = gateway.get(&format!("/v1/vehicles/{vehicle}/link-log")).await;
    assert_eq!(status, 200, "{log}");
    let items = log["items"].as_array().expect("items");
    let word = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    items.iter().map(|item| (word(item, "event"), word(item, "reason"))).collect()
}

#[tokio::test]
async fn two_cas_stand_side_by_side_until_the_old_one_goes() {
    let gateway = Gateway::start().await;
    for vehicle in ["OLD-1", "NEW-1"] {
        gateway.register(vehicle).await;
    }
    let old = drive(&gateway, "OLD-1", enrolled(&gateway, "OLD-1").await, None);
    old.wait_connected(PATIENCE).await.expect("the old CA is trusted");
    let before = enrolled(&gateway, "NEW-1").await;

    // The new CA comes first in the bundle: it signs from now on, and both are trusted.
    let (other, _) = kit::init();
    let (certs, fresh) = (gateway.fleet_dir().join("certs"), other.path().join("fleet/certs"));
    let old_ca = std::fs::read_to_string(certs.join("ca.pem")).expect("the old CA");
    let new_ca = std::fs::read_to_string(fresh.join("ca.pem")).expect("the new CA");
    std::fs::write(certs.join("ca.pem"), format!("{new_ca}{old_ca}")).expect("written");
    std::fs::copy(fresh.join("ca.key.pem"), certs.join("ca.key.pem")).expect("copied");
    let reload = async || answer(gateway.request(Method::POST, "/v1/certificates/reload")).await.0;
    assert_eq!(reload().await, 200);
    let trusted = Credentials::only_trusting(&certs.join("ca.pem")).expect("both");
    assert_eq!(est::ca_certificates(&gateway.http, &trusted).await.expect("a list").len(), 2);
    let renewed = est::renew(&gateway.http, &before, &"NEW-1".parse().expect("an id")).await.expect("renewed");
    let new = drive(&gateway, "NEW-1", renewed, None);
    new.wait_connected(PATIENCE).await.expect("the new CA is trusted");
    assert!(old.state().link.is_connected, "nobody was disturbed");

    // Now the old one goes, with every session that it vouched for.
    std::fs::write(certs.join("ca.pem"), &new_ca).expect("written");
    assert_eq!(reload().await, 200);
    old.wait_disconnected(Duration::from_secs(1)).await.expect("within a second");
    let told = ("unproved".to_owned(), "unknown_ca".to_owned());
    until("the log says why it stays away", async || link_log(&gateway, "OLD-1").await.first() == Some(&told)).await;
    assert!(new.state().link.is_connected);
    let refused = est::renew(&gateway.http, &before, &"NEW-1".parse().expect("an id")).await;
    assert!(matches!(refused, Err(EstError::NoAnswer(_))), "its CA is gone: {refused:?}");
}

/// A certificate for a car that is signed by itself, or by the fleet's CA with a validity long past.
fn bad_certificate(gateway: &Gateway, vehicle: &str, is_past: bool) -> Credentials {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, vehicle);
    let read = |name: &str| std::fs::read_to_string(gateway.fleet_dir().join("certs").join(name)).expect("a file");
    let certificate = if is_past {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let ca_key = KeyPair::from_pem(&read("ca.key.pem")).expect("the CA's key");
        let ca = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).expect("the CA");
        params.signed_by(&key, &ca).expect("signed")
    } else {
        params.self_signed(&key).expect("signed")
    };
    let trusted = Credentials::only_trusting(&gateway.ca()).expect("the CA");
    trusted.with(vec![certificate.der().clone()], &key)
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_by_its_reason() {
    let gateway = Gateway::start().await;
    gateway.register("WVW-1").await;
    let mut cars = Vec::new();
    for (is_past, reason) in [(false, "unknown_ca"), (true, "certificate_expired")] {
        cars.push(drive(&gateway, "WVW-1", bad_certificate(&gateway, "WVW-1", is_past), None));
        let told = ("unproved".to_owned(), reason.to_owned());
        until(reason, async || link_log(&gateway, "WVW-1").await.contains(&told)).await;
    }
    until("repeats are one entry that counts", async || {
        let (_, log) = gateway.get("/v1/vehicles/WVW-1/link-log").await;
        log["items"].as_array().is_some_and(|items| items.len() == 2 && items[0]["times"].as_u64() > Some(1))
    })
    .await;
    // A car that does not trust the gateway says so itself; its name is not known then.
    let (other, _) = kit::init();
    let own = enrolled(&gateway, "WVW-1").await;
    let dir = tempfile::tempdir().expect("a folder");
    own.save(dir.path()).expect("saved");
    std::fs::copy(other.path().join("fleet/certs/ca.pem"), dir.path().join("ca.pem")).expect("copied");
    cars.push(drive(&gateway, "WVW-1", Credentials::load(dir.path()).expect("loads"), None));
    until("it is logged", async || gateway.log().contains("gateway_not_trusted")).await;
    let log = gateway.log();
    assert!(log.contains("unknown_ca") && log.contains("certificate_expired") && log.contains("WVW-1"), "{log}");
}
