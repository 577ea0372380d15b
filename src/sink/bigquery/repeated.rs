//! Lists as BigQuery's REPEATED columns take them: never NULL, but empty; and no NULL among their items.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#array_nulls>.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::take;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::error::{Error, Result};

/// The rows with an empty list wherever a list was NULL, also inside structs.
///
/// # Errors
/// [`Data`](crate::error::Kind::Data) where a list has a NULL item.
pub(super) fn without_null_lists(batch: &RecordBatch) -> Result<RecordBatch> {
    if !batch.columns().iter().any(|column| has_lists(column.data_type())) {
        return Ok(batch.clone());
    }
    let named = batch.schema_ref().fields().iter().zip(batch.columns());
    let columns = named.map(|(field, column)| clean(column, field.name())).collect::<Result<_>>()?;
    RecordBatch::try_new(batch.schema(), columns).map_err(broken)
}

fn has_lists(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(_) => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_lists(field.data_type())),
        _ => false,
    }
}

fn clean(array: &ArrayRef, column: &str) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::List(_) => clean_list(array.as_list(), column),
        DataType::Struct(_) if has_lists(array.data_type()) => {
            let (fields, children, nulls) = array.as_struct().clone().into_parts();
            let children = children.iter().map(|child| clean(child, column)).collect::<Result<_>>()?;
            Ok(Arc::new(StructArray::try_new(fields, children, nulls).map_err(broken)?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

/// Gathers the items of the lists that are not NULL.
fn clean_list(list: &ListArray, column: &str) -> Result<ArrayRef> {
    let DataType::List(item) = list.data_type() else { return Err(Error::bug("a list is no list")) };
    let mut lengths = Vec::with_capacity(list.len());
    let mut items: Vec<u64> = Vec::new();
    for row in 0..list.len() {
        if list.is_null(row) {
            lengths.push(0);
            continue;
        }
        let (from, length) = (list.value_offsets()[row], list.value_length(row));
        items.extend((i64::from(from)..i64::from(from) + i64::from(length)).filter_map(|at| u64::try_from(at).ok()));
        lengths.push(usize::try_from(length).unwrap_or(0));
    }
    let values = take(list.values(), &UInt64Array::from(items), None).map_err(broken)?;
    if values.null_count() > 0 {
        return Err(Error::data(format!(
            "an array in column `{column}` has a NULL item, which BigQuery does not take"
        ))
        .hint("leave NULLs out of the array in the table's SQL"));
    }
    let offsets = OffsetBuffer::from_lengths(lengths);
    let cleaned = ListArray::try_new(Arc::clone(item), offsets, clean(&values, column)?, None);
    Ok(Arc::new(cleaned.map_err(broken)?))
}

fn broken(cause: ArrowError) -> Error {
    Error::bug("a list cannot be rebuilt").because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListBuilder, StringBuilder};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{Field, Int64Type, Schema};

    fn batch(column: ArrayRef) -> RecordBatch {
        let field = Field::new("tags", column.data_type().clone(), true);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
    }

    #[test]
    fn a_null_list_becomes_an_empty_one_and_its_hidden_items_vanish() {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let offsets = OffsetBuffer::from_lengths([1, 2, 1]);
        let nulls = NullBuffer::from(vec![true, false, true]);
        let list = ListArray::try_new(item, offsets, values, Some(nulls)).unwrap();
        let cleaned = without_null_lists(&batch(Arc::new(list))).unwrap();
        let cleaned = cleaned.column(0).as_list::<i32>();
        assert_eq!((cleaned.null_count(), cleaned.value_length(1)), (0, 0));
        assert_eq!(cleaned.values().as_primitive::<Int64Type>().values().to_vec(), [1, 4]);
    }

    #[test]
    fn a_null_list_inside_a_struct_becomes_empty_and_a_null_struct_stays_null() {
        let mut builder = ListBuilder::new(StringBuilder::new());
        builder.append_null();
        builder.append_value([Some("a")]);
        let list: ArrayRef = Arc::new(builder.finish());
        let field = Arc::new(Field::new("tags", list.data_type().clone(), true));
        let nulls = NullBuffer::from(vec![true, false]);
        let array = StructArray::try_new(vec![field].into(), vec![list], Some(nulls)).unwrap();
        let cleaned = without_null_lists(&batch(Arc::new(array))).unwrap();
        let cleaned = cleaned.column(0).as_struct();
        assert!(cleaned.is_null(1));
        assert_eq!(cleaned.column(0).null_count(), 0);
    }

    #[test]
    fn a_null_among_the_items_is_a_data_error_that_names_the_column() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])]);
        let error = without_null_lists(&batch(Arc::new(list))).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Data);
        assert!(error.message().contains("`tags`"), "{error}");
    }
}
