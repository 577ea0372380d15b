//! What DMS itself says of a table's full load: whether it is whole.
//!
//! By the statistics of the replication task that writes the table's files, see
//! <https://docs.aws.amazon.com/dms/latest/APIReference/API_DescribeTableStatistics.html>. The service's own client
//! would be built for longer than all that is asked of it here.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::change::TableName;
use crate::clock::Clock;
use crate::config::DmsTask;
use crate::error::{Error, Result};
use crate::storage::{Aws, Signer, http_client};

const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The variable by which AWS's tools find this service elsewhere.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_DATABASE_MIGRATION_SERVICE";
/// What the API calls the operation.
const OPERATION: &str = "AmazonDMSv20160101.DescribeTableStatistics";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// More answers than a filter for one table can have.
const PAGES_MAX: usize = 100;
const ASKED_AGAIN: &str =
    "it is asked again; where this goes on, say yourself when the load is whole: `freshet reload TABLE --complete`";
/// The state of a table whose full load has come to its end.
const COMPLETED: &str = "Table completed";
/// The states of one that will not.
const FAILED: [&str; 3] = ["Table error", "Table cancelled", "Table does not exist"];

/// A table's full load, as a task's statistics have it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Load {
    schema_name: String,
    table_name: String,
    table_state: String,
    #[serde(default)]
    full_load_rows: i64,
    /// 0 where the target is S3, whatever could not be loaded: told of other targets alone.
    #[serde(default)]
    full_load_error_rows: i64,
    /// In seconds since 1970.
    full_load_start_time: Option<f64>,
    full_load_end_time: Option<f64>,
}

/// How far a new load is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has come to its end; how many rows it has.
    Whole(u64),
    /// It has not, and how that is known.
    Loading(String),
    /// It never will, and why.
    Failed(String),
}

impl Load {
    /// How far the load is that began at `since_ms` or later.
    fn progress(&self, since_ms: i64) -> Progress {
        let Some(began) = self.full_load_start_time.and_then(moment) else {
            return Progress::Loading(format!("its load has not begun (`{}`)", self.table_state));
        };
        if began.timestamp_millis() < since_ms {
            return Progress::Loading(format!("its last load began {}, before the new one", began.format("%F %T UTC")));
        }
        let rows = self.full_load_rows;
        if FAILED.contains(&self.table_state.as_str()) {
            return Progress::Failed(format!("`{}` after {rows} rows", self.table_state));
        }
        let has_ended = self.full_load_end_time.and_then(moment).is_some_and(|ended| ended >= began);
        if self.table_state != COMPLETED || !has_ended {
            return Progress::Loading(format!("`{}`, {rows} rows", self.table_state));
        }
        match self.full_load_error_rows {
            0 => Progress::Whole(u64::try_from(rows).unwrap_or_default()),
            failed => Progress::Failed(format!("{failed} rows could not be loaded, beside {rows} that could")),
        }
    }

    fn is_of(&self, table: &TableName) -> bool {
        self.schema_name.eq_ignore_ascii_case(&table.database) && self.table_name.eq_ignore_ascii_case(&table.table)
    }
}

/// A moment in seconds since 1970, to the millisecond; None where it is none.
fn moment(seconds: f64) -> Option<DateTime<Utc>> {
    #[expect(clippy::cast_possible_truncation, reason = "no moment of the next million years is cut")]
    DateTime::from_timestamp_millis((seconds * 1_000.0) as i64)
}

/// The tasks that write a source's files.
pub struct Tasks {
    tasks: Vec<Task>,
    aws: Aws,
    clock: Arc<dyn Clock>,
}

struct Task {
    task: DmsTask,
    /// Who is asked of it.
    url: Url,
    http: reqwest::Client,
}

/// Where DMS answers in the task's region, unless the environment names another place.
fn server(task: &DmsTask, instead: Option<&str>) -> Result<Url> {
    let end = if task.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let own = format!("https://dms.{}.{end}/", task.region);
    let url = Url::parse(instead.unwrap_or(&own)).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        Error::user("the endpoint that the environment names for DMS is not the URL of a server")
            .hint(format!("write {ENDPOINT}, or AWS_ENDPOINT_URL, like https://dms.example.com"))
    })
}

impl Tasks {
    /// These tasks; `variable` gives variables of the environment. Nothing is asked yet.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the environment names a server that is none.
    pub fn new(
        tasks: &[DmsTask],
        aws: Aws,
        variable: impl Fn(&str) -> Option<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let endpoint = variable(ENDPOINT).or_else(|| aws.sdk().endpoint_url().map(ToOwned::to_owned));
        let tasks = tasks.iter().map(|task| {
            let url = server(task, endpoint.as_deref())?;
            Ok(Task { task: task.clone(), http: http_client(&url, ANSWER_MAX)?, url })
        });
        Ok(Self { tasks: tasks.collect::<Result<_>>()?, aws, clock })
    }

    /// How far the table's load is that began at `since_ms` or later; whole where it is so for each task that has it.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where no task has the table or one may not be asked,
    /// [`Retry`](crate::error::Kind::Retry) where DMS cannot be asked now.
    pub async fn progress(&self, table: &TableName, since_ms: i64) -> Result<Progress> {
        let mut rows = None;
        for task in &self.tasks {
            for load in self.loads(task, table).await? {
                match load.progress(since_ms) {
                    Progress::Whole(more) => rows = Some(rows.unwrap_or(0) + more),
                    other => return Ok(other),
                }
            }
        }
        rows.map(Progress::Whole).ok_or_else(|| {
            Error::user("none of the DMS tasks in `source.dms_tasks` has this table").in_table(table).hint(
                "see their table statistics in DMS's console; where a task's mapping renames the table, say yourself \
                 when its load is whole: `freshet reload TABLE --complete`",
            )
        })
    }

    /// The table's loads in a task's statistics: one, or none.
    async fn loads(&self, task: &Task, table: &TableName) -> Result<Vec<Load>> {
        let filter = |name: &str, value: &str| json!({"Name": name, "Values": [value]});
        let filters = [filter("schema-name", &table.database), filter("table-name", &table.table)];
        let mut request = json!({"ReplicationTaskArn": task.task.arn, "Filters": filters});
        let mut loads = Vec::new();
        for _ in 0..PAGES_MAX {
            let page: Page = serde_json::from_value(self.ask(task, &request).await?)
                .map_err(|cause| Error::retry("DMS gave an answer of another form").because(cause).hint(ASKED_AGAIN))?;
            loads.extend(page.table_statistics.into_iter().filter(|load| load.is_of(table)));
            match page.marker.filter(|marker| !marker.is_empty()) {
                Some(marker) => request["Marker"] = Value::from(marker),
                None => return Ok(loads),
            }
        }
        Err(Error::retry("DMS gave more and more pages of statistics").hint(ASKED_AGAIN))
    }

    async fn ask(&self, task: &Task, request: &Value) -> Result<Value> {
        let body = request.to_string();
        let region = task.task.region.as_str();
        let signer = Signer { credentials: self.aws.credentials().await?, region, service: "dms" };
        let own = [("content-type", CONTENT_TYPE), ("x-amz-target", OPERATION)];
        let headers = signer.post(&task.url, &own, body.as_bytes(), self.clock.now()).map_err(|cause| {
            Error::user("the question to DMS cannot be signed")
                .because(cause)
                .hint("see that the AWS credentials are plain text")
        })?;
        let mut post = task.http.post(task.url.clone());
        for (name, value) in headers {
            post = post.header(name, value);
        }
        let unreachable = |cause: reqwest::Error| {
            let cause = cause.without_url();
            Error::retry("DMS cannot be asked now how far the load is").because(cause).hint(ASKED_AGAIN)
        };
        let answer = post.body(body).send().await.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.text().await.map_err(unreachable)?;
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() { Ok(said) } else { Err(refused(&task.task, status, &said)) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    table_statistics: Vec<Load>,
    marker: Option<String>,
}

/// What it means that DMS says no.
fn refused(task: &DmsTask, status: StatusCode, said: &Value) -> Error {
    let code = said["__type"].as_str().unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default();
    let message = said["message"].as_str().or(said["Message"].as_str()).unwrap_or("no reason was given");
    // What is said of signatures quotes the request that was signed.
    let message = if code.contains("Signature") { "the signature is refused" } else { message };
    let cause = format!("{status} {code}: {message}");
    if status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || code.contains("Throttl")
        || code.contains("Expired")
    {
        return Error::retry("DMS does not say now how far the load is").because(cause).hint(ASKED_AGAIN);
    }
    let hint = match code {
        code if code.contains("Signature") => {
            "see that this machine's clock is right, and that the AWS credentials are"
        }
        "ResourceNotFoundFault" => "see that the ARN in `source.dms_tasks` is that of a task which is still there",
        code if code.starts_with("AccessDenied") => {
            "allow `dms:DescribeTableStatistics` on the task to whom `aws sts get-caller-identity` names"
        }
        _ => "see the cause; or say yourself when the load is whole: `freshet reload TABLE --complete`",
    };
    Error::user(format!("DMS does not tell of the task {}", task.arn)).because(cause).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn load(state: &str, began: Option<f64>, rows: i64, failed: i64) -> Load {
        Load {
            schema_name: "shop".into(),
            table_name: "orders".into(),
            table_state: state.into(),
            full_load_rows: rows,
            full_load_error_rows: failed,
            full_load_start_time: began,
            full_load_end_time: began.filter(|_| state == COMPLETED),
        }
    }

    #[test]
    fn a_load_is_whole_where_dms_completed_one_that_began_since() {
        let at = |load: Load| load.progress(1_000_000);
        assert_eq!(at(load(COMPLETED, Some(1_000.0), 7, 0)), Progress::Whole(7));
        assert!(matches!(at(load(COMPLETED, Some(999.999), 7, 0)), Progress::Loading(_)));
        assert!(matches!(at(load(COMPLETED, None, 7, 0)), Progress::Loading(_)));
        let of_the_load_before = Load { full_load_end_time: Some(999.0), ..load(COMPLETED, Some(1_000.0), 7, 0) };
        assert!(matches!(at(of_the_load_before), Progress::Loading(_)));
        assert!(matches!(at(load("Full load", Some(1_000.5), 3, 0)), Progress::Loading(_)));
        assert!(matches!(at(load("Table is being reloaded", Some(1_000.5), 3, 0)), Progress::Loading(_)));
        assert!(matches!(at(load("Table error", Some(999.0), 3, 0)), Progress::Loading(_)));
        assert!(matches!(at(load("Table error", Some(1_001.0), 3, 0)), Progress::Failed(_)));
        assert!(matches!(at(load(COMPLETED, Some(1_001.0), 3, 1)), Progress::Failed(_)));
    }

    fn task(region: &str) -> DmsTask {
        DmsTask { arn: format!("arn:aws:dms:{region}:111122223333:task:ABC"), region: region.into() }
    }

    #[test]
    fn a_task_is_asked_of_in_its_region_unless_the_environment_says_otherwise() {
        let at = |region, instead| server(&task(region), instead).map(|url| url.to_string());
        assert_eq!(at("eu-west-1", None).unwrap(), "https://dms.eu-west-1.amazonaws.com/");
        assert_eq!(at("cn-north-1", None).unwrap(), "https://dms.cn-north-1.amazonaws.com.cn/");
        assert_eq!(at("eu-west-1", Some("http://127.0.0.1:7")).unwrap(), "http://127.0.0.1:7/");
        for wrong in ["me:secret", "http://me:secret@", "localhost"] {
            let refused = at("eu-west-1", Some(wrong)).unwrap_err();
            assert_eq!(refused.kind(), Kind::User);
            assert!(!refused.report().contains("secret"), "{}", refused.report());
        }
    }

    #[test]
    fn what_dms_refuses_is_told_with_what_to_do() {
        let of = |status, code: &str| {
            refused(&task("eu-west-1"), status, &json!({"__type": code, "message": "x-amz-security-token:TOKEN"}))
        };
        let denied = of(StatusCode::BAD_REQUEST, "AccessDeniedException");
        assert_eq!(denied.kind(), Kind::User);
        assert!(denied.hint_text().unwrap().contains("dms:DescribeTableStatistics"));
        assert!(of(StatusCode::BAD_REQUEST, "a#ResourceNotFoundFault").hint_text().unwrap().contains("dms_tasks"));
        assert_eq!(of(StatusCode::BAD_REQUEST, "ThrottlingException").kind(), Kind::Retry);
        assert_eq!(of(StatusCode::BAD_REQUEST, "ExpiredTokenException").kind(), Kind::Retry);
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE, "").kind(), Kind::Retry);
        let of_signatures = of(StatusCode::FORBIDDEN, "InvalidSignatureException").report();
        assert!(of_signatures.contains("clock") && !of_signatures.contains("TOKEN"), "{of_signatures}");
    }
}
