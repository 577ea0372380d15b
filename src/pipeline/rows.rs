//! The outputs of all groups of a batch's files, united: one set of columns, checked keys, known files.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};

use crate::catalog::casts;
use crate::catalog::cdc::{HIDDEN_FILE_ID, HIDDEN_ROW, hidden_rows, row_number};
use crate::catalog::opened::OpenedFile;
use crate::change::batch::Column;
use crate::change::types::{ColumnType, same_name};
use crate::change::{FileId, TableName};
use crate::error::{Error, Result};
use crate::sink::Rows;
use crate::transform::place;
use crate::transform::planned::Planned;

/// Files of one schema and the transform planned for it.
pub struct Group {
    /// The transform.
    pub planned: Arc<Planned>,
    /// The files.
    pub files: Vec<Arc<OpenedFile>>,
}

/// The rows of all groups, in columns united by the lattice of lossless widenings.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where outputs of the groups cannot be united.
pub async fn unite(session: &SessionContext, table: &TableName, groups: Vec<Group>) -> Result<Rows> {
    let mut columns: Vec<Column> = Vec::new();
    let mut plans = Vec::new();
    let mut files = HashMap::new();
    let mut key = Vec::new();
    for group in groups {
        files.extend(group.files.iter().map(|file| (file.file.id(), file.file.location.clone())));
        key.clone_from(&group.planned.settled.key);
        let logical = group.planned.bind(group.files)?;
        let physical = session.state().create_physical_plan(&logical).await.map_err(|cause| {
            place::planning_error(cause, &group.planned.sql, &group.planned.outputs).in_table(table)
        })?;
        add_columns(&mut columns, &physical.schema(), table)?;
        plans.push(physical);
    }
    let conform = Arc::new(Conform { table: table.clone(), schema: schema_of(&columns), columns, key, files });
    let stream = run(session, plans, Arc::clone(&conform));
    Ok(Rows { columns: conform.columns.clone(), stream })
}

fn run(
    session: &SessionContext,
    plans: Vec<Arc<dyn ExecutionPlan>>,
    conform: Arc<Conform>,
) -> SendableRecordBatchStream {
    let task = session.task_ctx();
    let schema = Arc::clone(&conform.schema);
    let rows = futures::stream::iter(plans)
        .map(move |plan| execute_stream(plan, Arc::clone(&task)))
        .try_flatten()
        .map(move |batch| Ok(conform.batch(&batch?)?));
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// Unites the columns known so far with those of one more group.
fn add_columns(columns: &mut Vec<Column>, schema: &Schema, table: &TableName) -> Result<()> {
    for field in schema.fields() {
        if [HIDDEN_FILE_ID, HIDDEN_ROW].contains(&field.name().as_str()) {
            continue;
        }
        let column_type = ColumnType::from_arrow(field.data_type())
            .map_err(|error| error.in_table(table).in_query(format!("output column `{}`", field.name())))?;
        match columns.iter_mut().find(|column| same_name(&column.name, field.name())) {
            None => columns.push(Column { name: field.name().clone(), column_type }),
            Some(known) => known.column_type = united(known, &column_type, table)?,
        }
    }
    Ok(())
}

fn united(known: &Column, other: &ColumnType, table: &TableName) -> Result<ColumnType> {
    known.column_type.unite(other).ok_or_else(|| {
        Error::user(format!(
            "column `{}` is {} in some files and {other} in others, and no type holds both without loss",
            known.name, known.column_type
        ))
        .in_table(table)
        .hint("CAST it in the table's SQL, or set schema_override for it")
    })
}

/// The columns, then the file's id.
fn schema_of(columns: &[Column]) -> SchemaRef {
    let own = columns.iter().map(|column| Field::new(&column.name, column.column_type.to_arrow(), true));
    Arc::new(Schema::new(own.chain([Field::new("_cdc_file_id", DataType::Binary, false)]).collect::<Vec<_>>()))
}

/// Brings the record batches of every group into the united columns.
struct Conform {
    table: TableName,
    columns: Vec<Column>,
    schema: SchemaRef,
    key: Vec<String>,
    files: HashMap<FileId, String>,
}

impl Conform {
    fn batch(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        for name in &self.key {
            self.check_key(batch, name)?;
        }
        let mut columns = self.columns.iter().map(|column| self.column(batch, column)).collect::<Result<Vec<_>>>()?;
        let ids = batch.column_by_name(HIDDEN_FILE_ID).cloned();
        columns.push(ids.ok_or_else(|| Error::bug("a transform lost the file ids"))?);
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|cause| Error::bug("a transform's columns do not fit").because(cause))
    }

    fn column(&self, batch: &RecordBatch, column: &Column) -> Result<ArrayRef> {
        let Some(array) = output(batch, &column.name) else {
            return Ok(new_null_array(&column.column_type.to_arrow(), batch.num_rows()));
        };
        casts::override_column(array, &column.column_type).map_err(|misfit| {
            self.at_row(misfit.error, batch, misfit.index).in_query(format!("output column `{}`", column.name))
        })
    }

    /// A row without a key, or with one that equals nothing, could never be found again.
    fn check_key(&self, batch: &RecordBatch, name: &str) -> Result<()> {
        let Some(array) = output(batch, name) else { return Err(Error::bug("a transform lost its key")) };
        // A column that the file lacks is a NullArray, which has no mask of its own.
        let nulls = array.logical_nulls();
        let is_null = |index: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(index));
        let wrong = (0..array.len()).find(|index| is_null(*index) || is_nan(array, *index));
        match wrong {
            None => Ok(()),
            Some(index) => {
                let what = if is_null(index) { "NULL" } else { "NaN" };
                Err(self
                    .at_row(Error::data(format!("the key column `{name}` is {what}")), batch, index)
                    .hint("is `key` right for this table, and does the file hold whole rows?"))
            }
        }
    }

    fn at_row(&self, error: Error, batch: &RecordBatch, index: usize) -> Error {
        let id = batch.column_by_name(HIDDEN_FILE_ID).and_then(|ids| ids.as_binary_opt::<i32>());
        let id = id.and_then(|ids| <[u8; 16]>::try_from(ids.value(index)).ok()).map(FileId);
        let error = match id.and_then(|id| self.files.get(&id)) {
            Some(file) => error.in_file(file),
            None => error,
        };
        let error = error.in_table(&self.table);
        match hidden_rows(batch) {
            Some(rows) => error.in_row(row_number(rows, index)),
            None => error,
        }
    }
}

fn output<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a ArrayRef> {
    let schema = batch.schema();
    let position = schema.fields().iter().position(|field| same_name(field.name(), name))?;
    Some(batch.column(position))
}

fn is_nan(array: &ArrayRef, index: usize) -> bool {
    use arrow::datatypes::{Float32Type, Float64Type};
    let double = array.as_primitive_opt::<Float64Type>().map(|values| values.value(index).is_nan());
    let single = array.as_primitive_opt::<Float32Type>().map(|values| values.value(index).is_nan());
    double.or(single).unwrap_or(false)
}
