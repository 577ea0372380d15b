//! Choosing rows within bounded memory: what has no room is written out, divided by the keys' hashes, and chosen from
//! part by part.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use arrow::array::{ArrayBuilder, AsArray, BinaryArray, BinaryBuilder, RecordBatch, UInt64Array, UInt64Builder};
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

/// Takes the numbers of rows.
pub(super) type Taking<'a> = dyn Fn(&[u64]) -> Result<()> + Send + Sync + 'a;

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
    /// Chooses among no winners yet. The files have the [`schema`] above.
    pub(super) fn new(winners: Winners, reservation: MemoryReservation, files: Arc<SpillManager>) -> Self {
        Self { winners, reservation, files, parts: Vec::new(), depth: 0 }
    }

    /// Has rows offered, then makes sure that there is memory for them, or makes room.
    pub(super) fn choose(&mut self, offer: impl FnOnce(&mut Winners) -> Result<()>) -> Result<()> {
        offer(&mut self.winners)?;
        self.keep_within_bounds()
    }

    fn keep_within_bounds(&mut self) -> Result<()> {
        let bytes = self.winners.memory();
        match self.reservation.try_resize(bytes) {
            Ok(()) => Ok(()),
            Err(_) if bytes <= FREE_BYTES => Ok(()),
            Err(cause) if self.depth > DEPTH_MAX => Err(cause),
            Err(_) => self.write_out(),
        }
    }

    fn write_out(&mut self) -> Result<()> {
        let none_yet = self.winners.none_yet();
        let winners = std::mem::replace(&mut self.winners, none_yet);
        let files = (0..PARTS).map(|_| self.files.create_in_progress_file("latest per key"));
        let mut files = files.collect::<Result<Vec<_>>>()?;
        let mut rows: Vec<Rows> = (0..PARTS).map(|_| Rows::default()).collect();
        winners.try_for_each(|key, order, id| {
            let part = part_of(key, self.depth);
            rows[part].push(key, order, id);
            if rows[part].ids.len() >= BATCH_ROWS {
                files[part].append_batch(&rows[part].batch()?)?;
            }
            Ok(())
        })?;
        self.parts.resize_with(PARTS, Vec::new);
        for ((mut rows, mut file), part) in rows.into_iter().zip(files).zip(&mut self.parts) {
            if !rows.ids.is_empty() {
                file.append_batch(&rows.batch()?)?;
            }
            part.extend(file.finish()?);
        }
        drop(winners);
        self.reservation.free();
        Ok(())
    }

    /// Gives the numbers of the chosen rows, some at a time, and how many there are.
    pub(super) fn finish<'a>(mut self, give: &'a Taking<'_>) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            if self.parts.is_empty() {
                return self.give_chosen(give);
            }
            self.write_out()?;
            let mut keys = 0;
            for files in std::mem::take(&mut self.parts) {
                keys += self.choose_from(files).await?.finish(give).await?;
            }
            Ok(keys)
        })
    }

    fn give_chosen(&self, give: &Taking<'_>) -> Result<usize> {
        let (mut ids, mut count) = (Vec::with_capacity(BATCH_ROWS), 0);
        self.winners.try_for_each(|_, _, id| {
            ids.push(id);
            count += 1;
            if ids.len() < BATCH_ROWS {
                return Ok(());
            }
            give(&ids)?;
            ids.clear();
            Ok(())
        })?;
        give(&ids)?;
        Ok(count)
    }

    async fn choose_from(&self, written: Vec<Arc<dyn SpillFile>>) -> Result<Self> {
        let (reservation, files) = (self.reservation.new_empty(), Arc::clone(&self.files));
        let mut choosing = Self { depth: self.depth + 1, ..Self::new(self.winners.none_yet(), reservation, files) };
        for file in written {
            let mut batches = self.files.read_spill_as_stream_unbuffered(file, None)?;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                let (keys, orders, ids) = columns(&batch)?;
                let mut rows = 0..batch.num_rows();
                choosing.choose(|winners| {
                    rows.try_for_each(|index| winners.offer(keys.value(index), orders.value(index), ids.value(index)))
                })?;
            }
        }
        Ok(choosing)
    }
}

/// Rows of a part that are to be written out.
#[derive(Default)]
struct Rows {
    keys: BinaryBuilder,
    orders: BinaryBuilder,
    ids: UInt64Builder,
}

impl Rows {
    fn push(&mut self, key: &[u8], order: &[u8], id: u64) {
        self.keys.append_value(key);
        self.orders.append_value(order);
        self.ids.append_value(id);
    }

    /// All of them, which are then gone.
    fn batch(&mut self) -> Result<RecordBatch> {
        let (keys, orders, ids) = (self.keys.finish(), self.orders.finish(), self.ids.finish());
        Ok(RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(orders), Arc::new(ids)])?)
    }
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
