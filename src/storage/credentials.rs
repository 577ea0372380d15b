//! The credentials of AWS's own chain, for object stores: kept until shortly before they expire.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use chrono::{DateTime, TimeDelta, Utc};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::error::{Error, Result, find, says};

/// New ones are asked for so long before the old ones expire: longer than a request is repeated with the same ones.
const MARGIN: TimeDelta = TimeDelta::minutes(4);
/// Ones that never expire are asked for again after so long.
const KEPT_MAX: TimeDelta = TimeDelta::minutes(15);
/// Between two attempts to replace old ones that are still good.
const ATTEMPT_PAUSE: TimeDelta = TimeDelta::seconds(20);
/// How long the chain may take: it may run a program, or ask servers.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// AWS's chain of credentials.
pub(super) struct Chain {
    provider: SharedCredentialsProvider,
    /// Whether a server other than AWS is used.
    own_server: bool,
    clock: Arc<dyn Clock>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    credential: Arc<AwsCredential>,
    expiry: Option<DateTime<Utc>>,
    /// When to ask again.
    ask_again: DateTime<Utc>,
}

impl Chain {
    pub(super) fn new(provider: SharedCredentialsProvider, own_server: bool, clock: Arc<dyn Clock>) -> Self {
        Self { provider, own_server, clock, kept: Mutex::default() }
    }

    /// The credentials to use now.
    async fn credential(&self) -> Result<Arc<AwsCredential>> {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some(kept) = kept.as_ref().filter(|kept| now < kept.ask_again) {
            return Ok(Arc::clone(&kept.credential));
        }
        match self.load().await {
            Ok(found) => Ok(Arc::clone(&kept.insert(Kept::new(&found, now)).credential)),
            Err(error) => match kept.as_mut().filter(|kept| kept.expiry.is_none_or(|expiry| now < expiry)) {
                Some(kept) => {
                    tracing::warn!("AWS credentials cannot be renewed, the old ones are used: {}", error.report());
                    kept.ask_again = now + ATTEMPT_PAUSE;
                    Ok(Arc::clone(&kept.credential))
                }
                None => Err(error),
            },
        }
    }

    async fn load(&self) -> Result<Credentials> {
        let loading = self.provider.provide_credentials();
        let loaded = tokio::time::timeout(LOAD_TIMEOUT, loading).await;
        loaded.unwrap_or(Err(CredentialsError::provider_timed_out(LOAD_TIMEOUT))).map_err(|cause| self.refused(cause))
    }

    /// What it means that there are none.
    fn refused(&self, cause: CredentialsError) -> Error {
        const TRY_CLI: &str = "`aws sts get-caller-identity` looks in the same places: see what it says";
        let error = match &cause {
            CredentialsError::CredentialsNotLoaded(_) if self.own_server => {
                Error::user("AWS_ENDPOINT_URL names a server, but no credentials for it were found")
                    .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; where the server checks none, to any text")
            }
            CredentialsError::CredentialsNotLoaded(_) => Error::user("no AWS credentials were found").hint(
                "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role is attached: a \
                 pod with a service account, a container's task role, an instance profile",
            ),
            CredentialsError::InvalidConfiguration(_) => {
                Error::user("the settings for AWS credentials are wrong").hint(TRY_CLI)
            }
            _ => Error::retry("AWS credentials cannot be loaded now").hint(TRY_CLI),
        };
        let of_sso = says(&cause, "sso");
        let error = error.because(cause);
        if of_sso {
            return error.hint("the SSO session may have expired: run `aws sso login`");
        }
        error
    }
}

impl Kept {
    fn new(found: &Credentials, now: DateTime<Utc>) -> Self {
        let expiry = found.expiry().map(DateTime::<Utc>::from);
        let ask_again = expiry.map_or(now + KEPT_MAX, |expiry| (expiry - MARGIN).max(now + ATTEMPT_PAUSE).min(expiry));
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        });
        Self { credential, expiry, ask_again }
    }
}

impl fmt::Debug for Chain {
    /// Nothing that could be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AWS's chain of credentials")
    }
}

#[async_trait]
impl CredentialProvider for Chain {
    type Credential = AwsCredential;

    /// Our own error is the cause of the store's.
    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.credential()
            .await
            .map_err(|error| object_store::Error::Unauthenticated { path: "S3".to_owned(), source: Box::new(error) })
    }
}

/// What went wrong with credentials, where that is why a store failed.
pub(super) fn inside(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let store = find::<object_store::Error>(error)?;
    match store {
        object_store::Error::Unauthenticated { source, .. } => source.downcast_ref::<Error>().cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as PlainMutex;
    use std::time::SystemTime;

    use super::*;
    use crate::clock::StillClock;
    use crate::error::Kind;

    type Answer = Result<Credentials, fn() -> CredentialsError>;

    /// Answers in turn; the last one again and again.
    #[derive(Debug)]
    struct Script(PlainMutex<Vec<Answer>>);

    impl ProvideCredentials for Script {
        fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let mut script = self.0.lock().unwrap();
            let next = if script.len() > 1 { script.remove(0) } else { script[0].clone() };
            aws_credential_types::provider::future::ProvideCredentials::ready(next.map_err(|error| error()))
        }
    }

    const START: &str = "2024-05-06T00:00:00Z";

    fn keys(id: &str, minutes: Option<i64>) -> Credentials {
        let start: DateTime<Utc> = START.parse().unwrap();
        let expiry = minutes.map(|minutes| SystemTime::from(start + TimeDelta::minutes(minutes)));
        Credentials::new(id, "the-secret", Some("the-token".into()), expiry, "test")
    }

    fn chain(script: Vec<Answer>) -> (Arc<StillClock>, Chain) {
        let clock = Arc::new(StillClock::at(START.parse().unwrap()));
        let provider = SharedCredentialsProvider::new(Script(PlainMutex::new(script)));
        (Arc::clone(&clock), Chain::new(provider, false, clock))
    }

    async fn key(chain: &Chain) -> String {
        chain.credential().await.unwrap().key_id.clone()
    }

    #[tokio::test]
    async fn credentials_are_kept_until_shortly_before_they_expire() {
        let (clock, chain) = chain(vec![Ok(keys("one", Some(60))), Ok(keys("two", None)), Ok(keys("three", None))]);
        assert_eq!(key(&chain).await, "one");
        clock.forward(TimeDelta::minutes(55));
        assert_eq!(key(&chain).await, "one");
        clock.forward(TimeDelta::minutes(2));
        assert_eq!(key(&chain).await, "two");
        clock.forward(TimeDelta::minutes(14));
        assert_eq!(key(&chain).await, "two");
        clock.forward(TimeDelta::minutes(2));
        assert_eq!(key(&chain).await, "three");
    }

    #[tokio::test]
    async fn credentials_that_cannot_be_renewed_serve_until_they_expire() {
        let unavailable: fn() -> CredentialsError = || CredentialsError::provider_error("no");
        let (clock, chain) = chain(vec![Ok(keys("one", Some(60))), Err(unavailable)]);
        assert_eq!(key(&chain).await, "one");
        clock.forward(TimeDelta::minutes(58));
        assert_eq!(key(&chain).await, "one");
        clock.forward(TimeDelta::minutes(3));
        assert_eq!(chain.credential().await.unwrap_err().kind(), Kind::Retry);
    }

    #[tokio::test]
    async fn short_lived_credentials_are_not_asked_for_with_every_request() {
        let (clock, chain) = chain(vec![Ok(keys("one", Some(2))), Ok(keys("two", Some(4))), Ok(keys("three", None))]);
        assert_eq!((key(&chain).await, key(&chain).await), ("one".into(), "one".into()));
        clock.forward(TimeDelta::seconds(21));
        assert_eq!((key(&chain).await, key(&chain).await), ("two".into(), "two".into()));
    }

    async fn refused(error: fn() -> CredentialsError, own_server: bool) -> Error {
        let (_, chain) = chain(vec![Err(error)]);
        let store = Chain { own_server, ..chain }.get_credential().await.unwrap_err();
        inside(&Error::retry("outside").because(store)).unwrap()
    }

    #[tokio::test]
    async fn what_is_missing_is_told_through_the_store() {
        let nothing = refused(CredentialsError::not_loaded_no_source, false).await;
        assert_eq!((nothing.kind(), nothing.message()), (Kind::User, "no AWS credentials were found"));
        assert!(nothing.hint_text().unwrap().contains("AWS_PROFILE"));
        let server = refused(CredentialsError::not_loaded_no_source, true).await;
        assert!(server.message().contains("AWS_ENDPOINT_URL"), "{server}");
        assert!(server.hint_text().unwrap().contains("AWS_SECRET_ACCESS_KEY"));
        let wrong = refused(|| CredentialsError::invalid_configuration("profile x"), false).await;
        assert_eq!(wrong.kind(), Kind::User);
        assert!(wrong.report().contains("profile x"), "{}", wrong.report());
        let sso = refused(|| CredentialsError::provider_error("the SSO token has expired"), false).await;
        assert_eq!(sso.kind(), Kind::Retry);
        assert!(sso.hint_text().unwrap().contains("aws sso login"));
    }

    #[tokio::test]
    async fn secrets_are_not_shown() {
        let (_, chain) = chain(vec![Ok(keys("one", None))]);
        let credential = chain.get_credential().await.unwrap();
        assert_eq!((credential.secret_key.as_str(), credential.token.as_deref()), ("the-secret", Some("the-token")));
        let shown = format!("{chain:?} {credential:?}");
        assert!(!shown.contains("the-"), "{shown}");
    }
}
