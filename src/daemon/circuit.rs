//! Whether the daemon receives: while what it needs is out of order it does not, so that nothing is received
//! again and again until the queue gives it up.
//!
//! One table that fails while others succeed is that table's own trouble. Where nothing succeeds, the circuit opens:
//! receiving stops, and one table that failed keeps trying with what it has in hand, the *probe*. The others begin
//! nothing; one that fails meanwhile, or is brought files, lets go of what it has. The probe's success closes the
//! circuit. If after a while the probe is still the only table known to fail, the trouble may be its own: it is held,
//! and the circuit closes to see.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::change::TableName;
use crate::daemon::pace::Pace;

/// What a table that failed does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It tries again with what it has in hand.
    TryAgain,
    /// It lets go of what it has in hand, and waits.
    LetGo,
    /// It is held: its files go into its chain, and it tries again from there, later.
    Hold,
}

/// The circuit of one daemon.
#[derive(Debug)]
pub(super) struct Circuit {
    pace: Pace,
    state: Mutex<State>,
    closed: watch::Sender<bool>,
    /// Tells tables of every change, in the order in which they began to listen: in another, no simulation would replay
    /// alike.
    turned: broadcast::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// When each failing table failed first.
    failing: BTreeMap<TableName, Instant>,
    last_success: Option<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    probe: TableName,
    since: Instant,
}

impl Circuit {
    pub(super) fn new(pace: Pace) -> Self {
        let (closed, turned) = (watch::Sender::new(true), broadcast::Sender::new(1));
        Self { pace, state: Mutex::default(), closed, turned }
    }

    /// Says whether the circuit is closed, and when that changes.
    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Says whenever the circuit was opened or closed; of several times at once it may tell the last one only.
    pub(super) fn turned(&self) -> broadcast::Receiver<()> {
        self.turned.subscribe()
    }

    /// Whether a table may begin to carry something: all may while the circuit is closed, then the probe alone.
    pub(super) fn lets(&self, table: &TableName) -> bool {
        self.locked().open.as_ref().is_none_or(|open| open.probe == *table)
    }

    /// A table's step failed for a reason that may pass.
    pub(super) fn failed(&self, table: &TableName, now: Instant) -> Verdict {
        let mut state = self.locked();
        let first = *state.failing.entry(table.clone()).or_insert(now);
        let (verdict, closed) = state.judge(table, first, now, &self.pace);
        drop(state);
        self.tell(closed);
        verdict
    }

    /// A table's step succeeded.
    pub(super) fn succeeded(&self, table: &TableName, now: Instant) {
        let mut state = self.locked();
        state.failing.remove(table);
        state.last_success = Some(now);
        if state.open.take().is_some() {
            // What failed while the circuit was open proves nothing against its tables.
            state.failing.clear();
        }
        drop(state);
        self.tell(true);
    }

    /// A table will neither fail nor succeed for a while: it stopped, or has nothing to do. So it is no probe, and
    /// if it was, the others are let to see for themselves.
    pub(super) fn rests(&self, table: &TableName) {
        let mut state = self.locked();
        state.failing.remove(table);
        let probed = state.open.take_if(|open| open.probe == *table).is_some();
        drop(state);
        if probed {
            self.tell(true);
        }
    }

    fn tell(&self, closed: bool) {
        if self.closed.send_if_modified(|known| std::mem::replace(known, closed) != closed) {
            // Nobody need listen.
            let _ = self.turned.send(());
            if closed {
                tracing::info!("receiving again");
            } else {
                tracing::warn!("nothing succeeds: receiving stops until something does");
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the table does, and whether the circuit is closed from now on.
    fn judge(&mut self, table: &TableName, first: Instant, now: Instant, pace: &Pace) -> (Verdict, bool) {
        let failing_for = now.duration_since(first);
        let others_succeed = self.last_success.is_some_and(|success| success > first);
        match &self.open {
            Some(open) if open.probe != *table => (Verdict::LetGo, false),
            Some(open) if self.failing.len() == 1 && now.duration_since(open.since) >= pace.alone_max => {
                self.failing.clear();
                self.open = None;
                (Verdict::Hold, true)
            }
            Some(_) => (Verdict::TryAgain, false),
            None if others_succeed && failing_for >= pace.held_after => {
                self.failing.remove(table);
                (Verdict::Hold, true)
            }
            None if !others_succeed && failing_for >= pace.opens_after => {
                self.open = Some(Open { probe: table.clone(), since: now });
                (Verdict::TryAgain, false)
            }
            None => (Verdict::TryAgain, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn table(name: &str) -> TableName {
        TableName::new("db", name)
    }

    /// A circuit with a moment from which its steps are told in seconds.
    struct Bench(Circuit, Instant);

    impl Bench {
        fn new() -> Self {
            Self(Circuit::new(Pace::default()), Instant::now())
        }

        fn at(&self, seconds: u64) -> Instant {
            self.1 + Duration::from_secs(seconds)
        }

        fn fails(&self, name: &str, seconds: u64) -> Verdict {
            self.0.failed(&table(name), self.at(seconds))
        }

        fn succeeds(&self, name: &str, seconds: u64) {
            self.0.succeeded(&table(name), self.at(seconds));
        }

        fn is_closed(&self) -> bool {
            *self.0.closed().borrow()
        }
    }

    #[test]
    fn where_nothing_succeeds_the_circuit_opens_and_one_table_probes() {
        let bench = Bench::new();
        assert_eq!(bench.fails("a", 0), Verdict::TryAgain);
        assert_eq!(bench.fails("b", 2), Verdict::TryAgain);
        assert!(bench.is_closed());
        assert_eq!(bench.fails("a", 11), Verdict::TryAgain);
        assert!(!bench.is_closed());
        assert_eq!(bench.fails("b", 12), Verdict::LetGo);
        assert!(bench.0.lets(&table("a")) && !bench.0.lets(&table("b")));
        assert_eq!(bench.fails("a", 6 * 3_600), Verdict::TryAgain, "however long the outage lasts");
        bench.succeeds("a", 6 * 3_600 + 1);
        assert!(bench.is_closed() && bench.0.lets(&table("b")));
    }

    #[test]
    fn a_table_that_fails_while_others_succeed_is_held_and_stops_nobody() {
        let bench = Bench::new();
        for second in 0..60 {
            assert_eq!(bench.fails("bad", second), Verdict::TryAgain);
            bench.succeeds("good", second);
            assert!(bench.is_closed());
        }
        assert_eq!(bench.fails("bad", 60), Verdict::Hold);
        assert!(bench.is_closed());
        assert_eq!(bench.fails("bad", 61), Verdict::TryAgain, "it begins anew");
    }

    #[test]
    fn a_table_that_fails_alone_is_held_after_a_while_and_the_others_go_on() {
        let bench = Bench::new();
        bench.fails("bad", 0);
        bench.fails("bad", 10);
        assert!(!bench.is_closed());
        assert_eq!(bench.fails("bad", 129), Verdict::TryAgain);
        assert_eq!(bench.fails("bad", 130), Verdict::Hold);
        assert!(bench.is_closed());
    }

    #[test]
    fn a_probe_that_rests_leaves_the_probing_to_others() {
        let bench = Bench::new();
        bench.fails("a", 0);
        bench.fails("a", 10);
        bench.0.rests(&table("b"));
        assert!(!bench.is_closed(), "only the probe counts");
        bench.0.rests(&table("a"));
        assert!(bench.is_closed() && bench.0.lets(&table("b")));
        bench.fails("b", 20);
        assert_eq!(bench.fails("b", 30), Verdict::TryAgain);
        assert!(!bench.is_closed(), "nothing had succeeded: another probes");
    }

    #[test]
    fn a_success_starts_the_time_anew() {
        let bench = Bench::new();
        bench.fails("a", 0);
        bench.succeeds("a", 5);
        assert_eq!(bench.fails("a", 11), Verdict::TryAgain);
        assert!(bench.is_closed());
    }
}
