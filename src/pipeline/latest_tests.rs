//! Which rows are left of each key, against a model, and that short memory costs rows sent and never a row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;

use super::only;
use crate::error::Error;
use crate::sink::Rows;
use crate::trial::dice::Dice;

/// Key in two columns, sequence, file.
type Change = (i64, &'static str, u64, u8);

fn batch(changes: &[Change]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from_iter_values(changes.iter().map(|change| change.0)))),
        ("Part", Arc::new(StringArray::from_iter_values(changes.iter().map(|change| change.1)))),
        (
            "_cdc_sequence",
            Arc::new(StringArray::from_iter_values(changes.iter().map(|change| format!("{:016x}", change.2)))),
        ),
        ("_cdc_file_id", Arc::new(BinaryArray::from_iter_values(changes.iter().map(|change| [change.3; 16])))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn rows(batches: Vec<Result<RecordBatch, DataFusionError>>) -> Rows {
    let schema = batch(&[]).schema();
    Rows {
        columns: Vec::new(),
        stream: Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches))),
    }
}

fn changes_of(batches: &[RecordBatch]) -> Vec<(i64, String, String, u8)> {
    let of = |batch: &RecordBatch| -> Vec<(i64, String, String, u8)> {
        let (ids, parts) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
        let (sequences, files) = (batch.column(2).as_string::<i32>(), batch.column(3).as_binary::<i32>());
        let row = |row| (ids.value(row), parts.value(row).into(), sequences.value(row).into(), files.value(row)[0]);
        (0..batch.num_rows()).map(row).collect()
    };
    batches.iter().flat_map(of).collect()
}

/// The latest change of each key, as one would write it down.
fn model(changes: &[Change]) -> BTreeSet<(i64, String, String, u8)> {
    let mut latest: BTreeMap<(i64, &str), (u64, u8)> = BTreeMap::new();
    for (id, part, sequence, file) in changes {
        let known = latest.entry((*id, part)).or_default();
        *known = (*known).max((*sequence, *file));
    }
    latest
        .into_iter()
        .map(|((id, part), (sequence, file))| (id, part.to_owned(), format!("{sequence:016x}"), file))
        .collect()
}

fn random(dice: &mut Dice) -> Vec<Change> {
    let keys = 1 + dice.below(40);
    let change = |dice: &mut Dice| {
        let part = ["a", "b", ""][usize::try_from(dice.below(3)).unwrap()];
        (
            i64::try_from(dice.below(keys)).unwrap() - 5,
            part,
            1 + dice.below(30),
            u8::try_from(1 + dice.below(4)).unwrap(),
        )
    };
    (0..dice.below(200)).map(|_| change(dice)).collect()
}

fn cut(changes: &[Change], dice: &mut Dice) -> Vec<Result<RecordBatch, DataFusionError>> {
    let mut rest = changes;
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let (first, others) = rest.split_at(usize::try_from(dice.below(rest.len() as u64 + 1)).unwrap());
        batches.push(Ok(batch(first)));
        rest = others;
    }
    batches
}

async fn reduced(batches: Vec<Result<RecordBatch, DataFusionError>>, pool: Arc<dyn MemoryPool>) -> Vec<RecordBatch> {
    let key = ["ID".to_owned(), "part".to_owned()];
    only(rows(batches), &key, &pool).unwrap().stream.try_collect().await.unwrap()
}

#[tokio::test]
async fn of_each_key_the_latest_change_is_left_wherever_it_stands() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let mut changes = random(&mut dice);
        // No two rows have the same place in the order.
        let mut seen = BTreeSet::new();
        changes.retain(|change| seen.insert(*change));
        let batches = cut(&changes, &mut dice);
        let found = changes_of(&reduced(batches, Arc::new(UnboundedMemoryPool::default())).await);
        assert_eq!(found.len(), model(&changes).len(), "seed {seed}: a key is there twice");
        assert_eq!(BTreeSet::from_iter(found), model(&changes), "seed {seed}");
    }
}

#[tokio::test]
async fn where_memory_is_short_more_is_left_and_never_the_latest_lost() {
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let changes = random(&mut dice);
        let batches = cut(&changes, &mut dice);
        let pool = Arc::new(GreedyMemoryPool::new(1_000));
        let found = changes_of(&reduced(batches, Arc::clone(&pool) as _).await);
        let all: BTreeSet<_> = changes_of(&[batch(&changes)]).into_iter().collect();
        assert!(found.iter().all(|change| all.contains(change)), "seed {seed}");
        assert!(model(&changes).is_subset(&BTreeSet::from_iter(found)), "seed {seed}");
        assert_eq!(pool.reserved(), 0, "seed {seed}: memory is kept");
    }
}

#[tokio::test]
async fn an_error_among_the_rows_is_told_even_where_they_are_replaced() {
    let bad = DataFusionError::from(Error::data("poison"));
    let batches = vec![Ok(batch(&[(1, "a", 1, 1)])), Err(bad), Ok(batch(&[(1, "a", 2, 1)]))];
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let told =
        only(rows(batches), &["id".to_owned()], &pool).unwrap().stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(told.to_string().contains("poison"), "{told}");
}

#[test]
fn rows_without_their_key_are_no_rows_to_be_sent() {
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let Err(error) = only(rows(Vec::new()), &["other".to_owned()], &pool) else { panic!("it was taken") };
    assert!(error.report().contains("other"));
}
