//! Writes rows into Parquet files that no snapshot names yet, in bounded memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use deltalake::kernel::Add;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use super::columns::{self, same};
use super::place::TableFolder;
use super::trouble;
use crate::error::{Error, Result};
use crate::sink::Column;

/// The usual size of a file.
pub(super) const FILE_BYTES_MAX: usize = 128 << 20;
/// A row group is written out when it takes this much memory.
const ROW_GROUP_BYTES_MAX: usize = 32 << 20;
/// Most rows of a row group.
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;

/// Files that stand in the table's folder but in no snapshot.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Staged {
    /// Their add actions.
    pub(super) files: Vec<Add>,
    /// Their rows.
    pub(super) rows: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

/// Where and how files are written.
pub(super) struct Stage<'a> {
    /// The table's folder.
    pub(super) folder: &'a TableFolder,
    /// The store rooted at that folder.
    pub(super) store: Arc<dyn ObjectStore>,
    /// File names are this, a dash and a number.
    pub(super) prefix: String,
    /// The rows' schema.
    pub(super) schema: SchemaRef,
    /// Columns whose least and greatest value are noted in the add actions.
    pub(super) bounded: Vec<String>,
    /// What counts the memory of the row group being built.
    pub(super) pool: Arc<dyn MemoryPool>,
    /// The files' modification time.
    pub(super) now: DateTime<Utc>,
    /// A file is closed when it has grown to this, and the next one begun.
    pub(super) file_bytes_max: usize,
}

impl Stage<'_> {
    /// Writes all rows; on an error whatever was written is deleted again.
    pub(super) async fn write(&self, rows: BoxStream<'_, Result<RecordBatch>>) -> Result<Staged> {
        let mut staged = Staged::default();
        match self.write_files(rows, &mut staged).await {
            Ok(()) => Ok(staged),
            Err(error) => {
                discard(self.store.as_ref(), &staged.files).await;
                Err(error)
            }
        }
    }

    async fn write_files(&self, mut rows: BoxStream<'_, Result<RecordBatch>>, staged: &mut Staged) -> Result<()> {
        let mut open: Option<OpenFile> = None;
        while let Some(batch) = rows.next().await {
            let wrote = match batch {
                Ok(batch) if batch.num_rows() == 0 => continue,
                Ok(batch) => self.write_batch(&mut open, &batch, staged).await,
                Err(error) => Err(error),
            };
            if let Err(error) = wrote {
                if let Some(file) = open.take() {
                    file.abort().await;
                }
                return Err(error);
            }
        }
        match open.take() {
            Some(file) => self.close(file, staged).await,
            None => Ok(()),
        }
    }

    async fn write_batch(&self, open: &mut Option<OpenFile>, batch: &RecordBatch, staged: &mut Staged) -> Result<()> {
        let file = match open {
            Some(file) => file,
            None => open.insert(self.open(staged.files.len() + 1)?),
        };
        file.write(batch).await?;
        match open.take_if(|file| file.size() >= self.file_bytes_max) {
            Some(full) => self.close(full, staged).await,
            None => Ok(()),
        }
    }

    fn open(&self, number: usize) -> Result<OpenFile> {
        let path = format!("{}-{number:04}.parquet", self.prefix);
        let sink = BufWriter::new(Arc::clone(&self.store), Path::from(path.as_str()));
        let writer = AsyncArrowWriter::try_new(sink, Arc::clone(&self.schema), Some(writer_properties()))
            .map_err(|cause| trouble::write(&path, cause).in_table(&self.folder.source))?;
        let memory = MemoryConsumer::new("freshet delta file").register(&self.pool);
        Ok(OpenFile { path, writer, memory })
    }

    async fn close(&self, mut file: OpenFile, staged: &mut Staged) -> Result<()> {
        let finished = async {
            let metadata = file.writer.finish().await.map_err(Box::<dyn std::error::Error + Send + Sync>::from)?;
            sync(&self.folder.path.join(&file.path)).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(metadata)
        };
        let metadata = match finished.await {
            Ok(metadata) => metadata,
            Err(cause) => {
                let error = trouble::write(&file.path, cause).in_table(&self.folder.source);
                // A file that could not be closed is named by nothing; deleting it is all that can be done.
                let _ = self.store.delete(&Path::from(file.path.as_str())).await;
                return Err(error);
            }
        };
        let bytes = u64::try_from(file.writer.bytes_written()).unwrap_or(u64::MAX);
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default();
        staged.files.push(self.add(file.path, bytes, rows, &metadata));
        staged.rows += rows;
        staged.bytes += bytes;
        Ok(())
    }

    fn add(&self, path: String, bytes: u64, rows: u64, metadata: &ParquetMetaData) -> Add {
        Add {
            path,
            partition_values: Default::default(),
            size: i64::try_from(bytes).unwrap_or(i64::MAX),
            modification_time: self.now.timestamp_millis(),
            data_change: true,
            stats: Some(self.statistics(rows, metadata).to_string()),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        }
    }

    /// See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#per-file-statistics>.
    fn statistics(&self, rows: u64, metadata: &ParquetMetaData) -> serde_json::Value {
        let mut least = BTreeMap::new();
        let mut greatest = BTreeMap::new();
        let mut nulls = BTreeMap::new();
        for name in &self.bounded {
            let Some(bounds) = self.schema.index_of(name).ok().and_then(|_| Bounds::of(metadata, name)) else {
                continue;
            };
            least.insert(name, bounds.least);
            greatest.insert(name, bounds.greatest);
            nulls.insert(name, bounds.nulls);
        }
        serde_json::json!({"numRecords": rows, "minValues": least, "maxValues": greatest, "nullCount": nulls})
    }
}

/// A file being written.
struct OpenFile {
    path: String,
    writer: AsyncArrowWriter<BufWriter>,
    memory: MemoryReservation,
}

impl OpenFile {
    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let failed = |path: &str, cause| trouble::write(path, cause);
        self.writer.write(batch).await.map_err(|cause| failed(&self.path, cause))?;
        // Where the pool gives no more memory the row group ends early: smaller groups, but no failure.
        let refused = self.memory.try_resize(self.writer.memory_size()).is_err();
        if refused || self.writer.in_progress_size() >= ROW_GROUP_BYTES_MAX {
            self.writer.flush().await.map_err(|cause| failed(&self.path, cause))?;
            self.memory.free();
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size()
    }

    async fn abort(self) {
        let mut sink = self.writer.into_inner();
        // The upload's remains are no part of any table; the error being handled matters more.
        let _ = sink.abort().await;
    }
}

fn writer_properties() -> WriterProperties {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        // Lists then have the names of their levels that the Parquet specification demands.
        .set_coerce_types(true)
        .set_created_by(format!("freshet {}", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The least and greatest value of a column in a file, and how many NULLs it has.
struct Bounds {
    least: serde_json::Value,
    greatest: serde_json::Value,
    nulls: u64,
}

impl Bounds {
    /// None where the file does not tell them of every row group, or not exactly enough.
    fn of(metadata: &ParquetMetaData, name: &str) -> Option<Self> {
        let schema = metadata.file_metadata().schema_descr();
        let at = schema.columns().iter().position(|leaf| leaf.path().parts() == [name.to_owned()])?;
        let groups: Option<Vec<_>> = metadata.row_groups().iter().map(|group| group.column(at).statistics()).collect();
        let groups = groups?;
        let nulls = groups.iter().map(|group| group.null_count_opt()).sum::<Option<u64>>()?;
        let (least, greatest) = integers(&groups).or_else(|| texts(&groups))?;
        Some(Self { least, greatest, nulls })
    }
}

type Ends = (serde_json::Value, serde_json::Value);

fn integers(groups: &[&Statistics]) -> Option<Ends> {
    let mut ends: Option<(i64, i64)> = None;
    for group in groups {
        let Statistics::Int64(values) = group else { return None };
        let (least, greatest) = (*values.min_opt()?, *values.max_opt()?);
        ends = Some(ends.map_or((least, greatest), |(a, z)| (a.min(least), z.max(greatest))));
    }
    ends.map(|(least, greatest)| (least.into(), greatest.into()))
}

fn texts(groups: &[&Statistics]) -> Option<Ends> {
    let mut ends: Option<(&str, &str)> = None;
    for group in groups {
        let Statistics::ByteArray(_) = group else { return None };
        let least = std::str::from_utf8(group.min_bytes_opt()?).ok()?;
        let greatest = std::str::from_utf8(group.max_bytes_opt()?).ok()?;
        ends = Some(ends.map_or((least, greatest), |(a, z)| (a.min(least), z.max(greatest))));
    }
    ends.map(|(least, greatest)| (least.into(), greatest.into()))
}

/// Rows with these columns, found by name and cast without loss; a column the rows lack is NULL.
pub(super) fn fit_batch(batch: &RecordBatch, wanted: &[Column], schema: &SchemaRef) -> Result<RecordBatch> {
    let have = batch.schema();
    let arrays: Vec<ArrayRef> = wanted
        .iter()
        .map(|column| match have.fields().iter().position(|field| same(field.name(), &column.name)) {
            Some(at) => columns::fit(batch.column(at), &column.column_type),
            None => Ok(new_null_array(&column.column_type.to_arrow(), batch.num_rows())),
        })
        .collect::<Result<_>>()?;
    RecordBatch::try_new(Arc::clone(schema), arrays)
        .map_err(|cause| Error::bug("rows do not fit their own schema").because(cause))
}

/// Deletes staged files, as far as that succeeds: what stays is named by no snapshot and goes with VACUUM.
pub(super) async fn discard(store: &dyn ObjectStore, files: &[Add]) {
    for file in files {
        let _ = store.delete(&Path::from(file.path.as_str())).await;
    }
}

/// Makes a file or folder survive a loss of power.
pub(super) async fn sync(path: &std::path::Path) -> std::io::Result<()> {
    tokio::fs::File::open(path).await?.sync_all().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::TableName;
    use crate::change::types::ColumnType;
    use arrow::array::{Int64Array, StringArray};
    use datafusion::execution::memory_pool::UnboundedMemoryPool;
    use object_store::local::LocalFileSystem;

    /// Writes batches of two columns, each batch a file of its own, and an error after them where one is given.
    async fn write(path: &std::path::Path, batches: &[(&[i64], &str)], then: Option<Error>) -> Result<Staged> {
        let columns = [columns::column("n", ColumnType::Int64), columns::column("text", ColumnType::String)];
        let schema = columns::arrow_schema(&columns);
        let name = "t_changes".to_owned();
        let source = TableName::new("db", "t");
        let folder = TableFolder {
            path: path.to_owned(),
            name,
            source,
            binding: BTreeMap::new(),
            disk: Arc::new(LocalFileSystem::new()),
        };
        let stage = Stage {
            folder: &folder,
            store: Arc::new(LocalFileSystem::new_with_prefix(path).unwrap()),
            prefix: "a".into(),
            schema: Arc::clone(&schema),
            bounded: vec!["n".into(), "text".into(), "gone".into()],
            pool: Arc::new(UnboundedMemoryPool::default()),
            now: DateTime::from_timestamp(1, 0).unwrap(),
            file_bytes_max: 1,
        };
        let rows = batches.iter().map(|(numbers, text)| {
            let texts = StringArray::from_iter_values(std::iter::repeat_n(text, numbers.len()));
            let arrays: [ArrayRef; 2] = [Arc::new(Int64Array::from(numbers.to_vec())), Arc::new(texts)];
            Ok(RecordBatch::try_new(Arc::clone(&schema), arrays.to_vec()).unwrap())
        });
        let rows: Vec<_> = rows.chain(then.map(Err)).collect();
        stage.write(futures::stream::iter(rows).boxed()).await
    }

    #[tokio::test]
    async fn a_full_file_is_closed_with_its_bounds_and_the_next_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let staged = write(dir.path(), &[(&[3, -1], "b"), (&[], "-"), (&[7], "a")], None).await.unwrap();
        assert_eq!(staged.rows, 3);
        let paths: Vec<_> = staged.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a-0001.parquet", "a-0002.parquet"]);
        let on_disk: u64 = paths.iter().map(|path| dir.path().join(path).metadata().unwrap().len()).sum();
        assert_eq!(on_disk, staged.bytes);
        let statistics: serde_json::Value = serde_json::from_str(staged.files[0].stats.as_ref().unwrap()).unwrap();
        let expected = serde_json::json!({
            "numRecords": 2,
            "minValues": {"n": -1, "text": "b"},
            "maxValues": {"n": 3, "text": "b"},
            "nullCount": {"n": 0, "text": 0},
        });
        assert_eq!(statistics, expected);
    }

    #[tokio::test]
    async fn an_error_after_some_files_deletes_them_all() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(dir.path(), &[(&[1], "a"), (&[2], "b")], Some(Error::data("bad"))).await.unwrap_err();
        assert_eq!(error.message(), "bad");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
