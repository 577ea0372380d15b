//! Tombstones from long ago are dropped, in one commit that also says up to when.
//!
//! What it says is held against every merge: one that began before, and is long overtaken, would miss the tombstones.

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{cast, ident, lit};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::kernel::Transaction;
use deltalake::protocol::{DeltaOperation, SaveMode};

use super::columns;
use super::place::TableFolder;
use super::rewrite::{self, Rewrite};
use super::table::{self, TRIES};
use super::{DeltaSink, stage, trouble};
use crate::change;
use crate::error::{Error, Result};
use crate::sink::part::Part;
use crate::sink::{MergeAttempt, Purge, Target};

/// The sequence of the newest of the final table's rows below this one.
pub(super) async fn newest(
    sink: &DeltaSink,
    target: &Target,
    below: &str,
    session: &SessionContext,
) -> Result<Option<String>> {
    let folder = sink.folder(target, Part::Final);
    let Some(table) = table::open(&folder).await? else { return Ok(None) };
    let failed = |cause| trouble::query(&folder, "read", cause);
    let sequence = cast(ident(columns::SEQUENCE), DataType::Utf8).alias(columns::SEQUENCE);
    let rows = table::rows(&folder, &table, None, session).await?.select(vec![sequence]).map_err(failed)?;
    let rows = rows.filter(ident(columns::SEQUENCE).lt(lit(below))).map_err(failed)?;
    let newest = rows.aggregate(Vec::new(), vec![max(ident(columns::SEQUENCE))]).map_err(failed)?;
    let found = newest.collect().await.map_err(failed)?;
    let newest = found.first().and_then(|batch| batch.column(0).as_string_opt::<i32>()?.iter().next().flatten());
    Ok(newest.map(str::to_owned))
}

/// Drops the tombstones that the purge names.
pub(super) async fn purge(sink: &DeltaSink, target: &Target, purge: &Purge, session: &SessionContext) -> Result<()> {
    let folder = sink.folder(target, Part::Tombstones);
    for tried in 0..TRIES {
        // Where nothing was ever deleted, nothing can be missed.
        let Some(table) = table::open(&folder).await? else { return Ok(()) };
        if purged_us(&folder, &table, target).await? >= purge.below_us {
            return Ok(());
        }
        match once(sink, (&folder, &table), target, purge, session).await? {
            true => return Ok(()),
            false => table::pause(tried).await,
        }
    }
    Err(Error::retry(format!("other writers kept changing {}", folder.path.display())))
}

/// Whether it is done; not where another writer was faster.
async fn once(
    sink: &DeltaSink,
    (folder, table): (&TableFolder, &DeltaTable),
    target: &Target,
    purge: &Purge,
    session: &SessionContext,
) -> Result<bool> {
    let below =
        i64::try_from(purge.below_us).map_err(|cause| Error::bug("a purge lies too far ahead").because(cause))?;
    let floor = change::first_sequence(target.generation, purge.below_us);
    let columns = columns::of_table(table)?;
    let rewrite = Rewrite {
        from: (folder, table),
        kept: Some(ident(columns::SEQUENCE).gt_eq(lit(floor))),
        to: (folder, table),
        columns: &columns,
        bounded: columns::exactly_bounded(&columns, &target.key).into_iter().map(str::to_owned).collect(),
        word: "purged",
        clock: sink.clock.as_ref(),
    };
    let staged = rewrite.run(session).await?;
    let actions = rewrite::in_place_of_all(folder, table, &staged)?;
    let operation = DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by: None, predicate: None };
    match table::commit(table, actions, vec![Transaction::new(app_id(target), below)], operation).await {
        Ok(_) => Ok(true),
        Err(cause) if trouble::is_conflict(&cause) => {
            stage::discard(table.object_store().as_ref(), &staged.files).await;
            Ok(false)
        }
        Err(cause) => Err(trouble::delta(folder, "purged", cause)),
    }
}

/// Demands that no tombstone is missing from a snapshot which this merge needs.
pub(super) async fn demand_unpurged(
    folder: &TableFolder,
    table: &DeltaTable,
    target: &Target,
    merge: &MergeAttempt,
) -> Result<()> {
    if purged_us(folder, table, target).await? <= merge.purged_us {
        return Ok(());
    }
    Err(Error::fenced(format!("tombstones of {} were purged after the merge had begun", folder.name))
        .in_table(&target.source)
        .hint("another process has done the merge by then; where the ledger is an older copy, make it anew by `freshet ledger --rebuild`"))
}

/// Up to which time, in µs since 1970, a snapshot of the tombstones was purged in the target's generation; 0: it was not.
pub(super) async fn purged_us(folder: &TableFolder, table: &DeltaTable, target: &Target) -> Result<u64> {
    let version = table::transaction_version(folder, table, &app_id(target)).await?;
    Ok(version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0))
}

fn app_id(target: &Target) -> String {
    format!("freshet-purged-{}/{}", target.generation, target.source)
}
