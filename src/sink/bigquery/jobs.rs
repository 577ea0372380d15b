//! Query jobs under ids of our own, each run once: inserting an id again is refused, and the job behind it is
//! looked at instead. So an answer that was lost loses nothing, and of several daemons that do the same work one
//! runs it and the others see how it ended.
//!
//! See <https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid>.

use std::time::Duration;

use gcp_bigquery_client::model::encryption_configuration::EncryptionConfiguration;
use gcp_bigquery_client::model::job::Job;
use gcp_bigquery_client::model::job_configuration::JobConfiguration;
use gcp_bigquery_client::model::job_configuration_query::JobConfigurationQuery;
use gcp_bigquery_client::model::job_reference::JobReference;
use serde_json::Value;

use super::rest::{JobState, Page};
use super::trouble::{Failure, Refusal};
use super::{BigQuerySink, Part, sql};
use crate::error::{Error, Result};
use crate::sink::{Attempt, MergeCounts, Target};

/// The rows of a query, each value as BigQuery writes it.
pub(super) type JobRows = Vec<Vec<Option<String>>>;

/// How often a call starts a step anew before it gives up for now.
const TRIES_MAX: u32 = 3;
/// No step has more tries, over all calls.
const TRIES_EVER_MAX: u32 = 10_000;
/// The pause before a job is looked at; each further one is half as long again.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long one call waits for a job; a later one finds it again by its id.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// A statement that must take effect once, and the ids under which it is tried.
pub(super) struct Step<'a> {
    /// What ids begin with; each try adds its number.
    pub(super) prefix: String,
    pub(super) sql: &'a str,
    /// What the statement does, for messages: "`orders` cannot be merged".
    pub(super) message: String,
}

/// A job that has ended.
struct Ended {
    /// Whether this call started it.
    fresh: bool,
    outcome: Result<Done, Refusal>,
}

/// A job that did what it was to do.
#[derive(Debug)]
pub(super) struct Done {
    id: String,
    statistics: Value,
}

impl Done {
    /// The job's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// What a MERGE did. Without its statistics all affected rows count as updated.
    pub(super) fn counts(&self) -> MergeCounts {
        let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64());
        let of = |name: &str| number(&self.statistics["dmlStats"][name]).unwrap_or(0);
        if self.statistics["dmlStats"].is_object() {
            return MergeCounts {
                inserted: of("insertedRowCount"),
                updated: of("updatedRowCount"),
                deleted: of("deletedRowCount"),
            };
        }
        let updated = number(&self.statistics["numDmlAffectedRows"]).unwrap_or(0);
        MergeCounts { updated, ..MergeCounts::default() }
    }
}

/// Runs a step: takes the result of a try that did it, else tries it again.
///
/// A try is started only after the one before it was seen to have failed, so that of one step no two jobs ever
/// run at once. Tries of earlier calls, and of other daemons, are stepped over whatever they failed from: it may
/// have been mended. A try of this call that failed from what must be mended ends it.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where permission or SQL must be mended, else
/// [`Retry`](crate::error::Kind::Retry), also where the job is still at work.
pub(super) async fn run(sink: &BigQuerySink, step: &Step<'_>) -> Result<Done> {
    let (done, _) = tries(sink, step, false).await?;
    Ok(done)
}

/// Runs a step that reads, and gives its rows.
pub(super) async fn rows(sink: &BigQuerySink, step: &Step<'_>) -> Result<JobRows> {
    let (_, page) = read(sink, step).await?;
    Ok(page.rows)
}

/// Runs a step that reads, and gives the first of its rows; the others are had by
/// [`Rest::job_page`](super::rest::Rest::job_page).
pub(super) async fn read(sink: &BigQuerySink, step: &Step<'_>) -> Result<(Done, Page)> {
    tries(sink, step, true).await
}

async fn tries(sink: &BigQuerySink, step: &Step<'_>, reads: bool) -> Result<(Done, Page)> {
    let mut left = TRIES_MAX;
    for number in 1..=TRIES_EVER_MAX {
        let id = format!("{}_{number}", step.prefix);
        let ended = one(sink, &id, step, reads).await?;
        let refusal = match ended.outcome {
            Ok(done) if !reads => return Ok((done, Page::default())),
            Ok(done) => {
                match sink.rest.job_page(&done.id, None).await.map_err(|failure| failure.into_error(&step.message))? {
                    Some(page) => return Ok((done, page)),
                    // Rows are kept for a day. Reading again gives the same.
                    None => gone_rows(),
                }
            }
            Err(refusal) => refusal,
        };
        if ended.fresh {
            left -= 1;
            if left == 0 || !refusal.is_passing() {
                return Err(Failure::Refused(refusal).into_error(&step.message));
            }
            tokio::time::sleep(PAUSE_MAX / 4 * (TRIES_MAX - left)).await;
        }
    }
    Err(Error::retry(&step.message).hint("its job failed thousands of times: see the project's job history"))
}

fn gone_rows() -> Refusal {
    Refusal { status: None, reason: "tableUnavailable".to_owned(), message: "its rows are gone".to_owned() }
}

/// One job from its insertion, by whomever, to its end.
async fn one(sink: &BigQuerySink, id: &str, step: &Step<'_>, reads: bool) -> Result<Ended> {
    let failed = |failure: Failure| failure.into_error(&step.message);
    let inserted = sink.rest.insert_job(job(sink, id, step.sql, reads)).await.map_err(failed)?;
    let fresh = inserted.is_some();
    if let Some(JobState { done: true, error: Some(refusal), .. }) = inserted {
        return Ok(Ended { fresh, outcome: Err(refusal) });
    }
    let (mut pause, mut waited) = (PAUSE, Duration::ZERO);
    while waited < WAIT_MAX {
        let state = sink.rest.job(id).await.map_err(failed)?.ok_or_else(|| out_of_sight(step, id))?;
        if state.done {
            let outcome = match state.error {
                Some(refusal) => Err(refusal),
                None => Ok(Done { id: id.to_owned(), statistics: state.statistics }),
            };
            return Ok(Ended { fresh, outcome });
        }
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (pause + pause / 2).min(PAUSE_MAX);
    }
    Err(Error::retry(format!("{}: the job {id} is still at work", step.message)).hint("it is looked at again later"))
}

fn out_of_sight(step: &Step<'_>, id: &str) -> Error {
    Error::retry(format!("{}: the job {id} was started but cannot be seen", step.message))
        .hint("has `location` changed since, or was the job another account's?")
}

fn job(sink: &BigQuerySink, id: &str, sql: &str, reads: bool) -> Job {
    let config = &sink.config;
    // Rows that a query gives lie in a table of their own for a day.
    let key = config.kms_key.clone().filter(|_| reads);
    let query = JobConfigurationQuery {
        query: sql.to_owned(),
        use_legacy_sql: Some(false),
        use_query_cache: Some(false),
        destination_encryption_configuration: key.map(|key| EncryptionConfiguration { kms_key_name: Some(key) }),
        ..JobConfigurationQuery::default()
    };
    let labels = config.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Job {
        configuration: Some(JobConfiguration {
            labels: Some(labels),
            query: Some(query),
            ..JobConfiguration::default()
        }),
        job_reference: Some(JobReference {
            job_id: Some(id.to_owned()),
            location: Some(config.location.clone()),
            project_id: Some(config.project.clone()),
        }),
        ..Job::default()
    }
}

/// How many rows a query of one number gives; None where its table is not there.
pub(super) async fn count(sink: &BigQuerySink, sql: &str, message: String) -> Result<Option<u64>> {
    let id = format!("freshet_count_{}", sink.clock.fresh_id());
    let step = Step { prefix: id.clone(), sql, message };
    let failed = |failure: Failure| failure.into_error(&step.message);
    let ended = match one(sink, &id, &step, true).await?.outcome {
        Err(refusal) if refusal.is_not_found() => return Ok(None),
        ended => ended.map_err(|refusal| failed(Failure::Refused(refusal)))?,
    };
    let page = sink.rest.job_page(&ended.id, None).await.map_err(failed)?.unwrap_or_default();
    let number = page.rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    number.map(Some).ok_or_else(|| Error::retry(format!("{}: there is no number in the answer", step.message)))
}

/// How many rows of the log an attempt wrote.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where the log is gone, [`Retry`](crate::error::Kind::Retry) where BigQuery
/// cannot tell now.
pub(super) async fn rows_of_batch(sink: &BigQuerySink, target: &Target, attempt: &Attempt) -> Result<u64> {
    let log = sink.table(target, Part::Changes);
    let counted =
        count(sink, &sql::count_attempt(&log, attempt), format!("the rows of {log} cannot be counted")).await?;
    counted.ok_or_else(|| super::tables::gone(&log))
}

/// How many rows a table has; None where it is not there.
pub(super) async fn row_count(sink: &BigQuerySink, table: &super::TableId) -> Result<Option<u64>> {
    count(sink, &sql::count(table), format!("the rows of {table} cannot be counted")).await
}

/// What every try's id of a step begins with. Ids have letters, digits, `_` and `-`: other characters of the
/// attempt are spelled out, so that no two attempts share an id.
pub(super) fn prefix(attempt: &str, step: &str) -> String {
    let mut out = String::from("freshet_");
    for c in attempt.chars() {
        if c.is_ascii_alphanumeric() || c == '-' {
            out.push(c);
        } else {
            out.push_str(&format!("_{:x}_", u32::from(c)));
        }
    }
    format!("{out}_{step}")
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
