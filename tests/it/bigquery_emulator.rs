//! The BigQuery sink through its trait, on a server that others wrote: whatever the order and cutting of changes, the
//! final table is the one that a simple model in Rust gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::prelude::SessionContext;
use freshet::change::TableName;
use freshet::clock::SystemClock;
use freshet::config::{BigQueryConfig, Create, Mode, OnDelete, StorageConfig};
use freshet::sink::bigquery::BigQuerySink;
use freshet::sink::{Attempt, CommitOutcome, MergeAttempt, Rows, Sink, Target};

use crate::bigquery_sink;
use crate::bqemulator::{self, LOCATION, PROJECT};
use crate::oracle::{Numbers, shuffle};
use crate::warehouse::Warehouse;

/// One change of a table `id, Note, price, day, at`; key `id`, and `day` is always that of the key.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    id: i64,
    operation: &'static str,
    sequence: u32,
}

impl Change {
    fn note(&self) -> Option<String> {
        (!self.sequence.is_multiple_of(5)).then(|| format!("it's `{}` \\ {}", self.sequence, self.id))
    }

    /// Days since 1970.
    fn day(&self) -> i32 {
        19_700 + i32::try_from(self.id % 3).unwrap()
    }

    fn at_micros(&self) -> i64 {
        1_700_000_000_000_001 + i64::from(self.sequence)
    }

    fn sequence(&self) -> String {
        format!("{:016x}/{:016x}", 1, self.sequence)
    }

    /// The row as queries here show it.
    fn shown(&self, deleted: Option<bool>) -> Vec<String> {
        let mut out = vec![
            self.id.to_string(),
            self.note().unwrap_or_else(|| "NULL".to_owned()),
            self.day().to_string(),
            self.at_micros().to_string(),
            self.sequence(),
        ];
        out.extend(deleted.map(|deleted| deleted.to_string()));
        out
    }
}

/// A sink on the shared server and a target in a dataset of its own.
struct Bench {
    warehouse: Warehouse,
    sink: BigQuerySink,
    target: Target,
    session: SessionContext,
    began: DateTime<Utc>,
    /// The attempts whose rows are in the log.
    loaded: Vec<Attempt>,
    merges: i64,
}

impl Bench {
    fn new(on_delete: OnDelete) -> Self {
        let warehouse = bqemulator::shared();
        let name = TableName::new(bqemulator::fresh_dataset(), "orders");
        let target = Target {
            source: TableName::new("shop", "orders"),
            name,
            mode: Mode::Merge,
            key: vec!["id".into()],
            on_delete,
            storage: StorageConfig {
                partition_by: Some("day".into()),
                immutable: vec!["day".into()],
                description: Some("what was ordered".into()),
                ..StorageConfig::default()
            },
            descriptions: BTreeMap::from([("Note".to_owned(), "what was said".to_owned())]),
            generation: 1,
        };
        let sink = sink(&warehouse, LOCATION, Create::Auto);
        let began = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        Self { warehouse, sink, target, session: SessionContext::new(), began, loaded: Vec::new(), merges: 0 }
    }

    fn attempt(&self, name: &str, number: i64) -> Attempt {
        let dataset = &self.target.name.database;
        Attempt { id: format!("{dataset}-{name}-{number}"), loaded_at: self.began + TimeDelta::minutes(number) }
    }

    /// Writes the changes as one batch.
    async fn load(&mut self, changes: &[Change]) {
        let attempt = self.attempt("batch", i64::try_from(self.loaded.len()).unwrap());
        let prepared = self.sink.prepare(&self.target, &attempt, rows(changes), &self.session).await.unwrap();
        assert_eq!(prepared.rows, u64::try_from(changes.len()).unwrap());
        assert_eq!(self.sink.commit(&self.target, 1, &prepared).await.unwrap(), CommitOutcome::Committed);
        self.loaded.push(attempt);
    }

    /// Merges these of the batches.
    async fn merge(&mut self, batches: &[usize]) {
        self.merges += 1;
        let of: Vec<_> = batches.iter().map(|batch| self.loaded[*batch].clone()).collect();
        let times = of.iter().map(|attempt| attempt.loaded_at);
        let merge = MergeAttempt {
            attempt: self.attempt("merge", 10_000 + self.merges),
            batches: of.iter().map(|attempt| attempt.id.clone()).collect(),
            purged_us: 0,
            rows: 0,
            loaded: (times.clone().min().unwrap(), times.max().unwrap()),
        };
        self.sink.merge(&self.target, &merge, &self.session).await.unwrap();
    }

    /// The rows of `orders` with this suffix, in order of the key.
    async fn read(&self, suffix: &str) -> Vec<Vec<String>> {
        let deleted = if self.target.on_delete == OnDelete::Mark { ", `_cdc_deleted`" } else { "" };
        let sql = format!(
            "SELECT `id`, `Note`, UNIX_DATE(`day`), UNIX_MICROS(`at`), `_cdc_sequence`{deleted} \
             FROM `{PROJECT}`.`{}`.`orders{suffix}` ORDER BY `id`",
            self.target.name.database
        );
        self.warehouse.query(&sql).await
    }

    /// What the final table must be.
    fn expected(&self, changes: &[Change]) -> Vec<Vec<String>> {
        let mut latest: BTreeMap<i64, &Change> = BTreeMap::new();
        for change in changes {
            let known = latest.entry(change.id).or_insert(change);
            if change.sequence > known.sequence {
                *known = change;
            }
        }
        let marked = self.target.on_delete == OnDelete::Mark;
        let kept = latest.into_values().filter(|change| marked || change.operation != "D");
        kept.map(|change| change.shown(marked.then_some(change.operation == "D"))).collect()
    }
}

fn sink(warehouse: &Warehouse, location: &str, create: Create) -> BigQuerySink {
    let config = bigquery_sink::config(PROJECT, location, warehouse.rest_endpoint(), warehouse.grpc_endpoint());
    let labels = BTreeMap::from([("team".to_owned(), "data".to_owned())]);
    BigQuerySink::open(BigQueryConfig { labels, create, ..config }, SystemClock::shared()).unwrap()
}

fn rows(changes: &[Change]) -> Rows {
    let texts = |of: &dyn Fn(&Change) -> Option<String>| -> ArrayRef {
        Arc::new(changes.iter().map(of).collect::<StringArray>())
    };
    let at = TimestampMicrosecondArray::from_iter_values(changes.iter().map(Change::at_micros)).with_timezone("UTC");
    let files = changes.iter().map(|change| [change.sequence.to_be_bytes(); 4].concat());
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(changes.iter().map(|change| change.id).collect::<Int64Array>()), true),
        ("Note", texts(&Change::note), true),
        ("day", Arc::new(changes.iter().map(Change::day).map(Some).collect::<Date32Array>()), true),
        ("at", Arc::new(at), true),
        ("_cdc_operation", texts(&|change| Some(change.operation.to_owned())), true),
        ("_cdc_sequence", texts(&|change| Some(change.sequence())), true),
        ("_cdc_file_id", Arc::new(BinaryArray::from_iter_values(files)), true),
    ];
    bigquery_sink::rows(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

/// Changes of a few keys, some of them twice, in no order, cut anyhow and merged in any order; between the merges the
/// view shows what is not merged yet.
async fn any_order_gives_the_same_table(on_delete: OnDelete, seed: u32) {
    let mut numbers = Numbers::new(seed);
    let mut changes = Vec::new();
    for sequence in 1..=40 {
        let id = i64::try_from(numbers.below(9)).unwrap() - 2;
        changes.push(Change { id, operation: ["I", "U", "U", "D"][numbers.below(4)], sequence });
    }
    for _ in 0..8 {
        changes.push(changes[numbers.below(40)].clone());
    }
    shuffle(&mut changes, seed);
    let mut bench = Bench::new(on_delete);
    let (mut there, mut waiting, mut merged) = (Vec::new(), Vec::new(), BTreeSet::new());
    while !changes.is_empty() {
        let cut: Vec<_> = changes.drain(..changes.len().min(1 + numbers.below(15))).collect();
        bench.load(&cut).await;
        waiting.push(bench.loaded.len() - 1);
        there.extend(cut);
        shuffle(&mut waiting, seed);
        if numbers.below(2) == 0 {
            let some: Vec<_> = waiting.drain(..1 + numbers.below(waiting.len())).collect();
            bench.merge(&some).await;
            merged.extend(some);
            assert_eq!(bench.read("_live").await, bench.expected(&there), "the view, seed {seed}");
        }
    }
    // Some are merged a second time, beside those that wait.
    waiting.extend(merged.into_iter().take(2));
    bench.merge(&waiting).await;
    for suffix in ["", "_live"] {
        assert_eq!(bench.read(suffix).await, bench.expected(&there), "orders{suffix}, seed {seed}");
    }
}

#[tokio::test]
async fn whatever_the_order_and_cutting_removed_rows_are_gone_and_stay_gone() {
    for seed in [1, 2] {
        any_order_gives_the_same_table(OnDelete::Remove, seed).await;
    }
}

#[tokio::test]
async fn whatever_the_order_and_cutting_deleted_rows_are_marked() {
    any_order_gives_the_same_table(OnDelete::Mark, 3).await;
}

#[tokio::test]
async fn tables_are_made_as_configured_and_their_rows_are_counted() {
    let mut bench = Bench::new(OnDelete::Remove);
    assert_eq!(bench.sink.row_counts(&bench.target).await.unwrap(), []);
    let change = |id, operation, sequence| Change { id, operation, sequence };
    bench.load(&[change(1, "I", 1), change(2, "I", 2), change(2, "D", 3)]).await;
    bench.merge(&[0]).await;
    let counts = bench.sink.row_counts(&bench.target).await.unwrap();
    let expected = [("orders_changes", 3), ("orders", 1), ("orders_tombstones", 1)];
    assert_eq!(counts, expected.map(|(name, rows)| (name.to_owned(), rows)));
    let dataset = &bench.target.name.database;
    let log = bench.warehouse.table(dataset, "orders_changes").await;
    assert_eq!(log["timePartitioning"]["field"], "_cdc_loaded_at", "{log}");
    assert_eq!(log["clustering"]["fields"], serde_json::json!(["_cdc_batch", "id"]), "{log}");
    let table = bench.warehouse.table(dataset, "orders").await;
    assert_eq!(table["timePartitioning"]["field"], "day", "{table}");
    assert_eq!(table["description"], "what was ordered", "{table}");
    assert_eq!(table["schema"]["fields"][1]["description"], "what was said", "{table}");
    assert_eq!(table["labels"], serde_json::json!({"team": "data"}), "{table}");
}

#[tokio::test]
async fn a_late_change_does_not_bring_a_deleted_row_back() {
    let mut bench = Bench::new(OnDelete::Remove);
    let change = |operation, sequence| Change { id: 7, operation, sequence };
    bench.load(&[change("D", 5)]).await;
    bench.merge(&[0]).await;
    bench.load(&[change("U", 4)]).await;
    assert_eq!(bench.read("_live").await, Vec::<Vec<String>>::new());
    bench.merge(&[1]).await;
    assert_eq!(bench.read("").await, Vec::<Vec<String>>::new());
    bench.load(&[change("I", 6)]).await;
    assert_eq!(bench.read("_live").await.len(), 1);
    bench.merge(&[2]).await;
    assert_eq!(bench.read("").await, bench.expected(&[change("I", 6)]));
}

#[tokio::test]
async fn a_dataset_in_another_region_and_a_table_nobody_made_are_told() {
    let mut bench = Bench::new(OnDelete::Remove);
    bench.load(&[Change { id: 1, operation: "I", sequence: 1 }]).await;
    let other = Target { name: TableName::new(&bench.target.name.database, "others"), ..bench.target.clone() };
    let attempt = bench.attempt("batch", 1);
    let told = |sink: BigQuerySink| {
        let (other, attempt, session) = (other.clone(), attempt.clone(), bench.session.clone());
        async move {
            let change = Change { id: 1, operation: "I", sequence: 1 };
            sink.prepare(&other, &attempt, rows(&[change]), &session).await.unwrap_err().report()
        }
    };
    let elsewhere = told(sink(&bench.warehouse, "US", Create::Auto)).await;
    assert!(elsewhere.contains("is in EU, but `location` says US"), "{elsewhere}");
    let missing = told(sink(&bench.warehouse, LOCATION, Create::Never)).await;
    assert!(missing.contains("others_changes is missing") && missing.contains("CREATE TABLE"), "{missing}");
}
