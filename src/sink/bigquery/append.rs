//! Rows go into a stream, each once: at an offset, over as many connections as it takes.
//!
//! See <https://cloud.google.com/bigquery/docs/write-api-streaming#exactly-once>.

use std::collections::VecDeque;

use tokio::time::timeout;
use tonic::Code;

use super::connection::{Connection, REQUESTS_MAX};
use super::encode::Message;
use super::frames;
use super::outgoing::Room;
use super::status::Refusal;
use super::write::WriteApi;
use super::write::proto::append_rows_request::{ArrowData, MissingValueInterpretation, Rows};
use super::write::proto::append_rows_response::Response;
use super::write::proto::storage_error::StorageErrorCode;
use super::write::proto::{AppendRowsRequest, AppendRowsResponse, ArrowRecordBatch, ArrowSchema, RowError};
use crate::error::{Error, Result};

/// Errors of rows that are told.
const ROW_ERRORS_TOLD: usize = 3;
/// Whom the requests are from, in BigQuery's own logs.
const TRACE: &str = "freshet";

/// Puts messages into one stream.
pub(super) struct Appender<'a> {
    api: &'a WriteApi,
    stream: String,
    schema: bytes::Bytes,
    connection: Option<Connection>,
    /// Not acknowledged yet, in the order of their offsets.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Room for what is made of messages before they are sent, as long as any wait.
    frames: Option<Room>,
    /// How many of them the present connection has got.
    sent: usize,
    /// Where the next message begins.
    offset: u64,
    /// Connections lost since the last acknowledgement.
    lost: u32,
}

struct Waiting {
    offset: u64,
    message: Message,
    _room: Room,
}

impl<'a> Appender<'a> {
    /// Begins at the start of a new stream; `schema` is the IPC message of the rows' schema.
    pub(super) fn new(api: &'a WriteApi, stream: String, schema: bytes::Bytes) -> Self {
        Self {
            api,
            stream,
            schema,
            connection: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            frames: None,
            sent: 0,
            offset: 0,
            lost: 0,
        }
    }

    /// Sends a message; waits only where too much is on its way.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where BigQuery does not take a row, of this or an earlier message.
    pub(super) async fn append(&mut self, message: Message) -> Result<()> {
        let (rows, bytes) = (message.rows, message.bytes.len());
        let room = self.room(bytes).await?;
        self.waiting.push_back(Waiting { offset: self.offset, message, _room: room });
        self.offset += rows;
        self.waiting_bytes += bytes;
        self.send().await?;
        while let Some(answer) = self.connection.as_mut().and_then(Connection::answered) {
            self.answered(answer).await?;
        }
        while self.waiting_bytes > self.api.outgoing.window() || self.waiting.len() >= REQUESTS_MAX {
            self.wait().await?;
        }
        self.send_again().await
    }

    /// Room for one more message, among those of all batches. What this stream has of it comes back by acknowledgements, so it
    /// waits for these as long as there are some to come.
    async fn room(&mut self, bytes: usize) -> Result<Room> {
        let outgoing = &self.api.outgoing;
        loop {
            if !self.is_waiting() {
                return self.first_room(bytes).await;
            }
            if let Some(room) = outgoing.try_room(bytes) {
                return Ok(room);
            }
            self.wait().await?;
        }
    }

    /// Room for a message while no other is on its way, and for what is made of it and of those after it, which are taken to be
    /// as large.
    async fn first_room(&mut self, bytes: usize) -> Result<Room> {
        let parts = 1 + frames::copies(self.api.compression);
        let mut room = self.api.outgoing.room(bytes.saturating_mul(parts)).await?;
        let of_frames = room.num_permits() / parts * (parts - 1);
        self.frames = room.split(of_frames);
        Ok(room)
    }

    /// The next answer, or that it did not come in time.
    pub(super) async fn answer(&mut self) -> Result<AppendRowsResponse, Refusal> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(Refusal::new(Code::Unavailable, "there is no connection"));
        };
        let late = |_| Err(Refusal::new(Code::DeadlineExceeded, "rows were not acknowledged in time"));
        timeout(self.api.pacing.acknowledge_max, connection.answer()).await.unwrap_or_else(late)
    }

    /// Whether messages wait for an answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes an answer, and sends again what it says was not written.
    ///
    /// # Errors
    /// As those of [`append`](Self::append).
    pub(super) async fn take(&mut self, answer: Result<AppendRowsResponse, Refusal>) -> Result<()> {
        self.answered(answer).await?;
        self.send_again().await
    }

    /// Where a connection was lost meanwhile, what waits is sent by another.
    async fn send_again(&mut self) -> Result<()> {
        if self.is_waiting() { self.send().await } else { Ok(()) }
    }

    /// Waits until every message is acknowledged; gives how many rows the stream has.
    pub(super) async fn finish(mut self) -> Result<u64> {
        while self.is_waiting() {
            self.wait().await?;
        }
        Ok(self.offset)
    }

    async fn wait(&mut self) -> Result<()> {
        self.send().await?;
        let answer = self.answer().await;
        self.answered(answer).await
    }

    /// Hands what has not been sent yet to the connection, which is opened where there is none.
    async fn send(&mut self) -> Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.sent = 0;
                Connection::open(self.api, &self.stream).await?
            }
        };
        while let Some(next) = self.waiting.get(self.sent) {
            let offset =
                i64::try_from(next.offset).map_err(|_| Error::bug("a stream has more rows than BigQuery counts"))?;
            if !connection.send(self.request(offset, next, self.sent == 0)) {
                break;
            }
            self.sent += 1;
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// The schema goes with the first request of a connection only: later it would be ignored.
    fn request(&self, offset: i64, waiting: &Waiting, first: bool) -> AppendRowsRequest {
        let schema = first.then(|| ArrowSchema { serialized_schema: self.schema.clone() });
        let rows = ArrowRecordBatch { serialized_record_batch: waiting.message.bytes.clone(), ..Default::default() };
        AppendRowsRequest {
            write_stream: self.stream.clone(),
            offset: Some(offset),
            trace_id: TRACE.to_owned(),
            default_missing_value_interpretation: MissingValueInterpretation::NullValue.into(),
            rows: Some(Rows::ArrowRows(ArrowData { writer_schema: schema, rows: Some(rows) })),
            ..AppendRowsRequest::default()
        }
    }

    async fn answered(&mut self, answer: Result<AppendRowsResponse, Refusal>) -> Result<()> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => return self.refused(refusal, false).await,
        };
        if !answer.row_errors.is_empty() {
            return Err(bad_rows(&answer.row_errors, self.waiting.front().map_or(0, |first| first.message.first)));
        }
        match answer.response {
            Some(Response::Error(status)) => self.refused(status.into(), true).await,
            Some(Response::AppendResult(result)) => self.written(result.offset),
            // It only tells of a new schema of the table.
            None => Ok(()),
        }
    }

    /// The first message that waits is written, at this offset.
    fn written(&mut self, offset: Option<i64>) -> Result<()> {
        let Some(first) = self.waiting.front().filter(|_| self.sent > 0) else {
            return Err(Error::retry("BigQuery acknowledged rows that were not sent"));
        };
        if offset.is_some_and(|offset| u64::try_from(offset) != Ok(first.offset)) {
            return Err(Error::retry("BigQuery acknowledged rows at another offset than theirs"));
        }
        self.waiting_bytes -= first.message.bytes.len();
        self.waiting.pop_front();
        if self.waiting.is_empty() {
            self.frames = None;
        }
        self.sent -= 1;
        self.lost = 0;
        Ok(())
    }

    /// Where `inside` an answer, it is the first message that waits which was refused, and the connection may
    /// go on.
    async fn refused(&mut self, refusal: Refusal, inside: bool) -> Result<()> {
        if refusal.code == Code::AlreadyExists || refusal.names(StorageErrorCode::OffsetAlreadyExists) {
            if !inside {
                self.connection = None;
            }
            return self.written(None);
        }
        self.connection = None;
        self.lost += 1;
        // A token may have run out while the connection lasted.
        let worth_it = refusal.passes() || (refusal.code == Code::Unauthenticated && self.lost == 1);
        if !worth_it || self.lost >= self.api.pacing.tries_max {
            return Err(refusal.error("rows cannot be written to BigQuery"));
        }
        tracing::debug!(%refusal, stream = self.stream, "rows are sent again");
        self.api.pause(self.lost).await;
        Ok(())
    }
}

/// What is wrong with rows of a message that begins with this row of the batch.
fn bad_rows(errors: &[RowError], first: u64) -> Error {
    let told = errors.iter().take(ROW_ERRORS_TOLD).map(|error| {
        let row = i64::try_from(first).ok().and_then(|first| first.checked_add(error.index)).unwrap_or(error.index);
        format!("row {row} of the batch: {}", error.message)
    });
    let told: Vec<_> = told.collect();
    Error::data(format!("BigQuery does not take {} of the rows: {}", errors.len(), told.join("; ")))
        .hint("CAST the column in the table's SQL so that its values fit")
}

#[cfg(test)]
#[path = "append_tests.rs"]
mod tests;
