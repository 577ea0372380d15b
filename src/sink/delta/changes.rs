//! The changes to be merged: rows of the log, reduced to the latest of each key.

use datafusion::functions::expr_fn::{concat, encode};
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Expr, JoinType, ident, lit};
use datafusion::prelude::{DataFrame, SessionContext};
use deltalake::DeltaTable;

use super::columns::{self, same};
use super::place::TableFolder;
use super::slices::Slice;
use super::{table, trouble};
use crate::error::Result;
use crate::sink::Column;

/// Whether the change is a delete; a column beside the log's own.
pub(super) const IS_DELETE: &str = "__freshet_is_delete";
const RANK: &str = "__freshet_rank";
const GREATEST: &str = "__freshet_greatest";

/// The latest change of each key among the rows of these batches, with [`IS_DELETE`]; None where no file of the
/// log can hold such rows.
///
/// `key` are names of log columns as the log spells them. A file is read only if the bounds of its `_cdc_batch`
/// admit one of the batches.
pub(super) async fn latest(
    folder: &TableFolder,
    log: &DeltaTable,
    batches: &[String],
    key: &[Column],
    slice: Slice,
    session: &SessionContext,
) -> Result<Option<DataFrame>> {
    let failed = |cause| trouble::query(folder, "read", cause);
    let files = files_with(folder, log, batches)?;
    if files.is_empty() {
        return Ok(None);
    }
    let rows = table::rows(folder, log, Some(files), session).await?;
    let mine = ident(columns::BATCH).in_list(batches.iter().map(|batch| lit(batch.as_str())).collect(), false);
    let names: Vec<Expr> = key.iter().map(|column| ident(&column.name)).collect();
    let rows = match slice.of {
        1 => rows,
        _ => rows.filter(slice.holds(names.clone())).map_err(failed)?,
    };
    let ranked = rows.filter(mine).and_then(|rows| rows.with_column(RANK, rank())).map_err(failed)?;
    let mut kept: Vec<_> = columns::of_table(log)?.iter().map(|column| ident(&column.name)).collect();
    kept.push(ident(columns::OPERATION).eq(lit("D")).alias(IS_DELETE));
    let latest = ranked
        .clone()
        .aggregate(names, vec![max(ident(RANK)).alias(GREATEST)])
        .and_then(|greatest| greatest.select(vec![ident(GREATEST)]))
        .and_then(|greatest| greatest.join(ranked, JoinType::RightSemi, &[GREATEST], &[RANK], None))
        .and_then(|rows| rows.select(kept))
        .map_err(failed)?;
    Ok(Some(latest))
}

/// What orders the rows of the log, and no two rows share: sequences are of one width, and where two files
/// repeat one change, the file tells them apart. So the latest row of a key is the one with its greatest rank,
/// which is found without holding or sorting whole rows.
fn rank() -> Expr {
    concat(vec![ident(columns::SEQUENCE), encode(ident(columns::FILE_ID), lit("hex")), ident(columns::BATCH)])
}

/// How many rows the files have that may hold rows of these batches.
pub(super) fn rows_at_most(folder: &TableFolder, log: &DeltaTable, batches: &[String]) -> Result<usize> {
    let state = log.snapshot().map_err(|cause| trouble::delta(folder, "read", cause))?;
    let files = state.log_data().into_iter().filter(|file| may_hold(file.stats().as_deref(), batches));
    Ok(files.filter_map(|file| file.num_records()).sum())
}

/// The log's files that may hold rows of these batches.
fn files_with(folder: &TableFolder, log: &DeltaTable, batches: &[String]) -> Result<Vec<String>> {
    let state = log.snapshot().map_err(|cause| trouble::delta(folder, "read", cause))?;
    let files = state.log_data().into_iter().filter(|file| may_hold(file.stats().as_deref(), batches));
    Ok(files.map(|file| file.path().into_owned()).collect())
}

/// Whether a file with these statistics may hold a row of one of the batches.
fn may_hold(statistics: Option<&str>, batches: &[String]) -> bool {
    let statistics: Option<serde_json::Value> = statistics.and_then(|text| serde_json::from_str(text).ok());
    let bound = |which: &str| {
        let values = statistics.as_ref()?.get(which)?.as_object()?;
        values.iter().find(|(name, _)| same(name, columns::BATCH))?.1.as_str()
    };
    match (bound("minValues"), bound("maxValues")) {
        (Some(least), Some(greatest)) => {
            batches.iter().any(|batch| least <= batch.as_str() && batch.as_str() <= greatest)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_left_out_only_if_its_bounds_exclude_every_batch() {
        let file = Some(r#"{"numRecords":1,"minValues":{"_cdc_batch":"b"},"maxValues":{"_cdc_batch":"d"}}"#);
        let batches = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(may_hold(file, &batches(&["a", "c"])));
        assert!(may_hold(file, &batches(&["b"])) && may_hold(file, &batches(&["d"])));
        assert!(!may_hold(file, &batches(&["a", "e"])));
        assert!(may_hold(None, &batches(&["a"])) && may_hold(Some("{}"), &batches(&["a"])));
    }
}
