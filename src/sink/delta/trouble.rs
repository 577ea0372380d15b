//! What to do about an error of Delta Lake, of the disk below it, or of the rows on their way.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::Path;

use datafusion::error::DataFusionError;
use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;

use super::place::TableFolder;
use crate::error::{Error, find};

const MEMORY_HINT: &str = "raise pipeline_config.memory, or run fewer tables at once";

/// Whether another writer was faster, and nothing of this commit took effect.
pub(super) fn is_conflict(error: &DeltaTableError) -> bool {
    match error {
        DeltaTableError::VersionAlreadyExists(_) => true,
        DeltaTableError::Transaction { source } => matches!(
            source,
            TransactionError::VersionAlreadyExists(_)
                | TransactionError::CommitConflict(_)
                | TransactionError::MaxCommitAttempts(_)
        ),
        _ => false,
    }
}

/// An error of a Delta table that could not be `done` ("opened", "merged", …).
pub(super) fn delta(folder: &TableFolder, done: &str, cause: DeltaTableError) -> Error {
    let message = format!("the Delta table at {} cannot be {done}", folder.path.display());
    let text = cause.to_string();
    let error = if let Some(original) = Error::inside(&cause) {
        original
    } else if is_conflict(&cause) {
        Error::retry(message).hint("another writer is at work on the table; try again")
    } else if text.contains("Resources exhausted") {
        Error::retry(message).hint(MEMORY_HINT)
    } else if let Some(hint) = disk_hint(&cause) {
        Error::retry(message).hint(hint)
    } else if matches!(cause, DeltaTableError::Transaction { .. }) {
        Error::user(message).hint("another program gave the table features that freshet cannot write")
    } else if done == "opened" {
        Error::user(message).hint("its _delta_log is damaged or of another format: restore it, or move the folder away")
    } else {
        Error::bug(message)
    };
    error.in_table(&folder.source).because(cause)
}

/// Whether more memory, or less to do at once, would have helped.
pub(super) fn lacks_memory(error: &Error) -> bool {
    error.hint_text() == Some(MEMORY_HINT)
}

/// An error of a query over Delta tables.
pub(super) fn query(folder: &TableFolder, done: &str, cause: DataFusionError) -> Error {
    delta(folder, done, DeltaTableError::from(cause))
}

/// An error of the disk; it is always worth another try.
pub(super) fn io(path: &Path, done: &str, cause: std::io::Error) -> Error {
    let hint = io_hint(cause.kind());
    Error::retry(format!("{} cannot be {done}", path.display())).because(cause).hint(hint)
}

/// An error of writing a data file.
pub(super) fn write(path: &str, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    let cause = cause.into();
    let hint = disk_hint(cause.as_ref()).unwrap_or("see the cause");
    Error::retry(format!("the data file {path} cannot be written")).hint(hint).because(cause)
}

/// What to do where the disk is to blame; None where it is not.
fn disk_hint(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(found) = find::<std::io::Error>(error) {
        return Some(io_hint(found.kind()));
    }
    if let Some(found) = find::<object_store::Error>(error) {
        return Some(match found {
            object_store::Error::PermissionDenied { .. } => io_hint(ErrorKind::PermissionDenied),
            _ => io_hint(ErrorKind::Other),
        });
    }
    let text = error.to_string();
    if text.contains("Permission denied") {
        return Some(io_hint(ErrorKind::PermissionDenied));
    }
    if text.contains("No space left") {
        return Some(io_hint(ErrorKind::StorageFull));
    }
    // The Delta kernel's errors name their cause only in words.
    text.contains("Error interacting with object store").then(|| io_hint(ErrorKind::Other))
}

fn io_hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "the disk is full: free some space",
        ErrorKind::PermissionDenied => "give freshet the permission to read and write the folder",
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only",
        _ => "check the disk or the share below the sink's location",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_the_kernel_says_of_the_disk_is_no_bug_of_ours() {
        let of = |text: &str| disk_hint(&DeltaTableError::Generic(text.to_owned()));
        let told = "Kernel error: Error interacting with object store: Generic error: reset";
        assert_eq!(of(told), Some(io_hint(ErrorKind::Other)));
        assert_eq!(of("Kernel error: something else"), None);
    }

    #[test]
    fn a_full_disk_is_said_plainly() {
        let error = io(Path::new("/x"), "written", std::io::Error::from(ErrorKind::StorageFull));
        assert_eq!(error.kind(), Kind::Retry);
        assert!(error.hint_text().unwrap().contains("full"));
    }
}
