//! A BigQuery that acknowledges rows at once, or so long after, and keeps none: what it costs is receiving them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::ipc::root_as_message;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost::Message;
use proto::append_rows_request::Rows;
use proto::append_rows_response::{AppendResult, Response as Answer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::{Method, StatusCode};
use tonic::server::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use grpc_method::GrpcMethod;

#[path = "../../tests/it/strict_bigquery/grpc_method.rs"]
mod grpc_method;

const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes that a client may send before they are taken: enough that it is the client that is measured.
const WINDOW: u32 = 16 << 20;
/// Requests of a connection that wait for their acknowledgement, more than any client sends without.
const REQUESTS_AT_ONCE: usize = 1_000;
/// Of an encapsulated Arrow message: the mark of its beginning and its length.
const MESSAGE_PREFIX: usize = 8;

/// The server; it serves as long as the process runs.
#[derive(Debug, Default)]
pub(crate) struct NullBigQuery {
    tables: Mutex<HashMap<String, Value>>,
    streams: AtomicI64,
    rows_of: Mutex<HashMap<String, i64>>,
    /// How long after it has a request it acknowledges it, as one far away does.
    delay: Duration,
    /// Rows that were acknowledged.
    pub(crate) rows: AtomicU64,
    /// Their bytes, as Arrow messages.
    pub(crate) bytes: AtomicU64,
}

/// Serves on a free port; gives the URL of both APIs.
pub(crate) async fn start(server: Arc<NullBigQuery>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let routes = axum::Router::new()
        .route("/google.cloud.bigquery.storage.v1.BigQueryWrite/{method}", axum::routing::post(write_api))
        .fallback(rest)
        .with_state(server);
    let routes = tonic::service::Routes::from(routes);
    let serving = tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    tokio::spawn(serving.serve_with_incoming(routes, TcpIncoming::from(listener).with_nodelay(Some(true))));
    url
}

/// Datasets are all there; tables are there once they were made; every job is done at once.
async fn rest(State(server): State<Arc<NullBigQuery>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_end_matches('/').to_owned();
    let body = to_bytes(body, MESSAGE_BYTES_MAX).await.unwrap_or_default();
    let mut tables = server.tables.lock().expect("no panic");
    let answer = match (parts.method, path.contains("/tables")) {
        (Method::GET, false) => json!({
            "datasetReference": {"projectId": "p", "datasetId": "casino"},
            "location": "US",
            "status": {"state": "DONE"},
            "jobComplete": true,
            "rows": [{"f": [{"v": "0"}]}],
        }),
        (Method::GET, true) => match tables.get(&path) {
            Some(table) => table.clone(),
            None => {
                return (StatusCode::NOT_FOUND, json!({"error": {"code": 404, "message": "no"}}).to_string())
                    .into_response();
            }
        },
        _ => {
            let mut table: Value = serde_json::from_slice(&body).unwrap_or_default();
            let name = table["tableReference"]["tableId"].as_str().unwrap_or_default().to_owned();
            (table["type"], table["location"], table["etag"]) = (json!("TABLE"), json!("US"), json!("1"));
            tables.insert(format!("{path}/{name}"), table.clone());
            table
        }
    };
    answer.to_string().into_response()
}

async fn write_api(State(server): State<Arc<NullBigQuery>>, request: Request) -> Response {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    match method.as_str() {
        "CreateWriteStream" => {
            unary(request, move |asked: proto::CreateWriteStreamRequest| {
                let number = server.streams.fetch_add(1, Ordering::Relaxed);
                let name = format!("{}/streams/{number}", asked.parent);
                proto::WriteStream { name, ..Default::default() }
            })
            .await
        }
        "FinalizeWriteStream" => {
            unary(request, move |asked: proto::FinalizeWriteStreamRequest| {
                let row_count = server.rows_of.lock().expect("no panic").get(&asked.name).copied().unwrap_or(0);
                proto::FinalizeWriteStreamResponse { row_count }
            })
            .await
        }
        "BatchCommitWriteStreams" => {
            unary(request, move |_: proto::BatchCommitWriteStreamsRequest| {
                let commit_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
                proto::BatchCommitWriteStreamsResponse { commit_time, ..Default::default() }
            })
            .await
        }
        "AppendRows" => append_rows(server, request).await,
        _ => Status::unimplemented(method).into_http(),
    }
}

impl NullBigQuery {
    /// One that acknowledges rows so long after it has them.
    pub(crate) fn after(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    fn take(&self, request: &proto::AppendRowsRequest, stream: &str) -> proto::AppendRowsResponse {
        let rows = match &request.rows {
            Some(Rows::ArrowRows(data)) => data.rows.as_ref().map(|rows| &rows.serialized_record_batch[..]),
            _ => None,
        };
        let message = rows.expect("rows in Arrow");
        let header = root_as_message(&message[MESSAGE_PREFIX..]).expect("an Arrow message");
        let count = header.header_as_record_batch().expect("rows").length();
        self.rows.fetch_add(u64::try_from(count).expect("a count"), Ordering::Relaxed);
        self.bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        *self.rows_of.lock().expect("no panic").entry(stream.to_owned()).or_default() += count;
        let result = AppendResult { offset: request.offset };
        proto::AppendRowsResponse { response: Some(Answer::AppendResult(result)), ..Default::default() }
    }
}

type Answers = BoxStream<'static, Result<proto::AppendRowsResponse, Status>>;

fn acknowledged(
    server: Arc<NullBigQuery>,
    requests: Streaming<proto::AppendRowsRequest>,
) -> impl Stream<Item = Result<proto::AppendRowsResponse, Status>> + Send + 'static {
    let begin = (server, String::new(), requests);
    futures::stream::try_unfold(begin, |(server, mut stream, mut requests)| async move {
        let Some(request) = requests.message().await? else { return Ok(None) };
        if !request.write_stream.is_empty() {
            stream.clone_from(&request.write_stream);
        }
        let answer = server.take(&request, &stream);
        Ok(Some((answer, (server, stream, requests))))
    })
}

fn append_rows(server: Arc<NullBigQuery>, request: Request) -> BoxFuture<'static, Response> {
    let method = GrpcMethod(move |request: tonic::Request<Streaming<proto::AppendRowsRequest>>| {
        let server = Arc::clone(&server);
        async move {
            let delay = server.delay;
            let late = move |answer| tokio::time::sleep(delay).map(|()| answer);
            let answers = acknowledged(server, request.into_inner());
            let answers: Answers = match delay.is_zero() {
                true => answers.boxed(),
                false => answers.map(late).buffered(REQUESTS_AT_ONCE).boxed(),
            };
            Ok(tonic::Response::new(answers))
        }
    });
    async move {
        grpc::<proto::AppendRowsRequest, proto::AppendRowsResponse>().streaming(method, request).await.map(Body::new)
    }
    .boxed()
}

fn unary<Asked, Answered>(
    request: Request,
    answer: impl Fn(Asked) -> Answered + Clone + Send + Sync + 'static,
) -> BoxFuture<'static, Response>
where
    Asked: Message + Default + 'static,
    Answered: Message + Default + 'static,
{
    let method = GrpcMethod(move |request: tonic::Request<Asked>| {
        let answered = answer(request.into_inner());
        async move { Ok(tonic::Response::new(answered)) }
    });
    async move { grpc::<Asked, Answered>().unary(method, request).await.map(Body::new) }.boxed()
}

fn grpc<Asked, Answered>() -> Grpc<ProstCodec<Answered, Asked>>
where
    Asked: Message + Default + 'static,
    Answered: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(CompressionEncoding::Gzip)
}
