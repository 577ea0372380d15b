//! An object store as one life sees it: steps before and after each request, and answers that get lost.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::trial::life::Life;

/// A store in memory, seen from one life.
#[derive(Debug)]
pub(crate) struct LivedStore {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) life: Arc<Life>,
}

fn lost() -> Error {
    Error::Generic { store: "simulated", source: "connection reset".into() }
}

#[async_trait]
impl ObjectStore for LivedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.life.travel().await;
        if self.life.fails(40) {
            return Err(lost());
        }
        let put = self.inner.put_opts(location, payload, options).await;
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

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        unimplemented!("a daemon never does this")
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
