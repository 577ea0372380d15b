//! What `source: files` means on this machine: a folder, a file, or a folder and a glob below it.

use std::path::{Component, PathBuf};

use object_store::path::Path;

use crate::catalog::layout::{Layout, Recognised};
use crate::error::{Error, Result};

/// Where to list, and which of the files there count.
#[derive(Debug)]
pub(super) struct Place {
    /// What is listed.
    pub root: Path,
    pub choice: Choice,
    /// Whether `/` and a path are a path of this machine.
    pub is_local: bool,
}

/// Which of the files at or below the root count.
#[derive(Debug)]
pub(super) enum Choice {
    All,
    /// The root itself is a file.
    File,
    /// Those whose folders and name below the root fit.
    Glob(Vec<String>),
}

impl Place {
    /// Everything below a folder of any store.
    pub(super) fn folder(root: Path) -> Self {
        Self { root, choice: Choice::All, is_local: false }
    }

    /// What `files` names, which must exist.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it does not, or is of another system.
    pub(super) fn find(files: &str) -> Result<Self> {
        let unfit = |what: &str| Error::user(format!("the source `{files}` {what}"));
        let path = std::path::absolute(local_path(files)?)
            .map_err(|cause| unfit("is not a path").because(cause).hint("name a folder, a file or a glob"))?;
        let exists = |path: &std::path::Path| {
            std::fs::metadata(path).map(|found| found.is_dir()).map_err(|cause| {
                unfit("cannot be found").because(cause).hint(
                    "check the path; relative ones start at the configuration file's folder, or at the working \
                     folder where there is none",
                )
            })
        };
        let not_text = || unfit("is not a UTF-8 path without control characters").hint("rename the folder");
        let (root, pattern) = match exists(&path) {
            Ok(_) => (path, Vec::new()),
            Err(error) => split_glob(&path).ok_or(error)?,
        };
        let is_folder = exists(&root)?;
        let root = Path::from_absolute_path(without_parents(root)?).map_err(|cause| not_text().because(cause))?;
        let choice = match (pattern.is_empty(), is_folder) {
            (true, true) => Choice::All,
            (true, false) => Choice::File,
            (false, _) => {
                Choice::Glob(pattern.into_iter().map(|part| part.ok_or_else(not_text)).collect::<Result<_>>()?)
            }
        };
        Ok(Self { root, choice, is_local: true })
    }

    /// Whether a listed file counts.
    pub(super) fn takes(&self, path: &Path) -> bool {
        match &self.choice {
            Choice::All | Choice::File => true,
            Choice::Glob(pattern) => {
                let below = path.as_ref().strip_prefix(self.root.as_ref()).unwrap_or_default();
                let parts: Vec<&str> = below.split('/').filter(|part| !part.is_empty()).collect();
                fits(pattern, &parts, |part| part == "**", |part, name| fits_name(part, name))
            }
        }
    }

    /// What a file is. Its path is taken from the folder on; from a file or a glob alone nobody knows where the
    /// databases' folders begin, so more and more of the folders on the way there are taken, until a layout fits.
    pub(super) fn recognise(&self, layout: &Layout, path: &Path) -> Result<Recognised> {
        let parts: Vec<&str> = path.as_ref().split('/').collect();
        let root = self.root.parts_count();
        let (first, last) = match self.choice {
            Choice::All => (root, root),
            Choice::Glob(_) => (root, 0),
            Choice::File => (root.saturating_sub(1), 0),
        };
        let below = |from: usize| layout.recognise(&parts.get(from..).unwrap_or_default().join("/"));
        let recognised = below(first);
        if recognised.is_ok() {
            return recognised;
        }
        let longer = (last..first).rev().map(below).find(|found| matches!(found, Ok(Recognised::Change(_))));
        longer.unwrap_or(recognised)
    }
}

/// The path that a text names: itself, or that of a `file://` URL.
fn local_path(files: &str) -> Result<PathBuf> {
    let unfit = |what: &str| {
        Error::user(format!("the source `{files}` {what}"))
            .hint("name a local folder, a file, a glob such as data/**/*.parquet, or a file:///… URL")
    };
    if files.is_empty() {
        return Err(unfit("is empty"));
    }
    if !files.contains("://") {
        return Ok(PathBuf::from(files));
    }
    let url = url::Url::parse(files).map_err(|cause| unfit("is not a URL").because(cause))?;
    let local = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    local.ok_or_else(|| unfit("is not on this machine"))
}

/// The folder before the first part with a wildcard, and the parts from there on (None: not UTF-8).
fn split_glob(path: &std::path::Path) -> Option<(PathBuf, Vec<Option<String>>)> {
    let is_wild = |part: &Component<'_>| part.as_os_str().as_encoded_bytes().iter().any(|b| b"*?".contains(b));
    let parts: Vec<Component<'_>> = path.components().collect();
    let first = parts.iter().position(is_wild)?;
    let (root, pattern) = parts.split_at(first);
    Some((root.iter().collect(), pattern.iter().map(|part| part.as_os_str().to_str().map(str::to_owned)).collect()))
}

/// The same path without `..`, so that a file has one location.
fn without_parents(path: PathBuf) -> Result<PathBuf> {
    if !path.components().any(|part| part == Component::ParentDir) {
        return Ok(path.components().collect());
    }
    std::fs::canonicalize(&path)
        .map_err(|cause| Error::user(format!("the source `{}` cannot be found", path.display())).because(cause))
}

fn fits_name(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    fits(&pattern, &name, |wanted| *wanted == '*', |wanted, found| *wanted == '?' || wanted == found)
}

/// Whether a pattern takes all of a sequence: stars take any number of its items, everything else one.
fn fits<P, T>(pattern: &[P], items: &[T], star: impl Fn(&P) -> bool, same: impl Fn(&P, &T) -> bool) -> bool {
    let (mut wanted, mut at) = (0, 0);
    let mut retry = None;
    while let Some(item) = items.get(at) {
        match pattern.get(wanted) {
            Some(part) if star(part) => {
                wanted += 1;
                retry = Some((wanted, at));
            }
            Some(part) if same(part, item) => {
                wanted += 1;
                at += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    wanted = after_star;
                    at = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(wanted..).is_some_and(|rest| rest.iter().all(star))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str, expected: bool) {
        let glob = Choice::Glob(pattern.split('/').map(str::to_owned).collect());
        let place = Place { root: Path::from("data"), choice: glob, is_local: true };
        assert_eq!(place.takes(&Path::parse(format!("data/{path}")).unwrap()), expected, "{pattern} {path}");
    }

    #[test]
    fn stars_take_part_of_a_name_and_double_stars_any_folders() {
        check("*.parquet", "a.parquet", true);
        check("*.parquet", "a/b.parquet", false);
        check("**/*.parquet", "b.parquet", true);
        check("**/*.parquet", "a/b/c.parquet", true);
        check("**/*.parquet", "a/b/c.parquet.gz", false);
        check("**", "a/b/c", true);
        check("a/**/x/*", "a/b/x/c/x/f", true);
        check("a/**/x/*", "a/x/f", true);
        check("a/**/x/*", "a/b/f", false);
        check("주문*/?.csv", "주문 1/é.csv", true);
        check("?.csv", ".csv", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
    }

    #[test]
    fn a_glob_is_split_at_its_first_wildcard() {
        let (root, pattern) = split_glob(std::path::Path::new("/data/cdc/*/b/*.csv")).unwrap();
        assert_eq!(root, PathBuf::from("/data/cdc"));
        assert_eq!(pattern, ["*", "b", "*.csv"].map(|part| Some(part.to_owned())));
        assert!(split_glob(std::path::Path::new("/data/cdc")).is_none());
    }

    #[test]
    fn other_systems_are_refused_with_a_hint() {
        for files in ["s3://bucket/x", "", "file://host.example/x", "/no/such/folder", "/no/such/*.csv"] {
            let error = Place::find(files).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::User, "{files}");
            assert!(error.hint_text().is_some(), "{files}: {error}");
        }
    }
}
