//! From configuration to what runs: a table's transform, target and session.

use std::sync::Arc;

use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::SessionContext;

use crate::catalog::cdc::CdcRules;
use crate::catalog::table::ReadRules;
use crate::change::TableName;
use crate::config::{Config, TableConfig};
use crate::error::{Error, Result};
use crate::ledger::{Opening, TableLedger};
use crate::pipeline::Pipeline;
use crate::transform::planned::Transform;
use crate::transform::rules::Wanted;
use crate::transform::{query, session as transform_session};

/// The generation changes belong to before any reload.
const FIRST_GENERATION: u64 = 1;

/// The table's transform, not yet planned.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where its SQL file cannot be read.
pub fn transform(config: &Config, table: &TableName, table_config: &TableConfig) -> Result<Transform> {
    Ok(Transform {
        table: table.clone(),
        query: query::find(config, table, table_config)?,
        wanted: Wanted { key: table_config.key.clone(), mode: table_config.mode },
        delete_when: table_config.delete_when.clone(),
        read: read_rules(table_config),
    })
}

/// The table's chain, as the configuration wants it.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where it is damaged, or was begun otherwise.
pub async fn table_ledger(pipeline: &Pipeline, table: &TableName, config: &TableConfig) -> Result<TableLedger> {
    let opening = Opening { order: config.order, target: pipeline.config.target_name(table, config) };
    pipeline.ledger.table(table, opening).await
}

/// How the table's files are read.
pub fn read_rules(table_config: &TableConfig) -> ReadRules {
    ReadRules {
        cdc: CdcRules {
            generation: FIRST_GENERATION,
            order: table_config.order,
            timestamp_column: table_config.timestamp_column.clone(),
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
