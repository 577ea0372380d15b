//! The chain of one table as its writers use it: claim files, say what became of them, begin and end merges.
//!
//! Every step reads to the head, decides on the state there, and creates the next entry; where another
//! writer was first, it reads on and decides again. So each step may be repeated at will, by anybody.

use std::sync::Arc;

use crate::change::batch::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Purge};
use crate::change::{ChangeFile, FileId, TableName};
use crate::clock::Clock;
use crate::config::{Order, TargetRules};
use crate::error::{Error, Result};
use crate::trial::planted::Planted;

use super::Ledger;
use super::chain::{Chain, Written, next};
use super::entry::{Entry, Envelope, FileEntry, FileKey, Intent, Opened, Reload, damaged};
use super::segment::Segments;
use super::state::{FileState, State};

/// How often in one step other writers may be first.
pub(super) const LOST_RACES_MAX: u32 = 100;

/// The generation a chain begins with.
pub const FIRST_GENERATION: u64 = 1;

/// What the configuration says of a table that its chain must not contradict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// How well the order of changes is known.
    pub order: Order,
    /// The table's name at the sink.
    pub target: TableName,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The attempt's intent stands in the chain under this number; commit it.
    Taken(u64),
    /// These files are claimed by others, or done, or of another generation; nothing was written. The attempt must never
    /// be committed.
    Refused(Vec<FileId>),
    /// Tombstones are purged, and the batch's changes were not held against that; nothing was written. The batch is to be
    /// made anew.
    Outdated,
}

/// One table's chain, and what it amounts to as far as it was read.
#[derive(Debug)]
pub struct TableLedger {
    table: TableName,
    opening: Opening,
    /// The generation that is being built in this chain; None where it is that of the table itself.
    reload: Option<Reload>,
    /// What the generation before keeps of the changes: the same holds for the one that is being built.
    rules_before: Option<TargetRules>,
    pub(super) chain: Chain,
    pub(super) segments: Segments,
    pub(super) state: State,
    clock: Arc<dyn Clock>,
    /// When the chain was looked at first: a chain that begins from here on began then.
    looked_ms: i64,
    writer: String,
    read_only: bool,
}

/// What a step makes of the state at the head.
pub(super) enum Step<T> {
    /// It is done, and this is the answer.
    Done(T),
    /// This entry must come next; then the step looks again.
    Write(Entry),
}

impl TableLedger {
    pub(super) async fn open(
        ledger: &Ledger,
        table: &TableName,
        opening: Opening,
        reload: Option<Reload>,
        rules_before: Option<TargetRules>,
    ) -> Result<Self> {
        let mut opened = Self {
            table: table.clone(),
            opening,
            chain: ledger.chain_of(table, reload.as_ref()),
            reload,
            rules_before,
            segments: ledger.segments(table),
            state: State::default(),
            clock: Arc::clone(&ledger.clock),
            looked_ms: ledger.clock.now().timestamp_millis(),
            writer: ledger.writer.clone(),
            read_only: ledger.read_only,
        };
        opened.chain.read_all(&mut opened.state).await.map_err(|error| error.in_table(table))?;
        opened.demand_opening()?;
        Ok(opened)
    }

    /// What the chain amounts to as far as it was read.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The generation that files belong to now.
    pub fn generation(&self) -> u64 {
        self.state.generation().unwrap_or(self.opened().generation)
    }

    pub(super) fn table(&self) -> &TableName {
        &self.table
    }

    pub(super) fn fresh_id(&self) -> String {
        self.clock.fresh_id().to_string()
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }

    /// The table's name at the sink.
    pub fn target(&self) -> &TableName {
        &self.opening.target
    }

    /// What the target keeps of the changes; None before the first intent of the first generation.
    pub fn rules(&self) -> Option<&TargetRules> {
        self.state.rules().or(self.rules_before.as_ref())
    }

    /// Whether the chain is that of a generation that is being built.
    pub fn is_reload(&self) -> bool {
        self.reload.is_some()
    }

    /// Whether the file is to be carried here; one that is not is done with.
    pub fn has(&self, file: &ChangeFile) -> bool {
        let file = FileEntry::from(file);
        match self.state.opened() {
            Some(_) => self.state.has(&file),
            None => self.opened().has(&file),
        }
    }

    /// Reads to the head.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the chain is damaged.
    pub async fn refresh(&mut self) -> Result<&State> {
        self.chain.look_again(&mut self.state).await.map_err(|error| error.in_table(&self.table))?;
        self.demand_opening()?;
        Ok(&self.state)
    }

    /// Looks up these files where only segments may know of them, so that [`State::file_state`] tells where each stands.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the ledger is damaged.
    pub async fn recall(&mut self, files: &[FileKey]) -> Result<()> {
        self.state.make_room();
        loop {
            let unknown = self.state.unknown(files);
            if unknown.is_empty() {
                return Ok(());
            }
            let found = self.segments.find(self.state.segments(), &unknown).await;
            if let Some(found) = found.map_err(|error| error.in_table(&self.table))? {
                self.state.recall(&unknown, &found);
                return Ok(());
            }
            self.reread().await?;
        }
    }

    /// Reads the chain anew, as a segment that it named is gone.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it was not compacted since: then the segment is missing.
    pub(super) async fn reread(&mut self) -> Result<()> {
        let compacted = self.state.compacted();
        self.chain.restart(&mut self.state);
        self.read_on().await?;
        if self.state.compacted() > compacted {
            return Ok(());
        }
        Err(damaged(compacted, "a segment that it names is missing").in_table(&self.table))
    }

    /// Writes the intent, unless one of its files is in an intent that is not lost or has a final state.
    /// An intent that stands in the chain already, by its attempt, is not written again.
    ///
    /// # Errors
    /// [`Fenced`](crate::error::Kind::Fenced) where the intent is of another generation;
    /// [`Retry`](crate::error::Kind::Retry) where it is not known whether the intent was written: it may
    /// then be found among [`State::open_intents`], or be claimed again as it is.
    pub async fn claim(&mut self, intent: Intent) -> Result<Claim> {
        let files: Vec<FileKey> = intent.files.iter().map(FileKey::from).collect();
        let (first, before) = (self.opened().generation, self.rules_before.clone());
        self.advance(&files, |state| {
            if let Some(number) = state.intent_number(&intent.attempt.id) {
                return Ok(Step::Done(Claim::Taken(number)));
            }
            demand_open(state)?;
            let generation = state.generation().unwrap_or(first);
            if intent.generation != generation {
                return Err(Error::fenced(format!(
                    "the batch is of generation {}, the table is at {generation}",
                    intent.generation
                )));
            }
            demand_rules(state.rules().or(before.as_ref()), &intent)?;
            if intent.purged_us < state.purged_us() && !Planted::PurgeUnchecked.is_there() {
                return Ok(Step::Done(Claim::Outdated));
            }
            let is_refused = |file: &&FileEntry| state.file_state(file.id).is_some() || !state.has(file);
            let refused: Vec<FileId> = intent.files.iter().filter(is_refused).map(|file| file.id).collect();
            if refused.is_empty() || Planted::ClaimUnchecked.is_there() {
                Ok(Step::Write(Entry::Intent(Box::new(intent.clone()))))
            } else {
                Ok(Step::Done(Claim::Refused(refused)))
            }
        })
        .await
    }

    /// Says what became of an intent, and returns what counts: the first outcome in the chain.
    ///
    /// # Errors
    /// [`Bug`](crate::error::Kind::Bug) where there is no such intent.
    pub async fn finish(&mut self, intent: u64, outcome: CommitOutcome) -> Result<CommitOutcome> {
        self.advance(&[], |state| match state.outcome(intent) {
            Some(first) => Ok(Step::Done(first)),
            None => Ok(Step::Write(match outcome {
                CommitOutcome::Committed => Entry::Committed { intent },
                CommitOutcome::Lost => Entry::Lost { intent },
            })),
        })
        .await
    }

    /// Sets a file aside, unless it has a state; returns the state that counts.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the ledger cannot be written now.
    pub async fn set_aside(&mut self, file: &FileEntry, reason: &str) -> Result<FileState> {
        self.end_file(file, || Entry::SetAside { file: file.clone(), reason: reason.into() }).await
    }

    /// Sets a file aside that is too late for this generation, as [`set_aside`](Self::set_aside) does.
    ///
    /// # Errors
    /// [`Fenced`](crate::error::Kind::Fenced) where the table is of another generation by now; else as those of
    /// [`set_aside`](Self::set_aside).
    pub async fn too_late(&mut self, file: &FileEntry, reason: &str, generation: u64) -> Result<FileState> {
        let first = self.opened().generation;
        self.advance(&[FileKey::from(file)], |state| match state.file_state(file.id) {
            Some(known) => Ok(Step::Done(known)),
            None if state.generation().unwrap_or(first) != generation => {
                Err(Error::fenced(format!("the file is too late for generation {generation}, which is over")))
            }
            None => {
                demand_open(state)?;
                Ok(Step::Write(Entry::TooLate { file: file.clone(), reason: reason.into(), generation }))
            }
        })
        .await
    }

    /// Notes that a file was overwritten before it was read, as [`set_aside`](Self::set_aside) does.
    ///
    /// # Errors
    /// As those of [`set_aside`](Self::set_aside).
    pub async fn superseded(&mut self, file: &FileEntry) -> Result<FileState> {
        self.end_file(file, || Entry::Superseded { file: file.clone() }).await
    }

    /// Notes that a file was deleted before it was read, as [`set_aside`](Self::set_aside) does.
    ///
    /// # Errors
    /// As those of [`set_aside`](Self::set_aside).
    pub async fn gone(&mut self, file: &FileEntry) -> Result<FileState> {
        self.end_file(file, || Entry::Gone { file: file.clone() }).await
    }

    /// Writes down files whose source is then told that they are done, although they are not: they wait in
    /// the chain. What has a final state, or waits already, is left out; what an intent claims is not, as its rows
    /// may be lost.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the ledger cannot be written now.
    pub async fn hold(&mut self, files: &[ChangeFile]) -> Result<()> {
        if Planted::HeldForgotten.is_there() {
            return Ok(());
        }
        let keys: Vec<FileKey> = files.iter().map(FileKey::from).collect();
        self.advance(&keys, |state| {
            let open = |file: FileId| matches!(state.file_state(file), None | Some(FileState::Claimed { .. }));
            let new = |file: &&ChangeFile| open(file.id()) && !state.is_held(file.id());
            let files: Vec<ChangeFile> = files.iter().filter(new).cloned().collect();
            Ok(if files.is_empty() { Step::Done(()) } else { Step::Write(Entry::Held { files }) })
        })
        .await
    }

    /// The merge to be done now, with its number: the open one where there is one, whoever began it, else a
    /// new one under `attempt` over at most `batches_max` of the batches that wait, oldest first. None where
    /// none waits.
    ///
    /// # Errors
    /// [`Bug`](crate::error::Kind::Bug) where the attempt was used before.
    pub async fn open_merge(&mut self, attempt: &Attempt, batches_max: usize) -> Result<Option<(u64, MergeAttempt)>> {
        self.advance(&[], |state| {
            if let Some((number, merge)) = state.open_merge() {
                return Ok(Step::Done(Some((number, merge.clone()))));
            }
            if state.is_outgoing() {
                return Ok(Step::Done(None));
            }
            let (mut waiting, purged_us) = state.to_merge();
            waiting.truncate(batches_max);
            let times = waiting.iter().map(|(attempt, _)| attempt.loaded_at);
            let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
                return Ok(Step::Done(None));
            };
            let batches = waiting.iter().map(|(attempt, _)| attempt.id.clone()).collect();
            let rows = waiting.iter().map(|(_, rows)| rows).sum();
            let merge = MergeAttempt { attempt: attempt.clone(), batches, rows, loaded: (first, last), purged_us };
            Ok(Step::Write(Entry::MergeIntent(merge)))
        })
        .await
    }

    /// Says that a merge is done, and returns what it did by the first entry that says so; where that was compacted, what
    /// the caller says.
    ///
    /// # Errors
    /// [`Bug`](crate::error::Kind::Bug) where there is no such merge.
    pub async fn finish_merge(&mut self, merge: u64, counts: MergeCounts) -> Result<MergeCounts> {
        self.advance(&[], |state| match state.merge_counts(merge) {
            Some(first) => Ok(Step::Done(first)),
            None if state.is_merged_and_compacted(merge) => Ok(Step::Done(counts)),
            None => Ok(Step::Write(Entry::Merged { merge, counts })),
        })
        .await
    }

    /// Begins to purge tombstones of changes from before this time, in µs since 1970. One that is open already, or goes as
    /// far, stays; so does one of a chain that is closed, or that is being built.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the ledger cannot be written now.
    pub async fn begin_purge(&mut self, below_us: u64) -> Result<()> {
        let (id, is_reload) = (self.fresh_id(), self.is_reload());
        self.advance(&[], |state| {
            let stays = is_reload || state.is_closed() || state.open_purge().is_some() || below_us <= state.purged_us();
            let purge = Purge { id: id.clone(), below_us };
            Ok(if stays { Step::Done(()) } else { Step::Write(Entry::Purge(purge)) })
        })
        .await
    }

    /// Says that a purge is done.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the ledger cannot be written now.
    pub async fn finish_purge(&mut self, purge: u64) -> Result<()> {
        self.advance(&[], |state| match state.open_purge() {
            Some((open, _)) if open == purge => Ok(Step::Write(Entry::Purged { purge })),
            _ => Ok(Step::Done(())),
        })
        .await
    }

    async fn end_file(&mut self, file: &FileEntry, entry: impl Fn() -> Entry) -> Result<FileState> {
        self.advance(&[FileKey::from(file)], |state| match state.file_state(file.id) {
            Some(first) => Ok(Step::Done(first)),
            None => {
                demand_open(state)?;
                Ok(Step::Write(entry()))
            }
        })
        .await
    }

    /// Takes a step, which is about these files: see the head of this file.
    pub(super) async fn advance<T>(
        &mut self,
        files: &[FileKey],
        decide: impl Fn(&State) -> Result<Step<T>>,
    ) -> Result<T> {
        self.read_on().await?;
        let mut lost_races = 0;
        while lost_races < LOST_RACES_MAX {
            self.recall(files).await?;
            match decide(&self.state).map_err(|error| error.in_table(&self.table))? {
                Step::Done(answer) => return Ok(answer),
                Step::Write(entry) => {
                    if self.append(entry).await? == Written::Taken {
                        lost_races += 1;
                    }
                }
            }
        }
        Err(self.lost_races())
    }

    pub(super) fn lost_races(&self) -> Error {
        Error::retry("other writers were always first to write the table's next entry")
            .in_table(&self.table)
            .hint("fewer daemons on one table leave each more room")
    }

    /// Tries to make `entry` the next one, or, in an empty chain, the entry that must come before it.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where it was written below a compaction: it counts for nothing there.
    pub(super) async fn append(&mut self, entry: Entry) -> Result<Written> {
        if self.read_only {
            return Err(Error::bug("a ledger that was opened for reading was to be written").in_table(&self.table));
        }
        let entry = if self.state.opened().is_some() { entry } else { Entry::Opened(self.opened()) };
        self.state.admit(&entry).map_err(|error| error.in_table(&self.table))?;
        let envelope = Envelope {
            nonce: self.clock.fresh_id().to_string(),
            written_at: self.clock.now(),
            writer: self.writer.clone(),
            entry,
        };
        let number = next(&self.state)?;
        let written = self.chain.create(number, &envelope).await.map_err(|error| error.in_table(&self.table))?;
        if written == Written::Taken {
            self.read_on().await?;
            return Ok(Written::Taken);
        }
        if self.chain.compacted_above(number).await?.is_some() {
            // It may have counted before, and others may have acted on it: the attempt that it names must not be
            // named again.
            self.read_on().await?;
            return Err(Error::retry("the ledger was compacted while it was written")
                .in_table(&self.table)
                .hint("nothing is lost; another time will do"));
        }
        self.chain.trust(number);
        self.state.apply(number, &envelope.entry)?;
        Ok(written)
    }

    pub(super) async fn read_on(&mut self) -> Result<()> {
        self.chain.read_on(&mut self.state).await.map_err(|error| error.in_table(&self.table))?;
        self.demand_opening()
    }

    pub(super) fn opened(&self) -> Opened {
        let Opening { order, target } = self.opening.clone();
        Opened {
            table: self.table.clone(),
            generation: self.reload.as_ref().map_or(FIRST_GENERATION, |reload| reload.generation),
            order,
            target,
            cut_over_ms: self.reload.as_ref().map(|reload| reload.cut_over_ms),
            opened_ms: self.looked_ms,
        }
    }

    /// Demands that the chain was opened as the configuration has it, if it was opened.
    fn demand_opening(&self) -> Result<()> {
        demand_table(&self.state, &self.table)?;
        let Some(opened) = self.state.opened() else { return Ok(()) };
        let Opening { order, target } = &self.opening;
        let (what, was, is) = if opened.order != *order {
            ("order", word(&opened.order), word(order))
        } else if opened.target != *target {
            ("target", opened.target.to_string(), target.to_string())
        } else {
            return Ok(());
        };
        Err(Error::user(format!("the table was begun with {what} `{was}`, and is configured with `{is}`"))
            .in_table(&self.table)
            .hint(format!("set `{what}: {was}` for the table, or begin anew with another `ledger` and `target`")))
    }
}

/// Demands that the chain is that of this table: a case-blind folder gives two tables one chain.
pub(super) fn demand_table(state: &State, table: &TableName) -> Result<()> {
    match state.opened() {
        Some(opened) if opened.table != *table => {
            Err(Error::user(format!("the ledger keeps the table under the name of another, {}", opened.table))
                .in_table(table)
                .hint("keep the ledger where names that differ only in case stay apart"))
        }
        _ => Ok(()),
    }
}

/// Demands that something may be begun.
fn demand_open(state: &State) -> Result<()> {
    if !state.is_closed() || Planted::ClosedIgnored.is_there() {
        return Ok(());
    }
    if state.is_abandoned() {
        return Err(Error::retry("the generation was given up while it was built")
            .hint("`freshet reload TABLE --abandon` once more ends that"));
    }
    Err(Error::retry("the table is being switched to a new generation")
        .hint("`freshet reload TABLE --complete` does that; where it was broken off, run it again"))
}

/// Demands that an intent keeps what the chain's first intent kept.
fn demand_rules(begun: Option<&TargetRules>, intent: &Intent) -> Result<()> {
    match begun {
        Some(begun) if !begun.same_as(&intent.rules) => {
            Err(Error::user(format!("the table was begun as {begun}, and is now {}", intent.rules))
                .hint("undo the change, or begin anew with another `ledger` and `target`"))
        }
        _ => Ok(()),
    }
}

/// The word that stands for a value in freshet.yaml.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
