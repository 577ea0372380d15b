//! Rows as the change log keeps them: in its columns' spelling, order and types, with what the sink adds.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;

use super::columns::{self, same};
use crate::change::types::ColumnType;
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::sink::{Attempt, Column, Target};

/// Columns must differ by more than case, and the sink's own names are taken.
pub(super) fn check_names(target: &Target, rows: &[Column]) -> Result<()> {
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
pub(super) fn own_spelling(column: &Column) -> Column {
    let own = [columns::OPERATION, columns::SEQUENCE].into_iter().find(|own| same(own, &column.name));
    Column { name: own.unwrap_or(&column.name).to_owned(), column_type: column.column_type.clone() }
}

/// How a batch of the stream becomes rows of the log.
pub(super) struct LogRows {
    /// Which column of the stream each file column comes from; then batch, time and file id.
    from: Vec<usize>,
    /// The file's columns, spelled and typed as the log has them.
    pub(super) columns: Vec<Column>,
    pub(super) schema: SchemaRef,
    stream_columns: usize,
    attempt: Attempt,
}

impl LogRows {
    /// Rows of `rows` columns as a log with the columns `have` keeps them.
    pub(super) fn new(rows: &[Column], have: &[Column], attempt: &Attempt) -> Result<Self> {
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

    /// The rows with what the sink adds.
    pub(super) fn lay_out(&self, batch: &RecordBatch) -> Result<RecordBatch> {
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
