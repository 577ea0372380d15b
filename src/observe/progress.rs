//! Who is told of a run's progress: a bar for each running table on a terminal, log lines elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::change::TableName;
use crate::error::Error;
use crate::observe::log;
use crate::pipeline::report::{Observer, Progress};

/// The observer that fits stderr.
pub fn for_stderr() -> Box<dyn Observer> {
    if log::is_terminal() { Box::new(Bars::default()) } else { Box::new(Lines) }
}

/// Progress as log lines.
pub struct Lines;

impl Observer for Lines {
    fn tell(&self, progress: &Progress<'_>) {
        match progress {
            Progress::TableStarted { table, files } => tracing::info!(%table, files, "table started"),
            Progress::BatchCommitted { table, files, rows } => {
                tracing::info!(%table, files, rows, "batch committed");
            }
            Progress::Merged { table, counts } => tracing::info!(
                %table,
                inserted = counts.inserted,
                updated = counts.updated,
                deleted = counts.deleted,
                "merged"
            ),
            Progress::SetAside { table, error } => tracing::warn!(%table, error = error.report(), "file set aside"),
            Progress::Vanished { table, error } => tracing::warn!(%table, error = error.report(), "file vanished"),
            Progress::Failing { table, error, pause } => tracing::warn!(
                %table,
                error = error.report(),
                pause_seconds = pause.as_secs(),
                "failed; to be tried again"
            ),
            Progress::Left { error } => {
                tracing::warn!(error = error.report(), "file cannot be used or read now, and is left")
            }
            Progress::Note { table, note } => tracing::info!(%table, "{note}"),
            Progress::TableStopped { table, error } => tracing::error!(%table, error = error.report(), "table stopped"),
            Progress::TableDone { table, report } => tracing::info!(
                %table,
                files = report.files,
                changes = report.changes,
                set_aside = report.set_aside.len(),
                milliseconds = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
                "table done"
            ),
        }
    }
}

/// Progress as bars.
#[derive(Default)]
pub struct Bars {
    screen: MultiProgress,
    running: Mutex<HashMap<TableName, ProgressBar>>,
}

impl Bars {
    fn bar(&self, table: &TableName) -> Option<ProgressBar> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(table).cloned()
    }

    fn start(&self, table: &TableName, files: usize) {
        let bar = self.screen.add(ProgressBar::new(u64::try_from(files).unwrap_or(u64::MAX)));
        if let Ok(style) = ProgressStyle::with_template("{prefix:32!} {bar:24} {pos}/{len} files {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(table.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert((*table).clone(), bar);
    }

    fn say(&self, what: &str, error: &Error) {
        // A screen that cannot be written to is nobody's business.
        let _ = self.screen.println(format!("{what}: {}", error.report()));
    }
}

impl Observer for Bars {
    fn tell(&self, progress: &Progress<'_>) {
        match progress {
            Progress::TableStarted { table, files } => self.start(table, *files),
            Progress::BatchCommitted { table, files, .. } => {
                if let Some(bar) = self.bar(table) {
                    bar.inc(u64::try_from(*files).unwrap_or(0));
                }
            }
            Progress::Merged { table, .. } => {
                if let Some(bar) = self.bar(table) {
                    bar.set_message("merged");
                }
            }
            Progress::SetAside { error, .. } => self.say("set aside", error),
            Progress::Vanished { error, .. } => self.say("vanished", error),
            Progress::Failing { error, .. } => self.say("failed; to be tried again", error),
            Progress::Left { error } => self.say("left", error),
            Progress::TableStopped { error, .. } => self.say("stopped", error),
            Progress::Note { table, note } => _ = self.screen.println(format!("{table}: {note}")),
            Progress::TableDone { table, .. } => {
                if let Some(bar) = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(*table) {
                    bar.finish_and_clear();
                }
            }
        }
    }
}
