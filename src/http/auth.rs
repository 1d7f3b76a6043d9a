//! Who calls: bearer API keys, the sessions of browsers, and single-use console tickets.
//!
//! An API key is `ck_` and 32 random bytes; only its SHA-256 is kept. Handlers take a [`Caller`] and say which roles
//! may go on. Nothing here logs or stores a secret.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage, HttpRequest, dev, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::App;
use super::error::{Problem, Slug};
use super::sessions;
use crate::domain::{ApiKeyId, Principal, Role, Timestamp};
use crate::store::{Order, ReadError, Store, Table};

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
            Err(Problem::forbidden("this API key's role does not allow it"))
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
        .ok_or_else(|| Problem::internal("auth", &"the server was built without its App"))?;
    let now = app.clock.now();
    // What a program says outweighs what a browser sends along.
    let key = match bearer(request)? {
        Some(secret) => sha256(secret.as_bytes()),
        None => sessions::key_of(request, app, now)?,
    };
    let principal = match app.api_keys.admit_hash(&key, now) {
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
    request.extensions_mut().insert(principal.clone());
    request.extensions_mut().insert(KeyHash(key));
    Ok(Caller { role: principal.role, principal })
}

/// SHA-256 of the API key a request was admitted by; in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// Of a request that was admitted (its handler takes a [`Caller`]).
    pub fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let key = request.extensions().get::<Self>().copied();
        key.ok_or_else(|| Problem::internal("auth", &"a handler asks for the key of a request it did not authenticate"))
    }
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
        return Err(unknown("the Authorization header is not `Bearer <API key>`"));
    }
    Ok(Some(secret.trim()))
}

/// An API key as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    pub api_key_id: ApiKeyId,
    pub name: String,
    pub role: Role,
    /// Whom its bearer acts as; for a renter the renter's name.
    pub subject: String,
    /// Hex SHA-256 of the secret.
    pub sha256: String,
    pub created_at: Timestamp,
}

/// What became of a presented secret.
#[derive(Debug, PartialEq)]
pub enum Admission {
    Admitted(Principal),
    Unknown,
    Limited { retry_after_s: u32 },
}

/// Every valid API key, in memory; at most [`ApiKeys::MAX`].
pub struct ApiKeys {
    by_hash: RwLock<HashMap<[u8; 32], Entry>>,
    rate: Rate,
}

struct Entry {
    hash: [u8; 32],
    /// `None` = the bootstrap admin of the configuration.
    api_key_id: Option<ApiKeyId>,
    principal: Principal,
    bucket: Mutex<Bucket>,
}

/// So many a second on average, and so many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub per_s: u32,
    pub burst: u32,
}

impl ApiKeys {
    pub const MAX: usize = 100_000;

    /// Without any stored key; `bootstrap` is the hex SHA-256 of the first admin's key.
    pub fn new(rate_per_s: u32, rate_burst: u32, bootstrap: Option<&str>) -> Result<Self, String> {
        let keys = Self {
            by_hash: RwLock::new(HashMap::new()),
            rate: Rate { per_s: rate_per_s.max(1), burst: rate_burst.max(1) },
        };
        if let Some(text) = bootstrap {
            let hash = parse_hash(text).ok_or("http.bootstrap_admin_sha256: 64 hex digits expected")?;
            let principal = Principal { role: Role::Admin, subject: "admin".into() };
            keys.insert_entry(hash, None, principal);
        }
        Ok(keys)
    }

    /// Reads every stored key; blocks, so call it at start.
    pub fn load(&self, store: &dyn Store) -> Result<usize, ReadError> {
        let mut after: Option<String> = None;
        let mut count = 0;
        loop {
            let page = store.scan(Table::ApiKeys, "", after.as_deref(), 1_000, Order::Ascending)?;
            for (id, row) in &page.rows {
                let key: ApiKey = serde_json::from_str(row.get())
                    .map_err(|error| ReadError::Damaged(format!("API key {id}: {error}")))?;
                self.insert(&key);
                count += 1;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(count),
            }
        }
    }

    /// False when there is no room or the stored hash is not one.
    pub fn insert(&self, key: &ApiKey) -> bool {
        let Some(hash) = parse_hash(&key.sha256) else { return false };
        let principal = Principal { role: key.role, subject: key.subject.clone() };
        self.insert_entry(hash, Some(key.api_key_id), principal)
    }

    fn insert_entry(&self, hash: [u8; 32], api_key_id: Option<ApiKeyId>, principal: Principal) -> bool {
        let mut keys = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= Self::MAX {
            return false;
        }
        let bucket = Mutex::new(Bucket::full(self.rate));
        keys.insert(hash, Entry { hash, api_key_id, principal, bucket });
        true
    }

    pub fn remove(&self, id: ApiKeyId) {
        let mut keys = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, entry| entry.api_key_id != Some(id));
    }

    pub fn len(&self) -> usize {
        self.by_hash.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes one request from the key's rate.
    pub fn admit(&self, secret: &str, now: Timestamp) -> Admission {
        if !secret.starts_with(SECRET_PREFIX) || secret.len() > 128 {
            return Admission::Unknown;
        }
        self.admit_hash(&sha256(secret.as_bytes()), now)
    }

    /// Is the key still good? Takes nothing from its rate.
    pub fn knows(&self, hash: &[u8; 32]) -> bool {
        self.by_hash.read().unwrap_or_else(PoisonError::into_inner).contains_key(hash)
    }

    /// Looks up by hash, so that the time taken says nothing of the secret itself, and takes one request from its rate.
    pub fn admit_hash(&self, hash: &[u8; 32], now: Timestamp) -> Admission {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = keys.get(hash).filter(|entry| bool::from(entry.hash.ct_eq(hash))) else {
            return Admission::Unknown;
        };
        match lock(&entry.bucket).take(self.rate, now) {
            Ok(()) => Admission::Admitted(entry.principal.clone()),
            Err(retry_after_s) => Admission::Limited { retry_after_s },
        }
    }
}

/// A token bucket: `level` requests may come at once, and `rate` more each second.
#[derive(Debug)]
pub struct Bucket {
    level: f64,
    at: Option<Timestamp>,
}

impl Bucket {
    pub fn full(rate: Rate) -> Self {
        Self { level: f64::from(rate.burst), at: None }
    }

    /// Takes one; else the seconds after which there is one again.
    pub fn take(&mut self, rate: Rate, now: Timestamp) -> Result<(), u32> {
        let elapsed_ms = self.at.map_or(0, |at| now.since_ms(at).max(0));
        self.at = Some(now);
        let gained = f64::from(rate.per_s) * elapsed_ms as f64 / 1000.0;
        self.level = (self.level + gained).min(f64::from(rate.burst));
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        Err(((1.0 - self.level) / f64::from(rate.per_s)).ceil().max(1.0) as u32)
    }
}

pub const SECRET_PREFIX: &str = "ck_";

/// `prefix` and 32 random bytes; `None` when the system has no randomness.
pub fn new_secret(prefix: &str) -> Option<String> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0_u8; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0_u8; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the data whole, so a poisoned lock still holds good data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Single-use tickets for the console's WebSocket, where a browser cannot set a header.
pub struct Tickets {
    open: Mutex<HashMap<[u8; 32], Ticket>>,
}

struct Ticket {
    principal: Principal,
    /// Of the API key it was issued for: a console ends when its key does.
    key: KeyHash,
    expires_at: Timestamp,
}

impl Tickets {
    pub const LIFE_MS: i64 = 30_000;
    pub const MAX: usize = 1_024;

    pub fn new() -> Self {
        Self { open: Mutex::new(HashMap::new()) }
    }

    /// A fresh ticket with its end; `None` when too many are open.
    pub fn issue(&self, principal: Principal, key: KeyHash, now: Timestamp) -> Option<(String, Timestamp)> {
        let secret = new_secret("ct_")?;
        let expires_at = now.plus_ms(Self::LIFE_MS);
        let mut open = lock(&self.open);
        if open.len() >= Self::MAX {
            open.retain(|_, ticket| ticket.expires_at > now);
        }
        if open.len() >= Self::MAX {
            return None;
        }
        open.insert(sha256(secret.as_bytes()), Ticket { principal, key, expires_at });
        Some((secret, expires_at))
    }

    /// Whose ticket it is; it serves once.
    pub fn redeem(&self, secret: &str, now: Timestamp) -> Option<(Principal, KeyHash)> {
        if secret.len() > 128 {
            return None;
        }
        let ticket = lock(&self.open).remove(&sha256(secret.as_bytes()))?;
        (ticket.expires_at > now).then_some((ticket.principal, ticket.key))
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, read_body_json};

    use super::super::error::ProblemBody;
    use super::super::testing::{app, app_with, bearer, service};
    use super::*;
    use crate::config::Config;

    #[actix_web::test]
    async fn a_request_without_a_known_key_is_told_how_to_authenticate() {
        let (app, _) = app();
        let service = service!(app);
        for header in [None, Some("Basic YTpi"), Some("Bearer ck_nobody"), Some("Bearer"), Some("Bearer  ")] {
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

    #[test]
    fn a_bucket_refills_with_time_and_never_beyond_its_burst() {
        let rate = Rate { per_s: 10, burst: 2 };
        let mut bucket = Bucket { level: 2.0, at: None };
        let at = |ms: i64| Timestamp(1_000_000 + ms);
        assert_eq!(
            [bucket.take(rate, at(0)), bucket.take(rate, at(0)), bucket.take(rate, at(0))],
            [Ok(()), Ok(()), Err(1)]
        );
        assert_eq!(bucket.take(rate, at(100)), Ok(()));
        assert_eq!(bucket.take(rate, at(100)), Err(1));
        // A clock that steps back gives nothing and takes nothing.
        assert_eq!(bucket.take(rate, at(50)), Err(1));
        assert_eq!((0..5).filter(|_| bucket.take(rate, at(60_000)).is_ok()).count(), 2);
    }

    #[test]
    fn a_ticket_serves_once_and_for_half_a_minute() {
        let tickets = Tickets::new();
        let who = Principal { role: Role::Operator, subject: "olga".into() };
        let (now, key) = (Timestamp(5_000), KeyHash([7; 32]));
        let (first, _) = tickets.issue(who.clone(), key, now).unwrap();
        assert_eq!(tickets.redeem(&first, now), Some((who.clone(), key)));
        assert_eq!(tickets.redeem(&first, now), None);
        let (late, _) = tickets.issue(who.clone(), key, now).unwrap();
        assert_eq!(tickets.redeem(&late, now.plus_ms(Tickets::LIFE_MS)), None);
        let full = (0..Tickets::MAX + 1).filter(|_| tickets.issue(who.clone(), key, now).is_some()).count();
        assert_eq!(full, Tickets::MAX);
        assert!(tickets.issue(who, key, now.plus_ms(Tickets::LIFE_MS)).is_some(), "old tickets make room");
    }

    #[test]
    fn a_removed_key_opens_nothing() {
        let keys = ApiKeys::new(10, 10, Some(&hex::encode(sha256(b"ck_boot")))).unwrap();
        let now = Timestamp(0);
        assert!(matches!(keys.admit("ck_boot", now), Admission::Admitted(_)));
        let key = ApiKey {
            api_key_id: ApiKeyId(uuid::Uuid::from_u128(9)),
            name: "n".into(),
            role: Role::Renter,
            subject: "s".into(),
            sha256: hex::encode(sha256(b"ck_x")),
            created_at: now,
        };
        assert!(keys.insert(&key));
        assert!(matches!(keys.admit("ck_x", now), Admission::Admitted(_)));
        keys.remove(key.api_key_id);
        assert_eq!(keys.admit("ck_x", now), Admission::Unknown);
        assert!(matches!(keys.admit("ck_boot", now), Admission::Admitted(_)));
        assert!(ApiKeys::new(1, 1, Some("xyz")).is_err());
    }
}
