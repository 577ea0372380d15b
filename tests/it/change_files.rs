//! The bytes of small change files, as AWS DMS would write them.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

/// A change of a table with the columns `Op`, `id` (its key) and `amount`.
pub(crate) type Change = (&'static str, i64, i64);

/// The columns of a file.
pub(crate) type Columns = Vec<(&'static str, ArrayRef)>;

/// A column of integers.
pub(crate) fn integers(values: impl IntoIterator<Item = impl Into<Option<i64>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<Int64Array>())
}

/// A column of text.
pub(crate) fn texts(values: impl IntoIterator<Item = impl Into<Option<&'static str>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<StringArray>())
}

/// The columns of a file with these changes.
pub(crate) fn columns(changes: &[Change]) -> Columns {
    vec![
        ("Op", texts(changes.iter().map(|change| change.0))),
        ("id", integers(changes.iter().map(|change| change.1))),
        ("amount", integers(changes.iter().map(|change| change.2))),
    ]
}

/// A Parquet file with these changes.
pub(crate) fn parquet(changes: &[Change]) -> Vec<u8> {
    parquet_of(columns(changes))
}

/// A Parquet file with these columns.
pub(crate) fn parquet_of(columns: Columns) -> Vec<u8> {
    parquet_in_groups(&[RecordBatch::try_from_iter(columns).unwrap()], 1 << 20)
}

/// A Parquet file, not compressed inside, with at most so many rows in a row group.
pub(crate) fn parquet_in_groups(batches: &[RecordBatch], group_rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

/// A CSV file with these columns, with or without a header.
pub(crate) fn csv_of(columns: Columns, header: bool) -> Vec<u8> {
    let mut writer = arrow::csv::WriterBuilder::new().with_header(header).build(Vec::new());
    writer.write(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    writer.into_inner()
}

/// The whole file gzipped.
pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
