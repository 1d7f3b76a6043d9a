//! `/v1/session`: log in with an API key, a password or at the identity provider, and out again.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::attempts::Share;
use super::cookies::{Cookie, Origin, origin};
use super::sessions::{Opened, Sessions, forgotten};
use super::users::{self, User};
use super::{App, Caller, Holder, KeyHash, Standing, passwords, random, sha256};
use crate::domain::{Principal, Role, UserId};
use crate::http::error::{Problem, ProblemBody, Slug};
use crate::http::wire::{Json, reply};
use crate::store::{Append, Expected, ViewChange};

/// `{"api_key":"ck_…"}` or `{"user":"olga","password":"…"}`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    api_key: Option<String>,
    user: Option<String>,
    #[schema(format = Password)]
    password: Option<String>,
}

/// How a session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    ApiKey,
    Password,
    Oidc,
}

impl Method {
    fn of(holder: &Holder) -> Self {
        match holder {
            Holder::ApiKey(_) => Self::ApiKey,
            Holder::User(_) => Self::Password,
            Holder::Federated { .. } => Self::Oidc,
        }
    }
}

/// `{"subject":"olga","role":"operator","method":"password","expires_at":"2026-11-21T22:36:46.000Z"}`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LoggedIn {
    pub subject: String,
    #[schema(value_type = String, example = "operator")]
    pub role: Role,
    pub method: Method,
    #[schema(format = DateTime)]
    pub expires_at: String,
}

/// `{"api_key":true,"password":true,"oidc":{"name":"Company log-in","start":"/v1/session/oidc"}}`
#[derive(Debug, Serialize, ToSchema)]
pub struct Methods {
    api_key: bool,
    password: bool,
    oidc: Option<Provider>,
}

/// An identity provider; the browser goes to `start`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Provider {
    name: String,
    start: String,
}

#[utoipa::path(get, path = "/v1/session/methods", tag = "session", responses((status = 200, body = Methods)))]
pub async fn methods(app: web::Data<App>) -> HttpResponse {
    let provider =
        |oidc: &Arc<super::oidc::Oidc>| Provider { name: oidc.name().to_owned(), start: super::oidc::START.into() };
    let oidc = app.access.oidc.as_ref().map(provider);
    reply(StatusCode::OK, &Methods { api_key: true, password: true, oidc })
}

#[utoipa::path(post, path = "/v1/session", tag = "session", request_body = LogIn, responses(
    (status = 201, body = LoggedIn, description = "The session is in a cookie"),
    (status = 401, body = ProblemBody, content_type = "application/problem+json"),
    (status = 429, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn log_in(
    request: HttpRequest,
    app: web::Data<App>,
    Json { value: body, .. }: Json<LogIn>,
) -> Result<HttpResponse, Problem> {
    if origin(&request) == Origin::Foreign {
        return Err(Problem::forbidden("log in from this gateway's own page"));
    }
    match body {
        LogIn { api_key: Some(key), user: None, password: None } => by_api_key(&request, &app, &key).await,
        LogIn { api_key: None, user: Some(user), password: Some(password) } => {
            by_password(&request, &app, &user, password).await
        }
        _ => Err(Problem::new(Slug::Invalid, "either api_key, or user and password")),
    }
}

async fn by_api_key(request: &HttpRequest, app: &App, key: &str) -> Result<HttpResponse, Problem> {
    let admission = app.access.api_keys.admit(key, app.clock.now());
    let principal = admission.or_problem(app, "the API key is not known")?;
    let holder = Holder::ApiKey(KeyHash(sha256(key.as_bytes())));
    let (body, cookie) = begin(request, app, holder, principal, None).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).insert_header(cookie).json(&body))
}

async fn by_password(request: &HttpRequest, app: &App, name: &str, password: String) -> Result<HttpResponse, Problem> {
    let known = app.access.users.find(name);
    let device = known.as_ref().filter(|user| is_of_device(request, app, user.user_id));
    let shares = match (device.and(Cookie::Device.of(request)), request.peer_addr()) {
        (Some(proof), _) => vec![Share::Device(sha256(proof.as_bytes()))],
        (None, Some(address)) => vec![Share::of_address(address.ip()), Share::of_name(name)],
        (None, None) => vec![Share::of_name(name)],
    };
    spend(app, &shares)?;
    let hash = known.as_ref().map(|user| user.password.clone());
    let is_right = app.access.passwords.is_right(password, hash.clone()).await;
    if !matches!(is_right, Ok(false)) {
        app.access.attempts.give_back(&shares);
    }
    let is_right = is_right?;
    let _writing = app.access.users.writing().await;
    // It took a while: only what still is so counts.
    let user = known.and_then(|user| app.access.users.get(user.user_id));
    let user = user.filter(|user| is_right && !user.disabled && Some(&user.password) == hash.as_ref());
    let Some(User { user_id, .. }) = user else {
        app.counters.unauthenticated.inc();
        // One sentence for all of it: who has an account here is nobody's business.
        return Err(Problem::new(Slug::Unauthenticated, "no user has this name and password"));
    };
    let principal = app.access.users.admit(user_id, app.clock.now()).or_problem(app, "the user is not known")?;
    let note = app.access.users.logged_in(user_id, app.clock.now());
    let (body, cookie) = begin(request, app, Holder::User(user_id), principal, note).await?;
    let mut answer = HttpResponse::build(StatusCode::CREATED);
    answer.append_header(cookie);
    if let Some(proof) = device_proof(app, user_id) {
        answer.append_header(Cookie::Device.set(&proof, DEVICE_LIFE_S));
    }
    Ok(answer.json(&body))
}

/// Takes one guess, or says when there is one again.
fn spend(app: &App, shares: &[Share]) -> Result<(), Problem> {
    app.access.attempts.take(shares, app.clock.now()).map_err(|retry_after_s| {
        app.counters.rate_limited.inc();
        let detail = "too many wrong passwords; a browser that was logged in before has its own count";
        Problem::new(Slug::TooManyRequests, detail).retry_after(retry_after_s)
    })
}

const DEVICE_LIFE_S: i64 = 365 * 86_400;
const NONCE_LEN: usize = 16;

/// What a browser shows later to say that this user logged in with it: the user, a nonce, and our mark on both.
fn device_proof(app: &App, user: UserId) -> Option<String> {
    let nonce: [u8; NONCE_LEN] = random()?;
    let said = [user.0.as_bytes().as_slice(), &nonce].concat();
    let mark = app.signer.derive("device", &said);
    Some(URL_SAFE_NO_PAD.encode([said.as_slice(), &mark].concat()))
}

fn is_of_device(request: &HttpRequest, app: &App, user: UserId) -> bool {
    let shown = Cookie::Device.of(request).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).unwrap_or_default();
    let Some((said, mark)) = shown.split_at_checked(16 + NONCE_LEN) else { return false };
    said.starts_with(user.0.as_bytes()) && bool::from(mark.ct_eq(app.signer.derive("device", said).as_slice()))
}

/// Opens a session and writes it down, `note` with it. A store that takes nothing keeps nobody out: somebody has to look
/// at what is wrong. Such a session ends with the process.
pub async fn begin(
    request: &HttpRequest,
    app: &App,
    holder: Holder,
    principal: Principal,
    note: Option<ViewChange>,
) -> Result<(LoggedIn, (HeaderName, String)), Problem> {
    let (at, method) = (app.clock.now(), Method::of(&holder));
    let Some(Opened { secret, expires_at, mut changes }) = app.access.sessions.open(holder, at) else {
        let detail = format!("{} sessions are open already", Sessions::MAX);
        return Err(Problem::new(Slug::TooManyRequests, detail).retry_after(60));
    };
    changes.extend(note);
    let from = request.peer_addr().map(|address| address.ip().to_string());
    let event = json!({"event": "logged_in", "method": method, "from": from});
    if let Err(error) = app.store.append(step(principal.clone(), at, &event, changes)?).await {
        tracing::warn!(%error, subject = principal.subject, "a log-in could not be written down");
    }
    let body =
        LoggedIn { subject: principal.subject, role: principal.role, method, expires_at: expires_at.to_string() };
    Ok((body, Cookie::Session.set(&secret, Sessions::LIFE_MS / 1000)))
}

fn step(
    by: Principal,
    at: crate::domain::Timestamp,
    event: &serde_json::Value,
    view: Vec<ViewChange>,
) -> Result<Append, Problem> {
    let event = to_raw_value(event).map_err(|error| Problem::internal("session", &error))?;
    let stream = format!("session/{}", by.subject);
    Ok(Append { stream, expected: Expected::Any, fence: None, at, by, idempotency: None, events: vec![event], view })
}

#[utoipa::path(get, path = "/v1/session", tag = "session", responses(
    (status = 200, body = LoggedIn),
    (status = 401, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn read(request: HttpRequest, app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    let Standing { holder, session, .. } = Standing::of(&request)?;
    let end = session.and_then(|name| app.access.sessions.end_of(&name, app.clock.now()));
    let Some(expires_at) = end else { return Err(Problem::not_found("session")) };
    let Caller { principal, role } = caller;
    let body =
        LoggedIn { subject: principal.subject, role, method: Method::of(&holder), expires_at: expires_at.to_string() };
    Ok(reply(StatusCode::OK, &body))
}

#[utoipa::path(delete, path = "/v1/session", tag = "session", responses((status = 204, description = "Logged out")))]
pub async fn log_out(request: HttpRequest, app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    if let Some(name) = Standing::of(&request)?.session {
        let event = json!({"event": "logged_out"});
        app.store.append(step(caller.principal, app.clock.now(), &event, forgotten(&[name]))?).await?;
        app.access.sessions.close(&name);
    }
    Ok(HttpResponse::NoContent().insert_header(Cookie::Session.set("", 0)).finish())
}

/// `{"old":"…","new":"…"}`
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    #[schema(format = Password)]
    old: String,
    /// 12 to 128 characters.
    #[schema(format = Password)]
    new: String,
}

#[utoipa::path(put, path = "/v1/session/password", tag = "session", request_body = NewPassword, responses(
    (status = 204, description = "Changed; the user's other sessions are over"),
    (status = 409, body = ProblemBody, content_type = "application/problem+json"),
    (status = 429, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn change_password(
    request: HttpRequest,
    app: web::Data<App>,
    caller: Caller,
    Json { value: NewPassword { old, new }, .. }: Json<NewPassword>,
) -> Result<HttpResponse, Problem> {
    let Standing { holder: Holder::User(id), session, .. } = Standing::of(&request)? else {
        return Err(Problem::new(Slug::Conflict, "only who logged in with a password has one"));
    };
    let user = app.access.users.get(id).ok_or_else(|| Problem::not_found("user"))?;
    passwords::check("new", &new, &user.name)?;
    let share = [Share::User(id)];
    spend(&app, &share)?;
    let is_right = app.access.passwords.is_right(old, Some(user.password)).await;
    if !matches!(is_right, Ok(false)) {
        app.access.attempts.give_back(&share);
    }
    if !is_right? {
        return Err(Problem::invalid("old", "it is not the present password"));
    }
    let hash = app.access.passwords.hash(new).await?;
    let event = json!({"event": "user_changed", "user_id": id, "password": true});
    users::update(&app, caller.principal, id, &event, Some(session), |user| user.password = hash).await?;
    Ok(HttpResponse::NoContent().finish())
}
