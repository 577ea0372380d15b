//! Change files in a folder. A file is known by its location, its size and a hash of its content; when it was
//! modified only spares reading a known file again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use tokio::sync::Mutex;

use super::{Delivery, Received, Source, Span};
use crate::catalog::layout::{Layout, Named, Recognised};
use crate::catalog::version;
use crate::change::ChangeFile;
use crate::error::{Error, Result};

mod footer;
mod listing;
mod place;
#[cfg(test)]
mod tests;

use place::Place;

/// Most deliveries of one `receive`.
const DELIVERIES_MAX: usize = 1_000;
/// Between two listings of a folder in which nothing was new.
const LISTING_PAUSE: Duration = Duration::from_secs(1);
/// Most files whose content is read side by side.
const READ_AT_ONCE_MAX: usize = 4;
/// Most files of one listing that are named in [`Received::left`]; the others are counted.
const LEFT_MAX: usize = 1_000;

/// The versions of files that are on record, so that their content need not be read again.
pub trait KnownFiles: Send + Sync {
    /// The version under which a file of this location, size and time of modification (ms since 1970) is on
    /// record.
    fn known(&self, location: &str, size: u64, modified_ms: i64) -> Option<String>;
}

/// No file is on record.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingKnown;

impl KnownFiles for NothingKnown {
    fn known(&self, _location: &str, _size: u64, _modified_ms: i64) -> Option<String> {
        None
    }
}

/// Leaves what files hold unread until it is known which are needed: versions are empty, and a scan that needs them makes
/// them for itself. Not for what is carried, which is known by them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unread;

impl KnownFiles for Unread {
    fn known(&self, _location: &str, _size: u64, _modified_ms: i64) -> Option<String> {
        Some(String::new())
    }
}

/// The change files of a folder, each delivered once per process and version, oldest first.
///
/// A file's `location` is its absolute path, its `version` `<size>-<32 hex digits of its content's BLAKE3>` or what is known, and its
/// `path` what `object_store::path::Path::parse` turns into its place in [`FolderSource::store`].
///
/// A file counts as soon as it has its name: write it under one that begins with `_` or ends in `.tmp`, then rename it.
pub struct FolderSource {
    store: Arc<dyn ObjectStore>,
    place: Place,
    layout: Layout,
    known: Arc<dyn KnownFiles>,
    span: Span,
    state: Mutex<State>,
}

/// What this process has seen so far.
#[derive(Default)]
struct State {
    /// Listed and not yet delivered, oldest first.
    waiting: VecDeque<Seen>,
    /// What was delivered: the path and the tag it had.
    delivered: HashMap<Path, String>,
    /// What was named in [`Received::left`].
    told: HashSet<String>,
}

/// A listed file that is a change file.
struct Seen {
    meta: ObjectMeta,
    named: Named,
    location: String,
    time_ms: i64,
}

impl FolderSource {
    /// The change files at `files`: a folder (with all below it), a file, a glob with `*`, `?` and `**`, or a
    /// `file://` URL.
    ///
    /// Paths are recognised below the folder; those of a single file or a glob below any folder on the way there.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where nothing is there, or it is not a local path.
    pub fn open(files: &str, layout: Layout, known: Arc<dyn KnownFiles>) -> Result<Self> {
        let place = Place::find(files)?;
        Ok(Self::at(Arc::new(LocalFileSystem::new()), place, layout, known))
    }

    /// Only those of a span.
    pub fn within(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// The change files of any store below `prefix`, for which `/` and their path stand as location.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the prefix is no path.
    pub fn in_store(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        layout: Layout,
        known: Arc<dyn KnownFiles>,
    ) -> Result<Self> {
        let root = Path::parse(prefix)
            .map_err(|cause| Error::user(format!("`{prefix}` is not a path of an object store")).because(cause))?;
        Ok(Self::at(store, Place::folder(root), layout, known))
    }

    fn at(store: Arc<dyn ObjectStore>, place: Place, layout: Layout, known: Arc<dyn KnownFiles>) -> Self {
        Self { store, place, layout, known, span: Span::default(), state: Mutex::default() }
    }

    /// Lists what is there, puts what is new into `waiting`, and tells what could not be understood.
    async fn list(&self, state: &mut State) -> Result<Vec<Error>> {
        let listing = listing::list(self.store.as_ref(), &self.place).await?;
        let mut new = Vec::new();
        let mut left = Left::default();
        listing.left.into_iter().for_each(|(location, error)| left.tell(state, location, error));
        let mut there = HashSet::with_capacity(listing.files.len());
        for meta in listing.files {
            there.insert(meta.location.clone());
            if state.delivered.get(&meta.location) == Some(&tag(&meta)) {
                continue;
            }
            let location = format!("/{}", meta.location);
            match self.place.recognise(&self.layout, &meta.location) {
                Ok(Recognised::Change(named)) => {
                    let seen = Seen::new(meta, named, location);
                    new.extend(self.span.has(&seen.named.table, seen.time_ms).then_some(seen));
                }
                Ok(Recognised::Ignored) => {}
                Err(error) => left.tell(state, location.clone(), error.in_file(location)),
            }
        }
        state.delivered.retain(|path, _| there.contains(path));
        new.sort_by(|a, b| (a.time_ms, &a.location).cmp(&(b.time_ms, &b.location)));
        state.waiting.extend(new);
        Ok(left.errors())
    }

    /// The file as it is delivered; None where it vanished or changed since it was listed.
    async fn change_file(&self, seen: &Seen) -> Result<Option<ChangeFile>> {
        let known = self.known.known(&seen.location, seen.meta.size, seen.meta.last_modified.timestamp_millis());
        let (store, meta) = (self.store.as_ref(), &seen.meta);
        let (version, rows) = match known {
            Some(version) => (version, None),
            None => match version::version(store, meta).await? {
                Some(version) => (version, footer::rows(store, meta, &seen.named).await),
                None => return Ok(None),
            },
        };
        let modified_ms = meta.last_modified.timestamp_millis();
        Ok(Some(ChangeFile {
            location: seen.location.clone(),
            path: meta.location.to_string(),
            size: meta.size,
            version,
            e_tag: meta.e_tag.clone(),
            modified_ms,
            table: seen.named.table.clone(),
            kind: seen.named.kind,
            format: seen.named.format,
            gzip: seen.named.gzip,
            time_ms: seen.named.time_ms.unwrap_or(modified_ms),
            time_named: seen.named.time_ms.is_some(),
            rows,
        }))
    }

    /// Delivers up to [`DELIVERIES_MAX`] of the waiting files.
    async fn deliver(&self, state: &mut State, received: &mut Received) {
        let count = state.waiting.len().min(DELIVERIES_MAX);
        let chunk: Vec<Seen> = state.waiting.drain(..count).collect();
        let files: Vec<_> = chunk.iter().map(|seen| self.change_file(seen)).collect();
        let mut files = stream::iter(files).buffered(READ_AT_ONCE_MAX);
        let mut left = Left::default();
        for seen in &chunk {
            match files.next().await {
                Some(Ok(Some(file))) => {
                    state.delivered.insert(seen.meta.location.clone(), tag(&seen.meta));
                    received.deliveries.push(Delivery { receipt: file.location.clone(), files: vec![file] });
                }
                Some(Err(error)) => left.tell(state, seen.location.clone(), error.in_file(&seen.location)),
                Some(Ok(None)) | None => {}
            }
        }
        received.left.extend(left.errors());
    }
}

#[async_trait]
impl Source for FolderSource {
    async fn receive(&self) -> Result<Received> {
        let mut state = self.state.lock().await;
        let mut received = Received::default();
        if state.waiting.is_empty() {
            received.left = self.list(&mut state).await?;
        }
        while received.deliveries.is_empty() && !state.waiting.is_empty() {
            self.deliver(&mut state, &mut received).await;
        }
        Ok(received)
    }

    /// Nothing is to be done: the files stay where they are.
    async fn acknowledge(&self, _deliveries: &[Delivery]) -> Result<()> {
        Ok(())
    }

    /// The next listing delivers them again.
    async fn give_back(&self, deliveries: &[Delivery]) -> Result<()> {
        let mut state = self.state.lock().await;
        let files = deliveries.iter().flat_map(|delivery| &delivery.files);
        for path in files.filter_map(|file| Path::parse(&file.path).ok()) {
            state.delivered.remove(&path);
        }
        Ok(())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    fn pause(&self) -> Duration {
        LISTING_PAUSE
    }
}

impl Seen {
    fn new(meta: ObjectMeta, named: Named, location: String) -> Self {
        let time_ms = named.time_ms.unwrap_or_else(|| meta.last_modified.timestamp_millis());
        Self { meta, named, location, time_ms }
    }
}

/// What tells one state of a file from another without reading it.
fn tag(meta: &ObjectMeta) -> String {
    meta.e_tag.clone().unwrap_or_else(|| format!("{}-{}", meta.last_modified.timestamp_micros(), meta.size))
}

/// The errors of one listing: each place is told once per process, and not more than [`LEFT_MAX`] of them.
#[derive(Default)]
struct Left {
    errors: Vec<Error>,
    more: usize,
}

impl Left {
    fn tell(&mut self, state: &mut State, location: String, error: Error) {
        if !state.told.insert(location) {
            return;
        }
        if self.errors.len() < LEFT_MAX {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
    }

    fn errors(mut self) -> Vec<Error> {
        if self.more > 0 {
            self.errors.push(Error::data(format!("{} more files could not be understood", self.more)));
        }
        self.errors
    }
}
