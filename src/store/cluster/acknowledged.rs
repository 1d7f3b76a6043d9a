//! Whether the engine keeps its word: a record that it acknowledged is the one that arrives under that number.
//!
//! Nothing can be mended where it does not, since the caller was told; but nobody shall have to find out by chance.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Newest records whose append is remembered, for acknowledgements that come after them.
const SEEN: usize = 4_096;

#[derive(Debug, Default)]
pub struct Acknowledged(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Acknowledged, and not arrived; as many as are on their way.
    given: BTreeMap<u64, Uuid>,
    seen: VecDeque<(u64, Option<Uuid>)>,
}

/// Another append than the acknowledged one has the number.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

impl Acknowledged {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insertion or removal: whole, whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine says that the append has this number.
    pub fn given(&self, number: u64, append: Uuid) -> Result<(), Broken> {
        let mut state = self.state();
        let oldest = state.seen.front().map(|(oldest, _)| *oldest);
        match (state.seen.back(), oldest) {
            (Some((newest, _)), Some(oldest)) if number <= *newest => {
                let place = number.checked_sub(oldest).and_then(|place| usize::try_from(place).ok());
                let found = place.and_then(|place| state.seen.get(place));
                found.is_none_or(|(_, known)| *known == Some(append)).then_some(()).ok_or(Broken)
            }
            _ => {
                state.given.insert(number, append);
                Ok(())
            }
        }
    }

    /// This append's record came. In order, each once.
    pub fn arrived(&self, number: u64, append: Option<Uuid>) -> Result<(), Broken> {
        let mut state = self.state();
        if state.seen.back().is_some_and(|(newest, _)| newest + 1 != number) {
            state.seen.clear();
        }
        state.seen.push_back((number, append));
        if state.seen.len() > SEEN {
            state.seen.pop_front();
        }
        let given = state.given.remove(&number);
        given.is_none_or(|given| append == Some(given)).then_some(()).ok_or(Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_record_that_is_another_is_found_whichever_comes_first() {
        let [ours, other] = [1, 2].map(Uuid::from_u128);
        let acknowledged = Acknowledged::default();
        assert_eq!(acknowledged.given(8, ours), Ok(()));
        assert_eq!(acknowledged.arrived(7, Some(other)), Ok(()), "somebody else's");
        assert_eq!(acknowledged.arrived(8, Some(ours)), Ok(()));
        assert_eq!(acknowledged.given(9, ours), Ok(()));
        assert_eq!(acknowledged.arrived(9, Some(other)), Err(Broken));
        assert_eq!(acknowledged.arrived(10, Some(ours)), Ok(()));
        assert_eq!(acknowledged.given(10, ours), Ok(()));
        assert_eq!(acknowledged.given(7, ours), Err(Broken));
        assert_eq!(acknowledged.arrived(11, None), Ok(()), "one that was brought by a migration");
        assert_eq!(acknowledged.given(11, ours), Err(Broken));
    }

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let acknowledged = Acknowledged::default();
        for number in 1..=10_000 {
            assert_eq!(acknowledged.arrived(number, None), Ok(()));
        }
        assert_eq!(acknowledged.state().seen.len(), SEEN);
        assert_eq!(acknowledged.given(1, Uuid::from_u128(1)), Ok(()), "nobody knows any more");
        assert_eq!(acknowledged.given(9_000, Uuid::from_u128(1)), Err(Broken));
        assert!(acknowledged.state().given.is_empty());
    }
}
