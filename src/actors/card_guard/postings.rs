//! What networks post after their questions, messages nobody understands, and answers given without a record.

use super::{GuardError, GuardHandle, raw};
use crate::domain::card::{AuthorizationId, Posting, Unreadable};
use crate::domain::{Principal, Role, Timestamp};
use crate::store::{Append, AppendError, Expected, Idempotency};

/// What became of a posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    pub is_repeat: bool,
}

/// The network was answered although nothing could be recorded: the configured fallback.
#[derive(Debug, Clone, PartialEq)]
pub struct FellBack {
    pub source: String,
    pub authorization_id: AuthorizationId,
    /// The network's id of its message.
    pub source_event: String,
    pub at: Timestamp,
    pub answer_approved: bool,
    /// Like `storage`, `busy` or `late`.
    pub why: &'static str,
}

impl GuardHandle {
    /// Takes what a network posted. It is durable when this returns; the same posting again is a repeat.
    pub async fn post(&self, posting: Posting) -> Result<Posted, GuardError> {
        let key = format!("{}/posting/{}", posting.source, posting.posting_id);
        let subject = posting.authorization_id.as_ref().map_or("none", |id| id.as_str());
        let stream = format!("posting/{subject}");
        let body = serde_json::json!({"event": "posting_taken", "posting": &posting});
        self.note_once(key, stream, &posting.source, &body).await
    }

    /// Takes note of a message of a known source that cannot be understood; repeats of one body are one.
    pub async fn unreadable(&self, message: Unreadable) -> Result<(), GuardError> {
        let key = format!("{}/unreadable/{}", message.source, message.body_sha256);
        let stream = format!("unreadable/{}", message.source);
        let body = serde_json::json!({"event": "message_unreadable", "message": &message});
        self.note_once(key, stream, &message.source, &body).await.map(|_| ())
    }

    /// Takes note of an answer that was given without a record, to be recorded as soon as that is possible.
    pub fn fell_back(&self, fell: FellBack) {
        let FellBack { source, authorization_id, source_event, answer_approved, why, .. } = fell;
        tracing::warn!(source, authorization = %authorization_id, source_event, answer_approved, why, "fell back");
    }

    async fn note_once(
        &self,
        key: String,
        stream: String,
        source: &str,
        event: &serde_json::Value,
    ) -> Result<Posted, GuardError> {
        let step = Append {
            stream,
            expected: Expected::Any,
            fence: None,
            at: self.shared.clock.now(),
            by: Principal { role: Role::Payment, subject: source.to_owned() },
            idempotency: Some(Idempotency { key, body: "posting".into(), answer: raw(&true)? }),
            events: vec![raw(event)?],
            view: Vec::new(),
        };
        match self.shared.store.append(step).await {
            Ok(_) => Ok(Posted { is_repeat: false }),
            Err(AppendError::Duplicate { .. }) => Ok(Posted { is_repeat: true }),
            Err(error) => Err(error.into()),
        }
    }
}
