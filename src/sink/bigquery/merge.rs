//! Merges the change log into the final table by query jobs, each change guarded by its sequence.
//!
//! The result depends only on the set of changes merged: a change takes effect if its sequence is greater than
//! that of the key's row and of the key's tombstone, in whatever order and however often changes come. Tombstones
//! are written by a job of their own before the job that consults them.
//!
//! Each step is a job under an id made of the attempt's, see [`jobs`]: daemons that work on one attempt never run
//! two jobs of one step at once, and as one attempt's steps have all ended before the next attempt begins, no merge
//! ever reads tombstones beside one that writes them. A purge may drop some meanwhile, which none that runs then needs.

use chrono::{DateTime, Days, NaiveTime, Utc};

use super::bounds::{self, Extent};
use super::jobs::{self, Step};
use super::sql::Merging;
use super::trouble::Failure;
use super::{BigQuerySink, Part, TableId, sql, tables};
use crate::change::types::ColumnType;
use crate::config::{Create, OnDelete};
use crate::error::{Error, Kind, Result};
use crate::sink::columns;
use crate::sink::{Column, MergeAttempt, MergeCounts, Target, demand_unique, is_sampled};
use crate::trial::failpoint;

/// How far the view of what is not merged yet looks back from the oldest batch of the last merge. A batch is
/// committed within a day after its attempt's id was chosen, so that none that waits is older.
const LIVE_DAYS: Days = Days::new(2);

/// Merges the attempt's batches. May be repeated, by any daemon: steps that were done are not done again.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where key, tables or permissions must be mended,
/// [`Retry`](crate::error::Kind::Retry) where another time may do.
pub(super) async fn merge(sink: &BigQuerySink, target: &Target, merge: &MergeAttempt) -> Result<MergeCounts> {
    if merge.batches.is_empty() {
        return Ok(MergeCounts::default());
    }
    let merged = once(sink, target, merge).await;
    if merged.is_err() {
        tables::forget(sink, target);
    }
    merged
}

async fn once(sink: &BigQuerySink, target: &Target, merge: &MergeAttempt) -> Result<MergeCounts> {
    let log = sink.table(target, Part::Changes);
    // Looked up each time: another daemon's batch may have columns that this one has not seen.
    let log_columns = tables::look_up(sink, &log).await?.ok_or_else(|| tables::gone(&log))?;
    let key = key(target, &log_columns)?;
    let columns = columns::final_columns(&log_columns, target.on_delete);
    tables::ensure(sink, target, Part::Final, &columns).await?;
    if target.on_delete == OnDelete::Remove {
        tables::ensure(sink, target, Part::Tombstones, &columns::tombstone_columns(&key)).await?;
    }
    let (final_table, tombstones) = (sink.table(target, Part::Final), sink.table(target, Part::Tombstones));
    let floor = sql::floor(target.generation, merge.purged_us);
    let merging = Merging {
        log: &log,
        final_table: &final_table,
        tombstones: &tombstones,
        on_delete: target.on_delete,
        key: &key,
        columns: &columns,
        merge,
        floor: &floor,
    };
    let steps = Steps { sink, target, merging };
    match steps.run(&log_columns).await {
        // A batch that was prepared meanwhile may have widened the log beyond the final table.
        Err(error) if error.kind() == Kind::User && is_changed(sink, &log, &log_columns).await => {
            Err(error.with_kind(Kind::Retry))
        }
        done => done,
    }
}

/// Whether the log has other columns or types than these by now.
async fn is_changed(sink: &BigQuerySink, log: &TableId, seen: &[Column]) -> bool {
    tables::look_up(sink, log).await.is_ok_and(|now| now.is_none_or(|now| now != seen))
}

/// The key's columns as the log has them, by which BigQuery must be able to merge.
fn key(target: &Target, log: &[Column]) -> Result<Vec<Column>> {
    let key = columns::key_columns(&target.key, log)?;
    let unfit = |column: &&Column| {
        matches!(column.column_type, ColumnType::Float64 | ColumnType::Array(_) | ColumnType::Struct(_))
    };
    match key.iter().find(unfit) {
        None => Ok(key),
        Some(Column { name, column_type }) => {
            Err(Error::user(format!("the key column `{name}` is {column_type}, by which BigQuery cannot merge"))
                .hint(format!("CAST `{name}` in the table's SQL to DECIMAL or VARCHAR")))
        }
    }
}

/// The steps of one merge.
struct Steps<'a> {
    sink: &'a BigQuerySink,
    target: &'a Target,
    merging: Merging<'a>,
}

impl Steps<'_> {
    async fn run(&self, log_columns: &[Column]) -> Result<MergeCounts> {
        let extent = self.extent_of_all(log_columns).await?;
        let counts = if extent.rows == 0 { MergeCounts::default() } else { self.merge(&extent).await? };
        if extent.rows > 0 && is_sampled(self.merging.merge) {
            self.demand_unique(&extent).await?;
        }
        show_live(self.sink, self.target, &self.merging).await?;
        Ok(counts)
    }

    /// The extent of the rows that are merged, once all of them are seen: were some not, they would never be merged.
    async fn extent_of_all(&self, log_columns: &[Column]) -> Result<Extent> {
        let wanted = self.merging.merge.rows;
        let extent = self.extent(log_columns, "").await?;
        if extent.rows >= wanted {
            return Ok(extent);
        }
        // The same job would give the same answer for ever.
        let again = format!("_{}", self.sink.clock.fresh_id().simple());
        let extent = self.extent(log_columns, &again).await?;
        if extent.rows >= wanted {
            return Ok(extent);
        }
        let (log, rows) = (self.merging.log, extent.rows);
        Err(Error::retry(format!("{log} shows {rows} of the {wanted} rows that are to be merged"))
            .hint("if this lasts, rows of the log were deleted or expired: restore them by time travel"))
    }

    async fn extent(&self, log_columns: &[Column], again: &str) -> Result<Extent> {
        let asked = bounds::candidates(self.target, log_columns);
        let sql = self.merging.bounds(&asked);
        // What is asked for goes into the id: after the configuration has changed, an older answer does not fit.
        let name = format!("bounds_{}{again}", short_hash(&sql));
        let rows = jobs::rows(self.sink, &step(&self.merging, &name, &sql, self.merging.log, "read")).await?;
        bounds::read(self.target, &asked, &rows)
    }

    async fn merge(&self, extent: &Extent) -> Result<MergeCounts> {
        if self.target.on_delete == OnDelete::Remove && extent.deletes > 0 {
            let sql = self.merging.bury(&extent.bounds);
            jobs::run(self.sink, &step(&self.merging, "tombstones", &sql, self.merging.tombstones, "merged into"))
                .await?;
            failpoint::TOMBSTONES_WRITTEN.reached();
        }
        let sql = self.merging.merge(&extent.bounds);
        let done =
            jobs::run(self.sink, &step(&self.merging, "final", &sql, self.merging.final_table, "merged into")).await?;
        Ok(done.counts())
    }

    /// Demands that the final table has one row of each key that was merged.
    async fn demand_unique(&self, extent: &Extent) -> Result<()> {
        let (sql, table) = (self.merging.doubled(&extent.bounds), self.merging.final_table);
        let doubled = jobs::count(self.sink, &sql, format!("the keys of {table} cannot be counted")).await?;
        demand_unique(&table.to_string(), doubled.ok_or_else(|| tables::gone(table))?)
    }
}

/// Makes the view of what is not merged yet, or gives it other columns or a later day to begin with. Where people make
/// tables themselves, the view is theirs too: until the table is reloaded an older one shows the same rows, at a higher price
/// (and nothing is purged there).
pub(super) async fn show_live(sink: &BigQuerySink, target: &Target, merging: &Merging<'_>) -> Result<()> {
    let view = sink.table(target, Part::Live);
    let query = merging.live(live_since(merging.merge.loaded.0));
    if sink.config.create == Create::Never || sink.known.view(&view).as_ref() == Some(&query) {
        return Ok(());
    }
    let unreadable = |failure: Failure| failure.into_error(format!("the view {view} cannot be read"));
    let shown = sink.rest.table(&view).await.map_err(unreadable)?;
    let shown = shown.as_ref().and_then(|resource| resource["view"]["query"].as_str()).map(str::trim);
    if shown.is_some_and(|shown| sql::live_floor(shown) > merging.floor) {
        // The table was switched or purged meanwhile.
        return Ok(());
    }
    if shown != Some(query.as_str()) {
        let description = format!("{}, with changes not merged yet", target.source);
        let sql = sql::create_view(&view, &description, &query);
        let name = format!("live_{}", short_hash(&sql));
        jobs::run(sink, &step(merging, &name, &sql, &view, "made")).await?;
    }
    sink.known.saw_view(&view, &query);
    Ok(())
}

fn step<'s>(merging: &Merging<'_>, name: &str, sql: &'s str, table: &TableId, done: &str) -> Step<'s> {
    let prefix = jobs::prefix(&merging.merge.attempt.id, name);
    Step { prefix, sql, message: format!("the table {table} cannot be {done}") }
}

/// From when on the log's rows are shown beside the final table: a midnight, so that the view is made anew once
/// a day at most.
fn live_since(oldest: DateTime<Utc>) -> DateTime<Utc> {
    let day = oldest.date_naive();
    day.checked_sub_days(LIVE_DAYS).unwrap_or(day).and_time(NaiveTime::MIN).and_utc()
}

/// Tells statements apart in ids.
fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().chars().take(16).collect()
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
