//! Who calls: bearer API keys, tokens of an identity provider, the sessions of browsers, and console tickets.
//!
//! Handlers take a [`Caller`] and say which roles may go on. What a caller was admitted by is a [`Standing`]: whatever
//! outlives its request asks it now and then. Nothing here logs a secret, and none is stored as it came.

pub mod api_keys;
mod attempts;
mod cookies;
pub mod log_in;
#[cfg(test)]
mod log_in_tests;
pub mod oidc;
mod passwords;
pub mod rate;
pub mod scopes;
pub mod sessions;
pub mod shared_rates;
pub mod tickets;
pub mod users;

use std::future::{Future, Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage, HttpRequest, dev, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::App;
use super::address;
use super::error::{Problem, Slug};
use crate::actors::follower::{Followed, Follower};
use crate::config::Config;
use crate::domain::{Principal, Role, Timestamp, UserId};
use crate::store::{Append, AppendError, Order, ReadError, Store, StorePosition, Table};
use scopes::Needed;

pub use cookies::{Origin, origin};

/// Everything that admits somebody.
pub struct Access {
    pub api_keys: api_keys::ApiKeys,
    pub users: users::Users,
    pub sessions: sessions::Sessions,
    pub tickets: tickets::Tickets,
    pub passwords: passwords::Passwords,
    pub attempts: attempts::Attempts,
    /// Requests by where they come from, whoever asks.
    pub addresses: rate::Buckets<IpAddr>,
    /// Only where an identity provider is configured.
    pub oidc: Option<Arc<oidc::Oidc>>,
    /// What was spent of all these rates, for other gateways.
    to_tell: shared_rates::ToTell,
    /// How far all of this follows what other gateways record.
    pub followed: Followed,
}

impl Access {
    /// Without anybody; [`Access::load`] brings those the store knows.
    pub fn new(config: &Config) -> Result<Self, String> {
        let http = &config.http;
        let rate = rate::Rate::new(http.rate_per_s, http.rate_burst);
        Ok(Self {
            api_keys: api_keys::ApiKeys::new(rate, http.bootstrap_admin_sha256.as_deref())?,
            users: users::Users::new(rate),
            sessions: sessions::Sessions::default(),
            tickets: if config.cluster.is_on() { tickets::Tickets::default() } else { tickets::Tickets::own() },
            passwords: passwords::Passwords::new()?,
            attempts: attempts::Attempts::default(),
            addresses: rate::Buckets::new(
                rate::Rate::new(http.address_rate_per_s, http.address_rate_burst),
                MAX_ADDRESSES,
            ),
            oidc: oidc::Oidc::new(&config.oidc, rate)?.map(Arc::new),
            to_tell: shared_rates::ToTell::new(!config.cluster.is_on()),
            followed: Followed::default(),
        })
    }

    /// Reads API keys, users and open sessions; blocks, so call it at start.
    pub fn load(&self, store: &dyn Store, now: Timestamp) -> Result<(), ReadError> {
        let api_keys = self.api_keys.load(store)?;
        let users = self.users.load(store)?;
        let sessions = self.sessions.load(store, now, |holder| self.principal(holder, now).is_some())?;
        tracing::info!(api_keys, users, sessions, "who may call is read");
        Ok(())
    }

    /// Keeps API keys, users and sessions as every gateway's records say.
    pub fn follow(self: &Arc<Self>, follower: &mut Follower) {
        let access = Arc::clone(self);
        follower.add(
            &[Table::ApiKeys, Table::Users, Table::Sessions, Table::LastUses],
            Box::new(move |changed| match changed.table {
                Table::Users => access.users.follow(changed),
                Table::Sessions => access.sessions.follow(changed),
                Table::LastUses if changed.key.starts_with(users::OF_USERS) => access.users.follow(changed),
                _ => access.api_keys.follow(changed),
            }),
        );
    }

    /// As whom a holder acts now; `None` = not any more. Takes nothing from a rate.
    fn principal(&self, holder: &Holder, now: Timestamp) -> Option<Principal> {
        match holder {
            Holder::ApiKey(key) => self.api_keys.principal(&key.0, now),
            Holder::User(id) => self.users.principal(*id),
            Holder::Federated { issuer, principal, .. } => {
                let is_ours = self.oidc.as_ref().is_some_and(|oidc| oidc.issuer() == issuer);
                is_ours.then(|| principal.clone())
            }
        }
    }

    /// Refuses what the holder's API key is not narrowed to; nobody else is narrowed.
    fn check_scope(&self, holder: &Holder, request: &HttpRequest) -> Result<(), Problem> {
        let Holder::ApiKey(key) = holder else { return Ok(()) };
        let Some(scopes) = self.api_keys.scopes(&key.0) else { return Ok(()) };
        let needed = scopes::needed(request.method(), request.match_pattern().as_deref().unwrap_or_default());
        match needed {
            _ if scopes.allow(needed) => Ok(()),
            Needed::Scope(scope) => Err(Problem::forbidden(format!("the API key is narrowed, and not to {scope}"))),
            Needed::Nothing | Needed::Everything => {
                Err(Problem::forbidden("the API key is narrowed; this needs one without scopes"))
            }
        }
    }
}

/// SHA-256 of an API key's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(#[serde(with = "hex::serde")] pub [u8; 32]);

/// Whom a request or a session stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    ApiKey(KeyHash),
    User(UserId),
    /// By the identity provider, whose name for the person is `id`.
    Federated {
        issuer: String,
        id: String,
        principal: Principal,
    },
}

/// What a request was admitted by; in the request's extensions. It may end before what it admitted does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub holder: Holder,
    /// SHA-256 of the session's cookie, when it came by one.
    session: Option<[u8; 32]>,
    /// A token's own end.
    until: Option<Timestamp>,
}

impl Standing {
    /// Of a request that was admitted (its handler takes a [`Caller`]).
    pub fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let standing = request.extensions().get::<Self>().cloned();
        standing
            .ok_or_else(|| Problem::internal("access", &"a handler asks for the standing of a request nobody admitted"))
    }

    fn of_session(user: UserId, session: Option<[u8; 32]>) -> Self {
        Self { holder: Holder::User(user), session, until: None }
    }

    /// As whom it acts now; `None` when it does not hold any more.
    pub fn principal(&self, app: &App) -> Option<Principal> {
        let now = app.clock.now();
        let holds = self.session.as_ref().is_none_or(|name| app.access.sessions.is_open(name, now))
            && self.until.is_none_or(|until| now < until);
        app.access.principal(&self.holder, now).filter(|_| holds)
    }

    /// Does it still hold, for the same person in the same role?
    pub fn still_is(&self, principal: &Principal, app: &App) -> bool {
        self.principal(app).is_some_and(|now| now.is_same(principal))
    }

    pub fn is_by_session(&self) -> bool {
        self.session.is_some()
    }
}

/// What became of a presented credential.
#[derive(Debug, PartialEq)]
pub enum Admission {
    Admitted(Principal),
    Unknown,
    /// It was good once.
    Expired {
        at: Timestamp,
    },
    Limited {
        retry_after_s: u32,
    },
}

impl Admission {
    /// The principal, or the problem, counted.
    fn or_problem(self, app: &App, unknown: &str) -> Result<Principal, Problem> {
        match self {
            Self::Admitted(principal) => Ok(principal),
            Self::Unknown => {
                app.counters.unauthenticated.inc();
                Err(Problem::new(Slug::Unauthenticated, unknown))
            }
            Self::Expired { at } => {
                app.counters.unauthenticated.inc();
                Err(Problem::new(Slug::Unauthenticated, format!("the API key expired at {at}")))
            }
            Self::Limited { retry_after_s } => {
                app.counters.rate_limited.inc();
                Err(Problem::new(Slug::TooManyRequests, "this caller asks too often").retry_after(retry_after_s))
            }
        }
    }
}

/// Who makes this request. Taking one as a handler's argument refuses everybody who is not known.
#[derive(Debug, Clone)]
pub struct Caller {
    pub principal: Principal,
    pub role: Role,
}

impl Caller {
    /// Goes on only for these roles.
    pub fn require(&self, roles: &[Role]) -> Result<(), Problem> {
        if roles.contains(&self.role) {
            Ok(())
        } else {
            Err(Problem::forbidden("this caller's role does not allow it"))
        }
    }

    pub fn is_renter(&self) -> bool {
        self.role == Role::Renter
    }

    /// A renter sees only what is theirs; everybody else who got so far sees all.
    pub fn sees(&self, owner: &str) -> bool {
        !self.is_renter() || self.principal.subject == owner
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        ready(authenticate(request))
    }
}

pub fn authenticate(request: &HttpRequest) -> Result<Caller, Problem> {
    let app = request
        .app_data::<web::Data<App>>()
        .ok_or_else(|| Problem::internal("access", &"the server was built without its App"))?;
    let now = app.clock.now();
    // What a program says outweighs what a browser sends along.
    let standing = match bearer(request)? {
        Some(token) if oidc::is_token(token) => {
            let oidc = app.access.oidc.as_ref().filter(|oidc| oidc.takes_bearer_tokens());
            let oidc =
                oidc.ok_or_else(|| Problem::new(Slug::Unauthenticated, "no tokens but API keys are taken here"))?;
            let held = oidc.holder_of_bearer(token, now);
            let (holder, until) = held.inspect_err(|_| app.counters.unauthenticated.inc())?;
            Standing { holder, session: None, until: Some(until) }
        }
        Some(secret) => {
            let holder = Holder::ApiKey(KeyHash(sha256(secret.as_bytes())));
            Standing { holder, session: None, until: None }
        }
        None => {
            let (holder, name) = sessions::of_request(request, app, now)?;
            Standing { holder, session: Some(name), until: None }
        }
    };
    let unknown = match standing.session {
        None => "the API key is not known",
        Some(_) => "whom the session stands for is not known any more; log in again",
    };
    let mut principal = app.access.admit(&standing.holder, now).or_problem(app, unknown)?;
    principal.from = address::of(request);
    app.access.check_scope(&standing.holder, request)?;
    request.extensions_mut().insert(principal.clone());
    request.extensions_mut().insert(standing);
    Ok(Caller { role: principal.role, principal })
}

/// The bearer secret; `None` without an Authorization header.
fn bearer(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let unknown = |detail: &str| Problem::new(Slug::Unauthenticated, detail);
    let mut headers = request.headers().get_all(header::AUTHORIZATION);
    let Some(header) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(unknown("more than one Authorization header"));
    }
    let (scheme, secret) = header.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unknown("the Authorization header is not `Bearer <API key or token>`"));
    }
    Ok(Some(secret.trim()))
}

/// Stores a step, and with it which sessions are over.
async fn store(app: &App, mut step: Append) -> Result<StorePosition, AppendError> {
    let over = app.access.sessions.to_forget();
    step.view.extend(over.iter().cloned());
    let at = app.store.append(step).await?;
    // In a cluster once the follower has passed it, or an older record would open them again.
    if app.access.followed.is_alone() {
        app.access.sessions.forgotten(&over);
    }
    Ok(at)
}

/// Rows of [`Table::LastUses`] that begin so, without that; blocks.
fn for_each_use(store: &dyn Store, of: &str, mut note: impl FnMut(&str, Timestamp)) -> Result<(), ReadError> {
    let mut after: Option<String> = None;
    loop {
        let page = store.scan(Table::LastUses, of, after.as_deref(), 1_000, Order::Ascending)?;
        for (key, row) in &page.rows {
            let at = serde_json::from_str(row.get())
                .map_err(|error| ReadError::Damaged(format!("last use of {key}: {error}")))?;
            note(&key[of.len()..], at);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Does the work to its end also when the caller goes away in the middle: what the store knows and what memory knows
/// must not part.
pub async fn to_the_end<T: 'static>(work: impl Future<Output = Result<T, Problem>> + 'static) -> Result<T, Problem> {
    let done = actix_web::rt::spawn(work).await;
    done.unwrap_or_else(|error| Err(Problem::internal("access", &error)))
}

/// Addresses that are counted at once.
const MAX_ADDRESSES: usize = 20_000;

/// The longest secret anybody may show, but for an identity provider's tokens.
const MAX_SECRET_LEN: usize = 128;

/// `prefix` and 32 random bytes; `None` when the system has no randomness.
pub fn new_secret(prefix: &str) -> Option<String> {
    let bytes: [u8; 32] = random()?;
    Some(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0_u8; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0_u8; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, read_body_json};

    use super::super::error::ProblemBody;
    use super::super::testing::{app, app_with, bearer, service};
    use super::*;

    #[actix_web::test]
    async fn a_request_without_a_known_key_is_told_how_to_authenticate() {
        let (app, _) = app();
        let service = service!(app);
        let headers = [
            None,
            Some("Basic YTpi"),
            Some("Bearer ck_nobody"),
            Some("Bearer"),
            Some("Bearer  "),
            Some("Bearer a.b.c"),
        ];
        for header in headers {
            let mut request = TestRequest::post().uri("/v1/console/tickets");
            if let Some(header) = header {
                request = request.insert_header(("Authorization", header));
            }
            let answer = call_service(&service, request.to_request()).await;
            assert_eq!(answer.status(), 401, "{header:?}");
            assert!(answer.headers().contains_key("WWW-Authenticate"));
            let problem: ProblemBody = read_body_json(answer).await;
            assert_eq!(problem.kind, "urn:cardea:problem:unauthenticated");
        }
    }

    #[actix_web::test]
    async fn a_role_that_may_not_is_refused() {
        let (app, _) = app();
        let service = service!(app);
        let request = TestRequest::post().uri("/v1/console/tickets").insert_header(bearer(Role::Renter));
        let answer = call_service(&service, request.to_request()).await;
        assert_eq!(answer.status(), 403);
        assert_eq!(read_body_json::<ProblemBody, _>(answer).await.kind, "urn:cardea:problem:forbidden");
    }

    #[actix_web::test]
    async fn a_key_that_asks_too_often_is_told_when_to_come_back() {
        let mut config = Config::default();
        (config.http.rate_per_s, config.http.rate_burst) = (1, 2);
        let (app, _) = app_with(config);
        let service = service!(app);
        let mut statuses = Vec::new();
        for _ in 0..3 {
            let request = TestRequest::post().uri("/v1/console/tickets").insert_header(bearer(Role::Admin));
            let answer = call_service(&service, request.to_request()).await;
            statuses.push((answer.status().as_u16(), answer.headers().contains_key("Retry-After")));
        }
        assert_eq!(statuses, [(201, false), (201, false), (429, true)]);
        assert_eq!(app.counters.rate_limited.get(), 1);
    }
}
