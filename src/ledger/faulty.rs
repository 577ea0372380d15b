//! An object store for tests that fails as real ones do: answers get lost, requests too, conflicts are
//! claimed where there are none, and tasks take turns at every request.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::names;
use crate::trial::dice::Dice;

/// What happens to one put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing goes wrong.
    None,
    /// It takes effect, but its answer is an error.
    AnswerLost,
    /// It has no effect, and its answer is an error.
    RequestLost,
    /// It takes effect and is repeated on the way, so that it meets itself.
    Repeated,
    /// It has no effect, and is said to be in conflict with another.
    Conflict,
    /// It is not allowed.
    Denied,
    /// It overwrites whatever is there.
    Overwrites,
}

/// The store, over one in memory.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: Arc<InMemory>,
    script: Mutex<VecDeque<Fault>>,
    dice: Option<Mutex<Dice>>,
    unseen: Mutex<Option<Path>>,
    /// The entries that were created and counted then, by number, whatever was deleted since.
    counted: Counted,
}

/// Entries by number, as several stores share them.
pub(crate) type Counted = Arc<Mutex<BTreeMap<u64, Bytes>>>;

/// The number of a chain's entry at this place, and whether a compaction in the store has a higher one; None where no
/// entry has its place there.
pub(crate) async fn entry_at(store: &InMemory, location: &Path) -> Option<(u64, bool)> {
    let (root, name) = location.as_ref().split_once("/tables/")?;
    let (table, entry) = name.rsplit_once('/')?;
    let marks = Path::parse(format!("{root}/compactions/{table}")).unwrap();
    let marks = store.list_with_delimiter(Some(&marks)).await.unwrap();
    let is_below = marks.objects.iter().any(|mark| mark.location.filename().unwrap() > entry);
    Some((names::entry_number(entry)?, is_below))
}

impl Faulty {
    /// A store whose puts meet these faults, one after the other, and then none.
    pub(crate) fn scripted(inner: Arc<InMemory>, script: &[Fault]) -> Arc<Self> {
        Arc::new(Self {
            inner,
            script: Mutex::new(script.iter().copied().collect()),
            dice: None,
            unseen: Mutex::default(),
            counted: Arc::default(),
        })
    }

    /// A store that fails at random, and lets others run at random.
    pub(crate) fn random(inner: Arc<InMemory>, seed: u64, counted: &Counted) -> Arc<Self> {
        Arc::new(Self {
            inner,
            script: Mutex::default(),
            dice: Some(Mutex::new(Dice::new(seed))),
            unseen: Mutex::default(),
            counted: Arc::clone(counted),
        })
    }

    /// Answers the next read of this object as if it had come just before the object was created.
    pub(crate) fn not_yet_seen(&self, path: Path) {
        *self.unseen.lock().unwrap() = Some(path);
    }

    /// The faults that were not met yet.
    pub(crate) fn rest(&self) -> usize {
        self.script.lock().unwrap().len()
    }

    fn roll(&self, end: u64) -> u64 {
        self.dice.as_ref().map_or(u64::MAX, |dice| dice.lock().unwrap().below(end))
    }

    fn next_fault(&self) -> Fault {
        if self.dice.is_none() {
            return self.script.lock().unwrap().pop_front().unwrap_or(Fault::None);
        }
        match self.roll(16) {
            0 | 1 => Fault::AnswerLost,
            2 | 3 => Fault::RequestLost,
            4 => Fault::Repeated,
            5 => Fault::Conflict,
            _ => Fault::None,
        }
    }

    async fn take_turns(&self) {
        if self.dice.is_some() {
            for _ in 0..self.roll(4) {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "connection reset".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.next_fault();
        self.take_turns().await;
        let path = location.to_string();
        match fault {
            Fault::RequestLost => return Err(lost()),
            Fault::Conflict => return Err(Error::AlreadyExists { path, source: "409 conflict".into() }),
            Fault::Denied => return Err(Error::PermissionDenied { path, source: "403".into() }),
            Fault::Overwrites => options.mode = PutMode::Overwrite,
            _ => {}
        }
        let counts = entry_at(&self.inner, location).await.filter(|(_, is_below)| !is_below);
        let put = self.inner.put_opts(location, payload.clone(), options.clone()).await;
        if let (Some((number, _)), Ok(_)) = (counts, &put) {
            let bytes: Bytes = payload.iter().flatten().copied().collect();
            assert_eq!(self.counted.lock().unwrap().insert(number, bytes), None, "entry {number} counts twice");
        }
        self.take_turns().await;
        match fault {
            Fault::AnswerLost => Err(lost()),
            Fault::Repeated => self.inner.put_opts(location, payload, options).await,
            _ => put,
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.take_turns().await;
        if self.unseen.lock().unwrap().take_if(|path| path == location).is_some() {
            return Err(Error::NotFound { path: location.to_string(), source: "not yet".into() });
        }
        let found = self.inner.get_opts(location, options).await;
        self.take_turns().await;
        found
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("a ledger never does this")
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("a ledger never does this")
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty store")
    }
}
