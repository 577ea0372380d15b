//! Where a simulation's rows go: tables in memory with BigQuery's rules, or Delta Lake tables on a disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use url::Url;

use super::disk::LivedDisk;
use super::sink::{Hazards, LivedSink, Tables};
use crate::change::TableName;
use crate::clock::Clock;
use crate::pipeline::tests::fake::{Row, rows_of};
use crate::sink::Sink;
use crate::sink::delta::DeltaSink;
use crate::trial::life::Life;

/// Which kind of warehouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In memory, with the rules of BigQuery's streams and merges.
    InMemory,
    /// Delta Lake tables in a folder.
    Delta,
}

/// The warehouse, for all daemons.
pub(super) enum Warehouse {
    InMemory(Arc<Mutex<Tables>>),
    Delta { folder: TempDir, answers_lost: Arc<AtomicU64> },
}

impl Warehouse {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::InMemory => Self::InMemory(Arc::default()),
            Kind::Delta => Self::Delta { folder: tempfile::tempdir().unwrap(), answers_lost: Arc::default() },
        }
    }

    /// The warehouse, seen from one life.
    pub(super) fn sink(&self, life: &Arc<Life>, clock: Arc<dyn Clock>) -> Arc<dyn Sink> {
        match self {
            Self::InMemory(tables) => Arc::new(LivedSink { tables: Arc::clone(tables), life: Arc::clone(life) }),
            Self::Delta { folder, answers_lost } => {
                let disk = Arc::new(LivedDisk::new(life, answers_lost));
                Arc::new(DeltaSink::on(disk, folder.path().to_str().unwrap(), clock).unwrap())
            }
        }
    }

    /// Every row of a generation in a table's log as `file operation id`, in order. Where it was built elsewhere, Delta
    /// Lake keeps but those that came after.
    pub(super) async fn log(&self, table: &TableName, generation: u64) -> Vec<String> {
        let Self::Delta { folder, .. } = self else { return self.in_memory().log(&table.to_string(), generation) };
        let sequence = format!("{generation:016x}/");
        let rows = delta_rows(&delta_folder(folder.path(), table, "_changes")).await;
        let rows = rows.into_iter().filter(|row| row["_cdc_sequence"].starts_with(&sequence));
        let mut rows: Vec<String> =
            rows.map(|row| format!("{} {} {}", row["file"], row["_cdc_operation"], row["id"])).collect();
        rows.sort_unstable();
        rows
    }

    /// The final rows of a table as `id name`.
    pub(super) async fn finals(&self, table: &TableName) -> BTreeSet<String> {
        let Self::Delta { folder, .. } = self else { return self.in_memory().finals(&table.to_string()) };
        let rows = delta_rows(&delta_folder(folder.path(), table, "")).await;
        let finals: BTreeSet<String> = rows.iter().map(|row| format!("{} {}", row["id"], row["name"])).collect();
        assert_eq!(finals.len(), rows.len(), "a row is there twice");
        finals
    }

    /// Whether a reloaded table has in its log what the generation was built from.
    pub(super) fn keeps_what_was_built(&self) -> bool {
        matches!(self, Self::InMemory(_))
    }

    pub(super) fn hazards(&self) -> Hazards {
        match self {
            Self::InMemory(tables) => tables.lock().unwrap().hazards,
            Self::Delta { answers_lost, .. } => {
                Hazards { answers_lost: answers_lost.load(Ordering::SeqCst), ..Hazards::default() }
            }
        }
    }

    fn in_memory(&self) -> std::sync::MutexGuard<'_, Tables> {
        match self {
            Self::InMemory(tables) => tables.lock().unwrap(),
            Self::Delta { .. } => unreachable!("Delta Lake's tables are read from the disk"),
        }
    }
}

fn delta_folder(root: &Path, table: &TableName, suffix: &str) -> PathBuf {
    root.join(&table.database).join(format!("{}{suffix}", table.table))
}

/// The rows of a Delta table, read apart from the sink; none where it was never made.
async fn delta_rows(folder: &Path) -> Vec<Row> {
    if !folder.join("_delta_log/00000000000000000000.json").exists() {
        return Vec::new();
    }
    let table = deltalake::open_table(Url::from_directory_path(folder).unwrap()).await.unwrap();
    let session = SessionContext::new();
    table.update_datafusion_session(&session.state()).unwrap();
    let rows = session.read_table(table.table_provider().await.unwrap()).unwrap();
    rows.collect().await.unwrap().iter().flat_map(rows_of).collect()
}
