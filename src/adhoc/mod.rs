//! Any SQL over change files where they lie: every table found at a location is there, nothing is written.
//!
//! This is the only place where **inputs** of different schemas are united; it tells what it assumes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::common::TableReference;
use datafusion::datasource::ViewTable;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use futures::{StreamExt, TryStreamExt};

use crate::catalog::opened::{OPENED_AT_ONCE, OpenedFile, Opener};
use crate::change::{ChangeFile, FileFormat, TableName};
use crate::config::{Config, CsvConfig, TableConfig};
use crate::error::{Error, Result};
use crate::ledger::FIRST_GENERATION;
use crate::pipeline::memory::SharedMemory;
use crate::pipeline::{setup, staging_of};
use crate::source::folder::Unread;
use crate::source::{self, Source, Span};
use crate::transform::{names, place};

mod union;

/// Most files of all tables together.
const FILES_MAX: usize = 2_000_000;
/// The schema in which a table can be named without its database, where only one database has it.
const BARE_NAMES: &str = "freshet";

/// The tables found at a location.
pub struct AdHoc {
    config: Config,
    session: SessionContext,
    opener: Opener,
    tables: BTreeMap<TableName, Vec<ChangeFile>>,
    /// Columns of the tables opened so far.
    columns: Mutex<BTreeSet<String>>,
    notes: Mutex<Vec<String>>,
    left: Vec<Error>,
}

impl AdHoc {
    /// Finds the change files that the configuration's source has by listing it: no queue is asked, and `since` is for
    /// what is carried, not for what is looked at.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where there are none.
    pub async fn find(config: Config) -> Result<Self> {
        let source = source::listed(&config, None, Span::default(), Arc::new(Unread)).await?;
        let (tables, left) = list(source.as_ref(), &config.source.files).await?;
        if tables.is_empty() {
            return Err(Error::user(format!("no change files were found in {}", config.source.files))
                .hint("point --files at a folder of .parquet, .parquet.gz, .csv or .csv.gz files in a known layout"));
        }
        let one_table = SharedMemory::new(usize::try_from(config.pipeline.memory_bytes).unwrap_or(usize::MAX), 1, 0);
        let runtime = setup::runtime(&config, one_table.table_pool())?;
        let session = setup::session(runtime, BARE_NAMES);
        let opener = Opener::new(source.store(), staging_of(&config));
        Ok(Self { config, session, opener, tables, columns: Mutex::default(), notes: Mutex::default(), left })
    }

    /// The tables, with how many files each has.
    pub fn tables(&self) -> impl Iterator<Item = (&TableName, usize)> {
        self.tables.iter().map(|(table, files)| (table, files.len()))
    }

    /// Files that were not understood.
    pub fn left(&self) -> &[Error] {
        &self.left
    }

    /// The oldest and the newest files of a table, opened, in the order of their time.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where one cannot be read.
    pub async fn sample(&self, table: &TableName, files_max: usize) -> Result<Vec<OpenedFile>> {
        let mut files = self.tables.get(table).cloned().unwrap_or_default();
        files.sort_by_key(|file| file.time_ms);
        if files.len() > files_max {
            files.drain(files_max / 2..files.len() - (files_max - files_max / 2));
        }
        let csv = self.config.table(table).map(|config| config.csv.clone()).unwrap_or_default();
        self.open_files(files, &csv).await
    }

    async fn open_files(&self, files: Vec<ChangeFile>, csv: &CsvConfig) -> Result<Vec<OpenedFile>> {
        let opening: Vec<_> = files.into_iter().map(|file| self.opener.open(file, csv)).collect();
        futures::stream::iter(opening).buffered(OPENED_AT_ONCE).try_collect().await
    }

    /// What was assumed since the last call.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    /// Opens the tables that the statements name, and gives the statements ready to run.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) with line and column where the SQL cannot be read, and
    /// [`Data`](crate::error::Kind::Data) where a file cannot.
    pub async fn prepare(&self, sql: &str) -> Result<Prepared> {
        let names = self.tables.keys().flat_map(|table| [table.database.clone(), table.table.clone()]);
        let mut known: BTreeSet<String> = names.collect();
        let with_tables = names::respell(sql, &known)?;
        for statement in &parse(&with_tables)? {
            let named = self.session.state().resolve_table_references(statement);
            for name in named.map_err(|cause| place::planning_error(cause, sql, &[]))? {
                self.open_table(&name).await?;
            }
        }
        known.extend(self.columns.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        let sql = names::respell(sql, &known)?;
        let statements = parse(&sql)?;
        Ok(Prepared { sql, statements, columns: known.into_iter().collect() })
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) with line and column where it cannot be planned.
    pub async fn run(&self, prepared: &Prepared, statement: Statement) -> Result<SendableRecordBatchStream> {
        let fail = |cause| place::planning_error(cause, &prepared.sql, &prepared.columns);
        let plan = self.session.state().statement_to_plan(statement).await.map_err(fail)?;
        let only_reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false);
        only_reads.verify_plan(&plan).map_err(fail)?;
        let frame = self.session.execute_logical_plan(plan).await.map_err(fail)?;
        frame.execute_stream().await.map_err(Error::of_rows)
    }

    /// Makes a table known under its full name, and under its bare one where no other database has it.
    async fn open_table(&self, name: &TableReference) -> Result<()> {
        let candidates: Vec<&TableName> = self
            .tables
            .keys()
            .filter(|table| table.table == name.table() && name.schema().is_none_or(|schema| schema == table.database))
            .collect();
        let table = match candidates.as_slice() {
            [] => return Err(self.unknown_table(name)),
            [one] => *one,
            many => {
                let all: Vec<String> = many.iter().map(ToString::to_string).collect();
                return Err(Error::user(format!("`{}` is in several databases", name.table()))
                    .hint(format!("name one of {}", all.join(", "))));
            }
        };
        let schema = if name.schema().is_some() { table.database.as_str() } else { BARE_NAMES };
        let provider = self.schema(schema)?;
        if !provider.table_exist(&table.table) {
            let view = self.view(table).await?;
            provider
                .register_table(table.table.clone(), Arc::new(view))
                .map_err(|cause| Error::bug("a table cannot be registered").because(cause))?;
        }
        Ok(())
    }

    fn unknown_table(&self, name: &TableReference) -> Error {
        let all: Vec<String> = self.tables.keys().map(ToString::to_string).collect();
        Error::user(format!("there is no table `{name}`")).hint(place::table_hint(&name.to_string(), &all))
    }

    fn schema(&self, name: &str) -> Result<Arc<dyn SchemaProvider>> {
        let catalog = self.session.catalog("freshet").ok_or_else(|| Error::bug("the session has no catalog"))?;
        if let Some(schema) = catalog.schema(name) {
            return Ok(schema);
        }
        let schema = Arc::new(MemorySchemaProvider::new());
        catalog
            .register_schema(name, Arc::clone(&schema) as _)
            .map_err(|cause| Error::bug("a schema cannot be registered").because(cause))?;
        Ok(schema)
    }

    async fn view(&self, table: &TableName) -> Result<ViewTable> {
        let config = self.config.table(table).cloned().unwrap_or_default();
        let files = self.tables.get(table).cloned().unwrap_or_default();
        self.tell_assumptions(table, &config, &files);
        let opened = self.open_files(files, &config.csv).await?;
        let rules = setup::read_rules(&config, FIRST_GENERATION);
        let (plan, notes) = union::unite(table, groups(opened), &rules)?;
        notes.into_iter().for_each(|note| self.note(note));
        let mut columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        columns.extend(plan.schema().fields().iter().map(|field| field.name().clone()));
        Ok(ViewTable::new(plan, None))
    }

    fn tell_assumptions(&self, table: &TableName, config: &TableConfig, files: &[ChangeFile]) {
        if config.key.is_none() {
            self.note(format!("{table}: no key is known, so updates that change a key are not split"));
        }
        if config.timestamp_column.is_none() {
            self.note(format!(
                "{table}: changes are ordered by their file's time and row (no timestamp_column is set)"
            ));
        }
        let text = files.iter().any(|file| file.format == FileFormat::Csv) && config.schema_override.is_empty();
        if text {
            self.note(format!("{table}: CSV columns are text; CAST them, or set schema_override"));
        }
    }
}

/// The files of each table at this place, as they were last seen there, and what was not understood. A file that is being
/// written is found again and again: it ends where nothing else is.
async fn list(source: &dyn Source, place: &str) -> Result<(BTreeMap<TableName, Vec<ChangeFile>>, Vec<Error>)> {
    let mut files: HashMap<String, ChangeFile> = HashMap::new();
    let (mut found, mut left) = (Vec::new(), Vec::new());
    loop {
        let received = source.receive().await?;
        left.extend(received.left);
        let before = found.len();
        for file in received.deliveries.into_iter().flat_map(|delivery| delivery.files) {
            let location = file.location.clone();
            if files.insert(location.clone(), file).is_none() {
                found.push(location);
            }
        }
        if found.len() == before {
            break;
        }
        if found.len() > FILES_MAX {
            return Err(Error::user(format!("more than {FILES_MAX} change files are in {place}"))
                .hint("name fewer of them, such as the folder of one database"));
        }
    }
    let mut tables: BTreeMap<TableName, Vec<ChangeFile>> = BTreeMap::new();
    for file in found.iter().filter_map(|location| files.remove(location)) {
        tables.entry(file.table.clone()).or_default().push(file);
    }
    Ok((tables, left))
}

/// SQL that is ready to run.
pub struct Prepared {
    /// The text, its names spelled as the source spells them.
    pub sql: String,
    /// Its statements.
    pub statements: Vec<Statement>,
    columns: Vec<String>,
}

fn parse(sql: &str) -> Result<Vec<Statement>> {
    let dialect = GenericDialect {};
    let parsed =
        DFParserBuilder::new(sql).with_dialect(&dialect).build().and_then(|mut parser| parser.parse_statements());
    parsed.map(Vec::from).map_err(|cause| place::planning_error(cause, sql, &[]))
}

/// Files of equal schema together.
fn groups(opened: Vec<OpenedFile>) -> Vec<(SchemaRef, Vec<Arc<OpenedFile>>)> {
    let mut groups: Vec<(SchemaRef, Vec<Arc<OpenedFile>>)> = Vec::new();
    for file in opened {
        match groups.iter_mut().find(|(schema, _)| *schema == file.schema) {
            Some((_, files)) => files.push(Arc::new(file)),
            None => groups.push((Arc::clone(&file.schema), vec![Arc::new(file)])),
        }
    }
    groups
}

#[cfg(test)]
mod tests;
