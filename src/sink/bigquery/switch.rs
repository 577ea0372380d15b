//! A generation that was built in another target takes the place of this one's, in one transaction.
//!
//! The view of what is not merged yet comes first: from then on it shows no change of the generation before, and until
//! the transaction what was merged of that. Merges of that generation have all ended, and none of their jobs is started
//! again, see [`jobs`].
//!
//! See <https://cloud.google.com/bigquery/docs/transactions>.

use chrono::DateTime;
use serde_json::Value;

use super::jobs::{self, Step};
use super::sql::{Merging, Swap};
use super::trouble::Failure;
use super::{BigQuerySink, Part, TableId, merge, sql, tables};
use crate::config::{Create, OnDelete};
use crate::error::Result;
use crate::sink::{Attempt, MergeAttempt, Target, columns};

/// The label of a final table that notes its generation.
const GENERATION_LABEL: &str = "freshet_generation";

/// Gives each table of the target the columns that the one has which was built: where types do not unite, that is told
/// before anything is switched.
pub(super) async fn fit(sink: &BigQuerySink, built: &Target, target: &Target) -> Result<()> {
    for part in Part::of(target) {
        if let Some(columns) = tables::look_up(sink, &sink.table(built, part)).await? {
            tables::ensure(sink, target, part, &columns).await?;
        }
    }
    Ok(())
}

/// Puts what was built in the place of the target's tombstones and final rows.
pub(super) async fn switch(sink: &BigQuerySink, built: &Target, reload: &str, target: &Target) -> Result<()> {
    let switched = once(sink, built, reload, target).await;
    // Another may have changed the tables meanwhile.
    tables::forget(sink, target);
    switched
}

async fn once(sink: &BigQuerySink, built: &Target, reload: &str, target: &Target) -> Result<()> {
    let mut swaps = Vec::new();
    if target.on_delete == OnDelete::Remove {
        swaps.extend(swap(sink, built, target, Part::Tombstones).await?);
    }
    swaps.extend(swap(sink, built, target, Part::Final).await?);
    if swaps.is_empty() {
        return Ok(());
    }
    hide_below(sink, &sql::floor(built.generation, 0), reload, target).await?;
    note_generation(sink, built.generation, target).await?;
    let sql = sql::switch(&swaps);
    let message = format!("the table {} cannot be switched", sink.table(target, Part::Final));
    jobs::run(sink, &Step { prefix: jobs::prefix(reload, "switch"), sql: &sql, message }).await?;
    Ok(())
}

/// What is to be done with one table; None where nothing was built and nothing is there.
async fn swap(sink: &BigQuerySink, built: &Target, target: &Target, part: Part) -> Result<Option<Swap>> {
    let (from, to) = (sink.table(built, part), sink.table(target, part));
    match tables::look_up(sink, &from).await? {
        Some(columns) => {
            tables::ensure(sink, target, part, &columns).await?;
            Ok(Some(Swap { to, from: Some((from, columns)) }))
        }
        None => Ok(tables::look_up(sink, &to).await?.map(|_| Swap { to, from: None })),
    }
}

/// Has the view show changes from this sequence on only, on behalf of what has this id.
pub(super) async fn hide_below(sink: &BigQuerySink, floor: &str, id: &str, target: &Target) -> Result<()> {
    let [log, final_table, tombstones] =
        [Part::Changes, Part::Final, Part::Tombstones].map(|part| sink.table(target, part));
    let (Some(log_columns), Some(columns)) =
        (tables::look_up(sink, &log).await?, tables::look_up(sink, &final_table).await?)
    else {
        return Ok(());
    };
    let now = sink.clock.now();
    let attempt = Attempt { id: id.to_owned(), loaded_at: now };
    let merging = Merging {
        log: &log,
        final_table: &final_table,
        tombstones: &tombstones,
        on_delete: target.on_delete,
        key: &columns::key_columns(&target.key, &log_columns)?,
        columns: &columns,
        merge: &MergeAttempt {
            attempt,
            batches: Vec::new(),
            rows: 0,
            loaded: (now, DateTime::UNIX_EPOCH),
            purged_us: 0,
        },
        floor,
    };
    merge::show_live(sink, target, &merging).await
}

/// Notes on the final table which generation it has, for a ledger that is lost. Where people make tables themselves, the
/// rows alone tell it.
async fn note_generation(sink: &BigQuerySink, generation: u64, target: &Target) -> Result<()> {
    if sink.config.create == Create::Never {
        return Ok(());
    }
    tables::label(sink, &sink.table(target, Part::Final), GENERATION_LABEL, generation).await
}

/// The generation that a table's resource notes; 0 where it notes none.
pub(super) fn noted_generation(resource: &Value) -> u64 {
    tables::labelled(resource, GENERATION_LABEL)
}

/// Deletes the tables of a target in which a generation was built, and its view.
pub(super) async fn discard(sink: &BigQuerySink, built: &Target) -> Result<()> {
    for part in [Part::Live, Part::Final, Part::Tombstones, Part::Changes] {
        let id: TableId = sink.table(built, part);
        let failed = |failure: Failure| failure.into_error(format!("{id} cannot be deleted"));
        sink.rest.delete_table(&id).await.map_err(failed)?;
    }
    tables::forget(sink, built);
    Ok(())
}
