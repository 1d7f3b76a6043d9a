//! From the engine's stream to the copy here: every record once, in order, from where the copy ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt;

use super::super::OpenError;
use super::super::replica::Arrived;
use super::Inner;
use super::engine::{APPEND, DURABLE, StreamState};
use crate::clock::Stopwatch;

/// How long a start waits for the record that it compares.
const COMPARED_WITHIN: Duration = Duration::from_secs(30);
/// Between attempts to read the stream.
const AGAIN: Duration = Duration::from_millis(200);
/// While the disk has more than it can take.
const FULL: Duration = Duration::from_millis(2);
/// A copy that stands still for so long although there are records is read anew.
const STALL: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(250);
/// For a record that should be on its way; then the leader, perhaps another, is asked again.
const SOON: Duration = Duration::from_secs(2);
/// After so long without a record that is known to be there, or without any server, nothing is promised: what is known here
/// of others' idempotency keys is too old.
const BEHIND: Duration = Duration::from_secs(10);

/// Is the copy here a copy of this stream?
pub async fn check_copy(inner: &Inner, stream: &StreamState) -> Result<(), OpenError> {
    let last = inner.shared.feed.durable();
    if last == 0 {
        return Ok(());
    }
    if last > stream.last {
        return Err(OpenError::Engine(format!(
            "its stream ends with record {}, and the copy here has {last}: the servers lost what was promised. Nothing was \
             changed; `cardea migrate` gives the stream what this copy has and it lacks",
            stream.last
        )));
    }
    let failed = |why: String| OpenError::Engine(format!("record {last} of its stream cannot be compared: {why}"));
    let watch = Stopwatch::start();
    let theirs = loop {
        match inner.engine.record(last).await {
            Ok(theirs) => break theirs,
            // The servers may be electing a leader.
            Err(_) if watch.elapsed() < COMPARED_WITHIN => tokio::time::sleep(AGAIN).await,
            Err(why) => return Err(failed(why)),
        }
    };
    let ours = inner.shared.reader.numbered(last).map_err(|error| failed(error.to_string()))?;
    if ours.body != theirs {
        return Err(OpenError::Engine(format!(
            "record {last} of its stream is another than in the copy here: one of them was altered or belongs to another \
             fleet. Nothing was changed; begin with an empty data directory if the stream is right"
        )));
    }
    Ok(())
}

/// Waits until the copy has what the stream had at the start; as long as it gets on.
pub async fn catch_up(inner: &Inner, last: u64) -> Result<(), OpenError> {
    const STANDSTILL: Duration = Duration::from_secs(60);
    let (mut seen, mut watch, mut told) = (0, Stopwatch::start(), Stopwatch::start());
    loop {
        let durable = inner.shared.feed.durable();
        if durable >= last {
            return Ok(());
        }
        if durable > seen {
            (seen, watch) = (durable, Stopwatch::start());
        }
        if watch.elapsed() > STANDSTILL {
            return Err(OpenError::Engine(format!("its records do not arrive: {durable} of {last} are here")));
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Stopwatch::start();
            tracing::info!(records = durable, of = last, "the copy of the cluster's journal is being made");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Follows the stream until the store closes.
pub async fn run(inner: Arc<Inner>, copies: SyncSender<Option<Arrived>>) {
    let mut follower = Follower { handed: inner.shared.feed.durable(), inner, copies };
    while !follower.is_over() {
        if let Err(problem) = follower.follow().await
            && !follower.is_over()
        {
            tracing::warn!(problem, after = follower.handed, "the cluster's journal is read anew");
            follower.fetch().await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Notes when the copy has been without news of the engine for too long, and when that is over. What a leader says of the
/// stream's end is no promise: one that was halted may name records that another has taken back.
pub async fn watch(inner: Arc<Inner>) {
    let (begun, mut heard, mut doubt) = (Stopwatch::start(), Stopwatch::start(), Doubt::default());
    while !inner.is_closing.load(Ordering::SeqCst) {
        match inner.engine.state().await {
            Ok(state) => {
                inner.seen_last.store(state.last, Ordering::Relaxed);
                if doubt.hear(is_another(&inner, &state), begun.elapsed()) > BEHIND {
                    tracing::error!("the cluster's stream is not the one that was followed, or it lost records");
                    inner.shared.poison();
                    return;
                }
                if reached(&inner, state.last).await {
                    heard = Stopwatch::start();
                }
            }
            Err(problem) => {
                doubt.hear_nothing();
                tracing::debug!(problem, "the engine does not say how far it is");
            }
        }
        let is_behind = heard.elapsed() > BEHIND;
        if inner.is_behind.swap(is_behind, Ordering::Relaxed) != is_behind {
            tracing::warn!(is_behind, "the cluster's engine");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// For how long whoever leads has said that the stream is another. A leader that was elected just now may be short of what it
/// will have in a moment; and the seconds in which nobody led, and nobody said anything, count for nothing.
#[derive(Debug, Default)]
struct Doubt {
    lasted: Duration,
    /// The answer before this one said so, then.
    since: Option<Duration>,
}

impl Doubt {
    fn hear(&mut self, is_another: bool, now: Duration) -> Duration {
        match (is_another, self.since) {
            (true, Some(since)) => self.lasted += now.saturating_sub(since),
            (true, None) => {}
            (false, _) => self.lasted = Duration::ZERO,
        }
        self.since = is_another.then_some(now);
        self.lasted
    }

    fn hear_nothing(&mut self) {
        self.since = None;
    }
}

/// A stream that was made anew, or put back from a backup, while we followed it.
fn is_another(inner: &Inner, state: &StreamState) -> bool {
    state.journal != inner.journal || state.last < inner.shared.feed.durable()
}

/// Does the copy get there soon?
async fn reached(inner: &Inner, last: u64) -> bool {
    let watch = Stopwatch::start();
    while inner.shared.feed.durable() < last {
        if watch.elapsed() > SOON || inner.is_closing.load(Ordering::SeqCst) {
            return false;
        }
        tokio::time::sleep(AGAIN / 10).await;
    }
    true
}

struct Follower {
    inner: Arc<Inner>,
    copies: SyncSender<Option<Arrived>>,
    /// The newest record on its way to the disk.
    handed: u64,
}

impl Follower {
    fn is_over(&self) -> bool {
        self.inner.is_closing.load(Ordering::SeqCst) || self.inner.shared.stop_reason.get().is_some()
    }

    async fn follow(&mut self) -> Result<(), String> {
        let (mut look, mut behind) = (tokio::time::interval(LOOK), Stopwatch::start());
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let engine = self.inner.engine.clone();
        let reading = engine.follow(self.handed + 1);
        tokio::pin!(reading);
        let mut messages = loop {
            tokio::select! {
                messages = &mut reading => break messages?,
                _ = look.tick() => self.fetch().await,
            }
        };
        loop {
            tokio::select! {
                message = messages.next() => {
                    let message = message.ok_or("the servers ended it")?.map_err(|error| error.to_string())?;
                    self.take(&message).await?;
                    behind = Stopwatch::start();
                }
                _ = look.tick() => {
                    if self.is_over() {
                        return Ok(());
                    }
                    let known = self.inner.shared.feed.promised().max(self.inner.seen_last.load(Ordering::Relaxed));
                    let is_awaited = known > self.handed;
                    if !is_awaited {
                        behind = Stopwatch::start();
                    } else if behind.elapsed() > STALL {
                        return Err("a record that was promised does not arrive".into());
                    }
                }
            }
        }
    }

    /// Reads what is known to be there one by one, of the stream's leader alone: to follow needs the servers' other leader,
    /// which may take seconds longer to be elected.
    async fn fetch(&mut self) {
        let known = self.inner.shared.feed.promised();
        while self.handed < known && !self.is_over() {
            let number = self.handed + 1;
            let Ok((headers, body)) = self.inner.engine.whole(number).await else { return };
            if self.hand(number, Some(&headers), &body).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, message: &async_nats::jetstream::Message) -> Result<(), String> {
        let number = message.info().map_err(|error| error.to_string())?.stream_sequence;
        if number <= self.handed {
            return Ok(());
        }
        if number > self.handed + 1 {
            return Err(format!("record {number} came after {}", self.handed));
        }
        self.hand(number, message.headers.as_ref(), &message.payload).await
    }

    async fn hand(&mut self, number: u64, headers: Option<&HeaderMap>, body: &[u8]) -> Result<(), String> {
        let durable = headers.and_then(|headers| headers.get(DURABLE));
        let durable = durable.map_or(Ok(0), |durable| durable.as_str().parse());
        let durable = durable.map_err(|_| format!("record {number} has an odd {DURABLE}"))?;
        let append = headers.and_then(|headers| headers.get(APPEND)?.as_str().parse().ok());
        self.inner.tell_broken(number, self.inner.acknowledged.arrived(number, append));
        let mut arrived = Some(Arrived { number, durable, body: body.to_vec() });
        loop {
            match self.copies.try_send(arrived) {
                Ok(()) => break,
                Err(TrySendError::Full(again)) => arrived = again,
                Err(TrySendError::Disconnected(_)) => return Err("the copy takes nothing any more".into()),
            }
            tokio::time::sleep(FULL).await;
        }
        self.handed = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_is_short_after_a_long_election_is_not_believed_at_once() {
        let mut doubt = Doubt::default();
        let second = Duration::from_secs;
        assert_eq!(doubt.hear(false, second(1)), Duration::ZERO);
        doubt.hear_nothing();
        assert_eq!(doubt.hear(true, second(14)), Duration::ZERO, "nobody led for 13 s");
        assert_eq!(doubt.hear(true, second(15)), second(1));
        doubt.hear_nothing();
        assert_eq!(doubt.hear(true, second(30)), second(1));
        assert_eq!(doubt.hear(false, second(31)), Duration::ZERO);
        let lasted = (32..=44).map(|at| doubt.hear(true, second(at))).last();
        assert!(lasted > Some(BEHIND), "but who says so all the time is");
    }
}
