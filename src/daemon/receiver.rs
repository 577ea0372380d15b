//! The task that receives: only while the circuit is closed and there is room for more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::daemon::pace::Pace;
use crate::error::{Kind, Result};
use crate::source::{Received, Source};

/// What receiving takes.
pub(super) struct Receiver {
    pub(super) source: Arc<dyn Source>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pace: Pace,
    /// Whether the circuit is closed.
    pub(super) closed: watch::Receiver<bool>,
    pub(super) has_room: watch::Receiver<bool>,
    pub(super) arrivals: mpsc::Sender<Result<Received>>,
}

impl Receiver {
    /// Receives until nobody listens. The first call must succeed or be worth repeating; later ones are repeated
    /// whatever they say, as what they complain of may be mended.
    pub(super) async fn receive(mut self) {
        let (mut pause, mut first) = (self.pace.pause, true);
        while self.waits_until_it_may().await {
            let wait = match self.source.receive().await {
                Ok(received) => {
                    let wait = if received.deliveries.is_empty() { self.source.pause() } else { Duration::ZERO };
                    if self.arrivals.send(Ok(received)).await.is_err() {
                        return;
                    }
                    (pause, first) = (self.pace.pause, false);
                    wait
                }
                Err(error) if first && error.kind() != Kind::Retry => {
                    // Nobody listens only where the daemon ends anyway.
                    let _ = self.arrivals.send(Err(error)).await;
                    return;
                }
                Err(error) => {
                    tracing::error!(error = error.report(), "nothing can be received now");
                    let wait = self.clock.jittered(pause);
                    pause = (pause * 2).min(self.pace.pause_max);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits until it may receive; false where the daemon is at its end.
    async fn waits_until_it_may(&mut self) -> bool {
        self.has_room.wait_for(|yes| *yes).await.is_ok() && self.closed.wait_for(|yes| *yes).await.is_ok()
    }
}
