//! A ledger in an object store, below a prefix.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode};

use super::entry::ENTRY_BYTES_MAX;
use super::names;
use super::store::{Created, Listing, too_large};
use crate::error::{Error, Result};
use crate::storage::S3Location;

/// A prefix of an object store.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// For messages.
    name: String,
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        let prefix = Path::from(prefix);
        let name = match prefix.as_ref() {
            "" => store.to_string(),
            prefix => format!("{store}/{prefix}"),
        };
        Self { store, prefix, name }
    }

    /// The objects of a folder of a bucket.
    pub(super) fn at(store: Arc<dyn ObjectStore>, place: &S3Location) -> Result<Self> {
        let prefix = Path::parse(place.prefix())
            .map_err(|cause| Error::user(format!("{place} is no place for a ledger")).because(cause))?;
        Ok(Self { store, prefix, name: place.to_string().trim_end_matches('/').to_owned() })
    }

    /// Only a refusal is a definite answer: after any other error, a repeated 5xx included, the object may
    /// stand there.
    pub(super) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        match self.store.put_opts(&self.path(key)?, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(Created::Yes),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Created::Exists),
            Err(error @ (StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })) => {
                let what = format!("{} cannot create an object only if it is absent", self.describe());
                Err(Error::user(what)
                    .because(error)
                    .hint("keep the ledger in a store that can, such as S3 or a folder"))
            }
            Err(error @ StoreError::PermissionDenied { .. }) => Err(self.trouble("write", key, error)),
            Err(error) => Ok(Created::Unknown(self.trouble("write", key, error))),
        }
    }

    pub(super) async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let found = match self.store.get(&self.path(key)?).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.trouble("read", key, error)),
        };
        if found.meta.size > ENTRY_BYTES_MAX {
            return Err(too_large(&format!("{}/{key}", self.describe()), found.meta.size));
        }
        found.bytes().await.map(Some).map_err(|error| self.trouble("read", key, error))
    }

    pub(super) async fn list(&self, key: &str) -> Result<Listing> {
        let path = self.path(key)?;
        let found = self.store.list_with_delimiter(Some(&path)).await;
        let found = found.map_err(|error| self.trouble("list", key, error))?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        Ok(Listing {
            folders: found.common_prefixes.iter().filter_map(name).collect(),
            objects: found.objects.iter().filter_map(|object| name(&object.location)).collect(),
        })
    }

    pub(super) async fn delete(&self, keys: Vec<String>) -> Result<()> {
        let Some(first) = keys.first().cloned() else { return Ok(()) };
        let paths: Vec<Path> = keys.iter().map(|key| self.path(key)).collect::<Result<_>>()?;
        let mut deleted = self.store.delete_stream(stream::iter(paths).map(Ok).boxed());
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(self.trouble("delete", &first, error)),
            }
        }
        Ok(())
    }

    pub(super) async fn has_entry_above(&self, folder: &str, number: u64) -> Result<bool> {
        let prefix = self.path(folder)?;
        let offset = self.path(&format!("{folder}/{}", names::entry_name(number)))?;
        let mut found = self.store.list_with_offset(Some(&prefix), &offset);
        while let Some(object) = found.try_next().await.map_err(|error| self.trouble("list", folder, error))? {
            let name = object.location.filename().unwrap_or_default();
            if names::entry_number(name).is_some_and(|found| found > number) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn describe(&self) -> String {
        self.name.clone()
    }

    /// The path of a key, whose segments are encoded already.
    fn path(&self, key: &str) -> Result<Path> {
        Path::parse(format!("{}/{key}", self.prefix))
            .map_err(|error| Error::bug(format!("`{key}` is no key of a ledger")).because(error))
    }

    fn trouble(&self, verb: &str, key: &str, error: StoreError) -> Error {
        let message = format!("the ledger cannot {verb} {key} in {}", self.describe());
        match &error {
            StoreError::PermissionDenied { .. } => Error::user(message)
                .because(error)
                .hint("grant reading, listing, writing and deleting below the ledger's prefix"),
            StoreError::Unauthenticated { .. } => {
                Error::retry(message).because(error).hint("check the credentials for the ledger's store")
            }
            _ => Error::retry(message).because(error).hint("check that the store can be reached; nothing is lost"),
        }
    }
}
