//! HTTPS of the real program: what its answers carry, what slow and oversized callers get, what a restart keeps.

mod kit;

use kit::{Gateway, PATIENCE, answer, until};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A certificate request for a car with a key of its own.
fn request_for(vehicle: &str) -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, vehicle);
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

fn authority(gateway: &Gateway) -> String {
    gateway.http.trim_start_matches("https://").to_owned()
}

/// A TLS connection that speaks bytes of our own.
async fn raw(gateway: &Gateway) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls_pki_types::CertificateDer::from_pem_file(gateway.ca()).expect("the CA");
    roots.add(ca).expect("a CA");
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(authority(gateway)).await.expect("it listens");
    let name = "localhost".try_into().expect("a name");
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, socket).await.expect("TLS")
}

async fn says(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut connection = raw(gateway).await;
    // The server may close while we still write.
    let _ = connection.write_all(bytes).await;
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut text)).await;
    assert!(read.is_ok(), "the server neither answered nor closed");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn every_answer_carries_its_id_and_the_security_headers() {
    let gateway = Gateway::start().await;
    for (path, status) in [("/v1/vehicles", 200), ("/v1/nothing", 404), ("/v1/keyset", 200)] {
        let own =
            gateway.request(Method::GET, path).header("X-Request-Id", "from-us.1").send().await.expect("an answer");
        assert_eq!(own.status(), status);
        assert_eq!(own.headers()["X-Request-Id"], "from-us.1");
        assert_eq!(own.headers()["X-Content-Type-Options"], "nosniff");
        assert!(own.headers().contains_key("Strict-Transport-Security"));
        assert!(own.headers().contains_key("Content-Security-Policy"));
    }
    let forged =
        gateway.request(Method::GET, "/v1/vehicles").header("X-Request-Id", "<b>").send().await.expect("an answer");
    assert_ne!(forged.headers()["X-Request-Id"], "<b>");
    assert_eq!(forged.headers()["Cache-Control"], "no-store");
    assert!(gateway.metric("cardea_http_answers_total").await >= 4.0);
    assert_eq!(gateway.probe("/healthz").await.0, 200);
    assert_eq!(gateway.probe("/readyz").await.0, 200);
    assert_eq!(gateway.probe("/v1/vehicles").await.0, 404, "callers' routes are not at the metrics address");
    assert_eq!(gateway.get("/metrics").await.0, 404, "and metrics not at the callers'");
}

#[tokio::test]
async fn a_head_that_never_ends_and_one_that_is_too_long_cost_little() {
    let gateway = Gateway::start().await;
    let slow = async {
        let text = says(&gateway, b"GET /v1/vehicles HTTP/1.1\r\nHost: x\r\nX-Half: ").await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    };
    let long = async {
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "a".repeat(300_000));
        let text = says(&gateway, head.as_bytes()).await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    };
    let nonsense = async {
        let text = says(&gateway, b"\x00\xff nonsense\r\n\r\n").await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
    };
    tokio::join!(slow, long, nonsense);
    assert_eq!(gateway.get("/v1/vehicles").await.0, 200);
}

#[tokio::test]
async fn a_certificate_is_signed_for_its_own_vehicle_only_and_once() {
    let gateway = Gateway::start().await;
    gateway.register("WVW-1").await;
    let sign = |vehicle: &str, key: &str, request: &str| {
        let path = format!("/v1/vehicles/{vehicle}/certificate");
        let request = gateway.request(Method::POST, &path).body(request.to_owned());
        answer(if key.is_empty() { request } else { request.header("Idempotency-Key", key) })
    };
    let request = request_for("WVW-1");
    let (status, pem) = sign("WVW-1", "c1", &request).await;
    assert_eq!(status, 201, "{pem}");
    assert!(pem.as_str().is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----")));
    assert_eq!(sign("WVW-1", "c1", &request).await, (201, pem), "a repeat gets the same certificate");
    let (status, problem) = sign("WVW-1", "", &request_for("WVW-2")).await;
    assert_eq!((status, &problem["type"]), (400, &json!("urn:cardea:problem:invalid")));
    assert_eq!(sign("WVW-1", "", "no request").await.0, 400);
    assert_eq!(sign("NONE", "", &request_for("NONE")).await.0, 404);
    assert_eq!(gateway.delete("/v1/vehicles/WVW-1/certificate").await.0, 200);
    assert_eq!(sign("WVW-1", "", &request_for("WVW-1")).await.0, 201, "a new one after the revocation");
    let (_, audit) = gateway.get("/v1/audit?subject=certificate/WVW-1").await;
    let events: Vec<&Value> =
        audit["items"].as_array().expect("records").iter().map(|record| &record["events"][0]["event"]).collect();
    assert_eq!(events, ["certificate_issued", "certificates_revoked", "certificate_issued"]);
}

#[tokio::test]
async fn a_restart_keeps_what_callers_were_promised() {
    let mut gateway = Gateway::start().await;
    gateway.register("WVW-1").await;
    let (status, renter) = gateway.post("/v1/api-keys", json!({"name": "anna", "role": "renter"})).await;
    assert_eq!(status, 201);
    let (_, deleted) = gateway.post("/v1/api-keys", json!({"name": "ben", "role": "renter"})).await;
    let deleted_id = deleted["api_key_id"].as_str().expect("an id");
    assert_eq!(gateway.delete(&format!("/v1/api-keys/{deleted_id}")).await.0, 204);
    let lock = json!({"type": "lock"});
    let (_, command) = gateway.post_with_key("/v1/vehicles/WVW-1/commands", "k1", lock.clone()).await;
    gateway.kill();
    gateway.launch().expect("it starts again");
    let as_caller = |key: &Value| {
        let url = format!("{}/v1/rentals", gateway.http);
        answer(gateway.client.get(url).bearer_auth(key["api_key"].as_str().expect("a secret")))
    };
    assert_eq!(as_caller(&renter).await.0, 200);
    assert_eq!(as_caller(&deleted).await.0, 401);
    let (status, again) = gateway.post_with_key("/v1/vehicles/WVW-1/commands", "k1", lock).await;
    assert_eq!((status, &again["command_id"]), (202, &command["command_id"]));
    let (status, problem) = gateway.post_with_key("/v1/vehicles/WVW-1/commands", "k1", json!({"type": "unlock"})).await;
    assert_eq!((status, &problem["type"]), (422, &json!("urn:cardea:problem:duplicate-key-reuse")));
}

#[tokio::test]
async fn a_waiting_caller_hears_the_cars_own_word() {
    let gateway = Gateway::start().await;
    gateway.register("WVW-1").await;
    let _car = kit::car::connect(&gateway, "WVW-1").await;
    let (status, command) = gateway.post("/v1/vehicles/WVW-1/commands?wait_ms=30000", json!({"type": "lock"})).await;
    assert_eq!((status, &command["state"]), (200, &json!("succeeded")), "{command}");
    let (status, bulk) = gateway.post("/v1/commands", json!({"all": true, "type": "locate"})).await;
    assert_eq!(status, 202);
    let id = bulk["items"][0]["command_id"].as_str().expect("an id").to_owned();
    until("the bulk command succeeds", async || gateway.command_state(&id).await == "succeeded").await;
}
