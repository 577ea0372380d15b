//! Step 1 of the commit protocol: rows become files in the log's folder, which no reader sees yet.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::prelude::SessionContext;
use deltalake::kernel::StructType;
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::DeltaSink;
use super::columns::{self, same};
use super::evolve::{self, Wanted};
use super::place::Part;
use super::stage::{FILE_BYTES_MAX, Stage, Staged};
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::sink::{Attempt, Column, Prepared, Rows, Target};
use crate::types::ColumnType;

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
    check_names(target, &rows.columns).map_err(in_table)?;
    let folder = sink.folder(target, Part::Changes);
    let wanted = Wanted {
        columns: rows.columns.iter().map(own_spelling).chain(columns::added_to_changes()).collect(),
        bounded: vec![columns::BATCH.to_owned()],
        clock: sink.clock.as_ref(),
    };
    // Rows that turn out bad must not shape the log: its columns are worked out now and given to it at the end.
    let own = Wanted { columns: columns::added_to_changes().into_iter().collect(), ..wanted.clone() };
    let table = evolve::evolve(&folder, &own, session).await?;
    let united = columns::unite(&columns::of_table(&table)?, &wanted.columns).map_err(in_table)?;
    let layout = Layout::new(&rows.columns, &united.columns, attempt)?;
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

/// Columns must differ by more than case, and the sink's own names are taken.
fn check_names(target: &Target, rows: &[Column]) -> Result<()> {
    let own = match target.mode {
        Mode::Append => vec![columns::BATCH, columns::LOADED_AT, columns::FILE_ID],
        Mode::Merge => vec![columns::BATCH, columns::LOADED_AT, columns::FILE_ID, columns::DELETED],
    };
    for (at, column) in rows.iter().enumerate() {
        let hint = format!("give `{}` another name with AS in the table's SQL", column.name);
        if own.iter().any(|name| same(name, &column.name)) {
            return Err(Error::user(format!("the sink itself writes a column `{}`", column.name)).hint(hint));
        }
        if let Some(other) = rows.iter().take(at).find(|other| same(&other.name, &column.name)) {
            let message = format!("columns `{}` and `{}` are the same at the target", other.name, column.name);
            return Err(Error::user(message).hint(hint));
        }
    }
    Ok(())
}

/// The two columns that the merge looks for are spelled as it does.
fn own_spelling(column: &Column) -> Column {
    let own = [columns::OPERATION, columns::SEQUENCE].into_iter().find(|own| same(own, &column.name));
    Column { name: own.unwrap_or(&column.name).to_owned(), column_type: column.column_type.clone() }
}

/// How a batch of the stream becomes rows of the log.
struct Layout {
    /// Which column of the stream each file column comes from; then batch, time and file id.
    from: Vec<usize>,
    /// The file's columns, spelled and typed as the log has them.
    columns: Vec<Column>,
    schema: SchemaRef,
    stream_columns: usize,
    attempt: Attempt,
}

impl Layout {
    fn new(rows: &[Column], have: &[Column], attempt: &Attempt) -> Result<Self> {
        let missing = || Error::bug("a column is missing from the log that was just given it");
        let (mut from, mut out) = (Vec::new(), Vec::new());
        for (at, column) in rows.iter().enumerate() {
            if column.column_type != ColumnType::Unknown {
                from.push(at);
                out.push(columns::find(have, &column.name).cloned().ok_or_else(missing)?);
            }
        }
        for own in columns::added_to_changes() {
            out.push(columns::find(have, &own.name).cloned().ok_or_else(missing)?);
        }
        let schema = columns::arrow_schema(&out);
        Ok(Self { from, columns: out, schema, stream_columns: rows.len(), attempt: attempt.clone() })
    }

    fn lay_out(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if batch.num_columns() != self.stream_columns + 1 {
            let (have, want) = (batch.num_columns(), self.stream_columns + 1);
            return Err(Error::bug(format!("the sink was given rows of {have} columns instead of {want}")));
        }
        let rows = batch.num_rows();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (from, column) in self.from.iter().zip(&self.columns) {
            let fitted = columns::fit(batch.column(*from), &column.column_type);
            arrays.push(fitted.map_err(|cause| misfit(column, cause))?);
        }
        let loaded_at = self.attempt.loaded_at.timestamp_micros();
        arrays.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.attempt.id, rows))));
        arrays.push(Arc::new(TimestampMicrosecondArray::from(vec![loaded_at; rows]).with_timezone("UTC")));
        arrays.push(columns::fit(batch.column(self.stream_columns), &ColumnType::Bytes)?);
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
            .map_err(|cause| Error::bug("rows do not fit the log's schema").because(cause))
    }
}

fn misfit(column: &Column, cause: Error) -> Error {
    Error::new(cause.kind(), format!("column `{}` does not fit its type at the target", column.name)).because(cause)
}
