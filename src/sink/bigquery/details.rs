//! What BigQuery attaches to a gRPC status: `StorageError`s, in protobuf.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/storage/rpc/google.cloud.bigquery.storage.v1#storageerror>.

use prost::Message;

use super::write::proto::StorageError;
use super::write::rpc;

/// The end of the name by which a `StorageError` is told from other details.
const STORAGE_ERROR: &str = "google.cloud.bigquery.storage.v1.StorageError";

/// The errors in a status; details that cannot be read are passed over.
pub(super) fn of(status: &rpc::Status) -> Vec<StorageError> {
    let ours = status.details.iter().filter(|any| any.type_url.ends_with(STORAGE_ERROR));
    ours.filter_map(|any| StorageError::decode(any.value.as_ref()).ok()).collect()
}

/// The errors in the serialized `google.rpc.Status` that comes with a gRPC status.
pub(super) fn of_bytes(status: &[u8]) -> Vec<StorageError> {
    rpc::Status::decode(status).map_or_else(|_| Vec::new(), |status| of(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> StorageError {
        StorageError { code: 2, entity: "projects/p/streams/한".into(), error_message: "done before".into() }
    }

    /// A status with details of these types.
    fn status(details: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut status = rpc::Status { code: 9, message: "some text".into(), ..Default::default() };
        status.details.resize_with(details.len(), Default::default);
        for (any, (name, value)) in status.details.iter_mut().zip(details) {
            any.type_url = format!("type.googleapis.com/{name}");
            any.value.clone_from(value);
        }
        status.encode_to_vec()
    }

    #[test]
    fn storage_errors_are_found_among_other_details() {
        let ours = (STORAGE_ERROR, error().encode_to_vec());
        let other = ("google.rpc.ErrorInfo", vec![8, 1]);
        assert_eq!(of_bytes(&status(&[other, ours.clone(), ours])), [error(), error()]);
        assert!(of_bytes(&status(&[])).is_empty());
    }

    #[test]
    fn bytes_that_are_cut_or_senseless_give_nothing_and_never_a_panic() {
        let whole = status(&[(STORAGE_ERROR, error().encode_to_vec())]);
        for end in 0..whole.len() {
            assert!(of_bytes(&whole[..end]).is_empty(), "{end}");
        }
        for byte in 0..=255 {
            of_bytes(&[byte; 40]);
            of_bytes(&status(&[(STORAGE_ERROR, vec![byte; 40])]));
        }
    }
}
