//! What each question was answered, for as long as memory lasts: an answer that was heard is not turned.
//!
//! The guard's record is the truth where there is one. Where there was none in time the network heard the fallback, and
//! hears it again, although the guard may have recorded another answer meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use super::form::FallbackAnswer;
use crate::actors::card_guard::{Decided, Recent};
use crate::domain::card::AuthorizationId;

/// Answers remembered; at some 150 bytes each.
const MAX_GIVEN: usize = 50_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asked {
    source: &'static str,
    authorization_id: AuthorizationId,
    /// The message, where more is asked for under the same authorisation.
    increment: Option<String>,
}

impl Asked {
    pub fn new(source: &'static str, authorization_id: &AuthorizationId, already_minor: i64, event: &str) -> Self {
        let increment = (already_minor > 0).then(|| event.to_owned());
        Self { source, authorization_id: authorization_id.clone(), increment }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    Recorded(Arc<Decided>),
    Fallback(FallbackAnswer),
}

pub struct GivenAnswers {
    answers: Mutex<Recent<Asked, Given>>,
    /// What was approved under an authorisation so far, for networks that do not say so with an increment.
    granted: Mutex<Recent<(&'static str, AuthorizationId), i64>>,
}

impl GivenAnswers {
    pub fn new() -> Self {
        Self { answers: Mutex::new(Recent::new(MAX_GIVEN)), granted: Mutex::new(Recent::new(MAX_GIVEN)) }
    }

    /// Minor units; 0 where nothing is remembered.
    pub fn granted_minor(&self, source: &'static str, id: &AuthorizationId) -> i64 {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.get(&(source, id.clone())).copied().unwrap_or(0)
    }

    /// To be called once for each new answer.
    pub fn grant(&self, source: &'static str, id: AuthorizationId, minor: i64) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source, id);
        let before = granted.get(&key).copied().unwrap_or(0);
        granted.insert(key, before.saturating_add(minor));
    }

    /// The fallback that this question was answered before.
    pub fn fallback(&self, asked: &Asked) -> Option<FallbackAnswer> {
        match self.known(asked)? {
            Given::Fallback(answer) => Some(answer),
            Given::Recorded(_) => None,
        }
    }

    fn known(&self, asked: &Asked) -> Option<Given> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(asked).cloned()
    }

    /// What to answer, and whether that is new: the first answer given stays.
    pub fn settle(&self, asked: Asked, answer: Given) -> (Given, bool) {
        let mut given = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match given.get(&asked) {
            Some(first) => (first.clone(), false),
            None => {
                given.insert(asked, answer.clone());
                (answer, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_given_stays() {
        let given = GivenAnswers::new();
        let asked = |event: &str, already| Asked::new("stripe", &"iauth_1".parse().unwrap(), already, event);
        let answer = |approved| FallbackAnswer { approved, amount_minor: None, why: "late" };
        assert_eq!(given.settle(asked("e1", 0), Given::Fallback(answer(false))).0, Given::Fallback(answer(false)));
        let (again, is_new) = given.settle(asked("e2", 0), Given::Fallback(answer(true)));
        assert_eq!((again, is_new), (Given::Fallback(answer(false)), false));
        assert_eq!(given.fallback(&asked("e3", 0)), Some(answer(false)));
        assert_eq!(given.fallback(&asked("e3", 100)), None, "more is another question");
    }
}
