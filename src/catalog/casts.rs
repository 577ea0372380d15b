//! `schema_override`: casts source columns before SQL sees them; what does not survive whole is an error.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Datum, new_null_array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::DataType;

use crate::catalog::bits;
use crate::change::types::ColumnType;
use crate::error::{Error, Result};

/// A value that an override could not carry over.
#[derive(Debug)]
pub struct Misfit {
    /// Index into the array.
    pub index: usize,
    /// What is wrong.
    pub error: Error,
}

/// Whether an override of `from` to `to` is possible at all.
pub fn possible(from: &DataType, to: &ColumnType) -> bool {
    let instant = matches!(to, ColumnType::Timestamp | ColumnType::Datetime | ColumnType::Date | ColumnType::Time);
    if from.is_numeric() && instant {
        return false; // a bare number does not say its unit
    }
    *from == DataType::Null || (*to == ColumnType::Bool && bits::possible(from)) || can_cast_types(from, &to.to_arrow())
}

/// Casts every value, or names the first that would not survive whole.
///
/// # Errors
/// The misfit; its error is [`Data`](crate::error::Kind::Data).
pub fn override_column(array: &ArrayRef, to: &ColumnType) -> std::result::Result<ArrayRef, Misfit> {
    let arrow = to.to_arrow();
    if array.data_type() == &arrow {
        return Ok(Arc::clone(array));
    }
    if array.data_type() == &DataType::Null {
        // A NullArray says of each value that it is valid.
        return Ok(new_null_array(&arrow, array.len()));
    }
    let misfit = |index| Misfit { index, error: Error::data(format!("{} is not a {to}", shown(array, index))) };
    let cast = if *to == ColumnType::Bool && bits::possible(array.data_type()) {
        bits::to_boolean(array).map_err(|bad| misfit(bad.index))?
    } else {
        lossy_cast(array, &arrow).map_err(|error| Misfit { index: 0, error })?
    };
    match first_lost(array, &cast, to) {
        Ok(None) => Ok(cast),
        Ok(Some(index)) => Err(misfit(index)),
        Err(error) => Err(Misfit { index: 0, error }),
    }
}

/// A cast that turns what does not fit into NULL.
fn lossy_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    cast_with_options(array, to, &options)
        .map_err(|cause| Error::data(format!("{} cannot become {to}", array.data_type())).because(cause))
}

/// The first value that became NULL or that does not come back unchanged.
fn first_lost(array: &ArrayRef, cast: &ArrayRef, to: &ColumnType) -> Result<Option<usize>> {
    let vanished = (0..array.len()).find(|index| array.is_valid(*index) && cast.is_null(*index));
    if vanished.is_some() || !narrows(array.data_type(), to) {
        return Ok(vanished);
    }
    let (original, back) = if is_text(array.data_type()) {
        // Text to a decimal rounds digits away: compare with all the digits that were written.
        let wide = ColumnType::BigNumeric.to_arrow();
        (lossy_cast(array, &wide)?, lossy_cast(cast, &wide)?)
    } else {
        (Arc::clone(array), lossy_cast(cast, array.data_type())?)
    };
    let same = equal(&original, &back)?;
    Ok((0..array.len()).find(|index| array.is_valid(*index) && !same.value(*index)))
}

fn equal(one: &ArrayRef, two: &ArrayRef) -> Result<BooleanArray> {
    let (one, two): (&dyn Datum, &dyn Datum) = (one, two);
    not_distinct(one, two).map_err(|cause| Error::bug("two arrays of one type cannot be compared").because(cause))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether arrow's cast may round or cut instead of refusing.
fn narrows(from: &DataType, to: &ColumnType) -> bool {
    match to {
        ColumnType::Numeric | ColumnType::BigNumeric => is_text(from) || from.is_floating(),
        ColumnType::Int64 | ColumnType::Float64 => from.is_numeric(),
        ColumnType::Date | ColumnType::Time | ColumnType::Datetime | ColumnType::Timestamp => from.is_temporal(),
        _ => false,
    }
}

/// A value as messages show it, cut to a bounded length.
pub fn shown(array: &ArrayRef, index: usize) -> String {
    let text = arrow::util::display::array_value_to_string(array, index).unwrap_or_default();
    let cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() { format!("`{cut}…`") } else { format!("`{cut}`") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampMillisecondArray};

    fn check(array: ArrayRef, to: ColumnType, expected: std::result::Result<&[&str], usize>) {
        let got = override_column(&array, &to);
        match (got, expected) {
            (Ok(cast), Ok(values)) => {
                assert_eq!(cast.data_type(), &to.to_arrow());
                let got: Vec<String> =
                    (0..cast.len()).map(|n| arrow::util::display::array_value_to_string(&cast, n).unwrap()).collect();
                assert_eq!(got, values);
            }
            (Err(misfit), Err(index)) => assert_eq!(misfit.index, index, "{:?}", misfit.error),
            (got, expected) => panic!("{array:?} to {to}: got {got:?}, expected {expected:?}"),
        }
    }

    fn text(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    #[test]
    fn text_becomes_what_it_says_or_names_the_row() {
        check(text(&["1", "-7"]), ColumnType::Int64, Ok(&["1", "-7"]));
        check(text(&["1", "x"]), ColumnType::Int64, Err(1));
        check(text(&["1.5"]), ColumnType::Int64, Err(0));
        check(text(&["1.123456789"]), ColumnType::Numeric, Ok(&["1.123456789"]));
        check(text(&["1", "1.1234567891"]), ColumnType::Numeric, Err(1));
        check(text(&["b'0'", "1", "true"]), ColumnType::Bool, Ok(&["false", "true", "true"]));
        check(text(&["2023-03-15 14:30:22.123456"]), ColumnType::Timestamp, Ok(&["2023-03-15T14:30:22.123456Z"]));
    }

    #[test]
    fn numbers_are_never_rounded() {
        check(Arc::new(Float64Array::from(vec![1.0, 1.5])), ColumnType::Int64, Err(1));
        check(Arc::new(Int64Array::from(vec![1, (1 << 53) + 1])), ColumnType::Float64, Err(1));
        check(Arc::new(Int64Array::from(vec![Some(5), None])), ColumnType::Numeric, Ok(&["5.000000000", ""]));
    }

    #[test]
    fn a_time_is_not_cut_to_its_day() {
        check(Arc::new(TimestampMillisecondArray::from(vec![86_400_000, 1])), ColumnType::Date, Err(1));
    }

    #[test]
    fn a_number_is_no_time_because_it_has_no_unit() {
        assert!(!possible(&DataType::Int64, &ColumnType::Timestamp));
        assert!(possible(&DataType::Utf8, &ColumnType::Timestamp));
    }
}
