//! `freshet ledger`: what the ledger says of each table, and whether it is sound, by reading all of it.

use crate::change::TableName;
use crate::cli::carry::open_sink;
use crate::cli::rebuild::rebuild_all;
use crate::cli::summary::aligned;
use crate::cli::{ConfigArgs, Ended, demand_tables, say, tell};
use crate::clock::SystemClock;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Ledger, State};

/// Shows where each table stands in the ledger, having read every entry
///
/// Nothing is written, but with --rebuild. Exit code 0: the ledger is sound. 3: a table's part of it is damaged; stderr
/// says where and what to do. 4: a table could not be rebuilt.
#[derive(Debug, clap::Args)]
pub(super) struct LedgerArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Makes what is lost of the ledger anew, from the files and batches that the targets' logs name. End all daemons
    /// first, and let none start: it would begin the tables anew. Tables that the ledger knows are left as they are
    #[arg(long)]
    rebuild: bool,
    /// Only these tables, as database.table
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
}

const HEADINGS: [&str; 10] =
    ["table", "generation", "last entry", "files", "rows", "set aside", "vanished", "held", "open", "to be merged"];

pub(super) async fn ledger(args: LedgerArgs) -> Result<Ended> {
    let config = args.config.load()?;
    let clock = SystemClock::shared();
    let sink = open_sink(&config, &clock)?;
    if args.rebuild {
        return rebuild_all(&config, &args.tables, sink.as_ref(), clock).await;
    }
    let location = config.ledger()?;
    let ledger = Ledger::look(location, &sink.describe(), clock).await?.ok_or_else(|| {
        Error::user(format!("there is no ledger in {location}"))
            .hint("the first run makes it; where it was lost, `freshet ledger --rebuild` makes it anew")
    })?;
    let all = ledger.tables().await?;
    demand_tables(&args.tables, &all, "the ledger has")?;
    let wanted = |table: &&TableName| args.tables.is_empty() || args.tables.iter().any(|name| table.is_named(name));
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    let mut damaged = 0;
    for table in all.iter().filter(wanted) {
        match ledger.check(table).await {
            Ok(state) => lines.push(line(table, &state)),
            Err(error) if error.kind() == Kind::User => {
                damaged += 1;
                tell(&format!("damaged: {}", error.report()));
            }
            Err(error) => return Err(error),
        }
    }
    say(&aligned(&lines))?;
    say(&format!("ledger {} of {}, made {}\n", ledger.id(), sink.describe(), ledger.created().format("%F %T UTC")))?;
    Ok(if damaged == 0 { Ended::Fine } else { Ended::No })
}

fn line(table: &TableName, state: &State) -> [String; 10] {
    let present = state.generation().unwrap_or_default();
    let generation = match state.reload() {
        Some(reload) => format!("{present}, {} being built", reload.generation),
        None => present.to_string(),
    };
    let unmerged: Vec<u64> = state.unmerged().map(|(_, rows)| rows).collect();
    let merging = if state.open_merge().is_some() { ", a merge open" } else { "" };
    let waiting = match unmerged.len() {
        0 if state.open_purge().is_some() => "nothing, a purge open".to_owned(),
        0 => "nothing".to_owned(),
        batches => format!("{batches} batches, {} rows{merging}", unmerged.iter().sum::<u64>()),
    };
    [
        table.to_string(),
        generation,
        state.head().to_string(),
        state.files_committed().to_string(),
        state.rows_committed().to_string(),
        state.set_aside().len().to_string(),
        state.files_vanished().to_string(),
        state.held().count().to_string(),
        state.open_intents().count().to_string(),
        waiting,
    ]
}
