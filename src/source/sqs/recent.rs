//! What was seen lately: a set that forgets what is oldest rather than grow without bound.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The last things put into it, so many at most.
#[derive(Debug)]
pub(super) struct Recent<T> {
    known: HashSet<T>,
    order: VecDeque<T>,
    count_max: usize,
}

impl<T: Eq + Hash + Clone> Recent<T> {
    /// Empty, for so many.
    pub(super) fn new(count_max: usize) -> Self {
        Self { known: HashSet::new(), order: VecDeque::new(), count_max }
    }

    /// Puts a thing in; true where it was not there.
    pub(super) fn insert(&mut self, thing: T) -> bool {
        if !self.known.insert(thing.clone()) {
            return false;
        }
        self.order.push_back(thing);
        while self.order.len() > self.count_max {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        true
    }

    /// Whether a thing is there.
    pub(super) fn contains(&self, thing: &T) -> bool {
        self.known.contains(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_new_once_until_many_others_came() {
        let mut recent = Recent::new(2);
        assert!(recent.insert(1) && !recent.insert(1) && recent.insert(2));
        assert!(recent.insert(3));
        assert!(!recent.contains(&1) && recent.contains(&2) && recent.contains(&3));
        assert!(recent.insert(1), "the oldest was forgotten");
        assert_eq!(recent.order.len(), 2);
    }
}
