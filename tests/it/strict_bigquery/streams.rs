//! Write streams: made, finalized, committed; and how long they live.
//!
//! See <https://cloud.google.com/bigquery/docs/write-api-streaming> and
//! <https://cloud.google.com/bigquery/docs/reference/storage/rpc/google.cloud.bigquery.storage.v1>.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::write_stream::Type;
use tonic::Code;

use super::PROJECT;
use super::refusal::{Refusal, Result, StorageErrorCode};
use super::schema::{self, Field};
use super::storage;
use super::world::World;

/// A stream that was made; `_default` is none of them.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) table: (String, String),
    /// Which table of that name.
    table_number: u64,
    pub(super) is_pending: bool,
    created: DateTime<Utc>,
    pub(super) finalized: Option<DateTime<Utc>>,
    pub(super) committed: Option<DateTime<Utc>>,
    pub(super) used: DateTime<Utc>,
    /// How many rows it has: the next offset.
    pub(super) rows: i64,
    /// The rows that no reader sees yet.
    pub(super) unseen: Vec<RecordBatch>,
}

impl Stream {
    /// Whether it is still there.
    fn lives(&self, now: DateTime<Utc>) -> bool {
        if !self.is_pending || self.committed.is_some() {
            return now < self.used + TimeDelta::days(3);
        }
        now < self.created + TimeDelta::hours(24)
            && self.finalized.is_none_or(|finalized| now < finalized + TimeDelta::hours(4))
    }
}

/// Dataset and table of `projects/PROJECT/datasets/D/tables/T`.
pub(super) fn table_of(path: &str) -> Result<(String, String)> {
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["projects", of, "datasets", dataset, "tables", table] if *of == PROJECT => {
            Ok(((*dataset).to_owned(), (*table).to_owned()))
        }
        ["projects", of, "datasets", _, "tables", _] => {
            Err(Refusal::new(Code::PermissionDenied, format!("Permission denied on project {of}")))
        }
        _ => Err(Refusal::invalid(format!("no table's name: {path}"))),
    }
}

/// The path of the table whose default stream this is.
pub(super) fn default_of(name: &str) -> Option<&str> {
    name.strip_suffix("/streams/_default").or_else(|| name.strip_suffix("/_default"))
}

impl World {
    /// Forgets streams whose time is over or whose table is gone.
    pub(super) fn drop_dead_streams(&mut self) {
        let now = self.clock.now();
        let tables = &self.tables;
        self.streams.retain(|_, stream| {
            let is_there = tables.get(&stream.table).is_some_and(|table| table.number == stream.table_number);
            is_there && stream.lives(now)
        });
    }

    /// The stream of that name.
    pub(super) fn stream(&self, name: &str) -> Result<&Stream> {
        self.streams.get(name).ok_or_else(|| Refusal::not_found(StorageErrorCode::StreamNotFound, name))
    }

    /// A table's columns as the Write API knows them by now.
    pub(super) fn visible_fields(&self, path: &str) -> Result<Vec<Field>> {
        let (dataset, name) = table_of(path)?;
        let missing = |_| Refusal::not_found(StorageErrorCode::TableNotFound, path);
        let table = self.table(&dataset, &name).map_err(missing)?;
        if table.view.is_some() {
            return Err(Refusal::invalid(format!("{path} is a view")));
        }
        let known_until = (self.clock.now() - self.options.columns_visible_after).max(table.created);
        Ok(schema::as_of(&table.fields, known_until))
    }

    pub(super) fn create_stream(&mut self, request: &proto::CreateWriteStreamRequest) -> Result<proto::WriteStream> {
        let kind = request.write_stream.as_ref().map(proto::WriteStream::r#type);
        let is_pending = match kind {
            Some(Type::Pending) => true,
            Some(Type::Committed) => false,
            Some(Type::Buffered) => {
                return Err(Refusal::new(Code::Unimplemented, "the strict server has no BUFFERED streams"));
            }
            _ => return Err(Refusal::invalid("write_stream.type must be set")),
        };
        self.visible_fields(&request.parent)?;
        let now = self.clock.now();
        if !self.new_streams.take("", now) {
            let what = "Exceeds quota 'CreateWriteStream requests per hour per project per region'";
            return Err(Refusal::new(Code::ResourceExhausted, what));
        }
        let table = table_of(&request.parent)?;
        let table_number = self.tables.get(&table).map_or(0, |table| table.number);
        let name = format!("{}/streams/Strict{:08x}", request.parent, self.fresh_number());
        let stream = Stream {
            table,
            table_number,
            is_pending,
            created: now,
            finalized: None,
            committed: None,
            used: now,
            rows: 0,
            unseen: Vec::new(),
        };
        self.streams.insert(name.clone(), stream);
        self.show_stream(&name, true)
    }

    /// The stream's resource; the schema comes with the full view only.
    pub(super) fn show_stream(&self, name: &str, is_full: bool) -> Result<proto::WriteStream> {
        if let Some(table) = default_of(name) {
            let table_schema = Some(schema::to_proto(&self.visible_fields(table)?)).filter(|_| is_full);
            let (name, r#type) = (format!("{table}/streams/_default"), Type::Committed.into());
            return Ok(proto::WriteStream { name, r#type, table_schema, ..Default::default() });
        }
        let stream = self.stream(name)?;
        let (table, _) = name.rsplit_once("/streams/").unwrap_or_default();
        let mut out = proto::WriteStream {
            name: name.to_owned(),
            r#type: if stream.is_pending { Type::Pending } else { Type::Committed }.into(),
            write_mode: proto::write_stream::WriteMode::Insert.into(),
            ..Default::default()
        };
        if is_full {
            out.table_schema = Some(schema::to_proto(&self.visible_fields(table)?));
        }
        let created = out.create_time.get_or_insert_default();
        (created.seconds, created.nanos) = seconds(stream.created);
        if let Some(moment) = stream.committed {
            let committed = out.commit_time.get_or_insert_default();
            (committed.seconds, committed.nanos) = seconds(moment);
        }
        Ok(out)
    }

    /// No more rows come; gives how many came.
    pub(super) fn finalize_stream(&mut self, name: &str) -> Result<i64> {
        if default_of(name).is_some() {
            let refusal = Refusal::invalid("the default stream cannot be finalized");
            return Err(refusal.with(StorageErrorCode::InvalidStreamType, name));
        }
        self.stream(name)?;
        let now = self.clock.now();
        let stream = self.streams.get_mut(name).ok_or_else(|| Refusal::invalid(name))?;
        stream.finalized.get_or_insert(now);
        Ok(stream.rows)
    }

    /// Makes the rows of all streams visible, or of none.
    pub(super) fn commit_streams(
        &mut self,
        request: &proto::BatchCommitWriteStreamsRequest,
    ) -> Result<proto::BatchCommitWriteStreamsResponse> {
        self.visible_fields(&request.parent)?;
        let table = table_of(&request.parent)?;
        let names = &request.write_streams;
        if names.is_empty() || names.iter().collect::<BTreeSet<_>>().len() < names.len() {
            return Err(Refusal::invalid("write_streams must be some streams, each named once"));
        }
        let mut response = proto::BatchCommitWriteStreamsResponse::default();
        response.stream_errors.extend(names.iter().filter_map(|name| self.commit_error(name, &table)));
        if !response.stream_errors.is_empty() {
            return Ok(response);
        }
        self.take_effect(names, &table)?;
        let now = self.clock.now();
        for name in names {
            if let Some(stream) = self.streams.get_mut(name) {
                (stream.committed, stream.used) = (Some(now), now);
                stream.unseen.clear();
            }
        }
        self.on_commit.iter().for_each(|called| called(names));
        let commit_time = response.commit_time.get_or_insert_default();
        (commit_time.seconds, commit_time.nanos) = seconds(now);
        Ok(response)
    }

    fn take_effect(&mut self, names: &[String], table: &(String, String)) -> Result<()> {
        let fields = self.tables.get(table).map(|table| table.fields.clone()).unwrap_or_default();
        let rows = names.iter().filter_map(|name| self.streams.get(name)).flat_map(|stream| &stream.unseen);
        let rows: Vec<_> = rows.map(|rows| storage::keep(rows, &fields)).collect();
        let kept_as = self.tables.get(table).map(|table| table.kept_as.clone()).unwrap_or_default();
        let inserted = self.engine.insert(&kept_as, &rows);
        inserted.map_err(|refused| Refusal::new(Code::Internal, refused.message))
    }

    fn commit_error(&self, name: &str, table: &(String, String)) -> Option<proto::StorageError> {
        let (code, what) = match self.streams.get(name) {
            None => (StorageErrorCode::StreamNotFound, "Stream is not found"),
            Some(stream) if stream.table != *table => {
                (StorageErrorCode::InvalidStreamState, "Stream is of another table than the parent")
            }
            Some(stream) if !stream.is_pending => (StorageErrorCode::InvalidStreamType, "Stream is not PENDING"),
            Some(stream) if stream.committed.is_some() => {
                (StorageErrorCode::StreamAlreadyCommitted, "Stream has been committed")
            }
            Some(stream) if stream.finalized.is_none() => {
                (StorageErrorCode::InvalidStreamState, "Stream is not finalized")
            }
            Some(_) => return None,
        };
        Some(proto::StorageError { code: code.into(), entity: name.to_owned(), error_message: what.to_owned() })
    }
}

fn seconds(moment: DateTime<Utc>) -> (i64, i32) {
    (moment.timestamp(), i32::try_from(moment.timestamp_subsec_nanos()).unwrap_or(0))
}
