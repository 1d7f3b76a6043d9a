//! `/v1/keys`: look at a key, take it back, and use it from afar.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::auth::Caller;
use super::commands::{WaitParams, answer_when_final, command_of};
use super::error::Problem;
use super::model::{CommandBody, FunctionName, KeyBody, KeyRow};
use super::vehicles::{ACTORS, ListParams, STAFF};
use super::wire::{Items, Json, Query, idempotency, list_rows, path_id, reply, row};
use crate::actors::vehicle::{Answer, Ask};
use crate::domain::key::RevocationEffect;
use crate::domain::vehicle::Request;
use crate::domain::{CommandId, Function, KeyId, Timestamp};
use crate::store::Table;

async fn stored(app: &App, caller: &Caller, id: KeyId) -> Result<KeyRow, Problem> {
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
    fn effect(&self) -> Result<RevocationEffect, Problem> {
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
    match app.fleet.ask(&row.vehicle_id, ask).await? {
        Answer::Key(key) => Ok(reply(StatusCode::OK, &KeyBody::of(&row.vehicle_id, &key, app.clock.now()))),
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
    /// Not taken yet: a proof that nobody checks would be worse than none, so its presence is refused.
    proof: Option<String>,
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
    if body.value.proof.is_some() {
        return Err(Problem::invalid("proof", "a proof is not checked here yet; leave it out"));
    }
    let function = body.value.function;
    let idempotency = idempotency(&request, &caller, "key-actions", &body.hash)?;
    let row = stored(&app, &caller, key_id).await?;
    let command_id = CommandId(app.clock.new_id());
    let by = caller.principal;
    let ask = Ask { request: Request::Act { command_id, key_id, function, by: by.clone() }, by, idempotency };
    let command = command_of(app.fleet.ask(&row.vehicle_id, ask).await?)?;
    answer_when_final(&app, &row.vehicle_id, command, wait).await
}
