//! Entries and ledgers that the tests of this module share.

use chrono::DateTime;

use super::{Intent, Opened, Reload, Segment, SetAside, Snapshot, Standing, Unfinished};
use crate::change::batch::{Attempt, Prepared, Purge};
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
    Opened {
        table: table(),
        generation: 1,
        order: Order::BestEffort,
        target: table(),
        cut_over_ms: None,
        opened_ms: 10,
    }
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
        purged_us: 0,
    }
}

pub(crate) fn snapshot() -> Snapshot {
    let segment = Segment {
        name: "00000000000000000009-x".into(),
        day: Some(-1),
        records: 2,
        first: file("a").id,
        last: file("b").id,
        hash: "00".into(),
    };
    Snapshot {
        opened: opened(),
        files: vec![segment.clone(), Segment { day: None, ..segment.clone() }],
        sightings: vec![segment],
        unfinished: vec![Unfinished { id: file("c").id, time_ms: 30, day: None }],
        open_intents: vec![(3, intent("a", &["f"]))],
        lost: vec![2],
        unmerged: vec![(4, intent("b", &["g"]).attempt, 5)],
        held: vec![announced("h")],
        standing: Standing {
            open_merge: None,
            source_columns: vec!["id".into()],
            transform: Some((4, "fingerprint of b".into())),
            rules: Some(intent("a", &["f"]).rules),
            files_committed: 7,
            rows_committed: 70,
            files_vanished: 1,
            set_aside: vec![SetAside { file: file("i"), reason: "zero date".into() }],
            recent: [true, false].into(),
            reload: Some(Reload { generation: 2, id: "r".into(), cut_over_ms: 40 }),
            reloads: 2,
            closed: true,
            abandoned: false,
            open_purge: Some((5, Purge { id: "p".into(), below_us: 30 })),
            purged_us: 20,
            newest_ms: 40,
        },
    }
}
