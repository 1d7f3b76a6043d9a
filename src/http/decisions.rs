//! `/v1/decisions`: what was answered to each purchase, and everything it was based on. Read only: a decision never changes.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::cards::READERS;
use super::error::{Problem, ProblemBody};
use super::wire::{Items, PageOf, Query, off_thread, parse_row, path_id, reply, row};
use crate::actors::card_guard::reconciliation_row;
use crate::domain::card::CardId;
use crate::domain::{DecisionId, VehicleId};
use crate::store::{Order, Table};

/// One decision. `checks` holds every check that ran, also those in shadow.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DecisionBody {
    pub decision_id: String,
    #[schema(format = DateTime)]
    pub at: String,
    pub purchase: PurchaseBody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station_id: Option<String>,
    /// `approve`, `approve_capped`, `step_up` or `decline`.
    pub outcome: String,
    /// `enabled` or `disabled`.
    pub settlement: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_minor: Option<i64>,
    /// What the whole authorisation may come to, increments and all, by what is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_minor: Option<i64>,
    pub reasons: Vec<String>,
    /// Checks that failed and only warn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    pub checks: Vec<CheckBody>,
    pub rule_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<String>,
    /// The payment network's id of its message.
    pub source_event: String,
    /// Hex SHA-256 of the message as it came.
    pub body_sha256: String,
    /// For an increment: the decision on what it adds to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// When the network heard the answer, where that was before it was on record: the store did not answer in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub answered_before_durable_at: Option<String>,
    /// The vehicle class whose rules counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_class: Option<String>,
    /// What it was judged by: the card, the vehicles with the newest observations and their times, the station with its
    /// position, and what was bought before. Absent where it was answered without a judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub inputs: Option<serde_json::Value>,
    /// Of one decision only: what became of it; absent = nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciliation: Option<ReconciliationBody>,
}

/// What was taken after the answer, and whether the car got it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ReconciliationBody {
    /// `watching`, `pending` (the car has not shown yet), `confirmed`, `doubted`, `unverifiable`, `reversed`, `expired`.
    pub state: String,
    /// Captures, reversals and the like, oldest first by arrival.
    #[schema(value_type = Vec<Object>)]
    pub postings: serde_json::Value,
    pub checks: Vec<CheckBody>,
    /// The alert about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<String>,
    /// When it is looked at again; absent = it is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub review_at: Option<String>,
    #[schema(value_type = Vec<Object>)]
    pub history: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PurchaseBody {
    pub authorization_id: String,
    pub source: String,
    pub card_ref: String,
    #[schema(format = DateTime)]
    pub at: String,
    pub amount: AmountBody,
    pub partial_allowed: bool,
    #[schema(value_type = Object)]
    pub merchant: serde_json::Value,
    /// Product and litres, as far as the network tells.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub fill: serde_json::Value,
    /// What was keyed in at the pump.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub prompts: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AmountBody {
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckBody {
    pub check: String,
    /// `on`, or `shadow`: recorded without influence.
    pub mode: String,
    /// What its failing leads to: `decline`, `step_up` or `warn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<String>,
    /// `pass`, `fail` or `unknown`.
    pub verdict: String,
    /// The most that this check lets through, in minor units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_minor: Option<i64>,
    pub detail: String,
    /// Numbers with their thresholds, and ids.
    #[schema(value_type = Object)]
    pub evidence: serde_json::Value,
    /// How old what it relied on was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionPage {
    pub items: Vec<DecisionBody>,
    pub next: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionQuery {
    limit: Option<String>,
    after: Option<String>,
    card_id: Option<CardId>,
    vehicle_id: Option<VehicleId>,
    outcome: Option<String>,
    authorization_id: Option<String>,
}

#[utoipa::path(get, path = "/v1/decisions", tag = "decisions",
    description = "Newest first. A page may have fewer items than asked for and still a `next`.",
    params(
        ("limit" = Option<usize>, Query), ("after" = Option<String>, Query), ("card_id" = Option<String>, Query),
        ("vehicle_id" = Option<String>, Query), ("outcome" = Option<String>, Query),
        ("authorization_id" = Option<String>, Query),
    ),
    responses((status = 200, body = DecisionPage)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<DecisionQuery>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let DecisionQuery { limit, after, card_id, vehicle_id, outcome, authorization_id } = query.0;
    let page = PageOf::parse(limit.as_deref(), after.as_deref())?;
    let (card_id, vehicle_id) = (card_id.map(|id| id.to_string()), vehicle_id.map(|id| id.to_string()));
    let is_or_any = |wanted: &Option<String>, value: Option<&str>| wanted.is_none() || wanted.as_deref() == value;
    let items = filtered(&app, Table::Decisions, page, move |decision: &DecisionBody| {
        is_or_any(&card_id, decision.card_id.as_deref())
            && is_or_any(&vehicle_id, decision.vehicle_id.as_deref())
            && is_or_any(&outcome, Some(&decision.outcome))
            && is_or_any(&authorization_id, Some(&decision.purchase.authorization_id))
    });
    Ok(reply(StatusCode::OK, &items.await?))
}

#[utoipa::path(get, path = "/v1/decisions/{id}", tag = "decisions", params(("id" = String, Path)), responses(
    (status = 200, body = DecisionBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn get(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let id: DecisionId = path_id(&request, "id", "decision")?;
    let decision = row::<DecisionBody>(&app, Table::Decisions, id.to_string()).await?;
    let mut decision = decision.ok_or_else(|| Problem::not_found("decision"))?;
    let key = reconciliation_row(&decision.purchase.source, &decision.purchase.authorization_id);
    decision.reconciliation = row(&app, Table::Reconciliations, key).await?;
    Ok(reply(StatusCode::OK, &decision))
}

/// Rows looked at for one page of a filtered list; where it bites, `next` reads on.
const MAX_LOOKED_AT: usize = 5_000;

/// The newest rows that a filter lets through.
pub(super) async fn filtered<T: DeserializeOwned + Send + 'static>(
    app: &App,
    table: Table,
    page: PageOf,
    is_wanted: impl Fn(&T) -> bool + Send + 'static,
) -> Result<Items<T>, Problem> {
    let store = app.store.clone();
    let PageOf { limit, mut after } = page;
    off_thread(move || {
        let (mut items, mut looked_at) = (Vec::new(), 0);
        loop {
            let rows = store.scan(table, "", after.as_deref(), limit.max(100), Order::Descending)?;
            let count = rows.rows.len();
            for (index, (key, row)) in rows.rows.into_iter().enumerate() {
                let item: T = parse_row(&row)?;
                if is_wanted(&item) {
                    items.push(item);
                }
                if items.len() == limit {
                    let is_more = index + 1 < count || rows.next.is_some();
                    return Ok(Items { items, next: is_more.then_some(key) });
                }
            }
            looked_at += count;
            after = rows.next;
            if after.is_none() || looked_at >= MAX_LOOKED_AT {
                return Ok(Items { items, next: after });
            }
        }
    })
    .await?
}
