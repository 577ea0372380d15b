//! What a run tells while it goes on, and what it did.

use std::time::Duration;

use crate::change::TableName;
use crate::change::batch::MergeCounts;
use crate::error::Error;

/// What happened to one table in a run.
#[derive(Debug, Default)]
pub struct TableReport {
    /// Files committed.
    pub files: u64,
    /// Changes read from them that reached the sink.
    pub changes: u64,
    /// Batches committed.
    pub batches: u64,
    /// Files set aside: location and why.
    pub set_aside: Vec<Error>,
    /// Files that were deleted or overwritten before they were read.
    pub vanished: Vec<Error>,
    /// Files left for the next run.
    pub left: Vec<Error>,
    /// What merges did to the final table.
    pub merged: MergeCounts,
    /// Why the table stopped, if it did.
    pub stopped: Option<Error>,
    /// Rows of the table's targets after the run, by name.
    pub rows: Vec<(String, u64)>,
    /// How long the table took.
    pub took: Duration,
}

/// Something worth telling, as it happens.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A table starts with this many files.
    TableStarted {
        /// The table.
        table: &'a TableName,
        /// Files waiting.
        files: usize,
    },
    /// A batch is committed.
    BatchCommitted {
        /// The table.
        table: &'a TableName,
        /// Files in it.
        files: usize,
        /// Rows in it.
        rows: u64,
    },
    /// Batches are merged into the final table.
    Merged {
        /// The table.
        table: &'a TableName,
        /// What that did.
        counts: MergeCounts,
    },
    /// A file is set aside.
    SetAside {
        /// The table.
        table: &'a TableName,
        /// Why; names the file.
        error: &'a Error,
    },
    /// A file was deleted or overwritten before it was read, and is done with.
    Vanished {
        /// The table.
        table: &'a TableName,
        /// What happened; names the file.
        error: &'a Error,
    },
    /// A table's step failed for a reason that may pass; it is tried again after the pause.
    Failing {
        /// The table.
        table: &'a TableName,
        /// Why.
        error: &'a Error,
        /// About how long it waits.
        pause: Duration,
    },
    /// A file is left for the next run.
    Left {
        /// Why; names the file.
        error: &'a Error,
    },
    /// Something to know that is no error.
    Note {
        /// The table.
        table: &'a TableName,
        /// A full sentence without its final stop.
        note: &'a str,
    },
    /// A table stopped.
    TableStopped {
        /// The table.
        table: &'a TableName,
        /// Why.
        error: &'a Error,
    },
    /// A table is done.
    TableDone {
        /// The table.
        table: &'a TableName,
        /// What it did.
        report: &'a TableReport,
    },
}

/// Who is told.
pub trait Observer: Send + Sync {
    /// Takes note; must not block.
    fn tell(&self, progress: &Progress<'_>);
}
