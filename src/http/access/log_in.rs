//! `/v1/session`: log in with an API key, a password or at the identity provider, and out again.

use std::net::IpAddr;
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
use utoipa::{IntoParams, ToSchema};

use super::attempts::Share;
use super::cookies::{Cookie, Origin, origin};
use super::passwords::{self, Asker};
use super::sessions::{Opened, Sessions};
use super::users::{self, Kept, User};
use super::{Admission, App, Caller, Holder, KeyHash, Standing, api_keys, random, sha256, store, to_the_end};
use crate::domain::{Principal, Role};
use crate::http::address;
use crate::http::error::{Problem, ProblemBody, Slug};
use crate::http::wire::{Json, Query, reply};
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
    let holder = Holder::ApiKey(KeyHash(sha256(key.as_bytes())));
    let admission = match api_keys::is_secret(key) {
        true => app.access.admit(&holder, app.clock.now()),
        false => Admission::Unknown,
    };
    let principal = admission.or_problem(app, "the API key is not known")?;
    let from = address::of(request);
    let (body, cookie) = begin(from, app, holder, principal, None).await?;
    Ok(HttpResponse::build(StatusCode::CREATED).insert_header(cookie).json(&body))
}

async fn by_password(request: &HttpRequest, app: &App, name: &str, password: String) -> Result<HttpResponse, Problem> {
    passwords::check_length("password", &password)?;
    let known = app.access.users.find(name);
    let device = known.as_ref().and_then(|user| proof_of_device(request, app, user).map(|proof| (user.user_id, proof)));
    let (asker, shares) = match (device, address::of(request)) {
        (Some((id, proof)), _) => (Asker::Known, vec![Share::Device(sha256(proof.as_bytes())), Share::Devices(id)]),
        (None, Some(address)) => (Asker::Stranger, vec![Share::of_address(address), Share::of_name(name)]),
        (None, None) => (Asker::Stranger, vec![Share::of_name(name)]),
    };
    spend(request, app, &shares)?;
    let hash = known.as_ref().map(|user| user.password.clone());
    let is_right = app.access.passwords.is_right(password, hash, asker).await;
    if !matches!(is_right, Ok(false)) {
        app.access.was_no_guess(&shares);
    }
    let verified = known.filter(|_| matches!(is_right, Ok(true)));
    is_right?;
    let Some(verified) = verified else {
        app.counters.unauthenticated.inc();
        // One sentence for all of it: who has an account here is nobody's business.
        return Err(Problem::new(Slug::Unauthenticated, WRONG));
    };
    let from = address::of(request);
    let entered = to_the_end(enter(app.clone(), verified, from));
    let (body, session, device) = entered.await?;
    let mut answer = HttpResponse::build(StatusCode::CREATED);
    answer.append_header(session);
    if let Some(device) = device {
        answer.append_header(device);
    }
    Ok(answer.json(&body))
}

const WRONG: &str = "no user has this name and password";

type SetCookie = (HeaderName, String);

/// Opens the session of a user whose password was right for `verified`.
async fn enter(
    app: App,
    verified: User,
    from: Option<IpAddr>,
) -> Result<(LoggedIn, SetCookie, Option<SetCookie>), Problem> {
    let User { user_id, password, .. } = verified;
    let _writing = app.access.users.writing().await;
    // It took a while: only what still is so counts.
    let is_so = |user: &User| !user.disabled && user.password == password;
    let user = app.access.users.get(user_id).filter(is_so);
    let user = user.ok_or_else(|| Problem::new(Slug::Unauthenticated, WRONG))?;
    let admission = app.access.admit(&Holder::User(user_id), app.clock.now());
    let principal = admission.or_problem(&app, "the user is not known")?;
    let note = app.access.users.logged_in(user_id, app.clock.now());
    let (body, session) = begin(from, &app, Holder::User(user_id), principal, note).await?;
    let device = new_device(&app, &user).map(|proof| Cookie::Device(user_id).set(&proof, DEVICE_LIFE_S));
    Ok((body, session, device))
}

/// Takes one guess, or says when there is one again.
pub fn spend(request: &HttpRequest, app: &App, shares: &[Share]) -> Result<(), Problem> {
    app.access.guess(shares, app.clock.now()).map_err(|dry| {
        app.counters.rate_limited.inc();
        if dry.is_news {
            // Never the name that was typed: it may be a password.
            tracing::warn!(from = ?address::of(request), share = dry.share.kind(), "too many log-ins failed");
        }
        let detail = "too many failed log-ins; a browser that was logged in before has its own count";
        Problem::new(Slug::TooManyRequests, detail).retry_after(dry.retry_after_s)
    })
}

const DEVICE_LIFE_S: i64 = 365 * 86_400;
const NONCE_LEN: usize = 16;

/// What a browser shows later to say that this user logged in with it: a nonce, and our mark on it, on the user and on
/// the password of now. Who learnt an old password has nothing of it after the change.
fn new_device(app: &App, user: &User) -> Option<String> {
    let nonce: [u8; NONCE_LEN] = random()?;
    Some(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &device_mark(app, user, &nonce)].concat()))
}

fn device_mark(app: &App, user: &User, nonce: &[u8]) -> [u8; 32] {
    app.signer.derive("device", &[user.user_id.0.as_bytes().as_slice(), nonce, user.password.as_bytes()].concat())
}

fn proof_of_device<'a>(request: &'a HttpRequest, app: &App, user: &User) -> Option<&'a str> {
    let proof = Cookie::Device(user.user_id).of(request)?;
    let shown = URL_SAFE_NO_PAD.decode(proof).ok()?;
    let (nonce, mark) = shown.split_at_checked(NONCE_LEN)?;
    bool::from(mark.ct_eq(device_mark(app, user, nonce).as_slice())).then_some(proof)
}

/// Opens a session and writes it down, `note` with it. A store that takes nothing keeps nobody out: somebody has to look
/// at what is wrong. Such a session ends with the process.
pub async fn begin(
    from: Option<IpAddr>,
    app: &App,
    holder: Holder,
    principal: Principal,
    note: Option<ViewChange>,
) -> Result<(LoggedIn, SetCookie), Problem> {
    let (at, method) = (app.clock.now(), Method::of(&holder));
    let provider_s_name = match &holder {
        Holder::Federated { id, .. } => Some(id.clone()),
        Holder::ApiKey(_) | Holder::User(_) => None,
    };
    let Some(Opened { secret, expires_at, change }) = app.access.sessions.open(holder, at) else {
        let detail = format!("{} sessions are open already", Sessions::MAX);
        return Err(Problem::new(Slug::TooManyRequests, detail).retry_after(60));
    };
    let view = note.into_iter().chain([change]).collect();
    let event = json!({"event": "logged_in", "method": method, "from": from, "sub": provider_s_name});
    let by = Principal { from, ..principal.clone() };
    if let Err(error) = store(app, step(by, at, &event, view)?).await {
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
    (status = 404, description = "The caller came by no session", body = ProblemBody,
        content_type = "application/problem+json"),
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
        // Over in any case; what the store does not take now goes with the next step that it takes.
        app.access.sessions.close(&name);
        let event = json!({"event": "logged_out"});
        let (app, step) = (app.get_ref().clone(), step(caller.principal, app.clock.now(), &event, Vec::new())?);
        let stored = to_the_end(async move { Ok(store(&app, step).await) });
        if let Err(error) = stored.await? {
            tracing::warn!(%error, "a log-out could not be written down yet");
        }
    }
    Ok(HttpResponse::NoContent().insert_header(Cookie::Session.set("", 0)).finish())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhoseSessions {
    subject: String,
}

/// `{"ended":2}`
#[derive(Debug, Serialize, ToSchema)]
pub struct Ended {
    ended: usize,
}

#[utoipa::path(delete, path = "/v1/sessions", tag = "session", params(WhoseSessions), responses(
    (status = 200, body = Ended, description = "Every session that acts as this subject is over, however it was opened"),
))]
pub async fn end_all(
    app: web::Data<App>,
    caller: Caller,
    Query(WhoseSessions { subject }): Query<WhoseSessions>,
) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    let now = app.clock.now();
    let acts_so =
        |holder: &Holder| app.access.principal(holder, now).is_some_and(|principal| principal.subject == subject);
    let ended = app.access.sessions.close_all(acts_so, None);
    let event = json!({"event": "sessions_ended", "subject": subject, "count": ended});
    let (app, step) = (app.get_ref().clone(), step(caller.principal, app.clock.now(), &event, Vec::new())?);
    to_the_end(async move { Ok(store(&app, step).await?) }).await?;
    Ok(reply(StatusCode::OK, &Ended { ended }))
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
    let standing = Standing::of(&request)?;
    let Standing { holder: Holder::User(id), session, .. } = standing else {
        return Err(Problem::new(Slug::Conflict, "only who logged in with a password has one"));
    };
    let user = app.access.users.get(id).ok_or_else(|| Problem::not_found("user"))?;
    passwords::check("new", &new, &user.name)?;
    passwords::check_length("old", &old)?;
    let share = [Share::User(id)];
    spend(&request, &app, &share)?;
    let verified = user.password;
    let is_right = app.access.passwords.is_right(old, Some(verified.clone()), Asker::Known).await;
    if !matches!(is_right, Ok(false)) {
        app.access.was_no_guess(&share);
    }
    if !is_right? {
        return Err(Problem::invalid("old", "it is not the present password"));
    }
    let hash = app.access.passwords.hash(new, Asker::Known).await?;
    let event = json!({"event": "user_changed", "user_id": id, "password": true});
    let still = app.get_ref().clone();
    let change = move |user: &mut User| {
        // It took a while: an admin may have given another password or ended this session meanwhile.
        if user.password != verified || Standing::of_session(id, session).principal(&still).is_none() {
            return Err(Problem::new(Slug::Conflict, "the password or the log-in changed meanwhile"));
        }
        user.password = hash.clone();
        Ok(())
    };
    users::update(app.get_ref().clone(), caller.principal, id, event, Kept::Only(session), change).await?;
    Ok(HttpResponse::NoContent().finish())
}
