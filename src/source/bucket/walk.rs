//! One listing of a prefix, page by page. A key that no path can hold does not hide the others.

use object_store::ObjectMeta;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Error as PathError;

use crate::error::{Error, Result};
use crate::storage::{S3Location, explained};

/// Most keys of a page, as S3 has it: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>.
const PAGE_KEYS_MAX: usize = 1_000;
/// Most keys of one listing that no path can hold: each costs some requests.
const UNREADABLE_MAX: usize = 1_000;

/// How far a listing has come.
#[derive(Debug)]
pub(super) struct Walk {
    /// The page to ask for next; None: the first one after `after`.
    token: Option<String>,
    /// Only keys after this one are listed.
    after: Option<String>,
    /// How many keys to ask for: a page is refused as a whole, so that it is halved until the culprit is found.
    keys: usize,
    unreadable: usize,
    ended: bool,
}

/// What one step found.
#[derive(Debug)]
pub(super) enum Found {
    /// Objects, in the order of their keys.
    Page(Vec<ObjectMeta>),
    /// A key that no path can hold.
    Unreadable { key: String, cause: PathError },
}

impl Default for Walk {
    fn default() -> Self {
        Self { token: None, after: None, keys: PAGE_KEYS_MAX, unreadable: 0, ended: false }
    }
}

impl Walk {
    /// Whether there is nothing more to list.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next page. May be dropped and called again.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the bucket may not be listed, is not there, or has too many keys that no
    /// path can hold; [`Retry`](crate::error::Kind::Retry) where S3 cannot be reached now.
    pub(super) async fn next(&mut self, pages: &dyn PaginatedListStore, location: &S3Location) -> Result<Found> {
        let prefix = Some(location.prefix()).filter(|prefix| !prefix.is_empty());
        loop {
            let options = PaginatedListOptions {
                offset: self.after.clone(),
                max_keys: Some(self.keys),
                page_token: self.token.clone(),
                ..PaginatedListOptions::default()
            };
            match pages.list_paginated(prefix, options).await {
                Ok(page) => {
                    self.ended = page.page_token.is_none();
                    self.token = page.page_token;
                    self.keys = (self.keys * 2).min(PAGE_KEYS_MAX);
                    return Ok(Found::Page(page.result.objects));
                }
                Err(object_store::Error::InvalidPath { .. }) if self.keys > 1 => self.keys /= 2,
                Err(object_store::Error::InvalidPath { source }) => return self.pass(source, location),
                Err(cause) => {
                    return Err(explained(Error::retry(format!("{location} cannot be listed")).because(cause)));
                }
            }
        }
    }

    /// Goes on behind a key that no path can hold.
    fn pass(&mut self, cause: PathError, location: &S3Location) -> Result<Found> {
        self.unreadable += 1;
        let key = match &cause {
            PathError::EmptySegment { path } | PathError::BadSegment { path, .. } => path.clone(),
            _ => return Err(Error::bug(format!("{location} cannot be listed")).because(cause)),
        };
        if self.unreadable > UNREADABLE_MAX || self.after.as_ref() == Some(&key) {
            return Err(Error::user(format!("{location} has too many keys that cannot be asked for"))
                .because(cause)
                .hint("name a folder further down, or move these objects to keys without `//`, `.` and `..`"));
        }
        self.token = None;
        self.after = Some(key.clone());
        Ok(Found::Unreadable { key, cause })
    }
}
