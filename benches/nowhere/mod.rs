//! A sink that keeps nothing, for benches of what comes before one.

use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use freshet::change::batch::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Purge, Recorded};
use freshet::error::Result;
use freshet::pipeline::report::{Observer, Progress};
use freshet::sink::{Rows, Sink, Target};

/// What a bench does with a batch.
#[async_trait]
pub(crate) trait Taking: Send + Sync {
    /// Takes the rows.
    async fn prepare(&self, attempt: &Attempt, rows: Rows) -> Result<Prepared>;

    /// Hears that they are committed.
    async fn commit(&self, _: &Prepared) {}
}

/// The sink.
pub(crate) struct Nowhere<T>(pub(crate) T);

#[async_trait]
impl<T: Taking> Sink for Nowhere<T> {
    fn describe(&self) -> String {
        "nowhere".into()
    }

    async fn prepare(&self, _: &Target, attempt: &Attempt, rows: Rows, _: &SessionContext) -> Result<Prepared> {
        self.0.prepare(attempt, rows).await
    }

    async fn commit(&self, _: &Target, _: u64, prepared: &Prepared) -> Result<CommitOutcome> {
        self.0.commit(prepared).await;
        Ok(CommitOutcome::Committed)
    }

    async fn merge(&self, _: &Target, _: &MergeAttempt, _: &SessionContext) -> Result<MergeCounts> {
        Ok(MergeCounts::default())
    }

    fn merges_here(&self) -> bool {
        false
    }

    async fn newest(&self, _: &Target, _: &str, _: &SessionContext) -> Result<Option<String>> {
        Ok(None)
    }

    async fn purge(&self, _: &Target, _: &Purge, _: &SessionContext) -> Result<()> {
        Ok(())
    }

    async fn fit(&self, _: &Target, _: &Target, _: &SessionContext) -> Result<()> {
        Ok(())
    }

    async fn switch(&self, _: &Target, _: &str, _: &Target, _: &SessionContext) -> Result<()> {
        Ok(())
    }

    async fn discard(&self, _: &Target) -> Result<()> {
        Ok(())
    }

    async fn recorded(&self, _: &Target, _: &SessionContext) -> Result<Option<Recorded>> {
        Ok(None)
    }

    async fn row_counts(&self, _: &Target) -> Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }
}

/// Prints what goes wrong, and nothing else.
pub(crate) struct Troubles;

impl Observer for Troubles {
    fn tell(&self, progress: &Progress<'_>) {
        if let Progress::TableStopped { error, .. } | Progress::Failing { error, .. } = progress {
            println!("{}", error.report());
        }
    }
}
