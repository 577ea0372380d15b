//! Waiting for what happens outside this process, which nothing tells of.

use std::time::Duration;

const ASKED_EVERY: Duration = Duration::from_millis(200);

/// Asks five times a second, and at most so many times, until it is so; whether it came to be so.
pub(crate) async fn until(asked_max: usize, mut is_so: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..asked_max {
        if is_so().await {
            return true;
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
    false
}
