//! A sink in memory that fails as it is told, and a world of tables around it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalog::inflate::Staging;
use crate::catalog::opened::Opener;
use crate::catalog::samples::{ROOMY, Shelf, orders};
use crate::change::batch::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Purge, Recorded};
use crate::change::{ChangeFile, TableName};
use crate::clock::StillClock;
use crate::config::{Config, TableConfig};
use crate::error::{Error, Result};
use crate::ledger::{Ledger, State};
use crate::pipeline::report::{Observer, Progress};
use crate::pipeline::{Lane, Pipeline, RunReport, memory_of};
use crate::sink::{Rows, Sink, Target};
use crate::source::Delivery;

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing goes wrong.
    None,
    /// No effect, and an error that another time may not come.
    Retry,
    /// No effect, and an error that stops the table.
    User,
    /// It takes effect, but its answer is an error that another time may not come.
    AnswerLost,
    /// It takes effect, but its answer is an error that stops the table.
    Crash,
    /// What was prepared is gone.
    Lost,
    /// The code breaks down.
    Panic,
}

/// A row as text, by the names of its columns.
pub(crate) type Row = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub(crate) struct Kept {
    prepared: HashMap<String, Vec<Row>>,
    committed: BTreeMap<String, Vec<Row>>,
    lost: Vec<String>,
    finals: BTreeMap<String, BTreeMap<String, Row>>,
    pub(crate) calls: Vec<String>,
}

/// A sink in memory. Faults are taken from the script of each step, one a call; after them none.
#[derive(Default)]
pub(crate) struct FakeSink {
    pub(crate) kept: Mutex<Kept>,
    pub(crate) prepare: Mutex<VecDeque<Fault>>,
    pub(crate) commit: Mutex<VecDeque<Fault>>,
    pub(crate) merge: Mutex<VecDeque<Fault>>,
    /// Rows with this name are refused; whether the error tells the file.
    pub(crate) poison: Option<(&'static str, bool)>,
    /// Nothing succeeds between these moments.
    pub(crate) outage: Mutex<Option<(Instant, Instant)>>,
    /// Only this table meets the faults.
    pub(crate) only: Option<TableName>,
    /// Done at the end of the next preparation.
    pub(crate) meanwhile: Mutex<Option<futures::future::BoxFuture<'static, ()>>>,
    /// The same, of the next merge.
    pub(crate) while_merging: Mutex<Option<futures::future::BoxFuture<'static, ()>>>,
}

impl FakeSink {
    fn fault(&self, script: &Mutex<VecDeque<Fault>>, target: &Target) -> Fault {
        let outage = *self.outage.lock().unwrap();
        if outage.is_some_and(|(begins, ends)| (begins..ends).contains(&Instant::now())) {
            return Fault::Retry;
        }
        if self.only.as_ref().is_some_and(|only| *only != target.source) {
            return Fault::None;
        }
        script.lock().unwrap().pop_front().unwrap_or(Fault::None)
    }

    fn call(&self, call: String) {
        self.kept.lock().unwrap().calls.push(call);
    }

    pub(crate) fn script(script: &Mutex<VecDeque<Fault>>, faults: &[Fault]) {
        script.lock().unwrap().extend(faults);
    }

    /// How often a step was asked for.
    pub(crate) fn calls(&self, step: &str) -> usize {
        self.kept.lock().unwrap().calls.iter().filter(|call| call.starts_with(step)).count()
    }

    /// Every committed row's file and id, in order.
    pub(crate) fn committed(&self) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        let mut rows: Vec<String> =
            kept.committed.values().flatten().map(|row| format!("{} {}", row["file"], row["id"])).collect();
        rows.sort_unstable();
        rows
    }

    /// The final rows of a table as `id name`.
    pub(crate) fn finals(&self, table: &str) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        let rows = kept.finals.get(table).into_iter().flat_map(BTreeMap::values);
        rows.filter(|row| row["_cdc_operation"] != "D").map(|row| format!("{} {}", row["id"], row["name"])).collect()
    }

    fn poisoned(&self, rows: &[Row]) -> Result<()> {
        let Some((name, tell)) = self.poison else { return Ok(()) };
        match rows.iter().find(|row| row["name"] == name) {
            None => Ok(()),
            Some(row) if tell => Err(Error::data("poison").in_file(&row["file"])),
            Some(_) => Err(Error::data("poison")),
        }
    }
}

pub(crate) fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let schema = batch.schema();
    let value = |column: usize, row: usize| {
        let array = batch.column(column);
        let null = array.logical_nulls().is_some_and(|nulls| nulls.is_null(row));
        if null { "NULL".into() } else { array_value_to_string(array, row).unwrap() }
    };
    let row = |row| {
        (0..batch.num_columns()).map(|column| (schema.field(column).name().clone(), value(column, row))).collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

fn after(fault: Fault) -> Result<()> {
    match fault {
        Fault::AnswerLost => Err(Error::retry("the answer was lost")),
        Fault::Crash => Err(Error::user("killed after it took effect")),
        _ => Ok(()),
    }
}

fn before(fault: Fault) -> Result<()> {
    match fault {
        Fault::Retry => Err(Error::retry("not now")),
        Fault::User => Err(Error::user("not ever")),
        Fault::Panic => panic!("the sink broke down"),
        _ => Ok(()),
    }
}

#[async_trait]
impl Sink for FakeSink {
    fn describe(&self) -> String {
        "memory".into()
    }

    async fn prepare(&self, target: &Target, attempt: &Attempt, rows: Rows, _: &SessionContext) -> Result<Prepared> {
        self.call(format!("prepare {}", target.source));
        let fault = self.fault(&self.prepare, target);
        before(fault)?;
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await.map_err(Error::of_rows)?;
        let rows_now: Vec<Row> = batches.iter().flat_map(rows_of).collect();
        self.poisoned(&rows_now)?;
        let count = rows_now.len() as u64;
        self.kept.lock().unwrap().prepared.insert(attempt.id.clone(), rows_now);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        after(fault)?;
        let staged = serde_json::json!({ "attempt": attempt.id });
        Ok(Prepared { rows: count, bytes: 0, columns: rows.columns, staged })
    }

    async fn commit(&self, target: &Target, number: u64, prepared: &Prepared) -> Result<CommitOutcome> {
        self.call(format!("commit {} {number}", target.source));
        let fault = self.fault(&self.commit, target);
        before(fault)?;
        let attempt = prepared.staged["attempt"].as_str().unwrap().to_owned();
        {
            let mut kept = self.kept.lock().unwrap();
            if kept.committed.contains_key(&attempt) {
                return Ok(CommitOutcome::Committed);
            }
            if fault == Fault::Lost {
                kept.prepared.remove(&attempt);
                kept.lost.push(attempt.clone());
            }
            match kept.prepared.remove(&attempt) {
                Some(rows) => _ = kept.committed.insert(attempt, rows),
                None => return Ok(CommitOutcome::Lost),
            }
        }
        after(fault)?;
        Ok(CommitOutcome::Committed)
    }

    async fn merge(&self, target: &Target, merge: &MergeAttempt, _: &SessionContext) -> Result<MergeCounts> {
        self.call(format!("merge {}", target.source));
        let fault = self.fault(&self.merge, target);
        before(fault)?;
        let mut counts = MergeCounts::default();
        {
            let mut kept = self.kept.lock().unwrap();
            let rows: Vec<Row> = merge.batches.iter().flat_map(|batch| kept.committed[batch].clone()).collect();
            let finals = kept.finals.entry(target.source.to_string()).or_default();
            for row in rows {
                let key: Vec<&str> = target.key.iter().map(|name| row[name].as_str()).collect();
                let key = key.join("|");
                if finals.get(&key).is_none_or(|known| known["_cdc_sequence"] < row["_cdc_sequence"]) {
                    counts.updated += 1;
                    finals.insert(key, row);
                }
            }
        }
        let meanwhile = self.while_merging.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        after(fault)?;
        Ok(counts)
    }

    fn merges_here(&self) -> bool {
        true
    }

    async fn newest(&self, target: &Target, below: &str, _: &SessionContext) -> Result<Option<String>> {
        let kept = self.kept.lock().unwrap();
        let rows = kept.finals.get(&target.source.to_string()).into_iter().flat_map(BTreeMap::values);
        Ok(rows.map(|row| row["_cdc_sequence"].clone()).filter(|sequence| sequence.as_str() < below).max())
    }

    async fn purge(&self, target: &Target, purge: &Purge, _: &SessionContext) -> Result<()> {
        self.call(format!("purge {} {}", target.source, purge.below_us));
        Ok(())
    }

    async fn fit(&self, _: &Target, _: &Target, _: &SessionContext) -> Result<()> {
        Ok(())
    }

    async fn switch(&self, _: &Target, _: &str, _: &Target, _: &SessionContext) -> Result<()> {
        Err(Error::bug("this sink keeps one generation"))
    }

    async fn discard(&self, _: &Target) -> Result<()> {
        Ok(())
    }

    async fn recorded(&self, _: &Target, _: &SessionContext) -> Result<Option<Recorded>> {
        Ok(None)
    }

    async fn row_counts(&self, target: &Target) -> Result<Vec<(String, u64)>> {
        let rows = self.finals(&target.source.to_string()).len();
        Ok(vec![(target.name.to_string(), rows as u64)])
    }
}

/// Remembers what it was told, and cancels a token once a batch is committed, if it is asked to.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) lines: Mutex<Vec<String>>,
    pub(crate) end_after_batch: Option<CancellationToken>,
}

impl Observer for Told {
    fn tell(&self, progress: &Progress<'_>) {
        let line = match progress {
            Progress::TableStarted { table, files } => format!("{table} started {files}"),
            Progress::BatchCommitted { table, files, rows } => {
                if let Some(end) = &self.end_after_batch {
                    end.cancel();
                }
                format!("{table} committed {files} files {rows} rows")
            }
            Progress::SetAside { table, error } => format!("{table} set aside {}", error.place().file.clone().unwrap()),
            Progress::TableStopped { table, .. } => format!("{table} stopped"),
            _ => return,
        };
        self.lines.lock().unwrap().push(line);
    }
}

/// Files, a ledger and a configuration; a sink is brought along by each run.
pub(crate) struct World {
    pub(crate) shelf: Shelf,
    pub(crate) ledgers: Arc<InMemory>,
    pub(crate) config: Config,
    clock: Arc<StillClock>,
}

/// The table in which each row's file can be seen.
const SQL: &str = "SELECT id, name, _cdc_file AS file, _cdc_operation, _cdc_sequence FROM orders";

/// A new folder of that SQL for each of these tables.
pub(crate) fn queries<'a>(tables: impl IntoIterator<Item = &'a TableName>) -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    for table in tables {
        let path = folder.path().join(&table.database);
        std::fs::create_dir_all(&path).unwrap();
        let sql = SQL.replace("orders", &table.table);
        std::fs::write(path.join(format!("{}.sql", table.table)), sql).unwrap();
    }
    folder.keep()
}

/// Lists a table in a configuration, keyed by `id`.
pub(crate) fn list(config: &mut Config, table: TableName) {
    let keyed = TableConfig { key: Some(vec!["id".into()]), ..TableConfig::default() };
    config.tables.insert(table, keyed);
}

impl World {
    /// The table `shop.orders` with the key `id`, a file tried twice, and a batch for all files.
    pub(crate) fn new() -> Self {
        let folder = std::env::temp_dir();
        let mut config = Config { queries: folder.join("no such folder"), ..Config::for_folder("mem") };
        config.unlisted = None;
        config.pipeline.retry_attempts = 2;
        config.pipeline.error_threshold = 1.0;
        let mut world = Self { shelf: Shelf::default(), ledgers: Arc::default(), config, clock: Arc::default() };
        world.list(orders());
        world
    }

    /// Time goes on.
    pub(crate) fn forward(&self, by: chrono::TimeDelta) {
        self.clock.forward(by);
    }

    /// Lists a table in the configuration, keyed by `id`.
    pub(crate) fn list(&mut self, table: TableName) {
        list(&mut self.config, table);
    }

    /// A CSV file of these rows, each `Op,id,name`; files named later are of a later time.
    pub(crate) async fn file(&self, name: &str, rows: &[&str]) -> ChangeFile {
        let text = format!("Op,id,name\n{}\n", rows.join("\n"));
        let time = name.bytes().fold(0_i64, |time, byte| time * 256 % 1_000_000_007 + i64::from(byte));
        self.shelf.put(&format!("{name}.csv"), time, text).await
    }

    pub(crate) async fn ledger(&self) -> Ledger {
        let clock = Arc::clone(&self.clock) as _;
        Ledger::on(Arc::clone(&self.ledgers) as _, "ledger", "memory", clock).await.unwrap()
    }

    pub(crate) async fn state(&self) -> State {
        self.ledger().await.peek(&orders()).await.unwrap()
    }

    pub(crate) async fn pipeline(&self, sink: &Arc<FakeSink>, told: &Arc<Told>) -> Pipeline {
        let config = Config { queries: queries(self.config.tables.keys()), ..self.config.clone() };
        Pipeline {
            lane: Lane::Present,
            memory: memory_of(&config, config.pipeline.tables_at_once),
            opener: Opener::new(Arc::clone(&self.shelf.store) as _, Staging::new(ROOMY)),
            config: Arc::new(config),
            sink: Arc::clone(sink) as _,
            ledger: self.ledger().await,
            clock: Arc::clone(&self.clock) as _,
            observer: Arc::clone(told) as _,
            shutdown: told.end_after_batch.clone().unwrap_or_default(),
        }
    }

    /// Runs once with each file delivered by itself; its receipt is its location.
    pub(crate) async fn run(&self, sink: &Arc<FakeSink>, files: &[ChangeFile]) -> (RunReport, Vec<String>) {
        self.run_telling(sink, files, &Arc::default()).await
    }

    pub(crate) async fn run_telling(
        &self,
        sink: &Arc<FakeSink>,
        files: &[ChangeFile],
        told: &Arc<Told>,
    ) -> (RunReport, Vec<String>) {
        let deliver = |file: &ChangeFile| Delivery { files: vec![file.clone()], receipt: file.location.clone() };
        let deliveries: Vec<Delivery> = files.iter().map(deliver).collect();
        let pipeline = self.pipeline(sink, told).await;
        let outcome = pipeline.run(&deliveries, pipeline.ledger.tables().await.unwrap()).await.unwrap();
        let _ = std::fs::remove_dir_all(&pipeline.config.queries);
        outcome
    }
}
