//! `freshet ledger --rebuild`: a ledger that was lost, made anew from what the targets say.

use std::sync::Arc;

use crate::change::TableName;
use crate::change::batch::Recorded;
use crate::cli::summary::aligned;
use crate::cli::{Ended, demand_tables, say, tell};
use crate::clock::Clock;
use crate::config::{Config, Mode, OnDelete, Since, TableConfig};
use crate::error::{Error, Result};
use crate::ledger::{FIRST_GENERATION, Ledger, Opening};
use crate::pipeline::{memory_of, setup};
use crate::sink::{Sink, Target};

const HEADINGS: [&str; 4] = ["table", "files", "rows", "batches"];

/// Rebuilds these tables, or all that are listed and that the ledger does not know.
pub(super) async fn rebuild_all(
    config: &Config,
    names: &[String],
    sink: &dyn Sink,
    clock: Arc<dyn Clock>,
) -> Result<Ended> {
    let listed: Vec<TableName> = config.tables.keys().cloned().collect();
    if listed.is_empty() {
        return Err(Error::user("freshet.yaml lists no tables").hint("list the tables to rebuild under `databases`"));
    }
    demand_tables(names, &listed, "`databases` in freshet.yaml lists")?;
    demand_since(config)?;
    let ledger = Ledger::open(config.ledger()?, &sink.describe(), clock).await?;
    let is_wanted = |table: &TableName| names.is_empty() || names.iter().any(|name| table.is_named(name));
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    let mut ended = Ended::Fine;
    for (table, table_config) in config.tables.iter().filter(|(table, _)| is_wanted(table)) {
        match rebuild(config, table, table_config, sink, &ledger).await {
            Ok(Some(line)) => lines.push(line),
            Ok(None) => {}
            Err(error) => {
                tell(&format!("not rebuilt: {}", error.report()));
                ended = Ended::Troubled;
            }
        }
    }
    say(&aligned(&lines))?;
    say("Files without a row in a log are not known: `sweep` or `freshet backfill` delivers them again.\n")?;
    Ok(ended)
}

/// `since: now` is the moment at which the ledger is made, and it is being made anew.
fn demand_since(config: &Config) -> Result<()> {
    if config.source.since != Some(Since::Now) {
        return Ok(());
    }
    Err(Error::user("with `since: now` every file from before this moment would be passed over").hint(
        "write a time instead, at the latest that of the oldest message in the queue when the ledger was lost; then rebuild",
    ))
}

/// Rebuilds one table; None where there is nothing to be done.
async fn rebuild(
    config: &Config,
    table: &TableName,
    table_config: &TableConfig,
    sink: &dyn Sink,
    ledger: &Ledger,
) -> Result<Option<[String; 4]>> {
    if ledger.knows(table).await? {
        tell(&format!("{table}: the ledger knows it; it is left as it is"));
        return Ok(None);
    }
    let target = Target {
        source: table.clone(),
        name: config.target_name(table, table_config),
        // A log is found by its name alone.
        mode: Mode::Append,
        key: Vec::new(),
        on_delete: OnDelete::Remove,
        storage: table_config.storage.clone(),
        descriptions: Default::default(),
        generation: FIRST_GENERATION,
    };
    let runtime = setup::runtime(config, memory_of(config, 1).table_pool())?;
    let session = setup::session(runtime, &table.database);
    let Some(recorded) = sink.recorded(&target, &session).await? else {
        tell(&format!("{table}: the target has no log, so that there is nothing to rebuild"));
        return Ok(None);
    };
    demand_whole(table, table_config, &recorded)?;
    demand_first_generation(table, &recorded)?;
    demand_tombstones(table, &recorded)?;
    let opening = Opening { order: table_config.order, target: target.name };
    ledger.rebuild(table, opening, &recorded).await?;
    let rows: u64 = recorded.batches.iter().map(|(_, rows)| rows).sum();
    let (files, batches) = (recorded.files.len(), recorded.batches.len());
    Ok(Some([table.to_string(), files.to_string(), rows.to_string(), batches.to_string()]))
}

/// Demands that the table was never reloaded: when its generation began stood in the ledger alone, and files from before
/// would be taken for changes of it.
fn demand_first_generation(table: &TableName, recorded: &Recorded) -> Result<()> {
    if recorded.generation <= FIRST_GENERATION {
        return Ok(());
    }
    let generation = recorded.generation;
    let what = format!(
        "the table was reloaded: it is of generation {generation}, and when that began stood in the ledger alone"
    );
    Err(Error::user(what).in_table(table).hint(
        "restore the ledger from a backup, or give the table a new `target` and backfill it from the last load on",
    ))
}

/// Demands that what was deleted, and whose tombstones are gone, is told by the log.
fn demand_tombstones(table: &TableName, recorded: &Recorded) -> Result<()> {
    if recorded.purged_us == 0 || !recorded.expires {
        return Ok(());
    }
    let what =
        "tombstones of the table were purged, and rows leave its log after some time: neither tells what was deleted";
    Err(Error::user(what).in_table(table).hint(
        "restore the ledger from a backup, or give the table a new `target` and backfill it from the last load on",
    ))
}

/// Demands that a log which is all there is of a table still has every row.
fn demand_whole(table: &TableName, table_config: &TableConfig, recorded: &Recorded) -> Result<()> {
    let merges = match table_config.mode {
        Some(mode) => mode == Mode::Merge,
        None => recorded.has_final,
    };
    if !recorded.expires || merges {
        return Ok(());
    }
    let what = "rows leave the log of the table after some time, so that it does not tell which files were committed";
    Err(Error::user(what).in_table(table).hint(
        "delivered again, such files would be in the log twice: restore the ledger from a backup, or give the table a new \
         `target` and backfill it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_files_would_be_passed_over_nothing_is_rebuilt() {
        let mut config = Config::for_folder("data");
        assert!(demand_since(&config).is_ok());
        config.source.since = Some(Since::Now);
        assert!(demand_since(&config).unwrap_err().hint_text().unwrap().contains("write a time"));
        config.source.since = Some(Since::Beginning);
        assert!(demand_since(&config).is_ok());
    }

    #[test]
    fn a_purged_table_is_rebuilt_only_from_a_log_that_is_whole() {
        let is_fine = |purged_us, expires| {
            demand_tombstones(&TableName::new("a", "b"), &Recorded { purged_us, expires, ..Recorded::default() })
                .is_ok()
        };
        assert!(is_fine(0, true) && is_fine(7, false) && !is_fine(7, true));
    }

    #[test]
    fn a_table_that_was_reloaded_is_not_rebuilt() {
        let is_fine = |generation| {
            demand_first_generation(&TableName::new("a", "b"), &Recorded { generation, ..Recorded::default() }).is_ok()
        };
        assert!(is_fine(0) && is_fine(1) && !is_fine(2));
    }

    #[test]
    fn a_log_that_expires_is_enough_only_where_it_is_merged() {
        let table = TableName::new("shop", "orders");
        let is_enough = |mode: Option<Mode>, expires: bool, has_final: bool| {
            let table_config = TableConfig { mode, ..TableConfig::default() };
            demand_whole(&table, &table_config, &Recorded { expires, has_final, ..Recorded::default() }).is_ok()
        };
        assert!(is_enough(None, false, false) && is_enough(Some(Mode::Append), false, true));
        assert!(is_enough(None, true, true) && is_enough(Some(Mode::Merge), true, false));
        assert!(!is_enough(None, true, false) && !is_enough(Some(Mode::Append), true, true));
    }
}
