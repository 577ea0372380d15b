//! The tables that a target is made of, whatever the sink.

use crate::config::{Mode, OnDelete};
use crate::sink::Target;

/// Which of a target's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `<table>_changes`: every change.
    Changes,
    /// `<table>`: the latest of each key.
    Final,
    /// `<table>_tombstones`: keys that were deleted, each with the sequence of its delete.
    Tombstones,
    /// `<table>_live`: a view of the final table with what is not merged yet, where the sink has views.
    Live,
}

impl Part {
    /// What its name has behind the target's.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Changes => "_changes",
            Self::Final => "",
            Self::Tombstones => "_tombstones",
            Self::Live => "_live",
        }
    }

    /// Those of a target that have rows of their own.
    pub(super) fn of(target: &Target) -> Vec<Self> {
        match (target.mode, target.on_delete) {
            (Mode::Append, _) => vec![Self::Changes],
            (Mode::Merge, OnDelete::Mark) => vec![Self::Changes, Self::Final],
            (Mode::Merge, OnDelete::Remove) => vec![Self::Changes, Self::Final, Self::Tombstones],
        }
    }
}
