//! Rows that the engine gives: their columns in BigQuery's types, their values as the REST API renders them, or
//! plainly for tests.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/rest/v2/tabledata/list>.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, Schema, Time64MicrosecondType,
    TimestampMicrosecondType, i256,
};
use arrow::temporal_conversions::{date32_to_datetime, time64us_to_time, timestamp_us_to_datetime};
use chrono::{DateTime, NaiveDateTime, Timelike, Utc};
use serde_json::{Map, Value, json};

use super::schema::{Field, Kind, Mode};
use super::storage::{self, BIG_PARTS};

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As the REST API does; TIMESTAMP in µs where `int64_timestamps`, else as seconds in floating point.
    Rest { int64_timestamps: bool },
    /// INT64, FLOAT64 and BOOL as JSON has them, all else as text.
    Plain,
}

/// The columns of a result.
pub(super) fn fields(schema: &Schema, now: DateTime<Utc>) -> Vec<Field> {
    schema.fields().iter().map(|field| named(field.name(), field.data_type(), now)).collect()
}

fn named(name: &str, arrow: &DataType, now: DateTime<Utc>) -> Field {
    match arrow {
        DataType::List(item) => {
            Field { mode: Mode::Repeated, ..Field::nullable(name, kind(item.data_type(), now), now) }
        }
        _ => Field::nullable(name, kind(arrow, now), now),
    }
}

fn kind(arrow: &DataType, now: DateTime<Utc>) -> Kind {
    match arrow {
        DataType::Boolean => Kind::Bool,
        // DuckDB sums and counts integers in 128 bits.
        arrow if arrow.is_integer() || matches!(arrow, DataType::Decimal128(38, 0)) => Kind::Int64,
        DataType::Decimal128(..) => Kind::Numeric,
        DataType::Float32 | DataType::Float64 => Kind::Float64,
        DataType::Binary => Kind::Bytes,
        DataType::Date32 => Kind::Date,
        DataType::Time64(_) => Kind::Time,
        DataType::Timestamp(_, None) => Kind::Datetime,
        DataType::Timestamp(_, Some(_)) => Kind::Timestamp,
        DataType::Struct(fields) if fields.iter().map(|field| field.name()).eq(BIG_PARTS) => Kind::BigNumeric,
        DataType::Struct(fields) => {
            Kind::Struct(fields.iter().map(|field| named(field.name(), field.data_type(), now)).collect())
        }
        DataType::Utf8 | DataType::Null => Kind::String,
        other => panic!("DuckDB gave a column of type {other}"),
    }
}

/// Rows as `rows` of a query's results: `{"f": [{"v": …}, …]}` each.
pub(super) fn rest_rows(batches: &[RecordBatch], fields: &[Field], form: Form) -> Vec<Value> {
    let row = |values: Vec<Value>| json!({"f": values.into_iter().map(|v| json!({"v": v})).collect::<Vec<_>>()});
    rows(batches, fields, form).into_iter().map(row).collect()
}

/// Rows as lists of values.
pub(super) fn rows(batches: &[RecordBatch], fields: &[Field], form: Form) -> Vec<Vec<Value>> {
    let mut out = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().zip(fields).map(|(array, field)| column(array, field, form)).collect();
        out.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()));
    }
    out
}

fn column(array: &ArrayRef, field: &Field, form: Form) -> Vec<Value> {
    if field.mode != Mode::Repeated {
        return items(array, &field.kind, form);
    }
    let list = array.as_list::<i32>();
    let of_row = |row: usize| {
        let values = if list.is_null(row) { Vec::new() } else { items(&list.value(row), &field.kind, form) };
        match form {
            Form::Plain => Value::Array(values),
            Form::Rest { .. } => values.into_iter().map(|v| json!({"v": v})).collect(),
        }
    };
    (0..list.len()).map(of_row).collect()
}

fn items(array: &ArrayRef, kind: &Kind, form: Form) -> Vec<Value> {
    let array = match storage_type(kind) {
        Some(to) => &cast(array, &to).unwrap(),
        None => array,
    };
    let value = |row: usize| if array.is_null(row) { Value::Null } else { item(array, row, kind, form) };
    if let Kind::Struct(fields) = kind {
        return structs(array, fields, form);
    }
    (0..array.len()).map(value).collect()
}

/// The one Arrow type of a scalar.
fn storage_type(kind: &Kind) -> Option<DataType> {
    (!matches!(kind, Kind::Struct(_) | Kind::BigNumeric)).then(|| storage::arrow_item(kind))
}

fn structs(array: &ArrayRef, fields: &[Field], form: Form) -> Vec<Value> {
    let array = array.as_struct();
    let columns: Vec<_> = array.columns().iter().zip(fields).map(|(child, field)| column(child, field, form)).collect();
    let of_row = |row: usize| {
        let values = columns.iter().map(|column| column[row].clone());
        match form {
            _ if array.is_null(row) => Value::Null,
            Form::Rest { .. } => json!({"f": values.map(|v| json!({"v": v})).collect::<Vec<_>>()}),
            Form::Plain => {
                let named = fields.iter().map(|field| field.name.clone()).zip(values);
                Value::Object(named.collect::<Map<_, _>>())
            }
        }
    };
    (0..array.len()).map(of_row).collect()
}

fn item(array: &ArrayRef, row: usize, kind: &Kind, form: Form) -> Value {
    let is_plain = form == Form::Plain;
    let text = match kind {
        Kind::Bool if is_plain => return json!(array.as_boolean().value(row)),
        Kind::Int64 if is_plain => return json!(array.as_primitive::<Int64Type>().value(row)),
        Kind::Float64 if is_plain && array.as_primitive::<Float64Type>().value(row).is_finite() => {
            return json!(array.as_primitive::<Float64Type>().value(row));
        }
        Kind::Bool => array.as_boolean().value(row).to_string(),
        Kind::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        Kind::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        Kind::Numeric => decimal(&array.as_primitive::<Decimal128Type>().value(row).to_string(), 9),
        Kind::BigNumeric => {
            let part = |at: usize| array.as_struct().column(at).as_primitive::<Decimal128Type>().value(row);
            let whole: i256 = storage::big_of(part(0), part(1));
            decimal(&whole.to_string(), 38)
        }
        Kind::String => array.as_string::<i32>().value(row).to_owned(),
        Kind::Bytes => base64(array.as_binary::<i32>().value(row)),
        Kind::Date => date32_to_datetime(array.as_primitive::<Date32Type>().value(row)).unwrap().date().to_string(),
        Kind::Time => {
            let time = time64us_to_time(array.as_primitive::<Time64MicrosecondType>().value(row)).unwrap();
            format!("{}{}", time.format("%H:%M:%S"), fraction(time.nanosecond()))
        }
        Kind::Datetime => moment(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        Kind::Timestamp => timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row), form),
        Kind::Struct(_) => unreachable!("structs are rendered whole"),
    };
    Value::String(text)
}

fn timestamp(micros: i64, form: Form) -> String {
    match form {
        Form::Plain => format!("{}Z", moment(micros)),
        Form::Rest { int64_timestamps: true } => micros.to_string(),
        Form::Rest { int64_timestamps: false } => float(micros as f64 / 1e6),
    }
}

fn moment(micros: i64) -> String {
    let moment: NaiveDateTime = timestamp_us_to_datetime(micros).unwrap();
    format!("{}{}", moment.format("%Y-%m-%dT%H:%M:%S"), fraction(moment.nanosecond()))
}

fn fraction(nanos: u32) -> String {
    if nanos == 0 { String::new() } else { format!(".{:06}", nanos / 1000) }
}

/// As Java writes a double, which is what the API shows.
fn float(value: f64) -> String {
    if !value.is_finite() {
        return format!("{value}").replace("inf", "Infinity");
    }
    if value != 0.0 && !(1e-3..1e7).contains(&value.abs()) {
        let text = format!("{value:E}");
        return if text.contains('.') { text } else { text.replace('E', ".0E") };
    }
    format!("{value:?}")
}

/// An unscaled decimal with its point, without trailing zeros.
fn decimal(unscaled: &str, scale: usize) -> String {
    let (sign, digits) = unscaled.strip_prefix('-').map_or(("", unscaled), |digits| ("-", digits));
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, rest) = digits.split_at(digits.len() - scale);
    let rest = rest.trim_end_matches('0');
    if rest.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{rest}") }
}

/// Standard base64, padded.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        bits <<= 8 * (3 - chunk.len());
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    out
}
