//! Log-in for pages: an API key is traded for a session cookie, so that the page need not keep the key.
//!
//! Sessions live in memory: a restart ends them. Each stands for its API key and dies with it. The cookie is
//! HttpOnly, Secure and SameSite=Strict, and whatever changes something by cookie must come from our own page.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::auth::{Admission, Caller, KeyHash, new_secret, sha256};
use super::error::{Problem, ProblemBody, Slug};
use super::wire::{Json, reply};
use crate::domain::{Role, Timestamp};

/// `__Host-`: no other host and no plain-text page can set it.
const COOKIE: &str = "__Host-cardea-session";

/// The session's secret as the browser sent it.
fn cookie(request: &HttpRequest) -> Option<&str> {
    let headers = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let mut pairs = headers.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// `Set-Cookie`; a life of 0 removes it.
fn set_cookie(secret: &str, life_s: i64) -> (header::HeaderName, String) {
    let value = format!("{COOKIE}={secret}; Path=/; Max-Age={life_s}; Secure; HttpOnly; SameSite=Strict");
    (header::SET_COOKIE, value)
}

/// Every open session, by the SHA-256 of its cookie; at most [`Sessions::MAX`].
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<[u8; 32], Session>>,
}

struct Session {
    key: [u8; 32],
    expires_at: Timestamp,
}

impl Sessions {
    pub const LIFE_MS: i64 = 12 * 3_600_000;
    pub const MAX: usize = 65_536;
    /// Of one API key; one more ends its oldest, so that nobody's key takes everybody's room.
    pub const MAX_PER_KEY: usize = 32;

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        // Every critical section here leaves the map whole, so a poisoned lock still holds good data.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh session's secret with its end; `None` when too many are open.
    fn open(&self, key: [u8; 32], now: Timestamp) -> Option<(String, Timestamp)> {
        let secret = new_secret("cs_")?;
        let expires_at = now.plus_ms(Self::LIFE_MS);
        let mut open = self.lock();
        if open.len() >= Self::MAX {
            open.retain(|_, session| session.expires_at > now);
        }
        let own = open.iter().filter(|(_, session)| session.key == key);
        let (count, oldest) = own.fold((0, None), |(count, oldest), (name, session)| {
            let is_older = oldest.is_none_or(|(at, _)| session.expires_at < at);
            (count + 1, if is_older { Some((session.expires_at, *name)) } else { oldest })
        });
        if let Some((_, name)) = oldest.filter(|_| count >= Self::MAX_PER_KEY) {
            open.remove(&name);
        }
        if open.len() >= Self::MAX {
            return None;
        }
        open.insert(sha256(secret.as_bytes()), Session { key, expires_at });
        Some((secret, expires_at))
    }

    fn find(&self, secret: &str, now: Timestamp) -> Option<([u8; 32], Timestamp)> {
        if secret.len() > 128 {
            return None;
        }
        let open = self.lock();
        let session = open.get(&sha256(secret.as_bytes())).filter(|session| session.expires_at > now)?;
        Some((session.key, session.expires_at))
    }

    fn close(&self, secret: &str) {
        self.lock().remove(&sha256(secret.as_bytes()));
    }
}

/// The API key a request's cookie stands for. What changes something must say that it comes from our own page.
pub fn key_of(request: &HttpRequest, app: &App, now: Timestamp) -> Result<[u8; 32], Problem> {
    let unknown = |detail: &str| Problem::new(Slug::Unauthenticated, detail);
    let secret = cookie(request)
        .ok_or_else(|| unknown("an Authorization header with a bearer token, or a session, is needed"))?;
    let (key, _) = app.sessions.find(secret, now).ok_or_else(|| unknown("the session is over; log in again"))?;
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !only_reads && origin(request) != Origin::Own {
        return Err(Problem::forbidden("a session may change something only from this gateway's own pages"));
    }
    Ok(key)
}

/// Where a request says it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No browser, or one that does not say.
    Unsaid,
    /// A page of this gateway.
    Own,
    Foreign,
}

pub fn origin(request: &HttpRequest) -> Origin {
    let mut values = request.headers().get_all(header::ORIGIN);
    let Some(value) = values.next() else { return Origin::Unsaid };
    let said = value.to_str().ok().and_then(|text| text.strip_prefix("https://"));
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let is_own = values.next().is_none() && host.is_some_and(|host| said.is_some_and(|s| s.eq_ignore_ascii_case(host)));
    if is_own { Origin::Own } else { Origin::Foreign }
}

/// `{"api_key":"ck_…"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    api_key: String,
}

/// `{"subject":"olga","role":"operator","expires_at":"2026-11-21T22:36:46.000Z"}`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LoggedIn {
    pub subject: String,
    #[schema(value_type = String, example = "operator")]
    pub role: Role,
    #[schema(format = DateTime)]
    pub expires_at: String,
}

#[utoipa::path(post, path = "/v1/session", tag = "console", request_body = LogIn, responses(
    (status = 201, body = LoggedIn, description = "The session is in a cookie"),
    (status = 401, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn log_in(
    request: HttpRequest,
    app: web::Data<App>,
    Json { value: body, .. }: Json<LogIn>,
) -> Result<HttpResponse, Problem> {
    if origin(&request) == Origin::Foreign {
        return Err(Problem::forbidden("log in from this gateway's own page"));
    }
    let now = app.clock.now();
    let principal = match app.api_keys.admit(&body.api_key, now) {
        Admission::Admitted(principal) => principal,
        Admission::Unknown => {
            app.counters.unauthenticated.inc();
            return Err(Problem::new(Slug::Unauthenticated, "the API key is not known"));
        }
        Admission::Limited { retry_after_s } => {
            app.counters.rate_limited.inc();
            return Err(Problem::new(Slug::TooManyRequests, "this API key asks too often").retry_after(retry_after_s));
        }
    };
    let Some((secret, expires_at)) = app.sessions.open(sha256(body.api_key.as_bytes()), now) else {
        let detail = format!("{} sessions are open already", Sessions::MAX);
        return Err(Problem::new(Slug::TooManyRequests, detail).retry_after(60));
    };
    let body = LoggedIn { subject: principal.subject, role: principal.role, expires_at: expires_at.to_string() };
    let cookie = set_cookie(&secret, Sessions::LIFE_MS / 1000);
    Ok(HttpResponse::build(StatusCode::CREATED).insert_header(cookie).json(&body))
}

#[utoipa::path(get, path = "/v1/session", tag = "console", responses(
    (status = 200, body = LoggedIn),
    (status = 401, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn read(request: HttpRequest, app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    let session = cookie(&request).and_then(|secret| app.sessions.find(secret, app.clock.now()));
    let Some((_, expires_at)) = session else { return Err(Problem::not_found("session")) };
    let Caller { principal, role } = caller;
    let body = LoggedIn { subject: principal.subject, role, expires_at: expires_at.to_string() };
    Ok(reply(StatusCode::OK, &body))
}

#[utoipa::path(delete, path = "/v1/session", tag = "console", responses((status = 204, description = "Logged out")))]
pub async fn log_out(request: HttpRequest, app: web::Data<App>, _: Caller) -> Result<HttpResponse, Problem> {
    if let Some(secret) = cookie(&request) {
        app.sessions.close(secret);
    }
    Ok(HttpResponse::NoContent().insert_header(set_cookie("", 0)).finish())
}

/// Does what a request was admitted by still hold? Asked now and then by what outlives its request.
#[derive(Debug, Clone)]
pub struct Standing {
    key: KeyHash,
    cookie: Option<String>,
}

impl Standing {
    pub fn of(request: &HttpRequest, key: KeyHash, is_by_cookie: bool) -> Self {
        let cookie = cookie(request).filter(|_| is_by_cookie).map(str::to_owned);
        Self { key, cookie }
    }

    pub fn holds(&self, app: &App) -> bool {
        let is_open = |secret: &String| app.sessions.find(secret, app.clock.now()).is_some();
        app.api_keys.knows(&self.key.0) && self.cookie.as_ref().is_none_or(is_open)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, read_body_json};
    use serde_json::json;

    use super::super::testing::{app, service};
    use super::*;

    fn log_in(key: &str) -> TestRequest {
        TestRequest::post()
            .uri("/v1/session")
            .insert_header(("Host", "gateway:8443"))
            .set_json(json!({ "api_key": key }))
    }

    fn by_cookie(request: TestRequest, cookie: &str) -> TestRequest {
        let pair = cookie.split(';').next().unwrap();
        request.insert_header(("Host", "gateway:8443")).insert_header(("Cookie", format!("other=1; {pair}")))
    }

    fn set(answer: &actix_web::dev::ServiceResponse) -> String {
        answer.headers().get("Set-Cookie").expect("a cookie").to_str().unwrap().to_owned()
    }

    #[actix_web::test]
    async fn a_session_stands_for_its_key_until_it_is_closed() {
        let (app, _) = app();
        let service = service!(app);
        let answer = call_service(&service, log_in("ck_test-Operator").to_request()).await;
        assert_eq!(answer.status(), 201);
        let cookie = set(&answer);
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict"), "{cookie}");
        assert_eq!(read_body_json::<LoggedIn, _>(answer).await.subject, "operator");

        let read = || by_cookie(TestRequest::get().uri("/v1/session"), &cookie);
        let answer = call_service(&service, read().to_request()).await;
        assert_eq!(read_body_json::<LoggedIn, _>(answer).await.role, Role::Operator);
        let own = ("Origin", "https://gateway:8443");
        let delete = by_cookie(TestRequest::delete().uri("/v1/session"), &cookie).insert_header(own);
        assert_eq!(call_service(&service, delete.to_request()).await.status(), 204);
        assert_eq!(call_service(&service, read().to_request()).await.status(), 401);
    }

    #[actix_web::test]
    async fn a_session_changes_nothing_for_a_foreign_page() {
        let (app, _) = app();
        let service = service!(app);
        let answer = call_service(&service, log_in("ck_test-Admin").to_request()).await;
        let cookie = set(&answer);
        for origin in [None, Some("https://evil.example"), Some("http://gateway:8443"), Some("null")] {
            let mut request = by_cookie(TestRequest::post().uri("/v1/console/tickets"), &cookie);
            if let Some(origin) = origin {
                request = request.insert_header(("Origin", origin));
            }
            assert_eq!(call_service(&service, request.to_request()).await.status(), 403, "{origin:?}");
        }
        let own = by_cookie(TestRequest::post().uri("/v1/console/tickets"), &cookie)
            .insert_header(("Origin", "https://gateway:8443"));
        assert_eq!(call_service(&service, own.to_request()).await.status(), 201);
    }

    #[actix_web::test]
    async fn an_unknown_key_or_a_foreign_page_does_not_log_in_and_a_renter_sees_only_their_own() {
        let (app, _) = app();
        let service = service!(app);
        assert_eq!(call_service(&service, log_in("ck_nobody").to_request()).await.status(), 401);
        let renter = call_service(&service, log_in("ck_test-Renter").to_request()).await;
        assert_eq!(renter.status(), 201);
        let cookie = renter.headers().get("Set-Cookie").and_then(|value| value.to_str().ok()).expect("a cookie");
        let cookie = cookie.split(';').next().expect("its pair").to_owned();
        let get = |path: &str| TestRequest::get().uri(path).insert_header(("Cookie", cookie.clone())).to_request();
        assert_eq!(call_service(&service, get("/v1/rentals")).await.status(), 200);
        assert_eq!(call_service(&service, get("/v1/vehicles")).await.status(), 403);
        assert_eq!(call_service(&service, get("/v1/console")).await.status(), 403);
        let foreign = log_in("ck_test-Admin").insert_header(("Origin", "https://evil.example"));
        assert_eq!(call_service(&service, foreign.to_request()).await.status(), 403);
    }

    #[test]
    fn sessions_end_by_themselves_and_are_bounded() {
        let sessions = Sessions::default();
        let now = Timestamp(0);
        let (secret, end) = sessions.open([1; 32], now).expect("room");
        assert_eq!(sessions.find(&secret, end.plus_ms(-1)), Some(([1; 32], end)));
        assert_eq!(sessions.find(&secret, end), None);
        let key = |number: usize| sha256(&number.to_be_bytes());
        // Many keys, each within its own share; the map is looked through for every one.
        let keys = Sessions::MAX.div_ceil(Sessions::MAX_PER_KEY);
        let mut lock = sessions.lock();
        for number in 0..Sessions::MAX - 1 {
            lock.insert(sha256(&number.to_le_bytes()), Session { key: key(number % keys), expires_at: end });
        }
        drop(lock);
        assert!(sessions.open(key(keys), now).is_none(), "full");
        assert!(sessions.open(key(keys), end).is_some(), "old sessions make room");
    }

    #[test]
    fn a_key_that_logs_in_too_often_ends_its_own_oldest_session_and_nobody_elses() {
        let sessions = Sessions::default();
        let (other, _) = sessions.open([1; 32], Timestamp(0)).expect("room");
        let (first, _) = sessions.open([2; 32], Timestamp(1)).expect("room");
        for at in 2..=Sessions::MAX_PER_KEY as i64 {
            sessions.open([2; 32], Timestamp(at)).expect("room");
        }
        assert!(sessions.find(&first, Timestamp(100)).is_some());
        sessions.open([2; 32], Timestamp(100)).expect("room");
        assert!(sessions.find(&first, Timestamp(100)).is_none());
        assert!(sessions.find(&other, Timestamp(100)).is_some());
    }
}
