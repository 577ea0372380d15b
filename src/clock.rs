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
