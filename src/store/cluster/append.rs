//! One append to the engine: admit, send, understand, and send again until it is known what became of it or time is up.
//!
//! Whether a record that nobody answered for was stored is found out by its message id (the engine knows a repeat) and by
//! what stands in its stream; only what cannot be found out in time is `Unknown`.
//!
//! The engine forgets message ids after minutes, and a gateway can be halted for longer at any point, also between a look and
//! the attempt that relies on it. So each attempt that may be a repeat names the newest record of its stream that was looked
//! at: whatever came into the stream since then, our own earlier attempt too, makes the engine refuse it, and is looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use uuid::Uuid;

use super::super::feed::Patience;
use super::super::ledger::End;
use super::super::metrics::count;
use super::super::{Append, AppendError, Epoch, Expected, ReadError, StorePosition, record};
use super::engine::Published;
use super::{ENGINE, Inner};
use crate::clock::Stopwatch;
use crate::domain::VehicleId;

/// Between attempts while the engine elects a leader or the connection is being made again.
const AGAIN: Duration = Duration::from_millis(50);
/// How often the copy is looked at while a record is awaited.
const LOOK: Duration = Duration::from_millis(1);
/// How long somebody waits for the view that tells which records a stream has.
const VIEW: Patience = Patience { turn: Duration::from_secs(2), turns: 2 };
/// Records of one stream that are looked at in one go.
const PAGE: usize = 1_000;

/// A step on its way.
pub struct Request {
    stream: String,
    expected: Expected,
    fence: Option<(VehicleId, Epoch)>,
    /// The idempotency key and the hash of the caller's body.
    key: Option<(String, String)>,
    /// By which the engine knows a repeat: the same for the same idempotency key at every gateway.
    id: String,
    append: Uuid,
    body: Bytes,
}

impl Request {
    pub fn new(step: &Append, body: Vec<u8>, nonce: Uuid) -> Self {
        let key = step.idempotency.as_ref().map(|given| (given.key.clone(), given.body.clone()));
        let id = match &key {
            Some((key, _)) => hex::encode(&digest(&SHA256, key.as_bytes()).as_ref()[..16]),
            None => nonce.simple().to_string(),
        };
        Self {
            stream: step.stream.clone(),
            expected: step.expected,
            fence: step.fence.clone(),
            key,
            id,
            append: nonce,
            body: body.into(),
        }
    }
}

type Outcome = Result<StorePosition, AppendError>;

pub async fn append(inner: &Arc<Inner>, request: &Request) -> Outcome {
    let watch = Stopwatch::start();
    // What is here already is none of our attempts.
    let before = inner.shared.feed.durable();
    let mut last = first_fence(inner, request);
    let (mut may_be_stored, mut is_at_once) = (false, false);
    loop {
        match repeated(inner, request) {
            Some(number) if may_be_stored => return duplicate(inner, request, number).await,
            _ if may_be_stored => {}
            _ => admit(inner, request).await?,
        }
        let published =
            inner.engine.publish(&request.stream, last, (&request.id, request.append), request.body.clone()).await;
        match published {
            Published::Stored(number) => return Ok(stored(inner, request, number)),
            Published::Duplicate(number) => return duplicate(inner, request, number).await,
            // Another is being stored now, and will be the last in a moment.
            Published::WrongLast(actual) if last.is_some_and(|last| actual <= last) => {}
            Published::WrongLast(actual) => {
                match found(inner, request, may_be_stored.then_some(before), actual).await {
                    Some(Found::Nothing) if request.expected == Expected::Any => {
                        last = Some(actual);
                        is_at_once = true;
                    }
                    Some(Found::Nothing) => {
                        count(&inner.shared.metrics.conflicts);
                        return Err(AppendError::Conflict { actual: StorePosition(actual) });
                    }
                    Some(Found::Own(number)) => return Ok(stored(inner, request, number)),
                    Some(Found::Answered(error)) => return Err(error),
                    None => {}
                }
            }
            Published::TooLarge => return Err(AppendError::TooLarge { limit: inner.engine.client().max_payload() }),
            Published::NoRoom if !may_be_stored => return Err(AppendError::Full("the engine's disk")),
            Published::NoRoom | Published::Away => {}
            Published::Unsure => {
                may_be_stored = true;
                // Where the stream ends is said by the refusal.
                last = last.or(Some(0));
            }
        }
        if watch.elapsed() > inner.timeout || inner.is_closing.load(Ordering::SeqCst) {
            return Err(match may_be_stored {
                true => AppendError::Unknown("the engine did not say whether it stored the step"),
                false => AppendError::Full(ENGINE),
            });
        }
        if !std::mem::take(&mut is_at_once) {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What must be the newest record of the stream at the first attempt. One with an idempotency key may be the repeat of
/// another gateway's, so nothing may have come into the stream since the key was looked up; for one without, anything may.
fn first_fence(inner: &Inner, request: &Request) -> Option<u64> {
    match request.expected {
        Expected::Last(position) => Some(position.0),
        Expected::Any if request.key.is_none() => None,
        Expected::Any => match inner.shared.ledger().streams.end(inner.shared.namer.name(&request.stream)) {
            End::At(position) => Some(position),
            // Most have a stream of their own; where not, the refusal says where it ends.
            End::AskView => Some(0),
        },
    }
}

/// Where the copy here has the idempotency key.
fn repeated(inner: &Inner, request: &Request) -> Option<u64> {
    let (key, _) = request.key.as_ref()?;
    inner.shared.ledger().answers.position(inner.shared.namer.name(key))
}

fn stored(inner: &Inner, request: &Request, number: u64) -> StorePosition {
    inner.tell_broken(number, inner.acknowledged.given(number, request.append));
    inner.shared.feed.promise(number);
    StorePosition(number)
}

/// What the copy here knows already need not be asked of the engine. It may be a moment late: then the engine refuses.
async fn admit(inner: &Arc<Inner>, request: &Request) -> Result<(), AppendError> {
    if let Some(position) = repeated(inner, request) {
        return Err(answered(inner, request, position).await);
    }
    if let Some((vehicle, epoch)) = &request.fence
        && !inner.shared.claims().permits(vehicle, *epoch)
    {
        count(&inner.shared.metrics.fenced);
        return Err(AppendError::Fenced);
    }
    Ok(())
}

/// The record at `number` came first under our message id: our own, sent twice, or another's with the same idempotency key.
async fn duplicate(inner: &Arc<Inner>, request: &Request, number: u64) -> Outcome {
    if !reach(inner, number).await {
        return Err(AppendError::Unknown("the record that came first has not arrived here"));
    }
    let own = request.body.clone();
    let read = read(inner, move |inner| inner.shared.reader.numbered(number).map(|raw| raw.body == own));
    let is_own = match read.await {
        Ok(true) => is_own(inner, request, number).await,
        Ok(false) => Ok(false),
        Err(error) => Err(error),
    };
    match is_own {
        Ok(true) => Ok(StorePosition(number)),
        Ok(false) => Err(answered(inner, request, number).await),
        Err(_) => Err(AppendError::Unknown("the record that came first cannot be read")),
    }
}

/// Whether the record, which says the same, is of this very append.
async fn is_own(inner: &Inner, request: &Request, number: u64) -> Result<bool, ReadError> {
    let append = inner.engine.append_of(number).await.map_err(ReadError::Unavailable)?;
    Ok(append == Some(request.append))
}

/// What a repeat of the idempotency key is told by the record that has it.
async fn answered(inner: &Arc<Inner>, request: &Request, position: u64) -> AppendError {
    let Some((key, body)) = request.key.clone() else {
        return AppendError::Unknown("the engine knows the step from another record");
    };
    let found =
        read(inner, move |inner| inner.shared.reader.numbered(position).and_then(|raw| record::answer(&raw, &key)));
    match found.await {
        Ok(Some((known, answer))) if known == body => {
            count(&inner.shared.metrics.duplicates);
            AppendError::Duplicate { answer }
        }
        Ok(Some(_)) => AppendError::KeyReused,
        Ok(None) => AppendError::Unknown("the engine knows the step from another record"),
        Err(error) => {
            tracing::error!(position, %error, "an earlier answer cannot be read");
            AppendError::Full("an earlier answer cannot be read")
        }
    }
}

/// Why the stream's last record is not the expected one.
enum Found {
    /// An attempt of ours was stored after all.
    Own(u64),
    /// A repeat of the idempotency key, elsewhere.
    Answered(AppendError),
    /// Others came.
    Nothing,
}

/// Looks at what came into the stream until `actual`; for an attempt of ours only where one may be stored, after `own_after`:
/// that needs the view, and the rest does not. `None` = the copy is too far behind to tell: try again.
async fn found(inner: &Arc<Inner>, request: &Request, own_after: Option<u64>, actual: u64) -> Option<Found> {
    if actual > 0 && !reach(inner, actual).await {
        return None;
    }
    if let Some(after) = own_after {
        match find_own(inner, request, after).await {
            Ok(Some(number)) => return Some(Found::Own(number)),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot look what stands in the stream");
                return None;
            }
        }
    }
    match repeated(inner, request) {
        Some(position) => Some(Found::Answered(answered(inner, request, position).await)),
        None => Some(Found::Nothing),
    }
}

/// Our own body among the stream's records after this one.
async fn find_own(inner: &Arc<Inner>, request: &Request, mut after: u64) -> Result<Option<u64>, ReadError> {
    loop {
        let (stream, own) = (request.stream.clone(), request.body.clone());
        let page = read(inner, move |inner| {
            inner.shared.feed.wait_applied(VIEW).map_err(|not| ReadError::Unavailable(not.0))?;
            let places = inner.shared.with_view(|view| view.places(&stream, after, PAGE))?;
            let is_alike = |(number, place)| Ok((number, inner.shared.reader.at(place)?.body == own));
            places.into_iter().map(is_alike).collect::<Result<Vec<(u64, bool)>, ReadError>>()
        });
        let page = page.await?;
        for (number, is_alike) in &page {
            if *is_alike && is_own(inner, request, *number).await? {
                return Ok(Some(*number));
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = *last,
            Some(_) | None => return Ok(None),
        }
    }
}

/// Waits until the copy here has the record; false when it does not come in the time of an append.
async fn reach(inner: &Inner, number: u64) -> bool {
    let watch = Stopwatch::start();
    while inner.shared.feed.durable() < number {
        if watch.elapsed() > inner.timeout || inner.is_closing.load(Ordering::SeqCst) {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// Reads the disk off the thread that speaks with the engine.
async fn read<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let inner = Arc::clone(inner);
    let done = tokio::task::spawn_blocking(move || work(&inner)).await;
    done.unwrap_or_else(|_| Err(ReadError::Unavailable("the store is stopping".into())))
}
