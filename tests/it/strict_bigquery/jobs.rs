//! Jobs: each id is taken once, for ever; a query runs when it has been asked after often enough, a load finds no file.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/rest/v2/jobs>.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::PROJECT;
use super::results::{self, Form};
use super::schema;
use super::statements::{Outcome, What};
use super::trouble::{Result, Trouble};
use super::world::World;

/// See <https://cloud.google.com/bigquery/quotas#data-manipulation-language-statements>.
const DML_RUNNING_MAX: usize = 2;
const DML_QUEUED_MAX: usize = 20;

/// What may be said of a query.
const QUERY_KEYS: [&str; 6] =
    ["query", "useLegacySql", "priority", "useQueryCache", "maximumBytesBilled", "destinationEncryptionConfiguration"];

/// What may be said of a load.
const LOAD_KEYS: [&str; 7] =
    ["sourceUris", "destinationTable", "sourceFormat", "schema", "autodetect", "writeDisposition", "createDisposition"];

/// A job.
#[derive(Debug)]
pub(super) struct Job {
    id: String,
    location: String,
    configuration: Value,
    sql: String,
    statement_type: &'static str,
    /// The table that its DML changes.
    changes: Option<(String, String)>,
    created: DateTime<Utc>,
    /// How often it is still asked after before it is done.
    polls_left: usize,
    bytes: u64,
    /// None until it has run.
    ended: Option<Result<Outcome>>,
}

impl World {
    /// `jobs.insert`; the job fails where a test gives a reason.
    pub(super) fn insert_job(&mut self, body: &Value, fails: Option<&'static str>) -> Result<Value> {
        schema::known_keys(body, &["jobReference", "configuration"])?;
        let configuration = &body["configuration"];
        schema::known_keys(configuration, &["query", "load", "labels", "jobTimeoutMs", "jobType"])?;
        schema::known_keys(&body["jobReference"], &["projectId", "jobId", "location"])?;
        let id = body["jobReference"]["jobId"].as_str();
        let location = body["jobReference"]["location"].as_str();
        let job = self.fresh_job(id, location, configuration.clone())?;
        let id = match (&configuration["query"], &configuration["load"]) {
            (query, Value::Null) => {
                schema::known_keys(query, &QUERY_KEYS)?;
                self.new_query(job, query, fails)?
            }
            (Value::Null, load) => self.new_load(job, load)?,
            _ => return Err(Trouble::invalid("a job is a query or a load")),
        };
        self.show_job(&id)
    }

    /// `jobs.query`
    pub(super) fn query(&mut self, body: &Value) -> Result<Value> {
        let known = [
            "query",
            "useLegacySql",
            "location",
            "maxResults",
            "timeoutMs",
            "useQueryCache",
            "formatOptions",
            "labels",
            "requestId",
            "maximumBytesBilled",
            "kind",
            "jobCreationMode",
        ];
        schema::known_keys(body, &known)?;
        let configuration = json!({"query": {"query": body["query"]}});
        let location = body["location"].as_str();
        let job = self.fresh_job(None, location, configuration)?;
        let id = self.new_query(job, body, None)?;
        let int64_timestamps = body["formatOptions"]["useInt64Timestamp"] == json!(true);
        self.results(&id, Page { int64_timestamps, start: 0, most: body["maxResults"].as_u64() })
    }

    /// A job of this id, or of one of the server's own, that does nothing yet.
    fn fresh_job(&mut self, id: Option<&str>, location: Option<&str>, configuration: Value) -> Result<Job> {
        let id = id.map_or_else(|| format!("job_{}", self.fresh_number()), str::to_owned);
        if id.is_empty() || id.len() > 1024 || id.chars().any(|c| !c.is_ascii_alphanumeric() && !"_-".contains(c)) {
            return Err(Trouble::invalid(format!("Invalid job ID \"{id}\"")));
        }
        if self.jobs.contains_key(&id) {
            return Err(Trouble::duplicate(format!("Job {PROJECT}:{id}")));
        }
        Ok(Job {
            id,
            location: location.unwrap_or_default().to_owned(),
            configuration,
            sql: String::new(),
            statement_type: "",
            changes: None,
            created: self.clock.now(),
            polls_left: self.options.job_polls,
            bytes: 0,
            ended: None,
        })
    }

    /// Starts a job that runs this query; gives its id.
    fn new_query(&mut self, mut job: Job, query: &Value, fails: Option<&'static str>) -> Result<String> {
        if query["useLegacySql"] != json!(false) {
            return Err(Trouble::invalid("useLegacySql must be false: its default is true"));
        }
        let sql = query["query"].as_str().ok_or_else(|| Trouble::invalid("Required parameter is missing: query"))?;
        job.sql = sql.to_owned();
        if let Err(trouble) = self.admit(&mut job) {
            job.ended = Some(Err(trouble));
        } else if let Some(reason) = fails {
            job.ended = Some(Err(Trouble::new(503, reason, "a fault that the test asked for")));
        }
        let id = job.id.clone();
        self.jobs.insert(id.clone(), job);
        self.run_if_due(&id);
        Ok(id)
    }

    /// Starts a job that loads files, and ends it: it counts against its table's quota, and finds none of them, as there
    /// is no Cloud Storage here.
    fn new_load(&mut self, mut job: Job, load: &Value) -> Result<String> {
        schema::known_keys(load, &LOAD_KEYS)?;
        let missing = |key: &str| Trouble::invalid(format!("Required parameter is missing: {key}"));
        let table = &load["destinationTable"];
        let dataset = table["datasetId"].as_str().ok_or_else(|| missing("datasetId"))?;
        let name = table["tableId"].as_str().ok_or_else(|| missing("tableId"))?;
        let uri = load["sourceUris"][0].as_str().ok_or_else(|| missing("sourceUris"))?;
        job.location.clone_from(&self.dataset(dataset)?.location);
        let is_admitted = self.table_loads.take(&format!("{dataset}.{name}"), self.clock.now());
        job.ended = Some(Err(if is_admitted {
            Trouble::not_found(format!("URI {uri}"))
        } else {
            let what = "Your table exceeded quota for imports or query appends per table.";
            Trouble::new(403, "quotaExceeded", format!("Quota exceeded: {what}"))
        }));
        let id = job.id.clone();
        self.jobs.insert(id.clone(), job);
        Ok(id)
    }

    /// Checks what BigQuery does before a job runs, and learns what the job is.
    fn admit(&mut self, job: &mut Job) -> Result<()> {
        let statement = self.understand(&job.sql);
        let named = statement.as_ref().map(|statement| statement.named.clone()).unwrap_or_default();
        for (dataset, _) in &named {
            let location = &self.dataset(dataset)?.location;
            if job.location.is_empty() {
                job.location.clone_from(location);
            }
            if !location.eq_ignore_ascii_case(&job.location) {
                let what = format!("Dataset {PROJECT}:{dataset} was not found in location {}", job.location);
                return Err(Trouble::not_found(what));
            }
        }
        if job.location.is_empty() {
            job.location = "US".to_owned();
        }
        let statement = statement?;
        job.statement_type = statement.what.name();
        let changed = match &statement.what {
            What::Merge(merge) => std::slice::from_ref(&merge.target),
            What::Transaction(transaction) => &transaction.changes,
            _ => &[],
        };
        for target in changed {
            self.admit_dml(target)?;
            job.changes = Some(target.clone());
        }
        Ok(())
    }

    fn admit_dml(&mut self, target: &(String, String)) -> Result<()> {
        let (dataset, table) = target;
        let waiting = self.jobs.values().filter(|job| job.ended.is_none() && job.changes.as_ref() == Some(target));
        if waiting.count() >= DML_RUNNING_MAX + DML_QUEUED_MAX {
            let what = format!("Too many DML statements outstanding against table {dataset}.{table}, limit is 20.");
            return Err(Trouble::new(400, "resourcesExceeded", format!("Resources exceeded: {what}")));
        }
        if !self.dml_statements.take(&format!("{dataset}.{table}"), self.clock.now()) {
            let what = "Exceeded rate limits: too many DML statements for this table.";
            return Err(Trouble::new(403, "rateLimitExceeded", what));
        }
        Ok(())
    }

    fn run_if_due(&mut self, id: &str) {
        let Some(job) = self.jobs.get(id).filter(|job| job.ended.is_none() && job.polls_left == 0) else { return };
        let sql = job.sql.clone();
        let (bytes, outcome) = match self.understand(&sql) {
            Ok(statement) => (self.bytes_of(&statement.named), self.run(&statement)),
            Err(trouble) => (0, Err(trouble)),
        };
        if let Some(job) = self.jobs.get_mut(id) {
            job.bytes = bytes;
            job.ended = Some(outcome);
        }
    }

    /// Runs all jobs that are still under way.
    pub(super) fn finish_jobs(&mut self) {
        let ids: Vec<_> = self.jobs.keys().cloned().collect();
        for id in ids {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.polls_left = 0;
            }
            self.run_if_due(&id);
        }
    }

    /// A rough size of tables: 8 bytes for each value.
    fn bytes_of(&mut self, named: &std::collections::BTreeSet<(String, String)>) -> u64 {
        let sizes = named.iter().map(|(dataset, table)| {
            let columns = self.table(dataset, table).map_or(0, |table| table.fields.len() as u64);
            self.count_rows(dataset, table).unwrap_or(0) * columns * 8
        });
        sizes.collect::<Vec<_>>().iter().sum()
    }

    /// A job that is asked after: it must be named with its location, unless that is US or EU.
    pub(super) fn poll_job(&mut self, id: &str, location: Option<&str>) -> Result<()> {
        let missing = || Trouble::not_found(format!("Job {id}"));
        let job = self.jobs.get_mut(id).ok_or_else(missing)?;
        let is_found = match location {
            Some(location) => location.eq_ignore_ascii_case(&job.location),
            None => ["US", "EU"].contains(&job.location.to_uppercase().as_str()),
        };
        if !is_found {
            return Err(missing());
        }
        job.polls_left = job.polls_left.saturating_sub(1);
        self.run_if_due(id);
        Ok(())
    }

    fn job(&self, id: &str) -> Result<&Job> {
        self.jobs.get(id).ok_or_else(|| Trouble::not_found(format!("Job {id}")))
    }

    /// The job's resource.
    pub(super) fn show_job(&self, id: &str) -> Result<Value> {
        let job = self.job(id)?;
        let ahead = self.jobs.values().filter(|other| {
            other.ended.is_none() && other.changes == job.changes && (other.created, &other.id) < (job.created, &job.id)
        });
        let state = match job.ended {
            Some(_) => "DONE",
            None if job.changes.is_some() && ahead.count() >= DML_RUNNING_MAX => "PENDING",
            None => "RUNNING",
        };
        let mut status = json!({"state": state});
        if let Some(Err(trouble)) = &job.ended {
            status["errorResult"] = trouble.to_error_result();
            status["errors"] = json!([trouble.to_error_result()]);
        }
        let mut configuration = job.configuration.clone();
        configuration["jobType"] = json!(if configuration.get("load").is_some() { "LOAD" } else { "QUERY" });
        Ok(json!({
            "kind": "bigquery#job", "id": format!("{PROJECT}:{}.{}", job.location, job.id),
            "jobReference": job.reference(), "configuration": configuration, "status": status,
            "statistics": job.statistics(),
        }))
    }

    /// `jobs.getQueryResults`, and the answer of `jobs.query`.
    pub(super) fn results(&self, id: &str, page: Page) -> Result<Value> {
        let job = self.job(id)?;
        let mut out = json!({"kind": "bigquery#getQueryResultsResponse", "jobReference": job.reference()});
        let outcome = match &job.ended {
            None => {
                out["jobComplete"] = json!(false);
                return Ok(out);
            }
            Some(Err(trouble)) => return Err(trouble.clone()),
            Some(Ok(outcome)) => outcome,
        };
        out["jobComplete"] = json!(true);
        out["cacheHit"] = json!(false);
        out["totalBytesProcessed"] = json!(job.bytes.to_string());
        match outcome {
            Outcome::Changed(changed) => {
                let all = changed.inserted + changed.updated + changed.deleted;
                out["numDmlAffectedRows"] = json!(all.to_string());
                out["totalRows"] = json!("0");
            }
            Outcome::Defined => out["totalRows"] = json!("0"),
            // See <https://cloud.google.com/bigquery/docs/cached-results>.
            Outcome::Rows(_) if self.clock.now() >= job.created + TimeDelta::hours(24) => {
                return Err(Trouble::not_found(format!("Table with the results of job {id}")));
            }
            Outcome::Rows(batches) => {
                let schema = batches.first().map(|batch| batch.schema()).ok_or_else(|| Trouble::not_found("rows"))?;
                let fields = results::fields(&schema, job.created);
                let form = Form::Rest { int64_timestamps: page.int64_timestamps };
                let rows = results::rest_rows(batches, &fields, form);
                let end = page.most.map_or(rows.len(), |most| (page.start + most as usize).min(rows.len()));
                out["schema"] = schema::to_json(&fields);
                out["totalRows"] = json!(rows.len().to_string());
                if end < rows.len() {
                    out["pageToken"] = json!(end.to_string());
                }
                out["rows"] = json!(rows.get(page.start..end).unwrap_or_default());
            }
        }
        Ok(out)
    }
}

/// Which rows of a result are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) int64_timestamps: bool,
    pub(super) start: usize,
    pub(super) most: Option<u64>,
}

impl Job {
    fn reference(&self) -> Value {
        json!({"projectId": PROJECT, "jobId": self.id, "location": self.location})
    }

    fn statistics(&self) -> Value {
        let created = self.created.timestamp_millis().to_string();
        let mut out = json!({"creationTime": created, "startTime": created});
        if self.configuration.get("load").is_some() {
            out["load"] = json!({});
            return out;
        }
        out["query"] = json!({});
        if !self.statement_type.is_empty() {
            out["query"]["statementType"] = json!(self.statement_type);
        }
        let Some(ended) = &self.ended else { return out };
        let bytes = json!(self.bytes.to_string());
        out["endTime"] = json!(created);
        out["totalBytesProcessed"] = bytes.clone();
        out["query"]["totalBytesProcessed"] = bytes.clone();
        out["query"]["totalBytesBilled"] = bytes;
        out["query"]["cacheHit"] = json!(false);
        if let Ok(Outcome::Changed(changed)) = ended {
            let all = changed.inserted + changed.updated + changed.deleted;
            out["query"]["numDmlAffectedRows"] = json!(all.to_string());
            out["query"]["dmlStats"] = json!({
                "insertedRowCount": changed.inserted.to_string(),
                "updatedRowCount": changed.updated.to_string(),
                "deletedRowCount": changed.deleted.to_string(),
            });
        }
        out
    }
}
