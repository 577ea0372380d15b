//! Rows of one snapshot are written anew, into files that no snapshot names yet.

use std::sync::Arc;

use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::kernel::Action;
use futures::StreamExt;

use super::columns;
use super::place::TableFolder;
use super::stage::{self, FILE_BYTES_MAX, Stage, Staged};
use super::{table, trouble};
use crate::clock::Clock;
use crate::error::Result;
use crate::sink::Column;

/// Which rows are written where.
pub(super) struct Rewrite<'a> {
    /// The rows' table, and the snapshot that is read.
    pub(super) from: (&'a TableFolder, &'a DeltaTable),
    /// Those of its rows that are written; None: all.
    pub(super) kept: Option<Expr>,
    /// The table that is to have the files.
    pub(super) to: (&'a TableFolder, &'a DeltaTable),
    /// Its columns.
    pub(super) columns: &'a [Column],
    /// Columns whose least and greatest value are noted.
    pub(super) bounded: Vec<String>,
    /// What is done to the rows, for messages and in the files' names: `widened`.
    pub(super) word: &'static str,
    /// Gives files their names and their time.
    pub(super) clock: &'a dyn Clock,
}

impl Rewrite<'_> {
    /// Writes the files.
    pub(super) async fn run(self, session: &SessionContext) -> Result<Staged> {
        let (from, snapshot) = self.from;
        let failed = |cause| trouble::query(from, self.word, cause);
        let rows = table::rows(from, snapshot, None, session).await?;
        let rows = match self.kept {
            Some(kept) => rows.filter(kept).map_err(failed)?,
            None => rows,
        };
        let schema = columns::arrow_schema(self.columns);
        let rows = rows.execute_stream().await.map_err(failed)?;
        let fitted = rows.map(|batch| stage::fit_batch(&batch.map_err(failed)?, self.columns, &schema));
        let stage = Stage {
            folder: self.to.0,
            store: self.to.1.object_store(),
            // Fresh, so that no other daemon that does the same just now writes over these files.
            prefix: format!("{}-{}", self.word, self.clock.fresh_id()),
            schema: Arc::clone(&schema),
            bounded: self.bounded,
            pool: Arc::clone(&session.runtime_env().memory_pool),
            now: self.clock.now(),
            file_bytes_max: FILE_BYTES_MAX,
        };
        stage.write(fitted.boxed()).await
    }
}

/// What puts these files in the place of all that a snapshot has.
pub(super) fn in_place_of_all(folder: &TableFolder, table: &DeltaTable, staged: &Staged) -> Result<Vec<Action>> {
    let state = table.snapshot().map_err(|cause| trouble::delta(folder, "opened", cause))?;
    let removed = state.log_data().into_iter().map(|file| Action::Remove(file.remove_action(true)));
    Ok(removed.chain(staged.files.iter().cloned().map(Action::Add)).collect())
}
