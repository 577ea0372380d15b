//! What a table's target keeps, once configuration and SQL have settled it.

use serde::{Deserialize, Serialize};

use crate::config::{Mode, OnDelete};

/// What a target keeps of its table's changes, and by which key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRules {
    /// What is kept.
    pub mode: Mode,
    /// The key, as output columns; empty where none is known.
    pub key: Vec<String>,
    /// What a delete leaves behind.
    pub on_delete: OnDelete,
}

impl TargetRules {
    /// Whether both mean the same target: the order and case of key columns do not count, nor, without a
    /// final table, what deletes leave behind in it.
    pub fn same_as(&self, other: &Self) -> bool {
        let key = |rules: &Self| {
            let mut key: Vec<String> = rules.key.iter().map(|name| name.to_lowercase()).collect();
            key.sort_unstable();
            key
        };
        let merged = |rules: &Self| (key(rules), rules.on_delete);
        self.mode == other.mode && (self.mode == Mode::Append || merged(self) == merged(other))
    }
}

impl std::fmt::Display for TargetRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let deletes = match self.on_delete {
            OnDelete::Remove => "remove",
            OnDelete::Mark => "mark",
        };
        match self.mode {
            Mode::Append => f.write_str("mode append"),
            Mode::Merge => write!(f, "mode merge by key {}, on_delete {deletes}", self.key.join(", ")),
        }
    }
}
