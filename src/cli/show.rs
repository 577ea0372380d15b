//! `freshet show TABLE`: what is in force for a table, and where it stands.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use datafusion::execution::runtime_env::RuntimeEnv;

use crate::adhoc::AdHoc;
use crate::change::TableName;
use crate::cli::carry::open_sink;
use crate::cli::check::plan_all;
use crate::cli::{ConfigArgs, Ended, say, table_named};
use crate::clock::SystemClock;
use crate::config::{Config, Mode};
use crate::error::Result;
use crate::ledger::{Ledger, State};
use crate::pipeline::{rows, setup};

/// Files set aside that are shown.
const SET_ASIDE_SHOWN: usize = 20;
/// Files whose schemas are looked at.
const FILES_LOOKED_AT: usize = 6;

/// Shows a table's effective SQL, configuration, output columns, and where it stands
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The table, as database.table
    #[arg(value_name = "TABLE")]
    table: String,
}

pub(super) async fn show(args: ShowArgs) -> Result<Ended> {
    let config = args.config.load()?;
    let found = AdHoc::find(config.clone()).await?;
    let all: Vec<TableName> =
        config.tables.keys().cloned().chain(found.tables().map(|(table, _)| table.clone())).collect();
    let table = table_named(&args.table, &all, "there is")?;
    say(&configuration(&config, table))?;
    say(&transform(&config, &found, table).await?)?;
    say(&standing(&config, table).await?)?;
    Ok(Ended::Fine)
}

fn configuration(config: &Config, table: &TableName) -> String {
    let Some(table_config) = config.table(table) else {
        return format!("# {table} is not listed under `databases`: its files are left\n");
    };
    let mut out = format!("# {table} → {}\n", config.target_name(table, table_config));
    out.push_str(&format!("order: {}\n", word(&table_config.order)));
    out.push_str(&format!("on_delete: {}\n", word(&table_config.on_delete)));
    out.push_str(&format!("auto_schema: {}\n", table_config.auto_schema));
    if let Some(late_horizon) = table_config.late_horizon {
        out.push_str(&format!("late_horizon: {}\n", shown_days(late_horizon)));
    }
    if let Some(column) = &table_config.timestamp_column {
        out.push_str(&format!("timestamp_column: {column}\n"));
    }
    if let Some(condition) = &table_config.delete_when {
        out.push_str(&format!("delete_when: {condition}\n"));
    }
    for (column, to) in &table_config.schema_override {
        out.push_str(&format!("schema_override: {column} {to}\n"));
    }
    out
}

fn shown_days(duration: Duration) -> String {
    let hours = duration.as_secs() / 3_600;
    if hours.is_multiple_of(24) { format!("{}d", hours / 24) } else { format!("{hours}h") }
}

/// The word that stands for a value in freshet.yaml.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

async fn transform(config: &Config, found: &AdHoc, table: &TableName) -> Result<String> {
    if config.table(table).is_none() {
        return Ok(String::new());
    }
    let opened = found.sample(table, FILES_LOOKED_AT).await?;
    if opened.is_empty() {
        return Ok("no files yet\n".into());
    }
    let newest = opened.last().cloned();
    let (planned, query) = plan_all(config, table, opened).await?;
    let (Some(planned), Some(newest)) = (planned.last(), newest) else { return Ok(String::new()) };
    let mode = match planned.settled.mode {
        Mode::Append => "append".to_owned(),
        Mode::Merge => format!("merge\nkey: {}", planned.settled.key.join(", ")),
    };
    let session = setup::session(Arc::new(RuntimeEnv::default()), &table.database);
    let group = rows::Group { planned: Arc::clone(planned), files: vec![Arc::new(newest)] };
    let columns: Vec<String> = rows::unite(&session, table, vec![group])
        .await?
        .columns
        .iter()
        .map(|column| format!("  {} {}", column.name, column.column_type))
        .collect();
    Ok(format!("mode: {mode}\n\n-- {query}\n{}\n\noutput columns:\n{}\n", planned.sql.trim_end(), columns.join("\n")))
}

async fn standing(config: &Config, table: &TableName) -> Result<String> {
    let clock = SystemClock::shared();
    let sink = open_sink(config, &clock)?;
    let ledger = Ledger::look(config.ledger()?, &sink.describe(), clock).await?;
    let state = match ledger {
        Some(ledger) => ledger.peek(table).await?,
        None => State::default(),
    };
    let mut out = format!(
        "\ncommitted: {} files, {} rows; set aside: {} files\n",
        state.files_committed(),
        state.rows_committed(),
        state.set_aside().len()
    );
    let purged = i64::try_from(state.purged_us()).ok().filter(|us| *us > 0).and_then(DateTime::from_timestamp_micros);
    if let Some(purged) = purged {
        out.push_str(&format!("changes from before {} are too late\n", purged.format("%F %T UTC")));
    }
    for set_aside in state.set_aside().iter().rev().take(SET_ASIDE_SHOWN) {
        out.push_str(&format!("set aside: {}\n", set_aside.reason.replace('\n', "\n  ")));
    }
    Ok(out)
}
