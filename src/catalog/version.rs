//! The version of a file on a disk, which has no eTag that lasts: a hash of its content.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::change::{ChangeFile, FileId, disk_version};
use crate::error::{Error, Result};

/// `<size>-<32 hex digits of its content's BLAKE3>` of a file as it was listed; None where it vanished, or changed since or
/// while it was read.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where it cannot be read.
pub async fn version(store: &dyn ObjectStore, listed: &ObjectMeta) -> Result<Option<String>> {
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
    Ok(Some(disk_version(meta.size, content)))
}

/// The same of a file that was listed and whose version was left open.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where it cannot be read, or is not what it was any more.
pub async fn version_of(store: &dyn ObjectStore, file: &ChangeFile) -> Result<String> {
    let path = Path::parse(&file.path).map_err(|cause| Error::bug("a listed path is none").because(cause))?;
    let is_found = |meta: &ObjectMeta| meta.size == file.size && meta.e_tag == file.e_tag;
    let version = match unless_gone(store.head(&path).await)?.filter(is_found) {
        Some(meta) => version(store, &meta).await?,
        None => None,
    };
    let changed = || Error::retry("the file changed after it was found").hint("begin again, to find it as it is now");
    version.ok_or_else(changed)
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
