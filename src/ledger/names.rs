//! The names of objects in a ledger. Whatever a table is called, its folder is one harmless folder name.

use crate::change::TableName;

/// The entry that says whose ledger it is.
pub(super) const ROOT: &str = "ledger.json";

/// The folder with a folder for each database, in which each table has a folder with its chain.
pub(super) const TABLES: &str = "tables";

/// The same for the marks that say which entries are compactions.
pub(super) const COMPACTIONS: &str = "compactions";

/// The same for segments.
pub(super) const SEGMENTS: &str = "segments";

/// The folder with a folder for each database, in which each table has a folder for each generation that is being built.
const RELOADS: &str = "reloads";

/// Where a chain is.
pub(super) struct Folders {
    /// Its entries.
    pub(super) entries: String,
    /// The marks of its compactions.
    pub(super) marks: String,
}

impl Folders {
    /// Those of the chain of a table, whose folder is called so.
    pub(super) fn of_table(table_folder: &str) -> Self {
        Self { entries: format!("{TABLES}/{table_folder}"), marks: format!("{COMPACTIONS}/{table_folder}") }
    }

    /// Those of the chain of a generation that is being built.
    pub(super) fn of_reload(table: &TableName, generation: u64) -> Self {
        let folder = format!("{RELOADS}/{}/{generation}", table_folder(table));
        Self { entries: format!("{folder}/entries"), marks: format!("{folder}/compactions") }
    }
}

/// File systems allow 255 bytes to a name; longer names are cut and told apart by a hash.
const FOLDER_BYTES_MAX: usize = 200;

/// The folder of a table, in each of those.
pub(super) fn table_folder(table: &TableName) -> String {
    format!("{}/{}", folder_name(&table.database), folder_name(&table.table))
}

/// The name that a folder's stands for; None where it was cut.
pub(super) fn name_of(folder: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(folder.len());
    let mut rest = folder;
    while let Some(first) = rest.bytes().next() {
        let (byte, length) = match first {
            b'%' => (u8::from_str_radix(rest.get(1..3)?, 16).ok()?, 3),
            plain if plain.is_ascii_alphanumeric() || plain == b'-' || plain == b'_' => (plain, 1),
            _ => return None,
        };
        bytes.push(byte);
        rest = rest.get(length..)?;
    }
    String::from_utf8(bytes).ok().filter(|name| folder_name(name) == folder)
}

/// The name of an entry in its chain's folder: names sort as numbers do.
pub(super) fn entry_name(number: u64) -> String {
    format!("{number:020}.json")
}

/// The number of the entry with this name; None for whatever else lies about in a chain's folder.
pub(super) fn entry_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The name with every byte but letters, digits, `-` and `_` as `%` and two hex digits.
fn folder_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    if encoded.is_empty() || encoded.len() > FOLDER_BYTES_MAX {
        let start = encoded.get(..FOLDER_BYTES_MAX / 2).unwrap_or_default();
        let hash = blake3::hash(name.as_bytes()).to_hex();
        return format!("{start}~{}", hash.get(..32).unwrap_or_default());
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hostile_names_become_one_harmless_segment_each_and_stay_apart() {
        let long = "가".repeat(64);
        let longer = format!("{long}a");
        let names =
            ["users", "a\"b; drop", "..", ".", "", "x/y", "x%2Fy", "사용자", "a\0b", "~", "c:\\d", &long, &longer];
        let segments: HashSet<String> = names.iter().map(|name| folder_name(name)).collect();
        assert_eq!(segments.len(), names.len(), "{segments:?}");
        for segment in &segments {
            assert!(!segment.is_empty() && segment.len() <= 255);
            assert!(segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_%~".contains(&b)), "{segment}");
        }
        assert_eq!(folder_name("x/y"), "x%2Fy");
        for name in names.iter().filter(|name| !folder_name(name).contains('~')) {
            assert_eq!(name_of(&folder_name(name)).as_deref(), Some(*name));
        }
        for foreign in ["a~b", "%", "%4", "%zz", "%FF", "%2e", "%61", "ä", ".tmp", ""] {
            assert_eq!(name_of(foreign), None, "{foreign}");
        }
        assert_eq!(table_folder(&TableName::new("..", "t")), "%2E%2E/t");
    }

    #[test]
    fn entry_names_sort_as_their_numbers_and_are_read_back() {
        let names: Vec<String> = [1, 9, 10, u64::MAX].into_iter().map(entry_name).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(entry_number(&names[2]), Some(10));
        assert_eq!(entry_number(&names[3]), Some(u64::MAX));
        for other in [".tmp-1", "1.json", "0000000000000000000x.json", "99999999999999999999.json", ".json", "가.json"]
        {
            assert_eq!(entry_number(other), None, "{other}");
        }
    }
}
