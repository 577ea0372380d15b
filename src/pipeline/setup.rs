//! From configuration to what runs: a table's transform, target and session.

use std::sync::Arc;

use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::SessionContext;

use crate::catalog::cdc::CdcRules;
use crate::catalog::shape::ReadRules;
use crate::change::TableName;
use crate::config::{Config, TableConfig};
use crate::error::{Error, Result};
use crate::ledger::{Opening, Reload, TableLedger, not_built};
use crate::pipeline::{Lane, Pipeline};
use crate::transform::planned::Transform;
use crate::transform::rules::Wanted;
use crate::transform::{query, session as transform_session};

/// So many characters of a reload's id tell its tables from another's.
const RELOAD_ID_CHARS: usize = 8;

/// The table's transform, not yet planned.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where its SQL file cannot be read.
pub fn transform(config: &Config, table: &TableName, table_config: &TableConfig, generation: u64) -> Result<Transform> {
    Ok(Transform {
        table: table.clone(),
        query: query::find(config, table, table_config)?,
        wanted: Wanted { key: table_config.key.clone(), mode: table_config.mode },
        delete_when: table_config.delete_when.clone(),
        read: read_rules(table_config, generation),
    })
}

/// The chain of the table's generation that the pipeline carries, as the configuration wants it.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where it is damaged, or was begun otherwise.
pub async fn table_ledger(pipeline: &Pipeline, table: &TableName, config: &TableConfig) -> Result<TableLedger> {
    let opening = Opening { order: config.order, target: pipeline.config.target_name(table, config) };
    let present = pipeline.ledger.table(table, opening.clone()).await?;
    let Lane::Reload(reload) = &pipeline.lane else { return Ok(present) };
    if present.state().reload() != Some(reload) {
        return Err(not_built(reload.generation).in_table(table));
    }
    let target = reload_target(&opening.target, reload);
    let rules = present.state().rules().cloned();
    pipeline.ledger.reload(table, Opening { target, ..opening }, reload.clone(), rules).await
}

/// Where a generation is built: a table beside the one whose place it will take. An id begins with its time, so that its
/// end tells it from others.
fn reload_target(target: &TableName, reload: &Reload) -> TableName {
    let digits: Vec<char> = reload.id.chars().filter(char::is_ascii_alphanumeric).collect();
    let id: String = digits[digits.len().saturating_sub(RELOAD_ID_CHARS)..].iter().collect();
    TableName::new(&target.database, format!("{}__reload_{}_{id}", target.table, reload.generation))
}

/// How the table's files are read.
pub fn read_rules(table_config: &TableConfig, generation: u64) -> ReadRules {
    ReadRules {
        cdc: CdcRules {
            generation,
            order: table_config.order,
            timestamp_column: table_config.timestamp_column.clone(),
            purged_us: 0,
        },
        overrides: table_config.schema_override.clone(),
        auto_schema: table_config.auto_schema,
        key: table_config.key.clone().unwrap_or_default(),
    }
}

/// Memory from this pool; what operators spill goes where staging files go.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where the folder cannot be used.
pub fn runtime(config: &Config, memory: Arc<dyn MemoryPool>) -> Result<Arc<RuntimeEnv>> {
    let builder = RuntimeEnvBuilder::new().with_memory_pool(memory);
    let builder = match &config.pipeline.staging {
        Some(folder) => builder.with_temp_file_path(folder),
        None => builder,
    };
    builder.build_arc().map_err(|cause| {
        Error::retry("the folder for temporary files cannot be used").because(cause).hint("see pipeline_config.staging")
    })
}

/// A session for one table, on all cores.
pub fn session(runtime: Arc<RuntimeEnv>, database: &str) -> SessionContext {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    transform_session::new(runtime, database, cores)
}
