//! How long the daemon waits, and for what.

use std::time::Duration;

/// Pauses and patience; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The pause after a first failure; each further one is twice as long.
    pub pause: Duration,
    /// The longest pause between two tries of what may succeed at any time.
    pub pause_max: Duration,
    /// The pause before a stopped table is tried again; each further one is twice as long.
    pub stopped_pause: Duration,
    /// The longest pause between two tries of a stopped table.
    pub stopped_pause_max: Duration,
    /// A table fails this long, while none succeeds, before the circuit opens.
    pub opens_after: Duration,
    /// A table fails this long, while others succeed, before it is held.
    pub held_after: Duration,
    /// The circuit is open this long for one table alone before that is held.
    pub alone_max: Duration,
    /// How often a table looks into its chain for what other daemons left there.
    pub looks_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(15),
            stopped_pause: Duration::from_secs(60),
            stopped_pause_max: Duration::from_secs(900),
            opens_after: Duration::from_secs(10),
            held_after: Duration::from_secs(60),
            alone_max: Duration::from_secs(120),
            looks_every: Duration::from_secs(60),
        }
    }
}
