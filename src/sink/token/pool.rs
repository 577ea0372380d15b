//! Tokens that Google gives for AWS's identity, through a workload identity pool: the identity is exchanged at
//! Google's Security Token Service, and what it gives may then be exchanged for a service account's token.
//!
//! See <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>.

use std::sync::Arc;

use aws_config::SdkConfig;
use google_cloud_auth::credentials::external_account::ProgrammaticBuilder;
use google_cloud_auth::credentials::{CacheableResource, Credentials};
use google_cloud_auth::errors::CredentialsError;
use serde_json::Value;

use super::account::Account;
use super::aws::AwsIdentity;
use super::{CLOUD_SCOPE, HINT, unusable};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// What the Security Token Service is asked for where a service account's token is wanted in the end.
/// See <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>.
const IAM_SCOPE: &str = "https://www.googleapis.com/auth/iam";

/// A workload identity pool that knows AWS.
pub(super) struct Pool {
    /// Of the Security Token Service; a task keeps them fresh.
    exchanged: Credentials,
    /// The service account to be, if one is named.
    account: Option<Account>,
}

impl Pool {
    /// The pool of an `external_account` file, with AWS's chain looked for on first use where `sdk` is not given.
    /// Starts the task that keeps a token fresh, so a runtime must be there.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the file cannot be used.
    pub(super) fn new(json: &Value, sdk: Option<SdkConfig>, clock: Arc<dyn Clock>) -> Result<Self> {
        let audience = wanted(json, "audience")?;
        let identity = AwsIdentity::new(audience, &json["credential_source"], sdk, Arc::clone(&clock))?;
        let account = Account::find(json, clock)?;
        let scope = if account.is_some() { IAM_SCOPE } else { CLOUD_SCOPE };
        let mut builder = ProgrammaticBuilder::new(Arc::new(identity))
            .with_audience(audience)
            .with_subject_token_type(wanted(json, "subject_token_type")?)
            .with_token_url(wanted(json, "token_url")?)
            .with_scopes([scope]);
        if let Some(id) = json["client_id"].as_str() {
            builder = builder.with_client_id(id);
        }
        if let Some(secret) = json["client_secret"].as_str() {
            builder = builder.with_client_secret(secret);
        }
        if let Some(domain) = json["universe_domain"].as_str() {
            builder = builder.with_universe_domain(domain);
        }
        Ok(Self { exchanged: builder.build().map_err(unusable)?, account })
    }

    /// A token for BigQuery.
    pub(super) async fn token(&self) -> std::result::Result<String, CredentialsError> {
        match &self.account {
            None => self.exchanged().await,
            Some(account) => account.token(|| self.exchanged()).await,
        }
    }

    /// The token of the Security Token Service.
    async fn exchanged(&self) -> std::result::Result<String, CredentialsError> {
        let bearer = match self.exchanged.headers(Default::default()).await? {
            CacheableResource::New { data, .. } => data.get("authorization").cloned(),
            CacheableResource::NotModified => None,
        };
        let bearer = bearer.as_ref().and_then(|bearer| bearer.to_str().ok()?.strip_prefix("Bearer "));
        bearer.map(str::to_owned).ok_or_else(|| {
            CredentialsError::from_msg(
                false,
                "Google's Security Token Service gave a token of another kind than Bearer",
            )
        })
    }
}

/// A field that the file must have.
fn wanted<'a>(json: &'a Value, name: &str) -> Result<&'a str> {
    json[name].as_str().ok_or_else(|| Error::user(format!("Google's credentials file has no `{name}`")).hint(HINT))
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
