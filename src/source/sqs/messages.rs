//! The messages of the queue on their way through this process: received, held, hidden from others for as long as they
//! are held, and deleted or given back.
//!
//! Whatever a request brought is noted here before anything else is waited for. So a caller may stop waiting at any
//! moment, and the next call goes on with what is there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt, stream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::hand::Receipt;
use super::queue::{BATCH_MAX, Queue};
use super::state::{Counts, State};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::source::object::ObjectRules;
use crate::source::{Delivery, Received};

/// After a full batch so many more are asked for side by side.
const POLLS_MORE: usize = 8;
/// Most requests under way that delete messages or hide them for longer.
const REQUESTS_AT_ONCE_MAX: usize = 8;
/// How often in a row the deletion of messages is tried, and the pause before the second time; it doubles.
const DELETE_ROUNDS_MAX: u32 = 4;
const DELETE_PAUSE: Duration = Duration::from_millis(100);

/// The messages of one queue.
pub(super) struct Messages {
    queue: Box<dyn Queue>,
    rules: ObjectRules,
    /// How long a received message is hidden from others.
    visibility: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held while visibility is changed: an extension under way must not follow the giving back of its message.
    changing: tokio::sync::Mutex<()>,
    /// Held while messages are deleted.
    deleting: tokio::sync::Mutex<()>,
    /// Something was taken in hand.
    taken: Notify,
    /// What waited to be taken has been taken.
    emptied: Notify,
}

impl Messages {
    /// The messages of `queue`, received to be hidden for `visibility`, that tell of what `rules` take.
    pub(super) fn new(
        queue: Box<dyn Queue>,
        rules: ObjectRules,
        visibility: Duration,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue,
            rules,
            visibility,
            clock,
            state: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            deleting: tokio::sync::Mutex::default(),
            taken: Notify::new(),
            emptied: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far.
    pub(super) fn counts(&self) -> Counts {
        self.state().counts()
    }

    /// Receives what is there, and waits up to `wait` for a first message; how many came.
    pub(super) async fn poll(&self, wait: Duration) -> Result<usize> {
        let first = self.fetch(wait).await?;
        if first < BATCH_MAX {
            return Ok(first);
        }
        let more = join_all((0..POLLS_MORE).map(|_| self.fetch(Duration::ZERO))).await;
        // An error that lasts comes again with the next poll.
        Ok(first + more.into_iter().flatten().sum::<usize>())
    }

    async fn fetch(&self, wait: Duration) -> Result<usize> {
        let messages = self.queue.receive(wait, self.visibility).await?;
        let count = messages.len();
        let now = Instant::now();
        let mut state = self.state();
        for message in messages {
            state.note_wait(&message, self.clock.now());
            state.take(message, &self.rules, now, self.visibility);
        }
        drop(state);
        self.taken.notify_one();
        Ok(count)
    }

    /// Waits until no more than so many deliveries wait to be taken.
    pub(super) async fn until_room(&self, ready_max: usize) {
        loop {
            let emptied = self.emptied.notified();
            if self.ready() <= ready_max {
                return;
            }
            emptied.await;
        }
    }

    /// How many deliveries wait to be taken.
    pub(super) fn ready(&self) -> usize {
        self.state().ready.len()
    }

    /// All that waits to be taken.
    pub(super) fn take_ready(&self) -> Received {
        let mut state = self.state();
        let received = Received { deliveries: state.ready.drain(..).collect(), left: std::mem::take(&mut state.left) };
        drop(state);
        self.emptied.notify_one();
        received
    }

    /// Takes in what was found by listing; files in hand or done are left out.
    pub(super) fn offer(&self, deliveries: Vec<Delivery>, left: Vec<Error>) {
        self.state().offer(deliveries, left);
    }

    /// Puts deliveries back to be taken again.
    pub(super) fn return_ready(&self, deliveries: Vec<Delivery>) {
        self.state().ready.extend(deliveries);
    }

    /// Notes that these messages are done, and deletes all that are.
    pub(super) async fn finish(&self, ids: &[&str]) -> Result<()> {
        self.state().finish(ids);
        self.delete_done(DELETE_ROUNDS_MAX).await
    }

    /// Deletes what is of no use. What cannot be deleted now is tried again later.
    pub(super) async fn discard(&self) -> Result<()> {
        let has_done = self.state().hand.has_done();
        if !has_done {
            return Ok(());
        }
        match self.delete_done(1).await {
            Err(error) if error.kind() != Kind::User => {
                tracing::warn!(error = error.report(), "messages that are done with are not deleted yet");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Deletes the messages that are done, trying so often. What is left over stays noted and is tried again later.
    pub(super) async fn delete_done(&self, rounds_max: u32) -> Result<()> {
        let _alone = self.deleting.lock().await;
        let mut failed = None;
        for round in 0..rounds_max {
            let done = self.state().hand.done();
            if done.is_empty() {
                return Ok(());
            }
            if round > 0 {
                tokio::time::sleep(DELETE_PAUSE * 2_u32.saturating_pow(round - 1)).await;
            }
            failed = self.delete_all(&done).await;
            if failed.as_ref().is_some_and(|error| error.kind() == Kind::User) {
                break;
            }
        }
        match (self.state().hand.done().len(), failed) {
            (0, _) => Ok(()),
            (_, Some(error)) => Err(error),
            (count, None) => Err(Error::retry(format!("{count} messages could not be deleted from the queue"))
                .hint("they were received anew meanwhile; this is tried again")),
        }
    }

    async fn delete_all(&self, done: &[Receipt]) -> Option<Error> {
        let batches: Vec<_> = done.chunks(BATCH_MAX).map(|batch| self.delete(batch)).collect();
        let outcomes: Vec<Result<()>> = stream::iter(batches).buffer_unordered(REQUESTS_AT_ONCE_MAX).collect().await;
        outcomes.into_iter().find_map(Result::err)
    }

    async fn delete(&self, batch: &[Receipt]) -> Result<()> {
        let handles: Vec<String> = batch.iter().map(|receipt| receipt.handle.clone()).collect();
        let refusals = self.queue.delete(&handles).await?;
        let mut refused = None;
        let mut state = self.state();
        for (index, receipt) in batch.iter().enumerate() {
            match refusals.iter().find(|refusal| refusal.index == index) {
                Some(refusal) if !refusal.is_final => refused = Some(refusal.why.clone()),
                gone => state.deleted(receipt, gone),
            }
        }
        match refused {
            None => Ok(()),
            Some(why) => Err(Error::retry("a message could not be deleted from the queue").because(why)),
        }
    }

    /// Gives messages back, so that anybody can receive them at once.
    pub(super) async fn give_back(&self, ids: &[&str]) -> Result<()> {
        let _still = self.changing.lock().await;
        let released = self.release(ids);
        let batches: Vec<_> = released.chunks(BATCH_MAX).map(|batch| self.show(batch)).collect();
        let outcomes: Vec<Result<()>> = stream::iter(batches).buffer_unordered(REQUESTS_AT_ONCE_MAX).collect().await;
        outcomes.into_iter().collect()
    }

    async fn show(&self, batch: &[Receipt]) -> Result<()> {
        let handles: Vec<_> = batch.iter().map(|receipt| (receipt.handle.clone(), Duration::ZERO)).collect();
        let refusals = self.queue.change_visibility(&handles).await?;
        let shown = batch.len().saturating_sub(refusals.len());
        self.state().counts.given_back += u64::try_from(shown).unwrap_or(0);
        match refusals.into_iter().find(|refusal| !refusal.is_final) {
            None => Ok(()),
            Some(refusal) => Err(Error::retry("a message could not be given back to the queue").because(refusal.why)),
        }
    }

    /// Lets go of messages; those that were held.
    pub(super) fn release(&self, ids: &[&str]) -> Vec<Receipt> {
        let mut state = self.state();
        ids.iter().filter_map(|id| state.hand.release(id)).collect()
    }

    /// Waits until [`beat`](Self::beat) has something to do.
    pub(super) async fn until_due(&self) {
        loop {
            let next = self.state().next_due(Instant::now());
            let Some(next) = next else {
                self.taken.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => return,
                () = self.taken.notified() => {}
            }
        }
    }

    /// Hides from others for longer what has been in hand for half of its time, lets go of what cannot be hidden any
    /// longer, and tries again to delete what is done.
    pub(super) async fn beat(&self, now: Instant) {
        self.extend_due(now).await;
        if let Err(error) = self.discard().await {
            tracing::warn!(error = error.report(), "messages that are done with cannot be deleted");
        }
    }

    async fn extend_due(&self, now: Instant) {
        let _still = self.changing.lock().await;
        let (old, due) = self.state().due(now, self.visibility);
        if !old.is_empty() {
            tracing::warn!(
                messages = old.len(),
                first = old[0],
                "messages were in hand for almost 12 hours and will come again"
            );
        }
        let batches: Vec<_> = due.chunks(BATCH_MAX).map(|batch| self.extend(batch, now)).collect();
        stream::iter(batches).buffer_unordered(REQUESTS_AT_ONCE_MAX).collect::<Vec<()>>().await;
    }

    async fn extend(&self, batch: &[(Receipt, Duration)], now: Instant) {
        let handles: Vec<_> = batch.iter().map(|(receipt, hidden)| (receipt.handle.clone(), *hidden)).collect();
        let outcome = self.queue.change_visibility(&handles).await;
        let mut news = None;
        let mut state = self.state();
        for (index, (receipt, hidden)) in batch.iter().enumerate() {
            let (why, is_final) = match &outcome {
                Err(error) => (error.report(), false),
                Ok(refusals) => match refusals.iter().find(|refusal| refusal.index == index) {
                    Some(refusal) => (refusal.why.clone(), refusal.is_final),
                    None => {
                        state.hand.extended(receipt, now, *hidden);
                        state.counts.beats += 1;
                        continue;
                    }
                },
            };
            if state.hand.not_extended(receipt, now, is_final) {
                news = Some((receipt.id.clone(), why));
            }
        }
        drop(state);
        if let Some((message, why)) = news {
            tracing::warn!(message, why, "a message, perhaps others too, cannot be kept hidden and may come again");
        }
    }
}
