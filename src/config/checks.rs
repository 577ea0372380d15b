//! What single values cannot show: keys that contradict each other, and tables that would write one target.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::{Mode, PipelineConfig, TableConfig};
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
#[derive(Default)]
pub(super) struct Targets(HashMap<String, String>);

impl Targets {
    /// Adds a table; an error where another one writes the same.
    pub(super) fn add(&mut self, at: &Cursor<'_>, name: &TableName, config: &TableConfig) -> Result<()> {
        let target = config.target.as_ref().unwrap_or(name).to_string().to_lowercase();
        let suffixes: &[&str] = match config.mode {
            Some(Mode::Append) => &["_changes"],
            Some(Mode::Merge) | None => &["", "_changes", "_tombstones"],
        };
        for suffix in suffixes {
            if let Some(other) = self.0.insert(format!("{target}{suffix}"), at.path()) {
                let what = if suffix.is_empty() { String::new() } else { format!(" (with its `{suffix}`)") };
                return Err(at
                    .error(format!("writes the same target{what} as `{other}`"))
                    .hint("give one of them another `target`"));
            }
        }
        Ok(())
    }
}
