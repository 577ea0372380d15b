//! `google.cloud.bigquery.storage.v1.BigQueryWrite` over gRPC: transport, faults and log around the rules.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use futures::stream::BoxStream;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use prost::Message;
use proto::append_rows_request::Rows;
use tonic::server::Grpc;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Shared;
use super::append::Open;
use super::connection::Cut;
use super::faults::What;
use super::grpc_method::GrpcMethod;
use super::log::{self, RowFormat};
use super::refusal::{Refusal, Result, StorageErrorCode};
use super::world::World;

/// Larger messages come through, so that the limit is the server's own.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One client's call, as far as transport goes.
#[derive(Clone)]
struct Call {
    shared: Arc<Shared>,
    cut: Cut,
    is_authorized: bool,
    method: &'static str,
}

/// Answers any call of the service.
pub(super) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let cut = request.extensions().get::<Cut>().cloned().expect("every connection can be cut");
    let is_authorized = super::rest::is_authorized(request.headers());
    let of = |method| Call { shared: Arc::clone(&shared), cut: cut.clone(), is_authorized, method };
    let named = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let method = METHODS.iter().find(|method| **method == named).copied().unwrap_or("unknown");
    let call = of(method);
    match method {
        "CreateWriteStream" => {
            let about = |request: &proto::CreateWriteStreamRequest| (request.parent.clone(), Vec::new());
            call.unary(request, about, |world, request| world.create_stream(&request)).await
        }
        "GetWriteStream" => {
            let about = |request: &proto::GetWriteStreamRequest| (request.name.clone(), vec![request.name.clone()]);
            call.unary(request, about, |world, request| {
                world.show_stream(&request.name, request.view() == proto::WriteStreamView::Full)
            })
            .await
        }
        "FinalizeWriteStream" => {
            let about =
                |request: &proto::FinalizeWriteStreamRequest| (request.name.clone(), vec![request.name.clone()]);
            call.unary(request, about, |world, request| {
                Ok(proto::FinalizeWriteStreamResponse { row_count: world.finalize_stream(&request.name)? })
            })
            .await
        }
        "BatchCommitWriteStreams" => {
            let about = |request: &proto::BatchCommitWriteStreamsRequest| {
                (request.parent.clone(), request.write_streams.clone())
            };
            call.unary(request, about, |world, request| world.commit_streams(&request)).await
        }
        "FlushRows" => {
            let about =
                |request: &proto::FlushRowsRequest| (request.write_stream.clone(), vec![request.write_stream.clone()]);
            call.unary(request, about, |_, request| -> Result<proto::FlushRowsResponse> {
                let refusal = Refusal::invalid("FlushRows is for BUFFERED streams, and the strict server has none");
                Err(refusal.with(StorageErrorCode::InvalidStreamType, &request.write_stream))
            })
            .await
        }
        "AppendRows" => call.append_rows(request).await,
        _ => Status::unimplemented(named).into_http(),
    }
}

const METHODS: [&str; 6] = [
    "CreateWriteStream",
    "GetWriteStream",
    "FinalizeWriteStream",
    "BatchCommitWriteStreams",
    "FlushRows",
    "AppendRows",
];

fn grpc<Req, Res>() -> Grpc<ProstCodec<Res, Req>>
where
    Req: Message + Default + 'static,
    Res: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(tonic::codec::CompressionEncoding::Gzip)
}

impl Call {
    /// A call of one message and one answer.
    async fn unary<Req, Res>(
        self,
        request: Request,
        about: impl Fn(&Req) -> (String, Vec<String>) + Clone + Send + Sync + 'static,
        effect: impl Fn(&mut World, Req) -> Result<Res> + Clone + Send + Sync + 'static,
    ) -> Response
    where
        Req: Message + Default + 'static,
        Res: Message + Default + 'static,
    {
        let method = GrpcMethod(move |request: tonic::Request<Req>| {
            let (call, about, effect) = (self.clone(), about.clone(), effect.clone());
            async move {
                let request = request.into_inner();
                let (path, streams) = about(&request);
                let noted = call.note(&path, streams);
                let answer = call.with_faults(&path, noted, move |world| {
                    world.drop_dead_streams();
                    effect(world, request)
                });
                answer.await.map(tonic::Response::new)
            }
        });
        grpc::<Req, Res>().unary(method, request).await.map(Body::new)
    }

    fn note(&self, path: &str, streams: Vec<String>) -> log::Request {
        let mut noted = log::Request::new(self.method, path);
        (noted.streams, noted.is_authorized) = (streams, self.is_authorized);
        noted
    }

    /// Lets a call take effect, unless something befalls it.
    async fn with_faults<Res: Default + Send + 'static>(
        &self,
        path: &str,
        noted: log::Request,
        effect: impl FnOnce(&mut World) -> Result<Res> + Send + 'static,
    ) -> std::result::Result<Res, Status> {
        let log = &self.shared.log;
        let number = log.arrived(noted);
        let fault = self.shared.faults.strike(&format!("{} {path}", self.method));
        match &fault {
            Some(What::LostBefore) => return Err(self.lose(number)),
            Some(What::CutAfterBytes(bytes)) => self.cut.after_bytes(*bytes),
            Some(What::Grpc(code)) => {
                log.answered(number, format!("{code:?}"));
                return Err(Status::new(*code, "a fault that the test asked for"));
            }
            Some(What::Http(_) | What::JobFails(_)) => panic!("{} is no REST call: {fault:?}", self.method),
            Some(What::NoCommitTime) => {
                log.answered(number, "Ok");
                return Ok(Res::default());
            }
            _ => {}
        }
        let answer = self.shared.with_world(effect).await;
        match fault {
            Some(What::LostAfter) => return Err(self.lose(number)),
            Some(What::Slow(by)) => tokio::time::sleep(by).await,
            Some(What::HeldUntilPaths(count)) => log.paths(self.method, count).await,
            _ => {}
        }
        let code = answer.as_ref().map_or_else(|refusal| refusal.code, |_| Code::Ok);
        log.answered(number, format!("{code:?}"));
        answer.map_err(|refusal| refusal.to_status())
    }

    fn lose(&self, number: usize) -> Status {
        self.cut.now();
        self.shared.log.answered(number, "lost");
        Status::unavailable("cut")
    }

    /// The connection's headers go out with its first answer, as Google's do.
    async fn append_rows(self, request: Request) -> Response {
        match self.shared.faults.strike("Connect") {
            Some(What::LostBefore | What::LostAfter) => self.cut.now(),
            Some(What::CutAfterBytes(bytes)) => self.cut.after_bytes(bytes),
            Some(What::Grpc(code)) => return Status::new(code, "a fault that the test asked for").into_http(),
            Some(What::Slow(by)) => tokio::time::sleep(by).await,
            Some(fault) => panic!("AppendRows cannot go wrong like this: {fault:?}"),
            None => {}
        }
        let method = GrpcMethod(move |request: tonic::Request<Streaming<proto::AppendRowsRequest>>| {
            let mut appending = Appending { call: self.clone(), requests: request.into_inner(), open: Open::default() };
            async move {
                let answers: BoxStream<'static, std::result::Result<proto::AppendRowsResponse, Status>> =
                    match appending.next().await {
                        None => futures::stream::empty().boxed(),
                        Some(first) => {
                            let first = first?;
                            futures::stream::iter([Ok(first)]).chain(appending.answers()).boxed()
                        }
                    };
                Ok(tonic::Response::new(answers))
            }
        });
        grpc::<proto::AppendRowsRequest, proto::AppendRowsResponse>().streaming(method, request).await.map(Body::new)
    }
}

/// A connection for appends.
struct Appending {
    call: Call,
    requests: Streaming<proto::AppendRowsRequest>,
    open: Open,
}

impl Appending {
    fn answers(self) -> BoxStream<'static, std::result::Result<proto::AppendRowsResponse, Status>> {
        let next = |appending: Option<Self>| async {
            let mut appending = appending?;
            let answer = appending.next().await?;
            let goes_on = answer.is_ok();
            Some((answer, goes_on.then_some(appending)))
        };
        futures::stream::unfold(Some(self), next).boxed()
    }

    /// The answer to the next message; None where the client has ended.
    async fn next(&mut self) -> Option<std::result::Result<proto::AppendRowsResponse, Status>> {
        let request = match self.requests.message().await {
            Ok(request) => request?,
            Err(status) => return Some(Err(status)),
        };
        let path = self.open.name_for(&request.write_stream);
        let mut noted = self.call.note(&path, vec![path.clone()]);
        noted.offset = request.offset;
        noted.rows = request.rows.as_ref().map(|rows| match rows {
            Rows::ArrowRows(_) => RowFormat::Arrow,
            Rows::ProtoRows(_) => RowFormat::Proto,
        });
        let mut open = std::mem::take(&mut self.open);
        let effect = move |world: &mut World| Ok((Some(world.append(&mut open, request)), open));
        let (answer, open) = match self.call.with_faults(&path, noted, effect).await {
            Ok(answered) => answered,
            Err(status) => return Some(Err(status)),
        };
        self.open = open;
        Some(answer?.map_err(|refusal| refusal.to_status()))
    }
}
