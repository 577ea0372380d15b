//! Entries and ledgers that the tests of this module share.

use chrono::DateTime;

use super::{Intent, Opened};
use crate::change::batch::{Attempt, Prepared};
use crate::change::{ChangeFile, TableName};
use crate::config::{Mode, OnDelete, Order, TargetRules};
use crate::ledger::{FileEntry, Opening};

pub(crate) fn table() -> TableName {
    TableName::new("casino_db1", "user_actions")
}

pub(crate) fn opening() -> Opening {
    Opening { order: Order::BestEffort, target: table() }
}

pub(crate) fn opened() -> Opened {
    Opened { table: table(), generation: 1, order: Order::BestEffort, target: table() }
}

pub(crate) fn file(location: &str) -> FileEntry {
    FileEntry::from(&announced(location))
}

/// The change file of [`file`], as a source announces it.
pub(crate) fn announced(location: &str) -> ChangeFile {
    ChangeFile { modified_ms: 20, table: table(), gzip: true, time_ms: 30, ..ChangeFile::sample(location) }
}

pub(crate) fn intent(attempt: &str, files: &[&str]) -> Intent {
    let staged = serde_json::json!({ "streams": [attempt] });
    Intent {
        attempt: Attempt { id: attempt.into(), loaded_at: DateTime::UNIX_EPOCH },
        generation: 1,
        files: files.iter().map(|location| file(location)).collect(),
        prepared: Prepared { rows: 5, bytes: 50, columns: Vec::new(), staged },
        transform: format!("fingerprint of {attempt}"),
        source_columns: vec!["id".into()],
        rules: TargetRules { mode: Mode::Merge, key: vec!["id".into()], on_delete: OnDelete::Remove },
    }
}
