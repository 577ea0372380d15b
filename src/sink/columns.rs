//! Columns as every sink has them: what it adds to rows, how columns are matched by name, united and spelled,
//! and how values are made to fit them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, StructArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::change::types::ColumnType;
use crate::config::OnDelete;
use crate::error::{Error, Result};
use crate::sink::Column;

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

pub(super) use crate::change::types::same_name as same;

/// The column of that name.
pub(super) fn find<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    columns.iter().find(|column| same(&column.name, name))
}

/// The key's columns as the log has them.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where there is no key, or the log lacks one of its columns.
pub(super) fn key_columns(key: &[String], log: &[Column]) -> Result<Vec<Column>> {
    if key.is_empty() {
        return Err(Error::user("mode merge needs a key").hint("name the key columns under `key`"));
    }
    let found = key.iter().map(|name| {
        find(log, name).cloned().ok_or_else(|| {
            Error::user(format!("the key column `{name}` is not among the columns of the rows"))
                .hint("`key` names columns of the SQL's output")
        })
    });
    found.collect()
}

/// The columns of tombstones: a key and the sequence of its delete.
pub(super) fn tombstone_columns(key: &[Column]) -> Vec<Column> {
    let own = [column(SEQUENCE, ColumnType::String), column(LOADED_AT, ColumnType::Timestamp)];
    key.iter().cloned().chain(own).collect()
}

/// The Arrow schema of columns; every column is nullable.
pub(super) fn arrow_schema(columns: &[Column]) -> SchemaRef {
    let fields = columns.iter().map(|column| Field::new(&column.name, column.column_type.to_arrow(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The final table's columns: the log's without the operation and without what only the log keeps.
pub(super) fn final_columns(log: &[Column], on_delete: OnDelete) -> Vec<Column> {
    let left_out = [OPERATION, BATCH, FILE_ID, LOADED_AT];
    let kept = log.iter().filter(|column| !left_out.iter().any(|name| same(name, &column.name)));
    let mut out: Vec<_> = kept.cloned().collect();
    out.push(column(LOADED_AT, ColumnType::Timestamp));
    if on_delete == OnDelete::Mark {
        out.push(column(DELETED, ColumnType::Bool));
    }
    out
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
/// [`User`](crate::error::Kind::User) where the types of a column cannot be united, and what `check` says of a
/// type that the sink does not have.
pub(super) fn unite(
    have: &[Column],
    wanted: &[Column],
    check: impl Fn(&str, &ColumnType) -> Result<()>,
) -> Result<United> {
    let mut out = United { columns: have.to_vec(), added: false, widened: false };
    for new in wanted.iter().filter(|column| column.column_type != ColumnType::Unknown) {
        check(&new.name, &new.column_type)?;
        match out.columns.iter_mut().find(|known| same(&known.name, &new.name)) {
            None => {
                out.columns.push(new.clone());
                out.added = true;
            }
            Some(known) => {
                let both = known.column_type.unite(&new.column_type).ok_or_else(|| clash(known, new))?;
                check(&new.name, &both)?;
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
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{Decimal128Type, Int64Type};

    use super::*;
    use crate::error::Kind;

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
