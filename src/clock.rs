//! Time and fresh ids come from here and nowhere else, so that a test can supply its own.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Where the program takes the time and fresh ids from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The present moment.
    fn now(&self) -> DateTime<Utc>;

    /// An id never handed out before, by this process or any other.
    fn fresh_id(&self) -> Uuid;

    /// A pause between half of `pause` and all of it, by chance, so that many who wait do not return at once.
    fn jittered(&self, pause: Duration) -> Duration {
        let chance = self.fresh_id().as_bytes()[15];
        pause.mul_f64(0.5 + f64::from(chance) / 510.0)
    }
}

/// The machine's own clock and randomness.
#[derive(Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The clock as the rest of the program wants it.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    fn fresh_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// A clock that stands where a test puts it, at first at the beginning of 1970, and counts its ids from 0.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct StillClock {
    now: std::sync::Mutex<DateTime<Utc>>,
    ids: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl StillClock {
    pub(crate) fn at(now: DateTime<Utc>) -> Self {
        Self { now: std::sync::Mutex::new(now), ..Self::default() }
    }

    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::default())
    }

    pub(crate) fn forward(&self, by: chrono::TimeDelta) {
        *self.now.lock().unwrap() += by;
    }
}

#[cfg(test)]
impl Clock for StillClock {
    fn now(&self) -> DateTime<Utc> {
        *self.now.lock().unwrap()
    }

    fn fresh_id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.ids.fetch_add(1, std::sync::atomic::Ordering::SeqCst)))
    }
}

/// Waits until something is so; where it is not so long after it should be, the test fails instead of waiting for ever.
#[cfg(test)]
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let waited = tokio::time::timeout(Duration::from_secs(60), async move {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let asked_at = std::panic::Location::caller();
    async move { assert!(waited.await.is_ok(), "{asked_at}: waited in vain until {what}") }
}
