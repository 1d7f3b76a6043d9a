//! What one console has in hand, and whether the feed is to be asked again. No socket and no actor in it.
//!
//! At most one batch is out until it is acknowledged. The feed pokes a console once for news after an answer without
//! any, and the poke may overtake that answer: forgetting it would leave the console without news until the next.

use crate::actors::feed::Seq;

#[derive(Debug)]
pub struct Hand {
    holds: Holds,
    /// The feed had news since it was last asked.
    was_poked: bool,
    /// Rises when reading begins elsewhere: an answer to an older question is dropped.
    generation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing was sent yet: the console may want to resume.
    Greeting,
    Nothing,
    /// The feed was asked.
    Question,
    /// A batch it has not acknowledged; nothing more is sent until it does.
    Batch(Seq),
}

/// Names a question, so that its answer is known from that to an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question(u32);

impl Hand {
    pub fn new() -> Self {
        Self { holds: Holds::Greeting, was_poked: false, generation: 0 }
    }

    /// The time for a console to say that it wants to resume is over.
    pub fn greeted(&mut self) {
        if self.holds == Holds::Greeting {
            self.holds = Holds::Nothing;
        }
    }

    /// The question to put to the feed now, if any.
    pub fn ask(&mut self) -> Option<Question> {
        if self.holds != Holds::Nothing {
            return None;
        }
        self.holds = Holds::Question;
        self.was_poked = false;
        Some(Question(self.generation))
    }

    /// The feed answered. False: the answer is to an older question and is to be dropped.
    pub fn answered(&mut self, question: Question) -> bool {
        let is_current = self.holds == Holds::Question && question == Question(self.generation);
        if is_current {
            self.holds = Holds::Nothing;
        }
        is_current
    }

    pub fn poked(&mut self) {
        self.was_poked = true;
    }

    /// A poke overtook the answer that it belongs to, and there will be no other.
    pub fn must_ask_again(&self) -> bool {
        self.was_poked && self.holds == Holds::Nothing
    }

    pub fn gave(&mut self, seq: Seq) {
        self.holds = Holds::Batch(seq);
    }

    /// False for an older number: a late acknowledgement of what was acknowledged before.
    pub fn acknowledged(&mut self, seq: Seq) -> bool {
        let is_this = self.holds == Holds::Batch(seq);
        if is_this {
            self.holds = Holds::Nothing;
        }
        is_this
    }

    /// Reading goes on elsewhere. What is in hand stays there until it is acknowledged.
    pub fn read_elsewhere(&mut self) {
        self.generation += 1;
        if !matches!(self.holds, Holds::Batch(_)) {
            self.holds = Holds::Nothing;
        }
    }

    /// One that was slow to say that it resumes has a snapshot in hand that it did not want: it counts as acknowledged,
    /// once.
    pub fn drop_unwanted_snapshot(&mut self) {
        if matches!(self.holds, Holds::Batch(_)) && self.generation == 0 {
            self.holds = Holds::Nothing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking() -> (Hand, Question) {
        let mut hand = Hand::new();
        hand.greeted();
        let question = hand.ask().unwrap();
        (hand, question)
    }

    /// A console stayed without its first picture: the poke for it came before the feed's "nothing yet".
    #[test]
    fn a_poke_that_overtakes_an_empty_answer_is_not_forgotten() {
        let (mut hand, question) = asking();
        hand.poked();
        assert_eq!(hand.ask(), None, "one question at a time");
        assert!(hand.answered(question));
        assert!(hand.must_ask_again());
        let again = hand.ask().unwrap();
        assert!(hand.answered(again));
        assert!(!hand.must_ask_again(), "once");
    }

    #[test]
    fn nothing_is_asked_while_a_batch_is_out() {
        let (mut hand, question) = asking();
        hand.poked();
        assert!(hand.answered(question));
        hand.gave(7);
        assert!(!hand.must_ask_again());
        assert_eq!(hand.ask(), None);
        assert!(!hand.acknowledged(6), "an older one");
        assert_eq!(hand.ask(), None);
        assert!(hand.acknowledged(7));
        assert!(hand.ask().is_some());
    }

    #[test]
    fn an_answer_from_before_reading_elsewhere_is_dropped() {
        let (mut hand, old) = asking();
        hand.read_elsewhere();
        let new = hand.ask().unwrap();
        assert!(!hand.answered(old));
        assert!(hand.answered(new));
    }

    #[test]
    fn only_the_first_snapshot_is_let_go_for_a_late_resume() {
        let (mut hand, question) = asking();
        assert!(hand.answered(question));
        hand.gave(1);
        hand.drop_unwanted_snapshot();
        hand.read_elsewhere();
        let question = hand.ask().unwrap();
        assert!(hand.answered(question));
        hand.gave(2);
        hand.drop_unwanted_snapshot();
        hand.read_elsewhere();
        assert_eq!(hand.ask(), None, "the second stays until it is acknowledged");
    }
}
