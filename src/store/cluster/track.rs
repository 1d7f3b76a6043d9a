//! The track of a vehicle, wherever it was when it was there: each gateway keeps what its own sessions brought, and who wants
//! to know asks all of them.
//!
//! Observations are not promises. What a gateway that is away kept is missing until it is back, and nobody waits for it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::super::local::LocalStore;
use super::super::{Observation, ReadError, Store};
use crate::domain::{Timestamp, VehicleId};

/// After the last answer, or without any; others on one network answer in a few milliseconds.
const QUIET: Duration = Duration::from_millis(150);
/// The most that all answers together may take.
const AT_MOST: Duration = Duration::from_secs(1);
/// Points in one answer: about a quarter of a kilobyte each, and far below what the servers take.
const POINTS_MAX: usize = 10_000;
/// Questions of others that are answered at once; more are refused, so that what others draw does not hold up what happens here.
const AT_ONCE_MAX: usize = 32;
/// Says in an answer without points that nobody looked whether there are any.
const REFUSED: &str = "Cardea-Refused";
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
pub async fn answer(client: Client, subject: String, local: Weak<LocalStore>, process: uuid::Uuid) {
    let at_once = Arc::new(Semaphore::new(AT_ONCE_MAX));
    while local.strong_count() > 0 {
        if let Ok(mut questions) = client.subscribe(subject.clone()).await {
            while let Some(message) = questions.next().await {
                let Some(local) = local.upgrade() else { return };
                let Ok(question) = serde_json::from_slice::<Question>(&message.payload) else { continue };
                if question.process == process {
                    continue;
                }
                match Arc::clone(&at_once).try_acquire_owned() {
                    Ok(permit) => {
                        let answering = answer_one(client.clone(), message, question, local);
                        tokio::spawn(async move {
                            answering.await;
                            drop(permit);
                        });
                    }
                    Err(_) => refuse(&client, message).await,
                }
            }
        }
        tokio::time::sleep(SUBSCRIBE_AGAIN).await;
    }
}

async fn refuse(client: &Client, message: Message) {
    let Some(reply) = message.reply else { return };
    let mut headers = HeaderMap::new();
    headers.insert(REFUSED, "too many questions at once");
    if let Err(error) = client.publish_with_headers(reply, headers, "[]".into()).await {
        tracing::debug!(%error, "a refusal for another gateway is lost");
    }
}

async fn answer_one(client: Client, message: Message, question: Question, local: Arc<LocalStore>) {
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

/// What the others have, in no order. Refused when one of them has too much to do to look whether it has something.
pub async fn ask(client: &Client, subject: String, question: &Question) -> Result<Vec<Observation>, ReadError> {
    let mut found = Vec::new();
    let inbox = client.new_inbox();
    let Ok(text) = serde_json::to_vec(question) else { return Ok(found) };
    if client.connection_state() != async_nats::connection::State::Connected {
        return Ok(found);
    }
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Ok(found) };
    if client.publish_with_reply(subject, inbox, text.into()).await.is_err() {
        return Ok(found);
    }
    let gathering = async {
        while let Ok(Some(answer)) = tokio::time::timeout(QUIET, answers.next()).await {
            // Nobody but us is there.
            if answer.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                break;
            }
            if answer.headers.as_ref().is_some_and(|headers| headers.get(REFUSED).is_some()) {
                return Err(ReadError::Unavailable("another gateway is asked for too many tracks at once".into()));
            }
            match serde_json::from_slice::<Vec<Observation>>(&answer.payload) {
                Ok(points) => found.extend(points),
                Err(error) => tracing::warn!(%error, "another gateway's track cannot be read"),
            }
        }
        Ok(())
    };
    match tokio::time::timeout(AT_MOST, gathering).await {
        Ok(gathered) => gathered?,
        Err(_) => tracing::debug!("not every gateway answered in time"),
    }
    Ok(found)
}
