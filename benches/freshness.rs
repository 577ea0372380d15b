//! How old a change is when it is committed, step by step: from the moment its event can be received, through the
//! daemon with 70 tables, to a sink that takes 0, 200 and 1,000 ms for each answer.
//!
//! Then again with a table that has 100 times as many files as each of the others; and both again through SQS and S3,
//! which this program serves, too. `cargo bench --bench freshness` prints medians and 99th percentiles per step. Files come
//! from memory, the ledger is a folder on disk.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use freshet::catalog::opened::Opener;
use freshet::change::batch::{Attempt, Prepared};
use freshet::change::{ChangeFile, FileFormat, FileId, FileKind, TableName};
use freshet::clock::SystemClock;
use freshet::config::{Config, Since, TableConfig};
use freshet::daemon::{Daemon, Pace};
use freshet::error::Result;
use freshet::ledger::Ledger;
use freshet::pipeline::{Lane, Pipeline, memory_of, staging_of};
use freshet::sink::Rows;
use freshet::source::folder::NothingKnown;
use freshet::source::{self, Delivery, Received, Source};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::arrow::ArrowWriter;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod nowhere;
mod s3_events;

use nowhere::{Nowhere, Taking, Troubles};
use s3_events::{BUCKET, S3Events};

const TABLES: usize = 70;
/// Files per table, and the time between two of one table.
const FILES: usize = 15;
const EVERY: Duration = Duration::from_secs(2);
const ROWS: i64 = 100;
/// As many files as another table has the hot one, where there is one.
const HOT: usize = 100;
/// By when all files are made.
const MAKING: Duration = Duration::from_secs(5);
/// Has this program run through SQS, in an environment that names its own server as AWS.
const THROUGH_SQS: &str = "--through-sqs";

/// When a file reached each step.
#[derive(Debug, Clone, Copy)]
struct Times {
    is_hot: bool,
    receivable: Instant,
    received: Instant,
    preparing: Option<Instant>,
    prepared: Option<Instant>,
    committing: Option<Instant>,
    committed: Option<Instant>,
}

type Log = Arc<Mutex<HashMap<FileId, Times>>>;

/// Files that can be received one after the other.
struct Stream {
    store: Arc<InMemory>,
    coming: Mutex<VecDeque<(Instant, ChangeFile)>>,
}

#[async_trait]
impl Source for Stream {
    async fn receive(&self) -> Result<Received> {
        let next = self.coming.lock().expect("no panic").front().map(|(at, _)| *at);
        match next {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        let (now, mut coming) = (Instant::now(), self.coming.lock().expect("no panic"));
        let mut deliveries = Vec::new();
        while deliveries.len() < 10 && coming.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, file)) = coming.pop_front() else { break };
            deliveries.push(Delivery { receipt: file.location.clone(), files: vec![file] });
        }
        Ok(Received { deliveries, left: Vec::new() })
    }

    async fn acknowledge(&self, _: &[Delivery]) -> Result<()> {
        Ok(())
    }

    async fn give_back(&self, _: &[Delivery]) -> Result<()> {
        Ok(())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as _
    }

    fn pause(&self) -> Duration {
        Duration::ZERO
    }
}

/// The source that the daemon has, watched for what comes and what is done.
struct Watched {
    source: Arc<dyn Source>,
    /// When each file can be received, by its path.
    receivable: HashMap<String, Instant>,
    /// As many files as another table has the first one.
    hot: usize,
    log: Log,
    open: Mutex<usize>,
    done: Notify,
}

#[async_trait]
impl Source for Watched {
    async fn receive(&self) -> Result<Received> {
        let received = self.source.receive().await?;
        let now = Instant::now();
        for file in received.deliveries.iter().flat_map(|delivery| &delivery.files) {
            let times = Times {
                is_hot: self.hot > 1 && file.table == name(0),
                receivable: self.receivable[&file.path],
                received: now,
                preparing: None,
                prepared: None,
                committing: None,
                committed: None,
            };
            self.log.lock().expect("no panic").insert(file.id(), times);
        }
        Ok(received)
    }

    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()> {
        self.source.acknowledge(deliveries).await?;
        let mut open = self.open.lock().expect("no panic");
        *open -= deliveries.len();
        if *open == 0 {
            self.done.notify_one();
        }
        Ok(())
    }

    async fn give_back(&self, deliveries: &[Delivery]) -> Result<()> {
        self.source.give_back(deliveries).await
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        self.source.store()
    }

    fn pause(&self) -> Duration {
        self.source.pause()
    }
}

fn note(log: &Log, file: FileId, what: impl Fn(&mut Times)) {
    if let Some(times) = log.lock().expect("no panic").get_mut(&file) {
        what(times);
    }
}

/// Takes rows, and so long for each answer.
struct SlowSink {
    ack: Duration,
    log: Log,
    attempts: Mutex<HashMap<String, Vec<FileId>>>,
}

#[async_trait]
impl Taking for SlowSink {
    async fn prepare(&self, attempt: &Attempt, rows: Rows) -> Result<Prepared> {
        let begun = Instant::now();
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await.map_err(freshet::error::Error::of_rows)?;
        tokio::time::sleep(self.ack).await;
        let mut files: Vec<FileId> = Vec::new();
        for batch in &batches {
            for id in batch.column(batch.num_columns() - 1).as_binary::<i32>().iter().flatten() {
                let id = FileId(id.try_into().expect("16 bytes"));
                if files.last() != Some(&id) {
                    files.push(id);
                }
            }
        }
        for file in &files {
            note(&self.log, *file, |times| (times.preparing, times.prepared) = (Some(begun), Some(Instant::now())));
        }
        let count = batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
        self.attempts.lock().expect("no panic").insert(attempt.id.clone(), files);
        let staged = serde_json::json!({ "attempt": attempt.id });
        Ok(Prepared { rows: count, bytes: 0, columns: rows.columns, staged })
    }

    async fn commit(&self, prepared: &Prepared) {
        let begun = Instant::now();
        tokio::time::sleep(self.ack).await;
        let attempt = prepared.staged["attempt"].as_str().expect("our own");
        for file in self.attempts.lock().expect("no panic").remove(attempt).unwrap_or_default() {
            note(&self.log, file, |times| (times.committing, times.committed) = (Some(begun), Some(Instant::now())));
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let [_, through, port, ack, hot] = &std::env::args().collect::<Vec<_>>()[..]
        && through == THROUGH_SQS
    {
        let number = |text: &str| text.parse::<u16>().expect("a number");
        let ack = Duration::from_millis(number(ack).into());
        return runtime.block_on(through_sqs(number(port), ack, number(hot).into()));
    }
    println!(
        "{TABLES} tables, a file of {ROWS} rows every {EVERY:?} each, {FILES} files each; milliseconds, p50 / p99"
    );
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>12} {:>12} {:>14}",
        "ack", "receive", "wait+open", "prepare", "claim", "commit", "all"
    );
    for ack in [0, 200, 1_000] {
        let log = runtime.block_on(run(Duration::from_millis(ack), 1));
        tell(&format!("{ack} ms"), &log, false);
    }
    println!("one table has {HOT} times as many files, and the sink takes 200 ms for each answer");
    let log = runtime.block_on(run(Duration::from_millis(200), HOT));
    tell("others", &log, false);
    tell("hot", &log, true);
    println!("through SQS and S3; then with the hot table");
    again_through_sqs(0, 1);
    again_through_sqs(200, HOT);
}

/// Runs this program again, as what AWS's variables say is settled when a process begins.
fn again_through_sqs(ack: u16, hot: usize) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.args([THROUGH_SQS, &port.to_string(), &ack.to_string(), &hot.to_string()]).envs([
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}").as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "bench"),
        ("AWS_SECRET_ACCESS_KEY", "bench"),
    ]);
    assert!(command.status().expect("it starts").success());
}

async fn through_sqs(port: u16, ack: Duration, hot: usize) {
    let (mut events, mut receivable) = (S3Events::default(), HashMap::new());
    for (number, (at, table)) in times(hot).into_iter().enumerate() {
        let number = i64::try_from(number).expect("few files");
        let time = chrono::DateTime::from_timestamp_millis(1_763_683_200_000 + number).expect("a time");
        let key = format!("bench/{}/{}.parquet.gz", name(table).table, time.format("%Y%m%d-%H%M%S%3f"));
        receivable.insert(key.clone(), at);
        events.add(key, content(number * ROWS), at);
    }
    events.serve(port).await;
    let mut config = config();
    config.source.files = format!("s3://{BUCKET}");
    config.source.queue = Some(format!("http://127.0.0.1:{port}/000000000000/events"));
    config.source.since = Some(Since::Beginning);
    let clock = SystemClock::shared();
    let opened = source::open(&config, clock.now(), Arc::new(NothingKnown), &clock).await;
    let log = carry(config, opened.expect("the queue answers"), receivable, ack, hot).await;
    match hot {
        1 => tell(&format!("{} ms", ack.as_millis()), &log, false),
        _ => ["others", "hot"].into_iter().for_each(|which| tell(which, &log, which == "hot")),
    }
}

async fn run(ack: Duration, hot: usize) -> Log {
    let store = Arc::new(InMemory::new());
    let coming = files(&store, hot).await;
    let receivable = coming.iter().map(|(at, file)| (file.path.clone(), *at)).collect();
    let source = Arc::new(Stream { store, coming: Mutex::new(coming) });
    carry(config(), source, receivable, ack, hot).await
}

fn config() -> Config {
    let mut config = Config::for_folder("memory");
    let keyed = TableConfig { key: Some(vec!["id".into()]), ..TableConfig::default() };
    config.tables = (0..TABLES).map(|table| (name(table), keyed.clone())).collect();
    config.pipeline.merge_every = Duration::from_secs(60);
    config
}

/// Runs the daemon until all files that can be received are done; gives when each reached what.
async fn carry(
    config: Config,
    source: Arc<dyn Source>,
    receivable: HashMap<String, Instant>,
    ack: Duration,
    hot: usize,
) -> Log {
    let (log, open) = (Log::default(), Mutex::new(receivable.len()));
    let source = Arc::new(Watched { source, receivable, hot, log: Arc::clone(&log), open, done: Notify::new() });
    let folder = tempfile::tempdir().expect("a folder");
    let clock = SystemClock::shared();
    let ledger = Ledger::open(folder.path().to_str().expect("UTF-8"), "nowhere", Arc::clone(&clock)).await;
    let shutdown = CancellationToken::new();
    let pipeline = Pipeline {
        lane: Lane::Present,
        opener: Opener::new(source.store(), staging_of(&config)),
        memory: memory_of(&config, freshet::daemon::tables_at_once(&config)),
        observer: Arc::new(Troubles),
        sink: Arc::new(Nowhere(SlowSink { ack, log: Arc::clone(&log), attempts: Mutex::default() })),
        config: Arc::new(config),
        ledger: ledger.expect("a ledger"),
        clock,
        shutdown: shutdown.clone(),
    };
    let daemon = tokio::spawn(Daemon::new(pipeline, Arc::clone(&source) as _, Pace::default()).run());
    source.done.notified().await;
    shutdown.cancel();
    daemon.await.expect("no panic").expect("it runs");
    log
}

fn name(table: usize) -> TableName {
    TableName::new("bench", format!("table_{table:02}"))
}

/// When each table's next file comes: every table's spread evenly over time, the first one's so many times as often.
fn times(hot: usize) -> Vec<(Instant, usize)> {
    let start = Instant::now() + MAKING;
    let count = |number: usize| u32::try_from(number).expect("few files");
    let of_table = |table: usize| {
        let often = if table == 0 { hot } else { 1 };
        let first = start + EVERY / count(TABLES) * count(table);
        (0..FILES * often).map(move |number| (first + EVERY * count(number) / count(often), table))
    };
    let mut times: Vec<_> = (0..TABLES).flat_map(of_table).collect();
    times.sort_unstable();
    times
}

/// The files, in the order in which they come.
async fn files(store: &InMemory, hot: usize) -> VecDeque<(Instant, ChangeFile)> {
    let mut coming = VecDeque::new();
    for (number, (at, table)) in times(hot).into_iter().enumerate() {
        let path = Path::from(format!("file_{number}.parquet.gz"));
        let bytes = content(i64::try_from(number).expect("few files") * ROWS);
        let size = bytes.len() as u64;
        store.put(&path, bytes.into()).await.expect("memory takes all");
        let time_ms = 1_700_000_000_000 + i64::try_from(number).expect("few files");
        let file = ChangeFile {
            location: format!("memory://{path}"),
            path: path.to_string(),
            size,
            version: "1".into(),
            e_tag: None,
            modified_ms: time_ms,
            table: name(table),
            kind: FileKind::Cdc,
            format: FileFormat::Parquet,
            gzip: true,
            time_ms,
            time_named: true,
            rows: None,
        };
        coming.push_back((at, file));
    }
    coming
}

fn content(first: i64) -> Vec<u8> {
    let columns: [(&str, ArrayRef); 3] = [
        ("Op", Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| "I")))),
        ("id", Arc::new(Int64Array::from_iter_values(first..first + ROWS))),
        ("note", Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("note {row}"))))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("memory takes all");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&writer.into_inner().expect("a file")).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn tell(what: &str, log: &Log, is_hot: bool) {
    type Step = fn(&Times) -> (Option<Instant>, Option<Instant>);
    let steps: [Step; 6] = [
        |times| (Some(times.receivable), Some(times.received)),
        |times| (Some(times.received), times.preparing),
        |times| (times.preparing, times.prepared),
        |times| (times.prepared, times.committing),
        |times| (times.committing, times.committed),
        |times| (Some(times.receivable), times.committed),
    ];
    let log = log.lock().expect("no panic");
    let of = |step: &Step| {
        let mut taken: Vec<Duration> = log
            .values()
            .filter(|times| times.is_hot == is_hot)
            .map(step)
            .map(|(from, to)| to.expect("every file was committed").duration_since(from.expect("a start")))
            .collect();
        taken.sort_unstable();
        let at = |share: usize| taken[(taken.len() * share / 100).min(taken.len() - 1)].as_millis();
        format!("{} / {}", at(50), at(99))
    };
    let told: Vec<String> = steps.iter().map(of).collect();
    println!(
        "{what:>8} {:>12} {:>12} {:>12} {:>12} {:>12} {:>14}",
        told[0], told[1], told[2], told[3], told[4], told[5]
    );
}
