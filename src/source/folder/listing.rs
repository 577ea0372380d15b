//! Everything below a folder. One folder that cannot be listed, or one name that no path can hold, does not hide
//! the others.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::place::{Choice, Place};
use crate::error::{Error, Result};

/// Most files of one listing.
const FILES_MAX: usize = 2_000_000;
/// Most folders that are listed one by one because something in them cannot be.
const FOLDERS_MAX: usize = 10_000;

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub files: Vec<ObjectMeta>,
    /// Folders that could not be listed, with their location.
    pub left: Vec<(String, Error)>,
}

/// The files of a place; none where it has gone.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where the root itself cannot be listed, or too much is there.
pub(super) async fn list(store: &dyn ObjectStore, place: &Place) -> Result<Listing> {
    let mut listing = Listing::default();
    if matches!(place.choice, Choice::File) {
        match store.head(&place.root).await {
            Ok(meta) => listing.files.push(meta),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(cause) => return Err(unlisted(&place.root, cause)),
        }
        return Ok(listing);
    }
    let mut folders = vec![place.root.clone()];
    let mut one_by_one = 0;
    while let Some(folder) = folders.pop() {
        if add_all(store, place, &folder, &mut listing).await? {
            continue;
        }
        one_by_one += 1;
        if one_by_one > FOLDERS_MAX {
            return Err(Error::user(format!("too many folders below `/{}` cannot be listed", place.root))
                .hint("remove links that lead in circles, and names that are not UTF-8"));
        }
        if place.is_local && leads_back(place, &folder).await {
            listing.left.push((format!("/{folder}"), circle(&folder)));
            continue;
        }
        match store.list_with_delimiter(Some(&folder)).await {
            Ok(level) => {
                listing.files.extend(level.objects.into_iter().filter(|meta| place.takes(&meta.location)));
                folders.extend(level.common_prefixes);
            }
            Err(cause) if folder == place.root => return Err(unlisted(&folder, cause)),
            Err(cause) => listing.left.push((format!("/{folder}"), unlisted(&folder, cause))),
        }
    }
    Ok(listing)
}

/// Whether a folder is a link to one of those it lies in: its files would come again and again.
async fn leads_back(place: &Place, folder: &Path) -> bool {
    let Ok(real) = tokio::fs::canonicalize(format!("/{folder}")).await else {
        return false;
    };
    let mut above = folder.parent();
    while let Some(path) = above.filter(|path| path.parts_count() >= place.root.parts_count()) {
        if tokio::fs::canonicalize(format!("/{path}")).await.is_ok_and(|path| path == real) {
            return true;
        }
        above = path.parent();
    }
    false
}

/// Adds everything below a folder; false, and nothing is added, where something there cannot be listed.
async fn add_all(store: &dyn ObjectStore, place: &Place, folder: &Path, listing: &mut Listing) -> Result<bool> {
    let before = listing.files.len();
    let mut below = store.list(Some(folder));
    loop {
        match below.try_next().await {
            Ok(Some(meta)) if place.takes(&meta.location) => listing.files.push(meta),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(true),
            Err(_) => {
                listing.files.truncate(before);
                return Ok(false);
            }
        }
        if listing.files.len() > FILES_MAX {
            return Err(Error::user(format!("more than {FILES_MAX} files are below `/{}`", place.root))
                .hint("name fewer of them: a folder further down, or a glob such as data/2024*/**"));
        }
    }
}

fn unlisted(folder: &Path, cause: object_store::Error) -> Error {
    Error::user(format!("`/{folder}` cannot be listed")).because(cause).hint(
        "check that it can be read; the names of files and folders in it must be UTF-8 without control characters",
    )
}

fn circle(folder: &Path) -> Error {
    Error::user(format!("`/{folder}` is a link to a folder it lies in"))
        .hint("remove the link: the files behind it are read where they really are")
}
