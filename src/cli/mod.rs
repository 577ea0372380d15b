//! The command line: one file per verb, exit codes, messages. Data goes to stdout, all else to stderr.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::change::TableName;
use crate::cli::memory_limit::memory_limit;
use crate::config::Config;
use crate::error::{Error, Kind, Result, chain};
use crate::observe::log;
use crate::transform::place::table_hint;
use crate::trial::failpoint;

mod allocator;
mod backfill;
mod carry;
mod check;
mod ledger;
mod memory_limit;
mod output;
mod query;
mod rebuild;
mod reload;
mod run;
mod show;
mod summary;

/// The configuration looked for where none is named.
const DEFAULT_CONFIG: &str = "freshet.yaml";

/// Carries change-data-capture files through SQL into tables.
#[derive(Debug, Parser)]
#[command(name = "freshet", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::RunArgs),
    Backfill(backfill::BackfillArgs),
    Reload(reload::ReloadArgs),
    Query(query::QueryArgs),
    Check(check::CheckArgs),
    Show(show::ShowArgs),
    Ledger(ledger::LedgerArgs),
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// Configuration file; given several times, a later one wins [default: freshet.yaml]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config> {
        let default = [PathBuf::from(DEFAULT_CONFIG)];
        let paths = if self.config.is_empty() { &default[..] } else { &self.config };
        Config::load(paths, |name| std::env::var(name).ok(), memory_limit())
    }
}

/// How a verb ended, where it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// All is well.
    Fine,
    /// A checking verb says no.
    No,
    /// Done, but a file was set aside or a table stopped.
    Troubled,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    allocator::keep_freed_memory(memory_limit::memory_limit());
    // clap ends the process itself for --help (0) and wrong usage (2).
    let cli = Cli::parse();
    log::start(!matches!(&cli.verb, Verb::Run(args) if args.is_daemon()));
    if let Err(error) = std::env::var(failpoint::VARIABLE).map_or(Ok(()), |text| failpoint::arm(&text)) {
        return fail(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return fail(&Error::retry("the async runtime cannot be started").because(cause)),
    };
    let ended = runtime.block_on(async {
        match cli.verb {
            Verb::Run(args) => Box::pin(run::run(args)).await,
            Verb::Backfill(args) => Box::pin(backfill::backfill(args)).await,
            Verb::Reload(args) => Box::pin(reload::reload(args)).await,
            Verb::Query(args) => Box::pin(query::query(args)).await,
            Verb::Check(args) => Box::pin(check::check(args)).await,
            Verb::Ledger(args) => Box::pin(ledger::ledger(args)).await,
            Verb::Show(args) => Box::pin(show::show(args)).await,
        }
    });
    // A staging file that is being read in the background must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Fine) => ExitCode::SUCCESS,
        Ok(Ended::No) => ExitCode::from(3),
        Ok(Ended::Troubled) => ExitCode::from(4),
        Err(error) => fail(&error),
    }
}

/// Says what went wrong and gives its exit code. A reader that went away is no failure.
fn fail(error: &Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    tell(&format!("error: {}", error.report()));
    match error.kind() {
        Kind::User | Kind::Data => ExitCode::from(1),
        Kind::Retry | Kind::Fenced => ExitCode::from(75),
        Kind::Bug => {
            tell("this is a bug in freshet: please report it, with the message above");
            ExitCode::from(101)
        }
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    let is_pipe = |io: &std::io::Error| io.kind() == std::io::ErrorKind::BrokenPipe;
    chain(error).any(|cause| cause.downcast_ref().is_some_and(is_pipe))
}

/// The one of these tables that has this name; where none has, `place` begins the sentence: `there is`.
fn table_named<'a>(name: &str, tables: &'a [TableName], place: &str) -> Result<&'a TableName> {
    tables.iter().find(|table| table.is_named(name)).ok_or_else(|| {
        let all: Vec<String> = tables.iter().map(ToString::to_string).collect();
        Error::user(format!("{place} no table `{name}`")).hint(table_hint(name, &all))
    })
}

/// Demands that each of these names is that of one of these tables.
fn demand_tables(names: &[String], tables: &[TableName], place: &str) -> Result<()> {
    names.iter().try_for_each(|name| table_named(name, tables, place).map(|_| ()))
}

/// A line for people, on stderr.
fn tell(line: &str) {
    // If stderr is gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes data to stdout.
fn say(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(output_error)
}

/// What a refusal of stdout means.
fn output_error(cause: std::io::Error) -> Error {
    Error::retry("the output cannot be written").because(cause)
}
