//! Compaction: a chain's next entry says what all before it amount to, and they are deleted.
//!
//! Whatever a crash leaves half-done does no harm, and the next compaction deletes it: segments that no entry names, entries
//! below a compaction, marks below another.

use super::chain::{Written, next};
use super::entry::Entry;
use super::state::State;
use super::table::TableLedger;
use crate::error::{Error, Result};
use crate::trial::failpoint;

impl TableLedger {
    /// Compacts the chain where it has grown by this many entries since it was last compacted; tells whether it did.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where that cannot be done now. Nothing is lost by it, and nothing needs to be
    /// done again but this.
    pub async fn compact_above(&mut self, entries: u64) -> Result<bool> {
        if self.is_reload() {
            // It is soon the present one, and that is made of its files, not of segments.
            return Ok(false);
        }
        let is_due = |state: &State| state.opened().is_some() && state.head() - state.compacted() >= entries;
        if !is_due(&self.state) {
            return Ok(false);
        }
        self.read_on().await?;
        if !is_due(&self.state) {
            return Ok(false);
        }
        let number = next(&self.state)?;
        failpoint::COMPACTION_BEGINS.reached();
        let files = self.segments.with_files(self.state.segments(), self.state.finished(), number).await?;
        let seen = self.state.seen_on_disk();
        let sightings = self.segments.with_sightings(self.state.sightings(), seen, number).await?;
        let (Some(files), Some(sightings)) = (files, sightings) else {
            // Another has compacted it meanwhile.
            self.reread().await?;
            return Ok(false);
        };
        let snapshot =
            self.state.snapshot(files, sightings).ok_or_else(|| Error::bug("an empty chain was compacted"))?;
        if self.append(Entry::Compacted(Box::new(snapshot))).await? == Written::Taken {
            return Ok(false);
        }
        failpoint::COMPACTED.reached();
        self.chain.mark_compacted(number).await?;
        self.segments.delete_unnamed(&self.state, number).await?;
        Ok(true)
    }
}
