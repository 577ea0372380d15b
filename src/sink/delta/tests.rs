//! The sink through its trait: tables are written by it and read back through deltalake and DataFusion.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray,
    NullArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Int64Type, Schema};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::ident;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::DeltaSink;
use super::columns::column;
use super::table;
use crate::change::TableName;
use crate::change::types::ColumnType;
use crate::clock::StillClock;
use crate::config::{Mode, OnDelete, StorageConfig};
use crate::error::{Error, Kind};
use crate::sink::part::Part;
use crate::sink::{Attempt, Column, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Rows, Sink, Target};

mod purge;

/// When the first attempt of a test begins.
const START: DateTime<Utc> = DateTime::from_timestamp(1_700_000_000, 0).unwrap();

/// One change of a table `id, value`.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    id: i64,
    operation: &'static str,
    sequence: u32,
    value: String,
}

fn change(id: i64, operation: &'static str, sequence: u32) -> Change {
    Change { id, operation, sequence, value: format!("v{sequence}") }
}

/// A column of test rows: name, type, values.
type Values = (&'static str, ColumnType, ArrayRef);

fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn integers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

/// The columns every stream has, for changes in order: operation and sequence.
fn changed(operations: &[&str], sequences: &[u32]) -> Vec<Values> {
    vec![
        ("_cdc_operation", ColumnType::String, texts(operations)),
        ("_cdc_sequence", ColumnType::String, texts(sequences.iter().map(|n| format!("{n:016x}")))),
    ]
}

fn columns_of(changes: &[Change]) -> Vec<Values> {
    let operations: Vec<_> = changes.iter().map(|change| change.operation).collect();
    let sequences: Vec<_> = changes.iter().map(|change| change.sequence).collect();
    let mut out = changed(&operations, &sequences);
    out.push(("id", ColumnType::Int64, integers(&changes.iter().map(|change| change.id).collect::<Vec<_>>())));
    out.push(("value", ColumnType::String, texts(changes.iter().map(|change| &change.value))));
    out
}

fn rows_of(values: Vec<Values>, then: Option<Error>) -> Rows {
    let columns: Vec<Column> = values.iter().map(|(name, kind, _)| column(name, kind.clone())).collect();
    let mut fields: Vec<_> =
        values.iter().map(|(name, _, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let mut arrays: Vec<ArrayRef> = values.into_iter().map(|(_, _, array)| array).collect();
    // Each row is of a file of its own: a change that comes twice comes in two files.
    let file_ids = BinaryArray::from_iter_values((7_u8..).take(arrays[0].len()).map(|file| [file; 16]));
    fields.push(Field::new("_cdc_file_id", file_ids.data_type().clone(), true));
    arrays.push(Arc::new(file_ids));
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let items = std::iter::once(Ok(batch)).chain(then.map(|error| Err(DataFusionError::from(error))));
    Rows {
        columns,
        stream: Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(items.collect::<Vec<_>>()))),
    }
}

/// A sink in a folder of its own, and one target.
struct Bench {
    dir: tempfile::TempDir,
    sink: DeltaSink,
    session: SessionContext,
    target: Target,
}

impl Bench {
    fn new(on_delete: OnDelete) -> Self {
        Self::named(on_delete, "shop", "orders", &["id"])
    }

    fn named(on_delete: OnDelete, dataset: &str, table: &str, key: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("a b 한").tempdir().unwrap();
        let sink = DeltaSink::open(dir.path().to_str().unwrap(), Arc::new(StillClock::at(START))).unwrap();
        let name = TableName::new(dataset, table);
        let key = key.iter().map(|name| (*name).to_owned()).collect();
        let target = Target {
            source: name.clone(),
            name,
            mode: Mode::Merge,
            key,
            on_delete,
            storage: StorageConfig::default(),
            descriptions: BTreeMap::new(),
            generation: 1,
        };
        let mut config = SessionConfig::new().with_target_partitions(2);
        config.options_mut().sql_parser.enable_ident_normalization = false;
        config.options_mut().execution.parquet.schema_force_view_types = false;
        Self { dir, sink, session: SessionContext::new_with_config(config), target }
    }

    fn attempt(number: u64) -> Attempt {
        let loaded_at = START + TimeDelta::seconds(i64::try_from(number).unwrap());
        Attempt { id: format!("attempt-{number:04}"), loaded_at }
    }

    async fn prepare(&self, number: u64, values: Vec<Values>) -> Result<Prepared, Error> {
        self.sink.prepare(&self.target, &Self::attempt(number), rows_of(values, None), &self.session).await
    }

    async fn commit(&self, number: u64, prepared: &Prepared) -> Result<CommitOutcome, Error> {
        self.sink.commit(&self.target, number, prepared).await
    }

    /// Prepares and commits rows as attempt and intent `number`.
    async fn load(&self, number: u64, values: Vec<Values>) {
        let prepared = self.prepare(number, values).await.unwrap();
        assert_eq!(self.commit(number, &prepared).await.unwrap(), CommitOutcome::Committed);
    }

    fn merge_attempt(number: u64, batches: &[u64]) -> MergeAttempt {
        let attempt = Self::attempt(number);
        let loaded = (DateTime::UNIX_EPOCH, attempt.loaded_at);
        MergeAttempt {
            attempt,
            batches: batches.iter().map(|batch| Self::attempt(*batch).id).collect(),
            purged_us: 0,
            rows: 0,
            loaded,
        }
    }

    async fn merge(&self, number: u64, batches: &[u64]) -> MergeCounts {
        let merge = Self::merge_attempt(1_000 + number, batches);
        self.sink.merge(&self.target, &merge, &self.session).await.unwrap()
    }

    /// Loads and merges the changes as one batch.
    async fn apply(&self, number: u64, changes: &[Change]) -> MergeCounts {
        self.load(number, columns_of(changes)).await;
        self.merge(number, &[number]).await
    }

    async fn version(&self, part: Part) -> u64 {
        table::open_existing(&self.sink.folder(&self.target, part)).await.unwrap().version().unwrap()
    }

    /// The sorted rows of a table, each as its values split by `|`; all columns by name where none are named.
    async fn read(&self, part: Part, columns: &[&str]) -> Vec<String> {
        let table = table::open_existing(&self.sink.folder(&self.target, part)).await.unwrap();
        let session = SessionContext::new();
        table.update_datafusion_session(&session.state()).unwrap();
        let rows = session.read_table(table.table_provider().await.unwrap()).unwrap();
        let rows = rows.select(columns.iter().map(|name| ident(*name)).collect::<Vec<_>>()).unwrap();
        let mut out = Vec::new();
        for batch in rows.collect().await.unwrap() {
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter().map(|array| array_value_to_string(array, row).unwrap());
                out.push(values.collect::<Vec<_>>().join("|"));
            }
        }
        out.sort();
        out
    }

    async fn columns(&self, part: Part) -> BTreeMap<String, String> {
        let table = table::open_existing(&self.sink.folder(&self.target, part)).await.unwrap();
        let columns = super::columns::of_table(&table).unwrap();
        columns.into_iter().map(|column| (column.name, column.column_type.to_string())).collect()
    }

    fn data_files(&self, part: Part) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.sink.folder(&self.target, part).path).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_file()).collect()
    }
}

/// A small pseudo-random sequence, the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// What the final table must hold: the latest change of every key.
fn model(changes: &[Change], on_delete: OnDelete) -> Vec<String> {
    let mut latest: BTreeMap<i64, &Change> = BTreeMap::new();
    for change in changes {
        let known = latest.entry(change.id).or_insert(change);
        if change.sequence > known.sequence {
            *known = change;
        }
    }
    let row = |change: &Change| format!("{}|{}|{:016x}", change.id, change.value, change.sequence);
    let mut rows: Vec<_> = match on_delete {
        OnDelete::Remove => {
            latest.values().filter(|change| change.operation != "D").map(|change| row(change)).collect()
        }
        OnDelete::Mark => {
            latest.values().map(|change| format!("{}|{}", row(change), change.operation == "D")).collect()
        }
    };
    rows.sort();
    rows
}

async fn any_order_gives_the_models_table(on_delete: OnDelete, seed: u64) {
    let mut dice = Dice(seed);
    let changes: Vec<_> = (1..=24)
        .map(|sequence| change(i64::try_from(dice.below(6)).unwrap(), ["I", "U", "D"][dice.below(3)], sequence))
        .collect();
    let mut arrivals = changes.clone();
    arrivals.extend_from_slice(&changes[4..12]);
    for at in (1..arrivals.len()).rev() {
        arrivals.swap(at, dice.below(at + 1));
    }
    let bench = Bench::new(on_delete);
    let (mut number, mut pending) = (0, Vec::new());
    while !arrivals.is_empty() {
        number += 1;
        let rest = arrivals.split_off(arrivals.len().min(1 + dice.below(9)));
        bench.load(number, columns_of(&arrivals)).await;
        arrivals = rest;
        pending.push(number);
        if arrivals.is_empty() || dice.below(2) == 0 {
            if dice.below(2) == 0 {
                pending.push(1 + u64::try_from(dice.below(usize::try_from(number).unwrap())).unwrap());
            }
            bench.merge(number, &pending).await;
            pending.clear();
        }
    }
    let mut columns = vec!["id", "value", "_cdc_sequence"];
    columns.extend((on_delete == OnDelete::Mark).then_some("_cdc_deleted"));
    assert_eq!(bench.read(Part::Final, &columns).await, model(&changes, on_delete), "seed {seed}");
}

#[tokio::test]
async fn any_order_repetition_and_cutting_give_the_same_table_where_deletes_remove() {
    for seed in 1..=3 {
        any_order_gives_the_models_table(OnDelete::Remove, seed).await;
    }
}

#[tokio::test]
async fn any_order_repetition_and_cutting_give_the_same_table_where_deletes_mark() {
    for seed in 4..=6 {
        any_order_gives_the_models_table(OnDelete::Mark, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merges_side_by_side_give_the_same_table() {
    let bench = Bench::new(OnDelete::Remove);
    let parts = [
        vec![change(1, "I", 1), change(2, "I", 2), change(3, "I", 3)],
        vec![change(1, "D", 9), change(2, "U", 4)],
        vec![change(1, "U", 5), change(2, "D", 3), change(3, "D", 8)],
    ];
    for (number, part) in (1..).zip(&parts) {
        bench.load(number, columns_of(part)).await;
    }
    tokio::join!(bench.merge(1, &[1]), bench.merge(2, &[2]), bench.merge(3, &[3]), bench.merge(4, &[1, 3]));
    let expected = model(&parts.concat(), OnDelete::Remove);
    assert_eq!(bench.read(Part::Final, &["id", "value", "_cdc_sequence"]).await, expected);
}

#[tokio::test]
async fn a_late_change_does_not_bring_a_deleted_row_back_and_a_newer_one_does() {
    let bench = Bench::new(OnDelete::Remove);
    let counts = bench.apply(1, &[change(1, "I", 10), change(2, "I", 11)]).await;
    assert_eq!(counts, MergeCounts { inserted: 2, updated: 0, deleted: 0 });
    let counts = bench.apply(2, &[change(1, "D", 20)]).await;
    assert_eq!(counts, MergeCounts { inserted: 0, updated: 0, deleted: 1 });
    assert_eq!(bench.read(Part::Tombstones, &["id", "_cdc_sequence"]).await, ["1|0000000000000014"]);
    let counts = bench.apply(3, &[change(1, "U", 15), change(2, "U", 5)]).await;
    assert_eq!(counts, MergeCounts::default());
    assert_eq!(bench.read(Part::Final, &["id", "value"]).await, ["2|v11"]);
    let counts = bench.apply(4, &[change(1, "I", 21), change(2, "U", 22)]).await;
    assert_eq!(counts, MergeCounts { inserted: 1, updated: 1, deleted: 0 });
    assert_eq!(bench.read(Part::Final, &["id", "value"]).await, ["1|v21", "2|v22"]);
    let counts = bench.sink.row_counts(&bench.target).await.unwrap();
    let named = |name: &str, rows| (name.to_owned(), rows);
    assert_eq!(counts, [named("orders_changes", 7), named("orders", 2), named("orders_tombstones", 1)]);
}

#[tokio::test]
async fn a_repeated_merge_changes_nothing_not_even_the_version() {
    let bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1), change(2, "I", 2)]).await;
    bench.load(2, columns_of(&[change(1, "D", 3), change(9, "D", 4)])).await;
    bench.merge(2, &[2]).await;
    let versions = (bench.version(Part::Final).await, bench.version(Part::Tombstones).await);
    let before = bench.read(Part::Final, &["id", "value", "_cdc_loaded_at"]).await;
    assert_eq!(bench.merge(2, &[2]).await, MergeCounts::default());
    assert_eq!(bench.merge(3, &[1]).await, MergeCounts::default());
    assert_eq!((bench.version(Part::Final).await, bench.version(Part::Tombstones).await), versions);
    assert_eq!(bench.read(Part::Final, &["id", "value", "_cdc_loaded_at"]).await, before);
    assert_eq!(before, ["2|v2|2023-11-14T22:30:01Z"]);
}

#[tokio::test]
async fn a_merge_with_deletes_commits_to_the_final_table_even_if_no_row_goes() {
    let bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1)]).await;
    let version = bench.version(Part::Final).await;
    assert_eq!(bench.apply(2, &[change(2, "D", 2)]).await, MergeCounts::default());
    assert_eq!(bench.version(Part::Final).await, version + 1);
}

#[tokio::test]
async fn marked_rows_keep_the_image_of_the_delete_and_are_counted() {
    let bench = Bench::new(OnDelete::Mark);
    bench.apply(1, &[change(1, "I", 1), change(2, "I", 2)]).await;
    let counts = bench.apply(2, &[change(1, "D", 5), change(2, "U", 6)]).await;
    assert_eq!(counts, MergeCounts { inserted: 0, updated: 1, deleted: 1 });
    let counts = bench.apply(3, &[change(3, "D", 7)]).await;
    assert_eq!(counts, MergeCounts { inserted: 0, updated: 0, deleted: 1 });
    let rows = bench.read(Part::Final, &["id", "value", "_cdc_deleted"]).await;
    assert_eq!(rows, ["1|v5|true", "2|v6|false", "3|v7|true"]);
    assert!(!bench.sink.folder(&bench.target, Part::Tombstones).path.exists());
}

#[tokio::test]
async fn committing_again_gives_the_rows_once_and_what_is_only_prepared_is_invisible() {
    let bench = Bench::new(OnDelete::Remove);
    let first = bench.prepare(1, columns_of(&[change(1, "I", 1), change(2, "I", 2)])).await.unwrap();
    assert_eq!((first.rows, first.columns.len()), (2, 4));
    assert!(first.bytes > 0);
    assert!(bench.read(Part::Changes, &["id"]).await.is_empty());
    let again: Prepared = serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
    for prepared in [&first, &again, &first] {
        assert_eq!(bench.commit(1, prepared).await.unwrap(), CommitOutcome::Committed);
    }
    bench.load(2, columns_of(&[change(3, "I", 3)])).await;
    assert_eq!(bench.commit(1, &first).await.unwrap(), CommitOutcome::Committed);
    let rows = bench.read(Part::Changes, &["id", "_cdc_batch", "_cdc_loaded_at", "_cdc_file_id"]).await;
    let id = "07".repeat(16);
    assert_eq!(rows[0], format!("1|attempt-0001|2023-11-14T22:13:21Z|{id}"));
    assert_eq!(rows.len(), 3);
    let staged = first.staged.to_string();
    assert!(staged.contains(r#"\"minValues\":{\"_cdc_batch\":\"attempt-0001\"}"#), "{staged}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_side_by_side_create_one_log_and_commit_each_intent_once() {
    let bench = Bench::new(OnDelete::Remove);
    let late: Values = ("late", ColumnType::Bool, Arc::new(BooleanArray::from(vec![true])));
    let (one, two) = tokio::join!(bench.prepare(1, amounts(1, integer())), bench.prepare(2, amounts(2, Some(late))));
    let (one, two) = (one.unwrap(), two.unwrap());
    for (number, prepared) in [(1, one), (2, two)] {
        let commit = || bench.commit(number, &prepared);
        for outcome in futures::future::join_all([commit(), commit(), commit()]).await {
            assert_eq!(outcome.unwrap(), CommitOutcome::Committed);
        }
    }
    assert_eq!(bench.read(Part::Changes, &["id", "amount", "late"]).await, ["1|7|", "2||true"]);
}

#[tokio::test]
async fn no_rows_make_no_files_and_count_as_committed() {
    let bench = Bench::new(OnDelete::Remove);
    let prepared = bench.prepare(1, columns_of(&[])).await.unwrap();
    assert_eq!(prepared.rows, 0);
    assert!(bench.data_files(Part::Changes).is_empty());
    let version = bench.version(Part::Changes).await;
    assert_eq!(bench.commit(1, &prepared).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(bench.version(Part::Changes).await, version);
    assert_eq!(bench.merge(1, &[1]).await, MergeCounts::default());
}

#[tokio::test]
async fn an_intent_whose_files_are_gone_is_sealed_as_lost_for_ever() {
    let bench = Bench::new(OnDelete::Remove);
    let prepared = bench.prepare(1, columns_of(&[change(1, "I", 1)])).await.unwrap();
    let file = bench.data_files(Part::Changes).remove(0);
    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(bench.commit(1, &prepared).await.unwrap(), CommitOutcome::Lost);
    std::fs::write(&file, kept).unwrap();
    assert_eq!(bench.commit(1, &prepared).await.unwrap(), CommitOutcome::Lost);
    bench.load(2, columns_of(&[change(2, "I", 2)])).await;
    assert_eq!(bench.read(Part::Changes, &["id"]).await, ["2"]);

    let stale = bench.prepare(3, columns_of(&[change(3, "I", 3)])).await.unwrap();
    bench.load(4, columns_of(&[change(4, "I", 4)])).await;
    assert_eq!(bench.commit(3, &stale).await.unwrap_err().kind(), Kind::Fenced);
}

/// Rows of one key with an amount that is an integer, a NUMERIC or unknown.
fn amounts(sequence: u32, amount: Option<Values>) -> Vec<Values> {
    let mut values = changed(&["U"], &[sequence]);
    values.push(("id", ColumnType::Int64, integers(&[i64::from(sequence)])));
    values.extend(amount);
    values
}

fn integer() -> Option<Values> {
    Some(("amount", ColumnType::Int64, integers(&[7])))
}

fn numeric() -> Option<Values> {
    let array = Decimal128Array::from(vec![1_500_000_000_i128]).with_precision_and_scale(38, 9).unwrap();
    Some(("AMOUNT", ColumnType::Numeric, Arc::new(array)))
}

fn unknown() -> Option<Values> {
    Some(("amount", ColumnType::Unknown, Arc::new(NullArray::new(1))))
}

#[tokio::test]
async fn later_columns_and_wider_types_give_the_same_table_in_any_order() {
    let batches = [amounts(1, None), amounts(2, unknown()), amounts(3, integer()), amounts(4, numeric())];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let bench = Bench::new(OnDelete::Remove);
        for (number, at) in (1..).zip(order) {
            bench.load(number, batches[at].clone()).await;
            bench.merge(number, &[number]).await;
        }
        for part in [Part::Changes, Part::Final] {
            let amount =
                bench.columns(part).await.into_iter().find(|(name, _)| name.to_lowercase() == "amount").unwrap();
            assert_eq!(amount.1, "NUMERIC");
            let rows = bench.read(part, &["id", &amount.0]).await;
            assert_eq!(rows, ["1|", "2|", "3|7.000000000", "4|1.500000000"], "{order:?}");
        }
    }
}

#[tokio::test]
async fn rows_prepared_before_the_log_was_widened_are_written_anew() {
    let bench = Bench::new(OnDelete::Remove);
    let narrow = bench.prepare(1, amounts(1, integer())).await.unwrap();
    let wide = bench.prepare(2, amounts(2, numeric())).await.unwrap();
    assert_eq!(wide.columns.last(), Some(&column("amount", ColumnType::Numeric)));
    assert_eq!(bench.commit(1, &narrow).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(bench.commit(2, &wide).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(bench.commit(1, &narrow).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(bench.read(Part::Changes, &["id", "amount"]).await, ["1|7.000000000", "2|1.500000000"]);
}

#[tokio::test]
async fn a_widened_key_still_finds_its_rows_and_tombstones() {
    let bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1), change(2, "I", 2)]).await;
    bench.apply(2, &[change(2, "D", 3)]).await;
    let large = i128::from(u64::MAX);
    let keys = |ids: &[i128]| -> Values {
        let ids = ids.iter().map(|id| id * 1_000_000_000).collect::<Vec<_>>();
        let array = Decimal128Array::from(ids).with_precision_and_scale(38, 9).unwrap();
        ("id", ColumnType::Numeric, Arc::new(array))
    };
    let mut values = changed(&["U", "U", "I"], &[5, 1, 6]);
    values.extend([keys(&[1, 2, large]), ("value", ColumnType::String, texts(["new", "late", "large"]))]);
    bench.load(3, values).await;
    bench.merge(3, &[3]).await;
    let mut values = changed(&["U"], &[7]);
    values.extend([keys(&[large]), ("value", ColumnType::String, texts(["larger"]))]);
    bench.load(4, values).await;
    bench.merge(4, &[4]).await;
    let rows = bench.read(Part::Final, &["id", "value"]).await;
    assert_eq!(rows, ["1.000000000|new", "18446744073709551615.000000000|larger"]);
}

#[tokio::test]
async fn a_column_of_any_type_can_be_in_the_key() {
    let numeric = |n: i128| Decimal128Array::from(vec![n]).with_precision_and_scale(38, 9).unwrap();
    let key = |n: i64| -> Vec<Values> {
        let small = i32::try_from(n).unwrap();
        vec![
            ("k_bool", ColumnType::Bool, Arc::new(BooleanArray::from(vec![n > 1]))),
            ("k_numeric", ColumnType::Numeric, Arc::new(numeric(i128::from(n)))),
            ("k_float", ColumnType::Float64, Arc::new(Float64Array::from(vec![f64::from(small) / 3.0]))),
            ("k_bytes", ColumnType::Bytes, Arc::new(BinaryArray::from_vec(vec![&n.to_be_bytes()]))),
            ("k_date", ColumnType::Date, Arc::new(Date32Array::from(vec![small]))),
            ("k_wall", ColumnType::Datetime, Arc::new(TimestampMicrosecondArray::from(vec![n]))),
            ("k_time", ColumnType::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![n]).with_timezone("UTC"))),
        ]
    };
    let names: Vec<_> = key(0).iter().map(|(name, _, _)| *name).collect();
    let bench = Bench::named(OnDelete::Remove, "shop", "keys", &names);
    for (number, (operation, n)) in (1..).zip([("I", 1), ("I", 2), ("U", 1), ("D", 2), ("U", 3)]) {
        let mut values = changed(&[operation], &[u32::try_from(number).unwrap()]);
        values.extend(key(n));
        bench.load(number, values).await;
        bench.merge(number, &[number]).await;
    }
    let rows = bench.read(Part::Final, &["k_date", "_cdc_sequence"]).await;
    assert_eq!(rows, ["1970-01-02|0000000000000003", "1970-01-04|0000000000000005"]);
}

#[tokio::test]
async fn a_merge_keeps_to_the_sessions_memory_and_writing_makes_do_with_little() {
    let mut bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1)]).await;
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(1_000, 1.0).build_arc().unwrap();
    bench.session = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    bench.load(2, columns_of(&[change(1, "U", 2), change(2, "I", 3)])).await;
    let merge = Bench::merge_attempt(9, &[2]);
    let error = bench.sink.merge(&bench.target, &merge, &bench.session).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.hint_text().unwrap().contains("memory"), "{error:?}");
    assert_eq!(bench.read(Part::Final, &["id", "value"]).await, ["1|v1"]);
}

fn wall_times() -> Values {
    ("at", ColumnType::Datetime, Arc::new(TimestampMicrosecondArray::from(vec![1_000_001])))
}

#[tokio::test]
async fn wall_times_and_lists_can_be_there_from_the_start_come_later_and_stay_through_widening() {
    let list = || -> Values {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])]);
        ("list", ColumnType::Array(Box::new(ColumnType::Int64)), Arc::new(list))
    };
    let with = |sequence, amount: Option<Values>| {
        let mut values = amounts(sequence, amount);
        values.extend([wall_times(), list()]);
        values
    };
    for first in [amounts(1, integer()), with(1, integer())] {
        let bench = Bench::new(OnDelete::Remove);
        bench.load(1, first).await;
        bench.load(2, with(2, integer())).await;
        bench.merge(2, &[1, 2]).await;
        bench.load(3, with(3, numeric())).await;
        bench.merge(3, &[3]).await;
        let rows = bench.read(Part::Final, &["id", "amount", "at", "list"]).await;
        assert_eq!(rows[1], "2|7.000000000|1970-01-01T00:00:01.000001|[1, ]");
        assert_eq!(rows.len(), 3);
    }
}

#[tokio::test]
async fn a_type_that_cannot_be_united_or_kept_is_the_users_to_mend() {
    let bench = Bench::new(OnDelete::Remove);
    bench.load(1, amounts(1, integer())).await;
    let text = Some(("Amount", ColumnType::String, texts(["x"])));
    let error = bench.prepare(2, amounts(2, text)).await.unwrap_err();
    assert_eq!((error.kind(), error.place().table.as_deref()), (Kind::User, Some("shop.orders")));
    assert!(error.message().contains("`amount`"), "{error}");
    let twice: Values = ("AMOUNT", ColumnType::Int64, integers(&[1]));
    let mut values = amounts(3, integer());
    values.push(twice);
    assert_eq!(bench.prepare(3, values).await.unwrap_err().kind(), Kind::User);
    let own: Values = ("_cdc_batch", ColumnType::String, texts(["x"]));
    assert_eq!(bench.prepare(4, amounts(4, Some(own))).await.unwrap_err().kind(), Kind::User);
}

#[tokio::test]
async fn awkward_names_and_composite_keys_go_through() {
    let names =
        [("a\"b; drop", "x/y"), ("..", ".."), ("주문", "고객 ü%"), ("select", "from"), ("v1.2", "a:b?c#d&e=f+g*h")];
    for (dataset, table) in names {
        let bench = Bench::named(OnDelete::Remove, dataset, table, &["사용자", "select", "Part \"No\""]);
        let rows = |operation: &'static str, sequence, parts: [&str; 2]| {
            let mut values = changed(&[operation, operation], &[sequence, sequence]);
            values.push(("사용자", ColumnType::Int64, integers(&[1, 1])));
            values.push(("SELECT", ColumnType::String, texts(["o'x", "o'x"])));
            values.push(("Part \"No\"", ColumnType::String, texts(parts)));
            values.push(("weird.Value", ColumnType::String, texts([operation, operation])));
            values
        };
        bench.load(1, rows("I", 1, ["a", "b"])).await;
        bench.load(2, rows("U", 2, ["b", "c"])).await;
        bench.load(3, rows("D", 3, ["a", "d"])).await;
        for number in 1..=3 {
            bench.merge(number, &[number]).await;
        }
        let rows = bench.read(Part::Final, &["SELECT", "Part \"No\"", "weird.Value"]).await;
        assert_eq!(rows, ["o'x|b|U", "o'x|c|U"]);
        let dataset = std::fs::read_dir(bench.dir.path()).unwrap().next().unwrap().unwrap();
        assert_eq!(std::fs::read_dir(dataset.path()).unwrap().count(), 3);
    }
}

#[tokio::test]
async fn an_error_of_the_rows_comes_back_as_it_was_and_leaves_no_file() {
    let bench = Bench::new(OnDelete::Remove);
    let error = Error::data("row 7 is no number").in_file("s3://b/f.parquet").hint("mend it");
    let rows = rows_of(columns_of(&[change(1, "I", 1)]), Some(error));
    let error = bench.sink.prepare(&bench.target, &Bench::attempt(1), rows, &bench.session).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Data, "row 7 is no number"));
    assert_eq!(error.place().file.as_deref(), Some("s3://b/f.parquet"));
    assert!(bench.data_files(Part::Changes).is_empty());
}

#[tokio::test]
async fn a_folder_of_another_table_and_a_damaged_log_are_refused_with_a_hint() {
    let bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1)]).await;
    let mut other = bench.target.clone();
    other.source = TableName::new("other", "orders");
    let rows = rows_of(columns_of(&[change(1, "I", 2)]), None);
    let error = bench.sink.prepare(&other, &Bench::attempt(2), rows, &bench.session).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("another table"), "{error}");
    let mut rekeyed = bench.target.clone();
    rekeyed.key = vec!["value".into()];
    assert_eq!(bench.sink.row_counts(&rekeyed).await.unwrap_err().kind(), Kind::User);

    let log = bench.sink.folder(&bench.target, Part::Changes).path.join("_delta_log");
    std::fs::write(log.join("00000000000000000000.json"), "no json").unwrap();
    let error = bench.sink.row_counts(&bench.target).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.hint_text().unwrap().contains("_delta_log"), "{error:?}");
}

#[tokio::test]
async fn a_session_that_reads_text_as_views_gives_the_same_table() {
    let mut bench = Bench::new(OnDelete::Remove);
    bench.session = SessionContext::new();
    bench.apply(1, &[change(1, "I", 1), change(2, "I", 2)]).await;
    bench.apply(2, &[change(1, "U", 3), change(2, "D", 4)]).await;
    assert_eq!(bench.read(Part::Final, &["id", "value"]).await, ["1|v3"]);
}

#[tokio::test]
async fn outcomes_and_rows_are_read_from_a_checkpoint_as_from_the_log() {
    let bench = Bench::new(OnDelete::Mark);
    for number in 1..=4 {
        let sequence = u32::try_from(number).unwrap();
        bench.load(number, columns_of(&[change(1, "U", sequence)])).await;
    }
    let last = bench.prepare(5, columns_of(&[change(2, "I", 5)])).await.unwrap();
    bench.commit(5, &last).await.unwrap();
    let folder = bench.sink.folder(&bench.target, Part::Changes);
    let log = table::open_existing(&folder).await.unwrap();
    deltalake::checkpoints::create_checkpoint(&log, None).await.unwrap();
    for version in 0..log.version().unwrap() {
        std::fs::remove_file(folder.path.join(format!("_delta_log/{version:020}.json"))).unwrap();
    }
    assert_eq!(bench.commit(5, &last).await.unwrap(), CommitOutcome::Committed);
    bench.merge(1, &[1, 2, 3, 4, 5]).await;
    assert_eq!(bench.read(Part::Final, &["id", "value"]).await, ["1|v4", "2|v5"]);
    assert_eq!(bench.sink.row_counts(&bench.target).await.unwrap()[0].1, 5);
    assert!(bench.sink.describe().starts_with("delta /"));
}

#[tokio::test]
async fn a_sampled_merge_tells_of_keys_with_two_rows() {
    let bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1), change(2, "I", 2)]).await;
    let folder = bench.sink.folder(&bench.target, Part::Final);
    let table = table::open_existing(&folder).await.unwrap();
    let session = SessionContext::new();
    table.update_datafusion_session(&session.state()).unwrap();
    let rows = session.read_table(table.table_provider().await.unwrap()).unwrap();
    let rows = rows.filter(ident("id").eq(datafusion::logical_expr::lit(2_i64))).unwrap().collect().await.unwrap();
    table.write(rows).await.unwrap();
    bench.load(2, columns_of(&[change(2, "U", 3), change(1, "U", 4)])).await;
    let merge_as = |number: u64| MergeAttempt {
        attempt: Attempt { id: format!("m-{number}"), ..Bench::attempt(number) },
        ..Bench::merge_attempt(number, &[2])
    };
    let sampled = (100..).find(|number| crate::sink::is_sampled(&merge_as(*number))).unwrap();
    let error = bench.sink.merge(&bench.target, &merge_as(sampled), &bench.session).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("orders has more than one row of each of 1 keys"), "{}", error.report());
    assert!(error.hint_text().is_some());
}

#[tokio::test]
async fn a_sampled_merge_looks_at_keys_of_any_name() {
    let bench = Bench::named(OnDelete::Remove, "shop", "orders", &["Part \"No\"", "v1.2", "OrderTotal"]);
    for number in 1..=2 {
        let mut values = changed(&["U", "U"], &[number, number]);
        values.push(("Part \"No\"", ColumnType::String, texts(["a", "b"])));
        values.push(("v1.2", ColumnType::Int64, integers(&[1, 2])));
        values.push(("OrderTotal", ColumnType::Int64, integers(&[3, 3])));
        bench.load(u64::from(number), values).await;
    }
    let merge_as = |number: u64| MergeAttempt {
        attempt: Attempt { id: format!("m-{number}"), ..Bench::attempt(number) },
        ..Bench::merge_attempt(number, &[1, 2])
    };
    let sampled = (100..).map(merge_as).find(crate::sink::is_sampled).unwrap();
    bench.sink.merge(&bench.target, &sampled, &bench.session).await.unwrap();
    assert_eq!(bench.read(Part::Final, &["Part \"No\"", "v1.2", "OrderTotal"]).await, ["a|1|3", "b|2|3"]);
}

#[tokio::test]
async fn the_log_says_which_files_and_batches_it_has_and_which_intent_was_the_last() {
    let bench = Bench::new(OnDelete::Remove);
    assert_eq!(bench.sink.recorded(&bench.target, &bench.session).await.unwrap(), None);
    bench.load(7, columns_of(&[change(1, "I", 1), change(2, "I", 2)])).await;
    bench.apply(9, &[change(3, "I", 3)]).await;
    let recorded = bench.sink.recorded(&bench.target, &bench.session).await.unwrap().unwrap();
    assert_eq!(recorded.batches, [(Bench::attempt(7), 2), (Bench::attempt(9), 1)]);
    // Each row of a test is of a file of its own, counted from 7.
    assert_eq!(recorded.files, [crate::change::FileId([7; 16]), crate::change::FileId([8; 16])]);
    assert_eq!((recorded.number, recorded.has_final, recorded.expires), (9, true, false));
}

/// A target beside the bench's, of the next generation.
fn built_beside(bench: &Bench) -> Target {
    let name = TableName::new("shop", "orders__reload");
    Target { name, generation: 2, ..bench.target.clone() }
}

#[tokio::test]
async fn a_switched_table_has_the_rows_and_tombstones_that_were_built_whatever_their_types() {
    let mut bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1), change(2, "I", 2), change(3, "D", 3)]).await;
    let present = bench.target.clone();
    bench.target = built_beside(&bench);
    let built = bench.target.clone();
    let mut values = changed(&["I", "I", "D"], &[9, 9, 9]);
    values.push(("id", ColumnType::Int64, integers(&[2, 4, 5])));
    values.push(("value", ColumnType::String, texts(["w2", "w4", "w5"])));
    values.push(("more", ColumnType::Int64, integers(&[7, 8, 9])));
    bench.load(2, values).await;
    bench.merge(2, &[2]).await;
    bench.sink.fit(&built, &present, &bench.session).await.unwrap();
    for _ in 0..2 {
        bench.sink.switch(&built, "r", &present, &bench.session).await.unwrap();
    }
    bench.target = Target { generation: 2, ..present.clone() };
    assert_eq!(bench.read(Part::Final, &["id", "value", "more"]).await, ["2|w2|7", "4|w4|8"]);
    assert_eq!(bench.read(Part::Tombstones, &["id"]).await, ["5"]);
    // Once more would undo what was merged since; it is known to be done.
    bench.load(3, columns_of(&[change(4, "D", 10)])).await;
    bench.merge(3, &[3]).await;
    bench.sink.switch(&built, "r", &present, &bench.session).await.unwrap();
    assert_eq!(bench.read(Part::Final, &["id"]).await, ["2"]);
    bench.sink.discard(&built).await.unwrap();
    bench.sink.discard(&built).await.unwrap();
    assert!(bench.sink.row_counts(&built).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_merge_of_the_generation_before_changes_nothing_after_the_switch() {
    let bench = Bench::new(OnDelete::Remove);
    bench.apply(1, &[change(1, "I", 1), change(2, "I", 2)]).await;
    bench.load(2, columns_of(&[change(3, "I", 3), change(1, "D", 4)])).await;
    // Nothing was built: the source's table is empty.
    bench.sink.switch(&built_beside(&bench), "r", &bench.target, &bench.session).await.unwrap();
    let late = bench.sink.merge(&bench.target, &Bench::merge_attempt(9, &[2]), &bench.session).await;
    assert_eq!(late.unwrap_err().kind(), Kind::Fenced);
    assert!(
        bench.read(Part::Final, &["id"]).await.is_empty() && bench.read(Part::Tombstones, &["id"]).await.is_empty()
    );
}
