//! What follows from how long this gateway has not heard its own word. Plain data; the caller says what time it is.
//!
//! A gateway that was halted wakes up with an old word in its ear, and all others' too. It has to listen before it believes that
//! nobody hears it, or that somebody is dead.

use std::time::Duration;

use super::members::{HELLO_EVERY, SILENT};

/// A server through which our own word does not come back for so long is left for another.
const DEAF: Duration = Duration::from_millis(1_500);
/// A gateway that reaches no server for so long lets its cars go: elsewhere they can be reached.
const ALONE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Hearing {
    /// When our own word came back last, or when we began to listen.
    heard: Duration,
    turned: Duration,
    looked: Duration,
    /// When it was found last that nothing is heard.
    deaf_at: Option<Duration>,
    /// Since when each look found that nothing was heard for too long.
    alone_since: Option<Duration>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// No server can be reached: let the cars go.
    pub is_alone: bool,
    /// Try another server.
    pub turns: bool,
    /// Whoever is silent is dead.
    pub tells_who_lives: bool,
}

impl Hearing {
    pub fn new(now: Duration) -> Self {
        Self { heard: now, turned: now, looked: now, deaf_at: None, alone_since: None }
    }

    /// `heard`: when our own word came back last.
    pub fn look(&mut self, heard: Duration, now: Duration) -> Heard {
        self.heard = self.heard.max(heard);
        let silence = now.saturating_sub(self.heard);
        self.alone_since = if silence > ALONE { self.alone_since.or(Some(now)) } else { None };
        // Halted in between: our own word of before the halt may have been listened to since, and the others' not yet.
        let was_halted = now.saturating_sub(self.looked) >= DEAF;
        self.looked = now;
        if silence >= DEAF || was_halted {
            self.deaf_at = Some(now);
        }
        let turns = silence > DEAF && now.saturating_sub(self.turned) > DEAF;
        if turns {
            self.turned = now;
        }
        Heard {
            is_alone: self.alone_since.is_some_and(|since| now.saturating_sub(since) >= HELLO_EVERY),
            turns,
            // The others' words come again, but only as fast as they say them.
            tells_who_lives: self.deaf_at.is_none_or(|at| now.saturating_sub(at) > SILENT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_late_look_after_a_halt_lets_no_car_go_and_calls_nobody_dead() {
        let mut hearing = Hearing::new(ms(0));
        assert_eq!(hearing.look(ms(400), ms(500)), Heard { is_alone: false, turns: false, tells_who_lives: true });
        // Halted for a minute. Somebody's word makes it look twice at once.
        let woken = hearing.look(ms(500), ms(60_000));
        assert_eq!(woken, Heard { is_alone: false, turns: true, tells_who_lives: false });
        assert!(!hearing.look(ms(500), ms(60_001)).is_alone);
        // Its own word comes back before those of the others.
        assert_eq!(
            hearing.look(ms(60_050), ms(60_500)),
            Heard { is_alone: false, turns: false, tells_who_lives: false }
        );
        for at in [61_000, 61_500, 62_000] {
            assert!(!hearing.look(ms(at - 100), ms(at)).tells_who_lives);
        }
        assert!(hearing.look(ms(62_400), ms(62_500)).tells_who_lives);
    }

    #[test]
    fn a_word_of_before_a_halt_that_is_listened_to_after_it_lets_nobody_be_dead() {
        let mut hearing = Hearing::new(ms(0));
        assert!(hearing.look(ms(490), ms(500)).tells_who_lives);
        // Halted for a minute; its own word had arrived, and is listened to before the first look.
        let woken = hearing.look(ms(60_000), ms(60_001));
        assert_eq!(woken, Heard { is_alone: false, turns: false, tells_who_lives: false });
        for at in [60_500, 61_000, 61_500, 62_000] {
            assert!(!hearing.look(ms(at), ms(at)).tells_who_lives);
        }
        assert!(hearing.look(ms(62_500), ms(62_500)).tells_who_lives);
        // As late as a look may be without a halt.
        assert!(hearing.look(ms(63_900), ms(63_900)).tells_who_lives);
    }

    #[test]
    fn who_hears_nothing_turns_to_other_servers_and_then_lets_its_cars_go() {
        let mut hearing = Hearing::new(ms(0));
        let looks: Vec<Heard> = (1..=24).map(|n| hearing.look(ms(0), ms(n * 500))).collect();
        let first = |is_so: fn(&Heard) -> bool| looks.iter().position(is_so).map(|n| (n + 1) * 500);
        assert_eq!(first(|heard| heard.turns), Some(2_000));
        assert_eq!(first(|heard| !heard.tells_who_lives), Some(1_500));
        assert_eq!(first(|heard| heard.is_alone), Some(11_000));
        assert!(looks[21..].iter().all(|heard| heard.is_alone), "again and again");
        assert!(!hearing.look(ms(12_400), ms(12_500)).is_alone);
    }
}
