//! A REST server for unit tests that answers by a script, and a sink that asks it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::change::TableName;
use crate::clock::StillClock;
use crate::config::{BigQueryConfig, Compression, Create, DatasetName, Mode, OnDelete, StorageConfig};
use crate::sink::Target;
use crate::sink::bigquery::BigQuerySink;

/// What is answered to the next request of a method whose path ends so.
type Answer = (&'static str, String, u16, Value);

/// A request that came.
#[derive(Debug, Clone)]
pub(in crate::sink::bigquery) struct Asked {
    /// `METHOD path?query`, from the project on.
    pub(in crate::sink::bigquery) line: String,
    pub(in crate::sink::bigquery) body: Value,
    pub(in crate::sink::bigquery) if_match: Option<String>,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<Answer>,
    asked: Vec<Asked>,
}

/// The server; it ends with the runtime of its test.
pub(in crate::sink::bigquery) struct Fake {
    script: Arc<Mutex<Script>>,
    pub(in crate::sink::bigquery) endpoint: String,
}

impl Fake {
    pub(in crate::sink::bigquery) async fn start() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { script, endpoint }
    }

    /// Answers the next request of `method` whose path ends with `path`; requests out of turn fail the test.
    pub(in crate::sink::bigquery) fn then(&self, method: &'static str, path: &str, status: u16, body: Value) -> &Self {
        self.script.lock().unwrap().answers.push_back((method, path.to_owned(), status, body));
        self
    }

    /// What was asked so far; every scripted answer must have been given.
    pub(in crate::sink::bigquery) fn asked(&self) -> Vec<Asked> {
        let script = self.script.lock().unwrap();
        assert!(script.answers.is_empty(), "not asked for: {:?}", script.answers);
        script.asked.clone()
    }

    pub(in crate::sink::bigquery) fn config(&self) -> BigQueryConfig {
        BigQueryConfig {
            project: "my-project".into(),
            location: "EU".into(),
            dataset: DatasetName::default(),
            kms_key: None,
            labels: BTreeMap::from([("team".to_owned(), "data".to_owned())]),
            create: Create::Auto,
            compression: Compression::Gzip,
            rest_endpoint: Some(self.endpoint.clone()),
            grpc_endpoint: Some(self.endpoint.clone()),
        }
    }

    pub(in crate::sink::bigquery) fn sink(&self) -> BigQuerySink {
        self.sink_with(self.config())
    }

    pub(in crate::sink::bigquery) fn sink_with(&self, config: BigQueryConfig) -> BigQuerySink {
        BigQuerySink::open(config, StillClock::shared()).unwrap()
    }
}

async fn answer(
    State(script): State<Arc<Mutex<Script>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let mut script = script.lock().unwrap();
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let path = path.strip_prefix("/bigquery/v2/projects/my-project").unwrap_or(path);
    let if_match = headers.get("if-match").map(|value| value.to_str().unwrap().to_owned());
    let body = serde_json::from_slice(&body).unwrap_or_default();
    script.asked.push(Asked { line: format!("{method} {path}"), body, if_match });
    let expected = script.answers.pop_front();
    let (status, body) = match expected {
        Some((wanted, end, status, body)) if method == wanted && uri.path().ends_with(&end) => (status, body),
        expected => (400, refusal(400, "test", &format!("{method} {path} came instead of {expected:?}"))),
    };
    (StatusCode::from_u16(status).unwrap(), axum::Json(body))
}

/// The body of an answer that refuses.
pub(in crate::sink::bigquery) fn refusal(status: u16, reason: &str, message: &str) -> Value {
    json!({"error": {"code": status, "message": message,
        "errors": [{"domain": "global", "reason": reason, "message": message}]}})
}

/// A job's resource.
pub(in crate::sink::bigquery) fn job(state: &str, error: Option<(&str, &str)>, statistics: Value) -> Value {
    let mut status = json!({"state": state});
    if let Some((reason, message)) = error {
        status["errorResult"] = json!({"reason": reason, "message": message});
    }
    json!({"status": status, "statistics": {"query": statistics}})
}

/// A target of mode `merge` by key `id`.
pub(in crate::sink::bigquery) fn target() -> Target {
    Target {
        source: TableName::new("db", "orders"),
        name: TableName::new("shop", "orders"),
        mode: Mode::Merge,
        key: vec!["id".into()],
        on_delete: OnDelete::Remove,
        storage: StorageConfig::default(),
        descriptions: BTreeMap::new(),
        generation: 1,
    }
}
