//! Lists the bucket from time to time, so that an event that was lost loses nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::messages::Messages;
use crate::error::{Error, Kind, Result};
use crate::source::{Delivery, Source};

/// How the receipts of files begin that were found by listing; no message id of a queue does.
const RECEIPT: &str = "sweep:";
/// More is found only when no more than this waits to be taken.
const READY_MAX: usize = 100;
/// After an error the listing begins again so soon.
const AGAIN: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Whether a delivery was found by listing.
pub(super) fn is_swept(delivery: &Delivery) -> bool {
    delivery.receipt.starts_with(RECEIPT)
}

/// Sweeps of one bucket.
pub(super) struct Sweep {
    listed: Box<dyn Source>,
    /// So many deliveries it brings at once, and fewer only where a listing has come to its end.
    full: usize,
    every: Duration,
    is_under_way: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Sweep {
    /// Sweeps of what `listed` delivers, beginning now, with such pauses between them. `listed` delivers each version
    /// of a file once, unless it is given back: `full` of them at once, and fewer at the end.
    pub(super) fn new(listed: Box<dyn Source>, full: usize, every: Duration) -> Arc<Self> {
        Arc::new(Self { listed, full, every, is_under_way: AtomicBool::new(true), failure: Mutex::default() })
    }

    /// Sweeps for ever.
    pub(super) async fn run(self: Arc<Self>, messages: Arc<Messages>) {
        loop {
            self.is_under_way.store(true, Ordering::SeqCst);
            let pause = match self.once(&messages).await {
                Ok(()) => self.every.max(PAUSE_MIN),
                Err(error) => self.fail(error),
            };
            self.is_under_way.store(false, Ordering::SeqCst);
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether files may still be found by the sweep that began last.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way.load(Ordering::SeqCst)
    }

    /// An error that somebody must mend, told once per sweep.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Lets go of files: the next sweep finds them again.
    pub(super) async fn leave(&self, deliveries: &[Delivery]) -> Result<()> {
        self.listed.give_back(deliveries).await
    }

    async fn once(&self, messages: &Messages) -> Result<()> {
        loop {
            messages.until_room(READY_MAX).await;
            let found = self.listed.receive().await?;
            let is_end = found.deliveries.len() < self.full;
            messages.offer(found.deliveries.into_iter().map(named).collect(), found.left);
            if is_end {
                return Ok(());
            }
        }
    }

    /// Tells an error; how long to wait for the next try.
    fn fail(&self, error: Error) -> Duration {
        if error.kind() == Kind::Retry {
            tracing::warn!(error = error.report(), "the bucket cannot be listed now");
        } else {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        AGAIN
    }
}

/// The delivery under a receipt that tells it from a message, and one version of an object from another.
fn named(delivery: Delivery) -> Delivery {
    let version = delivery.files.first().map_or_else(String::new, |file| format!("{} {}", file.location, file.version));
    Delivery { receipt: format!("{RECEIPT}{version}"), files: delivery.files }
}
