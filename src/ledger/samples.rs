//! Entries, clocks and ledgers that the tests of this module share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Intent, Opened};
use crate::batch::{Attempt, Prepared};
use crate::change::{ChangeFile, FileFormat, FileId, FileKind, TableName};
use crate::clock::Clock;
use crate::config::{Mode, OnDelete, Order, TargetRules};
use crate::ledger::{FileEntry, Opening};

/// A clock that stands still and counts its ids.
#[derive(Debug, Default)]
pub(crate) struct CountingClock(AtomicU64);

impl CountingClock {
    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::default())
    }
}

impl Clock for CountingClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    fn fresh_id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::SeqCst)))
    }
}

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
    FileEntry {
        id: FileId::new(location, "v1"),
        location: location.into(),
        version: "v1".into(),
        size: 10,
        modified_ms: 20,
        kind: FileKind::Cdc,
        time_ms: 30,
    }
}

/// The change file of [`file`], as a source announces it.
pub(crate) fn announced(location: &str) -> ChangeFile {
    let entry = file(location);
    ChangeFile {
        location: entry.location,
        path: location.into(),
        size: entry.size,
        version: entry.version,
        e_tag: None,
        modified_ms: entry.modified_ms,
        table: table(),
        kind: entry.kind,
        format: FileFormat::Parquet,
        gzip: true,
        time_ms: entry.time_ms,
        rows: None,
    }
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
