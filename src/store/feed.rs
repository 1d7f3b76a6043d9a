//! What the committer made durable, on its way to the view; and how far each of them is.
//!
//! The committer publishes, the applier takes, readers wait. It holds only the newest records: an applier that fell
//! behind reads the journal instead, so that it never holds up a promise. The applier rests between its turns, so that
//! many small batches become few larger ones; a waiting reader wakes it at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::StorePosition;
use super::frame::Hash;
use super::journal::Place;

/// Bytes of records kept for the applier.
const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of records that wake a resting applier, long before they no longer fit.
const RING_BYTES_MANY: usize = RING_BYTES_MAX / 2;

/// How long an applier rests when nobody waits for the view.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    pub usual: Duration,
    /// As many new records in the usual time are a burst: who makes it needs the processor more than the view does.
    pub burst_records: u64,
    /// The most that a burst can put it off.
    pub at_most: Duration,
}

/// How long somebody waits for a view that is behind: turn after turn while it gets on, and no longer than one turn in
/// which it does not.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub turn: Duration,
    pub turns: u32,
}

/// A durable record, as the committer has it in memory.
#[derive(Debug)]
pub struct Committed {
    pub number: u64,
    pub place: Place,
    pub hash: Hash,
    pub body: Vec<u8>,
}

/// What the threads shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Running,
    /// Finish what is there, then end.
    Closing,
    /// End at once, like a crash.
    Abandoned,
}

#[derive(Debug, Default)]
struct State {
    durable: u64,
    /// Acknowledged by an engine elsewhere, so that it will come; never more than `durable` where we write ourselves.
    promised: u64,
    applied: u64,
    ring: VecDeque<Committed>,
    ring_bytes: usize,
    view_problem: Option<String>,
    mode: Mode,
    /// Readers and writers who wait for the view now.
    waiting: usize,
    /// Those who wait for a record to be here at all.
    arriving: usize,
}

impl State {
    fn is_behind_by_more_than(&self, records: u64) -> bool {
        self.durable - self.applied.min(self.durable) > records
    }

    fn is_urgent(&self) -> bool {
        self.waiting > 0 || self.ring_bytes >= RING_BYTES_MANY || self.mode != Mode::Running
    }
}

/// Each kind of sleeper has its own bell: at a thousand batches a second, waking all for each cost a fifth of a core.
#[derive(Debug, Default)]
pub struct Feed {
    state: Mutex<State>,
    /// For the applier: the first record after it had everything, enough of them, or somebody who waits.
    work: Condvar,
    /// For those who wait for the view.
    progress: Condvar,
    /// For those who wait for a record that was promised elsewhere.
    arrival: Condvar,
    /// For threads that only rest between their turns.
    ending: Condvar,
    /// For followers of the journal, who are tasks.
    news: watch::Sender<StorePosition>,
}

/// The view is not up to date, and why.
#[derive(Debug)]
pub struct NotApplied(pub String);

impl Feed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a durable batch; before anyone is answered.
    pub fn publish(&self, batch: Vec<Committed>) {
        let mut state = self.state();
        let (was_idle, was_urgent) = (state.durable <= state.applied, state.is_urgent());
        for committed in batch {
            state.durable = committed.number;
            state.ring_bytes += committed.body.len();
            state.ring.push_back(committed);
        }
        while state.ring_bytes > RING_BYTES_MAX {
            let Some(gone) = state.ring.pop_front() else { break };
            state.ring_bytes -= gone.body.len();
        }
        let is_news = was_idle || (state.is_urgent() && !was_urgent);
        let (durable, is_awaited) = (state.durable, state.arriving > 0);
        drop(state);
        if is_awaited {
            self.arrival.notify_all();
        }
        if self.news.receiver_count() > 0 {
            self.news.send_replace(StorePosition(durable));
        }
        if is_news {
            self.work.notify_one();
        }
    }

    /// A record that somebody was promised is on its way here.
    pub fn promise(&self, promised: u64) {
        let mut state = self.state();
        state.promised = state.promised.max(promised);
    }

    /// Waits until everything that was promised is here; the newest that is not yet when the time is over.
    pub fn wait_arrived(&self, at_most: Duration) -> Result<(), u64> {
        let target = self.state().promised;
        self.wait_for(target, at_most)
    }

    /// The same for one record.
    pub fn wait_for(&self, target: u64, at_most: Duration) -> Result<(), u64> {
        let mut state = self.state();
        if state.durable >= target {
            return Ok(());
        }
        state.arriving += 1;
        let is_missing = |state: &mut State| state.durable < target && state.mode == Mode::Running;
        let waited = self.arrival.wait_timeout_while(state, at_most, is_missing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.arriving -= 1;
        if state.durable >= target { Ok(()) } else { Err(target) }
    }

    pub fn promised(&self) -> u64 {
        let state = self.state();
        state.promised.max(state.durable)
    }

    pub fn set_durable(&self, durable: u64) {
        self.state().durable = durable;
    }

    /// Changes with each durable batch from now on.
    pub fn news(&self) -> watch::Receiver<StorePosition> {
        self.news.subscribe()
    }

    pub fn durable(&self) -> u64 {
        self.state().durable
    }

    pub fn applied(&self) -> u64 {
        self.state().applied
    }

    pub fn view_problem(&self) -> Option<String> {
        self.state().view_problem.clone()
    }

    pub fn set_applied(&self, applied: u64) {
        let mut state = self.state();
        state.applied = applied;
        state.view_problem = None;
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.progress.notify_all();
        }
    }

    pub fn set_view_problem(&self, problem: String) {
        self.state().view_problem = Some(problem);
        self.progress.notify_all();
    }

    pub fn mode(&self) -> Mode {
        self.state().mode
    }

    pub fn set_mode(&self, mode: Mode) {
        self.state().mode = mode;
        self.work.notify_all();
        self.progress.notify_all();
        self.arrival.notify_all();
        self.ending.notify_all();
    }

    /// Sleeps until the view has got on far enough for `is_behind`, waking the applier for it.
    fn await_view<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        patience: Patience,
        is_behind: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let has_to_wait =
            |state: &mut State| is_behind(state) && state.view_problem.is_none() && state.mode == Mode::Running;
        if !has_to_wait(&mut state) {
            return state;
        }
        state.waiting += 1;
        self.work.notify_one();
        for _ in 0..patience.turns.max(1) {
            let seen = state.applied;
            let waited = self.progress.wait_timeout_while(state, patience.turn, has_to_wait);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if !has_to_wait(&mut state) || state.applied == seen {
                break;
            }
        }
        state.waiting -= 1;
        state
    }

    /// Waits until the view has everything that is durable now.
    pub fn wait_applied(&self, patience: Patience) -> Result<u64, NotApplied> {
        let state = self.state();
        let target = state.durable.max(state.promised);
        let state = self.await_view(state, patience, |state| state.applied < target);
        if let Some(problem) = &state.view_problem {
            return Err(NotApplied(problem.clone()));
        }
        if state.applied < target {
            return Err(NotApplied(format!("it is {} records behind", target - state.applied)));
        }
        Ok(target)
    }

    /// Waits until there is something to apply after `applied`, the mode changes, or the time is over. Then gathers as
    /// `rest` says, unless somebody waits or there is much already. Returns the newest durable record.
    pub fn wait_durable(&self, applied: u64, at_most: Duration, rest: Rest) -> u64 {
        let is_idle = |state: &mut State| state.durable <= applied && state.mode == Mode::Running;
        let (mut state, _) =
            self.work.wait_timeout_while(self.state(), at_most, is_idle).unwrap_or_else(PoisonError::into_inner);
        let mut rested = Duration::ZERO;
        while state.durable > applied && rested < rest.at_most && !state.is_urgent() {
            let seen = state.durable;
            (state, _) = self
                .work
                .wait_timeout_while(state, rest.usual, |state| !state.is_urgent())
                .unwrap_or_else(PoisonError::into_inner);
            rested += rest.usual;
            if state.durable < seen + rest.burst_records {
                break;
            }
        }
        state.durable
    }

    /// Waits until the view is at most so many records behind; not at all when it is broken. False when it still is.
    pub fn wait_lag(&self, at_most: u64, time: Duration) -> bool {
        let patience = Patience { turn: time, turns: 1 };
        let state = self.await_view(self.state(), patience, |state| state.is_behind_by_more_than(at_most));
        !state.is_behind_by_more_than(at_most) || state.view_problem.is_some() || state.mode != Mode::Running
    }

    /// Waits for the time to pass or the mode to change.
    pub fn rest(&self, at_most: Duration) -> Mode {
        let state = self.state();
        let (state, _) = self
            .ending
            .wait_timeout_while(state, at_most, |state| state.mode == Mode::Running)
            .unwrap_or_else(PoisonError::into_inner);
        state.mode
    }

    /// Takes the records that follow `applied`, at most so many bytes; empty when they are no longer here.
    pub fn take_after(&self, applied: u64, bytes_max: usize) -> Vec<Committed> {
        let mut state = self.state();
        while state.ring.front().is_some_and(|front| front.number <= applied) {
            if let Some(gone) = state.ring.pop_front() {
                state.ring_bytes -= gone.body.len();
            }
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max
            && state.ring.front().is_some_and(|front| front.number == applied + 1 + taken.len() as u64)
            && let Some(committed) = state.ring.pop_front()
        {
            bytes += committed.body.len();
            state.ring_bytes -= committed.body.len();
            taken.push(committed);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_millis(200);

    #[test]
    fn a_view_that_gets_on_is_waited_for_longer_than_one_that_stands_still() {
        let feed = Feed::default();
        feed.set_durable(10);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for applied in 1..=10 {
                    feed.rest(TURN / 4);
                    feed.set_applied(applied);
                }
            });
            assert_eq!(feed.wait_applied(Patience { turn: TURN, turns: 50 }).ok(), Some(10));
        });
        feed.set_durable(11);
        let refused = feed.wait_applied(Patience { turn: TURN, turns: 50 }).err();
        assert_eq!(refused.map(|not| not.0).as_deref(), Some("it is 1 records behind"));
    }

    #[test]
    fn nobody_waits_longer_than_their_patience() {
        let feed = Feed::default();
        feed.set_durable(1_000_000);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut applied = 0;
                while feed.rest(TURN / 10) == Mode::Running {
                    applied += 1;
                    feed.set_applied(applied);
                }
            });
            assert!(feed.wait_applied(Patience { turn: TURN, turns: 3 }).is_err());
            feed.set_mode(Mode::Closing);
        });
    }
}
