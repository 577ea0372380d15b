//! Column types of a target, under BigQuery's names, and the lattice that unites them.
//!
//! Whatever Arrow types a transform gives, the sink sees only these: casting to them is lossless or an
//! error, never a silent change. See
//! <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types>.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whether two names of columns or tables are the same: case does not count, as in SQL.
pub fn same_name(one: &str, two: &str) -> bool {
    one == two || one.to_lowercase() == two.to_lowercase()
}

/// The type of a target's column.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// Only NULLs seen so far: any type may still come.
    Unknown,
    /// `BOOL`
    Bool,
    /// `INT64`
    Int64,
    /// `NUMERIC`: 29 digits before the point and 9 after it
    Numeric,
    /// `BIGNUMERIC`: 38 digits before the point and 38 after it
    BigNumeric,
    /// `FLOAT64`
    Float64,
    /// `STRING`
    String,
    /// `BYTES`
    Bytes,
    /// `DATE`
    Date,
    /// `TIME`, in µs
    Time,
    /// `DATETIME`, wall time in µs
    Datetime,
    /// `TIMESTAMP`, UTC in µs
    Timestamp,
    /// `ARRAY<…>`
    Array(Box<ColumnType>),
    /// `STRUCT<…>`
    Struct(Vec<(String, ColumnType)>),
}

impl ColumnType {
    /// The type in which values of an Arrow type are kept without loss.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where there is none.
    pub fn from_arrow(arrow: &DataType) -> Result<Self> {
        use DataType as D;
        Ok(match arrow {
            D::Null => Self::Unknown,
            D::Boolean => Self::Bool,
            D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::UInt8 | D::UInt16 | D::UInt32 => Self::Int64,
            D::UInt64 => Self::Numeric,
            D::Float16 | D::Float32 | D::Float64 => Self::Float64,
            D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => decimal(*p, *s)?,
            D::Utf8 | D::LargeUtf8 | D::Utf8View => Self::String,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Self::Bytes,
            D::Date32 | D::Date64 => Self::Date,
            D::Time32(_) | D::Time64(_) => Self::Time,
            D::Timestamp(_, None) => Self::Datetime,
            D::Timestamp(_, Some(_)) => Self::Timestamp,
            D::Dictionary(_, value) => Self::from_arrow(value)?,
            D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _) => {
                Self::Array(Box::new(Self::from_arrow(item.data_type())?))
            }
            D::Struct(fields) => Self::Struct(
                fields
                    .iter()
                    .map(|field| Ok((field.name().clone(), Self::from_arrow(field.data_type())?)))
                    .collect::<Result<_>>()?,
            ),
            other => {
                return Err(Error::user(format!("a column of type {other} has no type at the target"))
                    .hint("CAST it in the table's SQL, for example to VARCHAR"));
            }
        })
    }

    /// The one Arrow type in which the sink gets values of this type.
    pub fn to_arrow(&self) -> DataType {
        match self {
            Self::Unknown => DataType::Null,
            Self::Bool => DataType::Boolean,
            Self::Int64 => DataType::Int64,
            Self::Numeric => DataType::Decimal128(38, 9),
            Self::BigNumeric => DataType::Decimal256(76, 38),
            Self::Float64 => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Datetime => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Array(item) => DataType::List(Arc::new(Field::new("item", item.to_arrow(), true))),
            Self::Struct(fields) => DataType::Struct(
                fields.iter().map(|(name, column)| Field::new(name, column.to_arrow(), true)).collect(),
            ),
        }
    }

    /// The smallest type that holds the values of both without loss: INT64 → NUMERIC → BIGNUMERIC, never
    /// FLOAT64. None where there is none.
    pub fn unite(&self, other: &Self) -> Option<Self> {
        let rank = |column: &Self| match column {
            Self::Int64 => Some(0),
            Self::Numeric => Some(1),
            Self::BigNumeric => Some(2),
            _ => None,
        };
        match (self, other) {
            (Self::Unknown, known) | (known, Self::Unknown) => Some(known.clone()),
            (Self::Array(one), Self::Array(two)) => Some(Self::Array(Box::new(one.unite(two)?))),
            (Self::Struct(one), Self::Struct(two)) => unite_structs(one, two),
            (one, two) if one == two => Some(one.clone()),
            (one, two) => Some(if rank(one)? >= rank(two)? { one.clone() } else { two.clone() }),
        }
    }

    /// Casts an array to this type; every value survives unchanged or the whole cast fails.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where a value does not fit.
    pub fn cast(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let to = self.to_arrow();
        if array.data_type() == &to {
            return Ok(Arc::clone(array));
        }
        check_nanoseconds(array)?;
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(array, &to, &options)
            .map_err(|cause| Error::data(format!("a value does not fit {self}")).because(cause))
    }
}

/// A decimal's type by its precision and scale.
fn decimal(precision: u8, scale: i8) -> Result<ColumnType> {
    let scale = i16::from(scale);
    let whole = i16::from(precision) - scale;
    if scale <= 9 && whole <= 29 {
        Ok(ColumnType::Numeric)
    } else if scale <= 38 && whole <= 38 {
        Ok(ColumnType::BigNumeric)
    } else {
        Err(Error::user(format!("DECIMAL({precision}, {scale}) is wider than BIGNUMERIC"))
            .hint("CAST it in the table's SQL, for example to VARCHAR"))
    }
}

/// Structs of the same fields are united field by field; a field only one has stays.
fn unite_structs(one: &[(String, ColumnType)], two: &[(String, ColumnType)]) -> Option<ColumnType> {
    let mut out = one.to_vec();
    for (name, column) in two {
        match out.iter_mut().find(|(known, _)| same_name(known, name)) {
            Some((_, known)) => *known = known.unite(column)?,
            None => out.push((name.clone(), column.clone())),
        }
    }
    Some(ColumnType::Struct(out))
}

/// Targets keep µs: a nanosecond time is taken only if nothing is cut off.
fn check_nanoseconds(array: &ArrayRef) -> Result<()> {
    let nanoseconds = matches!(
        array.data_type(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) | DataType::Time64(TimeUnit::Nanosecond)
    );
    if !nanoseconds {
        return Ok(());
    }
    let values = arrow::compute::cast(array, &DataType::Int64)
        .map_err(|cause| Error::bug("a nanosecond time is not an integer").because(cause))?;
    let values =
        values.as_any().downcast_ref::<Int64Array>().ok_or_else(|| Error::bug("cast to Int64 gave no Int64"))?;
    match values.iter().flatten().find(|value| value % 1_000 != 0) {
        None => Ok(()),
        Some(value) => Err(Error::data(format!("a time of {value} ns is finer than a microsecond"))
            .hint("round it in the table's SQL: date_trunc('microsecond', column)")),
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "UNKNOWN",
            Self::Bool => "BOOL",
            Self::Int64 => "INT64",
            Self::Numeric => "NUMERIC",
            Self::BigNumeric => "BIGNUMERIC",
            Self::Float64 => "FLOAT64",
            Self::String => "STRING",
            Self::Bytes => "BYTES",
            Self::Date => "DATE",
            Self::Time => "TIME",
            Self::Datetime => "DATETIME",
            Self::Timestamp => "TIMESTAMP",
            Self::Array(item) => return write!(f, "ARRAY<{item}>"),
            Self::Struct(fields) => {
                let fields: Vec<_> = fields.iter().map(|(name, column)| format!("`{name}` {column}")).collect();
                return write!(f, "STRUCT<{}>", fields.join(", "));
            }
        })
    }
}

/// The type names that `schema_override` takes; each with its aliases.
const NAMES: [(&[&str], ColumnType); 12] = [
    (&["BOOL", "BOOLEAN"], ColumnType::Bool),
    (&["INT64", "INTEGER", "INT", "SMALLINT", "BIGINT", "TINYINT", "BYTEINT"], ColumnType::Int64),
    (&["NUMERIC", "DECIMAL"], ColumnType::Numeric),
    (&["BIGNUMERIC", "BIGDECIMAL"], ColumnType::BigNumeric),
    (&["FLOAT64", "FLOAT"], ColumnType::Float64),
    (&["STRING", "JSON"], ColumnType::String),
    (&["BYTES"], ColumnType::Bytes),
    (&["DATE"], ColumnType::Date),
    (&["TIME"], ColumnType::Time),
    (&["DATETIME"], ColumnType::Datetime),
    (&["TIMESTAMP"], ColumnType::Timestamp),
    (&["UNKNOWN"], ColumnType::Unknown),
];

impl std::str::FromStr for ColumnType {
    type Err = Error;

    /// Reads a BigQuery type name; `NUMERIC(10, 2)` and `STRING(20)` are taken by their bare names.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let upper = text.to_ascii_uppercase();
        if let Some(inside) = within(text, &upper, "ARRAY<") {
            return Ok(Self::Array(Box::new(inside.parse()?)));
        }
        if let Some(inside) = within(text, &upper, "STRUCT<") {
            return split_fields(inside).into_iter().map(parse_field).collect::<Result<_>>().map(Self::Struct);
        }
        let bare = upper.split('(').next().unwrap_or_default().trim();
        if let Some((_, found)) = NAMES.iter().find(|(names, _)| names.contains(&bare)) {
            return Ok(found.clone());
        }
        let all = NAMES.iter().flat_map(|(names, _)| names.iter());
        let near = all.max_by(|a, b| strsim::jaro(a, bare).total_cmp(&strsim::jaro(b, bare)));
        let near = near.unwrap_or(&"STRING");
        Err(Error::user(format!("`{text}` is not a column type"))
            .hint(format!("did you mean {near}? Types are BigQuery's: STRING, INT64, NUMERIC, …")))
    }
}

/// What stands between `prefix` and the closing `>`.
fn within<'a>(text: &'a str, upper: &str, prefix: &str) -> Option<&'a str> {
    if upper.starts_with(prefix) { text.get(prefix.len()..)?.strip_suffix('>') } else { None }
}

/// The fields of a STRUCT: cut at the commas that are in no inner type, parameter or quoted name.
fn split_fields(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut start, mut fields) = (0_usize, false, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '`' => quoted = !quoted,
            '<' | '(' if !quoted => depth += 1,
            '>' | ')' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                fields.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push(&text[start..]);
    fields
}

/// `name TYPE`, the name in backticks where it is no single word.
fn parse_field(text: &str) -> Result<(String, ColumnType)> {
    let text = text.trim();
    let split = match text.strip_prefix('`') {
        Some(rest) => rest.split_once("` "),
        None => text.split_once(' '),
    };
    let (name, column) = split.ok_or_else(|| {
        Error::user(format!("`{text}` is not a field of a STRUCT")).hint("write STRUCT<name TYPE, …>")
    })?;
    Ok((name.to_owned(), column.parse()?))
}

impl Serialize for ColumnType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|error: Error| {
            serde::de::Error::custom(format!("{}; {}", error.message(), error.hint_text().unwrap_or_default()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, TimestampNanosecondArray, UInt64Array};

    #[test]
    fn uniting_is_commutative_associative_and_idempotent() {
        let all = [
            ColumnType::Unknown,
            ColumnType::Int64,
            ColumnType::Numeric,
            ColumnType::BigNumeric,
            ColumnType::Float64,
            ColumnType::String,
        ];
        for a in &all {
            assert_eq!(a.unite(a).as_ref(), Some(a));
            for b in &all {
                assert_eq!(a.unite(b), b.unite(a));
                for c in &all {
                    let left = a.unite(b).and_then(|ab| ab.unite(c));
                    let right = b.unite(c).and_then(|bc| a.unite(&bc));
                    assert_eq!(left, right, "{a} {b} {c}");
                }
            }
        }
    }

    #[test]
    fn integers_never_become_floats() {
        assert_eq!(ColumnType::Int64.unite(&ColumnType::Float64), None);
        assert_eq!(ColumnType::Int64.unite(&ColumnType::BigNumeric), Some(ColumnType::BigNumeric));
    }

    #[test]
    fn decimals_are_numeric_up_to_29_and_9_digits() {
        assert_eq!(ColumnType::from_arrow(&DataType::Decimal128(38, 9)).unwrap(), ColumnType::Numeric);
        assert_eq!(ColumnType::from_arrow(&DataType::Decimal128(38, 4)).unwrap(), ColumnType::BigNumeric);
        assert!(ColumnType::from_arrow(&DataType::Decimal256(76, 0)).is_err());
    }

    #[test]
    fn the_largest_unsigned_integer_survives_as_numeric() {
        let array: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let cast = ColumnType::Numeric.cast(&array).unwrap();
        let cast = cast.as_any().downcast_ref::<Decimal128Array>().unwrap();
        assert_eq!(cast.value(0), i128::from(u64::MAX) * 1_000_000_000);
    }

    #[test]
    fn nanoseconds_are_refused_only_where_something_would_be_cut_off() {
        let whole: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(1_000), None]));
        assert!(ColumnType::Datetime.cast(&whole).is_ok());
        let finer: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_001]));
        assert!(ColumnType::Datetime.cast(&finer).is_err());
    }

    #[test]
    fn every_type_is_read_back_from_its_name() {
        let inner = ColumnType::Struct(vec![("a, b".into(), ColumnType::Numeric), ("c".into(), ColumnType::Unknown)]);
        for column in [ColumnType::Array(Box::new(inner.clone())), inner, ColumnType::BigNumeric] {
            assert_eq!(column.to_string().parse::<ColumnType>().unwrap(), column);
        }
    }

    #[test]
    fn type_names_are_read_with_aliases_and_an_unknown_one_names_the_nearest() {
        assert_eq!("integer".parse::<ColumnType>().unwrap(), ColumnType::Int64);
        assert_eq!("NUMERIC(10, 2)".parse::<ColumnType>().unwrap(), ColumnType::Numeric);
        let error = "STIRNG".parse::<ColumnType>().unwrap_err();
        assert!(error.hint_text().unwrap().contains("STRING"), "{error:?}");
    }
}
