//! One table's task in the daemon: it gathers files, carries them batch by batch as slots come free, merges when
//! that is due, and knows how to wait, to let go and to be held.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::batch;
use crate::change::{ChangeFile, FileId, TableName};
use crate::daemon::circuit::{Circuit, Verdict};
use crate::daemon::pace::Pace;
use crate::error::{Error, Kind, Result};
use crate::pipeline::Pipeline;
use crate::pipeline::report::{Progress, TableReport};
use crate::pipeline::setup;
use crate::pipeline::table_run::{Merging, TableRun};

/// Tries of a file that cannot be read before it is let go, to come again when its source thinks fit.
const UNREAD_TRIES_MAX: u32 = 8;
/// Files of a table that can neither be carried nor held which stay in hand.
const KEPT_MAX: usize = 1_000;

/// What a worker tells the daemon about files that it had in hand.
#[derive(Debug)]
pub(super) enum Answer {
    /// They are done, or held in the table's chain.
    Done(Vec<FileId>),
    /// They are to be given back: another process may do better.
    LetGo(Vec<FileId>),
    /// They are to come again when their source thinks fit.
    Leave(Vec<FileId>),
}

/// A table's task.
pub(super) struct Worker {
    pub(super) pipeline: Pipeline,
    pub(super) table: TableName,
    pub(super) inbox: mpsc::UnboundedReceiver<Vec<ChangeFile>>,
    pub(super) answers: mpsc::Sender<Answer>,
    /// As many as tables may run side by side.
    pub(super) slots: Arc<Semaphore>,
    pub(super) circuit: Arc<Circuit>,
    pub(super) pace: Pace,
}

/// What the task remembers between its turns.
struct Memory {
    pace: Pace,
    run: Option<TableRun>,
    in_hand: HashMap<FileId, Waiting>,
    /// When the first of the files that may be carried now arrived.
    since: Option<Instant>,
    /// No turn before this moment, after a failure.
    not_before: Instant,
    pause: Duration,
    /// Whether the table is held: new files go into its chain.
    held: bool,
    merge_at: Option<Instant>,
    merged_at: Option<Instant>,
    /// Whether a turn is due although no file is.
    turn_due: bool,
}

/// A file in hand.
struct Waiting {
    file: ChangeFile,
    /// How often it could not be read, and when it may be tried again.
    unread: u32,
    not_before: Instant,
}

impl Worker {
    /// Works until the daemon shuts down.
    pub(super) async fn work(mut self) {
        let mut memory = Memory::new(self.pace, Instant::now());
        let mut closed = self.circuit.closed();
        let shutdown = self.pipeline.shutdown.clone();
        loop {
            let due = if self.circuit.lets(&self.table) { memory.due(&self.pipeline) } else { None };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.turn(&mut memory).await;
                }
                files = self.inbox.recv() => match files {
                    Some(files) => self.arrive(&mut memory, files).await,
                    None => return,
                },
                changed = closed.changed() => match changed {
                    Ok(()) => memory.turn_due |= memory.run.is_none(),
                    Err(_) => return,
                },
            }
        }
    }

    async fn arrive(&mut self, memory: &mut Memory, files: Vec<ChangeFile>) {
        memory.take_in_hand(files, Instant::now());
        if memory.held {
            self.hold(memory).await;
        } else if !self.circuit.lets(&self.table) {
            self.let_go(memory).await;
        }
    }

    /// Carries one batch, or merges, or looks after what is open.
    async fn turn(&mut self, memory: &mut Memory) {
        let slots = Arc::clone(&self.slots);
        let slot = tokio::select! {
            slot = slots.acquire_owned() => slot,
            () = self.pipeline.shutdown.cancelled() => return,
        };
        if !self.circuit.lets(&self.table) {
            return;
        }
        while let Ok(files) = self.inbox.try_recv() {
            memory.take_in_hand(files, Instant::now());
        }
        let mut report = TableReport::default();
        let outcome = match AssertUnwindSafe(self.round(memory, &mut report)).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::bug("the table's run broke down")),
        };
        drop(slot);
        self.settle(memory, outcome.map_err(|error| error.in_table(&self.table))).await;
    }

    async fn round(&mut self, memory: &mut Memory, report: &mut TableReport) -> Result<()> {
        let now = Instant::now();
        if memory.run.is_none() {
            let runtime = setup::runtime(&self.pipeline.config, self.pipeline.memory.table_pool())?;
            let mut run = TableRun::open(self.pipeline.clone(), &self.table, runtime).await?;
            let held = run.ledger().state().held().cloned().collect();
            memory.run = Some(run);
            memory.take_in_hand(held, now);
        }
        let files = memory.next_batch(&self.table, &self.pipeline, now);
        let merging = memory.merging(now);
        let Some(run) = &mut memory.run else { return Err(Error::bug("a table was to run that is not open")) };
        run.round(files, merging, report).await
    }

    /// Draws the consequences of a round.
    async fn settle(&mut self, memory: &mut Memory, outcome: Result<()>) {
        let now = Instant::now();
        let (finished, left) = match &mut memory.run {
            Some(run) => (run.take_finished(), run.take_left()),
            None => Default::default(),
        };
        let progressed = !finished.is_empty();
        memory.turn_due = false;
        memory.forget(&finished);
        self.answer(Answer::Done(finished.into_iter().collect())).await;
        let given_up = memory.put_off(&left, now);
        self.answer(Answer::Leave(given_up)).await;
        match outcome {
            Ok(()) if !left.is_empty() && !progressed => {
                let error = Error::retry("none of the batch's files can be read now").in_table(&self.table);
                self.failed(memory, error).await;
            }
            Ok(()) => {
                self.circuit.succeeded(&self.table, now);
                memory.succeeded(now, self.pipeline.config.pipeline.merge_every);
            }
            Err(error) if matches!(error.kind(), Kind::Retry | Kind::Fenced) => self.failed(memory, error).await,
            Err(error) => self.stop(memory, error).await,
        }
    }

    /// Something failed that may succeed at any time.
    async fn failed(&mut self, memory: &mut Memory, error: Error) {
        let now = Instant::now();
        match self.circuit.failed(&self.table, now) {
            Verdict::TryAgain => {
                self.tell(&Progress::Failing { table: &self.table, error: &error, pause: memory.pause });
                memory.wait(self.pipeline.clock.jittered(memory.pause), now);
                memory.pause = (memory.pause * 2).min(self.pace.pause_max);
            }
            Verdict::LetGo => self.let_go(memory).await,
            Verdict::Hold => self.stop(memory, error).await,
        }
    }

    /// The table stops: its files are held, and it is tried again later.
    async fn stop(&mut self, memory: &mut Memory, error: Error) {
        self.tell(&Progress::TableStopped { table: &self.table, error: &error });
        memory.stop(Instant::now());
        self.hold(memory).await;
    }

    /// Writes what is in hand into the table's chain, from where it comes back.
    async fn hold(&mut self, memory: &mut Memory) {
        if memory.in_hand.is_empty() {
            return;
        }
        let files: Vec<ChangeFile> = memory.in_hand.values().map(|waiting| waiting.file.clone()).collect();
        match self.write_held(&files).await {
            Ok(()) => {
                memory.in_hand.clear();
                self.answer(Answer::Done(files.iter().map(ChangeFile::id).collect())).await;
            }
            Err(error) => {
                tracing::error!(table = %self.table, files = files.len(), error = error.report(), "files cannot be held");
                let left: Vec<FileId> = files.iter().skip(KEPT_MAX).map(ChangeFile::id).collect();
                left.iter().for_each(|file| _ = memory.in_hand.remove(file));
                self.answer(Answer::Leave(left)).await;
            }
        }
    }

    async fn write_held(&self, files: &[ChangeFile]) -> Result<()> {
        let config = self.pipeline.config.table(&self.table).ok_or_else(|| Error::bug("an unlisted table was run"))?;
        let mut ledger = setup::table_ledger(&self.pipeline, &self.table, config).await?;
        ledger.hold(files).await
    }

    /// Gives back what is in hand; what the chain holds is read again with the next turn.
    async fn let_go(&mut self, memory: &mut Memory) {
        memory.run = None;
        memory.since = None;
        let files = memory.in_hand.drain().map(|(file, _)| file).collect();
        self.answer(Answer::LetGo(files)).await;
    }

    async fn answer(&self, answer: Answer) {
        let (Answer::Done(files) | Answer::LetGo(files) | Answer::Leave(files)) = &answer;
        if !files.is_empty() {
            // Where nobody listens any more the daemon is at its end and gives everything back itself.
            let _ = self.answers.send(answer).await;
        }
    }

    fn tell(&self, progress: &Progress<'_>) {
        self.pipeline.observer.tell(progress);
    }
}

impl Memory {
    fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            run: None,
            in_hand: HashMap::new(),
            since: None,
            not_before: now,
            pause: pace.pause,
            held: false,
            merge_at: None,
            merged_at: None,
            // What an earlier run left open is looked after at once.
            turn_due: true,
        }
    }

    /// When the next turn is due; None while there is nothing to do.
    fn due(&self, pipeline: &Pipeline) -> Option<Instant> {
        let limits = &pipeline.config.pipeline.limits;
        let bytes: u64 = self.in_hand.values().map(|waiting| waiting.file.size).sum();
        let full = self.in_hand.len() >= limits.files_max || bytes >= limits.bytes_max;
        let wait = if full { Duration::ZERO } else { limits.age_max };
        let put_off =
            self.in_hand.values().filter(|waiting| waiting.unread > 0).map(|waiting| waiting.not_before).min();
        let now = (self.turn_due || self.held).then_some(self.not_before);
        let first = [now, self.since.map(|since| since + wait), put_off, self.merge_at].into_iter().flatten().min();
        first.map(|due| due.max(self.not_before))
    }

    fn take_in_hand(&mut self, files: Vec<ChangeFile>, now: Instant) {
        for file in files {
            self.in_hand.entry(file.id()).or_insert(Waiting { file, unread: 0, not_before: now });
            self.since.get_or_insert(now);
        }
    }

    /// The files to carry now: one batch of those that may be tried.
    fn next_batch(&mut self, table: &TableName, pipeline: &Pipeline, now: Instant) -> Vec<ChangeFile> {
        let ready = self.in_hand.values().filter(|waiting| waiting.not_before <= now);
        let ready = ready.map(|waiting| waiting.file.clone()).collect();
        let mut batches = batch::cut(table, ready, &pipeline.config.pipeline.limits).into_iter();
        let first = batches.next().map(|batch| batch.files).unwrap_or_default();
        self.since = batches.next().map(|_| now);
        first
    }

    /// Whether a merge is due now; it then counts as made.
    fn merging(&mut self, now: Instant) -> Merging {
        if self.merge_at.is_none_or(|at| at > now) {
            return Merging::Later;
        }
        self.merge_at = None;
        self.merged_at = Some(now);
        Merging::Now
    }

    fn forget<'a>(&mut self, files: impl IntoIterator<Item = &'a FileId>) {
        files.into_iter().for_each(|file| _ = self.in_hand.remove(file));
    }

    /// Files that could not be read are tried again by themselves; returns those that are given up.
    fn put_off(&mut self, files: &[ChangeFile], now: Instant) -> Vec<FileId> {
        let mut given_up = Vec::new();
        for file in files.iter().map(ChangeFile::id) {
            let Some(waiting) = self.in_hand.get_mut(&file) else { continue };
            waiting.unread += 1;
            waiting.not_before = now + (self.pace.pause * (1 << waiting.unread.min(6))).min(self.pace.pause_max);
            // What waits in the chain has no other place to come from.
            let held = self.run.as_mut().is_some_and(|run| run.ledger().state().is_held(file));
            if waiting.unread >= UNREAD_TRIES_MAX && !held {
                self.in_hand.remove(&file);
                given_up.push(file);
            }
        }
        given_up
    }

    fn succeeded(&mut self, now: Instant, merge_every: Duration) {
        self.pause = self.pace.pause;
        self.held = false;
        if self.run.as_ref().is_some_and(TableRun::has_unmerged) {
            self.merge_at.get_or_insert(self.merged_at.map_or(now, |merged| merged + merge_every));
        }
        self.keep_waiting(now);
    }

    /// After a turn in which not all was done, what is left waits its time.
    fn wait(&mut self, pause: Duration, now: Instant) {
        self.not_before = now + pause;
        self.turn_due = true;
        self.keep_waiting(now);
    }

    fn keep_waiting(&mut self, now: Instant) {
        if self.in_hand.values().any(|waiting| waiting.unread == 0) {
            self.since.get_or_insert(now);
        }
    }

    fn stop(&mut self, now: Instant) {
        let pause = if self.held { (self.pause * 2).min(self.pace.stopped_pause_max) } else { self.pace.stopped_pause };
        self.run = None;
        self.since = None;
        self.merge_at = None;
        self.held = true;
        self.pause = pause;
        self.not_before = now + pause;
    }
}
