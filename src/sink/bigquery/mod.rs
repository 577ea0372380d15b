//! BigQuery: rows by the Storage Write API in Arrow, tables and merges by REST.
//!
//! In the dataset of a target: `<table>_changes`, the log, written here alone; `<table>`, the final table, and
//! `<table>_tombstones`, merged from it by query jobs; `<table>_live`, a view of the final table with the changes
//! not merged yet.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::prelude::SessionContext;

use crate::clock::Clock;
use crate::config::BigQueryConfig;
use crate::error::Result;
use crate::sink::part::Part;
use crate::sink::token::Tokens;
use crate::sink::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Purge, Recorded, Rows, Sink, Target};

mod append;
mod bounds;
mod budget;
mod commit;
mod connection;
mod details;
mod encode;
#[cfg(test)]
pub(super) mod fake;
#[cfg(test)]
mod fake_rest;
mod frames;
mod jobs;
mod layout;
mod merge;
mod outgoing;
mod prepare;
mod purge;
mod recorded;
mod repeated;
mod rest;
mod schema;
mod sql;
mod staged;
mod status;
mod streams;
mod switch;
mod tables;
mod trouble;
mod visible;
mod widen;
mod write;

/// A table or view of BigQuery; shown as `project.dataset.table`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TableId {
    project: String,
    dataset: String,
    table: String,
}

impl TableId {
    /// Its name in the Storage Write API.
    fn path(&self) -> String {
        format!("projects/{}/datasets/{}/tables/{}", self.project, self.dataset, self.table)
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.project, self.dataset, self.table)
    }
}

/// Tables of one Google Cloud project.
pub struct BigQuerySink {
    config: BigQueryConfig,
    clock: Arc<dyn Clock>,
    rest: rest::Rest,
    known: tables::Known,
    write: write::WriteApi,
}

impl BigQuerySink {
    /// The sink that the configuration describes; nothing is asked of BigQuery yet.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where an endpoint or Google's credentials cannot be used.
    pub fn open(config: BigQueryConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let tokens = Tokens::find(&config, Arc::clone(&clock))?;
        let rest = rest::Rest::new(&config, tokens.clone())?;
        let write = write::WriteApi::new(&config, tokens, Arc::clone(&clock))?;
        Ok(Self { config, clock, rest, known: tables::Known::default(), write })
    }

    /// The same, with messages of so many bytes on their way at most, of all tables together.
    pub fn with_outgoing(mut self, bytes: u64) -> Self {
        self.write.outgoing = outgoing::Outgoing::new(bytes);
        self
    }

    fn table(&self, target: &Target, part: Part) -> TableId {
        TableId {
            project: self.config.project.clone(),
            dataset: target.name.database.clone(),
            table: format!("{}{}", target.name.table, part.suffix()),
        }
    }
}

#[async_trait]
impl Sink for BigQuerySink {
    fn describe(&self) -> String {
        format!("bigquery {}", self.config.project)
    }

    async fn prepare(
        &self,
        target: &Target,
        attempt: &Attempt,
        rows: Rows,
        _session: &SessionContext,
    ) -> Result<Prepared> {
        let prepared = Box::pin(prepare::prepare(self, target, attempt, rows)).await;
        if prepared.is_err() {
            tables::forget(self, target);
        }
        prepared.map_err(|error| error.in_table(&target.source))
    }

    async fn commit(&self, target: &Target, _number: u64, prepared: &Prepared) -> Result<CommitOutcome> {
        Box::pin(commit::commit(self, target, prepared)).await.map_err(|error| error.in_table(&target.source))
    }

    async fn merge(&self, target: &Target, merge: &MergeAttempt, _session: &SessionContext) -> Result<MergeCounts> {
        Box::pin(merge::merge(self, target, merge)).await.map_err(|error| error.in_table(&target.source))
    }

    fn merges_here(&self) -> bool {
        false
    }

    async fn newest(&self, target: &Target, below: &str, _session: &SessionContext) -> Result<Option<String>> {
        Box::pin(purge::newest(self, target, below)).await.map_err(|error| error.in_table(&target.source))
    }

    async fn purge(&self, target: &Target, purge: &Purge, _session: &SessionContext) -> Result<()> {
        Box::pin(purge::purge(self, target, purge)).await.map_err(|error| error.in_table(&target.source))
    }

    async fn fit(&self, built: &Target, target: &Target, _session: &SessionContext) -> Result<()> {
        Box::pin(switch::fit(self, built, target)).await.map_err(|error| error.in_table(&target.source))
    }

    async fn switch(&self, built: &Target, reload: &str, target: &Target, _session: &SessionContext) -> Result<()> {
        Box::pin(switch::switch(self, built, reload, target)).await.map_err(|error| error.in_table(&target.source))
    }

    async fn discard(&self, built: &Target) -> Result<()> {
        Box::pin(switch::discard(self, built)).await.map_err(|error| error.in_table(&built.source))
    }

    async fn row_counts(&self, target: &Target) -> Result<Vec<(String, u64)>> {
        tables::row_counts(self, target).await
    }

    async fn recorded(&self, target: &Target, _session: &SessionContext) -> Result<Option<Recorded>> {
        Box::pin(recorded::recorded(self, target)).await.map_err(|error| error.in_table(&target.source))
    }
}
