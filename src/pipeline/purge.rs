//! Purges: tombstones from longer ago than the table's `late_horizon` are dropped, and no change of that age is taken from
//! then on.
//!
//! The time before which that is so stands in the table's chain before anything is dropped, see `src/ledger/state/purge.rs`.
//! It follows the changes that were carried, not the clock: where the source stood still nothing becomes too late.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::change;
use crate::config::{Mode, OnDelete};
use crate::error::{Kind, Result};
use crate::pipeline::report::Progress;
use crate::pipeline::table_run::TableRun;
use crate::trial::failpoint;

/// A purge is worth the work once it goes so many parts of the horizon further than the one before.
const STEPS: u32 = 10;
/// After one that failed none is thought of for so long.
const PAUSE: Duration = Duration::from_secs(3_600);

impl TableRun {
    /// Begins a purge that is due, and ends one that can be ended. It may as well be done another time.
    pub(super) async fn purge(&mut self) -> Result<()> {
        let now = self.pipeline.clock.now();
        if Instant::now() < self.purge_at || self.ledger.is_reload() {
            return Ok(());
        }
        match self.try_purge(now).await {
            Err(error) if error.kind() == Kind::Bug => Err(error),
            Err(error) => {
                self.purge_at = Instant::now() + PAUSE;
                let note = format!("tombstones cannot be purged now: {}", error.report());
                self.tell(&Progress::Note { table: &self.table, note: &note });
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn try_purge(&mut self, now: DateTime<Utc>) -> Result<()> {
        if let Some(horizon) = self.config.late_horizon
            && let Some(below_us) = self.purge_wanted(now, horizon).await?
        {
            self.ledger.begin_purge(below_us).await?;
            // From then on each round looks whether it can be ended.
            self.purge_at = Instant::now();
            failpoint::PURGE_WRITTEN.reached();
        }
        let state = self.ledger.state();
        let (Some((number, purge)), Some(rules)) = (state.due_purge(), state.rules()) else { return Ok(()) };
        let (purge, target) = (purge.clone(), self.target(rules));
        self.pipeline.sink.purge(&target, &purge, &self.session).await?;
        failpoint::PURGED.reached();
        self.ledger.finish_purge(number).await?;
        let below = i64::try_from(purge.below_us).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default();
        let note = format!("tombstones from before {} are dropped", below.format("%F %T UTC"));
        self.tell(&Progress::Note { table: &self.table, note: &note });
        Ok(())
    }

    /// Up to which time tombstones are to go, in µs since 1970; None where that is not worth a purge.
    async fn purge_wanted(&mut self, now: DateTime<Utc>, horizon: Duration) -> Result<Option<u64>> {
        let state = self.ledger.state();
        let (Some(rules), Some(opened), None) = (state.rules(), state.opened(), state.open_purge()) else {
            return Ok(None);
        };
        if rules.mode != Mode::Merge || rules.on_delete != OnDelete::Remove || state.is_closed() {
            return Ok(None);
        }
        // What lay there when the table was begun comes in any order, and has that long to be carried.
        let begun = DateTime::from_timestamp_millis(opened.opened_ms).unwrap_or(now);
        let horizon_us = u64::try_from(horizon.as_micros()).unwrap_or(u64::MAX);
        let least_us = state.purged_us().saturating_add(horizon_us / u64::from(STEPS)).saturating_add(horizon_us);
        let is_worth = |newest_us: u64| newest_us >= least_us;
        let newest_us = u64::try_from(state.newest_ms()).unwrap_or(0).saturating_mul(1_000);
        let begins = begun.checked_add_signed(TimeDelta::from_std(horizon).unwrap_or(TimeDelta::MAX));
        if begins.is_none_or(|begins| begins > now) || !is_worth(newest_us) {
            return Ok(None);
        }
        // Files tell when changes were written; how old they are the rows tell. What is from after now tells nothing.
        self.purge_at = Instant::now() + horizon / 100;
        let target = self.target(rules);
        let now_us = u64::try_from(now.timestamp_micros()).unwrap_or(0);
        let below = change::first_sequence(target.generation, now_us);
        let newest = self.pipeline.sink.newest(&target, &below, &self.session).await?;
        let newest_us = newest.as_deref().and_then(change::time_of).unwrap_or(0);
        Ok(is_worth(newest_us).then(|| newest_us - horizon_us))
    }
}
