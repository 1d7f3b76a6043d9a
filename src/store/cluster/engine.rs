//! The NATS servers as the store sees them: one JetStream stream, whose sequence numbers are the journal's.
//!
//! It speaks the wire and says what an answer means for a record (stored, surely not, nobody knows). It decides nothing.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use super::super::OpenError;
use super::super::frame::MAX_BODY;
use super::subject::subject;
use crate::clock::Stopwatch;
use crate::config;

/// How long a gateway that starts waits for its servers.
const CONNECT_FOR: Duration = Duration::from_secs(30);
pub(super) const CONNECT_AGAIN: Duration = Duration::from_millis(500);
/// For one answer; the whole append has its own, longer time.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A publish that is sent again within this time is known as the same. The longest append is far shorter.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Headers beside a record of the largest size.
const HEADERS_MAX: usize = 4 * 1024;
const JOURNAL: &str = "cardea-journal";
/// How many records a migration brings.
const BEGINS_WITH: &str = "cardea-begins-with";
/// Tells the attempts of one append from those of another that happens to say the same.
pub const APPEND: &str = "Cardea-Append";
/// Which gateway wrote the record: for people, and for who checks that only owners write.
const NODE: &str = "Cardea-Node";
/// Carries the mark of a record that was copied from a single machine's journal.
pub const DURABLE: &str = "Cardea-Durable";

/// What became of one attempt to store a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    Stored(u64),
    /// The same message id was stored before, as this.
    Duplicate(u64),
    /// Surely not stored: the subject's last record is another one.
    WrongLast(u64),
    /// Surely not stored, for now: no leader, no connection.
    Away,
    /// Surely not stored: the engine has no room.
    NoRoom,
    /// Surely not stored: larger than the servers take.
    TooLarge,
    /// It was sent, and no answer came.
    Unsure,
}

#[derive(Debug, Clone)]
pub struct Engine {
    client: Client,
    context: jetstream::Context,
    name: String,
    prefix: String,
    node: String,
}

/// The stream as it is now.
#[derive(Debug, Clone)]
pub struct StreamState {
    pub journal: [u8; 16],
    pub last: u64,
    /// A migration has not brought everything yet.
    pub is_partial: bool,
}

#[derive(Debug, Deserialize)]
struct Ack {
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Debug, Deserialize)]
struct ApiError {
    code: u16,
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Engine {
    /// Connects, waiting for servers that are not there yet.
    pub async fn connect(config: &config::Cluster) -> Result<Self, OpenError> {
        let client = connect(config, &config.user, &config.password).await?;
        let largest = client.server_info().max_payload;
        if largest < MAX_BODY + HEADERS_MAX {
            return Err(OpenError::Engine(format!(
                "its servers take messages of {largest} bytes, and a record may have {MAX_BODY}: set max_payload to 8MB"
            )));
        }
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER_WITHIN);
        let prefix = format!("{}.r", config.stream.to_lowercase());
        Ok(Self { client, context, name: config.stream.clone(), prefix, node: config.node.clone() })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where gateways ask each other for tracks.
    pub fn track(&self) -> String {
        format!("{}.track", self.name.to_lowercase())
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Makes the stream if there is none; checks the one that is there.
    /// `begins_with`: so many records of another journal are to be in it before anybody may use it.
    pub async fn open_stream(
        &self,
        config: &config::Cluster,
        new_journal: [u8; 16],
        begins_with: u64,
    ) -> Result<StreamState, OpenError> {
        let watch = Stopwatch::start();
        loop {
            let problem = match self.find_or_make(config, new_journal, begins_with).await {
                Ok(info) => return check_stream(&info, config),
                Err(problem) => problem,
            };
            // Servers that have just started elect a leader first.
            if watch.elapsed() > CONNECT_FOR {
                return Err(OpenError::Engine(format!("the stream {}: {problem}", self.name)));
            }
            tokio::time::sleep(CONNECT_AGAIN).await;
        }
    }

    async fn find_or_make(
        &self,
        config: &config::Cluster,
        journal: [u8; 16],
        begins_with: u64,
    ) -> Result<stream::Info, String> {
        match self.context.get_stream(&self.name).await {
            Ok(found) => return Ok(found.cached_info().clone()),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
        let made = self.context.create_stream(stream::Config {
            name: self.name.clone(),
            description: Some("Cardea: every record of the journal, in order. Nothing of it may be deleted.".into()),
            subjects: vec![format!("{}.>", self.prefix)],
            num_replicas: config.replicas,
            storage: stream::StorageType::File,
            retention: stream::RetentionPolicy::Limits,
            discard: stream::DiscardPolicy::New,
            deny_delete: true,
            deny_purge: true,
            duplicate_window: DUPLICATE_WINDOW,
            metadata: HashMap::from([
                (JOURNAL.to_owned(), hex::encode(journal)),
                (BEGINS_WITH.to_owned(), begins_with.to_string()),
            ]),
            ..stream::Config::default()
        });
        match made.await {
            Ok(made) => Ok(made.cached_info().clone()),
            // Another gateway may have made it at the same time: the next look finds it.
            Err(error) => Err(error.to_string()),
        }
    }

    pub async fn state(&self) -> Result<StreamState, String> {
        let stream = self.context.get_stream(&self.name).await.map_err(|error| error.to_string())?;
        let info = stream.cached_info();
        let journal = journal_of(info).ok_or("it is not a stream of Cardea")?;
        Ok(state_of(info, journal))
    }

    /// The newest record under a name, as the servers' leader knows it; 0 = there is none.
    pub async fn last_of(&self, stream: &str) -> Result<u64, String> {
        let subject = subject(&self.prefix, stream);
        let of = self.context.get_stream_no_info(&self.name).await.map_err(|error| error.to_string())?;
        match of.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(message.sequence),
            Err(error) => match error.kind() {
                stream::LastRawMessageErrorKind::NoMessageFound => Ok(0),
                _ => Err(error.to_string()),
            },
        }
    }

    /// The body of a record that stands in the stream.
    pub async fn record(&self, number: u64) -> Result<Bytes, String> {
        self.whole(number).await.map(|(_, body)| body)
    }

    /// With what was said beside it.
    pub async fn whole(&self, number: u64) -> Result<(HeaderMap, Bytes), String> {
        let stream = self.context.get_stream_no_info(&self.name).await.map_err(|error| error.to_string())?;
        let message = stream.get_raw_message(number).await.map_err(|error| error.to_string())?;
        Ok((message.headers, message.payload))
    }

    /// Which append brought the record.
    pub async fn append_of(&self, number: u64) -> Result<Option<Uuid>, String> {
        let (headers, _) = self.whole(number).await?;
        Ok(headers.get(APPEND).and_then(|append| append.as_str().parse().ok()))
    }

    /// Tries once. `last`: what must be the newest record of the stream; `id`: by which a repeat is known; `append`: whose
    /// attempt it is.
    pub async fn publish(&self, stream: &str, last: Option<u64>, (id, append): (&str, Uuid), body: Bytes) -> Published {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id);
        headers.insert(APPEND, append.to_string());
        headers.insert(NODE, self.node.as_str());
        if let Some(last) = last {
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
        }
        self.send(subject(&self.prefix, stream), headers, body).await
    }

    /// Stores a record of another journal under its own number, or not at all.
    pub async fn copy(&self, stream: &str, number: u64, durable: u64, body: Bytes) -> Published {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, (number - 1).to_string());
        if durable > 0 {
            headers.insert(DURABLE, durable.to_string());
        }
        self.send(subject(&self.prefix, stream), headers, body).await
    }

    async fn send(&self, subject: String, headers: HeaderMap, body: Bytes) -> Published {
        // What is sent while there is no connection would wait in the client and go out at any later time.
        if !self.is_connected() {
            return Published::Away;
        }
        let request = Request::new().headers(headers).payload(body).timeout(Some(ANSWER_WITHIN));
        // The limit of the request itself begins when it has left.
        let sent = tokio::time::timeout(2 * ANSWER_WITHIN, self.client.send_request(subject, request)).await;
        let Ok(answered) = sent else { return Published::Unsure };
        match answered {
            Ok(answer) => understood(&answer.payload),
            Err(error) => match error.kind() {
                // Nobody listens: the stream has no leader.
                RequestErrorKind::NoResponders => Published::Away,
                RequestErrorKind::MaxPayloadExceeded => Published::TooLarge,
                RequestErrorKind::TimedOut | RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                    Published::Unsure
                }
            },
        }
    }

    pub async fn follow(&self, from: u64) -> Result<jetstream::consumer::pull::Ordered, String> {
        let stream = self.context.get_stream_no_info(&self.name).await.map_err(|error| error.to_string())?;
        let config = jetstream::consumer::pull::OrderedConfig {
            deliver_policy: jetstream::consumer::DeliverPolicy::ByStartSequence { start_sequence: from },
            // A server that dies says nothing: it is missed after as long as this.
            max_expires: FOLLOW_EXPIRES,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        consumer.messages().await.map_err(|error| error.to_string())
    }
}

/// The longest a read of the stream waits at its end before it asks again.
const FOLLOW_EXPIRES: Duration = Duration::from_secs(2);

pub(super) async fn connect(config: &config::Cluster, user: &str, password: &str) -> Result<Client, OpenError> {
    let mut options = ConnectOptions::new()
        .name(format!("cardea {}", config.node))
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|attempts| Duration::from_millis((attempts as u64 * 50).min(1_000)))
        .subscription_capacity(64 * 1024);
    if !user.is_empty() {
        options = options.user_and_password(user.to_owned(), password.to_owned());
    }
    if let Some(ca) = &config.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&config.client_cert, &config.client_key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    let watch = Stopwatch::start();
    loop {
        match options.clone().connect(&config.servers).await {
            Ok(client) => return Ok(client),
            Err(error) if watch.elapsed() > CONNECT_FOR => {
                return Err(OpenError::Engine(format!("no server of cluster.servers can be reached: {error}")));
            }
            Err(error) => tracing::warn!(%error, "the cluster's servers cannot be reached yet"),
        }
        tokio::time::sleep(CONNECT_AGAIN).await;
    }
}

fn is_not_found(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), jetstream::context::GetStreamErrorKind::JetStream(error)
        if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

fn state_of(info: &stream::Info, journal: [u8; 16]) -> StreamState {
    let last = info.state.last_sequence;
    let begins_with = info.config.metadata.get(BEGINS_WITH).and_then(|number| number.parse::<u64>().ok());
    StreamState { journal, last, is_partial: begins_with.is_some_and(|number| last < number) }
}

fn journal_of(info: &stream::Info) -> Option<[u8; 16]> {
    hex::decode(info.config.metadata.get(JOURNAL)?).ok()?.try_into().ok()
}

/// Is it the stream we need: ours, on enough servers, with no record missing and none that may go?
fn check_stream(info: &stream::Info, config: &config::Cluster) -> Result<StreamState, OpenError> {
    let (found, state) = (&info.config, &info.state);
    let refuse = |why: String| Err(OpenError::Engine(format!("the stream {}: {why}", found.name)));
    let Some(journal) = journal_of(info) else {
        return refuse(format!("it has no {JOURNAL} in its metadata, so it is not a stream of Cardea"));
    };
    if found.num_replicas < 3 && !config.accept_unsafe {
        return refuse(format!("it has {} copies, and a machine may fail: 3 or 5 are needed", found.num_replicas));
    }
    if found.storage != stream::StorageType::File {
        return refuse("it is kept in memory".into());
    }
    let may_lose = found.max_messages > 0
        || found.max_bytes > 0
        || found.max_messages_per_subject > 0
        || !found.max_age.is_zero()
        || found.retention != stream::RetentionPolicy::Limits;
    if may_lose || !found.deny_delete || !found.deny_purge {
        return refuse("it may drop records: it must have no limits, and deny deletes and purges".into());
    }
    if state.messages != state.last_sequence || (state.messages > 0 && state.first_sequence != 1) {
        return refuse(format!("it has {} records, but its last is number {}", state.messages, state.last_sequence));
    }
    Ok(state_of(info, journal))
}

/// What the server's answer to a publish says.
fn understood(answer: &[u8]) -> Published {
    const WRONG_LAST: u64 = 10_071;
    const WRONG_LAST_CONSTANT: u64 = 10_164;
    const INSUFFICIENT: [u64; 5] = [10_023, 10_028, 10_047, 10_077, 10_106];
    const TOO_LARGE: u64 = 10_054;
    let Ok(ack) = serde_json::from_slice::<Ack>(answer) else { return Published::Unsure };
    match ack.error {
        None if ack.seq == 0 => Published::Unsure,
        None if ack.duplicate => Published::Duplicate(ack.seq),
        None => Published::Stored(ack.seq),
        Some(error) => match error.err_code {
            WRONG_LAST | WRONG_LAST_CONSTANT => {
                // "wrong last sequence: 17"; without a number the copy here has to tell.
                let last = error.description.rsplit(' ').next().and_then(|last| last.parse().ok());
                Published::WrongLast(last.unwrap_or(0))
            }
            code if INSUFFICIENT.contains(&code) => Published::NoRoom,
            TOO_LARGE => Published::TooLarge,
            // Another of the same id is on its way, or there is no leader.
            _ if error.code == 503 || error.code == 409 => Published::Unsure,
            code => {
                tracing::warn!(code, error.description, "the engine refuses a record");
                Published::Unsure
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_servers_are_understood() {
        let say = |text: &str| understood(text.as_bytes());
        assert_eq!(say(r#"{"stream":"CARDEA","seq":17}"#), Published::Stored(17));
        assert_eq!(say(r#"{"stream":"CARDEA","seq":17,"duplicate":true}"#), Published::Duplicate(17));
        let wrong =
            r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"stream":"C","seq":0}"#;
        assert_eq!(say(wrong), Published::WrongLast(5));
        let full =
            r#"{"error":{"code":503,"err_code":10047,"description":"insufficient storage resources available"}}"#;
        assert_eq!(say(full), Published::NoRoom);
        assert_eq!(
            say(r#"{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}"#),
            Published::Unsure
        );
        assert_eq!(say("not JSON"), Published::Unsure);
        assert_eq!(say("{}"), Published::Unsure);
    }
}
