//! Step 1 of the commit protocol: rows go into PENDING streams, which no reader sees.

use arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use super::encode::Encoder;
use super::staged::{Staged, StagedStream};
use super::streams::{self, Queue};
use super::write::WriteApi;
use super::{BigQuerySink, Part, tables};
use crate::error::{Error, Result};
use crate::sink::columns::{self, same};
use crate::sink::log_rows::{self, LogRows};
use crate::sink::{Attempt, Column, Prepared, Rows, Target};

/// Gives the log the columns that the rows need, writes them and counts them.
///
/// A stream takes rows only in the table's own columns, so the log has them before its rows are known to be good:
/// where a later row turns out bad, its column stays, empty.
pub(super) async fn prepare(sink: &BigQuerySink, target: &Target, attempt: &Attempt, rows: Rows) -> Result<Prepared> {
    log_rows::check_names(target, &rows.columns)?;
    let Rows { columns, mut stream } = rows;
    let first = next_rows(&mut stream).await?;
    let wanted: Vec<_> = columns.iter().map(log_rows::own_spelling).chain(columns::added_to_changes()).collect();
    let have = tables::ensure_log(sink, target, &wanted).await?;
    let log = LogRows::new(&columns, &have, attempt)?;
    let written = match first {
        Some(first) => {
            let table = sink.table(target, Part::Changes).path();
            write_rows(&sink.write, &table, &log, first, stream).await?
        }
        None => Written::default(),
    };
    let staged = Staged { attempt: attempt.clone(), streams: written.streams };
    Ok(Prepared { rows: staged.rows(), bytes: written.bytes, columns: data_columns(have), staged: staged.to_json()? })
}

/// The streams that hold the rows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written {
    streams: Vec<StagedStream>,
    /// As Arrow IPC.
    bytes: u64,
}

/// Writes the rows into new streams of the table with this path.
async fn write_rows(
    api: &WriteApi,
    table: &str,
    log: &LogRows,
    first: RecordBatch,
    rest: SendableRecordBatchStream,
) -> Result<Written> {
    let mut encoder = Encoder::new(log.schema.clone())?;
    let (queue, streams) = streams::begin(api, table, &log.columns, encoder.schema_message()?);
    let (bytes, streams) = tokio::try_join!(make(encoder, log, first, rest, queue), streams.write())?;
    Ok(Written { streams, bytes })
}

/// Makes the messages of all rows; gives their bytes.
async fn make(
    mut encoder: Encoder,
    log: &LogRows,
    first: RecordBatch,
    mut rest: SendableRecordBatchStream,
    queue: Queue,
) -> Result<u64> {
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(batch) = next {
        for message in encoder.push(&log.lay_out(&batch)?)? {
            bytes += message.bytes.len() as u64;
            queue.push(message).await?;
        }
        next = next_rows(&mut rest).await?;
    }
    for message in encoder.finish()? {
        bytes += message.bytes.len() as u64;
        queue.push(message).await?;
    }
    Ok(bytes)
}

/// The next batch that has rows.
async fn next_rows(stream: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>> {
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(Error::of_rows)?;
        if batch.num_rows() > 0 {
            return Ok(Some(batch));
        }
    }
    Ok(None)
}

/// The log's columns without what the sink adds.
fn data_columns(log: Vec<Column>) -> Vec<Column> {
    let added = columns::added_to_changes();
    log.into_iter().filter(|column| !added.iter().any(|own| same(&own.name, &column.name))).collect()
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
