//! A log-in at a provider, step by step, and what must not pass. The provider here answers as the standard says and lies
//! where a test wants it to; the browser tests log in at a real one.

use std::sync::{Arc, Mutex};

use actix_web::http::Method as Verb;
use actix_web::test::{TestRequest, call_service, read_body_json};
use actix_web::{HttpRequest, HttpResponse, HttpServer, web};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::config::Config;
use crate::domain::Role;
use crate::http::access::{Access, log_in::LoggedIn};
use crate::http::testing::{NOW_MS, app_with, service};

/// What the provider will put into its next ID token, and what it was asked.
#[derive(Default)]
struct Said {
    claims: Value,
    key: u8,
    form: String,
    basic: String,
}

type Shared = Arc<Mutex<Said>>;

fn signed(key: u8, claims: &Value) -> String {
    let der = SigningKey::from_bytes(&[key; 32]).to_pkcs8_der().unwrap();
    let header = Header { kid: Some(format!("k{key}")), ..Header::new(Algorithm::EdDSA) };
    encode(&header, claims, &EncodingKey::from_ed_der(der.as_bytes())).unwrap()
}

/// Starts a provider on a free port; its issuer.
fn provide(said: &Shared) -> String {
    async fn describe(request: HttpRequest) -> HttpResponse {
        let issuer = format!("http://{}", request.connection_info().host());
        HttpResponse::Ok().json(json!({"issuer": issuer, "authorization_endpoint": format!("{issuer}/auth?tenant=1"),
            "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys")}))
    }
    async fn keys(said: web::Data<Shared>) -> HttpResponse {
        let key = said.lock().unwrap().key;
        let x = URL_SAFE_NO_PAD.encode(SigningKey::from_bytes(&[key; 32]).verifying_key().as_bytes());
        let known = json!({"kty": "OKP", "crv": "Ed25519", "kid": format!("k{key}"), "x": x});
        HttpResponse::Ok().json(json!({"keys": [{"kty": "from the future"}, known]}))
    }
    async fn token(said: web::Data<Shared>, request: HttpRequest, form: String) -> HttpResponse {
        let mut said = said.lock().unwrap();
        said.form = form;
        said.basic =
            request.headers().get("Authorization").map(|value| value.to_str().unwrap().into()).unwrap_or_default();
        HttpResponse::Ok().json(json!({"id_token": signed(said.key, &said.claims), "access_token": "x"}))
    }
    let data = web::Data::new(said.clone());
    let server = HttpServer::new(move || {
        actix_web::App::new()
            .app_data(data.clone())
            .route("/.well-known/openid-configuration", web::get().to(describe))
            .route("/keys", web::get().to(keys))
            .route("/token", web::post().to(token))
    });
    let server = server.workers(1).bind(("127.0.0.1", 0)).unwrap();
    let issuer = format!("http://{}", server.addrs()[0]);
    actix_web::rt::spawn(server.run());
    issuer
}

struct Stage {
    app: App,
    said: Shared,
    issuer: String,
}

async fn stage() -> Stage {
    // As the program does at its start; tests of one process may find it done.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let said = Shared::default();
    said.lock().unwrap().key = 1;
    let issuer = provide(&said);
    let mut config = Config::default();
    config.oidc.issuer = Some(issuer.clone());
    config.oidc.client_id = "cardea".into();
    config.oidc.client_secret = "a secret: &".into();
    config.oidc.role_claim = "realm.roles".into();
    config.oidc.bearer_audience = Some("cardea-api".into());
    let (app, _) = app_with(config);
    assert!(app.access.oidc.as_ref().unwrap().refresh().await);
    Stage { app, said, issuer }
}

/// A log-in that a browser began: its cookie, and what the provider was sent.
struct Begun {
    cookie: String,
    sent: std::collections::HashMap<String, String>,
}

macro_rules! begin {
    ($service:expr) => {{
        let request = TestRequest::get().uri(START).insert_header(("Host", "gateway:8443")).to_request();
        let answer = call_service(&$service, request).await;
        assert_eq!(answer.status(), 303);
        let url = answer.headers().get("Location").unwrap().to_str().unwrap();
        let sent = url::Url::parse(url).unwrap().query_pairs().into_owned().collect();
        let cookie = answer.headers().get("Set-Cookie").unwrap().to_str().unwrap();
        assert!(cookie.ends_with("SameSite=Lax"), "{cookie}");
        Begun { cookie: cookie.split(';').next().unwrap().to_owned(), sent }
    }};
}

/// Comes back from the provider; `(where to, the session's cookie)`.
macro_rules! come_back {
    ($service:expr, $cookie:expr, $query:expr) => {{
        let request = TestRequest::get().uri(&format!("{CALLBACK}?{}", $query));
        let request = request.insert_header(("Host", "gateway:8443")).insert_header(("Cookie", $cookie.clone()));
        let answer = call_service(&$service, request.to_request()).await;
        assert_eq!(answer.status(), 303);
        let cookies = answer.headers().get_all("Set-Cookie").map(|value| value.to_str().unwrap().to_owned());
        let session =
            cookies.into_iter().find(|cookie| cookie.starts_with("__Host-cardea-session=")).unwrap_or_default();
        let pair = session.split(';').next().unwrap_or_default().to_owned();
        (answer.headers().get("Location").unwrap().to_str().unwrap().to_owned(), pair)
    }};
}

impl Stage {
    fn claims(&self, audience: &str, nonce: &str) -> Value {
        json!({"iss": self.issuer, "aud": audience, "sub": "u-1", "nonce": nonce, "exp": NOW_MS / 1000 + 300,
            "realm": {"roles": ["other", "cardea-operator", "cardea-auditor"]}})
    }

    fn will_say(&self, claims: Value) {
        self.said.lock().unwrap().claims = claims;
    }
}

#[actix_web::test]
async fn a_person_logs_in_and_stays_over_a_restart_but_not_over_another_provider() {
    let stage = stage().await;
    let service = service!(stage.app);
    let Begun { cookie, sent } = begin!(service);
    assert_eq!((sent["tenant"].as_str(), sent["code_challenge_method"].as_str()), ("1", "S256"));
    assert_eq!(sent["redirect_uri"], format!("https://gateway:8443{CALLBACK}"));
    stage.will_say(stage.claims("cardea", &sent["nonce"]));
    let (to, session) = come_back!(service, cookie, format!("code=c0de&state={}", sent["state"]));
    assert_eq!(to, "/");
    let form: std::collections::HashMap<String, String> =
        url::form_urlencoded::parse(stage.said.lock().unwrap().form.as_bytes()).into_owned().collect();
    assert_eq!(URL_SAFE_NO_PAD.encode(sha256(form["code_verifier"].as_bytes())), sent["code_challenge"]);
    let basic = base64::engine::general_purpose::STANDARD.encode("cardea:a+secret%3A+%26");
    assert_eq!(stage.said.lock().unwrap().basic, format!("Basic {basic}"));

    let read = || TestRequest::get().uri("/v1/session").insert_header(("Cookie", session.clone())).to_request();
    let who: LoggedIn = read_body_json(call_service(&service, read()).await).await;
    assert_eq!((who.subject.as_str(), who.role), ("u-1", Role::Operator), "the mightier role counts");
    for (issuer, status) in [(stage.issuer.clone(), 200), ("http://127.0.0.1:9".into(), 401)] {
        let mut config = (*stage.app.config).clone();
        config.oidc.issuer = Some(issuer);
        let access = Access::new(&config).unwrap();
        access.load(&*stage.app.store, Timestamp(NOW_MS)).unwrap();
        let again = App { access: access.into(), ..stage.app.clone() };
        let after = service!(again);
        assert_eq!(call_service(&after, read()).await.status(), status);
    }
}

#[actix_web::test]
async fn whatever_does_not_belong_together_opens_nothing() {
    let stage = stage().await;
    let service = service!(stage.app);
    let Begun { cookie, sent } = begin!(service);
    let other = begin!(service);
    let state = format!("state={}", sent["state"]);
    let good = stage.claims("cardea", &sent["nonce"]);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (cookie, query, claims, slug) in [
        (&other.cookie, format!("code=c&{state}"), good.clone(), "unauthenticated"),
        (&String::new(), format!("code=c&{state}"), good.clone(), "unauthenticated"),
        (&cookie, "code=c".into(), good.clone(), "unauthenticated"),
        (&cookie, format!("code=c&state={}", other.sent["state"]), good.clone(), "unauthenticated"),
        (&cookie, format!("code=c&{state}&iss=https://evil.example"), good.clone(), "unauthenticated"),
        (&cookie, format!("error=access_denied&{state}"), good.clone(), "forbidden"),
        (&cookie, state.clone(), good.clone(), "unauthenticated"),
        (&cookie, format!("code=c&{state}"), with("nonce", json!(other.sent["nonce"])), "unauthenticated"),
        (&cookie, format!("code=c&{state}"), with("aud", json!("another client")), "unauthenticated"),
        (&cookie, format!("code=c&{state}"), with("exp", json!(NOW_MS / 1000 - 3_600)), "unauthenticated"),
        (&cookie, format!("code=c&{state}"), with("realm", json!({"roles": []})), "forbidden"),
        (&cookie, format!("code=c&{state}"), with("sub", json!("a/b")), "forbidden"),
    ] {
        stage.will_say(claims);
        assert_eq!(come_back!(service, cookie, query), (format!("/?log_in={slug}"), String::new()), "{query}");
    }
    stage.will_say(good);
    assert_eq!(come_back!(service, cookie, format!("code=c&{state}")).0, "/");
}

#[actix_web::test]
async fn a_new_key_of_the_provider_is_asked_for_and_a_provider_that_is_away_is_said() {
    let stage = stage().await;
    let service = service!(stage.app);
    let Begun { cookie, sent } = begin!(service);
    stage.will_say(stage.claims("cardea", &sent["nonce"]));
    stage.said.lock().unwrap().key = 2;
    assert_eq!(come_back!(service, cookie, format!("code=c&state={}", sent["state"])).0, "/");
    stage.app.access.oidc.as_ref().unwrap().provider.store(None);
    let request = TestRequest::get().uri(START).insert_header(("Host", "gateway:8443")).to_request();
    let answer = call_service(&service, request).await;
    assert_eq!(answer.headers().get("Location").unwrap(), "/?log_in=not-ready");
}

#[actix_web::test]
async fn a_token_is_a_bearer_token_for_its_own_audience_only() {
    let stage = stage().await;
    let service = service!(stage.app);
    for (audience, key, status) in [("cardea-api", 1, 201), ("cardea", 1, 401), ("cardea-api", 3, 401)] {
        let token = signed(key, &stage.claims(audience, "n"));
        let request = TestRequest::default().method(Verb::POST).uri("/v1/console/tickets");
        let request = request.insert_header(("Authorization", format!("Bearer {token}")));
        assert_eq!(call_service(&service, request.to_request()).await.status(), status, "{audience} {key}");
    }
}
