//! `freshet reload TABLE`: a new full load and the changes after it, built beside the table and then put in its place.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::change::{FileKind, TableName};
use crate::cli::carry::{Ready, receive_all};
use crate::cli::summary::{summary, tell_trouble};
use crate::cli::{ConfigArgs, Ended, say, table_named, tell};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::ledger::Reload;
use crate::observe::progress;
use crate::pipeline::Pipeline;
use crate::pipeline::reload::Losses;
use crate::pipeline::report::TableReport;
use crate::source::dms::{Progress, Tasks};
use crate::source::folder::KnownFiles;
use crate::source::{self, Span};
use crate::storage::Aws;

/// Between two questions to DMS, first and at last.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Replaces a table by a new full load and the changes after it, without readers ever seeing half of it
///
/// First `freshet reload TABLE`, then have DMS load the table again. The same command carries what has come since into
/// the new generation, as often as it is run, while daemons keep the table fresh as before. Once the load is whole,
/// `freshet reload TABLE --complete` carries the rest and switches: rows that the load lacks are gone. With `--wait` DMS
/// itself is asked until it says so. Files must stay where they are until then. Exit code 0: done. 1: it cannot be, or the
/// switch would lose a file. 4: a file was left or vanished, or the table stopped, and nothing was switched.
#[derive(Debug, clap::Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The table, as database.table
    #[arg(value_name = "TABLE")]
    table: String,
    /// When the new generation begins, as 2024-05-06T07:08:09Z; now, unless it is named. After the last change of the
    /// load before, and before the new load began
    #[arg(long, value_name = "TIME", conflicts_with = "abandon")]
    since: Option<DateTime<Utc>>,
    /// Says that the load is whole: the rest is carried, then the new generation takes the table's place
    #[arg(long, conflicts_with = "abandon", group = "switch")]
    complete: bool,
    /// Begins the new generation, unless one is being built, waits until the DMS tasks of `source.dms_tasks` say that the
    /// load is whole, then does as with --complete
    #[arg(long, conflicts_with = "abandon", group = "switch")]
    wait: bool,
    /// The load may have no file, as the source's table is empty
    #[arg(long, requires = "complete")]
    empty: bool,
    /// Switches although files that the table has, or files of the load, could not be used for the new generation, or
    /// vanished before they were read
    #[arg(long, requires = "switch")]
    accept_losses: bool,
    /// Gives the new generation up
    #[arg(long)]
    abandon: bool,
}

pub(super) async fn reload(args: ReloadArgs) -> Result<Ended> {
    let config = args.config.load()?;
    let listed: Vec<TableName> = config.tables.keys().cloned().collect();
    let table = table_named(&args.table, &listed, "the configuration lists")?.clone();
    let ready = Ready::of(config).await?;
    let known = ready.known(std::slice::from_ref(&table)).await?;
    let config = ready.config.clone();
    // Where files are opened is the same for every listing.
    let any = source::listed(&config, None, Span::default(), Arc::clone(&known)).await?;
    let pipeline = ready.pipeline(any.as_ref(), progress::for_stderr().into(), 1);
    if args.abandon {
        return abandon(&pipeline, &table).await;
    }
    let tasks = if args.wait { Some(tasks(&config, Arc::clone(&pipeline.clock)).await?) } else { None };
    let reload = if args.complete {
        let Some(reload) = pipeline.reload_of(&table).await? else { return Err(nothing_is_built(&table)) };
        reload
    } else {
        pipeline.begin_reload(&table, args.since.map(|since| since.timestamp_millis())).await?
    };
    tell(&told(&table, &reload));
    let losses = if args.accept_losses { Losses::Accepted } else { Losses::Refused };
    let building = Building { config: &config, pipeline: &pipeline, known, table: &table, losses };
    if !args.complete && tasks.is_none() {
        return Ok(if building.carry(&reload).await?.is_whole { Ended::Fine } else { Ended::Troubled });
    }
    let mut may_be_empty = args.empty;
    let is_decided = pipeline.is_decided(&table, &reload).await?;
    if let Some(tasks) = tasks.filter(|_| !is_decided) {
        let Some(rows) = building.loaded(&tasks, &reload).await? else { return Ok(Ended::Troubled) };
        may_be_empty |= rows == 0;
    }
    building.complete(&reload, may_be_empty).await
}

/// The DMS tasks that the configuration names.
async fn tasks(config: &Config, clock: Arc<dyn Clock>) -> Result<Tasks> {
    let tasks = &config.source.dms_tasks;
    if tasks.is_empty() {
        return Err(Error::user("`--wait` asks DMS, and the configuration names no task of it").hint(
            "write `source: {dms_tasks: [arn:aws:dms:…:task:…]}`, or say yourself when the load is whole: --complete",
        ));
    }
    Tasks::new(tasks, Aws::load().await?, |name| std::env::var(name).ok(), clock)
}

fn told(table: &TableName, reload: &Reload) -> String {
    let since = DateTime::from_timestamp_millis(reload.cut_over_ms).unwrap_or_default();
    format!("{table}: generation {} is being built, of files since {}", reload.generation, since.format("%F %T UTC"))
}

fn nothing_is_built(table: &TableName) -> Error {
    Error::user("no generation of the table is being built")
        .in_table(table)
        .hint("it was switched to already, or never begun: `freshet ledger` shows its generation")
}

async fn abandon(pipeline: &Pipeline, table: &TableName) -> Result<Ended> {
    match pipeline.abandon_reload(table).await? {
        Some(reload) => say(&format!("{table}: generation {} is given up\n", reload.generation))?,
        None => say(&format!("{table}: no generation is being built\n"))?,
    }
    Ok(Ended::Fine)
}

/// What it takes to carry files into the new generation.
struct Building<'a> {
    config: &'a Config,
    pipeline: &'a Pipeline,
    known: Arc<dyn KnownFiles>,
    table: &'a TableName,
    losses: Losses,
}

/// What a listing brought.
struct Carried {
    /// Whether every file could be read; those that were set aside count as read.
    is_whole: bool,
    /// How many files of a load there were.
    load_files: usize,
}

impl Building<'_> {
    /// Waits until DMS says that the load is whole; how many rows it has, or None where the wait was broken off.
    async fn loaded(&self, tasks: &Tasks, reload: &Reload) -> Result<Option<u64>> {
        let (mut pause, mut told) = (PAUSE_MIN, String::new());
        loop {
            let now = match tasks.progress(self.table, reload.cut_over_ms).await {
                Ok(Progress::Whole(rows)) => {
                    tell(&format!("{}: DMS says that the load is whole, with {rows} rows", self.table));
                    return Ok(Some(rows));
                }
                Ok(Progress::Loading(how)) => format!("{}: DMS says: {how}", self.table),
                Ok(Progress::Failed(why)) => {
                    return Err(Error::user(format!("DMS could not load the table: {why}"))
                        .in_table(self.table)
                        .hint("give the reload up with --abandon, begin it anew with --wait, then have DMS load the table again"));
                }
                Err(error) if error.kind() == Kind::Retry => error.report(),
                Err(error) => return Err(error),
            };
            if now != told {
                tell(&now);
                told = now;
            }
            tokio::select! {
                () = self.pipeline.shutdown.cancelled() => {
                    tell(&format!("{} is not switched: run this again to go on waiting", self.table));
                    return Ok(None);
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    /// Carries the rest and puts the generation in the table's place.
    async fn complete(&self, reload: &Reload, may_be_empty: bool) -> Result<Ended> {
        let (table, losses) = (self.table, self.losses);
        let carry = async || {
            let carried = self.carry(reload).await?;
            if carried.is_whole && carried.load_files == 0 && !may_be_empty {
                return Err(Error::user("no file of the new load has come").in_table(table).hint(
                    "wait until DMS has loaded the table; where the source's table is empty, say so with --empty",
                ));
            }
            Ok(carried.is_whole)
        };
        if !self.pipeline.complete_reload(table, reload, losses, carry).await? {
            tell(&format!(
                "{table} is not switched: run this again once the cause is mended, or give it up with --abandon"
            ));
            return Ok(Ended::Troubled);
        }
        say(&format!("{table} is switched to generation {}\n", reload.generation))?;
        Ok(Ended::Fine)
    }

    /// Carries every file that is there into the generation that is being built.
    async fn carry(&self, reload: &Reload) -> Result<Carried> {
        let since = DateTime::from_timestamp_millis(reload.cut_over_ms);
        let span = Span {
            tables: vec![self.table.to_string()],
            // A day more, as the days in names may be those of another zone.
            from: since.and_then(|since| since.date_naive().pred_opt()),
            to: None,
        };
        let pipeline = self.pipeline.for_reload(reload);
        let begun = pipeline.clock.now();
        let source = source::listed(self.config, None, span, Arc::clone(&self.known)).await?;
        let (deliveries, left) = receive_all(source.as_ref(), &pipeline.shutdown).await?;
        let (report, _) = pipeline.run(&deliveries, vec![self.table.clone()]).await?;
        let took = (pipeline.clock.now() - begun).to_std().unwrap_or_default();
        say(&summary(&report, &pipeline.sink.describe(), took))?;
        tell_trouble(&report, &left);
        let files = deliveries.iter().flat_map(|delivery| &delivery.files);
        let load_files = files.filter(|file| file.kind == FileKind::Load && file.is_since(reload.cut_over_ms)).count();
        let is_kept = |table: &TableReport| table.vanished.is_empty() || self.losses == Losses::Accepted;
        let is_whole = left.is_empty()
            && !report.interrupted
            && report.tables.values().all(|table| table.stopped.is_none() && table.left.is_empty() && is_kept(table));
        Ok(Carried { is_whole, load_files })
    }
}
