//! One batch's rows over as many streams as keep up with their making, as each waits for acknowledgements where too much of it
//! is on its way.
//!
//! See <https://cloud.google.com/bigquery/docs/write-api-best-practices>.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::append::Appender;
use super::encode::Message;
use super::staged::StagedStream;
use super::visible;
use super::write::WriteApi;
use crate::error::{Error, Result};
use crate::sink::Column;

/// Streams that one batch's rows go into at most.
pub(super) const STREAMS_MAX: usize = 4;
/// Messages that wait for a stream with room for them.
const QUEUED_MAX: usize = 4;

/// Streams of the table with this path for rows of these columns, whose schema is this IPC message; and where their messages
/// are handed over.
pub(super) fn begin<'a>(
    api: &'a WriteApi,
    table: &'a str,
    columns: &'a [Column],
    schema: Bytes,
) -> (Queue, Streams<'a>) {
    let (messages, queued) = mpsc::channel(QUEUED_MAX);
    let (more, made) = (Arc::new(Notify::new()), CancellationToken::new());
    let queue = Queue { messages, more: Arc::clone(&more), _made: made.clone().drop_guard() };
    (queue, Streams { api, table, columns, schema, queued: Mutex::new(queued), more, made })
}

/// Where messages are handed over; no more come once it is dropped.
pub(super) struct Queue {
    messages: mpsc::Sender<Message>,
    more: Arc<Notify>,
    _made: DropGuard,
}

impl Queue {
    /// Hands a message to the first stream that takes one.
    pub(super) async fn push(&self, message: Message) -> Result<()> {
        let Err(refused) = self.messages.try_send(message) else { return Ok(()) };
        self.more.notify_one();
        let sent = self.messages.send(refused.into_inner()).await;
        sent.map_err(|_| Error::bug("the streams of a batch ended before its rows"))
    }
}

/// The streams of one batch.
pub(super) struct Streams<'a> {
    api: &'a WriteApi,
    table: &'a str,
    columns: &'a [Column],
    schema: Bytes,
    queued: Mutex<mpsc::Receiver<Message>>,
    /// Messages come faster than the streams take them.
    more: Arc<Notify>,
    /// No more messages come.
    made: CancellationToken,
}

impl Streams<'_> {
    /// Puts each message into one of them, and finalizes those that have any.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where BigQuery does not take a row, [`Retry`](crate::error::Kind::Retry) where
    /// another time may do; what was written lapses.
    pub(super) async fn write(self) -> Result<Vec<StagedStream>> {
        let first = visible::stream_with(self.api, self.table, self.columns).await?;
        // What had to wait until now waited for the first stream to be made.
        let _ = self.more.notified().now_or_never();
        let (mut under_way, mut written) = (FuturesUnordered::new(), Vec::new());
        under_way.push(self.fill(first).boxed());
        loop {
            // One that could not be had does not count: while messages wait it is asked for again.
            let streams = under_way.len() + written.len();
            tokio::select! {
                () = self.more.notified(), if streams < STREAMS_MAX => under_way.push(self.further().boxed()),
                ended = under_way.next() => match ended {
                    Some(stream) => written.extend(stream?),
                    None => break,
                }
            }
        }
        Ok(written)
    }

    /// A further stream helps, and no row waits for it: where it cannot be made the others take all.
    async fn further(&self) -> Result<Option<StagedStream>> {
        if !self.api.budget.has_spare() {
            return Ok(None);
        }
        let made = tokio::select! {
            made = visible::stream_with(self.api, self.table, self.columns) => made,
            () = self.made.cancelled() => return Ok(None),
        };
        match made {
            Ok(name) => self.fill(name).await,
            Err(error) => {
                tracing::debug!(table = self.table, %error, "there is no further stream");
                // Until then it counts as one, so that the next message that waits does not ask at once.
                tokio::select! {
                    () = self.api.pause(self.api.pacing.tries_max) => {}
                    () = self.made.cancelled() => {}
                }
                if self.is_full() {
                    self.more.notify_one();
                }
                Ok(None)
            }
        }
    }

    /// Whether messages wait; whoever holds the lock waits for one.
    fn is_full(&self) -> bool {
        self.queued.try_lock().is_ok_and(|queued| queued.len() == QUEUED_MAX)
    }

    /// Takes messages as long as there are some, and acknowledgements while it waits for one. A stream without rows is left to
    /// lapse.
    async fn fill(&self, name: String) -> Result<Option<StagedStream>> {
        let mut appender = Appender::new(self.api, name.clone(), self.schema.clone());
        loop {
            tokio::select! {
                message = self.next() => match message {
                    Some(message) => appender.append(message).await?,
                    None => break,
                },
                answer = appender.answer(), if appender.is_waiting() => appender.take(answer).await?,
            }
        }
        let rows = appender.finish().await?;
        if rows == 0 {
            return Ok(None);
        }
        finalize(self.api, &name, rows).await?;
        Ok(Some(StagedStream { name, rows }))
    }

    async fn next(&self) -> Option<Message> {
        self.queued.lock().await.recv().await
    }
}

/// Ends a stream that must have this many rows.
///
/// # Errors
/// [`Retry`](crate::error::Kind::Retry) where it has others: it is left to lapse.
async fn finalize(api: &WriteApi, name: &str, rows: u64) -> Result<()> {
    let counted = api.patiently(|| api.finalize(name)).await?;
    let counted = counted.map_err(|refusal| refusal.error("a write stream cannot be finalized"))?;
    if u64::try_from(counted) == Ok(rows) {
        return Ok(());
    }
    Err(Error::retry(format!("a write stream has {counted} rows at BigQuery, but {rows} were sent")))
}
