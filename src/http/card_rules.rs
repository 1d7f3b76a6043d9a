//! `/v1/card-rules`: what the card guard judges by, which versions there were, and what a draft would have changed.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::cards::{PageQuery, READERS, WRITERS};
use super::error::{Problem, ProblemBody};
use super::wire::{Items, Json, PageOf, Query, idempotency, off_thread, parse_row, path_text, reply, row};
use crate::actors::card_guard::{
    ACTIVE_RULES, Edit, Edited, RULE_VERSIONS, RuleOrigin, RuleVersion, parse_rules, rule_version_row,
};
use crate::domain::Timestamp;
use crate::domain::card::{Decision, RuleBook, judge};
use crate::store::{Order, Store, Table};

/// `{"version":"2026-11-1","text":"version = \"2026-11-1\"\n…","origin":"file","activated_at":"…","is_active":true}`
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleVersionBody {
    /// What decisions name; its text never changes.
    pub version: String,
    /// TOML, as `config/card-rules.toml` explains it.
    pub text: String,
    /// `file` (the operator's, or the rules built in) or `http`.
    pub origin: String,
    #[schema(format = DateTime)]
    pub activated_at: String,
    pub activated_by: String,
    pub is_active: bool,
    /// Of the active version: why the operator's file is not in force, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_problem: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RuleVersionPage {
    pub items: Vec<RuleVersionBody>,
    pub next: Option<String>,
}

/// `{"text":"version = \"2026-12-1\"\n…"}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRules {
    /// TOML; at most 64 KiB.
    pub text: String,
}

#[utoipa::path(get, path = "/v1/card-rules", tag = "card-rules", operation_id = "list_card_rules",
    description = "Every version that was ever in force, by name; one of them is active.",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = RuleVersionPage)))]
pub async fn list(app: web::Data<App>, caller: Caller, query: Query<PageQuery>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let PageOf { limit, after } = query.0.page()?;
    let store = app.store.clone();
    let after = after.map(|version| rule_version_row(&version));
    let scan = move || store.scan(Table::CardRules, RULE_VERSIONS, after.as_deref(), limit, Order::Ascending);
    let page = off_thread(scan).await??;
    let next = page.next.as_deref().and_then(|key| key.strip_prefix(RULE_VERSIONS)).map(ToOwned::to_owned);
    let items: Result<Vec<_>, Problem> =
        page.rows.iter().map(|(_, row)| Ok(body(&app, &parse_row::<RuleVersion>(row)?))).collect();
    Ok(reply(StatusCode::OK, &Items { items: items?, next }))
}

#[utoipa::path(get, path = "/v1/card-rules/{version}", tag = "card-rules", operation_id = "get_card_rules",
    description = "One version by its name; `active` names the one in force.",
    params(("version" = String, Path)), responses(
    (status = 200, body = RuleVersionBody),
    (status = 404, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn get(app: web::Data<App>, request: HttpRequest, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let name = path_text(&request, "version");
    if name == ACTIVE_RULES {
        return Ok(reply(StatusCode::OK, &body(&app, &app.guard.rule_version().0)));
    }
    let version = row::<RuleVersion>(&app, Table::CardRules, rule_version_row(&name)).await?;
    Ok(reply(StatusCode::OK, &body(&app, &version.ok_or_else(|| Problem::not_found("version"))?)))
}

#[utoipa::path(post, path = "/v1/card-rules", tag = "card-rules", operation_id = "activate_card_rules",
    description = "Brings rules into force. A name that had another text before gets a mark of its text behind it.",
    request_body = NewRules, responses(
    (status = 201, body = RuleVersionBody),
    (status = 400, body = ProblemBody, content_type = "application/problem+json"),
    (status = 503, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn activate(
    app: web::Data<App>,
    request: HttpRequest,
    caller: Caller,
    new: Json<NewRules>,
) -> Result<HttpResponse, Problem> {
    caller.require(WRITERS)?;
    let key = idempotency(&request, &caller, "card-rules", &new.hash)?;
    let edit = Edit::SetRules { text: new.value.text, origin: RuleOrigin::Http };
    let Edited::Rules(version) = app.guard.edit(edit, caller.principal, key).await? else {
        return Err(Problem::internal("edit", &"new rules led to something else"));
    };
    Ok(reply(StatusCode::CREATED, &body(&app, &version)))
}

/// `{"text":"version = \"draft\"\n…","from":"2026-11-01T00:00:00Z","limit":1000}`
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Try {
    /// The draft, as TOML.
    pub text: String,
    /// Purchases decided since then; absent = all.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Purchases decided before then; absent = now.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// How many purchases are judged, the newest first; 1 to 10000, 1000 if absent.
    pub limit: Option<usize>,
}

/// What a draft would have said.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tried {
    /// Purchases that were judged again.
    pub judged: usize,
    /// Purchases whose inputs were not recorded: answered without a judgement, or before inputs were kept.
    pub skipped: usize,
    /// How many came to the same outcome.
    pub unchanged: usize,
    /// Those that did not, the newest first; at most 1000 of them.
    pub changed: Vec<Changed>,
    /// All that changed, also beyond those listed.
    pub changed_total: usize,
    /// There were more purchases than are looked at in one go: narrow the time.
    pub is_cut: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Changed {
    pub decision_id: String,
    #[schema(format = DateTime)]
    pub at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vehicle_id: Option<String>,
    pub before: Judged,
    pub after: Judged,
}

#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct Judged {
    pub outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_minor: Option<i64>,
    pub reasons: Vec<String>,
}

const MAX_TRIED: usize = 10_000;
const MAX_LISTED: usize = 1_000;
/// Rows read for one try.
const MAX_LOOKED_AT: usize = 20_000;

/// The smallest UUIDv7 of a moment.
fn first_id_of(at: Timestamp) -> String {
    let ms = at.0.max(0) as u64;
    format!("{:08x}-{:04x}", (ms >> 16) & 0xffff_ffff, ms & 0xffff)
}

#[utoipa::path(post, path = "/v1/card-rules/try", tag = "card-rules", operation_id = "try_card_rules",
    description = "Judges recorded purchases again under a draft, by what was known then. Nothing is changed by it.",
    request_body = Try, responses(
    (status = 200, body = Tried),
    (status = 400, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn try_out(app: web::Data<App>, caller: Caller, draft: Json<Try>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let Try { text, from, until, limit } = draft.value;
    let limit = limit.unwrap_or(1_000);
    if !(1..=MAX_TRIED).contains(&limit) {
        return Err(Problem::invalid("limit", format!("1 to {MAX_TRIED}")));
    }
    let book = parse_rules(&text).map_err(|problem| Problem::invalid("text", problem))?;
    let store = app.store.clone();
    let is_meant = move |at: Timestamp| from.is_none_or(|from| at >= from) && until.is_none_or(|until| at < until);
    let tried = off_thread(move || try_on(&*store, &book, limit, from, until, is_meant)).await??;
    Ok(reply(StatusCode::OK, &tried))
}

fn try_on(
    store: &dyn Store,
    book: &RuleBook,
    limit: usize,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    is_meant: impl Fn(Timestamp) -> bool,
) -> Result<Tried, Problem> {
    let mut tried = Tried { judged: 0, skipped: 0, unchanged: 0, changed: Vec::new(), changed_total: 0, is_cut: false };
    // Ids begin with the time they were made at, so that later ones need not be read.
    let mut after: Option<String> = until.map(first_id_of);
    let mut looked_at = 0;
    loop {
        let page = store.scan(Table::Decisions, "", after.as_deref(), 500, Order::Descending)?;
        for (_, row) in &page.rows {
            let decision: Decision = parse_row(row)?;
            if from.is_some_and(|from| decision.at < from) || tried.judged >= limit {
                return Ok(tried);
            }
            if is_meant(decision.at) {
                tried.judge(&decision, book);
            }
        }
        looked_at += page.rows.len();
        if looked_at >= MAX_LOOKED_AT {
            tried.is_cut = true;
            return Ok(tried);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(tried),
        }
    }
}

impl Tried {
    fn judge(&mut self, decision: &Decision, book: &RuleBook) {
        // An increment's answer rests on what was approved before as well.
        // Nor is there anything to compare where the answer was none of a judgement.
        let was_judged = decision.follows.is_none() && !decision.ruling.checks.is_empty();
        let Some(inputs) = decision.inputs.as_ref().filter(|_| was_judged) else {
            self.skipped += 1;
            return;
        };
        let ruling = judge(decision.at, &decision.purchase, inputs, book.for_class(inputs.vehicle_class()));
        self.judged += 1;
        let of = |ruling: &crate::domain::card::Ruling| Judged {
            outcome: ruling.outcome.name().into(),
            cap_minor: ruling.cap_minor,
            reasons: ruling.reasons.clone(),
        };
        let (before, after) = (of(&decision.ruling), of(&ruling));
        if (&before.outcome, before.cap_minor) == (&after.outcome, after.cap_minor) {
            self.unchanged += 1;
            return;
        }
        self.changed_total += 1;
        if self.changed.len() < MAX_LISTED {
            self.changed.push(Changed {
                decision_id: decision.decision_id.to_string(),
                at: decision.at.to_string(),
                vehicle_id: decision.vehicle_id.as_ref().map(ToString::to_string),
                before,
                after,
            });
        }
    }
}

fn body(app: &App, version: &RuleVersion) -> RuleVersionBody {
    let (active, file_problem) = app.guard.rule_version();
    let is_active = active.version == version.version;
    RuleVersionBody {
        version: version.version.clone(),
        text: version.text.clone(),
        origin: match version.origin {
            RuleOrigin::File => "file".into(),
            RuleOrigin::Http => "http".into(),
        },
        activated_at: version.activated_at.to_string(),
        activated_by: version.by.subject.clone(),
        is_active,
        file_problem: file_problem.filter(|_| is_active),
    }
}
