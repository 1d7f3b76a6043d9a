//! `/v1/vehicles/{id}/commands` and `/v1/commands`: order something of one car or of many, and learn what became of it.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::access::Caller;
use super::error::{Problem, ProblemBody};
use super::model::{CommandBody, FunctionName, Row};
use super::vehicles::{ACTORS, OfVehicle, STAFF};
use super::wire::{Items, Json, Query, each, idempotency, list_rows, param, path_id, reply, row};
use crate::actors::fleet::FleetHandle;
use crate::actors::vehicle::{Answer, Ask, AskError, IdempotencyKey};
use crate::domain::command::{Command, Order};
use crate::domain::vehicle::Request;
use crate::domain::{CommandId, Function, Principal, Role, VehicleId};
use crate::store::{Append, AppendError, Expected, Idempotency, Table};

/// The orders a person may give; grants and revocations come from rentals and keys.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    Lock,
    Unlock,
    Locate,
    EnableFunction,
    DisableFunction,
    ReportState,
}

/// `{"type":"disable_function","function":"drive","ttl_s":600}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCommand {
    #[serde(rename = "type")]
    pub kind: CommandKind,
    /// For `enable_function` and `disable_function` only.
    #[schema(value_type = Option<FunctionName>)]
    pub function: Option<Function>,
    /// Seconds until it expires; by default 300 for lock, unlock and locate.
    pub ttl_s: Option<u32>,
}

impl NewCommand {
    /// What is asked of the car, and how long it is worth sending.
    pub fn order(&self) -> Result<(Order, Option<i64>), Problem> {
        let order = match (self.kind, self.function) {
            (CommandKind::Lock, None) => Order::Lock,
            (CommandKind::Unlock, None) => Order::Unlock,
            (CommandKind::Locate, None) => Order::Locate,
            (CommandKind::ReportState, None) => Order::ReportState,
            (CommandKind::EnableFunction, Some(function)) => Order::EnableFunction { function },
            (CommandKind::DisableFunction, Some(function)) => Order::DisableFunction { function },
            (CommandKind::EnableFunction | CommandKind::DisableFunction, None) => {
                return Err(Problem::invalid("function", "this type needs a function"));
            }
            (_, Some(_)) => return Err(Problem::invalid("function", "this type takes no function")),
        };
        if self.ttl_s == Some(0) {
            return Err(Problem::invalid("ttl_s", "at least 1"));
        }
        Ok((order, self.ttl_s.map(|seconds| i64::from(seconds) * 1000)))
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitParams {
    /// Up to 30000: how long to wait for the command's final state.
    #[param(value_type = Option<u32>)]
    pub wait_ms: Option<String>,
}

impl WaitParams {
    const MAX_MS: u64 = 30_000;

    pub fn wait(&self) -> Result<Duration, Problem> {
        let ms = param::<u64>("wait_ms", self.wait_ms.as_deref())?.unwrap_or(0);
        if ms > Self::MAX_MS {
            return Err(Problem::invalid("wait_ms", format!("0 to {}", Self::MAX_MS)));
        }
        Ok(Duration::from_millis(ms))
    }
}

#[utoipa::path(post, path = "/v1/vehicles/{id}/commands", tag = "commands",
    params(("id" = String, Path), WaitParams), request_body = NewCommand,
    responses((status = 200, description = "It came to its end while waiting", body = CommandBody),
        (status = 202, description = "Accepted; it is on disk", body = CommandBody)))]
pub async fn order(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    query: Query<WaitParams>,
    body: Json<NewCommand>,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let vehicle: VehicleId = path_id(&request, "id", "vehicle")?;
    let wait = query.0.wait()?;
    let (order, ttl_ms) = body.value.order()?;
    let idempotency = idempotency(&request, &caller, "commands", &body.hash)?;
    let by = caller.principal;
    let command_id = CommandId(app.clock.new_id());
    let ask = Ask { request: Request::Order { command_id, order, ttl_ms, by: by.clone() }, by, idempotency };
    let command = command_of(app.fleet.ask(&vehicle, ask).await?)?;
    answer_when_final(&app, &vehicle, command, wait).await
}

/// The command out of an answer to Order, Cancel or Act.
pub fn command_of(answer: Answer) -> Result<Command, Problem> {
    match answer {
        Answer::Command(command) => Ok(command),
        Answer::Vehicle | Answer::Usage { .. } | Answer::Rental(_) | Answer::Key(_) => {
            Err(Problem::internal("command", &"the actor answered with something else"))
        }
    }
}

/// 200 when the command is final within `wait`, else 202.
pub async fn answer_when_final(
    app: &App,
    vehicle: &VehicleId,
    mut command: Command,
    wait: Duration,
) -> Result<HttpResponse, Problem> {
    if !wait.is_zero() {
        // The command is promised already: not learning more of it is no failure.
        if let Ok(Some(newest)) = app.fleet.command(vehicle, command.command_id, wait).await {
            command = newest;
        }
    }
    let is_done = !wait.is_zero() && command.state.is_final();
    let mut answer = if is_done { HttpResponse::Ok() } else { HttpResponse::Accepted() };
    answer.insert_header(("Location", format!("/v1/commands/{}", command.command_id)));
    Ok(answer.json(CommandBody::of(vehicle, &command)))
}

/// `{"vehicle_ids":["WVW-1","WVW-2"],"type":"lock"}` or `{"all":true,"type":"report_state"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkCommand {
    /// Either these, each once,
    #[schema(value_type = Option<Vec<String>>)]
    vehicle_ids: Option<Vec<VehicleId>>,
    /// or every vehicle.
    #[serde(default)]
    all: bool,
    #[serde(rename = "type")]
    kind: CommandKind,
    #[schema(value_type = Option<FunctionName>)]
    function: Option<Function>,
    ttl_s: Option<u32>,
}

/// `{"vehicle_id":"WVW-1","command_id":"…"}`, or with `problem` in place of `command_id`.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkItem {
    #[schema(value_type = String)]
    vehicle_id: VehicleId,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    command_id: Option<CommandId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BulkAnswer {
    items: Vec<BulkItem>,
}

/// Vehicles in one bulk command; beyond it the answer would be larger than anyone reads.
const MAX_BULK: usize = 50_000;

/// Asks under way at once: enough that the journal writes them in few large batches, and far below the appends that may
/// wait for the disk (`data.queue_max`), so that other callers are not refused meanwhile.
const BULK_IN_FLIGHT: usize = 2_048;

#[utoipa::path(post, path = "/v1/commands", tag = "commands", request_body = BulkCommand,
    responses((status = 202, description = "Each accepted one is on disk", body = BulkAnswer)))]
pub async fn order_many(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    body: Json<BulkCommand>,
) -> Result<HttpResponse, Problem> {
    caller.require(&STAFF)?;
    let idempotency = idempotency(&request, &caller, "bulk-commands", &body.hash)?;
    let BulkCommand { vehicle_ids, all, kind, function, ttl_s } = body.value;
    let (order, ttl_ms) = NewCommand { kind, function, ttl_s }.order()?;
    let max_ttl_s = app.config.fleet.max_ttl_s;
    if ttl_s.is_some_and(|ttl_s| u64::from(ttl_s) > max_ttl_s) {
        // Said once, not once for each vehicle.
        return Err(Problem::invalid("ttl_s", format!("1 to {max_ttl_s}")));
    }
    let vehicles = addressed(&app, vehicle_ids, all)?;
    if let Some(key) = &idempotency {
        bind(&app, &caller.principal, key, vehicles.len()).await?;
    }
    let bulk = Bulk { fleet: app.fleet.clone(), order, ttl_ms, by: caller.principal, idempotency };
    let clock = app.clock.clone();
    let in_flight = BULK_IN_FLIGHT.min(app.config.data.queue_max / 4).max(1);
    // On its own task: a caller that goes away in the middle leaves no half-ordered fleet behind.
    let all =
        tokio::spawn(each(vehicles, in_flight, move |vehicle| bulk.clone().ask(vehicle, CommandId(clock.new_id()))));
    let items = all.await.map_err(|error| Problem::internal("bulk command", &error))??;
    Ok(reply(StatusCode::ACCEPTED, &BulkAnswer { items }))
}

/// The key belongs to this body from here on, whichever vehicles it names; what each of them was told is kept with it.
async fn bind(app: &App, by: &Principal, key: &IdempotencyKey, vehicles: usize) -> Result<(), Problem> {
    let event = to_raw_value(&json!({"event": "bulk_ordered", "vehicles": vehicles}));
    let (event, answer) = event
        .and_then(|event| Ok((event, to_raw_value(&())?)))
        .map_err(|error| Problem::internal("bulk command", &error))?;
    let step = Append {
        stream: "bulk-commands".into(),
        expected: Expected::Any,
        fence: None,
        at: app.clock.now(),
        by: by.clone(),
        idempotency: Some(Idempotency { key: key.key.clone(), body: key.body.clone(), answer }),
        events: vec![event],
        view: Vec::new(),
    };
    match app.store.append(step).await {
        Ok(_) | Err(AppendError::Duplicate { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn addressed(app: &App, listed: Option<Vec<VehicleId>>, all: bool) -> Result<Vec<VehicleId>, Problem> {
    let too_many = || Problem::invalid("vehicle_ids", format!("at most {MAX_BULK} vehicles at once"));
    let vehicles = match (listed, all) {
        (Some(listed), false) => listed,
        (None, true) => app.fleet.vehicles(None, MAX_BULK + 1),
        (Some(_), true) | (None, false) => {
            return Err(Problem::invalid("vehicle_ids", "either vehicle_ids or all: true"));
        }
    };
    if vehicles.len() > MAX_BULK {
        return Err(too_many());
    }
    if vehicles.is_empty() && !all {
        return Err(Problem::invalid("vehicle_ids", "at least one vehicle"));
    }
    let distinct: BTreeSet<&VehicleId> = vehicles.iter().collect();
    if distinct.len() < vehicles.len() {
        return Err(Problem::invalid("vehicle_ids", "each vehicle once"));
    }
    Ok(vehicles)
}

#[derive(Clone)]
struct Bulk {
    fleet: FleetHandle,
    order: Order,
    ttl_ms: Option<i64>,
    by: Principal,
    idempotency: Option<IdempotencyKey>,
}

impl Bulk {
    async fn ask(self, vehicle: VehicleId, command_id: CommandId) -> BulkItem {
        let idempotency =
            self.idempotency.map(|key| IdempotencyKey { key: format!("{}/{vehicle}", key.key), body: key.body });
        let (order, ttl_ms, by) = (self.order, self.ttl_ms, self.by);
        let ask = Ask { request: Request::Order { command_id, order, ttl_ms, by: by.clone() }, by, idempotency };
        let outcome = self.fleet.ask(&vehicle, ask).await.map_err(Problem::from).and_then(command_of);
        match outcome {
            Ok(command) => BulkItem { vehicle_id: vehicle, command_id: Some(command.command_id), problem: None },
            Err(problem) => BulkItem { vehicle_id: vehicle, command_id: None, problem: Some(problem.body()) },
        }
    }
}

/// The stored row of a command the caller may see.
async fn stored(app: &App, caller: &Caller, id: CommandId) -> Result<Row<Command>, Problem> {
    let row: Option<Row<Command>> = row(app, Table::Commands, id.to_string()).await?;
    row.filter(|row| sees(caller, &row.item)).ok_or_else(|| Problem::not_found("command"))
}

/// A renter sees what they asked for themselves.
fn sees(caller: &Caller, command: &Command) -> bool {
    !caller.is_renter() || (command.by.role == Role::Renter && command.by.subject == caller.principal.subject)
}

#[utoipa::path(get, path = "/v1/commands/{id}", tag = "commands", params(("id" = String, Path), WaitParams),
    responses((status = 200, body = CommandBody)))]
pub async fn get(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    query: Query<WaitParams>,
) -> Result<HttpResponse, Problem> {
    let id: CommandId = path_id(&request, "id", "command")?;
    let wait = query.0.wait()?;
    let Row { vehicle_id, item } = stored(&app, &caller, id).await?;
    // What the actor knows is newer than the row; what it has forgotten is final in the row.
    let newest = match app.fleet.command(&vehicle_id, id, wait).await {
        Ok(newest) => newest.unwrap_or(item),
        Err(AskError::Busy | AskError::Unknown | AskError::Storage(_) | AskError::KeyReused | AskError::Refused(_)) => {
            item
        }
    };
    Ok(reply(StatusCode::OK, &CommandBody::of(&vehicle_id, &newest)))
}

#[utoipa::path(get, path = "/v1/commands", tag = "commands", params(OfVehicle),
    responses((status = 200, description = "Newest first", body = Items<CommandBody>)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<OfVehicle>) -> Result<HttpResponse, Problem> {
    let (page, wish) = (query.0.page(), query.0);
    let items = list_rows(&app, Table::Commands, &page, move |row: Row<Command>| {
        let is_shown = wish.wants(&row.vehicle_id) && sees(&caller, &row.item);
        is_shown.then(|| CommandBody::of(&row.vehicle_id, &row.item))
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(delete, path = "/v1/commands/{id}", tag = "commands", params(("id" = String, Path)),
    responses((status = 200, description = "It was not sent and will not be", body = CommandBody)))]
pub async fn cancel(app: web::Data<App>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id: CommandId = path_id(&request, "id", "command")?;
    caller.require(&ACTORS)?;
    let Row { vehicle_id, .. } = stored(&app, &caller, id).await?;
    let ask = Ask { request: Request::Cancel { command_id: id }, by: caller.principal, idempotency: None };
    let command = command_of(app.fleet.ask(&vehicle_id, ask).await?)?;
    Ok(reply(StatusCode::OK, &CommandBody::of(&vehicle_id, &command)))
}
