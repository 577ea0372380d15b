//! Errors as Google's gRPC services give them: a code, a message and a `StorageError` in the details.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/storage/rpc/google.cloud.bigquery.storage.v1#storageerror>.

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::{cloud::bigquery::storage::v1 as proto, rpc};
use prost::Message;
pub(super) use proto::storage_error::StorageErrorCode;
use tonic::{Code, Status};

pub(super) type Result<T> = std::result::Result<T, Refusal>;

/// Why a call, or one append, is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    message: String,
    detail: Option<proto::StorageError>,
}

const TYPE_URL: &str = "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError";

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(super) fn not_found(what: StorageErrorCode, entity: &str) -> Self {
        Self::new(Code::NotFound, format!("Requested entity was not found: {entity}")).with(what, entity)
    }

    /// Adds what the details say.
    pub(super) fn with(self, code: StorageErrorCode, entity: &str) -> Self {
        let error_message = self.message.clone();
        let detail = proto::StorageError { code: code.into(), entity: entity.to_owned(), error_message };
        Self { detail: Some(detail), ..self }
    }

    /// What `grpc-status-details-bin` holds.
    fn to_rpc(&self) -> rpc::Status {
        let mut status = rpc::Status { code: self.code.into(), message: self.message.clone(), ..Default::default() };
        status.details.resize_with(self.detail.iter().len(), Default::default);
        for (any, error) in status.details.iter_mut().zip(&self.detail) {
            (any.type_url, any.value) = (TYPE_URL.to_owned(), error.encode_to_vec());
        }
        status
    }

    /// As the end of a call.
    pub(super) fn to_status(&self) -> Status {
        let details = self.to_rpc().encode_to_vec();
        Status::with_details(self.code, self.message.clone(), details.into())
    }

    /// As the answer to one append.
    pub(super) fn to_response(&self, stream: &str, rows: Vec<proto::RowError>) -> proto::AppendRowsResponse {
        use proto::append_rows_response::Response;
        proto::AppendRowsResponse {
            updated_schema: None,
            row_errors: rows,
            write_stream: stream.to_owned(),
            response: Some(Response::Error(self.to_rpc())),
        }
    }
}
