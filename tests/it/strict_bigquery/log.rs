//! What the server was sent, in the order of arrival.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde_json::Value;
use tokio::sync::watch;

/// The form in which rows came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowFormat {
    Arrow,
    Proto,
}

/// One request; each message of an `AppendRows` connection is one.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Counts from 0 in the order of arrival.
    pub(crate) number: usize,
    /// `GET`, `POST`, `PATCH`, … or the gRPC method, such as `AppendRows`.
    pub(crate) method: String,
    /// The path of a REST call with its query, or the stream or table that a gRPC call is about.
    pub(crate) path: String,
    /// `dataset.table`, where the request names one.
    pub(crate) table: Option<String>,
    /// The streams that it names.
    pub(crate) streams: Vec<String>,
    pub(crate) offset: Option<i64>,
    pub(crate) rows: Option<RowFormat>,
    /// The JSON body of a REST call, else null.
    pub(crate) body: Value,
    /// Whether it came with an `authorization` header.
    pub(crate) is_authorized: bool,
    /// What became of it: `200`, `409 duplicate`, `OK`, `OUT_OF_RANGE`, `lost`; empty while under way.
    pub(crate) outcome: String,
}

impl Request {
    /// A request that names nothing yet.
    pub(super) fn new(method: &str, path: &str) -> Self {
        Self {
            number: 0,
            method: method.to_owned(),
            path: path.to_owned(),
            table: table_in(path),
            streams: Vec::new(),
            offset: None,
            rows: None,
            body: Value::Null,
            is_authorized: false,
            outcome: String::new(),
        }
    }
}

/// `dataset.table` of a path that holds `datasets/D/tables/T`.
fn table_in(path: &str) -> Option<String> {
    let after = path.split_once("datasets/")?.1;
    let (dataset, after) = after.split_once("/tables/")?;
    let table = after.split(['/', '?']).next().filter(|table| !table.is_empty())?;
    Some(format!("{dataset}.{table}"))
}

/// All requests so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    requests: Mutex<Vec<Request>>,
    /// How many there are.
    count: watch::Sender<usize>,
}

impl Log {
    /// Notes a request; gives its number.
    pub(super) fn arrived(&self, mut request: Request) -> usize {
        let mut log = self.requests.lock().unwrap();
        request.number = log.len();
        log.push(request);
        let count = log.len();
        drop(log);
        self.count.send_replace(count);
        count - 1
    }

    /// Notes how a request ended.
    pub(super) fn answered(&self, number: usize, outcome: impl Into<String>) {
        self.requests.lock().unwrap()[number].outcome = outcome.into();
    }

    /// Waits until requests of a method were about so many paths.
    pub(super) async fn paths(&self, method: &str, count: usize) {
        let is_enough = |_: &usize| {
            let log = self.requests.lock().unwrap();
            let of_method = log.iter().filter(|request| request.method == method);
            of_method.map(|request| &request.path).collect::<BTreeSet<_>>().len() >= count
        };
        self.count.subscribe().wait_for(is_enough).await.expect("the log is there");
    }

    pub(super) fn all(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}
