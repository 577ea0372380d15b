//! The version of a file on a disk, which has no eTag that lasts: a hash of its content.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::change::{ChangeFile, FileId, disk_version};
use crate::error::{Error, Result};

/// What tells one state of a file from another without reading it.
pub fn tag(meta: &ObjectMeta) -> String {
    tag_of(meta.e_tag.as_ref(), meta.last_modified.timestamp_millis(), meta.size)
}

fn tag_of(e_tag: Option<&String>, modified_ms: i64, size: u64) -> String {
    e_tag.cloned().unwrap_or_else(|| format!("{modified_ms}-{size}"))
}

/// `<size>-<32 hex digits of its content's BLAKE3>` of a file that had this [`tag`] when it was listed; None where it
/// vanished, or changed since or while it was read.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where it cannot be read.
pub async fn version(store: &dyn ObjectStore, path: &Path, listed: &str) -> Result<Option<String>> {
    let Some(got) = unless_gone(store.get(path).await)? else {
        return Ok(None);
    };
    let meta = got.meta.clone();
    let hash = hash(got.payload).await?;
    let Some(after) = unless_gone(store.head(path).await)? else {
        return Ok(None);
    };
    if hash.count() != meta.size || tag(&meta) != listed || tag(&after) != listed {
        return Ok(None);
    }
    let mut content = FileId([0; 16]);
    content.0.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    Ok(Some(disk_version(meta.size, content)))
}

/// The same of a file that was listed and whose version was left open.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where it cannot be read, or is not what it was any more.
pub async fn version_of(store: &dyn ObjectStore, file: &ChangeFile) -> Result<String> {
    let path = Path::parse(&file.path).map_err(|cause| Error::bug("a listed path is none").because(cause))?;
    let listed = tag_of(file.e_tag.as_ref(), file.modified_ms, file.size);
    let changed = || Error::retry("the file changed after it was found").hint("begin again, to find it as it is now");
    version(store, &path, &listed).await?.ok_or_else(changed)
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
