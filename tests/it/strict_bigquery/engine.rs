//! The rows of the tests' BigQuery: a child process with DuckDB, spoken to in lines of JSON; many rows go through
//! Arrow files in a folder of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use arrow::array::RecordBatch;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use serde_json::{Value, json};

use crate::python;

/// DuckDB in a child process; it ends with this value.
pub(super) struct Engine {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
    files: u64,
}

/// What DuckDB says against a statement.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) message: String,
}

pub(super) type Result<T> = std::result::Result<T, Refused>;

impl Engine {
    /// An engine with no tables.
    pub(super) fn start() -> Self {
        let mut child = python::command()
            .arg("tests/servers/bigquery_engine.py")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python can be started");
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, requests, answers, folder: tempfile::tempdir().unwrap(), files: 0 }
    }

    /// Runs statements, all or none.
    pub(super) fn run(&mut self, statements: &[String]) -> Result<()> {
        self.ask(&json!({"op": "run", "statements": statements})).map(|_| ())
    }

    /// Adds rows to a table, all or none.
    pub(super) fn insert(&mut self, table: &str, rows: &[RecordBatch]) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let schema = first.schema();
        let path = self.fresh_file();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = FileWriter::try_new(file, &schema).unwrap();
        rows.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
        let columns: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
        let inserted = self.ask(&json!({"op": "insert", "table": table, "columns": columns, "path": path}));
        std::fs::remove_file(&path).unwrap();
        inserted.map(|_| ())
    }

    /// Runs one statement and reads what it gives.
    pub(super) fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>> {
        let path = self.fresh_file();
        self.ask(&json!({"op": "query", "sql": sql, "path": path}))?;
        let reader = FileReader::try_new(std::fs::File::open(&path).unwrap(), None).unwrap();
        let schema = reader.schema();
        let mut batches: Vec<_> = reader.map(|batch| batch.unwrap()).collect();
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(schema));
        }
        std::fs::remove_file(&path).unwrap();
        Ok(batches)
    }

    fn fresh_file(&mut self) -> String {
        self.files += 1;
        self.folder.path().join(format!("{}.arrow", self.files)).to_str().unwrap().to_owned()
    }

    fn ask(&mut self, request: &Value) -> Result<u64> {
        writeln!(self.requests, "{request}").expect("the engine lives");
        self.requests.flush().expect("the engine lives");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the engine answers");
        assert!(!line.is_empty(), "bigquery_engine.py has ended; what it said stands on stderr");
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer["error"].as_str() {
            None => Ok(answer["rows"].as_u64().unwrap()),
            Some(message) => Err(Refused { message: message.to_owned() }),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
