//! A Storage Write API for tests of this module: it keeps streams as BigQuery does, and does wrong on demand.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::{BoxFuture, BoxStream, Context, Poll, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::write::proto::append_rows_request::{ArrowData, Rows};
use super::write::proto::append_rows_response::{AppendResult, Response as Appended};
use super::write::proto::table_field_schema::{Mode, Type};
use super::write::proto::{
    AppendRowsRequest, AppendRowsResponse, BatchCommitWriteStreamsRequest, BatchCommitWriteStreamsResponse,
    CreateWriteStreamRequest, FinalizeWriteStreamRequest, FinalizeWriteStreamResponse, GetWriteStreamRequest,
    TableFieldSchema, TableSchema, WriteStream,
};
use super::write::{Pacing, WriteApi, rpc};
use crate::change::types::ColumnType;
use crate::clock::SystemClock;
use crate::config::{BigQueryConfig, Compression, Create, DatasetName};
use crate::sink::Column;
use crate::sink::token::Tokens;

pub(super) const TABLE: &str = "projects/p/datasets/d/tables/t_changes";

/// What is done to one AppendRows request.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// The connection ends, the rows are not written.
    CutBefore,
    /// The rows are written, then the connection ends without an answer.
    CutAfter,
    /// The rows are written, and no answer comes.
    Silence,
    /// The rows are not written, and the connection ends with this.
    End(Status),
    /// The rows are not written, and this is answered.
    Answer(AppendRowsResponse),
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) connection: usize,
    pub(super) offset: i64,
    pub(super) with_schema: bool,
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) finalized: bool,
    pub(super) committed: bool,
}

impl Kept {
    pub(super) fn rows(&self) -> i64 {
        self.batches.iter().map(|batch| i64::try_from(batch.num_rows()).unwrap()).sum()
    }
}

/// All that the server knows, and what it is to do wrong.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) columns: Vec<Column>,
    /// So many answers still tell a schema without the last column.
    pub(super) last_column_unknown: usize,
    pub(super) streams: BTreeMap<String, Kept>,
    pub(super) faults: VecDeque<Fault>,
    pub(super) creations: VecDeque<Status>,
    /// Rows are acknowledged once a stream was asked for so often.
    pub(super) acknowledges_after_creations: usize,
    /// So many that are asked for after the first are refused.
    pub(super) further_refused: usize,
    /// How often one was asked for.
    asked_for: watch::Sender<usize>,
    /// No more streams are made than these, if there is such a bound.
    pub(super) streams_max: Option<usize>,
    /// What finalize answers instead of the truth.
    pub(super) row_count: Option<i64>,
    pub(super) commits: VecDeque<Result<BatchCommitWriteStreamsResponse, Status>>,
    pub(super) seen: Vec<Seen>,
    pub(super) calls: Vec<String>,
    connections: usize,
}

/// A running server; it ends when dropped.
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// A server of a table with these columns, and its client.
    pub(super) fn start(columns: &[Column]) -> (Self, WriteApi) {
        let state = Arc::new(Mutex::new(State { columns: columns.to_vec(), ..State::default() }));
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(Api(Arc::clone(&state)));
        let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        let config = config(Some(format!("http://{address}")));
        let mut api = WriteApi::new(&config, Tokens::none(), SystemClock::shared()).unwrap();
        api.pacing = Pacing { pause: Duration::from_millis(1), tries_max: 4, ..Pacing::default() };
        (Self { state, task }, api)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How often a call of that name came.
    pub(super) fn calls(&self, name: &str) -> usize {
        self.state().calls.iter().filter(|call| *call == name).count()
    }
}

/// A configuration with these endpoints.
pub(in crate::sink) fn config(endpoint: Option<String>) -> BigQueryConfig {
    BigQueryConfig {
        project: "p".into(),
        location: "US".into(),
        dataset: DatasetName::default(),
        kms_key: None,
        labels: BTreeMap::new(),
        create: Create::Auto,
        compression: Compression::Gzip,
        rest_endpoint: endpoint.clone(),
        grpc_endpoint: endpoint,
    }
}

impl State {
    fn schema(&mut self) -> TableSchema {
        let mut columns = self.columns.clone();
        if self.last_column_unknown > 0 {
            self.last_column_unknown -= 1;
            columns.pop();
        }
        let fields = columns.iter().map(|column| field(&column.name, &column.column_type));
        TableSchema { fields: fields.collect() }
    }

    fn create(&mut self, request: CreateWriteStreamRequest) -> Result<WriteStream, Status> {
        self.calls.push("create".into());
        self.asked_for.send_modify(|times| *times += 1);
        if let Some(status) = self.creations.pop_front() {
            return Err(status);
        }
        if self.further_refused > 0 && !self.streams.is_empty() {
            self.further_refused -= 1;
            return Err(Status::permission_denied("not now"));
        }
        if self.streams_max.is_some_and(|most| self.streams.len() >= most) {
            return Err(Status::resource_exhausted("quota"));
        }
        let name = format!("{}/streams/s{}", request.parent, self.streams.len());
        self.streams.insert(name.clone(), Kept::default());
        Ok(WriteStream { name, table_schema: Some(self.schema()), ..WriteStream::default() })
    }

    fn get(&mut self, request: GetWriteStreamRequest) -> Result<WriteStream, Status> {
        self.calls.push("get".into());
        let mut stream = WriteStream { name: request.name.clone(), ..WriteStream::default() };
        if request.name.ends_with("/_default") {
            stream.table_schema = Some(self.schema());
            return Ok(stream);
        }
        let kept = self.streams.get(&request.name).ok_or_else(|| Status::not_found("no such stream"))?;
        stream.commit_time = kept.committed.then(Default::default);
        Ok(stream)
    }

    fn finalize(&mut self, request: FinalizeWriteStreamRequest) -> Result<FinalizeWriteStreamResponse, Status> {
        self.calls.push("finalize".into());
        let kept = self.streams.get_mut(&request.name).ok_or_else(|| Status::not_found("no such stream"))?;
        kept.finalized = true;
        let row_count = self.row_count.unwrap_or(kept.rows());
        Ok(FinalizeWriteStreamResponse { row_count })
    }

    fn commit(&mut self, request: BatchCommitWriteStreamsRequest) -> Result<BatchCommitWriteStreamsResponse, Status> {
        self.calls.push("commit".into());
        if let Some(answer) = self.commits.pop_front() {
            return answer;
        }
        for name in request.write_streams {
            self.streams.get_mut(&name).ok_or_else(|| Status::not_found("no such stream"))?.committed = true;
        }
        Ok(BatchCommitWriteStreamsResponse { commit_time: Some(Default::default()), ..Default::default() })
    }

    /// Writes the rows of a request at its offset, and answers.
    fn append(&mut self, request: &AppendRowsRequest, schema: &[u8]) -> AppendRowsResponse {
        let Some(kept) = self.streams.get_mut(&request.write_stream) else {
            return refused(Code::NotFound, "no such stream");
        };
        let offset = request.offset.unwrap();
        match offset.cmp(&kept.rows()) {
            std::cmp::Ordering::Less => return refused(Code::AlreadyExists, "already written"),
            std::cmp::Ordering::Greater => return refused(Code::OutOfRange, "a gap"),
            std::cmp::Ordering::Equal => {}
        }
        kept.batches.push(decode(schema, request));
        let result = AppendResult { offset: Some(offset) };
        AppendRowsResponse { response: Some(Appended::AppendResult(result)), ..Default::default() }
    }
}

/// The field that a column is in the API's schema.
pub(super) fn field(name: &str, column_type: &ColumnType) -> TableFieldSchema {
    use ColumnType as C;
    let (mode, single) = match column_type {
        C::Array(item) => (Mode::Repeated, item.as_ref()),
        other => (Mode::Nullable, other),
    };
    let of = match single {
        C::Struct(_) => Type::Struct,
        C::Bool => Type::Bool,
        C::Int64 => Type::Int64,
        C::Numeric => Type::Numeric,
        C::BigNumeric => Type::Bignumeric,
        C::Float64 => Type::Double,
        C::Bytes => Type::Bytes,
        C::Date => Type::Date,
        C::Time => Type::Time,
        C::Datetime => Type::Datetime,
        C::Timestamp => Type::Timestamp,
        C::String | C::Unknown | C::Array(_) => Type::String,
    };
    let mut out = TableFieldSchema { name: name.to_owned(), ..TableFieldSchema::default() };
    out.set_type(of);
    out.set_mode(mode);
    if let C::Struct(inner) = single {
        out.fields = inner.iter().map(|(name, of)| field(name, of)).collect();
    }
    out
}

/// An answer that refuses.
pub(super) fn refused(code: Code, message: &str) -> AppendRowsResponse {
    let status = rpc::Status { code: code.into(), message: message.into(), details: vec![] };
    AppendRowsResponse { response: Some(Appended::Error(status)), ..Default::default() }
}

fn arrow(request: &AppendRowsRequest) -> &ArrowData {
    match &request.rows {
        Some(Rows::ArrowRows(data)) => data,
        other => panic!("no Arrow rows: {other:?}"),
    }
}

fn decode(schema: &[u8], request: &AppendRowsRequest) -> RecordBatch {
    let rows = &arrow(request).rows.as_ref().unwrap().serialized_record_batch;
    let whole = [schema, rows].concat();
    StreamReader::try_new(Cursor::new(whole), None).unwrap().next().unwrap().unwrap()
}

/// The gRPC service.
#[derive(Clone)]
struct Api(Arc<Mutex<State>>);

impl NamedService for Api {
    const NAME: &'static str = "google.cloud.bigquery.storage.v1.BigQueryWrite";
}

impl Service<http::Request<Body>> for Api {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            Ok(match request.uri().path().rsplit('/').next().unwrap() {
                "CreateWriteStream" => unary(state, State::create, request).await,
                "GetWriteStream" => unary(state, State::get, request).await,
                "FinalizeWriteStream" => unary(state, State::finalize, request).await,
                "BatchCommitWriteStreams" => unary(state, State::commit, request).await,
                "AppendRows" => {
                    let codec = ProstCodec::<AppendRowsResponse, AppendRowsRequest>::default();
                    let grpc = Grpc::new(codec).accept_compressed(CompressionEncoding::Gzip);
                    grpc.max_decoding_message_size(10 * 1024 * 1024).streaming(Append(state), request).await
                }
                other => panic!("unknown call {other}"),
            })
        })
    }
}

type Call<Q, A> = fn(&mut State, Q) -> Result<A, Status>;

async fn unary<Q, A>(state: Arc<Mutex<State>>, call: Call<Q, A>, request: http::Request<Body>) -> http::Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    Grpc::new(ProstCodec::<A, Q>::default()).unary(Unary { state, call }, request).await
}

struct Unary<Q, A> {
    state: Arc<Mutex<State>>,
    call: Call<Q, A>,
}

impl<Q, A: Send + 'static> UnaryService<Q> for Unary<Q, A> {
    type Response = A;
    type Future = BoxFuture<Response<A>, Status>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = (self.call)(&mut self.state.lock().unwrap(), request.into_inner()).map(Response::new);
        Box::pin(std::future::ready(answer))
    }
}

struct Append(Arc<Mutex<State>>);

impl StreamingService<AppendRowsRequest> for Append {
    type Response = AppendRowsResponse;
    type ResponseStream = BoxStream<AppendRowsResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<AppendRowsRequest>>) -> Self::Future {
        let state = Arc::clone(&self.0);
        let routed = request.metadata().get("x-goog-request-params").is_some_and(|value| {
            value
                .to_str()
                .unwrap()
                .starts_with("write_stream=projects%2Fp%2Fdatasets%2Fd%2Ftables%2Ft_changes%2Fstreams%2F")
        });
        assert!(routed, "no routing header");
        let (answers, mut waiting) = mpsc::channel(8);
        tokio::spawn(serve(state, request.into_inner(), answers));
        let answers = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
        Box::pin(std::future::ready(Ok(Response::new(answers.boxed()))))
    }
}

async fn serve(
    state: Arc<Mutex<State>>,
    mut requests: Streaming<AppendRowsRequest>,
    answers: mpsc::Sender<Result<AppendRowsResponse, Status>>,
) {
    let connection = {
        let mut state = state.lock().unwrap();
        state.connections += 1;
        state.connections
    };
    let mut schema = Vec::new();
    while let Ok(Some(request)) = requests.message().await {
        if let Some(first) = &arrow(&request).writer_schema {
            schema = first.serialized_schema.to_vec();
        }
        let (mut asked_for, least) = {
            let state = state.lock().unwrap();
            (state.asked_for.subscribe(), state.acknowledges_after_creations)
        };
        asked_for.wait_for(|times| *times >= least).await.unwrap();
        let (answer, ends) = answer(&mut state.lock().unwrap(), connection, &request, &schema);
        if let Some(answer) = answer {
            let _ = answers.send(answer).await;
        }
        if ends {
            return;
        }
    }
}

type Told = (Option<Result<AppendRowsResponse, Status>>, bool);

fn answer(state: &mut State, connection: usize, request: &AppendRowsRequest, schema: &[u8]) -> Told {
    let with_schema = arrow(request).writer_schema.is_some();
    state.seen.push(Seen { connection, offset: request.offset.unwrap(), with_schema });
    let cut = || Some(Err(Status::unavailable("cut")));
    match state.faults.pop_front().unwrap_or(Fault::None) {
        Fault::None => (Some(Ok(state.append(request, schema))), false),
        Fault::CutBefore => (cut(), true),
        Fault::CutAfter => {
            state.append(request, schema);
            (cut(), true)
        }
        Fault::Silence => {
            state.append(request, schema);
            (None, false)
        }
        Fault::End(status) => (Some(Err(status)), true),
        Fault::Answer(answer) => (Some(Ok(answer)), false),
    }
}
