//! MySQL's BIT in all the forms it arrives in.
//!
//! DMS writes BIT(1) as a Boolean and BIT(64) as 8 bytes; files that went through other hands hold
//! `0`/`1`, `b'0'`, `\x00`, raw bytes or `true`. See
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.MySQL.html#CHAP_Source.MySQL.DataTypes>.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};

/// A value that is no BIT.
#[derive(Debug, PartialEq, Eq)]
pub struct NoBit {
    /// Index into the array.
    pub index: usize,
}

/// Whether a column of this type can hold a BIT.
pub fn possible(data_type: &DataType) -> bool {
    use DataType as D;
    matches!(data_type, D::Boolean | D::Null | D::Utf8 | D::LargeUtf8 | D::Utf8View)
        || matches!(data_type, D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_))
        || data_type.is_integer()
        || data_type.is_floating()
}

/// BIT(1) as a Boolean; NULL stays NULL.
///
/// # Errors
/// The first value that is neither 0 nor 1.
pub fn to_boolean(array: &ArrayRef) -> Result<ArrayRef, NoBit> {
    if let Some(already) = array.as_boolean_opt() {
        return Ok(Arc::new(already.clone()));
    }
    let numbers = numbers(array)?;
    let bytes = array.data_type().is_binary();
    let mut out = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.into_iter().enumerate() {
        out.push(match number {
            None => None,
            Some(0) => Some(false),
            Some(1) => Some(true),
            // One byte of text: no BIT(1) is 48 or 49.
            Some(0x30) if bytes => Some(false),
            Some(0x31) if bytes => Some(true),
            Some(_) => return Err(NoBit { index }),
        });
    }
    Ok(Arc::new(BooleanArray::from(out)))
}

/// BIT of any width as an integer; NULL stays NULL.
///
/// # Errors
/// The first value that is no BIT, or one above 2⁶³−1.
pub fn to_integer(array: &ArrayRef) -> Result<ArrayRef, NoBit> {
    let mut out = Vec::with_capacity(array.len());
    for (index, number) in numbers(array)?.into_iter().enumerate() {
        out.push(number.map(i64::try_from).transpose().map_err(|_| NoBit { index })?);
    }
    Ok(Arc::new(Int64Array::from(out)))
}

/// Every value as the unsigned number its bits make.
fn numbers(array: &ArrayRef) -> Result<Vec<Option<u64>>, NoBit> {
    use DataType as D;
    let no_bit = |_| NoBit { index: 0 };
    match array.data_type() {
        D::Null => Ok(vec![None; array.len()]),
        D::Boolean => Ok(array.as_boolean().iter().map(|bit| bit.map(u64::from)).collect()),
        D::UInt64 => Ok(array.as_primitive::<UInt64Type>().iter().collect()),
        D::Utf8 | D::LargeUtf8 | D::Utf8View => {
            let text = cast(array, &D::Utf8).map_err(no_bit)?;
            each(text.as_string::<i32>().iter(), from_text)
        }
        D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => {
            let bytes = cast(array, &D::Binary).map_err(no_bit)?;
            each(bytes.as_binary::<i32>().iter(), from_bytes)
        }
        other if other.is_integer() => {
            let integers = cast(array, &D::Int64).map_err(no_bit)?;
            each(integers.as_primitive::<Int64Type>().iter(), |value| u64::try_from(value).ok())
        }
        _ => {
            let floats = cast(array, &D::Float64).map_err(no_bit)?;
            each(floats.as_primitive::<Float64Type>().iter(), from_float)
        }
    }
}

fn each<T>(
    values: impl Iterator<Item = Option<T>>,
    read: impl Fn(T) -> Option<u64>,
) -> Result<Vec<Option<u64>>, NoBit> {
    let read = |(index, value): (usize, Option<T>)| match value {
        None => Ok(None),
        Some(value) => read(value).map(Some).ok_or(NoBit { index }),
    };
    values.enumerate().map(read).collect()
}

/// pandas turns an integer column with NULLs into floats.
fn from_float(value: f64) -> Option<u64> {
    match value {
        0.0 => Some(0),
        1.0 => Some(1),
        _ => None,
    }
}

fn from_text(text: &str) -> Option<u64> {
    let trimmed = text.trim_matches(' ');
    match trimmed.to_ascii_lowercase().as_str() {
        "true" => return Some(1),
        "false" => return Some(0),
        _ => {}
    }
    if let Some(digits) = trimmed.strip_prefix("b'").and_then(|rest| rest.strip_suffix('\'')) {
        return from_binary_literal(digits);
    }
    if let Some(hex) = trimmed.strip_prefix("\\x").or_else(|| trimmed.strip_prefix("0x")) {
        return u64::from_str_radix(&hex.replace("\\x", ""), 16).ok();
    }
    if text.bytes().any(|byte| byte < 0x20) {
        return from_bytes(text.as_bytes());
    }
    if trimmed.bytes().all(|byte| byte.is_ascii_digit()) { trimmed.parse().ok() } else { None }
}

/// What stands between the quotes of `b'…'`: binary digits, or Python's rendering of raw bytes.
fn from_binary_literal(digits: &str) -> Option<u64> {
    if let Some(hex) = digits.strip_prefix("\\x") {
        return u64::from_str_radix(&hex.replace("\\x", ""), 16).ok();
    }
    if digits.is_empty() || !digits.bytes().all(|byte| matches!(byte, b'0' | b'1')) {
        return None;
    }
    u64::from_str_radix(digits, 2).ok()
}

/// Bytes are big-endian, as MySQL stores BIT.
fn from_bytes(bytes: &[u8]) -> Option<u64> {
    match bytes {
        [] => None,
        _ if bytes.len() <= 8 => Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, Float64Array, Int8Array, StringArray};

    fn booleans(array: ArrayRef) -> Result<Vec<Option<bool>>, NoBit> {
        Ok(to_boolean(&array)?.as_boolean().iter().collect())
    }

    #[test]
    fn every_form_of_a_bit_reads_as_the_same_boolean() {
        let text = ["0", "1", "b'0'", "b'1'", "\\x00", "\\x01", "\0", "\u{1}", "true", "False", "b'\\x01'"];
        let expected = [false, true, false, true, false, true, false, true, true, false, true].map(Some);
        assert_eq!(booleans(Arc::new(StringArray::from(text.to_vec()))).unwrap(), expected);
        let bytes: Vec<&[u8]> = vec![b"\0", b"\x01", b"0", b"1"];
        let expected = [false, true, false, true].map(Some);
        assert_eq!(booleans(Arc::new(BinaryArray::from(bytes))).unwrap(), expected);
        assert_eq!(booleans(Arc::new(Int8Array::from(vec![Some(1), None]))).unwrap(), [Some(true), None]);
        assert_eq!(booleans(Arc::new(Float64Array::from(vec![Some(0.0), None]))).unwrap(), [Some(false), None]);
    }

    #[test]
    fn what_is_no_bit_is_named_and_never_guessed() {
        assert_eq!(booleans(Arc::new(StringArray::from(vec!["1", "yes"]))), Err(NoBit { index: 1 }));
        assert_eq!(booleans(Arc::new(StringArray::from(vec![""]))), Err(NoBit { index: 0 }));
        assert_eq!(booleans(Arc::new(Int8Array::from(vec![2]))), Err(NoBit { index: 0 }));
        assert_eq!(booleans(Arc::new(Int8Array::from(vec![-1]))), Err(NoBit { index: 0 }));
        assert_eq!(booleans(Arc::new(Float64Array::from(vec![0.5]))), Err(NoBit { index: 0 }));
    }

    #[test]
    fn wider_bits_are_integers_in_mysqls_byte_order() {
        let bytes: Vec<&[u8]> = vec![&[0, 0, 0, 0, 0, 0, 1, 2], &[5]];
        let array: ArrayRef = Arc::new(BinaryArray::from(bytes));
        let got = to_integer(&array).unwrap();
        assert_eq!(got.as_primitive::<Int64Type>().values(), &[258, 5]);
        let all_ones: Vec<&[u8]> = vec![&[255; 8]];
        let array: ArrayRef = Arc::new(BinaryArray::from(all_ones));
        assert_eq!(to_integer(&array).unwrap_err(), NoBit { index: 0 });
    }
}
