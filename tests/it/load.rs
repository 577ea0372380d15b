//! Seventy tables, one of them a hundred times as busy as any other: none is starved, and memory stays flat.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::binary;
use crate::change_files::{gzipped, parquet};
use crate::ministack::{Messages, Ministack, Queue};
use crate::scene::Scene;
use crate::strict_bigquery::{Options, StrictBigQuery};

const TABLES: usize = 70;
/// How much busier the first table is than each of the others.
const TIMES_BUSIER: usize = 100;
/// How often an outside server is asked whether it is done, and how often at most.
const ASKED_EVERY: Duration = Duration::from_millis(200);
const ASKED_MAX: usize = 6_000;
/// The program's own memory limit is 128 MiB here; what libraries hold beside that must fit in this.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// How many files; `FRESHET_LOAD_FILES` asks for another number than CI's.
fn files() -> usize {
    std::env::var("FRESHET_LOAD_FILES").ok().and_then(|files| files.parse().ok()).unwrap_or(1_700)
}

/// The table of each file: of every 169, a hundred are the busy one's.
fn table_of(file: usize) -> usize {
    let cycle = TIMES_BUSIER + TABLES - 1;
    // Spread over the cycle: 29 and 169 have no common divisor.
    let place = file * 29 % cycle;
    place.saturating_sub(TIMES_BUSIER - 1)
}

fn name(table: usize) -> String {
    format!("table_{table:02}")
}

/// A file of ten changes, each of a key of its own.
fn content(file: usize) -> Vec<u8> {
    let first = i64::try_from(file * 10).unwrap();
    let changes: Vec<_> = (first..first + 10).map(|id| ("I", id, id * 7)).collect();
    gzipped(&parquet(&changes))
}

async fn put_all(aws: &Ministack, bucket: &str, files: usize) {
    for file in 0..files {
        let time = chrono::DateTime::UNIX_EPOCH
            + chrono::TimeDelta::days(20_000)
            + chrono::TimeDelta::seconds(i64::try_from(file).unwrap());
        let table = name(table_of(file));
        let key = format!("cdc/load/{table}/{}_{table}.parquet.gz", time.format("%Y/%m/%d/%Y%m%d%H%M%S"));
        aws.put(bucket, &key, content(file)).await;
    }
}

fn configure(scene: &Scene, bucket: &str, queue: &Queue, bigquery: &StrictBigQuery) {
    let tables: Vec<String> = (0..TABLES).map(|table| format!("{{name: {}, key: id}}", name(table))).collect();
    let config = format!(
        "source: {{files: s3://{bucket}/cdc, queue: {}, since: beginning}}\n\
         sink: {{bigquery: {{project: {}, location: US, rest_endpoint: {}, grpc_endpoint: {}}}}}\n\
         ledger: ledger\n\
         databases: {{load: {{tables: [{}]}}}}\n\
         pipeline_config: {{merge_every: 20s, memory: 128MiB, table_memory_min: 16MiB, inflate_memory: 16MiB}}\n",
        queue.url,
        bigquery.project(),
        bigquery.rest_url(),
        bigquery.grpc_url(),
        tables.join(", ")
    );
    scene.write("freshet.yaml", config);
}

/// The daemon, and the most memory it was seen with.
struct Daemon {
    process: Child,
    most: u64,
}

impl Daemon {
    fn start(scene: &Scene, aws: &Ministack) -> Self {
        let log = std::fs::File::create(scene.path("daemon.log")).unwrap();
        let mut command = binary::command(scene.folder(), &["run"]);
        command.envs(aws.environment()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { process: command.spawn().expect("the program can be started"), most: 0 }
    }

    /// Its resident memory now, in bytes.
    fn memory(&mut self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 =
            line.and_then(|line| line.trim().strip_suffix(" kB")).map_or(0, |kib| kib.trim().parse().unwrap());
        self.most = self.most.max(kib * 1_024);
        kib * 1_024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The numbers of the requests that committed each table's rows, in their order.
fn commits(bigquery: &StrictBigQuery) -> BTreeMap<String, Vec<usize>> {
    let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for request in bigquery.requests_of("BatchCommitWriteStreams") {
        found.entry(request.table.unwrap_or_default()).or_default().push(request.number);
    }
    found
}

#[tokio::test]
async fn seventy_tables_share_the_daemon_and_the_busiest_starves_none() {
    let aws = Ministack::own();
    let bucket = aws.bucket("load").await;
    let queue = aws.queue("load", 60).await;
    aws.notify(&bucket, &queue, "cdc/", ".parquet.gz").await;
    let bigquery = StrictBigQuery::start(Options::default()).await;
    let scene = Scene::empty();
    configure(&scene, &bucket, &queue, &bigquery);
    let files = files();
    put_all(&aws, &bucket, files).await;
    let mut daemon = Daemon::start(&scene, &aws);
    let log = || std::fs::read_to_string(scene.path("daemon.log")).unwrap_or_default();
    let mut memory = Vec::new();
    for asked in 0.. {
        assert!(asked < ASKED_MAX, "the queue is never empty\n{}", log());
        memory.push(daemon.memory());
        if aws.messages(&queue).await == (Messages { visible: 0, in_flight: 0 }) {
            break;
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
    let rows = |table: usize| bigquery.row_count(&format!("load.{}_changes", name(table)));
    assert_eq!((0..TABLES).map(rows).sum::<u64>(), files as u64 * 10);
    let commits = commits(&bigquery);
    assert_eq!(commits.len(), TABLES);
    let last_of_the_busy = *commits["load.table_00_changes"].last().unwrap();
    let late: Vec<_> = commits.iter().filter(|(_, numbers)| numbers[0] > last_of_the_busy).collect();
    assert!(late.is_empty(), "{late:?} waited until the busy one was through");
    println!("{files} files, at most {} MiB", daemon.most >> 20);
    assert!(daemon.most < MEMORY_BYTES_MAX, "{} bytes", daemon.most);
    let half = memory.len() / 2;
    let (early, later) = (memory[..half].iter().max().unwrap(), memory[half..].iter().max().unwrap());
    assert!(later < &(early * 2), "memory grows: at most {early} bytes at first, then {later}");
    assert!(!log().contains("set aside"), "{}", log());
}
