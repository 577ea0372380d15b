//! The `_cdc_` columns: what every change says of itself, whatever the file.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, FixedSizeBinaryBuilder, Int64Array, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use chrono::DateTime;

use crate::catalog::casts;
use crate::change::types::{ColumnType, same_name};
use crate::change::{ChangeFile, FILE_ROWS_MAX, FileKind, Half, Sequence, SequenceBase};
use crate::config::Order;
use crate::error::{Error, Result, find};

/// `I`, `U` or `D`; a load row is `I`.
pub const OPERATION: &str = "_cdc_operation";
/// The commit time.
pub const TIMESTAMP: &str = "_cdc_timestamp";
/// The order of changes.
pub const SEQUENCE: &str = "_cdc_sequence";
/// The file's location.
pub const FILE: &str = "_cdc_file";
/// The row's number in the file.
pub const ROW: &str = "_cdc_row";
/// Carried past the SQL, which cannot see it: the file's id.
pub const HIDDEN_FILE_ID: &str = "__freshet_file_id";
/// Carried past the SQL, which cannot see it: the row's number.
pub const HIDDEN_ROW: &str = "__freshet_file_row";

/// The column in which DMS says what a change is; only so spelled, as a table may have an `op` of its own.
pub const DMS_OPERATION: &str = "Op";
/// The column that a DMS transformation rule fills with the true order.
pub const DMS_CHANGE_SEQ: &str = "AR_H_CHANGE_SEQ";
/// What DMS puts before the name of a column's value before the change.
pub const DMS_BEFORE_IMAGE: &str = "BI_";

/// The columns that SQL sees beside the file's own.
pub fn visible_fields() -> [Field; 5] {
    [
        Field::new(OPERATION, DataType::Utf8, false),
        Field::new(TIMESTAMP, ColumnType::Timestamp.to_arrow(), false),
        Field::new(SEQUENCE, DataType::Utf8, false),
        Field::new(FILE, DataType::Utf8, false),
        Field::new(ROW, DataType::Int64, false),
    ]
}

/// The columns carried past the SQL.
pub fn hidden_fields() -> [Field; 2] {
    [Field::new(HIDDEN_FILE_ID, DataType::Binary, false), Field::new(HIDDEN_ROW, DataType::Int64, false)]
}

/// The order of changes as bytes that compare as `_cdc_sequence` does.
pub fn order_field() -> Field {
    Field::new("__freshet_order", DataType::FixedSizeBinary(ORDER_BYTES), false)
}

const ORDER_BYTES: i32 = 32;
const _: () = assert!(ORDER_BYTES as usize == Sequence::BYTES);

/// How many columns can be made: both of these, and the order of changes as bytes.
pub const CDC_COLUMNS: usize = 8;

/// Which of them are wanted: visible, hidden, order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedColumns(pub [bool; CDC_COLUMNS]);

impl WantedColumns {
    /// All visible and hidden ones: what is wrong with any is then found.
    pub const ALL: Self = Self([true, true, true, true, true, true, true, false]);

    /// Whether one of them is made of the file's version.
    pub fn need_version(self) -> bool {
        let [_, _, sequence, _, _, hidden_file, _, order] = self.0;
        sequence || hidden_file || order
    }
}

/// How the changes of a table tell their order and time.
#[derive(Debug, Clone)]
pub struct CdcRules {
    /// The generation the files belong to.
    pub generation: u64,
    /// How the order is known.
    pub order: Order,
    /// The column with the commit time; None: the file's time.
    pub timestamp_column: Option<String>,
    /// A change from before this time, in µs since 1970, is too late: tombstones of that time are gone. 0: none is.
    pub purged_us: u64,
}

/// The source columns the rules read, as far as this file has them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ControlColumns {
    /// Index of `Op`.
    pub operation: Option<usize>,
    /// Index of the commit time.
    pub timestamp: Option<usize>,
    /// Index of `AR_H_CHANGE_SEQ`; only where the order is exact.
    pub change_seq: Option<usize>,
}

impl ControlColumns {
    /// Finds them in a file's schema.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where a file of changes lacks one that the rules demand.
    pub fn find(schema: &Schema, kind: FileKind, rules: &CdcRules) -> Result<Self> {
        let timestamp = match &rules.timestamp_column {
            None => None,
            Some(name) => {
                let found = find_column(schema, name);
                if found.is_none() && kind == FileKind::Cdc {
                    return Err(Error::data(format!("the file has no column `{name}`, the table's timestamp_column"))
                        .hint("is it the name given as TimestampColumnName to DMS? Remove timestamp_column to order by the file's time"));
                }
                found
            }
        };
        let change_seq = match rules.order {
            Order::BestEffort => None,
            Order::Exact => find_column(schema, DMS_CHANGE_SEQ),
        };
        if rules.order == Order::Exact && change_seq.is_none() && kind == FileKind::Cdc {
            return Err(Error::data(format!("the file has no column `{DMS_CHANGE_SEQ}`, which order: exact demands"))
                .hint("add it by a DMS transformation rule, or declare order: best_effort"));
        }
        Ok(Self { operation: schema.index_of(DMS_OPERATION).ok(), timestamp, change_seq })
    }

    /// Those that the wanted columns are made from.
    pub fn only_for(self, wanted: WantedColumns) -> Self {
        let [operation, timestamp, sequence, .., order] = wanted.0;
        Self {
            operation: self.operation.filter(|_| operation),
            timestamp: self.timestamp.filter(|_| timestamp || sequence || order),
            change_seq: self.change_seq.filter(|_| sequence || order),
        }
    }

    /// Their indices.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        [self.operation, self.timestamp, self.change_seq].into_iter().flatten()
    }
}

/// The column of this name; spelled alike first, then without regard to case.
pub fn find_column(schema: &Schema, name: &str) -> Option<usize> {
    let spelled = schema.index_of(name).ok();
    spelled.or_else(|| schema.fields().iter().position(|field| same_name(field.name(), name)))
}

/// Makes the `_cdc_` columns of one file's rows.
pub struct CdcColumns<'a> {
    file: &'a ChangeFile,
    base: SequenceBase,
    controls: ControlColumns,
    order: Order,
    /// What comes before it is too late.
    floor: Option<Sequence>,
}

impl<'a> CdcColumns<'a> {
    /// For rows of `file`.
    ///
    /// # Errors
    /// As [`SequenceBase::new`].
    pub fn new(file: &'a ChangeFile, controls: ControlColumns, rules: &CdcRules) -> Result<Self> {
        let base = SequenceBase::new(file, rules.generation)?;
        let floor = (rules.purged_us > 0).then(|| Sequence::first(rules.generation, rules.purged_us));
        Ok(Self { file, base, controls, order: rules.order, floor })
    }

    /// Of the columns, visible, hidden, then order, those that are wanted, for these rows; `source` has all columns of the
    /// file that the controls name, at the indices they name. `deletes[n]` tells the delete half of a split update.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) naming the row.
    pub fn make(
        &self,
        wanted: WantedColumns,
        source: &Source<'_>,
        rows: &Int64Array,
        deletes: Option<&[bool]>,
    ) -> Result<[Option<ArrayRef>; CDC_COLUMNS]> {
        if wanted.need_version() && self.file.version.is_empty() {
            return Err(Error::bug("a file's version is needed and was not read"));
        }
        let mut made: [Option<ArrayRef>; CDC_COLUMNS] = Default::default();
        let count = rows.len();
        let [operation, timestamp, sequence, file, row, hidden_file, hidden_row, order] = wanted.0;
        if operation {
            made[0] = Some(self.operations(source, rows, deletes)?);
        }
        let times = if timestamp || sequence || order { self.times(source, rows)? } else { Vec::new() };
        if sequence || order {
            let sequences = self.sequences(source, rows, &times, deletes)?;
            made[2] = sequence.then(|| as_texts(&sequences)).transpose()?;
            made[7] = order.then(|| as_bytes(&sequences)).transpose()?;
        }
        if timestamp {
            made[1] = Some(Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")));
        }
        if file {
            made[3] = Some(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.file.location, count))));
        }
        made[4] = row.then(|| Arc::new(rows.clone()) as ArrayRef);
        if hidden_file {
            let id = self.file.id().0;
            made[5] = Some(Arc::new(BinaryArray::from_iter_values(std::iter::repeat_n(id, count))));
        }
        made[6] = hidden_row.then(|| Arc::new(rows.clone()) as ArrayRef);
        Ok(made)
    }

    fn operations(&self, source: &Source<'_>, rows: &Int64Array, deletes: Option<&[bool]>) -> Result<ArrayRef> {
        let Some(column) = self.controls.operation.and_then(|index| source.column(index)) else {
            return Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n("I", rows.len()))));
        };
        let text = as_text(column)?;
        let mut out = StringBuilder::with_capacity(rows.len(), rows.len());
        for index in 0..rows.len() {
            let operation = match text.is_valid(index).then(|| text.value(index)) {
                Some(_) if deletes.is_some_and(|deletes| deletes[index]) => "D",
                Some(operation @ ("I" | "U" | "D")) => operation,
                None if self.file.kind == FileKind::Load => "I",
                _ => return Err(self.wrong_operation(column, index, rows)),
            };
            out.append_value(operation);
        }
        Ok(Arc::new(out.finish()))
    }

    fn wrong_operation(&self, column: &ArrayRef, index: usize, rows: &Int64Array) -> Error {
        Error::data(format!("{} in column {DMS_OPERATION} is not I, U or D", casts::shown(column, index)))
            .in_row(row_number(rows, index))
            .hint("is this a file of DMS? A CSV file without a header needs csv: {columns: …}")
    }

    /// Commit times in µs.
    fn times(&self, source: &Source<'_>, rows: &Int64Array) -> Result<Vec<i64>> {
        let file_us = self.file.time_ms.saturating_mul(1_000);
        let Some(column) = self.controls.timestamp.and_then(|index| source.column(index)) else {
            return Ok(vec![file_us; rows.len()]);
        };
        let cast = casts::override_column(column, &ColumnType::Timestamp)
            .map_err(|misfit| misfit.error.in_row(row_number(rows, misfit.index)))?;
        let times = cast.as_primitive::<TimestampMicrosecondType>();
        let load = self.file.kind == FileKind::Load;
        (0..rows.len())
            .map(|index| match (times.is_valid(index), load) {
                (true, _) if times.value(index) >= 0 => Ok(times.value(index)),
                (false, true) => Ok(file_us),
                (false, false) => Err(Error::data("the commit time is NULL").in_row(row_number(rows, index))),
                (true, _) => Err(Error::data("the commit time is before 1970").in_row(row_number(rows, index))),
            })
            .collect()
    }

    fn sequences(
        &self,
        source: &Source<'_>,
        rows: &Int64Array,
        times: &[i64],
        deletes: Option<&[bool]>,
    ) -> Result<Vec<Sequence>> {
        let exact = match self.controls.change_seq.and_then(|index| source.column(index)) {
            Some(column) if self.order == Order::Exact && self.file.kind == FileKind::Cdc => Some(as_text(column)?),
            _ => None,
        };
        let mut out = Vec::with_capacity(rows.len());
        for (index, time) in times.iter().enumerate() {
            let row = row_number(rows, index);
            if row >= FILE_ROWS_MAX {
                return Err(Error::data("the file has more rows than can be numbered").in_row(row));
            }
            let half = half_at(deletes, index);
            let sequence = match &exact {
                None => self.base.best_effort(u64::try_from(*time).unwrap_or(0), row, half),
                Some(text) if text.is_valid(index) => {
                    self.base.exact(text.value(index), row, half).map_err(|error| error.in_row(row))?
                }
                Some(_) => return Err(Error::data(format!("{DMS_CHANGE_SEQ} is NULL")).in_row(row)),
            };
            if self.floor.is_some_and(|floor| sequence < floor) {
                return Err(self.too_late(sequence).in_row(row));
            }
            out.push(sequence);
        }
        Ok(out)
    }

    fn too_late(&self, sequence: Sequence) -> Error {
        let moment = |sequence: Sequence| {
            let us = i64::try_from(sequence.time_us()).ok();
            us.and_then(DateTime::from_timestamp_micros).map(|at| at.format("%F %T%.f UTC").to_string())
        };
        let what = match self.file.kind {
            FileKind::Load => "a row of the full load".to_owned(),
            FileKind::Cdc => format!("a change of {}", moment(sequence).unwrap_or_else(|| sequence.to_string())),
        };
        let floor = self.floor.and_then(moment).unwrap_or_default();
        let message = format!("{what} comes too late: what was deleted before {floor} is forgotten by now");
        Error::data(message).because(TooLate).hint(
            "it may be older than a delete of its key. `freshet reload` makes the table level with its source; a longer \
             `late_horizon` keeps tombstones for longer",
        )
    }
}

fn as_texts(sequences: &[Sequence]) -> Result<ArrayRef> {
    let mut texts = StringBuilder::with_capacity(sequences.len(), sequences.len() * Sequence::TEXT_BYTES);
    let mut text = [0; Sequence::TEXT_BYTES];
    for sequence in sequences {
        sequence.write(&mut text);
        texts.append_value(str::from_utf8(&text).map_err(|cause| Error::bug("digits are no text").because(cause))?);
    }
    Ok(Arc::new(texts.finish()))
}

fn as_bytes(sequences: &[Sequence]) -> Result<ArrayRef> {
    let mut bytes = FixedSizeBinaryBuilder::with_capacity(sequences.len(), ORDER_BYTES);
    for sequence in sequences {
        bytes.append_value(sequence.to_bytes()).map_err(|cause| Error::bug("an order has no bytes").because(cause))?;
    }
    Ok(Arc::new(bytes.finish()))
}

/// The cause by which an error says that a change is older than what the table remembers.
#[derive(Debug)]
struct TooLate;

impl fmt::Display for TooLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tombstones of that time are purged, as the table's `late_horizon` says")
    }
}

impl std::error::Error for TooLate {}

/// Whether an error says that a change comes too late.
pub fn is_too_late(error: &Error) -> bool {
    find::<TooLate>(error).is_some()
}

/// Columns of a file, found by their index in the file's schema.
pub struct Source<'a> {
    /// The columns that were read.
    pub batch: &'a RecordBatch,
    /// For each, its index in the file's schema.
    pub indices: &'a [usize],
}

impl<'a> Source<'a> {
    /// The column with this index in the file's schema, if it was read.
    pub fn column(&self, index: usize) -> Option<&'a ArrayRef> {
        self.indices.iter().position(|found| *found == index).map(|position| self.batch.column(position))
    }
}

/// Which half of an update a row is, where `deletes[n]` tells the delete halves.
pub fn half_at(deletes: Option<&[bool]>, index: usize) -> Half {
    if deletes.is_some_and(|deletes| deletes[index]) { Half::Delete } else { Half::Whole }
}

/// A row's number in its file.
pub fn row_number(rows: &Int64Array, index: usize) -> u64 {
    u64::try_from(rows.value(index)).unwrap_or(0)
}

fn as_text(column: &ArrayRef) -> Result<StringArray> {
    let cast = arrow::compute::cast(column, &DataType::Utf8)
        .map_err(|cause| Error::data(format!("a column of {} is not text", column.data_type())).because(cause))?;
    cast.as_string_opt::<i32>().cloned().ok_or_else(|| Error::bug("a cast to text gave no text"))
}

/// The integer values of a hidden row column.
pub fn hidden_rows(batch: &RecordBatch) -> Option<&Int64Array> {
    batch.column_by_name(HIDDEN_ROW)?.as_primitive_opt::<Int64Type>()
}
