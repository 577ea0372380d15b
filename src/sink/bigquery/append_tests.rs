//! Rows are in the stream once and in order, whatever becomes of connections.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use tonic::Status;

use super::*;
use crate::change::types::ColumnType;
use crate::error::Kind;
use crate::sink::Column;
use crate::sink::bigquery::encode::Encoder;
use crate::sink::bigquery::fake::{Fake, Fault, Seen, TABLE, refused};
use crate::sink::bigquery::outgoing::Outgoing;
use crate::sink::bigquery::streams;
use crate::sink::bigquery::write::proto::append_rows_response::AppendResult;
use crate::sink::columns;

fn schema() -> SchemaRef {
    columns::arrow_schema(&[Column { name: "id".into(), column_type: ColumnType::Int64 }])
}

/// A server that does this to requests, the client, and a stream.
async fn begin(faults: &[Fault]) -> (Fake, WriteApi, String) {
    let (fake, api) = Fake::start(&[]);
    let stream = api.create_stream(TABLE).await.unwrap().unwrap().name;
    fake.state().faults.extend(faults.iter().cloned());
    (fake, api, stream)
}

/// Sends messages of three rows each, numbered from 0.
async fn send(api: &WriteApi, stream: &str, messages: i64) -> Result<u64> {
    let mut encoder = Encoder::new(schema()).unwrap();
    let mut appender = Appender::new(api, stream.to_owned(), encoder.schema_message().unwrap());
    for message in 0..messages {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(message * 3..message * 3 + 3));
        let batch = RecordBatch::try_new(schema(), vec![ids]).unwrap();
        let mut encoded = encoder.push(&batch).unwrap();
        encoded.extend(encoder.finish().unwrap());
        for message in encoded {
            appender.append(message).await?;
        }
    }
    appender.finish().await
}

fn kept(fake: &Fake, stream: &str) -> Vec<i64> {
    let state = fake.state();
    let batches = &state.streams[stream].batches;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

async fn arrives_once(faults: &[Fault]) -> Vec<Seen> {
    let (fake, api, stream) = begin(faults).await;
    assert_eq!(send(&api, &stream, 10).await.unwrap(), 30);
    assert_eq!(kept(&fake, &stream), (0..30).collect::<Vec<_>>());
    let seen = fake.state().seen.clone();
    for first in 1..=seen.iter().map(|seen| seen.connection).max().unwrap() {
        let with: Vec<_> = seen.iter().filter(|seen| seen.connection == first).map(|seen| seen.with_schema).collect();
        assert!(with.iter().enumerate().all(|(at, with)| *with == (at == 0)), "{seen:?}");
    }
    seen
}

async fn fails(faults: &[Fault]) -> (Error, usize) {
    let (fake, api, stream) = begin(faults).await;
    let error = send(&api, &stream, 10).await.unwrap_err();
    let connections = fake.state().seen.iter().map(|seen| seen.connection).max().unwrap();
    (error, connections)
}

#[tokio::test]
async fn rows_go_over_one_connection_with_the_schema_once() {
    let seen = arrives_once(&[]).await;
    assert_eq!(seen.iter().map(|seen| seen.offset).collect::<Vec<_>>(), (0..30).step_by(3).collect::<Vec<_>>());
    assert!(seen.iter().all(|seen| seen.connection == 1));
}

#[tokio::test]
async fn streams_share_the_room_for_what_is_on_its_way_and_none_waits_for_ever() {
    let (_fake, mut api, one) = begin(&[]).await;
    // For one message at a time.
    api.outgoing = Outgoing::new(1);
    let other = api.create_stream(TABLE).await.unwrap().unwrap().name;
    let both = async { tokio::try_join!(send(&api, &one, 20), send(&api, &other, 20)) };
    let sent = timeout(Duration::from_secs(60), both).await.expect("one waits for what it holds itself");
    assert_eq!(sent.unwrap(), (60, 60));
    assert_eq!(api.outgoing.taken(), 0);
}

#[tokio::test]
async fn a_message_takes_room_until_it_is_acknowledged() {
    let (_fake, api, stream) = begin(&[Fault::Silence]).await;
    let mut encoder = Encoder::new(schema()).unwrap();
    let mut appender = Appender::new(&api, stream, encoder.schema_message().unwrap());
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
    assert!(encoder.push(&RecordBatch::try_new(schema(), vec![ids]).unwrap()).unwrap().is_empty());
    let message = encoder.finish().unwrap().pop().unwrap();
    let bytes = message.bytes.len();
    appender.append(message).await.unwrap();
    // And two frames like it while these are made.
    assert_eq!(api.outgoing.taken(), (3 * bytes).next_multiple_of(1 << 10));
    drop(appender);
    assert_eq!(api.outgoing.taken(), 0);
}

#[tokio::test]
async fn a_stream_takes_acknowledgements_while_it_waits_for_its_next_message() {
    let columns = [Column { name: "id".into(), column_type: ColumnType::Int64 }];
    let (fake, api) = Fake::start(&columns);
    // The first connection is lost with the rows.
    fake.state().faults.push_back(Fault::CutBefore);
    let mut encoder = Encoder::new(schema()).unwrap();
    let (queue, streams) = streams::begin(&api, TABLE, &columns, encoder.schema_message().unwrap());
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
    encoder.push(&RecordBatch::try_new(schema(), vec![ids]).unwrap()).unwrap();
    let message = encoder.finish().unwrap().pop().unwrap();
    let give_back = async {
        queue.push(message).await.unwrap();
        while fake.state().seen.is_empty() || api.outgoing.taken() > 0 {
            tokio::task::yield_now().await;
        }
        drop(queue);
    };
    let both = async { tokio::join!(streams.write(), give_back) };
    let (written, ()) =
        timeout(Duration::from_secs(60), both).await.expect("its room comes back before the batch ends");
    assert_eq!(written.unwrap().iter().map(|stream| stream.rows).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn rows_lost_with_a_connection_are_sent_again_with_the_schema() {
    let seen = arrives_once(&[Fault::None, Fault::None, Fault::CutBefore]).await;
    let again = seen.iter().find(|seen| seen.connection == 2).unwrap();
    assert_eq!((again.offset, again.with_schema), (6, true));
}

#[tokio::test]
async fn rows_written_before_the_connection_was_lost_are_not_doubled() {
    let seen = arrives_once(&[Fault::None, Fault::CutAfter, Fault::None, Fault::CutAfter]).await;
    assert!(seen.iter().filter(|seen| seen.offset == 3).count() == 2, "{seen:?}");
}

#[tokio::test]
async fn an_offset_that_exists_counts_as_written_also_where_it_ends_the_connection() {
    let ends = Fault::End(Status::already_exists("written"));
    arrives_once(&[Fault::CutAfter, ends]).await;
}

#[tokio::test]
async fn an_error_inside_an_answer_that_passes_is_tried_again() {
    arrives_once(&[Fault::None, Fault::Answer(refused(Code::Unavailable, "busy"))]).await;
    arrives_once(&[Fault::Answer(refused(Code::ResourceExhausted, "quota"))]).await;
    arrives_once(&[Fault::End(Status::unauthenticated("the token ran out"))]).await;
}

#[tokio::test]
async fn an_answer_that_tells_only_of_a_new_schema_acknowledges_nothing() {
    let (fake, mut api, stream) = begin(&[Fault::Answer(AppendRowsResponse::default())]).await;
    api.pacing.acknowledge_max = Duration::from_millis(100);
    assert_eq!(send(&api, &stream, 1).await.unwrap(), 3);
    assert_eq!(kept(&fake, &stream), [0, 1, 2]);
    assert_eq!(fake.state().seen.len(), 2);
}

#[tokio::test]
async fn rows_that_are_not_acknowledged_in_time_are_sent_again() {
    let (fake, mut api, stream) = begin(&[Fault::None, Fault::Silence]).await;
    api.pacing.acknowledge_max = Duration::from_millis(100);
    assert_eq!(send(&api, &stream, 2).await.unwrap(), 6);
    assert_eq!(kept(&fake, &stream), (0..6).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_never_takes_rows_ends_the_attempt() {
    let (error, connections) = fails(&vec![Fault::CutBefore; 99]).await;
    assert_eq!((error.kind(), connections), (Kind::Retry, 4));
    assert!(error.report().contains("cut"), "{}", error.report());
}

#[tokio::test]
async fn a_gap_ends_the_attempt() {
    let (error, _) = fails(&[Fault::None, Fault::Answer(refused(Code::OutOfRange, "a gap"))]).await;
    assert_eq!(error.kind(), Kind::Retry);
}

#[tokio::test]
async fn a_row_that_bigquery_does_not_take_is_a_data_error_that_says_which_and_why() {
    let bad = RowError { index: 1, message: "Field amount: out of range".into(), ..Default::default() };
    let answer = AppendRowsResponse { row_errors: vec![bad], ..refused(Code::InvalidArgument, "bad rows") };
    let (error, _) = fails(&[Fault::None, Fault::None, Fault::Answer(answer)]).await;
    assert_eq!(error.kind(), Kind::Data);
    assert!(error.message().contains("row 7 of the batch: Field amount: out of range"), "{error}");
}

#[tokio::test]
async fn what_no_retry_can_help_is_not_tried_again() {
    let (error, connections) = fails(&[Fault::End(Status::permission_denied("no"))]).await;
    assert_eq!((error.kind(), connections), (Kind::User, 1));
}

#[tokio::test]
async fn rows_acknowledged_at_another_offset_end_the_attempt() {
    let result = AppendResult { offset: Some(99) };
    let answer = AppendRowsResponse { response: Some(Response::AppendResult(result)), ..Default::default() };
    let (error, _) = fails(&[Fault::Answer(answer)]).await;
    assert_eq!(error.kind(), Kind::Retry);
}
