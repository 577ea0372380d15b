//! An object store as one life sees it: steps before and after each request, and answers that get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::ledger::faulty::entry_at;
use crate::trial::life::Life;

/// A store in memory, seen from one life.
#[derive(Debug)]
pub(crate) struct LivedStore {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) life: Arc<Life>,
    pub(crate) below: Arc<Below>,
}

/// How often a chain of the ledger was compacted, and what was asked of it below.
#[derive(Debug, Default)]
pub(crate) struct Below {
    pub(crate) compactions: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) read: AtomicU64,
}

impl LivedStore {
    /// Counts what is asked of an entry that is compacted away.
    async fn count_below(&self, location: &Path, count: &AtomicU64) {
        let is_below = entry_at(&self.inner, location).await.is_some_and(|(_, is_below)| is_below);
        count.fetch_add(u64::from(is_below), Ordering::SeqCst);
    }
}

/// What is told of a request, or of an answer, that is lost on its way.
pub(super) fn lost() -> Error {
    Error::Generic { store: "simulated", source: "connection reset".into() }
}

/// Deletes one after the other, each a step; what became of it may not be heard.
pub(super) fn deletes(
    inner: Arc<dyn ObjectStore>,
    life: &Arc<Life>,
    locations: BoxStream<'static, Result<Path>>,
) -> BoxStream<'static, Result<Path>> {
    let life = Arc::clone(life);
    let deleted = locations.then(move |location| {
        let (inner, life) = (Arc::clone(&inner), Arc::clone(&life));
        async move {
            let location = location?;
            life.travel().await;
            inner.delete(&location).await?;
            life.step().await;
            if life.fails(40) { Err(lost()) } else { Ok(location) }
        }
    });
    deleted.boxed()
}

#[async_trait]
impl ObjectStore for LivedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.life.travel().await;
        if self.life.fails(40) {
            return Err(lost());
        }
        let put = self.inner.put_opts(location, payload, options).await;
        if put.is_ok() {
            let is_mark = location.as_ref().contains("/compactions/");
            self.below.compactions.fetch_add(u64::from(is_mark), Ordering::SeqCst);
            self.count_below(location, &self.below.written).await;
        }
        self.life.travel().await;
        if self.life.fails(20) { Err(lost()) } else { put }
    }

    /// As S3 does it: with quotes around eTags, and with a code where there is nothing.
    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        options.if_match = options.if_match.map(|e_tag| e_tag.trim_matches('"').to_owned());
        self.life.travel().await;
        if self.life.fails(200) {
            return Err(lost());
        }
        match self.inner.get_opts(location, options).await {
            Err(Error::NotFound { path, .. }) => {
                self.count_below(location, &self.below.read).await;
                Err(Error::NotFound { path, source: "<Error><Code>NoSuchKey</Code></Error>".into() })
            }
            found => found,
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.life.travel().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("a daemon never does this")
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        deletes(Arc::clone(&self.inner) as _, &self.life, locations)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("a daemon never does this")
    }
}

impl std::fmt::Display for LivedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("simulated store")
    }
}
