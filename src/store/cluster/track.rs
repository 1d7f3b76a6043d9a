//! The track of a vehicle, wherever it was when it was there: each gateway keeps what its own sessions brought, and who wants
//! to know asks all of them.
//!
//! Observations are not promises. What a gateway that is away kept is missing until it is back, and nobody waits for it.

use std::time::Duration;

use async_nats::{Client, Message};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::super::local::LocalStore;
use super::super::{Observation, Store};
use crate::domain::{Timestamp, VehicleId};

/// After the last answer, or without any; others on one network answer in a few milliseconds.
const QUIET: Duration = Duration::from_millis(150);
/// The most that all answers together may take.
const AT_MOST: Duration = Duration::from_secs(1);
/// Points in one answer: about a quarter of a kilobyte each, and far below what the servers take.
const POINTS_MAX: usize = 10_000;
/// Questions of others that wait; more are not answered.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    pub vehicle: VehicleId,
    pub from: Timestamp,
    pub until: Timestamp,
    pub limit: usize,
    /// Who asks, and needs no answer of its own.
    pub process: uuid::Uuid,
}

/// Answers what the others ask, for as long as the store lives.
pub async fn answer(client: Client, subject: String, local: std::sync::Weak<LocalStore>, process: uuid::Uuid) {
    while local.strong_count() > 0 {
        if let Ok(mut questions) = client.subscribe(subject.clone()).await {
            while let Some(message) = questions.next().await {
                let Some(local) = local.upgrade() else { return };
                let Ok(question) = serde_json::from_slice::<Question>(&message.payload) else { continue };
                if question.process != process {
                    tokio::spawn(answer_one(client.clone(), message, question, local));
                }
            }
        }
        tokio::time::sleep(SUBSCRIBE_AGAIN).await;
    }
}

async fn answer_one(client: Client, message: Message, question: Question, local: std::sync::Arc<LocalStore>) {
    let Some(reply) = message.reply else { return };
    let Question { vehicle, from, until, limit, .. } = question;
    let found = tokio::task::spawn_blocking(move || local.observations(&vehicle, from, until, limit.min(POINTS_MAX)));
    let found = match found.await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(%error, "another gateway asks for a track that cannot be read");
            return;
        }
        Err(_) => return,
    };
    if let Ok(text) = serde_json::to_vec(&found)
        && let Err(error) = client.publish(reply, text.into()).await
    {
        tracing::warn!(%error, "a track for another gateway is lost");
    }
}

/// What the others have, in no order.
pub async fn ask(client: &Client, subject: String, question: &Question) -> Vec<Observation> {
    let mut found = Vec::new();
    let inbox = client.new_inbox();
    let Ok(text) = serde_json::to_vec(question) else { return found };
    if client.connection_state() != async_nats::connection::State::Connected {
        return found;
    }
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return found };
    if client.publish_with_reply(subject, inbox, text.into()).await.is_err() {
        return found;
    }
    let gathering = async {
        while let Ok(Some(answer)) = tokio::time::timeout(QUIET, answers.next()).await {
            // Nobody but us is there.
            if answer.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                break;
            }
            match serde_json::from_slice::<Vec<Observation>>(&answer.payload) {
                Ok(points) => found.extend(points),
                Err(error) => tracing::warn!(%error, "another gateway's track cannot be read"),
            }
        }
    };
    if tokio::time::timeout(AT_MOST, gathering).await.is_err() {
        tracing::debug!("not every gateway answered in time");
    }
    found
}
