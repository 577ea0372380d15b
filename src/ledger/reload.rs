//! A table's next generation: a full load and the changes after it, built beside the present one until it is whole.
//!
//! It has a chain of its own, so that files are claimed once in each of the two. Nothing is begun in the present one once
//! it is closed; closing the new one decides that it will take its place, abandoning it that it never will. The switch is
//! the present chain's next entry, a compaction: all that the new chain amounts to.

use super::Ledger;
use super::chain::{Written, next};
use super::entry::{Entry, FileKey, Opened, Reload, Snapshot};
use super::state::{FileState, State};
use super::table::{LOST_RACES_MAX, Opening, Step, TableLedger};
use crate::change::TableName;
use crate::config::TargetRules;
use crate::error::{Error, Result};
use crate::trial::failpoint;

/// The error where another generation than this is being built by now, or none.
pub fn not_built(generation: u64) -> Error {
    Error::user(format!("generation {generation} is not being built any more"))
        .hint("another process has switched to it, or given it up: `freshet ledger` shows which")
}

impl Ledger {
    /// The chain of a generation that is being built, which the table's own chain names; `rules` are that one's.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the chain is damaged.
    pub async fn reload(
        &self,
        table: &TableName,
        opening: Opening,
        reload: Reload,
        rules: Option<TargetRules>,
    ) -> Result<TableLedger> {
        TableLedger::open(self, table, opening, Some(reload), rules).await
    }
}

impl TableLedger {
    /// Begins a generation of the files since this time; one that is being built already stays.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where another time is that of the one being built.
    pub async fn begin_reload(&mut self, cut_over_ms: Option<i64>) -> Result<Reload> {
        let (now_ms, id) = (self.now_ms(), self.fresh_id());
        self.advance(&[], |state| match (state.reload(), cut_over_ms) {
            (Some(reload), Some(wanted)) if reload.cut_over_ms != wanted => Err(Error::user(format!(
                "generation {} is being built, of files since another time",
                reload.generation
            ))
            .hint("leave the time out to go on with it, or give it up with --abandon")),
            (Some(reload), _) => Ok(Step::Done(reload.clone())),
            (None, wanted) => {
                let cut_over_ms = wanted.unwrap_or(now_ms);
                let earlier = state.opened().and_then(|opened| opened.cut_over_ms);
                if earlier.is_some_and(|earlier| earlier > cut_over_ms) {
                    return Err(Error::user("the present generation began after that time")
                        .hint("name a later time, before which the new load had not begun"));
                }
                let generation = state.generations() + 1;
                Ok(Step::Write(Entry::Reload(Reload { generation, id: id.clone(), cut_over_ms })))
            }
        })
        .await
    }

    /// Closes the chain for the switch to this generation, which is its own or the one being built beside it: nothing is
    /// begun in it any more.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where that generation is not being built, be it that another process has
    /// switched to it.
    pub async fn close(&mut self, generation: u64) -> Result<()> {
        let own = self.is_reload();
        self.advance(&[], |state| match (state.is_abandoned(), state.is_closed()) {
            (true, _) => Err(Error::user("the generation was given up while it was built")
                .hint("`freshet reload TABLE --abandon` once more ends it; then begin another")),
            (false, _) if !own && state.reload().is_none_or(|reload| reload.generation != generation) => {
                Err(not_built(generation))
            }
            (false, true) => Ok(Step::Done(())),
            (false, false) => Ok(Step::Write(Entry::Closed)),
        })
        .await
    }

    /// Gives up a generation: first in its own chain, then in the one beside which it was built.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where its own chain is closed, so that it may have taken the other's place.
    pub async fn abandon(&mut self, reload: &Reload) -> Result<()> {
        let generation = reload.generation;
        let own = self.is_reload();
        self.advance(&[], |state| {
            if state.is_abandoned() || (!own && state.reload() != Some(reload)) {
                return Ok(Step::Done(()));
            }
            if own && state.is_closed() {
                return Err(Error::user(format!("the table is being switched to generation {generation} already"))
                    .hint("`freshet reload TABLE --complete` once more ends that"));
            }
            Ok(Step::Write(Entry::Abandoned { generation }))
        })
        .await
    }

    /// Leaves nothing of the chain of a generation that is the present one by now, or was given up, but that it is closed:
    /// who still builds it learns that.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where that cannot be done now.
    pub async fn retire(&mut self) -> Result<()> {
        for _ in 0..LOST_RACES_MAX {
            self.read_on().await?;
            let (Some(opened), true) = (self.state.opened(), self.is_reload() && self.state.is_closed()) else {
                return Err(Error::bug("a generation that may go on was to be retired").in_table(self.table()));
            };
            let mut snapshot = Snapshot::of(opened);
            (snapshot.standing.closed, snapshot.standing.abandoned) = (true, self.state.is_abandoned());
            let number = next(&self.state)?;
            if self.append(Entry::Compacted(Box::new(snapshot))).await? == Written::Mine {
                return self.chain.mark_compacted(number).await.map_err(|error| error.in_table(self.table()));
            }
        }
        Err(self.lost_races())
    }

    /// How many files this chain has committed which could not be used or read for the generation that is being built.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the ledger is damaged.
    pub async fn lacking(&mut self, built: &State) -> Result<usize> {
        let days = built.finished().into_iter();
        let unused = days.flat_map(|(day, files)| {
            let files = files.into_iter().filter(|file| file.state != FileState::Committed);
            files.map(move |file| FileKey { id: file.id, day })
        });
        let unused: Vec<FileKey> = unused.collect();
        self.recall(&unused).await?;
        Ok(unused.iter().filter(|file| self.state.file_state(file.id) == Some(FileState::Committed)).count())
    }

    /// Makes the generation that was built the present one. Both chains are closed, and nothing is open in them; the
    /// target has the new generation's rows.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the ledger cannot be written now.
    pub async fn switch_to(&mut self, built: &State) -> Result<()> {
        let switched = self.try_switch(built).await;
        switched.map_err(|error| error.in_table(self.table()))
    }

    async fn try_switch(&mut self, built: &State) -> Result<()> {
        for _ in 0..LOST_RACES_MAX {
            self.read_on().await?;
            let generation = built.generation().unwrap_or_default();
            let Some(reload) = self.state.reload().filter(|reload| reload.generation == generation).cloned() else {
                return if self.generation() == generation { Ok(()) } else { Err(not_built(generation)) };
            };
            let number = next(&self.state)?;
            let snapshot = self.switched(built, &reload, number).await?;
            failpoint::SWITCH_BEGINS.reached();
            if self.append(Entry::Compacted(Box::new(snapshot))).await? == Written::Taken {
                continue;
            }
            failpoint::SWITCHED.reached();
            self.chain.mark_compacted(number).await?;
            return self.segments.delete_unnamed(&self.state, number).await;
        }
        Err(self.lost_races())
    }

    /// What the new generation amounts to, in the place of the present one.
    async fn switched(&self, built: &State, reload: &Reload, number: u64) -> Result<Snapshot> {
        let is_other = |begun: &TargetRules| built.rules().is_some_and(|rules| !rules.same_as(begun));
        if self.state.rules().is_some_and(is_other) {
            return Err(Error::bug("a generation of other rules was to be switched to"));
        }
        if built.open_intents().next().is_some() || built.unmerged().next().is_some() || !built.is_closed() {
            return Err(Error::bug("a generation that is not whole was to be switched to"));
        }
        let files = self.segments.with_files(&[], built.finished(), number).await?;
        let sightings = self.segments.with_sightings(&[], built.seen_on_disk(), number).await?;
        let (Some(files), Some(sightings)) = (files, sightings) else {
            return Err(Error::bug("a generation without segments has lost one"));
        };
        let mut snapshot =
            built.snapshot(files, sightings).ok_or_else(|| Error::bug("an empty generation was switched to"))?;
        let held =
            self.state.held().filter(|file| file.is_since(reload.cut_over_ms) && built.file_state(file.id()).is_none());
        snapshot.held.extend(held.cloned());
        snapshot.lost = self.state.lost();
        let Some(opened) = self.state.opened() else { return Err(Error::bug("an empty chain was switched")) };
        let opened_ms = snapshot.opened.opened_ms;
        let cut_over_ms = Some(reload.cut_over_ms);
        snapshot.opened = Opened { generation: reload.generation, cut_over_ms, opened_ms, ..opened.clone() };
        let standing = &mut snapshot.standing;
        // A generation of no rows has none of its own.
        standing.rules = standing.rules.take().or_else(|| self.state.rules().cloned());
        standing.transform = standing.transform.take().map(|(_, fingerprint)| (number, fingerprint));
        (standing.reloads, standing.closed) = (self.state.generations(), false);
        Ok(snapshot)
    }
}
