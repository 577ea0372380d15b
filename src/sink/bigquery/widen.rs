//! Columns are given wider types by a query job with ALTER TABLE: the API refuses a schema whose types differ from
//! the table's, so that only new columns come by it.
//!
//! Several daemons may want the same at once. Those that saw the table standing alike run one job, under one id;
//! one that fails because another was faster, or went further, looks at the table again.
//!
//! See <https://cloud.google.com/bigquery/docs/managing-table-schemas#change_a_columns_data_type>.

use serde_json::Value;

use super::jobs::{self, Step};
use super::sql::{self, Wider};
use super::{BigQuerySink, TableId};
use crate::error::{Error, Kind, Result};
use crate::sink::columns::same;

/// Gives columns of the table wider types; the table is looked at again after that, as it may have changed in
/// other ways too. `resource` is how the table stood when it was `tried` for the so manieth time.
///
/// # Errors
/// [`User`](Kind::User) where BigQuery cannot change the type, or may not be asked to,
/// [`Retry`](Kind::Retry) where another time may do.
pub(super) async fn widen(
    sink: &BigQuerySink,
    id: &TableId,
    resource: &Value,
    wider: &[Wider],
    tried: u32,
) -> Result<()> {
    check_partition(id, resource, wider)?;
    let sql = sql::widen_columns(id, wider);
    let message = format!("the table {id} cannot be given wider types");
    let step = Step { prefix: prefix(&sql, resource, tried), sql: &sql, message };
    match jobs::run(sink, &step).await {
        Ok(_) => {
            tracing::info!(table = %id, sql, "columns widened");
            Ok(())
        }
        Err(error) if error.kind() == Kind::User && is_changed(sink, id, resource).await => Ok(()),
        Err(error) => Err(explained(error, resource, wider, &sql)),
    }
}

/// What the job's ids begin with. The same statement may be due again, when the table was made anew: the job of
/// another day must not be taken for this one, so the id has in it how the table stood.
fn prefix(sql: &str, resource: &Value, tried: u32) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [sql, &resource["etag"].to_string(), &resource["creationTime"].to_string(), &schema(resource)] {
        hash.update(part.as_bytes()).update(b"\0");
    }
    hash.update(&tried.to_le_bytes());
    jobs::prefix(&hash.finalize().to_hex(), "widen")
}

fn schema(resource: &Value) -> String {
    resource["schema"].to_string()
}

/// Whether somebody gave the table other columns or types meanwhile.
async fn is_changed(sink: &BigQuerySink, id: &TableId, resource: &Value) -> bool {
    match sink.rest.table(id).await {
        Ok(found) => found.is_none_or(|found| schema(&found) != schema(resource)),
        Err(_) => false,
    }
}

/// Partitions of integers are of an INT64 for ever. See
/// <https://cloud.google.com/bigquery/docs/partitioned-tables#integer_range>.
fn check_partition(id: &TableId, resource: &Value, wider: &[Wider]) -> Result<()> {
    let Some(by) = resource["rangePartitioning"]["field"].as_str() else { return Ok(()) };
    let Some(refused) = wider.iter().find(|to| same(&to.name, by)) else { return Ok(()) };
    Err(Error::user(format!(
        "the table {id} is partitioned by `{by}`, an INT64, whose type BigQuery does not change, but these rows have \
         {}",
        refused.schema
    ))
    .hint(format!("CAST `{by}` in the table's SQL to BIGINT, or make the table anew with other partitions")))
}

/// What to do where BigQuery refused the statement itself.
fn explained(error: Error, resource: &Value, wider: &[Wider], sql: &str) -> Error {
    if error.kind() != Kind::User || error.hint_text().is_some() {
        return error;
    }
    let clustered = resource["clustering"]["fields"].as_array().map_or(&[][..], Vec::as_slice);
    let is_clustered = |to: &&Wider| clustered.iter().filter_map(Value::as_str).any(|by| same(by, &to.name));
    let cast = "CAST it in the table's SQL to the type that it has at the target";
    match wider.iter().find(is_clustered) {
        Some(to) => error.hint(format!(
            "the table is clustered by `{}`: take that from its clustering and run {sql}; or {cast}",
            to.name
        )),
        None => error.hint(format!("make the table anew with the types of {sql}; or {cast}")),
    }
}

#[cfg(test)]
#[path = "widen_tests.rs"]
mod tests;
