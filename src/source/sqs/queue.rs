//! What is asked of a queue. Amazon's own is in `amazon.rs`; unit tests have one in memory.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::Result;

/// Most messages of one request of any kind:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>.
pub(super) const BATCH_MAX: usize = 10;

/// A queue of messages; every request names at most [`BATCH_MAX`] of them.
///
/// Errors are [`Retry`](crate::error::Kind::Retry) where the queue cannot be reached now, and
/// [`User`](crate::error::Kind::User) where it never will be.
#[async_trait]
pub(super) trait Queue: Send + Sync {
    /// How it is set up.
    async fn attributes(&self) -> Result<Attributes>;

    /// Receives messages, which nobody else receives for `visibility`. Waits up to `wait` for the first of them; zero
    /// looks only at a part of a large queue.
    async fn receive(&self, wait: Duration, visibility: Duration) -> Result<Vec<Message>>;

    /// Deletes the messages of these receipt handles; the refusals among them.
    async fn delete(&self, handles: &[String]) -> Result<Vec<Refusal>>;

    /// Lets nobody else receive the messages of these receipt handles for so long from now, zero being at once; the
    /// refusals among them.
    async fn change_visibility(&self, handles: &[(String, Duration)]) -> Result<Vec<Refusal>>;
}

/// How a queue is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    /// How long a received message is hidden, unless the request says otherwise.
    pub visibility: Duration,
    /// Whether messages that are received too often go to another queue.
    pub has_dead_letter_queue: bool,
}

/// A message as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// The same whenever it is received.
    pub id: String,
    /// Names this receipt of it.
    pub handle: String,
    /// Its text.
    pub body: String,
    /// When it was sent.
    pub sent: Option<DateTime<Utc>>,
}

/// One message of a batch with which a queue did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Which of the request's handles, from 0.
    pub index: usize,
    /// Whether it will be refused for ever: the handle is not the latest, or the message has gone.
    pub is_final: bool,
    /// The queue's own words.
    pub why: String,
}
