//! Everything that the server knows, changed by one call at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::Options;
use super::engine::Engine;
use super::jobs::Job;
use super::quota::Quota;
use super::streams::Stream;
use super::tables::{Dataset, Table};

/// The server's own time: it runs as time does, from a fixed moment on, and a test can turn it forward.
#[derive(Debug)]
pub(super) struct ServerClock {
    start: DateTime<Utc>,
    started: Instant,
    turned: Mutex<TimeDelta>,
}

impl ServerClock {
    fn new(start: DateTime<Utc>) -> Self {
        Self { start, started: Instant::now(), turned: Mutex::new(TimeDelta::zero()) }
    }

    /// The present moment, to the microsecond.
    pub(super) fn now(&self) -> DateTime<Utc> {
        let passed = TimeDelta::microseconds(i64::try_from(self.started.elapsed().as_micros()).unwrap());
        self.start + passed + *self.turned.lock().unwrap()
    }

    pub(super) fn advance(&self, by: TimeDelta) {
        *self.turned.lock().unwrap() += by;
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
    pub(super) on_commit: Vec<OnCommit>,
    numbers: u64,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        Self {
            clock: Arc::new(ServerClock::new(options.start)),
            engine: Engine::start(),
            datasets: BTreeMap::new(),
            tables: BTreeMap::new(),
            streams: BTreeMap::new(),
            jobs: BTreeMap::new(),
            metadata_updates: Quota::new(options.metadata_updates),
            dml_statements: Quota::new(options.dml_statements),
            new_streams: Quota::new(options.new_streams),
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
