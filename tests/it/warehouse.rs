//! What is in a BigQuery, asked for by its REST API alone.

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// A server and the project there.
pub(crate) struct Warehouse {
    client: Client,
    project: &'static str,
    location: &'static str,
    rest: String,
    grpc: String,
}

impl Warehouse {
    /// The project on the server with these endpoints; all its datasets are at one location.
    pub(crate) fn new(project: &'static str, location: &'static str, rest: String, grpc: String) -> Self {
        Self { client: Client::builder().no_proxy().build().expect("a client"), project, location, rest, grpc }
    }

    /// Where REST answers.
    pub(crate) fn rest_endpoint(&self) -> &str {
        &self.rest
    }

    /// Where gRPC answers.
    pub(crate) fn grpc_endpoint(&self) -> &str {
        &self.grpc
    }

    /// What a configuration says, after `sink: `, of datasets that are named so.
    pub(crate) fn sink(&self, dataset: &str) -> String {
        self.sink_json(dataset).to_string()
    }

    /// The same as JSON.
    pub(crate) fn sink_json(&self, dataset: &str) -> Value {
        json!({"bigquery": {
            "project": self.project, "location": self.location, "dataset": dataset,
            "rest_endpoint": self.rest, "grpc_endpoint": self.grpc,
        }})
    }

    /// A table's full name, as it stands in SQL.
    pub(crate) fn table_name(&self, dataset: &str, table: &str) -> String {
        format!("`{}`.`{dataset}`.`{table}`", self.project)
    }

    /// The rows of a query; each value as BigQuery writes it, NULL as `NULL`.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let text = |cell: Option<String>| cell.unwrap_or_else(|| "NULL".to_owned());
        self.rows(sql).await.into_iter().map(|row| row.into_iter().map(text).collect()).collect()
    }

    /// The same, with None for NULL.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let asked = json!({"query": sql, "useLegacySql": false, "location": self.location, "maxResults": 100_000});
        let mut answer = self.ask(self.client.post(self.url("queries")).json(&asked)).await;
        while answer["jobComplete"] == false {
            let job = answer["jobReference"]["jobId"].as_str().expect("a job").to_owned();
            let path = format!("queries/{job}?location={}&maxResults=100000", self.location);
            answer = self.ask(self.client.get(self.url(&path))).await;
        }
        assert_eq!((&answer["jobComplete"], &answer["pageToken"]), (&json!(true), &Value::Null), "{sql}: {answer}");
        let rows = answer["rows"].as_array().cloned().unwrap_or_default();
        let text = |cell: &Value| cell["v"].as_str().map(str::to_owned);
        rows.iter().map(|row| row["f"].as_array().expect("a row").iter().map(text).collect()).collect()
    }

    /// A table's resource; null where there is none.
    pub(crate) async fn table(&self, dataset: &str, table: &str) -> Value {
        let answer = self.client.get(self.url(&format!("datasets/{dataset}/tables/{table}"))).send().await;
        let answer = answer.expect("BigQuery answers");
        match answer.status() {
            StatusCode::NOT_FOUND => Value::Null,
            StatusCode::OK => answer.json().await.expect("an answer in JSON"),
            status => panic!("{dataset}.{table}: {status}"),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/bigquery/v2/projects/{}/{path}", self.rest, self.project)
    }

    async fn ask(&self, request: RequestBuilder) -> Value {
        let answer = request.send().await.expect("BigQuery answers");
        let status = answer.status();
        let text = answer.text().await.expect("an answer");
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).expect("an answer in JSON")
    }
}
