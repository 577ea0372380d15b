//! The latest change of each key among rows that are about to be sent, a bounded stretch of them at a time.
//!
//! Where a table's SQL keeps only the latest change of each key, one that another of the same stretch replaces need not be
//! sent. It has been transformed all the same: a value that cannot be cast is an error wherever files are cut. Among
//! stretches, and batches, the merge decides, by the same order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat, filter_record_batch};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, stream};

use crate::catalog::cdc;
use crate::change::types::same_name;
use crate::error::Error;
use crate::sink::Rows;

/// A stretch ends with the record batch that makes it so large.
const STRETCH_BYTES: usize = 32 << 20;
const STRETCH_ROWS: usize = 1 << 18;

/// The rows without those that a later change of the same key replaces within their stretch.
///
/// # Errors
/// [`Bug`](crate::error::Kind::Bug) where the rows lack the key or their order.
pub(super) fn only(rows: Rows, key: &[String], pool: &Arc<dyn MemoryPool>) -> crate::error::Result<Rows> {
    let schema = rows.stream.schema();
    let place = |name: &str| {
        let at = schema.fields().iter().position(|field| same_name(field.name(), name));
        at.ok_or_else(|| Error::bug(format!("the rows to be sent lack `{name}`")))
    };
    let order = Order {
        key: key.iter().map(|name| place(name)).collect::<crate::error::Result<_>>()?,
        sequence: place(cdc::SEQUENCE)?,
        file: schema.fields().len() - 1,
    };
    let memory = MemoryConsumer::new("freshet latest change of each key").register(pool);
    let stretches = Stretches { rows: rows.stream, memory, order };
    let reduced = stretches.flat();
    Ok(Rows { columns: rows.columns, stream: Box::pin(RecordBatchStreamAdapter::new(schema, reduced)) })
}

/// Which columns tell whose change a row is, and when it was made.
struct Order {
    key: Vec<usize>,
    sequence: usize,
    /// Tells changes apart that two files repeat; the last column.
    file: usize,
}

/// Rows, a stretch at a time.
struct Stretches<S> {
    rows: S,
    memory: MemoryReservation,
    order: Order,
}

impl<S: Stream<Item = Result<RecordBatch>> + Unpin + Send> Stretches<S> {
    fn flat(self) -> impl Stream<Item = Result<RecordBatch>> + Send {
        stream::unfold(Some(self), |stretches| async {
            let mut stretches = stretches?;
            match stretches.next().await {
                Ok(batches) if batches.is_empty() => None,
                Ok(batches) => Some((batches.into_iter().map(Ok).collect::<Vec<_>>(), Some(stretches))),
                Err(error) => Some((vec![Err(error)], None)),
            }
        })
        .flat_map(stream::iter)
    }

    /// The latest changes of the next stretch; nothing at the end.
    async fn next(&mut self) -> Result<Vec<RecordBatch>> {
        self.memory.free();
        let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while rows < STRETCH_ROWS && bytes < STRETCH_BYTES {
            let Some(batch) = self.rows.next().await.transpose()? else { break };
            if batch.num_rows() == 0 {
                continue;
            }
            rows += batch.num_rows();
            let more = batch.get_array_memory_size();
            bytes += more;
            batches.push(batch);
            // Where memory is short, stretches are.
            if self.memory.try_grow(more).is_err() {
                break;
            }
        }
        self.order.latest(batches)
    }
}

impl Order {
    fn latest(&self, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let is_latest = match batches.is_empty() {
            true => return Ok(batches),
            false => self.is_latest(&batches)?,
        };
        let mut first = 0;
        let mut kept = Vec::with_capacity(batches.len());
        for batch in batches {
            let mask = BooleanArray::new(is_latest.slice(first, batch.num_rows()), None);
            first += batch.num_rows();
            match mask.true_count() {
                0 => {}
                all if all == batch.num_rows() => kept.push(batch),
                _ => kept.push(filter_record_batch(&batch, &mask)?),
            }
        }
        Ok(kept)
    }

    /// For each row of the stretch, whether no other of its key is later.
    fn is_latest(&self, batches: &[RecordBatch]) -> Result<arrow::buffer::BooleanBuffer> {
        let column = |at: usize| -> Result<ArrayRef> {
            let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(at).as_ref()).collect();
            Ok(concat(&arrays)?)
        };
        let keys = self.key.iter().map(|at| column(*at)).collect::<Result<Vec<_>>>()?;
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let keys = RowConverter::new(fields)?.convert_columns(&keys)?;
        let (sequences, files) = (column(self.sequence)?, column(self.file)?);
        let (sequences, files) = match (sequences.as_string_opt::<i32>(), files.as_binary_opt::<i32>()) {
            (Some(sequences), Some(files)) => (sequences, files),
            _ => return Err(DataFusionError::from(Error::bug("the order of rows to be sent is of another type"))),
        };
        let rank = |row: usize| (sequences.value(row), files.value(row));
        let mut latest = HashMap::with_capacity(keys.num_rows());
        for (row, key) in keys.iter().enumerate() {
            match latest.get_mut(&key) {
                Some(known) if rank(row) > rank(*known) => *known = row,
                Some(_) => {}
                None => _ = latest.insert(key, row),
            }
        }
        let mut mask = arrow::array::BooleanBufferBuilder::new(keys.num_rows());
        mask.append_n(keys.num_rows(), false);
        latest.into_values().for_each(|row| mask.set_bit(row, true));
        Ok(mask.finish())
    }
}

#[cfg(test)]
#[path = "latest_tests.rs"]
mod tests;
