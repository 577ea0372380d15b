//! One Delta table: reading its newest snapshot, creating it, and committing on exactly the snapshot read.

use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::{DataFrame, SessionContext};
use deltalake::delta_datafusion::FileSelection;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TableReference};
use deltalake::kernel::{Action, Transaction};
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};

use super::columns;
use super::place::TableFolder;
use super::trouble;
use crate::error::{Error, Result};
use crate::sink::Column;

/// How often something is tried again after another writer was faster.
pub(super) const TRIES: usize = 20;

/// The table property that names the columns with statistics.
/// See <https://docs.delta.io/latest/table-properties.html>.
pub(super) const STATISTICS: &str = "delta.dataSkippingStatsColumns";

/// Reads the newest snapshot; None where there is no table yet.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where the folder holds another table or a damaged one,
/// [`Retry`](crate::error::Kind::Retry) where the disk is to blame.
pub(super) async fn open(folder: &TableFolder) -> Result<Option<DeltaTable>> {
    let table = open_unbound(folder).await?;
    if let Some(table) = &table {
        check_binding(folder, table)?;
    }
    Ok(table)
}

/// [`open`] for who does not know which key the table has.
pub(super) async fn open_unbound(folder: &TableFolder) -> Result<Option<DeltaTable>> {
    if !has_log(folder).await? {
        return Ok(None);
    }
    let mut table = folder.unread()?;
    table.load().await.map_err(|cause| trouble::delta(folder, "opened", cause))?;
    Ok(Some(table))
}

/// The newest snapshot of a table that must be there.
///
/// # Errors
/// As [`open`]; [`User`](crate::error::Kind::User) where the table is gone.
pub(super) async fn open_existing(folder: &TableFolder) -> Result<DeltaTable> {
    open(folder).await?.ok_or_else(|| {
        Error::user(format!("the Delta table at {} is gone", folder.path.display()))
            .in_table(&folder.source)
            .hint("restore it from a backup, or start again with an empty ledger and an empty target")
    })
}

/// Whether a commit was ever written: a log folder alone may be left by a creation that never came to its end.
pub(super) async fn has_log(folder: &TableFolder) -> Result<bool> {
    let log = folder.path.join("_delta_log");
    let unreadable = |cause| trouble::io(&log, "read", cause);
    let mut entries = match tokio::fs::read_dir(&log).await {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(unreadable(cause).in_table(&folder.source)),
    };
    while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".json") || name.ends_with(".parquet") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn check_binding(folder: &TableFolder, table: &DeltaTable) -> Result<()> {
    let state = table.snapshot().map_err(|cause| trouble::delta(folder, "opened", cause))?;
    let properties = state.metadata().configuration();
    let wrong = folder.binding.iter().find(|(name, value)| properties.get(*name) != Some(*value));
    let Some((name, value)) = wrong else {
        return Ok(());
    };
    let found = properties.get(name).map_or("nothing", String::as_str);
    Err(Error::user(format!(
        "the folder {} holds another table: its {name} is {found}, not {value}",
        folder.path.display()
    ))
    .in_table(&folder.source)
    .hint("give the table another target, or move that folder away and reload the table under its new settings"))
}

/// Creates the table, or gives the one that another writer has just created.
pub(super) async fn create(folder: &TableFolder, wanted: &[Column], statistics: &str) -> Result<DeltaTable> {
    let columns = columns::unite(&[], wanted)?.columns;
    tokio::fs::create_dir_all(&folder.path)
        .await
        .map_err(|cause| trouble::io(&folder.path, "created", cause).in_table(&folder.source))?;
    let mut properties = folder.binding.clone();
    properties.insert(STATISTICS.to_owned(), statistics.to_owned());
    let created = folder
        .unread()?
        .create()
        .with_table_name(&folder.name)
        .with_columns(columns::delta_schema(&columns)?.fields().cloned())
        .with_configuration(properties.into_iter().map(|(name, value)| (name, Some(value))))
        .with_raise_if_key_not_exists(false)
        .with_commit_properties(exactly(Vec::new()))
        .await;
    match created {
        Ok(table) => Ok(table),
        Err(cause) => match open(folder).await? {
            Some(table) => Ok(table),
            None => Err(trouble::delta(folder, "created", cause)),
        },
    }
}

/// Commits on exactly the snapshot read: another commit since then makes this one fail, nothing is retried.
pub(super) async fn commit(
    table: &DeltaTable,
    actions: Vec<Action>,
    transactions: Vec<Transaction>,
    operation: DeltaOperation,
) -> Result<DeltaTable, DeltaTableError> {
    let read: &dyn TableReference = table.snapshot()?;
    let done = CommitBuilder::from(exactly(transactions))
        .with_actions(actions)
        .build(Some(read), table.log_store(), operation)
        .await?;
    let mut after = DeltaTable::new(table.log_store());
    after.state = Some(done.snapshot());
    Ok(after)
}

/// Commit properties under which nothing is retried.
pub(super) fn exactly(transactions: Vec<Transaction>) -> CommitProperties {
    CommitProperties::default().with_max_retries(0).with_application_transactions(transactions)
}

/// The version of an application id in the snapshot read.
pub(super) async fn transaction_version(folder: &TableFolder, table: &DeltaTable, app_id: &str) -> Result<Option<i64>> {
    let read = async { table.snapshot()?.transaction_version(table.log_store().as_ref(), app_id).await };
    read.await.map_err(|cause: DeltaTableError| trouble::delta(folder, "opened", cause))
}

/// The rows of the snapshot read; with `files`, of these only.
pub(super) async fn rows(
    folder: &TableFolder,
    table: &DeltaTable,
    files: Option<Vec<String>>,
    session: &SessionContext,
) -> Result<DataFrame> {
    let failed = |cause| trouble::query(folder, "read", cause);
    let state = Arc::new(session.state());
    table.update_datafusion_session(state.as_ref()).map_err(|cause| trouble::delta(folder, "read", cause))?;
    let provider = table.table_provider().with_session(state);
    let provider = match files {
        Some(files) => provider.with_file_selection(FileSelection::from_file_paths(files)),
        None => provider,
    };
    session.read_table(provider.await.map_err(failed)?).map_err(failed)
}

/// How many rows the snapshot read has, by its files' statistics.
pub(super) fn row_count(folder: &TableFolder, table: &DeltaTable) -> Result<u64> {
    let state = table.snapshot().map_err(|cause| trouble::delta(folder, "opened", cause))?;
    let rows = state.log_data().into_iter().filter_map(|file| file.num_records());
    Ok(rows.map(|rows| u64::try_from(rows).unwrap_or(u64::MAX)).sum())
}

/// A short pause before the next try, longer each time.
pub(super) async fn pause(tried: usize) {
    let ms = 10_u64.saturating_mul(u64::try_from(tried).unwrap_or(1));
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
