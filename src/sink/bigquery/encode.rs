//! Rows as the Storage Write API takes them: Arrow IPC messages, none larger than a request may be.
//!
//! See <https://cloud.google.com/bigquery/docs/write-api#arrow-format>. Pure: no I/O.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::MetadataVersion;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message};
use bytes::Bytes;

use super::repeated;
use crate::change::FileId;
use crate::error::{Error, Result};
use crate::sink::columns;

/// A request must be smaller than 10 MB; what stands around the rows takes less than what is left.
/// See <https://cloud.google.com/bigquery/quotas#write-api-limits>.
pub(super) const MESSAGE_BYTES_MAX: usize = 9 * 1024 * 1024;
/// Small batches are put together up to this, and large ones cut.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// No more rows go into one message.
const MESSAGE_ROWS: usize = 16_384;
/// The alignment of buffers inside a message, in bytes: the least that the format allows.
const ALIGNMENT: usize = 8;

/// Rows in one IPC message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// How many rows came before them.
    pub(super) first: u64,
    /// How many.
    pub(super) rows: u64,
    /// The message, with its length before it.
    pub(super) bytes: Bytes,
}

/// Makes messages of batches of one schema.
pub(super) struct Encoder {
    schema: SchemaRef,
    options: IpcWriteOptions,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    writing: IpcWriteContext,
    /// Rows that wait for others.
    gathered: Vec<RecordBatch>,
    gathered_rows: usize,
    gathered_bytes: usize,
    message_bytes_max: usize,
    /// Rows that are in messages.
    encoded_rows: u64,
}

impl Encoder {
    /// An encoder of rows of this schema.
    pub(super) fn new(schema: SchemaRef) -> Result<Self> {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5).map_err(broken)?;
        Ok(Self {
            schema,
            options,
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(true),
            writing: IpcWriteContext::default(),
            gathered: Vec::new(),
            gathered_rows: 0,
            gathered_bytes: 0,
            message_bytes_max: MESSAGE_BYTES_MAX,
            encoded_rows: 0,
        })
    }

    /// The schema as an IPC message, which goes before the rows.
    pub(super) fn schema_message(&mut self) -> Result<Bytes> {
        let encoded =
            self.generator.schema_to_bytes_with_dictionary_tracker(&self.schema, &mut self.dictionaries, &self.options);
        let mut bytes = Vec::new();
        write_message(&mut bytes, encoded, &self.options).map_err(broken)?;
        Ok(bytes.into())
    }

    /// Takes rows; gives the messages that are full.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where a row cannot be in any request.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<Vec<Message>> {
        if batch.schema_ref().fields() != self.schema.fields() {
            return Err(Error::bug("rows of another schema came to be encoded"));
        }
        let bytes = size(batch);
        let piece_rows = batch.num_rows().checked_mul(MESSAGE_BYTES).map_or(1, |rows| rows / bytes.max(1));
        let piece_rows = piece_rows.clamp(1, MESSAGE_ROWS);
        let mut messages = Vec::new();
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = piece_rows.min(batch.num_rows() - from);
            messages.extend(self.gather(batch.slice(from, rows))?);
            from += rows;
        }
        Ok(messages)
    }

    /// The messages of the rows that still wait.
    pub(super) fn finish(&mut self) -> Result<Vec<Message>> {
        let gathered = std::mem::take(&mut self.gathered);
        (self.gathered_rows, self.gathered_bytes) = (0, 0);
        if gathered.is_empty() {
            return Ok(Vec::new());
        }
        let batch = concat_batches(&self.schema, &gathered).map_err(broken)?;
        let mut messages = Vec::new();
        self.encode(&repeated::without_null_lists(&batch)?, &mut messages)?;
        Ok(messages)
    }

    fn gather(&mut self, piece: RecordBatch) -> Result<Vec<Message>> {
        let (rows, bytes) = (piece.num_rows(), size(&piece));
        let full = self.gathered_rows + rows > MESSAGE_ROWS || self.gathered_bytes + bytes > MESSAGE_BYTES;
        let messages = if full { self.finish()? } else { Vec::new() };
        self.gathered.push(piece);
        self.gathered_rows += rows;
        self.gathered_bytes += bytes;
        Ok(messages)
    }

    /// Encodes and measures; halves what is too large.
    fn encode(&mut self, batch: &RecordBatch, messages: &mut Vec<Message>) -> Result<()> {
        let rows = batch.num_rows();
        let bytes = self.message(batch)?;
        if bytes.len() <= self.message_bytes_max {
            let rows = rows as u64;
            messages.push(Message { first: self.encoded_rows, rows, bytes: bytes.into() });
            self.encoded_rows += rows;
            return Ok(());
        }
        let length = bytes.len();
        drop(bytes);
        if rows <= 1 {
            return Err(too_large(batch, length));
        }
        self.encode(&batch.slice(0, rows / 2), messages)?;
        self.encode(&batch.slice(rows / 2, rows - rows / 2), messages)
    }

    fn message(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        let encoded =
            self.generator.encode(batch, &mut self.dictionaries, &self.options, &mut self.writing).map_err(broken)?;
        let (dictionaries, rows) = encoded;
        if !dictionaries.is_empty() {
            return Err(Error::bug("a dictionary came to be encoded"));
        }
        let mut bytes = Vec::with_capacity(rows.ipc_message.len() + rows.arrow_data.len() + 64);
        write_message(&mut bytes, rows, &self.options).map_err(broken)?;
        Ok(bytes)
    }
}

/// About how many bytes the values take.
fn size(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column_size(column.as_ref())).sum()
}

fn column_size(column: &dyn Array) -> usize {
    column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
}

/// Names what is known of a row that fits no request: its file and its largest column.
fn too_large(row: &RecordBatch, bytes: usize) -> Error {
    let named = row.schema_ref().fields().iter().zip(row.columns());
    let largest = named.max_by_key(|(_, column)| column_size(column.as_ref())).map(|(field, _)| field.name().clone());
    let largest = largest.unwrap_or_default();
    let file = row.column_by_name(columns::FILE_ID).and_then(|ids| file_id(ids.as_ref()));
    let of_file = file.map(|id| format!(" of the file with `_cdc_file_id` {id}")).unwrap_or_default();
    let message =
        format!("a row{of_file} takes {bytes} bytes, more than the {MESSAGE_BYTES_MAX} of a request to BigQuery");
    Error::data(message).hint(format!("its largest column is `{largest}`: cut or leave it out in the table's SQL"))
}

fn file_id(ids: &dyn Array) -> Option<FileId> {
    let ids = ids.as_binary_opt::<i32>()?;
    (!ids.is_empty() && ids.is_valid(0)).then(|| ids.value(0).try_into().ok().map(FileId)).flatten()
}

fn broken(cause: ArrowError) -> Error {
    Error::bug("rows cannot be encoded as Arrow IPC").because(cause)
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
