//! Tells the source what became of deliveries, apart from the rest of the daemon: a slow answer holds nobody up.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::Result;
use crate::source::{Delivery, Source};
use crate::trial::failpoint;

/// Words that may wait to be told.
const WAITING_MAX: usize = 64;
/// Most deliveries told of at once.
const TOLD_AT_ONCE_MAX: usize = 1_000;

/// What becomes of files in hand, and of the deliveries that wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are done, or held in the table's chain.
    Done,
    /// They are to come again soon: another process may do better.
    GivenBack,
    /// They are to come again when their source thinks fit.
    Left,
}

/// The fate of these deliveries.
type Word = (Fate, Vec<Delivery>);

/// The task that speaks to the source; it ends with this.
pub(super) struct Teller {
    words: mpsc::Sender<Word>,
    speaking: JoinSet<()>,
}

impl Teller {
    pub(super) fn start(source: Arc<dyn Source>) -> Self {
        let (words, heard) = mpsc::channel(WAITING_MAX);
        let mut speaking = JoinSet::new();
        speaking.spawn(speak(source, heard));
        Self { words, speaking }
    }

    pub(super) async fn tell(&self, fate: Fate, deliveries: Vec<Delivery>) {
        if !deliveries.is_empty() {
            // The task ends only with this sender.
            let _ = self.words.send((fate, deliveries)).await;
        }
    }

    /// Waits until all is told.
    pub(super) async fn end(self) {
        let Self { words, mut speaking } = self;
        drop(words);
        speaking.join_next().await;
    }
}

async fn speak(source: Arc<dyn Source>, mut heard: mpsc::Receiver<Word>) {
    let mut next = heard.recv().await;
    while let Some((fate, mut deliveries)) = next {
        next = gather(fate, &mut deliveries, &mut heard);
        let told = match fate {
            Fate::Done => acknowledge(source.as_ref(), &deliveries).await,
            Fate::GivenBack => source.give_back(&deliveries).await,
            Fate::Left => source.leave(&deliveries).await,
        };
        if let Err(error) = told {
            tracing::warn!(error = error.report(), "the source was not told; its deliveries come again, harmlessly");
        }
        if next.is_none() {
            next = heard.recv().await;
        }
    }
}

async fn acknowledge(source: &dyn Source, deliveries: &[Delivery]) -> Result<()> {
    failpoint::ACKNOWLEDGE_BEGINS.reached();
    source.acknowledge(deliveries).await?;
    failpoint::ACKNOWLEDGED.reached();
    Ok(())
}

/// Adds the deliveries of further words that wait, up to the first of another fate.
fn gather(fate: Fate, deliveries: &mut Vec<Delivery>, heard: &mut mpsc::Receiver<Word>) -> Option<Word> {
    while deliveries.len() < TOLD_AT_ONCE_MAX {
        match heard.try_recv() {
            Ok((same, more)) if same == fate => deliveries.extend(more),
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}
