//! A day's change files through the whole pipeline: from a folder, inflated, decoded, through SQL with casts, into the Arrow
//! messages that a sink would send. Nothing is sent.
//!
//! `cargo bench --bench day` prints rows a second, bytes and the process's peak memory. `FRESHET_DAY_FILES` is how many
//! files of 20,000 rows there are; a day has 2,000.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use freshet::catalog::layout::Layout;
use freshet::catalog::opened::Opener;
use freshet::change::TableName;
use freshet::change::batch::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Purge, Recorded};
use freshet::clock::SystemClock;
use freshet::config::{Config, Mode, TableConfig};
use freshet::error::{Error, Result};
use freshet::ledger::Ledger;
use freshet::pipeline::report::{Observer, Progress};
use freshet::pipeline::{Lane, Pipeline, memory_of, staging_of};
use freshet::sink::{Rows, Sink, Target};
use freshet::source::Source;
use freshet::source::folder::{FolderSource, NothingKnown};
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

mod shapes;

const FILE_ROWS: u64 = 20_000;
const SQL: &str =
    "SELECT id, user_id, session_id, game_code, action_type, CAST(bet_amount AS DECIMAL(20, 4)) AS bet_amount,
    CAST(win_amount AS DECIMAL(20, 4)) AS win_amount, balance_after, upper(currency) AS currency, ip, round_id, memo,
    is_bonus, device, level, created_at, updated_at, bit(is_test) AS is_test, transact_id,
    _cdc_operation, _cdc_timestamp, _cdc_sequence
FROM user_actions";

/// Makes messages of all rows, and throws them away.
#[derive(Default)]
struct NullSink {
    rows: AtomicU64,
    bytes: AtomicU64,
}

#[async_trait]
impl Sink for NullSink {
    fn describe(&self) -> String {
        "nowhere".into()
    }

    async fn prepare(&self, _: &Target, attempt: &Attempt, rows: Rows, _: &SessionContext) -> Result<Prepared> {
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

    async fn commit(&self, _: &Target, _: u64, _: &Prepared) -> Result<CommitOutcome> {
        Ok(CommitOutcome::Committed)
    }

    async fn merge(&self, _: &Target, _: &MergeAttempt, _: &SessionContext) -> Result<MergeCounts> {
        Ok(MergeCounts::default())
    }

    fn merges_here(&self) -> bool {
        false
    }

    async fn newest(&self, _: &Target, _: &str, _: &SessionContext) -> Result<Option<String>> {
        Ok(None)
    }

    async fn purge(&self, _: &Target, _: &Purge, _: &SessionContext) -> Result<()> {
        Ok(())
    }

    async fn fit(&self, _: &Target, _: &Target, _: &SessionContext) -> Result<()> {
        Ok(())
    }

    async fn switch(&self, _: &Target, _: &str, _: &Target, _: &SessionContext) -> Result<()> {
        Ok(())
    }

    async fn discard(&self, _: &Target) -> Result<()> {
        Ok(())
    }

    async fn recorded(&self, _: &Target, _: &SessionContext) -> Result<Option<Recorded>> {
        Ok(None)
    }

    async fn row_counts(&self, _: &Target) -> Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }
}

struct Troubles;

impl Observer for Troubles {
    fn tell(&self, progress: &Progress<'_>) {
        if let Progress::TableStopped { error, .. } | Progress::Failing { error, .. } = progress {
            println!("{}", error.report());
        }
    }
}

fn main() {
    let files = std::env::var("FRESHET_DAY_FILES").map_or(100, |files| files.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = write(folder.path(), files);
    println!("{files} files of {FILE_ROWS} rows × 20 columns, {:.1} MB gzipped", bytes as f64 / 1e6);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let begun = Instant::now();
    let sink = Arc::new(NullSink::default());
    runtime.block_on(run(folder.path(), Arc::clone(&sink)));
    let seconds = begun.elapsed().as_secs_f64();
    let (rows, sent) = (sink.rows.load(Ordering::Relaxed), sink.bytes.load(Ordering::Relaxed));
    assert_eq!(rows, files * FILE_ROWS, "rows were lost");
    let of_a_day = seconds * 40e6 / rows as f64;
    println!(
        "{rows} rows in {seconds:.2} s: {:.2} million rows a second, a day in {of_a_day:.0} s; {:.0} MB made to be sent; \
         peak RSS {} MiB",
        rows as f64 / seconds / 1e6,
        sent as f64 / 1e6,
        peak_mib()
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
        let file = shapes::file(&shapes::changes(number * FILE_ROWS, FILE_ROWS, files * FILE_ROWS / 5));
        bytes += file.len() as u64;
        std::fs::write(table.join(format!("20251121-{number:09}.parquet.gz")), file).expect("a file");
    }
    bytes
}

async fn run(folder: &Path, sink: Arc<NullSink>) {
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
