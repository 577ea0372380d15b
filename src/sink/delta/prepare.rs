//! Step 1 of the commit protocol: rows become files in the log's folder, which no reader sees yet.

use std::sync::Arc;

use datafusion::prelude::SessionContext;
use deltalake::kernel::StructType;
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::DeltaSink;
use super::columns;
use super::evolve::{self, Wanted};
use super::stage::{FILE_BYTES_MAX, Stage, Staged};
use crate::error::{Error, Result};
use crate::sink::columns::same;
use crate::sink::log_rows::{self, LogRows};
use crate::sink::part::Part;
use crate::sink::{Attempt, Prepared, Rows, Target};

/// What [`Prepared::staged`] holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StagedAttempt {
    /// `_cdc_batch` of the rows.
    pub(super) attempt: String,
    /// The Delta schema of the files.
    pub(super) schema: StructType,
    /// The files.
    #[serde(flatten)]
    pub(super) files: Staged,
}

/// Writes the rows into files of the attempt, then evolves the log's schema to hold them.
pub(super) async fn prepare(
    sink: &DeltaSink,
    target: &Target,
    attempt: &Attempt,
    rows: Rows,
    session: &SessionContext,
) -> Result<Prepared> {
    let in_table = |error: Error| error.in_table(&target.source);
    check_attempt(&attempt.id)?;
    log_rows::check_names(target, &rows.columns).map_err(in_table)?;
    let folder = sink.folder(target, Part::Changes);
    let wanted = Wanted {
        columns: rows.columns.iter().map(log_rows::own_spelling).chain(columns::added_to_changes()).collect(),
        bounded: vec![columns::BATCH.to_owned()],
        clock: sink.clock.as_ref(),
    };
    // Rows that turn out bad must not shape the log: its columns are worked out now and given to it at the end.
    let own = Wanted { columns: columns::added_to_changes().into_iter().collect(), ..wanted.clone() };
    let table = evolve::evolve(&folder, &own, session).await?;
    let united = columns::unite(&columns::of_table(&table)?, &wanted.columns).map_err(in_table)?;
    let layout = LogRows::new(&rows.columns, &united.columns, attempt)?;
    let stage = Stage {
        folder: &folder,
        store: table.object_store(),
        prefix: attempt.id.clone(),
        schema: Arc::clone(&layout.schema),
        bounded: wanted.bounded.clone(),
        pool: Arc::clone(&session.runtime_env().memory_pool),
        now: sink.clock.now(),
        file_bytes_max: FILE_BYTES_MAX,
    };
    let laid_out = rows.stream.map(|batch| layout.lay_out(&batch.map_err(Error::of_rows)?));
    let files = stage.write(laid_out.boxed()).await.map_err(in_table)?;
    let have = columns::of_table(&evolve::evolve(&folder, &wanted, session).await?)?;
    let data =
        have.into_iter().filter(|column| !columns::added_to_changes().iter().any(|own| same(&own.name, &column.name)));
    let (written, bytes) = (files.rows, files.bytes);
    let schema = columns::delta_schema(&layout.columns)?;
    let staged = StagedAttempt { attempt: attempt.id.clone(), schema, files };
    let staged = serde_json::to_value(staged).map_err(|cause| Error::bug("add actions are not JSON").because(cause))?;
    Ok(Prepared { rows: written, bytes, columns: data.collect(), staged })
}

/// An attempt's id names files, so it must be plain.
fn check_attempt(id: &str) -> Result<()> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if !id.is_empty() && id.chars().all(plain) {
        return Ok(());
    }
    Err(Error::bug(format!("the attempt id `{}` cannot name a file", id.escape_debug())))
}
