//! Everything that the server knows, changed by one call at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use tokio::time::Instant;

use super::engine::Engine;
use super::jobs::Job;
use super::quota::Quota;
use super::streams::Stream;
use super::tables::{Dataset, Table};
use super::{DML_STATEMENTS, METADATA_UPDATES, Options, TABLE_LOADS};

/// The server's own time: it runs as time does, from a fixed moment on, and a test can stop it and turn it forward.
#[derive(Debug)]
pub(super) struct ServerClock(Mutex<Time>);

#[derive(Debug)]
struct Time {
    /// What it was when it was last set.
    set: DateTime<Utc>,
    /// Since when it has run; None where it is stopped.
    runs: Option<Instant>,
}

impl Time {
    fn now(&self) -> DateTime<Utc> {
        let passed = self.runs.map_or(0, |since| i64::try_from(since.elapsed().as_micros()).unwrap());
        self.set + TimeDelta::microseconds(passed)
    }
}

impl ServerClock {
    fn new() -> Self {
        let set = Utc.with_ymd_and_hms(2026, 1, 15, 12, 0, 0).unwrap();
        Self(Mutex::new(Time { set, runs: Some(Instant::now()) }))
    }

    /// The present moment, to the microsecond.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.0.lock().unwrap().now()
    }

    pub(super) fn stop(&self) {
        let mut time = self.0.lock().unwrap();
        *time = Time { set: time.now(), runs: None };
    }

    pub(super) fn advance(&self, by: TimeDelta) {
        self.0.lock().unwrap().set += by;
    }
}

/// Called with the streams of a commit that took effect.
pub(super) type OnCommit = Box<dyn Fn(&[String]) + Send>;

/// The state of the server.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) clock: Arc<ServerClock>,
    pub(super) engine: Engine,
    pub(super) datasets: BTreeMap<String, Dataset>,
    /// By dataset and name, whose case counts.
    pub(super) tables: BTreeMap<(String, String), Table>,
    /// By full name.
    pub(super) streams: BTreeMap<String, Stream>,
    /// By id.
    pub(super) jobs: BTreeMap<String, Job>,
    pub(super) metadata_updates: Quota,
    pub(super) dml_statements: Quota,
    pub(super) new_streams: Quota,
    pub(super) table_loads: Quota,
    pub(super) on_commit: Vec<OnCommit>,
    numbers: u64,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        Self {
            clock: Arc::new(ServerClock::new()),
            engine: Engine::start(),
            datasets: BTreeMap::new(),
            tables: BTreeMap::new(),
            streams: BTreeMap::new(),
            jobs: BTreeMap::new(),
            metadata_updates: Quota::new(METADATA_UPDATES),
            dml_statements: Quota::new(DML_STATEMENTS),
            new_streams: Quota::new(options.new_streams),
            table_loads: Quota::new(TABLE_LOADS),
            on_commit: Vec::new(),
            numbers: 0,
            options,
        }
    }

    /// A number never given before.
    pub(super) fn fresh_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}
