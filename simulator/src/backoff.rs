//! How long a car waits before it tries to connect again, so that a fleet does not come back all at once.

use std::time::Duration;

use crate::dice::Dice;

/// Exponential with full jitter. A connection that held for a while starts it anew; one that was taken at once does
/// not, so that two clients with one identity do not throw each other out in a loop.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempt: u32,
}

impl Backoff {
    /// A link that lived this long was a good one.
    pub const GOOD_LINK: Duration = Duration::from_secs(5);

    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempt: 0 }
    }

    pub fn link_lived(&mut self, lived: Duration) {
        if lived >= Self::GOOD_LINK {
            self.attempt = 0;
        }
    }

    /// Between half and all of the step, which doubles each time.
    pub fn next(&mut self, dice: &mut Dice) -> Duration {
        let step = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.longest);
        self.attempt = self.attempt.saturating_add(1);
        step.mul_f64(dice.between(0.5, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_anew_after_a_good_link() {
        let mut dice = Dice::new(3);
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(10));
        let mut backoff = Backoff::new(first, longest);
        for attempt in 0..40 {
            let step = first.saturating_mul(1 << attempt.min(16)).min(longest);
            let wait = backoff.next(&mut dice);
            assert!(wait >= step / 2 && wait <= step, "attempt {attempt}: {wait:?}");
        }
        backoff.link_lived(Duration::from_secs(1));
        assert!(backoff.next(&mut dice) >= longest / 2, "a link that broke at once was no good one");
        backoff.link_lived(Backoff::GOOD_LINK);
        assert!(backoff.next(&mut dice) <= first);
    }
}
