//! `/v1/vehicles/{id}/link-log`: when a car came, when and why it went, and why it was not let in.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::Caller;
use super::error::Problem;
use super::vehicles::READERS;
use super::wire::{PageOf, Query, path_vehicle, reply};
use super::{App, LinkEntry, LinkEvent};
use crate::domain::Timestamp;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LinkLogParams {
    /// 1 to 1000; 100 if absent. The log itself is shorter.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
}

/// `{"at":"…","event":"disconnected","epoch":7,"reason":"silent"}`
#[derive(Debug, Serialize, ToSchema)]
pub struct LinkEntryBody {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `connected`, `disconnected`, `refused` or `unproved`.
    event: LinkEvent,
    /// Of the session; a refused connection has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Why it ended or was refused: a label of the metric `mqtt_refused`, like `gone`, `takeover`, `revoked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// How many times in a row, last at `at`; only of what could not be proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
}

/// `{"items":[…],"since":"…"}`; newest first. Of before `since` nothing is known.
#[derive(Debug, Serialize, ToSchema)]
pub struct LinkLogBody {
    items: Vec<LinkEntryBody>,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

#[utoipa::path(get, path = "/v1/vehicles/{id}/link-log", tag = "vehicles",
    params(("id" = String, Path), LinkLogParams), responses((status = 200, body = LinkLogBody)))]
pub async fn get(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    query: Query<LinkLogParams>,
) -> Result<HttpResponse, Problem> {
    caller.require(&READERS)?;
    let vehicle = path_vehicle(&app, &request)?;
    let PageOf { limit, .. } = PageOf::parse(query.0.limit.as_deref(), None)?;
    let log = (app.links)(&vehicle);
    let items = log.entries.into_iter().take(limit).map(|entry| {
        let LinkEntry { at, event, epoch, address, reason, times } = entry;
        LinkEntryBody { at, event, epoch, address: address.map(|address| address.to_string()), reason, times }
    });
    Ok(reply(StatusCode::OK, &LinkLogBody { items: items.collect(), since: log.since }))
}
