//! How BigQuery's types and values are kept in DuckDB.
//!
//! BIGNUMERIC is wider than anything DuckDB has: it is kept as a struct of the integer below it and of the rest in
//! units of 10⁻³⁸, which compares and sorts as the number does. Its integer part must fit a HUGEINT (±1.7·10³⁸).

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array, ListArray, RecordBatch, StructArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal256Type, Field as ArrowField, Schema, TimeUnit, i256};
use freshet::change::types::same_name;

use super::schema::{Field, Kind, Mode};

/// The parts of a BIGNUMERIC.
pub(super) const BIG_PARTS: [&str; 2] = ["bignumeric_i", "bignumeric_f"];

/// A name as DuckDB quotes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn item_type(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "BOOLEAN".into(),
        Kind::Int64 => "BIGINT".into(),
        Kind::Numeric => "DECIMAL(38, 9)".into(),
        Kind::BigNumeric => format!("STRUCT({} HUGEINT, {} HUGEINT)", BIG_PARTS[0], BIG_PARTS[1]),
        Kind::Float64 => "DOUBLE".into(),
        Kind::String => "VARCHAR".into(),
        Kind::Bytes => "BLOB".into(),
        Kind::Date => "DATE".into(),
        Kind::Time => "TIME".into(),
        Kind::Datetime => "TIMESTAMP".into(),
        Kind::Timestamp => "TIMESTAMPTZ".into(),
        Kind::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{} {}", quoted(&field.name), type_of(field)));
            format!("STRUCT({})", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

/// DuckDB's type for a column.
fn type_of(field: &Field) -> String {
    match field.mode {
        Mode::Repeated => format!("{}[]", item_type(&field.kind)),
        _ => item_type(&field.kind),
    }
}

/// The type in a CAST; None for BIGNUMERIC, which is not cast to.
pub(super) fn cast_type(kind: &Kind) -> Option<String> {
    (*kind != Kind::BigNumeric).then(|| item_type(kind))
}

/// The statement that makes a table.
pub(super) fn create_table(table: &str, fields: &[Field]) -> String {
    let columns = fields.iter().map(|field| {
        let rule = if field.mode == Mode::Required { " NOT NULL" } else { "" };
        format!("{} {}{rule}", quoted(&field.name), type_of(field))
    });
    format!("CREATE TABLE {} ({})", quoted(table), columns.collect::<Vec<_>>().join(", "))
}

/// The statements that give the rows of a table to a new one of another schema and drop the old.
pub(super) fn rebuild(from: (&str, &[Field]), to: (&str, &[Field])) -> Vec<String> {
    let values = to.1.iter().map(|field| match super::schema::find(from.1, &field.name) {
        Some(old) => convert(&quoted(&old.name), old, field),
        None => "NULL".to_owned(),
    });
    let values = values.collect::<Vec<_>>().join(", ");
    vec![
        create_table(to.0, to.1),
        format!("INSERT INTO {} SELECT {values} FROM {}", quoted(to.0), quoted(from.0)),
        format!("DROP TABLE {}", quoted(from.0)),
    ]
}

/// A value of one column as another, evolved from it, has it.
fn convert(value: &str, from: &Field, to: &Field) -> String {
    match (from.mode, from.kind == to.kind) {
        (_, true) => value.to_owned(),
        (Mode::Repeated, false) => {
            format!("list_transform({value}, lambda item: {})", convert_item("item", &from.kind, &to.kind))
        }
        (_, false) => convert_item(value, &from.kind, &to.kind),
    }
}

fn convert_item(value: &str, from: &Kind, to: &Kind) -> String {
    let some = match (from, to) {
        (Kind::Int64, Kind::BigNumeric) => big(&format!("{value}::HUGEINT"), "0::HUGEINT"),
        (Kind::Numeric, Kind::BigNumeric) => {
            let below = format!("floor({value})::HUGEINT");
            let rest = format!(
                "((({value} - floor({value})) * 1000000000)::HUGEINT * 100000000000000000000000000000::HUGEINT)"
            );
            big(&below, &rest)
        }
        (Kind::BigNumeric, _) => format!("{value}.{}::DOUBLE + {value}.{}::DOUBLE / 1e38", BIG_PARTS[0], BIG_PARTS[1]),
        (Kind::Struct(old), Kind::Struct(new)) => {
            let fields = new.iter().map(|field| {
                let inner = super::schema::find(old, &field.name).map_or_else(
                    || format!("NULL::{}", type_of(field)),
                    |was| convert(&format!("{value}.{}", quoted(&was.name)), was, field),
                );
                format!("{} := {inner}", quoted(&field.name))
            });
            format!("struct_pack({})", fields.collect::<Vec<_>>().join(", "))
        }
        _ => format!("CAST({value} AS {})", item_type(to)),
    };
    format!("CASE WHEN {value} IS NULL THEN NULL ELSE {some} END")
}

/// A BIGNUMERIC of its parts.
pub(super) fn big(below: &str, rest: &str) -> String {
    format!("struct_pack({} := {below}, {} := {rest})", BIG_PARTS[0], BIG_PARTS[1])
}

/// The Arrow type in which DuckDB is given values.
pub(super) fn arrow_item(kind: &Kind) -> DataType {
    match kind {
        Kind::Bool => DataType::Boolean,
        Kind::Int64 => DataType::Int64,
        Kind::Numeric => DataType::Decimal128(38, 9),
        Kind::BigNumeric => {
            DataType::Struct(BIG_PARTS.iter().map(|part| ArrowField::new(*part, BIG_PART, true)).collect())
        }
        Kind::Float64 => DataType::Float64,
        Kind::String => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Date => DataType::Date32,
        Kind::Time => DataType::Time64(TimeUnit::Microsecond),
        Kind::Datetime => DataType::Timestamp(TimeUnit::Microsecond, None),
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Struct(fields) => DataType::Struct(fields.iter().map(arrow_field).collect()),
    }
}

const BIG_PART: DataType = DataType::Decimal128(38, 0);

fn arrow_field(field: &Field) -> ArrowField {
    let item = arrow_item(&field.kind);
    let kept = match field.mode {
        Mode::Repeated => DataType::List(Arc::new(ArrowField::new("item", item, true))),
        _ => item,
    };
    ArrowField::new(&field.name, kept, true)
}

/// Rows whose types have been checked, in the columns and types of the table; columns they lack are NULL (an array:
/// empty).
pub(super) fn keep(rows: &RecordBatch, fields: &[Field]) -> RecordBatch {
    let schema = Arc::new(Schema::new(fields.iter().map(arrow_field).collect::<Vec<_>>()));
    let columns = fields.iter().map(|field| {
        let at = rows.schema().fields().iter().position(|column| same_name(column.name(), &field.name));
        at.map_or_else(|| missing(field, rows.num_rows()), |at| keep_column(rows.column(at), field))
    });
    let columns: Vec<_> = columns.collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

fn missing(field: &Field, rows: usize) -> ArrayRef {
    let kept = arrow_field(field).data_type().clone();
    match &kept {
        DataType::List(item) => {
            let offsets = arrow::buffer::OffsetBuffer::new(vec![0; rows + 1].into());
            let none = arrow::array::new_empty_array(item.data_type());
            Arc::new(ListArray::new(Arc::clone(item), offsets, none, None))
        }
        _ => new_null_array(&kept, rows),
    }
}

fn keep_column(array: &ArrayRef, field: &Field) -> ArrayRef {
    if field.mode != Mode::Repeated {
        return keep_item(array, &field.kind);
    }
    let list = array.as_list::<i32>();
    let item = Arc::new(ArrowField::new("item", arrow_item(&field.kind), true));
    let values = keep_item(list.values(), &field.kind);
    Arc::new(ListArray::new(item, list.offsets().clone(), values, list.nulls().cloned()))
}

fn keep_item(array: &ArrayRef, kind: &Kind) -> ArrayRef {
    match kind {
        Kind::BigNumeric if *array.data_type() == arrow_item(kind) => Arc::clone(array),
        Kind::BigNumeric => keep_big(array),
        Kind::Struct(fields) => {
            let have = array.as_struct();
            let columns = fields.iter().map(|field| {
                let at = have.fields().iter().position(|known| same_name(known.name(), &field.name));
                at.map_or_else(|| missing(field, have.len()), |at| keep_column(have.column(at), field))
            });
            let columns: Vec<_> = columns.collect();
            let DataType::Struct(types) = arrow_item(kind) else { unreachable!("a struct is a struct") };
            Arc::new(StructArray::new(types, columns, have.nulls().cloned()))
        }
        _ => cast(array, &arrow_item(kind)).unwrap(),
    }
}

/// Decimals of any scale up to 38, or integers, as BIGNUMERIC.
fn keep_big(array: &ArrayRef) -> ArrayRef {
    let wide = cast(array, &DataType::Decimal256(76, 38)).unwrap();
    let wide: &Decimal256Array = wide.as_primitive::<Decimal256Type>();
    let parts = |of: fn(i256) -> i128| -> ArrayRef {
        let values: Decimal128Array = wide.iter().map(|value| value.map(of)).collect();
        Arc::new(values.with_precision_and_scale(38, 0).unwrap())
    };
    let columns = vec![parts(|value| big_parts(value).0), parts(|value| big_parts(value).1)];
    let DataType::Struct(types) = arrow_item(&Kind::BigNumeric) else { unreachable!("BIGNUMERIC is kept as a struct") };
    Arc::new(StructArray::new(types, columns, wide.nulls().cloned()))
}

fn unit() -> i256 {
    i256::from_i128(10_i128.pow(38))
}

/// The integer below an unscaled BIGNUMERIC, and the rest; 0 where the integer does not fit.
fn big_parts(value: i256) -> (i128, i128) {
    let rest = value.checked_rem(unit()).unwrap();
    let rest = if rest.is_negative() { rest + unit() } else { rest };
    let below = (value - rest) / unit();
    (below.to_i128().unwrap_or(0), rest.to_i128().unwrap())
}

/// Whether a BIGNUMERIC of that scale can be kept: 38 digits stand before its point.
pub(super) fn big_fits(unscaled: i256, scale: i8) -> bool {
    let ten = i256::from_i128(10);
    let most = (0..scale).fold(unit(), |most, _| most * ten);
    unscaled < most && unscaled > i256::ZERO - most
}

/// The unscaled BIGNUMERIC of its parts.
pub(super) fn big_of(below: i128, rest: i128) -> i256 {
    i256::from_i128(below) * unit() + i256::from_i128(rest)
}
