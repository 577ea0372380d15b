//! Whether the final table has one row of each key that was merged.

use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, JoinType, ident, lit};
use datafusion::prelude::SessionContext;

use super::DeltaSink;
use super::slices::Slice;
use super::{changes, columns, table, trouble};
use crate::error::Result;
use crate::sink::part::Part;
use crate::sink::{MergeAttempt, Target, demand_unique};

const ROWS: &str = "__freshet_rows";

/// Demands that of the keys of these batches, in this slice, the final table has one row each at most.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where it has more.
pub(super) async fn demand(
    sink: &DeltaSink,
    target: &Target,
    merge: &MergeAttempt,
    slice: Slice,
    session: &SessionContext,
) -> Result<()> {
    let (log_folder, folder) = (sink.folder(target, Part::Changes), sink.folder(target, Part::Final));
    let (log, merged) = (table::open_existing(&log_folder).await?, table::open_existing(&folder).await?);
    let failed = |cause| trouble::query(&folder, "read", cause);
    let key = columns::key_columns(&target.key, &columns::of_table(&log)?)?;
    let latest = changes::latest(&log_folder, &log, &merge.batches, &key, slice, session).await?;
    let Some(latest) = latest else { return Ok(()) };
    let have = columns::of_table(&merged)?;
    let spelled = |name: &str| columns::find(&have, name).map_or(name.to_owned(), |found| found.name.clone());
    let of_change = |name: &str| format!("__freshet_changed_{name}");
    let changed: Vec<Expr> = key.iter().map(|column| ident(&column.name).alias(of_change(&column.name))).collect();
    let changed = latest.select(changed).map_err(failed)?;
    let names: Vec<String> = key.iter().map(|column| spelled(&column.name)).collect();
    let key_exprs: Vec<Expr> = names.iter().map(ident).collect();
    let rows = table::rows(&folder, &merged, None, session).await?;
    let rows = match slice.of {
        1 => rows,
        _ => rows.filter(slice.holds(key_exprs.clone())).map_err(failed)?,
    };
    // By expressions: names given as text would be read as SQL, `v1.2` as column `2` of a table `v1`.
    let on: Vec<Expr> =
        key.iter().zip(&names).map(|(column, name)| ident(of_change(&column.name)).eq(ident(name))).collect();
    let doubled = rows
        .select(key_exprs.clone())
        // The keys that were merged are held, those of the table stream by.
        .and_then(|rows| changed.join_on(rows, JoinType::RightSemi, on))
        .and_then(|rows| rows.aggregate(key_exprs, vec![count(lit(1)).alias(ROWS)]))
        .and_then(|keys| keys.filter(ident(ROWS).gt(lit(1))))
        .map_err(failed)?;
    let doubled = doubled.count().await.map_err(failed)?;
    demand_unique(&folder.name, u64::try_from(doubled).unwrap_or(u64::MAX))
}
