//! Opening: what is no change file is refused by name, and every type reads as the plain one SQL sees.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, DictionaryArray, FixedSizeBinaryArray, LargeBinaryArray, LargeStringArray, StringViewArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::datatypes::{DataType, Int8Type, Int32Type, TimeUnit};
use object_store::ObjectStoreExt;

use super::row_groups::read;
use crate::catalog::inflate::StagingLimits;
use crate::catalog::samples::{ROOMY, Shelf, batch, gzip, ints, lines, parquet, texts};
use crate::change::ChangeFile;
use crate::config::CsvConfig;
use crate::error::Kind;

async fn check_refused(path: &str, bytes: Vec<u8>, message: &str) {
    let shelf = Shelf::default();
    let file = shelf.put(path, 1, bytes).await;
    let error = shelf.opener().open(file, &CsvConfig::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Data, "{error}");
    assert!(error.message().contains(message), "{error}");
    assert_eq!(error.place().file, Some(format!("mem/{path}")));
}

#[tokio::test]
async fn what_is_not_what_its_name_says_is_a_data_error_that_names_the_file() {
    let whole = parquet(&batch([("id", ints([1]))]), 10);
    for path in ["a.parquet", "a.parquet.gz", "a.csv", "a.csv.gz"] {
        check_refused(path, vec![], "empty").await;
    }
    check_refused("a.parquet.gz", whole.clone(), "gzip").await;
    check_refused("a.parquet", gzip(&whole), "not readable Parquet").await;
    check_refused("a.parquet.gz", gzip(b"id\n1\n"), "not readable Parquet").await;
    check_refused("a.parquet.gz", gzip(b""), "not readable Parquet").await;
    check_refused("a.parquet", b"PAR1PAR1".to_vec(), "not readable Parquet").await;
    check_refused("a.parquet", b"x".to_vec(), "not readable Parquet").await;
}

#[tokio::test]
async fn a_file_cannot_forge_a_column_of_freshets_own_nor_have_one_twice() {
    for name in ["_cdc_sequence", "_CDC_anything", "__freshet_file_id"] {
        check_refused("a.parquet", parquet(&batch([(name, ints([1]))]), 10), name).await;
        check_refused("a.csv", format!("id,{name}\n1,2\n").into_bytes(), name).await;
    }
    check_refused("a.parquet", parquet(&batch([("id", ints([1])), ("id", ints([2]))]), 10), "two columns").await;
    check_refused("a.csv", b"id,name,id\n1,2,3\n".to_vec(), "two columns").await;
}

#[tokio::test]
async fn a_small_object_is_there_once_it_is_opened_and_one_that_is_large_or_has_no_room_is_read_by_ranges() {
    let number = |row: i64| row.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
    let [small, large] = [1_000, 200_000].map(|rows| parquet(&batch([("id", ints((0..rows).map(number)))]), 50_000));
    assert!(small.len() < 1 << 20 && large.len() > 1 << 20, "{} {}", small.len(), large.len());
    let (s3, disk) = ("s3://bucket/a.parquet", "/data/a.parquet");
    for (content, location, memory_bytes_max, is_there) in [
        (&small, s3, 1 << 20, true),
        (&small, disk, 1 << 20, false),
        (&large, s3, 1 << 30, false),
        (&small, s3, 2 * small.len() as u64 - 1, false),
    ] {
        let shelf = Shelf::default();
        let file = shelf.put("a.parquet", 1, content.clone()).await;
        let file = ChangeFile { location: location.to_owned(), ..file };
        let opener = shelf.opener_within(StagingLimits { memory_bytes_max, ..ROOMY });
        let opened = opener.open(file, &CsvConfig::default()).await.unwrap();
        let rows = read(&opened, vec![0], 10_000).await.unwrap();
        assert_eq!(rows.iter().map(|part| part.rows.len() as u64).sum::<u64>(), opened.rows().unwrap(), "{location}");
        shelf.store.delete(&"a.parquet".into()).await.unwrap();
        let again = read(&opened, vec![0], 10_000).await;
        assert_eq!(again.is_ok(), is_there, "{location}, {} bytes, room for {memory_bytes_max}", content.len());
    }
}

/// A column is read as this type and these values.
async fn check(given: ArrayRef, data_type: DataType, values: &[&str]) {
    let shelf = Shelf::default();
    let opened = shelf.open("a.parquet", 1, parquet(&batch([("x", given.clone())]), 2)).await;
    assert_eq!(opened.schema.field(0).data_type(), &data_type, "{given:?}");
    let got: Vec<_> = read(&opened, vec![0], 10).await.unwrap().into_iter().map(|part| part.columns).collect();
    assert_eq!(lines(&got), values);
    assert!(got.iter().all(|part| part.column(0).data_type() == &data_type));
}

#[tokio::test]
async fn every_type_is_read_in_its_plain_form() {
    let words = [Some("한글"), None, Some("")];
    let read = ["한글", "NULL", ""];
    check(texts(words), DataType::Utf8, &read).await;
    check(Arc::new(LargeStringArray::from_iter(words)), DataType::Utf8, &read).await;
    check(Arc::new(StringViewArray::from_iter(words)), DataType::Utf8, &read).await;
    check(Arc::new(words.into_iter().collect::<DictionaryArray<Int32Type>>()), DataType::Utf8, &read).await;
    check(Arc::new(words.into_iter().collect::<DictionaryArray<Int8Type>>()), DataType::Utf8, &read).await;
    let bytes = [Some(&b"\x01\x02"[..]), None];
    check(Arc::new(LargeBinaryArray::from_iter(bytes)), DataType::Binary, &["0102", "NULL"]).await;
    let zoned = TimestampNanosecondArray::from(vec![Some(1), None]).with_timezone("+09:00");
    let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    check(Arc::new(zoned), utc, &["1970-01-01T00:00:00.000000001Z", "NULL"]).await;
    let seconds = DataType::Timestamp(TimeUnit::Second, None);
    check(Arc::new(TimestampSecondArray::from(vec![60])), seconds, &["1970-01-01T00:01:00"]).await;
    check(Arc::new(arrow::array::NullArray::new(2)), DataType::Null, &["NULL", "NULL"]).await;
}

#[tokio::test]
async fn bytes_of_a_fixed_width_are_read_as_bytes() {
    let bytes = [Some(&b"\x01\x02"[..]), None];
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes.into_iter(), 2).unwrap();
    check(Arc::new(fixed), DataType::FixedSizeBinary(2), &["0102", "NULL"]).await;
}

#[tokio::test]
async fn files_that_differ_only_in_how_strings_are_stored_have_one_schema() {
    let shelf = Shelf::default();
    let plain = shelf.open("a.parquet", 1, parquet(&batch([("x", texts(["a"]))]), 2)).await;
    let views: ArrayRef = Arc::new(StringViewArray::from_iter_values(["b"]));
    let views = shelf.open("b.parquet", 1, parquet(&batch([("x", views)]), 2)).await;
    assert_eq!(plain.schema, views.schema);
    let read = read(&views, vec![0], 10).await.unwrap();
    assert_eq!(read[0].columns.column(0).as_string::<i32>().value(0), "b");
}
