//! What single values cannot show: keys that contradict each other, and tables that would write one target.

use std::collections::HashMap;
use std::time::Duration;

use super::cursor::Cursor;
use super::{
    BigQueryConfig, Config, Create, DatasetName, Mode, OnDelete, PipelineConfig, SinkConfig, SourceConfig, TableConfig,
};
use crate::change::TableName;
use crate::error::Result;

/// A table's keys against each other. `at` is where the table itself is written, `config` what it and the
/// defaults make together.
pub(super) fn table(at: &Cursor<'_>, config: &TableConfig) -> Result<()> {
    if config.mode == Some(Mode::Append)
        && let Some(on_delete) = at.get("on_delete")
    {
        return Err(on_delete
            .error("means nothing in mode `append`, which keeps deletes as rows")
            .hint("remove it, or write `mode: merge`"));
    }
    late_horizon(at, config)?;
    if !config.csv.header && config.csv.columns.is_empty() {
        return Err(at
            .error("says `header: false` under `csv`, and nothing names the columns")
            .hint("add `columns: [Op, id, …]` under `csv`"));
    }
    if !config.auto_schema && config.schema_override.is_empty() {
        return Err(at
            .error("has `auto_schema: false` without `schema_override`, so SQL would see no column")
            .hint("name the columns under `schema_override`, or remove `auto_schema: false`"));
    }
    Ok(())
}

/// A queue keeps what it tells of for 14 days at most: whatever waited there must not be too late.
const LATE_HORIZON_MIN: Duration = Duration::from_secs(15 * 24 * 3_600);
const LATE_HORIZON_MAX: Duration = Duration::from_secs(36_500 * 24 * 3_600);

/// How far back a table remembers, against what there is to be remembered. What `defaults` say of it means nothing to a
/// table that keeps no tombstones.
fn late_horizon(at: &Cursor<'_>, config: &TableConfig) -> Result<()> {
    let Some(late_horizon) = config.late_horizon else { return Ok(()) };
    let own = at.get("late_horizon");
    if let Some(own) = own.as_ref().filter(|_| config.mode == Some(Mode::Append) || config.on_delete == OnDelete::Mark)
    {
        return Err(own
            .error("means nothing where no tombstones are kept")
            .hint("it goes with `mode: merge` and `on_delete: remove`"));
    }
    if (LATE_HORIZON_MIN..=LATE_HORIZON_MAX).contains(&late_horizon) {
        return Ok(());
    }
    Err(match own {
        Some(own) => own.error("is not between 15 and 36500 days"),
        None => at.error("has by default a `late_horizon` that is not between 15 and 36500 days"),
    }
    .hint("files that come later than this are set aside: leave room for all that may wait, in a queue or while something stands still"))
}

/// Tombstones may go only where the view that shows changes not merged yet is freshet's own.
pub(super) fn views(root: &Cursor<'_>, config: &Config) -> Result<()> {
    let is_own = !matches!(&config.sink, Some(SinkConfig::BigQuery(bigquery)) if bigquery.create == Create::Never);
    let mut tables = config.tables.values().chain(config.unlisted.as_ref());
    if is_own || tables.all(|table| table.late_horizon.is_none()) {
        return Ok(());
    }
    let create = root.get("sink").and_then(|sink| sink.get("bigquery")?.get("create"));
    let what = "leaves the live views to people, where tables with a `late_horizon` need them made anew at each purge";
    Err(create
        .as_ref()
        .unwrap_or(root)
        .error(what)
        .hint("remove `late_horizon`, or have freshet make tables and views: `create: auto`"))
}

/// A source's keys against each other.
pub(super) fn source(at: &Cursor<'_>, config: &SourceConfig) -> Result<()> {
    let in_s3 = config.files.starts_with("s3://");
    if let Some(queue) = at.get("queue") {
        if !in_s3 {
            return Err(queue
                .error("tells of objects in S3, and `files` is not `s3://…`")
                .hint("write `files: s3://BUCKET/PREFIX`"));
        }
        if config.since.is_none() {
            return Err(at.error("has a `queue` and no `since`, so nothing says from which files on").hint(
                "write `since: beginning` for all that is there, `since: now` for what comes from now on, or a time",
            ));
        }
    }
    if let Some(since) = at.get("since").filter(|_| !in_s3) {
        return Err(since
            .error("is known for objects in S3 alone")
            .hint("remove it, or write `files: s3://BUCKET/PREFIX`"));
    }
    Ok(())
}

/// A ledger below the change files would be listed with them.
pub(super) fn ledger(root: &Cursor<'_>, source: &SourceConfig, ledger: Option<&str>) -> Result<()> {
    let files = source.files.trim_end_matches('/');
    let below = ledger
        .and_then(|ledger| ledger.strip_prefix(files))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match root.get("ledger").filter(|_| below) {
        Some(at) => Err(at.error("lies among the change files").hint("keep it beside them, not below `files`")),
        None => Ok(()),
    }
}

/// BigQuery's keys against each other, and what can be told of names before BigQuery is asked.
pub(super) fn bigquery(at: &Cursor<'_>, config: &BigQueryConfig) -> Result<()> {
    let rest = config.dataset.0.replace(DatasetName::DATABASE, "");
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if let Some(dataset) = at.get("dataset").filter(|_| !rest.chars().all(plain)) {
        return Err(dataset
            .error("is no dataset's name")
            .hint("datasets have letters, digits and `_`; `{database}` stands for the database's name"));
    }
    if config.rest_endpoint.is_some() != config.grpc_endpoint.is_some() {
        return Err(at
            .error("names one of `rest_endpoint` and `grpc_endpoint`, and freshet needs both")
            .hint("name both, or neither for Google's own"));
    }
    Ok(())
}

/// Limits against each other.
pub(super) fn pipeline(at: &Cursor<'_>, config: &PipelineConfig) -> Result<()> {
    let tables = u64::try_from(config.tables_at_once).unwrap_or(u64::MAX);
    let least = config.table_memory_bytes_min.saturating_mul(tables);
    if least > config.memory_bytes {
        return Err(at
            .error(format!(
                "gives {} tables at least {} bytes each, more than `memory` of {} bytes",
                config.tables_at_once, config.table_memory_bytes_min, config.memory_bytes
            ))
            .hint("raise `memory`, or lower `tables_at_once` or `table_memory_min`"));
    }
    if config.inflate_memory_bytes_max > config.memory_bytes {
        return Err(at
            .error(format!(
                "lets `inflate_memory` be {} bytes, more than `memory` of {} bytes",
                config.inflate_memory_bytes_max, config.memory_bytes
            ))
            .hint("raise `memory` or lower `inflate_memory`"));
    }
    Ok(())
}

/// The names at the sink that the tables seen so far write, in lower case, and which table writes each.
pub(super) struct Targets {
    written: HashMap<String, String>,
    /// What is written beside the final table.
    suffixes: &'static [&'static str],
}

impl Targets {
    /// None seen so far, at this sink.
    pub(super) fn of(sink: Option<&SinkConfig>) -> Self {
        let suffixes: &[&str] = match sink {
            Some(SinkConfig::BigQuery(_)) => &["", "_changes", "_tombstones", "_live"],
            Some(SinkConfig::Delta { .. }) | None => &["", "_changes", "_tombstones"],
        };
        Self { written: HashMap::new(), suffixes }
    }

    /// Adds a table's target; an error where another table writes the same.
    pub(super) fn add(&mut self, at: &Cursor<'_>, target: &TableName, mode: Option<Mode>) -> Result<()> {
        let target = target.to_string().to_lowercase();
        let suffixes: &[&str] = match mode {
            Some(Mode::Append) => &["_changes"],
            Some(Mode::Merge) | None => self.suffixes,
        };
        for suffix in suffixes {
            if let Some(other) = self.written.insert(format!("{target}{suffix}"), at.path()) {
                let what = if suffix.is_empty() { String::new() } else { format!(" (with its `{suffix}`)") };
                return Err(at
                    .error(format!("writes the same target{what} as `{other}`"))
                    .hint("give one of them another `target`"));
            }
        }
        Ok(())
    }
}
