//! Plain clients of both APIs, as thin as can be.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::{cloud::bigquery::storage::v1 as proto, rpc};
use prost::Message;
use proto::append_rows_request::{ArrowData, Rows};
use proto::append_rows_response::Response;
use proto::big_query_write_client::BigQueryWriteClient;
use proto::write_stream::Type;
use serde_json::{Value, json};
use std::sync::Arc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::strict_bigquery::{Options, StrictBigQuery};

pub(super) const TABLE: &str = "projects/test-project/datasets/shop/tables/orders";

/// A server with a dataset `shop`, whose time passes only as tests turn it forward, and clients of it.
pub(super) struct Client {
    pub(super) server: StrictBigQuery,
    http: reqwest::Client,
    pub(super) grpc: BigQueryWriteClient<Channel>,
}

impl Client {
    pub(super) async fn new(options: Options) -> Self {
        let server = StrictBigQuery::start(options).await;
        server.stop_time();
        server.create_dataset("shop", "EU");
        let channel = tonic::transport::Endpoint::from_shared(server.grpc_url()).unwrap().connect_lazy();
        let grpc = BigQueryWriteClient::new(channel).max_encoding_message_size(64 << 20);
        Self { http: reqwest::Client::builder().no_proxy().build().unwrap(), grpc, server }
    }

    /// The same with a table `shop.orders (id INT64 REQUIRED, Item STRING)`.
    pub(super) async fn with_orders(options: Options) -> Self {
        let client = Self::new(options).await;
        client.make("orders", json!([field("id", "INT64", "REQUIRED"), field("Item", "STRING", "NULLABLE")])).await;
        client
    }

    /// A REST call below `projects/test-project/`: status and body.
    pub(super) async fn try_rest(&self, method: &str, path: &str, body: &Value) -> reqwest::Result<(u16, Value)> {
        let url = format!("{}/bigquery/v2/projects/test-project/{path}", self.server.rest_url());
        let mut request = self.http.request(method.parse().unwrap(), url);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_slice(&answer.bytes().await?).unwrap_or_default()))
    }

    pub(super) async fn rest(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_rest(method, path, body).await.unwrap()
    }

    /// Demands an outcome: `200`, `404 notFound`.
    #[track_caller]
    pub(super) fn check(
        &self,
        method: &str,
        path: &str,
        body: Value,
        expected: &str,
    ) -> impl Future<Output = Value> + use<'_> {
        let (method, path, expected) = (method.to_owned(), path.to_owned(), expected.to_owned());
        let caller = std::panic::Location::caller();
        async move {
            let (status, answer) = self.rest(&method, &path, &body).await;
            let reason = answer["error"]["errors"][0]["reason"].as_str().unwrap_or_default();
            assert_eq!(format!("{status} {reason}").trim(), expected, "{caller}: {method} {path} {body}: {answer}");
            answer
        }
    }

    /// Makes a table of these columns in `shop`.
    pub(super) async fn make(&self, table: &str, fields: Value) {
        let body = json!({"tableReference": {"tableId": table}, "schema": {"fields": fields}});
        self.check("POST", "datasets/shop/tables", body, "200").await;
    }

    /// Gives `shop.orders` other columns.
    pub(super) async fn patch(&self, fields: Value, expected: &str) -> Value {
        self.check("PATCH", "datasets/shop/tables/orders", json!({"schema": {"fields": fields}}), expected).await
    }

    /// Runs a statement as a job with this id; the job as it then stands.
    pub(super) async fn job(&self, id: &str, sql: &str) -> Value {
        let body = json!({
            "jobReference": {"jobId": id, "location": "EU"},
            "configuration": {"query": {"query": sql, "useLegacySql": false}},
        });
        self.check("POST", "jobs", body, "200").await
    }

    /// The rows of a query, with TIMESTAMP in µs.
    pub(super) async fn query(&self, sql: &str) -> Value {
        let format = json!({"useInt64Timestamp": true});
        let body = json!({"query": sql, "useLegacySql": false, "location": "EU", "formatOptions": format});
        self.check("POST", "queries", body, "200").await
    }

    pub(super) async fn create(&mut self, table: &str, kind: Type) -> Result<proto::WriteStream, Status> {
        let write_stream = Some(proto::WriteStream { r#type: kind.into(), ..Default::default() });
        let request = proto::CreateWriteStreamRequest { parent: table.to_owned(), write_stream };
        self.grpc.create_write_stream(request).await.map(tonic::Response::into_inner)
    }

    /// A PENDING stream of `shop.orders`.
    pub(super) async fn pending(&mut self) -> String {
        self.create(TABLE, Type::Pending).await.unwrap().name
    }

    /// Sends messages over one connection; the answers until it ends.
    pub(super) async fn send(
        &mut self,
        requests: Vec<proto::AppendRowsRequest>,
    ) -> (Vec<proto::AppendRowsResponse>, Option<Status>) {
        let mut answers = Vec::new();
        let mut stream = match self.grpc.append_rows(futures::stream::iter(requests)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return (answers, Some(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => return (answers, None),
                Err(status) => return (answers, Some(status)),
            }
        }
    }

    /// Appends rows over a connection of their own; what came of it, see [`outcome`].
    pub(super) async fn append(&mut self, stream: &str, offset: Option<i64>, rows: &RecordBatch) -> String {
        let (answers, status) = self.send(vec![request(stream, offset, rows)]).await;
        match (answers.as_slice(), status) {
            ([answer], None) => outcome(answer),
            (_, status) => refusal(&status.unwrap()),
        }
    }

    pub(super) async fn finalize(&mut self, stream: &str) -> Result<i64, Status> {
        let request = proto::FinalizeWriteStreamRequest { name: stream.to_owned() };
        self.grpc.finalize_write_stream(request).await.map(|response| response.into_inner().row_count)
    }

    /// Commits streams of `shop.orders`; `committed` or what stands against it.
    pub(super) async fn commit(&mut self, streams: &[&str]) -> String {
        let write_streams = streams.iter().map(|name| (*name).to_owned()).collect();
        let request = proto::BatchCommitWriteStreamsRequest { parent: TABLE.to_owned(), write_streams };
        let answer = match self.grpc.batch_commit_write_streams(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return refusal(&status),
        };
        match (answer.commit_time, answer.stream_errors.as_slice()) {
            (Some(_), []) => "committed".to_owned(),
            (None, []) => "nothing".to_owned(),
            (None, errors) => {
                let told: Vec<_> = errors.iter().map(|error| error.code().as_str_name()).collect();
                told.join(", ")
            }
            (Some(_), _) => panic!("a commit with errors"),
        }
    }

    pub(super) async fn get(&mut self, stream: &str) -> Result<proto::WriteStream, Status> {
        let view = proto::WriteStreamView::Full.into();
        let request = proto::GetWriteStreamRequest { name: stream.to_owned(), view };
        self.grpc.get_write_stream(request).await.map(tonic::Response::into_inner)
    }

    /// Writes and commits rows.
    pub(super) async fn load(&mut self, table: &str, rows: &RecordBatch) {
        let stream = format!("projects/test-project/datasets/shop/tables/{table}/streams/_default");
        assert_eq!(self.append(&stream, None, rows).await, "appended");
    }
}

/// A column for the REST API.
pub(super) fn field(name: &str, kind: &str, mode: &str) -> Value {
    json!({"name": name, "type": kind, "mode": mode})
}

/// Rows for `shop.orders`.
pub(super) fn orders(rows: &[(i64, &str)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|(id, _)| Some(*id)).collect();
    let items: StringArray = rows.iter().map(|(_, item)| Some(*item)).collect();
    batch(vec![("id", Arc::new(ids)), ("item", Arc::new(items))])
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// The IPC messages of a schema and of rows.
pub(super) fn messages(rows: &RecordBatch) -> Vec<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).unwrap();
    writer.write(rows).unwrap();
    let bytes = writer.into_inner().unwrap();
    let mut rest = bytes.as_slice();
    let mut out = Vec::new();
    while rest.len() > 8 {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        let header = arrow::ipc::root_as_message(&rest[8..8 + length]).unwrap();
        let end = 8 + length + usize::try_from(header.bodyLength()).unwrap();
        out.push(rest[..end].to_vec());
        rest = &rest[end..];
    }
    out
}

/// The request that begins a connection.
pub(super) fn request(stream: &str, offset: Option<i64>, rows: &RecordBatch) -> proto::AppendRowsRequest {
    let messages = messages(rows);
    let [schema, .., rows] = messages.as_slice() else { panic!("no rows") };
    request_of(stream, offset, schema, rows)
}

pub(super) fn request_of(stream: &str, offset: Option<i64>, schema: &[u8], rows: &[u8]) -> proto::AppendRowsRequest {
    let mut data = ArrowData::default();
    if !schema.is_empty() {
        data.writer_schema = Some(proto::ArrowSchema { serialized_schema: schema.to_vec().into() });
    }
    data.rows = Some(proto::ArrowRecordBatch { serialized_record_batch: rows.to_vec().into(), ..Default::default() });
    let rows = Some(Rows::ArrowRows(data));
    proto::AppendRowsRequest { write_stream: stream.to_owned(), offset, rows, ..Default::default() }
}

/// `appended` at an offset, or the code, the storage error and the row errors.
pub(super) fn outcome(answer: &proto::AppendRowsResponse) -> String {
    match answer.response.as_ref().unwrap() {
        Response::AppendResult(result) => match result.offset {
            Some(offset) => format!("appended at {offset}"),
            None => "appended".to_owned(),
        },
        Response::Error(error) => {
            let mut out = told(Code::from(error.code), error);
            for row in &answer.row_errors {
                out += &format!(", row {}: {}", row.index, row.message);
            }
            out
        }
    }
}

/// The code and the storage error of a call that failed.
pub(super) fn refusal(status: &Status) -> String {
    told(status.code(), &rpc::Status::decode(status.details()).unwrap())
}

fn told(code: Code, status: &rpc::Status) -> String {
    let storage = status.details.iter().map(|any| {
        assert!(any.type_url.ends_with("google.cloud.bigquery.storage.v1.StorageError"), "{any:?}");
        proto::StorageError::decode(any.value.as_slice()).unwrap().code().as_str_name()
    });
    let parts: Vec<_> = std::iter::once(format!("{code:?}")).chain(storage.map(str::to_owned)).collect();
    parts.join(" ")
}
