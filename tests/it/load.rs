//! Seventy tables, one of them a hundred times as busy as any other: none is starved, and memory stays flat.

use std::collections::BTreeMap;

use crate::binary::{number_asked_for, tell_figure};
use crate::change_files::{gzipped, parquet};
use crate::daemon::{self, Daemon};
use crate::ministack::{Messages, Ministack, Queue};
use crate::scene::Scene;
use crate::strict_bigquery::{Options, StrictBigQuery};
use crate::until::until;

const TABLES: usize = 70;
/// How much busier the first table is than each of the others.
const TIMES_BUSIER: usize = 100;
/// How often an outside server is asked at most whether it is done.
const ASKED_MAX: usize = 6_000;
/// The program's own memory limit is 128 MiB here; what libraries hold beside that must fit in this.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

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
         sink: {}\n\
         ledger: ledger\n\
         databases: {{load: {{tables: [{}]}}}}\n\
         pipeline_config: {{merge_every: 20s, memory: 128MiB, table_memory_min: 16MiB, inflate_memory: 16MiB}}\n",
        queue.url,
        bigquery.warehouse("US").sink("{database}"),
        tables.join(", ")
    );
    scene.write("freshet.yaml", config);
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
    let files = number_asked_for("FRESHET_LOAD_FILES", 1_700);
    put_all(&aws, &bucket, files).await;
    let daemon = Daemon::start(&scene, &aws);
    let mut half = None;
    let is_done = until(ASKED_MAX, async || {
        let Messages { visible, in_flight } = aws.messages(&queue).await;
        if usize::try_from(visible).unwrap() <= files / 2 {
            half.get_or_insert_with(|| daemon.memory_most());
        }
        (visible, in_flight) == (0, 0)
    })
    .await;
    assert!(is_done, "the queue is never empty\n{}", daemon::log(&scene));
    let (half, most) = (half.unwrap(), daemon.memory_most());
    tell_figure(&format!("{files} files, at most {} MiB, of which {} MiB in the first half", most >> 20, half >> 20));
    for table in 0..TABLES {
        let expected = (0..files).filter(|file| table_of(*file) == table).count() as u64 * 10;
        assert_eq!(bigquery.row_count(&format!("load.{}_changes", name(table))), expected, "table {table}");
    }
    let commits = commits(&bigquery);
    assert_eq!(commits.len(), TABLES);
    let last_of_the_busy = *commits["load.table_00_changes"].last().unwrap();
    let late: Vec<_> = commits.iter().filter(|(_, numbers)| numbers[0] > last_of_the_busy).collect();
    assert!(late.is_empty(), "{late:?} waited until the busy one was through");
    assert!(most < MEMORY_BYTES_MAX, "{most} bytes");
    assert!(most < half * 2, "memory grows: at most {half} bytes for the first half of the files, then {most}");
    assert!(!daemon::log(&scene).contains("file set aside"), "{}", daemon::log(&scene));
    daemon.end();
}
