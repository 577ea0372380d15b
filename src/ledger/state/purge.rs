//! What a state says of purges: which changes are too late, and when tombstones may go.

use super::State;
use crate::change::batch::{Attempt, Purge};
use crate::trial::planted::Planted;

impl State {
    /// No change from before this time, in µs since 1970, is taken any more, see [`Purge::below_us`]; 0: each is.
    pub fn purged_us(&self) -> u64 {
        self.open_purge().map_or(self.standing.purged_us, |(_, purge)| purge.below_us)
    }

    /// The purge that was begun and is not known to be done, with its number.
    pub fn open_purge(&self) -> Option<(u64, &Purge)> {
        self.standing.open_purge.as_ref().map(|(number, purge)| (*number, purge))
    }

    /// The purge whose tombstones nothing needs any more, with its number: all that was claimed before it is merged. That
    /// stays so, whatever comes after.
    pub fn due_purge(&self) -> Option<(u64, &Purge)> {
        let (number, purge) = self.open_purge()?;
        let is_open = self.open_intents.keys().next().is_some_and(|intent| *intent < number)
            || self.unmerged_below(number).next().is_some()
            || (self.standing.open_merge.as_ref()).is_some_and(|(_, merge)| merge.purged_us < purge.below_us);
        (!is_open || Planted::PurgeTooEarly.is_there()).then_some((number, purge))
    }

    /// The time of the newest change file that was committed, in ms since 1970; 0 where there is none.
    pub fn newest_ms(&self) -> i64 {
        self.standing.newest_ms
    }

    /// The batches that one merge may take, and the purge that each of their rows was held against: those from before an
    /// open purge first.
    pub(in crate::ledger) fn to_merge(&self) -> (Vec<(&Attempt, u64)>, u64) {
        if let Some((number, _)) = self.open_purge() {
            let before: Vec<_> = self.unmerged_below(number).collect();
            if !before.is_empty() {
                return (before, self.standing.purged_us);
            }
        }
        (self.unmerged().collect(), self.purged_us())
    }

    fn unmerged_below(&self, number: u64) -> impl Iterator<Item = (&Attempt, u64)> {
        self.unmerged.range(..number).map(|(_, (attempt, rows))| (attempt, *rows))
    }

    pub(super) fn check_purge(&self, purge: &Purge) -> Result<(), String> {
        if let Some((open, _)) = self.open_purge() {
            return Err(format!("it begins a purge while purge {open} is open"));
        }
        if purge.below_us <= self.standing.purged_us {
            return Err("it purges what is purged".into());
        }
        Ok(())
    }

    /// Ends a purge; one that was ended before stays as it is.
    pub(super) fn take_purged(&mut self, number: u64) {
        if let Some((_, done)) = self.standing.open_purge.take_if(|(open, _)| *open == number) {
            self.standing.purged_us = done.below_us;
        }
    }
}
