//! What the feed keeps: the newest state per key in the order of change, and the newest changes one by one.
//!
//! Both number their entries from the feed's one sequence, both have a limit, and both say below which number
//! something is gone ([`Compact::floor`], [`Ring::floor`]). Plain data: no actor, no clock, no wire.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Bound;

/// A place in the feed's sequence; every change gets the next number.
pub type Seq = u64;

/// The newest value per key: a changed key moves to the end. Reading it in order always ends at the newest state of
/// every key, however much was skipped, and it never holds more than one value a key.
#[derive(Debug)]
pub struct Compact<K, V> {
    newest: HashMap<K, (Seq, V)>,
    order: BTreeMap<Seq, K>,
    limit: usize,
    floor: Seq,
    dropped: u64,
}

impl<K: Clone + Eq + Hash, V> Compact<K, V> {
    pub fn new(limit: usize, floor: Seq) -> Self {
        Self { newest: HashMap::new(), order: BTreeMap::new(), limit: limit.max(1), floor, dropped: 0 }
    }

    /// Returns whether the key is new here. `seq` must be above every one given before.
    pub fn put(&mut self, seq: Seq, key: K, value: V) -> bool {
        let before = self.newest.insert(key.clone(), (seq, value)).map(|(seq, _)| seq);
        if let Some(before) = before {
            self.order.remove(&before);
        }
        self.order.insert(seq, key);
        if self.order.len() > self.limit
            && let Some((dropped, key)) = self.order.pop_first()
        {
            self.newest.remove(&key);
            self.floor = self.floor.max(dropped);
            self.dropped += 1;
        }
        before.is_none()
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.newest.get(key).map(|(_, value)| value)
    }

    /// In the order of change, oldest first.
    pub fn after(&self, seq: Seq) -> impl Iterator<Item = (Seq, &K, &V)> {
        self.order
            .range((Bound::Excluded(seq), Bound::Unbounded))
            .filter_map(|(seq, key)| self.newest.get(key).map(|(_, value)| (*seq, key, value)))
    }

    /// A reader before this number has missed something for good.
    pub fn floor(&self) -> Seq {
        self.floor
    }

    /// How many were dropped for want of room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets everything and gives the memory back; readers before `floor` have missed it.
    pub fn clear(&mut self, floor: Seq) {
        *self = Self { dropped: self.dropped, ..Self::new(self.limit, floor) };
    }
}

/// Every change, the oldest dropped beyond the limit.
#[derive(Debug)]
pub struct Ring<T> {
    items: VecDeque<(Seq, T)>,
    limit: usize,
    floor: Seq,
    dropped: u64,
}

impl<T> Ring<T> {
    pub fn new(limit: usize, floor: Seq) -> Self {
        Self { items: VecDeque::new(), limit: limit.max(1), floor, dropped: 0 }
    }

    /// `seq` must be above every one given before.
    pub fn push(&mut self, seq: Seq, item: T) {
        self.items.push_back((seq, item));
        if self.items.len() > self.limit
            && let Some((dropped, _)) = self.items.pop_front()
        {
            self.floor = dropped;
            self.dropped += 1;
        }
    }

    pub fn after(&self, seq: Seq) -> impl Iterator<Item = (Seq, &T)> {
        let start = self.items.partition_point(|(known, _)| *known <= seq);
        self.items.range(start..).map(|(seq, item)| (*seq, item))
    }

    /// A reader before this number has missed something for good.
    pub fn floor(&self) -> Seq {
        self.floor
    }

    /// How many were dropped for want of room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_key_moves_to_the_end_and_is_held_once() {
        let mut log = Compact::new(10, 0);
        assert!(log.put(1, "a", 1));
        assert!(log.put(2, "b", 1));
        assert!(!log.put(3, "a", 2));
        assert_eq!(
            log.after(0).map(|(seq, key, value)| (seq, *key, *value)).collect::<Vec<_>>(),
            [(2, "b", 1), (3, "a", 2)]
        );
        assert_eq!((log.len(), log.floor()), (2, 0));
    }

    #[test]
    fn over_the_limit_the_longest_unchanged_key_goes_and_the_floor_tells() {
        let mut log = Compact::new(2, 0);
        for (seq, key) in [(1, "a"), (2, "b"), (3, "c")] {
            log.put(seq, key, ());
        }
        assert_eq!((log.len(), log.floor(), log.get("a")), (2, 1, None));
    }

    #[test]
    fn a_ring_reads_on_after_any_number_and_tells_what_is_gone() {
        let mut ring = Ring::new(3, 0);
        for seq in [2, 4, 6, 8] {
            ring.push(seq, seq);
        }
        assert_eq!(ring.floor(), 2);
        assert_eq!(ring.after(5).map(|(seq, _)| seq).collect::<Vec<_>>(), [6, 8]);
        assert_eq!(ring.after(0).count(), 3);
        assert_eq!(ring.after(8).count(), 0);
    }
}
