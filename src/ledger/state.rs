//! What a table's chain amounts to: the fold of its entries, in their order. Pure: no I/O, no clock.
//!
//! Files that got a final state before the chain was last compacted stand in segments; of them the state knows those
//! that were looked up. An entry that no writer of this protocol can have written at its place makes
//! the chain a damaged one; the state then stays as it was before it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::change::batch::{Attempt, CommitOutcome, MergeAttempt, MergeCounts};
use crate::change::{self, ChangeFile, FileId, FileKind};
use crate::config::{Mode, TargetRules};
use crate::error::{Error, Result};
use crate::trial::planted::Planted;

use super::entry::{Entry, FileEntry, FileKey, Intent, Opened, Reload, Segment, SetAside, Standing, damaged};

/// How many of the latest files [`State::set_aside_recently`] looks back on.
pub const RECENT_FILES: usize = 100;

/// Where a file stands; a file the chain does not name, or only in lost intents, stands nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// In an intent without an outcome.
    Claimed {
        /// The number of the intent's entry.
        intent: u64,
    },
    /// Its rows are visible.
    Committed,
    /// It cannot be used.
    SetAside,
    /// It was overwritten before it was read.
    Superseded,
    /// It was deleted before it was read.
    Gone,
}

/// How many files that were looked up are remembered, but for those that are looked up at once.
const RECALLED_MAX: usize = 100_000;

/// The fold of a chain's entries up to [`head`](State::head).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    head: u64,
    /// The number of the latest compaction; 0: there was none.
    compacted: u64,
    opened: Option<Opened>,
    /// The files of the entries since then, and those that had no final state then.
    files: HashMap<FileId, Seen>,
    /// Of files on a disk.
    locations: HashMap<String, Version>,
    segments: Vec<Segment>,
    sightings: Vec<Segment>,
    /// What was looked up in the segments; None: the file is in none of them.
    recalled: HashMap<FileId, Option<FileState>>,
    /// The attempts since the latest compaction, of batches and of merges, with their entries' numbers, and those that
    /// were open or not merged then.
    attempts: HashMap<String, u64>,
    open_intents: BTreeMap<u64, Intent>,
    /// Outcomes since the latest compaction, and all that were lost.
    outcomes: BTreeMap<u64, CommitOutcome>,
    /// Committed rows that no finished merge has, by the number of their intent: their attempt, and how many.
    unmerged: BTreeMap<u64, (Attempt, u64)>,
    held: BTreeMap<FileId, ChangeFile>,
    merged: BTreeMap<u64, MergeCounts>,
    standing: Standing,
}

/// What is kept of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    state: Option<FileState>,
    time_ms: i64,
    day: Option<i64>,
}

impl Seen {
    fn new(file: FileKey, time_ms: i64) -> Self {
        Self { state: None, time_ms, day: file.day }
    }
}

/// The newest known version of what lies at a location.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    size: u64,
    modified_ms: i64,
    version: String,
}

impl State {
    /// Takes in the entry with this number, which must be the next one.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the chain is damaged; nothing has changed then.
    pub fn apply(&mut self, number: u64, entry: &Entry) -> Result<()> {
        if self.head.checked_add(1) != Some(number) {
            return Err(damaged(number, format!("it follows entry {}", self.head)));
        }
        self.check(entry).map_err(|what| damaged(number, what))?;
        self.head = number;
        self.take(number, entry);
        Ok(())
    }

    /// Demands that `entry` may come next, so that nothing is written that would damage the chain.
    pub(super) fn admit(&self, entry: &Entry) -> Result<()> {
        self.check(entry).map_err(|what| {
            Error::bug(format!("an entry that must not follow entry {} was to be written: {what}", self.head))
        })
    }

    /// The number of the last entry; 0 where there is none.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The number of the latest compaction; 0 where there was none.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// What was fixed when the chain was opened; None where it has no entries.
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// The present generation; None where the chain has no entries.
    pub fn generation(&self) -> Option<u64> {
        self.opened.as_ref().map(|opened| opened.generation)
    }

    /// The generation that is being built beside this one.
    pub fn reload(&self) -> Option<&Reload> {
        self.standing.reload.as_ref()
    }

    /// Whether the file is to be carried here: of the changes since another generation began to be built both have
    /// theirs, its load is its alone. Of what comes while that takes this one's place it is the heir.
    pub(super) fn has(&self, file: &FileEntry) -> bool {
        let is_of_next = |reload: &Reload| file.kind == FileKind::Load && file.is_since(reload.cut_over_ms);
        self.opened.as_ref().is_none_or(|opened| opened.has(file))
            && (self.is_outgoing() || !self.reload().is_some_and(is_of_next))
    }

    /// The highest number of a generation there ever was, be it that it was given up.
    pub fn generations(&self) -> u64 {
        self.generation().unwrap_or_default().max(self.standing.reloads)
    }

    /// Whether nothing may be begun any more in this chain, as another generation is about to take its place or it is
    /// about to take that of another.
    pub fn is_closed(&self) -> bool {
        self.standing.closed
    }

    /// Whether another generation is about to take this one's place: what is not merged never will be.
    pub fn is_outgoing(&self) -> bool {
        self.standing.closed && self.standing.reload.is_some()
    }

    /// Whether the chain is that of a generation that was given up.
    pub fn is_abandoned(&self) -> bool {
        self.standing.abandoned
    }

    /// Where a file stands; None: it may be claimed, or stands in a segment and was not looked up.
    pub fn file_state(&self, file: FileId) -> Option<FileState> {
        match self.files.get(&file) {
            Some(seen) => seen.state,
            None => self.recalled.get(&file).copied().flatten(),
        }
    }

    /// The time in ms under which a file was first seen. It orders the file's rows, so it must be kept
    /// where the file is tried again.
    pub fn first_time_ms(&self, file: FileId) -> Option<i64> {
        self.files.get(&file).map(|seen| seen.time_ms)
    }

    /// The version of the file at `location`, where the newest file known there has this size and was
    /// modified then. It spares reading a file only to learn that it is a known one.
    pub fn known_file(&self, location: &str, size: u64, modified_ms: i64) -> Option<&str> {
        let known = self.locations.get(location)?;
        (known.size == size && known.modified_ms == modified_ms).then_some(known.version.as_str())
    }

    /// Intents without an outcome, with their numbers, in order: each is to be committed, never run again.
    pub fn open_intents(&self) -> impl Iterator<Item = (u64, &Intent)> {
        self.open_intents.iter().map(|(number, intent)| (*number, intent))
    }

    /// What became of the intent with this number; None where it is open or there is none.
    pub fn outcome(&self, intent: u64) -> Option<CommitOutcome> {
        if self.open_intents.contains_key(&intent) {
            return None;
        }
        // Of those that were ended before the chain was compacted only the lost ones are told apart.
        let compacted = (intent <= self.compacted).then_some(CommitOutcome::Committed);
        self.outcomes.get(&intent).copied().or(compacted)
    }

    /// The number of the intent that names this attempt, whatever became of it.
    pub fn intent_number(&self, attempt: &str) -> Option<u64> {
        self.attempt_number(attempt).filter(|number| self.is_intent(*number))
    }

    /// The merge that was begun and is not known to be done, with its number.
    pub fn open_merge(&self) -> Option<(u64, &MergeAttempt)> {
        self.standing.open_merge.as_ref().map(|(number, merge)| (*number, merge))
    }

    /// What the merge with this number did; None where it is open or there is none, or where the chain was compacted
    /// since.
    pub fn merge_counts(&self, merge: u64) -> Option<MergeCounts> {
        self.merged.get(&merge).copied()
    }

    /// Whether the merge with this number was ended before the chain was compacted.
    pub(super) fn is_merged_and_compacted(&self, merge: u64) -> bool {
        merge <= self.compacted && self.standing.open_merge.as_ref().is_none_or(|(open, _)| *open != merge)
    }

    /// The attempts whose committed rows are in no finished merge, and how many rows, in the order of their intents.
    /// None in mode `append`.
    pub fn unmerged(&self) -> impl Iterator<Item = (&Attempt, u64)> {
        self.unmerged.values().map(|(attempt, rows)| (attempt, *rows))
    }

    /// Files that left their source while the table was stopped and wait here until they are done: those whose
    /// intent was lost are among them again.
    pub fn held(&self) -> impl Iterator<Item = &ChangeFile> {
        let is_waiting = |file: &&ChangeFile| self.file_state(file.id()).is_none() && self.has(&FileEntry::from(*file));
        self.held.values().filter(is_waiting)
    }

    /// Whether this file waits here.
    pub fn is_held(&self, file: FileId) -> bool {
        self.held.contains_key(&file)
    }

    /// Every column that files brought, in the order of first sight.
    pub fn source_columns(&self) -> &[String] {
        &self.standing.source_columns
    }

    /// The fingerprint of the transform that made the latest committed rows.
    pub fn last_transform(&self) -> Option<&str> {
        self.standing.transform.as_ref().map(|(_, fingerprint)| fingerprint.as_str())
    }

    /// What the target keeps of the changes; None before the first intent.
    pub fn rules(&self) -> Option<&TargetRules> {
        self.standing.rules.as_ref()
    }

    /// How many files were committed.
    pub fn files_committed(&self) -> u64 {
        self.standing.files_committed
    }

    /// How many rows their intents had.
    pub fn rows_committed(&self) -> u64 {
        self.standing.rows_committed
    }

    /// How many files were deleted or overwritten before they were read.
    pub fn files_vanished(&self) -> u64 {
        self.standing.files_vanished
    }

    /// The files that were set aside, oldest first.
    pub fn set_aside(&self) -> &[SetAside] {
        &self.standing.set_aside
    }

    /// How many of the last [`RECENT_FILES`] files with a final state were set aside.
    pub fn set_aside_recently(&self) -> usize {
        self.standing.recent.iter().filter(|set_aside| **set_aside).count()
    }

    /// Says what is wrong with `entry` as the next one.
    fn check(&self, entry: &Entry) -> Result<(), String> {
        let opened = match (entry, &self.opened) {
            (Entry::Opened(_), None) => return Ok(()),
            (Entry::Opened(_), Some(_)) => return Err("it opens the chain a second time".into()),
            (_, None) => return Err("the chain does not begin with what opens it".into()),
            (_, Some(opened)) => opened,
        };
        if self.standing.closed && entry.begins_something() && !Planted::ClosedIgnored.is_there() {
            return Err("it begins something where the chain is closed".into());
        }
        match entry {
            Entry::Opened(_) => Ok(()),
            Entry::Intent(intent) => self.check_intent(intent, opened.generation),
            Entry::Committed { intent } | Entry::Lost { intent } => self
                .is_intent(*intent)
                .then_some(())
                .ok_or_else(|| format!("it ends intent {intent}, which does not exist")),
            Entry::SetAside { file, .. } => self.check_final(file, FileState::SetAside),
            Entry::TooLate { generation, .. } if *generation != opened.generation => {
                Err(format!("it is too late for generation {generation}, the chain is of {}", opened.generation))
            }
            Entry::TooLate { file, .. } => self.check_final(file, FileState::SetAside),
            Entry::Superseded { file } => self.check_final(file, FileState::Superseded),
            Entry::Gone { file } => self.check_final(file, FileState::Gone),
            Entry::Held { files } if files.is_empty() => Err("it holds no file".into()),
            Entry::Held { .. } => Ok(()),
            Entry::MergeIntent(merge) => self.check_merge(merge),
            Entry::Merged { merge, .. } => {
                let known = self.merged.contains_key(merge)
                    || *merge <= self.compacted
                    || self.open_merge().is_some_and(|(open, _)| open == *merge);
                known.then_some(()).ok_or_else(|| format!("it ends merge {merge}, which does not exist"))
            }
            Entry::Compacted(snapshot) if snapshot.opened == *opened => Ok(()),
            Entry::Compacted(snapshot) => self.check_switch(&snapshot.opened, opened),
            Entry::Reload(reload) => self.check_reload(reload, opened),
            Entry::Closed => Ok(()),
            Entry::Abandoned { generation } => self.check_abandoned(*generation, opened),
            Entry::Purge(purge) => self.check_purge(purge),
            Entry::Purged { purge } => {
                let known = *purge <= self.head && (self.open_purge().is_none_or(|(open, _)| open >= *purge));
                known.then_some(()).ok_or_else(|| format!("it ends purge {purge}, which does not exist"))
            }
        }
    }

    /// The chain of a generation that was built takes the place of this one.
    fn check_switch(&self, built: &Opened, opened: &Opened) -> Result<(), String> {
        let Some(reload) = &self.standing.reload else { return Err("it compacts another chain".into()) };
        let cut_over_ms = Some(reload.cut_over_ms);
        if *built
            != (Opened { generation: reload.generation, cut_over_ms, opened_ms: built.opened_ms, ..opened.clone() })
        {
            return Err("it compacts another chain".into());
        }
        if !self.standing.closed || !self.open_intents.is_empty() || self.standing.open_merge.is_some() {
            return Err(format!("it switches to generation {} while something is open", reload.generation));
        }
        Ok(())
    }

    fn check_reload(&self, reload: &Reload, opened: &Opened) -> Result<(), String> {
        if let Some(open) = &self.standing.reload {
            return Err(format!("it begins a generation while generation {} is built", open.generation));
        }
        if reload.generation <= opened.generation.max(self.standing.reloads) {
            return Err(format!("it begins generation {} a second time", reload.generation));
        }
        Ok(())
    }

    fn check_abandoned(&self, generation: u64, opened: &Opened) -> Result<(), String> {
        let is_built_here = opened.generation == generation && !self.standing.closed;
        let is_built_beside = self.standing.reload.as_ref().is_some_and(|reload| reload.generation == generation);
        (is_built_here || is_built_beside)
            .then_some(())
            .ok_or_else(|| format!("it gives up generation {generation}, which is not being built"))
    }

    fn check_intent(&self, intent: &Intent, generation: u64) -> Result<(), String> {
        if intent.generation != generation {
            return Err(format!("it is of generation {}, the chain of {generation}", intent.generation));
        }
        if intent.files.is_empty() {
            return Err("it claims no file".into());
        }
        if intent.purged_us < self.purged_us() && !Planted::PurgeUnchecked.is_there() {
            return Err("its changes were not held against the latest purge".into());
        }
        self.check_attempt(&intent.attempt.id)?;
        let mut claimed = HashSet::new();
        for file in &intent.files {
            let is_free = self.file_state(file.id).is_none() || Planted::ClaimUnchecked.is_there();
            if !is_free || !claimed.insert(file.id) {
                return Err(format!("it claims a second time the file {}", file.location));
            }
        }
        Ok(())
    }

    /// A file may be given the state it has (the first entry counts), but no other.
    fn check_final(&self, file: &FileEntry, state: FileState) -> Result<(), String> {
        match self.file_state(file.id) {
            Some(other) if other != state => Err(format!("it makes {state:?} what is {other:?}: {}", file.location)),
            _ => Ok(()),
        }
    }

    fn check_merge(&self, merge: &MergeAttempt) -> Result<(), String> {
        if self.is_outgoing() {
            return Err("it begins a merge of a generation whose place another takes".into());
        }
        if let Some((open, _)) = self.open_merge() {
            return Err(format!("it begins a merge while merge {open} is open"));
        }
        if merge.batches.is_empty() {
            return Err("it merges no batch".into());
        }
        if merge.purged_us > self.purged_us() {
            return Err("it merges by a purge that does not exist".into());
        }
        self.check_attempt(&merge.attempt.id)?;
        let mut named = HashSet::new();
        for batch in &merge.batches {
            let waits = self.attempt_number(batch).is_some_and(|number| self.unmerged.contains_key(&number));
            if !waits || !named.insert(batch) {
                return Err(format!("it merges batch `{batch}`, which does not wait for it"));
            }
        }
        Ok(())
    }

    fn check_attempt(&self, id: &str) -> Result<(), String> {
        match self.attempt_number(id) {
            Some(number) => Err(format!("its attempt `{id}` is that of entry {number}")),
            None => Ok(()),
        }
    }

    fn attempt_number(&self, attempt: &str) -> Option<u64> {
        self.attempts.get(attempt).copied()
    }

    fn is_intent(&self, number: u64) -> bool {
        number <= self.compacted || self.open_intents.contains_key(&number) || self.outcomes.contains_key(&number)
    }

    /// Takes in an entry that was checked.
    fn take(&mut self, number: u64, entry: &Entry) {
        match entry {
            Entry::Opened(opened) => self.opened = Some(opened.clone()),
            Entry::Intent(intent) => self.take_intent(number, intent),
            Entry::Committed { intent } => self.take_outcome(*intent, CommitOutcome::Committed),
            Entry::Lost { intent } => self.take_outcome(*intent, CommitOutcome::Lost),
            Entry::SetAside { file, reason } => self.take_set_aside(file, reason, true),
            Entry::TooLate { file, reason, .. } => self.take_set_aside(file, reason, false),
            Entry::Superseded { file } => self.take_vanished(file, FileState::Superseded),
            Entry::Gone { file } => self.take_vanished(file, FileState::Gone),
            Entry::Held { files } => self.take_held(files),
            Entry::MergeIntent(merge) => {
                self.attempts.insert(merge.attempt.id.clone(), number);
                self.standing.open_merge = Some((number, merge.clone()));
            }
            Entry::Merged { merge, counts } => self.take_merged(*merge, *counts),
            Entry::Compacted(snapshot) => *self = Self::compacted_at(number, snapshot),
            Entry::Reload(reload) => {
                self.standing.reload = Some(reload.clone());
                self.standing.reloads = reload.generation;
            }
            Entry::Closed => self.standing.closed = true,
            Entry::Abandoned { .. } => self.take_abandoned(),
            Entry::Purge(purge) => self.standing.open_purge = Some((number, purge.clone())),
            Entry::Purged { purge } => self.take_purged(*purge),
        }
    }

    fn take_intent(&mut self, number: u64, intent: &Intent) {
        for file in &intent.files {
            self.see(file, FileState::Claimed { intent: number });
        }
        for column in &intent.source_columns {
            if !self.standing.source_columns.contains(column) {
                self.standing.source_columns.push(column.clone());
            }
        }
        if self.standing.rules.is_none() && intent.rules.mode == Mode::Append {
            // Those of a rebuilt chain, which does not know whether they are merged.
            self.unmerged.clear();
        }
        self.standing.rules.get_or_insert_with(|| intent.rules.clone());
        self.attempts.insert(intent.attempt.id.clone(), number);
        self.open_intents.insert(number, intent.clone());
        if intent.prepared.rows == 0 {
            self.take_outcome(number, CommitOutcome::Committed);
        }
    }

    /// The chain that is given up is closed by it; the one beside which it was built goes on.
    fn take_abandoned(&mut self) {
        self.standing.abandoned = self.standing.reload.take().is_none();
        self.standing.closed = self.standing.abandoned;
    }

    /// Ends an intent; of several outcomes the first counts.
    fn take_outcome(&mut self, number: u64, outcome: CommitOutcome) {
        let Some(intent) = self.open_intents.remove(&number) else { return };
        self.outcomes.insert(number, outcome);
        for file in &intent.files {
            if let Some(seen) = self.files.get_mut(&file.id) {
                seen.state = match outcome {
                    CommitOutcome::Committed => Some(FileState::Committed),
                    CommitOutcome::Lost => None,
                };
            }
        }
        if outcome == CommitOutcome::Committed {
            self.take_committed(number, intent);
        }
    }

    fn take_committed(&mut self, number: u64, intent: Intent) {
        for file in &intent.files {
            self.held.remove(&file.id);
            if file.kind == FileKind::Cdc {
                self.standing.newest_ms = self.standing.newest_ms.max(file.time_ms);
            }
            self.standing.files_committed = self.standing.files_committed.saturating_add(1);
            self.remember(false);
        }
        let rows = intent.prepared.rows;
        self.standing.rows_committed = self.standing.rows_committed.saturating_add(rows);
        if self.standing.transform.as_ref().is_none_or(|(latest, _)| *latest < number) {
            self.standing.transform = Some((number, intent.transform));
        }
        let merges = intent.rules.mode == Mode::Merge;
        if merges && rows > 0 {
            self.unmerged.insert(number, (intent.attempt, rows));
        }
    }

    /// Gives a file its final state and tells whether that is new.
    fn take_final(&mut self, file: &FileEntry, state: FileState) -> bool {
        let new = self.file_state(file.id).is_none();
        if new {
            self.see(file, state);
            self.held.remove(&file.id);
        }
        new
    }

    fn take_vanished(&mut self, file: &FileEntry, state: FileState) {
        if self.take_final(file, state) {
            self.remember(false);
            self.standing.files_vanished += 1;
        }
    }

    /// Sets a file aside, which `counts` against the table or not.
    fn take_set_aside(&mut self, file: &FileEntry, reason: &str, counts: bool) {
        if self.take_final(file, FileState::SetAside) {
            self.remember(counts);
            self.standing.set_aside.push(SetAside { file: file.clone(), reason: reason.to_owned() });
        }
    }

    fn take_merged(&mut self, merge: u64, counts: MergeCounts) {
        let Some((_, done)) = self.standing.open_merge.take_if(|(open, _)| *open == merge) else { return };
        for batch in &done.batches {
            if let Some(number) = self.attempts.get(batch) {
                self.unmerged.remove(number);
            }
        }
        if Planted::MergeCountsForAll.is_there() {
            self.unmerged.clear();
        }
        self.merged.insert(merge, counts);
    }

    /// Notes a file and where it stands; the time of its first sight stays.
    fn see(&mut self, file: &FileEntry, state: FileState) {
        self.files.entry(file.id).or_insert_with(|| Seen::new(FileKey::from(file), file.time_ms)).state = Some(state);
        if change::is_on_disk(&file.location) {
            let version = Version { size: file.size, modified_ms: file.modified_ms, version: file.version.clone() };
            self.locations.insert(file.location.clone(), version);
        }
    }

    /// Notes files that wait here. What has a final state needs not wait; what is claimed waits for its outcome.
    fn take_held(&mut self, files: &[ChangeFile]) {
        for file in files {
            let key = FileKey::from(file);
            let seen = self.files.entry(key.id).or_insert_with(|| Seen::new(key, file.time_ms));
            if matches!(seen.state, None | Some(FileState::Claimed { .. })) {
                self.held.insert(file.id(), ChangeFile { time_ms: seen.time_ms, ..file.clone() });
            }
        }
    }

    /// Notes that one more file has a final state.
    fn remember(&mut self, set_aside: bool) {
        if self.standing.recent.len() == RECENT_FILES {
            self.standing.recent.pop_front();
        }
        self.standing.recent.push_back(set_aside);
    }
}

mod compacted;
mod purge;
#[cfg(test)]
mod tests;
