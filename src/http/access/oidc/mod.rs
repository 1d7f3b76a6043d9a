//! Log-in at an identity provider: OpenID Connect's authorization code with PKCE, and its tokens as bearer tokens.
//!
//! Of a log-in under way nothing is kept here: state, nonce and verifier all derive from a random cookie and the fleet's
//! signing key, so that nobody can fill a table and a restart breaks none.

mod provider;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, Semaphore};
use utoipa::IntoParams;

use super::attempts::Share;
use super::cookies::Cookie;
use super::rate::{Buckets, Rate};
use super::{Admission, App, Holder, log_in, new_secret, sha256, to_the_end};
use crate::config;
use crate::domain::{Principal, Timestamp};
use crate::http::address;
use crate::http::error::{Problem, ProblemBody, Slug};
use crate::http::usage::check_name;
use crate::http::wire::Query;
use crate::https_client::plain;
use provider::{Line, Provider, Trade};
use verify::{Claims, Expected, Refused};

pub const START: &str = "/v1/session/oidc";
const CALLBACK: &str = "/v1/session/oidc/callback";
/// A log-in at the provider may take so long.
const LOG_IN_S: i64 = 600;
const MAX_TOKEN_LEN: usize = 8 * 1024;
const MAX_TRADES: usize = 8;
/// How often the provider is asked for its keys anew,
const REFRESH: Duration = Duration::from_secs(300);
/// how often while it does not answer, or when a token names a key that is not known.
const RETRY: Duration = Duration::from_secs(10);

/// The provider, and those who came from it lately.
pub struct Oidc {
    config: config::Oidc,
    issuer: String,
    line: Line,
    provider: ArcSwapOption<Provider>,
    /// A token named a key that is not known.
    look_again: Notify,
    /// Questions to the provider on behalf of browsers, at once.
    trades: Semaphore,
    /// Requests of each person.
    buckets: Buckets<String>,
}

/// People whose requests are counted at once.
const MAX_PEOPLE: usize = 20_000;

/// Has it the form of a JSON web token? No API key has.
pub fn is_token(secret: &str) -> bool {
    secret.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Oidc {
    /// `None` where no issuer is configured.
    pub fn new(config: &config::Oidc, rate: Rate) -> Result<Option<Self>, String> {
        let Some(issuer) = config.issuer.clone() else { return Ok(None) };
        let line = Line::new(&issuer, config.ca.as_deref()).map_err(|problem| format!("oidc.ca: {problem}"))?;
        Ok(Some(Self {
            config: config.clone(),
            issuer,
            line,
            provider: ArcSwapOption::empty(),
            look_again: Notify::new(),
            trades: Semaphore::new(MAX_TRADES),
            buckets: Buckets::new(rate, MAX_PEOPLE),
        }))
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn takes_bearer_tokens(&self) -> bool {
        self.config.bearer_audience.is_some()
    }

    /// Keeps what is known of the provider fresh; runs as long as the gateway.
    pub async fn follow(self: Arc<Self>) {
        loop {
            let wait = if self.refresh().await { REFRESH } else { RETRY };
            // At least RETRY apart, whatever tokens come.
            tokio::time::sleep(RETRY).await;
            let _ = tokio::time::timeout(wait - RETRY, self.look_again.notified()).await;
        }
    }

    async fn refresh(&self) -> bool {
        match self.line.describe().await {
            Ok(provider) => {
                self.provider.store(Some(Arc::new(provider)));
                true
            }
            Err(error) => {
                tracing::warn!(issuer = self.issuer, error, "the identity provider cannot be asked");
                false
            }
        }
    }

    fn provider(&self) -> Result<Arc<Provider>, Problem> {
        let away = || Problem::new(Slug::NotReady, "the identity provider has not answered yet").retry_after(10);
        self.provider.load_full().ok_or_else(away)
    }

    /// Takes one request from the rate of a person.
    pub fn admit(&self, id: &str, principal: &Principal, now: Timestamp) -> Admission {
        match self.buckets.take(id.to_owned(), now) {
            Ok(()) => Admission::Admitted(principal.clone()),
            Err(retry_after_s) => Admission::Limited { retry_after_s },
        }
    }

    /// Somebody asked `n` times at another gateway.
    pub fn spend(&self, id: &str, n: f64, now: Timestamp) {
        self.buckets.spend(id.to_owned(), n, now);
    }

    /// Whom a bearer token speaks for, and until when.
    pub fn holder_of_bearer(&self, token: &str, now: Timestamp) -> Result<(Holder, Timestamp), Problem> {
        let audience = self.config.bearer_audience.as_deref().unwrap_or_default();
        let claims = self.claims(token, audience, now)?;
        Ok((self.holder(&claims)?, claims.expires_at()))
    }

    fn claims(&self, token: &str, audience: &str, now: Timestamp) -> Result<Claims, Problem> {
        let refuse = |detail: &str| Problem::new(Slug::Unauthenticated, detail);
        if token.len() > MAX_TOKEN_LEN {
            return Err(refuse("the token is too long"));
        }
        let expected = Expected { issuer: &self.issuer, audience };
        verify::verify(token, &self.provider()?.keys, &expected, now).map_err(|refused| match refused {
            Refused::UnknownKey => {
                self.look_again.notify_one();
                refuse("the token is signed by a key that is not known yet; try again in some seconds")
            }
            Refused::Not(why) => {
                tracing::debug!(why, "a token is refused");
                refuse("the token is not one of the identity provider's for this gateway, or not in force")
            }
        })
    }

    fn holder(&self, claims: &Claims) -> Result<Holder, Problem> {
        let subject = match (self.config.subject_claim.as_str(), claims.get(&self.config.subject_claim)) {
            ("sub", _) => claims.sub.clone(),
            (_, Some(Value::String(subject))) => subject.clone(),
            (name, _) => return Err(Problem::forbidden(format!("the token has no {name}"))),
        };
        check_name("subject", &subject).map_err(|_| Problem::forbidden("the person's name is not a fit subject"))?;
        let said: Vec<&str> = match claims.get(&self.config.role_claim) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let role = said.iter().filter_map(|text| self.config.roles.get(*text)).min();
        let role = role.ok_or_else(|| Problem::forbidden("the identity provider gives this person no role here"))?;
        let principal = Principal::new((*role).into(), subject);
        Ok(Holder::Federated { issuer: self.issuer.clone(), id: claims.sub.clone(), principal })
    }

    /// Where the provider sends the browser back to.
    fn redirect_uri(&self, request: &HttpRequest) -> Result<String, Problem> {
        if let Some(url) = &self.config.public_url {
            return Ok(format!("{}{CALLBACK}", url.trim_end_matches('/')));
        }
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b));
        if is_host { Ok(format!("https://{host}{CALLBACK}")) } else { Err(Problem::invalid("Host", "not a host")) }
    }
}

/// What one log-in is known by, all of it derived from its cookie.
struct Attempt {
    state: String,
    nonce: String,
    verifier: String,
}

impl Attempt {
    fn of(app: &App, cookie: &str) -> Self {
        let derived = |what| URL_SAFE_NO_PAD.encode(app.signer.derive(what, cookie.as_bytes()));
        Self { state: derived("oidc-state"), nonce: derived("oidc-nonce"), verifier: derived("oidc-verifier") }
    }
}

fn not_offered() -> Problem {
    Problem::new(Slug::NotFound, "no identity provider is configured")
}

#[utoipa::path(get, path = "/v1/session/oidc", tag = "session", responses(
    (status = 303, description = "To the identity provider, or back with `?log_in=not-ready` while it does not answer"),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn start(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let oidc = app.access.oidc.as_ref().ok_or_else(not_offered)?;
    let cookie = new_secret("").ok_or_else(|| Problem::internal("oidc", &"the system has no randomness"))?;
    let Attempt { state, nonce, verifier } = Attempt::of(&app, &cookie);
    let provider = match oidc.provider() {
        Ok(provider) => provider,
        // A person looks at this: the page has the words.
        Err(problem) => return Ok(back_to_page(&problem)),
    };
    let mut url = provider.authorization_endpoint.clone();
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &oidc.config.client_id)
        .append_pair("redirect_uri", &oidc.redirect_uri(&request)?)
        .append_pair("scope", &oidc.config.scopes.join(" "))
        .append_pair("state", &state)
        .append_pair("nonce", &nonce)
        .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes())))
        .append_pair("code_challenge_method", "S256");
    Ok(HttpResponse::SeeOther()
        .insert_header((header::LOCATION, url.as_str()))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(Cookie::LogIn.set(&cookie, LOG_IN_S))
        .finish())
}

/// What the provider sends the browser back with.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Returned {
    code: Option<String>,
    state: Option<String>,
    /// Why there is no code, like `access_denied`.
    error: Option<String>,
    /// RFC 9207.
    iss: Option<String>,
}

#[utoipa::path(get, path = "/v1/session/oidc/callback", tag = "session", params(Returned), responses(
    (status = 303, description = "To the console: with a session, or with `?log_in=<slug>` when there is none"),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn finish(
    request: HttpRequest,
    app: web::Data<App>,
    Query(returned): Query<Returned>,
) -> Result<HttpResponse, Problem> {
    let oidc = app.access.oidc.as_ref().ok_or_else(not_offered)?;
    match logged_in(oidc, &request, &app, returned).await {
        Ok(session) => Ok(HttpResponse::SeeOther()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((header::LOCATION, "/"))
            .append_header(Cookie::LogIn.set("", 0))
            .append_header(session)
            .finish()),
        Err(problem) => {
            // Anybody can bring this about as often as they like; what the provider says itself is warned of there.
            tracing::debug!(detail = problem.detail, "a log-in at the identity provider failed");
            Ok(back_to_page(&problem))
        }
    }
}

fn back_to_page(problem: &Problem) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::LOCATION, format!("/?log_in={}", problem.slug.name())))
        .append_header(Cookie::LogIn.set("", 0))
        .finish()
}

/// The session's cookie.
async fn logged_in(
    oidc: &Oidc,
    request: &HttpRequest,
    app: &App,
    returned: Returned,
) -> Result<(header::HeaderName, String), Problem> {
    let refuse = |detail: &str| Problem::new(Slug::Unauthenticated, detail);
    let cookie = Cookie::LogIn.of(request).ok_or_else(|| refuse("this browser began no log-in, or too long ago"))?;
    let Attempt { state, nonce, verifier } = Attempt::of(app, cookie);
    let is_ours = |shown: &String| bool::from(shown.as_bytes().ct_eq(state.as_bytes()));
    if !returned.state.as_ref().is_some_and(is_ours) {
        return Err(refuse("the answer is not to the log-in that this browser began"));
    }
    if returned.iss.as_ref().is_some_and(|issuer| *issuer != oidc.issuer) {
        return Err(refuse("another provider answered"));
    }
    let code = match (returned.code, returned.error) {
        (Some(code), None) => code,
        (_, Some(error)) => return Err(Problem::forbidden(format!("the provider says {}", plain(&error)))),
        (None, None) => return Err(refuse("neither a code nor an error came")),
    };
    let redirect_uri = oidc.redirect_uri(request)?;
    let config::Oidc { client_id, client_secret, .. } = &oidc.config;
    // Everybody may come this far, and each costs the provider a question.
    let shares: Vec<Share> = address::of(request).map(Share::of_address).into_iter().collect();
    log_in::spend(request, app, &shares)?;
    let busy = |_| Problem::new(Slug::TooManyRequests, "too many are logging in at once").retry_after(5);
    let _place = oidc.trades.try_acquire().map_err(busy)?;
    let trade = Trade { code: &code, verifier: &verifier, redirect_uri: &redirect_uri, client_id, client_secret };
    let token = oidc.line.trade(&*oidc.provider()?, &trade).await.map_err(|error| {
        tracing::warn!(error, "the identity provider gave no token for a code");
        Problem::new(Slug::NotReady, "the identity provider gave no token")
    })?;
    let now = app.clock.now();
    let claims = match oidc.claims(&token, client_id, now) {
        Ok(claims) => claims,
        // A key of this minute, perhaps. The token came from the provider itself, so that it is worth the question.
        Err(_) if oidc.refresh().await => oidc.claims(&token, client_id, now)?,
        Err(problem) => return Err(problem),
    };
    if !claims.is_log_in_of(client_id, &nonce) {
        return Err(refuse("the token is of another log-in"));
    }
    app.access.was_no_guess(&shares);
    let holder = oidc.holder(&claims)?;
    let principal =
        app.access.principal(&holder, app.clock.now()).ok_or_else(|| refuse("the provider changed meanwhile"))?;
    let (from, app) = (address::of(request), app.clone());
    let begun = to_the_end(async move { log_in::begin(from, &app, holder, principal, None).await });
    Ok(begun.await?.1)
}
