//! The Storage Write API: PENDING streams of Arrow record batches.
//!
//! See <https://cloud.google.com/bigquery/docs/write-api-batch>. Calls give what BigQuery answers, or refuses;
//! what that means is for the caller to say. Their outer error is one of ours: no token can be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(super) use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
pub(super) use googleapis_tonic_google_cloud_bigquery_storage_v1::google::rpc;
use proto::big_query_write_client::BigQueryWriteClient;
use proto::{
    BatchCommitWriteStreamsRequest, BatchCommitWriteStreamsResponse, CreateWriteStreamRequest,
    FinalizeWriteStreamRequest, GetWriteStreamRequest, WriteStream, WriteStreamView, write_stream,
};
use tonic::codec::CompressionEncoding;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

use super::budget::StreamBudget;
use super::outgoing::Outgoing;
use super::status::Refusal;
use crate::clock::Clock;
use crate::config::{BigQueryConfig, Compression};
use crate::error::{Error, Result};
use crate::sink::token::Tokens;

/// Where the API is, unless the configuration says otherwise.
const ENDPOINT: &str = "https://bigquerystorage.googleapis.com";
/// Connections that rows go over.
const ROW_CHANNELS: usize = 4;
/// What may be on its way, unless it is said.
const OUTGOING_BYTES: u64 = 256 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The longest that a single call may take.
const CALL_MAX: Duration = Duration::from_secs(90);
/// Largest answer, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What BigQuery answers, inside what can go wrong on this side.
pub(super) type Answer<T> = Result<Result<T, Refusal>>;

/// BigQuery's Storage Write API.
pub(super) struct WriteApi {
    row_channels: Vec<Channel>,
    next_row_channel: AtomicUsize,
    /// For all other calls, so that none waits behind rows.
    call_channel: Channel,
    tokens: Tokens,
    pub(super) budget: StreamBudget,
    pub(super) outgoing: Outgoing,
    clock: Arc<dyn Clock>,
    /// Of rows on their way.
    pub(super) compression: Compression,
    pub(super) pacing: Pacing,
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pacing {
    /// Before the second try; it doubles from try to try.
    pub(super) pause: Duration,
    /// No pause is longer.
    pub(super) pause_max: Duration,
    /// Tries of one thing.
    pub(super) tries_max: u32,
    /// For the acknowledgement of rows.
    pub(super) acknowledge_max: Duration,
    /// For the API to know a table, or a column, that was just made.
    pub(super) visible_max: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(15),
            tries_max: 5,
            acknowledge_max: Duration::from_secs(60),
            visible_max: Duration::from_secs(240),
        }
    }
}

impl WriteApi {
    /// The API that the configuration names; it is not called yet.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the endpoint is no URL, or the machine has no root certificates.
    pub(super) fn new(config: &BigQueryConfig, tokens: Tokens, clock: Arc<dyn Clock>) -> Result<Self> {
        let url = config.grpc_endpoint.as_deref().unwrap_or(ENDPOINT);
        let endpoint = endpoint(url)?;
        Ok(Self {
            row_channels: (0..ROW_CHANNELS).map(|_| endpoint.connect_lazy()).collect(),
            next_row_channel: AtomicUsize::new(0),
            call_channel: endpoint.connect_lazy(),
            tokens,
            budget: StreamBudget::new(),
            outgoing: Outgoing::new(OUTGOING_BYTES),
            clock,
            compression: config.compression,
            pacing: Pacing::default(),
        })
    }

    /// Makes a PENDING stream of the table with this path, as soon as the quota allows.
    pub(super) async fn create_stream(&self, table: &str) -> Answer<WriteStream> {
        self.budget.take().await;
        let stream = WriteStream { r#type: write_stream::Type::Pending.into(), ..WriteStream::default() };
        let message = CreateWriteStreamRequest { parent: table.to_owned(), write_stream: Some(stream) };
        let request = self.request(message, "parent", table).await?;
        Ok(answer(self.client().create_write_stream(limited(request)).await))
    }

    /// Looks at a stream, and at its table's schema.
    pub(super) async fn stream(&self, name: &str) -> Answer<WriteStream> {
        let message = GetWriteStreamRequest { name: name.to_owned(), view: WriteStreamView::Full.into() };
        let request = self.request(message, "name", name).await?;
        Ok(answer(self.client().get_write_stream(limited(request)).await))
    }

    /// Ends a stream; gives how many rows it has.
    pub(super) async fn finalize(&self, name: &str) -> Answer<i64> {
        let message = FinalizeWriteStreamRequest { name: name.to_owned() };
        let request = self.request(message, "name", name).await?;
        let answered = answer(self.client().finalize_write_stream(limited(request)).await);
        Ok(answered.map(|finalized| finalized.row_count))
    }

    /// Makes the rows of all these streams of a table visible, or of none.
    pub(super) async fn commit(&self, table: &str, names: Vec<String>) -> Answer<BatchCommitWriteStreamsResponse> {
        let message = BatchCommitWriteStreamsRequest { parent: table.to_owned(), write_streams: names };
        let request = self.request(message, "parent", table).await?;
        Ok(answer(self.client().batch_commit_write_streams(limited(request)).await))
    }

    /// Tries a call again while its refusal is one that passes.
    pub(super) async fn patiently<T, F: Future<Output = Answer<T>>>(&self, call: impl Fn() -> F) -> Answer<T> {
        let mut tried = 1;
        loop {
            match call().await? {
                Err(refusal) if refusal.passes() && tried < self.pacing.tries_max => {
                    tracing::debug!(%refusal, tried, "BigQuery is asked again");
                    self.pause(tried).await;
                    tried += 1;
                }
                answered => return Ok(answered),
            }
        }
    }

    /// Waits after the given number of tries: longer each time, and never as long as others do.
    pub(super) async fn pause(&self, tried: u32) {
        let doubled = self.pacing.pause.saturating_mul(1_u32.checked_shl(tried.saturating_sub(1)).unwrap_or(u32::MAX));
        tokio::time::sleep(self.clock.jittered(doubled.min(self.pacing.pause_max))).await;
    }

    /// A request with the headers that Google routes by, and a token.
    /// See <https://google.aip.dev/client-libraries/4222>.
    async fn request<T>(&self, message: T, parameter: &str, value: &str) -> Result<Request<T>> {
        let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-goog-request-params", header(format!("{parameter}={value}"))?);
        if let Some(token) = self.tokens.bearer().await? {
            let mut bearer = header(format!("Bearer {token}"))?;
            bearer.set_sensitive(true);
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }

    /// What the rows of a stream go over, another for each until all have one, and their call's headers.
    pub(super) async fn row_channel(&self, stream: &str) -> Result<(Channel, MetadataMap)> {
        let next = self.next_row_channel.fetch_add(1, Ordering::Relaxed) % self.row_channels.len();
        let (headers, _, ()) = self.request((), "write_stream", stream).await?.into_parts();
        Ok((self.row_channels[next].clone(), headers))
    }

    fn client(&self) -> BigQueryWriteClient<Channel> {
        BigQueryWriteClient::new(self.call_channel.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

fn endpoint(url: &str) -> Result<Endpoint> {
    let unusable = |cause| Error::user(format!("BigQuery's gRPC endpoint `{url}` cannot be used")).because(cause);
    let endpoint = Endpoint::from_shared(url.to_owned())
        .and_then(|endpoint| endpoint.user_agent(concat!("freshet/", env!("CARGO_PKG_VERSION"))))
        .map_err(|cause| unusable(cause).hint("write it as https://host or http://host:port"))?
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    if !url.starts_with("https://") {
        return Ok(endpoint);
    }
    endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(|cause| {
        unusable(cause).hint("install the machine's root certificates (ca-certificates), or set SSL_CERT_FILE")
    })
}

fn header(text: String) -> Result<AsciiMetadataValue> {
    text.parse().map_err(|_| Error::bug("a header of a request to BigQuery is not plain text"))
}

fn limited<T>(mut request: Request<T>) -> Request<T> {
    request.set_timeout(CALL_MAX);
    request
}

fn answer<T>(answered: Result<Response<T>, Status>) -> Result<T, Refusal> {
    answered.map(Response::into_inner).map_err(Refusal::from)
}
