//! A folder with change files, a configuration and SQL, and what the program makes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::binary::{Ended, freshet};
use crate::delta_table;

/// A folder of a test's own; gone when the test is over.
pub(crate) struct Scene {
    folder: TempDir,
}

impl Scene {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Change files in `data`, tables in `out/tables`, the ledger in `out/ledger`, SQL in `queries`; `databases` and
    /// what follows it is YAML.
    pub(crate) fn new(databases: &str) -> Self {
        let scene = Self::empty();
        scene.configure(databases);
        scene
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, databases: &str) {
        let places = "source: data\nsink: {delta: out/tables}\nledger: out/ledger\n";
        self.write("freshet.yaml", format!("{places}{databases}\n"));
        std::fs::create_dir_all(self.path("data")).unwrap();
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and the folders it lies in.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// `freshet run --once`.
    pub(crate) fn run(&self) -> Ended {
        freshet(self.folder(), &["run", "--once"])
    }

    /// The folder of a table, as `database/table`.
    pub(crate) fn table(&self, name: &str) -> PathBuf {
        self.path("out/tables").join(name)
    }

    /// The rows of a table in these columns.
    pub(crate) fn rows(&self, table: &str, columns: &[&str]) -> Vec<String> {
        delta_table::rows(&self.table(table), columns)
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a folder, by its path from there, in order.
pub(crate) fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}
