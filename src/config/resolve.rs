//! From the tree to the configuration: what each key means, its default and where relative paths start.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::DateTime;

use super::cursor::Cursor;
use super::memory::WrittenMemory;
use super::{
    BigQueryConfig, Compression, Config, Create, CsvConfig, DatasetName, DmsTask, Mode, NotificationChannel, OnDelete,
    Order, PipelineConfig, QUERIES, Since, SinkConfig, SourceConfig, StorageConfig, TableConfig, checks,
};
use crate::change::TableName;
use crate::change::batch::BatchLimits;
use crate::change::types::ColumnType;
use crate::error::{Error, Result};

const DEFAULT_KEYS: [&str; 9] =
    ["key", "mode", "on_delete", "late_horizon", "delete_when", "order", "timestamp_column", "auto_schema", "csv"];
const TABLE_KEYS: [&str; 17] = [
    "name",
    "key",
    "mode",
    "target",
    "query",
    "schema_override",
    "auto_schema",
    "timestamp_column",
    "order",
    "on_delete",
    "late_horizon",
    "delete_when",
    "csv",
    "partition_by",
    "cluster_by",
    "immutable",
    "description",
];
const PIPELINE_KEYS: [&str; 16] = [
    "batch_size",
    "batch_bytes",
    "batch_rows",
    "batch_age",
    "retry_attempts",
    "error_threshold",
    "memory",
    "table_memory_min",
    "tables_at_once",
    "inflate_memory",
    "inflate_max",
    "staging",
    "merge_every",
    "ledger_entries",
    "shutdown_grace",
    "notification_channels",
];

/// The configuration a tree describes, for a process that may take `room` bytes of memory; relative paths start at `folder`.
pub(super) fn config(root: &Cursor<'_>, folder: &Path, room: Option<u64>) -> Result<Config> {
    root.only(&["source", "sink", "ledger", "queries", "defaults", "databases", "pipeline_config"])?;
    let source = source(root, folder)?;
    let sink = read(root, "sink", |at| sink(at, folder))?;
    let ledger = read(root, "ledger", |at| location(at, folder))?.or_else(|| sink.as_ref().and_then(ledger_beside));
    checks::ledger(root, &source, ledger.as_deref())?;
    let queries = read(root, "queries", |at| path(at, folder))?.unwrap_or_else(|| folder.join(QUERIES));
    let defaults = root.get("defaults");
    if let Some(at) = &defaults {
        at.only(&DEFAULT_KEYS)?;
        table(at, "", folder)?;
    }
    let (tables, unlisted) = match root.get("databases") {
        Some(at) => (databases(&at, defaults.as_ref(), folder, sink.as_ref())?, None),
        None => (BTreeMap::new(), Some(unlisted(defaults.as_ref(), folder)?)),
    };
    let own = pipeline_defaults(sink.as_ref());
    let pipeline = match root.get("pipeline_config") {
        Some(at) => pipeline(&at, folder, own, room)?,
        None => own.with_memory(&WrittenMemory::default(), room),
    };
    let config = Config { source, sink, ledger, queries, tables, unlisted, pipeline };
    checks::views(root, &config)?;
    Ok(config)
}

/// Refuses a table that one database of one file lists twice.
pub(super) fn check_table_names(root: &Cursor<'_>) -> Result<()> {
    let Some(databases) = root.get("databases") else {
        return Ok(());
    };
    for (_, database) in databases.entries("databases by name")? {
        let Some(tables) = database.get("tables") else {
            continue;
        };
        let mut seen = HashSet::new();
        for item in tables.items("a list of tables")? {
            if let Some(name) = item.node().name()
                && !seen.insert(name)
            {
                return Err(item.error("is listed twice").hint("write the table once, with all its keys"));
            }
        }
    }
    Ok(())
}

fn source(root: &Cursor<'_>, folder: &Path) -> Result<SourceConfig> {
    const HINT: &str = "write where change files are, for example `source: ./data` or `source: {files: ./data}`";
    let Some(at) = root.get("source") else {
        return Err(root.error("names no `source`").hint(HINT));
    };
    if at.text("a location").is_ok() {
        return Ok(SourceConfig { files: location(&at, folder)?, ..SourceConfig::default() });
    }
    at.only(&["files", "layout", "queue", "since", "sweep", "dms_tasks"]).map_err(|error| add_hint(error, HINT))?;
    let files = at.get("files").ok_or_else(|| at.error("has no `files`").hint(HINT))?;
    let config = SourceConfig {
        files: location(&files, folder)?,
        layout: read(&at, "layout", |at| owned(at, "a pattern of paths"))?,
        queue: read(&at, "queue", |at| {
            endpoint(at, "an SQS queue's URL, such as `https://sqs.REGION.amazonaws.com/…`")
        })?,
        since: read(&at, "since", since)?,
        sweep: read(&at, "sweep", Cursor::duration)?,
        dms_tasks: read(&at, "dms_tasks", dms_tasks)?.unwrap_or_default(),
    };
    checks::source(&at, &config)?;
    Ok(config)
}

fn dms_tasks(at: &Cursor<'_>) -> Result<Vec<DmsTask>> {
    const EXPECTED: &str = "ARNs of DMS tasks, each like `arn:aws:dms:eu-west-1:111122223333:task:ABC`";
    at.texts(EXPECTED)?.iter().map(|arn| DmsTask::parse(arn).ok_or_else(|| at.expected(EXPECTED))).collect()
}

fn since(at: &Cursor<'_>) -> Result<Since> {
    const EXPECTED: &str = "`beginning`, `now` or a time such as `2026-01-31T00:00:00Z`";
    let text = &at.text(EXPECTED)?.value;
    match text.as_str() {
        "beginning" => Ok(Since::Beginning),
        "now" => Ok(Since::Now),
        time => match DateTime::parse_from_rfc3339(time) {
            Ok(time) => Ok(Since::Time(time.to_utc())),
            Err(_) => Err(at.expected(EXPECTED)),
        },
    }
}

/// An `http://` or `https://` URL.
fn endpoint(at: &Cursor<'_>, expected: &str) -> Result<String> {
    let text = &at.text(expected)?.value;
    let is_one = url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if is_one { Ok(text.trim_end_matches('/').to_owned()) } else { Err(at.expected(expected)) }
}

fn sink(at: &Cursor<'_>, folder: &Path) -> Result<SinkConfig> {
    const HINT: &str = "write `sink: {delta: ./lake}` or `sink: {bigquery: {project: …, location: …}}`";
    at.only(&["delta", "bigquery"]).map_err(|error| add_hint(error, HINT))?;
    match (at.get("delta"), at.get("bigquery")) {
        (Some(at), None) => Ok(SinkConfig::Delta { location: location(&at, folder)? }),
        (None, Some(at)) => Ok(SinkConfig::BigQuery(Box::new(bigquery(&at)?))),
        (Some(_), Some(_)) => Err(at.error("names two sinks").hint("keep one of `delta` and `bigquery`")),
        (None, None) => Err(at.error("names no kind of sink").hint(HINT)),
    }
}

fn bigquery(at: &Cursor<'_>) -> Result<BigQueryConfig> {
    const CREATES: [(&str, Create); 2] = [("auto", Create::Auto), ("never", Create::Never)];
    const URL: &str = "a URL such as `https://bigquery.googleapis.com`";
    const COMPRESSIONS: [(&str, Compression); 2] = [("gzip", Compression::Gzip), ("none", Compression::None)];
    const KEYS: [&str; 9] = [
        "project",
        "location",
        "dataset",
        "kms_key",
        "labels",
        "create",
        "compression",
        "rest_endpoint",
        "grpc_endpoint",
    ];
    at.only(&KEYS)?;
    let demand = |key: &str, hint: &str| match at.get(key) {
        Some(value) => owned(&value, hint),
        None => Err(at.error(format!("has no `{key}`")).hint(format!("write {hint}"))),
    };
    let config = BigQueryConfig {
        project: demand("project", "the id of the Google Cloud project")?,
        location: demand("location", "the region of the datasets, such as `asia-northeast3` or `US`")?,
        dataset: read(at, "dataset", |at| Ok(DatasetName(owned(at, "a dataset's name, such as `{database}_cdc`")?)))?
            .unwrap_or_default(),
        kms_key: read(at, "kms_key", |at| owned(at, "a key's name, `projects/…/cryptoKeys/…`"))?,
        labels: read(at, "labels", labels)?.unwrap_or_default(),
        create: read(at, "create", |at| at.choice(&CREATES))?.unwrap_or(Create::Auto),
        compression: read(at, "compression", |at| at.choice(&COMPRESSIONS))?.unwrap_or(Compression::Gzip),
        rest_endpoint: read(at, "rest_endpoint", |at| endpoint(at, URL))?,
        grpc_endpoint: read(at, "grpc_endpoint", |at| endpoint(at, URL))?,
    };
    checks::bigquery(at, &config)?;
    Ok(config)
}

fn labels(at: &Cursor<'_>) -> Result<BTreeMap<String, String>> {
    const EXPECTED: &str = "labels with their values, such as `{team: data}`";
    let entries = at.entries(EXPECTED)?;
    entries.into_iter().map(|(label, at)| Ok((label.to_owned(), at.any_text("a label's value")?))).collect()
}

fn add_hint(error: Error, hint: &str) -> Error {
    if error.hint_text().is_some() { error } else { error.hint(hint) }
}

/// The ledger's place where none is written: in the sink's folder, if that is local.
fn ledger_beside(sink: &SinkConfig) -> Option<String> {
    let SinkConfig::Delta { location } = sink else {
        return None;
    };
    let local = !location.contains("://") || location.starts_with("file://");
    local.then(|| format!("{}/_freshet_ledger", location.trim_end_matches('/')))
}

fn databases(
    at: &Cursor<'_>,
    defaults: Option<&Cursor<'_>>,
    folder: &Path,
    sink: Option<&SinkConfig>,
) -> Result<BTreeMap<TableName, TableConfig>> {
    let mut out = BTreeMap::new();
    let mut written = checks::Targets::of(sink);
    for (database, below) in at.entries("databases by name")? {
        below.only(&["tables"])?;
        let dataset = SinkConfig::dataset(sink, database);
        let Some(tables) = below.get("tables") else {
            continue;
        };
        for item in tables.items("a list of tables, each with its `name`")? {
            item.only(&TABLE_KEYS)?;
            let name = item.get("name").ok_or_else(|| {
                item.error("has no `name`").hint("write the table's name as the source spells it: `name: orders`")
            })?;
            let name = TableName::new(database, &name.text("a table's name")?.value);
            if out.contains_key(&name) {
                return Err(item.error("is listed twice").hint("write the table once, with all its keys"));
            }
            let config = listed(&item, &dataset, defaults, folder)?;
            written.add(&item, &SinkConfig::target(sink, &name, &config), config.mode)?;
            out.insert(name, config);
        }
    }
    Ok(out)
}

/// One table of `databases`, laid over the defaults; `null` takes a default away.
fn listed(item: &Cursor<'_>, dataset: &str, defaults: Option<&Cursor<'_>>, folder: &Path) -> Result<TableConfig> {
    table(item, dataset, folder)?;
    let mut merged = defaults.map_or_else(|| item.node().clone(), |defaults| defaults.node().clone());
    if defaults.is_some() {
        merged.merge(item.node().clone());
    }
    let whole = item.with(&merged);
    let config = table(&whole, dataset, folder)?;
    checks::table(item, &config)?;
    Ok(config)
}

fn unlisted(defaults: Option<&Cursor<'_>>, folder: &Path) -> Result<TableConfig> {
    let Some(at) = defaults else {
        return Ok(TableConfig::default());
    };
    let config = table(at, "", folder)?;
    checks::table(at, &config)?;
    Ok(config)
}

/// A table's keys; what is not written has freshet's own default.
fn table(at: &Cursor<'_>, dataset: &str, folder: &Path) -> Result<TableConfig> {
    const ORDERS: [(&str, Order); 2] = [("best_effort", Order::BestEffort), ("exact", Order::Exact)];
    const ON_DELETES: [(&str, OnDelete); 2] = [("remove", OnDelete::Remove), ("mark", OnDelete::Mark)];
    const MODES: [(&str, Mode); 2] = [("append", Mode::Append), ("merge", Mode::Merge)];
    let own = TableConfig::default();
    Ok(TableConfig {
        key: read(at, "key", columns)?,
        mode: read(at, "mode", |at| at.choice(&MODES))?,
        target: read(at, "target", |at| target(at, dataset))?,
        query: read(at, "query", |at| path(at, folder))?,
        schema_override: read(at, "schema_override", schema_override)?.unwrap_or_default(),
        auto_schema: read(at, "auto_schema", Cursor::boolean)?.unwrap_or(own.auto_schema),
        timestamp_column: read(at, "timestamp_column", |at| owned(at, "a column's name"))?,
        order: read(at, "order", |at| at.choice(&ORDERS))?.unwrap_or(own.order),
        on_delete: read(at, "on_delete", |at| at.choice(&ON_DELETES))?.unwrap_or(own.on_delete),
        late_horizon: read(at, "late_horizon", Cursor::duration)?,
        delete_when: read(at, "delete_when", |at| owned(at, "an SQL expression over output columns"))?,
        csv: read(at, "csv", csv)?.unwrap_or(own.csv),
        storage: StorageConfig {
            partition_by: read(at, "partition_by", |at| owned(at, "a column's name"))?,
            cluster_by: read(at, "cluster_by", columns)?,
            immutable: read(at, "immutable", columns)?.unwrap_or_default(),
            description: read(at, "description", |at| owned(at, "a description"))?,
        },
    })
}

/// What stands under `key`, read by `how`; None where nothing does.
fn read<'a, T>(at: &Cursor<'a>, key: &str, how: impl FnOnce(&Cursor<'a>) -> Result<T>) -> Result<Option<T>> {
    at.get(key).map(|at| how(&at)).transpose()
}

fn owned(at: &Cursor<'_>, expected: &str) -> Result<String> {
    Ok(at.text(expected)?.value.clone())
}

/// One column or a list of them; no name twice.
fn columns(at: &Cursor<'_>) -> Result<Vec<String>> {
    let names = at.texts("a column's name, or a list of them")?;
    if names.is_empty() {
        return Err(at.error("is an empty list").hint("name at least one column, or leave it out"));
    }
    let mut seen = HashSet::new();
    if names.iter().all(|name| seen.insert(name.to_lowercase())) {
        return Ok(names);
    }
    Err(at.error("names a column twice").hint("names that differ by case alone count as one"))
}

/// `table`, in the dataset of its database, or `dataset.table`.
fn target(at: &Cursor<'_>, own_dataset: &str) -> Result<TableName> {
    const EXPECTED: &str = "`table` or `dataset.table`";
    let text = &at.text(EXPECTED)?.value;
    let (dataset, table) = text.split_once('.').unwrap_or((own_dataset, text));
    if dataset.is_empty() || table.is_empty() || table.contains('.') {
        return Err(at.expected(EXPECTED));
    }
    Ok(TableName::new(dataset, table))
}

fn schema_override(at: &Cursor<'_>) -> Result<BTreeMap<String, ColumnType>> {
    const EXPECTED: &str = "columns with their types, such as `{id: INT64, price: NUMERIC}`";
    let mut out = BTreeMap::new();
    for (column, at) in at.entries(EXPECTED)? {
        let text = at.text("a column's type, such as `INT64`")?;
        let unfit = |cause: Error| {
            let hint = "types are BigQuery's: STRING, INT64, NUMERIC, BOOL, TIMESTAMP, …";
            let hint = if text.written.is_none() { cause.hint_text().unwrap_or(hint) } else { hint };
            at.expected("a column's type").hint(hint)
        };
        out.insert(column.to_owned(), text.value.parse().map_err(unfit)?);
    }
    Ok(out)
}

fn csv(at: &Cursor<'_>) -> Result<CsvConfig> {
    at.only(&["header", "columns", "null", "delimiter"])?;
    let own = CsvConfig::default();
    let columns = read(at, "columns", columns)?.unwrap_or_default();
    Ok(CsvConfig {
        header: read(at, "header", Cursor::boolean)?.unwrap_or(columns.is_empty()),
        null: read(at, "null", |at| at.any_text("the text that stands for NULL"))?.unwrap_or(own.null),
        delimiter: read(at, "delimiter", delimiter)?.unwrap_or(own.delimiter),
        columns,
    })
}

fn delimiter(at: &Cursor<'_>) -> Result<char> {
    const EXPECTED: &str = "a single ASCII character that is no quote and no line end";
    let text = at.any_text(EXPECTED)?;
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(one), None) if one.is_ascii() && !"\"\r\n\0".contains(one) => Ok(one),
        _ => Err(at.expected(EXPECTED).hint("a tab is written `\"\\t\"`, with double quotes")),
    }
}

/// Limits as they are where none are written: a merge costs money at BigQuery, so there it serves more changes.
fn pipeline_defaults(sink: Option<&SinkConfig>) -> PipelineConfig {
    let own = PipelineConfig::default();
    match sink {
        Some(SinkConfig::BigQuery(_)) => PipelineConfig { merge_every: Duration::from_secs(60), ..own },
        _ => own,
    }
}

fn pipeline(at: &Cursor<'_>, folder: &Path, own: PipelineConfig, room: Option<u64>) -> Result<PipelineConfig> {
    at.only(&PIPELINE_KEYS)?;
    let own = own.with_memory(&memory(at)?, room);
    let limits = BatchLimits {
        files_max: read(at, "batch_size", |at| at.integer(1))?.unwrap_or(own.limits.files_max),
        bytes_max: read(at, "batch_bytes", Cursor::size)?.unwrap_or(own.limits.bytes_max),
        rows_max: read(at, "batch_rows", |at| at.integer(1))?.unwrap_or(own.limits.rows_max),
        age_max: read(at, "batch_age", Cursor::duration)?.unwrap_or(own.limits.age_max),
    };
    let config = PipelineConfig {
        limits,
        retry_attempts: read(at, "retry_attempts", |at| at.integer(1))?.unwrap_or(own.retry_attempts),
        error_threshold: read(at, "error_threshold", Cursor::share)?.unwrap_or(own.error_threshold),
        inflate_bytes_max: read(at, "inflate_max", Cursor::size)?.unwrap_or(own.inflate_bytes_max),
        staging: read(at, "staging", |at| path(at, folder))?,
        merge_every: read(at, "merge_every", Cursor::duration)?.unwrap_or(own.merge_every),
        ledger_entries_max: read(at, "ledger_entries", |at| at.integer(1))?.unwrap_or(own.ledger_entries_max),
        shutdown_grace: read(at, "shutdown_grace", Cursor::duration)?.unwrap_or(own.shutdown_grace),
        notification_channels: read(at, "notification_channels", channels)?.unwrap_or_default(),
        ..own
    };
    checks::pipeline(at, &config)?;
    Ok(config)
}

fn memory(at: &Cursor<'_>) -> Result<WrittenMemory> {
    Ok(WrittenMemory {
        memory: read(at, "memory", Cursor::size)?,
        table_memory_min: read(at, "table_memory_min", Cursor::size)?,
        tables_at_once: read(at, "tables_at_once", |at| at.integer(1))?,
        inflate_memory: read(at, "inflate_memory", Cursor::size)?,
    })
}

fn channels(at: &Cursor<'_>) -> Result<Vec<NotificationChannel>> {
    const EXPECTED: &str = "a list such as `[{slack_webhook: \"https://…\"}, {email: \"…\"}]`";
    let at = at.clone().secret();
    at.items(EXPECTED)?.iter().map(channel).collect()
}

fn channel(at: &Cursor<'_>) -> Result<NotificationChannel> {
    at.only(&["slack_webhook", "email"])?;
    match (at.get("slack_webhook"), at.get("email")) {
        (Some(at), None) => match owned(&at, "an https:// URL")? {
            url if url.starts_with("https://") => Ok(NotificationChannel::SlackWebhook(url)),
            _ => Err(at.expected("an https:// URL")),
        },
        (None, Some(at)) => match owned(&at, "a mail address")? {
            address if address.contains('@') => Ok(NotificationChannel::Email(address)),
            _ => Err(at.expected("a mail address")),
        },
        _ => Err(at.error("takes one of `slack_webhook` and `email`")),
    }
}

/// A folder, file or URL; without a scheme it is relative to `folder`.
fn location(at: &Cursor<'_>, folder: &Path) -> Result<String> {
    let text = &at.text("a folder or a URL")?.value;
    if text.contains("://") {
        return Ok(text.clone());
    }
    folder.join(text).into_os_string().into_string().map_err(|_| {
        at.error("cannot be placed beside the configuration: the name of its folder is not UTF-8")
            .hint("write an absolute path")
    })
}

fn path(at: &Cursor<'_>, folder: &Path) -> Result<PathBuf> {
    Ok(folder.join(&at.text("a path")?.value))
}
