//! BigQuery on this machine: the `bqemulator` server that test.sh installs, REST and gRPC alike.
//!
//! What it gets wrong, so that no test rests on it: a job id can be used twice; a job that failed cannot be looked at;
//! primary keys are dropped; a column must be added by ALTER besides PATCH; STRUCT fails; columns that a table lacks
//! are ignored; NULL is taken in REQUIRED columns; the case of column names counts; a MERGE with two rows for one
//! target row is taken; there is no `dmlStats`; and a view's text is not given back.
#![allow(dead_code, reason = "helpers for several files of tests")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::Client;
use serde_json::{Value, json};

use crate::binary::REPOSITORY;

/// The project that every test works in.
pub(crate) const PROJECT: &str = "demo";
/// Where all its datasets are.
pub(crate) const LOCATION: &str = "EU";

/// Runs the server on free ports until its standard input ends, so that it ends with the tests, however they end. It
/// wants one of DuckDB's extensions, which comes as a package and must be put in its place once.
const PROGRAM: &str = "
import os, sys, threading
os.dup2(1, 2)
from duckdb_extensions import import_extension

def end():
    sys.stdin.buffer.read()
    os._exit(0)

threading.Thread(target=end, daemon=True).start()
import_extension('spatial')
sys.argv = ['bqemulator', 'start', '--rest-port', '0', '--grpc-port', '0', '--ephemeral', '--log-format', 'json']
from bqemulator.cli import main
main()
";

/// The running server.
struct Server {
    _process: Child,
    rest_port: u16,
    grpc_port: u16,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(python())
            .args(["-c", PROGRAM])
            .env("BQEMU_ENABLE_FORMAT_EXTENSIONS", "false")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python can be started");
        let mut said = BufReader::new(process.stdout.take().expect("what it says"));
        let mut ports = [None, None];
        let mut lines = String::new();
        while ports.contains(&None) {
            let from = lines.len();
            let read = said.read_line(&mut lines).expect("what it says is text");
            assert!(read > 0, "bqemulator does not start; did ./test.sh install it?\n{lines}");
            let told: Value = serde_json::from_str(&lines[from..]).unwrap_or_default();
            let port = told["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            match told["event"].as_str() {
                Some("rest.listen") => ports[0] = port,
                Some("grpc.listen") => ports[1] = port,
                _ => {}
            }
        }
        // Whatever else it says must be taken from it, or it would wait for that.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let [Some(rest_port), Some(grpc_port)] = ports else { panic!("no ports were told: {lines}") };
        Self { _process: process, rest_port, grpc_port }
    }
}

fn python() -> PathBuf {
    let made = Path::new(REPOSITORY).join(".venv/bin/python");
    let python = std::env::var_os("FRESHET_PYTHON").map_or(made, PathBuf::from);
    assert!(python.is_file(), "there is no {}: run ./test.sh", python.display());
    python
}

/// The server that all tests of this process share; each test has datasets of its own.
pub(crate) struct BqEmulator {
    client: Client,
    rest: String,
    grpc: String,
}

impl BqEmulator {
    /// The server, started where it does not run yet.
    pub(crate) fn shared() -> Self {
        static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
        Self {
            client: Client::builder().no_proxy().build().expect("a client"),
            rest: format!("http://127.0.0.1:{}", SHARED.rest_port),
            grpc: format!("http://127.0.0.1:{}", SHARED.grpc_port),
        }
    }

    /// Where REST answers.
    pub(crate) fn rest_endpoint(&self) -> &str {
        &self.rest
    }

    /// Where gRPC answers.
    pub(crate) fn grpc_endpoint(&self) -> &str {
        &self.grpc
    }

    /// A dataset's name that no other test has; the dataset is not made.
    pub(crate) fn fresh_dataset() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        format!("dataset_{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The rows of a query; each value as BigQuery writes it, NULL as `NULL`.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let asked = json!({"query": sql, "useLegacySql": false, "location": LOCATION, "maxResults": 100_000});
        let answer = self.ask(self.client.post(self.url("queries")).json(&asked)).await;
        assert_eq!(answer["jobComplete"], true, "{sql}: {answer}");
        let rows = answer["rows"].as_array().cloned().unwrap_or_default();
        let text = |cell: &Value| cell["v"].as_str().unwrap_or("NULL").to_owned();
        rows.iter().map(|row| row["f"].as_array().expect("a row").iter().map(text).collect()).collect()
    }

    /// A table's resource; null where there is none.
    pub(crate) async fn table(&self, dataset: &str, table: &str) -> Value {
        let answer = self.client.get(self.url(&format!("datasets/{dataset}/tables/{table}"))).send().await;
        let answer = answer.expect("bqemulator answers");
        if answer.status() == 404 { Value::Null } else { answer.json().await.expect("an answer in JSON") }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/bigquery/v2/projects/{PROJECT}/{path}", self.rest)
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Value {
        let answer = request.send().await.expect("bqemulator answers");
        let status = answer.status();
        let text = answer.text().await.expect("an answer");
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).expect("an answer in JSON")
    }
}
