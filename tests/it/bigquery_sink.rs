//! The BigQuery sink as tests of it use it: configured for a server on this machine, and given rows.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use freshet::change::types::ColumnType;
use freshet::config::{BigQueryConfig, Compression, Create, DatasetName};
use freshet::sink::{Column, Rows};

/// The configuration for a server with these endpoints.
pub(crate) fn config(project: &str, location: &str, rest: &str, grpc: &str) -> BigQueryConfig {
    BigQueryConfig {
        project: project.to_owned(),
        location: location.to_owned(),
        dataset: DatasetName::default(),
        kms_key: None,
        labels: BTreeMap::new(),
        create: Create::Auto,
        compression: Compression::Gzip,
        rest_endpoint: Some(rest.to_owned()),
        grpc_endpoint: Some(grpc.to_owned()),
    }
}

/// Rows as the sink is given them; the file's id is none of the named columns.
pub(crate) fn rows(batch: RecordBatch) -> Rows {
    let schema = batch.schema();
    let named = schema.fields().iter().filter(|field| field.name() != "_cdc_file_id").map(|field| Column {
        name: field.name().clone(),
        column_type: ColumnType::from_arrow(field.data_type()).unwrap(),
    });
    let columns = named.collect();
    let stream = RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(batch)]));
    Rows { columns, stream: Box::pin(stream) }
}
