//! Google's access tokens, for REST and gRPC alike.
//!
//! Credentials are found as Google's own libraries find them, see
//! <https://cloud.google.com/docs/authentication/application-default-credentials>: the file that
//! `GOOGLE_APPLICATION_CREDENTIALS` names, the file that `gcloud` writes, or the metadata server. A file of type
//! `external_account` takes its identity from AWS, a file or a URL, so that no key of Google's lies on AWS.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use google_cloud_auth::build_errors::Error as BuildError;
use google_cloud_auth::credentials::{
    AccessTokenCredentials, external_account, impersonated, mds, service_account, user_account,
};
use google_cloud_auth::errors::CredentialsError;
use serde_json::Value;

use crate::clock::Clock;
use crate::config::BigQueryConfig;
use crate::error::{Error, Kind, Result};

mod account;
mod aws;
#[cfg(test)]
mod fake;
mod pool;

use pool::Pool;

/// What a token of a service account is good for.
/// See <https://developers.google.com/identity/protocols/oauth2/scopes#bigquery>.
const BIGQUERY_SCOPE: &str = "https://www.googleapis.com/auth/bigquery";
/// What the Security Token Service is asked for in exchange for another cloud's identity.
/// See <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>.
const CLOUD_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// No answer of a token server is worth waiting for longer than this.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The environment variable that names the credentials file.
const FILE_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// What to do where there are no credentials, or useless ones.
const HINT: &str = "set GOOGLE_APPLICATION_CREDENTIALS to a credentials file (a service account's, or the \
                    external_account configuration of a workload identity pool), or run `gcloud auth \
                    application-default login`";

/// Where access tokens come from; clones share them.
#[derive(Clone)]
pub(super) struct Tokens(Option<Arc<Shared>>);

struct Shared {
    source: Source,
    clock: Arc<dyn Clock>,
    /// Built on first use, as building starts a task that keeps the token fresh; taken down by a permanent error,
    /// so that mended credentials are read again.
    built: Mutex<Option<Built>>,
}

/// What credentials are built from.
#[derive(Clone)]
enum Source {
    /// A credentials file.
    File(PathBuf),
    /// The content of one.
    #[cfg(test)]
    Json(Value),
    /// The metadata server of a Google machine.
    Metadata,
}

/// Credentials, ready to give tokens; clones share them.
#[derive(Clone)]
enum Built {
    /// Such as Google's library makes from a file or finds on the machine.
    Google(AccessTokenCredentials),
    /// AWS's identity, exchanged. The library's own way to it knows variables and instances alone.
    Aws(Arc<Pool>),
}

impl Tokens {
    /// The credentials that there are: none where both endpoints are plain `http://`. No server is asked yet.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the credentials file cannot be used, or where a token would go
    /// over an endpoint that is plain `http://`.
    pub(super) fn find(config: &BigQueryConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let plain = |endpoint: &Option<String>| endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
        match (plain(&config.rest_endpoint), plain(&config.grpc_endpoint)) {
            (true, true) => return Ok(Self(None)),
            (false, false) => {}
            _ => {
                return Err(Error::user("only one of BigQuery's two endpoints is plain http://, without credentials")
                    .hint("make both `rest_endpoint` and `grpc_endpoint` http://, or both https://"));
            }
        }
        let source = match default_file() {
            Some(path) => Source::File(path),
            None => Source::Metadata,
        };
        if let Some(json) = source.read()? {
            check_type(&json)?;
        }
        Ok(Self::new(source, clock))
    }

    /// Tokens by the content of a credentials file.
    #[cfg(test)]
    pub(super) fn from_json(json: Value) -> Self {
        Self::new(Source::Json(json), crate::clock::SystemClock::shared())
    }

    /// No tokens, for servers that ask for none.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    fn new(source: Source, clock: Arc<dyn Clock>) -> Self {
        Self(Some(Arc::new(Shared { source, clock, built: Mutex::new(None) })))
    }

    /// A token for the header `authorization: Bearer …`, fresh for a few minutes at least; none where no
    /// credentials are wanted.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where a token server cannot be reached, else
    /// [`User`](crate::error::Kind::User).
    pub(super) async fn bearer(&self) -> Result<Option<String>> {
        let Some(shared) = &self.0 else { return Ok(None) };
        let credentials = shared.credentials()?;
        match tokio::time::timeout(WAIT_MAX, credentials.token()).await {
            Ok(Ok(token)) => Ok(Some(token)),
            Ok(Err(cause)) => Err(shared.refused(cause)),
            Err(_) => Err(Error::retry("Google's token server does not answer").hint(shared.source.hint())),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.as_ref().map(|shared| &shared.source) {
            None => "Tokens(none)",
            Some(Source::Metadata) => "Tokens(metadata server)",
            Some(_) => "Tokens(credentials file)",
        })
    }
}

impl Shared {
    fn credentials(&self) -> Result<Built> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credentials) = built.as_ref() {
            return Ok(credentials.clone());
        }
        let credentials = self.source.build(Arc::clone(&self.clock))?;
        *built = Some(credentials.clone());
        Ok(credentials)
    }

    fn refused(&self, cause: CredentialsError) -> Error {
        let error = Error::inside(&cause).unwrap_or_else(|| {
            let said = without_file_content(causes(&cause));
            let error = match cause.is_transient() {
                true => Error::retry("Google's access token cannot be had now"),
                false => Error::user("Google's access token cannot be had"),
            };
            error.because(said).hint(self.source.hint())
        });
        if error.kind() != Kind::Retry {
            *self.built.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        error
    }
}

impl Built {
    async fn token(&self) -> std::result::Result<String, CredentialsError> {
        match self {
            Self::Google(credentials) => credentials.access_token().await.map(|token| token.token),
            Self::Aws(pool) => pool.token().await,
        }
    }
}

/// The texts of an error and of its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said
}

/// Where a token is not found in another cloud's answer, that whole answer is quoted, with whatever is secret in it.
fn without_file_content(said: String) -> String {
    match said.split_once("body=<") {
        Some((before, _)) if before.contains("subject token") => before.trim_end_matches([' ', ',']).to_owned(),
        _ => said,
    }
}

impl Source {
    /// The content of the credentials file.
    fn read(&self) -> Result<Option<Value>> {
        let path = match self {
            Self::File(path) => path,
            #[cfg(test)]
            Self::Json(json) => return Ok(Some(json.clone())),
            Self::Metadata => return Ok(None),
        };
        let place = path.display();
        let text = std::fs::read_to_string(path).map_err(|cause| {
            Error::user(format!("Google's credentials file {place} cannot be read")).because(cause).hint(HINT)
        })?;
        // The parser's own words are left out: they may quote the key.
        serde_json::from_str(&text).map(Some).map_err(|cause| {
            let (line, column) = (cause.line(), cause.column());
            Error::user(format!("Google's credentials file {place} is not JSON at line {line}, column {column}"))
                .hint(HINT)
        })
    }

    /// Starts the task that keeps a token fresh, so a runtime must be there.
    fn build(&self, clock: Arc<dyn Clock>) -> Result<Built> {
        let Some(json) = self.read()? else {
            // Without scopes it gives what the machine was given.
            let built = mds::Builder::default().build_access_token_credentials();
            return built.map(Built::Google).map_err(unusable);
        };
        let built = match check_type(&json)? {
            FileType::ServiceAccount => service_account::Builder::new(json)
                .with_access_specifier(service_account::AccessSpecifier::from_scopes([BIGQUERY_SCOPE]))
                .build_access_token_credentials(),
            // A refresh token has the scopes that its user granted, and asking for others is refused.
            FileType::AuthorizedUser => user_account::Builder::new(json).build_access_token_credentials(),
            FileType::Impersonated => {
                impersonated::Builder::new(json).with_scopes([BIGQUERY_SCOPE]).build_access_token_credentials()
            }
            FileType::ExternalAccount if aws::is_from_aws(&json) => {
                return Ok(Built::Aws(Arc::new(Pool::new(&json, None, clock)?)));
            }
            FileType::ExternalAccount => {
                external_account::Builder::new(json).with_scopes([CLOUD_SCOPE]).build_access_token_credentials()
            }
        };
        built.map(Built::Google).map_err(unusable)
    }

    fn hint(&self) -> String {
        match self {
            Self::File(path) => format!("the credentials are those of {}; {HINT}", path.display()),
            #[cfg(test)]
            Self::Json(_) => HINT.to_owned(),
            Self::Metadata => format!("no credentials file was found, so this must be a Google machine; else {HINT}"),
        }
    }
}

fn unusable(cause: BuildError) -> Error {
    Error::user("Google's credentials file cannot be used").because(cause).hint(HINT)
}

/// The types of credentials files.
enum FileType {
    ServiceAccount,
    AuthorizedUser,
    Impersonated,
    ExternalAccount,
}

fn check_type(json: &Value) -> Result<FileType> {
    Ok(match json.get("type").and_then(Value::as_str) {
        Some("service_account") => FileType::ServiceAccount,
        Some("authorized_user") => FileType::AuthorizedUser,
        Some("impersonated_service_account") => FileType::Impersonated,
        Some("external_account") => FileType::ExternalAccount,
        other => {
            let other = other.map_or("none".to_owned(), |other| format!("`{}`", other.escape_debug()));
            let message = format!("Google's credentials file has type {other}, which cannot be used");
            return Err(Error::user(message).hint(HINT));
        }
    })
}

/// The credentials file that Google's libraries would read. See <https://google.aip.dev/auth/4110>.
fn default_file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(FILE_VARIABLE) {
        return Some(PathBuf::from(path));
    }
    let home = std::env::home_dir()?;
    let path = home.join(".config/gcloud/application_default_credentials.json");
    path.exists().then_some(path)
}

#[cfg(test)]
mod tests;
