//! Where a target's tables lie: names from outside become one safe folder name each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use deltalake::{DeltaTable, DeltaTableBuilder};
use object_store::ObjectStore;
use url::Url;

use crate::change::TableName;
use crate::config::OnDelete;
use crate::error::{Error, Result};
use crate::sink::Target;
use crate::sink::part::Part;

/// What a table's properties call a part.
fn word(part: Part) -> &'static str {
    match part.suffix() {
        "" => "final",
        suffix => suffix.trim_start_matches('_'),
    }
}

/// The folder of one Delta table, and what must be true of the table in it.
#[derive(Debug, Clone)]
pub(super) struct TableFolder {
    /// The folder itself.
    pub(super) path: PathBuf,
    /// The table's name at the target, with its suffix.
    pub(super) name: String,
    /// The source's table, for messages.
    pub(super) source: TableName,
    /// Table properties that say whose table it is; a table with others is not ours.
    pub(super) binding: BTreeMap<String, String>,
    /// What all but the making and deleting of folders goes through.
    pub(super) disk: Arc<dyn ObjectStore>,
}

impl TableFolder {
    /// The folder of one of the target's tables below `root`.
    pub(super) fn new(root: &Path, disk: Arc<dyn ObjectStore>, target: &Target, part: Part) -> Self {
        let name = format!("{}{}", target.name.table, part.suffix());
        let folder = format!("{}{}", folder_name(&target.name.table), part.suffix());
        Self {
            path: root.join(folder_name(&target.name.database)).join(folder),
            name,
            source: target.source.clone(),
            binding: binding(target, part),
            disk,
        }
    }

    /// The table, without having read its log.
    pub(super) fn unread(&self) -> Result<DeltaTable> {
        let url = Url::from_directory_path(&self.path)
            .map_err(|()| Error::bug(format!("{} is not an absolute path", self.path.display())))?;
        let disk = Arc::clone(&self.disk);
        DeltaTableBuilder::from_url(url.clone())
            .and_then(|table| table.with_storage_backend(disk, url).build())
            .map_err(|cause| super::trouble::delta(self, "opened", cause))
    }
}

/// What the table remembers of its target, so that no other target ever writes to it.
fn binding(target: &Target, part: Part) -> BTreeMap<String, String> {
    let quoted = |names: &[&str]| serde_json::Value::from(names.to_vec()).to_string();
    let source = quoted(&[&target.source.database, &target.source.table]);
    let mut out =
        BTreeMap::from([("freshet.source".to_owned(), source), ("freshet.part".to_owned(), word(part).to_owned())]);
    if part != Part::Changes {
        let key: Vec<_> = target.key.iter().map(|name| name.to_lowercase()).collect();
        let key: Vec<_> = key.iter().map(String::as_str).collect();
        out.insert("freshet.key".to_owned(), quoted(&key));
    }
    if part == Part::Final {
        let on_delete = match target.on_delete {
            OnDelete::Remove => "remove",
            OnDelete::Mark => "mark",
        };
        out.insert("freshet.on_delete".to_owned(), on_delete.to_owned());
    }
    out
}

/// One folder name for any name from outside: letters, digits, `_`, `-` and inner dots stay readable, the
/// rest is written as `=` and two hex digits per byte, as in quoted-printable text. Different names give different
/// folders. (A `%` in a folder's name would be decoded once too often on its way through URLs.)
pub(super) fn folder_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, letter) in name.char_indices() {
        if letter.is_alphanumeric() || matches!(letter, '_' | '-') || (letter == '.' && at > 0) {
            out.push(letter);
        } else {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "={byte:02X}");
            }
        }
    }
    if out.is_empty() { "=".to_owned() } else { out }
}

/// The local folder that a location names: a path, made absolute, or a `file://` URL. What is missing of it is not made,
/// and it is called the same before and after somebody made it.
///
/// # Errors
/// [`User`](crate::error::Kind::User) for other URLs, [`Retry`](crate::error::Kind::Retry) where the way
/// to the folder cannot be read.
pub(super) fn local_folder(location: &str) -> Result<PathBuf> {
    let path = if location.contains("://") {
        let local = Url::parse(location).ok().filter(|url| url.scheme() == "file");
        local.and_then(|url| url.to_file_path().ok()).ok_or_else(|| {
            Error::user(format!("`{location}` is not a local folder"))
                .hint("give the sink's location as a path or as a file:// URL")
        })?
    } else {
        PathBuf::from(location)
    };
    if path.to_string_lossy().contains('%') {
        return Err(Error::user(format!("the folder {} has a `%` in its path", path.display()))
            .hint("Delta Lake's URLs would lead elsewhere: choose a path without `%`"));
    }
    std::path::absolute(&path)
        .and_then(|absolute| resolved(&absolute))
        .map_err(|cause| super::trouble::io(&path, "opened", cause))
}

/// The path without links, as far as it is there.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.components().next_back()) {
        (Err(cause), Some(parent), Some(last)) if cause.kind() == ErrorKind::NotFound => {
            let mut resolved = resolved(parent)?;
            match last {
                Component::ParentDir => drop(resolved.pop()),
                last => resolved.push(last),
            }
            Ok(resolved)
        }
        (resolved, _, _) => resolved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awkward_names_become_one_readable_folder_each() {
        let cases = [
            ("user_actions", "user_actions"),
            ("v1.2-b", "v1.2-b"),
            ("주문", "주문"),
            ("select", "select"),
            ("..", "=2E."),
            (".hidden", "=2Ehidden"),
            ("x/y", "x=2Fy"),
            ("x\\y", "x=5Cy"),
            ("50%", "50=25"),
            ("a\"b; drop", "a=22b=3B=20drop"),
            ("tab\there", "tab=09here"),
            ("a=b", "a=3Db"),
            ("", "="),
        ];
        for (name, folder) in cases {
            assert_eq!(folder_name(name), folder);
        }
    }

    #[test]
    fn a_location_is_a_path_or_a_file_url_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a b");
        let folder = local_folder(inner.to_str().unwrap()).unwrap();
        assert!(folder.is_absolute());
        let url = Url::from_directory_path(&folder).unwrap();
        assert_eq!(local_folder(url.as_str()).unwrap(), folder);
        for refused in ["gs://bucket/x", "/tmp/50%20"] {
            assert_eq!(local_folder(refused).unwrap_err().kind(), crate::error::Kind::User);
        }
    }

    #[test]
    fn a_folder_is_called_the_same_before_and_after_it_is_made_and_is_not_made_by_asking() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("there")).unwrap();
        std::os::unix::fs::symlink("there", dir.path().join("link")).unwrap();
        let there = dir.path().canonicalize().unwrap().join("there");
        for (location, expected) in [("link/a/b", "a/b"), ("link/../there/c", "c"), ("link/x/../y", "y")] {
            let location = dir.path().join(location);
            let before = local_folder(location.to_str().unwrap()).unwrap();
            assert_eq!(before, there.join(expected));
            assert!(!before.exists());
            std::fs::create_dir_all(&before).unwrap();
            std::fs::create_dir_all(&location).unwrap();
            assert_eq!(local_folder(location.to_str().unwrap()).unwrap(), before);
        }
    }
}
