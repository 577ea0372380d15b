//! BigQuery's REST API, as far as freshet needs it.
//!
//! Through gcp-bigquery-client where that serves: datasets are read, tables made, jobs inserted and their rows
//! read by it. By requests of our own where it does not: it knows no default KMS key of a dataset, no primary
//! keys and no `dmlStats` of a job; a schema that it has read and writes back loses what it does not know of,
//! and a column of a type it does not know makes the whole table unreadable; and it writes a space in a table's
//! name as `+`, which is another name in a path.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/rest>.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gcp_bigquery_client::Client;
use gcp_bigquery_client::auth::Authenticator;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::get_query_results_parameters::GetQueryResultsParameters;
use gcp_bigquery_client::model::job::Job;
use gcp_bigquery_client::model::table::Table;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;
use url::Url;

use super::TableId;
use super::trouble::{Failure, Refusal};
use crate::config::BigQueryConfig;
use crate::error::{Error, Result};
use crate::sink::token::Tokens;
use crate::storage::http_client;

const GOOGLE: &str = "https://bigquery.googleapis.com";
/// BigQuery answers within seconds, or not at all.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long BigQuery may hold back the rows of a job that is done.
const ROWS_WAIT_MS: i32 = 10_000;
/// Rows asked for at once; BigQuery gives fewer where they are more than 10 MB.
const PAGE_ROWS: i32 = 50_000;

/// The REST API of one project; clones share connections.
#[derive(Clone)]
pub(super) struct Rest(Arc<Inner>);

struct Inner {
    project: String,
    location: String,
    base: Url,
    http: reqwest::Client,
    tokens: Tokens,
    /// Made on first use, as making it needs the runtime.
    client: OnceCell<Client>,
}

/// What became of a table that was to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Created {
    Made,
    /// It is there already.
    Exists,
    /// Its dataset is missing.
    NoDataset,
}

/// Some of a job's rows, each value as BigQuery writes it.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) rows: Vec<Vec<Option<String>>>,
    /// What asks for those after them; None where there are none.
    pub(super) next: Option<String>,
}

/// A job as it stands.
#[derive(Debug, Clone)]
pub(super) struct JobState {
    /// Whether it has come to its end, well or not.
    pub(super) done: bool,
    /// Why it failed, if it did.
    pub(super) error: Option<Refusal>,
    /// Its `statistics.query`.
    pub(super) statistics: Value,
}

impl JobState {
    fn of(job: &Value) -> Self {
        let error = &job["status"]["errorResult"];
        Self {
            done: job["status"]["state"] == "DONE",
            error: error.is_object().then(|| Refusal::of_job(error)),
            statistics: job["statistics"]["query"].clone(),
        }
    }
}

impl Rest {
    /// The API that the configuration names; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the endpoint is no URL.
    pub(super) fn new(config: &BigQueryConfig, tokens: Tokens) -> Result<Self> {
        let endpoint = config.rest_endpoint.as_deref().unwrap_or(GOOGLE);
        let base = format!("{}/bigquery/v2", endpoint.trim_end_matches('/'));
        let base = Url::parse(&base).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let base = base.ok_or_else(|| {
            Error::user("`rest_endpoint` is not the URL of a server").hint("write it like https://bigquery.example.com")
        })?;
        let http = http_client(&base, ANSWER_MAX)?;
        Ok(Self(Arc::new(Inner {
            project: config.project.clone(),
            location: config.location.clone(),
            base,
            http,
            tokens,
            client: OnceCell::new(),
        })))
    }

    async fn client(&self) -> Result<&Client, Failure> {
        let inner = &self.0;
        let make = || async {
            ClientBuilder::new()
                .with_v2_base_url(inner.base.as_str().to_owned())
                .with_client(inner.http.clone())
                .build_from_authenticator(Arc::new(Bearer(inner.tokens.clone())))
                .await
        };
        Ok(inner.client.get_or_try_init(make).await?)
    }

    /// Where a dataset is; None where there is none of that name.
    pub(super) async fn dataset_location(&self, dataset: &str) -> Result<Option<String>, Failure> {
        match self.client().await?.dataset().get(&self.0.project, dataset).await.map_err(Failure::from) {
            Ok(found) => Ok(Some(found.location.unwrap_or_default())),
            Err(failure) if failure.is(404) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a dataset, unless another was faster.
    pub(super) async fn create_dataset(&self, dataset: &Value) -> Result<(), Failure> {
        let path = ["projects", &self.0.project, "datasets"];
        match self.send(Method::POST, &path, &[], None, Some(dataset)).await {
            Err(failure) if !failure.is(409) => Err(failure),
            _ => Ok(()),
        }
    }

    /// A table's or view's resource; None where there is none.
    pub(super) async fn table(&self, id: &TableId) -> Result<Option<Value>, Failure> {
        match self.send(Method::GET, &table_path(id), &[], None, None).await {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.is(404) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Deletes a table or view; one that is gone is no failure.
    pub(super) async fn delete_table(&self, id: &TableId) -> Result<(), Failure> {
        match self.send(Method::DELETE, &table_path(id), &[], None, None).await {
            Err(failure) if !failure.is(404) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Makes a table.
    pub(super) async fn create_table(&self, table: Table) -> Result<Created, Failure> {
        match self.client().await?.table().create(table).await.map_err(Failure::from) {
            Ok(_) => Ok(Created::Made),
            Err(failure) if failure.is(409) => Ok(Created::Exists),
            Err(failure) if failure.is(404) => Ok(Created::NoDataset),
            Err(failure) => Err(failure),
        }
    }

    /// Changes a table that still stands as it did under `etag`; None where it does not.
    pub(super) async fn patch_table(
        &self,
        id: &TableId,
        etag: Option<&str>,
        change: &Value,
    ) -> Result<Option<Value>, Failure> {
        match self.send(Method::PATCH, &table_path(id), &[], etag, Some(change)).await {
            Ok(changed) => Ok(Some(changed)),
            Err(failure) if failure.is(412) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Starts a job; None where its id was used before. See
    /// <https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid>.
    pub(super) async fn insert_job(&self, job: Job) -> Result<Option<JobState>, Failure> {
        match self.client().await?.job().insert(&self.0.project, job).await.map_err(Failure::from) {
            Ok(job) => {
                let unreadable = |cause| Failure::Ours(Error::bug("a job is no JSON").because(cause));
                Ok(Some(JobState::of(&serde_json::to_value(job).map_err(unreadable)?)))
            }
            Err(failure) if failure.is(409) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// A job as it stands; None where there is none of that id.
    pub(super) async fn job(&self, id: &str) -> Result<Option<JobState>, Failure> {
        let path = ["projects", &self.0.project, "jobs", id];
        match self.send(Method::GET, &path, &[("location", &self.0.location)], None, None).await {
            Ok(job) => Ok(Some(JobState::of(&job))),
            Err(failure) if failure.is(404) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Some of the rows of a query job that is done, from where the page before says that the next begins; None where they
    /// are gone: they are kept for a day.
    pub(super) async fn job_page(&self, id: &str, from: Option<String>) -> Result<Option<Page>, Failure> {
        let parameters = GetQueryResultsParameters {
            location: Some(self.0.location.clone()),
            max_results: Some(PAGE_ROWS),
            page_token: from,
            timeout_ms: Some(ROWS_WAIT_MS),
            ..GetQueryResultsParameters::default()
        };
        let found = self.client().await?.job().get_query_results(&self.0.project, id, parameters).await;
        let answer = match found.map_err(Failure::from) {
            Err(failure) if failure.is(404) => return Ok(None),
            answer => answer?,
        };
        let text = |value: Option<Value>| match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
        };
        let rows = answer.rows.unwrap_or_default().into_iter();
        let rows = rows.map(|row| row.columns.unwrap_or_default().into_iter().map(|cell| text(cell.value)).collect());
        Ok(Some(Page { rows: rows.collect(), next: answer.page_token }))
    }

    /// Asks BigQuery; each part of the path is escaped.
    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        etag: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut url = self.0.base.clone();
        url.path_segments_mut().map_err(|()| Failure::Ours(Error::bug("the endpoint has no path")))?.extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.0.http.request(method, url);
        if let Some(token) = self.0.tokens.bearer().await.map_err(Failure::Ours)? {
            request = request.bearer_auth(token);
        }
        if let Some(etag) = etag {
            request = request.header(reqwest::header::IF_MATCH, etag);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|cause| Failure::Unanswered(Box::new(cause)));
        }
        Err(Failure::Refused(Refusal::of_answer(status.as_u16(), &body)))
    }
}

fn table_path(id: &TableId) -> [&str; 6] {
    ["projects", &id.project, "datasets", &id.dataset, "tables", &id.table]
}

/// Our tokens, as gcp-bigquery-client asks for them.
#[derive(Clone)]
struct Bearer(Tokens);

#[async_trait]
impl Authenticator for Bearer {
    async fn access_token(&self) -> Result<String, BQError> {
        match self.0.bearer().await {
            Ok(token) => Ok(token.unwrap_or_default()),
            // An I/O error is the only one of its errors in which ours finds room; `Failure` takes it out again.
            Err(ours) => Err(BQError::InvalidServiceAccountKey(std::io::Error::other(ours))),
        }
    }
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
