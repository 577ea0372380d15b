//! Merges the change log into the final table, each change guarded by its sequence.
//!
//! The result depends only on the set of changes merged: a change takes effect if its sequence is greater than
//! that of the key's row and of the key's tombstone, in whatever order and however often changes come.
//!
//! Two daemons may merge side by side, one of them long overtaken. The final table's snapshot is therefore taken
//! *before* the tombstones are written and read, every commit is made on exactly the snapshot read, and a merge
//! with deletes always commits to the final table. So of two merges one sees the other's tombstones, or fails to
//! commit and starts again: a row that was deleted cannot be brought back between the two tables.

use std::sync::Arc;

use datafusion::common::{Column as ColumnRef, ScalarValue, TableReference};
use datafusion::logical_expr::{Expr, JoinType, ident, lit};
use datafusion::prelude::{DataFrame, SessionContext};
use deltalake::kernel::Transaction;
use deltalake::operations::merge::{MergeBuilder, MergeMetrics};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError};

use super::DeltaSink;
use super::changes::{self, IS_DELETE};
use super::columns::{self, same};
use super::evolve::{self, Wanted};
use super::place::TableFolder;
use super::slices::Slice;
use super::table::{self, TRIES};
use super::{purge, switch, trouble, unique};
use crate::config::OnDelete;
use crate::error::{Error, Result};
use crate::sink::part::Part;
use crate::sink::{Column, MergeAttempt, MergeCounts, Target, is_sampled};
use crate::trial::failpoint;

/// Rows of the log that one slice of a merge may have, to begin with.
const SLICE_ROWS: usize = 1_000_000;
/// Most slices of one merge.
const SLICES_MAX: u64 = 1_024;

const SOURCE: &str = "freshet_source";
const TARGET: &str = "freshet_target";

/// Merges the attempt's batches, starting again where another writer was faster.
pub(super) async fn merge(
    sink: &DeltaSink,
    target: &Target,
    merge: &MergeAttempt,
    session: &SessionContext,
) -> Result<MergeCounts> {
    if merge.batches.is_empty() {
        return Ok(MergeCounts::default());
    }
    let whole = Once { sink, target, merge, session, slice: Slice { number: 0, of: 1 } };
    let mut of = whole.slices().await?;
    loop {
        match in_slices(&whole, of).await {
            // Finer slices need less memory; those already merged are merged again, which changes nothing.
            Err(error) if trouble::lacks_memory(&error) && of < SLICES_MAX => of = (of * 4).min(SLICES_MAX),
            outcome => return outcome.map_err(|error| error.in_table(&target.source)),
        }
    }
}

/// Merges slice by slice.
async fn in_slices(whole: &Once<'_>, of: u64) -> Result<MergeCounts> {
    let mut counts = MergeCounts::default();
    for number in 0..of {
        let slice = Slice { number, of };
        let one = whole.of_slice(slice).patiently().await?;
        if is_sampled(whole.merge) {
            unique::demand(whole.sink, whole.target, whole.merge, slice, whole.session).await?;
        }
        counts.inserted += one.inserted;
        counts.updated += one.updated;
        counts.deleted += one.deleted;
    }
    Ok(counts)
}

/// Why one try did not come to its end.
enum Setback {
    /// Another writer committed first: read again, decide again.
    Overtaken,
    Failed(Error),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn setback(folder: &TableFolder, cause: DeltaTableError) -> Setback {
    if trouble::is_conflict(&cause) {
        Setback::Overtaken
    } else {
        Setback::Failed(trouble::delta(folder, "merged into", cause))
    }
}

/// One try.
struct Once<'a> {
    sink: &'a DeltaSink,
    target: &'a Target,
    merge: &'a MergeAttempt,
    session: &'a SessionContext,
    slice: Slice,
}

impl<'a> Once<'a> {
    fn of_slice(&self, slice: Slice) -> Once<'a> {
        Once { slice, ..*self }
    }

    /// How many slices to begin with.
    async fn slices(&self) -> Result<u64> {
        let folder = self.sink.folder(self.target, Part::Changes);
        let log = table::open_existing(&folder).await?;
        let rows = changes::rows_at_most(&folder, &log, &self.merge.batches)?;
        Ok(u64::try_from(rows.div_ceil(SLICE_ROWS)).unwrap_or(SLICES_MAX).clamp(1, SLICES_MAX))
    }

    /// Starts again where another writer was faster.
    async fn patiently(&self) -> Result<MergeCounts> {
        for tried in 0..TRIES {
            match self.run().await {
                Ok(counts) => return Ok(counts),
                Err(Setback::Overtaken) => table::pause(tried).await,
                Err(Setback::Failed(error)) => return Err(error),
            }
        }
        Err(Error::retry("other writers kept changing the final table"))
    }

    async fn run(&self) -> Result<MergeCounts, Setback> {
        let log_folder = self.sink.folder(self.target, Part::Changes);
        let log = table::open_existing(&log_folder).await?;
        let log_columns = columns::of_table(&log)?;
        let key = columns::key_columns(&self.target.key, &log_columns)?;
        let batches = &self.merge.batches;
        let Some(latest) = changes::latest(&log_folder, &log, batches, &key, self.slice, self.session).await? else {
            return Ok(MergeCounts::default());
        };
        let folder = self.sink.folder(self.target, Part::Final);
        let wanted = columns::final_columns(&log_columns, self.target.on_delete);
        let table = self.evolved(&folder, wanted).await?;
        switch::demand_generation(&folder, &table, self.target).await?;
        let (rows, has_deletes) = match self.target.on_delete {
            OnDelete::Remove => self.bury(&latest, &key).await?,
            OnDelete::Mark => (latest, false),
        };
        self.merge_final(&folder, table, rows, &key, has_deletes).await
    }

    async fn evolved(&self, folder: &TableFolder, columns: Vec<Column>) -> Result<DeltaTable> {
        let bounded = self.target.key.clone();
        let wanted = Wanted { columns, bounded, clock: self.sink.clock.as_ref() };
        evolve::evolve(folder, &wanted, self.session).await
    }

    /// Writes the tombstones of the deletes, then leaves out the changes that a tombstone outranks. Also tells
    /// whether there were deletes at all.
    async fn bury(&self, latest: &DataFrame, key: &[Column]) -> Result<(DataFrame, bool), Setback> {
        let folder = self.sink.folder(self.target, Part::Tombstones);
        let failed = |cause| trouble::query(&folder, "merged into", cause);
        let tombstones = self.evolved(&folder, columns::tombstone_columns(key)).await?;
        switch::demand_generation(&folder, &tombstones, self.target).await?;
        purge::demand_unpurged(&folder, &tombstones, self.target, self.merge).await?;
        let stones = columns::of_table(&tombstones)?;
        let deletes = latest.clone().filter(ident(IS_DELETE)).map_err(failed)?;
        let any = deletes.clone().limit(0, Some(1)).map_err(failed)?.count().await.map_err(failed)? > 0;
        let tombstones = if any {
            let update = self.assignments(&stones, key, false);
            let builder = self.builder(tombstones, deletes, &stones, key);
            let builder = set_on(builder, newer(), lit(true), &update).map_err(|cause| setback(&folder, cause))?;
            let written = builder.await.map_err(|cause| setback(&folder, cause))?.0;
            failpoint::TOMBSTONES_WRITTEN.reached();
            written
        } else {
            tombstones
        };
        Ok((self.outlive(latest.clone(), &folder, &tombstones, key).await?, any))
    }

    /// The deletes, and the changes newer than their key's tombstone.
    async fn outlive(
        &self,
        latest: DataFrame,
        folder: &TableFolder,
        tombstones: &DeltaTable,
        key: &[Column],
    ) -> Result<DataFrame> {
        const BURIED: &str = "__freshet_buried";
        let failed = |cause| trouble::query(folder, "read", cause);
        let stones = columns::of_table(tombstones)?;
        let renamed = |name: &str| format!("{BURIED}_{name}");
        let names = key.iter().map(|column| column.name.as_str()).chain([columns::SEQUENCE]);
        let spelled = names.filter_map(|name| columns::find(&stones, name).map(|found| (name, &found.name)));
        let picked: Vec<_> = spelled.map(|(name, spelled)| ident(spelled).alias(renamed(name))).collect();
        let stones = table::rows(folder, tombstones, None, self.session).await?.select(picked).map_err(failed)?;
        let mut on: Vec<_> = key.iter().map(|column| ident(&column.name).eq(ident(renamed(&column.name)))).collect();
        on.push(ident(renamed(columns::SEQUENCE)).gt_eq(ident(columns::SEQUENCE)));
        on.push(ident(IS_DELETE).is_not_true());
        latest.join_on(stones, JoinType::LeftAnti, on).map_err(failed)
    }

    async fn merge_final(
        &self,
        folder: &TableFolder,
        table: DeltaTable,
        rows: DataFrame,
        key: &[Column],
        has_deletes: bool,
    ) -> Result<MergeCounts, Setback> {
        let overtaken = |cause| setback(folder, cause);
        let have = columns::of_table(&table)?;
        let seal = Transaction::new(
            format!("freshet-merge-{}-{}", self.slice.number, self.slice.of),
            self.merge.attempt.loaded_at.timestamp_micros(),
        );
        let sealed = table::transaction_version(folder, &table, &seal.app_id).await? == Some(seal.version);
        let read = table.version();
        let marked = self.target.on_delete == OnDelete::Mark;
        let values = self.assignments(&have, key, marked);
        let mut builder =
            self.builder(table.clone(), rows, &have, key).with_commit_properties(table::exactly(vec![seal.clone()]));
        let kept = if marked {
            lit(true)
        } else {
            builder = builder
                .when_matched_delete(|delete| delete.predicate(newer().and(of_source(IS_DELETE))))
                .map_err(overtaken)?;
            of_source(IS_DELETE).is_not_true()
        };
        let builder = set_on(builder, newer().and(kept.clone()), kept, &values).map_err(overtaken)?;
        let (after, metrics) = builder.await.map_err(overtaken)?;
        if after.version() == read && has_deletes && !sealed {
            let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
            table::commit(&table, Vec::new(), vec![seal], operation).await.map_err(overtaken)?;
        }
        let counts = counts(&metrics);
        Ok(if marked && after.version() != read {
            self.count_marked(folder, &table, &after, counts).await?
        } else {
            counts
        })
    }

    /// deltalake's merge of rows into a table by key, with no clauses yet.
    fn builder(&self, table: DeltaTable, rows: DataFrame, have: &[Column], key: &[Column]) -> MergeBuilder {
        let spelled = |name: &str| columns::find(have, name).map_or(name.to_owned(), |found| found.name.clone());
        let by_key = key.iter().map(|column| of_target(&spelled(&column.name)).eq(of_source(&column.name)));
        table
            .merge(rows, by_key.reduce(Expr::and).unwrap_or_else(|| lit(false)))
            .with_source_alias(SOURCE)
            .with_target_alias(TARGET)
            .with_session_state(Arc::new(self.session.state()))
            .with_commit_properties(table::exactly(Vec::new()))
    }

    /// What each column of the target is set to.
    fn assignments(&self, have: &[Column], key: &[Column], marked: bool) -> Vec<(ColumnRef, Expr)> {
        let loaded_at = self.merge.attempt.loaded_at.timestamp_micros();
        let loaded_at = ScalarValue::TimestampMicrosecond(Some(loaded_at), Some("UTC".into()));
        let value = |column: &Column| {
            if same(&column.name, columns::LOADED_AT) {
                lit(loaded_at.clone())
            } else if marked && same(&column.name, columns::DELETED) {
                of_source(IS_DELETE)
            } else {
                let in_log = columns::find(key, &column.name).unwrap_or(column);
                of_source(&in_log.name)
            }
        };
        have.iter().map(|column| (target_column(&column.name), value(column))).collect()
    }

    /// Counts the rows newly marked as deleted: they stand, with this attempt's time, in the files just written.
    /// A delete mostly finds its row, so they are taken off the updates first.
    async fn count_marked(
        &self,
        folder: &TableFolder,
        before: &DeltaTable,
        after: &DeltaTable,
        counts: MergeCounts,
    ) -> Result<MergeCounts> {
        let failed = |cause| trouble::query(folder, "read", cause);
        let files = |table: &DeltaTable| -> Result<Vec<String>> {
            let state = table.snapshot().map_err(|cause| trouble::delta(folder, "read", cause))?;
            Ok(state.log_data().into_iter().map(|file| file.path().into_owned()).collect())
        };
        let old = files(before)?;
        let new: Vec<_> = files(after)?.into_iter().filter(|path| !old.contains(path)).collect();
        if new.is_empty() {
            return Ok(counts);
        }
        let loaded_at = self.merge.attempt.loaded_at.timestamp_micros();
        let loaded_at = ScalarValue::TimestampMicrosecond(Some(loaded_at), Some("UTC".into()));
        let marked = ident(columns::DELETED).and(ident(columns::LOADED_AT).eq(lit(loaded_at)));
        let rows = table::rows(folder, after, Some(new), self.session).await?.filter(marked).map_err(failed)?;
        let deleted = u64::try_from(rows.count().await.map_err(failed)?).unwrap_or(u64::MAX);
        let of_updated = deleted.min(counts.updated);
        Ok(MergeCounts {
            inserted: counts.inserted.saturating_sub(deleted - of_updated),
            updated: counts.updated - of_updated,
            deleted,
        })
    }
}

/// Sets the values where a row matches and `update` holds, or where none matches and `insert` holds.
fn set_on(
    builder: MergeBuilder,
    update: Expr,
    insert: Expr,
    values: &[(ColumnRef, Expr)],
) -> Result<MergeBuilder, DeltaTableError> {
    builder
        .when_matched_update(|clause| {
            let clause = clause.predicate(update);
            values.iter().fold(clause, |clause, (column, value)| clause.update(column.clone(), value.clone()))
        })?
        .when_not_matched_insert(|clause| {
            let clause = clause.predicate(insert);
            values.iter().fold(clause, |clause, (column, value)| clause.set(column.clone(), value.clone()))
        })
}

/// The guard: a change takes effect on a row only if it is newer.
fn newer() -> Expr {
    of_source(columns::SEQUENCE).gt(of_target(columns::SEQUENCE))
}

fn of_source(name: &str) -> Expr {
    Expr::Column(ColumnRef::new(Some(TableReference::bare(SOURCE)), name))
}

fn of_target(name: &str) -> Expr {
    Expr::Column(target_column(name))
}

fn target_column(name: &str) -> ColumnRef {
    ColumnRef::new(Some(TableReference::bare(TARGET)), name)
}

fn counts(metrics: &MergeMetrics) -> MergeCounts {
    let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
    MergeCounts {
        inserted: count(metrics.num_target_rows_inserted),
        updated: count(metrics.num_target_rows_updated),
        deleted: count(metrics.num_target_rows_deleted),
    }
}
