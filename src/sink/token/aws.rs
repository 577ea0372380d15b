//! The identity that AWS gave this machine, as Google's Security Token Service wants to see it: a request to AWS's
//! STS that says who signed it, signed but not sent. Google sends it and believes what AWS answers.
//!
//! The credentials that sign are those that AWS's own tools would find, so that they may come from a container's
//! task role, a pod's service account, a profile or SSO as well as from an instance. What a credentials file says
//! of an instance's metadata server is not looked at.
//!
//! See <https://google.aip.dev/auth/4117> and
//! <https://cloud.google.com/iam/docs/workload-identity-federation-with-other-clouds>.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use google_cloud_auth::credentials::subject_token::{Builder, SubjectToken, SubjectTokenProvider};
use google_cloud_auth::errors::SubjectTokenProviderError;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use url::Url;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::storage::{Aws, Signer};

/// The one version of this kind of identity that there is, as `environment_id` has it.
const VERSION: &str = "aws1";
/// Where AWS says who signed, unless the credentials file names another place.
const VERIFICATION_URL: &str = "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15";
/// Covered by the signature, so that the request is of no use to another pool.
const TARGET_HEADER: &str = "x-goog-cloud-target-resource";
/// How long AWS's chain may look, or ask for credentials; shorter than the wait for the whole token.
const LOOK_MAX: Duration = Duration::from_secs(10);
const TRY_CLI: &str = "`aws sts get-caller-identity` looks in the same places: see what it says";

/// AWS's identity of this machine, for one workload identity pool.
pub(super) struct AwsIdentity {
    /// The pool's provider.
    audience: String,
    /// Where AWS says who signed, with `{region}` in the region's place.
    verification_url: String,
    /// What AWS's chain found; looked for on first use.
    sdk: OnceCell<SdkConfig>,
    clock: Arc<dyn Clock>,
}

/// Why there is no identity to show.
#[derive(Debug)]
pub(super) struct NoIdentity(Error);

/// Whether an `external_account` takes its identity from AWS.
pub(super) fn is_from_aws(json: &Value) -> bool {
    json["credential_source"]["environment_id"].as_str().is_some_and(|id| id.starts_with("aws"))
}

impl AwsIdentity {
    /// The identity for the pool of an `external_account`; AWS's chain is asked for where `sdk` is not given.
    ///
    /// # Errors
    /// [`User`](Kind::User) where the credentials file asks for what is not known here.
    pub(super) fn new(audience: &str, source: &Value, sdk: Option<SdkConfig>, clock: Arc<dyn Clock>) -> Result<Self> {
        let version = source["environment_id"].as_str().unwrap_or_default();
        if version != VERSION {
            let version = version.escape_debug();
            return Err(Error::user(format!(
                "Google's credentials file has environment_id `{version}`, which is unknown"
            ))
            .hint(format!(
                "only `{VERSION}` can be used: make the file anew with `gcloud iam \
                               workload-identity-pools create-cred-config … --aws`"
            )));
        }
        let verification_url = source["regional_cred_verification_url"].as_str().unwrap_or(VERIFICATION_URL).to_owned();
        Ok(Self { audience: audience.to_owned(), verification_url, sdk: OnceCell::new_with(sdk), clock })
    }

    /// The signed request as text.
    ///
    /// # Errors
    /// [`User`](Kind::User) where there are no AWS credentials or no region, [`Retry`](Kind::Retry) where they
    /// cannot be had now.
    async fn shown(&self) -> Result<String> {
        let sdk = self.sdk().await?;
        let region = sdk.region().map(AsRef::as_ref).ok_or_else(|| {
            Error::user("no AWS region is known, so Google cannot be shown AWS's identity")
                .hint("set AWS_REGION, or write `region` into the profile in ~/.aws/config")
        })?;
        let url = self.url(region)?;
        let credentials = credentials(sdk).await?;
        let headers = self.headers(&url, region, credentials)?;
        let headers: Vec<Value> = headers.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        let request = json!({"url": url.as_str(), "method": "POST", "headers": headers}).to_string();
        Ok(url::form_urlencoded::byte_serialize(request.as_bytes()).collect())
    }

    async fn sdk(&self) -> Result<&SdkConfig> {
        let look = || async {
            let aws = tokio::time::timeout(LOOK_MAX, Aws::load()).await;
            Ok(aws.unwrap_or_else(|_| Err(too_long()))?.sdk().clone())
        };
        self.sdk.get_or_try_init(look).await
    }

    /// Where AWS's STS of this region would be asked.
    fn url(&self, region: &str) -> Result<Url> {
        if !region.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-') {
            let region = region.escape_debug();
            return Err(Error::user(format!("`{region}` is no AWS region")).hint("set AWS_REGION to one"));
        }
        let url = Url::parse(&self.verification_url.replace("{region}", region)).ok();
        url.filter(|url| url.scheme() == "https" && url.has_host()).ok_or_else(|| {
            Error::user("`regional_cred_verification_url` in Google's credentials file is no https:// URL")
                .hint(format!("write {VERIFICATION_URL}, or leave it out"))
        })
    }

    /// The headers of the request, the signature among them.
    fn headers(&self, url: &Url, region: &str, credentials: Credentials) -> Result<Vec<(String, String)>> {
        let own = [(TARGET_HEADER, self.audience.as_str())];
        let signer = Signer { credentials, region, service: "sts" };
        let headers = signer.post(url, &own, &[], self.clock.now()).map_err(|cause| {
            Error::user("the request that shows AWS's identity cannot be signed")
                .because(cause)
                .hint("see that `audience` in Google's credentials file and the AWS credentials are plain text")
        })?;
        Ok(headers.into_iter().map(|(name, value)| (google_name(&name).to_owned(), value)).collect())
    }
}

/// A header's name as Google's documentation has it.
fn google_name(name: &str) -> &str {
    if name.eq_ignore_ascii_case("authorization") { "Authorization" } else { name }
}

/// Credentials of AWS, as fresh as its chain gives them.
async fn credentials(sdk: &SdkConfig) -> Result<Credentials> {
    let provider = sdk.credentials_provider().ok_or_else(|| Error::bug("AWS's chain of credentials is missing"))?;
    match tokio::time::timeout(LOOK_MAX, provider.provide_credentials()).await {
        Ok(found) => found.map_err(refused),
        Err(_) => Err(too_long()),
    }
}

/// What it means that there are no credentials.
fn refused(cause: CredentialsError) -> Error {
    let error = match &cause {
        CredentialsError::CredentialsNotLoaded(_) => {
            Error::user("no AWS credentials were found, and Google's credentials file takes its identity from AWS")
                .hint(
                    "run where a role is attached (a pod with a service account, a container's task role, an instance \
                 profile), or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
        }
        CredentialsError::InvalidConfiguration(_) => {
            Error::user("the settings for AWS credentials are wrong, so Google cannot be shown AWS's identity")
                .hint(TRY_CLI)
        }
        _ => Error::retry("AWS credentials to show Google cannot be loaded now").hint(TRY_CLI),
    };
    error.because(cause)
}

fn too_long() -> Error {
    Error::retry(format!("AWS credentials to show Google were not found within {} seconds", LOOK_MAX.as_secs()))
        .hint(TRY_CLI)
}

impl SubjectTokenProvider for AwsIdentity {
    type Error = NoIdentity;

    async fn subject_token(&self) -> Result<SubjectToken, NoIdentity> {
        Box::pin(self.shown()).await.map(|shown| Builder::new(shown).build()).map_err(NoIdentity)
    }
}

impl SubjectTokenProviderError for NoIdentity {
    fn is_transient(&self) -> bool {
        self.0.kind() == Kind::Retry
    }
}

impl fmt::Display for NoIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AWS's identity cannot be shown")
    }
}

impl std::error::Error for NoIdentity {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Debug for AwsIdentity {
    /// Nothing that could be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsIdentity").field("audience", &self.audience).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "aws_tests.rs"]
pub(super) mod tests;
