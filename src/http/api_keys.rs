//! `/v1/api-keys`: make, list and delete the keys that programs call with.
//!
//! A secret is shown in the answer that made it and stored nowhere: it is derived from the fleet's signing key and the
//! API key's id, so that a repeated request can be given the same answer.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::App;
use super::auth::{ApiKey, ApiKeys, Caller, SECRET_PREFIX, sha256};
use super::error::{Problem, Slug};
use super::usage::check_name;
use super::vehicles::ListParams;
use super::wire::{Items, Json, Query, idempotency, list_rows, parse_row, path_id, reply, row};
use crate::domain::{ApiKeyId, Role, Timestamp};
use crate::store::{Append, AppendError, Expected, Idempotency, NewRow, Table, ViewChange};

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
    if app.api_keys.len() >= ApiKeys::MAX {
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
            app.api_keys.insert(&key);
            key
        }
        Err(AppendError::Duplicate { answer }) => parse_row(&answer)?,
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
    app.api_keys.remove(id);
    app.store.append(append).await?;
    Ok(HttpResponse::NoContent().finish())
}
