//! Tells the source what became of deliveries, apart from the rest of the daemon: a slow answer holds nobody up.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::source::{Delivery, Source};

/// Messages that may wait to be told.
const WAITING_MAX: usize = 64;
/// Most deliveries told of at once.
const TOLD_AT_ONCE_MAX: usize = 1_000;

/// What became of deliveries.
#[derive(Debug)]
enum Word {
    Done(Vec<Delivery>),
    GiveBack(Vec<Delivery>),
    Leave(Vec<Delivery>),
}

/// The task that speaks to the source.
pub(super) struct Teller {
    words: mpsc::Sender<Word>,
    task: JoinHandle<()>,
}

impl Teller {
    pub(super) fn start(source: Arc<dyn Source>) -> Self {
        let (words, heard) = mpsc::channel(WAITING_MAX);
        Self { words, task: tokio::spawn(speak(source, heard)) }
    }

    /// All files of these deliveries are done.
    pub(super) async fn done(&self, deliveries: Vec<Delivery>) {
        self.say(Word::Done(deliveries)).await;
    }

    /// These come again soon.
    pub(super) async fn give_back(&self, deliveries: Vec<Delivery>) {
        self.say(Word::GiveBack(deliveries)).await;
    }

    /// These come again when the source thinks fit.
    pub(super) async fn leave(&self, deliveries: Vec<Delivery>) {
        self.say(Word::Leave(deliveries)).await;
    }

    async fn say(&self, word: Word) {
        if !word.deliveries().is_empty() {
            // The task ends only with this sender.
            let _ = self.words.send(word).await;
        }
    }

    /// Waits until all is told, but not beyond the deadline.
    pub(super) async fn end(self, deadline: Instant) {
        drop(self.words);
        let task = self.task;
        let abort = task.abort_handle();
        if tokio::time::timeout_at(deadline, task).await.is_err() {
            abort.abort();
            tracing::warn!("the source was not told of all deliveries in time; they come again, harmlessly");
        }
    }
}

impl Word {
    fn deliveries(&self) -> &[Delivery] {
        let (Self::Done(deliveries) | Self::GiveBack(deliveries) | Self::Leave(deliveries)) = self;
        deliveries
    }
}

async fn speak(source: Arc<dyn Source>, mut heard: mpsc::Receiver<Word>) {
    let mut next = heard.recv().await;
    while let Some(word) = next.take() {
        let told = match word {
            Word::Done(mut deliveries) => {
                next = gather(&mut deliveries, &mut heard);
                source.acknowledge(&deliveries).await
            }
            Word::GiveBack(deliveries) => source.give_back(&deliveries).await,
            Word::Leave(deliveries) => source.leave(&deliveries).await,
        };
        warn(told);
        if next.is_none() {
            next = heard.recv().await;
        }
    }
}

/// Adds the deliveries of further words that wait, up to the first that says something else.
fn gather(deliveries: &mut Vec<Delivery>, heard: &mut mpsc::Receiver<Word>) -> Option<Word> {
    while deliveries.len() < TOLD_AT_ONCE_MAX {
        match heard.try_recv() {
            Ok(Word::Done(more)) => deliveries.extend(more),
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

fn warn(told: Result<(), Error>) {
    if let Err(error) = told {
        tracing::warn!(error = error.report(), "the source was not told; its deliveries come again, harmlessly");
    }
}
