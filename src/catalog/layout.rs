//! What a change file's path tells: its table, whether it is of the load, its format and its time.

use crate::change::{FileFormat, FileKind, TableName};
use crate::error::{Error, Result};

mod known;
mod pattern;
#[cfg(test)]
mod tests;

use pattern::Pattern;

/// How change files are named. Without configuration these are known, below any number of folders:
///
/// | files | path |
/// |---|---|
/// | DMS's full load | `schema/table/LOAD00000001.parquet`, `…/SEGMENT1_LOAD00000001.csv.gz` |
/// | DMS's changes | `schema/table/20221024-175902985.parquet`, or with ten digits after the dash |
/// | changes renamed by time | `database/table/20230315143022_table.parquet.gz` |
///
/// Folders of a date may stand between table and file: year, month, day and hour, year and month, or the orders
/// month-year-day and day-month-year, divided by `/`, `-`, `_` or nothing. The extension is `.parquet` or `.csv`, with
/// `.gz` where the whole file is gzipped. Folders of partitions, as parallel loads have them, cannot be told from
/// tables: they need a pattern. All times are UTC. See
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.S3.html>.
///
/// A pattern tells of others: `{database}/{table}/{time:%Y%m%d%H%M%S}_{*}.parquet`. It fits the whole path below the
/// source's location, of which
///
/// | placeholder | takes |
/// |---|---|
/// | `{database}`, `{table}` | the names: one or more characters but `/`; both are required |
/// | `{time:FORMAT}` | the file's time, in the format of chrono's `strftime`; without it, the time it was last modified counts |
/// | `{kind}` | `load` or `cdc`; without it, a name with `LOAD` as DMS writes it is of the load, every other holds changes |
/// | `{*}` | any characters but `/`, or none |
/// | `{**}` | any characters, or none; at the start of a folder's name, `{**}/` takes any folders, or none |
///
/// A path that a pattern fits in two ways which name different tables, times or kinds is refused.
#[derive(Debug, Clone)]
pub struct Layout {
    pattern: Option<Pattern>,
}

/// What a path turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recognised {
    /// A change file.
    Change(Named),
    /// No change file, and not meant to be one: a folder marker, a hidden, temporary or checksum file.
    Ignored,
}

/// What a change file's path tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The table, spelled as in the path.
    pub table: TableName,
    /// Load or changes.
    pub kind: FileKind,
    /// How its bytes are laid out.
    pub format: FileFormat,
    /// Whether the whole file is gzipped.
    pub gzip: bool,
    /// The time in its name, in ms since 1970; None where it has none, as in files of the load.
    pub time_ms: Option<i64>,
}

impl Layout {
    /// The layouts known without configuration.
    pub fn known() -> Self {
        Self { pattern: None }
    }

    /// The layout of a pattern; paths it does not fit may still be of a known layout.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the pattern has an unknown placeholder, lacks `{database}` or
    /// `{table}`, or its time format does not tell a day.
    pub fn pattern(text: &str) -> Result<Self> {
        Ok(Self { pattern: Some(Pattern::parse(text)?) })
    }

    /// What the file at `path` is: relative to the source's location, divided by `/`, percent-decoded.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data), naming the path, where no layout fits.
    pub fn recognise(&self, path: &str) -> Result<Recognised> {
        let name = path.rsplit('/').next().unwrap_or_default();
        if is_ignored(path, name) {
            return Ok(Recognised::Ignored);
        }
        if name.starts_with("CDC_TXN-") {
            return Err(Error::data(format!("`{path}` holds whole transactions (CDC_TXN), which cannot be read yet"))
                .hint("turn off PreserveTransactions in the DMS endpoint, so that it writes a file per table"));
        }
        let (stem, format, gzip) = split_extension(name).ok_or_else(|| {
            Error::data(format!("`{path}` is neither .parquet nor .csv, nor one of them with .gz"))
                .hint("move files that hold no changes out of the source's folder, or begin their names with `_`")
        })?;
        let fits = match &self.pattern {
            Some(pattern) => pattern.fit(path, is_load(stem))?,
            None => None,
        };
        match fits.or_else(|| known::fit(path, stem)) {
            Some((table, kind, time_ms)) => Ok(Recognised::Change(Named { table, kind, format, gzip, time_ms })),
            None => Err(self.unknown(path)),
        }
    }

    fn unknown(&self, path: &str) -> Error {
        let (what, own) = match &self.pattern {
            Some(pattern) => ("neither `layout` nor any known layout", format!("`layout` is `{pattern}`; ")),
            None => ("no known layout", "write `layout: {database}/{table}/…` under `source`; ".to_owned()),
        };
        Error::data(format!("the path `{path}` fits {what}")).hint(format!(
            "{own}known are database/table/LOAD00000001.parquet, database/table/20221024-175902985.parquet and \
             database/table/20230315143022_table.parquet.gz, with folders of the date before the name; the source's \
             location must be above the database's folder"
        ))
    }
}

/// Files that writers leave beside data: markers, checksums, files not yet complete.
fn is_ignored(path: &str, name: &str) -> bool {
    const FOLDERS: [&str; 3] = ["_delta_log", "_freshet_ledger", "_temporary"];
    let lower = name.to_ascii_lowercase();
    name.is_empty()
        || name.starts_with(['_', '.'])
        || [".crc", ".tmp", "_$folder$"].iter().any(|end| lower.ends_with(end))
        || path.split('/').any(|folder| FOLDERS.contains(&folder) || (folder.starts_with('.') && folder.len() > 1))
}

/// A name without its extensions, and what they say.
fn split_extension(name: &str) -> Option<(&str, FileFormat, bool)> {
    let (name, gzip) = match strip_end(name, ".gz") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (stem, format) = match strip_end(name, ".parquet") {
        Some(stem) => (stem, FileFormat::Parquet),
        None => (strip_end(name, ".csv")?, FileFormat::Csv),
    };
    Some((stem, format, gzip))
}

fn strip_end<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    let (stem, found) = name.split_at_checked(name.len().checked_sub(end.len())?)?;
    found.eq_ignore_ascii_case(end).then_some(stem)
}

/// Whether DMS names a file of the full load so: `LOAD` and a hexadecimal counter, perhaps after `SEGMENT<n>_`.
fn is_load(stem: &str) -> bool {
    let name = match stem.strip_prefix("SEGMENT").and_then(|rest| rest.split_once('_')) {
        Some((number, name)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => stem,
    };
    name.strip_prefix("LOAD")
        .is_some_and(|counter| (8..=16).contains(&counter.len()) && counter.bytes().all(|b| b.is_ascii_hexdigit()))
}
