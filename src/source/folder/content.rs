//! A file's content, read once: its hash, and how many rows its Parquet footer tells.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::file::metadata::ParquetMetaDataReader;

use crate::catalog::layout::Named;
use crate::change::{FileFormat, FileId, disk_version};
use crate::error::{Error, Result};

/// A footer above this is not read only to count rows.
const FOOTER_BYTES_MAX: u64 = 1 << 20;
/// The footer's length and the four letters at the end of every Parquet file.
const TAIL_BYTES: u64 = 8;

/// What was read.
#[derive(Debug)]
pub(super) struct Content {
    /// The file as it was when it was read.
    pub meta: ObjectMeta,
    /// `<size>-<32 hex digits of its content's BLAKE3>`
    pub version: String,
    /// Its rows, where that could be told without reading them.
    pub rows: Option<u64>,
}

/// Reads a listed file; None where it vanished, or changed since it was listed or while it was read.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where it cannot be read.
pub(super) async fn read(store: &dyn ObjectStore, listed: &ObjectMeta, named: &Named) -> Result<Option<Content>> {
    let path = &listed.location;
    let Some(got) = unless_gone(store.get(path).await)? else {
        return Ok(None);
    };
    let meta = got.meta.clone();
    let hash = hash(got.payload).await?;
    let Some(after) = unless_gone(store.head(path).await)? else {
        return Ok(None);
    };
    if hash.count() != listed.size || !same(listed, &meta) || !same(listed, &after) {
        return Ok(None);
    }
    let mut content = FileId([0; 16]);
    content.0.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    let version = disk_version(meta.size, content);
    let rows = match named.format {
        FileFormat::Parquet if !named.gzip => footer_rows(store, path, meta.size).await,
        FileFormat::Parquet | FileFormat::Csv => None,
    };
    Ok(Some(Content { meta, version, rows }))
}

fn same(one: &ObjectMeta, two: &ObjectMeta) -> bool {
    one.size == two.size && one.last_modified == two.last_modified && one.e_tag == two.e_tag
}

fn unless_gone<T>(result: object_store::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(cause) => Err(unreadable(cause)),
    }
}

fn unreadable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::retry("the file cannot be read now").because(cause).hint("check that its permissions let it be read")
}

/// Hashes a content of any length in little memory.
async fn hash(payload: GetResultPayload) -> Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    match payload {
        GetResultPayload::File(file, _) => tokio::task::spawn_blocking(move || {
            hasher.update_reader(file).map_err(unreadable)?;
            Ok(hasher)
        })
        .await
        .map_err(|cause| Error::retry("reading a file was cut short").because(cause))?,
        GetResultPayload::Stream(mut chunks) => {
            while let Some(chunk) = chunks.try_next().await.map_err(unreadable)? {
                hasher.update(&chunk);
            }
            Ok(hasher)
        }
    }
}

/// The rows a Parquet footer tells; None where there is no sound footer: reading the file will say why.
async fn footer_rows(store: &dyn ObjectStore, path: &Path, size: u64) -> Option<u64> {
    let footer_end = size.checked_sub(TAIL_BYTES)?;
    let tail = store.get_range(path, footer_end..size).await.ok()?;
    let (length, letters) = tail.split_first_chunk::<4>()?;
    let length = u64::from(u32::from_le_bytes(*length));
    if letters != b"PAR1" || length > FOOTER_BYTES_MAX {
        return None;
    }
    let footer = store.get_range(path, footer_end.checked_sub(length)?..footer_end).await.ok()?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).ok()?;
    u64::try_from(metadata.file_metadata().num_rows()).ok()
}
