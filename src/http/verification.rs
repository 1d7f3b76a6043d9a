//! `/v1/audit/verification`: walks the whole hash chain of the journal beside the running gateway, and says how it went.
//!
//! One walk at a time. Its outcome is in memory until the next, and in the journal for good.

use std::sync::{Arc, Mutex};

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::json;
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::App;
use super::access::Caller;
use super::access::rate::lock;
use super::error::{Problem, Slug};
use super::wire::{off_thread, reply};
use crate::checkpoints::{self, CheckpointError, Fault, Witnesses};
use crate::domain::{Principal, Role, Timestamp};
use crate::store::{Append, Expected, OpenError, Verified, journal_bytes};

/// `{"state":"intact","started_at":"…","finished_at":"…","records":1042,"bytes":912384,"of_bytes":912384,"last_hash":"…"}`
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct VerificationBody {
    state: VerificationState,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    /// Looked at so far.
    records: u64,
    bytes: u64,
    of_bytes: u64,
    /// Hex SHA-256 of the newest record looked at: whoever noted it can tell later that nothing before it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_hash: Option<String>,
    /// Signed checkpoints that it was compared with, all of which it agrees with; absent where none are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoints: Option<u64>,
    /// What is wrong, or why it could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// None since the gateway started.
    #[default]
    None,
    Running,
    Intact,
    Damaged,
    /// The journal could not be read to its end; that says nothing of what is in it.
    Failed,
}

/// The newest walk.
#[derive(Debug, Default)]
pub struct Verification(Mutex<VerificationBody>);

impl Verification {
    fn get(&self) -> VerificationBody {
        lock(&self.0).clone()
    }

    /// False while one runs.
    fn begin(&self, now: Timestamp) -> bool {
        let mut body = lock(&self.0);
        if body.state == VerificationState::Running {
            return false;
        }
        *body = VerificationBody {
            state: VerificationState::Running,
            started_at: Some(now),
            ..VerificationBody::default()
        };
        true
    }

    fn saw(&self, records: u64, bytes: u64) {
        let mut body = lock(&self.0);
        (body.records, body.bytes) = (records, bytes);
    }

    fn end(&self, outcome: Result<(Verified, Option<usize>), Fault>, now: Timestamp) -> VerificationBody {
        let mut body = lock(&self.0);
        body.finished_at = Some(now);
        match outcome {
            Ok((verified, checkpoints)) => {
                body.checkpoints = checkpoints.map(|count| count as u64);
                body.state = VerificationState::Intact;
                (body.records, body.bytes, body.of_bytes) = (verified.records, verified.bytes, verified.bytes);
                body.last_hash = Some(verified.last_hash);
            }
            Err(Fault::Witnesses(error)) => {
                let is_damage = matches!(error, CheckpointError::Disagrees { .. });
                body.state = if is_damage { VerificationState::Damaged } else { VerificationState::Failed };
                tracing::error!(%error, "the journal was compared with its checkpoints");
                body.problem = Some(match error {
                    CheckpointError::Disagrees { line, at, why, .. } => {
                        format!("the journal is not what the checkpoint of {at} (line {line}) witnessed: {why}")
                    }
                    CheckpointError::Damaged { line, why, .. } => {
                        format!("line {line} of the checkpoints is damaged: {why}")
                    }
                    CheckpointError::Io { error, .. } => format!("the checkpoints cannot be read: {error}"),
                });
            }
            Err(Fault::Journal(error)) => {
                let is_damage = matches!(error, OpenError::Damaged { .. } | OpenError::Missing { .. });
                body.state = if is_damage { VerificationState::Damaged } else { VerificationState::Failed };
                tracing::error!(%error, "the journal was looked through");
                // The whole sentence names paths of this machine, so that it is for the log.
                body.problem = Some(match error {
                    OpenError::Damaged { segment, offset, why } => {
                        let name = segment.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        format!("segment {name} is damaged at byte {offset}: {why}")
                    }
                    OpenError::Missing { why, .. } => format!("the journal is not whole: {why}"),
                    OpenError::Io { action, error, .. } => format!("{action} a file of the journal: {error}"),
                    OpenError::Locked { .. } => "the data directory is in use".into(),
                    // The copy here is looked through, not the engine.
                    OpenError::Engine(why) => why,
                });
            }
        }
        body.clone()
    }
}

#[utoipa::path(get, path = "/v1/audit/verification", tag = "audit",
    responses((status = 200, body = VerificationBody)))]
pub async fn get(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin, Role::Auditor])?;
    Ok(reply(StatusCode::OK, &app.verification.get()))
}

#[utoipa::path(post, path = "/v1/audit/verification", tag = "audit", responses(
    (status = 202, body = VerificationBody, description = "It is under way"),
))]
pub async fn start(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.require(&[Role::Admin, Role::Auditor])?;
    if !app.verification.begin(app.clock.now()) {
        return Err(Problem::new(Slug::Conflict, "a verification is under way"));
    }
    let body = app.verification.get();
    actix_web::rt::spawn(run(app.get_ref().clone(), caller.principal));
    Ok(reply(StatusCode::ACCEPTED, &body))
}

/// Records between two looks at how far it is.
const TELL_EVERY: u64 = 1_000;

/// Walks the chain, comparing it with the checkpoints where there are any; their number comes along. Blocks.
fn walk(app: &App, seen: &Verification) -> Result<(Verified, Option<usize>), Fault> {
    let dir = &app.config.data.dir;
    let file = app.config.audit.checkpoints.as_deref();
    lock(&seen.0).of_bytes = journal_bytes(dir).unwrap_or(0);
    let witnesses = file.map(|file| Witnesses::read(file, &app.keyset)).transpose()?;
    checkpoints::verify(dir, witnesses, &mut |passed| {
        if passed.record.is_multiple_of(TELL_EVERY) {
            seen.saw(passed.record, passed.bytes);
        }
    })
}

async fn run(app: App, by: Principal) {
    let (of, seen) = (app.clone(), Arc::clone(&app.verification));
    let outcome = match off_thread(move || walk(&of, &seen)).await {
        Ok(outcome) => outcome,
        Err(problem) => Err(Fault::Journal(OpenError::Io {
            action: "cannot walk",
            path: app.config.data.dir.clone(),
            error: std::io::Error::other(problem.detail),
        })),
    };
    let body = app.verification.end(outcome, app.clock.now());
    let VerificationBody { state, records, bytes, last_hash, problem, .. } = body;
    let event = json!({"event": "journal_verified", "state": state, "records": records, "bytes": bytes,
        "last_hash": last_hash, "problem": problem});
    let Ok(event) = to_raw_value(&event) else { return };
    let append = Append {
        stream: "journal".into(),
        expected: Expected::Any,
        fence: None,
        at: app.clock.now(),
        by,
        idempotency: None,
        events: vec![event],
        view: Vec::new(),
    };
    if let Err(error) = app.store.append(append).await {
        tracing::warn!(%error, "the outcome of a verification could not be written down");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_walk_at_a_time_and_damage_is_told_from_failure() {
        let verification = Verification::default();
        assert!(verification.begin(Timestamp(1)));
        assert!(!verification.begin(Timestamp(2)), "one is under way");
        verification.saw(5, 100);
        assert_eq!((verification.get().records, verification.get().bytes), (5, 100));
        let damaged =
            OpenError::Damaged { segment: "/secret/place/7.seg".into(), offset: 9, why: "its sum is wrong".into() };
        let body = verification.end(Err(Fault::Journal(damaged)), Timestamp(3));
        assert_eq!(body.state, VerificationState::Damaged);
        assert_eq!(body.problem.as_deref(), Some("segment 7.seg is damaged at byte 9: its sum is wrong"));
        assert!(verification.begin(Timestamp(4)));
        let failed = OpenError::Io { action: "cannot read", path: "x".into(), error: std::io::Error::other("gone") };
        assert_eq!(verification.end(Err(Fault::Journal(failed)), Timestamp(5)).state, VerificationState::Failed);
    }
}
