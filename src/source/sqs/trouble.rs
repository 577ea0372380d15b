//! What to do about an error of SQS.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use crate::error::{CERTIFICATE_HINT, Error, Kind, find, says};

/// Turns the SDK's errors about one queue into ours.
#[derive(Debug)]
pub(super) struct Trouble {
    url: String,
}

/// What kind of error it is, and what the reader can do.
type Advice = (Kind, String);

impl Trouble {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// The error of a request whose permission is `sqs:` and `action`; the permissions of batches are those of single
    /// messages,
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html>.
    pub(super) fn error<E>(&self, action: &str, cause: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let status = cause.raw_response().map(|answer| answer.status().as_u16());
        let by_answer = cause.code().map(|code| self.by_code(action, code, status));
        let (kind, hint) = by_answer.or_else(|| by_status(status)).unwrap_or_else(|| unanswered(&cause));
        Error::new(kind, format!("SQS does not do {action} on the queue {}", self.url)).hint(hint).because(cause)
    }

    /// The codes are those of
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>, with or without the
    /// names that stood before them in older protocols.
    fn by_code(&self, action: &str, code: &str, status: Option<u16>) -> Advice {
        match code.rsplit(['.', '#']).next().unwrap_or(code) {
            "AccessDenied" | "AccessDeniedException" if code.to_ascii_lowercase().starts_with("kms") => kms(),
            "AccessDenied" | "AccessDeniedException" | "NotAuthorized" | "OptInRequired" => {
                (Kind::User, format!("allow sqs:{action} on the queue to the role or user that freshet runs as"))
            }
            "QueueDoesNotExist" | "NonExistentQueue" | "InvalidAddress" => (
                Kind::User,
                format!("check `queue` in freshet.yaml: there is no queue {}, or not in that account", self.url),
            ),
            "KmsAccessDenied" | "KmsDisabled" | "KmsInvalidKeyUsage" | "KmsInvalidState" | "KmsNotFound"
            | "KmsOptInRequired" => kms(),
            "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "InvalidSecurity" => {
                (Kind::User, "AWS does not know these credentials: see `aws sts get-caller-identity`".to_owned())
            }
            "ExpiredToken" | "ExpiredTokenException" => {
                (Kind::Retry, "the credentials have expired: renew them, for example by `aws sso login`".to_owned())
            }
            "RequestExpired" | "RequestTimeTooSkewed" => (Kind::Retry, "set the machine's clock right".to_owned()),
            "OverLimit" => (
                Kind::Retry,
                "too many messages of the queue are received and not yet deleted, here and elsewhere".to_owned(),
            ),
            "RequestThrottled" | "KmsThrottled" | "Throttling" | "ThrottlingException" | "ThrottledException" => {
                (Kind::Retry, "AWS takes no more requests just now".to_owned())
            }
            _ => by_status(status).unwrap_or_else(passing),
        }
    }
}

fn kms() -> Advice {
    (Kind::User, "allow kms:Decrypt on the queue's key to the role or user that freshet runs as".to_owned())
}

fn passing() -> Advice {
    (Kind::Retry, "this passes; if not, see https://health.aws.amazon.com".to_owned())
}

/// What an answer's status alone says: some requests are refused for good.
fn by_status(status: Option<u16>) -> Option<Advice> {
    match status? {
        408 | 429 | 500.. => Some(passing()),
        401 | 403 => Some((Kind::User, "see which role or user freshet runs as, and what it may do".to_owned())),
        400..=499 => Some((Kind::User, "check `queue` in freshet.yaml; the cause says what SQS refuses".to_owned())),
        _ => None,
    }
}

/// Where no answer came.
fn unanswered(error: &(dyn StdError + 'static)) -> Advice {
    if let Some(credentials) = find::<CredentialsError>(error) {
        let kind = match credentials {
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => Kind::User,
            _ => Kind::Retry,
        };
        return (
            kind,
            "freshet finds AWS credentials as the AWS CLI does: see `aws sts get-caller-identity`".to_owned(),
        );
    }
    if says(error, "certificate") {
        return (Kind::Retry, CERTIFICATE_HINT.to_owned());
    }
    (Kind::Retry, "check the network, proxy and firewall between here and SQS".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "https://sqs.eu-west-1.amazonaws.com/111122223333/cdc";

    #[track_caller]
    fn check(code: &str, status: u16, kind: Kind, hint: &str) {
        let advice = Trouble::new(QUEUE).by_code("ReceiveMessage", code, Some(status));
        assert_eq!(advice.0, kind, "{code}: {}", advice.1);
        assert!(advice.1.contains(hint), "{code}: {}", advice.1);
    }

    #[test]
    fn what_only_a_person_can_mend_stops() {
        check("AccessDenied", 403, Kind::User, "sqs:ReceiveMessage");
        check("AccessDeniedException", 400, Kind::User, "sqs:ReceiveMessage");
        check("AWS.SimpleQueueService.NonExistentQueue", 400, Kind::User, QUEUE);
        check("com.amazonaws.sqs#QueueDoesNotExist", 400, Kind::User, QUEUE);
        check("KMS.AccessDeniedException", 400, Kind::User, "kms:Decrypt");
        check("KmsAccessDenied", 400, Kind::User, "kms:Decrypt");
        check("InvalidClientTokenId", 403, Kind::User, "credentials");
        check("InvalidParameterValue", 400, Kind::User, "cause");
    }

    #[test]
    fn what_passes_is_tried_again() {
        check("RequestThrottled", 400, Kind::Retry, "no more requests");
        check("ThrottlingException", 400, Kind::Retry, "no more requests");
        check("OverLimit", 403, Kind::Retry, "too many messages");
        check("ExpiredToken", 403, Kind::Retry, "expired");
        check("InternalFailure", 500, Kind::Retry, "passes");
        check("ServiceUnavailable", 503, Kind::Retry, "passes");
        check("SomethingNew", 429, Kind::Retry, "passes");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("dispatch failure")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn without_an_answer_the_network_the_certificate_or_the_credentials_are_to_blame() {
        let network = unanswered(&Outer(std::io::Error::other("connection refused")));
        assert_eq!(network.0, Kind::Retry);
        assert!(network.1.contains("network"), "{}", network.1);
        let certificate = unanswered(&Outer(std::io::Error::other("invalid peer certificate: UnknownIssuer")));
        assert_eq!(certificate.0, Kind::Retry);
        assert!(certificate.1.contains("SSL_CERT_FILE"), "{}", certificate.1);
        let none = unanswered(&CredentialsError::not_loaded("no providers"));
        assert_eq!(none.0, Kind::User);
        assert!(none.1.contains("credentials"), "{}", none.1);
        let later = unanswered(&CredentialsError::provider_error("the metadata service is slow"));
        assert_eq!(later.0, Kind::Retry);
    }
}
