//! `freshet run`: carry change files as they come, or with `--once` all that is there.

use std::sync::Arc;

use crate::cli::carry::{Ready, once};
use crate::cli::{ConfigArgs, Ended};
use crate::daemon::{self, Daemon, Pace};
use crate::error::Result;
use crate::observe::progress;
use crate::pipeline::Pipeline;
use crate::source::{self, Source};

/// Carries change files through their tables' SQL to the sink, as they come
///
/// SIGTERM and Ctrl-C end it: batches under way are finished, the rest is given back. Exit code 0: it ended as it
/// was told to, or with --once all is carried. 4: with --once, done, but a file was set aside or a table stopped.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Carry what is there now, then end
    #[arg(long)]
    once: bool,
}

impl RunArgs {
    /// Whether it runs until it is told to end.
    pub(super) fn is_daemon(&self) -> bool {
        !self.once
    }
}

pub(super) async fn run(args: RunArgs) -> Result<Ended> {
    let ready = Ready::of(args.config.load()?).await?;
    let tables = ready.ledger.tables().await?;
    let known = ready.known(&tables).await?;
    let source = source::open(&ready.config, ready.ledger.created(), known, &ready.clock).await?;
    if args.once {
        let tables_at_once = ready.config.pipeline.tables_at_once;
        let pipeline = ready.pipeline(source.as_ref(), progress::for_stderr().into(), tables_at_once);
        return once(pipeline, source, tables).await;
    }
    let tables_at_once = daemon::tables_at_once(&ready.config);
    until_told(ready.pipeline(source.as_ref(), Arc::new(progress::Lines), tables_at_once), source).await
}

/// Runs as a daemon.
async fn until_told(pipeline: Pipeline, source: Arc<dyn Source>) -> Result<Ended> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        source = pipeline.config.source.files,
        sink = pipeline.sink.describe(),
        "started"
    );
    Daemon::new(pipeline, source, Pace::default()).run().await?;
    Ok(Ended::Fine)
}
