//! Rows come out of their messages as they went in, and no message is too large.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::reader::StreamReader;

use super::*;
use crate::error::Kind;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new(columns::FILE_ID, DataType::Binary, true),
    ]))
}

fn batch(texts: &[Option<String>]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter((0..texts.len()).map(|id| i64::try_from(id).unwrap())));
    let files = BinaryArray::from_iter_values(std::iter::repeat_n([7; 16], texts.len()));
    RecordBatch::try_new(schema(), vec![ids, Arc::new(StringArray::from_iter(texts)), Arc::new(files)]).unwrap()
}

fn messages(encoder: &mut Encoder, batches: &[RecordBatch]) -> Result<Vec<Message>> {
    let mut out = Vec::new();
    for batch in batches {
        out.extend(encoder.push(batch)?);
    }
    out.extend(encoder.finish()?);
    Ok(out)
}

/// Reads messages back as anybody who knows Arrow IPC would.
fn decode(encoder: &mut Encoder, messages: &[Message]) -> RecordBatch {
    let mut stream = encoder.schema_message().unwrap().to_vec();
    messages.iter().for_each(|message| stream.extend_from_slice(&message.bytes));
    let reader = StreamReader::try_new(Cursor::new(stream), None).unwrap();
    let schema = reader.schema();
    let batches: Vec<_> = reader.map(|batch| batch.unwrap()).collect();
    assert_eq!(batches.len(), messages.len());
    concat_batches(&schema, &batches).unwrap()
}

/// Numbers that are the same in every run.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    }
}

#[test]
fn a_thousand_tiny_batches_become_one_message() {
    let mut encoder = Encoder::new(schema()).unwrap();
    let tiny = batch(&[Some("x".into()), None]);
    let batches = vec![tiny; 1_000];
    let messages = messages(&mut encoder, &batches).unwrap();
    assert_eq!(messages.iter().map(|message| message.rows).collect::<Vec<_>>(), [2_000]);
    assert_eq!(decode(&mut encoder, &messages), concat_batches(&schema(), &batches).unwrap());
}

#[test]
fn a_large_batch_is_cut_into_messages_of_about_two_mebibytes() {
    let mut encoder = Encoder::new(schema()).unwrap();
    let large = batch(&vec![Some("x".repeat(1_000)); 20_000]);
    let messages = messages(&mut encoder, std::slice::from_ref(&large)).unwrap();
    assert!((9..=12).contains(&messages.len()), "{}", messages.len());
    assert!(messages.iter().all(|message| message.bytes.len() < 3 * 1024 * 1024));
    assert_eq!(decode(&mut encoder, &messages), large);
}

#[test]
fn whatever_the_rows_no_message_is_too_large_and_no_row_is_lost() {
    for seed in 0..8 {
        let mut next = numbers(seed);
        let batches: Vec<_> = (0..next(12))
            .map(|_| {
                let row = |next: &mut dyn FnMut(usize) -> usize| match next(40) {
                    0 => None,
                    1 => Some("한".repeat(next(900_000))),
                    _ => Some("y".repeat(next(2_000))),
                };
                let rows: Vec<_> = (0..next(60)).map(|_| row(&mut next)).collect();
                let whole = batch(&rows);
                // A slice has buffers that begin elsewhere.
                whole.slice(rows.len() / 3, rows.len() - rows.len() / 3)
            })
            .collect();
        let mut encoder = Encoder::new(schema()).unwrap();
        let messages = messages(&mut encoder, &batches).unwrap();
        assert!(messages.iter().all(|message| message.bytes.len() <= MESSAGE_BYTES_MAX), "seed {seed}");
        assert_eq!(decode(&mut encoder, &messages), concat_batches(&schema(), &batches).unwrap(), "seed {seed}");
    }
}

#[test]
fn what_is_too_large_when_measured_is_halved_until_it_fits() {
    let mut encoder = Encoder::new(schema()).unwrap();
    encoder.message_bytes_max = 2_000;
    let rows = batch(&vec![Some("z".repeat(700)); 9]);
    let messages = messages(&mut encoder, std::slice::from_ref(&rows)).unwrap();
    assert!(messages.len() >= 5 && messages.iter().all(|message| message.bytes.len() <= 2_000), "{messages:?}");
    assert_eq!(decode(&mut encoder, &messages), rows);
}

#[test]
fn a_row_larger_than_a_request_is_a_data_error_that_names_file_size_and_column() {
    let mut encoder = Encoder::new(schema()).unwrap();
    let rows = batch(&[Some("a".into()), Some("b".repeat(MESSAGE_BYTES_MAX + 1)), Some("c".into())]);
    let error = messages(&mut encoder, &[rows]).unwrap_err();
    assert_eq!(error.kind(), Kind::Data);
    assert!(error.message().contains("07070707070707070707070707070707"), "{error}");
    assert!(error.hint_text().unwrap().contains("`text`"), "{error:?}");
}

#[test]
fn rows_of_another_schema_are_refused() {
    let mut encoder = Encoder::new(schema()).unwrap();
    let field = Field::new("id", DataType::Int32, true);
    let other = RecordBatch::new_empty(Arc::new(Schema::new(vec![field])));
    assert_eq!(encoder.push(&other).unwrap_err().kind(), Kind::Bug);
}

#[test]
fn no_rows_are_no_messages() {
    let mut encoder = Encoder::new(schema()).unwrap();
    assert!(messages(&mut encoder, &[batch(&[])]).unwrap().is_empty());
}
