//! `freshet backfill TABLE…`: carry what history lacks, by listing, beside a running daemon.

use chrono::NaiveDate;

use crate::change::TableName;
use crate::cli::carry::{Ready, once};
use crate::cli::{ConfigArgs, Ended, demand_tables};
use crate::error::{Error, Result};
use crate::observe::progress;
use crate::source::{self, Span};

/// Carries the files of tables and days that are not carried yet, found by listing the source
///
/// Nothing is done twice: what the ledger has is passed over, also what a daemon carries meanwhile. Where it is ended
/// or killed, the same command goes on. The day of a file is that in its name (UTC), of others that of their last
/// modification. Exit code 0: all is carried. 4: done, but a file was set aside or a table stopped.
#[derive(Debug, clap::Args)]
pub(super) struct BackfillArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The tables, as database.table
    #[arg(value_name = "TABLE", required = true)]
    tables: Vec<String>,
    /// The first day, as 2024-05-06
    #[arg(long, value_name = "DAY")]
    from: NaiveDate,
    /// The last day
    #[arg(long, value_name = "DAY")]
    to: NaiveDate,
}

pub(super) async fn backfill(args: BackfillArgs) -> Result<Ended> {
    let config = args.config.load()?;
    if config.unlisted.is_none() {
        let listed: Vec<TableName> = config.tables.keys().cloned().collect();
        demand_tables(&args.tables, &listed, "the configuration lists")?;
    }
    if args.to < args.from {
        return Err(Error::user(format!("--to {} is before --from {}", args.to, args.from))
            .hint("name the first day, then the last one"));
    }
    let ready = Ready::of(config).await?;
    let span = Span { tables: args.tables, from: Some(args.from), to: Some(args.to) };
    let tables: Vec<TableName> = ready.ledger.tables().await?.into_iter().filter(|table| span.names(table)).collect();
    let known = ready.known(&tables).await?;
    let source = source::listed(&ready.config, None, span, known).await?;
    let tables_at_once = ready.config.pipeline.tables_at_once;
    once(ready.pipeline(source.as_ref(), progress::for_stderr().into(), tables_at_once), source, tables).await
}
