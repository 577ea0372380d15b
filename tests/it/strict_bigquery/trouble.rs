//! Errors as Google's REST API answers with them.

use serde_json::{Value, json};

pub(super) type Result<T> = std::result::Result<T, Trouble>;

/// An error of a REST call or of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid", message)
    }

    pub(super) fn invalid_query(message: impl Into<String>) -> Self {
        Self::new(400, "invalidQuery", message)
    }

    pub(super) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(404, "notFound", format!("Not found: {what}"))
    }

    pub(super) fn duplicate(what: impl std::fmt::Display) -> Self {
        Self::new(409, "duplicate", format!("Already Exists: {what}"))
    }

    /// As a job's `errorResult`.
    pub(super) fn to_error_result(&self) -> Value {
        json!({"reason": self.reason, "message": self.message})
    }

    /// The body of an HTTP answer; see <https://cloud.google.com/bigquery/docs/error-messages>.
    pub(super) fn to_body(&self) -> Value {
        let status = match self.code {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ALREADY_EXISTS",
            412 => "FAILED_PRECONDITION",
            429 => "RESOURCE_EXHAUSTED",
            503 => "UNAVAILABLE",
            501 => "UNIMPLEMENTED",
            _ => "INTERNAL",
        };
        let error = json!({"message": self.message, "domain": "global", "reason": self.reason});
        json!({"error": {"code": self.code, "message": self.message, "errors": [error], "status": status}})
    }
}
