//! What is written is what was given, with what the sink adds, in streams that know every column.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, ListArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Int64Type, SchemaRef};
use chrono::DateTime;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use tonic::Status;

use super::*;
use crate::change::types::ColumnType;
use crate::error::Kind;
use crate::sink::bigquery::fake::{Fake, TABLE};

/// The columns of the rows, without what the sink adds.
fn data() -> Vec<Column> {
    vec![
        Column { name: "id".into(), column_type: ColumnType::Int64 },
        Column { name: "tags".into(), column_type: ColumnType::Array(Box::new(ColumnType::Int64)) },
    ]
}

fn log_columns() -> Vec<Column> {
    data().into_iter().chain(columns::added_to_changes()).collect()
}

fn log() -> LogRows {
    let attempt = Attempt { id: "a1".into(), loaded_at: DateTime::UNIX_EPOCH };
    LogRows::new(&data(), &log_columns(), &attempt).unwrap()
}

fn schema() -> SchemaRef {
    let fields = columns::arrow_schema(&data()).fields().to_vec();
    let file = Arc::new(Field::new(columns::FILE_ID, arrow::datatypes::DataType::Binary, true));
    Arc::new(arrow::datatypes::Schema::new(fields.into_iter().chain([file]).collect::<Vec<_>>()))
}

fn batch(ids: std::ops::Range<i64>) -> RecordBatch {
    let tags = ids.clone().map(|id| (id % 2 == 0).then(|| vec![Some(id)]));
    let tags: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(tags));
    let files = BinaryArray::from_iter_values(ids.clone().map(|_| [1; 16]));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_new(schema(), vec![ids, tags, Arc::new(files)]).unwrap()
}

fn stream(batches: Vec<Result<RecordBatch, DataFusionError>>) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema(), futures::stream::iter(batches)))
}

async fn write(api: &WriteApi, batches: Vec<Result<RecordBatch, DataFusionError>>) -> Result<Written> {
    write_rows(api, TABLE, &log(), batch(0..3), stream(batches)).await
}

#[tokio::test]
async fn rows_stand_in_a_finalized_stream_with_what_the_sink_adds() {
    let (fake, api) = Fake::start(&log_columns());
    let written = write(&api, vec![Ok(batch(3..3)), Ok(batch(3..7)), Ok(batch(7..8))]).await.unwrap();
    assert_eq!(written.streams, [StagedStream { name: format!("{TABLE}/streams/s0"), rows: 8 }]);
    assert!(written.bytes > 0);
    let state = fake.state();
    let kept = &state.streams[&written.streams[0].name];
    assert!(kept.finalized && !kept.committed);
    let rows = concat_batches(&kept.batches[0].schema(), &kept.batches).unwrap();
    assert_eq!(rows.column(0).as_primitive::<Int64Type>().values().to_vec(), (0..8).collect::<Vec<_>>());
    assert_eq!(rows.column_by_name("tags").unwrap().null_count(), 0);
    assert_eq!(rows.column_by_name(columns::BATCH).unwrap().as_string::<i32>().value(7), "a1");
    assert_eq!(rows.column_by_name(columns::FILE_ID).unwrap().as_binary::<i32>().value(7), [1; 16]);
}

/// Writes more rows than one stream may have on their way; they are all there, each once.
async fn write_many(fake: &Fake, api: &WriteApi) -> Vec<StagedStream> {
    const ROWS: i64 = 400_000;
    let more = (3..ROWS).step_by(10_000).map(|first| Ok(batch(first..(first + 10_000).min(ROWS))));
    let written = write(api, more.collect()).await.unwrap();
    assert_eq!(written.streams.iter().map(|stream| stream.rows).sum::<u64>(), ROWS as u64);
    let state = fake.state();
    let kept = written.streams.iter().flat_map(|stream| &state.streams[&stream.name].batches);
    let mut ids: Vec<i64> =
        kept.flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..ROWS).collect::<Vec<_>>());
    assert!(written.streams.iter().all(|stream| state.streams[&stream.name].finalized));
    written.streams
}

#[tokio::test]
async fn rows_that_come_faster_than_a_stream_takes_them_go_into_several_each_once() {
    let (fake, api) = Fake::start(&log_columns());
    fake.state().acknowledges_after_creations = 2;
    let streams = write_many(&fake, &api).await;
    assert!((2..=super::streams::STREAMS_MAX).contains(&streams.len()), "{streams:?}");
}

#[tokio::test]
async fn a_further_stream_that_was_refused_is_asked_for_again_while_rows_wait() {
    let (fake, api) = Fake::start(&log_columns());
    // More than there are streams, so that a refused one must not count; no row is acknowledged before the one after them.
    fake.state().further_refused = super::streams::STREAMS_MAX + 2;
    fake.state().acknowledges_after_creations = super::streams::STREAMS_MAX + 4;
    let streams = write_many(&fake, &api).await;
    assert!(streams.len() > 1, "{streams:?}");
    assert_eq!(fake.state().further_refused, 0);
}

#[tokio::test]
async fn where_no_further_stream_can_be_made_the_first_takes_all() {
    let (fake, api) = Fake::start(&log_columns());
    fake.state().acknowledges_after_creations = 2;
    fake.state().streams_max = Some(1);
    assert_eq!(write_many(&fake, &api).await.len(), 1);
}

#[tokio::test]
async fn no_row_is_written_before_the_api_knows_every_column() {
    let (fake, api) = Fake::start(&log_columns());
    fake.state().last_column_unknown = 3;
    let written = write(&api, vec![]).await.unwrap();
    // The first stream does not know the column, two looks do not, the third does; the second stream does.
    assert_eq!((fake.calls("create"), fake.calls("get")), (2, 3));
    let state = fake.state();
    assert_eq!(state.streams[&format!("{TABLE}/streams/s0")].rows(), 0);
    assert_eq!(state.streams[&written.streams[0].name].rows(), 3);
}

#[tokio::test]
async fn a_column_that_stays_unknown_is_worth_another_try_later_and_is_named() {
    let (fake, mut api) = Fake::start(&log_columns());
    fake.state().last_column_unknown = usize::MAX;
    api.pacing.visible_max = Duration::from_millis(50);
    let error = write(&api, vec![]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.message().contains("`_cdc_file_id`"), "{error}");
}

#[tokio::test]
async fn a_table_just_made_is_waited_for_and_a_denied_one_is_not() {
    let (fake, api) = Fake::start(&log_columns());
    fake.state().creations.push_back(Status::not_found("no such table"));
    assert_eq!(write(&api, vec![]).await.unwrap().streams[0].rows, 3);
    fake.state().creations.push_back(Status::permission_denied("no"));
    assert_eq!(write(&api, vec![]).await.unwrap_err().kind(), Kind::User);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_for_a_stream() {
    let (fake, api) = Fake::start(&log_columns());
    fake.state().creations.extend([Status::unavailable("busy"), Status::resource_exhausted("quota")]);
    assert_eq!(write(&api, vec![]).await.unwrap().streams[0].rows, 3);
    fake.state().creations.extend(std::iter::repeat_n(Status::unavailable("busy"), 9));
    assert_eq!(write(&api, vec![]).await.unwrap_err().kind(), Kind::Retry);
}

#[tokio::test]
async fn a_stream_that_counts_other_rows_than_were_sent_is_left_to_lapse() {
    let (fake, api) = Fake::start(&log_columns());
    fake.state().row_count = Some(2);
    let error = write(&api, vec![]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(error.message().contains("2 rows") && error.message().contains('3'), "{error}");
}

#[tokio::test]
async fn an_error_of_the_rows_comes_back_as_it_was() {
    let (fake, api) = Fake::start(&log_columns());
    let ours = Error::data("row 3 is bad").in_file("f").hint("mend it");
    let error = write(&api, vec![Ok(batch(3..4)), Err(ours.into())]).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Data, "row 3 is bad"));
    assert_eq!(error.place().file.as_deref(), Some("f"));
    assert_eq!(fake.calls("finalize"), 0);
}

#[test]
fn the_columns_told_to_the_ledger_are_those_of_the_rows() {
    assert_eq!(data_columns(log_columns()), data());
}
