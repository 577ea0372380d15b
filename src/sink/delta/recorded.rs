//! What a target's log says of its own past, for a ledger that was lost.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{cast, ident, lit};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::{DeltaSink, columns, commit, purge, switch, table, trouble};
use crate::change::FileId;
use crate::change::batch::Recording;
use crate::error::{Error, Result};
use crate::sink::part::Part;
use crate::sink::{Attempt, Recorded, Target};

const ROWS: &str = "__freshet_rows";

/// Reads the log's batches and files; None where there is no log.
pub(super) async fn recorded(sink: &DeltaSink, target: &Target, session: &SessionContext) -> Result<Option<Recorded>> {
    let folder = sink.folder(target, Part::Changes);
    let Some(log) = table::open(&folder).await? else { return Ok(None) };
    let failed = |cause| trouble::query(&folder, "read", cause);
    let at = cast(ident(columns::LOADED_AT), DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    let keys = vec![
        cast(ident(columns::BATCH), DataType::Utf8).alias(columns::BATCH),
        at.alias(columns::LOADED_AT),
        cast(ident(columns::FILE_ID), DataType::Binary).alias(columns::FILE_ID),
    ];
    let names = vec![ident(columns::BATCH), ident(columns::LOADED_AT), ident(columns::FILE_ID)];
    let rows = table::rows(&folder, &log, None, session).await?;
    let rows =
        rows.select(keys).and_then(|rows| rows.aggregate(names, vec![count(lit(1)).alias(ROWS)])).map_err(failed)?;
    let mut found = rows.execute_stream().await.map_err(failed)?;
    let mut recording = Recording::default();
    while let Some(batch) = found.try_next().await.map_err(failed)? {
        take(&mut recording, &batch).ok_or_else(|| {
            Error::user(format!("{} has rows without `_cdc_batch`, `_cdc_loaded_at` or `_cdc_file_id`", folder.name))
                .in_table(&target.source)
                .hint("another program changed the change log; restore it to an earlier version")
        })?;
    }
    let number = table::transaction_version(&folder, &log, &commit::app_id(target)).await?;
    let final_folder = sink.folder(target, Part::Final);
    let generation = match table::open_unbound(&final_folder).await? {
        Some(table) => switch::generation_of(&final_folder, &table, target).await?.unwrap_or(1),
        None => 0,
    };
    let stones = sink.folder(target, Part::Tombstones);
    let purged_us = match table::open_unbound(&stones).await? {
        Some(table) => purge::purged_us(&stones, &table, target).await?,
        None => 0,
    };
    Ok(Some(Recorded {
        generation,
        purged_us,
        has_final: generation > 0,
        number: number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0),
        ..recording.recorded()
    }))
}

/// Takes in the rows of a batch; None where one lacks what every row of a log has.
fn take(recording: &mut Recording, batch: &RecordBatch) -> Option<()> {
    let attempts = batch.column(0).as_string_opt::<i32>()?;
    let times = batch.column(1).as_primitive_opt::<TimestampMicrosecondType>()?;
    let files = batch.column(2).as_binary_opt::<i32>()?;
    let rows = batch.column(3).as_primitive_opt::<Int64Type>()?;
    for row in 0..batch.num_rows() {
        if attempts.is_null(row) || times.is_null(row) || files.is_null(row) {
            return None;
        }
        let loaded_at = chrono::DateTime::from_timestamp_micros(times.value(row))?;
        let attempt = Attempt { id: attempts.value(row).to_owned(), loaded_at };
        recording.add(attempt, FileId(files.value(row).try_into().ok()?), u64::try_from(rows.value(row)).ok()?);
    }
    Some(())
}
