//! `AppendRows`: what one message of a connection does.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/storage/rpc/google.cloud.bigquery.storage.v1#appendrowsrequest>.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use freshet::change::types::same_name;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost::Message;
use proto::append_rows_request::{ArrowData, ProtoData, Rows};
use proto::append_rows_response::{AppendResult, Response};
use proto::row_error::RowErrorCode;
use tonic::Code;

use super::proto_rows::Column;
use super::refusal::{Refusal, Result, StorageErrorCode};
use super::schema::{self, Field};
use super::storage;
use super::streams::{default_of, table_of};
use super::world::World;
use super::{REQUEST_BYTES_MAX, UnseenColumns, arrow_rows, changes, proto_rows};

/// What a connection keeps from its first message on.
#[derive(Debug, Default)]
pub(super) struct Open {
    stream: Option<String>,
    schema: Option<Schema>,
    columns: Option<Vec<Column>>,
    /// The table's columns when the connection last heard of them.
    fields: Option<Vec<Field>>,
}

/// Why one append failed; the connection goes on.
struct Failed {
    refusal: Refusal,
    rows: Vec<proto::RowError>,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, rows: Vec::new() }
    }
}

impl World {
    /// Answers one message. An error ends the connection.
    pub(super) fn append(
        &mut self,
        open: &mut Open,
        request: proto::AppendRowsRequest,
    ) -> Result<proto::AppendRowsResponse> {
        if request.encoded_len() > REQUEST_BYTES_MAX {
            return Err(Refusal::invalid(format!(
                "AppendRows request too large: {} limit 10 MB",
                request.encoded_len()
            )));
        }
        let name = open.stream_of(&request.write_stream)?;
        let rows = match request.rows {
            Some(rows) => rows,
            None => return Err(Refusal::invalid("Rows must be specified")),
        };
        self.drop_dead_streams();
        let fields = self.fields_for(&name)?;
        let updated = open.fields.as_ref().is_some_and(|known| *known != fields);
        let appended = match &rows {
            Rows::ArrowRows(data) => {
                let schema = open.schema_of(data)?;
                self.append_rows(&name, &schema, data, request.offset, &fields)
            }
            Rows::ProtoRows(data) => {
                let columns = open.columns_of(data)?;
                self.append_proto_rows(&name, &columns, data, request.offset, &fields)
            }
        };
        let mut response = match appended {
            Ok(result) => proto::AppendRowsResponse {
                write_stream: name,
                response: Some(Response::AppendResult(result)),
                ..Default::default()
            },
            Err(failed) => failed.refusal.to_response(&name, failed.rows),
        };
        response.updated_schema = updated.then(|| schema::to_proto(&fields));
        open.fields = Some(fields);
        Ok(response)
    }

    /// The columns that rows for this stream may have; the stream must be there.
    fn fields_for(&self, name: &str) -> Result<Vec<Field>> {
        match default_of(name) {
            Some(table) => self.visible_fields(table),
            None => {
                self.stream(name)?;
                self.visible_fields(name.rsplit_once("/streams/").unwrap_or_default().0)
            }
        }
    }

    fn append_rows(
        &mut self,
        name: &str,
        schema: &Schema,
        data: &ArrowData,
        offset: Option<i64>,
        fields: &[Field],
    ) -> std::result::Result<AppendResult, Failed> {
        self.check_offset(name, offset)?;
        let unknown = arrow_rows::check_schema(schema, fields)?;
        let bytes = data.rows.as_ref().map(|rows| rows.serialized_record_batch.as_ref()).unwrap_or_default();
        let rows = arrow_rows::read_rows(bytes, schema)?;
        if rows.num_rows() == 0 {
            return Err(Refusal::invalid("the record batch has no rows").into());
        }
        let rows = self.without_unseen(name, rows, &unknown)?;
        self.add_checked(name, rows, fields)
    }

    fn append_proto_rows(
        &mut self,
        name: &str,
        columns: &[Column],
        data: &ProtoData,
        offset: Option<i64>,
        fields: &[Field],
    ) -> std::result::Result<AppendResult, Failed> {
        self.check_offset(name, offset)?;
        let rows = proto_rows::rows(columns, data.rows.as_ref().unwrap_or(&proto::ProtoRows::default()))?;
        if rows.is_empty() {
            return Err(Refusal::invalid("there are no rows").into());
        }
        if changes::are_changes(columns) {
            self.append_changes(name, columns, rows, fields)?;
            return Ok(AppendResult { offset: None });
        }
        let rows = proto_rows::record_batch(columns, &rows, fields)?;
        self.add_checked(name, rows, fields)
    }

    /// Adds rows, unless a value is wrong.
    fn add_checked(
        &mut self,
        name: &str,
        rows: RecordBatch,
        fields: &[Field],
    ) -> std::result::Result<AppendResult, Failed> {
        let wrong = arrow_rows::check_values(&rows, fields);
        if !wrong.is_empty() {
            let row_error = |(row, message)| proto::RowError {
                index: i64::try_from(row).unwrap(),
                code: RowErrorCode::FieldsError.into(),
                message,
            };
            let refusal = Refusal::invalid("Errors found while processing rows");
            return Err(Failed { refusal, rows: wrong.into_iter().map(row_error).collect() });
        }
        Ok(AppendResult { offset: self.add(name, rows)? })
    }

    /// See <https://cloud.google.com/bigquery/docs/write-api#exactly-once>.
    fn check_offset(&self, name: &str, offset: Option<i64>) -> Result<()> {
        if default_of(name).is_some() {
            return match offset {
                None => Ok(()),
                Some(_) => Err(Refusal::invalid("Offset must not be specified for the default stream")),
            };
        }
        let stream = self.stream(name)?;
        if stream.finalized.is_some() {
            let refusal = Refusal::invalid(format!("Stream has been finalized: {name}"));
            return Err(refusal.with(StorageErrorCode::StreamFinalized, name));
        }
        let next = stream.rows;
        let told = |what: &str, got| format!("The offset {what}, expected offset {next}, received {got}: {name}");
        match offset {
            Some(got) if got < next => {
                let refusal = Refusal::new(Code::AlreadyExists, told("is within stream", got));
                Err(refusal.with(StorageErrorCode::OffsetAlreadyExists, name))
            }
            Some(got) if got > next => {
                let refusal = Refusal::new(Code::OutOfRange, told("is beyond stream", got));
                Err(refusal.with(StorageErrorCode::OffsetOutOfRange, name))
            }
            _ => Ok(()),
        }
    }

    /// Columns that the table has, but that the Write API does not know of yet, may be lost without a word.
    fn without_unseen(&self, name: &str, rows: RecordBatch, unknown: &[String]) -> Result<RecordBatch> {
        if unknown.is_empty() {
            return Ok(rows);
        }
        let path = default_of(name).or_else(|| Some(name.rsplit_once("/streams/")?.0)).unwrap_or_default();
        let (dataset, table) = table_of(path)?;
        let table = self.tables.get(&(dataset, table));
        let is_there = |name: &String| table.is_some_and(|table| schema::find(&table.fields, name).is_some());
        if self.options.unseen_columns == UnseenColumns::Fail || !unknown.iter().all(is_there) {
            return Err(arrow_rows::extra_fields(unknown));
        }
        let schema = rows.schema();
        let is_known = |at: &usize| !unknown.iter().any(|name| same_name(name, schema.field(*at).name()));
        let known: Vec<_> = (0..schema.fields().len()).filter(is_known).collect();
        rows.project(&known).map_err(|error| Refusal::invalid(error.to_string()))
    }

    /// Takes rows in; gives the offset of the first, where the stream has offsets.
    fn add(&mut self, name: &str, rows: RecordBatch) -> Result<Option<i64>> {
        let count = i64::try_from(rows.num_rows()).unwrap();
        let now = self.clock.now();
        let table = match default_of(name) {
            Some(path) => table_of(path)?,
            None => self.stream(name)?.table.clone(),
        };
        let is_pending = self.streams.get(name).is_some_and(|stream| stream.is_pending);
        if !is_pending && let Some(table) = self.tables.get(&table) {
            let rows = storage::keep(&rows, &table.fields);
            let inserted = self.engine.insert(&table.kept_as, &[rows]);
            inserted.map_err(|refused| Refusal::new(Code::Internal, refused.message))?;
        }
        let Some(stream) = self.streams.get_mut(name) else { return Ok(None) };
        if is_pending {
            stream.unseen.push(rows);
        }
        let offset = stream.rows;
        (stream.rows, stream.used) = (offset + count, now);
        Ok(Some(offset))
    }
}

impl Open {
    /// The stream that a message is for.
    pub(super) fn name_for(&self, named: &str) -> String {
        match &self.stream {
            Some(known) if named.is_empty() => known.clone(),
            _ => named.to_owned(),
        }
    }

    fn stream_of(&mut self, named: &str) -> Result<String> {
        let is_default = |name: &str| default_of(name).is_some();
        match &self.stream {
            None if named.is_empty() => Err(Refusal::invalid("write_stream must be given in the first request")),
            Some(known) if named.is_empty() || named == known => Ok(known.clone()),
            Some(known) if !is_default(known) || !is_default(named) => {
                Err(Refusal::invalid(format!("the connection is for {known}, not for {named}")))
            }
            _ => {
                *self = Self { stream: Some(named.to_owned()), ..Self::default() };
                Ok(named.to_owned())
            }
        }
    }

    /// The writer schema of the connection: that of its first request, whatever comes later.
    fn schema_of(&mut self, data: &ArrowData) -> Result<Schema> {
        if let Some(schema) = &self.schema {
            return Ok(schema.clone());
        }
        let given = data.writer_schema.as_ref();
        let given = given.ok_or_else(|| Refusal::invalid("writer_schema must be given in the first request"))?;
        let schema = arrow_rows::read_schema(&given.serialized_schema)?;
        self.schema = Some(schema.clone());
        Ok(schema)
    }

    /// The same for rows in protocol buffers.
    fn columns_of(&mut self, data: &ProtoData) -> Result<Vec<Column>> {
        if let Some(columns) = &self.columns {
            return Ok(columns.clone());
        }
        let given = data.writer_schema.as_ref();
        let given = given.ok_or_else(|| Refusal::invalid("writer_schema must be given in the first request"))?;
        let columns = proto_rows::columns(given)?;
        self.columns = Some(columns.clone());
        Ok(columns)
    }
}
