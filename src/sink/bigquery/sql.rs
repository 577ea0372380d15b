//! Every SQL text that goes to BigQuery, as pure functions: one statement each, every name quoted, every value
//! escaped.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical> and
//! <https://cloud.google.com/bigquery/docs/reference/standard-sql/dml-syntax#merge_statement>.

use chrono::{DateTime, Utc};

use super::TableId;
use crate::change;
use crate::change::types::ColumnType;
use crate::config::OnDelete;
use crate::sink::columns::{self, same};
use crate::sink::{Attempt, Column, MergeAttempt};

/// Where a change stands among those of its key.
const RANK: &str = "`_freshet_rank`";

/// A name in backticks.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", escaped(name, '`'))
}

/// A table's full name, each part in backticks.
pub(super) fn table(id: &TableId) -> String {
    format!("{}.{}.{}", name(&id.project), name(&id.dataset), name(&id.table))
}

/// A STRING literal.
pub(super) fn text(value: &str) -> String {
    format!("'{}'", escaped(value, '\''))
}

/// A TIMESTAMP literal, exact to the microsecond.
pub(super) fn timestamp(moment: DateTime<Utc>) -> String {
    format!("TIMESTAMP '{}+00:00'", moment.format("%Y-%m-%d %H:%M:%S%.6f"))
}

/// Quoted identifiers have the same escapes as strings.
fn escaped(value: &str, quote: char) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn names<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    list(columns.into_iter().map(|column| name(&column.name)))
}

fn list(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(", ")
}

/// How many rows a table has.
pub(super) fn count(id: &TableId) -> String {
    format!("SELECT COUNT(*) AS `n` FROM {}", table(id))
}

/// The sequence of the newest of a table's rows below this one.
pub(super) fn newest(id: &TableId, below: &str) -> String {
    let sequence = name(columns::SEQUENCE);
    format!("SELECT MAX({sequence}) AS `n` FROM {} WHERE {sequence} < {}", table(id), text(below))
}

/// How many rows of the log an attempt wrote. The time is the partition, so that no other is read.
pub(super) fn count_attempt(log: &TableId, attempt: &Attempt) -> String {
    format!(
        "{} WHERE {} = {} AND {} = {}",
        count(log),
        name(columns::BATCH),
        text(&attempt.id),
        name(columns::LOADED_AT),
        timestamp(attempt.loaded_at)
    )
}

/// How many rows of which attempt came from which file: the attempt's id, its time in µs since 1970, the file's id in hex.
pub(super) fn recorded(log: &TableId) -> String {
    let (batch, at, file) = (name(columns::BATCH), name(columns::LOADED_AT), name(columns::FILE_ID));
    format!(
        "SELECT {batch}, UNIX_MICROS({at}) AS `at`, TO_HEX({file}) AS `file`, COUNT(*) AS `n` FROM {} GROUP BY {batch}, \
         {at}, {file}",
        table(log)
    )
}

/// What a column's values lie between, both ends as literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    /// The column, as the log spells it.
    pub(super) column: String,
    /// Whether it is of the key; else it is declared immutable and never NULL.
    pub(super) is_key: bool,
    pub(super) least: String,
    pub(super) greatest: String,
}

impl Bound {
    /// What a target's row must satisfy to match any row of the source.
    ///
    /// A key column's bounds follow from the equality of keys. An immutable column's do only because it never
    /// changes for a key, so that the target's row has the very value of the source's; a row written before the
    /// column came has NULL there and stays a match.
    fn holds(&self, alias: &str) -> String {
        let column = format!("{alias}.{}", name(&self.column));
        let between = format!("{column} BETWEEN {} AND {}", self.least, self.greatest);
        if self.is_key { between } else { format!("({between} OR {column} IS NULL)") }
    }
}

/// What the statements of one merge are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merging<'a> {
    pub(super) log: &'a TableId,
    pub(super) final_table: &'a TableId,
    pub(super) tombstones: &'a TableId,
    pub(super) on_delete: OnDelete,
    /// The key's columns, as the log spells them.
    pub(super) key: &'a [Column],
    /// The final table's columns, see [`columns::final_columns`].
    pub(super) columns: &'a [Column],
    pub(super) merge: &'a MergeAttempt,
    /// See [`floor`].
    pub(super) floor: &'a str,
}

/// Of changes below this sequence the view shows what the final table has: those of earlier generations, and those whose
/// tombstones may be gone. Empty: of none.
pub(super) fn floor(generation: u64, purged_us: u64) -> String {
    match (generation, purged_us) {
        (..=1, 0) => String::new(),
        (later, 0) => format!("{later:016x}"),
        (generation, purged_us) => change::first_sequence(generation, purged_us),
    }
}

/// Drops the tombstones of changes below this sequence.
pub(super) fn purge(tombstones: &TableId, floor: &str) -> String {
    format!("DELETE FROM {} WHERE {} < {}", table(tombstones), name(columns::SEQUENCE), text(floor))
}

/// A table all of whose rows are replaced: by those of another, which are in these columns, or by none.
pub(super) struct Swap {
    pub(super) to: TableId,
    pub(super) from: Option<(TableId, Vec<Column>)>,
}

/// Replaces the rows of these tables at once, for every reader.
pub(super) fn switch(swaps: &[Swap]) -> String {
    let mut statements = vec!["BEGIN TRANSACTION".to_owned()];
    for Swap { to, from } in swaps {
        statements.push(format!("DELETE FROM {} WHERE TRUE", table(to)));
        if let Some((from, columns)) = from {
            let columns = names(columns);
            statements.push(format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {}", table(to), table(from)));
        }
    }
    statements.push("COMMIT TRANSACTION".to_owned());
    statements.join("; ")
}

impl Merging<'_> {
    /// The rows of the log that are merged, and no partition beside theirs.
    fn rows(&self) -> String {
        let batches = list(self.merge.batches.iter().map(|batch| text(batch)));
        let (first, last) = self.merge.loaded;
        format!(
            "FROM {} WHERE {} IN ({batches}) AND {} BETWEEN {} AND {}",
            table(self.log),
            name(columns::BATCH),
            name(columns::LOADED_AT),
            timestamp(first),
            timestamp(last)
        )
    }

    /// The latest change of each key among those rows, in these columns.
    fn latest(&self, columns: &str) -> String {
        latest(columns, self.key, &self.rows())
    }

    /// The columns taken from the log as they are: all but those the merge itself gives.
    fn carried(&self) -> impl Iterator<Item = &Column> {
        let given = [columns::LOADED_AT, columns::DELETED];
        self.columns.iter().filter(move |column| !given.iter().any(|own| same(own, &column.name)))
    }

    /// One row: how many rows, how many of them deletes, then of each column least, greatest and how many NULLs.
    ///
    /// Times come as µs, as the API gives TIMESTAMP in floating point. Deletes that are not their key's latest
    /// change count too.
    pub(super) fn bounds(&self, of: &[Column]) -> String {
        let mut out = format!("SELECT COUNT(*) AS `n`, COUNTIF({} = 'D') AS `deletes`", name(columns::OPERATION));
        for (at, column) in of.iter().enumerate() {
            let column_name = name(&column.name);
            let exact = |value: String| match column.column_type {
                ColumnType::Timestamp => format!("UNIX_MICROS({value})"),
                _ => value,
            };
            let (least, greatest) = (exact(format!("MIN({column_name})")), exact(format!("MAX({column_name})")));
            out += &format!(
                ", {least} AS `least_{at}`, {greatest} AS `greatest_{at}`, COUNTIF({column_name} IS NULL) AS `nulls_{at}`"
            );
        }
        format!("{out} {}", self.rows())
    }

    /// Writes the tombstones of keys whose latest change is a delete, each guarded by its sequence.
    pub(super) fn bury(&self, bounds: &[Bound]) -> String {
        let (sequence, operation) = (name(columns::SEQUENCE), name(columns::OPERATION));
        let (loaded_at, now) = (name(columns::LOADED_AT), timestamp(self.merge.attempt.loaded_at));
        let key = names(self.key);
        let latest = self.latest(&format!("{key}, {sequence}, {operation}"));
        let values = list(self.key.iter().map(|column| format!("_s.{}", name(&column.name))));
        format!(
            "MERGE {} AS _t USING (SELECT {key}, {sequence} FROM ({latest}) WHERE {operation} = 'D') AS _s ON {} \
             WHEN MATCHED AND _s.{sequence} > _t.{sequence} THEN UPDATE SET {sequence} = _s.{sequence}, {loaded_at} = {now} \
             WHEN NOT MATCHED THEN INSERT ({key}, {sequence}, {loaded_at}) VALUES ({values}, _s.{sequence}, {now})",
            table(self.tombstones),
            self.matches("_t", bounds.iter().filter(|bound| bound.is_key)),
        )
    }

    /// Merges the latest changes into the final table, each guarded by its sequence and by its key's tombstone.
    pub(super) fn merge(&self, bounds: &[Bound]) -> String {
        let sequence = name(columns::SEQUENCE);
        let newer = format!("_s.{sequence} > _t.{sequence}");
        let is_delete = format!("_s.{} = 'D'", name(columns::OPERATION));
        let (columns, values) = (names(self.columns), list(self.columns.iter().map(|column| self.value(column))));
        let changed = self.columns.iter().filter(|column| columns::find(self.key, &column.name).is_none());
        let set = list(changed.map(|column| format!("{} = {}", name(&column.name), self.value(column))));
        let (delete, kept) = match self.on_delete {
            OnDelete::Remove => (
                format!("WHEN MATCHED AND {newer} AND {is_delete} THEN DELETE "),
                format!(" AND _s.{} != 'D'", name(columns::OPERATION)),
            ),
            OnDelete::Mark => (String::new(), String::new()),
        };
        format!(
            "MERGE {} AS _t USING ({}) AS _s ON {} {delete}WHEN MATCHED AND {newer}{kept} THEN UPDATE SET {set} \
             WHEN NOT MATCHED{kept} THEN INSERT ({columns}) VALUES ({values})",
            table(self.final_table),
            self.surviving(bounds),
            self.matches("_t", bounds),
        )
    }

    /// How many of the keys that are merged the final table has more than one row of.
    pub(super) fn doubled(&self, bounds: &[Bound]) -> String {
        let key = names(self.key);
        let of_final = list(self.key.iter().map(|column| format!("_t.{}", name(&column.name))));
        format!(
            "SELECT COUNT(*) AS `n` FROM (SELECT {of_final} FROM {} AS _t INNER JOIN (SELECT DISTINCT {key} {}) AS _s ON {} \
             GROUP BY {of_final} HAVING COUNT(*) > 1)",
            table(self.final_table),
            self.rows(),
            self.matches("_t", bounds.iter().filter(|bound| bound.is_key)),
        )
    }

    /// The latest changes, without those that their key's tombstone outranks. Deletes stay: a delete finds its
    /// own tombstone, and its row is still to go.
    fn surviving(&self, bounds: &[Bound]) -> String {
        let (sequence, operation) = (name(columns::SEQUENCE), name(columns::OPERATION));
        let latest = self.latest(&format!("{}, {operation}", names(self.carried())));
        match self.on_delete {
            OnDelete::Mark => latest,
            OnDelete::Remove => format!(
                "SELECT _s.* FROM ({latest}) AS _s LEFT JOIN {} AS _d ON {} \
                 WHERE _s.{operation} = 'D' OR _d.{sequence} IS NULL OR _s.{sequence} > _d.{sequence}",
                table(self.tombstones),
                self.matches("_d", bounds.iter().filter(|bound| bound.is_key)),
            ),
        }
    }

    /// Equality of keys, and the bounds that let BigQuery leave out what cannot match.
    fn matches<'b>(&self, alias: &str, bounds: impl IntoIterator<Item = &'b Bound>) -> String {
        let equal = equal(alias, "_s", self.key);
        bounds.into_iter().fold(equal, |on, bound| format!("{on} AND {}", bound.holds(alias)))
    }

    /// What a column of the final table is set to.
    fn value(&self, column: &Column) -> String {
        if same(&column.name, columns::LOADED_AT) {
            timestamp(self.merge.attempt.loaded_at)
        } else if same(&column.name, columns::DELETED) {
            format!("(_s.{} = 'D')", name(columns::OPERATION))
        } else {
            format!("_s.{}", name(&column.name))
        }
    }

    /// The query of the view that shows the final table as it will be when the log's rows from `since` on are
    /// merged: by the same guard, tombstones included.
    pub(super) fn live(&self, since: DateTime<Utc>) -> String {
        let (sequence, operation, loaded_at) =
            (name(columns::SEQUENCE), name(columns::OPERATION), name(columns::LOADED_AT));
        let above = match self.floor {
            "" => String::new(),
            floor => format!(" AND {sequence} >= {}", text(floor)),
        };
        let since = format!("FROM {} WHERE {loaded_at} >= {}{above}", table(self.log), timestamp(since));
        let latest = latest(&format!("{}, {loaded_at}, {operation}", names(self.carried())), self.key, &since);
        let of = |alias: &str| list(self.columns.iter().map(|column| format!("{alias}.{}", name(&column.name))));
        let changed = list(self.columns.iter().map(|column| match same(&column.name, columns::DELETED) {
            true => format!("(_c.{operation} = 'D') AS {}", name(&column.name)),
            false => format!("_c.{}", name(&column.name)),
        }));
        let (final_table, to_final) = (table(self.final_table), equal("_f", "_c", self.key));
        let newer = |than: &str| format!("({than}.{sequence} IS NULL OR _c.{sequence} > {than}.{sequence})");
        let (buried, outlives) = match self.on_delete {
            OnDelete::Mark => (String::new(), String::new()),
            OnDelete::Remove => (
                format!(" LEFT JOIN {} AS _d ON {}", table(self.tombstones), equal("_d", "_c", self.key)),
                format!(" AND {} AND _c.{operation} != 'D'", newer("_d")),
            ),
        };
        format!(
            "WITH _c AS ({latest}) SELECT {} FROM {final_table} AS _f LEFT JOIN _c ON {to_final} \
             WHERE _c.{sequence} IS NULL OR _c.{sequence} <= _f.{sequence} \
             UNION ALL SELECT {changed} FROM _c LEFT JOIN {final_table} AS _f ON {to_final}{buried} WHERE {}{outlives}",
            of("_f"),
            newer("_f"),
        )
    }
}

/// The [`floor`] of a query of [`Merging::live`].
pub(super) fn live_floor(query: &str) -> &str {
    let confined = format!(" AND {} >= '", name(columns::SEQUENCE));
    let rest = query.split_once(&confined).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_once('\'')).map_or("", |(floor, _)| floor)
}

/// The latest change of each key: greatest sequence; where two files repeat one change, either will do, but
/// always the same.
fn latest(columns: &str, key: &[Column], rows: &str) -> String {
    let order = list([columns::SEQUENCE, columns::FILE_ID, columns::BATCH].map(|own| format!("{} DESC", name(own))));
    let key = names(key);
    format!(
        "SELECT {columns} FROM (SELECT {columns}, ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY {order}) AS {RANK} \
         {rows}) WHERE {RANK} = 1"
    )
}

fn equal(one: &str, two: &str, key: &[Column]) -> String {
    let equal = key.iter().map(|column| format!("{one}.{0} = {two}.{0}", name(&column.name)));
    equal.collect::<Vec<_>>().join(" AND ")
}

/// Makes a view, or gives it another query.
pub(super) fn create_view(view: &TableId, description: &str, query: &str) -> String {
    format!("CREATE OR REPLACE VIEW {} OPTIONS (description = {}) AS {query}", table(view), text(description))
}

/// How a table is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// The column by whose day it is partitioned.
    pub(super) partition_by: Option<Column>,
    /// The columns by which it is clustered.
    pub(super) cluster_by: Vec<String>,
}

/// Makes a dataset; shown to people who make theirs themselves.
pub(super) fn create_dataset(project: &str, dataset: &str, location: &str) -> String {
    format!("CREATE SCHEMA {}.{} OPTIONS (location = {})", name(project), name(dataset), text(location))
}

/// Makes a table; shown to people who make theirs themselves.
pub(super) fn create_table(id: &TableId, columns: &[Column], layout: &Layout) -> String {
    let defined = list(columns.iter().map(defined));
    let partition = layout.partition_by.as_ref().map_or(String::new(), |column| match column.column_type {
        ColumnType::Date => format!(" PARTITION BY {}", name(&column.name)),
        _ => format!(" PARTITION BY DATE({})", name(&column.name)),
    });
    let cluster = match layout.cluster_by.as_slice() {
        [] => String::new(),
        by => format!(" CLUSTER BY {}", list(by.iter().map(|by| name(by)))),
    };
    format!("CREATE TABLE {} ({defined}){partition}{cluster}", table(id))
}

/// Gives a table columns; shown to people who do that themselves.
pub(super) fn add_columns(id: &TableId, added: &[Column]) -> String {
    let added = list(added.iter().map(|column| format!("ADD COLUMN {}", defined(column))));
    format!("ALTER TABLE {} {added}", table(id))
}

/// A column and the schema that it is given, as GoogleSQL writes it: `NUMERIC NOT NULL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wider {
    pub(super) name: String,
    pub(super) schema: String,
}

/// Gives columns wider types, all or none. See
/// <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-definition-language#alter_column_set_data_type_statement>.
pub(super) fn widen_columns(id: &TableId, wider: &[Wider]) -> String {
    let altered = wider.iter().map(|to| format!("ALTER COLUMN {} SET DATA TYPE {}", name(&to.name), to.schema));
    format!("ALTER TABLE {} {}", table(id), list(altered))
}

fn defined(column: &Column) -> String {
    format!("{} {}", name(&column.name), column.column_type)
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
