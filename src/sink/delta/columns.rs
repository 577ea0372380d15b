//! The columns of a target: how they are matched, united and spelled, and how rows are made to fit them.
//!
//! Delta's types: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#primitive-types>.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, StructArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake::DeltaTable;
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};

use crate::error::{Error, Result};
use crate::sink::Column;
use crate::types::ColumnType;

/// The attempt that wrote the row.
pub(super) const BATCH: &str = "_cdc_batch";
/// When that attempt's id was chosen.
pub(super) const LOADED_AT: &str = "_cdc_loaded_at";
/// The change file the row came from.
pub(super) const FILE_ID: &str = "_cdc_file_id";
/// Under `mark`, whether the row was deleted.
pub(super) const DELETED: &str = "_cdc_deleted";
/// `I`, `U` or `D`.
pub(super) const OPERATION: &str = "_cdc_operation";
/// The order of changes, comparable as text.
pub(super) const SEQUENCE: &str = "_cdc_sequence";

/// A column.
pub(super) fn column(name: &str, column_type: ColumnType) -> Column {
    Column { name: name.to_owned(), column_type }
}

/// The columns that the sink adds to every row of a change log.
pub(super) fn added_to_changes() -> [Column; 3] {
    [column(BATCH, ColumnType::String), column(LOADED_AT, ColumnType::Timestamp), column(FILE_ID, ColumnType::Bytes)]
}

pub(super) use crate::types::same_name as same;

/// The column of that name.
pub(super) fn find<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    columns.iter().find(|column| same(&column.name, name))
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

/// The Arrow schema of columns; every column is nullable.
pub(super) fn arrow_schema(columns: &[Column]) -> SchemaRef {
    let fields = columns.iter().map(|column| Field::new(&column.name, column.column_type.to_arrow(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The Delta schema of columns.
pub(super) fn delta_schema(columns: &[Column]) -> Result<StructType> {
    let schema = arrow_schema(columns);
    schema.as_ref().try_into_kernel().map_err(|cause| {
        let names: Vec<_> = columns.iter().map(|column| format!("`{}`", column.name)).collect();
        Error::user(format!("Delta Lake takes no table with the columns {}", names.join(", "))).because(cause)
    })
}

/// The columns of a table after wanted ones came to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct United {
    /// All of them: those it has in their order, then the new ones.
    pub(super) columns: Vec<Column>,
    /// Whether some are new.
    pub(super) added: bool,
    /// Whether some have a wider type than before, so that the rows must be written anew.
    pub(super) widened: bool,
}

/// Unites the columns a table has with those that are wanted. Columns of unknown type are left out.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where the types of a column cannot be united, or Delta has no such type.
pub(super) fn unite(have: &[Column], wanted: &[Column]) -> Result<United> {
    let mut out = United { columns: have.to_vec(), added: false, widened: false };
    for new in wanted.iter().filter(|column| column.column_type != ColumnType::Unknown) {
        check_type(&new.name, &new.column_type)?;
        match out.columns.iter_mut().find(|known| same(&known.name, &new.name)) {
            None => {
                out.columns.push(new.clone());
                out.added = true;
            }
            Some(known) => {
                let both = known.column_type.unite(&new.column_type).ok_or_else(|| clash(known, new))?;
                check_type(&new.name, &both)?;
                out.widened |= both != known.column_type;
                known.column_type = both;
            }
        }
    }
    Ok(out)
}

fn clash(known: &Column, new: &Column) -> Error {
    let (old, now) = (&known.column_type, &new.column_type);
    Error::user(format!("column `{}` is {old} at the target, but these rows have {now}", known.name))
        .hint(format!("CAST `{}` in the table's SQL, for example to VARCHAR, or let it go to a new column", new.name))
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

/// Makes an array fit a column type without loss; struct fields are matched by name, missing ones are NULL.
///
/// # Errors
/// [`Data`](crate::error::Kind::Data) where a value does not fit.
pub(super) fn fit(array: &ArrayRef, column_type: &ColumnType) -> Result<ArrayRef> {
    let to = column_type.to_arrow();
    match (column_type, array.data_type(), &to) {
        (_, from, _) if *from == to => Ok(Arc::clone(array)),
        (_, DataType::Null, _) => Ok(new_null_array(&to, array.len())),
        (ColumnType::Array(item), DataType::List(_), DataType::List(field)) => {
            let list = downcast::<ListArray>(array)?;
            let values = fit(list.values(), item)?;
            let fitted = ListArray::try_new(Arc::clone(field), list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(fitted.map_err(|cause| Error::bug("a list cannot be rebuilt").because(cause))?))
        }
        (ColumnType::Struct(wanted), DataType::Struct(_), DataType::Struct(fields)) => {
            let have = downcast::<StructArray>(array)?;
            let children = wanted.iter().map(|(name, field)| fit_field(have, name, field)).collect::<Result<_>>()?;
            let fitted = StructArray::try_new(fields.clone(), children, have.nulls().cloned());
            Ok(Arc::new(fitted.map_err(|cause| Error::bug("a struct cannot be rebuilt").because(cause))?))
        }
        _ => column_type.cast(array),
    }
}

fn fit_field(have: &StructArray, name: &str, field: &ColumnType) -> Result<ArrayRef> {
    match have.fields().iter().position(|known| same(known.name(), name)) {
        Some(at) => fit(have.column(at), field),
        None => Ok(new_null_array(&field.to_arrow(), have.len())),
    }
}

fn downcast<T: 'static>(array: &ArrayRef) -> Result<&T> {
    array.as_any().downcast_ref().ok_or_else(|| Error::bug(format!("{} is not what it says", array.data_type())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{Decimal128Type, Int64Type};

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

    #[test]
    fn nested_values_are_widened_and_missing_fields_are_null() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
        let have: ArrayRef = Arc::new(StructArray::new(
            vec![Field::new("id", DataType::Int64, true)].into(),
            vec![ids],
            Some(NullBuffer::from(vec![true, false])),
        ));
        let wanted = ColumnType::Struct(vec![("x".into(), ColumnType::String), ("ID".into(), ColumnType::Numeric)]);
        let fitted = fit(&have, &wanted).unwrap();
        let fitted = fitted.as_struct();
        assert_eq!(fitted.column(0).null_count(), 2);
        assert_eq!(fitted.column(1).as_primitive::<Decimal128Type>().value(0), 7_000_000_000);
        assert!(fitted.is_null(1));

        let list: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None]));
        let fitted = fit(&list, &ColumnType::Array(Box::new(ColumnType::Numeric))).unwrap();
        assert_eq!(fitted.as_list::<i32>().value(0).as_primitive::<Decimal128Type>().value(0), 1_000_000_000);
        assert!(fitted.is_null(1));
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error_not_a_null() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        assert_eq!(fit(&text, &ColumnType::Int64).unwrap_err().kind(), Kind::Data);
    }
}
