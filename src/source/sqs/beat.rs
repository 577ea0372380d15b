//! Keeps messages in hand hidden from others for as long as they are worked on, so that a large file is not worked on
//! twice.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::messages::Messages;

/// A task in the background, which ends when this is dropped.
pub(super) struct Background(JoinHandle<()>);

impl Background {
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to keep messages hidden.
pub(super) fn begin(messages: Arc<Messages>) -> Background {
    Background::spawn(async move {
        loop {
            messages.until_due().await;
            messages.beat(Instant::now()).await;
        }
    })
}
