//! Whether the Storage Write API knows a table as it is now. A column just added can be unknown to it for minutes,
//! and its values would be refused or, worse, left out; so no row is written before every column is seen.
//!
//! See <https://cloud.google.com/bigquery/docs/write-api#update_the_table_schema>.

use tokio::time::Instant;

use super::status::Refusal;
use super::write::proto::table_field_schema::{Mode, Type};
use super::write::proto::{TableFieldSchema, TableSchema};
use super::write::{Answer, WriteApi};
use crate::change::types::ColumnType;
use crate::error::{Error, Result};
use crate::sink::Column;
use crate::sink::columns::same;

/// Makes a PENDING stream that knows all these columns of the table with this path; gives its name.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where the API does not know them for long.
pub(super) async fn stream_with(api: &WriteApi, table: &str, columns: &[Column]) -> Result<String> {
    let until = Instant::now() + api.pacing.visible_max;
    let mut tried = 0;
    loop {
        let unknown = match api.patiently(|| api.create_stream(table)).await? {
            Ok(stream) => match missing(columns, stream.table_schema.as_ref()) {
                None => return Ok(stream.name),
                Some(column) if is_outgrown(columns, stream.table_schema.as_ref()) => {
                    return Err(outgrown(table, &column));
                }
                Some(column) => unknown_column(table, &column),
            },
            Err(refusal) => unknown_table(table, refusal)?,
        };
        // Streams are counted against a quota, so the table is watched by its default stream.
        loop {
            if Instant::now() >= until {
                return Err(unknown);
            }
            tried += 1;
            tracing::debug!(table, tried, "the Storage Write API does not know the table's columns yet");
            api.pause(tried).await;
            if known(table, columns, api.stream(&format!("{table}/streams/_default")).await)? {
                break;
            }
        }
    }
}

/// Whether it is worth making another stream; so also where the answer tells nothing.
fn known(table: &str, columns: &[Column], answer: Answer<super::write::proto::WriteStream>) -> Result<bool> {
    match answer? {
        Ok(stream) => Ok(stream.table_schema.is_none_or(|schema| missing(columns, Some(&schema)).is_none())),
        Err(refusal) if refusal.passes() => Ok(false),
        Err(refusal) => unknown_table(table, refusal).map(|_| false),
    }
}

fn unknown_column(table: &str, column: &str) -> Error {
    Error::retry(format!("the Storage Write API does not know column `{column}` of {table} yet"))
        .hint("this passes by itself within minutes after a column was added")
}

fn outgrown(table: &str, column: &str) -> Error {
    Error::retry(format!("column `{column}` of {table} has just been given a wider type by another process"))
        .hint("the batch is made anew in that type")
}

/// Whether a number's column is wider at the table than here, which no waiting changes.
fn is_outgrown(columns: &[Column], schema: Option<&TableSchema>) -> bool {
    let wider = |field: &TableFieldSchema, column: &ColumnType| match column {
        ColumnType::Int64 => matches!(field.r#type(), Type::Numeric | Type::Bignumeric),
        ColumnType::Numeric => field.r#type() == Type::Bignumeric,
        _ => false,
    };
    let fields = schema.map_or(&[][..], |schema| &schema.fields);
    columns
        .iter()
        .any(|column| fields.iter().any(|field| same(&field.name, &column.name) && wider(field, &column.column_type)))
}

/// The error to end with where the table stays unknown; an error at once where it is another.
fn unknown_table(table: &str, refusal: Refusal) -> Result<Error> {
    let absent = refusal.is_absent();
    let error = refusal.error(&format!("no write stream of {table} can be made"));
    if absent { Ok(error) } else { Err(error) }
}

/// The first column that the schema does not have in its type. A server that gives no schema, as BigQuery always
/// does, is not asked again.
fn missing(columns: &[Column], schema: Option<&TableSchema>) -> Option<String> {
    let fields = &schema?.fields;
    columns.iter().find(|column| !has(fields, &column.name, &column.column_type)).map(|column| column.name.clone())
}

fn has(fields: &[TableFieldSchema], name: &str, column_type: &ColumnType) -> bool {
    fields.iter().any(|field| same(&field.name, name) && fits(field, column_type))
}

fn fits(field: &TableFieldSchema, column_type: &ColumnType) -> bool {
    if let ColumnType::Array(item) = column_type {
        return field.mode() == Mode::Repeated && fits_single(field, item);
    }
    field.mode() != Mode::Repeated && fits_single(field, column_type)
}

fn fits_single(field: &TableFieldSchema, column_type: &ColumnType) -> bool {
    use ColumnType as C;
    let wanted: &[Type] = match column_type {
        C::Unknown => return true,
        C::Array(_) => return false,
        C::Struct(inner) => {
            return field.r#type() == Type::Struct && inner.iter().all(|(name, of)| has(&field.fields, name, of));
        }
        C::Bool => &[Type::Bool],
        C::Int64 => &[Type::Int64],
        C::Numeric => &[Type::Numeric],
        C::BigNumeric => &[Type::Bignumeric],
        C::Float64 => &[Type::Double],
        // Texts are taken for these, too.
        C::String => &[Type::String, Type::Json, Type::Geography],
        C::Bytes => &[Type::Bytes],
        C::Date => &[Type::Date],
        C::Time => &[Type::Time],
        C::Datetime => &[Type::Datetime],
        C::Timestamp => &[Type::Timestamp],
    };
    wanted.contains(&field.r#type())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::bigquery::fake::field;

    fn check(wanted: &str, have: &[(&str, &str)]) -> Option<String> {
        let wanted = [Column { name: "a".into(), column_type: wanted.parse().unwrap() }];
        let fields = have.iter().map(|(name, of)| field(name, &of.parse().unwrap())).collect();
        missing(&wanted, Some(&TableSchema { fields }))
    }

    #[test]
    fn a_column_is_there_by_its_name_in_any_case_and_by_its_type() {
        let all = "BOOL INT64 NUMERIC BIGNUMERIC FLOAT64 STRING BYTES DATE TIME DATETIME TIMESTAMP ARRAY<INT64>";
        for of in all.split(' ') {
            assert_eq!(check(of, &[("b", "BOOL"), ("A", of)]), None, "{of}");
            assert_eq!(check(of, &[("b", of)]), Some("a".into()), "{of}");
            for other in all.split(' ').filter(|other| *other != of) {
                assert_eq!(check(of, &[("a", other)]), Some("a".into()), "{of} in {other}");
            }
        }
    }

    #[test]
    fn a_column_that_is_wider_at_the_table_is_not_waited_for() {
        let outgrown = |wanted: &str, have: &str| {
            let wanted = [Column { name: "a".into(), column_type: wanted.parse().unwrap() }];
            is_outgrown(&wanted, Some(&TableSchema { fields: vec![field("A", &have.parse().unwrap())] }))
        };
        assert!(outgrown("INT64", "NUMERIC") && outgrown("INT64", "BIGNUMERIC") && outgrown("NUMERIC", "BIGNUMERIC"));
        assert!(!outgrown("NUMERIC", "INT64") && !outgrown("INT64", "STRING") && !outgrown("INT64", "INT64"));
    }

    #[test]
    fn a_field_of_a_struct_may_be_what_is_not_known_yet() {
        let wanted = "ARRAY<STRUCT<x INT64, y STRING>>";
        assert_eq!(check(wanted, &[("a", wanted)]), None);
        assert_eq!(check(wanted, &[("a", "ARRAY<STRUCT<x INT64>>")]), Some("a".into()));
        assert_eq!(check(wanted, &[("a", "STRUCT<x INT64, y STRING>")]), Some("a".into()));
    }

    #[test]
    fn texts_fit_json_columns() {
        let mut json = field("a", &ColumnType::String);
        json.set_type(Type::Json);
        let wanted = [Column { name: "a".into(), column_type: ColumnType::String }];
        assert_eq!(missing(&wanted, Some(&TableSchema { fields: vec![json] })), None);
    }
}
