//! What the user wrote in freshet.yaml, resolved: every table with its defaults filled in. Builds nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::change::TableName;
use crate::change::batch::BatchLimits;
use crate::change::types::{ColumnType, same_name};
use crate::error::{Error, Result};

mod bigquery;
mod checks;
mod cursor;
mod environment;
mod excerpt;
mod load;
mod memory;
mod resolve;
mod target_rules;
mod tree;
mod units;

pub use bigquery::{BigQueryConfig, Compression, Create, DatasetName};
pub use target_rules::TargetRules;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where change files come from.
    pub source: SourceConfig,
    /// Where rows go; None where the file does not say. See [`Config::sink`].
    pub sink: Option<SinkConfig>,
    /// Where the ledger is kept: a folder or URL. Where the file does not say and the sink is a local folder, it is
    /// `_freshet_ledger` in that folder. See [`Config::ledger`].
    pub ledger: Option<String>,
    /// The folder of the SQL files.
    pub queries: PathBuf,
    /// Every table listed under `databases`, by name; resolved against `defaults`.
    pub tables: BTreeMap<TableName, TableConfig>,
    /// What a table that is not listed gets. None where `databases` is written: then such tables are left.
    pub unlisted: Option<TableConfig>,
    /// Batches, retries, limits.
    pub pipeline: PipelineConfig,
}

impl Config {
    /// What verbs that need no configuration work with: the change files at `files` (relative to the working
    /// folder), every table and limit with the defaults, no sink and no ledger.
    pub fn for_folder(files: &str) -> Self {
        Self {
            source: SourceConfig { files: files.to_owned(), ..SourceConfig::default() },
            sink: None,
            ledger: None,
            queries: PathBuf::from(QUERIES),
            tables: BTreeMap::new(),
            unlisted: Some(TableConfig::default()),
            pipeline: PipelineConfig::default(),
        }
    }

    /// Where rows go.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the configuration does not say.
    pub fn sink(&self) -> Result<&SinkConfig> {
        self.sink.as_ref().ok_or_else(|| {
            Error::user("the configuration names no `sink`")
                .hint("write where rows go, for example `sink: {delta: ./lake}`")
        })
    }

    /// Where the ledger is kept.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where neither the configuration nor a local sink says.
    pub fn ledger(&self) -> Result<&str> {
        self.ledger.as_deref().ok_or_else(|| {
            Error::user("the configuration names no `ledger`").hint(
                "write where it is kept, for example `ledger: ./ledger`; only beside a local sink has it a default",
            )
        })
    }

    /// How a table is treated: as the entry of exactly its name says, else as the only entry whose database and
    /// table differ from its name by case alone, else as [`Config::unlisted`] says. None: its files are left.
    pub fn table(&self, name: &TableName) -> Option<&TableConfig> {
        if let Some(table) = self.tables.get(name) {
            return Some(table);
        }
        let mut near = self
            .tables
            .iter()
            .filter(|(known, _)| same_name(&known.database, &name.database) && same_name(&known.table, &name.table));
        match (near.next(), near.next()) {
            (Some((_, table)), None) => Some(table),
            _ => self.unlisted.as_ref(),
        }
    }

    /// The table's name at the sink: its `target`, else its own in the dataset that the sink gives its database.
    pub fn target_name(&self, table: &TableName, config: &TableConfig) -> TableName {
        SinkConfig::target(self.sink.as_ref(), table, config)
    }
}

/// The folder of the SQL files, where nothing else is said.
const QUERIES: &str = "queries";

/// Where change files come from.
#[derive(Debug, Clone, Default)]
pub struct SourceConfig {
    /// A folder, a file, a glob such as `data/**/*.parquet`, a `file://` URL, or `s3://bucket/prefix`.
    pub files: String,
    /// A pattern for paths that fit no known layout, such as `{database}/{table}/{time:%Y%m%d%H%M%S}.csv`.
    pub layout: Option<String>,
    /// The URL of the SQS queue that tells of new objects below `files`.
    pub queue: Option<String>,
    /// From which files on; always there beside `queue`.
    pub since: Option<Since>,
    /// How often what `files` has is listed, so that an event that was lost loses nothing; None: never.
    pub sweep: Option<Duration>,
    /// The DMS tasks that write the files, which say when a table's full load is whole.
    pub dms_tasks: Vec<DmsTask>,
}

/// A replication task of DMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmsTask {
    /// Its name, as `arn:aws:dms:eu-west-1:111122223333:task:ABC`.
    pub arn: String,
    /// The region in it.
    pub region: String,
}

impl DmsTask {
    /// The task of this ARN; None where it is that of no task.
    fn parse(arn: &str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", _, "dms", region, _, "task", id] = parts.as_slice() else { return None };
        let is_region =
            !region.is_empty() && region.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        (is_region && !id.is_empty()).then(|| Self { arn: arn.to_owned(), region: (*region).to_owned() })
    }
}

/// From which files on a source delivers, by when the store last saw them modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// All there are.
    Beginning,
    /// From when the ledger was made.
    Now,
    /// From this moment.
    Time(DateTime<Utc>),
}

/// Where rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkConfig {
    /// Delta Lake tables below a folder or URL.
    Delta {
        /// The folder or URL.
        location: String,
    },
    /// BigQuery.
    BigQuery(Box<BigQueryConfig>),
}

impl SinkConfig {
    /// The dataset, or folder, of a database's tables at this sink.
    fn dataset(sink: Option<&Self>, database: &str) -> String {
        match sink {
            Some(Self::BigQuery(bigquery)) => bigquery.dataset.of(database),
            Some(Self::Delta { .. }) | None => database.to_owned(),
        }
    }

    /// The name of a table's target at this sink.
    fn target(sink: Option<&Self>, table: &TableName, config: &TableConfig) -> TableName {
        let own = || TableName::new(Self::dataset(sink, &table.database), &table.table);
        config.target.clone().unwrap_or_else(own)
    }
}

/// What a target keeps of the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every change, in `<table>_changes`.
    Append,
    /// That log and the final `<table>`.
    Merge,
}

/// What a delete leaves behind in the final table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// The row goes; its key and sequence stay in `<table>_tombstones`.
    Remove,
    /// The row stays, with `_cdc_deleted` true.
    Mark,
}

/// How well the order of changes is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By commit time, file and row.
    BestEffort,
    /// By `AR_H_CHANGE_SEQ` on every change.
    Exact,
}

/// One table, with its defaults filled in.
#[derive(Debug, Clone)]
pub struct TableConfig {
    /// Output columns that make the key; None: the SQL's latest-per-key tells.
    pub key: Option<Vec<String>>,
    /// None: `merge` where a key is known, else `append`.
    pub mode: Option<Mode>,
    /// The target's name, where it differs from the source's.
    pub target: Option<TableName>,
    /// The SQL file, where it is not found by the table's name.
    pub query: Option<PathBuf>,
    /// Source columns that are cast before SQL sees them.
    pub schema_override: BTreeMap<String, ColumnType>,
    /// Whether SQL sees columns that `schema_override` does not name.
    pub auto_schema: bool,
    /// The column with the commit time that DMS adds.
    pub timestamp_column: Option<String>,
    /// How well the order of changes is known.
    pub order: Order,
    /// What a delete leaves behind.
    pub on_delete: OnDelete,
    /// How much older than the newest change of the table a change may be when it comes; None: tombstones are kept for ever.
    pub late_horizon: Option<Duration>,
    /// An expression over output columns that turns a change into a delete.
    pub delete_when: Option<String>,
    /// How CSV files of the table are written.
    pub csv: CsvConfig,
    /// How the sink keeps the table, where it can choose.
    pub storage: StorageConfig,
}

/// How a sink keeps a table: what costs and speed depend on, never what the rows are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageConfig {
    /// The output column by whose day the final table is partitioned: DATE, DATETIME or TIMESTAMP.
    pub partition_by: Option<String>,
    /// Output columns by which the final table is clustered; None: by the key.
    pub cluster_by: Option<Vec<String>>,
    /// Output columns that never change for a key and are never NULL, so that a merge may prune by them.
    pub immutable: Vec<String>,
    /// What the table is, for people.
    pub description: Option<String>,
}

impl Default for TableConfig {
    /// No key, every column, `order: best_effort`, `on_delete: remove`.
    fn default() -> Self {
        Self {
            key: None,
            mode: None,
            target: None,
            query: None,
            schema_override: BTreeMap::new(),
            auto_schema: true,
            timestamp_column: None,
            order: Order::BestEffort,
            on_delete: OnDelete::Remove,
            late_horizon: None,
            delete_when: None,
            csv: CsvConfig::default(),
            storage: StorageConfig::default(),
        }
    }
}

/// How CSV files are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvConfig {
    /// Whether the first line is a header; true unless `columns` are given or it is set.
    pub header: bool,
    /// The columns' names, where no line names them.
    pub columns: Vec<String>,
    /// The text that stands for NULL.
    pub null: String,
    /// What separates fields.
    pub delimiter: char,
}

impl Default for CsvConfig {
    /// As DMS writes it with `AddColumnName`; its `CsvNullValue` is `NULL` and its `CsvDelimiter` a comma, see
    /// <https://docs.aws.amazon.com/dms/latest/APIReference/API_S3Settings.html>.
    fn default() -> Self {
        Self { header: true, columns: Vec::new(), null: "NULL".to_owned(), delimiter: ',' }
    }
}

/// Batches, retries, limits.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// How batches are cut: `batch_size` (files), `batch_bytes`, `batch_rows`, `batch_age`.
    pub limits: BatchLimits,
    /// Tries before a file is set aside (data errors only).
    pub retry_attempts: u32,
    /// Of a table's last 100 files, the share that may be set aside before the table stops.
    pub error_threshold: f64,
    /// Bytes that all tables together may hold in memory.
    pub memory_bytes: u64,
    /// Bytes each running table is sure of.
    pub table_memory_bytes_min: u64,
    /// How many tables run side by side.
    pub tables_at_once: usize,
    /// An inflated file below this stays in memory, above it goes to a staging file. All together take at most twice as much,
    /// and so do those that are just being inflated.
    pub inflate_memory_bytes_max: u64,
    /// No file may inflate to more than this.
    pub inflate_bytes_max: u64,
    /// Where staging files go; None: the system's folder for temporary files.
    pub staging: Option<PathBuf>,
    /// How long committed changes may wait for a merge into the final table, so that one merge serves many.
    pub merge_every: Duration,
    /// How many entries a table's chain in the ledger grows by before it is compacted.
    pub ledger_entries_max: u64,
    /// How long a shutdown may take.
    pub shutdown_grace: Duration,
    /// Who is told of trouble.
    pub notification_channels: Vec<NotificationChannel>,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            limits: BatchLimits {
                files_max: 1000,
                bytes_max: 256 << 20,
                rows_max: 5_000_000,
                age_max: Duration::from_millis(200),
            },
            retry_attempts: 3,
            error_threshold: 0.1,
            memory_bytes: 512 << 20,
            table_memory_bytes_min: 32 << 20,
            tables_at_once: 4,
            inflate_memory_bytes_max: 64 << 20,
            inflate_bytes_max: 2 << 30,
            staging: None,
            merge_every: Duration::from_secs(1),
            ledger_entries_max: 1_000,
            shutdown_grace: Duration::from_secs(25),
            notification_channels: Vec::new(),
        }
    }
}

/// Someone who is told of trouble.
#[derive(Clone, PartialEq, Eq)]
pub enum NotificationChannel {
    /// A Slack webhook; its URL is a secret.
    SlackWebhook(String),
    /// A mail address.
    Email(String),
}

impl fmt::Debug for NotificationChannel {
    /// The kind alone: the rest is a secret or a person's address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SlackWebhook(_) => "SlackWebhook(…)",
            Self::Email(_) => "Email(…)",
        })
    }
}

#[cfg(test)]
mod tests;
