//! The readable bytes of a change file: in memory, in a staging file, or still in its object store.

use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::change::ChangeFile;
use crate::error::{Error, Result, find};
use crate::storage::{explained, refusal_code};

/// Ranges of one file that are fetched at once.
const RANGES_AT_ONCE: usize = 8;
/// What is fetched for a footer: most are shorter, and then it takes one request and not two.
const FOOTER_BYTES: usize = 64 << 10;
/// Of a local file, in bytes.
const LOCAL_CHUNK: u64 = 512 << 10;

/// A share of a bound that many hold together; given back when dropped.
#[derive(Debug)]
pub struct Bound {
    used: Arc<AtomicU64>,
    mine: u64,
}

impl Bound {
    /// No share yet of what `used` counts.
    pub fn new(used: Arc<AtomicU64>) -> Self {
        Self { used, mine: 0 }
    }

    /// Takes `more`, unless all shares together would exceed `max`.
    pub fn try_grow(&mut self, more: u64, max: u64) -> bool {
        let grown = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| used.checked_add(more).filter(|sum| *sum <= max));
        if grown.is_ok() {
            self.mine += more;
        }
        grown.is_ok()
    }

    /// Gives the whole share back.
    pub fn release(&mut self) {
        self.used.fetch_sub(self.mine, Ordering::AcqRel);
        self.mine = 0;
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.release();
    }
}

/// A file on local disk that vanishes with its last reader.
#[derive(Debug)]
pub struct StagedFile {
    path: tempfile::TempPath,
    len: u64,
    _bound: Bound,
}

impl StagedFile {
    /// Takes over a file of `len` bytes, and its share of the bound on staging files.
    ///
    /// It is closed between reads: a batch may have more files than a process may have open.
    pub fn new(file: tempfile::NamedTempFile, len: u64, bound: Bound) -> Self {
        Self { path: file.into_temp_path(), len, _bound: bound }
    }

    /// Opens it, at its start.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the system refuses.
    pub fn reopen(&self) -> Result<std::fs::File> {
        std::fs::File::open(&self.path).map_err(|cause| {
            Error::retry("a staging file cannot be opened again")
                .because(cause)
                .hint("if too many files are open, raise `ulimit -n` or lower pipeline_config.tables_at_once")
        })
    }
}

/// The bytes of one file, cheap to clone.
#[derive(Debug, Clone)]
pub enum Content {
    /// All of it.
    Memory(Bytes, Arc<Bound>),
    /// In a staging file.
    Staged(Arc<StagedFile>),
    /// In the object store, read by ranges on condition that it has not changed.
    Stored(Stored),
}

/// An object, and the version of it that is wanted.
#[derive(Debug, Clone)]
pub struct Stored {
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    size: u64,
    e_tag: Option<String>,
}

impl Stored {
    /// The object of a change file.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where the path is none.
    pub fn new(store: Arc<dyn ObjectStore>, file: &ChangeFile) -> Result<Self> {
        let path = object_store::path::Path::parse(&file.path)
            .map_err(|cause| Error::data("the file's path cannot be read").in_file(&file.location).because(cause))?;
        Ok(Self { store, path, size: file.size, e_tag: file.e_tag.clone() })
    }

    fn options(&self, range: Option<Range<u64>>) -> GetOptions {
        GetOptions { if_match: self.e_tag.clone(), range: range.map(GetRange::Bounded), ..GetOptions::default() }
    }

    /// All its bytes, handed to `take` in pieces.
    ///
    /// # Errors
    /// Those of the store, see [`store_error`], and those of `take`.
    pub async fn stream(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let got = self.store.get_opts(&self.path, self.options(None)).await.map_err(store_error)?;
        let mut chunks = chunks(got);
        let mut total = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(store_error)?;
            total += chunk.len() as u64;
            take(&chunk)?;
        }
        if total == self.size {
            Ok(())
        } else {
            Err(Error::retry(format!("the store sent {total} of {} bytes", self.size)))
        }
    }

    async fn range(&self, range: Range<u64>) -> object_store::Result<Bytes> {
        self.store.get_opts(&self.path, self.options(Some(range))).await?.bytes().await
    }
}

/// All bytes that were got of an object. Those of a local file come in larger pieces than the store's own: another thread
/// reads each.
fn chunks(got: GetResult) -> BoxStream<'static, object_store::Result<Bytes>> {
    let file = match got.payload {
        GetResultPayload::File(file, _) => file,
        GetResultPayload::Stream(chunks) => return chunks,
    };
    let unreadable =
        |cause: std::io::Error| object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(cause) };
    let size = got.range.end - got.range.start;
    futures::stream::try_unfold((file, size), move |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let wanted = left.min(LOCAL_CHUNK);
        let read = move || {
            let mut chunk = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
            file.by_ref().take(wanted).read_to_end(&mut chunk).map(|_| (chunk, file))
        };
        let (chunk, file) = tokio::task::spawn_blocking(read).await?.map_err(unreadable)?;
        // A file that became shorter meanwhile has no more.
        let left = if chunk.is_empty() { 0 } else { left - chunk.len() as u64 };
        Ok(Some((Bytes::from(chunk), (file, left))))
    })
    .boxed()
}

/// Why a store does not give a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is no longer there.
    Gone,
    /// Another version of it is there.
    Overwritten,
    /// It may not be read.
    Denied,
}

/// What the store said about this one file, where an error has its refusal among its causes. That a bucket is gone,
/// that credentials are refused, or that a proxy knows no such page, says nothing about a file.
pub fn refusal(error: &Error) -> Option<Refusal> {
    use object_store::Error as E;
    let cause = find::<E>(error)?;
    match (cause, refusal_code(cause).as_deref()) {
        (E::NotFound { .. }, Some("NoSuchKey" | "NoSuchVersion")) => Some(Refusal::Gone),
        (E::Precondition { .. } | E::NotModified { .. }, _) => Some(Refusal::Overwritten),
        (E::PermissionDenied { .. }, None | Some("AccessDenied")) => Some(Refusal::Denied),
        _ => None,
    }
}

/// What a store's refusal means for a change file. The codes are those of
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList>.
pub fn store_error(cause: object_store::Error) -> Error {
    use object_store::Error as E;
    const GRANT: &str = "grant s3:GetObject on it, and kms:Decrypt where it is encrypted; without s3:ListBucket, S3 \
                         says so of a file that is gone, too";
    let code = refusal_code(&cause);
    let error = match (&cause, code.as_deref()) {
        (E::NotFound { .. }, Some("NoSuchBucket")) => Error::user("the file's bucket is gone")
            .hint("check `source` in freshet.yaml, and AWS_PROFILE for the account"),
        (E::NotFound { .. }, _) => {
            Error::retry("the file is gone").hint("it was deleted or renamed after it was found")
        }
        (E::Precondition { .. } | E::NotModified { .. }, _) => {
            Error::retry("the file was overwritten after it was found").hint("it is found again as a new file")
        }
        (_, Some("InvalidObjectState")) => Error::data("the file is archived and cannot be read")
            .hint("restore it from its storage class, or copy it to another"),
        (E::PermissionDenied { .. }, Some("AccessDenied")) => Error::retry("the file may not be read").hint(GRANT),
        (E::PermissionDenied { .. }, None) => {
            Error::retry("the file may not be read").hint("check the permissions of file and folder")
        }
        _ => return explained(Error::retry("the file cannot be read now").because(cause)),
    };
    error.because(cause)
}

impl Content {
    /// Bytes in memory, with their share of the bound.
    pub fn memory(bytes: Bytes, bound: Bound) -> Self {
        Self::Memory(bytes, Arc::new(bound))
    }

    /// Its length in bytes, after inflating.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes, _) => bytes.len() as u64,
            Self::Staged(file) => file.len,
            Self::Stored(stored) => stored.size,
        }
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn range(&self, range: Range<u64>) -> parquet::errors::Result<Bytes> {
        if range.start > range.end || range.end > self.len() {
            return Err(ParquetError::EOF(format!("bytes {range:?} of a file of {} are wanted", self.len())));
        }
        match self {
            Self::Memory(bytes, _) => {
                let wrong = |_| ParquetError::EOF("a range beyond memory is wanted".into());
                let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
                Ok(bytes.slice(start.map_err(wrong)?..end.map_err(wrong)?))
            }
            Self::Staged(file) => read_staged(Arc::clone(file), range).await,
            Self::Stored(stored) => {
                stored.range(range).await.map_err(|cause| ParquetError::External(Box::new(store_error(cause))))
            }
        }
    }
}

async fn read_staged(file: Arc<StagedFile>, range: Range<u64>) -> parquet::errors::Result<Bytes> {
    let read = move || -> std::io::Result<Bytes> {
        let len = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; len];
        std::fs::File::open(&file.path)?.read_exact_at(&mut bytes, range.start)?;
        Ok(Bytes::from(bytes))
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|cause| ParquetError::External(Box::new(cause)))?;
    read.map_err(|cause| ParquetError::External(Box::new(Error::retry("a staging file cannot be read").because(cause))))
}

impl AsyncFileReader for Content {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.range(range).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        let content = &*self;
        futures::stream::iter(ranges)
            .map(move |range| content.range(range))
            .buffered(RANGES_AT_ONCE)
            .try_collect()
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let len = self.len();
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
            Ok(Arc::new(reader.load_and_finish(self, len).await?))
        }
        .boxed()
    }
}
