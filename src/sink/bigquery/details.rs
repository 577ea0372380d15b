//! What BigQuery attaches to a gRPC status: `StorageError`s, in protobuf. The few fields that matter are read
//! here by hand, as their bytes come from outside and nothing but these two messages is wanted.
//!
//! See <https://protobuf.dev/programming-guides/encoding/> and
//! <https://cloud.google.com/bigquery/docs/reference/storage/rpc/google.cloud.bigquery.storage.v1#storageerror>.

use super::write::proto::StorageError;

/// The end of the name by which a `StorageError` is told from other details.
const STORAGE_ERROR: &str = "google.cloud.bigquery.storage.v1.StorageError";

/// The errors in the serialized `google.rpc.Status` that comes with a gRPC status.
pub(super) fn of_status(status: &[u8]) -> Vec<StorageError> {
    let details = fields(status).filter_map(|(number, value)| value.bytes().filter(|_| number == 3));
    details.filter_map(of_any_message).collect()
}

/// The error that a detail of this type holds.
pub(super) fn of_any(type_url: &str, value: &[u8]) -> Option<StorageError> {
    if !type_url.ends_with(STORAGE_ERROR) {
        return None;
    }
    let mut out = StorageError::default();
    for (number, field) in fields(value) {
        match (number, field) {
            (1, Field::Number(code)) => out.code = i32::try_from(code).unwrap_or_default(),
            (2, Field::Bytes(text)) => out.entity = String::from_utf8_lossy(text).into_owned(),
            (3, Field::Bytes(text)) => out.error_message = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    Some(out)
}

fn of_any_message(any: &[u8]) -> Option<StorageError> {
    let find = |wanted: u64| fields(any).filter(|(number, _)| *number == wanted).find_map(|(_, value)| value.bytes());
    of_any(std::str::from_utf8(find(1)?).ok()?, find(2).unwrap_or_default())
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number(_) => None,
        }
    }
}

/// The numbered fields of a message, up to the first that cannot be read.
fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    let mut rest = message;
    std::iter::from_fn(move || next_field(&mut rest))
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(rest)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => Field::Bytes(cut(rest, 8)?),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Field::Bytes(cut(rest, length)?)
        }
        5 => Field::Bytes(cut(rest, 4)?),
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn cut<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *cut(rest, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn error() -> StorageError {
        StorageError { code: 2, entity: "projects/p/streams/한".into(), error_message: "done before".into() }
    }

    fn any(type_url: &str, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::string::encode(1, &type_url.to_owned(), &mut out);
        prost::encoding::bytes::encode(2, &value.to_vec(), &mut out);
        out
    }

    fn status(details: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::int32::encode(1, &9, &mut out);
        prost::encoding::string::encode(2, &"some text".to_owned(), &mut out);
        prost::encoding::bytes::encode_repeated(3, details, &mut out);
        out
    }

    #[test]
    fn storage_errors_are_found_among_other_details() {
        let ours = any(&format!("type.googleapis.com/{STORAGE_ERROR}"), &error().encode_to_vec());
        let other = any("type.googleapis.com/google.rpc.ErrorInfo", &[8, 1]);
        assert_eq!(of_status(&status(&[other, ours.clone(), ours])), [error(), error()]);
        assert!(of_status(&status(&[])).is_empty());
    }

    #[test]
    fn bytes_that_are_cut_or_senseless_give_nothing_and_never_a_panic() {
        let ours = any(&format!("type.googleapis.com/{STORAGE_ERROR}"), &error().encode_to_vec());
        let whole = status(&[ours]);
        for end in 0..whole.len() {
            assert!(of_status(&whole[..end]).is_empty(), "{end}");
        }
        for byte in 0..=255 {
            of_status(&[byte; 40]);
            of_any(STORAGE_ERROR, &[byte; 40]);
        }
    }
}
