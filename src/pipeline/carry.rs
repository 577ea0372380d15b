//! One batch from its files to the commit: open, transform, prepare, claim, commit.
//!
//! A data error costs only its own file: the file is tried again by itself and then set aside, and the
//! others go on without it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use futures::future::Either;

use crate::catalog::cdc;
use crate::catalog::content::{self, Refusal};
use crate::catalog::opened::{OPENED_AT_ONCE, OpenedFile};
use crate::change::ChangeFile;
use crate::change::batch::{Batch, CommitOutcome};
use crate::config::TargetRules;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Claim, FileEntry, FileState, Intent};
use crate::pipeline::ahead::Ahead;
use crate::pipeline::report::TableReport;
use crate::pipeline::rows::{self, Group};
use crate::pipeline::table_run::{TableRun, patiently};
use crate::trial::failpoint;
use crate::trial::planted::Planted;

/// With less `memory`, in bytes, no batch is opened ahead.
const AHEAD_MEMORY_MIN: u64 = 256 << 20;
/// How often the rows of one batch may turn out lost before the table stops.
const LOST_MAX: u32 = 3;

/// What became of one try at a batch.
enum Outcome {
    /// The files are committed, by this try or by another process.
    Done,
    /// Another process has claimed some of the files.
    Unclaimed { free: Vec<ChangeFile>, claimed: Vec<ChangeFile> },
    /// The sink lost their rows: nothing of them was committed.
    Lost(Vec<ChangeFile>),
}

impl TableRun {
    /// Carries these files, in one commit or, where some cannot be used, in several.
    ///
    /// # Errors
    /// What stops the table.
    pub(super) async fn carry(&mut self, files: Vec<ChangeFile>, report: &mut TableReport) -> Result<()> {
        let mut lost = 0;
        let mut waiting = vec![files];
        while let Some(files) = waiting.pop() {
            if files.is_empty() {
                continue;
            }
            match self.try_batch(&files, report).await {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Unclaimed { free, claimed }) => {
                    self.claimed_elsewhere(claimed);
                    waiting.push(free);
                }
                Ok(Outcome::Lost(files)) => {
                    lost += 1;
                    if lost > LOST_MAX {
                        return Err(Error::retry("the batch's prepared rows were lost again and again"));
                    }
                    waiting.push(files);
                }
                Err(error) if error.kind() == Kind::Data => waiting.extend(self.blame(files, error, report).await?),
                Err(error) => waiting.push(self.without_vanished(files, error, report).await?),
            }
        }
        Ok(())
    }

    /// The files without the one that vanished while it was read; the error itself where none did.
    async fn without_vanished(
        &mut self,
        files: Vec<ChangeFile>,
        error: Error,
        report: &mut TableReport,
    ) -> Result<Vec<ChangeFile>> {
        let named = error.place().file.as_ref().and_then(|name| files.iter().position(|file| file.location == *name));
        let vanished = named.and_then(|at| end_of_vanished(&files[at], &error).map(|state| (at, state)));
        let Some((at, state)) = vanished else { return Err(error) };
        let mut others = files;
        let file = others.remove(at);
        self.end_vanished(&file, state, error, report).await?;
        Ok(others)
    }

    /// Finds the file a data error belongs to, and says what to try next.
    async fn blame(
        &mut self,
        files: Vec<ChangeFile>,
        error: Error,
        report: &mut TableReport,
    ) -> Result<Vec<Vec<ChangeFile>>> {
        let named = error.place().file.as_ref().and_then(|name| files.iter().position(|file| file.location == *name));
        let culprit = named.or((files.len() == 1).then_some(0));
        let Some(culprit) = culprit else {
            // The error names no file: halves tell which half it is in.
            let half = files.len() / 2;
            return Ok(vec![files[half..].to_vec(), files[..half].to_vec()]);
        };
        let mut others = files;
        let file = others.remove(culprit);
        if cdc::is_too_late(&error) {
            // It will be so for ever.
            self.too_late(&file, error, report).await?;
            return Ok(vec![others]);
        }
        let tries = self.tries.entry(file.id()).or_default();
        *tries += 1;
        if *tries < self.pipeline.config.pipeline.retry_attempts {
            return Ok(vec![vec![file], others]);
        }
        self.set_aside(&file, error.in_file(&file.location), report).await?;
        Ok(vec![others])
    }

    async fn try_batch(&mut self, files: &[ChangeFile], report: &mut TableReport) -> Result<Outcome> {
        self.follow_purge();
        let opened = self.open_files(files, report).await?;
        if opened.is_empty() {
            return Ok(Outcome::Done);
        }
        self.open_ahead();
        let files: Vec<ChangeFile> = opened.iter().map(|file| file.file.clone()).collect();
        let columns = source_columns(&opened);
        let groups = self.groups(opened).await?;
        let rules = self.rules(&groups)?;
        let target = self.target(&rules);
        let attempt = self.attempt();
        let rows = rows::unite(&self.session, &self.table, groups).await?;
        failpoint::PREPARE_BEGINS.reached();
        let prepared = self.pipeline.sink.prepare(&target, &attempt, rows, &self.session).await?;
        failpoint::PREPARED.reached();
        if Planted::IntentSkipped.is_there() {
            self.pipeline.sink.commit(&target, self.ledger.state().head() + 1, &prepared).await?;
        }
        let intent = Intent {
            attempt,
            // That of its rows: the table may have been switched to another since they were made.
            generation: self.transform.read.cdc.generation,
            files: files.iter().map(FileEntry::from).collect(),
            prepared: prepared.clone(),
            transform: self.transform.fingerprint(),
            source_columns: columns,
            rules,
            purged_us: self.transform.read.cdc.purged_us,
        };
        let number = match self.ledger.claim(intent).await? {
            Claim::Taken(number) => number,
            Claim::Refused(ids) => {
                let (claimed, free) = files.into_iter().partition(|file| ids.contains(&file.id()));
                return Ok(Outcome::Unclaimed { free, claimed });
            }
            Claim::Outdated => return Ok(Outcome::Unclaimed { free: files, claimed: Vec::new() }),
        };
        failpoint::INTENT_WRITTEN.reached();
        match self.commit(&target, number, &prepared).await? {
            CommitOutcome::Committed => self.committed(&files, prepared.rows, report),
            CommitOutcome::Lost => return Ok(Outcome::Lost(files)),
        }
        Ok(Outcome::Done)
    }

    /// Opens the files side by side. One that is gone or was overwritten is done with; one that cannot be read
    /// now is left.
    async fn open_files(&mut self, files: &[ChangeFile], report: &mut TableReport) -> Result<Vec<Arc<OpenedFile>>> {
        let mut ready = match self.ahead.take() {
            Some(ahead) if ahead.is_of(files) => ahead.opened().await,
            // A batch is tried again, and may need the room.
            _ => HashMap::new(),
        };
        let (clock, opener, csv) = (self.pipeline.clock.as_ref(), &self.pipeline.opener, &self.config.csv);
        let opening: Vec<_> = files
            .iter()
            .map(|file| match ready.remove(&file.id()) {
                Some(opened) => Either::Left(std::future::ready(Ok(opened))),
                None => Either::Right(patiently(clock, || opener.open(file.clone(), csv))),
            })
            .collect();
        let results: Vec<_> = futures::stream::iter(opening).buffered(OPENED_AT_ONCE).collect().await;
        let mut opened = Vec::with_capacity(results.len());
        let mut failed = Vec::new();
        for (file, result) in files.iter().zip(results) {
            match result {
                Ok(file) => opened.push(Arc::new(file)),
                Err(error) => failed.push((file, error)),
            }
        }
        if !opened.is_empty() {
            // Others can be read, so where one may not be that is its own fault.
            let is_denied = |error: &Error| content::refusal(error) == Some(Refusal::Denied);
            let blamed = |error: Error| if is_denied(&error) { error.with_kind(Kind::Data) } else { error };
            failed = failed.into_iter().map(|(file, error)| (file, blamed(error))).collect();
        }
        let stops = |(file, error): &(&ChangeFile, Error)| {
            end_of_vanished(file, error).is_none() && error.kind() != Kind::Retry
        };
        // What stops the batch comes before a word on the others, which its next try would say again.
        if let Some(stopped_by) = failed.iter().position(stops) {
            return Err(failed.swap_remove(stopped_by).1);
        }
        for (file, error) in failed {
            match end_of_vanished(file, &error) {
                Some(state) => self.end_vanished(file, state, error, report).await?,
                None => self.leave(file.clone(), error, report),
            }
        }
        Ok(opened)
    }

    /// Begins with the files of the batch that comes next, where there is memory for two batches: in a small container their staging
    /// files would drive each other out of the system's cache.
    fn open_ahead(&mut self) {
        if self.pipeline.config.pipeline.memory_bytes < AHEAD_MEMORY_MIN {
            return;
        }
        let begin = |next: &Batch| Ahead::begin(&self.pipeline.opener, &self.config.csv, next.files.clone());
        self.ahead = self.waiting.front().map(begin);
    }

    /// Files of equal schema together, each with the transform planned for it.
    async fn groups(&mut self, opened: Vec<Arc<OpenedFile>>) -> Result<Vec<Group>> {
        for file in &opened {
            self.learn(file);
        }
        self.transform.demand_columns(opened.iter().map(|file| file.file.kind), self.known())?;
        let mut groups: Vec<(SchemaRef, Group)> = Vec::new();
        for file in opened {
            if let Some((_, group)) = groups.iter_mut().find(|(schema, _)| *schema == file.schema) {
                group.files.push(file);
                continue;
            }
            let planned = self.planned(&file).await?;
            groups.push((Arc::clone(&file.schema), Group { planned, files: vec![file] }));
        }
        Ok(groups.into_iter().map(|(_, group)| group).collect())
    }

    /// Mode and key, which must be the same for all schemas and for ever.
    fn rules(&self, groups: &[Group]) -> Result<TargetRules> {
        let of = |group: &Group| TargetRules {
            mode: group.planned.settled.mode,
            key: group.planned.settled.key.clone(),
            on_delete: self.config.on_delete,
        };
        let first = groups.first().map(of).ok_or_else(|| Error::bug("a batch without groups"))?;
        let begun = self.ledger.rules().unwrap_or(&first);
        for rules in groups.iter().map(of) {
            if !rules.same_as(begun) {
                return Err(Error::user(format!("the table was begun as {begun}, and is now {rules}"))
                    .in_query(self.transform.query_name())
                    .hint("undo the change, or begin anew with another `ledger` and `target`"));
            }
        }
        Ok(begun.clone())
    }
}

/// How a file ends that was deleted or overwritten before it was read; None where it did not vanish.
///
/// On a disk it may be back in a moment, with the same content: there it is left and found again.
fn end_of_vanished(file: &ChangeFile, error: &Error) -> Option<FileState> {
    match content::refusal(error)? {
        _ if file.is_on_disk() => None,
        Refusal::Gone => Some(FileState::Gone),
        Refusal::Overwritten => Some(FileState::Superseded),
        Refusal::Denied => None,
    }
}

fn source_columns(opened: &[Arc<OpenedFile>]) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for field in opened.iter().flat_map(|file| file.schema.fields().iter()) {
        if !columns.contains(field.name()) {
            columns.push(field.name().clone());
        }
    }
    columns
}
