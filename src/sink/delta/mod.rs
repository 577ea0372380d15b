//! The embedded sink: Delta Lake tables in a local folder.
//!
//! Below the sink's folder, each table is a Delta table of its own: `<dataset>/<table>_changes` is the change
//! log, `<dataset>/<table>` the final table, and `<dataset>/<table>_tombstones` remembers deleted keys.
//! See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use self::place::TableFolder;
use crate::clock::Clock;
use crate::error::Result;
use crate::sink::part::Part;
use crate::sink::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Purge, Recorded, Rows, Sink, Target};

mod changes;
mod columns;
mod commit;
mod evolve;
mod merge;
mod place;
mod prepare;
mod purge;
mod recorded;
mod rewrite;
mod slices;
mod stage;
mod switch;
mod table;
#[cfg(test)]
mod tests;
mod trouble;
mod unique;

/// Delta Lake tables below a local folder.
#[derive(Debug)]
pub struct DeltaSink {
    root: PathBuf,
    disk: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
}

impl DeltaSink {
    /// The sink at `location`: a path, or a `file://` URL. The folder is made when something is written.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the location is no local folder,
    /// [`Retry`](crate::error::Kind::Retry) where the way to it cannot be read.
    pub fn open(location: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::on(Arc::new(LocalFileSystem::new()), location, clock)
    }

    /// The same, whose requests go through a store of the whole disk.
    pub(crate) fn on(disk: Arc<dyn ObjectStore>, location: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { root: place::local_folder(location)?, disk, clock })
    }

    fn folder(&self, target: &Target, part: Part) -> TableFolder {
        TableFolder::new(&self.root, Arc::clone(&self.disk), target, part)
    }
}

#[async_trait]
impl Sink for DeltaSink {
    fn describe(&self) -> String {
        format!("delta {}", self.root.display())
    }

    async fn prepare(
        &self,
        target: &Target,
        attempt: &Attempt,
        rows: Rows,
        session: &SessionContext,
    ) -> Result<Prepared> {
        prepared(self, target, attempt, rows, session).await
    }

    async fn commit(&self, target: &Target, number: u64, prepared: &Prepared) -> Result<CommitOutcome> {
        committed(self, target, number, prepared).await
    }

    async fn merge(&self, target: &Target, merge: &MergeAttempt, session: &SessionContext) -> Result<MergeCounts> {
        merged(self, target, merge, session).await
    }

    fn merges_here(&self) -> bool {
        true
    }

    async fn newest(&self, target: &Target, below: &str, session: &SessionContext) -> Result<Option<String>> {
        newest(self, target, below, session).await
    }

    async fn purge(&self, target: &Target, purge: &Purge, session: &SessionContext) -> Result<()> {
        purged(self, target, purge, session).await.map_err(|error| error.in_table(&target.source))
    }

    async fn fit(&self, built: &Target, target: &Target, session: &SessionContext) -> Result<()> {
        fitted(self, built, target, session).await.map_err(|error| error.in_table(&target.source))
    }

    async fn switch(&self, built: &Target, _reload: &str, target: &Target, session: &SessionContext) -> Result<()> {
        switched(self, built, target, session).await.map_err(|error| error.in_table(&target.source))
    }

    async fn discard(&self, built: &Target) -> Result<()> {
        switch::discard(self, built).await
    }

    async fn row_counts(&self, target: &Target) -> Result<Vec<(String, u64)>> {
        counted(self, target).await
    }

    async fn recorded(&self, target: &Target, session: &SessionContext) -> Result<Option<Recorded>> {
        found(self, target, session).await
    }
}

// The compiler proves that a future can be sent for each function with bounds anew, and every method of an async trait
// has bounds. deltalake's futures are so large that this was a third of the whole crate's build; these are proved once.

fn prepared<'a>(
    sink: &'a DeltaSink,
    target: &'a Target,
    attempt: &'a Attempt,
    rows: Rows,
    session: &'a SessionContext,
) -> BoxFuture<'a, Result<Prepared>> {
    Box::pin(prepare::prepare(sink, target, attempt, rows, session))
}

fn committed<'a>(
    sink: &'a DeltaSink,
    target: &'a Target,
    number: u64,
    prepared: &'a Prepared,
) -> BoxFuture<'a, Result<CommitOutcome>> {
    Box::pin(commit::commit(sink, target, number, prepared))
}

fn merged<'a>(
    sink: &'a DeltaSink,
    target: &'a Target,
    merge: &'a MergeAttempt,
    session: &'a SessionContext,
) -> BoxFuture<'a, Result<MergeCounts>> {
    Box::pin(merge::merge(sink, target, merge, session))
}

fn newest<'a>(
    sink: &'a DeltaSink,
    target: &'a Target,
    below: &'a str,
    session: &'a SessionContext,
) -> BoxFuture<'a, Result<Option<String>>> {
    Box::pin(purge::newest(sink, target, below, session))
}

fn purged<'a>(
    sink: &'a DeltaSink,
    target: &'a Target,
    purge: &'a Purge,
    session: &'a SessionContext,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(purge::purge(sink, target, purge, session))
}

fn fitted<'a>(
    sink: &'a DeltaSink,
    built: &'a Target,
    target: &'a Target,
    session: &'a SessionContext,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(switch::fit(sink, built, target, session))
}

fn switched<'a>(
    sink: &'a DeltaSink,
    built: &'a Target,
    target: &'a Target,
    session: &'a SessionContext,
) -> BoxFuture<'a, Result<()>> {
    Box::pin(switch::switch(sink, built, target, session))
}

fn found<'a>(
    sink: &'a DeltaSink,
    target: &'a Target,
    session: &'a SessionContext,
) -> BoxFuture<'a, Result<Option<Recorded>>> {
    Box::pin(recorded::recorded(sink, target, session))
}

fn counted<'a>(sink: &'a DeltaSink, target: &'a Target) -> BoxFuture<'a, Result<Vec<(String, u64)>>> {
    Box::pin(async move {
        let mut out = Vec::new();
        for part in Part::of(target) {
            let folder = sink.folder(target, part);
            if let Some(table) = table::open(&folder).await? {
                out.push((folder.name.clone(), table::row_count(&folder, &table)?));
            }
        }
        Ok(out)
    })
}
