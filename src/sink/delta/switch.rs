//! A generation that was built in another target takes the place of this one's: its rows are copied, and one commit
//! replaces all rows of a table by them.
//!
//! Tombstones come first: between the two commits the final table is still that of the generation before, whole. Each
//! commit notes the generation; a merge of an earlier one that reads such a snapshot stops, and one that read an earlier
//! snapshot cannot commit.

use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::kernel::Transaction;
use deltalake::protocol::{DeltaOperation, SaveMode};

use super::columns;
use super::evolve::{self, Wanted};
use super::place::TableFolder;
use super::rewrite::{self, Rewrite};
use super::stage::{self, Staged};
use super::table::{self, TRIES};
use super::{DeltaSink, trouble};
use crate::config::OnDelete;
use crate::error::{Error, Result};
use crate::sink::Target;
use crate::sink::part::Part;

/// Gives each table of the target the columns that the one has which was built: where types do not unite, that is told
/// before anything is switched.
pub(super) async fn fit(sink: &DeltaSink, built: &Target, target: &Target, session: &SessionContext) -> Result<()> {
    for part in Part::of(target) {
        if let Some(source) = table::open(&sink.folder(built, part)).await? {
            let bounded = match part {
                Part::Changes => vec![columns::BATCH.to_owned()],
                _ => target.key.clone(),
            };
            let wanted = Wanted { columns: columns::of_table(&source)?, bounded, clock: sink.clock.as_ref() };
            evolve::evolve(&sink.folder(target, part), &wanted, session).await?;
        }
    }
    Ok(())
}

/// Puts what was built in the place of the target's tombstones and final rows.
pub(super) async fn switch(sink: &DeltaSink, built: &Target, target: &Target, session: &SessionContext) -> Result<()> {
    if target.on_delete == OnDelete::Remove {
        replace(sink, built, target, Part::Tombstones, session).await?;
    }
    replace(sink, built, target, Part::Final, session).await
}

/// Deletes the tables of a target in which a generation was built.
pub(super) async fn discard(sink: &DeltaSink, built: &Target) -> Result<()> {
    for part in Part::of(built) {
        let path = sink.folder(built, part).path;
        match tokio::fs::remove_dir_all(&path).await {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(trouble::io(&path, "deleted", cause).in_table(&built.source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Demands that a snapshot to be merged into is not of a later generation than the target's.
pub(super) async fn demand_generation(folder: &TableFolder, table: &DeltaTable, target: &Target) -> Result<()> {
    match generation_of(folder, table, target).await? {
        Some(generation) if generation > target.generation => Err(Error::fenced(format!(
            "{} was switched to generation {generation}, the merge is of generation {}",
            folder.name, target.generation
        ))
        .in_table(&target.source)),
        _ => Ok(()),
    }
}

/// The generation that a snapshot was switched to; None where it never was.
pub(super) async fn generation_of(folder: &TableFolder, table: &DeltaTable, target: &Target) -> Result<Option<u64>> {
    let version = table::transaction_version(folder, table, &app_id(target)).await?;
    Ok(version.and_then(|version| u64::try_from(version).ok()))
}

fn app_id(target: &Target) -> String {
    format!("freshet-generation/{}", target.source)
}

async fn replace(
    sink: &DeltaSink,
    built: &Target,
    target: &Target,
    part: Part,
    session: &SessionContext,
) -> Result<()> {
    let (from, folder) = (sink.folder(built, part), sink.folder(target, part));
    let source = table::open(&from).await?;
    // Where nothing was built there is nothing to copy, and rows to be removed only in a table that is there.
    let wanted = match &source {
        Some(source) => columns::of_table(source)?,
        None => match table::open(&folder).await? {
            Some(table) => columns::of_table(&table)?,
            None => return Ok(()),
        },
    };
    let wanted = Wanted { columns: wanted, bounded: target.key.clone(), clock: sink.clock.as_ref() };
    let number = i64::try_from(built.generation).map_err(|cause| Error::bug("too many generations").because(cause))?;
    for tried in 0..TRIES {
        let table = evolve::evolve(&folder, &wanted, session).await?;
        if generation_of(&folder, &table, target).await?.is_some_and(|generation| generation >= built.generation) {
            return Ok(());
        }
        let staged = match &source {
            Some(source) => copy(sink, (&from, source), (&folder, &table), target, session).await?,
            None => Staged::default(),
        };
        let actions = rewrite::in_place_of_all(&folder, &table, &staged)?;
        let operation = DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by: None, predicate: None };
        match table::commit(&table, actions, vec![Transaction::new(app_id(target), number)], operation).await {
            Ok(_) => return Ok(()),
            Err(cause) if trouble::is_conflict(&cause) => {
                stage::discard(table.object_store().as_ref(), &staged.files).await;
                table::pause(tried).await;
            }
            Err(cause) => return Err(trouble::delta(&folder, "switched", cause)),
        }
    }
    Err(Error::retry(format!("other writers kept changing {}", folder.path.display())).in_table(&target.source))
}

/// Writes the rows that were built as files of the table they are to be in, unseen.
async fn copy(
    sink: &DeltaSink,
    from: (&TableFolder, &DeltaTable),
    to: (&TableFolder, &DeltaTable),
    target: &Target,
    session: &SessionContext,
) -> Result<Staged> {
    let columns = columns::of_table(to.1)?;
    let bounded = columns::exactly_bounded(&columns, &target.key).into_iter().map(str::to_owned).collect();
    let clock = sink.clock.as_ref();
    Rewrite { from, kept: None, to, columns: &columns, bounded, word: "switched", clock }.run(session).await
}
