//! Tombstones from long ago are dropped by a query job.
//!
//! A merge from before it cannot miss them: its jobs have all ended, and none of them is started again, see [`jobs`]. First
//! the view of what is not merged yet is confined to later changes, as an older one in the log would come back in it.

use serde_json::Value;

use super::jobs::{self, Step};
use super::trouble::Failure;
use super::{BigQuerySink, Part, sql, switch, tables};
use crate::change;
use crate::error::{Error, Result};
use crate::sink::{Purge, Target};

/// The label of a table of tombstones that notes up to when it was purged.
const PURGED_LABEL: &str = "freshet_purged_us";

/// Above every sequence.
pub(super) const ABOVE_ALL: &str = "g";

/// The sequence of the newest of the final table's rows below this one.
pub(super) async fn newest(sink: &BigQuerySink, target: &Target, below: &str) -> Result<Option<String>> {
    let table = sink.table(target, Part::Final);
    let prefix = format!("freshet_newest_{}", sink.clock.fresh_id());
    let step = Step { prefix, sql: &sql::newest(&table, below), message: format!("{table} cannot be read") };
    let rows = jobs::rows(sink, &step).await?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
}

/// Drops the tombstones that the purge names.
pub(super) async fn purge(sink: &BigQuerySink, target: &Target, purge: &Purge) -> Result<()> {
    let tombstones = sink.table(target, Part::Tombstones);
    let failed = |failure: Failure| failure.into_error(format!("{tombstones} cannot be read"));
    let Some(resource) = sink.rest.table(&tombstones).await.map_err(failed)? else {
        // Nothing was ever deleted.
        return Ok(());
    };
    let floor = change::first_sequence(target.generation, purge.below_us);
    switch::hide_below(sink, &floor, &purge.id, target).await?;
    if noted(&resource) < purge.below_us {
        tables::label(sink, &tombstones, PURGED_LABEL, purge.below_us).await?;
    }
    let message = format!("the table {tombstones} cannot be purged");
    let sql = sql::purge(&tombstones, &floor);
    jobs::run(sink, &Step { prefix: jobs::prefix(&purge.id, "purge"), sql: &sql, message }).await?;
    Ok(())
}

/// Up to which time, in µs since 1970, a table's resource notes that it was purged; 0 where it notes none.
fn noted(resource: &Value) -> u64 {
    tables::labelled(resource, PURGED_LABEL)
}

/// Up to which time, in µs since 1970, the target's tombstones were purged; 0: never.
pub(super) async fn purged_us(sink: &BigQuerySink, target: &Target) -> Result<u64> {
    let tombstones = sink.table(target, Part::Tombstones);
    let failed = |failure: Failure| -> Error { failure.into_error(format!("{tombstones} cannot be read")) };
    Ok(sink.rest.table(&tombstones).await.map_err(failed)?.as_ref().map_or(0, noted))
}
