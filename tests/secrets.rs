//! Nothing that opens something is ever written where others read it: the log at its most talkative, the exported journal
//! and the metrics. Every secret here is really used on the way, with the real program.

mod kit;

use kit::{Gateway, answer, until};
use reqwest::Method;
use serde_json::{Value, json};

const PASSWORD: &str = "plover-hinge-91-orbit";
const WRONG_PASSWORD: &str = "plover-hinge-92-wrong";
const OWN_SECRET: &str = "whsec_b3duLWZvcm0tc2VjcmV0LTAxMjM0NTY3ODkwMTIz";
const HOOK_SECRET: &str = "whsec_aG9vay1zZWNyZXQtMDEyMzQ1Njc4OTAxMjM0NTY3";
const MARQETA: &str = "marqeta-user:marqeta-password-73";
const OIDC_SECRET: &str = "oidc-client-secret-58";
const SMTP_PASSWORD: &str = "smtp-password-64";

/// Settings that hold a secret each; what they name does not answer, which is what gets logged most.
fn settings() -> Vec<String> {
    vec![
        format!("payments.own.secrets=[\"{OWN_SECRET}\"]"),
        format!("payments.marqeta.secrets=[\"{MARQETA}\"]"),
        "oidc.issuer=\"http://127.0.0.1:1\"".into(),
        "oidc.client_id=\"cardea\"".into(),
        format!("oidc.client_secret=\"{OIDC_SECRET}\""),
        "notifier.smtp.host=\"127.0.0.1\"".into(),
        "notifier.smtp.port=1".into(),
        "notifier.smtp.tls=\"none\"".into(),
        "notifier.smtp.user=\"cardea\"".into(),
        format!("notifier.smtp.password=\"{SMTP_PASSWORD}\""),
        "notifier.smtp.from=\"cardea@example.org\"".into(),
        "notifier.emails=[{name=\"desk\",to=\"desk@example.org\"}]".into(),
        format!("notifier.webhooks=[{{name=\"hook\",url=\"http://127.0.0.1:1/\",secrets=[\"{HOOK_SECRET}\"]}}]"),
    ]
}

fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}")).to_owned()
}

/// The base64 of a PEM file's key, without the lines that every such file has.
fn inside(pem: &str) -> Vec<String> {
    pem.lines().filter(|line| !line.starts_with("-----") && line.len() > 20).map(str::to_owned).collect()
}

/// The value of each cookie that an answer sets.
fn cookies(answer: &reqwest::Response) -> Vec<String> {
    let values = answer.headers().get_all("Set-Cookie").iter().filter_map(|value| value.to_str().ok());
    values.filter_map(|line| line.split(';').next()?.split_once('=')).map(|(_, value)| value.to_owned()).collect()
}

/// Logs in, rightly and wrongly; the cookies are secrets.
async fn log_in(gateway: &Gateway) -> Vec<String> {
    let new = json!({"name": "olga", "role": "operator", "password": PASSWORD});
    assert_eq!(gateway.post("/v1/users", new).await.0, 201);
    let ask = |body: Value| gateway.client.post(format!("{}/v1/session", gateway.http)).json(&body).send();
    let wrong = ask(json!({"user": "olga", "password": WRONG_PASSWORD})).await.expect("an answer");
    assert_eq!(wrong.status(), 401);
    // The password typed where the name belongs.
    let typed = ask(json!({"user": WRONG_PASSWORD, "password": "something else"})).await.expect("an answer");
    assert_eq!(typed.status(), 401);
    let mut secrets = Vec::new();
    for body in [json!({"user": "olga", "password": PASSWORD}), json!({"api_key": gateway.admin_key})] {
        let right = ask(body).await.expect("an answer");
        assert_eq!(right.status(), 201);
        let set = cookies(&right);
        assert!(!set.is_empty());
        let name = if set.len() > 1 { "user" } else { "key" };
        let all = right.headers().get_all("Set-Cookie").iter().filter_map(|value| value.to_str().ok());
        let pairs: Vec<&str> = all.filter_map(|line| line.split(';').next()).collect();
        let session = gateway.client.get(format!("{}/v1/session", gateway.http)).header("Cookie", pairs.join("; "));
        assert_eq!(answer(session).await.0, 200, "{name}");
        secrets.extend(set);
    }
    secrets
}

/// Issues a key, uses it and hands out a ticket; tokens and tickets are secrets.
async fn issue(gateway: &Gateway) -> Vec<String> {
    let (_, api_key) = gateway.post("/v1/api-keys", json!({"name": "anna", "role": "renter"})).await;
    let api_key = text(&api_key, "api_key");
    gateway.register("CAR-1").await;
    let _car = kit::car::connect(gateway, "CAR-1").await;
    let wish = json!({"vehicle_id": "CAR-1", "profile": "drive", "from": kit::rfc3339_in(-60),
        "until": kit::rfc3339_in(3_600),
        "holder_key": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}});
    let as_anna = |method: Method, path: &str, body: Value| {
        let request = gateway.client.request(method, format!("{}{path}", gateway.http)).bearer_auth(&api_key);
        answer(request.json(&body))
    };
    let (status, request) = as_anna(Method::POST, "/v1/usage-requests", wish).await;
    assert_eq!(status, 201, "{request}");
    let action = format!("/v1/keys/{}/actions?wait_ms=20000", text(&request["key"], "key_id"));
    assert_eq!(as_anna(Method::POST, &action, json!({"function": "unlock_doors"})).await.0, 200);
    let (_, ticket) = gateway.post("/v1/console/tickets", Value::Null).await;
    let ticket = text(&ticket, "ticket");
    // In the URL, where a log line about the request would have it.
    let console = format!("{}/v1/console?ticket={ticket}", gateway.http);
    assert_eq!(gateway.client.get(console).send().await.expect("an answer").status(), 400, "no WebSocket");
    let unknown = gateway.client.get(format!("{}/v1/vehicles", gateway.http)).bearer_auth("ck_never-known-to-anybody");
    assert_eq!(answer(unknown).await.0, 401);
    vec![api_key, text(&request["key"], "token"), ticket, "ck_never-known-to-anybody".into()]
}

/// Asks for purchases rightly and wrongly, with what proves them.
async fn purchase(gateway: &Gateway) {
    assert_eq!(gateway.stripe(&json!({"id": "evt_1", "type": "other", "created": kit::unix_now()})).await.0, 200);
    let (user, password) = MARQETA.split_once(':').expect("a pair");
    for form in ["marqeta", "authorizations", "stripe"] {
        let request = gateway.client.post(format!("{}/v1/payments/{form}", gateway.http));
        let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{user}:{password}"));
        let request = request.header("Authorization", format!("Basic {basic}")).header("webhook-id", "1");
        let (status, _) = answer(request.json(&json!({"type": "nonsense"}))).await;
        assert!((400..500).contains(&status) || status == 200, "{form}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_where_others_read_it() {
    let settings = settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut gateway = Gateway::start_talkative(&settings).await;
    let files = ["ca.key.pem", "server.key.pem", "signing.key.pem"];
    let mut secrets: Vec<String> = files
        .iter()
        .flat_map(|file| inside(&std::fs::read_to_string(gateway.fleet_dir().join("certs").join(file)).expect(file)))
        .collect();
    assert!(secrets.len() >= files.len());
    let plain = [PASSWORD, WRONG_PASSWORD, OWN_SECRET, HOOK_SECRET, OIDC_SECRET, SMTP_PASSWORD, kit::STRIPE_SECRET];
    secrets.extend(plain.map(str::to_owned));
    secrets.push("marqeta-password-73".into());
    // As it goes over the wire.
    secrets.push(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, MARQETA));
    secrets.push(gateway.admin_key.clone());
    secrets.extend(log_in(&gateway).await);
    secrets.extend(issue(&gateway).await);
    purchase(&gateway).await;
    let (status, targets) = gateway.get("/v1/notifications/targets").await;
    assert_eq!(status, 200);
    for target in ["desk", "hook"] {
        assert_eq!(gateway.post("/v1/notifications/test", json!({"target": target})).await.0, 200, "{targets}");
    }
    let key = std::fs::read_to_string(gateway.enroll("CAR-2").join("key.pem")).expect("the car's key");
    secrets.extend(inside(&key));
    let shown = [
        gateway.probe("/metrics").await.1,
        gateway.get("/v1/audit?limit=1000").await.1.to_string(),
        gateway.get("/v1/system").await.1.to_string(),
        targets.to_string(),
    ];
    assert!(gateway.stop().success());
    let config = gateway.config();
    let journal = kit::run(&["journal", "export", "--config", &config.to_string_lossy()]);
    until("the log is whole", async || gateway.log().contains("stopping")).await;
    let log = gateway.log();
    assert!(log.contains("TRACE") && log.contains("/v1/usage-requests"), "it was to say all it can");
    assert!(journal.contains("logged_in") && journal.contains("key_granted"), "{journal:.2000}");
    secrets.push("$argon2".into());
    for (place, said) in
        ["metrics", "audit", "system", "targets"].into_iter().zip(&shown).chain([("log", &log), ("journal", &journal)])
    {
        for secret in &secrets {
            let at = said.find(secret.as_str());
            let around = at
                .map(|at| said[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect::<String>());
            assert!(at.is_none(), "{place} shows the secret {secret:.12}… after: {}", around.unwrap_or_default());
        }
    }
}
