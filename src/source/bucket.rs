//! Change files in S3, found by listing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use object_store::list::PaginatedListStore;
use object_store::{ObjectMeta, ObjectStore};
use tokio::sync::Mutex;

use super::object::{Object, ObjectRules, Outcome, object_location};
use super::{Delivery, Received, Source, Span};
use crate::catalog::layout::Layout;
use crate::change::{ChangeFile, FileId};
use crate::error::{Error, Result};
use crate::storage::{Aws, S3Location};

#[cfg(test)]
mod tests;
mod walk;

use walk::{Found, Walk};

/// Most deliveries of one `receive`; fewer mean that a listing has come to its end.
pub(super) const DELIVERIES_MAX: usize = 1_000;
/// Between two listings; each costs a request per 1,000 objects.
const LISTING_PAUSE: Duration = Duration::from_secs(30);
/// Most objects that are named in [`Received::left`] while the process runs; the others are counted.
const LEFT_MAX: usize = 1_000;

/// The change files below a prefix of a bucket, each version delivered once per process, in no order.
///
/// Nothing but the listing is asked for, in pages of 1,000; of what was delivered only the identity is kept.
pub struct BucketSource {
    store: Arc<dyn ObjectStore>,
    pages: Arc<dyn PaginatedListStore>,
    rules: ObjectRules,
    span: Span,
    state: Mutex<State>,
}

/// What this process has seen so far.
#[derive(Default)]
struct State {
    /// The listing under way.
    walk: Option<Walk>,
    /// Found and not yet delivered: at most a page and what one `receive` takes.
    waiting: VecDeque<ChangeFile>,
    /// What was delivered, with the number of the listing that last saw it.
    delivered: HashMap<FileId, u64>,
    /// How many listings were begun.
    walks: u64,
    left: Left,
}

/// Objects that are left where they are, each told once.
#[derive(Default)]
struct Left {
    /// To be told next.
    errors: Vec<Error>,
    told: HashSet<FileId>,
    /// How many more there are in the listing under way.
    more: usize,
    more_told: bool,
}

impl BucketSource {
    /// The change files at `location` that were last modified at `since` or later.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where no region is known.
    pub fn open(location: S3Location, layout: Layout, since: Option<DateTime<Utc>>, aws: &Aws) -> Result<Self> {
        let s3 = Arc::new(aws.s3(location.bucket())?);
        Ok(Self::new(Arc::clone(&s3) as _, s3, ObjectRules::new(location, layout, since)))
    }

    /// Only those of a span.
    pub fn within(self, span: Span) -> Self {
        Self { span, ..self }
    }

    fn new(store: Arc<dyn ObjectStore>, pages: Arc<dyn PaginatedListStore>, rules: ObjectRules) -> Self {
        Self { store, pages, rules, span: Span::default(), state: Mutex::default() }
    }

    /// Takes in the next page of the listing under way, or of a new one; whether that was the last page.
    async fn take_page(&self, state: &mut State) -> Result<bool> {
        let walk = state.walk.get_or_insert_with(|| {
            state.walks += 1;
            state.left.more = 0;
            Walk::default()
        });
        // Nothing is changed before the answer is there: whoever waits for it may give up.
        let found = walk.next(self.pages.as_ref(), self.rules.location()).await?;
        match found {
            Found::Page(objects) => objects.iter().for_each(|object| self.take(object, state)),
            Found::Unreadable { key, cause } => {
                let location = object_location(self.rules.location().bucket(), &key);
                let error = Error::data("the object's key cannot be asked for").because(cause).in_file(&location);
                state.left.tell(FileId::new(&location, ""), error);
            }
        }
        let ended = state.walk.as_ref().is_some_and(Walk::has_ended);
        if ended {
            state.end_walk();
        }
        Ok(ended)
    }

    fn take(&self, meta: &ObjectMeta, state: &mut State) {
        let object = Object {
            bucket: self.rules.location().bucket(),
            key: meta.location.as_ref(),
            size: meta.size,
            e_tag: meta.e_tag.as_deref(),
            modified: meta.last_modified,
        };
        match self.rules.change_file(&object) {
            Ok(Outcome::Change(file)) if !self.span.has(&file.table, file.time_ms) => {}
            Ok(Outcome::Change(file)) => {
                if state.delivered.insert(file.id(), state.walks).is_none() {
                    state.waiting.push_back(*file);
                }
            }
            Ok(Outcome::Ignored | Outcome::BeforeSince | Outcome::Elsewhere) => {}
            Err(error) => {
                let location = object_location(object.bucket, object.key);
                state.left.tell(FileId::new(&location, object.e_tag.unwrap_or_default()), error);
            }
        }
    }
}

impl State {
    /// Forgets what is no longer there, so that what is remembered does not grow beyond what is there.
    fn end_walk(&mut self) {
        let walks = self.walks;
        self.delivered.retain(|_, last_seen| *last_seen == walks);
        self.walk = None;
        self.left.tell_more();
    }

    fn deliver(&mut self) -> Vec<Delivery> {
        let count = self.waiting.len().min(DELIVERIES_MAX);
        let files = self.waiting.drain(..count);
        files.map(|file| Delivery { receipt: file.id().to_string(), files: vec![file] }).collect()
    }
}

impl Left {
    fn tell(&mut self, id: FileId, error: Error) {
        if self.told.contains(&id) {
            return;
        }
        if self.told.len() < LEFT_MAX {
            self.told.insert(id);
            self.errors.push(error);
        } else {
            self.more += 1;
        }
    }

    fn tell_more(&mut self) {
        if self.more > 0 && !self.more_told {
            self.more_told = true;
            self.errors.push(Error::data(format!("{} more objects could not be understood", self.more)));
        }
    }
}

#[async_trait]
impl Source for BucketSource {
    async fn receive(&self) -> Result<Received> {
        let mut state = self.state.lock().await;
        while state.waiting.len() < DELIVERIES_MAX {
            match self.take_page(&mut state).await {
                Ok(true) => break,
                Ok(false) => {}
                // What was found before comes first; the next call meets the error again.
                Err(_) if !state.waiting.is_empty() || !state.left.errors.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Received { deliveries: state.deliver(), left: std::mem::take(&mut state.left.errors) })
    }

    /// Nothing is to be done: the objects stay where they are.
    async fn acknowledge(&self, _deliveries: &[Delivery]) -> Result<()> {
        Ok(())
    }

    /// The next listing delivers them again.
    async fn give_back(&self, deliveries: &[Delivery]) -> Result<()> {
        let mut state = self.state.lock().await;
        for file in deliveries.iter().flat_map(|delivery| &delivery.files) {
            state.delivered.remove(&file.id());
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
