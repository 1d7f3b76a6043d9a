//! Do the servers keep what they acknowledge? Asked once at the start, of their system account.
//!
//! A NATS server that syncs its files now and then (its default is every two minutes) acknowledges records that a power
//! cut takes away again; three of them that lose power together lose the records of all.

use std::time::Duration;

use serde::Deserialize;

use super::super::OpenError;
use super::engine::{CONNECT_AGAIN, connect};
use crate::clock::Stopwatch;
use crate::config;

const ASK: &str = "$SYS.REQ.SERVER.PING.JSZ";
/// Servers answer in milliseconds; nobody says how many will.
const QUIET: Duration = Duration::from_millis(500);
const FIRST: Duration = Duration::from_secs(5);
/// How long a start waits for most of the servers to be there.
const MAJORITY_WITHIN: Duration = Duration::from_secs(15);
const OLDEST: (u64, u64) = (2, 12);

#[derive(Debug, Deserialize)]
struct Answer {
    server: Server,
    data: Option<JetStream>,
}

#[derive(Debug, Deserialize)]
struct Server {
    name: String,
    #[serde(default)]
    ver: String,
}

#[derive(Debug, Deserialize)]
struct JetStream {
    #[serde(default)]
    disabled: bool,
    config: Option<JetStreamConfig>,
}

#[derive(Debug, Deserialize)]
struct JetStreamConfig {
    #[serde(default)]
    sync_always: bool,
}

/// Refuses servers that do not sync every write, or are too old to fence as we need it.
pub async fn check(config: &config::Cluster) -> Result<(), OpenError> {
    if config.system_user.is_empty() {
        // The config's own check asked for accept_unsafe.
        tracing::warn!("cluster.accept_unsafe: nobody asked whether the servers sync every write");
        return Ok(());
    }
    let needed = config.replicas / 2 + 1;
    let watch = Stopwatch::start();
    // The server that is asked may be cut from the others just now.
    let (answers, keep) = loop {
        let answers = ask(config).await?;
        let keep = answers.iter().filter(|answer| answer.data.as_ref().is_some_and(|data| !data.disabled)).count();
        if keep >= needed || config.accept_unsafe || watch.elapsed() > MAJORITY_WITHIN {
            break (answers, keep);
        }
        tokio::time::sleep(CONNECT_AGAIN).await;
    };
    let mut problems: Vec<String> = answers.iter().filter_map(problem).collect();
    if keep < needed {
        problems.push(format!("{keep} servers with JetStream say how they sync, and {needed} must be there"));
    }
    match (problems.as_slice(), config.accept_unsafe) {
        ([], _) => Ok(()),
        (problems, true) => {
            tracing::warn!(problems = problems.join("; "), "cluster.accept_unsafe: records can be lost");
            Ok(())
        }
        (problems, false) => Err(OpenError::Engine(format!(
            "{}. Records could be lost; cluster.accept_unsafe starts all the same",
            problems.join("; ")
        ))),
    }
}

async fn ask(config: &config::Cluster) -> Result<Vec<Answer>, OpenError> {
    use futures_util::StreamExt;
    let failed = |problem: String| OpenError::Engine(format!("the servers' system account: {problem}"));
    let client = connect(config, &config.system_user, &config.system_password).await?;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
    let asked = client.publish_with_reply(ASK, inbox, "{\"config\":true}".into()).await;
    asked.map_err(|error| failed(error.to_string()))?;
    let mut heard = Vec::new();
    let mut patience = FIRST;
    while let Ok(Some(answer)) = tokio::time::timeout(patience, answers.next()).await {
        if answer.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            break;
        }
        let answer = serde_json::from_slice(&answer.payload).map_err(|error| failed(format!("its answer: {error}")))?;
        heard.push(answer);
        patience = QUIET;
    }
    if heard.is_empty() {
        return Err(failed("no server answers; is cluster.system_user of the system account?".into()));
    }
    Ok(heard)
}

fn problem(answer: &Answer) -> Option<String> {
    let Answer { server: Server { name, ver }, data } = answer;
    let config = match data {
        Some(JetStream { disabled: false, config }) => config.as_ref(),
        // One that keeps nothing.
        Some(JetStream { disabled: true, .. }) | None => return None,
    };
    let mut numbers = ver.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Some(format!("the server {name} is of version {ver}, and {}.{} is needed", OLDEST.0, OLDEST.1));
    }
    let is_safe = config.is_some_and(|config| config.sync_always);
    (!is_safe)
        .then(|| format!("the server {name} does not sync every write: set sync_interval: always in its jetstream"))
}
