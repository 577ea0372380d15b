//! Where change files come from: a source delivers them and is told last that they are done.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use object_store::ObjectStore;

use crate::catalog::layout::Layout;
use crate::change::ChangeFile;
use crate::clock::Clock;
use crate::config::{Config, Since};
use crate::error::{Error, Result};
use crate::storage::{Aws, S3Location};

pub mod bucket;
pub mod dms;
pub mod folder;
mod object;
mod span;
pub mod sqs;

pub use span::Span;

use bucket::BucketSource;
use folder::{FolderSource, KnownFiles};
use sqs::SqsSource;

/// Change files that arrived together, and how to acknowledge them.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The files, at least one; of one table or several.
    pub files: Vec<ChangeFile>,
    /// The source's own name for the delivery.
    pub receipt: String,
}

/// What one call of [`Source::receive`] brought.
#[derive(Debug, Default)]
pub struct Received {
    /// Deliveries that must be acknowledged or given back.
    pub deliveries: Vec<Delivery>,
    /// What could not be understood and is left where it is; each error names its file.
    pub left: Vec<Error>,
}

/// A place that delivers change files, at least once and in no order.
#[async_trait]
pub trait Source: Send + Sync {
    /// The next deliveries; none where nothing is there now.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the source cannot be reached now,
    /// [`User`](crate::error::Kind::User) where it never will be.
    async fn receive(&self) -> Result<Received>;

    /// Tells the source that every file of these deliveries is done. Called only after their commit.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry): the deliveries will come again, which is harmless.
    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()>;

    /// Hands deliveries back undone, so that they come again soon, to this process or to another. A source that
    /// has nobody to hand them to delivers them again itself.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry): the deliveries will come again all the same, later.
    async fn give_back(&self, deliveries: &[Delivery]) -> Result<()>;

    /// Lets go of deliveries undone, without haste: they come again when the source thinks fit.
    ///
    /// # Errors
    /// As those of [`give_back`](Self::give_back).
    async fn leave(&self, deliveries: &[Delivery]) -> Result<()> {
        self.give_back(deliveries).await
    }

    /// Hands back what was received and not yet delivered; nothing is received after it.
    ///
    /// # Errors
    /// As those of [`give_back`](Self::give_back).
    async fn close(&self) -> Result<()> {
        Ok(())
    }

    /// Puts what the daemon's operator should know of this source into the log.
    fn say_standing(&self) {}

    /// Where the files can be read, each under its `path`.
    fn store(&self) -> Arc<dyn ObjectStore>;

    /// How long to wait after a [`receive`](Self::receive) that brought nothing; zero where that waits itself.
    fn pause(&self) -> Duration;
}

/// The source that a configuration names. `now` is what `since: now` means: when the ledger was made.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where there is no such place, or the layout is none.
pub async fn open(
    config: &Config,
    now: DateTime<Utc>,
    known: Arc<dyn KnownFiles>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Source>> {
    let since = since_of(config, now);
    if config.source.queue.is_none() {
        return listed(config, since, Span::default(), known).await;
    }
    let aws = Aws::load().await?;
    Ok(Arc::new(SqsSource::open(&config.source, layout_of(config)?, since, &aws, Arc::clone(clock)).await?))
}

/// What the configuration's source has of a span by listing it, whether or not a queue tells of it; in S3 only what was
/// last modified at `since` or later.
///
/// # Errors
/// As those of [`open`].
pub async fn listed(
    config: &Config,
    since: Option<DateTime<Utc>>,
    span: Span,
    known: Arc<dyn KnownFiles>,
) -> Result<Arc<dyn Source>> {
    let (files, layout) = (&config.source.files, layout_of(config)?);
    if !S3Location::is_meant_by(files) {
        return Ok(Arc::new(FolderSource::open(files, layout, known)?.within(span)));
    }
    let location = S3Location::parse(files)?;
    let aws = Aws::load().await?;
    Ok(Arc::new(BucketSource::open(location, layout, since, &aws)?.within(span)))
}

fn layout_of(config: &Config) -> Result<Layout> {
    config.source.layout.as_deref().map_or_else(|| Ok(Layout::known()), Layout::pattern)
}

/// From which moment on a configuration wants files; None: all.
fn since_of(config: &Config, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match config.source.since {
        None | Some(Since::Beginning) => None,
        Some(Since::Time(time)) => Some(time),
        Some(Since::Now) => Some(now),
    }
}

#[cfg(test)]
mod tests {
    use super::folder::NothingKnown;
    use super::*;
    use crate::error::Kind;

    fn config(files: &str, since: Option<Since>) -> Config {
        let mut config = Config::for_folder(files);
        config.source.since = since;
        config
    }

    #[test]
    fn now_is_when_the_ledger_was_made() {
        let made = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
        let since = |since| since_of(&config("s3://cdc-files/dms", since), made);
        assert_eq!((since(None), since(Some(Since::Beginning)), since(Some(Since::Now))), (None, None, Some(made)));
        let time = DateTime::from_timestamp_millis(5).unwrap();
        assert_eq!(since(Some(Since::Time(time))), Some(time));
    }

    #[tokio::test]
    async fn a_folder_is_opened_without_asking_for_aws_and_a_wrong_place_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config_of = |files: &str| config(files, None);
        let here = config_of(folder.path().to_str().unwrap());
        assert!(listed(&here, None, Span::default(), Arc::new(NothingKnown)).await.is_ok());
        for files in ["s3://", "s3://cdc-files/*.csv", "gs://cdc-files/dms"] {
            let error = listed(&config_of(files), None, Span::default(), Arc::new(NothingKnown)).await.err().unwrap();
            assert_eq!(error.kind(), Kind::User, "{files}");
            assert!(error.hint_text().is_some(), "{files}: {error}");
        }
    }
}
