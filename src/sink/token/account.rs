//! A service account's token for a token of the Security Token Service, where a workload identity pool's file names
//! a service account.
//!
//! See <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use google_cloud_auth::errors::CredentialsError;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use url::Url;

use super::CLOUD_SCOPE;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::storage::http_client;

/// How long a token is to be good for where the file does not say.
const LIFETIME_SECONDS: u64 = 3_600;
/// A new token is asked for so long before the old one expires.
const MARGIN: TimeDelta = TimeDelta::minutes(4);
/// Between two attempts to replace one that is still good.
const ATTEMPT_PAUSE: TimeDelta = TimeDelta::seconds(20);
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// No more of a refusal is told.
const REASON_CHARACTERS_MAX: usize = 500;

/// The service account whose tokens are used.
pub(super) struct Account {
    url: Url,
    lifetime_seconds: u64,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: String,
    expiry: DateTime<Utc>,
    /// When to ask for another.
    ask_again: DateTime<Utc>,
}

impl Account {
    /// The account that an `external_account` file names, if it names one.
    ///
    /// # Errors
    /// [`User`](Kind::User) where its URL is none.
    pub(super) fn find(json: &Value, clock: Arc<dyn Clock>) -> Result<Option<Self>> {
        let Some(url) = json["service_account_impersonation_url"].as_str() else { return Ok(None) };
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
            Error::user("`service_account_impersonation_url` in Google's credentials file is no URL")
                .hint("make the file anew with `gcloud iam workload-identity-pools create-cred-config`")
        })?;
        let lifetime = json["service_account_impersonation"]["token_lifetime_seconds"].as_u64();
        let lifetime_seconds = lifetime.unwrap_or(LIFETIME_SECONDS);
        let http = http_client(&url, ANSWER_MAX)?;
        Ok(Some(Self { url, lifetime_seconds, http, clock, kept: Mutex::default() }))
    }

    /// The account's token; `exchanged` gives the token that it is had for.
    pub(super) async fn token<F>(&self, exchanged: impl Fn() -> F) -> std::result::Result<String, CredentialsError>
    where
        F: Future<Output = std::result::Result<String, CredentialsError>>,
    {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some(kept) = kept.as_ref().filter(|kept| now < kept.ask_again) {
            return Ok(kept.token.clone());
        }
        let asked = async { self.ask(&exchanged().await?).await.map_err(as_theirs) };
        match asked.await {
            Ok((token, expiry)) => Ok(kept.insert(Kept::new(token, expiry, now)).token.clone()),
            Err(error) => match kept.as_mut().filter(|kept| now < kept.expiry) {
                Some(kept) => {
                    tracing::warn!("a service account's token cannot be renewed, the old one is used: {error}");
                    kept.ask_again = now + ATTEMPT_PAUSE;
                    Ok(kept.token.clone())
                }
                None => Err(error),
            },
        }
    }

    /// A new token, and when it expires.
    async fn ask(&self, exchanged: &str) -> Result<(String, DateTime<Utc>)> {
        let body = json!({"scope": [CLOUD_SCOPE], "lifetime": format!("{}s", self.lifetime_seconds)});
        let sent = self.http.post(self.url.clone()).bearer_auth(exchanged).json(&body).send().await;
        let answer = sent.map_err(unreachable)?;
        if !answer.status().is_success() {
            return Err(refused(answer).await);
        }
        let answer: Value = answer.json().await.map_err(unreachable)?;
        let expiry = answer["expireTime"].as_str().and_then(|time| time.parse().ok());
        let token = answer["accessToken"].as_str().map(str::to_owned);
        token.zip(expiry).ok_or_else(|| Error::retry("Google's IAM answered without a service account's token"))
    }
}

impl Kept {
    fn new(token: String, expiry: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self { token, expiry, ask_again: (expiry - MARGIN).max(now + ATTEMPT_PAUSE).min(expiry) }
    }
}

/// An error of ours as one of theirs, from which [`Error::inside`] takes it again.
fn as_theirs(error: Error) -> CredentialsError {
    CredentialsError::from_source(error.kind() == Kind::Retry, error)
}

fn unreachable(cause: reqwest::Error) -> Error {
    Error::retry("Google's IAM cannot be asked for a service account's token now").because(cause.without_url())
}

/// What a refusal means.
async fn refused(answer: Response) -> Error {
    let status = answer.status();
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    let kind = if status.is_server_error() || passing.contains(&status) { Kind::Retry } else { Kind::User };
    let said: Value = answer.json().await.unwrap_or_default();
    let reason = said["error"]["message"].as_str().unwrap_or("no reason was given");
    let reason: String = reason.chars().take(REASON_CHARACTERS_MAX).collect();
    Error::new(kind, format!("Google's IAM gives no token of the service account (HTTP {}): {reason}", status.as_u16()))
        .hint(
            "grant the workload identity pool's principal roles/iam.workloadIdentityUser on the service account, and \
               see that the IAM Service Account Credentials API is enabled in its project",
        )
}
