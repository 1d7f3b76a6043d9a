//! API keys: every valid one in memory, and `/v1/api-keys` to make, list and delete them.
//!
//! An API key is `ck_` and 32 random-looking bytes; only its SHA-256 is kept. A secret is shown in the answer that made
//! it: it is derived from the fleet's signing key and the API key's id, so that a repeated request can be given the same
//! answer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};

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
use super::{Admission, App, Caller, MAX_SECRET_LEN, sha256};
use crate::domain::{ApiKeyId, Principal, Role, Timestamp};
use crate::http::error::{Problem, Slug};
use crate::http::usage::check_name;
use crate::http::vehicles::ListParams;
use crate::http::wire::{Items, Json, Query, idempotency, list_rows, parse_row, path_id, reply, row};
use crate::store::{Append, AppendError, Expected, Idempotency, NewRow, Order, ReadError, Store, Table, ViewChange};

pub const SECRET_PREFIX: &str = "ck_";

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

impl ApiKeys {
    pub const MAX: usize = 100_000;

    /// Without any stored key; `bootstrap` is the hex SHA-256 of the first admin's key.
    pub fn new(rate: Rate, bootstrap: Option<&str>) -> Result<Self, String> {
        let keys = Self { by_hash: RwLock::new(HashMap::new()), rate };
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
                None => return Ok(count),
            }
        }
    }

    /// False when there is no room or the stored hash is not one.
    pub fn insert(&self, key: &ApiKey) -> bool {
        let Some(hash) = parse_hash(&key.sha256) else { return false };
        let principal = Principal::new(key.role, key.subject.clone());
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
        if !secret.starts_with(SECRET_PREFIX) || secret.len() > MAX_SECRET_LEN {
            return Admission::Unknown;
        }
        self.admit_hash(&sha256(secret.as_bytes()), now)
    }

    /// As whom the key's bearer acts; takes nothing from its rate.
    pub fn principal(&self, hash: &[u8; 32]) -> Option<Principal> {
        let keys = self.by_hash.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(hash).map(|entry| entry.principal.clone())
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

/// `{"name":"renter app of Anna","role":"renter","subject":"anna"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    name: String,
    role: ApiRole,
    /// Whom its bearer acts as, like a renter's name; absent = `name`.
    subject: Option<String>,
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
}

impl ApiKeyBody {
    fn of(key: ApiKey) -> Self {
        let ApiKey { api_key_id, name, role, subject, created_at, .. } = key;
        Self { api_key_id, api_key: None, name, role, subject, created_at }
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
    let NewApiKey { name, role, subject } = body.value;
    let subject = subject.unwrap_or_else(|| name.clone());
    check_name("name", &name)?;
    check_name("subject", &subject)?;
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
        created_at: app.clock.now(),
    };
    let raw = |value: &serde_json::Value| to_raw_value(value).map_err(|error| Problem::internal("API key", &error));
    let answer = to_raw_value(&key).map_err(|error| Problem::internal("API key", &error))?;
    let event = json!({"event": "api_key_created", "api_key_id": api_key_id, "name": key.name, "role": key.role,
        "subject": key.subject});
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
    let key = match app.store.append(append).await {
        Ok(_) => {
            app.access.api_keys.insert(&key);
            key
        }
        Err(AppendError::Duplicate { answer }) => {
            let key: ApiKey = parse_row(&answer)?;
            // The first caller may have gone before memory knew.
            if row::<ApiKey>(&app, Table::ApiKeys, key.api_key_id.to_string()).await?.is_some() {
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
    let items = list_rows(&app, Table::ApiKeys, &query.0, |key: ApiKey| Some(ApiKeyBody::of(key)));
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = "api-keys", params(("id" = String, Path)),
    responses((status = 204, description = "It opens nothing any more")))]
pub async fn delete(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin])?;
    let id: ApiKeyId = path_id(&request, "id", "API key")?;
    let known: Option<ApiKey> = row(&app, Table::ApiKeys, id.to_string()).await?;
    if known.is_none() {
        return Err(Problem::not_found("API key"));
    }
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
        view: vec![ViewChange { table: Table::ApiKeys, key: id.to_string(), row: NewRow::Removed }],
    };
    // Out of memory first: a key that is being deleted opens nothing, whatever becomes of the disk.
    app.access.api_keys.remove(id);
    app.store.append(append).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0_u8; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_opens_nothing() {
        let keys = ApiKeys::new(Rate::new(10, 10), Some(&hex::encode(sha256(b"ck_boot")))).unwrap();
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
        assert!(ApiKeys::new(Rate::new(1, 1), Some("xyz")).is_err());
    }
}
