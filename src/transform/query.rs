//! Which SQL a table gets: its own file, the one its name shares with other databases, or the standard.

use std::path::{Path, PathBuf};

use arrow::datatypes::Schema;

use crate::catalog::cdc;
use crate::change::TableName;
use crate::change::types::same_name;
use crate::config::{Config, TableConfig};
use crate::error::{Error, Result};
use crate::transform::names::quoted;

/// No SQL file is longer than this.
const SQL_BYTES_MAX: u64 = 1 << 20;

/// The text of a transform and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryText {
    /// The file's path.
    pub path: PathBuf,
    /// What it says.
    pub sql: String,
}

/// The table's SQL file: `query:` if set, else `<database>/<table>.sql`, else `_all/<table>.sql`. None: the
/// standard transform.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where a file that was named is missing or one cannot be read.
pub fn find(config: &Config, table: &TableName, table_config: &TableConfig) -> Result<Option<QueryText>> {
    if let Some(path) = &table_config.query {
        return read(path).map(Some).map_err(|error| error.in_table(table));
    }
    let file = format!("{}.sql", table.table);
    for database in [table.database.as_str(), "_all"] {
        let path = config.queries.join(database).join(&file);
        if is_plain(database) && is_plain(&file) && path.is_file() {
            return read(&path).map(Some).map_err(|error| error.in_table(table));
        }
    }
    Ok(None)
}

/// Only plain names are looked for: a table called `../x` has no file.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.')
}

fn read(path: &Path) -> Result<QueryText> {
    let unreadable = |cause: std::io::Error| {
        Error::user("the SQL file cannot be read")
            .in_query(path.display())
            .because(cause)
            .hint("check its path and permissions")
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > SQL_BYTES_MAX {
        return Err(Error::user(format!("the SQL file has {size} bytes; at most {SQL_BYTES_MAX} are read"))
            .in_query(path.display()));
    }
    let sql = std::fs::read_to_string(path).map_err(unreadable)?;
    // Editors on Windows begin a file with a byte order mark.
    let sql = sql.trim_start_matches('\u{feff}').to_owned();
    Ok(QueryText { path: path.to_owned(), sql })
}

/// The standard transform of files of one schema: every column but those that DMS adds, and what the merge
/// needs to know of each change.
pub fn standard(table: &TableName, file: &Schema, visible: &Schema, timestamp_column: Option<&str>) -> String {
    let own = visible.fields().iter().map(|field| field.name().as_str());
    let kept = own.filter(|name| !name.starts_with("_cdc_") && !added_by_dms(name, file, timestamp_column));
    let columns: Vec<String> =
        kept.map(quoted).chain([cdc::OPERATION, cdc::TIMESTAMP, cdc::SEQUENCE].map(str::to_owned)).collect();
    format!("SELECT {}\nFROM {}.{}", columns.join(",\n       "), quoted(&table.database), quoted(&table.table))
}

fn added_by_dms(name: &str, file: &Schema, timestamp_column: Option<&str>) -> bool {
    let before_image =
        || name.strip_prefix(cdc::DMS_BEFORE_IMAGE).is_some_and(|column| cdc::find_column(file, column).is_some());
    name == cdc::DMS_OPERATION
        || same_name(name, cdc::DMS_CHANGE_SEQ)
        || timestamp_column.is_some_and(|column| same_name(column, name))
        || before_image()
}
