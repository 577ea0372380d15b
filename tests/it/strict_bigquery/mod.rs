//! A BigQuery for tests that enforces BigQuery's rules: REST and Storage Write API on the loopback, in this process.
//!
//! Read in this order: this file (what tests use); `rest.rs` and `write.rs` (transport); `tables.rs`, `jobs.rs`,
//! `streams.rs`, `append.rs` (the rules); `statements.rs`, `merge.rs`, `alter.rs`, `translate.rs`, `lexer.rs` (SQL);
//! `storage.rs`, `engine.rs` (rows, in DuckDB). What it does not know it refuses: nothing is silently taken.
//!
//! The server has a thread of its own, so that tests may block. Its time runs as time does, and can be
//! stopped and turned forward.
//! It simplifies: `totalBytesProcessed` is a rough size, partitions and clustering are checked but prune nothing,
//! constraints are kept but not used, a failed statement is always told by the job, values of unlike types are compared
//! where DuckDB does, native change data capture takes effect at once, and load jobs are counted but find no file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

mod alter;
mod append;
mod arrow_rows;
mod changes;
mod connection;
mod engine;
mod faults;
mod grpc_method;
mod jobs;
mod lexer;
mod log;
mod merge;
mod proto_rows;
mod quota;
mod refusal;
mod rest;
mod results;
mod schema;
mod statements;
mod storage;
mod streams;
mod tables;
mod translate;
mod trouble;
mod world;
mod write;

pub(crate) use faults::{Fault, Faults, What};
pub(crate) use log::{Request, RowFormat};
pub(crate) use quota::Limit;

use connection::Connection;
use results::Form;
use world::{ServerClock, World};

use crate::warehouse::Warehouse;

/// The one project there is.
pub(crate) const PROJECT: &str = "test-project";
/// Requests of more bytes are refused, see
/// <https://cloud.google.com/bigquery/quotas#write-api-limits>.
const REQUEST_BYTES_MAX: usize = 10_000_000;
/// Changes of one table's metadata, see <https://cloud.google.com/bigquery/quotas#standard_tables>.
const METADATA_UPDATES: Limit = Limit { most: 5, within: TimeDelta::seconds(10) };
/// Mutating statements on one table, see
/// <https://cloud.google.com/bigquery/quotas#data-manipulation-language-statements>.
const DML_STATEMENTS: Limit = Limit { most: 25, within: TimeDelta::seconds(10) };
/// Loads into one table, failed ones included, see <https://cloud.google.com/bigquery/quotas#load_jobs>.
const TABLE_LOADS: Limit = Limit { most: 1_500, within: TimeDelta::days(1) };

/// What becomes of values for a column that the Write API does not know of yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnseenColumns {
    /// The rows are refused.
    Fail,
    /// The values are lost without a word.
    Lose,
}

/// How the server behaves.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How often a job is asked after before it has run.
    pub(crate) job_polls: usize,
    /// How long a new column, or a new type, is unknown to the Write API.
    pub(crate) columns_visible_after: TimeDelta,
    pub(crate) unseen_columns: UnseenColumns,
    /// `CreateWriteStream` calls.
    pub(crate) new_streams: Limit,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            job_polls: 0,
            columns_visible_after: TimeDelta::zero(),
            unseen_columns: UnseenColumns::Fail,
            new_streams: Limit { most: 10_000, within: TimeDelta::hours(1) },
        }
    }
}

/// What all calls share.
struct Shared {
    world: Arc<Mutex<World>>,
    faults: Faults,
    log: log::Log,
}

impl Shared {
    /// One call at a time changes the world, whole.
    async fn with_world<T: Send + 'static>(&self, effect: impl FnOnce(&mut World) -> T + Send + 'static) -> T {
        let world = Arc::clone(&self.world);
        let done = tokio::task::spawn_blocking(move || effect(&mut world.lock().expect("no call has panicked")));
        done.await.expect("the strict server has no such gap")
    }
}

/// A running server; it stops when this is dropped.
pub(crate) struct StrictBigQuery {
    shared: Arc<Shared>,
    clock: Arc<ServerClock>,
    rest: SocketAddr,
    grpc: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StrictBigQuery {
    /// Starts a server on free ports.
    pub(crate) async fn start(options: Options) -> Self {
        let world = World::new(options);
        let clock = Arc::clone(&world.clock);
        let shared = Arc::new(Shared {
            world: Arc::new(Mutex::new(world)),
            faults: Faults::default(),
            log: log::Log::default(),
        });
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(serving, ready, stopped));
        let (rest, grpc) = started.await.expect("the server starts");
        Self { shared, clock, rest, grpc, stop: Some(stop), thread: Some(thread) }
    }

    /// What `rest_endpoint` is set to: the API is at `/bigquery/v2` below it.
    pub(crate) fn rest_url(&self) -> String {
        format!("http://{}", self.rest)
    }

    /// What `grpc_endpoint` is set to.
    pub(crate) fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The server as its REST API shows it, all datasets at one location.
    pub(crate) fn warehouse(&self, location: &'static str) -> Warehouse {
        Warehouse::new(PROJECT, location, self.rest_url(), self.grpc_url())
    }

    /// Trouble to come.
    pub(crate) fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// What the server was sent so far, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.log.all()
    }

    /// The requests of one gRPC method, or of one HTTP method.
    pub(crate) fn requests_of(&self, method: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.method == method).collect()
    }

    /// Called with the names of the streams of each commit, after it took effect and before it is answered. It must
    /// not ask this server for rows.
    pub(crate) fn on_commit(&self, called: impl Fn(&[String]) + Send + 'static) {
        self.world().on_commit.push(Box::new(called));
    }

    /// The server's time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// From here on the server's time stands still, unless it is turned forward.
    pub(crate) fn stop_time(&self) {
        self.clock.stop();
    }

    /// Turns the server's time forward.
    pub(crate) fn advance(&self, by: TimeDelta) {
        self.clock.advance(by);
    }

    /// Changes how the server behaves from here on; quotas stay as they were.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.world().options);
    }

    /// Makes a dataset.
    pub(crate) fn create_dataset(&self, name: &str, location: &str) {
        let body = serde_json::json!({"datasetReference": {"datasetId": name}, "location": location});
        self.world().insert_dataset(body).unwrap_or_else(|trouble| panic!("{trouble:?}"));
    }

    /// A table's or view's REST resource; None where there is none.
    pub(crate) fn table(&self, name: &str) -> Option<Value> {
        let (dataset, table) = split(name);
        self.world().show_table(dataset, table).ok()
    }

    /// Runs all jobs that are still under way.
    pub(crate) fn finish_jobs(&self) {
        self.world().finish_jobs();
    }

    /// What a query in GoogleSQL gives. INT64, FLOAT64 and BOOL are as in JSON; TIMESTAMP is like
    /// `2026-01-15T12:00:00.000001Z`, BYTES base64, everything else text.
    pub(crate) fn query(&self, sql: &str) -> Vec<BTreeMap<String, Value>> {
        self.world().select(sql).unwrap_or_else(|trouble| panic!("{sql}: {trouble:?}"))
    }

    /// All rows of `dataset.table`, in no order; see [`Self::query`] for their form.
    pub(crate) fn table_rows(&self, name: &str) -> Vec<BTreeMap<String, Value>> {
        let (dataset, table) = split(name);
        self.query(&format!("SELECT * FROM `{PROJECT}`.`{dataset}`.`{table}`"))
    }

    /// The names of a dataset's tables and views.
    pub(crate) fn table_names(&self, dataset: &str) -> Vec<String> {
        let tables = &self.world().tables;
        tables.keys().filter(|(of, _)| of == dataset).map(|(_, name)| name.clone()).collect()
    }

    /// How many rows `dataset.table` has.
    pub(crate) fn row_count(&self, name: &str) -> u64 {
        let (dataset, table) = split(name);
        self.world().count_rows(dataset, table).unwrap_or_else(|trouble| panic!("{name}: {trouble:?}"))
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.shared.world.lock().expect("no call has panicked")
    }
}

impl Drop for StrictBigQuery {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('.').expect("a table is named dataset.table")
}

impl World {
    /// What a query gives, plainly.
    fn select(&mut self, sql: &str) -> trouble::Result<Vec<BTreeMap<String, Value>>> {
        let statement = self.understand(sql)?;
        let statements::Outcome::Rows(batches) = self.run(&statement)? else {
            return Err(trouble::Trouble::invalid_query("no query"));
        };
        let fields =
            batches.first().map(|batch| results::fields(&batch.schema(), self.clock.now())).unwrap_or_default();
        let names: Vec<_> = fields.iter().map(|field| field.name.clone()).collect();
        let rows = results::rows(&batches, &fields, Form::Plain).into_iter();
        Ok(rows.map(|values| names.iter().cloned().zip(values).collect()).collect())
    }

    fn count_rows(&mut self, dataset: &str, table: &str) -> trouble::Result<u64> {
        let sql = format!("SELECT COUNT(*) AS n FROM `{PROJECT}`.`{dataset}`.`{table}`");
        let rows = self.select(&sql)?;
        Ok(rows.first().and_then(|row| row["n"].as_u64()).unwrap_or(0))
    }
}

/// Serves until told to stop.
fn serve(shared: Arc<Shared>, ready: oneshot::Sender<(SocketAddr, SocketAddr)>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let rest = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        ready.send((rest.local_addr().unwrap(), grpc.local_addr().unwrap())).unwrap();
        let rest_routes = axum::Router::new().fallback(rest::answer).with_state(Arc::clone(&shared));
        let grpc_routes = axum::Router::new()
            .route("/google.cloud.bigquery.storage.v1.BigQueryWrite/{method}", axum::routing::post(write::answer))
            .with_state(shared);
        tokio::select! {
            () = accept(rest, rest_routes) => {}
            () = accept(grpc, grpc_routes) => {}
            _ = stopped => {}
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
}

async fn accept(listener: TcpListener, routes: axum::Router) {
    let connections = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.and_then(|(stream, _)| Connection::new(stream));
        Some((accepted, listener))
    });
    let server = tonic::transport::Server::builder().accept_http1(true);
    server.serve_with_incoming(tonic::service::Routes::from(routes), connections).await.expect("the server serves");
}
