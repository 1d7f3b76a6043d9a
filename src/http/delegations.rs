//! `/v1/keys/{id}/delegations`: keys that a holder made of theirs, as far as the gateway is told of them.
//!
//! A delegated key works at the car without the gateway having heard of it; told of, it is seen and can be taken back
//! alone.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::error::Problem;
use super::keys::{RevokeParams, key_of, stored};
use super::model::{DelegationBody, KeyRow};
use super::usage::check_name;
use super::vehicles::ACTORS;
use super::wire::{Json, Query, idempotency, path_id, reply};
use crate::actors::vehicle::Ask;
use crate::domain::key::{Delegation, Key};
use crate::domain::vehicle::Request;
use crate::domain::{KeyId, Timestamp};
use crate::token::{self, Keyset, TokenError, VerifiedToken};

/// `{"token":"…"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDelegation {
    /// The delegated token: CWT, base64url.
    token: String,
    /// The key's token that it was made of, where that is an earlier one: before an extension, say.
    parent_token: Option<String>,
}

#[utoipa::path(post, path = "/v1/keys/{id}/delegations", tag = "keys", params(("id" = String, Path)),
    request_body = NewDelegation,
    responses((status = 201, description = "It was verified and is on disk", body = DelegationBody)))]
pub async fn tell(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<NewDelegation>,
) -> Result<HttpResponse, Problem> {
    caller.require(&ACTORS)?;
    let key_id: KeyId = path_id(&request, "id", "key")?;
    let idempotency = idempotency(&request, &caller, "delegations", &body.hash)?;
    let row = stored(&app, &caller, key_id).await?;
    let now = app.clock.now();
    let NewDelegation { token, parent_token } = &body.value;
    let parent = parent(&row, &app.keyset, parent_token.as_deref().unwrap_or(&row.token), now)
        .map_err(|error| Problem::invalid("parent_token", error.to_string()))?;
    let delegation = delegation(&parent, token, now).map_err(|error| Problem::invalid("token", error.to_string()))?;
    check_name("token.sub", &delegation.holder)?;
    let delegated_key_id = delegation.key_id;
    let ask = Ask { request: Request::Delegate { key_id, delegation }, by: caller.principal, idempotency };
    let key = key_of(app.fleet.ask(&row.vehicle_id, ask).await?)?;
    Ok(reply(StatusCode::CREATED, &found(&key, delegated_key_id, now)?))
}

/// The key's own token, or one of the same key that was given before it.
fn parent(row: &KeyRow, keyset: &Keyset, text: &str, now: Timestamp) -> Result<VerifiedToken, TokenError> {
    let at = now.max(row.item.grant.not_before);
    let parent = token::verify_text(text, keyset, &row.vehicle_id, at)?;
    if parent.grant.key_id == row.item.grant.key_id { Ok(parent) } else { Err(TokenError::OtherParent) }
}

/// Whether it is in time is the vehicle's decision: both tokens may be told of before they are valid.
fn delegation(parent: &VerifiedToken, text: &str, now: Timestamp) -> Result<Delegation, TokenError> {
    let VerifiedToken { holder, grant, .. } = token::read_delegated(&token::decode(text)?, parent)?;
    Ok(Delegation {
        key_id: grant.key_id,
        holder,
        permits: grant.permits,
        not_before: grant.not_before,
        not_after: grant.not_after,
        told_at: now,
        revoked_at: None,
    })
}

#[utoipa::path(delete, path = "/v1/keys/{id}/delegations/{delegated}", tag = "keys",
    params(("id" = String, Path), ("delegated" = String, Path), RevokeParams),
    responses((status = 200, description = "Revoked alone; the car is told", body = DelegationBody)))]
pub async fn revoke(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    query: Query<RevokeParams>,
) -> Result<HttpResponse, Problem> {
    caller.require(&ACTORS)?;
    let key_id: KeyId = path_id(&request, "id", "key")?;
    let delegated_key_id: KeyId = path_id(&request, "delegated", "delegation")?;
    let effect = query.0.effect()?;
    let row = stored(&app, &caller, key_id).await?;
    let wish = Request::RevokeDelegation { key_id, delegated_key_id, effect };
    let ask = Ask { request: wish, by: caller.principal, idempotency: None };
    let key = key_of(app.fleet.ask(&row.vehicle_id, ask).await?)?;
    Ok(reply(StatusCode::OK, &found(&key, delegated_key_id, app.clock.now())?))
}

fn found(key: &Key, id: KeyId, now: Timestamp) -> Result<DelegationBody, Problem> {
    let delegation = key.delegation(id).ok_or_else(|| Problem::not_found("delegation"))?;
    Ok(DelegationBody::of(key, delegation, now))
}
