//! A table's chain made anew from what its target says, where the ledger was lost.
//!
//! The new chain is one compaction: files that have rows in the target's log are committed, the log's batches wait to be
//! merged again, which the merge's guard allows. Files without a row there are not known: they may be delivered again.

use std::collections::BTreeMap;

use super::Ledger;
use super::chain::Written;
use super::entry::{Entry, Snapshot, Standing};
use super::segment::Finished;
use super::state::{FileState, State};
use super::table::{Opening, TableLedger};
use crate::change::TableName;
use crate::change::batch::Recorded;
use crate::error::{Error, Result};

/// Most batches of a log: all of them stand in one entry.
const BATCHES_MAX: usize = 300_000;

impl Ledger {
    /// Whether the table has a chain, sound or not. One that a broken-off [`rebuild`](Self::rebuild) left is none.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the ledger cannot be read now.
    pub async fn knows(&self, table: &TableName) -> Result<bool> {
        let chain = self.chain(table);
        let knows = async {
            chain.drop_unmarked().await?;
            chain.has_entries().await
        };
        knows.await.map_err(|error: Error| error.in_table(table))
    }

    /// Makes the chain of a table from what its target says. Nobody else may be at work on the table.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the ledger knows the table; [`Retry`](crate::error::Kind::Retry) where it
    /// cannot be written now.
    pub async fn rebuild(&self, table: &TableName, opening: Opening, recorded: &Recorded) -> Result<()> {
        if self.knows(table).await? {
            return Err(Error::user("the ledger knows the table")
                .in_table(table)
                .hint("only a table that it does not know is rebuilt: name a new place for `ledger` in freshet.yaml"));
        }
        let mut chain = self.table(table, opening).await?;
        chain.rebuild(recorded).await.map_err(|error| error.in_table(table))
    }
}

impl TableLedger {
    async fn rebuild(&mut self, recorded: &Recorded) -> Result<()> {
        if recorded.batches.len() > BATCHES_MAX {
            let count = recorded.batches.len();
            return Err(Error::user(format!(
                "the table's log has {count} batches, more than the {BATCHES_MAX} that can be rebuilt"
            ))
            .hint("restore the ledger from a backup, or give the table a new `target` and backfill it"));
        }
        // Above every intent that the target may remember, with a number for each batch, and above the first entry, by
        // which others begin a chain.
        let first = recorded.number.saturating_add(1).max(2);
        let number = first.saturating_add(recorded.batches.len() as u64);
        let committed = recorded.files.iter().map(|id| Finished { id: *id, state: FileState::Committed }).collect();
        let files = self.segments.with_files(&[], BTreeMap::from([(None, committed)]), number).await?;
        let batches = (first..).zip(&recorded.batches);
        // A merge waits for as many rows as a batch has; where rows expire it might wait for ever.
        let demanded = |rows: u64| if recorded.expires { 0 } else { rows };
        let snapshot = Snapshot {
            files: files.ok_or_else(|| Error::bug("a table without segments has lost one"))?,
            // In mode `append` the first intent ends their waiting.
            unmerged: batches.map(|(number, (attempt, rows))| (number, attempt.clone(), demanded(*rows))).collect(),
            standing: Standing {
                files_committed: recorded.files.len() as u64,
                purged_us: recorded.purged_us,
                rows_committed: recorded.batches.iter().map(|(_, rows)| rows).sum(),
                ..Standing::default()
            },
            ..Snapshot::of(&self.opened())
        };
        self.state = State::compacted_at(number - 1, &Snapshot::of(&self.opened()));
        let written = self.append(Entry::Compacted(Box::new(snapshot))).await?;
        if written == Written::Taken || self.chain.is_begun().await? {
            self.chain.drop_unmarked().await?;
            return Err(
                Error::retry("another process has just begun the table").hint("end all daemons, then try again")
            );
        }
        self.chain.mark_compacted(number).await
    }
}
