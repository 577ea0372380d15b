//! A bound on how fast write streams are made: many tables and short batches must not use up Google's quota, which
//! would stop every table at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Streams that may be made at once after a quiet time.
const BURST: f64 = 200.0;
/// So many are kept for batches that have none yet.
const KEPT: f64 = BURST / 2.0;
/// Streams a second from then on: 9,000 an hour, where Google allows a project 10,000 in a region.
/// See <https://cloud.google.com/bigquery/quotas#write-api-limits>.
const A_SECOND: f64 = 2.5;

/// How many streams may be made now, and when the next.
#[derive(Debug)]
pub(super) struct StreamBudget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Below zero where some wait already.
    left: f64,
    /// When `left` was true.
    at: Option<Instant>,
}

impl StreamBudget {
    /// A full budget.
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { left: BURST, at: None }) }
    }

    /// Whether there are so many left that a batch may have more than one.
    pub(super) fn has_spare(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.left_at(Instant::now()) > KEPT
    }

    /// Waits until one more stream may be made.
    pub(super) async fn take(&self) {
        let wait = self.state.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if !wait.is_zero() {
            tracing::debug!(seconds = wait.as_secs_f64(), "waiting for the quota of new write streams");
            tokio::time::sleep(wait).await;
        }
    }
}

impl State {
    /// Takes one, and says how long it must wait.
    fn take(&mut self, now: Instant) -> Duration {
        self.left = self.left_at(now) - 1.0;
        self.at = Some(now);
        Duration::from_secs_f64((-self.left / A_SECOND).max(0.0))
    }

    fn left_at(&self, now: Instant) -> f64 {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (self.left + passed.as_secs_f64() * A_SECOND).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_is_free_and_what_follows_waits_its_turn() {
        let mut state = State { left: BURST, at: None };
        let now = Instant::now();
        assert!((0..200).all(|_| state.take(now).is_zero()));
        assert_eq!(state.take(now), Duration::from_millis(400));
        assert_eq!(state.take(now), Duration::from_millis(800));
    }

    #[tokio::test]
    async fn half_of_the_budget_is_kept_for_batches_that_have_no_stream() {
        let budget = StreamBudget::new();
        assert!(budget.has_spare());
        for _ in 0..120 {
            budget.take().await;
        }
        assert!(!budget.has_spare());
    }

    #[tokio::test]
    async fn no_hour_has_more_streams_than_google_allows() {
        let mut state = State { left: BURST, at: None };
        let start = Instant::now();
        let (mut now, mut made) = (start, 0);
        while now < start + Duration::from_secs(3_600) {
            now += state.take(now);
            made += 1;
        }
        assert!((9_000..=9_300).contains(&made), "{made}");
    }

    #[tokio::test]
    async fn a_quiet_time_fills_the_budget_and_no_more_than_that() {
        let mut state = State { left: -5.0, at: Some(Instant::now()) };
        let later = Instant::now() + Duration::from_secs(86_400);
        assert!((0..200).all(|_| state.take(later).is_zero()));
        assert!(!state.take(later).is_zero());
    }
}
