//! A disk as one life sees it: steps before and after each write, and answers that get lost.
//!
//! Delta Lake's reader asks from threads of its own, where no time is told: a read is no step, and a dead life's fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::store::{deletes, lost};
use crate::trial::life::Life;

/// The whole disk, seen from one life.
#[derive(Debug)]
pub(super) struct LivedDisk {
    inner: Arc<LocalFileSystem>,
    life: Arc<Life>,
    /// How often something was done and nobody heard of it.
    answers_lost: Arc<AtomicU64>,
}

impl LivedDisk {
    pub(super) fn new(life: &Arc<Life>, answers_lost: &Arc<AtomicU64>) -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()), life: Arc::clone(life), answers_lost: Arc::clone(answers_lost) }
    }

    /// The way there may be long, or lead nowhere.
    async fn go(&self) -> Result<()> {
        self.life.travel().await;
        if self.life.fails(60) { Err(lost()) } else { Ok(()) }
    }

    /// The answer may get lost.
    async fn back<T>(&self, answer: Result<T>) -> Result<T> {
        self.life.travel().await;
        if answer.is_ok() && self.life.fails(60) {
            self.answers_lost.fetch_add(1, Ordering::SeqCst);
            return Err(lost());
        }
        answer
    }

    fn read(&self) -> Result<()> {
        if self.life.died() || self.life.fails(2_000) { Err(lost()) } else { Ok(()) }
    }
}

#[async_trait]
impl ObjectStore for LivedDisk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.go().await?;
        self.back(self.inner.put_opts(location, payload, options).await).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read()?;
        self.inner.get_opts(location, options).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.read() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("no file of a simulation is that large")
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        deletes(Arc::clone(&self.inner) as _, &self.life, locations)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.go().await?;
        self.back(self.inner.copy_opts(from, to, options).await).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.go().await?;
        self.back(self.inner.rename_opts(from, to, options).await).await
    }
}

impl std::fmt::Display for LivedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("simulated disk")
    }
}
