//! Cutting the change files of one table into micro-batches, and what is said of one on its way: the
//! attempt, what stands prepared, what became of it. Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::change::types::ColumnType;
use crate::change::{ChangeFile, FileId, TableName};

/// Change files of one table that go through together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The table.
    pub table: TableName,
    /// Its files, in the order of their time.
    pub files: Vec<ChangeFile>,
}

/// How large a batch may grow and how long a file may wait for it.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Most change files.
    pub files_max: usize,
    /// Most bytes, as stored; a single larger file is a batch of its own.
    pub bytes_max: u64,
    /// Most rows, where files say how many they have.
    pub rows_max: u64,
    /// The longest the first file waits for others, where files arrive one by one.
    pub age_max: Duration,
}

/// One try at carrying a batch; it names the rows it wrote by its id, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// `_cdc_batch` of every row.
    pub id: String,
    /// `_cdc_loaded_at` of every row: when the id was chosen.
    pub loaded_at: DateTime<Utc>,
}

/// A column of the rows handed to the sink, or of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as the SQL's output spells it.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
}

/// Rows that stand at the sink but that no reader sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// How many rows.
    pub rows: u64,
    /// How many of their bytes the sink wrote.
    pub bytes: u64,
    /// The columns as the target has them.
    pub columns: Vec<Column>,
    /// The sink's own description of what to commit, stored in the intent word for word; its numbers must be
    /// integers, as JSON does not keep every float.
    pub staged: serde_json::Value,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The rows are visible, now or since an earlier try.
    Committed,
    /// They are not, and never will be: the files are free for a new attempt.
    Lost,
}

/// Which batches of the change log are to be merged, by which attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeAttempt {
    /// The merge's own id; `_cdc_loaded_at` of the rows it changes is the attempt's time.
    pub attempt: Attempt,
    /// The `_cdc_batch` values whose rows are merged.
    pub batches: Vec<String>,
    /// How many rows of the log that is: a merge that finds fewer must not be taken for done.
    pub rows: u64,
    /// The earliest and the latest `_cdc_loaded_at` of those rows: no row of them lies outside.
    pub loaded: (DateTime<Utc>, DateTime<Utc>),
    /// Each of those rows was held against this, see [`Purge::below_us`]; 0: nothing was purged.
    #[serde(default)]
    pub purged_us: u64,
}

/// Tombstones of long ago are to be dropped: what comes later and is older still is too late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    /// Never used twice.
    pub id: String,
    /// Tombstones of changes from before this time go, and no such change is taken any more; in µs since 1970.
    pub below_us: u64,
}

/// What a merge did to the final table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeCounts {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted, or marked as deleted.
    pub deleted: u64,
}

/// What a target says of its table's past, for a ledger that was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The files that have rows in the log.
    pub files: Vec<FileId>,
    /// The attempts whose rows are in the log, oldest first, and how many rows each has there.
    pub batches: Vec<(Attempt, u64)>,
    /// Whether there is a final table.
    pub has_final: bool,
    /// Intents up to this number were made before.
    pub number: u64,
    /// The generation of the newest of the final table's rows, or that it was switched to; 0 where it tells none.
    pub generation: u64,
    /// The latest purge of tombstones, see [`Purge::below_us`]; 0: there was none.
    pub purged_us: u64,
    /// Whether rows leave the log by themselves, so that files may have none there any more.
    pub expires: bool,
}

/// Adds up what a log says of its batches, read in parts: how many rows of which attempt came from which file.
#[derive(Debug, Default)]
pub struct Recording {
    files: BTreeSet<FileId>,
    batches: BTreeMap<(DateTime<Utc>, String), u64>,
}

impl Recording {
    /// Takes in that so many rows of this attempt came from this file.
    pub fn add(&mut self, attempt: Attempt, file: FileId, rows: u64) {
        self.files.insert(file);
        *self.batches.entry((attempt.loaded_at, attempt.id)).or_default() += rows;
    }

    /// What was taken in, all in all.
    pub fn recorded(self) -> Recorded {
        let batch = |((loaded_at, id), rows)| (Attempt { id, loaded_at }, rows);
        Recorded {
            files: self.files.into_iter().collect(),
            batches: self.batches.into_iter().map(batch).collect(),
            ..Recorded::default()
        }
    }
}

/// Cuts files of one table that are all there into batches, in the order of their time; every file is in
/// exactly one.
pub fn cut(table: &TableName, files: Vec<ChangeFile>, limits: &BatchLimits) -> Vec<Batch> {
    let mut files = files;
    files.sort_by(|one, two| (one.time_ms, &one.location).cmp(&(two.time_ms, &two.location)));
    let mut batches = Vec::new();
    let mut filling = Filling::default();
    for file in files {
        if let Some(full) = filling.add(file, limits) {
            batches.push(full);
        }
    }
    batches.extend(filling.take());
    batches.into_iter().map(|files| Batch { table: table.clone(), files }).collect()
}

/// Files of one table that wait until they are a batch.
#[derive(Debug, Default)]
struct Filling {
    files: Vec<ChangeFile>,
    bytes: u64,
    rows: u64,
}

impl Filling {
    /// Adds a file; what was there before comes back if there was no room for it.
    fn add(&mut self, file: ChangeFile, limits: &BatchLimits) -> Option<Vec<ChangeFile>> {
        let rows = file.rows.unwrap_or(0);
        let room = self.files.len() < limits.files_max
            && self.bytes.saturating_add(file.size) <= limits.bytes_max
            && self.rows.saturating_add(rows) <= limits.rows_max;
        let full = if room { None } else { self.take() };
        self.bytes = self.bytes.saturating_add(file.size);
        self.rows = self.rows.saturating_add(rows);
        self.files.push(file);
        full
    }

    /// What is there, if anything.
    fn take(&mut self) -> Option<Vec<ChangeFile>> {
        let taken = std::mem::take(self);
        (!taken.files.is_empty()).then_some(taken.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits =
        BatchLimits { files_max: 3, bytes_max: 100, rows_max: 50, age_max: Duration::from_secs(5) };

    fn file(time_ms: i64, size: u64, rows: Option<u64>) -> ChangeFile {
        ChangeFile { time_ms, size, rows, ..ChangeFile::sample(&format!("f{time_ms}")) }
    }

    #[test]
    fn what_a_log_says_in_parts_is_added_up_oldest_batch_first() {
        let attempt = |id: &str, s: i64| Attempt { id: id.into(), loaded_at: DateTime::from_timestamp(s, 0).unwrap() };
        let mut recording = Recording::default();
        for (id, s, file, rows) in [("b", 1, 7, 2), ("a", 2, 8, 3), ("b", 1, 9, 4), ("b", 1, 7, 5)] {
            recording.add(attempt(id, s), FileId([file; 16]), rows);
        }
        let recorded = recording.recorded();
        assert_eq!(recorded.batches, [(attempt("b", 1), 11), (attempt("a", 2), 3)]);
        assert_eq!(recorded.files, [FileId([7; 16]), FileId([8; 16]), FileId([9; 16])]);
    }

    fn check(files: Vec<ChangeFile>, expected: &[&[i64]]) {
        let batches = cut(&TableName::new("db", "t"), files, &LIMITS);
        let times: Vec<Vec<i64>> =
            batches.iter().map(|batch| batch.files.iter().map(|file| file.time_ms).collect()).collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn batches_are_cut_by_files_bytes_and_rows_in_the_order_of_time() {
        check(vec![], &[]);
        check((1..=4).rev().map(|time| file(time, 1, None)).collect(), &[&[1, 2, 3], &[4]]);
        check(vec![file(1, 60, None), file(2, 60, None)], &[&[1], &[2]]);
        check(vec![file(1, 1, Some(40)), file(2, 1, Some(40)), file(3, 1, None)], &[&[1], &[2, 3]]);
    }

    #[test]
    fn a_file_larger_than_a_batch_may_be_goes_by_itself() {
        check(vec![file(1, 1, None), file(2, 1_000, None), file(3, 1, None)], &[&[1], &[2], &[3]]);
    }
}
