//! Step 3 of the commit protocol: the files of an intent become visible in one Delta commit, once.
//!
//! The commit carries the application id `freshet/<table>` with the intent's number as its version, and is made
//! on exactly the snapshot read. Which of two daemons was faster is told by that version, never by a clock.

use std::sync::Arc;

use datafusion::logical_expr::{ident, lit};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::kernel::{Action, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ParquetRecordBatchStreamBuilder;

use super::DeltaSink;
use super::columns;
use super::place::TableFolder;
use super::prepare::StagedAttempt;
use super::stage::{self, FILE_BYTES_MAX, Stage, Staged};
use super::table::{self, TRIES};
use super::trouble;
use crate::error::{Error, Result};
use crate::sink::part::Part;
use crate::sink::{Column, CommitOutcome, Prepared, Target};

/// One intent, ready to be committed.
struct Intent<'a> {
    folder: TableFolder,
    target: &'a Target,
    number: i64,
    staged: StagedAttempt,
}

/// Makes the rows of intent `number` visible, or finds that they are, or that they never will be.
pub(super) async fn commit(
    sink: &DeltaSink,
    target: &Target,
    number: u64,
    prepared: &Prepared,
) -> Result<CommitOutcome> {
    let staged: StagedAttempt = serde_json::from_value(prepared.staged.clone()).map_err(|cause| {
        Error::bug("the intent's description of its files cannot be read").in_table(&target.source).because(cause)
    })?;
    if staged.files.files.is_empty() {
        return Ok(CommitOutcome::Committed);
    }
    let number = i64::try_from(number).map_err(|cause| Error::bug("an intent's number is too large").because(cause))?;
    let intent = Intent { folder: sink.folder(target, Part::Changes), target, number, staged };
    for tried in 0..TRIES {
        let table = table::open_existing(&intent.folder).await?;
        if let Some(outcome) = intent.outcome(&table).await? {
            return Ok(outcome);
        }
        match intent.commit_on(sink, &table).await? {
            Some(outcome) => return Ok(outcome),
            None => table::pause(tried).await,
        }
    }
    let message = format!("other writers kept committing to {}", intent.folder.path.display());
    Err(Error::retry(message).in_table(&target.source))
}

/// The application id that commits to a target's log carry, each with its intent's number as version.
pub(super) fn app_id(target: &Target) -> String {
    format!("freshet/{}", target.source)
}

impl Intent<'_> {
    fn app_id(&self) -> String {
        app_id(self.target)
    }

    /// Set beside the application id by a commit that holds no rows: without it, a daemon that died between
    /// sealing the intent and saying so in the ledger would have it taken for committed.
    fn sealed_id(&self) -> String {
        format!("freshet-sealed/{}", self.target.source)
    }

    /// What the snapshot says became of the intent; None where its turn is only now.
    async fn outcome(&self, table: &DeltaTable) -> Result<Option<CommitOutcome>> {
        let version = table::transaction_version(&self.folder, table, &self.app_id()).await?;
        if version.is_none_or(|version| version < self.number) {
            return Ok(None);
        }
        if table::transaction_version(&self.folder, table, &self.sealed_id()).await? == Some(self.number) {
            return Ok(Some(CommitOutcome::Lost));
        }
        if version == Some(self.number) {
            return Ok(Some(CommitOutcome::Committed));
        }
        // A later intent was committed. That alone does not tell that this one was before it: "done" is a higher
        // version *and* the ledger's word. But intents are committed strictly in order, and only while they have
        // no outcome, so rows that are there are this intent's; where they are not, the caller's view of the
        // ledger is older than the table.
        if self.is_visible(table).await? {
            return Ok(Some(CommitOutcome::Committed));
        }
        Err(Error::fenced(format!("{} has gone past intent {} without its rows", self.folder.name, self.number))
            .in_table(&self.target.source)
            .hint("another daemon is ahead on this table, or the ledger was set back: read the ledger again"))
    }

    /// Whether the log holds the attempt's rows, be it in its own files or in files written anew since.
    async fn is_visible(&self, table: &DeltaTable) -> Result<bool> {
        let failed = |cause| trouble::query(&self.folder, "read", cause);
        let state = table.snapshot().map_err(|cause| trouble::delta(&self.folder, "read", cause))?;
        let live: std::collections::HashSet<_> =
            state.log_data().into_iter().map(|file| file.path().into_owned()).collect();
        if self.staged.files.files.iter().all(|file| live.contains(&file.path)) {
            return Ok(true);
        }
        let mine = ident(columns::BATCH).eq(lit(self.staged.attempt.as_str()));
        let rows =
            table::rows(&self.folder, table, None, &SessionContext::new()).await?.filter(mine).map_err(failed)?;
        let rows = u64::try_from(rows.count().await.map_err(failed)?).unwrap_or(u64::MAX);
        if rows != 0 && rows != self.staged.files.rows {
            let message =
                format!("{rows} of {} rows of attempt {} are in the log", self.staged.files.rows, self.staged.attempt);
            return Err(Error::user(message)
                .in_table(&self.target.source)
                .hint("another program changed the change log; restore it to an earlier version"));
        }
        Ok(rows != 0)
    }

    /// Commits on exactly this snapshot; None where another writer was faster.
    async fn commit_on(&self, sink: &DeltaSink, table: &DeltaTable) -> Result<Option<CommitOutcome>> {
        let mut transactions = vec![Transaction::new(self.app_id(), self.number)];
        let whole = self.files_are_whole(table).await?;
        let (outcome, actions) = if whole {
            (CommitOutcome::Committed, self.adds(sink, table).await?)
        } else {
            transactions.push(Transaction::new(self.sealed_id(), self.number));
            (CommitOutcome::Lost, Vec::new())
        };
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        match table::commit(table, actions, transactions, operation).await {
            Ok(after) => {
                self.make_durable(&after).await?;
                Ok(Some(outcome))
            }
            Err(cause) if trouble::is_conflict(&cause) => Ok(None),
            // Whether it took effect is unknown; the next call of `commit` looks.
            Err(cause) => Err(trouble::delta(&self.folder, "committed to", cause)),
        }
    }

    /// Whether every listed file is there with all its bytes.
    async fn files_are_whole(&self, table: &DeltaTable) -> Result<bool> {
        let store = table.object_store();
        for file in &self.staged.files.files {
            match store.head(&Path::from(file.path.as_str())).await {
                Ok(found) if i64::try_from(found.size).is_ok_and(|size| size == file.size) => {}
                Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(false),
                Err(cause) => return Err(trouble::delta(&self.folder, "committed to", cause.into())),
            }
        }
        Ok(true)
    }

    /// The add actions; of files written anew where the log's types were widened since the rows were prepared.
    async fn adds(&self, sink: &DeltaSink, table: &DeltaTable) -> Result<Vec<Action>> {
        let have = columns::of_table(table)?;
        let then = columns::of_schema(&self.staged.schema)?;
        let now: Vec<Column> = then
            .iter()
            .map(|column| match columns::find(&have, &column.name) {
                Some(found) if found.column_type.unite(&column.column_type).as_ref() == Some(&found.column_type) => {
                    Ok(found.clone())
                }
                _ => Err(self.no_longer_fits(column)),
            })
            .collect::<Result<_>>()?;
        let files =
            if now == then { self.staged.files.files.clone() } else { self.write_anew(sink, table, &now).await?.files };
        Ok(files.into_iter().map(Action::Add).collect())
    }

    fn no_longer_fits(&self, column: &Column) -> Error {
        let message =
            format!("column `{}` of prepared rows is gone from {}, or has another type", column.name, self.folder.name);
        Error::user(message)
            .in_table(&self.target.source)
            .hint("another program changed the change log; restore it to an earlier version")
    }

    async fn write_anew(&self, sink: &DeltaSink, table: &DeltaTable, now: &[Column]) -> Result<Staged> {
        let schema = columns::arrow_schema(now);
        let rows = futures::stream::iter(&self.staged.files.files)
            .then(|file| self.read(&file.path))
            .try_flatten()
            .map(|batch| stage::fit_batch(&batch?, now, &schema));
        let stage = Stage {
            folder: &self.folder,
            store: table.object_store(),
            // Fresh, so that no other daemon that commits the same intent just now writes over these files.
            prefix: format!("{}-widened-{}", self.staged.attempt, sink.clock.fresh_id()),
            schema: Arc::clone(&schema),
            bounded: vec![columns::BATCH.to_owned()],
            pool: Arc::clone(&SessionContext::new().runtime_env().memory_pool),
            now: sink.clock.now(),
            file_bytes_max: FILE_BYTES_MAX,
        };
        stage.write(rows.boxed()).await
    }

    async fn read(&self, path: &str) -> Result<futures::stream::BoxStream<'_, Result<arrow::array::RecordBatch>>> {
        let at = self.folder.path.join(path);
        let unreadable =
            |cause: parquet::errors::ParquetError| Error::retry("a prepared file cannot be read").because(cause);
        let file = tokio::fs::File::open(&at).await.map_err(|cause| trouble::io(&at, "read", cause))?;
        let rows = ParquetRecordBatchStreamBuilder::new(file).await.and_then(|builder| builder.build());
        Ok(rows.map_err(unreadable)?.map_err(unreadable).boxed())
    }

    /// The ledger will say Committed: a loss of power after that must not undo the commit.
    async fn make_durable(&self, after: &DeltaTable) -> Result<()> {
        let log = self.folder.path.join("_delta_log");
        let entry = log.join(format!("{:020}.json", after.version().unwrap_or_default()));
        for path in [&entry, &log, &self.folder.path] {
            stage::sync(path).await.map_err(|cause| trouble::io(path, "made durable", cause))?;
        }
        Ok(())
    }
}
