//! `/v1/keys`: look at a key, take it back, and use it from afar.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::access::Caller;
use super::commands::{WaitParams, answer_when_final, command_of};
use super::error::Problem;
use super::model::{CommandBody, FunctionName, KeyBody, KeyRow};
use super::vehicles::{ACTORS, ListParams, STAFF};
use super::wire::{Items, Json, Query, idempotency, list_rows, path_id, reply, row};
use crate::actors::vehicle::{Answer, Ask};
use crate::domain::key::{Key, RevocationEffect};
use crate::domain::vehicle::Request;
use crate::domain::{CommandId, Function, KeyId, Timestamp};
use crate::store::Table;
use crate::token;

pub async fn stored(app: &App, caller: &Caller, id: KeyId) -> Result<KeyRow, Problem> {
    let row: Option<KeyRow> = row(app, Table::Keys, id.to_string()).await?;
    row.filter(|row| caller.sees(&row.item.holder)).ok_or_else(|| Problem::not_found("key"))
}

/// The token goes to its holder only.
fn shown(caller: &Caller, row: KeyRow, now: Timestamp) -> KeyBody {
    let is_holder = caller.principal.subject == row.item.holder;
    KeyBody { token: is_holder.then_some(row.token), ..KeyBody::of(&row.vehicle_id, &row.item, now) }
}

#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(ListParams),
    responses((status = 200, description = "Newest first", body = Items<KeyBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<ListParams>) -> Result<HttpResponse, Problem> {
    let now = app.clock.now();
    let items = list_rows(&app, Table::Keys, &query.0, move |row: KeyRow| {
        caller.sees(&row.item.holder).then(|| shown(&caller, row, now))
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(get, path = "/v1/keys/{id}", tag = "keys", params(("id" = String, Path)),
    responses((status = 200, body = KeyBody)))]
pub async fn get(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id: KeyId = path_id(&request, "id", "key")?;
    let mut row = stored(&app, &caller, id).await?;
    // The actor's word is up to a second newer than the row.
    let newest = app.fleet.snapshot(&row.vehicle_id).await.ok();
    if let Some(newest) = newest.and_then(|snapshot| snapshot.vehicle.key(id).cloned()) {
        row.item = newest;
    }
    Ok(reply(StatusCode::OK, &shown(&caller, row, app.clock.now())))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RevokeParams {
    /// `at_safe_state` (if absent) or `immediate`: when driving ends. Entry ends at once in both.
    effect: Option<String>,
}

impl RevokeParams {
    pub fn effect(&self) -> Result<RevocationEffect, Problem> {
        match self.effect.as_deref() {
            None | Some("at_safe_state") => Ok(RevocationEffect::AtSafeState),
            Some("immediate") => Ok(RevocationEffect::Immediate),
            Some(_) => Err(Problem::invalid("effect", "immediate or at_safe_state")),
        }
    }
}

#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", params(("id" = String, Path), RevokeParams),
    responses((status = 200, description = "Revoked; the car is told", body = KeyBody)))]
pub async fn revoke(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    query: Query<RevokeParams>,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let key_id: KeyId = path_id(&request, "id", "key")?;
    let effect = query.0.effect()?;
    let row = stored(&app, &caller, key_id).await?;
    let ask = Ask { request: Request::Revoke { key_id, effect }, by: caller.principal, idempotency: None };
    let key = key_of(app.fleet.ask(&row.vehicle_id, ask).await?)?;
    Ok(reply(StatusCode::OK, &KeyBody::of(&row.vehicle_id, &key, app.clock.now())))
}

pub fn key_of(answer: Answer) -> Result<Key, Problem> {
    match answer {
        Answer::Key(key) => Ok(key),
        Answer::Vehicle | Answer::Command(_) | Answer::Usage { .. } | Answer::Rental(_) => {
            Err(Problem::internal("key", &"the actor answered with something else"))
        }
    }
}

/// `{"function":"unlock_doors"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAction {
    #[schema(value_type = FunctionName)]
    function: Function,
    /// That whoever asks holds the key and not only an account: base64url of the 64 bytes that the holder's key signed
    /// over SHA-256 of the `Idempotency-Key`, SHA-256 of the token, and the function's number as one byte.
    proof: Option<String>,
}

/// The same form as at the car, with the idempotency key in the place of the car's nonce: the same key and body are
/// answered once, so that a recorded proof asks for nothing new.
fn check_proof(row: &KeyRow, nonce: Option<&[u8]>, function: Function, proof: &str) -> Result<(), Problem> {
    let nonce = nonce.ok_or_else(|| Problem::invalid("Idempotency-Key", "a proof is made over it"))?;
    let token = token::decode(&row.token).map_err(|error| Problem::internal("key", &error))?;
    let message = token::use_message(&token::sha256(nonce), &token::sha256(&token), function);
    let signature =
        URL_SAFE_NO_PAD.decode(proof).map_err(|_| Problem::invalid("proof", "base64url without padding"))?;
    match token::holder_signed(&row.item.grant.holder_key, &message, &signature) {
        true => Ok(()),
        false => Err(Problem::forbidden("the proof is not the key holder's")),
    }
}

#[utoipa::path(post, path = "/v1/keys/{id}/actions", tag = "keys", params(("id" = String, Path), WaitParams),
    request_body = NewAction,
    responses((status = 200, description = "It came to its end while waiting", body = CommandBody),
        (status = 202, description = "Accepted; it is on disk", body = CommandBody)))]
pub async fn act(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    query: Query<WaitParams>,
    body: Json<NewAction>,
) -> Result<HttpResponse, Problem> {
    caller.require(&ACTORS)?;
    let key_id: KeyId = path_id(&request, "id", "key")?;
    let wait = query.0.wait()?;
    let function = body.value.function;
    let idempotency = idempotency(&request, &caller, "key-actions", &body.hash)?;
    let row = stored(&app, &caller, key_id).await?;
    if let Some(proof) = &body.value.proof {
        let nonce = request.headers().get("idempotency-key").map(|value| value.as_bytes());
        check_proof(&row, nonce, function, proof)?;
    }
    let command_id = CommandId(app.clock.new_id());
    let by = caller.principal;
    let ask = Ask { request: Request::Act { command_id, key_id, function, by: by.clone() }, by, idempotency };
    let command = command_of(app.fleet.ask(&row.vehicle_id, ask).await?)?;
    answer_when_final(&app, &row.vehicle_id, command, wait).await
}
