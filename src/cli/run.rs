//! `freshet run --once`: carry everything that is there, then end.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::adhoc::layout_of;
use crate::catalog::opened::Opener;
use crate::cli::{ConfigArgs, Ended, say, tell};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, SinkConfig};
use crate::error::{Error, Result};
use crate::ledger::{Ledger, State};
use crate::observe::progress;
use crate::pipeline::{Pipeline, RunReport, memory_of, staging_of};
use crate::sink::Sink;
use crate::sink::delta::DeltaSink;
use crate::source::folder::{FolderSource, KnownFiles};
use crate::source::{Delivery, Source};

/// Carries new change files through their tables' SQL to the sink
///
/// Exit code 0: all is carried. 4: done, but a file was set aside or a table stopped.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Carry what is there now, then end
    #[arg(long, required = true)]
    once: bool,
}

pub(super) async fn run(args: RunArgs) -> Result<Ended> {
    let config = args.config.load()?;
    let clock = SystemClock::shared();
    let begun = clock.now();
    let shutdown = CancellationToken::new();
    end_on_signals(&shutdown)?;
    let sink = open_sink(&config, &clock)?;
    let ledger = Ledger::open(config.ledger()?, &sink.describe(), Arc::clone(&clock)).await?;
    let known = Arc::new(LedgerFiles::read(&ledger).await?);
    let source = FolderSource::open(&config.source.files, layout_of(&config)?, known)?;
    let (deliveries, left) = receive_all(&source, &shutdown).await?;
    let pipeline = Pipeline {
        opener: Opener::new(source.store(), staging_of(&config)),
        memory: memory_of(&config),
        observer: progress::for_stderr().into(),
        config: Arc::new(config),
        sink: Arc::clone(&sink),
        ledger,
        clock: Arc::clone(&clock),
        shutdown,
    };
    let (report, receipts) = pipeline.run(&deliveries).await?;
    let receipts: HashSet<String> = receipts.into_iter().collect();
    let finished: Vec<Delivery> =
        deliveries.into_iter().filter(|delivery| receipts.contains(&delivery.receipt)).collect();
    source.acknowledge(&finished).await?;
    let took = (clock.now() - begun).to_std().unwrap_or_default();
    say(&summary(&report, &sink.describe(), took))?;
    tell_trouble(&report, &left);
    Ok(if report.clean() && left.is_empty() { Ended::Fine } else { Ended::Troubled })
}

/// Everything the source has now.
async fn receive_all(source: &FolderSource, shutdown: &CancellationToken) -> Result<(Vec<Delivery>, Vec<Error>)> {
    let (mut deliveries, mut left) = (Vec::new(), Vec::new());
    while !shutdown.is_cancelled() {
        let received = source.receive().await?;
        left.extend(received.left);
        if received.deliveries.is_empty() {
            break;
        }
        deliveries.extend(received.deliveries);
    }
    Ok((deliveries, left))
}

/// The sink that the configuration names.
pub(super) fn open_sink(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Sink>> {
    match config.sink()? {
        SinkConfig::Delta { location } => Ok(Arc::new(DeltaSink::open(location, Arc::clone(clock))?)),
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
struct LedgerFiles(Vec<State>);

impl LedgerFiles {
    async fn read(ledger: &Ledger) -> Result<Self> {
        let mut states = Vec::new();
        for table in ledger.tables().await? {
            // A damaged chain stops its table when that runs; here it only means that nothing is known.
            states.extend(ledger.peek(&table).await.ok());
        }
        Ok(Self(states))
    }
}

impl KnownFiles for LedgerFiles {
    fn known(&self, location: &str, size: u64, modified_ms: i64) -> Option<String> {
        self.0.iter().find_map(|state| state.known_file(location, size, modified_ms)).map(str::to_owned)
    }
}

/// What the run did, a line per table.
fn summary(report: &RunReport, sink: &str, took: std::time::Duration) -> String {
    let mut lines = vec![
        ["table", "files", "changes sent", "inserted", "updated", "deleted", "set aside", "rows now"]
            .map(str::to_owned),
    ];
    let (mut files, mut changes) = (0, 0);
    for (table, done) in &report.tables {
        files += done.files;
        changes += done.changes;
        let rows = done.rows.iter().filter(|(name, _)| !name.ends_with("_tombstones"));
        let rows: Vec<String> = rows.map(|(name, rows)| format!("{name} {rows}")).collect();
        lines.push([
            table.to_string(),
            done.files.to_string(),
            done.changes.to_string(),
            done.merged.inserted.to_string(),
            done.merged.updated.to_string(),
            done.merged.deleted.to_string(),
            done.set_aside.len().to_string(),
            rows.join(", "),
        ]);
    }
    let mut out = aligned(&lines);
    let state = if report.interrupted { "interrupted after" } else { "done:" };
    out.push_str(&format!(
        "{state} {files} files, {changes} changes sent, {} tables in {:.1} s → {sink}\n",
        report.tables.len(),
        took.as_secs_f64()
    ));
    out
}

/// Columns of text under each other; the first and the last to the left, numbers to the right.
fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                if column == 0 || column == N - 1 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn tell_trouble(report: &RunReport, left: &[Error]) {
    for error in left {
        tell(&format!("left: {}", error.report()));
    }
    for (table, files) in &report.unlisted {
        tell(&format!("left: {files} files of {table}, which the configuration does not list under `databases`"));
    }
    let later: usize = report.tables.values().map(|table| table.left.len()).sum();
    if later > 0 {
        tell(&format!(
            "{later} files could not be read now and are left for the next run; the log lines above say why"
        ));
    }
    let set_aside: usize = report.tables.values().map(|table| table.set_aside.len()).sum();
    let stopped = report.tables.values().filter(|table| table.stopped.is_some()).count();
    if set_aside > 0 || stopped > 0 {
        tell(&format!("{set_aside} files were set aside and {stopped} tables stopped; `freshet show TABLE` tells why"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::MergeCounts;
    use crate::change::TableName;
    use crate::pipeline::report::TableReport;

    fn report() -> RunReport {
        let done = TableReport {
            files: 12,
            changes: 3_456,
            merged: MergeCounts { inserted: 3_000, updated: 400, deleted: 5 },
            rows: [("shop.orders", 2_995), ("shop.orders_changes", 3_456), ("shop.orders_tombstones", 5)]
                .map(|(name, rows)| (name.to_owned(), rows))
                .to_vec(),
            ..TableReport::default()
        };
        let set_aside = vec![Error::data("broken").in_file("f")];
        let tables = [
            (TableName::new("shop", "orders"), done),
            (TableName::new("가", "나"), TableReport { files: 1, set_aside, ..TableReport::default() }),
        ];
        RunReport { tables: tables.into(), ..RunReport::default() }
    }

    #[test]
    fn a_summary_has_a_line_per_table_and_the_sum_of_all() {
        let expected = "\
table        files  changes sent  inserted  updated  deleted  set aside  rows now
shop.orders     12          3456      3000      400        5          0  shop.orders 2995, shop.orders_changes 3456
가.나              1             0         0        0        0          1
done: 13 files, 3456 changes sent, 2 tables in 1.5 s → delta ./lake
";
        assert_eq!(summary(&report(), "delta ./lake", Duration::from_millis(1_500)), expected);
    }

    #[test]
    fn a_run_that_was_ended_says_so() {
        let report = RunReport { interrupted: true, ..RunReport::default() };
        let got = summary(&report, "s", Duration::ZERO);
        assert!(got.ends_with("interrupted after 0 files, 0 changes sent, 0 tables in 0.0 s → s\n"), "{got}");
    }

    #[test]
    fn cells_stand_under_each_other() {
        let lines = [["a", "b", "c"], ["long", "1", "x"], ["", "123", ""]].map(|line| line.map(str::to_owned));
        assert_eq!(aligned(&lines), "a       b  c\nlong    1  x\n      123\n");
        assert_eq!(aligned::<2>(&[]), "");
    }
}
