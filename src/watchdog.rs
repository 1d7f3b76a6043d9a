//! What systemd is told (sd_notify): ready, how it does, stopping, and, where `WatchdogSec=` asks for it, that it lives.
//!
//! The dog is fed only when every part has turned since it was fed last. That proves: the committer's loop goes round, so
//! that no sync hangs; a heartbeat went both ways through each router and was read behind it; every thread of vehicle
//! actors looked who is due; the threads of the card guard, the console feed and the way out to the cars, and each HTTP
//! worker, run what is given to them; and the main thread, which asks. A router that stalls is replaced long before.
//!
//! It must never ask what a restart would not mend (a full disk; `/readyz` tells of that), nor over a connection that
//! callers can use up: a crowd must not be able to have the gateway restarted.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::metrics::Turns;

/// How often the sentence for `systemctl status` may change.
const STATUS_EVERY: Duration = Duration::from_secs(5);

pub struct Watchdog {
    /// After so long without a sign of life systemd ends the process; `None` = it does not ask for any.
    limit: Option<Duration>,
    round: Round,
    status: String,
    status_at: Duration,
}

impl Watchdog {
    /// As the environment says; without systemd nothing here does anything.
    pub fn start() -> Self {
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        Self { limit, round: Round::default(), status: String::new(), status_at: Duration::ZERO }
    }

    /// Often enough that the dog is fed in time even if one look is in vain.
    pub fn look_every(&self) -> Duration {
        self.limit.map_or(Duration::MAX, feed_every).max(Duration::from_millis(10))
    }

    /// Cars and callers may come.
    pub fn ready(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// `at` is the time since the start, `turns` how often each part turned so far.
    pub fn look(&mut self, at: Duration, turns: Vec<Turns>, status: &str) {
        if self.status != status && at.saturating_sub(self.status_at) >= STATUS_EVERY {
            status.clone_into(&mut self.status);
            self.status_at = at;
            tell(&[NotifyState::Status(status)]);
        }
        let Some(limit) = self.limit else { return };
        if at.saturating_sub(self.round.fed_at) < feed_every(limit) {
            return;
        }
        let stuck = self.round.stuck(&turns);
        if stuck.is_empty() {
            self.round = Round { fed_at: at, turns, is_told: false };
            tell(&[NotifyState::Watchdog]);
        } else if at.saturating_sub(self.round.fed_at) > limit / 2 && !self.round.is_told {
            tracing::error!(?stuck, "a part of the gateway does not turn; if it stays so, systemd starts it again");
            self.round.is_told = true;
        }
    }

    /// Nothing more is taken; what is in flight is finished.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }
}

/// sd_watchdog_enabled(3) asks for half of the limit; a quarter leaves a look for parts that turn slowly.
fn feed_every(limit: Duration) -> Duration {
    limit / 4
}

/// Where everything was when the dog was fed.
#[derive(Default)]
struct Round {
    fed_at: Duration,
    turns: Vec<Turns>,
    /// That it is stuck stands in the log already.
    is_told: bool,
}

impl Round {
    /// The parts that have not turned since. One that is gone does not turn; one that is new has begun to.
    fn stuck(&self, now: &[Turns]) -> Vec<&str> {
        let turned = |part: &Turns| now.iter().any(|other| other.0 == part.0 && other.1 != part.1);
        self.turns.iter().filter(|part| !turned(part)).map(|(name, _)| name.as_str()).collect()
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(parts: &[(&str, u64)]) -> Vec<Turns> {
        parts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn every_part_must_have_turned() {
        let fed = Round { turns: turns(&[("committer", 7), ("http-0", 3)]), ..Round::default() };
        assert_eq!(fed.stuck(&turns(&[("committer", 8), ("http-0", 3)])), ["http-0"]);
        assert_eq!(fed.stuck(&turns(&[("committer", 8)])), ["http-0"], "one that is gone does not turn");
        // A new router counts anew.
        assert!(fed.stuck(&turns(&[("committer", 1), ("http-0", 4), ("http-1", 1)])).is_empty());
        assert!(Round::default().stuck(&turns(&[("committer", 1)])).is_empty());
    }

    #[test]
    fn without_systemd_it_feeds_nobody() {
        let mut watchdog =
            Watchdog { limit: None, round: Round::default(), status: String::new(), status_at: Duration::ZERO };
        watchdog.look(Duration::from_secs(60), turns(&[("committer", 1)]), "0 cars connected");
        assert!(watchdog.round.turns.is_empty());
        assert_eq!(watchdog.look_every(), Duration::MAX);
    }

    #[test]
    fn it_is_fed_a_quarter_of_the_limit_apart_and_not_while_stuck() {
        let limit = Duration::from_secs(8);
        let mut watchdog =
            Watchdog { limit: Some(limit), round: Round::default(), status: String::new(), status_at: Duration::ZERO };
        let mut fed = Vec::new();
        for (at_s, count) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (7, 3)] {
            watchdog.look(Duration::from_secs(at_s), turns(&[("committer", count)]), "");
            if watchdog.round.fed_at == Duration::from_secs(at_s) {
                fed.push(at_s);
            }
        }
        assert_eq!(fed, [2, 4, 7], "due at 2, 4 and 6; at 6 nothing had turned");
    }
}
