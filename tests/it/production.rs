//! The way it runs in production: change files in S3, told of by SQS, through `freshet run`, into BigQuery.
//!
//! S3 and SQS are a server of somebody else's; BigQuery is one of somebody else's and the strict one of these tests.
//! What the tables must be is computed here, from the changes alone.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use chrono::{DateTime, TimeDelta, Utc};

use crate::binary;
use crate::bqemulator::{self, BqEmulator};
use crate::change_files::{gzipped, parquet_in_groups};
use crate::ministack::{Messages, Ministack, Queue};
use crate::oracle::{Numbers, shuffle};
use crate::scene::Scene;
use crate::strict_bigquery::{Fault, Options, RowFormat, StrictBigQuery, What};

/// How often an outside server is asked whether it is done.
const ASKED_EVERY: Duration = Duration::from_millis(200);
/// How often at most: far longer than any test needs.
const ASKED_MAX: usize = 3_000;

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

/// Where the rows go.
enum Warehouse {
    Strict(StrictBigQuery),
    Emulator { server: BqEmulator, dataset: String },
}

impl Warehouse {
    async fn strict(options: Options) -> Self {
        Self::Strict(StrictBigQuery::start(options).await)
    }

    fn emulator() -> Self {
        Self::Emulator { server: BqEmulator::shared(), dataset: BqEmulator::fresh_dataset() }
    }

    /// What the configuration says of it.
    fn sink(&self) -> String {
        let (project, location, dataset, rest, grpc) = match self {
            Self::Strict(server) => (server.project(), "US", "{database}_cdc", server.rest_url(), server.grpc_url()),
            Self::Emulator { server, dataset } => (
                bqemulator::PROJECT,
                bqemulator::LOCATION,
                dataset.as_str(),
                server.rest_endpoint().to_owned(),
                server.grpc_endpoint().to_owned(),
            ),
        };
        format!(
            "{{bigquery: {{project: {project}, location: {location}, dataset: \"{dataset}\", \
             rest_endpoint: {rest}, grpc_endpoint: {grpc}}}}}"
        )
    }

    async fn final_rows(&self) -> BTreeMap<i64, Row> {
        match self {
            Self::Strict(server) if server.table("shop_cdc.orders").is_none() => BTreeMap::new(),
            Self::Strict(server) => {
                let row = |row: BTreeMap<String, serde_json::Value>| {
                    let note = row["note"].as_str().unwrap().to_owned();
                    (row["id"].as_i64().unwrap(), (row["amount"].as_i64().unwrap(), note))
                };
                server.table_rows("shop_cdc.orders").into_iter().map(row).collect()
            }
            Self::Emulator { server, dataset } if server.table(dataset, "orders").await.is_null() => BTreeMap::new(),
            Self::Emulator { server, dataset } => {
                let asked = format!("SELECT id, amount, note FROM `{dataset}.orders`");
                let row = |row: Vec<String>| (row[0].parse().unwrap(), (row[1].parse().unwrap(), row[2].clone()));
                server.query(&asked).await.into_iter().map(row).collect()
            }
        }
    }

    async fn log_rows(&self) -> u64 {
        match self {
            Self::Strict(server) => server.row_count("shop_cdc.orders_changes"),
            Self::Emulator { server, dataset } => {
                let asked = format!("SELECT COUNT(DISTINCT note) FROM `{dataset}.orders_changes`");
                let distinct: u64 = server.query(&asked).await[0][0].parse().unwrap();
                let asked = format!("SELECT COUNT(*) FROM `{dataset}.orders_changes`");
                let rows: u64 = server.query(&asked).await[0][0].parse().unwrap();
                assert_eq!(rows, distinct, "a change is in the log more than once");
                rows
            }
        }
    }
}

/// All that a run needs.
struct Stage {
    aws: Ministack,
    bucket: String,
    queue: Queue,
    dead: Queue,
    warehouse: Warehouse,
    scene: Scene,
}

impl Stage {
    async fn strict(options: Options, more: &str) -> Self {
        Self::new(Warehouse::strict(options).await, more).await
    }

    async fn new(warehouse: Warehouse, more: &str) -> Self {
        let aws = Ministack::shared();
        let bucket = aws.bucket("dms").await;
        let (queue, dead) = aws.queue_with_dead_letters("dms", 30, 4).await;
        aws.notify(&bucket, &queue, "cdc/", ".parquet.gz").await;
        let stage = Self { aws, bucket, queue, dead, warehouse, scene: Scene::empty() };
        stage.configure(more);
        stage
    }

    fn configure(&self, more: &str) {
        let config = format!(
            "source: {{files: s3://{}/cdc, queue: {}, since: beginning}}\n\
             sink: {}\n\
             ledger: ledger\n\
             databases: {{shop: {{tables: [{{name: orders, key: id, timestamp_column: ts}}]}}}}\n\
             pipeline_config: {{merge_every: 1s{more}}}\n",
            self.bucket,
            self.queue.url,
            self.warehouse.sink()
        );
        self.scene.write("freshet.yaml", config);
    }

    /// The strict server.
    fn bigquery(&self) -> &StrictBigQuery {
        match &self.warehouse {
            Warehouse::Strict(server) => server,
            Warehouse::Emulator { .. } => panic!("this stage has no strict server"),
        }
    }

    async fn put(&self, changes: &[Change]) {
        let (key, content) = file(changes);
        self.aws.put(&self.bucket, &key, content).await;
    }

    fn daemon(&self) -> Daemon {
        let log = std::fs::File::options().create(true).append(true).open(self.scene.path("daemon.log")).unwrap();
        let mut command = binary::command(self.scene.folder(), &["run"]);
        command.envs(self.aws.environment()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Daemon(command.spawn().expect("the program can be started"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.scene.path("daemon.log")).unwrap_or_default()
    }

    /// Waits until the queue is empty: all is acknowledged.
    async fn until_acknowledged(&self) {
        for _ in 0..ASKED_MAX {
            if self.aws.messages(&self.queue).await == (Messages { visible: 0, in_flight: 0 }) {
                return;
            }
            tokio::time::sleep(ASKED_EVERY).await;
        }
        panic!("the queue is never empty\n{}", self.log());
    }

    /// Waits until the final table is as wanted.
    async fn until_final(&self, wanted: &BTreeMap<i64, Row>) {
        for _ in 0..ASKED_MAX {
            if self.warehouse.final_rows().await == *wanted {
                return;
            }
            tokio::time::sleep(ASKED_EVERY).await;
        }
        let got = self.warehouse.final_rows().await;
        let wrong = wanted.iter().find(|(id, row)| got.get(id) != Some(row));
        panic!("{} rows instead of {}, wanted {wrong:?}\n{}", got.len(), wanted.len(), self.log());
    }

    /// How often each change is in the log, by its note, which no other has.
    fn logged(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for row in self.bigquery().table_rows("shop_cdc.orders_changes") {
            *found.entry(row["note"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        found
    }

    fn expect_each_change_once(&self, changes: &[Change]) {
        let logged = self.logged();
        assert_eq!(logged.len(), changes.len(), "changes are missing");
        assert!(logged.values().all(|times| *times == 1), "a change is in the log more than once");
    }

    async fn expect_no_dead_letters(&self) {
        assert_eq!(self.aws.messages(&self.dead).await, Messages { visible: 0, in_flight: 0 }, "{}", self.log());
        assert!(!self.log().contains("file set aside"), "{}", self.log());
    }
}

/// `freshet run`, killed when it is dropped.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Kills it at whatever instruction it is.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Tells it to end, and waits until it has.
    fn end(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.0.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
    stage.until_acknowledged().await;
    stage.until_final(&model(changes)).await;
    assert_eq!(stage.warehouse.log_rows().await, changes.len() as u64);
    assert_eq!(daemon.end(), Some(0), "{}", stage.log());
    stage.expect_no_dead_letters().await;
}

#[tokio::test]
async fn a_million_rows_in_two_hundred_files_are_there_once_each() {
    let stage = Stage::strict(Options::default(), "").await;
    carry(&stage, &changes(1_000_000, 20_000, 1)).await;
    let appends = stage.bigquery().requests_of("AppendRows");
    assert!(!appends.is_empty());
    assert!(appends.iter().all(|append| append.rows == Some(RowFormat::Arrow)), "only Arrow goes to the Write API");
}

/// Fewer rows, as the emulator slows down with every append; `FRESHET_EMULATED_ROWS` asks for another number.
#[tokio::test]
async fn two_hundred_files_are_there_once_each_in_the_emulator_too() {
    let rows = std::env::var("FRESHET_EMULATED_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000);
    let stage = Stage::new(Warehouse::emulator(), "").await;
    carry(&stage, &changes(rows, 2_000, 5)).await;
}

#[tokio::test]
async fn daemons_that_are_killed_and_answers_that_are_lost_lose_no_change_and_double_none() {
    let stage = Stage::strict(Options { job_polls: 1, ..Options::default() }, ", batch_size: 3").await;
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&commits);
    stage.bigquery().on_commit(move |_| _ = counted.fetch_add(1, Ordering::SeqCst));
    for (skip, what) in [
        (1, What::LostAfter),
        (3, What::NoCommitTime),
        (5, What::LostBefore),
        (7, What::Grpc(tonic::Code::Unavailable)),
    ] {
        stage.bigquery().faults().push(Fault::on("BatchCommitWriteStreams", what).skip(skip));
    }
    stage.bigquery().faults().push(Fault::on("AppendRows", What::LostAfter).skip(2));
    stage.bigquery().faults().push(Fault::on("OpenAppendRows", What::CutAfterBytes(300)).skip(4));
    stage.bigquery().faults().push(Fault::on("/jobs", What::LostAfter).skip(3));
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
    stage.until_acknowledged().await;
    stage.until_final(&model(&changes)).await;
    stage.expect_each_change_once(&changes);
    stage.expect_no_dead_letters().await;
    assert!(commits.load(Ordering::SeqCst) > 5);
    assert_eq!(running.into_iter().map(Daemon::end).collect::<Vec<_>>(), [Some(0), Some(0)], "{}", stage.log());
}

#[tokio::test]
async fn an_outage_of_bigquery_sets_nothing_aside_and_is_caught_up_with() {
    let stage = Stage::strict(Options::default(), "").await;
    stage.bigquery().faults().push(Fault::on("CreateWriteStream", What::Grpc(tonic::Code::Unavailable)).times(18));
    let changes = changes(600, 50, 3);
    let daemon = stage.daemon();
    for file in changes.chunks(30) {
        stage.put(file).await;
    }
    stage.until_acknowledged().await;
    stage.until_final(&model(&changes)).await;
    stage.expect_each_change_once(&changes);
    stage.expect_no_dead_letters().await;
    assert_eq!(daemon.end(), Some(0), "{}", stage.log());
}

#[tokio::test]
async fn what_is_not_done_when_the_daemon_ends_is_given_back_and_carried_by_the_next() {
    let stage = Stage::strict(Options::default(), ", shutdown_grace: 2s").await;
    stage.bigquery().faults().push(Fault::on("CreateWriteStream", What::Grpc(tonic::Code::Unavailable)).times(100_000));
    let changes = changes(50, 20, 4);
    stage.put(&changes).await;
    let daemon = stage.daemon();
    for _ in 0..ASKED_MAX {
        if stage.aws.messages(&stage.queue).await.in_flight > 0 {
            break;
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
    assert_eq!(daemon.end(), Some(0), "{}", stage.log());
    // Whether it is visible now depends on whom the queue takes for waiting: its last poll was given up half-way.
    assert!(stage.log().contains("\"given_back\":1"), "{}", stage.log());
    stage.bigquery().faults().clear();
    let daemon = stage.daemon();
    stage.until_acknowledged().await;
    stage.until_final(&model(&changes)).await;
    stage.expect_each_change_once(&changes);
    assert_eq!(daemon.end(), Some(0), "{}", stage.log());
}
