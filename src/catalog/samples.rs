//! Change files in memory, for the tests of every module that reads them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::catalog::cdc::CdcRules;
use crate::catalog::inflate::{Staging, StagingLimits};
use crate::catalog::opened::{OpenedFile, Opener};
use crate::catalog::shape::ReadRules;
use crate::change::{ChangeFile, FileFormat, FileKind, TableName};
use crate::config::{CsvConfig, Order};

/// The table that sample files belong to, where nothing else is said.
pub(crate) fn orders() -> TableName {
    TableName::new("shop", "orders")
}

/// Limits that let everything sample files hold stay in memory.
pub(crate) const ROOMY: StagingLimits = StagingLimits {
    file_memory_bytes_max: 64 << 20,
    memory_bytes_max: 1 << 30,
    whole_bytes_max: 1 << 30,
    file_bytes_max: 1 << 30,
    staged_bytes_max: 1 << 30,
    folder: None,
};

/// A store in memory and what opens its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    pub(crate) store: Arc<InMemory>,
}

impl Shelf {
    /// Puts a file under a path; its kind, format and compression are told by the path.
    pub(crate) async fn put(&self, path: &str, time_ms: i64, bytes: impl Into<Vec<u8>>) -> ChangeFile {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        let stored = object_store::path::Path::parse(path).unwrap();
        let put = self.store.put(&stored, bytes.into()).await.unwrap();
        ChangeFile {
            location: format!("mem/{path}"),
            path: path.into(),
            size,
            version: put.e_tag.clone().unwrap(),
            e_tag: put.e_tag,
            modified_ms: time_ms,
            table: orders(),
            kind: if path.contains("LOAD") { FileKind::Load } else { FileKind::Cdc },
            format: if path.contains(".csv") { FileFormat::Csv } else { FileFormat::Parquet },
            gzip: path.ends_with(".gz"),
            time_ms,
            time_named: true,
            rows: None,
        }
    }

    pub(crate) fn opener(&self) -> Opener {
        self.opener_within(ROOMY)
    }

    pub(crate) fn opener_within(&self, limits: StagingLimits) -> Opener {
        Opener::new(Arc::clone(&self.store) as Arc<dyn ObjectStore>, Staging::new(limits))
    }

    /// Puts a file and opens it.
    pub(crate) async fn open(&self, path: &str, time_ms: i64, bytes: impl Into<Vec<u8>>) -> Arc<OpenedFile> {
        let file = self.put(path, time_ms, bytes).await;
        Arc::new(self.opener().open(file, &CsvConfig::default()).await.unwrap())
    }
}

/// A record batch of these columns, all nullable.
pub(crate) fn batch<N: AsRef<str>>(columns: impl IntoIterator<Item = (N, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

pub(crate) fn ints(values: impl IntoIterator<Item = impl Into<Option<i64>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<Int64Array>())
}

pub(crate) fn texts<'a>(values: impl IntoIterator<Item = impl Into<Option<&'a str>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<StringArray>())
}

/// The batch as Parquet, in row groups of this many rows.
pub(crate) fn parquet(batch: &RecordBatch, group_rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every row as text, its values between bars, NULL as `NULL`.
pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let line = |batch: &RecordBatch, row: usize| {
        let values = batch.columns().iter().map(|column| shown(column, row));
        values.collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| line(batch, row))).collect()
}

fn shown(column: &ArrayRef, row: usize) -> String {
    let null = column.logical_nulls().is_some_and(|nulls| nulls.is_null(row));
    if null { "NULL".into() } else { array_value_to_string(column, row).unwrap() }
}

/// Rules that change nothing: no key, no overrides, order by the file's time.
pub(crate) fn plain_rules() -> ReadRules {
    ReadRules {
        cdc: CdcRules { generation: 1, order: Order::BestEffort, timestamp_column: None, purged_us: 0 },
        overrides: std::collections::BTreeMap::new(),
        auto_schema: true,
        key: Vec::new(),
    }
}

/// A session as tables get it, in the database of [`orders`].
pub(crate) fn session(partitions: usize) -> SessionContext {
    crate::transform::session::new(Arc::new(RuntimeEnv::default()), "shop", partitions)
}
