//! One table while it runs: finish what is open, carry its files batch by batch, merge.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use tokio::time::Instant;

use crate::catalog::opened::OpenedFile;
use crate::change::batch::{self, Attempt, Batch, CommitOutcome, MergeAttempt, MergeCounts, Prepared};
use crate::change::{ChangeFile, FileId, TableName};
use crate::clock::Clock;
use crate::config::{Mode, TableConfig, TargetRules};
use crate::error::{Error, Kind, Result};
use crate::ledger::{FileEntry, FileKey, FileState, TableLedger};
use crate::pipeline::Pipeline;
use crate::pipeline::ahead::Ahead;
use crate::pipeline::report::{Progress, TableReport};
use crate::pipeline::setup;
use crate::sink::{Sink, Target};
use crate::transform::descriptions::descriptions;
use crate::transform::place::UNKNOWN_COLUMN;
use crate::transform::planned::{Planned, Transform};
use crate::trial::failpoint;
use crate::trial::planted::Planted;

/// Tries of a step that another time may succeed.
const TRIES_MAX: u32 = 4;
/// The pause after the first failed try; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// Most batches of one merge.
const MERGED_BATCHES_MAX: usize = 1_000;
/// Rows after which a merge does not wait for the other batches.
const UNMERGED_ROWS_MAX: u64 = 5_000_000;
/// Files looked at for a column that the SQL names and no file of the batch has.
const FILES_ASKED_MAX: usize = 10_000;
/// Of how many files the error threshold speaks.
const THRESHOLD_FILES: f64 = 100.0;

/// One table while it runs.
pub struct TableRun {
    pub(super) pipeline: Pipeline,
    pub(super) table: TableName,
    pub(super) config: TableConfig,
    pub(super) transform: Transform,
    pub(super) session: SessionContext,
    pub(super) ledger: TableLedger,
    /// Files not yet in a batch, in the order of their time.
    pending: Vec<ChangeFile>,
    /// Batches not yet carried, in the order of their files' time.
    pub(super) waiting: VecDeque<Batch>,
    /// The files of the first of them, while the batch before it is carried.
    pub(super) ahead: Option<Ahead>,
    /// Files of intents whose outcome is not known yet.
    claimed: Vec<ChangeFile>,
    /// Files that could not be read this time.
    left: Vec<ChangeFile>,
    plans: HashMap<SchemaRef, Arc<Planned>>,
    /// Columns of the table, as far as files showed them.
    known: Vec<String>,
    /// What output columns mean, as the SQL says.
    descriptions: BTreeMap<String, String>,
    /// Data errors of each file so far.
    pub(super) tries: HashMap<FileId, u32>,
    finished: BTreeSet<FileId>,
    unmerged_rows: u64,
    /// When a purge of tombstones is to be thought of again.
    pub(super) purge_at: Instant,
}

/// A merge that stands in the ledger, and all that it takes to carry it out.
pub struct MergeWork {
    number: u64,
    merge: MergeAttempt,
    target: Target,
    sink: Arc<dyn Sink>,
    session: SessionContext,
    clock: Arc<dyn Clock>,
}

impl MergeWork {
    /// Merges; may be repeated at will.
    ///
    /// # Errors
    /// Those of the sink.
    pub async fn run(&self) -> Result<MergeCounts> {
        patiently(self.clock.as_ref(), || self.sink.merge(&self.target, &self.merge, &self.session)).await
    }
}

/// Whether a round merges what is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merging {
    /// At its end, and in between where too much waits.
    Now,
    /// The caller does, see [`TableRun::begin_merge`].
    Later,
}

impl TableRun {
    /// Reads the table's chain and its SQL; nothing is written.
    ///
    /// # Errors
    /// Whatever stops the table from the start.
    pub async fn open(pipeline: Pipeline, table: &TableName, runtime: Arc<RuntimeEnv>) -> Result<Self> {
        let config = pipeline.config.table(table).ok_or_else(|| Error::bug("an unlisted table was run"))?.clone();
        let ledger = setup::table_ledger(&pipeline, table, &config).await?;
        let transform = setup::transform(&pipeline.config, table, &config, ledger.generation())?;
        let session = setup::session(runtime, &table.database);
        let known = ledger.state().source_columns().to_vec();
        Ok(Self {
            pipeline,
            table: table.clone(),
            config,
            transform,
            session,
            ledger,
            pending: Vec::new(),
            waiting: VecDeque::new(),
            ahead: None,
            claimed: Vec::new(),
            left: Vec::new(),
            plans: HashMap::new(),
            known,
            descriptions: BTreeMap::new(),
            tries: HashMap::new(),
            finished: BTreeSet::new(),
            unmerged_rows: 0,
            purge_at: Instant::now(),
        })
    }

    /// Carries these files, and finishes whatever is open. After an error the caller brings what is neither in
    /// [`take_finished`](Self::take_finished) nor held by the ledger once more.
    ///
    /// # Errors
    /// What stops the table; what it did until then is in the report.
    pub async fn round(
        &mut self,
        files: impl IntoIterator<Item = ChangeFile>,
        merging: Merging,
        report: &mut TableReport,
    ) -> Result<()> {
        self.waiting.clear();
        self.pending.clear();
        self.claimed.clear();
        self.left.clear();
        self.follow_generation();
        self.admit(files.into_iter().collect()).await?;
        let outcome = self.carry_all(merging, report).await;
        self.ahead = None;
        let outcome = match merging {
            // What was committed is merged even where a later batch stopped the table.
            Merging::Now => outcome.and(self.merge(report).await),
            Merging::Later => outcome,
        };
        outcome?;
        self.purge().await?;
        self.compact().await
    }

    /// Keeps the table's chain short. It may as well be done another time.
    async fn compact(&mut self) -> Result<()> {
        match self.ledger.compact_above(self.pipeline.config.pipeline.ledger_entries_max).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::Bug => Err(error),
            Err(error) => {
                tracing::warn!(table = %self.table, error = error.report(), "the ledger cannot be compacted now");
                Ok(())
            }
        }
    }

    /// Holds what is read from now on against the latest purge.
    pub(super) fn follow_purge(&mut self) {
        let purged_us = if Planted::PurgeUnchecked.is_there() { 0 } else { self.ledger.state().purged_us() };
        if std::mem::replace(&mut self.transform.read.cdc.purged_us, purged_us) != purged_us {
            self.plans.clear();
        }
    }

    /// Where the table was switched to a new generation since, what comes belongs to that; whether it was.
    fn follow_generation(&mut self) -> bool {
        let generation = &mut self.transform.read.cdc.generation;
        let is_switched = *generation != self.ledger.generation();
        if is_switched {
            *generation = self.ledger.generation();
            self.plans.clear();
        }
        is_switched
    }

    /// Sorts files, each once, by what the chain says of them. Those of another generation are done with.
    async fn admit(&mut self, files: Vec<ChangeFile>) -> Result<()> {
        let (files, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| self.ledger.has(file));
        if !others.is_empty() {
            let (count, generation) = (others.len(), self.ledger.generation());
            let note = format!("{count} files are of another generation than {generation}, and passed over");
            self.tell(&Progress::Note { table: &self.table, note: &note });
            self.finished.extend(others.iter().map(ChangeFile::id));
        }
        let keys: Vec<FileKey> = files.iter().map(FileKey::from).collect();
        self.ledger.recall(&keys).await?;
        let state = self.ledger.state();
        let mut admitted = HashSet::new();
        for mut file in files.into_iter().filter(|file| admitted.insert(file.id())) {
            // Where the time is that of the last modification, the first sight of it counts.
            file.time_ms = state.first_time_ms(file.id()).unwrap_or(file.time_ms);
            match state.file_state(file.id()) {
                None => self.pending.push(file),
                Some(FileState::Claimed { .. }) => self.claimed.push(file),
                Some(_) => _ = self.finished.insert(file.id()),
            }
        }
        Ok(())
    }

    /// Carries what is pending until nothing is, committing again what others left open in between.
    async fn carry_all(&mut self, merging: Merging, report: &mut TableReport) -> Result<()> {
        loop {
            self.recover(report).await?;
            let claimed = std::mem::take(&mut self.claimed);
            self.admit(claimed).await?;
            if self.pending.is_empty() {
                return Ok(());
            }
            self.tell_changed_transform();
            self.tell(&Progress::TableStarted { table: &self.table, files: self.pending.len() });
            let limits = self.pipeline.config.pipeline.limits;
            self.waiting = batch::cut(&self.table, std::mem::take(&mut self.pending), &limits).into();
            while let Some(batch) = self.waiting.pop_front() {
                if self.pipeline.shutdown.is_cancelled() {
                    return Ok(());
                }
                if self.follow_generation() {
                    self.ahead = None;
                    let waiting = std::iter::once(batch).chain(self.waiting.drain(..));
                    let files = waiting.flat_map(|batch| batch.files).collect();
                    self.admit(files).await?;
                    break;
                }
                self.carry(batch.files, report).await?;
                if merging == Merging::Now && self.unmerged_rows > UNMERGED_ROWS_MAX {
                    self.merge(report).await?;
                }
            }
        }
    }

    fn tell_changed_transform(&self) {
        let changed = self.ledger.state().last_transform().is_some_and(|last| last != self.transform.fingerprint());
        if changed {
            let note = "SQL or configuration changed since the last batch: rows carried before stay as they are";
            self.tell(&Progress::Note { table: &self.table, note });
        }
    }

    /// Files that were done since the last call: committed, or in another final state.
    pub fn take_finished(&mut self) -> BTreeSet<FileId> {
        std::mem::take(&mut self.finished)
    }

    /// Files that the last round could not read.
    pub fn take_left(&mut self) -> Vec<ChangeFile> {
        std::mem::take(&mut self.left)
    }

    /// The table's chain.
    pub fn ledger(&mut self) -> &mut TableLedger {
        &mut self.ledger
    }

    /// Whether committed batches wait to be merged.
    pub fn has_unmerged(&self) -> bool {
        let merges = self.ledger.state().rules().is_some_and(|rules| rules.mode == Mode::Merge);
        merges && (self.ledger.state().open_merge().is_some() || self.ledger.state().unmerged().next().is_some())
    }

    pub(super) fn tell(&self, progress: &Progress<'_>) {
        self.pipeline.observer.tell(progress);
    }

    /// Commits again what an earlier run, or another process, left open. Never runs it again.
    async fn recover(&mut self, report: &mut TableReport) -> Result<()> {
        let open: Vec<_> =
            self.ledger.state().open_intents().map(|(number, intent)| (number, intent.clone())).collect();
        for (number, intent) in open {
            if Planted::OpenIntentRerun.is_there() {
                self.ledger.finish(number, CommitOutcome::Lost).await?;
                continue;
            }
            let target = self.target(&intent.rules);
            let outcome = self.commit(&target, number, &intent.prepared).await?;
            if outcome == CommitOutcome::Committed {
                self.finished.extend(intent.files.iter().map(|file| file.id));
                report.files += intent.files.len() as u64;
                report.changes += intent.prepared.rows;
                report.batches += 1;
            }
        }
        Ok(())
    }

    /// The target, under the rules it was begun with.
    pub(super) fn target(&self, rules: &TargetRules) -> Target {
        Target {
            source: self.table.clone(),
            name: self.ledger.target().clone(),
            mode: rules.mode,
            key: rules.key.clone(),
            on_delete: rules.on_delete,
            storage: self.config.storage.clone(),
            descriptions: self.descriptions.clone(),
            generation: self.ledger.generation(),
        }
    }

    pub(super) fn attempt(&self) -> Attempt {
        Attempt { id: self.pipeline.clock.fresh_id().to_string(), loaded_at: self.pipeline.clock.now() }
    }

    /// Commits what the intent names and writes down what became of it; every earlier intent that another
    /// process left open first, as a sink takes intents only in their order.
    pub(super) async fn commit(&mut self, target: &Target, number: u64, prepared: &Prepared) -> Result<CommitOutcome> {
        let earlier: Vec<_> = self
            .ledger
            .state()
            .open_intents()
            .filter(|(open, _)| *open < number)
            .map(|(open, intent)| (open, intent.clone()))
            .collect();
        for (open, intent) in earlier {
            let target = self.target(&intent.rules);
            self.commit_one(&target, open, &intent.prepared).await?;
        }
        self.commit_one(target, number, prepared).await
    }

    async fn commit_one(&mut self, target: &Target, number: u64, prepared: &Prepared) -> Result<CommitOutcome> {
        let sink = Arc::clone(&self.pipeline.sink);
        let outcome = patiently(self.pipeline.clock.as_ref(), || sink.commit(target, number, prepared)).await?;
        failpoint::COMMITTED.reached();
        let outcome = self.ledger.finish(number, outcome).await?;
        failpoint::OUTCOME_WRITTEN.reached();
        Ok(outcome)
    }

    /// Merges every batch that waits.
    async fn merge(&mut self, report: &mut TableReport) -> Result<()> {
        while let Some(work) = self.begin_merge().await? {
            let counts = work.run().await?;
            let counts = self.end_merge(&work, counts).await?;
            report.merged.inserted += counts.inserted;
            report.merged.updated += counts.updated;
            report.merged.deleted += counts.deleted;
        }
        Ok(())
    }

    /// The merge to be done now: the open one, whoever began it, or one of the batches that wait; None where none
    /// does. It can be worked on while further batches are carried.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn begin_merge(&mut self) -> Result<Option<MergeWork>> {
        let Some(rules) = self.ledger.state().rules().cloned().filter(|rules| rules.mode == Mode::Merge) else {
            return Ok(None);
        };
        self.unmerged_rows = 0;
        failpoint::MERGE_BEGINS.reached();
        let open = self.ledger.open_merge(&self.attempt(), MERGED_BATCHES_MAX).await?;
        let Some((number, merge)) = open else { return Ok(None) };
        failpoint::MERGE_INTENT_WRITTEN.reached();
        Ok(Some(MergeWork {
            number,
            merge,
            target: self.target(&rules),
            sink: Arc::clone(&self.pipeline.sink),
            session: self.session.clone(),
            clock: Arc::clone(&self.pipeline.clock),
        }))
    }

    /// Writes down that a merge is done; what it did, by the first entry that says so.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn end_merge(&mut self, work: &MergeWork, counts: MergeCounts) -> Result<MergeCounts> {
        failpoint::MERGED.reached();
        let counts = self.ledger.finish_merge(work.number, counts).await?;
        failpoint::MERGE_OUTCOME_WRITTEN.reached();
        self.tell(&Progress::Merged { table: &self.table, counts });
        Ok(counts)
    }

    /// Rows of the table's targets, by name.
    pub async fn row_counts(&self) -> Vec<(String, u64)> {
        match self.ledger.state().rules() {
            Some(rules) => self.pipeline.sink.row_counts(&self.target(rules)).await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// The transform for files of this schema, planned once.
    pub(super) async fn planned(&mut self, file: &OpenedFile) -> Result<Arc<Planned>> {
        if let Some(planned) = self.plans.get(&file.schema) {
            return Ok(Arc::clone(planned));
        }
        self.learn(file);
        let planned = match self.transform.plan(&self.session, &file.schema, &self.known).await {
            Err(error) if error.message().starts_with(UNKNOWN_COLUMN) && self.ask_pending_files().await => {
                self.transform.plan(&self.session, &file.schema, &self.known).await
            }
            planned => planned,
        };
        let planned = Arc::new(planned?);
        self.descriptions.extend(descriptions(&planned.sql, &planned.outputs));
        self.plans.insert(Arc::clone(&file.schema), Arc::clone(&planned));
        Ok(planned)
    }

    /// The columns of the table, as far as files showed them.
    pub(super) fn known(&self) -> &[String] {
        &self.known
    }

    /// Takes note of the columns a file has.
    pub(super) fn learn(&mut self, file: &OpenedFile) {
        for field in file.schema.fields() {
            if !self.known.contains(field.name()) {
                self.known.push(field.name().clone());
            }
        }
    }

    /// Looks at the files that wait for columns not yet known: an older file may lack what the SQL names. Says
    /// whether any was found.
    async fn ask_pending_files(&mut self) -> bool {
        let before = self.known.len();
        let files = self.waiting.iter().rev().flat_map(|batch| batch.files.iter().rev());
        let newest: Vec<ChangeFile> = files.take(FILES_ASKED_MAX).cloned().collect();
        for file in newest {
            if let Ok(opened) = self.pipeline.opener.open(file, &self.config.csv).await {
                self.learn(&opened);
            }
        }
        self.known.len() > before
    }

    /// Takes note of files that another process has claimed: what becomes of them is seen later.
    pub(super) fn claimed_elsewhere(&mut self, files: Vec<ChangeFile>) {
        self.claimed.extend(files);
    }

    /// A file that was deleted or overwritten before it was read is done with: what replaced it is another file.
    pub(super) async fn end_vanished(
        &mut self,
        file: &ChangeFile,
        state: FileState,
        error: Error,
        report: &mut TableReport,
    ) -> Result<()> {
        let entry = FileEntry::from(file);
        let state = match state {
            FileState::Gone => self.ledger.gone(&entry).await?,
            _ => self.ledger.superseded(&entry).await?,
        };
        if self.ended(file, state) {
            self.tell(&Progress::Vanished { table: &self.table, error: &error });
            report.vanished.push(error);
        }
        Ok(())
    }

    /// Takes note of a file that was ended here; false where another process had claimed it: then what becomes of
    /// that counts.
    fn ended(&mut self, file: &ChangeFile, state: FileState) -> bool {
        let claimed = matches!(state, FileState::Claimed { .. });
        if claimed {
            self.claimed.push(file.clone());
        } else {
            self.finished.insert(file.id());
        }
        !claimed
    }

    /// Takes note of a file that cannot be read now.
    pub(super) fn leave(&mut self, file: ChangeFile, error: Error, report: &mut TableReport) {
        self.tell(&Progress::Left { error: &error });
        report.left.push(error);
        self.left.push(file);
    }

    /// Takes note of committed files.
    pub(super) fn committed(&mut self, files: &[ChangeFile], rows: u64, report: &mut TableReport) {
        self.finished.extend(files.iter().map(ChangeFile::id));
        self.unmerged_rows += rows;
        report.files += files.len() as u64;
        report.changes += rows;
        report.batches += 1;
        self.tell(&Progress::BatchCommitted { table: &self.table, files: files.len(), rows });
    }

    /// Sets a file aside, unless too many were: then the table stops before it.
    pub(super) async fn set_aside(&mut self, file: &ChangeFile, error: Error, report: &mut TableReport) -> Result<()> {
        // Rounded: 0.29 of 100 files are 29, although the product is a little less.
        let most = (self.pipeline.config.pipeline.error_threshold * THRESHOLD_FILES).round();
        let recently = u32::try_from(self.ledger.state().set_aside_recently()).unwrap_or(u32::MAX);
        if f64::from(recently) + 1.0 > most {
            return Err(error
                .with_kind(Kind::User)
                .hint(format!("{recently} of the table's last 100 files were set aside; the table stops rather than lose more. Mend the cause, then run again; the daemon tries again by itself")));
        }
        let state = self.ledger.set_aside(&FileEntry::from(file), &error.report()).await?;
        self.was_set_aside(file, state, error, report);
        Ok(())
    }

    /// Sets a file aside that comes too late; however many are, the table goes on.
    pub(super) async fn too_late(&mut self, file: &ChangeFile, error: Error, report: &mut TableReport) -> Result<()> {
        let (entry, error) = (FileEntry::from(file), error.in_file(&file.location));
        let state = self.ledger.too_late(&entry, &error.report(), self.transform.read.cdc.generation).await?;
        self.was_set_aside(file, state, error, report);
        Ok(())
    }

    fn was_set_aside(&mut self, file: &ChangeFile, state: FileState, error: Error, report: &mut TableReport) {
        if self.ended(file, state) {
            self.tell(&Progress::SetAside { table: &self.table, error: &error });
            report.set_aside.push(error);
        }
    }
}

/// Tries a step again, after growing pauses of a length that chance makes unequal, while it asks for that.
pub(super) async fn patiently<T, F: Future<Output = Result<T>>>(
    clock: &dyn Clock,
    mut step: impl FnMut() -> F,
) -> Result<T> {
    let mut pause = PAUSE;
    for _ in 1..TRIES_MAX {
        match step().await {
            Err(error) if error.kind() == Kind::Retry => tokio::time::sleep(clock.jittered(pause)).await,
            outcome => return outcome,
        }
        pause *= 2;
    }
    step().await
}
