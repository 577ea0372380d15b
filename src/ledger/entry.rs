//! What the entries of a table's chain say, and how they look as JSON.
//!
//! An entry is one object of an [`Envelope`]: who wrote it, when, under which nonce, and the entry itself,
//! told apart by its member `entry`. The nonce is how a writer that was never answered finds out whether
//! the entry that stands there is its own.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::change::batch::{Attempt, MergeAttempt, MergeCounts, Prepared, Purge};
use crate::change::{ChangeFile, FileId, FileKind, TableName};
use crate::config::{Order, TargetRules};
use crate::error::{Error, Result};
use crate::trial::planted::Planted;

/// No entry is larger, in bytes; neither written nor read.
pub const ENTRY_BYTES_MAX: u64 = 64 << 20;

/// What to do about a damaged ledger.
pub(super) const MEND_DAMAGE: &str = "restore the ledger from a backup; where there is none, end all daemons, name a new \
                                      place for `ledger` in freshet.yaml and run `freshet ledger --rebuild`";

const DAY_MS: i64 = 86_400_000;

/// One step in the life of a table. The first in its chain is [`Opened`](Entry::Opened), no other is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// What holds for the whole chain.
    Opened(Opened),
    /// The rows of these files stand prepared at the sink and may be committed from now on, by anyone.
    /// Where there are none (0 rows) this entry is itself the commit.
    Intent(Box<Intent>),
    /// The rows of an intent are visible.
    Committed {
        /// The number of the intent's entry.
        intent: u64,
    },
    /// The rows of an intent never will be visible; its files are free for another attempt.
    Lost {
        /// The number of the intent's entry.
        intent: u64,
    },
    /// A file that cannot be used.
    SetAside {
        /// The file.
        file: FileEntry,
        /// Why, for people.
        reason: String,
    },
    /// A file that comes later than this generation's tombstones were kept for. It is set aside, but says nothing against
    /// the files that come with it.
    TooLate {
        /// The file.
        file: FileEntry,
        /// Why, for people.
        reason: String,
        /// The generation it is too late for.
        generation: u64,
    },
    /// A file that was overwritten before it was read.
    Superseded {
        /// The file, as it was announced.
        file: FileEntry,
    },
    /// A file that was deleted before it was read.
    Gone {
        /// The file, as it was announced.
        file: FileEntry,
    },
    /// These files left their source undone, as the table was stopped, and wait in the chain until it goes on.
    Held {
        /// The files, as they were announced.
        files: Vec<ChangeFile>,
    },
    /// These batches are being merged, by this attempt and no other.
    MergeIntent(MergeAttempt),
    /// A merge is done.
    Merged {
        /// The number of the merge intent's entry.
        merge: u64,
        /// What it did.
        counts: MergeCounts,
    },
    /// All that the entries before this one amount to: none of them is needed any more. Or, where the chain is closed,
    /// what the chain of the generation amounts to that was built: it is the present one from here on.
    Compacted(Box<Snapshot>),
    /// A new generation is to be built, in a chain of its own and beside the targets.
    Reload(Reload),
    /// From here on no file is claimed or ended in this chain: what is open is finished, then another generation takes its
    /// place, or, in the chain of one that was built, it takes the place of another.
    Closed,
    /// A generation will never be the present one: written to its own chain first, so that nobody switches to it.
    Abandoned {
        /// Its number.
        generation: u64,
    },
    /// Tombstones of long ago will be dropped once what this chain has claimed so far is merged. No intent after this one
    /// has changes from before that time.
    Purge(Purge),
    /// They are dropped.
    Purged {
        /// The number of the purge's entry.
        purge: u64,
    },
}

impl Entry {
    /// Whether it begins or decides something that no closed chain takes.
    pub(super) fn begins_something(&self) -> bool {
        match self {
            Self::Intent(_) | Self::SetAside { .. } | Self::TooLate { .. } | Self::Superseded { .. } => true,
            Self::Gone { .. } | Self::Reload(_) | Self::Opened(_) | Self::Closed | Self::Purge(_) => true,
            Self::Committed { .. } | Self::Lost { .. } | Self::Merged { .. } | Self::Held { .. } => false,
            Self::MergeIntent(_) | Self::Compacted(_) | Self::Abandoned { .. } | Self::Purged { .. } => false,
        }
    }
}

/// The kinds of entry this version knows, as `entry` names them.
const KINDS: [&str; 17] = [
    "opened",
    "intent",
    "committed",
    "lost",
    "set_aside",
    "too_late",
    "superseded",
    "gone",
    "held",
    "merge_intent",
    "merged",
    "compacted",
    "reload",
    "closed",
    "abandoned",
    "purge",
    "purged",
];

/// What is fixed when a chain is opened and cannot be changed under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The source's table: two names that a case-blind folder takes for one are noticed by it.
    pub table: TableName,
    /// The number of the full load that the changes follow; 1 for the first.
    pub generation: u64,
    /// How well the order of changes is known.
    pub order: Order,
    /// The table's name at the sink.
    pub target: TableName,
    /// Files from before this time, in ms since 1970, are of an earlier generation; None in the first.
    #[serde(default)]
    pub cut_over_ms: Option<i64>,
    /// When the chain was begun, in ms since 1970.
    #[serde(default)]
    pub opened_ms: i64,
}

impl Opened {
    /// Whether the file belongs to this generation, as far as its own beginning tells.
    pub(super) fn has(&self, file: &FileEntry) -> bool {
        self.cut_over_ms.is_none_or(|cut_over_ms| file.is_since(cut_over_ms)) || Planted::CutOverIgnored.is_there()
    }
}

/// A generation that is being built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Its number.
    pub generation: u64,
    /// What tells it from any other of that number, also under another ledger.
    pub id: String,
    /// When it began, in ms since 1970: files from before belong to the present one.
    pub cut_over_ms: i64,
}

/// Which rows, of which files, an attempt means to make visible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The attempt; its id is `_cdc_batch` of every row.
    pub attempt: Attempt,
    /// The generation its files belong to.
    pub generation: u64,
    /// The files whose rows they are.
    pub files: Vec<FileEntry>,
    /// What the sink needs to commit them, and nothing else is ever needed.
    pub prepared: Prepared,
    /// The fingerprint of the transform that made the rows.
    pub transform: String,
    /// The names of the columns that the files brought.
    pub source_columns: Vec<String>,
    /// What the target keeps of the changes, by which key; the first intent's hold for the whole chain.
    pub rules: TargetRules,
    /// Each of its changes was held against this, see [`Purge::below_us`]; 0: nothing was purged.
    #[serde(default)]
    pub purged_us: u64,
}

/// A change file, as the chain remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its identity: a hash of location and version.
    pub id: FileId,
    /// Where it is.
    pub location: String,
    /// What tells this version of it from another.
    pub version: String,
    /// Size in bytes, as stored.
    pub size: u64,
    /// When the store last saw it modified, in ms since 1970.
    pub modified_ms: i64,
    /// Load or changes.
    pub kind: FileKind,
    /// The time that orders its rows, in ms since 1970.
    pub time_ms: i64,
    /// Whether that is the time in its name.
    #[serde(default)]
    pub time_named: bool,
}

impl FileEntry {
    pub(super) fn is_since(&self, cut_over_ms: i64) -> bool {
        self.kind.is_since(cut_over_ms, self.modified_ms, self.time_ms)
    }
}

impl From<&ChangeFile> for FileEntry {
    fn from(file: &ChangeFile) -> Self {
        Self {
            id: file.id(),
            location: file.location.clone(),
            version: file.version.clone(),
            size: file.size,
            modified_ms: file.modified_ms,
            kind: file.kind,
            time_ms: file.time_ms,
            time_named: file.time_named,
        }
    }
}

/// What a file is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKey {
    /// Its identity.
    pub id: FileId,
    /// The day that its name tells, in days since 1970; None where it tells none.
    pub day: Option<i64>,
}

impl FileKey {
    fn new(id: FileId, time_ms: i64, time_named: bool) -> Self {
        Self { id, day: time_named.then(|| time_ms.div_euclid(DAY_MS)) }
    }
}

impl From<&ChangeFile> for FileKey {
    fn from(file: &ChangeFile) -> Self {
        Self::new(file.id(), file.time_ms, file.time_named)
    }
}

impl From<&FileEntry> for FileKey {
    fn from(file: &FileEntry) -> Self {
        Self::new(file.id, file.time_ms, file.time_named)
    }
}

/// All that a chain's entries amount to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What opened the chain.
    pub opened: Opened,
    /// The segments of files with a final state.
    pub files: Vec<Segment>,
    /// The segments by which files on a disk are known again without being read.
    pub sightings: Vec<Segment>,
    /// Files that are known and have no final state.
    pub unfinished: Vec<Unfinished>,
    /// Intents without an outcome, by number.
    pub open_intents: Vec<(u64, Intent)>,
    /// The numbers of lost intents; every other one that is not open was committed.
    pub lost: Vec<u64>,
    /// Batches that no finished merge has: the number of the intent, the attempt, and how many rows.
    pub unmerged: Vec<(u64, Attempt, u64)>,
    /// Files that wait in the chain.
    pub held: Vec<ChangeFile>,
    /// What a state keeps in the same form.
    pub standing: Standing,
}

/// What a chain's entries amount to, but for files, intents and batches: a state keeps it as a compaction does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The merge that is open, by number.
    pub open_merge: Option<(u64, MergeAttempt)>,
    /// Every column that files brought, in the order of first sight.
    pub source_columns: Vec<String>,
    /// The highest committed intent's number, and its transform's fingerprint.
    pub transform: Option<(u64, String)>,
    /// What the target keeps of the changes: the rules of the first intent.
    pub rules: Option<TargetRules>,
    /// How many files were committed.
    pub files_committed: u64,
    /// How many rows they had.
    pub rows_committed: u64,
    /// How many files were deleted or overwritten before they were read.
    pub files_vanished: u64,
    /// The files that were set aside, oldest first.
    pub set_aside: Vec<SetAside>,
    /// Whether each of the latest files with a final state was set aside.
    pub recent: VecDeque<bool>,
    /// The generation that is being built.
    #[serde(default)]
    pub reload: Option<Reload>,
    /// The highest number of a generation that was ever to be built; 0: none was.
    #[serde(default)]
    pub reloads: u64,
    /// Whether nothing may be begun any more.
    #[serde(default)]
    pub closed: bool,
    /// Whether the chain is that of a generation that was given up.
    #[serde(default)]
    pub abandoned: bool,
    /// The purge that is open, by number.
    #[serde(default)]
    pub open_purge: Option<(u64, Purge)>,
    /// The latest purge that is done, see [`Purge::below_us`]; 0: there was none.
    #[serde(default)]
    pub purged_us: u64,
    /// The time of the newest change file that was committed, in ms since 1970; load files do not count.
    #[serde(default)]
    pub newest_ms: i64,
}

impl Snapshot {
    /// That of a chain which was opened like this, and in which nothing happened.
    pub(super) fn of(opened: &Opened) -> Self {
        Self {
            opened: opened.clone(),
            files: Vec::new(),
            sightings: Vec::new(),
            unfinished: Vec::new(),
            open_intents: Vec::new(),
            lost: Vec::new(),
            unmerged: Vec::new(),
            held: Vec::new(),
            standing: Standing::default(),
        }
    }
}

/// A file that is known and has no final state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Its identity.
    pub id: FileId,
    /// The time under which it was first seen, in ms since 1970.
    pub time_ms: i64,
    /// The day that its name tells, in days since 1970.
    pub day: Option<i64>,
}

/// A file that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The file.
    pub file: FileEntry,
    /// Why, for people.
    pub reason: String,
}

/// Sorted records of fixed length in an object of their own, which is never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The object's name.
    pub name: String,
    /// The day that its files' names tell, in days since 1970; None where they tell none.
    pub day: Option<i64>,
    /// How many records it has.
    pub records: u64,
    /// The first record's key.
    pub first: FileId,
    /// The last record's key.
    pub last: FileId,
    /// The BLAKE3 of its bytes, in hex.
    pub hash: String,
}

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Never used twice: tells the writer's own entry from anybody else's.
    pub nonce: String,
    /// The writer's clock, for people; nothing is decided by it.
    pub written_at: DateTime<Utc>,
    /// Which process wrote it, for people.
    pub writer: String,
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Envelope {
    /// The envelope as bytes of JSON.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where they are more than [`ENTRY_BYTES_MAX`].
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::bug("an entry of the ledger cannot be written as JSON").because(error))?;
        let size = bytes.len();
        if u64::try_from(size).is_ok_and(|size| size <= ENTRY_BYTES_MAX) {
            return Ok(bytes);
        }
        Err(Error::user(format!("an entry of {size} bytes is too large for the ledger"))
            .hint(format!("at most {ENTRY_BYTES_MAX} bytes are kept: lower `batch_size` in freshet.yaml")))
    }

    /// Reads the entry with this number.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the bytes are no entry, or one of a kind unknown here.
    pub(super) fn from_bytes(number: u64, bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| match unknown_kind(bytes) {
            Some(kind) => Error::user(format!("entry {number} of the ledger is of the unknown kind `{kind}`"))
                .hint("a newer freshet wrote it: upgrade this one"),
            None => damaged(number, "it is not a readable entry").because(error),
        })
    }

    /// Whether these are the bytes of the entry written under `nonce`. Other bytes, of whatever kind, are not.
    pub(super) fn is_under(nonce: &str, bytes: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct OnlyNonce {
            nonce: String,
        }
        serde_json::from_slice::<OnlyNonce>(bytes).is_ok_and(|found| found.nonce == nonce)
    }
}

/// The kind of a well-formed entry that this version does not know.
fn unknown_kind(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyKind {
        entry: String,
    }
    let kind = serde_json::from_slice::<OnlyKind>(bytes).ok()?.entry;
    (!KINDS.contains(&kind.as_str())).then_some(kind)
}

/// The error for a chain that no freshet can have written.
pub(super) fn damaged(number: u64, what: impl std::fmt::Display) -> Error {
    Error::user(format!("the ledger is damaged at entry {number}: {what}")).hint(MEND_DAMAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ledger::samples::{announced, file, intent, snapshot};

    fn envelope(entry: Entry) -> Envelope {
        Envelope { nonce: "n1".into(), written_at: DateTime::UNIX_EPOCH, writer: "w".into(), entry }
    }

    fn every_entry() -> Vec<Entry> {
        let attempt = intent("m", &[]).attempt;
        let loaded = (attempt.loaded_at, attempt.loaded_at);
        let merge = MergeAttempt { attempt, batches: vec!["a".into()], rows: 7, loaded, purged_us: 9 };
        vec![
            Entry::Opened(Opened {
                table: TableName::new("db", "t"),
                generation: 1,
                order: Order::BestEffort,
                target: TableName::new("db", "t"),
                cut_over_ms: None,
                opened_ms: 10,
            }),
            Entry::Intent(Box::new(intent("a", &["f", "g"]))),
            Entry::Committed { intent: 2 },
            Entry::Lost { intent: u64::MAX },
            Entry::SetAside { file: file("f"), reason: "\"그것\"\n".into() },
            Entry::TooLate { file: file("f"), reason: "late".into(), generation: 2 },
            Entry::Superseded { file: file("f") },
            Entry::Gone { file: file("f") },
            Entry::Held { files: vec![announced("f")] },
            Entry::MergeIntent(merge),
            Entry::Merged { merge: 3, counts: MergeCounts { inserted: 1, updated: 2, deleted: 3 } },
            Entry::Compacted(Box::new(snapshot())),
            Entry::Reload(Reload { generation: 2, id: "r".into(), cut_over_ms: -1 }),
            Entry::Closed,
            Entry::Abandoned { generation: 2 },
            Entry::Purge(Purge { id: "p".into(), below_us: 9 }),
            Entry::Purged { purge: 4 },
        ]
    }

    #[test]
    fn every_entry_survives_json_and_names_a_known_kind() {
        for (entry, kind) in every_entry().into_iter().zip(KINDS) {
            let bytes = envelope(entry.clone()).to_bytes().unwrap();
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(json["entry"], kind);
            assert_eq!(Envelope::from_bytes(1, &bytes).unwrap().entry, entry);
            assert!(Envelope::is_under("n1", &bytes));
            assert!(!Envelope::is_under("n2", &bytes));
        }
    }

    #[test]
    fn what_a_sink_staged_survives_word_for_word() {
        let mut written = intent("a", &["f"]);
        written.prepared.staged = serde_json::json!({
            "add": [{"path": "x=\"1\"/é.parquet", "size": u64::MAX, "min": i64::MIN, "stats": "{\"a\":1.5}"}],
            "entry": "nothing", "nonce": null,
        });
        let bytes = envelope(Entry::Intent(Box::new(written.clone()))).to_bytes().unwrap();
        assert_eq!(Envelope::from_bytes(1, &bytes).unwrap().entry, Entry::Intent(Box::new(written)));
    }

    #[test]
    fn an_unknown_kind_asks_for_a_newer_freshet_and_garbage_for_a_backup() {
        let newer = br#"{"nonce":"n","written_at":"2026-01-01T00:00:00Z","writer":"w","entry":"renamed","to":"x"}"#;
        let error = Envelope::from_bytes(7, newer).unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains("`renamed`") && error.hint_text().unwrap().contains("upgrade"), "{error}");
        for garbage in [&b""[..], b"{", b"null", b"{\"entry\":\"lost\"}", b"\xff\x00", b"[[[["] {
            let error = Envelope::from_bytes(7, garbage).unwrap_err();
            assert_eq!(error.kind(), Kind::User);
            assert!(error.message().contains("entry 7") && error.hint_text().unwrap().contains("backup"), "{error}");
            assert!(!Envelope::is_under("n", garbage));
        }
    }

    #[test]
    fn an_entry_larger_than_the_bound_is_refused_before_it_is_written() {
        let reason = "x".repeat(usize::try_from(ENTRY_BYTES_MAX).unwrap());
        let error = envelope(Entry::SetAside { file: file("f"), reason }).to_bytes().unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.hint_text().unwrap().contains("batch_size"));
    }
}
