//! Reads Parquet with row numbers; projection and predicate reach the reader.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions, UInt64Array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::Column;
use datafusion::common::pruning::PruningStatistics;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::scalar::ScalarValue;
use futures::{Stream, StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, RowFilter, RowSelection,
};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::arrow::{ProjectionMask, RowNumber};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use crate::catalog::content::Content;
use crate::catalog::opened::{RawRows, ReadRequest, int96_type, plain_field};
use crate::error::{Error, Kind, Result};

const ROW_NUMBER: &str = "__freshet_row";

/// Reads the footer; the schema of the result is the file's own, in plain types.
///
/// # Errors
/// [`Data`](Kind::Data) where the bytes are not Parquet.
pub async fn open(mut content: Content) -> Result<ArrowReaderMetadata> {
    let metadata = content.get_metadata(None).await.map_err(parquet_error)?;
    let found =
        ArrowReaderMetadata::try_new(Arc::clone(&metadata), ArrowReaderOptions::new()).map_err(parquet_error)?;
    let plain = plain_schema(found.schema(), &metadata);
    ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new().with_schema(plain)).map_err(parquet_error)
}

fn plain_schema(schema: &SchemaRef, metadata: &ParquetMetaData) -> SchemaRef {
    let descriptor = metadata.file_metadata().schema_descr();
    let int96: HashSet<String> = descriptor
        .columns()
        .iter()
        .filter(|column| column.physical_type() == PhysicalType::INT96 && column.path().parts().len() == 1)
        .map(|column| column.name().to_owned())
        .collect();
    let fields = schema.fields().iter().map(|field| {
        let plain = plain_field(field);
        if int96.contains(field.name()) { plain.with_data_type(int96_type()) } else { plain }
    });
    // The reader demands the nullability that the file declares.
    let fields = fields.zip(schema.fields()).map(|(plain, found)| plain.with_nullable(found.is_nullable()));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Reads the wanted columns of the rows that may satisfy the predicate.
pub fn read(
    content: Content,
    metadata: ArrowReaderMetadata,
    request: ReadRequest,
) -> impl Stream<Item = Result<RawRows>> + Send {
    let start = async move {
        let (wanted, is_viewed) = (request.columns.clone(), request.rows.is_some());
        let stream = start_reader(content, &metadata, &request).map_err(parquet_error)?;
        Ok::<_, Error>(stream.map(move |batch| {
            let raw = split_row_numbers(&batch.map_err(parquet_error)?, &wanted)?;
            if is_viewed { plain_columns(raw) } else { Ok(raw) }
        }))
    };
    futures::stream::once(start).try_flatten()
}

fn start_reader(
    content: Content,
    metadata: &ArrowReaderMetadata,
    request: &ReadRequest,
) -> parquet::errors::Result<impl Stream<Item = parquet::errors::Result<RecordBatch>> + Send + use<>> {
    let schema = match &request.rows {
        Some(_) => viewed(metadata.schema()),
        None => Arc::clone(metadata.schema()),
    };
    let row_number = Field::new(ROW_NUMBER, DataType::Int64, false).with_extension_type(RowNumber);
    let options =
        ArrowReaderOptions::new().with_schema(Arc::clone(&schema)).with_virtual_columns(vec![Arc::new(row_number)])?;
    let numbered = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)?;
    let descriptor = metadata.metadata().file_metadata().schema_descr();
    let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(content, numbered)
        .with_batch_size(request.batch_rows)
        .with_projection(ProjectionMask::roots(descriptor, request.columns.iter().copied()));
    let all = metadata.metadata().num_row_groups();
    let mut groups: Vec<usize> = request.row_groups.clone().unwrap_or(0..all).filter(|group| *group < all).collect();
    // Chosen rows satisfy the predicate, and are read in types that it does not know.
    if let (Some(predicate), None) = (&request.predicate, &request.rows) {
        let surviving = surviving_row_groups(metadata, predicate, &schema);
        groups.retain(|group| surviving.contains(group));
        if let Some(filter) = row_filter(metadata, predicate, &schema) {
            builder = builder.with_row_filter(filter);
        }
    }
    if let Some(rows) = &request.rows {
        let (kept, selection) = chosen_rows(metadata, rows, &groups);
        groups = kept;
        builder = builder.with_row_selection(selection);
    }
    builder.with_row_groups(groups).build()
}

/// Strings as views: where rows are left out after they were decoded, theirs are then not copied.
fn viewed(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => field.as_ref().clone().with_data_type(DataType::Utf8View),
        DataType::Binary => field.as_ref().clone().with_data_type(DataType::BinaryView),
        _ => field.as_ref().clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Columns that were read as views in their plain form.
fn plain_columns(raw: RawRows) -> Result<RawRows> {
    let columns = plain_batch(&raw.columns).map_err(|cause| damaged(cause.into()))?;
    Ok(RawRows { columns, ..raw })
}

fn plain_batch(batch: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let plain = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => cast(column, &DataType::Utf8),
        DataType::BinaryView => cast(column, &DataType::Binary),
        _ => Ok(Arc::clone(column)),
    };
    let columns = batch.columns().iter().map(plain).collect::<std::result::Result<Vec<_>, _>>()?;
    let fields = batch.schema().fields().iter().map(|field| Arc::new(plain_field(field))).collect::<Vec<_>>();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Those of the row groups that have wanted rows, and which rows of them are.
fn chosen_rows(metadata: &ArrowReaderMetadata, rows: &BooleanBuffer, groups: &[usize]) -> (Vec<usize>, RowSelection) {
    let (mut kept, mut mask, mut first) = (Vec::new(), BooleanBufferBuilder::new(0), 0);
    for (group, found) in metadata.metadata().row_groups().iter().enumerate() {
        let count = usize::try_from(found.num_rows()).unwrap_or(0);
        let there = count.min(rows.len().saturating_sub(first));
        let wanted = rows.slice(first.min(rows.len()), there);
        if groups.contains(&group) && wanted.has_true() {
            kept.push(group);
            mask.append_buffer(&wanted);
            mask.append_n(count - there, false);
        }
        first += count;
    }
    (kept, RowSelection::from_boolean_buffer(mask.finish()))
}

/// Only decoded rows that satisfy the predicate are decoded in their other columns.
fn row_filter(
    metadata: &ArrowReaderMetadata,
    predicate: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
) -> Option<RowFilter> {
    let mut columns: Vec<usize> = collect_columns(predicate).iter().map(|column| column.index()).collect();
    columns.sort_unstable();
    let schema = Arc::new(schema.project(&columns).ok()?);
    let predicate = reassign_expr_columns(Arc::clone(predicate), &schema).ok()?;
    let mask = ProjectionMask::roots(metadata.metadata().file_metadata().schema_descr(), columns);
    let own: Vec<usize> = (0..schema.fields().len()).collect();
    let evaluate = move |batch: RecordBatch| {
        // The reader adds its row numbers to what was asked for.
        let batch = batch.project(&own)?.with_schema(Arc::clone(&schema))?;
        let value = predicate.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows()))?;
        Ok(value.as_boolean_opt().cloned().unwrap_or_else(|| BooleanArray::from(vec![true; batch.num_rows()])))
    };
    Some(RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, evaluate))]))
}

/// Row groups whose statistics do not rule them out.
fn surviving_row_groups(
    metadata: &ArrowReaderMetadata,
    predicate: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
) -> Vec<usize> {
    let metadata = Arc::clone(metadata.metadata());
    let all = metadata.num_row_groups();
    let statistics = RowGroupStatistics { metadata, schema: Arc::clone(schema) };
    let kept = PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(schema))
        .try_build(Arc::clone(predicate))
        .and_then(|pruning| pruning.prune(&statistics))
        .unwrap_or_else(|_| vec![true; all]);
    (0..all).filter(|group| kept.get(*group).copied().unwrap_or(true)).collect()
}

struct RowGroupStatistics {
    metadata: Arc<ParquetMetaData>,
    schema: SchemaRef,
}

impl RowGroupStatistics {
    fn convert<T>(
        &self,
        column: &Column,
        get: impl FnOnce(&StatisticsConverter<'_>) -> parquet::errors::Result<T>,
    ) -> Option<T> {
        // Statistics leave NaN out, which SQL takes for greater than any number.
        if self.schema.field_with_name(&column.name).ok()?.data_type().is_floating() {
            return None;
        }
        let descriptor = self.metadata.file_metadata().schema_descr();
        get(&StatisticsConverter::try_new(&column.name, &self.schema, descriptor).ok()?).ok()
    }
}

impl PruningStatistics for RowGroupStatistics {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.convert(column, |found| found.row_group_mins(self.metadata.row_groups()))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.convert(column, |found| found.row_group_maxes(self.metadata.row_groups()))
    }

    fn num_containers(&self) -> usize {
        self.metadata.num_row_groups()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.convert(column, |found| found.row_group_null_counts(self.metadata.row_groups()))
            .map(|counts| Arc::new(counts) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok());
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &std::collections::HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// Takes the reader's row numbers off and puts the columns in the wanted order.
fn split_row_numbers(batch: &RecordBatch, wanted: &[usize]) -> Result<RawRows> {
    let rows = batch
        .column_by_name(ROW_NUMBER)
        .and_then(|rows| rows.as_primitive_opt::<Int64Type>())
        .cloned()
        .ok_or_else(|| Error::bug("the Parquet reader gave no row numbers"))?;
    let mut in_file_order: Vec<usize> = wanted.to_vec();
    in_file_order.sort_unstable();
    in_file_order.dedup();
    let positions: Vec<usize> =
        wanted.iter().filter_map(|column| in_file_order.iter().position(|found| found == column)).collect();
    let columns = batch.project(&positions).map_err(|cause| Error::bug("a column is missing").because(cause))?;
    Ok(RawRows { columns, rows })
}

/// What the reader's refusal means for the file; an error of ours inside it comes back as it was.
fn parquet_error(cause: ParquetError) -> Error {
    match cause {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(inner) => damaged(ParquetError::External(inner)),
        },
        other => damaged(other),
    }
}

fn damaged(cause: ParquetError) -> Error {
    Error::new(Kind::Data, "the file is not readable Parquet")
        .because(cause)
        .hint("it may be cut off, still being written, or of another format than its name says")
}
