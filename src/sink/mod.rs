//! Where rows go: a sink prepares what no reader sees yet, then commits it; the ledger stands between.

use std::collections::BTreeMap;

use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;

use crate::change::TableName;
pub use crate::change::batch::{Attempt, Column, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Purge, Recorded};
use crate::config::{Mode, OnDelete, StorageConfig};
use crate::error::{Error, Result};

pub mod bigquery;
mod columns;
pub mod delta;
mod log_rows;
mod part;
mod token;

/// One table at the sink.
#[derive(Debug, Clone)]
pub struct Target {
    /// The source's table, for messages.
    pub source: TableName,
    /// The target's dataset (or folder) and table name.
    pub name: TableName,
    /// What is kept of the changes.
    pub mode: Mode,
    /// The key: names of output columns; empty in mode `append` without a key.
    pub key: Vec<String>,
    /// What a delete leaves behind.
    pub on_delete: OnDelete,
    /// How the table is kept, where the sink can choose.
    pub storage: StorageConfig,
    /// What output columns mean, by name, for people.
    pub descriptions: BTreeMap<String, String>,
    /// The generation whose changes it has, or is to have.
    pub generation: u64,
}

/// Rows for a sink: the columns handed to [`Sink::prepare`], then `_cdc_file_id` (Binary, 16 bytes).
pub struct Rows {
    /// The output's columns, of known type, without `_cdc_file_id`.
    pub columns: Vec<Column>,
    /// The rows, in the Arrow types of the columns.
    pub stream: SendableRecordBatchStream,
}

/// Of 256 merges so many look whether the final table has one row of each key they merged: about one in twenty.
const SAMPLED: u8 = 13;

/// Whether this merge is one of those that look whether the final table has one row of each key; for each daemon alike.
pub fn is_sampled(merge: &MergeAttempt) -> bool {
    blake3::hash(merge.attempt.id.as_bytes()).as_bytes()[0] < SAMPLED
}

/// Demands that the final table `name` has no key of which there is more than one row.
fn demand_unique(name: &str, doubled: u64) -> Result<()> {
    if doubled == 0 {
        return Ok(());
    }
    Err(Error::user(format!("{name} has more than one row of each of {doubled} keys that were just merged")).hint(
        "a column that is declared `immutable` changed, or another program wrote to the table: delete the older rows of these \
         keys, by `_cdc_sequence`, and correct `immutable`; the table then goes on by itself",
    ))
}

/// A system that keeps the tables.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Names the sink for messages and for the ledger, which is bound to it.
    fn describe(&self) -> String;

    /// Writes the rows where no reader sees them, widening or creating the target where that is needed.
    /// An error of the row stream comes back as it was.
    async fn prepare(
        &self,
        target: &Target,
        attempt: &Attempt,
        rows: Rows,
        session: &SessionContext,
    ) -> Result<Prepared>;

    /// Makes visible what intent `number` of the table's ledger names. May be called any number of times, by
    /// any daemon: the rows are there once.
    async fn commit(&self, target: &Target, number: u64, prepared: &Prepared) -> Result<CommitOutcome>;

    /// Merges batches of the change log into the final table, each change guarded by its sequence. May be
    /// repeated at will.
    async fn merge(&self, target: &Target, merge: &MergeAttempt, session: &SessionContext) -> Result<MergeCounts>;

    /// Whether merges take this machine's memory and processors, rather than another's.
    fn merges_here(&self) -> bool;

    /// The sequence of the newest of the final table's rows below this one; None where it has none.
    async fn newest(&self, target: &Target, below: &str, session: &SessionContext) -> Result<Option<String>>;

    /// Drops the tombstones that the purge names, all of whose changes are merged. May be repeated at will. A merge of
    /// changes that were not held against it changes nothing from then on.
    async fn purge(&self, target: &Target, purge: &Purge, session: &SessionContext) -> Result<()>;

    /// Gives this target's tables the columns of those in which a generation was built, so that the rows of that fit.
    async fn fit(&self, built: &Target, target: &Target, session: &SessionContext) -> Result<()>;

    /// Puts the final rows and tombstones of a generation that was built in another target in the place of this
    /// target's: readers see all of them or none. May be repeated until the first merge after it. A merge of an earlier
    /// generation changes nothing from then on.
    async fn switch(&self, built: &Target, reload: &str, target: &Target, session: &SessionContext) -> Result<()>;

    /// Deletes the tables of a target in which a generation was built; those that are gone are no failure.
    async fn discard(&self, built: &Target) -> Result<()>;

    /// How many rows each of the target's tables has, by name; none where it does not exist yet.
    async fn row_counts(&self, target: &Target) -> Result<Vec<(String, u64)>>;

    /// What the target says of its own past, for a ledger that was lost; None where it has no log.
    async fn recorded(&self, target: &Target, session: &SessionContext) -> Result<Option<Recorded>>;
}
