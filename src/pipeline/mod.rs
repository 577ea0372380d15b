//! The only place where source, transform, sink and ledger meet: carries change files to their targets.
//!
//! Tables run side by side under one bound on memory; one that fails stops only itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::catalog::inflate::{Staging, StagingLimits};
use crate::catalog::opened::Opener;
use crate::change::{ChangeFile, FileId, TableName};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ledger::{Ledger, Reload};
use crate::pipeline::memory::SharedMemory;
use crate::pipeline::report::{Observer, Progress, TableReport};
use crate::pipeline::table_run::{Merging, TableRun};
use crate::sink::Sink;
use crate::source::Delivery;

mod ahead;
pub mod carry;
pub mod memory;
pub mod purge;
pub mod reload;
pub mod report;
pub mod rows;
pub mod setup;
pub mod table_run;

/// Staging files together may be this many times as large as one file may be.
const STAGED_FILES_MAX: u64 = 8;

/// Which generation of a table files are carried into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lane {
    /// The present one.
    Present,
    /// This one, which is being built beside it.
    Reload(Reload),
}

/// Everything a table needs to run; cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    /// What the user wrote.
    pub config: Arc<Config>,
    /// Where rows go.
    pub sink: Arc<dyn Sink>,
    /// What was begun and what became of it.
    pub ledger: Ledger,
    /// Time and ids.
    pub clock: Arc<dyn Clock>,
    /// Opens change files.
    pub opener: Opener,
    /// The memory of all tables.
    pub memory: Arc<SharedMemory>,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
    /// Which generation of its tables it carries.
    pub lane: Lane,
    /// Cancelled when the program is asked to end: batches under way are finished, no new one is begun.
    pub shutdown: CancellationToken,
}

/// What a run did, by table.
#[derive(Debug, Default)]
pub struct RunReport {
    /// By table.
    pub tables: BTreeMap<TableName, TableReport>,
    /// Files of tables that the configuration does not list, by table.
    pub unlisted: BTreeMap<TableName, usize>,
    /// Whether the run was ended before its work was done.
    pub interrupted: bool,
}

impl RunReport {
    /// Whether every file found its way: nothing set aside, nothing left, nothing stopped.
    pub fn clean(&self) -> bool {
        let clean = |table: &TableReport| {
            table.set_aside.is_empty() && table.vanished.is_empty() && table.left.is_empty() && table.stopped.is_none()
        };
        self.tables.values().all(clean)
    }
}

/// The bounds on inflated files that a configuration asks for.
pub fn staging_of(config: &Config) -> Staging {
    let limits = &config.pipeline;
    Staging::new(StagingLimits {
        file_memory_bytes_max: limits.inflate_memory_bytes_max,
        memory_bytes_max: limits.inflate_memory_bytes_max.saturating_mul(2),
        whole_bytes_max: limits.inflate_memory_bytes_max.saturating_mul(2),
        file_bytes_max: limits.inflate_bytes_max,
        staged_bytes_max: limits.inflate_bytes_max.saturating_mul(STAGED_FILES_MAX),
        folder: limits.staging.clone(),
    })
}

/// The memory that a configuration gives to all tables, of which so many run at once: where those are more than
/// `tables_at_once`, together they are sure of no more than so many would be.
pub fn memory_of(config: &Config, tables_at_once: usize) -> Arc<SharedMemory> {
    let limits = &config.pipeline;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let sure_of = bytes(limits.table_memory_bytes_min).saturating_mul(limits.tables_at_once);
    let table_bytes_min = (sure_of / tables_at_once.max(1)).min(bytes(limits.table_memory_bytes_min));
    SharedMemory::new(bytes(limits.memory_bytes), tables_at_once, table_bytes_min)
}

impl Pipeline {
    /// Carries the files of these deliveries, and finishes what earlier runs left open for these tables and those of
    /// the files. Returns the report and the receipts of deliveries every file of which is done.
    ///
    /// # Errors
    /// Only what concerns every table; what concerns one is in its report.
    pub async fn run(&self, deliveries: &[Delivery], tables: Vec<TableName>) -> Result<(RunReport, Vec<String>)> {
        let mut report = RunReport::default();
        let mut work: BTreeMap<TableName, Vec<ChangeFile>> =
            tables.into_iter().map(|table| (table, Vec::new())).collect();
        for file in deliveries.iter().flat_map(|delivery| &delivery.files) {
            work.entry(file.table.clone()).or_default().push(file.clone());
        }
        let mut done = HashSet::new();
        let mut running = JoinSet::new();
        let slots = Arc::new(Semaphore::new(self.config.pipeline.tables_at_once.max(1)));
        for (table, files) in work {
            if self.config.table(&table).is_none() {
                // Delivery is at least once: a file may come twice in one run.
                let files: HashSet<FileId> = files.iter().map(ChangeFile::id).collect();
                if !files.is_empty() {
                    report.unlisted.insert(table, files.len());
                }
                continue;
            }
            let (pipeline, slots) = (self.clone(), Arc::clone(&slots));
            running.spawn(async move {
                let _slot = slots.acquire_owned().await;
                pipeline.run_table(table, files).await
            });
        }
        while let Some(finished) = running.join_next().await {
            match finished {
                Ok((table, table_report, table_done)) => {
                    done.extend(table_done);
                    self.observer.tell(&Progress::TableDone { table: &table, report: &table_report });
                    report.tables.insert(table, table_report);
                }
                Err(cause) => return Err(Error::bug("a table's task ended without an answer").because(cause)),
            }
        }
        report.interrupted = self.shutdown.is_cancelled();
        let finished = |delivery: &&Delivery| delivery.files.iter().all(|file| done.contains(&file.id()));
        Ok((report, deliveries.iter().filter(finished).map(|delivery| delivery.receipt.clone()).collect()))
    }

    /// Runs one table to its end; whatever goes wrong, and be it a panic, stops only this table.
    async fn run_table(self, table: TableName, files: Vec<ChangeFile>) -> (TableName, TableReport, BTreeSet<FileId>) {
        let begun = self.clock.now();
        let (pipeline, name) = (self.clone(), table.clone());
        let run = tokio::spawn(async move { pipeline.run_table_inside(name, files).await });
        let (mut report, done) = match run.await {
            Ok(outcome) => outcome,
            Err(cause) => {
                let stopped = Error::bug("the table's run broke down").in_table(&table).because(cause);
                (TableReport { stopped: Some(stopped), ..TableReport::default() }, BTreeSet::new())
            }
        };
        report.took = (self.clock.now() - begun).to_std().unwrap_or_default();
        if let Some(error) = &report.stopped {
            self.observer.tell(&Progress::TableStopped { table: &table, error });
        }
        (table, report, done)
    }

    async fn run_table_inside(self, table: TableName, files: Vec<ChangeFile>) -> (TableReport, BTreeSet<FileId>) {
        let mut report = TableReport::default();
        let runtime = setup::runtime(&self.config, self.memory.table_pool());
        let run = match runtime {
            Ok(runtime) => TableRun::open(self, &table, runtime).await,
            Err(error) => Err(error),
        };
        let mut run = match run {
            Ok(run) => run,
            Err(error) => {
                report.stopped = Some(error.in_table(&table));
                return (report, BTreeSet::new());
            }
        };
        // What the ledger holds for the table is carried, too.
        let held: Vec<ChangeFile> = run.ledger().state().held().cloned().collect();
        let outcome = run.round(held.into_iter().chain(files), Merging::Now, &mut report).await;
        report.stopped = outcome.err().map(|error| error.in_table(&table));
        report.rows = run.row_counts().await;
        (report, run.take_finished())
    }
}

#[cfg(test)]
pub(crate) mod tests;
