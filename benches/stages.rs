//! What each step takes on the way of a day's change files, from a folder to Arrow messages: fetching them, inflating them,
//! decoding them, the table's SQL, and encoding rows.
//!
//! `cargo bench --bench stages` prints, for the way up to each step, seconds and processor time, and what that is more than the
//! way before it took. The ways differ a little in more than the step: files are fetched by the store's own call, decoded with
//! all columns, and from the SQL on carried by the pipeline, with a ledger. Messages are those of Arrow's own writer, one for
//! each batch. In the environment: `FRESHET_DAY_FILES` is how many files of 20,000 rows there are (100).
//! Sending is in the bench `day`, compressing for it in `wire`, the latest row of each key in `latest`, and the ledger in
//! `ledger`.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use datafusion::common::runtime::SpawnedTask;
use freshet::catalog::layout::Layout;
use freshet::catalog::opened::{OPENED_AT_ONCE, Opener, ReadRequest};
use freshet::change::batch::{Attempt, Prepared};
use freshet::change::{ChangeFile, TableName};
use freshet::clock::SystemClock;
use freshet::config::{Config, CsvConfig, Mode, TableConfig};
use freshet::error::{Error, Result};
use freshet::ledger::Ledger;
use freshet::pipeline::{Lane, Pipeline, memory_of, staging_of};
use freshet::sink::Rows;
use freshet::source::folder::{FolderSource, NothingKnown};
use freshet::source::{Delivery, Source};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, path::Path as StorePath};
use tokio_util::sync::CancellationToken;

mod change_files;
mod nowhere;
mod shapes;
mod taken;

use change_files::{ChangeFiles, asked};
use nowhere::{Nowhere, Taking, Troubles};
use shapes::Keys;
use taken::Taken;

const FILE_ROWS: u64 = 20_000;
const ROUNDS: usize = 3;
const SQL: &str = include_str!("user_actions.sql");

/// Takes rows, as they are or as messages, and throws them away.
#[derive(Default)]
struct Thrown {
    encodes: bool,
    rows: AtomicU64,
}

#[async_trait]
impl Taking for Thrown {
    async fn prepare(&self, attempt: &Attempt, rows: Rows) -> Result<Prepared> {
        let (columns, mut stream, mut count) = (rows.columns, rows.stream, 0);
        while let Some(batch) = stream.try_next().await.map_err(Error::of_rows)? {
            count += batch.num_rows() as u64;
            if self.encodes {
                let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
                writer.write(&batch).expect("memory takes all");
                std::hint::black_box(writer.into_inner().expect("a message"));
            }
        }
        self.rows.fetch_add(count, Ordering::Relaxed);
        Ok(Prepared { rows: count, bytes: 0, columns, staged: serde_json::json!({ "attempt": attempt.id }) })
    }
}

/// A folder of change files, and how they are read.
struct Scene {
    folder: tempfile::TempDir,
    config: Config,
    table: TableName,
    deliveries: Vec<Delivery>,
    source: FolderSource,
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let files = asked("FRESHET_DAY_FILES").unwrap_or(100);
    let rows = files * FILE_ROWS;
    let scene = runtime.block_on(Scene::new(files));
    println!("{files} files of {FILE_ROWS} rows x 20 columns; medians of {ROUNDS} rounds, for a million rows");
    println!("{:<26} {:>8} {:>16} {:>16}", "up to", "seconds", "processor time", "more");
    let mut before = 0.0;
    let mut tell = |step: &str, run: &dyn Fn() -> u64| {
        let (seconds, cpu) = median(run, rows);
        let millions = rows as f64 / 1e6;
        println!("{step:<26} {:>8.3} {:>16.3} {:>16.3}", seconds / millions, cpu / millions, (cpu - before) / millions);
        before = cpu;
    };
    tell("fetched", &|| runtime.block_on(scene.fetch()));
    tell("inflated", &|| runtime.block_on(scene.read(false)));
    tell("decoded", &|| runtime.block_on(scene.read(true)));
    tell("the SQL's rows", &|| runtime.block_on(scene.carry(false)));
    tell("Arrow messages", &|| runtime.block_on(scene.carry(true)));
    println!("peak RSS {} MiB, with the making of the files", Taken::by("self").peak_mib);
}

/// Seconds and processor time of the median round.
fn median(run: &dyn Fn() -> u64, rows: u64) -> (f64, f64) {
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let (begun, cpu) = (Instant::now(), Taken::by("self").cpu);
            assert_eq!(run(), rows, "rows were lost");
            (begun.elapsed().as_secs_f64(), Taken::by("self").cpu - cpu)
        })
        .collect();
    rounds.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    rounds[ROUNDS / 2]
}

impl Scene {
    async fn new(files: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = Keys { count: (files * FILE_ROWS).div_ceil(5), is_text: false };
        let written = ChangeFiles { files, file_rows: FILE_ROWS, group_rows: 10_000, keys, gzip: true };
        let data = folder.path().join("data");
        written.write(&data);
        std::fs::create_dir_all(folder.path().join("queries/casino")).expect("a folder");
        std::fs::write(folder.path().join("queries/casino/user_actions.sql"), SQL).expect("a file");
        let data = data.to_str().expect("UTF-8");
        let mut config = Config { queries: folder.path().join("queries"), ..Config::for_folder(data) };
        let table = TableName::new("casino", "user_actions");
        config.tables = [(table.clone(), TableConfig { mode: Some(Mode::Append), ..TableConfig::default() })].into();
        let source = FolderSource::open(data, Layout::known(), Arc::new(NothingKnown)).expect("the folder is there");
        let mut deliveries = Vec::new();
        loop {
            let received = source.receive().await.expect("the folder is there").deliveries;
            if received.is_empty() {
                break;
            }
            deliveries.extend(received);
        }
        Self { folder, config, table, deliveries, source }
    }

    fn files(&self) -> impl Iterator<Item = &ChangeFile> {
        self.deliveries.iter().flat_map(|delivery| &delivery.files)
    }

    /// Each file, as it is stored; by as many rows as it has.
    async fn fetch(&self) -> u64 {
        let store = self.source.store();
        let fetched = futures::stream::iter(self.files()).map(|file| {
            let (store, path) = (Arc::clone(&store), StorePath::parse(&file.path).expect("a path"));
            async move {
                let bytes = store.get(&path).await.expect("it is there").bytes().await.expect("it is whole");
                assert_eq!(bytes.len() as u64, file.size);
                FILE_ROWS
            }
        });
        fetched.buffered(OPENED_AT_ONCE).collect::<Vec<_>>().await.iter().sum()
    }

    /// Each file inflated, and all its columns, where they are wanted.
    async fn read(&self, decodes: bool) -> u64 {
        let opener = Opener::new(self.source.store(), staging_of(&self.config));
        let read = futures::stream::iter(self.files().cloned()).map(|file| {
            let opener = opener.clone();
            SpawnedTask::spawn(async move {
                let opened = opener.open(file, &CsvConfig::default()).await.expect("a whole file");
                if !decodes {
                    return FILE_ROWS;
                }
                let columns = (0..opened.schema.fields().len()).collect();
                let request = ReadRequest { columns, predicate: None, row_groups: None, rows: None, batch_rows: 8_192 };
                let rows: Vec<usize> =
                    opened.read(request).map_ok(|raw| raw.rows.len()).try_collect().await.expect("rows");
                rows.iter().sum::<usize>() as u64
            })
            .join()
        });
        read.buffered(OPENED_AT_ONCE).map(|rows| rows.expect("no panic")).collect::<Vec<_>>().await.iter().sum()
    }

    /// All files through the pipeline, with a ledger of their own.
    async fn carry(&self, encodes: bool) -> u64 {
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let clock = SystemClock::shared();
        let ledger = folder.path().to_str().expect("UTF-8");
        let ledger = Ledger::open(ledger, "nowhere", Arc::clone(&clock)).await;
        let sink = Arc::new(Nowhere(Thrown { encodes, ..Thrown::default() }));
        let pipeline = Pipeline {
            lane: Lane::Present,
            opener: Opener::new(self.source.store(), staging_of(&self.config)),
            memory: memory_of(&self.config, self.config.pipeline.tables_at_once),
            observer: Arc::new(Troubles),
            sink: Arc::clone(&sink) as _,
            config: Arc::new(self.config.clone()),
            ledger: ledger.expect("a ledger"),
            clock,
            shutdown: CancellationToken::new(),
        };
        let (report, _) = pipeline.run(&self.deliveries, vec![self.table.clone()]).await.expect("it runs");
        assert!(report.clean(), "{report:?}");
        sink.0.rows.load(Ordering::Relaxed)
    }
}
