//! `freshet check`: would every table's SQL and configuration be accepted? Writes nothing.

use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;

use crate::adhoc::AdHoc;
use crate::catalog::opened::OpenedFile;
use crate::change::TableName;
use crate::cli::{ConfigArgs, Ended, demand_tables, say, tell};
use crate::config::{Config, Mode, Order};
use crate::error::{Error, Kind, Result};
use crate::ledger::FIRST_GENERATION;
use crate::pipeline::{rows, setup};
use crate::transform::place;
use crate::transform::planned::Planned;

/// Files of each table whose schemas are looked at: the oldest and the newest ones.
const FILES_LOOKED_AT: usize = 6;

/// Checks configuration and SQL against the newest and oldest files of each table; writes nothing
///
/// Exit code 0: all would run. 3: a table would be stopped.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only these tables, as database.table
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
}

pub(super) async fn check(args: CheckArgs) -> Result<Ended> {
    let config = args.config.load()?;
    config.sink()?;
    config.ledger()?;
    let found = AdHoc::find(config.clone()).await?;
    found.left().iter().for_each(|error| tell(&format!("left: {}", error.report())));
    let wanted = |table: &TableName| args.tables.is_empty() || args.tables.iter().any(|name| table.is_named(name));
    let mut tables: Vec<TableName> = config.tables.keys().cloned().collect();
    tables.extend(found.tables().map(|(table, _)| table.clone()).filter(|table| config.table(table).is_some()));
    tables.sort_unstable();
    tables.dedup_by(|one, two| two.is_named(&one.to_string()));
    demand_tables(&args.tables, &tables, "there is")?;
    let mut refused = 0;
    for table in tables.iter().filter(|table| wanted(table)) {
        match check_table(&config, &found, table).await {
            Ok(line) => say(&line)?,
            // One file that cannot be read says nothing of other tables.
            Err(error) if matches!(error.kind(), Kind::User | Kind::Data) || error.place().file.is_some() => {
                refused += 1;
                say(&format!("no  {table}\n"))?;
                tell(&error.report());
            }
            Err(error) => return Err(error),
        }
    }
    for (table, files) in found.tables().filter(|(table, _)| config.table(table).is_none()) {
        let listed: Vec<String> = config.tables.keys().map(ToString::to_string).collect();
        let near = place::nearest(&table.to_string(), &listed);
        let near = near.map_or_else(String::new, |near| format!("; did you mean it by `{near}`?"));
        tell(&format!("note: {files} files of {table} are left, as `databases` does not list it{near}"));
    }
    Ok(if refused == 0 { Ended::Fine } else { Ended::No })
}

async fn check_table(config: &Config, found: &AdHoc, table: &TableName) -> Result<String> {
    let opened = found.sample(table, FILES_LOOKED_AT).await?;
    if opened.is_empty() {
        return Ok(format!("ok  {table}: no files yet; its SQL is checked when they come\n"));
    }
    let (planned, query) = plan_all(config, table, opened).await?;
    let Some(first) = planned.first() else { return Err(Error::bug("nothing was planned")) };
    let mode = match first.settled.mode {
        Mode::Append => "append".to_owned(),
        Mode::Merge => format!("merge by {}", first.settled.key.join(", ")),
    };
    let order = match config.table(table).map(|table| table.order) {
        Some(Order::Exact) => "order exact",
        _ => "order best effort",
    };
    Ok(format!("ok  {table}: {mode}, {order}, {query}\n"))
}

/// Plans the table's transform for every schema among these files, and unites the outputs.
pub(super) async fn plan_all(
    config: &Config,
    table: &TableName,
    opened: Vec<OpenedFile>,
) -> Result<(Vec<Arc<Planned>>, String)> {
    let table_config = config.table(table).ok_or_else(|| {
        Error::user(format!("the configuration does not list {table}")).hint("add it under `databases`")
    })?;
    let transform = setup::transform(config, table, table_config, FIRST_GENERATION)?;
    let session = setup::session(Arc::new(RuntimeEnv::default()), &table.database);
    let mut known: Vec<String> = Vec::new();
    for field in opened.iter().flat_map(|file| file.schema.fields().iter()) {
        if !known.contains(field.name()) {
            known.push(field.name().clone());
        }
    }
    transform.demand_columns(opened.iter().map(|file| file.file.kind), &known)?;
    let mut groups: Vec<rows::Group> = Vec::new();
    for file in opened {
        match groups.iter_mut().find(|group| group.files.iter().any(|other| other.schema == file.schema)) {
            Some(group) => group.files.push(Arc::new(file)),
            None => {
                let planned = Arc::new(transform.plan(&session, &file.schema, &known).await?);
                groups.push(rows::Group { planned, files: vec![Arc::new(file)] });
            }
        }
    }
    let planned = groups.iter().map(|group| Arc::clone(&group.planned)).collect();
    rows::unite(&session, table, groups).await?;
    Ok((planned, transform.query_name()))
}
