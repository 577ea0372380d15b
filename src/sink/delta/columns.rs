//! The columns of a Delta table, and which types it has.
//!
//! Delta's types: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#primitive-types>.

use arrow::datatypes::Schema;
use deltalake::DeltaTable;
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};

use crate::change::types::ColumnType;
use crate::error::{Error, Result};
use crate::sink::Column;

pub(super) use crate::sink::columns::{
    BATCH, DELETED, FILE_ID, LOADED_AT, OPERATION, SEQUENCE, United, added_to_changes, arrow_schema, column,
    final_columns, find, fit, key_columns, same, tombstone_columns,
};

/// Unites the columns a table has with those that are wanted, see [`columns::unite`](crate::sink::columns).
pub(super) fn unite(have: &[Column], wanted: &[Column]) -> Result<United> {
    crate::sink::columns::unite(have, wanted, check_type)
}

/// The columns of a table as it stands in the snapshot read.
pub(super) fn of_table(table: &DeltaTable) -> Result<Vec<Column>> {
    let snapshot =
        table.snapshot().map_err(|cause| Error::bug("a Delta table was used before it was read").because(cause))?;
    of_arrow(&snapshot.snapshot().arrow_schema())
}

/// The columns of a Delta schema.
pub(super) fn of_schema(schema: &StructType) -> Result<Vec<Column>> {
    let schema: Schema =
        schema.try_into_arrow().map_err(|cause| Error::bug("a Delta schema is none of Arrow's").because(cause))?;
    of_arrow(&schema)
}

fn of_arrow(schema: &Schema) -> Result<Vec<Column>> {
    schema.fields().iter().map(|field| Ok(column(field.name(), ColumnType::from_arrow(field.data_type())?))).collect()
}

/// The Delta schema of columns.
pub(super) fn delta_schema(columns: &[Column]) -> Result<StructType> {
    let schema = arrow_schema(columns);
    schema.as_ref().try_into_kernel().map_err(|cause| {
        let names: Vec<_> = columns.iter().map(|column| format!("`{}`", column.name)).collect();
        Error::user(format!("Delta Lake takes no table with the columns {}", names.join(", "))).because(cause)
    })
}

/// Refuses types that Delta does not have: its decimals end at 38 digits, and it has no time of day.
fn check_type(name: &str, column_type: &ColumnType) -> Result<()> {
    let hint = match column_type {
        ColumnType::BigNumeric => format!("CAST `{name}` in the table's SQL to DECIMAL(38, 9), or to VARCHAR"),
        ColumnType::Time => format!("CAST `{name}` in the table's SQL to VARCHAR"),
        ColumnType::Unknown => format!("CAST the elements of `{name}` in the table's SQL to their type"),
        ColumnType::Array(item) => return check_type(name, item),
        ColumnType::Struct(fields) => return fields.iter().try_for_each(|(_, field)| check_type(name, field)),
        _ => return Ok(()),
    };
    Err(Error::user(format!("column `{name}` is {column_type}, a type that Delta Lake does not have")).hint(hint))
}

/// Of the named columns those whose bounds Delta's statistics hold exactly, for `delta.dataSkippingStatsColumns`.
///
/// Decimals go through floating point there and timestamps are cut to ms, so that a file could be skipped that
/// holds the row; names that would need quoting are left out as well.
pub(super) fn exactly_bounded<'a>(columns: &'a [Column], names: &[String]) -> Vec<&'a str> {
    let exact = |column: &&Column| {
        matches!(column.column_type, ColumnType::Int64 | ColumnType::String | ColumnType::Date)
            && column.name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && column.name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    names.iter().filter_map(|name| find(columns, name)).filter(exact).map(|column| column.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn names_match_without_case_and_the_targets_spelling_stays() {
        let have = [column("userId", ColumnType::Int64)];
        let united = unite(&have, &[column("USERID", ColumnType::Int64), column("note", ColumnType::Unknown)]).unwrap();
        assert_eq!(united, United { columns: have.to_vec(), added: false, widened: false });
        let united = unite(&have, &[column("userid", ColumnType::Numeric), column("b", ColumnType::Bool)]).unwrap();
        assert_eq!(united.columns, [column("userId", ColumnType::Numeric), column("b", ColumnType::Bool)]);
        assert!(united.added && united.widened);
    }

    #[test]
    fn what_cannot_be_united_or_kept_is_refused_with_a_hint() {
        let text = [column("a", ColumnType::String)];
        let error = unite(&text, &[column("A", ColumnType::Int64)]).unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains("STRING") && error.message().contains("INT64"), "{error}");
        let nested = ColumnType::Array(Box::new(ColumnType::Time));
        for refused in [ColumnType::BigNumeric, ColumnType::Time, nested] {
            let error = unite(&[], &[column("a", refused)]).unwrap_err();
            assert!(error.hint_text().unwrap().contains("CAST"), "{error:?}");
        }
    }

    #[test]
    fn only_bounds_that_statistics_hold_exactly_are_kept() {
        let columns = [
            column("id", ColumnType::Int64),
            column("amount", ColumnType::Numeric),
            column("at", ColumnType::Timestamp),
            column("a b", ColumnType::String),
        ];
        let names: Vec<String> = ["ID", "amount", "at", "a b"].map(String::from).to_vec();
        assert_eq!(exactly_bounded(&columns, &names), ["id"]);
    }
}
