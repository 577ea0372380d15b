//! A day's change files through the whole pipeline: from a folder, inflated, decoded, through SQL with casts, into the Arrow
//! messages that a sink would send. Nothing is sent.
//!
//! `cargo bench --bench day` prints rows a second, bytes and the process's peak memory. `FRESHET_DAY_FILES` is how many
//! files of 20,000 rows there are; a day has 2,000. With `FRESHET_PYTHON`, a Python with what
//! `benches/peers/requirements.txt` names, the same is done with pandas.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench ends where anything fails, and prints"
)]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use freshet::catalog::layout::Layout;
use freshet::catalog::opened::Opener;
use freshet::change::TableName;
use freshet::change::batch::{Attempt, Prepared};
use freshet::clock::SystemClock;
use freshet::config::{Config, Mode, TableConfig};
use freshet::error::{Error, Result};
use freshet::ledger::Ledger;
use freshet::pipeline::{Lane, Pipeline, memory_of, staging_of};
use freshet::sink::Rows;
use freshet::source::Source;
use freshet::source::folder::{FolderSource, NothingKnown};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tokio_util::sync::CancellationToken;

mod nowhere;
mod shapes;

use nowhere::{Nowhere, Taking, Troubles};
use shapes::{Stretch, user_actions};

const FILE_ROWS: u64 = 20_000;
/// Of one row group, as DMS writes them.
const GROUP_ROWS: usize = 10_000;
const SQL: &str =
    "SELECT id, user_id, session_id, game_code, action_type, CAST(bet_amount AS DECIMAL(20, 4)) AS bet_amount,
    CAST(win_amount AS DECIMAL(20, 4)) AS win_amount, balance_after, upper(currency) AS currency, ip, round_id, memo,
    is_bonus, device, level, created_at, updated_at, bit(is_test) AS is_test, transact_id,
    _cdc_operation, _cdc_timestamp, _cdc_sequence
FROM user_actions";

/// Makes messages of all rows, and throws them away.
#[derive(Default)]
struct Messages {
    rows: AtomicU64,
    bytes: AtomicU64,
}

#[async_trait]
impl Taking for Messages {
    async fn prepare(&self, attempt: &Attempt, rows: Rows) -> Result<Prepared> {
        let mut count = 0;
        let columns = rows.columns;
        let mut stream = rows.stream;
        while let Some(batch) = stream.try_next().await.map_err(Error::of_rows)? {
            count += batch.num_rows() as u64;
            let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
            writer.write(&batch).expect("memory takes all");
            let message = writer.into_inner().expect("a message");
            self.bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        }
        self.rows.fetch_add(count, Ordering::Relaxed);
        Ok(Prepared { rows: count, bytes: 0, columns, staged: serde_json::json!({ "attempt": attempt.id }) })
    }
}

fn main() {
    let files = std::env::var("FRESHET_DAY_FILES").map_or(100, |files| files.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = write(folder.path(), files);
    println!("{files} files of {FILE_ROWS} rows × 20 columns, {:.1} MB gzipped", bytes as f64 / 1e6);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let begun = Instant::now();
    let sink = Arc::new(Nowhere(Messages::default()));
    runtime.block_on(run(folder.path(), Arc::clone(&sink)));
    let seconds = begun.elapsed().as_secs_f64();
    let (rows, sent) = (sink.0.rows.load(Ordering::Relaxed), sink.0.bytes.load(Ordering::Relaxed));
    assert_eq!(rows, files * FILE_ROWS, "rows were lost");
    let of_a_day = seconds * 40e6 / rows as f64;
    println!(
        "{rows} rows in {seconds:.2} s: {:.2} million rows a second, a day in {of_a_day:.0} s; {:.0} MB made to be sent; \
         peak RSS {} MiB",
        rows as f64 / seconds / 1e6,
        sent as f64 / 1e6,
        peak_mib()
    );
    if let Ok(python) = std::env::var("FRESHET_PYTHON") {
        replaced(&python, folder.path(), rows as f64 / seconds);
    }
}

/// What freshet replaces, with the same files.
fn replaced(python: &str, folder: &Path, speed: f64) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/day.py");
    let output = Command::new(python).arg(script).arg(folder.join("data")).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = printed.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let [rows, seconds, memory] = numbers[..] else { panic!("Python printed {printed}") };
    println!(
        "gunzip, pandas, to_parquet: {rows} rows in {seconds:.2} s, {:.3} million rows a second, peak RSS {memory:.0} MiB of \
         each process; freshet is {:.1} times as fast",
        rows / seconds / 1e6,
        speed / (rows / seconds),
    );
}

/// The files, of a fifth as many keys as rows; how many bytes they have.
fn write(folder: &Path, files: u64) -> u64 {
    let table = folder.join("data/casino/user_actions");
    std::fs::create_dir_all(&table).expect("a folder");
    std::fs::create_dir_all(folder.join("queries/casino")).expect("a folder");
    std::fs::write(folder.join("queries/casino/user_actions.sql"), SQL).expect("a file");
    let mut bytes = 0;
    for number in 0..files {
        let rows = Stretch { first: number * FILE_ROWS, count: FILE_ROWS };
        let content = file(&user_actions(rows, files * FILE_ROWS / 5));
        bytes += content.len() as u64;
        std::fs::write(table.join(format!("20251121-{number:09}.parquet.gz")), content).expect("a file");
    }
    bytes
}

/// The rows as one of DMS's files: snappy pages, the whole of it gzipped.
fn file(rows: &RecordBatch) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).expect("a plain schema");
    writer.write(rows).expect("memory takes all");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&writer.into_inner().expect("a file")).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

async fn run(folder: &Path, sink: Arc<Nowhere<Messages>>) {
    let data = folder.join("data");
    let data = data.to_str().expect("UTF-8");
    let mut config = Config { queries: folder.join("queries"), ..Config::for_folder(data) };
    let table = TableName::new("casino", "user_actions");
    config.tables = [(table.clone(), TableConfig { mode: Some(Mode::Append), ..TableConfig::default() })].into();
    let source = FolderSource::open(data, Layout::known(), Arc::new(NothingKnown)).expect("the folder is there");
    let clock = SystemClock::shared();
    let ledger = folder.join("ledger");
    let ledger = Ledger::open(ledger.to_str().expect("UTF-8"), "nowhere", Arc::clone(&clock)).await;
    let pipeline = Pipeline {
        lane: Lane::Present,
        opener: Opener::new(source.store(), staging_of(&config)),
        memory: memory_of(&config, config.pipeline.tables_at_once),
        observer: Arc::new(Troubles),
        sink,
        config: Arc::new(config),
        ledger: ledger.expect("a ledger"),
        clock,
        shutdown: CancellationToken::new(),
    };
    let mut deliveries = Vec::new();
    loop {
        let received = source.receive().await.expect("the folder is there");
        if received.deliveries.is_empty() {
            break;
        }
        deliveries.extend(received.deliveries);
    }
    let (report, _) = pipeline.run(&deliveries, vec![table]).await.expect("it runs");
    assert!(report.clean(), "{report:?}");
}

/// The most memory that this process ever had, by Linux's own account.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1_024
}
