//! API keys: every one in memory, and `/v1/api-keys` to make, list and delete them.
//!
//! An API key is `ck_` and 32 random-looking bytes; only its SHA-256 is kept. A secret is shown in the answer that made
//! it: it is derived from the fleet's signing key and the API key's id, so that a repeated request can be given the same
//! answer. When a key was last used is known here at once, and to the store at most a minute later.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::rate::{Bucket, Rate, lock};
use super::scopes::Scopes;
use super::{Admission, App, Caller, MAX_SECRET_LEN, for_each_use, sha256, to_the_end};
use crate::domain::{ApiKeyId, Principal, Role, Timestamp};
use crate::http::error::{Problem, Slug};
use crate::http::usage::check_name;
use crate::http::vehicles::ListParams;
use crate::http::wire::{Items, Json, Query, idempotency, list_rows, parse_row, path_id, reply, row};
use crate::store::{
    Append, AppendError, ChangedRow, Expected, Idempotency, NewRow, Order, ReadError, Store, Table, ViewChange,
};

pub const SECRET_PREFIX: &str = "ck_";

/// Has it the form of one?
pub fn is_secret(text: &str) -> bool {
    text.starts_with(SECRET_PREFIX) && text.len() <= MAX_SECRET_LEN
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
    /// What it is narrowed to; absent = to nothing less than its role, as every key of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Scopes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// As far as the store was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// Every API key, in memory; at most [`ApiKeys::MAX`].
pub struct ApiKeys {
    by_hash: RwLock<HashMap<[u8; 32], Entry>>,
    rate: Rate,
    /// Making a key, deleting it and telling the store of its use write its row and change memory: one at a time, or a key
    /// that was deleted came back.
    writing: tokio::sync::Mutex<()>,
    /// In a cluster: deleted here, until the follower has passed the record that says so.
    gone: Mutex<HashSet<ApiKeyId>>,
}

struct Entry {
    hash: [u8; 32],
    /// `None` = the bootstrap admin of the configuration.
    key: Option<ApiKey>,
    principal: Principal,
    bucket: Mutex<Bucket>,
    /// Milliseconds since 1970; 0 = not since it is in memory.
    used_at: AtomicI64,
    /// Up to when the store knows of its use.
    stored_at: AtomicI64,
}

impl Entry {
    fn expired_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.key.as_ref().and_then(|key| key.expires_at).filter(|end| *end <= now)
    }

    fn last_used_at(&self) -> Option<Timestamp> {
        let used_at = self.used_at.load(Ordering::Relaxed);
        (used_at > 0).then_some(Timestamp(used_at))
    }
}

impl ApiKeys {
    pub const MAX: usize = 100_000;

    /// Without any stored key; `bootstrap` is the hex SHA-256 of the first admin's key.
    pub fn new(rate: Rate, bootstrap: Option<&str>) -> Result<Self, String> {
        let (by_hash, writing, gone) = Default::default();
        let keys = Self { by_hash, rate, writing, gone };
        if let Some(text) = bootstrap {
            let hash = parse_hash(text).ok_or("http.bootstrap_admin_sha256: 64 hex digits expected")?;
            let principal = Principal::new(Role::Admin, "admin");
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
                None => break,
            }
        }
        for_each_use(store, OF_KEYS, |sha256, at| self.note_use(sha256, at))?;
        Ok(count)
    }

    /// What somebody recorded of keys.
    pub fn follow(&self, changed: &ChangedRow) -> Result<(), ReadError> {
        let damaged = |problem: String| ReadError::Damaged(format!("API key {}: {problem}", changed.key));
        match (changed.table, &changed.row) {
            (Table::ApiKeys, Some(row)) => {
                let key: ApiKey = serde_json::from_str(row.get()).map_err(|error| damaged(error.to_string()))?;
                if !lock(&self.gone).contains(&key.api_key_id) {
                    self.insert(&key);
                }
            }
            (Table::ApiKeys, None) => {
                let id = changed.key.parse().map_err(|_| damaged("no id".into()))?;
                self.remove(id);
                lock(&self.gone).remove(&id);
            }
            (_, Some(row)) => {
                let at = serde_json::from_str(row.get()).map_err(|error| damaged(error.to_string()))?;
                if let Some(sha256) = changed.key.strip_prefix(OF_KEYS) {
                    self.note_use(sha256, at);
                }
            }
            (_, None) => {}
        }
        Ok(())
    }

    /// The store knows of this use.
    fn note_use(&self, sha256: &str, at: Timestamp) {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = parse_hash(sha256).and_then(|hash| keys.get(&hash)) {
            entry.used_at.fetch_max(at.0, Ordering::Relaxed);
            entry.stored_at.fetch_max(at.0, Ordering::Relaxed);
        }
    }

    /// False when there is no room or the stored hash is not one.
    pub fn insert(&self, key: &ApiKey) -> bool {
        let Some(hash) = parse_hash(&key.sha256) else { return false };
        let principal = Principal::new(key.role, key.subject.clone());
        self.insert_entry(hash, Some(key.clone()), principal)
    }

    fn insert_entry(&self, hash: [u8; 32], key: Option<ApiKey>, principal: Principal) -> bool {
        let mut keys = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= Self::MAX {
            return false;
        }
        // Of one that is there already the use is known better than by its row, and what it spent stays spent.
        let stored = key.as_ref().and_then(|key| key.last_used_at).map_or(0, |at| at.0);
        let entry = match keys.remove(&hash) {
            Some(known) => Entry { key, principal, ..known },
            None => {
                let [used_at, stored_at] = [stored, stored].map(AtomicI64::new);
                Entry { hash, key, principal, bucket: Mutex::new(Bucket::full(self.rate)), used_at, stored_at }
            }
        };
        keys.insert(hash, entry);
        true
    }

    pub fn remove(&self, id: ApiKeyId) {
        let mut keys = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, entry| entry.key.as_ref().is_none_or(|key| key.api_key_id != id));
    }

    pub fn len(&self) -> usize {
        self.by_hash.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As whom the key's bearer acts; takes nothing from its rate.
    pub fn principal(&self, hash: &[u8; 32], now: Timestamp) -> Option<Principal> {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(hash).filter(|entry| entry.expired_at(now).is_none()).map(|entry| entry.principal.clone())
    }

    /// What the key is narrowed to; `None` = it is not.
    pub fn scopes(&self, hash: &[u8; 32]) -> Option<Scopes> {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(hash).and_then(|entry| entry.key.as_ref()?.scopes.clone())
    }

    /// When each key was last used.
    fn uses(&self) -> HashMap<ApiKeyId, Timestamp> {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        let use_of = |entry: &Entry| Some((entry.key.as_ref()?.api_key_id, entry.last_used_at()?));
        keys.values().filter_map(use_of).collect()
    }

    /// Keys of whose use the store does not know, as it should.
    fn used(&self) -> Vec<Use> {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        let is_news = |entry: &&Entry| entry.used_at.load(Ordering::Relaxed) > entry.stored_at.load(Ordering::Relaxed);
        let as_used = |entry: &Entry| {
            let key = entry.key.as_ref()?;
            Some(Use { api_key_id: key.api_key_id, sha256: key.sha256.clone(), last_used_at: entry.last_used_at()? })
        };
        keys.values().filter(is_news).filter_map(as_used).collect()
    }

    /// Somebody asked `n` times at another gateway.
    pub fn spend(&self, hash: &[u8; 32], n: f64, now: Timestamp) {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = keys.get(hash) {
            lock(&entry.bucket).spend(self.rate, n, now);
        }
    }

    /// Looks up by hash, so that the time taken says nothing of the secret itself, and takes one request from its rate.
    pub fn admit_hash(&self, hash: &[u8; 32], now: Timestamp) -> Admission {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = keys.get(hash).filter(|entry| bool::from(entry.hash.ct_eq(hash))) else {
            return Admission::Unknown;
        };
        if let Some(at) = entry.expired_at(now) {
            return Admission::Expired { at };
        }
        match lock(&entry.bucket).take(self.rate, now) {
            Ok(()) => {
                entry.used_at.fetch_max(now.0, Ordering::Relaxed);
                Admission::Admitted(entry.principal.clone())
            }
            Err(retry_after_s) => Admission::Limited { retry_after_s },
        }
    }
}

/// A use that the store is to be told of.
#[derive(Debug, Clone, PartialEq)]
struct Use {
    api_key_id: ApiKeyId,
    sha256: String,
    last_used_at: Timestamp,
}

/// Rows of [`Table::LastUses`]; the rest of the key is the API key's hash in hex.
const OF_KEYS: &str = "api-key/";

/// `{"name":"renter app of Anna","role":"renter","subject":"anna"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    name: String,
    role: ApiRole,
    /// Whom its bearer acts as, like a renter's name; absent = `name`.
    subject: Option<String>,
    /// What it is narrowed to, like `["vehicles:read","commands:write"]`; absent = all that its role may. Writing includes no
    /// reading. A narrowed key opens no console and makes no keys.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Scopes>,
    /// From then on it opens nothing; absent = it is good until it is deleted.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// The roles an API key can have.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiRole {
    Admin,
    Operator,
    Renter,
    Auditor,
}

impl From<ApiRole> for Role {
    fn from(role: ApiRole) -> Self {
        match role {
            ApiRole::Admin => Self::Admin,
            ApiRole::Operator => Self::Operator,
            ApiRole::Renter => Self::Renter,
            ApiRole::Auditor => Self::Auditor,
        }
    }
}

/// `{"api_key_id":"…","api_key":"ck_…","name":"…","role":"renter","subject":"anna","created_at":"…"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKeyBody {
    #[schema(value_type = String, format = "uuid")]
    api_key_id: ApiKeyId,
    /// Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
    name: String,
    #[schema(value_type = ApiRole)]
    role: Role,
    subject: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Absent = all that its role may.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Scopes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// Absent = never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
}

impl ApiKeyBody {
    fn of(key: ApiKey) -> Self {
        let ApiKey { api_key_id, name, role, subject, created_at, scopes, expires_at, last_used_at, sha256: _ } = key;
        Self { api_key_id, api_key: None, name, role, subject, created_at, scopes, expires_at, last_used_at }
    }
}

fn secret(app: &App, id: ApiKeyId) -> String {
    format!("{SECRET_PREFIX}{}", URL_SAFE_NO_PAD.encode(app.signer.derive("api-key", id.0.as_bytes())))
}

fn stream(id: ApiKeyId) -> String {
    format!("api-key/{id}")
}

#[utoipa::path(post, path = "/v1/api-keys", tag = "api-keys", request_body = NewApiKey,
    responses((status = 201, body = ApiKeyBody)))]
pub async fn create(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<NewApiKey>,
) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    let NewApiKey { name, role, subject, scopes, expires_at } = body.value;
    let subject = subject.unwrap_or_else(|| name.clone());
    check_name("name", &name)?;
    check_name("subject", &subject)?;
    let now = app.clock.now();
    if expires_at.is_some_and(|end| end <= now) {
        return Err(Problem::invalid("expires_at", "it is over already"));
    }
    let idempotency = idempotency(&request, &caller, "api-keys", &body.hash)?;
    if app.access.api_keys.len() >= ApiKeys::MAX {
        return Err(Problem::new(Slug::Conflict, format!("there are {} API keys already", ApiKeys::MAX)));
    }
    let api_key_id = ApiKeyId(app.clock.new_id());
    let made = secret(&app, api_key_id);
    let key = ApiKey {
        api_key_id,
        name,
        role: role.into(),
        subject,
        sha256: hex::encode(sha256(made.as_bytes())),
        created_at: now,
        scopes,
        expires_at,
        last_used_at: None,
    };
    let raw = |value: &serde_json::Value| to_raw_value(value).map_err(|error| Problem::internal("API key", &error));
    let answer = to_raw_value(&key).map_err(|error| Problem::internal("API key", &error))?;
    let event = json!({"event": "api_key_created", "api_key_id": api_key_id, "name": key.name, "role": key.role,
        "subject": key.subject, "scopes": key.scopes, "expires_at": key.expires_at});
    let append = Append {
        stream: stream(api_key_id),
        expected: Expected::Any,
        fence: None,
        at: key.created_at,
        by: caller.principal,
        idempotency: idempotency.map(|key| Idempotency { key: key.key, body: key.body, answer: answer.clone() }),
        events: vec![raw(&event)?],
        view: vec![ViewChange { table: Table::ApiKeys, key: api_key_id.to_string(), row: answer.into() }],
    };
    // Until memory knows what the store knows: a delete in between would be undone.
    let _alone = app.access.api_keys.writing.lock().await;
    let key = match app.store.append(append).await {
        Ok(at) => {
            if !app.access.followed.has(at).await {
                app.access.api_keys.insert(&key);
            }
            key
        }
        Err(AppendError::Duplicate { answer }) => {
            let key: ApiKey = parse_row(&answer)?;
            // The first caller may have gone before memory knew, and the key may have been deleted since.
            let is_alone = app.access.followed.is_alone();
            if is_alone && row::<ApiKey>(&app, Table::ApiKeys, key.api_key_id.to_string()).await?.is_some() {
                app.access.api_keys.insert(&key);
            }
            key
        }
        Err(error) => return Err(error.into()),
    };
    let shown = secret(&app, key.api_key_id);
    if hex::encode(sha256(shown.as_bytes())) != key.sha256 {
        // Only after the signing key was changed between a request and its repeat.
        return Err(Problem::new(Slug::Conflict, "this API key was made and cannot be shown again; delete it"));
    }
    Ok(reply(StatusCode::CREATED, &ApiKeyBody { api_key: Some(shown), ..ApiKeyBody::of(key) }))
}

#[utoipa::path(get, path = "/v1/api-keys", tag = "api-keys", params(ListParams),
    responses((status = 200, description = "Newest first, without secrets", body = Items<ApiKeyBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<ListParams>) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin, Role::Auditor])?;
    let uses = app.access.api_keys.uses();
    let items = list_rows(&app, Table::ApiKeys, &query.0, |key: ApiKey| {
        let last_used_at = uses.get(&key.api_key_id).copied().or(key.last_used_at);
        Some(ApiKeyBody::of(ApiKey { last_used_at, ..key }))
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = "api-keys", params(("id" = String, Path)),
    responses((status = 204, description = "It opens nothing any more")))]
pub async fn delete(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    let id: ApiKeyId = path_id(&request, "id", "API key")?;
    let known: Option<ApiKey> = row(&app, Table::ApiKeys, id.to_string()).await?;
    let known = known.ok_or_else(|| Problem::not_found("API key"))?;
    let event = to_raw_value(&json!({"event": "api_key_deleted", "api_key_id": id}))
        .map_err(|error| Problem::internal("API key", &error))?;
    let append = Append {
        stream: stream(id),
        expected: Expected::Any,
        fence: None,
        at: app.clock.now(),
        by: caller.principal,
        idempotency: None,
        events: vec![event],
        view: vec![
            ViewChange { table: Table::ApiKeys, key: id.to_string(), row: NewRow::Removed },
            ViewChange { table: Table::LastUses, key: format!("{OF_KEYS}{}", known.sha256), row: NewRow::Removed },
        ],
    };
    if !app.access.followed.is_alone() {
        lock(&app.access.api_keys.gone).insert(id);
    }
    // Out of memory first: a key that is being deleted opens nothing, whatever becomes of the disk. And again, since one who
    // was making it may have put it there meanwhile.
    app.access.api_keys.remove(id);
    let app = app.get_ref().clone();
    to_the_end(async move {
        let _alone = app.access.api_keys.writing.lock().await;
        app.access.api_keys.remove(id);
        app.store.append(append).await?;
        Ok(HttpResponse::NoContent().finish())
    })
    .await
}

/// Keys whose use is told to the store in one step.
const USES_AT_ONCE: usize = 500;

/// Tells the store when keys were last used, those of which it does not know.
pub async fn save_uses(app: &App) -> Result<(), AppendError> {
    let api_keys = &app.access.api_keys;
    let _alone = api_keys.writing.lock().await;
    // Plain text and numbers: there is nothing in them that JSON cannot hold.
    let unfit = |_: serde_json::Error| AppendError::Unknown("the use of API keys cannot be written");
    for used in api_keys.used().chunks(USES_AT_ONCE) {
        let uses: Vec<_> =
            used.iter().map(|key| json!({"api_key_id": key.api_key_id, "last_used_at": key.last_used_at})).collect();
        let event = to_raw_value(&json!({"event": "api_keys_used", "api_keys": uses})).map_err(unfit)?;
        // Not into the key's own row: another gateway may be deleting it.
        let change = |key: &Use| {
            let row = to_raw_value(&key.last_used_at).map_err(unfit)?.into();
            Ok(ViewChange { table: Table::LastUses, key: format!("{OF_KEYS}{}", key.sha256), row })
        };
        let append = Append {
            stream: "api-key-uses".into(),
            expected: Expected::Any,
            fence: None,
            at: app.clock.now(),
            by: Principal::gateway(),
            idempotency: None,
            events: vec![event],
            view: used.iter().map(change).collect::<Result<_, AppendError>>()?,
        };
        app.store.append(append).await?;
        used.iter().for_each(|key| api_keys.note_use(&key.sha256, key.last_used_at));
    }
    Ok(())
}

/// Once a minute, for as long as the process runs; a stop saves the rest.
pub async fn follow_uses(app: App) {
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    loop {
        minutes.tick().await;
        if let Err(error) = save_uses(&app).await {
            // It is tried again a minute later; nobody's access depends on it.
            tracing::debug!(?error, "when API keys were used is not stored yet");
        }
    }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0_u8; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(keys: &ApiKeys, secret: &str, now: Timestamp) -> Admission {
        keys.admit_hash(&sha256(secret.as_bytes()), now)
    }

    #[test]
    fn a_removed_key_opens_nothing() {
        let keys = ApiKeys::new(Rate::new(10, 10), Some(&hex::encode(sha256(b"ck_boot")))).unwrap();
        let now = Timestamp(0);
        assert!(matches!(admit(&keys, "ck_boot", now), Admission::Admitted(_)));
        let key = ApiKey {
            api_key_id: ApiKeyId(uuid::Uuid::from_u128(9)),
            name: "n".into(),
            role: Role::Renter,
            subject: "s".into(),
            sha256: hex::encode(sha256(b"ck_x")),
            created_at: now,
            scopes: None,
            expires_at: None,
            last_used_at: None,
        };
        assert!(keys.insert(&key));
        assert!(matches!(admit(&keys, "ck_x", now), Admission::Admitted(_)));
        keys.remove(key.api_key_id);
        assert_eq!(admit(&keys, "ck_x", now), Admission::Unknown);
        assert!(matches!(admit(&keys, "ck_boot", now), Admission::Admitted(_)));
        assert!(ApiKeys::new(Rate::new(1, 1), Some("xyz")).is_err());
    }

    #[test]
    fn a_key_of_before_loads_and_an_expired_one_says_so() {
        let old = r#"{"api_key_id":"00000000-0000-0000-0000-000000000009","name":"n","role":"renter","subject":"s","sha256":"SHA","created_at":"2026-11-21T22:00:00.000Z"}"#;
        let old: ApiKey = serde_json::from_str(&old.replace("SHA", &hex::encode(sha256(b"ck_x")))).unwrap();
        assert_eq!((&old.scopes, old.expires_at, old.last_used_at), (&None, None, None));
        let keys = ApiKeys::new(Rate::new(10, 10), None).unwrap();
        assert!(keys.insert(&ApiKey { expires_at: Some(Timestamp(1_000)), ..old }));
        assert!(matches!(admit(&keys, "ck_x", Timestamp(999)), Admission::Admitted(_)));
        assert_eq!(admit(&keys, "ck_x", Timestamp(1_000)), Admission::Expired { at: Timestamp(1_000) });
        let hash = sha256(b"ck_x");
        assert!(keys.principal(&hash, Timestamp(999)).is_some() && keys.principal(&hash, Timestamp(1_000)).is_none());
    }

    #[test]
    fn a_use_is_told_to_the_store_once() {
        let keys = ApiKeys::new(Rate::new(10, 10), Some(&hex::encode(sha256(b"ck_boot")))).unwrap();
        let key = ApiKey {
            api_key_id: ApiKeyId(uuid::Uuid::from_u128(9)),
            name: "n".into(),
            role: Role::Renter,
            subject: "s".into(),
            sha256: hex::encode(sha256(b"ck_x")),
            created_at: Timestamp(0),
            scopes: None,
            expires_at: None,
            last_used_at: Some(Timestamp(5)),
        };
        assert!(keys.insert(&key));
        assert!(keys.used().is_empty());
        admit(&keys, "ck_boot", Timestamp(10));
        admit(&keys, "ck_x", Timestamp(10));
        let used = keys.used();
        let of = Use { api_key_id: key.api_key_id, sha256: key.sha256.clone(), last_used_at: Timestamp(10) };
        assert_eq!(used, [of]);
        admit(&keys, "ck_x", Timestamp(11));
        keys.note_use(&key.sha256, Timestamp(10));
        assert_eq!(keys.used()[0].last_used_at, Timestamp(11), "used again while it was stored");
        keys.note_use(&key.sha256, Timestamp(11));
        assert!(keys.used().is_empty());
        assert!(keys.insert(&key), "a repeated request finds it there");
        assert_eq!(keys.uses()[&key.api_key_id], Timestamp(11));
    }
}
