//! Splits an update that changed its row's key into a delete of the old key and an update of the new one.
//!
//! DMS tells the old key in `BI_` columns; without the split the row of the old key would stay for ever. See
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TableMapping.SelectionTransformation.Transformations.html>
//! (`add-before-image-columns`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{and, interleave, is_not_null, or, take};
use arrow::datatypes::{DataType, Schema};

use crate::catalog::cdc::{ControlColumns, DMS_BEFORE_IMAGE, Source, find_column};
use crate::error::{Error, Result};
use crate::trial::planted::Planted;

/// Which columns hold which before-images in one file.
#[derive(Debug, Clone)]
pub struct SplitRules {
    /// For each key column that has one: its index and that of its before-image.
    keys: Vec<(usize, usize)>,
    /// All key columns, with or without a before-image.
    key_columns: Vec<usize>,
    /// For every column of the file: the index of its before-image.
    before: Vec<Option<usize>>,
    /// Columns that say the same of both halves.
    controls: Vec<usize>,
    operation: usize,
}

/// Rows after splitting.
#[derive(Debug)]
pub struct SplitRows {
    /// The same columns.
    pub batch: RecordBatch,
    /// Each row's number in the file; both halves of an update have the same.
    pub rows: Int64Array,
    /// Which rows are the delete half of an update; None where nothing was split.
    pub deletes: Option<Vec<bool>>,
}

impl SplitRules {
    /// The rules for files of this schema; None where no update can be split: no key is known, the file has
    /// no `Op`, or no key column has a before-image.
    pub fn find(schema: &Schema, key: &[String], controls: &ControlColumns) -> Option<Self> {
        let operation = controls.operation?;
        let image_of = |index: usize| {
            let name = format!("{DMS_BEFORE_IMAGE}{}", schema.field(index).name());
            find_column(schema, &name)
        };
        let key_columns: Vec<usize> = key.iter().filter_map(|name| find_column(schema, name)).collect();
        let keys: Vec<(usize, usize)> =
            key_columns.iter().filter_map(|index| Some((*index, image_of(*index)?))).collect();
        if keys.is_empty() || Planted::KeyUpdateWhole.is_there() {
            return None;
        }
        let before = (0..schema.fields().len()).map(image_of).collect();
        Some(Self { keys, key_columns, before, controls: controls.indices().collect(), operation })
    }

    /// Every column that must be read so that `wanted` can be split.
    pub fn needed(&self, wanted: &[usize]) -> Vec<usize> {
        let images = wanted.iter().filter_map(|index| self.before.get(*index).copied().flatten());
        let keys = self.keys.iter().flat_map(|(key, image)| [*key, *image]);
        images.chain(keys).chain([self.operation]).collect()
    }

    /// Splits the updates among these rows.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where a before-image is not of its column's type.
    pub fn split(&self, batch: RecordBatch, indices: &[usize], rows: Int64Array) -> Result<SplitRows> {
        let source = Source { batch: &batch, indices };
        let moved = self.moved(&source)?;
        if moved.true_count() == 0 {
            return Ok(SplitRows { batch, rows, deletes: None });
        }
        let mut picks = Vec::with_capacity(batch.num_rows() + moved.true_count());
        for index in 0..batch.num_rows() {
            if moved.value(index) {
                picks.push((1, index)); // the delete of the old key comes first
            }
            picks.push((0, index));
        }
        let columns = indices
            .iter()
            .zip(batch.columns())
            .map(|(index, column)| self.split_column(&source, *index, column, &picks))
            .collect::<Result<Vec<_>>>()?;
        let positions: Int64Array = picks.iter().map(|(_, index)| i64::try_from(*index).ok()).collect();
        let rows = take(&rows, &positions, None).map_err(arrow_bug)?;
        let rows = rows.as_primitive_opt().cloned().ok_or_else(|| Error::bug("row numbers are not Int64"))?;
        let split = RecordBatch::try_new(batch.schema(), columns).map_err(arrow_bug)?;
        Ok(SplitRows { batch: split, rows, deletes: Some(picks.iter().map(|(half, _)| *half == 1).collect()) })
    }

    /// Which rows are updates whose key was another before.
    fn moved(&self, source: &Source<'_>) -> Result<BooleanArray> {
        let mut moved = BooleanArray::from(vec![false; source.batch.num_rows()]);
        for (key, image) in &self.keys {
            let (Some(key), Some(image)) = (source.column(*key), source.column(*image)) else { continue };
            let image = of_type(image, key.data_type())?;
            let differs = distinct(key, &image).and_then(|differs| and(&differs, &is_not_null(&image)?));
            moved = differs.and_then(|differs| or(&moved, &differs)).map_err(arrow_bug)?;
        }
        let updates = self.updates(source)?;
        and(&moved, &updates).map_err(arrow_bug)
    }

    fn updates(&self, source: &Source<'_>) -> Result<BooleanArray> {
        let Some(operation) = source.column(self.operation) else {
            return Err(Error::bug("Op was not read although updates may be split"));
        };
        let text = of_type(operation, &DataType::Utf8)?;
        let text = text.as_string::<i32>();
        Ok((0..text.len()).map(|index| Some(text.is_valid(index) && text.value(index) == "U")).collect())
    }

    fn split_column(
        &self,
        source: &Source<'_>,
        index: usize,
        column: &ArrayRef,
        picks: &[(usize, usize)],
    ) -> Result<ArrayRef> {
        let old = match self.before.get(index).copied().flatten().and_then(|image| source.column(image)) {
            Some(image) => {
                let image = of_type(image, column.data_type())?;
                // A key column whose before-image is NULL did not change.
                if self.key_columns.contains(&index) { or_else(&image, column)? } else { image }
            }
            None if self.controls.contains(&index) || self.key_columns.contains(&index) => Arc::clone(column),
            // What the row held before is not known.
            None => new_null_array(column.data_type(), column.len()),
        };
        interleave(&[column.as_ref(), old.as_ref()], picks).map_err(arrow_bug)
    }
}

/// The first array's values, and where they are NULL the second's.
fn or_else(first: &ArrayRef, second: &ArrayRef) -> Result<ArrayRef> {
    let known = is_not_null(first).map_err(arrow_bug)?;
    zip(&known, first, second).map_err(arrow_bug)
}

fn of_type(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
    arrow::compute::cast_with_options(array, data_type, &options)
        .map_err(|cause| Error::data(format!("a before-image is not of type {data_type}")).because(cause))
}

fn arrow_bug(cause: arrow::error::ArrowError) -> Error {
    Error::bug("a key update cannot be split").because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;
    use arrow::datatypes::Field;

    fn batch(rows: &[(&str, i64, &str, Option<i64>)]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("Op", DataType::Utf8, true),
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("BI_id", DataType::Int64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.3))),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn split(rows: &[(&str, i64, &str, Option<i64>)]) -> SplitRows {
        let batch = batch(rows);
        let controls = ControlColumns { operation: Some(0), ..ControlColumns::default() };
        let rules = SplitRules::find(&batch.schema(), &["ID".to_owned()], &controls).unwrap();
        let numbers = Int64Array::from_iter_values(10..10 + rows.len() as i64);
        rules.split(batch, &[0, 1, 2, 3], numbers).unwrap()
    }

    #[test]
    fn an_update_of_the_key_becomes_a_delete_of_the_old_and_an_update_of_the_new() {
        let got = split(&[("U", 2, "b", Some(1)), ("U", 3, "c", Some(3)), ("I", 4, "d", None)]);
        assert_eq!(got.deletes.unwrap(), [true, false, false, false]);
        let ids: Vec<_> = got.batch.column(1).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        assert_eq!(ids, [1, 2, 3, 4]);
        assert_eq!(got.rows.values(), &[10, 10, 11, 12]);
        let names: Vec<_> = got.batch.column(2).as_string::<i32>().iter().collect();
        assert_eq!(names, [None, Some("b"), Some("c"), Some("d")], "what `name` was before is not known");
    }

    #[test]
    fn deletes_and_unchanged_keys_are_not_split() {
        let got = split(&[("D", 2, "b", Some(1)), ("U", 3, "c", Some(3)), ("U", 4, "d", None)]);
        assert!(got.deletes.is_none());
        assert_eq!(got.batch.num_rows(), 3);
    }

    #[test]
    fn a_key_column_without_a_before_image_keeps_its_value() {
        let batch = batch(&[("U", 2, "b", Some(1))]);
        let controls = ControlColumns { operation: Some(0), ..ControlColumns::default() };
        let rules = SplitRules::find(&batch.schema(), &["id".to_owned(), "name".to_owned()], &controls).unwrap();
        let got = rules.split(batch, &[0, 1, 2, 3], Int64Array::from(vec![0])).unwrap();
        let names: Vec<_> = got.batch.column(2).as_string::<i32>().iter().collect();
        assert_eq!(names, [Some("b"), Some("b")]);
    }

    #[test]
    fn without_a_key_nothing_is_split() {
        let schema = batch(&[]).schema();
        let controls = ControlColumns { operation: Some(0), ..ControlColumns::default() };
        assert!(SplitRules::find(&schema, &[], &controls).is_none());
        assert!(SplitRules::find(&schema, &["name".to_owned()], &controls).is_none());
    }
}
