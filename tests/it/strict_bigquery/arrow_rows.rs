//! Rows in Arrow as the Storage Write API takes them: which types, which names, which values.
//!
//! See <https://cloud.google.com/bigquery/docs/supported-data-types#supported-arrow-data-types>.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Field as ArrowField, Schema, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::{MessageHeader, root_as_message};
use freshet::change::types::same_name;

use super::refusal::{Refusal, Result};
use super::schema::{self, Field, Kind, Mode};
use super::storage;

/// The schema in a `writer_schema`: one IPC message and nothing else.
pub(super) fn read_schema(bytes: &[u8]) -> Result<Schema> {
    let message = message(bytes)?;
    if message.header_type() != MessageHeader::Schema {
        return Err(invalid("serialized_schema is not an IPC message of a schema"));
    }
    try_schema_from_ipc_buffer(bytes).map_err(|error| invalid(format!("Arrow schema cannot be read: {error}")))
}

/// The rows in a `serialized_record_batch`: one IPC message of this schema, uncompressed, and nothing else.
pub(super) fn read_rows(bytes: &[u8], schema: &Schema) -> Result<RecordBatch> {
    let message = message(bytes)?;
    let batch = message.header_as_record_batch();
    let batch = batch.ok_or_else(|| invalid("serialized_record_batch is not an IPC message of a record batch"))?;
    if batch.compression().is_some() {
        return Err(invalid("compressed buffers are not known to be taken"));
    }
    let body = usize::try_from(message.bodyLength()).unwrap_or(usize::MAX);
    let start = bytes.len().checked_sub(body).ok_or_else(|| invalid("serialized_record_batch is cut off"))?;
    let body = Buffer::from(&bytes[start..]);
    let schema = Arc::new(schema.clone());
    read_record_batch(&body, batch, schema, &HashMap::new(), None, &message.version())
        .map_err(|error| invalid(format!("Arrow rows do not fit the writer schema: {error}")))
}

/// The header of an encapsulated message.
fn message(bytes: &[u8]) -> Result<arrow::ipc::Message<'_>> {
    let cut_off = || invalid("an Arrow IPC message is cut off");
    let (marker, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut_off)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
    if *marker != [0xff; 4] {
        return Err(invalid("an Arrow IPC message does not begin with its marker"));
    }
    let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| cut_off())?;
    let header = rest.get(..length).ok_or_else(cut_off)?;
    let message = root_as_message(header).map_err(|error| invalid(format!("no Arrow IPC message: {error}")))?;
    if usize::try_from(message.bodyLength()) != Ok(rest.len() - length) {
        return Err(invalid("there is more, or less, than one Arrow IPC message"));
    }
    Ok(message)
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::invalid(message)
}

/// Checks names and types; gives the columns that the table lacks.
pub(super) fn check_schema(schema: &Schema, fields: &[Field]) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    for (at, column) in schema.fields().iter().enumerate() {
        if column.name().to_uppercase().starts_with("_CHANGE_") {
            return Err(invalid(format!("{} is not taken with arrow_rows, only with proto_rows", column.name())));
        }
        if schema.fields().iter().take(at).any(|other| same_name(other.name(), column.name())) {
            return Err(invalid(format!("column {} comes twice", column.name())));
        }
        match schema::find(fields, column.name()) {
            Some(field) => check_type(column, field, &field.name)?,
            None => unknown.push(column.name().clone()),
        }
    }
    Ok(unknown)
}

fn check_type(arrow: &ArrowField, field: &Field, at: &str) -> Result<()> {
    let mismatch = || {
        let (have, want) = (arrow.data_type(), field.kind.rest_name());
        invalid(format!("Arrow type {have} does not fit column {at} of type {want}, mode {:?}", field.mode))
    };
    match (field.mode, arrow.data_type()) {
        (Mode::Repeated, DataType::List(item)) => check_item(item.data_type(), &field.kind, at, &mismatch),
        (Mode::Repeated, _) => Err(mismatch()),
        (_, arrow) => check_item(arrow, &field.kind, at, &mismatch),
    }
}

fn check_item(arrow: &DataType, kind: &Kind, at: &str, mismatch: &dyn Fn() -> Refusal) -> Result<()> {
    use DataType as D;
    let fits = match (kind, arrow) {
        (Kind::Bool, D::Boolean)
        | (Kind::Int64, D::Int8 | D::Int16 | D::Int32 | D::Int64)
        | (Kind::Float64, D::Float32 | D::Float64)
        | (Kind::String, D::Utf8)
        | (Kind::Bytes, D::Binary)
        | (Kind::Date, D::Date32)
        | (Kind::Time, D::Time64(TimeUnit::Microsecond))
        | (Kind::Datetime, D::Timestamp(TimeUnit::Microsecond, None)) => true,
        (Kind::Timestamp, D::Timestamp(TimeUnit::Microsecond, Some(zone))) => {
            ["UTC", "+00:00", "Etc/UTC"].contains(&zone.as_ref())
        }
        (Kind::Numeric, D::Decimal128(precision, scale)) => fits_decimal(*precision, *scale, 29, 9),
        (Kind::BigNumeric, D::Decimal256(precision, scale)) => fits_decimal(*precision, *scale, 38, 38),
        (Kind::Struct(fields), D::Struct(have)) => {
            for column in have {
                let field = schema::find(fields, column.name());
                let field = field.ok_or_else(|| extra_fields(&[format!("{at}.{}", column.name())]))?;
                check_type(column, field, &format!("{at}.{}", field.name))?;
            }
            true
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(mismatch()) }
}

fn fits_decimal(precision: u8, scale: i8, whole_max: i16, scale_max: i8) -> bool {
    (0..=scale_max).contains(&scale) && i16::from(precision) - i16::from(scale) <= whole_max
}

/// What is said of columns that the table lacks.
pub(super) fn extra_fields(names: &[String]) -> Refusal {
    use super::refusal::StorageErrorCode::SchemaMismatchExtraFields;
    let message = format!("Input schema has more fields than BigQuery schema, extra fields: '{}'", names.join(","));
    invalid(message).with(SchemaMismatchExtraFields, "")
}

/// What is wrong with which row.
pub(super) fn check_values(rows: &RecordBatch, fields: &[Field]) -> BTreeMap<usize, String> {
    let mut wrong = Wrong::default();
    let all: Vec<_> = (0..rows.num_rows()).collect();
    for field in fields {
        let at = rows.schema().fields().iter().position(|column| same_name(column.name(), &field.name));
        match at {
            Some(at) => wrong.check(rows.column(at), field, &field.name, &all),
            None => wrong.missing(field, &field.name, &all),
        }
    }
    wrong.0
}

/// The first thing that is wrong with each row.
#[derive(Default)]
struct Wrong(BTreeMap<usize, String>);

impl Wrong {
    fn add(&mut self, row: usize, message: String) {
        self.0.entry(row).or_insert(message);
    }

    fn missing(&mut self, field: &Field, at: &str, rows: &[usize]) {
        if field.mode == Mode::Required {
            rows.iter().for_each(|row| self.add(*row, format!("Required field {at} is missing")));
        }
    }

    /// Checks values, of which each stands in the row that `rows` has at its place.
    fn check(&mut self, array: &ArrayRef, field: &Field, at: &str, rows: &[usize]) {
        for (place, row) in rows.iter().enumerate().filter(|(place, _)| array.is_null(*place)) {
            match field.mode {
                Mode::Nullable => {}
                Mode::Required => self.add(*row, format!("Required field {at} is NULL (at {place})")),
                Mode::Repeated => self.add(*row, format!("Repeated field {at} is NULL, must be empty (at {place})")),
            }
        }
        if field.mode != Mode::Repeated {
            return self.check_items(array, &field.kind, at, rows);
        }
        let list = array.as_list::<i32>();
        let mut items = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            let length = list.value_length(place);
            items.extend(std::iter::repeat_n(*row, usize::try_from(length).unwrap()));
        }
        let first = usize::try_from(list.value_offsets()[0]).unwrap();
        let values = list.values().slice(first, items.len());
        for (place, row) in items.iter().enumerate().filter(|(place, _)| values.is_null(*place)) {
            self.add(*row, format!("Repeated field {at} has a NULL element (at {place})"));
        }
        self.check_items(&values, &field.kind, at, &items);
    }

    fn check_items(&mut self, array: &ArrayRef, kind: &Kind, at: &str, rows: &[usize]) {
        if let Kind::Struct(fields) = kind {
            return self.check_struct(array, fields, at, rows);
        }
        for (place, row) in rows.iter().enumerate().filter(|(place, _)| array.is_valid(*place)) {
            if !is_in_range(array, place, kind) {
                self.add(*row, format!("Value of field {at} is out of range for {}", kind.rest_name()));
            }
        }
    }

    fn check_struct(&mut self, array: &ArrayRef, fields: &[Field], at: &str, rows: &[usize]) {
        let array = array.as_struct();
        let there: Vec<_> = (0..array.len()).filter(|place| array.is_valid(*place)).collect();
        let inner: Vec<_> = there.iter().map(|place| rows[*place]).collect();
        let taken = arrow::array::UInt64Array::from_iter_values(there.iter().map(|place| *place as u64));
        for field in fields {
            let at = format!("{at}.{}", field.name);
            match array.fields().iter().position(|column| same_name(column.name(), &field.name)) {
                Some(column) => {
                    let values = arrow::compute::take(array.column(column), &taken, None).unwrap();
                    self.check(&values, field, &at, &inner);
                }
                None => self.missing(field, &at, &inner),
            }
        }
    }
}

/// See <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types>.
fn is_in_range(array: &ArrayRef, place: usize, kind: &Kind) -> bool {
    const DAY: i64 = 86_400_000_000;
    // 0001-01-01 to 9999-12-31, in days since 1970.
    let days = -719_162..2_932_897_i64;
    match (kind, array.data_type()) {
        (Kind::Date, _) => days.contains(&i64::from(array.as_primitive::<Date32Type>().value(place))),
        (Kind::Datetime | Kind::Timestamp, _) => {
            days.contains(&array.as_primitive::<TimestampMicrosecondType>().value(place).div_euclid(DAY))
        }
        (Kind::Numeric, DataType::Decimal128(_, scale)) => {
            let most = 10_i128.pow(29 + u32::from(scale.unsigned_abs()));
            array.as_primitive::<Decimal128Type>().value(place).abs() < most
        }
        (Kind::BigNumeric, DataType::Decimal256(_, scale)) => {
            storage::big_fits(array.as_primitive::<Decimal256Type>().value(place), *scale)
        }
        (Kind::Time, _) => {
            let micros = array.as_primitive::<arrow::datatypes::Time64MicrosecondType>().value(place);
            (0..DAY).contains(&micros)
        }
        _ => true,
    }
}
