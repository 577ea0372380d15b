//! What a change file is: its table, identity, kind and time; the order of the changes in it, and their types.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::change::types::same_name;
use crate::error::{Error, Result};
use crate::trial::planted::Planted;

pub mod batch;
mod sequence;
pub mod types;

pub use sequence::{FILE_ROWS_MAX, Half, Sequence, SequenceBase, first_sequence, row_and_half, time_of};

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
    /// What tells this version of the object from another: eTag, version id, or a hash of the content. Empty of a file that is only
    /// looked at, until it is needed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_id_depends_on_location_and_version_and_survives_text() {
        let id = FileId::new("a", "bc");
        assert_ne!(id, FileId::new("ab", "c"));
        assert_eq!(id.to_string().parse::<FileId>().unwrap(), id);
    }
}
