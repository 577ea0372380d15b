//! The daemon: receives change files as they come, carries each table's by its own worker, and tells the source
//! last.
//!
//! One task receives; one task per table works; this one keeps the account of what is in hand. Everything in hand
//! is bounded by `IN_HAND_MAX` files: beyond it nothing is received.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::change::{ChangeFile, TableName};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::pipeline::report::Progress;
use crate::source::{Delivery, Received, Source};
use crate::trial::planted::Planted;

mod agenda;
mod circuit;
mod flight;
mod pace;
mod receiver;
mod teller;
mod worker;

use agenda::Agenda;
use circuit::Circuit;
use flight::Flight;
use receiver::Receiver;
use teller::{Fate, Teller};
use worker::{Answer, Worker};

pub use pace::Pace;

/// Most files in hand before receiving waits.
const IN_HAND_MAX: usize = 10_000;
/// Answers of workers that may wait to be heard.
const ANSWERS_MAX: usize = 256;
/// Of the time a shutdown may take, what is kept for giving back.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// How often the daemon says how it stands.
const STANDING_EVERY: Duration = Duration::from_secs(60);

/// A batch as large as one may be takes so many shares of what `tables_at_once` gives, a small one takes one: most
/// of a small batch's time is waiting for answers, which takes nothing.
const SHARES: u16 = 16;

/// How many tables may run at once if their batches are small.
pub fn tables_at_once(config: &Config) -> usize {
    config.pipeline.tables_at_once.max(1).saturating_mul(usize::from(SHARES))
}

/// What the daemon did from its start to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Deliveries received.
    pub received: u64,
    /// Deliveries acknowledged.
    pub acknowledged: u64,
    /// Deliveries given back or left undone.
    pub given_back: u64,
    /// Files done: committed, held, or in another final state.
    pub files: u64,
}

/// Runs until it is told to end.
pub struct Daemon {
    pipeline: Pipeline,
    source: Arc<dyn Source>,
    circuit: Arc<Circuit>,
    /// Shares of what may run at once, see [`SHARES`].
    slots: Arc<Semaphore>,
    flight: Flight,
    workers: BTreeMap<TableName, mpsc::UnboundedSender<Vec<ChangeFile>>>,
    running: JoinSet<()>,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    has_room: watch::Sender<bool>,
    unlisted: BTreeSet<TableName>,
    totals: Totals,
    pace: Pace,
}

impl Daemon {
    /// A daemon that carries what `source` delivers.
    pub fn new(pipeline: Pipeline, source: Arc<dyn Source>, pace: Pace) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(tables_at_once(&pipeline.config))),
            pipeline,
            source,
            circuit: Arc::new(Circuit::new(pace)),
            flight: Flight::default(),
            workers: BTreeMap::new(),
            running: JoinSet::new(),
            answers: mpsc::channel(ANSWERS_MAX),
            has_room: watch::Sender::new(true),
            unlisted: BTreeSet::new(),
            totals: Totals::default(),
            pace,
        }
    }

    /// Runs until the pipeline's shutdown is asked for; then finishes what it can within `shutdown_grace`, and
    /// gives back the rest.
    ///
    /// # Errors
    /// Where the source can never be received from, or the ledger cannot be read, from the start.
    pub async fn run(mut self) -> Result<Totals> {
        for table in self.pipeline.ledger.tables().await? {
            // What an earlier run left open, or held, is looked after before anything arrives.
            if self.pipeline.config.table(&table).is_some() {
                self.worker(&table);
            }
        }
        let (received, mut arrivals) = mpsc::channel(1);
        let receiver = Receiver {
            source: Arc::clone(&self.source),
            clock: Arc::clone(&self.pipeline.clock),
            pace: self.pace,
            closed: self.circuit.closed(),
            has_room: self.has_room.subscribe(),
            arrivals: received,
        };
        let receiver = tokio::spawn(receiver.receive());
        let teller = Teller::start(Arc::clone(&self.source));
        let outcome = self.attend(&mut arrivals, &teller).await;
        receiver.abort();
        // Where it was aborted that is what it says.
        let _ = receiver.await;
        while let Ok(Ok(received)) = arrivals.try_recv() {
            // Nobody works on it any more: it is given back with the rest.
            self.totals.received += received.deliveries.len() as u64;
            received.deliveries.into_iter().for_each(|delivery| _ = self.flight.add(delivery));
        }
        self.end(teller).await;
        self.say_standing("ended");
        outcome.map(|()| self.totals)
    }

    /// Hears what arrives and what workers answer, until the shutdown.
    async fn attend(&mut self, arrivals: &mut mpsc::Receiver<Result<Received>>, teller: &Teller) -> Result<()> {
        let shutdown = self.pipeline.shutdown.clone();
        let mut standing = tokio::time::interval_at(Instant::now() + STANDING_EVERY, STANDING_EVERY);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(answer) = self.answers.1.recv() => self.hear(answer, teller).await,
                Some(ended) = self.running.join_next() => {
                    let error = Error::bug("a table's task ended before the daemon");
                    return Err(ended.err().map_or(error.clone(), |cause| error.because(cause)));
                }
                arrived = arrivals.recv() => match arrived {
                    Some(Ok(received)) => self.arrive(received, teller).await,
                    Some(Err(error)) => return Err(error),
                    None => return Err(Error::bug("the task that receives ended")),
                },
                _ = standing.tick() => self.say_standing("standing"),
            }
            self.has_room.send_if_modified(|known| {
                let room = self.flight.files() < IN_HAND_MAX;
                std::mem::replace(known, room) != room
            });
        }
    }

    async fn arrive(&mut self, received: Received, teller: &Teller) {
        for error in &received.left {
            self.pipeline.observer.tell(&Progress::Left { error });
        }
        let mut done = Vec::new();
        let mut work: BTreeMap<TableName, Vec<ChangeFile>> = BTreeMap::new();
        for delivery in received.deliveries {
            self.totals.received += 1;
            for file in self.flight.add(delivery) {
                if Planted::AcknowledgeBeforeCommit.is_there() {
                    done.push(file.id());
                }
                if self.is_listed(&file.table) {
                    work.entry(file.table.clone()).or_default().push(file);
                } else {
                    done.push(file.id());
                }
            }
        }
        for (table, files) in work {
            // A worker ends only with the daemon, and then everything is given back.
            let _ = self.worker(&table).send(files);
        }
        self.hear(Answer { fate: Fate::Done, files: done }, teller).await;
    }

    /// Whether the configuration lists the table; if not, that is told once.
    fn is_listed(&mut self, table: &TableName) -> bool {
        let listed = self.pipeline.config.table(table).is_some();
        if !listed && self.unlisted.insert(table.clone()) {
            let note = "`databases` does not list the table: its files are passed over";
            self.pipeline.observer.tell(&Progress::Note { table, note });
        }
        listed
    }

    fn worker(&mut self, table: &TableName) -> &mpsc::UnboundedSender<Vec<ChangeFile>> {
        self.workers.entry(table.clone()).or_insert_with(|| {
            let (files, inbox) = mpsc::unbounded_channel();
            let worker = Worker {
                pipeline: self.pipeline.clone(),
                table: table.clone(),
                inbox,
                answers: self.answers.0.clone(),
                slots: Arc::clone(&self.slots),
                circuit: Arc::clone(&self.circuit),
            };
            self.running.spawn(Box::pin(worker.work(Agenda::new(self.pace, Instant::now()))));
            files
        })
    }

    /// Has the source told what a worker says of files.
    async fn hear(&mut self, answer: Answer, teller: &Teller) {
        let Answer { fate, files } = answer;
        let deliveries = match fate {
            Fate::Done => {
                self.totals.files += files.len() as u64;
                self.flight.done(files)
            }
            Fate::GivenBack | Fate::Left => self.flight.drop_files(files),
        };
        self.tell(fate, deliveries, teller).await;
    }

    async fn tell(&mut self, fate: Fate, deliveries: Vec<Delivery>, teller: &Teller) {
        let total = match fate {
            Fate::Done => &mut self.totals.acknowledged,
            Fate::GivenBack | Fate::Left => &mut self.totals.given_back,
        };
        *total += deliveries.len() as u64;
        teller.tell(fate, deliveries).await;
    }

    /// Lets the workers finish their batches, as far as time allows, and gives back whatever is left.
    async fn end(&mut self, teller: Teller) {
        let grace = self.pipeline.config.pipeline.shutdown_grace;
        let end = Instant::now() + grace;
        self.pipeline.shutdown.cancel();
        self.workers.clear();
        if timeout_at(end - GIVING_BACK.min(grace / 2), self.finish(&teller)).await.is_err() {
            let tables = self.running.len();
            tracing::warn!(tables, "the time to finish is over; the next run finishes what is open");
        }
        self.running.shutdown().await;
        if timeout_at(end, self.give_back_rest(teller)).await.is_err() {
            tracing::warn!("the source does not answer in time; what was in hand comes again later, harmlessly");
        }
    }

    /// Hears the workers until the last has ended.
    async fn finish(&mut self, teller: &Teller) {
        loop {
            tokio::select! {
                biased;
                Some(answer) = self.answers.1.recv() => self.hear(answer, teller).await,
                ended = self.running.join_next() => if ended.is_none() {
                    return;
                },
            }
        }
    }

    async fn give_back_rest(&mut self, teller: Teller) {
        while let Ok(answer) = self.answers.1.try_recv() {
            self.hear(answer, &teller).await;
        }
        let rest = self.flight.take_all();
        self.tell(Fate::GivenBack, rest, &teller).await;
        teller.end().await;
        if let Err(error) = self.source.close().await {
            tracing::warn!(error = error.report(), "messages could not be given back; they come again later");
        }
    }

    fn say_standing(&self, what: &str) {
        let totals = self.totals;
        tracing::info!(
            received = totals.received,
            acknowledged = totals.acknowledged,
            given_back = totals.given_back,
            files_done = totals.files,
            files_in_hand = self.flight.files(),
            receiving = *self.circuit.closed().borrow(),
            "{what}"
        );
        self.source.say_standing();
    }
}

#[cfg(test)]
mod outage_tests;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;
