//! What S3's refusals mean: who must do what about them.

use super::answers::element;
use super::credentials;
use crate::error::{Error, Kind, find};

/// The code with which S3 refused, such as `AccessDenied`, where that is in an error or its causes:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList>.
pub fn refusal_code(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let store = find::<object_store::Error>(error)?;
    element(&store.to_string(), "Code").map(str::to_owned)
}

/// The same error with the kind and the hint that S3's refusal, or want of credentials, among its causes asks for.
pub fn explained(error: Error) -> Error {
    if let Some(inner) = credentials::inside(&error) {
        let explained = error.with_kind(inner.kind());
        return match inner.hint_text() {
            Some(hint) => explained.hint(hint),
            None => explained,
        };
    }
    match meaning(&error) {
        Some((kind, hint)) => error.with_kind(kind).hint(hint),
        None => error,
    }
}

fn meaning(error: &Error) -> Option<(Kind, &'static str)> {
    const REGION: &str = "the bucket is in another region: set AWS_REGION to the bucket's";
    const CREDENTIALS: &str = "AWS refuses the credentials: `aws sts get-caller-identity` tells whose they are";
    let store = find::<object_store::Error>(error)?;
    // S3 tells of another region without a place to go to.
    if store.to_string().contains("Received redirect without LOCATION") {
        return Some((Kind::User, REGION));
    }
    Some(match refusal_code(error)?.as_str() {
        "NoSuchBucket" => (Kind::User, "there is no such bucket: check its name, and AWS_PROFILE for the account"),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => (
            Kind::User,
            "grant s3:ListBucket on the bucket, s3:GetObject on its objects (and kms:Decrypt where they are \
             encrypted), and s3:PutObject where a ledger is kept",
        ),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            (Kind::User, REGION)
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp" => (Kind::User, CREDENTIALS),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => (Kind::Retry, CREDENTIALS),
        "RequestTimeTooSkewed" => (Kind::Retry, "this machine's clock is wrong: S3 allows 15 minutes"),
        "SlowDown" | "ServiceUnavailable" | "InternalError" => {
            (Kind::Retry, "S3 is busy; lower pipeline_config.tables_at_once if this goes on")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Error {
        let cause = object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
        explained(Error::retry("the ledger cannot be read").because(cause).hint("wait"))
    }

    #[track_caller]
    fn check(text: &str, kind: Kind, hint: &str) {
        let error = refused(text);
        assert_eq!(error.kind(), kind, "{text}");
        assert!(error.hint_text().unwrap().contains(hint), "{text}: {}", error.report());
        assert_eq!(error.message(), "the ledger cannot be read");
    }

    #[test]
    fn a_refusal_says_who_must_do_what() {
        check("403: <Error><Code>AccessDenied</Code></Error>", Kind::User, "s3:ListBucket");
        check("404: <Error><Code>NoSuchBucket</Code></Error>", Kind::User, "no such bucket");
        check("301: <Error><Code>PermanentRedirect</Code></Error>", Kind::User, "AWS_REGION");
        check("Received redirect without LOCATION, this normally …", Kind::User, "AWS_REGION");
        check("403: <Error><Code>SignatureDoesNotMatch</Code></Error>", Kind::User, "get-caller-identity");
        check("400: <Error><Code>ExpiredToken</Code></Error>", Kind::Retry, "get-caller-identity");
        check("503: <Error><Code>SlowDown</Code></Error>", Kind::Retry, "busy");
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        check("500: <Error><Code>Unheard</Code></Error>", Kind::Retry, "wait");
        check("connection reset", Kind::Retry, "wait");
        assert_eq!(explained(Error::data("broken")).kind(), Kind::Data);
    }

    #[test]
    fn want_of_credentials_comes_out_with_its_own_hint() {
        let inner = Error::user("no AWS credentials were found").hint("set AWS_PROFILE");
        let cause = object_store::Error::Unauthenticated { path: "S3".into(), source: Box::new(inner) };
        let error = explained(Error::retry("the ledger cannot be read").because(cause).hint("wait"));
        assert_eq!((error.kind(), error.hint_text()), (Kind::User, Some("set AWS_PROFILE")));
        assert!(error.report().contains("no AWS credentials were found"), "{}", error.report());
    }
}
