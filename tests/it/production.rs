//! The way it runs in production: change files in S3, told of by SQS, through `freshet run`, into BigQuery.
//!
//! S3 and SQS are a server of somebody else's; BigQuery is one of somebody else's and the strict one of these tests.
//! What the tables must be is computed here, from the changes alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use chrono::{DateTime, TimeDelta, Utc};

use crate::binary::number_asked_for;
use crate::bqemulator;
use crate::change_files::{gzipped, parquet_in_groups};
use crate::daemon::{self, Daemon};
use crate::ministack::{Messages, Ministack, Queue};
use crate::oracle::{Numbers, shuffle};
use crate::scene::Scene;
use crate::strict_bigquery::{Fault, Options, RowFormat, StrictBigQuery, What};
use crate::until::until;
use crate::warehouse::Warehouse;

/// How often an outside server is asked at most whether it is done: far longer than any test needs.
const ASKED_MAX: usize = 3_000;
/// How long a message is hidden that a daemon took and was killed with.
const HIDDEN_SECONDS: u32 = 30;

/// A row of the final table.
type Row = (i64, String);

/// One change of the table `shop.orders`: its number is its place in the source's order.
struct Change {
    number: u32,
    operation: &'static str,
    id: i64,
    amount: i64,
    note: String,
}

/// Random changes of so many ids.
fn changes(count: u32, ids: usize, seed: u32) -> Vec<Change> {
    let mut numbers = Numbers::new(seed);
    (0..count)
        .map(|number| {
            let operation = ["I", "U", "U", "U", "D"][numbers.below(5)];
            let id = i64::try_from(numbers.below(ids)).unwrap();
            let amount = i64::try_from(numbers.below(1_000_000)).unwrap();
            Change { number, operation, id, amount, note: format!("주문 {number} \"'`\\") }
        })
        .collect()
}

/// What the source has after these changes.
fn model(changes: &[Change]) -> BTreeMap<i64, Row> {
    let mut rows = BTreeMap::new();
    for change in changes {
        match change.operation {
            "D" => rows.remove(&change.id),
            _ => rows.insert(change.id, (change.amount, change.note.clone())),
        };
    }
    rows
}

fn at(number: u32) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::milliseconds(i64::from(number))
}

/// A change file, as DMS and the user's own step after it write it: key and content.
fn file(changes: &[Change]) -> (String, Vec<u8>) {
    let text = |of: &dyn Fn(&Change) -> String| -> ArrayRef {
        Arc::new(changes.iter().map(|change| Some(of(change))).collect::<StringArray>())
    };
    let integers =
        |of: &dyn Fn(&Change) -> i64| -> ArrayRef { Arc::new(changes.iter().map(of).collect::<Int64Array>()) };
    let batch = RecordBatch::try_from_iter([
        ("Op", text(&|change| change.operation.into())),
        ("ts", text(&|change| at(change.number).format("%Y-%m-%d %H:%M:%S%.6f").to_string())),
        ("id", integers(&|change| change.id)),
        ("amount", integers(&|change| change.amount)),
        ("note", text(&|change| change.note.clone())),
    ]);
    // Named by its number: files have no two names alike, and their order says nothing.
    let named = DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::seconds(i64::from(changes[0].number));
    let key = format!("cdc/shop/orders/{}_orders.parquet.gz", named.format("%Y/%m/%d/%Y%m%d%H%M%S"));
    (key, gzipped(&parquet_in_groups(&[batch.unwrap()], 10_000)))
}

/// All that a run needs.
struct Stage {
    aws: Ministack,
    bucket: String,
    queue: Queue,
    dead: Queue,
    warehouse: Warehouse,
    /// The dataset of the database `shop`.
    dataset: String,
    scene: Scene,
}

impl Stage {
    /// Messages are hidden for so many seconds; `more` is YAML of `pipeline_config`.
    async fn new(warehouse: Warehouse, dataset: &str, hidden_seconds: u32, more: &str) -> Self {
        let aws = Ministack::shared();
        let bucket = aws.bucket("dms").await;
        let (queue, dead) = aws.queue_with_dead_letters("dms", hidden_seconds, 4).await;
        aws.notify(&bucket, &queue, "cdc/", ".parquet.gz").await;
        let scene = Scene::empty();
        let config = format!(
            "source: {{files: s3://{bucket}/cdc, queue: {}, since: beginning}}\n\
             sink: {}\n\
             ledger: ledger\n\
             databases: {{shop: {{tables: [{{name: orders, key: id, timestamp_column: ts}}]}}}}\n\
             pipeline_config: {{merge_every: 1s{more}}}\n",
            queue.url,
            warehouse.sink(dataset)
        );
        scene.write("freshet.yaml", config);
        let dataset = dataset.replace("{database}", "shop");
        Self { aws, bucket, queue, dead, warehouse, dataset, scene }
    }

    /// Before the strict server.
    async fn strict(bigquery: &StrictBigQuery, more: &str) -> Self {
        Self::new(bigquery.warehouse("US"), "{database}_cdc", HIDDEN_SECONDS, more).await
    }

    async fn put(&self, changes: &[Change]) {
        let (key, content) = file(changes);
        self.aws.put(&self.bucket, &key, content).await;
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(&self.scene, &self.aws)
    }

    fn log(&self) -> String {
        daemon::log(&self.scene)
    }

    async fn messages(&self) -> Messages {
        self.aws.messages(&self.queue).await
    }

    /// The rows of the final table by their id; none where it is not there yet.
    async fn final_rows(&self) -> BTreeMap<i64, Row> {
        if self.warehouse.table(&self.dataset, "orders").await.is_null() {
            return BTreeMap::new();
        }
        let table = self.warehouse.table_name(&self.dataset, "orders");
        let rows = self.warehouse.query(&format!("SELECT `id`, `amount`, `note` FROM {table}")).await;
        let count = rows.len();
        let row = |row: Vec<String>| (row[0].parse().unwrap(), (row[1].parse().unwrap(), row[2].clone()));
        let rows: BTreeMap<i64, Row> = rows.into_iter().map(row).collect();
        assert_eq!(rows.len(), count, "a row is there more than once");
        rows
    }

    /// Waits until the final table is what the source has after these changes.
    async fn until_final(&self, changes: &[Change]) {
        let wanted = model(changes);
        if until(ASKED_MAX, async || self.final_rows().await == wanted).await {
            return;
        }
        let got = self.final_rows().await;
        let wrong = wanted.iter().find(|(id, row)| got.get(id) != Some(row));
        panic!("{} rows instead of {}, wanted {wrong:?}\n{}", got.len(), wanted.len(), self.log());
    }

    /// Waits until all is acknowledged, and the final table is what the source has after these changes; then each is
    /// in the log once, and nothing was given up.
    async fn expect_carried(&self, changes: &[Change]) {
        daemon::until_acknowledged(&self.scene, &self.aws, &self.queue, ASKED_MAX).await;
        self.until_final(changes).await;
        // No two changes have one note.
        let log = self.warehouse.table_name(&self.dataset, "orders_changes");
        let counted = format!("SELECT COUNT(*) AS `rows`, COUNT(DISTINCT `note`) AS `notes` FROM {log}");
        let count = changes.len().to_string();
        assert_eq!(self.warehouse.query(&counted).await, [[count.clone(), count]], "rows and changes in the log");
        assert_eq!(self.aws.messages(&self.dead).await, Messages::NONE, "{}", self.log());
        assert!(!self.log().contains("file set aside"), "{}", self.log());
    }
}

/// So many changes in 200 files, to where they go.
async fn carry(stage: &Stage, changes: &[Change]) {
    let mut files: Vec<&[Change]> = changes.chunks(changes.len() / 200).collect();
    shuffle(&mut files, 1);
    let daemon = stage.daemon();
    for file in files {
        stage.put(file).await;
    }
    stage.expect_carried(changes).await;
    daemon.end();
}

#[tokio::test]
async fn a_million_rows_in_two_hundred_files_are_there_once_each() {
    let bigquery = StrictBigQuery::start(Options::default()).await;
    carry(&Stage::strict(&bigquery, "").await, &changes(1_000_000, 20_000, 1)).await;
    let appends = bigquery.requests_of("AppendRows");
    assert!(!appends.is_empty());
    assert!(appends.iter().all(|append| append.rows == Some(RowFormat::Arrow)), "only Arrow goes to the Write API");
}

/// Fewer rows, as the emulator slows down with every append; `FRESHET_EMULATED_ROWS` asks for another number.
#[tokio::test]
async fn two_hundred_files_are_there_once_each_in_the_emulator_too() {
    let rows = u32::try_from(number_asked_for("FRESHET_EMULATED_ROWS", 20_000)).unwrap();
    let stage = Stage::new(bqemulator::shared(), &bqemulator::fresh_dataset(), HIDDEN_SECONDS, "").await;
    carry(&stage, &changes(rows, 2_000, 5)).await;
}

#[tokio::test]
async fn daemons_that_are_killed_and_answers_that_are_lost_lose_no_change_and_double_none() {
    let bigquery = StrictBigQuery::start(Options { job_polls: 1, ..Options::default() }).await;
    let stage = Stage::strict(&bigquery, ", batch_size: 3").await;
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    bigquery.on_commit(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
    for (on, skip, what) in [
        ("BatchCommitWriteStreams", 1, What::LostAfter),
        ("BatchCommitWriteStreams", 3, What::NoCommitTime),
        ("BatchCommitWriteStreams", 5, What::LostBefore),
        ("BatchCommitWriteStreams", 7, What::Grpc(tonic::Code::Unavailable)),
        ("AppendRows projects/", 2, What::LostAfter),
        ("Connect", 4, What::CutAfterBytes(300)),
        ("/jobs", 3, What::LostAfter),
    ] {
        bigquery.faults().push(Fault::on(on, what).skip(skip));
    }
    let changes = changes(2_400, 150, 2);
    let mut files: Vec<&[Change]> = changes.chunks(40).collect();
    shuffle(&mut files, 2);
    let mut running = vec![stage.daemon(), stage.daemon()];
    for (number, file) in files.iter().enumerate() {
        stage.put(file).await;
        if number % 12 == 11 {
            // The queue may tell of a file twice.
            stage.put(files[number / 2]).await;
            running.remove(0).kill();
            running.push(stage.daemon());
        }
    }
    stage.expect_carried(&changes).await;
    assert_eq!(bigquery.faults().left(), 0, "something never went wrong");
    // A commit is of three files at most.
    assert!(commits.load(Ordering::SeqCst) >= files.len().div_ceil(3));
    running.into_iter().for_each(Daemon::end);
}

#[tokio::test]
async fn an_outage_of_bigquery_sets_nothing_aside_and_is_caught_up_with() {
    let bigquery = StrictBigQuery::start(Options::default()).await;
    let stage = Stage::strict(&bigquery, "").await;
    bigquery.faults().push(Fault::on("CreateWriteStream", What::Grpc(tonic::Code::Unavailable)).times(18));
    let changes = changes(600, 50, 3);
    let daemon = stage.daemon();
    for file in changes.chunks(30) {
        stage.put(file).await;
    }
    stage.expect_carried(&changes).await;
    assert_eq!(bigquery.faults().left(), 0, "there was no outage");
    daemon.end();
}

#[tokio::test]
async fn what_is_not_done_when_the_daemon_ends_is_given_back_at_once_and_carried_by_the_next() {
    let bigquery = StrictBigQuery::start(Options::default()).await;
    // Within half a day nothing is visible again unless it was given back.
    let stage = Stage::new(bigquery.warehouse("US"), "{database}_cdc", 43_200, ", shutdown_grace: 10s").await;
    bigquery.faults().push(Fault::on("CreateWriteStream", What::Grpc(tonic::Code::Unavailable)).times(100_000));
    let changes = changes(50, 20, 4);
    let (first, second) = changes.split_at(25);
    stage.put(first).await;
    let daemon = stage.daemon();
    let stopped = until(ASKED_MAX, async || stage.log().contains("receiving stops")).await;
    assert!(stopped, "{}", stage.log());
    // The daemon's last poll takes this. Else it would go on at the server when the daemon has ended, and take what is
    // given back. Where it is over already, which is so after 20 s at most, nobody takes this.
    stage.put(second).await;
    let both = until(150, async || stage.messages().await == Messages { visible: 0, in_flight: 2 }).await;
    let in_hand = if both { 2 } else { 1 };
    assert_eq!(stage.messages().await, Messages { visible: 2 - in_hand, in_flight: in_hand }, "{}", stage.log());
    daemon.end();
    assert!(stage.log().contains(&format!("\"given_back\":{in_hand}")), "{}", stage.log());
    assert_eq!(stage.messages().await, Messages { visible: 2, in_flight: 0 }, "{}", stage.log());
    bigquery.faults().clear();
    let daemon = stage.daemon();
    stage.expect_carried(&changes).await;
    daemon.end();
}
