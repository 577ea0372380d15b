//! What BigQuery's refusals mean: from a gRPC status, or an error inside an answer, to an error of ours whose kind
//! says what to do.
//!
//! See <https://cloud.google.com/bigquery/docs/write-api#error_handling>.

use std::fmt;

use tonic::{Code, Status};

use super::details;
use super::write::proto::StorageError;
use super::write::proto::storage_error::StorageErrorCode;
use super::write::rpc;
use crate::error::{CERTIFICATE_HINT, Error, Kind, chain, says};

/// No more of a message of BigQuery's is kept.
const MESSAGE_CHARACTERS_MAX: usize = 1_000;

/// Why BigQuery did not do as it was told.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: Code,
    message: String,
    /// What it says in its own words.
    pub(super) storage: Vec<StorageError>,
    /// Whether the other side's certificate is not trusted.
    certificate: bool,
}

impl Refusal {
    /// A refusal of our own making, such as an answer that did not come in time.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), storage: Vec::new(), certificate: false }
    }

    /// What BigQuery said of streams in an answer that is otherwise fine.
    pub(super) fn of_streams(errors: &[StorageError]) -> Self {
        Self { storage: errors.to_vec(), ..Self::new(Code::FailedPrecondition, "not every stream could be used") }
    }

    /// Whether BigQuery names this error.
    pub(super) fn names(&self, code: StorageErrorCode) -> bool {
        self.storage.iter().any(|error| error.code == i32::from(code))
    }

    /// Whether the same may succeed on a new connection, a moment later.
    pub(super) fn passes(&self) -> bool {
        use Code as C;
        let passing = [C::Unavailable, C::Cancelled, C::Aborted, C::DeadlineExceeded, C::Unknown, C::Internal];
        !self.certificate && (passing.contains(&self.code) || self.code == C::ResourceExhausted)
    }

    /// Whether a stream or table does not exist.
    pub(super) fn is_absent(&self) -> bool {
        let absent = [StorageErrorCode::StreamNotFound, StorageErrorCode::TableNotFound];
        self.code == Code::NotFound || absent.into_iter().any(|code| self.names(code))
    }

    /// The error it means for `what`, a sentence such as "rows cannot be written".
    pub(super) fn error(self, what: &str) -> Error {
        let (kind, hint) = self.means();
        let error = Error::new(kind, what).because(self);
        if hint.is_empty() { error } else { error.hint(hint) }
    }

    fn means(&self) -> (Kind, &'static str) {
        if self.certificate {
            return (Kind::User, CERTIFICATE_HINT);
        }
        self.storage.iter().find_map(|error| means_storage(error.code())).unwrap_or_else(|| means_code(self.code))
    }
}

/// What an error in BigQuery's own words means, where that is more than the code says.
fn means_storage(code: StorageErrorCode) -> Option<(Kind, &'static str)> {
    use StorageErrorCode as S;
    Some(match code {
        S::TableNotFound | S::StreamNotFound => means_code(Code::NotFound),
        S::SchemaMismatchExtraFields => (Kind::Retry, "a column just added becomes known within minutes"),
        S::CmekNotProvided | S::InvalidCmekProvided | S::CmekEncryptionError => {
            (Kind::User, "set `kms_key` to a Cloud KMS key of the dataset's region")
        }
        S::KmsServiceError => (Kind::Retry, ""),
        S::KmsPermissionDenied => (
            Kind::User,
            "give BigQuery's own service account the role roles/cloudkms.cryptoKeyEncrypterDecrypter on the key",
        ),
        S::StreamFinalized | S::InvalidStreamState | S::OffsetAlreadyExists | S::OffsetOutOfRange => (Kind::Retry, ""),
        _ => return None,
    })
}

fn means_code(code: Code) -> (Kind, &'static str) {
    match code {
        Code::Unauthenticated => {
            (Kind::User, "are the credentials still valid? See GOOGLE_APPLICATION_CREDENTIALS, and the machine's clock")
        }
        Code::PermissionDenied => {
            (Kind::User, "give the credentials' account the role roles/bigquery.dataEditor on the dataset")
        }
        Code::NotFound => (Kind::Retry, "a table just made becomes known within minutes; was it deleted meanwhile?"),
        Code::ResourceExhausted => {
            (Kind::Retry, "a quota is used up: see IAM & Admin, Quotas, BigQuery Storage API, in the Cloud console")
        }
        Code::InvalidArgument => (Kind::User, "do the table's columns at BigQuery fit what the SQL gives?"),
        Code::Unimplemented => (Kind::User, "is `grpc_endpoint` BigQuery's Storage Write API?"),
        Code::FailedPrecondition => (Kind::User, ""),
        _ => (Kind::Retry, ""),
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let causes: Vec<String> = chain(&status).skip(1).map(ToString::to_string).collect();
        let said = if status.message().is_empty() { causes.join(": ") } else { status.message().to_owned() };
        Self {
            code: status.code(),
            message: shorten(&said),
            storage: details::of_bytes(status.details()),
            // The server's own words count for nothing here: it answered, so its certificate was trusted.
            certificate: std::error::Error::source(&status).is_some_and(|cause| says(cause, "certificate")),
        }
    }
}

impl From<rpc::Status> for Refusal {
    fn from(status: rpc::Status) -> Self {
        Self {
            code: Code::from_i32(status.code),
            storage: details::of(&status),
            message: shorten(&status.message),
            certificate: false,
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MESSAGE_CHARACTERS_MAX).collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)?;
        for error in &self.storage {
            write!(f, "; {} {}", error.code().as_str_name(), shorten(&error.error_message))?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn with_storage(code: Code, storage: StorageErrorCode) -> Refusal {
        let error = StorageError { code: storage.into(), ..StorageError::default() };
        Refusal { storage: vec![error], ..Refusal::new(code, "told so") }
    }

    #[test]
    fn what_passes_by_itself_is_tried_again_and_what_does_not_stops_the_table() {
        let cases = [
            (Code::Unavailable, Kind::Retry),
            (Code::DeadlineExceeded, Kind::Retry),
            (Code::ResourceExhausted, Kind::Retry),
            (Code::Aborted, Kind::Retry),
            (Code::Internal, Kind::Retry),
            (Code::Cancelled, Kind::Retry),
            (Code::Unknown, Kind::Retry),
            (Code::OutOfRange, Kind::Retry),
            (Code::NotFound, Kind::Retry),
            (Code::Unauthenticated, Kind::User),
            (Code::PermissionDenied, Kind::User),
            (Code::InvalidArgument, Kind::User),
            (Code::Unimplemented, Kind::User),
        ];
        for (code, kind) in cases {
            let error = Refusal::new(code, "told so").error("rows cannot be written");
            assert_eq!((error.kind(), error.message()), (kind, "rows cannot be written"), "{code:?}");
            assert!(error.report().contains("told so"), "{}", error.report());
        }
    }

    #[test]
    fn bigquerys_own_words_count_for_more_than_the_code() {
        let kind = |storage| with_storage(Code::InvalidArgument, storage).error("no").kind();
        assert_eq!(kind(StorageErrorCode::SchemaMismatchExtraFields), Kind::Retry);
        assert_eq!(kind(StorageErrorCode::KmsServiceError), Kind::Retry);
        assert_eq!(kind(StorageErrorCode::Unspecified), Kind::User);
        let denied = with_storage(Code::FailedPrecondition, StorageErrorCode::KmsPermissionDenied).error("no");
        assert!(denied.hint_text().unwrap().contains("cloudkms"), "{denied:?}");
    }

    #[test]
    fn a_denied_permission_names_the_role_that_is_wanted() {
        let error = Refusal::new(Code::PermissionDenied, "no").error("rows cannot be written");
        assert!(error.hint_text().unwrap().contains("roles/bigquery.dataEditor"));
    }

    #[test]
    fn an_untrusted_certificate_is_told_from_a_server_that_is_down() {
        let of_cause = |text: &str| {
            let mut status = Status::unavailable("");
            status.set_source(std::sync::Arc::new(std::io::Error::other(text.to_owned())));
            Refusal::from(status)
        };
        let untrusted = of_cause("invalid peer certificate: UnknownIssuer");
        assert!(!untrusted.passes() && untrusted.to_string().contains("UnknownIssuer"));
        assert_eq!(untrusted.error("no").kind(), Kind::User);
        let told = Refusal::from(Status::unavailable("the certificate is being renewed"));
        assert!(told.passes(), "what the server says comes over a connection that is trusted");
        let down = of_cause("connection refused");
        assert!(down.passes());
        assert_eq!(down.error("no").kind(), Kind::Retry);
    }

    #[test]
    fn errors_inside_an_answer_are_read_like_a_status() {
        let error = StorageError { code: 9, entity: "s".into(), error_message: "gap".into() };
        let mut status = rpc::Status { code: 11, message: "out".into(), details: vec![Default::default()] };
        status.details[0].type_url = "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into();
        status.details[0].value = error.encode_to_vec();
        let refusal = Refusal::from(status);
        assert_eq!(refusal.code, Code::OutOfRange);
        assert!(refusal.names(StorageErrorCode::OffsetOutOfRange));
        assert_eq!(refusal.to_string(), "OutOfRange: out; OFFSET_OUT_OF_RANGE gap");
    }
}
