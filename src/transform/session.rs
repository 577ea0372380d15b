//! The DataFusion session everything runs in: names as written, plain strings, UTC, freshet's functions.

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::transform::functions;
use crate::transform::latest::{LatestPerKey, Settings};

/// A session of its own, on this runtime (memory pool, temporary files).
///
/// `default_schema` is where a bare table name is looked for.
pub fn new(runtime: Arc<RuntimeEnv>, default_schema: &str, partitions: usize) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema("freshet", default_schema)
        .with_target_partitions(partitions.max(1))
        .with_create_default_catalog_and_schema(true);
    let options = config.options_mut();
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    options.execution.time_zone = Some("UTC".into());
    options.extensions.insert(Settings::default());
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_optimizer_rule(Arc::new(LatestPerKey))
        .build();
    let session = SessionContext::new_with_state(state);
    for function in functions::all() {
        session.register_udf(function);
    }
    session
}
