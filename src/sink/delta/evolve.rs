//! Brings a table's schema up to what is wanted: create it, add columns, widen types.
//!
//! Each change is one Delta commit and only ever adds or widens, so that a lost attempt leaves no harm behind.

use datafusion::prelude::SessionContext;
use deltalake::kernel::{Action, DataType, MetadataExt, PrimitiveType, Protocol, StructType};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError};

use super::columns::{self, United};
use super::place::TableFolder;
use super::rewrite::{self, Rewrite};
use super::table::{self, STATISTICS, TRIES};
use super::trouble;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::sink::Column;

/// What a table is to be like.
#[derive(Clone)]
pub(super) struct Wanted<'a> {
    /// Its columns, at least.
    pub(super) columns: Vec<Column>,
    /// Columns by whose bounds files are skipped, if their type allows it.
    pub(super) bounded: Vec<String>,
    /// Gives rewritten files their names and their time.
    pub(super) clock: &'a dyn Clock,
}

impl Wanted<'_> {
    /// The value of the property that names the columns with statistics; never empty, as that means all.
    fn statistics(&self, columns: &[Column]) -> String {
        let mut names = columns::exactly_bounded(columns, &self.bounded);
        if names.is_empty() {
            names.push(columns::SEQUENCE);
        }
        names.join(",")
    }
}

/// The table with at least the wanted columns, at the snapshot in which it has them.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where types cannot be united; else as [`table::open`].
pub(super) async fn evolve(folder: &TableFolder, wanted: &Wanted<'_>, session: &SessionContext) -> Result<DeltaTable> {
    let in_table = |error: Error| error.in_table(&folder.source);
    for tried in 0..TRIES {
        let table = match table::open(folder).await? {
            Some(table) => table,
            None => {
                let statistics = wanted.statistics(&wanted.columns);
                table::create(folder, &wanted.columns, &statistics).await.map_err(in_table)?
            }
        };
        let united = columns::unite(&columns::of_table(&table)?, &wanted.columns).map_err(in_table)?;
        if !united.added && !united.widened {
            return Ok(table);
        }
        let actions = actions(folder, &table, &united, wanted, session).await?;
        match table::commit(&table, actions, Vec::new(), operation(&united)?).await {
            Ok(table) => return Ok(table),
            Err(cause) if trouble::is_conflict(&cause) => table::pause(tried).await,
            Err(cause) => return Err(trouble::delta(folder, "given new columns", cause)),
        }
    }
    Err(Error::retry(format!("other writers kept changing {}", folder.path.display())).in_table(&folder.source))
}

/// What the table's history says of the change.
fn operation(united: &United) -> Result<DeltaOperation> {
    if united.widened {
        return Ok(DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by: None, predicate: None });
    }
    Ok(DeltaOperation::AddColumn { fields: columns::delta_schema(&united.columns)?.fields().cloned().collect() })
}

/// The new schema and, where types were widened, all rows written anew.
async fn actions(
    folder: &TableFolder,
    table: &DeltaTable,
    united: &United,
    wanted: &Wanted<'_>,
    session: &SessionContext,
) -> Result<Vec<Action>> {
    let schema = columns::delta_schema(&united.columns)?;
    let statistics = wanted.statistics(&united.columns);
    let mut actions = schema_actions(table, &schema, statistics.clone())
        .map_err(|cause| trouble::delta(folder, "given new columns", cause))?;
    if united.widened {
        let whole = Rewrite {
            from: (folder, table),
            kept: None,
            to: (folder, table),
            columns: &united.columns,
            bounded: statistics.split(',').map(str::to_owned).collect(),
            word: "widened",
            clock: wanted.clock,
        };
        let staged = whole.run(session).await?;
        actions.extend(rewrite::in_place_of_all(folder, table, &staged)?);
    }
    Ok(actions)
}

fn schema_actions(table: &DeltaTable, schema: &StructType, statistics: String) -> Result<Vec<Action>, DeltaTableError> {
    let state = table.snapshot()?;
    let metadata = state.metadata().clone().with_schema(schema)?.add_config_key(STATISTICS.to_owned(), statistics)?;
    let mut actions = vec![Action::Metadata(metadata)];
    let wall_time = schema.fields().any(|field| has_wall_time(field.data_type()));
    if wall_time && state.protocol().reader_features().is_none_or(|have| have.is_empty()) {
        actions.push(Action::Protocol(wall_time_protocol()?));
    }
    Ok(actions)
}

fn has_wall_time(data_type: &DataType) -> bool {
    match data_type {
        DataType::Primitive(PrimitiveType::TimestampNtz) => true,
        DataType::Array(array) => has_wall_time(array.element_type()),
        DataType::Struct(fields) => fields.fields().any(|field| has_wall_time(field.data_type())),
        _ => false,
    }
}

/// The protocol of a table with wall times, which are a feature of their own. The features that older
/// versions imply must be listed with it.
/// See <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#timestamp-without-timezone-timestampntz>.
fn wall_time_protocol() -> Result<Protocol, DeltaTableError> {
    Ok(serde_json::from_value(serde_json::json!({
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["timestampNtz"],
        "writerFeatures": ["timestampNtz", "appendOnly", "invariants"],
    }))?)
}
