//! `GET /v1/decisions/export`: a card's own history in the journal as CSV, for a dispute: each row with the number and the
//! hash of its record, so that `cardea journal verify` shows that nothing was changed since. What people did about an
//! alert is in the alert's history (`/v1/audit?subject=alert/…`).

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::App;
use super::access::Caller;
use super::cards::{READERS, field};
use super::error::{Problem, ProblemBody};
use super::wire::{Query, off_thread, param, time_param};
use crate::domain::Timestamp;
use crate::domain::card::CardId;
use crate::store::{ReadError, Recorded, Store, StorePosition};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportParams {
    /// The fleet's name of the card.
    #[param(value_type = String)]
    card_id: Option<String>,
    /// RFC 3339; records since then.
    from: Option<String>,
    /// RFC 3339; records before then.
    until: Option<String>,
    /// The journal position of the last row that is known already; the `Link` header of an answer that was cut has it.
    after: Option<String>,
}

/// Records read for one answer.
const MAX_RECORDS: usize = 10_000;
const READ_PAGE: usize = 1_000;
const COLUMNS: [&str; 19] = [
    "journal_position",
    "recorded_at",
    "by",
    "event",
    "decision_id",
    "authorization_id",
    "source",
    "purchased_at",
    "amount_minor",
    "currency",
    "vehicle_id",
    "merchant",
    "outcome",
    "reasons",
    "checks",
    "rule_version",
    "alert",
    "message_sha256",
    "journal_sha256",
];

#[utoipa::path(get, path = "/v1/decisions/export", tag = "decisions", operation_id = "export_decisions",
    params(ExportParams), responses(
    (status = 200, description = "One row for each thing on record, oldest first; `Link: …; rel=\"next\"` when there is more",
        content_type = "text/csv", body = String),
    (status = 400, body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn export(app: web::Data<App>, caller: Caller, query: Query<ExportParams>) -> Result<HttpResponse, Problem> {
    caller.require(READERS)?;
    let ExportParams { card_id, from, until, after } = query.0;
    let card_id = card_id.ok_or_else(|| Problem::invalid("card_id", "the card whose records are wanted"))?;
    let card: CardId = field("card_id", &card_id)?;
    let wanted = Wanted {
        stream: format!("card/{card}"),
        from: time_param("from", from.as_deref())?.unwrap_or(Timestamp(i64::MIN)),
        until: time_param("until", until.as_deref())?.unwrap_or(Timestamp(i64::MAX)),
    };
    let after = StorePosition(param::<u64>("after", after.as_deref())?.unwrap_or(0));
    let store = app.store.clone();
    let (text, next) = off_thread(move || wanted.write(&*store, after)).await??;
    let mut answer = HttpResponse::Ok();
    answer.content_type("text/csv; charset=utf-8");
    answer.insert_header(("Content-Disposition", format!("attachment; filename=\"card-{card}.csv\"")));
    if let Some(next) = next {
        let span = [("from", from), ("until", until)];
        let span: String = span.into_iter().filter_map(|(name, at)| Some(format!("&{name}={}", at?))).collect();
        let link = format!("</v1/decisions/export?card_id={card}{span}&after={next}>; rel=\"next\"");
        answer.insert_header(("Link", link));
    }
    Ok(answer.body(text))
}

struct Wanted {
    stream: String,
    from: Timestamp,
    until: Timestamp,
}

impl Wanted {
    fn write(&self, store: &dyn Store, mut after: StorePosition) -> Result<(Vec<u8>, Option<StorePosition>), Problem> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let broken = |error: &dyn std::fmt::Display| Problem::internal("csv", error);
        csv.write_record(COLUMNS).map_err(|error| broken(&error))?;
        for _ in 0..MAX_RECORDS / READ_PAGE {
            let records: Vec<Recorded> = store.read(&self.stream, after, READ_PAGE)?;
            let is_last = records.len() < READ_PAGE || records.last().is_some_and(|last| last.at >= self.until);
            for record in &records {
                after = record.position;
                if (self.from..self.until).contains(&record.at) {
                    for row in rows(record)? {
                        csv.write_record(&row).map_err(|error| broken(&error))?;
                    }
                }
            }
            if is_last {
                return Ok((csv.into_inner().map_err(|error| broken(&error))?, None));
            }
        }
        Ok((csv.into_inner().map_err(|error| broken(&error))?, Some(after)))
    }
}

/// One row for each event of the record.
fn rows(record: &Recorded) -> Result<Vec<Vec<String>>, ReadError> {
    let mut rows = Vec::new();
    for event in &record.events {
        let event: Value = serde_json::from_str(event.get())
            .map_err(|error| ReadError::Damaged(format!("record {}: {error}", record.position)))?;
        let about = ["decision", "posting", "reconciliation", "step_up", "card", "message"]
            .iter()
            .map(|name| &event[name])
            .find(|value| value.is_object())
            .unwrap_or(&Value::Null);
        let purchase = if about["purchase"].is_object() { &about["purchase"] } else { about };
        let first = |keys: &[&Value]| keys.iter().map(|value| text(value)).find(|text| !text.is_empty());
        let alert = &event["alert"];
        let checks =
            about["checks"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|check| {
                format!("{}={}: {}", text(&check["check"]), text(&check["verdict"]), text(&check["detail"]))
            });
        let told = if alert.is_object() {
            format!("{} {}: {}", text(&alert["kind"]), text(&alert["state"]), text(&alert["text"]))
        } else {
            String::new()
        };
        let row = [
            record.position.to_string(),
            record.at.to_string(),
            format!("{:?} {}", record.by.role, record.by.subject).to_lowercase(),
            text(&event["event"]),
            first(&[&about["decision_id"], &alert["decision_id"], &event["because"]]).unwrap_or_default(),
            text(&purchase["authorization_id"]),
            text(&purchase["source"]),
            text(&purchase["at"]),
            text(&purchase["amount"]["amount_minor"]),
            text(&purchase["amount"]["currency"]),
            first(&[&about["vehicle_id"], &alert["vehicle_id"]]).unwrap_or_default(),
            text(&purchase["merchant"]["name"]),
            first(&[&about["outcome"], &about["state"], &about["kind"], &about["status"]]).unwrap_or_default(),
            about["reasons"]
                .as_array()
                .map(|list| list.iter().map(text).collect::<Vec<_>>().join(" "))
                .unwrap_or_default(),
            checks.collect::<Vec<_>>().join(" | "),
            text(&about["rule_version"]),
            told,
            text(&about["body_sha256"]),
            record.hash.clone(),
        ];
        rows.push(row.into_iter().map(harmless).collect());
    }
    Ok(rows)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// A merchant chooses its own name, and a spreadsheet takes some beginnings for a formula.
fn harmless(text: String) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err() {
        true => format!("'{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_spreadsheet_would_run_is_disarmed_and_a_number_is_not() {
        assert_eq!(harmless("=HYPERLINK(\"x\")".into()), "'=HYPERLINK(\"x\")");
        assert_eq!(harmless("@cmd".into()), "'@cmd");
        assert_eq!(harmless("-500".into()), "-500");
        assert_eq!(harmless("Q8".into()), "Q8");
    }
}
