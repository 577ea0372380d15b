//! Rows in protocol buffers, read by the descriptor that comes with them.
//!
//! See <https://cloud.google.com/bigquery/docs/supported-data-types>.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field as ArrowField, Schema};
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::refusal::{Refusal, Result};
use super::schema::{self, Field, Kind, Mode};
use super::{arrow_rows, storage};

/// A field of the descriptor.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    number: u32,
    kind: Wire,
}

/// The types of protocol buffers that are understood here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Double,
    Integer,
    Bool,
    Text,
    Bytes,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Double(f64),
    Integer(i64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
}

fn invalid(what: impl Into<String>) -> Refusal {
    Refusal::invalid(what)
}

/// The columns that a descriptor names.
pub(super) fn columns(schema: &proto::ProtoSchema) -> Result<Vec<Column>> {
    let descriptor = schema.proto_descriptor.as_ref().ok_or_else(|| invalid("proto_descriptor must be given"))?;
    let fields = descriptor.field.iter().map(|field| {
        let kind = match field.r#type {
            Some(1) => Wire::Double,
            Some(3 | 5) => Wire::Integer,
            Some(8) => Wire::Bool,
            Some(9) => Wire::Text,
            Some(12) => Wire::Bytes,
            other => return Err(invalid(format!("the strict server does not know the field type {other:?}"))),
        };
        let number = u32::try_from(field.number()).map_err(|_| invalid("a field number is negative"))?;
        Ok(Column { name: field.name().to_owned(), number, kind })
    });
    fields.collect()
}

/// The rows, each with a cell for each column.
pub(super) fn rows(columns: &[Column], rows: &proto::ProtoRows) -> Result<Vec<Vec<Cell>>> {
    let rows = rows.serialized_rows.iter().map(|row| {
        one(columns, row).map_err(|error| invalid(format!("a row cannot be read by its descriptor: {error}")))
    });
    rows.collect()
}

fn one(columns: &[Column], mut row: &[u8]) -> std::result::Result<Vec<Cell>, prost::DecodeError> {
    let mut cells = vec![Cell::Null; columns.len()];
    while !row.is_empty() {
        let (number, wire) = decode_key(&mut row)?;
        let Some(at) = columns.iter().position(|column| column.number == number) else {
            skip_field(wire, number, &mut row, DecodeContext::default())?;
            continue;
        };
        cells[at] = cell(columns[at].kind, wire, &mut row)?;
    }
    Ok(cells)
}

fn cell(kind: Wire, wire: WireType, row: &mut &[u8]) -> std::result::Result<Cell, prost::DecodeError> {
    let context = DecodeContext::default;
    Ok(match kind {
        Wire::Integer => Cell::Integer(decode_varint(row)?.cast_signed()),
        Wire::Bool => Cell::Bool(decode_varint(row)? != 0),
        Wire::Double => {
            let mut value = 0.0;
            prost::encoding::double::merge(wire, &mut value, row, context())?;
            Cell::Double(value)
        }
        Wire::Text => {
            let mut value = String::new();
            prost::encoding::string::merge(wire, &mut value, row, context())?;
            Cell::Text(value)
        }
        Wire::Bytes => {
            let mut value = Vec::new();
            prost::encoding::bytes::merge(wire, &mut value, row, context())?;
            Cell::Bytes(value)
        }
    })
}

/// The rows in the columns that the table has; names that begin with `_CHANGE_` are left out.
pub(super) fn record_batch(columns: &[Column], rows: &[Vec<Cell>], fields: &[Field]) -> Result<RecordBatch> {
    let own = |column: &&Column| !column.name.starts_with("_CHANGE_");
    let unknown: Vec<String> = columns
        .iter()
        .filter(own)
        .filter(|column| schema::find(fields, &column.name).is_none())
        .map(|column| column.name.clone())
        .collect();
    if !unknown.is_empty() {
        return Err(arrow_rows::extra_fields(&unknown));
    }
    let (mut names, mut arrays) = (Vec::new(), Vec::new());
    for (at, column) in columns.iter().enumerate().filter(|(_, column)| own(column)) {
        let field = schema::find(fields, &column.name).expect("unknown columns are refused above");
        let cells: Vec<&Cell> = rows.iter().map(|row| &row[at]).collect();
        let array = array(&cells, field)?;
        names.push(ArrowField::new(&field.name, array.data_type().clone(), true));
        arrays.push(array);
    }
    RecordBatch::try_new(Arc::new(Schema::new(names)), arrays).map_err(|error| invalid(error.to_string()))
}

fn array(cells: &[&Cell], field: &Field) -> Result<ArrayRef> {
    let wrong = || invalid(format!("the values of {} do not fit its type {}", field.name, field.kind.rest_name()));
    if field.mode == Mode::Repeated || matches!(field.kind, Kind::Struct(_)) {
        return Err(invalid("the strict server reads no repeated fields and structs from protocol buffers"));
    }
    let wanted = match field.kind {
        Kind::BigNumeric => DataType::Decimal256(76, 38),
        _ => storage::arrow_item(&field.kind),
    };
    let first = cells.iter().find(|cell| ***cell != Cell::Null);
    let plain: ArrayRef = match first {
        None => return Ok(new_null_array(&wanted, cells.len())),
        Some(Cell::Integer(_)) => Arc::new(integers(cells)),
        Some(Cell::Double(_)) => Arc::new(Float64Array::from_iter(cells.iter().map(|cell| match cell {
            Cell::Double(value) => Some(*value),
            _ => None,
        }))),
        Some(Cell::Bool(_)) => Arc::new(BooleanArray::from_iter(cells.iter().map(|cell| match cell {
            Cell::Bool(value) => Some(*value),
            _ => None,
        }))),
        Some(Cell::Text(_)) => Arc::new(StringArray::from_iter(cells.iter().map(|cell| match cell {
            Cell::Text(value) => Some(value.as_str()),
            _ => None,
        }))),
        Some(Cell::Bytes(_) | Cell::Null) => Arc::new(BinaryArray::from_iter(cells.iter().map(|cell| match cell {
            Cell::Bytes(value) => Some(value.as_slice()),
            _ => None,
        }))),
    };
    let fits = match plain.data_type() {
        DataType::Int64 => !matches!(field.kind, Kind::String | Kind::Bool | Kind::Bytes),
        DataType::Utf8 => !matches!(field.kind, Kind::Bytes | Kind::Bool | Kind::Int64),
        other => *other == wanted,
    };
    if !fits {
        return Err(wrong());
    }
    let days = field.kind == Kind::Date && plain.data_type() == &DataType::Int64;
    let plain = if days { cast(&plain, &DataType::Int32).map_err(|_| wrong())? } else { plain };
    let made = cast(&plain, &wanted).map_err(|_| wrong())?;
    if made.null_count() == plain.null_count() { Ok(made) } else { Err(wrong()) }
}

fn integers(cells: &[&Cell]) -> Int64Array {
    let value = |cell: &&Cell| match cell {
        Cell::Integer(value) => Some(*value),
        _ => None,
    };
    cells.iter().map(value).collect()
}
