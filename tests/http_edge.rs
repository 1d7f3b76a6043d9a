//! The edge to callers, of the real program over real sockets: who comes too slowly, too often or with too much, where a
//! request comes from, and what an API key is narrowed to.

mod kit;

use kit::{Gateway, PATIENCE, answer, until};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A TLS connection that speaks bytes of our own; `receives` bounds what the system takes for us.
async fn raw(gateway: &Gateway, receives: Option<u32>) -> TlsStream<TcpStream> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls_pki_types::CertificateDer::from_pem_file(gateway.ca()).expect("the CA");
    roots.add(ca).expect("a CA");
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = receives {
        socket.set_recv_buffer_size(bytes).expect("a smaller buffer");
    }
    let address = gateway.http.trim_start_matches("https://").parse().expect("an address");
    let socket = socket.connect(address).await.expect("it listens");
    let name = "localhost".try_into().expect("a name");
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, socket).await.expect("TLS")
}

/// All that comes until the server closes.
async fn rest(connection: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    // A server that closes in the middle of what we send resets the connection: what came before counts.
    let read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut text)).await;
    assert!(read.is_ok(), "the server neither answered nor closed");
    String::from_utf8_lossy(&text).into_owned()
}

async fn says(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut connection = raw(gateway, None).await;
    let _ = connection.write_all(bytes).await;
    rest(&mut connection).await
}

/// Sends `piece` twice a second until that fails, which must be soon.
async fn trickles(connection: &mut TlsStream<TcpStream>, piece: &[u8]) {
    let mut half_seconds = tokio::time::interval(std::time::Duration::from_millis(500));
    let until_it_fails = async {
        while connection.write_all(piece).await.is_ok() && connection.flush().await.is_ok() {
            half_seconds.tick().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, until_it_fails).await.is_ok(), "the server let it trickle on");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_is_let_go() {
    let gateway = Gateway::start().await;
    let (_, key) = gateway.post("/v1/api-keys", json!({"name": "slow", "role": "admin"})).await;
    let key = key["api_key"].as_str().expect("a secret");
    let first_head = async {
        let mut connection = raw(&gateway, None).await;
        connection.write_all(b"GET /v1/keyset HTTP/1.1\r\n").await.expect("it takes it");
        trickles(&mut connection, b"X-A: b\r\n").await;
    };
    // The server times a first head; this was let go on for ever once.
    let second_head = async {
        let mut connection = raw(&gateway, None).await;
        connection.write_all(b"GET /v1/keyset HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it takes it");
        let mut some = [0; 15];
        connection.read_exact(&mut some).await.expect("an answer");
        assert_eq!(&some, b"HTTP/1.1 200 OK");
        connection.write_all(b"GET /v1/keyset HTTP/1.1\r\n").await.expect("it takes it");
        trickles(&mut connection, b"X-A: b\r\n").await;
    };
    let body = async {
        let mut connection = raw(&gateway, None).await;
        let head = format!(
            "POST /v1/vehicles HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             Content-Length: 5000\r\n\r\n{{"
        );
        connection.write_all(head.as_bytes()).await.expect("it takes it");
        trickles(&mut connection, b" ").await;
        assert!(rest(&mut connection).await.starts_with("HTTP/1.1 408"), "it is told why");
    };
    // Asks for tens of megabytes and reads none of it.
    let reader = async {
        let mut connection = raw(&gateway, Some(4_096)).await;
        let ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
        connection.write_all(&ask.repeat(200)).await.expect("it takes it");
        trickles(&mut connection, b"G").await;
    };
    tokio::join!(first_head, second_head, body, reader);
    assert_eq!(gateway.get("/v1/vehicles").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_say_nothing_take_no_place_among_the_handshakes() {
    let gateway = Gateway::start().await;
    let address = gateway.http.trim_start_matches("https://");
    // More than twice as many as may do their handshake at once; each would hold its place for the 5 s it is given.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(address).await.expect("it listens"));
    }
    let asked = tokio::time::timeout(std::time::Duration::from_secs(4), async { raw(&gateway, None).await }).await;
    assert!(asked.is_ok(), "an honest caller waits for those who say nothing");
    for mut socket in silent {
        let mut byte = [0];
        let end = tokio::time::timeout(PATIENCE, socket.read(&mut byte)).await.expect("they are let go");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused() {
    let gateway = Gateway::start().await;
    let head = |lines: &str| format!("GET /v1/keyset HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n");
    let text = says(&gateway, head("X-Some: b\r\n").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let text = says(&gateway, head(&format!("X-Long: {}\r\n", "a".repeat(20_000))).as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 431") && text.contains("urn:cardea:problem:headers-too-large"), "{text}");
    assert!(text.to_ascii_lowercase().contains("x-content-type-options: nosniff"), "{text}");
    let many: String = (0..10_000).map(|number| format!("X-{number}: b\r\n")).collect();
    for head in [head(&many), head(&format!("X-Huge: {}\r\n", "a".repeat(5_000_000)))] {
        let text = says(&gateway, head.as_bytes()).await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    assert_eq!(gateway.get("/v1/vehicles").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_asks_too_often_waits_whoever_it_is_and_only_the_proxys_word_counts() {
    let limits = ["http.address_rate_per_s=1", "http.address_rate_burst=3", "http.trusted_proxies=[\"127.0.0.0/8\"]"];
    let gateway = Gateway::start_with(&limits).await;
    let ask = async |path: &str, forwarded: &str| {
        let request = gateway.client.get(format!("{}{path}", gateway.http)).header("X-Forwarded-For", forwarded);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.headers().contains_key("Retry-After"))
    };
    for _ in 0..3 {
        assert_eq!(ask("/v1/vehicles", "6.6.6.6, 203.0.113.5").await, (401, false));
    }
    assert_eq!(ask("/v1/keyset", "7.7.7.7, 203.0.113.5").await, (429, true), "what it invents does not help it");
    assert_eq!(ask("/v1/keyset", "203.0.113.6").await, (200, false), "another address has its own");
    for _ in 0..5 {
        let (status, _) = ask("/v1/payments/stripe", "203.0.113.5").await;
        assert_eq!(status, 405, "a payment network's address is not counted");
    }
    // Who logged in from where is on record.
    let log_in = gateway.client.post(format!("{}/v1/session", gateway.http)).header("X-Forwarded-For", "203.0.113.7");
    assert_eq!(answer(log_in.json(&json!({"api_key": gateway.admin_key}))).await.0, 201);
    let audit =
        gateway.request(Method::GET, "/v1/audit?subject=session/admin").header("X-Forwarded-For", "203.0.113.8");
    let (_, audit) = answer(audit).await;
    assert_eq!(audit["items"][0]["events"][0]["from"], "203.0.113.7", "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trusted_proxy_nobody_says_where_they_come_from() {
    let gateway = Gateway::start_with(&["http.address_rate_per_s=1", "http.address_rate_burst=2"]).await;
    let ask = async |forwarded: &str| {
        let request = gateway.client.get(format!("{}/v1/keyset", gateway.http)).header("X-Forwarded-For", forwarded);
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!([ask("203.0.113.1").await, ask("203.0.113.2").await, ask("203.0.113.3").await], [200, 200, 429]);
}

struct Key(String, String);

async fn key(gateway: &Gateway, new: Value) -> Key {
    let (status, key) = gateway.post("/v1/api-keys", new).await;
    assert_eq!(status, 201, "{key}");
    let text = |name: &str| key[name].as_str().expect("text").to_owned();
    Key(text("api_key_id"), text("api_key"))
}

async fn with(gateway: &Gateway, key: &Key, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = gateway.client.request(method, format!("{}{path}", gateway.http)).bearer_auth(&key.1);
    answer(if body.is_null() { request } else { request.json(&body) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrowed_key_does_what_its_scopes_say_and_opens_no_way_around_them() {
    let gateway = Gateway::start().await;
    gateway.register("CAR-1").await;
    let new = json!({"name": "map", "role": "admin", "scopes": ["commands:write", "vehicles:read"]});
    let narrowed = key(&gateway, new).await;
    let get = async |path: &str| with(&gateway, &narrowed, Method::GET, path, Value::Null).await;
    let post = async |path: &str, body: Value| with(&gateway, &narrowed, Method::POST, path, body).await;
    assert_eq!(get("/v1/vehicles/CAR-1").await.0, 200);
    assert_eq!(post("/v1/vehicles/CAR-1/commands", json!({"type": "lock"})).await.0, 202);
    let (status, problem) = get("/v1/commands").await;
    assert_eq!((status, &problem["type"]), (403, &json!("urn:cardea:problem:forbidden")));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("commands:read")), "{problem}");
    assert_eq!(post("/v1/vehicles", json!({"vehicle_id": "CAR-2"})).await.0, 403);
    // Neither a key, nor a ticket, nor a session is wider than the key they come from.
    assert_eq!(post("/v1/api-keys", json!({"name": "wide", "role": "admin"})).await.0, 403);
    assert_eq!(post("/v1/console/tickets", Value::Null).await.0, 403);
    let log_in = gateway.client.post(format!("{}/v1/session", gateway.http)).json(&json!({"api_key": narrowed.1}));
    let session = log_in.send().await.expect("an answer");
    assert_eq!(session.status(), 201);
    let cookie = session.headers()["Set-Cookie"].to_str().expect("text").split(';').next().expect("a pair").to_owned();
    let by_session = async |path: &str| {
        answer(gateway.client.get(format!("{}{path}", gateway.http)).header("Cookie", &cookie)).await.0
    };
    assert_eq!([by_session("/v1/vehicles").await, by_session("/v1/commands").await], [200, 403]);
    assert_eq!(by_session("/v1/session").await, 200, "it may see what it is");
    for (bad, field) in [(json!([]), "scopes"), (json!(["everything"]), "scopes")] {
        let (status, problem) =
            gateway.post("/v1/api-keys", json!({"name": "x", "role": "admin", "scopes": bad})).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_ends_in_time_and_its_use_is_known_after_a_restart() {
    let mut gateway = Gateway::start().await;
    let late = json!({"name": "x", "role": "admin", "expires_at": kit::rfc3339_in(-1)});
    assert_eq!(gateway.post("/v1/api-keys", late).await.0, 400);
    let short = key(&gateway, json!({"name": "short", "role": "auditor", "expires_at": kit::rfc3339_in(3)})).await;
    let used = key(&gateway, json!({"name": "used", "role": "auditor"})).await;
    let unused = key(&gateway, json!({"name": "unused", "role": "auditor"})).await;
    let ask = async |gateway: &Gateway, key: &Key| with(gateway, key, Method::GET, "/v1/vehicles", Value::Null).await;
    assert_eq!(ask(&gateway, &used).await.0, 200);
    until("the key has expired", async || ask(&gateway, &short).await.0 == 401).await;
    let (_, problem) = ask(&gateway, &short).await;
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("expired")), "{problem}");
    let uses = async |gateway: &Gateway| {
        let (_, list) = gateway.get("/v1/api-keys").await;
        let find = |key: &Key| {
            let items = list["items"].as_array().expect("items");
            items.iter().find(|item| item["api_key_id"] == key.0.as_str()).expect("it is listed").clone()
        };
        (find(&used)["last_used_at"].clone(), find(&unused)["last_used_at"].clone(), find(&short)["expires_at"].clone())
    };
    let before = uses(&gateway).await;
    assert!(before.0.is_string() && before.1.is_null() && before.2.is_string(), "{before:?}");
    assert!(gateway.stop().success());
    gateway.launch().expect("it starts again");
    assert_eq!(uses(&gateway).await, before);
    assert_eq!(ask(&gateway, &short).await.0, 401);
    assert_eq!(gateway.delete(&format!("/v1/api-keys/{}", used.0)).await.0, 204);
    assert!(gateway.stop().success());
    gateway.launch().expect("it starts again");
    assert_eq!(ask(&gateway, &used).await.0, 401, "telling the store of its use brings no deleted key back");
}
