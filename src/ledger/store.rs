//! The few things a ledger asks of the place it is kept in: create if absent, read, look into folders.
//!
//! Keys are relative and made of harmless segments only (see `names.rs`).

use bytes::Bytes;

use super::folder::Folder;
use super::objects::Objects;
use crate::error::{Error, Result};

/// Where a ledger is kept.
#[derive(Debug, Clone)]
pub(super) enum Store {
    /// A folder of this machine, written so that a power cut loses nothing that was acknowledged.
    Folder(Folder),
    /// An object store.
    Objects(Objects),
}

/// The answer to a create-if-absent.
#[derive(Debug)]
pub(super) enum Created {
    /// It was absent and is now there for good.
    Yes,
    /// Something is there; it may be one's own, written by a request that was repeated on the way.
    Exists,
    /// It may or may not be there, now or later.
    Unknown(Error),
}

/// What is directly in a folder: names, in order.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) folders: Vec<String>,
    pub(super) objects: Vec<String>,
}

impl Store {
    /// Creates the object unless one is there.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it surely was not created and trying again will not help.
    pub(super) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        match self {
            Self::Folder(folder) => folder.create(key, bytes).await,
            Self::Objects(objects) => objects.create(key, bytes).await,
        }
    }

    /// The object; None where there is none.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        match self {
            Self::Folder(folder) => folder.read(key).await,
            Self::Objects(objects) => objects.read(key).await,
        }
    }

    /// Makes sure that what was read in a folder outlives a power cut, before anything is built on it.
    pub(super) async fn settle(&self, folder: &str) -> Result<()> {
        match self {
            Self::Folder(files) => files.settle(folder).await,
            Self::Objects(_) => Ok(()),
        }
    }

    /// What is in a folder; nothing where it does not exist.
    pub(super) async fn list(&self, key: &str) -> Result<Listing> {
        let mut listing = match self {
            Self::Folder(folder) => folder.list(key).await?,
            Self::Objects(objects) => objects.list(key).await?,
        };
        listing.folders.sort_unstable();
        listing.objects.sort_unstable();
        Ok(listing)
    }

    /// Deletes these objects, one after the other; one that is not there is no failure.
    pub(super) async fn delete(&self, keys: Vec<String>) -> Result<()> {
        match self {
            Self::Folder(folder) => folder.delete(keys).await,
            Self::Objects(objects) => objects.delete(keys).await,
        }
    }

    /// Whether a chain's folder holds an entry with a number above this.
    pub(super) async fn has_entry_above(&self, folder: &str, number: u64) -> Result<bool> {
        match self {
            Self::Folder(files) => files.has_entry_above(folder, number).await,
            Self::Objects(objects) => objects.has_entry_above(folder, number).await,
        }
    }

    /// Names the place for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Folder(folder) => folder.describe(),
            Self::Objects(objects) => objects.describe(),
        }
    }
}

/// The error for an object that is larger than any entry.
pub(super) fn too_large(place: &str, size: u64) -> Error {
    let most = super::entry::ENTRY_BYTES_MAX;
    Error::user(format!("{place} has {size} bytes, more than any entry of a ledger ({most})"))
        .hint("this is no ledger, or a damaged one: check `ledger` in freshet.yaml, or restore it from a backup")
}
