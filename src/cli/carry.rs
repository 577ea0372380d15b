//! What `run --once` and `backfill` share: everything that a source has is carried, then they end.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::catalog::opened::Opener;
use crate::change::TableName;
use crate::cli::summary::{summary, tell_trouble};
use crate::cli::{Ended, say, tell};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, SinkConfig};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Ledger, Sightings, State};
use crate::pipeline::report::Observer;
use crate::pipeline::{Lane, Pipeline, memory_of, staging_of};
use crate::sink::Sink;
use crate::sink::bigquery::BigQuerySink;
use crate::sink::delta::DeltaSink;
use crate::source::folder::{KnownFiles, NothingKnown};
use crate::source::{Delivery, Source};
use crate::storage::S3Location;
use crate::trial::failpoint;

/// Most deliveries of one run.
const DELIVERIES_MAX: usize = 500_000;

/// All that it takes to carry files, but for where they come from.
pub(super) struct Ready {
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ledger: Ledger,
    sink: Arc<dyn Sink>,
    shutdown: CancellationToken,
}

impl Ready {
    /// Opens sink and ledger, and listens to signals.
    pub(super) async fn of(config: Config) -> Result<Self> {
        let clock = SystemClock::shared();
        let shutdown = CancellationToken::new();
        end_on_signals(&shutdown)?;
        let sink = open_sink(&config, &clock)?;
        let ledger = Ledger::open(config.ledger()?, &sink.describe(), Arc::clone(&clock)).await?;
        Ok(Self { config, clock, ledger, sink, shutdown })
    }

    /// The files of these tables on record, for a source that would have to read them to know them.
    pub(super) async fn known(&self, tables: &[TableName]) -> Result<Arc<dyn KnownFiles>> {
        if S3Location::is_meant_by(&self.config.source.files) {
            return Ok(Arc::new(NothingKnown));
        }
        Ok(Arc::new(LedgerFiles::read(&self.ledger, tables).await))
    }

    /// The pipeline for files of this source, of so many tables at once.
    pub(super) fn pipeline(self, source: &dyn Source, observer: Arc<dyn Observer>, tables_at_once: usize) -> Pipeline {
        Pipeline {
            lane: Lane::Present,
            opener: Opener::new(source.store(), staging_of(&self.config)),
            memory: memory_of(&self.config, tables_at_once),
            observer,
            config: Arc::new(self.config),
            sink: self.sink,
            ledger: self.ledger,
            clock: self.clock,
            shutdown: self.shutdown,
        }
    }
}

/// Carries everything that is there, and finishes what is open for these tables.
pub(super) async fn once(pipeline: Pipeline, source: Arc<dyn Source>, tables: Vec<TableName>) -> Result<Ended> {
    let begun = pipeline.clock.now();
    let (deliveries, left) = receive_all(source.as_ref(), &pipeline.shutdown).await?;
    let (report, receipts) = pipeline.run(&deliveries, tables).await?;
    let receipts: HashSet<String> = receipts.into_iter().collect();
    let (finished, rest): (Vec<Delivery>, Vec<Delivery>) =
        deliveries.into_iter().partition(|delivery| receipts.contains(&delivery.receipt));
    failpoint::ACKNOWLEDGE_BEGINS.reached();
    source.acknowledge(&finished).await?;
    failpoint::ACKNOWLEDGED.reached();
    source.give_back(&rest).await?;
    let took = (pipeline.clock.now() - begun).to_std().unwrap_or_default();
    say(&summary(&report, &pipeline.sink.describe(), took))?;
    tell_trouble(&report, &left);
    Ok(if report.clean() && left.is_empty() { Ended::Fine } else { Ended::Troubled })
}

/// Everything the source has now, up to a bound.
pub(super) async fn receive_all(
    source: &dyn Source,
    shutdown: &CancellationToken,
) -> Result<(Vec<Delivery>, Vec<Error>)> {
    let (mut deliveries, mut left) = (Vec::new(), Vec::new());
    while !shutdown.is_cancelled() {
        let received = match source.receive().await {
            Ok(received) => received,
            // What is in hand is carried before anything else is asked for.
            Err(error) if error.kind() == Kind::Retry && !deliveries.is_empty() => {
                left.push(error);
                break;
            }
            Err(error) => return Err(error),
        };
        left.extend(received.left);
        if received.deliveries.is_empty() {
            break;
        }
        deliveries.extend(received.deliveries);
        if deliveries.len() >= DELIVERIES_MAX {
            left.push(
                Error::retry("the source has more than one run takes in hand").hint("run again, or run the daemon"),
            );
            break;
        }
    }
    Ok((deliveries, left))
}

/// The sink that the configuration names.
pub(super) fn open_sink(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Sink>> {
    match config.sink()? {
        SinkConfig::Delta { location } => Ok(Arc::new(DeltaSink::open(location, Arc::clone(clock))?)),
        SinkConfig::BigQuery(bigquery) => {
            let sink = BigQuerySink::open(bigquery.as_ref().clone(), Arc::clone(clock))?;
            // Beside `memory`, which it follows as all that is not counted in it does.
            Ok(Arc::new(sink.with_outgoing(config.pipeline.memory_bytes / 2)))
        }
    }
}

/// SIGTERM and Ctrl-C end the run after the batches under way; a second one ends it at once.
fn end_on_signals(shutdown: &CancellationToken) -> Result<()> {
    let refused = |cause| Error::retry("signals cannot be listened to").because(cause);
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if !first {
                // Nothing is half-done: what is open is finished by the next run.
                std::process::exit(130);
            }
            tell("ending after the batches under way; once more ends at once");
            shutdown.cancel();
        }
    });
    Ok(())
}

/// The files that the ledger has on record.
struct LedgerFiles(Vec<(State, Sightings)>);

impl LedgerFiles {
    async fn read(ledger: &Ledger, tables: &[TableName]) -> Self {
        let mut states = Vec::new();
        for table in tables {
            // A damaged chain stops its table when that runs; here it only means that nothing is known.
            states.extend(Self::of_table(ledger, table).await.ok());
        }
        Self(states)
    }

    async fn of_table(ledger: &Ledger, table: &TableName) -> Result<(State, Sightings)> {
        let state = ledger.peek(table).await?;
        let sightings = ledger.sightings(table, &state).await?;
        Ok((state, sightings))
    }
}

impl KnownFiles for LedgerFiles {
    fn known(&self, location: &str, size: u64, modified_ms: i64) -> Option<String> {
        let known = |(state, sightings): &(State, Sightings)| {
            let recent = state.known_file(location, size, modified_ms).map(str::to_owned);
            recent.or_else(|| sightings.version(location, size, modified_ms))
        };
        self.0.iter().find_map(known)
    }
}
