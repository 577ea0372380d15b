//! Errors as Google's gRPC services give them: a code, a message and a `StorageError` in the details.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/storage/rpc/google.cloud.bigquery.storage.v1#storageerror>.

use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
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

/// `google.rpc.Status`, which `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
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

    fn to_rpc(&self) -> RpcStatus {
        let any = |error: &proto::StorageError| Any { type_url: TYPE_URL.into(), value: error.encode_to_vec() };
        RpcStatus {
            code: self.code.into(),
            message: self.message.clone(),
            details: self.detail.iter().map(any).collect(),
        }
    }

    /// As the end of a call.
    pub(super) fn to_status(&self) -> Status {
        let details = self.to_rpc().encode_to_vec();
        Status::with_details(self.code, self.message.clone(), details.into())
    }

    /// As the answer to one append.
    pub(super) fn to_response(&self, stream: &str, rows: Vec<proto::RowError>) -> proto::AppendRowsResponse {
        use proto::append_rows_response::Response;
        let same = self.to_rpc().encode_to_vec();
        proto::AppendRowsResponse {
            updated_schema: None,
            row_errors: rows,
            write_stream: stream.to_owned(),
            response: Some(Response::Error(Message::decode(same.as_slice()).unwrap())),
        }
    }
}
