//! What a change file is: its table, identity, kind and time, the order of the changes in it, and their types.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::change::types::same_name;
use crate::error::{Error, Result};
use crate::trial::planted::Planted;

pub mod batch;
pub mod types;

/// A table of the source: its database (DMS calls it the schema) and its name, as the source spells them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// The source's database.
    pub database: String,
    /// The table in it.
    pub table: String,
}

impl TableName {
    /// The table `table` of `database`.
    pub fn new(database: impl Into<String>, table: impl Into<String>) -> Self {
        Self { database: database.into(), table: table.into() }
    }

    /// Whether `name`, as `database.table`, is its name, without regard to case.
    pub fn is_named(&self, name: &str) -> bool {
        same_name(name, &self.to_string())
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// 16 bytes that name one version of one object: a hash of its location and its eTag, version or content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// The id of the object at `location` in the version `version`.
    pub fn new(location: &str, version: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(location.len() as u64).to_le_bytes());
        hasher.update(location.as_bytes());
        if !Planted::HashWithoutVersion.is_there() {
            hasher.update(version.as_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(id)
    }

    /// 43 bits of the id, in two pieces of 20 and 23, that order files of equal time.
    fn order_bits(self) -> (u64, u64) {
        let word = u64::from_be_bytes([
            self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5], self.0[6], self.0[7],
        ]);
        (word >> 44, (word >> 21) & 0x7f_ffff)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for FileId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::data(format!("`{text}` is not a file id of 32 hex digits"));
        if text.len() != 32 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut id = [0; 16];
        for (n, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(id))
    }
}

impl Serialize for FileId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a file is part of the full load or holds changes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Rows as they stood when the load was taken; all older than any change.
    Load,
    /// Changes after the load.
    Cdc,
}

impl FileKind {
    /// See [`ChangeFile::is_since`]; all in ms since 1970.
    pub fn is_since(self, cut_over_ms: i64, modified_ms: i64, time_ms: i64) -> bool {
        match self {
            Self::Load => modified_ms >= cut_over_ms,
            Self::Cdc => time_ms >= cut_over_ms,
        }
    }
}

/// How the bytes of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Parquet, read in place.
    Parquet,
    /// Comma-separated text.
    Csv,
}

/// One version of one object that holds changes of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeFile {
    /// Where it is: the object's URL, or a folder's path, as `_cdc_file` shows it.
    pub location: String,
    /// Its path inside the object store it was found in.
    pub path: String,
    /// Size in bytes as stored, before any inflating.
    pub size: u64,
    /// What tells this version of the object from another: eTag, version id, or a hash of the content.
    pub version: String,
    /// The store's eTag at first sight; reads demand it, so that an overwritten object is noticed.
    pub e_tag: Option<String>,
    /// When the store last saw it modified, in ms since 1970.
    pub modified_ms: i64,
    /// The table whose changes it holds.
    pub table: TableName,
    /// Load or changes.
    pub kind: FileKind,
    /// How its bytes are laid out.
    pub format: FileFormat,
    /// Whether the whole file is gzipped.
    pub gzip: bool,
    /// The file's time in ms since 1970: the time in its name; for others when it was last modified.
    pub time_ms: i64,
    /// Whether that is the time in its name.
    #[serde(default)]
    pub time_named: bool,
    /// How many rows it has, where that was learned without inflating it.
    pub rows: Option<u64>,
}

impl ChangeFile {
    /// The identity by which the ledger knows it.
    pub fn id(&self) -> FileId {
        FileId::new(&self.location, &self.version)
    }

    /// Whether it is a file on a disk, and no object in a store.
    pub fn is_on_disk(&self) -> bool {
        is_on_disk(&self.location)
    }

    /// Whether the file belongs to the full load, or follows it, that began at this time in ms since 1970: load files by
    /// when they were last modified, as their names tell no time.
    pub fn is_since(&self, cut_over_ms: i64) -> bool {
        self.kind.is_since(cut_over_ms, self.modified_ms, self.time_ms)
    }

    /// The file's time.
    pub fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.time_ms).unwrap_or_default()
    }
}

/// The version of a file on a disk: its size, and a hash of its content.
pub fn disk_version(size: u64, content: FileId) -> String {
    format!("{size}-{content}")
}

/// Whether a change file's location is on a disk, and not in an object store.
pub fn is_on_disk(location: &str) -> bool {
    !location.contains("://")
}

#[cfg(test)]
impl ChangeFile {
    /// A small Parquet file of changes of the table `db.t`.
    pub(crate) fn sample(location: &str) -> Self {
        Self {
            location: location.into(),
            path: location.into(),
            size: 10,
            version: "v1".into(),
            e_tag: None,
            modified_ms: 0,
            table: TableName::new("db", "t"),
            kind: FileKind::Cdc,
            format: FileFormat::Parquet,
            gzip: false,
            time_ms: 0,
            time_named: true,
            rows: None,
        }
    }
}

/// Which half of a split key update a change is; every other change is [`Half::Whole`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The delete of the old key.
    Delete,
    /// The update under the new key, or a change that was not split.
    Whole,
}

/// How the changes of one file are ordered: a pure function of file and generation.
///
/// A sequence is four sections of 16 hex digits, `generation/time/counter/row`: the grammar of BigQuery's
/// change sequence numbers, and comparable as text.
/// See <https://cloud.google.com/bigquery/docs/change-data-capture#manage_custom_ordering>.
#[derive(Debug, Clone, Copy)]
pub struct SequenceBase {
    generation: u64,
    kind: FileKind,
    file_counter: u64,
    row_high_bits: u64,
}

/// Rows of one file are numbered below this: their number doubled must fit 40 bits.
pub const FILE_ROWS_MAX: u64 = 1 << 39;

impl SequenceBase {
    /// The base for all changes of `file` in `generation`.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where the file's time is before 1970 or past the year 2527.
    pub fn new(file: &ChangeFile, generation: u64) -> Result<Self> {
        let time_ms = u64::try_from(file.time_ms).ok().filter(|ms| *ms < 1 << 44).ok_or_else(|| {
            Error::data(format!("the file's time {} ms cannot be ordered", file.time_ms))
                .in_file(&file.location)
                .hint("name the file by a time after 1970")
        })?;
        let (high, low) = file.id().order_bits();
        Ok(Self { generation, kind: file.kind, file_counter: time_ms << 20 | high, row_high_bits: low << 40 })
    }

    /// The sequence of a change whose order is known only by commit time, file and row.
    ///
    /// `commit_us` is the commit time in µs since 1970; rows of a load count as older than every change.
    pub fn best_effort(&self, commit_us: u64, row: u64, half: Half) -> String {
        let time = match self.kind {
            FileKind::Load => 0,
            FileKind::Cdc => commit_us,
        };
        self.format(time, self.file_counter, self.row_high_bits | row_and_half(row, half))
    }

    /// The sequence of a change that carries DMS's `AR_H_CHANGE_SEQ`, the only true order. Bits of the file's
    /// identity stand before the row, so that no two changes share a sequence: where two files claim the same
    /// place in the order, one of them wins whichever comes first.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where `change_seq` is not its 35 digits.
    pub fn exact(&self, change_seq: &str, row: u64, half: Half) -> Result<String> {
        let (time_us, counter) = parse_change_seq(change_seq)?;
        Ok(self.format(time_us, counter, self.row_high_bits | row_and_half(row, half)))
    }

    fn format(&self, time: u64, counter: u64, row: u64) -> String {
        sequence(self.generation, time, counter, row)
    }
}

/// The least sequence that a change of this time, in µs since 1970, has in this generation: in the same grammar.
pub fn first_sequence(generation: u64, time_us: u64) -> String {
    sequence(generation, time_us, 0, 0)
}

fn sequence(generation: u64, time: u64, counter: u64, row: u64) -> String {
    format!("{generation:016x}/{time:016x}/{counter:016x}/{row:016x}")
}

/// The time that a sequence tells, in µs since 1970; 0 for a row of a load. None where it is no sequence.
pub fn time_of(sequence: &str) -> Option<u64> {
    u64::from_str_radix(sequence.split('/').nth(1)?, 16).ok()
}

fn row_and_half(row: u64, half: Half) -> u64 {
    row * 2 + u64::from(half == Half::Whole)
}

/// Splits `AR_H_CHANGE_SEQ` into its time (as µs since 1970) and its counter.
///
/// Its 35 digits are `YYYYMMDDHHmmSShh` (hh: hundredths of a second) and a counter of 19.
/// See <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TableMapping.SelectionTransformation.Expressions.html>.
fn parse_change_seq(text: &str) -> Result<(u64, u64)> {
    let wrong = || {
        Error::data(format!("AR_H_CHANGE_SEQ `{text}` is not a change sequence"))
            .hint("expected 35 digits: YYYYMMDDHHmmSShh and a counter of 19 digits")
    };
    if text.len() != 35 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().map_err(|_| wrong());
    let year = text[0..4].parse::<i32>().map_err(|_| wrong())?;
    let time = chrono::NaiveDate::from_ymd_opt(year, number(4..6)?, number(6..8)?)
        .and_then(|day| {
            day.and_hms_micro_opt(
                number(8..10).ok()?,
                number(10..12).ok()?,
                number(12..14).ok()?,
                number(14..16).ok()? * 10_000,
            )
        })
        .ok_or_else(wrong)?;
    let time_us = u64::try_from(time.and_utc().timestamp_micros()).map_err(|_| wrong())?;
    Ok((time_us, text[16..].parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(location: &str, kind: FileKind) -> ChangeFile {
        ChangeFile { kind, time_ms: 1_678_890_622_000, ..ChangeFile::sample(location) }
    }

    #[test]
    fn sequences_of_a_file_are_ordered_by_commit_time_then_row_then_half() {
        let base = SequenceBase::new(&file("a", FileKind::Cdc), 1).unwrap();
        let sequences = [
            base.best_effort(5, 9, Half::Whole),
            base.best_effort(6, 0, Half::Delete),
            base.best_effort(6, 0, Half::Whole),
            base.best_effort(6, 1, Half::Delete),
        ];
        assert!(sequences.is_sorted(), "{sequences:?}");
        assert!(sequences.iter().all(|s| s.len() == 67));
    }

    #[test]
    fn load_rows_are_older_than_every_change() {
        let load = SequenceBase::new(&file("a", FileKind::Load), 1).unwrap().best_effort(u64::MAX, 7, Half::Whole);
        let change = SequenceBase::new(&file("b", FileKind::Cdc), 1).unwrap().best_effort(1, 0, Half::Delete);
        assert!(load < change);
    }

    #[test]
    fn the_least_sequence_of_a_time_stands_between_what_was_before_and_what_comes_then() {
        let base = SequenceBase::new(&file("a", FileKind::Cdc), 2).unwrap();
        let before = base.best_effort(4, u64::from(u32::MAX), Half::Whole);
        let (then, next) = (base.best_effort(5, 0, Half::Delete), first_sequence(3, 0));
        assert!(before < first_sequence(2, 5) && first_sequence(2, 5) < then && then < next);
        assert_eq!((time_of(&then), time_of(&next), time_of("none")), (Some(5), Some(0), None));
    }

    #[test]
    fn files_of_equal_time_have_a_fixed_order_and_never_equal_sequences() {
        let one = SequenceBase::new(&file("a", FileKind::Cdc), 1).unwrap();
        let two = SequenceBase::new(&file("b", FileKind::Cdc), 1).unwrap();
        assert_ne!(one.best_effort(5, 0, Half::Whole), two.best_effort(5, 0, Half::Whole));
    }

    #[test]
    fn change_seq_is_read_as_epoch_time_and_counter() {
        let (time_us, counter) = parse_change_seq("20230315143022450000000000000000123").unwrap();
        assert_eq!(time_us, 1_678_890_622_450_000);
        assert_eq!(counter, 123);
        assert!(parse_change_seq("20231315143022450000000000000000123").is_err());
        assert!(parse_change_seq("12").is_err());
        assert!(parse_change_seq("2023031514302245000000000000000012é").is_err());
    }

    #[test]
    fn a_file_id_depends_on_location_and_version_and_survives_text() {
        let id = FileId::new("a", "bc");
        assert_ne!(id, FileId::new("ab", "c"));
        assert_eq!(id.to_string().parse::<FileId>().unwrap(), id);
    }
}
