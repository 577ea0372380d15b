//! Step 3 of the commit protocol: all streams of an intent become visible at once, or none.
//!
//! An intent is only committed again, never run again, so every answer that is not plain must be told apart: what
//! is committed already, what may be tried again, and what is lost for ever, which only BigQuery's own count of
//! rows can say. See <https://cloud.google.com/bigquery/docs/write-api-batch#batch-commit>.

use tonic::Code;

use super::staged::Staged;
use super::status::Refusal;
use super::write::WriteApi;
use super::write::proto::storage_error::StorageErrorCode;
use super::write::proto::{BatchCommitWriteStreamsResponse, StorageError};
use super::{BigQuerySink, Part, jobs};
use crate::error::{Error, Result};
use crate::sink::{CommitOutcome, Prepared, Target};

/// How often streams that cannot be found are looked for before their rows are counted.
const LOOKS: u32 = 3;

/// Commits what was prepared; may be repeated at will.
pub(super) async fn commit(sink: &BigQuerySink, target: &Target, prepared: &Prepared) -> Result<CommitOutcome> {
    if prepared.rows == 0 {
        return Ok(CommitOutcome::Committed);
    }
    let table = sink.table(target, Part::Changes).path();
    let staged = Staged::of(prepared, &table)?;
    let count = || jobs::rows_of_batch(sink, target, &staged.attempt);
    settle(&sink.write, &table, &staged, count).await
}

/// What one answer to a commit says.
#[derive(Debug)]
enum Answered {
    /// The rows are visible.
    Committed,
    /// Neither a commit time nor an error.
    Nothing,
    /// None of the streams exists.
    Absent,
    /// It says of some of the streams that they do not exist, or of one that it does not name, and of the others nothing.
    PartlyAbsent(String),
    /// The streams are in another state than the commit needs, or in several.
    Odd(String),
    /// It did not work.
    Failed(Refusal),
}

/// Commits until the answer is plain; `count` gives how many rows of the batch the table has.
async fn settle<F>(api: &WriteApi, table: &str, staged: &Staged, count: impl Fn() -> F) -> Result<CommitOutcome>
where
    F: Future<Output = Result<u64>> + Send,
{
    let (mut last, mut is_absent) = (String::new(), false);
    for tried in 1..=api.pacing.tries_max {
        let names = staged.names();
        let answered = read(api.commit(table, names.clone()).await?, &names);
        is_absent = matches!(answered, Answered::PartlyAbsent(_));
        match answered {
            Answered::Committed => return Ok(CommitOutcome::Committed),
            Answered::Absent => return lapsed(api, staged, count).await,
            Answered::Failed(refusal) => return Err(refusal.error("rows cannot be committed at BigQuery")),
            Answered::Nothing => last = "it gave neither a commit time nor an error".to_owned(),
            Answered::Odd(why) | Answered::PartlyAbsent(why) => {
                if is_committed(api, staged, &count).await? {
                    return Ok(CommitOutcome::Committed);
                }
                finalize_all(api, staged).await?;
                last = why;
            }
        }
        api.pause(tried).await;
    }
    if is_absent {
        return lapsed(api, staged, count).await;
    }
    Err(Error::retry(format!("BigQuery does not say whether rows are committed: {last}"))
        .hint("the commit is tried again, which does no harm"))
}

/// Reads an answer by what it says of each stream.
fn read(answer: Result<BatchCommitWriteStreamsResponse, Refusal>, names: &[String]) -> Answered {
    match answer {
        Ok(answer) if answer.commit_time.is_some() => Answered::Committed,
        Ok(answer) if answer.stream_errors.is_empty() => Answered::Nothing,
        Ok(answer) => read_errors(&answer.stream_errors, names),
        Err(refusal) if !refusal.storage.is_empty() => match read_errors(&refusal.storage, names) {
            Answered::Failed(_) => Answered::Failed(refusal),
            answered => answered,
        },
        Err(refusal) if refusal.is_absent() => Answered::Absent,
        Err(refusal) if matches!(refusal.code, Code::FailedPrecondition | Code::AlreadyExists) => {
            Answered::Odd(refusal.to_string())
        }
        Err(refusal) => Answered::Failed(refusal),
    }
}

fn read_errors(errors: &[StorageError], names: &[String]) -> Answered {
    let every = |code: StorageErrorCode| names.iter().all(|name| says(errors, name, names.len(), code));
    if every(StorageErrorCode::StreamAlreadyCommitted) {
        return Answered::Committed;
    }
    if every(StorageErrorCode::StreamNotFound) {
        return Answered::Absent;
    }
    if !is_of_streams(errors) {
        return Answered::Failed(Refusal::of_streams(errors));
    }
    let told = errors.iter().map(|error| format!("{} {}", error.code().as_str_name(), error.error_message));
    let told = told.collect::<Vec<_>>().join("; ");
    match errors.iter().all(|error| error.code() == StorageErrorCode::StreamNotFound) {
        true => Answered::PartlyAbsent(told),
        false => Answered::Odd(told),
    }
}

/// Whether the errors say this of the stream, and nothing else. An error that names no stream is of the only one.
fn says(errors: &[StorageError], name: &str, streams: usize, code: StorageErrorCode) -> bool {
    let id = |name: &str| name.rsplit('/').next().map(str::to_owned);
    let names = |error: &&StorageError| match error.entity.as_str() {
        "" => streams == 1,
        entity => id(entity) == id(name),
    };
    let of_stream: Vec<_> = errors.iter().filter(names).collect();
    !of_stream.is_empty() && of_stream.iter().all(|error| error.code() == code)
}

/// Whether all errors are about the state of streams, so that looking at them can help.
fn is_of_streams(errors: &[StorageError]) -> bool {
    use StorageErrorCode as S;
    let states = [S::StreamAlreadyCommitted, S::StreamNotFound, S::InvalidStreamState, S::StreamFinalized];
    errors.iter().all(|error| states.contains(&error.code()))
}

/// Looks whether the rows are committed all the same: every stream says so, or all rows are at the table.
async fn is_committed<F>(api: &WriteApi, staged: &Staged, count: &impl Fn() -> F) -> Result<bool>
where
    F: Future<Output = Result<u64>> + Send,
{
    let mut all = true;
    for stream in &staged.streams {
        all &= matches!(look(api, &stream.name).await?, Look::Committed);
    }
    Ok(all || count().await? == staged.rows())
}

/// What is seen of a stream.
enum Look {
    Committed,
    Pending,
    Absent,
}

async fn look(api: &WriteApi, name: &str) -> Result<Look> {
    match api.patiently(|| api.stream(name)).await? {
        Ok(stream) if stream.commit_time.is_some() => Ok(Look::Committed),
        Ok(_) => Ok(Look::Pending),
        Err(refusal) if refusal.is_absent() => Ok(Look::Absent),
        Err(refusal) => Err(refusal.error("a write stream cannot be looked at")),
    }
}

/// A stream may not have been finalized, where that call's answer was wrong.
async fn finalize_all(api: &WriteApi, staged: &Staged) -> Result<()> {
    for stream in &staged.streams {
        match api.patiently(|| api.finalize(&stream.name)).await? {
            Ok(rows) if u64::try_from(rows) != Ok(stream.rows) => {
                let message = format!("{} has {rows} rows instead of {}", stream.name, stream.rows);
                return Err(Error::user(message).hint("the stream was written by another program"));
            }
            Ok(_) => {}
            // Some servers do not finalize twice; the next commit tells.
            Err(refusal) => tracing::debug!(%refusal, stream = stream.name, "not finalized again"),
        }
    }
    Ok(())
}

/// The commit found no stream, or again and again not all of them. Where each by itself cannot be found either, the table's
/// rows of the batch are counted, and only that count says that they are lost.
async fn lapsed<F>(api: &WriteApi, staged: &Staged, count: impl Fn() -> F) -> Result<CommitOutcome>
where
    F: Future<Output = Result<u64>> + Send,
{
    for looked in 1..=LOOKS {
        let committed = committed_streams(api, staged).await?;
        if committed == staged.streams.len() {
            return Ok(CommitOutcome::Committed);
        }
        if committed > 0 {
            return Err(Error::retry("some of a batch's write streams are committed, and others cannot be found"));
        }
        // What cannot be found for a moment may be there: nothing may call it lost but what lasts.
        if looked < LOOKS {
            api.pause(looked).await;
        }
    }
    by_count(staged, count().await?)
}

/// How many of the streams are committed, where none stands uncommitted.
async fn committed_streams(api: &WriteApi, staged: &Staged) -> Result<usize> {
    let mut committed = 0;
    for stream in &staged.streams {
        match look(api, &stream.name).await? {
            Look::Absent => {}
            Look::Committed => committed += 1,
            Look::Pending => {
                return Err(Error::retry(format!("BigQuery's commit did not find {}, which is there", stream.name)));
            }
        }
    }
    Ok(committed)
}

/// The streams are gone: committed are the rows that the table has.
fn by_count(staged: &Staged, counted: u64) -> Result<CommitOutcome> {
    match (counted, staged.rows()) {
        (0, _) => Ok(CommitOutcome::Lost),
        (counted, rows) if counted == rows => Ok(CommitOutcome::Committed),
        (counted, rows) => {
            let batch = &staged.attempt.id;
            let message =
                format!("the write streams of batch {batch} are gone, and the log has {counted} of its {rows} rows");
            Err(Error::user(message).hint(
                "were rows of the log deleted? Delete the others of that `_cdc_batch`, too, and all are written anew",
            ))
        }
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
