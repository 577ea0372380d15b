//! `freshet query SQL`: any SQL over change files where they lie, without configuration.

use std::path::Path;

use crate::adhoc::AdHoc;
use crate::cli::memory_limit::memory_limit;
use crate::cli::output::{self, Format};
use crate::cli::{ConfigArgs, DEFAULT_CONFIG, Ended, tell};
use crate::config::{Config, PipelineConfig};
use crate::error::Result;

/// Runs any SQL over change files where they lie; every table found is there
///
/// No configuration is needed: `freshet query --files data "SELECT count(*) FROM shop.orders"`. Tables are named
/// database.table, or by the table alone where only one database has it. What is assumed is told on stderr.
#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder, file or glob of change files [default: the configuration's source, else this folder]
    #[arg(long, value_name = "LOCATION")]
    files: Option<String>,
    /// How rows are written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Most rows that --format table shows
    #[arg(long, value_name = "ROWS", default_value_t = 1000)]
    max_rows: usize,
    /// The SQL; several statements are divided by semicolons
    #[arg(value_name = "SQL")]
    sql: String,
}

pub(super) async fn query(args: QueryArgs) -> Result<Ended> {
    let found = AdHoc::find(configuration(&args)?).await?;
    found.left().iter().for_each(|error| tell(&format!("left: {}", error.report())));
    let prepared = found.prepare(&args.sql).await?;
    found.take_notes().iter().for_each(|note| tell(&format!("note: {note}")));
    for statement in prepared.statements.clone() {
        let rows = found.run(&prepared, statement).await?;
        output::write(rows, args.format, args.max_rows).await?;
    }
    Ok(Ended::Fine)
}

fn configuration(args: &QueryArgs) -> Result<Config> {
    let has_config = !args.config.config.is_empty() || (args.files.is_none() && Path::new(DEFAULT_CONFIG).is_file());
    if !has_config {
        let config = Config::for_folder(args.files.as_deref().unwrap_or("."));
        return Ok(Config { pipeline: PipelineConfig::within(memory_limit()), ..config });
    }
    let mut config = args.config.load()?;
    if let Some(files) = &args.files {
        config.source.files.clone_from(files);
    }
    Ok(config)
}
