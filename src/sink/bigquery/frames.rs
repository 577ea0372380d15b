//! AppendRows in gRPC's own frames, so that each message is compressed by a task of its own, and by libdeflate: with tonic's
//! gzip, of zlib's level 6, that took more processor time than all else (`cargo bench --bench wire`).
//!
//! See <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::future::{Either, ready};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use libdeflater::{CompressionLvl, Compressor};
use prost::Message;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Streaming};
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstDecoder;

use super::write::ANSWER_BYTES_MAX;
use super::write::proto::append_rows_request::{ArrowData, Rows};
use super::write::proto::{AppendRowsRequest, AppendRowsResponse};
use crate::config::Compression;

const METHOD: &str = "/google.cloud.bigquery.storage.v1.BigQueryWrite/AppendRows";
/// Before each message: whether it is compressed, and its length in four bytes, the highest first.
const HEADER: usize = 5;
/// Fields of the protocol's messages: of a request, of the `ArrowData` in it, of the `ArrowRecordBatch` in that.
const ARROW_ROWS: u8 = 5;
const ROWS: u8 = 2;
const SERIALIZED_RECORD_BATCH: u8 = 1;
/// How protobuf marks a field whose length is told.
const LENGTH_DELIMITED: u8 = 2;
/// Messages of one connection that are compressed at once.
const AT_ONCE: usize = 2;
/// The fastest that compresses at all.
const LEVEL: i32 = 1;

/// Opens a connection, over which these requests go as they come; gives its answers.
///
/// # Errors
/// What the server answers instead, or why it cannot be reached.
pub(super) async fn append_rows(
    mut channel: Channel,
    headers: MetadataMap,
    requests: mpsc::Receiver<AppendRowsRequest>,
    compression: Compression,
) -> Result<Streaming<AppendRowsResponse>, Status> {
    let frames = frames(requests, compression).map_ok(Frame::data);
    let mut request = http::Request::new(Body::new(StreamBody::new(frames)));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(METHOD);
    *request.headers_mut() = headers.into_headers();
    let mut tell = |name, value| request.headers_mut().insert(name, http::HeaderValue::from_static(value));
    tell("te", "trailers");
    tell("content-type", "application/grpc");
    if compression == Compression::Gzip {
        tell("grpc-encoding", "gzip");
    }
    let lost = |cause: tonic::transport::Error| Status::from_error(cause.into());
    std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(lost)?;
    let response = channel.call(request).await.map_err(lost)?;
    let decoder = ProstDecoder::new(BufferSettings::default());
    let status = response.status();
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        Some(_) => Ok(Streaming::new_empty(decoder, response.into_body())),
        None => Ok(Streaming::new_response(decoder, response.into_body(), status, None, Some(ANSWER_BYTES_MAX))),
    }
}

/// The frames of these requests, in their order; an error breaks the connection.
fn frames(
    mut requests: mpsc::Receiver<AppendRowsRequest>,
    compression: Compression,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let broken = |cause| Status::internal(format!("a request's encoding was broken off: {cause}"));
    stream::poll_fn(move |context| requests.poll_recv(context))
        .map(move |request| match compression {
            Compression::Gzip => Either::Left(SpawnedTask::spawn(async move { compressed(request) }).join()),
            // What copies nothing needs no task.
            Compression::None => Either::Right(ready(Ok(plain(request)))),
        })
        .buffered(AT_ONCE)
        .map(move |frame| frame.map_err(broken)?)
        .map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)))
        .try_flatten()
}

/// What a connection holds besides the messages themselves: about as much as so many of them. Of those that are compressed
/// two are there plain as long as that takes, and four frames, of about a quarter, are made, taken or under way.
pub(super) fn copies(compression: Compression) -> usize {
    match compression {
        Compression::Gzip => AT_ONCE,
        Compression::None => 0,
    }
}

/// The request's frame, compressed where that makes it shorter.
fn compressed(request: AppendRowsRequest) -> Result<Vec<Bytes>, Status> {
    match gzip(&request.encode_to_vec()) {
        Some(frame) => Ok(vec![headed(frame, true, 0)?]),
        None => plain(request),
    }
}

/// The request's frame in pieces, the last of which are the rows as they are in memory. (Of them `row_count`, which is
/// deprecated, is not told.)
fn plain(mut request: AppendRowsRequest) -> Result<Vec<Bytes>, Status> {
    let mut frame = vec![0; HEADER];
    let rows = request.rows.take();
    request.encode(&mut frame).map_err(|cause| unfit(&cause))?;
    let (writer_schema, rows) = match rows {
        Some(Rows::ArrowRows(ArrowData { writer_schema, rows: Some(rows) })) => (writer_schema, rows),
        rows => {
            AppendRowsRequest { rows, ..Default::default() }.encode(&mut frame).map_err(|cause| unfit(&cause))?;
            return Ok(vec![headed(frame, false, 0)?]);
        }
    };
    let rows = rows.serialized_record_batch;
    let schema = ArrowData { writer_schema, rows: None }.encode_to_vec();
    // Each message's beginning tells how long it is, so that the innermost comes first.
    let of_rows = beginning(SERIALIZED_RECORD_BATCH, rows.len())?;
    let of_batch = beginning(ROWS, of_rows.len() + rows.len())?;
    let of_data = beginning(ARROW_ROWS, schema.len() + of_batch.len() + of_rows.len() + rows.len())?;
    [of_data, schema, of_batch, of_rows].iter().for_each(|piece| frame.extend_from_slice(piece));
    Ok(vec![headed(frame, false, rows.len())?, rows])
}

/// How a field of so many bytes begins.
fn beginning(field: u8, length: usize) -> Result<Vec<u8>, Status> {
    let mut bytes = vec![field << 3 | LENGTH_DELIMITED];
    prost::encode_length_delimiter(length, &mut bytes).map_err(|cause| unfit(&cause))?;
    Ok(bytes)
}

/// A frame, or its beginning before so many further bytes, with its header filled in.
fn headed(mut frame: Vec<u8>, is_compressed: bool, further: usize) -> Result<Bytes, Status> {
    let length = u32::try_from(frame.len() - HEADER + further).map_err(|cause| unfit(&cause))?;
    frame[0] = is_compressed.into();
    frame[1..HEADER].copy_from_slice(&length.to_be_bytes());
    Ok(frame.into())
}

fn unfit(cause: &dyn std::error::Error) -> Status {
    Status::internal(format!("a request cannot be encoded: {cause}"))
}

/// The message compressed, after room for a header; None where that is longer.
fn gzip(message: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = Compressor::new(CompressionLvl::new(LEVEL).ok()?);
    let mut frame = vec![0; HEADER + message.len()];
    let length = compressor.gzip_compress(message, &mut frame[HEADER..]).ok()?;
    frame.truncate(HEADER + length);
    // Some wait, and would hold a whole message's room each.
    frame.shrink_to_fit();
    Some(frame)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::write::proto::{ArrowRecordBatch, ArrowSchema};
    use super::*;

    fn asked(trace_id: &str) -> AppendRowsRequest {
        AppendRowsRequest { trace_id: trace_id.to_owned(), ..AppendRowsRequest::default() }
    }

    fn told(frame: &[u8]) -> (u8, usize) {
        (frame[0], u32::from_be_bytes(frame[1..HEADER].try_into().unwrap()) as usize)
    }

    /// With rows, and the schema where that is told.
    fn with_rows(schema: Option<&'static [u8]>, rows: Vec<u8>) -> AppendRowsRequest {
        let writer_schema = schema.map(|schema| ArrowSchema { serialized_schema: schema.into() });
        let rows = Some(ArrowRecordBatch { serialized_record_batch: rows.into(), ..Default::default() });
        let rows = Some(Rows::ArrowRows(ArrowData { writer_schema, rows }));
        AppendRowsRequest { write_stream: "a stream".into(), offset: Some(300), rows, ..asked("freshet") }
    }

    #[test]
    fn a_compressed_message_is_gzip_of_the_request() {
        for request in [asked(&"rows ".repeat(1_000)), with_rows(Some(b"schema"), b"rows ".repeat(1_000))] {
            let frame = compressed(request.clone()).unwrap().concat();
            assert_eq!(told(&frame), (1, frame.len() - HEADER));
            assert!(frame.len() < 500, "{}", frame.len());
            let mut inflated = Vec::new();
            flate2::read::GzDecoder::new(&frame[HEADER..]).read_to_end(&mut inflated).unwrap();
            assert_eq!(AppendRowsRequest::decode(&inflated[..]).unwrap(), request);
        }
    }

    #[test]
    fn a_message_that_gzip_makes_longer_or_is_not_asked_for_goes_as_it_is() {
        let lengths = [0, 1, 100, 127, 128, 16_000, 16_384, 3_000_000];
        let with = |schema| lengths.map(|length| with_rows(schema, vec![7; length]));
        let whole = [asked("a"), asked(&"rows ".repeat(1_000)), AppendRowsRequest::default()];
        for request in whole.into_iter().chain(with(None)).chain(with(Some(b"schema"))) {
            let frame = plain(request.clone()).unwrap().concat();
            assert_eq!(told(&frame), (0, frame.len() - HEADER));
            assert_eq!(AppendRowsRequest::decode(&frame[HEADER..]).unwrap(), request);
        }
        assert_eq!(told(&compressed(asked("a")).unwrap().concat()).0, 0);
    }

    #[test]
    fn rows_that_are_not_compressed_are_not_copied() {
        let request = with_rows(Some(b"schema"), vec![7; 1_000]);
        let Some(Rows::ArrowRows(ArrowData { rows: Some(rows), .. })) = request.rows.clone() else { panic!() };
        let sent = plain(request).unwrap().pop().unwrap();
        assert_eq!(sent.as_ptr(), rows.serialized_record_batch.as_ptr());
    }

    /// The requests of frames that stand one after the other.
    fn requests_of(mut frames: &[u8]) -> Vec<AppendRowsRequest> {
        let mut requests = Vec::new();
        while let Some((header, rest)) = frames.split_first_chunk::<HEADER>() {
            let (compressed, length) = told(header);
            let (message, next) = rest.split_at(length);
            let mut plain = message.to_vec();
            if compressed == 1 {
                plain.clear();
                flate2::read::GzDecoder::new(message).read_to_end(&mut plain).unwrap();
            }
            requests.push(AppendRowsRequest::decode(&plain[..]).unwrap());
            frames = next;
        }
        requests
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frames_come_whole_and_in_the_order_of_their_requests() {
        // Every second one takes long.
        let length = |number| if number % 2 == 0 { 1_000_000 } else { 1_000 };
        let request = |number: usize| with_rows(None, format!("{number:02}").repeat(length(number)).into_bytes());
        for compression in [Compression::Gzip, Compression::None] {
            let (requests, waiting) = mpsc::channel(4);
            let sending = async move {
                for number in 0..50 {
                    requests.send(request(number)).await.unwrap();
                }
            };
            let (_, made) = tokio::join!(sending, frames(waiting, compression).try_collect::<Vec<_>>());
            let made = made.unwrap().concat();
            assert!(requests_of(&made) == (0..50).map(request).collect::<Vec<_>>(), "{compression:?}");
        }
    }
}
