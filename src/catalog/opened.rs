//! A change file whose schema is known and whose rows can be read, whatever its format.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ArrowReaderMetadata;
use arrow::array::{Int64Array, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::runtime::SpawnedTask;
use datafusion::physical_expr::PhysicalExpr;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use tokio::sync::OnceCell;

use crate::catalog::content::{Content, Stored};
use crate::catalog::csv::CsvBody;
use crate::catalog::inflate::{Intake, Staging};
use crate::catalog::{csv, parquet, version};
use crate::change::{ChangeFile, FileFormat};
use crate::config::CsvConfig;
use crate::error::{Error, Kind, Result};

/// Files that one table opens at once: fetched from S3, each waits for its first byte.
pub const OPENED_AT_ONCE: usize = 16;
/// An object of no more bytes is fetched whole: one request and its bytes take less time than one for the footer and others
/// for columns.
const ONE_REQUEST_BYTES_MAX: u64 = 1 << 20;
/// No column's name is longer; MySQL's have up to 64 characters.
const NAME_BYTES_MAX: usize = 1_024;

/// Rows as the file has them, and each row's number in the file.
#[derive(Debug, Clone)]
pub struct RawRows {
    /// The wanted columns, in the wanted order.
    pub columns: RecordBatch,
    /// Row numbers, from 0.
    pub rows: Int64Array,
}

/// What is wanted of a file.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// Indices into [`OpenedFile::schema`].
    pub columns: Vec<usize>,
    /// Rows that do not satisfy it may be left out; its columns are those of [`OpenedFile::schema`].
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// Which row groups; None: all. Only of a file that has some.
    pub row_groups: Option<Range<usize>>,
    /// By row number, which rows are wanted; others may be left out. None: all are. Those past its end are not.
    pub rows: Option<BooleanBuffer>,
    /// Most rows of one record batch.
    pub batch_rows: usize,
}

/// A change file that was opened.
#[derive(Debug, Clone)]
pub struct OpenedFile {
    /// The file.
    pub file: ChangeFile,
    /// Its own columns: all nullable, strings as Utf8, without metadata.
    pub schema: SchemaRef,
    content: Content,
    body: Body,
    store: Arc<dyn ObjectStore>,
    /// Made when it is first needed, where the file came without.
    version: Arc<OnceCell<String>>,
}

#[derive(Debug, Clone)]
enum Body {
    Parquet(ArrowReaderMetadata),
    Csv(CsvBody),
}

/// Opens change files of one store.
#[derive(Debug, Clone)]
pub struct Opener {
    store: Arc<dyn ObjectStore>,
    staging: Staging,
}

impl Opener {
    /// An opener of files in `store`, which inflates within the bounds of `staging`.
    pub fn new(store: Arc<dyn ObjectStore>, staging: Staging) -> Self {
        Self { store, staging }
    }

    /// The same for files whose turn has not come: of the room of staging files they take half at most.
    pub fn ahead(&self) -> Self {
        Self { store: Arc::clone(&self.store), staging: self.staging.half() }
    }

    /// Fetches what is needed to know the file's schema: all of a gzipped, CSV or small file, else the footer. It does so in a task
    /// of its own, as inflating keeps a core busy; the task ends where it is no longer waited for.
    ///
    /// # Errors
    /// [`Data`](Kind::Data) where the file is not what its name says, [`Retry`](Kind::Retry) where it cannot be
    /// read now; both name the file.
    pub async fn open(&self, file: ChangeFile, csv: &CsvConfig) -> Result<OpenedFile> {
        let (location, table) = (file.location.clone(), file.table.clone());
        let (opener, csv) = (self.clone(), csv.clone());
        let opening = SpawnedTask::spawn(async move { opener.open_body(file, &csv).await }).join().await;
        let opened = opening.unwrap_or_else(|ended| match ended.is_panic() {
            true => Err(broken_reader()),
            false => Err(Error::bug("a file's opening was broken off").because(ended)),
        });
        opened.map_err(|error| error.in_file(location).in_table(table))
    }

    async fn open_body(&self, file: ChangeFile, csv: &CsvConfig) -> Result<OpenedFile> {
        if file.size == 0 {
            return Err(Error::data("the file is empty").hint("it may still be being written, or the writer failed"));
        }
        let content = self.content(&file).await?;
        let (schema, body) = match file.format {
            FileFormat::Parquet => {
                let metadata = parquet::open(content.clone()).await?;
                (Arc::clone(metadata.schema()), Body::Parquet(metadata))
            }
            FileFormat::Csv => {
                let (schema, body) = csv::open(&content, csv)?;
                (schema, Body::Csv(body))
            }
        };
        check_names(&schema)?;
        let store = Arc::clone(&self.store);
        Ok(OpenedFile { file, schema, content, body, store, version: Arc::default() })
    }

    /// Room for all of an object that needs no ranges.
    fn one_request(&self, file: &ChangeFile) -> Option<Intake> {
        let is_small = !file.is_on_disk() && file.size <= ONE_REQUEST_BYTES_MAX;
        if is_small { self.staging.kept(file.size) } else { None }
    }

    async fn content(&self, file: &ChangeFile) -> Result<Content> {
        let stored = Stored::new(Arc::clone(&self.store), file)?;
        let mut intake = match file.format {
            FileFormat::Parquet if !file.gzip => match self.one_request(file) {
                Some(intake) => intake,
                None => return Ok(Content::Stored(stored)),
            },
            _ => self.staging.intake(file.gzip, file.size),
        };
        stored.stream(|chunk| intake.push(chunk)).await?;
        intake.finish().await
    }
}

impl OpenedFile {
    /// Reads rows; errors name the file.
    pub fn read(&self, request: ReadRequest) -> BoxStream<'static, Result<RawRows>> {
        let rows = match &self.body {
            Body::Parquet(metadata) => parquet::read(self.content.clone(), metadata.clone(), request).boxed(),
            Body::Csv(body) => csv::read(&self.content, body, &request),
        };
        let (location, table) = (self.file.location.clone(), self.file.table.clone());
        std::panic::AssertUnwindSafe(rows)
            .catch_unwind()
            .map(move |rows| {
                rows.unwrap_or_else(|_| Err(broken_reader())).map_err(|error| error.in_file(&location).in_table(&table))
            })
            .boxed()
    }

    /// The same with its version, for which all of it is read where it was left open.
    ///
    /// # Errors
    /// [`Retry`](Kind::Retry), naming the file, where it cannot be read or is not what it was any more.
    pub async fn versioned(self: Arc<Self>) -> Result<Arc<Self>> {
        if !self.file.version.is_empty() {
            return Ok(self);
        }
        let made = self.version.get_or_try_init(|| version::version_of(self.store.as_ref(), &self.file)).await;
        let version = made.map_err(|error| error.in_file(&self.file.location).in_table(&self.file.table))?.clone();
        let file = ChangeFile { version, ..self.file.clone() };
        Ok(Arc::new(Self { file, ..Self::clone(&self) }))
    }

    /// How many row groups it has; 1 where the format knows none.
    pub fn row_groups(&self) -> usize {
        match &self.body {
            Body::Parquet(metadata) => metadata.metadata().num_row_groups(),
            Body::Csv(_) => 1,
        }
    }

    /// How many rows the file says it has; None where only reading tells.
    pub fn rows(&self) -> Option<u64> {
        match &self.body {
            Body::Parquet(metadata) => u64::try_from(metadata.metadata().file_metadata().num_rows()).ok(),
            Body::Csv(_) => None,
        }
    }
}

/// Foreign bytes can bring a decoder to panic; that is the file's fault, not the program's end.
fn broken_reader() -> Error {
    Error::new(Kind::Data, "the file's bytes broke its decoder").hint("the file is damaged; have it written again")
}

/// Names that would make a column unreachable or forge one of ours.
fn check_names(schema: &Schema) -> Result<()> {
    let mut seen = HashSet::new();
    for field in schema.fields() {
        let name = field.name();
        if name.to_ascii_lowercase().starts_with("_cdc_") || name.starts_with("__freshet_") {
            return Err(Error::data(format!("the file has a column `{name}`, a name that freshet itself gives"))
                .hint("names beginning with _cdc_ are reserved; rename the column at the source"));
        }
        if name.len() > NAME_BYTES_MAX {
            let begin: String = name.chars().take(40).collect();
            return Err(Error::data(format!(
                "the file has a column whose name begins with `{begin}` and does not end"
            ))
            .hint("is the file of the format that its name says?"));
        }
        if !seen.insert(name) {
            return Err(Error::data(format!("the file has two columns named `{name}`")));
        }
    }
    Ok(())
}

/// The field as SQL sees it: nullable, without metadata, strings and bytes in their plain form.
///
/// Plain Utf8 rather than views: both sinks take only plain strings, so a view would be copied once more on
/// its way out, and rows are passed on rather than compared.
pub fn plain_field(field: &Field) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), true)
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("UTC".into())),
        DataType::List(item) => DataType::List(Arc::new(plain_item(item))),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| plain_item(field)).collect()),
        other => other.clone(),
    }
}

fn plain_item(field: &Field) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), field.is_nullable())
}

/// INT96 is read in µs: in ns it would not reach past the year 2262.
pub fn int96_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}
