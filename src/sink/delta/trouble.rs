//! What to do about an error of Delta Lake, of the disk below it, or of the rows on their way.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::Path;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use parquet::errors::ParquetError;

use super::place::TableFolder;
use crate::error::Error;

const MEMORY_HINT: &str = "raise pipeline_config.memory_bytes, or run fewer tables at once";

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
    let error = if let Some(original) = find::<Error>(&cause) {
        copy(original)
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

/// An error of a query over Delta tables.
pub(super) fn query(folder: &TableFolder, done: &str, cause: DataFusionError) -> Error {
    delta(folder, done, DeltaTableError::from(cause))
}

/// An error of the row stream: the original one if it is ours, else what DataFusion says of the data.
pub(super) fn stream(cause: DataFusionError) -> Error {
    let cause = match unwrap(cause) {
        Ok(original) => return original,
        Err(cause) => cause,
    };
    if let Some(original) = find::<Error>(&cause) {
        return copy(original);
    }
    if matches!(cause.find_root(), DataFusionError::ResourcesExhausted(_)) {
        return Error::retry("the rows need more memory than they may have").hint(MEMORY_HINT).because(cause);
    }
    Error::data("the rows cannot be computed").because(cause)
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

/// Takes our own error out of DataFusion's wrappings, or gives the wrapped one back.
fn unwrap(error: DataFusionError) -> Result<Error, DataFusionError> {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(original) => Ok(*original),
            Err(inner) => match inner.downcast::<DataFusionError>() {
                Ok(inner) => unwrap(*inner),
                Err(inner) => Err(DataFusionError::External(inner)),
            },
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => unwrap(*inner),
        DataFusionError::ArrowError(inner, trace) => match *inner {
            ArrowError::ExternalError(inner) => unwrap(DataFusionError::External(inner)),
            inner => Err(DataFusionError::ArrowError(Box::new(inner), trace)),
        },
        DataFusionError::ParquetError(inner) => match *inner {
            ParquetError::External(inner) => unwrap(DataFusionError::External(inner)),
            inner => Err(DataFusionError::ParquetError(Box::new(inner))),
        },
        other => Err(other),
    }
}

/// The same error again, for where the original is shared and cannot be taken.
fn copy(original: &Error) -> Error {
    let mut out = Error::new(original.kind(), original.message());
    if let Some(hint) = original.hint_text() {
        out = out.hint(hint);
    }
    let place = original.place();
    if let Some(table) = &place.table {
        out = out.in_table(table);
    }
    if let Some(file) = &place.file {
        out = out.in_file(file);
    }
    if let Some(row) = place.row {
        out = out.in_row(row);
    }
    if let Some(query) = &place.query {
        out = out.in_query(query);
    }
    match StdError::source(original) {
        Some(cause) => out.because(cause.to_string()),
        None => out,
    }
}

/// The first error of a type in the chain of causes.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
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
    text.contains("No space left").then(|| io_hint(ErrorKind::StorageFull))
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
    fn our_own_error_comes_out_of_any_wrapping() {
        let ours = || Error::data("row 3 is bad").hint("mend it");
        let wrapped = [
            DataFusionError::from(ours()),
            DataFusionError::Context("while reading".into(), Box::new(ours().into())),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(ours()))), None),
            DataFusionError::External(Box::new(DataFusionError::from(ours()))),
            DataFusionError::Shared(std::sync::Arc::new(ours().into())),
        ];
        for error in wrapped {
            let error = stream(error);
            assert_eq!((error.kind(), error.message()), (Kind::Data, "row 3 is bad"));
            assert_eq!(error.hint_text(), Some("mend it"));
        }
    }

    #[test]
    fn too_little_memory_is_worth_another_try_and_bad_rows_are_not() {
        let memory = stream(DataFusionError::ResourcesExhausted("no".into()));
        assert_eq!(memory.kind(), Kind::Retry);
        assert!(memory.hint_text().unwrap().contains("memory"));
        assert_eq!(stream(DataFusionError::Execution("bad cast".into())).kind(), Kind::Data);
    }

    #[test]
    fn a_full_disk_is_said_plainly() {
        let error = io(Path::new("/x"), "written", std::io::Error::from(ErrorKind::StorageFull));
        assert_eq!(error.kind(), Kind::Retry);
        assert!(error.hint_text().unwrap().contains("full"));
    }
}
