//! Quotas: so many of something within a span of time, counted apart for each table or project.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};

/// At most so many within a span.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) most: usize,
    pub(crate) within: TimeDelta,
}

/// Counts against one limit.
#[derive(Debug)]
pub(super) struct Quota {
    limit: Limit,
    used: BTreeMap<String, VecDeque<DateTime<Utc>>>,
}

impl Quota {
    pub(super) fn new(limit: Limit) -> Self {
        Self { limit, used: BTreeMap::new() }
    }

    /// Takes one of `of`; false where none is left at this time.
    pub(super) fn take(&mut self, of: &str, now: DateTime<Utc>) -> bool {
        let used = self.used.entry(of.to_owned()).or_default();
        while used.front().is_some_and(|at| *at + self.limit.within <= now) {
            used.pop_front();
        }
        let is_left = used.len() < self.limit.most;
        if is_left {
            used.push_back(now);
        }
        is_left
    }
}
