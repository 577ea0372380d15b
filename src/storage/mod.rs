//! Object stores by location: S3 with the credentials and the region that AWS's own tools would find.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredentialProvider, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, HeaderValue, ObjectStore, RetryConfig};
use tokio::sync::OnceCell;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};

mod answers;
mod credentials;
mod endpoint;
mod http;
mod location;
mod refusal;
mod signing;

pub use http::http_client;
pub use location::S3Location;
pub use refusal::{explained, refusal_code};
pub use signing::Signer;

use answers::PlainAnswers;
use credentials::Chain;
use endpoint::{Endpoints, Place};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take with all of its answer's body: slow lines have large files, too.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// How often one request is repeated, after pauses that grow at random within these bounds.
const RETRIES_MAX: usize = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so long no request is repeated, and no body that broke off is continued.
const RETRY_TIME_MAX: Duration = Duration::from_secs(180);

/// Once per process: looking for a region may ask the network.
static LOADED: OnceCell<Aws> = OnceCell::const_new();

/// What AWS's own tools would find on this machine: credentials, region, endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Aws(Arc<Inner>);

struct Inner {
    sdk: SdkConfig,
    credentials: AwsCredentialProvider,
    endpoints: Endpoints,
}

impl Aws {
    /// Looks for credentials and a region as AWS's own tools do: variables, profiles, SSO, web identity, containers,
    /// instances; see <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>. Credentials
    /// themselves are only asked for with the first request. The first call in a process looks, all others get what it
    /// found.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where variables contradict each other.
    pub async fn load() -> Result<Self> {
        let look = || Box::pin(Self::look(SystemClock::shared()));
        LOADED.get_or_try_init(look).await.cloned()
    }

    async fn look(clock: Arc<dyn Clock>) -> Result<Self> {
        let sdk = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        Self::of(sdk, |name| std::env::var(name).ok(), clock)
    }

    /// The same, with a configuration that was made elsewhere; `variable` gives variables of the environment.
    ///
    /// # Errors
    /// As those of [`load`](Self::load).
    pub fn of(sdk: SdkConfig, variable: impl Fn(&str) -> Option<String>, clock: Arc<dyn Clock>) -> Result<Self> {
        let endpoints = Endpoints::find(&sdk, variable)?;
        let provider = sdk.credentials_provider().ok_or_else(|| Error::bug("AWS's chain of credentials is missing"))?;
        let credentials = Arc::new(Chain::new(provider, endpoints.is_custom(), clock));
        Ok(Self(Arc::new(Inner { sdk, credentials, endpoints })))
    }

    /// What clients of other AWS services are made from.
    pub fn sdk(&self) -> &SdkConfig {
        &self.0.sdk
    }

    /// The region in which requests are signed.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where none is known.
    pub fn region(&self) -> Result<&str> {
        self.0.sdk.region().map(AsRef::as_ref).ok_or_else(|| {
            Error::user("no AWS region is known").hint(
                "set AWS_REGION to the bucket's region, or write `region` into the profile in ~/.aws/config; any, such \
                 as us-east-1, will do for a server of your own",
            )
        })
    }

    /// Credentials to sign with now.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where there are none, [`Retry`](crate::error::Kind::Retry) where they cannot be
    /// had now.
    pub async fn credentials(&self) -> Result<Credentials> {
        let found = self.0.credentials.get_credential().await.map_err(|cause| {
            let known = credentials::inside(&cause);
            known.unwrap_or_else(|| Error::retry("AWS credentials cannot be loaded now").because(cause))
        })?;
        Ok(Credentials::new(&found.key_id, &found.secret_key, found.token.clone(), None, "freshet"))
    }

    /// The objects of a bucket, each under its key. Nothing is asked of the bucket yet.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where no region is known or the endpoint is none.
    pub fn bucket(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
        Ok(Arc::new(self.s3(bucket)?))
    }

    /// As [`bucket`](Self::bucket), with what S3 alone can do.
    ///
    /// # Errors
    /// As those of [`bucket`](Self::bucket).
    pub fn s3(&self, bucket: &str) -> Result<AmazonS3> {
        let region = self.region()?;
        let Place { url, virtual_hosted, plain } = self.0.endpoints.place(region, bucket)?;
        AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_endpoint(url)
            .with_virtual_hosted_style_request(virtual_hosted)
            .with_credentials(Arc::clone(&self.0.credentials))
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(client_options().with_allow_http(plain))
            .with_retry(retries())
            .with_http_connector(PlainAnswers)
            .build()
            .map_err(|cause| Error::user(format!("the bucket `{bucket}` cannot be opened")).because(cause))
    }
}

impl fmt::Debug for Aws {
    /// Nothing that could be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws").field("region", &self.0.sdk.region()).finish_non_exhaustive()
    }
}

fn client_options() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_user_agent(HeaderValue::from_static(concat!("freshet/", env!("CARGO_PKG_VERSION"))))
}

fn retries() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: RETRY_PAUSE, max_backoff: RETRY_PAUSE_MAX, base: 2.0 };
    RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIME_MAX }
}

#[cfg(test)]
mod tests;
