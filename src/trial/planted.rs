//! Mistakes planted for the simulation to find, so that it is known to find any. Outside unit tests none is there, and
//! the compiler takes the question out.

/// A mistake, by what it leaves out or does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A file's identity is its location alone.
    HashWithoutVersion,
    /// Deliveries are acknowledged when they arrive.
    AcknowledgeBeforeCommit,
    /// Rows are committed although no entry names them.
    IntentSkipped,
    /// An open intent is taken for lost, and its files are carried anew.
    OpenIntentRerun,
    /// An intent is written although others claim its files.
    ClaimUnchecked,
    /// Whoever meets an entry takes it for its own.
    NonceUnchecked,
    /// A merge counts for all batches that wait, not for its own.
    MergeCountsForAll,
    /// Files that are to wait in the chain are not written there.
    HeldForgotten,
    /// What is written below a compaction, or read there, counts.
    CompactionUnseen,
    /// A compaction forgets the intents that are open.
    CompactionForgetsIntents,
    /// A compaction forgets the files that are done with.
    CompactionForgetsFiles,
    /// A file's generation is not asked after: what belongs to the one before is carried into the next.
    CutOverIgnored,
    /// Something is begun in a generation although another is about to take its place.
    ClosedIgnored,
    /// Changes are not held against the latest purge.
    PurgeUnchecked,
    /// Tombstones are purged although batches from before wait to be merged.
    PurgeTooEarly,
    /// A key update is not split.
    KeyUpdateWhole,
    /// The sink takes an older change over a newer one.
    #[cfg(test)]
    GuardRemoved,
    /// The sink lets a late change bring a deleted row back.
    #[cfg(test)]
    TombstoneIgnored,
    /// The sink commits one stream of a batch after the other.
    #[cfg(test)]
    CommitInParts,
    /// The sink says that rows are there which have lapsed.
    #[cfg(test)]
    LapsedIsCommitted,
    /// The sink says that rows are lost although they were committed.
    #[cfg(test)]
    CommittedIsLost,
}

#[cfg(test)]
thread_local! {
    static THERE: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

impl Planted {
    /// Whether it is planted, on this thread.
    #[cfg(test)]
    pub(crate) fn is_there(self) -> bool {
        THERE.get() == Some(self)
    }

    /// Whether it is planted: never.
    #[cfg(not(test))]
    #[inline]
    pub(crate) const fn is_there(self) -> bool {
        false
    }

    /// Plants a mistake on this thread, or none.
    #[cfg(test)]
    pub(crate) fn plant(planted: Option<Self>) {
        THERE.set(planted);
    }
}
