//! Transforms planned, refused and run as tables do it.

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use crate::catalog::samples::{orders, plain_rules, session};
use crate::error::Result;
use crate::transform::planned::{Planned, Transform};
use crate::transform::query::QueryText;
use crate::transform::rules::Wanted;

mod delete_when;
mod equivalence;
mod functions;
mod names;
mod place;
mod query;
mod rules;

/// A file's schema as DMS writes it.
fn schema() -> Schema {
    Schema::new(vec![
        Field::new("Op", DataType::Utf8, true),
        Field::new("id", DataType::Int64, true),
        Field::new("userName", DataType::Utf8, true),
        Field::new("amount", DataType::Float64, true),
        Field::new("created", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ])
}

/// The table's transform; `sql` None is the standard one, `key` is as configured.
fn transform(sql: Option<&str>, key: Option<&[&str]>) -> Transform {
    let key = key.map(|key| key.iter().map(|name| (*name).to_owned()).collect());
    Transform {
        table: orders(),
        query: sql.map(|sql| QueryText { path: "orders.sql".into(), sql: sql.into() }),
        wanted: Wanted { key, mode: None },
        delete_when: None,
        read: plain_rules(),
    }
}

async fn plan(transform: &Transform) -> Result<Planned> {
    transform.plan(&session(1), &schema(), &[]).await
}
