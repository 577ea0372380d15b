//! A ledger in a folder of this machine, where what was acknowledged outlives a power cut.
//!
//! An entry is written to a temporary file beside its place, forced to disk, and linked to its name, which
//! fails where the name is taken: so an entry is there whole or not at all, and once. Then its folder is
//! forced to disk, as a name is durable only with its folder
//! (<https://man7.org/linux/man-pages/man2/fsync.2.html>). A temporary file left by a crash is never read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::entry::ENTRY_BYTES_MAX;
use super::names;
use super::store::{Created, Listing, too_large};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};

/// A folder that holds a ledger.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Folder {
    /// The folder at this absolute path, which may be absent: nothing is created before something is written.
    pub(super) fn new(root: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { root, clock }
    }

    /// Creates the folder durably, with those above it.
    pub(super) async fn create_root(&self) -> Result<()> {
        let root = self.root.clone();
        self.run("create", String::new(), move || {
            let absent: Vec<&Path> = root.ancestors().take_while(|folder| !folder.exists()).collect();
            fs::create_dir_all(&root)?;
            absent.iter().filter_map(|folder| folder.parent()).try_for_each(sync_folder)
        })
        .await
    }

    pub(super) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        let (root, path) = (self.root.clone(), self.root.join(key));
        let temporary = format!(".tmp-{}", self.clock.fresh_id());
        let created = self.run("write", key.into(), move || create_durably(&root, &path, &temporary, &bytes)).await;
        match created {
            Ok(true) => Ok(Created::Yes),
            Ok(false) => Ok(Created::Exists),
            Err(error) if error.kind() == Kind::Retry => Ok(Created::Unknown(error)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.root.join(key);
        let found = self.run("read", key.into(), move || if_found(read_bounded(&path))).await?;
        match found {
            Some((size, _)) if size > ENTRY_BYTES_MAX => Err(too_large(&self.root.join(key).to_string_lossy(), size)),
            Some((_, bytes)) => Ok(Some(bytes)),
            None => Ok(None),
        }
    }

    pub(super) async fn settle(&self, folder: &str) -> Result<()> {
        let (root, path) = (self.root.clone(), self.root.join(folder));
        self.run("settle", folder.into(), move || sync_up_to(&root, &path)).await
    }

    pub(super) async fn list(&self, key: &str) -> Result<Listing> {
        let path = self.root.join(key);
        self.run("list", key.into(), move || {
            let mut listing = Listing::default();
            for child in if_found(fs::read_dir(&path))?.into_iter().flatten() {
                let child = child?;
                let Ok(name) = child.file_name().into_string() else { continue };
                match child.file_type()? {
                    kind if kind.is_dir() => listing.folders.push(name),
                    kind if kind.is_file() => listing.objects.push(name),
                    _ => {}
                }
            }
            Ok(listing)
        })
        .await
    }

    pub(super) async fn delete(&self, keys: Vec<String>) -> Result<()> {
        let Some(first) = keys.first().cloned() else { return Ok(()) };
        let root = self.root.clone();
        self.run("delete", first, move || {
            keys.iter().try_for_each(|key| if_found(fs::remove_file(root.join(key))).map(|_| ()))
        })
        .await
    }

    pub(super) async fn has_entry_above(&self, folder: &str, number: u64) -> Result<bool> {
        let path = self.root.join(folder);
        self.run("list", folder.into(), move || {
            for child in if_found(fs::read_dir(&path))?.into_iter().flatten() {
                let found = child?.file_name().to_str().and_then(names::entry_number);
                if found.is_some_and(|found| found > number) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    pub(super) fn describe(&self) -> String {
        self.root.display().to_string()
    }

    /// Runs file work where it may block, and says of a failure which part of the ledger it hit.
    async fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        key: String,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|error| trouble(&self.root, verb, &key, error)),
            Err(error) => Err(Error::bug("file work of the ledger was broken off").because(error)),
        }
    }
}

/// Creates the file whole and for good; false where its name is taken.
fn create_durably(root: &Path, path: &Path, temporary: &str, bytes: &[u8]) -> io::Result<bool> {
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder)?;
    let temporary = folder.join(temporary);
    let linked = write_synced(&temporary, bytes).map(|()| fs::hard_link(&temporary, path));
    // What remains of it harms nobody; the failure to tell of is the other one.
    _ = fs::remove_file(&temporary);
    match linked? {
        Ok(()) => sync_up_to(root, folder).map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            Err(io::Error::new(ErrorKind::Unsupported, error))
        }
        Err(error) => Err(error),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Forces to disk the names in `folder`, and its own name in those above it, up to `root`.
fn sync_up_to(root: &Path, folder: &Path) -> io::Result<()> {
    folder.ancestors().take_while(|above| above.starts_with(root)).try_for_each(sync_folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Other systems offer no way to force a folder to disk.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// The size of a file and its bytes, which are cut off where they are too many.
fn read_bounded(path: &Path) -> io::Result<(u64, Bytes)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(ENTRY_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes)?;
    let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok((size.max(read), bytes.into()))
}

fn if_found<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn trouble(root: &Path, verb: &str, key: &str, error: io::Error) -> Error {
    let folder = root.display();
    let part = if key.is_empty() { String::new() } else { format!(" {key} in") };
    let (kind, hint) = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            (Kind::Retry, format!("free some space for {folder}; nothing is lost"))
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            (Kind::User, format!("let this user read and write {folder}"))
        }
        ErrorKind::Unsupported => {
            (Kind::User, format!("keep the ledger on a file system with hard links, which {folder} has not"))
        }
        // That a name is taken by an entry is no failure; here a file stands where a folder should.
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidFilename => {
            (Kind::User, format!("give the ledger a folder of its own, which {folder} is not"))
        }
        _ => (Kind::Retry, format!("check the disk under {folder}")),
    };
    Error::new(kind, format!("the ledger cannot {verb}{part} {folder}")).because(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::StillClock;

    fn folder(root: &Path) -> Folder {
        Folder::new(root.into(), StillClock::shared())
    }

    #[tokio::test]
    async fn a_file_is_created_once_whole_and_leaves_no_other_behind() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(&dir.path().join("deep/ledger"));
        folder.create_root().await.unwrap();
        let first = folder.create("tables/d/t/00000000000000000001.json", Bytes::from_static(b"one")).await.unwrap();
        assert!(matches!(first, Created::Yes));
        let second = folder.create("tables/d/t/00000000000000000001.json", Bytes::from_static(b"two")).await.unwrap();
        assert!(matches!(second, Created::Exists));
        let read = folder.read("tables/d/t/00000000000000000001.json").await.unwrap();
        assert_eq!(read.as_deref(), Some(&b"one"[..]));
        let names: Vec<_> = fs::read_dir(dir.path().join("deep/ledger/tables/d/t")).unwrap().collect();
        assert_eq!(names.len(), 1);
        folder.settle("tables/d/t").await.unwrap();
    }

    #[tokio::test]
    async fn what_is_absent_is_none_and_temporary_files_are_no_entries() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        assert_eq!(folder.read("tables/d/t/x.json").await.unwrap(), None);
        assert!(folder.list("tables").await.unwrap().folders.is_empty());
        assert!(!folder.has_entry_above("tables/d/t", 0).await.unwrap());
        fs::create_dir_all(dir.path().join("tables/d/t")).unwrap();
        fs::write(dir.path().join("tables/d/t/.tmp-1"), "torn").unwrap();
        assert!(!folder.has_entry_above("tables/d/t", 0).await.unwrap());
        fs::write(dir.path().join("tables/d/t/00000000000000000009.json"), "{}").unwrap();
        assert!(folder.has_entry_above("tables/d/t", 8).await.unwrap());
        assert!(!folder.has_entry_above("tables/d/t", 9).await.unwrap());
        assert_eq!(folder.list("tables").await.unwrap().folders, ["d"]);
    }

    #[tokio::test]
    async fn a_file_larger_than_any_entry_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("x.json")).unwrap().set_len(ENTRY_BYTES_MAX + 1).unwrap();
        let error = folder(dir.path()).read("x.json").await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
    }

    #[tokio::test]
    async fn a_file_where_the_folder_should_be_is_the_users_to_mend() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = folder(&dir.path().join("file")).create("ledger.json", Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::User, "{}", error.report());
    }

    #[test]
    fn a_full_disk_is_to_be_tried_again_and_names_the_folder() {
        let error = trouble(Path::new("/var/ledger"), "write", "ledger.json", ErrorKind::StorageFull.into());
        assert_eq!(error.kind(), Kind::Retry);
        assert!(error.hint_text().unwrap().contains("/var/ledger"));
    }
}
