//! What an error of BigQuery's REST API means, and what to do about it.
//!
//! Reasons: <https://cloud.google.com/bigquery/docs/error-messages>.

use std::error::Error as StdError;
use std::fmt;

use gcp_bigquery_client::error::BQError;
use serde_json::Value;

use crate::error::{Error, Kind};

/// Of an answer that is no JSON, no more is shown.
const BODY_CHARACTERS_MAX: usize = 300;

/// Reasons that another time may not find.
const PASSING_REASONS: [&str; 11] = [
    "rateLimitExceeded",
    "quotaExceeded",
    "userRateLimitExceeded",
    "jobRateLimitExceeded",
    "backendError",
    "internalError",
    "jobBackendError",
    "jobInternalError",
    "tableUnavailable",
    "timeout",
    "stopped",
];

/// What messages say where another statement was at work on the table, whatever their reason.
const PASSING_MESSAGES: [&str; 4] =
    ["could not serialize access", "concurrent update", "too many dml statements", "rate limits"];

/// Why something asked of BigQuery did not come about.
#[derive(Debug)]
pub(super) enum Failure {
    /// BigQuery said no.
    Refused(Refusal),
    /// No answer came, or none that can be read: what was asked may have been done all the same.
    Unanswered(Box<dyn StdError + Send + Sync>),
    /// It was not even asked.
    Ours(Error),
}

/// BigQuery's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status; none where a job failed.
    pub(super) status: Option<u16>,
    /// The first reason, such as `notFound`; empty where none was given.
    pub(super) reason: String,
    pub(super) message: String,
}

impl Refusal {
    /// What an answer of this status says. Answers of proxies are no JSON.
    pub(super) fn of_answer(status: u16, body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &json["error"];
        let told = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let message = match told(&error["message"]) {
            empty if empty.is_empty() => {
                String::from_utf8_lossy(body).trim().chars().take(BODY_CHARACTERS_MAX).collect()
            }
            message => message,
        };
        Self { status: Some(status), reason: told(&error["errors"][0]["reason"]), message }
    }

    /// What a job's `errorResult` says.
    pub(super) fn of_job(error: &Value) -> Self {
        let told = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        Self { status: None, reason: told("reason"), message: told("message") }
    }

    /// Whether something is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.status == Some(404) || (self.status.is_none() && self.reason == "notFound")
    }

    /// Whether another time may find it possible.
    pub(super) fn is_passing(&self) -> bool {
        let message = self.message.to_lowercase();
        matches!(self.status, Some(408 | 409 | 412 | 429 | 500 | 502..=599))
            || PASSING_REASONS.contains(&self.reason.as_str())
            || PASSING_MESSAGES.iter().any(|passing| message.contains(passing))
    }

    fn hint(&self) -> Option<&'static str> {
        let told = |word: &str| self.reason == word || self.message.contains(word);
        Some(match self.status {
            _ if self.reason == "quotaExceeded" => {
                "a quota of the project is used up: see IAM & Admin > Quotas in the Google Cloud console"
            }
            _ if self.is_passing() => return None,
            Some(401) => "the credentials are not accepted: are they of the right account, and still valid?",
            Some(407) => "the proxy asks for a login: put it into HTTPS_PROXY",
            _ if told("accessNotConfigured") || told("SERVICE_DISABLED") => {
                "enable the BigQuery API: gcloud services enable bigquery.googleapis.com"
            }
            _ if told("billingNotEnabled") => "enable billing for the project, or name another under `project`",
            Some(403) => ROLES,
            None if told("accessDenied") => ROLES,
            _ if self.is_not_found() => "are `project`, `location` and the dataset's name right?",
            _ if told("resourcesExceeded") => {
                "partition or cluster the table (`partition_by`, `cluster_by`), so that a merge touches less of it"
            }
            _ => return None,
        })
    }
}

const ROLES: &str = "grant the account roles/bigquery.jobUser on the project and roles/bigquery.dataEditor on the dataset \
     (on the project, where freshet is to make datasets)";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "BigQuery answers {status} {}: {}", self.reason, self.message),
            None => write!(f, "the job failed, {}: {}", self.reason, self.message),
        }
    }
}

impl StdError for Refusal {}

impl Failure {
    /// Whether BigQuery answered with this status.
    pub(super) fn is(&self, status: u16) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == Some(status))
    }

    /// The error with this message, a full sentence without its final stop.
    pub(super) fn into_error(self, message: impl Into<String>) -> Error {
        match self {
            Self::Refused(refusal) => {
                let kind = if refusal.is_passing() { Kind::Retry } else { Kind::User };
                let error = Error::new(kind, message);
                match refusal.hint() {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
                .because(refusal)
            }
            Self::Unanswered(cause) if speaks_of_certificates(cause.as_ref()) => Error::user(message)
                .hint(
                    "BigQuery's certificate is not trusted here: add the one of your company's proxy to the system's, \
                     or name its file in SSL_CERT_FILE; is the machine's clock right?",
                )
                .because(cause),
            Self::Unanswered(cause) => Error::retry(message)
                .hint("BigQuery cannot be reached: check the network, and HTTPS_PROXY where there is a proxy")
                .because(cause),
            Self::Ours(error) => error,
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(cause: reqwest::Error) -> Self {
        Self::Unanswered(Box::new(cause.without_url()))
    }
}

impl From<BQError> for Failure {
    fn from(cause: BQError) -> Self {
        match cause {
            BQError::ResponseError { error } => {
                let error = error.error;
                let reason = error.errors.first().and_then(|first| first.get("reason")).cloned();
                let status = u16::try_from(error.code).ok();
                Self::Refused(Refusal { status, reason: reason.unwrap_or_default(), message: error.message })
            }
            BQError::RequestError(cause) => cause.into(),
            BQError::InvalidServiceAccountKey(cause) => {
                let ours = cause.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
                Self::Ours(ours.unwrap_or_else(|| Error::user("there is no access token for BigQuery").because(cause)))
            }
            other => Self::Ours(Error::bug("a request to BigQuery cannot be made").because(other)),
        }
    }
}

/// Whether TLS was refused: another time will not change that.
fn speaks_of_certificates(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().to_lowercase().contains("certificate") {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, reason: &str, message: &str) -> Error {
        let body = serde_json::json!({"error": {
            "code": status, "message": message, "errors": [{"domain": "global", "reason": reason, "message": message}],
        }});
        Failure::Refused(Refusal::of_answer(status, body.to_string().as_bytes())).into_error("it cannot be done")
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        for (status, reason) in [
            (403, "rateLimitExceeded"),
            (403, "quotaExceeded"),
            (429, ""),
            (500, "backendError"),
            (503, "backendError"),
            (400, "jobBackendError"),
            (412, "conditionNotMet"),
        ] {
            assert_eq!(refused(status, reason, "no").kind(), Kind::Retry, "{status} {reason}");
        }
        let busy = "Could not serialize access to table p:d.t due to concurrent update";
        assert_eq!(refused(400, "invalidQuery", busy).kind(), Kind::Retry);
    }

    #[test]
    fn what_must_be_mended_stops_the_table_and_says_how() {
        let hint = |error: Error| {
            assert_eq!(error.kind(), Kind::User, "{error:?}");
            error.hint_text().unwrap_or_default().to_owned()
        };
        assert!(hint(refused(403, "accessDenied", "no")).contains("roles/bigquery.dataEditor"));
        assert!(hint(refused(403, "accessNotConfigured", "no")).contains("enable the BigQuery API"));
        assert!(hint(refused(401, "authError", "no")).contains("credentials"));
        assert!(hint(refused(404, "notFound", "no")).contains("location"));
        assert_eq!(hint(refused(400, "invalidQuery", "no such column")), "");
        let job = Refusal::of_job(&serde_json::json!({"reason": "accessDenied", "message": "no"}));
        assert!(hint(Failure::Refused(job).into_error("x")).contains("roles/bigquery.jobUser"));
    }

    #[test]
    fn a_report_gives_bigquerys_own_words() {
        let report = refused(403, "accessDenied", "User does not have permission").report();
        assert!(report.starts_with("it cannot be done"), "{report}");
        assert!(report.contains("BigQuery answers 403 accessDenied: User does not have permission"), "{report}");
    }

    #[test]
    fn an_answer_that_is_no_json_is_shown_in_short() {
        let page = "<html>Bad Gateway</html>".repeat(100);
        let refusal = Refusal::of_answer(502, page.as_bytes());
        assert!(refusal.is_passing());
        assert_eq!(refusal.message.chars().count(), BODY_CHARACTERS_MAX);
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_said_plainly_and_a_lost_connection_is_tried_again() {
        let failed = |text: &str| Failure::Unanswered(std::io::Error::other(text.to_owned()).into()).into_error("x");
        let certificate = failed("invalid peer certificate: UnknownIssuer");
        assert_eq!(certificate.kind(), Kind::User);
        assert!(certificate.hint_text().unwrap().contains("SSL_CERT_FILE"));
        assert_eq!(failed("connection reset").kind(), Kind::Retry);
    }

    #[test]
    fn an_error_of_the_token_comes_back_as_it_was() {
        let ours = Error::user("no credentials").hint("log in");
        let failure = Failure::from(BQError::InvalidServiceAccountKey(std::io::Error::other(ours)));
        let error = failure.into_error("it cannot be done");
        assert_eq!((error.message(), error.hint_text()), ("no credentials", Some("log in")));
    }
}
