//! One table's task in the daemon: it gathers files, carries them batch by batch as slots come free, merges when
//! that is due, and knows how to wait, to let go and to be held.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::change::{ChangeFile, FileId, TableName};
use crate::daemon::SHARES;
use crate::daemon::agenda::{Agenda, Merged};
use crate::daemon::circuit::{Circuit, Verdict};
use crate::daemon::teller::Fate;
use crate::error::{Error, Kind, Result};
use crate::pipeline::Pipeline;
use crate::pipeline::report::{Progress, TableReport};
use crate::pipeline::setup;
use crate::pipeline::table_run::{MergeWork, Merging, TableRun};

/// Files of a table that can neither be carried nor held which stay in hand.
const KEPT_MAX: usize = 1_000;

/// What a worker tells the daemon about files that it had in hand.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) fate: Fate,
    pub(super) files: Vec<FileId>,
}

/// A table's task.
pub(super) struct Worker {
    pub(super) pipeline: Pipeline,
    pub(super) table: TableName,
    pub(super) inbox: mpsc::UnboundedReceiver<Vec<ChangeFile>>,
    pub(super) answers: mpsc::Sender<Answer>,
    /// Shares of what may run at once.
    pub(super) slots: Arc<Semaphore>,
    pub(super) circuit: Arc<Circuit>,
}

/// Merges beside the batches. Where that takes this machine's memory it takes all shares of a large batch. It is not
/// begun once the daemon is to end.
async fn merge(work: MergeWork, slots: Arc<Semaphore>, here: bool, shutdown: CancellationToken) -> Merged {
    let shares = if here { SHARES } else { 1 };
    let _slot = tokio::select! {
        biased;
        () = shutdown.cancelled() => return (work, Err(Error::retry("the daemon ends"))),
        // The slots are never closed.
        slot = slots.acquire_many_owned(shares.into()) => slot,
    };
    let outcome = work.run().await;
    (work, outcome)
}

/// Writes down that a merge is done; whoever finds it open where nothing is written finishes it.
async fn written_down(agenda: &mut Agenda, ended: std::result::Result<Merged, JoinError>) -> Result<()> {
    match (ended, &mut agenda.run) {
        (Ok((work, Ok(counts))), Some(run)) => run.end_merge(&work, counts).await.map(|_| ()),
        (Ok((_, outcome)), _) => outcome.map(|_| ()),
        (Err(cause), _) => Err(Error::bug("the table's merge broke down").because(cause)),
    }
}

/// The shares of a batch of so many bytes.
fn shares_of(bytes: u64, bytes_max: u64) -> u16 {
    let shares = bytes.saturating_mul(SHARES.into()) / bytes_max.max(1);
    u16::try_from(shares).unwrap_or(SHARES).clamp(1, SHARES)
}

impl Worker {
    /// Works until the daemon shuts down.
    pub(super) async fn work(mut self, mut agenda: Agenda) {
        let mut turned = self.circuit.turned();
        let shutdown = self.pipeline.shutdown.clone();
        loop {
            let due = if self.circuit.lets(&self.table) { agenda.due(&self.pipeline) } else { None };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.end_merges(&mut agenda).await,
                Some(ended) = agenda.merges.join_next() => self.merged(&mut agenda, ended).await,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.turn(&mut agenda).await;
                }
                files = self.inbox.recv() => match files {
                    Some(files) => self.arrive(&mut agenda, files).await,
                    None => return,
                },
                told = turned.recv() => match told {
                    Ok(()) | Err(RecvError::Lagged(_)) => agenda.turn_due |= agenda.run.is_none(),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Waits for a merge that is under way here: broken off, its work would be done again. Others go on elsewhere.
    async fn end_merges(&mut self, agenda: &mut Agenda) {
        while self.pipeline.sink.merges_here()
            && let Some(ended) = agenda.merges.join_next().await
        {
            if let Err(error) = written_down(agenda, ended).await {
                tracing::warn!(table = %self.table, error = error.report(), "a merge stays open, for the next run to finish");
            }
        }
    }

    async fn arrive(&mut self, agenda: &mut Agenda, files: Vec<ChangeFile>) {
        agenda.take_in_hand(files, Instant::now());
        if agenda.held {
            self.hold(agenda).await;
        } else if !self.circuit.lets(&self.table) {
            self.let_go(agenda).await;
        }
    }

    /// Carries one batch, begins a merge, or looks after what is open.
    async fn turn(&mut self, agenda: &mut Agenda) {
        let Some(slot) = self.slot(agenda).await else { return };
        if !self.circuit.lets(&self.table) {
            return;
        }
        let mut report = TableReport::default();
        let outcome = match AssertUnwindSafe(self.round(agenda, &mut report)).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::bug("the table's run broke down")),
        };
        drop(slot);
        self.settle(agenda, outcome.map_err(|error| error.in_table(&self.table))).await;
    }

    /// The shares that the next batch takes; None where the daemon shuts down.
    async fn slot(&mut self, agenda: &mut Agenda) -> Option<OwnedSemaphorePermit> {
        let bytes_max = self.pipeline.config.pipeline.limits.bytes_max;
        loop {
            let shares = shares_of(agenda.bytes(), bytes_max);
            let slots = Arc::clone(&self.slots);
            let slot = tokio::select! {
                biased;
                slot = slots.acquire_many_owned(shares.into()) => slot.ok()?,
                () = self.pipeline.shutdown.cancelled() => return None,
            };
            while let Ok(files) = self.inbox.try_recv() {
                agenda.take_in_hand(files, Instant::now());
            }
            // What came while it waited may make a larger batch. Taking more while holding some could lock up.
            if shares_of(agenda.bytes(), bytes_max) <= shares {
                return Some(slot);
            }
        }
    }

    async fn round(&mut self, agenda: &mut Agenda, report: &mut TableReport) -> Result<()> {
        let now = Instant::now();
        match &mut agenda.run {
            // Other daemons, and this one while the table was stopped, may have left files in the chain. Where they
            // have not, what this one writes next tells it what it missed.
            Some(run) if agenda.held || agenda.turn_due || agenda.look_at <= now => {
                run.ledger().refresh().await?;
                agenda.looked(now);
            }
            Some(_) => {}
            None => {
                let runtime = setup::runtime(&self.pipeline.config, self.pipeline.memory.table_pool())?;
                agenda.run = Some(TableRun::open(self.pipeline.clone(), &self.table, runtime).await?);
                agenda.looked(now);
            }
        }
        agenda.take_held(now);
        let files = agenda.next_batch(&self.table, &self.pipeline, now);
        let Some(run) = &mut agenda.run else { return Err(Error::bug("a table was to run that is not open")) };
        run.round(files, Merging::Later, report).await?;
        if agenda.merge_at.is_some_and(|at| at <= now) && agenda.merges.is_empty() {
            agenda.merge_at = None;
            if let Some(work) = run.begin_merge().await? {
                let (here, shutdown) = (self.pipeline.sink.merges_here(), self.pipeline.shutdown.clone());
                agenda.merges.spawn(merge(work, Arc::clone(&self.slots), here, shutdown));
            }
        }
        Ok(())
    }

    /// Draws the consequences of a merge.
    async fn merged(&mut self, agenda: &mut Agenda, ended: std::result::Result<Merged, JoinError>) {
        let now = Instant::now();
        agenda.merged_at = Some(now);
        let outcome = written_down(agenda, ended).await;
        if let Err(error) = &outcome
            && error.kind() == Kind::Retry
        {
            agenda.merge_at = Some(now);
        }
        self.conclude(agenda, outcome.map_err(|error| error.in_table(&self.table)), true).await;
    }

    /// Draws the consequences of a round.
    async fn settle(&mut self, agenda: &mut Agenda, outcome: Result<()>) {
        let now = Instant::now();
        let (finished, left) = match &mut agenda.run {
            Some(run) => (run.take_finished(), run.take_left()),
            None => Default::default(),
        };
        let progressed = !finished.is_empty();
        agenda.turn_due = false;
        agenda.forget(&finished);
        agenda.take_held(now);
        self.answer(Fate::Done, finished.into_iter().collect()).await;
        let given_up = agenda.put_off(&left, progressed, now);
        self.answer(Fate::Left, given_up).await;
        let outcome = match outcome {
            Ok(()) if !left.is_empty() && !progressed => {
                Err(Error::retry("none of the batch's files can be read now").in_table(&self.table))
            }
            outcome => outcome,
        };
        self.conclude(agenda, outcome, progressed).await;
    }

    /// What succeeded without doing anything `proved` nothing.
    async fn conclude(&mut self, agenda: &mut Agenda, outcome: Result<()>, proved: bool) {
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                if proved {
                    self.circuit.succeeded(&self.table, now);
                } else if agenda.merges.is_empty() {
                    self.circuit.rests(&self.table);
                }
                agenda.succeeded(now, self.pipeline.config.pipeline.merge_every);
            }
            Err(error) if matches!(error.kind(), Kind::Retry | Kind::Fenced) => self.failed(agenda, error).await,
            Err(error) => self.stop(agenda, error).await,
        }
    }

    /// Something failed that may succeed at any time.
    async fn failed(&mut self, agenda: &mut Agenda, error: Error) {
        let now = Instant::now();
        match self.circuit.failed(&self.table, now) {
            Verdict::TryAgain => {
                self.tell(&Progress::Failing { table: &self.table, error: &error, pause: agenda.pause });
                agenda.wait(self.pipeline.clock.jittered(agenda.pause), now);
            }
            Verdict::LetGo => self.let_go(agenda).await,
            Verdict::Hold => self.stop(agenda, error).await,
        }
    }

    /// The table stops: its files are held, and it is tried again later.
    async fn stop(&mut self, agenda: &mut Agenda, error: Error) {
        self.tell(&Progress::TableStopped { table: &self.table, error: &error });
        self.circuit.rests(&self.table);
        agenda.stop(Instant::now());
        self.hold(agenda).await;
    }

    /// Writes what is in hand into the table's chain, from where it comes back.
    async fn hold(&mut self, agenda: &mut Agenda) {
        if agenda.in_hand.is_empty() {
            return;
        }
        let files: Vec<ChangeFile> = agenda.in_hand.values().map(|waiting| waiting.file.clone()).collect();
        match self.write_held(agenda, &files).await {
            Ok(()) => {
                agenda.in_hand.clear();
                self.answer(Fate::Done, files.iter().map(ChangeFile::id).collect()).await;
            }
            Err(error) => {
                tracing::error!(table = %self.table, files = files.len(), error = error.report(), "files cannot be held");
                let left: Vec<FileId> = files.iter().skip(KEPT_MAX).map(ChangeFile::id).collect();
                left.iter().for_each(|file| _ = agenda.in_hand.remove(file));
                self.answer(Fate::Left, left).await;
            }
        }
    }

    async fn write_held(&self, agenda: &mut Agenda, files: &[ChangeFile]) -> Result<()> {
        let config = self.pipeline.config.table(&self.table).ok_or_else(|| Error::bug("an unlisted table was run"))?;
        let mut chain = match agenda.chain.take() {
            Some(chain) => chain,
            None => setup::table_ledger(&self.pipeline, &self.table, config).await?,
        };
        chain.hold(files).await?;
        agenda.chain = Some(chain);
        Ok(())
    }

    /// Gives back what is in hand; what the chain holds is read again with the next turn.
    async fn let_go(&mut self, agenda: &mut Agenda) {
        agenda.close();
        let files = std::mem::take(&mut agenda.in_hand).into_keys().collect();
        self.answer(Fate::GivenBack, files).await;
    }

    async fn answer(&self, fate: Fate, files: Vec<FileId>) {
        if !files.is_empty() {
            // Where nobody listens any more the daemon is at its end and gives everything back itself.
            let _ = self.answers.send(Answer { fate, files }).await;
        }
    }

    fn tell(&self, progress: &Progress<'_>) {
        self.pipeline.observer.tell(progress);
    }
}
