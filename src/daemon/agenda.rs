//! What a table's worker remembers between its turns, and when the next is due. Does nothing itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::change::batch::{self, MergeCounts};
use crate::change::{ChangeFile, FileId, TableName};
use crate::daemon::pace::Pace;
use crate::error::Result;
use crate::ledger::TableLedger;
use crate::pipeline::Pipeline;
use crate::pipeline::table_run::{MergeWork, TableRun};

/// Tries of a file that cannot be read before it is let go, to come again when its source thinks fit.
const FAILURES_MAX: u32 = 8;

/// A merge that came to its end, and what it did.
pub(super) type Merged = (MergeWork, Result<MergeCounts>);

/// What one table has in hand and has yet to do, and since when or until when each of it waits.
pub(super) struct Agenda {
    pace: Pace,
    pub(super) run: Option<TableRun>,
    pub(super) in_hand: BTreeMap<FileId, Waiting>,
    /// When the first of the files that may be carried now arrived.
    pub(super) since: Option<Instant>,
    /// No turn before this moment, after a failure.
    pub(super) not_before: Instant,
    pub(super) pause: Duration,
    /// Whether the table is held: new files go into its chain.
    pub(super) held: bool,
    pub(super) merge_at: Option<Instant>,
    /// The merge under way, which ends with this.
    pub(super) merges: JoinSet<Merged>,
    pub(super) merged_at: Option<Instant>,
    /// Whether a turn is due although no file is.
    pub(super) turn_due: bool,
    /// When the chain is looked into although nothing else is due.
    pub(super) look_at: Instant,
    /// The chain while files are held, so that it is not read from its start for each of them.
    pub(super) chain: Option<TableLedger>,
}

/// A file in hand.
pub(super) struct Waiting {
    pub(super) file: ChangeFile,
    /// How often it could not be read, and when it may be tried again.
    failures: u32,
    not_before: Instant,
}

impl Agenda {
    pub(super) fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            run: None,
            in_hand: BTreeMap::new(),
            since: None,
            not_before: now,
            pause: pace.pause,
            held: false,
            merge_at: None,
            merges: JoinSet::new(),
            merged_at: None,
            // What an earlier run left open is looked after at once.
            turn_due: true,
            look_at: now,
            chain: None,
        }
    }

    /// When the next turn is due.
    pub(super) fn due(&self, pipeline: &Pipeline) -> Option<Instant> {
        let limits = &pipeline.config.pipeline.limits;
        let full = self.in_hand.len() >= limits.files_max || self.bytes() >= limits.bytes_max;
        let wait = if full { Duration::ZERO } else { limits.age_max };
        let put_off =
            self.in_hand.values().filter(|waiting| waiting.failures > 0).map(|waiting| waiting.not_before).min();
        let now = (self.turn_due || self.held).then_some(self.not_before);
        let merge_at = self.merge_at.filter(|_| self.merges.is_empty());
        let first = [now, self.since.map(|since| since + wait), put_off, merge_at, Some(self.look_at)];
        let first = first.into_iter().flatten().min();
        first.map(|due| due.max(self.not_before))
    }

    /// The bytes of all files in hand.
    pub(super) fn bytes(&self) -> u64 {
        self.in_hand.values().map(|waiting| waiting.file.size).sum()
    }

    /// Forgets the open table; it is opened anew by the next turn.
    pub(super) fn close(&mut self) {
        self.run = None;
        self.merges = JoinSet::new();
        self.since = None;
        self.merge_at = None;
    }

    pub(super) fn take_in_hand(&mut self, files: Vec<ChangeFile>, now: Instant) {
        for file in files {
            if let Entry::Vacant(place) = self.in_hand.entry(file.id()) {
                place.insert(Waiting { file, failures: 0, not_before: now });
                self.since.get_or_insert(now);
            }
        }
    }

    /// Takes in hand what the chain holds, as far as it was read: no other place has it.
    pub(super) fn take_held(&mut self, now: Instant) {
        let held = self.run.as_mut().map(|run| run.ledger().state().held().cloned().collect());
        self.take_in_hand(held.unwrap_or_default(), now);
    }

    /// The files to carry now: one batch of those that may be tried.
    pub(super) fn next_batch(&mut self, table: &TableName, pipeline: &Pipeline, now: Instant) -> Vec<ChangeFile> {
        let ready = self.in_hand.values().filter(|waiting| waiting.not_before <= now);
        let ready = ready.map(|waiting| waiting.file.clone()).collect();
        let mut batches = batch::cut(table, ready, &pipeline.config.pipeline.limits).into_iter();
        let first = batches.next().map(|batch| batch.files).unwrap_or_default();
        self.since = batches.next().map(|_| now);
        first
    }

    pub(super) fn forget<'a>(&mut self, files: impl IntoIterator<Item = &'a FileId>) {
        files.into_iter().for_each(|file| _ = self.in_hand.remove(file));
    }

    /// Files that could not be read are tried again by themselves; returns those that are given up, which only
    /// happens where others could be read: else the store is out of order, and giving up would only bring them again.
    pub(super) fn put_off(&mut self, files: &[ChangeFile], others_read: bool, now: Instant) -> Vec<FileId> {
        let mut given_up = Vec::new();
        for file in files.iter().map(ChangeFile::id) {
            let Some(waiting) = self.in_hand.get_mut(&file) else { continue };
            waiting.failures = waiting.failures.saturating_add(1);
            waiting.not_before = now + (self.pace.pause * (1 << waiting.failures.min(6))).min(self.pace.pause_max);
            // What waits in the chain has no other place to come from.
            let held = self.run.as_mut().is_some_and(|run| run.ledger().state().is_held(file));
            if waiting.failures >= FAILURES_MAX && others_read && !held {
                self.in_hand.remove(&file);
                given_up.push(file);
            }
        }
        given_up
    }

    pub(super) fn succeeded(&mut self, now: Instant, merge_every: Duration) {
        self.pause = self.pace.pause;
        self.held = false;
        self.chain = None;
        if self.merges.is_empty() && self.run.as_ref().is_some_and(TableRun::has_unmerged) {
            self.merge_at.get_or_insert(self.merged_at.map_or(now, |merged| merged + merge_every));
        }
        self.keep_waiting(now);
    }

    /// The chain was read to its end.
    pub(super) fn looked(&mut self, now: Instant) {
        self.look_at = now + self.pace.looks_every;
    }

    /// After a turn in which not all was done, what is left waits its time; after the next failure, twice as long.
    pub(super) fn wait(&mut self, jittered: Duration, now: Instant) {
        self.not_before = now + jittered;
        self.pause = (self.pause * 2).min(self.pace.pause_max);
        self.turn_due = true;
        self.keep_waiting(now);
    }

    fn keep_waiting(&mut self, now: Instant) {
        if self.in_hand.values().any(|waiting| waiting.failures == 0) {
            self.since.get_or_insert(now);
        }
    }

    pub(super) fn stop(&mut self, now: Instant) {
        let pause = if self.held { (self.pause * 2).min(self.pace.stopped_pause_max) } else { self.pace.stopped_pause };
        self.close();
        self.held = true;
        self.pause = pause;
        self.not_before = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_given_up_only_where_others_can_be_read() {
        let now = Instant::now();
        let a = ChangeFile::sample("a");
        let mut agenda = Agenda::new(Pace::default(), now);
        agenda.take_in_hand(vec![a.clone()], now);
        for _ in 0..100 {
            assert!(
                agenda.put_off(std::slice::from_ref(&a), false, now).is_empty(),
                "the store is out of order, not the file"
            );
        }
        assert_eq!(agenda.put_off(std::slice::from_ref(&a), true, now), [a.id()]);
        assert_eq!(agenda.bytes(), 0);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_waits_by_itself_and_longer_each_time() {
        let now = Instant::now();
        let pace = Pace::default();
        let (a, b) = (ChangeFile::sample("a"), ChangeFile::sample("b"));
        let mut agenda = Agenda::new(pace, now);
        agenda.take_in_hand(vec![a.clone(), b.clone()], now);
        let pauses: Vec<Duration> = (0..8)
            .map(|_| {
                agenda.put_off(std::slice::from_ref(&a), false, now);
                agenda.in_hand[&a.id()].not_before - now
            })
            .collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]) && pauses[0] < pauses[2], "{pauses:?}");
        assert_eq!(pauses.last(), Some(&pace.pause_max));
        assert_eq!(agenda.in_hand[&b.id()].not_before, now);
    }
}
