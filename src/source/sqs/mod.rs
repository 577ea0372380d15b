//! Change files in S3, told of by an SQS queue, and found by listing where an event was lost.
//!
//! `event` and `contents` read a message; `hand` and `state` keep the books of messages received and not yet deleted;
//! `messages` does at the queue what the books say; `beat` and `sweep` run in the background.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use object_store::ObjectStore;

use super::bucket::{BucketSource, DELIVERIES_MAX};
use super::object::ObjectRules;
use super::{Delivery, Received, Source};
use crate::catalog::layout::Layout;
use crate::clock::Clock;
use crate::config::SourceConfig;
use crate::error::{Error, Result};
use crate::storage::{Aws, S3Location};

mod address;
mod amazon;
mod beat;
mod contents;
mod event;
#[cfg(test)]
pub(crate) mod fake;
mod hand;
mod messages;
mod queue;
mod recent;
mod state;
mod sweep;
#[cfg(test)]
mod tests;
mod trouble;

pub use state::Counts;

use address::Address;
use amazon::AmazonQueue;
use beat::Background;
use messages::Messages;
use queue::Queue;
use sweep::{Sweep, is_swept};

/// The longest poll there is:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html>.
const POLL: Duration = Duration::from_secs(20);
/// How long to wait for messages while the bucket is being listed.
const POLL_SWEEPING: Duration = Duration::from_secs(1);
/// Most polls of one `receive`: it goes on while messages come that deliver nothing.
const POLLS_MAX: usize = 100;
/// With so many deliveries that nobody took the queue is not asked for more.
const READY_MAX: usize = 5_000;
/// How long a received message is hidden at least and at most, however the queue is set up.
const VISIBILITY_MIN: Duration = Duration::from_secs(2);
const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 3_600);

/// The change files below a prefix of a bucket, of which a queue tells: S3's own events, or those that come through SNS
/// or EventBridge.
///
/// A delivery is a message, or one file that was found by listing. Messages are hidden from others while they are in
/// hand. What is not understood is left to the queue. Dropping a future of any method loses nothing.
pub struct SqsSource {
    messages: Arc<Messages>,
    sweep: Option<Arc<Sweep>>,
    store: Arc<dyn ObjectStore>,
    /// The work in the background ends with the source.
    _background: Vec<Background>,
}

impl SqsSource {
    /// The source that `config` describes, with the files that were last modified at `since` or later. Asks the queue
    /// how it is set up.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the queue or the bucket are not named as they must be, or the queue
    /// refuses; [`Retry`](crate::error::Kind::Retry) where it cannot be reached now.
    pub async fn open(
        config: &SourceConfig,
        layout: Layout,
        since: Option<DateTime<Utc>>,
        aws: &Aws,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let url =
            config.queue.as_deref().ok_or_else(|| Error::bug("a source without a queue is opened as one with"))?;
        let queue = AmazonQueue::new(&Address::parse(url)?, aws.sdk())?;
        let location = S3Location::parse(&config.files)?;
        let store = aws.bucket(location.bucket())?;
        let sweep = match config.sweep {
            None => None,
            Some(every) => {
                let listed = BucketSource::open(location.clone(), layout.clone(), since, aws)?;
                Some(Sweep::new(Box::new(listed), DELIVERIES_MAX, every))
            }
        };
        let rules = ObjectRules::new(location, layout, since);
        Self::start(Box::new(queue), rules, store, sweep, clock).await
    }

    async fn start(
        queue: Box<dyn Queue>,
        rules: ObjectRules,
        store: Arc<dyn ObjectStore>,
        sweep: Option<Arc<Sweep>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let attributes = queue.attributes().await?;
        if !attributes.has_dead_letter_queue {
            tracing::warn!(
                "the queue has no dead-letter queue: messages that cannot be used come again until they expire"
            );
        }
        let visibility = attributes.visibility.clamp(VISIBILITY_MIN, VISIBILITY_MAX);
        let messages = Messages::new(queue, rules, visibility, clock);
        let mut background = vec![beat::begin(Arc::clone(&messages))];
        if let Some(sweep) = &sweep {
            background.push(Background::spawn(Arc::clone(sweep).run(Arc::clone(&messages))));
        }
        Ok(Self { messages, sweep, store, _background: background })
    }

    /// What happened at the queue so far.
    pub fn counts(&self) -> Counts {
        self.messages.counts()
    }

    fn is_sweeping(&self) -> bool {
        self.sweep.as_ref().is_some_and(|sweep| sweep.is_under_way())
    }

    /// How long to wait for a message: not long where there is something to deliver already, or will be.
    fn patience(&self) -> Duration {
        match (self.messages.ready(), self.is_sweeping()) {
            (1.., _) => Duration::ZERO,
            (0, true) => POLL_SWEEPING,
            (0, false) => POLL,
        }
    }
}

#[async_trait]
impl Source for SqsSource {
    async fn receive(&self) -> Result<Received> {
        if let Some(error) = self.sweep.as_ref().and_then(|sweep| sweep.take_failure()) {
            return Err(error);
        }
        for _ in 0..POLLS_MAX {
            if self.messages.ready() >= READY_MAX {
                break;
            }
            let came = self.messages.poll(self.patience()).await?;
            self.messages.discard().await?;
            let is_sweeping = self.is_sweeping();
            if self.messages.ready() > 0 || (came == 0 && !is_sweeping) {
                break;
            }
        }
        Ok(self.messages.take_ready())
    }

    /// Deletes the messages. One that was received by another meanwhile comes again there. What could not be deleted
    /// is tried again in the background, and if it comes again it is not delivered again.
    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()> {
        self.messages.finish(&receipts(deliveries)).await
    }

    /// Files that were found by listing are delivered again by the next `receive`.
    async fn give_back(&self, deliveries: &[Delivery]) -> Result<()> {
        self.messages.return_ready(deliveries.iter().filter(|delivery| is_swept(delivery)).cloned().collect());
        self.messages.give_back(&receipts(deliveries)).await
    }

    /// Messages come again when the time has passed for which they are hidden, files that were found by listing with
    /// the next one.
    async fn leave(&self, deliveries: &[Delivery]) -> Result<()> {
        self.messages.release(&receipts(deliveries));
        let swept: Vec<Delivery> = deliveries.iter().filter(|delivery| is_swept(delivery)).cloned().collect();
        match &self.sweep {
            Some(sweep) if !swept.is_empty() => sweep.leave(&swept).await,
            _ => Ok(()),
        }
    }

    async fn close(&self) -> Result<()> {
        let rest = self.messages.take_ready();
        self.messages.give_back(&receipts(&rest.deliveries)).await
    }

    fn say_standing(&self) {
        self.counts().say();
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    fn pause(&self) -> Duration {
        Duration::ZERO
    }
}

/// The ids of the messages among these deliveries.
fn receipts(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().filter(|delivery| !is_swept(delivery)).map(|delivery| delivery.receipt.as_str()).collect()
}
