//! Choosing rows within bounded memory: what has no room is written out, divided by the keys' hashes, and chosen from
//! part by part.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, BinaryBuilder, RecordBatch, UInt64Array, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::execution::SpillFile;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::SpillManager;
use futures::StreamExt;
use futures::future::BoxFuture;

use super::winners::Winners;

/// So much is held without asking.
const FREE_BYTES: usize = 1 << 20;
/// Into how many parts keys are divided at once.
const PARTS: usize = 16;
/// So often parts are divided further; by then all keys of one have the same hash.
const DEPTH_MAX: u32 = 15;
/// Rows of a batch that is written out.
const BATCH_ROWS: usize = 8_192;

/// Keys, orders and numbers as they are written out.
pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Binary, false),
        Field::new("order", DataType::Binary, false),
        Field::new("id", DataType::UInt64, false),
    ]))
}

/// Chooses the first row of each key.
pub(super) struct Choosing {
    winners: Winners,
    reservation: MemoryReservation,
    files: Arc<SpillManager>,
    /// For each part, what was written out.
    parts: Vec<Vec<Arc<dyn SpillFile>>>,
    depth: u32,
}

impl Choosing {
    /// Chooses from nothing yet. The files have the [`schema`] above.
    pub(super) fn new(reservation: MemoryReservation, files: Arc<SpillManager>) -> Self {
        Self { winners: Winners::new(), reservation, files, parts: Vec::new(), depth: 0 }
    }

    /// Offers a row.
    pub(super) fn offer(&mut self, key: &[u8], order: &[u8], id: u64) {
        self.winners.offer(key, order, id);
    }

    /// Makes sure that there is memory for what was offered, or makes room.
    pub(super) fn keep_within_bounds(&mut self) -> Result<()> {
        let bytes = self.winners.memory();
        match self.reservation.try_resize(bytes) {
            Ok(()) => Ok(()),
            Err(_) if bytes <= FREE_BYTES => Ok(()),
            Err(cause) if self.depth > DEPTH_MAX => Err(cause),
            Err(_) => self.write_out(),
        }
    }

    fn write_out(&mut self) -> Result<()> {
        let winners = std::mem::take(&mut self.winners);
        let parts: Vec<usize> = winners.iter().map(|(key, ..)| part_of(key, self.depth)).collect();
        self.parts.resize_with(PARTS, Vec::new);
        for (part, files) in self.parts.iter_mut().enumerate() {
            let of_part = winners.iter().zip(&parts).filter(|(_, other)| **other == part);
            let batches = batches(of_part.map(|(winner, _)| winner))?;
            files.extend(self.files.spill_record_batch_and_finish(&batches, "latest per key")?);
        }
        drop(winners);
        self.reservation.free();
        Ok(())
    }

    /// Gives the numbers of the chosen rows, in parts, and how many there are.
    pub(super) fn finish<'a>(mut self, give: &'a (dyn Fn(&[u64]) + Send + Sync)) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            if self.parts.is_empty() {
                let ids: Vec<u64> = self.winners.iter().map(|(_, _, id)| id).collect();
                give(&ids);
                return Ok(ids.len());
            }
            self.write_out()?;
            let mut keys = 0;
            for files in std::mem::take(&mut self.parts) {
                keys += self.choose_from(files).await?.finish(give).await?;
            }
            Ok(keys)
        })
    }

    async fn choose_from(&self, written: Vec<Arc<dyn SpillFile>>) -> Result<Self> {
        let (reservation, files) = (self.reservation.new_empty(), Arc::clone(&self.files));
        let mut choosing = Self { depth: self.depth + 1, ..Self::new(reservation, files) };
        for file in written {
            let mut batches = self.files.read_spill_as_stream_unbuffered(file, None)?;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                let (keys, orders, ids) = columns(&batch)?;
                for index in 0..batch.num_rows() {
                    choosing.offer(keys.value(index), orders.value(index), ids.value(index));
                }
                choosing.keep_within_bounds()?;
            }
        }
        Ok(choosing)
    }
}

/// Rows as they are written out.
fn batches<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8], u64)>) -> Result<Vec<RecordBatch>> {
    let mut rows = rows.peekable();
    let mut batches = Vec::new();
    while rows.peek().is_some() {
        let (mut keys, mut orders, mut ids) = (BinaryBuilder::new(), BinaryBuilder::new(), UInt64Builder::new());
        for (key, order, id) in rows.by_ref().take(BATCH_ROWS) {
            keys.append_value(key);
            orders.append_value(order);
            ids.append_value(id);
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(orders.finish()), Arc::new(ids.finish())];
        batches.push(RecordBatch::try_new(schema(), columns)?);
    }
    Ok(batches)
}

fn columns(batch: &RecordBatch) -> Result<(&BinaryArray, &BinaryArray, &UInt64Array)> {
    let binary = |index: usize| batch.column(index).as_binary_opt::<i32>();
    let ids = batch.column(2).as_primitive_opt::<UInt64Type>();
    match (binary(0), binary(1), ids) {
        (Some(keys), Some(orders), Some(ids)) => Ok((keys, orders, ids)),
        _ => Err(exec_datafusion_err!("a file of keys has other columns than were written")),
    }
}

/// Which part a key is of, at this depth; at each by another hash.
fn part_of(key: &[u8], depth: u32) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((depth, key));
    usize::try_from(hash % PARTS as u64).unwrap_or(0)
}
